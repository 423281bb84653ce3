"""Images: one header for all, and every bad file is named."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.interfaces import image as image_room
from sodiumprep.interfaces.image import load_finite_image, load_image, save_image

VALUES = np.random.default_rng(0).normal(size=(12, 13, 14))


@pytest.fixture
def saved(tmp_path, oblique):
    return save_image(tmp_path / "image.nii.gz", VALUES, oblique(16, -1).affine)


def test_values_and_affine_survive(saved, oblique):
    values, affine = load_finite_image(saved)
    np.testing.assert_allclose(values, VALUES, rtol=1e-6)
    np.testing.assert_allclose(affine, oblique(16, -1).affine, atol=1e-4)


@pytest.mark.parametrize("handedness", [1, -1])
def test_both_affines_of_the_header_agree(tmp_path, oblique, handedness):
    affine = oblique(16, handedness).affine
    image = nib.load(save_image(tmp_path / "a.nii.gz", VALUES, affine))
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.ones((2, 2, 2), bool), np.uint8),
        (np.full((2, 2, 2), 255), np.uint8),
        (np.full((2, 2, 2), 300), np.int16),
        (np.full((2, 2, 2), -1), np.int16),
        (np.ones((2, 2, 2), np.float64), np.float32),
    ],
)
def test_the_type_on_disk_follows_the_content(tmp_path, values, dtype):
    path = save_image(tmp_path / "a.nii.gz", values, np.eye(4))
    assert nib.load(path).get_data_dtype() == dtype


def test_a_trailing_axis_of_one_is_dropped(tmp_path):
    nib.save(nib.Nifti1Image(VALUES[..., None].astype(np.float32), np.eye(4)), tmp_path / "a.nii")
    assert load_finite_image(tmp_path / "a.nii")[0].shape == VALUES.shape


def refused(path, message, load=load_finite_image):
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.7, 0.99])
def test_a_truncated_image_is_named(tmp_path, saved, share):
    whole = (tmp_path / "image.nii.gz").read_bytes()
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(whole[: int(share * len(whole))])
    refused(cut, "cannot be read, truncated or no image", load_image)


def test_a_damaged_image_is_named(tmp_path):
    smooth = np.linspace(0, 1, 30**3).round(2).reshape(30, 30, 30)
    path = tmp_path / "bad.nii.gz"
    whole = bytearray(Path(save_image(path, smooth, np.eye(4))).read_bytes())
    whole[300:-300] = bytes(255 for _ in whole[300:-300])
    path.write_bytes(whole)
    refused(path, "cannot be read", load_image)


def test_an_uncompressed_image_that_is_too_short_is_named(tmp_path, saved):
    whole = gzip.decompress((tmp_path / "image.nii.gz").read_bytes())
    (tmp_path / "short.nii").write_bytes(whole[:-100])
    refused(tmp_path / "short.nii", "cannot be read", load_image)


def test_a_missing_image_is_named(tmp_path):
    refused(tmp_path / "absent.nii.gz", "cannot be read", load_image)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_with_values_that_are_no_numbers_is_refused(tmp_path, value):
    values = VALUES.copy()
    values[1, 2, 3:5] = value
    path = save_image(tmp_path / "nan.nii.gz", values, np.eye(4))
    refused(path, "2 voxels hold NaN or infinity")


def test_an_image_of_zeros_is_refused(tmp_path):
    refused(save_image(tmp_path / "zero.nii.gz", 0 * VALUES, np.eye(4)), "every voxel is 0")


def test_a_series_is_refused_where_one_image_is_needed(tmp_path):
    path = save_image(tmp_path / "series.nii.gz", np.ones((3, 3, 3, 5)), np.eye(4))
    refused(path, "4 dimensions; a 3D image is needed")


def test_the_same_image_gives_the_same_bytes_whatever_its_name_and_the_time(tmp_path, monkeypatch):
    first = Path(save_image(tmp_path / "a.nii.gz", VALUES, np.eye(4))).read_bytes()
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert Path(save_image(tmp_path / "other.nii.gz", VALUES, np.eye(4))).read_bytes() == first
    assert first[3:8] == bytes(5)  # no name, no time


def test_an_image_is_compressed_at_the_level_that_is_chosen(tmp_path, monkeypatch):
    smooth = np.indices((40, 40, 40)).sum(axis=0).astype(np.float32)
    sizes = []
    for level in (0, image_room.COMPRESSION):
        monkeypatch.setattr(image_room, "COMPRESSION", level)
        sizes.append(Path(save_image(tmp_path / "a.nii.gz", smooth, np.eye(4))).stat().st_size)
    assert sizes[0] > smooth.nbytes > 4 * sizes[1]


def test_an_image_that_is_not_compressed_is_written_too(tmp_path):
    path = save_image(tmp_path / "a.nii", VALUES, np.eye(4))
    assert Path(path).stat().st_size == 352 + 4 * VALUES.size
    np.testing.assert_allclose(load_image(path)[0], VALUES, rtol=1e-6)
