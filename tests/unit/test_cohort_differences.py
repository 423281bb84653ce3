"""Group differences: textbook cases, what they refuse, and how often they err."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sodiumprep.sodium.cohort import differences as module
from sodiumprep.sodium.cohort.checks import check_residuals
from sodiumprep.sodium.cohort.designs import Model
from sodiumprep.sodium.cohort.differences import (
    MIXED,
    ROBUST,
    compare,
    differences,
    standardized,
)

CONTRAST = "group: patient - control"


def cohort(rng, n=10, sessions=1, effect=0.0, within=1.0, u=(0.5, 3.0)):
    """Two groups of n subjects, SD between subjects 3, errors as stated."""
    subject = np.repeat(np.arange(2 * n), sessions)
    uncertainty = rng.uniform(*u, len(subject))
    value = 40 + effect * (subject >= n) + 3 * rng.normal(size=2 * n)[subject]
    value += rng.normal(size=len(subject)) * np.hypot(within, uncertainty)
    table = {
        "participant_id": [f"sub-{k:03d}" for k in subject],
        "session": np.tile([str(k) for k in range(1, sessions + 1)], 2 * n),
        "run": "n/a",
        "value": value,
        "u": uncertainty,
        "group": np.where(subject < n, "control", "patient"),
        "age": rng.uniform(20, 80, 2 * n)[subject],
        "site": np.where(subject % 2, "a", "b"),
    }
    return pd.DataFrame(table)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_two_groups_without_uncertainty_are_students_t(rng):
    table = cohort(rng).drop(columns="u")
    effect = differences(table, Model()).effects[CONTRAST]
    one, other = (table["value"][table["group"] == g] for g in ("patient", "control"))
    peer = stats.ttest_ind(one, other)
    found = effect.t, effect.p, effect.df, effect.ci_low, effect.ci_high
    expected = peer.statistic, peer.pvalue, peer.df, *peer.confidence_interval()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_equal_numbers_of_sessions_are_students_t_of_the_means(rng):
    table = cohort(rng, sessions=3).drop(columns="u")
    effect = differences(table, Model()).effects[CONTRAST]
    means = table.groupby(["group", "participant_id"])["value"].mean()
    peer = stats.ttest_ind(means["patient"], means["control"])
    np.testing.assert_allclose((effect.t, effect.p), (peer.statistic, peer.pvalue), rtol=1e-3)


def test_hedges_g_of_two_samples_is_the_textbooks(rng):
    table = cohort(rng, effect=4.0).drop(columns="u")
    effect = differences(table, Model()).effects[CONTRAST]
    one, other = (table["value"][table["group"] == g] for g in ("patient", "control"))
    pooled = np.sqrt((one.var() + other.var()) / 2)
    expected = (one.mean() - other.mean()) / pooled * (1 - 3 / (4 * 18 - 1))
    assert effect.standardized == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("t", [-2.0, 0.0, 3.5, 40.0])
def test_the_interval_of_g_is_that_of_the_noncentral_t(t):
    _, low, high = standardized(t, 18.0, 1.0)
    bias = standardized(1.0, 18.0, 1.0)[0]
    assert stats.nct.cdf(t, 18, low / bias) == pytest.approx(0.975, abs=1e-4)
    assert stats.nct.cdf(t, 18, high / bias) == pytest.approx(0.025, abs=1e-4)


def test_a_shared_uncertainty_changes_nothing(rng):
    table = cohort(rng)
    wider = table.assign(u=np.hypot(table["u"], 5.0), u_shared=5.0)
    one, other = (differences(t, Model()).effects[CONTRAST] for t in (table, wider))
    assert other.p == pytest.approx(one.p, rel=1e-4)


def test_uncertain_values_weigh_less(rng):
    table = cohort(rng, effect=5.0, n=40, u=(1.0, 1.0))
    spoiled = table.assign(value=table["value"] + np.where(table.index % 4 == 0, 20, 0.0))
    spoiled["u"] = np.where(table.index % 4 == 0, 20.0, 1.0)
    weighted = differences(spoiled, Model()).effects[CONTRAST]
    plain = differences(spoiled.drop(columns="u"), Model()).effects[CONTRAST]
    assert weighted.se < 0.6 * plain.se


def test_a_slope_by_age_is_found_beside_the_groups(rng):
    table = cohort(rng, n=60)
    table["value"] += 0.2 * table["age"]
    found = differences(table, Model("group + age", slopes=["age"]))
    assert found.effects["age"].ci_low < 0.2 < found.effects["age"].ci_high
    assert found.effects["age"].p < 1e-6


def test_an_interaction_compares_slopes_between_groups(rng):
    table = cohort(rng, n=60)
    table["value"] += np.where(table["group"] == "patient", 0.3, 0.0) * table["age"]
    found = differences(table, Model("group * age", slopes=["age"]))
    effect = found.effects[f"age by {CONTRAST}"]
    assert effect.ci_low < 0.3 < effect.ci_high
    assert effect.p < 1e-6


def test_a_random_site_widens_what_compares_subjects_of_different_sites(rng):
    table = cohort(rng, n=30)
    table["value"] += np.where(table["site"] == "a", 8.0, 0.0)
    found = differences(table, Model(site="site"))
    assert found.spreads["site"] > 2
    assert found.effects[CONTRAST].se < differences(table, Model()).effects[CONTRAST].se


def test_runs_of_several_sessions_have_a_spread_between_sessions(rng):
    scans = cohort(rng, n=20, sessions=2, u=(0.1, 0.1))
    runs = pd.concat([scans.assign(run=str(k)) for k in (1, 2)], ignore_index=True)
    runs["value"] += rng.normal(0, 0.5, len(runs))
    spreads = differences(runs, Model()).spreads
    assert spreads["session"] == pytest.approx(1.0, abs=0.4)
    assert spreads["residual"] == pytest.approx(0.5, abs=0.15)


def test_a_fit_that_does_not_converge_is_replaced_and_told(rng, monkeypatch):
    table = cohort(rng, sessions=2, effect=4.0)
    fit = module.fit_components

    def stuck(*given):
        return replace(fit(*given), converged=False)

    monkeypatch.setattr(module, "fit_components", stuck)
    found = differences(table, Model())
    assert found.method == ROBUST
    assert any("did not converge" in note for note in found.notes)


def test_the_robust_way_agrees_where_both_apply(rng):
    table = cohort(rng, n=200, sessions=2, effect=4.0, u=(1.0, 1.0))
    mixed, robust = (differences(table, Model(robust=r)) for r in (False, True))
    assert (mixed.method, robust.method) == (MIXED, ROBUST)
    one, other = mixed.effects[CONTRAST], robust.effects[CONTRAST]
    assert one.estimate == pytest.approx(other.estimate, rel=1e-3)
    assert one.se == pytest.approx(other.se, rel=0.05)


def test_a_group_of_one_is_left_out_and_told(rng):
    table = cohort(rng)
    table.loc[0, "group"] = "other"
    found = differences(table, Model())
    assert "group other has one subject and is left out" in found.notes
    assert list(found.effects) == [CONTRAST]
    assert found.n_subjects == 19


def test_subjects_without_a_covariate_are_left_out_and_told(rng):
    table = cohort(rng)
    table.loc[[0, 5, 12], "age"] = np.nan
    model = Model("group + age", slopes=("age",))
    found = differences(table, model)
    told = compare(table.assign(name="GM"), model, by=["name"])
    assert found.n_subjects == 17
    assert "age of 3 subjects is not known: left out" in found.notes
    assert told["notes"].str.startswith("age of 3 subjects is not known: left out").all()


def test_one_measurement_per_subject_is_told(rng):
    found = differences(cohort(rng), Model())
    assert "subject" not in found.spreads
    assert any("one measurement per subject" in note for note in found.notes)


def test_values_without_uncertainty_take_the_mean_of_the_others(rng):
    table = cohort(rng)
    table.loc[:2, "u"] = np.nan
    notes = differences(table, Model()).notes
    assert "3 values without uncertainty take the mean of the others" in notes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"value": np.nan}, "none of 20 rows has a value"),
        ({"value": 40.0}, "value is 40 in all 20 rows"),
        ({"group": "control"}, "two groups of two subjects are needed; subjects: control 20"),
        ({"participant_id": "sub-1"}, "stands there twice"),
        ({"age": "old"}, "age is 'old' for sub-000, not a number"),
    ],
)
def test_a_table_that_cannot_answer_is_refused_in_words(rng, change, told):
    with pytest.raises(ValueError, match=told):
        differences(cohort(rng).assign(**change), Model("group + age", slopes=["age"]))


def test_a_missing_column_is_named(rng):
    with pytest.raises(ValueError, match="no column age"):
        differences(cohort(rng).drop(columns="age"), Model("group + age", slopes=["age"]))


def test_collinear_covariates_are_named(rng):
    table = cohort(rng)
    table["months"] = 12 * table["age"]
    with pytest.raises(ValueError, match="months says nothing that Intercept, .*age"):
        differences(table, Model("group + age + months", slopes=["age", "months"]))


def test_a_subject_at_two_random_sites_is_refused(rng):
    table = cohort(rng, sessions=2)
    table.loc[0, "site"] = "c"
    with pytest.raises(ValueError, match="sub-000 was at 2 of site: put site into the fixed"):
        differences(table, Model(site="site"))


def test_an_age_above_89_counts_as_89(rng):
    table = cohort(rng)
    text = table.assign(age=table["age"].round(0).astype(int).astype(str))
    text.loc[0, "age"], numbers = "89+", text["age"].where(text.index > 0, "89")
    model = Model("group + age", slopes=["age"])
    one, other = differences(text, model), differences(text.assign(age=numbers), model)
    assert one.effects["age"] == other.effects["age"]


def _regions(rng, effects):
    tables = [
        cohort(rng, effect=effect).assign(name=f"r{k}", pvc="none")
        for k, effect in enumerate(effects)
    ]
    return pd.concat(tables, ignore_index=True)


def test_all_regions_are_corrected_for_their_number(rng):
    found = compare(_regions(rng, [6.0, 0.0, 0.0, 0.0]), Model(), ["name", "pvc"])
    np.testing.assert_allclose(found["q"], stats.false_discovery_control(found["p"]))


def test_all_regions_are_fitted_as_each_alone(rng):
    table = _regions(rng, [3.0, 0.0])
    table.loc[3, "value"] = np.nan
    found = compare(table, Model(), ["name", "pvc"]).set_index("name")
    for name in ("r0", "r1"):
        alone = differences(table[table["name"] == name], Model()).effects[CONTRAST]
        assert found.loc[name, "p"] == pytest.approx(alone.p, rel=1e-9)
        assert found.loc[name, "n_rows"] == (19 if name == "r0" else 20)


def test_forgetting_designs_changes_nothing(rng, monkeypatch):
    table = _regions(rng, [3.0, 0.0, 1.0])
    table.loc[3, "value"] = np.nan
    found = compare(table, Model(), ["name", "pvc"])
    monkeypatch.setattr(module, "MOST_DESIGNS", 1)
    pd.testing.assert_frame_equal(compare(table, Model(), ["name", "pvc"]), found)


def test_a_region_that_cannot_be_fitted_tells_why_beside_the_others(rng):
    table = _regions(rng, [3.0, 0.0])
    table.loc[table["name"] == "r1", "value"] = np.nan
    found = compare(table, Model(), ["name", "pvc"]).set_index("name")
    assert np.isfinite(found.loc["r0", "q"])
    assert np.isnan(found.loc["r1", "p"])
    assert "none of 20 rows" in found.loc["r1", "notes"]


@pytest.mark.parametrize(
    ("residuals", "name"),
    [
        (lambda r: r.exponential(size=200), "Shapiro-Wilk"),
        (lambda r: r.normal(size=200) * np.repeat([1.0, 3.0], 100), "Breusch-Pagan (Koenker)"),
        (lambda r: np.append(r.normal(size=199), 20.0), "Cook's distance"),
    ],
)
def test_each_check_of_residuals_fails_for_what_it_tests(rng, residuals, name):
    covariate = np.repeat([0.0, 1.0], 100) + 0.01 * rng.normal(size=200)
    covariate[-1] = 5.0
    checks = check_residuals(residuals(rng), np.column_stack([np.ones(200), covariate]))
    assert name in [check.name for check in checks if not check.passed]


def test_normal_residuals_pass_all_checks(rng):
    design = np.column_stack([np.ones(200), rng.normal(size=200)])
    assert all(check.passed for check in check_residuals(rng.normal(size=200), design))


@pytest.mark.parametrize("sessions", [1, 2])
def test_type_one_error_and_coverage_are_as_stated_with_ten_per_group(sessions):
    rng = np.random.default_rng(sessions)
    effects = [
        differences(cohort(rng, sessions=sessions), Model()).effects[CONTRAST] for _ in range(40)
    ]
    false = sum(effect.p < 0.05 for effect in effects)
    assert stats.binomtest(false, 40, 0.05).pvalue > 0.005
    assert all((effect.p < 0.05) == (effect.ci_low * effect.ci_high > 0) for effect in effects)


AGED = Model("group + age", ("group",), ("age",))


def test_a_contrast_that_is_written_is_the_same_sum_of_predictions(rng):
    table = cohort(rng)
    usual = differences(table, AGED).effects
    written = {"both": {"group.patient": 1.0, "group.control": -1.0, "age": 10.0}}
    found = differences(table, replace(AGED, contrasts=written)).effects
    assert list(found) == ["both"]
    expected = usual[CONTRAST].estimate + 10 * usual["age"].estimate
    assert found["both"].estimate == pytest.approx(expected)


def test_the_reference_turns_the_sign_of_a_difference(rng):
    table = cohort(rng)
    turned = differences(table, Model(reference={"group": "patient"})).effects
    usual = differences(table, Model()).effects[CONTRAST]
    assert turned["group: control - patient"].estimate == pytest.approx(-usual.estimate)


def test_a_condition_that_is_not_there_is_named_with_those_that_are(rng):
    model = Model(contrasts={"x": {"group.other": 1.0}})
    with pytest.raises(ValueError, match=r"group\.other .*group\.control, group\.patient"):
        differences(cohort(rng), model)
