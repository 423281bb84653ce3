"""Partial-volume correction of the regional signals, with what changes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from sodiumprep.interfaces.image import load_finite_image, load_image
from sodiumprep.interfaces.reconstruct import load_response
from sodiumprep.sodium.pvc import geometric_transfer_matrix, kernel_change, registration_changes


class _RegionalSignalsInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="sodium image, receive-corrected [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    regions_file = File(exists=True, mandatory=True, desc="regions (npz)")
    response_file = File(exists=True, mandatory=True, desc="transfer functions and spectrum (npz)")
    properties = traits.Dict(mandatory=True, desc="RegistrationSpread [mm], kernel widths [mm]")
    brain_warning = traits.Str("", usedefault=True, desc="why the anatomy may be wrong, or empty")


class _RegionalSignalsOutput(TraitedSpec):
    signals_file = File(exists=True, desc="regional signals with covariance and changes (npz)")
    properties = traits.Dict(desc="input properties and the condition number")


def _told(remarks: list[str], brain_warning: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Let every table and the QC file know of a brain mask that may be wrong."""
    warnings = [*known.get("Warnings", ()), *remarks]
    if not brain_warning:
        return {"Warnings": warnings}
    return {"BrainImplausible": True, "Warnings": [*warnings, brain_warning]}


class CorrectPartialVolume(SimpleInterface):
    """Estimate regional signals by the geometric transfer matrix."""

    input_spec = _RegionalSignalsInput
    output_spec = _RegionalSignalsOutput

    def _run_interface(self, runtime: Any) -> Any:
        image, affine = load_finite_image(self.inputs.image_file)
        noise, _ = load_image(self.inputs.noise_file)
        spectrum = load_response(self.inputs.response_file).noise_spectrum
        with np.load(self.inputs.regions_file) as regions:
            fractions, blurred = regions["fractions"], regions["blurred"]
            remarks = regions["remarks"].tolist()
        estimate = geometric_transfer_matrix(image, fractions, blurred, noise, spectrum)
        known = self.inputs.properties
        voxel = np.linalg.norm(affine[:3, :3], axis=0)
        fwhm = np.asarray(known["PointSpreadFWHM"]["GM"]) / voxel
        spread = known.get("RegistrationSpread")
        shift = (np.nan if spread is None else spread) / np.sqrt(3) / voxel
        np.savez(
            Path(runtime.cwd) / "signals.npz",
            values=estimate.values,
            covariance=estimate.covariance,
            mixing=estimate.mixing,
            kernel_change=kernel_change(
                image, fractions, blurred, fwhm, known["PointSpreadUncertainty"]
            ),
            registration_changes=registration_changes(image, fractions, estimate.mixing, shift),
        )
        self._results["signals_file"] = str(Path(runtime.cwd) / "signals.npz")
        self._results["properties"] = {
            **known,
            "ConditionNumber": round(estimate.condition_number, 2),
            **_told([*remarks], self.inputs.brain_warning, known),
        }
        return runtime
