"""Change over sessions: of each subject against what repeats differ by anyway, and on average."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import formulaic
import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.proportion import proportion_confint

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.repeatability import Interval, Repeatability
from sodiumprep.sodium.cohort.values import (
    in_order,
    label_rank,
    numbers,
    session_means,
    usable_rows,
)

Better = Literal["lower", "higher"]
IMPROVED, WORSE, WITHIN = "improved", "worse", "within error"
MIXED = "mixed model (REML)"
TWO_STAGE = "a line per subject, then the mean of the slopes"
FEWEST_DF = 2.0  # of an error that is hardly known
LINE_AND_ERROR = 3  # times of a subject that tell both
SINGULAR = 1e-6  # eigenvalue of the covariance of intercept and slope, of values with SD 1


@dataclass(frozen=True)
class Error:
    """What two sessions of a stable subject differ by.

    Parameters
    ----------
    within_sd
        Within-subject SD of session means [mmol/L].
    df
        Degrees of freedom that it was estimated with; infinite if it is known.
    excess_sd
        The part of it beyond the uncertainties of the values [mmol/L]. Where given, it is joined
        by the uncertainty of the subject's own values; nan: ``within_sd`` holds for all.
    excess_error
        Standard error of its square [(mmol/L)^2].
    """

    within_sd: float
    df: float = np.inf
    excess_sd: float = np.nan
    excess_error: float = 0.0

    @classmethod
    def of(cls, found: Repeatability) -> Error:
        """Return the error that repeats have shown."""
        return cls(found.within_sd.estimate, found.df, found.excess_sd, found.excess_error)

    def of_change(self, u_change: Floats) -> tuple[Floats, Floats]:
        """Return the SD of a change without a cause [mmol/L], and its degrees of freedom.

        Parameters
        ----------
        u_change
            Standard uncertainty of each change, without what both values share, nan where not
            known, shape (n,).
        """
        pooled = np.isnan(u_change) | np.isnan(self.excess_sd)
        variance = np.where(pooled, 2 * self.within_sd**2, 2 * self.excess_sd**2 + u_change**2)
        df = np.full(len(variance), np.inf)
        if self.excess_error > 0:
            df = np.maximum(variance**2 / (2 * self.excess_error**2), FEWEST_DF)  # Satterthwaite
        return np.sqrt(variance), np.where(pooled, self.df, df)


def changes(values: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Return the change of each subject since its first session.

    Parameters
    ----------
    values
        Table of values; runs of a session are averaged.
    baseline
        Label of the first session; sessions with a lower number are left out, of words all
        others are later ones. None: the first that a subject has, in the order of the labels
        (``pre`` and ``baseline`` first, numbers by size).

    Returns
    -------
    changes
        One row per later session: ``participant_id baseline session before after change
        u_change`` [mmol/L]. What both values share (``u_shared``) acts as one error: only its
        difference is left in ``u_change``.

    Raises
    ------
    ValueError
        If no subject has two sessions, or no one has the baseline.

    Examples
    --------
    >>> scans = {"participant_id": "a", "session": ["1", "2"], "value": [50.0, 45.0]}
    >>> found = changes(pd.DataFrame({**scans, "u": [3.0, 4.0]}))
    >>> found[["change", "u_change"]].to_numpy().tolist()
    [[-5.0, 5.0]]
    """
    means = session_means(values)
    means = means.iloc[in_order(means["session"])]
    first = means if baseline is None else means[means["session"] == baseline]
    if first.empty:
        raise ValueError(f"no session {baseline}; there are {sorted(means['session'].unique())}")
    first = first.drop_duplicates("participant_id")
    columns = ["participant_id", "session", "value", "u_own", "u_shared"]
    pairs = first[columns].merge(means[columns], on="participant_id", suffixes=("_1", "_2"))
    sessions = zip(pairs["session_1"], pairs["session_2"], strict=True)
    later = [_follows(b, a, named=baseline is not None) for a, b in sessions]
    pairs = pairs[np.array(later, bool)]
    if pairs.empty:
        raise ValueError("no subject has a second session with a value")
    own = pairs["u_own_1"] ** 2 + pairs["u_own_2"] ** 2
    return pd.DataFrame(
        {
            "participant_id": pairs["participant_id"],
            "baseline": pairs["session_1"],
            "session": pairs["session_2"],
            "before": pairs["value_1"],
            "after": pairs["value_2"],
            "change": pairs["value_2"] - pairs["value_1"],
            "u_change": np.sqrt(own + (pairs["u_shared_2"] - pairs["u_shared_1"]) ** 2),
        }
    ).reset_index(drop=True)


def _follows(session: str, first: str, named: bool) -> bool:
    """Return whether a session is after the first; words tell no order, a named baseline does."""
    if named and not (session.isdecimal() and first.isdecimal()):
        return session != first
    return label_rank(session) > label_rank(first)


def judge_changes(
    changed: pd.DataFrame, error: Error, better: Better, false_alarms: float = 0.05
) -> pd.DataFrame:
    """Tell changes from error.

    Parameters
    ----------
    changed
        As :func:`changes` returns them.
    error
        What stable subjects differ by.
    better
        Which direction is an improvement.
    false_alarms
        Share of stable subjects that are called changed, half of them in each direction.

    Returns
    -------
    judged
        With ``limit``, ``ci_low``, ``ci_high`` [mmol/L] (interval of the true change), ``p`` (a
        change as large without a cause) and ``verdict``: improved, worse or within error.

    Raises
    ------
    ValueError
        If ``better`` is neither lower nor higher, or ``false_alarms`` not in (0, 1).

    Examples
    --------
    >>> fall = pd.DataFrame({"change": [-9.0, 2.0], "u_change": np.nan})
    >>> judge_changes(fall, Error(2.0), "lower")[["limit", "verdict"]].round(2).values.tolist()
    [[5.54, 'improved'], [5.54, 'within error']]
    """
    if better not in {"lower", "higher"}:
        raise ValueError(f"better is {better!r}; accepted: lower, higher")
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms is {false_alarms}; accepted: above 0, below 1")
    change = changed["change"].to_numpy()
    sd, df = error.of_change(changed["u_change"].to_numpy())
    limit = stats.t.ppf(1 - false_alarms / 2, df) * sd
    gain = change if better == "higher" else -change
    verdict = np.select([gain > limit, gain < -limit], [IMPROVED, WORSE], WITHIN)
    return changed.assign(
        limit=limit,
        ci_low=change - limit,
        ci_high=change + limit,
        p=2 * stats.t.sf(np.abs(change) / sd, df),
        verdict=verdict,
    )


@dataclass(frozen=True)
class Responders:
    """How many subjects changed.

    Parameters
    ----------
    counts
        Subjects by verdict.
    share
        Improved of all, with Wilson's interval.
    by_chance
        Share that error alone would call improved.
    """

    counts: dict[str, int]
    share: Interval
    by_chance: float


def responders(
    judged: pd.DataFrame, false_alarms: float = 0.05, confidence: float = 0.95
) -> Responders:
    """Return the share of subjects that improved.

    Parameters
    ----------
    judged
        One row per subject, as :func:`judge_changes` returns them.
    false_alarms
        What they were judged with.
    confidence
        Of the interval.

    Raises
    ------
    ValueError
        If a subject has more than one row.

    References
    ----------
    Wilson 1927, doi:10.1080/01621459.1927.10502953
    """
    twice = judged["participant_id"].duplicated()
    if twice.any():
        raise ValueError(f"{judged['participant_id'][twice].iloc[0]} has more than one change")
    counts = {name: int((judged["verdict"] == name).sum()) for name in (IMPROVED, WORSE, WITHIN)}
    n = len(judged)
    low, high = proportion_confint(counts[IMPROVED], n, 1 - confidence, method="wilson")
    return Responders(
        counts, Interval(counts[IMPROVED] / n, float(low), float(high)), false_alarms / 2
    )


@dataclass(frozen=True)
class Slopes:
    """Change by time.

    Parameters
    ----------
    effects
        Mean slope and, with groups, its differences to the first group: rows ``name estimate se
        df t p ci_low ci_high`` [mmol/L by unit of time].
    subjects
        ``participant_id slope`` of each subject; shrunk to the mean by the mixed model.
    slope_sd, intercept_sd
        Between subjects [mmol/L by unit of time], and at the mean time [mmol/L]; by lines of
        their own they hold the error of the lines.
    residual_sd
        Of a value about the line of its subject [mmol/L], nan for two values each.
    method
        Mixed model, or what was done instead.
    notes
        In words.
    """

    effects: pd.DataFrame
    subjects: pd.DataFrame
    slope_sd: float
    intercept_sd: float
    residual_sd: float
    method: str
    notes: Sequence[str]


def mixed_slopes(
    values: pd.DataFrame, time: str, group: str | None = None, confidence: float = 0.95
) -> Slopes:
    """Return slopes by time with a random intercept and slope per subject.

    The uncertainties of single values are not used: what scatters about a line is estimated.

    Parameters
    ----------
    values
        Table of values; runs of a session are averaged.
    time
        Column with the time of each session.
    group
        Column whose levels may differ in intercept and slope.
    confidence
        Of the intervals.

    Raises
    ------
    ValueError
        If a time is not a number, or fewer than three subjects have two different times.

    References
    ----------
    Laird & Ware 1982, doi:10.2307/2529876
    """
    rows, left_out = _followed(_timed(values, time, group), time)
    n_groups = rows["group"].nunique()
    enough = rows.groupby("participant_id")["time"].nunique().max() >= LINE_AND_ERROR
    found = _mixed(rows, n_groups) if enough else None
    why = "the mixed model did not converge" if enough else "two times tell no error from a slope"
    notes = left_out if found else (*left_out, f"{why}: {TWO_STAGE} instead")
    effects, slopes, spreads = found or _two_stage(rows, n_groups)
    unit = rows["value"].std() / rows["time"].std()
    subjects = pd.DataFrame({"participant_id": slopes.index, "slope": slopes.to_numpy() * unit})
    df = int(_several(rows).sum()) - n_groups
    return Slopes(
        effects=_tested(effects * unit, df, confidence),
        subjects=subjects,
        slope_sd=float(spreads[1] * unit),
        intercept_sd=float(spreads[0] * rows["value"].std()),
        residual_sd=float(spreads[2] * rows["value"].std()),
        method=MIXED if found else TWO_STAGE,
        notes=notes,
    )


def _timed(values: pd.DataFrame, time: str, group: str | None) -> pd.DataFrame:
    """Return session means with ``time`` and ``group``."""
    rows = session_means(usable_rows(values, [time] if group is None else [time, group]))
    rows = rows.assign(time=numbers(rows[time]), group=rows[group].astype(str) if group else "")
    if rows["time"].isna().any():
        wrong = rows[rows["time"].isna()].iloc[0]
        raise ValueError(f"{time} is {wrong[time]!r} for {wrong['participant_id']}, not a number")
    return rows


def _several(rows: pd.DataFrame) -> pd.Series:
    """Return whether each subject has two different times."""
    return rows.groupby("participant_id")["time"].nunique() >= 2


def _followed(rows: pd.DataFrame, time: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return rows of groups with two subjects that have a slope; ``t`` and ``y`` have SD 1."""
    several = _several(rows)
    if several.sum() < 3:
        raise ValueError(f"{several.sum()} subjects have two values of {time}; 3 are needed")
    with_line = rows[rows["participant_id"].map(several)]
    count = with_line.groupby("group")["participant_id"].nunique()
    count = count.reindex(rows["group"].unique(), fill_value=0)
    small = list(count.index[count < 2])
    rows = rows[~rows["group"].isin(small)].copy()
    for name, column in (("t", "time"), ("y", "value")):
        rows[name] = (rows[column] - rows[column].mean()) / rows[column].std()
    return rows, tuple(f"{level} has {count[level]} with two times: left out" for level in small)


_Found = tuple[pd.DataFrame, pd.Series, Floats]  # effects, slopes of subjects, SDs


def _mixed(rows: pd.DataFrame, n_groups: int) -> _Found | None:
    """Return the mixed model of scaled times and values; None where it does not converge."""
    formula = "t" if n_groups == 1 else "t * group"
    design = formulaic.model_matrix(formula, rows)
    random = np.column_stack([np.ones(len(rows)), rows["t"]])
    model = MixedLM(rows["y"].to_numpy(), np.asarray(design), rows["participant_id"], random)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they tell of is looked at below
        try:
            fit = model.fit(reml=True, method=["lbfgs", "bfgs"])
        except (np.linalg.LinAlgError, ValueError):
            return None
        covariance = np.asarray(fit.cov_re)
        if not fit.converged or np.linalg.eigvalsh(covariance)[0] < SINGULAR:
            return None
        deviations = {name: float(effect.iloc[1]) for name, effect in fit.random_effects.items()}
    of_time = [index for index, name in enumerate(design.columns) if name.split(":")[0] == "t"]
    errors = np.asarray(fit.bse_fe)[of_time]
    means = np.asarray(fit.fe_params)[of_time]
    names = _names(rows, n_groups)
    effects = pd.DataFrame({"estimate": means, "se": errors}, index=names)
    groups = rows.groupby("participant_id")["group"].first()
    mean = {level: means[0] + (means[k] if k else 0.0) for k, level in enumerate(_levels(rows))}
    slopes = groups.map(mean) + pd.Series(deviations)
    return effects, slopes, np.sqrt([*np.diag(covariance), fit.scale])


def _levels(rows: pd.DataFrame) -> list[str]:
    return sorted(rows["group"].unique())


def _names(rows: pd.DataFrame, n_groups: int) -> list[str]:
    first, *others = _levels(rows)
    if n_groups == 1:
        return ["slope"]
    return [f"slope of {first}", *(f"slope of {other} - {first}" for other in others)]


def _two_stage(rows: pd.DataFrame, n_groups: int) -> _Found:
    """Return means of the subjects' own slopes, and differences between groups."""
    lines = {
        name: np.polyfit(table["t"], table["y"], 1)
        for name, table in rows.groupby("participant_id")
        if table["t"].nunique() >= 2
    }
    slopes = pd.Series({name: float(line[0]) for name, line in lines.items()})
    groups = rows.groupby("participant_id")["group"].first()[slopes.index]
    formula = "1" if n_groups == 1 else "group"
    design = formulaic.model_matrix(formula, groups.to_frame())
    fit = sm.OLS(slopes.to_numpy(), np.asarray(design, float)).fit()
    effects = pd.DataFrame({"estimate": fit.params, "se": fit.bse}, index=_names(rows, n_groups))
    left = rows["y"] - [
        np.polyval(lines.get(name, [np.nan] * 2), t)
        for name, t in zip(rows["participant_id"], rows["t"], strict=True)
    ]
    freedom = int(left.notna().sum()) - 2 * len(lines)
    residual = np.sqrt((left**2).sum() / freedom) if freedom > 0 else np.nan
    intercepts = float(np.std([line[1] for line in lines.values()], ddof=1))
    return effects, slopes, np.array([intercepts, float(np.sqrt(fit.scale)), residual])


def _tested(effects: pd.DataFrame, df: int, confidence: float) -> pd.DataFrame:
    estimate, se = effects["estimate"].to_numpy(), effects["se"].to_numpy()
    half = stats.t.ppf(0.5 + confidence / 2, df) * se
    return pd.DataFrame(
        {
            "name": list(effects.index),
            "estimate": estimate,
            "se": se,
            "df": float(df),
            "t": estimate / se,
            "p": 2 * stats.t.sf(np.abs(estimate / se), df),
            "ci_low": estimate - half,
            "ci_high": estimate + half,
        }
    )
