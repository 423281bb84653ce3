"""Saving what a sodium run gives: its maps, its table, its figures of quality."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from nipype.interfaces.base import BaseInterfaceInputSpec, File, Undefined, traits

from sodiumprep.interfaces.calibrate import load_lines
from sodiumprep.interfaces.columns import TABLE_COLUMNS, explained
from sodiumprep.interfaces.equation import explained_equation
from sodiumprep.interfaces.quality import calibration_figures, concentrations, judged, noise_levels
from sodiumprep.interfaces.sidecars import (
    TSC,
    Saving,
    WrittenFiles,
    noise_bias,
    numbers_used,
    save_as,
    sidecar_head,
    sidecar_path,
    uncertainty_of,
    write_json,
)
from sodiumprep.interfaces.table_outputs import scan_time, told_of_draws, told_of_table
from sodiumprep.sodium.concentration_map import APPARENT_TERMS

# port -> (unit, description)
SODIUM_FILES: dict[str, tuple[str, str]] = {
    "image_file": ("arbitrary", "Sodium image before the coil corrections"),
    "noise_file": ("arbitrary", "Standard deviation of the noise of the sodium image"),
    "receive_file": ("1", "Receive correction: factor that the sodium image was multiplied by"),
    "receive_uncertainty_file": (
        "1",
        "Relative standard uncertainty of the receive correction, against its mean over what the "
        "array sees",
    ),
    "flip_file": ("percent", "Flip angle over nominal that the sodium image was corrected for"),
    "xfm_file": ("mm", "Maps points of the anatomy to points of the sodium image (ITK, LPS)"),
    "apparent_file": (TSC, "Apparent tissue sodium concentration, without relaxation correction"),
    "corrected_file": (TSC, "Tissue sodium concentration, relaxation-corrected"),
    "uncertainty_file": (TSC, "Standard uncertainty of the tissue sodium concentration"),
    "anat_apparent_file": (TSC, "Apparent tissue sodium concentration in anatomical space"),
    "anat_corrected_file": (TSC, "Tissue sodium concentration in anatomical space"),
    "anat_uncertainty_file": (TSC, "Its standard uncertainty in anatomical space"),
    "residual_file": (TSC, "Apparent concentration that uniform regions leave unexplained (gtm)"),
    "calibration_file": ("", "Calibration lines"),
    "table_file": (TSC, "Regional tissue sodium concentrations"),
    "equation_file": ("", "Numbers that the table is made of"),
}
SODIUM_ONLY_FILES: dict[str, tuple[str, str]] = {
    "image_file": SODIUM_FILES["image_file"],
    "noise_file": SODIUM_FILES["noise_file"],
    "receive_file": SODIUM_FILES["receive_file"],
    "receive_uncertainty_file": SODIUM_FILES["receive_uncertainty_file"],
    "flip_file": SODIUM_FILES["flip_file"],
    "apparent_file": SODIUM_FILES["apparent_file"],
    "uncertainty_file": (TSC, "Standard uncertainty of the apparent concentration"),
    "table_file": (TSC, "Apparent concentrations of the regions that were drawn"),
}
QUALITY_HEAD = {"Description": "Figures of quality; their units and thresholds: docs/quality.md"}
NOT_SAVED = {  # numbers of the sidecars
    "brain_volume_ml", "brain_warning", "normalization_warning", "ready_warning",
    "calibration_file", "equation_file",
}  # fmt: skip


class _SaveSodiumInput(BaseInterfaceInputSpec):
    outputs = traits.Dict(mandatory=True, desc="output path by port, and 'qc'")
    provenance = traits.Dict(mandatory=True, desc="entries of every sidecar")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue and vial [s]")
    properties = traits.Dict(mandatory=True, desc="of the image, for the QC file")
    image_file = File(exists=True, mandatory=True, desc="sodium image [signal]")
    noise_file = File(exists=True, mandatory=True, desc="noise SD [signal]")
    receive_file = File(exists=True, mandatory=True, desc="receive correction")
    receive_uncertainty_file = traits.Either(
        None, File(exists=True), desc="its relative uncertainty, None where it is not known"
    )
    flip_file = File(exists=True, desc="flip angle over nominal [percent], where it is known")
    xfm_file = File(exists=True, mandatory=True, desc="transform")
    apparent_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    corrected_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    uncertainty_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    anat_apparent_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    anat_corrected_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    anat_uncertainty_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    residual_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    calibration_file = File(exists=True, mandatory=True, desc="calibration lines (JSON)")
    table_file = File(exists=True, mandatory=True, desc="regional table (TSV)")
    equation_file = File(exists=True, mandatory=True, desc="what its values are made of (JSON)")
    uncertainty_terms = traits.Dict(mandatory=True, desc="of the uncertainty of maps, by name")
    told = traits.Dict(usedefault=True, desc="of the table's uncertainty; Warnings are read")


class SaveSodium(Saving):
    """Save maps, table and quality figures; every sidecar holds the numbers that were used."""

    input_spec = _SaveSodiumInput
    output_spec = WrittenFiles

    def _run_interface(self, runtime: Any) -> Any:
        lines, references = load_lines(self.inputs.calibration_file)
        used = numbers_used(self.inputs)
        table = pd.read_csv(self.inputs.table_file, sep="\t")
        written = []
        for port, (units, description) in SODIUM_FILES.items():
            if port in NOT_SAVED or getattr(self.inputs, port) in (None, Undefined):
                continue
            target = self.inputs.outputs[port]
            save_as(getattr(self.inputs, port), target)
            head = sidecar_head(target, units, description)
            columns = explained(table) if port == "table_file" else {}
            rest = self._beside(table) if port == "table_file" else {}
            terms = uncertainty_of(port, self.inputs.uncertainty_terms)
            write_json(sidecar_path(target), {**columns, **head, **used, **rest, **terms})
            written.append(target)
        write_json(
            Path(self.inputs.outputs["qc"]), {**self._quality(table, lines, references), **used}
        )
        self._results["out_files"] = [*written, self.inputs.outputs["qc"]]
        return runtime

    def _beside(self, table: pd.DataFrame) -> dict[str, Any]:
        """Return what else the sidecar of the table tells."""
        equation = explained_equation(self.inputs.equation_file)
        curve = scan_time(table, self.inputs.properties)
        return {**equation, **curve, **told_of_table(self.inputs.told)}

    def _quality(
        self, table: pd.DataFrame, lines: Mapping[str, Any], references: Mapping[str, Any]
    ) -> dict[str, Any]:
        chosen = table[(table.pvc == "gtm") & (table.desc == "corrected")]
        values = chosen.set_index("name")["mean"]
        warnings = [
            *self.inputs.properties.get("Warnings", []),
            *self.inputs.provenance.get("InputWarnings", []),
            *references["CalibrationWarnings"],
            *references.get("ReferenceWarnings", []),
            *references.get("phantom", {}).get("Warnings", []),
            *self.inputs.told.get("Warnings", []),
        ]
        signal_noise = chosen.set_index("name")["snr"].to_dict()
        return judged({
            **QUALITY_HEAD,
            **self.inputs.properties,
            "Concentrations": concentrations(values),
            "SNR": {name: round(float(s), 2) for name, s in signal_noise.items()},
            "NoiseSD": noise_levels(values, signal_noise),
            "CalibrationRSquared": lines["corrected"].r_squared,
            **calibration_figures(references.get("vials", []), lines["corrected"]),
            **told_of_draws(self.inputs.told),
            "CalibrationOutlier": references["outlier"],
            "CalibrationForced": references["forced"],
            "Warnings": warnings,
        })  # fmt: skip


class _SaveSodiumOnlyInput(BaseInterfaceInputSpec):
    outputs = traits.Dict(mandatory=True, desc="output path by port, and 'qc'")
    provenance = traits.Dict(mandatory=True, desc="entries of every sidecar")
    properties = traits.Dict(mandatory=True, desc="of the image, for the QC file")
    image_file = File(exists=True, mandatory=True, desc="sodium image [signal]")
    noise_file = File(exists=True, mandatory=True, desc="noise SD [signal]")
    receive_file = File(exists=True, mandatory=True, desc="receive correction")
    receive_uncertainty_file = traits.Either(
        None, File(exists=True), desc="its relative uncertainty, None where it is not known"
    )
    flip_file = File(exists=True, desc="flip angle over nominal [percent], where it is known")
    apparent_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    uncertainty_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    calibration_file = File(exists=True, mandatory=True, desc="calibration lines (JSON)")
    table_file = File(exists=True, mandatory=True, desc="table (TSV), without rows if none")
    equation_file = File(exists=True, mandatory=True, desc="what its values are made of (JSON)")
    told = traits.Dict(usedefault=True, desc="of the table's uncertainty; Warnings are read")


class SaveSodiumOnly(Saving):
    """Save what can be told without an anatomy: apparent maps, and a table of drawn regions."""

    input_spec = _SaveSodiumOnlyInput
    output_spec = WrittenFiles

    def _run_interface(self, runtime: Any) -> Any:
        lines, references = load_lines(self.inputs.calibration_file)
        known = self.inputs.properties
        used = {
            **self.inputs.provenance,
            "Calibration": {**references, "Lines": {"apparent": vars(lines["apparent"])}},
            "PointSpreadFWHM": known["PointSpreadFWHM"],
            "ReceiveCorrection": known["ReceiveCorrection"],
            "TransmitCorrection": known.get("TransmitCorrection", "none"),
            "PartialVolumeCorrection": "none",
            **noise_bias(known),
        }
        empty = pd.read_csv(self.inputs.table_file, sep="\t").empty
        written = []
        for port, (units, description) in SODIUM_ONLY_FILES.items():
            missing = getattr(self.inputs, port) in (None, Undefined)
            if missing or (port == "table_file" and empty):
                continue
            target = self.inputs.outputs[port]
            save_as(getattr(self.inputs, port), target)
            head = sidecar_head(target, units, description)
            if port == "table_file":
                head = {**TABLE_COLUMNS, **head, **explained_equation(self.inputs.equation_file)}
                head |= told_of_table(self.inputs.told)
            terms = uncertainty_of(port, APPARENT_TERMS)
            write_json(sidecar_path(target), {**head, **used, **terms})
            written.append(target)
        warnings = [
            *known.get("Warnings", []),
            *self.inputs.provenance.get("InputWarnings", []),
            *references["CalibrationWarnings"],
            *self.inputs.told.get("Warnings", []),
        ]
        calibration = {
            "CalibrationRSquared": lines["apparent"].r_squared,
            **calibration_figures(references.get("vials", []), lines["apparent"]),
            "CalibrationOutlier": references["outlier"],
            "CalibrationForced": references["forced"],
            "Warnings": warnings,
        }
        quality = {
            **QUALITY_HEAD,
            **known,
            **told_of_draws(self.inputs.told),
            **used,
            **calibration,
        }
        write_json(Path(self.inputs.outputs["qc"]), judged(quality))
        self._results["out_files"] = [*written, self.inputs.outputs["qc"]]
        return runtime
