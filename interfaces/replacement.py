"""A calibration phantom that was scanned by itself: its signal, and the lines through it."""

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
    isdefined,
    traits,
)

from sodiumprep.interfaces.calibrate import BASIS, PHANTOM, protocol_of, save_lines
from sodiumprep.interfaces.coil_fields import load_field
from sodiumprep.interfaces.image import load_finite_image, load_image
from sodiumprep.interfaces.reconstruct import load_response
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.calibrate import Calibration, magnetization_factor
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.replacement import (
    DEPTH,
    Phantom,
    PhantomSignal,
    phantom_lines,
    phantom_signal,
    relaxation_factors,
)
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.smooth_field import grid_positions
from sodiumprep.sodium.transmit import saturation_change

NOT_UNIFORM = 0.1  # relative SD of the signal over the phantom; more is said
KNOWN = ("concentration", "u_concentration", "temperature", "loading", "u_loading")


class _MeasurePhantomInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="receive-corrected image [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    response_file = File(exists=True, mandatory=True, desc="transfer functions (npz)")
    field_file = File(exists=True, mandatory=True, desc="receive correction that was applied")
    model_file = traits.Either(None, File(exists=True), desc="fitted receive field (npz), or None")
    transmit_model_file = File(exists=True, desc="transmit field of the coil (npz)")
    properties = traits.Dict(mandatory=True, desc="of the image; the kernel's width [mm] is read")
    known = traits.Dict(mandatory=True, desc="concentration [mmol/L], temperature, loading, ...")
    constants = traits.Dict(mandatory=True, desc="relaxation constants of the phantom [s]")
    own_protocol = traits.Dict(mandatory=True, desc="of its scan: TE, TR [s], flip angle [rad]")
    protocol = traits.Dict(mandatory=True, desc="of the scan that is calibrated")
    needed = traits.Bool(False, usedefault=True, desc="whether the calibration rests on it")


class _MeasurePhantomOutput(TraitedSpec):
    phantom_file = File(exists=True, desc="lines, what is told of the phantom, or why not (JSON)")


class MeasurePhantom(SimpleInterface):
    """Turn the image of a phantom into the calibration of a head (``sodium.replacement``)."""

    input_spec = _MeasurePhantomInput
    output_spec = _MeasurePhantomOutput

    def _run_interface(self, runtime: Any) -> Any:
        try:
            lines, told = self._measured()
        except ValueError as error:
            if self.inputs.needed:
                raise ValueError(f"CalibrationPhantom: {error}") from None
            lines, told = {}, {"problem": str(error)}
        path = Path(runtime.cwd) / "phantom.json"
        self._results["phantom_file"] = save_lines(path, lines, told)
        return runtime

    def _measured(self) -> tuple[dict[str, Calibration], dict[str, Any]]:
        given = self.inputs
        image, affine = load_finite_image(given.image_file)
        noise, _ = load_image(given.noise_file)
        gain = self._gain(affine, image.shape)
        factor, _ = load_image(given.field_file)
        response = load_response(given.response_file)
        width = given.properties["PointSpreadFWHM"][PHANTOM]
        depth = DEPTH * float(np.mean(width / np.linalg.norm(affine[:3, :3], axis=0)))
        # a receive map is clipped where it does not reach
        clipped = (factor == factor.max()) & (factor.max() > factor.min())
        signal = phantom_signal(
            image * gain,
            ImageNoise(noise * gain, response.noise_spectrum, response.noise_modes),
            response.transfers[PHANTOM],
            depth,
            ~clipped,
        )
        phantom = Phantom(
            **{name: given.known[name] for name in KNOWN},
            relaxation=Relaxation(**given.constants),
            protocol=protocol_of(given.own_protocol),
        )
        protocol = protocol_of(given.protocol)
        lines, terms = phantom_lines(signal, phantom, protocol)
        factors = {
            "MagnetizationFactor": magnetization_factor(phantom.temperature)[0],
            "RelaxationFactor": {k: f(phantom) for k, f in relaxation_factors(protocol).items()},
        }
        return lines, self._told(signal, terms, affine, factors)

    def _gain(self, affine: Floats, shape: tuple[int, ...]) -> Floats:
        """Return what undoes the flip angle of the coil: 1 where it is not known."""
        if not isdefined(self.inputs.transmit_model_file):
            return np.ones(shape, np.float32)
        field = load_field(self.inputs.transmit_model_file)(grid_positions(shape, affine))
        own, t1 = protocol_of(self.inputs.own_protocol), self.inputs.constants["t1"]
        change = saturation_change(field, own.flip_angle, own.repetition_time, t1)
        return (1 / change).reshape(shape).astype(np.float32)

    def _told(
        self, signal: PhantomSignal, terms: Mapping[str, float], affine: Floats,
        factors: Mapping[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        n, volume = int(signal.core.sum()), abs(np.linalg.det(affine[:3, :3])) / 1e3
        source = self.inputs.properties.get("Warnings", [])
        warnings = [f"calibration phantom: {text}" for text in source]
        if signal.u_uniformity > NOT_UNIFORM:
            warnings.append(
                f"the signal of the calibration phantom varies by {100 * signal.u_uniformity:.0f} "
                "% (SD) within it: is the receive profile corrected?"
            )
        described = {
            "Signal": signal.signal,
            "Voxels": n,
            "Volume_ml": round(n * volume, 1),
            "Concentration": self.inputs.known["concentration"],
            "LoadingFactor": self.inputs.known["loading"],
            **factors,
            "RelativeUncertainty": {name: round(u, 5) for name, u in terms.items()},
            "Warnings": warnings,
        }
        return {"described": described, BASIS: self._basis(signal, affine)}

    def _basis(self, signal: PhantomSignal, affine: Floats) -> list[float] | None:
        """Return the mean over the phantom of the basis of the receive field, if one is fitted."""
        if not isdefined(self.inputs.model_file) or self.inputs.model_file is None:
            return None
        model = load_field(self.inputs.model_file)
        weights = signal.core.reshape(1, -1).astype(np.float64)
        places = grid_positions(signal.core.shape, affine)
        return [float(mean) for mean in model.region_means(places, weights)[0]]
