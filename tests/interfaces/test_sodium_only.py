"""Sodium without an anatomy: apparent concentrations of what was drawn."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from sodiumprep.interfaces.calibrate import Calibrate, load_lines, save_lines
from sodiumprep.interfaces.concentration import COLUMNS
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.outputs import SODIUM_ONLY_FILES, SaveSodiumOnly
from sodiumprep.interfaces.regions import SampleDrawnRegions
from sodiumprep.interfaces.sodium_only import MapApparent, TabulateDrawn
from sodiumprep.sodium.signal import Relaxation, relaxation_factor


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, head, measured, vials, protocol, run_in, sodium_geometry):
    """Draw a box, and go from the image of the head to its table without the anatomy."""
    folder = tmp_path_factory.mktemp("drawn")
    box = np.zeros(sodium_geometry.matrix, np.uint8)
    box[10:14, 10:14, 10:14] = 3
    path = save_image(folder / "box.nii.gz", box, sodium_geometry.affine)
    shared = {k: measured[k] for k in ("image_file", "noise_file")}
    regions = SampleDrawnRegions(
        sodium_file=measured["image_file"], response_file=head["response_file"],
        region_files={"box": (path, 3)}, vial_labels=head["vial_labels"],
        vial_names=["1 low", "2 high"],
    )  # fmt: skip
    regions_file = run_in(regions, folder / "regions").regions_file
    calibrate = Calibrate(
        reference="vials", vials=vials, tissues=head["tissues"], protocol=protocol,
        properties=head["properties"], regions_file=regions_file,
        static_file=shared["image_file"], static_noise_file=shared["noise_file"],
    )  # fmt: skip
    shared["calibration_file"] = run_in(calibrate, folder / "line").calibration_file
    table = {"properties": head["properties"], "protocol": protocol, "model_file": None,
             "response_file": head["response_file"], **shared}  # fmt: skip
    return {
        "box": box == 3,
        "regions_file": regions_file,
        "inputs": table,
        **run_in(TabulateDrawn(regions_file=regions_file, **table), folder / "table").get(),
        **run_in(MapApparent(**shared), folder / "maps").get(),
    }


def test_the_table_tells_the_mean_of_the_map_over_what_was_drawn(drawn):
    row = pd.read_csv(drawn["table_file"], sep="\t").iloc[0]
    apparent, _ = load_image(drawn["apparent_file"])
    assert (row["name"], row["pvc"], row["desc"]) == ("box", "none", "apparent")
    assert row["mean"] == pytest.approx(apparent[drawn["box"]].mean(), rel=1e-3)
    assert row["n_voxels"] == pytest.approx(64)
    assert row["volume_ml"] == pytest.approx(64 * 0.064)


def test_what_cannot_be_known_is_not_available(drawn):
    row = pd.read_csv(drawn["table_file"], sep="\t").iloc[0]
    unknown = ["u_relaxation", "u_b1", "u_pvc", "u_segmentation", "u_registration", "u_receive"]
    assert row[unknown].isna().all()
    both = np.hypot(row["u_noise"], row["u_calibration"])
    assert row["uncertainty"] == pytest.approx(both, rel=1e-4)


def test_a_poor_line_is_flagged(drawn, run_in, tmp_path):
    assert pd.read_csv(drawn["table_file"], sep="\t")["flag"].isna().all()
    lines, extra = load_lines(drawn["inputs"]["calibration_file"])
    path = save_lines(tmp_path / "forced.json", lines, {**extra, "forced": True})
    inputs = {**drawn["inputs"], "calibration_file": path}
    tabulate = TabulateDrawn(regions_file=drawn["regions_file"], **inputs)
    table = pd.read_csv(run_in(tabulate, tmp_path / "table").table_file, sep="\t")
    assert table["flag"].tolist() == ["calibration_forced"]


def test_voxels_that_share_no_noise_leave_less_in_a_mean(drawn, stripes_file, run_in, tmp_path):
    inputs = {**drawn["inputs"], "response_file": stripes_file}
    tabulate = TabulateDrawn(regions_file=drawn["regions_file"], **inputs)
    striped = pd.read_csv(run_in(tabulate, tmp_path / "table").table_file, sep="\t").iloc[0]
    row = pd.read_csv(drawn["table_file"], sep="\t").iloc[0]
    assert striped["u_noise"] == pytest.approx(row["u_noise"] / np.sqrt(2), rel=0.1)
    assert striped["mean"] == row["mean"]


def test_the_map_is_apparent(drawn, measured, protocol):
    """Fluid at 145 mmol/L, weighted by relaxation as the vials are not, is found as such."""
    gel = relaxation_factor(Relaxation(0.04, 0.004, 0.03, 0.6), *protocol.values())
    apparent, _ = load_image(drawn["apparent_file"])
    signal, _ = load_image(measured["image_file"])
    np.testing.assert_allclose(apparent[drawn["box"]], signal[drawn["box"]] / gel, rtol=0.05)


def test_the_map_of_uncertainty_holds_noise_and_calibration(drawn):
    apparent, _ = load_image(drawn["apparent_file"])
    uncertainty, _ = load_image(drawn["uncertainty_file"])
    assert uncertainty.min() > 0
    assert uncertainty[apparent > 100].mean() > uncertainty[np.abs(apparent) < 5].mean()


def test_without_regions_the_table_has_no_row_and_is_not_saved(
    tmp_path, drawn, head, measured, run_in
):
    regions = SampleDrawnRegions(
        sodium_file=measured["image_file"], response_file=head["response_file"],
        vial_labels=head["vial_labels"], vial_names=["1 low", "2 high"],
    )  # fmt: skip
    file = run_in(regions, tmp_path / "regions").regions_file
    tabulate = TabulateDrawn(regions_file=file, **drawn["inputs"])
    table = run_in(tabulate, tmp_path / "table").table_file
    assert pd.read_csv(table, sep="\t").columns.tolist() == COLUMNS
    saved = run_in(save(tmp_path / "out", {**drawn, "table_file": table}, head), tmp_path / "save")
    assert not any(path.endswith(".tsv") for path in saved.out_files)


def save(folder, drawn, head):
    outputs = {port: str(folder / f"{port}.nii.gz") for port in SODIUM_ONLY_FILES}
    outputs |= {"table_file": str(folder / "a_TSC.tsv"), "qc": str(folder / "qc.json")}
    field = dict.fromkeys(
        ("receive_file", "receive_uncertainty_file"), drawn["inputs"]["image_file"]
    )
    files = {k: drawn["inputs"][k] for k in ("image_file", "noise_file", "calibration_file")}
    files |= {
        k: drawn[k] for k in ("apparent_file", "uncertainty_file", "table_file", "equation_file")
    }
    return SaveSodiumOnly(outputs=outputs, provenance={"InputWarnings": ["alone"]},
                          properties=head["properties"], **field, **files)  # fmt: skip


def test_everything_is_saved_with_what_it_rests_on(tmp_path, drawn, head, run_in):
    saved = run_in(save(tmp_path / "out", drawn, head), tmp_path / "save")
    assert len(saved.out_files) == len(SODIUM_ONLY_FILES)  # no flip angle, but the QC file
    quality = json.loads((tmp_path / "out/qc.json").read_text())
    assert quality["Warnings"] == ["alone"]
    assert list(quality["Calibration"]["Lines"]) == ["apparent"]
    sidecar = json.loads((tmp_path / "out/a_TSC.json").read_text())
    assert sidecar["PartialVolumeCorrection"] == "none"
    numbers = sidecar["Equation"]
    row = pd.read_csv(drawn["table_file"], sep="\t").iloc[0]
    value = numbers["Signal"]["none"]["box"] - numbers["Intercept"]["apparent"]
    assert row["mean"] == pytest.approx(value / numbers["Slope"]["apparent"], rel=1e-5)


def test_a_region_outside_the_image_is_refused(tmp_path, head, measured, run_in, sodium_geometry):
    affine = sodium_geometry.affine.copy()
    affine[:3, 3] += 500
    path = save_image(tmp_path / "far.nii.gz", np.ones((4, 4, 4), np.uint8), affine)
    regions = SampleDrawnRegions(
        sodium_file=measured["image_file"], response_file=head["response_file"],
        region_files={"far": (path, 1)}, vial_labels=head["vial_labels"],
        vial_names=["1 low", "2 high"],
    )  # fmt: skip
    with pytest.raises(ValueError, match="far.nii.gz: region 'far' has no voxel inside"):
        run_in(regions, tmp_path / "a")


def test_draws_tell_the_uncertainty_of_what_was_drawn_on_the_image(drawn, run_in, tmp_path, head):
    tabulate = TabulateDrawn(regions_file=drawn["regions_file"], monte_carlo=4000,
                             random_seed=1, **drawn["inputs"])  # fmt: skip
    made = run_in(tabulate, tmp_path / "table")
    row = pd.read_csv(made.table_file, sep="\t").iloc[0]
    plain = pd.read_csv(drawn["table_file"], sep="\t").iloc[0]
    assert row["uncertainty"] == pytest.approx(plain["uncertainty"], rel=0.1)
    assert row["uncertainty"] != plain["uncertainty"]
    saving = save(tmp_path / "out", {**drawn, "table_file": made.table_file}, head)
    saving.inputs.told = {**made.told, "Warnings": ["wide"]}
    run_in(saving, tmp_path / "save")
    sidecar, quality = (
        json.loads((tmp_path / "out" / name).read_text()) for name in ("a_TSC.json", "qc.json")
    )
    assert sidecar["MonteCarlo"]["Draws"] == quality["MonteCarlo"]["Draws"] == 4000
    assert sidecar["Correlation"]["Names"] == ["box"]
    assert quality["Warnings"][-1] == "wide"
