"""Delays that were put into the samples of ellipsoids are found again."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium import delays
from sodiumprep.sodium.acquisition import Acquisition, Geometry
from sodiumprep.sodium.delays import estimate_delays
from sodiumprep.sodium.ellipsoids import Ellipsoid, ellipsoid_kspace
from sodiumprep.sodium.trajectory import TrajectoryProtocol, analytic_trajectory, delayed

GRID = Geometry(np.zeros(3), np.eye(3), (0.24,) * 3, (20,) * 3)
TRUE = np.array([3e-6, -2e-6, 5e-6])
OBJECT = (
    Ellipsoid(np.array([0.02, -0.01, 0.015]), np.array([0.06, 0.07, 0.05])),
    Ellipsoid(np.array([-0.04, 0.03, -0.01]), np.array([0.02, 0.015, 0.03]), value=2.0),
)
DWELL = 20e-6
NOISE = 1e-3  # of the largest sample


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    monkeypatch.setattr(delays, "COARSE_MATRIX", 10)
    monkeypatch.setattr(delays, "CENTRE", 3.5)


def scanned(kind, truth=TRUE, seed=0, noise=NOISE, rate=100.0):
    nominal = analytic_trajectory(TrajectoryProtocol(kind, 500, 160, 42.0))
    times = np.arange(160) * DWELL
    clean = ellipsoid_kspace(OBJECT, delayed(nominal, truth, DWELL)) * np.exp(-rate * times)
    parts = np.random.default_rng(seed).standard_normal((2, *clean.shape))
    noisy = clean + noise * np.abs(clean).max() * (parts[0] + 1j * parts[1])
    timing = (DWELL, 0.3e-3, 0.12, np.pi / 2, 3.0)
    return Acquisition(noisy[None].astype(np.complex64), nominal, *timing, GRID)


@pytest.mark.parametrize("kind", ["radial", "density-adapted radial", "tpi", "cones", "floret"])
def test_delays_are_found_within_a_third_of_a_microsecond(kind):
    found = estimate_delays(scanned(kind))
    np.testing.assert_allclose(found.delays, TRUE, atol=0.3e-6)
    assert np.all(np.abs(found.delays - TRUE) < 3.5 * found.uncertainty)
    assert found.residual[0] < found.residual[1]


def test_without_delays_none_is_found():
    found = estimate_delays(scanned("density-adapted radial", np.zeros(3)))
    np.testing.assert_allclose(found.delays, 0, atol=0.3e-6)


@pytest.mark.slow
def test_noise_does_not_pull_the_delays_to_one_side():
    errors = [
        estimate_delays(scanned("cones", seed=s, noise=2e-2)).delays - TRUE for s in range(4)
    ]
    assert np.abs(np.mean(errors, axis=0)).max() < 0.5e-6


@pytest.mark.slow
def test_repetitions_count_together():
    parts = [scanned("cones", seed=s, noise=1e-2) for s in (0, 1)]
    both = replace(
        parts[0], samples=np.concatenate([p.samples for p in parts], axis=1),
        trajectory=np.concatenate([p.trajectory for p in parts]),
        repetition=np.repeat([0, 1], 500),
    )  # fmt: skip
    together, first = estimate_delays(both), estimate_delays(parts[0])
    assert np.all(together.uncertainty < first.uncertainty)
    np.testing.assert_allclose(together.delays, TRUE, atol=0.5e-6)


@pytest.mark.slow
def test_several_coils_agree_with_one():
    one = scanned("density-adapted radial")
    two = replace(one, samples=np.concatenate([one.samples, 1j * one.samples]))
    np.testing.assert_allclose(
        estimate_delays(two).delays, estimate_delays(one).delays, atol=0.2e-6
    )


def test_readouts_that_do_not_start_at_the_centre_are_refused():
    late = scanned("radial")
    cut = replace(late, samples=late.samples[..., 40:], trajectory=late.trajectory[:, 40:])
    with pytest.raises(ValueError, match=r"start 10\.\d/m from the centre"):
        estimate_delays(cut)


def test_readouts_with_few_samples_near_the_centre_are_refused():
    fast = scanned("radial")
    thin = replace(fast, samples=fast.samples[..., ::60], trajectory=fast.trajectory[:, ::60])
    with pytest.raises(ValueError, match="have 1 samples within"):
        estimate_delays(thin)
