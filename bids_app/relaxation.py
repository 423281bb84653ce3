"""Reading the user's relaxation constants: JSON or TSV, checked key by key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.metadata import (
    RELAXATION_KEYS,
    RELAXATION_TIMES,
    SHORT_FRACTION,
    Key,
    UserError,
    read_text,
)

TISSUES = ("GM", "WM", "CSF", "muscle", "vitreous")
NAME, SOURCE, UNCERTAINTY = "Name", "Source", "Uncertainty"
OF_SHORT = ("T2starShort", "T2starShortUncertainty", "ShortFractionUncertainty")
NAMED = "a tissue, a vial or a class of lesion"
EXAMPLE = '{"GM": {"T1": 0.037, ...}, ...}'
KEYS = {
    **RELAXATION_TIMES,
    SHORT_FRACTION.name: SHORT_FRACTION,
    **{
        name + UNCERTAINTY: Key(name + UNCERTAINTY, key.unit, 0.0, key.high, key.hint)
        for name, key in (*RELAXATION_TIMES.items(), (SHORT_FRACTION.name, SHORT_FRACTION))
    },
}
Row = dict[str, Any]  # numbers by key, and the text of Source


class _Pairs(list[tuple[str, Any]]):
    """An object of a JSON file as it stands there, with what stands there twice."""


def load_relaxation(path: Path) -> dict[str, Row]:
    """Return the relaxation constants of a file: tissue, vial or class of lesion, then key.

    Parameters
    ----------
    path
        ``.json``: an object by name of objects by key; ``.tsv``: a row each, under ``Name`` and
        the keys, with ``n/a`` where nothing is stated. Times in s.

    Returns
    -------
    rows
        Numbers by key, and ``Source``; what is not stated is absent.

    Raises
    ------
    UserError
        If the file cannot be read, a name or key is not known or stands there twice, or a value
        is implausible; it names file, row and key.
    """
    if path.suffix.lower() not in (".json", ".tsv"):
        raise UserError(f"{path}: is neither .json nor .tsv; accepted: a file of one of the two")
    text = _read_text(path)
    named = _rows_of_table(text, path) if path.suffix.lower() == ".tsv" else _objects(text, path)
    if not named:
        raise UserError(f"{path}: names no tissue; accepted: {EXAMPLE} or a row for each")
    rows: dict[str, Row] = {}
    for name, keys in named:
        where = f"{path}: {name}"
        _check_name(name, rows, path)
        rows[name] = _read_row(keys, where)
    return rows


def _read_text(path: Path) -> str:
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path}: is empty; accepted: {EXAMPLE} or a row for each tissue")
    return text


def _objects(text: str, path: Path) -> list[tuple[str, _Pairs]]:
    try:
        content = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(content, _Pairs):
        raise UserError(f"{path}: holds no object; accepted: {EXAMPLE}")
    for name, keys in content:
        if not isinstance(keys, _Pairs):
            raise UserError(f"{path}: {name}: is no object; accepted: {EXAMPLE}")
    return list(content)


def _rows_of_table(text: str, path: Path) -> list[tuple[str, _Pairs]]:
    head, *lines = ([cell.strip() for cell in line.split("\t")] for line in text.splitlines())
    if NAME not in head:
        hint = " (columns are separated by tabs)" if len(head) == 1 else ""
        raise UserError(f"{path}: line 1: column {NAME} is missing{hint}")
    for column in head:
        if head.count(column) > 1:
            raise UserError(f"{path}: line 1: column {column} stands there twice")
    _refuse_unknown([column for column in head if column != NAME], f"{path}: line 1")
    rows = []
    for number, cells in enumerate(lines, start=2):
        if not any(cells):
            continue
        if len(cells) != len(head):
            raise UserError(
                f"{path}: line {number}: {len(cells)} columns; accepted: {len(head)}, as in line 1"
            )
        row = dict(zip(head, cells, strict=True))
        name = row.pop(NAME)
        if not name:
            raise UserError(f"{path}: line {number}: {NAME} is empty; accepted: {NAMED}")
        stated = _Pairs((k, _cell(k, v)) for k, v in row.items() if v.lower() not in ("", "n/a"))
        rows.append((name, stated))
    return rows


def _cell(key: str, text: str) -> str | float:
    if key == SOURCE or "_" in text:  # Python would read 1_0 as a number
        return text
    try:
        return float(text)
    except ValueError:
        return text


def read_relaxation_uncertainties(keys: Mapping[str, Any], where: str) -> dict[str, float]:
    """Return the standard uncertainties of relaxation constants that are stated.

    Raises
    ------
    UserError
        If one is implausible.
    """
    found = {name: KEYS[name].read_optional(keys, where) for name in KEYS if UNCERTAINTY in name}
    return {name: number for name, number in found.items() if number is not None}


def _check_name(name: str, rows: Mapping[str, Row], path: Path) -> None:
    if not name.strip() or not name.isprintable():
        raise UserError(f"{path}: a name is {json.dumps(name)}; accepted: {NAMED}")
    if name in rows:
        raise UserError(f"{path}: {name}: stands there twice; accepted: once")
    for tissue in TISSUES:
        if name != tissue and name.strip().lower() == tissue.lower():
            raise UserError(f"{path}: {name}: is not known; accepted: {tissue}")


def _refuse_unknown(names: Iterable[str], where: str) -> None:
    accepted = (*RELAXATION_KEYS, SOURCE)
    for name in names:
        if name not in accepted:
            close = difflib.get_close_matches(name, accepted, n=1, cutoff=0.8)
            shown = close[0] if close else ", ".join(accepted)
            raise UserError(f"{where}: {name} is not known; accepted: {shown}")


def _read_row(pairs: _Pairs, where: str) -> Row:
    keys = dict(pairs)
    _refuse_unknown(keys, where)
    twice = next((name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1), None)
    if twice:
        raise UserError(f"{where}: {twice} stands there twice; accepted: once")
    if keys.get("ShortFraction") == 0:  # the short time has no effect: what stands there is
        keys = {name: value for name, value in keys.items() if name not in OF_SHORT}  # passed over
    row: Row = {}
    for name in RELAXATION_KEYS:
        number = KEYS[name].read_optional(keys, where)
        if number is not None:
            row[name] = number
    if not row:
        raise UserError(f"{where}: states no constant; accepted: {', '.join(RELAXATION_KEYS)}")
    source = keys.get(SOURCE)
    if source is not None:
        if not isinstance(source, str):
            raise UserError(f"{where}: {SOURCE} is no text; accepted: text")
        row[SOURCE] = source
    return row
