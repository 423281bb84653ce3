"""What is found in a dataset, on tiny images written for each test."""

import gzip
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app import index
from sodiumprep.bids_app.dataset import collect, describe
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.kspace import write_kspace
from sodiumprep.sodium.acquisition import Acquisition, Geometry

SODIUM = {
    "ResonantNucleus": "23Na",
    "EchoTime": 4e-4,
    "RepetitionTime": 0.12,
    "FlipAngle": 90,
    "MagneticFieldStrength": 3,
}
VIALS = [
    {
        "Name": "saline",
        "SodiumConcentration": 50,
        "T1": 0.053,
        "T2starLong": 0.053,
        "ShortFraction": 0,
    }
]
NA = "anat/sub-01_acq-23Na_PDw.nii.gz"
T1W = "anat/sub-01_T1w.nii.gz"
LINEAR = "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"


class Dataset:
    """A dataset under construction, with one derivatives folder beside it."""

    def __init__(self, folder):
        self.raw, self.ready = folder / "raw", folder / "ready"
        self.settings = Settings(self.raw, folder / "out", folder / "work")
        self.json("dataset_description.json", {"Name": "a", "BIDSVersion": "1.10.0"})

    def json(self, name, content):
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    def image(self, name, keys=None, values=None, root=None):
        path = (root or self.raw) / _subject(name) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.arange(27, dtype=np.float32).reshape(3, 3, 3) if values is None else values
        if values is None and name.endswith(("_mask.nii.gz", "_roi.nii.gz")):
            voxels = (voxels > 20).astype(np.uint8)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
        if keys is not None:
            Path(str(path).replace(".nii.gz", ".json")).write_text(json.dumps(keys))
        return path

    def derive(self, name):
        return self.image(name, root=self.ready)

    def kspace(self, name, keys=None, **changes):
        path = self.raw / "sourcedata" / _subject(name) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_kspace(path, replace(_acquisition(), **changes))
        if keys is not None:
            path.with_suffix(".json").write_text(json.dumps(keys))
        return path

    def collect(self, **options):
        if self.ready.exists():
            options.setdefault("derivatives", {"ready": self.ready})
        return collect(replace(self.settings, **options))

    def job(self, **options):
        jobs, failures = self.collect(**options)
        assert failures == []
        assert len(jobs) == 1
        return jobs[0]

    def run(self, **options):
        (run,) = self.job(**options).runs
        return run

    def failure(self, **options):
        jobs, failures = self.collect(**options)
        assert (len(jobs), len(failures)) == (0, 1)
        return failures[0][1]


def _subject(name):
    return Path(name).name.split("_")[0]


def _acquisition():
    geometry = Geometry(np.zeros(3), np.eye(3), (0.2, 0.2, 0.2), (4, 4, 4))
    trajectory = np.zeros((3, 5, 3), np.float32)
    trajectory[..., 0] = np.linspace(0, 10, 5)
    samples = np.ones((2, 3, 5), np.complex64)
    return Acquisition(samples, trajectory, 1e-5, 4e-4, 0.12, np.pi / 2, 3.0, geometry)


@pytest.fixture
def empty(tmp_path):
    return Dataset(tmp_path)


@pytest.fixture
def simple(empty):
    empty.image(T1W, {"ResonantNucleus": "1H"})
    empty.image(NA, SODIUM)
    return empty


def test_a_subject_has_its_sodium_image_and_anatomy(simple):
    job = simple.job()
    (run,) = job.runs
    assert (job.subject, job.session, run.run) == ("01", None, None)
    assert run.source == simple.raw / "sub-01" / NA
    assert job.anatomy.image == simple.raw / "sub-01" / T1W
    assert run.protocol.repetition_time == 0.12
    assert (run.is_kspace, run.phase, run.vials, run.warnings) == (False, None, (), ())


def test_sidecars_are_inherited(empty):
    empty.image(T1W)
    empty.image(NA, {"FlipAngle": 80})
    empty.json("acq-23Na_PDw.json", SODIUM)
    assert empty.run().protocol.flip_angle == pytest.approx(np.radians(80))


def test_a_nuc_entity_makes_a_file_sodium(empty):
    empty.image(T1W)
    keys = {key: value for key, value in SODIUM.items() if key != "ResonantNucleus"}
    empty.image("anat/sub-01_nuc-23Na_PDw.nii.gz", keys)
    assert empty.run().acquisition == "23Na"


def test_a_name_alone_does_not_make_a_file_sodium(empty):
    empty.image(T1W)
    path = empty.image(NA, {"EchoTime": 4e-4})
    message = empty.failure()
    assert message.startswith(f"{path}: ResonantNucleus is missing")


def test_a_missing_sodium_image_names_the_subject(empty):
    empty.image(T1W)
    assert empty.failure().startswith("sub-01: no sodium image")


def test_a_missing_anatomy_names_what_is_accepted(empty):
    empty.image(NA, SODIUM)
    assert empty.failure().startswith("sub-01: no 1H image; accepted in anat/: T1w, UNIT1")


@pytest.mark.parametrize("key", ["EchoTime", "RepetitionTime", "FlipAngle"])
def test_a_missing_key_names_file_and_key(simple, key):
    path = simple.image(NA, {name: value for name, value in SODIUM.items() if name != key})
    assert simple.failure().startswith(f"{path}: {key} is missing")


def test_a_relaxation_file_replaces_the_field_strength(simple, tmp_path):
    path = simple.image(NA, {k: v for k, v in SODIUM.items() if k != "MagneticFieldStrength"})
    assert simple.failure().startswith(f"{path}: MagneticFieldStrength is missing")
    assert simple.run(relaxation_file=tmp_path / "a.json").protocol.field_strength is None


def test_a_failing_subject_does_not_stop_the_others(simple):
    simple.image("anat/sub-02_T1w.nii.gz")
    simple.image("anat/sub-03_T1w.nii.gz")
    simple.image("anat/sub-03_acq-23Na_PDw.nii.gz", SODIUM)
    jobs, failures = simple.collect()
    assert [job.subject for job in jobs] == ["01", "03"]
    assert [subject for subject, _ in failures] == ["02"]


def test_a_broken_sidecar_costs_only_its_own_subject(simple):
    simple.image("anat/sub-02_T1w.nii.gz")
    simple.image("anat/sub-02_acq-23Na_PDw.nii.gz", SODIUM)
    simple.json("sub-02/anat/sub-02_acq-23Na_PDw.json", "{")
    jobs, failures = simple.collect()
    assert [job.subject for job in jobs] == ["01"]
    assert "sub-02_acq-23Na_PDw.json: is not valid JSON" in failures[0][1]


@pytest.mark.parametrize("cut", [0, 20, -8])
def test_a_truncated_image_is_named(simple, cut):
    path = simple.raw / "sub-01" / NA
    path.write_bytes(path.read_bytes()[:cut])
    assert simple.failure().startswith(f"{path}: cannot be read, truncated")


def test_an_image_with_too_few_voxels_is_named(simple):
    path = simple.raw / "sub-01" / NA
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-40]))
    assert simple.failure().startswith(f"{path}: cannot be read, truncated")


@pytest.mark.parametrize("name", [NA, T1W])
def test_nan_in_an_image_is_named(simple, name):
    values = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    values[1, 1, 1] = np.nan
    keys = SODIUM if name == NA else None
    path = simple.image(name, keys, values)
    assert simple.failure() == f"{path}: 1 of 27 voxels are NaN or infinite"


@pytest.mark.parametrize(
    ("values", "said"),
    [(np.zeros((3, 3, 3), np.int16), "every voxel is 0"), (np.eye(3, dtype=np.int16), "3D")],
)
def test_an_image_that_is_none_is_named(simple, values, said):
    simple.image(NA, SODIUM, values)
    assert said in simple.failure()


def test_an_unknown_participant_names_the_known_ones(simple):
    with pytest.raises(UserError, match=r"--participant-label 7: .*known: 01"):
        simple.collect(participants=("7",))


def test_a_dataset_without_subjects_is_refused(empty):
    with pytest.raises(UserError, match="holds no subject"):
        empty.collect()


def test_sessions_are_jobs_of_their_own(simple_sessions):
    jobs, _ = simple_sessions.collect()
    assert [(job.session, job.runs[0].session) for job in jobs] == [("1", "1"), ("2", "2")]


def test_a_session_label_picks_one(simple_sessions):
    assert simple_sessions.job(sessions=("2",)).session == "2"


def test_an_unknown_session_names_the_known_ones(simple_sessions):
    assert simple_sessions.failure(sessions=("3",)) == (
        "sub-01: no sodium image in session 3; found in: 1, 2"
    )


def test_the_anatomy_of_another_session_serves_and_is_said(simple_sessions):
    anatomy = simple_sessions.job(sessions=("2",)).anatomy
    assert anatomy.image.name == "sub-01_ses-1_T1w.nii.gz"
    assert anatomy.warnings == ("anatomy from another session: sub-01_ses-1_T1w.nii.gz",)


@pytest.fixture
def simple_sessions(empty):
    for session in "12":
        name = f"ses-{session}/anat/sub-01_ses-{session}_acq-23Na_PDw.nii.gz"
        empty.image(name, SODIUM)
    empty.image("ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    return empty


def test_runs_keep_their_number(empty):
    empty.image(T1W)
    for run in ("01", "02"):
        empty.image(f"anat/sub-01_acq-23Na_run-{run}_PDw.nii.gz", SODIUM)
    assert [run.run for run in empty.job().runs] == ["01", "02"]


def test_a_filter_narrows_the_sodium_images(empty):
    empty.image(T1W)
    for run in ("01", "02"):
        empty.image(f"anat/sub-01_acq-23Na_run-{run}_PDw.nii.gz", SODIUM)
    assert empty.run(bids_filters={"sodium": {"run": 2}}).run == "02"
    assert empty.run(bids_filters={"sodium": {"run": ["1"]}}).run == "01"
    assert "no sodium image" in empty.failure(bids_filters={"sodium": {"run": None}})


def test_an_unknown_filter_key_is_refused(simple):
    assert "colour is not known" in simple.failure(bids_filters={"sodium": {"colour": 2}})


def test_two_images_of_one_output_name_are_refused(simple):
    simple.image("anat/sub-01_acq-23Na_rec-b_PDw.nii.gz", SODIUM)
    assert "the same names" in simple.failure()


def test_the_best_anatomy_comes_first(simple):
    for kind in ("PDw", "T2w", "UNIT1"):
        simple.image(f"anat/sub-01_{kind}.nii.gz", {"ResonantNucleus": "1H"})
    simple.image("anat/sub-01_ce-gd_T1w.nii.gz")
    assert simple.job().anatomy.image.name == "sub-01_T1w.nii.gz"
    (simple.raw / "sub-01" / T1W).unlink()
    (simple.raw / "sub-01" / "anat/sub-01_ce-gd_T1w.nii.gz").unlink()
    anatomy = simple.job().anatomy
    assert (anatomy.image.name, anatomy.suffix) == ("sub-01_UNIT1.nii.gz", "UNIT1")
    assert "no T1w image" in anatomy.warnings[0]


def test_without_anatomy_vials_in_sodium_space_are_enough(empty):
    empty.image(NA, {**SODIUM, "CalibrationVials": VIALS})
    empty.derive("anat/sub-01_acq-23Na_desc-vials_dseg.nii.gz")
    drawn = empty.derive("anat/sub-01_acq-23Na_desc-pons_mask.nii.gz")
    job = empty.job()
    assert not job.anatomy.exists
    assert job.runs[0].regions == {"pons": (drawn, 1)}
    assert "sodium stays in its own space" in describe(job)[0]
    assert f"    region pons: {drawn}" in describe(job)


@pytest.mark.parametrize("space", ["_space-T1w", None])
def test_without_anatomy_and_calibration_what_is_accepted_is_told(empty, space):
    empty.image(NA, {**SODIUM, "CalibrationVials": VIALS})
    if space:
        empty.derive(f"anat/sub-01_acq-23Na{space}_desc-vials_dseg.nii.gz")
    assert "no 1H image; accepted in anat/: T1w" in empty.failure()
    assert "CalibrationVials of sub-01_acq-23Na_PDw.nii.gz with" in empty.failure()


def test_without_anatomy_fluid_cannot_calibrate(empty):
    empty.image(NA, {**SODIUM, "CalibrationVials": VIALS})
    empty.derive("anat/sub-01_acq-23Na_desc-vials_dseg.nii.gz")
    assert "no 1H image" in empty.failure(reference="csf")


def test_a_ready_mask_alone_is_no_anatomy(empty):
    empty.image(NA, {**SODIUM, "CalibrationVials": VIALS})
    empty.derive("anat/sub-01_acq-23Na_desc-vials_dseg.nii.gz")
    empty.derive("anat/sub-01_desc-brain_mask.nii.gz")
    assert "(ready-made mask alone is not enough)" in empty.failure()


def test_what_came_from_where_is_told(simple):
    simple.derive("anat/sub-01_desc-preproc_T1w.nii.gz")
    simple.derive("anat/sub-01_desc-brain_mask.nii.gz")
    job = simple.job()
    assert job.anatomy.sources == ("from ready: preproc, mask",)
    assert "  anatomy from ready: preproc, mask" in describe(job)
    assert str(job.anatomy.ready["preproc"]) in describe(job)[0]


def test_an_empty_lesion_mask_is_said_and_left_out(simple):
    simple.image("anat/sub-01_label-core_mask.nii.gz", root=simple.ready,
                 values=np.zeros((3, 3, 3), np.uint8))  # fmt: skip
    anatomy = simple.job().anatomy
    assert anatomy.lesions == {}
    assert "empty, there is no lesion of class core" in anatomy.warnings[0]


def test_sodium_without_its_key_is_no_anatomy(empty):
    empty.image("anat/sub-01_acq-23Na_run-1_PDw.nii.gz", SODIUM)
    empty.image("anat/sub-01_acq-23Na_run-2_PDw.nii.gz")
    assert "no 1H image" in empty.failure()


def test_magnitude_and_phase_belong_together(empty):
    empty.image(T1W)
    for part in ("mag", "phase"):
        empty.image(f"anat/sub-01_acq-23Na_part-{part}_PDw.nii.gz", SODIUM)
    run = empty.run()
    assert run.source.name == "sub-01_acq-23Na_part-mag_PDw.nii.gz"
    assert run.phase.name == "sub-01_acq-23Na_part-phase_PDw.nii.gz"


def test_a_phase_without_magnitude_is_refused(empty):
    empty.image(T1W)
    path = empty.image("anat/sub-01_acq-23Na_part-phase_PDw.nii.gz", SODIUM)
    assert empty.failure().startswith(f"{path}: has no magnitude image")


def test_the_first_echo_is_quantified_and_the_others_are_said(empty):
    empty.image(T1W)
    for echo in (1, 2):
        empty.image(f"anat/sub-01_acq-23Na_echo-{echo}_MEGRE.nii.gz", SODIUM)
    run = empty.run()
    assert run.source.name == "sub-01_acq-23Na_echo-1_MEGRE.nii.gz"
    assert run.warnings[0].startswith("sub-01_acq-23Na_echo-2_MEGRE.nii.gz: echo not used")


def test_variable_flip_angles_are_refused_by_name(empty):
    empty.image(T1W)
    path = empty.image("anat/sub-01_acq-23Na_flip-1_VFA.nii.gz", SODIUM)
    assert empty.failure().startswith(f"{path}: sodium with suffix VFA is not quantified")


def test_kspace_wins_over_the_image_of_its_name(simple):
    path = simple.kspace("anat/sub-01_acq-23Na_PDw.h5", {"ResonantNucleus": "23Na"})
    run = simple.run()
    assert (run.source, run.is_kspace) == (path, True)
    assert run.protocol.echo_time == pytest.approx(4e-4)


def test_kspace_needs_no_image(empty):
    empty.image(T1W)
    empty.kspace("anat/sub-01_acq-23Na_PDw.h5", {"ResonantNucleus": "23Na"})
    assert empty.run().protocol.flip_angle == pytest.approx(np.pi / 2)


def test_the_keys_of_the_image_serve_its_kspace(simple):
    simple.image(NA, {**SODIUM, "RepetitionTime": 0.2, "CalibrationVials": VIALS})
    simple.kspace("anat/sub-01_acq-23Na_PDw.h5")
    run = simple.run()
    assert (run.is_kspace, run.vials[0].name) == (True, "saline")
    assert run.protocol.repetition_time == pytest.approx(0.12)


def test_kspace_and_its_sidecar_must_agree(simple):
    keys = {**SODIUM, "RepetitionTime": 0.1201}
    path = simple.kspace("anat/sub-01_acq-23Na_PDw.h5", keys)
    assert simple.run().protocol.repetition_time == 0.1201
    simple.kspace("anat/sub-01_acq-23Na_PDw.h5", {**keys, "RepetitionTime": 0.125})
    assert simple.failure().startswith(f"{path}: RepetitionTime is 0.125 in the sidecar")


def test_truncated_kspace_is_named(simple):
    path = simple.kspace("anat/sub-01_acq-23Na_PDw.h5", {"ResonantNucleus": "23Na"})
    path.write_bytes(path.read_bytes()[:2000])
    assert simple.failure().startswith(f"{path}: ")


def test_vials_of_a_file_replace_those_of_the_sidecar(simple, tmp_path):
    simple.image(NA, {**SODIUM, "CalibrationVials": VIALS})
    path = tmp_path / "vials.json"
    path.write_text(json.dumps([{**VIALS[0], "SodiumConcentration": 80}]))
    assert simple.run().vials[0].concentration == 50
    assert simple.run(vials_file=path).vials[0].concentration == 80


def test_the_direction_of_the_list_comes_from_where_the_list_comes_from(simple, tmp_path):
    simple.image(NA, {**SODIUM, "CalibrationVials": VIALS, "CalibrationVialsAxis": "-x"})
    path = tmp_path / "vials.json"
    path.write_text(json.dumps(VIALS))
    assert simple.run().vials_direction == "-x"
    assert simple.run(vials_file=path).vials_direction == ""


def test_a_wrong_vial_names_file_and_entry(simple):
    path = simple.image(NA, {**SODIUM, "CalibrationVials": [{**VIALS[0], "T1": 53}]})
    assert simple.failure().startswith(f"{path}: CalibrationVials entry 1: T1 is 53")


def test_vials_that_were_asked_for_must_be_there(simple):
    assert "CalibrationVials is missing" in simple.failure(reference="vials")
    assert simple.run(reference="csf").vials == ()


@pytest.mark.parametrize(("space", "expected"), [("", "sodium"), ("_space-T1w", "T1w")])
def test_vial_labels_lie_in_the_space_that_their_name_says(simple, space, expected):
    path = simple.derive(f"anat/sub-01_acq-23Na{space}_desc-vials_dseg.nii.gz")
    run = simple.run()
    assert (run.vial_labels, run.vial_space) == (path, expected)


def test_vial_labels_of_a_run_belong_to_that_run(empty):
    empty.image(T1W)
    for run in "12":
        empty.image(f"anat/sub-01_acq-23Na_run-{run}_PDw.nii.gz", SODIUM)
    own = empty.derive("anat/sub-01_acq-23Na_run-2_desc-vials_dseg.nii.gz")
    first, second = empty.job().runs
    assert (first.vial_labels, second.vial_labels) == (None, own)


def test_a_users_transform_is_found(simple):
    path = simple.ready / "sub-01/anat/sub-01_acq-23Na_from-sodium_to-T1w_mode-image_xfm.txt"
    path.parent.mkdir(parents=True)
    path.write_text(LINEAR)
    assert simple.run().sodium_to_anat == path
    assert not simple.run().transform_backward


def transform_of(simple, name):
    path = simple.ready / f"sub-01/anat/sub-01_acq-23Na_{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#Insight Transform File V1.0\n")
    return path


def test_a_displacement_field_is_not_taken_for_a_position(simple):
    transform_of(simple, "from-sodium_to-T1w_mode-image_xfm.nii.gz")
    assert "is not linear (DisplacementField); accepted" in simple.failure()


GRE = "anat/sub-01_acq-gre_PDw.nii.gz"
DUAL = {"ReceiveCoilName": "dual-tuned"}


@pytest.mark.parametrize(
    ("sodium", "other", "found"),
    [(DUAL, DUAL, True), (DUAL, {"ReceiveCoilName": "head"}, False), (DUAL, {}, True),
     ({}, {}, True), ({}, DUAL, False)],
)  # fmt: skip
def test_the_1h_image_of_the_sodium_coil_is_found_by_the_name_of_the_coil(
    simple, sodium, other, found
):
    simple.image(NA, {**SODIUM, **sodium})
    path = simple.image(GRE, {"ResonantNucleus": "1H", **other})
    run = simple.run()
    assert run.coil_image == (path if found else None)
    assumed = any("taken for an image of the sodium coil" in text for text in run.warnings)
    assert assumed is (found and not other)


def test_the_only_1h_image_is_the_anatomy_and_leads_nowhere_else(empty):
    empty.image(NA, {**SODIUM, **DUAL})
    empty.image(GRE, DUAL)
    assert empty.run().coil_image is None


def test_a_1h_image_of_another_session_does_not_share_the_frame(empty):
    empty.image("anat/sub-01_ses-1_acq-23Na_PDw.nii.gz", SODIUM)
    empty.image("anat/sub-01_ses-1_T1w.nii.gz")
    empty.image("anat/sub-01_ses-2_acq-gre_PDw.nii.gz")
    assert empty.run(sessions=("1",)).coil_image is None


def test_array_and_volume_coil_images_are_told_apart(simple):
    for label in ("Head_run-1", "Head_run-2", "Body_run-1"):
        simple.image(f"fmap/sub-01_acq-23Na{label}_RB1COR.nii.gz", {"ResonantNucleus": "23Na"})
    simple.image("fmap/sub-01_acq-Head_RB1COR.nii.gz", {"ResonantNucleus": "1H"})
    run = simple.run()
    assert [path.name[7:24] for path in run.receive_array] == [
        "acq-23NaHead_run-",
        "acq-23NaHead_run-",
    ]
    assert [path.name for path in run.receive_volume] == [
        "sub-01_acq-23NaBody_run-1_RB1COR.nii.gz"
    ]


@pytest.mark.parametrize(("there", "missing"), [("Head", "Body"), ("Body", "Head")])
def test_one_half_of_a_receive_pair_is_not_used_and_said(simple, there, missing):
    name = f"sub-01_acq-23Na{there}_RB1COR.nii.gz"
    simple.image(f"fmap/{name}", {"ResonantNucleus": "23Na"})
    (note,) = simple.run().warnings
    assert note.startswith(f"{name}: not used, ")
    assert missing in note


def test_a_receive_map_is_found(simple):
    path = simple.image("fmap/sub-01_acq-23Na_RB1map.nii.gz", {"ResonantNucleus": "23Na"})
    assert simple.run().receive_map == path


def test_a_field_map_of_raw_data_is_found_with_its_nucleus(simple):
    simple.kspace("anat/sub-01_acq-23Na_PDw.h5", {"ResonantNucleus": "23Na"})
    keys = {"Units": "Hz", "ResonantNucleus": "1H"}
    path = simple.image("fmap/sub-01_fieldmap.nii.gz", keys)
    run = simple.run()
    assert (run.fieldmap, run.fieldmap_nucleus) == (path, "1H")


def test_a_field_map_of_another_unit_is_refused(simple):
    simple.kspace("anat/sub-01_acq-23Na_PDw.h5", {"ResonantNucleus": "23Na"})
    simple.image("fmap/sub-01_fieldmap.nii.gz", {"Units": "rad/s", "ResonantNucleus": "1H"})
    assert simple.failure().endswith("fieldmap.nii.gz: Units is 'rad/s'; accepted: 'Hz'")


def test_a_field_map_of_an_unknown_nucleus_is_not_used_and_said(simple):
    simple.kspace("anat/sub-01_acq-23Na_PDw.h5", {"ResonantNucleus": "23Na"})
    simple.image("fmap/sub-01_fieldmap.nii.gz", {"Units": "rad/s"})
    run = simple.run()
    assert run.fieldmap is None
    assert any("sub-01_fieldmap.nii.gz: not used" in warning for warning in run.warnings)


def test_a_field_map_of_a_ready_image_is_not_used(simple):
    simple.image("fmap/sub-01_fieldmap.nii.gz", {"Units": "Hz", "ResonantNucleus": "1H"})
    run = simple.run()
    assert run.fieldmap is None
    assert any("already reconstructed" in warning for warning in run.warnings)


def test_intended_for_decides_where_it_stands(simple):
    for label, target in (("Head", NA), ("Body", T1W)):
        keys = {"ResonantNucleus": "23Na", "IntendedFor": [f"bids::sub-01/{target}"]}
        simple.image(f"fmap/sub-01_acq-23Na{label}_RB1COR.nii.gz", keys)
    run = simple.run()
    assert (len(run.receive_array), len(run.receive_volume)) == (1, 0)


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("acq-23NaHead_RB1COR", {}, "lacks"),
        ("acq-23Na_RB1COR", {"ResonantNucleus": "23Na"}, "neither Head"),
    ],
)
def test_field_maps_that_are_not_used_are_said(simple, name, keys, said):
    simple.image(f"fmap/sub-01_{name}.nii.gz", keys)
    (note,) = simple.run().warnings
    assert note.startswith(f"sub-01_{name}.nii.gz: ")
    assert said in note


def double_angle(simple, small=30.0, large=60.0, times=(0.2, 0.2)):
    for number, (angle, repetition) in enumerate(zip((small, large), times, strict=True), 1):
        keys = {"ResonantNucleus": "23Na", "FlipAngle": angle, "RepetitionTime": repetition}
        simple.image(f"fmap/sub-01_acq-23Na_flip-{number}_TB1DAM.nii.gz", keys)


def test_two_flip_angles_are_found_the_smaller_one_first(simple):
    double_angle(simple, small=60.0, large=30.0)
    found = simple.run().transmit
    assert found.kind == "TB1DAM"
    assert [path.name[:22] for path in found.paths] == [
        f"sub-01_acq-23Na_flip-{n}" for n in (2, 1)
    ]
    assert (found.flip_angle, found.repetition_time) == (pytest.approx(np.pi / 6), 0.2)


def test_a_map_of_the_flip_angle_goes_before_a_pair(simple):
    double_angle(simple)
    keys = {"ResonantNucleus": "23Na", "Units": "percent"}
    simple.image("fmap/sub-01_acq-23Na_TB1map.nii.gz", keys)
    run = simple.run()
    assert (run.transmit.kind, run.transmit.units) == ("TB1map", "percent")
    assert sum("not used, sub-01_acq-23Na_TB1map.nii.gz is" in note for note in run.warnings) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"large": 50.0}, "no double-angle pair; accepted: two files"),
        ({"times": (0.2, 0.3)}, "RepetitionTime is 0.3 s, that of .* is 0.2 s"),
    ],
)
def test_images_that_are_no_double_angle_pair_are_refused(simple, change, message):
    double_angle(simple, **change)
    assert re.search(message, simple.failure())


def test_ready_made_anatomy_is_found(simple):
    endings = ["desc-preproc_T1w", "desc-brain_mask", "dseg", "space-MNI_desc-brain_mask"]
    endings += [f"label-{tissue}_probseg" for tissue in ("GM", "WM", "CSF")]
    for ending in endings:
        simple.derive(f"anat/sub-01_{ending}.nii.gz")
    (simple.ready / "dseg.tsv").write_text("index\tname\n")
    ready = simple.job().anatomy.ready
    assert sorted(ready) == ["CSF", "GM", "WM", "mask", "preproc"]
    assert ready["mask"].name == "sub-01_desc-brain_mask.nii.gz"


def test_fractions_come_as_a_set_or_not_at_all(simple):
    simple.derive("anat/sub-01_label-GM_probseg.nii.gz")
    assert "GM" not in simple.job().anatomy.ready


def test_the_session_is_searched_first_then_the_subject(simple_sessions):
    subject = simple_sessions.derive("anat/sub-01_desc-preproc_T1w.nii.gz")
    session = simple_sessions.derive("ses-1/anat/sub-01_ses-1_desc-preproc_T1w.nii.gz")
    jobs, _ = simple_sessions.collect()
    assert [job.anatomy.ready["preproc"] for job in jobs] == [session, subject]


def test_the_first_derivatives_folder_wins(simple, tmp_path):
    names = {"a": tmp_path / "a", "b": tmp_path / "b"}
    for root in names.values():
        simple.image("anat/sub-01_desc-brain_mask.nii.gz", root=root)
    ready = simple.job(derivatives=names).anatomy.ready
    assert ready["mask"].is_relative_to(tmp_path / "a")


def test_own_sodium_results_are_no_anatomy(simple):
    simple.derive("anat/sub-01_acq-23Na_desc-preproc_PDw.nii.gz")
    assert simple.job().anatomy.ready == {}


def test_lesions_come_from_labels_descriptions_and_the_raw_roi(simple):
    simple.derive("anat/sub-01_label-necrosis_mask.nii.gz")
    simple.derive("anat/sub-01_desc-oedema_mask.nii.gz")
    simple.derive("anat/sub-01_desc-brain_mask.nii.gz")
    simple.image("anat/sub-01_label-lesion_roi.nii.gz")
    assert list(simple.job().anatomy.lesions) == ["lesion", "necrosis", "oedema"]


def test_the_truth_of_a_simulation_is_refused(simple):
    simple.derive("anat/sub-01_desc-truth_TSCmap.nii.gz")
    with pytest.raises(UserError, match="holds the truth"):
        simple.collect()


def test_a_derivatives_folder_without_subjects_is_refused(simple):
    simple.ready.mkdir()
    with pytest.raises(UserError, match="has no sub-<label> in it"):
        simple.collect()


def test_anatomy_only_needs_no_sodium(empty):
    empty.image(T1W)
    assert empty.job(anat_only=True).runs == ()


def test_what_was_found_is_told(simple):
    simple.derive("anat/sub-01_label-necrosis_mask.nii.gz")
    text = "\n".join(describe(simple.job()))
    assert "sub-01: 1H anatomy" in text
    assert "lesion necrosis" in text
    assert f"sodium image {simple.raw / 'sub-01' / NA}" in text


def test_only_the_requested_subjects_are_indexed(simple, monkeypatch):
    simple.image("anat/sub-010_T1w.nii.gz")
    (simple.raw / "sub-01/func").mkdir()
    (simple.raw / "sub-01/func/sub-01_task-rest_bold.nii.gz").touch()
    (simple.raw / "derivatives/a/sub-01/anat").mkdir(parents=True)
    (simple.raw / "derivatives/a/sub-01/anat/sub-01_T1w.nii.gz").touch()
    layout = index._layout(simple.settings, ["01"])
    assert sorted(Path(path).name for path in layout.files) == [
        "dataset_description.json",
        "sub-01_T1w.json",
        "sub-01_T1w.nii.gz",
        "sub-01_acq-23Na_PDw.json",
        "sub-01_acq-23Na_PDw.nii.gz",
    ]


def test_two_hundred_other_subjects_cost_little(simple):
    simple.job(participants=("01",))
    alone = _seconds(simple)
    for number in range(100, 300):
        folder = simple.raw / f"sub-{number}" / "anat"
        folder.mkdir(parents=True)
        for kind in ("T1w", "acq-23Na_PDw"):
            (folder / f"sub-{number}_{kind}.nii.gz").touch()
            (folder / f"sub-{number}_{kind}.json").write_text("{}")
    among_many = _seconds(simple)
    print(f"one subject alone {alone:.3f} s, among 200 others {among_many:.3f} s")
    assert among_many < alone + 0.5


def _seconds(built):
    times = []
    for _ in range(3):
        start = time.perf_counter()
        built.job(participants=("01",))
        times.append(time.perf_counter() - start)
    return min(times)


def test_a_stored_index_holds_all_subjects_and_is_used_again(simple, tmp_path):
    simple.image("anat/sub-02_T1w.nii.gz")
    simple.image("anat/sub-02_acq-23Na_PDw.nii.gz", SODIUM)
    options = {"bids_database_dir": tmp_path / "index"}
    assert simple.job(participants=("01",), **options).subject == "01"
    assert (tmp_path / "index" / "layout_index.sqlite").exists()
    assert simple.job(participants=("02",), **options).runs[0].protocol.repetition_time == 0.12


def test_a_stored_index_of_another_dataset_is_refused(simple, tmp_path):
    options = {"bids_database_dir": tmp_path / "index"}
    simple.job(**options)
    other = Dataset(tmp_path / "other")
    other.image(T1W)
    with pytest.raises(UserError, match="is the index of"):
        other.collect(**options)


@pytest.mark.parametrize("content", ["no database", ""])
def test_a_stored_index_that_is_none_is_refused(simple, tmp_path, content):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "layout_index.sqlite").write_text(content)
    with pytest.raises(UserError, match="is no index of a dataset"):
        simple.collect(bids_database_dir=tmp_path / "index")


def shared(dataset, method="first-lex", **options):
    job = dataset.job(subject_anatomical_reference=method, **options)
    return job, [image.session for image in job.reference.images]


@pytest.fixture
def two_sessions(simple_sessions):
    simple_sessions.image("ses-2/anat/sub-01_ses-2_T1w.nii.gz")
    return simple_sessions


def test_first_lex_makes_one_job_with_the_anatomy_of_the_first_session(two_sessions):
    job, sessions = shared(two_sessions)
    assert (job.session, job.anatomy.image.name) == (None, "sub-01_ses-1_T1w.nii.gz")
    assert [run.session for run in job.runs] == ["1", "2"]
    assert (sessions, job.reference.reference_index) == (["1", "2"], 0)
    assert "anatomical reference of all sessions: first-lex" in "\n".join(describe(job))


@pytest.mark.parametrize("method", ["first-lex", "unbiased"])
def test_one_chosen_session_lies_on_the_reference_of_the_whole_dataset(two_sessions, method):
    job, sessions = shared(two_sessions, method, sessions=("2",))
    assert [run.session for run in job.runs] == ["2"]
    assert sessions == ["1", "2"]
    assert job.reference.chosen == ("2",)


def test_unbiased_takes_the_mean_of_all_sessions(two_sessions):
    job, _ = shared(two_sessions, "unbiased")
    assert (job.anatomy.image, job.reference.builds_template) == (None, True)
    assert job.reference.reference_index == -1
    assert "mean of all sessions" in describe(job)[0]


def test_unbiased_with_one_image_is_that_image_and_says_so(simple_sessions):
    job, sessions = shared(simple_sessions, "unbiased")
    assert (job.reference.builds_template, sessions) == (False, ["1"])
    assert "one session alone has such a 1H image" in " ".join(job.anatomy.warnings)


def test_images_of_different_contrast_are_not_averaged(simple_sessions):
    simple_sessions.image("ses-2/anat/sub-01_ses-2_T2w.nii.gz")
    job, sessions = shared(simple_sessions, "unbiased")
    assert (job.reference.builds_template, sessions) == (False, ["1", "2"])
    for session in "34":
        name = f"ses-{session}/anat/sub-01_ses-{session}"
        simple_sessions.image(f"{name}_acq-23Na_PDw.nii.gz", SODIUM)
        simple_sessions.image(f"{name}_T1w.nii.gz")
    job, sessions = shared(simple_sessions, "unbiased")
    assert (job.reference.builds_template, sessions) == (True, ["1", "3", "4"])
    assert "ses-2_T2w.nii.gz: no part of the template" in " ".join(job.anatomy.warnings)


@pytest.mark.parametrize(("session", "kept"), [("", False), ("ses-2_", True)])
def test_vial_labels_that_name_no_session_are_not_moved_by_guess(two_sessions, session, kept):
    labels = f"sub-01_{session}acq-23Na_space-T1w_desc-vials_dseg.nii.gz"
    two_sessions.derive(f"ses-2/anat/{labels}")
    job, _ = shared(two_sessions)
    assert (job.runs[1].vial_labels is not None) is kept


def test_sessionwise_is_the_default(two_sessions):
    jobs, _ = two_sessions.collect()
    assert [(job.session, job.reference) for job in jobs] == [("1", None), ("2", None)]


def test_one_session_alone_shares_nothing(simple):
    assert simple.job(subject_anatomical_reference="first-lex").reference is None


def test_a_ready_anatomy_of_the_subject_is_the_reference(two_sessions):
    for name in (
        "desc-preproc_T1w",
        "desc-brain_mask",
        *(f"label-{t}_probseg" for t in ("GM", "WM", "CSF")),
    ):
        two_sessions.derive(f"anat/sub-01_{name}.nii.gz")
    core = two_sessions.derive("anat/sub-01_label-core_mask.nii.gz")
    job, sessions = shared(two_sessions, "unbiased")
    assert (job.reference.builds_template, job.reference.reference_index) == (False, -1)
    assert job.anatomy.image is None
    assert sessions == ["1", "2"]
    assert job.anatomy.lesions == {"core": core}
    assert "not used" not in " ".join(job.anatomy.warnings)


def test_only_the_anatomy_of_all_sessions_may_be_wanted(two_sessions):
    job, sessions = shared(two_sessions, anat_only=True)
    assert (job.runs, sessions) == ((), ["1", "2"])


def test_lesions_of_each_session_stay_with_it(two_sessions):
    masks = [
        two_sessions.derive(f"ses-{n}/anat/sub-01_ses-{n}_label-core_mask.nii.gz") for n in "12"
    ]
    job, _ = shared(two_sessions)
    assert [image.lesions["core"] for image in job.reference.images] == masks
    assert job.anatomy.lesions == {"core": masks[0]}


def test_a_session_that_cannot_be_used_leaves_the_others(two_sessions):
    two_sessions.json(
        "sub-01/ses-2/anat/sub-01_ses-2_acq-23Na_PDw.json", {**SODIUM, "EchoTime": -1}
    )
    jobs, failures = two_sessions.collect(subject_anatomical_reference="first-lex")
    assert [run.session for run in jobs[0].runs] == ["1"]
    assert "EchoTime" in failures[0][1]


def test_vial_labels_whose_session_has_no_anatomy_are_left_out_with_a_line(simple_sessions):
    name = "ses-2/anat/sub-01_ses-2_acq-23Na_space-T1w_desc-vials_dseg.nii.gz"
    simple_sessions.derive(name)
    job, _ = shared(simple_sessions)
    assert job.runs[1].vial_labels is None
    assert "vial labels not used" in " ".join(job.runs[1].warnings)


def test_a_mask_without_session_is_not_used_for_two_anatomies(two_sessions):
    two_sessions.derive("anat/sub-01_label-core_mask.nii.gz")
    jobs, _ = two_sessions.collect()
    assert [dict(job.anatomy.lesions) for job in jobs] == [{}, {}]
    assert "its name has no session" in " ".join(jobs[0].anatomy.warnings)
