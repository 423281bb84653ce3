"""Fractions are volumes: recovery of an analytic phantom, in any contrast."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.fractions import (
    TissueModel,
    fit_fractions,
    fluid_warning,
    mixture_fractions,
    mixtures,
    smooth_mean,
    tissue_model,
)

CONTRASTS = {"T1w": (60.0, 100.0, 15.0), "T2w": (60.0, 45.0, 150.0), "PDw": (100.0, 80.0, 30.0)}
SHAPE = (48, 48, 48)


def nested_balls(radii: tuple[float, float]) -> Floats:
    """Fluid in white matter in grey matter, shape (x, y, z, 3); borders 1.4 mm wide."""
    radius = np.linalg.norm(np.indices(SHAPE) - 23.5, axis=0)
    inner, outer = (np.clip((edge - radius) / 1.4 + 0.5, 0, 1) for edge in radii)
    return np.stack([1 - outer, outer - inner, inner], axis=-1)


TRUTH = nested_balls((8.0, 15.0))
MASK = np.linalg.norm(np.indices(SHAPE) - 23.5, axis=0) < 20
PRIORS = ndimage.gaussian_filter(nested_balls((7.0, 15.5)), (2, 2, 2, 0))


def simulate(contrast: str, noise: float = 2.0) -> Floats:
    rng = np.random.default_rng(0)
    return TRUTH @ np.array(CONTRASTS[contrast]) + rng.normal(0, noise, SHAPE)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_fractions_sum_to_one_inside_and_vanish_outside(contrast: str) -> None:
    found = fit_fractions(simulate(contrast), PRIORS, MASK, np.ones(3))
    assert found.dtype == np.float32
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(axis=-1)[MASK], 1, atol=1e-5)
    assert not found[~MASK].any()


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_fractions_follow_the_true_volumes(contrast: str) -> None:
    found = fit_fractions(simulate(contrast), PRIORS, MASK, np.ones(3))
    for tissue in range(3):
        slope, offset = np.polyfit(TRUTH[MASK][:, tissue], found[MASK][:, tissue], 1)
        assert slope == pytest.approx(1, abs=0.05)
        assert offset == pytest.approx(0, abs=0.03)
        volume = TRUTH[MASK][:, tissue].sum()
        assert found[MASK][:, tissue].sum() == pytest.approx(volume, rel=0.04)


def test_a_voxel_half_fluid_half_grey_is_told_so() -> None:
    model = TissueModel(np.array(CONTRASTS["T1w"]), np.full(3, 1.0))
    half = np.array([(60.0 + 15.0) / 2])
    found = mixture_fractions(half, model, np.log([[0.5, 1e-4, 0.5]]))
    np.testing.assert_allclose(found, [[0.5, 0, 0.5]], atol=0.06)


def test_the_prior_decides_between_pairs_of_the_same_intensity() -> None:
    model = TissueModel(np.array(CONTRASTS["T1w"]), np.full(3, 1.0))
    priors = np.log([[0.9, 0.05, 0.05], [1e-4, 0.5, 0.5]])
    found = mixture_fractions(np.array([57.5, 57.5]), model, priors)
    assert found[0, 0] > 0.8
    assert found[1, 1] == pytest.approx(0.5, abs=0.1)
    assert found[1, 0] < 0.1


def test_the_prior_takes_over_where_tissues_look_alike() -> None:
    model = TissueModel(np.array([50.0, 50.0]), np.full(2, 5.0))
    found = mixture_fractions(np.array([50.0]), model, np.log([[0.7, 0.3]]))
    assert found[0, 0] == pytest.approx(0.7, abs=0.05)


def test_rows_of_mixtures_are_fractions_and_pure_ones_come_first() -> None:
    fractions, weights = mixtures(3)
    np.testing.assert_allclose(fractions.sum(axis=1), 1)
    np.testing.assert_array_equal(fractions[:3], np.eye(3))
    assert weights.min() > 0


def test_large_ventricles_survive_small_ones_in_the_prior() -> None:
    narrow = ndimage.gaussian_filter(nested_balls((4.5, 15.0)), (2, 2, 2, 0))
    found = fit_fractions(simulate("T1w"), narrow, MASK, np.ones(3))
    core = np.linalg.norm(np.indices(SHAPE) - 23.5, axis=0) < 12
    assert found[core][:, 2].sum() == pytest.approx(TRUTH[core][:, 2].sum(), rel=0.06)


def test_a_lesion_does_not_shift_the_tissue_intensities() -> None:
    image = simulate("T1w")
    lesion = np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - [24, 24, 35], axis=-1) < 5
    image[lesion] = 130
    found = fit_fractions(image, PRIORS, MASK, np.ones(3), lesion)
    clean = fit_fractions(simulate("T1w"), PRIORS, MASK, np.ones(3))
    far = MASK & ~ndimage.binary_dilation(lesion, iterations=4)
    assert np.abs(found - clean)[far].mean() < 0.01


def test_anisotropic_voxels_are_accepted() -> None:
    coarse = (slice(None), slice(None), slice(None, None, 3))
    found = fit_fractions(
        simulate("T1w")[coarse], PRIORS[coarse], MASK[coarse], np.array([1.0, 1.0, 3.0])
    )
    assert np.abs(found - TRUTH[coarse])[MASK[coarse]].mean() < 0.05


def test_the_local_mean_follows_a_slow_drift() -> None:
    drift = np.linspace(90, 110, 48)[:, None, None] * np.ones(SHAPE)
    local = smooth_mean(drift, MASK.astype(float), np.ones(3), 6.0)
    assert local[40, 24, 24] - local[8, 24, 24] > 8


def test_the_model_uses_only_the_voxels_it_may() -> None:
    intensity = np.array([10.0, 10.5, 500.0, 20.0, 21.0])
    fractions = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]], float)
    used = np.array([True, True, False, True, True])
    assert tissue_model(intensity, fractions, used).means[0] < 11


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        fit_fractions(simulate("T1w"), PRIORS, np.zeros(SHAPE, bool), np.ones(3))


def test_an_image_that_is_not_finite_is_refused() -> None:
    image = simulate("T1w")
    image[24, 24, 24] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fit_fractions(image, PRIORS, MASK, np.ones(3))


def test_an_image_without_contrast_is_refused() -> None:
    with pytest.raises(ValueError, match="contrast"):
        fit_fractions(np.ones(SHAPE), PRIORS, MASK, np.ones(3))


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_vague_priors_suffice_in_any_contrast(contrast: str) -> None:
    vague = 0.6 * PRIORS + 0.4 / 3  # no voxel is called pure
    found = fit_fractions(simulate(contrast), vague, MASK, np.ones(3))
    assert np.abs(found - TRUTH)[MASK].mean() < 0.03


def test_grey_matter_beside_white_is_not_explained_by_a_trace_of_fluid() -> None:
    model = TissueModel(np.array(CONTRASTS["T1w"]), np.full(3, 4.0))
    border = np.log([[0.49, 0.49, 0.02]])
    found = mixture_fractions(np.array([80.0]), model, border)[0]
    assert found[2] < 0.03
    assert found[0] == pytest.approx(0.5, abs=0.05)


def test_no_tissue_is_much_more_scattered_than_the_noise() -> None:
    rng = np.random.default_rng(0)
    intensity = np.concatenate([rng.normal(100, 2, 500), rng.normal(50, 20, 500)])
    fractions = np.repeat(np.eye(2), 500, axis=0)
    spreads = tissue_model(intensity, fractions, np.ones(1000, bool)).spreads
    assert spreads[1] == pytest.approx(2 * spreads[0])


@pytest.mark.parametrize(("fluid", "warns"), [(15.0, False), (62.0, True), (150.0, False)])
def test_fluid_as_bright_as_grey_matter_is_told(fluid: float, warns: bool) -> None:
    image = TRUTH @ np.array([60.0, 100.0, fluid])
    image += np.random.default_rng(0).normal(0, 2, SHAPE)
    model = tissue_model(image[MASK], PRIORS[MASK], MASK[MASK])
    assert bool(fluid_warning(model)) == warns
