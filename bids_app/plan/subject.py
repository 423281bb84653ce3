"""What all plans of a subject share: the name of its graph, and where results come from."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.names import bids_uri
from sodiumprep.bids_app.settings import SESSIONWISE, Settings


def workflow_name(job: SubjectJob) -> str:
    """Return the name of a subject's graph.

    Parameters
    ----------
    job
        Subject and session.
    """
    session = f"_ses_{job.session}" if job.session else ""
    if job.reference and job.reference.chosen:
        # runs over other sessions at the same time must not share a work folder
        session = f"_only_{'_'.join(job.reference.chosen)}"
    return f"sub_{job.subject}{session}_wf"


def links(settings: Settings) -> dict[str, Path]:
    """Return the datasets that sidecars refer to, by name.

    Parameters
    ----------
    settings
        The user's choices.
    """
    return {"": settings.out_dir, "raw": settings.bids_dir, **settings.derivatives}


def provenance(
    job: SubjectJob, sources: list[Path], settings: Settings, warnings: tuple[str, ...]
) -> dict[str, Any]:
    """Return what every sidecar of a subject's results says.

    Parameters
    ----------
    job
        Subject and session.
    sources
        Files that the results are made of.
    settings
        The user's choices.
    warnings
        What was noticed of the input.
    """
    linked = links(settings)
    return {
        "Sources": [bids_uri(path, linked) for path in sources],
        "AnatomicalReference": job.reference.method if job.reference else SESSIONWISE,
        "SoftwareName": "sodiumprep",
        "SoftwareVersion": version("sodiumprep"),
        "RandomSeed": settings.random_seed,
        "Sloppy": settings.sloppy,
        "InputWarnings": list(warnings),
    }
