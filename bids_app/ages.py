"""The age of a subject or session, from the tables of the raw dataset."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from sodiumprep.bids_app.metadata import UserError, read_json, read_table

UNITS = {  # how many make a year, by the spellings that tables and templates use
    "year": 1.0,
    "yr": 1.0,
    "y": 1.0,
    "month": 12.0,
    "mo": 12.0,
    "week": 365.25 / 7,
    "day": 365.25,
}


def per_year_of(unit: object) -> float | None:
    """Return how many of a unit make a year; None for what is no unit of time.

    Examples
    --------
    >>> per_year_of("years"), per_year_of("Months"), per_year_of("mm")
    (1.0, 12.0, None)
    """
    text = str(unit).strip().lower()
    return UNITS.get(text) or UNITS.get(text.removesuffix("s"))


def age_of(bids_dir: Path, subject: str, session: str | None) -> tuple[float, Path]:
    """Return the age of a subject, of the session if it is stated, and the table it stands in.

    Parameters
    ----------
    bids_dir
        Raw dataset.
    subject, session
        Labels without their keys.

    Returns
    -------
    age
        [years]; the column ``age`` counts years unless its dictionary states other ``Units``.
    table
        ``sessions.tsv`` or ``participants.tsv``.

    Raises
    ------
    UserError
        If no table states it, or not as a number.
    """
    folder = bids_dir / f"sub-{subject}"
    tables = [(bids_dir / "participants.tsv", "participant_id", f"sub-{subject}")]
    if session is not None:
        own = folder / f"sub-{subject}_sessions.tsv"
        tables.insert(0, (own, "session_id", f"ses-{session}"))
    for path, column, label in tables:
        stated = _cell(path, column, label)
        if stated is not None:
            return _years(stated, path, f"sub-{subject}"), path
    names = " or ".join(str(path) for path, _, _ in tables)
    raise UserError(f"{names}: no column age with a row for sub-{subject}; accepted: age in years")


def _cell(path: Path, column: str, label: str) -> str | None:
    """Return the age in the row of a subject or session; None without row or column."""
    if not path.is_file():
        return None
    return _column(path, column, path.stat().st_mtime_ns).get(label)


@lru_cache(maxsize=16)
def _column(path: Path, column: str, _changed: int) -> dict[str, str | None]:
    """Return the ages of a table; it is read once for all its subjects, unless it changes."""
    ages: dict[str, str | None] = {}
    for row in read_table(path):
        ages.setdefault(row.get(column, ""), row.get("age"))
    return ages


def _years(text: str, path: Path, who: str) -> float:
    dictionary = path.with_suffix(".json")
    content = read_json(dictionary) if dictionary.is_file() else {}
    entry = content.get("age") if isinstance(content, dict) else None
    units = entry.get("Units", "years") if isinstance(entry, dict) else "years"
    per_year = per_year_of(units)
    if per_year is None:
        raise UserError(f"{dictionary}: age: Units is {units!r}; accepted: years, months or days")
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text.strip()):
        raise UserError(
            f"{path}: age of {who} is {text!r}; accepted: a number of {units} (a cohort is "
            "chosen by it)"
        )
    return float(text) / per_year


OLDEST = 130.0  # years; more is a mistake of unit


def read_age(bids_dir: Path, subject: str, session: str | None) -> float | None:
    """Return the age [years] as :func:`age_of` finds it, None where none is stated or usable."""
    try:
        age, _ = age_of(bids_dir, subject, session)
    except UserError:
        return None
    return age if age < OLDEST else None
