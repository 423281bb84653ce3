"""Who is in a simulated cohort: group, age, sex, site, anatomy, concentrations and lesions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sodiumprep.sodium.phantom_anatomy import Anatomy, draw_anatomy
from sodiumprep.sodium.phantom_content import (
    CONCENTRATIONS,
    draw_concentrations,
    mean_concentrations,
)
from sodiumprep.sodium.phantom_glioma import draw_glioma
from sodiumprep.sodium.phantom_lesions import DEFAULT_KIND, Lesion
from sodiumprep.sodium.phantom_placement import VIALS, Vial
from sodiumprep.sodium.phantom_plaques import draw_plaques
from sodiumprep.sodium.phantom_stroke import draw_stroke
from sodiumprep.sodium.phantom_template import Template

MIDDLE_AGE = 48.0  # years, at which --age-change changes nothing
SHAPES = ("ventricles", "cortex")  # volume and thickness: what else may change with age
LEAST = 0.1  # of what age, sex or session leave of a value
OF_SITES = 7  # branch of the seed


@dataclass(frozen=True)
class Subject:
    """One simulated person.

    Parameters
    ----------
    label, group, sex
        As in ``participants.tsv``.
    age
        [years].
    anatomy
        Head.
    concentrations
        Mean by class in the first session [mmol/L].
    seeds
        One for each session.
    site
        Where all sessions are scanned, or "" where there is one site.
    vial_error
        True concentration of the site's vials over what their label says.
    """

    label: str
    group: str
    sex: str
    age: int
    anatomy: Anatomy
    concentrations: Mapping[str, float]
    seeds: Sequence[np.random.SeedSequence]
    site: str = ""
    vial_error: float = 1.0


def lesion_kind(options: argparse.Namespace) -> str:
    """Return the kind of lesion whose classes every head of the cohort has."""
    return DEFAULT_KIND if options.lesion == "none" else str(options.lesion)


def refuse_unknown(names: Iterable[str], accepted: Collection[str]) -> None:
    """Refuse names of classes that are not known.

    Raises
    ------
    ValueError
        If there is one.
    """
    unknown = sorted(set(names) - set(accepted))
    if unknown:
        raise ValueError(f"unknown class {', '.join(unknown)}; accepted: {', '.join(accepted)}")


def parse_values(
    texts: Sequence[str], accepted: Collection[str] = CONCENTRATIONS
) -> dict[str, dict[str, float]]:
    """Read tissue values per group.

    Parameters
    ----------
    texts
        Each ``group:GM=42,WM=37`` or, for all groups, ``GM=42``; or one JSON file of the form
        ``{"group": {"GM": 42}}``.
    accepted
        Names of classes.

    Returns
    -------
    values
        By group ("" for all) and class [mmol/L].

    Raises
    ------
    ValueError
        If a text has another form or names an unknown class.

    Examples
    --------
    >>> parse_values(["patients:GM=48,WM=40", "CSF=140"])
    {'patients': {'GM': 48.0, 'WM': 40.0}, '': {'CSF': 140.0}}
    """
    if len(texts) == 1 and texts[0].endswith(".json"):
        values = json.loads(Path(texts[0]).read_text())
    else:
        values = {}
        for text in texts:
            group, _, pairs = text.rpartition(":")
            values.setdefault(group, {}).update(parse_pairs(pairs))
    for group in values.values():
        refuse_unknown(group, accepted)
    return values


def parse_pairs(text: str) -> dict[str, float]:
    """Read ``GM=42,WM=37``; nothing of an empty text.

    Raises
    ------
    ValueError
        If the text has another form.
    """
    if not text:
        return {}
    try:
        return {k: float(v) for k, v in (pair.split("=") for pair in text.split(","))}
    except ValueError:
        raise ValueError(f"'{text}' is not of the form GM=42,WM=37") from None


def group_values(options: argparse.Namespace, group: str) -> dict[str, float]:
    """Return the mean concentrations of a group.

    Parameters
    ----------
    options
        With ``tissue`` and ``groups``.
    group
        Its name. Unless told otherwise, all groups after the first have 10 % more sodium in
        grey and white matter.

    Returns
    -------
    values
        By class [mmol/L].
    """
    raised = 1.0 if group == options.groups[0] else 1.1
    values = mean_concentrations(lesion_kind(options))
    values |= {name: values[name] * raised for name in ("GM", "WM")}
    return values | options.tissue.get("", {}) | options.tissue.get(group, {})


def age_factor(options: argparse.Namespace, name: str, age: float) -> float:
    """Return by what a value of an age is over that at middle age.

    Parameters
    ----------
    options
        With ``age_change``, relative in ten years.
    name
        Class, or one of ``SHAPES``.
    age
        [years].
    """
    return float(1 + options.age_change.get(name, 0.0) * (age - MIDDLE_AGE) / 10)


def sex_factor(options: argparse.Namespace, name: str, sex: str) -> float:
    """Return by what a value of a sex is over the mean of both.

    Parameters
    ----------
    options
        With ``sex_change``, men over women.
    name
        Class.
    sex
        "F" or "M".
    """
    return float(1 + options.sex_change.get(name, 0.0) * (0.5 if sex == "M" else -0.5))


def site_errors(options: argparse.Namespace) -> list[float]:
    """Draw by how much the vials of each site differ from their label.

    Parameters
    ----------
    options
        With ``seed``, ``sites`` and ``site_spread``.

    Returns
    -------
    errors
        True over stated concentration of each site; 1 where there is one site.
    """
    if options.sites == 1:
        return [1.0]
    drawn = np.random.default_rng([options.seed, OF_SITES]).standard_normal(options.sites)
    return [float(error) for error in np.exp(options.site_spread * drawn)]


def site_vials(subject: Subject) -> list[Vial]:
    """Return the vials of a person's site as they truly are, whatever their label says."""
    return [replace(v, concentration=v.concentration * subject.vial_error) for v in VIALS]


def draw_lesion(rng: np.random.Generator, template: Template, kind: str) -> Lesion:
    """Draw a lesion.

    Parameters
    ----------
    rng
        Source of randomness.
    template
        Where white matter and ventricles lie.
    kind
        As ``--lesion`` names it.

    Returns
    -------
    lesion
        Of that kind.
    """
    if kind == "stroke":
        return draw_stroke(rng)
    return draw_plaques(rng, template) if kind == "ms" else draw_glioma(rng, template)


def draw_subject(
    options: argparse.Namespace, template: Template, index: int, seed: np.random.SeedSequence
) -> Subject:
    """Draw one person.

    Parameters
    ----------
    options
        Of the command line.
    template
        Where a lesion may lie.
    index
        From 0; groups follow each other in blocks, sites in turn.
    seed
        Of this person alone.

    Returns
    -------
    subject
        The same for the same seed and options.
    """
    own, *sessions = seed.spawn(1 + options.sessions)
    rng = np.random.default_rng(own)
    group = options.groups[index * len(options.groups) // options.subjects]
    anatomy = replace(draw_anatomy(rng), kind=lesion_kind(options))
    values = draw_concentrations(rng, group_values(options, group))
    youngest, oldest = options.ages
    age, sex = int(rng.integers(youngest, oldest + 1)), str(rng.choice(["F", "M"]))
    if options.lesion != "none" and group in options.lesion_groups:
        anatomy = replace(anatomy, lesion=draw_lesion(rng, template, options.lesion))
    values = {
        name: value * age_factor(options, name, age) * sex_factor(options, name, sex)
        for name, value in values.items()
    }
    site = index % options.sites
    return Subject(
        f"{index + 1:02d}", group, sex, age, aged(options, anatomy, None, age), values, sessions,
        f"site{site + 1}" if options.sites > 1 else "", site_errors(options)[site],
    )  # fmt: skip


def aged(
    options: argparse.Namespace, anatomy: Anatomy, before: float | None, after: float
) -> Anatomy:
    """Return a head at another age, its lesions with it.

    Parameters
    ----------
    options
        With ``age_change`` of ``SHAPES``.
    anatomy
        Head at the first age.
    before
        That age, or None where no age is in it yet [years].
    after
        The other age [years].
    """
    ventricles, cortex = (
        age_factor(options, name, after)
        / (1.0 if before is None else age_factor(options, name, before))
        for name in SHAPES
    )
    lesion = anatomy.lesion
    if lesion is not None and before is not None:
        lesion = lesion.later(after - before)
    return replace(
        anatomy, lesion=lesion, ventricle_scale=anatomy.ventricle_scale * ventricles,
        cortex_scale=anatomy.cortex_scale * cortex,
    )  # fmt: skip


def age_at(options: argparse.Namespace, subject: Subject, number: int) -> float:
    """Return the age at a session, from 0 [years]."""
    return float(subject.age + number * options.session_interval)


def at_session(
    options: argparse.Namespace, subject: Subject, number: int
) -> tuple[Anatomy, dict[str, float]]:
    """Return head and mean concentrations of a session.

    Parameters
    ----------
    options
        With ``session_change`` and ``age_change``.
    subject
        As drawn for the first session.
    number
        Of the session, from 0.

    Returns
    -------
    anatomy
        With lesions that have grown.
    concentrations
        By class [mmol/L].
    """
    age = age_at(options, subject, number)
    values = {
        name: value
        * (1 + number * options.session_change.get(name, 0.0))
        * (age_factor(options, name, age) / age_factor(options, name, subject.age))
        for name, value in subject.concentrations.items()
    }
    return aged(options, subject.anatomy, subject.age, age), values


def check_cohort(options: argparse.Namespace) -> None:
    """Read the options that describe people, and refuse what cannot be simulated.

    Parameters
    ----------
    options
        Of the command line; texts become values.

    Raises
    ------
    ValueError
        If an option names an unknown class or group, or a value would vanish.
    """
    classes = list(mean_concentrations(lesion_kind(options)))
    options.tissue = parse_values(options.tissue, classes)
    for name, accepted in (
        ("session_change", classes), ("sex_change", classes), ("age_change", [*classes, *SHAPES])
    ):  # fmt: skip
        setattr(options, name, parse_pairs(getattr(options, name)))
        refuse_unknown(getattr(options, name), accepted)
    options.lesion_groups = options.lesion_groups or options.groups[-1:]
    strangers = {*options.lesion_groups, *options.tissue} - {*options.groups, ""}
    if strangers:
        raise ValueError(
            f"unknown group {', '.join(sorted(strangers))}; accepted: {', '.join(options.groups)}"
        )
    _check_ages(options)


def _check_ages(options: argparse.Namespace) -> None:
    youngest, oldest = options.ages
    last = oldest + (options.sessions - 1) * options.session_interval
    if not 0 <= youngest <= oldest or last > 89:
        raise ValueError(
            f"--ages {youngest} {oldest}; accepted: ascending years from 0, up to 89 at the last "
            "session"
        )
    factors = {
        "--age-change": [
            age_factor(options, n, age) for n in options.age_change for age in (youngest, last)
        ],
        "--sex-change": [sex_factor(options, n, sex) for n in options.sex_change for sex in "FM"],
        "--session-change": [
            1 + (options.sessions - 1) * change for change in options.session_change.values()
        ],
    }
    for name, left in factors.items():
        if any(factor < LEAST for factor in left):
            raise ValueError(f"{name} leaves less than {LEAST:.0%} of a value")
