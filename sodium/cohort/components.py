"""Linear models with nested random intercepts and measurement errors of known variance.

``y = X b + Z w + e`` with ``var(e) = residual + known`` and one variance of ``w`` for each level,
where levels lie inside each other (session in subject in site), fitted by restricted maximum
likelihood. statsmodels' and lme4's models know no error of known variance; without one
they agree with this (tests).

A nested covariance is inverted from the inside out, one rank-one change per group, so a fit costs
time and memory linear in the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from sodiumprep.sodium.acquisition import Floats

LEAST = 1e-8  # residual variance over that of the outcome: no fit is exact
STEP = 1e-4  # of a variance over that of the outcome: central differences of the gradient
DECREMENT = 1e-4  # of the log-likelihood by one more step of Newton: below it a fit has converged
NEGLIGIBLE = (
    1e-6  # variance over that of the outcome that is zero, if the likelihood falls with it
)
POLISHING = 20  # steps of Newton at most


@dataclass(frozen=True)
class Layout:
    """Which rows belong together.

    Parameters
    ----------
    order
        Rows so that groups of every level lie side by side, shape (n,).
    starts
        For each level, from the inside out, the first row of each group, in that order.
    """

    order: NDArray[np.intp]
    starts: tuple[NDArray[np.intp], ...]


def nest(levels: Sequence[NDArray[np.integer]], n: int) -> Layout:
    """Return the layout of nested groups.

    Parameters
    ----------
    levels
        Code of the group of each row, shape (n,), from the inside (session) out (site).
    n
        Number of rows.

    Raises
    ------
    ValueError
        If a group lies in two groups of the next level.

    Examples
    --------
    >>> nest([np.array([1, 0, 1])], 3).starts
    (array([0, 1]),)
    """
    for inner, outer in pairwise(levels):
        pairs = np.unique(np.column_stack([inner, outer]), axis=0)
        if len(pairs) > len(np.unique(inner)):
            raise ValueError("a group lies in two groups of the next level")
    order = np.lexsort((np.zeros(n), *levels))
    starts = []
    for codes in levels:
        changes = np.diff(codes[order]) != 0
        starts.append(np.flatnonzero(np.concatenate([[True], changes])))
    return Layout(order, tuple(starts))


@dataclass(frozen=True)
class Likelihood:
    """Restricted likelihood at one set of variances, with its slopes."""

    value: float
    gradient: Floats  # by the variances, shape (k,)
    coefficients: Floats  # shape (p,)
    covariance: Floats  # of them, shape (p, p)
    covariance_slopes: Floats  # of it by the variances, shape (k, p, p)


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Parameters
    ----------
    coefficients, covariance
        Of the fixed effects, shapes (p,) and (p, p).
    variances
        Residual first, then the levels from the inside out, shape (k,).
    converged
        Whether the restricted likelihood is at its maximum.
    log_likelihood
        Restricted, with all constants.
    """

    coefficients: Floats
    covariance: Floats
    variances: Floats
    converged: bool
    log_likelihood: float
    _variance_covariance: Floats
    _covariance_slopes: Floats

    @property
    def residual(self) -> tuple[float, float]:
        """Return the residual variance and its standard error, 0 where it is at its bound."""
        return float(self.variances[0]), float(np.sqrt(self._variance_covariance[0, 0]))

    def contrast(self, weights: Floats, most: float) -> tuple[float, float, float]:
        """Return estimate, standard error and degrees of freedom of a sum of coefficients.

        The latter are Satterthwaite's: two squared variances over the variance of the variance,
        at most what the number of units allows. Only what was estimated of the variance counts:
        they grow without limit as the known part takes over.

        Parameters
        ----------
        weights
            Of the coefficients, shape (p,).
        most
            Degrees of freedom of the units that are compared.

        References
        ----------
        Satterthwaite 1946, doi:10.2307/3002019; Kuznetsova 2017, doi:10.18637/jss.v082.i13
        """
        variance = float(weights @ self.covariance @ weights)
        slopes = np.einsum("i,kij,j->k", weights, self._covariance_slopes, weights)
        spread = float(slopes @ self._variance_covariance @ slopes)
        estimated = float(slopes @ self.variances)  # what is left of the variance is known
        freedom = min(
            2 * variance**2 / spread if spread > 0 else np.inf,
            most * (variance / estimated) ** 2 if estimated > 0 else np.inf,
        )
        return float(weights @ self.coefficients), float(np.sqrt(variance)), freedom


@dataclass(frozen=True)
class _Problem:
    outcome: Floats
    design: Floats
    known: Floats
    starts: tuple[NDArray[np.intp], ...]

    def likelihood(self, variances: Floats) -> Likelihood:
        """Return the restricted likelihood, shape (k,) in."""
        n, p = self.design.shape
        solved, log_determinant, traces = self._solve(variances)
        by_design, by_outcome = solved[:, 1:-1], solved[:, -1]
        factor = cho_factor(self.design.T @ by_design)
        covariance = cho_solve(factor, np.eye(p))
        coefficients = covariance @ (self.design.T @ by_outcome)
        residual = by_outcome - by_design @ coefficients
        log_determinant += 2 * np.log(np.diag(factor[0])).sum() + (n - p) * np.log(2 * np.pi)
        sums = [self._summed(by_design, level) for level in range(len(variances))]
        squares = [self._summed(residual, level) for level in range(len(variances))]
        slopes = np.stack([covariance @ (rows.T @ rows) @ covariance for rows in sums])
        lost = np.array([(rows @ covariance * rows).sum() for rows in sums])
        gained = np.array([rows @ rows for rows in squares])
        value = -0.5 * float(log_determinant + self.outcome @ residual)
        gradient = -0.5 * (traces - lost - gained)
        return Likelihood(value, gradient, coefficients, covariance, slopes)

    def _summed(self, rows: Floats, level: int) -> Floats:
        return rows if level == 0 else np.add.reduceat(rows, self.starts[level - 1], axis=0)

    def _solve(self, variances: Floats) -> tuple[Floats, float, Floats]:
        """Return V^-1 [1 X y], log |V| and its slopes by the variances."""
        n, k = len(self.outcome), len(variances)
        weights = 1.0 / (variances[0] + self.known)
        solved = np.column_stack([np.ones(n), self.design, self.outcome]) * weights[:, None]
        log_determinant = -float(np.log(weights).sum())
        slope = np.zeros((n, k))
        slope[:, 0] = -(weights**2)
        traces = np.zeros(k)
        traces[0] = weights.sum()
        inner = np.arange(n)
        for level, starts in enumerate(self.starts, start=1):
            at = np.searchsorted(inner, starts)  # the first group of the level inside
            weights, slope = np.add.reduceat(weights, at), np.add.reduceat(slope, at, axis=0)
            variance = variances[level]
            factor = 1.0 + variance * weights
            change = variance * slope
            change[:, level] += weights
            log_determinant += float(np.log(factor).sum())
            traces += (change / factor[:, None]).sum(axis=0)
            sizes = np.diff(np.append(starts, n))
            shares = (variance / factor)[:, None] * np.add.reduceat(solved, starts, axis=0)
            solved -= solved[:, :1] * np.repeat(shares, sizes, axis=0)
            slope = slope / factor[:, None] ** 2
            slope[:, level] -= (weights / factor) ** 2
            weights, inner = weights / factor, starts
        return solved, log_determinant, traces


def fit_components(outcome: Floats, design: Floats, known: Floats, layout: Layout) -> Fit:
    """Fit fixed effects and variances by restricted maximum likelihood.

    Parameters
    ----------
    outcome
        Shape (n,).
    design
        Of full rank, shape (n, p).
    known
        Variance of the error of each measurement, shape (n,), in squared units of ``outcome``.
    layout
        Groups that have something in common.

    Raises
    ------
    ValueError
        If there are no more rows than coefficients, or ``design`` is not of full rank.

    References
    ----------
    Patterson & Thompson 1971, doi:10.1093/biomet/58.3.545

    Examples
    --------
    >>> alone = Layout(np.arange(4), ())
    >>> fit = fit_components(np.array([1.0, 2, 3, 6]), np.ones((4, 1)), np.zeros(4), alone)
    >>> fit.coefficients.round(3), fit.variances.round(3)  # mean and variance of a sample
    (array([3.]), array([4.667]))
    """
    n, p = design.shape
    if n <= p or np.linalg.matrix_rank(design) < p:
        raise ValueError(f"{n} rows cannot tell {p} coefficients")
    order = layout.order
    scale = _residual_variance(outcome, design)
    problem = _Problem(
        outcome[order] / np.sqrt(scale), design[order], known[order] / scale, layout.starts
    )
    least = np.zeros(1 + len(layout.starts))
    least[0] = LEAST if known.min() <= 0 else 0.0
    return _rescaled(problem, least, *_maximize(problem, least), scale)


def _residual_variance(outcome: Floats, design: Floats) -> float:
    residual = outcome - design @ np.linalg.lstsq(design, outcome, rcond=None)[0]
    spread = float(residual @ residual) / (len(outcome) - design.shape[1])
    return max(spread, LEAST * float(np.mean(outcome**2)), float(np.finfo(float).tiny))


def _maximize(problem: _Problem, least: Floats) -> tuple[Floats, bool]:
    """Return the variances of the largest likelihood and whether it is one."""

    def cost(variances: Floats) -> tuple[float, Floats]:
        found = problem.likelihood(variances)
        return -found.value, -found.gradient

    start = np.maximum(np.full(len(least), 1.0 / len(least)), least)
    bounds = [(lower, None) for lower in least]
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return _polished(problem, np.asarray(found.x), least)


def _polished(problem: _Problem, variances: Floats, least: Floats) -> tuple[Floats, bool]:
    """Take steps of Newton with the variances that are not at their bound."""
    for _ in range(POLISHING):
        gradient = problem.likelihood(variances).gradient
        variances = np.where((variances < NEGLIGIBLE) & (gradient <= 0), least, variances)
        free = (variances > least) | (gradient > 0)
        if not free.any():
            return variances, True
        curvature = _curvature(problem, variances, free)
        if np.linalg.eigvalsh(curvature)[0] <= 0:
            return variances, False
        step = np.linalg.solve(curvature, gradient[free])
        if abs(gradient[free] @ step) < DECREMENT**2:
            return variances, True
        variances = variances.copy()
        variances[free] = np.maximum(variances[free] + step, least[free])
    return variances, False


def _curvature(problem: _Problem, variances: Floats, free: NDArray[np.bool_]) -> Floats:
    """Return minus the second derivatives of the likelihood, for the free variances."""
    columns = []
    for index in np.flatnonzero(free):
        step = np.zeros_like(variances)
        step[index] = STEP * max(variances[index], 0.01)
        upper, lower = variances + step, np.maximum(variances - step, 0.0)
        change = problem.likelihood(upper).gradient - problem.likelihood(lower).gradient
        columns.append(-change[free] / (upper - lower)[index])
    matrix = np.array(columns)
    return (matrix + matrix.T) / 2


def _rescaled(
    problem: _Problem, least: Floats, variances: Floats, converged: bool, scale: float
) -> Fit:
    found = problem.likelihood(variances)
    free = variances > least
    spread = np.zeros((len(variances), len(variances)))
    if free.any() and converged:
        spread[np.ix_(free, free)] = np.linalg.inv(_curvature(problem, variances, free))
    n, p = problem.design.shape
    return Fit(
        coefficients=found.coefficients * np.sqrt(scale),
        covariance=found.covariance * scale,
        variances=variances * scale,
        converged=converged,
        log_likelihood=found.value - 0.5 * (n - p) * np.log(scale),
        _variance_covariance=spread * scale**2,
        _covariance_slopes=found.covariance_slopes,
    )
