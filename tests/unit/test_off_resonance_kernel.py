"""The kernel of a corrected point off resonance is that of one on resonance."""

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.density import density_weights
from sodiumprep.sodium.kernel import (
    decay_from_first_sample,
    full_width_half_maximum,
    point_samples,
    response_at,
    to_psf,
)
from sodiumprep.sodium.operators import encoding
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.segments import Evolution, adequate_segments
from sodiumprep.sodium.trajectory import density_adapted_radial

GRID = Geometry(np.zeros(3), np.eye(3), (0.24, 0.24, 0.24), (24, 24, 24))
TRAJECTORY = density_adapted_radial(1800, 96, 50.0)
WEIGHTS, _ = density_weights(TRAJECTORY, GRID)
PLACE = (16, 8, 14)  # off centre along every axis
ECHO_TIME = 0.3e-3
WM = relaxation_of("WM", 3.0)


def from_place():
    """Return the distance of each voxel from the point along the first axis [m]."""
    return (np.arange(24) - PLACE[0])[:, None, None] * 0.01 * np.ones((24, 24, 24))


def kernel(readout, field, corrected=True):
    """Return width [mm] and peak of white matter at ``PLACE``, in a field [Hz]."""
    times = np.arange(96) * readout / 96
    turning = np.exp(-2j * np.pi * field[PLACE] * (times + ECHO_TIME))
    change = decay_from_first_sample(WM, times, 0.0) * turning
    point = point_samples(PLACE, change, np.ones(1), TRAJECTORY, GRID)[0]
    evolution = Evolution(times, off_resonance=field.astype("f4"), echo_time=ECHO_TIME)
    segments = adequate_segments(evolution, 0.01) if corrected else None
    image = encoding(TRAJECTORY, GRID, segments=segments).H(point * WEIGHTS).real
    psf = to_psf(response_at(image, PLACE).passed)
    return full_width_half_maximum(psf, GRID.voxel_size) * 1e3, float(image[PLACE])


def over_that_without_field(readout, field, corrected=True):
    width, peak = kernel(readout, field, corrected)
    without = kernel(readout, np.zeros((24, 24, 24)), corrected=False)
    return width / without[0] - 1, peak / without[1] - 1


@pytest.mark.parametrize("readout", [0.01, 0.02])
@pytest.mark.parametrize("hertz", [50.0, -50.0])
def test_where_the_field_is_even_the_kernel_is_that_without_a_field(readout, hertz):
    field = hertz * np.tanh((from_place() + 0.08) / 0.01)  # even here, of the other sign beyond
    width, peak = over_that_without_field(readout, field)
    assert np.abs(width).max() < 0.01
    assert abs(peak) < 0.01


def test_without_the_correction_it_is_not():
    _, peak = over_that_without_field(0.01, np.full((24, 24, 24), 50.0), corrected=False)
    assert peak < -0.2


@pytest.mark.parametrize(("readout", "along"), [(0.01, 0.025), (0.02, 0.05)])
def test_a_field_that_rises_narrows_the_kernel_along_its_slope_a_little(readout, along):
    field = 50 * np.clip(from_place() / 0.06, -1, 1)  # 50 Hz in 60 mm
    width, peak = over_that_without_field(readout, field)
    assert -along < width[0] < -0.005
    assert np.abs(width[1:]).max() < 0.01
    assert abs(peak) < 0.01
