"""Ellipsoids: objects whose k-space is known in closed form, to test whole reconstructions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry

NEAR_ZERO = 0.05  # radius below which the series of the ball's transform is the accurate form


@dataclass(frozen=True)
class Ellipsoid:
    """A solid ellipsoid of uniform density.

    Parameters
    ----------
    centre
        From the centre of the field of view along its axes, shape (3,) [m].
    semi_axes
        Shape (3,) [m], positive.
    rotation
        Orthogonal, shape (3, 3): its columns are the directions of the semi-axes.
    value
        Density inside; ellipsoids that overlap add up.

    Raises
    ------
    ValueError
        If a semi-axis is not positive or the rotation is not orthogonal.
    """

    centre: Floats
    semi_axes: Floats
    rotation: Floats = field(default_factory=lambda: np.eye(3))
    value: complex = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no ellipsoid."""
        if not np.all(np.asarray(self.semi_axes) > 0):
            raise ValueError(f"semi-axes are {self.semi_axes} m; they must be positive")
        rotation = np.asarray(self.rotation, float)
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6):
            raise ValueError(f"rotation {rotation.tolist()} is not orthogonal")

    @property
    def volume(self) -> float:
        """Volume [m^3]."""
        return float(4 / 3 * np.pi * np.prod(self.semi_axes))

    @property
    def extent(self) -> Floats:
        """Half the edges of the box around it, along the axes of the field of view, (3,) [m]."""
        axes = np.asarray(self.rotation, float) * np.asarray(self.semi_axes, float)
        return np.asarray(np.linalg.norm(axes, axis=1))


def ball_transform(radius: Floats) -> Floats:
    """Return the Fourier transform of a unit ball over its volume.

    Parameters
    ----------
    radius
        ``2 pi`` times the spatial frequency in units of one over the ball's radius, any shape.

    Returns
    -------
    transform
        ``3 (sin q - q cos q) / q^3``, float64, 1 at the centre.

    Examples
    --------
    >>> ball_transform(np.array([0.0, np.pi])).round(6)
    array([1.      , 0.303964])
    """
    q = np.maximum(np.asarray(radius, np.float64), NEAR_ZERO)
    far = 3 * (np.sin(q) - q * np.cos(q)) / q**3
    square = np.asarray(radius, np.float64) ** 2
    return np.where(square > NEAR_ZERO**2, far, 1 - square / 10 + square**2 / 280)


def ellipsoid_kspace(ellipsoids: Iterable[Ellipsoid], trajectory: Floats) -> Complexes:
    """Return ``s(k) = integral m(r) exp(-i 2 pi k.r) dr`` of a sum of ellipsoids, exactly.

    Parameters
    ----------
    ellipsoids
        The object. For one that decays or is off resonance, call this for each part by itself.
    trajectory
        Shape (..., 3) [1/m].

    Returns
    -------
    samples
        Shape (...), complex64 for a trajectory in float32, else complex128 [density m^3].

    References
    ----------
    Koay, Sarlls & Ozarslan 2007, doi:10.1002/mrm.21292

    Examples
    --------
    >>> ball = Ellipsoid(np.zeros(3), np.full(3, 0.1), value=2.0)
    >>> sample = ellipsoid_kspace([ball], np.zeros((1, 3)))
    >>> bool(np.isclose(sample[0], 2 * ball.volume))
    True
    """
    k = np.asarray(trajectory, np.float64)
    samples = np.zeros(k.shape[:-1], np.complex128)
    for shape in ellipsoids:
        stretched = k @ (np.asarray(shape.rotation) * np.asarray(shape.semi_axes))
        transform = ball_transform(2 * np.pi * np.linalg.norm(stretched, axis=-1))
        phase = np.exp(-2j * np.pi * (k @ np.asarray(shape.centre, float)))
        samples += shape.value * shape.volume * transform * phase
    return samples.astype(np.complex64 if trajectory.dtype == np.float32 else np.complex128)


def ellipsoid_image(
    ellipsoids: Iterable[Ellipsoid], geometry: Geometry, subdivisions: int = 4
) -> Complexes:
    """Return the mean density of a sum of ellipsoids in each voxel.

    Parameters
    ----------
    ellipsoids
        The object.
    geometry
        Voxel grid; voxel ``n // 2`` has its middle on the centre of the field of view.
    subdivisions
        Points per voxel and axis at which the density is taken.

    Returns
    -------
    image
        Shape (nx, ny, nz), complex64.

    Raises
    ------
    ValueError
        If there is less than one point per voxel.

    Examples
    --------
    >>> grid = Geometry(np.zeros(3), np.eye(3), (0.2, 0.2, 0.2), (20, 20, 20))
    >>> ball = Ellipsoid(np.zeros(3), np.full(3, 0.06))
    >>> volume = float(ellipsoid_image([ball], grid).real.sum() * 0.01**3)
    >>> bool(np.isclose(volume, ball.volume, rtol=0.01))
    True
    """
    if subdivisions < 1:
        raise ValueError(f"{subdivisions} points per voxel and axis; at least 1 is needed")
    image = np.zeros(geometry.matrix, np.complex64)
    for shape in ellipsoids:
        box, axes = _box(shape, geometry, subdivisions)
        distance: Floats = np.zeros((), np.float32)
        for direction, length in zip(np.asarray(shape.rotation).T, shape.semi_axes, strict=True):
            along = [a * d / length for a, d in zip(axes, direction, strict=True)]
            projected = along[0][:, None, None] + along[1][:, None] + along[2]
            distance = distance + projected.astype(np.float32) ** 2
        image[box] += shape.value * _voxel_means((distance <= 1).astype(np.float32), subdivisions)
    return image


def _box(
    shape: Ellipsoid, geometry: Geometry, subdivisions: int
) -> tuple[tuple[slice, ...], list[Floats]]:
    """Return the voxels around an ellipsoid and their points, from the ellipsoid's centre [m]."""
    centre = (
        np.asarray(shape.centre, float) / geometry.voxel_size + np.asarray(geometry.matrix) // 2
    )
    reach = shape.extent / geometry.voxel_size + 1
    first = np.clip(np.floor(centre - reach), 0, geometry.matrix).astype(int)
    last = np.clip(np.ceil(centre + reach) + 1, first, geometry.matrix).astype(int)
    within = (np.arange(subdivisions) + 0.5) / subdivisions - 0.5
    points = [
        ((np.arange(a, b)[:, None] + within).ravel() - c) * size
        for a, b, c, size in zip(first, last, centre, geometry.voxel_size, strict=True)
    ]
    return tuple(slice(a, b) for a, b in zip(first, last, strict=True)), points


def _voxel_means(inside: Floats, subdivisions: int) -> Floats:
    nx, ny, nz = (n // subdivisions for n in inside.shape)
    blocks = inside.reshape(nx, subdivisions, ny, subdivisions, nz, subdivisions)
    return np.asarray(blocks.mean(axis=(1, 3, 5)))


def ellipsoid_head(fov: Floats) -> list[Ellipsoid]:
    """Return a head of ellipsoids in which left, right, front, back, top and bottom differ.

    Parameters
    ----------
    fov
        Field of view along the three axes, shape (3,) [m]: the head fills 0.76 of it.

    Returns
    -------
    ellipsoids
        Skull, brain, ventricles, lesions and small landmarks, densities 0 to 1.
    """
    rows = [  # centre, semi-axes [field of view], turn about the third axis [rad], density
        ((0.0, 0.0, 0.0), (0.30, 0.38, 0.34), 0.0, 0.30),
        ((0.0, 0.01, 0.0), (0.27, 0.34, 0.30), 0.0, 0.12),
        ((-0.055, 0.02, 0.02), (0.03, 0.13, 0.05), 0.25, 0.55),
        ((0.055, 0.02, 0.02), (0.025, 0.12, 0.05), -0.25, 0.55),
        ((0.15, 0.12, 0.10), (0.045, 0.06, 0.05), 0.6, 0.20),
        ((-0.16, -0.10, -0.08), (0.07, 0.05, 0.06), -0.4, -0.15),
        ((0.12, -0.20, 0.05), (0.02, 0.02, 0.02), 0.0, 0.40),
        ((-0.09, 0.24, -0.05), (0.015, 0.03, 0.02), 0.3, 0.40),
        ((0.0, -0.08, 0.20), (0.06, 0.05, 0.03), 0.0, 0.25),
    ]
    scale = np.asarray(fov, float)
    return [
        Ellipsoid(np.multiply(c, scale), np.multiply(a, scale.min()), _turn(t), value)
        for c, a, t, value in rows
    ]


def _turn(angle: float) -> Floats:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
