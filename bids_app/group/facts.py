"""What a cohort has: columns, levels, regions, methods; and whether a model names only those."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import polars as pl

from sodiumprep.bids_app.group.covariates import Covariates
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.results import TISSUES
from sodiumprep.interfaces.columns import FLAGS
from sodiumprep.sodium.cohort.values import label_rank

ANY = "any"  # of Exclude.flag: every flag
FEWEST_OF_A_LEVEL = 2  # participants, else a level cannot be compared with another


@dataclass(frozen=True)
class Facts:
    """What a model can be asked of.

    Parameters
    ----------
    covariates
        What is known of people.
    measured
        ``participant_id session run`` of every run with results.
    regions
        Names of the regions of each segmentation.
    methods
        Partial-volume corrections.
    quality
        Columns of quality figures that hold numbers.
    labels
        Of ``acq`` and ``rec``, where there are several: how many participants have each.
    listed
        ``participant_id`` of those in ``participants.tsv`` or with quality figures, with regional
        values or without.
    """

    covariates: Covariates
    measured: pl.DataFrame
    regions: Mapping[str, Sequence[str]]
    methods: Sequence[str]
    quality: Sequence[str] = ()
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    listed: Sequence[str] = ()

    @property
    def sessions(self) -> list[str]:
        """Labels of sessions that at least two participants have, in their order."""
        return sorted(self._repeated("session"), key=label_rank)

    @property
    def most_runs(self) -> int:
        """Largest number of runs of a participant in one session."""
        if not self.measured.height:
            return 0
        counts = self.measured.group_by("participant_id", "session").len()
        return int(counts["len"].max() or 0)  # type: ignore[arg-type]

    @property
    def lesions(self) -> list[str]:
        """Names of the lesions of the tissue table."""
        return [name for name in self.regions.get("tissue", ()) if name not in TISSUES]

    @property
    def people(self) -> list[str]:
        """Labels of all that are listed or have results, without ``sub-``."""
        known = {*self.listed, *self.measured["participant_id"]}
        return sorted(name.removeprefix("sub-") for name in known)

    def levels(self, column: str) -> dict[str, int]:
        """Return the levels of a category and how many participants each has.

        Parameters
        ----------
        column
            Of the covariates, or ``session``, ``run``.
        """
        table = self.measured if column in ("session", "run") else self.covariates.table
        counts = (
            table.filter(pl.col(column).is_not_null())
            .group_by(column)
            .agg(pl.col("participant_id").n_unique().alias("n"))
            .sort(column)
        )
        return dict(counts.iter_rows())

    def options(self) -> dict[str, list[str]]:
        """Return what rows of the tables can be chosen by, with all values."""
        names = sorted({name for regions in self.regions.values() for name in regions})
        return {
            "seg": list(self.regions),
            "name": names,
            "pvc": list(self.methods),
            "session": list(self.levels("session")),
        }

    def columns(self) -> list[str]:
        """Return what values can be explained by."""
        known = [c for c in self.covariates.table.columns if c != "participant_id"]
        return list(dict.fromkeys([*known, "session", "run"]))

    def _repeated(self, column: str) -> list[str]:
        return [level for level, n in self.levels(column).items() if n >= FEWEST_OF_A_LEVEL]


def chosen_rows(table: pd.DataFrame, chosen: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows whose columns hold the values that are wanted.

    Parameters
    ----------
    table
        Any.
    chosen
        A value, or a list of values, by column; empty for all rows.
    """
    kept = pd.Series(data=True, index=table.index)
    for column, wanted in chosen.items():
        kept &= table[column].isin([wanted] if isinstance(wanted, str) else list(wanted))
    return table[kept]


def check_names(given: Mapping[str, Any], facts: Facts, where: str) -> None:
    """Refuse columns, levels, regions and methods that there are not; tell those like them.

    Parameters
    ----------
    given
        What a user asked, as the schema has it.
    facts
        What there is.
    where
        File, for messages.

    Raises
    ------
    UserError
        For the first name that is not there.
    """
    for source in (_of_rows, _of_people, _of_levels):
        for name, options, place in source(given, facts):
            check_known(name, options, f"{where}: {place}")


Wanted = Iterator[tuple[str, Iterable[str], str]]  # name, what there is, where it stands


def _of_rows(given: Mapping[str, Any], facts: Facts) -> Wanted:
    """Yield the names of what rows are chosen by."""
    options = facts.options()
    for key, known in options.items():
        yield from ((n, known, f"Input.{key}") for n in given.get("Input", {}).get(key, ()))
    chosen = {key: given.get("Input", {}).get(key) for key in facts.labels}
    yield from ((n, facts.labels[key], f"Input.{key}") for key, n in chosen.items() if n)
    exclude = given.get("Exclude", {})
    yield from ((name, facts.quality, "Exclude.quality") for name in exclude.get("quality", {}))
    # a misspelt one would exclude nobody
    yield from ((word, (*FLAGS, ANY), "Exclude.flag") for word in exclude.get("flag", ()))
    names = (name.removeprefix("sub-") for name in exclude.get("participant_id", ()))
    yield from ((name, facts.people, "Exclude.participant_id") for name in names)
    change = given.get("Change", {})
    ends = [change[key] for key in ("From", "To") if key in change]
    yield from ((label, options["session"], "Change") for label in ends)
    named = given.get("Outcome", {}).get("name", ())
    yield from ((name, options["name"], "Outcome.name") for name in named)
    for pair in given.get("Diagnostic", ()):
        for side in ("Positive", "Negative"):
            yield from _of_side(pair[side], facts, f"Diagnostic.{side}")


def _of_side(chosen: Mapping[str, Any], facts: Facts, place: str) -> Wanted:
    options = facts.options()
    for column, wanted in chosen.items():
        yield column, [*options, *facts.columns()], place
        known = options.get(column) or list(facts.levels(column))
        words = [wanted] if isinstance(wanted, str) else wanted
        yield from ((word, known, f"{place}.{column}") for word in words)


def _of_levels(given: Mapping[str, Any], facts: Facts) -> Wanted:
    """Yield who is chosen by a column, and the conditions of contrasts."""
    for section, key in (("Change", "Stable"), ("Normative", "Reference")):
        place = f"{section}.{key}"
        for column, wanted in given.get(section, {}).get(key, {}).items():
            yield column, facts.columns(), place
            words = [wanted] if isinstance(wanted, str) else wanted
            yield from ((word, facts.levels(column), f"{place}.{column}") for word in words)
    for contrast in given.get("Contrasts", ()):
        for condition in contrast["ConditionList"]:
            column, _, level = condition.partition(".")
            if condition in facts.columns():
                continue
            yield column, facts.columns(), "Contrasts.ConditionList"
            yield level, facts.levels(column), f"Contrasts.ConditionList: {column}"


def _of_people(given: Mapping[str, Any], facts: Facts) -> Wanted:
    """Yield the names of covariates and their levels."""
    columns, numbers = facts.columns(), facts.covariates.numbers
    model = given.get("Model", {})
    terms = {part for term in model.get("X", ()) for part in str(term).split("*")} - {"1"}
    yield from ((part, columns, "Model.X") for part in sorted(terms))
    allowed = ["participant_id", *columns]
    yield from ((name, allowed, "Model.Random") for name in model.get("Random", ()))
    for column, level in model.get("Reference", {}).items():
        yield column, columns, "Model.Reference"
        yield level, facts.levels(column), f"Model.Reference.{column}"
    outcome, norm = given.get("Outcome", {}), given.get("Normative", {})
    yield from ((c, numbers, "Change.Time") for c in [given.get("Change", {}).get("Time")] if c)
    yield from ((c, columns, "Change.Group") for c in [given.get("Change", {}).get("Group")] if c)
    timing = [outcome[key] for key in ("Duration", "Event") if key in outcome]
    yield from ((name, numbers, "Outcome") for name in timing)
    yield from ((name, numbers, "Normative.By") for name in [norm.get("By")] if name)
    for other in given.get("Comparison", ()):
        yield from ((c, numbers, "Comparison.Outcome") for c in [other.get("Outcome")] if c)
    for place, section in (("Outcome", outcome), ("Normative", norm)):
        held = section.get("Covariates", ())
        yield from ((name, columns, f"{place}.Covariates") for name in held)


def check_known(name: str, options: Iterable[str], where: str) -> None:
    """Refuse a name that there is not; tell those like it.

    Parameters
    ----------
    name
        What a user asked.
    options
        What there is.
    where
        File and key, for the message.

    Raises
    ------
    UserError
        If it is not there.
    """
    known = [str(option) for option in options]
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    raise UserError(f"{where}: {name!r} is not there; {hint}There are: {shown or 'none'}")
