"""Maps of another kind on the same anatomy, averaged over the regions of the sodium tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sodiumprep.interfaces.image import load_image
from sodiumprep.interfaces.lesions import load_lesion
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.regions import carve_lesions

FINEST = 1.0  # mm: edge of the parts that a voxel of the map is cut into, at most
MOST_PARTS = 8  # along an edge
ENOUGH = 0.5  # of a region must be covered, else it has no value


@dataclass(frozen=True)
class Parts:
    """A grid whose voxels are cut into parts, so that fractions are averaged, never skipped.

    Parameters
    ----------
    shape, affine
        Of the grid of parts.
    factors
        Parts along each edge of a voxel.
    """

    shape: tuple[int, ...]
    affine: Floats
    factors: tuple[int, ...]


def parts_of(shape: tuple[int, ...], affine: Floats) -> Parts:
    """Return the parts of the voxels of a grid.

    Parameters
    ----------
    shape
        Three numbers.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    factors = np.clip(np.ceil(edges / FINEST - 1e-3), 1, MOST_PARTS).astype(int)
    cut = np.diag([*(1 / factors), 1.0])
    cut[:3, 3] = -(factors - 1) / (2 * factors)
    fine = tuple(int(n * f) for n, f in zip(shape, factors, strict=True))
    return Parts(fine, affine @ cut, tuple(map(int, factors)))


def load_other(path: Path) -> tuple[Floats, Floats]:
    """Load a map; where it holds nothing it is nan.

    Parameters
    ----------
    path
        NIfTI file, 0 or nan where there is no value.

    Returns
    -------
    values
        float32, 3D.
    affine
        Shape (4, 4) [mm, RAS].

    Raises
    ------
    ValueError
        If it cannot be read, is not 3D or holds no value at all; the message names it.
    """
    values, affine = load_image(path)
    if values.ndim != 3:
        raise ValueError(f"{path}: {values.ndim} dimensions; a 3D map is needed")
    known = np.isfinite(values) & (values != 0)
    if not known.any():
        raise ValueError(f"{path}: holds no value: every voxel is 0 or not finite")
    return np.where(known, values, np.float32(np.nan)), affine


def fractions_on(
    parts: Parts, tissues: Mapping[str, Path], lesions: Mapping[str, Path]
) -> dict[str, Floats]:
    """Return fractions of tissues and lesions in each part.

    Parameters
    ----------
    parts
        Where they are wanted.
    tissues
        Fractions of GM, WM and CSF.
    lesions
        Masks or fractions by name; what they cover is taken from the tissues.
    """
    held = {name: _moved(*load_image(path), parts, 1) for name, path in tissues.items()}
    drawn = {name: _moved(*load_lesion(path), parts, 1) for name, path in lesions.items()}
    return carve_lesions(held, drawn)


def labels_on(parts: Parts, path: Path) -> NDArray[np.intp]:
    """Return the labels of an atlas in each part.

    Parameters
    ----------
    parts
        Where they are wanted.
    path
        Labels on the anatomy.
    """
    return np.rint(_moved(*load_image(path), parts, 0)).astype(np.intp)


def _moved(values: Floats, affine: Floats, parts: Parts, order: int) -> Floats:
    return resample(values, index_map(parts.affine, affine, np.eye(4)), parts.shape, order)


def means_in(
    values: Floats, parts: Parts, labels: NDArray[np.intp] | None, weights: Floats
) -> Floats:
    """Return the weighted mean of a map in each region.

    Parameters
    ----------
    values
        The map, nan where it has no value.
    parts
        Of its voxels.
    labels
        Region of each part; None for one region, 1.
    weights
        Of each part.

    Returns
    -------
    means
        By label, nan where less than half of a region has values, shape (highest label + 1,).
    """
    fine = values
    for axis, factor in enumerate(parts.factors):
        fine = np.repeat(fine, factor, axis=axis)
    held = weights > 0
    where = np.ones(int(held.sum()), np.intp) if labels is None else labels[held]
    weight, value = weights[held].astype(float), fine[held].astype(float)
    known = np.isfinite(value)
    size = 2 if labels is None else int(labels.max()) + 1
    whole = np.bincount(where, weight, size)
    covered = np.bincount(where[known], weight[known], size)
    total = np.bincount(where[known], weight[known] * value[known], size)
    enough = (covered > 0) & (covered >= ENOUGH * whole)
    return np.where(enough, total / np.where(enough, covered, 1.0), np.nan)
