"""Ready-made anatomy is checked, brought to one grid, and otherwise left alone."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.ready import TakeFractions, TakeImage, TakeMask
from sodiumprep.interfaces.transforms import InvertTransform, transform_kinds
from sodiumprep.sodium.labels import FREESURFER

GRID = np.diag([2.0, 2.0, 2.0, 1.0])
SHAPE = (20, 20, 20)
RADIUS = np.linalg.norm(np.indices(SHAPE) - 9.5, axis=0)
SHELLS = {
    "csf": RADIUS < 3,
    "wm": (RADIUS >= 3) & (RADIUS < 6),
    "gm": (RADIUS >= 6) & (RADIUS < 8),
}


@pytest.fixture
def put(tmp_path):
    def write(name, values, affine=GRID):
        return save_image(tmp_path / f"{name}.nii.gz", np.asarray(values), affine)

    return write


@pytest.fixture
def reference(put):
    return put("image", RADIUS + 1.0)


@pytest.fixture
def fractions(put):
    return {f"{name}_file": put(name, shell.astype(np.float32)) for name, shell in SHELLS.items()}


def moved(distance):
    affine = GRID.copy()
    affine[0, 3] = distance
    return affine


def values_of(path):
    return load_image(path)[0]


def test_an_image_of_freesurfers_keeps_values_and_places(tmp_path, run_in):
    affine = np.array([[-1, 0, 0, 5], [0, 0, 1, -7], [0, -1, 0, 9], [0, 0, 0, 1.0]])
    nib.save(nib.MGHImage(RADIUS.astype(np.float32), affine), tmp_path / "T1.mgz")
    taken = run_in(TakeImage(in_file=str(tmp_path / "T1.mgz")), tmp_path / "a")
    values, own = load_image(taken.out_file)
    np.testing.assert_allclose(values, RADIUS, rtol=1e-6)
    np.testing.assert_allclose(own, affine)


def test_an_image_that_needs_no_change_is_not_copied(tmp_path, run_in, reference):
    assert run_in(TakeImage(in_file=reference), tmp_path / "a").out_file == reference


def test_an_image_with_holes_is_refused(tmp_path, run_in, put):
    broken = put("broken", np.where(RADIUS < 3, np.nan, 1).astype(np.float32))
    with pytest.raises(ValueError, match=r"broken.nii.gz: \d+ voxels hold NaN"):
        run_in(TakeImage(in_file=broken), tmp_path / "a")


def test_fractions_on_the_grid_are_taken_as_they_are(tmp_path, run_in, reference, fractions):
    taken = run_in(TakeFractions(reference_file=reference, **fractions), tmp_path / "a")
    for port, path in fractions.items():
        np.testing.assert_array_equal(values_of(getattr(taken, port)), values_of(path))
    np.testing.assert_array_equal(values_of(taken.brain_file), RADIUS < 8)
    assert values_of(taken.dseg_file)[9, 9, 9] == 3
    assert taken.warning == ""


def test_fractions_of_another_grid_keep_their_place_and_volume(tmp_path, run_in, put, fractions):
    fine = np.diag([1.0, 1.0, 1.0, 1.0])
    fine[:3, 3] = -0.5
    reference = put("fine", np.ones((40, 40, 40), np.float32), fine)
    taken = run_in(TakeFractions(reference_file=reference, **fractions), tmp_path / "a")
    assert values_of(taken.wm_file).sum() / 8 == pytest.approx(SHELLS["wm"].sum(), rel=0.01)


@pytest.mark.parametrize(
    ("value", "said"),
    [(255.0, "values run from 0 to 255"), (-0.3, "from -0.3"), (np.nan, "1 voxels are NaN")],
)
def test_what_is_no_fraction_is_refused(tmp_path, run_in, put, reference, fractions, value, said):
    wrong = SHELLS["gm"].astype(np.float32)
    wrong[0, 0, 0] = value
    inputs = {**fractions, "gm_file": put("wrong", wrong)}
    with pytest.raises(ValueError, match=f"wrong.nii.gz: .*{said}"):
        run_in(TakeFractions(reference_file=reference, **inputs), tmp_path / "a")


def test_a_tissue_that_is_zero_everywhere_is_refused(tmp_path, run_in, put, reference, fractions):
    inputs = {**fractions, "gm_file": put("zero", np.zeros(SHAPE, np.float32))}
    with pytest.raises(ValueError, match=r"zero.nii.gz: every voxel is 0"):
        run_in(TakeFractions(reference_file=reference, **inputs), tmp_path / "a")


def test_fractions_that_sum_to_two_are_refused(tmp_path, run_in, reference, fractions):
    inputs = {**fractions, "gm_file": fractions["wm_file"]}
    with pytest.raises(ValueError, match="sum up to 2"):
        run_in(TakeFractions(reference_file=reference, **inputs), tmp_path / "a")


def test_a_small_excess_is_clipped_and_said(tmp_path, run_in, put, reference, fractions):
    excess = SHELLS["gm"] * np.float32(1.0005)
    inputs = {**fractions, "gm_file": put("excess", excess)}
    taken = run_in(TakeFractions(reference_file=reference, **inputs), tmp_path / "a")
    assert taken.warning == f"excess.nii.gz: {SHELLS['gm'].sum()} voxels clipped to [0, 1]"


def test_a_sum_a_little_above_one_is_scaled_down_and_said(
    tmp_path, run_in, put, reference, fractions
):
    more = np.where(SHELLS["gm"] | SHELLS["wm"], np.where(SHELLS["gm"], 1, 0.05), 0)
    inputs = {**fractions, "gm_file": put("more", more.astype(np.float32))}
    taken = run_in(TakeFractions(reference_file=reference, **inputs), tmp_path / "a")
    assert f"more than 1 in {SHELLS['wm'].sum()} voxels" in taken.warning
    total = values_of(taken.gm_file) + values_of(taken.wm_file)
    assert total.max() == pytest.approx(1)


def segmented():
    labels = np.zeros(SHAPE, np.int16)
    for number, shell in {4: "csf", 2: "wm", 3: "gm"}.items():
        labels[SHELLS[shell]] = number
    labels[10:][SHELLS["wm"][10:]], labels[10:][SHELLS["gm"][10:]] = 41, 42
    return labels


def test_labels_become_hard_fractions(tmp_path, run_in, put, reference, fractions):
    take = TakeFractions(
        reference_file=reference, labels_file=put("seg", segmented()), label_tissues=FREESURFER
    )
    taken = run_in(take, tmp_path / "a")
    for port, path in fractions.items():
        np.testing.assert_array_equal(values_of(getattr(taken, port)), values_of(path))


def test_posteriors_make_the_fractions_soft(tmp_path, run_in, put, reference):
    labels = segmented()
    soft = np.stack([0.8 * (labels == k) + 0.2 / 6 for k in (3, 0, 42, 2, 41, 4)], axis=-1)
    take = TakeFractions(
        reference_file=reference, labels_file=put("seg", labels), label_tissues=FREESURFER,
        posteriors_file=put("soft", soft.astype(np.float32)),
    )  # fmt: skip
    taken = run_in(take, tmp_path / "a")
    np.testing.assert_allclose(values_of(taken.gm_file), 0.8 * SHELLS["gm"] + 0.4 / 6, atol=1e-5)


def test_posteriors_of_another_shape_are_refused(tmp_path, run_in, put, reference):
    take = TakeFractions(
        reference_file=reference, labels_file=put("seg", segmented()), label_tissues=FREESURFER,
        posteriors_file=put("soft", np.ones((4, 4, 4, 2), np.float32)),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"soft.nii.gz: has shape \(4, 4, 4, 2\)"):
        run_in(take, tmp_path / "a")


def test_a_mask_is_measured_and_a_small_brain_told(tmp_path, run_in, put, reference):
    taken = run_in(
        TakeMask(in_file=put("mask", RADIUS < 8), reference_file=reference), tmp_path / "a"
    )
    np.testing.assert_array_equal(values_of(taken.mask_file), RADIUS < 8)
    assert taken.brain_volume_ml == pytest.approx((RADIUS < 8).sum() * 8e-3)
    assert "holds 17 ml" in taken.warning
    assert "skull-stripped" not in taken.remarks


def test_an_image_without_skull_is_told(tmp_path, run_in, put):
    bare = put("bare", (RADIUS < 8).astype(np.float32))
    mask = put("mask", RADIUS < 8)
    taken = run_in(TakeMask(in_file=mask, reference_file=bare), tmp_path / "a")
    assert "skull-stripped?" in taken.remarks


def test_without_a_mask_the_fractions_give_it(tmp_path, run_in, put, reference):
    take = TakeMask(brain_file=put("brain", RADIUS < 7), reference_file=reference, notes="told")
    taken = run_in(take, tmp_path / "a")
    np.testing.assert_array_equal(values_of(taken.mask_file), RADIUS < 7)
    assert taken.remarks == "told"


def test_a_mask_of_zeros_is_refused(tmp_path, run_in, put, reference):
    take = TakeMask(in_file=put("mask", np.zeros(SHAPE, bool)), reference_file=reference)
    with pytest.raises(ValueError, match=r"mask.nii.gz: every voxel is 0"):
        run_in(take, tmp_path / "a")


@pytest.mark.parametrize(("scale", "erased"), [(1.0, 0.3), (110.0, 1.0), (255.0, 0.0)])
def test_a_mask_may_be_a_fraction_or_an_image_of_the_brain(
    tmp_path, run_in, put, reference, scale, erased
):
    values = np.where(RADIUS < 8, scale, np.where(RADIUS < 9, erased, 0)).astype(np.float32)
    taken = run_in(TakeMask(in_file=put("mask", values), reference_file=reference), tmp_path / "a")
    np.testing.assert_array_equal(values_of(taken.mask_file), RADIUS < 8)


def test_a_mask_of_small_fractions_is_refused(tmp_path, run_in, put, reference):
    take = TakeMask(in_file=put("mask", np.float32(0.4) * (RADIUS < 8)), reference_file=reference)
    with pytest.raises(ValueError, match="mask.nii.gz: no voxel lies above 0.5"):
        run_in(take, tmp_path / "a")


def test_a_mask_beside_the_image_is_refused_with_the_distance(tmp_path, run_in, put, reference):
    take = TakeMask(in_file=put("far", RADIUS < 8, moved(300.0)), reference_file=reference)
    with pytest.raises(ValueError, match=r"far.nii.gz: 0% of it .* 300 mm apart"):
        run_in(take, tmp_path / "a")


def test_a_mask_beside_the_tissue_is_refused(tmp_path, run_in, put, reference):
    take = TakeMask(
        in_file=put("mask", RADIUS < 2), brain_file=put("brain", RADIUS < 8),
        reference_file=reference,
    )  # fmt: skip
    with pytest.raises(ValueError, match="only 1% of the ready-made tissue lies inside"):
        run_in(take, tmp_path / "a")


def test_a_transform_turned_round_leads_back(tmp_path, run_in, head, true_pose):
    from sodiumprep.interfaces.registration import read_transform

    turned = run_in(InvertTransform(in_file=head["xfm_file"]), tmp_path / "a").out_file
    np.testing.assert_allclose(read_transform(turned) @ true_pose, np.eye(4), atol=1e-4)


@pytest.mark.parametrize("extension", [".txt", ".mat", ".h5"])
def test_the_kind_of_a_transform_is_read_from_every_format(tmp_path, extension):
    import ants

    path = tmp_path / f"xfm{extension}"
    ants.write_transform(ants.create_ants_transform("Euler3DTransform", dimension=3), str(path))
    assert transform_kinds(path) == ["Euler3DTransform_double_3_3"]


def test_what_is_no_transform_is_refused(tmp_path):
    for extension in (".txt", ".mat", ".h5"):
        path = tmp_path / f"a{extension}"
        path.write_text("nothing")
        with pytest.raises(ValueError, match="not an ITK transform"):
            transform_kinds(path)
