"""Artefacts that can be counted: spikes and faulty readouts, signal where no body is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, uniform_filter

from sodiumprep.sodium.acquisition import Complexes, Floats, Integers

Mask = NDArray[np.bool_]

SHELLS = 128  # of equal thickness in |k|; a sample is compared with those of its own shell
USUAL = 95  # percentile of a shell that its samples are compared with
SPIKE = 5.0  # times that percentile; noise alone reaches 2.2 in a million samples
LEAST_READOUTS = 32  # to tell what is usual
GAIN = 2.0  # of a readout at the centre of k-space over the median, or under it
CENTRE = 0.25  # cycles per field of view: readouts that all come nearer see the same signal
ABOVE = 8.0  # times the median magnitude: signal at the centre that noise hardly changes
LISTED = 20  # readouts that are named
BLOCK = 5  # voxels, edge of the cube whose mean square is a local level
WORST = 95  # percentile of the local levels outside of the body
NOISE_LEVEL = 1.5  # of local level over noise: what blocks of correlated noise alone may show
NO_BODY = 0.01  # blurred fraction below which a voxel holds no region
DISTANCE = 2.0  # widths of the kernel that the background keeps from every region
LEAST_BACKGROUND = 200  # voxels
HALF = 0.5
AROUND = 1.0  # widths of the kernel around the brain in which the sodium image may call brain


@dataclass(frozen=True)
class Spikes:
    """Readouts that stand out.

    Parameters
    ----------
    share
        Of the readouts, in [0, 1].
    readouts
        Their numbers from 0, the first twenty.
    largest
        Largest sample over what is usual at its distance from the centre of k-space.
    """

    share: float
    readouts: list[int]
    largest: float


def find_spikes(samples: Complexes, trajectory: Floats, fov: float) -> Spikes | None:
    """Find readouts with spikes, or of a signal unlike that of the others.

    Each coil is scaled by its median magnitude, and the loudest coil of a sample is compared with
    the 95th percentile of all samples at the same distance from the centre of k-space. Noise alone
    (Rayleigh) reaches 2.2 times that in a million samples, the lobes of a head less than 3 in
    simulations; five times is a spike. Where all readouts pass the centre, so that they see the
    same signal there, and this is well above noise, a readout of less than half or more than
    twice the median signal stands out too.

    Not found: spikes under about ten times the noise, spikes in more than one sample of twenty,
    and interference that is the same in all readouts.

    Parameters
    ----------
    samples
        Shape (coils, readouts, n).
    trajectory
        Shape (readouts, n, 3) [1/m].
    fov
        Largest edge of the field of view [m].

    Returns
    -------
    spikes
        None for fewer than 32 readouts.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noise = rng.normal(size=(1, 64, 50)) + 1j * rng.normal(size=(1, 64, 50))
    >>> line = np.linspace(0, 100, 50)[:, None] * np.ones(3)
    >>> places = np.broadcast_to(line, (64, 50, 3))
    >>> find_spikes(noise, places, 0.2).share
    0.0
    >>> noise[0, 7, 30] = 40
    >>> find_spikes(noise, places, 0.2).readouts
    [7]
    """
    if samples.shape[1] < LEAST_READOUTS:
        return None
    loudest = np.zeros(samples.shape[1:], np.float32)
    for coil in samples:
        magnitude = np.abs(coil)
        level = float(np.median(magnitude))
        if level > 0:
            np.maximum(loudest, magnitude / level, out=loudest)
    distance = np.sqrt(np.einsum("ijk,ijk->ij", trajectory, trajectory))
    ratio = loudest / _usual(loudest, distance)
    wrong = (ratio > SPIKE).any(axis=1)
    nearest = np.argmin(distance, axis=1)
    centre = loudest[np.arange(len(nearest)), nearest]
    if (distance.min(axis=1) * fov <= CENTRE).all() and np.median(centre) > ABOVE:
        wrong |= _odd_gain(samples, nearest)
    found = np.flatnonzero(wrong)
    return Spikes(float(wrong.mean()), found[:LISTED].tolist(), float(ratio.max()))


def _usual(loudest: Floats, distance: Floats) -> Floats:
    """Return the percentile of each sample's shell of k-space."""
    shell = np.minimum((distance * (SHELLS / distance.max())).astype(int), SHELLS - 1).ravel()
    order = np.argsort(shell, kind="stable")
    borders = np.searchsorted(shell[order], np.arange(SHELLS + 1))
    values = loudest.ravel()
    levels = np.ones(SHELLS, np.float32)
    for k in range(SHELLS):
        inside = values[order[borders[k] : borders[k + 1]]]
        if len(inside) and inside.any():
            levels[k] = max(np.percentile(inside, USUAL), np.finfo(np.float32).tiny)
    return levels[shell].reshape(loudest.shape)


def _odd_gain(samples: Complexes, nearest: Integers) -> Mask:
    """Tell which readouts have another signal in the sample that is nearest to the centre."""
    centre = samples[:, np.arange(len(nearest)), nearest]
    level = np.sqrt(np.sum(np.abs(centre.astype(np.complex128)) ** 2, axis=0))
    usual = float(np.median(level))
    return (level > GAIN * usual) | (level * GAIN < usual)


@dataclass(frozen=True)
class Ghosting:
    """Signal where no body is.

    Parameters
    ----------
    score
        Local root mean square over noise SD, 95th percentile; about 1 for noise alone.
    share
        What of it is not noise, over the mean of the brain; 0 where noise explains it.
    """

    score: float
    share: float


def ghosting(
    image: Floats,
    noise_sd: Floats,
    bodies: Floats,
    brain: Floats,
    fwhm: Floats,
    magnitude: bool = False,
) -> Ghosting | None:
    """Return how much structured signal lies outside of the head and of the vials.

    In each cube of 5 voxels of the background the mean square of the image over that of its noise
    SD is taken; the 95th percentile of its root is the score. What exceeds 1.5 (the scatter that
    cubes of correlated noise have) is put in relation to the brain:
    ``share = sqrt(score^2 - 1.5^2) * noise / brain``. That is the ghost-to-signal ratio of
    Giannelli 2010 without a direction, since a non-Cartesian trajectory has none.

    A magnitude image has another noise where there is no signal, and still another one once its
    bias is taken out: its background is compared with the median of its own cubes, which a ghost
    over half of the background escapes.

    An object outside of the head that is no region (a bottle that is not listed) looks the same; a
    ghost that falls on the head is not seen.

    Parameters
    ----------
    image
        Before coil corrections, shape (nx, ny, nz) [signal].
    noise_sd
        Its noise SD, same shape.
    bodies
        Sum of the blurred fractions of everything that is known to hold signal, same shape.
    brain
        Blurred fraction of the brain, same shape.
    fwhm
        Widths of the kernel, shape (3,) [voxels].
    magnitude
        Whether the noise SD holds only where there is signal.

    Returns
    -------
    ghosting
        None where there are less than 200 voxels of background, or no noise is known.

    References
    ----------
    Giannelli et al. 2010, doi:10.1120/jacmp.v11i4.3237
    """
    body = bodies > NO_BODY
    background = ~_dilated(body, DISTANCE * fwhm) & (image != 0)
    inside = brain > HALF
    known = np.isfinite(noise_sd) & (noise_sd > 0)
    background &= known
    if np.count_nonzero(background) < LEAST_BACKGROUND or not inside.any():
        return None
    ratio = np.where(background, (image / np.where(known, noise_sd, 1)) ** 2, 0)
    filled = uniform_filter(background.astype(np.float32), BLOCK)
    local = uniform_filter(ratio.astype(np.float32), BLOCK) / np.maximum(filled, 1e-6)
    levels = np.sqrt(local[background & (filled > HALF)])
    usual = float(np.median(levels)) if magnitude else 1.0
    if not usual > 0:
        return None
    score = float(np.percentile(levels, WORST)) / usual
    left = np.sqrt(max(score**2 - NOISE_LEVEL**2, 0.0))
    noise = float(np.median(noise_sd[background])) * usual
    return Ghosting(score, float(left * noise / np.abs(image[inside].mean())))


def _dilated(mask: Mask, radius: Floats) -> Mask:
    """Return a mask grown by an ellipsoid of given radii [voxels]."""
    reach = np.maximum(np.ceil(radius).astype(int), 1)
    axes = np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij")
    ball = sum((a / max(r, 1.0)) ** 2 for a, r in zip(axes, radius, strict=True)) <= 1
    return np.asarray(binary_dilation(mask, ball), bool)


def brain_dice(concentration: Floats, brain: Floats, fwhm: Floats) -> float | None:
    """Return the Dice coefficient of the brain of the sodium image with that of the anatomy.

    The skull holds next to no sodium: the sodium image is called brain where it exceeds half of
    the median of the anatomical brain, within one width of the kernel around that brain (what lies
    further out, muscle and eyes, is as bright). The anatomical brain is that of the fractions
    blurred by the kernel, above one half.

    Parameters
    ----------
    concentration
        Receive-corrected, shape (nx, ny, nz), any unit.
    brain
        Blurred fraction of the brain, same shape.
    fwhm
        Widths of the kernel, shape (3,) [voxels].

    Returns
    -------
    dice
        In [0, 1]; None where the brain has no voxel.
    """
    anatomical = brain > HALF
    if not anatomical.any():
        return None
    level = HALF * float(np.median(concentration[anatomical]))
    shown = (concentration > level) & _dilated(anatomical, AROUND * fwhm)
    both = np.count_nonzero(shown & anatomical)
    return float(2 * both / (np.count_nonzero(shown) + np.count_nonzero(anatomical)))


def negative_share(concentration: Floats, brain: Floats) -> float | None:
    """Return the share of the voxels of the brain that are negative.

    Parameters
    ----------
    concentration
        Shape (nx, ny, nz) [mmol/L].
    brain
        Fraction of the brain, same shape.

    Returns
    -------
    share
        In [0, 1]; None where the brain has no voxel.

    Examples
    --------
    >>> negative_share(np.array([-1.0, 2, 3, -9]), np.array([1.0, 1, 1, 0]))
    0.3333333333333333
    """
    inside = concentration[brain > HALF]
    return float(np.mean(inside < 0)) if inside.size else None
