"""Corrected maps on both grids: the truth of each voxel, where the methods can know it."""

import numpy as np
import pytest

from sodiumprep.interfaces.coil_fields import _save
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.pvc import CorrectPartialVolume
from sodiumprep.interfaces.pvc_maps import MapCorrected
from sodiumprep.interfaces.regions import SampleRegions
from sodiumprep.sodium.pvc import MAPS
from sodiumprep.sodium.pvc.fine import BY_FRACTIONS
from sodiumprep.sodium.smooth_field import SmoothField

pytestmark = pytest.mark.slow  # all methods on one head, made once

METHODS = ["rbv", "iy", "mtc", "mg", "regression", "vc"]
TISSUES = ("GM", "WM", "CSF")


@pytest.fixture(scope="module")
def made(head, measured, calibration_files, run_in, tmp_path_factory):
    """Write the maps of all methods but the slow one, with what they are made of."""
    folder = tmp_path_factory.mktemp("maps")
    inputs = {k: head[k] for k in ("gm_file", "wm_file", "csf_file", "brain_mask", "head_mask",
                                   "xfm_file", "response_file", "vial_labels")}  # fmt: skip
    regions = run_in(
        SampleRegions(sodium_file=head["grid_file"], vial_names=["1 low", "2 high"],
                      keep_anatomy=True, **inputs),
        folder / "regions",
    )  # fmt: skip
    image = {k: measured[k] for k in ("image_file", "noise_file")}
    correct = CorrectPartialVolume(
        methods=METHODS, regions_file=regions.regions_file, **image,
        response_file=head["response_file"], properties=head["properties"],
    )  # fmt: skip
    corrected = run_in(correct, folder / "correct")
    maps = run_in(
        MapCorrected(
            **image, regions_file=regions.regions_file, signals_file=corrected.signals_file,
            map_files=corrected.map_files, anatomy_file=regions.anatomy_file,
            calibration_file=calibration_files["vials"], reference_file=head["preproc_file"],
            xfm_file=head["xfm_file"], tissues=head["tissues"], properties=head["properties"],
            protocol={"echo_time": 0.3e-3, "repetition_time": 0.12, "flip_angle": np.pi / 2},
        ),
        folder / "maps",
    )  # fmt: skip
    assert {"u_noise", "u_calibration", "u_relaxation"} == set(maps.uncertainty_terms)
    asked = {
        **image, "regions_file": regions.regions_file, "signals_file": corrected.signals_file,
        "map_files": {"rbv": corrected.map_files["rbv"]}, "anatomy_file": regions.anatomy_file,
    }  # fmt: skip
    return {key: load_image(path)[0] for key, path in maps.map_files.items()}, regions, asked


def test_every_method_has_every_map_on_both_grids(made, head):
    maps, _, _ = made
    kinds = ("apparent", "corrected", "uncertainty")
    assert set(maps) == {
        f"{m}:{place}{kind}_file" for m in METHODS for place in ("", "anat_") for kind in kinds
    }
    anatomy = load_image(head["gm_file"])[0].shape
    assert all(
        v.shape == (anatomy if ":anat_" in key else (24, 24, 24)) for key, v in maps.items()
    )


def true_map(head, truth):
    shares = [load_image(head[f"{t.lower()}_file"])[0] for t in TISSUES]
    return sum(truth[t] * share for t, share in zip(TISSUES, shares, strict=True)), sum(shares)


@pytest.fixture
def truth():
    return {"GM": 42.0, "WM": 37.0, "CSF": 145.0}


@pytest.mark.parametrize("method", [*BY_FRACTIONS, "regression"])
def test_the_map_of_the_anatomy_is_as_sharp_as_its_fractions(made, head, truth, method):
    maps, _, _ = made
    found = maps[f"{method}:anat_corrected_file"]
    expected, inside = true_map(head, truth)
    here = np.isfinite(found) & (inside > 0.99)
    error = (found - expected)[here]
    assert np.sqrt(np.mean(error**2)) < 5.0
    assert abs(error.mean()) < 1.5
    steps = [np.abs(np.diff(m, axis=0))[here[1:]].max() for m in (found, expected)]
    assert steps[0] > 0.9 * steps[1]  # interpolating the coarse map would soften them


def test_deconvolution_alone_is_not_as_sharp(made, head, truth):
    maps, _, _ = made
    expected, inside = true_map(head, truth)
    rms = {
        m: np.sqrt(np.nanmean((maps[f"{m}:anat_corrected_file"] - expected)[inside > 0.99] ** 2))
        for m in ("vc", "rbv")
    }
    assert rms["vc"] > 1.5 * rms["rbv"]


def test_the_map_of_one_tissue_holds_its_concentration(made, head, truth):
    maps, _, _ = made
    share = load_image(head["gm_file"])[0]
    found = maps["mg:anat_corrected_file"][share > 0.9]
    assert np.nanmean(found) == pytest.approx(truth["GM"], rel=0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", ["", "anat_"])
def test_the_uncertainty_covers_noise_and_what_all_voxels_share(made, method, place):
    maps, _, _ = made
    spread = maps[f"{method}:{place}uncertainty_file"]
    values = maps[f"{method}:{place}corrected_file"]
    known = np.isfinite(spread)
    assert known.any()
    assert (spread[known] >= 0).all()
    bright = known & (values > 20)
    assert 0.005 < np.median(spread[bright] / values[bright]) < 0.5


def test_nothing_is_stated_outside_the_field_of_view(made, head, run_in):
    maps, _, _ = made
    stated = [np.isfinite(maps[f"{m}:anat_corrected_file"]) for m in METHODS]
    assert all((s == stated[0]).all() for s in stated)
    assert not stated[0].all()


def test_the_fractions_of_the_anatomy_are_kept_on_request_only(head, run_in, tmp_path):
    inputs = {k: head[k] for k in ("gm_file", "wm_file", "csf_file", "brain_mask", "head_mask",
                                   "xfm_file", "response_file")}  # fmt: skip
    sample = SampleRegions(sodium_file=head["grid_file"], **inputs)
    assert run_in(sample, tmp_path / "plain").anatomy_file is None


def test_no_method_is_forgotten():
    assert set(METHODS) | {"rl"} == set(MAPS)


def test_an_image_without_known_noise_leaves_the_uncertainty_open(
    head, measured, run_in, tmp_path
):
    noise, affine = load_image(measured["noise_file"])
    path = save_image(tmp_path / "nan.nii.gz", np.full_like(noise, np.nan), affine)
    files = {"image_file": measured["image_file"], "regions_file": measured["regions_file"]}
    correct = CorrectPartialVolume(
        methods=["rbv"], noise_file=path, response_file=head["response_file"],
        properties=head["properties"], **files,
    )  # fmt: skip
    made = run_in(correct, tmp_path / "run").map_files["rbv"]
    assert np.isnan(load_image(made["noise_file"])[0]).all()
    assert np.isfinite(load_image(made["image_file"])[0]).all()


def test_an_uncertain_receive_field_is_in_the_maps_of_both_grids(
    made, head, calibration_files, run_in, tmp_path
):
    maps, _, asked = made
    waves = SmoothField(
        np.full(3, -60.0), np.full(3, 130.0), np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]),
        np.zeros(3), np.diag([1.0, 0.04, 0.04]),
    )  # fmt: skip
    found = run_in(
        MapCorrected(
            **asked, calibration_file=calibration_files["vials"], tissues=head["tissues"],
            reference_file=head["preproc_file"], xfm_file=head["xfm_file"],
            model_file=_save(tmp_path / "field.npz", waves), properties=head["properties"],
            protocol={"echo_time": 0.3e-3, "repetition_time": 0.12, "flip_angle": np.pi / 2},
        ),
        tmp_path / "maps",
    )  # fmt: skip
    assert "u_receive" in found.uncertainty_terms
    terms, ventricle = [], np.zeros((24, 24, 24), bool)
    ventricle[10:14, 10:14, 10:14] = True
    for place, fluid in (("", ventricle), ("anat_", load_image(head["csf_file"])[0] > 0.9)):
        key = f"rbv:{place}uncertainty_file"
        square = load_image(found.map_files[key])[0] ** 2 - maps[key] ** 2
        share = np.sqrt(np.clip(square, 0, None)) / maps[f"rbv:{place}corrected_file"]
        terms.append(np.median(share[fluid]))
    assert terms[0] == pytest.approx(terms[1], rel=0.25)  # voxels of the two grids differ
    assert terms[0] > 0.01
