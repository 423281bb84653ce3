"""Partial-volume correction of the regional signals, with what changes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from sodiumprep.sodium.pvc.regional import (
    Method,
    RegionalEstimate,
    entangled_pairs,
    gtm,
    labbe,
    uncorrected,
)
from sodiumprep.sodium.pvc.sensitivity import (
    MovedBorder,
    Values,
    kernel_change,
    segmentation_changes,
    shift_changes,
)
from sodiumprep.sodium.pvc.shown import SampledRegions

METHODS: dict[str, Method] = {"none": uncorrected, "gtm": gtm, "labbe": labbe}
UNCORRECTED = "none"
POSITION_ERROR = 1.0  # mm
PSF_ERROR = 0.1  # of the width of every kernel
SEGMENTATION_ERROR = 0.5  # mm
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
    sensitivity
        On request, change of ``values`` for an image 1 mm further along each axis, for kernels
        wider by a tenth, and for each border of the brain's regions 0.5 mm further in, shape
        (4 + borders, regions); else of shape (0, regions).
    """

    values: Floats
    covariance: Floats
    kernel_change: Floats
    registration_changes: Floats
    residual_sd: Floats
    entangled: Floats
    sensitivity: Floats


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
    borders: Sequence[MovedBorder] | None,
) -> StoredSignals:
    """Join an estimate with what another kernel and another place of the image would change."""

    def values(image: Floats, regions: SampledRegions) -> Floats:
        return method(image, regions, with_covariance=False).values

    fwhm = np.asarray(known["PointSpreadFWHM"]["GM"]) / voxel
    spread = known.get("RegistrationSpread")
    errors = np.zeros((0, len(regions.names)))
    if borders is not None:
        errors = _effects(values, image, regions, borders, fwhm, voxel)
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
        sensitivity=errors,
    )


def _effects(
    values: Values,
    image: Floats,
    regions: SampledRegions,
    borders: Sequence[MovedBorder],
    fwhm: Floats,
    voxel: Floats,
) -> Floats:
    """Return ``StoredSignals.sensitivity``."""
    return np.concatenate([
        shift_changes(partial(values, regions=regions), image, POSITION_ERROR / voxel),
        kernel_change(values, image, regions, fwhm, PSF_ERROR)[None],
        segmentation_changes(values, image, regions, borders),
    ])  # fmt: skip


class _RegionalSignalsInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="sodium image, receive-corrected [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    regions_file = File(exists=True, mandatory=True, desc="regions (npz)")
    response_file = File(exists=True, mandatory=True, desc="transfer functions and spectrum (npz)")
    properties = traits.Dict(mandatory=True, desc="RegistrationSpread [mm], kernel widths [mm]")
    methods = traits.List(
        traits.Enum(*METHODS), [FEED], usedefault=True, desc="beside none and gtm"
    )
    sensitivity = traits.Bool(False, usedefault=True, desc="tell what errors would change")
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
            borders = _borders(stored) if self.inputs.sensitivity else None
        known = self.inputs.properties
        voxel = np.linalg.norm(affine[:3, :3], axis=0)
        noise = ImageNoise(noise_sd, spectrum) if np.isfinite(noise_sd).all() else None
        signals = {}
        for name in dict.fromkeys([UNCORRECTED, FEED, *self.inputs.methods]):
            method = partial(METHODS[name], noise=noise)
            estimate = method(image, regions)
            signals[name] = _with_changes(estimate, method, image, regions, known, voxel, borders)
            if name == FEED:
                condition = estimate.condition_number
        signals[UNCORRECTED] = replace(
            signals[UNCORRECTED],
            kernel_change=np.full(len(names), np.nan),  # it uses none
        )
        self._results["signals_file"] = save_signals(Path(runtime.cwd) / "signals.npz", signals)
        self._results["properties"] = {
            **known,
            "ConditionNumber": round(condition, 2),
            **_told([*remarks], self.inputs.brain_warning, known),
        }
        return runtime


def _borders(stored: Mapping[str, Any]) -> list[MovedBorder]:
    """Return the moved borders that were stored with the regions."""
    fields = ("grown", "shrunk", "taken", "shown_grown", "shown_shrunk")
    columns = (stored[f"border_{name}"] for name in fields)
    return [MovedBorder(int(i), int(j), *arrays) for i, j, *arrays in zip(*columns, strict=True)]
