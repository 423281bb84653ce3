"""The receive fit recovers a known profile from a noisy pair."""

import numpy as np
import pytest

from sodiumprep.sodium.noise import background_moments, unbiased_magnitude
from sodiumprep.sodium.receive import fit_receive_correction, inverse_map
from sodiumprep.sodium.smooth_field import SmoothField, grid_positions, relative_uncertainty

SHAPE, NOISE = (24, 24, 24), 1.0
AFFINE = np.diag([9.0, 9.0, 9.0, 1.0])
AFFINE[:3, 3] = -108.0
PLACES = grid_positions(SHAPE, AFFINE)


def profile():
    """Return a smooth array profile that varies by a factor of 3 over the head."""
    along = np.clip(PLACES @ np.array([0.4, 0.7, 0.6]) / 85, -1.3, 1.3)
    bowl = np.sum(PLACES**2, axis=1) / 85**2
    return (np.exp(0.6 * along) * (0.75 + 0.3 * bowl)).reshape(SHAPE)


def head():
    """Return a head with contrast: bright spots in a grey ball."""
    ball = np.sqrt(np.sum(PLACES**2, axis=1)) < 80
    spots = 1 + 2 * (np.sin(PLACES[:, 0] / 9) * np.cos(PLACES[:, 2] / 7) > 0.6)
    return (ball * spots).reshape(SHAPE)


def rician(rng, image):
    return np.hypot(image + rng.normal(0, NOISE, SHAPE), rng.normal(0, NOISE, SHAPE))


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(2)
    pair = [rician(rng, 25 * head() * profile()), rician(rng, 8 * head())]
    moments = [background_moments(m) for m in pair]
    clean = [unbiased_magnitude(m, b[1]) for m, b in zip(pair, moments, strict=True)]
    return fit_receive_correction(*clean, AFFINE, (moments[0][0], moments[1][0]))


def test_a_profile_that_varies_threefold_is_recovered_to_a_few_per_cent(fitted):
    inside = (head() > 0).ravel()
    truth = profile().ravel()[inside]
    assert truth.max() / truth.min() > 3
    left = fitted(PLACES)[inside] * truth
    assert left.std() / left.mean() < 0.04


def test_the_scale_is_one_where_the_array_sees_most(fitted):
    signal = (head() * profile()).ravel()
    assert np.exp(np.average(np.log(fitted(PLACES)), weights=signal)) == pytest.approx(1, abs=0.01)


def test_the_field_is_positive_and_bounded_where_there_is_no_signal(fitted):
    field = fitted(PLACES)
    assert field.min() > 0.1
    assert field.max() < 10


def test_outside_the_box_the_field_continues_at_its_edge(fitted):
    edge, far = np.array([[0.0, 0, 0]]), np.array([[400.0, 0, 0]])
    edge[0, 0] = fitted.corner[0] + fitted.size[0]
    assert fitted(far)[0] == pytest.approx(fitted(edge)[0])


def test_the_reference_itself_is_certain_and_others_are_not(fitted):
    weights = np.stack([PLACES[:, 0] > 40, PLACES[:, 0] < -40]).astype(float)
    basis = fitted.region_means(PLACES, weights)
    u = relative_uncertainty(fitted, basis, basis[0])
    assert u[0] == pytest.approx(0, abs=1e-9)
    assert 0 < u[1] < 0.2


def test_the_stated_uncertainty_covers_the_error(fitted):
    inside = (head() > 0).ravel()
    halves = np.stack([inside & (PLACES[:, a] * s > 0) for a in range(3) for s in (1, -1)])
    left = np.log(fitted(PLACES) * profile().ravel())
    errors = np.array([left[h].mean() - left[inside].mean() for h in halves])
    basis = fitted.region_means(PLACES, halves.astype(float))
    whole = fitted.region_means(PLACES, inside[None].astype(float))[0]
    assert np.all(np.abs(errors) < 4 * relative_uncertainty(fitted, basis, whole))


def test_regional_means_of_the_basis_are_weighted(fitted):
    weight = np.zeros((1, len(PLACES)))
    weight[0, [100, 5000]] = [1.0, 3.0]
    expected = fitted.basis(PLACES[[100, 5000]])
    np.testing.assert_allclose(
        fitted.region_means(PLACES, weight)[0], (expected[0] + 3 * expected[1]) / 4
    )


def test_a_field_without_coefficients_is_one():
    field = SmoothField(np.zeros(3), np.ones(3), np.zeros((1, 3)), np.zeros(1), np.eye(1))
    np.testing.assert_allclose(field(np.random.default_rng(0).normal(size=(7, 3))), 1)


def test_an_array_image_without_signal_is_refused():
    noise = np.random.default_rng(0).normal(0, 1, SHAPE)
    with pytest.raises(ValueError, match="exceed 3 noise SDs"):
        fit_receive_correction(noise, noise, AFFINE, (1.0, 1.0))


def test_the_inverse_of_a_map_undoes_it_but_for_a_factor():
    restored = profile() * inverse_map(profile())
    np.testing.assert_allclose(restored, restored[0, 0, 0], rtol=1e-5)


def test_air_in_a_map_is_not_blown_up():
    assert inverse_map(np.array([1.0, 1.0, 0.0, -0.3])).max() == pytest.approx(20.0)


def test_a_map_that_is_nowhere_positive_is_refused():
    with pytest.raises(ValueError, match="nowhere positive"):
        inverse_map(np.zeros((3, 3, 3)))


def test_positions_run_with_the_last_axis_fastest():
    places = grid_positions((2, 3, 4), np.diag([1.0, 10.0, 100.0, 1.0]))
    np.testing.assert_allclose(places[[0, 1, 4]], [[0, 0, 0], [0, 0, 100], [0, 10, 0]])
