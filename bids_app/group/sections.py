"""Sections of the cohort's report: quality and regions."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from sodiumprep.bids_app.group import drawing
from sodiumprep.bids_app.group.page import (
    Column,
    Link,
    Row,
    Section,
    count,
    figure,
    listed,
    picture,
    tabulate,
    text,
)
from sodiumprep.bids_app.group.shown import (
    MOST_REGIONS,
    Places,
    Shown,
    atlas_values,
    method_label,
    shown_methods,
    where_all_are,
)
from sodiumprep.bids_app.wording import UNKNOWN

QUALITY = (
    ("snr_GM", "SNR of GM"),
    ("registration_score", "registration score"),
    ("registration_spread", "registration error [mm]"),
    ("condition_number", "condition number"),
    ("calibration_r_squared", "calibration R²"),
    ("calibration_residual_sd", "vials off the line [mmol/L]"),
    ("psf_fwhm_GM", "PSF FWHM of GM [mm]"),
    ("largest_displacement", "motion of repetitions [mm]"),
    ("largest_gradient_delay", "gradient delay [us]"),
    ("ghost_share", "ghosts"),
    ("negative_share", "negative voxels"),
    ("brain_dice", "overlap of brains"),
    ("brain_volume_ml", "brain volume [ml]"),
    ("n_warnings", "warnings"),
)
FAR = 3.0  # robust standard deviations from the median
MOST_OUTLIERS = 40


def quality_section(shown: Shown, values: pd.DataFrame, places: Places) -> Section | None:
    """Return the distributions of quality figures, with the way to each outlier's report.

    Parameters
    ----------
    shown
        What is told.
    values
        With ``participant_id`` and ``group``.
    places
        Where files lie.
    """
    quality = shown.quality
    known = [(c, t) for c, t in QUALITY if c in quality and _varies(quality[c])]
    if not known:
        return None
    groups = values.drop_duplicates("participant_id").set_index("participant_id")["group"]
    named = quality.assign(group=quality["participant_id"].map(groups).fillna(UNKNOWN))
    far = outliers(named, known)
    people = far["participant_id"].nunique()
    says = (
        f"{count(people, 'participant')} with a figure more than {FAR:g} robust standard "
        f"deviations from the median: {listed(far['participant_id'].unique())}."
        if people else f"All figures lie within {FAR:g} robust standard deviations of the median."
    )  # fmt: skip
    drawn = picture(
        lambda: drawing.quality_figure(named, known), places.figure("quality"),
        f"Distribution of {len(known)} quality figures over runs. {says}",
        "Density, box (median, quartiles) and one point per run (of many some); a red "
        "cross is an outlier.",
        "group_qc.tsv",
    )  # fmt: skip
    columns = (
        Column("Subject", lambda r: _subject(r, places), "key"),
        text("session", "Session"), text("run", "Run"), text("title", "Figure"),
        Column("Value", lambda r: f"{r['value']:.4g}"),
        Column("Median", lambda r: f"{r['median']:.4g}"),
        figure("score", "Robust SDs away", 1),
    )  # fmt: skip
    note = where_all_are(far, far.head(MOST_OUTLIERS), "group_qc.tsv")
    table = tabulate("Outliers, the farthest first", columns, far.head(MOST_OUTLIERS), note)
    rests = f"Rests on {count(len(quality), 'run')}; what the figures mean: docs/quality.md."
    return Section("quality", "Quality", says, rests, (drawn,), (table,) if len(far) else ())


def outliers(quality: pd.DataFrame, known: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Return the runs whose figures lie far from the median, the farthest first.

    Parameters
    ----------
    quality
        One row per run.
    known
        Columns and their titles.

    Returns
    -------
    table
        ``participant_id session run title value median score``.
    """
    parts = []
    for column, title in known:
        numbers = pd.to_numeric(quality[column], errors="coerce")
        score = drawing.robust_score(numbers)
        away = score.abs() > FAR
        own = quality.loc[away, ["participant_id", "session", "run"]]
        told = {"value": numbers[away], "median": numbers.median(), "score": score[away]}
        parts.append(own.assign(title=title, **told))
    found = pd.concat(parts, ignore_index=True)
    return found.sort_values("score", key=abs, ascending=False, kind="stable")


def regions_section(shown: Shown, values: pd.DataFrame, places: Places) -> Section | None:
    """Return the clouds of values by region and group.

    Parameters
    ----------
    shown
        What is told.
    values
        Of tissues and lesions, those that the model takes.
    places
        Where files lie.
    """
    if not values["mean"].notna().any():
        return None
    names = list(dict.fromkeys(values["name"]))
    held = values[values["name"].isin(names[:MOST_REGIONS])]
    says = _largest_step(values)
    caption = (
        "Raincloud of each region and group: density, box (median, quartiles), and one point per "
        "run (of many some, evenly over their ranks). Grey: without correction for partial volume."
    )
    drawn = [
        picture(lambda: drawing.regions_figure(held), places.figure("regions"),
                f"Concentrations of {listed(names, MOST_REGIONS)} by group. {says}", caption,
                "group_TSC.tsv"),
    ]  # fmt: skip
    others = atlas_values(shown.cohort, shown.table("effects"))
    if len(others):
        drawn.append(picture(
            lambda: drawing.regions_figure(others), places.figure("regions_atlas"),
            f"Concentrations of {listed(dict.fromkeys(others['name']))} by group.",
            "The same of those regions of atlases whose effects have the smallest q.",
            "group_TSC.tsv",
        ))  # fmt: skip
    more = sorted(set(shown.cohort.gathered.segmentations) - {"tissue"})
    notes = [f"Further segmentations in group_TSC.tsv: {listed(more, 20)}."] if more else []
    if len(names) > MOST_REGIONS:
        notes.append(f"{len(names) - MOST_REGIONS} further regions of the tissue table are there.")
    rests = (
        f"Rests on {count(held['participant_id'].nunique(), 'participant')}; relaxation-corrected "
        "values that the model takes."
    )
    return Section("regions", "Regions", says, rests, tuple(drawn), (), tuple(notes))


def _subject(row: Row, places: Places) -> str | Link:
    report = places.report(str(row["participant_id"]))
    return Link(str(row["participant_id"]), report)


def _varies(column: pd.Series) -> bool:
    return bool(pd.to_numeric(column, errors="coerce").nunique() > 1)


def _largest_step(values: pd.DataFrame) -> str:
    """Say how far correction moves the means."""
    means = values.groupby(["name", "pvc"], sort=False)["mean"].mean().unstack("pvc")
    methods = shown_methods(list(means.columns))
    if len(methods) < 2:
        told = ", ".join(f"{n} {v:.1f}" for n, v in means[methods[0]].dropna().head(6).items())
        return f"Means over all runs ({method_label(methods[0])}) [mmol/L]: {told}."
    step = (means[methods[1]] - means[methods[0]]).dropna().head(6)
    told = ", ".join(f"{name} by {value:+.1f}" for name, value in step.items())
    return f"Correction for partial volume moves the means of {told} mmol/L." if told else ""
