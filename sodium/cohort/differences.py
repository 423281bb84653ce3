"""Differences between groups of a cohort by linear mixed models.

``value = fixed effects + subject (+ site, session) + residual + measurement error``: the variance
of the last is known from the uncertainty of each value, the others are estimated by restricted
maximum likelihood (:mod:`.components`). What a value shares with every other one
(``u_shared``) drops out of a difference and is left out. Degrees of freedom are Satterthwaite's,
at most those of the subjects for what compares subjects: at ten subjects a group this keeps the
type-I error where it should be (docs/figures.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import optimize, special, stats
from statsmodels.stats.multitest import multipletests

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.checks import Check, check_residuals
from sodiumprep.sodium.cohort.components import Fit, fit_components
from sodiumprep.sodium.cohort.designs import Contrast, Design, Model, Subsets, build_design
from sodiumprep.sodium.cohort.values import own_variance, usable_rows, without_covariates

MIXED = "mixed model (REML)"
ROBUST = "least squares, standard errors by subject"
NODES, WEIGHTS = np.polynomial.legendre.leggauss(100)  # over the quantiles of a spread
LARGEST_DF = 1e6  # a normal distribution
MOST_DESIGNS = 50  # that are kept: regions that miss the same values share one
FAMILY = ("pvc", "desc")  # regions of one method and kind share their false-discovery rate


@dataclass(frozen=True)
class Effect:
    """One contrast of one region.

    Parameters
    ----------
    estimate, se, ci_low, ci_high
        [mmol/L], of a slope by unit of the covariate.
    df, t, p
        Of the two-sided test against zero.
    standardized, standardized_low, standardized_high
        Hedges' g: the estimate over the SD of one measurement of a subject, corrected for the
        size of the sample; of a slope for one SD of the covariate.
    """

    estimate: float
    se: float
    df: float
    t: float
    p: float
    ci_low: float
    ci_high: float
    standardized: float
    standardized_low: float
    standardized_high: float


@dataclass(frozen=True)
class Differences:
    """What one region tells about groups and slopes.

    Parameters
    ----------
    effects
        By name of the contrast.
    spreads
        SD [mmol/L] by level: ``subject``, ``session``, ``site``, ``residual``, and ``measured``
        (rms of the known uncertainty).
    method
        Mixed model, or what was done instead.
    checks
        Tests of the residuals.
    notes
        What was left out or decided, in words.
    n_subjects, n_rows
        What the fit used.
    """

    effects: Mapping[str, Effect]
    spreads: Mapping[str, float]
    method: str
    checks: Sequence[Check]
    notes: Sequence[str]
    n_subjects: int
    n_rows: int


def differences(values: pd.DataFrame, model: Model) -> Differences:
    """Return group differences and slopes of one region.

    Parameters
    ----------
    values
        Table of values (:mod:`.values`) with the covariates of the model.
    model
        What is compared.

    Raises
    ------
    ValueError
        If the table cannot answer: no value, constant outcome, missing column, fewer than two
        groups of two subjects, collinear covariates, a subject at two random sites.
    """
    rows = usable_rows(values, model.columns)
    gone = without_covariates(values, model.columns)
    return _analyzed(rows, build_design(rows, model), model, gone)


def _analyzed(
    rows: pd.DataFrame, design: Design, model: Model, gone: Sequence[str]
) -> Differences:
    rows = rows[design.kept]
    outcome = rows["value"].to_numpy()
    known, notes = _known_variance(rows, "session" in design.levels)
    fit = None
    if not model.robust:
        fit = fit_components(outcome, design.matrix, known, design.layout)
        if not fit.converged:
            notes.append(f"the mixed model did not converge: {ROBUST} instead, u not used")
            fit = None
    solved = _robust(outcome, design) if fit is None else _mixed(fit, design, known)
    residuals, matrix = _subject_residuals(outcome, design, solved)
    return Differences(
        effects={
            name: _effect(solved, contrast, design, model.confidence)
            for name, contrast in design.contrasts.items()
        },
        spreads=solved.spreads,
        method=ROBUST if fit is None else MIXED,
        checks=check_residuals(residuals, matrix),
        notes=(*gone, *design.notes, *notes, *solved.notes),
        n_subjects=int(design.subjects.max()) + 1,
        n_rows=len(outcome),
    )


def _known_variance(rows: pd.DataFrame, sessions: bool) -> tuple[Floats, list[str]]:
    """Return the variance of each measurement, for those without one the mean of the others.

    What runs of a session share is estimated with the spread of ``sessions``, if that is.
    """
    variance = own_variance(rows, without_session=sessions)
    unknown = np.isnan(variance)
    if unknown.all():
        return np.zeros(len(rows)), ["no uncertainty of the values: all weigh the same"]
    if not unknown.any():
        return variance, []
    filled = np.where(unknown, np.nanmean(variance), variance)
    return filled, [f"{unknown.sum()} values without uncertainty take the mean of the others"]


@dataclass(frozen=True)
class _Solved:
    """Coefficients with their covariance, however they were found."""

    coefficients: Floats
    covariance: Floats
    fit: Fit | None  # where the degrees of freedom come from
    spreads: Mapping[str, float]
    subject_variance: float
    row_variance: Floats
    notes: Sequence[str] = ()

    @property
    def total(self) -> float:
        """Return the SD of one measurement of a subject."""
        return float(np.sqrt(sum(spread**2 for spread in self.spreads.values())))


def _mixed(fit: Fit, design: Design, known: Floats) -> _Solved:
    spreads = dict(zip(("residual", *design.levels), np.sqrt(fit.variances), strict=True))
    spreads = {name: float(spread) for name, spread in spreads.items()}
    notes = []
    if fit.variances[0] <= 0 and known.any():
        notes.append("values scatter less than their uncertainties say: no residual is left")
    return _Solved(
        coefficients=fit.coefficients,
        covariance=fit.covariance,
        fit=fit,
        spreads={**spreads, "measured": float(np.sqrt(known.mean()))},
        subject_variance=spreads.get("subject", 0.0) ** 2 + spreads.get("site", 0.0) ** 2,
        row_variance=fit.variances[0] + known + spreads.get("session", 0.0) ** 2,
        notes=notes,
    )


def _robust(outcome: Floats, design: Design) -> _Solved:
    squares = sm.OLS(outcome, design.matrix)
    found = squares.fit(cov_type="cluster", cov_kwds={"groups": design.subjects})
    spread = float(np.sqrt(found.scale))
    return _Solved(
        coefficients=np.asarray(found.params),
        covariance=np.asarray(found.cov_params()),
        fit=None,
        spreads={"residual": spread},
        subject_variance=0.0,
        row_variance=np.full(len(outcome), spread**2),
    )


def _subject_residuals(outcome: Floats, design: Design, solved: _Solved) -> tuple[Floats, Floats]:
    """Return the mean residual of each subject over its SD, and its mean covariates."""
    count = np.bincount(design.subjects)
    residual = outcome - design.matrix @ solved.coefficients
    mean = np.bincount(design.subjects, residual) / count
    own = np.bincount(design.subjects, solved.row_variance) / count**2
    columns = [np.bincount(design.subjects, column) / count for column in design.matrix.T]
    return mean / np.sqrt(own + solved.subject_variance), np.column_stack(columns)


def _effect(solved: _Solved, contrast: Contrast, design: Design, confidence: float) -> Effect:
    n, p = design.matrix.shape
    most = design.subjects.max() + 1 - design.between_rank if contrast.between else n - p
    if solved.fit is None:
        estimate = float(contrast.weights @ solved.coefficients)
        se = float(np.sqrt(contrast.weights @ solved.covariance @ contrast.weights))
        df = float(most)
    else:
        estimate, se, df = solved.fit.contrast(contrast.weights, float(most))
    df = min(max(df, 1.0), LARGEST_DF)
    half = se * float(stats.t.ppf(0.5 + confidence / 2, df))
    t = estimate / se
    g = standardized(t, df, se * contrast.spread / solved.total, confidence)
    p_value = 2 * float(stats.t.sf(abs(t), df))
    return Effect(estimate, se, df, t, p_value, estimate - half, estimate + half, *g)


def standardized(
    t: float, df: float, scale: float, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return Hedges' g with its interval.

    Parameters
    ----------
    t, df
        Of the test.
    scale
        Standard error of the difference over the SD that it is told in: ``sqrt(1/n1 + 1/n2)`` for
        two samples.
    confidence
        Of the interval, from the noncentral t distribution.

    Returns
    -------
    g, low, high

    References
    ----------
    Hedges 1981, doi:10.3102/10769986006002107; Cumming & Finch 2001, doi:10.1177/0013164401614002

    Examples
    --------
    >>> [round(x, 3) for x in standardized(2.0, 18, np.sqrt(0.2))]
    [0.857, -0.038, 1.73]
    """
    df = max(df, 1.0 + 1e-6)  # below there is no bias to speak of
    bias = np.sqrt(2 / df) * np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2))
    tails = (0.5 + confidence / 2, 0.5 - confidence / 2)
    low, high = (_noncentrality(t, df, tail) for tail in tails)
    return float(t * scale * bias), float(low * scale * bias), float(high * scale * bias)


def _noncentrality(t: float, df: float, tail: float) -> float:
    """Return the noncentrality under which t lies at a quantile.

    scipy's noncentral t is nan at some of its arguments; the mean of a normal distribution over
    that of the spread is not.
    """
    spreads = np.sqrt(special.chdtri(df, 0.5 - NODES / 2) / df)
    reach = 10.0 + abs(t) * float(spreads.max())

    def miss(noncentrality: float) -> float:
        return float(WEIGHTS @ special.ndtr(t * spreads - noncentrality)) / 2 - tail

    return float(optimize.brentq(miss, -reach, reach, xtol=1e-8))


def compare(
    values: pd.DataFrame, model: Model, by: Sequence[str], family: Sequence[str] = FAMILY
) -> pd.DataFrame:
    """Return the differences of every region and method.

    Parameters
    ----------
    values
        Tables of values of all regions in one.
    model
        What is compared.
    by
        Columns that name a region and method, for example ``seg index name pvc desc``.
    family
        Those of them within which regions share a false-discovery rate (Benjamini-Hochberg), for
        each contrast.

    Returns
    -------
    effects
        One row per region, method and contrast: ``by``, ``contrast``, the fields of
        :class:`Effect`, ``q`` (p corrected for the number of regions), ``n_subjects``,
        ``n_rows``, ``sd_<level>``, ``method``, ``checks`` (those that failed) and ``notes``. A
        region that cannot be fitted has one row, empty but for the reason in ``notes``.
    """
    designs: dict[bytes, Design] = {}
    rows: list[dict[str, object]] = []
    units = _units(values, model)
    make = _maker(values.assign(_unit=units), model)
    for key, table in values.groupby(list(by), sort=False, dropna=False):
        named = dict(zip(by, key, strict=True))
        try:
            usable = usable_rows(table.assign(_unit=units[table.index]), model.columns)
            known = usable["_unit"].to_numpy().tobytes()
            if known not in designs:
                if len(designs) >= MOST_DESIGNS:
                    designs.clear()
                designs[known] = make(usable)
            gone = without_covariates(table, model.columns)
            found = _analyzed(usable, designs[known], model, gone)
        except ValueError as error:
            rows.append({**named, "notes": str(error)})
            continue
        rows += [{**named, **row} for row in _told(found)]
    effects = pd.DataFrame(rows)
    return _with_discovery(effects, [name for name in family if name in by])


def _units(values: pd.DataFrame, model: Model) -> pd.Series:
    """Return one number per participant, session, run and set of covariates."""
    keys = [name for name in ("participant_id", "session", "run") if name in values]
    columns = [name for name in model.columns if name in values and name not in keys]
    return values.groupby([*keys, *columns], sort=False, dropna=False).ngroup()


def _maker(values: pd.DataFrame, model: Model) -> Callable[[pd.DataFrame], Design]:
    """Return what makes the design of a region from that of all measurements in one."""
    first = values.drop_duplicates("_unit")
    try:
        whole = usable_rows(first.assign(value=np.arange(len(first), dtype=float)), model.columns)
    except ValueError:  # each region says by itself what is wrong
        return lambda rows: build_design(rows, model)
    place = np.zeros(len(first), np.intp)
    place[whole["_unit"]] = np.arange(len(whole))
    subsets = Subsets(whole, model)
    return lambda rows: subsets.design(rows, place[rows["_unit"]])


def _told(found: Differences) -> list[dict[str, object]]:
    common = {
        "n_subjects": found.n_subjects,
        "n_rows": found.n_rows,
        **{f"sd_{level}": spread for level, spread in found.spreads.items()},
        "method": found.method,
        "checks": "; ".join(f"{c.name}: {c.words}" for c in found.checks if not c.passed),
        "notes": "; ".join(found.notes),
    }
    effects = found.effects.items()
    return [{"contrast": name, **asdict(effect), **common} for name, effect in effects]


def _with_discovery(effects: pd.DataFrame, family: Sequence[str]) -> pd.DataFrame:
    if "p" not in effects:
        return effects
    q = pd.Series(np.nan, index=effects.index)
    tested = effects[np.isfinite(effects["p"])]
    for _, rows in tested.groupby(["contrast", *family], sort=False, dropna=False):
        q[rows.index] = multipletests(rows["p"], method="fdr_bh")[1]
    effects.insert(effects.columns.get_loc("p") + 1, "q", q)
    return effects
