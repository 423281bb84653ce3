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
SULCUS_CLOSING = 5.0  # mm, half the width of the widest sulcus that the envelope spans
FLUID_FILM = 1.2  # mm of fluid that the envelope keeps over the cortex
DEEPEST_FLUID = 10.0  # mm below the skull, how far fluid is peeled off: no lesion is lost inside
FLUID_CONTRAST = 0.35  # tissue against fluid over tissue against bone; less shows no cortex
VOLUME_AGES = (0.0, 1.0, 2.0, 5.0, 12.0, 18.0)  # years; textbook knowledge, with 15 % to spare
SMALLEST_ML = (250.0, 600.0, 720.0, 800.0, 800.0, 800.0)  # ml at these ages
LARGEST_ML = (600.0, 1200.0, 1400.0, 1850.0, 2100.0, 2200.0)  # ml at these ages
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


def volume_range_ml(age: float | None = None) -> tuple[float, float]:
    """Return the smallest and the largest plausible volume of a brain mask [ml].

    Parameters
    ----------
    age
        In years; None for an adult.

    Returns
    -------
    low, high
        Between the ages of the table by linear interpolation; adults from 18 years on.

    Raises
    ------
    ValueError
        If the age is negative or not finite.

    Examples
    --------
    >>> volume_range_ml(0.5), volume_range_ml(70)
    ((425.0, 900.0), (800.0, 2200.0))
    """
    if age is None:
        return SMALLEST_ML[-1], LARGEST_ML[-1]
    if not (np.isfinite(age) and age >= 0):
        raise ValueError(f"the age is {age}; it must not be negative [years]")
    low, high = (float(np.interp(age, VOLUME_AGES, row)) for row in (SMALLEST_ML, LARGEST_ML))
    return low, high


def volume_warning(volume_ml: float, age: float | None = None) -> str:
    """Say so if no human brain of an age has such a volume, else return an empty text.

    Parameters
    ----------
    volume_ml
        Of the brain mask [ml].
    age
        In years; None if it is not known, which is taken for an adult.

    Returns
    -------
    warning
        Empty if the volume is plausible.

    Examples
    --------
    >>> volume_warning(1400.0)
    ''
    >>> volume_warning(3960.0)
    'the brain mask holds 3960 ml; 800 to 2200 ml are expected of an adult (age unknown)'
    """
    low, high = volume_range_ml(age)
    if low <= volume_ml <= high:
        return ""
    whom = "of an adult (age unknown)" if age is None else f"at {age:g} years"
    wanted = f"{low:.0f} to {high:.0f} ml are expected {whom}"
    return f"the brain mask holds {volume_ml:.0f} ml; {wanted}"


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
    levels = _bone_levels(smooth, distance, fluid_core[box])
    refined = brain.copy()
    if levels is not None:
        refined[box] = _inner_table(_without_thin_layers(smooth, *levels), distance, voxel_size)
    return refined


def _without_thin_layers(image: Floats, soft_above: float, solid_above: float) -> Mask:
    """Mask soft parts; dark fluid counts where it is two voxels thick.

    A thinner layer looks like bone and tissue in one voxel, and is called so: taken for fluid, a
    coarse image would get a rim of it all around the brain.
    """
    solid = image > solid_above
    layer = (image > soft_above) & ~solid
    thick = ndimage.binary_opening(layer, np.ones((2, 2, 2)))
    return solid | (layer & ndimage.binary_dilation(thick))


def cortical_envelope(
    image: Floats, inner: Mask, fluid_core: Mask, voxel_size: Floats, lesion: Mask | None = None
) -> Mask:
    """Peel fluid off the inside of the skull: the brain, with its sulci closed.

    What lies inside the skull is a tenth larger than what is called a brain mask elsewhere: the
    fluid over the cortex is part of the one, not of the other. Fluid may be dark or bright.

    Parameters
    ----------
    image
        Bias-corrected whole head, shape (x, y, z), any unit.
    inner
        Inside of the skull, same shape.
    fluid_core
        Where ventricles are expected, same shape.
    voxel_size
        Shape (3,) [mm].
    lesion
        What of ``inner`` is kept although it may be as dark or bright as fluid, same shape.

    Returns
    -------
    brain
        Part of ``inner``, same shape; all of it if fluid and tissue are about equally bright.

    Examples
    --------
    >>> radius = np.linalg.norm(np.indices((60, 60, 60)) - 30, axis=0)
    >>> image = np.select([radius < 4, radius < 19, radius < 24, radius < 26], [30, 90, 30, 3], 99)
    >>> found = cortical_envelope(image, radius < 24, radius < 4, np.ones(3))
    >>> bool((found ^ (radius < 20)).sum() < 0.04 * found.sum())
    True
    """
    box = _box_around(inner, 1 + int(np.ceil(SULCUS_CLOSING / voxel_size.min())))
    smooth = ndimage.gaussian_filter(image[box].astype(np.float32), SURFACE_SMOOTHING / voxel_size)
    depth = ndimage.distance_transform_edt(inner[box], sampling=voxel_size)
    middle = _tissue_threshold(smooth, depth, fluid_core[box])
    if middle is None:
        return inner
    brightness, sign = middle
    tissue = (sign * (smooth - brightness) < 0) | (depth > DEEPEST_FLUID)
    kept = np.zeros_like(tissue) if lesion is None else lesion[box]
    brain = np.zeros_like(inner)
    closed = _close_sulci(inner[box] & (tissue | kept), voxel_size)
    brain[box] = (closed | kept) & inner[box]
    return brain


def _box_around(mask: Mask, margin: int) -> tuple[slice, ...]:
    """Bound a mask with some voxels around it."""
    near = ndimage.find_objects(mask.astype(np.int8))[0]
    return tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in near)


def _tissue_threshold(
    image: Floats, depth: Floats, fluid_core: Mask
) -> tuple[float, float] | None:
    """Halve the way from tissue to fluid, and tell whether fluid is bright (1) or dark (-1)."""
    core, inside = image[fluid_core & (depth > 5)], depth > 0
    if not core.size:
        return None
    rim = inside & (depth <= max(2.0, depth[inside].min()))  # coarse voxels start deeper
    tissue = np.median(image[depth > 5])
    bone = np.percentile(image[rim], BONE_PERCENTILE)
    sign = 1.0 if np.median(core) > tissue else -1.0
    fluid = np.percentile(core, 50 + 30 * sign)  # the core holds tissue where ventricles are small
    if sign * (fluid - tissue) < FLUID_CONTRAST * (tissue - bone):
        return None
    return float(fluid + tissue) / 2, sign


def _close_sulci(solid: Mask, voxel_size: Floats) -> Mask:
    """Close a mask over its sulci and cavities, then let it keep a film of fluid."""
    core = largest_component(ndimage.binary_opening(solid, _ball(2.0, voxel_size)))
    grown = ndimage.distance_transform_edt(~core, sampling=voxel_size) <= SULCUS_CLOSING
    kept = ndimage.distance_transform_edt(grown, sampling=voxel_size)
    return np.asarray(ndimage.binary_fill_holes(kept > SULCUS_CLOSING - FLUID_FILM), bool)


def _bone_levels(image: Floats, distance: Floats, fluid_core: Mask) -> tuple[float, float] | None:
    """Halve the ways from bone to the darker of fluid and tissue, and to tissue; or None."""
    core = image[fluid_core & (distance < -5)]
    if not core.size:
        return None
    deep = image[distance < -5]
    tissue = np.median(deep)
    table = (distance > INNER_TABLE[0]) & (distance < INNER_TABLE[1])
    bone = np.percentile(image[table], BONE_PERCENTILE)
    # Where fluid is the brighter one, the darkest of its core is tissue in its place.
    darkest, dark = np.percentile(deep if np.median(core) > tissue else core, [5, 20])
    noise = (dark - darkest) / 0.80  # standard deviations between the two of a normal spread
    contrast = min(dark, tissue) - bone
    needed = max(BONE_CONTRAST * (tissue - bone), BONE_CONTRAST_TO_NOISE * noise)
    levels = float(bone + contrast / 2), float(bone + tissue) / 2
    return levels if contrast > needed else None


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
