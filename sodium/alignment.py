"""Where the sodium image lies: what it should look like, and which of several poses is best."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.kernel import FWHM_TO_SIGMA

EXPECTED = {"CSF": 1.0, "GM": 0.40, "WM": 0.35}  # signal relative to CSF
EXPECTED_HEAD = 0.25  # scalp and muscle, relative to CSF
PERTURBED = 10.0  # degrees and mm by which starts are turned and shifted
MANY = 8  # voxels of an image to one of a new grid, from which on a look at all costs more
BRAIN_SURFACE = 75.0  # mm from the centre of the brain


def synthetic_sodium(
    tissues: dict[str, Floats], head: Floats, fwhm: float, spacing: Floats
) -> Floats:
    """Return what a sodium image of this anatomy should look like.

    Parameters
    ----------
    tissues
        Fractions of GM, WM and CSF, one shape.
    head
        Mask of the head, same shape.
    fwhm
        Width of the blur [mm].
    spacing
        Voxel edges [mm], shape (3,).

    Returns
    -------
    image
        Signal relative to CSF, float32.
    """
    expected = sum(EXPECTED[name] * fraction for name, fraction in tissues.items())
    brain = sum(tissues.values())
    sharp = expected + EXPECTED_HEAD * np.clip(head - brain, 0, 1)
    return np.asarray(gaussian_filter(sharp, fwhm * FWHM_TO_SIGMA / spacing), np.float32)


def rigid_matrix(matrix: Floats, translation: Floats, centre: Floats) -> Floats:
    """Return a centred transform ``y = A (x - c) + c + t`` as one matrix.

    Parameters
    ----------
    matrix
        A, shape (3, 3).
    translation, centre
        t and c, shape (3,) [mm].

    Returns
    -------
    homogeneous
        Shape (4, 4).
    """
    homogeneous = np.eye(4)
    homogeneous[:3, :3] = matrix
    homogeneous[:3, 3] = centre + translation - matrix @ centre
    return homogeneous


def surface_points(centre: Floats) -> Floats:
    """Return points on a sphere of the size of a brain.

    Parameters
    ----------
    centre
        Of the brain, shape (3,) [mm].

    Returns
    -------
    points
        Shape (26, 3) [mm].
    """
    grid = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3).astype(float)
    grid = grid[np.any(grid != 0, axis=1)]
    return centre + BRAIN_SURFACE * grid / np.linalg.norm(grid, axis=1, keepdims=True)


def displacement(first: Floats, second: Floats, centre: Floats) -> float:
    """Return how far two transforms lie apart at the surface of the brain.

    Parameters
    ----------
    first, second
        Shape (4, 4) [mm].
    centre
        Of the brain, shape (3,) [mm].

    Returns
    -------
    distance
        Root mean square over :func:`surface_points` [mm].

    Examples
    --------
    >>> shifted = np.eye(4)
    >>> shifted[0, 3] = 2.0
    >>> displacement(np.eye(4), shifted, np.zeros(3))
    2.0
    """
    points = surface_points(centre)
    difference = points @ (first - second)[:3, :3].T + (first - second)[:3, 3]
    return float(np.sqrt(np.mean(np.sum(difference**2, axis=1))))


def resample(
    values: Floats, index_map: Floats, shape: tuple[int, ...], order: int, outside: float = 0.0
) -> Floats:
    """Resample an image once through an affine map of voxel indices.

    Parameters
    ----------
    values
        Shape (nx, ny, nz).
    index_map
        From voxel index of the new grid to voxel index of ``values``, shape (4, 4).
    shape
        Of the new grid.
    order
        0 nearest, 1 linear, 3 cubic spline.
    outside
        Value where the new grid leaves the image.

    Returns
    -------
    resampled
        Shape ``shape``, float32.
    """
    exact = np.round(index_map, 9)  # a rounding error must not put an edge outside the image
    if order <= 1 and tuple(shape) == values.shape and np.array_equal(exact, np.eye(4)):
        return np.array(values, np.float32)
    if order != 1 or outside != 0 or values.size > MANY * np.prod(shape):
        return _transformed(values, exact, shape, order, outside)
    box = _filled(values, exact, shape)
    resampled = np.zeros(shape, np.float32)
    there = exact.copy()
    there[:3, 3] += exact[:3, :3] @ [part.start for part in box]
    resampled[box] = _transformed(values, there, resampled[box].shape, order, outside)
    return resampled


def _transformed(
    values: Floats, mapping: Floats, shape: tuple[int, ...], order: int, outside: float
) -> Floats:
    return np.asarray(
        affine_transform(
            values,
            mapping[:3, :3],
            mapping[:3, 3],
            shape,
            np.float32,
            order,
            "constant",
            outside,
        )
    )


def _filled(values: Floats, mapping: Floats, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the part of a new grid outside of which linear interpolation gives 0.

    It is the whole grid if the image holds something in its outermost voxels: a rounding error
    would decide whether a place at their edge counts as inside.
    """
    held = values != 0
    spans = [np.flatnonzero(held.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if any(len(span) == 0 for span in spans):
        return (slice(0, 0),) * 3
    ends = [(int(span[0]) - 1, int(span[-1]) + 1) for span in spans]
    if any(low < 0 or high >= n for (low, high), n in zip(ends, values.shape, strict=True)):
        return tuple(slice(0, n) for n in shape)
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    places = np.linalg.solve(mapping[:3, :3], (corners - mapping[:3, 3]).T)
    first = np.clip(np.floor(places.min(axis=1)).astype(int), 0, shape)
    last = np.clip(np.ceil(places.max(axis=1)).astype(int) + 1, first, shape)
    return tuple(map(slice, first.tolist(), last.tolist()))


def index_map(target_affine: Floats, source_affine: Floats, transform: Floats) -> Floats:
    """Return the map from voxel indices of a target grid to those of a source image.

    Parameters
    ----------
    target_affine, source_affine
        Voxel index to position, shape (4, 4) [mm, RAS].
    transform
        From points of the target to points of the source, shape (4, 4) [mm, LPS].

    Returns
    -------
    map
        Shape (4, 4).
    """
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return np.asarray(np.linalg.inv(source_affine) @ flip @ transform @ flip @ target_affine)


def centre_of_mass(image: Floats, affine: Floats) -> Floats:
    """Return the centre of mass of an image.

    Parameters
    ----------
    image
        Shape (nx, ny, nz); negative values do not count.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].

    Returns
    -------
    centre
        Shape (3,) [mm, LPS].
    """
    weights = np.clip(image, 0, None).astype(np.float64)
    total = weights.sum()
    index = [
        float((weights.sum(axis=tuple({0, 1, 2} - {axis})) * np.arange(n)).sum() / total)
        for axis, n in enumerate(image.shape)
    ]
    return np.array([-1, -1, 1]) * (affine @ [*index, 1.0])[:3]


def rotation_about(centre: Floats, axis: int, angle: float) -> Floats:
    """Return a rotation about an axis through a point.

    Parameters
    ----------
    centre
        Shape (3,) [mm].
    axis
        0, 1 or 2.
    angle
        [rad].

    Returns
    -------
    transform
        Shape (4, 4).
    """
    turn = np.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn[first, first] = turn[second, second] = np.cos(angle)
    turn[second, first], turn[first, second] = np.sin(angle), -np.sin(angle)
    return rigid_matrix(turn, np.zeros(3), centre)


def candidate_starts(
    target: Floats,
    target_affine: Floats,
    sodium: Floats,
    affine: Floats,
    centre: Floats,
    n_perturbed: int = 6,
) -> dict[str, Floats]:
    """Return starting transforms: the header, the centres of mass, and perturbed ones.

    Parameters
    ----------
    target, target_affine
        Image that the sodium image is registered to, and its affine [mm, RAS].
    sodium, affine
        The sodium image and its affine [mm, RAS].
    centre
        Of the brain in the target's space, shape (3,) [mm, LPS].
    n_perturbed
        Number of rotated and shifted copies of the header's pose, up to 6.

    Returns
    -------
    starts
        From points of the target to points of the sodium image by name, each of shape (4, 4)
        [mm, LPS].
    """
    by_mass = np.eye(4)
    by_mass[:3, 3] = centre_of_mass(sodium, affine) - centre_of_mass(target, target_affine)
    starts: dict[str, Floats] = {"header": np.eye(4), "centre of mass": by_mass}
    for k in range(n_perturbed):
        sign = 1 if k < 3 else -1
        turned = rotation_about(centre, k % 3, sign * np.radians(PERTURBED))
        turned[k % 3, 3] += sign * PERTURBED
        starts[f"header, {'xyz'[k % 3]} turned {sign * PERTURBED:+.0f} degrees"] = turned
    return starts
