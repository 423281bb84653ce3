"""Density weights integrate k-space; two ways to find them agree."""

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.density import (
    density_weights,
    direction_unevenness,
    doubled_geometry,
    hamming_filter,
    is_centre_out_radial,
    is_isotropic,
    pipe_menon_weights,
    radial_weights,
)
from sodiumprep.sodium.trajectory import (
    TrajectoryProtocol,
    analytic_trajectory,
    density_adapted_radial,
    spoke_directions,
    twisted_projection,
)

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
    trajectory = density_adapted_radial(900, 60, K_MAX)
    analytic, iterated = radial_weights(trajectory), pipe_menon_weights(trajectory, GRID)
    radius = np.linalg.norm(trajectory, axis=-1)
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 1.01)):
        shell = (radius >= low * K_MAX) & (radius < high * K_MAX)
        assert iterated[shell].sum() == pytest.approx(analytic[shell].sum(), rel=0.02)


def blob(trajectory, width=0.015):
    """Transform of a Gaussian of peak 1."""
    radius2 = np.sum(trajectory.astype(float) ** 2, axis=-1)
    return (2 * np.pi * width**2) ** 1.5 * np.exp(-2 * np.pi**2 * width**2 * radius2)


@pytest.mark.parametrize("kind", ["density-adapted radial", "tpi", "cones", "floret"])
def test_iterated_weights_carry_the_absolute_scale(kind):
    trajectory = analytic_trajectory(TrajectoryProtocol(kind, 400, 150, K_MAX))
    weights = pipe_menon_weights(trajectory, GRID)
    centre = np.array([0.015, -0.01, 0.02])
    place = np.array([[0.0, 0.0, 0.0], [0.015, 0.0, 0.01]])
    waves = np.exp(2j * np.pi * (trajectory.astype(float) @ (place - centre).T))
    found = np.einsum("ij,ijk->k", weights * blob(trajectory), waves).real
    away = np.sum((place - centre) ** 2, axis=1)
    np.testing.assert_allclose(found, np.exp(-away / (2 * 0.015**2)), atol=0.01)


def test_more_iterations_leave_the_weights_as_they_are():
    trajectory = analytic_trajectory(TrajectoryProtocol("floret", 300, 120, K_MAX))
    few, many = (pipe_menon_weights(trajectory, GRID, n) for n in (8, 16))
    assert np.linalg.norm(few - many) < 0.05 * np.linalg.norm(many)


def test_samples_alone_in_a_corner_weigh_no_more_than_a_cell():
    corner = cartesian(GRID)
    corner = corner[np.linalg.norm(corner, axis=-1).min(axis=1) < 0.5 * K_MAX]
    lonely = np.full((1, 12, 3), 0.95 * K_MAX) + np.linspace(0, 0.1, 12)[:, None]
    weights = pipe_menon_weights(np.concatenate([corner, lonely]), GRID)
    assert weights.max() <= 1.0001 / np.prod(GRID.fov)
    assert weights[-1].sum() == pytest.approx(1 / np.prod(GRID.fov), rel=0.05)


def test_no_iteration_at_all_is_refused():
    with pytest.raises(ValueError, match="0 iterations"):
        pipe_menon_weights(cartesian(GRID), GRID, 0)


def test_analytic_weights_hold_on_cones_too():
    trajectory = twisted_projection(500, 150, K_MAX)
    weights, told = density_weights(trajectory, GRID)
    assert told == "analytic on cones"
    assert np.sum(weights * blob(trajectory)) == pytest.approx(1.0, rel=2e-3)


def clustered():
    axes = np.repeat(np.concatenate([np.eye(3), -np.eye(3)]), 60, axis=0)
    near = axes + 0.2 * np.random.default_rng(0).standard_normal(axes.shape)
    return near / np.linalg.norm(near, axis=1, keepdims=True)


def half():
    directions = spoke_directions(500)
    return directions[directions[:, 2] > 0]


@pytest.mark.parametrize("directions", [half(), clustered()], ids=["half a sphere", "clusters"])
def test_spokes_that_leave_gaps_are_not_weighted_as_radial(directions):
    spokes = directions[:, None] * np.linspace(0, K_MAX, 40)[:, None]
    assert direction_unevenness(directions) > 0.5
    assert not is_isotropic(spokes)
    assert not is_centre_out_radial(spokes)
    assert density_weights(spokes, GRID)[1] == "Pipe-Menon"


def test_evenness_does_not_depend_on_the_orientation():
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    plain, turned = (direction_unevenness(d) for d in (half(), half() @ turn))
    assert plain == pytest.approx(turned, rel=1e-9)


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
