"""Anatomies of 2 mm: where the anatomy is not what is tested, all that is on its grid is fast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ants  # noqa: F401 - takes seconds: the processes of all runs inherit it
import nibabel as nib
import numpy as np
import pytest


def write_halved(source: Path, target: Path) -> None:
    """Write an image on a grid of twice the voxel edge: means of blocks, masks stay masks."""
    image = nib.load(source)
    values = image.get_fdata(dtype=np.float32)
    values = values[tuple(slice(n - n % 2) for n in values.shape)]
    x, y, z = (n // 2 for n in values.shape)
    values = values.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
    if source.name.endswith("_mask.nii.gz"):
        values = (values > 0.5).astype(np.uint8)
    affine = image.affine @ np.diag([2, 2, 2, 1.0])
    affine[:3, 3] = (image.affine @ [0.5, 0.5, 0.5, 1])[:3]
    nib.save(nib.Nifti1Image(values, affine), target)


def halve_anatomy(raw: Path, subject: str = "01") -> None:
    """Halve the resolution of a simulated subject's T1w and of what a pipeline made of it."""
    for folder in (raw / f"sub-{subject}", raw / "derivatives/anat" / f"sub-{subject}"):
        for ending in ("T1w", "probseg", "mask"):
            for path in sorted(folder.rglob(f"*_{ending}.nii.gz")):
                write_halved(path, path)
        for path in folder.rglob("*_dseg.nii.gz"):
            path.unlink()


@pytest.fixture(scope="session")
def halved() -> Callable[[Path, Path], None]:
    return write_halved


@pytest.fixture(scope="session")
def coarsen() -> Callable[..., None]:
    return halve_anatomy
