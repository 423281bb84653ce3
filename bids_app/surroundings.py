"""Tables that lesions give: which, and where they are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.names import DerivativeNames, bids_uri
from sodiumprep.bids_app.settings import Settings
from sodiumprep.workflows.plans import LESIONS, LesionPlan


def plan_lesion_tables(
    classes: Sequence[str],
    settings: Settings,
    names: DerivativeNames,
    provenance: Mapping[str, Any],
    links: Mapping[str, Path],
) -> LesionPlan | None:
    """Plan the tables of one run.

    Parameters
    ----------
    classes
        Of its lesions; without one, or where no table is asked for, there is none.
    settings
        The user's choices.
    names
        Of the run.
    provenance
        Of the anatomy and of the lesions.
    links
        Datasets that sidecars refer to.
    """
    tables = settings.lesion_tables
    if not classes or not tables:
        return None
    labelled = [table for table in tables if table != LESIONS]
    outputs = {table: str(names.tsc_table(table)) for table in tables}
    for table in labelled:
        outputs[f"{table}_labels"] = str(names.lesion_labels(table))
        outputs[f"{table}_table"] = str(names.lesion_labels(table, ".tsv"))
    return LesionPlan(
        classes=tuple(classes),
        tables=tables,
        edges=tuple(settings.lesion_shells),
        least_coverage=settings.min_coverage,
        outputs=outputs,
        provenance=dict(provenance),
        labels={table: bids_uri(names.lesion_labels(table), links) for table in labelled},
    )
