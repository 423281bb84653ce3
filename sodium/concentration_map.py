"""Concentration of every voxel, and how uncertain it is, term by term."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.calibrate import Calibration
from sodiumprep.sodium.concentration import (
    Protocol,
    Reference,
    relative_u_relaxation,
    u_calibration,
)
from sodiumprep.sodium.reciprocity import with_correlation
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.smooth_field import SmoothField, grid_positions
from sodiumprep.sodium.transmit import SCALE_UNCERTAINTY, TransmitEffect

Grid = tuple[tuple[int, ...], Floats]  # shape, and affine [mm]
FEWEST_FRACTION = 0.05  # of known regions in a voxel, else it counts as outside the brain
LINE = "the calibration line"
TERMS = ("u_noise", "u_calibration", "u_relaxation", "u_receive", "u_b1", "u_pvc",
         "u_segmentation", "u_registration")  # fmt: skip
VOXEL, REFERENCE, MIX = "the voxel", "the reference", "the mix of tissues in the voxel"
APPARENT_TERMS = {"u_noise": VOXEL, "u_calibration": LINE}  # of the map where no tissue is known


@dataclass(frozen=True)
class BrainRegions:
    """The tissues and lesions that a voxel may hold.

    Parameters
    ----------
    blurred
        Blurred fractions, shape (n, nx, ny, nz).
    signals
        Corrected regional signals, shape (n,).
    tissues
        Relaxation constants, n of them.
    transmit
        What the flip angle leaves in the signal of each, shape (n,); ones where it is not known.
    """

    blurred: Floats
    signals: Floats
    tissues: Sequence[Relaxation]
    transmit: Floats

    def factors(self, protocol: Protocol) -> Floats:
        """Return what the signal of each tissue is over that of full magnetization."""
        return np.array([protocol.factor(t) for t in self.tissues]) * self.transmit


@dataclass(frozen=True)
class Mixture:
    """What each voxel is made of, by the signal that each region is expected to give there.

    Parameters
    ----------
    given
        Signals of the regions that are not negative, shape (n,).
    blurred
        Blurred fractions, shape (n, nx, ny, nz).
    factors
        Relaxation factors, shape (n,).
    outside
        Factor where no region gives signal.
    factor
        Of each voxel, shape (nx, ny, nz), float32: it turns the mixed signal into the mixed
        concentration exactly where the regional signals are right, ``1 / F = sum_i p_i / f_i``
        with the signal shares ``p_i``.
    concentration
        Sum of what the regions hold in each voxel, in units of signal, same shape; 0 outside.
    """

    given: Floats
    blurred: Floats
    factors: Floats
    outside: float
    factor: Floats
    concentration: Floats

    @classmethod
    def of(cls, signals: Floats, blurred: Floats, factors: Floats, outside: float) -> Mixture:
        """Mix regions.

        Parameters
        ----------
        signals
            Regional signals, shape (n,).
        blurred
            Blurred fractions of the same regions, shape (n, nx, ny, nz).
        factors
            Relaxation factors, shape (n,).
        outside
            Factor where no region gives signal.

        Returns
        -------
        mixture
            Of every voxel.

        Examples
        --------
        >>> mixed = np.full((2, 1, 1, 1), 0.5)
        >>> two = Mixture.of(np.array([40.0, 120.0]), mixed, np.array([0.8, 0.8]), 0.5)
        >>> round(float(two.factor[0, 0, 0]), 6), [float(q[0, 0, 0]) for q in two.shares()]
        (0.8, [0.25, 0.75])
        """
        given = np.clip(signals, 0, None)
        signal, held, covered = (np.zeros(blurred.shape[1:], np.float32) for _ in range(3))
        for value, f, fraction in zip(given.tolist(), factors.tolist(), blurred, strict=True):
            part = value * np.clip(fraction, 0, None)
            signal += part
            held += part / f
            covered += fraction
        inside = (covered > FEWEST_FRACTION) & (held > 0)
        held[~inside] = 0
        factor = np.full(inside.shape, outside, np.float32)
        np.divide(signal, held, out=factor, where=inside)
        return cls(given, blurred, factors, outside, factor, held)

    def shares(self) -> Iterator[Floats]:
        """Yield the share of each region in the concentration of the voxels, (nx, ny, nz).

        Outside, where the factor is the mean of the first two regions, they are those of that
        mean: how much of the logarithm of the factor each region's own makes.
        """
        inside = self.concentration > 0
        first = self.factors[:2].sum()
        rows = zip(self.given.tolist(), self.factors.tolist(), self.blurred, strict=True)
        for k, (value, f, fraction) in enumerate(rows):
            share = np.full(inside.shape, f / first if k < 2 else 0.0, np.float32)
            held = np.clip(fraction, 0, None) * (value / f)
            yield np.divide(held, self.concentration, out=share, where=inside, casting="same_kind")

    def mean(self, values: Floats) -> Floats:
        """Return the mean of regional values, shape (n,), over what a voxel holds."""
        total = np.zeros(self.factor.shape, np.float32)
        for share, value in zip(self.shares(), values.tolist(), strict=True):
            total += value * share
        return total

    def relative_variance(self, relative: Floats, reference: int | None) -> Floats:
        """Return the relative variance that errors of the regions' factors give to voxels.

        Parameters
        ----------
        relative
            Relative standard uncertainty of each region's factor, shape (n,): all voxels of a
            tissue err together, tissues independently.
        reference
            Region whose own factor is in the calibration's slope: its error cancels as far as a
            voxel holds that region.

        Returns
        -------
        variance
            Shape (nx, ny, nz).
        """
        total = np.zeros(self.factor.shape, np.float32)
        for k, (share, u) in enumerate(zip(self.shares(), relative.tolist(), strict=True)):
            total += u**2 * (share - (k == reference)) ** 2
        return total


def expected_factor(signals: Floats, blurred: Floats, factors: Floats, outside: float) -> Floats:
    """Return the relaxation factor of each voxel by the signal that each tissue gives there.

    Parameters
    ----------
    signals, blurred, factors, outside
        As :meth:`Mixture.of` takes them.

    Returns
    -------
    factor
        Shape (nx, ny, nz), float32.
    """
    return Mixture.of(signals, blurred, factors, outside).factor


def _as_image(values: Floats, shape: tuple[int, ...]) -> Floats:
    return values.astype(np.float32).reshape(shape)


@dataclass(frozen=True)
class FieldErrors:
    """How uncertain the logarithm of a coil's field is.

    Parameters
    ----------
    own
        Variance in each voxel, shape (nx, ny, nz).
    shared
        Covariance with the mean of what the reference sees of it, same shape.
    of_reference
        Variance of the latter.
    slopes
        Relative change of each region's signal for a relative change of the field, shape (n,);
        None where it is 1 for all (receive).
    slope_of_reference
        The same of the reference; it is contained in ``shared`` and ``of_reference``.
    scale
        Relative standard uncertainty of the whole field.
    """

    own: Floats
    shared: Floats
    of_reference: float
    slopes: Floats | None = None
    slope_of_reference: float = 1.0
    scale: float = 0.0

    @classmethod
    def of_receive(cls, model: SmoothField, grid: Grid, reference: Floats) -> FieldErrors:
        """Return the errors of a receive field.

        Parameters
        ----------
        model
            The fitted field.
        grid
            Shape and affine [mm] of the image.
        reference
            Mean of the basis over the reference, shape (m,).
        """
        shape, affine = grid
        own, shared, known = model.log_covariance(grid_positions(shape, affine), reference)
        return cls(_as_image(own, shape), _as_image(shared, shape), known)

    @classmethod
    def of_transmit(
        cls, effect: TransmitEffect, model: SmoothField, grid: Grid, rows: Sequence[int],
        reference: Floats,
    ) -> FieldErrors:  # fmt: skip
        """Return the errors of a transmit field.

        Parameters
        ----------
        effect
            Of the field on all regions.
        model
            The field.
        grid
            Shape and affine [mm] of the image.
        rows
            Of ``effect``: the regions of the map, n of them.
        reference
            Weights of all regions that the calibration rests on, of sum 1.
        """
        shape, affine = grid
        towards = reference @ (effect.slopes[:, None] * effect.basis)
        own, shared, known = model.log_covariance(grid_positions(shape, affine), towards)
        return cls(
            _as_image(own, shape), _as_image(shared, shape), known, effect.slopes[list(rows)],
            float(reference @ effect.slopes), SCALE_UNCERTAINTY,
        )  # fmt: skip

    def relative_variance(self, mixture: Mixture) -> Floats:
        """Return the relative variance of concentrations, shape (nx, ny, nz)."""
        slope = np.float32(1) if self.slopes is None else mixture.mean(self.slopes)
        local = slope**2 * self.own - 2 * slope * self.shared + self.of_reference
        whole = (slope - self.slope_of_reference) * self.scale
        return np.asarray(np.clip(local, 0, None) + whole**2)


@dataclass(frozen=True)
class MapErrors:
    """What is uncertain about a map beside noise, calibration line and relaxation constants.

    Parameters
    ----------
    reference
        Region that is the calibration's reference, or None (vials).
    receive, transmit
        Errors of the coils' fields, None where they are not known.
    shift, border
        Uncertainty of the position and of the borders of regions along each axis, shape (3,)
        [voxels]; None where a voxel's own signal rests on them, or they are not known.
    one_field
        Whether both errors are those of one field (reciprocity).
    """

    reference: Reference | None = None
    receive: FieldErrors | None = None
    transmit: FieldErrors | None = None
    shift: Floats | None = None
    border: Floats | None = None
    one_field: bool = False


@dataclass(frozen=True)
class Concentrations:
    """Concentration maps of one image.

    Parameters
    ----------
    apparent, corrected, uncertainty
        Shape (nx, ny, nz) [mmol/L]; the uncertainty is that of ``corrected``.
    factor
        Relaxation factor of each voxel, same shape.
    signal
        The image that they were made from, less the intercept of the corrected line.
    terms
        The terms of the uncertainty, as the table calls them, and what each is of.
    """

    apparent: Floats
    corrected: Floats
    uncertainty: Floats
    factor: Floats
    signal: Floats
    terms: Mapping[str, str] = field(default_factory=dict)

    def mean_factors(self, fractions: Floats) -> Floats:
        """Return the factor that turns each region's mean signal into its corrected mean.

        Parameters
        ----------
        fractions
            Shape (n, nx, ny, nz).

        Returns
        -------
        factors
            Shape (n,).
        """
        flat = fractions.reshape(len(fractions), -1).astype(np.float64)
        return np.asarray(
            flat @ self.signal.ravel() / (flat @ (self.signal / self.factor).ravel())
        )


@dataclass(frozen=True)
class MapUncertainty:
    """The uncertainty of a corrected map.

    Parameters
    ----------
    tissues
        Relaxation constants of the regions.
    protocol
        Timing.
    line
        Corrected calibration.
    mixture
        Of the regions in each voxel.
    errors
        All others.
    """

    tissues: Sequence[Relaxation]
    protocol: Protocol
    line: Calibration
    mixture: Mixture
    errors: MapErrors

    def terms(self, corrected: Floats, noise_sd: Floats) -> Iterator[tuple[str, str, Floats]]:
        """Yield the terms one by one.

        Parameters
        ----------
        corrected
            Concentration, shape (nx, ny, nz) [mmol/L].
        noise_sd
            Of the signal, same shape.

        Yields
        ------
        name, of, variance
            As the table calls it, what it is of, and its square, same shape [mmol^2/L^2].
        """
        gain = 1 / (float(self.line.slope) * self.mixture.factor)
        yield "u_noise", VOXEL, (noise_sd * gain) ** 2
        yield "u_calibration", LINE, self._calibration(corrected, gain)
        del gain
        square = corrected**2
        of = "the tissues in the voxel"
        of += "" if self.errors.reference is None else f", {REFERENCE}"
        yield "u_relaxation", of, square * self._relaxation()
        against = "the field in the voxel against the reference"
        yield from ((name, against, square * own) for name, own in self._coils())
        for name, of, relative in self._places():
            yield name, of, square * relative

    def _coils(self) -> Iterator[tuple[str, Floats]]:
        """Yield relative variances by the fields of the coils, as far as they are known."""
        receive, transmit = self.errors.receive, self.errors.transmit
        if receive is not None:
            relative = receive.relative_variance(self.mixture)
            if self.errors.one_field and transmit is not None:
                shared = np.sqrt(transmit.relative_variance(self.mixture))
                relative = with_correlation(np.sqrt(relative), shared) ** 2
            yield "u_receive", relative
            del relative  # maps are large
        if transmit is not None:
            yield "u_b1", transmit.relative_variance(self.mixture)

    def _calibration(self, corrected: Floats, gain: Floats) -> Floats:
        slope, covariance = float(self.line.slope), self.line.covariance.tolist()
        by_slope = corrected / slope
        total = by_slope**2 * covariance[0][0] + gain**2 * covariance[1][1]
        return np.clip(total + 2 * by_slope * gain * covariance[0][1], 0, None)

    def _relaxation(self) -> Floats:
        known = self.errors.reference
        relative = np.array([relative_u_relaxation(t, self.protocol) for t in self.tissues])
        total = self.mixture.relative_variance(relative, None if known is None else known.index)
        if known is not None and known.relaxation is not None:
            total += relative_u_relaxation(known.relaxation, self.protocol) ** 2
        if known is not None and known.decay_changes is not None:
            total += float(np.sum(known.decay_changes**2))
        return total

    def _places(self) -> Iterator[tuple[str, str, Floats | float]]:
        """Yield relative variances by kernel, borders and position.

        A voxel's signal is what it is, wherever the anatomy lies: only the reference's signal and
        the expected mix of tissues, and so the relaxation factor, change.
        """
        known, errors = self.errors.reference, self.errors
        none = np.zeros(0)
        changes = (none, none, none) if known is None else (
            np.array([known.kernel_change]), known.border_changes, known.registration_changes,
        )  # fmt: skip
        moves = (None, errors.border, errors.shift)
        names = ("u_pvc", "u_segmentation", "u_registration")
        for name, of_reference, move in zip(names, changes, moves, strict=True):
            shared = float(np.sum(np.square(of_reference))) if len(of_reference) else np.nan
            mixed = np.nan if move is None else self._mix_change(move)
            of = [text for text, part in ((REFERENCE, shared), (MIX, mixed))
                  if np.isfinite(part).any()]  # fmt: skip
            if of:
                yield name, ", ".join(of), np.nan_to_num(shared) + np.nan_to_num(mixed)

    def _mix_change(self, move: Floats) -> Floats:
        """Return the relative variance of the factor where the mix lies elsewhere by ``move``."""
        log = np.log(self.mixture.factor)
        total = np.zeros_like(log)
        for axis, step in enumerate(move.tolist()):
            if log.shape[axis] > 1:
                total += (step * np.gradient(log, axis=axis)) ** 2
        return total


def map_concentration(
    image: Floats,
    noise_sd: Floats,
    regions: BrainRegions,
    protocol: Protocol,
    lines: Mapping[str, Calibration],
    errors: MapErrors | None = None,
) -> Concentrations:
    """Return apparent and corrected concentration of every voxel.

    Parameters
    ----------
    image, noise_sd
        Signal and its noise SD, shape (nx, ny, nz).
    regions
        Tissues and lesions, GM and WM first.
    protocol
        Timing.
    lines
        "apparent" and "corrected" calibration.
    errors
        What is uncertain beside noise, calibration line and relaxation constants.

    Returns
    -------
    concentrations
        Maps. Outside the brain the factor is the mean of grey and white matter. The
        uncertainty combines the terms of :class:`MapUncertainty`.

    References
    ----------
    Guide to the expression of uncertainty in measurement, JCGM 100:2008
    """
    factors = regions.factors(protocol)
    outside = float(factors[:2].mean())
    mixture = Mixture.of(regions.signals, regions.blurred, factors, outside)
    line = lines["corrected"]
    signal = image - line.intercept
    corrected = (signal / (float(line.slope) * mixture.factor)).astype(np.float32)
    uncertain = MapUncertainty(regions.tissues, protocol, line, mixture, errors or MapErrors())
    squares, told = np.zeros(image.shape, np.float32), {}
    for name, of, variance in uncertain.terms(corrected, noise_sd):
        squares += variance
        told[name] = of
    apparent = lines["apparent"].concentration(image).astype(np.float32)
    return Concentrations(apparent, corrected, np.sqrt(squares), mixture.factor, signal, told)


def map_apparent(image: Floats, noise_sd: Floats, line: Calibration) -> tuple[Floats, Floats]:
    """Return apparent concentration and its uncertainty where no tissue is known.

    Parameters
    ----------
    image, noise_sd
        Signal and its noise SD, any shape.
    line
        The apparent calibration.

    Returns
    -------
    apparent
        Same shape [mmol/L], float32.
    uncertainty
        Of noise and calibration, same shape [mmol/L], float32.

    Examples
    --------
    >>> line = Calibration(2.0, 0.0, np.zeros((2, 2)), None, np.zeros(1), None)
    >>> [part.tolist() for part in map_apparent(np.array([80.0]), np.array([4.0]), line)]
    [[40.0], [2.0]]
    """
    shared = u_calibration(image, np.ones(1), line)
    uncertainty = np.hypot(noise_sd / line.slope, shared)
    return line.concentration(image).astype(np.float32), uncertainty.astype(np.float32)
