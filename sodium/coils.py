"""Receive coils: their noise, their sensitivities, and combining their images.

One convention for all methods: sensitivities have a root sum of squares of 1 in every voxel, in
the units of the coils as they were measured, so that a combined image, whatever the method,
carries the root sum of squares of the true sensitivities as its profile. That is the profile
which a receive correction divides out. Their phase is that of the low-resolution coil images, so
that the object's own smooth phase is in them and a combined image is real but for noise.
Prewhitened samples go with prewhitened sensitivities (the same matrix on both), which are not
normalized again: the image, and its profile, stay the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import sigpy
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry
from sodiumprep.sodium.encoding import adjoint

SMOOTHING = 2.5  # voxels; wide against the noise correlation, narrow against coil and object phase
CENTRE_RADIUS = 12  # cycles per field of view that coil sensitivities are taken from
COSINE_ORDER = 8  # half periods per field of view of the finest cosine in a sensitivity
ROUGHNESS = 20.0**-4  # weight of the squared Laplacian: halves what has 20 half periods
ESPIRIT_MIXTURES = 16  # the time grows with the cube of the coils: more are reduced to these
ESPIRIT_KERNEL = 4  # samples along each axis of a calibration kernel
ESPIRIT_THRESHOLD = 0.02  # singular values that count, relative to the largest
NOISE_POWER = 2.0  # squared singular values below this times their lower quartile are noise
ESPIRIT_CROP = 0.8  # eigenvalue below which a voxel holds no object


def smooth_coil_images(coil_images: Complexes) -> Complexes:
    """Return low-resolution coil images.

    Parameters
    ----------
    coil_images
        Shape (coils, nx, ny, nz).

    Returns
    -------
    smooth
        Same shape.
    """
    parts = [
        gaussian_filter(part, (0, SMOOTHING, SMOOTHING, SMOOTHING))
        for part in (coil_images.real, coil_images.imag)
    ]
    return np.asarray(parts[0] + 1j * parts[1], np.complex64)


def combine_coils(
    coil_images: Complexes, covariance: Complexes, low_resolution: Complexes | None = None
) -> tuple[Floats, Floats]:
    """Combine coil images to a real image, in phase with their own low-resolution images.

    Each voxel is projected on the unit vector of the low-resolution coil images. The result
    carries the root sum of squares of the sensitivities as its profile, like a sum of squares,
    but its noise has mean zero wherever the low-resolution images show signal. In air, where
    they are noise themselves, a small positive mean remains (0.4 noise SDs for 4 coils, where a
    sum of squares has 2.7).

    Parameters
    ----------
    coil_images
        Shape (coils, nx, ny, nz).
    covariance
        Noise covariance of the complex coil images, shape (coils, coils).
    low_resolution
        :func:`smooth_coil_images` of them, where it is at hand.

    Returns
    -------
    image
        Shape (nx, ny, nz), real, may be negative in noise.
    noise_sd
        Standard deviation of ``image``, same shape.

    References
    ----------
    Roemer et al. 1990, doi:10.1002/mrm.1910160203;
    Walsh et al. 2000, doi:10.1002/(SICI)1522-2594(200005)43:5<682::AID-MRM10>3.0.CO;2-G
    """
    if low_resolution is None:
        low_resolution = smooth_coil_images(coil_images)
    unit = unit_vectors(low_resolution)
    image = np.sum(unit.conj() * coil_images, axis=0).real
    variance = (
        np.einsum("ixyz,ij,jxyz->xyz", unit.conj(), covariance, unit, optimize=True).real / 2
    )
    return image.astype(np.float32), np.sqrt(variance).astype(np.float32)


def unit_vectors(coil_images: Complexes) -> Complexes:
    """Divide coil images by their root sum of squares.

    Parameters
    ----------
    coil_images
        Shape (coils, ...).

    Returns
    -------
    unit
        Same shape and dtype; 0 where all coils are 0.
    """
    total = sum_of_squares(coil_images)
    return np.asarray(coil_images / np.maximum(total, np.finfo(total.dtype).tiny))


def sum_of_squares(coil_images: Complexes) -> Floats:
    """Combine coil images by the root sum of squares, the reference that needs no sensitivities.

    Parameters
    ----------
    coil_images
        Shape (coils, ...).

    Returns
    -------
    image
        Shape (...), not negative: noise raises it where there is little signal.

    References
    ----------
    Roemer et al. 1990, doi:10.1002/mrm.1910160203

    Examples
    --------
    >>> sum_of_squares(np.array([[3.0], [4j]]))
    array([5.])
    """
    return np.asarray(np.sqrt(np.sum(np.abs(coil_images) ** 2, axis=0)))


def combine(
    coil_images: Complexes, sensitivities: Complexes, covariance: Complexes
) -> tuple[Complexes, Floats]:
    """Combine coil images by their sensitivities at the best signal-to-noise ratio.

    Parameters
    ----------
    coil_images
        Shape (coils, nx, ny, nz).
    sensitivities
        Same shape, root sum of squares 1.
    covariance
        Noise covariance of the complex coil images, shape (coils, coils).

    Returns
    -------
    image
        Complex, shape (nx, ny, nz); its profile is the root sum of squares of the true
        sensitivities. Real but for noise, since the sensitivities carry the object's phase.
    noise_sd
        Standard deviation of the real part, same shape; 0, like the image, where all
        sensitivities are 0.

    Raises
    ------
    ValueError
        If shapes differ or the covariance is not positive definite.

    References
    ----------
    Roemer et al. 1990, doi:10.1002/mrm.1910160203
    """
    if coil_images.shape != sensitivities.shape:
        raise ValueError(f"coil images {coil_images.shape}, sensitivities {sensitivities.shape}")
    matrix = whitening_matrix(covariance)
    white = mix_coils(matrix, sensitivities)
    power = np.sum(np.abs(white) ** 2, axis=0)
    inverse = np.divide(1, power, out=np.zeros_like(power), where=power > 0)
    image = np.sum(white.conj() * mix_coils(matrix, coil_images), axis=0) * inverse
    return image, np.sqrt(inverse / 2)


def whitening_matrix(covariance: Complexes) -> Complexes:
    """Return the matrix that makes the noise of all coils independent and of variance 1.

    Parameters
    ----------
    covariance
        Noise covariance of the complex samples, shape (coils, coils).

    Returns
    -------
    matrix
        Inverse Cholesky factor, shape (coils, coils), lower triangular.

    Raises
    ------
    ValueError
        If the covariance is not positive definite: two coils share all their noise, or one has
        none.

    References
    ----------
    Pruessmann et al. 2001, doi:10.1002/mrm.1241
    """
    try:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)))
    except np.linalg.LinAlgError as error:
        least = np.linalg.eigvalsh(covariance)[0]
        raise ValueError(
            f"the noise covariance has the eigenvalue {least:.3g}; all must be positive"
        ) from error


def mix_coils(matrix: Complexes, arrays: Complexes) -> Complexes:
    """Multiply the coil axis by a matrix.

    Parameters
    ----------
    matrix
        Shape (mixtures, coils).
    arrays
        Samples, images or sensitivities, shape (coils, ...).

    Returns
    -------
    mixed
        Shape (mixtures, ...), dtype of ``arrays``.
    """
    flat = matrix.astype(arrays.dtype) @ arrays.reshape(len(arrays), -1)
    return np.asarray(flat.reshape(-1, *arrays.shape[1:]))


def prewhiten(samples: Complexes, covariance: Complexes) -> tuple[Complexes, Complexes]:
    """Return samples whose noise is independent between coils and of variance 1.

    Parameters
    ----------
    samples
        Shape (coils, readouts, n).
    covariance
        Noise covariance of the complex samples, shape (coils, coils).

    Returns
    -------
    whitened
        Same shape and dtype; the variance of the real part alone is 1/2.
    matrix
        Shape (coils, coils). Sensitivities go through it too (:func:`mix_coils`) and are not
        normalized again; the image then keeps the units and the profile of the samples.

    Raises
    ------
    ValueError
        If the covariance is not positive definite or has another number of coils.

    References
    ----------
    Pruessmann et al. 2001, doi:10.1002/mrm.1241

    Examples
    --------
    >>> whitened, matrix = prewhiten(np.full((1, 1, 2), 6 + 0j), np.array([[4 + 0j]]))
    >>> whitened.real.tolist(), matrix.real.tolist()
    ([[[3.0, 3.0]]], [[0.5]])
    """
    coils = len(samples)
    if covariance.shape != (coils, coils):
        raise ValueError(f"a covariance of shape {covariance.shape} for {coils} coils")
    matrix = whitening_matrix(covariance)
    return mix_coils(matrix, samples), matrix


def kspace_centre_sensitivities(
    samples: Complexes, weights: Floats, trajectory: Floats, geometry: Geometry
) -> Complexes:
    """Return coil sensitivities from the low-resolution images of the centre of k-space.

    The low-resolution coil images over their root sum of squares, fitted by smooth functions
    with the signal power as weight: where there is no object the fit goes on smoothly.

    Parameters
    ----------
    samples
        Shape (coils, readouts, n).
    weights
        Density compensation, shape (readouts, n) [1/m^3].
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid of the image.

    Returns
    -------
    sensitivities
        Shape (coils, nx, ny, nz), complex64, root sum of squares 1 in every voxel, with the
        object's low-resolution phase.

    Raises
    ------
    ValueError
        If the centre of k-space holds no signal.

    References
    ----------
    McKenzie et al. 2002, doi:10.1002/mrm.10087
    """
    grid = _centre_grid(trajectory, geometry, 1.0)
    images = _centre_images(samples, weights, trajectory, grid, windowed=True)
    power = sum_of_squares(images) ** 2
    return _to_grid(_smooth_fit(unit_vectors(images), power), geometry)


def espirit(
    samples: Complexes, weights: Floats, trajectory: Floats, geometry: Geometry
) -> Complexes:
    """Return coil sensitivities by ESPIRiT from the centre of k-space.

    The centre is gridded to a Cartesian calibration region; the eigenvectors get the phase of
    the low-resolution images, which the method leaves open, and go on smoothly where it finds
    no object.

    Parameters
    ----------
    samples
        Shape (coils, readouts, n).
    weights
        Density compensation, shape (readouts, n) [1/m^3].
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid of the image.

    Returns
    -------
    sensitivities
        As of :func:`kspace_centre_sensitivities`.

    Raises
    ------
    ValueError
        If the centre of k-space holds no signal.

    References
    ----------
    Uecker et al. 2014, doi:10.1002/mrm.24751
    """
    grid = _centre_grid(trajectory, geometry, np.sqrt(3))
    images = _centre_images(samples, weights, trajectory, grid, windowed=True)
    sharp = _centre_images(samples, weights, trajectory, grid, windowed=False)
    virtual = _strongest_mixtures(sharp)
    calibration = sigpy.fft(mix_coils(virtual.conj().T, sharp), axes=(1, 2, 3))
    vectors, eigenvalue = calibration_eigenvectors(calibration)
    vectors = mix_coils(virtual, vectors)
    overlap = np.sum(vectors.conj() * images, axis=0)  # the method leaves the phase open
    turned = vectors * np.exp(1j * np.angle(overlap))
    power = sum_of_squares(images) ** 2 * (eigenvalue > ESPIRIT_CROP)
    return _to_grid(_smooth_fit(turned, power), geometry)


def calibration_eigenvectors(calibration: Complexes) -> tuple[Complexes, Floats]:
    """Return the coil vectors that a Cartesian calibration region reproduces itself with.

    Parameters
    ----------
    calibration
        Centre of k-space, shape (coils, n, n, n), zero frequency at ``n // 2``.

    Returns
    -------
    vectors
        Of norm 1 in each voxel, shape (coils, n, n, n); their phase is arbitrary.
    eigenvalue
        About 1 where there is an object, shape (n, n, n).

    References
    ----------
    Uecker et al. 2014, doi:10.1002/mrm.24751
    """
    shape = calibration.shape[1:]
    kernels = _self_correlation(_signal_projection(calibration))
    offset = [n // 2 - ESPIRIT_KERNEL + 1 for n in shape]
    padding = [(o, n - o - 2 * ESPIRIT_KERNEL + 1) for n, o in zip(shape, offset, strict=True)]
    padded = np.pad(kernels, [(0, 0), (0, 0), *padding])
    operator = np.moveaxis(sigpy.ifft(padded, axes=(2, 3, 4), norm=None), (0, 1), (3, 4))
    values, vectors = np.linalg.eigh(operator * (np.prod(shape) / ESPIRIT_KERNEL**3))
    return np.moveaxis(vectors[..., -1], -1, 0), values[..., -1]


def _signal_projection(calibration: Complexes) -> Complexes:
    """Return the projection on what blocks of the calibration region are made of."""
    width = (ESPIRIT_KERNEL,) * 3
    windows: Any = np.lib.stride_tricks.sliding_window_view
    blocks = windows(calibration, width, axis=(1, 2, 3))
    coils = len(calibration)
    matrix = np.moveaxis(blocks, 0, 3).reshape(-1, coils * ESPIRIT_KERNEL**3)
    power, vectors = np.linalg.eigh(matrix.T @ matrix.conj())
    floor = max(ESPIRIT_THRESHOLD**2 * power[-1], NOISE_POWER * np.quantile(power, 0.25))
    kept = vectors[:, power > floor]
    return np.asarray((kept @ kept.conj().T).reshape(2 * (coils, *width)))


def _strongest_mixtures(images: Complexes) -> Complexes:
    """Return orthonormal mixtures of the coils, the strongest ones, shape (coils, mixtures)."""
    flat = images.reshape(len(images), -1)
    vectors = np.linalg.eigh(flat @ flat.conj().T)[1]
    return np.asarray(vectors[:, -ESPIRIT_MIXTURES:])


def _self_correlation(projection: Complexes) -> Complexes:
    """Sum a projection over the pairs of samples of two coils that lie equally far apart."""
    coils, width = len(projection), ESPIRIT_KERNEL
    correlation = np.zeros((coils, coils, *(2 * width - 1,) * 3), projection.dtype)
    for i, j, k in np.ndindex(width, width, width):
        place = tuple(slice(width - 1 - start, 2 * width - 1 - start) for start in (i, j, k))
        correlation[:, :, *place] += np.moveaxis(projection[..., i, j, k], 4, 1)
    return correlation


def _centre_grid(trajectory: Floats, geometry: Geometry, corner: float) -> Geometry:
    """Return a coarse grid over the same field of view, for the centre of k-space.

    ``corner`` is how far the corner of the region that is taken lies out, over its half edge.
    """
    cycles = np.linalg.norm(trajectory * np.asarray(geometry.fov), axis=-1).max() / corner
    edge = [2 * int(min(CENTRE_RADIUS, cycles, n // 2)) for n in geometry.matrix]
    return replace(geometry, matrix=(edge[0], edge[1], edge[2]))


def _centre_images(
    samples: Complexes, weights: Floats, trajectory: Floats, grid: Geometry, windowed: bool
) -> Complexes:
    """Return the coil images of the centre of k-space, smoothed by a Hann window if asked to."""
    place = np.abs(trajectory * np.asarray(grid.fov)) / (np.asarray(grid.matrix) / 2)
    near = np.linalg.norm(place, axis=-1) if windowed else place.max(axis=-1)
    taken = near < 1
    window = np.cos(np.pi / 2 * near[taken]) ** 2 if windowed else 1
    centre = (samples[:, taken] * (weights[taken] * window))[:, None]
    images = adjoint(centre, trajectory[taken][None], grid)
    if not np.abs(images).max() > 0:
        raise ValueError("the centre of k-space holds no signal to take coil sensitivities from")
    return images


def _smooth_fit(vectors: Complexes, power: Floats) -> Complexes:
    """Fit cosines to coil vectors, weighted by the power of the signal, and make them unit again.

    The penalty on roughness lets the fit go on smoothly where there is no signal.
    """
    orders = np.indices((COSINE_ORDER + 1,) * 3).reshape(3, -1)
    orders = orders[:, np.sum(orders**2, axis=0) <= COSINE_ORDER**2]
    cosines = [np.cos(np.pi * np.outer(np.arange(n) + 0.5, order) / n)
               for n, order in zip(power.shape, orders, strict=True)]  # fmt: skip
    plane = cosines[0][:, None] * cosines[1]
    basis = (plane[:, :, None] * cosines[2]).reshape(power.size, -1)
    weight = (power / power.max()).reshape(-1, 1)
    roughness = np.sum(orders**2, axis=0) ** 2.0 * np.sum(basis**2, axis=0)
    rows = vectors.reshape(len(vectors), -1).T
    normal = basis.T @ (weight * basis) + ROUGHNESS * np.diag(roughness)
    right = weight * rows
    fit = np.linalg.solve(normal, basis.T @ right.real + 1j * (basis.T @ right.imag))
    smooth = basis @ fit.real + 1j * (basis @ fit.imag)
    return unit_vectors(smooth.T.reshape(vectors.shape))


def _to_grid(vectors: Complexes, geometry: Geometry) -> Complexes:
    """Interpolate coil vectors on a coarse grid of the same field of view, and make them unit."""
    fine = vectors
    for axis, n in enumerate(geometry.matrix, start=1):
        m = vectors.shape[axis]
        asked = np.clip((np.arange(n) - n // 2) * (m / n) + m // 2, 0, m - 1)
        matrix = CubicSpline(np.arange(m), np.eye(m))(asked)
        fine = np.moveaxis(np.tensordot(matrix, fine, (1, axis)), 0, axis)
    return unit_vectors(fine).astype(np.complex64)
