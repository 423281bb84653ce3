"""Receive correction: from an array/volume pair or a receive map to a corrected image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    SimpleInterface,
    TraitedSpec,
    Undefined,
    isdefined,
    traits,
)

from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.coil_fields import (
    SmoothField,
    fit_receive_correction,
    grid_positions,
    inverse_map,
)
from sodiumprep.sodium.noise import background_moments, unbiased_magnitude


class _CorrectReceiveInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="sodium image [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    static_image_file = File(exists=True, desc="image of what does not move with the head")
    static_noise_file = File(exists=True, desc="its noise SD [signal]")
    properties = traits.Dict(mandatory=True, desc="of the image; 'Coils' is read")
    array_files = InputMultiPath(File(exists=True), desc="RB1COR images of the array")
    volume_files = InputMultiPath(File(exists=True), desc="RB1COR images of the volume coil")
    map_file = File(exists=True, desc="RB1map, relative receive sensitivity")


class _CorrectReceiveOutput(TraitedSpec):
    out_file = File(exists=True, desc="corrected image [signal]")
    noise_file = File(exists=True, desc="its noise SD [signal]")
    static_file = File(exists=True, desc="corrected static image [signal]; out_file without one")
    static_noise_file = File(exists=True, desc="its noise SD [signal]")
    field_file = File(exists=True, desc="factor that was applied, on the grid of the image")
    model_file = traits.Either(None, File(exists=True), desc="the fitted field (npz), or None")
    properties = traits.Dict(desc="input properties and what was corrected")


class CorrectReceive(SimpleInterface):
    """Multiply a sodium image by the inverse of its receive profile.

    The coils stay where they are, so an image of what does not move with the head has the same.
    """

    input_spec = _CorrectReceiveInput
    output_spec = _CorrectReceiveOutput

    def _run_interface(self, runtime: Any) -> Any:
        image, affine = load_finite_image(self.inputs.image_file)
        noise, _ = load_image(self.inputs.noise_file)
        out = Path(runtime.cwd)
        field, source, model = self._field(image.shape, affine)
        self._results["model_file"] = None if model is None else _save(out / "field.npz", model)
        for name, values in (("out_file", image * field), ("noise_file", noise * field)):
            self._results[name] = save_image(out / f"{name}.nii.gz", values, affine)
        self._static(field, affine, out)
        self._results["field_file"] = save_image(out / "field.nii.gz", field, affine)
        coils = int(self.inputs.properties.get("Coils", 0))
        self._results["properties"] = {
            **self.inputs.properties,
            "ReceiveCorrection": source,
            "ReceiveUncorrected": source == "none" and coils != 1,
        }
        return runtime

    def _static(self, field: Floats, affine: Floats, out: Path) -> None:
        given, names = self.inputs, ("static_image_file", "static_noise_file")
        if getattr(given, names[0]) in (Undefined, given.image_file):
            self._results["static_file"] = self._results["out_file"]
            self._results["static_noise_file"] = self._results["noise_file"]
            return
        for name, result in zip(names, ("static_file", "static_noise_file"), strict=True):
            values, _ = load_image(getattr(given, name))
            self._results[result] = save_image(out / f"{result}.nii.gz", values * field, affine)

    def _field(
        self, shape: tuple[int, ...], affine: Floats
    ) -> tuple[Floats, str, SmoothField | None]:
        if isdefined(self.inputs.array_files) and isdefined(self.inputs.volume_files):
            model = _fit_pair(self.inputs.array_files, self.inputs.volume_files)
            values = model(grid_positions(shape, affine)).reshape(shape)
            return values.astype(np.float32), "RB1COR", model
        if isdefined(self.inputs.map_file):
            profile, own = load_finite_image(self.inputs.map_file)
            sampled = resample(profile, index_map(affine, own, np.eye(4)), shape, 1)
            return inverse_map(sampled), "RB1map", None
        return np.ones(shape, np.float32), "none", None


def _mean_of(paths: list[str]) -> tuple[Floats, Floats, float]:
    """Return the mean of repeats without noise bias, its affine, and its noise SD."""
    loaded = [load_finite_image(path) for path in paths]
    for path, (values, affine) in zip(paths, loaded, strict=True):
        if values.shape != loaded[0][0].shape or not np.allclose(affine, loaded[0][1], atol=1e-3):
            raise ValueError(f"{path}: another grid than {paths[0]}")
    moments = [background_moments(values) for values, _ in loaded]
    clean = [
        unbiased_magnitude(values, m[1]) for (values, _), m in zip(loaded, moments, strict=True)
    ]
    return np.mean(clean, axis=0), loaded[0][1], moments[0][0] / np.sqrt(len(paths))


def _fit_pair(array_files: list[str], volume_files: list[str]) -> SmoothField:
    array, affine, array_noise = _mean_of(array_files)
    volume, own, volume_noise = _mean_of(volume_files)
    if volume.shape != array.shape or not np.allclose(affine, own, atol=1e-3):
        volume = resample(volume, index_map(affine, own, np.eye(4)), array.shape, 1)
    return fit_receive_correction(array, volume, affine, (array_noise, volume_noise))


def _save(path: Path, model: SmoothField) -> str:
    np.savez(path, **vars(model))
    return str(path)


def load_field(path: str) -> SmoothField:
    """Read a fitted field.

    Parameters
    ----------
    path
        ``.npz`` file that :class:`CorrectReceive` wrote.

    Returns
    -------
    field
        The smooth field.
    """
    with np.load(path) as stored:
        return SmoothField(**{name: stored[name] for name in stored.files})
