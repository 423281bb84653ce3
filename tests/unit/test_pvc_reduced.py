"""Work on the grid that the image resolves gives what work at full resolution gives."""

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from sodiumprep.sodium.kernel import to_transfer
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.kernels import GaussianKernel, ImageKernel
from sodiumprep.sodium.pvc.reduced import ReducedRegions, residual_correlation
from sodiumprep.sodium.pvc.regional import gtm, labbe, merge_entangled
from sodiumprep.sodium.pvc.work_grid import work_axis

SHAPE = (42, 46, 44)
FWHM = 6.0  # mm; voxels of 1 mm
TRUTH = np.array([42.0, 36.0, 140.0, 80.0, 6.0])
ONE = [GaussianKernel(FWHM)]
SPACING = np.ones(3)


@cache
def labels(shift=0):
    """Return a shell of 3 mm in two halves, a layer below, and a core; shifted to the border."""
    axes = [np.arange(n) - (n - 1) / 2 for n in SHAPE]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + (z - shift) ** 2)
    halves = np.where(x > 0, 1, 4)
    shells = [radius < 7, radius < 12, radius < 15]
    return np.select(shells, [3, 2, halves], 0).astype(np.uint8)


def fractions(shift=0):
    return np.stack([(labels(shift) == n).astype(float) for n in (1, 2, 3, 4, 0)])


@cache
def blurred(shift=0):
    """Return what the image shows of each region, at full resolution."""
    sigma = FWHM / np.sqrt(8 * np.log(2))
    return np.stack([
        gaussian_filter(part, sigma, mode="nearest", truncate=6) for part in fractions(shift)
    ])  # fmt: skip


def image(shift=0):
    return np.tensordot(TRUTH, blurred(shift), 1).astype(np.float32)


@cache
def regions(shift=0):
    return ReducedRegions.of_labels(labels(shift), SPACING, ONE)


def products(one, other):
    return one.reshape(len(one), -1) @ other.reshape(len(other), -1).T


def close(found, expected, share):
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.abs(expected).max())


def test_the_work_grid_is_coarser_than_the_image():
    assert all(1.4 < axis.ratio < 2.1 for axis in regions().grid.axes)


@pytest.mark.parametrize("shift", [0, 14])
def test_sums_over_voxels_are_those_at_full_resolution(shift):
    ours, sharp, seen = regions(shift), fractions(shift), blurred(shift)
    close(ours.crossing(), products(sharp, seen), 2e-5)
    close(ours.overlap(), products(sharp, sharp), 1e-12)
    close(ours.shown_overlap(), products(seen, seen), 2e-5)
    weights = (2 + np.cos(np.arange(SHAPE[2]) / 8) + np.zeros(SHAPE)).astype(np.float32)
    close(ours.shown_overlap(weights), products(weights * seen, seen), 2e-5)
    close(ours.totals(image(shift)), products(sharp, image(shift)[None])[:, 0], 1e-6)
    close(ours.shown_totals(image(shift)), products(seen, image(shift)[None])[:, 0], 2e-5)


@pytest.mark.parametrize("shift", [0, 14])
def test_volumes_are_those_at_full_resolution(shift):
    close(regions(shift).shown(TRUTH), image(shift), 5e-4)
    close(regions(shift).composed(TRUTH), np.tensordot(TRUTH, fractions(shift), 1), 1e-6)
    for (own, shown), sharp, seen in zip(
        regions(shift).each(), fractions(shift), blurred(shift), strict=True
    ):
        close(own, sharp, 1e-6)
        close(shown, seen, 5e-4)


@pytest.mark.parametrize("method", [gtm, labbe])
@pytest.mark.parametrize("shift", [0, 14])
def test_an_exact_phantom_is_recovered(method, shift):
    np.testing.assert_allclose(method(image(shift), regions(shift), None).values, TRUTH, 1e-4)


def test_a_constant_stays_constant_also_at_the_border():
    constant = np.full(SHAPE, 7.0, np.float32)
    np.testing.assert_allclose(gtm(constant, regions(14), None).values, 7.0, rtol=1e-5)
    close(regions(14).shown(np.full(5, 7.0)), constant, 1e-5)


def test_without_blur_the_values_are_the_means():
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    sharp = ReducedRegions.of_labels(labels(), SPACING, [GaussianKernel(0)])
    np.testing.assert_allclose(
        gtm(noise, sharp, None).values, sharp.totals(noise) / sharp.sizes, atol=1e-6
    )


def test_the_order_of_the_regions_does_not_matter():
    turned = ReducedRegions.of_labels(labels(), SPACING, ONE, [3, 1, 4, 2])
    expected = gtm(image(), regions(), None).values[[2, 0, 3, 1, 4]]
    np.testing.assert_allclose(gtm(image(), turned, None).values, expected, rtol=1e-5)


def test_streamed_fractions_are_the_same_regions_in_any_order_of_memory():
    volumes = [np.asfortranarray(part, np.float32) for part in fractions()[:4]]
    streamed, change = ReducedRegions.of_fractions(volumes, SPACING, ONE, list("abcd"))
    np.testing.assert_allclose(streamed.crossing(), regions().crossing(), rtol=1e-6)
    assert (change.largest_sum, change.scaled_voxels, change.clipped_values) == (1.0, 0, 0)


def test_a_pattern_finer_than_the_work_grid_leaves_no_trace():
    inside = labels() > 0
    stripes = np.indices(SHAPE)[0] % 2
    parts = [np.float32(inside & (stripes == k)) for k in (0, 1)]
    striped, _ = ReducedRegions.of_fractions(parts, SPACING, ONE, ["a", "b"])
    sigma = FWHM / np.sqrt(8 * np.log(2))
    for part, (_, shown) in zip(parts, striped.each(), strict=False):
        close(shown, gaussian_filter(part, sigma, mode="nearest", truncate=6), 1e-3)


def side_lobe_kernel(edge, decay, shift=0.0):
    """Return the kernel of a sphere in k-space, faded out at 15 mm, its centre shifted [mm]."""
    f = np.fft.fftfreq(62)
    radius = np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2) / edge
    transfer = np.exp(-decay * radius - 2j * np.pi * shift * f) * (radius < 1)
    kernel = np.fft.fftshift(np.fft.ifftn(transfer).real)[16:47, 16:47, 16:47]
    line = np.cos(np.pi / 2 * np.arange(-15, 16) / 15.5) ** 2
    kernel *= np.einsum("i,j,k->ijk", line, line, line)
    return kernel / kernel.sum()


@cache
def side_lobes():
    decays = (1.0, 0.7, 0.1, 1.0, 0.5)
    shapes = [side_lobe_kernel(0.13, d, s) for d, s in zip(decays, (0, 0, 0.4, 0, 0), strict=True)]
    padded = np.pad(fractions(), [(0, 0), *[(15, 15)] * 3], mode="edge")
    seen = [fftconvolve(p, k, "valid") for p, k in zip(padded, shapes, strict=True)]
    return shapes, np.tensordot(TRUTH, np.stack(seen), 1).astype(np.float32)


@pytest.mark.parametrize("method", [gtm, labbe])
def test_kernels_with_side_lobes_may_differ_between_regions(method):
    shapes, seen = side_lobes()
    assert min(shape.min() / shape.max() for shape in shapes) < -0.01
    kernels = [ImageKernel(shape, SPACING) for shape in shapes]
    own = ReducedRegions.of_labels(labels(), SPACING, kernels)
    assert own.grid.axes[0].ratio > 1.3
    np.testing.assert_allclose(method(seen, own, None).values, TRUTH, rtol=1e-4)


def test_one_gaussian_in_their_place_leaves_a_bias():
    shapes, seen = side_lobes()
    width = np.mean([ImageKernel(shape, SPACING).fwhm for shape in shapes])
    one = ReducedRegions.of_labels(labels(), SPACING, [GaussianKernel(width)])
    assert np.abs(gtm(seen, one, None).values[:4] / TRUTH[:4] - 1).max() > 0.01


def test_a_kernel_given_as_transfer_function_is_the_same_kernel():
    doubled = np.zeros([2 * n for n in SHAPE])
    centre = tuple(slice(n - 15, n + 16) for n in SHAPE)
    doubled[centre] = side_lobe_kernel(0.13, 0.5)
    made = ImageKernel.of_transfer(to_transfer(doubled), SPACING)
    frequencies = [np.fft.fftfreq(n, 1.7) for n in (30, 32, 31)]
    direct = ImageKernel(side_lobe_kernel(0.13, 0.5), SPACING)
    close(made.transfer(frequencies), direct.transfer(frequencies), 1e-4)


def test_a_sampled_gaussian_is_the_gaussian():
    line = np.exp(-0.5 * (np.arange(-20, 21) / FWHM) ** 2 * 8 * np.log(2))
    kernel = ImageKernel(np.einsum("i,j,k->ijk", line, line, line) / line.sum() ** 3, SPACING)
    np.testing.assert_allclose(kernel.fwhm, FWHM, rtol=0.02)
    frequencies = [np.linspace(-0.3, 0.3, n) for n in (7, 8, 9)]
    close(kernel.transfer(frequencies), ONE[0].transfer(frequencies), 1e-4)


def test_voxels_not_much_finer_than_the_kernel_are_left_as_they_are():
    assert work_axis(40, 2.0, ONE, 0).ratio == 1
    assert work_axis(40, 1.0, ONE, 0).ratio > 1.5
    assert work_axis(40, 1.0, [*ONE, GaussianKernel(3)], 0).ratio == 1  # the sharpest decides


def drawn(count):
    """Return noise of SD 2 that is correlated over about 2 mm."""
    rng = np.random.default_rng(5)
    draws = [gaussian_filter(rng.normal(size=SHAPE), 1.8, mode="wrap") for _ in range(count)]
    return np.asarray(draws, np.float32) * np.float32(2 / np.std(draws))


def stated_noise(ours):
    lags = [np.fft.fftfreq(24, 1 / (24 * s)) for s in ours.grid.spacing]
    squares = lags[0][:, None, None] ** 2 + lags[1][:, None] ** 2 + lags[2] ** 2
    spectrum = np.fft.rfftn(np.exp(-squares / (4 * 1.8**2))).real.astype(np.float32)
    return ImageNoise(np.full(SHAPE, 2, np.float32), spectrum)


@pytest.mark.parametrize("method", [gtm, labbe])
def test_the_covariance_is_that_of_draws(method):
    ours, noises = regions(), drawn(150)
    stated = method(image(), ours, stated_noise(ours))
    if method is gtm:
        found = np.linalg.solve(ours.crossing(), np.transpose([ours.totals(n) for n in noises]))
    else:
        sums = np.transpose([ours.shown_totals(n) for n in noises])
        found = np.linalg.solve(ours.shown_overlap(), sums)
    ratio = found.std(axis=1) / np.sqrt(np.diag(stated.covariance))
    np.testing.assert_allclose(ratio, 1, atol=0.2)
    np.testing.assert_allclose(ratio.mean(), 1, atol=0.08)
    sd = np.sqrt(np.diag(stated.covariance))
    correlation = stated.covariance[0, 3] / sd[0] / sd[3]
    np.testing.assert_allclose(np.corrcoef(found)[0, 3], correlation, atol=0.2)


def test_noise_is_read_from_the_residual():
    ours = regions()
    noise = ours.residual_noise(image() + drawn(1)[0], TRUTH)
    assert noise.noise_sd.mean() == pytest.approx(2, rel=0.1)
    expected = gtm(image(), ours, stated_noise(ours)).covariance
    read = gtm(image(), ours, noise).covariance
    np.testing.assert_allclose(np.diag(read)[:4], np.diag(expected)[:4], rtol=0.5)


def test_the_covariance_of_any_weights_is_that_of_the_regions():
    ours = regions()
    weights = [part.astype(np.float32) for part in fractions()]
    noise = stated_noise(ours)
    close(ours.covariance(weights, noise), ours.totals_covariance(noise), 1e-4)


def test_noise_may_differ_between_voxels():
    ours, noise = regions(), stated_noise(regions())
    slope = np.linspace(1, 3, SHAPE[0], dtype=np.float32)[:, None, None] + 0 * noise.noise_sd
    weights = [part.astype(np.float32) for part in fractions()]
    rising = ours.covariance(weights, ImageNoise(slope, noise.spectrum))
    even = ours.covariance([w * slope / 2 for w in weights], noise)
    close(rising, even, 0.01)


def test_merged_regions_are_regions_of_their_own():
    both = regions().merged(0, 3)
    relabelled = labels().copy()
    relabelled[relabelled == 4] = 1
    expected = ReducedRegions.of_labels(relabelled, SPACING, ONE)
    assert both.names == ["1+4", "2", "3", "background"]
    np.testing.assert_allclose(both.crossing(), expected.crossing(), rtol=1e-5, atol=1e-2)
    assert regions().names == ["1", "2", "3", "4", "background"]


def test_entangled_regions_are_merged():
    share = np.random.default_rng(1).uniform(0.45, 0.55, SHAPE)
    first, second, third, fourth = fractions()[:4]
    parts = [first + fourth, second * share, second * (1 - share), third]
    split, _ = ReducedRegions.of_fractions(parts, SPACING, ONE, list("abcd"))
    left, estimate = merge_entangled(image(), split, stated_noise(split), gtm)
    assert list(left.names) == ["a", "b+c", "d", "background"]
    assert estimate.values[1] == pytest.approx(TRUTH[1], rel=0.05)


def test_regions_on_the_work_grid_tell_about_the_same():
    coarse, low = regions().sampled(image())
    np.testing.assert_allclose(gtm(low, coarse, None).values[:4], TRUTH[:4], rtol=0.08)


def test_a_map_of_each_region_is_put_together_by_its_fraction():
    coarse, _ = regions().sampled(image())
    signals = np.broadcast_to(TRUTH[:4, None, None, None], (4, *coarse.shape))
    expected = regions().composed(np.array([*TRUTH[:4], 0.0]))
    found = regions().composed_of(signals)
    np.testing.assert_allclose(found[labels() == 2], expected[labels() == 2], rtol=0.01)
    assert not found[labels() == 0].any()


def test_regions_that_fill_the_image_have_no_background():
    whole = np.where(labels() == 0, 5, labels())
    full = ReducedRegions.of_labels(whole, SPACING, ONE)
    assert list(full.names) == ["1", "2", "3", "4", "5"]
    np.testing.assert_allclose(gtm(image(), full, None).values, TRUTH, rtol=1e-4)


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        ([*ONE, *ONE], "2 kernels for 4 regions"),
        ([GaussianKernel([6, 6, 50])], "50.0 mm wide along axis 3, the field of view 44.0 mm"),
        ([ImageKernel(np.zeros((3, 3, 3)), SPACING)], "a kernel sums to 0; accepted: above 0"),
    ],
)
def test_kernels_without_meaning_are_refused(kernels, message):
    with pytest.raises(ValueError, match=message):
        ReducedRegions.of_labels(labels(), SPACING, kernels)


def test_a_region_and_the_background_are_not_merged():
    with pytest.raises(ValueError, match="'3' cannot be told from the background"):
        regions().merged(2, 4)


def test_a_residual_of_nothing_has_no_noise():
    with pytest.raises(ValueError, match="the residual is 0 everywhere"):
        residual_correlation(np.zeros((4, 4, 4)), np.ones((4, 4, 4)), np.full(3, 2.0))
