"""One value for each region: the signals of regions that explain a blurred image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.shown import Regions, check_finite

LARGEST_CONDITION = 1e6  # of a matrix that is inverted
LEAST_SHOWN, FAR = 0.1, 10.0  # where regions of interest show less, voxels hardly count
ENTANGLED = 0.95  # correlation of two estimates above which noise shifts signal between them


class IndistinctRegionsError(ValueError):
    """Regions that the image cannot tell apart.

    Parameters
    ----------
    message
        For the user.
    pair
        Index of the two that are hardest to tell apart.
    """

    def __init__(self, message: str, pair: tuple[int, int]) -> None:
        super().__init__(message)
        self.pair = pair


@dataclass(frozen=True)
class RegionalEstimate:
    """Signals of regions with what they rest on.

    Parameters
    ----------
    values
        Shape (regions,).
    covariance
        From image noise, shape (regions, regions); nan where the noise is not known.
    condition_number
        Of the matrix that turns regional signals into what is seen, scaled to unit columns.
    residual_sd
        Of the image less what the regions explain, weighted by each region's share of the voxel,
        shape (regions,). Far above the noise where a region is not uniform or is missing.
    """

    values: Floats
    covariance: Floats
    condition_number: float
    residual_sd: Floats


R = TypeVar("R", bound=Regions)


class Method(Protocol):
    """A regional method, as :func:`gtm`."""

    def __call__(
        self,
        image: Floats,
        regions: Regions,
        noise: ImageNoise | None,
        *,
        with_covariance: bool = True,
    ) -> RegionalEstimate:
        """Return the estimate."""


def uncorrected(
    image: Floats, regions: Regions, noise: ImageNoise | None, *, with_covariance: bool = True
) -> RegionalEstimate:
    """Return the fraction-weighted means, which every correction has to be compared with.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz).
    regions
        What the image is made of; what it shows of them is not used.
    noise
        Of the image; None where it is not known.
    with_covariance
        Whether to compute it, which takes most of the time; else it is nan.

    Returns
    -------
    estimate
        With a condition number of 1: nothing is inverted.

    Raises
    ------
    ValueError
        If the image is not finite.
    """
    check_finite("image", image)
    values = region_means(image, regions)
    known = noise if with_covariance else None
    of_totals = None if known is None else regions.totals_covariance(known)
    covariance = _covariance(np.diag(1 / regions.sizes), of_totals)
    return RegionalEstimate(values, covariance, 1.0, residual_sd(image, regions, values))


def gtm(
    image: Floats, regions: Regions, noise: ImageNoise | None, *, with_covariance: bool = True
) -> RegionalEstimate:
    """Return regional signals corrected by the geometric transfer matrix.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz).
    regions
        What the image is made of.
    noise
        Of the image; None where it is not known.
    with_covariance
        Whether to compute it, which takes most of the time; else it is nan.

    Returns
    -------
    estimate
        Signals that give the region means that are seen.

    Raises
    ------
    ValueError
        If the image is not finite or the regions cannot be told apart.

    References
    ----------
    Rousset, Ma & Evans 1998, J Nucl Med 39:904
    """
    check_finite("image", image)
    matrix = mixing_matrix(regions)
    condition = _condition(matrix, regions, LARGEST_CONDITION)
    inverse = np.linalg.inv(matrix)
    values = inverse @ region_means(image, regions)
    known = noise if with_covariance else None
    of_totals = None if known is None else regions.totals_covariance(known)
    covariance = _covariance(inverse / regions.sizes, of_totals)
    return RegionalEstimate(values, covariance, condition, residual_sd(image, regions, values))


def labbe(
    image: Floats,
    regions: Regions,
    noise: ImageNoise | None,
    *,
    with_covariance: bool = True,
    level: Floats | None = None,
) -> RegionalEstimate:
    """Return regional signals by weighted least squares of the image on the blurred fractions.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz).
    regions
        What the image is made of.
    noise
        Of the image, whose inverse variance is the weight; None for equal weights.
    with_covariance
        Whether to compute it, which takes most of the time; else it is nan.
    level
        Deviation from the model that the weights suppose in each voxel, shape (nx, ny, nz); None
        for that of the noise. Where it is not uniform what a region shows is further off.

    Returns
    -------
    estimate
        Signals whose image is nearest to what is seen. The covariance is that of the correlated
        noise, not of the white noise that the weights suppose.

    Raises
    ------
    ValueError
        If the image is not finite or the regions cannot be told apart.

    References
    ----------
    Labbé et al. 1999: least squares on blurred fractions
    """
    check_finite("image", image)
    if level is None and noise is not None:
        level = noise.noise_sd
    weights = None if level is None else _inverse_variance(level)
    matrix = regions.shown_overlap(weights)
    condition = np.sqrt(_condition(matrix, regions, LARGEST_CONDITION**2))  # of the fractions
    inverse = np.linalg.inv(matrix)
    weighted = image if weights is None else weights * image
    values = inverse @ regions.shown_totals(weighted)
    known = noise if with_covariance else None
    of_totals = None if known is None else regions.shown_totals_covariance(known, weights)
    covariance = _covariance(inverse, of_totals)
    return RegionalEstimate(values, covariance, condition, residual_sd(image, regions, values))


def level_around(regions: Regions, focus: Sequence[str], noise_sd: Floats) -> Floats:
    """Return the deviation to suppose where only some regions are of interest.

    Scalp, eyes and air are not uniform. Weighed by their noise alone, which a receive correction
    makes small near the coils, they decide what all other regions are given.

    Parameters
    ----------
    regions
        What the image is made of.
    focus
        Names of the regions of interest.
    noise_sd
        Of the image, shape (nx, ny, nz).

    Returns
    -------
    level
        Same shape: that of the noise where the regions of interest show at least a tenth; ten
        times its largest elsewhere.
    """
    chosen = np.array([name in focus for name in regions.names], float)
    near = regions.shown(chosen) >= LEAST_SHOWN
    return np.where(near, noise_sd, FAR * noise_sd.max()).astype(noise_sd.dtype)


def _inverse_variance(noise_sd: Floats) -> Floats:
    """Return weights of mean 1, so that they do not change the scale of any sum."""
    if not (np.isfinite(noise_sd).all() and noise_sd.min() > 0):
        raise ValueError(
            f"the noise SD goes from {np.min(noise_sd):.3g} to {np.max(noise_sd):.3g}; accepted: "
            "finite and above 0"
        )
    weights = noise_sd.astype(np.float64) ** -2
    return np.asarray(weights / weights.mean(), np.float32)


def _covariance(unmixing: Floats, of_totals: Floats | None) -> Floats:
    """Return the covariance of what is unmixed from totals, nan where theirs is not known."""
    if of_totals is None:
        return np.full(unmixing.shape, np.nan)
    return np.asarray(unmixing @ of_totals @ unmixing.T)


def _condition(matrix: Floats, regions: Regions, largest: float) -> float:
    """Return the condition number of a matrix that is not singular.

    Raises
    ------
    IndistinctRegionsError
        With the two regions that are hardest to tell apart.
    """
    size = np.sqrt(np.abs(np.diag(matrix)))
    if size.min() > 0:
        scaled = matrix / np.outer(size, size)
        condition = float(np.linalg.cond(scaled))
        if condition < largest:
            return condition
        _, _, directions = np.linalg.svd(scaled)
        one, other = sorted(int(i) for i in np.argsort(-np.abs(directions[-1]))[:2])
    else:
        condition = np.inf
        one, other = sorted(int(i) for i in np.argsort(size)[:2])
    raise IndistinctRegionsError(
        f"the regions cannot be told apart: condition number {condition:.3g}, accepted: below "
        f"{largest:g}; the hardest to tell apart are '{regions.names[one]}' and "
        f"'{regions.names[other]}': merge them",
        (one, other),
    )


def mixing_matrix(regions: Regions) -> Floats:
    """Return the share of each region in the mean over each other one.

    Parameters
    ----------
    regions
        What an image is made of.

    Returns
    -------
    mixing
        Row i: the mean over region i of what every region shows with signal 1, shape (regions,
        regions).

    References
    ----------
    Rousset, Ma & Evans 1998, J Nucl Med 39:904
    """
    return np.asarray(regions.crossing() / regions.sizes[:, None])


def region_means(image: Floats, regions: Regions) -> Floats:
    """Return the fraction-weighted mean of an image over each region.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    regions
        On the grid of the image.

    Returns
    -------
    means
        Shape (regions,).
    """
    return np.asarray(regions.totals(image) / regions.sizes)


def unmixed_values(image: Floats, regions: Regions) -> Floats:
    """Return regional values of a corrected map by least squares on the unblurred fractions.

    A weighted mean would give a region what its neighbours have in the voxels that they share.

    Parameters
    ----------
    image
        Corrected map, shape (nx, ny, nz).
    regions
        On its grid.

    Returns
    -------
    values
        Shape (regions,).

    Examples
    --------
    >>> from sodiumprep.sodium.pvc.shown import SampledRegions
    >>> shares = np.array([[1, 0.5, 0], [0, 0.5, 1]]).reshape(2, 3, 1, 1)
    >>> regions = SampledRegions(shares, shares)
    >>> mixed = regions.composed(np.array([40.0, 140.0]))
    >>> unmixed_values(mixed, regions).round(9).tolist()
    [40.0, 140.0]
    """
    return np.asarray(np.linalg.solve(regions.overlap(), regions.totals(image)))


def residual_sd(image: Floats, regions: Regions, values: Floats) -> Floats:
    """Return how far the image is from what the regions explain, by region.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    regions
        What the image is made of.
    values
        Signals, shape (regions,).

    Returns
    -------
    sd
        Root of the mean square of the residual, weighted by the fractions, shape (regions,).
    """
    residual = image - regions.shown(values)
    return np.sqrt(np.maximum(region_means(residual**2, regions), 0.0))


def entangled_pairs(covariance: Floats) -> list[tuple[int, int]]:
    """Return the pairs of regions between which noise shifts signal, the worst first.

    Parameters
    ----------
    covariance
        Of the estimates, shape (regions, regions); nan counts as not correlated.

    Returns
    -------
    pairs
        Index of both, wherever the estimates' correlation is beyond -0.95 or 0.95.
    """
    sd = np.sqrt(np.diag(covariance))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(np.abs(covariance / np.outer(sd, sd)))
    correlation = np.triu(correlation, 1)
    order = np.argsort(-correlation, axis=None)
    pairs = zip(*np.unravel_index(order, correlation.shape), strict=True)
    return [(int(i), int(j)) for i, j in pairs if correlation[i, j] > ENTANGLED]


def entangled(covariance: Floats) -> Floats:
    """Tell of each region whether noise shifts signal between it and another one.

    Parameters
    ----------
    covariance
        Of the estimates, shape (regions, regions).

    Returns
    -------
    entangled
        Boolean, shape (regions,).

    Examples
    --------
    >>> entangled(np.array([[1.0, -0.99, 0.0], [-0.99, 1.0, 0.0], [0.0, 0.0, 1.0]])).tolist()
    [True, True, False]
    """
    found = np.zeros(len(covariance), bool)
    found[[i for pair in entangled_pairs(covariance) for i in pair]] = True
    return found


def merge_entangled(
    image: Floats, regions: R, noise: ImageNoise, method: Method
) -> tuple[R, RegionalEstimate]:
    """Merge regions that the image cannot tell apart, the most entangled pair first.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    regions
        What it is made of.
    noise
        Of the image.
    method
        :func:`gtm` or :func:`labbe`.

    Returns
    -------
    regions
        Those that are left; a merged one is named ``a+b``, and stands where its first part stood.
    estimate
        Theirs; no pair of it is entangled.
    """
    while True:
        try:
            estimate = method(image, regions, noise)
        except IndistinctRegionsError as error:
            regions = regions.merged(*error.pair)
            continue
        pairs = entangled_pairs(estimate.covariance)
        if not pairs:
            return regions, estimate
        regions = regions.merged(*pairs[0])
