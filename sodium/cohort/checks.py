"""Whether the residuals of a fit are what its intervals assume: named tests, plain words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.diagnostic import het_breuschpagan

from sodiumprep.sodium.acquisition import Floats

DOUBT = 0.01  # p of a test below which it is told
FEWEST = 8  # residuals that a test of them needs
MOST_SHAPIRO = 5000  # its p is not exact above
FAR = 3.0  # leverage over its mean
INFLUENCE = 1.0  # Cook's distance


@dataclass(frozen=True)
class Check:
    """One test.

    Parameters
    ----------
    name
        Of the test.
    statistic, p
        The latter nan where the check is a threshold.
    passed
        Whether nothing speaks against the model.
    words
        What was found.
    """

    name: str
    statistic: float
    p: float
    passed: bool
    words: str


def check_residuals(residuals: Floats, design: Floats) -> tuple[Check, ...]:
    """Test independent residuals for normality, equal spread and leverage.

    Parameters
    ----------
    residuals
        Each over its own standard deviation, shape (n,).
    design
        Fixed effects, shape (n, p).

    Returns
    -------
    checks
        Empty for fewer than 8 residuals.
    """
    if len(residuals) < max(FEWEST, design.shape[1] + 2):
        return ()
    return (_normality(residuals), *_equal_spread(residuals, design), _leverage(residuals, design))


def _normality(residuals: Floats) -> Check:
    few = len(residuals) <= MOST_SHAPIRO
    name = "Shapiro-Wilk" if few else "D'Agostino-Pearson"
    found = stats.shapiro(residuals) if few else stats.normaltest(residuals)
    passed = bool(found.pvalue >= DOUBT)
    words = f"residuals {'look' if passed else 'do not look'} normal"
    return Check(name, float(found.statistic), float(found.pvalue), passed, words)


def _equal_spread(residuals: Floats, design: Floats) -> tuple[Check, ...]:
    constant = np.ptp(design, axis=0) == 0
    if constant.all():
        return ()
    explaining = np.column_stack([np.ones(len(design)), design[:, ~constant]])
    statistic, p = het_breuschpagan(residuals, explaining)[:2]
    passed = bool(p >= DOUBT)
    words = f"spread of residuals {'is the same' if passed else 'changes'} with the covariates"
    return (Check("Breusch-Pagan (Koenker)", float(statistic), float(p), passed, words),)


def _leverage(residuals: Floats, design: Floats) -> Check:
    basis = np.linalg.qr(design)[0]
    hat = (basis**2).sum(axis=1)
    n, p = design.shape
    left = np.maximum(1.0 - hat, 1e-9)
    distance = residuals**2 * hat / (p * left**2) / max(float(np.mean(residuals**2)), 1e-12)
    far, strong = int((hat > FAR * p / n).sum()), int((distance > INFLUENCE).sum())
    words = f"{far} of {n} far from the others in their covariates, {strong} decide the result"
    return Check("Cook's distance", float(distance.max()), float("nan"), strong == 0, words)
