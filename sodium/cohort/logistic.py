"""Logistic models of a class, and whether their probabilities can be believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.diagnostic import Scores, wilson
from sodiumprep.sodium.cohort.resampling import Estimate, check_level

STEPS, CLOSE = 100, 1e-8  # of Newton's method
LARGEST_STEP = 5.0  # in units of the standardized coefficients
SEPARATED = 15.0  # standardized log odds that only a perfect separation reaches
MARGIN = 1e-6  # probabilities are kept that far from 0 and 1
FOLDS = 10


@dataclass(frozen=True)
class Logistic:
    """A logistic model.

    Parameters
    ----------
    coefficients
        Intercept first, then one per column, shape (k + 1,).
    covariance
        Of the coefficients, shape (k + 1, k + 1).
    log_likelihood
        Of the data, without penalty.
    separated
        Whether the classes separate perfectly: the coefficients are then those of Firth's
        penalized likelihood, since the largest likelihood has none.
    """

    coefficients: Floats
    covariance: Floats
    log_likelihood: float
    separated: bool

    def probability(self, columns: Floats) -> Floats:
        """Return the probability of the positive class.

        Parameters
        ----------
        columns
            Shape (n, k).

        Returns
        -------
        probability
            Shape (n,).
        """
        return np.asarray(expit(self.coefficients[0] + columns @ self.coefficients[1:]))


def fit_logistic(columns: Floats, positive: np.ndarray) -> Logistic:
    """Fit a logistic model by maximum likelihood, by Firth's where that has no maximum.

    Parameters
    ----------
    columns
        Explaining columns without the intercept, shape (n, k).
    positive
        Class, shape (n,).

    Returns
    -------
    model

    Raises
    ------
    ValueError
        If a class is empty, a column is constant or not finite, or columns depend on each other.

    References
    ----------
    Firth 1993, doi:10.1093/biomet/80.1.27; Heinze & Schemper 2002, doi:10.1002/sim.1047
    """
    truth = np.asarray(positive, dtype=float)
    centre, scale = _standards(columns, truth)
    design = np.column_stack([np.ones(len(truth)), (columns - centre) / scale])
    beta, information, settled = _newton(design, truth, firth=False)
    separated = not settled or bool(np.abs(beta).max() > SEPARATED)
    if separated:
        beta, information, _ = _newton(design, truth, firth=True)
    back = np.diag(np.append(1.0, 1 / scale))
    back[0, 1:] = -centre / scale
    chance = np.clip(expit(design @ beta), 1e-300, 1 - 1e-16)
    likelihood = np.sum(truth * np.log(chance) + (1 - truth) * np.log1p(-chance))
    return Logistic(
        back @ beta, back @ np.linalg.inv(information) @ back.T, float(likelihood), separated
    )


def _standards(columns: Floats, truth: Floats) -> tuple[Floats, Floats]:
    if not np.isfinite(columns).all():
        raise ValueError("a logistic model needs a finite value in every row and column")
    if len(np.unique(truth)) < 2:
        raise ValueError(f"a logistic model needs two classes; all {len(truth)} rows are of one")
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    if (scale <= 1e-12 * np.abs(centre)).any():
        raise ValueError("a column of the logistic model is constant")
    if columns.shape[1] and np.linalg.matrix_rank((columns - centre) / scale) < columns.shape[1]:
        raise ValueError("columns of the logistic model depend on each other")
    return centre, scale


def _newton(design: Floats, truth: Floats, firth: bool) -> tuple[Floats, Floats, bool]:
    beta = np.zeros(design.shape[1])
    for _ in range(STEPS):
        chance = expit(design @ beta)
        weight = np.maximum(chance * (1 - chance), 1e-12)
        information = design.T @ (weight[:, None] * design)
        residual = truth - chance
        if firth:
            leverage = np.einsum("ij,ji->i", design, np.linalg.solve(information, design.T))
            residual = residual + weight * leverage * (0.5 - chance)
        step = np.linalg.solve(information, design.T @ residual)
        step *= min(1.0, LARGEST_STEP / max(np.abs(step).max(), 1e-300))
        beta = beta + step
        if np.abs(step).max() < CLOSE:
            return beta, information, True
        if not firth and np.abs(beta).max() > 2 * SEPARATED:
            break
    return beta, information, False


def held_out_probability(
    columns: Floats, scores: Scores, rng: np.random.Generator, folds: int = FOLDS
) -> Floats:
    """Return the probability of each row by a model that has not seen its subject.

    Parameters
    ----------
    columns
        Explaining columns, shape (n, k).
    scores
        Class and subject of the rows; its values are not used.
    rng
        Shuffles the subjects.
    folds
        Parts that are left out in turn, each with its share of the kinds of subjects.

    Returns
    -------
    probability
        Shape (n,).

    Raises
    ------
    ValueError
        If fewer than two folds are asked, or a part that is left leaves one class alone.
    """
    if folds < 2:
        raise ValueError(f"at least 2 folds are held out in turn, not {folds}")
    fold = np.empty(len(scores.strata), dtype=int)
    for stratum in np.unique(scores.strata):
        members = rng.permutation(np.flatnonzero(scores.strata == stratum))
        fold[members] = np.arange(len(members)) % folds
    found = np.empty(len(scores.subject))
    for part in np.unique(fold):
        out = fold[scores.subject] == part
        model = fit_logistic(columns[~out], scores.positive[~out])
        found[out] = model.probability(columns[out])
    return found


@dataclass(frozen=True)
class Calibration:
    """How stated probabilities compare with what happened.

    Parameters
    ----------
    slope
        Of the log odds: 1 is right, below 1 the probabilities are too extreme.
    intercept
        Of the log odds with their slope held at 1: above 0 the probabilities are too low.
    brier
        Mean squared error of the probabilities.
    brier_reference
        The same when everyone is given the share of the positive class.
    curve
        Columns ``n``, ``predicted`` (mean), ``observed`` (share), ``low``, ``high`` (Wilson's
        interval) of groups of equal size.
    """

    slope: Estimate
    intercept: Estimate
    brier: float
    brier_reference: float
    curve: pd.DataFrame


def calibration(
    probability: Floats, positive: np.ndarray, groups: int = 10, level: float = 0.95
) -> Calibration:
    """Compare probabilities with what happened.

    Probabilities of a model are to be given for subjects that it has not seen
    (:func:`held_out_probability`); for its own ones the slope is 1 by construction.

    Parameters
    ----------
    probability
        Of the positive class, in [0, 1], shape (n,).
    positive
        Class, shape (n,).
    groups
        Points of the curve.
    level
        Probability of the intervals.

    Returns
    -------
    calibration

    Raises
    ------
    ValueError
        If a probability lies outside of [0, 1], all are the same, or a class is empty.

    References
    ----------
    Van Calster et al. 2019, doi:10.1186/s12916-019-1466-7
    """
    check_level(level)
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("a probability lies between 0 and 1; here one does not")
    truth = np.asarray(positive, dtype=float)
    odds = logit(np.clip(probability, MARGIN, 1 - MARGIN))
    model = fit_logistic(odds[:, None], truth)
    half = stats.norm.ppf((1 + level) / 2)
    spread = half * np.sqrt(model.covariance[1, 1])
    slope = float(model.coefficients[1])
    method = "Firth's logistic model" if model.separated else "logistic model, Wald"
    return Calibration(
        Estimate.around(slope, spread, level, method),
        _intercept(odds, truth, half, level),
        float(np.mean((probability - truth) ** 2)),
        float(np.mean((truth.mean() - truth) ** 2)),
        _curve(probability, truth, groups, level),
    )


def _intercept(odds: Floats, truth: Floats, half: float, level: float) -> Estimate:
    value = 0.0
    for _ in range(STEPS):
        chance = expit(odds + value)
        information = np.sum(chance * (1 - chance))
        step = float(np.clip(np.sum(truth - chance) / information, -1, 1))
        value += step
        if abs(step) < CLOSE:
            break
    spread = half / np.sqrt(information)
    return Estimate.around(value, spread, level, "logistic model, Wald")


def _curve(probability: Floats, truth: Floats, groups: int, level: float) -> pd.DataFrame:
    parts = np.array_split(np.argsort(probability, kind="stable"), min(groups, len(truth)))
    n = np.array([len(part) for part in parts])
    share = np.array([truth[part].mean() for part in parts])
    low, high = wilson(share, n, level)
    predicted = [probability[part].mean() for part in parts]
    return pd.DataFrame(
        {"n": n, "predicted": predicted, "observed": share, "low": low, "high": high}
    )  # fmt: skip
