"""Maps of the cohort in template space: mean, spread and number always, tests where asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sodiumprep.bids_app import figures
from sodiumprep.bids_app.group import brains
from sodiumprep.bids_app.group.facts import check_known
from sodiumprep.bids_app.group.maps import SpaceMaps, find_maps
from sodiumprep.bids_app.group.questions import Question, ask
from sodiumprep.bids_app.group.values import Cohort
from sodiumprep.bids_app.group.voxel_tests import Brain, answer, refuse_too_large
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.templates import find_template
from sodiumprep.interfaces.cohort_maps import Mask, template_mask, write_map
from sodiumprep.sodium.cohort.running import RunningMaps
from sodiumprep.sodium.cohort.voxelwise import CohortMaps

Row = dict[str, Any]
Tables = dict[str, list[Row]]
TSC = "mmol/L"
GROUPS = ("group", "diagnosis")  # columns whose levels have maps of their own
OF_EARLIER_RUNS = ("space-*_stat-*", "figures/voxelwise_*")  # they do not outlast their model
# stat -> (suffix, unit, description); of a description what the cohort's maps are
MEAN = {
    "mean": ("TSCmap", TSC, "Mean over participants of the tissue sodium concentration"),
    "sd": ("TSCmap", TSC, "Standard deviation over participants"),
    "n": ("TSCmap", "1", "Participants whose field of view covers the voxel"),
}


@dataclass(frozen=True)
class Images:
    """What is done with the maps of a cohort.

    Parameters
    ----------
    spaces
        All maps, one entry for each space.
    tested
        Those that the model is tested on, None without section ``Voxelwise``.
    question
        What is tested, or in words why nothing can be.
    """

    spaces: tuple[SpaceMaps, ...]
    tested: SpaceMaps | None = None
    question: Question | str = ""


def plan_maps(settings: Settings, cohort: Cohort, quality: pd.DataFrame) -> Images:
    """Find the maps, and refuse what cannot be asked of them before anything is computed.

    Parameters
    ----------
    settings
        The user's choices.
    cohort
        What was gathered and asked.
    quality
        One row per run.

    Raises
    ------
    UserError
        If grids differ, or section ``Voxelwise`` names what there is not, or memory is short.
    """
    plain = find_maps(settings.out_dir, cohort, quality)
    wanted = cohort.model.section("Voxelwise")
    if wanted is None:
        return Images(tuple(plain))
    pvc = wanted.get("pvc", "none")
    own = [] if pvc == "none" else find_maps(settings.out_dir, cohort, quality, pvc)
    choice = plain if pvc == "none" else own
    tested = _in_space(choice, wanted.get("Space"), settings.out_dir, pvc)
    try:
        question: Question | str = ask(tested, cohort, wanted.get("Contrast"))
    except ValueError as error:
        question = str(error)
    if isinstance(question, Question):
        voxels = int(_template_brain(tested)[0].sum())
        refuse_too_large(len(question.participants), voxels, settings)
    return Images((*plain, *own), tested, question)


def _in_space(choice: list[SpaceMaps], space: str | None, out_dir: Path, pvc: str) -> SpaceMaps:
    """Return the maps of the space that is asked for, else of the first one."""
    where = "Voxelwise.Space"
    if not choice:
        middle = "" if pvc == "none" else f"_pvc-{pvc}"
        raise UserError(
            f"Voxelwise: {out_dir} holds no map in template space; looked for: "
            f"sub-*/**/anat/*_space-<template>{middle}_desc-corrected_TSCmap.nii.gz, of runs that "
            "are not left out (participant level: --output-spaces)"
        )
    named = {name: maps for maps in reversed(choice)
             for name in (maps.space.template, str(maps.space))}  # fmt: skip
    if space is None:
        return choice[0]
    check_known(space, sorted(named), where)
    return named[space]


def picture(images: Images, cohort: Cohort, settings: Settings) -> dict[str, pd.DataFrame]:
    """Write the maps of the cohort and test the model; return tables of results.

    Parameters
    ----------
    images
        What :func:`plan_maps` found.
    cohort
        What was gathered and asked.
    settings
        The user's choices: processes, memory and seed.

    Raises
    ------
    UserError
        If the test needs more memory than there is.
    """
    found: Tables = {}
    for pattern in OF_EARLIER_RUNS:
        for path in DatasetNames(settings.out_dir).group_dir.glob(pattern):
            path.unlink()
    for maps in images.spaces:
        brain = _describe(maps, cohort, settings.out_dir)
        with figures.drawing_style():
            parts = [_mean_figure(maps, brain, settings.out_dir)]
            if maps is images.tested:
                parts.append(_answer(images, brain, cohort, settings))
        for name, rows in ((n, r) for part in parts for n, r in part.items()):
            found.setdefault(name, []).extend(rows)
    return {name: pd.DataFrame(rows) for name, rows in found.items() if rows}


def _answer(images: Images, brain: Brain, cohort: Cohort, settings: Settings) -> Tables:
    """Test what is asked; where it cannot be answered, a row says why."""
    maps, wanted = images.tested, cohort.model.section("Voxelwise") or {}
    if maps is None:
        return {}
    if isinstance(images.question, str):
        keys = {"space": str(maps.space), "pvc": maps.pvc or "none"}
        return {"voxelwise_model": [{**keys, "notes": images.question}]}
    return answer(maps, images.question, brain, wanted, settings)


def _mean_figure(maps: SpaceMaps, brain: Brain, out_dir: Path) -> Tables:
    figure = brains.mean_figure(brain.mean, brain.sd, brain.mask, maps.grid)
    return brains.keep(out_dir, f"mean_{maps.label}", figure, _caption(maps))


def _caption(maps: SpaceMaps) -> str:
    corrected = f", corrected for partial volume by {maps.pvc}" if maps.pvc else ""
    return (
        f"Mean and standard deviation of {len(maps.files)} participants in {maps.space}{corrected}"
    )


def _describe(maps: SpaceMaps, cohort: Cohort, out_dir: Path) -> Brain:
    """Write mean, SD and number of the cohort and of each group, reading each map once."""
    levels, names = _levels(cohort), DatasetNames(out_dir)
    voxels = int(np.prod(maps.grid.shape))
    running: dict[str, RunningMaps] = {}
    for who in maps.files:
        own = running.setdefault(levels.get(who, ""), RunningMaps(voxels))
        own.add(maps.person_map(who).ravel())
    whole = RunningMaps(voxels)
    for level in sorted(running):
        whole.join(running[level])
        if level:
            _write_mean(maps, running[level].maps(), names, level)
    total, shape = whole.maps(), maps.grid.shape
    _write_mean(maps, total, names)
    mask, note = _brain(maps, total)
    write_map(names.group_map("mask", "mask", **maps.place), mask, maps.grid,
              maps.sidecar("1", "Where voxels are tested and shown"))  # fmt: skip
    return Brain(mask, total.mean.reshape(shape), total.sd.reshape(shape), note)


def _levels(cohort: Cohort) -> dict[str, str]:
    """Return the group of each participant who has one."""
    table = cohort.covariates.table
    column = next((c for c in table.columns if c.lower() in GROUPS), None)
    if column is None or column in cohort.covariates.numbers:
        return {}
    known = table.filter(table[column].is_not_null())
    return dict(known.select("participant_id", column).iter_rows())


def _write_mean(maps: SpaceMaps, found: CohortMaps, names: DatasetNames, level: str = "") -> None:
    group = {"group": level} if level else {}
    held = {"mean": found.mean, "sd": found.sd, "n": found.n.astype(np.float32)}
    for stat, (ending, units, told) in MEAN.items():
        space, cohort, res, pvc = maps.place.values()
        path = names.group_map(stat, ending, space=space, cohort=cohort, res=res, **group, pvc=pvc)
        values = np.nan_to_num(held[stat]).reshape(maps.grid.shape)
        said = told + (f" of the group {level}" if level else "")
        unknown = "" if stat == "n" else "; 0 where too few cover the voxel"
        head = maps.sidecar(units, said + unknown) | {"Participants": int(found.n.max())}
        write_map(path, values, maps.grid, head)


def _template_brain(maps: SpaceMaps) -> tuple[Mask, str]:
    """Return the brain of the template, empty where it has none, and why."""
    try:
        return template_mask(find_template(maps.space).mask, maps.grid), ""
    except (UserError, ValueError) as error:
        return np.zeros(maps.grid.shape, bool), f"{maps.space} has no brain mask ({error})"


def _brain(maps: SpaceMaps, total: CohortMaps) -> tuple[Mask, str]:
    """Return the brain of the template, else what all cover, and what must be said of it."""
    mask, note = _template_brain(maps)
    if not mask.any():
        mask = (total.n == len(maps.files)).reshape(maps.grid.shape)
        note = f"{note or 'the brain mask is empty'}: all voxels that every participant covers"
    return mask, note
