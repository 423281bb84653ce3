"""What a lesion mask says: fractions of a class, and whether they can be meant so."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from sodiumprep.sodium.acquisition import Floats

ROUNDING = 1e-3  # above one, of a fraction that was stored scaled
MOSTLY_OUTSIDE = 0.5  # share inside the brain mask below which a lesion is remarked on
OVERLAP = 0.05  # share of the smaller of two classes below which nothing is said


def lesion_fraction(values: Floats) -> Floats:
    """Return the volume fraction of a lesion class from the values of its mask.

    Parameters
    ----------
    values
        0 and one other value (a mask, whatever the value), or fractions in [0, 1]; any shape.

    Returns
    -------
    fraction
        In [0, 1], same shape, float32; zero everywhere if the class is absent.

    Raises
    ------
    ValueError
        If a value is negative or not finite, every voxel is lesion, or the image holds several
        labels.

    Examples
    --------
    >>> lesion_fraction(np.array([0.0, 255.0])).tolist(), lesion_fraction(np.zeros(2)).tolist()
    ([0.0, 1.0], [0.0, 0.0])
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} voxels hold NaN or infinity")
    low, high = float(values.min()), float(values.max())
    if low < 0:
        raise ValueError(f"smallest value is {low:g}; accepted: 0 and one other value")
    if low > 0:
        raise ValueError("every voxel is lesion; accepted: 0 outside of it")
    if ((values == 0) | (values == high)).all():
        return np.asarray(values > 0, np.float32)
    if high <= 1 + ROUNDING:
        return np.asarray(np.minimum(values, 1), np.float32)
    distinct = np.unique(values)
    raise ValueError(
        f"holds {len(distinct)} values ({', '.join(f'{v:g}' for v in distinct[:4])}, ...) up to "
        f"{high:g}; accepted: 0 and one other value, or fractions in [0, 1], one file for each "
        "class"
    )


def share_inside(lesion: Floats, brain: Floats) -> float:
    """Return the share of a lesion that lies inside the brain mask.

    Parameters
    ----------
    lesion, brain
        Fractions or masks, of one shape.

    Returns
    -------
    share
        In [0, 1]; nan for an absent lesion.

    Examples
    --------
    >>> share_inside(np.array([1.0, 1.0]), np.array([1.0, 0.0]))
    0.5
    """
    total = float(lesion.sum(dtype=np.float64))
    return float((lesion * brain).sum(dtype=np.float64)) / total if total > 0 else float("nan")


def lesion_remarks(lesions: Mapping[str, Floats], brain: Floats, voxel_ml: float) -> list[str]:
    """Return what a reader must know of the lesions of a session.

    Parameters
    ----------
    lesions
        Fractions by class, of one shape.
    brain
        Mask, same shape.
    voxel_ml
        Volume of a voxel [ml].

    Returns
    -------
    remarks
        Classes that lie mostly outside the brain mask, and pairs that overlap.

    Raises
    ------
    ValueError
        If a class does not touch the brain mask at all: it lies in another space.

    Examples
    --------
    >>> one = np.array([1.0, 1.0, 0.0, 0.0])
    >>> lesion_remarks({"core": one, "edema": np.ones(4)}, np.ones(4), 2.0)
    ["lesion classes 'core' and 'edema' overlap by 4.0 ml, counted as 'core', the smaller one"]
    """
    remarks = []
    for name, fraction in lesions.items():
        share = share_inside(fraction, brain)
        if not share > 0:
            raise ValueError(
                f"lesion class '{name}' does not touch the brain mask; accepted: a mask in the "
                "space of the session's T1w image, on any grid"
            )
        if share < MOSTLY_OUTSIDE:
            remarks.append(
                f"lesion class '{name}': {100 * share:.0f} % of it lies inside the brain mask"
            )
    volumes = {name: float(part.sum(dtype=np.float64)) for name, part in lesions.items()}
    for pair in combinations(sorted(lesions), 2):
        small, _ = sorted(pair, key=lambda name: volumes[name])
        both = lesions[pair[0]] + lesions[pair[1]] - 1  # halves of neighbours share no voxel
        shared = float(np.maximum(both, 0).sum(dtype=np.float64))
        if shared > OVERLAP * volumes[small]:
            remarks.append(
                f"lesion classes '{pair[0]}' and '{pair[1]}' overlap by "
                f"{shared * voxel_ml:.1f} ml, counted as '{small}', the smaller one"
            )
    return remarks
