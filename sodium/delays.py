"""Gradient delay per axis, estimated from centre-out data themselves.

Around the centre of k-space the readouts overlap many times: a few unknown voxels stand against
thousands of samples, and only the true delays make them agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from sodiumprep.sodium.acquisition import Acquisition, Complexes, Floats, Geometry
from sodiumprep.sodium.density import doubled_geometry
from sodiumprep.sodium.encoding import Transform
from sodiumprep.sodium.trajectory import delayed

CENTRE = 5.0  # over the field of view: radius of k-space that is used
COARSE_MATRIX = 14  # voxels along each axis of the coarse image
MOST_CHANNELS = 8  # strongest combinations of coils that are fitted
RIDGE = 1e-6  # of the largest eigenvalue, keeps what no sample sees at zero
LARGEST_STEP = 20e-6  # s, by which an estimate may move at once
PRECISE_ENOUGH = 5e-8  # s, change of a delay at which the iterations end
MODEL_ERROR = 0.15e-6  # s, from tissues that decay differently, seen in simulated heads
MOST_STEPS = 10
N_PARAMETERS = 5
PROBES = 16  # random images by which a trace is estimated
DECAY_RATE = (100.0, 40.0)  # 1/s, of tissue (110 to 190) and fluid (18) together; and its SD


@dataclass(frozen=True)
class GradientDelays:
    """Delays with what is known of their precision.

    Parameters
    ----------
    delays
        By which the gradients come late along the axes of the trajectory, shape (3,) [s].
    uncertainty
        Standard uncertainties, shape (3,) [s].
    residual
        Share of the signal around the centre of k-space that a common image does not explain,
        with these delays and with none.
    """

    delays: Floats
    uncertainty: Floats
    residual: tuple[float, float]


def estimate_delays(
    acquisition: Acquisition, decay_rate: tuple[float, float] = DECAY_RATE
) -> GradientDelays:
    """Estimate the delay of each gradient by the consistency of the centre of k-space.

    A coarse image of each coil, the delays, a common decay rate and a common frequency are fitted
    to the samples within ``5 / FOV`` by Gauss-Newton steps, in which the images are eliminated
    exactly. Decay resembles a delay of all axes at once, hence the prior on its rate.

    Parameters
    ----------
    acquisition
        Centre-out readouts with the nominal trajectory. Repetitions are fitted one by one and
        averaged, since the head may move between them.
    decay_rate
        Expected rate of the signal's decay at the start of the readout and its standard
        deviation [1/s].

    Returns
    -------
    estimate
        Delays and their standard uncertainties.

    Raises
    ------
    ValueError
        If the readouts do not start at the centre, or have fewer than 3 samples near it.

    References
    ----------
    Peters, Derbyshire & McVeigh 2003, doi:10.1002/mrm.10452 (the effect on projections);
    Golub & Pereyra 2003, doi:10.1088/0266-5611/19/2/201 (the elimination)
    """
    labels = acquisition.repetition_labels
    found = [_estimate_one(_part(acquisition, labels == n), decay_rate) for n in np.unique(labels)]
    weights = np.stack([1 / one.uncertainty**2 for one in found])
    mean = np.sum([w * one.delays for w, one in zip(weights, found, strict=True)], axis=0)
    before, after = np.mean([one.residual for one in found], axis=0)
    return GradientDelays(
        mean / weights.sum(axis=0), 1 / np.sqrt(weights.sum(axis=0)), (float(before), float(after))
    )


def _part(acquisition: Acquisition, chosen: Floats) -> Acquisition:
    return replace(
        acquisition, samples=acquisition.samples[:, chosen],
        trajectory=acquisition.trajectory[chosen], repetition=None,
    )  # fmt: skip


@dataclass
class _Fit:
    """State of the fit: parameters are three delays [s], a decay rate [1/s], a frequency [Hz]."""

    samples: Complexes
    trajectory: Floats
    times: Floats
    dwell_time: float
    grid: Geometry
    parameters: Floats

    def moved(self, delays: Floats) -> Floats:
        """Trajectory with the delays, as far out as samples are given."""
        kept = self.samples.shape[-1]
        return delayed(self.trajectory, delays, self.dwell_time)[:, :kept]

    def velocity(self) -> Floats:
        """Differentiate each component by its own delay, shape (readouts, n, 3)."""
        small = 1e-2 * self.dwell_time
        late, early = (self.moved(self.parameters[:3] + s) for s in (small, -small))
        return (late - early) / np.float32(2 * small)


def _estimate_one(acquisition: Acquisition, decay_rate: tuple[float, float]) -> GradientDelays:
    fit = _start(acquisition, decay_rate[0])
    first, noise_slope = None, None
    for _ in range(MOST_STEPS):
        step, covariance, residual, noise_slope = _gauss_newton(fit, decay_rate, noise_slope)
        first = residual if first is None else first
        step[:3] = np.clip(step[:3], -LARGEST_STEP, LARGEST_STEP)
        fit.parameters = fit.parameters + step
        if np.abs(step[:3]).max() < PRECISE_ENOUGH:
            break
    uncertainty = np.sqrt(np.diag(covariance)[:3] + MODEL_ERROR**2)
    return GradientDelays(fit.parameters[:3], uncertainty, (residual, first or residual))


def _start(acquisition: Acquisition, decay_rate: float) -> _Fit:
    """Keep the samples around the centre, scaled to a largest magnitude of one."""
    fov, radius = acquisition.geometry.fov, np.linalg.norm(acquisition.trajectory, axis=-1)
    within = CENTRE / max(fov)
    kept = int(np.searchsorted(radius.max(axis=0), within))
    if radius[:, 0].max() > 0.25 * within or kept < 3:
        raise ValueError(
            f"readouts start {radius[:, 0].max():.3g}/m from the centre of k-space and have "
            f"{kept} samples within {within:.3g}/m; delays need a start below "
            f"{0.25 * within:.3g}/m and 3 samples"
        )
    samples = _strongest(acquisition.samples[..., :kept])
    if not np.abs(samples).max() > 0:
        raise ValueError("the centre of k-space holds no signal to estimate delays from")
    grid = replace(acquisition.geometry, matrix=(COARSE_MATRIX,) * 3)
    parameters = np.array([0.0, 0.0, 0.0, decay_rate, 0.0])
    return _Fit(
        samples / np.abs(samples).max(), acquisition.trajectory[:, : kept + 3],
        acquisition.sample_times[:kept], acquisition.dwell_time, grid, parameters,
    )  # fmt: skip


def _strongest(samples: Complexes) -> Complexes:
    """Return the combinations of coils that hold most of the signal."""
    flat = samples.reshape(len(samples), -1)
    _, directions = np.linalg.eigh(flat @ flat.conj().T)
    return np.tensordot(directions[:, -MOST_CHANNELS:].conj().T, samples, axes=1)


@dataclass(frozen=True)
class _Encoding:
    """Transform of the coarse image at given delays, its regularized inverse, and velocities."""

    transform: Transform
    factor: tuple[Complexes, bool]
    ridge: float
    velocity: Floats

    def solve(self, images: Complexes) -> Complexes:
        """Apply the inverse of the normal matrix, with its ridge, to (m, nx, ny, nz)."""
        flat = images.reshape(len(images), -1).T.astype(np.complex128)
        return np.asarray(cho_solve(self.factor, flat, check_finite=False)).T.reshape(images.shape)

    def explain(self, samples: Complexes) -> tuple[Complexes, Complexes]:
        """Return the images that fit samples (m, readouts, n) best, and what they leave."""
        images = self.solve(np.stack([self.transform.adjoint(s) for s in samples]))
        return images, samples - np.stack([self.transform.forward(i) for i in images])


def _encode(fit: _Fit) -> _Encoding:
    trajectory = fit.moved(fit.parameters[:3])
    matrix = _normal_matrix(trajectory, fit.grid)
    ridge = RIDGE * len(matrix) * float(matrix[0, 0].real)
    matrix[np.diag_indices(len(matrix))] += ridge
    factor = cho_factor(matrix, overwrite_a=True, check_finite=False)
    return _Encoding(Transform(trajectory, fit.grid), factor, ridge, fit.velocity())


def _noise_slope(fit: _Fit, encoding: _Encoding) -> Floats:
    """Return the mean slope that white noise of unit variance gives each parameter.

    Noise is fitted the better, the farther out the samples reach; without this term delays
    would come out too small. The trace of ``ridge^2 S^3 A^H A'``, with ``S`` the regularized
    inverse, is found by random signs.
    """
    rng, total = np.random.default_rng(0), np.zeros(N_PARAMETERS)
    probes = rng.choice([-1.0, 1.0], (PROBES, *fit.grid.matrix)).astype(np.complex128)
    solved = encoding.solve(encoding.solve(encoding.solve(probes)))
    for probe, image in zip(probes, solved, strict=True):
        seen = encoding.transform.forward(encoding.ridge**2 * image)
        own = encoding.transform.forward(probe)
        columns = _columns(probe, own, encoding, fit)
        total += [np.vdot(seen, column).real for column in columns]
    return total / PROBES


def _gauss_newton(
    fit: _Fit, decay_rate: tuple[float, float], noise_slope: Floats | None
) -> tuple[Floats, Floats, float, Floats]:
    """Return step and covariance of the parameters, the share left unexplained, noise slope."""
    encoding = _encode(fit)
    noise_slope = _noise_slope(fit, encoding) if noise_slope is None else noise_slope
    rate = fit.parameters[3] + 2j * np.pi * fit.parameters[4]
    curvature, slope, left = np.zeros((N_PARAMETERS,) * 2), np.zeros(N_PARAMETERS), 0.0
    for coil in fit.samples:
        wanted = coil * np.exp(rate * fit.times)
        (image,), (missing,) = encoding.explain(wanted[None])
        columns = _columns(image, wanted - missing, encoding, fit)
        _, free = encoding.explain(np.stack(columns))
        curvature += [[np.vdot(a, b).real for b in free] for a in free]
        slope += [np.vdot(a, missing).real for a in free]
        left += float(np.vdot(missing, missing).real)
    variance = left / fit.samples.size
    slope -= len(fit.samples) * variance * noise_slope
    curvature[3, 3] += variance / 2 / decay_rate[1] ** 2
    slope[3] += variance / 2 * (decay_rate[0] - fit.parameters[3]) / decay_rate[1] ** 2
    inverse = np.linalg.inv(curvature)
    share = np.sqrt(left) / np.linalg.norm(fit.samples)
    return inverse @ slope, variance / 2 * inverse, float(share), noise_slope


def _columns(image: Complexes, seen: Complexes, encoding: _Encoding, fit: _Fit) -> list[Complexes]:
    """Differentiate the samples by the three delays, the decay rate and the frequency."""
    columns = []
    for axis in range(3):
        n, step = fit.grid.matrix[axis], fit.grid.voxel_size[axis]
        place = np.moveaxis(((np.arange(n) - n // 2) * step)[:, None, None], 0, axis)
        slope = encoding.transform.forward(-2j * np.pi * place * image)
        columns.append(encoding.velocity[..., axis] * slope)
    return [*columns, -fit.times * seen, -2j * np.pi * fit.times * seen]


def _normal_matrix(trajectory: Floats, grid: Geometry) -> Complexes:
    """Matrix of ``adjoint(forward(.))`` on the voxels of a grid."""
    n = grid.matrix[0]
    double = doubled_geometry(grid)
    ones = np.ones(trajectory.shape[:-1], np.complex64)
    response = Transform(trajectory, double).adjoint(ones)
    index = np.stack(np.unravel_index(np.arange(n**3), grid.matrix))
    between = index[:, :, None] - index[:, None, :] + n
    return np.asarray(response[between[0], between[1], between[2]], np.complex128)
