"""The report's tables of regions beside the tissues: one for each segmentation."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sodiumprep.bids_app.budget import MAIN_PVC, dominating_term
from sodiumprep.bids_app.results import RunResults

UNCORRECTED = "none"
FOLDED_FROM = 12  # rows; a longer table is folded at first


def parcellation_sections(run: RunResults) -> list[dict[str, Any]]:
    """Return what the report shows of the tables of other segmentations.

    Parameters
    ----------
    run
        With or without such tables.

    Returns
    -------
    sections
        ``name``, ``rows``, ``empty`` (how many rows have no value), ``folded``; ``ratio`` tells
        whether rows have a lesion's ratio to them.
    """
    return [_section(name, table) for name, table in run.parcellations.items()]


def _section(name: str, table: pd.DataFrame) -> dict[str, Any]:
    if table.empty:
        return {"name": name, "rows": [], "empty": 0, "folded": False, "ratio": False}
    final = table[table["desc"] == "corrected"]
    plain = final[final["pvc"] == UNCORRECTED].set_index("name")["mean"].to_dict()
    chosen = final[final["pvc"] == MAIN_PVC].to_dict("records")
    rows = [
        {**row, "uncorrected": plain.get(row["name"]), **dominating_term(row)} for row in chosen
    ]
    return {
        "name": name,
        "rows": rows,
        "empty": sum(pd.isna(row["mean"]) for row in rows),
        "folded": len(rows) > FOLDED_FROM,
        "ratio": "ratio" in table,
    }
