"""Concentration maps without partial-volume effect, on the sodium grid and on the anatomy's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, traits

from sodiumprep.interfaces.calibrate import load_lines, protocol_of
from sodiumprep.interfaces.concentration import QuantifyInput
from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.interfaces.pvc import FEED, load_signals
from sodiumprep.interfaces.reconstruct import tissue_constants
from sodiumprep.interfaces.registration import read_transform
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.concentration import BrainRegions, map_concentration
from sodiumprep.sodium.pvc.shown import SampledRegions
from sodiumprep.sodium.pvc.voxelwise import SMALLEST_TARGET, mtc, rbv

KINDS = ("apparent", "corrected", "uncertainty")
FINE = {"rbv": rbv, "iy": rbv, "mtc": mtc}  # a map of the finer grid, from values of the coarser


class _MapCorrectedInput(QuantifyInput):
    map_files = traits.Dict(mandatory=True, desc="corrected images by method [signal]")
    anatomy_file = File(exists=True, mandatory=True, desc="fractions on the anatomy's grid (npz)")
    reference_file = File(exists=True, mandatory=True, desc="image whose grid is taken")
    xfm_file = File(exists=True, mandatory=True, desc="points of the anatomy to points of sodium")


class _MapCorrectedOutput(TraitedSpec):
    map_files = traits.Dict(desc="maps by method and port, as 'rbv:corrected_file' [mmol/L]")


class MapCorrected(SimpleInterface):
    """Turn corrected images into concentration maps, and make them anew at the anatomy's detail.

    What a tissue holds is known from the anatomy at its own resolution, and only what the image
    adds to it, which is smooth, is interpolated: a map in the space of the anatomy is as sharp as
    the fractions are.
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
        return runtime


@dataclass(frozen=True)
class _Scene:
    """One sodium image, its regions, and the anatomy."""

    inputs: Any
    image: Floats
    affine: Floats
    names: list[str]
    kinds: Floats
    fractions: Floats
    blurred: Floats
    signals: Mapping[str, Any]
    fine: Floats  # fractions of the tissues and lesions on the grid of the anatomy
    fine_affine: Floats

    @classmethod
    def load(cls, inputs: Any) -> _Scene:
        image, affine = load_finite_image(inputs.image_file)
        with np.load(inputs.regions_file) as stored:
            names, kinds = stored["names"].tolist(), stored["kinds"]
            fractions, blurred = stored["fractions"], stored["blurred"]
        with np.load(inputs.anatomy_file) as stored:
            fine = stored["fractions"]
        _, fine_affine = load_image(inputs.reference_file)
        signals = load_signals(inputs.signals_file)
        return cls(inputs, image, affine, names, kinds, fractions, blurred, signals, fine,
                   fine_affine)  # fmt: skip

    def _brain(self, method: str) -> tuple[Floats, Floats]:
        """Return which regions belong to the brain, and the values of those."""
        tissue = self.kinds == "tissue"
        return tissue, self.signals[method].values[tissue]

    def save(
        self, folder: Path, method: str, place: str, image_and_noise: tuple[Floats, Floats]
    ) -> dict[str, str]:
        """Write the concentration maps of an image without partial-volume effect."""
        image, noise = image_and_noise
        tissue, _ = self._brain(FEED)
        values = self.signals[FEED].values[tissue]
        shares = self.fine if place else self.fractions[tissue]
        by_name = tissue_constants(self.inputs.tissues)
        constants = [by_name[name] for name in np.asarray(self.names)[tissue]]
        lines, _ = load_lines(self.inputs.calibration_file)
        brain = BrainRegions(shares, values, constants)
        done = map_concentration(image, noise, brain, protocol_of(self.inputs.protocol), lines)
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
        if method in FINE:
            image, gain = self._by_fractions(method)
            sd = gain * self._moved(load_image(self.inputs.noise_file)[0])
        elif method == "mg":
            image, sd = self._of_target(), self._moved(noise)
        elif method == "regression":
            image, sd = self._of_local(files), self._moved(noise)
        else:
            image, sd = self._moved(load_image(files["image_file"])[0]), self._moved(noise)
        seen = np.isfinite(self._moved(np.zeros_like(noise), np.nan))
        return tuple(np.where(seen, part, np.nan) for part in (image, np.abs(sd)))

    def _by_fractions(self, method: str) -> tuple[Floats, Floats]:
        """Return a map made from fine fractions, and its change with the image.

        Vials and the head around the brain are taken off the image first: what is left is
        made of the brain's regions, beside nothing.
        """
        tissue, values = self._brain(method)
        rest = np.where(tissue, 0, self.signals[method].values)
        alone = self.image - np.tensordot(rest, self.blurred, 1).astype(np.float32)
        shown = [self._moved(b) for b in self.blurred[tissue]]
        parts = np.stack([*self.fine, 1 - self.fine.sum(axis=0)])
        regions = SampledRegions(parts, np.stack([*shown, 1 - np.sum(shown, axis=0)]))
        made = FINE[method](self._moved(alone), regions, np.append(values, 0.0))
        return made.image, made.by_image

    def _of_target(self) -> Floats:
        """Return the map of grey matter; 0 where the image hardly shows it."""
        target = self.names.index("GM")
        others = self.signals["mg"].values.copy()
        others[target] = 0
        rest = self.image - np.tensordot(others, self.blurred, 1).astype(np.float32)
        blurred = self._moved(self.blurred[target])
        divisor = np.maximum(blurred, SMALLEST_TARGET)
        return np.where(blurred >= SMALLEST_TARGET, self._moved(rest) / divisor, 0)

    def _of_local(self, files: Mapping[str, str]) -> Floats:
        """Return local signals put together by fine fractions."""
        tissue, values = self._brain("regression")
        total = np.zeros(self.fine.shape[1:], np.float32)
        for name, value, share in zip(
            np.asarray(self.names)[tissue], values, self.fine, strict=True
        ):
            path = files.get(f"local:{name}")
            total += share * (value if path is None else self._moved(load_image(path)[0]))
        return total
