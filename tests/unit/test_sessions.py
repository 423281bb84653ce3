"""The mean of poses favours no session, no order and no space."""

from itertools import permutations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sodiumprep.sodium.sessions import (
    common_grid,
    halfway_poses,
    mean_of_seen,
    mean_pose,
    nearest_rigid,
    rigid_exponential,
    rigid_logarithm,
    turn_and_shift,
)

RNG = np.random.default_rng(4)


def pose(turn=30.0, shift=20.0):
    """Draw a rigid transform: turned by up to ``turn`` degrees, shifted by up to ``shift`` mm."""
    matrix = np.eye(4)
    rotation = Rotation.from_rotvec(np.radians(RNG.uniform(-turn, turn, 3)) / np.sqrt(3))
    matrix[:3, :3] = rotation.as_matrix()
    matrix[:3, 3] = RNG.uniform(-shift, shift, 3)
    return matrix


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_the_mean_follows_any_change_of_both_spaces(number):
    poses, before, after = [pose() for _ in range(number)], pose(170, 200), pose(170, 200)
    moved = mean_pose([after @ p @ before for p in poses])
    np.testing.assert_allclose(moved, after @ mean_pose(poses) @ before, atol=1e-6)


def test_the_mean_of_angles_and_translations_does_not():
    poses, after = [pose() for _ in range(3)], pose(90, 50)

    def plain(those):
        matrix = np.eye(4)
        turns = Rotation.from_matrix([p[:3, :3] for p in those])
        matrix[:3, :3] = turns.mean().as_matrix()
        matrix[:3, 3] = np.mean([p[:3, 3] for p in those], axis=0)
        return matrix

    moved = plain([np.linalg.inv(p) @ after for p in poses])
    assert np.abs(moved - np.linalg.inv(plain(poses)) @ after).max() > 1e-3


def test_the_mean_of_inverses_is_the_inverse_of_the_mean():
    poses = [pose() for _ in range(4)]
    back = mean_pose([np.linalg.inv(p) for p in poses])
    np.testing.assert_allclose(back, np.linalg.inv(mean_pose(poses)), atol=1e-6)


def test_the_order_of_the_sessions_does_not_matter():
    poses = [pose() for _ in range(3)]
    first = mean_pose(poses)
    for order in permutations(poses):
        np.testing.assert_allclose(mean_pose(order), first, atol=1e-7)


def test_two_sessions_lie_equally_far_on_both_sides_of_the_middle():
    first, second = pose(), pose()
    one, other = halfway_poses([first, second])
    np.testing.assert_allclose(one, np.linalg.inv(other), atol=1e-7)
    np.testing.assert_allclose(other @ np.linalg.inv(one), second @ np.linalg.inv(first),
                               atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(rigid_logarithm(one), -rigid_logarithm(other), atol=1e-7)


def test_the_middle_is_the_same_whatever_session_the_poses_start_from():
    poses = [pose() for _ in range(3)]
    found = halfway_poses(poses)
    for start in poses:
        again = halfway_poses([p @ np.linalg.inv(start) for p in poses])
        np.testing.assert_allclose(again, found, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, 2.9])
def test_logarithm_and_exponential_undo_each_other(angle):
    screw = np.array([angle, 0.0, 0.0, 1.0, -2.0, 3.0])
    np.testing.assert_allclose(rigid_logarithm(rigid_exponential(screw)), screw, atol=1e-8)


def test_half_a_screw_twice_is_the_whole():
    screw = rigid_logarithm(pose(60))
    half = rigid_exponential(screw / 2)
    np.testing.assert_allclose(half @ half, rigid_exponential(screw), atol=1e-9)


def test_a_transform_that_scales_or_mirrors_is_refused():
    for diagonal in ([1.1, 1, 1, 1], [-1, 1, 1, 1]):
        with pytest.raises(ValueError, match="not rigid"):
            nearest_rigid(np.diag(np.array(diagonal, float)))


def test_half_a_turn_is_refused_with_its_angle():
    with pytest.raises(ValueError, match="180 degrees; accepted: up to 170"):
        rigid_logarithm(np.diag([-1.0, -1.0, 1.0, 1.0]))


def test_no_pose_has_no_mean():
    with pytest.raises(ValueError, match="no pose"):
        mean_pose([])


def test_a_mean_that_is_not_found_is_no_silent_number(monkeypatch):
    monkeypatch.setattr("sodiumprep.sodium.sessions.MEAN_STEPS", 1)
    with pytest.raises(ValueError, match="mean of 3 poses was not found in 1 steps"):
        mean_pose([pose() for _ in range(3)])


def test_the_common_grid_holds_every_corner_and_knows_no_order():
    shapes, poses = [(10, 12, 14), (20, 8, 9)], [pose(), pose()]
    affines = [np.diag([2.0, 1.5, 1.0, 1.0]), np.diag([-1.0, 2.0, 2.0, 1.0])]
    shape, affine = common_grid(shapes, affines, poses, 1.0)
    again = common_grid(shapes[::-1], affines[::-1], poses[::-1], 1.0)
    assert again[0] == shape
    np.testing.assert_allclose(again[1], affine)
    for size, own, there in zip(shapes, affines, poses, strict=True):
        for corner in np.ndindex(2, 2, 2):
            index = np.where(corner, np.array(size) - 1, 0)
            place = np.linalg.inv(affine) @ np.linalg.inv(there) @ own @ [*index, 1]
            assert (place[:3] >= -0.5).all()
            assert (place[:3] <= np.array(shape) - 0.5).all()


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan])
def test_a_spacing_that_is_not_positive_is_refused(spacing):
    with pytest.raises(ValueError, match="mm; accepted: a positive number"):
        common_grid([(2, 2, 2)], [np.eye(4)], [np.eye(4)], spacing)


def test_a_voxel_that_nobody_sees_is_empty():
    mean = mean_of_seen([np.full(2, 7.0)], [np.array([True, False])])
    assert mean.tolist() == [7.0, 0.0]


def test_turn_and_shift_are_those_of_the_pose():
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    angle, shift = turn_and_shift(turned, np.array([10.0, 0.0, 0.0]))
    assert angle == pytest.approx(90)
    assert shift == pytest.approx(np.hypot(10, 10))
