"""Reconstruction by a model: the scale of gridding, its own noise and kernels."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.ellipsoids import ellipsoid_head, ellipsoid_kspace
from sodiumprep.sodium.guided import DirectionalGradient, edge_directions
from sodiumprep.sodium.iterative import conjugate_gradient
from sodiumprep.sodium.measurement import measurement_of
from sodiumprep.sodium.model_based import (
    REGULARIZATION,
    TOLERANCE,
    MeasurementModel,
    cg_sense,
    penalized,
)
from sodiumprep.sodium.noise import noise_samples
from sodiumprep.sodium.reconstruct import gridding
from sodiumprep.sodium.relaxation import relaxation_of

FOV = (0.24, 0.24, 0.24)
WM = {"WM": relaxation_of("WM", 3.0)}


@pytest.fixture(scope="module")
def measurement(make_blob):
    """Two coils that see a head from left and right, SNR about 20; 12 mm voxels."""
    rng = np.random.default_rng(3)
    empty = make_blob(Geometry(np.zeros(3), np.eye(3), FOV, (20, 20, 20)), np.zeros(3), 700)
    left, right = (
        [replace(e, value=e.value * gain(e.centre[0])) for e in ellipsoid_head(np.array(FOV))]
        for gain in (lambda x: 1 + 3 * x, lambda x: 1 - 3 * x)
    )
    seen = np.stack([ellipsoid_kspace(side, empty.trajectory) for side in (left, right)])
    scale = 1e-6 * np.abs(seen).max()  # odd units must not matter

    def noise(*shape):
        return scale * 300 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))

    samples = seen * 1j + noise(*seen.shape)  # any phase must not matter
    given = replace(
        empty,
        samples=samples.astype(np.complex64),
        noise=noise(2, 4000).astype(np.complex64),
    )
    return measurement_of(given)


@pytest.fixture(scope="module")
def gridded(measurement):
    return gridding(measurement, WM)


@pytest.fixture(scope="module")
def solved(measurement):
    return cg_sense(MeasurementModel(measurement), WM, np.random.default_rng(0))


def inside(gridded):
    return gridded.image > 0.3 * np.quantile(gridded.image, 0.99)


def test_cg_has_the_scale_of_gridding(gridded, solved):
    head = inside(gridded)
    ratio = np.median(solved.image[head] / gridded.image[head])
    assert ratio == pytest.approx(1, abs=0.05)
    assert solved.course["Converged"]


def test_the_noise_of_cg_is_that_of_draws(measurement, gridded, solved):
    model, rng, drawn = MeasurementModel(measurement), np.random.default_rng(1), []
    covariance = model.noise_variance * np.eye(len(model.samples))
    for _ in range(12):
        noise = noise_samples(covariance, model.samples.shape[1:], rng)
        found = conjugate_gradient(model.problem(noise), REGULARIZATION, TOLERANCE)
        drawn.append(model.image_of(found) * (1 + REGULARIZATION))
    head = inside(gridded)
    measured = np.sqrt(np.mean(np.square(drawn), axis=0)[head].mean())
    assert np.sqrt(np.mean(solved.noise_sd[head] ** 2)) == pytest.approx(measured, rel=0.1)


def test_the_kernel_of_cg_says_where_it_holds(solved):
    gain = solved.response.transfers["WM"][0, 0, 0].real
    assert gain == pytest.approx(1, abs=0.05)
    assert solved.response.local_at is not None


@pytest.mark.slow
def test_total_variation_lowers_the_noise_and_keeps_the_scale(measurement, gridded):
    model = MeasurementModel(measurement)
    smooth = penalized(model, {}, np.random.default_rng(0), strength=0.05, replicas=6)
    head = inside(gridded)
    assert np.median(smooth.image[head] / gridded.image[head]) == pytest.approx(1, abs=0.05)
    assert np.median(smooth.noise_sd[head]) < np.median(gridded.noise_sd[head])
    assert np.diff(smooth.course["Objective"])[-1] <= 0


@pytest.mark.slow
def test_guidance_keeps_the_edges_of_the_guide(measurement, gridded):
    guide = gridded.image.astype(np.float32)
    model = MeasurementModel(measurement)
    directional = DirectionalGradient(edge_directions(guide))
    plain, guided = (
        penalized(model, {}, np.random.default_rng(0), d, 0.2, replicas=4).image
        for d in (None, directional)
    )
    assert guided.std() > plain.std()


@pytest.mark.slow
def test_espirit_and_the_centre_agree(measurement, gridded):
    images = [
        cg_sense(MeasurementModel(measurement, None, kind), {}, np.random.default_rng(0)).image
        for kind in ("centre", "espirit")
    ]
    head = inside(gridded)
    assert np.median(images[0][head] / images[1][head]) == pytest.approx(1, abs=0.05)
