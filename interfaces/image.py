"""The one place that decides dtype, header and orientation of an image that is written."""

from __future__ import annotations

import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener, Opener
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from sodiumprep.interfaces.files import MIB, check_file
from sodiumprep.sodium.acquisition import Floats

MOST_VOXELS = 2**28  # 0.4 mm over 256 mm along each axis: 1 GB as float32
MOST_BEFORE = 64 * MIB  # header with its extensions, before the voxels
MOST_SHRUNK = 1032  # a byte of deflate gives at most so many
READABLE = (".nii", ".nii.gz", ".mgz", ".mgh")
UNREADABLE = (
    OSError, EOFError, ValueError, OverflowError, MemoryError, TypeError, KeyError, zlib.error,
    ImageFileError, HeaderDataError, ImageDataError, WrapStructError,
)  # fmt: skip
# Of gzip: floats with noise hardly shrink further (level 6 takes 1.4 times as long for 1 % less).
COMPRESSION = 1


def open_image(path: Path | str, by_volume: bool = False) -> Any:
    """Open an image whose header claims no more than a head can need; its voxels are not read.

    Parameters
    ----------
    path
        NIfTI file, or MGH.
    by_volume
        Whether its volumes are read one by one, so that their number is not limited.

    Returns
    -------
    image
        Of nibabel.

    Raises
    ------
    ValueError
        If it is no such file, claims more voxels than it can hold or than are accepted, or holds
        no real numbers; the message names it.
    """
    size = check_file(path)
    packed = str(path).endswith("z")
    if not str(path).endswith(READABLE):
        raise ValueError(f"{path}: is no image; accepted: {', '.join(READABLE)}")
    try:
        header = _header(path)
        shape = tuple(int(n) for n in header.get_data_shape())
        dtype, start = header.get_data_dtype(), int(header.get_data_offset())
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    voxels = math.prod(shape) if shape else 0
    held = math.prod(shape[:3]) if by_volume else voxels
    if not shape or min(shape) < 1 or held > MOST_VOXELS:
        raise ValueError(
            f"{path}: its header says {' x '.join(map(str, shape)) or 'no'} voxels; accepted: 1 "
            f"to {MOST_VOXELS:.3g} in all"
        )
    if dtype.kind not in "biuf":
        raise ValueError(f"{path}: holds {dtype} in each voxel; accepted: real numbers")
    first = header.template_dtype.itemsize
    if not first <= start <= MOST_BEFORE:
        raise ValueError(
            f"{path}: its voxels begin at byte {start}; accepted: {first} to {MOST_BEFORE}"
        )
    if start + voxels * dtype.itemsize > size * (MOST_SHRUNK if packed else 1):
        raise ValueError(
            f"{path}: cannot be read, truncated: its header says {voxels} voxels of {dtype}, the "
            f"file has {size} bytes; copy or convert it again"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the size of extensions, which are not used
            image: Any = nib.load(path)
        affine = np.asarray(image.affine, np.float64)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    if not np.isfinite(affine).all() or not np.abs(np.linalg.det(affine[:3, :3])) > 0:
        raise ValueError(
            f"{path}: the matrix of its header places no voxel ({affine[:3].tolist()}); accepted: "
            "finite numbers along three axes"
        )
    return image


def _header(path: Path | str) -> Any:
    """Return the header alone: with its extensions it may be larger than the memory."""
    is_mgh = str(path).endswith((".mgz", ".mgh"))
    with ImageOpener(str(path)) as file:
        block = file.read(284 if is_mgh else 540)
    if is_mgh:
        return nib.freesurfer.mghformat.MGHHeader(block, check=False)
    first = np.frombuffer(block[:4].ljust(4, b"\0"), "<i4")
    if first[0] == 540 or first.byteswap()[0] == 540:
        return nib.Nifti2Header(block, check=False)
    return nib.Nifti1Header(block[:348], check=False)


def _unreadable(path: Path | str, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"{path}: cannot be read, truncated or no image ({reason})")


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
    image = open_image(path)
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            values = np.asarray(image.dataobj, np.float32)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
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
