"""Raw data made ready for any reconstruction: coils, gradient delays, motion, noise, density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sodiumprep.sodium.acquisition import (
    Acquisition,
    Complexes,
    Floats,
    Integers,
    average_repetitions,
    dead_coils,
    split_repetitions,
    undersampling,
    without_coils,
)
from sodiumprep.sodium.density import density_weights
from sodiumprep.sodium.encoding import adjoint
from sodiumprep.sodium.motion import (
    BlockMotion,
    RigidMotion,
    align_repetitions,
    follow_motions,
    where_they_lay,
)
from sodiumprep.sodium.noise import adjoint_noise_gain, corner_mask, noise_covariance
from sodiumprep.sodium.trajectory import delayed

STILL = 0.2  # mm; repetitions that moved by less, or less than twice its error, are averaged
SAME_PHASE = 0.05  # rad; a mean of repetitions loses a thousandth of its signal
SHARED_NOISE = 1e-5  # smallest eigenvalue of the noise correlation of coils that are not copies
NOTICEABLE = 1.0  # mm; what is worth a word to the reader
BLURS_VIALS = 0.5  # mm; less changes the core of a vial of 25 mm by under 0.1 %


@dataclass(frozen=True)
class Measurement:
    """Samples with all that a reconstruction must know of them.

    Parameters
    ----------
    acquisition
        Without coils of pure noise, gradient delays in the trajectory, repetitions in one pose.
    weights
        Density compensation, shape (readouts, n) [1/m^3].
    weighting
        How it was found.
    covariance
        Noise covariance of the complex samples, shape (coils, coils).
    noise_source
        Where the covariance comes from.
    motions
        Of each repetition; none where there is one only.
    warnings
        What a reader of the image must know.
    unmoved
        The same repetitions averaged where they lay, for what does not move with the head; None
        where the head moved by less than ``BLURS_VIALS``.
    """

    acquisition: Acquisition
    weights: Floats
    weighting: str
    covariance: Complexes
    noise_source: str
    motions: tuple[BlockMotion, ...] = ()
    warnings: tuple[str, ...] = ()
    unmoved: Acquisition | None = None

    @property
    def static(self) -> Measurement | None:
        """The measurement of what does not move with the head; None where this one will do."""
        if self.unmoved is None:
            return None
        weights, weighting = density_weights(self.unmoved.trajectory, self.unmoved.geometry)
        covariance, source = sample_covariance(self.unmoved, weights)
        return Measurement(self.unmoved, weights, weighting, covariance, source)

    def describe(self) -> dict[str, Any]:
        """Return what the quality figures hold of the measurement, as plain values."""
        coils, readouts, samples = self.acquisition.samples.shape
        return {
            "Coils": coils,
            "Readouts": readouts,
            "SamplesPerReadout": samples,
            "VoxelsPerSample": round(undersampling(self.acquisition), 4),
            "DensityCompensation": self.weighting,
            "NoiseSource": self.noise_source,
            "Repetitions": max(1, len(self.motions)),
            "Motion": [motion.describe() for motion in self.motions],
        }


def measurement_of(acquisition: Acquisition, delays: Floats | None = None) -> Measurement:
    """Prepare raw data: leave out dead coils, correct delays and motion, weigh the samples.

    Parameters
    ----------
    acquisition
        Raw data, as read.
    delays
        Gradient delay of each axis that the trajectory does not have yet, shape (3,) [s].

    Returns
    -------
    measurement
        Ready for any reconstruction.

    Raises
    ------
    ValueError
        If no coil has signal, or noise samples are given but useless.
    """
    return measurements_of([acquisition], delays)[0]


def measurements_of(
    echoes: Sequence[Acquisition], delays: Floats | None = None
) -> tuple[Measurement, ...]:
    """Prepare the echoes of one acquisition: coils, delays and motion are those of the first.

    Parameters
    ----------
    echoes
        Raw data of each echo, as read: the same coils and repetitions.
    delays
        As in :func:`measurement_of`.

    Returns
    -------
    measurements
        One for each echo, in one pose. Warnings on coils and motion are with the first.

    Raises
    ------
    ValueError
        As :func:`measurement_of`.
    """
    dead = dead_coils(echoes[0])
    first, *later = (_usable(echo, dead, delays) for echo in echoes)
    still, motions = _in_one_pose(first)
    measured = [replace(_measured(still, motions, dead), unmoved=_unmoved(first, motions))]
    averaged = still.repetition is None
    for echo in later:
        posed = _in_known_pose(echo, motions, averaged) if motions else echo
        weights, weighting = density_weights(posed.trajectory, posed.geometry)
        covariance, source = sample_covariance(posed, weights)
        measured.append(
            Measurement(posed, weights, weighting, covariance, source, motions, posed.warnings)
        )
    return tuple(measured)


def _unmoved(acquisition: Acquisition, motions: Sequence[BlockMotion]) -> Acquisition | None:
    if _largest_displacement(motions) <= BLURS_VIALS:
        return None
    return average_repetitions(where_they_lay(acquisition, motions))


def _largest_displacement(motions: Sequence[BlockMotion]) -> float:
    return max((m.displacement for m in motions if not m.rejected), default=0.0)


def _usable(acquisition: Acquisition, dead: Integers, delays: Floats | None) -> Acquisition:
    living = without_coils(acquisition, dead) if len(dead) else acquisition
    if delays is None:
        return living
    shifted = delayed(living.trajectory, np.asarray(delays), living.dwell_time)
    return replace(living, trajectory=shifted)


def _in_known_pose(
    acquisition: Acquisition, motions: Sequence[BlockMotion], averaged: bool
) -> Acquisition:
    """Do to a later echo what was done to the first: average it, or move it back."""
    if not averaged:
        return follow_motions(acquisition, motions)
    at_rest = [replace(motion, motion=RigidMotion()) for motion in motions]
    return average_repetitions(follow_motions(acquisition, at_rest))


def _measured(still: Acquisition, motions: tuple[BlockMotion, ...], dead: Integers) -> Measurement:
    weights, weighting = density_weights(still.trajectory, still.geometry)
    covariance, source = sample_covariance(still, weights)
    warnings = (
        *still.warnings, *_coil_warnings(dead), *_covariance_warnings(covariance, dead),
        *_motion_warnings(motions),
    )  # fmt: skip
    return Measurement(still, weights, weighting, covariance, source, motions, warnings)


def _in_one_pose(acquisition: Acquisition) -> tuple[Acquisition, tuple[BlockMotion, ...]]:
    """Average repetitions that lie still; join those that moved, moved back."""
    blocks = split_repetitions(acquisition)
    if len(blocks) == 1:
        return acquisition, ()
    joined, motions = align_repetitions(acquisition)
    same = all(np.array_equal(b.trajectory, blocks[0].trajectory) for b in blocks)
    still = same and all(_is_still(motion) for motion in motions)
    return (average_repetitions(acquisition) if still else joined), motions


def _is_still(motion: BlockMotion) -> bool:
    allowed = max(STILL, 2 * motion.displacement_sd)
    at_rest = motion.displacement <= allowed and abs(motion.phase) <= SAME_PHASE
    return at_rest and not motion.rejected


def sample_covariance(acquisition: Acquisition, weights: Floats) -> tuple[Complexes, str]:
    """Return the noise covariance of the samples, from noise readouts or corners of the image.

    Parameters
    ----------
    acquisition
        Raw data.
    weights
        Density compensation, shape (readouts, n) [1/m^3].

    Returns
    -------
    covariance
        Shape (coils, coils), of complex samples.
    source
        Where it comes from.

    Raises
    ------
    ValueError
        If noise samples are given but useless.
    """
    if acquisition.noise is None:
        images = adjoint(acquisition.samples * weights, acquisition.trajectory,
                         acquisition.geometry)  # fmt: skip
        corners = noise_covariance(images[:, corner_mask(images.shape[1:])], 1.0)
        source = "corners of the image (no noise readouts)"
        return corners / adjoint_noise_gain(weights) ** 2, source
    ratio = (acquisition.noise_dwell_time or acquisition.dwell_time) / acquisition.dwell_time
    return noise_covariance(acquisition.noise, ratio), "noise readouts"


def _coil_warnings(dead: Integers) -> list[str]:
    if not len(dead):
        return []
    names = ", ".join(str(coil + 1) for coil in dead)
    return [
        f"coil {names} of the file holds noise alone and is left out; receive data "
        "that were combined from all coils then have another profile"
    ]


def _covariance_warnings(covariance: Complexes, dead: Integers) -> list[str]:
    sd = np.sqrt(np.diag(covariance).real)
    correlation = covariance / np.maximum(np.outer(sd, sd), np.finfo(float).tiny)
    if len(sd) < 2 or np.linalg.eigvalsh(correlation)[0] > SHARED_NOISE:
        return []
    kept = np.setdiff1d(np.arange(len(sd) + len(dead)), dead)
    pairs = np.abs(np.triu(correlation, 1))
    first, second = np.unravel_index(np.argmax(pairs), pairs.shape)
    return [
        f"coils {kept[first] + 1} and {kept[second] + 1} of the file share their noise "
        f"(correlation {pairs[first, second]:.4f}), as copies of one coil do: convert the data "
        "without the copy"
    ]


def _motion_warnings(motions: tuple[BlockMotion, ...]) -> list[str]:
    warnings = [
        f"repetition {motion.block + 1} is left out: {motion.reason}"
        for motion in motions
        if motion.rejected
    ]
    largest = _largest_displacement(motions)
    if largest > NOTICEABLE:
        warnings.append(
            f"the head moved by up to {largest:.1f} mm between repetitions and was moved back; "
            "vials, which do not move with it, are read from an average that was not"
        )
    return warnings
