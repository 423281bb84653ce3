"""The report of a cohort: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sodiumprep.bids_app import figures
from sodiumprep.bids_app.group.tables import UNKNOWN, as_pandas
from sodiumprep.bids_app.group.values import RUN, Cohort
from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.bids_app.report import Cell, environment
from sodiumprep.bids_app.settings import FLUID_REFERENCES
from sodiumprep.interfaces.files import write_text

EVERYBODY = "all"
GROUPS = ("group", "diagnosis")  # columns that tell who is compared with whom
NUMBERS = ["index", "mean", "ci_low", "ci_high", "uncertainty"]
BOX_FROM = 5  # points in a group before a box says more than they do
GROUP_COLORS = ("#0b5394", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
QUALITY = (
    ("snr_GM", "SNR of GM"),
    ("registration_score", "registration score"),
    ("registration_spread", "registration error [mm]"),
    ("condition_number", "condition number"),
    ("calibration_r_squared", "calibration R²"),
    ("psf_fwhm_GM", "PSF FWHM of GM [mm]"),
    ("largest_displacement", "motion of repetitions [mm]"),
    ("largest_gradient_delay", "gradient delay [us]"),
    ("brain_volume_ml", "brain volume [ml]"),
    ("n_warnings", "warnings"),
)


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
    """

    cohort: Cohort
    quality: pd.DataFrame
    missing: pd.DataFrame
    evidence: Mapping[str, pd.DataFrame]
    notes: Sequence[str]


def write_group_report(out_dir: Path, shown: Shown) -> Path:
    """Write the report of the cohort.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    shown
        What it tells.

    Returns
    -------
    path
        ``group.html``.
    """
    names = DatasetNames(out_dir)
    values, quality = tissue_values(shown.cohort), shown.quality
    with figures.drawing_style():
        regions = figures.save_figure(
            regions_figure(values), names.group_dir / "figures" / "group_regions.svg"
        )
        figure = quality_figure(_with_group(quality, values))
        drawn = figures.save_figure(figure, names.group_dir / "figures" / "group_quality.svg")
    template = environment().get_template("group.html")
    page = template.render(
        version=version("sodiumprep"),
        n_subjects=values["participant_id"].nunique(),
        n_runs=len(values[["participant_id", "session", "run"]].drop_duplicates()),
        groups=list(_groups(values)),
        segmentations=sorted(set(shown.cohort.gathered.segmentations) - {"tissue"}),
        summary=summary(values).to_dict("records"),
        with_sessions=values["session"].nunique() > 1,
        regions=regions,
        quality=drawn,
        runs=_runs(out_dir, values, quality),
        warnings=_warnings(quality),
        relative=_relative(quality),
        missing=shown.missing.to_dict("records"),
        notes=list(shown.notes),
        sloppy="true" in set(quality["sloppy"]),
    )
    write_text(names.group_report, page)
    return names.group_report


def tissue_values(cohort: Cohort) -> pd.DataFrame:
    """Return the relaxation-corrected values of tissues and lesions.

    Parameters
    ----------
    cohort
        What was gathered and asked.

    Returns
    -------
    values
        With a column ``group``, which is ``all`` where participants have none.
    """
    rows = cohort.gathered.scan().filter(
        (pl.col("seg") == "tissue") & (pl.col("desc") == "corrected"),
        pl.col("pvc").is_in(["none", "gtm"]),
    )
    extra = [key for key in ("rec", "acq") if key in cohort.gathered.columns]
    values = rows.select(*RUN, *extra, "name", "pvc", "flag", *NUMBERS).collect()
    known = cohort.covariates.table
    column = next((c for c in known.columns if c.lower() in GROUPS), None)
    named = [pl.lit(EVERYBODY) if column is None else pl.col(column).fill_null(UNKNOWN)]
    people = known.select("participant_id", "session", *(n.alias("group") for n in named))
    joined = values.join(people, on=["participant_id", "session"], how="left")
    return as_pandas(joined.sort("index", *RUN, maintain_order=True))


def summary(values: pd.DataFrame) -> pd.DataFrame:
    """Return mean and SD over subjects by region, group and session; runs are averaged first.

    Parameters
    ----------
    values
        What :func:`tissue_values` returns.

    Returns
    -------
    table
        ``name group session n mean sd uncorrected_mean uncorrected_sd`` [mmol/L].
    """
    keys = ["index", "name", "group", "session"]
    by_subject = values.groupby([*keys, "participant_id", "pvc"])["mean"].mean().reset_index()
    wide = by_subject.groupby([*keys, "pvc"])["mean"].agg(["count", "mean", "std"]).unstack("pvc")
    rows = [_summary_row(dict(zip(keys, key, strict=True)), row) for key, row in wide.iterrows()]
    return pd.DataFrame(rows)


def _summary_row(keys: dict[str, Any], row: pd.Series) -> dict[str, Any]:
    def held(name: str, pvc: str) -> float:
        return float(row.get((name, pvc), np.nan))

    return {
        **keys,
        "n": int(np.nan_to_num(held("count", "gtm"))),
        "mean": held("mean", "gtm"),
        "sd": held("std", "gtm"),
        "uncorrected_mean": held("mean", "none"),
        "uncorrected_sd": held("std", "none"),
    }


def regions_figure(values: pd.DataFrame) -> Figure:
    """Draw every run's value by region and group, uncorrected beside corrected.

    Parameters
    ----------
    values
        What :func:`tissue_values` returns.
    """
    regions = list(dict.fromkeys(values["name"]))
    groups = list(_groups(values))
    columns = max(1, min(3, len(regions)))  # none, if no subject has an anatomy
    rows = max(1, -(-len(regions) // columns))
    figure = Figure(figsize=(9.4, 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, region in zip(panels, regions, strict=False):
        own = values[values["name"] == region]
        for place, group in enumerate(groups):
            color = GROUP_COLORS[place % len(GROUP_COLORS)]
            _draw_group(axes, own[own["group"] == group], place, color)
        axes.set_title(region, loc="left", fontsize=10, fontweight="bold")
        axes.set_xticks(range(len(groups)), groups)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
    for axes in panels[::columns]:
        axes.set_ylabel("mmol/L")
    for axes in panels[len(regions) :]:
        axes.set_visible(False)
    return figure


def quality_figure(quality: pd.DataFrame) -> Figure:
    """Draw the distribution of the quality figures over runs; the outermost run is named.

    Parameters
    ----------
    quality
        One row per run, with a column ``group``.
    """
    shown = [(c, t) for c, t in QUALITY if c in quality and _numbers(quality[c]).notna().any()]
    columns = min(4, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(9.4, 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (column, title) in zip(panels, shown, strict=False):
        _draw_quality(axes, quality, _numbers(quality[column]), title)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    return figure


def _numbers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column, errors="coerce")


def _groups(values: pd.DataFrame) -> Iterator[str]:
    """Yield the groups in alphabetical order, those without one last."""
    names = sorted(set(values["group"]), key=lambda name: (name == "n/a", name))
    yield from names


def _with_group(quality: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    known = values.drop_duplicates("participant_id").set_index("participant_id")["group"]
    return quality.assign(group=quality["participant_id"].map(known).fillna("n/a"))


def _spread(count: int, width: float = 0.11) -> Any:
    """Return places beside each other, the same ones in every run."""
    return np.linspace(-width, width, count) if count > 1 else np.zeros(count)


def _draw_group(axes: Axes, rows: pd.DataFrame, place: int, color: str) -> None:
    for pvc, shift, face in (("none", -0.2, "none"), ("gtm", 0.2, color)):
        own = rows[(rows["pvc"] == pvc) & rows["mean"].notna()]
        if not len(own):
            continue
        tone = figures.UNCORRECTED if pvc == "none" else color
        x = place + shift + _spread(len(own))
        ends = np.array([own["mean"] - own["ci_low"], own["ci_high"] - own["mean"]])
        axes.errorbar(
            x, own["mean"], np.nan_to_num(np.maximum(ends, 0)), fmt="s" if pvc == "none" else "o",
            color=tone, mfc=face, ms=4.5, lw=0.9, zorder=3,
        )  # fmt: skip
        _draw_centre(axes, own["mean"].to_numpy(), place + shift, tone)


def _draw_centre(axes: Axes, values: Any, place: float, color: str) -> None:
    """Draw a box where there are points enough, else a line at the mean."""
    if len(values) >= BOX_FROM:
        line = {"color": color, "lw": 1.0}
        axes.boxplot(
            values, positions=[place], widths=0.3, showfliers=False, manage_ticks=False,
            boxprops=line, medianprops=line, whiskerprops=line, capprops=line, zorder=2,
        )  # fmt: skip
    else:
        axes.hlines(values.mean(), place - 0.16, place + 0.16, color=color, lw=1.6, alpha=0.6)


def _draw_quality(axes: Axes, quality: pd.DataFrame, numbers: pd.Series, title: str) -> None:
    groups = list(_groups(quality))
    for place, group in enumerate(groups):
        own = numbers[(quality["group"] == group) & numbers.notna()]
        color = GROUP_COLORS[place % len(GROUP_COLORS)]
        axes.plot(place + _spread(len(own), 0.2), own, "o", color=color, ms=4.5, alpha=0.85)
    outermost = _outermost(numbers)
    if outermost is not None:
        where = groups.index(quality.loc[outermost, "group"])
        axes.annotate(
            quality.loc[outermost, "participant_id"], (where, numbers[outermost]), (0, 5),
            textcoords="offset points", fontsize=7, ha="center", color=figures.MUTED,
        )  # fmt: skip
    axes.set_title(title, loc="left", fontsize=8.5)
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.margins(y=0.25)
    axes.grid(visible=False, axis="x")


def _outermost(numbers: pd.Series) -> Any:
    """Return the index of the value farthest from the median, or None if none stands out."""
    away = (numbers - numbers.median()).abs()
    usual = away.median()
    return away.idxmax() if usual > 0 and away.max() > 3 * 1.4826 * usual else None


def _runs(out_dir: Path, values: pd.DataFrame, quality: pd.DataFrame) -> list[Cell]:
    """Return one entry per run: values, flags, number of warnings, link to the report."""
    named = ("participant_id", "session", "run", "rec")  # rec only where methods differ
    keys = [key for key in named if key in values and key in quality]
    counts = {tuple(row[key] for key in keys): row["n_warnings"] for _, row in quality.iterrows()}
    rows = []
    corrected = values[values["pvc"] == "gtm"]
    for key, own in corrected.groupby(keys, sort=True):
        report = out_dir / f"{key[0]}.html"
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "group": own["group"].iloc[0],
                "values": {row["name"]: row for row in own.to_dict("records")},
                "flags": _flags(own["flag"]),
                "n_warnings": counts.get(key, "n/a"),
                "report": report.name if report.is_file() else "",
            }
        )
    return rows


def _flags(column: Sequence[str]) -> list[str]:
    words = [word for text in column for word in str(text).split(",")]
    return sorted({word for word in words if word not in ("", "n/a")})


def _warnings(quality: pd.DataFrame) -> list[tuple[str, list[str]]]:
    found = []
    for _, row in quality[quality["n_warnings"] > 0].iterrows():
        labels = [("ses", row["session"]), ("run", row["run"])]
        place = " ".join(f"{key}-{value}" for key, value in labels if value != "n/a")
        found.append((f"{row['participant_id']} {place}".strip(), row["warnings"].split(" | ")))
    return found


def _relative(quality: pd.DataFrame) -> list[str]:
    """Return the participants whose values are relative to an assumed concentration."""
    rows = quality[quality["calibration_reference"].isin(FLUID_REFERENCES)]
    return sorted(set(rows["participant_id"]))
