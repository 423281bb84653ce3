"""Uncertainty of corrected maps: what the noise of the image becomes.

The noise of an image reaches a corrected voxel twice: through the voxel itself, and through the
regional values, which are sums over many voxels. Both are correlated, since the noise of
neighbours is. For methods with derivatives all of it is propagated to first order, exactly in the
correlation; for others, seeded draws of the noise run through the method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.noise import ImageNoise, covariance_with_voxels, weighted_covariance
from sodiumprep.sodium.pvc.regional import mixing_matrix
from sodiumprep.sodium.pvc.shown import Regions
from sodiumprep.sodium.pvc.voxelwise import CorrectedMap, free_regions, purest_voxels

LEAST_DRAWS = 4

# From coefficients u, shape (regions,), to the voxel weights w, shape (nx, ny, nz), for which
# the sum of w times the image is the sum of u times the regional values.
Weights = Callable[[Floats], Floats]


def gtm_weights(regions: Regions) -> Weights:
    """Return the voxel weights behind the values of the geometric transfer matrix.

    Parameters
    ----------
    regions
        What the image is made of.

    Returns
    -------
    weights
        Of any combination of the values.
    """
    unmixing = np.linalg.inv(mixing_matrix(regions)) / regions.sizes
    return lambda coefficients: regions.composed(coefficients @ unmixing)


def labbe_weights(regions: Regions, noise: ImageNoise | None) -> Weights:
    """Return the voxel weights behind the values of weighted least squares.

    Parameters
    ----------
    regions
        What the image is made of.
    noise
        Whose inverse variance weighted the voxels; None for equal weights.

    Returns
    -------
    weights
        Of any combination of the values.
    """
    if noise is None:
        inverse = np.linalg.inv(regions.shown_overlap())
        return lambda coefficients: regions.shown(coefficients @ inverse)
    precision = noise.noise_sd.astype(np.float64) ** -2
    precision = (precision / precision.mean()).astype(np.float32)
    inverse = np.linalg.inv(regions.shown_overlap(precision))
    return lambda coefficients: precision * regions.shown(coefficients @ inverse)


def purest_weights(regions: Regions, target: str) -> Weights:
    """Return the voxel weights behind the values of Müller-Gärtner's method.

    Parameters
    ----------
    regions
        What the image is made of.
    target
        Name of the tissue of the map. Its own value does not reach the map: it counts as 0.

    Returns
    -------
    weights
        Of any combination of the values.
    """
    cores, unmixing = purest_voxels(regions)
    shape = next(iter(regions.each()))[0].shape
    used = np.array([name != target for name in regions.names])

    def weights(coefficients: Floats) -> Floats:
        spread = np.zeros(shape, np.float32)
        flat = spread.reshape(-1)
        for core, share in zip(cores, (coefficients * used) @ unmixing, strict=True):
            flat[core] += share / len(core)
        return spread

    return weights


def yang_weights(
    corrected: CorrectedMap,
    regions: Regions,
    fixed: Sequence[str] = (),
    fed: Weights | None = None,
) -> Weights:
    """Return the voxel weights, to first order, behind the values of iterative Yang.

    Parameters
    ----------
    corrected
        From :func:`sodiumprep.sodium.pvc.voxelwise.iterative_yang`, at rest.
    regions
        What the image is made of.
    fixed
        Names of regions that kept their signals.
    fed
        Weights behind these signals; needed where there are any.

    Returns
    -------
    weights
        Of any combination of the values. The values shape the map from which they come: the
        fixed point is solved for.

    Raises
    ------
    ValueError
        If there are fixed regions without weights.
    """
    free = free_regions(regions, fixed)
    if not free.all() and fed is None:
        raise ValueError("regions keep their signals; give the weights behind those")
    overlap, response = regions.overlap(), _response(corrected, regions)
    unmixing = np.linalg.inv(overlap[np.ix_(free, free)])
    feedback = unmixing @ response[np.ix_(free, free)]
    resting = np.linalg.solve(np.eye(len(feedback)) - feedback, unmixing)
    from_fixed = (response - overlap)[np.ix_(free, ~free)]

    def weights(coefficients: Floats) -> Floats:
        rows = np.zeros(len(free))
        rows[free] = coefficients[free] @ resting
        own = corrected.by_image * regions.composed(rows)
        if fed is None:
            return own
        held = np.zeros(len(free))
        held[~free] = coefficients[~free] + rows[free] @ from_fixed
        return own + fed(held)

    return weights


def unmixed_weights(corrected: CorrectedMap, regions: Regions, weights: Weights) -> Weights:
    """Return the voxel weights behind the values that are unmixed from a corrected map.

    Parameters
    ----------
    corrected
        A map whose regional values are
        :func:`sodiumprep.sodium.pvc.regional.unmixed_values`.
    regions
        What the image is made of.
    weights
        Behind the regional values that the map rests on.

    Returns
    -------
    weights
        To first order, of any combination of the map's regional values.
    """
    return _through_map(corrected, regions, weights, np.linalg.inv(regions.overlap()))


def target_weights(
    corrected: CorrectedMap, regions: Regions, weights: Weights, target: str
) -> Weights:
    """Return the voxel weights behind the mean of a map of one tissue.

    Parameters
    ----------
    corrected
        From :func:`sodiumprep.sodium.pvc.voxelwise.mueller_gaertner`.
    regions
        What the image is made of.
    weights
        From :func:`purest_weights`.
    target
        Name of the tissue.

    Returns
    -------
    weights
        Of :func:`sodiumprep.sodium.pvc.voxelwise.target_mean`, times a coefficient of shape (1,).
    """
    index = list(regions.names).index(target)
    inside = (corrected.by_image != 0).astype(corrected.image.dtype)
    mean = np.zeros((1, len(regions.names)))
    mean[0, index] = 1 / regions.totals(inside)[index]
    return _through_map(corrected, regions, weights, mean)


def _through_map(
    corrected: CorrectedMap, regions: Regions, weights: Weights, rows: Floats
) -> Weights:
    """Return the weights of the sums of a map times ``rows @ m``."""
    by_values = rows @ _response(corrected, regions)
    return lambda coefficients: (
        corrected.by_image * regions.composed(coefficients @ rows)
        + weights(coefficients @ by_values)
    )


def _response(corrected: CorrectedMap, regions: Regions) -> Floats:
    """Return how the totals of a map over regions follow the values, shape (regions, regions)."""
    return np.stack(
        [
            regions.totals(corrected.by_fraction * m + corrected.by_shown * b)
            for m, b in regions.each()
        ],
        axis=1,
    )


def regional_covariance(weights: Weights, n_values: int, noise: ImageNoise) -> Floats:
    """Return the covariance of regional values from the noise of the image.

    Parameters
    ----------
    weights
        Behind the values.
    n_values
        How many there are.
    noise
        Of the image.

    Returns
    -------
    covariance
        Shape (n_values, n_values).
    """
    rows = np.stack([weights(one) for one in np.eye(n_values)])
    return weighted_covariance(rows, noise)


def map_sd(
    corrected: CorrectedMap, regions: Regions, weights: Weights, noise: ImageNoise
) -> Floats:
    """Return the standard deviation of each corrected voxel from the noise of the image.

    Parameters
    ----------
    corrected
        The map.
    regions
        What the image is made of.
    weights
        Behind the regional values that the map rests on.
    noise
        Of the image.

    Returns
    -------
    sd
        To first order, shape (nx, ny, nz). The noise of the regional values, and how it goes
        with that of the voxel, are in it; one blur for each region and mode. Nothing of the noise
        correlation is neglected; what neighbours share is not told.

    References
    ----------
    Joint Committee for Guides in Metrology 2008, JCGM 100, section 5.2
    """
    rows = np.stack([weights(one) for one in np.eye(len(regions.names))])
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    covariance = np.zeros((len(rows), len(rows)))
    shared = np.zeros(corrected.image.shape)
    for j, (fraction, blurred) in enumerate(regions.each()):
        with_voxel = covariance_with_voxels(rows[j], noise)
        covariance[:, j] = flat @ with_voxel.ravel()
        shared += (corrected.by_fraction * fraction + corrected.by_shown * blurred) * with_voxel
    variance = (corrected.by_image * noise.noise_sd) ** 2 + 2 * corrected.by_image * shared
    for column in _root(covariance).T:
        variance += (
            corrected.by_fraction * regions.composed(column)
            + corrected.by_shown * regions.shown(column)
        ) ** 2
    return np.sqrt(np.maximum(variance, 0)).astype(corrected.image.dtype)


def _root(covariance: Floats) -> Floats:
    """Return K with ``K K' = covariance``; what rounding has made negative is left out."""
    levels, directions = np.linalg.eigh((covariance + covariance.T) / 2)
    return np.asarray(directions * np.sqrt(np.maximum(levels, 0)))


def drawn_noise(noise: ImageNoise, rng: np.random.Generator) -> Floats:
    """Draw the noise of an image.

    Parameters
    ----------
    noise
        Level and correlation.
    rng
        Source of randomness.

    Returns
    -------
    noise
        Shape (nx, ny, nz), float32. Power that an estimated spectrum states as negative is 0.
    """
    x, y, z = noise.noise_sd.shape
    doubled = (2 * x, 2 * y, 2 * z)
    amplitude = np.sqrt(np.maximum(noise.spectrum, 0))
    total = np.zeros((x, y, z), np.float32)
    for level in noise.each_level():
        white = scipy.fft.rfftn(rng.standard_normal(doubled, np.float32))
        total += level * scipy.fft.irfftn(white * amplitude, doubled)[:x, :y, :z]
    return total


def replica_sd(
    correct: Callable[[Floats], Floats],
    image: Floats,
    noise: ImageNoise,
    draws: int,
    rng: np.random.Generator,
) -> Floats:
    """Return the standard deviation of any correction from repeated draws of the noise.

    Parameters
    ----------
    correct
        From an image to a map of any shape.
    image
        Shape (nx, ny, nz).
    noise
        Of the image.
    draws
        How many; the result has a relative error of ``1 / sqrt(2 draws)`` in each voxel.
    rng
        Source of randomness.

    Returns
    -------
    sd
        Of the map.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws.

    References
    ----------
    Robson et al. 2008, doi:10.1002/mrm.21728
    """
    return spread_of(correct, image, lambda: drawn_noise(noise, rng), draws)


def spread_of(
    correct: Callable[[Floats], Floats], image: Floats, draw: Callable[[], Floats], draws: int
) -> Floats:
    """Return the standard deviation of any correction from draws of whatever is added.

    Parameters
    ----------
    correct
        From an image to a map of any shape.
    image
        Shape (nx, ny, nz).
    draw
        Returns what is added to the image, shape (nx, ny, nz).
    draws
        How many.

    Returns
    -------
    sd
        Of the map.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws.
    """
    if draws < LEAST_DRAWS:
        raise ValueError(f"{draws} draws of the noise; at least {LEAST_DRAWS} are needed")
    mean = squares = np.zeros(())
    for count in range(1, draws + 1):
        step = correct(image + draw()).astype(np.float64) - mean
        squares = squares + step**2 * (count - 1) / count
        mean = mean + step / count
    return np.sqrt(squares / (draws - 1)).astype(np.float32)
