"""Repeatability: textbook numbers, laws, and how often intervals hold the truth."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sodiumprep.sodium.cohort.repeatability import (
    REPEATABILITY,
    agreement,
    bland_altman,
    consistency,
    intraclass,
    limits_of_agreement,
    repeatability,
)

# Shrout & Fleiss 1979, table 2: six targets by four judges
TARGETS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


def scans(rng, n=20, k=2, within=2.0, between=4.0):
    """Draw n subjects with k sessions."""
    value = 40 + between * rng.normal(size=(n, 1)) + within * rng.normal(size=(n, k))
    return tabulated(value)


def tabulated(values):
    n, k = values.shape
    return pd.DataFrame(
        {
            "participant_id": np.repeat([f"sub-{i:03d}" for i in range(n)], k),
            "session": np.tile([str(j) for j in range(1, k + 1)], n),
            "run": "n/a",
            "value": values.ravel(),
        }
    )


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_the_within_sd_of_pairs_is_that_of_their_differences(rng):
    table = scans(rng)
    change = table["value"].to_numpy().reshape(-1, 2) @ [-1, 1]
    found = repeatability(table)
    assert found.within_sd.estimate == pytest.approx(np.sqrt(np.mean(change**2) / 2))
    assert found.coefficient.estimate == pytest.approx(2.77 * found.within_sd.estimate, rel=1e-3)
    assert abs(REPEATABILITY - 2.77) < 2e-3


def test_intraclass_correlations_are_those_of_the_textbook():
    table = tabulated(TARGETS)
    found = [
        intraclass(table.rename(columns={"participant_id": "unit"})),
        agreement(TARGETS),
        consistency(TARGETS),
    ]
    expected = [0.1657, 0.2898, 0.7148]  # of the paper, to its two digits 0.17, 0.29, 0.71
    np.testing.assert_allclose([each.estimate for each in found], expected, atol=1e-4)


def test_the_interval_of_icc_is_the_exact_one_for_equal_numbers(rng):
    table = scans(rng, n=12, k=3).rename(columns={"participant_id": "unit"})
    found = intraclass(table)
    ratio = stats.f_oneway(*[group for _, group in table.groupby("unit")["value"]]).statistic
    low = ratio / stats.f.ppf(0.975, 11, 24)
    assert found.low == pytest.approx((low - 1) / (low + 2))


def test_a_shift_of_all_at_one_session_matters_to_agreement_alone():
    shifted = TARGETS + np.array([0, 10, 20, 30])
    assert consistency(shifted).estimate == pytest.approx(consistency(TARGETS).estimate)
    assert agreement(shifted).estimate < 0.5 * agreement(TARGETS).estimate


def test_crossed_sessions_have_their_correlations_and_others_none(rng):
    table = scans(rng)
    assert repeatability(table).icc_consistency is not None
    own = table.assign(session=np.arange(len(table)).astype(str))
    assert repeatability(own).icc_consistency is None


def test_scaling_values_scales_spreads_and_leaves_ratios(rng):
    table = scans(rng)
    one, other = repeatability(table), repeatability(table.assign(value=3 * table["value"]))
    assert other.within_sd.high == pytest.approx(3 * one.within_sd.high)
    for name in ("icc", "cov", "cov_log"):
        assert getattr(other, name).low == pytest.approx(getattr(one, name).low)


def test_both_coefficients_of_variation_agree_when_small(rng):
    found = repeatability(scans(rng, n=300, within=1.0, between=2.0))
    assert found.cov.estimate == pytest.approx(1 / 40, rel=0.1)
    assert found.cov_log.estimate == pytest.approx(found.cov.estimate, rel=0.05)


def test_runs_of_one_session_repeat_each_other_not_those_of_another(rng):
    sessions = scans(rng, n=40, within=5.0)
    runs = pd.concat([sessions.assign(run=r) for r in ("1", "2")], ignore_index=True)
    runs["value"] += rng.normal(0, 0.5, len(runs))
    assert repeatability(runs, "run").within_sd.estimate == pytest.approx(0.5, rel=0.2)
    assert repeatability(runs, "session").within_sd.estimate == pytest.approx(5.0, rel=0.3)
    assert repeatability(runs, "run").n_subjects == 40


def test_values_without_a_repeat_are_left_out_and_told(rng):
    table = scans(rng)
    found = repeatability(table.drop(index=0))
    assert found.n_subjects == 19
    assert found.notes == ("1 values without a repeat are left out",)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t[t["session"] == "1"], "fewer than two subjects have two sessions"),
        (
            lambda t: t.assign(value=t.groupby("participant_id")["value"].transform("first")),
            "same",
        ),
    ],
)
def test_a_table_without_repeats_or_spread_is_refused(rng, change, told):
    with pytest.raises(ValueError, match=told):
        repeatability(change(scans(rng)))


def _holding(rng, n, k, size):
    """How often intervals of wSD, CoV and ICC hold the truth, 40 ± 4 (between) ± 2."""
    held = np.zeros(3)
    for _ in range(size):
        table = scans(rng, n, k)
        found = repeatability(table[rng.random(len(table)) < 0.9] if k > 2 else table)
        truths = 2.0, 0.05, 16 / 20
        intervals = found.within_sd, found.cov, found.icc
        held += [i.low < t < i.high for i, t in zip(intervals, truths, strict=True)]
    return held


def test_intervals_hold_the_truth_as_often_as_they_should():
    held = _holding(np.random.default_rng(11), n=12, k=3, size=30)
    assert all(stats.binomtest(int(each), 30, 0.95).pvalue > 0.005 for each in held)


def test_bias_and_limits_of_agreement_are_the_textbooks(rng):
    table = scans(rng)
    table.loc[table["session"] == "2", "value"] += 3.0
    found = bland_altman(table)
    sd = found.changes.std(ddof=1)
    assert found.bias.estimate == pytest.approx(found.changes.mean())
    assert found.upper.estimate - found.lower.estimate == pytest.approx(2 * 1.96 * sd)
    assert found.bias.low > 0


def test_pairs_stay_those_of_their_subject_where_others_miss_a_session():
    seen = {"c": {"1": 30.0, "2": 31.5}, "a": {"1": 10.0, "3": 11.0}, "b": {"2": 20.0, "3": 22.0}}
    rows = [(who, at, value) for who, own in seen.items() for at, value in own.items()]
    found = bland_altman(pd.DataFrame(rows, columns=["participant_id", "session", "value"]))
    assert list(found.subjects) == ["a", "b", "c"]
    assert found.changes.tolist() == [1.0, 2.0, 1.5]


def test_limits_have_the_exact_interval_of_a_quantile():
    rng = np.random.default_rng(5)
    held = sum(
        limits.low < 1.96 < limits.high
        for limits in (limits_of_agreement(rng.normal(size=12))[2] for _ in range(1000))
    )
    assert 930 <= held <= 968  # binomial 99 % band


def test_a_change_that_grows_with_the_value_is_found(rng):
    table = scans(rng, n=40, within=0.5)
    later = table["session"] == "2"
    table.loc[later, "value"] *= 1.3
    assert bland_altman(table).p_proportional < 1e-6
    assert bland_altman(scans(rng, n=40)).p_proportional > 0.01


def test_two_pairs_are_too_few_for_limits(rng):
    with pytest.raises(ValueError, match="2 subjects with two sessions; at least 3"):
        bland_altman(scans(rng, n=2))
