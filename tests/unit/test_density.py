"""Density weights integrate k-space; two ways to find them agree."""

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.density import (
    density_weights,
    doubled_geometry,
    hamming_filter,
    is_centre_out_radial,
    pipe_menon_weights,
    radial_weights,
)
from sodiumprep.sodium.trajectory import density_adapted_radial

K_MAX = 50.0
GRID = Geometry(np.zeros(3), np.eye(3), (0.12,) * 3, (12, 12, 12))
SPHERE = 4 / 3 * np.pi * K_MAX**3


def cartesian(geometry):
    axis = (np.arange(geometry.matrix[0]) - geometry.matrix[0] // 2) / geometry.fov[0]
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 12, 3)


@pytest.mark.parametrize("k0_fraction", [0.2, 0.3, 0.5, 1.0])
def test_radial_weights_sum_to_the_volume_of_the_sphere(k0_fraction):
    weights = radial_weights(density_adapted_radial(50, 100, K_MAX, k0_fraction))
    assert weights.sum() == pytest.approx(SPHERE, rel=2e-3)


def test_radial_weights_integrate_a_gaussian_over_k_space():
    trajectory = density_adapted_radial(50, 100, K_MAX)
    radius2 = np.sum(trajectory**2, axis=-1)
    integral = np.sum(radial_weights(trajectory) * np.exp(-radius2 / (2 * 10.0**2)))
    assert integral == pytest.approx((2 * np.pi * 100) ** 1.5, rel=1e-3)


def test_iterated_weights_of_a_cartesian_grid_are_one_cell_each():
    weights = pipe_menon_weights(cartesian(GRID), GRID)
    np.testing.assert_allclose(weights, 1 / np.prod(GRID.fov), rtol=1e-3)


def test_iterated_weights_of_a_radial_trajectory_agree_with_the_analytic_ones():
    trajectory = density_adapted_radial(700, 60, K_MAX)
    analytic, iterated = radial_weights(trajectory), pipe_menon_weights(trajectory, GRID)
    radius = np.linalg.norm(trajectory, axis=-1)
    middle = (radius > 0.2 * K_MAX) & (radius < 0.85 * K_MAX)
    ratio = iterated[middle].sum() / analytic[middle].sum()
    assert ratio == pytest.approx(1.0, abs=0.03)


def test_a_spoke_from_the_centre_is_recognized():
    assert is_centre_out_radial(density_adapted_radial(30, 20, K_MAX))


def test_a_twisted_or_a_full_spoke_is_no_centre_out_radial():
    trajectory = density_adapted_radial(30, 20, K_MAX)
    twisted = trajectory.copy()
    twisted[:, 10:, 0] += np.linspace(0, 5, 10)
    assert not is_centre_out_radial(twisted)
    assert not is_centre_out_radial(np.concatenate([-trajectory[:, ::-1], trajectory], axis=1))


@pytest.mark.parametrize(
    ("trajectory", "method"),
    [(density_adapted_radial(30, 20, K_MAX), "radial"), (cartesian(GRID), "Pipe-Menon")],
)
def test_the_way_the_weights_were_found_is_told(trajectory, method):
    weights, told = density_weights(trajectory, GRID)
    assert told == method
    assert weights.shape == trajectory.shape[:-1]
    assert weights.dtype == np.float32


def test_the_hamming_window_falls_from_one_to_a_twelfth():
    window = hamming_filter(density_adapted_radial(10, 20, K_MAX))
    np.testing.assert_allclose(window[:, 0], 1)
    np.testing.assert_allclose(window[:, -1], 0.08, atol=1e-6)
    assert np.all(np.diff(window, axis=1) < 0)


def test_the_doubled_grid_keeps_the_voxels():
    doubled = doubled_geometry(Geometry(np.ones(3), np.eye(3), (0.1, 0.2, 0.3), (5, 10, 15)))
    assert doubled.matrix == (10, 20, 30)
    np.testing.assert_allclose(doubled.voxel_size, 0.02)
