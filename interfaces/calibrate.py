"""From signal to mmol/L: the calibration line of one image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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

from sodiumprep.interfaces.coil_fields import load_transmit
from sodiumprep.interfaces.comparison import REGIONS, compare_references, field_covariance
from sodiumprep.interfaces.image import load_finite_image, load_image
from sodiumprep.interfaces.pvc import FEED, load_signals
from sodiumprep.interfaces.reconstruct import tissue_constants
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.calibrate import (
    CORE_DEPTH,
    FLUIDS,
    MINIMUM_R2,
    Calibration,
    CoreSignal,
    VialSignal,
    core_signal,
    fluid_lines,
    judge_vials,
    verdict_text,
    vial_lines,
)
from sodiumprep.sodium.concentration import Protocol, relative_u_relaxation

PHANTOM = "phantom"  # reference, and what its kernel is called
BASIS = "basis"  # entry of files with lines through a phantom
# what is told of a line that does not rest on vials
UNJUDGED: dict[str, Any] = {"outlier": None, "forced": False, "CalibrationWarnings": []}


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
        The other entries, but for what :func:`phantom_basis` reads.
    """
    stored = json.loads(Path(path).read_text())
    stored.pop(BASIS, None)
    lines = {}
    for name, fields in stored.pop("lines").items():
        arrays = {k: np.asarray(fields[k]) for k in ("covariance", "residuals")}
        lines[name] = Calibration(**{**fields, **arrays})
    return lines, stored


def phantom_basis(path: Any) -> Floats | None:
    """Return the mean over the phantom of the basis of the receive field.

    Parameters
    ----------
    path
        Lines through a phantom, or a calibration; undefined where there is none.

    Returns
    -------
    basis
        Shape (m,); None where no receive field was fitted, or no phantom calibrates.
    """
    if not isdefined(path):
        return None
    basis = json.loads(Path(path).read_text()).get(BASIS)
    return None if basis is None else np.asarray(basis)


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
    signals_file = File(exists=True, desc="corrected regional signals (npz), for fluids")
    reference = traits.Enum(
        "vials", *FLUIDS, PHANTOM, mandatory=True, desc="what the line rests on"
    )
    assumed = traits.Dict(FLUIDS, usedefault=True, desc="of fluids, with uncertainty [mmol/L]")
    vials = traits.List(traits.Dict, usedefault=True, desc="name, concentration [mmol/L], ...")
    force = traits.Bool(False, usedefault=True, desc="calibrate by a poor line through vials too")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue and vial [s]")
    protocol = traits.Dict(mandatory=True, desc="echo and repetition time [s], flip angle [rad]")
    properties = traits.Dict(mandatory=True, desc="of the image; kernel widths [mm] are read")
    transmit_file = File(exists=True, desc="what the flip angle does to regions (npz)")
    model_file = traits.Either(None, File(exists=True), desc="fitted receive field (npz), or None")
    phantom_file = File(exists=True, desc="lines through a phantom scanned by itself (JSON)")


class _CalibrateOutput(TraitedSpec):
    calibration_file = File(exists=True, desc="apparent and corrected line, references (JSON)")


class Calibrate(SimpleInterface):
    """Fit the apparent and the relaxation-corrected line, from vials, a fluid or a phantom.

    Vials are fixed to the table or the coil: they are read where their labels lie in the scanner,
    from an image whose repetitions were not aligned to the head. Fluids of the body come from the
    aligned one. Lines through a phantom that was scanned by itself come as they are. Other
    references, if there are any, are compared with the one that calibrates.
    """

    input_spec = _CalibrateInput
    output_spec = _CalibrateOutput

    def _run_interface(self, runtime: Any) -> Any:
        chosen, problems = self.inputs.reference, {}
        found = {chosen: self._evaluated(chosen)}
        for name in self._others():
            try:
                found[name] = self._evaluated(name)
            except ValueError as error:  # it calibrates nothing: its reason is told
                problems[name] = {"Problem": str(error)}
        lines, extra = found[chosen]
        told, warnings = self._compared(found)
        for name, (_, other) in found.items():
            if name != chosen and other["outlier"]:
                told[name]["Outlier"] = other["outlier"]
        extra |= {"References": {**told, **problems}, "ReferenceWarnings": warnings}
        if PHANTOM in found:
            extra |= {PHANTOM: found[PHANTOM][1][PHANTOM]}
        if chosen == PHANTOM:
            basis = phantom_basis(self.inputs.phantom_file)
            extra |= {BASIS: None if basis is None else basis.tolist()}
        path = Path(runtime.cwd) / "calibration.json"
        self._results["calibration_file"] = save_lines(path, lines, extra)
        return runtime

    def _others(self) -> list[str]:
        """Return the references that the image has, but for the one that calibrates."""
        with np.load(self.inputs.regions_file) as stored:
            names, kinds = stored["names"].tolist(), stored["kinds"].tolist()
        there = {name: region in names for name, region in REGIONS.items()}
        if not isdefined(self.inputs.signals_file):
            there = dict.fromkeys(there, False)
        there["vials"] = "vial" in kinds and bool(self.inputs.vials)
        there[PHANTOM] = isdefined(self.inputs.phantom_file)
        return [name for name in there if there[name] and name != self.inputs.reference]

    def _compared(
        self, found: Mapping[str, tuple[dict[str, Calibration], dict[str, Any]]]
    ) -> tuple[dict[str, Any], list[str]]:
        """Return what each reference would make of the calibration, and what must be said."""
        given, lines = self.inputs, {name: own for name, (own, _) in found.items()}
        has_signals = isdefined(given.signals_file)
        signals = load_signals(given.signals_file)[FEED] if has_signals else None
        model = given.model_file if isdefined(given.model_file) else None
        groups = [rests_on(extra) for _, extra in found.values()]
        independent = {n: self._independent(n, known["corrected"]) for n, known in lines.items()}
        with np.load(given.regions_file) as stored:
            names, transmit = stored["names"].tolist(), load_transmit(given.transmit_file)
            apart = phantom_basis(given.phantom_file)
            fields = field_covariance(
                groups, stored, given.static_file, model, transmit, apart,
                given.properties.get("ReceiveCorrection") == "reciprocity",
            )  # fmt: skip
        return compare_references(lines, given.reference, signals, names, independent, fields)

    def _independent(self, reference: str, line: Calibration) -> float:
        """Return the relative uncertainty that a reference shares with no other one."""
        if reference not in REGIONS:
            return float(np.sqrt(line.covariance[0, 0])) / line.slope
        value, u = self.inputs.assumed[reference]
        constants = tissue_constants(self.inputs.tissues)[REGIONS[reference]]
        relaxation = relative_u_relaxation(constants, protocol_of(self.inputs.protocol))
        return float(np.hypot(u / value, relaxation))

    def _evaluated(self, reference: str) -> tuple[dict[str, Calibration], dict[str, Any]]:
        """Return the lines of a reference, and what the file tells of it."""
        if reference == PHANTOM:
            return self._through_phantom()
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

        if reference in REGIONS:
            region, assumed = REGIONS[reference], tuple(self.inputs.assumed[reference])
            signals = load_signals(self.inputs.signals_file)[FEED]
            k = names.index(region)
            value, u = signals.values[k], np.sqrt(signals.covariance[k, k])
            fluid = {"signal": float(value), "u_signal": float(u), "factor": factor(region)}
            lines = fluid_lines(**fluid, assumed=assumed)
            extra = {"reference": reference, "assumed": list(assumed),
                     "fluid": {"name": region, **fluid}, **UNJUDGED}  # fmt: skip
            return lines, extra
        image, affine = load_finite_image(self.inputs.static_file)
        noise, _ = load_image(self.inputs.static_noise_file)
        cores, measured = [], []
        kinds = list(dict.fromkeys(constants[vial["name"]] for vial in self.inputs.vials))
        for vial in self.inputs.vials:
            name, own = vial["name"], constants[vial["name"]]
            depth = CORE_DEPTH * _width(self.inputs.properties, name, affine)
            fraction = fractions[names.index(name)]
            try:
                core = core_signal(image, blurred[name], fraction, noise, depth)
            except ValueError as error:
                raise ValueError(f"vial '{name}' of CalibrationVials: {error}") from None
            known = known_of_vial(vial) | {
                "u_factor": relative_u_relaxation(own, protocol),
                "material": kinds.index(own),
            }
            cores.append(core)
            measured.append(
                VialSignal(core.signal, core.u_signal, core.n_voxels, factor(name), **known)
            )
        return calibrated_by_vials(measured, cores, self.inputs.force)

    def _through_phantom(self) -> tuple[dict[str, Calibration], dict[str, Any]]:
        lines, told = load_lines(self.inputs.phantom_file)
        if "problem" in told:
            raise ValueError(told["problem"])
        return lines, {"reference": PHANTOM, PHANTOM: told["described"], **UNJUDGED}


def rests_on(told: Mapping[str, Any]) -> list[str]:
    """Return the regions of the image that a calibration rests on.

    Parameters
    ----------
    told
        Entries of the calibration's file beside its lines.

    Returns
    -------
    names
        Those of vials without the ones that were left out; none for a phantom scanned by itself.
    """
    if told["reference"] == PHANTOM:
        return []
    if told["reference"] in REGIONS:
        return [REGIONS[told["reference"]]]
    return used_vials(told)


def calibrated_by_vials(
    vials: Sequence[VialSignal], cores: Sequence[CoreSignal], force: bool
) -> tuple[dict[str, Calibration], dict[str, Any]]:
    """Return the lines through vials, and what the calibration's file tells of them.

    Parameters
    ----------
    vials
        All that are listed.
    cores
        What the image shows of each.
    force
        Whether a poor line is taken as well.

    Returns
    -------
    lines
        "apparent" and "corrected".
    told
        ``vials`` with ``used``; ``outlier``, the name of the one that is left out, or None;
        ``forced``, whether the line is a poor one; ``CalibrationWarnings``.

    Raises
    ------
    ValueError
        If the vials make no line; the message names the key.
    """
    try:
        lines = vial_lines(vials, force)
    except ValueError as error:
        raise ValueError(f"CalibrationVials: {error}") from None
    verdict = judge_vials(vials)
    poorest = min(line.r_squared or 0.0 for line in lines.values())
    forced = poorest < MINIMUM_R2
    warnings = [
        f"vial '{vial.name}' reaches the border of the field of view, which may cut it"
        for vial, core in zip(vials, cores, strict=True)
        if core.cut
    ]
    warnings += [verdict_text(verdict, vials)] if verdict_text(verdict, vials) else []
    if forced:
        warnings.append(
            f"calibrated by a poor line through the vials (R squared {poorest:.3f}, under "
            f"{MINIMUM_R2}) because of --force: all values are flagged calibration_forced"
        )
    told = {
        "reference": "vials",
        "vials": [{**vars(v), "used": k != verdict.outlier} for k, v in enumerate(vials)],
        "outlier": None if verdict.outlier is None else vials[verdict.outlier].name,
        "forced": forced,
        "CalibrationWarnings": warnings,
    }
    return lines, told


def vial_of(told: Mapping[str, Any]) -> VialSignal:
    """Return a vial from its entry in a calibration's file."""
    return VialSignal(**{key: value for key, value in told.items() if key != "used"})


def used_vials(told: Mapping[str, Any]) -> list[str]:
    """Return the names of the vials that a line rests on.

    Parameters
    ----------
    told
        As :func:`calibrated_by_vials` returns it.
    """
    return [vial["name"] for vial in told["vials"] if vial["used"]]


def _width(properties: Mapping[str, Any], name: str, affine: Floats) -> float:
    """Return the width of a vial's kernel in voxels."""
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.mean(np.asarray(properties["PointSpreadFWHM"][name]) / voxel))


def known_of_vial(vial: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a vial, as :class:`VialSignal` calls it.

    Parameters
    ----------
    vial
        Entry of ``CalibrationVials`` as a plain dictionary.
    """
    return {
        "name": vial["name"],
        "concentration": vial["concentration"],
        "u_concentration": vial["concentration_uncertainty"],
        "temperature": vial.get("temperature"),
    }
