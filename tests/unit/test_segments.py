"""Change along the readout in segments, against its definition."""

import numpy as np
import pytest

from sodiumprep.sodium.segments import Evolution, adequate_segments, time_segments
from sodiumprep.sodium.signal import Relaxation, biexponential_decay

TIMES = np.linspace(0, 0.02, 120)
SHAPE = (3, 4, 5)
RNG = np.random.default_rng(3)
WHITE = Relaxation(0.037, 0.0034, 0.0235, 0.6)
FLUID = Relaxation(0.058, 0.056, 0.056, 0.0)
FIELD = RNG.uniform(-8, 20, SHAPE).astype(np.float32)
RATE = RNG.uniform(15, 200, SHAPE).astype(np.float32)
SHARES = RNG.dirichlet([1, 1], SHAPE).transpose(3, 0, 1, 2).astype(np.float32)
EVOLUTIONS = {
    "field": Evolution(TIMES, off_resonance=FIELD, echo_time=3e-4),
    "rate": Evolution(TIMES, decay_rate=RATE),
    "tissues": Evolution(TIMES, (WHITE, FLUID), SHARES),
    "tissues and field": Evolution(
        TIMES, (WHITE, FLUID), SHARES, off_resonance=FIELD, echo_time=3e-4
    ),
    "one tissue and field": Evolution(TIMES, (WHITE,), off_resonance=FIELD),
    "one tissue": Evolution(TIMES, (WHITE,)),
}


def exact(evolution):
    """Return the factor of each voxel at each time, shape (*SHAPE, n)."""
    factor = np.ones((*SHAPE, 1))
    if evolution.relaxations:
        decays = [biexponential_decay(TIMES, each) for each in evolution.relaxations]
        shares = np.ones((1, *SHAPE)) if evolution.fractions is None else evolution.fractions
        factor = np.tensordot(shares, decays, ([0], [0]))
    if evolution.decay_rate is not None:
        factor = factor * np.exp(-evolution.decay_rate[..., None] * TIMES)
    if evolution.off_resonance is not None:
        turns = evolution.off_resonance[..., None] * (TIMES + evolution.echo_time)
        factor = factor * np.exp(-2j * np.pi * turns)
    return factor


def rebuilt(segments):
    total = np.zeros((*SHAPE, TIMES.size), np.complex128)
    for index, own in enumerate(segments.supports):
        total[..., own] += segments.voxel_map(index)[..., None] * segments.course(index)
    return total


@pytest.mark.parametrize("name", EVOLUTIONS)
def test_segments_rebuild_the_change_of_every_voxel_to_the_error_they_state(name):
    segments = time_segments(EVOLUTIONS[name], 8)
    error = np.abs(rebuilt(segments) - exact(EVOLUTIONS[name])).max()
    assert error < 1.05 * segments.error + 2e-6
    assert segments.error < 0.02


@pytest.mark.parametrize("name", ["field", "rate", "tissues", "tissues and field"])
def test_every_sample_belongs_to_two_segments_at_most(name):
    segments = time_segments(EVOLUTIONS[name], 8)
    owners = np.zeros(TIMES.size, int)
    for own in segments.supports:
        owners[own] += 1
    assert owners.max() == 2


@pytest.mark.parametrize("name", ["field", "rate", "tissues and field"])
def test_more_segments_are_more_accurate(name):
    errors = [time_segments(EVOLUTIONS[name], n).error for n in (4, 8, 16)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_as_many_neighbours_as_tissues_make_tissues_exact():
    assert time_segments(EVOLUTIONS["tissues"], 4, 2).error < 1e-6


def test_two_tissues_need_two_modes():
    assert time_segments(EVOLUTIONS["tissues"], 8).basis.shape == (8, 2)


def test_what_all_voxels_share_needs_one_segment():
    assert len(time_segments(EVOLUTIONS["one tissue"]).supports) == 1


@pytest.mark.parametrize("tolerance", [0.03, 0.003])
def test_as_many_segments_are_taken_as_the_tolerance_asks_for(tolerance):
    segments = adequate_segments(EVOLUTIONS["field"], tolerance)
    assert tolerance / 20 < segments.error <= tolerance


def test_the_change_of_one_voxel_is_that_of_its_field():
    hertz = np.linspace(-40, 40, 8).reshape(2, 2, 2).astype(np.float32)
    evolution = Evolution(TIMES, off_resonance=hertz, echo_time=1e-3)
    expected = np.exp(-2j * np.pi * hertz[1, 0, 1] * (TIMES + 1e-3))
    found = adequate_segments(evolution, 0.005).at((1, 0, 1))
    np.testing.assert_allclose(found, expected, atol=0.006)


def test_the_change_that_all_share_is_that_of_any_voxel():
    gel = Relaxation(0.04, 0.004, 0.03, 0.6)
    found = time_segments(Evolution(TIMES, (gel,))).at((5, 7, 9))
    np.testing.assert_allclose(found, biexponential_decay(TIMES, gel), rtol=1e-5)


def test_a_field_that_turns_too_fast_is_refused():
    evolution = Evolution(TIMES, off_resonance=1000 * FIELD)
    with pytest.raises(ValueError, match="too far within a readout for 64 time segments"):
        adequate_segments(evolution, 0.01)


def test_the_maps_are_those_of_single_segments():
    segments = time_segments(EVOLUTIONS["field"], 6)
    np.testing.assert_allclose(segments.maps[4], segments.voxel_map(4), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 121])
def test_an_impossible_number_of_segments_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} segments were asked for; 2 to 120"):
        time_segments(EVOLUTIONS["field"], count)


def test_relaxations_without_their_fractions_are_refused():
    with pytest.raises(ValueError, match="2 relaxations came for 1 tissues"):
        Evolution(TIMES, (WHITE, FLUID))


def test_a_negative_decay_rate_is_refused():
    with pytest.raises(ValueError, match="a decay rate is -5 1/s"):
        Evolution(TIMES, decay_rate=np.full(SHAPE, -5.0))


def test_a_map_with_nan_is_refused():
    with pytest.raises(ValueError, match="off_resonance has 60 values not finite"):
        Evolution(TIMES, off_resonance=np.full(SHAPE, np.nan))
