"""Age, group, site and whatever else the tables of people tell: a row per participant and session.

Columns of numbers and of categories are told apart by the data dictionary (``Levels``), by name
(``sex``, ``group``, ``site`` …), else by whether every cell is a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from sodiumprep.bids_app.ages import per_year_of
from sodiumprep.bids_app.group.tables import UNKNOWN, read_text_table
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DatasetNames, entities, with_json
from sodiumprep.bids_app.people import PHENOTYPE
from sodiumprep.bids_app.results import read_json

CATEGORIES = {"sex", "gender", "group", "site", "scanner", "center", "centre", "session", "run",
              "diagnosis", "handedness", "grade"}  # fmt: skip
_TOP_CODED = re.compile(r"^(?:>=?\s*)?(\d+(?:\.\d+)?)\s*\+?$")
RESERVED = {"run", "seg", "name", "pvc", "value", "u", "u_shared", "u_session", "u_own", "n_runs"}
NOT_SAID = ("", UNKNOWN, "N/A", "NA", "nan", "NaN", "null")


@dataclass(frozen=True)
class Covariates:
    """What is known of people and their sessions.

    Parameters
    ----------
    table
        A row per participant and session (``n/a`` where there is none): ``participant_id
        session``, numbers as numbers, categories as text, null where not known.
    numbers
        Columns that hold numbers.
    dictionary
        Descriptions of columns, as far as they are stated.
    notes
        What was made of cells that are no plain numbers, in words.
    """

    table: pl.DataFrame
    numbers: tuple[str, ...]
    dictionary: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def categories(self) -> tuple[str, ...]:
        """Columns that hold text."""
        keys = ("participant_id", "session", *self.numbers)
        return tuple(c for c in self.table.columns if c not in keys)


def read_participants(path: Path) -> pl.DataFrame:
    """Return the participants table as text, with ``sub-`` before every label.

    Parameters
    ----------
    path
        ``participants.tsv``; a missing one gives an empty table.

    Raises
    ------
    UserError
        If the file has no ``participant_id``, or one of them twice, or cannot be read.
    """
    if not path.is_file():
        return pl.DataFrame(schema={"participant_id": pl.String})
    table = read_text_table(path)
    if "participant_id" not in table.columns:
        raise UserError(f"{path}: column participant_id is missing")
    table = _labelled(table, "participant_id", "sub-")
    twice = table.filter(table["participant_id"].is_duplicated())
    if twice.height:
        raise UserError(f"{path}: participant_id {twice['participant_id'][0]} stands there twice")
    return table.with_columns(pl.all().replace("", UNKNOWN))


def gather_covariates(out_dir: Path, measured: pl.DataFrame) -> Covariates:
    """Return what the tables of participants, sessions and phenotypes tell of what was measured.

    Parameters
    ----------
    out_dir
        Root of the derivatives, where the participant level has copied them.
    measured
        ``participant_id session`` of everything that has results.

    Raises
    ------
    UserError
        If a table cannot be read, or has two rows for one participant or session.
    """
    participants = DatasetNames(out_dir).participants
    joined, described = measured.unique(maintain_order=True), {}
    sources = [participants, *sorted((out_dir / PHENOTYPE).glob("*.tsv"))]
    for path in sources:
        table = read_participants(path) if path == participants else _phenotype(path)
        joined = _joined(joined, table, path.stem)
        described |= read_json(with_json(path))
    sessions = _sessions(out_dir, measured["participant_id"].unique().to_list())
    joined = _joined(joined, sessions, "sessions")
    described |= read_json(out_dir / "sessions.json")
    return _typed(joined.sort("participant_id", "session"), described)


def _phenotype(path: Path) -> pl.DataFrame:
    table = read_text_table(path)
    if "participant_id" not in table.columns:
        raise UserError(f"{path}: column participant_id is missing")
    table = _labelled(table, "participant_id", "sub-")
    if "session_id" in table.columns:
        table = _labelled(table, "session_id", "").rename({"session_id": "session"})
        table = table.with_columns(pl.col("session").str.strip_prefix("ses-"))
    keys = [key for key in ("participant_id", "session") if key in table.columns]
    twice = table.filter(pl.struct(keys).is_duplicated())
    if twice.height:
        shown = " ".join(str(twice[key][0]) for key in keys)
        raise UserError(
            f"{path}: {shown} stands there twice; accepted: one row for each participant, or for "
            "each participant and session_id"
        )
    return table


def _sessions(out_dir: Path, participants: list[str]) -> pl.DataFrame:
    """Return the sessions tables of all participants in one."""
    paths = [out_dir / label / f"{label}_sessions.tsv" for label in participants]
    found = [_one_subject(path) for path in paths if path.is_file()]
    empty = pl.DataFrame(schema={"participant_id": pl.String, "session": pl.String})
    return pl.concat([empty, *found], how="diagonal")


def _one_subject(path: Path) -> pl.DataFrame:
    table = read_text_table(path)
    if "session_id" not in table.columns:
        raise UserError(f"{path}: column session_id is missing")
    label = pl.lit(f"sub-{entities(path)['sub']}").alias("participant_id")
    session = pl.col("session_id").str.strip_prefix("ses-").alias("session")
    table = table.select(label, session, pl.exclude("session_id", "participant_id", "session"))
    if table["session"].is_duplicated().any():
        raise UserError(f"{path}: a session stands there twice; accepted: one row for each")
    return table


def _labelled(table: pl.DataFrame, column: str, key: str) -> pl.DataFrame:
    plain = pl.col(column).str.strip_prefix(key)
    return table.with_columns((pl.lit(key) + plain).alias(column))


def _joined(table: pl.DataFrame, more: pl.DataFrame, origin: str) -> pl.DataFrame:
    """Put columns behind; one that is there already (an age at baseline) is filled or renamed."""
    hidden = RESERVED & set(more.columns)  # columns of the values themselves
    more = more.rename({c: f"{origin}_{c}" for c in sorted(hidden)})
    keys = [key for key in ("participant_id", "session") if key in more.columns]
    if "session" in keys:  # what a session states goes before what the participant states
        shared = [c for c in more.columns if c in table.columns and c not in keys]
        both = table.join(more, on=keys, how="left", suffix="__own", maintain_order="left")
        own = [
            pl.when(pl.col(f"{c}__own").is_in(NOT_SAID) | pl.col(f"{c}__own").is_null())
            .then(pl.col(c)).otherwise(pl.col(f"{c}__own")).alias(c)
            for c in shared
        ]  # fmt: skip
        return both.with_columns(own).drop([f"{c}__own" for c in shared])
    taken = set(table.columns) - {"participant_id"}
    renamed = {c: f"{origin}_{c}" for c in more.columns if c in taken}
    return table.join(more.rename(renamed), on=keys, how="left", maintain_order="left")


def _typed(table: pl.DataFrame, described: Mapping[str, Any]) -> Covariates:
    """Tell numbers from categories, and say what was made of cells that are neither."""
    numbers, notes, columns = [], [], []
    for name in table.columns[2:]:
        column = table[name].map_elements(_said, return_dtype=pl.String, skip_nulls=True)
        stated = described.get(name)
        levels = isinstance(stated, Mapping) and isinstance(stated.get("Levels"), Mapping)
        if not levels and name.lower() not in CATEGORIES:
            parsed, note = _numbers(name, column)
            if parsed is not None:
                column, told = _in_years(name, parsed, stated)
                numbers.append(name)
                notes += [*note, *told]
        columns.append(column.alias(name))
    typed = pl.DataFrame([table["participant_id"], table["session"], *columns])
    return Covariates(typed, tuple(numbers), described, tuple(notes))


def _in_years(name: str, column: pl.Series, stated: Any) -> tuple[pl.Series, list[str]]:
    """Return ages in years, whatever their data dictionary counts in, and say so."""
    unit = stated.get("Units", "years") if isinstance(stated, Mapping) else "years"
    if name.lower() != "age":
        return column, []
    per_year = per_year_of(unit)
    if per_year is None:
        return column, [f"{name} has the unit {unit!r}, which is no time: taken as it stands"]
    if per_year == 1:
        return column, []
    return column / per_year, [f"{name} is given in {unit} and counts in years"]


def _said(cell: str) -> str | None:
    return None if cell in NOT_SAID else cell


def _numbers(name: str, column: pl.Series) -> tuple[pl.Series | None, list[str]]:
    """Return a column as numbers if most of its cells are, with what is said of the others."""
    held = column.drop_nulls()
    if not len(held):
        return None, []
    parsed = column.cast(pl.Float64, strict=False)
    odd = column.filter(parsed.is_null() & column.is_not_null())
    top = [cell for cell in odd.unique(maintain_order=True) if _TOP_CODED.match(cell)]
    others = [cell for cell in odd.unique(maintain_order=True) if cell not in top]
    if len(odd) > len(held) / 2 or (others and name.lower() != "age"):
        return None, []
    known = {cell: float(_TOP_CODED.match(cell).group(1)) for cell in top}  # type: ignore[union-attr]
    if known:
        bounds = column.replace_strict(known, default=None, return_dtype=pl.Float64)
        parsed = parsed.fill_null(bounds)
    notes = [f"{name} {cell!r} is taken as {value:g}" for cell, value in known.items()]
    notes += [f"{name} {cell!r} is no number and counts as not known" for cell in others]
    finite = parsed.is_finite().fill_null(value=False)
    return pl.select(pl.when(finite).then(parsed).otherwise(None)).to_series(), notes
