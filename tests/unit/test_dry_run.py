"""A dry run tells what would be taken and what computed, and computes nothing."""

import json
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app.cli import main
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.run import run_participant
from sodiumprep.bids_app.settings import Settings

SODIUM = {"ResonantNucleus": "23Na", "EchoTime": 4e-4, "RepetitionTime": 0.12, "FlipAngle": 90,
          "MagneticFieldStrength": 3}  # fmt: skip


@pytest.fixture
def told(tmp_path, capsys):
    """Write a dataset with one subject; tell what a dry run with these ready files prints."""
    raw, ready = tmp_path / "raw", tmp_path / "ready"

    def put(root, name):
        path = root / "sub-01/anat" / f"sub-01_{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(
            nib.Nifti1Image(np.arange(27, dtype=np.float32).reshape(3, 3, 3), np.eye(4)), path
        )
        return path

    def run(*endings, raw_image=True, **options):
        put(raw, "acq-23Na_PDw").with_name("sub-01_acq-23Na_PDw.json").write_text(
            json.dumps(SODIUM)
        )
        (raw / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}')
        if raw_image:
            put(raw, "T1w")
        for ending in endings:
            put(ready, ending)
        settings = Settings(raw, tmp_path / "out", tmp_path / "work", dry_run=True)
        given = {"derivatives": {"pipe": ready}} if endings else {}
        code = run_participant(replace(settings, **given, **options))
        assert not (tmp_path / "out").exists()
        return code, capsys.readouterr()

    return run


def test_without_derivatives_everything_is_computed(told):
    code, said = told()
    assert code == 0
    for step in ("bias field", "extracted", "fractions", "normalized"):
        assert step in said.out
    assert "image as it is, calibrated by csf, registered to the anatomy" in said.out


def test_a_ready_mask_spares_the_extraction(told):
    _, said = told("desc-brain_mask")
    assert "anatomy from pipe: mask" in said.out
    assert "bias field" in said.out
    assert "extracted" not in said.out


def test_a_complete_anatomy_spares_everything(told):
    names = ["desc-preproc_T1w", *(f"label-{t}_probseg" for t in ("GM", "WM", "CSF"))]
    _, said = told(*names, raw_image=False)
    assert "anatomy from pipe: preproc, GM, WM, CSF" in said.out
    assert "anatomy: all of it is ready-made" in said.out


def test_a_subject_that_cannot_be_planned_fails_already_here(told):
    code, said = told(na2anat_init="coil")
    assert code == 1
    assert "--na2anat-init coil needs another 1H image" in said.err


def test_vials_without_labels_calibrate_if_they_are_found(told, tmp_path):
    vial = {"Name": "a", "SodiumConcentration": 50, "T1": 0.05, "T2starLong": 0.05,
            "ShortFraction": 0}  # fmt: skip
    listed = [vial, {**vial, "SodiumConcentration": 100}]
    (tmp_path / "vials.json").write_text(json.dumps(listed))
    code, said = told(reference="vials", vials_file=tmp_path / "vials.json")
    assert code == 0
    assert "calibrated by vials if they are found" in said.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SodiumConcentration": 0}, "entry 2: SodiumConcentration is 0; accepted: 0.001 to"),
        ({"SodiumConcentration": -3}, "entry 2: SodiumConcentration is -3; accepted"),
        ({"SodiumConcentration": None}, "entry 2: SodiumConcentration is missing; accepted"),
        ({"SodiumConcentration": 50}, "SodiumConcentration: 1 distinct vial concentration"),
    ],
)
def test_vials_that_cannot_calibrate_fail_the_subject_in_one_line(told, monkeypatch, change, said):
    vial = {"Name": "a", "SodiumConcentration": 50, "T1": 0.05, "T2starLong": 0.05,
            "ShortFraction": 0}  # fmt: skip
    monkeypatch.setitem(SODIUM, "CalibrationVials", [vial, {**vial, **change}])
    code, printed = told(reference="vials")
    assert code == 1
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("sodiumprep: sub-01 failed: ")
    assert "acq-23Na_PDw" in line
    assert f"CalibrationVials {said}" in line or f"CalibrationVials: {said}" in line


def test_atlases_are_told_with_their_labels(told):
    code, said = told(atlases=("lobes",))
    assert code == 0
    assert "atlas lobes: 19 labels (built in), in MNI152NLin2009aSym" in said.out


def test_an_atlas_that_is_not_known_ends_the_run_before_anything_is_told(told):
    with pytest.raises(UserError, match="Harvard: is not known; accepted: a built-in one"):
        told(atlases=("Harvard",))


def test_with_the_anatomy_alone_no_sodium_is_told(told):
    _, said = told(anat_only=True)
    assert "calibrated" not in said.out


@pytest.mark.parametrize("mode", [[], ["--dry-run"]])
@pytest.mark.parametrize("key", ["EchoTime", "RepetitionTime", "FlipAngle"])
def test_a_missing_timing_is_one_line_with_file_and_key_and_exit_code_1(
    told, tmp_path, capsys, monkeypatch, key, mode
):
    told()
    sidecar = tmp_path / "raw/sub-01/anat/sub-01_acq-23Na_PDw.json"
    sidecar.write_text(json.dumps({k: v for k, v in SODIUM.items() if k != key}))
    monkeypatch.setattr("sodiumprep.bids_app.cli.os.environ", dict(os.environ))
    folders = [str(tmp_path / name) for name in ("raw", "out")]
    options = ["-w", str(tmp_path / "work"), "--skip-bids-validation", *mode]
    assert main([*folders, "participant", *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    image = sidecar.with_suffix(".nii.gz")
    assert line.startswith(f"sodiumprep: sub-01 failed: {image}: {key} is missing; accepted: ")
