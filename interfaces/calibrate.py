"""From signal to mmol/L: the calibration line of one image."""

from __future__ import annotations

import json
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

from sodiumprep.interfaces.coil_fields import load_transmit
from sodiumprep.interfaces.image import load_finite_image, load_image
from sodiumprep.interfaces.pvc import FEED, load_signals
from sodiumprep.interfaces.reconstruct import tissue_constants
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.calibrate import (
    CORE_DEPTH,
    REFERENCE_CSF,
    Calibration,
    VialSignal,
    core_signal,
    csf_lines,
    vial_lines,
)
from sodiumprep.sodium.concentration import Protocol


def save_lines(path: Path, lines: Mapping[str, Calibration], extra: Mapping[str, Any]) -> str:
    """Write calibration lines as JSON.

    Parameters
    ----------
    path
        File to write.
    lines
        By name: "apparent" and "corrected".
    extra
        More entries of the file.

    Returns
    -------
    path
        As given.
    """
    plain = {
        name: {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(line).items()}
        for name, line in lines.items()
    }
    path.write_text(json.dumps({**extra, "lines": plain}, indent=2))
    return str(path)


def load_lines(path: Path | str) -> tuple[dict[str, Calibration], dict[str, Any]]:
    """Read what :func:`save_lines` wrote.

    Parameters
    ----------
    path
        JSON file.

    Returns
    -------
    lines
        By name.
    extra
        The other entries.
    """
    stored = json.loads(Path(path).read_text())
    lines = {}
    for name, fields in stored.pop("lines").items():
        arrays = {k: np.asarray(fields[k]) for k in ("covariance", "residuals")}
        lines[name] = Calibration(**{**fields, **arrays})
    return lines, stored


def protocol_of(numbers: Mapping[str, float]) -> Protocol:
    """Return the protocol from the plain dictionary that travels between nodes.

    Parameters
    ----------
    numbers
        ``echo_time``, ``repetition_time`` [s], ``flip_angle`` [rad].

    Returns
    -------
    protocol
        Timing.
    """
    return Protocol(**{k: numbers[k] for k in ("echo_time", "repetition_time", "flip_angle")})


class _CalibrateInput(BaseInterfaceInputSpec):
    static_file = File(
        exists=True,
        mandatory=True,
        desc="receive-corrected image, vials lie still [signal]",
    )
    static_noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    regions_file = File(exists=True, mandatory=True, desc="regions (npz)")
    signals_file = File(exists=True, desc="corrected regional signals (npz), for CSF")
    reference = traits.Enum("vials", "csf", mandatory=True, desc="what the line rests on")
    vials = traits.List(traits.Dict, usedefault=True, desc="name, concentration [mmol/L], ...")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue and vial [s]")
    protocol = traits.Dict(mandatory=True, desc="echo and repetition time [s], flip angle [rad]")
    properties = traits.Dict(mandatory=True, desc="of the image; kernel widths [mm] are read")
    transmit_file = File(exists=True, desc="what the flip angle does to regions (npz)")


class _CalibrateOutput(TraitedSpec):
    calibration_file = File(exists=True, desc="apparent and corrected line, references (JSON)")


class Calibrate(SimpleInterface):
    """Fit the apparent and the relaxation-corrected line, from vials or from CSF.

    Vials are fixed to the table or the coil: they are read where their labels lie in the scanner,
    from an image whose repetitions were not aligned to the head. CSF comes from the aligned one.
    """

    input_spec = _CalibrateInput
    output_spec = _CalibrateOutput

    def _run_interface(self, runtime: Any) -> Any:
        with np.load(self.inputs.regions_file) as stored:
            names, fractions = stored["names"].tolist(), stored["fractions"]
            blurred = dict(
                zip(stored["names"][stored["kinds"] == "vial"].tolist(),
                    stored["static_blurred"], strict=True)
            )  # fmt: skip
        constants = tissue_constants(self.inputs.tissues)
        protocol = protocol_of(self.inputs.protocol)
        transmit = load_transmit(self.inputs.transmit_file)

        def factor(name: str) -> float:
            left = 1.0 if transmit is None else transmit.factor(name)
            return protocol.factor(constants[name]) * left

        if self.inputs.reference == "csf":
            signals = load_signals(self.inputs.signals_file)[FEED]
            k = names.index("CSF")
            value, u = signals.values[k], np.sqrt(signals.covariance[k, k])
            lines = csf_lines(float(value), float(u), factor("CSF"))
            extra: dict[str, Any] = {"reference": "csf", "assumed": list(REFERENCE_CSF)}
        else:
            image, affine = load_finite_image(self.inputs.static_file)
            noise, _ = load_image(self.inputs.static_noise_file)
            measured = []
            for vial in self.inputs.vials:
                k = names.index(vial["name"])
                depth = CORE_DEPTH * _width(self.inputs.properties, vial["name"], affine)
                signal = core_signal(image, blurred[vial["name"]], fractions[k], noise, depth)
                known = _known(vial)
                measured.append(VialSignal(*signal, factor=factor(vial["name"]), **known))
            lines = vial_lines(measured)
            extra = {"reference": "vials", "vials": [vars(v) for v in measured]}
        path = Path(runtime.cwd) / "calibration.json"
        self._results["calibration_file"] = save_lines(path, lines, extra)
        return runtime


def _width(properties: Mapping[str, Any], name: str, affine: Floats) -> float:
    """Return the width of a vial's kernel in voxels."""
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.mean(np.asarray(properties["PointSpreadFWHM"][name]) / voxel))


def _known(vial: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": vial["name"],
        "concentration": vial["concentration"],
        "u_concentration": vial["concentration_uncertainty"],
        "temperature": vial.get("temperature"),
    }
