"""How much data there is, from headers alone."""

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app.sizes import anatomy_size, sodium_size
from sodiumprep.workflows.plans import Size


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), path)
    return path


def test_voxels_of_images_are_counted(image):
    assert anatomy_size(image).anatomy == 120
    found = sodium_size(image, False, Size(anatomy=7))
    assert (found.anatomy, found.sodium, found.samples) == (7, 120, 0)


@pytest.mark.parametrize("kspace", [True, False])
def test_what_cannot_be_read_has_the_usual_size_and_is_told_by_the_step_that_reads_it(
    tmp_path, kspace
):
    (tmp_path / "broken").write_bytes(b"no data")
    for path in (tmp_path / "broken", tmp_path / "absent"):
        assert sodium_size(path, kspace, Size()) == Size()
        assert anatomy_size(path) == Size()
    assert anatomy_size(None) == Size()
