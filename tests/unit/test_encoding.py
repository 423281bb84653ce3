"""The transform against its definition, its adjoint and its symmetries."""

import numpy as np
import pytest

from sodiumprep.sodium import encoding
from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.encoding import adjoint, forward, make_plan
from sodiumprep.sodium.trajectory import density_adapted_radial

GRID = Geometry(np.zeros(3), np.eye(3), (0.07, 0.08, 0.12), (7, 8, 6))
TRAJECTORY = density_adapted_radial(20, 15, 50.0)


def random_complex(seed, shape):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def encoding_matrix():
    """Return exp(-i 2 pi k.r) for all samples and voxels."""
    axes = [
        (np.arange(n) - n // 2) * size
        for n, size in zip(GRID.matrix, GRID.voxel_size, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.exp(-2j * np.pi * (TRAJECTORY.reshape(-1, 3).astype(np.float64) @ places.T))


IMAGE, SAMPLES = random_complex(0, GRID.matrix), random_complex(1, TRAJECTORY.shape[:-1])


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_forward_agrees_with_the_direct_sum():
    direct = (encoding_matrix() @ IMAGE.ravel()).reshape(SAMPLES.shape)
    assert relative_error(forward(IMAGE, TRAJECTORY, GRID), direct) < 3e-5


def test_adjoint_agrees_with_the_direct_sum():
    direct = (encoding_matrix().conj().T @ SAMPLES.ravel()).reshape(GRID.matrix)
    assert relative_error(adjoint(SAMPLES, TRAJECTORY, GRID), direct) < 3e-5


def test_adjoint_is_the_adjoint_of_forward():
    one = np.vdot(SAMPLES, forward(IMAGE, TRAJECTORY, GRID))
    other = np.vdot(adjoint(SAMPLES, TRAJECTORY, GRID), IMAGE)
    scale = np.linalg.norm(SAMPLES) * np.linalg.norm(forward(IMAGE, TRAJECTORY, GRID))
    assert abs(one - other) < 1e-5 * scale


@pytest.mark.parametrize(("transform", "argument"), [(forward, IMAGE), (adjoint, SAMPLES)])
def test_both_transforms_are_linear(transform, argument):
    other = random_complex(2, argument.shape)
    mixed = transform(2 * argument - 3j * other, TRAJECTORY, GRID)
    parts = [transform(a, TRAJECTORY, GRID) for a in (argument, other)]
    assert relative_error(2 * parts[0] - 3j * parts[1], mixed) < 1e-4


def test_leading_axes_are_transformed_one_by_one():
    stacked = adjoint(np.stack([SAMPLES, 2 * SAMPLES]), TRAJECTORY, GRID)
    assert stacked.shape == (2, *GRID.matrix)
    assert relative_error(stacked[1], 2 * adjoint(SAMPLES, TRAJECTORY, GRID)) < 1e-5


def test_a_point_in_the_centre_voxel_gives_the_same_in_all_of_k_space():
    point = np.zeros(GRID.matrix)
    point[3, 4, 3] = 2.0
    np.testing.assert_allclose(forward(point, TRAJECTORY, GRID), 2.0, atol=1e-4)


def test_a_frequency_beyond_the_grid_is_its_alias():
    period = (1 / GRID.voxel_size).astype(np.float32)
    moved = adjoint(SAMPLES, TRAJECTORY + 2 * period, GRID)
    assert relative_error(moved, adjoint(SAMPLES, TRAJECTORY, GRID)) < 2e-4


def test_the_image_is_in_single_precision():
    assert adjoint(SAMPLES, TRAJECTORY, GRID).dtype == np.complex64


def test_double_precision_is_accurate_to_ten_digits():
    image, trajectory = IMAGE.astype(np.complex128), TRAJECTORY.astype(np.float64)
    direct = (encoding_matrix() @ image.ravel()).reshape(SAMPLES.shape)
    found = forward(image, trajectory, GRID)
    assert found.dtype == np.complex128
    assert relative_error(found, direct) < 1e-10


def test_densely_sampled_readouts_keep_accuracy_and_adjointness(monkeypatch):
    monkeypatch.setattr(encoding, "MANY_SAMPLES", 0)
    trajectory = density_adapted_radial(20, 400, 50.0)
    transform, samples = encoding.Transform(trajectory, GRID), random_complex(3, (20, 400))
    plain = make_plan(trajectory, GRID, "complex64")
    expected = plain.execute_adjoint(IMAGE).reshape(20, 400)
    assert relative_error(transform.forward(IMAGE), expected) < 2e-5
    assert relative_error(transform.adjoint(samples), plain.execute(samples.ravel())) < 2e-5
    miss = np.vdot(samples, expected) - np.vdot(transform.adjoint(samples), IMAGE)
    assert abs(miss) < 2e-5 * np.linalg.norm(samples) * np.linalg.norm(expected)


def test_samples_that_are_no_readout_are_not_chosen_among(monkeypatch):
    monkeypatch.setattr(encoding, "MANY_SAMPLES", 0)
    monkeypatch.setattr(encoding, "readout_interpolator", lambda *_: pytest.fail("it chose"))
    heap, samples = TRAJECTORY.reshape(1, -1, 3), SAMPLES.reshape(1, -1)
    transform = encoding.Transform(heap, GRID)
    expected = adjoint(SAMPLES, TRAJECTORY, GRID)
    np.testing.assert_allclose(
        transform.adjoint(samples), expected, atol=1e-6 * abs(expected).max()
    )


@pytest.mark.parametrize(("said", "used"), [("1", 1), ("1,2", 1), ("", None), ("many", None)])
def test_no_more_threads_are_used_than_allowed(said, used, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr(encoding.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert encoding.available_threads() == (used or 3)
