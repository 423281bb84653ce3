"""Sessions of one subject in one space: the mean of rigid poses, and the mean of images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sodiumprep.sodium.acquisition import Floats

LARGEST_TURN = np.radians(170.0)  # rad; near half a turn the way back is not unique
NOT_RIGID = 1e-2  # of R^T R from the identity; text files and float32 stay far below
MEAN_TOLERANCE = 1e-9  # mm and rad, of a step of the mean
MEAN_STEPS = 50  # the mean of poses within 60 degrees takes under ten
SMALL_ANGLE = 1e-6  # rad, below which the series of the exponential is used


def nearest_rigid(matrix: Floats) -> Floats:
    """Return a rigid transform without the rounding errors of its rotation.

    Parameters
    ----------
    matrix
        Rotation and translation [mm], shape (4, 4).

    Returns
    -------
    rigid
        Shape (4, 4); its rotation is orthogonal to machine precision.

    Raises
    ------
    ValueError
        If the transform scales, shears or mirrors.

    Examples
    --------
    >>> bool(np.allclose(nearest_rigid(np.eye(4) + 1e-5), np.eye(4), atol=1e-4))
    True
    """
    linear = np.asarray(matrix, np.float64)[:3, :3]
    error = float(np.abs(linear.T @ linear - np.eye(3)).max())
    if error > NOT_RIGID or np.linalg.det(linear) < 0:
        raise ValueError(
            f"transform is not rigid: R^T R is off by {error:.3g} (accepted: {NOT_RIGID:g}), "
            f"determinant {np.linalg.det(linear):.3g} (accepted: 1)"
        )
    left, _, right = np.linalg.svd(linear)
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = left @ right, matrix[:3, 3]
    return rigid


def _cross(rotation: Floats) -> Floats:
    x, y, z = rotation
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _screw_matrix(rotation: Floats) -> Floats:
    """Return V of ``exp``: what turns the velocity of a screw motion into its translation."""
    angle, cross = float(np.linalg.norm(rotation)), _cross(rotation)
    if angle < SMALL_ANGLE:
        return np.eye(3) + cross / 2
    first = (1 - np.cos(angle)) / angle**2
    second = (angle - np.sin(angle)) / angle**3
    return np.asarray(np.eye(3) + first * cross + second * cross @ cross)


def rigid_logarithm(matrix: Floats) -> Floats:
    """Return the screw motion that leads to a rigid transform in unit time.

    Parameters
    ----------
    matrix
        Rigid, shape (4, 4) [mm].

    Returns
    -------
    screw
        Rotation vector [rad] and velocity [mm], shape (6,).

    Raises
    ------
    ValueError
        If the transform is not rigid, or turns by more than 170 degrees.

    Examples
    --------
    >>> shift = np.eye(4)
    >>> shift[0, 3] = 3.0
    >>> rigid_logarithm(shift).tolist()
    [0.0, 0.0, 0.0, 3.0, 0.0, 0.0]
    """
    rigid = nearest_rigid(matrix)
    rotation = Rotation.from_matrix(rigid[:3, :3]).as_rotvec()
    angle = float(np.linalg.norm(rotation))
    if angle > LARGEST_TURN:
        raise ValueError(
            f"rotation between sessions is {np.degrees(angle):.0f} degrees; "
            f"accepted: up to {np.degrees(LARGEST_TURN):.0f}"
        )
    velocity = np.linalg.solve(_screw_matrix(rotation), rigid[:3, 3])
    return np.concatenate([rotation, velocity])


def rigid_exponential(screw: Floats) -> Floats:
    """Return the rigid transform that a screw motion leads to in unit time.

    Parameters
    ----------
    screw
        Rotation vector [rad] and velocity [mm], shape (6,).

    Returns
    -------
    matrix
        Shape (4, 4) [mm].

    Examples
    --------
    >>> screw = np.array([0.1, 0.2, -0.3, 4.0, 5.0, 6.0])
    >>> bool(np.allclose(rigid_logarithm(rigid_exponential(screw)), screw))
    True
    """
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(screw[:3]).as_matrix()
    matrix[:3, 3] = _screw_matrix(screw[:3]) @ screw[3:]
    return matrix


def mean_pose(poses: Sequence[Floats]) -> Floats:
    """Return the mean of rigid transforms that changes with any change of both spaces.

    It is the exponential barycentre: the pose from which the screw motions to all others sum to
    zero. ``mean(G A H) = G mean(A) H`` for any rigid ``G`` and ``H``, which means of matrices,
    quaternions or angles with translations do not have.

    Parameters
    ----------
    poses
        Rigid transforms, each of shape (4, 4) [mm].

    Returns
    -------
    mean
        Shape (4, 4) [mm].

    Raises
    ------
    ValueError
        If there is none, one is not rigid, or they lie so far apart that there is no mean.

    References
    ----------
    Pennec & Arsigny 2013, doi:10.1007/978-3-642-30232-9_7

    Examples
    --------
    >>> moved = np.eye(4)
    >>> moved[2, 3] = 5.0
    >>> float(mean_pose([np.eye(4), moved])[2, 3])
    2.5
    """
    if not poses:
        raise ValueError("no pose to take the mean of; accepted: one or more")
    exact = [nearest_rigid(pose) for pose in poses]
    mean = exact[0]
    for _ in range(MEAN_STEPS):
        back = np.linalg.inv(mean)
        step = np.mean([rigid_logarithm(back @ pose) for pose in exact], axis=0)
        mean = nearest_rigid(mean @ rigid_exponential(step))
        if np.abs(step).max() < MEAN_TOLERANCE:
            return mean
    raise ValueError(
        f"the mean of {len(poses)} poses was not found in {MEAN_STEPS} steps: they lie too far "
        "apart; accepted: rotations within a quarter turn of each other"
    )


def halfway_poses(poses: Sequence[Floats]) -> list[Floats]:
    """Return the poses of sessions from the space in their middle.

    Parameters
    ----------
    poses
        From points of any one space to points of each session, each of shape (4, 4) [mm].

    Returns
    -------
    poses
        From points of the middle to points of each session, in the order given; the middle is
        the same whatever space the poses came from. Two sessions are equally far from it.

    Raises
    ------
    ValueError
        As :func:`mean_pose`.

    Examples
    --------
    >>> moved = np.eye(4)
    >>> moved[1, 3] = 6.0
    >>> [float(pose[1, 3]) for pose in halfway_poses([np.eye(4), moved])]
    [-3.0, 3.0]
    """
    to_middle = np.linalg.inv(mean_pose(poses))
    return [nearest_rigid(nearest_rigid(pose) @ to_middle) for pose in poses]


def common_grid(
    shapes: Sequence[tuple[int, ...]],
    affines: Sequence[Floats],
    poses: Sequence[Floats],
    spacing: float,
) -> tuple[tuple[int, ...], Floats]:
    """Return a grid along the axes of the space that holds all of every image.

    Parameters
    ----------
    shapes
        Voxels of each image along its axes.
    affines
        Voxel index to position of each image, shape (4, 4) [mm, RAS].
    poses
        From points of the common space to points of each image, shape (4, 4) [mm, RAS].
    spacing
        Edge of a voxel [mm].

    Returns
    -------
    shape, affine
        Of the grid; it does not depend on the order of the images.

    Raises
    ------
    ValueError
        If the spacing is not positive.

    Examples
    --------
    >>> shape, affine = common_grid([(4, 4, 4)], [np.diag([2.0, 2, 2, 1])], [np.eye(4)], 1.0)
    >>> shape, affine[:3, 3].tolist()
    ((8, 8, 8), [-0.5, -0.5, -0.5])
    """
    if not spacing > 0:
        raise ValueError(f"spacing is {spacing:g} mm; accepted: a positive number")
    corners = np.concatenate([
        _corners(shape) @ (np.linalg.inv(pose) @ affine).T
        for shape, affine, pose in zip(shapes, affines, poses, strict=True)
    ])[:, :3]  # fmt: skip
    low, high = corners.min(axis=0), corners.max(axis=0)
    # a rounding error must not add a slice
    x, y, z = np.maximum(np.ceil((high - low) / spacing - 1e-6), 1).astype(int).tolist()
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (low + high) / 2 - (np.array([x, y, z]) - 1) / 2 * spacing
    return (x, y, z), affine


def _corners(shape: tuple[int, ...]) -> Floats:
    """Outer corners of an image's voxels, homogeneous, shape (8, 4)."""
    return np.array([(*corner, 1.0) for corner in product(*((-0.5, n - 0.5) for n in shape))])


def mean_of_seen(images: Sequence[Floats], seen: Sequence[NDArray[np.bool_]]) -> Floats:
    """Return the mean of images over those that see a voxel.

    Parameters
    ----------
    images
        Of one shape and unit.
    seen
        Where each of them holds data, same shape.

    Returns
    -------
    mean
        Same shape, float32; 0 where none sees the voxel.

    Examples
    --------
    >>> images, seen = [np.array([2.0, 9.0]), np.array([4.0, 5.0])], [[True, False], [True, True]]
    >>> mean_of_seen(images, [np.array(s) for s in seen]).tolist()
    [3.0, 5.0]
    """
    total = np.zeros(images[0].shape, np.float64)
    count = np.zeros(images[0].shape, np.int32)
    for image, where in zip(images, seen, strict=True):
        total += np.where(where, image, 0)
        count += where
    return np.asarray(total / np.maximum(count, 1), np.float32)


def turn_and_shift(pose: Floats, centre: Floats) -> tuple[float, float]:
    """Return how far a rigid transform turns, and how far it moves a point.

    Parameters
    ----------
    pose
        Shape (4, 4) [mm].
    centre
        Of the brain, shape (3,) [mm].

    Returns
    -------
    turn, shift
        Angle [degrees], and displacement of the centre [mm].

    Examples
    --------
    >>> turn_and_shift(np.eye(4), np.array([10.0, 0.0, 0.0]))
    (0.0, 0.0)
    """
    angle = Rotation.from_matrix(nearest_rigid(pose)[:3, :3]).magnitude()
    moved = pose[:3, :3] @ centre + pose[:3, 3] - centre
    return float(np.degrees(angle)), float(np.linalg.norm(moved))
