"""The averaged brain of the phantom: signed distances to the borders of its tissues.

Probability maps are turned into distances, so that borders can be moved by millimetres and drawn
crisply again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from sodiumprep.sodium.acquisition import Floats

BORDER_WIDTH = 1.2  # mm, over which a fraction goes from 0 to 1: partial volume at borders only
REACH = 25.0  # mm, distance over which the ventricles push the tissue around them
OUTSIDE = -30.0  # mm, level of tissue where the template does not reach
TISSUE_THRESHOLD = 0.7  # probability: above one half, since averaging fills the sulci


@dataclass(frozen=True)
class Template:
    """Signed distances to the borders of the averaged brain, positive inside.

    Parameters
    ----------
    tissue
        To the border of grey and white matter with fluid, shape (x, y, z) [mm].
    white
        To the border of white matter, same shape [mm].
    ventricle
        To the wall of the lateral ventricles, same shape [mm].
    slope
        Gradient of ``ventricle``, shape (3, x, y, z).
    affine
        Voxel index of these three to template position, shape (4, 4) [mm, RAS].
    brain
        To the border of the brain mask on a wider and coarser grid [mm].
    brain_affine
        Voxel index of ``brain`` to template position, shape (4, 4) [mm, RAS].
    """

    tissue: Floats
    white: Floats
    ventricle: Floats
    slope: Floats
    affine: Floats
    brain: Floats
    brain_affine: Floats


def signed_distance(mask: NDArray[np.bool_], spacing: float = 1.0) -> Floats:
    """Return the distance to the border of a mask, positive inside.

    Parameters
    ----------
    mask
        Shape (x, y, z).
    spacing
        Voxel edge [mm].

    Returns
    -------
    distance
        Shape (x, y, z) [mm], float32; smoothed by 0.6 voxels against staircases.

    Examples
    --------
    >>> float(signed_distance(np.arange(20)[:, None, None] >= 10)[15, 0, 0].round(3))
    5.5
    """
    inside = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    level = np.where(mask, inside - 0.5, 0.5 - outside) * spacing
    return ndimage.gaussian_filter(level.astype(np.float32), 0.6)


def near_distance(mask: NDArray[np.bool_]) -> Floats:
    """Return the distance to the border of a mask within 3 voxels, positive inside.

    Parameters
    ----------
    mask
        Shape (x, y, z).

    Returns
    -------
    distance
        Shape (x, y, z) [voxels], float32: the blurred mask, read as the blur of a plane; much
        faster than an exact transform and free of its staircases.

    Examples
    --------
    >>> float(near_distance(np.arange(20)[:, None, None] >= 10)[10, 0, 0].round(1))
    0.5
    """
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), 1.0)
    near = (blurred > 1e-3) & (blurred < 1 - 1e-3)
    level = np.where(mask, np.float32(3.09), np.float32(-3.09))
    level[near] = special.ndtri(blurred[near])
    return level


def border(level: Floats, width: float = BORDER_WIDTH) -> Floats:
    """Return the fraction that belongs to a signed distance.

    Parameters
    ----------
    level
        Signed distance, positive inside, any shape [mm].
    width
        Distance over which the fraction goes from 0 to 1 [mm].

    Returns
    -------
    fraction
        Same shape, in [0, 1].

    Examples
    --------
    >>> border(np.array([-2.0, 0.0, 2.0]))
    array([0. , 0.5, 1. ])
    """
    return np.clip(level / np.float32(width) + np.float32(0.5), 0, 1)


def positions(shape: Sequence[int], affine: Floats) -> list[Floats]:
    """Position of each voxel of an axis-aligned grid, as three broadcastable axes [mm]."""
    axes = [affine[i, i] * np.arange(n) + affine[i, 3] for i, n in enumerate(shape)]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _find_ventricles(tissue: Floats, affine: Floats) -> NDArray[np.bool_]:
    x, y, z = positions(tissue.shape, affine)
    box = (abs(x) < 42) & (y > -58) & (y < 36) & (z > -4) & (z < 34)  # lateral ventricles
    label, n = ndimage.label((tissue < 0.5) & box)
    sizes = np.bincount(label.ravel(), minlength=n + 1)[1:]
    return np.isin(label, 1 + np.flatnonzero(sizes > 0.1 * sizes.max()))


def _ventricle_level(mask: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Signed distance to the ventricles, exact within their reach, and its gradient."""
    near = ndimage.find_objects(mask.astype(np.int8))[0]
    margin = int(REACH) + 3
    box = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in near)
    level = np.full(mask.shape, -2 * REACH, np.float32)
    level[box] = signed_distance(mask[box])
    slope = np.zeros((3, *mask.shape), np.float32)
    slope[:, *box] = np.gradient(ndimage.gaussian_filter(level[box], 1.0))
    return level, slope


def _without_rim(grey: NDArray[np.bool_], ventricle: Floats) -> NDArray[np.bool_]:
    """Drop the thin false grey matter that averaging draws around the ventricles."""
    deep = ndimage.binary_opening(grey, iterations=2)
    return grey & ~((ventricle > -4) & ~deep)


def _brain_level(mask: NDArray[np.bool_], affine: Floats) -> tuple[Floats, Floats]:
    """Signed distance to the brain on a 2 mm grid that reaches down to the neck."""
    below = 56
    wide = np.pad(mask, [(0, 0), (0, 0), (below, 0)])[::2, ::2, ::2]
    level = signed_distance(ndimage.binary_closing(wide, iterations=2), 2.0)
    coarse = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[2, 3] -= below
    return ndimage.gaussian_filter(level, 1.0), coarse


def prepare_template(
    grey: Floats, white: Floats, mask: NDArray[np.bool_], affine: Floats
) -> Template:
    """Turn probability maps of an averaged brain into signed distances.

    Parameters
    ----------
    grey, white
        Probability of grey and white matter, shape (x, y, z), 1 mm voxels along the axes.
    mask
        Brain mask, same shape.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].

    Returns
    -------
    template
        Signed distances, shared by all subjects.

    Raises
    ------
    ValueError
        If the voxels are not 1 mm along the axes.
    """
    if not np.allclose(affine[:3, :3], np.eye(3)):
        raise ValueError(f"the template must have 1 mm voxels along RAS axes, got {affine}")
    brain, brain_affine = _brain_level(mask, affine)
    box = tuple(
        slice(max(s.start - 6, 0), s.stop + 6) for s in ndimage.find_objects(mask.view(np.int8))[0]
    )
    grey, white, mask = grey[box], white[box], mask[box]
    affine = affine @ np.block([[np.eye(3), np.array([[s.start] for s in box])], [0, 0, 0, 1]])
    tissue = np.where(mask, grey + white, 0).astype(np.float32)
    ventricle, slope = _ventricle_level(_find_ventricles(np.where(mask, tissue, 1), affine))
    is_tissue = tissue > TISSUE_THRESHOLD
    is_grey = is_tissue & (ndimage.gaussian_filter((grey - white).astype(np.float32), 0.7) > 0)
    is_white = is_tissue & ~_without_rim(is_grey, ventricle)
    return Template(
        near_distance(is_tissue), near_distance(is_white), ventricle, slope,
        affine, brain, brain_affine,
    )  # fmt: skip


def grid_index(affine: Floats, position: Floats) -> Floats:
    """Voxel index of positions of shape (3, ...) [mm] on an axis-aligned grid."""
    shape = (3, *[1] * (position.ndim - 1))
    scale = (1 / np.diag(affine)[:3]).astype(np.float32).reshape(shape)
    return position * scale - affine[:3, 3].astype(np.float32).reshape(shape) * scale


def sample(volume: Floats, index: Floats, outside: float | None = None) -> Floats:
    """Interpolate a volume; beyond it lies a constant or what lies at its edge."""
    mode = "nearest" if outside is None else "constant"
    return ndimage.map_coordinates(
        volume, index, order=1, output=np.float32, mode=mode, cval=outside or 0.0
    )
