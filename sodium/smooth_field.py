"""Smooth positive fields over the head: the profile of a coil, from images that it weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Floats

PRIOR_SD = 2.0  # of the log field, at the longest wave; halved by every doubling^3 of the order
MODEL_ERROR = 0.03  # relative: truncation, which differs between the images of a pair
STEPS = 20  # at most
CONVERGED = 1e-4  # largest change of a coefficient of the log field

Booleans = NDArray[np.bool_]
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

    def relative_sd(self, positions: Floats, reference: Floats) -> Floats:
        """Return how uncertain the field is, relative to its mean over some reference.

        Parameters
        ----------
        positions
            Shape (n, 3) [mm].
        reference
            Mean of the basis over the reference, shape (m,).

        Returns
        -------
        uncertainty
            Relative standard uncertainty, shape (n,).
        """
        own, shared, of_reference = self.log_covariance(positions, reference)
        return np.sqrt(np.clip(own - 2 * shared + of_reference, 0, None))

    def log_covariance(self, positions: Floats, reference: Floats) -> tuple[Floats, Floats, float]:
        """Return how the logarithm of the field errs at positions and with some reference.

        A product of two cosines is a sum of two: the variance is a series of twice the orders,
        which many positions share.

        Parameters
        ----------
        positions
            Shape (n, 3) [mm].
        reference
            Weights of the basis functions in the reference, such as their mean over it, shape
            (m,).

        Returns
        -------
        own, shared
            Variance, and covariance with the reference, shape (n,).
        of_reference
            Variance of the reference.
        """
        orders = self.orders.astype(int)
        towards = self.covariance @ reference
        shared = np.zeros(orders.max(axis=0) + 1)
        shared[tuple(orders.T)] = towards
        series = (_squared(orders, self.covariance), shared)
        own, common = _series(positions, (self.corner, self.size), series)
        return own, common, float(reference @ towards)

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


def _squared(orders: NDArray[np.int_], covariance: Floats) -> Floats:
    """Return the coefficients of ``basis @ covariance @ basis`` by their orders."""
    shape = 2 * orders.max(axis=0) + 1
    total = np.zeros(int(np.prod(shape)))
    for signs in 1 - 2 * np.argwhere(np.ones((2, 2, 2))):
        joined = np.abs(orders[:, None] + signs * orders)
        place = np.ravel_multi_index(tuple(np.moveaxis(joined, -1, 0)), tuple(shape))
        total += np.bincount(place.ravel(), covariance.ravel() / 8, len(total))
    return total.reshape(shape)


def _series(
    positions: Floats, box: tuple[Floats, Floats], series: Sequence[Floats]
) -> list[Floats]:
    """Return sums of products of cosines over a box at positions, shape (n, 3) to (n,) each.

    The first series has the highest orders.
    """
    found: list[list[Floats]] = [[] for _ in series]
    for block in np.array_split(positions, max(1, len(positions) // 2_000)):
        cosines = np.cos(np.pi * np.clip((block - box[0]) / box[1], 0, 1)).T
        waves = [_multiples(c, n) for c, n in zip(cosines, series[0].shape, strict=True)]
        for values, coefficients in zip(found, series, strict=True):
            x, y, z = (w[:n] for w, n in zip(waves, coefficients.shape, strict=True))
            in_planes = (coefficients.reshape(-1, len(z)) @ z).reshape(len(x), len(y), -1)
            values.append(np.einsum("xn,xn->n", np.einsum("xyn,yn->xn", in_planes, y), x))
    return [np.concatenate(values) for values in found]


def _multiples(cosine: Floats, count: int) -> Floats:
    """Return the cosines of 0, 1, 2, ... times an angle, shape (n,) to (count, n)."""
    found = np.ones((count, len(cosine)))
    if count > 1:
        found[1] = cosine
    for k in range(2, count):
        found[k] = 2 * cosine * found[k - 1] - found[k - 2]
    return found


def wave_orders(size: Floats, shortest_wave: float) -> Floats:
    """Return the half waves along each axis of all cosines down to a shortest wave.

    Parameters
    ----------
    size
        Edges of the box, shape (3,) [mm].
    shortest_wave
        [mm].

    Returns
    -------
    orders
        Shape (m, 3), the constant first.
    """
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
class Smoothness:
    """How fast a field may vary.

    Parameters
    ----------
    shortest_wave
        [mm].
    prior_sd
        Of the log field, at the longest wave.
    margin
        By which the box reaches beyond the images [mm]: cosines are level at its ends, where a
        field is not.
    """

    shortest_wave: float
    prior_sd: float = PRIOR_SD
    margin: float = 0.0


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
        Of ``first`` and of ``second``: numbers, or one for each voxel.
    used
        Which voxels tell something, shape (nx, ny, nz).
    model_error
        Relative, of the ratio in one voxel.
    nuisance
        Images of which the second may hold some, each with a share of 0 +- 1, shape (k, nx, ny,
        nz).
    """

    first: Floats
    second: Floats
    affine: Floats
    noise_sd: tuple[Floats | float, Floats | float]
    used: Booleans
    model_error: float = MODEL_ERROR
    nuisance: Floats | None = None

    def in_used(self, values: Floats | float) -> Floats:
        """Return the used voxels of an image, or of a number, shape (n,)."""
        return np.broadcast_to(values, self.used.shape)[self.used].astype(np.float64)


@dataclass(frozen=True)
class Equations:
    """What the voxels of a pair say about the parameters of a field.

    The first image is as noisy as the second, so the slope of the model is taken at the best
    estimate of the first from both. Its error is not correlated with that of the residual, and
    noise does not pull the ratio down as it would in a plain regression.

    Parameters
    ----------
    basis
        Of the log field, shape (n, m).
    first, second, variances
        Of the voxels, shape (n,); ``variances`` of both images.
    nuisance
        Shape (n, k).
    model_error
        Relative, of the ratio.
    response
        Field to ratio.

    References
    ----------
    Fuller 1987, Measurement Error Models, doi:10.1002/9780470316665
    """

    basis: Floats
    first: Floats
    second: Floats
    variances: tuple[Floats, Floats]
    nuisance: Floats
    model_error: float
    response: Response

    @classmethod
    def of(cls, pair: Pair, basis: Floats, response: Response) -> Equations:
        """Collect them from the used voxels of a pair."""
        sides = (np.maximum(pair.in_used(sd) ** 2, 1e-300) for sd in pair.noise_sd)
        extra = [] if pair.nuisance is None else [pair.in_used(image) for image in pair.nuisance]
        return cls(
            basis,
            pair.in_used(pair.first),
            pair.in_used(pair.second),
            (next(sides), next(sides)),
            np.stack(extra, axis=1) if extra else np.zeros((len(basis), 0)),
            pair.model_error,
            response,
        )

    def only(self, chosen: Booleans) -> Equations:
        """Return those of some voxels; ``chosen`` has shape (n,)."""
        one, two = self.variances
        return replace(
            self,
            basis=self.basis[chosen],
            first=self.first[chosen],
            second=self.second[chosen],
            variances=(one[chosen], two[chosen]),
            nuisance=self.nuisance[chosen],
        )

    def at(self, parameters: Floats) -> tuple[Floats, Floats, Floats]:
        """Linearize at parameters, all in units of each voxel's SD.

        Parameters
        ----------
        parameters
            Of the log field, then shares of the nuisance, shape (m + k,).

        Returns
        -------
        left, slope, rows
            Residual and its derivative by the log of the field, shape (n,); derivatives by the
            parameters, shape (n, m + k).
        """
        m = self.basis.shape[1]
        ratio, slope = self.response(np.exp(np.clip(self.basis @ parameters[:m], -20, 20)))
        second = self.second - self.nuisance @ parameters[m:]
        one, two = self.variances
        random = two + ratio**2 * one
        best = (self.first * two + second * ratio * one) / random
        sd = np.sqrt(random + (self.model_error * ratio * best) ** 2)
        slope = slope * best / sd
        rows = np.concatenate([slope[:, None] * self.basis, self.nuisance / sd[:, None]], axis=1)
        return (second - ratio * self.first) / sd, slope, rows


@dataclass(frozen=True)
class FieldFit:
    """A fitted field with what it was fitted from.

    Parameters
    ----------
    field
        The field.
    equations
        Of the voxels.
    parameters
        Those at the end, shape (m + k,).
    expected, precision
        What their prior pulls to, and how much, shape (m + k,).
    """

    field: SmoothField
    equations: Equations
    parameters: Floats
    expected: Floats
    precision: Floats


def fit_field(
    pair: Pair, smoothness: Smoothness, start: float, response: Response = proportional
) -> SmoothField:
    """Fit the smooth field that turns one image of a pair into the other.

    The second image is modelled as the first times the response to the field; voxels are weighted
    by the noise of both. A Gaussian prior on the coefficients of the log field keeps it smooth
    and carries it into regions that tell nothing.

    Parameters
    ----------
    pair
        The images.
    smoothness
        Of the field.
    start
        Field from which the fit starts, everywhere.
    response
        Ratio of the images for a field.

    Returns
    -------
    field
        With the covariance of its coefficients.
    """
    return fit_pair(pair, smoothness, start, response).field


def fit_pair(
    pair: Pair, smoothness: Smoothness, start: float, response: Response = proportional
) -> FieldFit:
    """Fit like :func:`fit_field`, and keep what the fit rests on.

    Parameters
    ----------
    pair, smoothness, start, response
        As there.

    Returns
    -------
    fit
        The field with its equations.
    """
    positions = grid_positions(pair.first.shape, pair.affine)
    margin = smoothness.margin
    corner, size = positions.min(axis=0) - margin, np.ptp(positions, axis=0) + 2 * margin
    orders = wave_orders(size, smoothness.shortest_wave)
    basis = _cosines(positions[pair.used.ravel()], corner, size, orders)
    equations = Equations.of(pair, basis, response)
    constant = orders.sum(axis=1) == 0
    prior = (1 + np.linalg.norm(orders, axis=1) ** 3) ** 2 / smoothness.prior_sd**2
    shares = np.ones(equations.nuisance.shape[1])
    precision = np.concatenate([np.where(constant, 1e-6, prior), shares])
    expected = np.concatenate([np.where(constant, np.log(start), 0.0), 0 * shares])
    parameters, covariance = _solve(equations, precision, expected)
    m = len(orders)
    field = SmoothField(corner, size, orders, parameters[:m], covariance[:m, :m])
    return FieldFit(field, equations, parameters, expected, precision)


def _solve(equations: Equations, precision: Floats, start: Floats) -> tuple[Floats, Floats]:
    """Return the parameters where data and prior agree, and their covariance."""
    parameters, m = start, equations.basis.shape[1]
    sampled = equations.basis[:: max(1, len(equations.basis) // 500)]
    for _ in range(STEPS):
        left, _, rows = equations.at(parameters)
        covariance = np.linalg.inv(rows.T @ rows + np.diag(precision))
        step = covariance @ (rows.T @ left - precision * (parameters - start))
        largest = np.abs(sampled @ step[:m]).max()
        parameters = parameters + step * min(1.0, 1.0 / max(largest, 1e-9))
        if np.abs(step).max() < CONVERGED:
            break
    return parameters, covariance


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
    variance = np.sum(difference @ model.covariance * difference, axis=1)
    return np.sqrt(np.clip(variance, 0, None))
