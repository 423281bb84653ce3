"""Time to an event: does a regional value tell who fares worse."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.exceptions import ConvergenceError, ConvergenceWarning
from lifelines.statistics import logrank_test, proportional_hazard_test

from sodiumprep.sodium.cohort.resampling import Estimate, check_level

FEW_PER_COLUMN = 10  # events; Peduzzi et al. 1995, doi:10.1016/0895-4356(95)00048-8
LEAST_EVENTS = 3
RIDGE = 0.1  # lifelines' penalizer where the likelihood has no maximum
STEP = 10.0  # mmol/L, of the second hazard ratio


@dataclass(frozen=True)
class Split:
    """Kaplan-Meier curves below and above a cut.

    Parameters
    ----------
    cut
        Value that divides the subjects; those above it are the upper half [mmol/L].
    curves
        Columns ``half`` (below, above), ``time``, ``survival``, ``low``, ``high``, ``at_risk``.
    median
        Median time of each half; infinite where it is not reached.
    p
        Two-sided, of the log-rank test.
    events
        Of each half.
    notes
        What must be said.
    """

    cut: float
    curves: pd.DataFrame
    median: dict[str, float]
    p: float
    events: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Hazard:
    """A Cox model of one region with covariates.

    Parameters
    ----------
    per_sd, per_10
        Hazard ratio for one standard deviation, and for 10 mmol/L more.
    p
        Two-sided, of no effect.
    covariates
        Columns ``name hazard_ratio low high p``, a row for each covariate.
    proportional_p
        Of proportional hazards for the region (Schoenfeld residuals on ranked time).
    concordance
        Harrell's.
    n, events
        Subjects and events.
    notes
        What must be said.
    """

    per_sd: Estimate
    per_10: Estimate
    p: float
    covariates: pd.DataFrame
    proportional_p: float
    concordance: float
    n: int
    events: int
    notes: tuple[str, ...]


def complete(table: pd.DataFrame, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return the subjects that have all that a model of time needs.

    Parameters
    ----------
    table
        Columns ``participant_id value duration event`` and covariates, a row per subject.
    columns
        Covariates that are used.

    Returns
    -------
    rows
        ``event`` as 0 and 1.

    Raises
    ------
    ValueError
        If a column is missing, a subject stands twice, a duration is negative or infinite, an
        event is neither 0 nor 1, fewer than 3 events are left, or the region is constant.
    """
    needed = ["participant_id", "value", "duration", "event", *columns]
    for name in needed:
        if name not in table:
            raise ValueError(f"a model of time needs the column {name}; there are {list(table)}")
    rows = table[needed].dropna().reset_index(drop=True)
    if rows["participant_id"].duplicated().any():
        twice = rows.loc[rows["participant_id"].duplicated(), "participant_id"].iloc[0]
        raise ValueError(f"{twice} stands twice: a model of time has one row per subject")
    wrong = rows[~(np.isfinite(rows["duration"]) & (rows["duration"] >= 0))]
    if len(wrong):
        who, bad = wrong[["participant_id", "duration"]].iloc[0]
        raise ValueError(f"{who} has the duration {bad:g}; it is a number from 0")
    if not rows["event"].isin([0, 1]).all():
        raise ValueError(f"events are 0 or 1, not {sorted(set(rows['event']) - {0, 1})}")
    rows["event"] = rows["event"].astype(int)
    if rows["event"].sum() < LEAST_EVENTS:
        raise ValueError(
            f"{rows['event'].sum()} events in {len(rows)} subjects; at least {LEAST_EVENTS}"
        )
    if np.ptp(rows["value"]) == 0:
        raise ValueError(f"the region has the same value, {rows['value'][0]:g}, in every subject")
    return rows


def kaplan_meier(table: pd.DataFrame, cut: float | None = None, level: float = 0.95) -> Split:
    """Divide subjects by a region's value and compare their times.

    Parameters
    ----------
    table
        As for :func:`complete`.
    cut
        Value that divides them [mmol/L]; the median of the subjects if None. A cut that was
        chosen by the outcome of the same subjects makes the test worthless.
    level
        Probability of the intervals.

    Returns
    -------
    split

    Raises
    ------
    ValueError
        As :func:`complete`, or if fewer than 2 subjects lie on a side of the cut.
    """
    check_level(level)
    rows = complete(table)
    where = float(rows["value"].median()) if cut is None else float(cut)
    above = rows["value"] > where
    halves = {"below": rows[~above], "above": rows[above]}
    for name, half in halves.items():
        if len(half) < 2:
            raise ValueError(f"{len(half)} subjects lie {name} the cut {where:g}; at least 2")
    fits = {name: _curve(half, level) for name, half in halves.items()}
    curves = pd.concat([curve.assign(half=name) for name, (curve, _) in fits.items()])
    low, high = halves.values()
    test = logrank_test(low["duration"], high["duration"], low["event"], high["event"])
    events = {name: int(half["event"].sum()) for name, half in halves.items()}
    return Split(
        where,
        curves.reset_index(drop=True),
        {name: middle for name, (_, middle) in fits.items()},
        float(test.p_value),
        events,
        _few(int(rows["event"].sum()), 1),
    )


def _curve(half: pd.DataFrame, level: float) -> tuple[pd.DataFrame, float]:
    fit = KaplanMeierFitter(alpha=1 - level).fit(half["duration"], half["event"])
    survival, interval = fit.survival_function_, fit.confidence_interval_
    at_risk = fit.event_table["at_risk"].reindex(survival.index)
    curve = pd.DataFrame(
        {
            "time": survival.index.to_numpy(),
            "survival": survival.iloc[:, 0].to_numpy(),
            "low": interval.iloc[:, 0].to_numpy(),
            "high": interval.iloc[:, 1].to_numpy(),
            "at_risk": at_risk.to_numpy(),
        }
    )
    return curve, float(fit.median_survival_time_)


def _few(events: int, columns: int) -> tuple[str, ...]:
    if events >= FEW_PER_COLUMN * columns:
        return ()
    told = f"few events: {events} for {columns} explaining column{'s'[: columns > 1]}, where "
    return (told + f"{FEW_PER_COLUMN} for each are a common minimum",)


def cox(table: pd.DataFrame, covariates: tuple[str, ...] = (), level: float = 0.95) -> Hazard:
    """Fit the hazard by a region's value and covariates.

    Parameters
    ----------
    table
        As for :func:`complete`; a covariate of text becomes one column for each level but the
        first.
    covariates
        Their columns.
    level
        Probability of the intervals.

    Returns
    -------
    hazard

    Raises
    ------
    ValueError
        As :func:`complete`, or if a covariate is constant or the columns depend on each other.
    """
    check_level(level)
    rows = complete(table, covariates)
    spread = float(rows["value"].std(ddof=1))
    design = _design(rows, covariates)
    fit, notes = _fit(design, rows, 1 - level)
    beta, interval = fit.params_["value"], fit.confidence_intervals_.loc["value"].to_numpy()
    ratios = [_ratio(beta, interval, unit, level) for unit in (1.0, STEP / spread)]
    others = fit.summary.loc[[name for name in design if name != "value"]]
    lower, upper = (np.exp(fit.confidence_intervals_.loc[others.index].iloc[:, k]) for k in (0, 1))
    told = pd.DataFrame(
        {"name": list(others.index), "hazard_ratio": others["exp(coef)"].to_numpy(),
         "low": lower.to_numpy(), "high": upper.to_numpy(), "p": others["p"].to_numpy()}
    )  # fmt: skip
    joined = design.assign(duration=rows["duration"], event=rows["event"])
    check = proportional_hazard_test(fit, joined, time_transform="rank").summary
    events = int(rows["event"].sum())
    return Hazard(
        ratios[0],
        ratios[1],
        float(fit.summary.loc["value", "p"]),
        told,
        float(check.loc["value", "p"]),
        float(fit.concordance_index_),
        len(rows),
        events,
        _few(events, design.shape[1]) + notes,
    )


def _design(rows: pd.DataFrame, covariates: tuple[str, ...]) -> pd.DataFrame:
    """Return the explaining columns: the region in standard deviations, covariates as numbers."""
    value = (rows["value"] - rows["value"].mean()) / rows["value"].std(ddof=1)
    design = value.rename("value").to_frame()
    for name in covariates:
        if rows[name].nunique() < 2:
            raise ValueError(
                f"the covariate {name} is the same, {rows[name][0]}, in every subject"
            )
        numbers = pd.get_dummies(rows[[name]], drop_first=True, dtype=float).astype(float)
        design = design.join(numbers)
    centred = design - design.mean()
    if np.linalg.matrix_rank(centred / centred.std()) < design.shape[1]:
        raise ValueError(f"columns of the model depend on each other: {', '.join(design)}")
    return design


def _fit(
    design: pd.DataFrame, rows: pd.DataFrame, alpha: float
) -> tuple[CoxPHFitter, tuple[str, ...]]:
    joined = design.assign(duration=rows["duration"], event=rows["event"])
    for penalty, notes in ((0.0, ()), (RIDGE, ("the fit did not settle: a ridge holds it",))):
        fit = CoxPHFitter(alpha=alpha, penalizer=penalty)
        with warnings.catch_warnings():
            # the library warns of what it cannot fit: then the next penalty
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                return fit.fit(joined, "duration", "event"), notes
            except (ConvergenceError, ConvergenceWarning):
                continue
    raise ValueError("the hazard model does not settle, not even with a ridge: too few events")


def _ratio(beta: float, interval: np.ndarray, unit: float, level: float) -> Estimate:
    value, low, high = np.exp(unit * np.array([beta, *interval]))
    return Estimate(float(value), float(low), float(high), level, "Cox, Wald")
