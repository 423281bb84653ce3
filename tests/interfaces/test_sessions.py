"""Sessions are found where they lie; what belongs to them moves along, voxels untouched."""

import json
from pathlib import Path

import numpy as np
import pytest
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
BRAIN = np.array([0.0, 10.0, 20.0])  # mm, RAS: centre of the brain of the head below


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


def blob(places, centre, radius, softness=1.5):
    distance = np.linalg.norm((places - centre) / radius, axis=-1)
    return 1 / (1 + np.exp((distance - 1) * np.min(radius) / softness))


def head_at(places):
    """Return a T1w-like head at points [mm, RAS]: scalp, brain, ventricles and odd spots."""
    scalp = blob(places, [0, 8, 10], np.array([76, 96, 100]))
    skull = blob(places, [0, 9, 15], np.array([70, 89, 85]))
    brain = blob(places, BRAIN, np.array([62, 78, 62]))
    image = 0.9 * (scalp - skull) + 0.65 * brain + 0.1 * skull
    spots = [([25, 35, 30], 14), ([-30, -15, 45], 11), ([15, -40, 5], 16), ([-20, 50, 10], 12),
             ([40, 0, 0], 10), ([-35, 20, 15], 9)]  # fmt: skip
    for number, (centre, radius) in enumerate(spots):
        image += (0.3 if number % 2 else -0.45) * blob(places, centre, np.full(3, float(radius)))
    return image


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """Write the head in each pose on a grid of its own; one is stored with flipped axes."""
    folder, rng = tmp_path_factory.mktemp("sessions"), np.random.default_rng(0)
    files = []
    for number, matrix in enumerate(POSES):
        affine = np.diag([2.5, 2.5, 2.5, 1.0])
        affine[:3, 3] = np.array([-95.0, -105.0, -100.0]) + rng.uniform(-2, 2, 3)
        if number == 1:
            affine = affine @ np.array(
                [[-1.0, 0, 0, 77], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
            )
        index = np.stack(np.meshgrid(*[np.arange(84.0)] * 3, indexing="ij"), axis=-1)
        here = index @ affine[:3, :3].T + affine[:3, 3]
        back = np.linalg.inv(LPS @ matrix @ LPS)
        there = here @ back[:3, :3].T + back[:3, 3]
        drift = 1 + 0.2 * np.sin(here[..., number] / 90)
        image = 1000 * head_at(there) * drift + rng.normal(0, 15, there.shape[:3])
        files.append(save_image(folder / f"ses{number}.nii.gz", np.abs(image), affine))
    return files


def between(first, second):
    return second @ np.linalg.inv(first)


@pytest.mark.slow
def test_a_template_lies_halfway_whatever_the_order_of_the_sessions(sessions, run_in, tmp_path):
    found = {}
    for order in ((0, 1, 2), (2, 0, 1)):
        build = BuildTemplate(in_files=[sessions[n] for n in order])
        outputs = run_in(build, tmp_path / "".join(map(str, order)))
        matrices = [read_transform(path) for path in outputs.xfm_files]
        found[order] = [matrices[order.index(n)] for n in range(3)]
        assert min(outputs.scores) > 0.9
    centre = LPS[:3, :3] @ BRAIN
    for one, other in zip(*found.values(), strict=True):
        assert displacement(one, other, centre) < 0.3
    first = found[0, 1, 2]
    for n in (1, 2):
        true = between(POSES[0], POSES[n])
        assert displacement(between(first[0], first[n]), true, centre) < 0.3


@pytest.mark.slow
def test_sessions_are_registered_to_the_reference_and_that_stays(sessions, run_in, tmp_path):
    values, affine = load_image(sessions[0])
    index = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), axis=-1)
    back = np.linalg.inv(LPS @ POSES[0] @ LPS) @ affine
    brain = blob(index @ back[:3, :3].T + back[:3, 3], BRAIN, np.array([62, 78, 62])) > 0.5
    mask = save_image(tmp_path / "brain.nii.gz", brain, affine)
    align = AlignSessions(
        in_files=sessions, reference_file=sessions[0], mask_file=mask, reference_index=0
    )
    outputs = run_in(align, tmp_path / "run")
    found = [read_transform(path) for path in outputs.xfm_files]
    np.testing.assert_array_equal(found[0], np.eye(4))
    for n in (1, 2):
        true = between(POSES[0], POSES[n])
        assert displacement(found[n], true, LPS[:3, :3] @ BRAIN) < 0.3
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
    assert not list(Path(out).glob(".partial*"))


def test_a_moved_mask_lies_where_one_drawn_in_the_reference_does(mask):
    _, values, affine = mask
    shape, grid = (40, 40, 40), np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = -40.0
    one = resample(values, index_map(grid, move_header(affine, POSES[0]), np.eye(4)), shape, 1)
    other = resample(values, index_map(grid, affine, POSES[0]), shape, 1)
    np.testing.assert_allclose(one, other, atol=1e-2)
