"""How old a subject was: ``participants.tsv``, ``sessions.tsv``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

PER_YEAR = {"year": 1.0, "yr": 1.0, "month": 12.0, "week": 52.18, "day": 365.25}


def read_age(bids_dir: Path, subject: str, session: str | None) -> float | None:
    """Return the age that the tables tell, that of the session first.

    Parameters
    ----------
    bids_dir
        Raw dataset.
    subject, session
        Labels without their keys; session None where there is none.

    Returns
    -------
    age
        In years (or in the unit that the table's sidecar tells, converted); None where nothing
        usable stands, such as ``n/a``, ``89+`` or a negative number.
    """
    tables = [
        (bids_dir / f"sub-{subject}" / f"sub-{subject}_sessions.tsv", "session_id",
         f"ses-{session}"),
        (bids_dir / "participants.tsv", "participant_id", f"sub-{subject}"),
    ]  # fmt: skip
    ages = (_age_in(*table) for table in tables)
    return next((age for age in ages if age is not None), None)


def _age_in(path: Path, key: str, label: str) -> float | None:
    """Return the age in the row of a label [years]."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if _label(row, key) == label]
    try:
        age = float(rows[0]["age"]) / _units_per_year(path.with_suffix(".json"))
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return age if 0 <= age < 130 else None


def _label(row: dict[str, str], key: str) -> str:
    """Return the label of a row with its key, which some tables leave out."""
    prefix, label = {"participant_id": "sub-", "session_id": "ses-"}[key], row.get(key) or ""
    return label if label.startswith(prefix) else prefix + label


def _units_per_year(sidecar: Path) -> float:
    """Return how many of the sidecar's units of age make a year; years if it tells none."""
    if not sidecar.is_file():
        return 1.0
    column = json.loads(sidecar.read_text(encoding="utf-8")).get("age")
    unit = column.get("Units", "year") if isinstance(column, dict) else "year"
    return PER_YEAR[str(unit).lower().rstrip("s")]
