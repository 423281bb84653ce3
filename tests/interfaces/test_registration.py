"""Transforms in files, and finding the pose of the head that was written."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.registration import (
    RegisterSodium,
    _Grid,
    read_transform,
    write_transform,
)
from sodiumprep.sodium.alignment import centre_of_mass, index_map, resample

ants = pytest.importorskip("ants")

PORTS = ("gm_file", "wm_file", "csf_file", "head_mask")
CENTRE = np.array([-2.0, -1.0, 7.0])


def anatomy(head):
    return {"anat_file": head["preproc_file"], **{port: head[port] for port in PORTS}}


def turned(degrees=5.0, shift=(2.0, -3.0, 1.0)):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    matrix[:3, 3] = shift
    return matrix


def test_a_transform_survives_its_file(tmp_path, true_pose):
    path = write_transform(tmp_path / "xfm.txt", true_pose)
    np.testing.assert_allclose(read_transform(path), true_pose, atol=1e-4)


def test_our_file_moves_a_point_as_the_registration_library_does(tmp_path, true_pose):
    library = ants.read_transform(write_transform(tmp_path / "xfm.txt", true_pose))
    moved = library.apply_to_point([10.0, -20.0, 30.0])
    np.testing.assert_allclose(moved, (true_pose @ [10, -20, 30, 1])[:3], atol=1e-3)


@pytest.mark.parametrize("kind", ["AffineTransform", "Euler3DTransform"])
def test_a_centred_transform_of_the_library_is_read(tmp_path, kind):
    library = ants.create_ants_transform(
        transform_type=kind, dimension=3, matrix=turned()[:3, :3], translation=(1.0, 2.0, 3.0),
        center=(10.0, 20.0, 30.0),
    )  # fmt: skip
    path = str(tmp_path / "library.mat")
    ants.write_transform(library, path)
    expected = library.apply_to_point([5.0, -7.0, 11.0])
    np.testing.assert_allclose((read_transform(path) @ [5, -7, 11, 1])[:3], expected, atol=1e-3)


def test_a_file_that_is_no_transform_is_named(tmp_path):
    (tmp_path / "xfm.txt").write_text("1 0 0 0\n0 1 0 0\n")
    with pytest.raises(ValueError, match=r"xfm.txt: not an ITK transform"):
        read_transform(tmp_path / "xfm.txt")


def test_a_missing_transform_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent.txt: not an ITK transform"):
        read_transform(tmp_path / "absent.txt")


def test_a_transform_that_bends_is_refused(tmp_path):
    field = np.zeros((20, 20, 20, 3), np.float32)
    field[..., 0] = 5 * np.sin(np.arange(20) / 2)[:, None, None]
    bent = ants.from_numpy(field, origin=(-100.0,) * 3, spacing=(10.0,) * 3, has_components=True)
    path = str(tmp_path / "bent.nii.gz")
    ants.image_write(bent, path)
    with pytest.raises(ValueError, match=r"bent.nii.gz: not a linear transform"):
        read_transform(path)


@pytest.fixture(autouse=True)
def few_restarts(monkeypatch):
    monkeypatch.setattr("sodiumprep.sodium.pose.REPLICATES", 2)


@pytest.fixture
def register(head, measured, run_in, tmp_path):
    def registered(**changes):
        inputs = {"sodium_file": measured["image_file"], **anatomy(head)}
        interface = RegisterSodium(
            **{**inputs, "properties": head["properties"], "sloppy": True, **changes}
        )
        return run_in(interface, tmp_path / "run")

    return registered


@pytest.fixture(scope="module")
def found(head, measured, run_in, tmp_path_factory):
    inputs = {"sodium_file": measured["image_file"], **anatomy(head)}
    interface = RegisterSodium(**inputs, properties=head["properties"], sloppy=True)
    return run_in(interface, tmp_path_factory.mktemp("found"))


def test_the_place_of_the_head_is_found_to_a_millimetre(found, true_pose):
    centre = [*CENTRE, 1]
    apart = (read_transform(found.xfm_file) - true_pose) @ centre
    assert np.linalg.norm(apart) < 1.0


def test_the_pose_that_is_found_scores_as_well_as_the_true_one(found, register, head):
    right = register(given_xfm=head["xfm_file"]).properties["RegistrationScore"]
    assert found.properties["RegistrationScore"] > right - 0.005


def test_a_rigid_pose_neither_scales_nor_mirrors(found):
    matrix = read_transform(found.xfm_file)[:3, :3]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-4)
    assert np.linalg.det(matrix) > 0


def test_the_best_of_several_candidates_is_chosen_and_said(found):
    known = found.properties
    scores, apart = (known[f"RegistrationCandidate{k}"] for k in ("s", "Distances"))
    assert known["RegistrationScore"] == scores[known["RegistrationChosen"]]
    assert known["RegistrationScore"] >= max(scores.values()) - 0.01
    assert set(scores) == set(apart)
    assert apart[known["RegistrationChosen"]] == 0
    assert apart["header"] == known["RegistrationFromHeader"]
    assert {name.split(",")[0] for name in scores} == {"header", "synthetic", "mi"}


def test_the_error_is_told_as_standard_and_as_bound(found):
    known = found.properties
    assert 0 < known["RegistrationSpread"] < known["RegistrationError95"]


@pytest.mark.parametrize(
    ("method", "found"),
    [("header", {"header", "synthetic, from header"}), ("mi", {"mi, from header"}),
     ("coil", {"coil, from header"})],
)  # fmt: skip
def test_a_method_that_is_asked_for_stands_alone(register, measured, method, found):
    known = register(method=method, coil_file=measured["image_file"]).properties
    assert set(known["RegistrationCandidates"]) == found


def test_the_synthetic_image_alone_starts_from_several_places(register):
    candidates = register(method="synthetic").properties["RegistrationCandidates"]
    assert len(candidates) == 3
    assert all(name.startswith("synthetic, from ") for name in candidates)


@pytest.mark.slow
def test_through_the_coil_the_sodium_image_takes_the_frame_of_its_companion(
    register, head, tmp_path, true_pose
):
    anat, affine = load_image(head["preproc_file"])
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    companion = save_image(tmp_path / "gre.nii.gz", anat, flip @ true_pose @ flip @ affine)
    outputs = register(method="coil", coil_file=companion, sloppy=False)
    apart = (read_transform(outputs.xfm_file) - true_pose) @ [*CENTRE, 1]
    assert np.linalg.norm(apart) < 0.5


def test_the_coil_without_its_image_is_an_error(register):
    with pytest.raises(ValueError, match="coil_file is missing"):
        register(method="coil")


def test_an_affine_pose_comes_on_request_only(register):
    turn = read_transform(register(method="header", dof=12).xfm_file)[:3, :3]
    assert np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3


def test_a_given_transform_is_taken_as_it_is_and_rated(register, tmp_path, true_pose):
    given = write_transform(tmp_path / "given.txt", true_pose @ turned(2.0, (1, 0, 0)))
    outputs = register(given_xfm=given)
    np.testing.assert_allclose(
        read_transform(outputs.xfm_file), true_pose @ turned(2.0, (1, 0, 0)), atol=1e-4
    )
    assert outputs.properties["RegistrationChosen"] == "given"
    assert outputs.properties["RegistrationSpread"] > 0


def test_another_method_leaves_the_given_transform_alone(register, head):
    outputs = register(method="header", given_xfm=head["xfm_file"])
    assert "given" not in outputs.properties["RegistrationCandidates"]


def test_a_wrong_pose_scores_low_and_is_called_failed(register, head, tmp_path, true_pose):
    right = register(given_xfm=head["xfm_file"]).properties
    wrong = write_transform(tmp_path / "wrong.txt", true_pose @ turned(0.0, (16.0, 0, 0)))
    known = register(given_xfm=wrong).properties
    assert right["RegistrationScore"] > 0.9 > 0.5 > known["RegistrationScore"]
    assert known["RegistrationFailed"] is True
    assert any("registration_failed: score" in text for text in known["Warnings"])


def test_images_that_do_not_meet_are_an_error(register, tmp_path):
    far = write_transform(tmp_path / "far.txt", turned(0.0, (900.0, 0, 0)))
    with pytest.raises(ValueError, match=r"image.nii.gz: image and anatomy do not overlap"):
        register(given_xfm=far)


@pytest.mark.parametrize(
    ("diagonal", "message"),
    [((-1.0, 1, 1), "mirrors the head"), ((2.0, 2, 2), "scales by 2.00 to 2.00; accepted: 0.67")],
)
def test_a_transform_between_other_things_than_heads_is_refused(
    register, tmp_path, diagonal, message
):
    path = write_transform(tmp_path / "odd.txt", np.diag([*diagonal, 1.0]))
    with pytest.raises(ValueError, match=f"odd.txt: {message}"):
        register(given_xfm=path)


@pytest.mark.parametrize(("scale", "offset"), [(100.0, 0.0), (1.0, -0.5)])
def test_fractions_in_percent_or_below_zero_are_refused(register, head, tmp_path, scale, offset):
    values, affine = load_image(head["gm_file"])
    path = save_image(tmp_path / "gm.nii.gz", scale * values + offset, affine)
    with pytest.raises(ValueError, match=r"gm.nii.gz: holds fractions from .*; accepted: 0 to 1"):
        register(gm_file=path)


def test_fractions_of_other_grids_are_refused(register, head, tmp_path):
    values, affine = load_image(head["gm_file"])
    path = save_image(tmp_path / "gm.nii.gz", values[2:], affine)
    with pytest.raises(ValueError, match="gm.nii.gz: fractions of different shapes"):
        register(gm_file=path)


def test_fractions_without_a_brain_are_refused(register, head, tmp_path):
    little = {}
    for port in PORTS[:3]:
        values, affine = load_image(head[port])
        little[port] = save_image(tmp_path / f"{port}.nii.gz", 0.3 * values, affine)
    with pytest.raises(ValueError, match="no brain"):
        register(**little)


def test_the_kept_part_of_the_anatomy_lies_where_it_was(head):
    values, affine = load_image(head["csf_file"])
    fine = affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    doubled = resample(values, index_map(fine, affine, np.eye(4)), (96, 96, 96), 1)
    grid = _Grid.around(values > 0.5, affine)
    first, second = grid.take(values, affine), grid.take(doubled, fine)
    np.testing.assert_allclose(first, second, atol=0.1)
    assert centre_of_mass(second, grid.affine) == pytest.approx(
        centre_of_mass(values, affine), abs=0.05
    )


SCRIPT = """
import json, sys
from sodiumprep.interfaces.registration import RegisterSodium
print(RegisterSodium(**json.loads(sys.argv[1])).run(cwd=sys.argv[2]).outputs.xfm_file)
"""


@pytest.mark.slow
def test_two_processes_of_one_seed_find_the_same_transform(head, measured, tmp_path):
    inputs = {"sodium_file": measured["image_file"], **anatomy(head), "sloppy": True}
    text = json.dumps({**inputs, "properties": head["properties"]})
    one = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "OMP_NUM_THREADS": "1",
           "OPENBLAS_NUM_THREADS": "1", "ANTS_RANDOM_SEED": "23"}  # fmt: skip
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", SCRIPT, text, str(tmp_path / name)]
        subprocess.run(command, check=True, env={**os.environ, **one}, cwd=tmp_path / name)
        found.append((tmp_path / name / "xfm.txt").read_text())
    assert found[0] == found[1]


def test_the_synthetic_image_lies_over_the_anatomy(register, head):
    synthetic, affine = load_image(register(given_xfm=head["xfm_file"]).synthetic_file)
    csf, own = load_image(head["csf_file"])
    there = resample(csf, index_map(affine, own, np.eye(4)), synthetic.shape, 1)
    assert synthetic[there > 0.99].mean() > 2 * synthetic[there < 0.01].mean()
    assert np.allclose(np.linalg.norm(affine[:3, :3], axis=0), 2.0)
