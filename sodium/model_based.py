"""Reconstruction by a model of the measurement: CG-SENSE, total variation, guided by anatomy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from operator import add

import numpy as np
from scipy.ndimage import gaussian_filter

from sodiumprep.sodium.acquisition import Complexes, Floats, Numbers
from sodiumprep.sodium.coils import (
    espirit,
    kspace_centre_sensitivities,
    mix_coils,
    whitening_matrix,
)
from sodiumprep.sodium.guided import DirectionalGradient, guided
from sodiumprep.sodium.iterative import LeastSquares, Solution, conjugate_gradient
from sodiumprep.sodium.kernel import (
    LocalResponse,
    Response,
    decay_from_first_sample,
    point_samples,
    response_at,
)
from sodiumprep.sodium.measurement import Measurement
from sodiumprep.sodium.noise import ImageNoise, adjoint_noise_gain, linear_noise, pseudo_replicas
from sodiumprep.sodium.operators import Normal, encoding
from sodiumprep.sodium.reconstruct import Reconstruction
from sodiumprep.sodium.segments import Segments
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.total_variation import noise_strength, total_variation
from sodiumprep.sodium.virtual_coils import virtual_coils

Solver = Callable[[LeastSquares], Solution]

SENSITIVITIES = {"centre": kspace_centre_sensitivities, "espirit": espirit}
REGULARIZATION = 0.1  # of CG, over the gain of the normal operator: about the noise of gridding
TOLERANCE = 1e-3  # of CG: residual over the projected data
REPLICAS = 16  # a standard deviation to 18 % in one voxel, to 5 % after the smoothing over voxels
PROBE_SPACING = 8  # voxels between points whose noise is probed together
PHASE_WIDTH = 0.01  # m, SD of the smoothing of the phase between echoes
POINT = 0.1  # of the image's amplitude: the point that a nonlinear method's response is taken of


@dataclass(frozen=True)
class MeasurementModel:
    """A measurement as whitened samples and the operator that explains them.

    Parameters
    ----------
    measurement
        Raw data, made ready.
    segments
        Change along the readout, or None.
    sensitivities
        "centre" or "espirit": how coil sensitivities are found.
    low_mem
        Slower with less memory.
    first
        Model of the first echo, whose coils a later echo shares; None for the first.
    """

    measurement: Measurement
    segments: Segments | None = None
    sensitivities: str = "centre"
    low_mem: bool = False
    first: MeasurementModel | None = None

    @property
    def noise_variance(self) -> float:
        """Variance of the complex whitened samples: the mean over the coils, in their own unit.

        Not 1, so that sensitivities stay near 1 and single precision suffices in any unit. That
        of the first echo holds for all: a later one is scaled to it.
        """
        return (self.first or self)._own_variance

    @property
    def _own_variance(self) -> float:
        covariance = self.measurement.covariance
        return float(np.trace(covariance).real) / len(covariance)

    @cached_property
    def _coils(self) -> tuple[Complexes, Complexes]:
        """Matrix from samples to as few whitened mixtures as hold the signal; sensitivities."""
        if self.first is not None:
            matrix, maps = self.first._coils
            level = np.sqrt(self.noise_variance / self._own_variance)
            return matrix * level, maps * np.float32(level)
        matrix = whitening_matrix(self.measurement.covariance / self.noise_variance)
        maps = mix_coils(matrix, self._sensitivities())
        mixtures = virtual_coils(maps)
        return mixtures @ matrix, mix_coils(mixtures, maps)

    @cached_property
    def samples(self) -> Complexes:
        """Samples whose noise is independent between coils, shape (coils, readouts, n)."""
        return mix_coils(self._coils[0], self.measurement.acquisition.samples)

    @cached_property
    def maps(self) -> Complexes:
        """Sensitivities to the whitened samples, shape (coils, nx, ny, nz)."""
        own = self._coils[1]
        if self.first is None and not self._turns:
            return own
        return own * np.exp(1j * self.phase).astype(own.dtype)

    @property
    def _turns(self) -> bool:
        """Whether the model holds off-resonance."""
        parts = () if self.segments is None else (self.segments.common, self.segments.modes)
        return any(np.iscomplexobj(part) for part in parts)

    @cached_property
    def phase(self) -> Floats:
        """Smooth phase that the sensitivities found in the data lack, (nx, ny, nz) [rad].

        They hold the phase of off-resonance too, which the model would add a second time. A
        later echo has in addition what the model leaves over (without a field map all of it),
        and what the receiver adds.
        """
        width = PHASE_WIDTH / self.measurement.acquisition.geometry.voxel_size
        return np.asarray(np.angle(gaussian_filter(self._product, width)))

    @cached_property
    def _product(self) -> Complexes:
        """Projection without that phase, for a later echo times the conjugate of the first."""
        seen = self._adjoint(self._coils[1])(self.samples)
        if self.first is None:
            return seen
        return np.asarray(seen * self.first._back(self.first.samples).conj())

    @property
    def phase_spread(self) -> float:
        """What :attr:`phase` changes from the first echo on, rms about its mean [rad]."""
        weight, before = np.abs(self._product), self.first.phase if self.first else self.phase
        turned = np.exp(1j * (self.phase - before))
        left = np.angle(turned * np.sum(weight * turned).conj())
        return float(np.sqrt(np.sum(weight * left**2) / weight.sum()))

    @property
    def noise_of_projection(self) -> float:
        """Standard deviation of the real part of the projected data, typical of the object."""
        power = np.median(np.sum(np.abs(self.maps * self._at_first_sample) ** 2, axis=0))
        gain = adjoint_noise_gain(self.measurement.weights)
        return gain * float(np.sqrt(power * self.noise_variance / 2))

    def _sensitivities(self) -> Complexes:
        acquisition = self.measurement.acquisition
        find = SENSITIVITIES[self.sensitivities]
        return find(
            acquisition.samples,
            self.measurement.weights,
            acquisition.trajectory,
            acquisition.geometry,
        )

    @property
    def _at_first_sample(self) -> Numbers:
        """What is left of the voxels' signals at the first sample of this echo."""
        if self.first is None or self.segments is None:
            return np.ones(1, np.float32)
        return np.asarray(self.segments.common[0] * self.segments.voxel_map(0))

    @cached_property
    def _back(self) -> Callable[[Complexes], Complexes]:
        return self._adjoint(self.maps)

    def _adjoint(self, maps: Complexes) -> Callable[[Complexes], Complexes]:
        acquisition = self.measurement.acquisition
        operator = encoding(acquisition.trajectory, acquisition.geometry, maps, self.segments).H
        return lambda samples: operator(samples * self.measurement.weights)

    def normal(self, power: int = 1) -> Normal:
        """Return ``A^H W^power A``."""
        acquisition = self.measurement.acquisition
        weights = self.measurement.weights**power
        return Normal(
            weights, acquisition.trajectory, acquisition.geometry, self.maps, self.segments,
            self.low_mem,
        )  # fmt: skip

    @cached_property
    def voxel_volume(self) -> float:
        """[m^3]."""
        return float(np.prod(self.measurement.acquisition.geometry.voxel_size))

    @cached_property
    def _normal(self) -> Normal:
        return self.normal()

    def problem(self, samples: Complexes) -> LeastSquares:
        """Return the data term of whitened samples, shape (coils, readouts, n)."""
        power = np.sum(np.abs(samples) ** 2, axis=0)
        energy = float(np.sum(power * self.measurement.weights, dtype=np.float64))
        return LeastSquares(self._normal, self._back(samples), energy)

    def image_of(self, solution: Solution) -> Floats:
        """Return the density of a solution: real, since the maps carry the phase."""
        return np.asarray(solution.image.real / self.voxel_volume, np.float32)

    @cached_property
    def centre(self) -> tuple[int, int, int]:
        """Voxel in the middle of the object."""
        power = np.abs(self._back(self.samples)) ** 2
        axes = np.indices(power.shape)
        x, y, z = (float((axis * power).sum() / power.sum()) for axis in axes)
        return round(x), round(y), round(z)

    @property
    def times(self) -> Floats:
        """Time of each sample after the first one of the first echo, shape (n,) [s]."""
        own = self.measurement.acquisition
        first = (self.first or self).measurement.acquisition
        return own.sample_times + (own.echo_time - first.echo_time)

    def point(self, voxel: tuple[int, int, int], relaxation: Relaxation) -> Complexes:
        """Return the whitened samples of one voxel of density 1 of a tissue."""
        acquisition = self.measurement.acquisition
        first = (self.first or self).measurement.acquisition
        change: Numbers = decay_from_first_sample(relaxation, self.times, first.echo_time)
        if self.segments is not None:  # off-resonance of that place
            turned = self.segments.at(voxel)
            change = change * (turned / np.abs(turned))
        seen = self.maps[:, *voxel]
        return point_samples(voxel, change, seen, acquisition.trajectory, acquisition.geometry)


@dataclass(frozen=True)
class EchoTrain:
    """Several echoes of one object as one model: their data terms add up.

    The image is that at the first sample of the first echo; what happens between the echoes is
    in their segments.

    Parameters
    ----------
    echoes
        Models of the echoes, the first one first; it is the ``first`` of all others.

    Raises
    ------
    ValueError
        If there is no echo, or one does not share the coils of the first.
    """

    echoes: tuple[MeasurementModel, ...]

    def __post_init__(self) -> None:
        """Refuse echoes that do not belong together."""
        strangers = [n for n, e in enumerate(self.echoes[1:], 2) if e.first is not self.echoes[0]]
        if not self.echoes or strangers:
            raise ValueError(
                f"echoes {strangers} of {len(self.echoes)} do not share the coils of echo 1; "
                "accepted: one echo or more, all with the first as their first"
            )

    @property
    def measurement(self) -> Measurement:
        """That of the first echo, with the warnings of all."""
        first = self.echoes[0].measurement
        warnings = list(first.warnings)
        for number, echo in enumerate(self.echoes[1:], start=2):
            new = [text for text in echo.measurement.warnings if text not in first.warnings]
            warnings += [f"echo {number}: {text}" for text in new]
        return replace(first, warnings=tuple(warnings))

    @property
    def sensitivities(self) -> str:
        """How coil sensitivities are found, in the first echo."""
        return self.echoes[0].sensitivities

    @property
    def noise_variance(self) -> float:
        """Variance of the complex whitened samples of all echoes."""
        return self.echoes[0].noise_variance

    @property
    def noise_of_projection(self) -> float:
        """Standard deviation of the real part of the projected data, typical of the object."""
        return float(np.linalg.norm([echo.noise_of_projection for echo in self.echoes]))

    @property
    def centre(self) -> tuple[int, int, int]:
        """Voxel in the middle of the object."""
        return self.echoes[0].centre

    @cached_property
    def samples(self) -> Complexes:
        """Whitened samples of all echoes, echo after echo, shape (coils, 1, samples)."""
        return _in_a_row([echo.samples for echo in self.echoes])

    def problem(self, samples: Complexes) -> LeastSquares:
        """Return the joint data term of samples in the order of :attr:`samples`."""
        sizes = [echo.samples[0].size for echo in self.echoes]
        parts = np.split(samples[:, 0], np.cumsum(sizes)[:-1], axis=1)
        problems = [
            echo.problem(part.reshape(echo.samples.shape))
            for echo, part in zip(self.echoes, parts, strict=True)
        ]
        return reduce(add, problems)

    def image_of(self, solution: Solution) -> Floats:
        """Return the density of a solution, at the first echo."""
        return self.echoes[0].image_of(solution)

    def point(self, voxel: tuple[int, int, int], relaxation: Relaxation) -> Complexes:
        """Return the whitened samples of one voxel of density 1 of a tissue, in all echoes."""
        return _in_a_row([echo.point(voxel, relaxation) for echo in self.echoes])


def _in_a_row(samples: Sequence[Complexes]) -> Complexes:
    return np.concatenate([each.reshape(len(each), 1, -1) for each in samples], axis=2)


def cg_sense(
    model: MeasurementModel,
    tissues: Mapping[str, Relaxation],
    rng: np.random.Generator,
    regularization: float = REGULARIZATION,
) -> Reconstruction:
    """Reconstruct by CG-SENSE with an L2 term.

    Parameters
    ----------
    model
        Of the measurement.
    tissues
        Relaxation constants by name: one transfer function is computed for each.
    rng
        Source of the probes of the noise.
    regularization
        ``lambda`` over the gain of the normal operator; its shrinkage by ``1 + lambda`` where
        k-space is fully sampled is undone, what remains is in the gain of the responses.

    Returns
    -------
    reconstruction
        The noise follows from the covariance of the linear method; the responses are those of
        the middle of the object.

    References
    ----------
    Pruessmann et al. 2001, doi:10.1002/mrm.1241
    """

    def solve(problem: LeastSquares) -> Solution:
        found = conjugate_gradient(problem, regularization, TOLERANCE)
        return replace(found, image=found.image * np.float32(1 + regularization))

    problem = model.problem(model.samples)
    solution = solve(problem)
    noise = _linear_noise(model, solve, problem, rng)
    responses = {name: _linear_response(model, solve, each) for name, each in tissues.items()}
    return _finished(model, "cg", solution, noise, responses)


def _linear_noise(
    model: MeasurementModel, solve: Solver, problem: LeastSquares, rng: np.random.Generator
) -> ImageNoise:
    """Return the noise of ``S A^H W y``, where ``S`` solves the normal equations."""
    squared = model.normal(power=2)

    def solved(right: Complexes) -> Complexes:
        return solve(LeastSquares(problem.normal, right.astype(np.complex64))).image

    def covariance(image: Complexes) -> Complexes:
        unscaled = solved(squared(solved(image)))
        return np.asarray(unscaled * (model.noise_variance / model.voxel_volume**2))

    x, y, z = problem.projected.shape
    spacing = max(4, min(PROBE_SPACING, min(x, y, z) // 4 * 2))  # even, two along each axis
    return linear_noise(covariance, (x, y, z), spacing, rng)


def _linear_response(
    model: MeasurementModel, solve: Solver, relaxation: Relaxation
) -> LocalResponse:
    point = model.point(model.centre, relaxation)
    return response_at(model.image_of(solve(model.problem(point))), model.centre)


def penalized(
    model: MeasurementModel | EchoTrain,
    tissues: Mapping[str, Relaxation],
    rng: np.random.Generator,
    directional: DirectionalGradient | None = None,
    strength: float | None = None,
    replicas: int = REPLICAS,
) -> Reconstruction:
    """Reconstruct with total variation, or with directional total variation along 1H edges.

    Parameters
    ----------
    model
        Of the measurement; its segments hold the decay if it is to be undone.
    tissues
        Relaxation constants by name: one transfer function is computed for each.
    rng
        Source of the replicas of the noise.
    directional
        What of the gradient is penalized; None for all of it.
    strength
        Of the penalty, over gain times amplitude; None for one noise SD.
    replicas
        Reconstructions of the data with more noise, from which the noise is found.

    Returns
    -------
    reconstruction
        Noise by pseudo-replicas; responses are local ones, to a small point in the middle of
        the object, and hold there only, since the method is not linear.

    References
    ----------
    Rudin, Osher & Fatemi 1992, doi:10.1016/0167-2789(92)90242-F;
    Ehrhardt & Betcke 2016, doi:10.1137/15M1047325; Robson et al. 2008, doi:10.1002/mrm.21728
    """
    problem = model.problem(model.samples)
    if strength is None:
        strength = noise_strength(problem, model.noise_of_projection)
    solve: Solver = partial(total_variation, strength=strength)
    if directional is not None:
        solve = partial(guided, directional=directional, strength=strength)
    solution = solve(problem)
    image = model.image_of(solution)

    def replica(noise: Complexes) -> Floats:
        return model.image_of(solve(model.problem(model.samples + noise)))

    shape = model.samples.shape[1:]
    covariance = model.noise_variance * np.eye(len(model.samples), dtype=np.complex64)
    noise = pseudo_replicas(replica, covariance, (shape[0], shape[1]), replicas, rng)
    amplitude = POINT * float(np.quantile(np.abs(image), 0.99))
    responses = {}
    for name, each in tissues.items():
        point = np.float32(amplitude) * model.point(model.centre, each)
        change = (replica(point) - image) / amplitude
        responses[name] = response_at(change, model.centre)
    name = "tv" if directional is None else "agr"
    return _finished(model, name, solution, noise, responses)


def _finished(
    model: MeasurementModel | EchoTrain,
    method: str,
    solution: Solution,
    noise: ImageNoise,
    responses: Mapping[str, LocalResponse],
) -> Reconstruction:
    transfers = {name: each.passed for name, each in responses.items()}
    course = {
        "Method": method,
        "Iterations": solution.iterations,
        "Converged": solution.converged,
        "Residual": [float(f"{value:.4g}") for value in solution.residual],
        "Objective": [float(f"{value:.6g}") for value in solution.objective],
        "DataMisfit": [float(f"{value:.4g}") for value in solution.misfit],
        "CoilSensitivities": model.sensitivities,
        "ResponseVoxel": list(model.centre),
    }
    warnings = list(model.measurement.warnings)
    if not solution.converged:
        warnings.append(
            f"{method} had not converged after {solution.iterations} iterations "
            f"(residual {solution.residual[-1]:.2g})"
        )
    return Reconstruction(
        model.image_of(solution),
        noise.noise_sd,
        Response(transfers, noise.spectrum, model.centre),
        model.measurement.noise_source,
        tuple(warnings),
        course,
    )
