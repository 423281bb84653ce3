"""What was measured: k-space samples with their trajectory, timing and place in the scanner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Complexes = NDArray[np.complexfloating]
Numbers = NDArray[np.inexact]  # real or complex

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


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
    """One echo of a 3D non-Cartesian acquisition, repetitions already averaged.

    The samples follow ``s(k) = integral m(r) exp(-i 2 pi k.r) dr`` with ``r`` measured from the
    centre of the field of view along the axes of ``geometry``.

    Parameters
    ----------
    samples
        Shape (coils, readouts, n), complex.
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
        Noise-only samples, shape (coils, m), or None.
    noise_dwell_time
        Time between two noise samples [s], or None.
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

    @property
    def sample_times(self) -> Floats:
        """Time of each sample after the first one of its readout, shape (n,) [s]."""
        return np.arange(self.trajectory.shape[1]) * self.dwell_time
