"""Coil corrections: what the receive profile and the flip angle make of an image is undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from sodiumprep.sodium.concentration_map import FieldErrors, Grid
from sodiumprep.sodium.noise import background_moments, unbiased_magnitude
from sodiumprep.sodium.receive import (
    ReceiveFit,
    SquaredImage,
    fit_receive_correction,
    inverse_map,
    repeat_agreement,
)
from sodiumprep.sodium.reciprocity import receive_factor
from sodiumprep.sodium.smooth_field import SmoothField, grid_positions
from sodiumprep.sodium.transmit import (
    REFERENCE_T1,
    DoubleAngle,
    TransmitEffect,
    fit_double_angle,
    fit_transmit_map,
    relative_flip_angle,
    saturation_change,
    transmit_effect,
)

LARGEST_CHANGE = 0.02  # of the mean, between repeats of an array image
STANDS_OUT = 5.0  # noise SDs, what an uncertainty is told relative to
LARGEST_MOTION = 1.0  # mm, between the images of a pair


class _CorrectReceiveInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="sodium image [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    static_image_file = File(exists=True, desc="image of what does not move with the head")
    static_noise_file = File(exists=True, desc="its noise SD [signal]")
    properties = traits.Dict(mandatory=True, desc="of the image; 'Coils' is read")
    array_files = InputMultiPath(File(exists=True), desc="RB1COR images of the array")
    volume_files = InputMultiPath(File(exists=True), desc="RB1COR images of the volume coil")
    map_file = File(exists=True, desc="RB1map, relative receive sensitivity")
    transmit_map_file = File(exists=True, desc="TB1map of the coil that receives (reciprocity)")
    transmit_units = traits.Str("", usedefault=True, desc="of that map")
    angle_files = traits.List(File(exists=True), desc="TB1DAM of that coil, smaller angle first")
    flip_angle = traits.Float(desc="the smaller one of them [rad]")
    repetition_time = traits.Float(desc="of these images [s]")
    reciprocity_uncertainty = traits.Float(desc="relative, of the profile against that field")
    reciprocity_needed = traits.Bool(
        False, usedefault=True, desc="fail, rather than warn, where several coils receive"
    )


class _CorrectReceiveOutput(TraitedSpec):
    out_file = File(exists=True, desc="corrected image [signal]")
    noise_file = File(exists=True, desc="its noise SD [signal]")
    static_file = File(exists=True, desc="corrected static image [signal]; out_file without one")
    static_noise_file = File(exists=True, desc="its noise SD [signal]")
    field_file = File(exists=True, desc="factor that was applied, on the grid of the image")
    model_file = traits.Either(None, File(exists=True), desc="the fitted field (npz), or None")
    uncertainty_file = traits.Either(
        None, File(exists=True), desc="relative standard uncertainty of the field, or None"
    )
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
        field, source = self._field(image.shape, affine, out)
        for name, values in (("out_file", image * field), ("noise_file", noise * field)):
            self._results[name] = save_image(out / f"{name}.nii.gz", values, affine)
        self._static(field, affine, out)
        self._results["field_file"] = save_image(out / "field.nii.gz", field, affine)
        coils = int(self.inputs.properties.get("Coils", 0))
        self._results["properties"] |= {
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

    def _field(self, shape: tuple[int, ...], affine: Floats, out: Path) -> tuple[Floats, str]:
        given = self.inputs
        self._results |= {"model_file": None, "uncertainty_file": None}
        self._results["properties"] = dict(given.properties)
        if isdefined(given.array_files) and isdefined(given.volume_files):
            fit, told = _fit_pair(given.array_files, given.volume_files)
            warnings = [*given.properties.get("Warnings", []), *told.pop("Warnings")]
            self._results["properties"] |= {**told, "Warnings": warnings}
            self._results["model_file"] = _save(out / "field.npz", fit.field)
            places = grid_positions(shape, affine)
            spread = fit.field.relative_sd(places, fit.reference).astype(np.float32)
            path = out / "uncertainty.nii.gz"
            self._results["uncertainty_file"] = save_image(path, spread.reshape(shape), affine)
            return fit.field(places).reshape(shape).astype(np.float32), "RB1COR"
        if isdefined(given.map_file):
            profile, own = load_finite_image(given.map_file)
            sampled = resample(profile, index_map(affine, own, np.eye(4)), shape, 1)
            # of the map itself: images on other grids, as of a phantom, get the same factor
            level = float(np.median(profile[profile > 0])) if (profile > 0).any() else None
            return inverse_map(sampled, level), "RB1map"
        if isdefined(given.transmit_map_file) or isdefined(given.angle_files):
            return self._reciprocal(shape, affine, out)
        return np.ones(shape, np.float32), "none"

    def _reciprocal(self, shape: tuple[int, ...], affine: Floats, out: Path) -> tuple[Floats, str]:
        """Return the factor by the transmit field, unless several coils receive."""
        given = self.inputs
        coils = int(given.properties.get("Coils", 0))
        if coils > 1:
            told = f"{coils} coils receive: their profile is not that of the flip angle"
            if given.reciprocity_needed:
                raise ValueError(
                    f"{given.image_file}: --receive reciprocity: {told}; accepted: one coil that "
                    "transmits and receives"
                )
            warnings = [*given.properties.get("Warnings", []), f"receive: {told}; not corrected"]
            self._results["properties"]["Warnings"] = warnings
            return np.ones(shape, np.float32), "none"
        _, transmit = transmit_model(given.transmit_map_file, given.transmit_units, given)
        model = receive_factor(transmit, given.reciprocity_uncertainty)
        self._results["model_file"] = _save(out / "field.npz", model)
        places = grid_positions(shape, affine)
        factor = model(places).reshape(shape).astype(np.float32)
        spread = model.relative_sd(places, self._seen(model, factor, places))
        path = out / "uncertainty.nii.gz"
        uncertainty = spread.astype(np.float32).reshape(shape)
        self._results["uncertainty_file"] = save_image(path, uncertainty, affine)
        return factor, "reciprocity"

    def _seen(self, model: SmoothField, factor: Floats, places: Floats) -> Floats:
        """Return the mean of the basis over what stands out of the noise, weighted by signal."""
        image, noise = (load_image(p)[0] for p in (self.inputs.image_file, self.inputs.noise_file))
        stands_out = image > STANDS_OUT * noise
        weights = np.where(stands_out if stands_out.any() else True, np.abs(image) * factor, 0)
        return model.region_means(places, weights.reshape(1, -1))[0]


def _squared_images(paths: list[str]) -> tuple[list[SquaredImage], Floats]:
    """Return repeats on one grid, freed of their noise bias, and the affine."""
    loaded = [load_finite_image(path) for path in paths]
    first, affine = loaded[0]
    for path, (values, own) in zip(paths, loaded, strict=True):
        if values.shape != first.shape or not _same_grid(own, affine):
            raise ValueError(f"{path}: another grid than {paths[0]}")
    images = [_named(p, SquaredImage.of, v) for p, (v, _) in zip(paths, loaded, strict=True)]
    return images, affine


def _same_grid(one: Floats, other: Floats) -> bool:
    return np.allclose(one, other, atol=1e-3)


def _named(path: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a kernel; what it refuses names the file."""
    try:
        return call(*arguments)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _fit_pair(
    array_files: list[str], volume_files: list[str]
) -> tuple[ReceiveFit, dict[str, Any]]:
    """Return the receive correction, and what the QC file says of it."""
    arrays, affine = _squared_images(array_files)
    volumes, own = _squared_images(volume_files)
    shape = arrays[0].values.shape
    if volumes[0].values.shape != shape or not _same_grid(affine, own):
        volumes = [
            _resampled(image, index_map(affine, own, np.eye(4)), shape) for image in volumes
        ]
    fit = _named(array_files[0], fit_receive_correction, arrays, volumes, affine)
    told: dict[str, Any] = {
        "ReceiveSmoothness": {
            "ShortestWave_mm": fit.smoothness.shortest_wave,
            "HeldOutError": round(fit.score, 5),
            "Misfit": round(fit.misfit, 5),
        },
        "ReceivePairDisplacement_mm": round(fit.displacement, 3),
        "Warnings": [],
    }
    if fit.displacement > LARGEST_MOTION:
        told["Warnings"].append(
            f"receive: the head moved by about {fit.displacement:.1f} mm between array and "
            "volume-coil images"
        )
    if len(arrays) > 1:
        told |= _agreement(array_files, arrays, affine, told["Warnings"])
    return fit, told


def _resampled(image: SquaredImage, to_own: Floats, shape: tuple[int, ...]) -> SquaredImage:
    measured = resample(image.measured.astype(np.float32), to_own, shape, 1) > 1 - 1e-3
    return replace(image, values=resample(image.values, to_own, shape, 1), measured=measured)


def _agreement(
    paths: list[str], repeats: list[SquaredImage], affine: Floats, warnings: list[str]
) -> dict[str, Any]:
    """Return how the repeat that fits the first one least agrees with it."""
    found = [repeat_agreement(repeats[0], other, affine) for other in repeats[1:]]
    pairs = zip(paths[1:], found, strict=True)
    path, worst = max(pairs, key=lambda pair: abs(pair[1].mean_ratio - 1))
    if abs(worst.mean_ratio - 1) > LARGEST_CHANGE:
        warnings.append(
            f"{Path(path).name}: {100 * (worst.mean_ratio - 1):+.1f} % from {Path(paths[0]).name} "
            f"in the mean over the head; expected: within {100 * LARGEST_CHANGE:g} %"
        )
    moved = max(agreement.displacement for agreement in found)
    if moved > LARGEST_MOTION:
        warnings.append(
            f"receive: the head moved by about {moved:.1f} mm between repeats of the array image"
        )
    return {
        "ReceiveRepeatAgreement": {
            "MeanRatio": round(worst.mean_ratio, 5),
            "SpreadOfRatio": round(worst.spread, 5),
            "Displacement_mm": round(moved, 3),
        }
    }


def _without_bias(path: str) -> tuple[Floats, Floats, float]:
    """Return a magnitude image without noise bias, its affine, and its noise SD."""
    values, affine = load_finite_image(path)
    noise_sd, mean_square, _ = background_moments(values)
    return unbiased_magnitude(values, mean_square), affine, noise_sd


def transmit_model(map_file: Any, units: str, inputs: Any) -> tuple[str, SmoothField]:
    """Return the fitted transmit field.

    Parameters
    ----------
    map_file
        TB1map, or undefined for a double-angle pair.
    units
        Of the map, as its sidecar states them.
    inputs
        With ``angle_files``, ``flip_angle`` [rad] and ``repetition_time`` [s] of a pair.

    Returns
    -------
    source
        "TB1map" or "TB1DAM".
    field
        Flip angle over nominal.

    Raises
    ------
    ValueError
        If the images cannot be used; the message names them.
    """
    if isdefined(map_file):
        values, affine = load_image(map_file)
        ratio = _named(map_file, relative_flip_angle, values, units)
        return "TB1map", _named(map_file, fit_transmit_map, ratio, affine)
    (first, affine, noise), (second, own, other) = map(_without_bias, inputs.angle_files)
    if second.shape != first.shape or not _same_grid(affine, own):
        raise ValueError(f"{inputs.angle_files[1]}: another grid than {inputs.angle_files[0]}")
    images = DoubleAngle(
        first, second, affine, (noise, other), inputs.flip_angle, inputs.repetition_time
    )
    return "TB1DAM", _named(inputs.angle_files[0], fit_double_angle, images)


class _CorrectTransmitInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="receive-corrected image [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    static_file = File(exists=True, desc="image of what does not move with the head")
    static_noise_file = File(exists=True, desc="its noise SD [signal]")
    field_file = File(exists=True, mandatory=True, desc="factor that was applied so far")
    properties = traits.Dict(mandatory=True, desc="of the image")
    protocol = traits.Dict(mandatory=True, desc="repetition time [s], flip angle [rad]")
    map_file = File(exists=True, desc="TB1map")
    units = traits.Str("", usedefault=True, desc="of the map, as its sidecar states them")
    angle_files = traits.List(File(exists=True), desc="TB1DAM: smaller and twice that flip angle")
    flip_angle = traits.Float(desc="the smaller one of them [rad]")
    repetition_time = traits.Float(desc="of these images [s]")


class _CorrectTransmitOutput(TraitedSpec):
    out_file = File(exists=True, desc="corrected image [signal]")
    noise_file = File(exists=True, desc="its noise SD [signal]")
    static_file = File(exists=True, desc="corrected static image [signal]")
    static_noise_file = File(exists=True, desc="its noise SD [signal]")
    field_file = File(exists=True, desc="factor that was applied in all")
    flip_file = File(exists=True, desc="flip angle over nominal [percent], grid of the image")
    model_file = File(exists=True, desc="the fitted field (npz)")
    properties = traits.Dict(desc="input properties and what was corrected")


class CorrectTransmit(SimpleInterface):
    """Give an image the signal that tissue of one T1 has at the nominal flip angle.

    The transmit coil stays where it is: an image of what does not move with the head has the same
    field. What is left for other T1 joins the relaxation factors (:class:`AssessTransmit`).
    """

    input_spec = _CorrectTransmitInput
    output_spec = _CorrectTransmitOutput

    def _run_interface(self, runtime: Any) -> Any:
        given, out = self.inputs, Path(runtime.cwd)
        image, affine = load_finite_image(given.image_file)
        source, model = transmit_model(given.map_file, given.units, given)
        places = grid_positions(image.shape, affine)
        field = model(places).reshape(image.shape)
        angle, repetition = (given.protocol[key] for key in ("flip_angle", "repetition_time"))
        gain = 1 / saturation_change(field, angle, repetition, REFERENCE_T1)
        own = {
            "out_file": given.image_file,
            "noise_file": given.noise_file,
            "field_file": given.field_file,
        }
        moving = given.static_file in (Undefined, given.image_file)
        static = {} if moving else {
            "static_file": given.static_file, "static_noise_file": given.static_noise_file,
        }  # fmt: skip
        for name, path in (own | static).items():
            values, _ = load_image(path)
            scaled = (values * gain).astype(np.float32)
            self._results[name] = save_image(out / f"{name}.nii.gz", scaled, affine)
        if moving:
            self._results["static_file"] = self._results["out_file"]
            self._results["static_noise_file"] = self._results["noise_file"]
        percent = (100 * field).astype(np.float32)
        self._results["flip_file"] = save_image(out / "flip_file.nii.gz", percent, affine)
        self._results["model_file"] = _save(out / "transmit.npz", model)
        self._results["properties"] = {**given.properties, "TransmitCorrection": source}
        return runtime


class _AssessTransmitInput(BaseInterfaceInputSpec):
    model_file = File(exists=True, mandatory=True, desc="transmit field (npz)")
    image_file = File(
        exists=True, mandatory=True, desc="sodium image; its grid is that of regions"
    )
    regions_file = File(exists=True, mandatory=True, desc="regions (npz)")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue and vial [s]")
    protocol = traits.Dict(mandatory=True, desc="repetition time [s], flip angle [rad]")


class _AssessTransmitOutput(TraitedSpec):
    transmit_file = File(exists=True, desc="what the field does to tissues and vials (npz)")


class AssessTransmit(SimpleInterface):
    """Tell what the transmit field leaves in tissues and vials, and how sure that is."""

    input_spec = _AssessTransmitInput
    output_spec = _AssessTransmitOutput

    def _run_interface(self, runtime: Any) -> Any:
        image, affine = load_image(self.inputs.image_file)
        with np.load(self.inputs.regions_file) as stored:
            chosen = np.isin(stored["kinds"], ("tissue", "reference", "vial"))
            names, fractions = stored["names"][chosen].tolist(), stored["fractions"][chosen]
        model = load_field(self.inputs.model_file)
        protocol = self.inputs.protocol
        effect = transmit_effect(
            model,
            grid_positions(image.shape, affine),
            fractions.reshape(len(names), -1),
            (protocol["flip_angle"], protocol["repetition_time"]),
            [self.inputs.tissues[name]["t1"] for name in names],
        )
        path = Path(runtime.cwd) / "transmit.npz"
        np.savez(path, names=names, **{f"field_{k}": v for k, v in vars(model).items()},
                 **vars(effect))  # fmt: skip
        self._results["transmit_file"] = str(path)
        return runtime


@dataclass(frozen=True)
class RegionTransmit:
    """What the transmit field does to the regions of one image.

    Parameters
    ----------
    names
        Of tissues and vials.
    effect
        On them.
    model
        The field.
    """

    names: list[str]
    effect: TransmitEffect
    model: SmoothField

    def factor(self, name: str) -> float:
        """Return what is left in a region's signal."""
        return float(self.effect.factors[self.names.index(name)])

    def undone(self, name: str) -> float:
        """Return a region's signal before the correction of the flip angle over that after it."""
        return float(self.effect.changes[self.names.index(name)]) / self.factor(name)

    def _weights(self, reference: Sequence[str]) -> Floats:
        weights = np.array([name in reference for name in self.names], float)
        return np.asarray(weights / max(weights.sum(), 1.0))

    def map_errors(self, grid: Grid, names: list[str], reference: list[str]) -> FieldErrors:
        """Return the errors of the field in a map of regions over the mean of the reference."""
        rows = [self.names.index(name) for name in names]
        weights = self._weights(reference)
        return FieldErrors.of_transmit(self.effect, self.model, grid, rows, weights)

    def uncertainty(self, names: list[str], reference: list[str]) -> Floats:
        """Return the relative uncertainty of regions over the mean of the reference ones.

        Without a reference the flip angle changes nothing but the regions.
        """
        every = self.effect.uncertainty(self.model, self._weights(reference))
        return every[[self.names.index(name) for name in names]]

    def covariance(self, groups: Sequence[Sequence[str]]) -> Floats:
        """Return the relative covariance of the means over groups of regions."""
        weights = np.array([[name in group for name in self.names] for group in groups], float)
        totals = np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
        return self.effect.covariance(self.model, weights / totals)

    def shared_with_receive(self, groups: Sequence[Sequence[str]], means: Floats) -> Floats:
        """Return what the covariance holds where the same field is the receive profile.

        Parameters
        ----------
        groups
            Regions of each mean.
        means
            Of the basis over each group, shape (groups, m).

        Returns
        -------
        covariance
            Of receive with transmit, and the other way round, shape (groups, groups).
        """
        weights = np.array([[name in group for name in self.names] for group in groups], float)
        totals = np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
        turned = weights / totals @ (self.effect.slopes[:, None] * self.effect.basis)
        half = means @ self.model.covariance @ turned.T
        return np.asarray(half + half.T)


def load_transmit(path: Any) -> RegionTransmit | None:
    """Read what :class:`AssessTransmit` wrote.

    Parameters
    ----------
    path
        ``.npz`` file, or undefined where the flip angle was not corrected.

    Returns
    -------
    transmit
        None for none.
    """
    if not isdefined(path):
        return None
    with np.load(path) as stored:
        fields = {name: stored[name] for name in stored.files}
    names = fields.pop("names").tolist()
    of_model = {k.removeprefix("field_"): v for k, v in fields.items() if k.startswith("field_")}
    rest: Mapping[str, Any] = {k: v for k, v in fields.items() if not k.startswith("field_")}
    return RegionTransmit(names, TransmitEffect(**rest), SmoothField(**of_model))


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
