"""Combination keeps the root sum of squares, sensitivities are found, noise is made white."""

import numpy as np
import pytest
import sigpy
from sigpy.mri.app import EspiritCalib

from sodiumprep.sodium import coils
from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.coils import (
    calibration_eigenvectors,
    combine,
    combine_coils,
    espirit,
    kspace_centre_sensitivities,
    mix_coils,
    prewhiten,
    smooth_coil_images,
    sum_of_squares,
    unit_vectors,
    whitening_matrix,
)
from sodiumprep.sodium.density import radial_weights
from sodiumprep.sodium.encoding import forward
from sodiumprep.sodium.trajectory import density_adapted_radial

SHAPE, N_COILS, NOISE = (24, 24, 24), 4, 1.0
PLACES = np.array([[-14, 0, 0], [14, 0, 0], [0, -14, 0], [0, 0, 14.0]])


def coil_profiles():
    """Return smooth sensitivities with a phase that varies over the head."""
    axes = np.meshgrid(*[np.arange(n) - n / 2 for n in SHAPE], indexing="ij")
    grid = np.stack(axes, axis=-1)
    distance2 = np.sum((grid[None] - PLACES[:, None, None, None]) ** 2, axis=-1)
    phase = np.exp(1j * (0.05 * grid @ np.array([1, 2, -1.0]) + np.arange(4)[:, None, None, None]))
    return np.exp(-distance2 / 600) * phase


@pytest.fixture(scope="module")
def ball():
    axes = np.meshgrid(*[np.arange(n) - n / 2 for n in SHAPE], indexing="ij")
    return 30.0 / (1 + np.exp(2 * (np.sqrt(sum(a**2 for a in axes)) - 8)))


def noise(seed, shape=(N_COILS, *SHAPE)):
    rng = np.random.default_rng(seed)
    return NOISE * (rng.normal(size=shape) + 1j * rng.normal(size=shape))


COVARIANCE = 2 * NOISE**2 * np.eye(N_COILS)


def test_the_profile_of_the_root_sum_of_squares_remains(ball):
    images = coil_profiles() * ball
    combined, _ = combine_coils(images, COVARIANCE)
    expected = np.sqrt(np.sum(np.abs(images) ** 2, axis=0))
    inside = ball > 20
    np.testing.assert_allclose(combined[inside], expected[inside], rtol=0.04)
    assert combined[inside].sum() == pytest.approx(expected[inside].sum(), rel=0.01)


def test_the_predicted_noise_is_that_of_draws(ball):
    images = coil_profiles() * ball
    drawn = np.stack([combine_coils(images + noise(s), COVARIANCE)[0] for s in range(60)])
    predicted = combine_coils(images, COVARIANCE)[1]
    inside = ball > 20
    ratio = np.sqrt((drawn.var(axis=0, ddof=1)[inside] / predicted[inside] ** 2).mean())
    assert ratio == pytest.approx(1.0, abs=0.03)


def test_weak_signal_is_not_raised_by_the_noise(ball):
    images = coil_profiles() * ball / 30  # less than one noise standard deviation
    drawn = np.mean([combine_coils(images + noise(s), COVARIANCE)[0] for s in range(60)], axis=0)
    expected = np.sqrt(np.sum(np.abs(images) ** 2, axis=0))
    inside = ball > 25
    assert drawn[inside].mean() == pytest.approx(expected[inside].mean(), rel=0.1)


def test_noise_in_air_keeps_little_of_the_mean_of_a_sum_of_squares():
    images = noise(7)
    combined, sd = combine_coils(images, COVARIANCE)
    rectified = np.sqrt(np.sum(np.abs(images) ** 2, axis=0))
    assert combined.mean() < 0.15 * rectified.mean()
    assert combined.std() == pytest.approx(sd.mean(), rel=0.05)


def test_correlated_coils_change_the_predicted_noise(ball):
    images = np.ones((2, 1, 1, 1)) * ball[None].astype(complex)
    together = combine_coils(images, np.array([[2.0, 2.0], [2.0, 2.0]]))[1]
    apart = combine_coils(images, np.diag([2.0, 2.0]))[1]
    np.testing.assert_allclose(together[12, 12, 12] / apart[12, 12, 12], np.sqrt(2), rtol=1e-4)


def test_one_coil_is_its_phase_corrected_real_part(ball):
    combined, _ = combine_coils(1j * ball[None], np.array([[2.0]]))
    np.testing.assert_allclose(combined, ball, atol=1e-4)


def test_coil_images_without_any_signal_give_zero_not_nan():
    combined, sd = combine_coils(np.zeros((2, 4, 4, 4), complex), np.eye(2))
    assert not combined.any()
    assert np.isfinite(sd).all()


def test_smoothing_keeps_a_constant_image():
    smooth = smooth_coil_images(np.full((1, 8, 8, 8), 2 - 3j))
    np.testing.assert_allclose(smooth, 2 - 3j, rtol=1e-5)


COUPLED = np.array([[4.0, 0.8j, 0, 0], [-0.8j, 1.0, 0.3, 0], [0, 0.3, 2.0, 0], [0, 0, 0, 1.0]])
GRID = Geometry(np.zeros(3), np.eye(3), (0.24,) * 3, SHAPE)
TRAJECTORY = density_adapted_radial(900, 50, 50.0)
WEIGHTS = radial_weights(TRAJECTORY)
METHODS = [kspace_centre_sensitivities, espirit]


@pytest.fixture(scope="module")
def samples(ball):
    object_phase = np.exp(0.06j * np.arange(24.0))
    return np.stack([forward(c * ball * object_phase, TRAJECTORY, GRID) for c in coil_profiles()])


def misalignment(found, inside):
    """Return the sine of the angle between found and true sensitivities."""
    overlap = np.abs(np.sum(unit_vectors(coil_profiles()).conj() * found, axis=0))
    return np.sqrt(np.mean(1 - np.minimum(overlap, 1)[inside] ** 2))


def test_whitened_noise_is_independent_and_of_variance_one():
    drawn = np.linalg.cholesky(COUPLED) @ noise(1, (4, 40_000)) / np.sqrt(2)
    white, _ = prewhiten(drawn.reshape(4, 200, 200), COUPLED)
    flat = white.reshape(4, -1)
    np.testing.assert_allclose(flat @ flat.conj().T / 40_000, np.eye(4), atol=0.03)


def test_whitening_undone_gives_the_samples_back():
    drawn = noise(2, (4, 3, 5)).astype(np.complex64)
    white, matrix = prewhiten(drawn, COUPLED)
    np.testing.assert_allclose(mix_coils(np.linalg.inv(matrix), white), drawn, atol=1e-5)
    assert white.dtype == np.complex64


def test_white_coils_with_white_sensitivities_give_the_image_of_the_raw_ones(ball):
    unit = unit_vectors(coil_profiles())
    white, matrix = prewhiten((unit * ball).reshape(4, 24, -1), COUPLED)
    raw, raw_sd = combine(unit * ball, unit, COUPLED)
    image, sd = combine(white.reshape(4, *SHAPE), mix_coils(matrix, unit), np.eye(4))
    np.testing.assert_allclose(image, raw, atol=1e-10)
    np.testing.assert_allclose(sd, raw_sd, rtol=1e-10)


def test_a_covariance_of_another_number_of_coils_is_refused():
    with pytest.raises(ValueError, match="for 2 coils"):
        prewhiten(np.ones((2, 3, 3), complex), COUPLED)


def test_coils_that_share_all_their_noise_cannot_be_whitened():
    with pytest.raises(ValueError, match="eigenvalue .*; all must be positive"):
        whitening_matrix(np.array([[1.0, 1.0], [1.0, 0.5]]))


@pytest.mark.parametrize("covariance", [COVARIANCE, COUPLED])
def test_the_weighted_combination_carries_the_profile_of_the_sum_of_squares(ball, covariance):
    images = coil_profiles() * ball
    image, _ = combine(images, unit_vectors(coil_profiles()), covariance)
    np.testing.assert_allclose(image.real, sum_of_squares(images), atol=1e-9)


def test_the_weighted_combination_has_the_noise_of_draws_and_less_than_any_other(ball):
    unit, mixing = unit_vectors(coil_profiles()), np.linalg.cholesky(COUPLED) / np.sqrt(2)
    drawn = [mix_coils(mixing, noise(seed)) for seed in range(30)]
    image, sd = combine(drawn[0], unit, COUPLED)
    spread = np.std([combine(d, unit, COUPLED)[0].real for d in drawn], axis=0, ddof=1)
    assert np.sqrt(np.mean((spread / sd) ** 2)) == pytest.approx(1.0, abs=0.02)
    unweighted = np.einsum("ixyz,ij,jxyz->xyz", unit.conj(), COUPLED, unit).real / 2
    assert np.all(sd**2 <= unweighted * (1 + 1e-9))
    assert image.shape == SHAPE


def test_where_no_coil_sees_anything_the_combination_is_zero():
    image, sd = combine(np.ones((2, 3, 3, 3), complex), np.zeros((2, 3, 3, 3), complex), np.eye(2))
    assert not image.any()
    assert not sd.any()


def test_sensitivities_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="sensitivities"):
        combine(np.ones((2, 3, 3, 3), complex), np.ones((2, 3, 3, 4), complex), np.eye(2))


@pytest.fixture(scope="module", params=METHODS)
def found(request, samples):
    return request.param(samples, WEIGHTS, TRAJECTORY, GRID)


def test_sensitivities_are_found_in_the_object_and_have_norm_one_everywhere(found, ball):
    assert misalignment(found, ball > 15) < 0.04
    assert misalignment(found, (ball > 0.1) & (ball < 3)) < 0.15  # goes on smoothly outside
    np.testing.assert_allclose(sum_of_squares(found), 1, rtol=1e-5)


def test_an_image_combined_by_found_sensitivities_is_real(found, ball):
    phase = np.exp(0.06j * np.arange(24.0))
    image, _ = combine(coil_profiles() * ball * phase, found, COVARIANCE)
    assert np.std(np.angle(image)[ball > 15]) < 0.06


@pytest.mark.parametrize("method", METHODS)
def test_noise_hardly_moves_the_sensitivities(samples, ball, method):
    gain = np.sqrt(np.sum(WEIGHTS.astype(float) ** 2)) * np.prod(GRID.voxel_size)
    noisy = samples + noise(0, samples.shape) * 3.0 / gain  # a tenth of the ball's signal
    assert misalignment(method(noisy, WEIGHTS, TRAJECTORY, GRID), ball > 15) < 0.08


@pytest.mark.parametrize("method", METHODS)
def test_a_centre_of_kspace_without_signal_is_refused(samples, method):
    with pytest.raises(ValueError, match="no signal"):
        method(0 * samples, WEIGHTS, TRAJECTORY, GRID)


def test_the_eigenvectors_are_those_of_another_implementation(ball, monkeypatch):
    monkeypatch.setattr(coils, "NOISE_POWER", 0.0)  # theirs has no floor for the noise
    images = (coil_profiles() * ball)[:2, 5:19, 5:19, 5:19].astype(np.complex64)
    calibration = sigpy.fft(images, axes=(1, 2, 3))
    vectors, value = calibration_eigenvectors(calibration)
    theirs, their_value = EspiritCalib(
        calibration, calib_width=14, kernel_width=4, crop=0, output_eigenvalue=True,
        show_pbar=False,
    ).run()  # fmt: skip
    overlap = np.abs(np.sum(vectors.conj() * theirs, axis=0))
    assert overlap[value > 0.95].min() > 0.999
    np.testing.assert_allclose(value, their_value.squeeze(), atol=0.01)
