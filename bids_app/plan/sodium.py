"""The plan of one sodium run, from its source to its tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.atlases import plan_tables
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.names import bids_uri
from sodiumprep.bids_app.plan.anatomy import size_of_anatomy
from sodiumprep.bids_app.plan.calibration import (
    assumed_fluids,
    choose_reference,
    named_vials,
    plan_phantom,
    plan_tissues,
    plan_vial_search,
    unused_constants,
)
from sodiumprep.bids_app.plan.inputs import (
    NONLINEAR,
    files_read,
    kspace_options,
    plan_receive,
    plan_source,
    plan_transmit,
)
from sodiumprep.bids_app.plan.outputs import (
    map_paths,
    names_of,
    output_paths,
    sodium_only_paths,
)
from sodiumprep.bids_app.plan.position import moved_along, plan_registration, unused_transform
from sodiumprep.bids_app.plan.reference import shared_lesions
from sodiumprep.bids_app.plan.subject import links, provenance
from sodiumprep.bids_app.runs import SodiumRun
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.sizes import sodium_size
from sodiumprep.bids_app.spaces import plan_spaces
from sodiumprep.bids_app.surroundings import plan_lesion_tables
from sodiumprep.workflows.plans import AtlasPlan, LesionPlan, SodiumPlan, SpacePlan

FROM_KSPACE = "kspace"  # the partial-volume correction that needs raw data
DEGREES = 57.29577951308232  # degrees per radian


def plan_run(job: SubjectJob, run: SodiumRun, settings: Settings) -> SodiumPlan:
    """Plan one sodium run.

    Parameters
    ----------
    job
        Subject and session that the run belongs to.
    run
        What was found.
    settings
        The user's choices.

    Returns
    -------
    plan
        With relaxation constants, calibration reference and every output's path.

    Raises
    ------
    UserError
        If relaxation constants are missing, or vials are asked for that cannot be found.
    """
    anatomical = job.has_anatomy
    reference, said = choose_reference(run, settings)
    vials = named_vials(run, reference)
    registration = plan_registration(job, run, settings)
    read = files_read(run, anatomical, "coil_file" in registration)
    lesions, spaces, borrowed = _lesions(job, run)
    notes = _notes(job, run, settings, lesions, (said, borrowed))
    names = names_of(job, run, settings)
    return SodiumPlan(
        name=_graph_name(job, run),
        source=plan_source(run, settings),
        is_kspace=run.is_kspace,
        receive=plan_receive(run),
        transmit=plan_transmit(run),
        regions=_regions(lesions, run, vials) if anatomical else _drawn(run, vials),
        given_xfm=str(run.sodium_to_anat or ""),
        given_backward=run.transform_backward,
        tissues=plan_tissues(tuple(lesions), run, settings, vials),
        protocol={
            name: getattr(run.protocol, name)
            for name in ("echo_time", "repetition_time", "flip_angle")
        },
        reference=reference,
        vials=vials,
        assumed=assumed_fluids(reference, settings),
        phantom=plan_phantom(run, settings, reference) if anatomical else {},
        uncertainty={"monte_carlo": settings.monte_carlo, "random_seed": settings.random_seed},
        force=settings.force,
        vial_search=plan_vial_search(run, settings) if anatomical else None,
        outputs=output_paths(names) if anatomical else sodium_only_paths(names),
        nonlinear=_nonlinear(job, run, settings) if anatomical else {},
        sodium_only=not anatomical,
        moved=moved_along(job, run),
        lesion_spaces=spaces,
        spaces=_spaces(job, run, settings),
        atlases=_atlases(job, run, settings),
        surroundings=_surroundings(lesions, job, run, settings),
        registration=registration,
        pvc=_pvc(run, settings),
        map_outputs=map_paths(names, settings) if anatomical else {},
        size=sodium_size(run.source, run.is_kspace, size_of_anatomy(job)),
        provenance={**provenance(job, read, settings, notes), **_protocol(run)},
    )


def _graph_name(job: SubjectJob, run: SodiumRun) -> str:
    session = f"ses_{run.session}_" if job.reference and run.session else ""
    return f"sodium_{session}{run.acquisition}_run_{run.run or 1}_wf"


def _notes(
    job: SubjectJob,
    run: SodiumRun,
    settings: Settings,
    lesions: Iterable[str],
    said: tuple[str, str],
) -> tuple[str, ...]:
    """Return what must be said of a run; ``said`` is of its reference and of its lesions."""
    of_reference, of_lesions = said
    notes = [
        *job.anatomy.warnings,
        *run.warnings,
        of_reference,
        *([] if job.has_anatomy else _without_anatomy(run, settings)),
        unused_transform(run, settings),
        _left_out(run, settings),
        unused_constants(settings, lesions, run),
        of_lesions,
        *(run.phantom.notes if run.phantom else ()),
    ]
    return tuple(note for note in notes if note)


def _protocol(run: SodiumRun) -> dict[str, float]:
    """Return the times and the flip angle of a run, as sidecars name them."""
    return {
        "EchoTime": run.protocol.echo_time,
        "RepetitionTime": run.protocol.repetition_time,
        "FlipAngle": run.protocol.flip_angle * DEGREES,
        "MagneticFieldStrength": run.protocol.field_strength,
    }


def _pvc(run: SodiumRun, settings: Settings) -> dict[str, Any]:
    return {
        "methods": _pvc_methods(run, settings),
        "feed": settings.pvc_feed,
        "sensitivity": settings.sensitivity,
        "random_seed": settings.random_seed,
    }


def _pvc_methods(run: SodiumRun, settings: Settings) -> list[str]:
    """Return the partial-volume corrections that the input of a run allows."""
    return [name for name in settings.pvc if run.is_kspace or name != FROM_KSPACE]


def _left_out(run: SodiumRun, settings: Settings) -> str:
    """Return what must be said of corrections that the input of a run does not allow."""
    if len(_pvc_methods(run, settings)) == len(settings.pvc):
        return ""
    return "--pvc kspace needs raw k-space, this is an image: not made"


def _without_anatomy(run: SodiumRun, settings: Settings) -> list[str]:
    """Return what must be said of a run in its own space."""
    told = [
        "no 1H image: sodium space only, concentrations are apparent (corrected neither for "
        "relaxation nor for partial volume)"
    ]
    if not run.regions:
        told.append("no region was drawn in sodium space: maps only, no table")
    if settings.atlases:
        told.append("--atlases needs a 1H image: no table of their regions")
    if settings.recon in NONLINEAR:
        told.append(f"--recon {settings.recon} needs a 1H image: not made")
    return told


def _lesions(job: SubjectJob, run: SodiumRun) -> tuple[dict[str, str], dict[str, int], str]:
    """Return the lesion masks of a run, the spaces they lie in, and what is to be said."""
    if job.reference is None:
        return {name: str(path) for name, path in job.anatomy.lesions.items()}, {}, ""
    return shared_lesions(job, job.reference, run.session)


def _regions(
    lesions: Mapping[str, str], run: SodiumRun, vials: tuple[Mapping[str, Any], ...]
) -> dict[str, Any]:
    regions: dict[str, Any] = {"lesion_files": dict(lesions)}
    if vials and run.vial_labels is not None:
        regions["vial_labels"] = str(run.vial_labels)
        regions["vial_space"] = run.vial_space
        regions["vial_names"] = [vial["name"] for vial in vials]
    return regions


def _drawn(run: SodiumRun, vials: tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
    return {
        "region_files": {name: (str(path), label) for name, (path, label) in run.regions.items()},
        "vial_labels": str(run.vial_labels),
        "vial_names": [vial["name"] for vial in vials],
    }


def _nonlinear(job: SubjectJob, run: SodiumRun, settings: Settings) -> dict[str, Any]:
    """Return inputs and outputs of a reconstruction that is not linear, if it is asked for."""
    if not run.is_kspace or settings.recon not in NONLINEAR:
        return {}
    passed = kspace_options(run, settings)
    del passed["recon"], passed["kspace_filter"]
    if settings.recon == "tv":
        passed["recon"] = "tv"
    names = replace(names_of(job, run, settings), rec=settings.recon)
    paths = {
        "image_file": names.sodium_preproc(),
        "noise_file": names.sodium_preproc(stat="noise"),
        "apparent_file": names.tsc_map("apparent"),
        "corrected_file": names.tsc_map("corrected"),
        "uncertainty_file": names.tsc_map("corrected", stat="uncertainty"),
        "qc": names.qc(),
    }
    outputs = {port: str(path) for port, path in paths.items()}
    return {"method": settings.recon, "source": passed, "outputs": outputs}


def _spaces(job: SubjectJob, run: SodiumRun, settings: Settings) -> tuple[SpacePlan, ...]:
    if not job.has_anatomy:
        return ()
    return plan_spaces(job, settings, names_of(job, run, settings), links(settings))


def _atlases(job: SubjectJob, run: SodiumRun, settings: Settings) -> tuple[AtlasPlan, ...]:
    if not job.has_anatomy:
        return ()
    return plan_tables(job, settings, names_of(job, run, settings), links(settings))


def _surroundings(
    lesions: Mapping[str, str], job: SubjectJob, run: SodiumRun, settings: Settings
) -> LesionPlan | None:
    if not job.has_anatomy:
        return None
    names = names_of(job, run, settings)
    anatomy = replace(names, session=job.session).anat_preproc()
    told = {
        **provenance(job, [anatomy, *map(Path, lesions.values())], settings, ()),
        "SpatialReference": bids_uri(anatomy, links(settings)),
    }
    return plan_lesion_tables(tuple(lesions), settings, names, told, links(settings))
