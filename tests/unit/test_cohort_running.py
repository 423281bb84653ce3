"""Maps that come one at a time give what maps that are held together give."""

import numpy as np
import pytest

from sodiumprep.sodium.cohort.running import RunningMaps
from sodiumprep.sodium.cohort.voxelwise import cohort_maps


@pytest.fixture
def maps():
    rng = np.random.default_rng(7)
    drawn = rng.normal(1e3, 2.0, (9, 50))
    drawn[rng.random(drawn.shape) < 0.6] = np.nan
    drawn[:, 0] = np.nan
    return drawn


def gathered(maps):
    running = RunningMaps(maps.shape[1])
    for each in maps:
        running.add(each)
    return running


def same(found, expected):
    assert np.array_equal(found.n, expected.n)
    assert np.allclose(found.mean, expected.mean, equal_nan=True)
    assert np.allclose(found.sd, expected.sd, equal_nan=True)


def test_one_at_a_time_is_as_all_at_once(maps):
    same(gathered(maps).maps(), cohort_maps(maps))


@pytest.mark.parametrize("first", [0, 1, 4, 9])
def test_two_parts_join_to_the_whole(maps, first):
    part = gathered(maps[:first])
    part.join(gathered(maps[first:]))
    same(part.maps(), cohort_maps(maps))
