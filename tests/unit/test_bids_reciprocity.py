"""Where the transmit field stands for the receive profile: only where somebody says so."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app.dataset import collect, describe
from sodiumprep.bids_app.plan.sodium import plan_run
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.coil_fields import CorrectReceive

SODIUM = {"ResonantNucleus": "23Na", "EchoTime": 4e-4, "RepetitionTime": 0.12, "FlipAngle": 90,
          "MagneticFieldStrength": 7}  # fmt: skip
COIL = {"ReceiveCoilName": "birdcage", "TransmitCoilName": "birdcage"}
ONE = {"NumberReceiveCoilActiveElements": 1}
TB1MAP = {"fmap/sub-01_acq-23Na_TB1map": {"Units": "percent"}}
PAIR = {f"fmap/sub-01_acq-23Na{name}_RB1COR": {} for name in ("Head", "Body")}
RB1MAP = {"fmap/sub-01_acq-23Na_RB1map": {}}


@pytest.fixture
def planned(tmp_path):
    def plan(keys, fmaps, **options):
        raw = tmp_path / "raw"
        files = {"anat/sub-01_T1w": None, "anat/sub-01_acq-23Na_PDw": SODIUM | keys}
        files |= {name: {"ResonantNucleus": "23Na"} | own for name, own in fmaps.items()}
        for name, sidecar in files.items():
            path = raw / "sub-01" / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(
                nib.Nifti1Image(np.arange(27, dtype=np.float32).reshape(3, 3, 3), np.eye(4)), path
            )
            if sidecar is not None:
                path.with_name(path.name.replace(".nii.gz", ".json")).write_text(
                    json.dumps(sidecar)
                )
        (raw / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}')
        settings = replace(Settings(raw, tmp_path / "out", tmp_path / "work"), **options)
        jobs, failures = collect(settings)
        if failures:
            return failures[0][1]
        lines = " ".join(describe(jobs[0]))
        made = plan_run(jobs[0], jobs[0].runs[0], settings)
        return made.receive, " ".join(made.provenance["InputWarnings"]), lines

    return plan


def test_one_coil_by_name_and_number_is_a_statement(planned):
    receive, said, lines = planned(COIL | ONE, TB1MAP)
    assert receive["transmit_map_file"].endswith("TB1map.nii.gz")
    assert receive["transmit_units"] == "percent"
    assert receive["reciprocity_uncertainty"] == pytest.approx(0.02 * 7 / 3)
    assert not receive["reciprocity_needed"]
    assert CorrectReceive(**receive).inputs.transmit_map_file == receive["transmit_map_file"]
    assert "profile" not in said
    assert "by the flip angle (reciprocity)" in lines


@pytest.mark.parametrize(
    "keys",
    [{}, ONE, {"ReceiveCoilName": "birdcage"}, ONE | COIL | {"TransmitCoilName": "body"}],
)
def test_without_a_statement_nothing_is_taken_from_the_flip_angle(planned, keys):
    receive, said, _ = planned(keys, TB1MAP)
    assert receive == {}
    assert said.count("relative to it") == 1  # of CSF, and no more


@pytest.mark.parametrize("number", [{}, {"NumberReceiveCoilActiveElements": 32}])
def test_a_name_alone_is_not_enough_for_an_image(planned, number):
    receive, said, _ = planned(COIL | number, TB1MAP)
    assert receive == {}
    assert "NumberReceiveCoilActiveElements is not 1" in said


def test_the_user_may_ask_for_it(planned):
    receive, _, _ = planned({}, TB1MAP, receive="reciprocity")
    assert receive["transmit_map_file"].endswith("TB1map.nii.gz")
    assert receive["reciprocity_needed"]


@pytest.mark.parametrize(
    ("keys", "fmaps", "message"),
    [
        ({}, {}, "TB1map and TB1DAM are missing, but --receive is reciprocity"),
        ({"NumberReceiveCoilActiveElements": 32}, TB1MAP, "ActiveElements is 32, but --receive"),
    ],
)
def test_what_cannot_be_is_refused(planned, keys, fmaps, message):
    assert message in planned(keys, fmaps, receive="reciprocity")


@pytest.mark.parametrize(
    ("fmaps", "kept", "name"), [(PAIR, "array_files", "RB1COR"), (RB1MAP, "map_file", "RB1map")]
)
def test_measured_profiles_win(planned, fmaps, kept, name):
    receive, said, _ = planned(COIL | ONE, TB1MAP | fmaps)
    assert kept in receive
    assert "reciprocity" not in said
    receive, said, _ = planned(COIL | ONE, TB1MAP | fmaps, receive="reciprocity")
    assert kept in receive
    assert f"--receive reciprocity: not used, {name} is" in said
