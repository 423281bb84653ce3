"""Calibration lines from files."""

import json

import numpy as np
import pytest

from sodiumprep.interfaces.calibrate import (
    Calibrate,
    calibrated_by_vials,
    load_lines,
    protocol_of,
    save_lines,
    used_vials,
)
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.sodium.calibrate import Calibration, CoreSignal, VialSignal
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
        for t1 in (0.037, 0.04, 0.043)
    ]  # fmt: skip
    expected = (factors[2] - factors[0]) / 2 / factors[1]
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


def test_good_vials_are_all_used_and_nothing_is_said(calibration_files):
    _, extra = load_lines(calibration_files["vials"])
    assert used_vials(extra) == ["1 low", "2 high"]
    assert (extra["outlier"], extra["forced"], extra["CalibrationWarnings"]) == (None, False, [])


def test_a_vial_that_does_not_belong_is_named_and_left_out(calibrate, vials, calibration_files):
    stated = [*vials, {**vials[0], "concentration": 0.6 * vials[0]["concentration"]}]
    lines, extra = calibrate(reference="vials", vials=stated)
    assert [vial["used"] for vial in extra["vials"]] == [True, True, False]
    assert extra["outlier"] == "1 low"
    assert "is an outlier and left out" in extra["CalibrationWarnings"][0]
    good = load_lines(calibration_files["vials"])[0]["corrected"]
    assert lines["corrected"].slope == pytest.approx(good.slope, rel=1e-6)


def test_an_outlier_among_vials_that_do_not_calibrate_is_told_beside_them(calibrate, vials):
    stated = [*vials, {**vials[0], "concentration": 0.6 * vials[0]["concentration"]}]
    _, extra = calibrate(reference="csf", vials=stated)
    assert extra["References"]["vials"]["Outlier"] == "1 low"
    assert (extra["outlier"], extra["forced"]) == (None, False)


def test_a_poor_line_needs_force_and_everybody_is_told(calibrate, vials):
    low, high = vials[0]["concentration"], vials[1]["concentration"]
    stated = [*vials, {**vials[0], "concentration": 0.5 * (low + high)},
              {**vials[1], "concentration": 0.6 * low + 0.4 * high}]  # fmt: skip
    with pytest.raises(ValueError, match=r"^CalibrationVials: R squared .*\(--force"):
        calibrate(reference="vials", vials=stated)
    lines, extra = calibrate(reference="vials", vials=stated, force=True)
    assert extra["forced"]
    assert lines["corrected"].r_squared < 0.95
    assert "because of --force" in extra["CalibrationWarnings"][-1]


def test_force_changes_nothing_where_the_line_is_good(calibrate, vials, calibration_files):
    lines, extra = calibrate(reference="vials", vials=vials, force=True)
    assert not extra["forced"]
    good = load_lines(calibration_files["vials"])[0]["corrected"]
    assert lines["corrected"].slope == good.slope


def test_a_vial_at_the_border_of_the_field_of_view_is_told():
    vials = [VialSignal(2 * c, 0.1, 50, 1.0, f"{c}", c, 0.1, 37.0) for c in (30.0, 90.0)]
    cores = [CoreSignal(v.signal, v.u_signal, 50, cut)
             for v, cut in zip(vials, (False, True), strict=True)]  # fmt: skip
    _, told = calibrated_by_vials(vials, cores, force=False)
    (said,) = told["CalibrationWarnings"]
    assert said.startswith("vial '90.0' reaches the border of the field of view")


def test_a_vial_without_a_voxel_is_named(calibrate, vials, measured, tmp_path):
    with np.load(measured["regions_file"]) as stored:
        regions = dict(stored)
    regions["fractions"][regions["names"].tolist().index("2 high")] = 0
    path = tmp_path / "regions.npz"
    np.savez(path, **regions)
    with pytest.raises(ValueError, match="vial '2 high' of CalibrationVials: no voxel of the v"):
        calibrate(reference="vials", vials=vials, regions_file=str(path))


def test_an_image_of_zeros_is_refused_by_name(calibrate, vials, measured, tmp_path):
    image, affine = load_image(measured["image_file"])
    dark = save_image(tmp_path / "dark.nii.gz", 0 * image, affine)
    with pytest.raises(ValueError, match=r"dark\.nii\.gz: every voxel is 0"):
        calibrate(reference="vials", vials=vials, static_file=dark)


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
