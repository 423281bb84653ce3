"""Encoding as algebra: what an acquisition does to an image, in operators with adjoints.

Each is a ``sigpy.linop.Linop``, so that they compose: with
``A = Fourier(...) * Sensitivities(...)`` and ``W = weighting(...)`` the expression
``A.H * W * A`` is an operator as well. Single precision in, single precision out; double stays
double where the trajectory is double too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sigpy.linop import Linop

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry, Numbers
from sodiumprep.sodium.encoding import Transform
from sodiumprep.sodium.segments import Segments
from sodiumprep.sodium.toeplitz import Normal as Normal


class _TwoWay(Linop):  # type: ignore[misc]  # sigpy has no types
    """An operator that knows both directions."""

    def forward(self, values: Numbers) -> Numbers:
        raise NotImplementedError

    def backward(self, values: Numbers) -> Numbers:
        raise NotImplementedError

    def _apply(self, values: Numbers) -> Numbers:
        return self.forward(values)

    def _adjoint_linop(self) -> Linop:
        return _Backward(self)


class _Backward(Linop):  # type: ignore[misc]
    def __init__(self, operator: _TwoWay) -> None:
        super().__init__(operator.ishape, operator.oshape, repr_str=f"{operator.repr_str}.H")
        self.operator = operator

    def _apply(self, values: Numbers) -> Numbers:
        return self.operator.backward(values)

    def _adjoint_linop(self) -> Linop:
        return self.operator


def _each(
    transform: Callable[[Numbers], Complexes],
    values: Numbers,
    one_shape: Sequence[int],
    out_shape: Sequence[int],
) -> Complexes:
    """Transform the coils one by one, into place."""
    flat = values.reshape(-1, *one_shape)
    first = transform(flat[0])
    found = np.empty((len(flat), *first.shape), first.dtype)
    found[0] = first
    for index in range(1, len(flat)):
        found[index] = transform(flat[index])
    return found.reshape(out_shape)


class Fourier(_TwoWay):
    """From images to samples: ``sum_r image(r) exp(-i 2 pi k_j.r)``.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid.
    coils
        None for one image of shape (nx, ny, nz), otherwise images of shape (coils, nx, ny, nz).
    """

    def __init__(self, trajectory: Floats, geometry: Geometry, coils: int | None = None) -> None:
        leading = [] if coils is None else [coils]
        self.transform = Transform(trajectory, geometry)
        super().__init__([*leading, *trajectory.shape[:2]], [*leading, *geometry.matrix])

    def forward(self, values: Numbers) -> Complexes:
        """Return the samples of each image."""
        return _each(self.transform.forward, values, self.ishape[-3:], self.oshape)

    def backward(self, values: Numbers) -> Complexes:
        """Return the image of each set of samples."""
        return _each(self.transform.adjoint, values, self.oshape[-2:], self.ishape)


class SegmentedFourier(_TwoWay):
    """From images to samples while each voxel's signal decays or turns along the readout.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid.
    segments
        Of the ``n`` samples of a readout.
    coils
        None for one image of shape (nx, ny, nz), otherwise images of shape (coils, nx, ny, nz).
    """

    def __init__(
        self, trajectory: Floats, geometry: Geometry, segments: Segments, coils: int | None = None
    ) -> None:
        leading = [] if coils is None else [coils]
        self.segments = segments
        self.pieces = [(Transform(trajectory[:, own], geometry), own) for own in segments.supports]
        super().__init__([*leading, *trajectory.shape[:2]], [*leading, *geometry.matrix])

    def forward(self, values: Numbers) -> Complexes:
        """Return the samples of each image."""
        return _each(self._forward, values, self.ishape[-3:], self.oshape)

    def backward(self, values: Numbers) -> Complexes:
        """Return the image of each set of samples."""
        return _each(self._backward, values, self.oshape[-2:], self.ishape)

    def _forward(self, image: Numbers) -> Complexes:
        samples = np.zeros(self.oshape[-2:], np.result_type(image, np.complex64))
        for index, (transform, own) in enumerate(self.pieces):
            course = self.segments.course(index, samples.real.dtype.type)
            seen = transform.forward(image * self.segments.voxel_map(index))
            samples[:, own] += course * seen
        return samples

    def _backward(self, samples: Numbers) -> Complexes:
        image = np.zeros(self.ishape[-3:], np.result_type(samples, np.complex64))
        for index, (transform, own) in enumerate(self.pieces):
            course = self.segments.course(index, image.real.dtype.type)
            seen = transform.adjoint(samples[:, own] * course.conj())
            image += self.segments.voxel_map(index).conj() * seen
        return image


class Sensitivities(_TwoWay):
    """From an image to what each coil sees of it.

    Parameters
    ----------
    maps
        Shape (coils, nx, ny, nz), complex.
    """

    def __init__(self, maps: Complexes) -> None:
        self.maps = maps
        super().__init__(maps.shape, maps.shape[1:])

    def forward(self, values: Numbers) -> Complexes:
        """Return the image of each coil."""
        return np.asarray(values * self.maps)

    def backward(self, values: Numbers) -> Complexes:
        """Return the sum of the coils' images, each times its conjugate sensitivity."""
        image = np.zeros(self.ishape, np.result_type(values, self.maps))
        for one, sensitivity in zip(values, self.maps, strict=True):
            image += sensitivity.conj() * one
        return image


class _Product(_TwoWay):
    """Element-wise, in the precision of what comes."""

    def __init__(self, factor: Numbers, shape: Sequence[int]) -> None:
        self.factor = factor
        super().__init__(shape, shape)

    def _factor(self, values: Numbers) -> Numbers:
        real_type = values.real.dtype
        wide = (
            np.result_type(real_type, np.complex64) if np.iscomplexobj(self.factor) else real_type
        )
        return self.factor.astype(wide, copy=False)

    def forward(self, values: Numbers) -> Numbers:
        return np.asarray(values * self._factor(values))

    def backward(self, values: Numbers) -> Numbers:
        return np.asarray(values * self._factor(values).conj())


def weighting(weights: Floats, coils: int | None = None) -> Linop:
    """Return the operator that multiplies samples by density compensation or 1/variance.

    Parameters
    ----------
    weights
        Shape (readouts, n).
    coils
        None for samples of shape (readouts, n), otherwise of shape (coils, readouts, n).

    Returns
    -------
    operator
        Its own adjoint for real weights.
    """
    leading = () if coils is None else (coils,)
    return _Product(weights, [*leading, *weights.shape])


def decay_along_readout(course: Numbers, n_readouts: int, coils: int | None = None) -> Linop:
    """Return the operator of a change that all voxels share, such as one relaxation.

    Parameters
    ----------
    course
        Factor of each sample of a readout, shape (n,).
    n_readouts
        Number of readouts.
    coils
        As in :func:`weighting`.

    Returns
    -------
    operator
        On samples of shape (readouts, n) or (coils, readouts, n).
    """
    leading = () if coils is None else (coils,)
    return _Product(course, [*leading, n_readouts, len(course)])


def encoding(
    trajectory: Floats,
    geometry: Geometry,
    maps: Complexes | None = None,
    segments: Segments | None = None,
) -> Linop:
    """Return the operator from an image to the samples of all coils.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid.
    maps
        Coil sensitivities, shape (coils, nx, ny, nz), or None for one uniform coil.
    segments
        Change along the readout, or None.

    Returns
    -------
    operator
        From (nx, ny, nz) to (readouts, n), or to (coils, readouts, n) where ``maps`` are given.
    """
    coils = None if maps is None else len(maps)
    transform = (
        Fourier(trajectory, geometry, coils)
        if segments is None
        else SegmentedFourier(trajectory, geometry, segments, coils)
    )
    return transform if maps is None else transform * Sensitivities(maps)
