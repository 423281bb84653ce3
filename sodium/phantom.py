"""The simulated object and its sodium scan: coils, fields, samples and images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage

from sodiumprep.sodium.acquisition import (
    Acquisition,
    Complexes,
    Floats,
    Geometry,
    Numbers,
)
from sodiumprep.sodium.phantom_anatomy import head_classes
from sodiumprep.sodium.phantom_lesions import DEFAULT_KIND, relaxation_in
from sodiumprep.sodium.phantom_placement import Placement, Vial, fov_to_scanner, vial_level
from sodiumprep.sodium.phantom_signal import (
    Relaxation,
    ScannerImage,
    Timing,
    coil_sensitivities,
    complex_noise,
    decay_basis,
    image_on_grid,
    kspace_along_readouts,
    magnetization,
    share_radii,
    shell_weights,
    transverse_decay,
    turning_basis,
)
from sodiumprep.sodium.phantom_template import border
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


def _head_relaxations(protocol: Protocol, kind: str) -> list[Relaxation]:
    return [relaxation_in(kind, name, protocol.field_strength) for name in head_classes(kind)]


def _decays(protocol: Protocol, relaxations: Sequence[Relaxation]) -> tuple[Floats, Floats]:
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
    content: Floats,
    placement: Placement,
    protocol: Protocol,
    weights: Floats,
    relaxations: Sequence[Relaxation],
) -> Floats:
    """Weight the classes by magnetization and share of each decay curve, on the T1w grid."""
    gain = np.array([magnetization(r, protocol.timing) for r in relaxations])
    if protocol.transmit_spread:
        transmit = _t1w_transmit(content.shape[1:], placement, protocol.transmit_spread)
        seen = [magnetization(r, protocol.timing, transmit) for r in relaxations]
        content, gain = content * np.stack(seen).astype(np.float32), np.ones(len(content))
    mixing = (weights * gain[:, None]).T.astype(np.float32)
    return (mixing @ content.reshape(len(content), -1)).reshape(-1, *content.shape[1:])


def build_object(
    content: Floats,
    grey: Floats,
    placement: Placement,
    protocol: Protocol,
    vials: Sequence[tuple[Vial, Floats]],
    kind: str = DEFAULT_KIND,
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
    kind
        Of lesion, whose classes are among those of the content.

    Returns
    -------
    sodium_object
        Ready to be sampled.
    """
    n, voxel = _fine_grid(placement.geometry.fov[0] / placement.geometry.matrix[0])
    head = _head_relaxations(protocol, kind)
    weights, curves = _decays(protocol, [*head, *(v.relaxation for v, _ in vials)])
    spanned = _span_head(content, placement, protocol, weights[: len(head)], head)
    with ThreadPoolExecutor(2) as pool:
        maps = list(pool.map(lambda v: resample_head(v, placement, n, voxel), [*spanned, grey]))
    images = np.stack(maps[:-1])
    for (vial, place), row in zip(vials, weights[len(head) :], strict=True):
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
