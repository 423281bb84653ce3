"""The salt-and-pepper background of uniform images (MP2RAGE): as bright as tissue, and only noise.

A uniform image is a ratio of two inversion images, so it keeps full amplitude where both hold
noise alone: around the head, in bone and in air.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sodiumprep.sodium.acquisition import Floats

CORNER = 0.1  # of each edge of the field of view: eight corners hold air, or some of them neck
ROUGH_CORNERS = 75  # percentile among corners, should the lower four hold neck and shoulders
NOISY = 0.15  # noise SD over the range of the image: magnitude images stay below 0.07
NEIGHBOURHOOD = 3.0  # mm, box in which roughness is averaged: half the thickness of the skull
COHERENT, RANDOM = 0.55, 0.75  # roughness over that of the background: tissue below, noise above
SUPPRESSION = 10.0  # regularization over the noise power of the inversion images


def roughness(image: Floats, voxel_size: Floats) -> Floats:
    """Return the noise that a neighbourhood shows in its quietest direction.

    An edge between tissues is smooth along its tangents, noise is rough along every axis.

    Parameters
    ----------
    image
        Shape (x, y, z).
    voxel_size
        Shape (3,) [mm].

    Returns
    -------
    noise
        Standard deviation, same shape and unit as the image.

    Examples
    --------
    >>> edge = np.where(np.arange(20) < 10, 0.0, 1.0)[:, None, None] * np.ones((20, 20, 20))
    >>> float(roughness(edge, np.ones(3)).max())
    0.0
    >>> noise = np.random.default_rng(0).normal(0, 2, (20, 20, 20))
    >>> bool(abs(np.median(roughness(noise, np.ones(3))) - 1.7) < 0.2)
    True
    """
    size = np.maximum(np.round(NEIGHBOURHOOD / voxel_size), 2).astype(int) | 1
    quietest = np.full(image.shape, np.inf, np.float32)
    for axis in range(3):
        second = ndimage.convolve1d(image.astype(np.float32), [1, -2, 1], axis, mode="nearest")
        power = ndimage.uniform_filter(second**2, size, mode="nearest")
        quietest = np.minimum(quietest, power)
    return np.sqrt(np.maximum(quietest, 0) / 6)  # the kernel's squares sum to six


def _corners(image: Floats) -> list[Floats]:
    """Return the eight corners of the field of view."""
    depth = [max(2, round(CORNER * n)) for n in image.shape]
    ends = [(slice(None, d), slice(-d, None)) for d in depth]
    return [image[a, b, c] for a in ends[0] for b in ends[1] for c in ends[2]]


def background_noise(image: Floats, voxel_size: Floats) -> float:
    """Return the noise of the corners of the field of view.

    Parameters
    ----------
    image
        Shape (x, y, z).
    voxel_size
        Shape (3,) [mm].

    Returns
    -------
    noise
        Standard deviation, unit of the image; 0 if every corner is blank.
    """
    levels = [
        float(np.median(roughness(corner, voxel_size)))
        for corner in _corners(image)
        if np.ptp(corner) > 0
    ]
    return float(np.percentile(levels, ROUGH_CORNERS)) if levels else 0.0


def has_noisy_background(image: Floats, voxel_size: Floats) -> bool:
    """Tell whether air is as bright as tissue, as in a uniform image (UNIT1).

    Parameters
    ----------
    image
        Shape (x, y, z), any unit.
    voxel_size
        Shape (3,) [mm].

    Returns
    -------
    noisy
        Whether noise in the corners reaches a good share of the range of the image.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> ball = 1.0 * (np.linalg.norm(np.indices((40, 40, 40)) - 20, axis=0) < 15)
    >>> grainy = np.where(ball > 0, 0.6, rng.uniform(0, 1, ball.shape))
    >>> has_noisy_background(grainy, np.ones(3))
    True
    >>> has_noisy_background(ball + rng.normal(0, 0.05, ball.shape), np.ones(3))
    False
    """
    low, high = np.percentile(image, [1, 99])
    return bool(background_noise(image, voxel_size) > NOISY * (high - low))


def remove_background(image: Floats, voxel_size: Floats) -> Floats:
    """Make dark what is only noise: air, and bone too, as in any other 1H image.

    Parameters
    ----------
    image
        Image with a noisy background, shape (x, y, z), any unit.
    voxel_size
        Shape (3,) [mm].

    Returns
    -------
    cleaned
        Not negative, zero where the image is not coherent, same shape and unit.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> ball = np.linalg.norm(np.indices((40, 40, 40)) - 20, axis=0) < 15
    >>> cleaned = remove_background(np.where(ball, 0.6, rng.uniform(0, 1, ball.shape)), np.ones(3))
    >>> bool(np.median(cleaned[ball]) > 0.55), bool(np.mean(cleaned[~ball]) < 0.05)
    (True, True)
    """
    noise = background_noise(image, voxel_size)
    relative = roughness(image, voxel_size) / noise
    weight = np.clip((RANDOM - relative) / (RANDOM - COHERENT), 0, 1)
    return (image - image.min()) * weight


def robust_uniform(uniform: Floats, first: Floats, second: Floats, voxel_size: Floats) -> Floats:
    """Combine the inversion images anew so that noise tends to zero.

    Parameters
    ----------
    uniform
        Uniform image, shape (x, y, z), of any scale: its noise reaches both ends of it.
    first, second
        Magnitudes of the two inversion images, same shape and one unit.
    voxel_size
        Shape (3,) [mm].

    Returns
    -------
    robust
        In [0, 1], 0 where both inversion images hold noise.

    Raises
    ------
    ValueError
        If the shapes differ, or an image is blank.

    References
    ----------
    O'Brien et al. 2014, doi:10.1371/journal.pone.0099676

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> one, two = np.abs(rng.normal(0, 0.01, (2, 30, 30, 30)))
    >>> two[10:20, 10:20, 10:20] += 1.0
    >>> ends = rng.uniform(0, 1, one.shape)
    >>> bool(robust_uniform(ends, one, two, np.ones(3))[:5].mean() < 0.1)
    True
    """
    if not uniform.shape == first.shape == second.shape:
        raise ValueError(
            f"uniform and inversion images have shapes {uniform.shape}, {first.shape} and "
            f"{second.shape}; they must be the same"
        )
    power = first.astype(np.float32) ** 2 + second.astype(np.float32) ** 2
    if np.ptp(uniform) == 0 or not power.any():
        raise ValueError("the uniform image or both inversion images are blank")
    ratio = (uniform - uniform.min()) / np.ptp(uniform) - 0.5
    noise = np.percentile([corner.mean() for corner in _corners(power)], 50)
    beta = SUPPRESSION * noise
    return np.clip((ratio * power - beta) / (power + 2 * beta) + 0.5, 0, 1)
