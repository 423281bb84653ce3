"""All regional tables in one: read in portions, written as TSV and Parquet, never held whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import polars as pl

from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import acquisition_label, entities
from sodiumprep.bids_app.results import find_tables
from sodiumprep.interfaces.columns import PARCEL_COLUMNS, TABLE_COLUMNS
from sodiumprep.interfaces.files import written

UNKNOWN = "n/a"
KEYS = {
    "participant_id": "Participant",
    "session": "Label of the session",
    "run": "Label of the run",
    "seg": "Segmentation that the regions come from",
}
OPTIONAL_KEYS = {
    "acq": "Label of the sodium acquisition",
    "rec": "Label of the reconstruction",
}
PORTION = 256  # tables that are held at a time
WORDS = ("name", "pvc", "desc", "flag", "tissue")  # columns of regional tables that hold text
TEXT = {"separator": "\t", "infer_schema": False, "quote_char": None, "encoding": "utf8-lossy"}


@dataclass(frozen=True)
class Gathered:
    """All regional tables in one.

    Parameters
    ----------
    path
        The Parquet file: numbers as numbers, what is not known as null; labels that are not there
        stay ``n/a``, and columns of the participants text.
    columns
        Its columns.
    rows
        How many rows it has.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int

    @property
    def segmentations(self) -> list[str]:
        """Names of the segmentations."""
        return self.scan().select("seg").unique().sort("seg").collect()["seg"].to_list()

    def scan(self) -> pl.LazyFrame:
        """Return the rows, to be chosen from before they are read."""
        return pl.scan_parquet(self.path)


def gather_tables(out_dir: Path, participants: pl.DataFrame, tsv: Path, parquet: Path) -> Gathered:
    """Write all regional tables of a folder into one, as TSV and as Parquet.

    The TSV file keeps every number as it stands in the subject's table.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    participants
        ``participant_id``, with ``sub-``, and columns that are put behind, as text.
    tsv, parquet
        Where to write: ``participant_id session run seg``, the columns of the tables, ``acq`` and
        ``rec`` where they tell rows apart, the columns of ``participants``.

    Returns
    -------
    gathered
        The Parquet file.

    Raises
    ------
    UserError
        If there is no table at all, one cannot be read, or two rows are of the same value.
    """
    with TemporaryDirectory(prefix="sodiumprep-") as folder:
        parts = list(_write_parts(find_tables(out_dir), Path(folder)))
        if not parts:
            raise UserError(
                f"{out_dir}: holds no results; accepted: a folder with sub-*/**/*_TSC.tsv"
            )
        rows = pl.concat([pl.scan_parquet(part) for part in parts], how="diagonal")
        own = _chosen_columns(rows)
        behind = _beside(participants, own.collect_schema().names())
        chosen = _with_participants(own, behind)
        with written(tsv) as partial:
            chosen.sink_csv(partial, separator="\t", quote_style="never")
        with written(parquet) as partial:
            _as_numbers(chosen, behind.columns).sink_parquet(partial, statistics=True)
    gathered = Gathered(
        parquet,
        tuple(pl.read_parquet_schema(parquet)),
        pl.scan_parquet(parquet).select(pl.len()).collect().item(),
    )
    _refuse_twice(gathered)
    return gathered


def table_dictionary(columns: Sequence[str], described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data dictionary of the table of regions.

    Parameters
    ----------
    columns
        Of the table.
    described
        Data dictionary of the participants table.
    """
    known = {name: {"Description": text} for name, text in (KEYS | OPTIONAL_KEYS).items()}
    own = {**PARCEL_COLUMNS, **TABLE_COLUMNS, **known}
    return {
        column: own.get(column) or described.get(column.removeprefix("participants_"))
        or {"Description": "As in participants.tsv"}
        for column in columns
    }  # fmt: skip


def read_text_table(path: Path) -> pl.DataFrame:
    """Return a tab-separated table as text, cells without spaces around them.

    Parameters
    ----------
    path
        The TSV file; an empty one gives an empty table.

    Raises
    ------
    UserError
        If it cannot be read as a table.
    """
    try:
        table = pl.read_csv(path, **TEXT)
    except pl.exceptions.NoDataError:
        return pl.DataFrame()
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as a table ({reason})") from error
    table = table.rename({c: c.strip().lstrip("\ufeff") for c in table.columns})
    return table.with_columns(pl.all().str.strip_chars())


def as_pandas(table: pl.DataFrame) -> pd.DataFrame:
    """Return a table for libraries that take pandas; null becomes None in text, nan in numbers.

    Parameters
    ----------
    table
        Polars' own way needs a library more.
    """
    known: dict[str, str] = {}
    return pd.DataFrame(
        {
            c.name: c.to_numpy() if c.dtype.is_numeric() else shared(c.to_list(), known)
            for c in table
        },
        columns=table.columns,
    )


def shared(cells: Iterable[Any], known: dict[str, str]) -> list[Any]:
    """Return the same cells, equal texts as one object: millions of labels take gigabytes.

    Parameters
    ----------
    cells
        Of any kind.
    known
        Texts that there are; new ones are added.
    """
    return [known.setdefault(cell, cell) if isinstance(cell, str) else cell for cell in cells]


def _write_parts(paths: Iterator[Path], folder: Path) -> Iterator[Path]:
    """Write tables as text into files of a portion each; yield those that hold rows."""
    number = 0
    while portion := list(islice(paths, PORTION)):
        table = pl.concat([_one_table(path) for path in portion], how="diagonal")
        if table.height:
            part = folder / f"part-{number:06d}.parquet"
            table.write_parquet(part)
            yield part
        number += 1


def _one_table(path: Path) -> pl.DataFrame:
    parts = entities(path)
    keys = {
        "participant_id": f"sub-{parts['sub']}",
        "session": parts.get("ses", UNKNOWN),
        "run": parts.get("run", UNKNOWN),
        "seg": parts.get("seg", UNKNOWN),
        "acq": acquisition_label(parts),
        "rec": parts.get("rec", UNKNOWN),
    }
    table = read_text_table(path)
    labels = [pl.lit(label).alias(name) for name, label in keys.items()]
    return table.with_columns(labels) if table.height else pl.DataFrame()


def _chosen_columns(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return the keys, the columns of the tables, and what else tells rows apart."""
    counts = rows.select(pl.col(*OPTIONAL_KEYS).n_unique()).collect().row(0, named=True)
    extra = [key for key in OPTIONAL_KEYS if counts[key] > 1]
    held = rows.collect_schema().names()
    columns = [c for c in held if c not in (*KEYS, *OPTIONAL_KEYS)]
    return rows.select(*KEYS, *columns, *extra)


def _beside(participants: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
    """Rename what would hide a column of the tables."""
    taken = set(columns) - {"participant_id"}
    return participants.rename(
        {c: f"participants_{c}" for c in participants.columns if c in taken}
    )


def _with_participants(rows: pl.LazyFrame, participants: pl.DataFrame) -> pl.LazyFrame:
    joined = rows.join(participants.lazy(), on="participant_id", how="left", maintain_order="left")
    known = pl.all().fill_null(UNKNOWN)
    said = pl.when(known == "").then(pl.lit(UNKNOWN)).otherwise(known)
    return joined.with_columns(said.name.keep())


def _as_numbers(rows: pl.LazyFrame, behind: Iterable[str]) -> pl.LazyFrame:
    """Return numbers as numbers; columns of the participants stay text."""
    text = {*KEYS, *OPTIONAL_KEYS, *WORDS, *behind}
    numbers = [name for name in rows.collect_schema().names() if name not in text]
    words = pl.exclude(*KEYS, *OPTIONAL_KEYS, *numbers)
    # replace() would hold the whole table in memory
    known = pl.when(words != UNKNOWN).then(words).name.keep()
    cast = rows.with_columns(known, pl.col(numbers).cast(pl.Float64, strict=False))
    return cast.with_columns(pl.col("index").cast(pl.Int64, strict=False))


def _refuse_twice(gathered: Gathered) -> None:
    keys = [k for k in (*KEYS, *OPTIONAL_KEYS, "name", "pvc", "desc") if k in gathered.columns]
    digests = gathered.scan().select(pl.struct(keys).hash().n_unique()).collect(engine="streaming")
    if digests.item() == gathered.rows:  # groups of all keys would take gigabytes
        return
    twice = gathered.scan().group_by(keys).len().filter(pl.col("len") > 1).head(1).collect()
    if twice.height:
        shown = ", ".join(f"{key} {twice[key][0]}" for key in keys if twice[key][0] is not None)
        raise UserError(
            f"{gathered.path.parent}: two rows for {shown}; accepted: one for each run, region "
            "and method"
        )
