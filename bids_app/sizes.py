"""How much data a subject has, from headers alone: what memory its steps need follows from it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from sodiumprep.interfaces.image import open_image
from sodiumprep.interfaces.kspace_file import KspaceFile, read_encoding
from sodiumprep.workflows.plans import Size

SAMPLE_BYTES = 8  # complex64, of one coil
PLACE_BYTES = 12  # of its place in k-space, float32


def anatomy_size(image: str | Path | None) -> Size:
    """Return the size of an anatomy; that of a usual one where it cannot be told yet.

    Parameters
    ----------
    image
        1H image that gives the grid; None where the graph makes it.
    """
    voxels = _voxels(image)
    return Size(anatomy=voxels) if voxels else Size()


def sodium_size(source: Path, is_kspace: bool, anatomy: Size) -> Size:
    """Return the size of sodium data and their anatomy.

    Parameters
    ----------
    source
        Raw data or image. A file that cannot be read has the usual size: the step that reads it
        tells what is wrong.
    is_kspace
        Whether it is raw data.
    anatomy
        Of the 1H image.
    """
    if not is_kspace:
        voxels = _voxels(source)
        return replace(anatomy, sodium=voxels) if voxels else anatomy
    try:
        with KspaceFile(source) as file:
            matrix = read_encoding(source, file.header(), 0)[0].matrix
            coils = file.coils()
    except (OSError, ValueError):
        return anatomy
    samples = source.stat().st_size // (SAMPLE_BYTES * coils + PLACE_BYTES)
    return replace(anatomy, sodium=math.prod(matrix), samples=samples, coils=coils)


def _voxels(image: str | Path | None) -> int:
    if not image:
        return 0
    try:
        return math.prod(open_image(image).shape[:3])
    except (OSError, ValueError):
        return 0
