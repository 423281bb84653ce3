"""What a misplaced image, another kernel or another segmentation would do to regional values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from scipy.ndimage import fourier_shift

from sodiumprep.sodium.acquisition import Floats, Geometry
from sodiumprep.sodium.kernel import blur, gaussian_transfer
from sodiumprep.sodium.pvc.shown import SampledRegions

NOTHING_MOVED = 0.1  # voxels; a layer of less is no border

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
    x, y, z = image.shape
    transfer = widening((x, y, z), fwhm, relative)
    wider = np.stack([blur(b, transfer) for b in regions.blurred])
    there = SampledRegions(regions.fractions, wider, regions.names)
    return values(image, there) - values(image, regions)


def widening(shape: tuple[int, int, int], fwhm: Floats, relative: float) -> Floats:
    """Return the transfer function that makes a kernel wider.

    Parameters
    ----------
    shape
        Of the image.
    fwhm
        Width of the kernel along each axis, shape (3,) [voxels].
    relative
        By which share of its width it becomes wider.

    Returns
    -------
    transfer
        Of a Gaussian, shape (2 nx, 2 ny, nz + 1).
    """
    # in the frequency domain: a third of a voxel is too narrow for a kernel sampled at voxels
    added = np.sqrt((1 + relative) ** 2 - 1) * np.asarray(fwhm)
    in_voxels = Geometry(np.zeros(3), np.eye(3), shape, shape)
    return gaussian_transfer(in_voxels, added)


def shift_changes(values: Callable[[Floats], Floats], image: Floats, shift: Floats) -> Floats:
    """Return how what is computed from an image changes where the image lies elsewhere.

    Parameters
    ----------
    values
        From the image to values, shape (n,).
    image
        Shape (nx, ny, nz).
    shift
        Along each axis, shape (3,) [voxels].

    Returns
    -------
    changes
        Shape (6, n): the linear change for each axis, with its sign, then what both ways along
        each have in common; nan where ``shift`` is not known.
    """
    middle = values(image)
    changes = np.full((6, len(middle)), np.nan)
    if not np.isfinite(shift).all():
        return changes
    spectrum = np.fft.fftn(image)
    for axis in range(3):
        step = np.eye(3)[axis] * shift
        forth, back = (
            values(np.fft.ifftn(fourier_shift(spectrum, s)).real.astype(image.dtype))
            for s in (step, -step)
        )
        changes[axis], changes[3 + axis] = (forth - back) / 2, (forth + back) / 2 - middle
    return changes


@dataclass(frozen=True)
class Border:
    """A layer that one region takes from another where their border lies elsewhere.

    Parameters
    ----------
    grown, shrunk
        Index of both regions.
    taken
        Share of each voxel that changes hands, shape (nx, ny, nz).
    """

    grown: int
    shrunk: int
    taken: Floats


@dataclass(frozen=True)
class MovedBorder(Border):
    """A border with what the image shows of it.

    Parameters
    ----------
    shown_grown, shown_shrunk
        What the image shows of the layer where it belongs to the one and to the other, shape
        (nx, ny, nz): each region has its own kernel.
    """

    shown_grown: Floats
    shown_shrunk: Floats

    def applied(self, regions: SampledRegions) -> SampledRegions:
        """Return regions with their border moved."""
        fractions, blurred = regions.fractions.copy(), regions.blurred.copy()
        fractions[self.grown] += self.taken
        fractions[self.shrunk] -= self.taken
        blurred[self.grown] += self.shown_grown
        blurred[self.shrunk] -= self.shown_shrunk
        return SampledRegions(fractions, blurred, regions.names)


class TwoSides(Protocol):
    """What lies between two regions."""

    @property
    def grown(self) -> int:
        """Index of the region that grows."""

    @property
    def shrunk(self) -> int:
        """Index of the region that shrinks."""


AnyBorder = TypeVar("AnyBorder", bound=TwoSides)


def moved_borders(fractions: Sequence[Floats], n_inside: int, shift: float) -> Iterator[Border]:
    """Yield what regions inside the brain take from their neighbours.

    Parameters
    ----------
    fractions
        Of all regions, those inside the brain first, on a grid fine enough to resolve their
        borders, each of shape (nx, ny, nz).
    n_inside
        How many lie inside the brain.
    shift
        Of every border [voxels]; 0 for none.

    Yields
    ------
    border
        Of two regions that touch.
    """
    if not shift:
        return
    extents = [_extent(fraction) for fraction in fractions]
    for grown in range(n_inside):
        for shrunk in range(grown + 1, len(fractions)):
            box = _where_both_are(extents[grown], extents[shrunk])
            if box is None:
                continue
            layer = _layer(fractions[grown][box], fractions[shrunk][box], shift)
            if layer.sum(dtype=np.float64) > NOTHING_MOVED:
                taken = np.zeros_like(fractions[grown])
                taken[box] = layer
                yield Border(grown, shrunk, taken)


def moving_together(borders: Sequence[AnyBorder], n_inside: int) -> list[list[AnyBorder]]:
    """Group borders into those that err together.

    Parameters
    ----------
    borders
        As :func:`moved_borders` yields them.
    n_inside
        How many regions lie inside the brain; they come first.

    Returns
    -------
    rows
        A border of two regions inside the brain errs alone; those of one region with all that lies
        around the brain err together.
    """
    rows: dict[tuple[int, int], list[AnyBorder]] = {}
    for border in borders:
        other = border.shrunk if border.shrunk < n_inside else -1
        rows.setdefault((border.grown, other), []).append(border)
    return list(rows.values())


def segmentation_changes(
    values: Values,
    image: Floats,
    regions: SampledRegions,
    borders: Sequence[Sequence[MovedBorder]],
) -> Floats:
    """Return how regional values change where borders of regions lie elsewhere.

    Parameters
    ----------
    values
        The method.
    image
        Shape (nx, ny, nz).
    regions
        What it is made of.
    borders
        Those of each row move together.

    Returns
    -------
    changes
        Shape (rows, regions).
    """
    middle = values(image, regions)
    changes = []
    for together in borders:
        moved = regions
        for border in together:
            moved = border.applied(moved)
        changes.append(values(image, moved) - middle)
    return np.reshape(changes, (len(borders), len(middle)))


@dataclass(frozen=True)
class MovedDecay:
    """A region as a kernel shows it that rests on another constant of decay.

    Parameters
    ----------
    region
        Its index.
    constant
        Index of the constant.
    shown
        Shape (nx, ny, nz).
    """

    region: int
    constant: int
    shown: Floats

    def applied(self, regions: SampledRegions) -> SampledRegions:
        """Return regions with this kernel."""
        blurred = regions.blurred.copy()
        blurred[self.region] = self.shown
        return SampledRegions(regions.fractions, blurred, regions.names)


def decay_changes(
    values: Values,
    image: Floats,
    regions: SampledRegions,
    decays: Sequence[MovedDecay],
    n_constants: int,
) -> Floats:
    """Return how regional values change where a tissue decays otherwise while it is read out.

    Parameters
    ----------
    values
        The method.
    image
        Shape (nx, ny, nz).
    regions
        What it is made of.
    decays
        Kernels of moved constants.
    n_constants
        How many there are of each region.

    Returns
    -------
    changes
        By region, constant and value, shape (regions, n_constants, regions).
    """
    n = len(regions.names)
    changes = np.zeros((n, n_constants, n))
    middle = values(image, regions)
    for decay in decays:
        moved = values(image, decay.applied(regions))
        changes[decay.region, decay.constant] = moved - middle
    return changes


def layer_at_border(grown: Floats, shrunk: Floats, shift: float) -> Floats:
    """Return what one region takes from another where their border lies elsewhere.

    Between two neighbouring voxels lies as much border as the one share rises while the other
    falls: ``g(x+1) s(x) - g(x) s(x+1)``. A third region beside them, as fluid beyond a thin
    cortex, adds nothing to it.

    Parameters
    ----------
    grown, shrunk
        Shares of each voxel, on a grid fine enough to resolve them, shape (nx, ny, nz).
    shift
        Of the border into the shrunk region [voxels]; small against both.

    Returns
    -------
    taken
        Share of each voxel that changes hands, same shape; at most what there is.
    """
    taken = np.zeros_like(grown)
    box = _where_both_are(_extent(grown), _extent(shrunk))
    if box is not None:
        taken[box] = _layer(grown[box], shrunk[box], shift)
    return taken


def _layer(grown: Floats, shrunk: Floats, shift: float) -> Floats:
    squares = np.zeros(grown.shape, grown.dtype)
    for axis in range(3):
        g, s = (np.moveaxis(part, axis, 0) for part in (grown, shrunk))
        face = np.abs(g[1:] * s[:-1] - g[:-1] * s[1:])
        lower = s[:-1] / np.maximum(s[:-1] + s[1:], 1e-9)  # the layer is taken where there is any
        along = np.zeros_like(g)
        along[:-1] += face * lower
        along[1:] += face * (1 - lower)
        squares += np.moveaxis(along, 0, axis) ** 2
    return np.minimum(np.minimum(shift * np.sqrt(squares), shrunk), 1 - grown)


def _extent(share: Floats) -> list[tuple[int, int]]:
    """Return the first voxel along each axis that holds any of it, and that behind the last."""
    ends = []
    for axis in range(3):
        held = np.flatnonzero(share.any(axis=tuple(a for a in range(3) if a != axis)))
        if not held.size:
            return []
        ends.append((int(held[0]), int(held[-1]) + 1))
    return ends


def _where_both_are(
    one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]
) -> tuple[slice, ...] | None:
    """Return the box in which two regions may touch; None where they cannot."""
    if not one or not other:
        return None
    sides = []
    for (first, end), (other_first, other_end) in zip(one, other, strict=True):
        start, stop = max(0, first - 1, other_first - 1), min(end, other_end) + 1
        if start >= stop:
            return None
        sides.append(slice(start, stop))
    return tuple(sides)
