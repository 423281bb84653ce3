"""Smooth positive fields over the head: the profile of a coil, from images that it weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Floats

PRIOR_SD = 2.0  # of the log field, at the longest wave; halved by every doubling^3 of the order
MARGIN = 60.0  # mm beyond the images: cosines are level at the ends of their box, fields are not
MODEL_ERROR = 0.03  # relative: truncation and motion between the images of a pair

Response = Callable[[Floats], tuple[Floats, Floats]]  # field to ratio, and to d ratio / d ln field


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


def _wave_orders(size: Floats, shortest_wave: float) -> Floats:
    highest = np.floor(2 * size / shortest_wave).astype(int)
    grid = np.stack(
        np.meshgrid(*(np.arange(n + 1) for n in highest), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    inside = np.sum((grid * shortest_wave / (2 * size)) ** 2, axis=1) <= 1
    return grid[inside]


def proportional(field: Floats) -> tuple[Floats, Floats]:
    """Return what a receive field makes of a signal, and its derivative by the log of the field.

    Parameters
    ----------
    field
        Any shape.

    Returns
    -------
    ratio, slope
        Same shape.
    """
    return field, field


@dataclass(frozen=True)
class Pair:
    """Two images of the same object of which the second is the first times a smooth ratio.

    Parameters
    ----------
    first, second
        Without noise bias, shape (nx, ny, nz).
    affine
        Of both, shape (4, 4) [mm].
    noise_sd
        Of ``first`` and of ``second``: numbers.
    used
        Which voxels tell something, shape (nx, ny, nz).
    model_error
        Relative, of the ratio in one voxel.
    """

    first: Floats
    second: Floats
    affine: Floats
    noise_sd: tuple[float, float]
    used: NDArray[np.bool_]
    model_error: float = MODEL_ERROR


def fit_field(
    pair: Pair, shortest_wave: float, start: float, response: Response = proportional
) -> SmoothField:
    """Fit the smooth field that turns one image of a pair into the other.

    The second image is modelled as the first times the response to the field; voxels are weighted
    by the noise of both. A Gaussian prior on the coefficients of the log field keeps it smooth
    and carries it into regions that tell nothing.

    Parameters
    ----------
    pair
        The images.
    shortest_wave
        Of the field [mm].
    start
        Field from which the fit starts, everywhere.
    response
        Ratio of the images for a field.

    Returns
    -------
    field
        With the covariance of its coefficients.
    """
    positions = grid_positions(pair.first.shape, pair.affine)
    used = pair.used.ravel()
    corner, size = positions.min(axis=0) - MARGIN, np.ptp(positions, axis=0) + 2 * MARGIN
    orders = _wave_orders(size, shortest_wave)
    basis = _cosines(positions[used], corner, size, orders)
    first, second = (image.ravel()[used].astype(np.float64) for image in (pair.first, pair.second))
    constant = orders.sum(axis=1) == 0
    prior = (1 + np.linalg.norm(orders, axis=1) ** 3) ** 2 / PRIOR_SD**2
    precision = np.where(constant, 1e-6, prior)
    b = np.where(constant, np.log(start), 0.0)
    for _ in range(20):
        ratio, slope = response(np.exp(np.clip(basis @ b, -20, 20)))
        model = first * ratio
        variance = (
            pair.noise_sd[1] ** 2
            + (ratio * pair.noise_sd[0]) ** 2
            + (pair.model_error * model) ** 2
        )
        jacobian = basis * (first * slope)[:, None]
        weighted = jacobian / variance[:, None]
        covariance = np.linalg.inv(weighted.T @ jacobian + np.diag(precision))
        pulled = precision * np.where(constant, 0, b)
        step = covariance @ (weighted.T @ (second - model) - pulled)
        b = b + step * min(
            1.0, 1.0 / max(np.abs(basis[:: max(1, len(first) // 500)] @ step).max(), 1e-9)
        )
        if np.abs(step).max() < 1e-4:
            break
    return SmoothField(corner, size, orders, b, covariance)


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
