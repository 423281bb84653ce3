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
    """Fit a straight line with uncertainties in both variables.

    Parameters
    ----------
    x, y
        Shape (n,).
    u_x, u_y
        Standard uncertainties, shape (n,).

    Returns
    -------
    line
        Slope and intercept, shape (2,).
    covariance
        Shape (2, 2).

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
    slope = float(np.polyfit(x, y, 1)[0])
    for _ in range(50):
        weight = 1 / (u_y**2 + slope**2 * u_x**2)
        mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
        u, v = x - mean_x, y - mean_y
        beta = weight * (u * u_y**2 + slope * v * u_x**2)
        previous, slope = slope, float(np.sum(weight * beta * v) / np.sum(weight * beta * u))
        if abs(slope - previous) <= 1e-12 * abs(slope):
            break
    adjusted = mean_x + beta
    centre = np.average(adjusted, weights=weight)
    variance = 1 / np.sum(weight * (adjusted - centre) ** 2)
    corner = 1 / np.sum(weight) + centre**2 * variance
    covariance = np.array([[variance, -centre * variance], [-centre * variance, corner]])
    return np.array([slope, mean_y - slope * mean_x]), covariance


def line_through_origin(x: Floats, y: Floats, u_x: Floats, u_y: Floats) -> tuple[float, float]:
    """Fit a line through the origin with uncertainties in both variables.

    Parameters
    ----------
    x, y
        Shape (n,).
    u_x, u_y
        Standard uncertainties, shape (n,).

    Returns
    -------
    slope
        Slope.
    variance
        Of the slope.

    Examples
    --------
    >>> line_through_origin(np.ones(4), 3 * np.ones(4), np.zeros(4), np.ones(4))
    (3.0, 0.25)
    """
    slope = float(np.sum(x * y) / np.sum(x * x))
    for _ in range(50):
        weight = 1 / (u_y**2 + slope**2 * u_x**2)
        previous, slope = slope, float(np.sum(weight * x * y) / np.sum(weight * x * x))
        if abs(slope - previous) <= 1e-12 * abs(slope):
            break
    return slope, float(1 / np.sum(weight * x * x))


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
    line, covariance = york_line(concentrations, signals, u_concentrations, u_signals)
    fitted = line[0] * concentrations + line[1]
    r_squared = 1 - np.sum((signals - fitted) ** 2) / np.sum((signals - signals.mean()) ** 2)
    _refuse_bad_line(float(line[0]), float(r_squared), force)
    freedom = len(signals) - 2
    covariance = covariance * _scatter(
        signals - fitted, u_signals, line[0] * u_concentrations, freedom
    )
    p_value = _two_sided(line[1] / np.sqrt(covariance[1, 1]), freedom)
    if line[1] <= 0 or p_value >= 0.05:
        slope, variance = line_through_origin(concentrations, signals, u_concentrations, u_signals)
        residuals = signals - slope * concentrations
        variance *= _scatter(residuals, u_signals, slope * u_concentrations, freedom + 1)
        line, covariance = np.array([slope, 0.0]), np.diag([variance, 0.0])
    residuals = signals - line[0] * concentrations - line[1]
    return Calibration(
        float(line[0]), float(line[1]), covariance, float(r_squared), residuals, p_value
    )


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


def _scatter(residuals: Floats, u_y: Floats, u_from_x: Floats, freedom: int) -> float:
    """Return the scatter over the stated uncertainties as a variance ratio, at least 1."""
    if freedom < 1:
        return 1.0
    return max(1.0, float(np.sum(residuals**2 / (u_y**2 + u_from_x**2)) / freedom))


def _two_sided(t: float, freedom: int) -> float:
    distribution = stats.t(freedom) if freedom > 0 else stats.norm()
    return float(2 * distribution.sf(abs(t)))


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
    """

    signal: float
    u_signal: float
    n_voxels: int
    factor: float
    name: str
    concentration: float
    u_concentration: float
    temperature: float | None = None

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
        columns = (np.array([getattr(v, name) for v in vials]) for name in names)
        curie = np.array([magnetization_factor(v.temperature) for v in vials])
        return cls(*columns, curie=curie)


def vial_lines(vials: Sequence[VialSignal], force: bool = False) -> dict[str, Calibration]:
    """Return the apparent and the relaxation-corrected line through vials.

    Both are corrected for the magnetization at the vial's temperature. An unknown temperature
    is common to all vials, so its uncertainty is added to the slope. An outlier
    (:func:`judge_vials`) is left out of both.

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
    for name, factors in (("apparent", np.ones(len(vials))), ("corrected", known.factors)):
        scale = known.curie[:, 0] * factors
        columns = (known.levels * scale, known.signals, known.u_levels * scale, known.u_signals)
        line = fit_vials(*(column[used] for column in columns), force)
        shared = np.diag([(line.slope * float(known.curie[:, 1].max())) ** 2, 0.0])
        left = known.signals - line.slope * columns[0] - line.intercept
        lines[name] = replace(line, covariance=line.covariance + shared, residuals=left)
    return lines


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
