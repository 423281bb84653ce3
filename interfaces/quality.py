"""Figures of quality of one sodium image, for the QC file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from sodiumprep.interfaces.image import load_image
from sodiumprep.sodium.acquisition import Acquisition, Floats
from sodiumprep.sodium.artifacts import (
    Ghosting,
    brain_dice,
    find_spikes,
    ghosting,
    negative_share,
)
from sodiumprep.sodium.quality import TISSUES, raise_flags, untold

AIR = "air"  # the region that holds no signal


def spike_figures(acquisition: Acquisition) -> dict[str, Any]:
    """Return what the QC file says of readouts that stand out.

    Parameters
    ----------
    acquisition
        As read.

    Returns
    -------
    told
        ``SpikeShare``, ``SpikeReadouts`` (from 0, the first twenty) and ``LargestSpike``; empty
        for too few readouts.
    """
    geometry = acquisition.geometry
    found = find_spikes(acquisition.samples, acquisition.trajectory, max(geometry.fov))
    if found is None:
        return {}
    return {
        "SpikeShare": round(found.share, 6),
        "SpikeReadouts": found.readouts,
        "LargestSpike": round(found.largest, 2),
    }


class _AssessQualityInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="before coil corrections [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    corrected_file = File(exists=True, mandatory=True, desc="corrected map [mmol/L]")
    regions_file = File(exists=True, mandatory=True, desc="regions (npz)")
    properties = traits.Dict(mandatory=True, desc="of the image; kernel widths [mm] are read")


class _AssessQualityOutput(TraitedSpec):
    properties = traits.Dict(desc="input properties and figures of quality")


class AssessQuality(SimpleInterface):
    """Measure ghosts, overlap of the brains, tissue fractions and negative voxels."""

    input_spec = _AssessQualityInput
    output_spec = _AssessQualityOutput

    def _run_interface(self, runtime: Any) -> Any:
        known = self.inputs.properties
        image, affine = load_image(self.inputs.image_file)
        noise, _ = load_image(self.inputs.noise_file)
        concentration, _ = load_image(self.inputs.corrected_file)
        with np.load(self.inputs.regions_file) as stored:
            names, tissue = stored["names"], stored["kinds"] == "tissue"
            brain = stored["blurred"][tissue].sum(axis=0)
            fractions = stored["fractions"]
        fwhm = np.asarray(known["PointSpreadFWHM"]["GM"]) / np.linalg.norm(affine[:3, :3], axis=0)
        bodies = fractions[names != AIR].sum(axis=0) + _found_vials(known, affine, image.shape)
        self._results["properties"] = {
            **known,
            **_told(ghosting(image, noise, bodies, brain, fwhm, _is_magnitude(known))),
            "BrainDice": _rounded(brain_dice(concentration, brain, fwhm), 4),
            "TissueFractions": _shares(dict(zip(names[tissue], fractions[tissue], strict=True))),
            "NegativeShare": _rounded(
                negative_share(concentration, fractions[tissue].sum(axis=0)), 5
            ),
        }
        return runtime


def _is_magnitude(properties: Mapping[str, Any]) -> bool:
    return bool((properties.get("NoiseBias") or {}).get("Removed"))


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _told(found: Ghosting | None) -> dict[str, Any]:
    return {
        "GhostingScore": None if found is None else round(found.score, 3),
        "GhostShare": None if found is None else round(found.share, 4),
    }


def _shares(volumes: Mapping[str, Floats]) -> dict[str, float]:
    """Return the share of each tissue and lesion in the brain of the field of view."""
    sums = {str(name): float(fraction.sum()) for name, fraction in volumes.items()}
    total = sum(sums.values())
    return {name: round(value / total, 4) for name, value in sums.items()} if total else {}


def _found_vials(properties: Mapping[str, Any], affine: Floats, shape: tuple[int, ...]) -> Floats:
    """Return balls around vials that were found in the image, be they regions or not."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    balls = np.zeros(shape, np.float32)
    for vial in properties.get("VialsFound") or []:
        radius = np.hypot(vial["Diameter"], vial["Length"]) / 2
        balls[np.linalg.norm(places - vial["Centre"], axis=-1) <= radius] = 1
    return balls


def calibration_figures(vials: list[Mapping[str, Any]], line: Any) -> dict[str, Any]:
    """Return how far the vials of a line lie from it.

    Parameters
    ----------
    vials
        Entries of the calibration's file.
    line
        The line through them.

    Returns
    -------
    told
        ``CalibrationResiduals`` of the vials that are used, over their concentrations, and
        ``CalibrationResidualSD``, their root mean square [mmol/L]; empty without vials.
    """
    used = [vial for vial in vials if vial.get("used", True)]
    residuals = np.atleast_1d(line.residuals)
    if len(residuals) == len(vials):
        residuals = residuals[[bool(vial.get("used", True)) for vial in vials]]
    if not used or len(residuals) != len(used):
        return {}
    off = residuals / line.slope
    return {
        "CalibrationResiduals": {
            vial["name"]: round(float(r / vial["concentration"]), 4)
            for vial, r in zip(used, off, strict=True)
            if vial["concentration"] > 0
        },
        "CalibrationResidualSD": round(float(np.sqrt(np.mean(off**2))), 3),
    }


def judged(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries of a QC file with its flags; what no warning tells yet becomes one.

    Parameters
    ----------
    metrics
        Entries without ``Flags``.
    """
    flags = raise_flags(metrics)
    return {**metrics, "Flags": flags, "Warnings": [*metrics.get("Warnings", []), *untold(flags)]}


def concentrations(values: Mapping[str, float]) -> dict[str, float]:
    """Return the concentrations of the tissues that are judged [mmol/L].

    Parameters
    ----------
    values
        Corrected regional values by name [mmol/L].
    """
    return {
        name: round(float(values[name]), 2)
        for name in TISSUES
        if name in values and np.isfinite(values[name])
    }


def noise_levels(values: Mapping[str, float], ratios: Mapping[str, float]) -> dict[str, float]:
    """Return the noise SD of one voxel of each region [mmol/L].

    Parameters
    ----------
    values
        Concentrations by region [mmol/L].
    ratios
        Their SNR.

    Examples
    --------
    >>> noise_levels({"GM": 40.0, "core": float("nan")}, {"GM": 16.0, "core": float("nan")})
    {'GM': 2.5}
    """
    found = {name: float(np.abs(values[name]) / ratio) for name, ratio in ratios.items() if ratio}
    return {name: round(level, 3) for name, level in found.items() if np.isfinite(level)}
