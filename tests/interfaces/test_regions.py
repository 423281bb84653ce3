"""Regions on the sodium grid: in their place, of their size, and summing to one."""

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.reconstruct import load_response, save_response
from sodiumprep.interfaces.regions import (
    FineGrid,
    SampleRegions,
    UniteLesions,
    _brain_regions,
    _carved,
)
from sodiumprep.sodium.kernel import Response

PORTS = ("gm_file", "wm_file", "csf_file", "brain_mask", "head_mask", "xfm_file", "response_file")
FLIP = np.array([-1.0, -1.0, 1.0])


@pytest.fixture
def sample(head, run_in, tmp_path):
    """Return a function that samples regions and loads what it wrote."""

    def sampled(**changes):
        inputs = {"sodium_file": head["grid_file"], **{k: head[k] for k in PORTS}, **changes}
        stored = np.load(run_in(SampleRegions(**inputs), tmp_path / "run").regions_file)
        return {name: stored[name] for name in stored.files}

    return sampled


def centre_of(fraction, affine):
    index = np.argwhere(fraction > 0)
    return (affine @ [*np.average(index, axis=0, weights=fraction[fraction > 0]), 1])[:3]


def test_fractions_of_all_regions_sum_to_one(regions_file):
    with np.load(regions_file) as stored:
        np.testing.assert_allclose(stored["fractions"].sum(axis=0), 1.0, atol=1e-4)
        assert stored["fractions"].min() >= 0
        assert np.isfinite(stored["blurred"]).all()


def test_tissues_come_first_then_vials_then_background_with_air_last(regions_file):
    with np.load(regions_file) as stored:
        names, kinds = stored["names"].tolist(), stored["kinds"].tolist()
    assert names[:5] == ["GM", "WM", "CSF", "1 low", "2 high"]
    assert kinds[:5] == ["tissue"] * 3 + ["vial"] * 2
    assert names[-1] == "air"
    assert set(kinds[5:]) == {"background"}


def test_blurring_keeps_the_amount_of_a_region_inside_the_head(regions_file):
    with np.load(regions_file) as stored:
        sharp, soft = (stored[k][:3].sum(axis=(1, 2, 3)) for k in ("fractions", "blurred"))
    np.testing.assert_allclose(soft, sharp, rtol=0.01)


def test_vials_are_blurred_by_the_kernels_of_the_image_they_are_read_from(sample, head, tmp_path):
    labels = {"vial_labels": head["vial_labels"], "vial_names": ["1 low", "2 high"]}
    own = load_response(head["response_file"])
    halved = {name: 0.5 * transfer for name, transfer in own.transfers.items()}
    static = save_response(tmp_path / "static.npz", Response(halved, own.noise_spectrum))
    one, two = sample(**labels), sample(**labels, static_response_file=static)
    np.testing.assert_array_equal(one["static_blurred"], one["blurred"][one["kinds"] == "vial"])
    np.testing.assert_allclose(two["static_blurred"], 0.5 * one["static_blurred"], atol=1e-6)
    np.testing.assert_array_equal(two["blurred"], one["blurred"])


def test_volumes_are_those_of_the_anatomy(regions_file):
    balls = [4 / 3 * np.pi * (r / 10) ** 3 for r in (10, 18, 26)]  # ml
    with np.load(regions_file) as stored:
        np.testing.assert_allclose(
            stored["volumes_ml"], [balls[2] - balls[1], balls[1] - balls[0], balls[0]], rtol=0.03
        )
        np.testing.assert_allclose(stored["coverage"], 1.0, atol=0.01)
        sampled = stored["fractions"][:3].sum(axis=(1, 2, 3)) * 0.064
        np.testing.assert_allclose(sampled, stored["volumes_ml"], rtol=0.02)


def test_a_lesion_lands_where_the_transform_says(sample, head, sodium_geometry, true_pose):
    stored = sample(lesion_files={"core": head["lesion"]})
    assert stored["names"].tolist()[3] == "core"
    found = centre_of(stored["fractions"][3], sodium_geometry.affine)
    expected = FLIP * (true_pose @ [-16.0, -1.0, 7.0, 1.0])[:3]
    np.testing.assert_allclose(found, expected, atol=0.4)  # a tenth of a voxel


def test_a_lesion_is_taken_from_white_matter(sample, head):
    without, with_lesion = sample(), sample(lesion_files={"core": head["lesion"]})
    lost = without["volumes_ml"][:3] - with_lesion["volumes_ml"][:3]
    assert lost.sum() == pytest.approx(with_lesion["volumes_ml"][3], rel=1e-3)
    assert with_lesion["volumes_ml"][3] == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.1)


def test_a_lesion_beside_the_anatomy_is_refused(sample, tmp_path):
    far = np.diag([2.0, 2.0, 2.0, 1.0])
    far[:3, 3] = 400
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    path = save_image(tmp_path / "far.nii.gz", mask, far)
    with pytest.raises(ValueError, match="far.nii.gz: lesion class 'core' does not touch"):
        sample(lesion_files={"core": path})


def test_a_lesion_mask_of_another_orientation_is_the_same_lesion(sample, head, tmp_path):
    turned = nib.load(head["lesion"]).as_reoriented([[1, -1], [0, 1], [2, -1]])
    nib.save(turned, tmp_path / "turned.nii.gz")
    one = sample(lesion_files={"core": head["lesion"]})["fractions"][3]
    other = sample(lesion_files={"core": str(tmp_path / "turned.nii.gz")})["fractions"][3]
    np.testing.assert_allclose(one, other, atol=1e-4)


def lesion_drawn_on(folder, name, affine, shape):
    """Write a smooth mask of an off-centre ellipsoid as it falls on a grid."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    radius = np.linalg.norm((places - [14.0, -3.0, 5.0]) / [8.0, 10.0, 9.0], axis=-1)
    return save_image(folder / f"{name}.nii.gz", np.clip((1.1 - radius) / 0.2, 0, 1), affine)


def other_grid(kind):
    """Return a grid that holds the head: flipped, permuted, oblique, finer or coarser."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-48.0, -46.0, -40.0]
    n = 48
    if kind == "LPS":
        return affine @ np.array([[-1.0, 0, 0, 47], [0, -1, 0, 47], [0, 0, 1, 0], [0, 0, 0, 1]]), n
    if kind == "permuted":
        return affine @ np.array([[0.0, 0, -1, 47], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]), n
    if kind == "oblique":
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("xyz", [10, -20, 15], degrees=True).as_matrix()
        return turn @ affine, n
    spacing = {"finer": 1.25, "coarser": 3.0}[kind]
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-47.0, -45.5, -39.2]
    return affine, round(96 / spacing)


@pytest.mark.parametrize("kind", ["LPS", "permuted", "oblique", "finer", "coarser"])
def test_a_lesion_on_any_grid_gives_the_same_regional_volumes(head, tmp_path, kind):
    own = load_image(head["gm_file"])[1]
    volumes = []
    for name, (affine, n) in (("plain", (own, 48)), (kind, other_grid(kind))):
        path = lesion_drawn_on(tmp_path, name, affine, (n, n, n))
        inputs = SampleRegions(**{k: head[k] for k in PORTS}, lesion_files={"core": path}).inputs
        tiny = FineGrid(np.diag([8.0, 8.0, 8.0, 1.0]), (4, 4, 4))
        carved, own_affine, _, _ = _carved(inputs)
        volumes.append(_brain_regions(carved, own_affine, tiny, np.eye(4))[1])
    assert volumes[0][3] == pytest.approx(4 / 3 * np.pi * 0.72, rel=0.05)
    np.testing.assert_allclose(volumes[1], volumes[0], rtol=0.01)


def test_a_lesion_outside_the_brain_is_refused_with_its_file(sample, head, tmp_path):
    values, affine = load_image(head["lesion"])
    affine[2, 3] += 60.0
    path = save_image(tmp_path / "elsewhere.nii.gz", values, affine)
    with pytest.raises(ValueError, match=r"elsewhere.nii.gz: .*'core' does not touch the brain"):
        sample(lesion_files={"core": path})


def test_a_label_image_is_no_lesion_mask_and_its_file_is_named(sample, head, tmp_path):
    values, affine = load_image(head["lesion"])
    values[20:24, 20, 20] = 4
    path = save_image(tmp_path / "labels.nii.gz", values, affine)
    with pytest.raises(ValueError, match=r"labels.nii.gz: holds 3 values"):
        sample(lesion_files={"core": path})


def test_vials_in_anatomical_space_follow_the_transform(
    sample, tmp_path, sodium_geometry, true_pose
):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -46.0
    labels = np.zeros((46, 46, 46), np.uint8)
    labels[40:44, 20:24, 20:24] = 1
    path = save_image(tmp_path / "labels.nii.gz", labels, affine)
    stored = sample(vial_labels=path, vial_space="T1w", vial_names=["1 low"])
    found = centre_of(stored["fractions"][3], sodium_geometry.affine)
    in_lps = FLIP * (affine @ [41.5, 21.5, 21.5, 1.0])[:3]
    np.testing.assert_allclose(found, FLIP * (true_pose @ [*in_lps, 1])[:3], atol=0.8)


def labels_at(path, start, size):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -46.0
    labels = np.zeros((46, 46, 46), np.uint8)
    labels[tuple(slice(start, start + size) for _ in range(3))] = 1
    return save_image(path, labels, affine)


def test_vials_inside_the_brain_are_refused_with_their_volume(sample, tmp_path):
    path = labels_at(tmp_path / "labels.nii.gz", 22, 4)
    with pytest.raises(ValueError, match=r"labels.nii.gz: 0.\d ml of the vials lie inside"):
        sample(vial_labels=path, vial_space="T1w", vial_names=["1 low"])


def test_a_field_of_view_that_cuts_the_brain_lowers_the_coverage(
    sample, tmp_path, sodium_geometry
):
    half = save_image(tmp_path / "half.nii.gz", np.ones((24, 24, 12)), sodium_geometry.affine)
    kernel = np.ones((48, 48, 13), np.complex64)
    response = Response(dict.fromkeys(("GM", "WM", "CSF", "muscle"), kernel), kernel.real)
    path = save_response(tmp_path / "half.npz", response)
    assert np.all(sample(sodium_file=half, response_file=path)["coverage"] < 0.7)


def test_a_vial_outside_the_field_of_view_is_refused_with_its_file(sample, head):
    with pytest.raises(ValueError, match=r"labels.nii.gz: vial '3 none' has no voxel"):
        sample(vial_labels=head["vial_labels"], vial_names=["1 low", "2 high", "3 none"])


def test_fractions_with_nan_are_refused_with_their_file(sample, head, tmp_path):
    values, affine = load_image(head["gm_file"])
    values[3, 3, 3] = np.nan
    path = save_image(tmp_path / "broken.nii.gz", values, affine)
    with pytest.raises(ValueError, match=r"broken.nii.gz: 1 voxels hold NaN"):
        sample(gm_file=path)


def test_lesions_of_all_classes_and_grids_are_united(head, run_in, tmp_path):
    values, affine = load_image(head["lesion"])
    other = np.zeros((48, 48, 48), np.uint8)
    other[5:9, 5:9, 5:9] = 1
    second = save_image(tmp_path / "second.nii.gz", other, affine)
    unite = UniteLesions(
        lesion_files={"a": head["lesion"], "b": second}, reference_file=head["gm_file"]
    )
    united, own = load_image(run_in(unite, tmp_path / "run").out_file)
    np.testing.assert_array_equal(united, (values > 0) | (other > 0))
    np.testing.assert_allclose(own, affine)
