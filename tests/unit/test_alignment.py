"""Transforms, resampling and the choice among poses."""

import numpy as np
import pytest

from sodiumprep.sodium.alignment import (
    candidate_starts,
    centre_of_mass,
    displacement,
    index_map,
    resample,
    rigid_matrix,
    rotation_about,
    surface_points,
    synthetic_sodium,
)

CENTRE = np.array([10.0, -20.0, 30.0])
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
OBLIQUE = np.array([[1.9, 0.5, 0, -20], [-0.5, 1.9, 0.1, -18], [0, -0.1, 2.4, -25], [0, 0, 0, 1]])
PLAIN = np.array([[2.0, 0, 0, -19], [0, 2.0, 0, -21], [0, 0, 2.0, -20], [0, 0, 0, 1]])


def shift(*by):
    moved = np.eye(4)
    moved[:3, 3] = by
    return moved


def bump(affine, place, shape=(20, 20, 20)):
    """Return a Gaussian of 6 mm about a place [mm, RAS]."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    return np.exp(-np.sum((places - np.asarray(place)[:3]) ** 2, axis=-1) / (2 * 6.0**2))


def test_an_object_is_resampled_to_where_the_transform_says():
    turned = rotation_about(np.array([2.0, 5.0, 1.0]), 2, 0.2) @ shift(-1.5, 2.0, -2.0)
    target_place = np.array([1.0, -1.0, -1.0, 1.0])
    source_place = FLIP @ turned @ FLIP @ target_place
    mapping = index_map(PLAIN, OBLIQUE, turned)
    found = resample(bump(OBLIQUE, source_place), mapping, (20, 20, 20), 3)
    expected = bump(OBLIQUE, source_place).max() * bump(PLAIN, target_place)
    core = expected > 0.3
    np.testing.assert_allclose(found[core], expected[core], atol=0.05)


def test_the_same_grid_without_transform_changes_nothing():
    image = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    same = resample(image, index_map(OBLIQUE, OBLIQUE, np.eye(4)), image.shape, 1)
    np.testing.assert_allclose(same, image, atol=1e-5)


@pytest.mark.parametrize("border", [0, 1, 6])
def test_only_what_the_image_fills_is_computed_and_nothing_is_lost(border):
    """A constant that is taken off again makes no place of the grid empty."""
    inner = np.random.default_rng(1).normal(size=(12, 14, 13))
    image = np.zeros(tuple(n + 2 * border for n in inner.shape))
    image[tuple(slice(border, border + n) for n in inner.shape)] = inner
    turned = index_map(PLAIN, OBLIQUE, rotation_about(CENTRE, 2, 0.4) @ shift(-2.0, 3.0, 1.0))
    whole = resample(image + 2, turned, (22, 21, 20), 1, -1.0)
    found = resample(image, turned, (22, 21, 20), 1)
    np.testing.assert_allclose(found, np.where(whole == -1, 0, whole - 2), atol=1e-5)
    assert (found != 0).any()


def test_an_empty_image_stays_empty():
    assert not resample(
        np.zeros((4, 5, 6)), index_map(PLAIN, OBLIQUE, np.eye(4)), (7, 8, 9), 1
    ).any()


def test_outside_the_image_stands_what_was_asked_for():
    far = index_map(PLAIN, PLAIN, shift(1000, 0, 0))
    assert np.isnan(resample(np.ones((4, 4, 4)), far, (4, 4, 4), 1, outside=np.nan)).all()
    assert not resample(np.ones((4, 4, 4)), far, (4, 4, 4), 1).any()


def test_labels_stay_labels():
    labels = np.random.default_rng(0).integers(0, 4, (8, 8, 8)).astype(float)
    moved = resample(labels, index_map(PLAIN, PLAIN, shift(0.7, 0.4, -0.3)), (8, 8, 8), 0)
    assert set(np.unique(moved)) <= {0, 1, 2, 3}


def test_a_shift_displaces_the_whole_surface_by_its_length():
    assert displacement(shift(3, 4, 0), np.eye(4), CENTRE) == pytest.approx(5.0)


def test_a_small_turn_displaces_the_surface_by_its_arc():
    apart = displacement(rotation_about(CENTRE, 0, 0.01), np.eye(4), CENTRE)
    assert apart == pytest.approx(75.0 * 0.01 * np.sqrt(2 / 3), rel=0.01)


def test_surface_points_lie_at_the_radius_of_a_brain():
    points = surface_points(CENTRE)
    assert points.shape == (26, 3)
    np.testing.assert_allclose(np.linalg.norm(points - CENTRE, axis=1), 75.0)
    np.testing.assert_allclose(points.mean(axis=0), CENTRE)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_rotation_keeps_its_centre_its_axis_and_all_lengths(axis):
    turned = rotation_about(CENTRE, axis, 0.7)
    along = [*(CENTRE + 5 * np.eye(3)[axis]), 1]
    np.testing.assert_allclose(turned @ along, along)
    np.testing.assert_allclose(turned[:3, :3] @ turned[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turned) == pytest.approx(1.0)


def test_a_centred_transform_moves_its_centre_by_the_translation():
    turn = rotation_about(np.zeros(3), 1, 0.4)[:3, :3]
    moved = rigid_matrix(turn, np.array([1.0, 2, 3]), CENTRE) @ [*CENTRE, 1]
    np.testing.assert_allclose(moved[:3] - CENTRE, [1, 2, 3])


def test_the_centre_of_mass_is_given_in_the_dicom_system():
    found = centre_of_mass(bump(OBLIQUE, [2.0, -5.0, -3.0]), OBLIQUE)
    np.testing.assert_allclose(found, [-2.0, 5.0, -3.0], atol=0.3)


def test_negative_noise_has_no_mass():
    image = bump(PLAIN, [0, 0, 0])
    image[0, 0, 0] = -1000
    np.testing.assert_allclose(centre_of_mass(image, PLAIN), 0, atol=0.3)


def test_one_start_brings_the_centres_of_mass_together():
    target, sodium = bump(PLAIN, [4, 0, 2]), bump(OBLIQUE, [-3, 6, 1])
    starts = candidate_starts(target, PLAIN, sodium, OBLIQUE, CENTRE)
    moved = starts["centre of mass"] @ [*centre_of_mass(target, PLAIN), 1]
    np.testing.assert_allclose(moved[:3], centre_of_mass(sodium, OBLIQUE))


@pytest.mark.parametrize("n_perturbed", [0, 2, 6])
def test_starts_are_the_header_the_masses_and_perturbed_poses(n_perturbed):
    image = bump(PLAIN, [0, 0, 0])
    starts = candidate_starts(image, PLAIN, image, PLAIN, CENTRE, n_perturbed)
    assert len(starts) == 2 + n_perturbed
    np.testing.assert_allclose(starts["header"], np.eye(4))
    others = [pose for name, pose in starts.items() if name.startswith("header, ")]
    assert all(10 < displacement(pose, np.eye(4), CENTRE) < 25 for pose in others)


def test_a_synthetic_image_shows_fluid_brightest_and_air_dark():
    parts = {name: np.zeros((24, 24, 24)) for name in ("GM", "WM", "CSF")}
    for name, rows in (("GM", slice(3, 9)), ("WM", slice(9, 15)), ("CSF", slice(15, 21))):
        parts[name][rows, 3:21, 3:21] = 1
    head = np.zeros((24, 24, 24))
    head[1:23, 1:23, 1:23] = 1
    image = synthetic_sodium(parts, head, 2.0, np.full(3, 2.0))
    assert image[18, 12, 12] > image[6, 12, 12] > image[12, 12, 12] > image[0, 0, 0]
    assert image[18, 12, 12] == pytest.approx(1.0, abs=0.02)


def test_a_synthetic_image_is_blurred_in_millimetres_and_keeps_its_sum():
    point = np.zeros((21, 21, 21))
    point[10, 10, 10] = 1.0
    parts = {"CSF": point, "GM": 0 * point, "WM": 0 * point}
    image = synthetic_sodium(parts, 0 * point, 8.0, np.array([2.0, 4.0, 2.0]))
    assert image.sum() == pytest.approx(1.0, rel=1e-3)
    assert image[12, 10, 10] == pytest.approx(image[10, 11, 10], rel=1e-3)
    assert image[12, 10, 10] == pytest.approx(image.max() / 2, rel=0.01)
