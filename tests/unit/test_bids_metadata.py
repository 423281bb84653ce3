"""Sidecar keys: what is accepted, and that each refusal names file, key and unit."""

import json
import math
from dataclasses import dataclass

import pytest

from sodiumprep.bids_app.metadata import (
    UserError,
    is_sodium,
    load_vials,
    load_vials_direction,
    read_protocol,
    read_sidecar,
    read_vials,
    read_vials_direction,
)

SIDECAR = {
    "EchoTime": 4e-4,
    "RepetitionTime": 0.12,
    "FlipAngle": 90,
    "MagneticFieldStrength": 2.89,
}
VIAL = {
    "Name": "saline 50",
    "SodiumConcentration": 50,
    "T1": 0.053,
    "T2starLong": 0.053,
    "ShortFraction": 0,
}
GEL = {**VIAL, "ShortFraction": 0.6, "T2starShort": 0.0047, "T2starLong": 0.0286, "T1": 0.033}


@dataclass(frozen=True)
class Header:
    echo_time: float | None = None
    repetition_time: float | None = None
    flip_angle: float | None = None
    field_strength: float | None = None


def test_degrees_become_radians_and_seconds_stay():
    protocol = read_protocol(SIDECAR, "a.nii.gz")
    assert protocol.flip_angle == pytest.approx(math.pi / 2)
    assert (protocol.echo_time, protocol.repetition_time) == (4e-4, 0.12)
    assert protocol.field_strength == 2.89


def test_what_the_point_spread_function_needs_is_read():
    keys = {
        "ReadoutDuration": 0.01,
        "TrajectoryType": "Density-adapted radial",
        "KspaceFilter": "Hamming",
        "AcquisitionVoxelSize": [3, 3, 4],
    }
    protocol = read_protocol({**SIDECAR, **keys}, "a.nii.gz")
    assert protocol.readout_duration == 0.01
    assert protocol.trajectory_type == "density-adapted radial"
    assert protocol.kspace_filter == "hamming"
    assert protocol.acquisition_voxel_size == (3.0, 3.0, 4.0)


@pytest.mark.parametrize("key", SIDECAR)
def test_a_missing_key_is_an_error_that_names_file_and_key(key):
    keys = {name: value for name, value in SIDECAR.items() if name != key}
    with pytest.raises(UserError, match=rf"^a\.nii\.gz: {key} is missing") as raised:
        read_protocol(keys, "a.nii.gz")
    assert "\n" not in str(raised.value)


def test_a_relaxation_file_makes_the_field_strength_dispensable():
    keys = {name: value for name, value in SIDECAR.items() if name != "MagneticFieldStrength"}
    assert read_protocol(keys, "a.nii.gz", field_needed=False).field_strength is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("EchoTime", 0.4, "milliseconds"),
        ("EchoTime", -1e-4, "EchoTime is -0.0001"),
        ("EchoTime", [4e-4, 5e-3], "EchoTime is"),
        ("RepetitionTime", 120, "milliseconds"),
        ("RepetitionTime", "0.12", '"0.12"'),
        ("RepetitionTime", True, "true"),
        ("RepetitionTime", float("nan"), "NaN"),
        ("FlipAngle", 0, "degrees"),
        ("FlipAngle", 270, "degrees"),
        ("MagneticFieldStrength", 300, "25 T"),
        ("ReadoutDuration", 10, "milliseconds"),
        ("TrajectoryType", "spiral out", "cones"),
        ("KspaceFilter", "hann", "hamming"),
        ("AcquisitionVoxelSize", 3, "three numbers"),
        ("AcquisitionVoxelSize", [0.003, 0.003, 0.003], "mm"),
    ],
)
def test_an_implausible_value_is_refused_with_its_key_and_unit(key, value, said):
    with pytest.raises(UserError, match=f"^a: {key} is") as raised:
        read_protocol({**SIDECAR, key: value}, "a")
    assert said in str(raised.value)


def test_a_repetition_shorter_than_the_echo_is_refused():
    with pytest.raises(UserError, match="RepetitionTime is 0.01 s"):
        read_protocol({**SIDECAR, "EchoTime": 0.02, "RepetitionTime": 0.01}, "a")


def test_the_kspace_header_alone_is_enough():
    protocol = read_protocol({}, "a.h5", Header(4e-4, 0.12, math.pi / 2, 7.0))
    assert protocol.flip_angle == pytest.approx(math.pi / 2)
    assert protocol.field_strength == 7.0


@pytest.mark.parametrize(
    ("key", "header"),
    [
        ("EchoTime", Header(echo_time=4.01e-4)),
        ("RepetitionTime", Header(repetition_time=0.121)),
        ("FlipAngle", Header(flip_angle=math.radians(80))),
        ("MagneticFieldStrength", Header(field_strength=7.0)),
    ],
)
def test_header_and_sidecar_that_disagree_are_an_error(key, header):
    with pytest.raises(UserError, match=f"^a.h5: {key} is .* in the sidecar"):
        read_protocol(SIDECAR, "a.h5", header)


def test_the_nominal_field_strengths_of_header_and_sidecar_may_differ():
    assert read_protocol(SIDECAR, "a.h5", Header(field_strength=3.0)).field_strength == 2.89


def test_a_vial_is_read_with_an_assumed_uncertainty_of_one_percent():
    (vial,) = read_vials([VIAL], "a.json")
    assert (vial.concentration, vial.concentration_uncertainty) == (50.0, 0.5)
    assert vial.uncertainty_assumed
    assert vial.t2_short is None


def test_a_gel_vial_keeps_all_that_the_user_states():
    stated = {"SodiumConcentrationUncertainty": 2, "Temperature": 21, "Position": [1, 2, 3]}
    (vial,) = read_vials([{**GEL, **stated}], "a.json")
    assert (vial.concentration_uncertainty, vial.temperature) == (2.0, 21.0)
    assert vial.position == (1.0, 2.0, 3.0)
    assert (vial.t2_short, vial.short_fraction) == (0.0047, 0.6)
    assert not vial.uncertainty_assumed


@pytest.mark.parametrize("key", ["Name", "SodiumConcentration", "T1", "T2starLong", "T2starShort"])
def test_a_missing_vial_key_is_named_with_its_entry(key):
    keys = {name: value for name, value in GEL.items() if name != key}
    with pytest.raises(UserError, match=f"^a.json: CalibrationVials entry 2: {key} is"):
        read_vials([VIAL, keys], "a.json")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("T1", 53, "milliseconds"),
        ("T2starLong", 53, "milliseconds"),
        ("T2starShort", 0.05, "T2starLong"),
        ("ShortFraction", 1.2, "0 to 1"),
        ("ShortFraction", -0.1, "0 to 1"),
        ("SodiumConcentration", 0, "mmol/L"),
        ("SodiumConcentration", -50, "mmol/L"),
        ("SodiumConcentrationUncertainty", -1, "mmol/L"),
        ("Temperature", 294, "kelvin"),
        ("Position", [1, 2], "three numbers"),
        ("TemperatureC", 21, "Temperature"),
    ],
)
def test_an_implausible_vial_is_refused(key, value, said):
    with pytest.raises(UserError, match=f"entry 1: {key} is") as raised:
        read_vials([{**GEL, key: value}], "a.json")
    assert said in str(raised.value)


@pytest.mark.parametrize("entries", [{"Name": "a"}, "vials", 3, ["saline"]])
def test_what_is_no_list_of_vials_is_refused(entries):
    with pytest.raises(UserError, match="CalibrationVials"):
        read_vials(entries, "a.json")


def test_a_vials_file_holds_the_list(tmp_path):
    path = tmp_path / "vials.json"
    path.write_text(json.dumps([VIAL, GEL]))
    assert [vial.t1 for vial in load_vials(path)] == [0.053, 0.033]


@pytest.mark.parametrize(("stated", "read"), [({}, ""), ({"CalibrationVialsAxis": "-X"}, "-x")])
def test_the_direction_of_the_list_of_vials_is_read(tmp_path, stated, read):
    path = tmp_path / "vials.json"
    path.write_text(json.dumps({"CalibrationVials": [VIAL, GEL], **stated}))
    assert read_vials_direction(stated, "a.json") == read
    assert load_vials_direction(path) == read
    assert len(load_vials(path)) == 2


def test_a_vials_file_that_is_a_list_states_no_direction(tmp_path):
    path = tmp_path / "vials.json"
    path.write_text(json.dumps([VIAL]))
    assert load_vials_direction(path) == ""


def test_a_direction_that_is_no_axis_is_refused():
    with pytest.raises(UserError, match='CalibrationVialsAxis is "up"; accepted: x, -x, y'):
        read_vials_direction({"CalibrationVialsAxis": "up"}, "a.json")


@pytest.mark.parametrize("content", ["[]", "{", "3"])
def test_a_vials_file_without_vials_is_refused_by_name(tmp_path, content):
    path = tmp_path / "vials.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"vials\.json"):
        load_vials(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json: cannot be read"):
        load_vials(tmp_path / "gone.json")


def test_a_sidecar_that_is_no_object_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1]")
    with pytest.raises(UserError, match=r"a\.json: holds a list"):
        read_sidecar(path)


@pytest.mark.parametrize(
    ("keys", "name", "expected"),
    [
        ({"ResonantNucleus": "23Na"}, "sub-01_PDw.nii.gz", True),
        ({"ResonantNucleus": ["23Na"]}, "sub-01_PDw.nii.gz", True),
        ({}, "sub-01_nuc-23Na_PDw.nii.gz", True),
        ({}, "sub-01_acq-23Na_PDw.nii.gz", False),
        ({"ResonantNucleus": "1H"}, "sub-01_acq-23Na_PDw.nii.gz", False),
        ({"ImagingFrequency": 78.8}, "sub-01_PDw.nii.gz", False),
    ],
)
def test_only_sidecar_or_nuc_entity_make_a_file_sodium(keys, name, expected):
    assert is_sodium(keys, name) is expected
