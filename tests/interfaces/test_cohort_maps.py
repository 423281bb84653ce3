"""Maps of a cohort: one grid, nan outside of the field of view, smoothing inside of it alone."""

import numpy as np
import pytest

from sodiumprep.interfaces.cohort_maps import (
    Grid,
    common_grid,
    read_map,
    template_mask,
    write_map,
)
from sodiumprep.interfaces.image import save_image

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def stored(folder, name, shape=(8, 8, 8), affine=AFFINE):
    values = np.ones(shape, np.float32)
    values[:2] = 0
    return folder / save_image(folder / f"{name}.nii.gz", values, affine)


def test_what_the_scan_does_not_cover_is_nan(tmp_path):
    values = read_map(stored(tmp_path, "a"))
    assert np.isnan(values[:2]).all()
    assert (values[2:] == 1).all()


def test_smoothing_mixes_nothing_in_from_outside_of_the_field_of_view(tmp_path):
    values = read_map(stored(tmp_path, "a"), fwhm=6.0)
    assert np.isnan(values[:2]).all()
    assert values[2:] == pytest.approx(1.0)


def test_smoothing_has_the_width_that_is_asked(tmp_path):
    values = np.full((41, 5, 5), 1e-6, np.float32)
    values[20] = 1.0
    save_image(tmp_path / "a.nii.gz", values, AFFINE)
    line = read_map(tmp_path / "a.nii.gz", fwhm=10.0)[:, 2, 2]
    assert np.interp(20 + 2.5, range(41), line) == pytest.approx(line[20] / 2, rel=0.03)


@pytest.mark.parametrize("odd", [{"shape": (8, 8, 9)}, {"affine": AFFINE + 0.1}])
def test_the_map_with_another_grid_is_named(tmp_path, odd):
    paths = [stored(tmp_path, "odd", **odd), *(stored(tmp_path, name) for name in "ab")]
    with pytest.raises(ValueError, match=r"odd\.nii\.gz: its grid .* is not that of a\.nii"):
        common_grid(paths)


def test_one_grid_is_returned_with_its_volume(tmp_path):
    grid = common_grid([stored(tmp_path, name) for name in "ab"])
    assert grid.shape == (8, 8, 8)
    assert grid.voxel_ml == pytest.approx(0.008)
    assert grid.position([1, 2, 3]).tolist() == [2.0, 4.0, 6.0]


def test_the_embedded_brain_lies_where_a_head_has_it():
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -100, -140, -80
    grid = Grid((50, 60, 45), affine)
    mask = template_mask("", grid)
    assert 1.4e3 < mask.sum() * grid.voxel_ml < 2.2e3  # ml
    assert mask[25, 30, 25]
    assert not mask[:3].any()


def test_a_mask_from_a_file_is_brought_to_the_grid(tmp_path):
    path = stored(tmp_path, "mask")
    mask = template_mask(str(path), Grid((16, 16, 16), np.diag([1.0, 1.0, 1.0, 1.0])))
    assert mask[:3].sum() == 0
    assert mask[5:14, 1:14, 1:14].all()


def test_a_map_is_written_with_its_sidecar(tmp_path):
    path = tmp_path / "group/space-A_stat-n_TSCmap.nii.gz"
    write_map(path, np.ones((3, 3, 3)), Grid((3, 3, 3), np.eye(4)), {"Units": "1"})
    assert (tmp_path / "group/space-A_stat-n_TSCmap.json").is_file()
    assert np.nansum(read_map(path)) == 27
