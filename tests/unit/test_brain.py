"""Brain and head in a phantom of shells."""

from __future__ import annotations

import numpy as np
import pytest

from sodiumprep.sodium.brain import (
    choose_start,
    cortical_envelope,
    head_mask,
    head_model,
    refine_brain,
    signed_distance,
    top_of_head_centre,
    volume_range_ml,
    volume_warning,
)

RADIUS = np.linalg.norm(np.indices((64, 64, 64)) - 31.5, axis=0)
BRAIN = RADIUS < 20


def shells(fluid: float, bone: float = 5.0) -> np.ndarray:
    edges = [RADIUS < 5, RADIUS < 17, RADIUS < 20, RADIUS < 24, RADIUS < 28]
    return np.select(edges, [fluid, 100.0, fluid, bone, 120.0], 0.0)


@pytest.mark.parametrize("fluid", [30.0, 180.0])
@pytest.mark.parametrize("start", [18, 22])
def test_the_surface_moves_to_the_inner_table_in_any_contrast(fluid: float, start: int) -> None:
    found = refine_brain(shells(fluid), start > RADIUS, RADIUS < 5, np.ones(3))
    dice = 2 * (found & BRAIN).sum() / (found.sum() + BRAIN.sum())
    assert dice > 0.965  # half a voxel too far everywhere gives 0.963


def test_bright_fluid_is_followed_although_ventricles_are_smaller_than_expected() -> None:
    expected = RADIUS < 5.4  # a fifth of it tissue
    found = refine_brain(shells(180.0), RADIUS < 18, expected, np.ones(3))
    assert 2 * (found & BRAIN).sum() / (found.sum() + BRAIN.sum()) > 0.965


def test_a_surface_that_the_image_does_not_show_stays() -> None:
    start = RADIUS < 18.5
    found = refine_brain(shells(fluid=6.0), start, RADIUS < 5, np.ones(3))
    np.testing.assert_array_equal(found, start)


def test_soft_tissue_that_no_bone_encloses_is_not_taken() -> None:
    image = shells(30.0)
    neck = (np.indices(image.shape)[2] < 10) & (RADIUS > 17)
    image[neck] = 60.0
    grown = refine_brain(image, BRAIN, RADIUS < 5, np.ones(3)) & ~BRAIN
    assert grown.sum() < 0.02 * BRAIN.sum()


def test_a_vial_beside_the_head_is_not_head() -> None:
    image = shells(30.0)
    image[2:6, 2:6, 20:40] = 120.0
    head = head_mask(image, np.full(3, 4.0), BRAIN)
    assert not head[2:6, 2:6].any()
    assert head[BRAIN].all()


def test_the_head_of_an_image_cut_at_the_neck_has_no_hole() -> None:
    head = head_mask(shells(30.0)[:, :, 20:], np.full(3, 4.0))
    assert head[31, 31, 0]


def test_the_model_is_dark_around_the_brain_and_bright_at_the_scalp() -> None:
    template = (np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0) < 15).astype(float)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -39
    model = head_model(template, affine)
    distance = signed_distance(model.brain, np.full(3, 2.0))
    shell = [model.intensity[(distance > a) & (distance < b)].mean() for a, b in ((3, 6), (8, 13))]
    assert shell[0] < 0.2
    assert shell[1] > 0.5


def test_the_upper_head_counts_not_the_neck() -> None:
    column = np.zeros((20, 20, 300), bool)
    column[:, :, 150:] = True
    column[:3, :, :150] = True
    assert top_of_head_centre(column, np.eye(4))[0] == pytest.approx(9.5)


def test_an_empty_head_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        top_of_head_centre(np.zeros((4, 4, 4), bool), np.eye(4))


def test_a_start_that_runs_out_to_the_skull_is_not_chosen() -> None:
    scales = np.array([[1.0, 1.0, 1.0], [1.4, 1.4, 1.4]])
    assert choose_start(np.array([-0.3, -0.8]), scales) == 0
    assert choose_start(np.array([-0.3, -0.8]), scales[[1, 1]]) == 1


@pytest.mark.parametrize(("volume", "warns"), [(799, True), (801, False), (2201, True)])
def test_only_an_implausible_volume_warns(volume: float, warns: bool) -> None:
    assert bool(volume_warning(volume)) == warns


@pytest.mark.parametrize(("age", "volume", "warns"), [
    (0.0, 400, False), (0.0, 900, True), (1.0, 850, False), (1.0, 500, True), (2.0, 1000, False),
    (6.0, 1300, False), (6.0, 2100, True), (40.0, 2100, False), (40.0, 700, True),
])  # fmt: skip
def test_a_volume_is_judged_by_age(age: float, volume: float, warns: bool) -> None:
    assert bool(volume_warning(volume, age)) == warns


@pytest.mark.parametrize("age", [-1.0, np.nan])
def test_an_impossible_age_is_refused(age: float) -> None:
    with pytest.raises(ValueError, match="years"):
        volume_range_ml(age)


@pytest.mark.parametrize("fluid", [30.0, 180.0])
def test_the_envelope_leaves_out_the_fluid_over_the_cortex(fluid: float) -> None:
    found = cortical_envelope(shells(fluid), BRAIN, RADIUS < 5, np.ones(3))
    true = RADIUS < 18
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.97


def test_a_coarse_image_has_an_envelope_too() -> None:
    voxels = shells(30.0)[::3, ::3, ::3]
    inner, core = BRAIN[::3, ::3, ::3], (RADIUS < 8)[::3, ::3, ::3]
    found = cortical_envelope(voxels, inner, core, np.full(3, 3.0))
    assert abs(found.sum() / (RADIUS < 18)[::3, ::3, ::3].sum() - 1) < 0.1


def test_the_envelope_spans_sulci_and_keeps_a_dark_lesion() -> None:
    image = shells(30.0)
    x, y, z = np.indices(image.shape)
    image[(abs(x - 31) < 2) & (z > 40) & (RADIUS < 17)] = 30.0  # a sulcus 3 mm wide
    image[np.linalg.norm([x - 31, y - 31, z - 22], axis=0) < 5] = 30.0
    found = cortical_envelope(image, BRAIN, RADIUS < 5, np.ones(3))
    assert found[RADIUS < 14].all()


def test_a_lesion_at_the_surface_that_looks_like_fluid_is_kept_where_it_is_told() -> None:
    image = shells(30.0)
    x, y, z = np.indices(image.shape)
    lesion = (np.linalg.norm([x - 31, y - 31, z - 47], axis=0) < 7) & (RADIUS < 18)
    image[lesion] = 30.0
    told = cortical_envelope(image, BRAIN, RADIUS < 5, np.ones(3), lesion)
    assert told[lesion].all()
    small = np.linalg.norm([x - 31, y - 31, z - 50], axis=0) < 1.6  # apart from the cortex
    assert cortical_envelope(shells(30.0), BRAIN, RADIUS < 5, np.ones(3), small)[small].all()
    assert not cortical_envelope(image, BRAIN, RADIUS < 5, np.ones(3))[lesion].all()


def test_without_contrast_of_fluid_the_envelope_is_the_inside_of_the_skull() -> None:
    found = cortical_envelope(shells(95.0), BRAIN, RADIUS < 5, np.ones(3))
    np.testing.assert_array_equal(found, BRAIN)


def test_a_rim_of_bone_and_tissue_in_one_voxel_is_not_taken_for_fluid() -> None:
    image = np.select([RADIUS < 5, RADIUS < 20, RADIUS < 24, RADIUS < 28], [60, 100, 5, 120], 0.0)
    image[(RADIUS > 19.7) & (RADIUS < 20.7)] = 45.0  # 40 % tissue
    found = refine_brain(image, BRAIN, RADIUS < 5, np.ones(3))
    assert found.sum() < 1.03 * BRAIN.sum()
