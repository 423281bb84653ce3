"""A map of another kind is averaged over fractions and labels of another grid, nothing skipped."""

import numpy as np
import pytest

from sodiumprep.interfaces.image import save_image
from sodiumprep.interfaces.other_maps import (
    fractions_on,
    labels_on,
    load_other,
    means_in,
    parts_of,
)

FINE = np.diag([1.0, 1.0, 1.0, 1.0])
COARSE = np.array([[4.0, 0, 0, 1.5], [0, 4, 0, 1.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
SHAPE, SMALL = (24, 24, 24), (6, 6, 12)


@pytest.fixture
def tissues(tmp_path):
    """Write fractions whose stripes are finer than the map."""
    grey = np.zeros(SHAPE, np.float32)
    grey[::2] = 1
    maps = {"GM": grey, "WM": 1 - grey, "CSF": np.zeros(SHAPE, np.float32)}
    return {name: tmp_path / save_image(tmp_path / f"{name}.nii.gz", values, FINE)
            for name, values in maps.items()}  # fmt: skip


def test_parts_fill_the_voxels_of_the_map():
    parts = parts_of(SMALL, COARSE)
    assert (parts.shape, parts.factors) == (SHAPE, (4, 4, 2))
    assert parts.affine == pytest.approx(FINE)


def test_stripes_finer_than_the_map_are_averaged_not_skipped(tissues):
    parts = parts_of(SMALL, COARSE)
    fractions = fractions_on(parts, tissues, {})
    rows = np.arange(6.0)[:, None, None] + np.ones(SMALL)
    for name in ("GM", "WM"):
        assert means_in(rows, parts, None, fractions[name])[1] == pytest.approx(rows.mean())


def test_a_uniform_map_has_its_value_in_every_region(tissues, tmp_path):
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 5
    save_image(tmp_path / "dseg.nii.gz", labels, FINE)
    parts = parts_of(SMALL, COARSE)
    held = labels_on(parts, tmp_path / "dseg.nii.gz")
    grey = fractions_on(parts, tissues, {})["GM"]
    assert means_in(np.full(SMALL, 7.0), parts, held, grey) == pytest.approx(7.0)


def test_labels_are_those_of_the_anatomy(tissues, tmp_path):
    labels = np.ones(SHAPE, int)
    labels[:, :, 12:] = 2
    save_image(tmp_path / "dseg.nii.gz", labels, FINE)
    parts = parts_of(SMALL, COARSE)
    values = np.where(np.arange(12) < 6, 1.0, 3.0) * np.ones(SMALL)
    grey = fractions_on(parts, tissues, {})["GM"]
    found = means_in(values, parts, labels_on(parts, tmp_path / "dseg.nii.gz"), grey)
    assert found[1:] == pytest.approx([1.0, 3.0])


def test_a_lesion_is_taken_from_the_tissues(tissues, tmp_path):
    lesion = np.zeros(SHAPE)
    lesion[:12] = 1
    save_image(tmp_path / "core.nii.gz", lesion, FINE)
    parts = parts_of(SMALL, COARSE)
    fractions = fractions_on(parts, tissues, {"core": tmp_path / "core.nii.gz"})
    values = np.where(np.arange(6) < 3, 9.0, 2.0)[:, None, None] * np.ones(SMALL)
    found = {name: means_in(values, parts, None, f)[-1] for name, f in fractions.items()}
    assert (found["core"], found["GM"], found["WM"]) == (9.0, 2.0, 2.0)


def test_a_region_that_the_map_hardly_covers_has_no_value(tissues):
    parts = parts_of(SMALL, COARSE)
    values = np.ones(SMALL)
    values[:4] = np.nan
    grey = fractions_on(parts, tissues, {})["GM"]
    assert np.isnan(means_in(values, parts, None, grey)[1])
    values[2:] = 1.0
    assert means_in(values, parts, None, grey)[1] == 1.0


@pytest.mark.parametrize(
    ("values", "said"),
    [(np.ones((4, 4, 4, 3)), "4 dimensions; a 3D map"), (np.zeros((4, 4, 4)), "no value"),
     (np.full((4, 4, 4), np.nan), "no value")],
)  # fmt: skip
def test_what_is_no_map_is_refused_by_its_name(tmp_path, values, said):
    save_image(tmp_path / "a_ADCmap.nii.gz", values, FINE)
    with pytest.raises(ValueError, match=f"a_ADCmap.*{said}"):
        load_other(tmp_path / "a_ADCmap.nii.gz")
