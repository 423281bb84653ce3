"""The geometric transfer matrix recovers an exact phantom and knows its noise."""

from functools import cache

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.kernel import blur, gaussian_transfer
from sodiumprep.sodium.noise import normalized_spectrum
from sodiumprep.sodium.pvc import (
    check_regions,
    geometric_transfer_matrix,
    kernel_change,
    mixing_matrix,
    region_means,
    registration_changes,
    solve_mixing,
)

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
def phantom():
    return np.tensordot(TRUTH, blurred(), 1)


def correct(image=None, order=slice(None), spread=None, spectrum=WHITE, sd=1.0):
    image = phantom() if image is None else image
    spread = blurred() if spread is None else spread
    noise_sd = np.full(SHAPE, sd)
    return geometric_transfer_matrix(image, fractions()[order], spread[order], noise_sd, spectrum)


def test_an_exact_phantom_with_a_kernel_for_each_region_is_recovered():
    estimate = correct()
    np.testing.assert_allclose(estimate.values, TRUTH, rtol=1e-4)
    assert np.abs(region_means(phantom(), fractions()) / TRUTH - 1)[0] > 0.25  # uncorrected
    assert 1 < estimate.condition_number < 20


def test_single_precision_recovers_the_phantom_too():
    parts = fractions().astype(np.float32), blurred().astype(np.float32)
    estimate = geometric_transfer_matrix(
        phantom().astype(np.float32), *parts, np.ones(SHAPE, np.float32), WHITE
    )
    np.testing.assert_allclose(estimate.values, TRUTH, rtol=1e-4)


def test_one_kernel_for_all_leaves_a_bias_where_there_are_several():
    wrong = np.stack([blur(f, transfers()[0]) for f in fractions()])
    assert np.abs(correct(spread=wrong).values - TRUTH).max() > 0.5


def test_a_constant_image_gives_that_constant_everywhere():
    transfer = transfers()[0]
    spread = np.stack([blur(f, transfer) for f in fractions()])
    constant = blur(np.full(SHAPE, 7.0), transfer)
    np.testing.assert_allclose(correct(constant, spread=spread).values, 7.0, rtol=1e-6)


def test_the_order_of_the_regions_does_not_matter():
    order = [2, 0, 3, 1]
    turned, straight = correct(order=order), correct()
    np.testing.assert_allclose(turned.values, straight.values[order])
    np.testing.assert_allclose(turned.covariance, straight.covariance[np.ix_(order, order)])


def test_regional_values_are_linear_in_the_image():
    other = np.random.default_rng(0).normal(size=SHAPE)
    together = correct(2 * phantom() - 3 * other).values
    np.testing.assert_allclose(together, 2 * correct().values - 3 * correct(other).values)


@pytest.mark.parametrize("kind", ["white", "correlated"])
def test_the_noise_covariance_is_that_of_draws(kind):
    power = WHITE if kind == "white" else gaussian_transfer(GRID, np.full(3, 8e-3)) ** 2
    spectrum = normalized_spectrum(power, (32, 32, 32))
    stated = correct(spectrum=spectrum, sd=2.0)
    rng, inverse = np.random.default_rng(0), np.linalg.inv(stated.mixing)
    wide = np.fft.rfftn(rng.normal(0, 2, (200, 32, 32, 32)), axes=(1, 2, 3)) * np.sqrt(spectrum)
    noise = np.fft.irfftn(wide, (32, 32, 32), axes=(1, 2, 3))[:, :16, :16, :16]
    drawn = np.array([inverse @ region_means(n, fractions()) for n in noise])
    ratio = np.cov(drawn.T) / stated.covariance
    np.testing.assert_allclose(np.diag(ratio), 1.0, atol=0.3)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(
        stated.covariance[0, 1] / np.sqrt(stated.covariance[0, 0] * stated.covariance[1, 1]),
        abs=0.15,
    )


def test_without_blur_the_regions_of_a_partition_do_not_mix():
    hard = (fractions() == fractions().max(axis=0)).astype(float)
    np.testing.assert_allclose(mixing_matrix(hard, hard), np.eye(4), atol=1e-12)


def test_means_are_weighted_by_fractions():
    image, weights = np.array([[[1.0, 5.0]]]), np.array([[[[0.25, 0.75]]]])
    assert region_means(image, weights)[0] == pytest.approx(4.0)


def test_solving_undoes_the_mixing():
    mixing = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]])
    np.testing.assert_allclose(solve_mixing(mixing @ TRUTH[:3], mixing), TRUTH[:3])


def test_a_wider_kernel_changes_the_values_as_a_new_correction_would():
    fwhm = np.full(3, 2.2)
    same = np.stack([blur(f, transfers()[0]) for f in fractions()])
    wide_kernel = gaussian_transfer(GRID, fwhm * 1.05 * 4e-3)
    wide = np.stack([blur(f, wide_kernel) for f in fractions()])
    image = np.tensordot(TRUTH, same, 1)
    expected = correct(image, spread=wide).values - correct(image, spread=same).values
    change = kernel_change(image, fractions(), same, fwhm, 0.05)
    np.testing.assert_allclose(change[:3], expected[:3], rtol=0.15)
    assert change[2] > 0  # more blur to undo: the bright fluid becomes brighter
    assert change[1] < 0  # and takes from the tissue beside it


def test_a_displaced_image_changes_the_values_by_what_is_stated():
    image = phantom()
    mixing = mixing_matrix(fractions(), blurred())
    stated = registration_changes(image, fractions(), mixing, np.array([0.3, 0.3, 0.3]))
    moved = np.tensordot(TRUTH, blurred(), 1)
    axis = np.fft.fftfreq(16)[:, None, None]
    moved = np.fft.ifftn(np.fft.fftn(moved) * np.exp(-2j * np.pi * axis * 0.3)).real
    expected = solve_mixing(region_means(moved, fractions()), mixing) - TRUTH
    np.testing.assert_allclose(stated[0], np.abs(expected), rtol=0.05, atol=0.02)
    assert stated.shape == (3, 4)
    np.testing.assert_allclose(stated[0], stated[1], rtol=1e-6)


def test_no_displacement_changes_nothing():
    changes = registration_changes(phantom(), fractions(), np.eye(4), np.zeros(3))
    np.testing.assert_allclose(changes, 0, atol=1e-9)


def test_an_unknown_displacement_is_not_determined():
    changes = registration_changes(phantom(), fractions(), np.eye(4), np.full(3, np.nan))
    assert np.isnan(changes).all()


def spoiled(what):
    parts, spread, image = fractions(), blurred(), phantom().copy()
    if what == "shape":
        return parts[:, :8], spread, image
    if what == "nan":
        image[1, 2, 3] = np.nan
    elif what == "range":
        parts[0, 8, 8, 8], parts[1, 8, 8, 8] = -0.2, parts[1, 8, 8, 8] + 0.2
    elif what == "sum":
        parts = parts[:3]
        spread = spread[:3]
    elif what == "empty":
        parts = np.concatenate([parts, np.zeros((1, *SHAPE))])
        spread = np.concatenate([spread, np.zeros((1, *SHAPE))])
    return parts, spread, image


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("shape", "shapes differ"),
        ("nan", "the image holds 1 values not finite"),
        ("range", r"fractions from -0.2"),
        ("sum", "must sum to 1"),
        ("empty", r"region 4 holds 0.00 voxels"),
    ],
)
def test_regions_without_meaning_are_refused(what, message):
    with pytest.raises(ValueError, match=message):
        check_regions(*spoiled(what))


def test_regions_that_cannot_be_told_apart_are_refused():
    halves = np.stack([np.full(SHAPE, 0.5), np.full(SHAPE, 0.5)])
    with pytest.raises(ValueError, match="cannot be told apart"):
        geometric_transfer_matrix(np.ones(SHAPE), halves, halves, np.ones(SHAPE), WHITE)
