"""The head of the phantom: tissue fractions and T1w contrast of one simulated subject.

An averaged brain is the start of every subject; ventricles, cortex, shape and pose then differ
from subject to subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.phantom_lesions import (
    DEFAULT_KIND,
    Lesion,
    Owners,
    class_names,
)
from sodiumprep.sodium.phantom_template import (
    OUTSIDE,
    REACH,
    Template,
    border,
    grid_index,
    sample,
)

CORTEX = 3.0  # mm, thickness to which a relative change of the cortex refers
FLUID_LAYER = 1.5  # mm, fluid between the brain mask of the template and the skull
SLAB = 8  # slices that are built at a time: they fit into the cache
HEAD_CLASSES = ("soft", "skull", "fluid")


def brain_classes(kind: str) -> tuple[str, ...]:
    """Return the classes inside the skull of a head with a kind of lesion.

    Examples
    --------
    >>> brain_classes("stroke")
    ('GM', 'WM', 'CSF', 'core', 'penumbra', 'other')
    """
    return ("GM", "WM", "CSF", *class_names(kind), "other")


def head_classes(kind: str) -> tuple[str, ...]:
    """Return all classes of a head with a kind of lesion, in the order of its shares."""
    return (*brain_classes(kind), *HEAD_CLASSES)


CLASSES = head_classes(DEFAULT_KIND)


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
    lesion
        In the space of the template, or None.
    kind
        Of the lesions of the cohort: their classes have a place in every head.
    skull_thickness, scalp_thickness
        [mm].
    """

    ventricle_scale: float
    cortex_scale: float
    size: Floats
    displacement: Floats
    lesion: Lesion | None = None
    kind: str = DEFAULT_KIND
    skull_thickness: float = 6.5
    scalp_thickness: float = 5.5

    def with_lesion(self, lesion: Lesion | None) -> Anatomy:
        """Return the same head with a lesion, or without one.

        Parameters
        ----------
        lesion
            In the space of the template.
        """
        return replace(self, lesion=lesion, kind=lesion.kind if lesion else self.kind)


@dataclass(frozen=True)
class Head:
    """Fractions of everything in a voxel.

    Parameters
    ----------
    shares
        Fraction of each of ``classes``, shape (classes, x, y, z); brain classes sum to the share
        inside the skull, and all of them with air to one.
    depth
        Distance below the skin, shape (x, y, z) [mm].
    levels
        Signed distances to the tissue, white-matter and brain borders, shape (3, x, y, z) [mm].
    kind
        Of lesion, whose classes are among the shares.
    """

    shares: Floats
    depth: Floats
    levels: Floats
    kind: str = DEFAULT_KIND

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the shares."""
        return head_classes(self.kind)

    @property
    def lesions(self) -> tuple[str, ...]:
        """Classes of its kind of lesion, whether or not it has one."""
        return class_names(self.kind)

    @property
    def fractions(self) -> dict[str, Floats]:
        """Fraction by class, each of shape (x, y, z)."""
        return dict(zip(self.classes, self.shares, strict=True))

    @property
    def brain(self) -> Floats:
        """Share of the voxel inside the skull, shape (x, y, z)."""
        return np.clip(self.shares[: -len(HEAD_CLASSES)].sum(axis=0), 0, 1)


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
    index = grid_index(nodes, position)
    moved = np.empty(position.shape, np.float32)
    for i in range(3):
        moved[i] = position[i] / np.float32(anatomy.size[i])
        moved[i] += sample(anatomy.displacement[i], index)
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
    index = grid_index(template.affine, position)
    level = sample(template.ventricle, index, -2 * REACH)
    near = (level > -REACH) & (level < -shift)
    away = -level[near]
    push = REACH * (away - shift) / (REACH - shift) - away
    moved, points = position.copy(), index[:, near]
    for axis in range(3):
        moved[axis, near] -= push * sample(template.slope[axis], points)
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
    index = grid_index(template.affine, pushed)
    tissue = np.minimum(sample(template.tissue, index, OUTSIDE), -ventricle)
    white = sample(template.white, index, OUTSIDE)
    edge = brain + np.float32(FLUID_LAYER)
    inside = border(np.maximum(edge, tissue))
    levels = np.stack([tissue, white, edge])
    other = _unlabelled(p, tissue, brain, ventricle)
    parts = divide_brain(levels, anatomy.cortex_scale, other, inside)
    if anatomy.lesion is not None:
        parts = anatomy.lesion.take(parts, p, pushed)
    nothing = np.zeros_like(edge)
    return np.stack([parts.get(name, nothing) for name in brain_classes(anatomy.kind)]), levels


def _build_slab(template: Template, anatomy: Anatomy, shift: float, position: Floats) -> Head:
    p = deform(anatomy, position)
    brain = sample(template.brain, grid_index(template.brain_affine, p))
    near = brain > -FLUID_LAYER - 4
    n, size = len(brain_classes(anatomy.kind)), brain.shape
    shares = np.zeros((n + len(HEAD_CLASSES), *size), np.float32)
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
    return Head(shares, skin, levels, anatomy.kind)


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
        np.empty((len(head_classes(anatomy.kind)), *size), np.float32),
        np.empty(size, np.float32),
        np.empty((3, *size), np.float32),
        anatomy.kind,
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


def lesion_labels(template: Template, anatomy: Anatomy, head: Head, affine: Floats) -> Owners:
    """Return to which lesion each voxel belongs.

    Parameters
    ----------
    template
        Borders of the averaged brain.
    anatomy
        What makes this subject.
    head
        As :func:`build_head` makes it of these.
    affine
        Voxel index to position in the head, shape (4, 4) [mm, RAS].

    Returns
    -------
    labels
        From 1, wherever there is any lesion; 0 elsewhere; shape (x, y, z).
    """
    labels = np.zeros(head.depth.shape, np.uint8)
    if anatomy.lesion is not None:
        inside = sum(head.fractions[name] for name in head.lesions) > 0
        points = affine[:3, :3] @ np.argwhere(inside).T + affine[:3, 3:]
        shift = ventricle_shift(template, anatomy.ventricle_scale)
        pushed, _ = push_ventricles(template, shift, deform(anatomy, points.astype(np.float32)))
        labels[inside] = anatomy.lesion.owners(pushed)
    return labels
