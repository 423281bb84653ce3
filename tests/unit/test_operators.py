"""Encoding operators: adjointness, the direct sum, and the sign of off-resonance."""

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.operators import (
    Fourier,
    SegmentedFourier,
    Sensitivities,
    decay_along_readout,
    encoding,
    weighting,
)
from sodiumprep.sodium.segments import Evolution, time_segments
from sodiumprep.sodium.trajectory import density_adapted_radial

GRID = Geometry(np.zeros(3), np.eye(3), (0.07, 0.08, 0.12), (7, 8, 6))
TRAJECTORY = density_adapted_radial(12, 40, 50.0)
TIMES = np.linspace(0, 0.02, 40)
RNG = np.random.default_rng(0)
FIELD = RNG.uniform(-8, 20, GRID.matrix).astype(np.float32)
RATE = RNG.uniform(15, 200, GRID.matrix).astype(np.float32)
EVOLUTION = Evolution(TIMES, decay_rate=RATE, off_resonance=FIELD, echo_time=3e-4)
SEGMENTS = time_segments(EVOLUTION, 8, 3)
WEIGHTS = RNG.random(TRAJECTORY.shape[:2]).astype(np.float32)
MAPS = (RNG.normal(size=(3, *GRID.matrix)) + 1j * RNG.normal(size=(3, *GRID.matrix))).astype(
    np.complex64
)
OPERATORS = {
    "Fourier": lambda k: Fourier(k, GRID),
    "Fourier of coils": lambda k: Fourier(k, GRID, 3),
    "segmented": lambda k: SegmentedFourier(k, GRID, SEGMENTS),
    "sensitivities": lambda k: Sensitivities(MAPS),
    "weighting": lambda k: weighting(WEIGHTS, 3),
    "decay": lambda k: decay_along_readout(EVOLUTION.common, 12),
    "encoding": lambda k: encoding(k, GRID, MAPS, SEGMENTS),
    "weighted": lambda k: weighting(WEIGHTS, 3) * encoding(k, GRID, MAPS),
    "normal": lambda k: (
        encoding(k, GRID, MAPS).H * weighting(WEIGHTS, 3) * encoding(k, GRID, MAPS)
    ),
}


def random_complex(seed, shape, dtype=np.complex64):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def places():
    """Return where the voxels lie, shape (nx, ny, nz, 3) [m]."""
    axes = [
        (np.arange(n) - n // 2) * size
        for n, size in zip(GRID.matrix, GRID.voxel_size, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def direct_sum(image):
    """Return the samples of an image under EVOLUTION, sample by sample."""
    change = np.exp(-(RATE[..., None] + 2j * np.pi * FIELD[..., None]) * TIMES)
    change *= np.exp(-2j * np.pi * FIELD[..., None] * EVOLUTION.echo_time)
    waves = np.exp(-2j * np.pi * np.einsum("xyza,sna->xyzsn", places(), TRAJECTORY))
    return np.einsum("xyz,xyzn,xyzsn->sn", image, change, waves)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    ("dtype", "real", "limit"),
    [(np.complex64, np.float32, 1e-5), (np.complex128, np.float64, 1e-10)],
)
def test_every_operator_has_its_adjoint(name, dtype, real, limit):
    operator = OPERATORS[name](TRAJECTORY.astype(real))
    image = random_complex(1, operator.ishape, dtype)
    samples = random_complex(2, operator.oshape, dtype)
    there, back = operator(image), operator.H(samples)
    assert there.dtype == back.dtype == dtype
    miss = abs(np.vdot(samples, there) - np.vdot(back, image))
    assert miss < limit * np.linalg.norm(samples) * np.linalg.norm(there)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_adjoint_of_the_adjoint_is_the_operator(name):
    operator = OPERATORS[name](TRAJECTORY)
    image = random_complex(1, operator.ishape)
    assert relative_error(operator.H.H(image), operator(image)) < 1e-6


def test_segments_agree_with_the_direct_sum_to_the_error_they_state():
    image = random_complex(4, GRID.matrix)
    found = SegmentedFourier(TRAJECTORY, GRID, SEGMENTS)(image)
    assert SEGMENTS.error < 4e-3
    assert relative_error(found, direct_sum(image)) < SEGMENTS.error


def test_a_constant_gradient_as_a_field_map_acts_like_a_shift_of_k():
    gradient = np.array([90.0, -50.0, 40.0])  # Hz/m
    evolution = Evolution(TIMES, off_resonance=places() @ gradient, echo_time=1e-3)
    segmented = SegmentedFourier(TRAJECTORY, GRID, time_segments(evolution, 12, 3))
    shifted = TRAJECTORY + (TIMES[:, None] + evolution.echo_time) * gradient
    image = random_complex(5, GRID.matrix)
    assert relative_error(segmented(image), Fourier(shifted, GRID)(image)) < 1e-3
    opposite = Fourier(2 * TRAJECTORY - shifted, GRID)(image)
    assert relative_error(segmented(image), opposite) > 0.1


def test_one_relaxation_for_all_voxels_needs_no_segments():
    evolution = Evolution(TIMES, decay_rate=np.full(GRID.matrix, 60.0, np.float32))
    image = random_complex(6, GRID.matrix)
    decay = decay_along_readout(np.exp(-60.0 * TIMES).astype(np.float32), 12)
    found = SegmentedFourier(TRAJECTORY, GRID, time_segments(evolution))(image)
    assert relative_error(found, (decay * Fourier(TRAJECTORY, GRID))(image)) < 1e-5


def test_coils_are_encoded_one_by_one():
    image = random_complex(7, GRID.matrix)
    one = Fourier(TRAJECTORY, GRID)(image * MAPS[1])
    assert relative_error(encoding(TRAJECTORY, GRID, MAPS)(image)[1], one) < 1e-6


def test_no_segment_transforms_samples_that_are_not_its_own():
    operator = SegmentedFourier(TRAJECTORY, GRID, time_segments(EVOLUTION, 8))
    sizes = [transform.trajectory.shape[1] for transform, _ in operator.pieces]
    assert sum(sizes) <= 2 * TIMES.size
