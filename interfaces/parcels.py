"""The regional table of an atlas: its labels, divided by the tissues that fill them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    MORE_QUANTILES,
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
from sodiumprep.sodium.pvc.regional import IndistinctRegionsError, entangled
from sodiumprep.sodium.pvc.sensitivity import moving_together
from sodiumprep.sodium.ratios import ratios
from sodiumprep.sodium.reciprocity import with_correlation
from sodiumprep.sodium.regions import TISSUES
from sodiumprep.sodium.relaxation import DECAYING, moved_name
from sodiumprep.sodium.smooth_field import grid_positions, relative_uncertainty

METHODS = (UNCORRECTED, FEED)  # that have rows of atlas regions
BOTH = ("GM", "WM")  # of a label that does not say its tissue
ALL = "all"  # tissue of a row of both
LESION = "lesion"  # "tissue" of a row of a lesion
MIRROR, INCLUDED = "mirror", "with lesions"  # behind names of rows
RATIO = ("ratio", "u_ratio")
SPREAD = ("sd", *MORE_QUANTILES)
TOO_LITTLE, TOO_SMALL = "coverage_too_low", "too_small"  # flags of rows without a value
INDISTINCT = "indistinct"
NEGATIVE = "negative"  # a model of uniform regions with these borders does not hold there


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
        ``GM``, ``WM``, ``CSF``, ``all``, which is GM and WM, or ``lesion``.
    everywhere
        Whether it has all of its tissue, not what its label has of it.
    lesions
        Share of each lesion that belongs to it, by class.
    """

    label: int
    name: str
    tissue: str
    everywhere: bool = False
    lesions: Mapping[str, float] = field(default_factory=dict)

    @property
    def tissues(self) -> tuple[str, ...]:
        """What the row is made of beside lesions."""
        return {ALL: BOTH, LESION: ()}.get(self.tissue, (self.tissue,))

    @property
    def typical(self) -> str:
        """Whose point-spread function the row has."""
        return self.tissues[0] if self.tissues else next(iter(self.lesions))

    def of(self, sizes: Mapping[tuple[int, str], float]) -> float:
        """Return what is the row's of sizes by label and tissue."""
        if self.everywhere:
            return sum(size for (_, own), size in sizes.items() if own in self.tissues)
        return sum(sizes.get((self.label, tissue), 0.0) for tissue in self.tissues)


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


def mirror_rows(names: Mapping[int, str]) -> list[AtlasRow]:
    """Return the rows of lesions and of what lies opposite of them.

    Parameters
    ----------
    names
        Class of the lesion whose mirror image each label is.

    Examples
    --------
    >>> [row.name for row in mirror_rows({1: "core"})]
    ['core', 'core mirror', 'core mirror GM', 'core mirror WM']
    """
    rows = []
    for label, name in names.items():
        rows.append(AtlasRow(label, name, LESION, lesions={name: 1.0}))
        rows += atlas_rows({label: f"{name} {MIRROR}"}, {})
    return rows


def rows_with_lesions(
    taken: Mapping[str, Mapping[str, float]], sizes: Mapping[str, float]
) -> list[AtlasRow]:
    """Return the rows of whole tissues without lesions and with what lesions took of them.

    Parameters
    ----------
    taken
        By lesion and tissue [voxels].
    sizes
        Of the lesions [voxels].

    Examples
    --------
    >>> rows = rows_with_lesions({"core": {"GM": 0.0, "WM": 6.0, "CSF": 0.0}}, {"core": 8.0})
    >>> [(row.name, row.lesions) for row in rows][2:4]
    [('WM', {}), ('WM with lesions', {'core': 0.75})]
    """
    rows = []
    for index, tissue in enumerate(TISSUES, 1):
        shares = {name: of[tissue] / sizes[name] for name, of in taken.items() if of[tissue] > 0}
        rows.append(AtlasRow(index, tissue, tissue, everywhere=True))
        name = f"{tissue} {INCLUDED}"
        rows.append(AtlasRow(index, name, tissue, everywhere=True, lesions=shares))
    return rows


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

    def _signals(self, case: _Case, pvc: str) -> _Signals | None:
        try:
            return case.signals(pvc)
        except IndistinctRegionsError:
            if not self.inputs.unasked:
                raise
            return None

    def _rows(self, case: _Case, signals: _Signals | None, pvc: str, desc: str) -> pd.DataFrame:
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


@dataclass(frozen=True)
class _Signals:
    """Signals of all regions of a model with what changes those of parcels and lesions."""

    values: Floats
    covariance: Floats
    parts: RegionalSignals


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
        self.division = self._divide()
        self.model: ParcelModel = parcel_model(
            self.division,
            self._others(),
            {tissue: self.response.transfers[tissue] for tissue in TISSUES},
            self._noise(),
        )
        self.voxel = np.linalg.norm(self.affine[:3, :3], axis=0)
        self.n = self.model.n_parcels + len(self.lesions)  # parts: parcels, then lesions
        of = [*(tissue for _, tissue in self.division.keys), *self.lesions]
        self.source = np.array([self.regions.names.index(name) for name in of])
        self.amounts = self._amounts()
        self.weights, self.shares = self._weights(), self._row_shares()
        self.pairs = self._pairs()
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
        parts = RegionalSignals(
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
            # noise of the reference reaches parts through the line
            parts = replace(
                parts,
                reference=self.regions.reference(name),
                kernel_change=np.nan_to_num(parts.kernel_change),
            )
            if corrected:
                covariance = self._without_reference(covariance, name)
        return _Signals(values, covariance, parts)

    def _without_reference(self, covariance: Floats, name: str) -> Floats:
        """Return the noise of the signals, none of that part which is all of the reference."""
        own = [k for k in range(self.n) if self.regions.names[self.source[k]] == name]
        if len(own) == 1:
            covariance = covariance.copy()
            covariance[own], covariance[:, own] = 0.0, 0.0
        return covariance

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
        parts = Parts(signals.parts, covariance, self.weights, self.receive, self.transmit)
        constants = regions.constants if corrected else None
        known = (factors, constants, regions.protocol, self.lines[desc])
        table = combined_table(parts, *known)
        own = self.weights @ signals.values[: self.n]
        snr = own / self._means(self.noise_sd.ravel().astype(np.float64))
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

    def _pairs(self) -> list[tuple[int, int]]:
        """Return the row of a lesion and one that lies opposite of it, for each of the latter."""
        if self.inputs.kind != MIRRORS:
            return []
        own = {row.label: k for k, row in enumerate(self.rows) if row.lesions}
        return [
            (own[row.label], k)
            for k, row in enumerate(self.rows)
            if not row.lesions and self.weights[[own[row.label], k]].any(axis=1).all()
        ]

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
        return np.array([
            over[names.index(self.rows[one].typical)] @ np.bincount(
                self.source, self.weights[other], len(names)
            )
            for one, other in self.pairs
        ])  # fmt: skip

    def _mixed_factors(self) -> Floats:
        signal, factor = self.maps.signal, self.maps.factor
        members = self._part_members()
        seen = members @ signal.ravel().astype(np.float64)
        return np.asarray(seen / (members @ (signal / factor).ravel().astype(np.float64)))

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
        held = np.unique(self.shares.indices)
        found = model.basis(grid_positions(self.image.shape, self.affine)[held])
        basis = np.zeros((self.image.size, found.shape[1]))
        basis[held] = found
        return self._means(basis)

    def _transmit(self) -> Floats:
        """Return the uncertainty by the flip angle: that of the tissue, wherever it lies."""
        known = self.regions
        if known.transmit is None:
            return np.full(len(self.rows), np.nan)
        by_tissue = known.transmit.uncertainty(known.names, known.rests_on)
        return self.weights @ by_tissue[self.source]

    def _amounts(self) -> Floats:
        """Return how much of each part each row has, shape (rows, parts).

        A parcel that is too small is none.
        """
        amounts = np.zeros((len(self.rows), self.n))
        for own, row in zip(amounts, self.rows, strict=True):
            for number, (label, tissue) in enumerate(self.division.keys):
                own[number] = tissue in row.tissues and (row.everywhere or label == row.label)
            for k, name in enumerate(self.lesions, self.model.n_parcels):
                own[k] = row.lesions.get(name, 0.0)
        return amounts

    def _part_members(self) -> sparse.csr_array:
        return sparse.csr_array(self.model.members[: self.n])

    def _weights(self) -> Floats:
        held = self.amounts * self.model.sizes[: self.n]
        totals = held.sum(axis=1, keepdims=True)
        return np.divide(held, totals, out=np.zeros_like(held), where=totals > 0)

    def _row_shares(self) -> sparse.csr_array:
        """Return the share of each row in each voxel, shape (rows, voxels)."""
        return sparse.csr_array(sparse.csr_array(self.amounts) @ self._part_members())

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
        table = np.full((len(self.rows), len(SPREAD)), np.nan)
        for k, row in enumerate(table):
            where, share = self._fraction(k)
            if len(where):
                found = region_statistics(image.ravel()[where], share[None], MORE_QUANTILES)
                row[:] = [found[name][0] for name in SPREAD]
        return dict(zip(SPREAD, table.T, strict=True))

    def described(self) -> dict[str, Any]:
        """Return the columns that say what each row is."""
        return {
            "index": [row.label for row in self.rows],
            "name": [row.name for row in self.rows],
            "tissue": [row.tissue for row in self.rows],
            "n_voxels": self.amounts @ self.model.sizes[: self.n],
            "volume_ml": self.volumes_ml,
            "coverage": self.coverage,
        }

    def _volumes_ml(self) -> Floats:
        """Return the volume of each row in the anatomy [ml]."""
        carved, affine = self.fine.carved, self.fine.anatomy
        labels = self._anatomical_labels(carved["GM"].shape, affine).ravel()
        sums = {tissue: np.bincount(labels, carved[tissue].ravel()) for tissue in TISSUES}
        voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1e3
        sizes = {
            (label, tissue): float(size) * voxel_ml
            for tissue, own in sums.items()
            for label, size in enumerate(own.tolist())
        }
        lesions = dict(zip(self.regions.names, self.regions.volumes_ml, strict=True))
        return np.array([row.of(sizes) + _of_lesions(row, lesions) for row in self.rows])

    def _anatomical_labels(self, shape: tuple[int, ...], affine: Floats) -> Integers:
        if not isdefined(self.inputs.labels_file):
            return np.zeros(shape, np.intp)
        values, own = load_image(self.inputs.labels_file)
        if values.shape != shape or not np.allclose(own, affine, atol=1e-4):
            values = resample(values, index_map(affine, own, np.eye(4)), shape, 0)
        return np.rint(values).astype(np.intp)

    def _coverage(self) -> Floats:
        known = zip(
            self.regions.names, self.regions.volumes_ml * self.regions.coverage, strict=True
        )
        lesions, voxel_ml = dict(known), float(np.prod(self.voxel)) / 1e3
        covered = np.array([
            row.of(self.division.sizes) * voxel_ml + _of_lesions(row, lesions)
            for row in self.rows
        ])  # fmt: skip
        volume = self.volumes_ml
        share = np.divide(covered, volume, out=np.full(len(volume), np.nan), where=volume > 0)
        return np.minimum(share, 1.0)

    def _flags(self) -> list[str]:
        flags = region_flags(
            self.amounts @ self.model.sizes[: self.n] * float(np.prod(self.voxel)) / 1e3,
            np.nan_to_num(self.coverage),
            self.inputs.properties,
            [row.typical for row in self.rows],
        )
        return with_flag(flags, FORCED, np.full(len(flags), self.calibration["forced"]))

    def entangled(self, signals: _Signals) -> Floats:
        """Tell of each row whether noise shifts signal between it and another region."""
        found = entangled(signals.covariance)[: self.n]
        return np.asarray((self.amounts[:, found] > 0).any(axis=1))

    def without_value(self, least: float) -> list[str]:
        """Return why a row has no value, or nothing, for each."""
        told = {int(label): str(word) for label, word in self.inputs.without.items()}
        return [
            told[row.label] if row.label in told and not row.lesions
            else TOO_LITTLE if not np.nan_to_num(covered) >= least
            else "" if held.any() else TOO_SMALL
            for row, covered, held in zip(self.rows, self.coverage, self.amounts, strict=True)
        ]  # fmt: skip


def _of_lesions(row: AtlasRow, sizes: Mapping[str, float]) -> float:
    return sum(share * float(sizes[name]) for name, share in row.lesions.items())
