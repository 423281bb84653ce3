"""Linear models at every voxel of template space, tested by permutation."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.cohort.clusters import (
    HEIGHT_STEP,
    enhance,
    heights_of,
    label_clusters,
    neighbours,
)

BATCH = 8  # permutations whose maps are held at once
PORTION = 4096  # voxels that are held in double precision at once
FLAT = 1e-5  # a voxel whose residuals are smaller than this share of its values is constant


@dataclass(frozen=True)
class CohortMaps:
    """Maps of a cohort.

    Parameters
    ----------
    mean, sd
        Over the subjects that cover the voxel [unit of the maps], nan where there is none (of
        two, for the SD), shape (voxels,).
    n
        Subjects that cover it, shape (voxels,).
    """

    mean: Floats
    sd: Floats
    n: Integers


def cohort_maps(maps: Floats) -> CohortMaps:
    """Return mean, SD and number of subjects at each voxel.

    Parameters
    ----------
    maps
        Shape (subjects, voxels), nan where a subject does not cover a voxel.

    Returns
    -------
    cohort_maps

    Raises
    ------
    ValueError
        If there is no map.

    Examples
    --------
    >>> found = cohort_maps(np.array([[1.0, np.nan], [3.0, 5.0]]))
    >>> found.mean.tolist(), found.n.tolist()
    ([2.0, 5.0], [2, 1])
    """
    if maps.ndim != 2 or not len(maps):
        raise ValueError(f"maps have the shape (subjects, voxels), not {maps.shape}")
    known = np.isfinite(maps)
    n = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # nobody covers it: nan
        mean = np.where(known, maps, 0).sum(axis=0, dtype=float) / n
        squares = np.where(known, maps - mean, 0).astype(float) ** 2
        sd = np.sqrt(squares.sum(axis=0) / np.where(n > 1, n - 1, np.nan))
    return CohortMaps(mean, sd, n)


def subject_slopes(
    maps: Floats, participants: np.ndarray, time: Floats
) -> tuple[np.ndarray, Floats]:
    """Return one map of change for each subject with several sessions.

    Sessions of one subject cannot be exchanged with those of others; their slope over time can.
    With two sessions it is the difference over the time between them.

    Parameters
    ----------
    maps
        Shape (maps, voxels), nan where not covered.
    participants
        Of each map, shape (maps,).
    time
        Of each map, for example in years, or 0 and 1, shape (maps,).

    Returns
    -------
    subjects
        In the order of their first map.
    slopes
        Shape (subjects, voxels) [unit of the maps per unit of time]; nan where one of the
        sessions does not cover a voxel.

    Raises
    ------
    ValueError
        If no subject has two sessions at different times.
    """
    code, names = pd.factorize(participants)
    found = []
    for k in range(len(names)):
        own = np.flatnonzero(code == k)
        centred = time[own] - time[own].mean()
        if np.any(centred != 0):
            found.append((names[k], centred @ maps[own] / (centred @ centred)))
    if not found:
        raise ValueError("no subject has maps at two different times")
    return np.array([name for name, _ in found]), np.stack([slope for _, slope in found])


@dataclass(frozen=True)
class Plan:
    """How a voxelwise model is tested.

    Parameters
    ----------
    permutations
        Relabellings, at least 19 for a p of 0.05.
    coverage
        Share of the subjects that must cover a voxel. Where some do not, they get the mean of
        the others, so they neither add to nor take from the effect; degrees of freedom count
        only those who cover it. It is assumed that coverage has nothing to do with what is tested.
    cluster_p
        Two-sided p of a voxel that forms clusters; None: no clusters.
    tfce
        Whether to enhance clusters without a threshold.
    threads
        Permutations that run at the same time.
    """

    permutations: int = 1000
    coverage: float = 0.9
    cluster_p: float | None = 0.001
    tfce: bool = True
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises
        ------
        ValueError
            If a number lies outside of its range.
        """
        if self.permutations < 19:
            raise ValueError(f"{self.permutations} permutations never reach 0.05; at least 19")
        if not 0 < self.coverage <= 1:
            raise ValueError(f"coverage is a share above 0 and up to 1, not {self.coverage}")
        if self.cluster_p is not None and not 0 < self.cluster_p < 1:
            raise ValueError(f"the p that forms clusters lies in (0, 1), not at {self.cluster_p}")
        if self.threads < 1:
            raise ValueError(f"at least one thread, not {self.threads}")


@dataclass(frozen=True)
class VoxelTest:
    """A tested effect at each voxel of the mask; nan where too few subjects cover it.

    All p are two-sided and hold for the whole mask at once.

    Parameters
    ----------
    effect
        Of one unit of what is tested [unit of the maps], shape (voxels,).
    t, p
        Statistic, and p by its largest value in each permutation, shape (voxels,).
    enhanced, p_enhanced
        Threshold-free cluster enhancement and its p; empty if not asked for.
    labels
        Cluster of each voxel, 0 for none, shape (voxels,).
    clusters
        Columns ``label voxels mass peak_t peak_voxel p_size p_mass``, the largest mass first.
    null
        Columns ``t``, ``enhanced``, ``size``, ``mass``: the largest of each permutation.
    used
        Voxels that are covered and not constant, shape (voxels,).
    dof
        Degrees of freedom where all subjects cover a voxel.
    notes
        What must be said.
    """

    effect: Floats
    t: Floats
    p: Floats
    enhanced: Floats
    p_enhanced: Floats
    labels: Integers
    clusters: pd.DataFrame
    null: pd.DataFrame
    used: np.ndarray
    dof: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Model:
    """Residuals and design, ready for permutation after Freedman and Lane.

    ``residuals`` (voxels, n) are those without the tested effect, of unit length; ``tested``
    (n,) has unit length and is orthogonal to ``covariates`` (n, k), which are orthonormal;
    ``flips`` tells that signs are flipped, since a mean is tested against zero.
    """

    residuals: Floats
    tested: Floats
    covariates: Floats
    flips: bool
    dof: int
    shrink: Floats = field(default_factory=lambda: np.ones(1))

    def statistics(self, places: Integers, signs: Floats) -> Floats:
        """Return t of relabelled data, shape (voxels, b), for places and signs (b, n)."""
        tested = (self.tested[places] * signs).T.astype(self.residuals.dtype)
        beta = self.residuals @ tested
        left = 1 - beta**2
        for column in self.covariates.T:
            moved = (column[places] * signs).T.astype(self.residuals.dtype)
            left -= (self.residuals @ moved) ** 2
        smallest = np.finfo(left.dtype).eps
        return np.asarray(
            beta * np.sqrt(self.dof / np.maximum(left, smallest)) * self.shrink[:, None]
        )


def permutation_test(
    maps: Floats,
    mask: np.ndarray,
    tested: Floats,
    covariates: Floats,
    rng: np.random.Generator,
    plan: Plan | None = None,
) -> VoxelTest:
    """Test one effect at every voxel of a mask by permutation.

    The largest statistic of each permutation controls the familywise error. Labels are permuted
    after Freedman and Lane; a mean against zero flips signs instead.

    Parameters
    ----------
    maps
        One map for each subject, shape (subjects, voxels), nan where not covered.
    mask
        Where the voxels lie, boolean, three-dimensional, in C order.
    tested
        Group (0 and 1) or number of each subject, shape (subjects,); all 1 for the mean against
        zero, at the mean of the covariates.
    covariates
        Numbers that are taken into account, without a constant, shape (subjects, k); k may be 0.
    rng
        Source of randomness.
    plan
        How it is tested.

    Returns
    -------
    voxel_test

    Raises
    ------
    ValueError
        If shapes do not fit, a number of the design is missing, a group has one subject, the
        covariates depend on each other or explain what is tested, fewer than 2 degrees of
        freedom are left, or no voxel is covered.

    References
    ----------
    Freedman & Lane 1983, doi:10.1080/07350015.1983.10509354; Winkler et al. 2014,
    doi:10.1016/j.neuroimage.2014.01.060
    """
    plan = plan or Plan()
    _check_design(maps, mask, tested, covariates)
    used, model, effect = _prepare(maps, tested, covariates, plan.coverage)
    inside = np.zeros(mask.shape, dtype=bool)
    inside[mask] = used
    near = neighbours(inside)
    limits = _limits(plan, model.dof)
    null = _null(model, near, limits, _relabellings(model, plan.permutations, rng), plan.threads)
    everyone = np.arange(len(tested))[None]
    t = model.statistics(everyone, np.ones(everyone.shape))[:, 0].astype(float)
    enhanced = _enhanced(t, near) if plan.tfce else np.empty(0)
    labels, sizes, masses = label_clusters(t, near, limits[0])
    notes = _notes(tested, model, plan.permutations)
    return VoxelTest(
        _spread(effect, used),
        _spread(t, used),
        _spread(_p(np.abs(t), null["t"]), used),
        _spread(enhanced, used) if plan.tfce else enhanced,
        _spread(_p(np.abs(enhanced), null["enhanced"]), used) if plan.tfce else enhanced,
        np.nan_to_num(_spread(labels, used)).astype(int),
        _cluster_table(t, labels, (sizes, masses), null, np.flatnonzero(used)),
        null,
        used,
        model.dof,
        notes,
    )


def _check_design(maps: Floats, mask: np.ndarray, tested: Floats, covariates: Floats) -> None:
    n = len(tested)
    if maps.ndim != 2 or len(maps) != n or covariates.shape[:1] != (n,) or covariates.ndim != 2:
        raise ValueError(
            f"maps {maps.shape} and covariates {covariates.shape} do not fit {n} subjects"
        )
    if maps.shape[1] != np.count_nonzero(mask):
        raise ValueError(
            f"maps have {maps.shape[1]} voxels, the mask has {np.count_nonzero(mask)}"
        )
    if not (np.isfinite(tested).all() and np.isfinite(covariates).all()):
        raise ValueError("a number of the design is missing")
    values, counts = np.unique(tested, return_counts=True)
    if len(values) == 2 and counts.min() < 2:
        raise ValueError(
            f"a group of the voxelwise model has one subject, the other {max(counts)}"
        )
    if len(values) == 1 and values[0] != 1:
        raise ValueError(
            f"what is tested is {values[0]:g} in every subject; the mean is tested by 1"
        )


def _prepare(
    maps: Floats, tested: Floats, covariates: Floats, coverage: float
) -> tuple[np.ndarray, _Model, Floats]:
    """Return which voxels are used, the model there, and the effect."""
    flips = bool((tested == 1).all())
    basis, rest, dof = _orthogonal(tested.astype(float), covariates.astype(float), flips)
    enough = np.isfinite(maps).sum(axis=0) >= max(coverage * len(maps), len(maps) - dof + 2)
    if not enough.any():
        raise ValueError(f"no voxel is covered by {coverage:.0%} of the {len(maps)} subjects")
    values = np.ascontiguousarray(maps[:, enough].T)
    known = np.isfinite(values)
    n = known.sum(axis=1)
    middle = np.where(known, values, 0).sum(axis=1) / n
    np.copyto(values, middle[:, None], where=~known)
    level = np.full((len(rest), 0 if flips else 1), len(rest) ** -0.5)
    everything = np.hstack([level, basis])
    residuals = np.empty_like(values)
    for first in range(0, len(values), PORTION):  # the whole in double precision is large
        part = values[first : first + PORTION]
        residuals[first : first + PORTION] = part - (part @ everything) @ everything.T
    if not known.all():
        residuals *= known
    lengths = np.linalg.norm(residuals, axis=1)
    alive = lengths > FLAT * np.linalg.norm(values, axis=1)
    if not alive.any():
        raise ValueError("the maps are constant over the subjects at every voxel")
    used = enough.copy()
    used[enough] = alive
    own = rest.astype(values.dtype)  # else both are copied in double precision
    effect = (residuals @ own).astype(float) / (known.astype(values.dtype) @ own**2)
    residuals = residuals[alive]
    residuals /= lengths[alive, None].astype(values.dtype)
    shrink = np.sqrt((n[alive] - len(maps) + dof) / dof)
    unit = rest / np.linalg.norm(rest)
    return used, _Model(residuals, unit, basis, flips, dof, shrink), effect[alive]


def _orthogonal(tested: Floats, covariates: Floats, flips: bool) -> tuple[Floats, Floats, int]:
    """Return orthonormal covariates, what is left of the tested column, degrees of freedom."""
    centred = covariates - covariates.mean(axis=0)
    scale = np.linalg.norm(centred, axis=0)
    if (scale <= 1e-12 * np.linalg.norm(covariates, axis=0)).any():
        raise ValueError("a covariate is the same in every subject")
    basis, sizes, _ = np.linalg.svd(centred / scale, full_matrices=False)
    if (sizes < 1e-9).any():
        raise ValueError("covariates of the voxelwise model depend on each other")
    rest = tested if flips else tested - tested.mean()
    rest = rest - basis @ (basis.T @ rest)
    if np.linalg.norm(rest) < 1e-9 * np.linalg.norm(tested):
        raise ValueError("the covariates explain what is tested entirely")
    dof = len(tested) - basis.shape[1] - (1 if flips else 2)
    if dof < 2:
        raise ValueError(f"{len(tested)} subjects leave {dof} degrees of freedom; at least 2")
    return basis, rest, dof


def _relabellings(
    model: _Model, permutations: int, rng: np.random.Generator
) -> tuple[Integers, Floats]:
    """Return the place that each subject's labels come from, and their sign, each (m, n)."""
    n = len(model.tested)
    places = np.tile(np.arange(n), (permutations, 1))
    if model.flips:
        return places, rng.choice([-1.0, 1.0], size=(permutations, n))
    return rng.permuted(places, axis=1), np.ones((permutations, n))


def _limits(plan: Plan, dof: int) -> tuple[float, bool]:
    """Return the t that forms clusters, and whether to enhance."""
    threshold = np.inf if plan.cluster_p is None else stats.t.isf(plan.cluster_p / 2, dof)
    return float(threshold), plan.tfce


def _null(
    model: _Model,
    near: Integers,
    limits: tuple[float, bool],
    relabellings: tuple[Integers, Floats],
    threads: int,
) -> pd.DataFrame:
    """Return the largest statistics of each relabelling."""
    places, signs = relabellings

    def batch(first: int) -> list[tuple[float, float, float, float]]:
        part = slice(first, first + BATCH)
        columns = model.statistics(places[part], signs[part]).T
        return [_largest(np.ascontiguousarray(t, dtype=float), near, limits) for t in columns]

    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(batch, range(0, len(places), BATCH))
        rows = [row for part in parts for row in part]
    return pd.DataFrame(rows, columns=["t", "enhanced", "size", "mass"])


def _largest(
    t: Floats, near: Integers, limits: tuple[float, bool]
) -> tuple[float, float, float, float]:
    enhanced = np.abs(_enhanced(t, near)).max() if limits[1] else np.nan
    if np.isinf(limits[0]):
        return float(np.abs(t).max()), float(enhanced), np.nan, np.nan
    _, sizes, masses = label_clusters(t, near, limits[0])
    return (
        float(np.abs(t).max()),
        float(enhanced),
        float(sizes.max(initial=0)),
        float(masses.max(initial=0.0)),
    )


def _enhanced(t: Floats, near: Integers) -> Floats:
    return HEIGHT_STEP * enhance(t, near, heights_of(t))


def _p(observed: Floats | Integers, null: pd.Series) -> Floats:
    """Return the share of relabellings, the true one among them, that reach what was observed."""
    ordered = np.sort(null.to_numpy())
    below = np.searchsorted(ordered, observed * (1 - 1e-6), side="left")  # float32 ties count
    return np.asarray((len(ordered) - below + 1) / (len(ordered) + 1))


def _spread(values: Floats | Integers, used: np.ndarray) -> Floats:
    found = np.full(len(used), np.nan)
    found[used] = values
    return found


def _cluster_table(
    t: Floats,
    labels: Integers,
    measured: tuple[Integers, Floats],
    null: pd.DataFrame,
    place: Integers,
) -> pd.DataFrame:
    sizes, masses = measured
    inside = np.flatnonzero(labels)
    order = inside[np.lexsort((-np.abs(t[inside]), labels[inside]))]
    peaks = order[np.flatnonzero(np.diff(labels[order], prepend=0))]
    table = pd.DataFrame(
        {
            "label": np.arange(1, len(sizes) + 1),
            "voxels": sizes,
            "mass": masses,
            "peak_t": t[peaks],
            "peak_voxel": place[peaks],
            "p_size": _p(sizes, null["size"]),
            "p_mass": _p(masses, null["mass"]),
        }
    )
    return table.sort_values("mass", ascending=False, ignore_index=True)


def _notes(tested: Floats, model: _Model, permutations: int) -> tuple[str, ...]:
    n = len(tested)
    if model.flips:
        possible = 2**n
    else:
        counts = np.unique(tested, return_counts=True)[1]
        possible = math.factorial(n) // math.prod(math.factorial(int(c)) for c in counts)
    if possible > permutations:
        return ()
    return (f"only {possible} relabellings differ: no p below about {1 / possible:.2g}",)
