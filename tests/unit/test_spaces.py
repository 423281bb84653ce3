"""Plans of output spaces: names, one registration for each template, ready-made transforms."""

from dataclasses import replace
from pathlib import Path

import pytest

from sodiumprep.bids_app.anatomies import Anatomy
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DerivativeNames
from sodiumprep.bids_app.run import build, run_participant
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.spaces import plan_spaces, plan_templates, ready_transforms
from sodiumprep.bids_app.templates import EMBEDDED, Space, TemplateFiles

RAW, OUT = Path("/data/raw"), Path("/data/out")
T1W = RAW / "sub-01/anat/sub-01_T1w.nii.gz"
JOB = SubjectJob("01", None, Anatomy(T1W, "T1w"), ())
LINKED = {"": OUT, "raw": RAW}


@pytest.fixture(autouse=True)
def everything_is_there(monkeypatch, tmp_path):
    files = TemplateFiles(*(str(tmp_path / name) for name in "img"))
    for path in (files.image, files.mask, files.grid):
        Path(path).touch()

    def found(space):
        return TemplateFiles() if space.template == EMBEDDED else files

    monkeypatch.setattr("sodiumprep.bids_app.spaces.find_template", found)


def settings(*spaces):
    return Settings(RAW, OUT, Path("/data/work"), output_spaces=spaces)


def spaces_of(*spaces, job=JOB):
    names = DerivativeNames(OUT, "01", run="2")
    return plan_spaces(job, settings(*spaces), names, LINKED)


def test_without_spaces_nothing_is_planned():
    assert spaces_of() == ()
    assert plan_templates(JOB, settings(), {"Sources": []}) == ()


def test_maps_of_voxelwise_corrections_are_planned_beside_them():
    wanted = Settings(
        RAW, OUT, Path("/data/work"), output_spaces=(Space("NKI"),), pvc=("gtm", "rbv")
    )
    (plan,) = plan_spaces(JOB, wanted, DerivativeNames(OUT, "01"), LINKED)
    names = {port: Path(path).name for port, path in plan.corrected.items()}
    assert (
        names["rbv:corrected_file"]
        == "sub-01_acq-23Na_space-NKI_pvc-rbv_desc-corrected_TSCmap.nii.gz"
    )
    assert set(names) == {f"rbv:{kind}_file" for kind in ("apparent", "corrected", "uncertainty")}


def test_maps_carry_space_cohort_and_resolution_in_their_names():
    (plan,) = spaces_of(Space("MNIInfant", "2", "1"))
    names = [Path(path).name for path in plan.outputs.values()]
    middle = "sub-01_acq-23Na_run-2_space-MNIInfant_cohort-2_res-1"
    assert names == [
        f"{middle}_desc-apparent_TSCmap.nii.gz",
        f"{middle}_desc-corrected_TSCmap.nii.gz",
        f"{middle}_stat-uncertainty_desc-corrected_TSCmap.nii.gz",
    ]


def test_names_are_free_of_what_was_not_asked_for():
    (plan,) = spaces_of(Space(EMBEDDED))
    path = Path(plan.outputs["apparent_file"]).name
    assert path == f"sub-01_acq-23Na_run-2_space-{EMBEDDED}_desc-apparent_TSCmap.nii.gz"
    assert (plan.grid, plan.resolution) == ("", 1)


def test_sidecars_say_where_the_maps_lie_and_how_they_came_there():
    stated = spaces_of(Space("MNIInfant", "2", "1"))[0].provenance
    assert stated["Template"] == "MNIInfant"
    assert stated["Cohort"] == "2"
    assert "grid 1" in stated["Resolution"]
    assert "once" in stated["Interpolation"]
    assert [Path(uri).name for uri in stated["SpatialTransforms"]] == [
        "sub-01_from-T1w_to-MNIInfant+2_mode-image_xfm.h5",
        "sub-01_acq-23Na_run-2_from-sodium_to-T1w_mode-image_xfm.txt",
    ]


def test_two_grids_of_one_template_share_a_registration():
    wanted = (Space("NKI", "", "1"), Space("NKI", "", "2"), Space(EMBEDDED))
    plans = plan_templates(JOB, settings(*wanted), {"Sources": ["bids:raw:x"]})
    assert [plan.name for plan in plans] == ["NKI", EMBEDDED]
    assert [space.template for space in spaces_of(*wanted)] == ["NKI", "NKI", EMBEDDED]
    assert len({space.name for space in spaces_of(*wanted)}) == 3


def test_transforms_have_names_of_both_directions_and_name_their_template():
    (plan,) = plan_templates(JOB, settings(Space("MNIInfant", "2")), {"Sources": ["bids:raw:x"]})
    assert {port: Path(path).name for port, path in plan.outputs.items()} == {
        "to_template_xfm": "sub-01_from-T1w_to-MNIInfant+2_mode-image_xfm.h5",
        "from_template_xfm": "sub-01_from-MNIInfant+2_to-T1w_mode-image_xfm.h5",
    }
    assert [Path(source).name for source in plan.provenance["Sources"][1:]] == ["i", "m"]


def test_a_ready_made_transform_is_the_one_that_sidecars_name():
    ready = {"preproc": Path("/d/p.nii.gz"), "to_NKI": Path("/d/x.h5")}
    job = replace(JOB, anatomy=Anatomy(T1W, "T1w", ready))
    assert ready_transforms(job) == {"NKI": "/d/x.h5"}
    (plan,) = spaces_of(Space("NKI"), job=job)
    assert plan.provenance["SpatialTransforms"][0] == "/d/x.h5"


def test_a_missing_template_is_found_before_the_dataset_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    monkeypatch.setattr("sodiumprep.bids_app.templates._fetch", lambda *_: "and is not fetched")
    monkeypatch.setattr("sodiumprep.bids_app.run.collect", lambda _: pytest.fail("read"))
    with pytest.raises(UserError, match="tpl-NKI_res-01_T1w.nii.gz is not there"):
        run_participant(settings(Space("NKI")))


def test_the_dataset_is_read_where_nothing_is_missing(monkeypatch):
    monkeypatch.setattr("sodiumprep.bids_app.run.check_spaces", lambda _: None)
    monkeypatch.setattr("sodiumprep.bids_app.run.collect", lambda _: ([], []))
    assert run_participant(replace(settings(Space("NKI")), dry_run=True)) == 0


def test_a_cohort_chosen_by_age_is_told_with_the_age_and_its_table(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t9.2\n")
    wanted = replace(settings(Space("MNIPediatricAsym", "auto")), bids_dir=tmp_path)
    (plan,) = plan_spaces(JOB, wanted, DerivativeNames(OUT, "01"), LINKED)
    assert plan.template == "MNIPediatricAsym+3"
    assert plan.provenance["CohortChosenBy"] == "age of 9.2 years in participants.tsv"
    (template,) = plan_templates(JOB, wanted, {"Sources": []})
    assert template.name == "MNIPediatricAsym+3"


def test_a_subject_without_a_usable_age_fails_alone(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t89+\nsub-02\t9\n")
    wanted = replace(settings(Space("MNIPediatricAsym", "auto")), bids_dir=tmp_path)
    jobs = [replace(JOB, subject=subject) for subject in ("01", "02")]
    _, planned, failures = build(jobs, wanted)
    assert [job.subject for job in planned.values()] == ["02"]
    assert failures == [("01", failures[0][1])]
    assert "participants.tsv: age of sub-01 is '89+'" in failures[0][1]
