"""Ellipsoids: their closed-form k-space against sums over fine grids, and the Fourier laws."""

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.ellipsoids import (
    Ellipsoid,
    ball_transform,
    ellipsoid_head,
    ellipsoid_image,
    ellipsoid_kspace,
)

GRID = Geometry(np.zeros(3), np.eye(3), (0.2, 0.24, 0.2), (40, 48, 40))
TURN = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
TILTED = Ellipsoid(np.array([0.01, -0.02, 0.015]), np.array([0.03, 0.05, 0.04]), TURN, 2.0)


def frequencies(n=20, largest=20.0):
    return np.random.default_rng(1).uniform(-largest, largest, (n, 3))


def test_the_kspace_is_the_transform_of_the_image():
    image = ellipsoid_image([TILTED], GRID, subdivisions=6)
    axes = [(np.arange(n) - n // 2) * d for n, d in zip(GRID.matrix, GRID.voxel_size, strict=True)]
    k = frequencies()
    waves = [np.exp(-2j * np.pi * np.outer(k[:, a], axes[a])) for a in range(3)]
    total = np.einsum("xyz,kx,ky,kz->k", image, *waves, optimize=True) * GRID.voxel_size.prod()
    total /= np.sinc(k * GRID.voxel_size).prod(axis=1)  # a voxel holds the mean over its box
    np.testing.assert_allclose(total, ellipsoid_kspace([TILTED], k), atol=2e-3 * TILTED.volume)


def test_a_shift_of_the_object_is_a_phase_ramp_of_its_kspace():
    k, shift = frequencies(), np.array([0.004, 0.003, -0.01])
    moved = Ellipsoid(TILTED.centre + shift, TILTED.semi_axes, TILTED.rotation, TILTED.value)
    ramp = np.exp(-2j * np.pi * k @ shift)
    np.testing.assert_allclose(
        ellipsoid_kspace([moved], k), ellipsoid_kspace([TILTED], k) * ramp, atol=1e-12
    )


def test_the_image_holds_the_volume_of_the_object():
    total = ellipsoid_image([TILTED], GRID).real.sum() * GRID.voxel_size.prod()
    assert total == pytest.approx(2 * TILTED.volume, rel=2e-3)


def test_ellipsoids_add_up():
    head, k = ellipsoid_head(np.asarray(GRID.fov)), frequencies()
    parts = sum(ellipsoid_kspace([shape], k) for shape in head)
    np.testing.assert_allclose(ellipsoid_kspace(head, k), parts, atol=1e-12)


def test_the_transform_of_a_ball_has_no_step_where_its_series_takes_over():
    near = ball_transform(np.array([0.05 - 1e-9, 0.05 + 1e-9]))
    assert near[0] == pytest.approx(near[1], abs=1e-9)


def test_the_precision_of_the_trajectory_is_kept():
    k = frequencies()
    assert ellipsoid_kspace([TILTED], k).dtype == np.complex128
    assert ellipsoid_kspace([TILTED], k.astype(np.float32)).dtype == np.complex64


def test_an_ellipsoid_beyond_the_field_of_view_is_cut_off():
    outside = Ellipsoid(np.array([0.5, 0, 0]), np.full(3, 0.02))
    assert not ellipsoid_image([outside], GRID).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_head_differs_from_its_mirror_image(axis):
    image = ellipsoid_image(ellipsoid_head(np.asarray(GRID.fov)), GRID, 1).real[1:, 1:, 1:]
    assert np.abs(image - np.flip(image, axis)).max() > 0.2


def test_a_flat_ellipsoid_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        Ellipsoid(np.zeros(3), np.array([0.1, 0.0, 0.1]))


def test_a_shear_is_refused():
    with pytest.raises(ValueError, match="not orthogonal"):
        Ellipsoid(np.zeros(3), np.ones(3), np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1.0]]))


def test_an_image_without_points_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ellipsoid_image([TILTED], GRID, 0)
