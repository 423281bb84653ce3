"""Plans of the output spaces: one registration for each template, maps on each of its grids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.ages import age_of
from sodiumprep.bids_app.atlases import atlas_spaces
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.names import DerivativeNames, bids_uri
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.templates import AUTO, Space, chosen_space, find_template
from sodiumprep.sodium.pvc import MAPS as PVC_MAPS
from sodiumprep.workflows.plans import SpacePlan, TemplatePlan

READY_TRANSFORM = "to_"  # key of a ready-made transform to a template, with its name behind
READY_BACKWARD = "from_"
MAPS = {  # port -> desc and stat of the map
    "apparent_file": ("apparent", None),
    "corrected_file": ("corrected", None),
    "uncertainty_file": ("corrected", "uncertainty"),
}


def ready_transforms(job: SubjectJob) -> dict[str, str]:
    """Return the ready-made transforms that resample the anatomy to templates, by their names."""
    return {
        key.removeprefix(READY_TRANSFORM): str(path)
        for key, path in job.anatomy.ready.items()
        if key.startswith(READY_TRANSFORM)
    }


def backward_transforms(job: SubjectJob) -> dict[str, str]:
    """Return the ready-made transforms that resample templates to the anatomy, by their names."""
    return {
        key.removeprefix(READY_BACKWARD): str(path)
        for key, path in job.anatomy.ready.items()
        if key.startswith(READY_BACKWARD)
    }


def plan_templates(
    job: SubjectJob, settings: Settings, provenance: Mapping[str, Any]
) -> tuple[TemplatePlan, ...]:
    """Plan one registration for each template, whatever the number of its grids.

    Parameters
    ----------
    job
        Subject and session.
    settings
        The user's choices.
    provenance
        Of the anatomy.

    Raises
    ------
    UserError
        If a template is missing, or the age that chooses its cohort.
    """
    plans = {}
    for space in (*_spaces(job, settings), *atlas_spaces(settings)):
        files = find_template(space)
        names = _anatomy_names(job, settings)
        sources = [*provenance["Sources"], *filter(None, (files.image, files.mask))]
        plans[space.label] = TemplatePlan(
            name=space.label,
            image=files.image,
            mask=files.mask,
            outputs={
                "to_template_xfm": str(names.template_transform(space.label)),
                "from_template_xfm": str(names.inverse_template_transform(space.label)),
            },
            provenance={**provenance, "Sources": sources},
        )
    return tuple(plans.values())


def plan_spaces(
    job: SubjectJob, settings: Settings, names: DerivativeNames, linked: Mapping[str, Path]
) -> tuple[SpacePlan, ...]:
    """Plan the maps of one run on the grids of templates.

    Parameters
    ----------
    job
        Subject and session.
    settings
        The user's choices.
    names
        Of the run.
    linked
        Datasets that sidecars refer to.

    Raises
    ------
    UserError
        If a template is missing, or the age that chooses its cohort.
    """
    ready = ready_transforms(job)
    own = _anatomy_names(job, settings)
    plans = []
    for space, chosen_by in _spaces(job, settings).items():
        used = ready.get(space.label) or own.template_transform(space.label)
        transforms = [bids_uri(Path(path), linked) for path in (used, names.sodium_transform())]
        place = {"space": space.template, "cohort": space.cohort, "resolution": space.resolution}
        plans.append(
            SpacePlan(
                name=re.sub(r"\W", "_", str(space)),
                template=space.label,
                grid=find_template(space).grid,
                resolution=int(space.resolution or 1),
                outputs={
                    port: str(names.tsc_map(desc, stat=stat, **place))
                    for port, (desc, stat) in MAPS.items()
                },
                corrected={
                    f"{method}:{port}": str(names.tsc_map(desc, stat=stat, pvc=method, **place))
                    for method in settings.pvc
                    if method in PVC_MAPS
                    for port, (desc, stat) in MAPS.items()
                },
                provenance=_stated(space, transforms, chosen_by),
            )
        )
    return tuple(plans)


def _stated(space: Space, transforms: list[str], chosen_by: str) -> dict[str, Any]:
    """Return what the sidecars of maps in a space say of it."""
    stated: dict[str, Any] = {"Template": space.template, "SpatialTransforms": transforms}
    if space.cohort:
        stated["Cohort"] = space.cohort
    if chosen_by:
        stated["CohortChosenBy"] = chosen_by
    if space.resolution:
        stated["Resolution"] = f"grid {space.resolution} of the template"
    return {**stated, "Interpolation": "cubic splines, once, from the sodium grid"}


def _spaces(job: SubjectJob, settings: Settings) -> dict[Space, str]:
    """Return the output spaces of a subject, cohorts chosen, and what they were chosen by."""
    found: dict[Space, str] = {}
    for space in settings.output_spaces:
        where = (settings.bids_dir, job.subject, job.session)
        chosen_by = ""
        if space.cohort == AUTO:
            age, table = age_of(*where)
            chosen_by = f"age of {age:.3g} years in {table.name}"
        found.setdefault(chosen_space(space, *where), chosen_by)
    return found


def _anatomy_names(job: SubjectJob, settings: Settings) -> DerivativeNames:
    return DerivativeNames(
        settings.out_dir, job.subject, job.session, anat_suffix=job.anatomy.suffix
    )
