"""The page on outputs has a line for every planned file, and no line without one."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app.anatomies import Anatomy
from sodiumprep.bids_app.names import BIDSIGNORE, DatasetNames, DerivativeNames, with_json
from sodiumprep.interfaces.image import save_image

page = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "derivatives.py")))
OUT = Path("/out")
PLACES = [
    DerivativeNames(OUT, "01"),
    DerivativeNames(OUT, "01", session="a", run="2", rec="tv", acquisition="23NaTPI"),
]
KINDS = [("apparent", None), ("corrected", None), ("corrected", "uncertainty")]


def planned(names):
    """Return everything that names has a name for, as it is asked for by the plans."""
    shared = replace(names, shared_anatomy=names.session is not None)
    maps = [names.tsc_map(desc, space=space, stat=stat, pvc=pvc)
            for desc, stat in KINDS for space in (None, "T1w")
            for pvc in (None, "rbv")]  # fmt: skip
    maps += [names.tsc_map("corrected", space="MNIInfant", cohort="3", resolution="2"),
             names.tsc_map("apparent", stat="uncertainty"),
             names.tsc_map("residual", pvc="gtm")]  # fmt: skip
    anatomy = [shared.anat_preproc(), names.brain_mask(), names.dseg(), names.lesion_mask("core"),
               *(names.probseg(tissue) for tissue in ("GM", "WM", "CSF")),
               names.template_transform("MNI152NLin2009aSym"),
               names.inverse_template_transform("MNI152NLin2009aSym", ".txt"),
               names.session_transform(), names.session_lesion_mask("core"),
               names.atlas_labels("lobes"), names.atlas_labels("lobes", ".tsv")]  # fmt: skip
    sodium = [names.sodium_preproc(), names.sodium_preproc("noise"), names.receive_field(),
              names.receive_field("uncertainty"), names.transmit_field(), names.sodium_transform(),
              names.tsc_table(), names.tsc_table("drawn"), names.qc(),
              names.lesion_labels("shells"), names.lesion_labels("shells", ".tsv")]  # fmt: skip
    files = [*maps, *anatomy, *sodium]
    return [*files, *map(with_json, files), names.report(), names.sodium_figure("receive", ".png"),
            names.anat_figure("tissues")]  # fmt: skip


def of_dataset():
    names = DatasetNames(OUT)
    maps = [names.group_map("mean", space="MNI305", group="a"), names.group_map(
        "mask", "mask", space="MNI305"), names.group_map("t", "statmap", space="MNI305",
        contrast="a", pvc="rbv")]  # fmt: skip
    tables = [names.participants, names.group_table, names.group_qc]
    return [*tables, *maps, *map(with_json, [*tables, *maps]), names.description, names.bidsignore,
            names.citation_md, names.citation_bib, names.group_report,
            names.group_dir / "figures/group_regions.svg", names.logs / "graph.dot",
            names.logs / "crash-20260101-000000/crash-a.txt",
            names.logs / "resources-20260101-000000.tsv", names.group_parquet, names.group_model,
            names.group_result("effects"), with_json(names.group_result("effects")),
            OUT / "phenotype/survival.tsv", OUT / "sub-01/sub-01_sessions.tsv",
            OUT / "sub-01/sub-01_sessions.json",
            *(names.logs / "run-20260101-000000-ab12" / name
              for name in ("config.toml", "sub-01.log", "failures.tsv"))]  # fmt: skip


def relative():
    paths = [*of_dataset(), *(path for names in PLACES for path in planned(names))]
    return [path.relative_to(OUT).as_posix() for path in paths]


def test_every_planned_file_has_a_line():
    assert page.unexplained(relative()) == []


def test_every_line_has_a_planned_file():
    conditions = {line.when for line in page.read_page()}
    assert page.missing(relative(), *conditions) == []
    assert len(page.read_page()) > 35


@pytest.mark.parametrize(
    "name",
    ["sub-01/anat/sub-01_acq-23Na_desc-other_TSCmap.nii.gz", "sub-01/anat/leftover.nii.gz",
     "sub-01/sub-01_desc-brain_mask.nii.gz", "tmp.txt", "sub-01/anat/sub-01_T1w.nii.gz",
     "sub-01/anat/sub-01_desc-brain_mask.nii", "sub-01/anat/.sub-01_dseg.partial-0-1.nii.gz"],
)  # fmt: skip
def test_a_file_without_a_purpose_is_found(name):
    assert page.unexplained([name]) == [name]


def test_a_line_without_a_file_is_found():
    names = [name for name in relative() if "seg-" not in name]
    assert page.missing(names) == ["…_<na>_seg-<name>_TSC.tsv"]


def test_the_anatomy_may_have_another_suffix():
    found = Anatomy(Path("/a/sub-01_T2w.nii.gz"), "T2w")
    names = DerivativeNames(OUT, "01", anat_suffix=found.suffix)
    assert page.unexplained([names.anat_preproc().relative_to(OUT).as_posix()]) == []


def test_suffixes_of_our_own_are_told_on_the_page_and_ignored_by_the_validator():
    text = page.PAGE.read_text()
    for suffix in ("TSCmap", "TSC", "metrics", "xfm"):
        assert f"`{suffix}`" in text
        assert any(f"_{suffix}." in line for line in BIDSIGNORE.split())
    assert "*_acq-23Na*" not in BIDSIGNORE


@pytest.fixture
def small(tmp_path):
    """Write an output of one image and one table, with nothing wrong."""
    anat = tmp_path / "out/sub-01/anat"
    anat.mkdir(parents=True)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.nii.gz").touch()
    described = {"DatasetLinks": {"raw": "../raw"}}
    (tmp_path / "out/dataset_description.json").write_text(json.dumps(described))
    held = {"Description": "a", "Units": "1", "Sources": ["bids:raw:a.nii.gz"],
            "SoftwareVersion": "1", "RandomSeed": 3}  # fmt: skip
    save_image(anat / "sub-01_desc-preproc_T1w.nii.gz", np.ones((3, 3, 3)), np.eye(4))
    (anat / "sub-01_desc-preproc_T1w.json").write_text(json.dumps(held))
    (tmp_path / "out/participants.tsv").write_text("participant_id\n01\n")
    columns = {"participant_id": {"Description": "Label"}}
    (tmp_path / "out/participants.json").write_text(json.dumps(columns))
    return tmp_path / "out", anat / "sub-01_desc-preproc_T1w.json", held


def faults(out):
    found = [*page.sidecar_faults(out), *page.without_sidecar(out), *page.undescribed_columns(out)]
    return found + [fault for path in out.rglob("*.nii.gz") for fault in page.header_faults(path)]


def test_a_complete_output_has_no_faults(small):
    assert faults(small[0]) == []


@pytest.mark.parametrize("key", ["Units", "Sources", "RandomSeed", "SoftwareVersion"])
def test_a_key_that_is_missing_is_found(small, key):
    out, sidecar, held = small
    sidecar.write_text(json.dumps({k: v for k, v in held.items() if k != key}))
    assert len(faults(out)) == 1


@pytest.mark.parametrize("uri", ["bids:raw:gone.nii.gz", "bids:other:a.nii.gz", "/raw/a.nii.gz"])
def test_a_source_that_leads_nowhere_is_found(small, uri):
    out, sidecar, held = small
    sidecar.write_text(json.dumps({**held, "Sources": [uri]}))
    assert faults(out) == [f"{sidecar.name}: {uri}"]


def test_files_without_sidecars_and_columns_without_words_are_found(small):
    out, sidecar, _ = small
    sidecar.unlink()
    (out / "participants.tsv").write_text("participant_id\tage\n01\t3\n")
    assert faults(out) == [
        "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz", "participants.tsv: age",
    ]  # fmt: skip


def test_a_header_of_another_kind_is_found(small):
    path = small[1].with_suffix(".nii.gz")
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3)), np.eye(4)), path)
    assert [text.split(": ")[1] for text in page.header_faults(path)] == ["type", "codes", "unit"]
