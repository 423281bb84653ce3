"""Regional estimates recover an exact phantom, know their noise and what changes them."""

from functools import cache

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.kernel import blur, gaussian_transfer
from sodiumprep.sodium.noise import ImageNoise, normalized_spectrum
from sodiumprep.sodium.pvc.regional import (
    entangled_pairs,
    gtm,
    labbe,
    level_around,
    merge_entangled,
    mixing_matrix,
    region_means,
    residual_sd,
)
from sodiumprep.sodium.pvc.sensitivity import (
    MovedBorder,
    kernel_change,
    layer_at_border,
    segmentation_changes,
    shift_changes,
)
from sodiumprep.sodium.pvc.shown import SampledRegions

SHAPE = (16, 16, 16)
GRID = Geometry(np.zeros(3), np.eye(3), (0.064,) * 3, SHAPE)
TRUTH = np.array([42.0, 38.0, 145.0, 5.0])
WHITE = np.ones((32, 32, 17))
FWHM = np.array([2.2, 2.4, 1.9, 2.0])  # voxels, one kernel for each region


def fractions():
    """Return nested soft shells, ventricle inside: cortex, white matter, fluid, background."""
    axes = np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    inside = [1 / (1 + np.exp(2 * (radius - r))) for r in (2.2, 4.5, 6.5)]
    fluid, brain = inside[0], inside[2]
    return np.stack([brain - inside[1], inside[1] - fluid, fluid, 1 - brain])


def transfers(scale=1.0):
    return [gaussian_transfer(GRID, np.full(3, w * scale * 4e-3)) for w in FWHM]


def blurred(scale=1.0):
    return np.stack([blur(f, t) for f, t in zip(fractions(), transfers(scale), strict=True)])


@cache
def regions(scale=1.0, order=None):
    """Return the shells, each blurred by its own kernel."""
    chosen = list(range(4)) if order is None else list(order)
    return SampledRegions(fractions()[chosen], blurred(scale)[chosen])


@cache
def phantom():
    return np.tensordot(TRUTH, blurred(), 1)


def noise_of(sd=1.0, spectrum=WHITE):
    return ImageNoise(np.full(SHAPE, sd), spectrum)


def one_kernel():
    return SampledRegions(fractions(), np.stack([blur(f, transfers()[0]) for f in fractions()]))


def from_gtm(image, parts):
    return gtm(image, parts, None).values


def from_labbe(image, parts):
    return labbe(image, parts, None).values


def uneven_noise():
    """Return noise that is twice as high on one side."""
    sd = np.ones(SHAPE)
    sd[8:] = 2.0
    return ImageNoise(sd, normalized_spectrum(gaussian_transfer(GRID, np.full(3, 8e-3)) ** 2,
                                              (32, 32, 32)))  # fmt: skip


METHODS = pytest.mark.parametrize("method", [gtm, labbe])


@METHODS
def test_an_exact_phantom_with_a_kernel_for_each_region_is_recovered(method):
    estimate = method(phantom(), regions(), noise_of())
    np.testing.assert_allclose(estimate.values, TRUTH, rtol=1e-9)
    means = region_means(phantom(), regions())
    assert np.abs(means / TRUTH - 1)[0] > 0.25  # uncorrected
    assert 1 < estimate.condition_number < 200
    np.testing.assert_allclose(estimate.residual_sd, 0, atol=1e-6)


@METHODS
def test_uneven_noise_does_not_bias_an_exact_phantom(method):
    np.testing.assert_allclose(method(phantom(), regions(), uneven_noise()).values, TRUTH)


@METHODS
def test_single_precision_recovers_the_phantom_too(method):
    parts = SampledRegions(fractions().astype(np.float32), blurred().astype(np.float32))
    image = phantom().astype(np.float32)
    np.testing.assert_allclose(method(image, parts, noise_of()).values, TRUTH, rtol=1e-4)


@METHODS
def test_one_kernel_for_all_leaves_a_bias_where_there_are_several(method):
    assert np.abs(method(phantom(), one_kernel(), noise_of()).values - TRUTH).max() > 0.5


@METHODS
def test_a_constant_image_gives_that_constant_everywhere(method):
    constant = blur(np.full(SHAPE, 7.0), transfers()[0])
    values = method(constant, one_kernel(), noise_of()).values
    np.testing.assert_allclose(values, 7.0, rtol=1e-6)


@METHODS
def test_the_order_of_the_regions_does_not_matter(method):
    order = (2, 0, 3, 1)
    turned = method(phantom(), regions(order=order), noise_of())
    straight = method(phantom(), regions(), noise_of())
    np.testing.assert_allclose(turned.values, straight.values[list(order)])
    np.testing.assert_allclose(turned.covariance, straight.covariance[np.ix_(order, order)])


@METHODS
def test_regional_values_are_linear_in_the_image(method):
    other = np.random.default_rng(0).normal(size=SHAPE)
    together, one, two = (
        method(image, regions(), noise_of()).values
        for image in (2 * phantom() - 3 * other, phantom(), other)
    )
    np.testing.assert_allclose(together, 2 * one - 3 * two)


@METHODS
@pytest.mark.parametrize("noise", [noise_of(2.0), uneven_noise()], ids=["white", "correlated"])
def test_the_noise_covariance_is_that_of_draws(method, noise):
    stated = method(phantom(), regions(), noise).covariance
    rng = np.random.default_rng(0)
    wide = np.fft.rfftn(rng.normal(0, 1, (200, 32, 32, 32)), axes=(1, 2, 3))
    wide *= np.sqrt(noise.spectrum)
    draws = np.fft.irfftn(wide, (32, 32, 32), axes=(1, 2, 3))[:, :16, :16, :16] * noise.noise_sd
    drawn = np.array([method(draw, regions(), noise).values for draw in draws])
    np.testing.assert_allclose(np.diag(np.cov(drawn.T) / stated), 1.0, atol=0.3)
    sd = np.sqrt(np.diag(stated))
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(stated[0, 1] / sd[0] / sd[1], abs=0.15)


def test_what_is_not_uniform_far_away_hardly_counts_where_least_squares_has_a_focus():
    """Quiet air with a bright spot in it, as a receive correction leaves it near a coil."""
    sd = np.where(fractions()[3] > 0.99, 0.1, 1.0)
    noise = ImageNoise(sd, WHITE)
    spot = np.zeros(SHAPE)
    spot[:3, :3, :3] = 40.0
    spoiled = phantom() + blur(spot, transfers()[0])
    named = SampledRegions(fractions(), blurred(), ["GM", "WM", "CSF", "air"])
    level = level_around(named, ["GM", "WM", "CSF"], sd)
    everywhere = labbe(spoiled, named, noise).values
    focused = labbe(spoiled, named, noise, level=level)
    assert np.abs(focused.values - TRUTH)[:3].max() < 0.1 * np.abs(everywhere - TRUTH)[:3].max()
    np.testing.assert_allclose(labbe(phantom(), named, noise, level=level).values, TRUTH)
    assert np.all(np.diag(focused.covariance) > 0)


def test_least_squares_weighted_by_the_noise_varies_less_than_without_weights():
    uneven = ImageNoise(uneven_noise().noise_sd, WHITE)
    weighted = np.diag(labbe(phantom(), regions(), uneven).covariance)
    flat = ImageNoise(np.ones(SHAPE), WHITE)
    rng = np.random.default_rng(0)
    drawn = np.array([
        labbe(rng.normal(size=SHAPE) * uneven.noise_sd, regions(), flat).values
        for _ in range(200)
    ])  # fmt: skip
    assert np.all(weighted < drawn.var(axis=0))


@METHODS
def test_noise_that_is_not_known_leaves_the_covariance_open(method):
    estimate = method(phantom(), regions(), None)
    assert np.isnan(estimate.covariance).all()
    np.testing.assert_allclose(estimate.values, TRUTH)


@pytest.mark.parametrize("sd", [0.0, np.nan])
def test_weights_from_noise_without_meaning_are_refused(sd):
    noise = ImageNoise(np.full(SHAPE, sd), WHITE)
    with pytest.raises(ValueError, match="accepted: finite and above 0"):
        labbe(phantom(), regions(), noise)


def test_without_blur_the_regions_of_a_partition_do_not_mix():
    hard = (fractions() == fractions().max(axis=0)).astype(float)
    np.testing.assert_allclose(mixing_matrix(SampledRegions(hard, hard)), np.eye(4), atol=1e-12)


def test_a_region_that_is_missing_shows_in_the_residual():
    spot = np.zeros(SHAPE)
    spot[7:10, 7:10, 3:5] = 60.0
    spoiled = phantom() + blur(spot, transfers()[0])
    clean = gtm(phantom(), regions(), None).residual_sd
    seen = gtm(spoiled, regions(), None)
    assert seen.residual_sd[:3].max() > 2.0 > 100 * clean.max()
    again = residual_sd(spoiled, regions(), seen.values)
    np.testing.assert_allclose(seen.residual_sd, again)


def test_a_wider_kernel_changes_the_values_as_a_new_correction_would():
    fwhm = np.full(3, 2.2)
    wide_kernel = gaussian_transfer(GRID, fwhm * 1.05 * 4e-3)
    wide = SampledRegions(fractions(), np.stack([blur(f, wide_kernel) for f in fractions()]))
    image = one_kernel().shown(TRUTH)
    expected = from_gtm(image, wide) - TRUTH
    change = kernel_change(from_gtm, image, one_kernel(), fwhm, 0.05)
    np.testing.assert_allclose(change[:3], expected[:3], rtol=0.15)
    assert change[2] > 0  # more blur to undo: the bright fluid becomes brighter
    assert change[1] < 0  # and takes from the tissue beside it


@pytest.mark.parametrize("values", [from_gtm, from_labbe])
def test_a_displaced_image_changes_the_values_by_what_is_stated(values):
    stated = shift_changes(lambda image: values(image, regions()), phantom(), np.full(3, 0.3))
    axis = np.fft.fftfreq(16)[:, None, None]
    moved = np.fft.ifftn(np.fft.fftn(phantom()) * np.exp(-2j * np.pi * axis * 0.3)).real
    expected = values(moved, regions()) - TRUTH
    np.testing.assert_allclose(stated[0] + stated[3], expected, rtol=1e-6, atol=1e-6)
    assert stated.shape == (6, 4)
    both = np.hypot(stated[:3], stated[3:])
    np.testing.assert_allclose(both[0], both[1], rtol=1e-6)


def test_no_displacement_changes_nothing():
    changes = shift_changes(lambda image: from_gtm(image, regions()), phantom(), np.zeros(3))
    np.testing.assert_allclose(changes, 0, atol=1e-9)


def test_an_unknown_displacement_is_not_determined():
    changes = shift_changes(
        lambda image: from_gtm(image, regions()), phantom(), np.full(3, np.nan)
    )
    assert np.isnan(changes).all()


def ball(radius, edge=0.0, n=48):
    """Return the share of each voxel that lies in a ball; ``edge`` softens its surface."""
    axes = np.meshgrid(*[np.arange(n) - n / 2 + 0.3] * 3, indexing="ij")
    distance = radius - np.sqrt(sum(a**2 for a in axes))
    return 1 / (1 + np.exp(-distance / edge)) if edge else (distance > 0).astype(float)


@pytest.mark.parametrize("edge", [0.0, 0.4])
@pytest.mark.parametrize("thickness", [2.0, 8.0])
def test_a_border_that_lies_elsewhere_hands_over_a_layer(edge, thickness):
    """A cortex that grows inwards takes the surface of white matter times the shift."""
    inner, outer = ball(10.0, edge), ball(10.0 + thickness, edge)
    taken = layer_at_border(outer - inner, inner, 0.1)
    assert taken.sum() == pytest.approx(4 * np.pi * 10.0**2 * 0.1, rel=0.1)
    assert np.all(taken <= inner)


def test_regions_that_do_not_touch_hand_over_nothing():
    far = ball(20.0) - ball(16.0)
    assert not layer_at_border(far, ball(10.0), 0.5).any()


def moved(grown, shrunk, shift):
    taken = layer_at_border(fractions()[grown], fractions()[shrunk], shift)
    shown = [blur(taken, transfers()[i]) for i in (grown, shrunk)]
    return MovedBorder(grown, shrunk, taken, *shown)


def test_regions_with_a_moved_border_still_sum_to_one():
    there = moved(0, 1, 0.1).applied(regions())
    np.testing.assert_allclose(there.fractions.sum(axis=0), 1.0)
    assert there.sizes[0] > regions().sizes[0]
    np.testing.assert_allclose(there.fractions[2:], regions().fractions[2:])


def test_a_segmentation_error_changes_the_regions_at_the_border_most():
    borders = [[moved(0, 1, 0.1)], [moved(1, 2, 0.1)]]
    changes = segmentation_changes(from_gtm, phantom(), regions(), borders)
    assert changes.shape == (2, 4)
    assert np.abs(changes[1, 2]) > np.abs(changes[0, 2])  # fluid by its own border
    assert changes[1, 2] > 0  # taken for smaller than it is, it must be brighter
    still = segmentation_changes(from_gtm, phantom(), regions(), [[moved(0, 1, 0.0)]])
    np.testing.assert_allclose(still, 0, atol=1e-9)


def test_borders_of_one_row_move_together():
    first, second = moved(0, 1, 0.1), moved(1, 2, 0.1)
    together = segmentation_changes(from_gtm, phantom(), regions(), [[first, second]])
    alone = segmentation_changes(from_gtm, phantom(), regions(), [[first], [second]])
    np.testing.assert_allclose(together[0], alone.sum(axis=0), rtol=0.1, atol=0.05)


def split_regions(difference):
    """Return the shells, the cortex in two parts whose shares differ from side to side."""
    parts, shown = fractions(), blurred()
    comb = 0.5 + difference * np.linspace(-1, 1, 16)[:, None, None]
    halves = [parts[0] * comb, parts[0] * (1 - comb)]
    spread = [blur(h, transfers()[0]) for h in halves]
    return SampledRegions(
        np.stack([*halves, *parts[1:]]), np.stack([*spread, *shown[1:]]), ["a", "b", "c", "d", "e"]
    )


@METHODS
def test_regions_that_noise_cannot_tell_apart_are_named(method):
    estimate = method(phantom(), split_regions(0.05), noise_of())
    assert entangled_pairs(estimate.covariance)[0] == (0, 1)


@METHODS
@pytest.mark.parametrize("difference", [0.05, 0.0], ids=["entangled", "the same"])
def test_entangled_regions_are_merged_on_request(method, difference):
    left, again = merge_entangled(phantom(), split_regions(difference), noise_of(), method)
    assert left.names == ("a+b", "c", "d", "e")
    assert entangled_pairs(again.covariance) == []
    np.testing.assert_allclose(again.values, TRUTH, rtol=1e-6)


def test_regions_that_can_be_told_apart_are_not_merged():
    left, _ = merge_entangled(phantom(), regions(), noise_of(), gtm)
    assert left.names == regions().names


def test_merging_keeps_the_place_of_the_first_part():
    both = regions().merged(1, 3)
    assert both.names == ("1", "2+4", "3")
    np.testing.assert_allclose(both.sizes.sum(), regions().sizes.sum())


def test_means_are_weighted_by_fractions():
    shares = np.array([[[[0.25, 0.75]]], [[[0.75, 0.25]]]])
    parts = SampledRegions(shares, shares)
    assert region_means(np.array([[[1.0, 5.0]]]), parts)[0] == pytest.approx(4.0)


def spoiled(what):
    parts, spread = fractions(), blurred()
    if what == "shape":
        return parts[:, :8], spread
    if what == "3D":
        return parts[0], spread[0]
    if what == "nan":
        parts[0, 1, 2, 3] = np.nan
    elif what == "blurred":
        spread[0, 1, 2, 3] = np.inf
    elif what == "range":
        parts[0, 8, 8, 8], parts[1, 8, 8, 8] = -0.2, parts[1, 8, 8, 8] + 0.2
    elif what == "sum":
        parts, spread = parts[:3], spread[:3]
    elif what == "empty":
        parts = np.concatenate([parts, np.zeros((1, *SHAPE))])
        spread = np.concatenate([spread, np.zeros((1, *SHAPE))])
    return parts, spread


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("shape", "shapes differ"),
        ("3D", "shapes differ"),
        ("nan", "1 values of the fractions are not finite"),
        ("blurred", "1 values of the blurred fractions are not finite"),
        ("range", r"fractions from -0.2"),
        ("sum", "must sum to 1"),
        ("empty", r"region '5' holds 0.00 voxels"),
    ],
)
def test_regions_without_meaning_are_refused(what, message):
    with pytest.raises(ValueError, match=message):
        SampledRegions(*spoiled(what))


@METHODS
def test_an_image_that_is_not_finite_is_refused(method):
    image = phantom().copy()
    image[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="1 values of the image are not finite"):
        method(image, regions(), noise_of())


@METHODS
def test_regions_that_cannot_be_told_apart_are_refused_by_name(method):
    halves = np.stack([np.full(SHAPE, 0.5), np.full(SHAPE, 0.5)])
    twins = SampledRegions(halves, halves, ["left", "right"])
    with pytest.raises(ValueError, match=r"cannot be told apart.*'left' and 'right'|'right' and"):
        method(np.ones(SHAPE), twins, None)
