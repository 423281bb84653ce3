"""Reconstruction with a penalty on the length of the gradient, solved to convergence.

Minimizes ``1/2 ||A x - y||_W^2 + lambda sum |K x|`` where ``K x`` is the gradient of the image
(total variation), or what another operator from images to vector fields makes of it. The
alternating-direction method splits the two terms; its quadratic step is a few conjugate gradients
that start from the last image.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
from sigpy.linop import Linop

from sodiumprep.sodium.acquisition import Complexes, Floats, Numbers
from sodiumprep.sodium.iterative import (
    Course,
    LeastSquares,
    NormalEquations,
    Solution,
    add_scaled,
    reals,
    squared_norm,
)

INNER_STEPS = 4  # conjugate gradients of one quadratic step
INNER_TOLERANCE = 0.05  # share of the residual at which a quadratic step is good enough
RELAXATION = 1.6  # over-relaxation; 1.5 to 1.8 is the usual range, doi:10.1561/2200000016
STEP = 0.1  # share of the amplitude that the first weight of the split lets pass as a step
COUPLINGS = (0.02, 1.0)  # range of that weight, in units of the gain of the normal operator
IMBALANCE = 4.0  # ratio of the two residuals of the split from which its weight is changed
CALM = 2  # successive small changes of the objective that mean convergence


class Gradient(Linop):  # type: ignore[misc]  # sigpy has no types
    """Forward differences along the three axes, zero beyond the last voxel.

    Parameters
    ----------
    shape
        Of the image, three axes.
    voxel_size
        Edges of a voxel, shape (3,), any unit: differences are per smallest edge.

    Examples
    --------
    >>> ramp = np.arange(8.0).reshape(2, 2, 2)
    >>> Gradient((2, 2, 2))(ramp)[:, 0, 0, 0]
    array([4., 2., 1.])
    """

    def __init__(self, shape: tuple[int, ...], voxel_size: Floats | None = None) -> None:
        size = np.ones(3) if voxel_size is None else np.asarray(voxel_size, float)
        self.scales = [float(s) for s in size.min() / size]
        super().__init__((3, *shape), shape)

    def _apply(self, image: Numbers) -> Numbers:
        gradient = np.zeros((3, *image.shape), image.dtype)
        for axis, scale in enumerate(self.scales):
            here, there = _neighbours(axis)
            part = gradient[axis]
            np.subtract(image[there], image[here], out=part[here])
            if scale != 1:
                part *= part.real.dtype.type(scale)
        return gradient

    def _adjoint_linop(self) -> Linop:
        return _Divergence(self)

    def _normal_linop(self) -> Linop:
        return _Laplacian(self)


class _Divergence(Linop):  # type: ignore[misc]
    """Adjoint of the gradient: the negative divergence."""

    def __init__(self, gradient: Gradient) -> None:
        self.gradient = gradient
        super().__init__(gradient.ishape, gradient.oshape)

    def _apply(self, vectors: Numbers) -> Numbers:
        image = np.zeros(vectors.shape[1:], vectors.dtype)
        for axis, scale in enumerate(self.gradient.scales):
            here, _ = _neighbours(axis)
            flow = vectors[axis][here]
            _exchange(image, flow if scale == 1 else flow * flow.real.dtype.type(scale), axis)
        return image

    def _adjoint_linop(self) -> Linop:
        return self.gradient


class _Laplacian(Linop):  # type: ignore[misc]
    """Divergence of the gradient, negative, without the field between them."""

    def __init__(self, gradient: Gradient) -> None:
        self.gradient = gradient
        super().__init__(gradient.ishape, gradient.ishape)

    def _apply(self, image: Numbers) -> Numbers:
        curved = np.zeros_like(image)
        for axis, scale in enumerate(self.gradient.scales):
            here, there = _neighbours(axis)
            step = image[there] - image[here]
            if scale != 1:
                step *= step.real.dtype.type(scale**2)
            _exchange(curved, step, axis)
        return curved

    def _adjoint_linop(self) -> Linop:
        return self


def _neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the index of all voxels but the last along an axis, and of those after them."""
    whole = [slice(None)] * 3
    here, there = whole.copy(), whole.copy()
    here[axis], there[axis] = slice(None, -1), slice(1, None)
    return tuple(here), tuple(there)


def _exchange(image: Numbers, flow: Numbers, axis: int) -> None:
    """Take a flow from each voxel and give it to the next one along an axis, in place."""
    here, there = _neighbours(axis)
    np.add(image[there], flow, out=image[there])
    np.subtract(image[here], flow, out=image[here])


def lengths(vectors: Numbers) -> Floats:
    """Return the length of each vector of a field.

    Parameters
    ----------
    vectors
        Shape (3, nx, ny, nz), real or complex.

    Returns
    -------
    lengths
        Shape (nx, ny, nz), real.

    Examples
    --------
    >>> float(lengths(np.array([3.0, 4j, 0]).reshape(3, 1, 1, 1))[0, 0, 0])
    5.0
    """
    pairs = reals(vectors)
    squares = np.einsum("i...,i...->...", pairs, pairs)
    if np.iscomplexobj(vectors):
        squares = squares[..., ::2] + squares[..., 1::2]
    return np.asarray(np.sqrt(squares))


def shortened(vectors: Numbers, by: float) -> Numbers:
    """Return vectors shortened by a length, down to zero: the proximal map of their lengths.

    Parameters
    ----------
    vectors
        Shape (3, nx, ny, nz), real or complex.
    by
        Not negative, unit of the vectors.

    Returns
    -------
    shortened
        Same shape and dtype.

    Examples
    --------
    >>> shortened(np.array([3.0, 4.0, 0.0]).reshape(3, 1, 1, 1), 2.5).ravel()
    array([1.5, 2. , 0. ])
    """
    length = lengths(vectors)
    kept = 1 - by / np.maximum(length, by if by > 0 else 1)
    return np.asarray(vectors * kept.astype(length.dtype))


def noise_strength(problem: LeastSquares, noise_sd: float, share: float = 1.0) -> float:
    """Return the strength of the penalty that is in keeping with the noise.

    A ``lambda`` of 1 to 1.5 noise SDs gave the smallest error in heads of ellipsoids, whatever
    the noise; half of it keeps more detail, for twice the error.

    Parameters
    ----------
    problem
        Data term with density compensation as its weights.
    noise_sd
        SD of the noise of the real part of the projected data, in their unit.
    share
        ``lambda`` in units of it.

    Returns
    -------
    strength
        For :func:`total_variation` and :func:`~sodiumprep.sodium.guided.guided`.

    Raises
    ------
    ValueError
        If the SD or the share is negative, or the projected data are all zero.

    Examples
    --------
    >>> from sigpy.linop import Identity
    >>> problem = LeastSquares(Identity((4, 4, 4)), np.full((4, 4, 4), 2.0 + 0j))
    >>> noise_strength(problem, 0.1)
    0.05
    """
    if not (noise_sd >= 0 and share >= 0):
        raise ValueError(f"noise SD {noise_sd} and share {share} must not be negative")
    if not problem.amplitude > 0:
        raise ValueError("the projected data are zero: no strength is in keeping with them")
    return share * noise_sd / (problem.gain * problem.amplitude)


def total_variation(
    problem: LeastSquares,
    strength: float = 0.02,
    voxel_size: Floats | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 60,
) -> Solution:
    """Minimize ``1/2 ||A x - y||_W^2 + lambda TV(x)``, TV isotropic in three dimensions.

    Parameters
    ----------
    problem
        Data term, images of three axes.
    strength
        ``lambda`` over gain times amplitude of the problem, at least 0; see
        :func:`noise_strength`.
    voxel_size
        Edges of a voxel, shape (3,), any unit.
    tolerance
        Stop where the objective changes by less than this share of itself, twice in succession.
    max_iterations
        At most so many.

    Returns
    -------
    solution
        Image, and objective, change and misfit of each iteration.

    Raises
    ------
    ValueError
        If the strength is negative, or there is no iteration.

    References
    ----------
    Rudin, Osher & Fatemi 1992, doi:10.1016/0167-2789(92)90242-F;
    Ramani & Fessler 2011, doi:10.1109/TMI.2010.2093536
    """
    gradient = Gradient(problem.projected.shape, voxel_size)
    return penalize_lengths(problem, gradient, strength, tolerance, max_iterations)


def penalize_lengths(
    problem: LeastSquares,
    operator: Linop,
    strength: float,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Minimize ``1/2 ||A x - y||_W^2 + lambda sum |K x|`` by alternating directions.

    Parameters
    ----------
    problem
        Data term.
    operator
        ``K``, from images to vector fields of shape (3, nx, ny, nz).
    strength, tolerance, max_iterations
        As in :func:`total_variation`.

    Returns
    -------
    solution
        Image, and objective, change and misfit of each iteration.

    Raises
    ------
    ValueError
        If the strength is negative, or there is no iteration.

    References
    ----------
    Boyd et al. 2011, doi:10.1561/2200000016
    """
    if strength < 0:
        raise ValueError(f"strength is {strength}; it must not be negative")
    if max_iterations < 1:
        raise ValueError(f"{max_iterations} iterations; at least 1 is needed")
    split = Split(problem, operator, strength)
    course, calm = Course(problem.energy), 0
    for _ in range(max_iterations):
        change = split.iterate()
        course.note(split.equations.data_term(), split.penalty(), change)
        calm = calm + 1 if _is_calm(course.objective, tolerance) else 0
        if calm == CALM:
            break
    return course.end(split.equations.image, calm == CALM)


def _is_calm(objective: list[float], tolerance: float) -> bool:
    if len(objective) < 2:
        return False
    return abs(objective[-1] - objective[-2]) <= tolerance * abs(objective[-1])


class Split:
    """State of the alternating-direction method.

    Parameters
    ----------
    problem
        Data term.
    operator
        ``K``, from images to vector fields.
    strength
        ``lambda`` over gain times amplitude of the problem.
    """

    def __init__(self, problem: LeastSquares, operator: Linop, strength: float) -> None:
        self.operator = operator
        self.weight = strength * problem.gain * problem.amplitude
        self.coupling = float(np.clip(strength / STEP, *COUPLINGS)) * problem.gain
        self.equations = NormalEquations(problem, operator.N, self.coupling)
        self.vectors = np.zeros(operator.oshape, problem.projected.dtype)  # stands for K x
        self.dual = np.zeros_like(self.vectors)  # sum of what K x and the vectors differ by
        self.field = self.vectors  # K x

    def penalty(self) -> float:
        """Return ``lambda sum |K x|`` of the image."""
        return self.weight * float(lengths(self.field).sum(dtype=np.float64))

    def iterate(self) -> float:
        """Improve the image, then the vectors, then the dual; return the image's change."""
        before = self.equations.image.copy()
        self._improve_image()
        self.field = self.operator(self.equations.image)
        relaxed = self.field * self.field.real.dtype.type(RELAXATION)
        add_scaled(relaxed, 1 - RELAXATION, self.vectors)
        relaxed += self.dual
        new = shortened(relaxed, self.weight / self.coupling)
        moved = squared_norm(new - self.vectors)
        self.vectors, self.dual = new, relaxed - new
        self._rebalance(squared_norm(self.field - self.vectors), moved)
        size = squared_norm(self.equations.image)
        return float(np.sqrt(squared_norm(self.equations.image - before) / size)) if size else 0.0

    def _improve_image(self) -> None:
        target: Complexes = self.operator.H(self.vectors - self.dual)
        right = self.equations.problem.projected.copy()
        add_scaled(right, self.coupling, target)
        steps = self.equations.steps(right)
        first = next(steps)
        for square in islice(steps, INNER_STEPS):
            if square <= INNER_TOLERANCE**2 * first:
                break

    def _rebalance(self, apart: float, moved: float) -> None:
        """Double or halve the coupling where one residual of the split dwarfs the other."""
        factor = 1.0
        if apart > IMBALANCE**2 * moved:
            factor = 2.0
        elif moved > IMBALANCE**2 * apart:
            factor = 0.5
        self.coupling *= factor
        self.equations.weight = self.coupling
        self.dual /= self.dual.real.dtype.type(factor)
