"""Where head, vials and field of view of the phantom lie in the scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sodiumprep.sodium.acquisition import LPS_TO_RAS, Floats, Geometry
from sodiumprep.sodium.phantom_signal import (
    AGAR_3_PERCENT,
    AGAR_6_PERCENT,
    BODY_TEMPERATURE,
    SALINE,
    Relaxation,
)


@dataclass(frozen=True)
class Vial:
    """A tube of known concentration.

    Parameters
    ----------
    name
        As in the sidecar.
    concentration
        [mmol/L].
    relaxation
        Of its filling.
    temperature
        [degree Celsius]: colder sodium has more magnetization.
    radius, length
        [mm].
    """

    name: str
    concentration: float
    relaxation: Relaxation
    temperature: float = 20.0
    radius: float = 14.0
    length: float = 60.0

    @property
    def strength(self) -> float:
        """Concentration times the magnetization over that at body temperature [mmol/L]."""
        return self.concentration * BODY_TEMPERATURE / (self.temperature + 273.15)


VIALS = (
    Vial("agar20", 20.0, AGAR_3_PERCENT),
    Vial("agar50", 50.0, AGAR_3_PERCENT),
    Vial("agar80", 80.0, AGAR_6_PERCENT),
    Vial("saline120", 120.0, SALINE),
)
VIAL_ANGLES = (-28.0, 28.0, 152.0, 208.0)  # degree in the axial plane, 0 is the right side


def rigid(angles: Floats, shift: Floats, centre: Floats) -> Floats:
    """Return a rotation about a centre followed by a shift.

    Parameters
    ----------
    angles
        About x, then y, then z, shape (3,) [rad].
    shift, centre
        Shape (3,) [mm].

    Returns
    -------
    transform
        Shape (4, 4).

    Examples
    --------
    >>> turn = rigid(np.array([0, 0, np.pi / 2]), np.zeros(3), np.array([1.0, 0, 0]))
    >>> (turn @ [2, 0, 0, 1]).round(6)
    array([1., 1., 0., 1.])
    """
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    turn_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    transform = np.eye(4)
    transform[:3, :3] = turn_z @ turn_y @ turn_x
    transform[:3, 3] = centre + shift - transform[:3, :3] @ centre
    return transform


def draw_rigid(
    rng: np.random.Generator, largest_angle: float, largest_shift: float, centre: Floats
) -> Floats:
    """Draw a rigid motion.

    Parameters
    ----------
    rng
        Source of randomness.
    largest_angle
        About each axis [degree].
    largest_shift
        Along each axis [mm].
    centre
        Of the rotation, shape (3,) [mm].

    Returns
    -------
    transform
        Shape (4, 4) [mm].
    """
    angles = np.radians(rng.uniform(-largest_angle, largest_angle, 3))
    return rigid(angles, rng.uniform(-largest_shift, largest_shift, 3), centre)


def fov_to_scanner(geometry: Geometry) -> Floats:
    """Return the matrix from the axes of a field of view to the scanner.

    Parameters
    ----------
    geometry
        Place of the field of view.

    Returns
    -------
    transform
        Shape (4, 4): millimetres along read, phase and slice to RAS [mm].
    """
    transform = np.eye(4)
    transform[:3, :3] = LPS_TO_RAS @ np.asarray(geometry.directions, float).T
    transform[:3, 3] = LPS_TO_RAS @ np.asarray(geometry.position, float)
    return transform


def place_vials(
    outline: NDArray[np.bool_], to_scanner: Floats, centre: Floats, vials: Sequence[Vial]
) -> Floats:
    """Find places beside the head, each as near as the skin allows.

    Parameters
    ----------
    outline
        Where the head is, shape (x, y, z), voxels of about 1 mm.
    to_scanner
        Voxel index of ``outline`` to scanner position, shape (4, 4) [mm, RAS].
    centre
        Of the head, shape (3,) [mm, RAS].
    vials
        What is to be placed; their axes point from foot to head.

    Returns
    -------
    places
        Centre of each vial, shape (vials, 3) [mm, RAS].

    Raises
    ------
    ValueError
        If there are more vials than places.
    """
    if len(vials) > len(VIAL_ANGLES):
        raise ValueError(f"{len(vials)} vials; there is place for {len(VIAL_ANGLES)}")
    coarse = outline[::3, ::3, ::3]
    skin = np.argwhere(coarse & ~ndimage.binary_erosion(coarse))
    points = skin * 3 @ to_scanner[:3, :3].T + to_scanner[:3, 3]
    points = points[np.abs(points[:, 2] - centre[2]) < max(v.length for v in vials) / 2 + 3]
    places = []
    for vial, angle in zip(vials, np.radians(VIAL_ANGLES), strict=False):
        outwards = np.array([np.cos(angle), np.sin(angle)])
        steps = np.arange(30.0, 150.0)[:, None] * outwards + centre[:2]
        gap = np.linalg.norm(points[:, None, :2] - steps, axis=-1).min(axis=0)
        blocked = np.flatnonzero(gap <= vial.radius + 4)
        places.append([*steps[blocked[-1] + 1 if len(blocked) else 0], centre[2]])
    return np.array(places)


def vial_level(vial: Vial, place: Floats, position: Floats) -> Floats:
    """Return the signed distance to the wall of a vial, positive inside.

    Parameters
    ----------
    vial
        Radius and length.
    place
        Its centre, shape (3,) [mm].
    position
        Shape (3, ...) [mm].

    Returns
    -------
    distance
        Shape (...) [mm].

    Examples
    --------
    >>> float(vial_level(VIALS[0], np.zeros(3), np.array([10.0, 0.0, 0.0])))
    4.0
    """
    away = position - place.reshape(3, *[1] * (position.ndim - 1))
    return np.minimum(vial.radius - np.hypot(away[0], away[1]), vial.length / 2 - np.abs(away[2]))


def vial_labels(vials: Sequence[Vial], places: Floats, geometry: Geometry) -> NDArray[np.uint8]:
    """Return the nominal voxels whose centre lies in a vial.

    Parameters
    ----------
    vials
        In the order of the sidecar.
    places
        Their centres, shape (vials, 3) [mm, RAS].
    geometry
        Of the sodium image.

    Returns
    -------
    labels
        Shape of the image's matrix; n for the nth vial from 1, 0 elsewhere.
    """
    labels = np.zeros(geometry.matrix, np.uint8)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.matrix], indexing="ij"))
    position = (
        np.tensordot(geometry.affine[:3, :3], index, 1) + geometry.affine[:3, 3, None, None, None]
    )
    for i, (vial, place) in enumerate(zip(vials, places, strict=True)):
        labels[vial_level(vial, place, position) > 0] = i + 1
    return labels


@dataclass(frozen=True)
class Placement:
    """Where everything lies in the scanner during the sodium scan.

    Parameters
    ----------
    t1w_affine
        Voxel index of the T1w image to T1w space, shape (4, 4) [mm, RAS].
    t1w_to_sodium
        Rigid motion of the head from the T1w to the sodium scan, shape (4, 4) [mm, RAS].
    geometry
        Field of view of the sodium scan.
    centre
        Of the head during the sodium scan, shape (3,) [mm, RAS].
    """

    t1w_affine: Floats
    t1w_to_sodium: Floats
    geometry: Geometry
    centre: Floats

    @property
    def fov_to_t1w_index(self) -> Floats:
        """Millimetres along the axes of the field of view to voxel index of the T1w image."""
        scanner_to_index = np.linalg.inv(self.t1w_to_sodium @ self.t1w_affine)
        return scanner_to_index @ fov_to_scanner(self.geometry)


def draw_geometry(rng: np.random.Generator, centre: Floats, fov: float, matrix: int) -> Geometry:
    """Draw an oblique field of view that is not centred on the head.

    Parameters
    ----------
    rng
        Source of randomness.
    centre
        Of the head, shape (3,) [mm, RAS].
    fov
        Edge of the cube [m].
    matrix
        Voxels along each axis.

    Returns
    -------
    geometry
        Turned by up to 8 degrees about each axis, off by up to 5 mm.
    """
    turn = draw_rigid(rng, 8.0, 0.0, np.zeros(3))[:3, :3]
    position = LPS_TO_RAS @ (centre + rng.uniform(-5, 5, 3))
    return Geometry(position, turn, (fov,) * 3, (matrix,) * 3)
