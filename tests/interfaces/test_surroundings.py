"""Tables that lesions give: against the other side, and tissues with what lesions took."""

import json
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sodiumprep.interfaces.atlases import SaveLabels
from sodiumprep.interfaces.calibrate import Calibrate
from sodiumprep.interfaces.concentration import TabulateRegions
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.parcels import PARCEL_COLUMNS, RATIO, TabulateParcels
from sodiumprep.interfaces.pvc import CorrectPartialVolume
from sodiumprep.interfaces.regions import SampleRegions, load_carved
from sodiumprep.interfaces.surroundings import LabelMirrors, LabelShells
from sodiumprep.interfaces.table_outputs import SaveParcels
from sodiumprep.sodium.pvc.regional import IndistinctRegionsError
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import Relaxation, relaxation_factor

SAMPLED = ("gm_file", "wm_file", "csf_file", "brain_mask", "head_mask", "xfm_file", "vial_labels")
LESION = 60.0  # mmol/L
OPPOSITE = {"names": {1: "lesion"}, "kind": "mirrors"}


@pytest.fixture(scope="module")
def sampled(head, run_in, tmp_path_factory) -> Any:
    lesion = {"lesion": head["lesion"]}
    return run_in(
        SampleRegions(
            sodium_file=head["grid_file"], vial_names=["1 low", "2 high"], border_shift=0.5,
            keep_fine=True, response_file=head["response_file"], lesion_files=lesion,
            **{name: head[name] for name in SAMPLED},
        ),
        tmp_path_factory.mktemp("regions"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def measure(head, truth, protocol, vials, sampled, run_in, tmp_path_factory) -> Any:
    """Return what measures a head whose lesion lies beside the ventricle, for its tables."""
    return cache(
        partial(measured, head, truth, protocol, vials, sampled, run_in, tmp_path_factory)
    )


@pytest.fixture(scope="module")
def known(measure) -> dict[str, Any]:
    return measure(LESION)


def measured(head, truth, protocol, vials, sampled, run_in, tmp_path_factory, level):
    folder = tmp_path_factory.mktemp("lesions")
    with np.load(sampled.regions_file) as stored:
        names, blurred = stored["names"].tolist(), stored["blurred"]
    tissues = {**head["tissues"], "lesion": head["tissues"]["WM"]}
    real = {**truth, "lesion": level}
    signals = [
        real.get(n, 20.0) * relaxation_factor(relaxation_of(tissue_of(n), 3.0), *protocol.values())
        for n in names
    ]
    for name in ("1 low", "2 high"):
        gel = Relaxation(**tissues[name])
        signals[names.index(name)] = real[name] * relaxation_factor(gel, *protocol.values())
    signals[-1] = 0.0
    _, affine = load_image(head["grid_file"])
    image = np.tensordot(signals, blurred, 1)
    image = image + np.random.default_rng(1).normal(0, 0.1, image.shape)
    widths = {**head["properties"]["PointSpreadFWHM"], "lesion": [7.0] * 3}
    files = {
        "image_file": save_image(folder / "image.nii.gz", image, affine),
        "noise_file": save_image(folder / "noise.nii.gz", np.full(image.shape, 0.1), affine),
        "regions_file": sampled.regions_file,
    }
    properties = {**head["properties"], "PointSpreadFWHM": widths}
    corrected = run_in(
        CorrectPartialVolume(**files, response_file=head["response_file"], properties=properties),
        folder / "pvc",
    )
    shared = {"tissues": tissues, "protocol": protocol, "properties": corrected.properties}
    of_signals = {"regions_file": files["regions_file"], "signals_file": corrected.signals_file}
    lines = {
        reference: run_in(
            Calibrate(
                reference=reference, vials=vials, static_file=files["image_file"],
                static_noise_file=files["noise_file"], **of_signals, **shared,
            ),
            folder / reference,
        ).calibration_file
        for reference in ("vials", "csf")
    }  # fmt: skip
    return {"all": {**files, **of_signals, **shared}, "lines": lines, "fine": sampled.fine_file}


def tissue_of(name: str) -> str:
    return {"lesion": "WM"}.get(name, name if name in ("GM", "WM", "CSF") else "muscle")


@pytest.fixture
def tabulate(known, head, run_in, tmp_path):
    def tabulated(reference: str = "vials", case: Any = None, **changes: Any) -> pd.DataFrame:
        case = case or known
        table = TabulateParcels(
            **{**case["all"], **changes}, calibration_file=case["lines"][reference],
            fine_file=case["fine"], response_file=head["response_file"],
        )  # fmt: skip
        outputs = run_in(table, tmp_path / "table")
        return pd.read_csv(outputs.table_file, sep="\t", na_values="n/a")

    return tabulated


@pytest.fixture(scope="module")
def mirrors(known, head, run_in, tmp_path_factory):
    label = LabelMirrors(
        fine_file=known["fine"], anat_file=head["preproc_file"], classes=["lesion"]
    )
    return run_in(label, tmp_path_factory.mktemp("mirrors"))


def rows(table, pvc="gtm", desc="corrected"):
    return table[(table.pvc == pvc) & (table.desc == desc)].set_index("name")


def test_a_lesion_over_what_lies_opposite_is_its_contrast(tabulate, mirrors, truth):
    table = tabulate(**OPPOSITE, labels_file=mirrors.out_file)
    assert list(table.columns) == [*PARCEL_COLUMNS, *RATIO]
    found = rows(table)
    assert found.index.tolist() == ["lesion", "lesion mirror", "lesion mirror GM",
                                    "lesion mirror WM"]  # fmt: skip
    white, lesion = found.loc["lesion mirror WM"], found.loc["lesion"]
    assert np.isnan(lesion.ratio)
    assert white.ratio == pytest.approx(lesion["mean"] / white["mean"], rel=1e-4)
    assert abs(white.ratio - LESION / truth["WM"]) < 2 * white.u_ratio
    quantiles = rows(table, "none").loc["lesion mirror", ["q05", "q10", "q25", "median", "q75",
                                                          "q90", "q95"]]  # fmt: skip
    assert (np.diff(quantiles.astype(float)) > 0).all()


def test_equal_tissue_has_the_ratio_1_and_what_both_share_cancels(
    tabulate, mirrors, measure, truth, monkeypatch
):
    equal = measure(truth["WM"])
    # borders err on each side by themselves, and a head that moves changes both sides oppositely
    monkeypatch.setattr(
        "sodiumprep.interfaces.parcels.border_uncertainty", lambda rows, *_: np.zeros(len(rows))
    )
    still = {"properties": {**equal["all"]["properties"], "RegistrationSpread": 1e-3}}
    labels = {**OPPOSITE, "labels_file": mirrors.out_file}
    found = {
        reference: rows(tabulate(reference, equal, **labels, **still))
        for reference in ("vials", "csf")
    }
    for table in found.values():
        white, lesion = table.loc["lesion mirror WM"], table.loc["lesion"]
        assert abs(white.ratio - 1) < 2 * white.u_ratio
        apart = np.hypot(*(row.uncertainty / row["mean"] for row in (lesion, white)))
        assert white.u_ratio < 0.7 * apart
    one, other = (table.loc["lesion mirror WM"] for table in found.values())
    assert other.u_calibration > 1.5 * one.u_calibration
    assert other.u_ratio == pytest.approx(one.u_ratio, rel=1e-3)


def test_a_class_without_a_mirror_has_no_ratio_and_says_why(tabulate, mirrors):
    table = tabulate(**OPPOSITE, labels_file=mirrors.out_file, without={1: "on_midline"})
    opposite = table[table.name != "lesion"]
    assert set(opposite.flag) == {"on_midline"}
    assert opposite[["mean", *RATIO]].isna().all(axis=None)
    assert table[table.name == "lesion"]["mean"].notna().all()


def test_the_mirror_lies_on_the_other_side(mirrors, head):
    labels, affine = load_image(mirrors.out_file)
    own = np.argwhere(labels == 1).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(own, [-12, 1, 7], atol=1.5)
    assert mirrors.without == {}
    assert mirrors.told["MirrorCorrelation"] > 0.9
    assert set(mirrors.told) == {"MirrorMatrix", "MirrorCorrelation", "MirrorSpread"}


@pytest.mark.parametrize("reference", ["vials", "csf"])
def test_tissues_have_rows_without_and_with_what_lesions_took(
    tabulate, known, run_in, tmp_path, reference
):
    found = rows(tabulate(reference, kind="included"))
    line = {"calibration_file": known["lines"][reference]}
    path = run_in(TabulateRegions(**known["all"], **line), tmp_path / "tissues").table_file
    tissues = rows(pd.read_csv(path, sep="\t", na_values="n/a"))
    lesion, volumes = tissues.loc["lesion"], {}
    for tissue in ("GM", "WM", "CSF"):
        own, both = found.loc[tissue], found.loc[f"{tissue} with lesions"]
        for column, close in (("mean", 2e-3), ("u_noise", 0.02), ("volume_ml", 1e-4),
                              ("uncertainty", 0.15)):  # fmt: skip
            assert own[column] == pytest.approx(tissues.loc[tissue, column], rel=close, abs=1e-4)
        more = (both.n_voxels - own.n_voxels) / both.n_voxels
        expected = (1 - more) * own["mean"] + more * lesion["mean"]
        assert both["mean"] == pytest.approx(expected, rel=2e-3)
        volumes[tissue] = both.volume_ml - own.volume_ml
    assert sum(volumes.values()) == pytest.approx(lesion.volume_ml, rel=0.02)
    assert volumes["WM"] > max(volumes["GM"], volumes["CSF"])


def test_shells_are_rows_of_an_atlas(tabulate, known, run_in, tmp_path, truth):
    shells = run_in(LabelShells(fine_file=known["fine"], edges=[4.0, 8.0]), tmp_path / "shells")
    labels, _ = load_image(shells.out_file)
    carved = load_carved(known["fine"])
    assert set(np.unique(labels)) == {0, 1, 2}
    assert not labels[carved.lesion > 0.5].any()
    found = rows(tabulate(labels_file=shells.out_file, names={1: "near", 2: "far"}))
    for row in (found.loc[name] for name in ("near WM", "far WM")):
        assert row["mean"] == pytest.approx(truth["WM"], abs=3 * row.uncertainty)
    assert "ratio" not in found


def test_regions_that_nobody_chose_and_the_image_cannot_tell_apart_have_no_value(
    tabulate, mirrors, monkeypatch
):
    monkeypatch.setattr("sodiumprep.sodium.pvc.parcels.LARGEST_CONDITION", 1.0)
    labels = {**OPPOSITE, "labels_file": mirrors.out_file}
    table = tabulate(**labels, unasked=True)
    assert rows(table)[["mean", *RATIO]].isna().all(axis=None)
    assert set(rows(table).flag) == {"indistinct", "too_small"}
    assert rows(table, "none").loc["lesion mirror", ["mean", *RATIO]].notna().all()
    with pytest.raises(IndistinctRegionsError, match="cannot tell"):
        tabulate(**labels)


def test_tables_and_labels_are_saved_with_what_is_known_of_the_mirror(
    known, mirrors, head, run_in, tmp_path
):
    table = TabulateParcels(
        **known["all"], **OPPOSITE, labels_file=mirrors.out_file, fine_file=known["fine"],
        calibration_file=known["lines"]["vials"], response_file=head["response_file"],
    )  # fmt: skip
    path = str(tmp_path / "out/table.tsv")
    save = SaveParcels(
        table_file=run_in(table, tmp_path / "table").table_file, output=path, told=mirrors.told,
        provenance={"Description": "opposite"}, calibration_file=known["lines"]["vials"],
        tissues=known["all"]["tissues"],
        properties={"ReceiveCorrection": "none", **known["all"]["properties"]},
    )  # fmt: skip
    run_in(save, tmp_path / "save")
    sidecar = json.loads((tmp_path / "out/table.json").read_text())
    columns = pd.read_csv(path, sep="\t", nrows=0).columns
    assert all(sidecar[name]["Description"] for name in columns)
    assert sidecar["Description"] == "opposite"
    assert sidecar["MirrorSpread"] == mirrors.told["MirrorSpread"]
    kept = SaveLabels(
        in_file=mirrors.out_file, names={1: "lesion mirror"}, missing=[], told=mirrors.told,
        provenance={}, outputs={"labels": str(tmp_path / "out/labels.nii.gz"),
                                "table": str(tmp_path / "out/labels.tsv")},
    )  # fmt: skip
    run_in(kept, tmp_path / "keep")
    assert "MirrorMatrix" in json.loads((tmp_path / "out/labels.json").read_text())
