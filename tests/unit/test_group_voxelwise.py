"""Maps of a cohort with a known place of a known effect."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sodiumprep.bids_app.group.dictionary import describe
from sodiumprep.bids_app.group.run import run_group
from sodiumprep.bids_app.group.voxel_tests import refuse_too_large
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DatasetNames, DerivativeNames
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.concentration import COLUMNS
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.sidecars import write_json

SPACE, SHAPE, PEOPLE, EFFECT = "MNI305", (10, 12, 10), 12, 10.0  # mmol/L
AFFINE = np.array([[4.0, 0, 0, -20], [0, 4, 0, -24], [0, 0, 4, -20], [0, 0, 0, 1]])
PLACE = (slice(3, 6), slice(3, 6), slice(3, 6))  # where patients have more, and lose it
OUTSIDE = (slice(0, 2),)


def template(home):
    """Store a template whose brain is all but the border."""
    folder = home / f"tpl-{SPACE}"
    folder.mkdir(parents=True)
    brain = np.zeros(SHAPE)
    brain[1:-1, 1:-1, 1:-1] = 1
    for ending in ("T1w", "desc-brain_mask"):
        save_image(folder / f"tpl-{SPACE}_res-01_{ending}.nii.gz", brain, AFFINE)


def write_scan(out_dir, number, session, rng, pvc=None):
    names = DerivativeNames(out_dir, f"{number:02d}", session=session)
    names.folder.mkdir(parents=True, exist_ok=True)
    values = 40 + (3 if number >= 4 else 0) + rng.normal(0, 1.0, SHAPE)
    values[PLACE] += EFFECT * (number % 2) * (session != "2")
    values[OUTSIDE] = 0 if number == 3 else values[OUTSIDE]
    save_image(names.tsc_map("corrected", space=SPACE, pvc=pvc), values, AFFINE)
    row = {"index": 1, "name": "GM", "pvc": "gtm", "desc": "corrected",
           "mean": f"{values.mean():.4f}"}  # fmt: skip
    table = pd.DataFrame([{**dict.fromkeys(COLUMNS, "n/a"), **row}], columns=COLUMNS)
    table.to_csv(names.tsc_table(), sep="\t", index=False)
    write_json(names.qc(), {"SoftwareVersion": "1", "RegistrationFailed": number == 11})


def write_cohort(out_dir, sessions=(None,), pvc=None):
    rng = np.random.default_rng(5)
    lines = ["participant_id\tgroup\tage"]
    for number in range(PEOPLE):
        for session in sessions:
            write_scan(out_dir, number, session, rng, pvc)
        lines.append(
            f"sub-{number:02d}\t{'patients' if number % 2 else 'controls'}\t{20 + number}"
        )
    DatasetNames(out_dir).participants.write_text("\n".join(lines) + "\n")
    return out_dir


def run(out_dir, asked=None, **choices):
    path = None
    if asked is not None:
        path = out_dir / "asked.json"
        path.write_text(json.dumps({"Model": {"X": [1, "group", "age"]}, **asked}))
    settings = Settings(out_dir, out_dir, out_dir, level="group", model_file=path, **choices)
    assert run_group(settings) == 0
    return {p.stem: pd.read_csv(p, sep="\t", na_values="n/a", keep_default_na=False)
            for p in (out_dir / "group").glob("voxelwise*.tsv")}  # fmt: skip


def image(out_dir, name):
    return load_image(out_dir / "group" / f"space-{SPACE}_{name}.nii.gz")[0]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templates"))
    template(tmp_path / "templates")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    template(folder / "templates")
    out = write_cohort(folder / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPLATEFLOW_HOME", str(folder / "templates"))
        return out, run(out, {"Voxelwise": {"Permutations": 199, "Smoothing": 3.0}})


@pytest.fixture
def cohort(tmp_path):
    return write_cohort(tmp_path / "out")


def test_mean_spread_and_number_are_those_of_the_maps(results):
    out, _ = results
    stack = np.stack([load_image(path)[0] for path in sorted(
        out.glob("sub-*/anat/*TSCmap.nii.gz")) if "sub-11" not in path.name])  # fmt: skip
    stack[stack == 0] = np.nan
    assert image(out, "stat-mean_TSCmap") == pytest.approx(np.nanmean(stack, axis=0), rel=1e-5)
    assert image(out, "stat-sd_TSCmap") == pytest.approx(
        np.nanstd(stack, axis=0, ddof=1), rel=1e-4
    )
    assert image(out, "stat-n_TSCmap")[0, 0, 0] == PEOPLE - 2  # one left out, one not covered
    assert image(out, "group-patients_stat-n_TSCmap").max() == PEOPLE // 2 - 1


def test_the_difference_between_groups_is_found_where_it_is(results):
    out, tables = results
    sure = image(out, "contrast-grouppatientscontrols_stat-ptfce_statmap") <= 0.05
    assert sure[4, 4, 4]
    assert sure[7:].sum() == 0
    effect = image(out, "contrast-grouppatientscontrols_stat-effect_TSCmap")
    assert effect[4, 4, 4] == pytest.approx(EFFECT, abs=2.5)
    assert tables["voxelwise_model"].loc[0, "n"] == PEOPLE - 1
    assert tables["voxelwise_model"].loc[0, "df"] == PEOPLE - 1 - 3


def test_clusters_have_places_in_millimetres_and_sizes_in_millilitres(results):
    row = results[1]["voxelwise"].iloc[0]
    assert -10 <= row.peak_x <= 2
    assert -14 <= row.peak_y <= -2
    assert row.size_ml / 0.064 == pytest.approx(round(row.size_ml / 0.064))
    assert row.p_mass <= 0.05
    assert row.peak_t > 0


def test_figures_are_listed_with_what_they_show(results):
    out, tables = results
    listed = tables["voxelwise_figures"]
    assert sorted(listed.figure) == [
        f"voxelwise_mean_{SPACE}.png", f"voxelwise_test_{SPACE}.png",
    ]  # fmt: skip
    assert all((out / "group/figures" / name).stat().st_size > 1000 for name in listed.figure)
    assert listed.caption.str.contains("11 participants").all()


def test_every_column_is_described(results):
    for name, table in results[1].items():
        for column in table.columns:
            text = describe(column)["Description"]
            assert text != "As in the tables of the participants", (name, column)


def test_without_a_question_there_are_maps_alone(cohort):
    tables = run(cohort)
    assert set(tables) == {"voxelwise_figures"}
    assert image(cohort, "stat-n_TSCmap").max() == PEOPLE - 1
    sidecar = json.loads((cohort / f"group/space-{SPACE}_stat-mean_TSCmap.json").read_text())
    assert (sidecar["Units"], sidecar["Participants"]) == ("mmol/L", PEOPLE - 1)


def test_the_same_seed_gives_the_same_p_and_another_seed_another_one(cohort):
    asked = {"Voxelwise": {"Permutations": 100}}
    found = [run(cohort, asked, random_seed=seed)["voxelwise"].p_mass.to_list()
             for seed in (1, 1, 2)]  # fmt: skip
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_sessions_are_compared_within_participants(tmp_path):
    out = write_cohort(tmp_path / "out", sessions=("1", "2"))
    asked = {"Model": {"X": [1, "group", "session"]},
             "Voxelwise": {"Contrast": "session: 2 - 1", "Permutations": 100}}  # fmt: skip
    model = run(out, asked)["voxelwise_model"].iloc[0]
    effect = image(out, "contrast-session21_stat-effect_TSCmap")
    # at the mean of the covariates: of 11 participants, 5 are patients
    assert effect[PLACE].mean() == pytest.approx(-EFFECT * 5 / 11, abs=0.4)
    assert (model.n, model.df) == (11, 9)


def test_a_slope_over_age_can_be_asked(cohort):
    run(cohort, {"Voxelwise": {"Contrast": "age", "Permutations": 100}})
    assert image(cohort, "contrast-age_stat-effect_TSCmap")[6:-1, 6:-1, 6:-1].mean() > 0.1


def test_a_contrast_of_ones_own_has_its_weights(cohort):
    own = {"Name": "half", "ConditionList": ["group.patients", "group.controls"],
           "Weights": [0.5, -0.5]}  # fmt: skip
    run(cohort, {"Contrasts": [own], "Voxelwise": {"Contrast": "half", "Permutations": 100}})
    assert image(cohort, "contrast-half_stat-effect_TSCmap")[PLACE].mean() == pytest.approx(
        EFFECT / 2, abs=1.0
    )


@pytest.mark.parametrize(
    ("wanted", "said"),
    [({"Contrast": "group: patient - control"}, "did you mean group: patients - controls"),
     ({"Space": "MNI306"}, "did you mean MNI305"),
     ({"pvc": "rbv"}, "looked for: .*_pvc-rbv_desc-corrected_TSCmap")],
)  # fmt: skip
def test_what_is_not_there_is_refused_with_what_is_like_it(cohort, wanted, said):
    with pytest.raises(UserError, match=said):
        run(cohort, {"Voxelwise": wanted})


def test_maps_corrected_for_partial_volume_are_tested_where_they_are_asked(tmp_path):
    out = write_cohort(tmp_path / "out", pvc="rbv")
    run(out, {"Voxelwise": {"pvc": "rbv", "Permutations": 100}})
    assert image(out, "contrast-grouppatientscontrols_pvc-rbv_stat-t_statmap").max() > 3


def test_a_map_on_another_grid_is_named(cohort):
    path = DerivativeNames(cohort, "04").tsc_map("corrected", space=SPACE)
    save_image(path, np.ones((9, 9, 9)), AFFINE)
    with pytest.raises(UserError, match="sub-04.*its grid .9 x 9 x 9"):
        run(cohort)


def test_too_little_memory_is_refused(cohort):
    with pytest.raises(UserError, match=r"11 maps of 640 voxels need .* GB, there are 1e-05"):
        run(cohort, {"Voxelwise": {}}, memory_gb=1e-5)
    refuse_too_large(40, 10**6, replace(Settings(cohort, cohort, cohort), memory_gb=1.0))


def test_what_cannot_be_tested_says_why(cohort):
    asked = {"Model": {"X": [1]}, "Voxelwise": {"Permutations": 100}}
    assert "compares nothing" in run(cohort, asked)["voxelwise_model"].loc[0, "notes"]


def test_without_a_brain_mask_voxels_that_all_cover_are_taken(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "empty"))
    tables = run(cohort, {"Voxelwise": {"Permutations": 100}})
    assert "every participant covers" in tables["voxelwise_model"].loc[0, "notes"]
    assert not image(cohort, "stat-mask_mask")[OUTSIDE].any()


def test_maps_of_an_earlier_model_do_not_stay(cohort):
    run(cohort, {"Voxelwise": {"Permutations": 100}})
    run(cohort)
    names = {path.name for path in (cohort / "group").rglob("*") if path.is_file()}
    assert not [name for name in names if "contrast" in name or "voxelwise_test" in name]
    assert f"space-{SPACE}_stat-mean_TSCmap.nii.gz" in names


def test_memory_is_foretold_before_anything_is_analysed(cohort):
    with pytest.raises(UserError, match="need"):
        run(cohort, {"Voxelwise": {}}, memory_gb=1e-5)
    assert not (cohort / "group/effects.tsv").exists()
