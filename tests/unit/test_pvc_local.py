"""Local regression follows a tissue that varies, agrees with brute force and knows its noise."""

import runpy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.local import (
    LocalRegression,
    gaussian_neighbourhood,
    local_sd,
)
from sodiumprep.sodium.pvc.propagation import gtm_weights
from sodiumprep.sodium.pvc.regional import gtm
from sodiumprep.sodium.pvc.shown import SampledRegions
from sodiumprep.sodium.pvc.voxelwise import iterative_yang, rbv

reference = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("pvc_reference.py"))))
SHAPE, FACTOR = (16, 16, 16), 3
NAMES = ("GM", "WM", "CSF", "background")
TISSUES = ["GM", "WM", "CSF"]
TRUTH = np.array([42.0, 38.0, 145.0, 5.0])
FWHM = (2.2, 2.4, 1.9, 2.0)  # voxels, one kernel for each region
SMALL = gaussian_neighbourhood([3, 3, 3])


def shown_of(fine, region):
    psf = reference.gaussian_psf([FWHM[region] * FACTOR] * 3)
    return reference.block_means(reference.blur(fine, psf), FACTOR)


@cache
def parts():
    head = reference.nested_head(SHAPE, FACTOR)
    fractions = np.stack([reference.block_means(head[name], FACTOR) for name in NAMES])
    return fractions, np.stack([shown_of(head[name], i) for i, name in enumerate(NAMES)])


def head_regions(order=(0, 1, 2, 3), dtype=np.float64):
    fractions, shown = (part[list(order)].astype(dtype) for part in parts())
    return SampledRegions(fractions, shown, [NAMES[i] for i in order])


def exact_image():
    return np.tensordot(TRUTH, parts()[1], 1)


@cache
def varying():
    """Return an image whose cortex is 37 % brighter on one side, its map, and its cortex."""
    head = reference.nested_head(SHAPE, FACTOR)
    cortex = 42 * (1 + 0.25 * np.sin(np.linspace(-1.5, 1.5, 16 * FACTOR)))[:, None, None]
    fine = [head["GM"] * cortex, *(TRUTH[i] * head[NAMES[i]] for i in (1, 2, 3))]
    image = sum(shown_of(part, i) for i, part in enumerate(fine))
    level = reference.block_means(cortex * np.ones_like(head["GM"]), FACTOR)
    return image, reference.block_means(sum(fine), FACTOR), level


def rms(difference):
    """Return the root mean square inside the head."""
    return np.sqrt(np.mean(difference[parts()[0][3] < 0.5] ** 2))


@pytest.mark.parametrize("local", [TISSUES, ["GM"]])
def test_local_signals_are_those_of_brute_force_in_every_neighbourhood(local):
    image = varying()[0] + np.random.default_rng(5).normal(0, 2, SHAPE)
    values = np.array([45.0, 36.0, 140.0, 4.0])
    regions = head_regions(dtype=np.float32)
    profiles = [*gaussian_neighbourhood([2, 3, 2.5])[:2], np.full(3, 1 / 3)]
    fast = LocalRegression(regions, local, profiles, 0.02)(image.astype(np.float32), values)
    voxels = [tuple(v) for v in np.random.default_rng(1).integers(0, 16, (300, 3))]
    slow = reference.local_regression(
        image, parts()[1], values, [NAMES.index(n) for n in local], profiles, 0.02, voxels
    )
    found = np.stack([fast.signals[(slice(None), *v)] for v in voxels], axis=1)
    np.testing.assert_allclose(found, slow, rtol=1e-3, atol=1e-3)
    assert fast.image.dtype == np.float32


def test_an_exact_phantom_is_recovered():
    image, regions = exact_image(), head_regions()
    found = LocalRegression(regions, TISSUES, SMALL)(image, gtm(image, regions, None).values)
    np.testing.assert_allclose(found.image, np.tensordot(TRUTH, parts()[0], 1), rtol=1e-6)
    for signal, value in zip(found.signals, TRUTH, strict=False):
        np.testing.assert_allclose(signal, value, rtol=1e-6)


def test_a_weak_prior_lets_the_data_speak_where_a_tissue_is_and_holds_it_where_it_is_not():
    wrong = TRUTH * [1.1, 1, 1, 1]
    found = LocalRegression(head_regions(), TISSUES, SMALL, 1e-5)(exact_image(), wrong)
    cortex = found.signals[0]
    np.testing.assert_allclose(cortex[parts()[0][0] > 0.5], 42.0, rtol=1e-3)
    assert cortex[0, 0, 0] == pytest.approx(42 * 1.1, rel=1e-3)  # no cortex near
    stronger = LocalRegression(head_regions(), TISSUES, SMALL, 1.0)(exact_image(), wrong)
    assert np.all(stronger.signals[0][parts()[0][0] > 0.5] > 43.5)


def test_a_tissue_that_fills_the_neighbourhood_is_drawn_by_the_stated_share():
    whole = np.stack([np.ones((9, 9, 9)), np.zeros((9, 9, 9))])
    whole[:, 0, 0, 0] = 0, 1
    regions = SampledRegions(whole, whole, ["tissue", "vial"])
    found = LocalRegression(regions, ["tissue"], gaussian_neighbourhood([2, 2, 2]), 0.25)
    there = found(50 * whole[0], np.array([40.0, 0.0])).signals[0, 4, 4, 4]
    assert there == pytest.approx(50 - 10 * 0.25 / 1.25)


def test_a_slow_variation_is_followed_better_than_with_one_value_for_the_tissue():
    image, truth, level = varying()
    regions = head_regions()
    values = gtm(image, regions, None).values
    found = LocalRegression(regions, TISSUES, SMALL)(image, values)
    assert rms(found.image - truth) < 0.5 * rms(rbv(image, regions, values).image - truth)
    assert rms(found.image - truth) < 0.5 * rms(
        iterative_yang(image, regions, values).image - truth
    )
    cortex = parts()[0][0] > 0.3
    local_error = np.sqrt(np.mean((found.signals[0] - level)[cortex] ** 2))
    assert local_error < 0.35 * np.sqrt(np.mean((values[0] - level)[cortex] ** 2))


def test_a_larger_neighbourhood_smooths_the_local_signal():
    image, _, _ = varying()
    values = gtm(image, head_regions(), None).values
    cortex = parts()[0][0] > 0.3
    spans = [
        np.ptp(LocalRegression(head_regions(), TISSUES, gaussian_neighbourhood([w] * 3))(
            image, values).signals[0][cortex])
        for w in (2, 8)
    ]  # fmt: skip
    assert spans[1] < 0.8 * spans[0]


def test_the_order_of_the_regions_does_not_matter():
    image, values = varying()[0], np.array([45.0, 36.0, 140.0, 4.0])
    order = [2, 0, 3, 1]
    straight = LocalRegression(head_regions(), TISSUES, SMALL)(image, values)
    turned = LocalRegression(head_regions(order), ["CSF", "GM", "WM"], SMALL)(image, values[order])
    np.testing.assert_allclose(turned.image, straight.image, rtol=1e-9)
    np.testing.assert_allclose(turned.signals, straight.signals[[2, 0, 1]], rtol=1e-9)
    assert turned.names == ("CSF", "GM", "WM")


def test_local_maps_are_linear_in_image_and_values():
    one, other = varying()[0], np.random.default_rng(0).normal(size=SHAPE)
    regression = LocalRegression(head_regions(), TISSUES, SMALL)
    values = TRUTH, np.array([1.0, -2.0, 3.0, 0.5])
    maps = [regression(i, v) for i, v in zip((one, other), values, strict=True)]
    mixed = regression(2 * one - 3 * other, 2 * values[0] - 3 * values[1])
    np.testing.assert_allclose(mixed.image, 2 * maps[0].image - 3 * maps[1].image, atol=1e-9)
    np.testing.assert_allclose(mixed.signals, 2 * maps[0].signals - 3 * maps[1].signals, atol=1e-9)


def test_a_constant_gives_that_constant():
    image = 7 * parts()[1].sum(axis=0)
    found = LocalRegression(head_regions(), TISSUES, SMALL)(image, np.full(4, 7.0))
    np.testing.assert_allclose(found.image, 7.0, rtol=1e-9)


def noise():
    axes = [np.fft.fftfreq(32), np.fft.fftfreq(32), np.fft.rfftfreq(32)]
    squares = sum(a**2 for a in np.meshgrid(*axes, indexing="ij"))
    power = np.exp(-2 * (np.pi * 0.8) ** 2 * squares)
    spectrum = power / np.fft.irfftn(power, (32, 32, 32), (0, 1, 2))[0, 0, 0]
    return ImageNoise((1 + 0.5 * np.arange(16) / 16) * np.ones(SHAPE), spectrum)


def test_the_deviation_of_local_maps_is_that_of_draws():
    regions, rng = head_regions(), np.random.default_rng(8)
    regression = LocalRegression(regions, TISSUES, SMALL)
    stated = local_sd(regression, gtm_weights(regions), noise(), 200, np.random.default_rng(3))
    root = np.sqrt(noise().spectrum)
    maps = []
    for _ in range(200):
        white = np.fft.rfftn(rng.normal(size=(32, 32, 32)), axes=(0, 1, 2))
        drawn = np.fft.irfftn(white * root, (32, 32, 32), (0, 1, 2))[:16, :16, :16]
        image = exact_image() + drawn * noise().noise_sd
        maps.append(regression(image, gtm(image, regions, None).values))
    head = parts()[0][3] < 0.5
    ratio = stated.image[head] / np.std([m.image for m in maps], axis=0, ddof=1)[head]
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    for i, signal in enumerate(stated.signals):
        seen = np.std([m.signals[i] for m in maps], axis=0, ddof=1)
        assert np.median(signal[head] / seen[head]) == pytest.approx(1, abs=0.05)


def test_an_image_with_holes_is_refused():
    image = exact_image()
    image[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="the image holds 1 values that are not finite"):
        LocalRegression(head_regions(), TISSUES, SMALL)(image, TRUTH)


@pytest.mark.parametrize(
    ("local", "profiles", "prior", "message"),
    [
        (["GM", "lesion"], SMALL, 0.01, "there is no region 'lesion'; accepted: GM, WM, CSF"),
        (["GM", "GM"], SMALL, 0.01, r"2 local regions \(1 different ones\)"),
        ([], SMALL, 0.01, "0 local regions"),
        (["GM"], SMALL, 0.0, "a prior of 0; accepted: above 0"),
        (["GM"], [np.ones(4) / 4] * 3, 0.01, r"lengths \[4, 4, 4\]; accepted: three odd"),
        (["GM"], SMALL[:2], 0.01, "accepted: three odd lengths"),
    ],
)
def test_a_choice_without_meaning_is_refused(local, profiles, prior, message):
    with pytest.raises(ValueError, match=message):
        LocalRegression(head_regions(), local, profiles, prior)


def test_a_neighbourhood_of_no_width_is_refused():
    with pytest.raises(ValueError, match="a neighbourhood of 0 voxels"):
        gaussian_neighbourhood([3, 0, 3])
