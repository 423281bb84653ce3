"""Saturation and decay against published figures and limits."""

import numpy as np
import pytest

from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import (
    Relaxation,
    biexponential_decay,
    relaxation_factor,
    spoiled_saturation,
)

SALINE = Relaxation(t1=53e-3, t2_short=53e-3, t2_long=53e-3, short_fraction=0.0)
WM, CSF = relaxation_of("WM", 3.0), relaxation_of("CSF", 3.0)


@pytest.mark.parametrize(
    ("echo_time", "published"),
    [(0.1e-3, 0.983), (0.2e-3, 0.966), (0.5e-3, 0.918), (1e-3, 0.846), (2e-3, 0.727)],
)
def test_white_matter_decays_against_saline_as_published(echo_time, published):
    ratio = biexponential_decay(echo_time, WM) / biexponential_decay(echo_time, SALINE)
    assert float(ratio) == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize(("tr", "published"), [(0.1, 1.10), (0.12, 1.07), (0.16, 1.04)])
def test_white_matter_saturates_less_than_saline_as_published(tr, published):
    ratio = relaxation_factor(WM, 0, tr, np.pi / 2) / relaxation_factor(SALINE, 0, tr, np.pi / 2)
    assert ratio == pytest.approx(published, abs=6e-3)


@pytest.mark.parametrize(("tissue", "published"), [(CSF, -0.30), (WM, -0.13)])
def test_the_sensitivity_to_t1_is_the_published_one(tissue, published):
    step = 1e-4
    signals = [spoiled_saturation(np.pi / 2, 0.12, tissue.t1 * (1 + s)) for s in (-step, step)]
    slope = float(np.log(signals[1] / signals[0])) / (2 * step)
    assert slope == pytest.approx(published, abs=0.01)


@pytest.mark.parametrize(("tr", "degrees", "published"), [(0.02, 25, 0.71), (0.12, 90, -0.06)])
def test_the_sensitivity_to_transmit_is_the_published_one(tr, degrees, published):
    step, angle = 1e-4, np.radians(degrees)
    low, high = (spoiled_saturation(angle * (1 + s), tr, WM.t1) for s in (-step, step))
    assert float(np.log(high / low)) / (2 * step) == pytest.approx(published, abs=0.015)


def test_saturation_is_largest_at_the_ernst_angle():
    angles = np.radians(np.linspace(1, 179, 1781))
    best = angles[np.argmax(spoiled_saturation(angles, 0.03, 0.037))]
    assert np.cos(best) == pytest.approx(np.exp(-0.03 / 0.037), abs=2e-3)


def test_a_long_repetition_leaves_the_sine_of_the_flip_angle():
    angles = np.linspace(0.1, 3.0, 5)
    np.testing.assert_allclose(spoiled_saturation(angles, 10.0, 0.05), np.sin(angles))


def test_decay_starts_at_one_and_falls():
    decay = biexponential_decay(np.linspace(0, 0.1, 50), WM)
    assert decay[0] == 1
    assert np.all(np.diff(decay) < 0)


def test_the_short_time_has_no_effect_in_fluid():
    other = Relaxation(t1=53e-3, t2_short=1e-6, t2_long=53e-3, short_fraction=0.0)
    assert biexponential_decay(0.01, other) == biexponential_decay(0.01, SALINE)


def test_the_factor_is_one_without_any_loss():
    assert relaxation_factor(WM, 0.0, 100.0, np.pi / 2) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["t1", "t2_short", "t2_long"])
@pytest.mark.parametrize("value", [0.0, -1e-3, float("nan")])
def test_a_time_that_is_not_positive_is_refused(name, value):
    given = {"t1": 0.04, "t2_short": 0.004, "t2_long": 0.02, "short_fraction": 0.6, name: value}
    with pytest.raises(ValueError, match=f"{name} is .* positive"):
        Relaxation(**given)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_short_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match="short_fraction"):
        Relaxation(0.04, 0.004, 0.02, fraction)


@pytest.mark.parametrize(("tr", "t1"), [(0.0, 0.04), (-0.1, 0.04), (0.1, 0.0)])
def test_a_saturation_without_time_is_refused(tr, t1):
    with pytest.raises(ValueError, match="must be positive"):
        spoiled_saturation(1.0, tr, t1)


def test_a_negative_echo_time_is_refused():
    with pytest.raises(ValueError, match="echo time"):
        relaxation_factor(WM, -1e-4, 0.1, 1.0)


@pytest.mark.parametrize("angle", [0.0, -0.5])
def test_a_flip_angle_that_leaves_no_signal_is_refused(angle):
    with pytest.raises(ValueError, match="leaves no signal"):
        relaxation_factor(WM, 1e-4, 0.1, angle)
