"""Sodium against another modality, region by region and method by method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import formulaic
import numpy as np
import pandas as pd

from sodiumprep.bids_app.group.others import Other
from sodiumprep.bids_app.group.regional import SHOWN, Row, Tables
from sodiumprep.bids_app.group.seeds import seeded
from sodiumprep.bids_app.group.tables import UNKNOWN
from sodiumprep.bids_app.group.values import Block, Cohort, Series
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.modality import (
    added_value,
    disattenuated,
    match,
    partial_correlation,
    within_subjects,
    york,
)
from sodiumprep.sodium.cohort.values import session_means

WITHIN = {"session", "run"}  # columns that participants do not have one level of
POINT = ["participant_id", "session", "run", "x", "y", "u_x", "u_y"]


def compare_block(cohort: Cohort, block: Block, others: Sequence[Other], seed: int) -> Tables:
    """Return what the regions of a block share with other modalities.

    Parameters
    ----------
    cohort
        What was gathered and asked.
    block
        Regions of one segmentation and method.
    others
        Values of those regions.
    seed
        Of the run.
    """
    tables: Tables = {"modality": [], "modality_points": []}
    for series in cohort.read(block):
        for other in others:
            own = other.of(series.seg, [series.name])
            if own.values["value"].notna().any():
                row, points = compare(series, own, cohort, seed)
                tables["modality"].append(row)
                tables["modality_points"] += points
    return tables


def compare(series: Series, other: Other, cohort: Cohort, seed: int) -> tuple[Row, list[Row]]:
    """Return what one region shares with another modality, and the points of its plot.

    Parameters
    ----------
    series
        Values of the region.
    other
        Those of the other modality in it.
    cohort
        Model and covariates.
    seed
        Of the run.
    """
    row: Row = {"comparison": other.name, **series.keys}
    notes = list(other.notes)
    try:
        pairs = match(_as_coarse(series.table, other.values), other.values)
    except ValueError as error:
        return {**row, "notes": "; ".join([*notes, str(error)])}, []
    people = pairs.groupby("participant_id", sort=False).first()
    people[["x", "y"]] = pairs.groupby("participant_id", sort=False)[["x", "y"]].mean()
    row |= {"n": len(people), "n_values": len(pairs)}
    rng = seeded(seed, "modality", *map(str, row.values()))
    terms = [term for term in cohort.model.fixed if not {*term.split("*")} & WITHIN]
    answers: list[tuple[str, Callable[[], Row]]] = [
        ("r", lambda: _plain(people)),
        ("line", lambda: _line(pairs)),
        ("true correlation", lambda: _estimate("r_true", disattenuated(pairs, rng))),
    ]
    if terms:
        answers.append(("partial correlation", lambda: _partial(people, terms)))
    if len(pairs) > len(people):
        answers.append(("correlation within participants", lambda: _within(pairs)))
    if other.outcome:
        answers.append((other.outcome, lambda: _added(people, other.outcome, rng)))
    for name, answer in answers:
        try:
            row |= answer()
        except ValueError as error:
            notes.append(f"{name}: {error}")
    shown = pairs if series.seg == SHOWN else pairs[:0]
    points = [{"comparison": other.name, **series.keys, **point}
              for point in shown[POINT].to_dict("records")]  # fmt: skip
    return {**row, "notes": "; ".join(notes)}, points


def _as_coarse(values: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Average runs, and sessions, where the other modality has one value for all of them."""
    if (other["run"] != UNKNOWN).any():
        return values
    means = session_means(values).assign(run=UNKNOWN)
    means = means.drop(columns=["u_own", "n_runs"])
    if (other["session"] != UNKNOWN).any() or (means["session"] == UNKNOWN).all():
        return means
    groups = means.assign(_own=means["u"] ** 2 - means["u_shared"] ** 2).groupby("participant_id")
    people = groups.first()
    people["value"] = groups["value"].mean()
    own = groups["_own"].sum(min_count=1) / groups.size() ** 2
    people["u_shared"] = groups["u_shared"].mean()
    people["u"] = np.sqrt(np.maximum(own, 0) + people["u_shared"] ** 2)
    return people.drop(columns="_own").assign(session=UNKNOWN).reset_index()


def _plain(people: pd.DataFrame) -> Row:
    empty = np.empty((len(people), 0))
    found = partial_correlation(people["x"].to_numpy(), people["y"].to_numpy(), empty)
    return {**_estimate("r", found.r), "p": found.p}


def _line(pairs: pd.DataFrame) -> Row:
    known = pairs[(pairs["u_x"] > 0) & (pairs["u_y"] > 0)]
    if known.empty:
        raise ValueError("no value has uncertainties of both maps above 0")
    found = york(*known[["x", "y", "u_x", "u_y"]].to_numpy(float).T)
    return {**_estimate("line_slope", found.slope), **_estimate("intercept", found.intercept),
            "chi2": found.chi2}  # fmt: skip


def _partial(people: pd.DataFrame, terms: Sequence[str]) -> Row:
    columns = sorted({part for term in terms for part in term.split("*")})
    complete = people.dropna(subset=columns)
    if complete.empty:
        raise ValueError(f"nobody has {', '.join(columns)}")
    matrix = np.asarray(formulaic.model_matrix(" + ".join(terms), complete), float)
    varying: Floats = matrix[:, np.ptp(matrix, axis=0) > 0]
    found = partial_correlation(
        complete["x"].to_numpy(float), complete["y"].to_numpy(float), varying
    )
    return {**_estimate("r_partial", found.r), "p_partial": found.p, "given": ", ".join(columns)}


def _within(pairs: pd.DataFrame) -> Row:
    found = within_subjects(pairs)
    return {**_estimate("r_within", found.r), "p_within": found.p}


def _added(people: pd.DataFrame, outcome: str, rng: np.random.Generator) -> Row:
    complete = people.dropna(subset=[outcome])
    held = complete[outcome].to_numpy(float)
    target: Any = held == 1 if {*held} == {0.0, 1.0} else held
    first, second = (complete[[column]].to_numpy(float) for column in ("y", "x"))
    found = added_value(target, first, second, rng)
    return {
        "outcome": outcome, "measure": found.measure, "other_alone": found.base,
        "with_sodium": found.full, **_estimate("gain", found.gain), "p_added": found.p,
    }  # fmt: skip


def _estimate(name: str, found: Any) -> Row:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
