"""What is tested at every voxel: one number for each participant, and what is kept beside it.

The fixed effects of the model are taken over. A difference between participants is asked of the
mean of their sessions, a difference between sessions of each participant's own change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import formulaic
import numpy as np
import pandas as pd

from sodiumprep.bids_app.group.facts import check_known
from sodiumprep.bids_app.group.maps import SpaceMaps
from sodiumprep.bids_app.group.model import formula
from sodiumprep.bids_app.group.tables import UNKNOWN, as_pandas
from sodiumprep.bids_app.group.values import Cohort
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort import designs
from sodiumprep.sodium.cohort.voxelwise import subject_slopes

WHERE = "Voxelwise.Contrast"
WITHIN = ("session", "run")  # columns that participants do not have one level of


@dataclass(frozen=True)
class Question:
    """What is tested.

    Parameters
    ----------
    contrast
        Its name.
    participants
        Whose maps are taken.
    tested
        Of each participant; all 1 for the mean of changes.
    covariates
        Shape (participants, k).
    times
        Of each session of each participant that its change is taken over; empty for means.
    notes
        What was left out or decided, in words.
    """

    contrast: str
    participants: tuple[str, ...]
    tested: Floats
    covariates: Floats
    times: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()

    def value(self, maps: SpaceMaps, participant: str, fwhm: float) -> Floats:
        """Return the map that stands for a participant: its mean, or its change.

        Parameters
        ----------
        maps
            Of the space.
        participant
            Who.
        fwhm
            Of the Gaussian that smooths each map [mm].
        """
        times = self.times.get(participant)
        if times is None:
            return maps.person_map(participant, fwhm)
        held = [maps.session_map(participant, session, fwhm) for session in times]
        flat = np.stack([values.ravel() for values in held])
        who = np.full(len(held), participant)
        slope = subject_slopes(flat, who, np.array(list(times.values()), np.float32))[1][0]
        return np.asarray(slope.reshape(held[0].shape), np.float32)


def ask(maps: SpaceMaps, cohort: Cohort, name: str | None) -> Question:
    """Return what is tested.

    Parameters
    ----------
    maps
        Of the space.
    cohort
        Covariates and model.
    name
        Of one of the contrasts; None for the first difference between groups.

    Raises
    ------
    UserError
        If there is no such contrast.
    ValueError
        If it cannot be tested with these participants.
    """
    times = _times(maps, cohort)
    own = cohort.model.contrasts.get(name or "", {})
    if own and all(condition.startswith("session.") for condition in own):
        times[str(name)] = dict.fromkeys(maps.files, _two_sessions(str(name), own))
    if name is None and not _between_terms(cohort):
        name = next(iter(times), None)
    if name in times:
        return _of_changes(maps, cohort, str(name), times[str(name)])
    return _of_means(maps, cohort, name, list(times))


def _times(maps: SpaceMaps, cohort: Cohort) -> dict[str, dict[str, dict[str, float]]]:
    """Return contrasts within participants: time by participant and session."""
    labels = sorted({label for own in maps.files.values() for label in own} - {UNKNOWN})
    pairs = {f"session: {b} - {a}": {a: 0.0, b: 1.0} for a, b in permutations(labels, 2)}
    wanted = cohort.model.section("Change") or {}
    first = f"session: {wanted.get('To')} - {wanted.get('From')}"
    ordered = sorted(pairs, key=lambda name: name != first)
    found = {name: dict.fromkeys(maps.files, pairs[name]) for name in ordered}
    column = wanted.get("Time")
    if column is not None:
        held = cohort.covariates.table.filter(cohort.covariates.table[column].is_not_null())
        own: dict[str, dict[str, float]] = {}
        for who, session, time in held.select("participant_id", "session", column).iter_rows():
            own.setdefault(who, {})[session] = float(time)
        found[column] = own
    return found


def _two_sessions(name: str, weights: Mapping[str, float]) -> dict[str, float]:
    sides = sorted((weight, condition.removeprefix("session."))
                   for condition, weight in weights.items() if weight)  # fmt: skip
    if len(sides) != 2 or sides[0][0] != -sides[1][0]:
        raise UserError(
            f"{WHERE}: {name} is tested at every voxel as one session less another; its "
            f"weights are {dict(weights)}, accepted: -1 and 1 of two sessions"
        )
    return {sides[0][1]: 0.0, sides[1][1]: 1.0 / sides[1][0]}


def _between_terms(cohort: Cohort) -> list[str]:
    """Return the terms that tell participants apart; a site is one of them here."""
    sites = [column for column in cohort.model.random if column != "participant_id"]
    terms = [term for term in cohort.model.fixed if not {*term.split("*")} & {*WITHIN}]
    return list(dict.fromkeys([*terms, *sites]))


def _rows(maps: SpaceMaps, cohort: Cohort, terms: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return one row per participant who has all covariates, and what was left out."""
    columns = sorted({part for term in terms for part in term.split("*")})
    table = as_pandas(cohort.covariates.table)
    kept = [session in maps.files.get(who, ()) for who, session in
            zip(table["participant_id"], table["session"], strict=True)]  # fmt: skip
    groups = table[kept].groupby("participant_id", sort=False)
    known = {column: groups[column].mean() if column in cohort.covariates.numbers
             else groups[column].first() for column in columns}  # fmt: skip
    people = pd.DataFrame(known, index=list(maps.files)).rename_axis("participant_id")
    complete = people.dropna()
    lost = len(people) - len(complete)
    notes = [f"{lost} participants without all covariates are left out"] if lost else []
    return complete.reset_index().assign(session=UNKNOWN), notes


def _of_means(maps: SpaceMaps, cohort: Cohort, name: str | None, others: list[str]) -> Question:
    terms = _between_terms(cohort)
    if not terms:
        if name is not None:
            check_known(name, others, WHERE)
        raise ValueError("the model compares nothing: neither groups nor numbers nor sessions")
    rows, notes = _rows(maps, cohort, terms)
    columns = dict.fromkeys(part for term in terms for part in term.split("*"))
    numbers = cohort.covariates.numbers
    stated = {n: w for n, w in cohort.model.contrasts.items() if n not in others}
    first = name if name is not None else next(iter(stated), "")
    asked = {first: stated[first]} if first in stated else {}
    design = designs.build_design(rows, designs.Model(
        fixed=formula(terms), groups=[c for c in columns if c not in numbers],
        slopes=[c for c in columns if c in numbers], reference=cohort.model.reference,
        contrasts=asked,
    ))  # fmt: skip
    chosen = name if name is not None else _first_difference(list(design.contrasts))
    check_known(chosen, [*design.contrasts, *others], WHERE)
    tested, covariates = designs.partitioned(design.matrix, design.contrasts[chosen].weights)
    told = [note for note in design.notes if not note.startswith("one measurement")]
    who = tuple(rows["participant_id"][design.kept])
    several = any(len(own) > 1 for own in maps.files.values())
    told += ["sessions of a participant are averaged"] * several
    return Question(chosen, who, tested, covariates, {}, (*notes, *told))


def _first_difference(names: list[str]) -> str:
    """Return the first contrast between groups, else the first of all."""
    return next((name for name in names if ": " in name), names[0])


def _of_changes(
    maps: SpaceMaps, cohort: Cohort, name: str, times: Mapping[str, Mapping[str, float]]
) -> Question:
    rows, notes = _rows(maps, cohort, terms := _between_terms(cohort))
    held = {who: {s: t for s, t in own.items() if s in maps.files.get(who, ())}
            for who, own in times.items()}  # fmt: skip
    changed = [len({*held.get(who, {}).values()}) > 1 for who in rows["participant_id"]]
    rows = rows[changed]
    if len(rows) < len(maps.files):
        notes = [f"{len(rows)} of {len(maps.files)} participants have both times and covariates"]
    if rows.empty:
        raise ValueError(f"no participant has maps at two times of {name}")
    matrix = np.asarray(formulaic.model_matrix(formula(terms), rows) if terms else
                        np.ones((len(rows), 1)), float)  # fmt: skip
    varying = matrix[:, np.ptp(matrix, axis=0) > 0]
    own = {who: held[who] for who in rows["participant_id"]}
    return Question(name, tuple(own), np.ones(len(rows)), varying, own, tuple(notes))
