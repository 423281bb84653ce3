"""What surrounds lesions, and what lies opposite of them: shells by distance, mirrored regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import (
    affine_transform,
    binary_dilation,
    distance_transform_edt,
    find_objects,
    gaussian_filter,
)
from scipy.optimize import minimize

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.alignment import BRAIN_SURFACE, displacement, resample

HALF = 0.5  # fraction from which on a voxel belongs to a lesion or to the brain
ON_MIDLINE = 0.1  # share of a mirrored lesion on the lesion itself, from which on it has no value
LEAST_LEFT = 0.5  # share of a mirrored lesion that must be brain without lesions
MIDLINE, COVERED = "on_midline", "mirror_not_free"  # why a mirrored lesion has no value
COARSE, FINE = 4.0, 2.0  # mm, grids on which the plane is looked for
STARTS = (-16.0, 0.0, 16.0)  # mm at the surface of the brain, by which first planes are turned
AROUND_LESION = 3  # coarse voxels around lesions that are left out with them
CLIPPED = 99.0  # percentile of the brain above which brightness tells nothing


def shell_names(edges: Sequence[float]) -> dict[int, str]:
    """Return the names of shells around lesions by their labels.

    Parameters
    ----------
    edges
        Outer distance of each, rising [mm].

    Examples
    --------
    >>> shell_names([5, 7.5])
    {1: 'shell 0-5 mm', 2: 'shell 5-7.5 mm'}
    """
    inner = [0.0, *edges[:-1]]
    return {
        k: f"shell {low:g}-{high:g} mm"
        for k, (low, high) in enumerate(zip(inner, edges, strict=True), 1)
    }


def shell_labels(
    lesion: Floats, brain: Floats, spacing: Floats, edges: Sequence[float]
) -> Integers:
    """Return shells around lesions, inside the brain.

    Parameters
    ----------
    lesion, brain
        Fraction of all lesions, and of brain and lesions, shape (nx, ny, nz).
    spacing
        Voxel edges, shape (3,) [mm].
    edges
        Outer distance of each shell from the border of the nearest lesion, rising [mm].

    Returns
    -------
    labels
        1 for the innermost shell, 0 for none, shape (nx, ny, nz).

    Examples
    --------
    >>> lesion = np.zeros((9, 1, 1))
    >>> lesion[4] = 1
    >>> shell_labels(lesion, np.ones((9, 1, 1)), np.ones(3), [1.0, 3.0]).ravel()
    array([0, 2, 2, 1, 0, 1, 2, 2, 0], dtype=int32)
    """
    inside = lesion >= HALF
    labels = np.zeros(inside.shape, np.int32)
    if not inside.any():
        return labels
    reach = np.ceil(edges[-1] / spacing).astype(int) + 2
    (tight,) = find_objects(inside.astype(np.uint8))
    box = tuple(
        slice(max(part.start - r, 0), part.stop + r)
        for part, r in zip(tight, reach.tolist(), strict=True)
    )
    # a border lies half a voxel before the centre of the first voxel within
    distance = distance_transform_edt(~inside[box], sampling=spacing) - np.mean(spacing) / 2
    found = 1 + np.searchsorted(edges, distance)
    outside = inside[box] | (brain[box] < HALF) | (found > len(edges))
    labels[box] = np.where(outside, 0, found)
    return labels


@dataclass(frozen=True)
class Reflection:
    """The mirror image of a brain about the plane between its hemispheres.

    Parameters
    ----------
    matrix
        From each point to the one opposite, shape (4, 4) [mm, RAS].
    correlation
        Of the brain with its mirror image, lesions left out.
    spread
        Half of the distance at the surface of the brain between where planes send it that fit
        its front and its back alone [mm].
    """

    matrix: Floats
    correlation: float
    spread: float

    def index_map(self, affine: Floats) -> Floats:
        """Return what maps voxels of a grid to those opposite, shape (4, 4)."""
        return np.asarray(np.linalg.inv(affine) @ self.matrix @ affine)


def reflection_matrix(centre: Floats, parameters: Floats) -> Floats:
    """Return the reflection about a plane that is nearly sagittal.

    Parameters
    ----------
    centre
        Point that the plane is told from, shape (3,) [mm, RAS].
    parameters
        How far the plane is turned about the axis to the top and about that to the front, at the
        surface of the brain, and where it lies; shape (3,) [mm].

    Returns
    -------
    matrix
        Shape (4, 4) [mm, RAS].

    Examples
    --------
    >>> point = reflection_matrix(np.zeros(3), np.array([0.0, 0.0, 2.0])) @ [5, 1, 1, 1]
    >>> point.tolist()
    [-1.0, 1.0, 1.0, 1.0]
    """
    normal = np.array([1.0, parameters[0] / BRAIN_SURFACE, parameters[1] / BRAIN_SURFACE])
    normal /= np.linalg.norm(normal)
    matrix = np.eye(4)
    matrix[:3, :3] -= 2 * np.outer(normal, normal)
    matrix[:3, 3] = 2 * normal * (normal @ centre + parameters[2])
    return matrix


class _Symmetry:
    """How alike a brain and its mirror image are, on a grid of its own along the axes."""

    def __init__(self, known: _Brain, step: float) -> None:
        corners = np.stack(np.meshgrid(*[[0, n - 1] for n in known.image.shape], indexing="ij"))
        corners = corners.reshape(3, -1).T @ known.affine[:3, :3].T + known.affine[:3, 3]
        low, high = corners.min(axis=0), corners.max(axis=0)
        shape = tuple(np.ceil((high - low) / step).astype(int) + 1)
        self.affine = np.diag([step, step, step, 1.0])
        self.affine[:3, 3] = low
        mapping = np.linalg.inv(known.affine) @ self.affine
        width = 0.4 * step / np.linalg.norm(known.affine[:3, :3], axis=0)
        self.image = resample(gaussian_filter(known.image, width), mapping, shape, 1)
        lesion = resample(gaussian_filter(known.lesion, width), mapping, shape, 1) > 0.05
        around = round(AROUND_LESION * COARSE / step)
        self.valid = np.ones(shape, np.float32)
        if lesion.any():
            self.valid -= binary_dilation(lesion, iterations=around)
        self.centre = known.centre

    def correlation(self, parameters: Floats, where: Floats | float = 1.0) -> float:
        """Return the correlation with the mirror image about a plane."""
        matrix = reflection_matrix(self.centre, parameters)
        mapping = np.linalg.inv(self.affine) @ matrix @ self.affine

        def mirrored(values: Floats, outside: float) -> Floats:
            return np.asarray(
                affine_transform(
                    values, mapping[:3, :3], mapping[:3, 3], order=1, cval=outside,
                    mode="constant", output=np.float32,
                )
            )  # fmt: skip

        other = mirrored(self.image, 0.0)
        weights = self.valid * where
        if self.valid.min() < 1:
            weights = weights * (mirrored(self.valid, 1.0) > 0.99)
        total = weights.sum(dtype=np.float64)
        one = self.image - np.sum(weights * self.image, dtype=np.float64) / total
        other = other - np.sum(weights * other, dtype=np.float64) / total
        shared = np.sum(weights * one * other, dtype=np.float64)
        spreads = [np.sum(weights * part**2, dtype=np.float64) for part in (one, other)]
        return float(shared / np.sqrt(np.prod(spreads)))

    def best(self, start: Floats, reach: float, where: Floats | float = 1.0) -> Floats:
        """Return the plane that fits best, by a search around a start [mm]."""
        simplex = start + reach * np.concatenate([np.zeros((1, 3)), np.eye(3)])
        found = minimize(
            lambda p: -self.correlation(p, where), start, method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 0.05, "fatol": 1e-6, "maxfev": 120},
        )  # fmt: skip
        return np.asarray(found.x)


@dataclass(frozen=True)
class _Brain:
    image: Floats
    lesion: Floats
    affine: Floats
    centre: Floats

    @classmethod
    def cut(cls, image: Floats, brain: Floats, lesion: Floats, affine: Floats) -> _Brain:
        """Return what lies in the box around the brain, other tissue left out."""
        inside = brain >= HALF
        (box,) = find_objects(inside.astype(np.uint8))
        within = np.argwhere(inside[box]).mean(axis=0)
        corner = np.eye(4)
        corner[:3, 3] = [part.start for part in box]
        own = affine @ corner
        top = np.percentile(image[inside], CLIPPED)
        shown = np.clip(image[box] / top, 0, 1) * np.clip(brain[box], 0, 1)
        centre = own[:3, :3] @ within + own[:3, 3]
        return cls(shown.astype(np.float32), lesion[box].astype(np.float32), own, centre)


def find_reflection(image: Floats, brain: Floats, lesion: Floats, affine: Floats) -> Reflection:
    """Find the plane about which a brain is most like its mirror image.

    What is a lesion on either side does not count.

    Parameters
    ----------
    image, brain, lesion
        Contrast of the anatomy, fraction of brain with lesions, and of lesions; one shape.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].

    Returns
    -------
    reflection
        With its error.

    Raises
    ------
    ValueError
        If no voxel is brain.
    """
    if not (brain >= HALF).any():
        raise ValueError("no voxel of the anatomy is brain: no mirror image can be made")
    known = _Brain.cut(image, brain, lesion, affine)
    coarse = _Symmetry(known, COARSE)
    starts = [np.array([yaw, roll, 0.0]) for yaw in STARTS for roll in STARTS]
    first = max(starts, key=coarse.correlation)
    near = coarse.best(first, 8.0)
    fine = _Symmetry(known, FINE)
    best = fine.best(near, 1.0)
    matrix = reflection_matrix(known.centre, best)
    place = coarse.affine[1, 3] + COARSE * np.arange(coarse.image.shape[1])
    front = np.asarray(place > known.centre[1], np.float32)[:, None]
    one, other = (
        reflection_matrix(known.centre, coarse.best(best, 2.0, w)) for w in (front, 1 - front)
    )
    spread = displacement(one, other, known.centre) / 2
    return Reflection(matrix, fine.correlation(best), spread)


def mirror_labels(
    lesions: Mapping[str, Floats], brain: Floats, index_map: Floats
) -> tuple[Integers, dict[int, str]]:
    """Return what lies opposite of lesions.

    Parameters
    ----------
    lesions
        Fraction of each class, shape (nx, ny, nz).
    brain
        Fraction of brain with lesions, same shape.
    index_map
        From each voxel to the one opposite, shape (4, 4).

    Returns
    -------
    labels
        1 for what lies opposite of the first class, 0 for nothing; lesions and what lies outside
        the brain are left out.
    without
        Why a label has no value: ``on_midline`` where more than 10 % of a mirrored class lie on
        the class itself, ``mirror_not_free`` where less than half of it is brain without lesions.
    """
    labels, without = np.zeros(brain.shape, np.int32), {}
    free = (brain >= HALF) & (sum(lesions.values()) < HALF / 10)
    for label, fraction in enumerate(lesions.values(), 1):
        opposite = resample(fraction, index_map, brain.shape, 1) >= HALF
        whole = max(float(np.sum(fraction >= HALF)), 1.0)
        left = opposite & free
        labels[left] = label
        if np.sum(opposite & (fraction >= HALF)) > ON_MIDLINE * whole:
            without[label] = MIDLINE
        elif left.sum() < LEAST_LEFT * whole:
            without[label] = COVERED
    return labels, without
