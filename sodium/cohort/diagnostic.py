"""Diagnostic value: how well a regional value tells one class from another.

A class is a lesion against the tissue opposite in the same subjects, or one group of subjects
against another. Subjects are the units: all values of one are resampled together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.cohort.resampling import (
    DRAWS,
    Estimate,
    bca,
    bootstrap,
    check_level,
    resample,
)

SMALLEST = 2  # subjects of a class
CORRECTED = "bootstrap by subject, cut-off chosen anew in each, less its optimism"


@dataclass(frozen=True)
class Scores:
    """Values of two classes.

    Parameters
    ----------
    value
        Regional values [mmol/L] or probabilities, higher in the positive class, shape (n,).
    positive
        Which ones are of the positive class, shape (n,).
    subject
        Index of the subject of each, shape (n,), from 0 without gaps.
    """

    value: Floats
    positive: np.ndarray
    subject: Integers

    @property
    def strata(self) -> Integers:
        """Return which classes each subject has: 1 positive, 2 negative, 3 both."""
        has = np.zeros(self.subject.max() + 1, dtype=int)
        np.bitwise_or.at(has, self.subject, np.where(self.positive, 1, 2))
        return has

    @property
    def independent(self) -> bool:
        """Return whether every subject has one value."""
        return len(np.unique(self.subject)) == len(self.subject)


def scores_of(table: pd.DataFrame, positive: np.ndarray, higher: bool = True) -> Scores:
    """Return the values of a table with their class; rows without a value are left out.

    Parameters
    ----------
    table
        Columns ``participant_id`` and ``value``.
    positive
        Which rows are of the positive class, shape (rows,).
    higher
        Whether the positive class is expected to have the higher values; otherwise the sign of
        all is turned.

    Returns
    -------
    scores

    Raises
    ------
    ValueError
        If a column is missing, or a class has fewer than 2 subjects.

    Examples
    --------
    >>> table = pd.DataFrame({"participant_id": ["1", "2", "3", "4"], "value": [3.0, 1, 2, 4]})
    >>> auc(scores_of(table, np.array([True, False, False, True])))
    1.0
    """
    missing = {"participant_id", "value"} - set(table)
    if missing:
        raise ValueError(f"the table has no column {sorted(missing)[0]}")
    known = np.isfinite(table["value"].to_numpy(float))
    value = table["value"].to_numpy(float)[known] * (1 if higher else -1)
    truth = np.asarray(positive, dtype=bool)[known]
    subject, _ = pd.factorize(table["participant_id"].to_numpy()[known])
    for name, members in (("positive", truth), ("negative", ~truth)):
        n = len(np.unique(subject[members]))
        if n < SMALLEST:
            raise ValueError(
                f"the {name} class has {n} subjects with a value; at least {SMALLEST}"
            )
    return Scores(value, truth, subject)


def paired_scores(upper: pd.DataFrame, lower: pd.DataFrame, higher: bool = True) -> Scores:
    """Return the values of one region against those of another in the same subjects.

    Parameters
    ----------
    upper, lower
        Tables of values: the lesion, and what it is told from.
    higher
        As for :func:`scores_of`.

    Returns
    -------
    scores
        Of the participants that have both.

    Raises
    ------
    ValueError
        If fewer than 2 participants have both.
    """
    both = [table.dropna(subset=["value"]) for table in (upper, lower)]
    shared = set(both[0]["participant_id"]) & set(both[1]["participant_id"])
    kept = [table[table["participant_id"].isin(shared)] for table in both]
    positive = np.repeat([True, False], [len(table) for table in kept])
    return scores_of(pd.concat(kept, ignore_index=True), positive, higher)


def auc(scores: Scores) -> float:
    """Return the area under the receiver-operating curve.

    It is the probability that a value of the positive class is the higher one; ties count half.

    Parameters
    ----------
    scores
        Values of two classes.

    Returns
    -------
    area
        In [0, 1].
    """
    return float(_weighted_auc(scores)(np.ones((1, len(scores.strata))))[0])


def _weighted_auc(scores: Scores) -> Callable[[Floats], Floats]:
    """Return the area as a function of weights of the subjects, shape (m, subjects)."""
    order = np.argsort(scores.value, kind="stable")
    subject, positive = scores.subject[order], scores.positive[order]
    starts = np.flatnonzero(np.diff(scores.value[order], prepend=-np.inf) != 0)

    def area(weights: Floats) -> Floats:
        own = weights[:, subject]
        ups = np.add.reduceat(own * positive, starts, axis=1)
        downs = np.add.reduceat(own * ~positive, starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs / 2
        with np.errstate(invalid="ignore"):  # a class without weight has no area
            wins = np.sum(ups * below, axis=1)
            return np.asarray(wins / (ups.sum(axis=1) * downs.sum(axis=1)))

    return area


def auc_interval(
    scores: Scores, rng: np.random.Generator, level: float = 0.95, draws: int = DRAWS
) -> Estimate:
    """Return the area with a BCa interval, resampled by subject inside each class.

    Where the classes do not overlap, resampling knows no doubt; the nearer end of the interval
    is then 1 (or 0), the other one the exact binomial bound for that many subjects of the
    smaller class, all on the right side.

    Parameters
    ----------
    scores
        Values of two classes.
    rng
        Source of randomness.
    level
        Probability of the interval.
    draws
        Number of resampled cohorts.

    Returns
    -------
    estimate

    Raises
    ------
    ValueError
        If the level does not lie between 0 and 1.
    """
    check_level(level)
    value = auc(scores)
    if value in (0.0, 1.0):
        return _without_overlap(value, scores, level)
    return bca(value, *bootstrap(_weighted_auc(scores), scores.strata, rng, draws), level)


def _without_overlap(value: float, scores: Scores, level: float) -> Estimate:
    bound = ((1 - level) / 2) ** (1 / min(_subjects(scores)))
    low, high = (bound, 1.0) if value == 1 else (0.0, 1 - bound)
    return Estimate(value, low, high, level, "classes do not overlap: exact binomial bound")


def _subjects(scores: Scores) -> list[int]:
    """Return the number of subjects of the positive and of the negative class."""
    return [len(np.unique(scores.subject[scores.positive == side])) for side in (True, False)]


def delong(scores: Scores, level: float = 0.95) -> Estimate:
    """Return the area with the interval of DeLong: a check where subjects have one value each.

    Parameters
    ----------
    scores
        Values of two classes.
    level
        Probability of the interval.

    Returns
    -------
    estimate

    Raises
    ------
    ValueError
        If a subject has several values, or the level does not lie between 0 and 1.

    References
    ----------
    DeLong et al. 1988, doi:10.2307/2531595
    """
    check_level(level)
    if not scores.independent:
        raise ValueError("DeLong's interval holds for one value per subject; here some have more")
    up, down = scores.value[scores.positive], scores.value[~scores.positive]
    both = stats.rankdata(np.concatenate([up, down]))
    won = (both[: len(up)] - stats.rankdata(up)) / len(down)
    lost = 1 - (both[len(up) :] - stats.rankdata(down)) / len(up)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(
        won.var(ddof=1) / len(up) + lost.var(ddof=1) / len(down)
    )
    value = float(won.mean())
    low, high = np.clip([value - half, value + half], 0, 1)
    return Estimate(value, float(low), float(high), level, "DeLong")


@dataclass(frozen=True)
class Comparison:
    """Two areas of the same subjects and their difference.

    Parameters
    ----------
    first, second
        Areas.
    difference
        Second less first, with its interval.
    p
        Two-sided, from the same resampled cohorts, never below 1 / (draws + 1).
    """

    first: float
    second: float
    difference: Estimate
    p: float


def compare_auc(
    first: Scores,
    second: Scores,
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Comparison:
    """Compare two measures of the same subjects, such as with and without correction.

    Parameters
    ----------
    first, second
        Values in the same order of subjects and classes.
    rng
        Source of randomness.
    level
        Probability of the interval.
    draws
        Number of resampled cohorts.

    Returns
    -------
    comparison

    Raises
    ------
    ValueError
        If subjects or classes differ, or the level does not lie between 0 and 1.
    """
    if not (
        np.array_equal(first.subject, second.subject)
        and np.array_equal(first.positive, second.positive)
    ):
        raise ValueError("two areas are compared over the same rows; subjects or classes differ")
    one, other = _weighted_auc(first), _weighted_auc(second)
    areas = auc(first), auc(second)
    drawn, left = bootstrap(lambda w: other(w) - one(w), first.strata, rng, draws)
    tail = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    difference = bca(areas[1] - areas[0], drawn, left, level)
    return Comparison(*areas, difference, float(min(1.0, 2 * (tail + 1) / (draws + 1))))


def roc(scores: Scores) -> pd.DataFrame:
    """Return the receiver-operating curve.

    Parameters
    ----------
    scores
        Values of two classes.

    Returns
    -------
    curve
        Columns ``cutoff`` (positive from there on), ``sensitivity``, ``specificity``; the first
        row calls nothing positive.
    """
    cutoffs = np.unique(scores.value)
    up, down = (np.sort(scores.value[scores.positive == side]) for side in (True, False))
    sensitivity = 1 - np.searchsorted(up, cutoffs, side="left") / len(up)
    specificity = np.searchsorted(down, cutoffs, side="left") / len(down)
    return pd.DataFrame(
        {
            "cutoff": np.append(np.inf, cutoffs[::-1]),
            "sensitivity": np.append(0.0, sensitivity[::-1]),
            "specificity": np.append(1.0, specificity[::-1]),
        }
    )


@dataclass(frozen=True)
class Cutoff:
    """A cut-off with what it is worth in new subjects.

    Parameters
    ----------
    value
        The cut-off [unit of the values]; from there on positive.
    sensitivity, specificity
        Less the optimism of having chosen the cut-off in the same subjects.
    apparent
        Sensitivity and specificity in the same subjects.
    """

    value: Estimate
    sensitivity: Estimate
    specificity: Estimate
    apparent: tuple[float, float]


def cutoff(
    scores: Scores,
    rule: tuple[str, float] | str,
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Cutoff:
    """Choose a cut-off and say honestly what it is worth.

    The cut-off is chosen anew in every resampled cohort. How much better it does there than in
    the whole cohort is its optimism: the mean of it is taken off, its spread makes the interval.
    In small cohorts a part of the optimism stays (a third with 25 subjects of each class).

    Parameters
    ----------
    scores
        Values of two classes.
    rule
        ``"youden"``: the largest sum of sensitivity and specificity; ``("sensitivity", x)`` or
        ``("specificity", x)``: at least x of that one, and the most of the other.
    rng
        Source of randomness.
    level
        Probability of the intervals.
    draws
        Number of resampled cohorts.

    Returns
    -------
    cutoff

    Raises
    ------
    ValueError
        If the rule is none of these, or a level does not lie between 0 and 1.

    References
    ----------
    Harrell et al. 1996, doi:10.1002/(SICI)1097-0258(19960229)15:4<361::AID-SIM168>3.0.CO;2-4
    """
    check_level(level)
    _check_rule(rule)
    order = np.argsort(scores.value, kind="stable")
    ordered = Scores(scores.value[order], scores.positive[order], scores.subject[order])
    values, edges = np.unique(ordered.value, return_index=True)
    whole = _rates(ordered, edges, np.ones((1, len(scores.strata))))[:, 0]
    here = _choose(whole[:, None], rule)
    best = int(here[0])

    def rated_anew(weights: Floats) -> Floats:
        rates = _rates(ordered, edges, weights)
        chosen = _choose(rates, rule)
        inside = rates[:, np.arange(len(chosen)), chosen]
        middle = _middle(
            values, chosen, np.add.reduceat(weights[:, ordered.subject], edges, axis=1)
        )
        place = np.minimum(np.searchsorted(values, middle), len(values) - 1)
        return np.concatenate([inside, whole[:, place], middle[None]]).T

    drawn = resample(rated_anew, scores.strata, rng, draws)
    rated = [
        _corrected(whole[k, best], drawn[:, k] - drawn[:, k + 2], n, level)
        for k, n in enumerate(_subjects(scores))
    ]
    low, high = np.quantile(drawn[:, 4], [(1 - level) / 2, (1 + level) / 2])
    value = float(_middle(values, here, np.ones((1, len(values))))[0])
    chosen = Estimate(value, float(low), float(high), level, "bootstrap by subject, percentiles")
    return Cutoff(chosen, rated[0], rated[1], (float(whole[0, best]), float(whole[1, best])))


def _middle(values: Floats, chosen: Integers, weights: Floats) -> Floats:
    """Return the middle between the lowest value called positive and the one below it."""
    at = np.arange(len(values))
    above = np.argmax((weights > 0) & (at >= chosen[:, None]), axis=1)
    below = np.maximum(chosen - 1, 0)  # the first of equal cut-offs follows a value that was drawn
    return np.asarray((values[below] + values[above]) / 2)


def _check_rule(rule: tuple[str, float] | str) -> None:
    if rule == "youden":
        return
    if isinstance(rule, str) or rule[0] not in ("sensitivity", "specificity"):
        raise ValueError(
            f"the rule of a cut-off is youden, or sensitivity or specificity with a number: {rule}"
        )
    if not 0 < rule[1] < 1:
        raise ValueError(f"the {rule[0]} asked lies between 0 and 1, not at {rule[1]}")


def _rates(scores: Scores, edges: Integers, weights: Floats) -> Floats:
    """Return sensitivity and specificity at every cut-off, shape (2, m, cut-offs)."""
    own = weights[:, scores.subject]
    found = []
    for side in (scores.positive, ~scores.positive):
        parts = np.add.reduceat(own * side, edges, axis=1)
        below = np.cumsum(parts, axis=1) - parts
        found.append(below / parts.sum(axis=1, keepdims=True))
    return np.stack([1 - found[0], found[1]])


def _choose(rates: Floats, rule: tuple[str, float] | str) -> Integers:
    """Return the index of the cut-off that the rule prefers, for each row."""
    if rule == "youden":
        return np.asarray(np.argmax(rates.sum(axis=0), axis=1))
    first = 0 if rule[0] == "sensitivity" else 1
    enough = rates[first] >= float(rule[1]) - 1e-12
    # where none is enough, the one that comes nearest
    worth = np.where(enough, 1 + rates[1 - first], rates[first])
    return np.asarray(np.argmax(worth, axis=1))


def _corrected(apparent: float, optimism: Floats, subjects: int, level: float) -> Estimate:
    """Take off the mean optimism; its spread is that of the estimate about the truth.

    The interval is Wilson's for as many subjects as have that spread, never more than there are:
    near 0 and 1 it knows a doubt that resampling does not.
    """
    value = float(np.clip(apparent - optimism.mean(), 0, 1))
    spread = float(optimism.var())
    n = min(subjects, value * (1 - value) / spread) if spread > 0 else subjects
    low, high = wilson(value, max(n, 1.0), level)
    return Estimate(value, float(low), float(high), level, CORRECTED)


def wilson(share: Floats | float, n: Floats | float, level: float) -> tuple[Floats, Floats]:
    """Return Wilson's interval of a share.

    Parameters
    ----------
    share
        Observed, in [0, 1], any shape.
    n
        Independent observations, broadcastable to ``share``.
    level
        Probability of the interval.

    Returns
    -------
    low, high

    References
    ----------
    Wilson 1927, doi:10.1080/01621459.1927.10502953

    Examples
    --------
    >>> [round(float(end), 3) for end in wilson(0.5, 100, 0.95)]
    [0.404, 0.596]
    """
    half2 = stats.norm.ppf((1 + level) / 2) ** 2
    centre = (share + half2 / (2 * n)) / (1 + half2 / n)
    wide = np.sqrt(half2 * (share * (1 - share) / n + half2 / (4 * n**2))) / (1 + half2 / n)
    return centre - wide, centre + wide
