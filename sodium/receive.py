"""The receive profile of a coil array, from an array image and a volume-coil image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.smooth_field import Pair, SmoothField, fit_field, grid_positions

SHORTEST_WAVE = 90.0  # mm; no array profile inside a head varies faster
FEWEST_VOXELS = 200
SIGNAL_TO_NOISE = 3.0  # array voxels below it tell nothing


def fit_receive_correction(
    array: Floats, volume: Floats, affine: Floats, noise_sd: tuple[float, float]
) -> SmoothField:
    """Fit the smooth field that turns an array image into a volume-coil image.

    The volume-coil image is modelled as array image times field; voxels are weighted by the
    noise of both. The prior on the coefficients keeps the field smooth and carries it into
    regions without signal.

    Parameters
    ----------
    array, volume
        Images of the pair without noise bias, shape (nx, ny, nz).
    affine
        Of both, shape (4, 4) [mm].
    noise_sd
        Noise SD of ``array`` and of ``volume``.

    Returns
    -------
    field
        Multiplies an image of the array; scaled to 1 where the array sees most signal.

    Raises
    ------
    ValueError
        If fewer than 200 voxels of the array image stand out of its noise.
    """
    used = array > SIGNAL_TO_NOISE * noise_sd[0]
    if used.sum() < FEWEST_VOXELS:
        raise ValueError(f"only {used.sum()} voxels of the array image exceed 3 noise SDs")
    start = max(float(volume[used].sum(dtype=np.float64)), 1e-12) / float(
        array[used].sum(dtype=np.float64)
    )
    field = fit_field(Pair(array, volume, affine, noise_sd, used), SHORTEST_WAVE, start)
    inside = grid_positions(array.shape, affine)[used.ravel()]
    scale = np.average(field.basis(inside) @ field.coefficients, weights=array[used])
    constant = field.orders.sum(axis=1) == 0
    return replace(field, coefficients=field.coefficients - np.where(constant, scale, 0.0))


def inverse_map(profile: Floats) -> Floats:
    """Return the correction factor for a measured receive map.

    Parameters
    ----------
    profile
        Relative receive sensitivity, any shape.

    Returns
    -------
    factor
        1 over the profile, normalized to the median of its positive part; where the profile is
        below a twentieth of that median (outside the map) it counts as that, so that air is not
        blown up.

    Raises
    ------
    ValueError
        If the profile is nowhere positive.

    Examples
    --------
    >>> inverse_map(np.array([0.5, 1.0, 2.0]))
    array([2. , 1. , 0.5], dtype=float32)
    """
    positive = profile[profile > 0]
    if not positive.size:
        raise ValueError("the receive map is nowhere positive")
    relative = profile / np.median(positive)
    return np.asarray(1 / np.maximum(relative, 0.05), np.float32)
