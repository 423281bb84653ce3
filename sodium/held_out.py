"""Cross-validation of a smooth field: how well a fit tells the blocks that it did not see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.smooth_field import Equations, FieldFit

BLOCK = 25.0  # mm, edge: more than the kernel of a low-resolution image is wide
FOLDS = 5
STRIDES = (1, 2, 3)  # of the fold from block to block: no two neighbours share one of five


def blocks_of(positions: Floats) -> tuple[Integers, Integers]:
    """Divide space into cubes, and the cubes into folds of which no two neighbours share one.

    Parameters
    ----------
    positions
        Shape (n, 3) [mm].

    Returns
    -------
    blocks, folds
        Shape (n,): which block a position lies in, counted from 0, and which fold, 0 to 4.

    Examples
    --------
    >>> blocks_of(np.array([[0.0, 0, 0], [1, 2, 3], [30, 0, 0]]))
    (array([0, 0, 1]), array([0, 0, 1]))
    """
    cube = np.floor((positions - positions.min(axis=0)) / BLOCK).astype(np.int64)
    blocks = np.unique(cube, axis=0, return_inverse=True)[1].reshape(-1)
    return blocks, cube @ np.array(STRIDES) % FOLDS


@dataclass(frozen=True)
class HeldOut:
    """Errors of the log field in blocks, from fits that did not see them.

    Parameters
    ----------
    errors
        What the block says of the log field, less what the fit says, shape (blocks,).
    information
        Of the block on its log field: 1 over its variance by white noise, shape (blocks,).
    variances
        What the error should have, of the block and of the fit, shape (blocks,).
    """

    errors: Floats
    information: Floats
    variances: Floats

    @property
    def score(self) -> float:
        """Root mean square of the relative error, blocks weighted by what they tell."""
        return float(np.sqrt(np.average(self.errors**2, weights=self.information)))

    @property
    def misfit(self) -> float:
        """SD of what the errors hold besides the noise of block and fit; 0 if that explains all.

        Weighted like the score.
        """
        explained = float(np.average(self.variances, weights=self.information))
        return max(self.score**2 - explained, 0.0) ** 0.5


def held_out(fit: FieldFit, seen: FieldFit, blocks: Integers, folds: Integers) -> HeldOut:
    """Judge a fit by blocks that are left out of it, fold by fold.

    The fit without a fold is taken to be one Gauss-Newton step away from the fit with it.

    Parameters
    ----------
    fit
        From all blocks.
    seen
        To the same voxels of the images on which errors are measured: the same, or that of a
        repeat, from which the shares of the nuisance come.
    blocks, folds
        Of the voxels, shape (n,).

    Returns
    -------
    held_out
        One error for each block.
    """
    left, _, rows = fit.equations.at(fit.parameters)
    pull = fit.precision * (fit.parameters - fit.expected)
    normal, right = rows.T @ rows + np.diag(fit.precision), rows.T @ left - pull
    found = []
    for fold in np.unique(folds):
        out = folds == fold
        covariance = np.linalg.inv(normal - rows[out].T @ rows[out])
        parameters = fit.parameters + covariance @ (right - rows[out].T @ left[out])
        if seen is not fit:
            m = fit.equations.basis.shape[1]
            parameters = np.concatenate([parameters[:m], seen.parameters[m:]])
        found.append(_block_errors(seen.equations.only(out), parameters, covariance, blocks[out]))
    return pooled(found)


def _block_errors(
    seen: Equations, parameters: Floats, covariance: Floats, blocks: Integers
) -> HeldOut:
    left, slope, rows = seen.at(parameters)
    index = np.unique(blocks, return_inverse=True)[1].reshape(-1)
    information = np.asarray(np.bincount(index, slope**2), np.float64)
    errors = np.bincount(index, slope * left) / information
    sensitivity = np.zeros((len(information), rows.shape[1]))
    np.add.at(sensitivity, index, slope[:, None] * rows)
    sensitivity /= information[:, None]
    of_fit = np.sum(sensitivity @ covariance * sensitivity, axis=1)
    return HeldOut(errors, information, 1 / information + of_fit)


def pooled(parts: Sequence[HeldOut]) -> HeldOut:
    """Put the blocks of several judgements together.

    Parameters
    ----------
    parts
        At least one.

    Returns
    -------
    held_out
        Of all blocks.
    """
    return HeldOut(
        np.concatenate([part.errors for part in parts]),
        np.concatenate([part.information for part in parts]),
        np.concatenate([part.variances for part in parts]),
    )
