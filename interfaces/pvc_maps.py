"""Concentration maps without partial-volume effect, on the sodium grid and on the anatomy's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, traits

from sodiumprep.interfaces.calibrate import load_lines
from sodiumprep.interfaces.concentration import QuantifyInput, Regions
from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.interfaces.pvc import load_signals
from sodiumprep.interfaces.registration import read_transform
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.concentration_map import MapErrors, map_concentration
from sodiumprep.sodium.pvc.fine import BY_FRACTIONS, FineRegions

KINDS = ("apparent", "corrected", "uncertainty")


class _MapCorrectedInput(QuantifyInput):
    map_files = traits.Dict(mandatory=True, desc="corrected images by method [signal]")
    anatomy_file = File(exists=True, mandatory=True, desc="fractions on the anatomy's grid (npz)")
    reference_file = File(exists=True, mandatory=True, desc="image whose grid is taken")
    xfm_file = File(exists=True, mandatory=True, desc="points of the anatomy to points of sodium")


class _MapCorrectedOutput(TraitedSpec):
    map_files = traits.Dict(desc="maps by method and port, as 'rbv:corrected_file' [mmol/L]")
    uncertainty_terms = traits.Dict(desc="terms of their uncertainty, and what each is of")


class MapCorrected(SimpleInterface):
    """Turn corrected images into concentration maps, and make them anew at the anatomy's detail.

    See :mod:`sodiumprep.sodium.pvc.fine`.
    """

    input_spec = _MapCorrectedInput
    output_spec = _MapCorrectedOutput

    def _run_interface(self, runtime: Any) -> Any:
        folder = Path(runtime.cwd)
        scene = _Scene.load(self.inputs)
        written = {}
        for method, files in self.inputs.map_files.items():
            image, _ = load_image(files["image_file"])
            noise, _ = load_image(files["noise_file"])
            written |= scene.save(folder, method, "", (image, noise))
            written |= scene.save(folder, method, "anat_", scene.in_anatomy(method, files))
        self._results["map_files"] = written
        self._results["uncertainty_terms"] = dict(scene.terms)
        return runtime


@dataclass(frozen=True)
class _Scene:
    """One sodium image, its regions, and the anatomy."""

    inputs: Any
    image: Floats
    affine: Floats
    names: list[str]
    kinds: Floats
    regions: Regions
    errors: Mapping[str, MapErrors]  # on the sodium grid, and as "anat_" on that of the anatomy
    terms: dict[str, str]  # of the uncertainty, known when maps are made
    blurred: Floats
    signals: Mapping[str, Any]
    fine: Floats  # fractions of the tissues and lesions on the grid of the anatomy
    fine_affine: Floats

    @classmethod
    def load(cls, inputs: Any) -> _Scene:
        image, affine = load_finite_image(inputs.image_file)
        with np.load(inputs.regions_file) as stored:
            names, kinds = stored["names"].tolist(), stored["kinds"]
            blurred = stored["blurred"]
        with np.load(inputs.anatomy_file) as stored:
            fine = stored["fractions"]
        _, fine_affine = load_image(inputs.reference_file)
        signals = load_signals(inputs.signals_file)
        regions = Regions.load(inputs)
        errors = {"": regions.map_errors((image.shape, affine))}
        scene = cls(inputs, image, affine, names, kinds, regions, errors, {}, blurred, signals,
                    fine, fine_affine)  # fmt: skip
        errors["anat_"] = scene.moved_errors(errors[""])
        return scene

    def moved_errors(self, errors: MapErrors) -> MapErrors:
        """Return the errors of the coils' fields on the grid of the anatomy."""
        moved = {
            name: replace(coil, own=self._moved(coil.own), shared=self._moved(coil.shared))
            for name in ("receive", "transmit")
            if (coil := getattr(errors, name)) is not None
        }
        return replace(errors, **moved)

    def save(
        self, folder: Path, method: str, place: str, image_and_noise: tuple[Floats, Floats]
    ) -> dict[str, str]:
        """Write the concentration maps of an image without partial-volume effect."""
        image, noise = image_and_noise
        known = self.regions.brain
        shares = self.fine if place else self.regions.fractions
        lines, _ = load_lines(self.inputs.calibration_file)
        done = map_concentration(
            image, noise, replace(known, blurred=shares), self.regions.protocol, lines,
            self.errors[place],
        )  # fmt: skip
        self.terms.update(done.terms)
        affine = self.fine_affine if place else self.affine
        return {
            f"{method}:{place}{kind}_file": save_image(
                folder / f"{place}{method}_{kind}.nii.gz", getattr(done, kind), affine
            )
            for kind in KINDS
        }

    def _moved(self, values: Floats, outside: float = 0.0) -> Floats:
        transform = read_transform(self.inputs.xfm_file)
        mapping = index_map(self.fine_affine, self.affine, transform)
        return resample(values, mapping, self.fine.shape[1:], 3, outside=outside)

    def in_anatomy(self, method: str, files: Mapping[str, str]) -> tuple[Floats, Floats]:
        """Return a corrected image and its noise on the grid of the anatomy."""
        noise, _ = load_image(files["noise_file"])
        rests_on = self.signals[method].rests_on
        fine = FineRegions(self.blurred, self.kinds == "tissue", self.fine, self._moved)
        if method in BY_FRACTIONS:
            image, gain = fine.by_fractions(method, self.image, rests_on)
            sd = gain * self._moved(load_image(self.inputs.noise_file)[0])
        elif method == "mg":
            image = fine.of_target(self.image, rests_on, self.names.index("GM"))
            sd = self._moved(noise)
        elif method == "regression":
            tissues = np.asarray(self.names)[fine.chosen]
            files_of = {k: files.get(f"local:{name}") for k, name in enumerate(tissues)}
            local = {k: load_image(path)[0] for k, path in files_of.items() if path}
            image, sd = fine.of_local(local, rests_on), self._moved(noise)
        else:
            image, sd = self._moved(load_image(files["image_file"])[0]), self._moved(noise)
        seen = np.isfinite(self._moved(np.zeros_like(noise), np.nan))
        return np.where(seen, image, np.nan), np.where(seen, np.abs(sd), np.nan)
