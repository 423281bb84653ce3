"""Tissue sodium concentration: signal, calibration line and relaxation put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.calibrate import Calibration
from sodiumprep.sodium.noise import ImageNoise, weighted_covariance
from sodiumprep.sodium.pvc.sensitivity import shift_changes
from sodiumprep.sodium.relaxation import DECAYING, relative_change
from sodiumprep.sodium.signal import Relaxation, relaxation_factor
from sodiumprep.sodium.uncertainty import combine, interval, weighted_quantiles

CONSTANT_NAMES = ("t1", "t2_short", "t2_long", "short_fraction")
MINIMUM_COVERAGE = 0.95  # of a region's volume inside the field of view


@dataclass(frozen=True)
class Protocol:
    """Timing that decides how relaxation weights the signal.

    Parameters
    ----------
    echo_time, repetition_time
        [s].
    flip_angle
        [rad].
    """

    echo_time: float
    repetition_time: float
    flip_angle: float

    def factor(self, relaxation: Relaxation) -> float:
        """Return the relaxation factor of a tissue, in (0, 1]."""
        return relaxation_factor(relaxation, self.echo_time, self.repetition_time, self.flip_angle)


@dataclass(frozen=True)
class Reference:
    """A region whose corrected signal is the calibration's reference.

    Parameters
    ----------
    index
        Of its row; None where it has none, as the vitreous humour.
    kernel_change, registration_changes, border_changes
        Change of its signal over its signal, as in :class:`RegionalSignals`: a number, and
        shapes (6,) and (rows,). What changes the reference changes every concentration.
    relaxation
        Its constants; needed where it has no row.
    decay_changes
        Of its signal over its signal, shape (regions, constants), the rows' regions first; None
        where they are not known.
    """

    index: int | None
    kernel_change: float
    registration_changes: Floats
    border_changes: Floats
    relaxation: Relaxation | None = None
    decay_changes: Floats | None = None


@dataclass(frozen=True)
class RegionalSignals:
    """Signals of regions by one method, with what changes them.

    Parameters
    ----------
    values
        Shape (n,).
    noise_variance
        Shape (n,).
    kernel_change
        Change of ``values`` for a kernel wider by its uncertainty, shape (n,); nan where the
        method uses no kernel.
    registration_changes
        Change of ``values`` for a shift by the registration's uncertainty along each axis:
        linear with its sign, then what both ways have in common, shape (6, n).
    border_changes
        Change of ``values`` where the borders of each row lie elsewhere by their uncertainty,
        shape (rows, n); none where it is not known.
    u_receive, u_transmit
        Relative standard uncertainty of the receive profile and of what the flip angle makes of
        the signal, both against the reference, shape (n,).
    reference
        The region that is the calibration's reference, or None (vials).
    decay_changes
        Change of ``values`` where a constant of decay of one of the regions is larger by its
        uncertainty, which changes its kernel, shape (n, constants, n), constants as in
        ``relaxation.DECAYING``; None where it is not known. Where several share constants, shape
        (s, constants, n).
    source
        Whose constants each value has, shape (n,); None where each has its own.
    """

    values: Floats
    noise_variance: Floats
    kernel_change: Floats
    registration_changes: Floats
    border_changes: Floats
    u_receive: Floats
    u_transmit: Floats
    reference: Reference | None = None
    decay_changes: Floats | None = None
    source: Integers | None = None


@dataclass(frozen=True)
class Parts:
    """Signals of parts that are summed to regions.

    Parameters
    ----------
    signals
        Of the parts, n of them.
    covariance
        Of the signals by image noise, shape (n, n).
    weights
        Share of each part in each sum, shape (m, n), of sum 1 each.
    u_receive, u_transmit
        Of the sums, as in :class:`RegionalSignals`, shape (m,).
    """

    signals: RegionalSignals
    covariance: Floats
    weights: Floats
    u_receive: Floats
    u_transmit: Floats


def _principal_inputs(calibration: Calibration) -> tuple[Floats, Floats]:
    """Return independent directions of (slope, intercept) and their standard uncertainties."""
    variances, directions = np.linalg.eigh(calibration.covariance)
    return directions.T, np.sqrt(np.clip(variances, 0, None))


def calibration_changes(values: Floats, factors: Floats, calibration: Calibration) -> Floats:
    """Return what the calibration line's uncertainty changes in concentrations.

    Parameters
    ----------
    values
        Signals, shape (n,).
    factors
        Relaxation factors, shape (n,), or ones for apparent concentrations.
    calibration
        The line with its covariance.

    Returns
    -------
    changes
        By independent errors of the line, shape (2, n) [mmol/L].
    """
    directions, spreads = _principal_inputs(calibration)

    def concentrations(shift: Floats) -> Floats:
        slope, intercept = calibration.slope + shift[0], calibration.intercept + shift[1]
        return np.asarray((values - intercept) / (slope * factors))

    moved = [spread * direction for direction, spread in zip(directions, spreads, strict=True)]
    return np.stack([(concentrations(m) - concentrations(-m)) / 2 for m in moved])


def u_calibration(values: Floats, factors: Floats, calibration: Calibration) -> Floats:
    """Return the uncertainty that the calibration line gives to concentrations.

    Parameters
    ----------
    values, factors, calibration
        As for :func:`calibration_changes`.

    Returns
    -------
    uncertainty
        Shape (n,) [mmol/L].
    """
    return np.asarray(np.linalg.norm(calibration_changes(values, factors, calibration), axis=0))


def relaxation_changes(  # noqa: PLR0913, PLR0917 -- what one term rests on
    means: Floats,
    tissues: Sequence[Relaxation] | None,
    protocol: Protocol,
    reference: int | Relaxation | None,
    decayed: Floats | None = None,
    of_reference: Floats | None = None,
    source: Integers | None = None,
) -> Floats:
    """Return what the uncertainty of the relaxation constants changes in concentrations.

    A constant errs in the relaxation factor of its region and, as it shapes the kernel, in the
    partial-volume correction of all: both at once.

    Parameters
    ----------
    means
        Concentrations, shape (n,) [mmol/L].
    tissues
        Constants of each source, s of them; None for apparent concentrations.
    protocol
        Timing.
    reference
        Source whose own factor is in the calibration's slope, so that both cancel; the constants
        of a reference that is none of the sources; or None.
    decayed
        Change of the concentrations by the kernels of moved constants, shape (s, constants, n)
        [mmol/L], as in :class:`RegionalSignals`; None for none.
    of_reference
        Relative change of the reference's signal by the same, shape (s, constants).
    source
        Whose constants each concentration has, shape (n,); each its own if not given.

    Returns
    -------
    changes
        By independent errors, shape (k, n) [mmol/L]; nan for apparent concentrations that no
        kernel changes.
    """
    n = len(means)
    source = np.arange(n) if source is None else source
    n_sources = len(tissues) if tissues is not None else n if decayed is None else len(decayed)
    own = np.zeros((n_sources, len(CONSTANT_NAMES)))  # relative change of each factor
    if tissues is not None:
        own[:] = [
            [relative_change(protocol.factor, t, c) for c in CONSTANT_NAMES] for t in tissues
        ]
    elif decayed is None or not decayed.any():
        return np.full((1, n), np.nan)
    changes = np.zeros((n_sources, len(CONSTANT_NAMES), n))
    changes[source, :, range(n)] = -own[source] * means[:, None]
    shared = np.zeros((n_sources, len(CONSTANT_NAMES)))  # of the slope
    apart = 0.0
    if isinstance(reference, Relaxation):
        apart = 0.0 if tissues is None else relative_u_relaxation(reference, protocol)
    elif reference is not None:
        shared[reference] = -own[reference]
    kernels = [CONSTANT_NAMES.index(name) for name in DECAYING]
    if decayed is not None:
        changes[:, kernels] += decayed
    if of_reference is not None:
        shared[:, kernels] += of_reference[:n_sources]
    changes -= shared[:, :, None] * means
    return np.concatenate([changes.reshape(-1, n), apart * means[None]])


def relative_u_relaxation(tissue: Relaxation, protocol: Protocol) -> float:
    """Return the relative standard uncertainty of a relaxation factor.

    Parameters
    ----------
    tissue
        Constants with their uncertainties.
    protocol
        Timing.

    Returns
    -------
    uncertainty
        Over the factor.

    Examples
    --------
    >>> relative_u_relaxation(Relaxation(0.05, 0.05, 0.05, 0.0), Protocol(3e-4, 0.12, 1.5))
    0.0
    """
    changes = [relative_change(protocol.factor, tissue, name) for name in CONSTANT_NAMES]
    return float(np.linalg.norm(changes))


def concentration_changes(
    signals: RegionalSignals,
    factors: Floats,
    tissues: Sequence[Relaxation] | None,
    protocol: Protocol,
    calibration: Calibration,
) -> tuple[Floats, dict[str, Floats]]:
    """Return regional concentrations with what independent errors change in them.

    Parameters
    ----------
    signals
        Regional signals, n of them.
    factors
        Relaxation factor of each region, shape (n,); ones for apparent concentrations.
    tissues
        Relaxation constants of each region, or of each source; None for apparent concentrations.
    protocol
        Timing.
    calibration
        The line for these factors.

    Returns
    -------
    mean
        Shape (n,) [mmol/L].
    changes
        By the name of the term, each of shape (k, n) [mmol/L]; nan where it is not known.
    """
    gain = 1 / (calibration.slope * factors)
    mean = (signals.values - calibration.intercept) * gain
    known = signals.reference
    cancels = None if known is None else known.relaxation or known.index
    decayed = None if signals.decay_changes is None else signals.decay_changes * gain
    of_reference = None if known is None else known.decay_changes

    def moved(name: str) -> Floats:
        changes = np.atleast_2d(getattr(signals, name))
        if not len(changes):
            return np.full((1, len(mean)), np.nan)
        shared = np.zeros(len(changes)) if known is None else np.atleast_1d(getattr(known, name))
        return np.asarray((changes - signals.values * shared[:, None]) * gain)

    return mean, {
        "u_calibration": calibration_changes(signals.values, factors, calibration),
        "u_relaxation": relaxation_changes(
            mean, tissues, protocol, cancels, decayed, of_reference, signals.source
        ),
        "u_pvc": moved("kernel_change"),
        "u_segmentation": moved("border_changes"),
        "u_registration": moved("registration_changes"),
    }


def concentration_table(
    signals: RegionalSignals,
    factors: Floats,
    tissues: Sequence[Relaxation] | None,
    protocol: Protocol,
    calibration: Calibration,
) -> dict[str, Floats]:
    """Return regional concentrations with their uncertainty, term by term.

    Parameters
    ----------
    signals, factors, tissues, protocol, calibration
        As for :func:`concentration_changes`.

    Returns
    -------
    table
        ``mean``, the terms ``u_*``, ``uncertainty``, ``ci_low``, ``ci_high``, each of shape (n,)
        [mmol/L]; a term that is not determined is nan.

    References
    ----------
    Guide to the expression of uncertainty in measurement, JCGM 100:2008
    """
    mean, changes = concentration_changes(signals, factors, tissues, protocol, calibration)
    gain = 1 / (calibration.slope * factors)
    u_noise = np.sqrt(signals.noise_variance) * gain
    return _table(mean, u_noise, changes, signals.u_receive, signals.u_transmit)


def combined_table(
    parts: Parts,
    factors: Floats,
    tissues: Sequence[Relaxation] | None,
    protocol: Protocol,
    calibration: Calibration,
) -> dict[str, Floats]:
    """Return concentrations of sums of parts with their uncertainty, term by term.

    Parts of one sum err together as far as they share constants, calibration and place.

    Parameters
    ----------
    parts
        Their signals, n of them, and what is summed.
    factors, tissues, protocol, calibration
        As for :func:`concentration_changes`.

    Returns
    -------
    table
        As :func:`concentration_table` gives it, each column of shape (m,).
    """
    mean, changes = concentration_changes(parts.signals, factors, tissues, protocol, calibration)
    turned = parts.weights / (calibration.slope * factors)
    variance = np.einsum("ij,jk,ik->i", turned, parts.covariance, turned, optimize=True)
    summed = {name: change @ parts.weights.T for name, change in changes.items()}
    mean = parts.weights @ mean
    return _table(mean, np.sqrt(variance), summed, parts.u_receive, parts.u_transmit)


def _table(
    mean: Floats, u_noise: Floats, changes: Mapping[str, Floats], u_receive: Floats,
    u_transmit: Floats,
) -> dict[str, Floats]:  # fmt: skip
    norms = {name: np.linalg.norm(change, axis=0) for name, change in changes.items()}
    terms = {
        "u_noise": u_noise,
        "u_calibration": norms["u_calibration"],
        "u_relaxation": norms["u_relaxation"],
        "u_receive": np.abs(mean) * u_receive,
        "u_b1": np.abs(mean) * u_transmit,
        "u_pvc": norms["u_pvc"],
        "u_segmentation": norms["u_segmentation"],
        "u_registration": norms["u_registration"],
    }
    uncertainty = combine(terms)
    low, high = interval(mean, uncertainty)
    return {"mean": mean, **terms, "uncertainty": uncertainty, "ci_low": low, "ci_high": high}


EFFECTS = {  # by column: rows of the changes that it joins
    "change_position_1mm": slice(0, 6),
    "change_psf_10percent": slice(6, 7),
    "change_segmentation_0.5mm": slice(7, None),
}


def effects_of_errors(
    changes: Floats,
    values: Floats,
    factors: Floats,
    calibration: Calibration,
    of_reference: Floats | None,
) -> dict[str, Floats]:
    """Return what given errors change in regional concentrations.

    Parameters
    ----------
    changes
        Of the signals: for 1 mm along each axis, as in ``registration_changes``, for kernels
        wider by a tenth, and for each border of a region 0.5 mm elsewhere; shape
        (7 + borders, n).
    values
        Signals, shape (n,).
    factors
        Relaxation factor of each region, shape (n,).
    calibration
        The line for these factors.
    of_reference
        Relative changes of the region that is the calibration's reference, shape (7 + borders,);
        None where vials are.

    Returns
    -------
    effects
        By column, shape (n,) [mmol/L]. Of position: the largest that 1 mm in any direction makes.
        Of the kernel: with its sign. Of segmentation: borders err independently.
    """
    shared = np.zeros(len(changes)) if of_reference is None else of_reference
    turned = (changes - shared[:, None] * values) / (calibration.slope * factors)
    return {
        name: turned[rows][0] if name == "change_psf_10percent"
        else np.linalg.norm(turned[rows], axis=0)
        for name, rows in EFFECTS.items()
    }  # fmt: skip


def uncorrected_signals(
    image: Floats, fractions: Floats, noise: ImageNoise, shift: Floats
) -> RegionalSignals:
    """Return fraction-weighted mean signals, without partial-volume correction.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    fractions
        Shape (n, nx, ny, nz).
    noise
        Of the image.
    shift
        Uncertainty of the position along each axis, shape (3,) [voxels]; nan if not known.

    Returns
    -------
    signals
        With the uncertainties of the coils not yet known.
    """
    weights = fractions / fractions.sum(axis=(1, 2, 3), keepdims=True)
    unknown = np.full(len(fractions), np.nan)

    def means(shown: Floats) -> Floats:
        return np.asarray(np.tensordot(weights, shown.astype(np.float64), 3))

    return RegionalSignals(
        means(image),
        np.diag(weighted_covariance(weights, noise)),
        unknown,
        shift_changes(means, image, shift),
        np.zeros((0, len(fractions))),
        unknown,
        unknown,
    )


QUANTILES = {"median": 0.5, "q25": 0.25, "q75": 0.75}
MORE_QUANTILES = {
    "q05": 0.05, "q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9, "q95": 0.95,
}  # fmt: skip


def region_statistics(
    values: Floats, fractions: Floats, quantiles: Mapping[str, float] = QUANTILES
) -> dict[str, Floats]:
    """Return fraction-weighted statistics of a map over regions.

    Parameters
    ----------
    values
        Shape (nx, ny, nz).
    fractions
        Shape (n, nx, ny, nz).
    quantiles
        Which, by name.

    Returns
    -------
    statistics
        ``mean``, ``sd`` and the quantiles, each of shape (n,).

    Examples
    --------
    >>> values = np.array([1.0, 3.0]).reshape(2, 1, 1)
    >>> region_statistics(values, np.ones((1, 2, 1, 1)))["sd"]
    array([1.])
    """
    rows = []
    for fraction in fractions:
        used = fraction > 0
        v, w = values[used].astype(np.float64), fraction[used].astype(np.float64)
        mean = np.average(v, weights=w)
        sd = np.sqrt(np.average((v - mean) ** 2, weights=w))
        rows.append([mean, sd, *weighted_quantiles(v, w, np.array(list(quantiles.values())))])
    return dict(zip(("mean", "sd", *quantiles), np.array(rows).T, strict=True))


def region_flags(
    volumes_ml: Floats, covered: Floats, properties: Mapping[str, Any], names: Sequence[str]
) -> list[str]:
    """Return what a reader must know of each region's row.

    Parameters
    ----------
    volumes_ml
        Of each region inside the field of view, shape (n,) [ml].
    covered
        Share of each region inside the field of view, shape (n,).
    properties
        ``ReceiveUncorrected``, ``RegistrationFailed``, ``BrainImplausible`` and
        ``PointSpreadFWHM`` [mm] by tissue.
    names
        Of the regions, or of the tissue that each is of.

    Returns
    -------
    flags
        Comma-separated words, or "n/a": ``registration_failed``, ``receive_uncorrected``,
        ``smaller_than_psf``, ``partly_outside``, ``brain_implausible``; by :func:`with_flag`
        ``entangled`` and ``calibration_forced`` join them.
    """
    flags = []
    for name, size, share in zip(names, volumes_ml, covered, strict=True):
        kernel = float(np.prod(properties["PointSpreadFWHM"][name])) / 1e3
        words = [
            word
            for word, raised in (
                ("registration_failed", properties.get("RegistrationFailed", False)),
                ("receive_uncorrected", properties.get("ReceiveUncorrected", False)),
                ("smaller_than_psf", size < kernel),
                ("partly_outside", share < MINIMUM_COVERAGE),
                ("brain_implausible", properties.get("BrainImplausible", False)),
            )
            if raised
        ]
        flags.append(",".join(words) or "n/a")
    return flags


def with_flag(flags: Sequence[str], word: str, raised: Floats | None) -> list[str]:
    """Return flags with one more word where it applies.

    Parameters
    ----------
    flags
        As :func:`region_flags` returns them.
    word
        To add.
    raised
        Whether it applies to each region; None: to none.

    Returns
    -------
    flags
        Comma-separated words, or "n/a".

    Examples
    --------
    >>> with_flag(["n/a", "partly_outside"], "entangled", np.array([True, True]))
    ['entangled', 'partly_outside,entangled']
    """
    if raised is None:
        return list(flags)
    return [
        flag if not here else word if flag == "n/a" else f"{flag},{word}"
        for flag, here in zip(flags, raised, strict=True)
    ]


def relative_changes(
    signals: RegionalSignals, index: int, relaxation: Relaxation | None = None
) -> Reference:
    """Return what changes the signal of a region, over that signal.

    Parameters
    ----------
    signals
        By the method whose signal of that region the calibration rests on.
    index
        Of the region.
    relaxation
        Constants of a region that has no row; None for one that has.

    Returns
    -------
    reference
        That region.
    """
    value = signals.values[index]
    return Reference(
        index if relaxation is None else None,
        float(signals.kernel_change[index] / value),
        signals.registration_changes[:, index] / value,
        signals.border_changes[:, index] / value,
        relaxation,
        None if signals.decay_changes is None else signals.decay_changes[:, :, index] / value,
    )


def calibrated_by(
    signals: Mapping[str, RegionalSignals], method: str, reference: Reference
) -> dict[str, RegionalSignals]:
    """Return signals that know which region is the calibration's reference.

    Parameters
    ----------
    signals
        By method.
    method
        Whose signal of the reference the calibration rests on.
    reference
        The region, as :func:`relative_changes` returns it.

    Returns
    -------
    signals
        What changes the reference changes every concentration. The reference has no noise of its
        own by that method: its concentration is what was assumed.
    """
    found = {
        # a method that uses no kernel changes with that of its reference
        name: replace(s, reference=reference, kernel_change=np.nan_to_num(s.kernel_change))
        for name, s in signals.items()
    }
    if reference.index is not None:
        variance = found[method].noise_variance.copy()
        variance[reference.index] = 0.0
        found[method] = replace(found[method], noise_variance=variance)
    return found
