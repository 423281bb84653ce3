"""Point-spread functions: published widths, gain, and blurring without wrap-around."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.sparse.linalg import LinearOperator, cg

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.density import hamming_filter, radial_weights
from sodiumprep.sodium.encoding import adjoint, forward
from sodiumprep.sodium.kernel import (
    FWHM_TO_SIGMA,
    Response,
    blur,
    decay_from_first_sample,
    full_width_half_maximum,
    gaussian_transfer,
    local_response,
    on_doubled_grid,
    point_samples,
    point_spread,
    readout_times,
    relative_radius,
    response_at,
    spherical_transfer,
    tissue_transfers,
    to_psf,
    to_transfer,
    with_gaussian_kernel,
)
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.trajectory import density_adapted_radial

VOXEL = np.full(3, 4e-3)
GRID = Geometry(np.zeros(3), np.eye(3), (0.08,) * 3, (20, 20, 20))
LASTING = Relaxation(t1=1.0, t2_short=1e9, t2_long=1e9, short_fraction=0.0)
TISSUES = {"none": LASTING, **{name: relaxation_of(name, 3.0) for name in ("GM", "WM", "CSF")}}
TRAJECTORY = density_adapted_radial(1600, 90, 0.5 / VOXEL[0])
WIDTHS = [  # tissue, readout [s], Hamming, published FWHM in nominal voxels
    ("none", 0.02, False, 1.59), ("none", 0.02, True, 1.99),
    ("CSF", 0.005, False, 1.60), ("CSF", 0.02, False, 1.63),
    ("CSF", 0.005, True, 2.01), ("CSF", 0.02, True, 2.05),
    ("WM", 0.005, False, 1.68), ("WM", 0.02, False, 1.81),
    ("WM", 0.005, True, 2.12), ("WM", 0.02, True, 2.33),
    ("GM", 0.005, False, 1.67), ("GM", 0.02, False, 1.79),
    ("GM", 0.005, True, 2.11), ("GM", 0.02, True, 2.31),
]  # fmt: skip


def width_of(transfer):
    return full_width_half_maximum(to_psf(transfer), VOXEL) / VOXEL


def spherical(tissue, times, hamming=False):
    return spherical_transfer(relative_radius(GRID, VOXEL), times, TISSUES[tissue], hamming, 0.0)


@pytest.mark.parametrize(("tissue", "readout", "hamming", "published"), WIDTHS)
def test_a_spherical_coverage_has_the_published_width(tissue, readout, hamming, published):
    times = readout_times("density-adapted radial", readout)
    width = width_of(spherical(tissue, times, hamming))
    np.testing.assert_allclose(width, published, rtol=0.02)


@pytest.mark.parametrize(("tissue", "readout", "hamming", "published"), WIDTHS[::3])
def test_a_radial_trajectory_has_the_published_width(tissue, readout, hamming, published):
    weights = radial_weights(TRAJECTORY) * (hamming_filter(TRAJECTORY) if hamming else 1)
    times = np.linspace(0, readout, TRAJECTORY.shape[1])
    named = {tissue: TISSUES[tissue]}
    transfer = tissue_transfers(named, weights, times, TRAJECTORY, GRID, 0.0)[tissue]
    np.testing.assert_allclose(width_of(transfer), published, rtol=0.02)


def test_plain_radial_white_matter_has_the_published_width():
    times = readout_times("radial", 0.02)
    np.testing.assert_allclose(width_of(spherical("WM", times)), 1.70, rtol=0.02)


@pytest.mark.parametrize("tissue", list(TISSUES))
@pytest.mark.parametrize("hamming", [False, True])
def test_a_spherical_transfer_passes_the_mean_unchanged(tissue, hamming):
    transfer = spherical(tissue, readout_times("radial", 0.02), hamming)
    assert transfer[0, 0, 0] == pytest.approx(1.0, abs=1e-6)
    assert transfer.max() <= 1.0 + 1e-6


@pytest.mark.parametrize("tissue", list(TISSUES))
def test_a_computed_transfer_passes_the_mean_unchanged(tissue):
    named, times = {tissue: TISSUES[tissue]}, np.linspace(0, 0.02, TRAJECTORY.shape[1])
    weights = radial_weights(TRAJECTORY)
    transfer = tissue_transfers(named, weights, times, TRAJECTORY, GRID, 0.0)[tissue]
    # not 1 exactly: lags beyond the field of view are cut off, and the tail of a decay is long
    assert abs(transfer[0, 0, 0]) == pytest.approx(1.0, abs=0.02)


def test_nothing_passes_outside_the_sampled_sphere():
    radius = relative_radius(GRID, VOXEL)
    transfer = spherical("WM", readout_times("radial", 0.01))
    assert not transfer[radius > 1.0].any()
    assert transfer[radius < 1.0].all()


def test_a_kernel_is_the_image_of_a_point():
    psf = point_spread(radial_weights(TRAJECTORY), np.ones(90), TRAJECTORY, GRID)
    assert psf.shape == (40, 40, 40)
    assert np.unravel_index(psf.argmax(), psf.shape) == (20, 20, 20)
    assert psf.sum() == pytest.approx(1.0, abs=0.02)


def test_kernel_and_transfer_are_each_others_inverse():
    psf = np.random.default_rng(0).normal(size=(8, 6, 10))
    np.testing.assert_allclose(to_psf(to_transfer(psf)), psf, atol=1e-12)


def test_the_width_of_a_gaussian_is_found_along_each_axis():
    grid = Geometry(np.zeros(3), np.eye(3), (0.08, 0.06, 0.09), (20, 12, 30))
    fwhm = np.array([9e-3, 13e-3, 7e-3])
    psf = to_psf(gaussian_transfer(grid, fwhm))
    np.testing.assert_allclose(full_width_half_maximum(psf, grid.voxel_size), fwhm, rtol=5e-3)


def test_blurring_a_point_gives_the_kernel_at_its_place():
    transfer, point = spherical("WM", readout_times("radial", 0.02)), np.zeros((20, 20, 20))
    point[4, 9, 15] = 1.0
    psf = to_psf(transfer)
    expected = psf[16:36, 11:31, 5:25]
    np.testing.assert_allclose(blur(point, transfer), expected, atol=1e-7)


def test_blurring_does_not_wrap_around():
    point = np.zeros((20, 20, 20))
    point[0, 10, 10] = 1.0
    blurred = blur(point, gaussian_transfer(GRID, np.full(3, 10e-3)))
    assert np.abs(blurred[-5:]).max() < 1e-3 * blurred.max()
    assert blurred[0, 10, 10] == blurred.max()


def test_blurring_by_a_gaussian_agrees_with_convolution_in_space():
    image = np.random.default_rng(1).normal(size=(20, 20, 20))
    fwhm = np.array([10e-3, 11e-3, 13e-3])
    sigma = fwhm * FWHM_TO_SIGMA / VOXEL
    expected = gaussian_filter(image, sigma, mode="constant", truncate=8)
    np.testing.assert_allclose(blur(image, gaussian_transfer(GRID, fwhm)), expected, atol=2e-3)


def test_blurring_is_linear_and_keeps_the_type():
    rng, transfer = np.random.default_rng(2), gaussian_transfer(GRID, np.full(3, 8e-3))
    one, other = rng.normal(size=(2, 20, 20, 20)).astype(np.float32)
    together = blur(one - 2 * other, transfer)
    parts = blur(one, transfer) - 2 * blur(other, transfer)
    np.testing.assert_allclose(together, parts, atol=1e-5)
    assert together.dtype == np.float32


@pytest.mark.parametrize("kind", ["radial", "density-adapted radial", "tpi", "cones", "floret"])
def test_a_readout_passes_every_radius_in_time(kind):
    times = readout_times(kind, 0.01)
    assert times[0] == 0
    assert times[-1] == pytest.approx(0.01)
    assert np.all(np.diff(times) > 0)


def test_the_decay_of_a_cartesian_readout_does_not_follow_the_radius():
    assert not readout_times("cartesian", 0.01).any()


def test_a_given_width_replaces_every_kernel_and_keeps_the_noise():
    old = Response({"GM": np.ones((40, 40, 21)), "CSF": np.ones((40, 40, 21))}, np.ones(1))
    new = with_gaussian_kernel(old, GRID, np.full(3, 10e-3))
    assert list(new.transfers) == ["GM", "CSF"]
    assert new.noise_spectrum is old.noise_spectrum
    np.testing.assert_allclose(width_of(new.transfers["GM"]), 2.5, rtol=0.01)


TIMES = np.linspace(0, 0.02, TRAJECTORY.shape[1])
VOXEL_AT = (12, 8, 11)
ONE_COIL = np.ones(1, np.complex64)


def gridded(samples):
    return adjoint(samples[0] * radial_weights(TRAJECTORY), TRAJECTORY, GRID)


def point_of(tissue, voxel=VOXEL_AT):
    decay = decay_from_first_sample(TISSUES[tissue], TIMES, 0.0)
    return point_samples(voxel, decay, ONE_COIL, TRAJECTORY, GRID)


@pytest.mark.parametrize("tissue", ["CSF", "WM"])
def test_the_local_response_of_gridding_is_its_kernel(tissue):
    some = np.random.default_rng(0).normal(size=(1, *TRAJECTORY.shape[:2])).astype(np.complex64)
    found = local_response(gridded, some * 1e-9, point_of(tissue), VOXEL_AT, 2.0)
    exact = tissue_transfers(
        {tissue: TISSUES[tissue]}, radial_weights(TRAJECTORY), TIMES, TRAJECTORY, GRID, 0.0
    )[tissue]
    np.testing.assert_allclose(width_of(found.transfer), width_of(exact), rtol=0.01)
    assert found.gain == pytest.approx(exact[0, 0, 0].real, abs=0.03)  # tails are cut at the edge
    assert found.voxel == VOXEL_AT


def test_a_local_kernel_passes_the_mean_and_keeps_its_gain_apart():
    found = local_response(lambda s: 0.8 * gridded(s), 0 * point_of("WM"), point_of("WM"),
                           VOXEL_AT, 1.0)  # fmt: skip
    whole = local_response(gridded, 0 * point_of("WM"), point_of("WM"), VOXEL_AT, 1.0)
    assert found.transfer[0, 0, 0] == pytest.approx(1.0, abs=1e-6)
    assert found.gain == pytest.approx(0.8 * whole.gain)
    assert found.passed[0, 0, 0].real == pytest.approx(found.gain, rel=1e-6)


def test_a_known_baseline_saves_a_reconstruction_and_changes_nothing():
    data, point, calls = 3 * point_of("CSF", (5, 9, 9)), point_of("WM"), []

    def counted(samples):
        calls.append(1)
        return gridded(samples)

    found = local_response(counted, data, point, VOXEL_AT, 1.0, baseline=gridded(data))
    assert len(calls) == 1
    assert found.gain == pytest.approx(local_response(gridded, data, point, VOXEL_AT, 1.0).gain)


def test_the_response_of_a_nonlinear_method_depends_on_the_amplitude():
    def shrunk(samples):
        image = gridded(samples).real
        return np.sign(image) * np.maximum(np.abs(image) - 0.1, 0)

    none = 0 * point_of("CSF")
    weak, strong = (
        local_response(shrunk, none, point_of("CSF"), VOXEL_AT, a).gain for a in (1.0, 100.0)
    )
    assert weak < 0.7 * strong


def regularized(tissue, weight):
    """Return the response of ``(A^H W A + weight)^-1 A^H W A_t`` to a point."""
    small = Geometry(np.zeros(3), np.eye(3), (0.032,) * 3, (8, 8, 8))
    spokes = density_adapted_radial(200, 30, 0.5 / VOXEL[0])
    density = radial_weights(spokes) * np.prod(small.voxel_size)
    decay = decay_from_first_sample(TISSUES[tissue], np.linspace(0, 0.02, 30), 0.0)

    def normal(image, factor):
        return adjoint(forward(image, spokes, small) * factor, spokes, small)

    def damped(flat):
        return normal(flat.reshape(8, 8, 8), density).ravel() + weight * flat

    point = np.zeros((8, 8, 8), np.complex64)
    point[4, 4, 4] = 1
    operator = LinearOperator((512, 512), damped, dtype=np.complex64)
    image, _ = cg(operator, normal(point, density * decay).ravel(), rtol=1e-4, maxiter=30)
    return response_at(image.real.reshape(8, 8, 8), (4, 4, 4))


def test_regularization_widens_the_kernel_and_lowers_its_gain():
    weak, strong = regularized("WM", 0.01), regularized("WM", 1.0)
    assert width_of(strong.transfer)[0] > 1.03 * width_of(weak.transfer)[0]
    assert strong.gain < 0.7 * weak.gain


def test_decay_widens_the_kernel_of_a_regularized_solution():
    assert width_of(regularized("WM", 0.1).transfer)[0] > 1.03 * width_of(
        regularized("none", 0.1).transfer
    )[0]  # fmt: skip


def test_the_image_of_a_point_goes_to_the_centre_of_the_doubled_grid():
    image = np.random.default_rng(3).normal(size=(4, 6, 5))
    doubled = on_doubled_grid(image, (1, 4, 2))
    assert doubled.shape == (8, 12, 10)
    assert doubled[4, 6, 5] == image[1, 4, 2]
    assert doubled.sum() == pytest.approx(image.sum())


@pytest.mark.parametrize("amplitude", [0.0, -1.0])
def test_a_point_without_amplitude_is_refused(amplitude):
    with pytest.raises(ValueError, match="amplitude of the point"):
        local_response(gridded, point_of("WM"), point_of("WM"), VOXEL_AT, amplitude)


def test_a_point_that_leaves_nothing_in_the_image_is_refused():
    with pytest.raises(ValueError, match="image of a point sums to 0"):
        response_at(np.zeros((4, 4, 4)), (2, 2, 2))


def test_a_later_echo_has_lost_more_of_its_fast_component_and_a_narrower_kernel():
    weights, tissue = radial_weights(TRAJECTORY), {"WM": TISSUES["WM"]}
    widths = [
        width_of(tissue_transfers(tissue, weights, TIMES, TRAJECTORY, GRID, echo)["WM"])
        for echo in (0.0, 3e-4, 5e-3)
    ]
    assert np.all(widths[0] > widths[1])
    assert np.all(widths[1] > widths[2])
    late = decay_from_first_sample(TISSUES["WM"], TIMES, 0.1)  # nothing but the slow one is left
    np.testing.assert_allclose(late, np.exp(-TIMES / TISSUES["WM"].t2_long), rtol=1e-3)
