"""Tables of measurements of one region: what they must hold, and what their errors share.

A table of *values* has one row per measurement of one region by one method: ``participant_id``,
``session`` and ``run`` (text, ``n/a`` where there is none), ``value`` [mmol/L], ``u`` (its
standard uncertainty [mmol/L], may be nan or missing) and covariates. Two optional columns tell
what part of ``u`` measurements have in common:

``u_shared``
    common to every measurement of the cohort (assumed constants): differences do not feel it;
``u_session``
    common to the runs of a scan session alone (its calibration): averages of runs keep it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Floats, Integers

KEYS = ["participant_id", "session", "run"]
UNKNOWN = "n/a"
SHARED_TERMS = ("u_relaxation", "u_pvc")  # constants and kernel are the same in every subject
SESSION_TERMS = ("u_calibration", "u_receive", "u_b1", "u_segmentation")  # fields and anatomy
UNUSABLE = ("registration_failed",)  # flags of values that mean nothing
BEGINNINGS = {"pre", "before", "baseline", "base", "bl", "screening"}  # sessions before others
SAME = 1e-9  # relative range below which an outcome is constant: rounding


def values_of(
    table: pd.DataFrame,
    shared: Sequence[str] = SHARED_TERMS,
    session: Sequence[str] = SESSION_TERMS,
    unusable: Sequence[str] = UNUSABLE,
) -> pd.DataFrame:
    """Return a table of regions in the convention of values.

    Parameters
    ----------
    table
        Columns of ``group_TSC.tsv``, as text or numbers: ``mean`` and ``uncertainty`` [mmol/L].
    shared
        Terms of uncertainty that are common to every measurement.
    session
        Terms that are common to the runs of a session.
    unusable
        Flags whose rows lose their value.

    Returns
    -------
    values
        The same rows with ``value``, ``u``, ``u_shared`` and ``u_session`` in place of ``mean``
        and ``uncertainty``; ``n/a`` is nan.

    Examples
    --------
    >>> row = {"mean": ["40.0"], "uncertainty": ["2.0"], "u_relaxation": ["1.2"], "flag": ["n/a"]}
    >>> values_of(pd.DataFrame(row))[["value", "u", "u_shared"]].to_numpy().tolist()
    [[40.0, 2.0, 1.2]]
    """
    values = table.drop(columns=["mean", "uncertainty"])
    values["value"] = numbers(table["mean"])
    values["u"] = numbers(table["uncertainty"])
    for name, terms in (("u_shared", shared), ("u_session", session)):
        squares = [term(table, each) ** 2 for each in terms]
        values[name] = np.sqrt(np.sum(squares, axis=0)) if squares else 0.0
    if "flag" in table:
        values.loc[_flagged(table["flag"], unusable), "value"] = np.nan
    return values


def _flagged(flags: pd.Series, words: Sequence[str]) -> pd.Series:
    found = {flag: bool(set(str(flag).split(",")) & set(words)) for flag in flags.unique()}
    return flags.map(found).astype(bool)


def numbers(column: pd.Series) -> pd.Series:
    """Return a column as numbers; what is none is nan, and a final ``+`` (age 89+) is dropped.

    Examples
    --------
    >>> numbers(pd.Series(["34", "89+", "n/a"])).tolist()
    [34.0, 89.0, nan]
    """
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(float)
    return pd.to_numeric(column.astype(str).str.rstrip("+"), errors="coerce").astype(float)


def usable_rows(values: pd.DataFrame, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Return the rows that have a value and all covariates.

    Parameters
    ----------
    values
        Table of values; ``session`` and ``run`` may be missing.
    columns
        Covariates that a row must have.

    Returns
    -------
    rows
        With ``session``, ``run`` and ``u`` (nan where not known).

    Raises
    ------
    ValueError
        If a column is missing, a measurement stands there twice, no row is left, or all values
        are the same number.
    """
    missing = [name for name in ("participant_id", "value", *columns) if name not in values]
    if missing:
        raise ValueError(
            f"no column {missing[0]}; there are {', '.join(map(str, values.columns))}"
        )
    value = numbers(values["value"]).to_numpy()
    known = np.isfinite(value) & values["participant_id"].notna().to_numpy()
    for name in columns:
        known &= _stated(values[name])
    rows = values[known].reset_index(drop=True)
    rows["value"] = value[known]
    rows["u"] = numbers(rows["u"]) if "u" in rows else np.nan
    for key in KEYS[1:]:
        rows[key] = rows[key].fillna(UNKNOWN) if key in rows else UNKNOWN
    _refuse_unusable(rows, len(values))
    return rows


def _stated(column: pd.Series) -> NDArray[np.bool_]:
    return np.asarray(column.notna() & (column != UNKNOWN))


def without_covariates(values: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Return in words who has a value, but not the covariates that a model needs.

    Parameters
    ----------
    values
        Table of values.
    columns
        Covariates that a row must have, all of them there.

    Examples
    --------
    >>> who = {"participant_id": ["a", "b"], "value": [40.0, 42.0], "sex": ["F", "n/a"]}
    >>> without_covariates(pd.DataFrame(who), ["sex"])
    ['sex of 1 subject is not known: left out']
    """
    measured = np.isfinite(numbers(values["value"]).to_numpy())
    words = []
    for name in columns:
        gone = values["participant_id"][measured & ~_stated(values[name])].nunique()
        if gone:
            words.append(f"{name} of {gone} subject{'s' * (gone > 1)} is not known: left out")
    return words


def _refuse_unusable(rows: pd.DataFrame, given: int) -> None:
    if rows.empty:
        raise ValueError(f"none of {given} rows has a value and all covariates")
    twice = rows[rows.duplicated(KEYS)]
    if len(twice):
        raise ValueError(f"measurement {tuple(twice.iloc[0][KEYS])} stands there twice")
    if len(rows) > 1 and np.ptp(rows["value"]) <= SAME * np.abs(rows["value"]).max():
        raise ValueError(f"value is {rows['value'].iloc[0]:g} in all {len(rows)} rows")


def own_variance(rows: pd.DataFrame, without_session: bool = False) -> Floats:
    """Return the square of what in each uncertainty is not shared.

    Parameters
    ----------
    rows
        Columns ``u`` and, where there are any, ``u_shared`` and ``u_session`` [mmol/L].
    without_session
        Whether to leave out what the runs of a session share, too.

    Returns
    -------
    variance
        [(mmol/L)^2], nan where ``u`` is not known.
    """
    variance = numbers(rows["u"]).to_numpy() ** 2
    for name in ("u_shared", "u_session") if without_session else ("u_shared",):
        variance = variance - term(rows, name) ** 2
    return np.maximum(variance, 0.0)


def own_uncertainty(rows: pd.DataFrame) -> Floats:
    """Return the standard uncertainty without what all values of the cohort share.

    An assumed constant moves all values together: it neither scatters them about a line nor
    moves a subject against its reference.

    Parameters
    ----------
    rows
        Columns ``u`` and ``u_shared`` [mmol/L], where there are any.

    Returns
    -------
    u
        Shape (rows,) [mmol/L]; nan where ``u`` is not known or there is no such column.

    Examples
    --------
    >>> own_uncertainty(pd.DataFrame({"u": [5.0, 3.0], "u_shared": [4.0, np.nan]})).tolist()
    [3.0, 3.0]
    """
    return np.sqrt(own_variance(rows)) if "u" in rows else np.full(len(rows), np.nan)


def term(rows: pd.DataFrame, name: str) -> Floats:
    """Return a term of the uncertainty [mmol/L], zero where it is not given."""
    if name not in rows:
        return np.zeros(len(rows))
    return np.asarray(numbers(rows[name]).fillna(0.0))


def session_means(values: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the runs of each session.

    Parameters
    ----------
    values
        Table of values.

    Returns
    -------
    means
        One row per participant and session: ``value``, ``u_own`` (not shared with another
        session), ``u_shared``, ``u`` [mmol/L], ``n_runs``, and the first entry of every other
        column.

    Examples
    --------
    >>> runs = {"participant_id": ["a", "a"], "run": ["1", "2"], "value": [40.0, 42.0], "u": 2.0}
    >>> session_means(pd.DataFrame(runs))[["value", "u", "n_runs"]].round(3).to_numpy().tolist()
    [[41.0, 1.414, 2.0]]
    """
    rows = usable_rows(values)
    codes = rows.groupby(KEYS[:2], sort=True).ngroup().to_numpy()
    first, count = np.unique(codes, return_index=True, return_counts=True)[1:]

    def mean(entries: Floats) -> Floats:
        return np.asarray(np.bincount(codes, entries) / count)

    own = mean(own_variance(rows, without_session=True)) / count
    own = np.sqrt(own + mean(term(rows, "u_session")) ** 2)
    shared = mean(term(rows, "u_shared"))
    found = {"value": mean(rows["value"].to_numpy()), "u": np.hypot(own, shared)}
    means = rows.iloc[first].drop(columns="run").reset_index(drop=True)
    return means.assign(**found, u_own=own, u_shared=shared, n_runs=count)


def label_rank(label: str) -> tuple[bool, str, int, str]:
    """Return what sorts labels of sessions: those of a beginning, then by words and numbers.

    Examples
    --------
    >>> sorted(["post", "10", "9", "pre"], key=label_rank)
    ['pre', '9', '10', 'post']
    >>> sorted(["m12", "m0", "m3"], key=label_rank)
    ['m0', 'm3', 'm12']
    """
    word, number, rest = re.fullmatch(r"(\D*)(\d*)(.*)", label, re.DOTALL).groups()  # type: ignore[union-attr]
    return label.lower() not in BEGINNINGS, word, int(number or -1), rest


def in_order(labels: pd.Series) -> Integers:
    """Return the order of rows by their labels, rows of the same label as they stand."""
    ranks = {label: rank for rank, label in enumerate(sorted(labels.unique(), key=label_rank))}
    return np.argsort(labels.map(ranks).to_numpy(), kind="stable")
