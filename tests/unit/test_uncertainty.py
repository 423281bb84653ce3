"""Propagation against closed forms."""

import numpy as np
import pytest

from sodiumprep.sodium.uncertainty import combine, interval, weighted_quantiles


def test_terms_combine_as_a_root_of_squares_and_unknown_ones_are_left_out():
    terms = {"a": np.array([3.0, 1.0, np.nan]), "b": np.array([4.0, np.nan, np.nan])}
    np.testing.assert_allclose(combine(terms), [5.0, 1.0, np.nan])


def test_the_interval_holds_95_per_cent_of_a_normal_distribution():
    low, high = interval(np.array([10.0]), np.array([2.0]))
    drawn = np.random.default_rng(0).normal(10, 2, 200_000)
    assert np.mean((drawn > low) & (drawn < high)) == pytest.approx(0.95, abs=2e-3)


def test_equal_weights_give_ordinary_quantiles():
    values = np.random.default_rng(1).normal(size=4001)
    shares = np.array([0.25, 0.5, 0.75])
    found = weighted_quantiles(values, np.ones(4001), shares)
    np.testing.assert_allclose(found, np.quantile(values, shares), atol=2e-3)


def test_whole_weights_act_like_repeats():
    values, counts = np.array([5.0, 1.0, 3.0, 9.0]), np.array([40, 10, 30, 20])
    found = weighted_quantiles(values, counts.astype(float), np.array([0.05]))
    assert found[0] == pytest.approx(np.repeat(values, counts).min())


def test_no_weight_has_no_quantile():
    assert np.isnan(weighted_quantiles(np.ones(3), np.zeros(3), np.array([0.5]))).all()
