"""Tables of atlases: a whole brain as one label is the brain, halves are halves."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sodiumprep.interfaces.concentration import COLUMNS, TabulateRegions
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.parcels import PARCEL_COLUMNS, TabulateParcels
from sodiumprep.interfaces.regions import SampleRegions
from sodiumprep.sodium.pvc.parcel_rows import atlas_rows

SAMPLED = ("gm_file", "wm_file", "csf_file", "brain_mask", "head_mask", "xfm_file", "vial_labels")
TERMS = [c for c in COLUMNS if c.startswith("u_")]


@pytest.fixture(scope="module")
def fine_file(head: dict[str, Any], run_in: Any, tmp_path_factory: Any) -> str:
    files = {name: head[name] for name in SAMPLED}
    sample = SampleRegions(
        sodium_file=head["grid_file"], vial_names=["1 low", "2 high"], border_shift=0.5,
        keep_fine=True, response_file=head["response_file"], **files,
    )  # fmt: skip
    return run_in(sample, tmp_path_factory.mktemp("fine")).fine_file


@pytest.fixture
def known(head, measured, calibration_files, protocol):
    named = {k: measured[k] for k in ("image_file", "noise_file", "regions_file", "signals_file")}
    return {**named, "calibration_file": calibration_files["vials"], "tissues": head["tissues"],
            "protocol": protocol, "properties": head["properties"]}  # fmt: skip


@pytest.fixture
def tabulate(known, head, fine_file, run_in, tmp_path):
    def tabulated(labels: Any, names: dict[int, str], **changes: Any) -> pd.DataFrame:
        _, affine = load_image(head["gm_file"])
        path = save_image(tmp_path / "labels.nii.gz", labels, affine)
        told = {"fine_file": fine_file, "response_file": head["response_file"], "names": names}
        table = TabulateParcels(labels_file=path, **{**known, **told, **changes})
        outputs = run_in(table, tmp_path / "table")
        return pd.read_csv(outputs.table_file, sep="\t", na_values="n/a")

    return tabulated


@pytest.fixture(scope="module")
def everywhere(head: dict[str, Any]) -> Any:
    return np.ones_like(load_image(head["gm_file"])[0], np.int16)


def rows(table, pvc="gtm", desc="corrected"):
    return table[(table.pvc == pvc) & (table.desc == desc)].set_index("name")


@pytest.mark.parametrize("reference", ["vials", "csf"])
def test_a_label_of_the_whole_brain_has_the_values_of_the_tissues(
    tabulate, everywhere, known, calibration_files, run_in, tmp_path, reference
):
    line = {"calibration_file": calibration_files[reference]}
    found = tabulate(everywhere, {1: "brain"}, **line)
    assert list(found.columns) == PARCEL_COLUMNS
    expected = run_in(TabulateRegions(**{**known, **line}), tmp_path / "tissues")
    expected = pd.read_csv(expected.table_file, sep="\t", na_values="n/a")
    for pvc in ("none", "gtm"):
        for desc in ("apparent", "corrected"):
            ours = rows(found, pvc, desc)
            theirs = rows(expected, pvc, desc)
            for tissue in ("GM", "WM"):
                one, other = ours.loc[f"brain {tissue}"], theirs.loc[tissue]
                same = ["n_voxels", "volume_ml", "mean", "u_noise", "u_calibration", "snr"]
                np.testing.assert_allclose(one[same].astype(float), other[same].astype(float),
                                           rtol=2e-3)  # fmt: skip
                np.testing.assert_allclose(
                    one[TERMS].astype(float), other[TERMS].astype(float), rtol=0.15, atol=0.02
                )
            if pvc == "none":
                spread = ["sd", "median", "q25", "q75"]
                np.testing.assert_allclose(
                    ours.loc["brain GM", spread].astype(float),
                    theirs.loc["GM", spread].astype(float), rtol=1e-2,
                )  # fmt: skip


def test_both_tissues_of_a_region_add_up_with_what_they_share(tabulate, everywhere):
    found = rows(tabulate(everywhere, {1: "brain"}))
    both, parts = found.loc["brain"], found.loc[["brain GM", "brain WM"]]
    shares = parts.n_voxels / parts.n_voxels.sum()
    assert both["mean"] == pytest.approx(float(shares @ parts["mean"]), rel=1e-5)
    # one line calibrates both: its error does not average out
    assert both.u_calibration == pytest.approx(float(shares @ parts.u_calibration), rel=1e-3)
    # what noise or a border takes from the one it gives to the other
    assert both.u_noise < float(shares @ parts.u_noise)
    assert both.u_segmentation < float(shares @ parts.u_segmentation)
    assert (both.tissue, list(parts.tissue)) == ("all", ["GM", "WM"])


def test_halves_of_a_uniform_brain_hold_the_truth(tabulate, everywhere, truth):
    labels = everywhere.copy()
    labels[: labels.shape[0] // 2] = 2
    found = rows(tabulate(labels, {1: "right", 2: "left"}))
    assert list(found["index"]) == [1, 1, 1, 2, 2, 2]
    for side in ("left", "right"):
        for tissue in ("GM", "WM"):
            row = found.loc[f"{side} {tissue}"]
            assert abs(row["mean"] - truth[tissue]) < 3 * row.uncertainty
            assert row["mean"] == pytest.approx(truth[tissue], rel=0.08)
    assert found.coverage.min() > 0.9


def test_a_label_that_says_its_tissue_has_one_row(tabulate, everywhere):
    found = rows(tabulate(everywhere, {1: "ventricle"}, label_tissues={1: "CSF"}))
    assert list(found.index) == ["ventricle"]
    assert found.loc["ventricle"].tissue == "CSF"
    assert found.loc["ventricle", "mean"] > 120


def test_what_lies_outside_or_is_too_small_has_no_value_and_says_why(tabulate, everywhere):
    labels = everywhere.copy()
    centre = np.array(labels.shape) // 2
    labels[tuple(centre)] = 2
    names = {1: "brain", 2: "speck", 3: "absent"}
    table = tabulate(labels, names, least_coverage=0.999)
    found = rows(table)
    for name in ("speck GM", "absent"):
        assert np.isnan(found.loc[name, "mean"])
        assert np.isnan(found.loc[name, "uncertainty"])
    assert found.loc["absent", "flag"] == "coverage_too_low"
    assert np.isfinite(rows(tabulate(labels, names)).loc["brain WM", "mean"])
    uncovered = found[~(found.coverage >= 0.999)]
    assert set(uncovered.flag) == {"coverage_too_low"}
    assert uncovered["mean"].isna().all()


def test_a_value_below_zero_is_flagged(tabulate, everywhere, known, tmp_path):
    image, affine = load_image(known["image_file"])
    image[: image.shape[0] // 2] *= -1
    upset = save_image(tmp_path / "upset.nii.gz", image, affine)
    labels = everywhere.copy()
    labels[: labels.shape[0] // 2] = 2
    found = tabulate(labels, {1: "right", 2: "left"}, image_file=upset)
    below = found["mean"] < 0
    assert below.any()
    assert not below.all()
    np.testing.assert_array_equal(found.flag.fillna("").str.contains("negative"), below)


def test_a_row_says_its_tissue_in_its_name_where_the_label_does_not():
    found = [(row.label, row.name, row.tissue) for row in atlas_rows({7: "lobe"}, {})]
    assert found == [(7, "lobe", "all"), (7, "lobe GM", "GM"), (7, "lobe WM", "WM")]
    assert len(atlas_rows({7: "lobe"}, {7: "WM"})) == 1
