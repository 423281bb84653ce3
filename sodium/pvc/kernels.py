"""Kernels of an image in any form, by their transfer at any spatial frequency."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.fft

from sodiumprep.sodium.acquisition import Complexes, Floats, Numbers
from sodiumprep.sodium.kernel import FWHM_TO_SIGMA, to_psf
from sodiumprep.sodium.pvc.shown import check_finite

LOST_SHARE = 1e-5  # of the absolute sum of a kernel image, outside the box that is kept
GAUSSIAN_REACH = 2.25  # FWHM; 8e-7 of the height there


class Kernel(Protocol):
    """How an image blurs a region: transfer 1 at frequency 0, times the gain."""

    @property
    def gain(self) -> float:
        """Sum of the kernel."""

    @property
    def reach(self) -> Floats:
        """Distance from the centre beyond which the kernel is nothing, shape (3,) [mm]."""

    @property
    def fwhm(self) -> Floats:
        """Full width at half maximum along each axis, shape (3,) [mm]."""

    def profile(self, axis: int, frequencies: Floats) -> Floats:
        """Return the largest magnitude of the transfer at a frequency of one axis [1/mm]."""

    def responses(self, spacing: Floats) -> tuple[Floats, ...] | None:
        """Return the kernel at multiples of a spacing [mm] along each axis, from the centre on.

        None where the kernel is not a product of three symmetric ones.
        """

    def transfer(self, frequencies: Sequence[Floats]) -> Numbers:
        """Return the transfer on the grid of the frequencies along each axis [1/mm]."""


class GaussianKernel:
    """A Gaussian along the axes of the image.

    Parameters
    ----------
    fwhm
        Full width at half maximum along each axis, shape (3,) [mm]; 0 does not blur.

    Raises
    ------
    ValueError
        If a width is negative or not finite.

    Examples
    --------
    >>> kernel = GaussianKernel([6, 6, 6])
    >>> round(float(kernel.transfer([np.array([1 / 12])] + 2 * [np.zeros(1)])[0, 0, 0]), 4)
    0.4107
    """

    gain = 1.0

    def __init__(self, fwhm: Floats | Sequence[float]) -> None:
        self.fwhm = np.broadcast_to(np.asarray(fwhm, float), (3,))
        if not (np.isfinite(self.fwhm).all() and self.fwhm.min() >= 0):
            raise ValueError(f"FWHM {self.fwhm.tolist()} mm; accepted: finite, not negative")

    @property
    def reach(self) -> Floats:
        """Distance from the centre beyond which the kernel is nothing, shape (3,) [mm]."""
        return GAUSSIAN_REACH * self.fwhm

    def profile(self, axis: int, frequencies: Floats) -> Floats:
        """Return the transfer at frequencies of one axis [1/mm]."""
        sigma = self.fwhm[axis] * FWHM_TO_SIGMA
        return np.asarray(np.exp(-2 * (np.pi * sigma * frequencies) ** 2))

    def responses(self, spacing: Floats) -> tuple[Floats, ...]:
        """Return the Gaussian at multiples of a spacing [mm] along each axis, its sum being 1."""
        found = []
        for width, far, step in zip(self.fwhm, self.reach, spacing, strict=True):
            lags = np.arange(int(np.ceil(far / step)) + 1) * step
            one = np.exp(-0.5 * (lags / max(width * FWHM_TO_SIGMA, 1e-9)) ** 2)
            found.append(one / (2 * one[1:].sum() + one[0]))
        return tuple(found)

    def transfer(self, frequencies: Sequence[Floats]) -> Floats:
        """Return the transfer on the grid of the frequencies along each axis [1/mm]."""
        x, y, z = (self.profile(axis, f) for axis, f in enumerate(frequencies))
        return np.asarray(x[:, None, None] * y[:, None] * z)


class ImageKernel:
    """A kernel of any shape, sampled on a grid along the axes of the image.

    Parameters
    ----------
    values
        Shape (kx, ky, kz), its centre at index ``n // 2``.
    spacing
        Of its voxels, shape (3,) [mm]. It need not be that of the image: frequencies that this
        grid cannot hold do not pass.

    Raises
    ------
    ValueError
        If a value is not finite.
    """

    def __init__(self, values: Floats, spacing: Floats | Sequence[float]) -> None:
        check_finite("kernel", values)
        self.gain = float(values.sum(dtype=np.float64))
        self.spacing = np.asarray(spacing, float)
        self.values, self._start = _held_box(np.asarray(values, np.float64))

    @classmethod
    def of_transfer(cls, transfer: Numbers, spacing: Floats) -> ImageKernel:
        """Return the kernel of a transfer function.

        Parameters
        ----------
        transfer
            On the frequencies of twice the field of view, shape (2 nx, 2 ny, nz + 1).
        spacing
            Voxels of the image, shape (3,) [mm].
        """
        return cls(to_psf(np.asarray(transfer, np.complex64)), spacing)

    @property
    def reach(self) -> Floats:
        """Distance from the centre beyond which the kernel is nothing, shape (3,) [mm]."""
        ends = [max(-s, s + n - 1) for s, n in zip(self._start, self.values.shape, strict=True)]
        return np.asarray(ends) * self.spacing

    @property
    def fwhm(self) -> Floats:
        """Full width at half maximum of a line through the centre, shape (3,) [mm]."""
        return np.array([_width(self._line(axis)) for axis in range(3)]) * self.spacing

    def _line(self, axis: int) -> Floats:
        at: list[int | slice] = [-s for s in self._start]
        at[axis] = slice(None)
        return self.values[tuple(at)]

    @cached_property
    def _profiles(self) -> list[tuple[Floats, Floats]]:
        shape = [scipy.fft.next_fast_len(2 * n, real=True) for n in self.values.shape]
        magnitude = np.abs(scipy.fft.fftn(self.values.astype(np.float32), shape))
        found = []
        for axis, n in enumerate(shape):
            other = tuple(a for a in range(3) if a != axis)
            half = magnitude.max(axis=other)[: n // 2 + 1]
            found.append((np.arange(n // 2 + 1) / (n * self.spacing[axis]), half))
        return found

    def profile(self, axis: int, frequencies: Floats) -> Floats:
        """Return the largest magnitude of the transfer at a frequency of one axis [1/mm]."""
        return np.interp(np.abs(frequencies), *self._profiles[axis], right=0.0)

    def responses(self, spacing: Floats) -> None:
        """Return None: the kernel is no product of three."""

    def transfer(self, frequencies: Sequence[Floats]) -> Complexes:
        """Return the transfer on the grid of the frequencies along each axis [1/mm]."""
        found = self.values.astype(np.complex64)
        for f, start, n, spacing in zip(
            frequencies, self._start, self.values.shape, self.spacing, strict=True
        ):
            place = (start + np.arange(n)) * spacing
            waves = np.exp(-2j * np.pi * np.outer(place, f)).astype(np.complex64)
            waves[:, np.abs(f) > 0.5 / spacing] = 0  # this grid cannot hold it
            found = np.tensordot(found, waves, (0, 0))  # the axis goes to the end
        return np.asarray(found)


def _held_box(values: Floats) -> tuple[Floats, list[int]]:
    """Cut off what holds almost nothing; return the rest, and its first index from the centre."""
    start, box = [], []
    for axis, n in enumerate(values.shape):
        along = np.abs(values).sum(axis=tuple(a for a in range(3) if a != axis))
        held = np.flatnonzero(along >= LOST_SHARE * along.sum() / 2)
        first, last = min(held[0], n // 2), max(held[-1], n // 2)
        start.append(int(first) - n // 2)
        box.append(slice(first, last + 1))
    return values[tuple(box)], start


def _width(line: Floats) -> float:
    """Return the width at half maximum [samples], between samples by straight lines."""
    peak = int(line.argmax())
    sides = (line[peak:], line[peak::-1])
    return float(sum(_fall(side / line[peak]) for side in sides))


def _fall(side: Floats) -> float:
    below = np.flatnonzero(side < 0.5)
    if not below.size:
        return len(side) - 0.5
    k = below[0]
    return float(k - (0.5 - side[k]) / (side[k - 1] - side[k]))
