"""Interpolation along the readout: accuracy on unseen signals, and when it is not used."""

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.interpolation import (
    ACCURACY,
    Interpolator,
    local_least_squares,
    readout_interpolator,
)
from sodiumprep.sodium.trajectory import density_adapted_radial

GRID = Geometry(np.zeros(3), np.eye(3), (0.20, 0.22, 0.24), (20, 22, 24))
TRAJECTORY = density_adapted_radial(300, 400, 50.0)


def twisted(n_readouts=200, n_samples=400):
    """Return centre-out readouts that wind around an axis, faster on some than on others."""
    share = np.linspace(0, 1, n_samples)
    start = np.linspace(0, 2 * np.pi, n_readouts)[:, None]
    angle = start + np.linspace(1, 6, n_readouts)[:, None] * share
    height = np.linspace(-1, 1, n_readouts)[:, None] * share
    axes = [share * np.cos(angle), share * np.sin(angle), height]
    return (50 * np.stack(axes, axis=-1)).astype(np.float32)


def signals_of_points(trajectory, seed):
    """Return the signal of one point in the field of view for each readout."""
    places = np.random.default_rng(seed).uniform(-0.5, 0.5, (len(trajectory), 1, 3)) * GRID.fov
    return np.exp(-2j * np.pi * np.sum(trajectory.astype(np.float64) * places, axis=-1))


@pytest.mark.parametrize("trajectory", [TRAJECTORY, twisted()])
def test_signals_of_points_follow_from_less_than_half_of_the_samples(trajectory):
    interpolator = readout_interpolator(trajectory, GRID)
    signals = signals_of_points(trajectory, 1)
    found = interpolator.spread(signals[:, interpolator.nodes])
    assert interpolator.nodes.size < 0.5 * trajectory.shape[1]
    assert np.sqrt(np.mean(np.abs(found - signals) ** 2)) < 2 * ACCURACY


def test_gathering_is_the_adjoint_of_spreading():
    interpolator = readout_interpolator(TRAJECTORY, GRID)
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=interpolator.nodes.size), rng.normal(size=400)
    assert np.isclose(
        np.dot(interpolator.spread(few), many), np.dot(few, interpolator.gather(many))
    )


@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.complex128])
def test_the_precision_is_kept(dtype):
    interpolator = readout_interpolator(TRAJECTORY, GRID)
    assert interpolator.gather(np.ones((2, 400), dtype)).dtype == dtype


def test_readouts_without_samples_to_spare_are_left_alone():
    assert readout_interpolator(density_adapted_radial(50, 40, 50.0), GRID) is None


def test_short_readouts_are_left_alone():
    assert readout_interpolator(density_adapted_radial(50, 20, 1.0), GRID) is None


def test_a_single_sample_out_of_place_is_noticed():
    jumping = TRAJECTORY.copy()
    jumping[123, 201, 1] += 0.2
    assert readout_interpolator(jumping, GRID) is None


def test_noisy_places_are_noticed():
    noise = np.random.default_rng(0).normal(0, 0.003, TRAJECTORY.shape)
    assert readout_interpolator((TRAJECTORY + noise).astype(np.float32), GRID) is None


def test_each_sample_is_fitted_by_its_neighbours_alone():
    line = np.exp(1j * np.outer(np.linspace(-1, 1, 9), np.linspace(0, 1, 41)))
    interpolator = local_least_squares(line, np.arange(0, 41, 5), 3)
    assert isinstance(interpolator, Interpolator)
    assert np.all(np.count_nonzero(interpolator.coefficients, axis=0) <= 3)


def test_more_neighbours_are_more_accurate():
    line = np.exp(1j * np.outer(np.linspace(-1, 1, 9), np.linspace(0, 5, 41)))
    errors = [local_least_squares(line, np.arange(0, 41, 5), n).error for n in (2, 3, 4, 6)]
    assert np.all(np.diff(errors) < 0)
