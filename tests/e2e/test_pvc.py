"""Partial-volume correction by several methods through the whole app, from k-space."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from sodiumprep.bids_app.cli import main as process
from sodiumprep.bids_app.phantom import main as simulate

pytestmark = pytest.mark.slow
ASKED = ("labbe", "rbv", "iy", "mtc", "kspace")
MAPS = ("rbv", "iy", "mtc")
TISSUES = ["GM", "WM", "CSF"]
CHANGES = ["change_position_1mm", "change_psf_10percent", "change_segmentation_0.5mm"]
STEM = "sub-01_acq-23Na"


class Corrected(NamedTuple):
    anat: Path
    table: pd.DataFrame
    truth: pd.Series


def true_anatomy(raw: Path, write_halved: Callable[[Path, Path], None]) -> Path:
    """Make the true tissues and position what another pipeline has left, on a grid of 2 mm."""
    ready = raw.with_name("ready")
    anat, truth = ready / "sub-01/anat", raw / "derivatives/truth/sub-01/anat"
    anat.mkdir(parents=True)
    shutil.copy(raw / "derivatives/manual/dataset_description.json", ready)
    for name in TISSUES:
        own = f"sub-01_label-{name}"
        write_halved(truth / f"{own}_desc-truth_probseg.nii.gz", anat / f"{own}_probseg.nii.gz")
    mask = truth / "sub-01_label-brain_desc-truth_mask.nii.gz"
    write_halved(mask, anat / "sub-01_desc-brain_mask.nii.gz")
    image = raw / "sub-01/anat/sub-01_T1w.nii.gz"
    write_halved(image, anat / "sub-01_desc-preproc_T1w.nii.gz")
    place = f"{STEM}_from-sodium_to-T1w_mode-image"
    shutil.copy(truth / f"{place}_desc-truth_xfm.txt", anat / f"{place}_xfm.txt")
    return ready


@pytest.fixture(scope="module")
def corrected(
    tmp_path_factory: pytest.TempPathFactory, halved: Callable[[Path, Path], None]
) -> Corrected:
    folder = tmp_path_factory.mktemp("pvc")
    raw, out = folder / "bids", folder / "out"
    smallest = ["--subjects", "1", "--coils", "1", "--spokes", "800", "--voxel-size", "6"]
    assert simulate([str(raw), "--seed", "11", *smallest]) == 0
    given = [f"ready={true_anatomy(raw, halved)}", f"manual={raw / 'derivatives/manual'}"]
    options = ["-w", folder / "work", "--sloppy", "--skip-bids-validation", "--nprocs", 1]
    options += ["-d", *given, "--pvc", *ASKED, "--sensitivity"]
    assert process([str(word) for word in (raw, out, "participant", *options)]) == 0
    anat = out / "sub-01/anat"
    table = pd.read_csv(anat / f"{STEM}_seg-tissue_TSC.tsv", sep="\t")
    truth = pd.read_csv(next((raw / "derivatives/truth").rglob("*_TSC.tsv")), sep="\t")
    return Corrected(anat, table, truth.set_index("name").concentration)


def sidecar(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(
        path.with_name(path.name.split(".")[0] + ".json").read_text()
    )
    return told


def test_every_method_has_its_rows_beside_the_uncorrected_ones(corrected: Corrected) -> None:
    rows = corrected.table[corrected.table.name.isin(TISSUES)]
    for method in ("none", "gtm", *ASKED):
        own = rows[rows.pvc == method]
        assert sorted(own.desc) == ["apparent"] * 3 + ["corrected"] * 3
        assert own["mean"].notna().all()
        assert (own.uncertainty > 0).all()


def test_every_corrected_value_lies_within_ten_per_cent_of_the_truth(corrected: Corrected) -> None:
    final = corrected.table[corrected.table.desc == "corrected"]
    values = final.pivot_table(index="name", columns="pvc", values="mean").loc[TISSUES]
    off = values.div(corrected.truth[TISSUES], axis=0) - 1
    print((100 * off).round(1).to_string())
    assert off[["gtm", *ASKED]].abs().to_numpy().max() < 0.1
    assert off.none.abs().max() > 0.3


@pytest.mark.parametrize("space", ["", "_space-T1w"])
@pytest.mark.parametrize("method", MAPS)
def test_a_map_is_there_with_its_uncertainty_and_sidecars(
    corrected: Corrected, method: str, space: str
) -> None:
    images = []
    for words in ("", "_stat-uncertainty"):
        name = f"{STEM}{space}_pvc-{method}{words}_desc-corrected_TSCmap.nii.gz"
        images.append(nib.load(corrected.anat / name))
        told = sidecar(corrected.anat / name)
        assert (told["PartialVolumeCorrection"], told["Units"]) == (method, "mmol/L")
        assert told["Sources"]
    values, spread = (image.get_fdata() for image in images)
    plain = nib.load(corrected.anat / f"{STEM}{space}_desc-corrected_TSCmap.nii.gz")
    assert values.shape == spread.shape == plain.shape
    known = np.isfinite(values) & np.isfinite(spread) & (values > 100)  # fluid
    assert known.sum() > 100
    assert (spread[known] > 0).all()
    assert np.median(spread[known]) < 40
    brightest = np.nanpercentile(plain.get_fdata(), 99.5)
    assert np.nanpercentile(values, 99.5) > 1.05 * brightest  # fluid was seen too dark


def test_sensitivity_has_its_columns(corrected: Corrected) -> None:
    rows = corrected.table[corrected.table.desc == "corrected"].set_index(["pvc", "name"])
    for method in ("gtm", "labbe", *MAPS):
        assert (rows.loc[(method, "CSF"), CHANGES].abs() > 0.5).all()
    assert rows.loc[("kspace", "CSF"), CHANGES[1]] == 0  # there is no kernel
    assert rows.loc[("kspace", "CSF"), CHANGES[2]] > 0.5


def test_the_scan_time_curve_is_told_beside_the_table(corrected: Corrected) -> None:
    curve = sidecar(corrected.anat / f"{STEM}_seg-tissue_TSC.tsv")["ScanTime"]
    assert curve["Share"] == sorted(curve["Share"])
    assert curve["Share"][-1] == 1
    grey = np.array(curve["Uncertainty"])[:, curve["Names"].index("GM")]
    tenth = grey[curve["Share"].index(0.1)]
    assert tenth / grey[-1] == pytest.approx(np.sqrt(10), rel=0.1)
