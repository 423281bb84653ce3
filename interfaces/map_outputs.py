"""Saving maps beside those of a run: of templates, of corrections, of other reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import BaseInterfaceInputSpec, File, traits

from sodiumprep.interfaces.outputs import QUALITY_HEAD, SODIUM_FILES
from sodiumprep.interfaces.quality import judged
from sodiumprep.interfaces.sidecars import (
    TSC,
    Saving,
    WrittenFiles,
    numbers_used,
    save_as,
    sidecar_head,
    sidecar_path,
    uncertainty_of,
    write_json,
)
from sodiumprep.sodium.pvc import METHODS as PVC_METHODS

SPACE_FILES: dict[str, tuple[str, str]] = {
    "apparent_file": (TSC, "Apparent tissue sodium concentration in the space of a template"),
    "corrected_file": (TSC, "Tissue sodium concentration in the space of a template"),
    "uncertainty_file": (TSC, "Its standard uncertainty in the space of a template"),
}
NONLINEAR_FILES: dict[str, tuple[str, str]] = {
    "image_file": ("arbitrary", "Sodium image, receive-corrected"),
    "noise_file": ("arbitrary", "Standard deviation of its noise, by pseudo-replicas"),
    "apparent_file": (TSC, "Apparent tissue sodium concentration"),
    "corrected_file": (TSC, "Tissue sodium concentration"),
    "uncertainty_file": (TSC, "Its standard uncertainty"),
}


class _SaveSpaceInput(BaseInterfaceInputSpec):
    outputs = traits.Dict(mandatory=True, desc="output path by port")
    provenance = traits.Dict(mandatory=True, desc="entries of every sidecar")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue and vial [s]")
    properties = traits.Dict(mandatory=True, desc="of the image")
    calibration_file = File(exists=True, mandatory=True, desc="calibration lines (JSON)")
    apparent_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    corrected_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    uncertainty_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    uncertainty_terms = traits.Dict(mandatory=True, desc="of the uncertainty of maps, by name")


class SaveSpace(Saving):
    """Save the maps on the grid of a template."""

    input_spec = _SaveSpaceInput
    output_spec = WrittenFiles

    def _run_interface(self, runtime: Any) -> Any:
        used = numbers_used(self.inputs)
        written = []
        for port, (units, description) in SPACE_FILES.items():
            target = self.inputs.outputs[port]
            save_as(getattr(self.inputs, port), target)
            terms = uncertainty_of(port, self.inputs.uncertainty_terms)
            head = sidecar_head(target, units, description)
            write_json(sidecar_path(target), {**head, **used, **terms})
            written.append(target)
        self._results["out_files"] = written
        return runtime


class _SaveCorrectedInput(BaseInterfaceInputSpec):
    outputs = traits.Dict(mandatory=True, desc="output path by method and port")
    provenance = traits.Dict(mandatory=True, desc="entries of every sidecar")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue and vial [s]")
    properties = traits.Dict(mandatory=True, desc="of the image")
    calibration_file = File(exists=True, mandatory=True, desc="calibration lines (JSON)")
    map_files = traits.Dict(mandatory=True, desc="maps, as 'rbv:corrected_file' [mmol/L]")
    uncertainty_terms = traits.Dict(mandatory=True, desc="of the uncertainty of maps, by name")


class SaveCorrected(Saving):
    """Save the maps of partial-volume corrections."""

    input_spec = _SaveCorrectedInput
    output_spec = WrittenFiles

    def _run_interface(self, runtime: Any) -> Any:
        used = numbers_used(self.inputs)
        written = []
        for key, source in self.inputs.map_files.items():
            method, port = key.split(":")
            target = self.inputs.outputs[key]
            save_as(source, target)
            units, description = SODIUM_FILES[port]
            text = f"{description}; corrected for partial volume: {PVC_METHODS[method]}"
            head = sidecar_head(target, units, text)
            own = {
                **uncertainty_of(port, self.inputs.uncertainty_terms),
                "PartialVolumeCorrection": method,
            }
            write_json(sidecar_path(target), {**head, **used, **own})
            written.append(target)
        self._results["out_files"] = written
        return runtime


class _SaveNonlinearInput(BaseInterfaceInputSpec):
    outputs = traits.Dict(mandatory=True, desc="output path by port, and 'qc'")
    provenance = traits.Dict(mandatory=True, desc="entries of every sidecar")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue and vial [s]")
    calibration_file = File(exists=True, mandatory=True, desc="calibration lines (JSON)")
    uncertainty_terms = traits.Dict(mandatory=True, desc="of the uncertainty of maps, by name")
    properties = traits.Dict(mandatory=True, desc="of the image, for the QC file")
    image_file = File(exists=True, mandatory=True, desc="sodium image [signal]")
    noise_file = File(exists=True, mandatory=True, desc="noise SD [signal]")
    apparent_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    corrected_file = File(exists=True, mandatory=True, desc="[mmol/L]")
    uncertainty_file = File(exists=True, mandatory=True, desc="[mmol/L]")


class SaveNonlinear(Saving):
    """Save the maps of a reconstruction that is not linear; there is no table, by intention."""

    input_spec = _SaveNonlinearInput
    output_spec = WrittenFiles

    def _run_interface(self, runtime: Any) -> Any:
        kept = ("Reconstruction", "ReconstructionReason", "PointSpreadFWHM", "PointSpreadLocalAt")
        used = {
            **numbers_used(self.inputs),
            **{key: self.inputs.properties[key] for key in kept},
            "PartialVolumeCorrection": "none",
        }
        written = []
        for port, (units, description) in NONLINEAR_FILES.items():
            target = self.inputs.outputs[port]
            save_as(getattr(self.inputs, port), target)
            terms = uncertainty_of(port, self.inputs.uncertainty_terms)
            head = sidecar_head(target, units, description)
            write_json(sidecar_path(target), {**head, **used, **terms})
            written.append(target)
        quality = Path(self.inputs.outputs["qc"])
        write_json(quality, judged({**QUALITY_HEAD, **self.inputs.properties, **used}))
        self._results["out_files"] = [*written, str(quality)]
        return runtime
