"""Intervals by the bootstrap over subjects: values of one are drawn together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sodiumprep.sodium.acquisition import Floats, Integers

DRAWS = 2000  # as the textbooks ask for BCa intervals
CHUNK = 4_000_000  # weights held at once
MOST_GROUPS = 1000  # that are left out one by one


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Parameters
    ----------
    value
        The estimate.
    low, high
        Ends of the interval.
    level
        Stated probability of the interval.
    method
        How the interval was made, in words.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    method: str = ""

    @classmethod
    def around(cls, value: float, half: float, level: float, method: str) -> Estimate:
        """Return an estimate in the middle of its interval.

        Parameters
        ----------
        value
            The estimate.
        half
            Half of the interval's width.
        level, method
            As of the class.

        Returns
        -------
        estimate
        """
        return cls(float(value), float(value - half), float(value + half), level, method)

    def holds(self, truth: float) -> bool:
        """Return whether the interval holds a value."""
        return self.low <= truth <= self.high


def draw_subjects(strata: Integers, draws: int, rng: np.random.Generator) -> Integers:
    """Return how often each subject is drawn, with replacement inside its stratum.

    Parameters
    ----------
    strata
        Stratum of each subject, shape (n,): so many of each as there are in the cohort.
    draws
        Number of resampled cohorts.
    rng
        Source of randomness.

    Returns
    -------
    counts
        Shape (draws, n).

    Examples
    --------
    >>> counts = draw_subjects(np.array([0, 0, 1]), 4, np.random.default_rng(1))
    >>> counts[:, :2].sum(axis=1).tolist(), counts[:, 2].tolist()
    ([2, 2, 2, 2], [1, 1, 1, 1])
    """
    counts = np.zeros((draws, len(strata)), dtype=np.int32)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        share = np.full(len(members), 1 / len(members))
        counts[:, members] = rng.multinomial(len(members), share, size=draws)
    return counts


def bootstrap(
    statistic: Callable[[Floats], Floats],
    strata: Integers,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> tuple[Floats, Floats]:
    """Return a statistic of resampled cohorts, and of the cohort without some of its subjects.

    Parameters
    ----------
    statistic
        Function of weights of the subjects, shape (m, n), that returns shape (m,) or (m, k).
    strata
        Stratum of each subject, shape (n,).
    rng
        Source of randomness.
    draws
        Number of resampled cohorts.

    Returns
    -------
    resampled, left_out
        Shape (draws[, k]), as of :func:`resample`, and (g[, k]), as of :func:`leave_out`.
    """
    return resample(statistic, strata, rng, draws), leave_out(statistic, strata)


def resample(
    statistic: Callable[[Floats], Floats], strata: Integers, rng: np.random.Generator, draws: int
) -> Floats:
    """Return a statistic of resampled cohorts.

    Parameters
    ----------
    statistic, strata, rng, draws
        As of :func:`bootstrap`.

    Returns
    -------
    resampled
        Shape (draws[, k]).
    """
    counts = draw_subjects(strata, draws, rng)
    step = max(CHUNK // max(len(strata), 1), 1)
    parts = (counts[k : k + step].astype(float) for k in range(0, draws, step))
    return np.concatenate([statistic(part) for part in parts])


def leave_out(statistic: Callable[[Floats], Floats], strata: Integers) -> Floats:
    """Return a statistic of the cohort without each subject; of a large one without each group.

    Groups of a large cohort are equally large and of all strata alike. The skewness of what they
    change, over the root of their number, is that of single subjects.

    Parameters
    ----------
    statistic, strata
        As of :func:`bootstrap`.

    Returns
    -------
    left_out
        Shape (g[, k]): as many as there are subjects, at most ``MOST_GROUPS``.
    """
    n = len(strata)
    groups = min(n, MOST_GROUPS)
    group = np.empty(n, int)
    group[np.argsort(strata, kind="stable")] = np.arange(n) % groups
    step = max(CHUNK // max(n, 1), 1)
    gone = (np.arange(k, min(k + step, groups)) for k in range(0, groups, step))
    return np.concatenate([statistic((group != part[:, None]).astype(float)) for part in gone])


def bca(value: float, resampled: Floats, left_out: Floats, level: float = 0.95) -> Estimate:
    """Return a bias-corrected and accelerated interval, widened for few subjects.

    Its tails are those of Student's t, and of the spread that n - 1 of n subjects show. Resampled
    values that could not be determined do not count; where the value lies outside of
    all resampled ones, or leaving a subject out says nothing, the interval is that of the
    percentiles.

    Parameters
    ----------
    value
        Statistic of the cohort.
    resampled
        Statistic of resampled cohorts, shape (draws,).
    left_out
        Statistic without each subject, or each group of a large cohort, shape (n,).
    level
        Probability of the interval.

    Returns
    -------
    estimate

    Raises
    ------
    ValueError
        If the level does not lie between 0 and 1, or less than half of the resampled values are
        finite.

    References
    ----------
    Efron 1987, doi:10.1080/01621459.1987.10478410; Hesterberg 2015,
    doi:10.1080/00031305.2015.1089789
    """
    check_level(level)
    known = resampled[np.isfinite(resampled)]
    if 2 * len(known) < len(resampled):
        raise ValueError(
            f"only {len(known)} of {len(resampled)} resampled cohorts give a value: "
            "too few subjects for an interval"
        )
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    below = (np.mean(known < value) + np.mean(known <= value)) / 2
    spread = left_out[np.isfinite(left_out)].mean() - left_out[np.isfinite(left_out)]
    power = np.sum(spread**2) ** 1.5
    if not 0 < below < 1 or power == 0:
        low, high = np.quantile(known, tails)
        return Estimate(value, float(low), float(high), level, "bootstrap by subject, percentiles")
    shift, acceleration = stats.norm.ppf(below), np.sum(spread**3) / (6 * power)
    n = len(spread)
    normal = shift + np.sqrt(n / (n - 1)) * stats.t.ppf(tails, n - 1)
    low, high = np.quantile(known, stats.norm.cdf(shift + normal / (1 - acceleration * normal)))
    return Estimate(value, float(low), float(high), level, "bootstrap by subject, BCa")


def check_level(level: float) -> None:
    """Refuse a probability that is none.

    Raises
    ------
    ValueError
        If the level does not lie between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, not at {level}")
