"""Regional signals of many parcels: tissues that an atlas divides.

All parcels of a tissue have its kernel, so that what an error of kernel, constants or borders
changes in an image is one image for all of them; and each parcel is small, so that it is blurred
in a box around it. The rest of a tissue that no label claims is a parcel of its own: together they
are the tissue, and what the image shows of them is what it shows of the tissue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.fft
from scipy import ndimage, sparse

from sodiumprep.sodium.acquisition import Complexes, Floats, Integers
from sodiumprep.sodium.kernel import blur
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.regional import IndistinctRegionsError
from sodiumprep.sodium.pvc.sensitivity import Border, shift_changes, widening
from sodiumprep.sodium.regions import blur_to_grid

REST = 0  # label of what no parcel of a tissue claims
SMALLEST_PARCEL = 1.0  # voxels; less goes to the rest of its tissue
REACH = 12  # voxels beyond a parcel in which its kernel is followed
RINGING = 8  # voxels beyond a parcel in which its own frequencies are followed
LARGEST_CONDITION = 1e6  # of what turns regional signals into region totals


@dataclass(frozen=True)
class Division:
    """Which parcel each fine voxel of each tissue belongs to.

    Parameters
    ----------
    labels
        Shape (factor nx, factor ny, factor nz); 0 for none.
    tissues
        Fine fraction of each tissue by name, same shape.
    wanted
        Pairs of label and tissue that are to be parcels.
    factor
        Fine voxels along the edge of a voxel.
    """

    labels: Integers
    tissues: Mapping[str, Floats]
    wanted: Sequence[tuple[int, str]]
    factor: int

    @cached_property
    def keys(self) -> list[tuple[int, str]]:
        """Label and tissue of each parcel, those of a tissue together.

        What no parcel claims is one of label 0, first, unless it is too small: then the largest
        parcel has it.
        """
        found = []
        for tissue in self.tissues:
            large = sorted(
                label
                for label, own in set(self.wanted)
                if own == tissue and self.sizes.get((label, tissue), 0.0) >= SMALLEST_PARCEL
            )
            claimed = sum(self.sizes[label, tissue] for label in large)
            whole = sum(size for (_, own), size in self.sizes.items() if own == tissue)
            rest = [] if large and whole - claimed < SMALLEST_PARCEL else [REST]
            found += [(label, tissue) for label in (*rest, *large)]
        return found

    @cached_property
    def remainders(self) -> dict[str, int]:
        """Number of the parcel of each tissue that has what no other claims, by tissue."""
        own = {t: [k for k, (_, of) in enumerate(self.keys) if of == t] for t in self.tissues}

        def rank(number: int) -> tuple[bool, float]:
            return self.keys[number][0] == REST, self.sizes.get(self.keys[number], 0.0)

        return {tissue: max(numbers, key=rank) for tissue, numbers in own.items()}

    @cached_property
    def sizes(self) -> dict[tuple[int, str], float]:
        """Volume of each label in each tissue [voxels of the image]."""
        most = int(self.labels.max()) + 1
        found: dict[tuple[int, str], float] = {}
        for tissue, fraction in self.tissues.items():
            sums = np.bincount(self.labels.ravel(), fraction.ravel(), most) / self.factor**3
            found |= {(label, tissue): float(sums[label]) for label in np.flatnonzero(sums)}
        return found

    def numbers(self, tissue: str) -> Integers:
        """Return the number of the parcel of a tissue by label, shape (labels,)."""
        table = np.full(int(self.labels.max()) + 1, self.remainders[tissue])
        for number, (label, own) in enumerate(self.keys):
            if own == tissue:
                table[label] = number
        return table


class LocalKernel:
    """A kernel that is followed no further than some voxels.

    Parameters
    ----------
    transfer
        Of the kernel on twice a field of view, or a power spectrum, shape (2 nx, 2 ny, nz + 1).
    reach
        How far it is followed [voxels].
    """

    def __init__(self, transfer: Complexes | Floats, reach: int = REACH) -> None:
        doubled = (*transfer.shape[:2], 2 * (transfer.shape[2] - 1))
        response = scipy.fft.irfftn(transfer, doubled)
        self.reach = [min(reach, n // 2 - 1) for n in doubled]
        lags = [np.arange(-r, r + 1) for r in self.reach]
        self._response = response[np.ix_(*lags)].astype(np.float32)
        self._spectra: dict[tuple[int, ...], Complexes] = {}

    def spread(
        self, values: Floats, corner: Sequence[int], shape: Sequence[int]
    ) -> tuple[tuple[slice, ...], Floats]:
        """Return a box of an image blurred, with the box that it fills.

        Parameters
        ----------
        values
            Content of the box, shape (a, b, c).
        corner
            First voxel of the box; it may lie outside the image.
        shape
            Of the image.
        """
        full = [n + 2 * r for n, r in zip(values.shape, self.reach, strict=True)]
        sizes = tuple(scipy.fft.next_fast_len(n, real=True) for n in full)
        if sizes not in self._spectra:
            self._spectra[sizes] = scipy.fft.rfftn(self._response, sizes)
        spectrum = scipy.fft.rfftn(values, sizes) * self._spectra[sizes]
        blurred = scipy.fft.irfftn(spectrum, sizes)
        first = [c - r for c, r in zip(corner, self.reach, strict=True)]
        image, box = [], []
        for start, length, n in zip(first, full, shape, strict=True):
            low, high = max(start, 0), min(start + length, n)
            image.append(slice(low, max(low, high)))
            box.append(slice(low - start, max(low, high) - start))
        return tuple(image), blurred[tuple(box)]


def _sampling(n: int, factor: int) -> Floats:
    """Return what a fine grid gives to a coarse one by the frequencies that the latter holds.

    Returns
    -------
    matrix
        Shape (n, factor n); the frequency whose sign the coarse grid does not know is left out.
    """
    index = np.rint(scipy.fft.fftfreq(n, 1 / n)).astype(int)
    index = index[2 * np.abs(index) != n]
    coarse = factor * np.arange(n) + (factor - 1) / 2
    lag = coarse[:, None] - np.arange(n * factor)
    return np.asarray(
        np.cos(2 * np.pi * index * lag[..., None] / (n * factor)).sum(-1) / (n * factor),
        np.float32,
    )


@dataclass(frozen=True)
class Layer:
    """A border that lies elsewhere, by the fine voxels that it has.

    Parameters
    ----------
    grown, shrunk
        Index of both regions.
    where
        Flat index of fine voxels, shape (n,).
    share
        That changes hands, shape (n,).
    """

    grown: int
    shrunk: int
    where: Integers
    share: Floats

    @classmethod
    def of(cls, border: Border) -> Layer:
        """Return the layer of a border on a fine grid."""
        flat = border.taken.ravel()
        where = np.flatnonzero(flat).astype(np.int32)
        return cls(border.grown, border.shrunk, where, flat[where].astype(np.float32))

    def between(self, regions: Sequence[tuple[str, Complexes]]) -> ShownLayer:
        """Return the layer with name and transfer function of each region, given for all."""
        ends = ((*regions[self.grown], 1), (*regions[self.shrunk], -1))
        return ShownLayer(self.where, self.share, ends)


@dataclass(frozen=True)
class ShownLayer:
    """A layer with the regions on both its sides.

    Parameters
    ----------
    where, share
        As in :class:`Layer`.
    ends
        Name and transfer function of the region that takes it, 1; and of the one that gives, -1.
    """

    where: Integers
    share: Floats
    ends: tuple[tuple[str, Complexes, int], tuple[str, Complexes, int]]


@dataclass(frozen=True)
class ParcelModel:
    """An image made of parcels and of other regions, by the geometric transfer matrix.

    The order is that of the parcels, then that of the other regions.

    Parameters
    ----------
    division
        The parcels.
    members
        Share of each region in each voxel, sparse, shape (regions, voxels).
    crossing
        Sum over voxels of each region times what the image shows of each, (regions, regions).
    totals_covariance
        Of the sums over regions by image noise, shape (regions, regions); nan where unknown.
    others
        Names of the other regions.
    others_shown
        What the image shows of them, shape (others, nx, ny, nz).
    transfers
        Of the kernel of each tissue.
    shape
        Of the image.

    References
    ----------
    Rousset, Ma & Evans 1998, J Nucl Med 39:904
    """

    division: Division
    members: sparse.csr_array
    crossing: Floats
    totals_covariance: Floats
    others: Sequence[str]
    others_shown: Floats
    transfers: Mapping[str, Complexes]
    shape: tuple[int, ...]

    @property
    def n_parcels(self) -> int:
        """How many parcels there are."""
        return len(self.division.keys)

    @cached_property
    def sizes(self) -> Floats:
        """Sum of each region [voxels], shape (regions,)."""
        return np.asarray(self.members.sum(axis=1)).ravel()

    @cached_property
    def _unmixing(self) -> Floats:
        scale = np.sqrt(np.abs(np.diag(self.crossing)))
        scaled = self.crossing / np.outer(scale, scale)
        if not np.linalg.cond(scaled) < LARGEST_CONDITION:
            _, _, directions = np.linalg.svd(scaled)
            one, other = sorted(int(i) for i in np.argsort(-np.abs(directions[-1]))[:2])
            raise IndistinctRegionsError(
                f"the image cannot tell {self._called(one)} from {self._called(other)}: leave "
                "one of these labels out of the atlas, or merge them",
                (one, other),
            )
        return np.asarray(np.linalg.inv(self.crossing))

    def _called(self, number: int) -> str:
        if number >= self.n_parcels:
            return f"'{self.others[number - self.n_parcels]}'"
        label, tissue = self.division.keys[number]
        return f"label {label} ({tissue})" if label else f"the rest of {tissue}"

    def totals(self, image: Floats) -> Floats:
        """Return the sum over each region of an image, shape (regions,)."""
        return np.asarray(self.members @ image.ravel().astype(np.float64))

    def values(self, image: Floats, corrected: bool) -> Floats:
        """Return regional signals: corrected for partial volume, or means; shape (regions,)."""
        totals = self.totals(image)
        return self._unmixing @ totals if corrected else totals / self.sizes

    def covariance(self, corrected: bool) -> Floats:
        """Return the covariance of :meth:`values` by image noise, shape (regions, regions)."""
        turned = self._unmixing if corrected else np.diag(1 / self.sizes)
        return turned @ self.totals_covariance @ turned.T

    def shown(self, values: Floats) -> Floats:
        """Return what the image shows of regional signals, shape (nx, ny, nz)."""
        total = np.tensordot(values[self.n_parcels :], self.others_shown, 1)
        for tissue in self.division.tissues:
            total += self._shown_of(tissue, values, self.transfers[tissue])
        return np.asarray(total, np.float32)

    def _shown_of(self, tissue: str, values: Floats, transfer: Complexes) -> Floats:
        """Return what the image shows of a tissue by signals of its parcels."""
        fine = self.division.tissues[tissue]
        signal = values[self.division.numbers(tissue)].astype(np.float32)[self.division.labels]
        return blur_to_grid(signal * fine, self.division.factor, transfer)

    def shifted(self, image: Floats, shift: Floats, corrected: bool) -> Floats:
        """Return the changes for an image that lies elsewhere, as ``shift_changes``."""
        return shift_changes(lambda moved: self.values(moved, corrected), image, shift)

    def widened(self, values: Floats, fwhm: Floats, relative: float) -> Floats:
        """Return what kernels wider by a share of their width change, to first order.

        Parameters
        ----------
        values
            Corrected signals, shape (regions,).
        fwhm
            Of the kernels, shape (3,) [voxels].
        relative
            By which share they are wider.
        """
        x, y, z = self.shape
        shown = self.shown(values)
        return self._answer(blur(shown, widening((x, y, z), fwhm, relative)) - shown)

    def _answer(self, more_shown: Floats) -> Floats:
        """Return how signals change where the same signals show more than supposed."""
        return -self._unmixing @ self.totals(more_shown)

    def decayed(self, values: Floats, tissue: str, transfer: Complexes) -> Floats:
        """Return what another kernel of one tissue changes, to first order."""
        return self._answer(self._shown_of(tissue, values, transfer - self.transfers[tissue]))

    def decayed_other(self, values: Floats, name: str, shown: Floats) -> Floats:
        """Return what another kernel of one of the other regions changes, to first order."""
        k = list(self.others).index(name)
        return self._answer(values[self.n_parcels + k] * (shown - self.others_shown[k]))

    def bordered(
        self, image: Floats, values: Floats, rows: Sequence[Sequence[ShownLayer]], corrected: bool
    ) -> Floats:
        """Return what borders change that lie elsewhere, to first order.

        Parameters
        ----------
        image
            Shape (nx, ny, nz).
        values
            Signals by the same method, shape (regions,).
        rows
            Layers that change hands; those of each row move together.
        corrected
            Whether signals are corrected for partial volume.

        Returns
        -------
        changes
            Shape (rows, regions).
        """
        left = image - self.shown(values) if corrected else image
        return np.reshape(
            [self._moved(left, values, row, corrected) for row in rows], (len(rows), len(values))
        )

    def _moved(
        self, left: Floats, values: Floats, row: Sequence[ShownLayer], corrected: bool
    ) -> Floats:
        moved, sizes = np.zeros(len(values)), np.zeros(len(values))
        shown: dict[int, tuple[Complexes, Floats]] = {}  # a fine layer for each kernel
        for layer in row:
            weights = layer.share.astype(np.float64) / self.division.factor**3
            seen = weights * self._at(left, layer.where)
            for name, transfer, sign in layer.ends:
                number = self._numbers_of(name, layer.where)
                moved += sign * np.bincount(number, seen, len(values))
                sizes += sign * np.bincount(number, weights, len(values))
                if corrected:
                    _, fine = shown.setdefault(
                        id(transfer),
                        (transfer, np.zeros(self.division.labels.size, np.float32)),
                    )
                    fine[layer.where] += sign * values[number].astype(np.float32) * layer.share
        if not corrected:
            return np.asarray((moved - sizes * values) / self.sizes)
        shape, factor = self.division.labels.shape, self.division.factor
        more = sum(blur_to_grid(fine.reshape(shape), factor, t) for t, fine in shown.values())
        return self._unmixing @ moved + self._answer(np.asarray(more))

    def _at(self, image: Floats, where: Integers) -> Floats:
        """Return the values of an image at fine voxels."""
        f = self.division.factor
        x, y, z = np.unravel_index(where, self.division.labels.shape)
        return np.asarray(image[x // f, y // f, z // f], np.float64)

    def _numbers_of(self, name: str, where: Integers) -> Integers:
        """Return the region of a name at fine voxels: by its label, where it is a tissue."""
        if name in self.division.tissues:
            return self.division.numbers(name)[self.division.labels.ravel()[where]]
        return np.full(len(where), self.n_parcels + list(self.others).index(name))


@dataclass(frozen=True)
class Others:
    """Regions beside the parcels, and the tissues as wholes, on the grid of the image.

    Parameters
    ----------
    names
        All regions, those whose tissues are divided among them.
    fractions, blurred
        Shape (regions, nx, ny, nz).
    covariance
        Of their signals by gtm, shape (regions, regions); nan where the noise is not known.
    """

    names: Sequence[str]
    fractions: Floats
    blurred: Floats
    covariance: Floats


def parcel_model(
    division: Division,
    known: Others,
    transfers: Mapping[str, Complexes],
    noise: ImageNoise | None,
) -> ParcelModel:
    """Return the model of an image whose tissues are divided.

    Parameters
    ----------
    division
        The parcels.
    known
        All regions with the tissues undivided.
    transfers
        Of the kernel of each tissue, shape (2 nx, 2 ny, nz + 1).
    noise
        Of the image; None where it is not known.
    """
    shape = known.fractions.shape[1:]
    beside = [k for k, name in enumerate(known.names) if name not in division.tissues]
    members = _members(division, known.fractions[beside])
    blurred, correlated = _blurred_parcels(division, shape, transfers, members, noise)
    crossing = _crossing(division, known, beside, members, blurred)
    covariance = np.full(crossing.shape, np.nan)
    if correlated is not None:
        covariance = _totals_covariance(division, known, beside, correlated)
    return ParcelModel(
        division,
        members,
        crossing,
        covariance,
        [known.names[k] for k in beside],
        known.blurred[beside],
        dict(transfers),
        shape,
    )


def _members(division: Division, others: Floats) -> sparse.csr_array:
    """Return the share of each region in each voxel, shape (regions, voxels)."""
    f, fine_shape = division.factor, division.labels.shape
    coarse = tuple(n // f for n in fine_shape)
    rows, columns, shares = [], [], []
    flat = division.labels.ravel()
    for tissue, fraction in division.tissues.items():
        where = np.flatnonzero(fraction.ravel())
        x, y, z = (p // f for p in np.unravel_index(where, fine_shape))
        columns.append(np.ravel_multi_index((x, y, z), coarse))
        rows.append(division.numbers(tissue)[flat[where]])
        shares.append(fraction.ravel()[where].astype(np.float64) / f**3)
    n, voxels = len(division.keys), int(np.prod(coarse))
    entries = (np.concatenate(shares), (np.concatenate(rows), np.concatenate(columns)))
    parcels = sparse.coo_array(entries, shape=(n, voxels)).tocsr()
    beside = sparse.csr_array(others.reshape(len(others), -1).astype(np.float64))
    return sparse.csr_array(sparse.vstack([parcels, beside]))


def _blurred_parcels(
    division: Division,
    shape: tuple[int, ...],
    transfers: Mapping[str, Complexes],
    members: sparse.csr_array,
    noise: ImageNoise | None,
) -> tuple[Floats, Floats | None]:
    """Return sums over all regions of each parcel as shown, and of what noise shares with it.

    Remainders, which come as differences, are left at 0; shape (regions, parcels).
    """
    sampling = [_sampling(n, division.factor) for n in shape]
    boxes = ndimage.find_objects(division.labels)
    kernels = {tissue: LocalKernel(transfer) for tissue, transfer in transfers.items()}
    correlation = None if noise is None else LocalKernel(noise.spectrum)
    columns = members.tocsc()
    n = len(division.keys)
    shown = np.zeros((members.shape[0], n))
    shared = None if noise is None else np.zeros((members.shape[0], n))
    for number, (label, tissue) in enumerate(division.keys):
        if number in division.remainders.values():
            continue
        box = boxes[label - 1]
        fine = division.tissues[tissue][box] * (division.labels[box] == label)
        corner, low = _lowered(fine, box, sampling, division.factor)
        shown[:, number] = _sums(columns, shape, *kernels[tissue].spread(low, corner, shape))
        if noise is not None and correlation is not None and shared is not None:
            own = np.asarray(members[[number]].toarray(), np.float32).reshape(shape)
            shared[:, number] = _shared_noise(own, noise, correlation, columns)
    return shown, shared


def _lowered(
    fine: Floats, box: tuple[slice, ...], sampling: Sequence[Floats], factor: int
) -> tuple[list[int], Floats]:
    """Return a fine box on the grid of the image, and its first voxel there."""
    corner, low = [], fine
    for axis, (place, matrix) in enumerate(zip(box, sampling, strict=True)):
        first = max(place.start // factor - RINGING, 0)
        last = min(-(-place.stop // factor) + RINGING, len(matrix))
        part = matrix[first:last, place]
        low = np.moveaxis(np.tensordot(part, low, (1, axis)), 0, axis)
        corner.append(first)
    return corner, np.ascontiguousarray(low, np.float32)


def _sums(
    columns: sparse.csc_array, shape: tuple[int, ...], box: tuple[slice, ...], values: Floats
) -> Floats:
    """Return the sums over all regions of an image that fills a box."""
    index = np.ravel_multi_index(
        np.ix_(*(np.arange(b.start, b.stop) for b in box)), shape
    ).ravel()  # fmt: skip
    return np.asarray(columns[:, index] @ values.ravel().astype(np.float64))


def _shared_noise(
    own: Floats, noise: ImageNoise, correlation: LocalKernel, columns: sparse.csc_array
) -> Floats:
    """Return the covariance of the sum over one parcel with the sums over all regions."""
    box = ndimage.find_objects((own > 0).astype(np.uint8))[0]
    corner = [b.start for b in box]
    found = np.zeros(columns.shape[0])
    for level in noise.each_level():
        part = np.asarray(own[box] * level[box], np.float32)
        place, spread = correlation.spread(part, corner, own.shape)
        found += _sums(columns, own.shape, place, spread * level[place])
    return found


def _crossing(
    division: Division, known: Others, beside: Sequence[int], members: sparse.csr_array,
    shown: Floats,
) -> Floats:  # fmt: skip
    """Return the sums of each region times what is shown of each, remainders as differences."""
    flat = known.blurred.reshape(len(known.blurred), -1)
    wholes = {t: members @ flat[list(known.names).index(t)] for t in division.tissues}
    columns = shown.copy()
    for tissue, whole in wholes.items():
        own = [k for k, (_, of) in enumerate(division.keys) if of == tissue]
        columns[:, division.remainders[tissue]] = whole - shown[:, own].sum(axis=1)
    return np.concatenate([columns, members @ flat[beside].T.astype(np.float64)], axis=1)


def _totals_covariance(
    division: Division, known: Others, beside: Sequence[int], shared: Floats
) -> Floats:
    """Return the covariance of the sums over all regions, remainders as differences.

    Parameters
    ----------
    division
        The parcels.
    known
        All regions with the tissues undivided, and the covariance of their signals.
    beside
        Which of them are not divided.
    shared
        Covariance of the sums over all regions with those over parcels, shape (regions,
        parcels), columns of remainders are 0.
    """
    n = len(division.keys)
    flat = known.fractions.reshape(len(known.fractions), -1).astype(np.float64)
    mixing = flat @ known.blurred.reshape(len(flat), -1).T.astype(np.float64)
    of_totals = mixing @ known.covariance @ mixing.T  # of the undivided regions
    wholes = [list(known.names).index(tissue) for tissue in division.tissues]
    rests = list(division.remainders.values())
    parcels = [k for k in range(n) if k not in rests]
    table = np.zeros((n + len(beside),) * 2)
    table[n:, n:] = of_totals[np.ix_(beside, beside)]
    table[:, parcels] = shared[:, parcels]
    table[parcels, :] = shared[:, parcels].T
    # whole = rest + parcels, so cov(rest, x) = cov(whole, x) - sum of cov(parcel, x)
    own = [[k for k in parcels if division.keys[k][1] == tissue] for tissue in division.tissues]
    for rest, whole, mine in zip(rests, wholes, own, strict=True):
        table[rest, n:] = of_totals[whole, beside] - table[np.ix_(mine, range(n, len(table)))].sum(
            axis=0
        )
        table[n:, rest] = table[rest, n:]
    for rest, whole, mine in zip(rests, wholes, own, strict=True):
        for other, far, theirs in zip(rests, wholes, own, strict=True):
            table[rest, other] = (
                of_totals[whole, far]
                - table[np.ix_(mine, [other])].sum()
                - table[np.ix_([rest], theirs)].sum()
                - table[np.ix_(mine, theirs)].sum()
            )
    return np.asarray((table + table.T) / 2)
