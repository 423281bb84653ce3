"""Regions of an image whose voxels are finer than what it resolves."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import scipy.fft

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.noise import ImageNoise, normalized_spectrum
from sodiumprep.sodium.pvc.kernels import ImageKernel, Kernel
from sodiumprep.sodium.pvc.parts import (
    Normalization,
    Part,
    overlaps,
    parts_of_fractions,
    parts_of_labels,
)
from sodiumprep.sodium.pvc.shown import SMALLEST_REGION, SampledRegions
from sodiumprep.sodium.pvc.work_grid import Block, Box, WorkAxis, WorkGrid

BACKGROUND = "background"
TILE = 20  # work voxels along the edge of a tile in which products of regions are summed
LONGEST_LAG = 2.5  # FWHM; noise that the same coverage of k-space limits is not correlated beyond


class ReducedRegions:
    """Regions on a fine grid, with the work done on the grid that the image resolves.

    Each region is held as a list of its voxels, and on the work grid in two boxes: summed by the
    adjoint of the interpolation (``m_i``), and low-passed and blurred (``b_i``). The background
    is what is missing to one; it needs no box, since what its kernel shows of it is the kernel's
    gain less what it shows of all others. Beyond the field of view the nearest voxel continues.

    Parameters
    ----------
    parts
        Voxels of each region but the background.
    shape
        Of the image.
    spacing
        Its voxel edges, shape (3,) [mm].
    kernels
        One for each region, then that of the background; or one for all.
    names
        Of the regions but the background; counted from 1 if not given.

    Raises
    ------
    ValueError
        If kernels and regions differ in number, or a kernel is wider than the field of view.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        shape: tuple[int, ...],
        spacing: Floats,
        kernels: Sequence[Kernel],
        names: Sequence[str] | None = None,
    ) -> None:
        self.parts, self.shape = list(parts), tuple(shape)
        self.spacing = np.asarray(spacing, float)
        kernels = kernels_of_all(kernels, len(parts))
        check_kernels(kernels, self.spacing * shape)
        self.grid = WorkGrid(self.shape, self.spacing, kernels)
        self.fwhm = np.max([k.fwhm for k in kernels], axis=0)
        self._names = [str(n) for n in names or range(1, len(parts) + 1)]
        self._gain = kernels[-1].gain
        self._reduce(kernels)
        self._crossed: Floats | None = None  # kept, since several methods ask for it
        self._last_shown: tuple[Floats, Floats] | None = None  # a map begins with what gtm ends
        self._part_sizes = np.array([p.size for p in parts])
        self.has_background = self._n_voxels - self._part_sizes.sum() >= SMALLEST_REGION

    @classmethod
    def of_labels(
        cls,
        labels: Integers,
        spacing: Floats,
        kernels: Sequence[Kernel],
        numbers: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> ReducedRegions:
        """Return the regions of a label image.

        Parameters
        ----------
        labels
            Shape (nx, ny, nz); 0 and numbers that are not asked for are background.
        spacing
            Voxel edges, shape (3,) [mm].
        kernels
            One for each region, then that of the background; or one for all.
        numbers
            Labels in the order of the regions; all that are found if not given.
        names
            Theirs; the numbers if not given.
        """
        numbers = label_numbers(labels) if numbers is None else numbers
        names = [str(n) for n in numbers] if names is None else names
        parts = parts_of_labels(np.ascontiguousarray(labels), numbers, names)
        return cls(parts, labels.shape, spacing, kernels, names)

    @classmethod
    def of_fractions(
        cls,
        volumes: Iterable[Floats],
        spacing: Floats,
        kernels: Sequence[Kernel],
        names: Sequence[str],
    ) -> tuple[ReducedRegions, Normalization]:
        """Return the regions of soft fractions that come one after the other.

        Parameters
        ----------
        volumes
            One for each region, each of shape (nx, ny, nz); only one is held at a time.
        spacing
            Voxel edges, shape (3,) [mm].
        kernels
            One for each region, then that of the background; or one for all.
        names
            Of the regions but the background.
        """
        shape: list[int] = []

        def watched() -> Iterator[Floats]:
            for volume in volumes:
                shape[:] = volume.shape
                yield volume

        parts, normalization = parts_of_fractions(watched(), names)
        return cls(parts, tuple(shape), spacing, kernels, names), normalization

    def _reduce(self, kernels: Sequence[Kernel]) -> None:
        """Bring every region to the work grid, and blur it there."""
        self._summed: list[Block] = []
        self._shown: list[Block] = []
        shared = all(k is kernels[-1] for k in kernels)
        lowered = []
        for part, kernel in zip(self.parts, kernels, strict=False):
            fine = part.block(self.shape)
            summed = self.grid.summed(fine.values, fine.box)
            if self.grid.inside(fine.box):
                low = Block(summed.box, summed.values * np.float32(1 / self.grid.voxels_each))
            else:
                low = self.grid.lowered(fine.values, fine.box)
            self._summed.append(summed)
            self._shown.append(self.grid.blurred(low, kernel))
            if not shared:
                lowered.append(low)
        together = _together(self._shown if shared else lowered)
        self._others = together if shared else self.grid.blurred(together, kernels[-1])
        self._columns = [a.up.sum(axis=0) for a in self.grid.axes]

    @property
    def _n_voxels(self) -> int:
        return int(np.prod(self.shape))

    @property
    def names(self) -> Sequence[str]:
        """Of the regions, the background last."""
        return [*self._names, BACKGROUND][: len(self._from_parts)]

    @property
    def _from_parts(self) -> Floats:
        """From what (parts, everything) give to what regions give."""
        n = len(self.parts)
        matrix = np.eye(n + 1)
        matrix[n, :n] = -1
        return matrix if self.has_background else matrix[:n]

    @property
    def _from_shown(self) -> Floats:
        """From what (shown parts, parts as the background's kernel shows them, 1) give."""
        n = len(self.parts)
        matrix = np.eye(n + 1, n + 2)
        matrix[n, n:] = -1, self._gain
        return matrix if self.has_background else matrix[:n]

    @property
    def sizes(self) -> Floats:
        """Sum of each ``m_i`` [voxels], shape (regions,)."""
        return self._from_parts @ [*self._part_sizes, self._n_voxels]

    def composed(self, values: Floats) -> Floats:
        """Return ``sum_i values_i m_i``, shape (nx, ny, nz)."""
        base = values[-1] if self.has_background else 0.0
        out = np.full(self.shape, base, np.float32)
        flat = out.ravel()
        for part, value in zip(self.parts, values, strict=False):
            if part.share is None:
                flat[part.index] = np.float32(value)  # nothing else lies there
            else:
                flat[part.index] += np.float32(value - base) * part.share
        return out

    def composed_of(self, signals: Floats) -> Floats:
        """Return the sum over regions of ``m_i`` times a smooth map of its own.

        Parameters
        ----------
        signals
            On the grid of :meth:`sampled`, one for each region but the background, shape (parts,
            mx, my, mz); 0 where that grid does not reach.
        """
        out = np.zeros(self.shape, np.float32)
        box = self._sampled_box
        for part, signal in zip(self.parts, signals, strict=True):
            fine = np.zeros(self.shape, np.float32)
            self.grid.add_raised(fine, Block(box, signal.astype(np.float32)))
            share = 1 if part.share is None else part.share
            out.ravel()[part.index] += share * fine.ravel()[part.index]
        return out

    @property
    def _sampled_box(self) -> Box:
        return _box_inside(self._others.box, self.grid.axes)

    def shown(self, values: Floats) -> Floats:
        """Return ``sum_i values_i b_i``, shape (nx, ny, nz); it must not be changed in place."""
        if self._last_shown is not None and np.array_equal(self._last_shown[0], values):
            return self._last_shown[1]
        base = values[-1] if self.has_background else 0.0
        out = np.full(self.shape, base * self._gain, np.float32)
        weights = [*values[: len(self.parts)], -base]
        self.grid.add_raised(out, _together([*self._shown, self._others], weights))
        out.flags.writeable = False
        self._last_shown = (np.array(values), out)
        return out

    def totals(self, image: Floats) -> Floats:
        """Return the sum over voxels of ``m_i`` times an image, shape (regions,)."""
        image = np.ascontiguousarray(image)
        each = [part.total(image) for part in self.parts]
        return self._from_parts @ [*each, image.sum(dtype=np.float64)]

    def shown_totals(self, image: Floats) -> Floats:
        """Return the sum over voxels of ``b_i`` times an image, shape (regions,)."""
        low = self.reduced(image)
        each = [_dot(block, low) for block in [*self._shown, self._others]]
        return self._from_shown @ [*each, image.sum(dtype=np.float64)]

    def reduced(self, image: Floats) -> Block:
        """Return the sums over voxels that an image gives on the work grid."""
        return self.grid.summed(image, self._whole)

    @property
    def _whole(self) -> Box:
        x, y, z = (slice(0, n) for n in self.shape)
        return x, y, z

    def overlap(self) -> Floats:
        """Return the sum over voxels of ``m_i m_j``, shape (regions, regions)."""
        table = np.zeros([len(self.parts) + 1] * 2)
        table[:-1, :-1] = overlaps(self.parts, self._n_voxels)
        table[-1, :-1] = table[:-1, -1] = self._part_sizes
        table[-1, -1] = self._n_voxels
        return self._from_parts @ table @ self._from_parts.T

    def crossing(self) -> Floats:
        """Return the sum over voxels of ``m_i b_j``, shape (regions, regions)."""
        if self._crossed is None:
            rows = [*self._summed, self._everything()]
            self._crossed = _products(rows, [*self._shown, self._others], self.grid.shape)
        ones = np.array([*self._part_sizes, self._n_voxels])
        return self._from_parts @ np.column_stack([self._crossed, ones]) @ self._from_shown.T

    def _everything(self, weights: Floats | None = None) -> Block:
        """Return the sums over voxels of weights, or of 1."""
        if weights is not None:
            return self.reduced(weights)
        x, y, z = self._columns
        return Block(self.grid.everywhere, (x[:, None, None] * y[:, None] * z).astype(np.float32))

    def shown_overlap(self, weights: Floats | None = None) -> Floats:
        """Return the sum over voxels of ``b_i b_j``, weighted, shape (regions, regions)."""
        columns = [*self._shown, self._others]
        everything = self._everything(weights)
        if weights is None:
            rows = [self.grid.normal(block) for block in columns]
            sums = [_dot(block, everything) for block in columns]
        else:  # what is shown is smooth: a sum over the work grid is that over all voxels
            rows = [_times(block, everything) for block in columns]
            sums = [float(row.values.sum(dtype=np.float64)) for row in rows]
        table = np.zeros([len(columns) + 1] * 2)
        table[:-1, :-1] = _products(rows, columns, self.grid.shape)
        table[-1, :-1] = table[:-1, -1] = sums
        table[-1, -1] = everything.values.sum(dtype=np.float64)
        return self._from_shown @ ((table + table.T) / 2) @ self._from_shown.T

    def each(self) -> Iterator[tuple[Floats, Floats]]:
        """Yield ``m_i`` and ``b_i`` one region after the other, each of shape (nx, ny, nz)."""
        for part, block in zip(self.parts, self._shown, strict=True):
            shown = np.zeros(self.shape, np.float32)
            self.grid.add_raised(shown, block)
            yield part.dense(self.shape), shown
        if self.has_background:
            last = np.eye(len(self.names))[-1]
            yield self.composed(last), self.shown(last)

    def merged(self, one: int, other: int) -> ReducedRegions:
        """Return regions of which two have become one, which stands where ``one`` stood.

        Raises
        ------
        ValueError
            If one of both is the background, which is what is missing to one.
        """
        if max(one, other) >= len(self.parts):
            raise ValueError(
                f"'{self.names[min(one, other)]}' cannot be told from the background; "
                "leave it out of the regions"
            )
        kept = [i for i in range(len(self.parts)) if i != other]
        new = copy.copy(self)
        new._crossed = new._last_shown = None
        new._names = [self._names[i] for i in kept]
        new.parts = [self.parts[i] for i in kept]
        new._summed = [self._summed[i] for i in kept]
        new._shown = [self._shown[i] for i in kept]
        at = kept.index(one)
        new._names[at] = f"{self._names[one]}+{self._names[other]}"
        new.parts[at] = _joined(self.parts[one], self.parts[other])
        new._summed[at] = _together([self._summed[one], self._summed[other]])
        new._shown[at] = _together([self._shown[one], self._shown[other]])
        new._part_sizes = np.array([p.size for p in new.parts])
        return new

    def totals_covariance(self, noise: ImageNoise) -> Floats:
        """Return the covariance of :meth:`totals` of noise, shape (regions, regions).

        The spectrum is that of twice any box of the work grid, as :meth:`residual_noise` gives.
        """
        rows = [*self._summed, self._everything()]
        return self._from_parts @ self._covariance(rows, noise) @ self._from_parts.T

    def shown_totals_covariance(self, noise: ImageNoise, weights: Floats | None = None) -> Floats:
        """Return the covariance of :meth:`shown_totals` of noise times weights."""
        everything = self._everything(weights)
        rows = [_times(block, everything) for block in [*self._shown, self._others]]
        return self._from_shown @ self._covariance([*rows, everything], noise) @ self._from_shown.T

    def covariance(self, weights: Iterable[Floats], noise: ImageNoise) -> Floats:
        """Return the covariance of the sums over voxels of noise times each of some weights."""
        return self._covariance([self.reduced(w) for w in weights], noise)

    def _covariance(self, rows: Sequence[Block], noise: ImageNoise) -> Floats:
        correlation = ImageKernel.of_transfer(noise.spectrum, self.grid.spacing)
        lowest, highest = float(noise.noise_sd.min()), float(noise.noise_sd.max())
        square = highest**2
        if lowest < highest:
            square = 1.0
            level = self.grid.lowered(noise.noise_sd, self._whole)
            rows = [_times(row, level) for row in rows]
        spread = [self.grid.blurred(row, correlation) for row in rows]
        table = _products(rows, spread, self.grid.shape)
        return square * (table + table.T) / 2

    def drawn_noise(self, noise: ImageNoise, rng: np.random.Generator) -> Floats:
        """Draw the noise of an image, as far as the work grid holds it.

        Parameters
        ----------
        noise
            As :meth:`residual_noise` gives it.
        rng
            Source of randomness.

        Returns
        -------
        noise
            Shape (nx, ny, nz).
        """
        room = [n // 2 for n in noise.spectrum.shape[:2]] + [noise.spectrum.shape[2] - 1]
        sizes = [
            int(scipy.fft.next_fast_len(n + r, real=True))
            for n, r in zip(self.grid.shape, room, strict=True)
        ]
        frequencies = [np.fft.fftfreq(n, s) for n, s in zip(sizes, self.grid.spacing, strict=True)]
        frequencies[2] = np.abs(frequencies[2][: sizes[2] // 2 + 1])
        power = ImageKernel.of_transfer(noise.spectrum, self.grid.spacing).transfer(frequencies)
        white = scipy.fft.rfftn(rng.standard_normal(sizes, np.float32))
        white *= np.sqrt(np.maximum(power.real, 0))
        x, y, z = self.grid.everywhere
        drawn = scipy.fft.irfftn(white, sizes)[x, y, z]
        out = np.zeros(self.shape, np.float32)
        self.grid.add_raised(out, Block(self.grid.everywhere, drawn))
        out *= noise.noise_sd
        return out

    def residual_noise(
        self, image: Floats, values: Floats, noise_sd: Floats | None = None
    ) -> ImageNoise:
        """Return the noise that an image shows as what regions do not explain.

        Level and correlation are read inside the regions, background excluded. What a region
        holds beside its mean counts as noise, so that the level is an upper bound; and what the
        regional values have taken up is missing at the lowest frequencies.

        Parameters
        ----------
        image
            Shape (nx, ny, nz).
        values
            Of the regions, shape (regions,).
        noise_sd
            Where it is known, shape (nx, ny, nz): then only the correlation is estimated.

        Returns
        -------
        noise
            Its SD is that of what the work grid holds of the noise, on the grid of the image; its
            spectrum is on twice a box of the work grid.
        """
        residual = image - self.shown(values)
        low, where = self.reduced(residual), _together(self._summed)
        there = _dense([low], where.box)[0]
        mask = np.clip(where.values / self.grid.voxels_each, 0, 1)
        lag = LONGEST_LAG * self.fwhm / self.grid.spacing
        level, spectrum = residual_correlation(there / self.grid.voxels_each, mask, lag)
        if noise_sd is None:
            return ImageNoise(np.full(self.shape, level, np.float32), spectrum)
        squares = np.ascontiguousarray(residual * residual)
        fine = np.sqrt(sum(p.total(squares) for p in self.parts) / self._part_sizes.sum())
        return ImageNoise(noise_sd * np.float32(min(level / fine, 1.0)), spectrum)

    def sampled(self, image: Floats) -> tuple[SampledRegions, Floats]:
        """Return regions and image as they are on the work grid, in a box around the regions.

        Fractions are means over work voxels: enough to tell what changes of kernel, place or
        border do, not for the values themselves.

        Parameters
        ----------
        image
            Shape (nx, ny, nz).
        """
        box = self._sampled_box
        cells = [_cells(a, n)[b] for a, n, b in zip(self.grid.axes, self.shape, box, strict=True)]
        means = []
        for part in self.parts:
            fine = part.block(self.shape)
            held = [c[:, b] for c, b in zip(cells, fine.box, strict=True)]
            means.append(np.einsum("ai,bj,ck,ijk->abc", *held, fine.values, optimize=True))
        fractions = np.stack(means).astype(np.float32)
        shown = _dense([*self._shown, self._others], box)
        blurred = np.concatenate([shown[:-1], self._gain - shown[-1:]])
        rest = 1 - fractions.sum(axis=0, keepdims=True)
        n = len(self.names)
        everything = np.concatenate([fractions, rest])[:n]
        return SampledRegions(everything, blurred[:n], self.names), self.sampled_image(image)

    def sampled_image(self, image: Floats) -> Floats:
        """Return the image as it is on the grid of :meth:`sampled`.

        Parameters
        ----------
        image
            Shape (nx, ny, nz).
        """
        low = _dense([self.reduced(image), self._everything()], self._sampled_box)
        return low[0] / low[1]


def label_numbers(labels: Integers) -> list[int]:
    """Return the numbers above 0 that a label image holds.

    Parameters
    ----------
    labels
        Any shape, not negative.
    """
    largest = int(labels.max())
    held = np.zeros(largest + 1, bool)
    held[labels.ravel()] = True
    return [int(n) for n in np.flatnonzero(held) if n]


def kernels_of_all(kernels: Sequence[Kernel], n_parts: int) -> list[Kernel]:
    """Return one kernel for each region and for the background.

    Parameters
    ----------
    kernels
        One for all, one for each region (the background then takes that of the last), or one for
        each region and the background.
    n_parts
        Number of regions but the background.

    Raises
    ------
    ValueError
        If there is another number of kernels.
    """
    if len(kernels) == 1:
        return [kernels[0]] * (n_parts + 1)
    if len(kernels) == n_parts:
        return [*kernels, kernels[-1]]
    if len(kernels) != n_parts + 1:
        raise ValueError(
            f"{len(kernels)} kernels for {n_parts} regions; accepted: one for all, one for each, "
            "or one for each and one for the background"
        )
    return list(kernels)


def check_kernels(kernels: Sequence[Kernel], fov: Floats) -> None:
    """Refuse kernels without a sum, and those wider than the field of view.

    Parameters
    ----------
    kernels
        That are in use.
    fov
        Field of view, shape (3,) [mm].

    Raises
    ------
    ValueError
        With the width and the field of view.
    """
    for kernel in kernels:
        if not kernel.gain > 0:
            raise ValueError(f"a kernel sums to {kernel.gain:.3g}; accepted: above 0")
    widths = np.max([k.fwhm for k in kernels], axis=0)
    if (widths > fov).any():
        axis = int(np.argmax(widths / fov))
        raise ValueError(
            f"the kernel is {widths[axis]:.1f} mm wide along axis {axis + 1}, the field of view "
            f"{fov[axis]:.1f} mm; accepted: a kernel narrower than the field of view [mm]"
        )


def residual_correlation(
    residual: Floats, mask: Floats, lag: Floats, shape: Sequence[int] | None = None
) -> tuple[float, Floats]:
    """Return level and power spectrum of a residual inside a mask.

    Parameters
    ----------
    residual
        Shape (nx, ny, nz).
    mask
        Weight of each voxel, in [0, 1], same shape.
    lag
        Beyond which nothing is correlated, along each axis, shape (3,) [voxels].
    shape
        Of the box on twice which the spectrum is wanted; just large enough for the lags if not
        given.

    Returns
    -------
    sd
        Root of the weighted mean square.
    spectrum
        Shape (2 nx, 2 ny, nz + 1) of that box, correlation 1 at lag 0.

    Raises
    ------
    ValueError
        If the residual is 0 everywhere.
    """
    far = [int(np.ceil(min(f, n - 1))) for f, n in zip(lag, mask.shape, strict=True)]
    sizes = [
        scipy.fft.next_fast_len(n + f, real=True) for n, f in zip(mask.shape, far, strict=True)
    ]
    steps = [np.arange(-f, f + 1) for f in far]
    products, pairs = (
        scipy.fft.irfftn(np.abs(scipy.fft.rfftn(v.astype(np.float32), sizes)) ** 2, sizes)[
            np.ix_(*steps)
        ].astype(np.float64)
        for v in (residual * mask, mask)
    )
    centre = (far[0], far[1], far[2])
    square = float(products[centre] / pairs[centre])
    if not square > 0:
        raise ValueError("the residual is 0 everywhere: no noise can be read from it")
    grid = np.meshgrid(*steps, indexing="ij", sparse=True)
    distance = np.sqrt(sum((s / max(f, 1.0)) ** 2 for s, f in zip(grid, lag, strict=True)))
    window = np.where(distance < 1, np.cos(np.pi / 2 * np.minimum(distance, 1)) ** 2, 0)
    seen = (window > 0) & (pairs > 1e-3 * pairs[centre])
    held = np.divide(products * window, pairs, out=np.zeros_like(products), where=seen)
    x, y, z = (2 * n for n in (shape or [f + 1 for f in far]))
    correlation = np.zeros((x, y, z))
    correlation[np.ix_(*steps)] = held
    power = np.maximum(scipy.fft.rfftn(correlation).real, 0)
    return float(np.sqrt(square)), normalized_spectrum(power, (x, y, z))


def _together(blocks: Sequence[Block], weights: Sequence[float] | None = None) -> Block:
    """Return the weighted sum of blocks in the box that holds them all."""
    box = tuple(
        slice(min(b.box[a].start for b in blocks), max(b.box[a].stop for b in blocks))
        for a in range(3)
    )
    out = np.zeros([b.stop - b.start for b in box], np.float32)
    for k, block in enumerate(blocks):
        place = tuple(
            slice(own.start - b.start, own.stop - b.start)
            for own, b in zip(block.box, box, strict=True)
        )
        out[place] += block.values if weights is None else np.float32(weights[k]) * block.values
    return Block((box[0], box[1], box[2]), out)


def _times(block: Block, other: Block) -> Block:
    """Return the product with a block that may hold less."""
    found = other.within(block.box)
    values = np.zeros_like(block.values)
    if found is not None:
        place, factor = found
        values[place] = block.values[place] * factor
    return Block(block.box, values)


def _dot(block: Block, other: Block) -> float:
    found = other.within(block.box)
    if found is None:
        return 0.0
    place, values = found
    return float(np.einsum("ijk,ijk->", block.values[place], values, dtype=np.float64))


def _dense(blocks: Sequence[Block], box: Box) -> Floats:
    out = np.zeros((len(blocks), *(b.stop - b.start for b in box)), np.float32)
    for to, block in zip(out, blocks, strict=True):
        found = block.within(box)
        if found is not None:
            to[found[0]] = found[1]
    return out


class _Tiles:
    """Blocks of a grid, cut into tiles."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self._starts = np.array([[b.start for b in block.box] for block in blocks])
        self._stops = np.array([[b.stop for b in block.box] for block in blocks])

    def at(self, box: Box) -> tuple[list[int], Floats]:
        """Return which blocks hold something in a box, and what, shape (held, voxels)."""
        first, last = [b.start for b in box], [b.stop for b in box]
        near = np.flatnonzero(((self._starts < last) & (self._stops > first)).all(axis=1))
        out = np.zeros((len(near), *np.subtract(last, first)), np.float32)
        for to, i in zip(out, near, strict=True):
            found = self.blocks[i].within(box)
            if found is not None:
                to[found[0]] = found[1]
        flat = out.reshape(len(near), int(np.prod(out.shape[1:])))
        held = flat.any(axis=1)
        return near[held].tolist(), flat if held.all() else flat[held]


def _products(rows: Sequence[Block], columns: Sequence[Block], shape: Sequence[int]) -> Floats:
    """Return the sum over the grid of each row times each column, tile by tile."""
    table = np.zeros((len(rows), len(columns)))
    upright, across = _Tiles(rows), _Tiles(columns)
    for corner in np.ndindex(*(-(-n // TILE) for n in shape)):
        x, y, z = (slice(c * TILE, min((c + 1) * TILE, n))
                   for c, n in zip(corner, shape, strict=True))  # fmt: skip
        held, there = across.at((x, y, z))
        if held:
            own, here = upright.at((x, y, z))
            table[np.ix_(own, held)] += here @ there.T
    return table


def _joined(one: Part, other: Part) -> Part:
    index = np.concatenate([one.index, other.index])
    shares = [np.ones(p.index.size, np.float32) if p.share is None else p.share
              for p in (one, other)]  # fmt: skip
    places, inverse = np.unique(index, return_inverse=True)
    summed = np.bincount(inverse, np.concatenate(shares)).astype(np.float32)
    hard = one.share is None and other.share is None
    return Part(places, None if hard else summed)


def _box_inside(box: Box, axes: Sequence[WorkAxis]) -> Box:
    """Return the part of a box that lies in the field of view."""
    cut = [
        slice(max(b.start, a.margin), min(b.stop, a.n_work - a.margin))
        for b, a in zip(box, axes, strict=True)
    ]
    return cut[0], cut[1], cut[2]


def _cells(axis: WorkAxis, n: int) -> Floats:
    """Return the share of each voxel in each work voxel, rows sum to 1, shape (work, voxels)."""
    inside = axis.n_work - 2 * axis.margin
    first = ((n - 1) - (inside - 1) * axis.ratio) / 2 - axis.margin * axis.ratio
    centres = first + axis.ratio * np.arange(axis.n_work)[:, None]
    voxels = np.arange(n)
    low = np.maximum(centres - axis.ratio / 2, voxels - 0.5)
    high = np.minimum(centres + axis.ratio / 2, voxels + 0.5)
    share = np.maximum(high - low, 0)
    total = share.sum(axis=1, keepdims=True)
    return np.divide(share, total, out=np.zeros_like(share), where=total > 0)
