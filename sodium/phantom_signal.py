"""The sodium signal of the phantom: relaxation, receive coils and k-space of a simulated object.

Nothing here is shared with what the pipeline uses, so that neither can hide an error of the other:
the constants are typed in again, the signal equation is written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import finufft
import numpy as np

from sodiumprep.sodium.acquisition import Complexes, Floats, Numbers

BODY_TEMPERATURE = 310.15  # K
TRANSFORM_ACCURACY = 1e-4  # relative error asked of the non-uniform Fourier transform
TURNING_ACCURACY = 1e-4  # relative size of what is left out of decays that turn
WEAK = 0.03  # share of the strongest curve below which a coarser transform does


@dataclass(frozen=True)
class Relaxation:
    """Relaxation of one tissue.

    Parameters
    ----------
    t1
        Longitudinal [s].
    t2_short, t2_long
        Fast and slow transverse component [s].
    short_fraction
        Share of the fast component; 0 where the decay has one exponential.
    """

    t1: float
    t2_short: float
    t2_long: float
    short_fraction: float = 0.6


# Milliseconds here read as seconds times 1e-3. Sources: 3 T Riemer 2018, doi:10.1002/nbm.3899;
# 7 T Niesporek 2017, doi:10.1007/s10334-017-0623-2; CSF 7 T Fleysher 2009, doi:10.1002/mrm.22133;
# muscle doi:10.1186/s12891-022-05879-5; blood, bone and unlabelled tissue: assumed like muscle.
_MUSCLE = Relaxation(27e-3, 3.3e-3, 12.8e-3)
TISSUE_RELAXATION: Mapping[int, Mapping[str, Relaxation]] = {
    3: {
        "GM": Relaxation(37e-3, 3.9e-3, 26.3e-3),
        "WM": Relaxation(37e-3, 3.4e-3, 23.5e-3),
        "CSF": Relaxation(58e-3, 56e-3, 56e-3, 0.0),
        "fluid": Relaxation(58e-3, 56e-3, 56e-3, 0.0),
        "soft": _MUSCLE,
    },
    7: {
        "GM": Relaxation(37e-3, 5.4e-3, 36.4e-3),
        "WM": Relaxation(37e-3, 3.5e-3, 23.3e-3),
        "CSF": Relaxation(58e-3, 54e-3, 54e-3, 0.0),
        "fluid": Relaxation(58e-3, 54e-3, 54e-3, 0.0),
        "soft": _MUSCLE,
    },
}
SAME_AS = {"core": "WM", "edema": "WM", "other": "soft", "skull": "soft"}
# Spectral densities of Stobbe & Beaulieu 2014 for gel and saline.
SALINE = Relaxation(53e-3, 53e-3, 53e-3, 0.0)
AGAR_3_PERCENT = Relaxation(33e-3, 4.7e-3, 28.6e-3)
AGAR_6_PERCENT = Relaxation(25e-3, 3.0e-3, 20.4e-3)


@dataclass(frozen=True)
class Timing:
    """Excitation and readout.

    Parameters
    ----------
    echo_time
        From the excitation to the first sample [s].
    repetition_time
        Between excitations [s].
    flip_angle
        Nominal [rad].
    readout
        From the first to the last sample [s].
    """

    echo_time: float
    repetition_time: float
    flip_angle: float
    readout: float


def relaxation_of(name: str, field_strength: float) -> Relaxation:
    """Return the constants of a class of the head.

    Parameters
    ----------
    name
        Class of the head, such as "GM" or "soft".
    field_strength
        3 or 7 [T].

    Returns
    -------
    relaxation
        Constants [s].

    Raises
    ------
    ValueError
        If the field strength is neither 3 nor 7 T.

    Examples
    --------
    >>> relaxation_of("WM", 3).t2_long
    0.0235
    """
    if field_strength not in TISSUE_RELAXATION:
        raise ValueError(f"field strength is {field_strength} T; the phantom knows 3 and 7 T")
    return TISSUE_RELAXATION[int(field_strength)][SAME_AS.get(name, name)]


def magnetization(
    relaxation: Relaxation, timing: Timing, transmit: float | Floats = 1.0
) -> Floats:
    """Return the steady-state transverse magnetization right after excitation.

    Parameters
    ----------
    relaxation
        Constants of the tissue.
    timing
        Repetition time and flip angle.
    transmit
        Flip angle over nominal, any shape.

    Returns
    -------
    magnetization
        Over that at full relaxation and 90 degrees, shape of ``transmit``.

    Examples
    --------
    >>> timing = Timing(0.0003, 0.12, np.pi / 2, 0.01)
    >>> round(float(magnetization(SALINE, timing)), 4)
    0.8961
    """
    angle = timing.flip_angle * np.asarray(transmit)
    remaining = np.exp(-timing.repetition_time / relaxation.t1)
    return np.sin(angle) * (1 - remaining) / (1 - remaining * np.cos(angle))


def transverse_decay(relaxation: Relaxation, times: Floats) -> Floats:
    """Return what is left of the transverse magnetization.

    Parameters
    ----------
    relaxation
        Constants of the tissue.
    times
        After the excitation, any shape [s].

    Returns
    -------
    decay
        Same shape, in (0, 1].

    Examples
    --------
    >>> float(transverse_decay(AGAR_3_PERCENT, np.array([0.0]))[0])
    1.0
    """
    fast = relaxation.short_fraction * np.exp(-times / relaxation.t2_short)
    return fast + (1 - relaxation.short_fraction) * np.exp(-times / relaxation.t2_long)


def decay_basis(decays: Floats, rank: int = 4) -> tuple[Floats, Floats]:
    """Span the decays of all tissues by a few curves.

    Parameters
    ----------
    decays
        One row per tissue, shape (tissues, times).
    rank
        Number of curves.

    Returns
    -------
    weights
        Share of each curve in each tissue, shape (tissues, rank).
    curves
        Shape (rank, times); ``weights @ curves`` returns the decays.

    Examples
    --------
    >>> times = np.linspace(0, 0.02, 50)
    >>> decays = np.exp(-times / np.array([[0.02], [0.03], [0.05]]))
    >>> weights, curves = decay_basis(decays, 3)
    >>> bool(np.allclose(weights @ curves, decays))
    True
    """
    left, size, right = np.linalg.svd(decays, full_matrices=False)
    rank = min(rank, len(size))
    return left[:, :rank] * size[:rank], right[:rank]


def turning_basis(
    curves: Numbers, frequencies: Floats, times: Floats
) -> tuple[Complexes, Complexes]:
    """Span decays that turn at any frequency of a range by a few curves.

    A higher field is a positive frequency and turns the signal by ``exp(-i 2 pi f t)``.

    Parameters
    ----------
    curves
        Decays, shape (rank, times).
    frequencies
        Shape (frequencies,) [Hz].
    times
        After the excitation, shape (times,) [s].

    Returns
    -------
    amplitudes
        Share of each new curve, shape (rank, frequencies, turning).
    courses
        Shape (turning, times); ``amplitudes @ courses`` is ``curve * exp(-i 2 pi f t)``.

    Examples
    --------
    >>> times, frequencies = np.linspace(0, 0.01, 40), np.linspace(-50, 50, 21)
    >>> amplitudes, courses = turning_basis(np.ones((1, 40)), frequencies, times)
    >>> expected = np.exp(-2j * np.pi * frequencies[:, None] * times)
    >>> bool(np.allclose(amplitudes[0] @ courses, expected, atol=1e-3)), len(courses) < 10
    (True, True)
    """
    turns = np.exp(-2j * np.pi * np.outer(frequencies, times))
    rows = curves[:, None, :] * turns
    left, size, right = np.linalg.svd(rows.reshape(-1, len(times)), full_matrices=False)
    kept = int(np.sum(size > TURNING_ACCURACY * size[0]))
    amplitudes = (left[:, :kept] * size[:kept]).reshape(*rows.shape[:2], kept)
    return amplitudes, np.asarray(right[:kept])


def coil_centres(n_coils: int, radius: float = 0.14) -> Floats:
    """Return where the receive loops stand around the head.

    Parameters
    ----------
    n_coils
        Number of loops.
    radius
        Of the ring on which they stand [m].

    Returns
    -------
    centres
        Shape (n_coils, 3) [m], RAS, from the centre of the head; alternately above and below.
    """
    angle = 2 * np.pi * (np.arange(n_coils) + 0.35) / n_coils
    height = 0.035 * np.where(np.arange(n_coils) % 2, 1.0, -1.0) + 0.01
    return np.stack([radius * np.cos(angle), 1.1 * radius * np.sin(angle), height], axis=-1)


def coil_sensitivities(position: Floats, n_coils: int, loop_radius: float = 0.085) -> Complexes:
    """Return the sensitivities of loops around the head.

    The magnitude falls with distance like the field on the axis of a loop, the phase turns
    around each loop. One coil alone is a volume coil: uniform, with a smooth phase.

    Parameters
    ----------
    position
        From the centre of the head, shape (3, x, y, z) [m], RAS.
    n_coils
        Number of loops.
    loop_radius
        [m].

    Returns
    -------
    sensitivities
        Shape (n_coils, x, y, z), complex64.
    """
    if n_coils == 1:
        return np.exp(4j * position[:1] + 2j * position[1:2]).astype(np.complex64)
    maps = []
    for i, centre in enumerate(coil_centres(n_coils)):
        away = [position[axis] - np.float32(centre[axis]) for axis in range(3)]
        distance = np.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2)
        phase = 6 * (away[0] * np.float32(np.sin(i)) + away[1] * np.float32(np.cos(i))) + i
        strength = (1 + (distance / np.float32(loop_radius)) ** 2) ** -1.5
        maps.append((strength * np.exp(1j * phase)).astype(np.complex64))
    return np.stack(maps)


def _transform_plan(shape: tuple[int, ...], phases: Floats, fine: bool) -> finufft.Plan:
    """Plan of the transform from a grid to points; the coarse one is off by up to 2e-3."""
    oversampling, accuracy = (2.0, TRANSFORM_ACCURACY) if fine else (1.25, 1e-3)
    plan = finufft.Plan(
        2, shape, n_trans=1, eps=accuracy, isign=-1, dtype="complex64",
        upsampfac=oversampling, nthreads=1,
    )  # fmt: skip
    plan.setpts(*(np.ascontiguousarray(p, np.float32) for p in phases.T))
    return plan


def kspace_along_readouts(
    images: Complexes, voxel: float, trajectory: Floats, curves: Numbers
) -> Complexes:
    """Return the samples of an object whose signal decays along each readout.

    Parameters
    ----------
    images
        Object for each curve, shape (rank, x, y, z) per cubic metre; voxel ``n // 2`` of each
        axis lies at the origin. A value is the mean over its voxel.
    voxel
        Edge of the voxels [m].
    trajectory
        Shape (readouts, n, 3) [1/m].
    curves
        Signal over time of each image, shape (rank, n).

    Returns
    -------
    samples
        ``s(k) = integral m(r, t) exp(-i 2 pi k.r) dr``, shape (readouts, n), complex64.

    Raises
    ------
    ValueError
        If the trajectory leaves the band of the grid.

    Examples
    --------
    A point at the origin has the same signal everywhere:

    >>> point = np.zeros((1, 10, 10, 10), complex)
    >>> point[0, 5, 5, 5] = 1e9
    >>> line = np.zeros((1, 3, 3)) + np.array([[0.0], [40.0], [80.0]])
    >>> samples = kspace_along_readouts(point, 1e-3, line, np.ones((1, 3)))
    >>> bool(np.allclose(np.abs(samples[0, 0]), 1, rtol=1e-3))
    True
    """
    points = trajectory.reshape(-1, 3).astype(np.float64)
    if np.abs(points).max() * voxel > 0.5:
        raise ValueError(
            f"the trajectory reaches {np.abs(points).max():.4g}/m; voxels of {voxel:.4g} m "
            f"hold up to {0.5 / voxel:.4g}/m"
        )
    total = np.zeros(trajectory.shape[:2], np.complex64)
    strength = np.array([
        np.abs(image).max() * np.abs(curve).max()
        for image, curve in zip(images, curves, strict=True)
    ])  # fmt: skip
    weak = strength < WEAK * strength.max()
    for fine, chosen in ((True, np.flatnonzero(~weak)), (False, np.flatnonzero(weak))):
        plan = _transform_plan(images.shape[1:], 2 * np.pi * voxel * points, fine)
        for i in chosen:
            samples = plan.execute(np.ascontiguousarray(images[i], np.complex64))
            course = np.complex64 if np.iscomplexobj(curves) else np.float32
            total += samples.reshape(total.shape) * curves[i].astype(course)
    averaged = np.prod(np.sinc((points * voxel).astype(np.float32)), axis=1)  # over a voxel
    return total * (np.float32(voxel**3) / averaged).reshape(total.shape)


def _phases(positions: Floats, frequencies: Floats) -> Complexes:
    return np.exp(-2j * np.pi * np.outer(frequencies, positions)).astype(np.complex64)


def _apply_axes(volume: Numbers, matrices: list[Complexes]) -> Complexes:
    """Multiply a volume by one matrix per axis."""
    for matrix in matrices:
        volume = np.tensordot(volume, matrix, axes=(0, 1))  # the axes rotate, three times round
    return np.asarray(volume, np.result_type(volume, np.complex64))


@dataclass(frozen=True)
class ScannerImage:
    """Grid and band limit of an image as a scanner would deliver it.

    Parameters
    ----------
    matrix
        Voxels along each axis of the cubic field of view.
    fov
        Field of view [m].
    timing
        Echo time and readout.
    """

    matrix: int
    fov: float
    timing: Timing

    @property
    def band(self) -> float:
        """Radius of the sphere that is sampled in k-space [1/m]."""
        return self.matrix / self.fov / 2


def image_on_grid(
    images: Numbers, voxel: float, target: ScannerImage, curves: Numbers, radius: Floats
) -> Complexes:
    """Return the object as seen through a sphere of k-space, with decay along its radius.

    Parameters
    ----------
    images
        Object for each curve, shape (rank, n, n, n).
    voxel
        Edge of its voxels [m].
    target
        Wanted grid, around the same centre, and band.
    curves
        Signal of each image over the radius, shape (rank, radii).
    radius
        Where in k-space the curves are given, shape (radii,), rising [1/m].

    Returns
    -------
    image
        Shape (matrix, matrix, matrix), complex64.
    """
    n = images.shape[1]
    step = 1 / (n * voxel)  # 1/m, finest spacing that the object needs
    frequency = step * np.arange(-int(target.band / step), int(target.band / step) + 1)
    distance = np.sqrt(
        sum(f**2 for f in np.meshgrid(*[frequency] * 3, indexing="ij", sparse=True))
    )
    forward = _phases((np.arange(n) - n // 2) * voxel, frequency)
    spectrum = sum(
        _apply_axes(image.astype(np.complex64), [forward] * 3) * np.interp(distance, radius, curve)
        for image, curve in zip(images, curves, strict=True)
    )
    spectrum = spectrum * (distance <= target.band) * (voxel * step) ** 3
    spectrum /= _apply_axes(np.ones((1, 1, 1)), [np.sinc(frequency * voxel)[:, None]] * 3)
    place = (np.arange(target.matrix) - target.matrix // 2) * target.fov / target.matrix
    return _apply_axes(spectrum.astype(np.complex64), [_phases(place, frequency).conj().T] * 3)


def share_radii(trajectory: Floats) -> bool:
    """Tell whether all readouts pass the same radii of k-space.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].

    Returns
    -------
    shared
        Whether they do, to a thousandth of the largest radius.

    Examples
    --------
    >>> line = np.linspace(0, 1, 5)[None, :, None] * np.array([1.0, 0, 0])
    >>> share_radii(np.concatenate([line, line**2]))
    False
    """
    radius = np.linalg.norm(trajectory, axis=-1)
    return bool(np.abs(radius - radius[0]).max() < 1e-3 * radius.max())


def shell_weights(trajectory: Floats) -> Floats:
    """Return the volume of k-space that each sample of a centre-out trajectory stands for.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].

    Returns
    -------
    weights
        Shape (n,) [1/m^3] of a readout where all share the same radii, else (readouts, n): the
        shell between the midpoints to its neighbours, over the readouts.

    Examples
    --------
    >>> line = np.linspace(0, 1, 5)[None, :, None] * np.array([1.0, 0, 0])
    >>> round(float(shell_weights(line).sum() / (4 / 3 * np.pi)), 3)
    1.0
    """
    shown = trajectory[0] if share_radii(trajectory) else trajectory
    radius = np.linalg.norm(shown.astype(np.float64), axis=-1)
    middle = (radius[..., 1:] + radius[..., :-1]) / 2
    edges = np.concatenate([0 * radius[..., :1], middle, radius[..., -1:]], axis=-1)
    return 4 / 3 * np.pi * np.diff(edges**3, axis=-1) / len(trajectory)


def complex_noise(rng: np.random.Generator, shape: tuple[int, ...], sd: float) -> Complexes:
    """Draw white complex noise.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Shape of the result.
    sd
        Standard deviation of the real and of the imaginary part.

    Returns
    -------
    noise
        complex64.
    """
    parts = rng.standard_normal((*shape, 2), dtype=np.float32) * np.float32(sd)
    return parts.view(np.complex64)[..., 0]
