"""How many subjects a study needs, and what a number of subjects can show.

Two-sided tests throughout. What a method does to an effect and to the spread of its values
(partial volume pulls regions together, its correction pushes them apart and adds noise) decides
which of them needs fewer subjects: :func:`compare_methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq
from statsmodels.stats.power import TTestIndPower, TTestPower

Kind = Literal["groups", "paired"]
FEWEST, MOST = 2, 10_000_000  # subjects that are tried


@dataclass(frozen=True)
class Study:
    """A comparison of means.

    Parameters
    ----------
    effect
        True difference between groups, or mean change [mmol/L].
    sd
        SD between subjects of one measurement, or of a change [mmol/L].
    kind
        Two independent groups, or changes of the same subjects.
    ratio
        Subjects of the second group over those of the first.
    alpha
        Type-I error.
    """

    effect: float
    sd: float
    kind: Kind = "groups"
    ratio: float = 1.0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what no study can be planned with."""
        if not (np.isfinite(self.effect) and self.effect != 0):
            raise ValueError(f"effect is {self.effect} mmol/L; accepted: a number that is not 0")
        if not (np.isfinite(self.sd) and self.sd > 0):
            raise ValueError(f"sd is {self.sd} mmol/L; accepted: above 0")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}; accepted: above 0, below 1")
        if self.kind not in {"groups", "paired"} or self.ratio <= 0:
            raise ValueError(
                f"kind {self.kind!r}, ratio {self.ratio}: accepted: groups or paired, > 0"
            )

    def power(self, n: int) -> float:
        """Return the power with n subjects (in the first of two groups).

        Examples
        --------
        >>> round(Study(effect=5.0, sd=10.0).power(64), 3)  # Cohen's table
        0.801
        """
        size = abs(self.effect) / self.sd
        if self.kind == "paired":
            return float(TTestPower().power(size, n, self.alpha))
        return float(TTestIndPower().power(size, n, self.alpha, ratio=self.ratio))

    def subjects(self, power: float = 0.8) -> int:
        """Return the subjects needed (in the first of two groups).

        Examples
        --------
        >>> Study(effect=5.0, sd=10.0).subjects(0.8)
        64
        >>> Study(effect=5.0, sd=10.0, kind="paired").subjects(0.8)
        34
        """
        return _fewest(self.power, power)


@dataclass(frozen=True)
class Correlation:
    """A correlation with another measure.

    Parameters
    ----------
    r
        True correlation of the subjects' values without errors of measurement.
    reliability
        ICC of the measured values (product of both reliabilities, if the other errs too): it
        weakens the correlation by its square root.
    alpha
        Type-I error.
    """

    r: float
    reliability: float = 1.0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what no study can be planned with."""
        if not 0 < abs(self.r) < 1:
            raise ValueError(f"r is {self.r}; accepted: between -1 and 1, not 0")
        if not 0 < self.reliability <= 1:
            raise ValueError(f"reliability is {self.reliability}; accepted: above 0, at most 1")

    @property
    def observed(self) -> float:
        """Return the correlation of the measured values."""
        return float(self.r * np.sqrt(self.reliability))

    def power(self, n: int) -> float:
        """Return the power with n subjects, by Fisher's z.

        The bias of z, r / (2 (n - 1)), is taken into account.

        References
        ----------
        Fisher 1915, doi:10.2307/2331838; Hotelling 1953, doi:10.1111/j.2517-6161.1953.tb00135.x
        """
        if n < 4:
            return 0.0
        shift = np.arctanh(abs(self.observed)) + abs(self.observed) / (2 * (n - 1))
        limit = stats.t.ppf(1 - self.alpha / 2, n - 2)
        limit = np.arctanh(limit / np.sqrt(n - 2 + limit**2))
        distances = (np.array([shift - limit, -shift - limit])) * np.sqrt(n - 3)
        return float(stats.norm.cdf(distances).sum())

    def subjects(self, power: float = 0.8) -> int:
        """Return the subjects needed.

        Examples
        --------
        >>> Correlation(0.3).subjects(0.8), Correlation(0.3, reliability=0.5).subjects(0.8)
        (85, 172)
        """
        return _fewest(self.power, power)


def _fewest(power_of: Callable[[int], float], power: float) -> int:
    """Return the smallest number of subjects that reaches a power.

    Raises
    ------
    ValueError
        If the power is not in (0, 1), or out of reach.
    """
    if not 0 < power < 1:
        raise ValueError(f"power is {power}; accepted: above 0, below 1")
    low, high = FEWEST, FEWEST
    while power_of(high) < power:
        low, high = high, 2 * high
        if high > MOST:
            raise ValueError(f"more than {MOST} subjects are needed")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return high


def detectable(study_of: Callable[[float], Study], n: int, power: float = 0.8) -> float:
    """Return the smallest effect that n subjects show with a power [mmol/L].

    Parameters
    ----------
    study_of
        The study for an effect.
    n
        Subjects (in the first of two groups).
    power
        Asked.

    Examples
    --------
    >>> round(detectable(lambda effect: Study(effect, sd=10.0), 64), 2)
    4.99
    """
    sd = study_of(1.0).sd

    def miss(size: float) -> float:
        return study_of(size * sd).power(n) - power

    return float(brentq(miss, 1e-3, 1e3)) * sd


def compare_methods(studies: Mapping[str, Study], n: int, power: float = 0.8) -> pd.DataFrame:
    """Return what methods of partial-volume correction need for the same question.

    Parameters
    ----------
    studies
        By method: the effect that it shows and the SD of its values, for example without
        correction and by ``gtm``.
    n
        Subjects (in the first of two groups) whose power is told.
    power
        Asked for the number of subjects.

    Returns
    -------
    plan
        Rows ``pvc effect sd size subjects power``: size is effect over SD, ``subjects`` of the
        first group.

    Examples
    --------
    >>> plan = compare_methods({"none": Study(4.0, 8.0), "gtm": Study(8.0, 11.0)}, n=30)
    >>> plan["subjects"].tolist(), plan["power"].round(2).tolist()
    ([64, 31], [0.48, 0.79])
    """
    rows = [
        {
            "pvc": name,
            "effect": study.effect,
            "sd": study.sd,
            "size": abs(study.effect) / study.sd,
            "subjects": study.subjects(power),
            "power": study.power(n),
        }
        for name, study in studies.items()
    ]
    return pd.DataFrame(rows)
