"""Saving the table of an atlas, and what sidecars of tables tell beside their columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import BaseInterfaceInputSpec, File, traits

from sodiumprep.interfaces.columns import PARCEL_COLUMNS
from sodiumprep.interfaces.sidecars import (
    TSC,
    Saving,
    WrittenFiles,
    numbers_used,
    save_as,
    sidecar_path,
    write_json,
)


class _SaveParcelsInput(BaseInterfaceInputSpec):
    table_file = File(exists=True, mandatory=True, desc="regional table of an atlas (TSV)")
    output = traits.Str(mandatory=True, desc="path of the table")
    provenance = traits.Dict(mandatory=True, desc="entries of the sidecar")
    told = traits.Dict(usedefault=True, desc="more of them")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue and vial [s]")
    properties = traits.Dict(mandatory=True, desc="of the image")
    calibration_file = File(exists=True, mandatory=True, desc="calibration lines (JSON)")


class SaveParcels(Saving):
    """Save the table of an atlas with its data dictionary."""

    input_spec = _SaveParcelsInput
    output_spec = WrittenFiles

    def _run_interface(self, runtime: Any) -> Any:
        target = self.inputs.output
        save_as(self.inputs.table_file, target)
        head = {"Description": "Tissue sodium concentrations of an atlas", "Units": TSC}
        used = numbers_used(self.inputs)
        held = pd.read_csv(target, sep="\t", nrows=0)
        columns = {name: PARCEL_COLUMNS[name] for name in held}
        write_json(sidecar_path(target), {**columns, **head, **used, **self.inputs.told})
        self._results["out_files"] = [target]
        return runtime


def told_of_table(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the sidecar of a table says of its uncertainty.

    Parameters
    ----------
    told
        What the table's interface tells.
    """
    return {key: value for key, value in told.items() if key != "Warnings"}


def told_of_draws(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the QC file says of draws; nothing without.

    Parameters
    ----------
    told
        What the table's interface tells.
    """
    keys = ("Draws", "DrawsRefused", "Seed", "SamplingError", "LargestDifference")
    drawn = told.get("MonteCarlo")
    return {} if drawn is None else {"MonteCarlo": {key: drawn[key] for key in keys}}


def scan_time(table: pd.DataFrame, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the table's sidecar says of shorter scans.

    Parameters
    ----------
    table
        With rows of ``kspace``, or without.
    properties
        ``KspaceRegression`` with its ``ScanTime`` in units of the signal.

    Returns
    -------
    told
        ``ScanTime`` in mmol/L of corrected concentration, regions of the table only: ``Share`` of
        the readouts; ``Uncertainty`` from noise by theory and ``Scatter`` of the parts, a row for
        each share; empty without raw data.
    """
    curve = properties.get("KspaceRegression", {}).get("ScanTime")
    rows = table[(table.pvc == "kspace") & (table.desc == "corrected")].set_index("name")
    if curve is None or not len(rows):
        return {}
    used = [k for k, name in enumerate(curve["Names"]) if name in rows.index]
    names = [curve["Names"][k] for k in used]
    theory = np.array(curve["Uncertainty"])[:, used]
    whole = int(np.argmax(curve["Share"]))
    gain = rows.loc[names, "u_noise"].to_numpy() / theory[whole]
    scatter = [None if s is None else np.array(s)[used] * gain for s in curve["Scatter"]]
    return {
        "ScanTime": {
            "Description": "Uncertainty of regional concentrations from noise, were the scan "
            "shorter: by theory, and as seen in interleaved parts of this scan (pvc kspace)",
            "Units": TSC,
            "Names": names,
            "Share": curve["Share"],
            "Uncertainty": theory * gain,
            "Scatter": scatter,
            "ScatterOverUncertainty": curve["ScatterOverUncertainty"],
            "ChanceOfRatio": curve["ChanceOfRatio"],
        }
    }
