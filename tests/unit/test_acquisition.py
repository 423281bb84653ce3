"""Where a voxel lies, and when a sample was taken."""

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry

FLIP = np.array([-1.0, -1.0, 1.0])


@pytest.mark.parametrize("handedness", [1, -1])
@pytest.mark.parametrize("n", [15, 16])
def test_the_voxel_at_half_the_matrix_lies_at_the_position(oblique, n, handedness):
    geometry = oblique(n, handedness)
    middle = geometry.affine @ [n // 2, n // 2, n // 2, 1]
    np.testing.assert_allclose(middle, [*(FLIP * geometry.position), 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_step_along_an_axis_follows_its_direction(oblique, axis):
    geometry = oblique()
    np.testing.assert_allclose(
        geometry.affine[:3, axis], FLIP * geometry.directions[axis] * 10.0, atol=1e-12
    )


@pytest.mark.parametrize("handedness", [1, -1])
def test_the_handedness_survives_the_change_of_convention(oblique, handedness):
    assert np.sign(np.linalg.det(oblique(16, handedness).affine[:3, :3])) == handedness


def test_edges_of_a_voxel_follow_field_of_view_and_matrix():
    geometry = Geometry(np.zeros(3), np.eye(3), (0.2, 0.24, 0.3), (50, 40, 30))
    np.testing.assert_allclose(geometry.voxel_size, [4e-3, 6e-3, 10e-3])
    np.testing.assert_allclose(np.linalg.norm(geometry.affine[:3, :3], axis=0), [4, 6, 10])


def test_sample_times_start_at_the_first_sample(oblique, make_blob):
    times = make_blob(oblique(), [0, 0, 0], n_spokes=2).sample_times
    assert len(times) == 72
    np.testing.assert_allclose(times[[0, 10]], [0.0, 1e-3])
