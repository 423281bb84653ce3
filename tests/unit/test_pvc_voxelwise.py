"""Corrected maps recover an exact phantom, agree with slow references and know their noise."""

import runpy
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sodiumprep.sodium.noise import ImageNoise, weighted_covariance
from sodiumprep.sodium.pvc.propagation import (
    drawn_noise,
    gtm_weights,
    labbe_weights,
    map_sd,
    purest_weights,
    regional_covariance,
    replica_sd,
    target_weights,
    unmixed_weights,
    yang_weights,
)
from sodiumprep.sodium.pvc.regional import gtm, labbe, region_means, unmixed_values
from sodiumprep.sodium.pvc.shown import SampledRegions
from sodiumprep.sodium.pvc.voxelwise import (
    iterative_yang,
    mtc,
    mueller_gaertner,
    rbv,
    target_mean,
)

reference = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("pvc_reference.py"))))
SHAPE, FACTOR = (16, 16, 16), 3
NAMES = ("GM", "WM", "CSF", "background")
TRUTH = np.array([42.0, 38.0, 145.0, 5.0])
FWHM = {"GM": 2.2, "WM": 2.4, "CSF": 1.9, "background": 2.0}  # voxels
METHODS = ("rbv", "iy", "mtc", "mg")


def kernel(name):
    """Return the kernel of a region on the fine grid; that of fluid has negative side lobes."""
    narrow = reference.gaussian_psf([FWHM[name] * FACTOR] * 3)
    if name != "CSF":
        return narrow
    wide = reference.gaussian_psf([3.2 * FACTOR] * 3)
    return 1.3 * np.pad(narrow, (len(wide) - len(narrow)) // 2) - 0.3 * wide


@cache
def parts():
    """Return fractions and what the image shows of them, sampled and blurred on a finer grid."""
    head = reference.nested_head(SHAPE, FACTOR)
    shown = [reference.blur(head[name], kernel(name)) for name in NAMES]
    fractions = np.stack([reference.block_means(head[name], FACTOR) for name in NAMES])
    return fractions, np.stack([reference.block_means(s, FACTOR) for s in shown])


def head_regions(order=(0, 1, 2, 3), dtype=np.float64):
    fractions, shown = (part[list(order)].astype(dtype) for part in parts())
    return SampledRegions(fractions, shown, [NAMES[i] for i in order])


def exact_image():
    return np.tensordot(TRUTH, parts()[1], 1)


def uneven_image():
    """Return an image that no regional signals explain."""
    slope = 1 + 0.15 * np.sin(np.arange(16) / 4)[:, None, None]
    return exact_image() * slope + np.random.default_rng(5).normal(0, 2, SHAPE)


def corrected(method, image, regions, values=None):
    values = gtm(image, regions, None).values if values is None else values
    if method == "iy":
        return iterative_yang(image, regions, values, 1e-6, 300)
    return {"rbv": rbv, "mtc": mtc}[method](image, regions, values) if method != "mg" else (
        mueller_gaertner(image, regions)
    )  # fmt: skip


def expected(method, image):
    """Return the slow map."""
    values = reference.gtm(image, *parts())
    if method == "iy":
        return reference.iterative_yang(image, *parts(), values, 60)[0]
    if method == "mg":
        others = reference.purest_values(image, parts()[1])
        return reference.mueller_gaertner(image, parts()[1], 0, others)
    return getattr(reference, method)(image, *parts(), values)


def test_the_regional_values_behind_the_maps_are_those_of_the_slow_reference():
    image, regions = uneven_image(), head_regions(dtype=np.float32)
    fast = gtm(image.astype(np.float32), regions, None).values
    np.testing.assert_allclose(fast, reference.gtm(image, *parts()), rtol=1e-3)
    for level, weights in ((None, None), (noise(), noise().noise_sd ** -2)):
        found = labbe(image.astype(np.float32), regions, level).values
        np.testing.assert_allclose(found, reference.labbe(image, parts()[1], weights), rtol=1e-3)
    slow = reference.unmixed(image, parts()[0])
    np.testing.assert_allclose(unmixed_values(image, regions), slow, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_is_that_of_the_slow_reference(method):
    image = uneven_image()
    fast = corrected(method, image.astype(np.float32), head_regions(dtype=np.float32))
    slow = expected(method, image)
    assert np.abs(fast.image - slow).max() < 1e-3 * np.abs(slow).max()
    inside = np.abs(slow) > 5
    np.testing.assert_allclose(fast.image[inside], slow[inside], rtol=1e-3)


@pytest.mark.parametrize("method", ["rbv", "iy", "mtc"])
def test_an_exact_phantom_is_recovered_in_every_voxel(method):
    image = exact_image().astype(np.float32)
    regions = head_regions(dtype=np.float32)
    found = corrected(method, image, regions)
    np.testing.assert_allclose(found.image, regions.composed(TRUTH), rtol=1e-3)
    np.testing.assert_allclose(unmixed_values(found.image, regions), TRUTH, rtol=1e-4)


def test_the_map_of_one_tissue_recovers_it_and_is_zero_elsewhere():
    found = mueller_gaertner(exact_image(), head_regions())
    inside = parts()[1][0] >= 0.2
    np.testing.assert_allclose(found.image[inside], 42.0, rtol=1e-9)
    assert not found.image[~inside].any()
    assert target_mean(found, head_regions()) == pytest.approx(42.0)
    np.testing.assert_allclose(found.values, TRUTH)
    other = mueller_gaertner(exact_image(), head_regions(), "WM")
    assert target_mean(other, head_regions(), "WM") == pytest.approx(38.0)


def test_iterative_yang_reaches_the_truth_from_uncorrected_means():
    image, regions = exact_image(), head_regions()
    start = region_means(image, regions)
    assert abs(start[0] / 42 - 1) > 0.4
    found = iterative_yang(image, regions, start)
    np.testing.assert_allclose(found.values, TRUTH, rtol=1e-3)
    assert found.converged
    assert 5 < found.iterations < 40
    finer = iterative_yang(image, regions, start, 1e-7)
    assert finer.iterations > found.iterations
    np.testing.assert_allclose(finer.values, TRUTH, rtol=1e-6)


def test_iterative_yang_rests_sooner_than_its_own_steps_at_the_same_place():
    image, regions = uneven_image(), head_regions()
    start = region_means(image, regions)
    found = iterative_yang(image, regions, start)
    assert found.converged
    resting = reference.iterative_yang(image, *parts(), TRUTH, 400)[1]
    off = np.abs(found.values - resting).max()
    assert off < 1e-4 * resting.max()
    as_many = reference.iterative_yang(image, *parts(), start, found.iterations)[1]
    assert off < np.abs(as_many - resting).max() / 10


def test_regions_that_only_the_unblurred_fractions_tell_apart_take_steps_of_yang():
    one = (np.indices((8, 8, 8)).sum(axis=0) % 2).astype(float)
    regions = SampledRegions(np.stack([one, 1 - one]), np.full((2, 8, 8, 8), 0.5))
    found = iterative_yang(np.full((8, 8, 8), 7.0), regions, np.array([4.0, 10.0]))
    assert found.converged
    np.testing.assert_allclose(found.values, [4.0, 10.0])
    turned = iterative_yang(np.full((8, 8, 8), 14.0), regions, np.array([4.0, 10.0]))
    np.testing.assert_allclose(turned.values, [8.0, 20.0])


def test_weighted_means_of_soft_fractions_would_come_to_rest_at_wrong_values():
    # as in simulated anatomy: 42 and 145 end near 56 and 88, means of an exact map at 51 and 98
    image, (fractions, shown) = exact_image(), parts()
    usual = reference.iterative_yang(
        image, fractions, shown, TRUTH, 60, reference.weighted_means
    )[1]  # fmt: skip
    assert usual[0] > 42 * 1.3
    assert usual[2] < 145 * 0.75
    of_exact_map = reference.weighted_means(np.tensordot(TRUTH, fractions, 1), fractions)
    assert 42 * 1.15 < of_exact_map[0] < usual[0]
    np.testing.assert_allclose(iterative_yang(image, head_regions(), usual).values, TRUTH, 1e-3)


def test_iterative_yang_that_is_not_at_rest_says_so():
    image, regions = exact_image(), head_regions()
    with pytest.warns(RuntimeWarning, match="not at rest after 2 iterations"):
        found = iterative_yang(image, regions, region_means(image, regions), max_iterations=2)
    assert not found.converged
    assert found.iterations == 2


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_regions_does_not_matter(method):
    order = [2, 0, 3, 1]
    turned = corrected(method, uneven_image(), head_regions(order))
    straight = corrected(method, uneven_image(), head_regions())
    np.testing.assert_allclose(turned.image, straight.image, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(turned.values, straight.values[order], rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_gives_that_constant(method):
    found = corrected(method, 7 * parts()[1].sum(axis=0), head_regions())
    inside = found.by_image > 0
    np.testing.assert_allclose(found.image[inside], 7.0, rtol=1e-6)


@pytest.mark.parametrize("method", ["rbv", "mtc"])
def test_a_map_is_linear_in_the_image_where_the_values_stay(method):
    one, other = exact_image(), uneven_image()
    maps = [corrected(method, i, head_regions(), TRUTH).image for i in (one, other, one * 0)]
    mixed = corrected(method, 2 * one - 3 * other, head_regions(), TRUTH).image
    np.testing.assert_allclose(mixed, 2 * maps[0] - 3 * maps[1] + 2 * maps[2], atol=1e-9)


@pytest.mark.parametrize("method", ["mtc", "mg"])
def test_a_map_with_its_values_is_linear_in_the_image(method):
    one, other = exact_image(), uneven_image()
    maps = [corrected(method, i, head_regions()).image for i in (one, other)]
    mixed = corrected(method, 2 * one - 3 * other, head_regions()).image
    np.testing.assert_allclose(mixed, 2 * maps[0] - 3 * maps[1], atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_brighter_image_gives_a_map_that_is_brighter_by_as_much(method):
    plain, bright = (corrected(method, f * uneven_image(), head_regions()) for f in (1, 1e3))
    np.testing.assert_allclose(bright.image, 1e3 * plain.image, rtol=1e-6)


@pytest.mark.parametrize("method", ["rbv", "iy", "mtc"])
def test_without_blur_an_image_stays_as_it_is(method):
    fractions = parts()[0]
    if method == "mtc":  # in a voxel of several regions its definition counts a residual for each
        fractions = 1.0 * (np.arange(4)[:, None, None, None] == fractions.argmax(axis=0))
    regions = SampledRegions(fractions, fractions, NAMES)
    np.testing.assert_allclose(corrected(method, uneven_image(), regions).image, uneven_image())


def test_nothing_is_divided_by_the_signal_of_air():
    values = np.array([42.0, 38.0, 145.0, 0.0])
    shown = np.tensordot(values, parts()[1], 1)
    image = shown + np.random.default_rng(3).normal(0, 1, SHAPE)
    found = rbv(image, head_regions(), values)
    assert found.n_excepted == np.sum(shown < 0.02 * shown.max()) > 500
    air = np.abs(shown) < 1e-5
    np.testing.assert_allclose(found.image[air], image[air], atol=1e-4)
    assert found.by_image.max() < 4
    assert found.image.min() < 0  # nothing is clipped


def test_a_residual_is_divided_by_no_less_than_a_tenth():
    fractions = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]).reshape(2, 3, 1, 1)
    shown = np.array([[0.05, 0.02, 0.01], [0.95, 0.98, 0.99]]).reshape(2, 3, 1, 1)
    regions, values = SampledRegions(fractions, shown), np.array([100.0, 10.0])
    found = mtc(regions.shown(values) + 1.0, regions, values)
    np.testing.assert_allclose(found.image.ravel()[:2], [110.0, 10 + 1 / 0.98])
    assert found.n_excepted == 1


def noise(level=1.0):
    """Return correlated noise whose level rises along one axis."""
    axes = [np.fft.fftfreq(32), np.fft.fftfreq(32), np.fft.rfftfreq(32)]
    squares = sum(a**2 for a in np.meshgrid(*axes, indexing="ij"))
    power = np.exp(-2 * (np.pi * 0.8) ** 2 * squares)
    spectrum = power / np.fft.irfftn(power, (32, 32, 32), (0, 1, 2))[0, 0, 0]
    return ImageNoise(level * (1 + 0.5 * np.arange(16) / 16) * np.ones(SHAPE), spectrum)


@cache
def noise_draws(n=200):
    rng = np.random.default_rng(7)
    white = rng.standard_normal((n, 32, 32, 32), np.float32)
    wide = np.fft.rfftn(white, axes=(1, 2, 3)) * np.sqrt(noise().spectrum).astype(np.float32)
    return np.fft.irfftn(wide, (32, 32, 32), axes=(1, 2, 3))[:, :16, :16, :16] * noise().noise_sd


def fed_values(feed, image):
    if feed == "gtm":
        return gtm(image, head_regions(), None).values
    # the weights of Labbé without the covariance
    weights = labbe_weights(head_regions(), noise())
    return np.array([np.sum(weights(one) * image) for one in np.eye(4)])


def test_the_weights_behind_regional_values_give_them():
    image, regions = uneven_image(), head_regions()
    for weights, values in (
        (gtm_weights(regions), gtm(image, regions, None).values),
        (labbe_weights(regions, None), labbe(image, regions, None).values),
        (labbe_weights(regions, noise()), labbe(image, regions, noise()).values),
        (purest_weights(regions, "GM"), mueller_gaertner(image, regions).values * [0, 1, 1, 1]),
    ):
        np.testing.assert_allclose(
            [np.sum(weights(one) * image) for one in np.eye(4)], values, rtol=1e-6
        )


@pytest.mark.parametrize(
    ("method", "feed"),
    [("rbv", "gtm"), ("mtc", "labbe"), ("mg", ""), ("iy", "")],
)
def test_the_deviation_of_a_map_and_of_its_values_is_that_of_draws(method, feed):
    regions, image = head_regions(), exact_image()
    found = corrected(method, image, regions, fed_values(feed or "gtm", image))
    weights = {
        "gtm": lambda: gtm_weights(regions),
        "labbe": lambda: labbe_weights(regions, noise()),
        "": lambda: purest_weights(regions, "GM") if method == "mg" else (
            yang_weights(found, regions)
        ),
    }[feed]()  # fmt: skip
    maps = [
        corrected(method, i, regions, fed_values(feed or "gtm", i)).image
        for i in image + noise_draws()
    ]
    stated, seen = map_sd(found, regions, weights, noise()), np.std(maps, axis=0, ddof=1)
    in_head = (parts()[0][3] < 0.5) & (found.by_image > 0)
    ratio = stated[in_head] / seen[in_head]
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    assert np.percentile(np.abs(ratio - 1), 95) < 0.15
    if method == "mg":
        row = target_weights(found, regions, weights, "GM")
        values = [[np.sum(parts()[0][0] * m) / np.sum(parts()[0][0] * (found.by_image > 0))]
                  for m in maps]  # fmt: skip
    else:
        row = unmixed_weights(found, regions, weights)
        values = [unmixed_values(m, regions) for m in maps]
    sd = np.sqrt(np.diag(regional_covariance(row, len(values[0]), noise())))
    np.testing.assert_allclose(sd, np.std(values, axis=0, ddof=1), rtol=0.15)


def test_the_noise_of_regional_values_is_part_of_the_deviation_of_a_map():
    regions = head_regions()
    found = corrected("rbv", exact_image(), regions)
    full = map_sd(found, regions, gtm_weights(regions), noise())
    alone = found.by_image * noise().noise_sd
    assert np.abs(full / alone - 1)[parts()[0][3] < 0.5].max() > 0.1


@pytest.mark.parametrize("turns", [0, 2])
def test_the_deviation_of_a_voxel_is_that_of_the_sum_over_the_image_that_it_is(turns):
    regions, phase = head_regions(), 2 * np.pi * turns * np.indices(SHAPE)[0] / 16
    wound = replace(noise(), modes=np.stack([np.cos(phase), np.sin(phase)]))
    found = corrected("rbv", exact_image(), regions)
    values = np.stack([gtm_weights(regions)(one) for one in np.eye(len(regions.names))])
    sd = map_sd(found, regions, gtm_weights(regions), wound)
    for voxel in ((5, 8, 8), (8, 8, 8), (8, 4, 9), (11, 9, 6)):
        change = [found.by_fraction[voxel] * m[voxel] + found.by_shown[voxel] * b[voxel]
                  for m, b in regions.each()]  # fmt: skip
        row = np.tensordot(change, values, 1)
        row[voxel] += found.by_image[voxel]
        variance = weighted_covariance(row[None], wound)[0, 0]
        assert sd[voxel] == pytest.approx(np.sqrt(variance), rel=1e-3)
    still = map_sd(found, regions, gtm_weights(regions), noise())
    assert (np.abs(sd / still - 1).max() > 0.01) == (turns > 0)


def test_the_values_of_iterative_yang_have_the_noise_of_what_is_unmixed_from_its_map():
    regions = head_regions()
    found = corrected("iy", exact_image(), regions)
    weights = yang_weights(found, regions)
    again = unmixed_weights(found, regions, weights)
    np.testing.assert_allclose(again(TRUTH), weights(TRUTH), rtol=1e-3, atol=1e-6)


def test_regions_that_are_fixed_keep_their_signal_and_the_others_find_theirs():
    regions, last = head_regions(), head_regions().names[-1]
    start = gtm(exact_image(), regions, None).values
    found = iterative_yang(exact_image(), regions, start, 1e-7, fixed=[last])
    assert found.values[-1] == start[-1]
    np.testing.assert_allclose(found.values, TRUTH, rtol=1e-3)
    wrong = iterative_yang(exact_image(), regions, start + 3.0 * np.eye(4)[3], 1e-7, fixed=[last])
    assert wrong.values[-1] == pytest.approx(start[-1] + 3)


def test_the_weights_behind_partly_fixed_signals_follow_the_image():
    regions, fixed = head_regions(), [head_regions().names[-1]]

    def values(image):
        start = gtm(image, regions, None).values
        return iterative_yang(image, regions, start, 1e-9, 400, fixed).values

    image = exact_image()
    start = gtm(image, regions, None).values
    found = iterative_yang(image, regions, start, 1e-9, 400, fixed)
    weights = yang_weights(found, regions, fixed, gtm_weights(regions))
    step = 0.02 * noise_draws()[0]
    change = (values(image + step) - values(image - step)) / 2
    stated = [np.sum(weights(one) * step) for one in np.eye(4)]
    np.testing.assert_allclose(stated, change, rtol=0.02, atol=0.02 * np.abs(change).max())


def test_fixed_regions_must_exist_leave_one_free_and_have_weights():
    regions = head_regions()
    with pytest.raises(ValueError, match="there is no region 'x'"):
        iterative_yang(exact_image(), regions, TRUTH, fixed=["x"])
    with pytest.raises(ValueError, match="at least one must be free"):
        iterative_yang(exact_image(), regions, TRUTH, fixed=regions.names)
    found = iterative_yang(exact_image(), regions, TRUTH, fixed=regions.names[-1:])
    with pytest.raises(ValueError, match="give the weights"):
        yang_weights(found, regions, regions.names[-1:])


def test_drawn_noise_has_the_level_and_the_correlation_that_are_stated():
    rng = np.random.default_rng(11)
    drawn = np.stack([drawn_noise(noise(2.0), rng) for _ in range(150)]) / noise(2.0).noise_sd
    correlation = np.fft.irfftn(noise().spectrum, (32, 32, 32), (0, 1, 2))
    assert np.mean(drawn**2) == pytest.approx(1, abs=0.02)
    beside = np.mean(drawn[:, 1:] * drawn[:, :-1])
    assert beside == pytest.approx(correlation[1, 0, 0], abs=0.02)
    assert np.mean(drawn[:, 0] * drawn[:, -1]) == pytest.approx(0, abs=0.03)  # no wrap-around


def test_replicas_find_the_deviation_of_a_linear_map():
    found = replica_sd(lambda i: 3 * i, exact_image(), noise(), 100, np.random.default_rng(2))
    assert np.median(found / (3 * noise().noise_sd)) == pytest.approx(1, abs=0.03)
    with pytest.raises(ValueError, match="3 draws of the noise"):
        replica_sd(lambda i: i, exact_image(), noise(), 3, np.random.default_rng(2))


@pytest.mark.parametrize("method", METHODS)
def test_an_image_with_holes_is_refused(method):
    image = exact_image()
    image[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match="1 values of the image are not finite"):
        corrected(method, image, head_regions(), TRUTH)


@pytest.mark.parametrize("method", ["rbv", "iy", "mtc"])
def test_values_that_do_not_belong_to_the_regions_are_refused(method):
    with pytest.raises(ValueError, match=r"values of shape \(3,\) for 4 regions"):
        corrected(method, exact_image(), head_regions(), TRUTH[:3])
    with pytest.raises(ValueError, match="1 values of the regional values are not finite"):
        corrected(method, exact_image(), head_regions(), TRUTH * [1, 1, np.nan, 1])


def test_iterative_yang_without_iterations_is_refused():
    with pytest.raises(ValueError, match="0 iterations of Yang's correction"):
        iterative_yang(exact_image(), head_regions(), TRUTH, max_iterations=0)


def test_a_map_of_one_tissue_without_fluid_is_refused():
    fractions, shown = (
        np.stack([part[0], part[1], part[2] + part[3]]) for part in parts()
    )  # fmt: skip
    image = exact_image()
    without = SampledRegions(fractions, shown, ["GM", "WM", "background"])
    with pytest.raises(ValueError, match="needs a region 'CSF', but the regions are GM, WM, back"):
        mueller_gaertner(image, without)
    with pytest.raises(ValueError, match="fluid, another tissue and background"):
        mueller_gaertner(image, without, "GM", "WM")
    with pytest.raises(ValueError, match="target 'CSF' and fluid 'CSF' of 4 regions"):
        mueller_gaertner(image, head_regions(), "CSF")
    values = reference.purest_values(image, shown)
    wrong = reference.mueller_gaertner(image, shown, 0, values)
    assert np.mean(wrong[shown[0] >= 0.2]) > 1.5 * 42  # what it is refused for


def test_regions_without_a_pure_voxel_of_their_own_are_refused():
    fractions, shown = (np.repeat(p, [2, 1, 1, 1], axis=0) for p in parts())
    fractions, shown = fractions.copy(), shown.copy()
    for part in (fractions, shown):
        part[:2] /= 2
    regions = SampledRegions(fractions, shown, ["left", "GM", "WM", "CSF", "background"])
    with pytest.raises(ValueError, match="purest voxels do not tell the regions apart"):
        mueller_gaertner(exact_image(), regions)
    with pytest.raises(ValueError, match="unblurred fractions do not tell the regions apart"):
        iterative_yang(exact_image(), regions, np.ones(5))
