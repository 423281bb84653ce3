"""Shells have their volumes, mirror images their plane, and the midline no value."""

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from sodiumprep.sodium.alignment import displacement
from sodiumprep.sodium.regions import carve_lesions, taken_by_lesions
from sodiumprep.sodium.surroundings import (
    COVERED,
    MIDLINE,
    find_reflection,
    mirror_labels,
    shell_labels,
)

SHAPE, STEP = (62, 74, 60), 2.5  # voxels, mm
AFFINE = np.diag([STEP, STEP, STEP, 1.0])
AFFINE[:3, 3] = [-80.0, -92.0, -74.0]
PLACE = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) * STEP + AFFINE[:3, 3]


def ball(centre: Any, radius: float, place: Any = PLACE) -> Any:
    away = np.linalg.norm(place - np.asarray(centre), axis=-1)
    return np.clip((radius - away) / STEP + 0.5, 0, 1).astype(np.float32)


def turned_head(turn: Any, shift: Any) -> tuple[Any, Any, Any]:
    """Return image and brain of a head with folds, turned about its middle; and its reflection."""
    own = (PLACE - shift) @ turn  # in the head's own frame
    radius = np.linalg.norm(own / [44.0, 56.0, 42.0], axis=-1)
    folds = np.cos(np.abs(own[..., 0]) / 5) * np.cos(own[..., 1] / 7) * np.cos(own[..., 2] / 6)
    beside = np.concatenate([np.abs(own[..., :1]), own[..., 1:]], axis=-1)
    ventricle = ball([10, 4, 5], 9, beside)
    brain = np.clip((1 - radius) * 48 / STEP + 0.5, 0, 1).astype(np.float32)
    image = 1 + 0.3 * folds - 0.6 * ventricle
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = turn, shift
    return image, brain, move @ np.diag([-1.0, 1, 1, 1]) @ np.linalg.inv(move)


@pytest.mark.parametrize("angles", [(4, 11, -13), (-8, -6, 9)])
def test_a_turned_head_is_reflected_onto_itself(angles):
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    shift = np.array([4.0, -3.0, 2.0])
    image, brain, true = turned_head(turn, shift)
    lesion = ball(shift + turn @ [24, 8, 8], 11) * brain
    noise = gaussian_filter(np.random.default_rng(3).standard_normal(SHAPE), 1)
    image = image * (1 - lesion) + 0.4 * lesion + 0.02 * brain * noise
    found = find_reflection(image, brain, lesion, AFFINE)
    error = displacement(found.matrix, true, shift)
    print(f"{error:.2f} mm, told {found.spread:.2f} mm")
    assert error < 1.0
    assert error / 3 < found.spread < 5.0
    assert found.correlation > 0.95
    np.testing.assert_allclose(found.matrix @ found.matrix, np.eye(4), atol=1e-12)


def test_an_anatomy_without_brain_has_no_mirror_image():
    nothing = np.zeros(SHAPE, np.float32)
    with pytest.raises(ValueError, match="no voxel of the anatomy is brain"):
        find_reflection(nothing + 1, nothing, nothing, AFFINE)


def test_shells_of_a_ball_have_the_volumes_of_balls():
    spacing = np.array([1.0, 1.0, 1.5])
    place = np.stack(np.meshgrid(*map(np.arange, (71, 71, 47)), indexing="ij"), -1) * spacing
    lesion = (np.linalg.norm(place - 35.0, axis=-1) < 10).astype(np.float32)
    brain = np.ones(lesion.shape, np.float32)
    labels = shell_labels(lesion, brain, spacing, [5.0, 10.0, 20.0])
    within = np.cumsum([lesion.sum(), *(np.sum(labels == label) for label in (1, 2, 3))]) * 1.5
    radius = np.cbrt(within / (4 / 3 * np.pi))
    np.testing.assert_allclose(radius, [10, 15, 20, 30], atol=0.3)
    assert not labels[lesion > 0].any()


def test_shells_end_where_the_brain_ends():
    brain = (PLACE[..., 0] < 20).astype(np.float32)
    labels = shell_labels(ball([0, 0, 0], 12), brain, np.full(3, STEP), [5.0, 20.0])
    assert not labels[brain == 0].any()
    assert labels[brain > 0].max() == 2
    assert not shell_labels(np.zeros(SHAPE), brain, np.full(3, STEP), [5.0]).any()


def across(shift: float = 0.0) -> Any:
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = 2 * shift
    return np.linalg.inv(AFFINE) @ mirror @ AFFINE


def test_what_lies_opposite_is_brain_without_lesions():
    brain = (np.linalg.norm(PLACE / [60.0, 75.0, 55.0], axis=-1) < 1).astype(np.float32)
    lesions = {"core": ball([30, 0, 0], 12), "other": ball([-46, 0, 0], 8)}
    labels, without = mirror_labels(lesions, brain, across())
    assert without == {}
    assert not labels[sum(lesions.values()) > 0.5].any()
    own = PLACE[labels == 1]
    assert np.linalg.norm(own - [-30, 0, 0], axis=-1).max() < 12 + STEP
    assert np.linalg.norm(own - [-46, 0, 0], axis=-1).min() > 8 - STEP
    assert 2 in labels


@pytest.mark.parametrize(
    ("centre", "shift", "word"), [((6, 0, 0), 0.0, MIDLINE), ((30, 0, 0), 20.0, None),
                                  ((50, 0, 0), -10.0, COVERED)]
)  # fmt: skip
def test_a_mirror_that_cannot_be_used_says_why(centre, shift, word):
    brain = (np.linalg.norm(PLACE / [60.0, 75.0, 55.0], axis=-1) < 1).astype(np.float32)
    _, without = mirror_labels({"core": ball(centre, 12)}, brain, across(shift))
    assert without == ({} if word is None else {1: word})


def test_what_lesions_take_is_what_tissues_lose():
    rng = np.random.default_rng(0)
    parts = rng.dirichlet([1, 1, 1], (5, 5, 5)).astype(np.float32)
    tissues = dict(zip(("GM", "WM", "CSF"), np.moveaxis(parts, -1, 0), strict=True))
    lesions = {name: rng.uniform(0, 1, (5, 5, 5)).astype(np.float32) for name in ("b", "a")}
    lesions["a"][2:] = 0
    carved = carve_lesions(tissues, lesions)
    taken = taken_by_lesions(tissues, carved)
    for name, before in tissues.items():
        lost = sum(taken[lesion][name] for lesion in lesions)
        assert lost == pytest.approx(float((before - carved[name]).sum()), rel=1e-5)
    assert sum(taken["a"].values()) == pytest.approx(float(carved["a"].sum()), rel=1e-5)
    assert taken_by_lesions(tissues, tissues) == {}
