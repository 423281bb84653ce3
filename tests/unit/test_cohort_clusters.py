"""Clusters and their enhancement: against nilearn's slow ones, and laws."""

import numpy as np
import pytest
from nilearn.mass_univariate._utils import calculate_cluster_measures, calculate_tfce
from scipy.ndimage import gaussian_filter, generate_binary_structure, label

from sodiumprep.sodium.cohort.clusters import enhance, heights_of, label_clusters, neighbours

FACES = generate_binary_structure(3, 1)


@pytest.fixture
def field():
    """Return a smooth map on a mask with holes."""
    rng = np.random.default_rng(5)
    mask = gaussian_filter(rng.normal(size=(13, 11, 12)), 1) > -0.15
    return np.where(mask, gaussian_filter(rng.normal(size=mask.shape), 1.2) * 15, 0.0), mask


def test_neighbours_are_those_that_share_a_face(field):
    mask = field[1]
    near, places = neighbours(mask), np.argwhere(mask)
    for voxel in (0, 100, len(places) - 1):
        steps = np.abs(places - places[voxel]).sum(axis=1)
        assert set(near[voxel][near[voxel] >= 0]) == set(np.flatnonzero(steps == 1))


def test_the_enhancement_is_nilearns(field):
    t, mask = field
    heights = np.linspace(0, np.abs(t).max(), 101)[1:]
    peer = calculate_tfce(t[..., None], FACES)[..., 0]
    np.testing.assert_allclose(enhance(t[mask], neighbours(mask), heights), peer[mask], rtol=1e-10)


def test_turning_the_sign_turns_the_enhancement(field):
    t, mask = field
    near, heights = neighbours(mask), heights_of(t[mask])
    np.testing.assert_array_equal(
        enhance(-t[mask], near, heights), -enhance(t[mask], near, heights)
    )


def test_a_box_has_the_enhancement_known_in_closed_form():
    mask = np.ones((4, 5, 6), dtype=bool)
    found = enhance(np.full(120, 3.0), neighbours(mask), np.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(found, np.sqrt(120) * (1 + 4 + 9))


def test_finer_heights_tend_to_the_integral():
    mask = np.ones((3, 3, 3), dtype=bool)
    t, step = np.full(27, 3.0), 0.001
    found = step * enhance(t, neighbours(mask), heights_of(t, step))
    np.testing.assert_allclose(found, np.sqrt(27) * 9, rtol=1e-3)


def test_nothing_is_enhanced_below_the_first_height(field):
    mask = field[1]
    still = np.full(mask.sum(), 0.01)
    assert not enhance(still, neighbours(mask), heights_of(still)).any()


def test_clusters_are_those_of_scipy_and_nilearn(field):
    t, mask = field
    labels, sizes, masses = label_clusters(t[mask], neighbours(mask), 1.0)
    assert len(sizes) == label(t > 1, FACES)[1] + label(t < -1, FACES)[1]
    size, mass = calculate_cluster_measures(t[..., None], 1.0, FACES, two_sided_test=True)
    assert (sizes.max(), masses.max()) == pytest.approx((size[0], mass[0]))
    assert (np.abs(t[mask][labels > 0]) > 1).all()
    assert (np.abs(t[mask][labels == 0]) <= 1).all()


def test_neighbours_of_opposite_sign_are_two_clusters():
    near = neighbours(np.ones((1, 1, 2), dtype=bool))
    assert label_clusters(np.array([3.0, -3.0]), near, 1.0)[0].tolist() == [1, 2]


@pytest.mark.parametrize("mask", [np.zeros((2, 2, 2), bool), np.ones((2, 2), bool)])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ValueError, match="three dimensions and at least a voxel"):
        neighbours(mask)


def test_a_step_that_is_none_is_refused():
    with pytest.raises(ValueError, match="above 0, not 0"):
        heights_of(np.ones(3), 0)
