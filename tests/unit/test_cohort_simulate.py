"""Simulated cohorts: what the truth says is what the tables hold."""

import numpy as np
import pytest

from sodiumprep.sodium.cohort import simulate
from sodiumprep.sodium.cohort.simulate import (
    LESIONS,
    METHODS,
    TISSUES,
    Cohort,
    Errors,
    Method,
    Region,
    draw_chunks,
    draw_cohort,
    draw_participants,
    parcels,
)
from sodiumprep.sodium.cohort.values import values_of

EXACT = Errors(
    noise=(1e-9, 1e-9), calibration=0, relaxation=0, segmentation=0, missing=0, lost=0, failed=0
)


def _joined(cohort, seed=0):
    table, truth = draw_cohort(cohort, np.random.default_rng(seed))
    return table.merge(truth, on=["participant_id", "session", "index", "name"])


def test_without_errors_a_method_without_leak_tells_the_truth():
    cohort = Cohort({"control": 5}, methods=(Method("gtm"), Method("none", 0.25)), errors=EXACT)
    rows = _joined(cohort)
    gtm, none = (rows[rows["pvc"] == name] for name in ("gtm", "none"))
    np.testing.assert_allclose(gtm["mean"], gtm["true"], atol=1e-6)
    tissue = none[none["name"] == "WM"]
    np.testing.assert_allclose(tissue["mean"], 0.75 * tissue["true"] + 15.0, atol=1e-6)


def test_errors_are_as_large_as_the_table_says():
    cohort = Cohort({"control": 1500}, TISSUES[:1], METHODS[1:2], errors=Errors(relaxation=0))
    rows = _joined(cohort).query("flag == 'n/a'")
    score = (rows["mean"] - rows["true"]) / rows["uncertainty"]
    assert score.std() == pytest.approx(1.0, abs=0.06)
    held = (rows["ci_low"] < rows["true"]) & (rows["true"] < rows["ci_high"])
    assert held[rows["mean"].notna()].mean() == pytest.approx(0.95, abs=0.015)


def test_terms_combine_to_the_uncertainty():
    table, _ = draw_cohort(Cohort({"control": 4}), np.random.default_rng(1))
    total = np.sqrt((table[list(simulate.TERMS)] ** 2).sum(axis=1, skipna=False))
    np.testing.assert_allclose(total, table["uncertainty"])


@pytest.mark.parametrize(
    ("name", "group"), [("tumour", "glioma"), ("core", "stroke"), ("enhancing", "ms")]
)
def test_a_lesion_is_found_in_its_group_alone(name, group):
    who = {"control": 5, "glioma": 5, "stroke": 5, "ms": 5}
    table, _ = draw_cohort(Cohort(who, (*TISSUES, *LESIONS)), np.random.default_rng(2))
    rows = table[table["name"] == name]
    assert set(rows["group"]) == {group}
    assert rows["participant_id"].nunique() == 5


def test_grades_age_and_groups_shift_the_truth_as_stated():
    region = Region(1, "GM", 40.0, 0.01, 0.01, 0.1, {"glioma": 5.0, "grade4": 20.0})
    rows = _joined(Cohort({"control": 30, "glioma": 60}, (region,), METHODS[:1]))
    shift = 5.0 * (rows["group"] == "glioma") + 20.0 * (rows["subtype"] == "grade4")
    expected = 40.0 + 0.1 * (rows["age"] - 50) + shift
    np.testing.assert_allclose(rows["true"], expected, atol=0.1)


def test_responders_change_and_the_others_do_not():
    region = Region(1, "tumour", 60.0, 5.0, 0.01, response=-12.0)
    cohort = Cohort({"control": 20, "glioma": 40}, (region,), sessions=2, responders=0.5)
    _, truth = draw_cohort(cohort, np.random.default_rng(3))
    change = truth.pivot(index="participant_id", columns="session", values="true")
    change = (change["2"] - change["1"]).round(0)
    responds = truth.groupby("participant_id")["responds"].first()
    assert set(change[responds]) == {-12.0}
    assert set(change[~responds].abs()) == {0.0}
    assert 8 < responds.sum() < 32


def test_sites_shift_what_is_measured_not_what_is_true():
    cohort = Cohort(
        {"control": 60}, TISSUES[:1], (Method("gtm"),), sites=3, site_sd=5.0, errors=EXACT
    )
    rows = _joined(cohort)
    shift = (rows["mean"] - rows["true"]).groupby(rows["site"])
    assert shift.std().max() < 1e-6
    assert shift.mean().std() > 1


def test_failed_and_lost_values_are_flagged_or_empty_and_carry_no_value_on():
    errors = Errors(missing=0.3, lost=0.2, failed=0.3)
    cohort = Cohort({"control": 100}, sessions=2, errors=errors)
    table, _ = draw_cohort(cohort, np.random.default_rng(4))
    failed = table["flag"] == "registration_failed"
    values = values_of(table)
    assert failed.mean() == pytest.approx(0.3, abs=0.1)
    assert table["mean"].isna().mean() == pytest.approx(0.2, abs=0.05)
    assert values["value"][failed].isna().all()
    assert (table["session"] == "2").mean() == pytest.approx(0.7 / 1.7, abs=0.05)


def test_parcels_of_odd_numbers_carry_the_effect():
    found = parcels(4, {"ms": 2.0})
    assert [each.shifts for each in found] == [{}, {"ms": 2.0}, {}, {"ms": 2.0}]


def test_the_same_seed_gives_the_same_table_chunk_by_chunk(monkeypatch):
    monkeypatch.setattr(simulate, "CHUNK", 3)
    cohort = Cohort({"control": 7})
    tables = [t for t, _ in draw_chunks(cohort, np.random.default_rng(5))]
    again, _ = draw_cohort(cohort, np.random.default_rng(5))
    assert [t["participant_id"].nunique() for t in tables] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([t["mean"] for t in tables]), again["mean"])


def test_participants_are_as_many_as_asked_within_the_ages():
    who = draw_participants(Cohort({"a": 30, "b": 20}, ages=(6, 12)), np.random.default_rng(6))
    assert who["group"].value_counts().to_dict() == {"a": 30, "b": 20}
    assert who["age"].between(6, 12).all()
