"""What the report of a cohort tells, and which of its rows are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl

from sodiumprep.bids_app.group.tables import UNKNOWN, as_pandas
from sodiumprep.bids_app.group.values import RUN, Block, Cohort
from sodiumprep.bids_app.names import DatasetNames

EVERYBODY = "all"
GROUPS = ("group", "diagnosis")  # columns that tell who is compared with whom
UNCORRECTED, USUAL = "none", "gtm"
TISSUE = "tissue"  # the segmentation that is always shown
NUMBERS = ["index", "mean", "ci_low", "ci_high", "uncertainty"]
MOST_REGIONS = 12  # of the tissue table that have a panel of their own
MOST_OTHERS = 10  # regions of atlases in a table, those with the smallest q
LABELS = {"none": "uncorrected", "labbe": "Labbé", "kspace": "k-space", "regression": "regression"}


@dataclass(frozen=True)
class Shown:
    """What the report of a cohort tells.

    Parameters
    ----------
    cohort
        What was gathered and asked.
    quality
        One row per run.
    missing
        Who has no values, and why.
    evidence
        Tables of results by name.
    notes
        What was chosen for the user.
    seed
        Of everything random.
    """

    cohort: Cohort
    quality: pd.DataFrame
    missing: pd.DataFrame
    evidence: Mapping[str, pd.DataFrame]
    notes: Sequence[str]
    seed: int = 0

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of results, an empty one where there is none.

        Parameters
        ----------
        name
            Such as ``effects``.
        """
        return self.evidence.get(name, pd.DataFrame())

    @property
    def group_column(self) -> str | None:
        """Column that tells the groups."""
        known = self.cohort.covariates.table.columns
        return next((c for c in known if c.lower() in GROUPS), None)


@dataclass(frozen=True)
class Places:
    """Where the report lies, and what lies beside it.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    """

    out_dir: Path

    def figure(self, name: str) -> Path:
        """Return where a figure is saved.

        Parameters
        ----------
        name
            What it shows.
        """
        return DatasetNames(self.out_dir).group_dir / "figures" / f"group_{name}.svg"

    def source(self, name: str) -> str:
        """Return where a table of results lies, relative to the report.

        Parameters
        ----------
        name
            Such as ``effects``.
        """
        return DatasetNames(self.out_dir).group_result(name).relative_to(self.out_dir).as_posix()

    def report(self, participant: str) -> str:
        """Return where the report of a participant lies, relative to that of the cohort.

        Parameters
        ----------
        participant
            With ``sub-``; nothing is returned where there is no report.
        """
        name = f"{participant}.html"
        return name if (self.out_dir / name).is_file() else ""


def tissue_values(cohort: Cohort) -> pd.DataFrame:
    """Return the relaxation-corrected values of tissues and lesions of every run.

    Parameters
    ----------
    cohort
        What was gathered and asked.

    Returns
    -------
    values
        With a column ``group``, which is ``all`` where participants have none, and ``out``, which
        tells values that the model leaves out.
    """
    rows = cohort.gathered.scan().filter(
        (pl.col("seg") == TISSUE) & (pl.col("desc") == "corrected")
    )
    extra = [key for key in ("rec", "acq") if key in cohort.gathered.columns]
    held = rows.select("pvc").unique().collect()["pvc"].to_list()
    rows = rows.filter(pl.col("pvc").is_in(shown_methods(held)))
    values = rows.select(*RUN, *extra, "name", "pvc", "flag", *NUMBERS).collect()
    values = _marked(values, cohort)
    joined = values.join(groups_of(cohort), on=["participant_id", "session"], how="left")
    return as_pandas(joined.sort("index", *RUN, maintain_order=True))


def taken(values: pd.DataFrame) -> pd.DataFrame:
    """Return the values that the model takes.

    Parameters
    ----------
    values
        What :func:`tissue_values` returns.
    """
    return values[~values["out"].astype(bool)]


def atlas_values(cohort: Cohort, effects: pd.DataFrame, most: int = 4) -> pd.DataFrame:
    """Return the values of the regions of atlases that differ most clearly.

    Parameters
    ----------
    cohort
        What was gathered and asked.
    effects
        With ``q``.
    most
        Regions.

    Returns
    -------
    values
        ``participant_id session run name pvc mean group``; no rows where no region has a ``q``.
    """
    own = effects[effects["seg"] != TISSUE] if "q" in effects else effects.iloc[:0]
    best = own.dropna(subset=["q"]).sort_values("q") if len(own) else own
    regions = best.drop_duplicates(["seg", "name"]).head(most) if len(best) else best
    parts = [
        series.table.assign(name=f"{series.name} ({series.seg})", pvc=series.pvc)
        for seg, rows in (regions.groupby("seg", sort=False) if len(regions) else ())
        for pvc in shown_methods(cohort.methods(str(seg)))
        for series in cohort.read(Block(str(seg), pvc, tuple(rows["name"])))
    ]
    if not parts:
        return pd.DataFrame()
    values = pd.concat(parts, ignore_index=True).rename(columns={"value": "mean"})
    groups = as_pandas(groups_of(cohort))
    kept = values[[*RUN, "name", "pvc", "mean"]]
    return kept.merge(groups, on=["participant_id", "session"], how="left")


def shown_methods(held: Sequence[str]) -> list[str]:
    """Return the two methods that are compared: without correction, and the usual one.

    Parameters
    ----------
    held
        Partial-volume corrections that there are.

    Examples
    --------
    >>> shown_methods(["rbv", "none", "gtm"]), shown_methods(["none", "rl", "iy"])
    (['none', 'gtm'], ['none', 'iy'])
    """
    others = sorted(set(held) - {UNCORRECTED})
    main = USUAL if USUAL in others else next(iter(others), None)
    return [*([UNCORRECTED] if UNCORRECTED in held else []), *([main] if main else [])]


def method_label(pvc: str) -> str:
    """Return how a correction is called on a figure.

    Examples
    --------
    >>> method_label("none"), method_label("gtm"), method_label("labbe")
    ('uncorrected', 'GTM', 'Labbé')
    """
    return LABELS.get(pvc, pvc.upper())


def of_tissues(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of tissues and lesions by the methods that are shown.

    Parameters
    ----------
    table
        Of results, with ``pvc`` and ``seg`` or without it.
    """
    if not len(table):
        return table
    kept = table[table["pvc"].isin(shown_methods(list(table["pvc"].unique())))]
    own = kept[kept["seg"] == TISSUE] if "seg" in kept else kept
    return side_by_side(own if len(own) else kept)


def with_best_others(table: pd.DataFrame, most: int = MOST_OTHERS) -> pd.DataFrame:
    """Return the rows of tissues, and those of the other regions with the smallest q.

    Parameters
    ----------
    table
        Of effects.
    most
        Further regions of each contrast.
    """
    kept = table[table["pvc"].isin(shown_methods(list(table["pvc"].unique())))]
    others = kept[kept["seg"] != TISSUE]
    if "q" not in kept or not len(others):
        return of_tissues(table)
    main = others[others["pvc"] == shown_methods(list(others["pvc"].unique()))[-1]]
    best = main.dropna(subset=["q"]).sort_values("q", kind="stable")
    keys = ["contrast", "seg", "name"]
    chosen = others.merge(best.groupby("contrast").head(most)[keys], on=keys)
    return side_by_side(pd.concat([kept[kept["seg"] == TISSUE], chosen], ignore_index=True))


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the methods of a region after each other, uncorrected first.

    Parameters
    ----------
    table
        Of results; regions and contrasts keep their order.
    """
    named = ("contrast", "comparison", "seg", "name", "positive", "design")
    keys = [c for c in named if c in table]
    ranks = {f"_{c}": pd.factorize(table[c])[0] for c in keys}
    ranks["_pvc"] = (table["pvc"] != UNCORRECTED).to_numpy()
    return table.assign(**ranks).sort_values(list(ranks), kind="stable").drop(columns=list(ranks))


def answered(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows that hold a number.

    Parameters
    ----------
    table
        Of results.
    column
        Where the number is; a table without it has no such rows.
    """
    return table[table[column].notna()] if column in table else table.iloc[:0]


def unanswered(table: pd.DataFrame, column: str) -> list[str]:
    """Return what regions could not tell, each reason once with its regions.

    Parameters
    ----------
    table
        Of results, with ``name`` and, where something could not be told, ``notes``.
    column
        Whose number is missing then.
    """
    if "notes" not in table:
        return []
    rows = table[table[column].isna()] if column in table else table
    rows = rows[rows["notes"].notna() & (rows["notes"] != "")]
    key = "name" if "name" in rows else "comparison"
    reasons = rows.groupby("notes", sort=False)[key].unique()
    return [f"{_some(list(names))}: {reason}" for reason, names in reasons.items()]


def where_all_are(table: pd.DataFrame, shown: pd.DataFrame, place: str) -> str:
    """Return the note that says where the rows are that are not shown.

    Parameters
    ----------
    table
        All rows.
    shown
        Those in the page.
    place
        The file.
    """
    if len(shown) == len(table):
        return f"All numbers with more digits: {place}."
    return f"{len(shown)} of {len(table)} rows are shown; all of them: {place}."


def groups_of(cohort: Cohort) -> pl.DataFrame:
    """Return ``group`` of each participant and session, ``all`` where there are none.

    Parameters
    ----------
    cohort
        What was gathered and asked.
    """
    known = cohort.covariates.table
    column = next((c for c in known.columns if c.lower() in GROUPS), None)
    found = pl.lit(EVERYBODY) if column is None else pl.col(column).cast(pl.String)
    named = found.fill_null(UNKNOWN)
    return known.select("participant_id", "session", named.alias("group"))


def _some(names: list[Any], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def _marked(values: pl.DataFrame, cohort: Cohort) -> pl.DataFrame:
    """Return values with ``out``: whether the model leaves the value out."""
    keys = [c for c in (*RUN, "rec", "acq", "name", "pvc") if c in values.columns]
    taken = cohort.rows().filter(pl.col("seg") == TISSUE).select(keys).unique().collect()
    kept = taken.with_columns(pl.lit(value=False).alias("out"))
    marked = values.join(kept, on=keys, how="left", maintain_order="left")
    return marked.with_columns(pl.col("out").fill_null(value=True))
