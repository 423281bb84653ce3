"""Fixed effects of a cohort: the design of a formula, and what is compared with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import formulaic
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.components import Layout, nest
from sodiumprep.sodium.cohort.values import numbers

FEWEST = 2  # subjects of a group: one alone says nothing of its spread


@dataclass(frozen=True)
class Model:
    """What is compared.

    Parameters
    ----------
    fixed
        Right side of a formula (formulaic): ``group + age + sex``, ``group * age``.
    groups
        Columns of the formula whose levels are compared in pairs.
    slopes
        Columns of the formula that are numbers.
    site
        Column with a random intercept; every subject stays at one site. None: no such column.
    reference
        Level of a group that the others are compared with; else the first by name.
    contrasts
        What is tested instead of all pairs and slopes: weights of conditions (``group.patients``,
        ``age``), by name.
    robust
        Whether to skip the mixed model for least squares with standard errors by subject.
    confidence
        Of all intervals.
    """

    fixed: str = "group"
    groups: Sequence[str] = ("group",)
    slopes: Sequence[str] = ()
    site: str | None = None
    reference: Mapping[str, str] = field(default_factory=dict)
    contrasts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    robust: bool = False
    confidence: float = 0.95

    @property
    def columns(self) -> list[str]:
        """Return the covariates that a row must have."""
        named = formulaic.Formula(self.fixed).required_variables
        extra = [self.site] if self.site else []
        return sorted({*map(str, named), *self.groups, *self.slopes, *extra})


@dataclass(frozen=True)
class Contrast:
    """A sum of coefficients that is tested.

    Parameters
    ----------
    weights
        Of the coefficients, shape (p,).
    spread
        What the standardized effect is of: 1 between groups, the SD of the covariate for a slope.
    between
        Whether it compares subjects, not measurements of the same subject.
    """

    weights: Floats
    spread: float
    between: bool


@dataclass(frozen=True)
class Design:
    """All of a fit that does not depend on the outcome.

    Parameters
    ----------
    matrix
        Fixed effects, shape (n, p).
    subjects
        Code of the subject of each row, shape (n,).
    layout, levels
        Random intercepts and their names from the inside out.
    contrasts
        By name.
    between_rank
        Rank of the columns that are constant within every subject.
    kept
        Rows that the fit uses, of those given, shape (m,).
    notes
        What was left out or decided, in words.
    """

    matrix: Floats
    subjects: NDArray[np.intp]
    layout: Layout
    levels: tuple[str, ...]
    contrasts: Mapping[str, Contrast]
    between_rank: int
    kept: NDArray[np.bool_]
    notes: tuple[str, ...]


def build_design(rows: pd.DataFrame, model: Model) -> Design:
    """Return the design of a table.

    Parameters
    ----------
    rows
        Usable rows (:func:`~sodiumprep.sodium.cohort.values.usable_rows`).
    model
        Formula and contrasts.

    Raises
    ------
    ValueError
        If fewer than two groups of two subjects are left, a column of slopes holds text,
        covariates are collinear, or a subject lies at two sites.
    """
    rows = rows.assign(**{name: _numeric(rows, name) for name in model.slopes})
    for name in model.groups:
        rows = rows.assign(**{name: rows[name].astype(str)})
    kept, notes = _large_enough(rows, model.groups)
    rows = rows[kept]
    terms = formulaic.model_matrix(model.fixed, rows, na_action="ignore")
    matrix = np.asarray(terms, float)
    _refuse_collinear(matrix, list(terms.columns))
    subjects = pd.factorize(rows["participant_id"])[0]
    levels, more = _levels(rows, subjects, model.site)
    within = _varies_within(matrix, subjects)
    return Design(
        matrix=matrix,
        subjects=subjects,
        layout=nest(list(levels.values()), len(rows)),
        levels=tuple(levels),
        contrasts=_contrasts(rows, terms.model_spec, model, within),
        between_rank=int(np.linalg.matrix_rank(matrix[:, ~within])),
        kept=kept,
        notes=(*notes, *more),
    )


def _numeric(rows: pd.DataFrame, name: str) -> pd.Series:
    column = numbers(rows[name])
    if column.isna().any():
        text = rows[name][column.isna()].iloc[0]
        raise ValueError(f"{name} is {text!r} for {rows['participant_id'].iloc[0]}, not a number")
    return column


def _large_enough(
    rows: pd.DataFrame, groups: Sequence[str]
) -> tuple[NDArray[np.bool_], list[str]]:
    kept, notes = np.ones(len(rows), bool), []
    for name in groups:
        count = rows.groupby(name)["participant_id"].nunique()
        small = list(count.index[count < FEWEST])
        notes += [f"{name} {level} has one subject and is left out" for level in small]
        kept &= ~rows[name].isin(small).to_numpy()
        if len(count) - len(small) < FEWEST:
            counted = ", ".join(f"{level} {n}" for level, n in count.items())
            raise ValueError(f"{name}: two groups of two subjects are needed; subjects: {counted}")
    return kept, notes


def _refuse_collinear(matrix: Floats, names: Sequence[str]) -> None:
    scaled = matrix / np.maximum(np.linalg.norm(matrix, axis=0), np.finfo(float).tiny)
    rank = 0
    for count, name in enumerate(names, start=1):
        before, rank = rank, int(np.linalg.matrix_rank(scaled[:, :count]))
        if rank == before:
            earlier = ", ".join(names[: count - 1])
            raise ValueError(f"{name} says nothing that {earlier or 'zero'} does not say")
    if len(matrix) <= len(names):
        raise ValueError(f"{len(matrix)} rows cannot tell {len(names)} coefficients")


def _levels(
    rows: pd.DataFrame, subjects: NDArray[np.intp], site: str | None
) -> tuple[dict[str, NDArray[np.intp]], list[str]]:
    """Return the code of each row on each level that can be told apart, and what was not."""
    sessions = rows.groupby(["participant_id", "session"], sort=False).ngroup().to_numpy()
    n, n_subjects, n_sessions = len(rows), np.ptp(subjects) + 1, np.ptp(sessions) + 1
    levels: dict[str, NDArray[np.intp]] = {}
    notes = []
    if n_subjects < n_sessions < n:
        levels["session"] = sessions
    if n_subjects < n:
        levels["subject"] = subjects
    else:
        notes.append("one measurement per subject: spread within subjects cannot be told apart")
    if site:
        levels["site"] = pd.factorize(rows[site])[0]
        _refuse_travellers(rows, site)
        if np.ptp(levels["site"]) == 0:
            notes.append(f"one {site}: no spread between sites")
            del levels["site"]
    return levels, notes


def _refuse_travellers(rows: pd.DataFrame, site: str) -> None:
    count = rows.groupby("participant_id")[site].nunique()
    if (count > 1).any():
        raise ValueError(
            f"{count.index[count > 1][0]} was at {count.max()} of {site}: put {site} into the "
            "fixed effects instead"
        )


def _varies_within(matrix: Floats, subjects: NDArray[np.intp]) -> NDArray[np.bool_]:
    first = np.unique(subjects, return_index=True)[1]
    return np.asarray((matrix != matrix[first][subjects]).any(axis=0))


def _contrasts(
    rows: pd.DataFrame, spec: formulaic.ModelSpec, model: Model, within: NDArray[np.bool_]
) -> dict[str, Contrast]:
    """Return differences between predictions for the same cohort under two assumptions."""

    def predicted(**assumed: object) -> Floats:
        changed = spec.get_model_matrix(rows.assign(**assumed), na_action="ignore")
        return np.asarray(changed, float).mean(axis=0)

    weights: dict[str, _Weights]
    if model.contrasts:
        asked = model.contrasts.items()
        weights = {name: _asked(rows, model, wanted, predicted) for name, wanted in asked}
    else:
        weights = _all_pairs(rows, model, predicted)
    return {
        name: Contrast(each, spread, not within[np.abs(each) > 1e-12].any())
        for name, (each, spread) in weights.items()
    }


_Weights = tuple[Floats, float]  # of the coefficients; spread that the effect is standardized by
_Predicted = Callable[..., Floats]  # mean row of the design, columns as they are assumed


def _slope(rows: pd.DataFrame, predicted: _Predicted, name: str, **assumed: object) -> Floats:
    return predicted(**{name: rows[name] + 1.0}, **assumed) - predicted(**assumed)


def _all_pairs(rows: pd.DataFrame, model: Model, predicted: _Predicted) -> dict[str, _Weights]:
    """Return all slopes, and all pairs of levels, each level less the reference."""
    spreads = {name: float(rows[name].std()) for name in model.slopes}
    weights = {name: (_slope(rows, predicted, name), spreads[name]) for name in model.slopes}
    for name in model.groups:
        first = model.reference.get(name)
        order = sorted(rows[name].unique(), key=lambda level: (level != first, level))
        means = {level: predicted(**{name: level}) for level in order}
        slopes = {
            (by, level): _slope(rows, predicted, by, **{name: level})
            for by in model.slopes
            for level in means
        }
        for one, other in combinations(means, 2):
            weights[f"{name}: {other} - {one}"] = means[other] - means[one], 1.0
            for by in model.slopes:
                change = slopes[by, other] - slopes[by, one]
                if np.abs(change).max() > 1e-9:  # an interaction
                    weights[f"{by} by {name}: {other} - {one}"] = change, spreads[by]
    return weights


def _asked(
    rows: pd.DataFrame, model: Model, wanted: Mapping[str, float], predicted: _Predicted
) -> _Weights:
    """Return a sum of conditions: ``group.patients`` for a level, ``age`` for a slope."""
    total: Floats = np.zeros_like(predicted())
    spread = 1.0
    for condition, weight in wanted.items():
        name, _, level = condition.partition(".")
        if name in model.slopes and not level:
            total = total + weight * _slope(rows, predicted, name)
            spread = float(rows[name].std())
        elif name in model.groups and level in set(rows[name]):
            total = total + weight * predicted(**{name: level})
        else:
            known = [f"{g}.{one}" for g in model.groups for one in sorted(rows[g].unique())]
            told = ", ".join([*known, *model.slopes])
            raise ValueError(f"condition {condition} is not in the model; there are: {told}")
    return total, spread
