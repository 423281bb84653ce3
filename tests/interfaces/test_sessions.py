"""Sessions are found where they lie; what belongs to them moves along, voxels untouched."""

import json
from pathlib import Path

import numpy as np
import pytest
from nilearn.datasets import load_mni152_template
from scipy.spatial.transform import Rotation

from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.registration import read_transform, write_transform
from sodiumprep.interfaces.sessions import (
    AlignSessions,
    BuildTemplate,
    MoveLabels,
    MoveMasks,
    PlaceSodium,
    ReturnToSession,
    SaveSession,
    move_header,
)
from sodiumprep.sodium.alignment import displacement, index_map, resample

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
BRAIN = np.array([0.0, 10.0, 20.0])  # mm, RAS: centre of a brain


def pose(angles, shift):
    """Return a rigid transform of points [mm, LPS], turned about the centre of the brain."""
    matrix, centre = np.eye(4), LPS[:3, :3] @ BRAIN
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = centre + shift - matrix[:3, :3] @ centre
    return matrix


POSES = [pose([4, -7, 3], [6, -3, 2]), pose([-5, 2, -8], [-4, 5, 3]), pose([1, 6, 9], [2, 8, -5])]


@pytest.fixture
def poses(tmp_path):
    paths = [tmp_path / f"true{n}.txt" for n in range(len(POSES))]
    return [write_transform(path, matrix) for path, matrix in zip(paths, POSES, strict=True)]


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """Write the embedded template's brain in each pose, with noise and a drift of its own."""
    folder, rng = tmp_path_factory.mktemp("brains"), np.random.default_rng(1)
    template = load_mni152_template(resolution=2)
    values, affine = np.asarray(template.dataobj, np.float32), template.affine
    files = []
    for number, matrix in enumerate(POSES):
        shift = np.eye(4)
        shift[:3, 3] = rng.uniform(-2, 2, 3)
        grid = shift @ affine
        moved = resample(values, index_map(grid, affine, np.linalg.inv(matrix)), values.shape, 3)
        drift = 1 + 0.2 * np.sin(np.indices(moved.shape)[number] / 40)
        noisy = np.abs(moved * (drift if number else 1) + rng.normal(0, 0.02, moved.shape))
        files.append(save_image(folder / f"ses{number}.nii.gz", noisy, grid))
    mask = save_image(
        folder / "mask.nii.gz", load_image(files[0])[0] > 0.2, load_image(files[0])[1]
    )
    return files, mask


def between(first, second):
    return second @ np.linalg.inv(first)


@pytest.mark.slow
def test_a_template_lies_halfway_whatever_the_order_of_the_sessions(brains, run_in, tmp_path):
    found, files = {}, brains[0]
    for order, sloppy in (((0, 1, 2), False), ((2, 0, 1), True)):
        build = BuildTemplate(in_files=[files[n] for n in order], sloppy=sloppy)
        outputs = run_in(build, tmp_path / "".join(map(str, order)))
        matrices = [read_transform(path) for path in outputs.xfm_files]
        found[order] = [matrices[order.index(n)] for n in range(3)]
        assert min(outputs.scores) > 0.9
    centre = LPS[:3, :3] @ BRAIN
    for one, other in zip(*found.values(), strict=True):
        apart = displacement(one, other, centre)
        print(f"orders apart by {apart:.3f} mm")
        assert apart < 0.3
    first = found[0, 1, 2]
    for n in (1, 2):
        true = between(POSES[0], POSES[n])
        error = displacement(between(first[0], first[n]), true, centre)
        print(f"session {n}: {error:.3f} mm")
        assert error < 0.3


@pytest.mark.slow
def test_sessions_are_registered_to_the_reference_and_that_stays(brains, run_in, tmp_path):
    files, mask = brains
    align = AlignSessions(
        in_files=files, reference_file=files[0], mask_file=mask, reference_index=0
    )
    outputs = run_in(align, tmp_path / "run")
    found = [read_transform(path) for path in outputs.xfm_files]
    np.testing.assert_array_equal(found[0], np.eye(4))
    for n in (1, 2):
        true = between(POSES[0], POSES[n])
        error = displacement(found[n], true, LPS[:3, :3] @ BRAIN)
        print(f"session {n}: {error:.3f} mm")
        assert error < 0.3
    assert min(outputs.scores) > 0.9


def test_a_moved_header_puts_a_point_where_the_pose_says():
    affine = np.diag([2.0, -3.0, 1.0, 1.0])
    point = np.array([4.0, 5.0, 6.0, 1.0])
    in_session = LPS @ POSES[0] @ LPS @ move_header(affine, POSES[0]) @ point
    np.testing.assert_allclose(in_session, affine @ point, atol=1e-9)


def test_placed_and_returned_a_transform_is_that_of_the_session(run_in, tmp_path, poses):
    image = save_image(tmp_path / "na.nii.gz", np.ones((3, 4, 5)), np.diag([4.0, 4, 4, 1]))
    given = write_transform(tmp_path / "given.txt", pose([2, 3, 4], [5, 6, 7]))
    place = PlaceSodium(sodium_file=image, xfm_files=poses, index=1, given_xfm=given)
    placed = run_in(place, tmp_path / "place")
    back = ReturnToSession(
        xfm_file=placed.given_xfm, xfm_files=poses, scores=[1.0, 0.9, 1.0], index=1,
        placed_file=placed.sodium_file, properties={},
    )  # fmt: skip
    returned = run_in(back, tmp_path / "back")
    # from the reference to the session, and from there as given
    np.testing.assert_allclose(
        read_transform(returned.xfm_file), read_transform(given) @ POSES[1], atol=1e-4
    )
    told, middle = returned.properties["SessionToReference"], LPS[:3, :3] @ [4, 6, 8]
    assert told["Score"] == 0.9
    turn = Rotation.from_euler("xyz", [-5, 2, -8], degrees=True).magnitude()
    assert told["Rotation"] == pytest.approx(np.degrees(turn), abs=1e-3)
    there = np.linalg.inv(POSES[1]) @ [*middle, 1]
    assert told["Displacement"] == pytest.approx(np.linalg.norm(middle - there[:3]), abs=1e-3)
    values, affine = load_image(placed.sodium_file)
    np.testing.assert_array_equal(values, load_image(image)[0])
    np.testing.assert_allclose(affine, move_header(np.diag([4.0, 4, 4, 1]), POSES[1]), atol=1e-4)


@pytest.mark.parametrize(("score", "warned"), [(0.3, True), (0.9, False)])
def test_a_session_that_does_not_fit_the_reference_is_warned_of(
    run_in, tmp_path, poses, mask, score, warned
):
    back = ReturnToSession(
        xfm_file=poses[0], xfm_files=poses, scores=[score] * 3, index=0, placed_file=mask[0],
        properties={"Warnings": ["old"]},
    )  # fmt: skip
    told = run_in(back, tmp_path / "run").properties["Warnings"]
    assert told[0] == "old"
    assert any("pose is in doubt" in text for text in told) is warned


@pytest.fixture
def mask(tmp_path):
    values = np.zeros((12, 12, 12), np.uint8)
    values[3:7, 4:9, 5:8] = 255
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -18.0
    return save_image(tmp_path / "mask.nii.gz", values, affine), values, affine


def test_masks_move_with_their_session_and_their_voxels_stay(run_in, tmp_path, poses, mask):
    path, values, affine = mask
    move = MoveMasks(in_files={"a": path, "b": path}, spaces={"a": 2, "b": -1}, xfm_files=poses)
    moved = run_in(move, tmp_path / "run").out_files
    for name, expected in (("a", move_header(affine, POSES[2])), ("b", affine)):
        found, own = load_image(moved[name])
        np.testing.assert_array_equal(found, values)
        np.testing.assert_allclose(own, expected, atol=1e-4)


def test_labels_move_with_their_session(run_in, tmp_path, poses, mask):
    path, values, affine = mask
    move = MoveLabels(in_file=path, xfm_files=poses, index=0)
    found, own = load_image(run_in(move, tmp_path / "run").out_file)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_allclose(own, move_header(affine, POSES[0]), atol=1e-4)


def test_pose_and_masks_of_a_session_are_saved_with_their_sidecars(run_in, tmp_path, poses, mask):
    path, values, affine = mask
    out = tmp_path / "out"
    outputs = {"xfm": str(out / "a_xfm.txt"), "lesion_core": str(out / "a_mask.nii.gz")}
    save = SaveSession(
        outputs=outputs, provenance={"AnatomicalReference": "unbiased"}, xfm_files=poses,
        scores=[0.5, 0.6, 0.7], index=2, lesion_files={"core": path}, reference_file=path,
    )  # fmt: skip
    run_in(save, tmp_path / "run")
    np.testing.assert_allclose(read_transform(outputs["xfm"]), POSES[2], atol=1e-6)
    told = json.loads((out / "a_xfm.json").read_text())
    assert (told["Score"], told["AnatomicalReference"]) == (0.7, "unbiased")
    found, own = load_image(outputs["lesion_core"])
    np.testing.assert_array_equal(found, values > 0)
    np.testing.assert_allclose(own, affine)
    assert not list(Path(out).rglob(".*partial*"))


def test_a_moved_mask_lies_where_one_drawn_in_the_reference_does(mask):
    _, values, affine = mask
    shape, grid = (40, 40, 40), np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = -40.0
    one = resample(values, index_map(grid, move_header(affine, POSES[0]), np.eye(4)), shape, 1)
    other = resample(values, index_map(grid, affine, POSES[0]), shape, 1)
    np.testing.assert_allclose(one, other, atol=1e-2)
