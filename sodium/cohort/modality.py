"""Another map of the same subjects in the same regions: what the two share, and what one adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.cohort.diagnostic import Scores, auc
from sodiumprep.sodium.cohort.logistic import fit_logistic
from sodiumprep.sodium.cohort.resampling import (
    DRAWS,
    Estimate,
    bca,
    bootstrap,
    check_level,
    draw_subjects,
)
from sodiumprep.sodium.cohort.values import own_uncertainty

KEYS = ["participant_id", "session", "run"]
STEPS, CLOSE = 200, 1e-12  # of York's iteration


def match(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the values of two maps side by side.

    Parameters
    ----------
    first, second
        Tables of values of one region, columns ``participant_id session run value u`` and, if
        known, ``u_shared``: what all values of a map share makes no scatter.

    Returns
    -------
    pairs
        Columns of ``first`` with ``x`` and ``u_x`` for its value and own uncertainty and ``y``
        and ``u_y`` for those of ``second``; rows without both values are left out.

    Raises
    ------
    ValueError
        If a measurement stands twice in a table, or no measurement has both values.
    """
    for table in (first, second):
        twice = table[table.duplicated(KEYS)]
        if len(twice):
            raise ValueError(f"{' '.join(map(str, twice[KEYS].iloc[0]))} stands twice in a table")
    named = first.drop(columns=["u", "u_shared"], errors="ignore")
    named = named.rename(columns={"value": "x"}).assign(u_x=own_uncertainty(first))
    other = second[[*KEYS, "value"]].rename(columns={"value": "y"})
    pairs = (
        named.merge(other.assign(u_y=own_uncertainty(second)), on=KEYS)
        .dropna(subset=["x", "y"])
        .reset_index(drop=True)
    )
    if pairs.empty:
        raise ValueError("no measurement has a value in both maps")
    return pairs


@dataclass(frozen=True)
class Line:
    """A straight line through values that err in both directions.

    Parameters
    ----------
    slope, intercept
        With intervals.
    chi2
        Weighted squared residuals over their degrees of freedom: above 1 the values scatter
        more than their uncertainties say, and the intervals are widened by its root.
    n
        Number of values.
    """

    slope: Estimate
    intercept: Estimate
    chi2: float
    n: int


def york(x: Floats, y: Floats, u_x: Floats, u_y: Floats, level: float = 0.95) -> Line:
    """Fit a line where both variables have known uncertainties.

    With one ratio of the uncertainties for all it is Deming's regression.

    Parameters
    ----------
    x, y
        Values, shape (n,).
    u_x, u_y
        Their standard uncertainties, all above 0, shape (n,).
    level
        Probability of the intervals.

    Returns
    -------
    line

    Raises
    ------
    ValueError
        If there are fewer than 3 values, a value or uncertainty is missing or not above 0, a
        variable is constant, or the iteration does not settle.

    References
    ----------
    York et al. 2004, doi:10.1119/1.1632486
    """
    check_level(level)
    _check_errors(x, y, u_x, u_y)
    weight_x, weight_y = u_x**-2.0, u_y**-2.0
    slope = float(np.sign(np.corrcoef(x, y)[0, 1]) or 1.0) * _scale(y) / _scale(x)
    for _ in range(STEPS):
        weight = weight_x * weight_y / (weight_x + slope**2 * weight_y)
        mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
        dx, dy = x - mean_x, y - mean_y
        beta = weight * (dx / weight_y + slope * dy / weight_x)
        new = float(np.sum(weight * beta * dy) / np.sum(weight * beta * dx))
        settled = abs(new - slope) <= CLOSE * max(abs(slope), CLOSE)
        slope = new
        if settled:
            break
    else:
        raise ValueError(f"the line through {len(x)} values does not settle: too much scatter")
    centre = mean_x + np.average(beta, weights=weight)
    chi2 = float(np.sum(weight * (dy - slope * dx) ** 2) / (len(x) - 2))
    u_slope = np.sqrt(1 / np.sum(weight * (mean_x + beta - centre) ** 2))
    u_intercept = np.hypot(np.sqrt(1 / weight.sum()), centre * u_slope)
    half = stats.t.ppf((1 + level) / 2, len(x) - 2) * np.sqrt(max(chi2, 1.0))
    ends = [
        Estimate.around(value, half * u, level, "York")
        for value, u in ((slope, u_slope), (float(mean_y - slope * mean_x), u_intercept))
    ]
    return Line(ends[0], ends[1], chi2, len(x))


def _scale(values: Floats) -> float:
    return float(np.std(values))


def _check_errors(x: Floats, y: Floats, u_x: Floats, u_y: Floats) -> None:
    _check_pairs(x, y, 3)
    for name, u in (("first", u_x), ("second", u_y)):
        if not (np.isfinite(u) & (u > 0)).all():
            raise ValueError(f"a value of the {name} map has no standard uncertainty above 0")


def _check_pairs(x: Floats, y: Floats, least: int) -> None:
    if len(x) != len(y) or len(x) < least:
        raise ValueError(f"at least {least} pairs of values are needed, not {len(x)} and {len(y)}")
    for name, values in (("first", x), ("second", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"a value of the {name} map is missing")
        if np.ptp(values) == 0:
            raise ValueError(f"all values of the {name} map are the same: {values[0]:g}")


def disattenuated(
    pairs: pd.DataFrame, rng: np.random.Generator, level: float = 0.95, draws: int = DRAWS
) -> Estimate:
    """Return the correlation of what two maps measure, without what their errors take from it.

    Parameters
    ----------
    pairs
        Columns ``participant_id x y u_x u_y``, as of :func:`match`; rows without an uncertainty
        are left out.
    rng
        Source of randomness.
    level
        Probability of the interval, by the bootstrap over subjects.
    draws
        Number of resampled cohorts.

    Returns
    -------
    estimate
        Not above 1 nor below -1.

    Raises
    ------
    ValueError
        If fewer than 5 pairs are complete, or values spread no more than their uncertainties.

    References
    ----------
    Spearman 1904, doi:10.2307/1412159
    """
    known = pairs.dropna(subset=["x", "y", "u_x", "u_y"])
    columns = known[["x", "y", "u_x", "u_y"]].to_numpy(float).T
    _check_pairs(columns[0], columns[1], 5)
    for name, values, u in (("first", columns[0], columns[2]), ("second", *columns[[1, 3]])):
        if np.mean(u**2) >= values.var(ddof=1):
            raise ValueError(
                f"values of the {name} map spread by {values.std(ddof=1):.3g}, no more than "
                f"their uncertainty of {np.sqrt(np.mean(u**2)):.3g}"
            )
    subject, _ = pd.factorize(known["participant_id"])
    statistic = _true_correlation(columns, subject)
    strata = np.zeros(subject.max() + 1, dtype=int)
    value = float(statistic(np.ones((1, len(strata))))[0])
    return bca(value, *bootstrap(statistic, strata, rng, draws), level)


def _true_correlation(columns: Floats, subject: Integers) -> Callable[[Floats], Floats]:
    """Return the correlation without attenuation as a function of weights of the subjects."""
    x, y, u_x, u_y = columns

    def correlation(weights: Floats) -> Floats:
        own = weights[:, subject]
        n = own.sum(axis=1)
        share = own / n[:, None]
        unbiased = n / np.maximum(n - 1, 1)
        dx, dy = x - (share @ x)[:, None], y - (share @ y)[:, None]
        spread_x = np.sum(share * dx**2, axis=1) * unbiased - share @ u_x**2
        spread_y = np.sum(share * dy**2, axis=1) * unbiased - share @ u_y**2
        covariance = np.sum(share * dx * dy, axis=1) * unbiased
        positive = (spread_x > 0) & (spread_y > 0)
        root = np.sqrt(np.where(positive, spread_x * spread_y, np.nan))
        return np.asarray(np.clip(covariance / root, -1, 1))

    return correlation


def correlation_interval(r: float, dof: float, level: float = 0.95, method: str = "") -> Estimate:
    """Return a correlation with Fisher's interval.

    Parameters
    ----------
    r
        Correlation.
    dof
        Degrees of freedom: pairs less 2 less covariates.
    level
        Probability of the interval.
    method
        What the correlation is, in words.

    Returns
    -------
    estimate

    Raises
    ------
    ValueError
        If fewer than 2 degrees of freedom are left.

    References
    ----------
    Fisher 1921, Metron 1:3

    Examples
    --------
    >>> found = correlation_interval(0.5, 28)
    >>> round(found.low, 3), round(found.high, 3)
    (0.17, 0.729)
    """
    check_level(level)
    if dof < 2:
        raise ValueError(f"{dof:g} degrees of freedom are left for a correlation; at least 2")
    bounded = float(np.clip(r, -1 + 1e-15, 1 - 1e-15))
    half = stats.norm.ppf((1 + level) / 2) / np.sqrt(dof - 1)
    low, high = np.tanh(np.arctanh(bounded) + np.array([-half, half]))
    return Estimate(float(r), float(low), float(high), level, method)


@dataclass(frozen=True)
class Correlation:
    """A correlation with its interval and test.

    Parameters
    ----------
    r
        Correlation.
    p
        Two-sided, of no correlation.
    dof
        Degrees of freedom.
    n
        Number of pairs.
    """

    r: Estimate
    p: float
    dof: int
    n: int


def _tested(r: float, dof: int, n: int, level: float, method: str) -> Correlation:
    interval = correlation_interval(r, dof, level, method)
    t = r * np.sqrt(dof / max(1 - r**2, 1e-300))
    return Correlation(interval, float(2 * stats.t.sf(abs(t), dof)), dof, n)


def partial_correlation(
    x: Floats, y: Floats, covariates: Floats, level: float = 0.95
) -> Correlation:
    """Return the correlation of two maps, one value per subject each, given covariates.

    Parameters
    ----------
    x, y
        Values, shape (n,).
    covariates
        Shape (n, k); k may be 0.
    level
        Probability of the interval.

    Returns
    -------
    correlation

    Raises
    ------
    ValueError
        If values are missing or constant, covariates are missing or explain a map entirely, or
        fewer than 2 degrees of freedom are left.
    """
    _check_pairs(x, y, 4)
    if not np.isfinite(covariates).all():
        raise ValueError("a covariate of the partial correlation is missing")
    design = np.column_stack([np.ones(len(x)), covariates])
    rank = int(np.linalg.matrix_rank(design))
    values = np.column_stack([x, y])
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    if (rest.std(axis=0) <= 1e-10 * values.std(axis=0)).any():
        raise ValueError("the covariates explain a map entirely: no partial correlation is left")
    r = float(np.corrcoef(rest.T)[0, 1])
    return _tested(r, len(x) - 1 - rank, len(x), level, "partial correlation, Fisher")


def within_subjects(pairs: pd.DataFrame, level: float = 0.95) -> Correlation:
    """Return the correlation within subjects of repeated measurements.

    Parameters
    ----------
    pairs
        Columns ``participant_id x y``; subjects with one measurement say nothing and are left
        out.
    level
        Probability of the interval.

    Returns
    -------
    correlation

    Raises
    ------
    ValueError
        If fewer than 2 degrees of freedom are left, or a map does not change in any subject.

    References
    ----------
    Bakdash & Marusich 2017, doi:10.3389/fpsyg.2017.00456
    """
    known = pairs.dropna(subset=["x", "y"])
    groups = known.groupby("participant_id")[["x", "y"]]
    repeated = groups.transform("size") > 1
    rest = (known[["x", "y"]] - groups.transform("mean"))[repeated]
    n, subjects = len(rest), known.loc[repeated, "participant_id"].nunique()
    if n - subjects - 1 < 2:
        raise ValueError(
            f"{n} repeated measurements of {subjects} subjects are too few to correlate within"
        )
    if (np.ptp(rest.to_numpy(), axis=0) == 0).any():
        raise ValueError("a map does not change within any subject")
    squares = rest.to_numpy().T @ rest.to_numpy()
    r = float(squares[0, 1] / np.sqrt(squares[0, 0] * squares[1, 1]))
    return _tested(r, n - subjects - 1, n, level, "correlation within subjects, Fisher")


@dataclass(frozen=True)
class AddedValue:
    """What one more map adds to a model.

    Parameters
    ----------
    measure
        ``R2`` of a number, ``AUC`` of a class.
    base, full
        The measure without and with the map, both less their optimism for a class.
    gain
        Full less base, with its interval.
    ratio
        Twice the difference of the log likelihoods.
    p
        Of the likelihood ratio.
    note
        What must be said of the fit, or nothing.
    """

    measure: str
    base: float
    full: float
    gain: Estimate
    ratio: float
    p: float
    note: str = ""


def added_value(
    outcome: Floats,
    base: Floats,
    added: Floats,
    rng: np.random.Generator,
    draws: int = 500,
) -> AddedValue:
    """Compare a model with the same one and further columns, one row per subject.

    A number is explained by ordinary least squares; its R2 is the adjusted one. A class of True
    and False is explained by logistic regression; its AUC has the optimism taken off that the
    bootstrap finds, fitted anew in each resampled cohort.

    Parameters
    ----------
    outcome
        Numbers, or a class (boolean), shape (n,).
    base
        Columns of the smaller model, shape (n, k); k may be 0 for a number.
    added
        Further columns, shape (n, m).
    rng
        Source of randomness.
    draws
        Number of resampled cohorts.

    Returns
    -------
    added_value
        Interval of the gain at 95 %.

    Raises
    ------
    ValueError
        If values are missing, columns depend on each other, the outcome is constant, or there
        are fewer than 3 more rows than columns.

    References
    ----------
    Harrell et al. 1996, doi:10.1002/(SICI)1097-0258(19960229)15:4<361::AID-SIM168>3.0.CO;2-4
    """
    full = np.column_stack([base, added])
    _check_model(np.asarray(outcome, dtype=float), full)
    if np.asarray(outcome).dtype == bool:
        return _added_to_class(np.asarray(outcome), base, full, rng, draws)
    return _added_to_number(np.asarray(outcome, dtype=float), base, full, rng, draws)


def _check_model(outcome: Floats, full: Floats) -> None:
    if not (np.isfinite(outcome).all() and np.isfinite(full).all()):
        raise ValueError("a model is compared on complete rows; here a value is missing")
    if np.ptp(outcome) == 0:
        raise ValueError("the outcome is the same in every row")
    if len(outcome) < full.shape[1] + 4:
        raise ValueError(f"{len(outcome)} rows are too few for {full.shape[1]} columns")
    design = np.column_stack([np.ones(len(outcome)), full])
    if np.linalg.matrix_rank(design / np.linalg.norm(design, axis=0)) < design.shape[1]:
        raise ValueError("columns of the model are constant or depend on each other")


def _residual_squares(outcome: Floats, columns: Floats) -> float:
    design = np.column_stack([np.ones(len(outcome)), columns])
    rest = outcome - design @ np.linalg.lstsq(design, outcome, rcond=None)[0]
    return float(rest @ rest)


def _adjusted(outcome: Floats, columns: Floats) -> float:
    n, k = columns.shape
    total = float(np.sum((outcome - outcome.mean()) ** 2))
    return 1 - _residual_squares(outcome, columns) / (n - k - 1) / (total / (n - 1))


def _added_to_number(
    outcome: Floats, base: Floats, full: Floats, rng: np.random.Generator, draws: int
) -> AddedValue:
    n = len(outcome)
    small, large = (_adjusted(outcome, columns) for columns in (base, full))

    def gain(rows: Integers) -> float:
        drawn = outcome[rows]
        if np.ptp(drawn) == 0:
            return float("nan")
        return _adjusted(drawn, full[rows]) - _adjusted(drawn, base[rows])

    drawn = np.array([gain(rng.integers(n, size=n)) for _ in range(draws)])
    left = np.array([gain(np.delete(np.arange(n), k)) for k in range(n)])
    ratio = n * np.log(_residual_squares(outcome, base) / _residual_squares(outcome, full))
    p = float(stats.chi2.sf(ratio, full.shape[1] - base.shape[1]))
    return AddedValue("R2", small, large, bca(large - small, drawn, left), float(ratio), p)


def _added_to_class(
    outcome: np.ndarray, base: Floats, full: Floats, rng: np.random.Generator, draws: int
) -> AddedValue:
    rows = np.arange(len(outcome))
    apparent = np.array([_areas(outcome, columns, rows)[0] for columns in (base, full)])
    counts = draw_subjects(outcome.astype(int), draws, rng)
    drawn = np.array(
        [
            [_areas(outcome, columns, np.repeat(rows, count)) for columns in (base, full)]
            for count in counts
        ]
    )
    optimism = (drawn[:, :, 0] - drawn[:, :, 1]).mean(axis=0)
    honest = apparent - optimism
    gains = drawn[:, 1, 0] - drawn[:, 0, 0] - (optimism[1] - optimism[0])
    low, high = np.quantile(gains, [0.025, 0.975])
    method = "bootstrap by subject, fitted anew in each, less its optimism"
    gain = Estimate(float(honest[1] - honest[0]), float(low), float(high), 0.95, method)
    small, large = (fit_logistic(columns, outcome) for columns in (base, full))
    ratio = max(2 * (large.log_likelihood - small.log_likelihood), 0.0)
    p = float(stats.chi2.sf(ratio, full.shape[1] - base.shape[1]))
    note = "the classes separate perfectly: Firth's penalized fit" if large.separated else ""
    return AddedValue("AUC", float(honest[0]), float(honest[1]), gain, ratio, p, note)


def _areas(outcome: np.ndarray, columns: Floats, rows: Integers) -> tuple[float, float]:
    """Return the area of a model in the rows it was fitted to, and in all rows."""
    model = fit_logistic(columns[rows], outcome[rows])
    chance = model.probability(columns)
    inside, everyone = np.arange(len(rows)), np.arange(len(outcome))
    return (
        auc(Scores(chance[rows], outcome[rows], inside)),
        auc(Scores(chance, outcome, everyone)),
    )
