"""The report of a cohort: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from sodiumprep.bids_app import figures
from sodiumprep.bids_app.group import findings, outlook, sections
from sodiumprep.bids_app.group.methods import methods_text, references_of
from sodiumprep.bids_app.group.overview import (
    means_table,
    model_facts,
    people_facts,
    relative,
)
from sodiumprep.bids_app.group.page import Section
from sodiumprep.bids_app.group.roster import roster, warnings_of
from sodiumprep.bids_app.group.shown import Places, Shown, taken, tissue_values
from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.bids_app.report import environment
from sodiumprep.interfaces.files import write_text

OF_EVIDENCE = (
    findings.differences_section,
    findings.repeatability_section,
    findings.change_section,
    findings.diagnostic_section,
    outlook.survival_section,
    outlook.norms_section,
    outlook.planning_section,
    outlook.modality_section,
    outlook.voxelwise_section,
)


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
    values, places = tissue_values(shown.cohort), Places(out_dir)
    for stale in places.figure("any").parent.glob("group_*.svg"):
        stale.unlink()
    with figures.drawing_style():
        shown_sections = list(_sections(shown, values, places))
    page = environment().get_template("group.html").render(
        version=version("sodiumprep"),
        sections=shown_sections,
        roster=roster(shown, values, places),
        warnings=warnings_of(shown.quality),
        n_warnings=int((shown.quality["n_warnings"] > 0).sum()),
        **_summary(shown, values),
        **_how(shown),
    )  # fmt: skip
    path = DatasetNames(out_dir).group_report
    write_text(path, page)
    return path


def _sections(shown: Shown, values: pd.DataFrame, places: Places) -> Iterator[Section]:
    """Yield the sections whose tables there are, in their order."""
    used = taken(values)
    drawn = [
        sections.quality_section(shown, values, places),
        sections.regions_section(shown, used, places),
        *(section(shown, places) for section in OF_EVIDENCE),
    ]
    yield from (section for section in drawn if section is not None)


def _summary(shown: Shown, values: pd.DataFrame) -> dict[str, Any]:
    used = taken(values)
    return {
        "people": people_facts(shown, values),
        "asked": model_facts(shown.cohort.model),
        "means": means_table(used) if len(used) else None,
        "missing": _missing(shown.missing),
        "notes": list(shown.notes),
        "relative": relative(shown.quality),
        "mixed": shown.quality["software_version"].nunique() > 1,
        "sloppy": "true" in set(shown.quality["sloppy"]),
    }


def _missing(missing: pd.DataFrame) -> list[str]:
    """Return who has no values, and why."""
    return [
        f"{row['participant_id']}{'' if row['session'] == 'n/a' else ' ses-' + row['session']}: "
        f"{row['state']}, {row['reason']}"
        for row in missing.to_dict("records")
    ]


def _how(shown: Shown) -> dict[str, Any]:
    told = methods_text(shown)
    return {
        "methods": told,
        "references": references_of(told),
        "command": "sodiumprep BIDS_DIR OUT_DIR group --model OUT_DIR/group/model.json "
        f"--random-seed {shown.seed}",
    }
