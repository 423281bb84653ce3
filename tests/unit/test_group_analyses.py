"""A small cohort with a known difference, change and contrast: every table tells it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sodiumprep.bids_app.group.analyses import as_design
from sodiumprep.bids_app.group.dictionary import describe
from sodiumprep.bids_app.group.model import Model
from sodiumprep.bids_app.group.run import run_group
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DatasetNames, DerivativeNames
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.concentration import COLUMNS
from sodiumprep.interfaces.sidecars import write_json

PEOPLE, EFFECT, FALL = 24, 6.0, -9.0  # mmol/L: patients' GM is higher, and falls
TRUE = {"GM": 42.0, "WM": 36.0, "CSF": 145.0, "core": 60.0}
TERMS = {"uncertainty": 1.2, "u_noise": 1.0, "u_relaxation": 0.6}


def write_scan(out_dir, label, patient, session, rng):
    names = DerivativeNames(out_dir, label, session=session)
    names.folder.mkdir(parents=True, exist_ok=True)
    person = np.random.default_rng(int(label)).normal(0, 1.5)
    rows = []
    for pvc, scale in (("none", 0.7), ("gtm", 1.0)):
        for index, (name, true) in enumerate(TRUE.items(), 1):
            if name == "core" and not patient:
                continue
            effect = EFFECT * (patient and name == "GM") + FALL * (patient and session == "2")
            mean = scale * (true + person + effect + rng.normal(0, 1.0))
            row = {"index": index, "name": name, "pvc": pvc, "mean": f"{mean:.4f}"}
            rows.append({**dict.fromkeys(COLUMNS, "n/a"), **row, "desc": "corrected", **TERMS})
    pd.DataFrame(rows, columns=COLUMNS).to_csv(names.tsc_table(), sep="\t", index=False)
    write_json(names.qc(), {"SoftwareVersion": "1", "SNR": {"GM": 10.0 + int(label)}})


def write_cohort(out_dir):
    rng = np.random.default_rng(5)
    lines = ["participant_id\tage\tgroup"]
    for number in range(PEOPLE):
        group = ("controls", "patients")[number % 2]
        for session in ("1", "2"):
            write_scan(out_dir, f"{number:02d}", group == "patients", session, rng)
        lines.append(f"sub-{number:02d}\t{30 + number}\t{group}")
    DatasetNames(out_dir).participants.write_text("\n".join(lines) + "\n")
    return out_dir


def run(out_dir, **choices):
    assert run_group(Settings(out_dir, out_dir, out_dir, level="group", **choices)) == 0
    return {
        path.stem: pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False,
                               dtype={"from": str, "to": str, "session": str})
        for path in (out_dir / "group").glob("*.tsv")
    }  # fmt: skip


def asked(out_dir, content):
    path = out_dir / "asked.json"
    path.write_text(json.dumps(content))
    return run(out_dir, model_file=path)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run(write_cohort(tmp_path_factory.mktemp("cohort")))


@pytest.fixture
def cohort(tmp_path):
    return write_cohort(tmp_path)


def one(table, **keys):
    chosen = table[np.logical_and.reduce([table[key] == value for key, value in keys.items()])]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_the_difference_between_groups_is_found_where_it_is(results):
    row = one(results["effects"], name="WM", pvc="gtm", contrast="group: patients - controls")
    assert row.ci_low < FALL / 2 < row.ci_high  # the mean over both sessions
    assert row.method == "mixed model (REML)"
    assert row.n_subjects == PEOPLE


def test_p_is_corrected_for_the_regions_of_a_method(results):
    rows = results["effects"]
    rows = rows[(rows.pvc == "gtm") & (rows.contrast == "group: patients - controls")]
    p = np.sort(rows.p.dropna())
    expected = np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    assert np.sort(rows.q.dropna()) == pytest.approx(expected, rel=1e-4)


def test_a_region_that_one_group_has_alone_says_why_there_is_no_difference(results):
    rows = results["effects"]
    told = rows[(rows.name == "core") & (rows.pvc == "gtm")]
    assert told.notes.str.contains("two groups of two subjects are needed").all()


def test_changes_are_judged_by_what_controls_change(results):
    row = one(results["responders"], name="WM", pvc="gtm")
    assert (row.n, row.improved) == (PEOPLE, PEOPLE // 2)
    assert row.error_from == "repeatability, sessions of group controls"
    changes = results["changes"]
    wm = changes[(changes.name == "WM") & (changes.pvc == "gtm")]
    patients = wm[wm.participant_id.str[-2:].astype(int) % 2 == 1]
    assert set(patients.verdict) == {"improved"}


def test_without_anybody_stable_uncertainties_tell_the_error_and_it_is_said(cohort):
    rows = asked(cohort, {"Model": {"X": ["age"]}})["responders"]
    assert rows.error_from.str.startswith("uncertainty of the values alone").all()


def test_a_lesion_is_told_from_white_matter_and_groups_by_each_tissue(results):
    table = results["roc"]
    assert one(table, comparison="core against WM", pvc="gtm").auc == 1.0
    by_tissue = table[(table.comparison == "patients against controls") & (table.pvc == "gtm")]
    assert set(by_tissue.positive) == {"GM", "WM", "CSF", "core"}
    assert one(by_tissue, positive="WM").auc < 0.5  # patients are the lower ones there


def test_regions_of_different_people_and_several_regions_can_be_told_apart(cohort):
    sides = {"Positive": {"name": ["GM", "CSF"], "group": "patients"},
             "Negative": {"name": "WM", "group": "controls"}}  # fmt: skip
    table = asked(cohort, {"Diagnostic": [{"Name": "a", **sides}]})["roc"]
    found = table[table.pvc == "gtm"]
    assert list(found.positive) == ["GM", "CSF"]
    assert list(found.n_positive) == list(found.n_negative) == [PEOPLE // 2] * 2


def test_what_correction_adds_stands_beside_it(results):
    table = results["roc"]
    assert table[table.pvc == "none"].auc_gain.isna().all()
    assert one(table, comparison="core against WM", pvc="gtm").auc_gain == 0.0


def test_norms_say_why_there_are_none(results):
    assert results["norms"].notes.str.contains("needs 100 members").all()


def test_plans_rest_on_the_reference_group(results):
    row = one(results["planning"], name="GM", pvc="gtm", design="groups")
    assert row.n_subjects == PEOPLE // 2
    assert row.difference == pytest.approx(0.1 * row["mean"], rel=1e-5)


def test_every_column_of_every_table_is_described(results):
    people = {"participant_id", "session", "age", "group"}
    for name, table in results.items():
        for column in set(table.columns) - people:
            text = describe(column)["Description"]
            assert text != "As in the tables of the participants", (name, column)


def test_the_same_seed_gives_the_same_tables_whatever_the_number_of_processes(cohort):
    first = {path: path.read_bytes() for path in written(cohort, nprocs=1)}
    assert {path: path.read_bytes() for path in written(cohort, nprocs=2)} == first


def written(out_dir, **choices):
    run(out_dir, **choices)
    return sorted(path for path in Path(out_dir, "group").rglob("*") if path.is_file())


def test_runs_out_of_range_are_left_out_and_listed(cohort):
    tables = asked(cohort, {"Exclude": {"quality": {"snr_GM": [12, None]}}})
    gone = tables["missing"]
    assert set(gone.participant_id) == {"sub-00", "sub-01"}
    assert set(gone.reason) == {"snr_GM is 10", "snr_GM is 11"}
    assert one(tables["effects"], name="GM", pvc="gtm", contrast="age").n_subjects == PEOPLE - 2


def test_flagged_values_are_left_out_on_request_and_misplaced_ones_always(cohort):
    for label, flag in (("00", "entangled"), ("02", "registration_failed,entangled")):
        for path in (cohort / f"sub-{label}").rglob("*_TSC.tsv"):
            path.write_text(path.read_text().replace("\tn/a\n", f"\t{flag}\n"))
    row = {"name": "GM", "pvc": "gtm", "contrast": "age"}
    assert one(run(cohort)["effects"], **row).n_subjects == PEOPLE - 1
    given = {"Exclude": {"flag": ["entangled"]}}
    tables = asked(cohort, given)
    assert one(tables["effects"], **row).n_subjects == PEOPLE - 2
    assert set(tables["missing"].participant_id) == {"sub-00", "sub-02"}
    assert "every value is flagged: entangled" in set(tables["missing"].reason)


def test_a_contrast_can_be_asked_for(cohort):
    given = {"Contrasts": [{"Name": "twice", "ConditionList": ["group.patients", "group.controls"],
                            "Weights": [2, -2]}]}  # fmt: skip
    wanted = one(asked(cohort, given)["effects"], name="GM", pvc="gtm")
    usual = one(run(cohort)["effects"], name="GM", pvc="gtm",
                contrast="group: patients - controls")  # fmt: skip
    assert wanted.contrast == "twice"
    assert wanted.estimate == pytest.approx(2 * usual.estimate, rel=1e-5)


def test_versions_that_differ_are_refused_unless_allowed(cohort):
    path = next((cohort / "sub-03").rglob("*_metrics.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "SoftwareVersion": "2"}))
    with pytest.raises(UserError, match=r"software versions differ.*2 \(sub-03\).*--allow-mixed"):
        run(cohort)
    run(cohort, allow_mixed=True)
    assert "software versions differ" in DatasetNames(cohort).group_report.read_text()


def test_units_that_differ_are_refused(cohort):
    for label, unit in (("00", "mmol/L"), ("01", "mol/L")):
        table = DerivativeNames(cohort, label, session="1").tsc_dictionary()
        write_json(table, {"mean": {"Units": unit}})
    with pytest.raises(UserError, match="units differ"):
        run(cohort)


def test_a_constant_outcome_has_a_reason(cohort):
    for path in cohort.rglob("*_TSC.tsv"):
        table = pd.read_csv(path, sep="\t", keep_default_na=False)
        table.loc[table.name == "WM", "mean"] = 36.0
        table.to_csv(path, sep="\t", index=False)
    rows = run(cohort)["effects"]
    assert rows[rows.name == "WM"].notes.str.contains("36 in all").all()


def test_survival_is_told_where_times_are_known(cohort):
    rng = np.random.default_rng(1)
    lines = ["participant_id\tduration\tevent"]
    lines += [f"sub-{k:02d}\t{rng.exponential(10):.2f}\t1" for k in range(PEOPLE)]
    (cohort / "phenotype").mkdir()
    (cohort / "phenotype" / "survival.tsv").write_text("\n".join(lines) + "\n")
    tables = run(cohort)
    row = one(tables["survival"], name="GM", pvc="gtm")
    assert (row.n, row.events) == (PEOPLE, PEOPLE)
    assert set(tables["survival_curves"].half) == {"below", "above"}


def test_columns_are_taken_by_their_names_whatever_is_in_them():
    terms = {"Model": {"X": [1, "group*BMI (kg/m2)", "C"], "Reference": {}}}
    design = as_design(Model(terms), ["BMI (kg/m2)"])
    assert design.columns == ["BMI (kg/m2)", "C", "group"]
