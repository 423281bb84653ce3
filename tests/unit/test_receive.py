"""The receive fit recovers a known profile from a noisy pair."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from sodiumprep.sodium.noise import corner_mask
from sodiumprep.sodium.receive import (
    SquaredImage,
    coarse,
    coarse_affine,
    fit_receive_correction,
    inverse_map,
    mean_of,
    on_basis_of,
    repeat_agreement,
    rigid_change,
    squared,
    with_misfit,
)
from sodiumprep.sodium.smooth_field import (
    Pair,
    SmoothField,
    Smoothness,
    fit_field,
    grid_positions,
    relative_uncertainty,
)

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


def magnitude(rng, image, channels=1):
    """Return a magnitude with non-central chi noise."""
    parts = rng.normal(0, NOISE, (2 * channels, *SHAPE))
    parts[0] += image
    return np.sqrt(np.sum(parts**2, axis=0))


def moved(values, shift):
    """Return an image that is shifted along its first axis by some mm."""
    return ndimage.shift(values, [shift / 9.0, 0, 0], order=3, mode="nearest")


@pytest.fixture(scope="module")
def squares():
    """Return two repeats of the array image with 12 channels, and a volume-coil image."""
    rng = np.random.default_rng(2)
    arrays = [magnitude(rng, 25 * head() * profile(), 12) for _ in range(2)]
    return [SquaredImage.of(m) for m in (*arrays, magnitude(rng, 8 * head()))]


@pytest.fixture(scope="module")
def fit(squares):
    return fit_receive_correction(squares[:2], squares[2:], AFFINE)


@pytest.fixture(scope="module")
def fitted(fit):
    return fit.field


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
    rng = np.random.default_rng(0)
    noise = [SquaredImage.of(magnitude(rng, np.zeros(SHAPE), 8))]
    with pytest.raises(ValueError, match="only .* exceed 3 noise SDs .* at least 200"):
        fit_receive_correction(noise, noise, AFFINE)


@pytest.mark.parametrize("channels", [1, 4, 12])
@pytest.mark.parametrize("signal", [0.5, 2.0, 8.0])
def test_squares_are_free_of_the_bias_of_magnitudes_and_know_their_noise(signal, channels):
    rng = np.random.default_rng(channels)
    image = np.full(SHAPE, signal)
    image[:4], image[-4:] = 0, 0  # the corners
    square = SquaredImage.of(magnitude(rng, image, channels))
    inside = image > 0
    chance = 2 * channels**0.5 / corner_mask(SHAPE).sum() ** 0.5  # of the mean square in corners
    assert square.values[inside].mean() == pytest.approx(signal**2, abs=3 * chance + 0.15)
    stated = square.sd(image**2)[inside][0]
    assert square.values[inside].std() == pytest.approx(stated, rel=0.05)
    assert mean_of([square] * 4).sd(image**2)[inside][0] == pytest.approx(stated / 2)


def test_a_volume_image_as_faint_as_its_noise_does_not_bias_the_profile():
    rng = np.random.default_rng(5)
    faint = head() * np.where(PLACES[:, 0] > 0, 1.5, 6.0).reshape(SHAPE)
    array = SquaredImage.of(magnitude(rng, 4 * faint * profile(), 8))
    volume = SquaredImage.of(magnitude(rng, faint))
    left = np.log(
        fit_receive_correction([array], [volume], AFFINE).field(PLACES) * profile().ravel()
    )
    sides = [(head().ravel() > 0) & (PLACES[:, 0] * sign > 9) for sign in (1, -1)]
    assert left[sides[0]].mean() == pytest.approx(left[sides[1]].mean(), abs=0.08)


def test_the_noise_of_the_array_image_does_not_lower_the_field():
    rng = np.random.default_rng(6)
    parts = (PLACES[:, 0] > 0).reshape(SHAPE)
    array = SquaredImage.of(magnitude(rng, head() * np.where(parts, 4.0, 60.0)))
    volume = SquaredImage.of(magnitude(rng, head() * np.where(parts, 8.0, 120.0)))
    left = np.log(fit_receive_correction([array], [volume], AFFINE).field(PLACES))
    sides = [(head().ravel() > 0) & (PLACES[:, 0] * sign > 9) for sign in (1, -1)]
    assert left[sides[0]].mean() == pytest.approx(left[sides[1]].mean(), abs=0.02)


def test_the_smoothest_field_that_holds_for_the_other_repeat_is_chosen(squares, fit):
    assert fit.smoothness.shortest_wave in (90.0, 120.0)
    rng = np.random.default_rng(7)
    flat = [SquaredImage.of(magnitude(rng, s * head(), n)) for s, n in ((25, 8), (25, 8), (8, 1))]
    assert fit_receive_correction(flat[:2], flat[2:], AFFINE).smoothness.shortest_wave == 170.0


def test_the_stated_map_covers_the_error_voxel_by_voxel(fit):
    inside = (head() > 0).ravel()
    left = np.log(fit.field(PLACES) * profile().ravel())[inside]
    level = np.average(left, weights=(head() * profile()).ravel()[inside])
    stated = fit.field.relative_sd(PLACES[inside], fit.reference)
    assert 0.7 < np.sqrt(np.mean(((left - level) / stated) ** 2)) < 1.3


def test_the_uncertainty_grows_where_nothing_is_known(fit):
    far = np.array([[105.0, 105.0, 105.0]])
    assert fit.field.relative_sd(far, fit.reference) > 3 * fit.field.relative_sd(
        np.zeros((1, 3)), fit.reference
    )


def test_a_misfit_adds_its_variance_everywhere_on_average(fitted):
    noisy = with_misfit(replace(fitted, covariance=0 * fitted.covariance), 0.05)
    variance = noisy.relative_sd(PLACES, np.zeros(len(noisy.orders))) ** 2
    assert np.sqrt(variance.mean()) == pytest.approx(0.05, rel=0.1)


def test_a_smooth_field_keeps_its_values_on_a_larger_basis(squares, fitted):
    pair = Pair(squares[0].values, squares[2].values, AFFINE, (9.0, 9.0), head() > 0)
    smooth = fit_field(pair, Smoothness(150.0), 0.3, squared)
    assert len(smooth.orders) < len(fitted.orders)
    larger = on_basis_of(smooth, fitted)
    np.testing.assert_allclose(larger(PLACES[::97]), smooth(PLACES[::97]))
    assert larger.covariance is fitted.covariance


def test_motion_between_the_images_is_seen_and_does_not_tilt_the_field():
    rng = np.random.default_rng(8)
    smooth = ndimage.gaussian_filter(head().astype(float), 0.7)
    array = SquaredImage.of(magnitude(rng, 60 * smooth * profile(), 4))
    volume = SquaredImage.of(magnitude(rng, 40 * moved(smooth, 2.0)))
    fit = fit_receive_correction([array], [volume], AFFINE)
    assert fit.displacement == pytest.approx(2.0, abs=0.6)
    left = np.log(fit.field(PLACES) * profile().ravel())
    sides = [(head().ravel() > 0) & (PLACES[:, 0] * sign > 40) for sign in (1, -1)]
    assert left[sides[0]].mean() == pytest.approx(left[sides[1]].mean(), abs=0.04)


def test_a_voxel_that_was_not_measured_tells_nothing(squares, fitted):
    holes = squares[2].values.copy()
    holes[8:12, 8:14, 8:14] = 0
    measured = squares[2].measured & (holes != 0)
    volume = replace(squares[2], values=holes, measured=measured)
    field = fit_receive_correction(squares[:2], [volume], AFFINE).field
    inside = (head() > 0).ravel()
    assert np.std(np.log(field(PLACES) / fitted(PLACES))[inside]) < 0.02


def test_repeats_agree_or_show_their_change_and_motion():
    rng = np.random.default_rng(9)
    smooth = 60 * ndimage.gaussian_filter(head().astype(float), 0.7) * profile()
    first, same, other = (
        SquaredImage.of(magnitude(rng, image, 8))
        for image in (smooth, smooth, 1.05 * moved(smooth, 2.0))
    )
    good, bad = (repeat_agreement(first, second, AFFINE) for second in (same, other))
    assert good.mean_ratio == pytest.approx(1, abs=0.005)
    assert (good.spread, good.displacement) < (0.02, 0.3)
    assert bad.mean_ratio == pytest.approx(1.05, abs=0.01)
    assert bad.displacement == pytest.approx(2.0, abs=0.5)


def test_small_motions_change_an_image_by_their_gradient():
    affine = AFFINE.copy()
    affine[:3, :3] = np.array([[0, 0, 3.0], [-2.0, 0, 0], [0, 4.0, 0]])
    places = grid_positions((10, 12, 14), affine)
    slope = np.array([2.0, -3.0, 5.0])
    changes = rigid_change((places @ slope).reshape(10, 12, 14), affine)
    np.testing.assert_allclose(changes[:3].reshape(3, -1).T, np.tile(slope, (1680, 1)), rtol=1e-6)
    turned = np.radians(np.cross([0, 0, 1.0], places - places.mean(axis=0))) @ slope
    np.testing.assert_allclose(changes[5].ravel(), turned, atol=1e-9)


def test_coarse_voxels_lie_where_their_parts_lie():
    affine = np.diag([2.0, 3.0, 8.0, 1.0])
    affine[:3, 3] = [5, -7, 9]
    places = grid_positions((9, 8, 4), affine).reshape(9, 8, 4, 3)
    image = SquaredImage(places[..., 1] + places[..., 0], np.ones((9, 8, 4), bool), 1.0, 1.0)
    rough = coarse(image, affine)
    assert (rough.values.shape, rough.repeats) == ((3, 4, 4), 6)
    expected = grid_positions((3, 4, 4), coarse_affine(affine))
    np.testing.assert_allclose(rough.values.ravel(), expected[:, 0] + expected[:, 1])


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


@pytest.mark.parametrize("highest", [0, 1, 4])
def test_the_series_of_a_fields_variance_is_its_quadratic_form(highest):
    rng = np.random.default_rng(highest)
    orders = np.argwhere(np.ones((highest + 1, 1 + highest // 2, 2)))
    m = len(orders)
    root = rng.normal(size=(m, m)) * 0.1
    model = SmoothField(
        np.array([-80.0, -90, -70]), np.array([150.0, 190, 160]), orders, np.zeros(m),
        root @ root.T,
    )  # fmt: skip
    places = rng.uniform(-110, 130, (5000, 3))  # some beyond the box
    reference = model.basis(places[:40]).mean(axis=0)
    np.testing.assert_allclose(
        model.relative_sd(places, reference),
        relative_uncertainty(model, model.basis(places), reference),
        atol=1e-9,
    )
