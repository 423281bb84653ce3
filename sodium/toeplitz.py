"""The normal operator ``A^H W A`` as convolutions, its spectra computed once.

``A^H W A`` of a non-uniform transform depends on the distance of two voxels only. Embedded in a
grid of twice the size it is a product in the Fourier domain with a spectrum that is real, since
weights are real. The transforms skip what is known to be zero or not asked for: of the doubled
grid only one axis at a time is ever filled, and the last two in slabs that stay in the cache.

Memory, in bytes, for N voxels, P spectra (1, or 2 L - 1 with L segments of two neighbours), C
coils and T threads:

    spectra      32 P N
    application  (16 L + 24) N T                T = 1 with one coil, or in low-memory mode
    set-up       250 N, in low-memory mode 150 N, + 50 for each sample that is transformed
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations_with_replacement, product

import numpy as np
import scipy.fft
from sigpy.linop import Linop

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry, Numbers
from sodiumprep.sodium.density import doubled_geometry
from sodiumprep.sodium.encoding import available_threads, make_plan, voxel_phases
from sodiumprep.sodium.interpolation import readout_interpolator
from sodiumprep.sodium.segments import Segments

SLAB_BYTES = 1 << 20  # of the doubled grid that is worked on at a time: the size of a cache
UPSAMPLING = 1.6  # weights vary slowly: 5e-6 off, as with 2, at 0.6 of the cost
Pair = tuple[int, int]
Spectra = Iterable[tuple[Pair, Floats]]


class Normal(Linop):  # type: ignore[misc]  # sigpy has no types
    """The operator ``A^H W A`` on images, with ``A`` from ``operators.encoding``.

    Parameters
    ----------
    weights
        Real, shape (readouts, n).
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid.
    maps
        Coil sensitivities, shape (coils, nx, ny, nz), or None for one uniform coil.
    segments
        Change along the readout, or None.
    low_mem
        Compute the spectra in four parts, and work on one coil at a time.

    References
    ----------
    Fessler et al. 2005, doi:10.1109/TSP.2005.853152
    """

    def __init__(
        self,
        weights: Floats,
        trajectory: Floats,
        geometry: Geometry,
        maps: Complexes | None = None,
        segments: Segments | None = None,
        low_mem: bool = False,
    ) -> None:
        super().__init__(geometry.matrix, geometry.matrix)
        self.coil_maps = maps
        self.voxel_maps = None if segments is None else segments.modes
        self.threads = available_threads()
        self.low_mem = low_mem
        parts = (
            (pair, transfer_spectrum(each, trajectory[:, own], geometry, low_mem))
            for pair, own, each in _pair_weights(weights, segments)
        )
        self.spectra = _folded(parts if segments is None else _in_modes(parts, segments.basis))

    def _apply(self, values: Numbers) -> Complexes:
        image: Complexes = values.astype(np.result_type(values, np.complex64), copy=False)
        if self.coil_maps is None:
            return self._convolved(image, self.threads)
        if self.low_mem or self.threads == 1:
            return self._coils(image, self.coil_maps, self.threads)
        shares = np.array_split(self.coil_maps, min(self.threads, len(self.coil_maps)))
        with ThreadPoolExecutor(len(shares)) as pool:
            parts = list(pool.map(lambda share: self._coils(image, share, 1), shares))
        return np.asarray(np.sum(parts, axis=0))

    def _adjoint_linop(self) -> Linop:
        return self

    def _coils(self, image: Complexes, maps: Complexes, threads: int) -> Complexes:
        total = np.zeros_like(image)
        for sensitivity in maps:
            seen = self._convolved(image * sensitivity, threads)
            seen *= sensitivity.conj()
            total += seen
        return total

    def _convolved(self, image: Complexes, threads: int) -> Complexes:
        stack = image[None] if self.voxel_maps is None else image * self.voxel_maps
        stack = self._embedded(stack, threads)
        if self.voxel_maps is None:
            return np.asarray(stack[0])
        stack *= self.voxel_maps.conj()
        return np.asarray(stack.sum(axis=0))

    def _embedded(self, stack: Complexes, threads: int) -> Complexes:
        """Return each image of a stack after the product in the doubled grid."""
        nx = self.ishape[0]
        rows = scipy.fft.fft(stack, 2 * nx, axis=1, workers=threads)
        slabs = _slabs(rows)
        shares = [slabs[start::threads] for start in range(threads)]
        if threads == 1:
            self._multiply(rows, slabs)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda share: self._multiply(rows, share), shares))
        full = scipy.fft.ifft(rows, axis=1, norm="forward", overwrite_x=True, workers=threads)
        return full[:, :nx]

    def _multiply(self, rows: Complexes, slabs: Sequence[slice]) -> None:
        """Transform two axes of each slab, multiply by the spectra, and transform back."""
        ny, nz = self.ishape[1:]
        for slab in slabs:
            planes = scipy.fft.fft(rows[:, slab], 2 * ny, axis=2)
            planes = scipy.fft.fft(planes, 2 * nz, axis=3, overwrite_x=True)
            planes = self._mixed(planes, slab)
            planes = scipy.fft.ifft(planes, axis=3, norm="forward", overwrite_x=True)[..., :nz]
            planes = scipy.fft.ifft(planes, axis=2, norm="forward", overwrite_x=True)
            rows[:, slab] = planes[:, :, :ny]

    def _mixed(self, planes: Complexes, slab: slice) -> Complexes:
        """Return ``sum_q spectrum[p, q] planes[q]`` for each p, of folded spectra."""
        if len(planes) == 1:
            planes *= self.spectra[0, 0][slab]
            return planes
        mixed = np.empty_like(planes)
        for mode, plane in enumerate(planes):
            np.multiply(plane, self.spectra[mode, mode][slab], out=mixed[mode])
        both = np.empty_like(planes[0])
        for (first, second), spectrum in self.spectra.items():
            if first != second:
                np.add(planes[first], planes[second], out=both)
                both *= spectrum[slab]
                mixed[first] += both
                mixed[second] += both
        return mixed


def _in_modes(parts: Spectra, basis: Floats) -> Spectra:
    """Return the spectra between modes from those between segments."""
    n_segments, n_modes = basis.shape
    if n_segments == n_modes:
        return parts
    sums: dict[Pair, Floats] = {}
    for (one, other), spectrum in parts:
        for pair in combinations_with_replacement(range(n_modes), 2):
            share = basis[one, pair[0]] * basis[other, pair[1]]
            if one != other:
                share += basis[other, pair[0]] * basis[one, pair[1]]
            part = spectrum * spectrum.dtype.type(share)
            sums[pair] = np.add(sums[pair], part, out=part) if pair in sums else part
    return sums.items()


def _folded(parts: Spectra) -> dict[Pair, Floats]:
    """Return spectra with those off the diagonal taken from it.

    ``a x + b y`` and ``b x + c y`` are ``(a - b) x`` and ``(c - b) y`` plus ``b (x + y)``: one
    product for each pair instead of two.
    """
    spectra = dict(parts)
    for (first, second), spectrum in spectra.items():
        if first != second:
            spectra[first, first] -= spectrum
            spectra[second, second] -= spectrum
    return spectra


def _slabs(rows: Complexes) -> list[slice]:
    """Return slices of the second axis whose doubled planes fit the cache."""
    per_plane = 4 * rows[:, 0].nbytes
    thickness = max(1, SLAB_BYTES // per_plane)
    return [slice(start, start + thickness) for start in range(0, rows.shape[1], thickness)]


def _pair_weights(
    weights: Floats, segments: Segments | None
) -> Iterable[tuple[Pair, slice, Floats]]:
    """Yield, for each pair of segments that share samples, these samples and their weights."""
    if segments is None:
        yield (0, 0), slice(None), weights
        return
    coefficients = segments.interpolator.coefficients
    power = np.abs(segments.common) ** 2
    for first, second in product(range(len(coefficients)), repeat=2):
        course = coefficients[first] * coefficients[second] * power
        used = np.flatnonzero(course)
        if first <= second and used.size:
            own = slice(int(used[0]), int(used[-1]) + 1)
            yield (first, second), own, (weights[:, own] * course[own]).astype(weights.dtype)


def transfer_spectrum(
    weights: Floats, trajectory: Floats, geometry: Geometry, low_mem: bool = False
) -> Floats:
    """Return the spectrum of the convolution that ``A^H W A`` is.

    Half of it is transformed, distances that are not negative along the first axis; the other
    half is its complex conjugate.

    Parameters
    ----------
    weights
        Shape (readouts, n).
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid of the image.
    low_mem
        One quarter at a time.

    Returns
    -------
    spectrum
        Real, shape (2 nx, 2 ny, 2 nz), float32 (float64 if weights and trajectory are double).
    """
    nx, ny, nz = geometry.matrix
    half = _half_kernel(weights, trajectory, geometry, low_mem)
    half[:, ny] = 0  # distances of a whole grid occur in no image
    half[:, :, nz] = 0
    half = scipy.fft.fft2(half, axes=(1, 2), overwrite_x=True, workers=available_threads())
    spectrum = scipy.fft.hfft(half, 2 * nx, axis=0, workers=available_threads())
    return np.asarray(spectrum / (8 * nx * ny * nz), half.real.dtype)


def _half_kernel(
    weights: Floats, trajectory: Floats, geometry: Geometry, low_mem: bool
) -> Complexes:
    """Return ``sum_j w_j exp(i 2 pi k_j.d)``, d in fft order, first component 0 to nx."""
    nx, ny, nz = geometry.matrix
    weights, trajectory = _merged(weights, trajectory, geometry)
    single = weights.dtype == np.float32
    half = np.zeros((nx + 1, 2 * ny, 2 * nz), np.complex64 if single else np.complex128)
    if not low_mem:
        half[:nx] = _distances(weights, trajectory, geometry, (nx, 2 * ny, 2 * nz), (0, -ny, -nz))
        half[:nx] = scipy.fft.ifftshift(half[:nx], axes=(1, 2))
        return half
    for y, z in product((0, -ny), (0, -nz)):
        quarter = _distances(weights, trajectory, geometry, geometry.matrix, (0, y, z))
        half[:nx, y % (2 * ny) :, z % (2 * nz) :][:, :ny, :nz] = quarter
    return half


def _merged(weights: Floats, trajectory: Floats, geometry: Geometry) -> tuple[Floats, Floats]:
    """Return fewer samples and weights that give the same sums over all distances."""
    if weights.dtype == trajectory.dtype == np.float64:
        return weights, trajectory
    weights = weights.astype(np.float32, copy=False)
    interpolator = readout_interpolator(trajectory, doubled_geometry(geometry))
    if interpolator is None:
        return weights, trajectory
    return interpolator.gather(weights).real, trajectory[:, interpolator.nodes]


def _distances(
    weights: Floats,
    trajectory: Floats,
    geometry: Geometry,
    sizes: tuple[int, int, int],
    first: tuple[int, int, int],
) -> Complexes:
    """Return the sums over a box of distances that starts at ``first`` voxels."""
    dtype = "complex64" if weights.dtype == np.float32 else "complex128"
    fov = tuple(size * voxel for size, voxel in zip(sizes, geometry.voxel_size, strict=True))
    box = replace(geometry, fov=fov, matrix=sizes)
    plan = make_plan(trajectory, box, dtype, UPSAMPLING)
    phases = voxel_phases(trajectory, geometry.voxel_size, weights.dtype.type)
    turn = sum(
        phase * (start + size // 2)
        for phase, start, size in zip(phases, first, sizes, strict=True)
        if start + size // 2
    )
    values = np.empty(weights.size, dtype)
    np.multiply(weights.ravel(), np.cos(turn), out=values.real)
    np.multiply(weights.ravel(), np.sin(turn), out=values.imag)
    return plan.execute(values)
