"""Saving the anatomy: images, lesion masks, and transforms to templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, isdefined, traits

from sodiumprep.interfaces.files import written
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.lesions import load_lesion
from sodiumprep.interfaces.sidecars import (
    Saving,
    WrittenFiles,
    save_as,
    sidecar_head,
    sidecar_path,
    write_json,
)
from sodiumprep.sodium.alignment import index_map, resample

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
    output_spec = WrittenFiles

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
    output_spec = WrittenFiles

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
