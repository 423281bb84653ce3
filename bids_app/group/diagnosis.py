"""Diagnostic value: what a concentration tells apart, with and without correction.

Higher concentrations speak for the positive side; where they do not, the area lies under 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from sodiumprep.bids_app.group.facts import chosen_rows
from sodiumprep.bids_app.group.seeds import seeded
from sodiumprep.bids_app.group.values import Block, Cohort
from sodiumprep.sodium.cohort.diagnostic import (
    Scores,
    auc_interval,
    compare_auc,
    cutoff,
    paired_scores,
    roc,
    scores_of,
)
from sodiumprep.sodium.cohort.logistic import calibration, held_out_probability

Row = dict[str, Any]
Tables = dict[str, list[Row]]
OF_ROWS = ("seg", "name", "pvc")  # what chooses regions; all else chooses people
USUAL = "tissue"  # segmentation of comparisons that name none
UNCORRECTED = "none"
MOST_POINTS = 400  # of a curve that is drawn
RUN = ["participant_id", "session", "run"]


def diagnose(cohort: Cohort, seg: str, seed: int) -> Tables:
    """Return what each comparison of the model is worth in one segmentation.

    Parameters
    ----------
    cohort
        What was gathered and asked.
    seg
        The segmentation.
    seed
        Of the run.
    """
    tables: Tables = {"roc": [], "roc_curves": []}
    for pair in cohort.model.section("Diagnostic") or ():
        for names in _regions(cohort, pair, seg):
            values = _values(cohort, seg, names)
            for rows, curve in _by_method(pair, values, names, seed):
                tables["roc"].append({"seg": seg, **rows})
                tables["roc_curves"] += [{"seg": seg, **row} for row in curve]
    return tables


def _regions(cohort: Cohort, pair: Mapping[str, Any], seg: str) -> Iterator[tuple[str, str]]:
    """Yield the regions of the positive and the negative side."""
    if seg != pair["Positive"].get("seg", USUAL):
        return
    sides = [pair[side].get("name") for side in ("Positive", "Negative")]
    if sides == [None, None]:  # groups of people: by each region
        yield from ((name, name) for name in cohort.regions(seg))
        return
    first, second = (side or other for side, other in zip(sides, sides[::-1], strict=True))
    yield from product(*([one] if isinstance(one, str) else one for one in (first, second)))


def _values(cohort: Cohort, seg: str, names: tuple[str, str]) -> dict[str, pd.DataFrame]:
    """Return the values of the regions by method, a column ``name`` tells which."""
    found = {}
    for pvc in cohort.methods(seg):
        block = Block(seg, pvc, tuple(dict.fromkeys(names)))
        parts = [one.table.assign(name=one.name) for one in cohort.read(block)]
        if parts:
            found[pvc] = pd.concat(parts, ignore_index=True)
    return found


def _by_method(
    pair: Mapping[str, Any], values: Mapping[str, pd.DataFrame], names: tuple[str, str], seed: int
) -> Iterator[tuple[Row, list[Row]]]:
    """Yield a row and a curve for each method; with what correction is worth over none."""
    keys = {"comparison": pair["Name"], "positive": names[0], "negative": names[1]}
    complete = _in_all(values)
    for pvc, table in values.items():
        row: Row = {**keys, "pvc": pvc}
        try:
            scores = _scores(pair, table, names)
            rng = seeded(seed, *map(str, keys.values()), pvc)
            row |= _worth(scores, rng)
            if UNCORRECTED in complete and pvc not in (UNCORRECTED,):
                first, second = (_scores(pair, complete[m], names) for m in (UNCORRECTED, pvc))
                gain = compare_auc(first, second, rng)
                row |= _estimate("auc_gain", gain.difference) | {"p_gain": gain.p}
        except ValueError as error:
            yield {**row, "notes": str(error)}, []
            continue
        yield row, [{**keys, "pvc": pvc, **r} for r in _thinned(roc(scores))]


def _worth(scores: Scores, rng: np.random.Generator) -> Row:
    chosen = cutoff(scores, "youden", rng)
    probability = held_out_probability(scores.value[:, None], scores, rng)
    told = calibration(probability, scores.positive)
    people = {side: len(np.unique(scores.subject[scores.positive == held]))
              for side, held in (("n_positive", True), ("n_negative", False))}  # fmt: skip
    return {
        **_estimate("auc", auc_interval(scores, rng)), **people,
        **_estimate("cutoff", chosen.value), **_estimate("sensitivity", chosen.sensitivity),
        **_estimate("specificity", chosen.specificity),
        **_estimate("calibration_slope", told.slope),
        **_estimate("calibration_intercept", told.intercept),
        "brier": told.brier, "brier_reference": told.brier_reference,
    }  # fmt: skip


def _scores(pair: Mapping[str, Any], table: pd.DataFrame, names: tuple[str, str]) -> Scores:
    people = [
        {c: wanted for c, wanted in pair[side].items() if c not in OF_ROWS}
        for side in ("Positive", "Negative")
    ]
    sides = [
        chosen_rows(table[table["name"] == name], chosen)
        for name, chosen in zip(names, people, strict=True)
    ]
    if people[0] == people[1]:  # regions within participants
        if names[0] == names[1]:
            raise ValueError("both sides are the same values")
        return paired_scores(*sides)
    positive = np.repeat([True, False], [len(side) for side in sides])
    return scores_of(pd.concat(sides, ignore_index=True), positive)


def _in_all(values: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return, of each method, the measurements that all methods have, in one order."""
    keys = [*RUN, "name"]
    shared = None
    for table in values.values():
        own = pd.MultiIndex.from_frame(table[keys])
        shared = own if shared is None else shared.intersection(own)
    kept = {}
    for pvc, table in values.items():
        rows = table.set_index(keys).loc[shared.sort_values()]  # type: ignore[union-attr]
        kept[pvc] = rows.reset_index()
    return kept


def _thinned(curve: pd.DataFrame) -> list[Row]:
    """Return the points of a curve, of a long one some that are equally far apart."""
    if len(curve) > MOST_POINTS:
        curve = curve.iloc[np.linspace(0, len(curve) - 1, MOST_POINTS).round().astype(int)]
    return [{str(k): v for k, v in row.items()} for row in curve.to_dict("records")]


def _estimate(name: str, found: Any) -> Row:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
