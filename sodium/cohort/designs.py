"""Fixed effects of a cohort: the design of a formula, and what is compared with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations

import formulaic
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.components import Layout, nest
from sodiumprep.sodium.cohort.values import numbers

NOTHING = 1e-9  # weight of a coefficient: rounding
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
        extra = [self.site] if self.site else []
        return sorted({*_variables(self.fixed), *self.groups, *self.slopes, *extra})


@cache
def _variables(formula: str) -> tuple[str, ...]:
    return tuple(map(str, formulaic.Formula(formula).required_variables))


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
    rows = _typed(rows, model)
    kept, notes = _large_enough(rows, model.groups)
    rows = rows[kept]
    return _designed(rows, _terms_of(rows, model), model, kept, notes)


def _typed(rows: pd.DataFrame, model: Model) -> pd.DataFrame:
    rows = rows.assign(**{name: _numeric(rows, name) for name in model.slopes})
    return rows.assign(**{name: rows[name].astype(str) for name in model.groups})


@dataclass(frozen=True)
class _Terms:
    """Rows of a design as they are, and assumed: a slope's covariate one larger, a level.

    ``matrix`` and each of ``assumed`` have the shape (n, p).
    """

    names: list[str]
    matrix: Floats
    assumed: Mapping[tuple[str, ...], Floats]

    def of(self, places: NDArray[np.intp]) -> _Terms:
        """Return some of the rows."""
        assumed = {key: rows[places] for key, rows in self.assumed.items()}
        return _Terms(self.names, self.matrix[places], assumed)


def _designed(
    rows: pd.DataFrame,
    terms: _Terms,
    model: Model,
    kept: NDArray[np.bool_],
    notes: Sequence[str] = (),
) -> Design:
    _refuse_collinear(terms.matrix, terms.names)
    subjects = pd.factorize(rows["participant_id"])[0]
    levels, more = _levels(rows, subjects, model.site)
    within = _varies_within(terms.matrix, subjects)
    return Design(
        matrix=terms.matrix,
        subjects=subjects,
        layout=nest(list(levels.values()), len(rows)),
        levels=tuple(levels),
        contrasts=_contrasts(rows, terms, model, within),
        between_rank=int(np.linalg.matrix_rank(terms.matrix[:, ~within])),
        kept=kept,
        notes=(*notes, *more),
    )


class Subsets:
    """Designs of many tables whose rows are some of those of one table.

    A formula is costly; its rows are those of the whole table as long as all levels are there.

    Parameters
    ----------
    rows
        Of the whole table, with all covariates, in the order that the tables have.
    model
        Formula and contrasts.
    """

    def __init__(self, rows: pd.DataFrame, model: Model) -> None:
        self._model = model
        self._terms: _Terms | None = None
        if not set(model.fixed) & {*"()[]{}"}:  # else a term may depend on all rows
            try:
                self._rows = _typed(rows, model)
                _large_enough(self._rows, model.groups)
                self._terms = _terms_of(self._rows, model)
            except ValueError:
                return  # each table says by itself what is wrong
            self._counts = {name: self._rows[name].nunique() for name in model.groups}

    def design(self, rows: pd.DataFrame, places: NDArray[np.intp]) -> Design:
        """Return the design of a table, as :func:`build_design` does.

        Parameters
        ----------
        rows
            The table.
        places
            Of its rows in the whole table.

        Raises
        ------
        ValueError
            As :func:`build_design`.
        """
        if self._terms is None:
            return build_design(rows, self._model)
        own = self._rows.iloc[places].reset_index(drop=True)
        complete = all(own[name].nunique() == count for name, count in self._counts.items())
        if not complete:
            return build_design(rows, self._model)
        kept, notes = _large_enough(own, self._model.groups)
        if notes:
            return build_design(rows, self._model)
        return _designed(own, self._terms.of(places), self._model, kept)


def partitioned(matrix: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Split a design into the column that carries a contrast, and all else.

    Parameters
    ----------
    matrix
        Shape (n, p); a constant lies in its span.
    weights
        Of its coefficients, shape (p,).

    Returns
    -------
    tested
        Its coefficient is the contrast, shape (n,).
    others
        Without the constant: centred and independent of each other, shape (n, k).

    Raises
    ------
    ValueError
        If the contrast holds a mean, so that no constant is left beside it.

    References
    ----------
    Winkler et al. 2014, doi:10.1016/j.neuroimage.2014.01.060 (partition after Beckmann's and
    Ridgway's)

    Examples
    --------
    >>> group = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    >>> tested, others = partitioned(group, np.array([0.0, 1.0]))
    >>> tested.tolist(), others.shape
    ([0.0, 0.0, 1.0, 1.0], (4, 0))
    """
    tested = matrix @ weights / float(weights @ weights)
    null = np.linalg.svd(weights[None])[2][1:].T
    rest = matrix @ null
    constant = np.ones(len(matrix))
    left = constant - rest @ np.linalg.lstsq(rest, constant, rcond=None)[0]
    if np.linalg.norm(left) > 1e-6 * np.sqrt(len(matrix)):
        raise ValueError("the weights of a contrast of groups must sum to 0")
    basis, sizes, _ = np.linalg.svd(rest - rest.mean(axis=0), full_matrices=False)
    return tested, basis[:, sizes > 1e-9 * max(sizes.max(initial=0.0), 1e-300)]


def _numeric(rows: pd.DataFrame, name: str) -> pd.Series:
    column = numbers(rows[name])
    if column.isna().any():
        wrong = rows[column.isna()].iloc[0]
        raise ValueError(f"{name} is {wrong[name]!r} for {wrong['participant_id']}, not a number")
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
    rows: pd.DataFrame, terms: _Terms, model: Model, within: NDArray[np.bool_]
) -> dict[str, Contrast]:
    """Return differences between predictions for the same cohort under two assumptions."""
    predicted = {key: assumed.mean(axis=0) for key, assumed in terms.assumed.items()}
    spreads = {name: float(rows[name].std()) for name in model.slopes}
    if model.contrasts:
        asked = model.contrasts.items()
        weights = {name: _asked(wanted, predicted, spreads) for name, wanted in asked}
    else:
        weights = _all_pairs(rows, model, predicted, spreads)
    return {
        name: Contrast(each, sd, not within[np.abs(each) > NOTHING].any())
        for name, (each, sd) in weights.items()
    }


_Weights = tuple[Floats, float]  # of the coefficients; spread that the effect is standardized by
_Predicted = Mapping[tuple[str, ...], Floats]  # mean rows of the design under assumptions


def _all_pairs(
    rows: pd.DataFrame, model: Model, predicted: _Predicted, spreads: Mapping[str, float]
) -> dict[str, _Weights]:
    """Return all slopes, and all pairs of levels, each level less the reference."""
    weights: dict[str, _Weights] = {
        by: (predicted[by,] - predicted[()], spread) for by, spread in spreads.items()
    }
    for name in model.groups:
        first = model.reference.get(name)
        order = sorted(rows[name].unique(), key=lambda level: (level != first, level))
        for one, other in combinations(order, 2):
            told = f"{name}: {other} - {one}"
            weights[told] = predicted[name, other] - predicted[name, one], 1.0
            for by, spread in spreads.items():
                slopes = [predicted[name, x, by] - predicted[name, x] for x in (one, other)]
                change = slopes[1] - slopes[0]
                if np.abs(change).max() > NOTHING:  # an interaction
                    weights[f"{by} by {told}"] = change, spread
    return weights


def _asked(
    wanted: Mapping[str, float], predicted: _Predicted, spreads: Mapping[str, float]
) -> _Weights:
    """Return a sum of conditions: ``group.patients`` for a level, ``age`` for a slope."""
    total: Floats = np.zeros_like(predicted[()])
    spread = 1.0
    for condition, weight in wanted.items():
        name, _, level = condition.partition(".")
        if condition in spreads:
            total = total + weight * (predicted[name,] - predicted[()])
            spread = spreads[name]
        elif (name, level) in predicted:
            total = total + weight * predicted[name, level]
        else:
            levels = [".".join(key) for key in predicted if len(key) == 2]
            told = ", ".join([*levels, *spreads])
            raise ValueError(f"condition {condition} is not in the model; there are: {told}")
    return total, spread


def _terms_of(rows: pd.DataFrame, model: Model) -> _Terms:
    """Return the rows of a design; all at once: a formula has a high price, its rows have none."""
    terms = formulaic.model_matrix(model.fixed, rows, na_action="ignore")
    assumed: dict[tuple[str, ...], dict[str, object]] = {(): {}}
    assumed |= {(by,): {by: rows[by] + 1.0} for by in model.slopes}
    for name in model.groups:
        for level in sorted(rows[name].unique()):
            assumed[name, level] = {name: level}
            assumed |= {
                (name, level, by): {name: level, by: rows[by] + 1.0} for by in model.slopes
            }
    known = model.columns
    columns = rows[[c for c in rows if c in known]]
    stacked = pd.concat([columns.assign(**each) for each in assumed.values()], ignore_index=True)
    matrix = np.asarray(terms.model_spec.get_model_matrix(stacked, na_action="ignore"), float)
    blocks = matrix.reshape(len(assumed), len(rows), -1)
    return _Terms(
        list(terms.columns), np.asarray(terms, float), dict(zip(assumed, blocks, strict=True))
    )
