"""Total variation: adjointness, known minimizers, convergence against a long run, units."""

import numpy as np
import pytest
from sigpy.linop import FFT, Identity, Multiply

from sodiumprep.sodium.iterative import LeastSquares, conjugate_gradient, squared_norm
from sodiumprep.sodium.total_variation import (
    Gradient,
    lengths,
    noise_strength,
    shortened,
    total_variation,
)

SHAPE = (12, 10, 8)
ANISOTROPIC = np.array([2.0, 1.0, 4.0])


def noise(*shape, dtype=np.complex64, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)


def blocks():
    image = np.zeros(SHAPE, np.complex64)
    image[3:9, 2:8, 2:6] = 1
    image[5:7, 4:6, 3:5] = 2
    return image


def problem_of(image, level=0.3, share=0.6, scale=1.0):
    """Return noisy samples of a share of an image's k-space as a problem."""
    rng = np.random.default_rng(5)
    mask = (rng.random(image.shape) < share).astype(np.float32) * np.float32(scale)
    encoding = Multiply(image.shape, mask) * FFT(image.shape)
    samples = encoding(image + level * noise(*image.shape, seed=6))
    return LeastSquares(encoding.H * encoding, encoding.H(samples), squared_norm(samples))


def error(image, truth):
    return np.linalg.norm(image - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_the_gradient_and_its_adjoint_agree(dtype):
    gradient = Gradient(SHAPE, ANISOTROPIC)
    image, vectors = noise(*SHAPE, dtype=dtype), noise(3, *SHAPE, dtype=dtype)
    forth, back = np.vdot(vectors, gradient(image)), np.vdot(gradient.H(vectors), image)
    assert abs(forth - back) < (1e-5 if dtype == np.complex64 else 1e-12) * abs(forth)


def test_the_normal_operator_of_the_gradient_is_its_adjoint_of_it():
    gradient, image = Gradient(SHAPE, ANISOTROPIC), noise(*SHAPE, dtype=np.complex128)
    np.testing.assert_allclose(gradient.N(image), gradient.H(gradient(image)), atol=1e-12)


def test_the_gradient_knows_the_size_of_voxels():
    ramp = np.broadcast_to(np.arange(10.0)[:, None], SHAPE)
    steps = Gradient(SHAPE, ANISOTROPIC)(np.ascontiguousarray(ramp))
    assert lengths(steps)[0, 0, 0] == pytest.approx(1.0)
    coarse = np.ascontiguousarray(np.broadcast_to(np.arange(8.0), SHAPE))
    assert lengths(Gradient(SHAPE, ANISOTROPIC)(coarse))[0, 0, 0] == pytest.approx(0.25)


def test_vectors_are_shortened_without_being_turned():
    vectors = noise(3, *SHAPE, dtype=np.complex128)
    short = shortened(vectors, 0.5)
    np.testing.assert_allclose(lengths(short), np.maximum(lengths(vectors) - 0.5, 0), atol=1e-12)
    np.testing.assert_allclose(short * lengths(vectors), vectors * lengths(short), atol=1e-12)


def test_a_flat_image_costs_nothing():
    flat = np.full(SHAPE, 2 + 1j, np.complex64)
    solution = total_variation(problem_of(flat, level=0.0, share=1.1), 0.1)
    np.testing.assert_allclose(solution.image, flat, atol=1e-4)


def test_two_flat_halves_come_closer_by_what_theory_says():
    halves = np.zeros(SHAPE, np.complex128)
    halves[6:] = 1.0
    problem = LeastSquares(Identity(SHAPE), halves, squared_norm(halves))
    solution = total_variation(problem, 0.3, tolerance=1e-10, max_iterations=300)
    # one face per column of six voxels: each half moves by lambda / 6
    expected = np.where(halves.real > 0.5, 1 - 0.3 / 6, 0.3 / 6)
    np.testing.assert_allclose(solution.image.real, expected, atol=1e-3)


def test_no_strength_is_least_squares():
    problem = problem_of(blocks(), share=1.1)
    plain = conjugate_gradient(problem, tolerance=1e-6).image
    np.testing.assert_allclose(
        total_variation(problem, 0.0, tolerance=1e-7).image, plain, atol=1e-3
    )


def test_an_overwhelming_strength_leaves_the_mean():
    problem = problem_of(blocks(), share=1.1)
    image = total_variation(problem, 10.0, tolerance=1e-7, max_iterations=60).image
    np.testing.assert_allclose(image, problem.projected.mean(), atol=1e-2)


def test_total_variation_is_nearer_to_a_piecewise_flat_truth():
    problem = problem_of(blocks())
    plain = min(error(conjugate_gradient(problem, r).image, blocks()) for r in (0.0, 0.1, 0.5))
    assert error(total_variation(problem, 0.2).image, blocks()) < 0.7 * plain


def test_few_iterations_reach_the_objective_of_many():
    problem = problem_of(blocks())
    short = total_variation(problem, 0.1)
    long = total_variation(problem, 0.1, tolerance=0.0, max_iterations=100)
    assert short.converged
    assert short.iterations <= 25
    assert short.objective[-1] == pytest.approx(long.objective[-1], rel=1e-3)


def test_no_image_nearby_has_a_lower_objective():
    problem, strength = problem_of(blocks()), 0.1
    best = total_variation(problem, strength, tolerance=0.0, max_iterations=80)
    weight, gradient = strength * problem.gain * problem.amplitude, Gradient(SHAPE)

    def objective(x):
        crossed = np.vdot(x, problem.normal(x)).real / 2 - np.vdot(x, problem.projected).real
        return crossed + problem.energy / 2 + weight * lengths(gradient(x)).sum()

    assert objective(best.image) == pytest.approx(best.objective[-1], rel=1e-5)
    for seed in range(5):
        other = best.image + 0.01 * noise(*SHAPE, seed=seed)
        assert objective(other) > best.objective[-1]


def test_the_strength_does_not_depend_on_units():
    one, thousand = (total_variation(problem_of(blocks(), scale=s), 0.1) for s in (1.0, 1000.0))
    brighter = problem_of(blocks())
    brighter = LeastSquares(brighter.normal, 50 * brighter.projected, 2500 * brighter.energy)
    np.testing.assert_allclose(thousand.image, one.image, atol=1e-3)
    np.testing.assert_allclose(total_variation(brighter, 0.1).image / 50, one.image, atol=1e-3)


def test_the_precision_of_the_data_is_kept():
    single = problem_of(blocks())
    double = LeastSquares(single.normal, single.projected.astype(np.complex128))
    assert total_variation(single, max_iterations=2).image.dtype == np.complex64
    assert total_variation(double, max_iterations=2).image.dtype == np.complex128


def test_the_strength_grows_with_the_noise_and_falls_with_the_signal():
    problem = problem_of(blocks())
    brighter = LeastSquares(problem.normal, 10 * problem.projected)
    assert noise_strength(problem, 0.2, 0.5) == pytest.approx(noise_strength(problem, 0.1))
    assert noise_strength(brighter, 1.0) == pytest.approx(noise_strength(problem, 0.1))


def test_a_strength_in_keeping_with_the_noise_takes_most_of_it_away():
    problem, level = problem_of(blocks(), level=0.1, share=1.1), 0.1
    plain = error(conjugate_gradient(problem).image, blocks())
    penalized = total_variation(problem, noise_strength(problem, level)).image
    assert error(penalized, blocks()) < 0.5 * plain


def test_a_noise_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        noise_strength(problem_of(blocks()), -1.0)
    empty = LeastSquares(Identity(SHAPE), np.zeros(SHAPE, np.complex64))
    with pytest.raises(ValueError, match="are zero"):
        noise_strength(empty, 1.0)


def test_iterations_that_do_not_suffice_are_said():
    assert not total_variation(problem_of(blocks()), 0.1, max_iterations=1).converged


def test_empty_data_give_an_empty_image():
    problem = LeastSquares(Identity(SHAPE), np.zeros(SHAPE, np.complex64))
    assert not total_variation(problem).image.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"strength": -0.1}, "must not be negative"), ({"max_iterations": 0}, "at least 1")],
)
def test_useless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        total_variation(problem_of(blocks()), **options)
