"""Maps of a cohort that lie on one grid: read, smoothed, masked, written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from sodiumprep.interfaces.files import written
from sodiumprep.interfaces.image import load_image, open_image, save_image
from sodiumprep.interfaces.sidecars import sidecar_path, write_json
from sodiumprep.interfaces.templates import FAINT, FWHM_TO_SIGMA, embedded_template
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map, resample

Mask = NDArray[np.bool_]
MASK_SPACING = 2  # mm, of the embedded template as a mask: its border is no finer
SAME_GRID = 1e-3  # mm


@dataclass(frozen=True)
class Grid:
    """Voxels in space.

    Parameters
    ----------
    shape
        Three numbers.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].
    """

    shape: tuple[int, ...]
    affine: Floats

    @property
    def edges(self) -> Floats:
        """Edge lengths of a voxel [mm], shape (3,)."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel [ml]."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1e3

    def position(self, voxel: Sequence[int]) -> Floats:
        """Return the position of a voxel [mm, RAS], shape (3,)."""
        return np.asarray((self.affine @ [*voxel, 1])[:3])


def grid_of(path: Path | str) -> Grid:
    """Return the grid of an image; its voxels are not read.

    Parameters
    ----------
    path
        NIfTI file.

    Raises
    ------
    ValueError
        If it cannot be read or is not 3D.
    """
    image = open_image(path)
    shape = tuple(int(n) for n in image.shape)
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) != 3:
        raise ValueError(f"{path}: {len(shape)} dimensions; a 3D image is needed")
    return Grid(shape, np.asarray(image.affine, np.float64))


def common_grid(paths: Sequence[Path]) -> Grid:
    """Return the grid of all images.

    Parameters
    ----------
    paths
        NIfTI files, at least one.

    Raises
    ------
    ValueError
        If one has another grid than most; the message names it.
    """
    grids = [grid_of(path) for path in paths]
    keys = [(g.shape, tuple((np.round(g.affine / SAME_GRID) + 0.0).ravel())) for g in grids]
    usual = keys.index(Counter(keys).most_common(1)[0][0])
    for path, grid in zip(paths, grids, strict=True):
        near = np.allclose(grid.affine, grids[usual].affine, atol=SAME_GRID)
        if grid.shape != grids[usual].shape or not near:
            raise ValueError(
                f"{path}: its grid ({_told(grid)}) is not that of {paths[usual].name} "
                f"({_told(grids[usual])}); accepted: one grid for all maps of a space"
            )
    return grids[usual]


def _told(grid: Grid) -> str:
    size = " x ".join(map(str, grid.shape))
    edges = " x ".join(f"{edge:g}" for edge in grid.edges.round(3))
    return f"{size} voxels of {edges} mm, origin {np.round(grid.affine[:3, 3], 2).tolist()}"


def read_map(path: Path, fwhm: float = 0.0) -> Floats:
    """Read a map; what lies outside of the field of view of its scan is nan.

    Parameters
    ----------
    path
        NIfTI file, 0 or nan outside of the field of view.
    fwhm
        Of the Gaussian that smooths it; beyond the field of view nothing is mixed in [mm].

    Returns
    -------
    values
        Shape of the grid, float32.
    """
    values, affine = load_image(path)
    known = np.isfinite(values) & (values != 0)
    if fwhm > 0:
        sigma = fwhm * FWHM_TO_SIGMA / np.linalg.norm(affine[:3, :3], axis=0)
        share = gaussian_filter(known.astype(np.float32), sigma, mode="constant")
        smooth = gaussian_filter(np.where(known, values, 0), sigma, mode="constant")
        values = smooth / np.maximum(share, np.finfo(np.float32).tiny)
    return np.where(known, values, np.float32(np.nan))


def template_mask(mask_file: str, grid: Grid) -> Mask:
    """Return the brain of a template on a grid.

    Parameters
    ----------
    mask_file
        Brain mask, any grid; empty for the embedded template.
    grid
        Where it is wanted.
    """
    if mask_file:
        values, affine = load_image(mask_file)
        inside = values > 0.5
    else:
        values, affine = embedded_template("template", MASK_SPACING)
        inside = values > FAINT
    mapping = index_map(grid.affine, affine, np.eye(4))
    return np.asarray(resample(inside.astype(np.float32), mapping, grid.shape, 1) >= 0.5)


def write_map(path: Path, values: Floats | Mask, grid: Grid, sidecar: dict[str, Any]) -> None:
    """Write a map with its sidecar, complete or not at all.

    Parameters
    ----------
    path
        NIfTI file.
    values
        Shape of the grid.
    grid
        Where they lie.
    sidecar
        What they are.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as partial:
        save_image(partial, values, grid.affine)
    write_json(sidecar_path(str(path)), sidecar)
