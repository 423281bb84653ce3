"""The table of a cohort's runs: values, flags, warnings, and the way to each subject's report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from sodiumprep.bids_app.group.page import NOTHING, Link
from sodiumprep.bids_app.group.shown import EVERYBODY, Places, Shown, groups_of, shown_methods
from sodiumprep.bids_app.group.values import RUN
from sodiumprep.bids_app.wording import UNKNOWN, number

MOST_ROWS = 500  # that are written out; more are kept as text, and shown a page at a time
MOST_REGIONS = 8
LABELS = {"participant_id": "Subject", "session": "Session", "run": "Run", "rec": "Reconstruction",
          "acq": "Acquisition", "group": "Group"}  # fmt: skip


@dataclass(frozen=True)
class Roster:
    """A row for every run.

    Parameters
    ----------
    heads
        Titles of the columns.
    left
        Whether cells are words.
    rows
        Cells as text; the first one is the participant.
    reports
        Where the report of each row's participant lies, empty where there is none.
    """

    heads: tuple[str, ...]
    left: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    reports: tuple[str, ...]

    @property
    def compact(self) -> bool:
        """Whether there are too many rows to write them out."""
        return len(self.rows) > MOST_ROWS

    @property
    def content(self) -> dict[str, object]:
        """What the page's script shows; the last entry of a row is 1 where there is a report."""
        rows = [[*row, int(bool(r))] for row, r in zip(self.rows, self.reports, strict=True)]
        return {"left": [int(word) for word in self.left], "rows": rows}

    @property
    def linked(self) -> list[tuple[object, ...]]:
        """Rows whose first cell leads to the report."""
        return [
            (Link(row[0], report), *row[1:])
            for row, report in zip(self.rows, self.reports, strict=True)
        ]


def roster(shown: Shown, values: pd.DataFrame, places: Places) -> Roster:
    """Return the table of all runs.

    Parameters
    ----------
    shown
        What is told.
    values
        Of tissues and lesions.
    places
        Where reports lie.
    """
    main = shown_methods(list(values["pvc"].unique()))[-1:]
    own = _with_others(shown, values[values["pvc"].isin(main)])
    keys = [c for c in (*RUN, "rec", "acq") if c in own and (c == RUN[0] or _tells(own[c]))]
    regions = list(dict.fromkeys(own["name"].dropna()))[:MOST_REGIONS]
    cells = _people(shown, own, keys).join(_cells(own, keys, regions)).reset_index()
    names = [*keys, *(["group"] if set(own["group"]) != {EVERYBODY} else [])]
    columns = [*names, *regions, "flags", "warnings"]
    table = cells.reindex(columns=columns).fillna(NOTHING).astype(str)
    heads = [LABELS.get(c, c.capitalize() if c in ("flags", "warnings") else c) for c in columns]
    left = tuple(c in (*names, "flags") for c in columns)
    links = {label: places.report(label) for label in table["participant_id"].unique()}
    return Roster(
        tuple(heads), left, tuple(map(tuple, table.to_numpy())),
        tuple(links[label] for label in table["participant_id"]),
    )  # fmt: skip


def warnings_of(quality: pd.DataFrame, most: int = 100) -> list[tuple[str, list[str]]]:
    """Return the warnings of each run with its name.

    Parameters
    ----------
    quality
        One row per run.
    most
        Runs that are told of.
    """
    found = []
    for row in quality[quality["n_warnings"] > 0].head(most).to_dict("records"):
        labels = [("ses", row["session"]), ("run", row["run"])]
        place = " ".join(f"{key}-{value}" for key, value in labels if value != UNKNOWN)
        found.append((f"{row['participant_id']} {place}".strip(), row["warnings"].split(" | ")))
    return found


def _with_others(shown: Shown, values: pd.DataFrame) -> pd.DataFrame:
    """Return values, and a row without one for each run that has a quality file alone."""
    known = set(map(tuple, values[list(RUN)].to_numpy()))
    runs = shown.quality[list(RUN)].astype(str).drop_duplicates()
    others = runs[[tuple(run) not in known for run in runs.to_numpy()]]
    if not len(others):
        return values
    table = groups_of(shown.cohort)
    groups = dict(zip(table["participant_id"], table["group"], strict=True))
    whose = others["participant_id"].map(groups).fillna(UNKNOWN)
    labels = {c: UNKNOWN for c in ("rec", "acq") if c in values}
    empty = others.assign(group=whose, name=None, flag=None, **labels)
    return pd.concat([values, empty], ignore_index=True) if len(values) else empty


def _tells(column: pd.Series) -> bool:
    return set(column) != {UNKNOWN} and column.nunique() > 0


def _cells(values: pd.DataFrame, keys: list[str], regions: list[str]) -> pd.DataFrame:
    """Return a row per run with the text of each region's value."""
    own = values[values["name"].isin(regions)]
    pairs = zip(own["mean"], own["uncertainty"], strict=True) if len(own) else ()
    told = [f"{number(m)} ± {number(u)}" if number(m) != UNKNOWN else UNKNOWN for m, u in pairs]
    if not told:
        return pd.DataFrame()
    return own.assign(told=told).pivot_table("told", keys, "name", aggfunc="first")


def _people(shown: Shown, values: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return group, flags and number of warnings of each run."""
    gone = shown.cohort.left_out
    left = set(gone.select(*RUN).iter_rows()) if gone.height else set()
    marked = values.assign(gone=[tuple(run) in left for run in values[list(RUN)].to_numpy()])
    by_run = marked.groupby(keys, sort=True)
    told = by_run.agg(group=("group", "first"), flags=("flag", _flags), gone=("gone", "any"))
    flags, out = told["flags"], told.pop("gone")
    told["flags"] = flags.where(~out, "left out by the model; " + flags)
    shared = [c for c in keys if c in shown.quality]
    counts = shown.quality.groupby(shared)["n_warnings"].sum() if len(shown.quality) else None
    if counts is None:
        return told.assign(warnings=UNKNOWN)
    numbers = counts.map(lambda n: f"{n:.0f}").rename("warnings")
    return told.join(numbers, on=shared)


def _flags(column: Iterable[str]) -> str:
    words = [word.strip() for text in column for word in str(text or "").split(",")]
    told = sorted({word for word in words if word not in ("", UNKNOWN, "None")})
    return ", ".join(told) or NOTHING
