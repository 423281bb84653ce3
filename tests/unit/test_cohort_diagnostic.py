"""Diagnostic value: areas, their intervals and comparison, honest cut-offs."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from sodiumprep.sodium.cohort.diagnostic import (
    Scores,
    auc,
    auc_interval,
    compare_auc,
    cutoff,
    delong,
    paired_scores,
    roc,
    scores_of,
    wilson,
)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def groups(rng, n=40, effect=1.0):
    value = np.concatenate([rng.normal(effect, size=n), rng.normal(size=n)])
    return Scores(value, np.repeat([True, False], n), np.arange(2 * n))


def within(rng, n=30, repeats=2, effect=1.0, spread=1.0):
    subject = np.tile(np.repeat(np.arange(n), repeats), 2)
    positive = np.repeat([True, False], n * repeats)
    value = spread * rng.normal(size=n)[subject] + effect * positive
    return Scores(value + rng.normal(size=len(subject)), positive, subject)


def table(values):
    names = [f"sub-{k:02d}" for k in range(len(values))]
    return pd.DataFrame({"participant_id": names, "value": values})


def test_the_area_is_that_of_scikit_learn(rng):
    scores = groups(rng)
    rounded = Scores(scores.value.round(), scores.positive, scores.subject)  # many ties
    for one in (scores, rounded):
        assert auc(one) == pytest.approx(roc_auc_score(one.positive, one.value), abs=1e-12)


def test_the_curve_is_that_of_scikit_learn(rng):
    scores = groups(rng)
    ours = roc(scores)
    false, true, cutoffs = roc_curve(scores.positive, scores.value, drop_intermediate=False)
    np.testing.assert_allclose(ours["sensitivity"], true, atol=1e-12)
    np.testing.assert_allclose(1 - ours["specificity"], false, atol=1e-12)
    np.testing.assert_allclose(ours["cutoff"], cutoffs)


def test_exchanging_the_classes_gives_the_rest_to_one(rng):
    scores = groups(rng)
    turned = Scores(scores.value, ~scores.positive, scores.subject)
    assert auc(scores) + auc(turned) == pytest.approx(1)


def test_a_monotone_change_of_the_values_keeps_area_and_interval(rng):
    scores = groups(rng)
    moved = Scores(np.exp(scores.value), scores.positive, scores.subject)
    one, other = (auc_interval(s, np.random.default_rng(1), draws=200) for s in (scores, moved))
    assert one == other


def test_equal_values_have_an_area_of_a_half():
    assert auc(scores_of(table([2.0] * 6), np.arange(6) < 3)) == 0.5


def test_the_mean_area_of_many_cohorts_is_the_true_one(rng):
    truth = stats.norm.cdf(1 / np.sqrt(2))
    found = [auc(groups(rng, n=15)) for _ in range(1000)]
    assert np.mean(found) == pytest.approx(truth, abs=0.01)


def test_the_interval_is_near_delongs_for_independent_subjects(rng):
    scores = groups(rng, n=80)
    ours, check = auc_interval(scores, rng), delong(scores)
    assert ours.value == pytest.approx(check.value)
    assert ours.low == pytest.approx(check.low, abs=0.02)
    assert ours.high == pytest.approx(check.high, abs=0.02)


def test_copies_of_the_values_of_a_subject_say_nothing_new(rng):
    once = within(rng, repeats=1)
    twice = Scores(*(np.tile(part, 2) for part in (once.value, once.positive, once.subject)))
    one, other = (auc_interval(s, np.random.default_rng(1), draws=300) for s in (once, twice))
    assert one.low == pytest.approx(other.low)
    assert one.high == pytest.approx(other.high)


def test_intervals_hold_the_truth_with_two_values_of_each_subject(rng):
    truth = stats.norm.cdf(1 / np.sqrt(4))  # a subject's own level adds to the spread
    held = [auc_interval(within(rng), rng, draws=300).holds(truth) for _ in range(100)]
    assert 0.87 <= np.mean(held) <= 1  # 95 % of 100, 99.9 % band


def test_classes_without_overlap_have_the_exact_bound():
    found = auc_interval(scores_of(table(np.arange(20.0)), np.arange(20) >= 10), None)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025**0.1)
    assert "exact" in found.method


def test_lower_values_in_lesions_are_turned():
    values = table(np.arange(6.0))
    assert auc(scores_of(values, np.arange(6) < 3, higher=False)) == 1.0


def test_only_participants_with_both_regions_are_paired():
    lesion, normal = table([5.0, 6.0, np.nan, 7.0]), table([1.0, 2.0, 3.0, 9.0, 8.0])
    scores = paired_scores(lesion, normal)
    assert len(scores.value) == 6
    assert set(scores.strata) == {3}


def test_the_difference_of_an_area_from_itself_is_nothing(rng):
    scores = groups(rng)
    found = compare_auc(scores, scores, rng, draws=100)
    assert (found.difference.low, found.difference.high, found.p) == (0.0, 0.0, 1.0)


def test_noise_makes_the_area_smaller_by_what_is_found(rng):
    scores = groups(rng, n=150, effect=1.5)
    noisy = Scores(scores.value + rng.normal(size=300) * 2, scores.positive, scores.subject)
    found = compare_auc(noisy, scores, rng, draws=500)
    assert found.difference.value == pytest.approx(found.second - found.first)
    assert found.difference.low > 0
    assert found.p < 0.01


def test_two_areas_of_different_rows_are_not_compared(rng):
    scores = groups(rng)
    with pytest.raises(ValueError, match="same rows"):
        compare_auc(scores, Scores(scores.value, ~scores.positive, scores.subject), rng)


def test_youdens_cut_off_is_the_best_of_the_curve(rng):
    scores = groups(rng)
    found, curve = cutoff(scores, "youden", rng, draws=200), roc(scores)
    sums = curve["sensitivity"] + curve["specificity"]
    assert sum(found.apparent) == pytest.approx(sums.max())
    assert found.sensitivity.value + found.specificity.value < sums.max()


@pytest.mark.parametrize(("name", "place"), [("sensitivity", 0), ("specificity", 1)])
def test_a_rate_that_is_asked_for_is_reached(rng, name, place):
    assert cutoff(groups(rng), (name, 0.9), rng, draws=50).apparent[place] >= 0.9


def test_most_of_the_optimism_of_a_cut_off_is_taken_off(rng):
    told, true, apparent = [], [], []
    for _ in range(60):
        found = cutoff(groups(rng, n=25), "youden", rng, draws=100)
        value = found.value.value
        told.append(found.sensitivity.value + found.specificity.value)
        apparent.append(sum(found.apparent))
        true.append(stats.norm.sf(value, 1) + stats.norm.cdf(value))
    optimism = np.mean(apparent) - np.mean(true)
    assert optimism > 0.08
    assert abs(np.mean(told) - np.mean(true)) < 0.5 * optimism


def test_a_cut_off_between_separate_classes_keeps_its_doubt(rng):
    scores = scores_of(table(np.arange(20.0)), np.arange(20) >= 10)
    found = cutoff(scores, "youden", rng, draws=100)
    assert found.apparent == (1.0, 1.0)
    assert 0.6 < found.sensitivity.low < wilson(1.0, 10, 0.95)[0]
    assert found.value.value == 9.5


@pytest.mark.parametrize(
    ("rule", "said"), [("best", "youden, or"), (("sensitivity", 90), "between 0 and 1")]
)
def test_a_rule_that_is_none_is_refused(rng, rule, said):
    with pytest.raises(ValueError, match=said):
        cutoff(groups(rng), rule, rng)


@pytest.mark.parametrize("positive", [np.ones(4, bool), np.arange(4) < 1])
def test_a_class_without_two_subjects_is_refused(positive):
    with pytest.raises(ValueError, match="class has [01] subjects"):
        scores_of(table(np.arange(4.0)), positive)


def test_missing_values_do_not_count_as_subjects():
    with pytest.raises(ValueError, match="positive class has 1 subjects"):
        scores_of(table([1.0, np.nan, 2.0, 3.0]), np.arange(4) < 2)


def test_a_table_without_values_is_refused():
    with pytest.raises(ValueError, match="no column value"):
        scores_of(table([1.0, 2.0])[["participant_id"]], np.arange(2) < 1)


def test_delong_is_refused_where_subjects_have_several_values(rng):
    with pytest.raises(ValueError, match="one value per subject"):
        delong(within(rng))


PROC = """
suppressMessages(library(pROC))
t <- read.csv(file("stdin"))
r <- roc(t$positive, t$value, levels = c(0, 1), direction = "<", quiet = TRUE)
ci <- as.numeric(ci.auc(r, method = "delong"))
cat(sprintf("[%.10f, %.10f, %.10f]", ci[1], ci[2], ci[3]))
"""


def test_area_and_delongs_interval_are_those_of_proc():
    if not shutil.which("Rscript"):
        pytest.skip("R is not installed")
    scores = groups(np.random.default_rng(7))
    sent = pd.DataFrame({"value": scores.value, "positive": scores.positive.astype(int)})
    run = subprocess.run(
        ["Rscript", "-e", PROC], input=sent.to_csv(), capture_output=True, text=True, timeout=60
    )
    if run.returncode:
        pytest.skip("R has no package pROC")
    ours = delong(scores)
    assert [ours.low, ours.value, ours.high] == pytest.approx(json.loads(run.stdout), abs=1e-3)
