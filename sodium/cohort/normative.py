"""Reference curves by age, and where a value stands on them.

Values of the reference follow, at each age, a normal distribution, after a power transformation
if one is asked for. Its mean is a natural spline of age plus sex and site, the logarithm of its
spread a spline with fewer knots: that is the LMS method with a constant L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import minimize_scalar

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.resampling import check_level
from sodiumprep.sodium.cohort.values import own_uncertainty

MINIMUM = 100  # members: fewer say nothing of centiles
FEWEST = 5  # members of each sex or site: one alone would set its own mean
PER_COEFFICIENT = 10  # members for each coefficient of mean and spread
KNOTS_OF_MEAN, KNOTS_OF_SPREAD = 4, 2
ROUNDS, CLOSE = 200, 1e-8  # of mean and spread in turn
POWERS = (-1.0, 3.0)  # range of the power that is searched
SHARES_OF_KNOTS = {2: (0.05, 0.95), 4: (0.05, 0.35, 0.65, 0.95)}  # of ages, after Harrell


@dataclass(frozen=True)
class Curve:
    """A reference curve.

    Parameters
    ----------
    ages
        Youngest and oldest member [years].
    knots_mean, knots_spread
        Knots of the splines [years].
    levels
        Levels of each covariate, the most frequent one first: that is the reference.
    power
        Of the transformation; 1 is none.
    mean, spread
        Coefficients of the mean and of the logarithm of the spread, shape (k,) and (m,).
    covariance_mean, covariance_spread
        Of the coefficients.
    members
        Who the reference is, n of them.
    mean_without, spread_without
        Coefficients without each member, shape (n, k) and (n, m).
    """

    ages: tuple[float, float]
    knots_mean: Floats
    knots_spread: Floats
    levels: dict[str, list[str]]
    power: float
    mean: Floats
    spread: Floats
    covariance_mean: Floats
    covariance_spread: Floats
    members: tuple[str, ...]
    mean_without: Floats
    spread_without: Floats

    def design(self, people: pd.DataFrame) -> tuple[Floats, Floats]:
        """Return the columns that explain mean and spread.

        Parameters
        ----------
        people
            Columns ``age`` and the covariates.

        Returns
        -------
        mean, spread
            Shape (n, k) and (n, m).

        Raises
        ------
        ValueError
            If an age lies outside of the reference, or a covariate has a level that it has not.
        """
        age = people["age"].to_numpy(float)
        if not ((age >= self.ages[0]) & (age <= self.ages[1])).all():
            bad = age[~((age >= self.ages[0]) & (age <= self.ages[1]))][0]
            raise ValueError(
                f"the reference spans {self.ages[0]:g} to {self.ages[1]:g} years, not {bad:g}"
            )
        others = [_indicators(people[name], known) for name, known in self.levels.items()]
        return _columns(age, others, self.knots_mean, self.knots_spread)

    def centiles(self, people: pd.DataFrame, shares: Floats) -> Floats:
        """Return the values below which given shares of the reference lie.

        Parameters
        ----------
        people
            Columns ``age`` and the covariates.
        shares
            In (0, 1), shape (s,).

        Returns
        -------
        values
            Shape (n, s) [mmol/L].

        Raises
        ------
        ValueError
            As :meth:`design`, or if a share is none.
        """
        if not ((np.asarray(shares) > 0) & (np.asarray(shares) < 1)).all():
            raise ValueError(f"shares of a reference lie between 0 and 1, not all of {shares}")
        mean, spread = self.design(people)
        centre, width = mean @ self.mean, np.exp(spread @ self.spread)
        return _back(centre[:, None] + width[:, None] * stats.norm.ppf(shares), self.power)


def natural_spline(age: Floats, knots: Floats) -> Floats:
    """Return the columns of a natural cubic spline, with the intercept.

    It is straight beyond the outer knots.

    Parameters
    ----------
    age
        Shape (n,) [years].
    knots
        Shape (k,), increasing, at least two.

    Returns
    -------
    columns
        Shape (n, k).

    References
    ----------
    Hastie, Tibshirani & Friedman 2009, doi:10.1007/978-0-387-84858-7, section 5.2.1

    Examples
    --------
    >>> natural_spline(np.array([0.0, 5.0]), np.array([0.0, 10.0])).tolist()
    [[1.0, 0.0], [1.0, 0.5]]
    """
    span = knots[-1] - knots[0]
    scaled, at = (age - knots[0]) / span, (knots - knots[0]) / span
    cubes = np.maximum(scaled[:, None] - at, 0) ** 3
    slopes = (cubes[:, :-1] - cubes[:, -1:]) / (1 - at[:-1])
    bends = slopes[:, :-1] - slopes[:, -1:]
    return np.column_stack([np.ones_like(scaled), scaled, bends])


def _columns(
    age: Floats, others: list[Floats], knots_mean: Floats, knots_spread: Floats
) -> tuple[Floats, Floats]:
    mean = np.column_stack([natural_spline(age, knots_mean), *others])
    return mean, natural_spline(age, knots_spread)


def _indicators(column: pd.Series, known: list[str]) -> Floats:
    values = column.astype(str).to_numpy()
    strange = sorted(set(values) - set(known))
    if strange:
        raise ValueError(f"the reference has no {column.name} {strange[0]}; it has {known}")
    return np.asarray(values[:, None] == np.array(known[1:], dtype=object)[None], dtype=float)


def _forward(value: Floats, power: float) -> Floats:
    return np.asarray(np.log(value) if abs(power) < 1e-6 else (value**power - 1) / power)


def _back(moved: Floats, power: float) -> Floats:
    if abs(power) < 1e-6:
        return np.asarray(np.exp(moved))
    base = 1 + power * moved
    with np.errstate(invalid="ignore"):  # below what the power can reach: n/a
        return np.asarray(base if power == 1 else np.where(base > 0, base, np.nan) ** (1 / power))


def fit_curve(
    table: pd.DataFrame, covariates: tuple[str, ...] = (), power: float | None = 1.0
) -> Curve:
    """Fit a reference curve.

    Parameters
    ----------
    table
        Columns ``participant_id age value`` and the covariates, one row per member; rows where
        one of them is missing are left out.
    covariates
        Columns of categories (sex, site) that shift the mean.
    power
        Of the transformation that makes the values normal; sought by likelihood if None.

    Returns
    -------
    curve

    Raises
    ------
    ValueError
        If a member stands twice, fewer than 100 members, 10 for each coefficient or 5 for each
        level of a covariate are left, ages or values are constant, or values are not positive
        where a power is sought.

    References
    ----------
    Cole & Green 1992, doi:10.1002/sim.4780111005; Smyth 1989,
    doi:10.1111/j.2517-6161.1989.tb01747.x
    """
    rows = _members(table, covariates)
    levels = {name: _levels(rows[name]) for name in covariates}
    age, value = rows["age"].to_numpy(float), rows["value"].to_numpy(float)
    knots = _knots(age, KNOTS_OF_MEAN), _knots(age, KNOTS_OF_SPREAD)
    others = [_indicators(rows[name], known) for name, known in levels.items()]
    columns = _columns(age, others, *knots)
    _check_reference(value, columns, power)
    if power is None:
        power = _best_power(value, columns)
    fit = _fit(_forward(value, power), *columns)
    return Curve(
        ages=(float(age.min()), float(age.max())),
        knots_mean=knots[0],
        knots_spread=knots[1],
        levels=levels,
        power=power,
        mean=fit.mean,
        spread=fit.spread,
        covariance_mean=fit.covariance_mean,
        covariance_spread=fit.covariance_spread,
        members=tuple(rows["participant_id"].astype(str)),
        mean_without=fit.mean_without,
        spread_without=fit.spread_without,
    )


def _levels(column: pd.Series) -> list[str]:
    counts = column.astype(str).value_counts()
    if counts.iloc[-1] < FEWEST:
        raise ValueError(
            f"{column.name} {counts.index[-1]} has {counts.iloc[-1]} members; at least {FEWEST}"
        )
    return [str(name) for name in counts.index]


def _members(table: pd.DataFrame, covariates: tuple[str, ...]) -> pd.DataFrame:
    rows = table.dropna(subset=["participant_id", "age", "value", *covariates])
    if rows["participant_id"].duplicated().any():
        twice = rows.loc[rows["participant_id"].duplicated(), "participant_id"].iloc[0]
        raise ValueError(f"{twice} stands twice: a reference has one value per member")
    if len(rows) < MINIMUM:
        raise ValueError(
            f"a reference curve needs {MINIMUM} members with a value, not {len(rows)}"
        )
    return rows.reset_index(drop=True)


def _knots(age: Floats, k: int) -> Floats:
    knots = np.quantile(age, SHARES_OF_KNOTS[k])
    if not (np.diff(knots) > 0).all():
        raise ValueError(
            f"ages of the reference take {len(np.unique(age))} values, from {age.min():g} to "
            f"{age.max():g} years: too few for a curve"
        )
    return knots


def _check_reference(value: Floats, columns: tuple[Floats, Floats], power: float | None) -> None:
    needed = PER_COEFFICIENT * sum(part.shape[1] for part in columns)
    if len(value) < needed:
        raise ValueError(f"{len(value)} members are too few for this curve; at least {needed}")
    if np.linalg.matrix_rank(columns[0]) < columns[0].shape[1]:
        raise ValueError("covariates of the reference depend on each other")
    if np.ptp(value) == 0:
        raise ValueError(f"every member of the reference has the same value, {value[0]:g}")
    if power != 1 and value.min() <= 0:
        raise ValueError(f"a power needs values above 0; the lowest is {value.min():g}")


def _best_power(value: Floats, columns: tuple[Floats, Floats]) -> float:
    scaled = value / np.exp(np.log(value).mean())  # then the change of variables adds nothing

    def loss(power: float) -> float:
        moved = _forward(scaled, power)
        fit = _fit(moved, *columns)
        log_width = columns[1] @ fit.spread
        z = (moved - columns[0] @ fit.mean) / np.exp(log_width)
        return float(np.sum(log_width + z**2 / 2))

    return float(minimize_scalar(loss, bounds=POWERS, method="bounded", options={"xatol": 1e-3}).x)


class _Fit(NamedTuple):
    """Coefficients of mean and spread, their covariances, and those without each member."""

    mean: Floats
    spread: Floats
    covariance_mean: Floats
    covariance_spread: Floats
    mean_without: Floats
    spread_without: Floats


def _fit(moved: Floats, mean_columns: Floats, spread_columns: Floats) -> _Fit:
    """Fit mean and spread in turn, the spread by the restricted likelihood of the residuals."""
    gain = np.linalg.inv(spread_columns.T @ spread_columns)
    spread = np.zeros(spread_columns.shape[1])
    spread[0] = np.log(moved.std())
    for _ in range(ROUNDS):
        weight = np.exp(-2 * spread_columns @ spread)
        inverse = np.linalg.inv(mean_columns.T @ (weight[:, None] * mean_columns))
        mean = inverse @ (mean_columns.T @ (weight * moved))
        rest = moved - mean_columns @ mean
        leverage = weight * np.einsum("ij,jk,ik->i", mean_columns, inverse, mean_columns)
        excess = weight * rest**2 - (1 - leverage)
        step = np.clip(gain @ (spread_columns.T @ excess) / 2, -1, 1)
        spread = spread + step
        if np.abs(step).max() < CLOSE:
            break
    pull = (weight * rest / (1 - leverage))[:, None] * mean_columns
    own = np.einsum("ij,jk,ik->i", spread_columns, gain, spread_columns)
    push = (excess / (1 - own))[:, None] * spread_columns
    # without a member: the mean exactly at these weights, the spread by one step of Newton's
    without = mean - pull @ inverse, spread - push @ gain / 2
    return _Fit(mean, spread, inverse, gain / 2, *without)


def z_scores(curve: Curve, table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Return where values stand on a reference curve.

    Members of the reference are compared with the curve without themselves. The interval holds
    the uncertainty of the measurement (column ``u``) and of the curve; the spread of the
    reference is that of its measured values.

    Parameters
    ----------
    curve
        Reference curve.
    table
        Columns ``participant_id age value``, ``u`` and ``u_shared`` if known, and the covariates
        of the curve.
    level
        Probability of the interval.

    Returns
    -------
    scores
        Columns ``participant_id z z_low z_high centile member reason``, a row for each of the
        table. Where a value or age is missing, or the age or a covariate lies outside of the
        reference, numbers are nan and the reason is given. A missing uncertainty of the
        measurement is left out of the interval, and said.

    Raises
    ------
    ValueError
        If a column is missing, or the level does not lie between 0 and 1.
    """
    check_level(level)
    for name in ("participant_id", "age", "value", *curve.levels):
        if name not in table:
            raise ValueError(f"scores need the column {name}; there are {list(table)}")
    names = table["participant_id"].astype(str).to_numpy()
    place = pd.Series(range(len(curve.members)), index=curve.members).reindex(names).to_numpy()
    reason = _reasons(curve, table)
    good = reason == ""
    u = own_uncertainty(table)
    numbers = np.full((len(table), 2), np.nan)
    numbers[good] = _score(curve, table[good], place[good], u[good])
    reason[good & ~np.isfinite(u)] = "uncertainty of the measurement unknown"
    reach = stats.norm.ppf((1 + level) / 2) * numbers[:, 1]
    z = numbers[:, 0]
    return pd.DataFrame(
        {"participant_id": names, "z": z, "z_low": z - reach, "z_high": z + reach,
         "centile": stats.norm.cdf(z), "member": np.isfinite(place), "reason": reason}
    )  # fmt: skip


def _reasons(curve: Curve, table: pd.DataFrame) -> np.ndarray:
    """Return why each row has no score, or nothing; the first reason counts."""
    reason = np.full(len(table), "", dtype=object)
    value, age = table["value"].to_numpy(float), table["age"].to_numpy(float)
    low, high = curve.ages
    found = [(~np.isfinite(value), "no value"), (~np.isfinite(age), "no age")]
    for name, known in curve.levels.items():
        strange = ~table[name].astype(str).isin(known).to_numpy()
        found.append((strange, f"{name} is none of {', '.join(known)}"))
    found.append(((age < low) | (age > high), f"age outside of {low:g} to {high:g} years"))
    if curve.power != 1:
        found.append((value <= 0, "value not above 0"))
    for rows, told in reversed(found):
        reason[rows] = told
    return reason


def _score(curve: Curve, people: pd.DataFrame, place: Floats, u: Floats) -> Floats:
    """Return scores and their standard uncertainty, shape (n, 2)."""
    columns, value = curve.design(people), people["value"].to_numpy(float)
    member = np.isfinite(place)
    own = np.where(member, place, 0).astype(int)
    mean, log_width = (
        np.sum(part * np.where(member[:, None], without[own], everyone), axis=1)
        for part, without, everyone in zip(
            columns,
            (curve.mean_without, curve.spread_without),
            (curve.mean, curve.spread),
            strict=True,
        )
    )
    width = np.exp(log_width)
    z = (_forward(value, curve.power) - mean) / width
    measured = np.where(np.isfinite(u), u, 0) * value ** (curve.power - 1) / width
    of_mean, of_width = (
        np.einsum("ij,jk,ik->i", part, covariance, part)
        for part, covariance in zip(
            columns, (curve.covariance_mean, curve.covariance_spread), strict=True
        )
    )
    return np.column_stack([z, np.sqrt(measured**2 + of_mean / width**2 + z**2 * of_width)])


def check_curve(curve: Curve, table: pd.DataFrame, bands: int = 4) -> pd.DataFrame:
    """Return how normal the scores of the members are, over bands of age.

    Parameters
    ----------
    curve
        Reference curve.
    table
        Table of the members.
    bands
        Parts of equal size by age.

    Returns
    -------
    check
        Columns ``age_low age_high n mean sd beyond`` (share of scores beyond 1.96), ``shapiro_p``;
        the mean is to be 0, the spread 1, the share 0.05.

    Raises
    ------
    ValueError
        If no row of the table has a score.
    """
    z = z_scores(curve, table)["z"].to_numpy()
    known = np.isfinite(z)
    if not known.any():
        raise ValueError("no row of the table has a score on this curve")
    age, z = table["age"].to_numpy(float)[known], z[known]
    parts = np.array_split(np.argsort(age, kind="stable"), min(bands, max(len(z) // 3, 1)))
    rows = [
        (age[part].min(), age[part].max(), len(part), z[part].mean(), z[part].std(ddof=1),
         np.mean(np.abs(z[part]) > 1.96), stats.shapiro(z[part]).pvalue)
        for part in parts
    ]  # fmt: skip
    names = ["age_low", "age_high", "n", "mean", "sd", "beyond", "shapiro_p"]
    return pd.DataFrame(rows, columns=names)
