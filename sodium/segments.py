"""Signal that changes along the readout, voxel by voxel: decay and off-resonance in segments.

The change of a voxel at any time is a sum of its changes at a few instants, the segments. The
coefficients are real and the same for all voxels, so that a normal operator keeps real spectra;
each sample takes part in two segments only, so that no segment transforms samples that are not
its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Complexes, Floats, Numbers
from sodiumprep.sodium.interpolation import Interpolator, local_least_squares
from sodiumprep.sodium.signal import Relaxation, biexponential_decay

N_RATES = 9  # decay rates between the slowest and the fastest voxel that the fit looks at
N_FREQUENCIES = 33  # frequencies between the lowest and the highest
COMPRESSION = 0.1  # of the interpolation's error: what leaving out modes may add
FLOAT32_NOISE = 1e-6
WORTHWHILE = 0.85  # share of the segments above which each is a mode of its own


@dataclass(frozen=True)
class Evolution:
    """How the signal of each voxel changes along the readout.

    Parameters
    ----------
    times
        Time of each sample after the instant at which the decay counts as 1, shape (n,) [s]; that
        is the first sample of the first echo, as a rule.
    relaxations
        One tissue for the whole image, or one for each of ``fractions``; empty for no decay of
        tissues.
    fractions
        Share of each tissue in the voxels' signal, shape (tissues, nx, ny, nz), or None.
    decay_rate
        1/T2* of the voxels, shape (nx, ny, nz) [1/s], or None.
    off_resonance
        Shape (nx, ny, nz) [Hz], positive where the field is higher, or None.
    echo_time
        From the excitation to the instant of ``times`` 0 [s]: off-resonance acts since then.

    Raises
    ------
    ValueError
        If tissues and fractions do not go together, a rate is negative or a map is not finite.
    """

    times: Floats
    relaxations: tuple[Relaxation, ...] = ()
    fractions: Floats | None = None
    decay_rate: Floats | None = None
    off_resonance: Floats | None = None
    echo_time: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        n_tissues = (
            min(1, len(self.relaxations)) if self.fractions is None else len(self.fractions)
        )
        if len(self.relaxations) != n_tissues:
            raise ValueError(f"{len(self.relaxations)} relaxations came for {n_tissues} tissues")
        for name in ("fractions", "decay_rate", "off_resonance"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"{name} has {np.sum(~np.isfinite(values))} values not finite")
        if self.decay_rate is not None and self.decay_rate.min() < 0:
            raise ValueError(f"a decay rate is {self.decay_rate.min():g} 1/s; it must be >= 0")

    @property
    def varies_in_space(self) -> bool:
        """Whether voxels differ; if not, :meth:`common` says all."""
        maps = (self.fractions, self.decay_rate, self.off_resonance)
        return any(each is not None for each in maps)

    @property
    def _centre_frequency(self) -> float:
        if self.off_resonance is None:
            return 0.0
        return float(self.off_resonance.max() + self.off_resonance.min()) / 2

    @property
    def common(self) -> Numbers:
        """Change that all voxels share: one tissue's decay, and the middle frequency; (n,)."""
        alone = self.fractions is None and bool(self.relaxations)
        decay = biexponential_decay(self.times, self.relaxations[0]) if alone else np.ones(
            len(self.times)
        )  # fmt: skip
        if not self._centre_frequency:
            return decay
        since_excitation = self.times + self.echo_time
        return decay * np.exp(-2j * np.pi * self._centre_frequency * since_excitation)

    def voxel_map(self, time: float) -> Numbers:
        """Return what the voxels' signals are multiplied by, but for :attr:`common`.

        Parameters
        ----------
        time
            [s].

        Returns
        -------
        map
            Shape (nx, ny, nz), complex64 with off-resonance, else float32.
        """
        factor: Numbers = np.ones((1, 1, 1), np.float32)
        if self.fractions is not None:
            decays = [biexponential_decay(time, each) for each in self.relaxations]
            factor = np.tensordot(np.asarray(decays, np.float32), self.fractions, 1)
        if self.decay_rate is not None:
            factor = factor * np.exp(-self.decay_rate * time)
        if self.off_resonance is None:
            return factor.astype(np.float32)
        turns = (self.off_resonance - self._centre_frequency) * (time + self.echo_time)
        return (factor * np.exp(-2j * np.pi * turns)).astype(np.complex64)

    def signals(self) -> Complexes:
        """Return the courses of kinds of voxels that span all that occur, but for common.

        Returns
        -------
        signals
            Shape (kinds, n), of amplitude 1 at time 0.
        """
        decays: Numbers = np.ones((1, len(self.times)))
        if self.fractions is not None:
            decays = np.stack([biexponential_decay(self.times, each) for each in self.relaxations])
        if self.decay_rate is not None:
            rates = np.linspace(self.decay_rate.min(), self.decay_rate.max(), N_RATES)
            decays = _products(decays, np.exp(-np.outer(rates, self.times)))
        if self.off_resonance is None:
            return decays.astype(np.complex128)
        half = float(self.off_resonance.max()) - self._centre_frequency
        frequencies = np.linspace(-half, half, N_FREQUENCIES)
        turns = np.exp(-2j * np.pi * np.outer(frequencies, self.times))
        return _products(decays, turns).astype(np.complex128)


def _products(one: Numbers, other: Numbers) -> Numbers:
    return np.asarray((one[:, None] * other[None]).reshape(-1, one.shape[1]))


@dataclass(frozen=True)
class Segments:
    """An evolution as ``common[t] * sum_l coefficients[l, t] sum_p basis[l, p] modes[p, voxel]``.

    Parameters
    ----------
    interpolator
        Real coefficients, shape (segments, n), each column zero but for neighbouring segments.
    common
        Shape (n,), float32 or complex64.
    basis
        Real, shape (segments, modes).
    modes
        Shape (modes, nx, ny, nz), float32 or complex64. Voxels that differ little need fewer
        modes than segments.
    error
        Largest error of the change of any voxel, whose amplitude starts at 1.
    """

    interpolator: Interpolator
    common: Numbers
    basis: Floats
    modes: Numbers
    error: float

    @property
    def maps(self) -> Numbers:
        """What the voxels are multiplied by in each segment, shape (segments, nx, ny, nz)."""
        return np.tensordot(self.basis.astype(np.float32), self.modes, 1)

    @property
    def supports(self) -> list[slice]:
        """Own samples of each segment."""
        used = [np.flatnonzero(row) for row in self.interpolator.coefficients]
        return [slice(int(each[0]), int(each[-1]) + 1) for each in used]

    def voxel_map(self, segment: int) -> Numbers:
        """Return what the voxels are multiplied by in one segment.

        Parameters
        ----------
        segment
            Index.

        Returns
        -------
        map
            Shape (nx, ny, nz).
        """
        return np.tensordot(self.basis[segment].astype(np.float32), self.modes, 1)

    def at(self, voxel: tuple[int, int, int]) -> Numbers:
        """Return how the signal of one voxel changes.

        Parameters
        ----------
        voxel
            Index.

        Returns
        -------
        change
            Shape (n,), as the segments have it.
        """
        sizes = self.modes.shape[1:]  # 1 where all voxels are the same
        place = [min(i, n - 1) for i, n in zip(voxel, sizes, strict=True)]
        at_nodes = self.basis @ self.modes[:, *place]
        return np.asarray(self.common * (at_nodes @ self.interpolator.coefficients))

    def course(self, segment: int, dtype: type[np.floating] = np.float32) -> Numbers:
        """Return what the own samples of a segment are multiplied by.

        Parameters
        ----------
        segment
            Index.
        dtype
            Precision.

        Returns
        -------
        course
            Of the length of the segment's support.
        """
        own = self.supports[segment]
        row = self.interpolator.coefficients[segment, own].astype(dtype)
        return np.asarray(row * self.common[own])


def time_segments(evolution: Evolution, n_segments: int = 8, n_neighbours: int = 2) -> Segments:
    """Split an evolution into segments of time.

    Parameters
    ----------
    evolution
        Of ``n`` samples.
    n_segments
        At most that many; closer together where signals change faster.
    n_neighbours
        Segments that each sample belongs to; more are more accurate and cost in proportion.

    Returns
    -------
    segments
        With the error of the fit.

    Raises
    ------
    ValueError
        If there are fewer samples than segments, or fewer segments than neighbours.

    References
    ----------
    Noll et al. 1991, doi:10.1109/42.108599; Fessler et al. 2005, doi:10.1109/TSP.2005.853152

    Examples
    --------
    >>> field = np.array([[[-15.0, 15.0]]])  # Hz
    >>> evolution = Evolution(np.linspace(0, 0.02, 200), off_resonance=field)
    >>> [bool(time_segments(evolution, n).error < 0.01) for n in (4, 8)]
    [False, True]
    """
    n_samples = len(evolution.times)
    if not evolution.varies_in_space:
        return _assemble(evolution, _uniform(n_samples))
    if not 1 <= n_neighbours <= n_segments <= n_samples:
        raise ValueError(
            f"{n_segments} segments were asked for; "
            f"{n_neighbours} to {n_samples} (the samples of a readout) are possible"
        )
    signals = evolution.signals()
    nodes = _instants(evolution.times, signals, n_segments)
    return _assemble(evolution, local_least_squares(signals, nodes, n_neighbours))


def adequate_segments(evolution: Evolution, error: float, most: int = 64) -> Segments:
    """Split an evolution into as few segments (a power of two) as keep the error small.

    Parameters
    ----------
    evolution
        Of ``n`` samples.
    error
        Of the change of any voxel, whose amplitude starts at 1.
    most
        Segments at most.

    Returns
    -------
    segments
        With an error of at most ``error``.

    Raises
    ------
    ValueError
        If that takes more segments than allowed or than there are samples.

    Examples
    --------
    >>> slow, fast = (
    ...     Evolution(np.linspace(0, 0.02, 200), off_resonance=np.array([[[-f, f]]]))
    ...     for f in (5.0, 50.0)
    ... )
    >>> [adequate_segments(each, 0.01).interpolator.nodes.size for each in (slow, fast)]
    [4, 32]
    """
    count = 4
    while count <= min(most, len(evolution.times)):
        segments = time_segments(evolution, count)
        if segments.error <= error:
            return segments
        count *= 2
    raise ValueError(
        f"the signal turns too far within a readout for {count // 2} time segments: is the field "
        "map in Hz, and free of outliers?"
    )


def _uniform(n_samples: int) -> Interpolator:
    return Interpolator(np.zeros(1, np.intp), np.ones((1, n_samples)), 0.0)


def _assemble(evolution: Evolution, interpolator: Interpolator) -> Segments:
    signals, nodes = evolution.signals(), interpolator.nodes
    basis = _compressing_basis(signals[:, nodes], interpolator.error * COMPRESSION)
    kept = signals[:, nodes] @ basis @ basis.T @ interpolator.coefficients
    common = evolution.common
    narrow = np.complex64 if np.iscomplexobj(common) else np.float32
    return Segments(
        interpolator,
        common.astype(narrow),
        basis,
        _modes(evolution, evolution.times[nodes], basis),
        float(np.abs(kept - signals).max()),
    )


def _compressing_basis(at_nodes: Complexes, tolerance: float) -> Floats:
    """Return orthonormal columns that hold the signals at the nodes to a tolerance."""
    parts = np.concatenate([at_nodes.real, at_nodes.imag])
    columns = np.linalg.svd(parts, full_matrices=False)[2].T
    for count in range(1, columns.shape[1] + 1):
        basis = columns[:, :count]
        if np.abs(parts @ basis @ basis.T - parts).max() <= max(tolerance, FLOAT32_NOISE):
            break
    return basis if count < WORTHWHILE * len(columns) else np.eye(len(columns))


def _modes(evolution: Evolution, times: Floats, basis: Floats) -> Numbers:
    modes: Numbers | None = None
    for time, row in zip(times, basis.astype(np.float32), strict=True):
        part = np.multiply.outer(row, evolution.voxel_map(float(time)))
        modes = part if modes is None else np.add(modes, part, out=modes)
    return np.asarray(modes)


def _instants(times: Floats, signals: Complexes, n_segments: int) -> NDArray[np.intp]:
    """Return samples that share out the curvature of the signals, first and last included."""
    if len(times) < 3:
        return np.arange(n_segments)
    curvature = np.gradient(np.gradient(signals, times, axis=1), times, axis=1)
    density = np.sqrt(np.sqrt(np.mean(np.abs(curvature) ** 2, axis=0)))
    density += max(0.1 * density.mean(), np.finfo(np.float64).tiny)
    place = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) * np.diff(times))])
    targets = np.linspace(0, place[-1], n_segments)
    return np.unique(np.abs(place[:, None] - targets).argmin(axis=0))
