"""Templates: the embedded MNI152 and those that lie on disk, as brains and as grids."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from sodiumprep.interfaces.image import load_finite_image, load_image, open_image
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.brain import bright_range

Array = NDArray[Any]

FWHM_TO_SIGMA = 1 / 2.355
FAINT = 0.05  # of a template's brightest tissue: less is no brain but a trace of resampling
CLEARLY_COARSER = 1.2  # of a wanted grid against the template's own: else it is kept


def embedded_template(name: str, resolution: int) -> tuple[Array, Array]:
    """Load a map of the embedded MNI152 (ICBM 2009a, non-linear, symmetric).

    Parameters
    ----------
    name
        ``template`` (brain, T1w, in [0, 1]), ``gm_template`` or ``wm_template``.
    resolution
        Voxel edge [mm].

    Returns
    -------
    values
        Shape (x, y, z), float32.
    affine
        Shape (4, 4) [mm, RAS].
    """
    datasets = importlib.import_module("nilearn.datasets")  # as slow as ants
    image = getattr(datasets, f"load_mni152_{name}")(resolution=resolution)
    return np.asarray(image.dataobj, np.float32), image.affine


def template_brain(image_file: str, mask_file: str, spacing: int) -> tuple[Array, Array]:
    """Load the brain of a template, T1w.

    Parameters
    ----------
    image_file
        T1w image; empty for the embedded template.
    mask_file
        Its brain mask, on the same grid.
    spacing
        Voxel edge that is enough [mm]; a finer template is smoothed and resampled to it.

    Returns
    -------
    brain
        In [0, 1], 0 outside the brain, shape (x, y, z).
    affine
        Shape (4, 4) [mm, RAS].

    Raises
    ------
    ValueError
        If image and mask differ in their grids, or the mask is empty.
    """
    if not image_file:
        brain, affine = embedded_template("template", spacing)
        return np.where(brain > FAINT, brain, 0), affine
    image, affine = load_finite_image(image_file)
    mask, own = load_finite_image(mask_file)
    if mask.shape != image.shape or not np.allclose(own, affine, atol=1e-3):
        raise ValueError(f"{mask_file}: its grid is not that of {image_file}")
    return _coarsened(bright_range(image, mask > 0.5) * (mask > 0.5), affine, spacing)


def _coarsened(values: Array, affine: Array, spacing: float) -> tuple[Array, Array]:
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if np.all(spacing < CLEARLY_COARSER * edges):
        return values, affine
    coarse = affine @ np.diag([*(spacing / edges), 1.0])
    smooth = gaussian_filter(values, spacing * FWHM_TO_SIGMA / edges)
    shape = tuple(np.ceil(np.array(values.shape) * edges / spacing).astype(int))
    return resample(smooth, index_map(coarse, affine, np.eye(4)), shape, 1), coarse


def template_grid(image_file: str, resolution: int) -> tuple[tuple[int, ...], Array]:
    """Return the grid of a template.

    Parameters
    ----------
    image_file
        Any image on that grid; empty for the embedded template.
    resolution
        Voxel edge of the embedded template [mm].

    Returns
    -------
    shape
        Three numbers of voxels.
    affine
        Shape (4, 4) [mm, RAS].
    """
    if not image_file:
        values, affine = embedded_template("template", resolution)
        return values.shape, affine
    load_image(image_file)  # names a file that is cut off
    image = open_image(image_file)
    return tuple(image.shape[:3]), np.asarray(image.affine, np.float64)
