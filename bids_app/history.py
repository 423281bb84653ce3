"""How the results of a subject came about: what was asked, what failed, how to ask it again.

No time and no name of a run is told: the same command gives the same report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.engine import Crash, read_crash
from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.bids_app.record import Record, last_record, without_home
from sodiumprep.bids_app.wording import plain_value

_DETAILS = re.compile(r" \(details: [^()]*\)$")
NO_RECORD = (
    "No record of a run over this subject lies in logs/: it was deleted, or the results are those "
    "of a version that kept none. What the sidecars tell stands under Provenance."
)


def known_errors(out_dir: Path, subject: str, errors: Sequence[str] = ()) -> list[str]:
    """Return what failed in the last run over a subject, each line once.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    subject
        Label without its key.
    errors
        What is known beside its record.
    """
    record = last_record(out_dir, subject)
    held = record.failures.get(subject, ()) if record else ()
    # the name of a crash file holds the time and the user
    told = [_DETAILS.sub("", text) for text in (*map(without_home, errors), *map(str, held))]
    return list(dict.fromkeys(told))


def history_section(out_dir: Path, subject: str, errors: Sequence[str]) -> dict[str, Any]:
    """Return what the report tells of errors and of how to reproduce the results.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    subject
        Label without its key.
    errors
        What failed.

    Returns
    -------
    section
        ``crashes``, ``no_crash`` (why there is none), ``command``, ``facts``, ``options``,
        and ``problem`` where nothing is known.
    """
    record = last_record(out_dir, subject)
    crashes = [
        {"node": crash.node or "n/a", "message": without_home(crash.message)}
        for crash in find_crashes(out_dir, subject, record.stamp if record else "")
    ]
    return {"crashes": crashes, "no_crash": _why_no_crash(record, errors), **_asked(record)}


def find_crashes(out_dir: Path, subject: str, since: str = "") -> Iterator[Crash]:
    """Yield the crash files of a subject, the first one first.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    subject
        Label without its key.
    since
        Time of a start as it stands in names of folders; earlier runs are left out.
    """
    own = (f"sub_{subject}_wf", f"sub_{subject}_ses_", f"sub_{subject}_only_")
    for folder in sorted(DatasetNames(out_dir).logs.glob("crash-*")):
        if folder.name.removeprefix("crash-") < since:
            continue
        for path in sorted(folder.glob("crash-*.txt"), key=lambda p: (p.stat().st_mtime, p.name)):
            crash = read_crash(path)
            if crash.owner.startswith(own):
                yield crash


def _why_no_crash(record: Record | None, errors: Sequence[str]) -> str:
    if errors:
        return "No node crashed in the last run: what failed did so before or after them."
    if record is None:
        return "No crash file of this subject lies in logs/."
    return "Nothing failed in the last run over this subject."


def _asked(record: Record | None) -> dict[str, Any]:
    if record is None:
        return {"problem": NO_RECORD, "command": "", "facts": [], "options": []}
    told = record.told
    software = told.get("software") or {}
    facts = [
        ("sodiumprep", plain_value(told.get("version"))),
        ("Random seed", plain_value(told.get("seed"))),
        ("Software", plain_value(software)),
    ]
    options = [(f"--{name}", plain_value(value)) for name, value in record.given.items()]
    return {
        "problem": "",
        "command": str(told.get("command", "")),
        "facts": facts,
        "options": options,
    }
