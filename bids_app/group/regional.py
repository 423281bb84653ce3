"""What each region tells by itself: repeatability, change, sample sizes, survival, norms.

Each function takes the values of one region by one method and a section of the model, and returns
rows for tables of results by name. A region that cannot answer has a row with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from sodiumprep.bids_app.group.facts import chosen_rows
from sodiumprep.bids_app.group.model import Model, reference_group
from sodiumprep.bids_app.group.values import Series
from sodiumprep.sodium.cohort.change import (
    Error,
    changes,
    judge_changes,
    mixed_slopes,
    responders,
)
from sodiumprep.sodium.cohort.normative import Curve, fit_curve, z_scores
from sodiumprep.sodium.cohort.planning import Study
from sodiumprep.sodium.cohort.repeatability import (
    Interval,
    Repeatability,
    bland_altman,
    repeatability,
)
from sodiumprep.sodium.cohort.survival import cox, kaplan_meier
from sodiumprep.sodium.cohort.values import in_order

Row = dict[str, Any]
Tables = dict[str, list[Row] | pd.DataFrame]  # rows by table; of a long one as a table
CENTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FEWEST_REPEATS = 8  # degrees of freedom, else repeats tell the error of a change too poorly
CURVE_POINTS = 41  # ages at which a reference curve is written
BESIDES = ": the body varies besides"  # more than 5 % of stable subjects are called changed
SHOWN = "tissue"  # the segmentation whose single points are written for plots
OF_REPEATS = ("within_sd", "coefficient", "cov", "cov_log", "icc", "icc_agreement",
              "icc_consistency")  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What is asked of one region.

    Parameters
    ----------
    model
        Complete.
    numbers
        Covariates that are numbers.
    known
        Repeatability of regions that was computed before, or in words why there is none.
    """

    model: Model
    numbers: tuple[str, ...]
    known: dict[tuple[str, ...], Repeatability | str] = field(default_factory=dict)

    def section(self, name: str) -> Mapping[str, Any]:
        """Return a section of the model.

        Parameters
        ----------
        name
            One that applies.
        """
        return self.model.section(name) or {}

    def repeatability(self, series: Series) -> Repeatability:
        """Return how well a region repeats, by section ``Repeatability``; computed once.

        Parameters
        ----------
        series
            Values of the region.

        Raises
        ------
        ValueError
            If too few subjects have repeats.
        """
        key = tuple(series.keys.values())
        if key not in self.known:
            over = self.section("Repeatability")["Over"]
            table, whose = self.repeated(series.table)
            try:
                self.known[key] = repeatability(table, over)
            except ValueError as error:
                self.known[key] = f"{error}{whose}"
        found = self.known[key]
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def repeated(self, table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        """Return the values whose repeats hold no change, and in words whose they are.

        Parameters
        ----------
        table
            Values of a region.
        """
        stable = self.section("Change").get("Stable")
        if self.section("Repeatability")["Over"] != "session" or not stable:
            return table, ""
        told = ", ".join(f"{column} {level}" for column, level in stable.items())
        return chosen_rows(table, stable), f" (of {told}, who do not change between sessions)"


def repeats(series: Series, asked: Asked) -> Tables:
    """Return how well a region repeats, and the pairs for its plot.

    Parameters
    ----------
    series
        Values of the region.
    asked
        Section ``Repeatability``.

    Raises
    ------
    ValueError
        If too few subjects have repeats.
    """
    over = asked.section("Repeatability")["Over"]
    found = asked.repeatability(series)
    row: Row = {**series.keys, "over": over}
    for name in OF_REPEATS:
        row |= _interval(name, getattr(found, name))
    row |= {"between_sd": found.between_sd, "df": found.df, "excess_sd": found.excess_sd}
    row |= {"n_subjects": found.n_subjects, "n_values": found.n_values}
    tables: Tables = {"repeatability": [{**row, "notes": "; ".join(found.notes)}]}
    try:
        pairs = bland_altman(asked.repeated(series.table)[0], over)
    except ValueError as error:
        row["notes"] = "; ".join([*found.notes, str(error)])
        return {"repeatability": [row]}
    row |= _interval("bias", pairs.bias) | {"loa_low": pairs.lower.estimate}
    row |= {"loa_high": pairs.upper.estimate, "p_proportional": pairs.p_proportional}
    tables["repeatability"] = [{**row, "notes": "; ".join(found.notes)}]
    if series.seg == SHOWN:
        points = zip(pairs.subjects, pairs.means, pairs.changes, strict=True)
        tables["pairs"] = [
            {**series.keys, "subject": subject, "mean": mean, "difference": difference}
            for subject, mean, difference in points
        ]
    return tables


def change(series: Series, asked: Asked) -> Tables:
    """Return each subject's change against what error alone makes, and how many responded.

    Parameters
    ----------
    series
        Values of the region.
    asked
        Sections ``Change`` and, where something was repeated without a change, ``Repeatability``.

    Raises
    ------
    ValueError
        If no subject has both sessions.
    """
    wanted = asked.section("Change")
    pair = [wanted["From"], wanted["To"]]
    rows = series.table[series.table["session"].isin(pair)]
    error, source = _error(series, rows, asked)
    judged = judge_changes(changes(rows, wanted["From"]), error, wanted["Better"])
    answer = responders(judged)
    row = {
        **series.keys, "from": pair[0], "to": pair[1], "n": len(judged),
        **{name.replace(" ", "_"): count for name, count in answer.counts.items()},
        **_interval("share_improved", answer.share), "share_by_chance": answer.by_chance,
        "mean_change": judged["change"].mean(), "sd_change": judged["change"].std(),
        "error_from": source,
    }  # fmt: skip
    told = judged.rename(columns={"baseline": "from", "session": "to"})
    return {"responders": [row], "changes": _keyed(series, told)}


def slopes(series: Series, asked: Asked) -> Tables:
    """Return the mean slope by time, where sessions tell their time in numbers.

    Parameters
    ----------
    series
        Values of the region.
    asked
        Section ``Change`` with ``Time``.

    Raises
    ------
    ValueError
        If fewer than three subjects have two times.
    """
    wanted = asked.section("Change")
    found = mixed_slopes(series.table, wanted["Time"], wanted.get("Group"))
    common = {"slope_sd": found.slope_sd, "residual_sd": found.residual_sd,
              "method": found.method, "notes": "; ".join(found.notes)}  # fmt: skip
    effects = found.effects.rename(columns={"name": "contrast"})
    rows = [{**series.keys, **r, **common} for r in _records(effects)]
    return {"slopes": rows}


def planning(series: Series, asked: Asked) -> Tables:
    """Return how many subjects a trial needs to see the stated difference.

    Parameters
    ----------
    series
        Values of the region.
    asked
        Section ``Planning``.

    Raises
    ------
    ValueError
        If fewer than three subjects have a value, or all the same.
    """
    wanted = asked.section("Planning")
    people = _one_each(_reference(series.table, asked))
    if len(people) < 3:
        raise ValueError(f"{len(people)} subjects tell no spread; at least 3")
    mean, between = float(people["value"].mean()), float(people["value"].std())
    designs = {"groups": between}
    if asked.model.section("Repeatability"):
        try:
            within = asked.repeatability(series).within_sd.estimate
            designs["paired"] = float(np.sqrt(2.0) * within)
        except ValueError:
            pass  # no repeats of this region: only groups can be planned
    rows = []
    for kind, sd in designs.items():
        study = Study(wanted["Difference"] * abs(mean), sd, kind, alpha=wanted["Alpha"])
        rows.append({
            **series.keys, "design": kind, "mean": mean, "sd": sd,
            "difference": study.effect, "power": wanted["Power"], "alpha": wanted["Alpha"],
            "n": study.subjects(wanted["Power"]), "n_subjects": len(people),
        })  # fmt: skip
    return {"planning": rows}


def survival(series: Series, asked: Asked) -> Tables:
    """Return hazard ratios and survival curves of one region.

    Parameters
    ----------
    series
        Values of the region.
    asked
        Section ``Outcome``.

    Raises
    ------
    ValueError
        If too few events are left, or times are unusable.
    """
    wanted = asked.section("Outcome")
    if series.name not in wanted.get("name", [series.name]):
        return {}
    named = {wanted["Duration"]: "duration", wanted["Event"]: "event"}
    people = _at_first(series.table).rename(columns=named)
    covariates = tuple(wanted.get("Covariates", ()))
    hazard = cox(people, covariates)
    split = kaplan_meier(people, wanted.get("Cut"))
    row = {
        **series.keys, **_estimate("hazard_per_sd", hazard.per_sd),
        **_estimate("hazard_per_10", hazard.per_10), "p": hazard.p,
        "proportional_p": hazard.proportional_p, "concordance": hazard.concordance,
        "n": hazard.n, "events": hazard.events, "cut": split.cut, "logrank_p": split.p,
        **{f"median_{half}": time for half, time in split.median.items()},
        "covariates": ", ".join(covariates),
        "notes": "; ".join(dict.fromkeys([*hazard.notes, *split.notes])),
    }  # fmt: skip
    tables: Tables = {"survival": [row]}
    if series.seg == SHOWN:
        tables["survival_curves"] = [{**series.keys, **r} for r in _records(split.curves)]
    return tables


def norms(series: Series, asked: Asked) -> Tables:
    """Return reference curves by age and where each value stands on them.

    Parameters
    ----------
    series
        Values of the region.
    asked
        Section ``Normative``.

    Raises
    ------
    ValueError
        If the reference is too small, or ages are too few.
    """
    wanted = asked.section("Normative")
    covariates = tuple(wanted.get("Covariates", ()))
    table = series.table.assign(age=series.table[wanted["By"]])
    members = _one_each(chosen_rows(table, wanted.get("Reference", {})))
    curve = fit_curve(members, covariates)
    scores = z_scores(curve, table)
    labels = table[["participant_id", "session", "run"]].reset_index(drop=True)
    told = pd.concat([labels, scores.drop(columns="participant_id")], axis=1)
    tables: Tables = {"norms": _keyed(series, told)}
    if series.seg == SHOWN:
        tables["norm_curves"] = [{**series.keys, **r} for r in _curve_rows(curve)]
    return tables


REGIONAL: Mapping[str, Callable[[Series, Asked], Tables]] = {
    "Repeatability": repeats,
    "Change": change,
    "Planning": planning,
    "Outcome": survival,
    "Normative": norms,
}
MAIN_TABLE = {"Repeatability": "repeatability", "Change": "responders", "Planning": "planning",
              "Outcome": "survival", "Normative": "norms"}  # fmt: skip


def _error(series: Series, rows: pd.DataFrame, asked: Asked) -> tuple[Error, str]:
    """Return what stable subjects differ by: from repeats, else from the uncertainties alone."""
    stable = asked.section("Change").get("Stable")
    sources: list[tuple[Callable[[], Repeatability], str]] = []
    if stable:
        told = " ".join(f"{column} {level}" for column, level in stable.items())
        held = partial(repeatability, chosen_rows(rows, stable), "session")
        sources.append((held, f"sessions of {told}"))
    if asked.section("Repeatability").get("Over") == "run":
        sources.append((partial(asked.repeatability, series), "runs of a session"))
    for compute, source in sources:
        try:
            found = compute()
        except ValueError:
            continue  # this region was not repeated so
        if found.df >= FEWEST_REPEATS:
            besides = "" if "sessions" in source else BESIDES
            return Error.of(found), f"repeatability, {source}{besides}"
    own = np.sqrt(np.maximum(rows["u"] ** 2 - rows["u_shared"] ** 2, 0.0))
    if not np.isfinite(own).any():
        raise ValueError("neither repeats nor uncertainties tell what error alone changes")
    typical = float(np.sqrt(np.nanmean(own**2)))
    return Error(typical, excess_sd=0.0), f"uncertainty of the values alone{BESIDES}"


def _reference(table: pd.DataFrame, asked: Asked) -> pd.DataFrame:
    """Return the group that others are compared with, whose spread is no effect of a disease."""
    held = asked.model.section("Normative")
    usual = reference_group(asked.model.reference)
    return chosen_rows(table, usual if held is None else held.get("Reference", {}))


def _one_each(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per participant: the first run of the first session that has a value.

    Means of several would scatter less than the single values that they are compared with.
    """
    if table["participant_id"].is_unique:
        return table
    rows = table.iloc[in_order(table["run"])]
    rows = rows.iloc[in_order(rows["session"])]
    return rows.drop_duplicates("participant_id").sort_values("participant_id", kind="stable")


def _at_first(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per participant with the mean of the runs of the first session."""
    first = _one_each(table)
    if len(first) == len(table):
        return first
    runs = table.merge(first[["participant_id", "session"]])
    means = runs.groupby("participant_id")["value"].mean()
    return first.assign(value=means.loc[first["participant_id"]].to_numpy())


def _keyed(series: Series, table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**series.keys)[[*series.keys, *table]]


def _curve_rows(curve: Curve) -> list[Row]:
    """Return centiles over age, for the most frequent level of each covariate."""
    ages = np.linspace(*curve.ages, CURVE_POINTS)
    people = pd.DataFrame({"age": ages, **{n: known[0] for n, known in curve.levels.items()}})
    table = pd.DataFrame(curve.centiles(people, np.array(CENTILES)), columns=map(str, CENTILES))
    return _records(people.join(table).melt(list(people), var_name="centile", value_name="value"))


def _interval(name: str, found: Interval | None) -> Row:
    held = {"estimate": np.nan, "low": np.nan, "high": np.nan} if found is None else asdict(found)
    return {name: held["estimate"], f"{name}_low": held["low"], f"{name}_high": held["high"]}


def _estimate(name: str, found: Any) -> Row:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _records(table: pd.DataFrame) -> list[Row]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
