"""The values that are analysed: chosen rows of all tables, with covariates and uncertainty.

One :class:`Series` holds the values of one region and method, as :mod:`sodiumprep.sodium.cohort`
takes them: of the standard uncertainty ``u``, ``u_shared`` (relaxation constants, width of the
point-spread function) moves all values alike, ``u_session`` (calibration, fields, anatomy) the
runs of a session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pandas as pd
import polars as pl

from sodiumprep.bids_app.group.covariates import Covariates
from sodiumprep.bids_app.group.facts import ANY
from sodiumprep.bids_app.group.model import Model
from sodiumprep.bids_app.group.tables import UNKNOWN, Gathered, as_pandas
from sodiumprep.sodium.cohort.values import SESSION_TERMS, SHARED_TERMS

RUN = ("participant_id", "session", "run")
NEVER_VALID = "registration_failed"  # such a value is of another place


@dataclass(frozen=True)
class Block:
    """Regions of one segmentation by one method, which are read at a time.

    Parameters
    ----------
    seg, pvc
        Segmentation and partial-volume correction.
    names
        Of the regions.
    """

    seg: str
    pvc: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """The values of one region by one method.

    Parameters
    ----------
    seg, name, pvc
        Which.
    table
        A row per value: ``participant_id session run value u u_shared u_session`` and the
        covariates.
    """

    seg: str
    name: str
    pvc: str
    table: pd.DataFrame

    @property
    def keys(self) -> dict[str, str]:
        """What its results begin with."""
        return {"seg": self.seg, "name": self.name, "pvc": self.pvc}


@dataclass(frozen=True)
class Cohort:
    """What the analyses read from.

    Parameters
    ----------
    gathered
        All regional tables.
    covariates
        What is known of people.
    model
        What is asked.
    left_out
        ``participant_id session run reason`` of runs that the model excludes.
    participants
        Everybody who has a table.
    """

    gathered: Gathered
    covariates: Covariates
    model: Model
    left_out: pl.DataFrame
    participants: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen for the user, and what was made of odd cells."""
        return (*self.model.words, *self.covariates.notes)

    def blocks(self, size: int) -> list[Block]:
        """Return all regions in portions.

        Parameters
        ----------
        size
            Most regions of a portion.
        """
        rows = self._rows().select("seg", "name", "pvc", "index")
        found = rows.unique().sort("seg", "pvc", "index", "name").collect()
        blocks = []
        for (seg, pvc), own in found.group_by("seg", "pvc", maintain_order=True):
            names = list(dict.fromkeys(own["name"]))
            parts = [names[k : k + size] for k in range(0, len(names), size)]
            blocks += [Block(str(seg), str(pvc), tuple(part)) for part in parts]
        return blocks

    def regions(self, seg: str) -> list[str]:
        """Return the regions of a segmentation, by index.

        Parameters
        ----------
        seg
            The segmentation.
        """
        rows = self._rows().filter(pl.col("seg") == seg).select("index", "name").unique()
        return list(dict.fromkeys(rows.sort("index", "name").collect()["name"]))

    def methods(self, seg: str) -> list[str]:
        """Return the partial-volume corrections of a segmentation, none first.

        Parameters
        ----------
        seg
            The segmentation.
        """
        found = self._rows().filter(pl.col("seg") == seg).select("pvc").unique().collect()
        return sorted(found["pvc"], key=lambda pvc: (pvc != "none", pvc))

    def read(self, block: Block) -> Iterator[Series]:
        """Yield the values of each region of a block.

        Parameters
        ----------
        block
            What to read.
        """
        own = (pl.col("seg") == block.seg) & (pl.col("pvc") == block.pvc)
        rows = self._rows().filter(own & pl.col("name").is_in(block.names))
        uncertain = _uncertainties(self.gathered.columns)
        values = rows.select(*RUN, "name", pl.col("mean").alias("value"), *uncertain).collect()
        known = self.covariates.table
        joined = values.join(known, on=["participant_id", "session"], how="left",
                             maintain_order="left")  # fmt: skip
        parts = joined.partition_by("name", as_dict=True, include_key=False)
        for name in block.names:
            if (name,) in parts:
                yield Series(block.seg, name, block.pvc, as_pandas(parts[name,]))

    def rows(self) -> pl.LazyFrame:
        """Return the rows that the model takes."""
        return self._rows()

    def _rows(self) -> pl.LazyFrame:
        content = self.model.content
        rows = self.gathered.scan().filter(pl.col("desc") == "corrected")
        wanted = content.get("Input", {})
        for column in ("rec", "acq"):
            if column in self.gathered.columns:
                default = UNKNOWN if column == "rec" else wanted.get(column)
                label = wanted.get(column, default)
                rows = rows if label is None else rows.filter(pl.col(column) == label)
        for column in ("seg", "name", "pvc", "session"):
            if column in wanted:
                rows = rows.filter(pl.col(column).is_in(wanted[column]))
        exclude = content.get("Exclude", {})
        rows = rows.filter(~_flagged(exclude.get("flag", [])))
        if "coverage" in exclude:
            rows = rows.filter(pl.col("coverage").fill_null(1.0) >= exclude["coverage"])
        if self.left_out.height:
            rows = rows.join(self.left_out.lazy(), on=list(RUN), how="anti")
        return rows.filter(pl.col("mean").is_not_null())


def left_out(
    measured: pl.DataFrame, quality: pd.DataFrame, exclude: Mapping[str, Any]
) -> pl.DataFrame:
    """Return the runs that a model excludes as a whole, with the reason.

    Parameters
    ----------
    measured
        ``participant_id session run`` of all runs.
    quality
        One row per run, with the same columns and the figures.
    exclude
        Section ``Exclude`` of the model.

    Returns
    -------
    table
        ``participant_id session run reason``.
    """
    labels = {label.removeprefix("sub-") for label in exclude.get("participant_id", ())}
    plain = pl.col("participant_id").str.strip_prefix("sub-")
    named = measured.filter(plain.is_in(sorted(labels)))
    found = [named.with_columns(pl.lit("named by the model").alias("reason"))]
    for column, (low, high) in exclude.get("quality", {}).items():
        figures = pd.to_numeric(quality[column], errors="coerce")
        outside = (figures < low if low is not None else False) | (
            figures > high if high is not None else False
        )
        chosen = pl.DataFrame(quality.loc[outside, list(RUN)].astype(str).to_dict("list"))
        texts = [f"{column} is {value:g}" for value in figures[outside]]
        found.append(chosen.with_columns(pl.Series("reason", texts, dtype=pl.String)))
    schema = dict.fromkeys((*RUN, "reason"), pl.String)
    table = pl.concat(
        [pl.DataFrame(schema=schema), *(f.select(*schema).cast(schema) for f in found)]
    )
    return table.group_by(*RUN, maintain_order=True).agg(pl.col("reason").str.join("; "))


def without_values(gathered: Gathered, exclude: Mapping[str, Any]) -> pl.DataFrame:
    """Return the runs of which no value can be used, whatever is asked, with the reason.

    Parameters
    ----------
    gathered
        All regional tables.
    exclude
        Section ``Exclude`` of the model.

    Returns
    -------
    table
        ``participant_id session run reason``.
    """
    known, flagged = pl.col("mean").is_not_null(), _flagged(exclude.get("flag", []))
    runs = gathered.scan().filter(pl.col("desc") == "corrected").group_by(*RUN)
    told = runs.agg(
        (known & ~flagged).any().alias("usable"),
        known.any().alias("known"),
        pl.col("flag").filter(flagged).unique().sort().str.join(", ").alias("flags"),
    )
    words = pl.concat_str(pl.lit("every value is flagged: "), pl.col("flags"))
    reason = pl.when(pl.col("known")).then(words).otherwise(pl.lit("no value could be determined"))
    bare = told.filter(~pl.col("usable")).with_columns(reason.alias("reason"))
    return bare.select(*RUN, "reason").sort(*RUN).collect()


def _flagged(words: Sequence[str]) -> pl.Expr:
    """Tell which rows carry a flag that excludes them; a wrong position always does."""
    flag = pl.col("flag").fill_null("")
    if ANY in words:
        return flag != ""
    held = flag.str.split(",").list.eval(pl.element().str.strip_chars())
    return reduce(
        lambda found, word: found | held.list.contains(word), words,
        held.list.contains(NEVER_VALID),
    )  # fmt: skip


def _uncertainties(columns: Sequence[str]) -> list[pl.Expr]:
    """Return the whole uncertainty of each value, and what it shares with others."""
    kinds = {"u_shared": SHARED_TERMS, "u_session": SESSION_TERMS}
    parts = [_root([t for t in terms if t in columns]).alias(n) for n, terms in kinds.items()]
    return [pl.col("uncertainty").alias("u"), *parts]


def _root(terms: Sequence[str]) -> pl.Expr:
    squares = (pl.col(term).fill_null(0.0) ** 2 for term in terms)
    return reduce(lambda total, square: total + square, squares, pl.lit(0.0)).sqrt()
