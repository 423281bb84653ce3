"""Noise of combined coil images: which voxels take it from the same coils."""

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Acquisition, Geometry
from sodiumprep.sodium.coils import combine_coils, smooth_coil_images
from sodiumprep.sodium.density import hamming_filter, radial_weights
from sodiumprep.sodium.encoding import Transform, adjoint, forward
from sodiumprep.sodium.kernel import blur, gaussian_transfer
from sodiumprep.sodium.measurement import Measurement
from sodiumprep.sodium.noise import (
    ImageNoise,
    coil_noise_modes,
    covariance_with_voxels,
    noise_samples,
    normalized_spectrum,
    weighted_covariance,
)
from sodiumprep.sodium.pvc.deconvolution import van_cittert_noise
from sodiumprep.sodium.pvc.propagation import drawn_noise
from sodiumprep.sodium.reconstruct import gridding
from sodiumprep.sodium.trajectory import density_adapted_radial

SHAPE, DOUBLED = (12, 10, 8), (24, 20, 16)
GRID = Geometry(np.zeros(3), np.eye(3), (0.12, 0.1, 0.08), SHAPE)
SPECTRUM = normalized_spectrum(gaussian_transfer(GRID, np.full(3, 0.025)) ** 2, DOUBLED)
SD = (1 + np.arange(12.0).reshape(12, 1, 1) / 12) * np.ones(SHAPE)
PLACE = np.indices(SHAPE) - np.array(SHAPE).reshape(3, 1, 1, 1) // 2
SEVERAL = np.array([[2.0, 0.5 + 0.3j], [0.5 - 0.3j, 1.0]])


def rows(n=3):
    return np.random.default_rng(4).uniform(-0.2, 1, (n, *SHAPE))


def drawn_covariance(modes, weights):
    rng = np.random.default_rng(5)
    noise = ImageNoise(SD, SPECTRUM, modes)
    sums = [np.einsum("rxyz,xyz->r", weights, drawn_noise(noise, rng)) for _ in range(600)]
    return np.cov(np.transpose(sums))


def halves():
    """Return two coils, each of which sees its half of the image alone."""
    first = (np.indices(SHAPE)[0] < 6).astype(np.complex64)
    return np.stack([first, 1 - first])


def winding(turns):
    """Return one coil whose phase turns along the first axis."""
    return np.exp(2j * np.pi * turns * PLACE[:1] / SHAPE[0]).astype(np.complex64)


def test_one_noise_without_modes_has_the_covariance_of_blurred_weights():
    scaled = rows() * SD
    spread = np.stack([blur(row, SPECTRUM) for row in scaled])
    expected = np.einsum("ixyz,jxyz->ij", scaled, spread)
    found = weighted_covariance(rows(), ImageNoise(SD, SPECTRUM))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("slab", [1, 2**14, 2**25])
def test_the_covariance_does_not_depend_on_how_many_frequencies_are_held(slab, monkeypatch):
    noise = ImageNoise(SD, SPECTRUM, coil_noise_modes(winding(1.5), np.eye(1)))
    whole = weighted_covariance(rows(), noise)
    monkeypatch.setattr("sodiumprep.sodium.noise.SLAB_BYTES", slab)
    np.testing.assert_allclose(weighted_covariance(rows(), noise), whole, rtol=1e-9)


def test_one_coil_without_phase_is_one_stationary_noise():
    signal = np.random.default_rng(0).uniform(1, 2, (1, *SHAPE)).astype(np.complex64)
    modes = coil_noise_modes(signal, np.eye(1))
    np.testing.assert_allclose(np.abs(modes), np.ones((1, *SHAPE)), atol=1e-6)
    found = weighted_covariance(rows(), ImageNoise(SD, SPECTRUM, modes))
    expected = weighted_covariance(rows(), ImageNoise(SD, SPECTRUM))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_phase_that_is_the_same_everywhere_changes_nothing():
    turned = np.full((1, *SHAPE), np.exp(0.7j), np.complex64)
    found = weighted_covariance(
        rows(), ImageNoise(SD, SPECTRUM, coil_noise_modes(turned, np.eye(1)))
    )
    expected = weighted_covariance(rows(), ImageNoise(SD, SPECTRUM))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_halves_seen_by_coils_of_their_own_share_no_noise():
    modes = coil_noise_modes(halves(), np.eye(2))
    sides = halves().real.astype(np.float64)
    alone = weighted_covariance(sides, ImageNoise(SD, SPECTRUM))
    found = weighted_covariance(sides, ImageNoise(SD, SPECTRUM, modes))
    assert alone[0, 1] > 0.1 * alone[0, 0]
    np.testing.assert_allclose(np.diag(found), np.diag(alone), rtol=1e-5)
    assert abs(found[0, 1]) < 1e-5 * alone[0, 1]


def test_coils_that_share_noise_give_it_to_their_halves():
    sides = halves().real.astype(np.float64)
    alone = weighted_covariance(sides, ImageNoise(SD, SPECTRUM))
    modes = coil_noise_modes(halves(), SEVERAL)
    found = weighted_covariance(sides, ImageNoise(SD, SPECTRUM, modes))
    shared = SEVERAL[0, 1].real / np.sqrt(2.0)
    assert found[0, 1] / alone[0, 1] == pytest.approx(shared, rel=1e-4)


def test_a_winding_phase_shifts_the_spectrum_of_the_noise():
    turns = 3
    modes = coil_noise_modes(winding(turns), np.eye(1))
    weights = np.ones((1, *SHAPE))
    found = weighted_covariance(weights, ImageNoise(np.ones(SHAPE), SPECTRUM, modes))[0, 0]
    phase = 2 * np.pi * turns * np.arange(-12, 12) / SHAPE[0]
    correlation = np.fft.fftshift(np.fft.irfftn(SPECTRUM, DOUBLED, (0, 1, 2)))
    pairs = [np.clip(n - np.abs(np.arange(-n, n)), 0, None) for n in SHAPE]
    expected = np.einsum(
        "xyz,x,y,z,x->", correlation, *pairs, np.cos(phase), optimize=True
    )  # sum over pairs of voxels, by their lag
    assert found == pytest.approx(expected, rel=1e-4)
    still = weighted_covariance(weights, ImageNoise(np.ones(SHAPE), SPECTRUM))[0, 0]
    assert found < 0.2 * still


def test_what_a_sum_shares_with_each_voxel_adds_up_to_its_variance():
    noise = ImageNoise(SD, SPECTRUM, coil_noise_modes(winding(1.5), np.eye(1)))
    weights = rows(1)
    shared = covariance_with_voxels(weights[0], noise)
    variance = weighted_covariance(weights, noise)[0, 0]
    assert np.sum(weights[0] * shared) == pytest.approx(variance, rel=1e-5)


@pytest.mark.parametrize("coils", [halves(), winding(1.5)])
def test_drawn_noise_has_the_covariance_that_is_stated(coils):
    modes = coil_noise_modes(coils, np.eye(len(coils)))
    sides = halves().real.astype(np.float64)
    stated = weighted_covariance(sides, ImageNoise(SD, SPECTRUM, modes))
    found = drawn_covariance(modes, sides)
    scatter = np.sqrt(np.outer(*[np.diag(stated)] * 2) / 600)
    assert np.all(np.abs(found - stated) < 6 * scatter)


def many_coils(n=32):
    """Return soft spots around the image, each with a phase of its own."""
    angle = 2 * np.pi * np.arange(n) / n
    centres = np.stack([8 * np.cos(angle), 8 * np.sin(angle), 4 * np.sin(3 * angle)])
    squares = np.sum((PLACE[None] - centres.T[:, :, None, None, None]) ** 2, axis=1)
    phase = angle[:, None, None, None] + 0.1 * PLACE[0]
    return (np.exp(1j * phase) / (1 + squares / 40)).astype(np.complex64)


def directions(coils):
    unit = coils / np.linalg.norm(coils, axis=0)
    return np.concatenate([unit.real, unit.imag]).reshape(2 * len(coils), -1)


def test_few_modes_hold_what_many_coils_share():
    coils = many_coils()
    modes = coil_noise_modes(coils, np.eye(32))
    assert len(modes) < 16
    np.testing.assert_allclose(np.sum(modes**2, axis=0), 1, rtol=1e-5)
    flat, kept = directions(coils), modes.reshape(len(modes), -1)
    off = kept.T @ kept - flat.T @ flat
    assert np.sqrt(np.mean(off**2)) < 2e-3  # of correlations between all pairs of voxels
    power = np.sum(np.abs(coils) ** 2, axis=0).ravel()
    moment = (flat * power) @ flat.T / power.sum()
    shares = np.cumsum(np.linalg.eigvalsh(moment)[::-1])  # the directions have a square of 1
    assert shares[len(modes) - 2] < 0.999 <= shares[len(modes) - 1]


def test_directions_of_air_cost_no_modes():
    ball = np.linalg.norm(PLACE, axis=0) < 4
    chance = np.random.default_rng(8).normal(size=(2, 32, *SHAPE))
    seen = many_coils() * ball + 0.006 * (chance[0] + 1j * chance[1])
    modes = coil_noise_modes(seen, np.eye(32))
    assert len(modes) < 12  # 29 if air counted
    flat = directions(many_coils())[:, ball.ravel()]
    kept = modes.reshape(len(modes), -1)[:, ball.ravel()]
    assert np.abs(kept.T @ kept - flat.T @ flat).max() < 0.1


def test_voxels_without_signal_and_covariances_without_noise_are_borne():
    coils = halves()
    coils[:, 3:5] = 0
    modes = coil_noise_modes(coils, SEVERAL)
    np.testing.assert_allclose(np.sum(modes**2, axis=0), 1, rtol=1e-5)
    silent = coil_noise_modes(coils, np.zeros((2, 2)))
    np.testing.assert_array_equal(silent, np.ones((1, *SHAPE)))


def test_a_deconvolved_image_keeps_the_modes_of_its_noise():
    noise = ImageNoise(SD, SPECTRUM, coil_noise_modes(winding(1.5), np.eye(1)))
    after = van_cittert_noise(noise, gaussian_transfer(GRID, np.full(3, 0.02)), 1.0, 3)
    assert after.modes is noise.modes


FIELD = Geometry(np.zeros(3), np.eye(3), (0.2,) * 3, (16, 16, 16))
COILS, DRAWS = 4, 200


@pytest.fixture(scope="module")
def scan():
    """Scan a ball with a phase slope by four coupled coils of unequal noise around it."""
    trajectory = density_adapted_radial(200, 24, 40.0, 0.9)
    axis = (np.arange(32) - 16) * 0.2 / 32
    place = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    ball = 1 / (1 + np.exp((np.linalg.norm(place, axis=0) - 0.07) / 0.004))
    angle = np.pi / 2 * np.arange(COILS)
    fine = Geometry(np.zeros(3), np.eye(3), (0.2,) * 3, (32, 32, 32))
    samples = []
    for own in angle:
        off = place - 0.12 * np.array([np.cos(own), np.sin(own), 0]).reshape(3, 1, 1, 1)
        coil = np.exp(1j * (own + 60 * place[0])) / (1 + np.sum(off**2, axis=0) / 0.05**2)
        samples.append(forward((ball * coil).astype(np.complex64), trajectory, fine))
    weights = radial_weights(trajectory)
    near = np.abs(np.subtract.outer(np.arange(COILS), np.arange(COILS))) == 1
    scale = np.diag([2.0, 1, 1, 1]) * np.abs(samples).max() / 60
    covariance = scale @ (np.eye(COILS) + 0.3 * near) @ scale
    acquisition = Acquisition(
        np.stack(samples), trajectory, 1e-4, 3e-4, 0.12, np.pi / 2, 3.0, FIELD
    )
    return Measurement(acquisition, weights, "", covariance, "given")


def soft_sums():
    """Return weights of soft sums over the ball, and over one side against the other."""
    x, y, z = np.indices(FIELD.matrix) - 8
    inside = np.exp(-(x**2 + y**2 + z**2) / (2 * 2.5**2))
    return np.stack([inside, inside * x, inside * y])


def stated_sd(made, stationary=False):
    response = made.response
    modes = None if stationary else response.noise_modes
    noise = ImageNoise(made.noise_sd, response.noise_spectrum, modes)
    return np.sqrt(np.diag(weighted_covariance(soft_sums(), noise)))


def noisy_images(scan, rng):
    acquisition = scan.acquisition
    transform = Transform(acquisition.trajectory, FIELD)
    for _ in range(DRAWS):
        noise = noise_samples(scan.covariance, scan.weights.shape, rng)
        noisy = (acquisition.samples + noise) * scan.weights
        images = np.stack([transform.adjoint(one) for one in noisy])
        yield combine_coils(images, scan.covariance)[0]


@pytest.mark.parametrize("hamming", [False, True])
def test_sums_have_the_noise_that_a_sum_over_all_samples_tells(scan, hamming):
    acquisition, weights = scan.acquisition, scan.weights
    if hamming:
        weights = weights * hamming_filter(acquisition.trajectory)
    images = adjoint(acquisition.samples * weights, acquisition.trajectory, FIELD)
    smooth = smooth_coil_images(images)
    unit = smooth / np.linalg.norm(smooth, axis=0)
    exact = []
    for each in soft_sums():  # by the samples that would be added, without any image of noise
        added = [forward((each * u).astype(np.complex64), acquisition.trajectory, FIELD)
                 for u in unit]  # fmt: skip
        flat = (np.stack(added) * weights).reshape(COILS, -1).astype(np.complex128)
        exact.append(np.einsum("cs,cd,ds->", flat.conj(), scan.covariance, flat).real / 2)
    made = gridding(scan, {}, hamming)
    np.testing.assert_allclose(stated_sd(made), np.sqrt(exact), rtol=0.01)
    off = stated_sd(made, stationary=True) / np.sqrt(exact)
    assert np.abs(off - 1).max() > 0.2  # as if all coils shared one noise


def test_noise_drawn_in_k_space_scatters_as_stated(scan):
    images = noisy_images(scan, np.random.default_rng(6))
    drawn = [np.tensordot(soft_sums(), image, 3) for image in images]
    ratio = stated_sd(gridding(scan, {})) / np.std(drawn, axis=0, ddof=1)
    np.testing.assert_allclose(ratio, 1, atol=4 / np.sqrt(2 * DRAWS))
