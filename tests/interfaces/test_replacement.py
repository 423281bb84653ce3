"""A phantom in files of its own calibrates a head in others."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sodiumprep.interfaces.calibrate import Calibrate, load_lines
from sodiumprep.interfaces.coil_fields import CorrectReceive
from sodiumprep.interfaces.concentration import TabulateRegions
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.reconstruct import load_response, save_response
from sodiumprep.interfaces.replacement import MeasurePhantom
from sodiumprep.sodium.kernel import Response, blur
from sodiumprep.sodium.smooth_field import SmoothField, grid_positions

SALINE = {"t1": 0.053, "t2_short": 0.053, "t2_long": 0.053, "short_fraction": 0.0}
OWN = {"echo_time": 0.5e-3, "repetition_time": 0.09, "flip_angle": 1.2}
KNOWN = {"concentration": 50.0, "u_concentration": 0.5, "temperature": 21.0, "loading": 1.1,
         "u_loading": 0.02}  # fmt: skip
NOISE = 0.5


def fluid(relaxation, protocol):
    """Signal of what is fully relaxed 1, written here again."""
    e1 = np.exp(-protocol["repetition_time"] / relaxation["t1"])
    angle = protocol["flip_angle"]
    turned = np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle))
    return turned * np.exp(-protocol["echo_time"] / relaxation["t2_long"])


def told(path):
    return json.loads(Path(path).read_text())


@pytest.fixture(scope="module")
def ball(head, sodium_geometry, tmp_path_factory):
    """Write a ball of saline at 21 degrees in a coil that the head loads 1.1 times as much."""
    folder = tmp_path_factory.mktemp("ball")
    places = np.stack(np.meshgrid(*[np.arange(24) - 11.6] * 3, indexing="ij"))
    level = np.clip(9.5 - np.linalg.norm(places, axis=0), 0, 1)
    response = load_response(head["response_file"])
    kernel = response.transfers["CSF"]
    signal = 1.1 * 50 * 310 / 294.15 * fluid(SALINE, OWN)
    noise = np.random.default_rng(4).normal(0, NOISE, level.shape)
    path = folder / "response.npz"
    save_response(path, Response({"phantom": kernel}, response.noise_spectrum))
    affine = sodium_geometry.affine
    flat = np.full(level.shape, NOISE)
    return {
        "image_file": save_image(
            folder / "i.nii.gz", signal * blur(level, kernel) + noise, affine
        ),
        "noise_file": save_image(folder / "n.nii.gz", flat, affine),
        "field_file": save_image(folder / "f.nii.gz", np.ones(level.shape), affine),
        "response_file": str(path),
    }


@pytest.fixture
def measure(ball, protocol, run_in, tmp_path):
    def measured(**changes):
        known = {"PointSpreadFWHM": {"phantom": [7.0] * 3}, "Warnings": ["kernel assumed"]}
        inputs = {"known": KNOWN, "constants": SALINE, "own_protocol": OWN, "protocol": protocol}
        interface = MeasurePhantom(**{**ball, **inputs, "properties": known, **changes})
        return run_in(interface, tmp_path / "measure").phantom_file

    return measured


@pytest.fixture
def calibrate(head, measured, vials, run_in, tmp_path, protocol):
    def calibrated(phantom_file, **changes):
        inputs = {k: measured[k] for k in ("regions_file", "signals_file")}
        inputs |= {"static_file": measured["image_file"],
                   "static_noise_file": measured["noise_file"], "vials": vials}  # fmt: skip
        inputs |= {k: head[k] for k in ("tissues", "properties")}
        interface = Calibrate(
            **{"reference": "phantom", **inputs, "protocol": protocol, **changes},
            phantom_file=phantom_file,
        )
        return run_in(interface, tmp_path / "run").calibration_file

    return calibrated


def test_the_slope_of_the_head_is_found_from_another_scan(measure, calibrate):
    lines, extra = load_lines(calibrate(measure()))
    assert extra["reference"] == "phantom"
    assert lines["corrected"].slope == pytest.approx(1.0, abs=0.01)
    spread = np.sqrt(lines["corrected"].covariance[0, 0])
    assert spread == pytest.approx(np.hypot(0.01, 0.02 / 1.1), rel=0.2)
    assert extra["phantom"]["LoadingFactor"] == 1.1
    assert extra["phantom"]["Warnings"] == ["calibration phantom: kernel assumed"]


def test_vials_and_fluid_are_compared_with_the_phantom(measure, calibrate):
    found = load_lines(calibrate(measure()))[1]["References"]
    assert set(found) == {"phantom", "vials", "csf"}
    assert found["vials"]["RatioToChosen"] == pytest.approx(1.0, abs=0.03)
    assert load_lines(calibrate(measure(), reference="vials"))[1]["References"]["phantom"][
        "RatioToChosen"
    ] == pytest.approx(1.0, abs=0.03)


def test_without_its_loading_factor_the_phantom_disagrees_with_vials(measure, calibrate):
    known = {**KNOWN, "loading": 1.0, "u_loading": 0.01, "u_concentration": 0.1}
    _, extra = load_lines(calibrate(measure(known=known)))
    assert extra["References"]["vials"]["RatioToChosen"] == pytest.approx(1 / 1.1, abs=0.03)
    assert any("vials" in text and "phantom" in text for text in extra["ReferenceWarnings"])


def test_a_phantom_without_signal_is_an_error_only_where_it_is_needed(
    ball, measure, calibrate, tmp_path, sodium_geometry
):
    drawn = np.random.default_rng(1).normal(0, NOISE, sodium_geometry.matrix)
    empty = save_image(tmp_path / "empty.nii.gz", drawn, sodium_geometry.affine)
    _, extra = load_lines(calibrate(measure(image_file=empty), reference="vials"))
    assert "no phantom stands out" in extra["References"]["phantom"]["Problem"]
    with pytest.raises(ValueError, match="CalibrationPhantom: no phantom stands out"):
        measure(image_file=empty, needed=True)


def test_where_the_receive_map_does_not_reach_the_phantom_does_not_count(
    ball, run_in, measure, tmp_path, sodium_geometry
):
    """Half of the map is empty: there the correction is capped, and the signal wrong."""
    profile = np.ones(sodium_geometry.matrix)
    profile[:12] = 0
    path = save_image(tmp_path / "map.nii.gz", profile, sodium_geometry.affine)
    images = {k: ball[k] for k in ("image_file", "noise_file")}
    done = run_in(CorrectReceive(**images, map_file=path, properties={}), tmp_path / "receive")
    files = {"image_file": done.out_file, "noise_file": done.noise_file,
             "field_file": done.field_file}  # fmt: skip
    half, whole = (told(measure(**given))["described"] for given in (files, {}))
    assert half["Signal"] == pytest.approx(whole["Signal"], rel=0.02)
    assert half["Voxels"] < 0.6 * whole["Voxels"]


def test_the_receive_field_is_uncertain_between_phantom_and_region(
    head, measured, measure, calibrate, protocol, run_in, tmp_path, sodium_geometry
):
    shape, affine = sodium_geometry.matrix, sodium_geometry.affine
    places = grid_positions(shape, affine)
    corner, size = places.min(axis=0), np.ptp(places, axis=0)
    orders = np.array([[0, 0, 0], [1, 0, 0]])
    model = SmoothField(corner, size, orders, np.zeros(2), np.diag([4.0, 0.01]))
    np.savez(tmp_path / "field.npz", **vars(model))
    phantom_file = measure(model_file=str(tmp_path / "field.npz"))
    known = {
        **{k: measured[k] for k in ("image_file", "noise_file", "regions_file", "signals_file")},
        "calibration_file": calibrate(phantom_file), "tissues": head["tissues"],
        "protocol": protocol, "properties": measured["properties"],
        "model_file": str(tmp_path / "field.npz"),
    }  # fmt: skip

    def tabulated(draws):
        table = TabulateRegions(**known, monte_carlo=draws)
        rows = pd.read_csv(run_in(table, tmp_path / str(draws)).table_file, sep="\t")
        return rows[(rows.pvc == "gtm") & (rows.desc == "corrected")].set_index("name")

    rows = tabulated(0)
    np.testing.assert_allclose(tabulated(2000).uncertainty, rows.uncertainty, rtol=0.1)
    with np.load(measured["regions_file"]) as stored:
        weights = stored["fractions"][:1].reshape(1, -1)
    apart = model.region_means(places, weights)[0] - told(phantom_file)["basis"]
    assert apart[0] == pytest.approx(0, abs=1e-6)
    expected = abs(0.1 * apart[1]) * rows.loc["GM", "mean"]
    assert rows.loc["GM", "u_receive"] == pytest.approx(expected, rel=1e-3)


def test_the_flip_angle_of_the_coil_is_undone_by_the_t1_of_the_phantom(
    ball, measure, tmp_path, sodium_geometry
):
    """At a flip angle that is 20 % too low everywhere the signal is that of such a pulse."""
    low = {**OWN, "flip_angle": 0.8 * OWN["flip_angle"]}
    image, affine = load_image(ball["image_file"])
    path = save_image(tmp_path / "low.nii.gz", image * fluid(SALINE, low) / fluid(SALINE, OWN),
                      affine)  # fmt: skip
    field = SmoothField(
        np.zeros(3), np.ones(3), np.zeros((1, 3), int), np.log([0.8]), np.zeros((1, 1))
    )
    np.savez(tmp_path / "flip.npz", **vars(field))
    right = told(measure())["described"]["Signal"]
    assert told(measure(image_file=path))["described"]["Signal"] < 0.97 * right
    undone = measure(image_file=path, transmit_model_file=str(tmp_path / "flip.npz"))
    assert told(undone)["described"]["Signal"] == pytest.approx(right, rel=1e-4)
