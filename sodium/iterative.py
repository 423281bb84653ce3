"""Iterative reconstruction: weighted least squares, solved through its normal operator.

What is minimized is ``1/2 ||A x - y||_W^2`` plus a penalty. All of the data enter through three
things that are computed once: the normal operator ``A^H W A``, the projection ``A^H W y`` and the
energy ``y^H W y``. A solver never touches a sample again.

The strength of a penalty is given relative to the gain of the normal operator, so that it does not
depend on the units of data, weights or sensitivities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
from sigpy.linop import Identity, Linop

from sodiumprep.sodium.acquisition import Complexes, Floats, Numbers


@dataclass(frozen=True)
class LeastSquares:
    """The data term ``1/2 ||A x - y||_W^2`` of one echo, or of several.

    Parameters
    ----------
    normal
        ``A^H W A``, from images to images.
    projected
        ``A^H W y``, shape of an image.
    energy
        ``y^H W y``; 0 where it is not known, then objectives lack that constant.

    Raises
    ------
    ValueError
        If the projection does not have the shape of the operator's images, or is not finite.

    Examples
    --------
    >>> from sigpy.linop import Multiply
    >>> twice = LeastSquares(Multiply((4,), np.full(4, 2.0)), np.ones(4, np.complex64), 4.0)
    >>> (twice + twice).gain
    4.0
    """

    normal: Linop
    projected: Complexes
    energy: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a projection that the operator cannot have made."""
        shape = tuple(self.normal.ishape)
        if self.projected.shape != shape:
            raise ValueError(f"projection has shape {self.projected.shape}, images have {shape}")
        unusable = int(np.sum(~np.isfinite(self.projected)))
        if unusable:
            raise ValueError(f"{unusable} values of the projected data are not finite")

    def __add__(self, other: LeastSquares) -> LeastSquares:
        """Return the joint data term of two measurements of the same object."""
        return LeastSquares(
            self.normal + other.normal,
            self.projected + other.projected,
            self.energy + other.energy,
        )

    @cached_property
    def gain(self) -> float:
        """Factor that the normal operator applies to a smooth image, where it sees one."""
        ones = np.ones_like(self.projected)
        seen = self.normal(ones)
        return squared_norm(seen) / inner(ones, seen)

    @cached_property
    def amplitude(self) -> float:
        """Magnitude of the brightest hundredth of the projected image."""
        magnitude = np.abs(self.projected)
        return float(np.quantile(magnitude, 0.99)) / self.gain


def least_squares(
    samples: Complexes,
    weights: Floats,
    normal: Linop,
    transform: Linop,
    maps: Complexes | None = None,
) -> LeastSquares:
    """Return the data term of measured samples, projected coil by coil.

    Parameters
    ----------
    samples
        Shape (coils, readouts, n).
    weights
        Shape (readouts, n): density compensation, or what else each sample is worth.
    normal
        ``A^H W A`` of these weights, all coils summed up.
    transform
        Encoding of one uniform coil, from images to samples of shape (readouts, n).
    maps
        Coil sensitivities, shape (coils, nx, ny, nz), or None for one uniform coil.

    Returns
    -------
    problem
        With its energy. No copy of all samples is made.

    Raises
    ------
    ValueError
        If there is not one sensitivity for each coil.

    Examples
    --------
    >>> from sigpy.linop import Multiply
    >>> samples, weights = np.ones((1, 2, 3), np.complex64), np.full((2, 3), 2.0, np.float32)
    >>> problem = least_squares(samples, weights, Multiply((2, 3), 2.0), Multiply((2, 3), 1.0))
    >>> problem.energy
    12.0
    """
    n_maps = 1 if maps is None else len(maps)
    if n_maps != len(samples):
        raise ValueError(f"{len(samples)} coils, but {n_maps} sensitivities")
    projected, energy = np.zeros(transform.ishape, samples.dtype), 0.0
    for index, measured in enumerate(samples):
        weighted = measured * weights
        energy += inner(measured, weighted)
        seen = transform.H(weighted)
        projected += seen if maps is None else maps[index].conj() * seen
    return LeastSquares(normal, projected, energy)


@dataclass(frozen=True)
class Solution:
    """An image with the course of the iteration that found it.

    Parameters
    ----------
    image
        Shape of the problem's images.
    objective
        What is minimized, after each iteration.
    residual
        After each iteration: of the normal equations relative to the projected data for
        conjugate gradients, else the change of the image relative to the image.
    misfit
        ``||A x - y||_W / ||y||_W`` after each iteration; nan where the energy is not known.
    converged
        Whether the tolerance was met before the iterations were used up.
    """

    image: Complexes
    objective: Floats
    residual: Floats
    misfit: Floats
    converged: bool

    @property
    def iterations(self) -> int:
        """Iterations that were made."""
        return len(self.objective)


@dataclass
class Course:
    """What an iteration writes down as it goes, to become a :class:`Solution`."""

    energy: float
    objective: list[float] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)
    misfit: list[float] = field(default_factory=list)

    def note(self, data_term: float, penalty: float, residual: float) -> None:
        """Write down an iteration.

        Parameters
        ----------
        data_term, penalty
            Their sum is the objective.
        residual
            As in :class:`Solution`.
        """
        self.objective.append(data_term + penalty)
        self.residual.append(residual)
        known = self.energy > 0
        self.misfit.append(np.sqrt(max(2 * data_term, 0.0) / self.energy) if known else np.nan)

    def end(self, image: Complexes, converged: bool) -> Solution:
        """Return the solution.

        Parameters
        ----------
        image
            Last iterate.
        converged
            Whether the tolerance was met.

        Returns
        -------
        solution
            With the course that led to it.
        """
        return Solution(
            image,
            np.asarray(self.objective),
            np.asarray(self.residual),
            np.asarray(self.misfit),
            converged,
        )


def inner(first: Numbers, second: Numbers) -> float:
    """Return the real part of an inner product, summed up in double precision.

    Parameters
    ----------
    first, second
        Same shape.

    Returns
    -------
    product
        Real part of ``sum(conj(first) * second)``.

    Examples
    --------
    >>> inner(np.array([1j, 2.0]), np.array([1j, 3.0]))
    7.0
    """
    lines = np.vecdot(reals(first), reals(second))
    return float(np.sum(lines, dtype=np.float64))


def squared_norm(values: Numbers) -> float:
    """Return the sum of squared magnitudes, summed up in double precision.

    Parameters
    ----------
    values
        Any shape.

    Returns
    -------
    norm
        Squared.
    """
    return inner(values, values)


def reals(values: Numbers) -> Floats:
    """Return complex numbers as pairs of reals, without a copy where they are contiguous.

    Parameters
    ----------
    values
        Real or complex, at least one dimension.

    Returns
    -------
    pairs
        The last axis is twice as long if ``values`` is complex.

    Examples
    --------
    >>> reals(np.array([1 + 2j, 3]))
    array([1., 2., 3., 0.])
    """
    contiguous = np.ascontiguousarray(values)
    return np.asarray(contiguous.view(contiguous.real.dtype))


class NormalEquations:
    """Conjugate gradients on ``(A^H W A + weight * penalty) x = right``, stopped and resumed.

    Parameters
    ----------
    problem
        Data term.
    penalty
        Quadratic penalty, from images to images.
    weight
        Its weight; 0 skips it.
    """

    def __init__(self, problem: LeastSquares, penalty: Linop, weight: float = 0.0) -> None:
        self.problem = problem
        self.penalty = penalty
        self.weight = weight
        self.image = np.zeros_like(problem.projected)
        self.seen = np.zeros_like(self.image)  # A^H W A of the image
        self.penalized = np.zeros_like(self.image)  # penalty of the image

    def data_term(self) -> float:
        """Return ``1/2 ||A x - y||_W^2`` of the image, up to the energy where it is not known."""
        crossed = inner(self.image, self.seen) / 2 - inner(self.image, self.problem.projected)
        return crossed + self.problem.energy / 2

    def steps(self, right: Complexes) -> Iterator[float]:
        """Yield the squared norm of the residual: of the present image, then after each step.

        Parameters
        ----------
        right
            Right-hand side, shape of an image.

        Yields
        ------
        square
            Squared norm of the residual; there is no step from 0.

        Raises
        ------
        ValueError
            If the operator is not positive: no normal operator, or data of no weight.
        """
        residual = right - self.seen
        add_scaled(residual, -self.weight, self.penalized)
        direction = residual.copy()
        square = squared_norm(residual)
        yield square
        while square > 0:
            new = self._step(residual, direction, square)
            scaled = reals(direction)
            scaled *= scaled.dtype.type(new / square)
            scaled += reals(residual)
            square = new
            yield square

    def _step(self, residual: Complexes, direction: Complexes, square: float) -> float:
        """Go along a direction to the minimum; return the squared norm of the new residual."""
        pairs = [(self.seen, np.asarray(self.problem.normal(direction), direction.dtype), 1.0)]
        if self.weight:
            penalized = np.asarray(self.penalty(direction), direction.dtype)
            pairs.append((self.penalized, penalized, self.weight))
        curvature = sum(weight * inner(direction, change) for _, change, weight in pairs)
        if not curvature > 0:
            raise ValueError(f"the operator is not positive: curvature {curvature:.3g}")
        length = square / curvature
        add_scaled(self.image, length, direction)
        for total, change, weight in pairs:
            add_scaled(total, length, change)
            add_scaled(residual, -length * weight, change)
        return squared_norm(residual)


def add_scaled(target: Complexes, factor: float, values: Complexes) -> None:
    """Add a multiple of one array to another in place.

    Parameters
    ----------
    target
        Contiguous; overwritten.
    factor
        Real.
    values
        Same shape and dtype as ``target``.

    Examples
    --------
    >>> total = np.ones(2, np.complex64)
    >>> add_scaled(total, 2.0, np.array([1, 1j], np.complex64))
    >>> total
    array([3.+0.j, 1.+2.j], dtype=complex64)
    """
    pairs = reals(values)
    sums = reals(target)
    sums += pairs * pairs.dtype.type(factor)


def conjugate_gradient(
    problem: LeastSquares,
    regularization: float = 0.0,
    tolerance: float = 1e-4,
    max_iterations: int = 30,
) -> Solution:
    """Minimize ``1/2 ||A x - y||_W^2 + lambda/2 ||x||^2`` by conjugate gradients (CG-SENSE).

    Parameters
    ----------
    problem
        Data term.
    regularization
        ``lambda`` over the gain of the normal operator, at least 0.
    tolerance
        Stop where the residual of the normal equations falls to this share of the projected data.
    max_iterations
        At most so many.

    Returns
    -------
    solution
        Image, and objective, residual and misfit of each iteration.

    Raises
    ------
    ValueError
        If the regularization is negative, there is no iteration, or the operator is not positive.

    References
    ----------
    Pruessmann et al. 2001, doi:10.1002/mrm.1241

    Examples
    --------
    >>> from sigpy.linop import Multiply
    >>> sampled = LeastSquares(Multiply((2,), np.array([1.0, 4.0])), np.array([1, 8.0 + 0j]))
    >>> conjugate_gradient(sampled).image.round(6)
    array([1.+0.j, 2.+0.j])
    """
    if regularization < 0:
        raise ValueError(f"regularization is {regularization}; it must not be negative")
    if max_iterations < 1:
        raise ValueError(f"{max_iterations} iterations; at least 1 is needed")
    damping = regularization * problem.gain if regularization else 0.0
    equations = NormalEquations(problem, Identity(problem.projected.shape), damping)
    course, steps = Course(problem.energy), equations.steps(problem.projected)
    first, residual = next(steps), 0.0
    for square in islice(steps, max_iterations):
        residual = float(np.sqrt(square / first))
        penalty = damping / 2 * squared_norm(equations.image) if damping else 0.0
        course.note(equations.data_term(), penalty, residual)
        if residual <= tolerance:
            break
    return course.end(equations.image, residual <= tolerance)
