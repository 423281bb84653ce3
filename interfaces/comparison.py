"""What every reference that an image has would make of its calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sodiumprep.interfaces.coil_fields import RegionTransmit, load_field
from sodiumprep.interfaces.image import load_image
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.calibrate import Calibration
from sodiumprep.sodium.comparison import References
from sodiumprep.sodium.pvc.assessment import AssessedSignals
from sodiumprep.sodium.relaxation import VITREOUS
from sodiumprep.sodium.smooth_field import grid_positions

Lines = Mapping[str, Calibration]
REGIONS = {"csf": "CSF", "vitreous": VITREOUS}  # internal reference -> its region


def compare_references(
    lines: Mapping[str, Lines],
    chosen: str,
    signals: AssessedSignals | None,
    regions: Sequence[str],
    independent: Mapping[str, float],
    fields: Floats,
) -> tuple[dict[str, Any], list[str]]:
    """Return what the calibration's file holds of all references, and what must be said.

    Parameters
    ----------
    lines
        Corrected and apparent line by reference.
    chosen
        The one that calibrates.
    signals
        Of all regions, by the method that internal references rest on; None without any.
    regions
        Names of all regions.
    independent
        By reference, its relative standard uncertainty by what it shares with no other.
    fields
        Covariance of the logarithm of the coils' fields, in the order of ``lines``.

    Returns
    -------
    told
        By reference: ``Slope``, ``SlopeUncertainty``, ``RatioToChosen``, ``RatioUncertainty``.
    warnings
        Pairs that disagree.
    """
    names = list(lines)
    noise, changes = _shared(names, signals, list(regions))
    known = References(
        names,
        np.array([lines[name]["corrected"].slope for name in names]),
        np.array([independent[name] for name in names]),
        noise,
        changes,
        fields,
    )
    told = {}
    for k, (name, u) in enumerate(zip(names, known.uncertainties(), strict=True)):
        ratio, u_ratio = known.ratio(k, names.index(chosen))
        told[name] = {
            "Slope": float(known.slopes[k]),
            "SlopeUncertainty": float(u),
            "RatioToChosen": ratio,
            "RatioUncertainty": u_ratio,
        }
    return told, known.disagreements()


def _shared(
    names: list[str], signals: AssessedSignals | None, regions: list[str]
) -> tuple[Floats, Floats]:
    """Return relative noise covariance and changes; those of vials are in their own line."""
    n = len(names)
    if signals is None:
        return np.zeros((n, n)), np.zeros((0, n))
    every = [
        np.nan_to_num(signals.kernel_change)[None],
        np.nan_to_num(signals.registration_changes),
        signals.border_changes,
    ]
    rows = np.concatenate(every)
    noise, changes = np.zeros((n, n)), np.zeros((len(rows), n))
    inner = [k for k, name in enumerate(names) if name in REGIONS]
    index = [regions.index(REGIONS[names[k]]) for k in inner]
    values = signals.values[index]
    covariance = np.nan_to_num(signals.covariance[np.ix_(index, index)])
    noise[np.ix_(inner, inner)] = covariance / np.outer(values, values)
    changes[:, inner] = rows[:, index] / values
    return noise, changes


def field_covariance(
    groups: Sequence[Sequence[str]],
    stored: Mapping[str, Any],
    image_file: str,
    model_file: Path | str | None,
    transmit: RegionTransmit | None,
    apart: Floats | None = None,
    reciprocal: bool = False,
) -> Floats:
    """Return how the uncertain fields of the coils act on references.

    Parameters
    ----------
    groups
        Regions of each reference: the vials, or one fluid; none for what was scanned by itself.
    stored
        ``names`` and ``fractions`` of all regions.
    image_file
        Image on the grid of the regions.
    model_file
        Fitted receive field (npz); None where there is none.
    transmit
        What the flip angle does to regions; None where it is not known.
    apart
        Mean of the receive field's basis over what was scanned by itself, shape (m,).
    reciprocal
        Whether the receive field is the transmit field.

    Returns
    -------
    covariance
        Of the logarithm of the signals, shape (groups, groups).
    """
    names = stored["names"].tolist()
    n = len(groups)
    total = np.zeros((n, n))
    if model_file is not None:
        model = load_field(str(model_file))
        image, affine = load_image(image_file)
        used = [names.index(name) for group in groups for name in group]
        weights = stored["fractions"][used].reshape(len(used), -1)
        basis = model.region_means(grid_positions(image.shape, affine), weights)
        ends = np.cumsum([0, *(len(group) for group in groups)])
        alone = np.zeros(basis.shape[1]) if apart is None else apart
        means = np.stack([
            basis[a:b].mean(axis=0) if b > a else alone for a, b in pairwise(ends)
        ])  # fmt: skip
        total += means @ model.covariance @ means.T
        if reciprocal and transmit is not None:
            total += transmit.shared_with_receive(groups, means)
    if transmit is not None:
        total += transmit.covariance(groups)
    return total
