"""Maps corrected voxel by voxel, from regional signals and what the image shows of the regions.

Each map comes with its first derivatives, so that :mod:`sodiumprep.sodium.pvc.propagation` can
tell its uncertainty. Nothing is clipped: a corrected voxel may be negative.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.pvc.regional import LARGEST_CONDITION
from sodiumprep.sodium.pvc.shown import TOLERANCE, Regions, check_finite

SMALLEST_SHOWN = 0.02  # of the largest that the regions show; nothing is divided by less
SMALLEST_SHARE = 0.1  # blurred fraction; a residual is divided by no less
SMALLEST_TARGET = 0.2  # blurred fraction below which a map of one tissue says nothing
PIECE = 1 << 17  # voxels that are worked on at a time, so that they stay in fast memory
FURTHEST = 4.0  # factor by which Newton's rows are scaled at most
PUREST = 0.9  # of the largest blurred fraction: from there on a voxel counts as pure


@dataclass(frozen=True)
class CorrectedMap:
    """A map without partial-volume effect, and how it follows from image and regional signals.

    A voxel changes by ``by_image dP + sum_j (by_fraction m_j + by_shown b_j) dc_j`` where the
    image changes by dP and the signal of region j by dc_j.

    Parameters
    ----------
    image
        Corrected, shape (nx, ny, nz).
    values
        Regional signals that it rests on, shape (regions,).
    by_image
        Derivative, shape (nx, ny, nz).
    others
        Gives ``by_fraction`` and ``by_shown``, which only an uncertainty needs.
    n_excepted
        Voxels for which the method's rule against a division by nearly nothing was needed.
    iterations
        That were made; 0 where the method makes none.
    converged
        Whether they came to rest.
    """

    image: Floats
    values: Floats
    by_image: Floats
    others: Callable[[], tuple[Floats, Floats]]
    n_excepted: int
    iterations: int = 0
    converged: bool = True

    @cached_property
    def _others(self) -> tuple[Floats, Floats]:
        return self.others()

    @property
    def by_fraction(self) -> Floats:
        """Derivative, shape (nx, ny, nz)."""
        return self._others[0]

    @property
    def by_shown(self) -> Floats:
        """Derivative, shape (nx, ny, nz)."""
        return self._others[1]


def rbv(image: Floats, regions: Regions, values: Floats) -> CorrectedMap:
    """Return the region-based voxelwise correction ``P composed(c) / shown(c)``.

    That is what the regions hold, and the residual ``P - shown(c)`` scaled by what they hold over
    what they show. Where they show less than 2 % of what they show at most (air), both are raised
    by what is missing to that: nothing is divided by less, and in pure air the image stays.

    Parameters
    ----------
    image
        Signal P, shape (nx, ny, nz).
    regions
        What the image is made of.
    values
        Regional signals c, shape (regions,).

    Returns
    -------
    corrected
        Linear in the image as long as ``values`` stay.

    Raises
    ------
    ValueError
        If image or values are not finite, or their shapes do not fit.

    References
    ----------
    Thomas et al. 2011, doi:10.1007/s00259-011-1745-9

    Examples
    --------
    >>> from sodiumprep.sodium.pvc.shown import SampledRegions
    >>> shares = np.array([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 2, 1, 1)
    >>> shown = np.array([[0.75, 0.25], [0.25, 0.75]]).reshape(2, 2, 1, 1)
    >>> regions = SampledRegions(shares, shown)
    >>> rbv(np.array([65.0, 115.0]).reshape(2, 1, 1), regions, np.array([40, 140])).image.ravel()
    array([ 40., 140.])
    """
    _check(image, regions, values)
    return _scaled(image, regions, np.asarray(values))


def _scaled(image: Floats, regions: Regions, values: Floats) -> CorrectedMap:
    """Scale residuals by what the regions hold over what they show, a few planes at a time."""
    corrected, shown = regions.composed(values), regions.shown(values)
    floor = SMALLEST_SHOWN * max(float(shown.max()), -float(shown.min()))
    gain = np.empty_like(corrected)
    planes = max(1, PIECE // shown[0].size)
    n_excepted = 0
    for start in range(0, len(shown), planes):
        part = slice(start, start + planes)
        gain[part], excepted = _gain(corrected[part], shown[part], floor)
        corrected[part] += gain[part] * (image[part] - shown[part])
        n_excepted += excepted

    def others() -> tuple[Floats, Floats]:
        divisor = np.maximum(shown, floor)
        residual = (image - shown) / divisor
        return 1 + residual, -gain - residual * np.where(shown < divisor, 1, gain)

    return CorrectedMap(corrected, values, gain, others, n_excepted)


def _gain(composed: Floats, shown: Floats, floor: float) -> tuple[Floats, int]:
    """Return by what a residual is scaled, and in how many voxels less than the floor is shown."""
    divisor = np.maximum(shown, floor)
    return (composed + divisor - shown) / divisor, int(np.count_nonzero(shown < floor))


def iterative_yang(
    image: Floats,
    regions: Regions,
    start: Floats,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
    fixed: Sequence[str] = (),
) -> CorrectedMap:
    """Return the correction of Thomas with regional signals from the corrected map itself.

    The signals are unmixed by least squares on the unblurred fractions: with soft fractions the
    usual weighted mean comes to rest at other values than the true ones. They rest where the map
    gives back the signals that it was made from, one equation for each region. Yang's steps go
    there slowly where regions are thin; here a step is that of Newton, with a derivative that is
    nearly known from what the regions show of each other. A step that is longer than the one
    before is followed by one of Yang's; so are all where blurred regions are hard to tell apart.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz).
    regions
        What the image is made of.
    start
        Regional signals to begin with, shape (regions,).
    tolerance
        Distance of the signals from where they come to rest, as estimated from the last two
        steps, at which they count as at rest; a share of the largest signal.
    max_iterations
        After which a warning tells that they are not at rest.

    fixed
        Names of regions that keep their signals of ``start``: a background that is dark, or not
        uniform, may otherwise take long to come to rest, or never.

    Returns
    -------
    corrected
        With the signals unmixed from it.

    Raises
    ------
    ValueError
        If image or start are not finite, their shapes do not fit, there is no iteration, or the
        fractions do not tell the regions apart.

    Warns
    -----
    RuntimeWarning
        If the signals did not come to rest.

    References
    ----------
    Erlandsson et al. 2012, doi:10.1088/0031-9155/57/21/R119
    """
    _check(image, regions, start)
    if max_iterations < 1:
        raise ValueError(f"{max_iterations} iterations of Yang's correction; at least 1 is needed")
    free = free_regions(regions, fixed)
    values, last_step = np.array(start, np.float64), 0.0
    overlap = regions.overlap()
    own = np.ix_(free, free)
    unmixing, crossing = _inverted(overlap[own], "unblurred fractions"), regions.crossing()
    distinct = _condition(crossing[own]) < LARGEST_CONDITION
    change, iteration, converged, rate = np.zeros(free.sum()), 0, False, 1.0
    while iteration < max_iterations and not converged:
        values[free] += change
        iteration += 1
        made = _scaled(image, regions, values.copy())
        missing = (regions.totals(made.image) - overlap @ values)[free]
        slope = _slope(values, overlap, crossing) if distinct and rate <= 1 else overlap
        change = np.linalg.solve(slope[own], missing)
        step = float(np.abs(change).max())
        rate = step / last_step if last_step > 0 else 1.0
        # the steps to come are a geometric series; a rate near 1 is that of rounding
        allowed = tolerance * float(np.abs(values).max()) * max(1 - rate, 0.01)
        last_step, converged = step, step <= allowed
    if not converged:
        warnings.warn(
            f"iterative Yang is not at rest after {iteration} iterations: the last one changed a "
            f"region by {step:.3g}, accepted: {allowed:.3g}; raise the number of iterations",
            RuntimeWarning,
            stacklevel=2,
        )
    values[free] += unmixing @ missing
    return replace(made, values=values, iterations=iteration, converged=converged)


def _slope(values: Floats, overlap: Floats, crossing: Floats) -> Floats:
    """Return about how the totals of a map fall behind as the signals rise.

    That is the sum over voxels of ``m_i b_j composed / shown`` where the map is at rest. Along
    the signals themselves it gives what the regions hold; each row is scaled so that it does.
    """
    held, seen = overlap @ values, crossing @ values
    ratio = np.divide(held, seen, out=np.ones_like(held), where=seen != 0)
    return np.clip(ratio, 1 / FURTHEST, FURTHEST)[:, None] * crossing


def free_regions(regions: Regions, fixed: Sequence[str]) -> NDArray[np.bool_]:
    """Tell of each region whether its signal is free.

    Parameters
    ----------
    regions
        All of them.
    fixed
        Names of those that are not.

    Returns
    -------
    free
        Shape (regions,).

    Raises
    ------
    ValueError
        If there is no such region, or none is free.
    """
    unknown = [name for name in fixed if name not in regions.names]
    if unknown:
        raise ValueError(
            f"there is no region '{unknown[0]}'; accepted: {', '.join(regions.names)}"
        )
    free = np.array([name not in fixed for name in regions.names])
    if not free.any():
        raise ValueError("the signals of all regions are fixed; at least one must be free")
    return free


def mtc(image: Floats, regions: Regions, values: Floats) -> CorrectedMap:
    """Return the multi-target correction.

    Inside region j the voxel is ``(P - sum_(i != j) c_i b_i) / b_j``, which is c_j and the
    residual ``P - shown(c)`` over b_j; the regions of a voxel are put together by their
    fractions. So one pass over the regions is enough. Where b_j is below 0.1, the residual is
    divided by 0.1. A residual counts once for every region in the voxel: only where regions do
    not share voxels does the method leave an image without blur as it is.

    Parameters
    ----------
    image
        Signal P, shape (nx, ny, nz).
    regions
        What the image is made of.
    values
        Regional signals c, shape (regions,).

    Returns
    -------
    corrected
        Linear in image and values.

    Raises
    ------
    ValueError
        If image or values are not finite, or their shapes do not fit.

    References
    ----------
    Erlandsson et al. 2006, NeuroImage 31 (Suppl. 2): T84
    """
    _check(image, regions, values)
    gain = np.zeros_like(image)
    excepted = np.zeros(image.shape, bool)
    for fraction, blurred in regions.each():
        gain += fraction / np.maximum(blurred, SMALLEST_SHARE)
        excepted |= (blurred < SMALLEST_SHARE) & (fraction > TOLERANCE)
    corrected = regions.composed(values) + gain * (image - regions.shown(values))
    return CorrectedMap(
        corrected, np.asarray(values), gain, lambda: (np.ones_like(gain), -gain),
        int(excepted.sum()),
    )  # fmt: skip


def mueller_gaertner(
    image: Floats, regions: Regions, target: str = "GM", fluid: str = "CSF"
) -> CorrectedMap:
    """Return the map of one tissue, freed of what every other region shows.

    The signals of the others come from the voxels where each is purest (at least 0.9 of its
    largest blurred fraction): the means over them are solved for all signals together. Where the
    image shows less than 0.2 of the target, the map is 0.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz).
    regions
        What the image is made of: target, fluid, another tissue, and background.
    target, fluid
        Names of two of them. In the version without fluid its signal ends in the target: the
        cortex comes out at 111 instead of 40 mmol/L.

    Returns
    -------
    corrected
        Map of the target. Its regional value is :func:`target_mean`.

    Raises
    ------
    ValueError
        If target or fluid is no region, or are the same, there are fewer than four regions, the
        pure voxels do not tell the regions apart, or the image is not finite.

    References
    ----------
    Müller-Gärtner et al. 1992, doi:10.1038/jcbfm.1992.81
    """
    check_finite("image", image)
    chosen = _target_index(regions, target, fluid)
    cores, unmixing = purest_voxels(regions)
    values = unmixing @ [float(np.mean(image.ravel()[core], dtype=np.float64)) for core in cores]
    others = values.copy()
    others[chosen] = 0
    fraction, blurred = next(pair for j, pair in enumerate(regions.each()) if j == chosen)
    inside = blurred >= SMALLEST_TARGET
    by_image = np.where(inside, 1 / np.maximum(blurred, SMALLEST_TARGET), 0).astype(image.dtype)
    return CorrectedMap(
        by_image * (image - regions.shown(others)),
        values,
        by_image,
        lambda: (np.zeros_like(by_image), -by_image),
        int(np.sum(~inside & (fraction > TOLERANCE))),
    )


def _target_index(regions: Regions, target: str, fluid: str) -> int:
    names = list(regions.names)
    for name in (target, fluid):
        if name not in names:
            raise ValueError(
                f"Müller-Gärtner needs a region '{name}', but the regions are {', '.join(names)}; "
                "without a term for fluid the target would be far too bright"
            )
    if target == fluid or len(names) < 4:
        raise ValueError(
            f"Müller-Gärtner needs a target, fluid, another tissue and background; target "
            f"'{target}' and fluid '{fluid}' of {len(names)} regions were given"
        )
    return names.index(target)


def purest_voxels(regions: Regions) -> tuple[list[NDArray[np.intp]], Floats]:
    """Return where each region is purest, and what unmixes the means over those voxels.

    Parameters
    ----------
    regions
        What an image is made of.

    Returns
    -------
    cores
        Flat indices of the voxels that show at least 0.9 of what any voxel shows of a region.
    unmixing
        From the mean of an image over each core to the regional signals, shape (regions,
        regions).

    Raises
    ------
    ValueError
        If the means do not tell the regions apart.
    """
    cores = [np.flatnonzero(b >= PUREST * b.max()) for _, b in regions.each()]
    columns = [
        [float(np.mean(b.ravel()[core], dtype=np.float64)) for core in cores]
        for _, b in regions.each()
    ]
    return cores, _inverted(np.transpose(columns), "purest voxels")


def _condition(matrix: Floats) -> float:
    size = np.sqrt(np.abs(np.diag(matrix)))
    return float(np.linalg.cond(matrix / np.outer(size, size))) if size.all() else np.inf


def _inverted(matrix: Floats, what: str) -> Floats:
    condition = _condition(matrix)
    if not condition < LARGEST_CONDITION:
        raise ValueError(
            f"the {what} do not tell the regions apart: condition number {condition:.3g}, "
            f"accepted: below {LARGEST_CONDITION:g}; merge regions that lie in the same voxels"
        )
    return np.asarray(np.linalg.inv(matrix))


def target_mean(corrected: CorrectedMap, regions: Regions, target: str = "GM") -> float:
    """Return the mean of a map of one tissue, weighted by its fraction.

    Parameters
    ----------
    corrected
        From :func:`mueller_gaertner`.
    regions
        What the image is made of.
    target
        Name of the tissue.

    Returns
    -------
    mean
        Over the voxels in which the map says something.
    """
    index = list(regions.names).index(target)
    inside = (corrected.by_image != 0).astype(corrected.image.dtype)
    return float(regions.totals(corrected.image)[index] / regions.totals(inside)[index])


def _check(image: Floats, regions: Regions, values: Floats) -> None:
    check_finite("image", image)
    if np.shape(values) != (len(regions.names),):
        raise ValueError(
            f"values of shape {np.shape(values)} for {len(regions.names)} regions; accepted: one "
            "value for each region"
        )
    check_finite("regional values", np.asarray(values, np.float64))
