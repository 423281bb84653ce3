"""The receive profile of a coil array, from an array image and a volume-coil image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sodiumprep.sodium.acquisition import Floats

SHORTEST_WAVE = 90.0  # mm; no array profile inside a head varies faster
PRIOR_SD = 2.0  # of the log profile, at the longest wave; halved by every doubling^3 of the order
MODEL_ERROR = 0.03  # relative: truncation and motion between the images of the pair
SIGNAL_TO_NOISE = 3.0  # array voxels below it tell nothing


@dataclass(frozen=True)
class SmoothField:
    """The exponential of a sum of cosines over a box: smooth, positive, defined everywhere.

    Parameters
    ----------
    corner, size
        Lower corner and edges of the box, shape (3,) [mm]; outside, the field continues at its
        edge value.
    orders
        Half waves along each axis, shape (m, 3).
    coefficients
        Shape (m,).
    covariance
        Of the coefficients, shape (m, m).
    """

    corner: Floats
    size: Floats
    orders: Floats
    coefficients: Floats
    covariance: Floats

    def basis(self, positions: Floats) -> Floats:
        """Return the basis functions at positions, shape (n, 3) [mm] to (n, m)."""
        return _cosines(positions, self.corner, self.size, self.orders)

    def __call__(self, positions: Floats) -> Floats:
        """Return the field at positions, shape (n, 3) [mm] to (n,)."""
        blocks = np.array_split(positions, max(1, len(positions) // 50_000))
        return np.concatenate([np.exp(self.basis(block) @ self.coefficients) for block in blocks])

    def region_means(self, positions: Floats, weights: Floats) -> Floats:
        """Return the weighted mean of the basis over regions.

        Parameters
        ----------
        positions
            Shape (n voxels, 3) [mm].
        weights
            Shape (regions, n voxels).

        Returns
        -------
        means
            Shape (regions, m).
        """
        means = np.zeros((len(weights), len(self.orders)))
        for row, weight in zip(means, weights, strict=True):
            used = weight > 0
            row[:] = weight[used] @ self.basis(positions[used]) / weight[used].sum()
        return means


def grid_positions(shape: tuple[int, ...], affine: Floats) -> Floats:
    """Return the positions of all voxels.

    Parameters
    ----------
    shape
        Of the image.
    affine
        Voxel index to position, shape (4, 4) [mm].

    Returns
    -------
    positions
        Shape (n voxels, 3) [mm], last axis of the image fastest.
    """
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return np.asarray(index.reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3])


def _cosines(positions: Floats, corner: Floats, size: Floats, orders: Floats) -> Floats:
    unit = np.clip((positions - corner) / size, 0, 1)
    highest = int(orders.max())
    waves = np.cos(np.pi * unit[:, :, None] * np.arange(highest + 1))
    product = np.ones((len(positions), len(orders)))
    for axis in range(3):
        product *= waves[:, axis, orders[:, axis].astype(int)]
    return product


def _wave_orders(size: Floats) -> Floats:
    highest = np.floor(2 * size / SHORTEST_WAVE).astype(int)
    grid = np.stack(
        np.meshgrid(*(np.arange(n + 1) for n in highest), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    inside = np.sum((grid * SHORTEST_WAVE / (2 * size)) ** 2, axis=1) <= 1
    return grid[inside]


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
    used = array.ravel() > SIGNAL_TO_NOISE * noise_sd[0]
    if used.sum() < 200:
        raise ValueError(f"only {used.sum()} voxels of the array image exceed 3 noise SDs")
    positions = grid_positions(array.shape, affine)
    corner, size = positions.min(axis=0), np.ptp(positions, axis=0)
    orders = _wave_orders(size)
    basis = _cosines(positions[used], corner, size, orders)
    a, v = array.ravel()[used].astype(np.float64), volume.ravel()[used].astype(np.float64)
    precision = (1 + np.linalg.norm(orders, axis=1) ** 3) ** 2 / PRIOR_SD**2
    coefficients, covariance = _fit_exponential(basis, a, v, noise_sd, precision)
    shift = float(np.average(basis @ coefficients, weights=a))
    coefficients[np.argmin(orders.sum(axis=1))] -= shift
    return SmoothField(corner, size, orders, coefficients, covariance)


def _fit_exponential(
    basis: Floats, a: Floats, v: Floats, noise_sd: tuple[float, float], precision: Floats
) -> tuple[Floats, Floats]:
    """Fit ``v = a exp(basis b)`` by Gauss-Newton with a Gaussian prior on ``b``."""
    constant = int(np.argmax(np.ptp(basis, axis=0) == 0))
    b = np.zeros(basis.shape[1])
    b[constant] = np.log(max(v.sum(), 1e-12) / a.sum())
    precision = np.where(np.arange(len(b)) == constant, 1e-6, precision)
    for _ in range(20):
        model = a * np.exp(np.clip(basis @ b, -20, 20))
        gain = model / a
        variance = noise_sd[1] ** 2 + (gain * noise_sd[0]) ** 2 + (MODEL_ERROR * model) ** 2
        jacobian = basis * model[:, None]
        weighted = jacobian / variance[:, None]
        covariance = np.linalg.inv(weighted.T @ jacobian + np.diag(precision))
        step = covariance @ (weighted.T @ (v - model) - precision * b)
        b = b + step * min(
            1.0, 1.0 / max(np.abs(basis[:: max(1, len(a) // 500)] @ step).max(), 1e-9)
        )
        if np.abs(step).max() < 1e-4:
            break
    return b, covariance


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


def relative_uncertainty(model: SmoothField, region_basis: Floats, reference: Floats) -> Floats:
    """Return how uncertain the field is in regions, relative to where the reference lies.

    Parameters
    ----------
    model
        The fitted field.
    region_basis
        Mean of the basis functions over each region, shape (n, m).
    reference
        The same over the reference, shape (m,): a common factor cancels in the calibration.

    Returns
    -------
    uncertainty
        Relative standard uncertainty, shape (n,).
    """
    difference = region_basis - reference
    variance = np.einsum("nm,mk,nk->n", difference, model.covariance, difference)
    return np.sqrt(np.clip(variance, 0, None))
