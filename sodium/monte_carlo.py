"""Regional concentrations where everything uncertain is drawn at once, and how they go together.

All inputs are standardized: a row of numbers of mean 0 and SD 1 stands for one state of the world.
Random rows give draws (JCGM 101); unit steps along each input give sensitivities (JCGM 100), from
the very same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy import stats

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.calibrate import (
    Calibration,
    VialSignal,
    choose_line,
    line_through_origin,
    magnetization_factor,
    scatter_ratio,
    york_line,
)
from sodiumprep.sodium.concentration import CONSTANT_NAMES, Protocol
from sodiumprep.sodium.pvc.assessment import AssessedSignals
from sodiumprep.sodium.reciprocity import with_correlation
from sodiumprep.sodium.relaxation import DECAYING
from sodiumprep.sodium.signal import Relaxation, spoiled_saturation
from sodiumprep.sodium.smooth_field import SmoothField
from sodiumprep.sodium.transmit import SCALE_UNCERTAINTY

KINDS = ("apparent", "corrected")
FEWEST_DRAWS = 100  # 2.5 % of fewer are no more than two
LARGEST_DIFFERENCE = 0.2  # of two uncertainties, beside the sampling error
ENDS = (2.5, 97.5)  # percent

Row = tuple[str, str]  # method and kind


@dataclass(frozen=True)
class LogField:
    """What is uncertain about the field of a coil.

    Parameters
    ----------
    names
        Of regions and vials.
    covariance
        Of the logarithm of the field's mean over each, shape (n, n).
    level
        The field there, shape (n,): flip angle over nominal; ones for a receive field.
    """

    names: Sequence[str]
    covariance: Floats
    level: Floats

    @classmethod
    def of_receive(
        cls, model: SmoothField, names: Sequence[str], basis: Floats, against: Floats
    ) -> LogField:
        """Return that of a receive field.

        Parameters
        ----------
        model
            The field.
        names, basis
            Of regions and vials; mean of the basis functions over each, shape (n, m).
        against
            Mean of the basis over what calibrates, shape (m,): what is common to all cancels
            against that, and is left out.
        """
        apart = basis - against
        return cls(names, apart @ model.covariance @ apart.T, np.ones(len(names)))

    def correlated_with(self, u_transmit: Floats) -> LogField:
        """Return that of a receive field which is the transmit field as well (reciprocity).

        Parameters
        ----------
        u_transmit
            Relative standard uncertainty of what the flip angle makes of each signal, shape (n,);
            both terms are raised to their plain sum as in
            :func:`~sodiumprep.sodium.reciprocity.with_correlation`.
        """
        own = np.sqrt(np.diag(self.covariance))
        raised = with_correlation(own, u_transmit) / np.where(own > 0, own, 1.0)
        return replace(self, covariance=self.covariance * np.outer(raised, raised))

    @classmethod
    def of_transmit(cls, model: SmoothField, names: Sequence[str], basis: Floats) -> LogField:
        """Return that of a transmit field, with the uncertainty of its scale.

        Parameters
        ----------
        model
            The field.
        names, basis
            Of regions and vials; mean of the basis functions over each, shape (n, m).
        """
        covariance = basis @ model.covariance @ basis.T + SCALE_UNCERTAINTY**2
        return cls(names, covariance, np.exp(basis @ model.coefficients))


@dataclass(frozen=True)
class VialReference:
    """Vials that the calibration line was fitted to.

    Parameters
    ----------
    vials
        As they were measured.
    """

    vials: Sequence[VialSignal]

    @property
    def names(self) -> list[str]:
        """Of the vials."""
        return [vial.name for vial in self.vials]

    @property
    def sizes(self) -> dict[str, int]:
        """How many standardized inputs the reference has, by name."""
        return {"vials": 2 * len(self.vials), "temperature": 1}


@dataclass(frozen=True)
class FluidReference:
    """A fluid of the body of which a concentration is assumed.

    Parameters
    ----------
    name
        Of its region.
    assumed
        Concentration and standard uncertainty [mmol/L].
    method
        Whose signal of it calibrates.
    """

    name: str
    assumed: tuple[float, float]
    method: str

    @property
    def names(self) -> list[str]:
        """Of the region."""
        return [self.name]

    @property
    def sizes(self) -> dict[str, int]:
        """How many standardized inputs the reference has, by name."""
        return {"assumed": 1}


@dataclass(frozen=True)
class LineReference:
    """A reference of which no more is known than the covariance of its line."""

    @property
    def names(self) -> list[str]:
        """Of no region."""
        return []

    @property
    def sizes(self) -> dict[str, int]:
        """How many standardized inputs the reference has, by name."""
        return {"line": 2}


Reference = VialReference | FluidReference | LineReference


@dataclass(frozen=True)
class UncertainTable:
    """Everything that the concentrations of one image rest on, with its uncertainty.

    Parameters
    ----------
    names
        Of all regions that have a signal, n of them.
    rows
        Names of those that stand in the table, r of them.
    signals
        By method; nan where a change or a covariance is not known.
    factors
        Relaxation factor of each row by method and kind, shape (r,).
    constants
        Relaxation constants of rows and reference, by name; empty where no row is corrected.
        Vials of the same constants err together.
    protocol
        Timing.
    lines
        Calibration by kind.
    reference
        What they rest on.
    receive, transmit
        Fields of the coils; None where a field is not known.
    """

    names: Sequence[str]
    rows: Sequence[str]
    signals: Mapping[str, AssessedSignals]
    factors: Mapping[Row, Floats]
    constants: Mapping[str, Relaxation]
    protocol: Protocol
    lines: Mapping[str, Calibration]
    reference: Reference
    receive: LogField | None = None
    transmit: LogField | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """How many standardized inputs there are of each sort."""
        every = self.signals.values()
        return {
            "noise": len(self.names),
            "kernel": 1,
            "position": max(len(s.registration_changes) for s in every),
            "borders": max(len(s.border_changes) for s in every),
            "relaxation": len(CONSTANT_NAMES) * len(set(self._materials.values())),
            "receive": 0 if self.receive is None else len(self.receive.names),
            "transmit": 0 if self.transmit is None else len(self.transmit.names),
            **self.reference.sizes,
        }

    def drawn(self, draws: int, rng: np.random.Generator) -> DrawnTable:
        """Draw all inputs and recompute every row, the choice of the noise floor included.

        Parameters
        ----------
        draws
            How many.
        rng
            Source of randomness.

        Returns
        -------
        table
            Draws whose calibration would have been refused (a slope not above 0) are left out.

        Raises
        ------
        ValueError
            If there are fewer than 100, or most of them are refused.

        References
        ----------
        Joint Committee for Guides in Metrology 2008, JCGM 101
        """
        if draws < FEWEST_DRAWS:
            raise ValueError(f"{draws} draws; at least {FEWEST_DRAWS} are needed")
        inputs = rng.standard_normal((draws, sum(self.sizes.values())))
        rows, slopes = self._evaluated(inputs, choose_floor=True)
        good = np.all(slopes > 0, axis=0)
        if good.sum() < draws / 2:
            raise ValueError(
                f"{draws - int(good.sum())} of {draws} draws make no calibration line that rises: "
                "the references are too uncertain; use other ones"
            )
        kept = {row: values[good] for row, values in rows.items()}
        return DrawnTable(kept, draws - int(good.sum()))

    def covariance(self, row: Row) -> Floats:
        """Return the covariance of the regions of a row by propagation of all inputs.

        Parameters
        ----------
        row
            Method and kind.

        Returns
        -------
        covariance
            Shape (r, r) [mmol^2/L^2].

        References
        ----------
        Joint Committee for Guides in Metrology 2008, JCGM 100, section 5.2
        """
        steps = np.eye(sum(self.sizes.values()))
        rows, _ = self._evaluated(np.concatenate([steps, -steps]), choose_floor=False)
        more, less = np.split(rows[row], 2)
        sensitivity = (more - less) / 2
        return np.asarray(sensitivity.T @ sensitivity)

    def _evaluated(
        self, inputs: Floats, *, choose_floor: bool
    ) -> tuple[dict[Row, Floats], Floats]:
        """Return concentrations by row, shape (draws, r), and slopes, shape (kinds, draws)."""
        ends = np.cumsum([0, *self.sizes.values()])
        z = {n: inputs[:, a:b] for n, (a, b) in zip(self.sizes, pairwise(ends), strict=True)}
        receive = np.exp(_spread(self.receive, z["receive"], self._used))
        factors = self._factor_ratios(z)
        signals = {name: self._signals(s, z) for name, s in self.signals.items()}
        lines = {
            kind: self._line(kind, z, signals, factors[kind], receive, choose_floor=choose_floor)
            for kind in self.lines
        }
        at = [list(self.names).index(name) for name in self.rows]
        own = slice(0, len(self.rows))  # rows come first among what is used
        table = {}
        for (method, kind), nominal in self.factors.items():
            slopes, intercepts = lines[kind].T
            seen = signals[method][:, at] * receive[:, own] - intercepts[:, None]
            with np.errstate(divide="ignore"):  # such draws are left out
                table[method, kind] = seen / (slopes[:, None] * nominal * factors[kind][:, own])
        return table, np.stack([line[:, 0] for line in lines.values()])

    @cached_property
    def _used(self) -> list[str]:
        """Names of rows, then of references that are none of them."""
        return list(dict.fromkeys([*self.rows, *self.reference.names]))

    @cached_property
    def _materials(self) -> dict[str, int]:
        """Which constants err together, by names of what is used."""
        of_vials = self.reference.names if isinstance(self.reference, VialReference) else []
        known = [name for name in self._used if name in self.constants]
        keys = [self.constants[name] if name in of_vials else name for name in known]
        order = list(dict.fromkeys(keys))
        return {name: order.index(key) for name, key in zip(known, keys, strict=True)}

    def _factor_ratios(self, z: Mapping[str, Floats]) -> dict[str, Floats]:
        """Return drawn over nominal factors of all that is used, shape (draws, used), by kind."""
        level = np.ones(len(self._used))
        if self.transmit is not None:
            level = np.array([
                self.transmit.level[list(self.transmit.names).index(name)] for name in self._used
            ])  # fmt: skip
        field = level * np.exp(_spread(self.transmit, z["transmit"], self._used))
        ratios = {kind: np.ones_like(field) for kind in KINDS}
        for k, name in enumerate(self._used):
            if name not in self.constants:
                continue
            first = len(CONSTANT_NAMES) * self._materials[name]
            own = z["relaxation"][:, first : first + len(CONSTANT_NAMES)]
            stated = self.constants[name]
            nominal = _left(level[k], dict(zip(CONSTANT_NAMES, _values(stated), strict=True)),
                            self.protocol)  # fmt: skip
            known = {n: getattr(stated, n) for n in CONSTANT_NAMES}
            ratios["apparent"][:, k] = _left(field[:, k], known, self.protocol) / nominal
            moved = _left(field[:, k], drawn_constants(stated, own), self.protocol)
            ratios["corrected"][:, k] = moved / nominal
        return ratios

    def _signals(self, known: AssessedSignals, z: Mapping[str, Floats]) -> Floats:
        """Return the drawn signals of all regions by one method, shape (draws, n)."""
        total = known.values + z["noise"] @ _root(np.nan_to_num(known.covariance))
        for name, changes in (
            ("kernel", known.kernel_change[None]),
            ("position", known.registration_changes),
            ("borders", known.border_changes),
        ):
            total = total + z[name][:, : len(changes)] @ np.nan_to_num(changes)
        kernels = [CONSTANT_NAMES.index(name) for name in DECAYING]
        for region, changes in zip(self.names, known.decay_changes, strict=False):
            if region in self._materials:
                first = len(CONSTANT_NAMES) * self._materials[region]
                moved = z["relaxation"][:, [first + k for k in kernels]]
                total = total + moved @ np.nan_to_num(changes)
        return np.asarray(total)

    def _line(
        self,
        kind: str,
        z: Mapping[str, Floats],
        signals: Mapping[str, Floats],
        factors: Floats,
        receive: Floats,
        *,
        choose_floor: bool,
    ) -> Floats:
        """Return drawn slopes and intercepts, shape (draws, 2)."""
        line, reference = self.lines[kind], self.reference
        at = [self._used.index(name) for name in reference.names]
        if isinstance(reference, VialReference):
            points = _drawn_vials(reference.vials, line, kind, z)
            points[:, 0] *= factors[:, at]
            points[:, 1] *= receive[:, at]
            u = _stated(reference.vials, kind)[2:]
            floor = None if choose_floor else line.intercept != 0
            return _refitted(points, (u[0], u[1]), floor)
        if isinstance(reference, LineReference):
            return np.array([line.slope, line.intercept]) + z["line"] @ _root(line.covariance)
        k = list(self.names).index(reference.name)
        value, u_value = reference.assumed
        assumed = _positive(value, u_value, z["assumed"][:, 0]) / value
        seen = signals[reference.method][:, k] / self.signals[reference.method].values[k]
        slopes = line.slope * seen * receive[:, at[0]] / (assumed * factors[:, at[0]])
        return np.stack([slopes, np.zeros_like(slopes)], axis=1)


@dataclass(frozen=True)
class DrawnTable:
    """Drawn concentrations of a table.

    Parameters
    ----------
    rows
        By method and kind, shape (draws, r) [mmol/L].
    refused
        Draws that were left out.
    """

    rows: Mapping[Row, Floats]
    refused: int

    @property
    def sampling_error(self) -> float:
        """Relative standard error of an uncertainty from so many draws."""
        kept = len(next(iter(self.rows.values())))
        return float(1 / np.sqrt(2 * (kept - 1)))

    def summary(self, row: Row) -> dict[str, Floats]:
        """Return ``uncertainty``, ``ci_low``, ``ci_high`` of a row, each of shape (r,) [mmol/L].

        The ends of the interval are those between which 95 % of further draws are expected.
        """
        values = self.rows[row]
        low, high = np.percentile(values, ENDS, axis=0, method="weibull")
        return {"uncertainty": np.std(values, axis=0, ddof=1), "ci_low": low, "ci_high": high}

    def differences(self, row: Row, uncertainty: Floats) -> Floats:
        """Return drawn over propagated uncertainties, less 1.

        Parameters
        ----------
        row
            Method and kind.
        uncertainty
            Propagated, shape (r,) [mmol/L].

        Returns
        -------
        differences
            Shape (r,); nan where the propagated one is 0 or not known.
        """
        known = np.where(uncertainty > 0, uncertainty, np.nan)
        return np.asarray(self.summary(row)["uncertainty"] / known - 1)

    def covariance(self, row: Row) -> Floats:
        """Return the covariance of the regions of a row, shape (r, r) [mmol^2/L^2]."""
        return np.atleast_2d(np.cov(self.rows[row], rowvar=False))

    @property
    def tolerance(self) -> float:
        """Relative difference of uncertainties beyond which propagation does not hold."""
        return LARGEST_DIFFERENCE + 2 * self.sampling_error


def correlation(covariance: Floats) -> Floats:
    """Return the correlation that belongs to a covariance.

    Parameters
    ----------
    covariance
        Shape (n, n).

    Returns
    -------
    correlation
        Shape (n, n); nan where a variance is 0.

    Examples
    --------
    >>> correlation(np.array([[4.0, 3.0], [3.0, 9.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    sd = np.sqrt(np.diag(covariance))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(covariance / np.outer(sd, sd))


def drawn_constants(stated: Relaxation, z: Floats) -> dict[str, Floats]:
    """Draw the relaxation constants of a tissue.

    Mean and SD are what is stated. Times are lognormal: never 0 or below, and normal where the
    uncertainty is small. The short fraction follows a beta distribution; where that cannot be, as
    at 0 or 1, it is normal and cut at 0 and 1.

    Parameters
    ----------
    stated
        Constants with their uncertainties.
    z
        Standardized, one column for each of ``CONSTANT_NAMES``, shape (draws, 4).

    Returns
    -------
    constants
        By name, shape (draws,).
    """
    uncertain = [getattr(stated, f"u_{name}") for name in CONSTANT_NAMES]
    drawn = {
        name: _positive(value, u, own)
        for name, value, u, own in zip(
            CONSTANT_NAMES, _values(stated), uncertain, z.T, strict=True
        )
        if name != "short_fraction"
    }
    share, u = stated.short_fraction, stated.u_short_fraction
    drawn["short_fraction"] = _in_unit(share, u, z[:, CONSTANT_NAMES.index("short_fraction")])
    return drawn


def _values(stated: Relaxation) -> list[float]:
    return [getattr(stated, name) for name in CONSTANT_NAMES]


def _positive(mean: float, u: float, z: Floats) -> Floats:
    """Return lognormal numbers of a mean and an SD."""
    spread = np.sqrt(np.log1p((u / mean) ** 2))
    return np.asarray(mean * np.exp(spread * z - spread**2 / 2))


def _in_unit(mean: float, u: float, z: Floats) -> Floats:
    """Return numbers in [0, 1] of a mean and an SD."""
    if u == 0:
        return np.full_like(z, mean)
    size = mean * (1 - mean) / u**2 - 1
    if size <= 0:
        return np.clip(mean + u * z, 0, 1)
    beta = stats.beta(mean * size, (1 - mean) * size)
    return np.asarray(beta.ppf(stats.norm.cdf(z)))


def _left(field: Floats, constants: Mapping[str, Floats | float], protocol: Protocol) -> Floats:
    """Return the signal at the echo time per equilibrium magnetization."""
    angle, share = field * protocol.flip_angle, constants["short_fraction"]
    short, long = (
        np.exp(-protocol.echo_time / np.asarray(constants[name]))
        for name in ("t2_short", "t2_long")
    )
    saturation = spoiled_saturation(angle, protocol.repetition_time, constants["t1"])
    return np.asarray(saturation * (share * short + (1 - share) * long))


def _root(covariance: Floats) -> Floats:
    """Return the symmetric root: methods that see one noise are given alike draws of it."""
    levels, directions = np.linalg.eigh((covariance + covariance.T) / 2)
    return np.asarray((directions * np.sqrt(np.maximum(levels, 0))) @ directions.T)


def _spread(field: LogField | None, z: Floats, names: Sequence[str]) -> Floats:
    """Return drawn errors of the logarithm of a field, shape (draws, names)."""
    if field is None:
        return np.zeros((len(z), len(names)))
    at = [list(field.names).index(name) for name in names]
    return np.asarray((z @ _root(field.covariance))[:, at])


def _stated(vials: Sequence[VialSignal], kind: str) -> tuple[Floats, Floats, Floats, Floats]:
    """Return x, y, u_x, u_y of the line through vials, each of shape (vials,)."""
    scale = np.array([
        magnetization_factor(v.temperature)[0] * (v.factor if kind == "corrected" else 1.0)
        for v in vials
    ])  # fmt: skip
    known, u_known = np.array([(v.concentration, v.u_concentration) for v in vials]).T
    seen, u_seen = np.array([(v.signal, v.u_signal) for v in vials]).T
    return known * scale, seen, u_known * scale, u_seen


def _drawn_vials(
    vials: Sequence[VialSignal], line: Calibration, kind: str, z: Mapping[str, Floats]
) -> Floats:
    """Return drawn x and y of vials, shape (draws, 2, vials).

    Where vials scatter about their line by more than is stated of them, they are drawn so.
    """
    x, y, u_x, u_y = _stated(vials, kind)
    n = len(vials)
    freedom = n - (1 if line.intercept == 0 else 2)
    residuals = y - line.slope * x - line.intercept
    widened = np.sqrt(scatter_ratio(residuals, u_y, line.slope * u_x, freedom))
    unknown = np.array([magnetization_factor(v.temperature)[1] for v in vials])
    warmth = 1 + z["temperature"] * unknown  # common to all vials whose temperature is not known
    moved_x = np.maximum(x + widened * u_x * z["vials"][:, :n], 0) * warmth
    return np.stack([moved_x, y + widened * u_y * z["vials"][:, n:]], axis=1)


def _refitted(points: Floats, u: tuple[Floats, Floats], floor: bool | None) -> Floats:
    """Return the line through each set of points, shape (draws, 2).

    ``floor`` tells whether there is a noise floor; None lets each set tell.
    """
    x, y = points[:, 0], points[:, 1]
    if floor is None:
        return choose_line(x, y, *u)[0]
    if floor:
        return york_line(x, y, *u)[0]
    slopes, _ = line_through_origin(x, y, *u)
    return np.stack([slopes, np.zeros_like(slopes)], axis=1)
