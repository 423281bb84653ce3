"""Regions as lists of voxels with their shares, from a label image or from soft fractions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.labels import LARGEST_SUM, SMALL_EXCESS
from sodiumprep.sodium.pvc.shown import SMALLEST_REGION, check_finite
from sodiumprep.sodium.pvc.work_grid import Block

NOTHING = 1e-6  # a share below it is rounding


@dataclass(frozen=True)
class Part:
    """Voxels of one region.

    Parameters
    ----------
    index
        Of the voxels in C order, increasing, shape (m,), int32.
    share
        Of each voxel, shape (m,), float32; None where all are 1.
    """

    index: Integers
    share: Floats | None = None

    @property
    def size(self) -> float:
        """Sum of the shares [voxels]."""
        if self.share is None:
            return float(self.index.size)
        return float(self.share.sum(dtype=np.float64))

    def total(self, image: Floats) -> float:
        """Return the sum over voxels of share times image, shape (nx, ny, nz) in C order."""
        found = image.ravel()[self.index].astype(np.float64)
        return float(found.sum() if self.share is None else np.dot(found, self.share))

    def block(self, shape: tuple[int, ...]) -> Block:
        """Return the shares in the box that holds them."""
        places = np.unravel_index(self.index, shape)
        first = [int(p.min()) for p in places]
        box = tuple(slice(f, int(p.max()) + 1) for f, p in zip(first, places, strict=True))
        values = np.zeros([b.stop - b.start for b in box], np.float32)
        local = tuple(p - f for p, f in zip(places, first, strict=True))
        values[local] = 1 if self.share is None else self.share
        return Block((box[0], box[1], box[2]), values)

    def dense(self, shape: tuple[int, ...]) -> Floats:
        """Return the shares of all voxels."""
        values = np.zeros(shape, np.float32)
        values.ravel()[self.index] = 1 if self.share is None else self.share
        return values


@dataclass(frozen=True)
class Normalization:
    """What was changed so that fractions lie in [0, 1] and sum to at most one.

    Parameters
    ----------
    largest_sum
        Of the fractions of one voxel, before.
    scaled_voxels
        In which the sum was scaled down to one.
    clipped_values
        Rounding of less than 1e-3 below 0 or above 1.
    """

    largest_sum: float
    scaled_voxels: int
    clipped_values: int


def parts_of_labels(labels: Integers, numbers: Sequence[int], names: Sequence[str]) -> list[Part]:
    """Return the voxels of each label.

    Parameters
    ----------
    labels
        Shape (nx, ny, nz); 0 is background, as are numbers that are not asked for.
    numbers
        Labels in the order of the regions.
    names
        Theirs, for messages.

    Returns
    -------
    parts
        One for each number.

    Raises
    ------
    ValueError
        If a label has no voxel.

    Examples
    --------
    >>> found = parts_of_labels(np.array([[[0, 7, 7, 3]]]), [3, 7], ["a", "b"])
    >>> [part.index.tolist() for part in found]
    [[3], [1, 2]]
    """
    flat = labels.ravel()
    index = np.flatnonzero(flat).astype(np.int32)
    held = flat[index]
    order = np.argsort(held, kind="stable")
    held, index = held[order], index[order]
    starts, stops = (np.searchsorted(held, numbers, side) for side in ("left", "right"))
    parts = [Part(index[a:b]) for a, b in zip(starts, stops, strict=True)]
    _check_sizes(parts, names)
    return parts


def parts_of_fractions(
    volumes: Iterable[Floats], names: Sequence[str]
) -> tuple[list[Part], Normalization]:
    """Return the voxels of soft fractions that come one after the other.

    Parameters
    ----------
    volumes
        One for each region, each of shape (nx, ny, nz); only one is held at a time.
    names
        Theirs, for messages.

    Returns
    -------
    parts
        Sums above one scaled down to one.
    normalization
        What was changed.

    Raises
    ------
    ValueError
        If something is not finite, a fraction lies outside [0, 1], fractions sum to more than
        1.1, or a region is empty.

    Examples
    --------
    >>> parts, change = parts_of_fractions([np.full((1, 1, 2), 0.52)] * 2, ["a", "b"])
    >>> parts[0].share.tolist(), change.largest_sum, change.scaled_voxels
    ([0.5, 0.5], 1.04, 2)
    """
    parts, clipped, summed = [], 0, np.zeros(0, np.float32)
    for volume, name in zip(volumes, names, strict=True):
        index, share, changed = _held(volume, name)
        parts.append(Part(index, share))
        clipped += changed
        summed = summed if summed.size else np.zeros(volume.size, np.float32)
        summed[index] += share
    _check_sizes(parts, names)
    largest = float(summed.max())
    if largest > LARGEST_SUM:
        raise ValueError(
            f"fractions sum to {largest:.3f} in {int((summed > LARGEST_SUM).sum())} voxels; "
            f"accepted: at most 1, or up to {LARGEST_SUM:g}, which is scaled down to 1"
        )
    above = int((summed > 1 + NOTHING).sum())
    if above:
        scale = np.divide(1, np.maximum(summed, 1, out=summed), out=summed)
        parts = [_scaled(p, scale) for p in parts]
    return parts, Normalization(round(largest, 6), above, clipped)


def _held(volume: Floats, name: str) -> tuple[Integers, Floats, int]:
    """Return which voxels hold something of a region, how much, and how many were rounded."""
    low, high = float(volume.min()), float(volume.max())
    if not np.isfinite([low, high]).all():
        check_finite(f"fraction of region '{name}'", volume)
    if low < -SMALL_EXCESS or high > 1 + SMALL_EXCESS:
        raise ValueError(
            f"the fraction of region '{name}' goes from {low:.4g} to {high:.4g}; accepted: 0 to 1"
        )
    changed = int(((volume < 0) | (volume > 1)).sum()) if low < 0 or high > 1 else 0
    index, share = _above(volume, NOTHING)
    return index, np.minimum(share.astype(np.float32), 1), changed


def _above(volume: Floats, least: float) -> tuple[Integers, Floats]:
    """Return the voxels above a value, in C order, whatever the order of the volume in memory."""
    if volume.flags.c_contiguous or not volume.T.flags.c_contiguous:
        flat = volume.ravel()
        index = np.flatnonzero(flat > least)
        return index.astype(np.int32), flat[index]
    # the order of a file: a few indices are turned sooner than all voxels
    flat = volume.T.ravel()
    found = np.flatnonzero(flat > least)
    places = np.unravel_index(found, volume.T.shape)
    index = np.ravel_multi_index(places[::-1], volume.shape).astype(np.int32)
    order = np.argsort(index, kind="stable")
    return index[order], flat[found[order]]


def _scaled(part: Part, scale: Floats) -> Part:
    factors = scale[part.index]
    return Part(part.index, factors if part.share is None else part.share * factors)


def _check_sizes(parts: Sequence[Part], names: Sequence[str]) -> None:
    for part, name in zip(parts, names, strict=True):
        if part.size < SMALLEST_REGION:
            raise ValueError(
                f"region '{name}' holds {part.size:.2f} voxels of the image; at least "
                f"{SMALLEST_REGION:g} are needed: leave it out"
            )


def overlaps(parts: Sequence[Part], n_voxels: int) -> Floats:
    """Return the sum over voxels of the product of the shares of two regions.

    Parameters
    ----------
    parts
        Of all regions but the background.
    n_voxels
        Of the image.

    Returns
    -------
    overlap
        Shape (regions, regions).
    """
    if all(part.share is None for part in parts):
        return np.diag([part.size for part in parts])
    shares = [np.ones(p.index.size) if p.share is None else p.share for p in parts]
    table = csr_array(
        (
            np.concatenate(shares).astype(np.float64),
            np.concatenate([p.index for p in parts]),
            np.cumsum([0, *(p.index.size for p in parts)]),
        ),
        shape=(len(parts), n_voxels),
    )
    return np.asarray((table @ table.T).toarray())
