"""Ratios: what two regions share cancels, noise counts with its correlation."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium.calibrate import Calibration
from sodiumprep.sodium.concentration import Parts, Protocol, RegionalSignals
from sodiumprep.sodium.ratios import ratios

N = 3
WEIGHTS = np.array([[1.0, 0.0, 0.0], [0.0, 0.25, 0.75]])
PAIRS = np.array([[0, 1]])
SIGNALS = np.array([6.0, 3.0, 4.0])


def parts(**changes):
    nothing, unknown = np.zeros(N), np.full(N, np.nan)
    signals = RegionalSignals(SIGNALS, nothing, nothing, np.zeros((6, N)), np.zeros((1, N)),
                              unknown, unknown)  # fmt: skip
    known = Parts(signals, np.zeros((N, N)), WEIGHTS, np.zeros(1), np.zeros(1))
    own = {k: v for k, v in changes.items() if hasattr(known, k)}
    rest = {k: v for k, v in changes.items() if k not in own}
    return replace(known, signals=replace(signals, **rest), **own)


def line(u_slope=0.0, intercept=0.0):
    fields = {"slope": 2.0, "intercept": intercept, "covariance": np.diag([u_slope**2, 0.0])}
    line = object.__new__(Calibration)
    for name, value in fields.items():
        object.__setattr__(line, name, value)
    return line


def found(known, calibration=None):
    factors = np.ones(N)
    protocol = Protocol(1e-3, 0.1, 1.5)
    ratio, u = ratios(known, factors, None, protocol, calibration or line(), PAIRS)
    return float(ratio[0]), float(u[0])


def test_an_error_of_the_slope_cancels():
    ratio, u = found(parts(), line(u_slope=0.3))
    assert ratio == pytest.approx(6 / 3.75)
    assert u == pytest.approx(0, abs=1e-12)


def test_independent_noise_adds_as_relative_variances():
    sd = np.array([0.3, 0.2, 0.1])
    ratio, u = found(parts(covariance=np.diag(sd**2)))
    below = np.hypot(0.25 * 0.2, 0.75 * 0.1) / 3.75
    assert u / ratio == pytest.approx(np.hypot(0.3 / 6, below))


def test_noise_that_both_have_in_proportion_cancels():
    assert found(parts(covariance=0.01 * np.outer(SIGNALS, SIGNALS)))[1] == pytest.approx(
        0, abs=1e-8
    )


def test_a_shift_that_moves_both_apart_counts_twice():
    together, apart = np.zeros((6, N)), np.zeros((6, N))
    together[0], apart[0] = 0.02 * SIGNALS, 0.02 * SIGNALS * [1, -1, -1]
    assert found(parts(registration_changes=together))[1] == pytest.approx(0, abs=1e-12)
    ratio, u = found(parts(registration_changes=apart))
    assert u / ratio == pytest.approx(0.04)


def test_the_coil_counts_by_the_difference_of_both_places():
    ratio, u = found(parts(u_receive=np.array([0.03]), u_transmit=np.array([0.04])))
    assert u / ratio == pytest.approx(0.05)
