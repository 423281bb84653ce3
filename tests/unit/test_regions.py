"""Regions share each voxel, and are sampled and blurred without a shift."""

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.kernel import blur, gaussian_transfer
from sodiumprep.sodium.regions import (
    background_regions,
    blur_to_grid,
    carve_lesions,
    coverage,
    fine_affine,
    subdivision,
    vial_fractions,
    voxel_means,
)

RNG = np.random.default_rng(0)
SHAPE, FACTOR = (10, 8, 9), 3
AFFINE = np.array([[0, -4.0, 0, 7], [4.0, 0, 0, -3], [0, 0, 5.0, 2], [0, 0, 0, 1]])


def positions(shape, affine):
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def bump(places, centre, width):
    return np.exp(-np.sum((places - centre) ** 2, axis=-1) / (2 * width**2))


@pytest.mark.parametrize(("edge", "parts"), [(1.0, 1), (1.4, 1), (3.0, 3), (4.0, 3), (6.0, 5)])
def test_voxels_are_cut_into_an_odd_number_of_fine_parts(edge, parts):
    assert subdivision(np.array([1.0, edge, 1.0])) == parts


def test_the_middle_part_of_a_cut_voxel_lies_in_its_centre():
    fine = fine_affine(AFFINE, FACTOR)
    np.testing.assert_allclose(fine @ [7, 4, 10, 1], AFFINE @ [2, 1, 3, 1])
    assert np.linalg.det(fine[:3, :3]) == pytest.approx(np.linalg.det(AFFINE[:3, :3]) / 27)


def test_the_mean_of_parts_keeps_the_volume():
    fine = RNG.uniform(size=tuple(FACTOR * n for n in SHAPE)).astype(np.float32)
    coarse = voxel_means(fine, FACTOR)
    assert coarse.shape == SHAPE
    assert coarse.dtype == np.float32
    assert coarse.sum() * 27 == pytest.approx(fine.sum(), rel=1e-5)
    assert coarse[1, 2, 3] == pytest.approx(fine[3:6, 6:9, 9:12].mean())


def test_a_smooth_object_is_sampled_at_the_centres_of_coarse_voxels():
    centre = AFFINE[:3, :3] @ [4.7, 4.2, 4.4] + AFFINE[:3, 3]
    fine_shape = tuple(FACTOR * n for n in SHAPE)
    fine = bump(positions(fine_shape, fine_affine(AFFINE, FACTOR)), centre, 5.0)
    unchanged = np.ones((20, 16, 10))
    found = blur_to_grid(fine, FACTOR, unchanged)
    np.testing.assert_allclose(found, bump(positions(SHAPE, AFFINE), centre, 5.0), atol=0.01)


def test_sampling_and_blurring_agree_with_blurring_the_samples():
    geometry = Geometry(np.zeros(3), np.eye(3), (0.04, 0.032, 0.045), SHAPE)
    transfer = gaussian_transfer(geometry, np.full(3, 9e-3))
    padded = Geometry(np.zeros(3), np.eye(3), (0.04, 0.032, 0.045), tuple(3 * n for n in SHAPE))
    fine = np.zeros(padded.matrix)
    fine[9:17, 7:16, 8:19] = 1.0
    exact = blur(fine, gaussian_transfer(padded, np.full(3, 9e-3)))[1::3, 1::3, 1::3]
    assert np.abs(blur_to_grid(fine, FACTOR, transfer) - exact).max() < 0.02


def test_lesions_take_their_share_from_the_tissues_in_proportion():
    tissues = {"GM": np.array([0.25]), "WM": np.array([0.75]), "CSF": np.array([0.0])}
    carved = carve_lesions(tissues, {"core": np.array([0.4])})
    found = [float(carved[name][0]) for name in ("GM", "WM", "CSF", "core")]
    np.testing.assert_allclose(found, [0.15, 0.45, 0.0, 0.4])
    assert list(carved) == ["GM", "WM", "CSF", "core"]


def test_a_lesion_outside_the_tissues_takes_nothing_from_them():
    carved = carve_lesions({"WM": np.array([0.3])}, {"core": np.array([0.5])})
    assert carved["WM"][0] == pytest.approx(0.3)


def test_fractions_never_sum_to_more_than_one():
    tissues = {name: RNG.uniform(0, 0.6, 500) for name in ("GM", "WM", "CSF")}
    lesions = {name: RNG.uniform(-0.1, 1.1, 500) for name in ("b", "a")}
    carved = carve_lesions(tissues, lesions)
    total = np.sum(list(carved.values()), axis=0)
    assert total.max() <= 1 + 1e-6
    assert min(part.min() for part in carved.values()) >= 0
    smaller = min(lesions, key=lambda name: np.clip(lesions[name], 0, 1).sum())
    np.testing.assert_allclose(carved[smaller], np.clip(lesions[smaller], 0, 1))


@pytest.fixture(scope="module")
def head():
    places = positions((30, 30, 30), np.diag([6.0, 6, 6, 1])) - 87
    radius = np.linalg.norm(places, axis=-1)
    occupied = np.clip((63 - radius) / 6, 0, 1)
    return (radius < 62).astype(float), (radius < 84).astype(float), occupied


def test_the_background_fills_the_head_up_to_one(head):
    brain, skin, occupied = head
    regions = background_regions(brain, skin, occupied, np.full(3, 6.0))
    total = occupied + np.sum(list(regions.values()), axis=0)
    np.testing.assert_allclose(total[skin > 0], 1.0, atol=1e-6)
    np.testing.assert_allclose(total[skin == 0], occupied[skin == 0], atol=1e-6)


def test_rim_skull_and_scalp_have_eight_sectors_of_one_size_in_a_ball(head):
    regions = background_regions(*head, np.full(3, 6.0))
    assert set(regions) == {
        f"{layer}-{k}" for layer in ("rim", "skull", "scalp") for k in range(8)
    }
    sizes = [regions[f"scalp-{k}"].sum() for k in range(8)]
    assert max(sizes) == pytest.approx(min(sizes))


def test_skull_lies_between_brain_and_scalp(head):
    regions = background_regions(*head, np.full(3, 6.0))
    radius = np.linalg.norm(positions((30, 30, 30), np.diag([6.0, 6, 6, 1])) - 87, axis=-1)
    assert radius[regions["skull-0"] > 0].max() < radius[regions["scalp-0"] > 0].min() + 6


def test_a_subject_without_brain_in_view_still_has_a_background():
    nothing, head = np.zeros((6, 6, 6)), np.ones((6, 6, 6))
    regions = background_regions(nothing, head, nothing, np.full(3, 6.0))
    np.testing.assert_allclose(np.sum(list(regions.values()), axis=0), 1.0)


@pytest.mark.parametrize(("inside", "volume", "share"), [(30, 40, 0.75), (41, 40, 1.0)])
def test_coverage_is_a_share(inside, volume, share):
    assert coverage(inside, volume) == share


def test_an_empty_region_has_no_coverage():
    assert np.isnan(coverage(0.0, 0.0))


def test_label_n_is_vial_n():
    labels = np.zeros((3, 3, 3))
    labels[0], labels[2] = 2, 1
    fractions = vial_fractions(labels, ["one", "two"], "file")
    assert list(fractions) == ["one", "two"]
    assert fractions["one"][2].all()
    assert fractions["two"][0].all()
    assert fractions["two"].sum() == 9


def test_a_label_without_vial_is_refused():
    with pytest.raises(ValueError, match=r"labels.nii: label 3 has no entry .*\(2 vials\)"):
        vial_fractions(np.array([[[1, 2, 3]]]), ["one", "two"], "labels.nii")


def test_a_vial_without_voxel_is_refused():
    with pytest.raises(ValueError, match=r"labels.nii: vial 'two' has no voxel"):
        vial_fractions(np.array([[[1, 0]]]), ["one", "two"], "labels.nii")
