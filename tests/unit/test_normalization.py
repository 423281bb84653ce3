"""The overlap of a normalized brain with its template."""

import numpy as np
import pytest

from sodiumprep.sodium.normalization import LEAST_OVERLAP, brain_overlap, overlap_warning

BALL = np.sum((np.indices((20, 20, 20)) - 10) ** 2, axis=0) < 36


def test_a_mask_overlaps_itself_wholly_and_its_outside_not_at_all():
    assert brain_overlap(BALL, BALL) == 1
    assert brain_overlap(BALL, ~BALL) == 0


def test_overlap_is_symmetric_and_falls_with_distance():
    moved = [np.roll(BALL, n, axis=0) for n in (1, 2, 3)]
    overlaps = [brain_overlap(BALL, mask) for mask in moved]
    assert overlaps == sorted(overlaps, reverse=True)
    assert overlaps == [brain_overlap(mask, BALL) for mask in moved]


def test_two_empty_masks_have_no_overlap():
    with pytest.raises(ValueError, match="both masks are empty"):
        brain_overlap(np.zeros(3, bool), np.zeros(3, bool))


def test_a_poor_overlap_is_told_with_its_value():
    assert overlap_warning(LEAST_OVERLAP) == ""
    assert "0.84 (Dice)" in overlap_warning(0.84)
