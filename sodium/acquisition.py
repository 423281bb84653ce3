"""What was measured: k-space samples with their trajectory, timing and place in the scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Complexes = NDArray[np.complexfloating]
Numbers = NDArray[np.inexact]  # real or complex
Integers = NDArray[np.integer]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
SAME_TRAJECTORY = 1e-5  # of the largest component: float32 rounding of a converter
STANDS_OUT = 2.0  # power at the centre of k-space over that of noise, least of a working coil
COMMON_FIELDS = (0.55, 1.0, 1.5, 2.89, 3.0, 4.0, 4.7, 7.0, 9.4, 10.5, 11.7)  # T
PROTON_GAMMA_BAR = 42.577e6  # Hz/T, 1H gyromagnetic ratio over 2 pi
SODIUM_GAMMA_BAR = 11.262e6  # Hz/T, 23Na gyromagnetic ratio over 2 pi


@dataclass(frozen=True)
class Geometry:
    """Place of the field of view in the scanner.

    Parameters
    ----------
    position
        Centre of the field of view, shape (3,) [mm, LPS].
    directions
        Unit vectors of the read, phase and slice axes as rows, shape (3, 3) [LPS]; a left-handed
        set is allowed.
    fov
        Field of view along the three axes [m].
    matrix
        Voxels along the three axes.
    """

    position: Floats
    directions: Floats
    fov: tuple[float, float, float]
    matrix: tuple[int, int, int]

    @property
    def voxel_size(self) -> Floats:
        """Voxel edge along the three axes, shape (3,) [m]."""
        return np.asarray(self.fov) / np.asarray(self.matrix)

    @property
    def affine(self) -> Floats:
        """Voxel index to scanner position, shape (4, 4) [mm, RAS].

        Voxel ``i`` along an axis of ``N`` lies ``(i - N // 2) * FOV / N`` from the centre.

        Examples
        --------
        >>> geometry = Geometry(np.array([0, 0, 10.0]), np.eye(3), (0.2, 0.2, 0.2), (50, 50, 50))
        >>> geometry.affine @ [25, 25, 25, 1]
        array([ 0.,  0., 10.,  1.])
        """
        affine = np.eye(4)
        axes = np.asarray(self.directions, float).T * (self.voxel_size * 1e3)
        centre = np.asarray(self.matrix) // 2
        affine[:3, :3] = LPS_TO_RAS @ axes
        affine[:3, 3] = LPS_TO_RAS @ (np.asarray(self.position, float) - axes @ centre)
        return affine + 0.0


@dataclass(frozen=True)
class Acquisition:
    """One echo of a 3D non-Cartesian acquisition, averages already averaged.

    The samples follow ``s(k) = integral m(r) exp(-i 2 pi k.r) dr`` with ``r`` measured from the
    centre of the field of view along the axes of ``geometry``.

    Parameters
    ----------
    samples
        Shape (coils, readouts, n), complex; readouts in the order in which they were measured.
    trajectory
        Shape (readouts, n, 3) [1/m], axes (read, phase, slice).
    dwell_time
        Time between two samples [s].
    echo_time
        From the excitation to the first sample [s].
    repetition_time
        Between excitations [s].
    flip_angle
        Nominal [rad].
    field_strength
        Nominal [T].
    geometry
        Place of the field of view.
    noise
        Noise-only samples, shape (coils, m), or None. Their variance is that of a sample of
        ``samples``, averages considered, once it is scaled by the ratio of the dwell times.
    noise_dwell_time
        Time between two noise samples [s], or None.
    repetition
        Number of the repetition that each readout belongs to, shape (readouts,); None where
        there is one only.
    warnings
        What a user of these data must know.
    """

    samples: Complexes
    trajectory: Floats
    dwell_time: float
    echo_time: float
    repetition_time: float
    flip_angle: float
    field_strength: float
    geometry: Geometry
    noise: Complexes | None = None
    noise_dwell_time: float | None = None
    repetition: Integers | None = None
    warnings: tuple[str, ...] = ()

    @property
    def sample_times(self) -> Floats:
        """Time of each sample after the first one of its readout, shape (n,) [s]."""
        return np.arange(self.trajectory.shape[1]) * self.dwell_time

    @property
    def repetition_labels(self) -> Integers:
        """Repetition of each readout, zeros where there is one only, shape (readouts,)."""
        if self.repetition is not None:
            return self.repetition
        return np.zeros(self.trajectory.shape[0], np.int64)


def split_repetitions(acquisition: Acquisition) -> list[Acquisition]:
    """Take the repetitions of an acquisition apart.

    Parameters
    ----------
    acquisition
        Raw data.

    Returns
    -------
    repetitions
        One acquisition for each repetition, in ascending order of their numbers.

    Examples
    --------
    >>> grid = Geometry(np.zeros(3), np.eye(3), (0.2, 0.2, 0.2), (8, 8, 8))
    >>> both = Acquisition(np.ones((2, 6, 4), complex), np.ones((6, 4, 3)), 1e-5, 1e-3, 0.1, 1.5,
    ...                    3.0, grid, repetition=np.array([0, 0, 0, 1, 1, 1]))
    >>> [part.samples.shape for part in split_repetitions(both)]
    [(2, 3, 4), (2, 3, 4)]
    """
    labels = acquisition.repetition_labels
    return [
        replace(
            acquisition,
            samples=acquisition.samples[:, labels == label],
            trajectory=acquisition.trajectory[labels == label],
            repetition=None,
        )
        for label in np.unique(labels)
    ]


def average_repetitions(acquisition: Acquisition) -> Acquisition:
    """Average the repetitions of an acquisition, as complex numbers.

    Repetitions with trajectories of their own are no repeats of each other: their readouts stand
    side by side. So do those of which one was broken off; a warning tells.

    Parameters
    ----------
    acquisition
        Raw data.

    Returns
    -------
    averaged
        With one repetition; the noise samples are scaled with the averaging.

    Examples
    --------
    >>> grid = Geometry(np.zeros(3), np.eye(3), (0.2, 0.2, 0.2), (8, 8, 8))
    >>> samples = np.array([1.0, 3.0])[None, :, None] * np.ones((1, 2, 4), complex)
    >>> twice = Acquisition(samples, np.ones((2, 4, 3)), 1e-5, 1e-3, 0.1, 1.5, 3.0, grid,
    ...                     repetition=np.array([0, 1]))
    >>> average_repetitions(twice).samples[0, :, 0]
    array([2.+0.j])
    """
    labels = acquisition.repetition_labels
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    averaged = _mean_of(acquisition, members, "repetitions")
    return replace(averaged, repetition=None)


def average_averages(acquisition: Acquisition, average: Integers) -> Acquisition:
    """Average what was measured several times inside each repetition.

    Parameters
    ----------
    acquisition
        Raw data.
    average
        Number of the average that each readout belongs to, shape (readouts,).

    Returns
    -------
    averaged
        With the repetitions still apart. Averages with trajectories of their own, or of which one
        was broken off, stand side by side.

    Examples
    --------
    >>> grid = Geometry(np.zeros(3), np.eye(3), (0.2, 0.2, 0.2), (8, 8, 8))
    >>> once = Acquisition(np.ones((1, 4, 4), complex), np.ones((4, 4, 3)), 1e-5, 1e-3, 0.1, 1.5,
    ...                    3.0, grid, repetition=np.array([0, 0, 1, 1]))
    >>> average_averages(once, np.array([0, 1, 0, 1])).repetition
    array([0, 1])
    """
    labels = acquisition.repetition_labels
    by_repetition = [_members_of(average, labels == label) for label in np.unique(labels)]
    if len({len(members) for members in by_repetition}) > 1:
        return _with_warning(acquisition, _NOT_AVERAGED.format("averages", "differ in number"))
    joined = [np.concatenate(parts) for parts in zip(*by_repetition, strict=True)]
    averaged = _mean_of(acquisition, joined, "averages")
    if averaged.repetition is None or averaged.samples.shape == acquisition.samples.shape:
        return averaged
    return replace(averaged, repetition=averaged.repetition[joined[0]])


_NOT_AVERAGED = "the {} {}: they are taken side by side, not averaged"


def _members_of(labels: Integers, among: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    return [np.flatnonzero(among & (labels == label)) for label in np.unique(labels[among])]


def _with_warning(acquisition: Acquisition, text: str) -> Acquisition:
    return replace(acquisition, warnings=(*acquisition.warnings, text))


def _mean_of(
    acquisition: Acquisition, members: Sequence[NDArray[np.intp]], what: str
) -> Acquisition:
    """Average the sets of readouts, or warn that they are no repeats of each other."""
    count, sizes = len(members), [len(rows) for rows in members]
    if count == 1:
        return acquisition
    if len(set(sizes)) > 1:
        text = f"have {min(sizes)} to {max(sizes)} readouts"
        return _with_warning(acquisition, _NOT_AVERAGED.format(what, text))
    first = acquisition.trajectory[members[0]]
    tolerance = SAME_TRAJECTORY * float(np.abs(first).max())
    if any(np.abs(acquisition.trajectory[m] - first).max() > tolerance for m in members[1:]):
        return acquisition
    total = acquisition.samples[:, members[0]]
    for rows in members[1:]:
        total += acquisition.samples[:, rows]
    total /= count
    noise = acquisition.noise
    scaled = None if noise is None else (noise / np.sqrt(count)).astype(noise.dtype)
    return replace(acquisition, samples=total, trajectory=first, noise=scaled)


def join_noise(
    parts: Sequence[Complexes], dwell_times: Sequence[float]
) -> tuple[Complexes, float]:
    """Join noise readouts, whatever their lengths and dwell times.

    Parameters
    ----------
    parts
        Each of shape (coils, m).
    dwell_times
        Time between two samples of each [s].

    Returns
    -------
    noise
        Shape (coils, sum of m), with the variance that all would have at the first dwell time.
    dwell_time
        The first one [s].

    Examples
    --------
    >>> noise, dwell = join_noise([np.ones((1, 2)), np.ones((1, 1))], [1e-5, 4e-5])
    >>> noise, dwell
    (array([[1., 1., 2.]]), 1e-05)
    """
    first = dwell_times[0]
    scaled = [
        (part * np.sqrt(dwell / first)).astype(part.dtype)
        for part, dwell in zip(parts, dwell_times, strict=True)
    ]
    return np.concatenate(scaled, axis=-1), first


def dead_coils(acquisition: Acquisition) -> Integers:
    """Return the coils whose signal at the centre of k-space does not stand out of noise.

    The noise is that of the outermost tenth of k-space, or that of the noise samples where this
    is more: the latter may have been measured at another gain.

    Parameters
    ----------
    acquisition
        Raw data.

    Returns
    -------
    coils
        Their indices, in ascending order.

    Examples
    --------
    >>> grid = Geometry(np.zeros(3), np.eye(3), (0.2, 0.2, 0.2), (8, 8, 8))
    >>> spokes = np.linspace(0, 20, 11)[None, :, None] * np.ones((50, 1, 3))
    >>> noise = np.random.default_rng(0).normal(size=(2, 50, 11)) + 0j
    >>> seen = noise + np.array([0, 100])[:, None, None] * (np.arange(11) < 3)
    >>> dead_coils(Acquisition(seen, spokes, 1e-5, 1e-3, 0.1, 1.5, 3.0, grid))
    array([0])
    """
    radius = np.linalg.norm(acquisition.trajectory, axis=-1)
    centre = radius <= max(1.01 * float(radius.min()), 0.5 / max(acquisition.geometry.fov))
    central = acquisition.samples[:, centre]
    outer = acquisition.samples[:, radius >= 0.9 * radius.max()]
    level, count = _power(outer), outer.shape[1]
    if acquisition.noise is not None:
        dwell = acquisition.noise_dwell_time or acquisition.dwell_time
        measured = _power(acquisition.noise) * (dwell / acquisition.dwell_time)
        level, count = np.maximum(level, measured), min(count, acquisition.noise.shape[1])
    spread = np.sqrt(1 / central.shape[1] + 1 / count)  # of a quotient of two powers
    return np.flatnonzero(_power(central) <= max(STANDS_OUT, 1 + 5 * float(spread)) * level)


def _power(samples: Complexes) -> Floats:
    squares = np.square(np.abs(samples), dtype=np.float64)  # single precision ends at 1e19
    return np.asarray(np.mean(squares, axis=1))


def without_coils(acquisition: Acquisition, coils: Integers) -> Acquisition:
    """Return the acquisition without some of its coils.

    Parameters
    ----------
    acquisition
        Raw data.
    coils
        Indices of those to leave out.

    Returns
    -------
    rest
        Samples and noise of the others.

    Raises
    ------
    ValueError
        If no coil remains.
    """
    kept = np.setdiff1d(np.arange(len(acquisition.samples)), coils)
    if not len(kept):
        raise ValueError(
            f"none of the {len(acquisition.samples)} coils has signal at the centre of k-space "
            "that stands out of its noise; at least one is needed"
        )
    noise = None if acquisition.noise is None else acquisition.noise[kept]
    return replace(acquisition, samples=acquisition.samples[kept], noise=noise)


def undersampling(acquisition: Acquisition) -> float:
    """Return the voxels of the image over the samples of k-space that determine them.

    Parameters
    ----------
    acquisition
        Raw data. Repeats of a trajectory add nothing: average them first, or one is counted.

    Returns
    -------
    ratio
        Above 1, an image without regularization is not determined (coils not counted).

    Examples
    --------
    >>> grid = Geometry(np.zeros(3), np.eye(3), (0.2, 0.2, 0.2), (8, 8, 8))
    >>> undersampling(Acquisition(np.ones((1, 64, 4), complex), np.ones((64, 4, 3)), 1e-5, 1e-3,
    ...                           0.1, 1.5, 3.0, grid))
    2.0
    """
    labels = acquisition.repetition_labels
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    longest = max(members, key=len)
    repeated = all(
        np.allclose(acquisition.trajectory[rows], acquisition.trajectory[longest[: len(rows)]])
        for rows in members
    )
    readouts = len(longest) if repeated else len(labels)
    return float(np.prod(acquisition.geometry.matrix) / (readouts * acquisition.samples.shape[2]))


def field_strength_of(frequency: float) -> float:
    """Return the field strength that a resonance frequency stands for.

    The field that ISMRMRD calls the frequency of 1H often holds that of the scanned nucleus.

    Parameters
    ----------
    frequency
        Of 1H or of 23Na [Hz].

    Returns
    -------
    field_strength
        [T]: with the frequency taken for that of 23Na where this gives a field strength that
        scanners have (within 2 %), and that of 1H does not.

    Examples
    --------
    >>> round(field_strength_of(123.2e6), 2), round(field_strength_of(32.6e6), 2)
    (2.89, 2.89)
    """
    proton, sodium = frequency / PROTON_GAMMA_BAR, frequency / SODIUM_GAMMA_BAR
    return sodium if _is_common(sodium) and not _is_common(proton) else proton


def _is_common(field_strength: float) -> bool:
    return any(abs(field_strength - common) <= 0.02 * common for common in COMMON_FIELDS)
