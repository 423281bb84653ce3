"""Reconstruction of an object whose k-space is known in closed form."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.fft

from sodiumprep.sodium.kernel import blur, full_width_half_maximum, to_psf
from sodiumprep.sodium.measurement import measurement_of
from sodiumprep.sodium.reconstruct import (
    ImageProperties,
    assumed_response,
    gridding,
    magnitude_image,
    phase_corrected_image,
)
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import Relaxation, biexponential_decay

WM = relaxation_of("WM", 3.0)
LASTING = Relaxation(t1=1.0, t2_short=1e9, t2_long=1e9, short_fraction=0.0)
TISSUES = {"none": LASTING, "WM": WM}
PLACE = np.array([-9.0, 13.0, 41.0])  # mm, LPS
WHOLE = {"nominal_voxel": np.full(3, 4e-3), "trajectory_type": "tpi", "readout_duration": 0.02}


def grid(acquisition, tissues, hamming=False):
    return gridding(measurement_of(acquisition), tissues, hamming)


def centre_of(image, affine):
    index = [np.average(np.arange(16), weights=image.sum(axis=tuple({0, 1, 2} - {a})))
             for a in range(3)]  # fmt: skip
    return (affine @ [*index, 1.0])[:3]


def complex_noise(seed, shape):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@pytest.mark.parametrize("handedness", [1, -1])
@pytest.mark.parametrize("hamming", [False, True])
def test_a_blob_lands_where_it_was_put(oblique, make_blob, handedness, hamming):
    geometry = oblique(16, handedness)
    done = grid(make_blob(geometry, PLACE), TISSUES, hamming)
    inside = np.where(done.image > 0.1 * done.image.max(), done.image, 0)
    found = centre_of(inside, geometry.affine)
    np.testing.assert_allclose(found, PLACE * [-1, -1, 1], atol=1.0)  # a tenth of a voxel


def test_a_blob_keeps_its_signal(oblique, make_blob):
    done = grid(make_blob(oblique(), oblique().position), TISSUES)
    assert done.image.max() == pytest.approx(1.0, abs=0.05)
    assert done.image.sum() == pytest.approx((2 * np.pi * 1.3**2) ** 1.5, rel=0.03)


def test_the_response_is_the_image_of_a_decaying_point(oblique, make_blob):
    geometry, voxel = oblique(), np.array([11, 5, 9])
    acquisition = replace(make_blob(geometry, PLACE), dwell_time=0.02 / 72)
    offset = (voxel - 8) * geometry.voxel_size
    phase = np.exp(-2j * np.pi * (acquisition.trajectory.astype(float) @ offset))
    echo = acquisition.echo_time
    decay = biexponential_decay(acquisition.sample_times + echo, WM)
    decay /= biexponential_decay(echo, WM)  # the loss until then is another correction's
    done = grid(replace(acquisition, samples=(phase * decay)[None]), TISSUES)
    point = np.zeros(geometry.matrix)
    point[tuple(voxel)] = 1 / np.prod(geometry.voxel_size)
    expected = blur(point, done.response.transfers["WM"])
    assert np.abs(done.image - expected).max() < 0.02 * expected.max()


def test_reconstruction_is_linear(oblique, make_blob):
    acquisition = make_blob(oblique(), PLACE)
    double = grid(replace(acquisition, samples=2 * acquisition.samples), TISSUES)
    np.testing.assert_allclose(double.image, 2 * grid(acquisition, TISSUES).image, atol=1e-5)


def test_a_hamming_window_widens_the_kernel_and_lowers_the_noise(oblique, make_blob):
    acquisition = make_blob(oblique(), PLACE, noise=1e-6 * complex_noise(0, (1, 500)))
    plain, filtered = (grid(acquisition, TISSUES, h) for h in (False, True))
    assert filtered.noise_sd.mean() < 0.6 * plain.noise_sd.mean()
    widths = [full_width_half_maximum(to_psf(r.response.transfers["none"]), np.ones(3))
              for r in (plain, filtered)]  # fmt: skip
    np.testing.assert_allclose(widths[1] / widths[0], 1.99 / 1.59, rtol=0.03)


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_the_noise_level_is_that_of_draws_whatever_the_dwell_time_of_the_noise(
    oblique, make_blob, factor
):
    blob = make_blob(oblique(), PLACE, n_spokes=300)
    noise = 1e-7 * complex_noise(0, (1, 20_000)) / np.sqrt(factor)  # longer dwell, less noise
    known = replace(blob, noise=noise, noise_dwell_time=factor * blob.dwell_time)
    added = [1e-7 * complex_noise(seed, blob.samples.shape) for seed in range(20)]
    drawn = [grid(replace(known, samples=blob.samples + a), {}) for a in added]
    spread = np.std([d.image for d in drawn], axis=0, ddof=1)[drawn[0].image > 0.3]
    assert np.sqrt(np.mean(spread**2)) == pytest.approx(drawn[0].noise_sd.mean(), rel=0.1)
    assert drawn[0].noise_source == "noise readouts"


def test_without_noise_readouts_the_corners_tell_the_level(oblique, make_blob):
    blob = make_blob(oblique(24), oblique(24).position)
    samples = blob.samples + 1e-6 * complex_noise(3, blob.samples.shape)
    noise = 1e-6 * complex_noise(4, (1, 20_000))
    known = grid(replace(blob, samples=samples, noise=noise), {})
    guessed = grid(replace(blob, samples=samples), {})
    assert guessed.noise_sd.mean() == pytest.approx(known.noise_sd.mean(), rel=0.2)
    assert "no noise readouts" in guessed.noise_source


def test_useless_noise_readouts_are_refused(oblique, make_blob):
    with pytest.raises(ValueError, match="all zero"):
        grid(make_blob(oblique(), PLACE, noise=np.zeros((1, 100), np.complex64)), {})


def properties(**changes):
    return ImageProperties(
        **{"shape": (20, 20, 20), "voxel_size": np.full(3, 4e-3), "echo_time": 0.0, **changes}
    )


def width(response, tissue="WM", voxel=4e-3):
    return full_width_half_maximum(to_psf(response.transfers[tissue]), np.full(3, 4e-3)) / voxel


def test_a_sidecar_that_tells_all_gives_the_published_width_and_no_warning():
    known = properties(**WHOLE)
    np.testing.assert_allclose(width(assumed_response(known, TISSUES)), 1.81, rtol=0.02)
    assert known.warnings == ()


def test_the_nominal_voxel_decides_the_width_of_an_interpolated_image():
    known = properties(**{**WHOLE, "nominal_voxel": np.full(3, 8e-3)})
    np.testing.assert_allclose(
        width(assumed_response(known, TISSUES), voxel=8e-3), 1.81, rtol=0.02
    )


@pytest.mark.parametrize(("hamming", "published"), [(False, 1.59), (True, 1.99)])
@pytest.mark.parametrize("tissue", list(TISSUES))
def test_an_unknown_readout_has_the_spherical_width(tissue, hamming, published):
    response = assumed_response(properties(hamming=hamming), TISSUES)
    np.testing.assert_allclose(width(response, tissue), published, rtol=0.02)


@pytest.mark.parametrize(
    ("missing", "key"),
    [
        ("trajectory_type", "TrajectoryType"),
        ("readout_duration", "ReadoutDuration"),
        ("nominal_voxel", "AcquisitionVoxelSize"),
    ],
)
def test_a_missing_key_is_named_in_a_warning(missing, key):
    (warning,) = properties(**{**WHOLE, missing: None}).warnings
    assert warning.startswith(key)
    assert "--psf-fwhm" in warning


def test_a_given_width_wins_over_the_sidecar():
    known = properties(**WHOLE, psf_fwhm=np.array([10e-3, 12e-3, 14e-3]))
    found = width(assumed_response(known, TISSUES), voxel=1e-3)
    np.testing.assert_allclose(found, [10, 12, 14], rtol=0.02)
    assert known.warnings == ()


@pytest.mark.parametrize("known", [properties(), properties(psf_fwhm=np.full(3, 9e-3))])
def test_an_assumed_response_passes_the_mean_and_has_unit_correlation_at_lag_zero(known):
    response = assumed_response(known, TISSUES)
    assert response.transfers["WM"][0, 0, 0] == pytest.approx(1.0)
    spectrum = scipy.fft.irfftn(response.noise_spectrum, (40, 40, 40))
    assert spectrum[0, 0, 0] == pytest.approx(1.0, abs=1e-5)


def head(noise_seed=0):
    """Return a complex image: a ball of 60 with a smooth phase, noise SD 2."""
    axes = np.meshgrid(*[np.arange(20.0) - 10] * 3, indexing="ij")
    ball = 60.0 / (1 + np.exp(2 * (np.sqrt(sum(a**2 for a in axes)) - 5)))
    return ball, ball * np.exp(1j * (1 + 0.08 * axes[0])) + 2 * complex_noise(
        noise_seed, (20,) * 3
    )


def test_a_magnitude_image_gets_noise_from_its_corners_and_loses_its_bias():
    ball, noisy = head()
    done = magnitude_image(np.abs(noisy), properties(), TISSUES)
    np.testing.assert_allclose(done.noise_sd, 2.0, rtol=0.1)
    assert done.image[ball > 50].mean() == pytest.approx(ball[ball > 50].mean(), rel=0.01)
    assert abs(done.image[ball < 1e-3].mean()) < 1.0


def test_a_masked_magnitude_image_has_unknown_noise_and_says_so():
    ball, _ = head()
    done = magnitude_image(np.where(ball > 1, ball, 0), properties(), TISSUES)
    assert np.isnan(done.noise_sd).all()
    assert "noise cannot be measured" in done.warnings[0]


@pytest.mark.parametrize("scale", [1.0, 4096 / (2 * np.pi)])
def test_a_phase_image_gives_an_unbiased_real_part_in_any_unit(scale):
    ball, noisy = head()
    done = phase_corrected_image(np.abs(noisy), np.angle(noisy) * scale, properties(), TISSUES)
    assert done.image[ball > 50].mean() == pytest.approx(ball[ball > 50].mean(), rel=0.02)
    np.testing.assert_allclose(done.noise_sd[ball > 50], 2.0, rtol=0.15)


def test_magnitude_and_phase_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        phase_corrected_image(np.ones((4, 4, 4)), np.ones((4, 4, 5)), properties(), TISSUES)
