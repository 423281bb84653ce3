"""An object whose k-space is known in closed form: a Gaussian blob, seen by smooth coils."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Acquisition, Geometry
from sodiumprep.sodium.trajectory import density_adapted_radial

BLOB_WIDTH = 1.3  # voxels, standard deviation
TURNED = np.linalg.qr(np.array([[2.0, 0.3, -0.4], [0.2, 1.5, 0.5], [0.3, -0.6, 1.0]]))[0]
PROTOCOL = {
    "dwell_time": 1e-4,
    "echo_time": 0.3e-3,
    "repetition_time": 0.12,
    "flip_angle": np.pi / 2,
    "field_strength": 3.0,
}


def oblique_geometry(n: int = 16, handedness: int = 1) -> Geometry:
    """Return an off-centre, oblique grid of 10 mm voxels, right-handed (1) or left-handed (-1)."""
    sign = handedness * np.sign(np.linalg.det(TURNED))
    directions = TURNED * np.array([[1.0], [1.0], [sign]])
    return Geometry(np.array([12.0, -31.0, 55.0]), directions, (n * 0.01,) * 3, (n, n, n))


def blob_samples(trajectory: Any, centre: Any, width: float) -> Any:
    """Return the Fourier transform of a Gaussian of peak 1, centre and width [m]."""
    radius2 = np.sum(trajectory.astype(np.float64) ** 2, axis=-1)
    volume = (2 * np.pi * width**2) ** 1.5
    phase = np.exp(-2j * np.pi * (trajectory.astype(np.float64) @ centre))
    return volume * np.exp(-2 * np.pi**2 * width**2 * radius2) * phase


@pytest.fixture(scope="session")
def oblique() -> Callable[..., Geometry]:
    return oblique_geometry


@pytest.fixture(scope="session")
def make_blob() -> Callable[..., Acquisition]:
    """Make the acquisition of a blob at a place in the scanner [mm, LPS]."""

    def make(geometry: Geometry, place: Any, n_spokes: int = 900, **changes: Any) -> Acquisition:
        voxel = geometry.voxel_size[0]
        trajectory = density_adapted_radial(n_spokes, 72, 0.5 / voxel)
        centre = geometry.directions @ (np.asarray(place) - geometry.position) * 1e-3
        samples = blob_samples(trajectory, centre, BLOB_WIDTH * voxel)[None].astype(np.complex64)
        return Acquisition(
            **{"samples": samples, "trajectory": trajectory, "geometry": geometry,
               **PROTOCOL, **changes}
        )  # fmt: skip

    return make
