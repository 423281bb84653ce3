"""The regional table of an atlas: its labels, divided by the tissues that fill them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits
from scipy import sparse

from sodiumprep.interfaces.calibrate import load_lines
from sodiumprep.interfaces.coil_fields import load_field
from sodiumprep.interfaces.concentration import COLUMNS, FORCED, QuantifyInput, Regions
from sodiumprep.interfaces.image import load_finite_image, load_image
from sodiumprep.interfaces.pvc import FEED, border_uncertainty, stored_decays
from sodiumprep.interfaces.reconstruct import load_response
from sodiumprep.interfaces.regions import (
    FineRegions,
    count_bordered,
    kernel_names,
    load_fine,
)
from sodiumprep.sodium.acquisition import Complexes, Floats, Integers
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.concentration import (
    MORE_QUANTILES,
    Parts,
    combined_table,
    region_flags,
    with_flag,
)
from sodiumprep.sodium.concentration_map import Concentrations, map_concentration
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.assessment import SEGMENTATION_ERROR, UNCORRECTED
from sodiumprep.sodium.pvc.parcel_rows import (
    AtlasRow,
    RowParts,
    atlas_rows,
    mirror_rows,
    row_coverage,
    row_volumes,
    rows_with_lesions,
)
from sodiumprep.sodium.pvc.parcel_signals import ParcelErrors, ParcelSignals, parcel_signals
from sodiumprep.sodium.pvc.parcels import (
    Division,
    Others,
    ParcelModel,
    parcel_model,
)
from sodiumprep.sodium.pvc.regional import IndistinctRegionsError, entangled
from sodiumprep.sodium.pvc.sensitivity import moving_together
from sodiumprep.sodium.ratios import ratios
from sodiumprep.sodium.reciprocity import with_correlation
from sodiumprep.sodium.regions import TISSUES
from sodiumprep.sodium.relaxation import DECAYING, moved_name
from sodiumprep.sodium.smooth_field import grid_positions, relative_uncertainty

METHODS = (UNCORRECTED, FEED)  # that have rows of atlas regions
RATIO = ("ratio", "u_ratio")
TOO_LITTLE, TOO_SMALL = "coverage_too_low", "too_small"  # flags of rows without a value
INDISTINCT = "indistinct"
NEGATIVE = "negative"  # a model of uniform regions with these borders does not hold there
MIRRORS, WHOLE = "mirrors", "included"
ROWS = ("atlas", MIRRORS, WHOLE)  # kinds of tables


class _TabulateParcelsInput(QuantifyInput):
    fine_file = File(exists=True, mandatory=True, desc="tissues and moved borders (npz)")
    response_file = File(exists=True, mandatory=True, desc="transfer functions (npz)")
    labels_file = File(exists=True, desc="label image in the anatomy's space; none: no labels")
    names = traits.Dict(usedefault=True, desc="name of each label of the atlas")
    kind = traits.Enum(
        *ROWS, usedefault=True,
        desc="rows of an atlas; lesions with what lies opposite of them, whose labels are named "
        "by the class; or whole tissues without and with lesions",
    )  # fmt: skip
    without = traits.Dict(usedefault=True, desc="why a label has no value, by label")
    unasked = traits.Bool(
        False, usedefault=True, desc="regions that nobody chose: where the image cannot tell them "
        "apart they have no corrected value, which else is an error",
    )  # fmt: skip
    label_tissues = traits.Dict(usedefault=True, desc="GM, WM or CSF of labels that say it")
    least_coverage = traits.Range(
        0.0, 1.0, usedefault=True, desc="share of a region in the field of view, else no value"
    )


class _TabulateParcelsOutput(TraitedSpec):
    table_file = File(exists=True, desc="regional table (TSV) [mmol/L]")


_FIRST = COLUMNS.index("median")
PARCEL_COLUMNS = [
    *COLUMNS[:_FIRST], *MORE_QUANTILES,
    *(name for name in COLUMNS[_FIRST:] if name not in MORE_QUANTILES), "tissue",
]  # fmt: skip


class TabulateParcels(SimpleInterface):
    """Write rows of the regions of an atlas, without and with partial-volume correction."""

    input_spec = _TabulateParcelsInput
    output_spec = _TabulateParcelsOutput

    def _run_interface(self, runtime: Any) -> Any:
        case = _Case.load(self.inputs)
        frames = []
        for pvc in METHODS:
            signals = self._signals(case, pvc)
            frames += [self._rows(case, signals, pvc, desc) for desc in ("apparent", "corrected")]
        table = pd.concat(frames, ignore_index=True)
        path = Path(runtime.cwd) / "table.tsv"
        table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        self._results["table_file"] = str(path)
        return runtime

    def _signals(self, case: _Case, pvc: str) -> ParcelSignals | None:
        try:
            return case.signals(pvc)
        except IndistinctRegionsError:
            if not self.inputs.unasked:
                raise
            return None

    def _rows(
        self, case: _Case, signals: ParcelSignals | None, pvc: str, desc: str
    ) -> pd.DataFrame:
        quantified = {} if signals is None else case.quantified(signals, pvc, desc)
        order = [*PARCEL_COLUMNS, *(RATIO if self.inputs.kind == MIRRORS else ())]
        columns = {
            **case.described(),
            "pvc": pvc,
            "desc": desc,
            **quantified,
            **(case.spread(desc) if pvc == UNCORRECTED else {}),
        }
        flags = list(case.flags)
        if pvc == FEED and signals is not None:
            flags = with_flag(flags, "entangled", case.entangled(signals))
        if quantified:
            flags = with_flag(flags, NEGATIVE, quantified["mean"] < 0)
        frame = pd.DataFrame({name: columns.get(name, np.nan) for name in order})
        without = case.without_value(self.inputs.least_coverage)
        if signals is None:
            without = [word or INDISTINCT for word in without]
        flags = [word or flag for word, flag in zip(without, flags, strict=True)]
        kept = ("index", "name", "pvc", "desc", "n_voxels", "volume_ml", "coverage", "tissue")
        empty = np.array([bool(word) for word in without])
        frame.loc[empty, [c for c in frame if c not in kept]] = np.nan
        return frame.assign(flag=flags)


class _Case:
    """One image with one atlas."""

    def __init__(self, inputs: Any, fine: FineRegions) -> None:
        self.inputs, self.fine = inputs, fine
        self.image, self.affine = load_finite_image(inputs.image_file)
        self.noise_sd, _ = load_image(inputs.noise_file)
        self.regions = Regions.load(inputs)
        self.lines, self.calibration = load_lines(inputs.calibration_file)
        self.response = load_response(inputs.response_file)
        self.lesions = [name for name in self.regions.names if name not in TISSUES]
        self.rows = self._rows()
        self.maps: Concentrations = map_concentration(
            self.image, self.noise_sd, self.regions.brain, self.regions.protocol, self.lines
        )
        self.voxel = np.linalg.norm(self.affine[:3, :3], axis=0)
        self.voxel_ml = float(np.prod(self.voxel)) / 1e3
        self.division = self._divide()
        self.model: ParcelModel = parcel_model(
            self.division,
            self._others(),
            {tissue: self.response.transfers[tissue] for tissue in TISSUES},
            self._noise(),
        )
        self.n = self.model.n_parcels + len(self.lesions)  # parts: parcels, then lesions
        members = sparse.csr_array(self.model.members[: self.n])
        self.parts = RowParts(self.rows, self.division.keys, self.lesions, members)
        self.source = self.parts.source(self.regions.names)
        self.errors = self._errors()
        self.pairs = self.parts.opposite() if inputs.kind == MIRRORS else []
        self.receive, self.transmit = self._receive(), self._transmit()
        self.volumes_ml = self._volumes_ml()
        self.coverage = self._coverage()
        self.flags = self._flags()

    @classmethod
    def load(cls, inputs: Any) -> _Case:
        return cls(inputs, load_fine(inputs.fine_file))

    def _rows(self) -> list[AtlasRow]:
        names = {int(label): str(name) for label, name in self.inputs.names.items()}
        if self.inputs.kind == MIRRORS:
            return mirror_rows(names)
        if self.inputs.kind == WHOLE:
            voxel_ml = abs(np.linalg.det(self.fine.anatomy[:3, :3])) / 1e3
            volumes = dict(zip(self.regions.names, self.regions.volumes_ml, strict=True))
            sizes = {name: volumes[name] / voxel_ml for name in self.lesions}
            return rows_with_lesions(self.fine.taken, sizes)
        tissues = {int(k): str(tissue) for k, tissue in self.inputs.label_tissues.items()}
        return atlas_rows(names, tissues)

    def _divide(self) -> Division:
        if not isdefined(self.inputs.labels_file):
            nothing = np.zeros(self.fine.grid.shape, np.int32)
            return Division(nothing, self.fine.tissues, [], self.fine.factor)
        values, own = load_image(self.inputs.labels_file)
        sampled = self.fine.grid.sample(values, own, self.fine.transform, order=0)
        labels = np.rint(sampled).astype(np.int32)
        wanted = [(row.label, tissue) for row in self.rows for tissue in row.tissues]
        labels[~np.isin(labels, [row.label for row in self.rows])] = 0
        return Division(labels, self.fine.tissues, wanted, self.fine.factor)

    def _others(self) -> Others:
        with np.load(self.inputs.regions_file) as stored:
            fractions, blurred = stored["fractions"], stored["blurred"]
            self.kinds: list[str] = stored["kinds"].tolist()
        known = self.regions.all_signals[FEED]
        return Others(self.regions.all_names, fractions, blurred, known.covariance)

    def _noise(self) -> ImageNoise | None:
        if not np.isfinite(self.noise_sd).all():
            return None
        response = self.response
        return ImageNoise(self.noise_sd, response.noise_spectrum, response.noise_modes)

    def _errors(self) -> ParcelErrors:
        known = self.inputs.properties
        spread = known.get("RegistrationSpread")
        names, kinds = self.regions.all_names, self.kinds
        borders = moving_together(self.fine.layers, count_bordered(kinds))
        kernels = kernel_names(names, self.response.transfers)
        ends = [(n, self.response.transfers[k]) for n, k in zip(names, kernels, strict=True)]
        return ParcelErrors(
            (np.nan if spread is None else spread) / np.sqrt(3) / self.voxel,
            np.asarray(known["PointSpreadFWHM"]["GM"]) / self.voxel,
            known["PointSpreadUncertainty"],
            [[layer.between(ends) for layer in row] for row in borders],
            border_uncertainty(borders, names, kinds) / SEGMENTATION_ERROR,
            self._moved_transfers(),
            self._moved_lesions(),
            self.regions.names,
        )

    def _moved_transfers(self) -> dict[tuple[str, int], Complexes]:
        moved = {
            (tissue, c): self.response.transfers.get(moved_name(tissue, constant))
            for tissue in TISSUES
            for c, constant in enumerate(DECAYING)
        }
        return {key: transfer for key, transfer in moved.items() if transfer is not None}

    def _moved_lesions(self) -> dict[tuple[str, int], Floats]:
        with np.load(self.inputs.regions_file) as stored:
            moved = [(self.regions.all_names[m.region], m) for m in stored_decays(stored)]
        return {(name, m.constant): m.shown for name, m in moved if name in self.lesions}

    def signals(self, pvc: str) -> ParcelSignals:
        """Return the signals by one method, with all that changes them."""
        corrected = pvc == FEED
        found = parcel_signals(self.model, self.image, corrected, self.errors, self.source)
        name = self.regions.calibrated_by
        if name is None:
            return found
        own = [k for k in range(self.n) if self.regions.names[self.source[k]] == name]
        return found.calibrated_by(self.regions.reference(name), own, corrected)

    def quantified(self, signals: ParcelSignals, pvc: str, desc: str) -> dict[str, Any]:
        """Return the columns of concentrations, shape (rows,)."""
        regions, corrected = self.regions, desc == "corrected"
        if not corrected:
            factors = np.ones(self.n)
        elif pvc == UNCORRECTED:
            factors = self.parts.mixed_factors(self.maps.signal, self.maps.factor)
        else:
            factors = regions.brain.factors(regions.protocol)[self.source]
        covariance = signals.covariance[: self.n, : self.n]
        parts = Parts(signals.parts, covariance, self.parts.weights, self.receive, self.transmit)
        constants = regions.constants if corrected else None
        known = (factors, constants, regions.protocol, self.lines[desc])
        table = combined_table(parts, *known)
        own = self.parts.weights @ signals.values[: self.n]
        snr = own / self.parts.means(self.noise_sd.ravel().astype(np.float64))
        return {**table, "snr": snr, **self._ratios(parts, known)}

    def _ratios(self, parts: Parts, known: tuple[Any, ...]) -> dict[str, Floats]:
        """Return what lesions have of the rows that lie opposite of them, nan of other rows."""
        table = {name: np.full(len(self.rows), np.nan) for name in RATIO}
        if self.pairs:
            pairs = np.array(self.pairs)
            fields = {
                "u_receive": self._receive_ratio(pairs),
                "u_transmit": self._transmit_ratio(),
            }
            if self.regions.one_field:
                fields["u_receive"] = with_correlation(*fields.values())
            found = ratios(replace(parts, **fields), *known, pairs)
            for name, values in zip(RATIO, found, strict=True):
                table[name][pairs[:, 1]] = values
        return table

    def _receive_ratio(self, pairs: Integers) -> Floats:
        if self.regions.model_file is None:
            return np.full(len(pairs), np.nan)
        model, basis = load_field(str(self.regions.model_file)), self._field_means()
        return relative_uncertainty(model, basis[pairs[:, 0]], basis[pairs[:, 1]])

    def _transmit_ratio(self) -> Floats:
        """Return the uncertainty of ratios by the flip angle: of lesions over whole tissues."""
        known = self.regions.transmit
        if known is None:
            return np.full(len(self.pairs), np.nan)
        names = self.regions.names
        over = np.array([known.uncertainty(names, [name]) for name in names]).T
        return self.parts.ratio_uncertainty(self.pairs, over, names)

    def _receive(self) -> Floats:
        if self.regions.model_file is None:
            return np.full(len(self.rows), np.nan)
        model = load_field(str(self.regions.model_file))
        reference = self.regions.receive_basis((self.image.shape, self.affine))[1]
        alone = relative_uncertainty(model, self._field_means(), reference)
        return with_correlation(alone, self._transmit()) if self.regions.one_field else alone

    def _field_means(self) -> Floats:
        """Return the means of the receive field's basis over the rows, shape (rows, basis)."""
        model = load_field(str(self.regions.model_file))
        return self.parts.field_means(model, grid_positions(self.image.shape, self.affine))

    def _transmit(self) -> Floats:
        """Return the uncertainty by the flip angle: that of the tissue, wherever it lies."""
        known = self.regions
        if known.transmit is None:
            return np.full(len(self.rows), np.nan)
        by_tissue = known.transmit.uncertainty(known.names, known.rests_on)
        return self.parts.weights @ by_tissue[self.source]

    def spread(self, desc: str) -> dict[str, Floats]:
        """Return how the voxels of each row are spread, shape (rows,)."""
        return self.parts.spread(getattr(self.maps, desc))

    def described(self) -> dict[str, Any]:
        """Return the columns that say what each row is."""
        return {
            "index": [row.label for row in self.rows],
            "name": [row.name for row in self.rows],
            "tissue": [row.tissue for row in self.rows],
            "n_voxels": self.parts.sizes,
            "volume_ml": self.volumes_ml,
            "coverage": self.coverage,
        }

    def _volumes_ml(self) -> Floats:
        """Return the volume of each row in the anatomy [ml]."""
        carved, affine = self.fine.carved, self.fine.anatomy
        labels = self._anatomical_labels(carved["GM"].shape, affine)
        lesions = dict(zip(self.regions.names, self.regions.volumes_ml, strict=True))
        voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1e3
        return row_volumes(self.rows, labels, carved, lesions, voxel_ml)

    def _anatomical_labels(self, shape: tuple[int, ...], affine: Floats) -> Integers:
        if not isdefined(self.inputs.labels_file):
            return np.zeros(shape, np.intp)
        values, own = load_image(self.inputs.labels_file)
        if values.shape != shape or not np.allclose(own, affine, atol=1e-4):
            values = resample(values, index_map(affine, own, np.eye(4)), shape, 0)
        return np.rint(values).astype(np.intp)

    def _coverage(self) -> Floats:
        covered = self.regions.volumes_ml * self.regions.coverage
        lesions = dict(zip(self.regions.names, covered, strict=True))
        sizes = self.division.sizes
        return row_coverage(self.rows, sizes, lesions, self.voxel_ml, self.volumes_ml)

    def _flags(self) -> list[str]:
        flags = region_flags(
            self.parts.sizes * float(np.prod(self.voxel)) / 1e3,
            np.nan_to_num(self.coverage),
            self.inputs.properties,
            [row.typical for row in self.rows],
        )
        return with_flag(flags, FORCED, np.full(len(flags), self.calibration["forced"]))

    def entangled(self, signals: ParcelSignals) -> Integers:
        """Tell of each row whether noise shifts signal between it and another region."""
        return self.parts.having(entangled(signals.covariance)[: self.n])

    def without_value(self, least: float) -> list[str]:
        """Return why a row has no value, or nothing, for each."""
        told = {int(label): str(word) for label, word in self.inputs.without.items()}
        known = zip(self.rows, self.coverage, self.parts.amounts, strict=True)
        return [
            told[row.label] if row.label in told and not row.lesions
            else TOO_LITTLE if not np.nan_to_num(covered) >= least
            else "" if held.any() else TOO_SMALL
            for row, covered, held in known
        ]  # fmt: skip
