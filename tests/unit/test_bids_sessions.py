"""Which anatomy serves the sessions of a subject, and in whose space masks lie."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app.anatomies import Anatomy
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.index import RawFile
from sodiumprep.bids_app.lesions import find_lesions
from sodiumprep.bids_app.metadata import Protocol, UserError
from sodiumprep.bids_app.names import with_json
from sodiumprep.bids_app.plan.anatomy import plan_anatomy
from sodiumprep.bids_app.plan.sodium import plan_run
from sodiumprep.bids_app.plan.subject import workflow_name
from sodiumprep.bids_app.ready import Ready
from sodiumprep.bids_app.run import build
from sodiumprep.bids_app.runs import SodiumRun
from sodiumprep.bids_app.sessions import (
    Reference,
    SessionImage,
    first_session,
    in_known_space,
)
from sodiumprep.bids_app.settings import Settings

RAW, OUT = Path("/data/raw"), Path("/data/out")
SETTINGS = Settings(
    RAW, OUT, Path("/data/work"), subject_anatomical_reference="first-lex",
    lesion_tables=("contralateral", "shells"),
)  # fmt: skip
CORE = {"core": Path("/d/core.nii.gz")}
ANATOMY = Anatomy(RAW / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "T1w", lesions=CORE)


def image_of(session, **lesions):
    masks = {name: Path(path) for name, path in lesions.items()}
    return SessionImage(session, RAW / f"sub-01_ses-{session}_T1w.nii.gz", masks)


FIRST_LEX = Reference(
    "first-lex", (image_of("1", core="/d/ses-1_core.nii.gz"), image_of("2")), reference_index=0
)


def run_of(session, **changes):
    known = {
        "subject": "01", "session": session, "run": None, "entities": {"acq": "23Na"},
        "source": RAW / f"sourcedata/sub-01_ses-{session}_PDw.h5", "is_kspace": True,
        "phase": None, "protocol": Protocol(0.3e-3, 0.12, 1.57, 3.0),
    }  # fmt: skip
    return SodiumRun(**{**known, **changes})


def plans(reference=FIRST_LEX, sessions="12", anatomy=ANATOMY, **changes):
    runs = tuple(run_of(session, **changes) for session in sessions)
    job = SubjectJob("01", None, anatomy, runs, reference)
    return plan_anatomy(job, SETTINGS), [plan_run(job, run, SETTINGS) for run in runs]


def test_the_shared_anatomy_lies_with_the_subject_and_sodium_with_its_session():
    anatomy, (first, second) = plans()
    assert anatomy.outputs["gm_file"].endswith("/sub-01/anat/sub-01_label-GM_probseg.nii.gz")
    assert "/sub-01/ses-1/anat/sub-01_ses-1_acq-23Na" in first.outputs["anat_corrected_file"]
    assert "/sub-01/ses-2/anat/sub-01_ses-2_acq-23Na" in second.outputs["anat_corrected_file"]
    assert first.name != second.name


def test_poses_are_saved_as_nipreps_does():
    saved = plans()[0].reference.sessions
    assert [Path(plan.outputs["xfm"]).relative_to(OUT).as_posix() for plan in saved] == [
        f"sub-01/ses-{n}/anat/sub-01_ses-{n}_from-orig_to-T1w_mode-image_xfm.txt" for n in "12"
    ]


def test_what_lies_on_the_shared_anatomy_says_so_by_its_uri():
    anatomy, _ = plans()
    told = {plan.provenance["SpatialReference"] for plan in anatomy.reference.sessions}
    assert told == {"bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"}
    assert anatomy.outputs["preproc_file"].endswith(next(iter(told)).removeprefix("bids::"))


def test_sodium_moves_along_with_its_session_but_not_that_of_the_reference():
    _, (first, second) = plans()
    assert (first.moved, second.moved) == ({}, {"sodium": 1})
    unbiased = replace(FIRST_LEX, method="unbiased", builds_template=True, reference_index=-1)
    assert [p.moved for p in plans(unbiased)[1]] == [{"sodium": 0}, {"sodium": 1}]


def test_a_session_without_masks_takes_those_of_the_reference_and_says_so():
    _, (first, second) = plans()
    assert first.regions["lesion_files"] == second.regions["lesion_files"]
    assert (first.lesion_spaces, second.lesion_spaces) == ({"core": -1}, {"core": -1})
    said = "no lesion mask of ses-2: that of ses-1 is used"
    assert said in second.provenance["InputWarnings"]
    assert said not in first.provenance["InputWarnings"]


def test_masks_of_a_session_lie_in_its_own_space():
    own = Reference(
        "first-lex",
        (image_of("1", core="/a"), image_of("2", core="/b", edema="/c")),
        reference_index=0,
    )
    anatomy, (first, second) = plans(own)
    assert first.regions["lesion_files"] == {"core": "/a"}
    assert second.regions["lesion_files"] == {"core": "/b", "edema": "/c"}
    assert second.lesion_spaces == {"core": 1, "edema": 1}
    assert first.surroundings.classes == ("core",)
    assert second.surroundings.classes == ("core", "edema")
    assert "ses-2_acq-23Na" in second.surroundings.outputs["shells_labels"]
    assert set(second.tissues) >= {"core", "edema"}
    assert list(anatomy.reference.sessions[1].spaces.values()) == [1, 1]
    assert Path(anatomy.reference.sessions[1].outputs["lesion_edema"]).name == (
        "sub-01_ses-2_space-T1w_label-edema_mask.nii.gz"
    )


def test_masks_of_a_ready_anatomy_of_the_subject_serve_sessions_without_their_own():
    given = Reference("first-lex", (image_of("1"), image_of("2", edema="/c")))
    anatomy, (first, second) = plans(given)
    assert first.regions["lesion_files"] == {"core": "/d/core.nii.gz"}
    assert first.lesion_spaces == {"core": -1}
    assert "that of the reference is used" in " ".join(first.provenance["InputWarnings"])
    assert second.regions["lesion_files"] == {"edema": "/c"}
    assert [dict(plan.spaces) for plan in anatomy.reference.sessions] == [
        {"core": -1},
        {"edema": 1},
    ]


def test_a_template_leaves_out_the_lesions_of_all_sessions():
    images = (image_of("1", core="/a"), image_of("2", core="/b"))
    both = Reference("unbiased", images, builds_template=True)
    reference = plans(both, anatomy=Anatomy(None, "T1w"))[0].reference
    assert sorted(reference.excluded.values()) == ["/a", "/b"]
    assert sorted(reference.excluded_spaces.values()) == [0, 1]


def test_what_says_that_it_lies_in_the_reference_is_not_moved(tmp_path):
    mask, xfm = tmp_path / "core.nii.gz", tmp_path / "a_xfm.txt"
    for path in (tmp_path / "core.json", tmp_path / "a_xfm.json"):
        path.write_text(json.dumps({"AnatomicalReference": "first-lex"}))
    both = Reference(
        "first-lex", (image_of("1"), image_of("2", core=str(mask))), reference_index=0
    )
    _, (_, second) = plans(both, sodium_to_anat=xfm)
    assert second.lesion_spaces == {"core": -1}
    assert second.moved == {}


@pytest.mark.parametrize("space", ["T1w", "sodium"])
def test_vial_labels_in_anatomical_space_move_along_with_their_session(space):
    labels = Path("/d/sub-01_ses-2_acq-23Na_space-T1w_desc-vials_dseg.nii.gz")
    _, (second,) = plans(sessions="2", vial_labels=labels, vial_space=space)
    assert second.moved.get("vials", -1) == (1 if space == "T1w" else -1)


def test_every_sidecar_says_what_the_anatomical_reference_is():
    anatomy, runs = plans()
    assert {p.provenance["AnatomicalReference"] for p in (anatomy, *runs)} == {"first-lex"}
    alone = SubjectJob("01", "1", ANATOMY, (run_of("1"),))
    assert plan_run(alone, run_of("1"), SETTINGS).provenance["AnatomicalReference"] == (
        "sessionwise"
    )


def test_runs_over_different_sessions_have_work_folders_of_their_own():
    names = {
        workflow_name(SubjectJob("01", None, ANATOMY, (), replace(FIRST_LEX, chosen=chosen)))
        for chosen in ((), ("1",), ("2",), ("1", "2"))
    }
    assert len(names) == 4


def test_the_first_session_with_a_t1w_image_comes_before_one_with_another_contrast():
    assert first_session({"2": "T1w", "1": "T2w"}, "01") == "2"
    assert first_session({"2": "T2w", "1": "UNIT1"}, "01") == "1"
    assert first_session({"1": "T1w", None: "T1w"}, "01") is None


def test_no_anatomy_in_any_session_is_an_error():
    with pytest.raises(UserError, match="sub-07: no session has a 1H image"):
        first_session({}, "07")


@pytest.fixture
def mask(tmp_path):
    """Return a function that writes a mask in the folder of derivatives."""

    def write(name, values=(0, 1)):
        path = tmp_path / "sub-01" / "anat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.resize(np.asarray(values, np.float32), (2, 2, 2))
        nib.save(nib.Nifti1Image(image, np.eye(4)), path)
        return path

    return write


def found(*paths, session="1", nameless_fits=True):
    return find_lesions(session, [], Ready(paths), nameless_fits)


def test_several_classes_are_found_by_label_and_description(mask):
    names = ("label-core", "label-enhancing", "desc-oedema", "label-resection", "label-GM")
    paths = [mask(f"sub-01_{name}_mask.nii.gz") for name in names]
    assert list(found(*paths).masks) == ["core", "enhancing", "oedema", "resection"]


def test_the_mask_of_another_session_is_left_out_with_a_line(mask):
    lesions = found(mask("sub-01_ses-2_label-core_mask.nii.gz"))
    assert lesions.masks == {}
    assert "space of another session, not used" in lesions.notes[0]


def test_a_mask_without_session_is_used_only_where_its_space_is_known(mask):
    path = mask("sub-01_label-core_mask.nii.gz")
    assert found(path).masks == {"core": path}
    left_out = found(path, nameless_fits=False)
    assert left_out.masks == {}
    assert "accepted: ses-1 in the name" in left_out.notes[0]


def test_an_empty_mask_is_the_absence_of_a_class_and_is_said(mask):
    lesions = found(mask("sub-01_label-core_mask.nii.gz", [0, 0]))
    assert lesions.masks == {}
    assert lesions.notes == (
        "sub-01_label-core_mask.nii.gz: empty, there is no lesion of class core",
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0, 1, 2], "holds 3 values"),
        ([0, -1], "smallest value"),
        ([1, 1], "every voxel is lesion"),
    ],
)
def test_what_is_no_mask_is_refused_with_its_file(mask, values, text):
    with pytest.raises(UserError, match=f"label-core_mask.nii.gz: .*{text}.*accepted: 0"):
        found(mask("sub-01_label-core_mask.nii.gz", values))


def test_the_raw_roi_of_the_session_is_a_lesion(tmp_path, mask):
    path = mask("sub-01_ses-1_label-lesion_roi.nii.gz")
    raw = RawFile(path, {}, {})
    assert find_lesions("1", [raw], Ready(()), True).masks == {"lesion": path}
    assert find_lesions("2", [raw], Ready(()), True).masks == {}


@pytest.mark.parametrize("method", ["sessionwise", "first-lex", "unbiased"])
def test_results_in_another_reference_are_left_out_with_a_line(mask, method):
    path = mask("sub-01_ses-1_space-T1w_label-core_mask.nii.gz")
    xfm = path.with_name("sub-01_ses-1_acq-23Na_from-sodium_to-T1w_mode-image_xfm.txt")
    for each in (path, xfm):
        each.touch()
        with_json(each).write_text(json.dumps({"AnatomicalReference": "first-lex"}))
    kept, notes = in_known_space([path, xfm], method)
    assert (len(kept), len(notes)) == ((2, 0) if method == "first-lex" else (0, 2))
    assert all("reference made by first-lex" in note for note in notes)


def test_what_says_nothing_lies_in_the_space_of_its_session(mask):
    path = mask("sub-01_ses-1_label-core_mask.nii.gz")
    assert in_known_space([path], "unbiased") == ((path,), ())


def test_of_sessions_that_share_an_anatomy_each_may_fail_alone(tmp_path):
    def file(name):
        path = tmp_path / name
        path.touch()
        return path

    images = tuple(SessionImage(n, file(f"T1w{n}.nii.gz")) for n in "12")
    reference = Reference("first-lex", images, reference_index=0)
    protocols = {"1": Protocol(0.3e-3, 0.12, 1.57, 3.0), "2": Protocol(0.3e-3, 0.12, 1.57, 1.5)}
    runs = tuple(
        run_of(n, source=file(f"raw{n}.h5"), protocol=protocol)
        for n, protocol in protocols.items()
    )
    job = SubjectJob("01", None, Anatomy(images[0].image, "T1w"), runs, reference)
    workflow, by_name, failures = build([job], SETTINGS)
    assert list(by_name) == ["sub_01_wf"]
    assert [label for label, _ in failures] == ["01 ses-2"]
    names = workflow.list_node_names()
    assert any("sodium_ses_1_" in name for name in names)
    assert not any("sodium_ses_2_" in name for name in names)
    nobody, _, failures = build([replace(job, runs=runs[1:])], SETTINGS)
    assert (nobody.list_node_names(), len(failures)) == ([], 1)
