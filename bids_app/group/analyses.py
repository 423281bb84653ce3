"""All analyses of a cohort: regions in portions over processes, tables of results out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from sodiumprep.bids_app.group.diagnosis import diagnose
from sodiumprep.bids_app.group.modality import compare_block
from sodiumprep.bids_app.group.model import Model, formula
from sodiumprep.bids_app.group.others import Other
from sodiumprep.bids_app.group.regional import MAIN_TABLE, REGIONAL, Asked, Row, Tables, slopes
from sodiumprep.bids_app.group.tables import shared
from sodiumprep.bids_app.group.values import Block, Cohort, Series
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.settings import Settings
from sodiumprep.sodium.cohort import designs
from sodiumprep.sodium.cohort.differences import compare

PORTION = 25  # regions that are read and analysed at a time


def analyse(
    cohort: Cohort, settings: Settings, others: Sequence[Other] = ()
) -> dict[str, pd.DataFrame]:
    """Return tables of results by name.

    Parameters
    ----------
    cohort
        What was gathered and asked.
    settings
        The user's choices: processes and seed.
    others
        Values of other modalities.
    """
    blocks = cohort.blocks(PORTION)
    tasks: list[Callable[[], Gathering]] = [
        partial(of_block, cohort, block) for block in blocks]  # fmt: skip
    tasks += [partial(gathered, diagnose, cohort, seg, settings.random_seed)
              for seg in dict.fromkeys(block.seg for block in blocks)]  # fmt: skip
    if others:
        tasks += [
            partial(gathered, compare_block, cohort, block, [other.of(block.seg, block.names)
                    for other in others], settings.random_seed) for block in blocks
        ]  # fmt: skip
    found = Gathering()
    for tables in _all_of(tasks, settings.nprocs):
        found.join(tables)
    results = found.tables()
    if "effects" in results:
        results["effects"] = with_discovery(results["effects"])
    return results


class Gathering:
    """Rows of tables in their order; long tables are never held as rows, which take much more."""

    def __init__(self) -> None:
        self._parts: dict[str, list[list[Row] | pd.DataFrame]] = {}
        self._words: dict[str, str] = {}

    def add(self, tables: Tables) -> None:
        """Take rows in.

        Parameters
        ----------
        tables
            By name.
        """
        for name, rows in tables.items():
            parts = self._parts.setdefault(name, [])
            if isinstance(rows, list) and parts and isinstance(parts[-1], list):
                parts[-1] += rows
            elif isinstance(rows, pd.DataFrame) and len(rows):
                parts.append(self._with_shared_words(rows))
            elif len(rows):
                parts.append(list(rows))

    def _with_shared_words(self, table: pd.DataFrame) -> pd.DataFrame:
        words = table.select_dtypes(object)
        return table.assign(**{str(c): shared(words[c], self._words) for c in words})

    def join(self, other: Gathering) -> None:
        """Take all of another in.

        Parameters
        ----------
        other
            Of one task.
        """
        for name, parts in other._parts.items():
            for rows in parts:
                self.add({name: rows})

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables that have rows, by name."""
        found = {}
        for name, parts in self._parts.items():
            tables = [pd.DataFrame(rows) for rows in parts]
            if tables:
                found[name] = tables[0] if len(tables) == 1 else pd.concat(
                    tables, ignore_index=True)  # fmt: skip
        return found


def gathered(function: Callable[..., Tables], *arguments: Any) -> Gathering:
    """Return what a function tells.

    Parameters
    ----------
    function
        Returns rows by table.
    arguments
        What it takes.
    """
    found = Gathering()
    found.add(function(*arguments))
    return found


def of_block(cohort: Cohort, block: Block) -> Gathering:
    """Return all that the regions of a block tell, by table.

    Parameters
    ----------
    cohort
        What was gathered and asked.
    block
        Regions of one segmentation and method.
    """
    asked = Asked(cohort.model, cohort.covariates.numbers)
    series = list(cohort.read(block))
    found = Gathering()
    if cohort.model.fixed and series:
        found.add({"effects": effects(series, cohort)})
    for section, function in REGIONAL.items():
        if cohort.model.section(section) is None:
            continue
        for one in series:
            _add(found, MAIN_TABLE[section], one, partial(function, one, asked))
    if "Time" in (cohort.model.section("Change") or {}):
        for one in series:
            _add(found, "slopes", one, partial(slopes, one, asked))
    return found


def effects(series: Iterable[Series], cohort: Cohort) -> list[Row]:
    """Return group differences and slopes of regions of one method.

    Parameters
    ----------
    series
        Values of each region.
    cohort
        What was gathered and asked.
    """
    parts = [one.table.assign(**one.keys) for one in series]
    values = pd.concat(parts, ignore_index=True)
    if not cohort.model.weighted:
        values["u"] = np.nan
    asked = as_design(cohort.model, cohort.covariates.numbers)
    table = compare(values, asked, by=["seg", "name", "pvc"])
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def as_design(model: Model, numbers: Iterable[str]) -> designs.Model:
    """Return the mixed model as its fit takes it.

    Parameters
    ----------
    model
        Complete.
    numbers
        Covariates that are numbers; all others are categories.
    """
    terms = list(model.fixed)
    columns = list(dict.fromkeys(part for term in terms for part in term.split("*")))
    known = set(numbers)
    return designs.Model(
        fixed=formula(terms),
        groups=tuple(c for c in columns if c not in known),
        slopes=tuple(c for c in columns if c in known),
        site=next((c for c in model.random if c != "participant_id"), None),
        reference=model.reference,
        contrasts=model.contrasts,
    )


def with_discovery(effects: pd.DataFrame) -> pd.DataFrame:
    """Return effects with ``q``: p corrected for the regions of the segmentation and method.

    Parameters
    ----------
    effects
        Of all blocks.
    """
    if "p" not in effects:
        return effects
    q = pd.Series(np.nan, index=effects.index)
    tested = effects[np.isfinite(effects["p"])]
    for _, rows in tested.groupby(["contrast", "seg", "pvc"], sort=False):
        q[rows.index] = multipletests(rows["p"], method="fdr_bh")[1]
    return effects.assign(q=q)


def _add(found: Gathering, main: str, series: Series, function: Callable[[], Tables]) -> None:
    """Add the rows of one analysis; where it cannot answer, a row says why."""
    try:
        tables = function()
    except ValueError as error:
        tables = {main: [{**series.keys, "notes": str(error)}]}
    found.add(tables)


def _all_of(tasks: list[Callable[[], Gathering]], nprocs: int) -> Iterator[Gathering]:
    """Yield what tasks return, in their order; a worker that is killed ends the run in words."""
    if nprocs == 1 or len(tasks) <= 1:
        yield from (task() for task in tasks)
        return
    with ProcessPoolExecutor(min(nprocs, len(tasks)), get_context("forkserver")) as pool:
        waiting = deque(pool.submit(task) for task in tasks)
        while waiting:  # what was taken is not held any longer
            try:
                yield waiting.popleft().result()
            except BrokenProcessPool:
                raise UserError(
                    "a process of the analyses was killed, most often since memory ran out; "
                    "fewer at a time need less: --nprocs 1"
                ) from None
