"""The relaxation constants of a run: the user's, laid over the built-in ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.metadata import RELAXATION_KEYS, UserError
from sodiumprep.bids_app.relaxation import (
    KEYS,
    OF_SHORT,
    SOURCE,
    TISSUES,
    UNCERTAINTY,
    Row,
    load_relaxation,
)
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import Relaxation

FIELDS = {  # key of the file -> field
    "T1": "t1",
    "T2starShort": "t2_short",
    "T2starLong": "t2_long",
    "ShortFraction": "short_fraction",
}
GIVEN_BY_USER = "given by the user"


def relaxation_fields(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return constants and their uncertainties by field instead of by key.

    Examples
    --------
    >>> relaxation_fields({"T1": 0.04, "T1Uncertainty": 0.002, "Source": "own"})
    {'t1': 0.04, 'u_t1': 0.002}
    """
    return {_field(key): value for key, value in keys.items() if key != SOURCE}


def _field(key: str) -> str:
    if key.endswith(UNCERTAINTY):
        return f"u_{FIELDS[key.removesuffix(UNCERTAINTY)]}"
    return FIELDS[key]


def relaxation_constants(
    names: Sequence[str], field_strength: float | None, path: Path | None
) -> dict[str, Relaxation]:
    """Return the constants of tissues and lesions: the user's, else the built-in ones.

    Parameters
    ----------
    names
        Classes of lesions, beside all tissues.
    field_strength
        [T], or None where a file stands in for the table.
    path
        The user's file, or None.

    Returns
    -------
    constants
        By tissue and class. What a row leaves out is what it would be without that row: of a
        class of lesion or the vitreous humour that of its tissue, the user's if there is one.

    Raises
    ------
    UserError
        As :func:`load_relaxation`; or if a row leaves something out that is not built in, or
        makes no sense together with what it leaves out.
    ValueError
        If there are neither constants of the user nor built-in ones.
    """
    rows = {} if path is None else load_relaxation(path)
    known: dict[str, Relaxation] = {}
    for name in dict.fromkeys((*TISSUES, *names)):
        base, why = _without_row(name, field_strength, known)
        if name in rows:
            known[name] = _laid_over(base, rows[name], f"{path}: {name}", why)
        elif base is not None:
            known[name] = base
        else:
            raise ValueError(why)
    return known


def _without_row(
    name: str, field_strength: float | None, known: Mapping[str, Relaxation]
) -> tuple[Relaxation | None, str]:
    """Return the constants that hold without a row, or None and why there are none."""
    try:
        return relaxation_of(name, field_strength or 0.0, known), ""
    except ValueError as error:
        if field_strength is not None:
            return None, str(error)
        return None, f"not stated, so {name} is to be given whole with --relaxation FILE"


def vial_constants(vials: Iterable[Mapping[str, Any]], path: Path | None) -> dict[str, Relaxation]:
    """Return the constants of vials: those of ``CalibrationVials``, and the user's over them.

    Parameters
    ----------
    vials
        Their entries; the name begins with the number of the vial.
    path
        The user's file, or None. Its rows mean the name with or without the number.

    Returns
    -------
    constants
        By numbered name; without the user's word they are taken for exact.

    Raises
    ------
    UserError
        As :func:`relaxation_constants`.
    """
    rows = {} if path is None else load_relaxation(path)
    constants = {}
    for vial in vials:
        name = vial["name"]
        base = Relaxation(
            t1=vial["t1"],
            t2_short=vial["t2_short"] or vial["t2_long"],
            t2_long=vial["t2_long"],
            short_fraction=vial["short_fraction"],
            source="CalibrationVials",
        )
        key = next((n for n in (name, _plain(name)) if n in rows and n not in TISSUES), None)
        constants[name] = base if key is None else _laid_over(base, rows[key], f"{path}: {key}")
    return constants


def unused_rows(path: Path | None, used: Iterable[str]) -> list[str]:
    """Return the rows of a file that name nothing of a run.

    Parameters
    ----------
    path
        The user's file, or None.
    used
        Classes of lesions, and vials by their numbered name.

    Returns
    -------
    names
        Beside the tissues, which every run has.
    """
    if path is None:
        return []
    known = {*TISSUES, *used, *map(_plain, used)}
    return [name for name in load_relaxation(path) if name not in known]


def _plain(name: str) -> str:
    """Return a vial's name without its number."""
    number, _, rest = name.partition(" ")
    return rest if number.isdigit() and rest else name


def _laid_over(base: Relaxation | None, row: Row, where: str, why: str = "") -> Relaxation:
    """Return a row's constants; what it leaves out comes from those without it."""
    given = relaxation_fields(row)
    fraction = given.get("short_fraction", base.short_fraction if base else 1.0)
    having = [key for key in RELAXATION_KEYS if fraction > 0 or key not in OF_SHORT]
    lacking = [key for key in having if key not in row]
    needed = having if base is None else OF_SHORT if base.short_fraction == 0 < fraction else ()
    for key in needed:
        if key in lacking:
            reason = why or "the constants without this row have no short component"
            raise UserError(
                f"{where}: {key} is missing ({reason}); accepted: {KEYS[key].accepted}"
            )
    if fraction == 0:
        given |= {"t2_short": given.get("t2_long", base.t2_long if base else 0.0)}
        given |= {"u_t2_short": 0.0, "u_short_fraction": 0.0}
    source = f"{row[SOURCE]} ({GIVEN_BY_USER})" if SOURCE in row else GIVEN_BY_USER
    if base is None:
        made = Relaxation(**given, source=source)
    else:
        rest = f"; else {base.source}" if lacking else ""
        made = replace(base, **given, source=f"{source}{rest}")
    if fraction > 0 and made.t2_short > made.t2_long:
        raise UserError(
            f"{where}: T2starShort is {made.t2_short:g} s; accepted: at most T2starLong "
            f"({made.t2_long:g} s)"
        )
    return made
