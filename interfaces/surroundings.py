"""Label images that lesions give: shells around them, and what lies opposite of them."""

from __future__ import annotations

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

from sodiumprep.interfaces.image import load_finite_image, save_image
from sodiumprep.interfaces.regions import CarvedAnatomy, load_carved
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.surroundings import find_reflection, mirror_labels, shell_labels


class _LabelsOutput(TraitedSpec):
    out_file = File(exists=True, desc="labels on the grid of the anatomy")
    without = traits.Dict(desc="why a label has no value, by label")
    told = traits.Dict(desc="entries of sidecars")


class _LabelShellsInput(BaseInterfaceInputSpec):
    fine_file = File(exists=True, mandatory=True, desc="brain and lesions (npz)")
    edges = traits.List(traits.Float, mandatory=True, desc="outer distances of the shells [mm]")


class LabelShells(SimpleInterface):
    """Label shells around all lesions by their distance, inside the brain."""

    input_spec = _LabelShellsInput
    output_spec = _LabelsOutput

    def _run_interface(self, runtime: Any) -> Any:
        known = load_carved(self.inputs.fine_file)
        edges = list(self.inputs.edges)
        labels = shell_labels(known.lesion, known.brain, known.spacing, edges)
        path = Path(runtime.cwd) / "shells.nii.gz"
        self._results["out_file"] = save_image(path, labels, known.affine)
        self._results |= {"without": {}, "told": {}}
        return runtime


class _LabelMirrorsInput(BaseInterfaceInputSpec):
    fine_file = File(exists=True, mandatory=True, desc="brain and lesions (npz)")
    anat_file = File(exists=True, mandatory=True, desc="1H image, bias-corrected")
    classes = traits.List(traits.Str, mandatory=True, desc="class n has the label n")


class LabelMirrors(SimpleInterface):
    """Label what lies opposite of each lesion class, in the other hemisphere."""

    input_spec = _LabelMirrorsInput
    output_spec = _LabelsOutput

    def _run_interface(self, runtime: Any) -> Any:
        known = load_carved(self.inputs.fine_file)
        reflection = find_reflection(self._anatomy(known), known.brain, known.lesion, known.affine)
        lesions = {name: known.lesions[name] for name in self.inputs.classes}
        labels, without = mirror_labels(lesions, known.brain, reflection.index_map(known.affine))
        path = Path(runtime.cwd) / "mirrors.nii.gz"
        self._results["out_file"] = save_image(path, labels, known.affine)
        self._results["without"] = without
        self._results["told"] = {
            "MirrorMatrix": np.round(reflection.matrix, 6).tolist(),
            "MirrorCorrelation": round(reflection.correlation, 4),
            "MirrorSpread": round(reflection.spread, 3),
        }
        return runtime

    def _anatomy(self, known: CarvedAnatomy) -> Any:
        image, own = load_finite_image(self.inputs.anat_file)
        mapping = index_map(known.affine, own, np.eye(4))
        return resample(image, mapping, known.brain.shape, 1)
