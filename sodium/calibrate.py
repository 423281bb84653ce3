"""From signal to concentration: the line through vials, or through a fluid of the body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import distance_transform_edt

from sodiumprep.sodium.acquisition import Floats

# mmol/L, value and standard uncertainty: assumptions
REFERENCE_CSF = (145.0, 5.0)
REFERENCE_VITREOUS = (140.0, 10.0)
FLUIDS = {"csf": REFERENCE_CSF, "vitreous": REFERENCE_VITREOUS}  # by name of the reference
BODY_TEMPERATURE = 310.0  # K
UNKNOWN_TEMPERATURE = 0.03  # relative standard uncertainty where a vial's temperature is not given
MINIMUM_R2 = 0.95
CORE_DEPTH = 0.8  # PSF widths between a voxel and the wall of its vial
FEWEST_CORE_VOXELS = 4
# what good vials may depart from their line by, beyond what is stated of them: assumptions
MODEL_FLOOR = 0.03  # relative: receive profile, wall, filling
BLANK_NOISE = 0.5  # voxel noise SDs that water without sodium might show
BLANK_OFFSET = 0.005  # of the brightest vial, the same from ringing and streaks
OUTLYING = 4.0  # standard deviations from the line of the others
UNRIVALLED = 9.0  # by which chi squared must grow if another vial is left out instead
DISAGREEING = 1e-3  # p value of all vials on one line under which they disagree


@dataclass(frozen=True)
class Calibration:
    """The line ``signal = intercept + slope * concentration``.

    Parameters
    ----------
    slope
        Signal per mmol/L.
    intercept
        Signal; 0 where it does not differ from 0 by two standard errors.
    covariance
        Of (slope, intercept), shape (2, 2).
    r_squared
        Of the fit; None for a single reference.
    residuals
        Signal minus line, one per reference, be it left out of the fit.
    intercept_test
        p value of the hypothesis that the intercept is 0; None where it cannot be tested.
    """

    slope: float
    intercept: float
    covariance: Floats
    r_squared: float | None
    residuals: Floats
    intercept_test: float | None

    def concentration(self, signal: Floats) -> Floats:
        """Return concentrations [mmol/L] for signals of any shape."""
        return np.asarray((signal - self.intercept) / self.slope)


def york_line(x: Floats, y: Floats, u_x: Floats, u_y: Floats) -> tuple[Floats, Floats]:
    """Fit straight lines with uncertainties in both variables.

    Parameters
    ----------
    x, y
        Shape (..., n): a line for each set of n points.
    u_x, u_y
        Standard uncertainties, shape (n,).

    Returns
    -------
    line
        Slope and intercept, shape (..., 2).
    covariance
        Shape (..., 2, 2).

    References
    ----------
    York et al. 2004, doi:10.1119/1.1632486

    Examples
    --------
    >>> x = np.array([0.0, 1, 2, 3])
    >>> line, _ = york_line(x, 2 * x + 1, np.full(4, 0.1), np.full(4, 0.1))
    >>> line.round(6).tolist()
    [2.0, 1.0]
    """
    u, v = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    slope = _total(u * v) / _total(u * u)
    for _ in range(50):
        weight = 1 / (u_y**2 + slope**2 * u_x**2)
        mean_x, mean_y = (_total(weight * each) / _total(weight) for each in (x, y))
        u, v = x - mean_x, y - mean_y
        beta = weight * (u * u_y**2 + slope * v * u_x**2)
        previous, slope = slope, _total(weight * beta * v) / _total(weight * beta * u)
        if np.all(abs(slope - previous) <= 1e-12 * abs(slope)):
            break
    adjusted = mean_x + beta
    centre = _total(weight * adjusted) / _total(weight)
    variance = 1 / _total(weight * (adjusted - centre) ** 2)
    corner = 1 / _total(weight) + centre**2 * variance
    shared = -centre * variance
    covariance = np.concatenate([variance, shared, shared, corner], axis=-1)
    line = np.concatenate([slope, mean_y - slope * mean_x], axis=-1)
    return line, covariance.reshape(*line.shape, 2)


def _total(values: Floats) -> Floats:
    return np.asarray(values.sum(axis=-1, keepdims=True))


def line_through_origin(x: Floats, y: Floats, u_x: Floats, u_y: Floats) -> tuple[Floats, Floats]:
    """Fit lines through the origin with uncertainties in both variables.

    Parameters
    ----------
    x, y
        Shape (..., n): a line for each set of n points.
    u_x, u_y
        Standard uncertainties, shape (n,).

    Returns
    -------
    slope
        Shape (...).
    variance
        Of the slope, same shape.

    Examples
    --------
    >>> fitted = line_through_origin(np.ones(4), 3 * np.ones(4), np.zeros(4), np.ones(4))
    >>> [float(number) for number in fitted]
    [3.0, 0.25]
    """
    slope = _total(x * y) / _total(x * x)
    for _ in range(50):
        weight = 1 / (u_y**2 + slope**2 * u_x**2)
        previous, slope = slope, _total(weight * x * y) / _total(weight * x * x)
        if np.all(abs(slope - previous) <= 1e-12 * abs(slope)):
            break
    return slope[..., 0], 1 / np.sum(weight * x * x, axis=-1)


def require_distinct(concentrations: Floats) -> None:
    """Refuse vials that cannot define a line.

    Parameters
    ----------
    concentrations
        Shape (n,) [mmol/L].

    Raises
    ------
    ValueError
        If there are fewer than two distinct levels.
    """
    levels = np.unique(np.round(concentrations, 6))
    if len(levels) < 2:
        raise ValueError(
            f"{len(levels)} distinct vial concentration ({levels.tolist()} mmol/L); at least 2 "
            "are needed for a calibration line"
        )


def fit_vials(
    concentrations: Floats,
    signals: Floats,
    u_concentrations: Floats,
    u_signals: Floats,
    force: bool = False,
) -> Calibration:
    """Fit the calibration line through vials.

    The intercept is tested as a noise floor: where it is not above 0 at 5 %, the line goes
    through the origin, since a floor cannot be negative. Where the scatter about the line exceeds
    the stated uncertainties, the covariance is scaled up by it.

    Parameters
    ----------
    concentrations, u_concentrations
        Shape (n,) [mmol/L], for the corrected line times each vial's relaxation factor.
    signals, u_signals
        Shape (n,).
    force
        Whether a poor line is taken as well.

    Returns
    -------
    calibration
        The line.

    Raises
    ------
    ValueError
        If the slope is not positive, or R squared is under 0.95 and nothing forces it.

    References
    ----------
    York et al. 2004, doi:10.1119/1.1632486
    """
    line, _ = york_line(concentrations, signals, u_concentrations, u_signals)
    fitted = line[0] * concentrations + line[1]
    r_squared = 1 - np.sum((signals - fitted) ** 2) / np.sum((signals - signals.mean()) ** 2)
    _refuse_bad_line(float(line[0]), float(r_squared), force)
    line, covariance, p_value = choose_line(concentrations, signals, u_concentrations, u_signals)
    residuals = signals - line[0] * concentrations - line[1]
    return Calibration(
        float(line[0]), float(line[1]), covariance, float(r_squared), residuals, float(p_value)
    )


def choose_line(x: Floats, y: Floats, u_x: Floats, u_y: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit lines, through the origin where the intercept is not above 0 at 5 %.

    Parameters
    ----------
    x, y
        Shape (..., n): a line for each set of n points.
    u_x, u_y
        Standard uncertainties, shape (n,).

    Returns
    -------
    line
        Slope and intercept, shape (..., 2).
    covariance
        Shape (..., 2, 2), scaled up by the scatter about the line.
    p_value
        Of the hypothesis that the intercept is 0, shape (...).
    """
    line, covariance = york_line(x, y, u_x, u_y)
    freedom = x.shape[-1] - 2
    slope, intercept = line[..., :1], line[..., 1:]
    scatter = scatter_ratio(y - slope * x - intercept, u_y, slope * u_x, freedom)
    covariance = covariance * scatter[..., None, None]
    p_value = _two_sided(line[..., 1] / np.sqrt(covariance[..., 1, 1]), freedom)
    no_floor = (line[..., 1] <= 0) | (p_value >= 0.05)
    own, variance = line_through_origin(x, y, u_x, u_y)
    variance = variance * scatter_ratio(
        y - own[..., None] * x, u_y, own[..., None] * u_x, freedom + 1
    )
    straight = np.stack([own, np.zeros_like(own)], axis=-1)
    alone = variance[..., None, None] * np.diag([1.0, 0.0])
    line = np.where(no_floor[..., None], straight, line)
    return line, np.where(no_floor[..., None, None], alone, covariance), p_value


def _refuse_bad_line(slope: float, r_squared: float, force: bool) -> None:
    if not slope > 0:
        raise ValueError(
            f"the slope of signal on concentration is {slope:.4g}; it must be positive"
        )
    if r_squared < MINIMUM_R2 and not force:
        raise ValueError(
            f"R squared of the vials' line is {r_squared:.3f}; at least {MINIMUM_R2} (--force "
            "calibrates by it all the same)"
        )


def scatter_ratio(residuals: Floats, u_y: Floats, u_from_x: Floats, freedom: int) -> Floats:
    """Return the variance about lines over what is stated of it, at least 1.

    Parameters
    ----------
    residuals
        Shape (..., n).
    u_y, u_from_x
        Standard uncertainties that both variables give to them, shape (..., n).
    freedom
        Points less numbers that were fitted; 1 is returned where there is none.

    Returns
    -------
    ratio
        Shape (...).
    """
    total = np.sum(residuals**2 / (u_y**2 + u_from_x**2), axis=-1)
    return np.maximum(total / freedom, 1.0) if freedom > 0 else np.ones_like(total)


def _two_sided(t: Floats, freedom: int) -> Floats:
    tail = stats.t.sf(np.abs(t), freedom) if freedom > 0 else stats.norm.sf(np.abs(t))
    return np.asarray(2 * tail)


@dataclass(frozen=True)
class Verdict:
    """Whether vials agree, and which one does not belong to the others.

    Parameters
    ----------
    outlier
        Index of the vial that is to be left out; None where there is none, or none can be told.
    departure
        Its signal over that of the line of the others, less 1.
    deviations
        The same in standard deviations.
    disagree
        Whether vials disagree that are all used, since it cannot be told which one is wrong.
    """

    outlier: int | None = None
    departure: float = 0.0
    deviations: float = 0.0
    disagree: bool = False


def find_outlier(
    concentrations: Floats,
    signals: Floats,
    u_concentrations: Floats,
    u_signals: Floats,
    noise_sd: float,
) -> Verdict:
    """Find the one vial that does not lie on the line of the others.

    Each vial in turn is left out of the line. One is an outlier if it departs from the line of
    the others by four standard deviations, these widened by the scatter of the others, and if
    leaving out any other one instead explains the vials clearly worse. The uncertainties are the
    stated ones and 3 % of model error. Noise bias is taken out of images beforehand, so a blank
    near zero counts as one more point: two vials cannot tell which of them is wrong; three can
    where two of them lie on a line near the origin and no noise floor under all three explains
    them as well; from four on the others agree among themselves.

    Parameters
    ----------
    concentrations, u_concentrations
        Shape (n,) [mmol/L], times each vial's relaxation factor.
    signals, u_signals
        Shape (n,).
    noise_sd
        Of one voxel, in units of signal.

    Returns
    -------
    verdict
        What was found.

    Examples
    --------
    >>> levels = np.array([20.0, 50, 80, 120])
    >>> stated = levels * np.array([1.0, 1.4, 1.0, 1.0])
    >>> find_outlier(stated, 2 * levels, 0.01 * stated, np.full(4, 0.5), 4.0).outlier
    1
    """
    n = len(signals)
    blank = float(np.hypot(BLANK_NOISE * noise_sd, BLANK_OFFSET * np.max(signals)))
    points = (
        np.append(concentrations, 0.0),
        np.append(signals, 0.0),
        np.append(np.hypot(u_concentrations, MODEL_FLOOR * concentrations), 0.0),
        np.append(u_signals, blank),
    )
    everything = _Others.of(points, np.ones(n + 1, bool))
    disagree = bool(stats.chi2.sf(everything.chi_squared, n - 1) < DISAGREEING)
    if n < 3:
        return Verdict(disagree=disagree)
    without = [_Others.of(points, np.arange(n + 1) != k) for k in range(n)]
    first, second = np.argsort([others.chi_squared for others in without])[:2]
    scatter = max(1.0, without[first].chi_squared / (n - 2))
    expected, error = without[first].departure(*(column[first] for column in points))
    deviations = abs(signals[first] - expected) / (error * np.sqrt(scatter))
    rivals = [without[second]]
    if n == 3:
        floor = _Others.of(points, np.arange(n + 1) != n)
        rivals += [floor] if floor.line[1] > 0 else []
    margin = min(rival.chi_squared for rival in rivals) - without[first].chi_squared
    rivalled = margin < UNRIVALLED * scatter
    levels = np.unique(np.round(np.delete(concentrations, first), 6))
    if deviations < OUTLYING or rivalled or len(levels) < 2 or expected <= 0:
        return Verdict(disagree=disagree)
    return Verdict(int(first), float(signals[first] / expected - 1), float(deviations))


@dataclass(frozen=True)
class _Others:
    """A line through some points, its covariance and its misfit."""

    line: Floats
    covariance: Floats
    chi_squared: float

    @classmethod
    def of(cls, points: tuple[Floats, ...], kept: NDArray[np.bool_]) -> _Others:
        x, y, u_x, u_y = (column[kept] for column in points)
        line, covariance = york_line(x, y, u_x, u_y)
        variance = u_y**2 + (line[0] * u_x) ** 2
        misfit = np.sum((y - line[0] * x - line[1]) ** 2 / variance)
        return cls(line, covariance, float(misfit))

    def departure(self, x: float, y: float, u_x: float, u_y: float) -> tuple[float, float]:
        """Return the signal expected at a point, and the standard error of its departure."""
        place = np.array([x, 1.0])
        variance = u_y**2 + (self.line[0] * u_x) ** 2 + place @ self.covariance @ place
        return float(place @ self.line), float(np.sqrt(variance))


def single_reference(
    signal: float, u_signal: float, reference: tuple[float, float]
) -> Calibration:
    """Return the line through the origin and one reference.

    Parameters
    ----------
    signal, u_signal
        Signal of the reference and its standard uncertainty; nan where the noise is not known.
    reference
        Concentration and its standard uncertainty [mmol/L], for the corrected line times the
        relaxation factor.

    Returns
    -------
    calibration
        The line.

    Raises
    ------
    ValueError
        If the signal is not positive.
    """
    if not signal > 0:
        raise ValueError(f"the reference signal is {signal:.4g}; it must be positive")
    slope = signal / reference[0]
    noise = 0.0 if np.isnan(u_signal) else u_signal / signal
    relative = noise**2 + (reference[1] / reference[0]) ** 2
    covariance = np.diag([slope**2 * relative, 0.0])
    return Calibration(slope, 0.0, covariance, None, np.zeros(1), None)


def magnetization_factor(temperature: float | None) -> tuple[float, float]:
    """Return the magnetization of a vial relative to the same concentration in the body.

    Parameters
    ----------
    temperature
        Of the vial [degrees Celsius], or None.

    Returns
    -------
    factor
        By Curie's law; 1 where the temperature is not known.
    uncertainty
        Relative standard uncertainty.

    Raises
    ------
    ValueError
        If the temperature is not one of a liquid.

    Examples
    --------
    >>> round(magnetization_factor(21.0)[0], 3)
    1.054
    """
    if temperature is None:
        return 1.0, UNKNOWN_TEMPERATURE
    if not -5 < temperature < 60:
        raise ValueError(f"a vial at {temperature} degrees Celsius; accepted: -5 to 60")
    return BODY_TEMPERATURE / (temperature + 273.15), 0.0


@dataclass(frozen=True)
class CoreSignal:
    """What the core of a vial shows.

    Parameters
    ----------
    signal
        Mean over the core.
    u_signal
        Standard error, at least the scatter over the core / sqrt(n).
    n_voxels
        Of the core.
    cut
        Whether the vial reaches the border of the field of view, which may cut it.
    """

    signal: float
    u_signal: float
    n_voxels: int
    cut: bool


def core_signal(
    image: Floats, blurred: Floats, fraction: Floats, noise_sd: Floats, depth_voxels: float
) -> CoreSignal:
    """Return the signal of a vial from the voxels that its wall does not reach.

    Voxels count that lie deeper than ``depth_voxels`` under the wall; each is divided by what
    blurring leaves of the vial there. A vial too thin for that gives its deepest voxels. The
    border of the field of view counts as a wall: what lies beyond is not known, and the blurred
    fraction holds nothing of it.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz).
    blurred
        The vial's fraction, blurred by its kernel, same shape.
    fraction
        The vial's fraction, same shape; its edge may be coarse.
    noise_sd
        Of ``image``, same shape.
    depth_voxels
        Depth [voxels].

    Returns
    -------
    core
        Signal, its uncertainty, and whether the field of view cuts the vial.

    Raises
    ------
    ValueError
        If the vial is empty or outside the field of view.
    """
    inside = fraction > 0.5
    if not inside.any():
        raise ValueError("no voxel of the vial lies inside the sodium field of view")
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1]
    deepest = np.sort(depth[inside])[::-1]
    limit = min(depth_voxels, deepest[min(FEWEST_CORE_VOXELS, len(deepest)) - 1])
    core = inside & (depth >= limit)
    values = image[core] / blurred[core]
    n = int(core.sum())
    error = max(float(np.std(values)), float(np.mean(noise_sd[core] / blurred[core])))
    inner = np.zeros(inside.shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    return CoreSignal(
        float(values.mean()), float(error / np.sqrt(n)), n, bool((inside & ~inner).any())
    )


@dataclass(frozen=True)
class VialSignal:
    """A vial: what was measured of it and what is known of it.

    Parameters
    ----------
    signal, u_signal
        Mean over the core and its standard uncertainty.
    n_voxels
        Of the core.
    factor
        Relaxation factor.
    name
        Of the vial.
    concentration, u_concentration
        [mmol/L].
    temperature
        [degrees Celsius], or None.
    u_factor
        Relative standard uncertainty of the relaxation factor by the relaxation constants.
    material
        Vials of one material have the same constants, which err together.
    """

    signal: float
    u_signal: float
    n_voxels: int
    factor: float
    name: str
    concentration: float
    u_concentration: float
    temperature: float | None = None
    u_factor: float = 0.0
    material: int = 0

    @property
    def noise_sd(self) -> float:
        """Noise SD of one voxel, at most."""
        return self.u_signal * float(np.sqrt(self.n_voxels))


def judge_vials(vials: Sequence[VialSignal]) -> Verdict:
    """Return which vial does not belong to the others, by the corrected line.

    Parameters
    ----------
    vials
        Any number.

    Returns
    -------
    verdict
        As of :func:`find_outlier`.
    """
    known = _VialPoints.of(vials)
    scale = known.curie[:, 0] * known.factors
    return find_outlier(
        known.levels * scale,
        known.signals,
        known.u_levels * scale,
        known.u_signals,
        float(np.median([v.noise_sd for v in vials])),
    )


def verdict_text(verdict: Verdict, vials: Sequence[VialSignal]) -> str:
    """Return what must be said of vials, or an empty text.

    Parameters
    ----------
    verdict
        Of :func:`judge_vials`.
    vials
        The same.

    Examples
    --------
    >>> verdict_text(Verdict(disagree=True), [])
    'the vials disagree by more than their uncertainties, and which of 0 is wrong cannot be told'
    """
    if verdict.outlier is not None:
        vial = vials[verdict.outlier]
        return (
            f"vial '{vial.name}' ({vial.concentration:g} mmol/L) is an outlier and left out: its "
            f"signal departs by {100 * verdict.departure:+.0f} % from the line of the others "
            f"({verdict.deviations:.0f} standard deviations); is its SodiumConcentration right?"
        )
    if verdict.disagree:
        return (
            "the vials disagree by more than their uncertainties, and which of "
            f"{len(vials)} is wrong cannot be told"
        )
    return ""


@dataclass(frozen=True)
class _VialPoints:
    """Columns of vials; ``curie`` is magnetization and its relative uncertainty."""

    levels: Floats
    u_levels: Floats
    signals: Floats
    u_signals: Floats
    factors: Floats
    curie: Floats

    @classmethod
    def of(cls, vials: Sequence[VialSignal]) -> _VialPoints:
        names = ("concentration", "u_concentration", "signal", "u_signal", "factor")
        columns = [np.array([getattr(v, name) for v in vials]) for name in names]
        columns.append(np.array([magnetization_factor(v.temperature) for v in vials]))
        return cls(*columns)


def vial_lines(vials: Sequence[VialSignal], force: bool = False) -> dict[str, Calibration]:
    """Return the apparent and the relaxation-corrected line through vials.

    Both are corrected for the magnetization at the vial's temperature. An unknown temperature
    is common to all vials, so its uncertainty is added to the slope; uncertain relaxation
    constants are common to the vials of a material. An outlier (:func:`judge_vials`) is left out
    of both.

    Parameters
    ----------
    vials
        At least two levels of concentration.
    force
        Whether a poor line is taken as well.

    Returns
    -------
    lines
        "apparent": signal on concentration. "corrected": signal on concentration times the
        vial's relaxation factor.

    Raises
    ------
    ValueError
        If no vial has a signal, or as :func:`require_distinct` and :func:`fit_vials`.
    """
    known = _VialPoints.of(vials)
    require_distinct(known.levels)
    if not known.signals.max() > 0:
        raise ValueError(
            f"the brightest vial has a signal of {known.signals.max():.4g}; it must be positive: "
            "do the vials lie where their labels are?"
        )
    outlier = judge_vials(vials).outlier
    used = np.array([k != outlier for k in range(len(vials))])
    lines = {}
    kept = [vial for vial, taken in zip(vials, used, strict=True) if taken]
    for name, factors in (("apparent", np.ones(len(vials))), ("corrected", known.factors)):
        scale = known.curie[:, 0] * factors
        columns = (known.levels * scale, known.signals, known.u_levels * scale, known.u_signals)
        x, y, u_x, u_y = (column[used] for column in columns)
        line = fit_vials(x, y, u_x, u_y, force)
        shared = np.diag([(line.slope * float(known.curie[:, 1].max())) ** 2, 0.0])
        if name == "corrected":
            shared += _by_materials(line, x, u_x, u_y, kept)
        left = known.signals - line.slope * columns[0] - line.intercept
        lines[name] = replace(line, covariance=line.covariance + shared, residuals=left)
    return lines


def _by_materials(
    line: Calibration, known: Floats, u_known: Floats, u_signals: Floats,
    vials: Sequence[VialSignal],
) -> Floats:  # fmt: skip
    """Return the covariance of a line by relaxation constants that vials of a material share."""
    sd = np.hypot(u_signals, line.slope * u_known)
    weight = 1 / np.where(sd > 0, sd, sd.max() or 1.0)
    columns = [known, np.ones(len(known))] if line.covariance[1, 1] > 0 else [known]
    design = np.stack(columns, axis=1) * weight[:, None]
    total = np.zeros((2, 2))
    for material in {vial.material for vial in vials}:
        u = np.array([v.u_factor if v.material == material else 0.0 for v in vials])
        change, *_ = np.linalg.lstsq(design, line.slope * known * u * weight)
        moved = np.append(change, 0.0)[:2]
        total += np.outer(moved, moved)
    return total


def fluid_lines(
    signal: float, u_signal: float, factor: float, assumed: tuple[float, float]
) -> dict[str, Calibration]:
    """Return the apparent and the relaxation-corrected line through a fluid of the body.

    Parameters
    ----------
    signal, u_signal
        Signal of the pure fluid and its standard uncertainty.
    factor
        Relaxation factor of the fluid.
    assumed
        Concentration of the fluid and its standard uncertainty [mmol/L].

    Returns
    -------
    lines
        "apparent" and "corrected", by the assumed concentration.

    Raises
    ------
    ValueError
        If the signal is not positive.
    """
    value, u = assumed
    return {
        "apparent": single_reference(signal, u_signal, assumed),
        "corrected": single_reference(signal, u_signal, (value * factor, u * factor)),
    }
