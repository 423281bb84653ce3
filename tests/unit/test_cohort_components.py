"""Mixed models with known errors: against the textbook formula, and their laws."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from sodiumprep.sodium.cohort.components import Layout, _Problem, fit_components, nest


def _drawn(seed=1, n_subjects=24, known=True):
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(n_subjects), 3)[rng.random(3 * n_subjects) < 0.8]
    site, n = subject % 4, len(subject)
    design = np.column_stack([np.ones(n), subject % 2, rng.normal(size=n)])
    u = rng.uniform(0.5, 3.0, n) if known else np.zeros(n)
    spread = 3 * rng.normal(size=n_subjects)[subject] + 2 * rng.normal(size=4)[site]
    outcome = 40 + spread + rng.normal(size=n) * np.sqrt(1.5 + u**2)
    return outcome, design, u**2, subject, site


def _dense(variances, outcome, design, known, groups):
    covariance = np.diag(variances[0] + known)
    for variance, codes in zip(variances[1:], groups, strict=True):
        covariance = covariance + variance * (codes[:, None] == codes)
    inverse = np.linalg.inv(covariance)
    information = design.T @ inverse @ design
    beta = np.linalg.solve(information, design.T @ inverse @ outcome)
    left = outcome - design @ beta
    determinants = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1]
    constant = (len(outcome) - design.shape[1]) * np.log(2 * np.pi)
    return -0.5 * (determinants + left @ inverse @ left + constant), beta, information


def _problem():
    outcome, design, known, subject, site = _drawn()
    layout = nest([subject, site], len(outcome))
    order = layout.order
    problem = _Problem(outcome[order], design[order], known[order], layout.starts)
    return problem, (outcome, design, known, (subject, site))


def test_the_likelihood_is_that_of_the_dense_formula():
    problem, parts = _problem()
    variances = np.array([1.2, 5.0, 2.0])
    found, (value, beta, information) = problem.likelihood(variances), _dense(variances, *parts)
    np.testing.assert_allclose(found.value, value, rtol=1e-10)
    np.testing.assert_allclose(found.coefficients, beta, rtol=1e-8)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(information), rtol=1e-8)


@pytest.mark.parametrize("index", range(3))
def test_slopes_of_likelihood_and_covariance_are_those_of_small_steps(index):
    problem, _ = _problem()
    variances, step = np.array([1.2, 5.0, 2.0]), np.eye(3)[index] * 1e-4
    above, below = (problem.likelihood(variances + sign * step) for sign in (1, -1))
    found = problem.likelihood(variances)
    np.testing.assert_allclose(
        found.gradient[index], (above.value - below.value) / 2e-4, rtol=1e-5
    )
    slope = (above.covariance - below.covariance) / 2e-4
    np.testing.assert_allclose(found.covariance_slopes[index], slope, rtol=1e-4, atol=1e-9)


def test_without_known_errors_the_fit_is_that_of_statsmodels():
    outcome, design, known, subject, _ = _drawn(known=False)
    fit = fit_components(outcome, design, known, nest([subject], len(outcome)))
    peer = MixedLM(outcome, design, subject).fit(reml=True)
    np.testing.assert_allclose(fit.coefficients, peer.fe_params, rtol=1e-4)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance)), peer.bse_fe, rtol=1e-3)
    np.testing.assert_allclose(fit.variances, [peer.scale, peer.cov_re[0, 0]], rtol=1e-3)


def test_no_other_variances_are_likelier():
    outcome, design, known, subject, site = _drawn(3)
    fit = fit_components(outcome, design, known, nest([subject, site], len(outcome)))
    best = _dense(fit.variances, outcome, design, known, (subject, site))[0]
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(best, abs=1e-6)
    for factor in (0.9, 1.1):
        for k in range(3):
            other = np.where(np.arange(3) == k, factor * fit.variances + 1e-3, fit.variances)
            assert _dense(other, outcome, design, known, (subject, site))[0] <= best + 1e-9


def test_a_constant_and_a_scale_pass_through():
    outcome, design, known, subject, _ = _drawn(4)
    layout = nest([subject], len(outcome))
    fit = fit_components(outcome, design, known, layout)
    other = fit_components(1000 + 50 * outcome, design, 2500 * known, layout)
    np.testing.assert_allclose(other.coefficients[1:], 50 * fit.coefficients[1:], rtol=1e-5)
    np.testing.assert_allclose(other.variances, 2500 * fit.variances, rtol=1e-4)


def test_one_sample_has_the_degrees_of_freedom_of_its_size():
    outcome = np.random.default_rng(2).normal(40, 3, 12)
    fit = fit_components(outcome, np.ones((12, 1)), np.zeros(12), Layout(np.arange(12), ()))
    estimate, se, df = fit.contrast(np.ones(1), 100.0)
    expected = outcome.mean(), outcome.std(ddof=1) / np.sqrt(12), 11.0
    np.testing.assert_allclose((estimate, se, df), expected, rtol=1e-4)


def test_measurements_without_error_beside_those_with_a_large_one_decide():
    outcome = np.array([40.0, 41, 39, 40, 90, 95])
    known = np.array([0.0, 0, 0, 0, 1e4, 1e4])
    fit = fit_components(outcome, np.ones((6, 1)), known, Layout(np.arange(6), ()))
    assert fit.coefficients[0] == pytest.approx(40.0, abs=0.1)


def test_known_errors_larger_than_the_scatter_leave_no_residual_and_no_doubt_of_it():
    outcome = np.array([40.0, 41, 39, 40, 42, 38])
    fit = fit_components(outcome, np.ones((6, 1)), np.full(6, 25.0), Layout(np.arange(6), ()))
    _, se, df = fit.contrast(np.ones(1), 5.0)
    assert fit.variances[0] == 0
    assert se == pytest.approx(5 / np.sqrt(6))
    assert np.isinf(df)


def test_groups_that_do_not_lie_inside_each_other_are_refused():
    with pytest.raises(ValueError, match="two groups of the next level"):
        nest([np.array([0, 0, 1]), np.array([0, 1, 1])], 3)


def test_more_coefficients_than_rows_are_refused():
    with pytest.raises(ValueError, match="2 rows cannot tell 2"):
        fit_components(np.arange(2.0), np.eye(2), np.zeros(2), Layout(np.arange(2), ()))


def test_the_order_of_rows_does_not_matter():
    outcome, design, known, subject, site = _drawn(5)
    mixed = np.random.default_rng(0).permutation(len(outcome))
    fits = [
        fit_components(outcome[o], design[o], known[o], nest([subject[o], site[o]], len(o)))
        for o in (np.arange(len(outcome)), mixed)
    ]
    frames = [pd.Series([*fit.coefficients, *fit.variances]) for fit in fits]
    pd.testing.assert_series_equal(*frames, rtol=1e-5)
