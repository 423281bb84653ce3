"""Calibration lines from files."""

import json

import numpy as np
import pytest

from sodiumprep.interfaces.calibrate import Calibrate, load_lines, protocol_of, save_lines
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.sodium.calibrate import Calibration
from sodiumprep.sodium.signal import Relaxation, relaxation_factor


@pytest.fixture
def calibrate(head, measured, run_in, tmp_path, protocol):
    def calibrated(**changes):
        inputs = {k: measured[k] for k in ("regions_file", "signals_file")}
        inputs["static_file"] = measured["image_file"]
        inputs["static_noise_file"] = measured["noise_file"]
        inputs |= {k: head[k] for k in ("tissues", "properties")}
        interface = Calibrate(**{**inputs, "protocol": protocol, **changes})
        return load_lines(run_in(interface, tmp_path / "run").calibration_file)

    return calibrated


@pytest.mark.parametrize("reference", ["vials", "csf"])
def test_the_slope_is_that_of_the_simulation(calibration_files, reference):
    lines, extra = load_lines(calibration_files[reference])
    assert extra["reference"] == reference
    line = lines["corrected"]
    u = np.sqrt(line.covariance[0, 0])
    assert abs(line.slope - 1.0) < 3 * u + 0.01
    assert line.slope == pytest.approx(1.0, abs=0.03)


def test_vials_tell_what_was_measured_of_each(calibration_files, truth):
    _, extra = load_lines(calibration_files["vials"])
    assert [v["name"] for v in extra["vials"]] == ["1 low", "2 high"]
    assert all(v["n_voxels"] >= 4 for v in extra["vials"])
    found = [v["signal"] / v["factor"] for v in extra["vials"]]
    np.testing.assert_allclose(found, [truth["1 low"], truth["2 high"]], rtol=0.02)


def test_a_reference_of_fluid_names_its_assumption(calibration_files):
    assert load_lines(calibration_files["csf"])[1]["assumed"] == [145.0, 5.0]


def test_the_apparent_line_is_lower_by_the_relaxation_of_the_vials(calibration_files):
    lines, extra = load_lines(calibration_files["vials"])
    ratio = lines["apparent"].slope / lines["corrected"].slope
    assert ratio == pytest.approx(extra["vials"][0]["factor"], rel=1e-3)


def test_vials_are_read_from_the_static_image_and_fluid_is_not(
    calibrate, measured, vials, tmp_path
):
    image, affine = load_image(measured["image_file"])
    half = save_image(tmp_path / "half.nii.gz", 0.5 * image, affine)
    slopes = {
        (reference, path): calibrate(reference=reference, vials=vials, static_file=path)[0][
            "corrected"
        ].slope
        for reference in ("vials", "csf")
        for path in (measured["image_file"], half)
    }
    whole = measured["image_file"]
    assert slopes["vials", half] == pytest.approx(0.5 * slopes["vials", whole], rel=1e-3)
    assert slopes["csf", half] == slopes["csf", whole]


def test_uncertain_constants_of_the_vials_widen_the_corrected_line(calibrate, vials, head):
    unsure = {**head["tissues"]}
    for vial in vials:
        unsure[vial["name"]] = {**unsure[vial["name"]], "u_t1": 0.003}
    lines = [calibrate(reference="vials", vials=vials, **more)[0]
             for more in ({}, {"tissues": unsure})]  # fmt: skip
    relative = [np.sqrt(found["corrected"].covariance[0, 0]) / found["corrected"].slope
                for found in lines]  # fmt: skip
    factors = [
        relaxation_factor(Relaxation(**{**unsure[vials[0]["name"]], "t1": t1}), 0.3e-3, 0.12,
                          np.pi / 2)
        for t1 in (0.04, 0.043)
    ]  # fmt: skip
    expected = factors[1] / factors[0] - 1
    assert np.sqrt(relative[1] ** 2 - relative[0] ** 2) == pytest.approx(abs(expected), rel=0.02)
    assert lines[0]["apparent"].covariance == pytest.approx(lines[1]["apparent"].covariance)


def test_vials_of_one_level_are_refused(calibrate, vials):
    same = [{**vial, "concentration": 50.0} for vial in vials]
    with pytest.raises(ValueError, match="1 distinct vial concentration"):
        calibrate(reference="vials", vials=same)


def test_vials_in_the_wrong_order_are_refused(calibrate, vials):
    swapped = [
        {**vials[0], "concentration": vials[1]["concentration"]},
        {**vials[1], "concentration": vials[0]["concentration"]},
    ]
    with pytest.raises(ValueError, match="slope .* must be positive"):
        calibrate(reference="vials", vials=swapped)


def test_lines_survive_their_file(tmp_path):
    line = Calibration(2.0, 1.0, np.array([[1.0, -0.5], [-0.5, 3]]), 0.99, np.arange(3.0), 0.2)
    path = save_lines(tmp_path / "lines.json", {"corrected": line}, {"reference": "vials"})
    lines, extra = load_lines(path)
    for name, value in vars(line).items():
        np.testing.assert_array_equal(getattr(lines["corrected"], name), value)
    assert extra == {"reference": "vials"}
    assert json.loads((tmp_path / "lines.json").read_text())["reference"] == "vials"


def test_a_protocol_takes_its_three_numbers_and_passes_over_others(protocol):
    assert vars(protocol_of({**protocol, "field_strength": 3.0})) == protocol
