"""Interpolation along the readout: signals that change smoothly, from their values at few samples.

Two uses, one principle. A receiver samples a readout several times faster than an object in the
field of view can make its signal change, so that a transform needs to visit only some of the
samples, the nodes; the others follow. And a change of the voxels with time (decay,
off-resonance) is known once it is known at a few instants, the segments. In both cases each
sample takes its value from the nodes next to it, with real coefficients that are the least-squares
fit to signals of the kind that occur.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry, Numbers

N_NEIGHBOURS = 16  # nodes that each sample is interpolated from
NODE_STEPS = (
    2.0,
    2.0,
    1.8,
    1.6,
    1.4,
)  # rad, largest phase between nodes in a corner; tried in turn
ACCURACY = 3e-6  # root mean square error of signals of amplitude 1, below that of the transform
JUMP = 1e-2  # rad in a corner, by which the place of any sample may miss a smooth readout
WORTHWHILE = 0.8  # share of the samples above which all of them are transformed
RIDGE = 1e-14  # relative to the mean eigenvalue, keeps the coefficients small
N_TEST_SIGNALS = 160
BLOCK = 512  # samples that are interpolated together
NEAR_KINK = 3  # samples on either side of one where a readout turns suddenly
FEW = 0.2  # share of the samples that may lie near such turns
N_READOUTS = 1024  # among which the fastest is looked for


@dataclass(frozen=True)
class Interpolator:
    """How the samples of a readout follow from some of them.

    Parameters
    ----------
    nodes
        Indices of the samples that are used, increasing, shape (m,).
    coefficients
        Real, shape (m, n): ``values = values[..., nodes] @ coefficients``; every column is zero
        but at a few neighbouring nodes.
    error
        Largest error of a signal of amplitude 1.
    """

    nodes: NDArray[np.intp]
    coefficients: Floats
    error: float

    def spread(self, values: Numbers) -> Numbers:
        """Return the values at all samples from those at the nodes.

        Parameters
        ----------
        values
            Shape (..., m).

        Returns
        -------
        values
            Shape (..., n), same precision.
        """
        found = np.empty((*values.shape[:-1], self.coefficients.shape[1]), values.dtype)
        for few, many, block in self._blocks(values):
            for there, here in zip(_parts(found), _parts(values), strict=True):
                there[..., many] = np.ascontiguousarray(here[..., few]) @ block
        return found

    def gather(self, values: Numbers) -> Numbers:
        """Return the adjoint of :meth:`spread`.

        Parameters
        ----------
        values
            Shape (..., n).

        Returns
        -------
        values
            Shape (..., m), same precision.
        """
        found = np.zeros((*values.shape[:-1], self.nodes.size), values.dtype)
        for few, many, block in self._blocks(values):
            for there, here in zip(_parts(found), _parts(values), strict=True):
                there[..., few] += np.ascontiguousarray(here[..., many]) @ block.T
        return found

    def _blocks(self, values: Numbers) -> Iterator[tuple[slice, slice, Floats]]:
        """Yield some samples at a time with their nodes, in the precision of values."""
        for start in range(0, self.coefficients.shape[1], BLOCK):
            columns = self.coefficients[:, start : start + BLOCK]
            used = np.flatnonzero(columns.any(axis=1))
            few = slice(int(used[0]), int(used[-1]) + 1)
            yield few, slice(start, start + BLOCK), columns[few].astype(values.real.dtype)


def _parts(values: Numbers) -> list[Floats]:
    return [values.real, values.imag] if np.iscomplexobj(values) else [values.real]


def local_least_squares(
    signals: Complexes, nodes: NDArray[np.intp], n_neighbours: int
) -> Interpolator:
    """Fit every sample of some signals by real multiples of the nodes next to it.

    Parameters
    ----------
    signals
        Typical signals of amplitude 1, shape (signals, n).
    nodes
        Indices of the nodes, increasing, shape (m,).
    n_neighbours
        Nodes that each sample is fitted by.

    Returns
    -------
    interpolator
        Its error is the largest one among ``signals``.

    References
    ----------
    Fessler et al. 2005, doi:10.1109/TSP.2005.853152

    Examples
    --------
    >>> line = np.exp(1j * np.outer([-0.2, -0.1, 0.0, 0.1, 0.2], np.arange(9)))
    >>> interpolator = local_least_squares(line, np.array([0, 4, 8]), 2)
    >>> interpolator.coefficients[:, 2].round(2)
    array([0.52, 0.52, 0.  ])
    """
    n_neighbours = min(n_neighbours, nodes.size)
    window = _nearest_nodes(nodes, signals.shape[1], n_neighbours)
    parts = np.concatenate([signals.real, signals.imag]).astype(np.float64)
    design = parts.T[nodes[window]]  # (n, neighbours, equations)
    gram = design @ design.swapaxes(1, 2)
    ridge = RIDGE * np.trace(gram, axis1=1, axis2=2) / n_neighbours
    gram += ridge[:, None, None] * np.eye(n_neighbours)
    local = np.linalg.solve(gram, design @ parts.T[..., None])
    coefficients = np.zeros((nodes.size, signals.shape[1]))
    np.put_along_axis(coefficients, window.T, local[..., 0].T, axis=0)
    return Interpolator(nodes, coefficients, largest_error(signals, nodes, coefficients))


def _nearest_nodes(nodes: NDArray[np.intp], n_samples: int, n_neighbours: int) -> NDArray[np.intp]:
    after = np.searchsorted(nodes, np.arange(n_samples), side="right")
    first = np.clip(after - n_neighbours // 2, 0, nodes.size - n_neighbours)
    return np.asarray(first[:, None] + np.arange(n_neighbours))


def largest_error(signals: Complexes, nodes: NDArray[np.intp], coefficients: Floats) -> float:
    """Return the largest absolute error of interpolated signals.

    Parameters
    ----------
    signals
        Shape (signals, n).
    nodes, coefficients
        As in :class:`Interpolator`.

    Returns
    -------
    error
        In units of the signals.
    """
    return float(np.abs(signals[:, nodes] @ coefficients - signals).max())


def readout_interpolator(trajectory: Floats, geometry: Geometry) -> Interpolator | None:
    """Return how all samples of each readout follow from some, for any object in a field of view.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid that holds the object.

    Returns
    -------
    interpolator
        One for all readouts, accurate to ``ACCURACY`` and to what the rounding of a float32
        trajectory leaves; None if that needs most of the samples.
    """
    if trajectory.shape[1] <= 2 * N_NEIGHBOURS:
        return None
    rng = np.random.default_rng(0)
    path = np.concatenate([[0.0], np.cumsum(_phase_steps(trajectory, geometry))])
    seen, unseen = (_test_signals(trajectory, geometry, rng) for _ in range(2))
    limit = ACCURACY + _rounding(trajectory, geometry)
    rough = np.zeros(len(path), bool)
    for step in NODE_STEPS:
        nodes = np.union1d(_spaced_nodes(path / step), np.flatnonzero(rough))
        if nodes.size > WORTHWHILE * len(path):
            return None
        fitted = local_least_squares(seen, nodes, N_NEIGHBOURS)
        error = _error_of_samples(unseen, fitted)
        if np.sqrt(np.mean(error**2)) <= limit:
            smooth = _largest_jump(trajectory, geometry, fitted, rng) <= JUMP
            return fitted if smooth else None
        rough |= _kinks(error, limit)
    return None


def _error_of_samples(signals: Complexes, interpolator: Interpolator) -> Floats:
    errors = interpolator.spread(signals[:, interpolator.nodes]) - signals
    return np.asarray(np.sqrt(np.mean(np.abs(errors) ** 2, axis=0)))


def _kinks(error: Floats, limit: float) -> NDArray[np.bool_]:
    """Return the few samples, and those beside them, at which a readout is not smooth."""
    bad = np.convolve(error > 5 * limit, np.ones(2 * NEAR_KINK + 1), "same") > 0
    return np.asarray(bad & (bad.mean() < FEW))


def _rounding(trajectory: Floats, geometry: Geometry) -> float:
    """Return what the rounding of a float32 trajectory adds to the error, root mean square."""
    if trajectory.dtype == np.float64:
        return 0.0
    largest = np.abs(trajectory[:, -1]).max() * max(geometry.fov)  # periods in the field of view
    return float(largest * np.finfo(np.float32).eps / 3)


def _phase_steps(trajectory: Floats, geometry: Geometry) -> Floats:
    """Return how far the phase of any voxel turns at most from each sample to the next [rad]."""
    some = trajectory[:: 1 + (len(trajectory) - 1) // N_READOUTS]
    steps = np.diff(some, axis=1) * (np.sqrt(3) * np.pi * np.asarray(geometry.fov))
    squares = np.einsum("rna,rna->rn", steps, steps)
    return np.asarray(np.sqrt(squares.max(axis=0)))


def _largest_jump(
    trajectory: Floats, geometry: Geometry, interpolator: Interpolator, rng: np.random.Generator
) -> float:
    """Return by how much interpolated places miss the measured ones, as a phase in a corner [rad].

    All samples of all readouts are looked at together: what they miss by is added up with random
    signs. A readout that jumps, or runs faster than the others, shows here.
    """
    signs = rng.choice([-1.0, 1.0], (trajectory.shape[1], 2))
    misses = -signs
    misses[interpolator.nodes] += interpolator.coefficients @ signs
    flat = trajectory.reshape(len(trajectory), -1)
    each_axis = np.kron(misses, np.diag(np.pi * np.asarray(geometry.fov)))
    return float(np.abs(flat @ each_axis.astype(flat.dtype)).max())


def _spaced_nodes(path: Floats) -> NDArray[np.intp]:
    """Return samples at most 1 apart along a path, closer at the ends, where neighbours miss."""
    density = 1 + 3 * np.exp(-np.minimum(path, path[-1] - path) / 1.5)
    steps = np.diff(path) * (density[1:] + density[:-1]) / 2
    place = np.concatenate([[0.0], np.cumsum(np.maximum(steps, 1e-6))])
    furthest = np.searchsorted(place, place + 1, side="right") - 1
    nodes = [0]
    while nodes[-1] < len(path) - 1:
        nodes.append(max(nodes[-1] + 1, int(furthest[nodes[-1]])))
    return np.asarray(nodes)


def _test_signals(trajectory: Floats, geometry: Geometry, rng: np.random.Generator) -> Complexes:
    """Return the signals of points, some of them in corners, in readouts drawn at random."""
    share = rng.uniform(-0.5, 0.5, (N_TEST_SIGNALS, 3))
    share[::4] = np.copysign(0.5, share[::4])
    readouts = rng.integers(len(trajectory), size=N_TEST_SIGNALS)
    places = share * np.asarray(geometry.fov)
    phase = np.einsum("sna,sa->sn", trajectory[readouts].astype(np.float64), places)
    return np.asarray(np.exp(-2j * np.pi * phase))
