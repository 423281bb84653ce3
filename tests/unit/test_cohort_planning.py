"""Planning: the tables of the textbook, and simulated studies."""

import numpy as np
import pytest
from scipy import stats

from sodiumprep.sodium.cohort.planning import Correlation, Study, compare_methods, detectable


@pytest.mark.parametrize(("size", "n"), [(0.2, 394), (0.5, 64), (0.8, 26)])
def test_two_groups_need_what_cohens_table_says(size, n):
    assert Study(size * 7.0, 7.0).subjects(0.8) == n


def test_the_needed_number_reaches_the_power_and_one_fewer_does_not():
    for plan in (Study(3.0, 5.0), Study(3.0, 5.0, kind="paired"), Correlation(0.4, 0.7)):
        n = plan.subjects(0.9)
        assert plan.power(n) >= 0.9 > plan.power(n - 1)


def test_an_unreliable_measure_weakens_a_correlation():
    assert Correlation(0.6, reliability=0.25).observed == pytest.approx(0.3)
    assert Correlation(0.6, 0.25).subjects() == Correlation(0.3).subjects() == 85


def test_a_larger_second_group_lets_the_first_be_smaller():
    assert Study(3.0, 5.0, ratio=3.0).subjects() < Study(3.0, 5.0).subjects()


@pytest.mark.parametrize("kind", ["groups", "paired"])
def test_power_is_that_of_simulated_studies(kind):
    rng = np.random.default_rng(1)
    drawn = rng.normal(0, 5, (2000, 2, 20)) + np.array([0, 4.0])[:, None]
    if kind == "groups":
        p = stats.ttest_ind(drawn[:, 0], drawn[:, 1], axis=1).pvalue
    else:
        p = stats.ttest_1samp(drawn[:, 1], 0, axis=1).pvalue
    assert Study(4.0, 5.0, kind).power(20) == pytest.approx(np.mean(p < 0.05), abs=0.04)


def test_the_power_of_a_correlation_is_that_of_simulated_studies():
    rng = np.random.default_rng(2)
    x, other = rng.normal(size=(2, 2000, 25))
    y = 0.5 * x + np.sqrt(0.75) * other
    found = [stats.pearsonr(a, b).pvalue < 0.05 for a, b in zip(x, y, strict=True)]
    assert Correlation(0.5).power(25) == pytest.approx(np.mean(found), abs=0.04)


def test_three_subjects_show_no_correlation():
    assert Correlation(0.9).power(3) == 0


def test_what_is_detectable_has_the_power_asked():
    effect = detectable(lambda size: Study(size, 5.0), 40, 0.8)
    assert Study(effect, 5.0).power(40) == pytest.approx(0.8, abs=1e-6)


def test_the_method_with_the_larger_effect_over_its_spread_needs_fewer():
    plan = compare_methods({"none": Study(3.0, 5.0), "gtm": Study(4.0, 5.5)}, 20)
    plan = plan.set_index("pvc")
    assert plan.loc["gtm", "subjects"] < plan.loc["none", "subjects"]
    assert plan.loc["gtm", "power"] > plan.loc["none", "power"]


@pytest.mark.parametrize(
    "given",
    [
        lambda: Study(0.0, 5.0),
        lambda: Study(3.0, 0.0),
        lambda: Study(3.0, 5.0, alpha=0.0),
        lambda: Study(3.0, 5.0, kind="three"),
        lambda: Study(3.0, 5.0, ratio=-1.0),
        lambda: Correlation(1.0),
        lambda: Correlation(0.5, 0.0),
        lambda: Study(3.0, 5.0).subjects(1.0),
    ],
)
def test_a_plan_of_the_impossible_is_refused(given):
    with pytest.raises(ValueError, match="accepted"):
        given()


def test_an_effect_too_small_for_any_study_is_refused():
    with pytest.raises(ValueError, match="more than 10000000 subjects"):
        Study(1e-6, 5.0).subjects()
