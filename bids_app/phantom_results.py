"""Results of a cohort that nobody scanned: ``sodiumprep-phantom OUT_DIR --tables N``.

The folder is what the participant level leaves, without images: regional tables, quality figures
and tables of people, for the group level; beside them the truth. Participants are written as they
are drawn, so that many need no more memory than few.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from sodiumprep.bids_app.names import DatasetNames, DerivativeNames, with_json
from sodiumprep.bids_app.phantom_tables import BIDS_VERSION
from sodiumprep.interfaces.columns import PARCEL_COLUMNS, TABLE_COLUMNS
from sodiumprep.interfaces.concentration import COLUMNS
from sodiumprep.interfaces.sidecars import write_json
from sodiumprep.sodium.cohort.simulate import (
    LESIONS,
    METHODS,
    TISSUES,
    Cohort,
    draw_chunks,
    parcels,
)

OPTION = "--tables"
PARCELS = "parcels"  # segmentation
UNKNOWN = "n/a"
APPARENT = 0.85  # of the corrected concentration, about what a short readout without it gives
NOISE_OF_VOXEL = 4.0  # mmol/L
DIGITS = 5
PEOPLE = {
    "age": {"Description": "Age at the first session", "Units": "year"},
    "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
    "group": {"Description": "Group; all but the first are patients"},
    "subtype": {"Description": "Grade of a glioma, course of multiple sclerosis"},
    "site": {"Description": "Where the participant is scanned"},
}
SESSION = {
    "age": {"Description": "Age at the session", "Units": "year"},
    "time": {"Description": "Time since the first session", "Units": "year"},
}
TRUTH = {
    "participant_id": {"Description": "Participant"},
    "session": {"Description": "Label of the session"},
    "index": {"Description": "As in the tables"},
    "name": {"Description": "Region"},
    "true": {"Description": "True concentration", "Units": "mmol/L"},
    "responds": {"Description": "Whether the participant responds to treatment"},
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line with ``--tables``."""
    parser = argparse.ArgumentParser(
        prog="sodiumprep-phantom",
        description="Write simulated results of a cohort, without images, for the group level.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("out_dir", type=Path, help="new or empty folder")
    add(OPTION, type=int, required=True, metavar="N", help="participants")
    add("--regions", type=int, default=0, help="parcels, beside tissues and lesions")
    add("--groups", nargs="+", default=["control", "ms"],
        help="names, in blocks of equal size; glioma, ms and stroke have lesions")  # fmt: skip
    add("--difference", type=float, default=3.0,
        help="of the patients in every second parcel [mmol/L]")  # fmt: skip
    add("--sessions", type=int, default=1, help="of each participant")
    add("--session-interval", type=float, default=0.5, help="years from session to session")
    add("--runs", type=int, default=1, help="of each session")
    add("--sites", type=int, default=1, help="where participants are scanned")
    add("--responders", type=float, default=0.0, help="share of the patients whose lesions change")
    add("--seed", type=int, default=0, help="of all that is random")
    return parser


def main(argv: Sequence[str]) -> int:
    """Write the results of a cohort.

    Parameters
    ----------
    argv
        Arguments.

    Returns
    -------
    code
        0, or 2 if the arguments make no sense.
    """
    options = build_parser().parse_args(argv)
    try:
        _check(options)
    except ValueError as error:
        print(f"sodiumprep-phantom: {error}", file=sys.stderr)
        return 2
    write_results(options)
    print(f"Results: {options.out_dir}", flush=True)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be simulated."""
    for name in ("sessions", "runs", "sites", "session_interval"):
        if not getattr(options, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive")
    if options.regions < 0:
        raise ValueError(f"--regions is {options.regions}; accepted: 0 or more")
    if options.tables < len(options.groups):
        raise ValueError(f"{OPTION} {options.tables} for {len(options.groups)} groups; accepted: "
                         "at least one participant each")  # fmt: skip
    if len(set(options.groups)) < len(options.groups):
        raise ValueError(f"--groups {' '.join(options.groups)}: a name stands there twice")
    if not 0 <= options.responders <= 1:
        raise ValueError(f"--responders is {options.responders:g}; accepted: 0 to 1")
    folder = options.out_dir
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder")


def cohort_of(options: argparse.Namespace) -> Cohort:
    """Return the cohort that is asked for.

    Parameters
    ----------
    options
        Checked.
    """
    sizes = [len(part) for part in np.array_split(np.arange(options.tables), len(options.groups))]
    shifts = dict.fromkeys(options.groups[1:], options.difference)
    lesions = [region for region in LESIONS if {*region.only} & {*options.groups}]
    return Cohort(
        dict(zip(options.groups, sizes, strict=True)),
        (*TISSUES, *lesions, *parcels(options.regions, shifts)),
        METHODS,
        options.sessions,
        options.runs,
        sites=options.sites,
        site_sd=1.0 if options.sites > 1 else 0.0,
        years=options.session_interval,
        responders=options.responders,
    )


def write_results(options: argparse.Namespace) -> None:
    """Write everybody, a few hundred at a time.

    Parameters
    ----------
    options
        Checked.
    """
    out_dir, names = options.out_dir, DatasetNames(options.out_dir)
    write_json(names.description, {
        "Name": "Simulated results of sodium MRI", "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative", "License": "CC0",
        "GeneratedBy": [{"Name": "sodiumprep-phantom", "Version": version("sodiumprep")}],
    })  # fmt: skip
    truth = out_dir / "truth" / "true_TSC.tsv"
    truth.parent.mkdir()
    write_json(with_json(truth), TRUTH)
    write_json(with_json(names.participants), PEOPLE)
    if options.sessions > 1:
        write_json(out_dir / "sessions.json", SESSION)
    chunks = draw_chunks(cohort_of(options), np.random.default_rng(options.seed))
    with names.participants.open("w") as people, truth.open("w") as true:
        for number, (table, drawn) in enumerate(chunks):
            first = {"sep": "\t", "index": False, "header": number == 0, "na_rep": UNKNOWN}
            who = table.drop_duplicates("participant_id")
            who[["participant_id", *PEOPLE]].to_csv(people, **first)
            drawn.to_csv(true, float_format=f"%.{DIGITS}g", **first)
            for run in _runs(table):
                _write_run(out_dir, run)
            if options.sessions > 1:
                _write_sessions(out_dir, table)


def _runs(table: pd.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows of each run."""
    text = {name: table[name].to_numpy().astype(str) for name in table.columns
            if table[name].dtype == object}  # fmt: skip
    rows = pl.DataFrame({name: text.get(name, table[name].to_numpy()) for name in table.columns})
    yield from rows.partition_by("participant_id", "session", "run", maintain_order=True)


def _names(out_dir: Path, run: pl.DataFrame) -> DerivativeNames:
    label, session, number = (run[key][0] for key in ("participant_id", "session", "run"))
    return DerivativeNames(
        out_dir,
        label.removeprefix("sub-"),
        None if session == UNKNOWN else session,
        None if number == UNKNOWN else number,
    )


def _write_run(out_dir: Path, run: pl.DataFrame) -> None:
    names = _names(out_dir, run)
    names.folder.mkdir(parents=True, exist_ok=True)
    for (seg,), rows in run.partition_by("seg", as_dict=True, maintain_order=True).items():
        table = _as_tabulated(rows, str(seg))
        path = names.tsc_table(str(seg))
        table.write_csv(path, separator="\t", null_value=UNKNOWN, float_precision=DIGITS)
        known = PARCEL_COLUMNS if seg == PARCELS else TABLE_COLUMNS
        write_json(with_json(path), {column: known[column] for column in table.columns})
    write_json(names.qc(), _quality(run))


def _as_tabulated(rows: pl.DataFrame, seg: str) -> pl.DataFrame:
    """Return the columns of a subject's table, corrected and apparent."""
    numbers = [c for c in rows.columns if rows[c].dtype == pl.Float64]
    known = rows.with_columns(pl.col(numbers).fill_nan(None))
    scaled = [c for c in numbers if c.startswith(("mean", "uncertainty", "u_", "ci_"))]
    apparent = known.with_columns(
        *(pl.col(c) * APPARENT for c in scaled), desc=pl.lit("apparent")
    ).with_columns(u_relaxation=pl.lit(0.0))
    both = pl.concat([known, apparent])
    columns = [*COLUMNS[:2], "tissue", *COLUMNS[2:]] if seg == PARCELS else COLUMNS
    held = [pl.col(c) if c in both.columns else _unknown(c) for c in columns]
    return both.select(held)


def _unknown(column: str) -> pl.Expr:
    """Return a column that is not simulated; all parcels are of the cortex."""
    return pl.lit("GM" if column == "tissue" else None, dtype=pl.String).alias(column)


def _quality(run: pl.DataFrame) -> dict[str, Any]:
    """Return quality figures, drawn from the noise of the run."""
    tissues = run.filter((pl.col("seg") == "tissue") & (pl.col("pvc") == "none"))
    failed = bool((run["flag"] == "registration_failed").any())
    noise = {row["name"]: NOISE_OF_VOXEL for row in tissues.iter_rows(named=True)}
    mean = {row["name"]: row["mean"] for row in tissues.iter_rows(named=True)}
    known = {name: value for name, value in mean.items() if np.isfinite(value)}
    flag = {"Name": "registration_failed", "Reason": "as it is simulated"}
    return {
        "Description": "Simulated figures of quality",
        "SoftwareVersion": version("sodiumprep"),
        "SNR": {name: value / NOISE_OF_VOXEL for name, value in known.items()},
        "NoiseSD": {name: noise[name] for name in known},
        "RegistrationFailed": failed,
        "RegistrationScore": 0.3 if failed else 0.9,
        "Flags": [flag] if failed else [],
        "Warnings": [],
    }


def _write_sessions(out_dir: Path, table: pd.DataFrame) -> None:
    """Write the sessions that took place, with the age at each."""
    held = table.drop_duplicates(["participant_id", "session"])
    for label, rows in held.groupby("participant_id", sort=False):
        lines = [f"ses-{row.session}\t{row.age + row.time:.2f}\t{row.time:g}"
                 for row in rows.itertuples()]  # fmt: skip
        path = out_dir / str(label) / f"{label}_sessions.tsv"
        path.write_text("\n".join(["session_id\tage\ttime", *lines]) + "\n")
