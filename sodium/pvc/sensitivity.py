"""What a misplaced image, another kernel or another segmentation would do to regional values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import fourier_shift

from sodiumprep.sodium.acquisition import Floats, Geometry
from sodiumprep.sodium.kernel import blur, gaussian_transfer
from sodiumprep.sodium.pvc.shown import SampledRegions

Blur = Callable[[Floats], Floats]  # from a fraction to what the image shows of it
Values = Callable[[Floats, SampledRegions], Floats]  # from image and regions to regional values


def kernel_change(
    values: Values, image: Floats, regions: SampledRegions, fwhm: Floats, relative: float
) -> Floats:
    """Return how regional values change where every kernel is wider.

    Parameters
    ----------
    values
        The method.
    image
        Shape (nx, ny, nz).
    regions
        What it is made of.
    fwhm
        Width of the kernel along each axis, shape (3,) [voxels].
    relative
        By which share of its width each kernel is wider.

    Returns
    -------
    change
        Shape (regions,).
    """
    # in the frequency domain: a third of a voxel is too narrow for a kernel sampled at voxels
    widening = np.sqrt((1 + relative) ** 2 - 1) * np.asarray(fwhm)
    x, y, z = image.shape
    in_voxels = Geometry(np.zeros(3), np.eye(3), (x, y, z), (x, y, z))
    transfer = gaussian_transfer(in_voxels, widening)
    wider = np.stack([blur(b, transfer) for b in regions.blurred])
    there = SampledRegions(regions.fractions, wider, regions.names)
    return values(image, there) - values(image, regions)


def registration_changes(
    values: Values, image: Floats, regions: SampledRegions, shift: Floats
) -> Floats:
    """Return how regional values change where the image lies elsewhere.

    Parameters
    ----------
    values
        The method.
    image
        Shape (nx, ny, nz).
    regions
        What it is made of.
    shift
        Along each axis, shape (3,) [voxels].

    Returns
    -------
    changes
        One row per axis, shape (3, regions): the linear change, joined by what both ways have in
        common; nan where ``shift`` is not known.
    """
    changes = np.full((3, len(regions.names)), np.nan)
    if not np.isfinite(shift).all():
        return changes
    spectrum = np.fft.fftn(image)
    middle = values(image, regions)
    for axis in range(3):
        step = np.eye(3)[axis] * shift
        forth, back = (
            values(np.fft.ifftn(fourier_shift(spectrum, s)).real.astype(image.dtype), regions)
            for s in (step, -step)
        )
        changes[axis] = np.hypot((forth - back) / 2, (forth + back) / 2 - middle)
    return changes


def segmentation_changes(
    values: Values,
    image: Floats,
    regions: SampledRegions,
    kernels: Sequence[Blur],
    borders: Sequence[tuple[int, int]],
    shift: float,
) -> Floats:
    """Return how regional values change where the border of two regions lies elsewhere.

    Parameters
    ----------
    values
        The method.
    image
        Shape (nx, ny, nz).
    regions
        What it is made of.
    kernels
        Of each region.
    borders
        Pairs of regions that share a border; the first grows into the second.
    shift
        Of the border [voxels].

    Returns
    -------
    changes
        One row per border, shape (borders, regions).
    """
    middle = values(image, regions)
    return np.stack([
        values(image, with_moved_border(regions, kernels, grown, shrunk, shift)) - middle
        for grown, shrunk in borders
    ])  # fmt: skip


def with_moved_border(
    regions: SampledRegions, kernels: Sequence[Blur], grown: int, shrunk: int, shift: float
) -> SampledRegions:
    """Return regions of which one has grown into another.

    Across a border the fraction falls from 1 to 0, so that ``shift`` times the magnitude of its
    gradient is the share that changes hands.

    Parameters
    ----------
    regions
        As they are.
    kernels
        Of each region.
    grown, shrunk
        Index of both.
    shift
        Of their border [voxels]; small against the size of both.

    Returns
    -------
    regions
        Fractions stay in [0, 1] and sum to one.
    """
    fractions, blurred = regions.fractions.copy(), regions.blurred.copy()
    falls = [
        -np.gradient(fractions[grown], axis=axis) * np.gradient(fractions[shrunk], axis=axis)
        for axis in range(3)
    ]
    facing = np.sqrt(np.sum(np.maximum(falls, 0.0), axis=0))
    taken = np.minimum(shift * facing, fractions[shrunk])
    taken = np.minimum(taken, 1 - fractions[grown]).astype(fractions.dtype)
    for region, sign in ((grown, 1), (shrunk, -1)):
        fractions[region] += sign * taken
        blurred[region] += sign * kernels[region](taken)
    return SampledRegions(fractions, blurred, regions.names)
