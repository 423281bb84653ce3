"""Who is missing from the tables, and why; whether results of one kind are compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import polars as pl

from sodiumprep.bids_app.group.tables import UNKNOWN
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import with_json
from sodiumprep.bids_app.record import last_record
from sodiumprep.bids_app.results import find_subjects, find_tables, read_json

MISSING = {
    "participant_id": "Participant",
    "session": "Label of the session, n/a for all of them",
    "state": "failed (there is a folder, but no table), not processed (no folder), or left out",
    "reason": "Why, as far as it is told",
}
NOT_TOLD = "no table of regions; the record of its run tells no reason"


def find_missing(
    out_dir: Path, participants: pl.DataFrame, measured: Iterable[str], left_out: pl.DataFrame
) -> pl.DataFrame:
    """Return the participants without values, and the runs that are left out.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    participants
        ``participant_id``, with ``sub-``, of everybody who was asked for.
    measured
        Participants with a table, with ``sub-``.
    left_out
        ``participant_id session run reason`` of runs that the model excludes.

    Returns
    -------
    table
        ``participant_id session state reason``.
    """
    found, done = [f"sub-{label}" for label in find_subjects(out_dir)], set(measured)
    rows = [
        (label, UNKNOWN, "failed", _why(out_dir, label)) for label in found if label not in done
    ]
    known = {*found, *done}
    rows += [
        (label, UNKNOWN, "not processed", "in participants.tsv, but without a folder of results")
        for label in participants["participant_id"]
        if label not in known
    ]
    rows += [
        (label, session, "left out", f"run {run}: {reason}" if run != UNKNOWN else reason)
        for label, session, run, reason in left_out.iter_rows()
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys(MISSING, pl.String), orient="row").sort(
        "participant_id", "session", maintain_order=True
    )


def refuse_mixed(out_dir: Path, quality: pd.DataFrame, allowed: bool) -> list[str]:
    """Return what differs between runs and must not; refuse it unless it is allowed.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    quality
        One row per run, with ``software_version``.
    allowed
        Whether results of several kinds may be compared.

    Returns
    -------
    notes
        A line for each.

    Raises
    ------
    UserError
        If units or versions of the software differ.
    """
    notes = []
    for what, found in (("software versions", _versions(quality)), ("units", _units(out_dir))):
        if len(found) > 1:
            shown = "; ".join(f"{value} ({who})" for value, who in sorted(found.items()))
            notes.append(f"{what} differ between results: {shown}")
    if notes and not allowed:
        raise UserError(
            f"{out_dir}: {'; '.join(notes)}; process all with one version, or accept it with "
            "--allow-mixed"
        )
    return notes


def _why(out_dir: Path, label: str) -> str:
    record = last_record(out_dir, label.removeprefix("sub-"))
    told = record.failures.get(label.removeprefix("sub-"), ()) if record else ()
    return " | ".join(" ".join(text.split()) for text in told) or NOT_TOLD


def _versions(quality: pd.DataFrame) -> dict[str, str]:
    known = quality[quality["software_version"].notna()]
    return _first_of(
        zip(known["software_version"].astype(str), known["participant_id"], strict=True)
    )


def _units(out_dir: Path) -> dict[str, str]:
    """Return the units that tables state for their means."""
    return _first_of(_stated_units(out_dir))


def _stated_units(out_dir: Path) -> Iterator[tuple[str, str]]:
    for path in find_tables(out_dir):
        stated = read_json(with_json(path)).get("mean")
        if isinstance(stated, dict) and "Units" in stated:
            yield str(stated["Units"]), path.name.split("_", 1)[0]


def _first_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return each value with how many have it and who was the first."""
    count: dict[str, list[str]] = {}
    for value, who in pairs:
        count.setdefault(value, []).append(who)
    return {
        value: who[0] if len(who) == 1 else f"{who[0]} and {len(who) - 1} more"
        for value, who in count.items()
    }
