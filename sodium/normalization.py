"""How well a brain lies on a template after normalization."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_OVERLAP = 0.85  # Dice; a brain turned by 90 degrees about its middle keeps 0.64 to 0.69


def brain_overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the Dice coefficient of two masks.

    Parameters
    ----------
    first, second
        One shape.

    Returns
    -------
    overlap
        In [0, 1].

    Raises
    ------
    ValueError
        If both masks are empty.

    References
    ----------
    Dice 1945, doi:10.2307/1932409

    Examples
    --------
    >>> brain_overlap(np.array([True, True, False]), np.array([False, True, True]))
    0.5
    """
    total = int(first.sum()) + int(second.sum())
    if total == 0:
        raise ValueError("both masks are empty; accepted: at least one voxel in one of them")
    return 2 * int((first & second).sum()) / total


def overlap_warning(overlap: float) -> str:
    """Return why a normalization may be wrong; empty if nothing speaks against it.

    Parameters
    ----------
    overlap
        Dice coefficient of the brain on the template and the template's own.

    Returns
    -------
    warning
        Empty from ``LEAST_OVERLAP`` on.

    Examples
    --------
    >>> overlap_warning(0.96), overlap_warning(0.5)[:39]
    ('', 'the normalization is probably wrong: th')
    """
    if overlap >= LEAST_OVERLAP:
        return ""
    return (
        f"the normalization is probably wrong: the brains overlap by {overlap:.2f} (Dice); "
        f"{LEAST_OVERLAP} and more is usual"
    )
