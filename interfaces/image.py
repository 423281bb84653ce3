"""The one place that decides dtype, header and orientation of an image that is written."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import Opener

from sodiumprep.sodium.acquisition import Floats

# Of gzip: floats with noise hardly shrink further (level 6 takes 1.4 times as long for 1 % less).
COMPRESSION = 1


def load_image(path: Path | str) -> tuple[Floats, Floats]:
    """Load an image.

    Parameters
    ----------
    path
        NIfTI file.

    Returns
    -------
    values
        float32; a trailing axis of length 1 is dropped.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].

    Raises
    ------
    ValueError
        If the file is truncated or holds values that are not finite; the message names it.
    """
    try:
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj, np.float32)
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        nib.filebasedimages.ImageFileError,
    ) as error:
        raise ValueError(f"{path}: cannot be read, truncated or no image ({error})") from None
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    return values, np.asarray(image.affine, np.float64)


def load_finite_image(path: Path | str) -> tuple[Floats, Floats]:
    """Load a 3D image that must hold numbers everywhere.

    Parameters
    ----------
    path
        NIfTI file.

    Returns
    -------
    values
        float32, 3D.
    affine
        Shape (4, 4) [mm, RAS].

    Raises
    ------
    ValueError
        If the image is not 3D, holds NaN or infinity, or is zero everywhere.
    """
    values, affine = load_image(path)
    if values.ndim != 3:
        raise ValueError(f"{path}: {values.ndim} dimensions; a 3D image is needed")
    bad = int(np.sum(~np.isfinite(values)))
    if bad:
        raise ValueError(f"{path}: {bad} voxels hold NaN or infinity")
    if not values.any():
        raise ValueError(f"{path}: every voxel is 0")
    return values, affine


def save_image(path: Path | str, values: Floats, affine: Floats) -> str:
    """Write an image; the same image gives the same bytes.

    Parameters
    ----------
    path
        NIfTI file to write.
    values
        Booleans and integers are written as uint8 or int16, everything else as float32.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].

    Returns
    -------
    path
        As given.
    """
    dtype: type = np.float32
    if values.dtype.kind in "bui":
        dtype = np.uint8 if values.min() >= 0 and values.max() < 256 else np.int16
    image = nib.Nifti1Image(np.asarray(values, dtype), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    packed = {"compresslevel": COMPRESSION, "mtime": 0} if str(path).endswith(".gz") else {}
    with Opener(str(path), "wb", **packed) as file:
        image.to_stream(file)
    return str(path)
