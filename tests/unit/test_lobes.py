"""The built-in lobes: symmetric, complete, each where it belongs."""

import numpy as np
import pytest

from sodiumprep.sodium.lobes import LOBES, lobe_labels

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = [-90, -126, -72]
SHAPE = (91, 109, 91)


@pytest.fixture(scope="module")
def labels():
    return lobe_labels(SHAPE, AFFINE)


def at(labels, *place):
    index = np.linalg.inv(AFFINE) @ [*place, 1]
    return LOBES[int(labels[tuple(np.rint(index[:3]).astype(int))])]


def test_every_label_has_a_name_and_every_name_a_label(labels):
    assert set(np.unique(labels)) == set(LOBES)
    assert len(set(LOBES.values())) == len(LOBES) == 19


def test_the_right_half_mirrors_the_left(labels):
    right, left = labels[46:], labels[44::-1]
    paired = left < max(LOBES)
    np.testing.assert_array_equal(right[paired], left[paired] + 1)
    np.testing.assert_array_equal(right[~paired], left[~paired])


@pytest.mark.parametrize(
    ("place", "name"),
    [  # hand knob, angular gyrus, calcarine sulcus, auditory cortex, and further landmarks [mm]
        ((-38, -18, 62), "left frontal lobe"),
        ((40, 40, 20), "right frontal lobe"),
        ((46, -60, 40), "right parietal lobe"),
        ((-30, -56, 54), "left parietal lobe"),
        ((10, -84, 6), "right occipital lobe"),
        ((-54, -22, 6), "left temporal lobe"),
        ((28, -14, -20), "right temporal lobe"),
        ((-24, -62, -34), "left cerebellum"),
        ((12, -18, 8), "right thalamus"),
        ((-12, 14, 8), "left caudate"),
        ((26, 4, 2), "right putamen"),
        ((-20, 0, 0), "left pallidum"),
        ((0, -28, -26), "brainstem"),
    ],
)
def test_landmarks_lie_where_they_belong(labels, place, name):
    assert at(labels, *place) == name


def test_the_grid_does_not_matter(labels):
    turned = AFFINE @ np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = AFFINE[0, 3] + 2 * (SHAPE[0] - 1)
    np.testing.assert_array_equal(lobe_labels(SHAPE, turned), labels[::-1])
