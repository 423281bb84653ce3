"""Every method answers by its name: with values, noise, and a map where it makes one."""

from functools import cache

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.kernel import blur, gaussian_transfer
from sodiumprep.sodium.noise import ImageNoise, normalized_spectrum
from sodiumprep.sodium.pvc import MAPS, METHODS
from sodiumprep.sodium.pvc.methods import Setup, correct, noise_of
from sodiumprep.sodium.pvc.propagation import drawn_noise
from sodiumprep.sodium.pvc.shown import SampledRegions

SHAPE = (18, 18, 18)
GRID = Geometry(np.zeros(3), np.eye(3), (0.072,) * 3, SHAPE)
KERNEL = gaussian_transfer(GRID, np.full(3, 7e-3)).astype(np.complex64)
SETUP = Setup(transfer=KERNEL, draws=8)
TRUTH = np.array([42.0, 37.0, 145.0, 5.0])
OF_IMAGES = [name for name in METHODS if name != "kspace"]
SHARP = ("rl", "vc")  # deconvolve without regions: nearer to the truth, not at it


@cache
def regions():
    axes = np.meshgrid(*[np.arange(18) - 8.5] * 3, indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    inside = [1 / (1 + np.exp(2 * (radius - r))) for r in (2.5, 5.0, 7.2)]
    parts = np.stack(
        [inside[2] - inside[1], inside[1] - inside[0], inside[0], 1 - inside[2]]
    ).astype(np.float32)
    shown = np.stack([blur(part, KERNEL) for part in parts])
    return SampledRegions(parts, shown, ["GM", "WM", "CSF", "air"])


@cache
def noise():
    spectrum = normalized_spectrum(np.abs(KERNEL) ** 2, tuple(2 * n for n in SHAPE))
    return ImageNoise(np.full(SHAPE, 0.5, np.float32), spectrum)


def seen():
    return regions().shown(TRUTH)


@pytest.mark.parametrize("method", OF_IMAGES)
def test_every_method_comes_nearer_to_the_truth_than_none(method):
    before = correct("none", seen(), regions(), None, SETUP).values
    found = correct(method, seen(), regions(), None, SETUP).values
    error = np.abs(found / TRUTH - 1)[:3]
    assert error.max() < (0.3 if method in SHARP else 0.03)
    assert np.all(error[[0, 2]] < np.abs(before / TRUTH - 1)[[0, 2]])


@pytest.mark.parametrize("method", ["none", *OF_IMAGES])
def test_a_map_is_made_by_the_methods_that_make_one(method):
    found = correct(method, seen(), regions(), None, SETUP)
    assert (found.image is not None) == (method in MAPS)


@pytest.mark.parametrize("method", OF_IMAGES)
def test_the_noise_of_values_and_map_is_told(method):
    image = seen() + drawn_noise(noise(), np.random.default_rng(1))
    found = correct(method, image, regions(), noise(), SETUP)
    told = noise_of(method, found, image, regions(), noise(), SETUP)
    sd = np.sqrt(np.diag(told.covariance))
    assert np.all(np.abs(found.values - correct(method, seen(), regions(), noise(), SETUP).values)
                  < 5 * sd)  # fmt: skip
    assert np.all(sd > 0)
    assert (told.of_map is not None) == (method in MAPS)
    if told.of_map is not None:
        inside = regions().fractions[0] > 0.5
        assert 0.05 < np.median(told.of_map()[inside]) < 10


@pytest.mark.parametrize("method", ["rbv", "iy", "mg", "mtc", "vc", "regression"])
def test_the_noise_of_regional_values_is_that_of_draws(method):
    rng = np.random.default_rng(2)
    told = noise_of(
        method, correct(method, seen(), regions(), noise(), SETUP), seen(), regions(), noise(),
        Setup(transfer=KERNEL, draws=60),
    )  # fmt: skip
    drawn = [
        correct(method, seen() + drawn_noise(noise(), rng), regions(), noise(), SETUP).values
        for _ in range(60)
    ]
    ratio = np.std(drawn, axis=0) / np.sqrt(np.diag(told.covariance))
    np.testing.assert_allclose(ratio[:3], 1.0, atol=0.4)  # 60 draws: 9 %, twice for regression


def test_draws_of_one_seed_are_the_same():
    found = correct("regression", seen(), regions(), noise(), SETUP)
    one, two = (
        noise_of("regression", found, seen(), regions(), noise(), SETUP).of_map() for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)


def test_what_did_not_come_to_rest_or_was_taken_as_zero_is_said():
    image = seen() - 20.0
    assert "below 0" in correct("rl", image, regions(), None, SETUP).remarks[0]


def test_a_map_may_be_fed_by_least_squares():
    image = seen() + drawn_noise(noise(), np.random.default_rng(3))
    by_gtm, by_labbe = (
        correct("rbv", image, regions(), noise(), Setup(transfer=KERNEL, feed=feed)).values
        for feed in ("gtm", "labbe")
    )
    assert not np.allclose(by_gtm, by_labbe, rtol=1e-6)
    np.testing.assert_allclose(by_gtm[:3], by_labbe[:3], rtol=0.05)


def test_unknown_methods_and_a_missing_kernel_are_refused():
    with pytest.raises(ValueError, match="there is no method 'magic'"):
        correct("magic", seen(), regions(), None, SETUP)
    with pytest.raises(ValueError, match="needs one kernel"):
        correct("vc", seen(), regions(), None, Setup())
