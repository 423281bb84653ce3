"""How well a value repeats: within-subject SD, repeatability coefficient, agreement.

The within-subject SD holds all that differs between repeats, systematic differences too. Intervals
are exact under normal errors (chi-square, F), or, for unbalanced repeats and for the agreement of
crossed sessions, the usual approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import special, stats

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.components import fit_components, nest
from sodiumprep.sodium.cohort.values import (
    UNKNOWN,
    in_order,
    own_variance,
    session_means,
    usable_rows,
)

REPEATABILITY = 1.96 * np.sqrt(2.0)  # 2.77: 95 % of differences of two repeats lie below
LIMITS = 1.96  # SDs of differences between bias and a limit of agreement
Over = Literal["session", "run"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Return the same in another unit."""
        return Interval(self.estimate * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Repeatability:
    """How well a value repeats.

    Parameters
    ----------
    within_sd
        Within-subject SD [mmol/L].
    coefficient
        Repeatability coefficient, 2.77 within-subject SDs [mmol/L].
    cov, cov_log
        Within-subject coefficient of variation (1 = 100 %): SD over mean, and by logarithms.
    icc
        ICC(1) of one measurement, each subject with repeats of its own.
    icc_agreement, icc_consistency
        ICC(A,1) and ICC(C,1), where the repeats are the same occasions for all; else None.
    between_sd
        Between subjects, without the error of measurement [mmol/L].
    df
        Degrees of freedom within subjects.
    excess_sd
        Within-subject SD beyond the uncertainties of the values [mmol/L], each value weighted by
        its own (restricted maximum likelihood); nan where they are not known.
    excess_error
        Standard error of its square [(mmol/L)^2], 0 where nothing is left.
    n_subjects, n_values
        What was used.
    notes
        What was left out, in words.
    """

    within_sd: Interval
    coefficient: Interval
    cov: Interval
    cov_log: Interval
    icc: Interval
    icc_agreement: Interval | None
    icc_consistency: Interval | None
    between_sd: float
    df: int
    excess_sd: float
    excess_error: float
    n_subjects: int
    n_values: int
    notes: Sequence[str]


def repeatability(
    values: pd.DataFrame, over: Over = "session", confidence: float = 0.95
) -> Repeatability:
    """Return how well one region repeats.

    Parameters
    ----------
    values
        Table of values.
    over
        ``session``: sessions of a subject are the repeats, runs of each averaged. ``run``: runs
        of the same session are.
    confidence
        Of the intervals.

    Raises
    ------
    ValueError
        If fewer than two subjects have two repeats, or all repeats are equal.
    """
    repeats, notes = _repeats(values, over)
    groups = _grouped(repeats)
    if groups.within == 0:
        raise ValueError(f"all {over}s of each subject have the same value")
    first = repeats[repeats["first"]]
    sd = _spread(groups, confidence)
    between = _grouped(first).between
    crossed = _crossed(first, over)
    excess, error = _excess(repeats)
    return Repeatability(
        within_sd=sd,
        coefficient=sd.times(REPEATABILITY),
        cov=_over_mean(sd, groups, between, confidence),
        cov_log=_by_logarithm(repeats, confidence),
        icc=intraclass(first, confidence),
        icc_agreement=None if crossed is None else agreement(crossed, confidence),
        icc_consistency=None if crossed is None else consistency(crossed, confidence),
        between_sd=float(np.sqrt(between)),
        df=groups.df,
        excess_sd=float(np.sqrt(excess)),
        excess_error=error,
        n_subjects=first["unit"].nunique(),
        n_values=len(repeats),
        notes=notes,
    )


def _repeats(values: pd.DataFrame, over: Over) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return values that repeat each other: ``unit occasion value own first``.

    ``first`` marks the units that are independent: of a subject with repeats in several sessions,
    the session with the most of them.
    """
    if over == "session":
        rows = session_means(values)
        rows = rows.iloc[in_order(rows["session"])]
        rows = rows.assign(unit=rows["participant_id"], occasion=rows["session"])
        rows["own"] = rows["u_own"] ** 2
    else:
        rows = usable_rows(values)
        rows = rows.iloc[in_order(rows["run"])]
        rows = rows.assign(occasion=rows["run"], own=own_variance(rows, without_session=True))
        rows["unit"] = rows["participant_id"] + " " + rows["session"]
    size = rows.groupby("unit")["value"].transform("size")
    kept = rows[size >= 2].assign(size=size)
    alone = int((size < 2).sum())
    if kept["participant_id"].nunique() < 2:
        raise ValueError(f"fewer than two subjects have two {over}s with a value")
    order = kept.sort_values("size", ascending=False, kind="stable")
    chosen = order.groupby("participant_id")["unit"].first()
    kept["first"] = kept["unit"] == kept["participant_id"].map(chosen)
    notes = (f"{alone} values without a repeat are left out",) if alone else ()
    return kept[["unit", "occasion", "value", "own", "first"]], notes


@dataclass(frozen=True)
class _Groups:
    """Number of repeats, mean and sum of squares about it of each unit, shape (n,)."""

    size: Floats
    mean: Floats
    squares: Floats

    @property
    def df(self) -> int:
        return int(self.size.sum()) - len(self.size)

    @property
    def within(self) -> float:
        """Return the variance within."""
        return float(self.squares.sum() / self.df)

    @property
    def between(self) -> float:
        """Return the variance between, without that within."""
        error = self.within * float(np.mean(1 / self.size))
        return max(float(self.mean.var(ddof=1)) - error, 0.0)


def _grouped(repeats: pd.DataFrame) -> _Groups:
    codes = pd.factorize(repeats["unit"])[0]
    value = repeats["value"].to_numpy()
    size = np.bincount(codes).astype(float)
    mean = np.bincount(codes, value) / size
    squares = np.asarray(np.bincount(codes, (value - mean[codes]) ** 2), float)
    return _Groups(size, mean, squares)


def _spread(groups: _Groups, confidence: float) -> Interval:
    variance, df = groups.within, groups.df
    tails = stats.chi2.ppf([0.5 + confidence / 2, 0.5 - confidence / 2], df)
    low, high = np.sqrt(variance * df / tails)
    return Interval(float(np.sqrt(variance)), float(low), float(high))


def _excess(repeats: pd.DataFrame) -> tuple[float, float]:
    """Return what varies within subjects beyond known errors, and its standard error."""
    known = repeats["own"].to_numpy()
    if np.isnan(known).all():
        return float("nan"), float("nan")
    known = np.where(np.isnan(known), np.nanmean(known), known)
    n, codes = len(repeats), pd.factorize(repeats["unit"])[0]
    value = repeats["value"].to_numpy()
    fit = fit_components(value, np.ones((n, 1)), known, nest([codes], n))
    return fit.residual if fit.converged else (float("nan"), float("nan"))


def _over_mean(sd: Interval, groups: _Groups, between: float, confidence: float) -> Interval:
    """Return an SD over the mean of all; both errors are carried in."""
    mean = float(groups.mean.mean())
    if mean <= 0:
        return Interval(np.nan, np.nan, np.nan)
    spread = (between + sd.estimate**2 * float(np.mean(1 / groups.size))) / len(groups.size)
    error = float(stats.norm.ppf(0.5 + confidence / 2)) * np.sqrt(spread) / mean
    ratio = sd.estimate / mean
    lower, upper = np.log(sd.estimate / sd.low), np.log(sd.high / sd.estimate)
    return Interval(
        ratio,
        float(ratio * np.exp(-np.hypot(lower, error))),
        float(ratio * np.exp(np.hypot(upper, error))),
    )


def _by_logarithm(repeats: pd.DataFrame, confidence: float) -> Interval:
    """Return the coefficient of variation of values whose logarithm is normal.

    References
    ----------
    Bland & Altman 1996, doi:10.1136/bmj.313.7050.170
    """
    if (repeats["value"] <= 0).any():
        return Interval(np.nan, np.nan, np.nan)
    logarithms = repeats.assign(value=np.log(repeats["value"]))
    sd = _spread(_grouped(logarithms), confidence)
    return Interval(*(float(np.sqrt(np.expm1(s**2))) for s in (sd.estimate, sd.low, sd.high)))


def intraclass(repeats: pd.DataFrame, confidence: float = 0.95) -> Interval:
    """Return ICC(1) of one measurement.

    The variance of the subjects' means, unweighted, stands over that within, so the interval also
    holds for unequal numbers of repeats; for equal ones it is the exact one of the F distribution.

    Parameters
    ----------
    repeats
        ``unit`` (subject) and ``value``.
    confidence
        Of the interval.

    References
    ----------
    Shrout & Fleiss 1979, doi:10.1037/0033-2909.86.2.420; Thomas & Hultquist 1978,
    doi:10.1214/aos/1176344202

    Examples
    --------
    >>> twice = pd.DataFrame({"unit": ["a", "a", "b", "b"], "value": [40.0, 42.0, 50.0, 52.0]})
    >>> round(intraclass(twice).estimate, 4)
    0.9608
    """
    groups = _grouped(repeats)
    size = float(1 / np.mean(1 / groups.size))  # harmonic mean
    ratio = size * float(groups.mean.var(ddof=1)) / groups.within
    tails = [0.5 + confidence / 2, 0.5 - confidence / 2]
    limits = stats.f.ppf(tails, len(groups.size) - 1, groups.df)
    estimate, low, high = ratio / np.array([1.0, *limits])
    return Interval(*(float((f - 1) / (f + size - 1)) for f in (estimate, low, high)))


def _crossed(repeats: pd.DataFrame, over: Over) -> Floats | None:
    """Return subjects by occasions where all subjects have the same ones, else None."""
    table = repeats.assign(subject=repeats["unit"]).pivot(
        index="subject", columns="occasion", values="value"
    )
    complete = table.dropna(axis=1, thresh=len(table) // 2 + 1).dropna()
    if UNKNOWN in table or complete.shape[1] < 2 or len(complete) < 3:
        return None
    return np.asarray(complete, float)


def _mean_squares(table: Floats) -> tuple[float, float, float]:
    """Return mean squares of subjects, occasions and the rest, shape (n, k) in."""
    n, k = table.shape
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns + table.mean()
    residual = float((rest**2).sum()) / ((n - 1) * (k - 1))
    return k * float(rows.var(ddof=1)), n * float(columns.var(ddof=1)), residual


def consistency(table: Floats, confidence: float = 0.95) -> Interval:
    """Return ICC(C,1): differences between occasions that all subjects share do not count.

    Parameters
    ----------
    table
        Subjects by occasions, shape (n, k).
    confidence
        Of the interval, exact.

    References
    ----------
    McGraw & Wong 1996, doi:10.1037/1082-989X.1.1.30
    """
    n, k = table.shape
    subjects, _, rest = _mean_squares(table)
    tails = stats.f.ppf([0.5 + confidence / 2, 0.5 - confidence / 2], n - 1, (n - 1) * (k - 1))
    ratios = subjects / rest / np.array([1.0, *tails])
    return Interval(*(float((f - 1) / (f + k - 1)) for f in ratios))


def agreement(table: Floats, confidence: float = 0.95) -> Interval:
    """Return ICC(A,1): differences between occasions count as error.

    Parameters
    ----------
    table
        Subjects by occasions, shape (n, k).
    confidence
        Of the interval, by Satterthwaite's approximation.

    References
    ----------
    McGraw & Wong 1996, doi:10.1037/1082-989X.1.1.30
    """
    n, k = table.shape
    subjects, occasions, rest = _mean_squares(table)
    icc = (subjects - rest) / (subjects + (k - 1) * rest + k * (occasions - rest) / n)
    a, b = k * icc / (n * (1 - icc)), 1 + k * icc * (n - 1) / (n * (1 - icc))
    error = a * occasions + b * rest
    df = error**2 / ((a * occasions) ** 2 / (k - 1) + (b * rest) ** 2 / ((n - 1) * (k - 1)))
    lower = stats.f.ppf(0.5 + confidence / 2, n - 1, df)
    upper = stats.f.ppf(0.5 + confidence / 2, df, n - 1)
    shift = k * occasions + (k * n - k - n) * rest
    low = n * (subjects - lower * rest) / (lower * shift + n * subjects)
    high = n * (upper * subjects - rest) / (shift + n * upper * subjects)
    return Interval(float(icc), float(low), float(high))


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of two repeats.

    Parameters
    ----------
    means, changes
        Of each subject, second minus first, shape (n,) [mmol/L].
    subjects
        Their labels.
    bias, lower, upper
        Mean change and the limits of agreement (1.96 SD), with intervals [mmol/L].
    slope
        Of the change by the mean, with interval.
    p_proportional
        That the slope is zero.
    """

    means: Floats
    changes: Floats
    subjects: Sequence[str]
    bias: Interval
    lower: Interval
    upper: Interval
    slope: Interval
    p_proportional: float


def bland_altman(
    values: pd.DataFrame, over: Over = "session", confidence: float = 0.95
) -> BlandAltman:
    """Return bias and limits of agreement of the first two repeats.

    Parameters
    ----------
    values
        Table of values.
    over
        What repeats, as for :func:`repeatability`.
    confidence
        Of the intervals; those of the limits are exact.

    Raises
    ------
    ValueError
        If fewer than three subjects have two repeats.

    References
    ----------
    Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8; Carkeet 2015,
    doi:10.1097/OPX.0000000000000513
    """
    repeats, _ = _repeats(values, over)
    by_unit = repeats[repeats["first"]].sort_values("unit", kind="stable").groupby("unit")
    pairs = np.column_stack([by_unit["value"].nth(place) for place in (0, 1)])
    if len(pairs) < 3:
        raise ValueError(f"{len(pairs)} subjects with two {over}s; at least 3 are needed")
    changes, means = pairs[:, 1] - pairs[:, 0], pairs.mean(axis=1)
    fit = sm.OLS(changes, sm.add_constant(means, has_constant="add")).fit()
    slope = fit.conf_int(alpha=1 - confidence)[1]
    bias, lower, upper = limits_of_agreement(changes, confidence)
    return BlandAltman(
        means=means,
        changes=changes,
        subjects=[str(unit).removesuffix(f" {UNKNOWN}") for unit in by_unit.groups],
        bias=bias,
        lower=lower,
        upper=upper,
        slope=Interval(float(fit.params[1]), float(slope[0]), float(slope[1])),
        p_proportional=float(fit.pvalues[1]),
    )


def limits_of_agreement(
    changes: Floats, confidence: float = 0.95
) -> tuple[Interval, Interval, Interval]:
    """Return bias, lower and upper limit.

    Parameters
    ----------
    changes
        Shape (n,).
    confidence
        Of the intervals.
    """
    n, bias, sd = len(changes), float(np.mean(changes)), float(np.std(changes, ddof=1))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * sd / np.sqrt(n)
    tails = [0.5 - confidence / 2, 0.5 + confidence / 2]
    inner, outer = (
        float(special.nctdtrit(n - 1, LIMITS * np.sqrt(n), tail)) * sd / np.sqrt(n)
        for tail in tails
    )
    return (
        Interval(bias, bias - half, bias + half),
        Interval(bias - LIMITS * sd, bias - outer, bias - inner),
        Interval(bias + LIMITS * sd, bias + inner, bias + outer),
    )
