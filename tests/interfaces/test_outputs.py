"""Results under their final names, each with a sidecar of what it rests on."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from sodiumprep.interfaces.anatomy_outputs import ANATOMY_FILES, SaveAnatomy, SaveTransforms
from sodiumprep.interfaces.calibrate import load_lines, save_lines
from sodiumprep.interfaces.columns import TABLE_COLUMNS
from sodiumprep.interfaces.concentration import COLUMNS
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.map_outputs import (
    NONLINEAR_FILES,
    SPACE_FILES,
    SaveNonlinear,
    SaveSpace,
)
from sodiumprep.interfaces.outputs import NOT_SAVED, SODIUM_FILES, SaveSodium
from sodiumprep.interfaces.sidecars import save_as, write_json
from sodiumprep.interfaces.table_outputs import scan_time

KNOWN = {"Sources": ["bids:raw:sub-01/anat/x.nii.gz"], "SoftwareVersion": "9.9", "RandomSeed": 23}
TOLD = {
    "Correlation": {"Names": ["GM"], "Matrix": [[1.0]]},
    "MonteCarlo": {"Draws": 200, "DrawsRefused": 0, "Seed": 23, "SamplingError": 0.05,
                   "LargestDifference": 0.1, "Differences": {"gtm": {}}},
    "Warnings": ["propagation does not hold"],
}  # fmt: skip
SAVED = [port for port in SODIUM_FILES if port not in NOT_SAVED]
TERMS = {"u_noise": "the voxel", "u_calibration": "the calibration line"}
BIAS = {"Removed": True, "EffectiveChannels": 2.7}


def extension(port):
    return {"table_file": ".tsv", "xfm_file": ".txt"}.get(port, ".nii.gz")


@pytest.fixture
def save_run(head, measured, calibration_files, tmp_path, run_in):
    """Return a function that saves one run whose GM is implausible."""
    values = {"mean": [300.0, 37.0, 145.0], "snr": [20.0, 18, 60], "name": ["GM", "WM", "CSF"]}
    table = pd.DataFrame({**dict.fromkeys(COLUMNS, np.nan), **values})
    table["pvc"], table["desc"] = "gtm", "corrected"
    table.to_csv(tmp_path / "table.tsv", sep="\t", index=False, na_rep="n/a")
    (tmp_path / "equation.json").write_text('{"Slope": {"apparent": 2.5}}')
    sources = dict.fromkeys(SAVED, measured["image_file"])
    sources |= {"table_file": str(tmp_path / "table.tsv"), "xfm_file": head["xfm_file"]}
    sources["equation_file"] = str(tmp_path / "equation.json")
    folder = tmp_path / "out" / "anat"
    targets = {port: str(folder / f"{port}{extension(port)}") for port in SAVED}

    def saved(calibration_file=calibration_files["vials"]):
        save = SaveSodium(
            outputs={**targets, "qc": str(folder / "qc.json")}, tissues=head["tissues"],
            provenance={**KNOWN, "InputWarnings": ["no T1w"]}, **sources,
            calibration_file=calibration_file,
            properties={**head["properties"], "Warnings": ["wide steps"], "NoiseBias": BIAS},
            uncertainty_terms=TERMS,
            told=TOLD,
        )  # fmt: skip
        return folder, run_in(save, tmp_path / "run")

    return saved


@pytest.fixture
def sodium(save_run):
    """Return the folder of the run and the interface's outputs."""
    return save_run()


def test_a_receive_field_of_unknown_uncertainty_has_no_map_of_it(
    sodium, head, measured, calibration_files, tmp_path, run_in
):
    folder, port = tmp_path / "other", "receive_uncertainty_file"
    sources = dict.fromkeys(SAVED, measured["image_file"]) | {port: None}
    sources |= {"table_file": str(tmp_path / "table.tsv"), "xfm_file": head["xfm_file"]}
    sources["equation_file"] = str(tmp_path / "equation.json")
    targets = {name: str(folder / f"{name}{extension(name)}") for name in SAVED}
    save = SaveSodium(
        outputs={**targets, "qc": str(folder / "qc.json")}, tissues=head["tissues"],
        provenance=KNOWN, calibration_file=calibration_files["vials"],
        properties=head["properties"], uncertainty_terms=TERMS, **sources,
    )  # fmt: skip
    assert targets[port] not in run_in(save, tmp_path / "again").out_files
    assert not (folder / f"{port}.json").exists()


def read(path):
    return json.loads(path.read_text())


def test_every_output_is_written_with_a_sidecar(sodium):
    folder, outputs = sodium
    assert len(outputs.out_files) == len(SAVED) + 1
    for port in SAVED:
        assert (folder / f"{port}{extension(port)}").stat().st_size > 0
        assert (folder / f"{port}.json").is_file()
    assert not list(folder.rglob(".*partial*"))


@pytest.mark.parametrize("port", [p for p in SAVED if p != "table_file"])
def test_a_sidecar_holds_units_sources_and_the_numbers_used(sodium, head, port):
    sidecar = read(sodium[0] / f"{port}.json")
    assert sidecar["Units"] == SODIUM_FILES[port][0]
    assert KNOWN.items() <= sidecar.items()
    assert sidecar["Calibration"]["Lines"]["corrected"]["slope"] == pytest.approx(1.0, abs=0.03)
    assert sidecar["RelaxationConstants"]["GM"] == head["tissues"]["GM"]
    assert {"t1", "u_t1", "u_short_fraction", "source"} <= set(head["tissues"]["GM"])
    assert sidecar["NoiseBias"] == BIAS
    assert sidecar["PointSpreadFWHM"]["GM"] == [7.0, 7.0, 7.0]
    assert "gtm" in sidecar["PartialVolumeCorrection"]


@pytest.mark.parametrize("port", SAVED)
def test_the_sidecar_of_an_uncertainty_says_what_it_combines(sodium, port):
    sidecar = read(sodium[0] / f"{port}.json")
    if port not in ("uncertainty_file", "anat_uncertainty_file"):
        assert "UncertaintyTerms" not in sidecar
        return
    assert sidecar["UncertaintyTerms"] == TERMS
    left_out = ["relaxation", "receive", "b1", "pvc", "segmentation", "registration"]
    assert sidecar["UncertaintyWithout"] == [f"u_{name}" for name in left_out]


def test_maps_that_are_not_linear_carry_the_constants_and_terms_too(
    head, measured, calibration_files, tmp_path, run_in
):
    ports = list(NONLINEAR_FILES)
    targets = {port: str(tmp_path / "anat" / f"{port}.nii.gz") for port in ports}
    told = {"Reconstruction": "tv", "ReconstructionReason": "asked", "PointSpreadLocalAt": None}
    save = SaveNonlinear(
        outputs={**targets, "qc": str(tmp_path / "anat" / "qc.json")}, provenance=KNOWN,
        tissues=head["tissues"], properties={**head["properties"], **told},
        calibration_file=calibration_files["vials"], uncertainty_terms=TERMS,
        **dict.fromkeys(ports, measured["image_file"]),
    )  # fmt: skip
    run_in(save, tmp_path / "run")
    sidecar = read(tmp_path / "anat" / "uncertainty_file.json")
    assert sidecar["RelaxationConstants"]["GM"] == head["tissues"]["GM"]
    assert sidecar["UncertaintyTerms"] == TERMS
    assert sidecar["PartialVolumeCorrection"] == "none"


def test_the_data_dictionary_explains_every_column(sodium):
    dictionary = read(sodium[0] / "table_file.json")
    assert set(COLUMNS) <= set(dictionary)
    assert set(TABLE_COLUMNS) == set(COLUMNS)
    assert all(dictionary[c]["Description"] and dictionary[c]["Units"] for c in COLUMNS)


def test_the_data_dictionary_holds_the_numbers_of_the_equation_and_says_what_they_are(sodium):
    equation = read(sodium[0] / "table_file.json")["Equation"]
    assert equation["Slope"] == {"apparent": 2.5}
    assert equation["Keys"] == {
        "Slope": {"Description": "Of the calibration line, by desc", "Units": "signal per mmol/L"}
    }
    assert "Equation" not in read(sodium[0] / "corrected_file.json")


def test_what_draws_tell_stands_in_the_dictionary_and_in_short_in_the_quality_file(sodium):
    dictionary, quality = (read(sodium[0] / name) for name in ("table_file.json", "qc.json"))
    assert dictionary["Correlation"] == TOLD["Correlation"]
    assert dictionary["MonteCarlo"] == TOLD["MonteCarlo"]
    assert quality["MonteCarlo"]["Draws"] == 200
    assert "Differences" not in quality["MonteCarlo"]
    assert "propagation does not hold" in quality["Warnings"]
    assert "MonteCarlo" not in read(sodium[0] / "image_file.json")


def test_all_warnings_reach_the_quality_file(sodium):
    quality = read(sodium[0] / "qc.json")
    text = " ".join(quality["Warnings"])
    assert "wide steps" in text
    assert "no T1w" in text
    assert "GM 300 mmol/L lies outside 25 to 70" in text
    assert "WM" not in text.replace("no T1w", "")
    assert quality["SNR"] == {"GM": 20.0, "WM": 18.0, "CSF": 60.0}
    assert quality["CalibrationRSquared"] > 0.99
    assert (quality["CalibrationOutlier"], quality["CalibrationForced"]) == (None, False)


def test_an_outlier_and_a_forced_line_reach_the_quality_file(
    save_run, calibration_files, tmp_path
):
    lines, extra = load_lines(calibration_files["vials"])
    told = {**extra, "outlier": "1 low", "forced": True, "CalibrationWarnings": ["1 low is off"]}
    path = save_lines(tmp_path / "told.json", lines, told)
    quality = read(save_run(path)[0] / "qc.json")
    assert (quality["CalibrationOutlier"], quality["CalibrationForced"]) == ("1 low", True)
    assert quality["Calibration"]["outlier"] == "1 low"
    assert "1 low is off" in quality["Warnings"]


def test_maps_of_a_space_carry_the_numbers_of_the_run_and_the_space(
    head, measured, calibration_files, tmp_path, run_in
):
    targets = {port: str(tmp_path / "anat" / f"{port}.nii.gz") for port in SPACE_FILES}
    save = SaveSpace(
        outputs=targets, provenance={**KNOWN, "Template": "NKI"}, tissues=head["tissues"],
        properties=head["properties"], calibration_file=calibration_files["vials"],
        uncertainty_terms=TERMS, **dict.fromkeys(SPACE_FILES, measured["image_file"]),
    )  # fmt: skip
    assert run_in(save, tmp_path / "run").out_files == list(targets.values())
    for port in SPACE_FILES:
        sidecar = read(tmp_path / "anat" / f"{port}.json")
        assert {**KNOWN, "Template": "NKI", "Units": "mmol/L"}.items() <= sidecar.items()
        assert sidecar["Calibration"]["Lines"]["corrected"]["slope"] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("warning", ["", "probably wrong"])
def test_transforms_are_copied_as_they_are_with_a_sidecar(tmp_path, run_in, warning):
    ports = ("to_template_xfm", "from_template_xfm")
    for port in ports:
        (tmp_path / f"{port}.h5").write_bytes(port.encode())
    save = SaveTransforms(
        outputs={port: str(tmp_path / "anat" / f"{port}.h5") for port in ports}, provenance=KNOWN,
        **{port: str(tmp_path / f"{port}.h5") for port in ports}, overlap=0.9, warning=warning,
    )  # fmt: skip
    assert len(run_in(save, tmp_path / "run").out_files) == 2
    for port in ports:
        assert (tmp_path / "anat" / f"{port}.h5").read_bytes() == port.encode()
        sidecar = read(tmp_path / "anat" / f"{port}.json")
        assert sidecar["Description"] == ANATOMY_FILES[port][1]
        assert sidecar["BrainOverlap"] == 0.9
        assert sidecar.get("NormalizationWarning", "") == warning


@pytest.fixture
def anatomy(head, tmp_path, run_in):
    def saved(**changes):
        folder = tmp_path / "anat"
        ports = ("preproc_file", "brain_mask", "gm_file", "wm_file", "csf_file")
        sources = {port: head[port] for port in (*ports, "head_mask")}
        targets = {p: str(folder / f"sub-01_{p.removesuffix('_file')}.nii.gz") for p in ports}
        save = SaveAnatomy(outputs=targets, provenance=KNOWN, **{**sources, **changes})
        return folder, run_in(save, tmp_path / "run").out_files

    return saved


def test_an_anatomy_is_written_as_far_as_it_exists(anatomy):
    folder, files = anatomy()
    assert len(files) == 5
    assert not list(folder.glob("*head*"))
    assert {read(path)["RandomSeed"] for path in folder.glob("*.json")} == {23}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (
            {"brain_volume_ml": 1400.0, "brain_warning": "too large"},
            {"BrainVolume", "BrainWarning"},
        ),
        ({"brain_volume_ml": 1400.0, "brain_warning": ""}, {"BrainVolume"}),
        ({"normalization_warning": "off"}, {"NormalizationWarning"}),
        ({"normalization_warning": ""}, set()),
        ({}, set()),
    ],
)
def test_what_is_known_of_the_brain_stands_in_the_sidecars(anatomy, known, expected):
    folder, _ = anatomy(**known)
    numbers = {"BrainVolume", "BrainWarning", "NormalizationWarning"}
    found = set(read(folder / "sub-01_brain_mask.json")) & numbers
    assert found == expected


def test_ports_of_the_anatomy_have_units_and_descriptions():
    assert all(description for _, description in ANATOMY_FILES.values())


@pytest.mark.parametrize("name", ["sub-01_desc-brain_mask.nii.gz", "sub-01_dseg.nii.gz"])
def test_masks_and_labels_are_saved_as_integers(tmp_path, name):
    source = save_image(tmp_path / "in.nii.gz", np.eye(3)[None].astype(np.float32), np.eye(4))
    save_as(source, str(tmp_path / name))
    assert nib.load(tmp_path / name).get_data_dtype().kind in "ui"


def test_an_earlier_result_is_replaced_whole(tmp_path):
    source = save_image(tmp_path / "in.nii.gz", np.full((2, 2, 2), 3.5), np.eye(4))
    (tmp_path / "out.nii.gz").write_bytes(b"earlier")
    save_as(source, str(tmp_path / "out.nii.gz"))
    np.testing.assert_array_equal(load_image(tmp_path / "out.nii.gz")[0], 3.5)


def test_a_result_that_cannot_be_read_leaves_the_earlier_one(tmp_path):
    (tmp_path / "in.nii.gz").write_bytes(b"cut")
    (tmp_path / "out.nii.gz").write_bytes(b"earlier")
    with pytest.raises(ValueError, match="in.nii.gz"):
        save_as(str(tmp_path / "in.nii.gz"), str(tmp_path / "out.nii.gz"))
    assert (tmp_path / "out.nii.gz").read_bytes() == b"earlier"


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    content = {
        "a": np.nan,
        "b": np.array([1.0, np.inf]),
        "c": np.int16(3),
        "d": (np.float32(0.5),),
    }
    write_json(tmp_path / "deep" / "x.json", content)
    assert read(tmp_path / "deep" / "x.json") == {"a": None, "b": [1.0, None], "c": 3, "d": [0.5]}


def curve_table():
    rows = [("GM", "kspace", "corrected", 2.0), ("WM", "kspace", "corrected", 4.0),
            ("GM", "gtm", "corrected", 9.0), ("GM", "kspace", "apparent", 7.0)]  # fmt: skip
    return pd.DataFrame(rows, columns=["name", "pvc", "desc", "u_noise"])


CURVE = {
    "Names": ["GM", "air", "WM"], "Share": [0.25, 1.0],
    "Uncertainty": [[0.2, 9.0, 0.4], [0.1, 8.0, 0.2]], "Scatter": [[0.21, 9.0, 0.38], None],
    "ScatterOverUncertainty": [1.0, None], "ChanceOfRatio": [0.2, None],
}  # fmt: skip


def test_the_scan_time_curve_is_told_in_concentration_for_the_regions_of_the_table():
    told = scan_time(curve_table(), {"KspaceRegression": {"ScanTime": CURVE}})["ScanTime"]
    assert told["Names"] == ["GM", "WM"]
    np.testing.assert_allclose(told["Uncertainty"], [[4.0, 8.0], [2.0, 4.0]])
    np.testing.assert_allclose(told["Scatter"][0], [4.2, 7.6])
    assert told["Scatter"][1] is None


@pytest.mark.parametrize("properties", [{}, {"KspaceRegression": {"ScanTime": CURVE}}])
def test_without_raw_data_there_is_no_scan_time_curve(properties):
    table = curve_table()
    assert scan_time(table[table.pvc == "gtm"] if properties else table, properties) == {}
