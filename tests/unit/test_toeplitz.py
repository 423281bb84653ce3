"""The normal operator by convolution, against the transforms that it replaces."""

import numpy as np
import pytest

from sodiumprep.sodium import toeplitz
from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.operators import Normal, encoding, weighting
from sodiumprep.sodium.segments import Evolution, time_segments
from sodiumprep.sodium.trajectory import density_adapted_radial

GRID = Geometry(np.zeros(3), np.eye(3), (0.07, 0.08, 0.12), (7, 8, 6))
TRAJECTORY = density_adapted_radial(12, 40, 50.0)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.random(TRAJECTORY.shape[:2]).astype(np.float32)
MAPS = (RNG.normal(size=(5, *GRID.matrix)) + 1j * RNG.normal(size=(5, *GRID.matrix))).astype(
    np.complex64
)
FIELD = RNG.uniform(-8, 20, GRID.matrix).astype(np.float32)
RATE = RNG.uniform(15, 200, GRID.matrix).astype(np.float32)
TIMES = np.linspace(0, 0.02, 40)
CHANGES = {
    "none": None,
    "decay": time_segments(Evolution(TIMES, decay_rate=RATE), 8),
    "field": time_segments(Evolution(TIMES, off_resonance=FIELD, echo_time=1e-3), 8),
    "large field": time_segments(Evolution(TIMES, off_resonance=10 * FIELD), 8),
    "three neighbours": time_segments(Evolution(TIMES, off_resonance=FIELD), 6, 3),
}


def random_complex(seed, shape, dtype=np.complex64):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("maps", [None, MAPS])
@pytest.mark.parametrize("change", CHANGES)
def test_the_normal_operator_is_forward_weights_and_adjoint(maps, change):
    operator = encoding(TRAJECTORY, GRID, maps, CHANGES[change])
    weights = weighting(WEIGHTS, None if maps is None else len(maps))
    image = random_complex(1, GRID.matrix)
    found = Normal(WEIGHTS, TRAJECTORY, GRID, maps, CHANGES[change])(image)
    assert found.dtype == np.complex64
    assert relative_error(found, (operator.H * weights * operator)(image)) < 1.5e-5


def test_it_is_accurate_in_double_precision():
    weights, trajectory = WEIGHTS.astype(np.float64), TRAJECTORY.astype(np.float64)
    operator = encoding(trajectory, GRID)
    image = random_complex(1, GRID.matrix, np.complex128)
    found = Normal(weights, trajectory, GRID)(image)
    assert relative_error(found, (operator.H * weighting(weights) * operator)(image)) < 1e-9


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_its_own_adjoint_and_not_negative(change):
    normal = Normal(WEIGHTS, TRAJECTORY, GRID, MAPS, CHANGES[change])
    one, other = random_complex(2, GRID.matrix), random_complex(3, GRID.matrix)
    scale = np.linalg.norm(other) * np.linalg.norm(normal(one))
    assert abs(np.vdot(other, normal(one)) - np.vdot(normal.H(other), one)) < 1e-5 * scale
    assert np.vdot(one, normal(one)).real > 0


@pytest.mark.parametrize("change", ["none", "field"])
def test_low_memory_gives_the_same(change):
    image = random_complex(4, GRID.matrix)
    arguments = (WEIGHTS, TRAJECTORY, GRID, MAPS, CHANGES[change])
    assert (
        relative_error(Normal(*arguments, low_mem=True)(image), Normal(*arguments)(image)) < 1e-5
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("maps", [None, MAPS])
def test_the_number_of_threads_changes_nothing(threads, maps, monkeypatch):
    monkeypatch.setattr(toeplitz, "available_threads", lambda: threads)
    monkeypatch.setattr(toeplitz, "SLAB_BYTES", 4000)
    image = random_complex(5, GRID.matrix)
    alone = encoding(TRAJECTORY, GRID, maps)
    weights = weighting(WEIGHTS, None if maps is None else len(maps))
    found = Normal(WEIGHTS, TRAJECTORY, GRID, maps)(image)
    assert relative_error(found, (alone.H * weights * alone)(image)) < 1.5e-5


def test_densely_sampled_readouts_are_merged_without_loss():
    dense = density_adapted_radial(30, 500, 50.0)
    weights = np.ones(dense.shape[:2], np.float32)
    operator = encoding(dense, GRID)
    image = random_complex(6, GRID.matrix)
    expected = (operator.H * weighting(weights) * operator)(image)
    assert relative_error(Normal(weights, dense, GRID)(image), expected) < 1.5e-5


def test_spectra_are_real_and_cover_twice_the_grid():
    spectra = Normal(WEIGHTS, TRAJECTORY, GRID, None, CHANGES["large field"]).spectra
    assert {spectrum.dtype for spectrum in spectra.values()} == {np.dtype(np.float32)}
    assert {spectrum.shape for spectrum in spectra.values()} == {(14, 16, 12)}
    assert len(spectra) == 15
