"""Maps and the table: names, truth, and every row."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sodiumprep.interfaces.calibrate import load_lines, save_lines
from sodiumprep.interfaces.coil_fields import _save
from sodiumprep.interfaces.concentration import (
    COLUMNS,
    MapConcentration,
    MapResidual,
    ResampleToAnatomy,
    TabulateRegions,
)
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.pvc import load_signals, save_signals
from sodiumprep.sodium.acquisition import LPS_TO_RAS
from sodiumprep.sodium.smooth_field import SmoothField

CONTRACT = [
    "index",
    "name",
    "pvc",
    "desc",
    "n_voxels",
    "volume_ml",
    "mean",
    "sd",
    "median",
    "q25",
    "q75",
    "uncertainty",
    "u_noise",
    "u_calibration",
    "u_relaxation",
    "u_receive",
    "u_b1",
    "u_pvc",
    "u_segmentation",
    "u_registration",
    "ci_low",
    "ci_high",
    "snr",
    "coverage",
    "flag",
]


@pytest.fixture
def inputs(head, measured, calibration_files, protocol):
    named = {k: measured[k] for k in ("image_file", "noise_file", "regions_file", "signals_file")}
    return {**named, "calibration_file": calibration_files["vials"], "tissues": head["tissues"],
            "protocol": protocol}  # fmt: skip


@pytest.fixture
def tabulate(inputs, head, run_in, tmp_path):
    def tabulated(**changes):
        all_inputs = {**inputs, "properties": head["properties"], **changes}
        outputs = run_in(TabulateRegions(**all_inputs), tmp_path / "table")
        return pd.read_csv(outputs.table_file, sep="\t", na_values="n/a")

    return tabulated


def rows(table, pvc, desc):
    return table[(table.pvc == pvc) & (table.desc == desc)].set_index("name")


def test_the_columns_are_those_of_the_contract(tabulate):
    assert list(tabulate().columns) == CONTRACT
    assert list(COLUMNS) == CONTRACT


def test_there_is_one_row_for_each_region_method_and_kind(tabulate):
    table = tabulate()
    assert len(table) == 3 * 2 * 2
    assert not table.duplicated(["name", "pvc", "desc"]).any()
    assert rows(table, "gtm", "corrected")["index"].to_dict() == {"GM": 1, "WM": 2, "CSF": 3}


def test_a_method_that_is_asked_for_has_rows_of_both_kinds(tabulate, all_signals_file, truth):
    table = tabulate(signals_file=all_signals_file, methods=["gtm", "labbe"])
    assert list(table.pvc.unique()) == ["none", "gtm", "labbe"]
    found = rows(table, "labbe", "corrected")
    for name in ("GM", "WM", "CSF"):
        assert found["mean"][name] == pytest.approx(truth[name], rel=0.05)
    assert rows(table, "labbe", "apparent")["mean"].notna().all()


EFFECTS = ["change_position_1mm", "change_psf_10percent", "change_segmentation_0.5mm"]


@pytest.mark.parametrize("reference", ["vials", "csf"])
def test_what_errors_would_change_stands_in_columns_on_request(
    tabulate, all_signals_file, calibration_files, reference
):
    table = tabulate(
        signals_file=all_signals_file,
        methods=["gtm", "labbe"],
        calibration_file=calibration_files[reference],
    )
    assert list(table.columns) == [*CONTRACT, *EFFECTS]
    for pvc in ("gtm", "labbe"):
        found = rows(table, pvc, "corrected")[EFFECTS].drop("CSF")
        assert found.abs().to_numpy().min() > 0.01
        assert found["change_segmentation_0.5mm"]["GM"] > 0.5  # half a millimetre of 8
    columns = ["mean", "change_position_1mm"]  # which are converted alike
    ratio = rows(table, "gtm", "corrected")[columns] / rows(table, "gtm", "apparent")[columns]
    assert ratio["change_position_1mm"]["GM"] == pytest.approx(ratio["mean"]["GM"], rel=0.05)
    uncorrected = rows(table, "none", "corrected")
    wider = uncorrected["change_psf_10percent"]
    assert (wider == 0).all() == (reference == "vials")  # it uses no kernel, its reference may


def test_the_fluid_that_calibrates_does_not_change_with_any_error(
    tabulate, all_signals_file, calibration_files
):
    table = tabulate(signals_file=all_signals_file, calibration_file=calibration_files["csf"])
    np.testing.assert_allclose(rows(table, "gtm", "corrected")[EFFECTS].loc["CSF"], 0, atol=1e-9)


def test_a_region_that_noise_cannot_tell_from_another_is_flagged(tabulate, tmp_path, inputs):
    signals = load_signals(inputs["signals_file"])
    entangled = np.zeros(len(signals["gtm"].values), bool)
    entangled[1] = True
    signals["gtm"] = replace(signals["gtm"], entangled=entangled)
    table = tabulate(signals_file=save_signals(tmp_path / "entangled.npz", signals))
    assert "entangled" in rows(table, "gtm", "corrected")["flag"]["WM"]
    assert "entangled" not in str(rows(table, "gtm", "corrected")["flag"]["GM"])
    assert "entangled" not in str(rows(table, "none", "corrected")["flag"]["WM"])


def test_corrected_concentrations_are_the_true_ones_within_their_interval(tabulate, truth):
    found = rows(tabulate(), "gtm", "corrected")
    for name in ("GM", "WM", "CSF"):
        assert found["mean"][name] == pytest.approx(truth[name], rel=0.05)
        assert found["ci_low"][name] < truth[name] < found["ci_high"][name]


def test_uncorrected_grey_matter_is_further_off(tabulate, truth):
    table = tabulate()
    errors = [abs(rows(table, pvc, "corrected")["mean"]["GM"] - truth["GM"])
              for pvc in ("none", "gtm")]  # fmt: skip
    assert errors[0] > 3 * errors[1]


@pytest.mark.parametrize("pvc", ["none", "gtm"])
def test_terms_combine_to_the_uncertainty_in_every_row(tabulate, pvc):
    found = rows(tabulate(), pvc, "corrected")
    terms = found.filter(regex="^u_").fillna(0)
    np.testing.assert_allclose(np.sqrt((terms**2).sum(axis=1)), found["uncertainty"], rtol=1e-4)
    assert found["u_b1"].isna().all()
    assert (found[["u_noise", "u_calibration", "u_relaxation", "u_registration"]] > 0).all().all()
    assert found["u_pvc"].isna().all() == (pvc == "none")


def test_what_is_not_determined_is_written_as_not_available(tabulate, tmp_path):
    tabulate()
    text = (tmp_path / "table" / "table.tsv").read_text()
    assert "n/a" in text
    assert "nan" not in text.lower()


def test_statistics_of_voxels_stand_beside_uncorrected_values_only(tabulate):
    table = tabulate()
    spread = ["sd", "median", "q25", "q75"]
    assert rows(table, "none", "corrected")[spread].notna().all().all()
    assert rows(table, "gtm", "corrected")[spread].isna().all().all()


def test_sizes_are_given_in_voxels_and_millilitres(tabulate):
    found = rows(tabulate(), "gtm", "corrected")
    np.testing.assert_allclose(found["n_voxels"] * 0.064, found["volume_ml"], rtol=0.02)
    assert (found["snr"] > 50).all()


def test_the_fluid_that_calibrates_has_its_assumed_concentration(tabulate, calibration_files):
    table = tabulate(calibration_file=calibration_files["csf"])
    found = rows(table, "gtm", "corrected").loc["CSF"]
    assert found["mean"] == pytest.approx(145.0, rel=1e-4)
    assert found["u_relaxation"] == 0
    assert found["u_pvc"] == pytest.approx(0, abs=1e-4)
    assert found["uncertainty"] == pytest.approx(5.0, rel=0.05)


def test_an_uncorrected_receive_profile_is_flagged_in_every_row(tabulate, head):
    flags = tabulate(properties={**head["properties"], "ReceiveUncorrected": True})["flag"]
    assert flags.str.contains("receive_uncorrected").all()


def test_a_poor_line_is_flagged_in_every_row(tabulate, calibration_files, tmp_path):
    lines, extra = load_lines(calibration_files["vials"])
    forced = save_lines(tmp_path / "forced.json", lines, {**extra, "forced": True})
    assert tabulate(calibration_file=forced)["flag"].str.contains("calibration_forced").all()
    assert tabulate()["flag"].isna().all()


def test_a_vial_that_is_left_out_does_not_count_for_the_receive_field(
    tabulate, calibration_files, tmp_path
):
    waves = SmoothField(
        np.full(3, -60.0), np.full(3, 130.0), np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]),
        np.zeros(3), np.diag([1.0, 0.01, 0.01]),
    )  # fmt: skip
    lines, extra = load_lines(calibration_files["vials"])
    extra["vials"][1]["used"] = False
    path = save_lines(tmp_path / "one.json", lines, extra)
    model = _save(tmp_path / "field.npz", waves)
    both, one = (tabulate(model_file=model, calibration_file=file)["u_receive"]
                 for file in (calibration_files["vials"], path))  # fmt: skip
    assert (both != one).all()


def test_a_fitted_receive_field_gives_its_term(tabulate, tmp_path):
    waves = SmoothField(
        np.full(3, -60.0), np.full(3, 130.0), np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]),
        np.zeros(3), np.diag([1.0, 0.01, 0.01]),
    )  # fmt: skip
    found = tabulate(model_file=_save(tmp_path / "field.npz", waves))
    assert (rows(found, "gtm", "corrected")["u_receive"] > 0).all()
    assert (rows(found, "gtm", "corrected")["u_receive"] < 30).all()


def test_one_field_of_a_transceive_coil_gives_terms_that_add_up(tabulate, head, tmp_path):
    waves = SmoothField(
        np.full(3, -60.0), np.full(3, 130.0), np.array([[0, 0, 0], [1, 0, 0]]), np.zeros(2),
        np.diag([1.0, 0.01]),
    )  # fmt: skip
    names = list(head["tissues"])
    basis = np.linspace(-1, 1, 2 * len(names)).reshape(-1, 2)
    own = {f"field_{k}": v for k, v in vars(waves).items()}
    effect = {
        "factors": np.ones(len(names)),
        "slopes": np.full(len(names), 0.4),
        "basis": basis,
        "changes": np.ones(len(names)),
    }
    np.savez(tmp_path / "flip.npz", names=names, **effect, **own)
    given = {"model_file": _save(tmp_path / "field.npz", waves),
             "transmit_file": str(tmp_path / "flip.npz")}  # fmt: skip
    apart, one = (
        rows(tabulate(**given, properties={**head["properties"], "ReceiveCorrection": way}),
             "gtm", "corrected")
        for way in ("RB1COR", "reciprocity")
    )  # fmt: skip
    np.testing.assert_allclose(one["u_b1"], apart["u_b1"])
    both = np.hypot(one["u_receive"], one["u_b1"])
    np.testing.assert_allclose(both, apart["u_receive"] + apart["u_b1"], rtol=1e-4)
    assert (one["uncertainty"] > apart["uncertainty"]).all()


def test_maps_hold_the_truth_in_the_middle_of_the_ventricle(
    inputs, run_in, tmp_path, truth, sodium_geometry
):
    outputs = run_in(MapConcentration(**inputs, properties={}), tmp_path / "maps")
    corrected, affine = load_image(outputs.corrected_file)
    np.testing.assert_allclose(affine, sodium_geometry.affine, atol=1e-4)
    assert corrected[12, 12, 12] == pytest.approx(truth["CSF"], rel=0.06)
    assert load_image(outputs.apparent_file)[0][12, 12, 12] < corrected[12, 12, 12] * 1.05
    assert np.all(load_image(outputs.uncertainty_file)[0] > 0)


WAVES = SmoothField(
    np.full(3, -60.0), np.full(3, 130.0), np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]),
    np.zeros(3), np.diag([1.0, 0.01, 0.01]),
)  # fmt: skip


@pytest.mark.parametrize("reference", ["vials", "csf"])
def test_the_uncertainty_of_a_map_tells_its_terms(
    inputs, head, calibration_files, run_in, tmp_path, reference
):
    inputs["calibration_file"] = calibration_files[reference]
    model = _save(tmp_path / "field.npz", WAVES)
    maps = [
        run_in(MapConcentration(**inputs, **more), tmp_path / str(k))
        for k, more in enumerate(
            [{"properties": {}}, {"model_file": model, "properties": head["properties"]}]
        )
    ]
    assert maps[1].uncertainty_terms.keys() - maps[0].uncertainty_terms.keys() == (
        {"u_receive"} | (set() if reference == "csf" else {"u_registration"})
    )
    assert ("u_pvc" in maps[0].uncertainty_terms) == (reference == "csf")
    less, more = (load_image(found.uncertainty_file)[0] for found in maps)
    assert np.all(more >= less)
    assert np.median(more[8:16, 8:16, 8:16] - less[8:16, 8:16, 8:16]) > 0.01


def test_a_map_is_resampled_to_where_the_transform_says(
    head, run_in, tmp_path, sodium_geometry, true_pose
):
    index = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij"), axis=-1)
    places = index @ sodium_geometry.affine[:3, :3].T + sodium_geometry.affine[:3, 3]
    place = np.array([14.0, -7.0, 3.0, 1.0])  # anatomy, LPS
    moved = LPS_TO_RAS @ (true_pose @ place)[:3]
    bump = np.exp(-np.sum((places - moved) ** 2, axis=-1) / (2 * 8.0**2))
    path = save_image(tmp_path / "map.nii.gz", bump, sodium_geometry.affine)
    resampled = ResampleToAnatomy(
        in_file=path, reference_file=head["preproc_file"], xfm_file=head["xfm_file"]
    )
    values, affine = load_image(run_in(resampled, tmp_path / "anat").out_file)
    peak = (affine @ [*np.unravel_index(np.nanargmax(values), values.shape), 1])[:3]
    np.testing.assert_allclose(peak, LPS_TO_RAS @ place[:3], atol=1.5)


def test_outside_the_sodium_field_of_view_a_map_is_undetermined(head, run_in, tmp_path):
    small = np.eye(4) * 4
    small[:3, 3], small[3, 3] = [-8, 8, 20], 1
    path = save_image(tmp_path / "map.nii.gz", np.ones((4, 4, 4)), small)
    resampled = ResampleToAnatomy(
        in_file=path, reference_file=head["preproc_file"], xfm_file=head["xfm_file"]
    )
    values, _ = load_image(run_in(resampled, tmp_path / "anat").out_file)
    assert 0 < np.isfinite(values).sum() < 0.02 * values.size
    assert not (values == 0).any()


def test_what_no_region_explains_shows_in_the_residual(
    inputs, calibration_files, run_in, tmp_path
):
    image, affine = load_image(inputs["image_file"])
    spot = np.zeros_like(image)
    spot[10:13, 10:13, 10:13] = 20.0
    path = save_image(tmp_path / "spot.nii.gz", image + spot, affine)
    files = {name: inputs[name] for name in ("regions_file", "signals_file", "calibration_file")}
    plain, seen = (
        load_image(run_in(MapResidual(image_file=p, **files), tmp_path / n).residual_file)[0]
        for n, p in (("plain", inputs["image_file"]), ("seen", path))
    )
    slope = 20.0 / (seen - plain)[11, 11, 11]
    assert np.abs(plain).max() < 6 * 0.3 / slope  # noise alone
    np.testing.assert_allclose(seen - plain, spot / slope, atol=1e-3)


@pytest.fixture
def drawn(inputs, head, run_in, tmp_path):
    """Tabulate, and return the table, its bytes and what is told beside it."""

    def tabulated(**changes):
        made = TabulateRegions(**{**inputs, "properties": head["properties"], **changes})
        outputs = run_in(made, tmp_path / "drawn")
        path = Path(outputs.table_file)
        return pd.read_csv(path, sep="\t", na_values="n/a"), path.read_bytes(), outputs.told

    return tabulated


@pytest.mark.parametrize(("reference", "more"), [("vials", 0.5), ("csf", 0.1)])
def test_draws_tell_the_uncertainty_and_leave_the_terms(
    drawn, all_signals_file, calibration_files, reference, more
):
    """Two vials alone cannot tell a floor: some draws choose one, which propagation does not."""
    known = {"signals_file": all_signals_file, "methods": ["gtm", "labbe"],
             "calibration_file": calibration_files[reference]}  # fmt: skip
    plain, _, told = drawn(**known)
    assert "MonteCarlo" not in told
    found, _, told = drawn(monte_carlo=4000, **known)
    changed = ["uncertainty", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(plain.drop(columns=changed), found.drop(columns=changed))
    ratio = found["uncertainty"] / plain["uncertainty"]
    assert ratio.between(0.9, 1 + more).all()
    assert (ratio != 1).all()
    assert found["mean"].between(found["ci_low"], found["ci_high"]).all()
    assert told["MonteCarlo"]["Draws"] == 4000
    largest = told["MonteCarlo"]["LargestDifference"]
    assert largest == pytest.approx((ratio - 1)[(ratio - 1).abs().idxmax()], abs=2e-3)
    assert bool(told["Warnings"]) == (abs(largest) > 0.2 + 2 / np.sqrt(2 * 3999))


def test_the_same_seed_writes_the_same_table_and_another_one_another(drawn):
    one, other, third = (drawn(monte_carlo=100, random_seed=s)[1] for s in (4, 4, 5))
    assert one == other
    assert one != third


@pytest.mark.parametrize("reference", ["vials", "csf"])
def test_rows_that_rest_on_one_line_are_correlated_with_and_without_draws(
    drawn, calibration_files, reference
):
    known = {"calibration_file": calibration_files[reference]}
    stated, seen = (drawn(monte_carlo=n, **known)[2]["Correlation"] for n in (0, 4000))
    assert stated["Names"] == ["GM", "WM", "CSF"]
    assert (stated["PartialVolumeCorrection"], stated["Kind"]) == ("gtm", "corrected")
    np.testing.assert_allclose(stated["Matrix"], seen["Matrix"], atol=0.07)
    np.testing.assert_allclose(np.diag(stated["Matrix"]), 1)
    assert np.abs(np.array(stated["Matrix"])[np.triu_indices(3, 1)]).max() > 0.05


def test_where_propagation_does_not_hold_is_said(drawn, head, protocol):
    """T2* of a fluid that may well be as short as the echo time."""
    tissues = {name: dict(known) for name, known in head["tissues"].items()}
    tissues["CSF"]["u_t2_long"] = 0.9 * tissues["CSF"]["t2_long"]
    late = {**protocol, "echo_time": 20e-3}
    _, _, told = drawn(monte_carlo=500, tissues=tissues, protocol=late)
    (said,) = told["Warnings"]
    assert "analytic propagation does not hold for the uncertainty of" in said
    assert "CSF (gtm, corrected:" in said
    assert "GM (gtm, apparent" not in said


def test_fields_of_the_coils_are_drawn(drawn, tmp_path, calibration_files):
    waves = SmoothField(
        np.full(3, -60.0), np.full(3, 130.0), np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0]]),
        np.zeros(3), np.diag([1.0, 0.04, 0.04]),
    )  # fmt: skip
    path = _save(tmp_path / "field.npz", waves)
    known = {"calibration_file": calibration_files["csf"]}
    plain, found, without = (
        rows(drawn(**known, **changes)[0], "gtm", "corrected").drop("CSF")
        for changes in ({"model_file": path}, {"model_file": path, "monte_carlo": 2000},
                        {"monte_carlo": 2000})
    )  # fmt: skip
    assert found["uncertainty"]["GM"] > 1.2 * without["uncertainty"]["GM"]
    np.testing.assert_allclose(found["uncertainty"], plain["uncertainty"], rtol=0.1)
    assert without["u_receive"].isna().all()
