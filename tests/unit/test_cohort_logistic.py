"""Logistic models: against statsmodels, where classes separate, and calibrated."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit

from sodiumprep.sodium.cohort.diagnostic import Scores
from sodiumprep.sodium.cohort.logistic import calibration, fit_logistic, held_out_probability


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def draw(rng, n=200, slope=0.2):
    x = rng.normal(45, 6, size=n)
    return x[:, None], rng.random(n) < expit(slope * (x - 45))


def scored(positive):
    return Scores(np.zeros(len(positive)), positive, np.arange(len(positive)))


def test_the_fit_is_that_of_statsmodels(rng):
    x, positive = draw(rng)
    ours, peer = fit_logistic(x, positive), sm.Logit(positive, sm.add_constant(x)).fit(disp=0)
    np.testing.assert_allclose(ours.coefficients, peer.params, rtol=1e-5)
    np.testing.assert_allclose(ours.covariance, peer.cov_params(), rtol=1e-4)
    assert ours.log_likelihood == pytest.approx(peer.llf)
    assert not ours.separated


def test_separate_classes_have_a_finite_fit_and_it_is_said():
    x = np.arange(10.0)[:, None]
    found = fit_logistic(x, np.arange(10) > 4)
    assert found.separated
    assert 0 < found.coefficients[1] < 10
    assert found.probability(np.array([[4.5]]))[0] == pytest.approx(0.5, abs=1e-6)


def test_the_unit_of_a_column_does_not_matter(rng):
    x, positive = draw(rng)
    one, other = fit_logistic(x, positive), fit_logistic(x / 1000, positive)
    assert other.coefficients[1] == pytest.approx(1000 * one.coefficients[1])


def test_without_columns_the_share_of_the_class_is_left():
    found = fit_logistic(np.empty((8, 0)), np.arange(8) < 2)
    np.testing.assert_allclose(found.probability(np.empty((3, 0))), 0.25)


@pytest.mark.parametrize(
    ("x", "positive", "said"),
    [
        (np.ones((4, 1)), [1, 0, 1, 0], "constant"),
        (np.arange(4.0)[:, None], [1, 1, 1, 1], "two classes"),
        (np.array([[0.0], [np.nan], [2.0]]), [0, 1, 0], "finite"),
        (np.column_stack([np.arange(4.0), 2 * np.arange(4.0)]), [0, 1, 0, 1], "depend"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x, positive, said):
    with pytest.raises(ValueError, match=said):
        fit_logistic(x, np.array(positive))


def test_true_probabilities_are_calibrated(rng):
    p = rng.uniform(0.05, 0.95, size=4000)
    found = calibration(p, rng.random(4000) < p)
    assert found.slope.holds(1.0)
    assert found.intercept.holds(0.0)
    assert found.brier == pytest.approx(np.mean(p * (1 - p)), abs=0.01)
    assert found.brier < found.brier_reference
    assert found.curve["observed"].between(found.curve["low"], found.curve["high"]).all()


def test_probabilities_that_are_too_extreme_have_a_slope_below_one(rng):
    odds = rng.normal(size=2000)
    found = calibration(expit(2 * odds), rng.random(2000) < expit(odds))
    assert found.slope.value == pytest.approx(0.5, abs=0.08)


def test_probabilities_that_are_too_low_have_an_intercept_above_nothing(rng):
    odds = rng.normal(size=2000)
    found = calibration(expit(odds - 1), rng.random(2000) < expit(odds))
    assert found.intercept.value == pytest.approx(1, abs=0.15)


def test_held_out_probabilities_are_honest_about_noise(rng):
    x, positive = rng.normal(size=(60, 10)), np.arange(60) < 30
    inside = calibration(fit_logistic(x, positive).probability(x), positive)
    outside = calibration(held_out_probability(x, scored(positive), rng), positive)
    assert inside.slope.value == pytest.approx(1, abs=1e-6)
    assert outside.slope.value < 0.7


def test_a_subject_is_held_out_with_all_its_rows(rng):
    subject = np.repeat(np.arange(20), 2)
    positive = np.repeat(np.arange(20) % 2 == 0, 2)
    x = rng.normal(size=(40, 1))
    found = held_out_probability(x, Scores(x[:, 0], positive, subject), rng, folds=20)
    out = subject == 3  # of one fold for each class: 20 folds leave two subjects out
    pairs = [j for j in range(0, 20, 2) if np.isclose(
        fit_logistic(x[~out & (subject != j)], positive[~out & (subject != j)])
        .probability(x[out]), found[out]).all()]  # fmt: skip
    assert len(pairs) == 1


@pytest.mark.parametrize("p", [[0.5, 1.5, 0.2], [np.nan, 0.5, 0.2]])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration(np.array(p), np.array([True, False, True]))


def test_one_fold_holds_nothing_out(rng):
    x, positive = draw(rng, 20)
    with pytest.raises(ValueError, match="at least 2 folds"):
        held_out_probability(x, scored(positive), rng, folds=1)
