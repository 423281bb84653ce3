"""Maps and tables of tissue sodium concentration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from sodiumprep.interfaces.anatomy import resample_once
from sodiumprep.interfaces.calibrate import (
    load_lines,
    phantom_basis,
    protocol_of,
    rests_on,
)
from sodiumprep.interfaces.coil_fields import RegionTransmit, load_field, load_transmit
from sodiumprep.interfaces.comparison import REGIONS
from sodiumprep.interfaces.equation import save_equation, without_transmit
from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.interfaces.monte_carlo import finished, uncertain_table, with_changes
from sodiumprep.interfaces.pvc import FEED, load_signals
from sodiumprep.interfaces.reconstruct import tissue_constants
from sodiumprep.interfaces.registration import read_transform
from sodiumprep.interfaces.templates import template_grid
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.concentration import (
    EFFECTS,
    Reference,
    RegionalSignals,
    calibrated_by,
    concentration_table,
    effects_of_errors,
    region_flags,
    region_statistics,
    relative_changes,
    with_flag,
)
from sodiumprep.sodium.concentration_map import (
    BrainRegions,
    Concentrations,
    FieldErrors,
    Grid,
    MapErrors,
    map_concentration,
)
from sodiumprep.sodium.pvc.assessment import BORDER_OF_TISSUE, UNCORRECTED, AssessedSignals
from sodiumprep.sodium.reciprocity import with_correlation
from sodiumprep.sodium.smooth_field import grid_positions, relative_uncertainty

FORCED = "calibration_forced"  # flag of all rows where a poor line calibrates
COLUMNS = [
    "index",
    "name",
    "pvc",
    "desc",
    "n_voxels",
    "volume_ml",
    "mean",
    "sd",
    "median",
    "q25",
    "q75",
    "uncertainty",
    "u_noise",
    "u_calibration",
    "u_relaxation",
    "u_receive",
    "u_b1",
    "u_pvc",
    "u_segmentation",
    "u_registration",
    "ci_low",
    "ci_high",
    "snr",
    "coverage",
    "flag",
]


class QuantifyInput(BaseInterfaceInputSpec):
    """What every step needs that turns signal into concentration."""

    image_file = File(exists=True, mandatory=True, desc="sodium image, receive-corrected [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    regions_file = File(exists=True, mandatory=True, desc="regions (npz)")
    signals_file = File(exists=True, mandatory=True, desc="corrected regional signals (npz)")
    calibration_file = File(exists=True, mandatory=True, desc="apparent and corrected line (JSON)")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue [s]")
    protocol = traits.Dict(mandatory=True, desc="echo and repetition time [s], flip angle [rad]")
    transmit_file = File(exists=True, desc="what the flip angle does to regions (npz)")
    model_file = traits.Either(None, File(exists=True), desc="fitted receive field (npz), or None")
    properties = traits.Dict(mandatory=True, desc="of the image; flags are read")


class _MapOutput(TraitedSpec):
    apparent_file = File(exists=True, desc="apparent concentration [mmol/L]")
    corrected_file = File(exists=True, desc="relaxation-corrected concentration [mmol/L]")
    uncertainty_file = File(exists=True, desc="standard uncertainty of the latter [mmol/L]")
    uncertainty_terms = traits.Dict(desc="terms of the uncertainty, and what each is of")


class MapConcentration(SimpleInterface):
    """Turn the sodium image into concentration maps on its own grid."""

    input_spec = QuantifyInput
    output_spec = _MapOutput

    def _run_interface(self, runtime: Any) -> Any:
        image, affine = load_finite_image(self.inputs.image_file)
        noise, _ = load_image(self.inputs.noise_file)
        regions = Regions.load(self.inputs)
        lines, _ = load_lines(self.inputs.calibration_file)
        errors = replace(regions.map_errors((image.shape, affine)), **self._moves(affine))
        done = map_concentration(image, noise, regions.brain, regions.protocol, lines, errors)
        self._results["uncertainty_terms"] = dict(done.terms)
        for name in ("apparent", "corrected", "uncertainty"):
            path = Path(runtime.cwd) / f"{name}.nii.gz"
            self._results[f"{name}_file"] = save_image(path, getattr(done, name), affine)
        return runtime

    def _moves(self, affine: Floats) -> dict[str, Floats | None]:
        """Return how uncertain the place of anatomy and borders is [voxels]."""
        spread = self.inputs.properties.get("RegistrationSpread")
        voxel = np.linalg.norm(affine[:3, :3], axis=0)
        shift = None if spread is None else spread / np.sqrt(3) / voxel
        return {"shift": shift, "border": BORDER_OF_TISSUE / voxel}


class _ResidualInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="sodium image, receive-corrected [signal]")
    regions_file = File(exists=True, mandatory=True, desc="regions (npz)")
    signals_file = File(exists=True, mandatory=True, desc="corrected regional signals (npz)")
    calibration_file = File(exists=True, mandatory=True, desc="apparent and corrected line (JSON)")


class _ResidualOutput(TraitedSpec):
    residual_file = File(exists=True, desc="apparent concentration that no region explains")


class MapResidual(SimpleInterface):
    """Map what the regions, each uniform and blurred by its kernel, leave of the image.

    A lesion that no mask covers, or a border that lies elsewhere, shows here.
    """

    input_spec = _ResidualInput
    output_spec = _ResidualOutput

    def _run_interface(self, runtime: Any) -> Any:
        image, affine = load_finite_image(self.inputs.image_file)
        with np.load(self.inputs.regions_file) as stored:
            blurred = stored["blurred"]
        values = load_signals(self.inputs.signals_file)[FEED].values
        lines, _ = load_lines(self.inputs.calibration_file)
        left = (image - np.tensordot(values, blurred, 1)) / lines["apparent"].slope
        self._results["residual_file"] = save_image(
            Path(runtime.cwd) / "residual.nii.gz", left.astype(np.float32), affine
        )
        return runtime


class Regions:
    """The tissue and lesion regions of one image, with what maps and tables need of them."""

    def __init__(self, inputs: Any, stored: Any, signals: Mapping[str, AssessedSignals]) -> None:
        tissue = stored["kinds"] == "tissue"
        self.all_names: list[str] = stored["names"].tolist()
        self.all_signals, self.by_name = signals, tissue_constants(inputs.tissues)
        self.names: list[str] = stored["names"][tissue].tolist()
        self.fractions, self.blurred = stored["fractions"][tissue], stored["blurred"][tissue]
        self.volumes_ml, self.coverage = stored["volumes_ml"], stored["coverage"]
        self.signals = {
            name: _of_regions(own, tissue, signals[FEED]) for name, own in signals.items()
        }
        self.sensitivity = {name: own.sensitivity[:, tissue] for name, own in signals.items()}
        self.entangled = {name: own.entangled[tissue] for name, own in signals.items()}
        self.constants = [self.by_name[name] for name in self.names]
        self.protocol = protocol_of(inputs.protocol)
        self.transmit = load_transmit(inputs.transmit_file)
        self.brain = BrainRegions(
            self.blurred,
            self.signals[FEED].values,
            self.constants,
            transmit_factors(self.transmit, self.names),
        )
        beside = np.isin(stored["kinds"], ("reference", "vial"))
        self.beside = dict(zip(stored["names"][beside], stored["fractions"][beside], strict=True))
        _, extra = load_lines(inputs.calibration_file)
        self.calibrated_by = REGIONS.get(extra["reference"])  # None: vials or a phantom
        # regions that the calibration rests on; none for a phantom scanned by itself
        self.rests_on = rests_on(extra)
        self.phantom_basis = phantom_basis(inputs.calibration_file)
        self.one_field = inputs.properties.get("ReceiveCorrection") == "reciprocity"
        self.model_file = inputs.model_file if isdefined(inputs.model_file) else None

    def reference(self, name: str) -> Reference:
        """Return what changes the region that calibrates; it may be none of the rows."""
        if name in self.names:
            return relative_changes(self.signals[FEED], self.names.index(name))
        every = np.ones(len(self.all_names), bool)
        signals = _of_regions(self.all_signals[FEED], every, self.all_signals[FEED])
        return relative_changes(signals, self.all_names.index(name), self.by_name[name])

    def reference_effects(self, name: str) -> Floats:
        """Return what given errors change in the region that calibrates, relative to it."""
        k, main = self.all_names.index(name), self.all_signals[FEED]
        return np.asarray(main.sensitivity[:, k] / main.values[k])

    def by_region(self, values: Floats) -> dict[str, float]:
        """Return values of the rows by their names."""
        return dict(zip(self.names, values.tolist(), strict=True))

    def feed(self) -> dict[str, float]:
        """Return the signals of the rows that feed the maps, by name."""
        return self.by_region(self.signals[FEED].values)

    def relaxation(self) -> dict[str, float]:
        """Return the relaxation factors of rows, fluids and vials by name."""
        used = (name for name in (*self.names, *self.beside) if name in self.by_name)
        return {name: self.protocol.factor(self.by_name[name]) for name in used}

    def factors_by_name(self) -> dict[str, dict[str, float]]:
        """Return all factors of rows, fluids and vials, as the sidecar of the table tells them."""
        relaxation = self.relaxation()
        if self.transmit is None:
            return {"RelaxationFactor": relaxation}
        left = {name: self.transmit.factor(name) for name in relaxation}
        return {"RelaxationFactor": relaxation, "TransmitFactor": left}

    def receive_basis(self, grid: Grid) -> tuple[Floats, Floats]:
        """Return the means of the receive field's basis over the rows, and over the reference."""
        everything = np.concatenate([self.fractions, *(f[None] for f in self.beside.values())])
        weights = everything.reshape(len(everything), -1)
        basis = load_field(str(self.model_file)).region_means(grid_positions(*grid), weights)
        if self.phantom_basis is not None:
            return basis[: len(self.names)], self.phantom_basis
        used = np.isin([*self.names, *self.beside], self.rests_on)
        return basis[: len(self.names)], basis[used].mean(axis=0)

    def map_errors(self, grid: Grid) -> MapErrors:
        """Return what is uncertain about a map on a grid beside its noise and its mixture."""
        receive = transmit = None
        if self.model_file is not None:
            model = load_field(str(self.model_file))
            receive = FieldErrors.of_receive(model, grid, self.receive_basis(grid)[1])
        if self.transmit is not None:
            transmit = self.transmit.map_errors(grid, self.names, self.rests_on)
        name = self.calibrated_by
        return MapErrors(
            None if name is None else self.reference(name), receive, transmit,
            one_field=self.one_field,
        )  # fmt: skip

    @classmethod
    def load(cls, inputs: Any) -> Regions:
        with np.load(inputs.regions_file) as stored:
            return cls(inputs, stored, load_signals(inputs.signals_file))


def transmit_factors(transmit: RegionTransmit | None, names: Sequence[str]) -> Floats:
    """Return what the flip angle leaves in the signal of regions.

    Parameters
    ----------
    transmit
        None where the flip angle was not corrected.
    names
        Of the regions.

    Returns
    -------
    factors
        Shape (n,).
    """
    return np.array([1.0 if transmit is None else transmit.factor(name) for name in names])


def _of_regions(signals: AssessedSignals, which: Floats, main: AssessedSignals) -> RegionalSignals:
    """Return the signals of some regions; the uncertainties of the coils are not yet known."""
    unknown = np.full(int(which.sum()), np.nan)
    known = with_changes(signals, main)
    return RegionalSignals(
        signals.values[which],
        np.diag(signals.covariance)[which],
        signals.kernel_change[which],
        signals.registration_changes[:, which],
        known.border_changes[:, which],
        unknown,
        unknown,
        decay_changes=known.decay_changes[which][:, :, which],
    )


class _TabulateInput(QuantifyInput):
    methods = traits.List(traits.Str, [FEED], usedefault=True, desc="corrections with rows")
    monte_carlo = traits.Int(0, usedefault=True, desc="draws of all that is uncertain; 0: none")
    random_seed = traits.Int(0, usedefault=True, desc="of these draws")


class _TabulateOutput(TraitedSpec):
    table_file = File(exists=True, desc="regional table (TSV) [mmol/L]")
    equation_file = File(exists=True, desc="the numbers that its values are made of (JSON)")
    told = traits.Dict(desc="correlation of rows, what draws say, Warnings")


class TabulateRegions(SimpleInterface):
    """Write one row per region, method and kind, with its uncertainty term by term."""

    input_spec = _TabulateInput
    output_spec = _TabulateOutput

    def _run_interface(self, runtime: Any) -> Any:
        image, affine = load_finite_image(self.inputs.image_file)
        noise, _ = load_image(self.inputs.noise_file)
        regions = Regions.load(self.inputs)
        lines, extra = load_lines(self.inputs.calibration_file)
        reference = regions.calibrated_by
        coils = {
            "u_receive": _receive(regions, (image.shape, affine)),
            "u_transmit": _transmit(regions),
        }
        if regions.one_field:
            coils["u_receive"] = with_correlation(coils["u_receive"], coils["u_transmit"])
        voxel = np.linalg.norm(affine[:3, :3], axis=0)
        signals = {name: replace(own, **coils) for name, own in regions.signals.items()}
        if reference is not None:
            signals = calibrated_by(signals, FEED, regions.reference(reference))
        maps = map_concentration(image, noise, regions.brain, regions.protocol, lines)
        effects = None if reference is None else regions.reference_effects(reference)
        volumes = regions.fractions.sum(axis=(1, 2, 3), dtype=np.float64) * np.prod(voxel) / 1e3
        flags = region_flags(volumes, regions.coverage, self.inputs.properties, regions.names)
        flags = with_flag(flags, FORCED, np.full(len(flags), extra["forced"]))
        shown = {name: signals[name] for name in (UNCORRECTED, *self.inputs.methods)}
        tables, told = finished(
            _all_tables(regions, shown, maps, lines, effects),
            uncertain_table(regions, self.inputs, list(shown), maps, affine),
            self.inputs.monte_carlo,
            self.inputs.random_seed,
        )
        frames = [
            self._rows(regions, pvc, desc, table, maps, noise, flags)
            for pvc, desc, table in tables
        ]
        asked = [name for name in EFFECTS if name in frames[0]]
        table = pd.concat(frames, ignore_index=True)[[*COLUMNS, *asked]]
        path = Path(runtime.cwd) / "table.tsv"
        table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        self._results |= {"table_file": str(path), "told": told}
        self._results["equation_file"] = save_equation(
            Path(runtime.cwd) / "equation.json", regions.protocol, lines,
            Signal={name: regions.by_region(own.values) for name, own in shown.items()},
            MixedFactor=regions.by_region(maps.mean_factors(regions.fractions)),
            **regions.factors_by_name(),
            **without_transmit(regions.transmit, regions.feed(), regions.relaxation(), extra),
        )  # fmt: skip
        return runtime

    def _rows(
        self, regions: Regions, pvc: str, desc: str, table: Mapping[str, Floats],
        maps: Concentrations, noise: Floats, flags: list[str],
    ) -> pd.DataFrame:  # fmt: skip
        values = maps.apparent if desc == "apparent" else maps.corrected
        spread = region_statistics(values, regions.fractions)
        unknown = dict.fromkeys(spread, np.nan)
        signal_noise = region_statistics(noise, regions.fractions)["mean"]
        own = regions.signals[pvc].values
        columns = {
            "index": np.arange(1, len(regions.names) + 1),
            "name": regions.names,
            "pvc": pvc,
            "desc": desc,
            "n_voxels": regions.fractions.sum(axis=(1, 2, 3), dtype=np.float64),
            "volume_ml": regions.volumes_ml,
            **(
                {k: spread[k] for k in ("sd", "median", "q25", "q75")}
                if pvc == "none"
                else unknown
            ),
            **table,
            "snr": own / signal_noise,
            "coverage": regions.coverage,
            "flag": with_flag(flags, "entangled", regions.entangled.get(pvc)),
        }
        return pd.DataFrame(columns)


def _receive(regions: Regions, grid: Grid) -> Floats:
    if regions.model_file is None:
        return np.full(len(regions.names), np.nan)
    model = load_field(str(regions.model_file))
    return relative_uncertainty(model, *regions.receive_basis(grid))


def _transmit(regions: Regions) -> Floats:
    if regions.transmit is None:
        return np.full(len(regions.names), np.nan)
    return regions.transmit.uncertainty(regions.names, regions.rests_on)


def _all_tables(
    regions: Regions, signals: Mapping[str, RegionalSignals], maps: Concentrations,
    lines: Mapping[str, Any], of_reference: Floats | None,
) -> list[tuple[str, str, dict[str, Floats]]]:  # fmt: skip
    ones = np.ones(len(regions.names))
    own = regions.brain.factors(regions.protocol)
    mixed = maps.mean_factors(regions.fractions)
    return [
        (
            pvc,
            desc,
            concentration_table(found, factors, constants, regions.protocol, lines[desc])
            | _effects(regions.sensitivity[pvc], found.values, factors, lines[desc], of_reference),
        )
        for pvc, found in signals.items()
        for desc, factors, constants in (
            ("apparent", ones, None),
            ("corrected", mixed if pvc == UNCORRECTED else own, regions.constants),
        )
    ]


def _effects(changes: Floats, *known: Any) -> dict[str, Floats]:
    return effects_of_errors(changes, *known) if len(changes) else {}


class _ResampleInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="map in sodium space")
    reference_file = File(exists=True, mandatory=True, desc="image whose grid is taken")
    xfm_file = File(exists=True, mandatory=True, desc="points of the anatomy to points of sodium")


class _ResampleOutput(TraitedSpec):
    out_file = File(
        exists=True, desc="map on the grid of the anatomy; nan outside its field of view"
    )


class ResampleToAnatomy(SimpleInterface):
    """Resample a map once, by cubic splines, to the grid of the anatomy."""

    input_spec = _ResampleInput
    output_spec = _ResampleOutput

    def _run_interface(self, runtime: Any) -> Any:
        values, affine = load_image(self.inputs.in_file)
        reference, target = load_image(self.inputs.reference_file)
        mapping = index_map(target, affine, read_transform(self.inputs.xfm_file))
        moved = resample(values, mapping, reference.shape, 3, outside=np.nan)
        path = Path(runtime.cwd) / Path(self.inputs.in_file).name
        self._results["out_file"] = save_image(path, moved, target)
        return runtime


class _ToTemplateInput(BaseInterfaceInputSpec):
    xfm_file = File(exists=True, mandatory=True, desc="points of the anatomy to points of sodium")
    template_xfm = File(
        exists=True, mandatory=True, desc="points of the template to points of the anatomy"
    )
    grid_file = File(exists=True, desc="image whose grid is taken; else the embedded template's")
    resolution = traits.Int(1, usedefault=True, desc="voxel edge of the embedded template [mm]")


class _ResampleToTemplateInput(_ToTemplateInput):
    in_file = File(exists=True, mandatory=True, desc="map in sodium space")


class _ResampleToTemplateOutput(TraitedSpec):
    out_file = File(
        exists=True, desc="map on the grid of the template; nan outside its field of view"
    )


class ResampleToTemplate(SimpleInterface):
    """Resample a map once, by cubic splines, through both transforms to a template's grid."""

    input_spec = _ResampleToTemplateInput
    output_spec = _ResampleToTemplateOutput

    def _run_interface(self, runtime: Any) -> Any:
        self._results["out_file"] = _on_template(self.inputs, self.inputs.in_file, runtime.cwd)
        return runtime


class _ResampleCorrectedInput(_ToTemplateInput):
    map_files = traits.Dict(mandatory=True, desc="maps, as 'rbv:corrected_file'")
    wanted = traits.List(
        traits.Str(), mandatory=True, desc="those that are taken, in sodium space"
    )


class _ResampleCorrectedOutput(TraitedSpec):
    map_files = traits.Dict(
        desc="those on the grid of the template; nan outside the field of view"
    )


class ResampleCorrected(SimpleInterface):
    """Resample maps of partial-volume corrections, each once, to a template's grid.

    They have edges of one voxel, beside which splines would swing: by linear interpolation.
    """

    input_spec = _ResampleCorrectedInput
    output_spec = _ResampleCorrectedOutput

    def _run_interface(self, runtime: Any) -> Any:
        taken = {key: self.inputs.map_files[key] for key in self.inputs.wanted}
        self._results["map_files"] = {
            key: _on_template(self.inputs, path, runtime.cwd, linear=True)
            for key, path in taken.items()
        }
        return runtime


def _on_template(inputs: Any, in_file: str, folder: str, linear: bool = False) -> str:
    """Write a map as it is on the grid of a template."""
    values, affine = load_image(in_file)
    grid_file = inputs.grid_file if isdefined(inputs.grid_file) else ""
    shape, target = template_grid(grid_file, inputs.resolution)
    transforms = [inputs.template_xfm, inputs.xfm_file]
    moved = resample_once(values, affine, shape, target, transforms, linear)
    return save_image(Path(folder) / Path(in_file).name, moved, target)
