"""Noise predictions against draws."""

import numpy as np
import pytest
import scipy.fft

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.density import hamming_filter, radial_weights
from sodiumprep.sodium.encoding import adjoint, forward
from sodiumprep.sodium.kernel import to_psf
from sodiumprep.sodium.noise import (
    ImageNoise,
    adjoint_noise_gain,
    adjoint_noise_spectrum,
    background_moments,
    corner_mask,
    linear_noise,
    noise_covariance,
    noise_samples,
    normalized_spectrum,
    pseudo_replicas,
    unbiased_magnitude,
    weighted_covariance,
)
from sodiumprep.sodium.trajectory import density_adapted_radial

GRID = Geometry(np.zeros(3), np.eye(3), (0.12,) * 3, (12, 12, 12))
TRAJECTORY = density_adapted_radial(300, 40, 50.0)
WEIGHTS = (radial_weights(TRAJECTORY) * hamming_filter(TRAJECTORY)).astype(np.float32)
DRAWS = 300
COILS = np.array([[2.0, 0.5 + 0.3j], [0.5 - 0.3j, 1.0]])


def complex_noise(rng, shape):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)


@pytest.fixture(scope="module")
def noise_images():
    """Draw images of the adjoint from k-space noise of variance 1."""
    rng = np.random.default_rng(3)
    samples = complex_noise(rng, (DRAWS, *WEIGHTS.shape)) * WEIGHTS
    return adjoint(samples, TRAJECTORY, GRID)


@pytest.fixture(scope="module")
def regions():
    """Two neighbouring regions with soft edges, each of sum 1."""
    x, y, z = np.meshgrid(*[np.arange(12.0)] * 3, indexing="ij")
    weights = np.stack(
        [np.exp(-((x - a) ** 2 + (y - 6) ** 2 + (z - 6) ** 2) / 3) for a in (4.5, 6.5)]
    )
    return weights / weights.sum(axis=(1, 2, 3), keepdims=True)


def test_the_noise_gain_of_the_adjoint_is_that_of_draws(noise_images):
    drawn = np.sqrt(np.mean(np.abs(noise_images) ** 2))
    assert drawn == pytest.approx(adjoint_noise_gain(WEIGHTS), rel=0.02)


def test_the_covariance_of_regional_means_is_that_of_draws(noise_images, regions):
    means = np.einsum("rxyz,dxyz->dr", regions, noise_images.real)
    sd = np.full(GRID.matrix, adjoint_noise_gain(WEIGHTS) / np.sqrt(2))
    spectrum = adjoint_noise_spectrum(WEIGHTS, TRAJECTORY, GRID)
    predicted = weighted_covariance(regions, ImageNoise(sd, spectrum))
    drawn = means.T @ means / DRAWS
    np.testing.assert_allclose(np.diag(drawn), np.diag(predicted), rtol=0.2)
    correlation = predicted[0, 1] / predicted[0, 0]
    assert drawn[0, 1] / np.sqrt(np.prod(np.diag(drawn))) == pytest.approx(correlation, abs=0.1)
    assert predicted[0, 0] > 3 * (regions[0] ** 2).sum() * sd[0, 0, 0] ** 2  # far from white


def test_a_noise_level_that_varies_weights_the_voxels():
    half = np.zeros((1, 4, 4, 4))
    half[0, :2] = 1 / 32
    sd = np.ones((4, 4, 4))
    sd[:2] = 3.0
    variance = weighted_covariance(half, ImageNoise(sd, np.ones((8, 8, 5))))[0, 0]
    assert variance == pytest.approx(9 / 32)


def test_the_noise_spectrum_has_correlation_one_at_lag_zero():
    spectrum = adjoint_noise_spectrum(WEIGHTS, TRAJECTORY, GRID)
    assert scipy.fft.irfftn(spectrum, (24, 24, 24))[0, 0, 0] == pytest.approx(1.0, abs=1e-5)


def test_a_scaled_power_spectrum_has_correlation_one_at_lag_zero():
    power = np.random.default_rng(0).uniform(1, 2, (8, 8, 5))
    lag_zero = scipy.fft.irfftn(normalized_spectrum(power, (8, 8, 8)), (8, 8, 8))[0, 0, 0]
    assert lag_zero == pytest.approx(1.0, abs=1e-6)


def test_the_coil_covariance_is_recovered_and_scaled_by_the_dwell_times():
    mixing = np.linalg.cholesky(COILS)
    noise = mixing @ complex_noise(np.random.default_rng(1), (2, 40_000))
    np.testing.assert_allclose(noise_covariance(noise, 0.5), COILS / 2, atol=0.03)


@pytest.mark.parametrize("longer", [2, 5])
def test_noise_readouts_of_a_longer_dwell_time_tell_the_noise_of_the_imaging_samples(longer):
    mixing = np.linalg.cholesky(COILS)
    imaging = mixing @ complex_noise(np.random.default_rng(2), (2, 200_000))
    readouts = imaging.reshape(2, -1, longer).mean(axis=2)  # a longer dwell time averages noise
    np.testing.assert_allclose(noise_covariance(readouts, longer), COILS, atol=0.05)
    assert np.abs(noise_covariance(readouts, 1.0) - COILS).max() > 0.9  # unscaled it is wrong


def test_too_few_noise_samples_are_refused():
    with pytest.raises(ValueError, match="3 noise samples for 2 coils"):
        noise_covariance(np.ones((2, 3), complex), 1.0)


def test_noise_samples_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="all zero"):
        noise_covariance(np.zeros((2, 30), complex), 1.0)


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_noise_level_and_channels_are_found_in_the_background(channels):
    rng = np.random.default_rng(channels)
    parts = rng.normal(0, 5.0, (2 * channels, 40, 40, 40))
    sd, mean_square, found = background_moments(np.sqrt((parts**2).sum(axis=0)))
    assert sd == pytest.approx(5.0, rel=0.04)
    assert found == pytest.approx(channels, rel=0.08)
    assert mean_square == pytest.approx(2 * channels * 25.0, rel=0.05)


def test_voxels_that_the_scanner_set_to_zero_are_left_out():
    rng = np.random.default_rng(0)
    magnitude = np.hypot(*rng.normal(0, 5.0, (2, 40, 40, 40)))
    magnitude[:3] = 0
    assert background_moments(magnitude)[0] == pytest.approx(5.0, rel=0.05)


def test_a_masked_background_is_refused():
    magnitude = np.zeros((20, 20, 20))
    magnitude[8:12, 8:12, 8:12] = 100
    with pytest.raises(ValueError, match="only 0 background voxels"):
        background_moments(magnitude)


@pytest.mark.parametrize("signal", [0.0, 2.0, 5.0])
def test_the_second_moment_of_a_magnitude_loses_its_bias(signal):
    rng = np.random.default_rng(5)
    magnitude = np.hypot(rng.normal(signal, 1, 400_000), rng.normal(0, 1, 400_000))
    clean = unbiased_magnitude(magnitude, 2.0)
    assert np.mean(clean * np.abs(clean)) == pytest.approx(signal**2, abs=0.03)


@pytest.mark.parametrize("signal", [5.0, 10.0, 20.0])
def test_a_magnitude_well_above_the_noise_loses_its_bias(signal):
    rng = np.random.default_rng(6)
    magnitude = np.hypot(rng.normal(signal, 1, 200_000), rng.normal(0, 1, 200_000))
    assert unbiased_magnitude(magnitude, 2.0).mean() == pytest.approx(signal, rel=0.025)


def test_a_magnitude_below_the_noise_becomes_negative():
    assert unbiased_magnitude(np.array([3.0]), 25.0)[0] == pytest.approx(-4.0)


def test_the_corners_are_eight_cubes_away_from_the_middle():
    corners = corner_mask((20, 30, 40))
    assert corners.sum() == 8 * 3 * 4 * 6
    assert corners[0, 0, 0]
    assert corners[-1, -1, -1]
    assert not corners[5:15].any()


def gridded(noise):
    """Return the image of the noise of two coils, added up."""
    return adjoint(noise.sum(axis=0) * WEIGHTS, TRAJECTORY, GRID)


def test_drawn_noise_has_the_covariance_that_was_asked_for():
    drawn = noise_samples(COILS, (200, 200), np.random.default_rng(0)).reshape(2, -1)
    np.testing.assert_allclose(drawn @ drawn.conj().T / 40_000, COILS, atol=0.03)
    assert drawn.dtype == np.complex64


@pytest.fixture(scope="module")
def replicated():
    rng = np.random.default_rng(4)
    return pseudo_replicas(gridded, COILS, WEIGHTS.shape, 100, rng)


def test_pseudo_replicas_find_the_exact_level_of_a_linear_method(replicated):
    exact = adjoint_noise_gain(WEIGHTS) * np.sqrt(COILS.sum().real / 2)
    assert np.median(replicated.noise_sd) == pytest.approx(exact, rel=0.03)
    assert np.mean(np.abs(replicated.noise_sd / exact - 1) < 0.1) > 0.95


def test_pseudo_replicas_find_the_exact_error_of_a_regional_mean(replicated, regions):
    exact = adjoint_noise_spectrum(WEIGHTS, TRAJECTORY, GRID)
    level = np.ones(GRID.matrix)
    found = weighted_covariance(regions, ImageNoise(level, replicated.spectrum))
    expected = weighted_covariance(regions, ImageNoise(level, exact))
    np.testing.assert_allclose(np.diag(found), np.diag(expected), rtol=0.1)
    lag_zero = scipy.fft.irfftn(replicated.spectrum, (24, 24, 24))[0, 0, 0]
    assert lag_zero == pytest.approx(1.0, abs=1e-5)


def test_equal_seeds_give_equal_replicas():
    one, other = (
        pseudo_replicas(gridded, COILS, WEIGHTS.shape, 4, np.random.default_rng(7))
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.noise_sd, other.noise_sd)


def test_the_data_under_the_noise_cancel():
    data = 100 * np.random.default_rng(0).normal(size=GRID.matrix)
    found = [pseudo_replicas(lambda n, d=d: gridded(n) + d, COILS, WEIGHTS.shape, 6,
                             np.random.default_rng(1)) for d in (0 * data, data)]  # fmt: skip
    np.testing.assert_allclose(found[1].noise_sd, found[0].noise_sd, rtol=1e-4)
    np.testing.assert_allclose(found[1].spectrum, found[0].spectrum, atol=1e-4)


def test_too_few_replicas_are_refused():
    with pytest.raises(ValueError, match="3 pseudo-replicas; at least 4"):
        pseudo_replicas(gridded, COILS, WEIGHTS.shape, 3, np.random.default_rng(0))


def test_an_image_that_noise_does_not_reach_has_no_noise_map():
    with pytest.raises(ValueError, match="leaves the image unchanged"):
        pseudo_replicas(
            lambda noise: np.ones(GRID.matrix), COILS, WEIGHTS.shape, 4, np.random.default_rng(0)
        )


def sense_covariance(image):
    """Apply a covariance whose level varies slowly and whose correlation is that of gridding."""
    level = 1 + 0.3 * np.cos(np.arange(12) / 6)
    spread = forward(level * image, TRAJECTORY, GRID) * WEIGHTS**2
    return level * adjoint(spread, TRAJECTORY, GRID)


def test_probing_finds_level_and_correlation_of_a_linear_method():
    found = linear_noise(sense_covariance, GRID.matrix, 4, np.random.default_rng(0))
    level = (1 + 0.3 * np.cos(np.arange(12) / 6)) * adjoint_noise_gain(WEIGHTS) / np.sqrt(2)
    expected = np.broadcast_to(level, GRID.matrix)
    np.testing.assert_allclose(found.noise_sd, expected, rtol=0.08)
    exact = adjoint_noise_spectrum(WEIGHTS, TRAJECTORY, GRID)
    near = (slice(9, 16),) * 3  # lags up to 3 voxels
    np.testing.assert_allclose(to_psf(found.spectrum)[near], to_psf(exact)[near], atol=0.05)


@pytest.mark.parametrize("spacing", [2, 5, 8])
def test_probes_that_lie_too_close_or_too_far_apart_or_have_no_middle_are_refused(spacing):
    with pytest.raises(ValueError, match=f"points {spacing} voxels apart"):
        linear_noise(sense_covariance, GRID.matrix, spacing, np.random.default_rng(0))
