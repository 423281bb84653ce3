"""Regions, and what an image shows of them: all that a partial-volume correction rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, Self

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.noise import ImageNoise, weighted_covariance

SMALLEST_REGION = 0.5  # voxels; a smaller one has no mean of its own
TOLERANCE = 1e-3  # of a fraction, and of the sum of all
SLAB = 1 << 17  # voxels that are taken to double precision at a time


class Regions(Protocol):
    """Regions on the grid of an image, and the image that each gives with signal 1.

    ``m_i`` is the share of region i in each voxel; all shares of a voxel sum to one. ``b_i`` is
    what the image shows of ``m_i``: the share blurred by the region's own kernel.
    """

    @property
    def names(self) -> Sequence[str]:
        """Of the regions."""

    @property
    def sizes(self) -> Floats:
        """Sum of each ``m_i`` [voxels], shape (regions,)."""

    def composed(self, values: Floats) -> Floats:
        """Return ``sum_i values_i m_i``, shape (nx, ny, nz)."""

    def shown(self, values: Floats) -> Floats:
        """Return ``sum_i values_i b_i``, shape (nx, ny, nz)."""

    def totals(self, image: Floats) -> Floats:
        """Return the sum over voxels of ``m_i`` times an image, shape (regions,)."""

    def shown_totals(self, image: Floats) -> Floats:
        """Return the sum over voxels of ``b_i`` times an image, shape (regions,)."""

    def overlap(self) -> Floats:
        """Return the sum over voxels of ``m_i m_j``, shape (regions, regions)."""

    def crossing(self) -> Floats:
        """Return the sum over voxels of ``m_i b_j``, shape (regions, regions)."""

    def shown_overlap(self, weights: Floats | None = None) -> Floats:
        """Return the sum over voxels of ``b_i b_j``, weighted, shape (regions, regions)."""

    def each(self) -> Iterator[tuple[Floats, Floats]]:
        """Yield ``m_i`` and ``b_i`` one region after the other, each of shape (nx, ny, nz)."""

    def totals_covariance(self, noise: ImageNoise) -> Floats:
        """Return the covariance of :meth:`totals` of noise, shape (regions, regions)."""

    def shown_totals_covariance(self, noise: ImageNoise, weights: Floats | None = None) -> Floats:
        """Return the covariance of :meth:`shown_totals` of noise times weights."""

    def covariance(self, weights: Iterable[Floats], noise: ImageNoise) -> Floats:
        """Return the covariance of the sums over voxels of noise times each of some weights."""

    def merged(self, one: int, other: int) -> Self:
        """Return regions of which two have become one, which stands where ``one`` stood."""


class SampledRegions:
    """Regions whose fractions are at hand on the grid of the image.

    Parameters
    ----------
    fractions, blurred
        Unblurred and blurred, shape (regions, nx, ny, nz); each region may have been blurred by
        its own kernel.
    names
        Of the regions; counted from 1 if not given.

    Raises
    ------
    ValueError
        If shapes differ, something is not finite, a fraction lies outside [0, 1], fractions do
        not sum to one, or a region is empty.
    """

    def __init__(
        self, fractions: Floats, blurred: Floats, names: Sequence[str] | None = None
    ) -> None:
        if fractions.ndim != 4 or fractions.shape != blurred.shape:
            raise ValueError(
                f"shapes differ: fractions {fractions.shape}, blurred {blurred.shape}; accepted: "
                "(regions, nx, ny, nz), both the same"
            )
        self.names = tuple(names or map(str, range(1, len(fractions) + 1)))
        self.shape: tuple[int, ...] = fractions.shape[1:]
        check_finite("blurred fractions", blurred)
        check_fractions(fractions, self.names)
        self.fractions, self.blurred = fractions, blurred
        self._flat = fractions.reshape(len(fractions), -1)
        self._flat_blurred = blurred.reshape(len(blurred), -1)

    @property
    def sizes(self) -> Floats:
        """Sum of each ``m_i`` [voxels], shape (regions,)."""
        return np.asarray(self._flat.sum(axis=1, dtype=np.float64))

    def composed(self, values: Floats) -> Floats:
        """Return ``sum_i values_i m_i``, shape (nx, ny, nz)."""
        return _combined(values, self._flat, self.shape)

    def shown(self, values: Floats) -> Floats:
        """Return ``sum_i values_i b_i``, shape (nx, ny, nz)."""
        return _combined(values, self._flat_blurred, self.shape)

    def totals(self, image: Floats) -> Floats:
        """Return the sum over voxels of ``m_i`` times an image, shape (regions,)."""
        return _products(self._flat, image)

    def shown_totals(self, image: Floats) -> Floats:
        """Return the sum over voxels of ``b_i`` times an image, shape (regions,)."""
        return _products(self._flat_blurred, image)

    def overlap(self) -> Floats:
        """Return the sum over voxels of ``m_i m_j``, shape (regions, regions)."""
        return _gram(self._flat, self._flat)

    def crossing(self) -> Floats:
        """Return the sum over voxels of ``m_i b_j``, shape (regions, regions)."""
        return _gram(self._flat, self._flat_blurred)

    def shown_overlap(self, weights: Floats | None = None) -> Floats:
        """Return the sum over voxels of ``b_i b_j``, weighted, shape (regions, regions)."""
        if weights is None:
            return _gram(self._flat_blurred, self._flat_blurred)
        return _gram(self._flat_blurred * weights.reshape(1, -1), self._flat_blurred)

    def each(self) -> Iterator[tuple[Floats, Floats]]:
        """Yield ``m_i`` and ``b_i`` one region after the other, each of shape (nx, ny, nz)."""
        yield from zip(self.fractions, self.blurred, strict=True)

    def totals_covariance(self, noise: ImageNoise) -> Floats:
        """Return the covariance of :meth:`totals` of noise, shape (regions, regions)."""
        return weighted_covariance(self.fractions, noise)

    def shown_totals_covariance(self, noise: ImageNoise, weights: Floats | None = None) -> Floats:
        """Return the covariance of :meth:`shown_totals` of noise times weights."""
        rows = self.blurred if weights is None else self.blurred * weights
        return weighted_covariance(rows, noise)

    def covariance(self, weights: Iterable[Floats], noise: ImageNoise) -> Floats:
        """Return the covariance of the sums over voxels of noise times each of some weights."""
        return weighted_covariance(np.stack(list(weights)), noise)

    def merged(self, one: int, other: int) -> SampledRegions:
        """Return regions of which two have become one, which stands where ``one`` stood."""
        kept = [i for i in range(len(self.names)) if i != other]
        fractions, blurred = self.fractions.copy(), self.blurred.copy()
        fractions[one] += fractions[other]
        blurred[one] += blurred[other]
        names = list(self.names)
        names[one] = f"{names[one]}+{names[other]}"
        return SampledRegions(fractions[kept], blurred[kept], [names[i] for i in kept])


def _combined(values: Floats, rows: Floats, shape: tuple[int, ...]) -> Floats:
    return np.asarray((np.asarray(values, rows.dtype) @ rows).reshape(shape))


def _products(rows: Floats, image: Floats) -> Floats:
    return _gram(rows, image.reshape(1, -1))[:, 0]


def _gram(rows: Floats, others: Floats) -> Floats:
    """Return all products of rows, summed in double precision some voxels at a time."""
    total = np.zeros((len(rows), len(others)))
    for start in range(0, rows.shape[1], SLAB):
        part = slice(start, start + SLAB)
        total += rows[:, part].astype(np.float64) @ others[:, part].astype(np.float64).T
    return total


def check_finite(name: str, values: Floats) -> None:
    """Refuse an array with values that are not finite.

    Parameters
    ----------
    name
        Of the array, for the message.
    values
        Any shape.

    Raises
    ------
    ValueError
        With how many there are.
    """
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ValueError(f"{bad} values of the {name} are not finite")


def check_fractions(fractions: Floats, names: Sequence[str]) -> None:
    """Refuse fractions that would give numbers without meaning.

    Parameters
    ----------
    fractions
        Shape (regions, nx, ny, nz), the background among them.
    names
        Of the regions, for messages.

    Raises
    ------
    ValueError
        If something is not finite, a fraction lies outside [0, 1], fractions do not sum to one,
        or a region is empty.
    """
    check_finite("fractions", fractions)
    if fractions.min() < -TOLERANCE or fractions.max() > 1 + TOLERANCE:
        raise ValueError(
            f"fractions from {fractions.min():.3f} to {fractions.max():.3f}; accepted: 0 to 1"
        )
    total = fractions.sum(axis=0)
    if np.abs(total - 1).max() > TOLERANCE:
        raise ValueError(
            f"fractions sum to {total.min():.3f} to {total.max():.3f}; with the background they "
            "must sum to 1"
        )
    sizes = fractions.sum(axis=(1, 2, 3), dtype=np.float64)
    if sizes.min() < SMALLEST_REGION:
        least = int(sizes.argmin())
        raise ValueError(
            f"region '{names[least]}' holds {sizes[least]:.2f} voxels; at least "
            f"{SMALLEST_REGION:g} are needed"
        )
