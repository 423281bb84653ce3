"""Standard uncertainties of concentrations, term by term."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sodiumprep.sodium.acquisition import Floats

COVERAGE_FACTOR = 1.96  # 95 % of a normal distribution


def combine(terms: Mapping[str, Floats]) -> Floats:
    """Return the combined standard uncertainty of independent terms.

    Parameters
    ----------
    terms
        Standard uncertainties by name, each of shape (n,); nan where a term is not determined.

    Returns
    -------
    uncertainty
        Root of the sum of squares over the terms that are determined, shape (n,); nan where
        none is.

    Examples
    --------
    >>> combine({"noise": np.array([3.0]), "b1": np.array([np.nan]), "pvc": np.array([4.0])})
    array([5.])
    """
    stacked = np.stack(list(terms.values()))
    total = np.sqrt(np.nansum(stacked**2, axis=0))
    return np.where(np.isnan(stacked).all(axis=0), np.nan, total)


def interval(values: Floats, uncertainty: Floats) -> tuple[Floats, Floats]:
    """Return the 95 % interval.

    Parameters
    ----------
    values, uncertainty
        Shape (n,).

    Returns
    -------
    low, high
        Shape (n,).
    """
    return values - COVERAGE_FACTOR * uncertainty, values + COVERAGE_FACTOR * uncertainty


def weighted_quantiles(values: Floats, weights: Floats, shares: Floats) -> Floats:
    """Return quantiles of weighted values.

    Parameters
    ----------
    values, weights
        Shape (n,), weights not negative.
    shares
        In [0, 1], shape (q,).

    Returns
    -------
    quantiles
        Shape (q,); nan where no weight is positive.

    Examples
    --------
    >>> weighted_quantiles(np.array([1.0, 2, 3]), np.array([1.0, 1, 0]), np.array([0.5]))
    array([1.5])
    """
    used = weights > 0
    if not used.any():
        return np.full(len(shares), np.nan)
    order = np.argsort(values[used])
    ordered, mass = values[used][order], weights[used][order]
    position = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.interp(shares, position, ordered)
