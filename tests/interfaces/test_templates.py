"""Templates as brains and grids, maps on them, and transforms that other software reads."""

import os
import subprocess
import sys

import ants
import h5py
import nibabel as nib
import nitransforms as nt
import numpy as np
import pytest
from nitransforms.manip import TransformChain
from nitransforms.resampling import apply

from sodiumprep.interfaces import anatomy
from sodiumprep.interfaces.anatomy import Normalize, to_ants
from sodiumprep.interfaces.concentration import (
    ResampleCorrected,
    ResampleToAnatomy,
    ResampleToTemplate,
)
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.registration import write_transform
from sodiumprep.interfaces.templates import (
    FAINT,
    embedded_template,
    template_brain,
    template_grid,
)

LPS = np.array([-1.0, -1.0, 1.0])
GRID = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -25], [0, 0, 2.5, -30], [0, 0, 0, 1]])
SHAPE = (20, 24, 22)
POINTS = np.random.default_rng(1).uniform(-12, 12, (20, 3))  # mm, RAS


def head(stretch=1.0):
    """Return an ellipsoid with blobs in it, wider than another by a factor."""
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    place /= np.array([stretch, 0.98 * stretch, 1.0])[:, None, None, None]
    outside = np.sum(place**2, axis=0) / 0.6
    blobs = np.cos(5 * place[0] + 1) * np.cos(6 * place[1]) * np.cos(4 * place[2] - 1)
    return ((5 + 2 * blobs) / (1 + np.exp(12 * (outside - 1)))).astype(np.float32)


@pytest.fixture(scope="module")
def warp(tmp_path_factory):
    """Register two small images by SyN; return composite transforms, fixed and moving image."""
    folder = tmp_path_factory.mktemp("warp")
    fixed, moving = to_ants(head(), GRID), to_ants(head(1.12), GRID)
    done = ants.registration(
        fixed, moving, "SyN", syn_metric="CC", syn_sampling=2, reg_iterations=(4, 3),
        aff_metric="GC", aff_random_sampling_rate=1.0, aff_iterations=(10, 5),
        aff_shrink_factors=(2, 1), aff_smoothing_sigmas=(1, 0), write_composite_transform=True,
        outprefix=f"{folder}/",
    )  # fmt: skip
    return done["fwdtransforms"], done["invtransforms"], fixed, moving


@pytest.fixture
def linear(tmp_path):
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    turned[:3, 3] = [1.0, -2.0, 3.0]
    return write_transform(tmp_path / "sub-01_from-sodium_to-T1w_mode-image_xfm.txt", turned)


@pytest.fixture
def identity(tmp_path):
    return write_transform(tmp_path / "identity.txt", np.eye(4))


def ants_points(path, points):
    transform = ants.read_transform(path)
    return np.array([transform.apply_to_point((p * LPS).tolist()) for p in points]) * LPS


def test_nitransforms_maps_points_through_our_linear_transforms_as_ants_does(linear):
    found = nt.linear.Affine.from_filename(linear, fmt="itk").map(POINTS)
    np.testing.assert_allclose(found, ants_points(linear, POINTS), atol=1e-4)
    assert np.abs(found - POINTS).max() > 1


@pytest.mark.filterwarnings("ignore:Reference space not set:UserWarning")
@pytest.mark.parametrize("direction", [0, 1])
def test_nitransforms_maps_points_through_composites_as_ants_does(warp, direction):
    chain = TransformChain.from_filename(warp[direction], fmt="itk")
    # mm; between its nodes one interpolates the field linearly, the other by splines
    np.testing.assert_allclose(chain.map(POINTS), ants_points(warp[direction], POINTS), atol=0.05)
    assert np.abs(chain.map(POINTS) - POINTS).max() > 0.5


@pytest.mark.filterwarnings("ignore:Reference space not set:UserWarning")
def test_nitransforms_resamples_images_through_composites_as_ants_does(warp, tmp_path):
    composite, _, fixed, moving = warp
    expected = ants.apply_transforms(fixed, moving, composite, interpolator="linear").numpy()
    image = nib.Nifti1Image(head(1.12), GRID)
    chain = TransformChain.from_filename(composite, fmt="itk")
    found = np.asarray(apply(chain, image, reference=image, order=1).dataobj)
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.02)
    assert np.abs(found - head(1.12))[inner].max() > 0.5


def test_nitransforms_resamples_images_through_our_linear_transforms_as_ants_does(linear):
    image = nib.Nifti1Image(head(), GRID)
    fixed = to_ants(head(), GRID)
    expected = ants.apply_transforms(fixed, fixed, [linear], interpolator="linear").numpy()
    affine = nt.linear.Affine.from_filename(linear, fmt="itk")
    found = np.asarray(apply(affine, image, reference=image, order=1).dataobj)
    inner = (slice(4, -4),) * 3
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.02)


def in_template(run_in, folder, source, linear, template_xfm, grid):
    resample = ResampleToTemplate(
        in_file=source, xfm_file=linear, template_xfm=template_xfm, grid_file=grid
    )
    return load_image(run_in(resample, folder).out_file)


@pytest.fixture
def source(tmp_path):
    affine = np.diag([-4.0, 4, 4, 1])
    affine[:3, 3] = [40, -40, -40]
    noise = np.random.default_rng(3).normal(50, 10, (21, 20, 20))
    return save_image(tmp_path / "corrected.nii.gz", noise.astype(np.float32), affine)


@pytest.fixture
def grid(tmp_path):
    return save_image(tmp_path / "grid.nii.gz", np.ones(SHAPE, np.float32), GRID)


def test_corrected_maps_do_not_swing_beside_their_edges(
    run_in, tmp_path, source, grid, linear, identity
):
    values, affine = load_image(source)
    edges = np.where(values > 50, 140.0, 40.0).astype(np.float32)
    path = save_image(tmp_path / "rbv.nii.gz", edges, affine)
    resample = ResampleCorrected(
        map_files={"rbv:corrected_file": path, "rbv:anat_corrected_file": path},
        wanted=["rbv:corrected_file"], xfm_file=linear, template_xfm=identity, grid_file=grid,
    )  # fmt: skip
    moved = run_in(resample, tmp_path / "m").map_files
    assert set(moved) == {"rbv:corrected_file"}
    found, _ = load_image(moved["rbv:corrected_file"])
    assert np.nanmin(found) >= 40 - 1e-3
    assert np.nanmax(found) <= 140 + 1e-3


def test_a_template_that_is_the_anatomy_gives_the_map_of_the_anatomy(
    run_in, tmp_path, source, grid, linear, identity
):
    there, affine = in_template(run_in, tmp_path / "t", source, linear, identity, grid)
    outputs = run_in(
        ResampleToAnatomy(in_file=source, xfm_file=linear, reference_file=grid), tmp_path / "a"
    )
    here, _ = load_image(outputs.out_file)
    np.testing.assert_allclose(affine, GRID)
    inside = np.isfinite(here) & np.isfinite(there)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(there[inside], here[inside], atol=0.1)  # of an SD of 10


def roughness(values):
    """Return the mean square of the differences between neighbours."""
    inner = values[5:-5, 5:-5, 5:-5]
    return np.mean([np.mean(np.diff(inner, axis=axis) ** 2) for axis in range(3)])


def in_anatomy(run_in, folder, source, linear, grid):
    resample = ResampleToAnatomy(in_file=source, xfm_file=linear, reference_file=grid)
    values, affine = load_image(run_in(resample, folder).out_file)
    return save_image(folder / "known.nii.gz", np.nan_to_num(values, nan=50.0), affine)


def test_maps_in_a_template_are_as_sharp_as_one_interpolation_leaves_them(run_in, tmp_path, grid):
    noise = np.random.default_rng(4).normal(50, 10, (30, 30, 34)).astype(np.float32)
    source = save_image(tmp_path / "m.nii.gz", noise, GRID @ np.diag([0.8, 0.8, 0.8, 1]))
    there, back = np.eye(4), np.eye(4)
    there[:3, 3], back[:3, 3] = [1.0, -0.8, 1.1], [-0.9, 1.0, -1.0]  # mm, between voxels
    chain = {"there": there, "back": back, "both": there @ back}
    files = {name: write_transform(tmp_path / f"{name}.txt", m) for name, m in chain.items()}
    once, _ = in_template(run_in, tmp_path / "1", source, files["there"], files["back"], grid)
    ideal = in_anatomy(run_in, tmp_path / "0", source, files["both"], grid)
    first = in_anatomy(run_in, tmp_path / "a", source, files["there"], grid)
    twice = in_anatomy(run_in, tmp_path / "2", first, files["back"], grid)
    assert roughness(once) == pytest.approx(roughness(load_image(ideal)[0]), rel=0.02)
    assert roughness(load_image(twice)[0]) < 0.8 * roughness(once)


def test_a_map_is_interpolated_once_through_both_transforms(
    run_in, tmp_path, source, grid, linear, warp, monkeypatch
):
    calls = []

    def counted(fixed, moving, transforms, **options):
        calls.append(transforms)
        return original(fixed, moving, transforms, **options)

    original = ants.apply_transforms
    monkeypatch.setattr(ants, "apply_transforms", counted)
    in_template(run_in, tmp_path / "t", source, linear, warp[0], grid)
    assert calls == [[warp[0], linear]]


def test_a_point_lands_where_both_transforms_put_it(run_in, tmp_path, linear, warp):
    place = np.array([[3.0, -4.0, 2.0]])  # template, RAS
    target = ants_points(linear, ants_points(warp[0], place))[0]
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -40
    index = np.stack(np.meshgrid(*[np.arange(41.0)] * 3, indexing="ij"), axis=-1)
    bump = np.exp(-np.sum((index * 2 - 40 - target) ** 2, axis=-1) / (2 * 4.0**2))
    source = save_image(tmp_path / "bump.nii.gz", bump, affine)
    grid = np.eye(4)
    grid[:3, 3] = place[0] - 8
    like = save_image(tmp_path / "like.nii.gz", np.ones((17, 17, 17)), grid)
    values, _ = in_template(run_in, tmp_path / "t", source, linear, warp[0], like)
    peak = np.unravel_index(np.nanargmax(values), values.shape)
    np.testing.assert_allclose(peak, [8, 8, 8], atol=1)


def test_outside_the_sodium_field_of_view_a_map_is_undetermined(
    run_in, tmp_path, grid, linear, identity
):
    affine = np.diag([2.0, 2, 2, 1])
    source = save_image(tmp_path / "small.nii.gz", np.full((6, 6, 6), 40.0), affine)
    values, _ = in_template(run_in, tmp_path / "t", source, linear, identity, grid)
    known = np.isfinite(values)
    assert 0 < known.mean() < 0.1
    np.testing.assert_allclose(values[known], 40, rtol=1e-3)


def test_the_embedded_template_gives_the_grid_of_its_resolution(
    run_in, tmp_path, source, linear, identity
):  # 5 mm: fewer voxels
    resample = ResampleToTemplate(
        in_file=source, xfm_file=linear, template_xfm=identity, resolution=5
    )
    values, affine = load_image(run_in(resample, tmp_path / "t").out_file)
    shape, expected = template_grid("", 5)
    assert values.shape == shape
    np.testing.assert_allclose(affine, expected, atol=1e-4)
    np.testing.assert_allclose(np.abs(np.diag(affine)[:3]), 5)


@pytest.fixture
def template(tmp_path):
    """Write a template like the embedded one, with a skull around it, elsewhere in space."""
    brain, affine = embedded_template("template", 5)
    affine = affine.copy()
    affine[:3, 3] += [10, -20, 30]
    image = np.where(brain > FAINT, 100 * brain, 70).astype(np.float32)
    return (
        save_image(tmp_path / "tpl_T1w.nii.gz", image, affine),
        save_image(tmp_path / "tpl_mask.nii.gz", brain > FAINT, affine),
    )


def test_a_template_on_disk_is_a_brain_without_its_skull(template):
    brain, affine = template_brain(*template, 5)
    expected, grid = embedded_template("template", 5)
    np.testing.assert_allclose(affine[:3, 3] - grid[:3, 3], [10, -20, 30])
    assert (brain.min(), brain.max()) == (0, 1)
    assert not brain[expected < FAINT].any()
    assert np.corrcoef(brain.ravel(), expected.ravel())[0, 1] > 0.99


def test_the_embedded_brain_is_as_large_on_a_coarse_grid():
    brain, _ = template_brain("", "", 5)
    assert (brain > 0).sum() * 0.125 == pytest.approx(1887, rel=0.01)  # ml


@pytest.mark.slow
def test_the_embedded_template_is_the_symmetric_one():
    brain, affine = embedded_template("template", 1)
    np.testing.assert_array_equal(brain, brain[::-1])
    np.testing.assert_allclose(affine[:3, 3], [-98, -134, -72])  # release 2009a


def test_a_template_finer_than_needed_is_brought_to_fewer_voxels_in_its_place(template):
    fine, affine = template_brain(*template, 5)
    coarse, grid = template_brain(*template, 10)
    np.testing.assert_allclose(np.linalg.norm(grid[:3, :3], axis=0), 10)
    for values, own in ((fine, affine), (coarse, grid)):
        centre = np.argwhere(values > 0.3).mean(axis=0)
        np.testing.assert_allclose((own @ [*centre, 1])[:3], [10, -38, 39], atol=6)


def test_a_mask_of_another_grid_is_refused_by_name(template, tmp_path):
    other = save_image(tmp_path / "other.nii.gz", np.ones(SHAPE), GRID)
    with pytest.raises(ValueError, match=r"other\.nii\.gz: its grid is not that of .*T1w"):
        template_brain(template[0], other, 5)


def test_an_empty_mask_is_refused_by_name(template, tmp_path):
    image, affine = load_image(template[0])
    empty = save_image(tmp_path / "empty.nii.gz", np.zeros(image.shape), affine)
    with pytest.raises(ValueError, match=r"empty\.nii\.gz"):
        template_brain(template[0], empty, 5)


def test_a_damaged_template_is_refused_by_name(tmp_path):
    (tmp_path / "cut.nii.gz").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"cut\.nii\.gz"):
        template_grid(str(tmp_path / "cut.nii.gz"), 1)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(anatomy.GRID_MM, True, 5)
    monkeypatch.setitem(anatomy.SYN_STEPS, True, (3, 1))


@pytest.fixture
def normalized(quick, template, run_in, tmp_path):
    """Normalize the embedded brain to the template that lies elsewhere."""
    brain, affine = embedded_template("template", 5)
    image = save_image(tmp_path / "brain.nii.gz", 300 * brain, affine)
    mask = save_image(tmp_path / "mask.nii.gz", brain > FAINT, affine)
    files = {"template_file": template[0], "template_mask": template[1]}
    normalize = Normalize(in_file=image, mask_file=mask, **files, sloppy=True)
    return brain, run_in(normalize, tmp_path / "normalize")


@pytest.mark.slow
def test_a_brain_is_normalized_to_the_template_that_is_named(normalized, template):
    brain, outputs = normalized
    warped, grid = load_image(outputs.warped_file)
    np.testing.assert_allclose(grid, load_image(template[0])[1], atol=1e-4)
    assert np.corrcoef(warped.ravel(), brain.ravel())[0, 1] > 0.98
    points = np.array([[0.0, 10, 0], [20, -30, 10]])
    moved = ants_points(outputs.to_template_xfm, points + np.array([10, -20, 30]))
    np.testing.assert_allclose(moved, points, atol=1.5)
    assert outputs.overlap > 0.95
    assert outputs.warning == ""


NORMALIZE = """
import sys
import h5py
from sodiumprep.interfaces import anatomy
anatomy.GRID_MM[True], anatomy.SYN_STEPS[True] = 5, (3, 1)
anatomy.Normalize(in_file=sys.argv[1], mask_file=sys.argv[2], sloppy=True).run(cwd=sys.argv[3])
"""


def numbers(composite):
    """Return all numbers of a composite transform; its file holds a time as well."""
    with h5py.File(composite) as file:
        groups = [file["TransformGroup"][name] for name in sorted(file["TransformGroup"])]
        parts = [part for group in groups for part in group.values()]
        return [np.asarray(part) for part in parts if part.dtype.kind == "f"]


@pytest.mark.slow
def test_one_seed_gives_the_same_transforms_in_two_processes(tmp_path):
    brain, affine = embedded_template("template", 5)
    bent = brain * np.linspace(0.8, 1.2, brain.shape[0])[:, None, None]
    image = save_image(tmp_path / "brain.nii.gz", np.roll(bent, 2, axis=1), affine)
    mask = save_image(tmp_path / "mask.nii.gz", np.roll(brain, 2, axis=1) > FAINT, affine)
    threads = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "ANTS_RANDOM_SEED": "23"}
    found = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        command = [sys.executable, "-c", NORMALIZE, image, mask, str(folder)]
        subprocess.run(command, check=True, env={**os.environ, **threads})
        found.append([numbers(path) for path in sorted(folder.glob("*.h5"))])
    first, second = ([part for parts in run for part in parts] for run in found)
    assert sum(part.size for part in first) > 1000
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
