"""Change over sessions: what cancels, who changed, how often that is false."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from sodiumprep.sodium.cohort.change import (
    IMPROVED,
    MIXED,
    TWO_STAGE,
    WITHIN,
    WORSE,
    Error,
    changes,
    judge_changes,
    mixed_slopes,
    responders,
)
from sodiumprep.sodium.cohort.repeatability import repeatability


def scans(rng, n=20, k=2, within=2.0, slope=0.0, spread=0.0):
    """Draw n subjects with k sessions, a year apart, each with a slope of its own."""
    time = np.arange(k)
    slopes = slope + spread * rng.normal(size=(n, 1))
    value = 40 + 4 * rng.normal(size=(n, 1)) + slopes * time + within * rng.normal(size=(n, k))
    return pd.DataFrame(
        {
            "participant_id": np.repeat([f"sub-{i:03d}" for i in range(n)], k),
            "session": np.tile([str(j + 1) for j in time], n),
            "value": value.ravel(),
            "u": 1.0,
            "years": np.tile(time.astype(float), n),
            "group": np.repeat(np.where(np.arange(n) % 2, "drug", "placebo"), k),
        }
    )


@pytest.fixture
def rng():
    return np.random.default_rng(9)


def _pair(**columns):
    return pd.DataFrame({"participant_id": "a", "session": ["1", "2"], **columns})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"u": [3.0, 4.0]}, 5.0),
        ({"u": [5.0, 5.0], "u_shared": [4.0, 4.0]}, np.sqrt(18)),
        ({"u": [5.0, 5.0], "u_shared": [3.0, 5.0]}, np.sqrt(16 + 0 + 4)),
        ({"u": [np.nan, 4.0]}, np.nan),
    ],
)
def test_the_uncertainty_of_a_change_leaves_out_what_both_share(columns, expected):
    found = changes(_pair(value=[50.0, 45.0], **columns))
    assert found["u_change"].iloc[0] == pytest.approx(expected, nan_ok=True)


def test_runs_average_their_own_errors_but_not_those_of_their_session():
    runs = _pair(value=[50.0, 45.0], u=5.0, u_session=3.0)
    runs = pd.concat([runs.assign(run=str(k)) for k in range(4)], ignore_index=True)
    expected = np.sqrt(2 * (16 / 4 + 9))
    assert changes(runs)["u_change"].iloc[0] == pytest.approx(expected)


def test_every_later_session_is_compared_with_the_first_in_the_order_of_numbers():
    labels = ["10", "9", "2"]
    table = pd.DataFrame({"participant_id": "a", "session": labels, "value": [1.0, 2.0, 4.0]})
    found = changes(table)
    assert found[["baseline", "session"]].to_numpy().tolist() == [["2", "9"], ["2", "10"]]
    assert found["change"].tolist() == [-2.0, -3.0]


def test_a_baseline_by_name_leaves_out_who_lacks_it():
    table = pd.DataFrame(
        {"participant_id": list("aaab"), "session": list("1232"), "value": [1.0, 2.0, 4.0, 5.0]}
    )
    found = changes(table, baseline="2")
    assert found[["participant_id", "change"]].to_numpy().tolist() == [["a", 2.0]]


def test_a_named_baseline_comes_first_where_words_tell_no_order():
    scans = {"participant_id": "a", "session": ["x", "op"], "value": [40.0, 44.0]}
    assert changes(pd.DataFrame(scans), "x")["change"].tolist() == [4.0]
    assert changes(pd.DataFrame(scans), "op")["change"].tolist() == [-4.0]


@pytest.mark.parametrize(("baseline", "told"), [("7", "no session 7"), ("2", "second session")])
def test_a_change_without_two_sessions_is_refused(baseline, told):
    with pytest.raises(ValueError, match=told):
        changes(_pair(value=[50.0, 45.0]), baseline)


@pytest.mark.parametrize(
    ("better", "verdicts"),
    [("lower", [IMPROVED, WITHIN, WORSE]), ("higher", [WORSE, WITHIN, IMPROVED])],
)
def test_a_change_is_real_beyond_the_repeatability_coefficient_only(better, verdicts):
    changed = pd.DataFrame({"change": [-5.6, 5.5, 5.6], "u_change": np.nan})
    judged = judge_changes(changed, Error(2.0), better)
    assert judged["verdict"].tolist() == verdicts
    np.testing.assert_allclose(judged["limit"], 2.77 * 2, rtol=1e-3)


def test_verdict_p_and_interval_say_the_same(rng):
    changed = pd.DataFrame({"change": rng.normal(0, 4, 200), "u_change": rng.uniform(1, 3, 200)})
    judged = judge_changes(changed, Error(2.0, 15, 1.5, 1.0), "lower")
    real = judged["verdict"] != WITHIN
    assert 10 < real.sum() < 150
    assert ((judged["p"] < 0.05) == real).all()
    assert ((judged["ci_low"] * judged["ci_high"] > 0) == real).all()


def test_a_subject_with_uncertain_values_needs_a_larger_change():
    changed = pd.DataFrame({"change": [6.0, 6.0], "u_change": [1.0, 6.0]})
    judged = judge_changes(changed, Error(2.0, excess_sd=1.7), "higher")
    assert judged["verdict"].tolist() == [IMPROVED, WITHIN]


def test_equal_uncertainties_leave_the_limit_of_the_repeats(rng):
    table = scans(rng, n=15, within=3.0)
    error = Error.of(repeatability(table))
    sd, df = error.of_change(np.array([np.sqrt(2.0), np.nan]))
    assert sd[0] == pytest.approx(sd[1], rel=0.01)
    assert df[0] == pytest.approx(df[1], rel=0.05)


@pytest.mark.parametrize("given", [{"better": "up"}, {"false_alarms": 1.5}])
def test_an_unknown_direction_or_rate_is_refused(given):
    changed = pd.DataFrame({"change": [1.0], "u_change": [1.0]})
    with pytest.raises(ValueError, match="accepted"):
        judge_changes(changed, Error(2.0), **{"better": "lower", **given})


def test_stable_subjects_are_called_changed_as_often_as_stated():
    rng = np.random.default_rng(2)
    false = 0
    for _ in range(25):
        error = Error.of(repeatability(scans(rng, n=15)))
        judged = judge_changes(changes(scans(rng, n=20)), error, "lower", false_alarms=0.1)
        false += (judged["verdict"] != WITHIN).sum()
    assert 0.06 < false / 500 < 0.145


def test_the_share_of_responders_has_wilsons_interval():
    judged = pd.DataFrame({"participant_id": range(10), "verdict": [IMPROVED] * 3 + [WITHIN] * 7})
    found = responders(judged)
    peer = stats.binomtest(3, 10).proportion_ci(method="wilson")
    assert (found.share.low, found.share.high) == pytest.approx((peer.low, peer.high))
    assert found.counts == {IMPROVED: 3, WORSE: 0, WITHIN: 7}


def test_a_subject_counts_once_among_responders():
    judged = pd.DataFrame({"participant_id": ["a", "a"], "verdict": [IMPROVED, WITHIN]})
    with pytest.raises(ValueError, match="a has more than one change"):
        responders(judged)


def test_mixed_slopes_are_those_of_statsmodels_in_plain_units(rng):
    table = scans(rng, n=40, k=5, slope=1.5, spread=1.0)
    found = mixed_slopes(table, "years")
    exog = np.column_stack([np.ones(len(table)), table["years"]])
    peer = MixedLM(table["value"].to_numpy(), exog, table["participant_id"], exog).fit(reml=True)
    effect = found.effects.iloc[0]
    assert found.method == MIXED
    assert (effect.estimate, effect.se) == pytest.approx(
        (peer.fe_params[1], peer.bse_fe[1]), rel=1e-3
    )
    assert found.slope_sd == pytest.approx(np.sqrt(np.asarray(peer.cov_re)[1, 1]), rel=1e-2)


def test_the_slopes_of_two_groups_are_compared(rng):
    table = scans(rng, n=60, k=4, slope=1.0, spread=0.5)
    drug = table["group"] == "drug"
    table.loc[drug, "value"] += 3 * table["years"][drug]
    effects = mixed_slopes(table, "years", "group").effects.set_index("name")
    row = effects.loc["slope of placebo - drug"]
    assert row.ci_low < -3 < row.ci_high
    assert row.p < 1e-6
    assert effects.loc["slope of drug", "ci_low"] < 4 < effects.loc["slope of drug", "ci_high"]


def test_two_sessions_each_fall_back_to_a_line_per_subject(rng):
    table = scans(rng, n=30, k=2, slope=2.0, spread=1.0)
    found = mixed_slopes(table, "years")
    change = table["value"].to_numpy().reshape(-1, 2) @ [-1, 1]
    assert found.method == TWO_STAGE
    assert found.effects["estimate"].iloc[0] == pytest.approx(change.mean())
    assert found.effects["t"].iloc[0] == pytest.approx(stats.ttest_1samp(change, 0).statistic)
    assert "two times tell no error from a slope" in found.notes[0]


def test_a_slope_that_all_subjects_share_is_found(rng):
    found = mixed_slopes(scans(rng, n=30, k=4, slope=2.0), "years")
    assert found.effects["ci_low"].iloc[0] < 2 < found.effects["ci_high"].iloc[0]
    assert len(found.subjects) == 30


def test_the_slope_of_each_subject_lies_near_its_own_line(rng):
    table = scans(rng, n=40, k=6, within=0.5, slope=1.0, spread=2.0)
    table.loc[table["group"] == "drug", "value"] += 3 * table["years"]
    slopes = mixed_slopes(table, "years", "group").subjects.set_index("participant_id")["slope"]
    lines = [np.polyfit(t["years"], t["value"], 1)[0] for _, t in table.groupby("participant_id")]
    np.testing.assert_allclose(slopes, lines, atol=0.15)


def test_a_group_with_one_line_is_left_out_and_told(rng):
    table = scans(rng, n=20, k=3)
    table.loc[table["participant_id"] == "sub-000", "group"] = "other"
    found = mixed_slopes(table, "years", "group")
    assert found.notes[0] == "other has 1 with two times: left out"
    assert len(found.effects) == 2
    assert set(found.effects["df"]) == {17.0}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"years": 1.0}, "0 subjects have two values of years; 3 are needed"),
        ({"years": "later"}, "years is 'later' for sub-000, not a number"),
    ],
)
def test_slopes_without_times_are_refused(rng, change, told):
    with pytest.raises(ValueError, match=told):
        mixed_slopes(scans(rng).assign(**change), "years")
