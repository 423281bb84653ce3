"""The receive profile of a coil that transmits too."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.interfaces.coil_fields import RegionTransmit
from sodiumprep.sodium.reciprocity import (
    receive_factor,
    reciprocity_uncertainty,
    with_correlation,
)
from sodiumprep.sodium.smooth_field import SmoothField, relative_uncertainty
from sodiumprep.sodium.transmit import TransmitEffect

ORDERS = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 1, 1]])
FIELD = SmoothField(
    np.zeros(3), np.full(3, 200.0), ORDERS, np.array([0.05, 0.2, -0.1, 0.05]), 1e-5 * np.eye(4)
)
PLACES = np.random.default_rng(0).uniform(0, 200, (4000, 3))


def test_the_factor_undoes_the_field_everywhere():
    np.testing.assert_allclose(receive_factor(FIELD, 0.02)(PLACES) * FIELD(PLACES), 1)


def test_the_stated_uncertainty_is_that_from_place_to_place():
    exact = replace(FIELD, covariance=np.zeros((4, 4)))
    factor = receive_factor(exact, 0.03)
    rng = np.random.default_rng(1)
    drawn = rng.multivariate_normal(np.zeros(4), factor.covariance, 500)
    spread = (drawn @ factor.basis(PLACES).T).std(axis=1)
    assert np.sqrt(np.mean(spread**2)) == pytest.approx(0.03, rel=0.1)
    assert factor.covariance[0, 0] == 0  # a common factor is no error


def test_it_grows_with_the_frequency():
    found = [reciprocity_uncertainty(field) for field in (None, 1.5, 3.0, 7.0)]
    np.testing.assert_allclose(found, [0.02, 0.02, 0.02, 0.02 * 7 / 3])


@pytest.mark.parametrize("slope", [-0.6, 0.3, 1.0])
def test_one_field_that_enters_twice_is_never_stated_too_sure(slope):
    """Errors of the field act as (1 + slope) times itself."""
    basis = FIELD.basis(PLACES)
    one, reference = basis[PLACES[:, 0] < 60].mean(axis=0), basis.mean(axis=0)
    receive = relative_uncertainty(FIELD, one[None], reference)
    transmit = relative_uncertainty(FIELD, slope * one[None], slope * reference)
    true = relative_uncertainty(FIELD, (1 + slope) * one[None], (1 + slope) * reference)
    stated = np.hypot(with_correlation(receive, transmit), transmit)
    assert stated >= true * (1 - 1e-9)
    if slope > 0:
        assert stated == pytest.approx(true)
        assert stated > np.hypot(receive, transmit)


def test_an_unknown_term_of_the_flip_angle_adds_nothing():
    assert with_correlation(np.array([0.02]), np.array([np.nan])) == pytest.approx(0.02)


def test_between_references_the_correlation_is_exact():
    basis = FIELD.basis(PLACES[:3])
    slopes = np.array([-0.1, 0.4, 0.2])
    effect = TransmitEffect(np.ones(3), slopes, basis, np.ones(3))
    transmit = RegionTransmit(list("abc"), effect, FIELD)
    groups, means = [["a"], ["b"]], basis[:2]
    both = means @ FIELD.covariance @ means.T + transmit.shared_with_receive(groups, means)
    turned = slopes[:2, None] * basis[:2]
    both += turned @ FIELD.covariance @ turned.T
    once = (1 + slopes[:2])[:, None] * means
    np.testing.assert_allclose(both, once @ FIELD.covariance @ once.T)
