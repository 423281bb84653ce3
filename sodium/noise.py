"""Noise of an image: its level, its correlation, and what both mean for a regional mean."""

from __future__ import annotations

import numpy as np
import scipy.fft

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry
from sodiumprep.sodium.kernel import blur, point_spread, to_transfer

CORNER_SHARE = 0.15  # edge of each corner cube over the edge of the image


def noise_covariance(noise: Complexes, dwell_ratio: float) -> Complexes:
    """Return the coil covariance of the imaging samples, from noise-only samples.

    Parameters
    ----------
    noise
        Shape (coils, m).
    dwell_ratio
        Dwell time of the noise samples over that of the imaging samples; the variance of a
        sample is inverse to its dwell time.

    Returns
    -------
    covariance
        Shape (coils, coils), of the complex samples (twice that of the real part).

    Raises
    ------
    ValueError
        If the noise samples are fewer than twice the coils, or all zero.

    References
    ----------
    Pruessmann et al. 2001, doi:10.1002/mrm.1241
    """
    coils, m = noise.shape
    if m < 2 * coils:
        raise ValueError(f"{m} noise samples for {coils} coils; at least {2 * coils} are needed")
    covariance = np.asarray(noise @ noise.conj().T / m, np.complex128)
    if not np.trace(covariance).real > 0:
        raise ValueError("the noise samples are all zero")
    return covariance * dwell_ratio


def adjoint_noise_gain(weights: Floats) -> float:
    """Return the standard deviation of an adjoint image per standard deviation of a sample.

    Parameters
    ----------
    weights
        Density compensation times filter, any shape [1/m^3].

    Returns
    -------
    gain
        [1/m^3], the same in every voxel.

    Examples
    --------
    >>> adjoint_noise_gain(np.array([3.0, 4.0]))
    5.0
    """
    return float(np.sqrt(np.sum(np.asarray(weights, np.float64) ** 2)))


def adjoint_noise_spectrum(weights: Floats, trajectory: Floats, geometry: Geometry) -> Floats:
    """Return the power spectrum of the noise of an adjoint image.

    Parameters
    ----------
    weights
        Density compensation times filter, shape (readouts, n) [1/m^3].
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid.

    Returns
    -------
    spectrum
        Shape (2 nx, 2 ny, nz + 1), correlation 1 at lag 0.
    """
    ones = np.ones(weights.shape[-1], np.float32)
    correlation = point_spread(weights**2, ones, trajectory, geometry)
    centre = tuple(n // 2 for n in correlation.shape)
    return np.asarray(to_transfer(correlation / correlation[centre]).real, np.float32)


def normalized_spectrum(power: Floats, shape: tuple[int, int, int]) -> Floats:
    """Scale a power spectrum so that the correlation at lag 0 is 1.

    Parameters
    ----------
    power
        Shape (2 nx, 2 ny, nz + 1).
    shape
        Shape of the doubled grid, (2 nx, 2 ny, 2 nz).

    Returns
    -------
    spectrum
        Same shape as ``power``.
    """
    at_lag_zero = scipy.fft.irfftn(power, shape)[0, 0, 0]
    return np.asarray(power / at_lag_zero, np.float32)


def weighted_covariance(weights: Floats, noise_sd: Floats, spectrum: Floats) -> Floats:
    """Return ``w S w'`` for weights over voxels and correlated noise of covariance ``S``.

    Parameters
    ----------
    weights
        One row of weights per estimate, shape (m, nx, ny, nz).
    noise_sd
        Standard deviation of each voxel, shape (nx, ny, nz).
    spectrum
        Power spectrum of the noise, shape (2 nx, 2 ny, nz + 1).

    Returns
    -------
    covariance
        Shape (m, m), in units of ``noise_sd`` squared.

    Examples
    --------
    >>> white = np.ones((8, 8, 5))
    >>> mean = np.full((1, 4, 4, 4), 1 / 64)
    >>> round(float(weighted_covariance(mean, np.full((4, 4, 4), 8.0), white)[0, 0]), 6)
    1.0
    """
    scaled = (weights * noise_sd).reshape(len(weights), -1)
    spread = np.stack([blur(row.reshape(noise_sd.shape), spectrum).ravel() for row in scaled])
    covariance = scaled.astype(np.float64) @ spread.T
    return np.asarray((covariance + covariance.T) / 2)


def corner_mask(shape: tuple[int, ...]) -> Floats:
    """Return the eight corner cubes of an image, where a head never reaches.

    Parameters
    ----------
    shape
        Of the image.

    Returns
    -------
    mask
        Boolean, same shape.
    """
    sides = []
    for n in shape:
        edge = max(2, round(CORNER_SHARE * n))
        side = np.zeros(n, bool)
        side[:edge] = side[-edge:] = True
        sides.append(side)
    return np.asarray(np.einsum("i,j,k->ijk", *sides).astype(bool))


def background_moments(magnitude: Floats) -> tuple[float, float, float]:
    """Return noise SD, mean square and mean of the signal-free corners of a magnitude image.

    Parameters
    ----------
    magnitude
        Shape (nx, ny, nz). Voxels that are exactly 0 (masked by the scanner) are left out.

    Returns
    -------
    noise_sd
        Standard deviation of one of the real channels behind the magnitude.
    mean_square
        Mean of the squared background, the bias of a squared magnitude.
    n_channels
        Effective number of channels of the non-central chi distribution (1: Rician).

    Raises
    ------
    ValueError
        If fewer than 100 corner voxels hold a value.

    References
    ----------
    Koay & Basser 2006, doi:10.1016/j.jmr.2006.01.016
    """
    values = magnitude[corner_mask(magnitude.shape)].astype(np.float64)
    values = values[values > 0]
    if values.size < 100:
        raise ValueError(f"only {values.size} background voxels hold a value; 100 are needed")
    mean_square = float(np.mean(values**2))
    n_channels = _chi_channels(float(values.mean()) / float(values.std()))
    return float(np.sqrt(mean_square / (2 * n_channels))), mean_square, n_channels


def _chi_channels(mean_over_sd: float) -> float:
    """Return the channels of a chi background: its mean over SD is 1.91 for one, 3.2 for 2.7."""
    return max(1.0, (mean_over_sd**2 + 0.5) / 4)  # chi of 2n degrees: mean^2 = 2n s^2 - var


def unbiased_magnitude(magnitude: Floats, mean_square: float) -> Floats:
    """Return a magnitude whose mean square is that of the signal without noise.

    Only the second moment is freed of its bias: the mean of voxels at twice the noise SD stays
    about a quarter too low, at five times 2 %.

    Parameters
    ----------
    magnitude
        Any shape.
    mean_square
        Mean square of the signal-free background.

    Returns
    -------
    signal
        ``sqrt(M^2 - mean_square)``, with its sign kept where the square is negative: clipping
        would bias regional means further.

    References
    ----------
    Koay & Basser 2006, doi:10.1016/j.jmr.2006.01.016
    """
    square = np.asarray(magnitude, np.float64) ** 2 - mean_square
    return (np.sign(square) * np.sqrt(np.abs(square))).astype(np.float32)
