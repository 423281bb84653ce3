"""The plan of what the sessions of a subject share: their reference, and whose masks lie where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.names import DerivativeNames, bids_uri
from sodiumprep.bids_app.plan.subject import links, provenance
from sodiumprep.bids_app.sessions import (
    NOT_MOVED,
    Reference,
    SessionImage,
    lies_in_reference,
)
from sodiumprep.bids_app.settings import Settings
from sodiumprep.workflows.plans import ReferencePlan, SessionPlan


def plan_reference(job: SubjectJob, settings: Settings) -> ReferencePlan | None:
    """Plan what the sessions of a subject share.

    Parameters
    ----------
    job
        What was found.
    settings
        The user's choices.

    Returns
    -------
    plan
        None where sessions share nothing.
    """
    shared = job.reference
    if shared is None:
        return None
    masks = {
        f"{number}_{name}": (number, path)
        for number, image in enumerate(shared.images)
        for name, path in image.lesions.items()
    }
    chosen = [
        image for image in shared.images if not shared.chosen or image.session in shared.chosen
    ]
    return ReferencePlan(
        images=tuple(str(image.image) for image in shared.images),
        builds_template=shared.builds_template,
        reference_index=shared.reference_index,
        excluded={name: str(path) for name, (_, path) in masks.items()},
        excluded_spaces={name: _space(shared, n, path) for name, (n, path) in masks.items()},
        sessions=tuple(_plan_session(job, shared, image, settings) for image in chosen),
    )


def _plan_session(
    job: SubjectJob, shared: Reference, image: SessionImage, settings: Settings
) -> SessionPlan:
    names = DerivativeNames(
        settings.out_dir, job.subject, image.session, anat_suffix=job.anatomy.suffix
    )
    lesions, spaces, note = shared_lesions(job, shared, image.session)
    outputs = {f"lesion_{name}": str(names.session_lesion_mask(name)) for name in lesions}
    sources = [image.image, *map(Path, lesions.values())]
    anatomy = replace(names, shared_anatomy=True).anat_preproc()
    return SessionPlan(
        name=f"ses_{image.session}" if image.session else "subject",
        index=shared.index(image.session),
        lesions=lesions,
        spaces=spaces,
        outputs={"xfm": str(names.session_transform()), **outputs},
        provenance={
            **provenance(job, sources, settings, (note,) if note else ()),
            "SpatialReference": bids_uri(anatomy, links(settings)),
        },
    )


def shared_lesions(
    job: SubjectJob, shared: Reference, session: str | None
) -> tuple[dict[str, str], dict[str, int], str]:
    """Return the lesion masks of a session, by class.

    Parameters
    ----------
    job
        What was found.
    shared
        What its sessions share.
    session
        Label of the session.

    Returns
    -------
    masks
        Path by class.
    spaces
        Index of the image in whose space each mask lies.
    said
        What is to be said of them, or nothing.
    """
    whole = {name: str(path) for name, path in job.anatomy.lesions.items()}
    if whole and shared.reference_index == NOT_MOVED and not shared.has_lesions(session):
        text = f"no lesion mask of ses-{session}: that of the reference is used"
        return whole, dict.fromkeys(whole, NOT_MOVED), text
    source, note = shared.lesions_of(session)
    if source is None:
        return {}, {}, ""
    number = shared.index(source.session)
    masks = {name: str(path) for name, path in source.lesions.items()}
    spaces = {name: _space(shared, number, path) for name, path in source.lesions.items()}
    return masks, spaces, note


def _space(shared: Reference, number: int, path: Path) -> int:
    if lies_in_reference(path) or number == shared.reference_index:
        return NOT_MOVED
    return number
