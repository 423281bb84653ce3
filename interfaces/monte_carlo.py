"""What draws of everything uncertain make of a regional table, and how its rows go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sodiumprep.interfaces.comparison import REGIONS
from sodiumprep.interfaces.pvc import FEED
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.calibrate import VialSignal
from sodiumprep.sodium.monte_carlo import (
    DrawnTable,
    FluidReference,
    Row,
    UncertainTable,
    VialReference,
    correlation,
)
from sodiumprep.sodium.pvc.assessment import AssessedSignals

MAIN = (FEED, "corrected")  # whose correlation is told, where there are such rows
MANY_REFUSED = 0.05  # of the draws

Table = tuple[str, str, dict[str, Floats]]  # method, kind, columns


def known_reference(extra: Mapping[str, Any]) -> VialReference | FluidReference:
    """Return what a calibration rests on.

    Parameters
    ----------
    extra
        Entries of the calibration file beside its lines.
    """
    if extra["reference"] in REGIONS:
        value, u = extra["assumed"]
        return FluidReference(REGIONS[extra["reference"]], (value, u), FEED)
    return VialReference([VialSignal(**vial) for vial in extra["vials"]])


def with_borders(signals: AssessedSignals, main: AssessedSignals) -> AssessedSignals:
    """Return signals with what other borders change.

    Parameters
    ----------
    signals
        By any method; one that did not try other borders takes the relative changes of ``main``.
    main
        By the main method.
    """
    if len(signals.border_changes):
        return signals
    return replace(signals, border_changes=main.border_changes * (signals.values / main.values))


def finished(
    tables: Sequence[Table], known: UncertainTable, draws: int, seed: int
) -> tuple[list[Table], dict[str, Any]]:
    """Let draws, where there are any, tell the uncertainty of a table, and tell of its rows.

    Parameters
    ----------
    tables
        Propagated.
    known
        What they rest on.
    draws
        How many; 0 for none.
    seed
        Of the draws.

    Returns
    -------
    tables
        ``uncertainty``, ``ci_low``, ``ci_high`` by the draws, all else as it was.
    told
        Plain entries of the sidecar: ``Correlation``, with draws ``MonteCarlo``; and ``Warnings``.
    """
    main = MAIN if MAIN in known.factors else next(iter(known.factors))
    if not draws:
        return list(tables), {"Correlation": _correlation(known, main, known.covariance(main))}
    drawn = known.drawn(draws, np.random.default_rng(seed))
    told = {
        "Correlation": _correlation(known, main, drawn.covariance(main)),
        "MonteCarlo": _told(tables, known, drawn, draws, seed),
        "Warnings": _warnings(tables, known, drawn, draws),
    }
    done = [(pvc, desc, columns | drawn.summary((pvc, desc))) for pvc, desc, columns in tables]
    return done, told


def _correlation(known: UncertainTable, row: Row, covariance: Floats) -> dict[str, Any]:
    return {
        "Description": "Correlation of the errors of the concentrations of one method and kind: "
        "calibration, noise, place and kernel are common to them",
        "PartialVolumeCorrection": row[0],
        "Kind": row[1],
        "Names": list(known.rows),
        "Matrix": np.round(correlation(covariance), 4).tolist(),
    }


def _told(
    tables: Sequence[Table], known: UncertainTable, drawn: DrawnTable, draws: int, seed: int
) -> dict[str, Any]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for pvc, desc, columns in tables:
        differences = drawn.differences((pvc, desc), columns["uncertainty"])
        rounded = np.round(differences, 4).tolist()
        found.setdefault(pvc, {})[desc] = dict(zip(known.rows, rounded, strict=True))
    every = [d for kinds in found.values() for row in kinds.values() for d in row.values()]
    finite = [d for d in every if np.isfinite(d)]
    return {
        "Description": "uncertainty, ci_low and ci_high of the table are the standard deviation "
        "and the 2.5 and 97.5 percentiles of draws of all that is uncertain; u_* are propagated",
        "Draws": draws,
        "DrawsRefused": drawn.refused,
        "Seed": seed,
        "SamplingError": round(drawn.sampling_error, 4),
        "LargestDifference": max(finite, key=abs) if finite else None,
        "Differences": found,
    }


def _warnings(
    tables: Sequence[Table], known: UncertainTable, drawn: DrawnTable, draws: int
) -> list[str]:
    """Return where propagation does not hold, and whether many draws were refused."""
    off = [
        f"{name} ({pvc}, {desc}: {100 * difference:+.0f} %)"
        for pvc, desc, columns in tables
        for name, difference in zip(
            known.rows, drawn.differences((pvc, desc), columns["uncertainty"]), strict=True
        )
        if abs(difference) > drawn.tolerance
    ]
    said = []
    if off:
        said.append(
            "analytic propagation does not hold for the uncertainty of "
            f"{', '.join(off)}: that from draws is larger or smaller by so much"
        )
    if drawn.refused > MANY_REFUSED * draws:
        said.append(
            f"{drawn.refused} of {draws} draws made no calibration line that rises and were left "
            "out: the references are too uncertain"
        )
    return said
