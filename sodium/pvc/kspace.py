"""Regional signals straight from k-space: no image and no point-spread function in between.

The samples of coil ``c`` are taken for ``sum_i v_i E_ic m_i + noise``: ``m_i`` is the fraction of
region i on a fine grid, ``E_ic`` what the acquisition makes of it: the sensitivity of the coil,
the encoding, the decay of the region's tissue along the readout, off-resonance. The few ``v_i``
are found by weighted least squares. The noise is white, so that the covariance is exact whatever
the weights.

With equal weights no unbiased linear estimate has a smaller covariance. But an eye or a muscle
that no region accounts for reaches far then: readouts crowd near the centre of k-space, and what
crowds blurs, as a back-projection does without its filter. With weights that follow the volume
``d`` of k-space that a sample stands for, misfit stays where it is, as in an image. A sample
counts for ``d / (d + median(d) / 2)`` (:func:`robust_weights`), which costs little precision.

The ``v_i`` are real. The phase of the object is in the coil sensitivities that were estimated
from the same data, as it is where coil images are combined to a real one; the imaginary part of
the residual tells nothing of a region but noise and what is wrong with that phase. A region whose
phase is off by ``a`` in the sensitivities is seen smaller by ``cos a``, as in the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import finufft
import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.ndimage import map_coordinates
from scipy.signal.windows import kaiser

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry, Numbers
from sodiumprep.sodium.encoding import make_plan
from sodiumprep.sodium.interpolation import Interpolator, readout_interpolator
from sodiumprep.sodium.model_based import MeasurementModel
from sodiumprep.sodium.pvc.sensitivity import Border
from sodiumprep.sodium.segments import Segments

# Fractions are sampled on a work grid a little finer than that of the sodium image. It keeps
# their frequencies up to PASSED unchanged, so that a smooth sensitivity, which moves signal by a
# few periods per field of view, finds all that it moves into what is measured.
WORK_STEP = 0.8  # voxels of the sodium grid
PASSED = 0.55  # periods per voxel of the sodium grid; 0.5 are measured
ATTENUATION = 80.0  # dB, of what would alias
MARGIN = 3  # voxels of the sodium grid that the work grid adds on either side
GROUPS = 20  # interleaved parts of the readouts whose equations are kept apart
PARTS = (1, 2, 4, 5, 10, 20)  # into how many scans one is divided: divisors of GROUPS
MEMORY = 400e6  # bytes, for what the regions give in one coil
BLOCK = 64  # readouts that are worked on at a time
MISFIT = 0.5  # variance of misfit over that of noise, where samples lie at their median density
LARGEST_CONDITION = 1e6  # of the matrix that is inverted


@dataclass(frozen=True)
class WhiteSamples:
    """Samples whose noise is white and independent between coils, and how they came about.

    Parameters
    ----------
    samples
        Shape (coils, readouts, n).
    maps
        Sensitivity of each coil with the phase of the object, and with the receive profile if
        that is to be corrected, shape (coils, nx, ny, nz).
    noise_variance
        Of a complex sample.
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid of ``maps``.
    segments
        Change along the readout that is not a region's own (off-resonance), or None.
    weights
        How much each sample counts, shape (readouts, n); None for all alike.

    Raises
    ------
    ValueError
        If shapes do not fit, something is not finite, the noise variance is not positive, or a
        weight is negative.
    """

    samples: Complexes
    maps: Complexes
    noise_variance: float
    trajectory: Floats
    geometry: Geometry
    segments: Segments | None = None
    weights: Floats | None = None

    def __post_init__(self) -> None:
        """Refuse what would give numbers without meaning."""
        expected = (len(self.maps), *self.trajectory.shape[:2])
        grid = (len(self.maps), *self.geometry.matrix)
        if self.samples.shape != expected or self.maps.shape != grid:
            raise ValueError(
                f"samples {self.samples.shape} and maps {self.maps.shape} came; the trajectory "
                f"and the grid ask for {expected} and {grid}"
            )
        for name, values in (("samples", self.samples), ("maps", self.maps)):
            bad = values.size - int(np.isfinite(values).sum())
            if bad:
                raise ValueError(f"the {name} hold {bad} values that are not finite")
        if not self.noise_variance > 0:
            raise ValueError(f"the noise variance is {self.noise_variance}; it must be above 0")
        if self.weights is None:
            return
        if self.weights.shape != expected[1:] or not self.weights.min() >= 0:
            raise ValueError(
                f"weights of shape {self.weights.shape}, the least {self.weights.min():g}, came; "
                f"accepted: shape {expected[1:]}, none below 0"
            )


def white_samples(model: MeasurementModel, profile: Floats | None = None) -> WhiteSamples:
    """Return the samples of a measurement with the sensitivities that its data tell.

    Parameters
    ----------
    model
        Of the measurement; its segments hold off-resonance at most, no decay.
    profile
        What an image is divided by to correct for the receive coils, shape (nx, ny, nz); None
        where it is not corrected.

    Returns
    -------
    white
        Its regional signals are in the unit of the image, corrected like the image.
    """
    acquisition = model.measurement.acquisition
    maps = model.maps if profile is None else model.maps * profile.astype(np.float32)
    return WhiteSamples(
        model.samples, maps, model.noise_variance, acquisition.trajectory, acquisition.geometry,
        model.segments, robust_weights(model.measurement.weights),
    )  # fmt: skip


def robust_weights(density: Floats) -> Floats:
    """Return how much samples count where the regions do not account for everything.

    A sample's variance is that of its noise and that of the misfit; of the latter all samples of
    one cell of k-space have the same. Together they count for ``1 / (noise + misfit times samples
    in the cell)`` each. The misfit is taken for half the noise at the median density of samples.

    Parameters
    ----------
    density
        Volume of k-space that each sample stands for, shape (readouts, n) [1/m^3].

    Returns
    -------
    weights
        In [0, 1), float32, same shape.

    Raises
    ------
    ValueError
        If the median is not positive.

    Examples
    --------
    >>> robust_weights(np.array([[0.0, 1.0, 4.5]])).round(3)
    array([[0.   , 0.667, 0.9  ]], dtype=float32)
    """
    typical = float(np.median(density))
    if not typical > 0:
        raise ValueError(
            f"the median of the density compensation is {typical}; it must be above 0"
        )
    return np.asarray(density / (density + MISFIT * typical), np.float32)


@dataclass(frozen=True)
class KspaceEstimate:
    """Signals of regions that explain the samples, with all that follows from the equations.

    Parameters
    ----------
    names
        Of the regions.
    normals
        Real part of ``A^H W A`` over each group of readouts, shape (groups, regions, regions);
        readout r is in group ``r % groups``.
    noise_normals
        Real part of ``A^H W^2 A``, same shape: the noise of the projections.
    projections
        Real part of ``A^H W y`` over each group, shape (groups, regions).
    shifted_projections
        First and second derivative of their sum by the head's place along each axis of the grid,
        shape (2, 3, regions) [1/m and 1/m^2].
    noise_variance
        Of a complex sample.
    residual
        Mean square of what the regions leave of the samples of each readout, over the variance
        of the noise, shape (readouts,): about 1, more where the model or the readout is wrong.
    samples_per_readout
        Complex ones, of all coils together.
    border_changes
        Change of the values where the borders of each row lie elsewhere, shape (rows, regions).

    References
    ----------
    Hu et al. 1988, doi:10.1002/mrm.1910080308
    """

    names: tuple[str, ...]
    normals: Floats
    noise_normals: Floats
    projections: Floats
    shifted_projections: Floats
    noise_variance: float
    residual: Floats
    samples_per_readout: int
    border_changes: Floats

    @cached_property
    def values(self) -> Floats:
        """Signal of each region, in the unit of the image, shape (regions,)."""
        return self.of_readouts(1)[0][0]

    @cached_property
    def covariance(self) -> Floats:
        """From the noise of the samples, shape (regions, regions)."""
        return self.of_readouts(1)[1][0]

    @property
    def correlation(self) -> Floats:
        """Of the estimates, shape (regions, regions)."""
        sd = np.sqrt(np.diag(self.covariance))
        return np.asarray(self.covariance / np.outer(sd, sd))

    def shift_changes(self, shift: Floats) -> Floats:
        """Return how the values change where the head lies elsewhere.

        Parameters
        ----------
        shift
            Along each axis of the grid, shape (3,) [m].

        Returns
        -------
        changes
            Shape (6, regions): the linear change for each axis, with its sign, then what both
            ways along each have in common, to second order.
        """
        derivatives = np.linalg.solve(
            self.normals.sum(axis=0), self.shifted_projections[..., None]
        )
        step = np.reshape(shift, (3, 1))
        first, second = derivatives[..., 0]
        return np.concatenate([first * step, second * step**2 / 2])

    @property
    def condition_number(self) -> float:
        """Of the normal matrix, rows and columns scaled to a unit diagonal."""
        return float(np.linalg.cond(_scaled(self.normals.sum(axis=0))))

    @property
    def degrees_of_freedom(self) -> int:
        """Real numbers measured, less those found."""
        return 2 * self.samples_per_readout * len(self.residual) - len(self.names)

    @property
    def reduced_chi_square(self) -> float:
        """Residual over noise of all samples: 1 where the model holds."""
        total = 2 * self.samples_per_readout * float(self.residual.sum())
        return total / self.degrees_of_freedom

    def of_readouts(self, parts: int) -> tuple[Floats, Floats]:
        """Divide the scan into interleaved shorter ones, and return what each tells.

        Parameters
        ----------
        parts
            Number of shorter scans, a divisor of the number of groups.

        Returns
        -------
        values
            Shape (parts, regions).
        covariance
            Shape (parts, regions, regions).

        Raises
        ------
        ValueError
            If the number does not divide that of the groups.
        """
        groups = len(self.projections)
        if parts < 1 or groups % parts:
            raise ValueError(f"{parts} parts of {groups} groups of readouts; accepted: divisors")
        normals, noise, right = (
            each.reshape(groups // parts, parts, *each.shape[1:]).sum(axis=0)
            for each in (self.normals, self.noise_normals, self.projections)
        )
        size = np.sqrt(np.einsum("pii->pi", normals))
        inverse = np.linalg.inv(normals / (size[:, :, None] * size[:, None]))
        inverse /= size[:, :, None] * size[:, None]
        values = np.einsum("pij,pj->pi", inverse, right)
        return values, inverse @ noise @ inverse * (self.noise_variance / 2)


def kspace_regression(
    white: WhiteSamples,
    fractions: Iterable[Floats],
    factor: int,
    decays: Floats,
    names: Sequence[str],
    borders: Sequence[Sequence[Border]] = (),
) -> KspaceEstimate:
    """Return the regional signals that explain k-space best.

    Parameters
    ----------
    white
        Samples with their noise, sensitivities, trajectory and off-resonance.
    fractions
        Share of each region, sampled in the middle of fine voxels that fill the same box as the
        sodium grid; each of shape (factor nx, factor ny, factor nz). They come one by one and
        are not kept. What is in no region is taken to be empty.
    factor
        Fine voxels along the edge of a sodium voxel.
    decays
        Signal of each region along the readout, 1 at its first sample, shape (regions, n).
    names
        Of the regions.
    borders
        Rows of borders that lie elsewhere together, on the grid of the fractions. Each costs as
        much as two more regions.

    Returns
    -------
    estimate
        Values with exact covariance, residual of each readout.

    Raises
    ------
    ValueError
        If shapes do not fit, a fraction is not finite, or the regions cannot be told apart.

    References
    ----------
    Hu et al. 1988, doi:10.1002/mrm.1910080308
    """
    grid = _WorkGrid(white.geometry, factor)
    images = [grid.sample(fraction) for fraction in fractions]
    expected = (len(images), white.trajectory.shape[1])
    if len(names) != len(images) or decays.shape != expected:
        raise ValueError(
            f"{len(images)} fractions, {len(names)} names and decays of shape {decays.shape} "
            f"came; decays of shape {expected} and as many names are accepted"
        )
    layers = [border for row in borders for border in row]
    taken = [grid.sample(border.taken) for border in layers]
    owners = [index for border in layers for index in (border.grown, border.shrunk)]
    columns = [*images, *(image for image in taken for _ in range(2))]
    scan = _Scan(white, grid, len(columns))
    normals, noise_normals, projections, shifted = _equations(
        scan, columns, np.concatenate([decays, decays[owners]])
    )
    own = slice(len(images))
    _check_condition(normals[:, own, own].sum(axis=0), names)
    found = KspaceEstimate(
        tuple(names), normals[:, own, own], noise_normals[:, own, own], projections[:, own],
        shifted[..., own], white.noise_variance, np.empty(0), 0, np.empty((0, len(images))),
    )  # fmt: skip
    residual = _residual(scan, images, decays, found.values)
    per_readout = white.samples.shape[0] * white.samples.shape[2]
    elsewhere = _with_moved_borders(normals.sum(axis=0), projections.sum(axis=0), borders, own)
    return replace(
        found,
        residual=residual / (per_readout * white.noise_variance),
        samples_per_readout=per_readout,
        border_changes=elsewhere - found.values,
    )


def _with_moved_borders(
    normal: Floats, projection: Floats, borders: Sequence[Sequence[Border]], own: slice
) -> Floats:
    """Return the values with the borders of each row elsewhere, shape (rows, regions).

    Behind the regions, equations hold two columns for each layer: what it gives with the decay
    of the region that takes it, and of the one that loses it.
    """
    values = np.empty((len(borders), own.stop))
    column = own.stop
    for result, row in zip(values, borders, strict=True):
        mixing = np.eye(len(normal), own.stop)
        for border in row:
            mixing[column, border.grown] = 1
            mixing[column + 1, border.shrunk] = -1
            column += 2
        result[:] = np.linalg.solve(mixing.T @ normal @ mixing, mixing.T @ projection)
    return values


def scan_time_curve(estimate: KspaceEstimate) -> dict[str, Any]:
    """Return how the uncertainty of each region depends on the share of readouts that is used.

    The scan is divided into 2, 4, 5, 10 and 20 interleaved ones, and each of them is evaluated
    on its own.

    Parameters
    ----------
    estimate
        Of the whole scan.

    Returns
    -------
    curve
        Plain lists: ``Names``; ``Share`` of the readouts; ``Uncertainty`` by theory, root mean
        square over the parts, a row for each share; ``Scatter``, standard deviation of the
        estimates of the parts (none for the whole); ``ScatterOverUncertainty``, root mean square
        over the regions, and ``ChanceOfRatio``, the standard deviation that it would have by
        chance if the regions were independent.
    """
    groups = len(estimate.normals)
    counts = sorted((n for n in PARTS if groups % n == 0), reverse=True)
    told = [estimate.of_readouts(count) for count in counts]
    uncertainty = [np.sqrt(np.einsum("pii->pi", c).mean(axis=0)) for _, c in told]
    scatter = [v.std(axis=0, ddof=1) if len(v) > 1 else None for v, _ in told]
    ratio = [
        None if s is None else float(np.sqrt(np.mean((s / u) ** 2)))
        for s, u in zip(scatter, uncertainty, strict=True)
    ]
    regions = len(estimate.names)
    return {
        "Names": list(estimate.names),
        "Share": [1 / count for count in counts],
        "Uncertainty": [u.tolist() for u in uncertainty],
        "Scatter": [None if s is None else s.tolist() for s in scatter],
        "ScatterOverUncertainty": ratio,
        "ChanceOfRatio": [
            float(1 / np.sqrt(2 * (n - 1) * regions)) if n > 1 else None for n in counts
        ],
    }


def _scaled(matrix: Floats) -> Floats:
    size = np.sqrt(np.abs(np.diag(matrix)))
    return np.asarray(matrix / np.outer(size, size))


def _check_condition(matrix: Floats, names: Sequence[str]) -> None:
    empty = np.flatnonzero(~(np.diag(matrix) > 0))
    if len(empty):
        raise ValueError(
            f"region '{names[empty[0]]}' gives no signal: no share, or no coil sees it"
        )
    vectors, power, _ = np.linalg.svd(_scaled(matrix))
    if power[-1] * LARGEST_CONDITION <= power[0]:
        one, other = np.argsort(-np.abs(vectors[:, -1]))[:2]
        condition = power[0] / max(power[-1], np.finfo(float).tiny)
        raise ValueError(
            f"the regions cannot be told apart: condition number {condition:.3g}, "
            f"accepted: below {LARGEST_CONDITION:g}; the hardest to tell apart are "
            f"'{names[one]}' and '{names[other]}': merge them"
        )


class _WorkGrid:
    """The grid on which regions are encoded: finer than that of the image, and a bit wider."""

    def __init__(self, geometry: Geometry, factor: int) -> None:
        if factor < 1 or factor % 2 == 0:
            raise ValueError(f"voxels are cut into {factor} parts; accepted: an odd number")
        self.coarse, self.factor = geometry, factor
        matrix = [2 * next_fast_len(_half_points(n)) for n in geometry.matrix]
        fov = [n * WORK_STEP * v for n, v in zip(matrix, geometry.voxel_size, strict=True)]
        self.geometry = Geometry(
            geometry.position, geometry.directions, (fov[0], fov[1], fov[2]),
            (matrix[0], matrix[1], matrix[2]),
        )  # fmt: skip
        self.fine_shape = tuple(n * factor for n in geometry.matrix)
        self._filters = [
            _low_pass(m, n, factor) for m, n in zip(matrix, geometry.matrix, strict=True)
        ]

    def sample(self, fine: Floats) -> Floats:
        """Return what a fraction holds of the frequencies that are measured, float32."""
        if fine.shape != self.fine_shape:
            raise ValueError(
                f"a fraction of shape {fine.shape} came; {self.factor} parts of the sodium "
                f"grid's voxels have {self.fine_shape}"
            )
        if not np.isfinite(fine).all():
            raise ValueError(f"a fraction holds {np.sum(~np.isfinite(fine))} values not finite")
        part = [slice(None)] * 3
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            filled = np.flatnonzero(fine.any(axis=others))
            part[axis] = slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(1)
        image = fine[tuple(part)].astype(np.float32)
        for own, matrix in zip(part, self._filters, strict=True):
            image = np.tensordot(image, matrix[:, own], (0, 1))  # the axes go round, three times
        return np.ascontiguousarray(image)

    def interpolate(self, coarse: Numbers) -> Numbers:
        """Bring a smooth map of the sodium grid here; beyond that it keeps its edge value."""
        if coarse.size == 1:
            return coarse
        places = [
            (np.arange(m) - m // 2) * WORK_STEP + n // 2
            for m, n in zip(self.geometry.matrix, self.coarse.matrix, strict=True)
        ]
        index = np.meshgrid(*places, indexing="ij")
        parts = [coarse.real, coarse.imag] if np.iscomplexobj(coarse) else [coarse]
        fine = [map_coordinates(p, index, np.float32, order=3, mode="nearest") for p in parts]
        return fine[0] + 1j * fine[1] if len(fine) == 2 else fine[0]


def _half_points(voxels: int) -> int:
    return int(np.ceil((voxels + 1 + 2 * MARGIN) / WORK_STEP / 2))


def _low_pass(points: int, voxels: int, factor: int) -> Floats:
    """Return the matrix from fine voxels to the points of the work grid along one axis."""
    fine = (np.arange(voxels * factor) - (factor - 1) / 2) / factor - voxels // 2
    asked = (np.arange(points) - points // 2) * WORK_STEP
    stopped = 1 / WORK_STEP - PASSED
    half = (ATTENUATION - 7.95) / (2.285 * 2 * np.pi * (stopped - PASSED)) / 2  # Kaiser's rule
    beta = 0.1102 * (ATTENUATION - 8.7)
    window = kaiser(4097, beta)
    distance = asked[:, None] - fine
    cut = PASSED + stopped
    weight = np.interp(np.abs(distance), np.linspace(0, half, 2049), window[2048:], right=0.0)
    return np.asarray(cut * np.sinc(cut * distance) * weight / factor, np.float32)


@dataclass(frozen=True)
class _Piece:
    """Samples that are transformed together, and how the others follow from them."""

    own: slice
    course: Numbers
    voxel_map: Numbers
    nodes: NDArray[np.intp]
    interpolator: Interpolator | None


class _Scan:
    """Transforms of a scan, made once: in parts of the readouts that fit the memory."""

    def __init__(self, white: WhiteSamples, grid: _WorkGrid, regions: int) -> None:
        self.white, self.grid = white, grid
        self.volume = np.float32(np.prod(grid.geometry.voxel_size))
        self.pieces = list(_pieces(white, grid))
        readouts = len(white.trajectory)
        groups = min(GROUPS, readouts)
        self.groups = [np.arange(group, readouts, groups) for group in range(groups)]
        per_readout = 8 * regions * sum(len(piece.nodes) for piece in self.pieces)
        parts = int(np.clip(np.ceil(per_readout * readouts / MEMORY), 1, groups))
        self.parts = [list(part) for part in np.array_split(np.arange(groups), parts)]
        self._plans = [self._plan(part) for part in self.parts]

    def _plan(self, part: list[int]) -> list[finufft.Plan]:
        trajectory = self.white.trajectory[np.concatenate([self.groups[g] for g in part])]
        return [
            make_plan(trajectory[:, piece.own][:, piece.nodes], self.grid.geometry, "complex64")
            for piece in self.pieces
        ]

    def blocks(self, images: Sequence[Floats]) -> Iterator[tuple[int, int, Any, Complexes]]:
        """Yield what images give, a coil and a block of readouts at a time.

        Yields
        ------
        group, coil, readouts
            Which they are.
        samples
            Without decay, shape (images, readouts, n).
        """
        for coil, coarse in enumerate(self.white.maps):
            sensitivity = self.grid.interpolate(coarse) * self.volume
            for part, plans in zip(self.parts, self._plans, strict=True):
                seen = [
                    self._transformed(images, sensitivity * piece.voxel_map, plan, piece)
                    for piece, plan in zip(self.pieces, plans, strict=True)
                ]
                start = 0
                for group in part:
                    own = self.groups[group]
                    for first in range(0, len(own), BLOCK):
                        readouts = own[first : first + BLOCK]
                        rows = slice(start + first, start + first + len(readouts))
                        yield group, coil, readouts, self._all_samples(seen, rows)
                    start += len(own)

    def _transformed(
        self, images: Sequence[Floats], sensitivity: Complexes, plan: finufft.Plan, piece: _Piece
    ) -> Complexes:
        found: Complexes | None = None
        for index, image in enumerate(images):
            values = np.ascontiguousarray(image * sensitivity, np.complex64)
            samples = plan.execute_adjoint(values).reshape(-1, len(piece.nodes))
            if found is None:
                found = np.empty((len(images), *samples.shape), np.complex64)
            found[index] = samples
        return np.asarray(found)

    def _all_samples(self, seen: list[Complexes], rows: slice) -> Complexes:
        total = np.zeros(
            (len(seen[0]), rows.stop - rows.start, self.white.trajectory.shape[1]), np.complex64
        )
        for piece, nodes in zip(self.pieces, seen, strict=True):
            values: Numbers = nodes[:, rows]
            if piece.interpolator is not None:
                values = piece.interpolator.spread(values)
            total[..., piece.own] += values * piece.course
        return total


def _pieces(white: WhiteSamples, grid: _WorkGrid) -> Iterator[_Piece]:
    segments, n = white.segments, white.trajectory.shape[1]
    supports = [slice(0, n)] if segments is None else segments.supports
    for index, own in enumerate(supports):
        interpolator = readout_interpolator(white.trajectory[:, own], grid.geometry)
        nodes = np.arange(own.stop - own.start) if interpolator is None else interpolator.nodes
        if segments is None:
            one = np.ones(1, np.float32)
            yield _Piece(own, one, one, nodes, interpolator)
        else:
            voxel_map = grid.interpolate(segments.voxel_map(index))
            yield _Piece(own, segments.course(index), voxel_map, nodes, interpolator)


def _equations(
    scan: _Scan, images: Sequence[Floats], decays: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return ``A^H W A``, ``A^H W^2 A`` and ``A^H W y`` of each group of readouts, real parts.

    The last is how ``A^H W y`` of all readouts changes where the head is shifted.
    """
    groups, regions = len(scan.groups), len(images)
    normals, noise_normals = np.zeros((2, groups, regions, regions))
    projections = np.zeros((groups, regions))
    shifted = np.zeros((2, 3, regions))
    turning = np.moveaxis(-2j * np.pi * scan.white.trajectory, -1, 0).astype(np.complex64)
    course = decays.astype(np.float32)[:, None]
    for group, coil, readouts, samples in scan.blocks(images):
        samples *= course
        rows = _as_reals(samples)
        weighted = rows
        if scan.white.weights is not None:
            weighted = _as_reals(samples * scan.white.weights[readouts].astype(np.float32))
        measured = np.asarray(scan.white.samples[coil, readouts], np.complex64)
        normals[group] += rows @ weighted.T
        noise_normals[group] += weighted @ weighted.T
        projections[group] += weighted @ _as_reals(measured[None])[0]
        for order in (1, 2):
            turned = turning[:, readouts] ** order * measured
            shifted[order - 1] += _as_reals(turned) @ weighted.T
    return normals, noise_normals, projections, shifted


def _as_reals(samples: Complexes) -> Floats:
    return np.ascontiguousarray(samples.reshape(len(samples), -1)).view(np.float32)


def _residual(scan: _Scan, images: Sequence[Floats], decays: Floats, values: Floats) -> Floats:
    """Return the energy that the regions leave of each readout, one image for each decay."""
    kinds, kind_of = np.unique(decays.astype(np.float32), axis=0, return_inverse=True)
    joint = [np.zeros_like(images[0]) for _ in kinds]
    for image, value, kind in zip(images, values, kind_of.ravel(), strict=True):
        joint[kind] += np.float32(value) * image
    energy = np.zeros(len(scan.white.trajectory))
    for _, coil, readouts, samples in scan.blocks(joint):
        explained = np.einsum("krn,kn->rn", samples, kinds)
        left = scan.white.samples[coil, readouts] - explained
        energy[readouts] += np.sum(left.real**2 + left.imag**2, axis=1, dtype=np.float64)
    return energy
