"""Rows of a table of parcels: what each is made of, and values of voxels over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import sparse

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.concentration import MORE_QUANTILES, region_statistics
from sodiumprep.sodium.regions import TISSUES
from sodiumprep.sodium.smooth_field import SmoothField

BOTH = ("GM", "WM")  # of a label that does not say its tissue
ALL = "all"  # tissue of a row of both
LESION = "lesion"  # "tissue" of a row of a lesion
MIRROR, INCLUDED = "mirror", "with lesions"  # behind names of rows
SPREAD = ("sd", *MORE_QUANTILES)


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

    def of_lesions(self, sizes: Mapping[str, float]) -> float:
        """Return what is the row's of sizes of lesions by class."""
        return sum(share * float(sizes[name]) for name, share in self.lesions.items())


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


def row_volumes(
    rows: Sequence[AtlasRow],
    labels: Integers,
    tissues: Mapping[str, Floats],
    lesions: Mapping[str, float],
    voxel_ml: float,
) -> Floats:
    """Return the volume of each row in the anatomy.

    Parameters
    ----------
    rows
        Of the table.
    labels
        Of the atlas, shape (nx, ny, nz).
    tissues
        Fraction of each tissue by name, same shape.
    lesions
        Volume of each lesion by class [ml].
    voxel_ml
        Volume of a voxel [ml].

    Returns
    -------
    volumes
        Shape (rows,) [ml].

    Examples
    --------
    >>> rows = [AtlasRow(1, "thalamus", "GM"), AtlasRow(0, "core", "lesion", lesions={"core": 1})]
    >>> labels, grey = np.array([[[0, 1, 1]]]), np.array([[[1.0, 1.0, 0.5]]])
    >>> row_volumes(rows, labels, {"GM": grey}, {"core": 4.0}, voxel_ml=2.0).tolist()
    [3.0, 4.0]
    """
    flat = labels.ravel()
    sums = {tissue: np.bincount(flat, own.ravel()) for tissue, own in tissues.items()}
    sizes = {
        (label, tissue): float(size) * voxel_ml
        for tissue, own in sums.items()
        for label, size in enumerate(own.tolist())
    }
    return np.array([row.of(sizes) + row.of_lesions(lesions) for row in rows])


def row_coverage(
    rows: Sequence[AtlasRow],
    sizes: Mapping[tuple[int, str], float],
    lesions: Mapping[str, float],
    voxel_ml: float,
    volumes: Floats,
) -> Floats:
    """Return the share of each row that lies in the field of view.

    Parameters
    ----------
    rows
        Of the table.
    sizes
        Of each label in each tissue, inside the field of view [voxels].
    lesions
        Volume of each lesion by class, inside the field of view [ml].
    voxel_ml
        Volume of a voxel of the image [ml].
    volumes
        Of the rows in the anatomy, shape (rows,) [ml].

    Returns
    -------
    coverage
        Shape (rows,), at most 1; nan of a row without volume.

    Examples
    --------
    >>> rows = [AtlasRow(1, "thalamus", "GM"), AtlasRow(2, "absent", "GM")]
    >>> row_coverage(rows, {(1, "GM"): 3.0}, {}, 0.5, np.array([2.0, 0.0])).tolist()
    [0.75, nan]
    """
    covered = np.array([row.of(sizes) * voxel_ml + row.of_lesions(lesions) for row in rows])
    share = np.divide(covered, volumes, out=np.full(len(volumes), np.nan), where=volumes > 0)
    return np.minimum(share, 1.0)


@dataclass(frozen=True)
class RowParts:
    """Rows as sums of parts: the parcels of an image, then its lesions.

    Parameters
    ----------
    rows
        Of the table.
    parcels
        Label and tissue of each parcel.
    lesions
        Classes.
    members
        Share of each part in each voxel, sparse, shape (parts, voxels).

    Examples
    --------
    >>> members = sparse.csr_array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]])
    >>> rows = [AtlasRow(1, "lobe", "all"), AtlasRow(1, "lobe GM", "GM")]
    >>> parts = RowParts(rows, [(1, "GM"), (1, "WM")], [], members)
    >>> parts.weights.tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    >>> parts.means(np.array([6.0, 3.0, 0.0])).tolist()
    [3.0, 5.0]
    """

    rows: Sequence[AtlasRow]
    parcels: Sequence[tuple[int, str]]
    lesions: Sequence[str]
    members: sparse.csr_array

    @cached_property
    def amounts(self) -> Floats:
        """How much of each part each row has, shape (rows, parts).

        A parcel that is too small is none.
        """
        amounts = np.zeros((len(self.rows), len(self.parcels) + len(self.lesions)))
        for own, row in zip(amounts, self.rows, strict=True):
            for number, (label, tissue) in enumerate(self.parcels):
                own[number] = tissue in row.tissues and (row.everywhere or label == row.label)
            for k, name in enumerate(self.lesions, len(self.parcels)):
                own[k] = row.lesions.get(name, 0.0)
        return amounts

    @cached_property
    def part_sizes(self) -> Floats:
        """Sum of each part [voxels], shape (parts,)."""
        return np.asarray(self.members.sum(axis=1)).ravel()

    @cached_property
    def sizes(self) -> Floats:
        """Sum of each row [voxels], shape (rows,)."""
        return np.asarray(self.amounts @ self.part_sizes)

    @cached_property
    def weights(self) -> Floats:
        """Share of each part in each row, shape (rows, parts), of sum 1 each, or 0 of nothing."""
        held = self.amounts * self.part_sizes
        totals = held.sum(axis=1, keepdims=True)
        return np.divide(held, totals, out=np.zeros_like(held), where=totals > 0)

    @cached_property
    def shares(self) -> sparse.csr_array:
        """Share of each row in each voxel, shape (rows, voxels)."""
        return sparse.csr_array(sparse.csr_array(self.amounts) @ self.members)

    def source(self, regions: Sequence[str]) -> Integers:
        """Return the index of the region that each part is of, shape (parts,).

        Parameters
        ----------
        regions
            Names of tissues and lesions.
        """
        of = [*(tissue for _, tissue in self.parcels), *self.lesions]
        return np.array([regions.index(name) for name in of])

    def having(self, parts: Integers) -> Integers:
        """Tell of each row whether it has any of the parts, shape (parts,) to (rows,), bool."""
        return np.asarray((self.amounts[:, parts] > 0).any(axis=1))

    def means(self, values: Floats) -> Floats:
        """Return the mean over each row of values by voxel, shape (rows, …); nan over nothing."""
        totals = np.asarray(self.shares.sum(axis=1)).ravel()
        sums = self.shares @ values
        return np.asarray((sums.T / np.where(totals > 0, totals, np.nan)).T)

    def field_means(self, model: SmoothField, positions: Floats) -> Floats:
        """Return the means of a smooth field's basis over the rows.

        Parameters
        ----------
        model
            The field.
        positions
            Of all voxels, shape (voxels, 3) [mm].

        Returns
        -------
        means
            Shape (rows, basis).
        """
        held = np.unique(self.shares.indices)
        found = model.basis(positions[held])
        basis = np.zeros((len(positions), found.shape[1]))
        basis[held] = found
        return self.means(basis)

    def mixed_factors(self, signal: Floats, factor: Floats) -> Floats:
        """Return the factors of parts whose voxels hold several tissues.

        Parameters
        ----------
        signal, factor
            Of each voxel, shape (nx, ny, nz).

        Returns
        -------
        factors
            Shape (parts,): of signal over the sum that it has without the factor.
        """
        seen = self.members @ signal.ravel().astype(np.float64)
        bare = self.members @ (signal / factor).ravel().astype(np.float64)
        return np.asarray(seen / bare)

    def spread(self, image: Floats) -> dict[str, Floats]:
        """Return how the voxels of each row are spread.

        Parameters
        ----------
        image
            Shape (nx, ny, nz).

        Returns
        -------
        spread
            ``sd`` and quantiles in the unit of the image, shape (rows,); nan over nothing.
        """
        table = np.full((len(self.rows), len(SPREAD)), np.nan)
        for k, row in enumerate(table):
            part = slice(*self.shares.indptr[k : k + 2])
            where, share = self.shares.indices[part], self.shares.data[part]
            if len(where):
                found = region_statistics(image.ravel()[where], share[None], MORE_QUANTILES)
                row[:] = [found[name][0] for name in SPREAD]
        return dict(zip(SPREAD, table.T, strict=True))

    def opposite(self) -> list[tuple[int, int]]:
        """Return the row of a lesion and one that lies opposite of it, for each of the latter."""
        own = {row.label: k for k, row in enumerate(self.rows) if row.lesions}
        return [
            (own[row.label], k)
            for k, row in enumerate(self.rows)
            if not row.lesions and self.weights[[own[row.label], k]].any(axis=1).all()
        ]

    def ratio_uncertainty(
        self, pairs: Sequence[tuple[int, int]], relative: Floats, regions: Sequence[str]
    ) -> Floats:
        """Return the uncertainty of ratios of rows from that of ratios of whole regions.

        Parameters
        ----------
        pairs
            Row of a lesion, and the row that lies opposite of it.
        relative
            Relative uncertainty of the ratio of each region to each, shape (regions, regions).
        regions
            Their names.

        Returns
        -------
        uncertainty
            Relative, shape (pairs,).
        """
        source = self.source(regions)
        return np.array([
            relative[regions.index(self.rows[one].typical)]
            @ np.bincount(source, self.weights[other], len(regions))
            for one, other in pairs
        ])  # fmt: skip
