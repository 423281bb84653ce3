"""The regional table of an atlas: its labels, divided by the tissues that fill them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, traits
from scipy import sparse

from sodiumprep.interfaces.calibrate import load_lines
from sodiumprep.interfaces.coil_fields import load_field
from sodiumprep.interfaces.concentration import COLUMNS, FORCED, QuantifyInput, Regions
from sodiumprep.interfaces.image import load_finite_image, load_image
from sodiumprep.interfaces.pvc import FEED, border_uncertainty
from sodiumprep.interfaces.reconstruct import load_response
from sodiumprep.interfaces.regions import (
    FineRegions,
    count_bordered,
    kernel_names,
    load_fine,
)
from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.concentration import (
    Parts,
    RegionalSignals,
    combined_table,
    region_flags,
    region_statistics,
    with_flag,
)
from sodiumprep.sodium.concentration_map import Concentrations, map_concentration
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.assessment import SEGMENTATION_ERROR, UNCORRECTED
from sodiumprep.sodium.pvc.parcels import (
    Division,
    Layer,
    Others,
    ParcelModel,
    ShownLayer,
    parcel_model,
)
from sodiumprep.sodium.pvc.regional import entangled
from sodiumprep.sodium.pvc.sensitivity import moving_together
from sodiumprep.sodium.reciprocity import with_correlation
from sodiumprep.sodium.regions import TISSUES
from sodiumprep.sodium.relaxation import DECAYING, moved_name
from sodiumprep.sodium.smooth_field import grid_positions, relative_uncertainty

METHODS = (UNCORRECTED, FEED)  # that have rows of atlas regions
BOTH = ("GM", "WM")  # of a label that does not say its tissue
ALL = "all"  # tissue of a row of both
TOO_LITTLE, TOO_SMALL = "coverage_too_low", "too_small"  # flags of rows without a value


@dataclass(frozen=True)
class AtlasRow:
    """One row of the table of an atlas.

    Parameters
    ----------
    label
        Of the atlas.
    name
        Of the region.
    tissue
        ``GM``, ``WM``, ``CSF`` or ``all``, which is GM and WM.
    """

    label: int
    name: str
    tissue: str

    @property
    def tissues(self) -> tuple[str, ...]:
        """What the row is made of."""
        return BOTH if self.tissue == ALL else (self.tissue,)


def atlas_rows(names: Mapping[int, str], tissues: Mapping[int, str]) -> list[AtlasRow]:
    """Return the rows of an atlas.

    Parameters
    ----------
    names
        Of its labels.
    tissues
        Of those labels that say one.

    Returns
    -------
    rows
        One of a label that says its tissue; of another one of both, of GM and of WM.

    Examples
    --------
    >>> rows = atlas_rows({1: "Left-Putamen", 2: "frontal lobe"}, {1: "GM"})
    >>> [(row.name, row.tissue) for row in rows]
    [('Left-Putamen', 'GM'), ('frontal lobe', 'all'), ('frontal lobe GM', 'GM'), ('frontal lobe WM', 'WM')]
    """  # noqa: E501
    rows = []
    for label, name in names.items():
        if label in tissues:
            rows.append(AtlasRow(label, name, tissues[label]))
        else:
            rows.append(AtlasRow(label, name, ALL))
            rows += [AtlasRow(label, f"{name} {tissue}", tissue) for tissue in BOTH]
    return rows


class _TabulateParcelsInput(QuantifyInput):
    fine_file = File(exists=True, mandatory=True, desc="tissues and moved borders (npz)")
    response_file = File(exists=True, mandatory=True, desc="transfer functions (npz)")
    labels_file = File(exists=True, mandatory=True, desc="label image in the anatomy's space")
    names = traits.Dict(mandatory=True, desc="name of each label of the atlas")
    label_tissues = traits.Dict(usedefault=True, desc="GM, WM or CSF of labels that say it")
    least_coverage = traits.Range(
        0.0, 1.0, usedefault=True, desc="share of a region in the field of view, else no value"
    )


class _TabulateParcelsOutput(TraitedSpec):
    table_file = File(exists=True, desc="regional table (TSV) [mmol/L]")


class TabulateParcels(SimpleInterface):
    """Write rows of the regions of an atlas, without and with partial-volume correction."""

    input_spec = _TabulateParcelsInput
    output_spec = _TabulateParcelsOutput

    def _run_interface(self, runtime: Any) -> Any:
        case = _Case.load(self.inputs)
        frames = []
        for pvc in METHODS:
            signals = case.signals(pvc)
            frames += [self._rows(case, signals, pvc, desc) for desc in ("apparent", "corrected")]
        table = pd.concat(frames, ignore_index=True)[[*COLUMNS, "tissue"]]
        path = Path(runtime.cwd) / "table.tsv"
        table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        self._results["table_file"] = str(path)
        return runtime

    def _rows(self, case: _Case, signals: _Signals, pvc: str, desc: str) -> pd.DataFrame:
        quantified = case.quantified(signals, pvc, desc)
        columns = {
            **case.described(),
            "pvc": pvc,
            "desc": desc,
            **quantified,
            **(case.spread(desc) if pvc == UNCORRECTED else {}),
        }
        flags = list(case.flags)
        flags = with_flag(flags, "entangled", case.entangled(signals) if pvc == FEED else None)
        frame = pd.DataFrame({name: columns.get(name, np.nan) for name in [*COLUMNS, "tissue"]})
        without = case.without_value(self.inputs.least_coverage)
        flags = [word or flag for word, flag in zip(without, flags, strict=True)]
        kept = ("index", "name", "pvc", "desc", "n_voxels", "volume_ml", "coverage", "tissue")
        empty = np.array([bool(word) for word in without])
        frame.loc[empty, [c for c in frame if c not in kept]] = np.nan
        return frame.assign(flag=flags)


@dataclass(frozen=True)
class _Signals:
    """Signals of all regions of a model with what changes those of the parcels."""

    values: Floats
    covariance: Floats
    parcels: RegionalSignals


class _Case:
    """One image with one atlas."""

    def __init__(self, inputs: Any, fine: FineRegions, rows: Sequence[AtlasRow]) -> None:
        self.inputs, self.fine, self.rows = inputs, fine, rows
        self.image, self.affine = load_finite_image(inputs.image_file)
        self.noise_sd, _ = load_image(inputs.noise_file)
        self.regions = Regions.load(inputs)
        self.lines, self.calibration = load_lines(inputs.calibration_file)
        self.response = load_response(inputs.response_file)
        self.maps: Concentrations = map_concentration(
            self.image, self.noise_sd, self.regions.brain, self.regions.protocol, self.lines
        )
        self.division = self._divide()
        self.model: ParcelModel = parcel_model(
            self.division,
            self._others(),
            {tissue: self.response.transfers[tissue] for tissue in TISSUES},
            self._noise(),
        )
        self.voxel = np.linalg.norm(self.affine[:3, :3], axis=0)
        self.n = self.model.n_parcels
        self.tissue_of = [tissue for _, tissue in self.division.keys]
        self.source = np.array([self.regions.names.index(t) for t in self.tissue_of])
        self.members = self._row_members()
        self.weights, self.shares = self._weights(), self._row_shares()
        self.receive, self.transmit = self._receive(), self._transmit()
        self.volumes_ml = self._volumes_ml()
        self.coverage = self._coverage()
        self.flags = self._flags()

    @classmethod
    def load(cls, inputs: Any) -> _Case:
        names = {int(label): str(name) for label, name in inputs.names.items()}
        tissues = {int(label): str(tissue) for label, tissue in inputs.label_tissues.items()}
        return cls(inputs, load_fine(inputs.fine_file), atlas_rows(names, tissues))

    def _divide(self) -> Division:
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

    def signals(self, pvc: str) -> _Signals:
        """Return the signals by one method, with all that changes them."""
        model, corrected = self.model, pvc == FEED
        values = model.values(self.image, corrected)
        covariance = model.covariance(corrected)
        known = self.inputs.properties
        spread = known.get("RegistrationSpread")
        shift = (np.nan if spread is None else spread) / np.sqrt(3) / self.voxel
        wider = np.full(len(values), np.nan)
        if corrected:
            fwhm = np.asarray(known["PointSpreadFWHM"]["GM"]) / self.voxel
            wider = model.widened(values, fwhm, known["PointSpreadUncertainty"])
        unknown = np.full(self.n, np.nan)
        parcels = RegionalSignals(
            values[: self.n],
            np.diag(covariance)[: self.n],
            wider[: self.n],
            model.shifted(self.image, shift, corrected)[:, : self.n],
            self._border_changes(values, corrected)[:, : self.n],
            unknown,
            unknown,
            decay_changes=self._decay_changes(values, corrected)[..., : self.n],
            source=self.source,
        )
        name = self.regions.calibrated_by
        if name is not None:
            # noise of the reference reaches parcels through the line; none of them is all of it
            parcels = replace(
                parcels,
                reference=self.regions.reference(name),
                kernel_change=np.nan_to_num(parcels.kernel_change),
            )
        return _Signals(values, covariance, parcels)

    def _border_changes(self, values: Floats, corrected: bool) -> Floats:
        """Return what borders change, in the rows in which the tissues have them."""
        names, kinds = self.regions.all_names, self.kinds
        rows = moving_together(self.fine.layers, count_bordered(kinds))
        kernels = kernel_names(names, self.response.transfers)
        transfers = [self.response.transfers[kernel] for kernel in kernels]

        def shown(layer: Layer) -> ShownLayer:
            one, other = layer.grown, layer.shrunk
            ends = ((names[one], transfers[one], 1), (names[other], transfers[other], -1))
            return ShownLayer(layer.where, layer.share, ends)

        layers = [[shown(layer) for layer in row] for row in rows]
        scale = border_uncertainty(rows, names, kinds) / SEGMENTATION_ERROR
        return self.model.bordered(self.image, values, layers, corrected) * scale[:, None]

    def _decay_changes(self, values: Floats, corrected: bool) -> Floats:
        """Return what moved constants of tissues and lesions change, by region and constant."""
        changes = np.zeros((len(self.regions.names), len(DECAYING), len(values)))
        if not corrected:
            return changes
        for k, tissue in enumerate(TISSUES):
            for c, constant in enumerate(DECAYING):
                transfer = self.response.transfers.get(moved_name(tissue, constant))
                if transfer is not None:
                    changes[k, c] = self.model.decayed(values, tissue, transfer)
        with np.load(self.inputs.regions_file) as stored:
            moved = zip(stored["decay_of"].tolist(), stored["decay_blurred"], strict=True)
            for (region, c), shown in moved:
                name = self.regions.all_names[region]
                if name in self.regions.names and name not in TISSUES:
                    k = self.regions.names.index(name)
                    changes[k, c] = self.model.decayed_other(values, name, shown)
        return changes

    def quantified(self, signals: _Signals, pvc: str, desc: str) -> dict[str, Any]:
        """Return the columns of concentrations, shape (rows,)."""
        regions, corrected = self.regions, desc == "corrected"
        if not corrected:
            factors = np.ones(self.n)
        elif pvc == UNCORRECTED:
            factors = self._mixed_factors()
        else:
            factors = regions.brain.factors(regions.protocol)[self.source]
        covariance = signals.covariance[: self.n, : self.n]
        parts = Parts(signals.parcels, covariance, self.weights, self.receive, self.transmit)
        constants = regions.constants if corrected else None
        table = combined_table(parts, factors, constants, regions.protocol, self.lines[desc])
        own = self.weights @ signals.values[: self.n]
        return {**table, "snr": own / self._means(self.noise_sd.ravel().astype(np.float64))}

    def _mixed_factors(self) -> Floats:
        signal, factor = self.maps.signal, self.maps.factor
        members = self.model.members[: self.n]
        seen = members @ signal.ravel().astype(np.float64)
        return np.asarray(seen / (members @ (signal / factor).ravel().astype(np.float64)))

    def _receive(self) -> Floats:
        if self.regions.model_file is None:
            return np.full(len(self.rows), np.nan)
        model = load_field(str(self.regions.model_file))
        grid = (self.image.shape, self.affine)
        reference = self.regions.receive_basis(grid)[1]
        held = np.unique(self.shares.indices)
        basis = np.zeros((self.image.size, len(reference)))
        basis[held] = model.basis(grid_positions(*grid)[held])
        alone = relative_uncertainty(model, self._means(basis), reference)
        return with_correlation(alone, self._transmit()) if self.regions.one_field else alone

    def _transmit(self) -> Floats:
        """Return the uncertainty by the flip angle: that of the tissue, wherever it lies."""
        known = self.regions
        if known.transmit is None:
            return np.full(len(self.rows), np.nan)
        by_tissue = known.transmit.uncertainty(known.names, known.rests_on)
        return self.weights @ by_tissue[self.source]

    def _row_members(self) -> list[list[int]]:
        """Return the parcels that each row is made of; none where they are too small."""
        found = {key: number for number, key in enumerate(self.division.keys)}
        keys = [[(row.label, tissue) for tissue in row.tissues] for row in self.rows]
        return [[found[key] for key in own if key in found] for own in keys]

    def _weights(self) -> Floats:
        weights = np.zeros((len(self.rows), self.n))
        for row, members in zip(weights, self.members, strict=True):
            sizes = self.model.sizes[members]
            row[members] = sizes / sizes.sum() if members else 0.0
        return weights

    def _row_shares(self) -> sparse.csr_array:
        """Return the share of each row in each voxel, shape (rows, voxels)."""
        chosen = np.zeros((len(self.rows), self.n))
        for row, members in zip(chosen, self.members, strict=True):
            row[members] = 1.0
        return sparse.csr_array(sparse.csr_array(chosen) @ self.model.members[: self.n])

    def _fraction(self, row: int) -> tuple[Integers, Floats]:
        """Return the voxels of a row and their shares."""
        part = slice(*self.shares.indptr[row : row + 2])
        return self.shares.indices[part], self.shares.data[part]

    def _means(self, values: Floats) -> Floats:
        """Return the mean over each row of values by voxel, shape (rows, …); nan over nothing."""
        totals = np.asarray(self.shares.sum(axis=1)).ravel()
        sums = self.shares @ values
        return np.asarray((sums.T / np.where(totals > 0, totals, np.nan)).T)

    def spread(self, desc: str) -> dict[str, Floats]:
        """Return how the voxels of each row are spread, shape (rows,)."""
        image = self.maps.apparent if desc == "apparent" else self.maps.corrected
        names = ("sd", "median", "q25", "q75")
        table = np.full((len(self.rows), len(names)), np.nan)
        for k, row in enumerate(table):
            where, share = self._fraction(k)
            if len(where):
                found = region_statistics(image.ravel()[where], share[None])
                row[:] = [found[name][0] for name in names]
        return dict(zip(names, table.T, strict=True))

    def described(self) -> dict[str, Any]:
        """Return the columns that say what each row is."""
        sizes = np.array([self.model.sizes[members].sum() for members in self.members])
        return {
            "index": [row.label for row in self.rows],
            "name": [row.name for row in self.rows],
            "tissue": [row.tissue for row in self.rows],
            "n_voxels": sizes,
            "volume_ml": self.volumes_ml,
            "coverage": self.coverage,
        }

    def _volumes_ml(self) -> Floats:
        """Return the volume of each row in the anatomy [ml]."""
        values, own = load_image(self.inputs.labels_file)
        carved, affine = self.fine.carved, self.fine.anatomy
        shape = carved["GM"].shape
        if values.shape != shape or not np.allclose(own, affine, atol=1e-4):
            values = resample(values, index_map(affine, own, np.eye(4)), shape, 0)
        labels = np.rint(values).astype(np.intp).ravel()
        most = max(int(labels.max()), max(row.label for row in self.rows)) + 1
        sums = {tissue: np.bincount(labels, carved[tissue].ravel(), most) for tissue in TISSUES}
        voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1e3
        volumes = [sum(sums[t][row.label] for t in row.tissues) * voxel_ml for row in self.rows]
        return np.array(volumes)

    def _coverage(self) -> Floats:
        inside = [
            sum(self.division.sizes.get((row.label, tissue), 0.0) for tissue in row.tissues)
            for row in self.rows
        ]
        volume = self.volumes_ml
        covered = np.array(inside) * float(np.prod(self.voxel)) / 1e3
        share = np.divide(covered, volume, out=np.full(len(volume), np.nan), where=volume > 0)
        return np.minimum(share, 1.0)

    def _flags(self) -> list[str]:
        sizes = [self.model.sizes[members].sum() for members in self.members]
        flags = region_flags(
            np.array(sizes) * float(np.prod(self.voxel)) / 1e3,
            np.nan_to_num(self.coverage),
            self.inputs.properties,
            [row.tissues[0] for row in self.rows],
        )
        return with_flag(flags, FORCED, np.full(len(flags), self.calibration["forced"]))

    def entangled(self, signals: _Signals) -> Floats:
        """Tell of each row whether noise shifts signal between it and another region."""
        found = entangled(signals.covariance)
        return np.array([bool(found[members].any()) for members in self.members])

    def without_value(self, least: float) -> list[str]:
        """Return why a row has no value, or nothing, for each."""
        return [
            TOO_LITTLE if not np.nan_to_num(covered) >= least else TOO_SMALL if not members else ""
            for covered, members in zip(self.coverage, self.members, strict=True)
        ]
