"""Laws and hand-made numbers for the sodium signal of the phantom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium.phantom_signal import (
    AGAR_3_PERCENT,
    SALINE,
    Relaxation,
    ScannerImage,
    Timing,
    coil_sensitivities,
    complex_noise,
    decay_basis,
    image_on_grid,
    kspace_along_readouts,
    magnetization,
    relaxation_of,
    shell_weights,
    transverse_decay,
)
from sodiumprep.sodium.trajectory import density_adapted_radial

TIMING = Timing(0.3e-3, 0.12, np.pi / 2, 0.01)


def decay_at(relaxation: Relaxation, echo_time: float) -> float:
    return float(transverse_decay(relaxation, np.array([echo_time]))[0])


@pytest.mark.parametrize(
    ("echo_time", "published"),
    [(0.1e-3, 0.983), (0.2e-3, 0.966), (0.5e-3, 0.918), (1e-3, 0.846), (2e-3, 0.727)],
)
def test_white_matter_decays_against_saline_as_published(echo_time, published):
    ratio = decay_at(relaxation_of("WM", 3), echo_time) / decay_at(SALINE, echo_time)
    assert ratio == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize(
    ("repetition_time", "published"), [(0.1, 1.10), (0.12, 1.07), (0.16, 1.04)]
)
def test_white_matter_saturates_less_than_saline_as_published(repetition_time, published):
    timing = replace(TIMING, repetition_time=repetition_time)
    ratio = magnetization(relaxation_of("WM", 3), timing) / magnetization(SALINE, timing)
    assert float(ratio) == pytest.approx(published, abs=5e-3)


def test_magnetization_follows_the_spoiled_steady_state_by_hand():
    timing = replace(TIMING, flip_angle=np.pi / 3)
    remaining = np.exp(-0.12 / 0.033)
    by_hand = np.sin(np.pi / 3) * (1 - remaining) / (1 - remaining * 0.5)
    assert float(magnetization(AGAR_3_PERCENT, timing)) == pytest.approx(by_hand)


def test_transmit_acts_like_another_flip_angle():
    less = magnetization(SALINE, TIMING, 0.8)
    nominal = magnetization(SALINE, replace(TIMING, flip_angle=0.4 * np.pi))
    assert float(less) == pytest.approx(float(nominal))


def test_four_curves_span_all_decays():
    times = 0.3e-3 + np.linspace(0, 0.01, 256)
    names = ("GM", "WM", "CSF", "soft")
    decays = np.stack(
        [transverse_decay(relaxation_of(n, f), times) for n in names for f in (3, 7)]
    )
    weights, curves = decay_basis(decays, 4)
    assert np.abs(weights @ curves - decays).max() < 1e-4


def test_fields_differ_in_grey_matter():
    assert relaxation_of("GM", 7).t2_long > relaxation_of("GM", 3).t2_long


def test_unknown_field_strength_is_refused():
    with pytest.raises(ValueError, match=r"4\.7 T; the phantom knows 3 and 7 T"):
        relaxation_of("GM", 4.7)


def blob(n: int, shift: tuple[int, ...]) -> np.ndarray:
    axes = [np.exp(-0.5 * ((np.arange(n) - n // 2 - s) / 1.5) ** 2) for s in shift]
    return np.einsum("i,j,k->ijk", *axes)


def test_samples_agree_with_the_direct_sum_over_the_object():
    n, voxel = 24, 4e-3
    images = np.stack([blob(n, (2, -3, 4)), 0.005 * blob(n, (-5, 1, 0))]).astype(complex)
    trajectory = density_adapted_radial(20, 16, 100.0)
    curves = np.stack([np.linspace(1, 0.5, 16), np.linspace(0, 1, 16)])
    samples = kspace_along_readouts(images, voxel, trajectory, curves)
    k, axis = trajectory[7, 9].astype(float), (np.arange(n) - n // 2) * voxel
    waves = [np.exp(-2j * np.pi * k[i] * axis) for i in range(3)]
    direct = np.einsum("rxyz,x,y,z,r->", images, *waves, curves[:, 9])
    direct *= voxel**3 / np.prod(np.sinc(k * voxel))
    assert abs(samples[7, 9] - direct) < 1e-4 * np.abs(samples).max()


def test_a_weak_curve_is_transformed_too():
    images = np.stack([blob(24, (0, 0, 0)), blob(24, (0, 0, 0))]).astype(complex)
    trajectory, flat = density_adapted_radial(20, 16, 100.0), np.ones((2, 16))
    flat[1] = 0.01
    both = kspace_along_readouts(images, 4e-3, trajectory, flat)
    one = kspace_along_readouts(images[:1], 4e-3, trajectory, flat[:1])
    assert np.allclose(both, 1.01 * one, atol=1e-4 * np.abs(one).max())


def test_a_trajectory_beyond_the_grid_is_refused():
    with pytest.raises(ValueError, match="voxels of 0.01 m hold up to 50/m"):
        kspace_along_readouts(
            np.ones((1, 8, 8, 8)), 0.01, density_adapted_radial(4, 16, 100.0), np.ones((1, 16))
        )


def adjoint(samples, trajectory, weights, matrix, fov):
    axis = (np.arange(matrix) - matrix // 2) * fov / matrix
    k = trajectory.reshape(-1, 3).astype(float)
    waves = [np.exp(2j * np.pi * np.outer(k[:, i], axis)) for i in range(3)]
    return np.einsum("s,sx,sy,sz->xyz", (samples * weights).ravel(), *waves, optimize=True)


def test_a_point_lands_in_the_voxel_where_it_was_put():
    trajectory = density_adapted_radial(800, 48, 62.5)
    point = np.zeros((1, 32, 32, 32), complex)
    point[0, 16 + 6, 16 - 4, 16 + 2] = 1
    samples = kspace_along_readouts(point, 4e-3, trajectory, np.ones((1, 48)))
    image = np.abs(adjoint(samples, trajectory, shell_weights(trajectory), 16, 0.128))
    assert np.unravel_index(image.argmax(), image.shape) == (8 + 3, 8 - 2, 8 + 1)


def test_shell_weights_fill_the_sphere():
    trajectory = density_adapted_radial(100, 256, 125.0)
    assert 100 * shell_weights(trajectory).sum() == pytest.approx(4 / 3 * np.pi * 125**3, rel=1e-5)


def test_a_scanner_image_keeps_place_and_mean():
    target = ScannerImage(16, 0.128, TIMING)
    image = image_on_grid(
        blob(32, (6, -4, 2))[None], 4e-3, target, np.ones((1, 2)), np.array([0.0, 1e3])
    )
    assert np.unravel_index(np.abs(image).argmax(), image.shape) == (11, 6, 9)
    assert image.real.sum() * 8 == pytest.approx(blob(32, (6, -4, 2)).sum(), rel=0.02)


def test_decay_along_the_radius_blurs_a_scanner_image():
    target, radius = ScannerImage(16, 0.128, TIMING), np.linspace(0, 62.5, 16)
    sharp, soft = (
        image_on_grid(blob(32, (0, 0, 0))[None], 4e-3, target, curve[None], radius).real
        for curve in (np.ones(16), np.linspace(1, 0.2, 16))
    )
    assert soft.max() < 0.9 * sharp.max()
    assert soft.sum() == pytest.approx(sharp.sum(), rel=0.02)


def test_coils_together_are_not_uniform_and_one_coil_is():
    axis = np.linspace(-0.07, 0.07, 15, dtype=np.float32)
    position = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    array, volume = (np.linalg.norm(coil_sensitivities(position, n), axis=0) for n in (4, 1))
    assert 1.7 < array.max() / array.min() < 6
    assert np.allclose(volume, 1)


def test_noise_has_the_asked_deviation_in_both_parts():
    noise = complex_noise(np.random.default_rng(0), (2, 20000), 3.0)
    assert noise.real.std() == pytest.approx(3, rel=0.02)
    assert noise.imag.std() == pytest.approx(3, rel=0.02)
