"""Deconvolution agrees with slow references, keeps the amount and knows its noise."""

import runpy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sodiumprep.sodium.kernel import to_transfer
from sodiumprep.sodium.noise import ImageNoise, weighted_covariance
from sodiumprep.sodium.pvc.deconvolution import (
    reblurred_van_cittert,
    richardson_lucy,
    van_cittert_noise,
    van_cittert_transfer,
)
from sodiumprep.sodium.pvc.propagation import drawn_noise, replica_sd

reference = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("pvc_reference.py"))))
SHAPE = (16, 14, 18)
NO_BLUR = np.ones((32, 28, 19))


def kernel(kind="skewed"):
    """Return a kernel on an odd grid, with no symmetry, or with negative side lobes."""
    narrow = reference.gaussian_psf([2.0, 1.8, 2.2])
    if kind == "gaussian":
        return narrow
    if kind == "lobes":
        wide = reference.gaussian_psf([3.4, 3.0, 3.6])
        margins = [(w - n) // 2 for w, n in zip(wide.shape, narrow.shape, strict=True)]
        return 1.4 * np.pad(narrow, [(m, m) for m in margins]) - 0.4 * wide
    skewed = narrow * np.linspace(0.5, 1.5, narrow.shape[0])[:, None, None]
    return skewed / skewed.sum()


def transfer(kind="skewed"):
    psf = kernel(kind)
    margins = [(n - k // 2, n - k + k // 2) for n, k in zip(SHAPE, psf.shape, strict=True)]
    return to_transfer(np.pad(psf, margins)).astype(np.complex64)


@cache
def head():
    parts = reference.nested_head(SHAPE, 3).values()
    levels = (42.0, 38.0, 145.0, 9.0)
    return sum(v * reference.block_means(p, 3) for v, p in zip(levels, parts, strict=True))


def blurred_head(kind="skewed", dtype=np.float32):
    return reference.blur(head(), kernel(kind)).astype(dtype)


def bump():
    """Return a smooth object that lies well inside the field of view."""
    profiles = [np.exp(-0.5 * ((np.arange(n) - n // 2) / 1.2) ** 2) for n in SHAPE]
    return 100 * np.einsum("i,j,k->ijk", *profiles)


def error(image):
    return np.linalg.norm(image - head()) / np.linalg.norm(head())


@pytest.mark.parametrize("kind", ["skewed", "lobes"])
def test_richardson_lucy_is_the_slow_reference(kind):
    image = blurred_head(kind)
    fast = richardson_lucy(image, transfer(kind), 12, 0)
    slow = reference.richardson_lucy(image, kernel(kind), 12)
    np.testing.assert_allclose(fast.image, slow, rtol=1e-3, atol=1e-3)
    assert fast.image.dtype == np.float32


@pytest.mark.parametrize("kind", ["skewed", "lobes"])
def test_van_cittert_is_the_slow_reference(kind):
    image = blurred_head(kind)
    fast = reblurred_van_cittert(image, transfer(kind), 1.2, 12, 0)
    slow = reference.reblurred_van_cittert(image, kernel(kind), 1.2, 12)
    np.testing.assert_allclose(fast.image, slow, rtol=1e-3, atol=0.05)
    assert fast.image.dtype == np.float32


@pytest.mark.parametrize("method", [richardson_lucy, reblurred_van_cittert])
@pytest.mark.parametrize("kind", ["skewed", "lobes"])
def test_deconvolution_comes_nearer_to_the_object_and_to_the_data(method, kind):
    image = blurred_head(kind)
    few, many = (method(image, transfer(kind), iterations=n, tolerance=0) for n in (10, 60))
    assert error(many.image) < error(few.image) < error(image)
    assert error(many.image) < 0.6 * error(image)
    again = reference.blur(many.image, kernel(kind))
    assert np.linalg.norm(again - image) < 0.02 * np.linalg.norm(image)


@pytest.mark.parametrize("method", [richardson_lucy, reblurred_van_cittert])
def test_without_blur_an_image_stays_as_it_is(method):
    found = method(blurred_head(), NO_BLUR)
    np.testing.assert_allclose(found.image, blurred_head(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [richardson_lucy, reblurred_van_cittert])
@pytest.mark.parametrize("kind", ["gaussian", "lobes"])
def test_the_amount_of_an_object_inside_the_field_of_view_is_kept(method, kind):
    image = np.maximum(reference.blur(bump(), kernel(kind)), 0)
    found = method(image, transfer(kind), iterations=60, tolerance=0)
    assert found.image.sum() == pytest.approx(image.sum(), rel=2e-3)


def test_every_iteration_of_richardson_lucy_keeps_the_amount_that_is_seen():
    image = blurred_head(dtype=np.float64)
    for iterations in (1, 2, 7):
        found = richardson_lucy(image, transfer().astype(np.complex128), iterations, 0)
        seen = reference.blur(found.image, kernel())
        assert seen.sum() == pytest.approx(image.sum(), rel=1e-5)


@pytest.mark.parametrize("method", [richardson_lucy, reblurred_van_cittert])
def test_a_constant_stays_constant_away_from_the_borders(method):
    image = reference.blur(np.full(SHAPE, 7.0), kernel("gaussian"))
    found = method(image, transfer("gaussian"), iterations=4, tolerance=0)
    np.testing.assert_allclose(found.image[6:-6, 6:-6, 6:-6], 7.0, rtol=5e-3)


def test_van_cittert_is_linear_in_the_image():
    one, other = blurred_head(dtype=np.float64), np.random.default_rng(0).normal(size=SHAPE)
    maps = [reblurred_van_cittert(i, transfer(), 1.2, 9, 0).image for i in (one, other)]
    mixed = reblurred_van_cittert(2 * one - 3 * other, transfer(), 1.2, 9, 0).image
    np.testing.assert_allclose(mixed, 2 * maps[0] - 3 * maps[1], atol=1e-6)


def test_richardson_lucy_of_a_brighter_image_is_brighter_by_as_much():
    image = blurred_head(dtype=np.float64)
    plain, bright = (richardson_lucy(f * image, transfer(), 9, 0) for f in (1, 1e3))
    np.testing.assert_allclose(bright.image, 1e3 * plain.image, rtol=1e-6)


@pytest.mark.parametrize("method", [richardson_lucy, reblurred_van_cittert])
def test_a_looser_tolerance_stops_earlier(method):
    loose, tight = (
        method(blurred_head(), transfer(), iterations=200, tolerance=t) for t in (1e-2, 2e-3)
    )
    assert 1 < loose.iterations < tight.iterations < 200
    assert loose.change <= 1e-2
    assert tight.change <= 2e-3


def test_negative_voxels_are_refused_by_richardson_lucy_or_counted():
    image = blurred_head()
    image[:2, 0, 0] = -3
    with pytest.raises(ValueError, match=r"2 voxels of the image are negative \(down to -3\)"):
        richardson_lucy(image, transfer())
    found = richardson_lucy(image, transfer(), negative_as_zero=True)
    assert found.n_negative == 2
    assert found.image.min() >= 0
    np.testing.assert_allclose(
        found.image, richardson_lucy(np.maximum(image, 0), transfer()).image
    )


def test_van_cittert_takes_what_is_negative():
    image = blurred_head() - 60
    found = reblurred_van_cittert(image, transfer("gaussian"), tolerance=0)
    assert found.image.min() < image.min()
    assert found.n_negative == 0


def noise():
    axes = [np.fft.fftfreq(32), np.fft.fftfreq(28), np.fft.rfftfreq(36)]
    squares = sum(a**2 for a in np.meshgrid(*axes, indexing="ij"))
    power = np.exp(-2 * (np.pi * 0.7) ** 2 * squares)
    spectrum = power / np.fft.irfftn(power, (32, 28, 36), (0, 1, 2))[0, 0, 0]
    return ImageNoise(np.full(SHAPE, 2.0), spectrum)


@pytest.mark.parametrize("kind", ["skewed", "lobes"])
def test_the_noise_of_van_cittert_is_that_of_its_response_to_a_point(kind):
    point = np.zeros(SHAPE)
    point[8, 7, 9] = 1.0
    response = reblurred_van_cittert(point, transfer(kind), 1.2, 4, 0).image
    sd = np.sqrt(weighted_covariance(response[None], noise()))
    stated = van_cittert_noise(noise(), transfer(kind), 1.2, 4).noise_sd
    np.testing.assert_allclose(stated, sd[0, 0], rtol=2e-3)
    assert stated.min() > 2 * 1.2  # sharper means noisier


def test_the_noise_of_van_cittert_is_that_of_draws():
    rng = np.random.default_rng(4)
    found = [
        reblurred_van_cittert(drawn_noise(noise(), rng), transfer("lobes"), 1.2, 4, 0).image
        for _ in range(100)
    ]
    inner = np.stack(found)[:, 4:-4, 3:-3, 4:-4].astype(np.float64)
    stated = van_cittert_noise(noise(), transfer("lobes"), 1.2, 4)
    assert inner.std() / stated.noise_sd[0, 0, 0] == pytest.approx(1, abs=0.03)
    correlation = np.fft.irfftn(stated.spectrum, (32, 28, 36), (0, 1, 2))
    beside = np.mean(inner[:, 1:] * inner[:, :-1]) / np.mean(inner**2)
    assert beside == pytest.approx(correlation[1, 0, 0], abs=0.03)


def test_many_iterations_of_van_cittert_pass_every_frequency_that_the_kernel_has_left():
    passed = van_cittert_transfer(transfer("lobes"), 1.2, 5000) * transfer("lobes")
    np.testing.assert_allclose(passed[np.abs(transfer("lobes")) > 0.1], 1.0, atol=1e-3)
    assert np.isfinite(van_cittert_transfer(np.zeros((4, 4, 3)), 1.2, 9)).all()


def test_more_iterations_of_richardson_lucy_give_more_noise():
    image = 20 + blurred_head("gaussian")
    few, many = (
        replica_sd(
            lambda i, n=n: richardson_lucy(i, transfer("gaussian"), n, 0).image,
            image, noise(), 6, np.random.default_rng(1),
        )
        for n in (4, 30)
    )  # fmt: skip
    assert np.median(many) > 1.5 * np.median(few)


@pytest.mark.parametrize("method", [richardson_lucy, reblurred_van_cittert])
def test_an_image_with_holes_and_no_iterations_are_refused(method):
    image = blurred_head()
    with pytest.raises(ValueError, match="0 iterations of a deconvolution"):
        method(image, transfer(), iterations=0)
    image[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="1 values of the image are not finite"):
        method(image, transfer())


def test_an_empty_image_is_refused_by_richardson_lucy():
    with pytest.raises(ValueError, match="0 everywhere"):
        richardson_lucy(np.zeros(SHAPE), transfer())


def test_a_kernel_that_turns_signals_round_is_refused_by_richardson_lucy():
    psf = np.zeros((32, 28, 36))
    psf[16, 14, 18], psf[14, 14, 18], psf[18, 14, 18] = -1.0, 1.0, 1.0
    with pytest.raises(ValueError, match="33 % of the kernel is negative"):
        richardson_lucy(blurred_head(), to_transfer(psf))


@pytest.mark.parametrize("alpha", [0.0, -1.0, 2.1])
def test_a_step_that_grows_without_bound_is_refused(alpha):
    with pytest.raises(ValueError, match="accepted for this kernel: above 0 and below 2"):
        reblurred_van_cittert(blurred_head(), transfer("gaussian"), alpha)
