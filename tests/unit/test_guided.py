"""Guided reconstruction: edges of the guide are free, others are not, none are invented."""

import numpy as np
import pytest
from sigpy.linop import FFT, Identity, Multiply

from sodiumprep.sodium.guided import DirectionalGradient, edge_directions, guided
from sodiumprep.sodium.iterative import LeastSquares, squared_norm
from sodiumprep.sodium.total_variation import Gradient, lengths, total_variation

SHAPE = (12, 10, 8)


def noise(*shape, dtype=np.complex64, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)


def blocks():
    image = np.zeros(SHAPE, np.float32)
    image[3:9, 2:8, 2:6] = 1
    image[5:7, 4:6, 3:5] = 2
    return image


def problem_of(image, level=0.5, decay=1.0):
    rng = np.random.default_rng(5)
    mask = (rng.random(image.shape) < 0.6).astype(np.float32) * np.float32(decay)
    encoding = Multiply(image.shape, mask) * FFT(image.shape)
    samples = encoding(image) + decay * level * noise(*image.shape, seed=int(6 + 10 * decay))
    return LeastSquares(encoding.H * encoding, encoding.H(samples), squared_norm(samples))


def error(image, truth):
    return np.linalg.norm(image - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_the_directional_gradient_and_its_adjoint_agree(dtype):
    directional = DirectionalGradient(edge_directions(blocks()), np.array([1.0, 2.0, 3.0]))
    image, vectors = noise(*SHAPE, dtype=dtype), noise(3, *SHAPE, dtype=dtype, seed=1)
    forth, back = np.vdot(vectors, directional(image)), np.vdot(directional.H(vectors), image)
    assert abs(forth - back) < (1e-5 if dtype == np.complex64 else 1e-10) * abs(forth)


def test_an_edge_that_the_guide_shares_costs_little():
    directional = DirectionalGradient(edge_directions(blocks(), 0.01))
    shared = lengths(directional(-3 * blocks().astype(np.complex64))).sum()
    assert shared < 1e-3 * lengths(Gradient(SHAPE)(3 * blocks())).sum()


def test_an_edge_across_the_guides_own_costs_all():
    guide = np.zeros(SHAPE, np.float32)
    guide[6:] = 1
    other = np.zeros(SHAPE, np.float32)
    other[:, :, 4:] = 1
    across = DirectionalGradient(edge_directions(guide, 0.01))(other)
    np.testing.assert_allclose(across, Gradient(SHAPE)(other), atol=1e-5)


def test_directions_do_not_depend_on_the_unit_of_the_guide():
    np.testing.assert_allclose(
        edge_directions(1000 * blocks()), edge_directions(blocks()), atol=1e-6
    )


def test_directions_are_never_longer_than_one():
    rough = blocks() + noise(*SHAPE).real
    assert lengths(edge_directions(rough, 1e-4)).max() <= 1 + 1e-6


def test_without_directions_it_is_total_variation():
    problem = problem_of(blocks())
    nowhere = DirectionalGradient(np.zeros((3, *SHAPE), np.float32))
    np.testing.assert_allclose(
        guided(problem, nowhere, 0.1).image, total_variation(problem, 0.1).image, atol=1e-3
    )


def test_the_guides_edges_help():
    problem = problem_of(blocks())
    directional = DirectionalGradient(edge_directions(blocks()))
    with_guide = error(guided(problem, directional, 0.2).image, blocks())
    assert with_guide < 0.8 * error(total_variation(problem, 0.2).image, blocks())


def test_an_edge_of_the_guide_alone_is_not_copied():
    flat = np.ones(SHAPE, np.float32)
    directional = DirectionalGradient(edge_directions(blocks()))
    image = guided(problem_of(flat, level=0.0), directional, 0.1).image
    np.testing.assert_allclose(image, flat, atol=5e-3)


def test_a_second_echo_lowers_the_error():
    first, second = problem_of(blocks(), 1.0), problem_of(blocks(), 1.0, decay=0.8)
    directional = DirectionalGradient(edge_directions(blocks()))
    alone = error(guided(first, directional, 0.1).image, blocks())
    assert error(guided(first + second, directional, 0.1).image, blocks()) < 0.9 * alone


def test_few_iterations_reach_the_objective_of_many():
    problem, directional = problem_of(blocks()), DirectionalGradient(edge_directions(blocks()))
    short = guided(problem, directional, 0.1)
    long = guided(problem, directional, 0.1, tolerance=0.0, max_iterations=100)
    assert short.converged
    assert short.objective[-1] == pytest.approx(long.objective[-1], rel=1e-3)


@pytest.mark.parametrize(
    ("guide", "sharpness", "message"),
    [
        (blocks(), 0.0, "must be positive"),
        (np.ones(SHAPE), 0.1, "no edge"),
        (np.full(SHAPE, np.nan), 0.1, "not finite"),
    ],
)
def test_a_useless_guide_is_refused(guide, sharpness, message):
    with pytest.raises(ValueError, match=message):
        edge_directions(guide, sharpness)


def test_directions_longer_than_one_are_refused():
    with pytest.raises(ValueError, match="at most 1"):
        DirectionalGradient(np.ones((3, *SHAPE)))


def test_useless_options_are_refused():
    problem = LeastSquares(Identity(SHAPE), np.ones(SHAPE, np.complex64))
    directional = DirectionalGradient(edge_directions(blocks()))
    with pytest.raises(ValueError, match="must not be negative"):
        guided(problem, directional, -1.0)
    with pytest.raises(ValueError, match="at least 1"):
        guided(problem, directional, max_iterations=0)
