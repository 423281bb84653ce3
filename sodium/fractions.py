"""How much grey matter, white matter and fluid a voxel holds: volumes, not probabilities."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.brain import Mask

TISSUES = ("GM", "WM", "CSF")
MIXTURE_STEPS = 12  # intervals along an edge of the simplex, before averaging
MIXTURE_WEIGHT = 0.6  # prior mass of one pair over that of one tissue: more blurs pure voxels
SPREAD_RATIO = 2.0  # noise is common to all: a wider spread is mixtures, vessels, flow
OUTLIER_DENSITY = 1e-4  # floor of the likelihood: no intensity can outvote every prior
PRIOR_FLOOR = 0.01  # an atlas never excludes a tissue: ventricles grow, cortex thins
ATLAS_WEIGHT, NEIGHBOUR_WEIGHT = 0.6, 1.0  # exponents of the two priors
NEIGHBOUR_SCALE = 1.0  # mm, Gaussian SD: a sulcus is 2 mm wide
LOCAL_SCALE = 12.0  # mm, Gaussian SD: half a thalamus
LOCAL_WEIGHT = 0.02  # share of pure voxels below which the overall mean takes over
ITERATIONS = 4  # a fifth changes no fraction by 0.001 on average
FLUID_CONTRAST_TO_NOISE = 3.0  # grey matter against fluid; below, a voxel does not tell which
LEARN_VOXELS = 200_000  # enough for a median to a thousandth of the spread
CHUNK = 50_000  # voxels per block, keeps the likelihood in the cache


class TissueModel(NamedTuple):
    """Intensities of the pure tissues.

    Parameters
    ----------
    means
        Shape (..., tissues), in the units of the image.
    spreads
        Standard deviation of the pure tissues, shape (tissues,).
    """

    means: Floats
    spreads: Floats


def mixtures(n_tissues: int, steps: int = MIXTURE_STEPS) -> tuple[Floats, Floats]:
    """List pure voxels and those of two tissues, evenly spaced.

    Parameters
    ----------
    n_tissues
        Number of tissues.
    steps
        Intervals between two pure tissues.

    Returns
    -------
    fractions
        Shape (candidates, tissues), rows sum to one.
    weights
        Prior mass of each, shape (candidates,).

    Examples
    --------
    >>> fractions, weights = mixtures(3, 2)
    >>> fractions.tolist()[3:]
    [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    """
    pure = np.eye(n_tissues)
    shares = np.arange(1, steps)[:, None] / steps
    edges = [
        (1 - shares) * pure[a] + shares * pure[b] for a, b in combinations(range(n_tissues), 2)
    ]
    weights = np.full(n_tissues + len(edges) * (steps - 1), MIXTURE_WEIGHT / (steps - 1))
    weights[:n_tissues] = 1.0
    return np.concatenate([pure, *edges]), weights


def mixture_fractions(intensity: Floats, model: TissueModel, log_prior: Floats) -> Floats:
    """Return the expected tissue fractions of voxels that hold one tissue or two.

    The signal of a voxel is the mean of its tissues' signals weighted by volume, so between two
    tissues the fraction is linear in intensity; the prior decides which pair it is, and takes over
    where the tissues do not differ. A posterior probability of a class would not be a volume.

    Parameters
    ----------
    intensity
        Shape (voxels,).
    model
        Means of shape (voxels, tissues) or (tissues,), same unit as the intensity.
    log_prior
        Logarithm of the expected fraction of each tissue, shape (voxels, tissues).

    Returns
    -------
    fractions
        Shape (voxels, tissues), in [0, 1], sum one.

    References
    ----------
    Tohka et al. 2004, doi:10.1016/j.neuroimage.2004.05.007

    Examples
    --------
    >>> model = TissueModel(np.array([60.0, 100.0, 10.0]), np.full(3, 0.5))
    >>> edge_of_white_matter = np.log([[0.5, 0.5, 1e-9]])
    >>> mixture_fractions(np.array([80.0]), model, edge_of_white_matter)[0].round(2).tolist()
    [0.5, 0.5, 0.0]
    """
    blocks = range(0, intensity.size, CHUNK)
    means = np.broadcast_to(model.means, log_prior.shape)
    return np.concatenate(
        [
            _mixture_block(
                intensity[i : i + CHUNK],
                TissueModel(means[i : i + CHUNK], model.spreads),
                log_prior[i : i + CHUNK],
            )
            for i in blocks
        ]
    )


def _mixture_block(intensity: Floats, model: TissueModel, log_prior: Floats) -> Floats:
    """Average the candidates of a block of voxels, weighted by their posterior."""
    candidates, weights = (part.astype(np.float32) for part in mixtures(log_prior.shape[1]))
    contrast = np.ptp(model.means, axis=1).max() if len(intensity) else 1.0
    variance = candidates @ model.spreads.astype(np.float32) ** 2
    variance += np.float32((0.5 * contrast / MIXTURE_STEPS) ** 2)
    misfit = intensity[:, None].astype(np.float32) - model.means.astype(np.float32) @ candidates.T
    density = np.exp(-0.5 * misfit**2 / variance) / np.sqrt(variance / variance.mean())
    # A pair needs both tissues nearby, however little a voxel holds of one: weighted by share, a
    # trace of fluid would cost next to nothing, and explain grey matter beside white matter.
    present = (candidates > 0).astype(np.float32)
    present /= present.sum(axis=1, keepdims=True)
    prior = np.exp(log_prior.astype(np.float32) @ present.T) * weights
    posterior = (density + np.float32(OUTLIER_DENSITY)) * prior
    return (posterior @ candidates) / posterior.sum(axis=1, keepdims=True)


def _weighted_median(values: Floats, weights: Floats) -> float:
    """Return the value that splits the weights in half."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])


def tissue_model(intensity: Floats, fractions: Floats, used: Mask) -> TissueModel:
    """Estimate the pure intensities from the voxels that hold one tissue.

    Parameters
    ----------
    intensity
        Shape (voxels,).
    fractions
        Present estimate, shape (voxels, tissues).
    used
        Voxels to learn from, shape (voxels,); lesions are left out.

    Returns
    -------
    model
        Medians and robust standard deviations (1.4826 times the median absolute deviation, at
        most twice that of the narrowest tissue).

    Raises
    ------
    ValueError
        If no voxel can be used, or all have the same intensity.

    Examples
    --------
    >>> intensity = np.array([9.0, 10.0, 11.0, 20.0, 21.0, 19.0])
    >>> fractions = np.repeat(np.eye(2), 3, axis=0)
    >>> tissue_model(intensity, fractions, np.ones(6, bool)).means.tolist()
    [10.0, 20.0]
    """
    if not used.any() or np.ptp(intensity[used]) == 0:
        raise ValueError("no contrast inside the brain mask: all voxels are alike or left out")
    every = slice(None, None, max(1, used.size // LEARN_VOXELS))
    intensity, fractions, used = intensity[every], fractions[every], used[every]
    purity = np.where(used[:, None], fractions, 0) ** 4  # a mixture of halves counts 1/16
    purity = np.where(fractions > 0.9 * purity.max(axis=0) ** 0.25, purity, 0)
    means = [_weighted_median(intensity, weight) for weight in purity.T]
    spreads = [
        1.4826 * _weighted_median(np.abs(intensity - mean), weight)
        for mean, weight in zip(means, purity.T, strict=True)
    ]
    floor = max(0.01 * float(np.ptp(intensity[used])), min(spreads))
    return TissueModel(np.array(means), np.clip(spreads, floor, SPREAD_RATIO * floor))


def fluid_warning(model: TissueModel) -> str:
    """Say so if grey matter and fluid look alike, so that no fraction of fluid can be trusted.

    Parameters
    ----------
    model
        Of GM, WM and CSF, in this order.

    Returns
    -------
    warning
        Empty if the contrast suffices.

    Examples
    --------
    >>> fluid_warning(TissueModel(np.array([60.0, 100.0, 10.0]), np.full(3, 4.0)))
    ''
    >>> fluid_warning(TissueModel(np.array([60.0, 50.0, 65.0]), np.full(3, 4.0)))
    'grey matter and fluid look alike in the 1H image (contrast 1.2 times the noise, 3 are needed)'
    """
    grey, _, fluid = model.means
    ratio = abs(fluid - grey) / np.mean(model.spreads[[0, 2]])
    if ratio >= FLUID_CONTRAST_TO_NOISE:
        return ""
    return (
        f"grey matter and fluid look alike in the 1H image (contrast {ratio:.1f} times the noise, "
        f"{FLUID_CONTRAST_TO_NOISE:.0f} are needed)"
    )


def smooth_mean(values: Floats, weights: Floats, voxel_size: Floats, scale: float) -> Floats:
    """Return the weighted mean of a neighbourhood, drawn to the overall mean where weight lacks.

    Parameters
    ----------
    values, weights
        Shape (x, y, z).
    voxel_size
        Shape (3,) [mm].
    scale
        Standard deviation of the Gaussian neighbourhood [mm].

    Returns
    -------
    mean
        Shape (x, y, z), in the units of the values.

    Examples
    --------
    >>> ramp = np.broadcast_to(np.arange(40.0)[:, None, None], (40, 8, 8))
    >>> local = smooth_mean(ramp, np.ones_like(ramp), np.full(3, 2.0), 8.0)
    >>> bool(local[5, 4, 4] < 10 < 30 < local[35, 4, 4])
    True
    """
    overall = (values * weights).sum() / max(weights.sum(), 1e-6)
    factors = np.maximum(np.round(scale / 3 / voxel_size), 1).astype(int)
    sigma = scale / (voxel_size * factors)
    weight = ndimage.gaussian_filter(_block_mean(weights, factors), sigma)
    excess = ndimage.gaussian_filter(_block_mean((values - overall) * weights, factors), sigma)
    coarse = excess / (weight + LOCAL_WEIGHT)
    centres = [
        (np.arange(n) - (k - 1) / 2) / k for n, k in zip(values.shape, factors, strict=True)
    ]
    grid = np.meshgrid(*centres, indexing="ij")
    return overall + ndimage.map_coordinates(coarse, grid, order=1, mode="nearest")


def _block_mean(values: Floats, factors: NDArray[np.integer]) -> Floats:
    """Average blocks of ``factors`` voxels, the last ones padded with zeros."""
    padded = np.pad(values, [(0, -n % k) for n, k in zip(values.shape, factors, strict=True)])
    shape = [part for n, k in zip(padded.shape, factors, strict=True) for part in (n // k, k)]
    return padded.reshape(shape).mean(axis=(1, 3, 5))


def fit_fractions(
    image: Floats, priors: Floats, mask: Mask, voxel_size: Floats, lesion: Mask | None = None
) -> Floats:
    """Estimate the volume fractions of tissues in every voxel of a 1H image of any contrast.

    Pure intensities, local ones (deep grey matter, residual bias) and the fractions of the
    neighbourhood are estimated in turn, starting from the priors.

    Parameters
    ----------
    image
        Bias-corrected image, shape (x, y, z), any unit.
    priors
        Expected fractions from a registered atlas, shape (x, y, z, tissues).
    mask
        Brain, shape (x, y, z).
    voxel_size
        Shape (3,) [mm].
    lesion
        What the intensities are not learnt from, shape (x, y, z).

    Returns
    -------
    fractions
        Shape (x, y, z, tissues), in [0, 1], sum one inside the mask and zero outside, float32.

    Raises
    ------
    ValueError
        If the mask is empty, the image is not finite, or has no contrast in the mask.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = np.zeros((12, 12, 12, 2))
    >>> truth[..., 0] = np.clip((np.arange(12) - 3) / 6, 0, 1)[:, None, None]
    >>> truth[..., 1] = 1 - truth[..., 0]
    >>> image = truth @ [100.0, 50.0] + rng.normal(0, 0.5, (12, 12, 12))
    >>> mask = np.ones((12, 12, 12), bool)
    >>> found = fit_fractions(image, 0.5 * truth + 0.25, mask, np.ones(3))
    >>> bool(np.abs(found - truth).max() < 0.1)
    True
    """
    if not mask.any():
        raise ValueError("the brain mask is empty")
    if not np.isfinite(image[mask]).all():
        raise ValueError("the image holds NaN or infinite values inside the brain mask")
    box = ndimage.find_objects(mask.astype(int))[0]
    learn = mask if lesion is None else mask & ~lesion
    found = np.zeros(priors.shape, np.float32)
    found[box] = _alternate(image[box], _floored(priors[box]), mask[box], learn[box], voxel_size)
    return found


def _floored(priors: Floats) -> Floats:
    """Make priors sum to one with no tissue excluded."""
    floored = np.maximum(priors, PRIOR_FLOOR)
    return floored / floored.sum(axis=-1, keepdims=True)


def _alternate(
    image: Floats, priors: Floats, mask: Mask, learn: Mask, voxel_size: Floats
) -> Floats:
    """Alternate between intensities and fractions inside a box."""
    fractions = np.where(mask[..., None], priors, 0).astype(np.float32)
    log_atlas = np.log(priors[mask])
    log_prior = log_atlas
    for _ in range(ITERATIONS):
        model = tissue_model(image[mask], fractions[mask], learn[mask])
        local = _local_means(image, fractions * learn[..., None], model, voxel_size)
        fractions[mask] = mixture_fractions(
            image[mask], TissueModel(local[mask], model.spreads), log_prior
        )
        near = _neighbourhood(fractions, voxel_size)[mask]
        log_prior = ATLAS_WEIGHT * log_atlas + NEIGHBOUR_WEIGHT * np.log(np.maximum(near, 0.01))
    return fractions


def _local_means(
    image: Floats, fractions: Floats, model: TissueModel, voxel_size: Floats
) -> Floats:
    """Pure intensities near each voxel, shape (x, y, z, tissues)."""
    local = []
    for tissue, (mean, spread) in enumerate(zip(model.means, model.spreads, strict=True)):
        typical = np.abs(image - mean) < 3 * spread
        pure = typical * np.clip(fractions[..., tissue] * 20 - 18, 0, 1)
        # relative to the mean, which stands where no voxel is pure yet, as with a vague prior
        local.append(mean + smooth_mean(image - mean, pure, voxel_size, LOCAL_SCALE))
    return np.stack(local, axis=-1)


def _neighbourhood(fractions: Floats, voxel_size: Floats) -> Floats:
    """Mean fractions around each voxel, relative to what of the brain is there."""
    sigma = np.maximum(NEIGHBOUR_SCALE / voxel_size, 0.5)
    near = np.stack(
        [
            ndimage.gaussian_filter(part, sigma, truncate=2.5)
            for part in np.moveaxis(fractions, -1, 0)
        ],
        axis=-1,
    )
    return near / np.maximum(near.sum(axis=-1, keepdims=True), 1e-6)
