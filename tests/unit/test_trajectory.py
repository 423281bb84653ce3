"""Laws of the sampling patterns."""

from dataclasses import fields

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import SODIUM_GAMMA_BAR
from sodiumprep.sodium.trajectory import (
    SIDECAR_KEYS,
    TrajectoryProtocol,
    analytic_trajectory,
    centre_step,
    cones,
    delayed,
    density_adapted_radial,
    density_adapted_radius,
    floret,
    spoke_directions,
    twisted_projection,
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


KINDS = ("radial", "density-adapted radial", "tpi", "cones", "floret")


def made(kind, readouts=300, samples=400, **changes):
    return analytic_trajectory(TrajectoryProtocol(kind, readouts, samples, 100.0, **changes))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs_from_the_centre_to_the_edge(kind):
    trajectory = made(kind)
    radius = np.linalg.norm(trajectory, axis=-1)
    assert trajectory.shape == (300, 400, 3)
    assert trajectory.dtype == np.float32
    np.testing.assert_allclose(radius[:, 0], 0)
    np.testing.assert_allclose(radius[:, -1], 100.0, rtol=1e-5)
    assert np.diff(radius, axis=1).min() > 0


@pytest.mark.parametrize(("kind", "samples"), [("tpi", 300), ("cones", 600), ("floret", 700)])
def test_steps_near_the_centre_are_fine_enough_with_these_samples(kind, samples):
    assert centre_step(made(kind, samples=samples)) < 1 / (2 * 0.24)


@pytest.mark.parametrize("kind", ["radial", "density-adapted radial", "tpi", "cones"])
@pytest.mark.parametrize("place", [200, 399])
def test_directions_stay_evenly_spread_on_the_way_out(kind, place):
    positions = made(kind, 1000)[:, place]
    directions = positions / np.linalg.norm(positions, axis=-1, keepdims=True)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=5e-3)
    np.testing.assert_allclose(directions.T @ directions / 1000, np.eye(3) / 3, atol=5e-3)


def test_a_twisted_projection_keeps_the_density_adapted_radius():
    radius = np.linalg.norm(made("tpi"), axis=-1)
    expected = np.broadcast_to(density_adapted_radius(400, 100.0, 0.3), radius.shape)
    np.testing.assert_allclose(radius, expected, atol=1e-3)


def test_a_twisted_projection_moves_at_constant_speed_away_from_the_poles():
    trajectory = twisted_projection(400, 3000, 100.0)
    equator = np.abs(trajectory[:, -1, 2]) < 90
    speed = np.linalg.norm(np.diff(trajectory[equator].astype(float), axis=1), axis=-1)
    np.testing.assert_allclose(speed, speed[0, 0], rtol=5e-3)


def test_a_twisted_projection_stays_on_its_cone_and_is_straight_inside_k0():
    trajectory = twisted_projection(100, 500, 100.0).astype(float)
    radius = np.linalg.norm(trajectory, axis=-1)
    height = trajectory[:, 1:, 2] / radius[:, 1:]
    np.testing.assert_allclose(height - height[:, :1], 0, atol=1e-5)
    inner = radius[0] < 29
    unit = trajectory[:, inner][:, 1:] / radius[:, inner][:, 1:, None]
    np.testing.assert_allclose(unit - unit[:, :1], 0, atol=1e-5)


def test_without_twist_a_projection_is_a_spoke():
    spokes = twisted_projection(50, 60, 100.0, twist=0.0)
    np.testing.assert_allclose(np.cross(spokes[:, 30], spokes[:, -1]), 0, atol=5e-2)


@pytest.mark.parametrize("kind", ["cones", "floret"])
def test_each_spiral_has_steps_of_one_length_and_the_asked_turns(kind):
    trajectory = made(kind, 90, 4000, twist=3.0).astype(float)
    step = np.linalg.norm(np.diff(trajectory, axis=1), axis=-1)
    np.testing.assert_allclose(step / step.mean(axis=1, keepdims=True), 1, rtol=2e-2)
    first_hub = trajectory[:30]
    turned = np.unwrap(np.arctan2(first_hub[:, 1:, 1], first_hub[:, 1:, 0]))
    np.testing.assert_allclose(turned[:, -1] - turned[:, 0], 6 * np.pi, rtol=0.02)


def test_three_hubs_are_one_hub_turned():
    trajectory = floret(30, 50, 100.0)
    np.testing.assert_allclose(trajectory[10:20], np.roll(trajectory[:10], 1, axis=-1))
    assert np.abs(trajectory[:10, -1, 2]).max() < 100 * np.sin(np.pi / 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cones(1, 20, 100.0), "at least 2 readouts, got 1"),
        (lambda: cones(20, 1, 100.0), "at least 2 samples, got 1"),
        (lambda: floret(20, 1, 100.0), "at least 2 samples, got 1"),
        (lambda: cones(20, 20, 100.0, turns=-1), "turns is -1"),
        (lambda: floret(20, 20, 100.0, hubs=4), "20 readouts on 4 hubs"),
        (lambda: twisted_projection(20, 20, 100.0, twist=-1), "twist is -1"),
        (lambda: made("spiral"), "trajectory type 'spiral'; accepted: radial"),
        (
            lambda: analytic_trajectory(TrajectoryProtocol("radial", 2, 2, 0.0)),
            "k_max is 0.0/m",
        ),
    ],
)
def test_senseless_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_a_protocol_reach_their_generator():
    np.testing.assert_array_equal(
        made("tpi", k0_fraction=0.4, twist=0.5), twisted_projection(300, 400, 100.0, 0.4, 0.5)
    )
    np.testing.assert_array_equal(
        made("floret", twist=1.0, hubs=2), floret(300, 400, 100.0, 1.0, 2)
    )
    assert set(SIDECAR_KEYS) == {f.name for f in fields(TrajectoryProtocol)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_delayed_trajectory_is_the_nominal_one_some_time_before(kind):
    dwell, delay = 10e-6, 3e-6
    fine = made(kind, 40, 3991).astype(float)  # ten times the samples in the same time
    moved = delayed(fine[:, ::10], np.full(3, delay), dwell)
    np.testing.assert_allclose(moved[:, 2:], fine[:, 17::10], atol=3e-2)


def test_each_axis_has_its_own_delay():
    trajectory = made("cones", 20)
    moved = delayed(trajectory, np.array([0.0, 2e-6, 0.0]), 1e-5)
    np.testing.assert_allclose(moved[..., [0, 2]], trajectory[..., [0, 2]], atol=1e-5)
    assert np.abs(moved[..., 1] - trajectory[..., 1]).max() > 0.1


def test_before_the_gradient_begins_the_readout_stays_at_the_centre():
    moved = delayed(made("radial", 10, 50), np.full(3, 2.5e-5), 1e-5)
    np.testing.assert_array_equal(moved[:, :3], 0)
    assert np.linalg.norm(moved[:, 3], axis=-1).min() > 0.5


def test_a_readout_from_edge_to_edge_is_extended_straight_on():
    line = np.linspace(-50, 50, 21)[None, :, None] * np.array([1.0, 0, 0])
    for delay in (3e-6, -14e-6):
        moved = delayed(line, np.full(3, delay), 1e-5)
        np.testing.assert_allclose(moved[..., 0], line[..., 0] - 5 * delay / 1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("delays", "dwell", "samples", "message"),
    [
        (np.zeros(2), 1e-5, 20, "2 delays"),
        (np.zeros(3), 0.0, 20, "dwell time 0.0 s"),
        (np.zeros(3), 1e-5, 2, "2 samples"),
        (np.ones(3), 1e-5, 20, "a delay of 1 s is longer than the readout"),
    ],
)
def test_delays_that_make_no_sense_are_refused(delays, dwell, samples, message):
    with pytest.raises(ValueError, match=message):
        delayed(made("radial", 4, samples), delays, dwell)
