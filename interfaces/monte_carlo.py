"""What draws of everything uncertain make of a regional table, and how its rows go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import isdefined

from sodiumprep.interfaces.calibrate import load_lines, vial_of
from sodiumprep.interfaces.coil_fields import load_field
from sodiumprep.interfaces.comparison import REGIONS
from sodiumprep.interfaces.pvc import FEED
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.concentration_map import Concentrations
from sodiumprep.sodium.monte_carlo import (
    DrawnTable,
    FluidReference,
    LineReference,
    LogField,
    Reference,
    Row,
    UncertainTable,
    VialReference,
    correlation,
)
from sodiumprep.sodium.pvc.assessment import UNCORRECTED, AssessedSignals
from sodiumprep.sodium.smooth_field import grid_positions

MAIN = (FEED, "corrected")  # whose correlation is told, where there are such rows
MANY_REFUSED = 0.05  # of the draws

Table = tuple[str, str, dict[str, Floats]]  # method, kind, columns


def known_reference(extra: Mapping[str, Any]) -> Reference:
    """Return what a calibration rests on.

    Parameters
    ----------
    extra
        Entries of the calibration file beside its lines.

    Returns
    -------
    reference
        Vials that were left out of the line are none.
    """
    if extra["reference"] in REGIONS:
        value, u = extra["assumed"]
        return FluidReference(REGIONS[extra["reference"]], (value, u), FEED)
    if extra["reference"] != "vials":
        return LineReference()
    return VialReference([vial_of(vial) for vial in extra["vials"] if vial["used"]])


def receive_field(
    path: Path | str, weights: Mapping[str, Floats], affine: Floats, reference: Sequence[str],
    apart: Floats | None = None,
) -> LogField:  # fmt: skip
    """Return what is uncertain about a fitted receive field over regions.

    Parameters
    ----------
    path
        Of the field (npz).
    weights
        Share of each voxel in rows, references and vials, by name, shape (nx, ny, nz).
    affine
        Of the grid, shape (4, 4) [mm].
    reference
        Names of those that calibrate; none for what lies elsewhere.
    apart
        Mean of the field's basis over what calibrates elsewhere, shape (m,).
    """
    model, names = load_field(str(path)), list(weights)
    shares = np.stack(list(weights.values()))
    places = grid_positions(shares.shape[1:], affine)
    basis = model.region_means(places, shares.reshape(len(shares), -1))
    used = np.isin(names, reference)
    if apart is None:
        apart = basis[used].mean(axis=0) if used.any() else np.zeros(basis.shape[1])
    return LogField.of_receive(model, names, basis, apart)


def uncertain_table(
    regions: Any, inputs: Any, methods: Sequence[str], maps: Concentrations, affine: Floats
) -> UncertainTable:
    """Return all that the table of a head rests on, with its uncertainty.

    Parameters
    ----------
    regions
        Rows, references and vials with their signals, as the interface of the table has them.
    inputs
        Of that interface.
    methods
        That have rows.
    maps
        Concentrations of the voxels.
    affine
        Of the sodium image, shape (4, 4) [mm].
    """
    lines, extra = load_lines(inputs.calibration_file)
    reference = known_reference(extra)
    own = regions.brain.factors(regions.protocol)
    mixed = maps.mean_factors(regions.fractions)
    factors = {}
    for method in methods:
        factors[method, "apparent"] = np.ones(len(own))
        factors[method, "corrected"] = mixed if method == UNCORRECTED else own
    signals, main = regions.all_signals, regions.all_signals[FEED]
    receive = transmit = None
    if isdefined(inputs.model_file) and inputs.model_file is not None:
        weights = dict(zip(regions.names, regions.fractions, strict=True)) | regions.beside
        receive = receive_field(
            inputs.model_file, weights, affine, reference.names, regions.phantom_basis
        )
    if regions.transmit is not None:
        known = regions.transmit
        transmit = LogField.of_transmit(known.model, known.names, known.effect.basis)
        if receive is not None and regions.one_field:
            receive = receive.correlated_with(
                known.uncertainty(list(receive.names), regions.rests_on)
            )
    return UncertainTable(
        names=regions.all_names,
        rows=regions.names,
        signals={m: with_changes(signals[m], main) for m in dict.fromkeys([*methods, FEED])},
        factors=factors,
        constants=regions.by_name,
        protocol=regions.protocol,
        lines=lines,
        reference=reference,
        receive=receive,
        transmit=transmit,
    )


def with_changes(signals: AssessedSignals, main: AssessedSignals) -> AssessedSignals:
    """Return signals with what other borders and other constants of decay change.

    Parameters
    ----------
    signals
        By any method; what it did not try it takes from ``main``, relative to the values.
    main
        By the main method.
    """
    names = ("border_changes", "decay_changes")
    ratio = signals.values / main.values
    taken = {n: getattr(main, n) * ratio for n in names if not len(getattr(signals, n))}
    return replace(signals, **taken)


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
