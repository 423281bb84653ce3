"""Lesion masks from files."""

from __future__ import annotations

from pathlib import Path

from sodiumprep.interfaces.image import load_image
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.lesions import lesion_fraction


def load_lesion(path: Path | str) -> tuple[Floats, Floats]:
    """Load a lesion mask as fractions.

    Parameters
    ----------
    path
        NIfTI file, any grid.

    Returns
    -------
    fraction
        In [0, 1], float32, 3D.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].

    Raises
    ------
    ValueError
        If the file cannot be read, is not 3D, or is no mask; the message names it.
    """
    values, affine = load_image(path)
    if values.ndim != 3:
        raise ValueError(f"{path}: {values.ndim} dimensions; a 3D image is needed")
    try:
        return lesion_fraction(values), affine
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
