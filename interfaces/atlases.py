"""Label images of atlases: brought to a subject's anatomy, and saved with what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from sodiumprep.interfaces.anatomy import labels_through
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.sidecars import Saving, save_as, sidecar_path, write_json
from sodiumprep.interfaces.templates import embedded_template
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.lobes import LOBES, lobe_labels

BUILT_IN = {"lobes": LOBES}  # atlases that need no file, with the names of their labels
GRID = 1  # mm; voxel edge of a built-in atlas


class _BringLabelsInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, desc="label image; without it a built-in atlas")
    built_in = traits.Enum(*BUILT_IN, usedefault=True, desc="which")
    reference_file = File(exists=True, mandatory=True, desc="1H image whose grid is taken")
    in_template = traits.Bool(mandatory=True, desc="or else in the space of the anatomy")
    template_xfm = File(exists=True, desc="resamples the template to the anatomy, if in_template")
    names = traits.Dict(mandatory=True, desc="name of each label")


class _BringLabelsOutput(TraitedSpec):
    out_file = File(exists=True, desc="labels on the grid of the anatomy; others are 0")
    missing = traits.List(traits.Str, desc="names of labels of which nothing is left")


class BringLabels(SimpleInterface):
    """Bring the labels of an atlas to the grid of the anatomy; each voxel takes the nearest."""

    input_spec = _BringLabelsInput
    output_spec = _BringLabelsOutput

    def _run_interface(self, runtime: Any) -> Any:
        if self.inputs.in_template != isdefined(self.inputs.template_xfm):
            raise ValueError(
                "labels in the space of a template need its transform to the anatomy, others none"
            )
        values, affine = self._labels()
        reference, target = load_image(self.inputs.reference_file)
        if self.inputs.in_template:
            moved = labels_through(
                values, affine, reference.shape, target, [self.inputs.template_xfm]
            )
        else:
            moved = resample(values, index_map(target, affine, np.eye(4)), reference.shape, 0)
        labels = np.rint(moved).astype(np.int32)
        known = {int(label): str(name) for label, name in self.inputs.names.items()}
        labels[~np.isin(labels, list(known))] = 0
        left = set(np.unique(labels).tolist())
        self._results["missing"] = [name for label, name in known.items() if label not in left]
        if not left - {0}:
            raise ValueError(
                f"{self.inputs.in_file}: no label lies inside {self.inputs.reference_file}: is "
                "the atlas in the space that its name says?"
            )
        path = Path(runtime.cwd) / "labels.nii.gz"
        self._results["out_file"] = save_image(path, labels, target)
        return runtime

    def _labels(self) -> tuple[Any, Any]:
        if isdefined(self.inputs.in_file):
            return load_image(self.inputs.in_file)
        brain, affine = embedded_template("template", GRID)
        return lobe_labels(brain.shape, affine).astype(np.float32), affine


LABEL_COLUMNS = {
    "index": {"Description": "Label, as the image holds it", "Units": "1"},
    "name": {"Description": "Region", "Units": "1"},
}


class _SaveLabelsInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="labels on the grid of the anatomy")
    names = traits.Dict(mandatory=True, desc="name of each label")
    missing = traits.List(traits.Str, mandatory=True, desc="of which nothing is left")
    outputs = traits.Dict(mandatory=True, desc="paths of labels and table")
    provenance = traits.Dict(mandatory=True, desc="entries of the sidecar")
    told = traits.Dict(usedefault=True, desc="more of them")


class _SavedOutput(TraitedSpec):
    out_files = traits.List(File(exists=True), desc="what was written")


class SaveLabels(Saving):
    """Save the labels of an atlas on the grid of the anatomy, and the table of their names."""

    input_spec = _SaveLabelsInput
    output_spec = _SavedOutput

    def _run_interface(self, runtime: Any) -> Any:
        target = self.inputs.outputs["labels"]
        save_as(self.inputs.in_file, target)
        head: dict[str, Any] = {"Description": "Labels of an atlas in the space of the anatomy"}
        if self.inputs.missing:
            head["LabelsWithoutVoxel"] = list(self.inputs.missing)
        told = {**head, "Units": "1", **LABEL_COLUMNS, **self.inputs.provenance}
        told |= self.inputs.told
        write_json(sidecar_path(target), told)  # of the image and of its table, which share a name
        rows = [{"index": int(n), "name": name} for n, name in self.inputs.names.items()]
        table = Path(self.inputs.outputs["table"])
        pd.DataFrame(rows).to_csv(Path(runtime.cwd) / "labels.tsv", sep="\t", index=False)
        save_as(str(Path(runtime.cwd) / "labels.tsv"), str(table))
        self._results["out_files"] = [target, str(table)]
        return runtime
