"""Least squares through normal operators: exact solutions, laws of the iteration, refusals."""

import numpy as np
import pytest
from sigpy.linop import FFT, MatMul, Multiply

from sodiumprep.sodium.iterative import (
    LeastSquares,
    NormalEquations,
    add_scaled,
    conjugate_gradient,
    inner,
    least_squares,
    squared_norm,
)

RNG = np.random.default_rng(0)
SHAPE = (8, 6, 10)


def complex_noise(*shape, dtype=np.complex128):
    rng = np.random.default_rng(sum(shape))
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)


def dense(n=12, samples=40):
    """Return a matrix, samples, and their least-squares problem."""
    matrix, measured = complex_noise(samples, n), complex_noise(samples + 1)[:samples]
    normal = MatMul((n, 1), matrix.conj().T @ matrix)
    projected = (matrix.conj().T @ measured)[:, None]
    return matrix, measured, LeastSquares(normal, projected, squared_norm(measured))


def sampled_fourier(image, scale=1.0, share=0.7):
    """Return the problem of an image from a share of its k-space."""
    mask = (np.random.default_rng(3).random(image.shape) < share).astype(np.float32)
    encoding = Multiply(image.shape, mask * scale) * FFT(image.shape)
    samples = encoding(image)
    return LeastSquares(encoding.H * encoding, encoding.H(samples), squared_norm(samples))


def test_conjugate_gradients_find_the_least_squares_solution():
    matrix, measured, problem = dense()
    solution = conjugate_gradient(problem, tolerance=1e-12, max_iterations=60)
    exact = np.linalg.lstsq(matrix, measured, rcond=None)[0]
    np.testing.assert_allclose(solution.image[:, 0], exact, rtol=1e-9)


def test_regularization_adds_its_share_of_the_gain_to_the_diagonal():
    matrix, measured, problem = dense()
    solution = conjugate_gradient(problem, 0.3, 1e-12, 60)
    damped = matrix.conj().T @ matrix + 0.3 * problem.gain * np.eye(12)
    exact = np.linalg.solve(damped, matrix.conj().T @ measured)
    np.testing.assert_allclose(solution.image[:, 0], exact, rtol=1e-9)


def test_the_objective_and_the_misfit_are_those_of_the_data():
    matrix, measured, problem = dense()
    solution = conjugate_gradient(problem, 0.3, 1e-12, 60)
    left = squared_norm(matrix @ solution.image[:, 0] - measured)
    penalty = 0.3 * problem.gain * squared_norm(solution.image)
    assert solution.objective[-1] == pytest.approx((left + penalty) / 2, rel=1e-9)
    assert solution.misfit[-1] == pytest.approx(np.sqrt(left / problem.energy), rel=1e-9)


def test_the_objective_never_rises():
    solution = conjugate_gradient(dense()[2], 0.1, 1e-10, 60)
    assert np.all(np.diff(solution.objective) <= 1e-12 * solution.objective[0])


def test_the_solution_is_linear_in_the_data():
    problem = dense()[2]
    double = LeastSquares(problem.normal, 2j * problem.projected)
    one, two = (conjugate_gradient(p, 0.1, 0.0, 7).image for p in (problem, double))
    np.testing.assert_allclose(two, 2j * one, rtol=1e-12)


def test_a_complete_kspace_is_solved_in_one_step():
    image = complex_noise(*SHAPE, dtype=np.complex64)
    solution = conjugate_gradient(sampled_fourier(image, share=1.1))
    assert solution.iterations == 1
    assert solution.converged
    np.testing.assert_allclose(solution.image, image, atol=1e-5)


def test_the_regularization_does_not_depend_on_the_unit_of_the_weights():
    image = complex_noise(*SHAPE, dtype=np.complex64)
    small, large = (
        conjugate_gradient(sampled_fourier(image, scale), 0.2) for scale in (1.0, 1000.0)
    )
    np.testing.assert_allclose(small.image, large.image, atol=1e-5)
    assert small.iterations == large.iterations


def test_single_precision_stays_single_and_double_stays_double():
    for dtype in (np.complex64, np.complex128):
        image = complex_noise(*SHAPE, dtype=dtype)
        assert conjugate_gradient(sampled_fourier(image), 0.01).image.dtype == dtype


def test_single_precision_agrees_with_double():
    image = complex_noise(*SHAPE)
    double = conjugate_gradient(sampled_fourier(image), 0.01, 0.0, 30)
    single = conjugate_gradient(sampled_fourier(image.astype(np.complex64)), 0.01, 0.0, 30)
    np.testing.assert_allclose(single.image, double.image, atol=1e-5 * np.abs(image).max())


def test_an_iteration_is_taken_up_where_it_stopped():
    problem = dense()[2]
    equations = NormalEquations(problem, Multiply((12, 1), 1.0), 0.5)
    for _ in range(12):
        steps = equations.steps(problem.projected)
        for _ in range(5):
            square = next(steps)
    left = problem.projected - problem.normal(equations.image) - 0.5 * equations.image
    assert squared_norm(left) == pytest.approx(square, abs=1e-12)
    assert square < 1e-18 * squared_norm(problem.projected)


def test_two_echoes_are_one_problem():
    matrix, measured, problem = dense()
    stacked = np.concatenate([matrix, matrix]), np.concatenate([measured, measured])
    solution = conjugate_gradient(problem + problem, tolerance=1e-12, max_iterations=60)
    exact = np.linalg.lstsq(*stacked, rcond=None)[0]
    np.testing.assert_allclose(solution.image[:, 0], exact, rtol=1e-9)
    assert (problem + problem).gain == pytest.approx(2 * problem.gain)


def test_coils_are_projected_through_their_sensitivities():
    maps, image = complex_noise(3, *SHAPE), complex_noise(*SHAPE)
    weights = np.random.default_rng(1).random(SHAPE)
    samples = np.stack([FFT(SHAPE)(m * image) for m in maps])
    rows = [FFT(SHAPE) * Multiply(SHAPE, m) for m in maps]
    normal = sum((row.H * Multiply(SHAPE, weights) * row for row in rows[1:]), start=0 * rows[0].N)
    problem = least_squares(samples, weights, normal, FFT(SHAPE), maps)
    expected = sum(row.H(weights * one) for row, one in zip(rows, samples, strict=True))
    np.testing.assert_allclose(problem.projected, expected, atol=1e-10)
    assert problem.energy == pytest.approx(np.sum(weights * np.abs(samples) ** 2))


def test_a_coil_without_a_sensitivity_is_refused():
    with pytest.raises(ValueError, match="2 coils, but 1 sens"):
        least_squares(np.ones((2, *SHAPE)), np.ones(SHAPE), FFT(SHAPE).N, FFT(SHAPE))


def test_the_gain_is_that_of_the_seen_part():
    mask = np.zeros(SHAPE)
    mask[:4] = 3.0
    problem = LeastSquares(Multiply(SHAPE, mask), np.ones(SHAPE, np.complex64))
    assert problem.gain == pytest.approx(3.0)


def test_sums_of_many_single_numbers_are_exact_to_single_precision():
    values = np.full((300, 300, 30), 0.1, np.float32)
    assert squared_norm(values) == pytest.approx(values.size * float(np.float32(0.1)) ** 2, 1e-7)


def test_an_inner_product_conjugates_its_first_factor():
    first, second = complex_noise(5, 4), complex_noise(4, 5).T
    assert inner(first, second) == pytest.approx(np.vdot(first, second).real)


def test_empty_data_give_an_empty_image():
    problem = LeastSquares(Multiply(SHAPE, 1.0), np.zeros(SHAPE, np.complex64))
    solution = conjugate_gradient(problem)
    assert solution.converged
    assert not solution.image.any()
    assert solution.iterations == 0


def test_the_misfit_is_nan_where_the_energy_is_not_known():
    problem = LeastSquares(Multiply(SHAPE, 1.0), np.ones(SHAPE, np.complex64))
    assert np.isnan(conjugate_gradient(problem).misfit).all()


def test_add_scaled_writes_into_its_target():
    target = np.ones((2, 3), np.complex64)
    add_scaled(target, -1.0, target.copy())
    assert not target.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regularization": -0.1}, "must not be negative"),
        ({"max_iterations": 0}, "at least 1"),
    ],
)
def test_useless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        conjugate_gradient(dense()[2], **options)


def test_a_projection_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="has shape"):
        LeastSquares(Multiply(SHAPE, 1.0), np.ones((2, 2, 2), np.complex64))


def test_projected_data_that_are_not_finite_are_refused():
    projected = np.ones(SHAPE, np.complex64)
    projected[0, 0, :2] = np.nan
    with pytest.raises(ValueError, match="2 values"):
        LeastSquares(Multiply(SHAPE, 1.0), projected)


def test_an_operator_that_is_not_positive_is_refused():
    problem = LeastSquares(Multiply(SHAPE, -1.0), np.ones(SHAPE, np.complex64))
    with pytest.raises(ValueError, match="not positive"):
        conjugate_gradient(problem)
