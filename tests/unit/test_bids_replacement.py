"""A phantom that a sidecar names: found, checked, planned, and not processed by itself."""

import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app.dataset import collect, describe
from sodiumprep.bids_app.plan.sodium import plan_run
from sodiumprep.bids_app.replacement import inherited
from sodiumprep.bids_app.run import run_participant
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.kspace import write_kspace
from sodiumprep.sodium.acquisition import Acquisition, Geometry

SODIUM = {"ResonantNucleus": "23Na", "EchoTime": 4e-4, "RepetitionTime": 0.12, "FlipAngle": 90,
          "MagneticFieldStrength": 3}  # fmt: skip
IMAGE = "sub-phantom/anat/sub-phantom_acq-23Na_PDw.nii.gz"
KNOWN = {"Image": f"bids::{IMAGE}", "SodiumConcentration": 50, "T1": 0.053, "T2starLong": 0.053,
         "ShortFraction": 0, "Temperature": 21, "SodiumConcentrationUncertainty": 0.4,
         "LoadingFactor": 1.08, "LoadingFactorUncertainty": 0.03}  # fmt: skip
VIAL = {"Name": "a", "SodiumConcentration": 50, "T1": 0.053, "T2starLong": 0.053,
        "ShortFraction": 0}  # fmt: skip


class Dataset:
    """One head and a phantom, each with an image of its own."""

    def __init__(self, folder):
        self.raw = folder / "raw"
        self.settings = Settings(self.raw, folder / "out", folder / "work")
        self.write("dataset_description.json", {"Name": "a", "BIDSVersion": "1.10.0"})
        self.image("sub-01/anat/sub-01_T1w")
        self.head()
        self.image(IMAGE.removesuffix(".nii.gz"), SODIUM | {"EchoTime": 5e-4, "FlipAngle": 70})

    def head(self, **changes):
        known = {k: v for k, v in (KNOWN | changes).items() if v is not ...}
        self.image("sub-01/anat/sub-01_acq-23Na_PDw", SODIUM | {"CalibrationPhantom": known})

    def write(self, name, content):
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def image(self, name, keys=None, values=None, voxel=1.0):
        path = self.raw / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.arange(27, dtype=np.float32).reshape(3, 3, 3) if values is None else values
        nib.save(nib.Nifti1Image(voxels, np.diag([voxel, voxel, voxel, 1])), path)
        if keys is not None:
            self.write(f"{name}.json", keys)

    def kspace(self, subject):
        geometry = Geometry(np.zeros(3), np.eye(3), (0.2, 0.2, 0.2), (4, 4, 4))
        line = np.zeros((3, 5, 3), np.float32)
        line[..., 0] = np.linspace(0, 10, 5)
        path = self.raw / f"sourcedata/sub-{subject}/anat/sub-{subject}_acq-23Na_PDw.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        echo = 5e-4 if subject == "phantom" else 4e-4
        angle = np.radians(70) if subject == "phantom" else np.pi / 2
        write_kspace(path, Acquisition(
            np.ones((2, 3, 5), np.complex64), line, 1e-5, echo, 0.12, angle, 3.0, geometry
        ))  # fmt: skip

    def failure(self, **options):
        jobs, failures = collect(replace(self.settings, **options))
        assert jobs == []
        (message,) = [text for label, text in failures if label == "01"]
        assert "\n" not in message
        return message

    def plan(self, **options):
        settings = replace(self.settings, **options)
        (job,), failures = collect(settings)
        assert failures == []
        return plan_run(job, job.runs[0], settings)


@pytest.fixture
def data(tmp_path):
    return Dataset(tmp_path)


def told(planned):
    return " ".join(planned.provenance["InputWarnings"])


@pytest.mark.parametrize("wanted", [None, "phantom"])
def test_a_phantom_calibrates_with_its_own_protocol(data, wanted):
    planned = data.plan(reference=wanted)
    assert planned.reference == "phantom"
    assert planned.phantom["source"]["image_file"] == str(data.raw / IMAGE)
    assert planned.phantom["own_protocol"]["echo_time"] == 5e-4
    assert planned.phantom["own_protocol"]["flip_angle"] == pytest.approx(np.radians(70))
    assert planned.phantom["known"] == {
        "concentration": 50.0, "u_concentration": 0.4, "temperature": 21.0, "loading": 1.08,
        "u_loading": 0.03,
    }  # fmt: skip
    assert planned.phantom["needed"]
    assert f"bids:raw:{IMAGE}" in planned.provenance["Sources"]
    assert told(planned) == ""


def test_vials_win_unless_the_phantom_is_asked_for_and_it_is_compared(data):
    data.image("sub-01/anat/sub-01_acq-23Na_PDw",
               SODIUM | {"CalibrationPhantom": KNOWN, "CalibrationVials": [VIAL]})  # fmt: skip
    planned = data.plan()
    assert planned.reference == "vials"
    assert not planned.phantom["needed"]
    assert data.plan(reference="phantom").vial_search is None
    assert data.plan(reference="csf").reference == "csf"


def test_a_missing_loading_factor_is_said(data):
    data.head(LoadingFactor=..., LoadingFactorUncertainty=...)
    planned = data.plan()
    assert planned.phantom["known"]["loading"] == 1.0
    assert planned.phantom["known"]["u_loading"] == 0.05
    assert "no LoadingFactor: 1 ± 0.05 is taken" in told(planned)
    assert "all values are relative to it" in told(planned)


def test_missing_uncertainties_are_assumed(data):
    data.head(LoadingFactorUncertainty=..., SodiumConcentrationUncertainty=...)
    known = data.plan().phantom["known"]
    assert known["u_loading"] == pytest.approx(0.02 * 1.08)
    assert known["u_concentration"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SodiumConcentration": ...}, "SodiumConcentration is missing"),
        ({"SodiumConcentration": 0}, "SodiumConcentration is 0; accepted: 0.001 to 6200 mmol/L"),
        ({"SodiumConcentration": -50}, "SodiumConcentration is -50"),
        ({"LoadingFactor": 0}, "LoadingFactor is 0; accepted: 0.2 to 5"),
        ({"LoadingFaktor": 1.1}, "LoadingFaktor is not known; accepted: LoadingFactor"),
        ({"T1": 53}, "T1 is 53; accepted: .* milliseconds"),
        ({"Image": ...}, "Image is null; accepted: a BIDS URI"),
        ({"Image": IMAGE}, "Image is .*; accepted: a BIDS URI"),
        (
            {"Image": "bids::sub-none/anat/sub-none_PDw.nii.gz"},
            "none_PDw.nii.gz: cannot be read: No such file",
        ),
        ({"Image": "bids::../other/sub-1_PDw.nii.gz"}, "lies outside of .*; accepted: inside"),
        ({"Image": f"bids:other:{IMAGE}"}, "the dataset other; accepted: .* -d other=PATH"),
        ({"Image": "bids::sub-01/anat/sub-01_T1w.nii.gz"}, '"ResonantNucleus": "23Na"'),
    ],
)
def test_what_is_wrong_with_the_key_is_told_in_a_line(data, change, said):
    data.head(**change)
    message = data.failure()
    assert "sub-01_acq-23Na_PDw.nii.gz: CalibrationPhantom" in message or "T1w" in message
    assert re.search(said, message)


def test_a_phantom_without_echo_time_is_refused_and_the_run_fails(data, capsys):
    keys = {k: v for k, v in SODIUM.items() if k != "EchoTime"}
    data.image(IMAGE.removesuffix(".nii.gz"), keys)
    assert "sub-phantom_acq-23Na_PDw.nii.gz: EchoTime is missing" in data.failure()
    assert run_participant(replace(data.settings, dry_run=True)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_phantom_of_zeros_is_refused(data):
    data.image(IMAGE.removesuffix(".nii.gz"), SODIUM, np.zeros((3, 3, 3), np.float32))
    assert "sub-phantom_acq-23Na_PDw.nii.gz: every voxel is 0" in data.failure()


def test_another_coil_or_field_is_refused(data):
    name, key = IMAGE.removesuffix(".nii.gz"), {"CalibrationPhantom": KNOWN}
    data.image("sub-01/anat/sub-01_acq-23Na_PDw", SODIUM | key | {"ReceiveCoilName": "one"})
    data.image(name, SODIUM | {"ReceiveCoilName": "two"})
    assert "ReceiveCoilName of sub-phantom_acq-23Na_PDw.nii.gz is 'two'" in data.failure()
    data.image(name, SODIUM | {"MagneticFieldStrength": 7})
    assert "MagneticFieldStrength of sub-phantom" in data.failure()


def test_images_that_may_be_scaled_differently_are_said(data):
    data.image(IMAGE.removesuffix(".nii.gz"), SODIUM, voxel=2.0)
    assert "differ in the voxel size: the phantom calibrates only if" in told(data.plan())


def test_a_phantom_that_is_asked_for_must_be_named(data):
    data.image("sub-01/anat/sub-01_acq-23Na_PDw", SODIUM)
    (_, head), _ = collect(replace(data.settings, reference="phantom"))[1]
    assert "CalibrationPhantom is missing in its sidecar, but --reference is phantom" in head


def test_raw_data_need_raw_data_of_the_phantom(data):
    data.kspace("01")
    assert "is an image, the sodium of the head is raw data" in data.failure()
    data.kspace("phantom")
    source = data.plan().phantom["source"]
    assert source["kspace_file"].endswith("sub-phantom_acq-23Na_PDw.h5")


def test_the_phantom_is_no_participant_unless_it_is_asked_for(data):
    jobs, failures = collect(data.settings)
    assert ([job.subject for job in jobs], failures) == (["01"], [])
    assert f"    calibration phantom: {data.raw / IMAGE}" in describe(jobs[0])
    jobs, failures = collect(replace(data.settings, participants=("01", "phantom")))
    assert [job.subject for job in jobs] == ["01"]
    assert failures[0][0] == "phantom"
    assert "no 1H image" in failures[0][1]


def test_the_key_of_the_whole_dataset_is_not_the_phantoms_own(data):
    data.image("sub-01/anat/sub-01_acq-23Na_PDw", SODIUM)
    data.image("sub-phantom/anat/sub-phantom_T1w")
    data.write("acq-23Na_PDw.json", {"CalibrationPhantom": KNOWN})
    assert data.plan().reference == "phantom"
    (job,), _ = collect(replace(data.settings, participants=("phantom",)))
    assert job.runs[0].phantom is None
    _, ((_, said),) = collect(
        replace(data.settings, participants=("phantom",), reference="phantom")
    )
    assert "Image names this very file" in said


def test_sidecars_of_a_phantom_are_inherited(data):
    data.write("PDw.json", {"a": 1, "b": 1, "c": 1})
    data.write("acq-23Na_PDw.json", {"b": 2, "c": 2})
    data.write("acq-other_PDw.json", {"a": 9})
    found = inherited(data.raw / IMAGE, data.raw)
    assert (found["a"], found["b"], found["EchoTime"]) == (1, 2, 5e-4)


def test_a_phantom_of_another_dataset_is_taken_from_there(data, tmp_path):
    other = Dataset(tmp_path / "more")
    data.head(Image=f"bids:other:{IMAGE}")
    planned = data.plan(derivatives={"other": other.raw}, reference="phantom")
    assert planned.phantom["source"]["image_file"] == str(other.raw / IMAGE)
