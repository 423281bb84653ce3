"""What is asked of a cohort: the model file, checked against what there is, and its defaults.

The file is JSON; its schema is ``model.schema.json`` beside this module, told in docs/group.md.
What it leaves out is chosen from the columns that are found, and said in words. The complete
model is written to ``group/model.json``, which asks for the same again.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from sodiumprep.bids_app.group.facts import FEWEST_OF_A_LEVEL, Facts, check_names
from sodiumprep.bids_app.metadata import UserError, read_json
from sodiumprep.sodium.cohort.values import label_rank

CONTROLS = ("control", "controls", "con", "ctrl", "hc", "healthy", "reference", "normal")
ROWS_PER_TERM = 3  # values needed for each coefficient of a default model
KNOWN_SHARE = 0.8  # of the participants whose age must be known before a default model takes it
SLOPES = ("age",)
FACTORS = ("group", "diagnosis", "sex", "gender", "site", "scanner")
DEFAULT_DIFFERENCE = 0.1  # of the mean: what sample sizes are told for
DEFAULT_POWER, DEFAULT_ALPHA = 0.8, 0.05


@dataclass(frozen=True)
class Model:
    """A model that nothing is missing of.

    Parameters
    ----------
    content
        As the schema has it; a section that does not apply is left out.
    words
        How what the user left open was chosen.
    """

    content: Mapping[str, Any]
    words: tuple[str, ...] = ()
    given: frozenset[str] = field(default_factory=frozenset)

    def section(self, name: str) -> Mapping[str, Any] | None:
        """Return a section, None where it does not apply.

        Parameters
        ----------
        name
            Such as ``Change``.
        """
        return self.content.get(name)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Terms of the mixed model but the intercept."""
        return tuple(str(x) for x in self.content["Model"]["X"] if x != 1)

    @property
    def random(self) -> tuple[str, ...]:
        """Columns with a random intercept."""
        return tuple(self.content["Model"].get("Random", ()))

    @property
    def reference(self) -> Mapping[str, str]:
        """Level of each category that others are compared with."""
        return self.content["Model"]["Reference"]

    @property
    def contrasts(self) -> dict[str, dict[str, float]]:
        """Contrasts that are asked for: weights by condition, by name; empty for all pairs."""
        return {
            c["Name"]: dict(zip(c["ConditionList"], c["Weights"], strict=True))
            for c in self.content.get("Contrasts", ())
        }

    @property
    def weighted(self) -> bool:
        """Whether uncertainties are carried in."""
        return bool(self.content["Model"]["Weights"] == "uncertainty")


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of model files."""
    text = files("sodiumprep.bids_app.group").joinpath("model.schema.json").read_text()
    return dict(json.loads(text))


def read_model(path: Path | None, facts: Facts) -> Model:
    """Return the model of a file, completed by what is found.

    Parameters
    ----------
    path
        JSON; None chooses everything.
    facts
        What there is.

    Raises
    ------
    UserError
        If the file does not fit the schema, or names what there is not.
    """
    given = {} if path is None else read_json(path)
    where = str(path) if path else "default model"
    for error in sorted(Draft202012Validator(schema()).iter_errors(given), key=_depth):
        raise UserError(f"{where}: {_in_words(error)}")
    check_names(given, facts, where)
    model = complete(given, facts)
    for problem in _open_ends(model):
        raise UserError(f"{where}: {problem}")
    return model


def complete(given: Mapping[str, Any], facts: Facts) -> Model:
    """Return a model that nothing is missing of.

    Parameters
    ----------
    given
        What a user asked, as the schema has it.
    facts
        What there is.
    """
    words: list[str] = []
    content: dict[str, Any] = {"Name": "default", **given}
    content["Input"] = {
        **_one_kind(given.get("Input", {}), facts, words),
        **given.get("Input", {}),
    }
    content["Model"] = _mixed_model(dict(given.get("Model", {})), facts, words)
    for name, choose in SECTIONS.items():
        if name not in given:
            chosen, said = choose(facts, content)
            if chosen is not None:
                content[name] = chosen
            words += said
    for name in ("Repeatability", "Change", "Normative"):
        if name in given:  # what it leaves open
            chosen, _ = SECTIONS[name](facts, content)
            content[name] = {**(chosen or {}), **given[name]}
    known = {label.removeprefix("sub-") for label in facts.measured["participant_id"]}
    named = given.get("Exclude", {}).get("participant_id", ())
    strange = [label for label in named if label.removeprefix("sub-") not in known]
    words += [f"{label}, whom the model excludes, has no results" for label in strange]
    content["Planning"] = {
        "Difference": DEFAULT_DIFFERENCE, "Power": DEFAULT_POWER, "Alpha": DEFAULT_ALPHA,
        **given.get("Planning", {}),
    }  # fmt: skip
    return Model(content, tuple(words), frozenset(given))


def _open_ends(model: Model) -> Iterator[str]:
    """Yield what a complete model lacks, or holds in vain."""
    for name, (keys, why) in NEEDED.items():
        held = model.section(name)
        missing = [key for key in keys if held is not None and key not in held]
        if missing:
            yield f"{name}: {missing[0]} is missing, and {why}"
    for contrast in model.content.get("Contrasts", ()):
        counts = [len(contrast[key]) for key in ("ConditionList", "Weights")]
        if counts[0] != counts[1]:
            yield "Contrasts: {} has {} conditions and {} weights; accepted: one for each".format(
                contrast["Name"], *counts
            )
    sites = [column for column in model.random if column != "participant_id"]
    if len(sites) > 1:
        yield f"Model.Random: {' and '.join(sites)}; accepted: one column beside participant_id"


def formula(terms: Iterable[str]) -> str:
    """Return terms as a formula, whatever characters are in the names of their columns.

    Parameters
    ----------
    terms
        Columns, or several joined by ``*``.

    Examples
    --------
    >>> formula(["group*age", "BMI (kg/m2)"])
    '`group`*`age` + `BMI (kg/m2)`'
    """
    return " + ".join("*".join(f"`{part}`" for part in term.split("*")) for term in terms)


def reference_level(levels: Iterable[str]) -> str:
    """Return the level that others are compared with: controls, else the first by name.

    Parameters
    ----------
    levels
        Of a category, at least one.

    Examples
    --------
    >>> reference_level(["glioma", "Healthy"]), reference_level(["b", "a"])
    ('Healthy', 'a')
    """
    known = sorted(levels)
    return next((level for level in known if level.lower() in CONTROLS), known[0])


def reference_group(reference: Mapping[str, str]) -> dict[str, str]:
    """Return the column of groups with the group that others are compared with, if there is one.

    Parameters
    ----------
    reference
        Level of each category that others are compared with.

    Examples
    --------
    >>> reference_group({"sex": "F", "group": "controls"}), reference_group({"sex": "F"})
    ({'group': 'controls'}, {})
    """
    column = next((c for c in reference if c.lower() in FACTORS[:2]), None)
    return {column: reference[column]} if column is not None else {}


def _one_kind(given: Mapping[str, Any], facts: Facts, words: list[str]) -> dict[str, str]:
    """Return the acquisition and reconstruction that values are taken of, where there are several.

    They differ for other reasons than people do: without a label first, then what most have.
    """
    chosen = {}
    for key, counts in facts.labels.items():
        if key in given:
            continue
        best = min(counts, key=lambda label: (label != "n/a", -counts[label], label))
        others = ", ".join(sorted(set(counts) - {best}))
        chosen[key] = best
        words.append(f"values of {key} {best} are taken, not of {others}; Input.{key} chooses")
    return chosen


def _mixed_model(given: dict[str, Any], facts: Facts, words: list[str]) -> dict[str, Any]:
    if "X" not in given:
        given["X"] = [1, *_default_terms(facts, words)]
    columns = {part for term in given["X"] for part in str(term).split("*")} - {"1"}
    if "Random" not in given:
        repeated = facts.measured.height > facts.measured["participant_id"].n_unique()
        given["Random"] = ["participant_id"] if repeated else []
        words += ["a random intercept for each participant, who have several values"] * repeated
    numbers = facts.covariates.numbers
    known = {c: facts.levels(c) for c in sorted(columns) if c not in numbers}
    chosen = {c: reference_level(levels) for c, levels in known.items() if levels}
    if known.get("session"):
        chosen["session"] = min(known["session"], key=label_rank)
    given["Reference"] = {**chosen, **given.get("Reference", {})}
    given.setdefault("Weights", "uncertainty")
    return given


def _default_terms(facts: Facts, words: list[str]) -> list[str]:
    """Return the columns of a sensible model, and say why some are not in it."""
    terms, size = [], 1
    people = facts.covariates.table["participant_id"].n_unique()
    found = {name.lower(): name for name in facts.covariates.table.columns}
    wanted = [found[name] for name in (*FACTORS[:2], *SLOPES, *FACTORS[2:]) if name in found]
    if len(facts.sessions) > 1:
        wanted.append("session")
    for name in wanted:
        more, why = _usable(name, facts, people)
        values = facts.measured.height if name == "session" else people
        if more and (size + more) * ROWS_PER_TERM > values:
            more, why = 0, f"{people} participants are too few for it"
        if more:
            terms.append(name)
            size += more
        else:
            words.append(f"{name} is not in the model: {why}")
    words.insert(0, f"each region is explained by {', '.join(terms) or 'its mean alone'}")
    return terms


def _usable(name: str, facts: Facts, people: int) -> tuple[int, str]:
    """Return how many coefficients a column needs, 0 with the reason where it does not serve."""
    if name in facts.covariates.numbers:
        column = facts.covariates.table.unique("participant_id")[name]
        if column.is_not_null().sum() < KNOWN_SHARE * people:
            return 0, f"it is known of less than {KNOWN_SHARE:.0%} of the participants"
        return (1, "") if column.n_unique() > 2 else (0, "it has one value")
    levels = facts.levels(name)
    if len(levels) < 2:
        return 0, "it has one level"
    alone = [level for level, n in levels.items() if n < FEWEST_OF_A_LEVEL]
    if alone:
        return 0, f"{', '.join(map(str, alone))} has one participant"
    if sum(levels.values()) < KNOWN_SHARE * people:
        return 0, f"it is known of less than {KNOWN_SHARE:.0%} of the participants"
    return len(levels) - 1, ""


def _repeatability(facts: Facts, _: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    if facts.most_runs > 1:
        return {"Over": "run"}, ["repeatability is taken from runs of one session"]
    if len(facts.sessions) > 1:
        return {"Over": "session"}, [
            "repeatability is taken from sessions, of those who do not change where that is known"
        ]
    return None, []


def _change(facts: Facts, content: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    sessions = facts.sessions
    if len(sessions) < 2:
        return None, []
    words = [f"changes are those from session {sessions[0]} to {sessions[-1]}; lower is better"]
    chosen: dict[str, Any] = {"From": sessions[0], "To": sessions[-1], "Better": "lower"}
    reference = content["Model"]["Reference"]
    column = next((c for c in reference if c.lower() in FACTORS[:2]), None)
    if column is not None and reference[column].lower() in CONTROLS:
        chosen["Stable"] = {column: reference[column]}
        words.append(f"{reference[column]} are taken not to change between sessions")
    return chosen, words


def _diagnostic(
    facts: Facts, content: Mapping[str, Any]
) -> tuple[list[dict[str, Any]] | None, list[str]]:
    """Tell each lesion from white matter, and each group from the reference group."""
    pairs: list[dict[str, Any]] = [
        {"Name": f"{lesion} against WM", "Positive": {"name": lesion}, "Negative": {"name": "WM"}}
        for lesion in facts.lesions
    ]
    model = content["Model"]
    column = next((c for c in model["X"] if str(c).lower() in FACTORS[:2]), None)
    if column is not None:
        against = model["Reference"][column]
        pairs += [
            {"Name": f"{level} against {against}", "Positive": {column: level},
             "Negative": {column: against}}
            for level in facts.levels(column) if level != against
        ]  # fmt: skip
    return pairs or None, []


def _normative(
    facts: Facts, content: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, list[str]]:
    found = {name.lower(): name for name in facts.covariates.numbers}
    if "age" not in found:
        return None, []
    norm = reference_group(content["Model"]["Reference"])
    said = " ".join(*norm.items()) if norm else "all participants"
    return {"By": found["age"], "Reference": norm}, [f"reference curves by age rest on {said}"]


def _outcome(facts: Facts, _: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    found = {name.lower(): name for name in facts.covariates.numbers}
    if not {"duration", "event"} <= set(found):
        return None, []
    return {"Duration": found["duration"], "Event": found["event"]}, [
        f"{found['duration']} and {found['event']} are taken as time to an event"
    ]


SECTIONS = {
    "Repeatability": _repeatability,
    "Change": _change,
    "Diagnostic": _diagnostic,
    "Normative": _normative,
    "Outcome": _outcome,
}


NEEDED = {  # what a section must hold, given or found
    "Repeatability": (
        ("Over",),
        "no two participants have two sessions or runs to choose it from",
    ),
    "Change": (("From", "To"), "no two participants have two sessions to choose it from"),
    "Normative": (("By",), "no table of people has an age"),
}


def _depth(error: Any) -> tuple[int, str]:
    return len(error.absolute_path), error.json_path


def _in_words(error: Any) -> str:
    """Return what does not fit the schema: key, what came, what is accepted."""
    place = ".".join(str(part) for part in error.absolute_path) or "the file"
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        odd = sorted(set(error.instance) - set(known))[0]
        near = difflib.get_close_matches(odd, known, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{place} holds {odd!r}, which is no key{hint}; accepted: {', '.join(known)}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"{place}: {', '.join(missing)} is missing"
    told = error.schema.get("description", "")
    return f"{place}: {error.message}" + (f" ({told})" if told else "")
