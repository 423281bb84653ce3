"""Anatomically guided reconstruction: edges cost little where the 1H image has them too."""

from __future__ import annotations

import numpy as np
from sigpy.linop import Linop

from sodiumprep.sodium.acquisition import Floats, Numbers
from sodiumprep.sodium.alignment import EXPECTED, EXPECTED_HEAD
from sodiumprep.sodium.iterative import LeastSquares, Solution
from sodiumprep.sodium.total_variation import Gradient, lengths, penalize_lengths

TISSUES = ("GM", "WM", "CSF", "muscle")  # whose decay is modelled; muscle stands for the rest
EDGE_QUANTILE = 0.95  # of the guide's gradients: what counts as an edge


def signal_shares(fractions: Floats) -> Floats:
    """Return which share of each voxel's signal its tissues are expected to give.

    Parameters
    ----------
    fractions
        Volume fractions of GM, WM and CSF, shape (3, nx, ny, nz); the rest counts as muscle.

    Returns
    -------
    shares
        Of :data:`TISSUES`, shape (4, nx, ny, nz), sum one, float32.

    Examples
    --------
    >>> half_grey = np.array([0.5, 0, 0.5]).reshape(3, 1, 1, 1)
    >>> signal_shares(half_grey)[:, 0, 0, 0].round(3)
    array([0.286, 0.   , 0.714, 0.   ], dtype=float32)
    """
    inside = np.clip(fractions, 0, 1)
    rest = np.clip(1 - inside.sum(axis=0, keepdims=True), 0, 1)
    level = [*(EXPECTED[name] for name in TISSUES[:3]), EXPECTED_HEAD]
    signals = np.concatenate([inside, rest]) * np.reshape(level, (4, 1, 1, 1))
    return np.asarray(signals / signals.sum(axis=0), np.float32)


def edge_directions(
    guide: Floats, sharpness: float = 0.2, voxel_size: Floats | None = None
) -> Floats:
    """Return the normals of a guide's edges, shorter than one where the guide is flat.

    Parameters
    ----------
    guide
        1H image on the sodium grid, shape (nx, ny, nz), any unit.
    sharpness
        Gradient, as a share of the guide's strong ones, at which a normal has the length 0.7:
        what is well below it is noise.
    voxel_size
        Edges of a voxel, shape (3,), any unit.

    Returns
    -------
    directions
        ``xi = grad v / sqrt(|grad v|^2 + eta^2)``, shape (3, nx, ny, nz), real.

    Raises
    ------
    ValueError
        If the guide is not finite, has no edge, or the sharpness is not positive.

    References
    ----------
    Ehrhardt & Betcke 2016, doi:10.1137/15M1047325

    Examples
    --------
    >>> step = np.zeros((4, 4, 4), np.float32)
    >>> step[2:] = 1
    >>> edge_directions(step, 0.1)[:, 1, 0, 0].round(2)
    array([1., 0., 0.], dtype=float32)
    """
    if sharpness <= 0:
        raise ValueError(f"sharpness is {sharpness}; it must be positive")
    if not np.all(np.isfinite(guide)):
        raise ValueError(f"{int(np.sum(~np.isfinite(guide)))} voxels of the guide are not finite")
    gradient = Gradient(guide.shape, voxel_size)(np.asarray(guide))
    steps = lengths(gradient)
    if not steps.any():
        raise ValueError(f"the guide has the value {guide.flat[0]} everywhere: it has no edge")
    eta = sharpness * float(np.quantile(steps[steps > 0], EDGE_QUANTILE))
    return np.asarray(gradient / np.sqrt(steps**2 + eta**2), guide.dtype)


class DirectionalGradient(Linop):  # type: ignore[misc]  # sigpy has no types
    """The part of the gradient that a field of directions does not explain.

    ``grad u - <xi, grad u> xi``: zero where the gradient of the image is parallel to a ``xi`` of
    length one, the whole gradient where ``xi`` is zero.

    Parameters
    ----------
    directions
        ``xi``, shape (3, nx, ny, nz), real, none longer than one.
    voxel_size
        Edges of a voxel, shape (3,), any unit.

    Raises
    ------
    ValueError
        If a direction is longer than one.

    References
    ----------
    Ehrhardt & Betcke 2016, doi:10.1137/15M1047325
    """

    def __init__(self, directions: Floats, voxel_size: Floats | None = None) -> None:
        longest = float(lengths(directions).max())
        if longest > 1 + 1e-5:
            raise ValueError(f"a direction has the length {longest:.3g}; at most 1 is accepted")
        self.gradient = Gradient(directions.shape[1:], voxel_size)
        self.directions = directions
        super().__init__(self.gradient.oshape, self.gradient.ishape)

    def across(self, vectors: Numbers) -> Numbers:
        """Return vectors without their part along the directions, in place.

        Parameters
        ----------
        vectors
            Shape (3, nx, ny, nz), real or complex; overwritten.

        Returns
        -------
        vectors
            The same array.
        """
        explained = self.directions[0] * vectors[0]
        for axis in (1, 2):
            explained += self.directions[axis] * vectors[axis]
        for axis in range(3):
            vectors[axis] -= self.directions[axis] * explained
        return vectors

    def _apply(self, image: Numbers) -> Numbers:
        return self.across(self.gradient(image))

    def _adjoint_linop(self) -> Linop:
        return _DirectionalDivergence(self)


class _DirectionalDivergence(Linop):  # type: ignore[misc]
    """Adjoint of the directional gradient; the projection is its own adjoint."""

    def __init__(self, directional: DirectionalGradient) -> None:
        self.directional = directional
        super().__init__(directional.ishape, directional.oshape)

    def _apply(self, vectors: Numbers) -> Numbers:
        return self.directional.gradient.H(self.directional.across(vectors.copy()))

    def _adjoint_linop(self) -> Linop:
        return self.directional


def guided(
    problem: LeastSquares,
    directional: DirectionalGradient,
    strength: float = 0.02,
    tolerance: float = 1e-4,
    max_iterations: int = 60,
) -> Solution:
    """Minimize ``1/2 ||A x - y||_W^2 + lambda dTV(x)``, the directional total variation.

    The decay during the readout belongs to ``A``. For two echoes the problem is the sum of theirs.

    Parameters
    ----------
    problem
        Data term, images of three axes.
    directional
        What of the image's gradient is penalized, from :func:`edge_directions` of the 1H image.
    strength, tolerance, max_iterations
        As in :func:`~sodiumprep.sodium.total_variation.total_variation`.

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
    Ehrhardt & Betcke 2016, doi:10.1137/15M1047325; Schramm et al. 2023, doi:10.1002/mrm.29936
    """
    return penalize_lengths(problem, directional, strength, tolerance, max_iterations)
