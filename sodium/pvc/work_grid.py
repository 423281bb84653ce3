"""The grid that an image resolves, and the way from the finer grid of its voxels and back.

All is separable: one matrix per axis. ``up`` gives values at voxels from values on the work grid,
exactly for what a kernel lets pass. Its adjoint is the low pass through which fractions and
images come to the work grid: sums over voxels of a product with a blurred image become sums over
the work grid without an error of sampling, also at the borders of the field of view. There,
whatever blurs is continued by its nearest voxel, so that a constant stays constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, toeplitz

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.pvc.kernels import Kernel

TAPS = 6  # neighbours on either side from which a voxel is interpolated
LEAST_RATIO = 1.25  # work voxel over voxel; below it nothing is gained
# Frequencies are kept up to ROOM times the last at which the kernel passes PASSED, so that a
# Gaussian is sampled at 0.27 of its FWHM (a third would leave errors of 2e-4 with a hundred
# regions); a kernel that ends steeply needs room beyond HALF
PASSED, ROOM = 4e-3, 1.5
HALF, STEEP_ROOM = 0.3, 1.7
RIDGE = 1e-12  # of the normal equations of the interpolation
EDGES = 0.01  # cycles per sample below which regions hold no more power
FREQUENCIES = 601  # up to the Nyquist frequency of the image, at which a kernel is looked at
CHUNK = 32  # rows of a banded matrix that are applied together

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class WorkAxis:
    """One axis of the work grid.

    Parameters
    ----------
    up
        Values at voxels from values on the work grid, shape (voxels, work).
    down
        Low pass of what is continued beyond the field of view, shape (work, voxels).
    spacing
        Of the work grid [mm].
    ratio
        Work spacing over voxel edge.
    margin
        Work voxels beyond the field of view at either end.
    """

    up: Floats
    down: Floats
    spacing: float
    ratio: float
    margin: int

    @property
    def n_work(self) -> int:
        """Number of work voxels."""
        return self.up.shape[1]


def work_axis(n: int, voxel: float, kernels: Sequence[Kernel], axis: int) -> WorkAxis:
    """Return the work grid along one axis of an image.

    Parameters
    ----------
    n
        Voxels.
    voxel
        Their edge [mm].
    kernels
        All that are in use.
    axis
        0, 1 or 2.

    Returns
    -------
    axis
        As coarse as the sharpest kernel allows; the voxels themselves where nothing is gained.
    """
    frequencies = np.linspace(0, 0.5 / voxel, FREQUENCIES)
    profile = np.max([k.profile(axis, frequencies) for k in kernels], axis=0)
    reach = max(float(k.reach[axis]) for k in kernels)
    ratio = work_ratio(frequencies * voxel, profile)
    if ratio == 1:
        margin = int(np.ceil(reach / voxel))
        up = np.eye(n, n + 2 * margin, margin, dtype=np.float32)
        return WorkAxis(up, _down(np.eye(n + 2 * margin), margin, n), voxel, 1.0, margin)
    margin = TAPS + int(np.ceil(reach / (voxel * ratio)))
    inside = int(np.ceil((n - 1) / ratio)) + 1
    first = ((n - 1) - (inside - 1) * ratio) / 2 - margin * ratio  # in voxels, the grid is centred
    beyond = int(np.ceil(-first + TAPS * ratio))
    places = (np.arange(-beyond, n + beyond) - first) / ratio
    rows = interpolation(places, inside + 2 * margin, frequencies * voxel * ratio, profile)
    up = rows[beyond : beyond + n]
    return WorkAxis(
        up.astype(np.float32), _down(rows / ratio, beyond, n), voxel * ratio, ratio, margin
    )


def work_ratio(frequencies: Floats, profile: Floats) -> float:
    """Return how many voxels a work voxel may be wide.

    Parameters
    ----------
    frequencies
        Cycles per voxel, increasing from 0, shape (m,).
    profile
        Magnitude of the sharpest transfer there, shape (m,).

    Returns
    -------
    ratio
        1 where less than a quarter would be gained.

    Examples
    --------
    >>> f = np.linspace(0, 0.5, 1000)
    >>> round(work_ratio(f, np.exp(-2 * (np.pi * f * 6 / 2.3548) ** 2)), 1)  # FWHM of 6 voxels
    1.6
    """
    last = max(
        room * float(frequencies[np.flatnonzero(profile > share * profile[0])[-1]])
        for share, room in ((PASSED, ROOM), (HALF, STEEP_ROOM))
    )
    ratio = 0.5 / max(last, float(frequencies[1]))
    return ratio if ratio >= LEAST_RATIO else 1.0


def interpolation(places: Floats, n: int, frequencies: Floats, profile: Floats) -> Floats:
    """Return the weights that interpolate what a kernel lets pass with the least square error.

    Parameters
    ----------
    places
        Where values are wanted [samples], shape (m,).
    n
        Samples.
    frequencies
        Cycles per sample, shape (k,).
    profile
        Transfer of the kernel there. The power that is expected is that of blurred edges, which
        falls with the square of the frequency.

    Returns
    -------
    weights
        Shape (m, n), up to ``2 TAPS`` neighbours in each row; rows sum to 1 but for taps that
        would lie outside.
    """
    held = frequencies <= 0.5
    waves = 2 * np.pi * frequencies[held]
    power = profile[held] ** 2 / (frequencies[held] ** 2 + EDGES**2)
    taps = np.arange(1 - TAPS, TAPS + 1)
    correlation = np.cos(np.outer(np.arange(2 * TAPS), waves)) @ power
    correlation[0] *= 1 + RIDGE
    base = np.floor(places + 1e-9).astype(int)
    wanted = np.cos((places - base)[:, None, None] * waves - taps[:, None] * waves) @ power
    found = cho_solve(cho_factor(toeplitz(correlation)), wanted.T).T
    found /= found.sum(axis=1, keepdims=True)
    columns = base[:, None] + taps
    inside = (columns >= 0) & (columns < n)
    weights = np.zeros((len(places), n))
    rows = np.broadcast_to(np.arange(len(places))[:, None], columns.shape)
    weights[rows[inside], columns[inside]] = found[inside]
    return weights


def _down(rows: Floats, beyond: int, n: int) -> Floats:
    """Return the adjoint of an interpolation of an image that its nearest voxel continues."""
    inside = rows[beyond : beyond + n].copy()
    inside[0] += rows[:beyond].sum(axis=0)
    inside[-1] += rows[beyond + n :].sum(axis=0)
    return np.ascontiguousarray(inside.T, np.float32)


def along(matrix: Floats, values: Floats, axis: int) -> Floats:
    """Apply a banded matrix along one axis.

    Parameters
    ----------
    matrix
        Shape (m, n).
    values
        Shape n along ``axis``, float32, contiguous.
    axis
        0, 1 or 2.

    Returns
    -------
    product
        Shape m along ``axis``.
    """
    shape = list(values.shape)
    shape[axis] = len(matrix)
    out = np.empty(shape, np.float32)
    for start in range(0, len(matrix), CHUNK):
        rows = matrix[start : start + CHUNK]
        used = held_range((rows != 0).any(axis=0))
        taken = rows[:, used]
        to = slice(start, start + len(rows))
        if axis == 0:
            flat = values[used].reshape(taken.shape[1], -1)
            np.matmul(taken, flat, out=out[to].reshape(len(rows), -1))
        elif axis == 1:
            np.matmul(taken, values[:, used], out=out[:, to])
        else:
            np.matmul(values[:, :, used], taken.T, out=out[:, :, to])
    return out


def held_range(held: NDArray[np.bool_]) -> slice:
    """Return the range in which something is held, an empty one if nothing is.

    Parameters
    ----------
    held
        Boolean, shape (n,).

    Returns
    -------
    range
        From the first to the last.
    """
    where = np.flatnonzero(held)
    return slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, 0)


def to_work(matrices: Sequence[Floats], values: Floats) -> Floats:
    """Apply one matrix along each axis, the last axis first, as is cheapest for a reduction.

    Parameters
    ----------
    matrices
        Shapes (m, n) for each axis.
    values
        Shape (nx, ny, nz), float32.

    Returns
    -------
    reduced
        Shape (mx, my, mz).
    """
    found = np.ascontiguousarray(values, np.float32)
    for axis in (2, 1, 0):
        found = along(matrices[axis], found, axis)
    return found


@dataclass(frozen=True)
class Block:
    """Values in a box of a grid, 0 outside.

    Parameters
    ----------
    box
        Where they lie.
    values
        Of the shape of the box.
    """

    box: Box
    values: Floats

    def within(self, box: Box) -> tuple[Box, Floats] | None:
        """Return the part that lies in another box, and its place there."""
        place, own = [], []
        for mine, other in zip(self.box, box, strict=True):
            first, last = max(mine.start, other.start), min(mine.stop, other.stop)
            if first >= last:
                return None
            place.append(slice(first - other.start, last - other.start))
            own.append(slice(first - mine.start, last - mine.start))
        return (place[0], place[1], place[2]), self.values[tuple(own)]


class WorkGrid:
    """The grid on which the work is done for an image.

    Parameters
    ----------
    shape
        Of the image.
    spacing
        Voxel edges of the image, shape (3,) [mm].
    kernels
        All that are in use.
    """

    def __init__(self, shape: tuple[int, ...], spacing: Floats, kernels: Sequence[Kernel]) -> None:
        self.image_shape = shape
        self.axes = [
            work_axis(n, float(s), kernels, axis)
            for axis, (n, s) in enumerate(zip(shape, spacing, strict=True))
        ]
        self.shape = tuple(a.n_work for a in self.axes)
        self.spacing = np.array([a.spacing for a in self.axes])
        self._squares = [a.up.T @ a.up for a in self.axes]
        self.voxels_each = float(np.prod([a.ratio for a in self.axes]))

    @property
    def everywhere(self) -> Box:
        """The box of the whole grid."""
        x, y, z = (slice(0, n) for n in self.shape)
        return x, y, z

    def summed(self, values: Floats, box: Box) -> Block:
        """Return the adjoint of ``up``: sums over voxels become sums over the work grid.

        Parameters
        ----------
        values
            Of the voxels in ``box``.
        box
            Of the image.
        """
        ups = [a.up[b].T for a, b in zip(self.axes, box, strict=True)]
        return _reduced(ups, values)

    def lowered(self, values: Floats, box: Box) -> Block:
        """Return the low pass of what is continued beyond the field of view.

        Parameters
        ----------
        values
            Of the voxels in ``box``, 0 elsewhere in the field of view.
        box
            Of the image.
        """
        downs = [a.down[:, b] for a, b in zip(self.axes, box, strict=True)]
        return _reduced(downs, values)

    def inside(self, box: Box) -> bool:
        """Tell whether a box of voxels stays away from the borders of the field of view."""
        return all(b.start > 0 and b.stop < n for b, n in zip(box, self.image_shape, strict=True))

    def add_raised(self, image: Floats, block: Block) -> None:
        """Add to an image what a block of the work grid shows at its voxels.

        Parameters
        ----------
        image
            Shape of the image, float32; changed in place.
        block
            Of the work grid.
        """
        ups = [a.up[:, b] for a, b in zip(self.axes, block.box, strict=True)]
        x, y, z = (held_range((u != 0).any(axis=1)) for u in ups)
        low = along(ups[1][y], along(ups[2][z], np.ascontiguousarray(block.values), 2), 1)
        for start in range(x.start, x.stop, CHUNK):
            rows = slice(start, min(start + CHUNK, x.stop))
            used = held_range((ups[0][rows] != 0).any(axis=0))
            planes = ups[0][rows, used] @ low[used].reshape(used.stop - used.start, -1)
            image[rows, y, z] += planes.reshape(-1, *low.shape[1:])

    def normal(self, block: Block) -> Block:
        """Return ``up`` and its adjoint applied: products with it are sums over voxels.

        Parameters
        ----------
        block
            Of the work grid.
        """
        squares = [self._squares[axis][:, b] for axis, b in enumerate(block.box)]
        return _reduced(squares, block.values)

    def blurred(self, block: Block, kernel: Kernel) -> Block:
        """Return a low-passed region as its kernel shows it.

        Parameters
        ----------
        block
            Of the work grid.
        kernel
            Of the region.
        """
        far = np.ceil(kernel.reach / self.spacing).astype(int)
        wide = [
            slice(max(b.start - f, 0), min(b.stop + f, n))
            for b, f, n in zip(block.box, far, self.shape, strict=True)
        ]
        box = (wide[0], wide[1], wide[2])
        responses = kernel.responses(self.spacing)
        if responses is None:
            return Block(box, self._transformed(block, kernel, box, far))
        matrices = [
            _convolution(response, b, w)
            for response, b, w in zip(responses, block.box, box, strict=True)
        ]
        return Block(box, to_work(matrices, block.values))

    def _transformed(self, block: Block, kernel: Kernel, box: Box, far: Floats) -> Floats:
        """Blur by a Fourier transform of a box with room for the kernel on one side."""
        sizes = [
            int(scipy.fft.next_fast_len(b.stop - b.start + 2 * int(f), real=True))
            for b, f in zip(block.box, far, strict=True)
        ]
        spectrum = scipy.fft.rfftn(block.values, sizes)
        frequencies = [np.fft.fftfreq(n, s) for n, s in zip(sizes, self.spacing, strict=True)]
        frequencies[2] = np.abs(frequencies[2][: sizes[2] // 2 + 1])
        spectrum *= kernel.transfer(frequencies).astype(np.complex64)
        whole = scipy.fft.irfftn(spectrum, sizes)
        ahead = [b.start - w.start for b, w in zip(block.box, box, strict=True)]
        shifted = np.roll(whole, ahead, axis=(0, 1, 2))  # what reaches ahead of the box wraps
        return np.ascontiguousarray(shifted[tuple(slice(0, w.stop - w.start) for w in box)])


def _reduced(matrices: Sequence[Floats], values: Floats) -> Block:
    boxes = [held_range((m != 0).any(axis=1)) for m in matrices]
    rows = [np.ascontiguousarray(m[b]) for m, b in zip(matrices, boxes, strict=True)]
    return Block((boxes[0], boxes[1], boxes[2]), to_work(rows, values))


def _convolution(response: Floats, box: slice, wide: slice) -> Floats:
    """Return the matrix of a symmetric blur from one range to another."""
    distance = np.abs(np.arange(wide.start, wide.stop)[:, None] - np.arange(box.start, box.stop))
    padded = np.append(response, 0.0)
    return np.asarray(padded[np.minimum(distance, len(response))], np.float32)
