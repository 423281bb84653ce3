"""The plan of where results of a sodium run are saved."""

from __future__ import annotations

from typing import Any

from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.names import DerivativeNames
from sodiumprep.bids_app.plan.inputs import linear_method
from sodiumprep.bids_app.runs import SodiumRun
from sodiumprep.bids_app.settings import DEFAULT_RECON, Settings
from sodiumprep.sodium.pvc import MAPS as PVC_MAPS


def names_of(job: SubjectJob, run: SodiumRun, settings: Settings) -> DerivativeNames:
    """Return the names of all that is saved of a run.

    Parameters
    ----------
    job
        Subject and session that the run belongs to.
    run
        What was found of it.
    settings
        The user's choices.
    """
    method = linear_method(settings)
    return DerivativeNames(
        settings.out_dir,
        job.subject,
        run.session,
        run=run.run,
        acquisition=run.acquisition,
        rec=method if run.is_kspace and method != DEFAULT_RECON else None,
        anat_suffix=job.anatomy.suffix,
    )


def output_paths(names: DerivativeNames) -> dict[str, str]:
    """Return the path of each output of a run that has an anatomy.

    Parameters
    ----------
    names
        Of the run.
    """
    paths = {
        "image_file": names.sodium_preproc(),
        "noise_file": names.sodium_preproc(stat="noise"),
        "receive_file": names.receive_field(),
        "receive_uncertainty_file": names.receive_field(stat="uncertainty"),
        "flip_file": names.transmit_field(),
        "xfm_file": names.sodium_transform(),
        "apparent_file": names.tsc_map("apparent"),
        "corrected_file": names.tsc_map("corrected"),
        "uncertainty_file": names.tsc_map("corrected", stat="uncertainty"),
        "anat_apparent_file": names.tsc_map("apparent", space="T1w"),
        "anat_corrected_file": names.tsc_map("corrected", space="T1w"),
        "anat_uncertainty_file": names.tsc_map("corrected", space="T1w", stat="uncertainty"),
        "residual_file": names.tsc_map("residual", pvc="gtm"),
        "table_file": names.tsc_table(),
        "qc": names.qc(),
    }
    return {port: str(path) for port, path in paths.items()}


def sodium_only_paths(names: DerivativeNames) -> dict[str, str]:
    """Return the path of each output of a run in its own space.

    Parameters
    ----------
    names
        Of the run.
    """
    paths = {
        "image_file": names.sodium_preproc(),
        "noise_file": names.sodium_preproc(stat="noise"),
        "receive_file": names.receive_field(),
        "receive_uncertainty_file": names.receive_field(stat="uncertainty"),
        "flip_file": names.transmit_field(),
        "apparent_file": names.tsc_map("apparent"),
        "uncertainty_file": names.tsc_map("apparent", stat="uncertainty"),
        "table_file": names.tsc_table("drawn"),
        "qc": names.qc(),
    }
    return {port: str(path) for port, path in paths.items()}


def map_paths(names: DerivativeNames, settings: Settings) -> dict[str, str]:
    """Return the paths of the maps of all partial-volume corrections that make one.

    Parameters
    ----------
    names
        Of the run.
    settings
        The user's choices.
    """
    kinds: dict[str, dict[str, Any]] = {
        "apparent": {"desc": "apparent"},
        "corrected": {"desc": "corrected"},
        "uncertainty": {"desc": "corrected", "stat": "uncertainty"},
    }
    return {
        f"{method}:{place}{kind}_file": str(names.tsc_map(**entities, space=space, pvc=method))
        for method in settings.pvc
        if method in PVC_MAPS
        for place, space in (("", None), ("anat_", "T1w"))
        for kind, entities in kinds.items()
    }
