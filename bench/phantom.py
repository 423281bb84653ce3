"""The cases of the benchmarks: a head of ellipsoids, its k-space in closed form, and noise."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry
from sodiumprep.sodium.density import density_weights
from sodiumprep.sodium.ellipsoids import (
    Ellipsoid,
    ellipsoid_head,
    ellipsoid_image,
    ellipsoid_kspace,
)
from sodiumprep.sodium.phantom_signal import coil_sensitivities
from sodiumprep.sodium.signal import Relaxation, biexponential_decay
from sodiumprep.sodium.trajectory import density_adapted_radial, twisted_projection

FOV = 0.22  # m
READOUT = 0.02  # s
HEAD = 0.08  # m, radius of its inner part
NOISE = 0.02  # SD of each part of the gridded image of one coil; the head reaches 0.7
BLOCK = 500_000  # samples whose closed form is computed at a time
FLUIDS = (2, 3)  # the ventricles among the ellipsoids of the head
TISSUE = Relaxation(t1=0.037, t2_short=0.0034, t2_long=0.0235, short_fraction=0.6)  # white matter
FLUID = Relaxation(t1=0.058, t2_short=0.056, t2_long=0.056, short_fraction=0.0)


@dataclass(frozen=True)
class Case:
    """Size of a reconstruction.

    Parameters
    ----------
    readouts, samples, matrix, coils
        Readouts, samples of each, voxels along each axis, receive coils.
    twisted
        Twisted projections instead of density-adapted spokes.
    """

    readouts: int
    samples: int
    matrix: int
    coils: int = 1
    twisted: bool = False

    @property
    def geometry(self) -> Geometry:
        """Voxel grid."""
        n = self.matrix
        return Geometry(np.zeros(3), np.eye(3), (FOV, FOV, FOV), (n, n, n))

    @property
    def trajectory(self) -> Floats:
        """Shape (readouts, samples, 3) [1/m], float32."""
        make = twisted_projection if self.twisted else density_adapted_radial
        return make(self.readouts, self.samples, self.matrix / (2 * FOV))

    def __str__(self) -> str:
        """Return the size in words."""
        coils = "1 coil" if self.coils == 1 else f"{self.coils} coils"
        kind = "TPI" if self.twisted else "radial"
        return f"{kind} {self.readouts} x {self.samples}, {self.matrix}^3, {coils}"


CASES = {
    "a": Case(10_000, 384, 64),
    "b": Case(1_600, 1_600, 64, twisted=True),
    "c": Case(8_000, 256, 80, coils=32),
    "d": Case(20_000, 512, 120),
}


@dataclass(frozen=True)
class Scan:
    """A simulated measurement.

    Parameters
    ----------
    samples
        Shape (coils, readouts, n), complex64.
    trajectory
        Shape (readouts, n, 3) [1/m].
    weights
        Density compensation, shape (readouts, n) [1/m^3].
    truth
        Density, shape (nx, ny, nz).
    maps
        Coil sensitivities, shape (coils, nx, ny, nz); None for one uniform coil.
    """

    samples: Complexes
    trajectory: Floats
    weights: Floats
    truth: Floats
    maps: Complexes | None = None


def simulate(case: Case, decaying: bool = False) -> Scan:
    """Measure the head, with noise of a fixed seed.

    Parameters
    ----------
    case
        What is measured how.
    decaying
        Whether signals decay along the readout, fluid slower than tissue.

    Returns
    -------
    scan
        With its truth.
    """
    geometry, trajectory = case.geometry, case.trajectory
    weights, _ = density_weights(trajectory, geometry)
    head = ellipsoid_head(np.asarray(geometry.fov))
    truth = ellipsoid_image(head, geometry).real
    if case.coils == 1:
        samples, maps = _measured(head, trajectory, decaying)[None], None
    else:
        samples, maps = _coil_samples(case, head, trajectory)
    level = NOISE / np.sqrt(np.sum(weights.astype(np.float64) ** 2))
    _add_noise(samples, level)
    return Scan(samples, trajectory, weights, truth, maps)


def tissue_decay(case: Case) -> tuple[Floats, tuple[Relaxation, Relaxation], Floats]:
    """Return what a model of the decay is made of.

    Parameters
    ----------
    case
        What is measured how.

    Returns
    -------
    times
        Shape (n,) [s].
    relaxations
        Of tissue and fluid.
    fractions
        Shares of tissue and fluid in the voxels' signal, shape (2, nx, ny, nz).
    """
    head = ellipsoid_head(np.asarray(case.geometry.fov))
    fluid = ellipsoid_image([head[i] for i in FLUIDS], case.geometry).real
    total = ellipsoid_image(head, case.geometry).real
    share = np.clip(fluid / np.maximum(total, 1e-3), 0, 1).astype(np.float32)
    return _times(case.samples), (TISSUE, FLUID), np.stack([1 - share, share])


def _times(n_samples: int) -> Floats:
    return np.linspace(0, READOUT, n_samples)


def _measured(head: list[Ellipsoid], trajectory: Floats, decaying: bool) -> Complexes:
    if not decaying:
        return _kspace(head, trajectory)
    fluid = [head[i] for i in FLUIDS]
    rest = [shape for i, shape in enumerate(head) if i not in FLUIDS]
    times = _times(trajectory.shape[1])
    courses = [biexponential_decay(times, each).astype(np.float32) for each in (TISSUE, FLUID)]
    return _kspace(rest, trajectory) * courses[0] + _kspace(fluid, trajectory) * courses[1]


def _kspace(head: list[Ellipsoid], trajectory: Floats) -> Complexes:
    n_blocks = -(-trajectory[..., 0].size // BLOCK)
    blocks = [ellipsoid_kspace(head, part) for part in np.array_split(trajectory, n_blocks)]
    return np.concatenate(blocks)


def _coil_samples(
    case: Case, head: list[Ellipsoid], trajectory: Floats
) -> tuple[Complexes, Complexes]:
    """Measure with coils whose sensitivities are sums of plane waves: exact in k-space too."""
    position = (np.arange(case.matrix) - case.matrix // 2) * FOV / case.matrix
    waves = np.asarray(list(product((-1, 0, 1), repeat=3))) / (2 * FOV)
    mixing = _fitted_loops(waves, case.coils)
    samples = np.zeros((case.coils, *trajectory.shape[:2]), np.complex64)
    maps = np.zeros((case.coils, *case.geometry.matrix), np.complex64)
    for wave, share in zip(waves, mixing, strict=True):
        seen = _kspace(head, trajectory - wave.astype(np.float32))
        ramp = [np.exp(2j * np.pi * q * position).astype(np.complex64) for q in wave]
        ramps = np.einsum("i,j,k->ijk", *ramp)
        for coil in range(case.coils):
            samples[coil] += share[coil] * seen
            maps[coil] += share[coil] * ramps
    return samples, maps


def _fitted_loops(waves: Floats, n_coils: int) -> Complexes:
    """Return the coefficients by which waves come nearest to loops that see the head at 1."""
    line = np.linspace(-FOV / 2, FOV / 2, 20)
    position = np.stack(np.meshgrid(line, line, line, indexing="ij"))
    loops = coil_sensitivities(position.astype(np.float32), n_coils).reshape(n_coils, -1)
    inside = np.linalg.norm(position, axis=0).ravel() < HEAD
    loops /= np.sqrt(np.mean(np.abs(loops[:, inside]) ** 2))
    basis = np.exp(2j * np.pi * position.reshape(3, -1).T @ waves.T)
    return np.asarray(np.linalg.lstsq(basis, loops.T, rcond=None)[0], np.complex64)


def _add_noise(samples: Complexes, level: float) -> None:
    rng = np.random.default_rng(0)
    for coil in samples:
        coil.real += level * rng.standard_normal(coil.shape, np.float32)
        coil.imag += level * rng.standard_normal(coil.shape, np.float32)
