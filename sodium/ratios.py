"""Ratios of regional concentrations: what two regions share in their errors cancels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.calibrate import Calibration
from sodiumprep.sodium.concentration import Parts, Protocol, concentration_changes
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.uncertainty import combine


def ratios(
    parts: Parts,
    factors: Floats,
    tissues: Sequence[Relaxation] | None,
    protocol: Protocol,
    calibration: Calibration,
    pairs: Integers,
) -> tuple[Floats, Floats]:
    """Return ratios of the concentrations of sums of parts with their uncertainty.

    Each independent error moves both concentrations at once, image noise as far as it is
    correlated.

    Parameters
    ----------
    parts
        Signals of the parts, n of them, and what is summed, m sums. ``u_receive`` and
        ``u_transmit`` are those of the ratios, relative, shape (k,).
    factors, tissues, protocol, calibration
        As for :func:`~sodiumprep.sodium.concentration.concentration_changes`.
    pairs
        Which sum is divided by which, shape (k, 2).

    Returns
    -------
    ratio, uncertainty
        Shape (k,).

    References
    ----------
    Guide to the expression of uncertainty in measurement, JCGM 100:2008, 5.2
    """
    mean, changes = concentration_changes(parts.signals, factors, tissues, protocol, calibration)
    upper, lower = (parts.weights[pairs[:, k]] for k in (0, 1))
    below = lower @ mean
    ratio = upper @ mean / below
    slopes = (upper - ratio[:, None] * lower) / below[:, None]  # of the ratio by concentrations
    by_signal = slopes / (calibration.slope * factors)
    noise = np.einsum("ij,jk,ik->i", by_signal, parts.covariance, by_signal, optimize=True)
    terms = {
        "u_noise": np.sqrt(np.maximum(noise, 0.0)),
        "u_receive": np.abs(ratio) * parts.u_receive,
        "u_b1": np.abs(ratio) * parts.u_transmit,
        **{name: np.linalg.norm(change @ slopes.T, axis=0) for name, change in changes.items()},
    }
    return ratio, combine(terms)
