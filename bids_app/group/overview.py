"""What the first screen of a cohort's report tells: who, compared how, and the means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from sodiumprep.bids_app.group.drawing import groups_in
from sodiumprep.bids_app.group.model import Model
from sodiumprep.bids_app.group.page import NOTHING, Column, Table, count, listed, percent
from sodiumprep.bids_app.group.shown import EVERYBODY, Shown, method_label, shown_methods, taken
from sodiumprep.bids_app.group.values import RUN
from sodiumprep.bids_app.settings import FLUID_REFERENCES
from sodiumprep.bids_app.summary import FLUID_NAMES, PHANTOM
from sodiumprep.bids_app.wording import UNKNOWN, number
from sodiumprep.sodium.cohort.values import in_order, label_rank

Facts = list[tuple[str, str]]


def summary(values: pd.DataFrame) -> pd.DataFrame:
    """Return mean and SD over subjects by region, group and session; runs are averaged first.

    Parameters
    ----------
    values
        What :func:`sodiumprep.bids_app.group.shown.tissue_values` returns.

    Returns
    -------
    table
        ``name group session n mean sd uncorrected_mean uncorrected_sd`` [mmol/L].
    """
    keys = ["index", "name", "group", "session"]
    index = values.groupby("name")["index"].transform("min")  # of a lesion it may differ
    values = values.assign(index=index)
    main = shown_methods(list(values["pvc"].unique()))[-1:]
    by_subject = values.groupby([*keys, "participant_id", "pvc"])["mean"].mean().reset_index()
    wide = by_subject.groupby([*keys, "pvc"])["mean"].agg(["count", "mean", "std"]).unstack("pvc")
    rows = [
        _summary_row(dict(zip(keys, key, strict=True)), row, main[0])
        for key, row in wide.iterrows()
    ]
    table = pd.DataFrame(rows, columns=None if rows else [*keys, "n"])
    return table.iloc[in_order(table["session"])].sort_values("index", kind="stable")


def means_table(values: pd.DataFrame) -> Table:
    """Return the table of means and SDs, a column for each group.

    Parameters
    ----------
    values
        Those that the model takes.
    """
    groups, sessions = groups_in(values["group"]), values["session"].nunique()
    held: dict[tuple[str, str], dict[str, Any]] = {}
    for row in summary(values).to_dict("records"):
        held.setdefault((row["name"], row["session"]), {})[row["group"]] = row
    heads = [Column("Region", str, "key")]
    heads += [Column("Session", str, "left")] if sessions > 1 else []
    heads += [Column(_head(g), str) for g in groups]
    rows = tuple(
        (name, *([session] if sessions > 1 else []), *(_mean(own.get(g)) for g in groups))
        for (name, session), own in held.items()
    )
    methods = shown_methods(list(values["pvc"].unique()))
    corrected = method_label(methods[-1]) if methods else "none"
    return Table(
        f"Mean ± SD over participants [mmol/L], corrected for partial volume ({corrected}); runs "
        "are averaged first",
        tuple(heads), rows,
        "In small: how many, and the same without that correction. An SD needs two participants. "
        "All numbers: group_TSC.tsv.",
    )  # fmt: skip


def people_facts(shown: Shown, values: pd.DataFrame) -> Facts:
    """Return who is in, what calibrated and what was used, as pairs of label and text.

    Parameters
    ----------
    shown
        What is told.
    values
        Those of all runs.
    """
    used = taken(values)
    runs = len(used[list(RUN)].drop_duplicates())
    facts = [("In the analyses", f"{_people(used)}, {count(runs, 'run')}")]
    if shown.group_column:
        sizes = used.groupby("group")["participant_id"].nunique()
        told = (f"{g} {sizes[g]}" for g in groups_in(used["group"]))
        facts.append(("Groups", f"{listed(told, 12)} (column {shown.group_column})"))
    if (sessions := used["session"].nunique()) > 1:
        labels = sorted(used["session"].unique(), key=label_rank)
        facts.append(("Sessions", f"{sessions}: {listed(labels, 12)}"))
    facts += [
        ("Calibrated by", _calibration(shown.quality)),
        ("Software", _versions(shown.quality)),
    ]
    return [(name, told) for name, told in facts if told]


def model_facts(model: Model) -> Facts:
    """Return what the model asks, as pairs of label and text.

    Parameters
    ----------
    model
        Complete.
    """
    return [(name, told) for name, told in _asked(model) if told]


def relative(quality: pd.DataFrame) -> list[str]:
    """Return the participants whose values are relative to an assumed concentration.

    Parameters
    ----------
    quality
        One row per run.
    """
    rows = quality[quality["calibration_reference"].isin(FLUID_REFERENCES)]
    return sorted(set(rows["participant_id"]))


def _asked(model: Model) -> Iterator[tuple[str, str]]:
    content = model.content
    yield "Compared", _mixed(model)
    yield "Left out", _exclusions(content.get("Exclude", {}))
    if model.contrasts:
        yield "Contrasts", listed(model.contrasts, 12)
    if held := model.section("Repeatability"):
        yield "Repeated", f"over {held['Over']}s"
    if held := model.section("Change"):
        stable = " ".join(f"{k} {v}" for k, v in held.get("Stable", {}).items())
        yield (
            "Change",
            (
                f"from session {held['From']} to {held['To']}, {held.get('Better', 'lower')} is "
                "better" + (f"; taken to be stable: {stable}" if stable else "")
            ),
        )
    if held := model.section("Diagnostic"):
        yield "Told apart", listed((pair["Name"] for pair in held), 8)
    if held := model.section("Normative"):
        yield "Reference curves", f"by {held['By']}, of {_levels(held.get('Reference', {}))}"
    if held := model.section("Outcome"):
        yield "Outcome", f"{held['Event']} after {held['Duration']}"
    if held := model.section("Planning"):
        yield (
            "Planned for",
            (f"{percent(held['Difference'])} of the mean, power {percent(held['Power'])}"),
        )


def _mixed(model: Model) -> str:
    fixed = ", ".join(model.fixed) or "its mean alone"
    random = f"; random intercepts: {', '.join(model.random)}" if model.random else ""
    against = ", ".join(f"{level} ({column})" for column, level in model.reference.items())
    weights = "; each value counts by its uncertainty" if model.weighted else ""
    compared = f"; against {against}" if against else ""
    return f"each region explained by {fixed}{random}{compared}{weights}"


def _exclusions(held: dict[str, Any]) -> str:
    words = [f"flags {listed(held['flag'])}"] if held.get("flag") else []
    words += [f"coverage under {held['coverage']:g}"] if "coverage" in held else []
    words += [f"{len(held['participant_id'])} by name"] if held.get("participant_id") else []
    for name, (low, high) in held.get("quality", {}).items():
        words.append(f"{name} outside {_bound(low)} to {_bound(high)}")
    return "; ".join(words)


def _bound(end: float | None) -> str:
    return "any" if end is None else f"{end:g}"


def _levels(chosen: dict[str, Any]) -> str:
    told = (f"{c} {w if isinstance(w, str) else listed(w)}" for c, w in chosen.items())
    return ", ".join(told) or "all participants"


def _people(values: pd.DataFrame) -> str:
    return count(values["participant_id"].nunique(), "participant")


def _calibration(quality: pd.DataFrame) -> str:
    names = {**FLUID_NAMES, "phantom": PHANTOM}
    known = quality["calibration_reference"].dropna().value_counts()
    return ", ".join(f"{names.get(key, key)} ({count(n, 'run')})" for key, n in known.items())


def _versions(quality: pd.DataFrame) -> str:
    known = quality["software_version"].dropna().value_counts()
    if len(known) < 2:
        return ", ".join(f"sodiumprep {version}" for version in known.index)
    shown = ", ".join(f"{version} ({count(n, 'run')})" for version, n in known.items())
    return f"mixed versions of sodiumprep: {shown}"


def _head(group: str) -> str:
    return {EVERYBODY: "All", UNKNOWN: "No group known"}.get(group, group)


def _mean(row: dict[str, Any] | None) -> tuple[str, str]:
    """Return a cell and what stands below it in small."""
    if row is None:
        return (NOTHING, "")
    plain = f"{number(row['uncorrected_mean'])} ± {number(row['uncorrected_sd'])}"
    return (f"{number(row['mean'])} ± {number(row['sd'])}", f"n {row['n']}; uncorrected {plain}")


def _summary_row(keys: dict[str, Any], row: pd.Series, main: str) -> dict[str, Any]:
    def held(name: str, pvc: str) -> float:
        return float(row.get((name, pvc), np.nan))

    return {
        **keys,
        "n": int(np.nan_to_num(held("count", main))),
        "mean": held("mean", main),
        "sd": held("std", main),
        "uncorrected_mean": held("mean", "none"),
        "uncorrected_sd": held("std", "none"),
    }
