"""Partial-volume correction of the regional signals, with what changes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
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

from sodiumprep.interfaces.image import load_finite_image, load_image
from sodiumprep.interfaces.reconstruct import load_response
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.regional import Method, RegionalEstimate, entangled_pairs, gtm, labbe
from sodiumprep.sodium.pvc.sensitivity import kernel_change, shift_changes
from sodiumprep.sodium.pvc.shown import SampledRegions

METHODS: dict[str, Method] = {"gtm": gtm, "labbe": labbe}
FEED = "gtm"  # whose values calibrate by CSF, and tell what a mixed voxel is made of


@dataclass(frozen=True)
class StoredSignals:
    """Signals of all regions by one method, as they travel between nodes.

    Parameters
    ----------
    values
        Shape (regions,).
    covariance
        From image noise, shape (regions, regions).
    kernel_change
        Change of ``values`` for kernels wider by their uncertainty, shape (regions,).
    registration_changes
        Change for a shift by the registration's uncertainty along each axis, shape (3, regions).
    residual_sd
        Of the image less what the regions explain, by region, shape (regions,).
    entangled
        Whether noise shifts signal between a region and another one, shape (regions,).
    """

    values: Floats
    covariance: Floats
    kernel_change: Floats
    registration_changes: Floats
    residual_sd: Floats
    entangled: Floats


def save_signals(path: Path, signals: Mapping[str, StoredSignals]) -> str:
    """Write regional signals by method.

    Parameters
    ----------
    path
        ``.npz`` file.
    signals
        By method.

    Returns
    -------
    path
        As given.
    """
    arrays: dict[str, Any] = {
        f"{method}:{name}": array
        for method, stored in signals.items()
        for name, array in asdict(stored).items()
    }
    np.savez(path, **arrays)
    return str(path)


def load_signals(path: Path | str) -> dict[str, StoredSignals]:
    """Read what :func:`save_signals` wrote.

    Parameters
    ----------
    path
        ``.npz`` file.

    Returns
    -------
    signals
        By method, :data:`FEED` among them.
    """
    fields: dict[str, dict[str, Floats]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            method, name = key.split(":")
            fields.setdefault(method, {})[name] = stored[key]
    return {method: StoredSignals(**known) for method, known in fields.items()}


def _with_changes(
    estimate: RegionalEstimate,
    method: Callable[..., RegionalEstimate],
    image: Floats,
    regions: SampledRegions,
    known: Mapping[str, Any],
    voxel: Floats,
) -> StoredSignals:
    """Join an estimate with what another kernel and another place of the image would change."""

    def values(image: Floats, regions: SampledRegions) -> Floats:
        return method(image, regions, with_covariance=False).values

    fwhm = np.asarray(known["PointSpreadFWHM"]["GM"]) / voxel
    spread = known.get("RegistrationSpread")
    shift = (np.nan if spread is None else spread) / np.sqrt(3) / voxel
    entangled = np.zeros(len(regions.names), bool)
    entangled[[i for pair in entangled_pairs(estimate) for i in pair]] = True
    return StoredSignals(
        values=estimate.values,
        covariance=estimate.covariance,
        kernel_change=kernel_change(values, image, regions, fwhm, known["PointSpreadUncertainty"]),
        registration_changes=shift_changes(partial(values, regions=regions), image, shift),
        residual_sd=estimate.residual_sd,
        entangled=entangled,
    )


class _RegionalSignalsInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="sodium image, receive-corrected [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    regions_file = File(exists=True, mandatory=True, desc="regions (npz)")
    response_file = File(exists=True, mandatory=True, desc="transfer functions and spectrum (npz)")
    properties = traits.Dict(mandatory=True, desc="RegistrationSpread [mm], kernel widths [mm]")
    methods = traits.List(
        traits.Enum(*METHODS), [FEED], usedefault=True, desc=f"beside {FEED}, which is always made"
    )
    brain_warning = traits.Str("", usedefault=True, desc="why the anatomy may be wrong, or empty")


class _RegionalSignalsOutput(TraitedSpec):
    signals_file = File(exists=True, desc="regional signals with covariance and changes (npz)")
    properties = traits.Dict(desc="input properties and the condition number")


def _told(remarks: list[str], brain_warning: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Let every table and the QC file know of a brain mask that may be wrong."""
    warnings = [*known.get("Warnings", ()), *remarks]
    if not brain_warning:
        return {"Warnings": warnings}
    return {"BrainImplausible": True, "Warnings": [*warnings, brain_warning]}


class CorrectPartialVolume(SimpleInterface):
    """Estimate regional signals by every method, and what a wrong kernel or place would change."""

    input_spec = _RegionalSignalsInput
    output_spec = _RegionalSignalsOutput

    def _run_interface(self, runtime: Any) -> Any:
        image, affine = load_finite_image(self.inputs.image_file)
        noise_sd, _ = load_image(self.inputs.noise_file)
        spectrum = load_response(self.inputs.response_file).noise_spectrum
        with np.load(self.inputs.regions_file) as stored:
            names = stored["names"].tolist()
            regions = SampledRegions(stored["fractions"], stored["blurred"], names)
            remarks = stored["remarks"].tolist()
        known = self.inputs.properties
        voxel = np.linalg.norm(affine[:3, :3], axis=0)
        noise = ImageNoise(noise_sd, spectrum) if np.isfinite(noise_sd).all() else None
        signals = {}
        for name in dict.fromkeys([FEED, *self.inputs.methods]):
            method = partial(METHODS[name], noise=noise)
            estimate = method(image, regions)
            signals[name] = _with_changes(estimate, method, image, regions, known, voxel)
            if name == FEED:
                condition = estimate.condition_number
        self._results["signals_file"] = save_signals(Path(runtime.cwd) / "signals.npz", signals)
        self._results["properties"] = {
            **known,
            "ConditionNumber": round(condition, 2),
            **_told([*remarks], self.inputs.brain_warning, known),
        }
        return runtime
