"""Backgrounds of noise: found by what they look like, removed, other images left alone."""

from __future__ import annotations

import numpy as np
import pytest

from sodiumprep.sodium.background import (
    background_noise,
    has_noisy_background,
    remove_background,
    robust_uniform,
    roughness,
)

SHAPE = (48, 48, 48)
RADIUS = np.linalg.norm(np.indices(SHAPE) - 23.5, axis=0)
HEAD = RADIUS < 20
ONE = np.ones(3)


def inversions(noise: float = 0.015) -> tuple[np.ndarray, np.ndarray]:
    """Simulate two complex inversion images of white in grey matter with fluid and dark bone."""
    rng = np.random.default_rng(0)
    edges = [RADIUS < 4, RADIUS < 11, RADIUS < 15, RADIUS < 18, HEAD]
    levels = ([-0.3, 0.09, -0.13, 0.0, 0.6], [0.17, 0.63, 0.55, 0.0, 0.9])
    one, two = (
        np.select(edges, level, 0.0)
        + rng.normal(0, noise, SHAPE)
        + 1j * rng.normal(0, noise, SHAPE)
        for level in levels
    )
    return one, two


def uniform(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    ratio = np.real(np.conj(one) * two) / (np.abs(one) ** 2 + np.abs(two) ** 2)
    return np.rint(4095 * (ratio + 0.5))


UNIFORM = uniform(*inversions())


def test_a_uniform_image_is_recognized() -> None:
    assert has_noisy_background(UNIFORM, ONE)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_a_magnitude_image_is_not_taken_for_one(noise: float) -> None:
    magnitude = np.abs(inversions(noise)[1])
    assert not has_noisy_background(magnitude, ONE)


def test_a_blank_background_is_not_noisy() -> None:
    assert background_noise(np.where(HEAD, UNIFORM, 0), ONE) == 0
    assert not has_noisy_background(np.where(HEAD, UNIFORM, 0), ONE)


def test_air_and_bone_become_dark_and_tissue_stays() -> None:
    cleaned = remove_background(UNIFORM, ONE)
    assert cleaned.min() >= 0
    assert cleaned[RADIUS > 22].mean() < 0.02 * 4095
    assert np.median(cleaned[(RADIUS > 16) & (RADIUS < 17)]) < 0.1 * 4095
    tissue = RADIUS < 14
    kept = np.abs(cleaned - (UNIFORM - UNIFORM.min()))[tissue]
    assert np.mean(kept > 1) < 0.1


def test_an_edge_is_not_rough_but_noise_is() -> None:
    edge = np.where(np.indices(SHAPE)[0] < 24, 0.0, 1.0)
    assert roughness(edge, ONE).max() == 0
    noise = np.random.default_rng(0).normal(0, 1, SHAPE)
    assert np.median(roughness(noise, ONE)) > 0.7


def test_the_inversion_images_suppress_the_noise_and_keep_the_order_of_tissues() -> None:
    one, two = inversions()
    robust = robust_uniform(UNIFORM, np.abs(one), np.abs(two), ONE)
    fluid, white, grey = (
        np.median(robust[where])
        for where in (RADIUS < 3, (RADIUS > 5) & (RADIUS < 10), (RADIUS > 12) & (RADIUS < 14))
    )
    assert robust[RADIUS > 22].mean() < 0.1
    assert fluid < grey < white
    assert np.median(UNIFORM[(RADIUS > 5) & (RADIUS < 10)]) / 4095 == pytest.approx(
        white, abs=0.05
    )


def test_inversion_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        robust_uniform(UNIFORM, np.ones(SHAPE), np.ones((4, 4, 4)), ONE)


def test_blank_images_are_refused() -> None:
    with pytest.raises(ValueError, match="blank"):
        robust_uniform(UNIFORM, np.zeros(SHAPE), np.zeros(SHAPE), ONE)
