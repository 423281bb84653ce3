"""What a section of the cohort's report is made of: words, figures, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sodiumprep.bids_app.figures import save_figure
from sodiumprep.bids_app.wording import UNKNOWN, number

Row = Mapping[str, Any]
NOTHING = "\u2013"  # of a cell without words


@dataclass(frozen=True)
class Link:
    """A cell that leads somewhere.

    Parameters
    ----------
    text
        What is read.
    href
        Relative to the report; empty where there is nothing to lead to.
    """

    text: str
    href: str


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    title
        Its head.
    cell
        Makes the text of a cell, or a link, of a row.
    look
        Classes of the style sheet.
    """

    title: str
    cell: Callable[[Row], str | Link | Sequence[str]]
    look: str = ""


@dataclass(frozen=True)
class Table:
    """A table that is shown.

    Parameters
    ----------
    caption
        What it holds.
    columns
        Titles and looks.
    rows
        Cells.
    note
        What is not in it, and where all rows are.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure that is shown.

    Parameters
    ----------
    uri
        Its content.
    alt
        The result, for those who do not see it.
    caption
        What is drawn, and how.
    sources
        Tables with its numbers, relative to the report.
    problem
        Why it could not be drawn.
    """

    uri: str
    alt: str
    caption: str
    sources: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Parameters
    ----------
    id, title
        For the page and its navigation.
    says
        What it shows, in a sentence.
    rests
        What that rests on.
    findings
        What it shows in detail, a sentence each.
    pictures, tables, notes
        What it holds.
    """

    id: str
    title: str
    says: str
    rests: str
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


def tabulate(caption: str, columns: Iterable[Column], rows: pd.DataFrame, note: str = "") -> Table:
    """Return a table of the rows of a data frame; what is the same long text in all is a note.

    Parameters
    ----------
    caption
        What it holds.
    columns
        How cells are made.
    rows
        One row of the table for each.
    note
        What is not in it.
    """
    given = tuple(columns)
    records = rows.to_dict("records")
    cells = {c: [c.cell(row) for row in records] for c in given}
    same = [c for c in given if "wrap" in c.look and len(records) > 1 and len(set(cells[c])) == 1]
    told = [f"{c.title}, of all: {cells[c][0]}." for c in same if cells[c][0] != NOTHING]
    kept = tuple(c for c in given if c not in same)
    body = tuple(zip(*(cells[c] for c in kept), strict=True))
    return Table(caption, kept, body, " ".join([*told, note]))


def picture(
    draw: Callable[[], Figure], path: Path, alt: str, caption: str, *sources: str
) -> Picture:
    """Return a figure that is drawn now, saved and put into the page.

    Parameters
    ----------
    draw
        Makes it.
    path
        Where it is saved.
    alt
        The result, for those who do not see it.
    caption
        What is drawn.
    sources
        Tables with its numbers, relative to the report.
    """
    try:
        return Picture(save_figure(draw(), path), alt, caption, sources)
    except (ValueError, OSError, KeyError, IndexError) as error:
        return Picture("", alt, caption, sources, f"cannot be drawn ({error})")


def text(name: str, title: str, look: str = "left") -> Column:
    """Return a column of words.

    Parameters
    ----------
    name
        Of the column of results.
    title
        Its head.
    look
        Classes of the style sheet.
    """
    return Column(title, lambda row: _words(row.get(name)), look)


def figure(name: str, title: str, digits: int = 2, look: str = "") -> Column:
    """Return a column of numbers with fixed digits.

    Parameters
    ----------
    name
        Of the column of results.
    title
        Its head.
    digits
        Behind the point.
    look
        Classes of the style sheet.
    """
    return Column(title, lambda row: number(row.get(name), digits), look)


def probability(name: str, title: str) -> Column:
    """Return a column of probabilities, small ones with their digits.

    Parameters
    ----------
    name
        Of the column of results.
    title
        Its head.
    """
    return Column(title, lambda row: in_digits(row.get(name)))


def interval(name: str, title: str, digits: int = 2, low: str = "", high: str = "") -> Column:
    """Return a column of estimates with their 95 % intervals.

    Parameters
    ----------
    name
        Of the column of results.
    title
        Its head.
    digits
        Behind the point.
    low, high
        Columns of the ends; else ``<name>_low`` and ``<name>_high``.
    """
    ends = (low or f"{name}_low", high or f"{name}_high")
    return Column(title, lambda row: with_interval(row.get(name), *map(row.get, ends), digits))


def with_interval(value: Any, low: Any, high: Any, digits: int = 2) -> str:
    """Return an estimate with its interval as text.

    Examples
    --------
    >>> with_interval(1.234, 0.5, 2), with_interval(1.0, None, None), with_interval(None, 1, 2)
    ('1.23 (0.50 to 2.00)', '1.00', 'n/a')
    """
    shown = number(value, digits)
    ends = number(low, digits), number(high, digits)
    return shown if UNKNOWN in (shown, *ends) else f"{shown} ({ends[0]} to {ends[1]})"


def in_digits(value: Any) -> str:
    """Return a probability with two digits that tell something.

    Examples
    --------
    >>> in_digits(0.04567), in_digits(0.7), in_digits(3.2e-9), in_digits(float("nan"))
    ('0.046', '0.70', '3.2e-09', 'n/a')
    """
    if number(value) == UNKNOWN:
        return UNKNOWN
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def percent(share: float, digits: int = 0) -> str:
    """Return a share in percent.

    Examples
    --------
    >>> percent(0.1), percent(0.0251, 1)
    ('10 %', '2.5 %')
    """
    return f"{100 * share:.{digits}f} %"


def count(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> count(1, "run"), count(3, "run"), count(2, "body", "bodies")
    ('1 run', '3 runs', '2 bodies')
    """
    return f"{n} {one if n == 1 else many or one + 's'}"


def listed(words: Iterable[Any], most: int = 6) -> str:
    """Return words in a row, of many the first ones.

    Examples
    --------
    >>> listed("abc"), listed("abcdefgh", 3)
    ('a, b, c', 'a, b, c and 5 more')
    """
    known = list(map(str, words))
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def _words(value: Any) -> str:
    missing = value is None or (isinstance(value, (float, np.floating)) and not np.isfinite(value))
    return NOTHING if missing or value in ("", UNKNOWN) else str(value)
