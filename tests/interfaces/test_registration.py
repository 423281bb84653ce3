"""Transforms in files, and finding the pose of the head that was written."""

import numpy as np
import pytest

from sodiumprep.interfaces.image import load_image
from sodiumprep.interfaces.registration import RegisterSodium, read_transform, write_transform
from sodiumprep.sodium.alignment import index_map, resample

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
    assert known["RegistrationChosen"] in known["RegistrationCandidates"]
    assert known["RegistrationScore"] == max(known["RegistrationCandidates"].values())
    assert len(known["RegistrationCandidates"]) == 4


def test_a_given_transform_is_taken_as_it_is(register, tmp_path):
    given = write_transform(tmp_path / "given.txt", turned())
    outputs = register(given_xfm=given)
    np.testing.assert_allclose(read_transform(outputs.xfm_file), turned(), atol=1e-4)
    assert outputs.properties["RegistrationChosen"] == "given"
    assert outputs.properties["RegistrationSpread"] is None


def test_the_true_pose_scores_better_than_a_wrong_one(register, head, tmp_path, true_pose):
    right = register(given_xfm=head["xfm_file"]).properties["RegistrationScore"]
    wrong = write_transform(tmp_path / "wrong.txt", true_pose @ turned(0.0, (8.0, 0, 0)))
    assert right > 0.9
    assert register(given_xfm=wrong).properties["RegistrationScore"] < right - 0.05


def test_the_synthetic_image_lies_over_the_anatomy(register, head):
    synthetic, affine = load_image(register(given_xfm=head["xfm_file"]).synthetic_file)
    csf, own = load_image(head["csf_file"])
    there = resample(csf, index_map(affine, own, np.eye(4)), synthetic.shape, 1)
    assert synthetic[there > 0.99].mean() > 2 * synthetic[there < 0.01].mean()
    assert np.allclose(np.linalg.norm(affine[:3, :3], axis=0), 2.0)
