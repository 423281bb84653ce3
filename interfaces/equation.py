"""The numbers that regional concentrations are made of, for whoever computes one again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sodiumprep.interfaces.calibrate import vial_of
from sodiumprep.interfaces.coil_fields import RegionTransmit
from sodiumprep.sodium.calibrate import Calibration, fluid_lines, vial_lines
from sodiumprep.sodium.concentration import Protocol

DESCRIPTION = (
    "What the table's means are made of. Corrected: (Signal - Intercept) / (Slope * "
    "RelaxationFactor * TransmitFactor), for pvc none with MixedFactor in place of both factors; "
    "apparent: (Signal - Intercept) / Slope."
)
KEYS: dict[str, tuple[str, str]] = {  # key -> (unit, description)
    "Protocol": ("s, s, degree", "Echo time, repetition time and nominal flip angle"),
    "Slope": ("signal per mmol/L", "Of the calibration line, by desc"),
    "Intercept": ("signal", "Of the calibration line, by desc"),
    "Signal": ("signal", "Of each region, by pvc"),
    "RelaxationFactor": (
        "1",
        "Signal at the echo time over that of full magnetization, of regions, fluids and vials",
    ),
    "TransmitFactor": (
        "1",
        "What the flip angle leaves in the signal once the image is corrected for one T1",
    ),
    "MixedFactor": (
        "1",
        "Factor of the mixture of tissues under each region, without partial-volume correction",
    ),
    "WithoutTransmit": (
        "signal, signal per mmol/L",
        "Signal (pvc gtm), Slope and Intercept without the correction of the flip angle, or why "
        "there is no such line",
    ),
}


def save_equation(
    path: Path, protocol: Protocol, lines: Mapping[str, Calibration], **entries: Any
) -> str:
    """Write the numbers of a table's equation as JSON.

    Parameters
    ----------
    path
        File to write.
    protocol
        Timing.
    lines
        By name: "apparent" and, with an anatomy, "corrected".
    **entries
        Further ones of :data:`KEYS`.

    Returns
    -------
    path
        As given.
    """
    timing = {
        "EchoTime": protocol.echo_time,
        "RepetitionTime": protocol.repetition_time,
        "FlipAngle": float(np.degrees(protocol.flip_angle)),
    }
    content = {
        "Protocol": timing,
        "Slope": {name: line.slope for name, line in lines.items()},
        "Intercept": {name: line.intercept for name, line in lines.items()},
        **entries,
    }
    path.write_text(json.dumps(content, indent=2))
    return str(path)


def explained_equation(path: Path | str) -> dict[str, Any]:
    """Return the entry ``Equation`` of a table's sidecar.

    Parameters
    ----------
    path
        What :func:`save_equation` wrote.

    Returns
    -------
    entry
        Its numbers, with what each of them is.
    """
    held = json.loads(Path(path).read_text())
    told = {key: {"Description": KEYS[key][1], "Units": KEYS[key][0]} for key in held}
    return {"Equation": {"Description": DESCRIPTION, "Keys": told, **held}}


def without_transmit(
    transmit: RegionTransmit | None,
    signals: Mapping[str, float],
    relaxation: Mapping[str, float],
    calibration: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the signals and the line would be without the correction of the flip angle.

    Parameters
    ----------
    transmit
        What the field does to regions and references; None where it was not corrected.
    signals
        Of the regions, by name.
    relaxation
        Relaxation factors of regions and references, by name.
    calibration
        The entries beside the lines of :func:`~sodiumprep.interfaces.calibrate.load_lines`.

    Returns
    -------
    entry
        ``WithoutTransmit``, of the mean flip angle over each region; empty without a field, and
        with a phantom as reference, whose own scan tells nothing of it here.
    """
    if transmit is None or not {"fluid", "vials"} & set(calibration):
        return {}

    def measured(known: Mapping[str, Any]) -> dict[str, float]:
        name, undone = known["name"], transmit.undone(known["name"])
        scaled = {key: known[key] * undone for key in ("signal", "u_signal")}
        return {**scaled, "factor": relaxation[name]}

    try:
        if "fluid" in calibration:
            known = measured(calibration["fluid"])
            lines = fluid_lines(**known, assumed=tuple(calibration["assumed"]))
        else:
            vials = [(vial_of(vial), measured(vial)) for vial in calibration["vials"]]
            moved = [replace(vial, **seen) for vial, seen in vials]
            lines = vial_lines(moved, calibration["forced"])
    except ValueError as error:
        return {"WithoutTransmit": {"Problem": str(error)}}
    line = lines["corrected"]
    seen = {name: value * transmit.undone(name) for name, value in signals.items()}
    told = {"Signal": seen, "Slope": line.slope, "Intercept": line.intercept}
    return {"WithoutTransmit": told}
