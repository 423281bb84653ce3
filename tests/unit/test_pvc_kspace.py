"""Regional signals from k-space are exact, know their noise, and show where the model is wrong."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Acquisition, Geometry
from sodiumprep.sodium.density import radial_weights
from sodiumprep.sodium.encoding import forward
from sodiumprep.sodium.kernel import decay_from_first_sample
from sodiumprep.sodium.measurement import Measurement
from sodiumprep.sodium.model_based import MeasurementModel
from sodiumprep.sodium.noise import noise_samples
from sodiumprep.sodium.pvc.kspace import (
    GROUPS,
    WhiteSamples,
    kspace_regression,
    robust_weights,
    scan_time_curve,
    white_samples,
)
from sodiumprep.sodium.pvc.sensitivity import moved_borders
from sodiumprep.sodium.segments import Evolution, time_segments
from sodiumprep.sodium.signal import Relaxation, biexponential_decay
from sodiumprep.sodium.trajectory import density_adapted_radial

N, FACTOR, VOXEL = 16, 3, 4e-3
SPOKES, SAMPLES, COILS = 200, 40, 2
GRID = Geometry(np.zeros(3), np.eye(3), (N * VOXEL,) * 3, (N,) * 3)
FINE = Geometry(np.zeros(3), np.eye(3), (N * VOXEL,) * 3, (N * FACTOR,) * 3)
TRAJECTORY = density_adapted_radial(SPOKES, SAMPLES, 0.5 / VOXEL).astype(np.float64)
TIMES = np.linspace(0, 0.01, SAMPLES)
ECHO_TIME = 3e-4
FLUID = Relaxation(0.058, 0.056, 0.056, 0.0)
WHITE = Relaxation(0.037, 0.0034, 0.0235, 0.6)
GREY = Relaxation(0.037, 0.0039, 0.0263, 0.6)
NAMES = ["CSF", "WM", "GM"]
TRUTH = np.array([145.0, 38.0, 42.0])
DECAYS = np.stack([decay_from_first_sample(r, TIMES, ECHO_TIME) for r in (FLUID, WHITE, GREY)])
VARIANCE = 1e-10  # of a complex sample of the noisy scans


def places(factor):
    """Return where voxels cut into parts lie, shape (3, n, n, n) [m]."""
    axis = ((np.arange(N * factor) - (factor - 1) / 2) / factor - N // 2) * VOXEL
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))


@cache
def fractions():
    """Return soft shells around fluid that lie a bit off centre."""
    x, y, z = (places(FACTOR) - np.array([1e-3, -2e-3, 5e-4])[:, None, None, None]) / VOXEL
    radius = np.sqrt((x / 0.9) ** 2 + y**2 + (z / 1.1) ** 2)
    inside = [1 / (1 + np.exp(6 * (radius - edge))) for edge in (2, 4, 5.5)]
    return inside[0], inside[1] - inside[0], inside[2] - inside[1]


def sensitivities(place):
    """Return two smooth coils with a phase."""
    return np.stack([
        np.exp(-((place[0] - x) ** 2 + (place[1] - y) ** 2) / 0.02 + 5j * (place[2] + x))
        for x, y in ((0.05, 0.0), (-0.03, 0.04))
    ])  # fmt: skip


def encoded(image, trajectory=TRAJECTORY):
    """Return what a finely sampled object gives, summed over its voxels, in double precision."""
    corner = places(FACTOR)[:, N * FACTOR // 2, N * FACTOR // 2, N * FACTOR // 2]
    shift = np.exp(-2j * np.pi * trajectory @ corner)
    return shift * forward(image.astype(complex), trajectory, FINE) * (VOXEL / FACTOR) ** 3


@cache
def columns():
    """Return what each region with signal 1 gives, shape (regions, coils, readouts, n)."""
    seen = sensitivities(places(FACTOR))
    return np.stack([
        [encoded(fraction * coil) * decay for coil in seen]
        for fraction, decay in zip(fractions(), DECAYS, strict=True)
    ])  # fmt: skip


def exact():
    return np.tensordot(TRUTH, columns(), 1)


def scanned(samples, weights=None, segments=None):
    maps = sensitivities(places(1)).astype(np.complex64)
    return WhiteSamples(
        samples.astype(np.complex64), maps, VARIANCE, TRAJECTORY.astype(np.float32), GRID,
        segments, weights,
    )  # fmt: skip


def robust():
    return robust_weights(radial_weights(TRAJECTORY))


def estimate(white, regions=None, decays=DECAYS, names=NAMES):
    return kspace_regression(white, iter(regions or fractions()), FACTOR, decays, names)


@cache
def of_exact():
    return estimate(scanned(exact(), robust()))


def dense(weights):
    """Return ``A`` as real rows, and weights as long."""
    rows = columns().reshape(3, -1)
    wide = np.broadcast_to(weights, columns().shape[1:]).ravel()
    return np.concatenate([rows.real, rows.imag], axis=1), np.concatenate([wide, wide])


def test_an_exact_scan_is_recovered_with_equal_weights_and_with_robust_ones():
    np.testing.assert_allclose(of_exact().values, TRUTH, rtol=1e-4)
    np.testing.assert_allclose(estimate(scanned(exact())).values, TRUTH, rtol=1e-4)


def test_single_samples_are_those_of_a_sum_over_fine_voxels_written_out():
    fraction = fractions()[1] * sensitivities(places(FACTOR))[0]
    used = np.abs(fraction) > 1e-6
    place = places(FACTOR)[:, used]
    for readout, sample in ((0, 0), (77, 20), (181, SAMPLES - 1)):
        phase = np.exp(-2j * np.pi * TRAJECTORY[readout, sample] @ place)
        asked = (fraction[used] @ phase) * (VOXEL / FACTOR) ** 3 * DECAYS[1, sample]
        assert columns()[1, 0, readout, sample] == pytest.approx(asked, rel=1e-4, abs=1e-11)


@pytest.mark.parametrize("weights", [None, robust()])
def test_the_normal_matrices_are_the_dense_ones(weights):
    found = estimate(scanned(exact(), weights))
    rows, wide = dense(np.ones((SPOKES, SAMPLES)) if weights is None else weights)
    for power, matrices in ((1, found.normals), (2, found.noise_normals)):
        asked = (rows * wide**power) @ rows.T
        np.testing.assert_allclose(matrices.sum(axis=0), asked, rtol=2e-4)
    asked = (rows * wide) @ (TRUTH @ rows)
    np.testing.assert_allclose(found.projections.sum(axis=0), asked, rtol=2e-4)


def test_the_projection_is_the_adjoint_of_the_encoding():
    rng = np.random.default_rng(0)
    any_samples = rng.standard_normal((2, COILS, SPOKES, SAMPLES)) * 1e-4
    found = estimate(scanned(any_samples[0] + 1j * any_samples[1])).projections.sum(axis=0)
    asked = np.sum(columns().conj() * (any_samples[0] + 1j * any_samples[1]), axis=(1, 2, 3)).real
    scale = np.sqrt(np.sum(np.abs(columns()) ** 2, axis=(1, 2, 3))) * np.linalg.norm(any_samples)
    np.testing.assert_allclose(found / scale, asked / scale, atol=1e-6)


def solution(weights):
    """Return the dense matrix from real samples to estimates."""
    rows, wide = dense(weights)
    return np.linalg.inv((rows * wide) @ rows.T) @ (rows * wide)


@pytest.mark.parametrize("weights", [None, robust()])
def test_the_covariance_is_that_of_white_noise_through_the_dense_solution(weights):
    stated = estimate(scanned(exact(), weights)).covariance
    solve = solution(np.ones((SPOKES, SAMPLES)) if weights is None else weights)
    np.testing.assert_allclose(stated, solve @ solve.T * VARIANCE / 2, rtol=1e-3)


def test_estimates_of_noisy_scans_scatter_as_stated():
    rng, stated = np.random.default_rng(1), of_exact()
    solve = solution(robust()).reshape(3, 2, -1)
    noise = noise_samples(VARIANCE * np.eye(COILS), (SPOKES, SAMPLES * 200), rng)
    noise = (
        noise.reshape(COILS, SPOKES, 200, SAMPLES).swapaxes(1, 2).swapaxes(0, 1).reshape(200, -1)
    )
    drawn = solve[:, 0] @ noise.real.T + solve[:, 1] @ noise.imag.T
    ratio = drawn.std(axis=1, ddof=1) / np.sqrt(np.diag(stated.covariance))
    np.testing.assert_allclose(ratio, 1, atol=4 / np.sqrt(400))


def test_equal_weights_have_the_smallest_covariance():
    equal, other = estimate(scanned(exact())), of_exact()
    assert np.all(np.diag(equal.covariance) < np.diag(other.covariance))


def test_what_no_region_accounts_for_misleads_robust_weights_less_from_a_distance():
    place = places(FACTOR)
    away = np.linalg.norm(place - np.array([-0.025, -0.02, 0.02])[:, None, None, None], axis=0)
    eye = 100.0 * (away < 5e-3)
    samples = exact() + [encoded(eye * coil) * DECAYS[0] for coil in sensitivities(place)]
    equal, weighed = (
        np.abs(estimate(scanned(samples, weights)).values / TRUTH - 1)
        for weights in (None, robust())
    )
    assert np.all(weighed < 0.6 * equal)


def test_the_order_of_the_regions_does_not_matter():
    order = [2, 0, 1]
    turned = estimate(
        scanned(exact(), robust()), [fractions()[i] for i in order], DECAYS[order],
        [NAMES[i] for i in order],
    )  # fmt: skip
    np.testing.assert_allclose(turned.values, of_exact().values[order], rtol=1e-4)


def test_the_decay_of_another_tissue_gives_a_bias():
    wrong = estimate(scanned(exact(), robust()), decays=DECAYS[[0, 0, 2]])
    assert np.abs(wrong.values / TRUTH - 1)[1] > 0.05
    assert wrong.reduced_chi_square > 2 * of_exact().reduced_chi_square


def test_the_decay_starts_from_what_the_echo_time_has_left():
    late = decay_from_first_sample(WHITE, TIMES, 1e-3)
    assert late[0] == 1
    assert late[-1] > biexponential_decay(TIMES, WHITE)[-1] * 1.02


def noisy(seed=2):
    rng = np.random.default_rng(seed)
    return exact() + noise_samples(VARIANCE * np.eye(COILS), (SPOKES, SAMPLES), rng)


def test_the_residual_of_each_readout_is_noise_where_the_model_holds():
    found = estimate(scanned(noisy(), robust()))
    assert found.residual.shape == (SPOKES,)
    assert found.residual.mean() == pytest.approx(1, abs=0.02)
    assert found.residual.std() == pytest.approx(1 / np.sqrt(COILS * SAMPLES), rel=0.2)
    assert found.degrees_of_freedom == 2 * COILS * SPOKES * SAMPLES - 3


def test_a_region_that_is_missing_shows_in_every_readout():
    found = estimate(scanned(noisy()), fractions()[1:], DECAYS[1:], NAMES[1:])
    assert found.residual.min() > 2


def test_a_spoilt_readout_stands_out():
    samples = noisy()
    samples[:, 17] *= np.exp(0.5j)
    found = estimate(scanned(samples, robust()))
    assert np.argmax(found.residual) == 17
    assert found.residual[17] > 3 * np.median(found.residual)


def test_off_resonance_in_the_model_is_undone():
    gradient = 1200.0  # Hz/m: acts like a shift of k that grows with time
    shifted = TRAJECTORY.copy()
    shifted[..., 1] += gradient * (TIMES + ECHO_TIME)
    seen = sensitivities(places(FACTOR))
    samples = np.sum([
        [encoded(value * fraction * coil, shifted) * decay for coil in seen]
        for value, fraction, decay in zip(TRUTH, fractions(), DECAYS, strict=True)
    ], axis=0)  # fmt: skip
    hertz = (gradient * np.clip(places(1)[1], -0.025, 0.025)).astype(np.float32)
    turning = Evolution(TIMES, off_resonance=hertz, echo_time=ECHO_TIME)
    segments = time_segments(turning, n_segments=12)
    known = estimate(scanned(samples, robust(), segments)).values
    np.testing.assert_allclose(known, TRUTH, rtol=2e-3)
    ignored = estimate(scanned(samples, robust())).values
    assert np.abs(ignored / TRUTH - 1).max() > 0.006


def test_shorter_scans_scatter_as_their_covariance_says():
    curve = scan_time_curve(estimate(scanned(noisy(), robust())))
    assert curve["Share"] == [0.05, 0.1, 0.2, 0.25, 0.5, 1.0]
    assert curve["Scatter"][-1] is None
    for ratio, chance in zip(
        curve["ScatterOverUncertainty"][:3], curve["ChanceOfRatio"][:3], strict=True
    ):
        assert ratio == pytest.approx(1, abs=4 * chance)
    growth = np.array(curve["Uncertainty"][1]) / curve["Uncertainty"][-1]
    np.testing.assert_allclose(growth, np.sqrt(10), rtol=0.1)


def test_part_of_a_scan_is_the_estimate_of_its_readouts_alone():
    white = scanned(noisy(), robust())
    values, covariance = estimate(white).of_readouts(4)
    own = slice(1, None, 4)
    alone = estimate(replace(
        white, samples=white.samples[:, own], trajectory=white.trajectory[own],
        weights=white.weights[own],
    ))  # fmt: skip
    np.testing.assert_allclose(values[1], alone.values, rtol=1e-4)
    np.testing.assert_allclose(covariance[1], alone.covariance, rtol=1e-3)
    with pytest.raises(ValueError, match=f"3 parts of {GROUPS} groups"):
        estimate(white).of_readouts(3)


def acquisition(samples):
    return Acquisition(
        samples.astype(np.complex64), TRAJECTORY.astype(np.float32), TIMES[1], ECHO_TIME, 0.12,
        np.pi / 2, 3.0, GRID,
    )  # fmt: skip


def test_sensitivities_from_the_data_and_the_profile_give_the_unit_of_the_image():
    covariance = VARIANCE * np.array([[2, 0.5j], [-0.5j, 1]])
    measured = Measurement(
        acquisition(exact()), radial_weights(TRAJECTORY).astype(np.float32), "", covariance, ""
    )
    profile = np.sqrt(np.sum(np.abs(sensitivities(places(1))) ** 2, axis=0))
    white = white_samples(MeasurementModel(measured), profile)
    found = estimate(white)
    np.testing.assert_allclose(found.values, TRUTH, rtol=0.03)
    without = estimate(white_samples(MeasurementModel(measured)))
    assert np.all(np.abs(without.values / TRUTH - 1) > 0.1)


def test_readouts_in_parts_give_the_same(monkeypatch):
    monkeypatch.setattr("sodiumprep.sodium.pvc.kspace.MEMORY", 2e5)
    parts = estimate(scanned(exact(), robust()))
    np.testing.assert_allclose(parts.values, of_exact().values, rtol=1e-5)
    np.testing.assert_allclose(parts.normals, of_exact().normals, rtol=1e-4)


def test_regions_that_cannot_be_told_apart_are_named():
    shells = fractions()
    twice = [*shells[:2], shells[2] / 2, shells[2] / 2]
    with pytest.raises(ValueError, match=r"cannot be told apart.*'GM.*'GM.*merge them"):
        estimate(scanned(exact()), twice, DECAYS[[0, 1, 2, 2]], ["CSF", "WM", "GM1", "GM2"])


def test_an_empty_region_is_named():
    regions = [*fractions(), np.zeros_like(fractions()[0])]
    with pytest.raises(ValueError, match="region 'lesion' gives no signal"):
        estimate(scanned(exact()), regions, DECAYS[[0, 1, 2, 2]], [*NAMES, "lesion"])


def test_fractions_on_another_grid_or_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"of shape \(16, 16, 16\) came"):
        estimate(scanned(exact()), [f[::3, ::3, ::3] for f in fractions()])
    broken = fractions()[0].copy()
    broken[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match="1 values not finite"):
        estimate(scanned(exact()), [broken, *fractions()[1:]])
    with pytest.raises(ValueError, match="4 parts; accepted: an odd number"):
        kspace_regression(scanned(exact()), fractions(), 4, DECAYS, NAMES)
    with pytest.raises(ValueError, match="3 fractions, 2 names"):
        estimate(scanned(exact()), names=NAMES[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_variance": 0.0}, "must be above 0"),
        ({"samples": np.zeros((COILS, 5, SAMPLES), np.complex64)}, "the grid ask for"),
        ({"samples": np.full((COILS, SPOKES, SAMPLES), np.nan + 0j)}, "not finite"),
        ({"weights": np.full((SPOKES, SAMPLES), -1.0)}, "none below 0"),
    ],
)
def test_samples_without_meaning_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(scanned(exact()), **change)


def test_weights_need_a_density():
    with pytest.raises(ValueError, match="median of the density"):
        robust_weights(np.zeros((3, 4)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_another_position_changes_is_known_to_second_order(axis):
    shift = 5e-4 * np.eye(3)[axis]
    forth, back = (
        estimate(scanned(exact() * np.exp(-2j * np.pi * TRAJECTORY @ s), robust())).values
        for s in (shift, -shift)
    )
    middle = of_exact().values
    expected = np.stack([(forth - back) / 2, (forth + back) / 2 - middle])
    stated = of_exact().shift_changes(np.full(3, 5e-4))[[axis, 3 + axis]]
    np.testing.assert_allclose(stated, expected, rtol=0.05, atol=2e-3)
    assert expected.max() > 0.05


def test_moved_borders_change_what_fractions_with_those_borders_would():
    shares = list(fractions())
    alone, *together = moved_borders(shares, 2, 1.5)
    rows = [[alone], together]
    found = kspace_regression(
        scanned(exact(), robust()), shares, FACTOR, DECAYS, NAMES, borders=rows
    )
    np.testing.assert_allclose(found.values, of_exact().values, rtol=1e-6)
    for changes, row in zip(found.border_changes, rows, strict=True):
        elsewhere = [share.copy() for share in shares]
        for border in row:
            elsewhere[border.grown] += border.taken
            elsewhere[border.shrunk] -= border.taken
        again = estimate(scanned(exact(), robust()), elsewhere).values
        assert np.abs(changes).max() > 0.3
        np.testing.assert_allclose(found.values + changes, again, rtol=1e-5)
