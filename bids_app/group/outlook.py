"""Sections on what follows: survival, reference curves, sample sizes, other maps, voxels."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sodiumprep.bids_app.group import courses, intervals
from sodiumprep.bids_app.group.answers import Answers
from sodiumprep.bids_app.group.findings import REGION
from sodiumprep.bids_app.group.page import (
    Column,
    Link,
    Picture,
    Section,
    count,
    figure,
    in_digits,
    interval,
    listed,
    percent,
    picture,
    probability,
    tabulate,
    text,
    with_interval,
)
from sodiumprep.bids_app.group.shown import (
    TISSUE,
    Places,
    Shown,
    answered,
    method_label,
    of_tissues,
    shown_methods,
    where_all_are,
)
from sodiumprep.bids_app.group.values import Block
from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.bids_app.wording import number

MOST_PANELS = 6
FAR = 1.96  # standard deviations: outside of the middle 95 %
MOST_LISTED = 40
KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
WORDS = ("seg", "name", "pvc", "notes", "method", "checks", "reason", "contrast", "map")


def survival_section(shown: Shown, places: Places) -> Section | None:
    """Return what values tell of time to an event.

    Parameters
    ----------
    shown
        What is told.
    places
        Where files lie.
    """
    answers = Answers.of(shown, places, "survival", "hazard_per_sd")
    if not len(answers.known):
        return answers.nothing("survival", "Survival", "No hazard could be estimated.")
    kept = of_tissues(answers.known)
    main = kept[kept["pvc"] == shown_methods(list(kept["pvc"].unique()))[-1]]
    best = main.loc[main["p"].idxmin()]
    told = with_interval(
        best["hazard_per_sd"], best["hazard_per_sd_low"], best["hazard_per_sd_high"]
    )
    says = (
        f"The hazard changes most clearly with {best['name']}: ratio {told} for one SD more "
        f"({method_label(best['pvc'])}), p {in_digits(best['p'])}."
    )
    columns = (
        *REGION, interval("hazard_per_sd", "Hazard ratio per SD (95 %)"),
        interval("hazard_per_10", "per 10 mmol/L (95 %)"), probability("p", "p"),
        probability("proportional_p", "p of proportional hazards"),
        figure("concordance", "Concordance"), figure("n", "n", 0), figure("events", "Events", 0),
        figure("cut", "Cut [mmol/L]", 1), probability("logrank_p", "p of log-rank"),
        figure("median_below", "Median time below", 1), figure("median_above", "above", 1),
        text("covariates", "Explained by, too"), text("notes", "Notes", "left wrap"),
    )  # fmt: skip
    note = "n/a of a median time: half of them had no event so far. "
    note += answers.where_all_are(kept)
    rests = f"Rests on {number(best['events'], 0)} events of {number(best['n'], 0)} participants."
    drawn = _kaplan_meier(shown, main, places, says)
    tables = (tabulate("Time to an event", columns, kept, note),)
    return Section("survival", "Survival", says, rests, drawn, tables, answers.reasons)


def norms_section(shown: Shown, places: Places) -> Section | None:
    """Return reference curves and who lies off them.

    Parameters
    ----------
    shown
        What is told.
    places
        Where files lie.
    """
    answers = Answers.of(shown, places, "norms", "z")
    if not len(answers.known):
        return answers.nothing("norms", "Reference curves", "There is no reference curve.")
    rows = of_tissues(answers.known)
    main = rows[rows["pvc"] == shown_methods(list(rows["pvc"].unique()))[-1]]
    others = main[~main["member"].astype(bool)]
    far = main[main["z"].abs() > FAR].sort_values("z", key=abs, ascending=False)
    says = _norm_words(main, others)
    columns = (
        Column("Subject", lambda r: Link(str(r["participant_id"]),
                                         places.report(str(r["participant_id"]))), "key"),
        text("session", "Session"), text("run", "Run"), text("name", "Region"),
        interval("z", "z (95 %)"), Column("Centile [%]", lambda r: number(100 * r["centile"])),
        Column("Of the reference", lambda r: "yes" if r["member"] else "no", "left"),
    )  # fmt: skip
    note = answers.where_all_are(far.head(MOST_LISTED))
    members = main[main["member"].astype(bool)]["participant_id"].nunique()
    rests = f"Rests on {count(members, 'participant')} of the reference."
    return Section(
        "norms", "Reference curves", says, rests, _centiles(shown, main, places, says),
        (tabulate("Farthest from the reference", columns, far.head(MOST_LISTED), note),),
        answers.reasons,
    )  # fmt: skip


def planning_section(shown: Shown, places: Places) -> Section | None:
    """Return how many participants a trial needs.

    Parameters
    ----------
    shown
        What is told.
    places
        Where files lie.
    """
    answers = Answers.of(shown, places, "planning", "n")
    if not len(answers.known):
        return None
    kept = of_tissues(answers.known)
    first = kept.iloc[0]
    wide = kept[kept["design"] == first["design"]].pivot_table("n", "name", "pvc", sort=False)
    methods = shown_methods(list(wide.columns))
    told = "; ".join(
        f"{name} {', '.join(number(row[m], 0) + ' ' + method_label(m) for m in methods)}"
        for name, row in wide.head(4).iterrows()
    )
    says = (
        f"To see {percent(first['difference'] / abs(first['mean']))} of the mean as a difference "
        f"with power {percent(first['power'])} at {percent(first['alpha'])}, each group "
        f"needs: {told}."
    )
    drawn = picture(lambda: intervals.planning_figure(kept), places.figure("planning"), says,
                    "Participants needed: grey without, blue with correction for partial volume.",
                    answers.source)  # fmt: skip
    columns = (
        *REGION, text("design", "Design"), figure("n", "n", 0),
        figure("difference", "Difference [mmol/L]"), figure("sd", "SD [mmol/L]"),
        figure("mean", "Mean [mmol/L]"), figure("n_subjects", "Rests on", 0),
    )  # fmt: skip
    note = (
        "groups: n in each of two; paired: n whose change is measured, its SD √2 wSD. Exact power "
        "of the t test. " + answers.where_all_are(kept)
    )
    rests = (
        f"Rests on the spread of at most {count(int(kept['n_subjects'].max()), 'participant')} of "
        "the reference group; the same difference is asked of both methods in share of their mean."
    )
    return Section("planning", "Planning", says, rests, (drawn,),
                   (tabulate("Sample sizes", columns, kept, note),), answers.reasons)  # fmt: skip


def modality_section(shown: Shown, places: Places) -> Section | None:
    """Return how values go with those of another map.

    Parameters
    ----------
    shown
        What is told.
    places
        Where files lie.
    """
    table, points = shown.table("modality"), shown.table("modality_points")
    if not len(table):
        return None
    kept = of_tissues(table) if "pvc" in table else table
    notes = [str(n) for n in kept.get("notes", pd.Series(dtype=str)).dropna().unique() if n]
    drawn: tuple[Picture, ...] = ()
    says = f"Sodium is compared with another map in {count(len(kept), 'case')}."
    if len(points) and {"x", "y"} <= set(points):
        own = _panelled(points)
        drawn = (picture(
            lambda: intervals.modality_figure(own, "panel"), places.figure("modality"),
            f"Values of both maps against each other: {listed(own['panel'].unique())}.",
            "One point per measurement, with the standard uncertainty of both where it is known.",
            places.source("modality_points"), places.source("modality"),
        ),)  # fmt: skip
    source = places.source("modality")
    shown_table = tabulate(
        "Agreement", _any_columns(kept), kept, where_all_are(table, kept, source)
    )
    return Section("modality", "Other maps", says, "Rests on regions with a value in both maps.",
                   drawn, (shown_table,), tuple(notes))  # fmt: skip


def voxelwise_section(shown: Shown, places: Places) -> Section | None:
    """Return the maps of the cohort, and what was tested at every voxel.

    Parameters
    ----------
    shown
        What is told.
    places
        Where files lie.
    """
    tests, found = shown.table("voxelwise_model"), shown.table("voxelwise")
    drawn = tuple(
        _found(row, places) for row in shown.table("voxelwise_figures").to_dict("records")
    )
    if not drawn and not len(tests):
        return None
    told = [_test_words(row, found) for row in answered(tests, "p_enhanced").to_dict("records")]
    notes = [str(n) for n in tests.get("notes", pd.Series(dtype=str)).dropna().unique() if n]
    kept = found.head(MOST_LISTED)
    source = where_all_are(found, kept, places.source("voxelwise"))
    listed_clusters = (tabulate("Clusters", CLUSTERS, kept, source),) if len(kept) else ()
    says = " ".join(told) or "Mean and spread of the cohort in template space."
    rests = "Rests on relaxation-corrected maps in template space; p are familywise ones."
    return Section("voxelwise", "Maps", says, rests, drawn, listed_clusters, tuple(notes))


def _kaplan_meier(
    shown: Shown, main: pd.DataFrame, places: Places, says: str
) -> tuple[Picture, ...]:
    curves = shown.table("survival_curves")
    if not len(curves):
        return ()
    own = of_tissues(curves)
    own = own[own["pvc"].isin(main["pvc"].unique())]
    own = own[own["name"].isin(list(dict.fromkeys(own["name"]))[:MOST_PANELS])]
    cuts = dict(zip(main["name"], main["cut"], strict=True))
    unit = str((shown.cohort.model.section("Outcome") or {}).get("Duration", "time"))
    return (picture(
        lambda: courses.survival_figure(own, cuts, unit), places.figure("survival"),
        f"Kaplan-Meier curves. {says}",
        "Participants below (solid) and above (dashed) the cut, 95 % bands; below the axis: how "
        "many are left.", places.source("survival_curves"), places.source("survival"),
    ),)  # fmt: skip


def _norm_words(main: pd.DataFrame, others: pd.DataFrame) -> str:
    if not len(others):
        outside = (main["z"].abs() > FAR).mean()
        return (
            f"{percent(outside, 1)} of the values lie outside of the middle 95 % of the reference."
        )
    told = (
        f"{name} {percent((own['z'].abs() > FAR).mean())} (mean z {own['z'].mean():+.1f})"
        for name, own in others.groupby("name", sort=False)
    )
    return f"Of those who are not of the reference, outside of its middle 95 %: {listed(told)}."


def _centiles(shown: Shown, main: pd.DataFrame, places: Places, says: str) -> tuple[Picture, ...]:
    curves = shown.table("norm_curves")
    if not len(curves):
        return ()
    pvc = str(main["pvc"].iloc[0])
    names = list(dict.fromkeys(curves["name"]))[:MOST_PANELS]
    own = curves[(curves["pvc"] == pvc) & curves["name"].isin(names)]
    by = str((shown.cohort.model.section("Normative") or {}).get("By", "age"))
    block = Block(TISSUE, pvc, tuple(names))
    values = [
        s.table.assign(name=s.name).rename(columns={by: "age"}) for s in shown.cohort.read(block)
    ]
    keys = ["participant_id", "session", "run", "name"]
    points = pd.concat(values)[[*keys, "age", "value"]].merge(main[[*keys, "member"]], on=keys)
    points = points.dropna(subset=["age", "value"])
    return (picture(
        lambda: courses.norms_figure(own, points, by), places.figure("norms"),
        f"Centile curves. {says}",
        f"Centiles of the reference ({method_label(pvc)}) and the values of all participants.",
        places.source("norm_curves"), places.source("norms"), "group_TSC.tsv",
    ),)  # fmt: skip


def _panelled(points: pd.DataFrame) -> pd.DataFrame:
    """Return points with ``panel``: what they are of; the first few kinds only."""
    keys = [c for c in ("comparison", "map", "modality", "name") if c in points]
    rows = points
    if "pvc" in points:
        rows = points[points["pvc"] == shown_methods(list(points["pvc"].unique()))[-1]]
    panel = rows[keys].astype(str).agg(": ".join, axis=1) if keys else pd.Series("all", rows.index)
    kept = list(dict.fromkeys(panel))[:MOST_PANELS]
    return rows.assign(panel=panel)[panel.isin(kept)]


def _any_columns(rows: pd.DataFrame) -> Iterator[Column]:
    """Yield columns for a table whose columns are not known here; ends of intervals go along."""
    for name in map(str, rows.columns):
        if name.endswith(("_low", "_high")) and name.rsplit("_", 1)[0] in rows:
            continue
        title = name.replace("_", " ")
        if name == "pvc":
            yield REGION[1]
        elif rows[name].map(_is_number).any() and name not in WORDS:
            yield Column(title, _cell_of(name, f"{name}_low" in rows))
        else:
            yield text(name, title, "left wrap" if name in ("notes", "reason") else "left")


def _cell_of(name: str, with_ends: bool) -> Any:
    def cell(row: dict[str, Any]) -> str:
        if with_ends:
            return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
        return f"{row[name]:.4g}" if _is_number(row[name]) else "n/a"

    return cell


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and bool(np.isfinite(value))


def _test_words(row: Mapping[str, Any], found: pd.DataFrame) -> str:
    own = found[found["contrast"] == row["contrast"]] if len(found) else found
    return (
        f"{row['contrast']}: {count(len(own), 'cluster')} over the threshold; smallest p of a "
        f"voxel {in_digits(row['p_voxel'])}, with threshold-free cluster enhancement "
        f"{in_digits(row['p_enhanced'])} ({row['n']:.0f} participants)."
    )


def _position(row: Mapping[str, Any]) -> str:
    return ", ".join(number(row[f"peak_{axis}"], 0) for axis in "xyz")


def _found(row: Mapping[str, Any], places: Places) -> Picture:
    """Return a figure that lies there with its caption."""
    path = DatasetNames(places.out_dir).group_dir / "figures" / str(row["figure"])
    caption = f"{row['caption']}."
    if path.suffix not in KINDS or not path.is_file():
        return Picture("", caption, caption, (), f"not there: {path.name}")
    content = base64.b64encode(path.read_bytes()).decode()
    return Picture(f"data:{KINDS[path.suffix]};base64,{content}", caption, caption,
                   (places.source("voxelwise_figures"),))  # fmt: skip


CLUSTERS = (
    text("contrast", "Contrast", "key"), text("space", "Template"), REGION[1],
    figure("label", "Cluster", 0), figure("size_ml", "Size [ml]", 1), figure("mass", "Mass", 0),
    figure("peak_t", "Peak t"), figure("peak_effect", "Effect there [mmol/L]"),
    Column("Place [mm]", _position, "left"), probability("p_size", "p of size"),
    probability("p_mass", "p of mass"),
)  # fmt: skip
