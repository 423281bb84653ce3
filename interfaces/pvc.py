"""Partial-volume correction of the regional signals, with what changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    isdefined,
    traits,
)

from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.interfaces.reconstruct import load_response
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.kernel import near_part
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc import METHODS
from sodiumprep.sodium.pvc.local import MOST_LOCAL
from sodiumprep.sodium.pvc.methods import (
    DECONVOLUTIONS,
    FEEDS,
    Correction,
    Setup,
    correct,
    noise_of,
)
from sodiumprep.sodium.pvc.regional import entangled, region_means, residual_sd, unmixed_values
from sodiumprep.sodium.pvc.sensitivity import (
    MovedBorder,
    Values,
    kernel_change,
    segmentation_changes,
    shift_changes,
    widening,
)
from sodiumprep.sodium.pvc.shown import SampledRegions

UNCORRECTED = "none"
FROM_KSPACE = "kspace"  # the one method that does not start from the image
POSITION_ERROR = 1.0  # mm
PSF_ERROR = 0.1  # of the width of every kernel
SEGMENTATION_ERROR = 0.5  # mm
NEAR = 8.0  # voxels; what a deconvolution undoes of a kernel
NEIGHBOURHOOD = 12.0  # mm; full width at half maximum of that of the local regression
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
        By method.
    """
    fields: dict[str, dict[str, Floats]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            method, name = key.split(":")
            fields.setdefault(method, {})[name] = stored[key]
    return {method: StoredSignals(**known) for method, known in fields.items()}


@dataclass(frozen=True)
class _Case:
    """An image with all that the methods and their changes need."""

    image: Floats
    regions: SampledRegions
    noise: ImageNoise | None
    setup: Setup
    fwhm: Floats  # of the kernel of grey matter [voxels]
    width_uncertainty: float
    shift: Floats  # uncertainty of the position along each axis [voxels]
    voxel: Floats  # [mm]
    borders: Sequence[Sequence[MovedBorder]] | None  # None: not asked for

    def signals(self, method: str) -> tuple[StoredSignals, Correction, Floats | None]:
        """Return the signals by a method, what it made, and the noise of its map."""
        made = correct(method, self.image, self.regions, self.noise, self.setup)
        n = len(self.regions.names)
        covariance, map_noise = np.full((n, n), np.nan), None
        if self.noise is not None:
            told = noise_of(method, made, self.image, self.regions, self.noise, self.setup)
            covariance, map_noise = told.covariance, told.image
        shifted = partial(self._shifted, method, made)
        wider = partial(self._wider, method, made)
        stored = StoredSignals(
            values=made.values,
            covariance=covariance,
            kernel_change=wider(self.width_uncertainty),
            registration_changes=shifted(self.shift),
            residual_sd=residual_sd(self.image, self.regions, made.values),
            entangled=entangled(covariance),
            sensitivity=np.zeros((0, n)),
        )
        if self.borders is None:
            return stored, made, map_noise
        values, image = self._values(method, made)
        errors = [
            shifted(POSITION_ERROR / self.voxel),
            np.nan_to_num(wider(PSF_ERROR))[None],
            segmentation_changes(values, image, self.regions, self.borders),
        ]
        return replace(stored, sensitivity=np.concatenate(errors)), made, map_noise

    def _values(self, method: str, made: Correction) -> tuple[Values, Floats]:
        """Return from what image and how regional values come.

        A deconvolution does not know the regions, and moves with its image: only what is read
        from the map that it made depends on them.
        """
        if method in DECONVOLUTIONS:
            return unmixed_values, made.image

        def values(image: Floats, regions: SampledRegions) -> Floats:
            return correct(method, image, regions, self.noise, self.setup).values

        return values, self.image

    def _wider(self, method: str, made: Correction, relative: float) -> Floats:
        if method == UNCORRECTED:
            return np.full(len(self.regions.names), np.nan)  # it uses no kernel
        if method not in DECONVOLUTIONS:
            values, image = self._values(method, made)
            return kernel_change(values, image, self.regions, self.fwhm, relative)
        x, y, z = self.image.shape
        wide = self.setup.transfer * widening((x, y, z), self.fwhm, relative)
        setup = replace(self.setup, transfer=wide)
        return correct(method, self.image, self.regions, None, setup).values - made.values

    def _shifted(self, method: str, made: Correction, shift: Floats) -> Floats:
        values, image = self._values(method, made)
        return shift_changes(partial(values, regions=self.regions), image, shift)


class _RegionalSignalsInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="sodium image, receive-corrected [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    regions_file = File(exists=True, mandatory=True, desc="regions (npz)")
    response_file = File(exists=True, mandatory=True, desc="transfer functions and spectrum (npz)")
    properties = traits.Dict(mandatory=True, desc="RegistrationSpread [mm], kernel widths [mm]")
    methods = traits.List(
        traits.Enum(*METHODS), [FEED], usedefault=True, desc="beside none and gtm"
    )
    kspace_signals_file = File(exists=True, desc="signals from raw k-space (npz)")
    kspace_told = traits.Dict(desc="what is known of that regression, for the QC file")
    feed = traits.Enum(*FEEDS, usedefault=True, desc="whose values the maps rest on")
    random_seed = traits.Int(0, usedefault=True, desc="of draws of the noise")
    sensitivity = traits.Bool(False, usedefault=True, desc="tell what errors would change")
    brain_warning = traits.Str("", usedefault=True, desc="why the anatomy may be wrong, or empty")


class _RegionalSignalsOutput(TraitedSpec):
    signals_file = File(exists=True, desc="regional signals with covariance and changes (npz)")
    map_files = traits.Dict(desc="image_file and noise_file by method that makes a map [signal]")
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
        with np.load(self.inputs.regions_file) as stored:
            names = stored["names"].tolist()
            regions = SampledRegions(stored["fractions"], stored["blurred"], names)
            remarks = stored["remarks"].tolist()
            borders = _borders(stored) if self.inputs.sensitivity else None
            kinds = stored["kinds"]
        case = self._case(image, affine, regions, kinds, borders)
        folder = Path(runtime.cwd)
        signals, maps, remarks = {}, {}, list(remarks)
        asked = [name for name in self.inputs.methods if name != FROM_KSPACE]
        for name in dict.fromkeys([UNCORRECTED, FEED, *asked]):
            signals[name], made, noise = case.signals(name)
            remarks += made.remarks
            if made.image is not None:
                maps[name] = _save_map(folder, name, made, noise, affine)
        condition = correct(FEED, image, regions, None, case.setup).made.condition_number
        told = {}
        if isdefined(self.inputs.kspace_signals_file):
            signals |= load_signals(self.inputs.kspace_signals_file)
            told = dict(self.inputs.kspace_told)
        self._results["signals_file"] = save_signals(folder / "signals.npz", signals)
        self._results["map_files"] = maps
        self._results["properties"] = {
            **self.inputs.properties,
            "ConditionNumber": round(condition, 2),
            "ResidualOverNoise": _over_noise(signals[FEED], case),
            **told,
            **_told(remarks, self.inputs.brain_warning, self.inputs.properties),
        }
        return runtime

    def _case(
        self, image: Floats, affine: Floats, regions: SampledRegions, kinds: Floats,
        borders: Sequence[Sequence[MovedBorder]] | None,
    ) -> _Case:  # fmt: skip
        noise_sd, _ = load_image(self.inputs.noise_file)
        response = load_response(self.inputs.response_file)
        known = self.inputs.properties
        voxel = np.linalg.norm(affine[:3, :3], axis=0)
        spread = known.get("RegistrationSpread")
        x, y, z = NEIGHBOURHOOD / voxel
        names = np.asarray(regions.names)
        return _Case(
            image=image,
            regions=regions,
            noise=ImageNoise(noise_sd, response.noise_spectrum, response.noise_modes)
            if np.isfinite(noise_sd).all()
            else None,
            setup=Setup(
                local=names[kinds == "tissue"][:MOST_LOCAL].tolist(),
                neighbourhood=(x, y, z),
                transfer=near_part(response.transfers["GM"], NEAR),
                fixed=names[kinds == "background"].tolist(),
                focus=names[kinds == "tissue"].tolist(),
                feed=self.inputs.feed,
                seed=self.inputs.random_seed,
            ),
            fwhm=np.asarray(known["PointSpreadFWHM"]["GM"]) / voxel,
            width_uncertainty=known["PointSpreadUncertainty"],
            shift=(np.nan if spread is None else spread) / np.sqrt(3) / voxel,
            voxel=voxel,
            borders=borders,
        )


def _over_noise(signals: StoredSignals, case: _Case) -> dict[str, float]:
    """Return the residual over the noise of each region of the brain: 1 where the model holds."""
    if case.noise is None:
        return {}
    level = np.sqrt(region_means(case.noise.noise_sd**2, case.regions))
    ratios = dict(zip(case.regions.names, signals.residual_sd / level, strict=True))
    return {name: round(float(ratios[name]), 2) for name in case.setup.focus}


def _save_map(
    folder: Path, method: str, made: Correction, noise: Floats | None, affine: Floats
) -> dict[str, str]:
    """Write a corrected map and its noise; the local regression's single maps as well."""
    sd = np.full(made.image.shape, np.nan, np.float32) if noise is None else noise
    files = {
        "image_file": save_image(folder / f"{method}.nii.gz", made.image, affine),
        "noise_file": save_image(folder / f"{method}_noise.nii.gz", sd, affine),
    }
    if made.local is not None:
        single = zip(made.local.names, made.local.signals, strict=True)
        files |= {
            f"local:{name}": save_image(folder / f"{method}_{name}.nii.gz", values, affine)
            for name, values in single
        }
    return files


def _borders(stored: Mapping[str, Any]) -> list[list[MovedBorder]]:
    """Return the moved borders that were stored with the regions.

    Those of two regions of the brain move one by one; those of a region with all that lies
    around the brain move together.
    """
    fields = ("grown", "shrunk", "taken", "shown_grown", "shown_shrunk")
    columns = (stored[f"border_{name}"] for name in fields)
    inside = stored["kinds"] == "tissue"
    rows: dict[tuple[int, int], list[MovedBorder]] = {}
    for grown, shrunk, *arrays in zip(*columns, strict=True):
        border = MovedBorder(int(grown), int(shrunk), *arrays)
        other = border.shrunk if inside[border.shrunk] else -1
        rows.setdefault((border.grown, other), []).append(border)
    return list(rows.values())
