"""Laws of the sampling patterns."""

import numpy as np
import pytest

from sodiumprep.sodium.trajectory import (
    SODIUM_GAMMA_BAR,
    centre_step,
    density_adapted_radial,
    density_adapted_radius,
    spoke_directions,
)


def test_directions_are_spread_evenly_over_the_sphere():
    directions = spoke_directions(500)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(directions.T @ directions / 500, np.eye(3) / 3, atol=2e-3)


def test_each_shell_outside_k0_holds_the_same_number_of_samples_per_volume():
    radius = density_adapted_radius(2000, 100.0, 0.3)
    outer = radius[radius > 35.0]
    volume = np.diff(outer**3)
    np.testing.assert_allclose(volume, volume.mean(), rtol=1e-6)


def test_the_speed_is_constant_inside_k0_and_continuous_there():
    radius = density_adapted_radius(5000, 100.0, 0.3)
    speed = np.diff(radius)
    np.testing.assert_allclose(speed[radius[1:] < 30.0], speed[0])
    assert np.abs(np.diff(speed)).max() < 1e-2 * speed[0]


def test_the_radius_follows_the_published_law_of_the_gradient():
    gradient, k0, k_max = 10e-3, 30.0, 100.0  # T/m, 1/m, 1/m
    rate = SODIUM_GAMMA_BAR * gradient
    duration = k0 / rate + (k_max**3 - k0**3) / (3 * k0**2 * rate)
    time = np.linspace(0, duration, 64)
    late = np.cbrt(k0**3 + 3 * k0**2 * rate * np.maximum(time - k0 / rate, 0))
    expected = np.where(time < k0 / rate, rate * time, late)
    np.testing.assert_allclose(density_adapted_radius(64, k_max, 0.3), expected, rtol=1e-9)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 1.0])
def test_a_readout_runs_from_the_centre_to_the_edge(fraction):
    radius = density_adapted_radius(50, 80.0, fraction)
    assert radius[0] == 0
    assert radius[-1] == pytest.approx(80.0)
    assert np.all(np.diff(radius) > 0)


def test_a_trajectory_has_straight_spokes_of_one_length():
    trajectory = density_adapted_radial(40, 30, 60.0)
    np.testing.assert_allclose(np.linalg.norm(trajectory[:, -1], axis=-1), 60.0, rtol=1e-5)
    np.testing.assert_allclose(np.cross(trajectory[:, 9], trajectory[:, -1]), 0, atol=2e-3)


def test_the_centre_step_is_the_one_near_the_centre():
    radius = np.concatenate([np.linspace(0, 30, 16), np.linspace(40, 200, 17)])
    assert centre_step(radius[None, :, None] * np.array([0, 0, 1.0])) == pytest.approx(2.0)


def test_a_readout_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        density_adapted_radius(1, 100.0)


@pytest.mark.parametrize("fraction", [0.0, -0.3, 1.2])
def test_a_constant_share_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match="k0_fraction"):
        density_adapted_radius(10, 100.0, fraction)
