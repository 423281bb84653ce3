"""Saving results under their final names, each with a sidecar that says what it rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    Undefined,
    isdefined,
    traits,
)

from sodiumprep.interfaces.calibrate import load_lines
from sodiumprep.interfaces.equation import explained_equation
from sodiumprep.interfaces.files import copy_file, write_text, written
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.lesions import load_lesion
from sodiumprep.interfaces.quality import (
    calibration_figures,
    concentrations,
    judged,
    noise_levels,
)
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.concentration_map import APPARENT_TERMS, TERMS
from sodiumprep.sodium.pvc import METHODS as PVC_METHODS

# port -> (unit, description)
ANATOMY_FILES: dict[str, tuple[str, str]] = {
    "preproc_file": ("arbitrary", "1H image, bias field removed"),
    "brain_mask": ("1", "Brain mask"),
    "head_mask": ("1", "Mask of the whole head"),
    "gm_file": ("1", "Volume fraction of grey matter"),
    "wm_file": ("1", "Volume fraction of white matter"),
    "csf_file": ("1", "Volume fraction of cerebrospinal fluid"),
    "dseg_file": ("1", "Tissue of the largest fraction: GM 1, WM 2, CSF 3"),
    "to_template_xfm": ("mm", "Resamples the subject to the template"),
    "from_template_xfm": ("mm", "Resamples the template to the subject"),
    "brain_volume_ml": ("ml", "Volume of the brain mask"),
    "brain_warning": ("", "Why the brain mask may be wrong"),
    "normalization_warning": ("", "Why the normalization may be wrong"),
    "ready_warning": ("", "What must be said of ready-made anatomy"),
}
TSC = "mmol/L"
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
QUALITY_HEAD = {"Description": "Figures of quality; their units and thresholds: docs/quality.md"}
NOT_SAVED = {  # numbers of the sidecars
    "brain_volume_ml", "brain_warning", "normalization_warning", "ready_warning",
    "calibration_file", "equation_file",
}  # fmt: skip


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, complete or not at all; nan becomes null, folders are made.

    Parameters
    ----------
    path
        File to write.
    content
        What to write.
    """
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def save_as(source: str, target: str) -> None:
    """Copy a result to its final name, complete or not at all; images get one header.

    Parameters
    ----------
    source, target
        Files; an existing target is replaced.
    """
    if not target.endswith(".nii.gz"):
        copy_file(source, target)
        return
    values, affine = load_image(source)
    with written(target) as partial:
        save_image(partial, _as_stored(values, Path(target).name), affine)


def _as_stored(values: Any, name: str) -> Any:
    return values.astype(np.int16) if name.endswith(("_mask.nii.gz", "dseg.nii.gz")) else values


def sidecar_head(target: str, units: str, description: str) -> dict[str, Any]:
    """Return the first entries of a sidecar; no image of ours is skull-stripped."""
    head: dict[str, Any] = {"Description": description, "Units": units}
    return {**head, "SkullStripped": False} if target.endswith(".nii.gz") else head


def sidecar_path(target: str) -> Path:
    """Return the path of a file's sidecar."""
    name = Path(target).name
    for extension in (".nii.gz", ".tsv", ".txt", ".h5"):
        name = name.removesuffix(extension)
    return Path(target).with_name(f"{name}.json")


class _SavedOutput(TraitedSpec):
    out_files = traits.List(File(exists=True), desc="what was written")


class Saving(SimpleInterface):
    """Writes results under their final names, in every run.

    A cache cannot know whether what it once wrote outside of itself is still there.
    """

    _always_run = True


class _SaveAnatomyInput(BaseInterfaceInputSpec):
    outputs = traits.Dict(mandatory=True, desc="output path by port; a port without is not saved")
    provenance = traits.Dict(mandatory=True, desc="entries of every sidecar")
    lesion_files = traits.Dict(usedefault=True, desc="lesion masks by class, any grid")
    preproc_file = File(exists=True, mandatory=True, desc="1H image")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask")
    head_mask = File(exists=True, mandatory=True, desc="head mask")
    gm_file = File(exists=True, mandatory=True, desc="grey-matter fraction")
    wm_file = File(exists=True, mandatory=True, desc="white-matter fraction")
    csf_file = File(exists=True, mandatory=True, desc="CSF fraction")
    dseg_file = File(exists=True, desc="tissue labels")
    to_template_xfm = File(exists=True, desc="subject to template")
    from_template_xfm = File(exists=True, desc="template to subject")
    brain_volume_ml = traits.Float(desc="[ml]")
    brain_warning = traits.Str(desc="empty if the brain mask is plausible")
    normalization_warning = traits.Str(desc="empty if the normalization is plausible")
    ready_warning = traits.Str(desc="what must be said of ready-made anatomy, or empty")


class SaveAnatomy(Saving):
    """Save the anatomy with its sidecars."""

    input_spec = _SaveAnatomyInput
    output_spec = _SavedOutput

    def _run_interface(self, runtime: Any) -> Any:
        written = []
        numbers = {
            "BrainVolume": getattr(self.inputs, "brain_volume_ml", None),
            "BrainWarning": getattr(self.inputs, "brain_warning", None),
            "NormalizationWarning": getattr(self.inputs, "normalization_warning", None),
            "ReadyMadeWarning": getattr(self.inputs, "ready_warning", None),
        }
        known = {k: v for k, v in numbers.items() if isdefined(v) and v not in (None, "")}
        for port, (units, description) in ANATOMY_FILES.items():
            source = getattr(self.inputs, port)
            if port not in self.inputs.outputs or not isdefined(source):
                continue
            target = self.inputs.outputs[port]
            save_as(source, target)
            write_json(
                sidecar_path(target),
                {**sidecar_head(target, units, description), **self.inputs.provenance, **known},
            )
            written.append(target)
        for name, source in self.inputs.lesion_files.items():
            target = str(self.inputs.outputs[f"lesion_{name}"])
            said = {"Description": f"Lesion mask: {name}", **self.inputs.provenance}
            save_lesion_mask(source, self.inputs.preproc_file, target, said)
            written.append(target)
        self._results["out_files"] = written
        return runtime


def save_lesion_mask(
    source: str, reference_file: str, target: str, sidecar: Mapping[str, Any]
) -> None:
    """Save a lesion mask on the grid of the anatomy.

    Parameters
    ----------
    source
        Mask or fraction on any grid.
    reference_file
        Image whose grid is taken.
    target
        NIfTI file to write; its sidecar lies beside it.
    sidecar
        Entries of it.
    """
    mask, own = load_lesion(source)
    reference, affine = load_image(reference_file)
    moved = resample(mask, index_map(affine, own, np.eye(4)), reference.shape, 1) > 0.5
    with written(target) as partial:
        save_image(partial, moved, affine)
    write_json(sidecar_path(target), {"Units": "1", **sidecar})


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
    output_spec = _SavedOutput

    def _run_interface(self, runtime: Any) -> Any:
        lines, references = load_lines(self.inputs.calibration_file)
        used = _numbers_used(self.inputs)
        table = pd.read_csv(self.inputs.table_file, sep="\t")
        written = []
        for port, (units, description) in SODIUM_FILES.items():
            if port in NOT_SAVED or getattr(self.inputs, port) in (None, Undefined):
                continue
            target = self.inputs.outputs[port]
            save_as(getattr(self.inputs, port), target)
            head = sidecar_head(target, units, description)
            columns = _explained(table) if port == "table_file" else {}
            rest = self._beside(table) if port == "table_file" else {}
            terms = _uncertainty_of(port, self.inputs.uncertainty_terms)
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


def _numbers_used(inputs: Any) -> dict[str, Any]:
    """Return what the sidecar of a concentration says: calibration, constants, kernel."""
    lines, references = load_lines(inputs.calibration_file)
    return {
        **inputs.provenance,
        "Calibration": {
            **references,
            "Lines": {name: vars(line) for name, line in lines.items()},
        },
        "RelaxationConstants": dict(inputs.tissues),
        "PointSpreadFWHM": inputs.properties["PointSpreadFWHM"],
        "ReceiveCorrection": inputs.properties["ReceiveCorrection"],
        "TransmitCorrection": inputs.properties.get("TransmitCorrection", "none"),
        "PartialVolumeCorrection": "gtm (regional values)",
        **_noise_bias(inputs.properties),
    }


def _noise_bias(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {key: properties[key] for key in ("NoiseBias",) if key in properties}


def _uncertainty_of(port: str, terms: Mapping[str, str]) -> dict[str, Any]:
    """Return what the sidecar of a map of the uncertainty says of its terms; else nothing."""
    if port.removeprefix("anat_") != "uncertainty_file":
        return {}
    return {
        "UncertaintyTerms": dict(terms),
        "UncertaintyWithout": [name for name in TERMS if name not in terms],
    }


SPACE_FILES: dict[str, tuple[str, str]] = {
    "apparent_file": (TSC, "Apparent tissue sodium concentration in the space of a template"),
    "corrected_file": (TSC, "Tissue sodium concentration in the space of a template"),
    "uncertainty_file": (TSC, "Its standard uncertainty in the space of a template"),
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
    output_spec = _SavedOutput

    def _run_interface(self, runtime: Any) -> Any:
        used = _numbers_used(self.inputs)
        written = []
        for port, (units, description) in SPACE_FILES.items():
            target = self.inputs.outputs[port]
            save_as(getattr(self.inputs, port), target)
            terms = _uncertainty_of(port, self.inputs.uncertainty_terms)
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
    output_spec = _SavedOutput

    def _run_interface(self, runtime: Any) -> Any:
        used = _numbers_used(self.inputs)
        written = []
        for key, source in self.inputs.map_files.items():
            method, port = key.split(":")
            target = self.inputs.outputs[key]
            save_as(source, target)
            units, description = SODIUM_FILES[port]
            text = f"{description}; corrected for partial volume: {PVC_METHODS[method]}"
            head = sidecar_head(target, units, text)
            own = {
                **_uncertainty_of(port, self.inputs.uncertainty_terms),
                "PartialVolumeCorrection": method,
            }
            write_json(sidecar_path(target), {**head, **used, **own})
            written.append(target)
        self._results["out_files"] = written
        return runtime


class _SaveTransformsInput(BaseInterfaceInputSpec):
    outputs = traits.Dict(mandatory=True, desc="output path by port")
    provenance = traits.Dict(mandatory=True, desc="entries of every sidecar")
    to_template_xfm = File(exists=True, mandatory=True, desc="subject to template")
    from_template_xfm = File(exists=True, mandatory=True, desc="template to subject")
    overlap = traits.Float(mandatory=True, desc="Dice coefficient of the brains")
    warning = traits.Str(mandatory=True, desc="empty if the normalization is plausible")


class SaveTransforms(Saving):
    """Save both transforms between the anatomy and a template."""

    input_spec = _SaveTransformsInput
    output_spec = _SavedOutput

    def _run_interface(self, runtime: Any) -> Any:
        written = []
        for port in ("to_template_xfm", "from_template_xfm"):
            units, description = ANATOMY_FILES[port]
            target = self.inputs.outputs[port]
            save_as(getattr(self.inputs, port), target)
            head: dict[str, Any] = {
                "Description": description,
                "Units": units,
                "BrainOverlap": self.inputs.overlap,
            }
            if self.inputs.warning:
                head["NormalizationWarning"] = self.inputs.warning
            write_json(sidecar_path(target), {**head, **self.inputs.provenance})
            written.append(target)
        self._results["out_files"] = written
        return runtime


NONLINEAR_FILES: dict[str, tuple[str, str]] = {
    "image_file": ("arbitrary", "Sodium image, receive-corrected"),
    "noise_file": ("arbitrary", "Standard deviation of its noise, by pseudo-replicas"),
    "apparent_file": (TSC, "Apparent tissue sodium concentration"),
    "corrected_file": (TSC, "Tissue sodium concentration"),
    "uncertainty_file": (TSC, "Its standard uncertainty"),
}


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
    output_spec = _SavedOutput

    def _run_interface(self, runtime: Any) -> Any:
        kept = ("Reconstruction", "ReconstructionReason", "PointSpreadFWHM", "PointSpreadLocalAt")
        used = {
            **_numbers_used(self.inputs),
            **{key: self.inputs.properties[key] for key in kept},
            "PartialVolumeCorrection": "none",
        }
        written = []
        for port, (units, description) in NONLINEAR_FILES.items():
            target = self.inputs.outputs[port]
            save_as(getattr(self.inputs, port), target)
            terms = _uncertainty_of(port, self.inputs.uncertainty_terms)
            head = sidecar_head(target, units, description)
            write_json(sidecar_path(target), {**head, **used, **terms})
            written.append(target)
        quality = Path(self.inputs.outputs["qc"])
        write_json(quality, judged({**QUALITY_HEAD, **self.inputs.properties, **used}))
        self._results["out_files"] = [*written, str(quality)]
        return runtime


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
    output_spec = _SavedOutput

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
            **_noise_bias(known),
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
            terms = _uncertainty_of(port, APPARENT_TERMS)
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


def _explained(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return the description of each column that a table has."""
    every = {**TABLE_COLUMNS, **EFFECT_COLUMNS}
    return {name: every[name] for name in table.columns}


FLAGS = (
    "registration_failed",
    "receive_uncorrected",
    "smaller_than_psf",
    "partly_outside",
    "brain_implausible",
    "entangled",
    "calibration_forced",
    "coverage_too_low",
    "too_small",
    "negative",
    "on_midline",
    "mirror_not_free",
    "indistinct",
)
TABLE_COLUMNS: dict[str, dict[str, str]] = {
    name: {"Description": text, "Units": units}
    for name, units, text in (
        ("index", "1", "GM 1, WM 2, CSF 3, lesions from 4; labels of other segmentations"),
        ("name", "1", "Region"),
        (
            "pvc",
            "1",
            "Partial-volume correction: "
            + "; ".join(f"{method}: {text}" for method, text in PVC_METHODS.items()),
        ),
        ("desc", "1", "apparent, or corrected for relaxation"),
        ("n_voxels", "1", "Sum of the region's fractions over the sodium voxels"),
        ("volume_ml", "ml", "Volume of the region in the anatomy"),
        ("mean", TSC, "Concentration; for pvc none the fraction-weighted mean"),
        ("sd", TSC, "Fraction-weighted standard deviation over voxels"),
        ("median", TSC, "Fraction-weighted median"),
        ("q25", TSC, "Fraction-weighted lower quartile"),
        ("q75", TSC, "Fraction-weighted upper quartile"),
        ("uncertainty", TSC, "Combined standard uncertainty of the mean"),
        ("u_noise", TSC, "Term of it: image noise, with its correlation"),
        ("u_calibration", TSC, "Term of it: calibration line"),
        ("u_relaxation", TSC, "Term of it: relaxation constants"),
        ("u_receive", TSC, "Term of it: receive profile against the reference"),
        ("u_b1", TSC, "Term of it: transmit field against the reference"),
        ("u_pvc", TSC, "Term of it: width of the point-spread function"),
        ("u_segmentation", TSC, "Term of it: where the borders of tissues and lesions lie"),
        ("u_registration", TSC, "Term of it: position of the sodium image"),
        ("ci_low", TSC, "Lower end of the 95 % interval"),
        ("ci_high", TSC, "Upper end of the 95 % interval"),
        ("snr", "1", "Mean over the noise SD of one voxel"),
        ("coverage", "1", "Share of the region's volume inside the sodium field of view"),
        ("flag", "1", f"What to mind: {', '.join(FLAGS)}"),
    )
}
EFFECT_COLUMNS: dict[str, dict[str, str]] = {
    name: {"Description": text, "Units": TSC}
    for name, text in (
        ("change_position_1mm", "Largest change that 1 mm of misregistration makes"),
        ("change_psf_10percent", "Change where every kernel is wider by 10 %"),
        ("change_segmentation_0.5mm", "Change where borders lie 0.5 mm elsewhere, independently"),
    )
}
PARCEL_COLUMNS: dict[str, dict[str, str]] = {
    **TABLE_COLUMNS,
    "index": {"Description": "Label of the atlas", "Units": "1"},
    "tissue": {
        "Description": "What of the region the row is of: GM, WM, CSF, or all (GM and WM); or a "
        "lesion",
        "Units": "1",
    },
    **{
        f"q{percent:02d}": {
            "Description": f"Fraction-weighted {percent}th percentile",
            "Units": TSC,
        }
        for percent in (5, 10, 90, 95)
    },
    "ratio": {
        "Description": "Mean of the lesion class over the mean of this row, which lies opposite",
        "Units": "1",
    },
    "u_ratio": {
        "Description": "Standard uncertainty of the ratio; what both share cancels",
        "Units": "1",
    },
}


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
    output_spec = _SavedOutput

    def _run_interface(self, runtime: Any) -> Any:
        target = self.inputs.output
        save_as(self.inputs.table_file, target)
        head = {"Description": "Tissue sodium concentrations of an atlas", "Units": TSC}
        used = _numbers_used(self.inputs)
        held = pd.read_csv(target, sep="\t", nrows=0)
        columns = {name: PARCEL_COLUMNS[name] for name in held}
        write_json(sidecar_path(target), {**columns, **head, **used, **self.inputs.told})
        self._results["out_files"] = [target]
        return runtime
