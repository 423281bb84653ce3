"""Where the brain is: a head around a skull-stripped template, and masks of brain and head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sodiumprep.sodium.acquisition import Floats

Mask = NDArray[np.bool_]

BRAIN_THRESHOLD = 0.15  # of the template's maximum; the stripped template is zero outside
FLUID_END, SKULL_END, SCALP_END = 2.0, 8.0, 15.0  # mm from the brain surface, adult vault
FLUID, SKULL, SCALP = 0.25, 0.12, 0.9  # T1-weighted, over the template's maximum
AIR_END = 22.0  # mm from the brain surface: air that the metric sees
SURFACE_SMOOTHING = 0.7  # mm, Gaussian SD against noise
GROWTH, GIVE_BACK = 5.0, 3.0  # mm, how far the surface may move out and in
INNER_TABLE = (-2.0, 4.0)  # mm from the registered surface, where the inner table lies
BONE_PERCENTILE = 2.0  # of what lies there: marrow, fluid, dura and brain are brighter
BONE_CONTRAST = 0.03  # fluid above bone over tissue above bone; less is bias field
BONE_CONTRAST_TO_NOISE = 4.0  # fluid above bone over noise
VOLUME_RANGE_ML = (800.0, 2200.0)  # ml, children from one year to the largest adult brains
SCALE_RANGE = (0.7, 1.35)  # size over the template along the principal axes, all ages


@dataclass(frozen=True)
class HeadModel:
    """A template brain in a synthetic head.

    Parameters
    ----------
    intensity
        T1-weighted brain, fluid, skull and scalp, shape (x, y, z), in [0, 1].
    region
        Where the model is meant: the vault and the brain, not face and neck, same shape.
    brain
        The brain, same shape.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].
    """

    intensity: Floats
    region: Mask
    brain: Mask
    affine: Floats


def head_model(template: Floats, affine: Floats) -> HeadModel:
    """Put a skull-stripped template into a head of shells: fluid, dark skull, bright scalp, air.

    An affine registration of a stripped brain to a whole head runs out to the scalp; the shells
    give it the boundary that it misses. Below a plane from the root of the nose to the nape there
    is no such shell, so the region leaves it out.

    Parameters
    ----------
    template
        Skull-stripped T1-weighted template, shape (x, y, z), axes along R, A, S, in [0, 1].
    affine
        Voxel index to MNI position, shape (4, 4) [mm, RAS].

    Returns
    -------
    model
        The head, on a grid padded by the shells.

    Examples
    --------
    >>> ball = (np.linalg.norm(np.indices((30, 30, 30)) - 15, axis=0) < 8).astype(float)
    >>> model = head_model(ball, np.diag([4.0, 4.0, 4.0, 1.0]))
    >>> model.intensity.shape, bool(model.region[model.brain].all())
    ((42, 42, 42), True)
    """
    voxel_size = np.linalg.norm(affine[:3, :3], axis=0)
    pad = int(np.ceil(AIR_END / voxel_size.min()))
    padded = np.pad(template, pad)
    brain = ndimage.binary_fill_holes(padded > BRAIN_THRESHOLD)
    distance = ndimage.distance_transform_edt(~brain, sampling=voxel_size)
    origin = affine.copy()
    origin[:3, 3] -= affine[:3, :3] @ np.full(3, pad)
    shells = np.select(
        [brain, distance <= FLUID_END, distance <= SKULL_END, distance <= SCALP_END],
        [padded, FLUID, SKULL, SCALP],
    )
    region = (distance <= 3) | ((distance <= AIR_END) & _above_skull_base(padded.shape, origin))
    return HeadModel(shells, region, brain, origin)


def _above_skull_base(shape: tuple[int, ...], affine: Floats) -> Mask:
    """Mask what lies above the plane from nape (y -100, z -30 mm) to nasion (y 60, z 0 mm)."""
    y, z = (np.arange(shape[axis]) * affine[axis, axis] + affine[axis, 3] for axis in (1, 2))
    above = z[None, :] > -30 + (y[:, None] + 100) * 30 / 160
    return np.broadcast_to(above, shape)


def largest_component(mask: Mask) -> Mask:
    """Keep the largest connected part of a mask.

    Parameters
    ----------
    mask
        Any shape.

    Returns
    -------
    component
        Same shape; empty if the mask is.

    Examples
    --------
    >>> largest_component(np.array([True, False, True, True])).tolist()
    [False, False, True, True]
    """
    labels, count = ndimage.label(mask)
    if not count:
        return np.zeros_like(mask, bool)
    return np.asarray(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]), bool)


def fill_cavities(mask: Mask) -> Mask:
    """Fill what is enclosed in three dimensions or in any slice, such as a head cut by its field.

    Parameters
    ----------
    mask
        Shape (x, y, z).

    Returns
    -------
    filled
        Same shape.

    Examples
    --------
    >>> tube = np.ones((4, 5, 5), bool)
    >>> tube[:, 2, 2] = False
    >>> bool(fill_cavities(tube).all())
    True
    """
    filled = ndimage.binary_fill_holes(mask)
    for axis in range(3):
        structure = np.expand_dims(ndimage.generate_binary_structure(2, 1), axis)
        filled = filled | ndimage.binary_fill_holes(filled, structure)
    return np.asarray(filled, bool)


def top_of_head_centre(head: Mask, affine: Floats, depth: float = 130.0) -> Floats:
    """Return the centre of the upper part of a head, where the brain is, however long the neck.

    Parameters
    ----------
    head
        Head without air, shape (x, y, z).
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].
    depth
        How far below the vertex to look [mm].

    Returns
    -------
    centre
        Shape (3,) [mm, RAS].

    Raises
    ------
    ValueError
        If the mask is empty.

    Examples
    --------
    >>> column = np.ones((11, 11, 301), bool)
    >>> top_of_head_centre(column, np.eye(4)).round().tolist()
    [5.0, 5.0, 236.0]
    """
    if not head.any():
        raise ValueError("the head mask is empty: no voxel stands out from the background")
    points = np.argwhere(head) @ affine[:3, :3].T + affine[:3, 3]
    height = points[:, 2]
    return points[height > np.percentile(height, 99.9) - depth].mean(axis=0)


def _ball(radius: float, voxel_size: Floats) -> Mask:
    """Structuring element of a radius in mm."""
    reach = np.maximum(np.floor(radius / voxel_size), 1).astype(int)
    grid = np.meshgrid(
        *(np.arange(-r, r + 1) * v for r, v in zip(reach, voxel_size, strict=True)), indexing="ij"
    )
    return np.sqrt(sum(axis**2 for axis in grid)) <= max(radius, voxel_size.max()) + 1e-6


def otsu_threshold(values: Floats) -> float:
    """Split values into dark and bright so that the variance between the two is largest.

    Parameters
    ----------
    values
        Any shape, finite.

    Returns
    -------
    threshold
        In the units of the values.

    References
    ----------
    Otsu 1979, doi:10.1109/TSMC.1979.4310076

    Examples
    --------
    >>> 1 < otsu_threshold(np.array([0.0, 0.5, 1.0, 9.0, 10.0])) < 9
    True
    """
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    total = np.cumsum(counts * centres)
    gap = total[:-1] / np.maximum(below, 1) - (total[-1] - total[:-1]) / np.maximum(above, 1)
    return float(edges[1 + np.argmax(below * above * gap**2)])


def head_mask(image: Floats, voxel_size: Floats, brain: Mask | None = None) -> Mask:
    """Mask the head: everything inside the scalp, cavities included, without vials beside it.

    Parameters
    ----------
    image
        Bias-corrected 1H image, shape (x, y, z), any unit.
    voxel_size
        Shape (3,) [mm].
    brain
        Brain mask, which the head contains, same shape; without it only the image counts.

    Returns
    -------
    head
        Same shape.

    Examples
    --------
    >>> ball = np.linalg.norm(np.indices((40, 40, 40)) - 20, axis=0)
    >>> shell = 100.0 * ((ball < 15) & (ball > 10))
    >>> bool((head_mask(shell, np.full(3, 4.0)) == (ball < 15)).all())
    True
    """
    clipped = np.clip(image, 0, np.percentile(image, 99))
    bright = clipped > 0.5 * otsu_threshold(clipped)  # half: skin and marrow are dim in PDw
    inner_part = np.zeros(bright.shape, bool) if brain is None else brain
    opened = ndimage.binary_opening(bright, _ball(2.0, voxel_size))
    # Bone may part the scalp from the brain all around, so each is kept for itself.
    opened = largest_component(opened & ~inner_part) | inner_part
    margin = int(np.ceil(8.0 / voxel_size.min()))
    closed = ndimage.binary_closing(np.pad(opened, margin, "edge"), _ball(8.0, voxel_size))
    inner = (slice(margin, -margin),) * 3
    return fill_cavities(closed[inner] | opened)


def brain_volume_ml(mask: Mask, voxel_size: Floats) -> float:
    """Return the volume of a mask [ml].

    Parameters
    ----------
    mask
        Any shape.
    voxel_size
        Shape (3,) [mm].

    Examples
    --------
    >>> brain_volume_ml(np.ones((10, 10, 10), bool), np.full(3, 2.0))
    8.0
    """
    return float(np.count_nonzero(mask) * np.prod(voxel_size) / 1000)


def volume_warning(volume_ml: float) -> str:
    """Say so if no human brain has such a volume [ml], else return an empty text.

    Examples
    --------
    >>> volume_warning(1400.0)
    ''
    >>> volume_warning(3960.0)
    'the brain mask holds 3960 ml; 800 to 2200 ml are expected'
    """
    low, high = VOLUME_RANGE_ML
    if low <= volume_ml <= high:
        return ""
    return f"the brain mask holds {volume_ml:.0f} ml; {low:.0f} to {high:.0f} ml are expected"


def choose_start(dissimilarity: Floats, scales: Floats) -> int:
    """Choose among registrations of the head model the most similar one of human size.

    Parameters
    ----------
    dissimilarity
        Metric of each, lower is better, shape (starts,).
    scales
        Singular values of each affine matrix, shape (starts, 3).

    Returns
    -------
    best
        Index of the chosen one; if none has a human size, the most similar.

    Examples
    --------
    >>> choose_start(np.array([-0.5, -0.9, -0.6]), np.array([[1.0] * 3, [1.6] * 3, [0.9] * 3]))
    2
    """
    human = np.all((scales > SCALE_RANGE[0]) & (scales < SCALE_RANGE[1]), axis=1)
    penalty = np.where(human, 0.0, np.inf if human.any() else 0.0)
    return int(np.argmin(dissimilarity + penalty))


def bright_range(image: Floats, head: Mask) -> Floats:
    """Scale an image to [0, 1] by the 98th percentile of the head, so that fat does not rule.

    Parameters
    ----------
    image
        Any shape and unit.
    head
        Same shape.

    Returns
    -------
    scaled
        Same shape.

    Examples
    --------
    >>> bright_range(np.array([-1.0, 5.0, 10.0]), np.array([False, False, True])).tolist()
    [0.0, 0.5, 1.0]
    """
    top = np.percentile(image[head], 98)
    return np.clip(image / top, 0, 1)


def signed_distance(mask: Mask, voxel_size: Floats) -> Floats:
    """Return the distance to the surface of a mask, negative inside [mm].

    Parameters
    ----------
    mask
        Shape (x, y, z).
    voxel_size
        Shape (3,) [mm].

    Returns
    -------
    distance
        Shape (x, y, z), half a voxel beyond the centres at the surface.

    Examples
    --------
    >>> signed_distance(np.array([[[False, False, True, True]]]), np.ones(3)).tolist()
    [[[1.5, 0.5, -0.5, -1.5]]]
    """
    outside = ndimage.distance_transform_edt(~mask, sampling=voxel_size)
    inside = ndimage.distance_transform_edt(mask, sampling=voxel_size)
    return outside - inside - 0.5 * voxel_size.min() * np.where(mask, -1, 1)


def refine_brain(image: Floats, brain: Mask, fluid_core: Mask, voxel_size: Floats) -> Mask:
    """Move the surface of a brain mask to the inner table of the skull, where the image shows it.

    Bone is dark in every contrast. Where fluid is brighter than bone by enough, the mask grows
    over fluid by up to 5 mm and gives bone back; elsewhere it stays as it is.

    Parameters
    ----------
    image
        Bias-corrected whole head, shape (x, y, z), any unit.
    brain
        Mask from a registration, same shape, right to a few millimetres.
    fluid_core
        Where ventricles are expected, same shape; one in five voxels must be pure fluid.
    voxel_size
        Shape (3,) [mm].

    Returns
    -------
    brain
        Same shape.

    Examples
    --------
    >>> radius = np.linalg.norm(np.indices((60, 60, 60)) - 30, axis=0)
    >>> image = np.select([radius < 4, radius < 19, radius < 22, radius < 26], [30, 90, 30, 3], 99)
    >>> found = refine_brain(image, radius < 20, radius < 4, np.ones(3))
    >>> bool((found ^ (radius < 22)).sum() < 0.03 * found.sum())
    True
    """
    margin = tuple(np.ceil(12 / voxel_size).astype(int))
    box = tuple(
        slice(max(part.start - grow, 0), part.stop + grow)
        for part, grow in zip(ndimage.find_objects(brain.astype(int))[0], margin, strict=True)
    )
    smooth = ndimage.gaussian_filter(image[box].astype(np.float32), SURFACE_SMOOTHING / voxel_size)
    distance = signed_distance(brain[box], voxel_size)
    threshold = _bone_threshold(smooth, distance, fluid_core[box])
    refined = brain.copy()
    if threshold is not None:
        refined[box] = _inner_table(smooth > threshold, distance, voxel_size)
    return refined


def _bone_threshold(image: Floats, distance: Floats, fluid_core: Mask) -> float | None:
    """Halve the way from bone to fluid, or to tissue if that is darker; None without contrast."""
    core = image[fluid_core & (distance < -5)]
    if not core.size:
        return None
    tissue = np.median(image[distance < -5])
    table = (distance > INNER_TABLE[0]) & (distance < INNER_TABLE[1])
    bone = np.percentile(image[table], BONE_PERCENTILE)
    darkest, dark = np.percentile(core, [5, 20])
    noise = (dark - darkest) / 0.80  # standard deviations between the two of a normal spread
    contrast = min(dark, tissue) - bone
    needed = max(BONE_CONTRAST * (tissue - bone), BONE_CONTRAST_TO_NOISE * noise)
    return float(bone + contrast / 2) if contrast > needed else None


def _inner_table(soft: Mask, distance: Floats, voxel_size: Floats) -> Mask:
    """Grow over soft voxels that bone encloses, and give bone back."""
    steps = int(np.ceil(GROWTH / voxel_size.min()))
    beyond = soft & (distance > GROWTH) & (distance <= GROWTH + 2)
    leak = ndimage.binary_dilation(beyond, iterations=steps, mask=soft & (distance > 0))
    inside = (distance < -GIVE_BACK) | (soft & (distance <= GROWTH) & ~leak)
    ball = _ball(2.0, voxel_size)
    opened = largest_component(ndimage.binary_opening(inside, ball))
    closed = ndimage.binary_closing(np.pad(opened, 3), ball)[3:-3, 3:-3, 3:-3]
    return np.asarray(ndimage.binary_fill_holes(closed), bool)
