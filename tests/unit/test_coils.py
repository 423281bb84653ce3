"""Combination keeps the root sum of squares and does not rectify the noise."""

import numpy as np
import pytest

from sodiumprep.sodium.coils import combine_coils, smooth_coil_images

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
