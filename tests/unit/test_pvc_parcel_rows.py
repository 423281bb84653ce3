"""Rows of a table are sums of parcels and lesions."""

import numpy as np
import pytest
from scipy import sparse

from sodiumprep.sodium.pvc.parcel_rows import (
    AtlasRow,
    RowParts,
    atlas_rows,
    mirror_rows,
    row_volumes,
)
from sodiumprep.sodium.smooth_field import SmoothField, grid_positions

REGIONS = ("GM", "WM", "CSF", "core")


@pytest.fixture
def parts():
    """Grey and white matter of a lobe opposite of a lesion, over five voxels."""
    members = sparse.csr_array([
        [1.0, 0.5, 0.0, 0.0, 0.0],
        [0.0, 0.5, 1.0, 0.5, 0.0],
        [0.0, 0.0, 0.0, 0.5, 0.0],
    ])  # fmt: skip
    return RowParts(mirror_rows({1: "core"}), [(1, "GM"), (1, "WM")], ["core"], members)


def test_a_row_of_both_tissues_has_the_mean_of_its_parts(parts):
    image = np.array([3.0, 2.0, 1.0, 5.0, 7.0])
    lesion, both, grey, white = parts.means(image)
    assert both == pytest.approx(parts.weights[1] @ [grey, white, lesion])
    assert parts.sizes.tolist() == [0.5, 3.5, 1.5, 2.0]


def test_a_uniform_row_has_no_spread_and_a_row_of_nothing_none_at_all(parts):
    found = parts.spread(np.full((5, 1, 1), 4.0))
    np.testing.assert_allclose(found["sd"], 0, atol=1e-12)
    np.testing.assert_allclose(found["median"], 4)
    nothing = RowParts([AtlasRow(9, "absent", "GM")], parts.parcels, ["core"], parts.members)
    assert np.isnan(nothing.spread(np.ones((5, 1, 1)))["sd"]).all()
    assert np.isnan(nothing.means(np.ones(5))).all()


def test_rows_that_lie_opposite_are_paired_with_their_lesion(parts):
    assert parts.opposite() == [(0, 1), (0, 2), (0, 3)]
    assert parts.source(REGIONS).tolist() == [0, 1, 3]
    assert parts.having(np.array([False, False, True])).tolist() == [True, False, False, False]


def test_the_uncertainty_of_a_ratio_is_that_of_the_tissues_by_their_share(parts):
    relative = np.zeros((4, 4))
    relative[3] = 0.1, 0.3, 0.9, 0.0
    expected = parts.weights[1] @ [0.1, 0.3, 0.0]
    found = parts.ratio_uncertainty([(0, 1), (0, 2)], relative, REGIONS)
    np.testing.assert_allclose(found, [expected, 0.1])


def test_one_factor_everywhere_is_the_factor_of_all_parts(parts):
    found = parts.mixed_factors(np.arange(1.0, 6.0), np.full(5, 0.8))
    np.testing.assert_allclose(found, 0.8)


def test_the_basis_of_a_field_is_averaged_over_each_row(parts):
    positions = grid_positions((5, 1, 1), np.eye(4))
    orders = np.array([[0, 0, 0], [1, 0, 0]])
    field = SmoothField(np.zeros(3), np.array([4.0, 1.0, 1.0]), orders, np.zeros(2), np.eye(2))
    found = parts.field_means(field, positions)
    np.testing.assert_allclose(found, parts.means(field.basis(positions)))


def test_volumes_of_tissues_and_what_lesions_took_add_up():
    labels = np.array([[[1, 1, 2]]])
    tissues = {"GM": np.array([[[0.5, 0.25, 1.0]]]), "WM": np.array([[[0.5, 0.0, 0.0]]])}
    rows = [*atlas_rows({1: "lobe"}, {}), AtlasRow(2, "GM", "GM", everywhere=True)]
    found = row_volumes(rows, labels, tissues, {}, voxel_ml=2.0)
    assert found.tolist() == [2.5, 1.5, 1.0, 3.5]
