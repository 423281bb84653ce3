"""Density compensation: the volume of k-space that each sample stands for."""

from __future__ import annotations

from dataclasses import replace

import finufft
import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, lpmv

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry

STRAIGHT = 1e-3  # largest distance from the spoke, in units of its length
UNEVEN = 0.05  # relative variation of the density of directions above which they are clustered
FEW = 4  # over the number of readouts: the variation that cannot be avoided with few
HIGHEST_DEGREE = 4  # of the spherical harmonics in which that density is looked at
TINY = np.finfo(np.float32).tiny
INNER = 8.0  # over the field of view: radius within which weights are found for each sample
OUTER_STEP = 0.7  # over the field of view: between the samples whose weights are found beyond
FAINT = 1e-3  # of the wanted density; less is taken for this much
ROUND = 1.01  # samples outside the ellipsoid by less than this factor are still inside
TRANSFORM_ACCURACY = 1e-3  # of the density, where the weights are wanted to a per cent


def direction_unevenness(directions: Floats) -> float:
    """Return how much the density of directions varies over the sphere.

    Parameters
    ----------
    directions
        Unit vectors, shape (n, 3).

    Returns
    -------
    unevenness
        Root mean square of the relative density, over the sphere, in spherical harmonics of
        degree 1 to 4: 0 for an even spread, 0.16 for 1000 random directions, above 0.8 for half
        a sphere.

    Examples
    --------
    >>> half = np.array([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)]) / np.sqrt(3)
    >>> direction_unevenness(half) > 1
    True
    """
    x, y, z = np.asarray(directions, np.float64).T
    azimuth, power = np.arctan2(y, x), 0.0
    for degree in range(1, HIGHEST_DEGREE + 1):
        for order in range(degree + 1):
            wave = np.mean(lpmv(order, degree, np.clip(z, -1, 1)) * np.exp(1j * order * azimuth))
            scale = np.exp(gammaln(degree - order + 1) - gammaln(degree + order + 1))
            power += (2 * degree + 1) * scale * (2 if order else 1) * float(np.abs(wave) ** 2)
    return float(np.sqrt(power))


def _directions(positions: Floats) -> Floats:
    length = np.linalg.norm(positions, axis=-1, keepdims=True)
    return np.asarray(positions / np.maximum(length, TINY))


def _is_centre_out(radius: Floats) -> bool:
    """Tell whether no sample lies nearer to the centre than the one before it."""
    return bool(np.all(np.diff(radius, axis=1) >= -1e-6 * radius.max()))


def is_isotropic(trajectory: Floats) -> bool:
    """Tell whether each moment of the readouts samples one sphere, evenly.

    So do radial and density-adapted radial readouts and twisted projections; their weights are
    known in closed form. Half a sphere or clustered spokes are not isotropic.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].

    Returns
    -------
    isotropic
        Whether the analytic weights apply.

    Examples
    --------
    >>> is_isotropic(np.linspace(0, 1, 9)[None, :, None] * np.array([0, 0, 1.0]))
    False
    """
    radius = np.linalg.norm(trajectory, axis=-1)
    same = np.abs(radius - radius[:1]).max() <= STRAIGHT * radius.max()
    if not (same and _is_centre_out(radius)):
        return False
    accepted = max(UNEVEN, FEW / len(radius))
    shown = (radius.shape[1] // 2, -1)
    return all(direction_unevenness(_directions(trajectory[:, i])) <= accepted for i in shown)


def is_centre_out_radial(trajectory: Floats) -> bool:
    """Tell whether the readouts are straight lines from the centre, spread evenly.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].

    Returns
    -------
    radial
        Whether they are.
    """
    radius = np.linalg.norm(trajectory, axis=-1)
    direction = _directions(trajectory[:, -1])
    off_line = np.abs(trajectory - radius[..., None] * direction[:, None]).max()
    return bool(off_line <= STRAIGHT * radius.max()) and is_isotropic(trajectory)


def radial_weights(trajectory: Floats) -> Floats:
    """Return ``4 pi k^2 dk`` of each sample of an isotropic centre-out trajectory.

    Exact wherever each readout stands for the same solid angle at every radius, be it a spoke or
    wound on a cone.

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


def pipe_menon_weights(trajectory: Floats, geometry: Geometry, n_iterations: int = 8) -> Floats:
    """Return weights whose convolution with a narrow kernel is that of the sampled region.

    The kernel is the transform of a Hann window over twice the field of view: of integral one,
    so that the weights carry an absolute scale, and falling fast, so that the border of k-space
    is not felt in its middle. Where the samples fill an ellipsoid, the convolution of the weights
    becomes that of the ellipsoid, since demanding one at its border would double the weights
    there; otherwise it becomes one. No weight exceeds a cell of ``1 / FOV``.

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

    Raises
    ------
    ValueError
        If fewer than one iteration is asked for.

    References
    ----------
    Pipe & Menon 1999,
    doi:10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V
    """
    if n_iterations < 1:
        raise ValueError(f"{n_iterations} iterations; at least 1 is needed")
    if not _is_centre_out(np.linalg.norm(trajectory, axis=-1)):
        extent = 2 * np.abs(trajectory).max(axis=(0, 1))
        even = np.full(trajectory.shape[:-1], np.prod(extent) / trajectory[..., 0].size)
        return _iterate(even, trajectory, geometry, n_iterations)
    shown = _enough_samples(trajectory, geometry)
    first = radial_weights(trajectory[:, shown])
    found = _iterate(first, trajectory[:, shown], geometry, n_iterations)
    factor = found / np.maximum(first, TINY)
    factor[:, 0] = factor[:, 1]  # the centre weighs nothing
    place = np.searchsorted(shown, np.arange(trajectory.shape[1]), side="right") - 1
    place = np.minimum(place, len(shown) - 2)
    share = (np.arange(trajectory.shape[1]) - shown[place]) / (shown[place + 1] - shown[place])
    between = factor[:, place] + share * (factor[:, place + 1] - factor[:, place])
    return np.asarray(between * radial_weights(trajectory), np.float32)


def _enough_samples(trajectory: Floats, geometry: Geometry) -> NDArray[np.intp]:
    """Return samples of a readout whose weights tell those of the samples between.

    All near the centre, then in steps somewhat below 1 / FOV: the kernel is no narrower.
    """
    n, fov = trajectory.shape[1], max(geometry.fov)
    step = np.linalg.norm(np.diff(trajectory, axis=1), axis=-1).max() * fov
    radius = np.linalg.norm(trajectory, axis=-1).max(axis=0)
    inner = int(np.searchsorted(radius, INNER / fov))
    outer = np.arange(inner, n, max(1, int(OUTER_STEP / max(step, 1 / n))))
    return np.unique(np.concatenate([np.arange(inner), outer, [n - 1]]))


def _iterate(first: Floats, trajectory: Floats, geometry: Geometry, n_iterations: int) -> Floats:
    """Return the weights (readouts, n) that the fixed-point iterations make of the first ones."""
    grid = doubled_geometry(geometry)
    window = _hann_window(grid)
    gather, spread = _transforms(trajectory, grid)
    region = _region_transform(trajectory, grid)
    wanted = np.float32(1.0) if region is None else spread.execute(window * region).real
    cell = np.float32(1 / np.prod(geometry.fov))
    weights = np.minimum(first.ravel(), cell)
    for _ in range(n_iterations):
        density = spread.execute(window * gather.execute(weights.astype(np.complex64))).real
        weights = np.minimum(weights * (wanted / np.maximum(density, FAINT * wanted)), cell)
    return np.asarray(weights.reshape(first.shape), np.float32)


def _hann_window(grid: Geometry) -> Complexes:
    """One at the centre of a grid, zero at its border, times the volume of a voxel."""
    axes = [0.5 + 0.5 * np.cos(2 * np.pi * (np.arange(n) - n // 2) / n) for n in grid.matrix]
    window = np.einsum("i,j,k->ijk", *axes) * float(np.prod(grid.voxel_size))
    return np.asarray(window, np.complex64)


def _transforms(trajectory: Floats, grid: Geometry) -> tuple[finufft.Plan, finufft.Plan]:
    """Plans of the adjoint and of the forward transform; the points are sorted once."""
    turns = np.asarray(trajectory, np.float64).reshape(-1, 3) * grid.voxel_size
    angles = (2 * np.pi * (turns - np.round(turns))).astype(np.float32)
    plans = []
    for kind, sign in ((1, 1), (2, -1)):
        plan = finufft.Plan(
            kind, grid.matrix, eps=TRANSFORM_ACCURACY, isign=sign, dtype="complex64",
            upsampfac=1.25,
        )  # fmt: skip
        plan.setpts(*(np.ascontiguousarray(a) for a in angles.T))
        plans.append(plan)
    return plans[0], plans[1]


def _region_transform(trajectory: Floats, grid: Geometry) -> Complexes | None:
    """Transform of the ellipsoid that the samples fill, on a grid; None if they fill none."""
    extent = np.abs(trajectory).max(axis=(0, 1)).astype(np.float64)
    if not (extent > 0).all() or np.linalg.norm(trajectory / extent, axis=-1).max() > ROUND:
        return None
    axes = [
        (np.arange(n) - n // 2) * v * e
        for n, v, e in zip(grid.matrix, grid.voxel_size, extent, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    q = np.maximum(2 * np.pi * np.sqrt(x**2 + y**2 + z**2), 1e-2)  # below it the ratio is 1/3
    ball = 4 * np.pi * (np.sin(q) - q * np.cos(q)) / q**3
    return np.asarray(float(np.prod(extent)) * ball, np.complex64)


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
        "radial", "analytic on cones" (twisted projections) or "Pipe-Menon".
    """
    if is_centre_out_radial(trajectory):
        return radial_weights(trajectory), "radial"
    if is_isotropic(trajectory):
        return radial_weights(trajectory), "analytic on cones"
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
