"""The simulated object and its sodium scan: poses, vials, concentrations, samples and truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from sodiumprep.sodium.acquisition import (
    LPS_TO_RAS,
    Acquisition,
    Complexes,
    Floats,
    Geometry,
    Numbers,
)
from sodiumprep.sodium.phantom_anatomy import CLASSES, Head, border
from sodiumprep.sodium.phantom_signal import (
    AGAR_3_PERCENT,
    AGAR_6_PERCENT,
    BODY_TEMPERATURE,
    SALINE,
    Relaxation,
    ScannerImage,
    Timing,
    coil_sensitivities,
    complex_noise,
    decay_basis,
    image_on_grid,
    kspace_along_readouts,
    magnetization,
    relaxation_of,
    share_radii,
    shell_weights,
    transverse_decay,
    turning_basis,
)
from sodiumprep.sodium.trajectory import delayed

VOLUME_COIL_SNR = 20.0  # grey matter in the low-resolution image of the volume coil
ARRAY_SNR = 50.0  # the same of the array
OBJECT_SIZE = 0.25  # m, edge of the cube that holds head and vials
FINEST_VOXEL = 2e-3  # m, of the object, or half the nominal voxel if that is smaller
NOISE_SAMPLES = 8192  # of the noise-only readout
FIELD_NODES = 257  # frequencies between which the signal of an off-resonant voxel is interpolated
FIELD_WIDTH = 0.03  # m, standard deviation of the disturbances of the field
FIELD_SOURCES = (  # m from the centre of the head [RAS], and share: sinuses and both ear canals
    ((0.0, 0.065, -0.03), 1.0), ((0.065, -0.01, -0.045), -0.6), ((-0.065, -0.01, -0.045), -0.6),
)  # fmt: skip
SPREAD = 0.1  # largest departure of a concentration from its mean within a tissue
FLUID_SPREAD = 0.03  # the same in fluid, which mixes
CONCENTRATIONS: Mapping[str, float] = {  # mmol/L
    "GM": 42.0, "WM": 37.0, "CSF": 145.0, "core": 100.0, "edema": 65.0, "other": 75.0,
    "soft": 30.0, "skull": 6.0, "fluid": 140.0,
}  # fmt: skip


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


@dataclass(frozen=True)
class Protocol:
    """How sodium is scanned.

    Parameters
    ----------
    timing
        Excitation and readout.
    field_strength
        3 or 7 [T].
    n_coils
        Receive coils.
    snr
        Mean of grey matter over the noise SD, coils combined, unfiltered adjoint at the nominal
        voxel.
    trajectory
        Shape (readouts, n, 3) [1/m].
    transmit_spread
        Range of the flip angle over the field of view, relative; 0 is uniform.
    gradient_delay
        By which the gradients come late along the axes of the trajectory [s].
    off_resonance
        Frequency of 23Na where the field departs most from the nominal one [Hz].
    transceive
        Whether the coil that receives transmits as well: its profile is that of the flip angle.
    """

    timing: Timing
    field_strength: float
    n_coils: int
    snr: float
    trajectory: Floats
    transmit_spread: float = 0.0
    gradient_delay: tuple[float, float, float] = (0.0, 0.0, 0.0)
    off_resonance: float = 0.0
    transceive: bool = False

    @property
    def n_samples(self) -> int:
        """Samples of a readout."""
        return int(self.trajectory.shape[1])

    @property
    def radius(self) -> Floats:
        """Distance of the samples from the centre of k-space, shape (n,) [1/m].

        That of a readout where all share it, else the mean over the readouts.
        """
        if share_radii(self.trajectory):
            return np.linalg.norm(self.trajectory[0].astype(np.float64), axis=-1)
        return np.linalg.norm(self.trajectory, axis=-1).mean(axis=0, dtype=np.float64)

    @property
    def sampled_trajectory(self) -> Floats:
        """Where the samples are taken with the delays, shape (readouts, n, 3) [1/m]."""
        if not any(self.gradient_delay):
            return self.trajectory
        dwell = self.timing.readout / self.n_samples
        return delayed(self.trajectory, np.asarray(self.gradient_delay), dwell)

    @property
    def sample_times(self) -> Floats:
        """Of the samples after the excitation, shape (n,) [s]."""
        spacing = self.timing.readout / self.n_samples
        return self.timing.echo_time + spacing * np.arange(self.n_samples)


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


def smooth_field(rng: np.random.Generator, shape: Sequence[int], nodes: int) -> Floats:
    """Draw a smooth random field of zero mean and unit variance.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Of the field.
    nodes
        Bumps along each axis.

    Returns
    -------
    field
        Of that shape, float32.
    """
    field = rng.standard_normal([nodes] * len(shape), dtype=np.float32)
    for n in shape:
        gap = np.linspace(0, nodes - 1, n)[:, None] - np.arange(nodes)
        weight = np.exp(-0.5 * (gap / 0.8) ** 2)
        weight /= weight.sum(axis=1, keepdims=True)
        field = np.tensordot(field, weight.astype(np.float32), axes=(0, 1))
    return (field - field.mean()) / field.std()


def draw_concentrations(
    rng: np.random.Generator, means: Mapping[str, float], spread: float = 0.04
) -> dict[str, float]:
    """Draw one subject's mean concentrations.

    Parameters
    ----------
    rng
        Source of randomness.
    means
        By class, of the subject's group [mmol/L].
    spread
        Standard deviation between subjects, relative; fluid has a third of it.

    Returns
    -------
    concentrations
        By class [mmol/L].
    """
    common, own = rng.standard_normal(), rng.standard_normal(len(means))
    relative = dict(zip(means, 0.7 * common + 0.7 * own, strict=True))
    fluid = {"CSF": 1 / 3, "fluid": 1 / 3}
    return {n: m * (1 + spread * fluid.get(n, 1.0) * relative[n]) for n, m in means.items()}


def sodium_content(
    rng: np.random.Generator, head: Head, concentrations: Mapping[str, float]
) -> Floats:
    """Return the sodium of each class in each voxel.

    Parameters
    ----------
    rng
        Source of randomness of the variation within a tissue.
    head
        Fractions by class.
    concentrations
        Mean by class [mmol/L].

    Returns
    -------
    content
        Fraction times concentration of each of ``CLASSES``, shape (classes, x, y, z) [mmol/L].
    """
    fields = [np.tanh(0.8 * smooth_field(rng, head.depth.shape, 9)) for _ in range(2)]
    content = np.empty_like(head.shares)
    for i, (name, fraction) in enumerate(head.fractions.items()):
        spread = FLUID_SPREAD if name in ("CSF", "fluid") else SPREAD
        volume = float(fraction.sum(dtype=np.float64))
        mean = float(np.vdot(fraction, fields[i % 2])) / volume if volume else 0.0
        np.multiply(fields[i % 2], np.float32(spread), out=content[i])
        content[i] += np.float32(1 - spread * mean)
        content[i] *= fraction
        content[i] *= np.float32(concentrations[name])
    return content


def true_means(head: Head, content: Floats) -> dict[str, float]:
    """Return the mean concentration of each class.

    Parameters
    ----------
    head
        Fractions by class.
    content
        As :func:`sodium_content` returns it [mmol/L].

    Returns
    -------
    means
        Weighted by the fractions [mmol/L]; classes that are absent are left out.
    """
    volumes = head.shares.sum(axis=(1, 2, 3), dtype=np.float64)
    totals = content.sum(axis=(1, 2, 3), dtype=np.float64)
    both = zip(CLASSES, totals, volumes, strict=True)
    return {name: float(total / volume) for name, total, volume in both if volume > 0}


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


@dataclass(frozen=True)
class SodiumObject:
    """The object on its own fine grid, spanned by a few decay curves.

    Parameters
    ----------
    images
        One for each curve, shape (rank, n, n, n) [mmol/L].
    curves
        Signal over the samples of a readout, shape (rank, samples).
    grey
        Fraction of grey matter, shape (n, n, n).
    sensitivities
        Shape (coils, n, n, n), complex; root sum of squares 1 on average over grey matter.
    voxel
        [m].
    field
        Frequency of 23Na over the nominal one, shape (n, n, n) [Hz], or None.
    """

    images: Numbers
    curves: Numbers
    grey: Floats
    sensitivities: Complexes
    voxel: float
    field: Floats | None = None

    def turned(self, protocol: Protocol) -> SodiumObject:
        """Return the object with what its field does to the signal along the readout.

        Parameters
        ----------
        protocol
            When the samples are taken.
        """
        if self.field is None:
            return self
        reach = float(np.abs(self.field).max())
        nodes: Floats = np.linspace(-reach, reach, FIELD_NODES)
        amplitudes, courses = turning_basis(self.curves, nodes, protocol.sample_times)
        images = [
            sum(
                image * np.interp(self.field, nodes, share).astype(np.complex64)
                for image, share in zip(self.images, shares, strict=True)
            )
            for shares in np.moveaxis(amplitudes, -1, 0)
        ]
        return replace(self, images=np.stack(images), curves=courses, field=None)


def _fine_grid(nominal: float) -> tuple[int, float]:
    voxel = min(FINEST_VOXEL, nominal / 2)
    n = fft.next_fast_len(int(np.ceil(OBJECT_SIZE / voxel)))
    return n + (n & (n - 1) == 0), voxel  # powers of two are slow in memory


def _fine_positions(n: int, voxel: float, split: int) -> Floats:
    """Centres of the parts of ``n`` voxels along an axis, each split [mm]."""
    parts = (np.arange(split) - (split - 1) / 2) / split
    return ((np.arange(n) - n // 2)[:, None] + parts).ravel() * voxel * 1e3


def resample_head(volume: Floats, placement: Placement, n: int, voxel: float) -> Floats:
    """Average a volume of the T1w grid over the voxels of the object's grid.

    Parameters
    ----------
    volume
        On the T1w grid.
    placement
        Where that lies in the field of view.
    n
        Voxels of the object along each axis.
    voxel
        Their edge [m].

    Returns
    -------
    resampled
        Shape (n, n, n): mean over four points of each voxel that form a tetrahedron. Along each
        axis they lie where Gauss puts two of them: at the edge of the sampled k-space the mean
        is then that over the voxel to 0.2 %; points halfway to the faces give 2.6 % more, and
        0.7 % more CSF.
    """
    edge = voxel * 1e3
    total = np.zeros((n, n, n), np.float32)
    for corner in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)):
        to_fov = np.diag([edge, edge, edge, 1.0])
        to_fov[:3, 3] = edge * (np.array(corner) / np.sqrt(12) - n // 2)
        total += ndimage.affine_transform(
            volume, placement.fov_to_t1w_index @ to_fov, output_shape=(n, n, n), order=1,
            output=np.float32,
        )  # fmt: skip
    return total / 4


def _vial_fractions(
    vial: Vial, place: Floats, geometry: Geometry, grid: tuple[int, float]
) -> tuple[tuple[slice, ...], Floats]:
    """Fraction of a vial in the object's voxels around it."""
    n, voxel = grid
    scanner = fov_to_scanner(geometry)
    middle = np.linalg.inv(scanner) @ [*place, 1.0]
    reach = np.abs(scanner[:3, :3].T) @ [vial.radius, vial.radius, vial.length / 2]
    first = np.floor((middle[:3] - reach) / voxel / 1e3).astype(int) + n // 2
    last = np.ceil((middle[:3] + reach) / voxel / 1e3).astype(int) + n // 2
    box = tuple(slice(max(a, 0), min(b, n)) for a, b in zip(first, last, strict=True))
    split = 3
    axis = _fine_positions(n, voxel, split)
    axes = [axis[s.start * split : s.stop * split] for s in box]
    p = np.stack(np.meshgrid(*axes, indexing="ij"))
    scanner_position = np.tensordot(scanner[:3, :3], p, 1) + scanner[:3, 3, None, None, None]
    inside = border(vial_level(vial, place, scanner_position), voxel * 1e3 / split)
    shape = [k for s in box for k in (s.stop - s.start, split)]
    return box, inside.reshape(shape).mean(axis=(1, 3, 5)).astype(np.float32)


def transmit_field(position: Floats, spread: float) -> Floats:
    """Return the flip angle over nominal: high in the centre, low outside.

    Parameters
    ----------
    position
        From the centre of the head, shape (3, ...) [m].
    spread
        Range over a head of 0.2 m, relative.

    Returns
    -------
    transmit
        Shape (...).

    Examples
    --------
    >>> transmit_field(np.array([[0.0, 0.1], [0.0, 0.0], [0.0, 0.0]]), 0.2)
    array([1.1, 0.9])
    """
    square = sum(axis.astype(np.float64) ** 2 for axis in position)
    return 1 + spread * (0.5 - square / 0.1**2)


def field_map(position: Floats, peak: float) -> Floats:
    """Return how far the frequency departs from the nominal one: above sinuses and ear canals.

    Parameters
    ----------
    position
        From the centre of the head, shape (3, ...) [m, RAS].
    peak
        Of the frequency [Hz].

    Returns
    -------
    frequency
        Shape (...) [Hz].

    Examples
    --------
    >>> place = np.array([[0.0, 0.065], [0.065, -0.01], [-0.03, -0.045]])
    >>> field_map(place, 50.0).round()
    array([ 50., -30.])
    """
    total = np.zeros(position.shape[1:], position.dtype)
    for place, share in FIELD_SOURCES:
        square = sum((axis - x) ** 2 for axis, x in zip(position, place, strict=True))
        total += share * np.exp(-square / (2 * FIELD_WIDTH**2))
    return peak * total


def draw_motion(
    rng: np.random.Generator, repetitions: int, largest: float, centre: Floats
) -> list[tuple[Floats, Floats]]:
    """Draw where the head lies in each repetition.

    Parameters
    ----------
    rng
        Source of randomness.
    repetitions
        How many.
    largest
        Shift of the head's centre [mm]; each repetition has at least half of it, and a rotation
        about each axis of at most half as many degrees.
    centre
        Of the head, shape (3,) [mm, RAS].

    Returns
    -------
    motion
        Angles [rad] and shift [mm] of each repetition, as :func:`rigid` takes them; none in the
        first.
    """
    motion: list[tuple[Floats, Floats]] = [(np.zeros(3), np.zeros(3))]
    for _ in range(1, repetitions):
        towards = rng.standard_normal(3)
        length = largest * rng.uniform(0.5, 1) / np.linalg.norm(towards)
        angles = np.radians(rng.uniform(-0.5, 0.5, 3) * largest)
        motion.append((angles, towards * length))
    return motion


def _head_decays(protocol: Protocol, vials: Sequence[Vial]) -> tuple[Floats, Floats]:
    relaxations = [relaxation_of(n, protocol.field_strength) for n in CLASSES]
    relaxations += [v.relaxation for v in vials]
    return decay_basis(np.stack([transverse_decay(r, protocol.sample_times) for r in relaxations]))


def _t1w_transmit(shape: Sequence[int], placement: Placement, spread: float) -> Floats:
    """Transmit field on the T1w grid, shape (x, y, z)."""
    index = np.meshgrid(
        *[np.arange(n, dtype=np.float32) for n in shape], indexing="ij", sparse=True
    )
    affine = placement.t1w_to_sodium @ placement.t1w_affine
    position = [
        sum(affine[row, k] * index[k] for k in range(3)) + affine[row, 3] - placement.centre[row]
        for row in range(3)
    ]
    return transmit_field(np.stack(np.broadcast_arrays(*position)) * 1e-3, spread)


def _span_head(
    content: Floats, placement: Placement, protocol: Protocol, weights: Floats
) -> Floats:
    """Weight the classes by magnetization and share of each decay curve, on the T1w grid."""
    relaxations = [relaxation_of(name, protocol.field_strength) for name in CLASSES]
    gain = np.array([magnetization(r, protocol.timing) for r in relaxations])
    if protocol.transmit_spread:
        transmit = _t1w_transmit(content.shape[1:], placement, protocol.transmit_spread)
        seen = [magnetization(r, protocol.timing, transmit) for r in relaxations]
        content, gain = content * np.stack(seen).astype(np.float32), np.ones(len(CLASSES))
    mixing = (weights * gain[:, None]).T.astype(np.float32)
    return (mixing @ content.reshape(len(CLASSES), -1)).reshape(-1, *content.shape[1:])


def build_object(
    content: Floats,
    grey: Floats,
    placement: Placement,
    protocol: Protocol,
    vials: Sequence[tuple[Vial, Floats]],
) -> SodiumObject:
    """Put head and vials on the object's own grid.

    Parameters
    ----------
    content
        Sodium of each class on the T1w grid, shape (classes, x, y, z) [mmol/L].
    grey
        Fraction of grey matter on the T1w grid.
    placement
        Where the T1w grid lies in the field of view.
    protocol
        How it is scanned.
    vials
        Each with its centre [mm, RAS].

    Returns
    -------
    sodium_object
        Ready to be sampled.
    """
    n, voxel = _fine_grid(placement.geometry.fov[0] / placement.geometry.matrix[0])
    weights, curves = _head_decays(protocol, [v for v, _ in vials])
    spanned = _span_head(content, placement, protocol, weights[: len(CLASSES)])
    with ThreadPoolExecutor(2) as pool:
        maps = list(pool.map(lambda v: resample_head(v, placement, n, voxel), [*spanned, grey]))
    images = np.stack(maps[:-1])
    for (vial, place), row in zip(vials, weights[len(CLASSES) :], strict=True):
        box, inside = _vial_fractions(vial, place, placement.geometry, (n, voxel))
        angle = transmit_field((place - placement.centre) * 1e-3, protocol.transmit_spread)
        gain = vial.strength * float(magnetization(vial.relaxation, protocol.timing, angle))
        images[:, *box] += row.astype(np.float32)[:, None, None, None] * gain * inside
    position = from_head_centre(placement, n, voxel)
    sensitivities = _scaled_sensitivities(position, protocol, maps[-1])
    field = field_map(position, protocol.off_resonance) if protocol.off_resonance else None
    return SodiumObject(images, curves, maps[-1], sensitivities, voxel, field)


def from_head_centre(placement: Placement, n: int, voxel: float) -> Floats:
    """Return the places of an object's voxels.

    Parameters
    ----------
    placement
        Of the field of view.
    n
        Voxels along each axis.
    voxel
        Their edge [m].

    Returns
    -------
    places
        From the centre of the head, shape (3, n, n, n) [m, RAS].
    """
    axis = _fine_positions(n, voxel, 1).astype(np.float32)
    p = np.stack(np.meshgrid(axis, axis, axis, indexing="ij", sparse=False))
    scanner = fov_to_scanner(placement.geometry).astype(np.float32)
    offset = (scanner[:3, 3] - placement.centre).astype(np.float32)
    position = np.tensordot(scanner[:3, :3], p, 1) + offset[:, None, None, None]
    return position * np.float32(1e-3)


def _scaled_sensitivities(position: Floats, protocol: Protocol, grey: Floats) -> Complexes:
    maps = coil_sensitivities(position, protocol.n_coils)
    if protocol.transceive:
        maps = maps * transmit_field(position, protocol.transmit_spread).astype(np.float32)
    mean = float((root_sum_of_squares(maps) * grey).sum() / grey.sum())
    return maps / np.float32(mean)


def root_sum_of_squares(maps: Complexes) -> Floats:
    """Return the root of the sum of squared magnitudes over the first axis.

    Parameters
    ----------
    maps
        Shape (coils, ...).

    Returns
    -------
    combined
        Shape (...).

    Examples
    --------
    >>> float(root_sum_of_squares(np.array([3.0, 4.0j])))
    5.0
    """
    return np.sqrt(sum(m.real**2 + m.imag**2 for m in maps))


def grey_matter_mean(sodium_object: SodiumObject, protocol: Protocol, geometry: Geometry) -> float:
    """Return the mean of grey matter in the noise-free combined image at the nominal voxel.

    Parameters
    ----------
    sodium_object
        What is scanned.
    protocol
        How it is scanned.
    geometry
        Nominal grid.

    Returns
    -------
    mean
        Weighted by the fraction of grey matter [mmol/L of apparent signal].
    """
    target = ScannerImage(geometry.matrix[0], geometry.fov[0], protocol.timing)
    seen = sodium_object.images * root_sum_of_squares(sodium_object.sensitivities)
    image = image_on_grid(seen, sodium_object.voxel, target, sodium_object.curves, protocol.radius)
    fractions = image_on_grid(
        sodium_object.grey[None], sodium_object.voxel, target, np.ones((1, 2)), np.array([0, 1e4])
    )
    weight = np.clip(fractions.real, 0, 1) * (fractions.real > 0.05)
    return float((np.abs(image) * weight).sum() / weight.sum())


def kspace_noise(sodium_object: SodiumObject, protocol: Protocol, geometry: Geometry) -> float:
    """Return the noise SD of a sample that gives the wanted SNR.

    An image is the sum of samples times the volume of k-space that each stands for. White noise
    of SD ``s`` in the real part of each sample therefore has the SD ``s sqrt(sum w^2)`` in the
    real part of an image, and the same in the root sum of squares of coils that share no noise.

    Parameters
    ----------
    sodium_object
        What is scanned.
    protocol
        Trajectory and wanted SNR.
    geometry
        Nominal grid.

    Returns
    -------
    sd
        Of the real and of the imaginary part of a sample.
    """
    weights = shell_weights(protocol.trajectory)
    times = len(protocol.trajectory) if weights.ndim == 1 else 1
    gain = np.sqrt(times * np.sum(weights**2))
    return grey_matter_mean(sodium_object, protocol, geometry) / (protocol.snr * gain)


def acquire(
    rng: np.random.Generator,
    sodium_object: SodiumObject,
    protocol: Protocol,
    geometry: Geometry,
    later: Sequence[SodiumObject] = (),
) -> Acquisition:
    """Sample the object with every coil and add noise.

    Parameters
    ----------
    rng
        Source of the noise.
    sodium_object
        What is scanned.
    protocol
        How it is scanned.
    geometry
        Place of the field of view.
    later
        What is scanned in further repetitions; the mean of all has the wanted SNR.

    Returns
    -------
    acquisition
        In arbitrary units, with a noise readout of half the dwell time, hence twice the variance.
        The trajectory is the nominal one, the samples lie on the one with delays.
    """
    return acquire_echoes(rng, [(sodium_object, *later)], [protocol], geometry)[0]


def acquire_echoes(
    rng: np.random.Generator,
    scanned: Sequence[Sequence[SodiumObject]],
    protocols: Sequence[Protocol],
    geometry: Geometry,
    receiver: float | None = None,
) -> list[Acquisition]:
    """Sample several echoes of an object, with one receiver.

    Parameters
    ----------
    rng
        Source of the noise.
    scanned
        For each echo what is scanned in its repetitions, built with the echo's protocol.
    protocols
        Of each echo: they differ in the echo time.
    geometry
        Place of the field of view.
    receiver
        Its gain; None to draw one, unknown to whoever calibrates.

    Returns
    -------
    acquisitions
        As :func:`acquire`, one for each echo; the wanted SNR is that of the first.
    """
    n = len(scanned[0])
    sd = kspace_noise(scanned[0][0], protocols[0], geometry) * np.sqrt(n)
    drawn = rng.uniform(0.5, 2.0)
    gain = np.float32((drawn if receiver is None else receiver) * 1e4)
    made: list[Acquisition] = []
    for objects, protocol in zip(scanned, protocols, strict=True):
        samples: Complexes = np.concatenate([_sample(o, protocol) for o in objects], axis=1)
        samples += complex_noise(rng, samples.shape, sd)
        shape = (len(samples), NOISE_SAMPLES)
        noise = made[0].noise if made else complex_noise(rng, shape, np.sqrt(2) * sd) * gain
        timing, dwell = protocol.timing, protocol.timing.readout / protocol.n_samples
        repetition = np.repeat(np.arange(n), len(protocol.trajectory)) if n > 1 else None
        made.append(Acquisition(
            samples * gain, np.tile(protocol.trajectory, (n, 1, 1)), dwell, timing.echo_time,
            timing.repetition_time, timing.flip_angle, protocol.field_strength, geometry,
            noise, dwell / 2, repetition,
        ))  # fmt: skip
    return made


def _sample(sodium_object: SodiumObject, protocol: Protocol) -> Complexes:
    """Noise-free samples of each coil, shape (coils, readouts, n)."""
    turned, trajectory = sodium_object.turned(protocol), protocol.sampled_trajectory
    with ThreadPoolExecutor(2) as pool:
        return np.stack(list(pool.map(
            lambda coil: kspace_along_readouts(
                turned.images * coil, turned.voxel, trajectory, turned.curves
            ), turned.sensitivities,
        )))  # fmt: skip


def _coil_images(
    sodium_object: SodiumObject, target: ScannerImage, protocol: Protocol, uniform: bool
) -> Complexes:
    """Noise-free image of each coil, or of a uniform one, with the decay in time along radius."""
    sodium_object = sodium_object.turned(protocol)
    times = protocol.timing.readout * np.linspace(0, 1, protocol.n_samples, endpoint=False)
    asked = np.linspace(0, target.timing.readout, 64)
    curves: Numbers = np.stack([np.interp(asked, times, c) for c in sodium_object.curves])
    radius: Floats = np.linspace(0, target.band, 64)
    if target.timing == protocol.timing:
        curves, radius = sodium_object.curves, protocol.radius
    coils = np.ones((1, 1, 1, 1)) if uniform else sodium_object.sensitivities
    return np.stack([
        image_on_grid(sodium_object.images * c, sodium_object.voxel, target, curves, radius)
        for c in coils
    ])  # fmt: skip


def scanner_image(
    rng: np.random.Generator,
    sodium_object: SodiumObject,
    target: ScannerImage,
    protocol: Protocol,
    snr: float | None,
    receiver: float | None = None,
) -> Floats:
    """Return a magnitude image as a scanner would deliver it.

    Parameters
    ----------
    rng
        Source of the noise.
    sodium_object
        What is scanned.
    target
        Grid and timing; around the centre of the sodium field of view.
    protocol
        Protocol of the sodium scan, whose decay curves are used.
    snr
        Mean of grey matter over noise SD of the array image; None for a uniform volume coil, which
        has ``VOLUME_COIL_SNR``.
    receiver
        Gain of the receiver; None to draw one.

    Returns
    -------
    image
        Root sum of squares over the coils, shape (matrix, matrix, matrix), arbitrary units.
    """
    uniform = snr is None
    images = _coil_images(sodium_object, target, protocol, uniform)
    weight = image_on_grid(
        sodium_object.grey[None], sodium_object.voxel, target, np.ones((1, 2)), np.array([0, 1e4])
    ).real
    inside = np.clip(weight, 0, 1) * (weight > 0.05)
    mean = float((root_sum_of_squares(images) * inside).sum() / inside.sum())
    sd = mean / (snr if snr is not None else VOLUME_COIL_SNR)
    noisy = images + complex_noise(rng, images.shape, sd)
    drawn = rng.uniform(0.5, 2.0)
    gain = 10 * (drawn if receiver is None else receiver)
    return (root_sum_of_squares(noisy) * gain).astype(np.float32)


def bias_field(rng: np.random.Generator, shape: Sequence[int], factor: float) -> Floats:
    """Draw the smooth shading of a T1w image.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Of the image.
    factor
        Brightest over darkest place in the field of view.

    Returns
    -------
    bias
        Of that shape, geometric mean near 1.
    """
    field = smooth_field(rng, shape, 4)
    field = (field - field.min()) / np.ptp(field) - np.float32(0.5)
    return np.exp(np.float32(np.log(factor)) * field)


def noisy_magnitude(rng: np.random.Generator, image: Floats, sd: float) -> Floats:
    """Return the magnitude of an image with complex noise.

    Parameters
    ----------
    rng
        Source of the noise.
    image
        Any shape.
    sd
        Of the real and of the imaginary part.

    Returns
    -------
    magnitude
        Same shape, float32.
    """
    return np.abs(image.astype(np.float32) + complex_noise(rng, image.shape, sd))


def shifted_levels(rng: np.random.Generator, head: Head, error: float) -> Floats:
    """Return the borders as a segmenter would find them.

    Parameters
    ----------
    rng
        Source of the error.
    head
        With the true borders.
    error
        Standard deviation of the displacement of a border [mm].

    Returns
    -------
    levels
        As ``head.levels``, shape (3, x, y, z) [mm].
    """
    shape = head.depth.shape
    return np.stack([level + error * smooth_field(rng, shape, 16) for level in head.levels])
