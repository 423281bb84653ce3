"""Resampling by subject: what is drawn together, and intervals that hold what they say."""

import numpy as np
import pytest
from scipy import stats

from sodiumprep.sodium.cohort import resampling
from sodiumprep.sodium.cohort.resampling import Estimate, bca, bootstrap, draw_subjects, leave_out

FLAT = np.zeros(30, dtype=int)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def mean_of(values):
    return lambda weights: weights @ values / weights.sum(axis=1)


def test_each_stratum_keeps_its_size(rng):
    strata = np.array([3, 3, 1, 1, 1, 2])
    counts = draw_subjects(strata, 50, rng)
    for stratum, size in ((3, 2), (1, 3), (2, 1)):
        assert (counts[:, strata == stratum].sum(axis=1) == size).all()


def test_leaving_a_subject_out_gives_the_statistic_of_the_others(rng):
    values = rng.normal(size=30)
    _, left = bootstrap(mean_of(values), FLAT, rng, 10)
    assert left[7] == pytest.approx(np.delete(values, 7).mean())


def test_groups_of_a_large_cohort_are_as_skewed_as_its_subjects(rng, monkeypatch):
    strata, values = np.repeat([1, 0], [3000, 1000]), rng.gamma(0.5, size=4000)

    def skewness():
        off = leave_out(lambda weights: weights @ values / weights.sum(axis=1), strata)
        off = off.mean() - off
        return len(off), np.sum(off**3) / np.sum(off**2) ** 1.5

    groups, found = skewness()
    monkeypatch.setattr(resampling, "MOST_GROUPS", 4000)
    subjects, exact = skewness()
    assert (groups, subjects) == (1000, 4000)
    assert found == pytest.approx(exact, rel=0.15)


def test_groups_that_are_left_out_hold_all_strata_alike():
    strata = np.array([1, 0] * 2000)
    sides = [strata == 1, strata == 0]
    weight_of = leave_out(lambda w: np.stack([w[:, side].sum(1) for side in sides], 1), strata)
    np.testing.assert_array_equal(weight_of, np.full((1000, 2), 1998.0))


def test_the_interval_agrees_with_an_independent_bca(rng):
    values = rng.exponential(size=300)
    many = np.zeros(300, dtype=int)
    ours = bca(values.mean(), *bootstrap(mean_of(values), many, rng, 20000))
    peer = stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", rng=rng)
    assert ours.low == pytest.approx(peer.confidence_interval.low, abs=0.005)
    assert ours.high == pytest.approx(peer.confidence_interval.high, abs=0.005)


def test_the_interval_of_a_mean_of_few_is_about_students(rng):
    values = rng.normal(size=12)
    ours = bca(values.mean(), *bootstrap(mean_of(values), FLAT[:12], rng, 20000))
    half = stats.t.ppf(0.975, 11) * stats.sem(values)
    assert ours.high - ours.low == pytest.approx(2 * half, rel=0.08)


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(30.0)
    one, other = (
        bca(14.5, *bootstrap(mean_of(values), FLAT, np.random.default_rng(4), 100))
        for _ in range(2)
    )
    assert one == other


def test_a_statistic_that_never_changes_has_an_interval_without_width():
    found = bca(1.0, np.ones(100), np.ones(10))
    assert (found.low, found.high) == (1.0, 1.0)
    assert "percentiles" in found.method


def test_too_few_resampled_values_are_refused():
    with pytest.raises(ValueError, match="only 1 of 3 resampled"):
        bca(1.0, np.array([1.0, np.nan, np.nan]), np.ones(3))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_that_is_none_is_refused(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        bca(1.0, np.ones(3), np.ones(3), level)


def test_an_interval_holds_its_ends_and_nothing_beyond():
    found = Estimate.around(2.0, 0.5, 0.95, "")
    assert found.holds(1.5)
    assert found.holds(2.5)
    assert not found.holds(2.6)
