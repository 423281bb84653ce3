"""Ready-made anatomy of every flavour, from its folder to our own files and report."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app.run import run_participant
from sodiumprep.bids_app.settings import Settings

pytestmark = pytest.mark.slow
GRID = np.array([[4.0, 0, 0, -118], [0, 4, 0, -118], [0, 0, 4, -118], [0, 0, 0, 1]])
SHAPE = (60, 60, 60)
PLACES = np.indices(SHAPE) * 4.0 - 118
RADIUS = np.linalg.norm(PLACES / np.array([1.0, 1.15, 0.95])[:, None, None, None], axis=0)
TISSUES = {"CSF": RADIUS < 20, "WM": (RADIUS >= 20) & (RADIUS < 50),
           "GM": (RADIUS >= 50) & (RADIUS < 68)}  # fmt: skip
T1W = 900.0 * TISSUES["WM"] + 600 * TISSUES["GM"] + 150 * TISSUES["CSF"]
T1W += 700 * ((RADIUS > 78) & (RADIUS < 86)) + 5
RIGHT = PLACES[0] > 0


def put(path, values, affine=GRID):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = nib.MGHImage if path.suffix == ".mgz" else nib.Nifti1Image
    nib.save(kind(np.asarray(values, np.float32), affine), path)


def turned(values):
    """Return an image in FreeSurfer's orientation, with its affine."""
    image = nib.Nifti1Image(np.asarray(values, np.float32), GRID)
    wanted = nib.orientations.axcodes2ornt("LIA")
    moved = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(GRID), wanted))
    return moved.get_fdata(), moved.affine


def freesurfer_labels():
    labels = np.zeros(SHAPE)
    for tissue, (left, right) in {"WM": (2, 41), "GM": (3, 42), "CSF": (4, 43)}.items():
        labels[TISSUES[tissue]] = np.where(RIGHT[TISSUES[tissue]], right, left)
    return labels


def fmriprep(root, raw):
    folder = root / "sub-01/anat"
    put(folder / "sub-01_desc-preproc_T1w.nii.gz", T1W)
    put(folder / "sub-01_desc-brain_mask.nii.gz", RADIUS < 68)
    for tissue, fraction in TISSUES.items():
        put(folder / f"sub-01_label-{tissue}_probseg.nii.gz", fraction)


def freesurfer(root, raw):
    for name, values in {"T1": T1W / 10, "brainmask": T1W / 10 * (RADIUS < 68),
                         "aparc+aseg": freesurfer_labels()}.items():  # fmt: skip
        put(root / f"sub-01/mri/{name}.mgz", *turned(values))


def synthseg(root, raw):
    put(raw / "sub-01/anat/sub-01_T1w.nii.gz", T1W)
    labels = freesurfer_labels()
    put(root / "sub-01_T1w_synthseg.nii.gz", labels)
    put(root / "sub-01_T1w_posteriors.nii.gz",
        np.stack([labels == k for k in (42, 0, 3, 2, 41, 4, 43)], axis=-1))  # fmt: skip


def segmentation(root, raw):
    put(raw / "sub-01/anat/sub-01_T1w.nii.gz", T1W)
    labels = sum(n * TISSUES[tissue] for n, tissue in enumerate(("CSF", "GM", "WM"), 1))
    put(root / "sub-01/anat/sub-01_dseg.nii.gz", labels)
    (root / "dseg.tsv").write_text("index\tname\n1\tCSF\n2\tgray matter\n3\twhite matter\n")


@pytest.mark.parametrize("flavour", [fmriprep, freesurfer, synthseg, segmentation])
def test_a_complete_anatomy_is_taken_in_place_and_told(tmp_path, flavour):
    raw, ready = tmp_path / "raw", tmp_path / "ready"
    (raw / "sub-01/anat").mkdir(parents=True)
    (raw / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}')
    put(raw / "sub-01/anat/sub-01_T2w.nii.gz", T1W)  # an image that is not needed
    flavour(ready, raw)
    out = tmp_path / "out"
    settings = Settings(raw, out, tmp_path / "work", derivatives={"pipe": ready}, anat_only=True)
    assert run_participant(settings) == 0
    for tissue, truth in TISSUES.items():
        found = nib.load(out / f"sub-01/anat/sub-01_label-{tissue}_probseg.nii.gz")
        placed = nib.as_closest_canonical(found)
        np.testing.assert_allclose(placed.affine, GRID, atol=1e-4)
        np.testing.assert_allclose(placed.get_fdata(), truth, atol=1e-3)
    sidecar = json.loads((out / "sub-01/anat/sub-01_desc-preproc_T1w.json").read_text())
    assert sidecar["AnatomyFrom"][0].startswith("from pipe: ")
    assert sidecar["BrainVolume"] == pytest.approx(1436, rel=0.03)
    assert "Anatomy from pipe: " in (out / "sub-01.html").read_text()
    assert "(N4)" not in Path(out / "logs/CITATION.md").read_text()
