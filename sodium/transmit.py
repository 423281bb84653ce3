"""The transmit field: flip angle over nominal, from a map or from images with two flip angles.

The field acts through the steady state of each tissue. An image is multiplied by what turns the
signal of :data:`REFERENCE_T1` at the true flip angle into that at the nominal one; what is left
for a region of another T1 is a number close to 1 that joins its relaxation factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.signal import spoiled_saturation
from sodiumprep.sodium.smooth_field import (
    Pair,
    SmoothField,
    Smoothness,
    fit_field,
    grid_positions,
    relative_uncertainty,
)

REFERENCE_T1 = 37e-3  # s, grey and white matter
SMOOTHNESS = Smoothness(shortest_wave=120.0, margin=60.0)  # mm; a volume coil varies no faster
SCALE_UNCERTAINTY = 0.02  # relative, of the whole field: pulse shape, two-angle model
PLAUSIBLE = (0.3, 2.0)  # flip angle over nominal
IN_HEAD, IN_MAP = 0.96, 0.5  # share of voxels that must be so: a map may reach far into air
PERCENT = (20.0, 300.0)  # median of a map in percent of nominal
RATIO = (0.2, 3.0)  # median of one that holds the ratio itself
FEWEST_VOXELS = 200
OUTLIER = 4.0  # SDs of what the smooth field leaves
SIGNAL_TO_NOISE = 5.0  # of the image with the smaller flip angle; less tells nothing
STEP = 1e-3  # relative, for derivatives by the field
PERCENT_UNITS = ("percent", "%")
RATIO_UNITS = ("1", "ratio", "fraction", "relative")


def relative_flip_angle(values: Floats, units: str | None) -> Floats:
    """Return flip angle over nominal from a transmit map of known unit.

    Parameters
    ----------
    values
        Map, any shape; what is not finite or not positive is a hole.
    units
        As the sidecar states them: "percent" or "%", or "1", "ratio", "fraction", "relative";
        None, "" or "arbitrary" where it does not: a map is percent of nominal.

    Returns
    -------
    ratio
        Same shape, nan in holes.

    Raises
    ------
    ValueError
        If fewer than 200 voxels hold a value, the unit is not known, or does not fit the values.

    Examples
    --------
    >>> relative_flip_angle(np.full(300, 75.0), "percent")[0].item()
    0.75
    """
    known = np.isfinite(values) & (values > 0)
    if known.sum() < FEWEST_VOXELS:
        raise ValueError(
            f"only {int(known.sum())} voxels of the transmit map are above 0; accepted: at least "
            f"{FEWEST_VOXELS}"
        )
    middle = float(np.median(values[known]))
    stated = (units or "").strip().lower()
    if stated not in (*PERCENT_UNITS, *RATIO_UNITS, "", "arbitrary"):
        raise ValueError(
            f"Units of the transmit map is '{units}'; accepted: {', '.join(PERCENT_UNITS)} or "
            f"{', '.join(RATIO_UNITS)}"
        )
    low, high = RATIO if stated in RATIO_UNITS else PERCENT
    if not low <= middle <= high:
        hint = ""
        if stated not in RATIO_UNITS and RATIO[0] <= middle <= RATIO[1]:
            hint = '; if it holds the ratio to nominal, set "Units": "1" in its sidecar'
        raise ValueError(
            f"the median of the transmit map is {middle:.4g}; accepted: {low:g} to {high:g} "
            f"({'ratio' if stated in RATIO_UNITS else 'percent'}){hint}"
        )
    scale = 1.0 if stated in RATIO_UNITS else 0.01
    return np.where(known, values, np.nan) * scale


def fit_transmit_map(ratio: Floats, affine: Floats) -> SmoothField:
    """Fit a smooth field to a map of the flip angle.

    Holes are filled by the field. Voxels that lie more than 4 SDs from it do not count, and the
    SD of the others is their noise.

    Parameters
    ----------
    ratio
        Flip angle over nominal, nan in holes, shape (nx, ny, nz).
    affine
        Shape (4, 4) [mm].

    Returns
    -------
    field
        Flip angle over nominal.

    Raises
    ------
    ValueError
        If half of the map is not plausible.
    """
    used = np.isfinite(ratio)
    filled = np.where(used, ratio, 1.0)
    first = np.ones_like(filled)
    noise = max(float(np.std(ratio[used])), 1e-3)
    start = float(np.median(ratio[used]))
    places = grid_positions(ratio.shape, affine)
    for _ in range(2):
        pair = Pair(first, filled, affine, (0.0, noise), used, model_error=0.0)
        field = fit_field(pair, SMOOTHNESS, start)
        left = filled - field(places).reshape(ratio.shape)
        noise = max(1.4826 * float(np.median(np.abs(left[used]))), 1e-4)
        used = np.isfinite(ratio) & (np.abs(left) < OUTLIER * noise)
    _require_plausible(field, places[np.isfinite(ratio).ravel()], IN_MAP)
    return fit_field(Pair(first, filled, affine, (0.0, noise), used, 0.0), SMOOTHNESS, start)


@dataclass(frozen=True)
class DoubleAngle:
    """Two images with flip angles of which the second is twice the first.

    Parameters
    ----------
    first, second
        Magnitudes without noise bias, shape (nx, ny, nz).
    affine
        Of both, shape (4, 4) [mm].
    noise_sd
        Of both: numbers.
    flip_angle
        Of the first [rad].
    repetition_time
        Of both [s].
    """

    first: Floats
    second: Floats
    affine: Floats
    noise_sd: tuple[float, float]
    flip_angle: float
    repetition_time: float


def fit_double_angle(images: DoubleAngle, t1: float = REFERENCE_T1) -> SmoothField:
    """Fit the field that explains the ratio of two images, with the noise of both.

    The ratio is that of the steady states at both flip angles, so that a short repetition time
    biases nothing as long as ``t1`` holds.

    Parameters
    ----------
    images
        With two flip angles.
    t1
        Of what gives the signal [s].

    Returns
    -------
    field
        Flip angle over nominal.

    Raises
    ------
    ValueError
        If fewer than 200 voxels stand out of the noise, or the field is not plausible.

    References
    ----------
    Insko & Bolinger 1993, doi:10.1006/jmra.1993.1133
    """
    used = images.first > SIGNAL_TO_NOISE * images.noise_sd[0]
    if used.sum() < FEWEST_VOXELS:
        raise ValueError(
            f"only {int(used.sum())} voxels of the double-angle pair exceed "
            f"{SIGNAL_TO_NOISE:g} noise SDs; accepted: at least {FEWEST_VOXELS}"
        )

    def ratio(field: Floats) -> Floats:
        one, two = (
            spoiled_saturation(n * images.flip_angle * field, images.repetition_time, t1)
            for n in (1, 2)
        )
        return two / np.maximum(one, 1e-6)

    # the ratio falls with the angle as long as the larger one stays below half a turn
    highest = np.pi / (2 * images.flip_angle)

    def response(field: Floats) -> tuple[Floats, Floats]:
        allowed = np.minimum(field, 0.99 * highest)
        slope = (ratio(allowed * (1 + STEP)) - ratio(allowed * (1 - STEP))) / (2 * STEP)
        return ratio(allowed), slope

    pair = Pair(images.first, images.second, images.affine, images.noise_sd, used)
    total = float(images.second[used].sum() / images.first[used].sum())
    tried = np.linspace(PLAUSIBLE[0], min(PLAUSIBLE[1], 0.99 * highest), 200)
    start = float(tried[np.argmin(np.abs(ratio(tried) - total))])
    field = fit_field(pair, SMOOTHNESS, start, response)
    places = grid_positions(images.first.shape, images.affine)
    _require_plausible(field, places[used.ravel()], IN_HEAD)
    return field


def _require_plausible(field: SmoothField, places: Floats, share: float) -> None:
    """Refuse a field that is not plausible in the middle share of its values."""
    outside = 50 * (1 - share)
    low, middle, high = np.percentile(field(places), [outside, 50, 100 - outside])
    if not PLAUSIBLE[0] <= low <= high <= PLAUSIBLE[1]:
        raise ValueError(
            f"the flip angle over nominal runs from {low:.2f} to {high:.2f} (median "
            f"{middle:.2f}); accepted: {PLAUSIBLE[0]:g} to {PLAUSIBLE[1]:g}"
        )


def saturation_change(
    field: Floats, flip_angle: float, repetition_time: float, t1: float
) -> Floats:
    """Return the signal at the true flip angle over that at the nominal one.

    Parameters
    ----------
    field
        Flip angle over nominal, any shape.
    flip_angle
        Nominal [rad].
    repetition_time, t1
        [s].

    Returns
    -------
    change
        Same shape as ``field``.

    Examples
    --------
    >>> round(float(saturation_change(np.array(1.1), np.pi / 2, 0.12, 0.037)), 3)
    0.982
    """
    nominal = spoiled_saturation(flip_angle, repetition_time, t1)
    return np.asarray(spoiled_saturation(flip_angle * field, repetition_time, t1) / nominal)


@dataclass(frozen=True)
class TransmitEffect:
    """What the transmit field does to regions, once the image is corrected for one T1.

    Parameters
    ----------
    factors
        Signal that is left over that at the nominal flip angle, shape (regions,): near 1.
    slopes
        Relative change of the signal before correction for a relative change of the field, shape
        (regions,).
    basis
        Mean of the field's basis functions over each region, shape (regions, m).
    changes
        Signal before correction over that at the nominal flip angle, shape (regions,).
    """

    factors: Floats
    slopes: Floats
    basis: Floats
    changes: Floats

    def uncertainty(self, model: SmoothField, reference: Floats) -> Floats:
        """Return the relative standard uncertainty of signals over that of the reference.

        Parameters
        ----------
        model
            The field.
        reference
            Weights of the regions that the calibration rests on, shape (regions,), of sum 1.

        Returns
        -------
        uncertainty
            Shape (regions,).
        """
        sensitive = self.slopes[:, None] * self.basis
        local = relative_uncertainty(model, sensitive, reference @ sensitive)
        shared = np.abs(self.slopes - reference @ self.slopes) * SCALE_UNCERTAINTY
        return np.hypot(local, shared)

    def covariance(self, model: SmoothField, weights: Floats) -> Floats:
        """Return the relative covariance that the field gives to means of regions.

        Parameters
        ----------
        model
            The field.
        weights
            Of the regions in each mean, shape (means, regions), of sum 1 each.

        Returns
        -------
        covariance
            Shape (means, means).
        """
        sensitive = weights @ (self.slopes[:, None] * self.basis)
        scale = weights @ self.slopes * SCALE_UNCERTAINTY
        return np.asarray(sensitive @ model.covariance @ sensitive.T + np.outer(scale, scale))


def transmit_effect(
    model: SmoothField,
    places: Floats,
    weights: Floats,
    protocol: tuple[float, float],
    t1s: Sequence[float],
) -> TransmitEffect:
    """Return what the transmit field does to regions.

    Parameters
    ----------
    model
        The field.
    places
        Of the voxels, shape (n, 3) [mm].
    weights
        Of the voxels in each region, shape (regions, n).
    protocol
        Nominal flip angle [rad] and repetition time [s].
    t1s
        Of each region [s].

    Returns
    -------
    effect
        Of the field over the volume of each region.
    """
    field = model(places)
    corrected = saturation_change(field, *protocol, REFERENCE_T1)
    factors, slopes, changes = np.empty((3, len(weights)))
    for k, (weight, t1) in enumerate(zip(weights, t1s, strict=True)):
        used = weight > 0
        here = field[used]
        own = saturation_change(here, *protocol, t1)
        factors[k] = np.average(own / corrected[used], weights=weight[used])
        changes[k] = np.average(own, weights=weight[used])
        more, less = (
            saturation_change(here * (1 + sign * STEP), *protocol, t1) for sign in (1, -1)
        )
        slopes[k] = np.average((more - less) / (2 * STEP * own), weights=weight[used])
    return TransmitEffect(factors, slopes, model.region_means(places, weights), changes)
