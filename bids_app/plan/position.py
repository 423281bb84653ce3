"""The plan of where a sodium run lies: its registration, and what moves with its session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import entities
from sodiumprep.bids_app.runs import SodiumRun
from sodiumprep.bids_app.sessions import NOT_MOVED, lies_in_reference
from sodiumprep.bids_app.settings import Settings


def plan_registration(job: SubjectJob, run: SodiumRun, settings: Settings) -> dict[str, Any]:
    """Return how a run is registered to the anatomy.

    Parameters
    ----------
    job
        Subject and session that the run belongs to.
    run
        What was found of it.
    settings
        The user's choices.

    Raises
    ------
    UserError
        If an image of the same coil is asked for, and there is none.
    """
    method = settings.na2anat_init
    if job.reference is not None and "sodium" in moved_along(job, run):
        run = replace(run, coil_image=None)  # it lies in a frame that the registration leaves
    options: dict[str, Any] = {
        "method": method, "dof": settings.na2anat_dof, "random_seed": settings.random_seed,
    }  # fmt: skip
    if method == "coil" and run.coil_image is None:
        raise UserError(
            f"{run.source}: --na2anat-init coil needs another 1H image of its session with the "
            "ReceiveCoilName of the sodium sidecar, or a PDw without one; there is none"
        )
    if method in ("auto", "coil") and run.coil_image is not None:
        options["coil_file"] = str(run.coil_image)
    return options


def unused_transform(run: SodiumRun, settings: Settings) -> str:
    """Return what must be said of a given transform that the user's choice leaves unused.

    Parameters
    ----------
    run
        What was found of it.
    settings
        The user's choices.
    """
    if run.sodium_to_anat is None or settings.na2anat_init == "auto":
        return ""
    method = settings.na2anat_init
    return f"{run.sodium_to_anat.name}: not used, --na2anat-init is {method}"


def moved_along(job: SubjectJob, run: SodiumRun) -> dict[str, int]:
    """Return what moves along with the session's 1H image, with the index of the image.

    Parameters
    ----------
    job
        Subject and session that the run belongs to.
    run
        What was found of it.
    """
    shared = job.reference
    if shared is None:
        return {}
    index = shared.moved(run.session)
    given = run.sodium_to_anat is not None and lies_in_reference(run.sodium_to_anat)
    moved = {"sodium": index} if index != NOT_MOVED and not given else {}
    labels = run.vial_labels
    if labels is not None and run.vial_space == "T1w" and not lies_in_reference(labels):
        place = shared.moved(entities(labels).get("ses"))
        moved |= {"vials": place} if place != NOT_MOVED else {}
    return moved
