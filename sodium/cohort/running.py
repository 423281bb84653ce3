"""Mean and spread of maps that come one at a time, so that a large cohort needs little memory."""

from __future__ import annotations

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.voxelwise import CohortMaps


class RunningMaps:
    """Gathers maps of one grid.

    Parameters
    ----------
    voxels
        Of each map.

    References
    ----------
    Welford 1962, doi:10.1080/00401706.1962.10490022; Chan, Golub & LeVeque 1983,
    doi:10.1080/00031305.1983.10483115

    Examples
    --------
    >>> running = RunningMaps(2)
    >>> running.add(np.array([1.0, np.nan]))
    >>> running.add(np.array([3.0, 5.0]))
    >>> running.maps().mean.tolist(), running.maps().n.tolist()
    ([2.0, 5.0], [2, 1])
    """

    def __init__(self, voxels: int) -> None:
        self._n = np.zeros(voxels, np.int32)
        self._mean = np.zeros(voxels)
        self._squares = np.zeros(voxels)

    def add(self, values: Floats) -> None:
        """Take one map in.

        Parameters
        ----------
        values
            Shape (voxels,), nan where not covered.
        """
        known = np.isfinite(values)
        self._n += known
        off = np.where(known, values - self._mean, 0.0)
        self._mean += off / np.maximum(self._n, 1)
        self._squares += off * np.where(known, values - self._mean, 0.0)

    def join(self, other: RunningMaps) -> None:
        """Take all maps of another in.

        Parameters
        ----------
        other
            Of the same grid.
        """
        total = self._n + other._n
        off = other._mean - self._mean
        share = other._n / np.maximum(total, 1)
        self._squares += other._squares + off**2 * self._n * share
        self._mean += off * share
        self._n = total

    def maps(self) -> CohortMaps:
        """Return mean, SD and number, as :func:`.cohort_maps` does of maps that are held."""
        mean = np.where(self._n > 0, self._mean, np.nan)
        degrees = np.where(self._n > 1, self._n - 1, np.nan)
        return CohortMaps(mean, np.sqrt(self._squares / degrees), self._n.copy())
