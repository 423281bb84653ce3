"""Labels, posteriors and fractions of other segmenters: taken as they are, or refused."""

import numpy as np
import pytest

from sodiumprep.sodium.labels import (
    FREESURFER,
    TISSUES,
    brain_of_fractions,
    clipped_fractions,
    is_freesurfer,
    label_fractions,
    posterior_fractions,
    shared_fractions,
    tissue_of_name,
)


@pytest.fixture
def labels():
    return np.random.default_rng(0).choice([0, 2, 3, 4, 41, 42, 43], (8, 8, 8))


def channels_of(labels, order, sharpness=0.7):
    """Return posteriors whose channels stand in an arbitrary order."""
    soft = np.stack([labels == label for label in order], axis=-1).astype(float)
    return sharpness * soft + (1 - sharpness) / len(order)


@pytest.mark.parametrize(
    ("label", "tissue"),
    [(2, "WM"), (42, "GM"), (43, "CSF"), (16, "WM"), (24, "CSF"), (77, "WM"), (253, "WM"),
     (1035, "GM"), (2001, "GM"), (52, "GM"), (85, "WM"), (258, "")],
)  # fmt: skip
def test_numbers_of_the_public_table_have_their_tissue(label, tissue):
    assert FREESURFER[label] == tissue


def test_both_sides_of_the_brain_are_of_one_tissue():
    pairs = [(2, 41), (3, 42), (4, 43), (5, 44), (7, 46), (8, 47), (10, 49), (11, 50), (12, 51),
             (13, 52), (17, 53), (18, 54), (26, 58), (28, 60)]  # fmt: skip
    assert all(FREESURFER[left] == FREESURFER[right] for left, right in pairs)


@pytest.mark.parametrize(
    ("name", "tissue"),
    [("GM", "GM"), ("White Matter", "WM"), ("Left-Cerebral-Cortex", "GM"), ("CC_Central", "WM"),
     ("right lateral ventricle", "CSF"), ("wm-lh-cuneus", "WM"), ("Bone", ""), ("core", None),
     ("left inferior lateral ventricle", "CSF"), ("Brain-Stem", "WM")],
)  # fmt: skip
def test_names_of_regions_have_their_tissue(name, tissue):
    assert tissue_of_name(name) == tissue


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 2, 41, 3, 999], [2, 3, 4], [2, 41, 4]])
def test_labels_that_may_mean_something_else_are_not_taken_for_freesurfers(labels):
    assert not is_freesurfer(labels)


def test_hard_fractions_of_known_labels_sum_to_one(labels):
    fractions = label_fractions(labels, FREESURFER)
    np.testing.assert_array_equal(fractions.sum(axis=-1), labels > 0)
    assert set(np.unique(fractions)) == {0, 1}


def test_a_label_without_tissue_is_refused(labels):
    labels[0, 0, 0] = 7777
    with pytest.raises(ValueError, match="label 7777 has no tissue"):
        label_fractions(labels, FREESURFER)


def test_a_tissue_without_voxel_is_refused(labels):
    labels[np.isin(labels, [4, 43])] = 0
    with pytest.raises(ValueError, match="no voxel is CSF"):
        label_fractions(labels, FREESURFER)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_posteriors_is_read_from_the_labels(labels, seed):
    order = np.random.default_rng(seed).permutation([0, 2, 3, 4, 41, 42, 43])
    fractions = posterior_fractions(channels_of(labels, order), labels, FREESURFER)
    np.testing.assert_allclose(
        fractions, 0.7 * label_fractions(labels, FREESURFER) + 0.3 * 2 / 7, atol=1e-6
    )


def test_posteriors_of_another_segmentation_are_refused(labels):
    other = np.random.default_rng(3).permutation(labels.ravel()).reshape(labels.shape)
    posteriors = channels_of(other, [0, 2, 3, 4, 41, 42, 43])
    with pytest.raises(ValueError, match="channel 0 belongs to no one tissue of the labels"):
        posterior_fractions(posteriors, labels, FREESURFER)


def test_labels_may_be_finer_than_the_posteriors(labels):
    posteriors = channels_of(labels, [0, 2, 3, 4, 41, 42, 43])
    parcels = np.where(labels == 3, 1000 + np.arange(512).reshape(8, 8, 8) % 30, labels)
    np.testing.assert_array_equal(
        posterior_fractions(posteriors, parcels, FREESURFER),
        posterior_fractions(posteriors, labels, FREESURFER),
    )


def test_a_channel_that_cannot_be_placed_must_be_small(labels):
    posteriors = channels_of(labels, [0, 2, 3, 4, 41, 42, 43, 77])
    with pytest.raises(ValueError, match="nowhere the largest hold more than 0.1 %"):
        posterior_fractions(posteriors, labels, FREESURFER)


@pytest.mark.parametrize(("value", "said"), [(255.0, "to 255"), (-0.2, "from -0.2"),
                                             (np.nan, "1 voxels are NaN")])  # fmt: skip
def test_what_is_no_fraction_is_refused_with_its_value(value, said):
    with pytest.raises(ValueError, match=said):
        clipped_fractions(np.array([0.0, 0.5, value]))


def test_rounding_is_clipped_and_counted():
    values, count = clipped_fractions(np.array([-1e-4, 0.5, 1.0009], np.float32))
    assert (values.min(), values.max(), count) == (0, 1, 2)


def test_scaled_integers_that_reach_one_are_not_counted_as_clipped():
    assert clipped_fractions(np.array([1.0000000474974513], np.float64))[1] == 0


def test_fractions_that_sum_to_two_are_refused():
    with pytest.raises(ValueError, match="sum up to 2"):
        shared_fractions(np.ones((3, 2)))


def test_a_brain_has_no_holes():
    ball = np.linalg.norm(np.indices((9, 9, 9)) - 4, axis=0)
    shell = np.repeat((ball < 4) & (ball > 2), len(TISSUES)).reshape(9, 9, 9, 3) / 3
    np.testing.assert_array_equal(brain_of_fractions(shell), ball < 4)
