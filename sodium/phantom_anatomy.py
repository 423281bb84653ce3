"""The head of the phantom: tissue fractions and T1w contrast of one simulated subject.

The maps of an averaged brain serve as the start of every subject. They are turned into signed
distances to the borders of tissue, so that borders can be moved by millimetres and drawn crisply
again; ventricles, cortex, shape and pose then differ from subject to subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from sodiumprep.sodium.acquisition import Floats

BORDER_WIDTH = 1.2  # mm, over which a fraction goes from 0 to 1: partial volume at borders only
CORTEX = 3.0  # mm, thickness to which a relative change of the cortex refers
REACH = 25.0  # mm, distance over which the ventricles push the tissue around them
FLUID_LAYER = 1.5  # mm, fluid between the brain mask of the template and the skull
OUTSIDE = -30.0  # mm, level of tissue where the template does not reach
TISSUE_THRESHOLD = 0.7  # probability: above one half, since averaging fills the sulci
SLAB = 8  # slices that are built at a time: they fit into the cache

BRAIN_CLASSES = ("GM", "WM", "CSF", "core", "edema", "other")
HEAD_CLASSES = ("soft", "skull", "fluid")
CLASSES = (*BRAIN_CLASSES, *HEAD_CLASSES)
LESIONS = ("core", "edema")


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


@dataclass(frozen=True)
class Anatomy:
    """What makes the head of one subject.

    Parameters
    ----------
    ventricle_scale
        Volume of the ventricles over that of the template.
    cortex_scale
        Thickness of the cortex over that of the template.
    size
        Head size over that of the template along x, y and z, shape (3,).
    displacement
        Smooth deformation on a coarse grid, shape (3, n, n, n) [mm].
    lesion_centre
        Template position of a glioma, shape (3,) [mm, RAS], or None.
    lesion_radii
        Radius of its necrotic core and of its oedema [mm].
    skull_thickness, scalp_thickness
        [mm].
    """

    ventricle_scale: float
    cortex_scale: float
    size: Floats
    displacement: Floats
    lesion_centre: Floats | None = None
    lesion_radii: tuple[float, float] = (11.0, 21.0)
    skull_thickness: float = 6.5
    scalp_thickness: float = 5.5


@dataclass(frozen=True)
class Head:
    """Fractions of everything in a voxel.

    Parameters
    ----------
    shares
        Fraction of each of ``CLASSES``, shape (classes, x, y, z); brain classes sum to the share
        inside the skull, and all of them with air to one.
    depth
        Distance below the skin, shape (x, y, z) [mm].
    levels
        Signed distances to the tissue, white-matter and brain borders, shape (3, x, y, z) [mm].
    """

    shares: Floats
    depth: Floats
    levels: Floats

    @property
    def fractions(self) -> dict[str, Floats]:
        """Fraction by class, each of shape (x, y, z)."""
        return dict(zip(CLASSES, self.shares, strict=True))

    @property
    def brain(self) -> Floats:
        """Share of the voxel inside the skull, shape (x, y, z)."""
        return np.clip(self.shares[: len(BRAIN_CLASSES)].sum(axis=0), 0, 1)


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


def _positions(shape: Sequence[int], affine: Floats) -> list[Floats]:
    """Position of each voxel of an axis-aligned grid, as three broadcastable axes [mm]."""
    axes = [affine[i, i] * np.arange(n) + affine[i, 3] for i, n in enumerate(shape)]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _find_ventricles(tissue: Floats, affine: Floats) -> NDArray[np.bool_]:
    x, y, z = _positions(tissue.shape, affine)
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


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], scale: float) -> Floats:
    """Return a smooth random field of zero mean and unit variance.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Shape of the field.
    scale
        Standard deviation of the Gaussian that smooths it [voxels].

    Returns
    -------
    field
        float32.
    """
    field = ndimage.gaussian_filter(
        rng.standard_normal(shape, dtype=np.float32), scale, mode="wrap"
    )
    return (field - field.mean()) / field.std()


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a subject's anatomy, without a lesion.

    Parameters
    ----------
    rng
        Source of randomness.

    Returns
    -------
    anatomy
        Ventricles 0.6 to 2.5 times, cortex 0.7 to 1.3 times those of the template, size 0.9 to
        1 (the averaged brain is large), deformation of 2.5 mm SD.
    """
    displacement = np.stack([2.5 * smooth_noise(rng, (32, 32, 32), 3.0) for _ in range(3)])
    return Anatomy(
        ventricle_scale=float(np.exp(rng.uniform(np.log(0.6), np.log(2.5)))),
        cortex_scale=float(rng.uniform(0.7, 1.3)),
        size=rng.uniform(0.9, 1.0, 3),
        displacement=displacement,
        skull_thickness=float(rng.uniform(5.5, 7.5)),
        scalp_thickness=float(rng.uniform(4.5, 7.0)),
    )


def draw_lesion_centre(rng: np.random.Generator, template: Template) -> Floats:
    """Draw the centre of a glioma in deep white matter of one hemisphere.

    Parameters
    ----------
    rng
        Source of randomness.
    template
        Where white matter lies.

    Returns
    -------
    centre
        Shape (3,) [mm, RAS, template].
    """
    x, y, z = _positions(template.white.shape, template.affine)
    lateral = (abs(x) > 24) & (z > 8) & (z < 45) & (y > -60) & (y < 40)
    candidates = np.argwhere((template.white > 2.5) & lateral & (template.ventricle < -12))
    return (
        candidates[rng.integers(len(candidates))] @ template.affine[:3, :3]
        + template.affine[:3, 3]
    )


def _index(affine: Floats, position: Floats) -> Floats:
    """Voxel index of positions of shape (3, ...) [mm] on an axis-aligned grid."""
    shape = (3, *[1] * (position.ndim - 1))
    scale = (1 / np.diag(affine)[:3]).astype(np.float32).reshape(shape)
    return position * scale - affine[:3, 3].astype(np.float32).reshape(shape) * scale


def _sample(volume: Floats, index: Floats, outside: float | None = None) -> Floats:
    """Interpolate a volume; beyond it lies a constant or what lies at its edge."""
    mode = "nearest" if outside is None else "constant"
    return ndimage.map_coordinates(
        volume, index, order=1, output=np.float32, mode=mode, cval=outside or 0.0
    )


def deform(anatomy: Anatomy, position: Floats) -> Floats:
    """Map positions in a subject's head to the template, but for the ventricles.

    Parameters
    ----------
    anatomy
        Size and smooth deformation of the subject.
    position
        Shape (3, x, y, z) [mm, RAS, origin at the anterior commissure].

    Returns
    -------
    template_position
        Same shape [mm].
    """
    spacing = 8.0  # mm between the nodes of the deformation
    nodes = np.diag([spacing] * 3 + [1.0])
    nodes[:3, 3] = -spacing * (np.asarray(anatomy.displacement.shape[1:]) // 2)
    index = _index(nodes, position)
    moved = np.empty(position.shape, np.float32)
    for i in range(3):
        moved[i] = position[i] / np.float32(anatomy.size[i])
        moved[i] += _sample(anatomy.displacement[i], index)
    return moved


def ventricle_shift(template: Template, scale: float) -> float:
    """Return how far the ventricle wall moves outwards to scale the volume.

    Parameters
    ----------
    template
        Where the ventricles lie.
    scale
        Wanted volume over that of the template.

    Returns
    -------
    shift
        [mm], negative if the ventricles shrink.

    Raises
    ------
    ValueError
        If the scale is not positive.
    """
    if not scale > 0:
        raise ValueError(f"the ventricle scale is {scale}; it must be positive")
    level = template.ventricle.ravel()
    wanted = int(scale * np.count_nonzero(level > 0))
    return -float(np.partition(level, -wanted)[-wanted])


def push_ventricles(template: Template, shift: float, position: Floats) -> tuple[Floats, Floats]:
    """Move the tissue around the ventricles with their walls.

    Parameters
    ----------
    template
        Where the ventricles lie.
    shift
        How far the walls move outwards [mm].
    position
        Template positions before, shape (3, ...) [mm].

    Returns
    -------
    position
        Template positions after, same shape [mm]: a moved wall finds its tissue there, and
        nothing moves beyond ``REACH``.
    ventricle
        Signed distance to the new ventricle wall, shape (...) [mm].
    """
    index = _index(template.affine, position)
    level = _sample(template.ventricle, index, -2 * REACH)
    near = (level > -REACH) & (level < -shift)
    away = -level[near]
    push = REACH * (away - shift) / (REACH - shift) - away
    moved, points = position.copy(), index[:, near]
    for axis in range(3):
        moved[axis, near] -= push * _sample(template.slope[axis], points)
    return moved, level + np.float32(shift)


def _smooth_union(first: Floats, second: Floats, blend: float = 8.0) -> Floats:
    """Union of two signed distances with the crease filled over some millimetres."""
    gap = np.maximum(blend - np.abs(first - second), 0)
    return np.maximum(first, second) + gap * gap / np.float32(4 * blend)


def _ellipsoid(p: Floats, centre: Sequence[float], radii: Sequence[float]) -> Floats:
    """Signed distance, nearly, to an ellipsoid, positive inside."""
    square = sum(((p[i] - c) / r) ** 2 for i, (c, r) in enumerate(zip(centre, radii, strict=True)))
    return np.float32(min(radii)) * (1 - np.sqrt(square))


def _tube(p: Floats, centre: tuple[float, float], radii: tuple[float, float]) -> Floats:
    """Signed distance, nearly, to an elliptic tube along z, positive inside."""
    square = ((p[0] - centre[0]) / radii[0]) ** 2 + ((p[1] - centre[1]) / radii[1]) ** 2
    return np.float32(min(radii)) * (1 - np.sqrt(square))


def _skin(anatomy: Anatomy, p: Floats, brain: Floats) -> Floats:
    """Signed distance to the skin: cranium, face, jaw and neck."""
    cranium = brain + np.float32(FLUID_LAYER + anatomy.skull_thickness + anatomy.scalp_thickness)
    face = _ellipsoid(p, (0, 38, -58), (58, 52, 62))
    nose = _ellipsoid(p, (0, 86, -52), (10, 16, 18))
    neck = np.minimum(_tube(p, (0, -28), (58, 62)), -40 - p[2])
    head = _smooth_union(_smooth_union(cranium, face), neck, 20.0)
    return _smooth_union(head, nose, 10.0)


def _eyes(p: Floats) -> Floats:
    """Signed distance to the humours of both eyes, the lens left out."""
    balls = np.maximum(*(_ellipsoid(p, (side * 31, 62, -37), (12, 12, 12)) for side in (-1, 1)))
    lenses = (_ellipsoid(p, (side * 31, 68.3, -38.7), (4.6, 2.2, 4.6)) for side in (-1, 1))
    return np.minimum(balls, -np.maximum(*lenses))


def _airways(p: Floats) -> Floats:
    nasal = _ellipsoid(p, (0, 58, -60), (9, 26, 16))
    throat = np.minimum(_ellipsoid(p, (0, 6, -90), (11, 9, 40)), 60 + p[2])
    return np.maximum(np.maximum(nasal, throat), _ellipsoid(p, (0, 78, -18), (12, 4, 6)))


def _unlabelled(p: Floats, tissue: Floats, brain: Floats, ventricle: Floats) -> Floats:
    """Signed distance to what no segmenter names: falx, sinus, choroid plexus, pituitary."""
    sheet = np.minimum(0.7 - np.abs(p[0]), np.minimum(-tissue - 0.2, p[2] - 12))
    sinus = np.minimum(3.5 - np.hypot(p[0], brain - 1.5), p[2] + 10)
    plexus = np.maximum(*(_ellipsoid(p, (s * 22, -36, 14), (3.5, 7, 3.5)) for s in (-1, 1)))
    gland = _ellipsoid(p, (0, 6, -32), (6, 4, 4))
    basilar = np.minimum(_tube(p, (0, -19), (2, 2)), np.minimum(p[2] + 50, -26 - p[2]))
    levels = [sheet, sinus, np.minimum(plexus, ventricle + 3), gland, basilar]
    return np.minimum(np.maximum.reduce(levels), brain + np.float32(FLUID_LAYER))


def _lesion_levels(anatomy: Anatomy, p: Floats) -> tuple[Floats, Floats]:
    """Signed distance to the borders of core and oedema, lobulated by the same deformation."""
    if anatomy.lesion_centre is None:
        return np.full(p.shape[1:], OUTSIDE, np.float32), np.full(p.shape[1:], OUTSIDE, np.float32)
    away = [p[i] - np.float32(anatomy.lesion_centre[i]) for i in range(3)]
    radius = np.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2)
    lobes = np.sin(away[0] / 6) * np.cos(away[1] / 7) + np.sin(away[2] / 8)
    core, oedema = anatomy.lesion_radii
    return core + np.float32(1.2) * lobes - radius, oedema + np.float32(2.5) * lobes - radius


def divide_brain(
    levels: Floats, thickness: float, other: Floats, inside: Floats
) -> dict[str, Floats]:
    """Share the inside of the skull among grey matter, white matter, fluid and the rest."""
    shift = np.float32(0.5 * CORTEX * (thickness - 1))
    tissue = border(levels[0] + shift) * inside
    white = border(levels[1] - shift) * tissue
    free = 1 - border(other)
    return {
        "GM": (tissue - white) * free,
        "WM": white * free,
        "CSF": (inside - tissue) * free,
        "other": inside * (1 - free),
    }


def _place_lesion(parts: dict[str, Floats], core: Floats, oedema: Floats) -> dict[str, Floats]:
    """Let the core replace everything and oedema replace white and part of grey matter."""
    core_share, oedema_share = border(core), border(oedema)
    inside: dict[str, Floats] = {name: part * (1 - core_share) for name, part in parts.items()}
    taken = {"WM": oedema_share, "GM": 0.6 * border(oedema - 4)}
    parts_left = {n: p * (1 - taken[n]) if n in taken else p for n, p in inside.items()}
    parts_left["core"] = np.sum(list(parts.values()), axis=0) * core_share
    parts_left["edema"] = np.sum([inside[n] * t for n, t in taken.items()], axis=0)
    return parts_left


def _divide_head(p: Floats, brain: Floats, skin: Floats, anatomy: Anatomy) -> dict[str, Floats]:
    """Share of soft tissue, skull and fluid of eyes and spine, before the brain takes its own."""
    canal = np.minimum(_tube(p, (0, -43), (9, 9)), -62 - p[2])
    spinal = np.minimum(canal, -_tube(p, (0, -43), (6, 6)))
    inside = border(skin) * (1 - border(_airways(p)))
    fluid = border(np.maximum(_eyes(p), spinal)) * inside
    bone = np.minimum(brain + np.float32(FLUID_LAYER + anatomy.skull_thickness), skin - 3)
    skull = border(np.minimum(bone, -canal)) * (inside - fluid)
    return {"fluid": fluid, "skull": skull, "soft": inside - fluid - skull}


def _fill_brain(
    template: Template, anatomy: Anatomy, shift: float, p: Floats, brain: Floats
) -> tuple[Floats, Floats]:
    """Shares of the brain classes at points near the brain, and the levels there."""
    pushed, ventricle = push_ventricles(template, shift, p)
    index = _index(template.affine, pushed)
    tissue = np.minimum(_sample(template.tissue, index, OUTSIDE), -ventricle)
    white = _sample(template.white, index, OUTSIDE)
    edge = brain + np.float32(FLUID_LAYER)
    inside = border(np.maximum(edge, tissue))
    levels = np.stack([tissue, white, edge])
    other = _unlabelled(p, tissue, brain, ventricle)
    parts = divide_brain(levels, anatomy.cortex_scale, other, inside)
    parts = _place_lesion(parts, *_lesion_levels(anatomy, p))
    return np.stack([parts[name] for name in BRAIN_CLASSES]), levels


def _build_slab(template: Template, anatomy: Anatomy, shift: float, position: Floats) -> Head:
    p = deform(anatomy, position)
    brain = _sample(template.brain, _index(template.brain_affine, p))
    near = brain > -FLUID_LAYER - 4
    n, size = len(BRAIN_CLASSES), brain.shape
    shares = np.zeros((len(CLASSES), *size), np.float32)
    levels = np.full((3, *size), OUTSIDE, np.float32)
    levels[2] = brain + np.float32(FLUID_LAYER)
    shares[:n, near], levels[:, near] = _fill_brain(
        template, anatomy, shift, p[:, near], brain[near]
    )
    skin = _skin(anatomy, p, brain)
    around = _divide_head(p, brain, skin, anatomy)
    outside = 1 - shares[:n].sum(axis=0)
    for i, name in enumerate(HEAD_CLASSES, start=n):
        np.multiply(around[name], outside, out=shares[i])
    return Head(shares, skin, levels)


def _axis_positions(shape: Sequence[int], affine: Floats, rows: tuple[int, int]) -> Floats:
    """Head position of the voxels of some slices, shape (3, x, y, z) [mm]."""
    spans = (rows, (0, shape[1]), (0, shape[2]))
    x, y, z = (np.arange(first, last, dtype=np.float32) for first, last in spans)
    return np.stack([
        row[0] * x[:, None, None] + row[1] * y[:, None] + row[2] * z + row[3]
        for row in affine[:3].astype(np.float32)
    ])  # fmt: skip


def build_head(template: Template, anatomy: Anatomy, shape: Sequence[int], affine: Floats) -> Head:
    """Fill each voxel of a subject's head.

    Parameters
    ----------
    template
        Borders of the averaged brain.
    anatomy
        What makes this subject.
    shape
        Voxels along the three axes.
    affine
        Voxel index to position in the head, shape (4, 4) [mm, RAS].

    Returns
    -------
    head
        Fractions that sum to at most one (the rest is air).
    """
    shift = ventricle_shift(template, anatomy.ventricle_scale)
    size = tuple(shape)
    head = Head(
        np.empty((len(CLASSES), *size), np.float32),
        np.empty(size, np.float32),
        np.empty((3, *size), np.float32),
    )

    def fill(first: int) -> None:
        rows = slice(first, min(first + SLAB, size[0]))
        slab = _build_slab(
            template, anatomy, shift, _axis_positions(size, affine, (rows.start, rows.stop))
        )
        head.shares[:, rows], head.depth[rows] = slab.shares, slab.depth
        head.levels[:, rows] = slab.levels

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fill, range(0, size[0], SLAB)))
    return head


@dataclass(frozen=True)
class Contrast:
    """T1w brightness of tissues, white matter being one."""

    grey: float = 0.68
    fluid: float = 0.2
    core: float = 0.38
    oedema: float = 0.62
    other: float = 0.5
    muscle: float = 0.52
    fat: float = 1.2
    bone: float = 0.07
    marrow: float = 0.4


def draw_contrast(rng: np.random.Generator) -> Contrast:
    """Draw the T1w contrast of a scan.

    Parameters
    ----------
    rng
        Source of randomness.

    Returns
    -------
    contrast
        Grey matter 0.62 to 0.74 and fluid 0.15 to 0.27 of white matter.
    """
    return Contrast(grey=float(rng.uniform(0.62, 0.74)), fluid=float(rng.uniform(0.15, 0.27)))


def t1_weighted(head: Head, contrast: Contrast) -> Floats:
    """Return the T1w image without bias field and noise.

    Parameters
    ----------
    head
        Fractions and depth below the skin.
    contrast
        Brightness of the tissues.

    Returns
    -------
    image
        Shape (x, y, z), white matter 1.
    """
    image = np.empty_like(head.depth)
    for first in range(0, len(image), SLAB):
        rows = slice(first, first + SLAB)
        brightness = _brightness(head.depth[rows], head.levels[2, rows], contrast)
        image[rows] = sum(head.shares[i, rows] * b for i, b in enumerate(brightness))
    return image


def _brightness(depth: Floats, brain: Floats, contrast: Contrast) -> list[float | Floats]:
    """Brightness of each class; fat lies under the skin, marrow in the middle of the skull."""
    fat, marrow = border(5 - depth, 2.0), border(1.2 - np.abs(brain + 3.2), 1.0)
    soft = contrast.muscle + (contrast.fat - contrast.muscle) * fat
    skull = contrast.bone + (contrast.marrow - contrast.bone) * marrow
    return [
        contrast.grey, 1.0, contrast.fluid, contrast.core, contrast.oedema, contrast.other,
        soft, skull, contrast.fluid,
    ]  # fmt: skip
