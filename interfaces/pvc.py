"""Partial-volume correction of the regional signals, with what changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
from sodiumprep.interfaces.regions import count_bordered
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.kernel import near_part
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc import METHODS
from sodiumprep.sodium.pvc.assessment import (
    BORDER_OF_LESION,
    BORDER_OF_TISSUE,
    UNCORRECTED,
    AssessedSignals,
    Assessment,
)
from sodiumprep.sodium.pvc.local import MOST_LOCAL
from sodiumprep.sodium.pvc.methods import FEEDS, Correction, Setup
from sodiumprep.sodium.pvc.sensitivity import (
    MovedBorder,
    MovedDecay,
    TwoSides,
    moving_together,
)
from sodiumprep.sodium.pvc.shown import SampledRegions
from sodiumprep.sodium.regions import TISSUES

FROM_KSPACE = "kspace"  # the one method that does not start from the image
NEAR = 8.0  # voxels; what a deconvolution undoes of a kernel
NEIGHBOURHOOD = 12.0  # mm; full width at half maximum of that of the local regression
FEED = "gtm"  # whose values calibrate by CSF, and tell what a mixed voxel is made of


def save_signals(path: Path, signals: Mapping[str, AssessedSignals]) -> str:
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


def load_signals(path: Path | str) -> dict[str, AssessedSignals]:
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
    return {method: AssessedSignals(**known) for method, known in fields.items()}


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
            changed = {"borders": _borders(stored), "decays": stored_decays(stored)}
            kinds = stored["kinds"]
        case = self._case(image, affine, regions, kinds, **changed)
        folder = Path(runtime.cwd)
        signals, maps, remarks = {}, {}, list(remarks)
        asked = [name for name in self.inputs.methods if name != FROM_KSPACE]
        for name in dict.fromkeys([UNCORRECTED, FEED, *asked]):
            signals[name], made, noise = case.signals(name)
            remarks += made.remarks
            if noise is not None:
                maps[name] = _save_map(folder, name, made, noise, affine)
            if name == FEED:
                condition = made.made.condition_number
                ratios = case.residual_over_noise(signals[name])
        told = {}
        if isdefined(self.inputs.kspace_signals_file):
            signals |= load_signals(self.inputs.kspace_signals_file)
            told = dict(self.inputs.kspace_told)
        self._results["signals_file"] = save_signals(folder / "signals.npz", signals)
        self._results["map_files"] = maps
        self._results["properties"] = {
            **self.inputs.properties,
            "ConditionNumber": round(condition, 2),
            "ResidualOverNoise": {
                name: round(float(ratio), 2)
                for name, kind, ratio in zip(names, kinds, ratios, strict=True)
                if kind == "tissue" and np.isfinite(ratio)
            },
            **told,
            **_told(remarks, self.inputs.brain_warning, self.inputs.properties),
        }
        return runtime

    def _case(
        self, image: Floats, affine: Floats, regions: SampledRegions, kinds: Floats,
        borders: Sequence[Sequence[MovedBorder]], decays: Sequence[MovedDecay],
    ) -> Assessment:  # fmt: skip
        noise_sd, _ = load_image(self.inputs.noise_file)
        response = load_response(self.inputs.response_file)
        known = self.inputs.properties
        voxel = np.linalg.norm(affine[:3, :3], axis=0)
        spread = known.get("RegistrationSpread")
        x, y, z = NEIGHBOURHOOD / voxel
        names = np.asarray(regions.names)
        return Assessment(
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
            voxel_size=voxel,
            borders=borders,
            border_uncertainty=border_uncertainty(borders, regions.names, kinds),
            decays=decays,
            sensitivity=self.inputs.sensitivity,
        )


def _save_map(
    folder: Path, method: str, made: Correction, noise: Floats, affine: Floats
) -> dict[str, str]:
    """Write a corrected map and its noise; the local regression's single maps as well."""
    files = {
        "image_file": save_image(folder / f"{method}.nii.gz", made.image, affine),
        "noise_file": save_image(folder / f"{method}_noise.nii.gz", noise, affine),
    }
    if made.local is not None:
        single = zip(made.local.names, made.local.signals, strict=True)
        files |= {
            f"local:{name}": save_image(folder / f"{method}_{name}.nii.gz", values, affine)
            for name, values in single
        }
    return files


def border_uncertainty(
    borders: Sequence[Sequence[TwoSides]], names: Sequence[str], kinds: Sequence[str]
) -> Floats:
    """Return how uncertain the place of borders is that err together.

    Parameters
    ----------
    borders
        Rows of them.
    names, kinds
        Of the regions.

    Returns
    -------
    uncertainty
        Shape (rows,) [mm].
    """
    lesions = {
        k for k, (name, kind) in enumerate(zip(names, kinds, strict=True))
        if kind == "tissue" and name not in TISSUES
    }  # fmt: skip
    return np.array([
        BORDER_OF_LESION if any({b.grown, b.shrunk} & lesions for b in row) else BORDER_OF_TISSUE
        for row in borders
    ])  # fmt: skip


def stored_decays(stored: Mapping[str, Any]) -> list[MovedDecay]:
    """Return the kernels that rest on moved constants.

    Parameters
    ----------
    stored
        What was stored with the regions (npz).
    """
    pairs = zip(stored["decay_of"].tolist(), stored["decay_blurred"], strict=True)
    return [MovedDecay(region, constant, shown) for (region, constant), shown in pairs]


def _borders(stored: Mapping[str, Any]) -> list[list[MovedBorder]]:
    """Return the moved borders that were stored with the regions, as they err together."""
    fields = ("grown", "shrunk", "taken", "shown_grown", "shown_shrunk")
    columns = (stored[f"border_{name}"] for name in fields)
    borders = [
        MovedBorder(int(grown), int(shrunk), *arrays)
        for grown, shrunk, *arrays in zip(*columns, strict=True)
    ]
    return moving_together(borders, count_bordered(stored["kinds"]))
