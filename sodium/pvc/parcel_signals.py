"""Signals of parcels and lesions with all that changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sodiumprep.sodium.acquisition import Complexes, Floats, Integers
from sodiumprep.sodium.concentration import Reference, RegionalSignals
from sodiumprep.sodium.pvc.parcels import ParcelModel, ShownLayer
from sodiumprep.sodium.relaxation import DECAYING


@dataclass(frozen=True)
class ParcelErrors:
    """What may be wrong beside noise: position, kernels, borders, and constants of decay.

    Parameters
    ----------
    shift
        Uncertainty of the position along each axis, shape (3,) [voxels]; nan if unknown.
    fwhm
        Of the kernels, shape (3,) [voxels].
    widening
        By which share of it they may be wider.
    borders
        Layers that change hands; those of each row move together.
    border_scale
        Uncertainty of the borders of each row over how far they were moved, shape (rows,).
    transfers
        Of the kernel of a tissue with a constant that is larger by its uncertainty, by tissue and
        index of the constant in ``relaxation.DECAYING``.
    shown
        What the image shows of a lesion with such a constant, by class and index of the constant,
        shape (nx, ny, nz).
    regions
        Names of tissues and lesions.
    """

    shift: Floats
    fwhm: Floats
    widening: float
    borders: Sequence[Sequence[ShownLayer]]
    border_scale: Floats
    transfers: Mapping[tuple[str, int], Complexes]
    shown: Mapping[tuple[str, int], Floats]
    regions: Sequence[str]

    def border_changes(
        self, model: ParcelModel, image: Floats, values: Floats, corrected: bool
    ) -> Floats:
        """Return what borders change, shape (rows, regions of the model)."""
        changes = model.bordered(image, values, self.borders, corrected)
        return np.asarray(changes * self.border_scale[:, None])

    def decay_changes(self, model: ParcelModel, values: Floats, corrected: bool) -> Floats:
        """Return what moved constants change, shape (regions, constants, regions of the model)."""
        changes = np.zeros((len(self.regions), len(DECAYING), len(values)))
        if not corrected:
            return changes
        for (tissue, constant), transfer in self.transfers.items():
            own = self.regions.index(tissue)
            changes[own, constant] = model.decayed(values, tissue, transfer)
        for (lesion, constant), shown in self.shown.items():
            own = self.regions.index(lesion)
            changes[own, constant] = model.decayed_other(values, lesion, shown)
        return changes


@dataclass(frozen=True)
class ParcelSignals:
    """Signals of all regions of a model with what changes those of parcels and lesions.

    Parameters
    ----------
    values
        Shape (regions,).
    covariance
        By image noise, shape (regions, regions).
    parts
        Of parcels and lesions, which come first.
    """

    values: Floats
    covariance: Floats
    parts: RegionalSignals

    def calibrated_by(
        self, reference: Reference, own: Sequence[int], corrected: bool
    ) -> ParcelSignals:
        """Return the signals where one of the regions calibrates.

        Noise of the reference reaches the parts through the line: a part that is all of the
        reference has none of its own.

        Parameters
        ----------
        reference
            What changes it.
        own
            Parts that are of it.
        corrected
            Whether signals are corrected for partial volume.
        """
        parts = replace(
            self.parts,
            reference=reference,
            kernel_change=np.nan_to_num(self.parts.kernel_change),
        )
        covariance = self.covariance
        if corrected and len(own) == 1:
            covariance = covariance.copy()
            covariance[own], covariance[:, own] = 0.0, 0.0
        return ParcelSignals(self.values, covariance, parts)


def parcel_signals(
    model: ParcelModel, image: Floats, corrected: bool, errors: ParcelErrors, source: Integers
) -> ParcelSignals:
    """Return signals of parcels and lesions, with all that changes them.

    Parameters
    ----------
    model
        Of the image.
    image
        Shape (nx, ny, nz).
    corrected
        Whether signals are corrected for partial volume.
    errors
        What may be wrong beside noise.
    source
        Index of the region whose constants each part has, shape (parts,).

    Returns
    -------
    signals
        Of vials or a phantom as calibration: :meth:`ParcelSignals.calibrated_by` else.

    Raises
    ------
    IndistinctRegionsError
        If signals are to be corrected and the image cannot tell two regions apart.
    """
    n = len(source)
    values = model.values(image, corrected)
    covariance = model.covariance(corrected)
    wider = np.full(len(values), np.nan)
    if corrected:
        wider = model.widened(values, errors.fwhm, errors.widening)
    unknown = np.full(n, np.nan)
    parts = RegionalSignals(
        values[:n],
        np.diag(covariance)[:n],
        wider[:n],
        model.shifted(image, errors.shift, corrected)[:, :n],
        errors.border_changes(model, image, values, corrected)[:, :n],
        unknown,
        unknown,
        decay_changes=errors.decay_changes(model, values, corrected)[..., :n],
        source=source,
    )
    return ParcelSignals(values, covariance, parts)
