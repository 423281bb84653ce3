"""Density compensation: the volume of k-space that each sample stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sodiumprep.sodium.acquisition import Floats, Geometry
from sodiumprep.sodium.encoding import adjoint, forward

STRAIGHT = 1e-3  # largest distance from the spoke, in units of its length


def is_centre_out_radial(trajectory: Floats) -> bool:
    """Tell whether every readout is a straight line that starts at the centre of k-space.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].

    Returns
    -------
    radial
        Whether the analytic weights apply.
    """
    radius = np.linalg.norm(trajectory, axis=-1)
    direction = trajectory[:, -1] / np.maximum(radius[:, -1:], np.finfo(np.float32).tiny)
    off_line = np.abs(trajectory - radius[..., None] * direction[:, None]).max()
    ordered = bool(np.all(np.diff(radius, axis=1) >= 0))
    return ordered and bool(off_line <= STRAIGHT * radius.max())


def radial_weights(trajectory: Floats) -> Floats:
    """Return ``4 pi k^2 dk`` of each sample of a centre-out radial trajectory.

    The trapezoid rule, not the volume of shells between midpoints: the integrand is even in k,
    so the rule converges fast and the centre sample weighs nothing, while shells add ``dk^2/12``
    to every ``k^2`` and inflate the image of a head by some per cent.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m], directions spread evenly over the sphere.

    Returns
    -------
    weights
        Shape (readouts, n) [1/m^3], float32; their sum is the volume of the sampled sphere.

    References
    ----------
    Nagel et al. 2009, doi:10.1002/mrm.22157

    Examples
    --------
    >>> spoke = np.linspace(0, 1, 50)[None, :, None] * np.array([0, 0, 1.0])
    >>> bool(np.isclose(radial_weights(spoke).sum(), 4 / 3 * np.pi, rtol=1e-3))
    True
    """
    radius = np.linalg.norm(np.asarray(trajectory, np.float64), axis=-1)
    middle = (radius[:, 1:] + radius[:, :-1]) / 2
    edges = np.concatenate([np.zeros_like(radius[:, :1]), middle, radius[:, -1:]], axis=1)
    shells = 4 * np.pi * radius**2 * np.diff(edges, axis=1)
    return (shells / len(radius)).astype(np.float32)


def pipe_menon_weights(trajectory: Floats, geometry: Geometry, n_iterations: int = 15) -> Floats:
    """Return weights whose convolution with a kernel of the field of view's width is one.

    The kernel is the transform of a triangle over twice the field of view: non-negative, and of
    integral one, so that the weights carry an absolute scale.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid of the image.
    n_iterations
        Fixed-point iterations.

    Returns
    -------
    weights
        Shape (readouts, n) [1/m^3], float32.

    References
    ----------
    Pipe & Menon 1999,
    doi:10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V
    """
    doubled = doubled_geometry(geometry)
    triangle = [1 - np.abs(np.arange(n) - n // 2) / (n // 2) for n in doubled.matrix]
    window = np.einsum("i,j,k->ijk", *triangle) * float(np.prod(geometry.voxel_size))
    weights = np.full(trajectory.shape[:-1], 1.0, np.float32)
    for _ in range(n_iterations):
        density = forward(window * adjoint(weights, trajectory, doubled), trajectory, doubled)
        weights = (weights / np.maximum(np.abs(density), 1e-20)).astype(np.float32)
    return weights


def doubled_geometry(geometry: Geometry) -> Geometry:
    """Return the grid of the same voxels over twice the field of view.

    Parameters
    ----------
    geometry
        Voxel grid.

    Returns
    -------
    doubled
        Same centre, even matrix.
    """
    x, y, z = geometry.fov
    i, j, k = geometry.matrix
    return replace(geometry, fov=(2 * x, 2 * y, 2 * z), matrix=(2 * i, 2 * j, 2 * k))


def density_weights(trajectory: Floats, geometry: Geometry) -> tuple[Floats, str]:
    """Return density-compensation weights and the name of the way they were found.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid of the image.

    Returns
    -------
    weights
        Shape (readouts, n) [1/m^3].
    method
        "radial" or "Pipe-Menon".
    """
    if is_centre_out_radial(trajectory):
        return radial_weights(trajectory), "radial"
    return pipe_menon_weights(trajectory, geometry), "Pipe-Menon"


def hamming_filter(trajectory: Floats) -> Floats:
    """Return a Hamming window over the radius of k-space.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].

    Returns
    -------
    window
        Shape (readouts, n): 1 at the centre, 0.08 at the largest radius.

    Examples
    --------
    >>> float(hamming_filter(np.array([[[0, 0, 0], [0, 0, 2.0]]])).round(2)[0, 1])
    0.08
    """
    radius = np.linalg.norm(trajectory, axis=-1)
    return np.asarray(0.54 + 0.46 * np.cos(np.pi * radius / radius.max()))
