"""From what was found and what the user wants to plans that graphs are built from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sodiumprep.bids_app.ages import read_age
from sodiumprep.bids_app.anatomies import Anatomy
from sodiumprep.bids_app.atlases import plan_labels, plan_tables
from sodiumprep.bids_app.constants import relaxation_constants, unused_rows, vial_constants
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.metadata import SODIUM, UserError, Vial
from sodiumprep.bids_app.names import DerivativeNames, bids_uri, entities
from sodiumprep.bids_app.runs import SodiumRun
from sodiumprep.bids_app.sessions import (
    NOT_MOVED,
    Reference,
    SessionImage,
    lies_in_reference,
)
from sodiumprep.bids_app.settings import DEFAULT_RECON, PHANTOM, SESSIONWISE, Settings
from sodiumprep.bids_app.sizes import anatomy_size, sodium_size
from sodiumprep.bids_app.spaces import (
    backward_transforms,
    plan_spaces,
    plan_templates,
    ready_transforms,
)
from sodiumprep.bids_app.surroundings import plan_lesion_tables
from sodiumprep.bids_app.templates import EMBEDDED
from sodiumprep.sodium.acquisition import PROTON_GAMMA_BAR, SODIUM_GAMMA_BAR
from sodiumprep.sodium.calibrate import FLUIDS, require_distinct
from sodiumprep.sodium.pvc import MAPS as PVC_MAPS
from sodiumprep.sodium.reciprocity import reciprocity_uncertainty
from sodiumprep.workflows.plans import (
    AnatomyPlan,
    AtlasPlan,
    LesionPlan,
    ReferencePlan,
    SessionPlan,
    Size,
    SodiumPlan,
    SpacePlan,
)

NONLINEAR = ("tv", "agr")  # maps beside those of the default one, never quantified
FROM_KSPACE = "kspace"  # the partial-volume correction that needs raw data
SODIUM_OVER_PROTON = SODIUM_GAMMA_BAR / PROTON_GAMMA_BAR  # frequencies in the same field
TEMPLATE_PORTS = ("to_template", "from_template")
FLUID_NAMES = {"csf": "CSF", "vitreous": "the vitreous humour"}  # as warnings say it


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


def plan_anatomy(job: SubjectJob, settings: Settings) -> AnatomyPlan:
    """Plan the anatomy of one subject and session.

    Parameters
    ----------
    job
        What was found.
    settings
        The user's choices.

    Returns
    -------
    plan
        With every output's path.

    Raises
    ------
    UserError
        If a template is missing, or the age that chooses its cohort.
    """
    found: Anatomy = job.anatomy
    names = DerivativeNames(settings.out_dir, job.subject, job.session, anat_suffix=found.suffix)
    ready = _ready(found)
    unused = {key for key in ready if key.startswith(("to_", "from_"))} - set(TEMPLATE_PORTS)
    used = [path for key, path in ready.items() if key not in unused]
    raw = [] if "preproc" in ready else [found.image]
    sources = [*raw, *used, *found.lesions.values()]
    if job.reference and job.reference.builds_template:
        sources += [image.image for image in job.reference.images]
    provenance = {
        **_provenance(job, [p for p in sources if p], settings, found.warnings),
        **({"AnatomyFrom": list(found.sources)} if found.sources else {}),
    }
    return AnatomyPlan(
        image=str(found.image or ""),
        ready={key: str(path) for key, path in ready.items()},
        label_tissues=dict(found.label_tissues),
        lesions={key: str(path) for key, path in found.lesions.items()},
        outputs={
            "preproc_file": str(names.anat_preproc()),
            "brain_mask": str(names.brain_mask()),
            "dseg_file": str(names.dseg()),
            "gm_file": str(names.probseg("GM")),
            "wm_file": str(names.probseg("WM")),
            "csf_file": str(names.probseg("CSF")),
            "to_template_xfm": str(names.template_transform(EMBEDDED)),
            "from_template_xfm": str(names.inverse_template_transform(EMBEDDED)),
            **{f"lesion_{name}": str(names.lesion_mask(name)) for name in found.lesions},
        },
        provenance=provenance,
        reference=_plan_reference(job, settings),
        templates=plan_templates(job, settings, provenance),
        transforms=ready_transforms(job),
        backward=backward_transforms(job),
        atlases=plan_labels(job, settings, provenance, links(settings)),
        age=read_age(settings.bids_dir, job.subject, job.session),
        inversions=_inversions(found.image),
        size=_anatomy_size(job),
    )


def _anatomy_size(job: SubjectJob) -> Size:
    shared = job.reference.images[0].image if job.reference and job.reference.images else None
    return anatomy_size(job.anatomy.ready.get("preproc") or job.anatomy.image or shared)


def _ready(found: Anatomy) -> dict[str, Path]:
    """Return ready-made files; of transforms those of the embedded template, by their port."""
    ports = {f"{way}_{EMBEDDED}": f"{way}_template" for way in ("to", "from")}
    return {
        ports.get(key, key): path
        for key, path in found.ready.items()
        if key in ports or not key.startswith(("to_", "from_"))
    }


def _plan_reference(job: SubjectJob, settings: Settings) -> ReferencePlan | None:
    """Plan what the sessions of a subject share."""
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
    lesions, spaces, note = _shared_lesions(job, shared, image.session)
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
            **_provenance(job, sources, settings, (note,) if note else ()),
            "SpatialReference": bids_uri(anatomy, links(settings)),
        },
    )


def _shared_lesions(
    job: SubjectJob, shared: Reference, session: str | None
) -> tuple[dict[str, str], dict[str, int], str]:
    """Return a session's masks by class, the index of each one's space, and what is to be said."""
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


def _inversions(image: Path | None) -> tuple[str, ...]:
    """Return the magnitudes of the two inversion images that a UNIT1 was made of."""
    if image is None or "_UNIT1." not in image.name:
        return ()
    found = []
    for number in (1, 2):
        names = (f"_inv-{number}{part}_MP2RAGE." for part in ("", "_part-mag"))
        paths = [image.with_name(image.name.replace("_UNIT1.", name)) for name in names]
        found += [str(path) for path in paths if path.is_file()][:1]
    return tuple(found) if len(found) == 2 else ()


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
    reference, warnings = _choose_reference(run, settings)
    if not anatomical:
        warnings = (*warnings, *_without_anatomy(run, settings))
    named = _vials_usable(run) or reference == "vials"
    vials = _plain_vials(run.vials) if named else ()
    search = _vial_search(run, settings) if anatomical else None
    inputs = [run.source, run.phase, run.vial_labels, run.receive_map, run.sodium_to_anat]
    inputs += [*run.receive_array, *run.receive_volume, run.fieldmap]
    inputs += run.transmit.paths if run.transmit else []
    inputs += [run.phantom.image] if run.phantom else []
    registration = _registration(job, run, settings)
    inputs += [run.coil_image] if "coil_file" in registration else []
    warnings += _unused_transform(run, settings)
    if len(_pvc_methods(run, settings)) < len(settings.pvc):
        warnings = (*warnings, "--pvc kspace needs raw k-space, this is an image: not made")
    inputs += [] if anatomical else list(dict.fromkeys(path for path, _ in run.regions.values()))
    lesions, spaces, said = _lesions(job, run)
    warnings += _unused_constants(settings, lesions, run)
    notes = (*job.anatomy.warnings, *run.warnings, *warnings, *([said] if said else []))
    notes += run.phantom.notes if run.phantom else ()
    session = f"ses_{run.session}_" if job.reference and run.session else ""
    return SodiumPlan(
        name=f"sodium_{session}{run.acquisition}_run_{run.run or 1}_wf",
        source=_source(run, settings),
        is_kspace=run.is_kspace,
        receive=_receive(run),
        transmit=_transmit(run),
        regions=_regions(lesions, run, vials) if anatomical else _drawn(run, vials),
        given_xfm=str(run.sodium_to_anat or ""),
        given_backward=run.transform_backward,
        tissues=_tissues(tuple(lesions), run, settings, vials),
        protocol={
            name: getattr(run.protocol, name)
            for name in ("echo_time", "repetition_time", "flip_angle")
        },
        reference=reference,
        vials=vials,
        assumed=_assumed(reference, settings),
        phantom=_phantom(run, settings, reference) if anatomical else {},
        uncertainty={"monte_carlo": settings.monte_carlo, "random_seed": settings.random_seed},
        force=settings.force,
        vial_search=search,
        outputs=(_outputs if anatomical else _sodium_only_outputs)(_names(job, run, settings)),
        nonlinear=_nonlinear(job, run, settings) if anatomical else {},
        sodium_only=not anatomical,
        moved=_moved(job, run) if job.reference else {},
        lesion_spaces=spaces,
        spaces=_spaces(job, run, settings),
        atlases=_atlases(job, run, settings),
        surroundings=_surroundings(lesions, job, run, settings),
        registration=registration,
        pvc={
            "methods": _pvc_methods(run, settings),
            "feed": settings.pvc_feed,
            "sensitivity": settings.sensitivity,
            "random_seed": settings.random_seed,
        },
        map_outputs=_map_outputs(_names(job, run, settings), settings) if anatomical else {},
        size=sodium_size(run.source, run.is_kspace, _anatomy_size(job)),
        provenance={
            **_provenance(job, [p for p in inputs if p], settings, notes),
            "EchoTime": run.protocol.echo_time,
            "RepetitionTime": run.protocol.repetition_time,
            "FlipAngle": run.protocol.flip_angle * 57.29577951308232,  # degrees per radian
            "MagneticFieldStrength": run.protocol.field_strength,
        },
    )


def _pvc_methods(run: SodiumRun, settings: Settings) -> list[str]:
    """Return the partial-volume corrections that the input of a run allows."""
    return [name for name in settings.pvc if run.is_kspace or name != FROM_KSPACE]


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


def _drawn(run: SodiumRun, vials: tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
    return {
        "region_files": {name: (str(path), label) for name, (path, label) in run.regions.items()},
        "vial_labels": str(run.vial_labels),
        "vial_names": [vial["name"] for vial in vials],
    }


def _sodium_only_outputs(names: DerivativeNames) -> dict[str, str]:
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


def _lesions(job: SubjectJob, run: SodiumRun) -> tuple[dict[str, str], dict[str, int], str]:
    """Return the lesion masks of a run, the spaces they lie in, and what is to be said."""
    if job.reference is None:
        return {name: str(path) for name, path in job.anatomy.lesions.items()}, {}, ""
    return _shared_lesions(job, job.reference, run.session)


def _moved(job: SubjectJob, run: SodiumRun) -> dict[str, int]:
    """Return what moves along with the session's 1H image, with the index of the image."""
    shared = job.reference
    index = NOT_MOVED if shared is None else shared.moved(run.session)
    if shared is None:
        return {}
    given = run.sodium_to_anat is not None and lies_in_reference(run.sodium_to_anat)
    moved = {"sodium": index} if index != NOT_MOVED and not given else {}
    labels = run.vial_labels
    if labels is not None and run.vial_space == "T1w" and not lies_in_reference(labels):
        place = shared.moved(entities(labels).get("ses"))
        moved |= {"vials": place} if place != NOT_MOVED else {}
    return moved


def _provenance(
    job: SubjectJob, sources: list[Path], settings: Settings, warnings: tuple[str, ...]
) -> dict[str, Any]:
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


def _choose_reference(run: SodiumRun, settings: Settings) -> tuple[str, tuple[str, ...]]:
    """Return what is to calibrate, and what must be said of it.

    Vials without a label image are searched: whether they can calibrate is known when they are
    found.
    """
    if settings.reference == "vials" and not run.vials:
        raise UserError(f"{run.source}: CalibrationVials is missing, but --reference is vials")
    if run.vials and settings.reference not in (*FLUIDS, PHANTOM):
        if settings.reference == "vials" or run.vial_labels is not None:
            _refuse_one_level(run, settings)
        return "vials", ()
    if run.phantom and settings.reference in (None, PHANTOM):
        said = "the load of the coil by the head is not known: all values are relative to it"
        return PHANTOM, (said,) if run.phantom.loading_assumed else ()
    chosen = settings.reference or "csf"
    value, _ = _assumed(chosen, settings)[chosen]
    said = (
        f"calibrated by {FLUID_NAMES[chosen]} at an assumed {value:g} mmol/L: all values are "
        "relative to it"
    )
    return chosen, (said,)


def _phantom(run: SodiumRun, settings: Settings, reference: str) -> dict[str, Any]:
    """Return the inputs of a phantom scanned by itself: its image is made as the head's."""
    phantom = run.phantom
    if phantom is None:
        return {}
    alone = replace(
        run, source=phantom.image, phase=None, protocol=phantom.protocol, fieldmap=None
    )
    return {"source": _source(alone, settings), "needed": reference == PHANTOM, **phantom.known()}


def _refuse_one_level(run: SodiumRun, settings: Settings) -> None:
    try:
        require_distinct(np.array([vial.concentration for vial in run.vials]))
    except ValueError as error:
        where = settings.vials_file or run.source
        raise UserError(f"{where}: CalibrationVials: SodiumConcentration: {error}") from None


def _vials_usable(run: SodiumRun) -> bool:
    return bool(run.vials) and run.vial_labels is not None


def _assumed(chosen: str, settings: Settings) -> dict[str, tuple[float, float]]:
    """Return concentration and uncertainty of the fluids; the user's are those of the chosen."""
    if chosen not in FLUIDS or not settings.reference_concentration:
        return dict(FLUIDS)
    value, *u = settings.reference_concentration
    return {**FLUIDS, chosen: (value, u[0] if u else FLUIDS[chosen][1])}


def _vial_search(run: SodiumRun, settings: Settings) -> dict[str, Any] | None:
    """Return how vials are searched: without labels of theirs, and not where a fluid is wanted.

    Where none are listed, what is found is reported.
    """
    if run.vial_labels is not None and run.vials:
        return None
    if run.vials and settings.reference in (*FLUIDS, PHANTOM):
        return None
    return {"direction": run.vials_direction, "required": settings.reference == "vials"}


def _plain_vials(vials: tuple[Vial, ...]) -> tuple[dict[str, Any], ...]:
    # the number makes names unique; vial n carries label n
    return tuple({**asdict(v), "name": f"{n} {v.name}"} for n, v in enumerate(vials, 1))


def _source(run: SodiumRun, settings: Settings) -> dict[str, Any]:
    width = {"psf_fwhm": list(settings.psf_fwhm)} if settings.psf_fwhm else {}
    if run.is_kspace:
        return {**_kspace(run, settings), **width}
    known = {
        "image_file": str(run.source),
        "phase_file": str(run.phase) if run.phase else None,
        "trajectory_type": run.protocol.trajectory_type,
        "echo_time": run.protocol.echo_time,
        "readout_duration": run.protocol.readout_duration,
        "kspace_filter": run.protocol.kspace_filter or "none",
        "nominal_voxel": list(run.protocol.acquisition_voxel_size or ()) or None,
        "coils": run.protocol.receive_coils,
    }
    return {**{key: value for key, value in known.items() if value is not None}, **width}


def _kspace(run: SodiumRun, settings: Settings) -> dict[str, Any]:
    stated = ("echo_time", "repetition_time", "flip_angle", "field_strength")
    known = {name: getattr(run.protocol, name) for name in stated}
    options: dict[str, Any] = {
        "kspace_file": str(run.source),
        "stated": {name: value for name, value in known.items() if value is not None},
        "recon": _linear(settings),
        "kspace_filter": settings.kspace_filter,
        "sensitivities": settings.coil_sensitivities,
        "estimate_delay": settings.estimate_delay,
        "low_mem": settings.low_mem,
        "random_seed": settings.random_seed,
    }
    if settings.gradient_delay:
        options["gradient_delay"] = list(settings.gradient_delay)
    if run.fieldmap is not None:
        options["fieldmap_file"] = str(run.fieldmap)
        options["fieldmap_scale"] = 1.0 if run.fieldmap_nucleus == SODIUM else SODIUM_OVER_PROTON
    return options


def _receive(run: SodiumRun) -> dict[str, Any]:
    if run.receive_array and run.receive_volume:
        return {
            "array_files": [str(p) for p in run.receive_array],
            "volume_files": [str(p) for p in run.receive_volume],
        }
    if run.receive_map:
        return {"map_file": str(run.receive_map)}
    return _reciprocal(run) if run.reciprocity else {}


def _reciprocal(run: SodiumRun) -> dict[str, Any]:
    """Return the transmit field as the one that tells the receive profile."""
    names = {"map_file": "transmit_map_file", "units": "transmit_units"}
    return {
        **{names.get(name, name): value for name, value in _transmit(run).items()},
        "reciprocity_uncertainty": reciprocity_uncertainty(run.protocol.field_strength),
        "reciprocity_needed": run.reciprocity == "asked",
    }


def _transmit(run: SodiumRun) -> dict[str, Any]:
    found = run.transmit
    if found is None:
        return {}
    if found.kind == "TB1map":
        return {"map_file": str(found.paths[0]), "units": found.units}
    return {
        "angle_files": [str(path) for path in found.paths],
        "flip_angle": found.flip_angle,
        "repetition_time": found.repetition_time,
    }


def _registration(job: SubjectJob, run: SodiumRun, settings: Settings) -> dict[str, Any]:
    method = settings.na2anat_init
    if job.reference is not None and "sodium" in _moved(job, run):
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


def _unused_transform(run: SodiumRun, settings: Settings) -> tuple[str, ...]:
    if run.sodium_to_anat is None or settings.na2anat_init == "auto":
        return ()
    method = settings.na2anat_init
    return (f"{run.sodium_to_anat.name}: not used, --na2anat-init is {method}",)


def _regions(
    lesions: Mapping[str, str], run: SodiumRun, vials: tuple[Mapping[str, Any], ...]
) -> dict[str, Any]:
    regions: dict[str, Any] = {"lesion_files": dict(lesions)}
    if vials and run.vial_labels is not None:
        regions["vial_labels"] = str(run.vial_labels)
        regions["vial_space"] = run.vial_space
        regions["vial_names"] = [vial["name"] for vial in vials]
    return regions


def _tissues(
    lesions: tuple[str, ...],
    run: SodiumRun,
    settings: Settings,
    vials: tuple[Mapping[str, Any], ...],
) -> dict[str, dict[str, Any]]:
    path = settings.relaxation_file
    try:
        constants = relaxation_constants(lesions, run.protocol.field_strength, path)
    except ValueError as error:
        raise UserError(f"{run.source}: MagneticFieldStrength: {error}") from None
    constants |= vial_constants(vials, path)
    return {name: asdict(relaxation) for name, relaxation in constants.items()}


def _unused_constants(
    settings: Settings, lesions: Iterable[str], run: SodiumRun
) -> tuple[str, ...]:
    vials = [vial["name"] for vial in _plain_vials(run.vials)]
    unused = unused_rows(settings.relaxation_file, [*lesions, *vials])
    if not unused or settings.relaxation_file is None:
        return ()
    return (
        f"{settings.relaxation_file.name}: {', '.join(unused)}: no tissue, vial or lesion of this "
        "run: not used",
    )


def _nonlinear(job: SubjectJob, run: SodiumRun, settings: Settings) -> dict[str, Any]:
    """Return inputs and outputs of a reconstruction that is not linear, if it is asked for."""
    if not run.is_kspace or settings.recon not in NONLINEAR:
        return {}
    passed = _kspace(run, settings)
    del passed["recon"], passed["kspace_filter"]
    if settings.recon == "tv":
        passed["recon"] = "tv"
    names = replace(_names(job, run, settings), rec=settings.recon)
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
    return plan_spaces(job, settings, _names(job, run, settings), links(settings))


def _atlases(job: SubjectJob, run: SodiumRun, settings: Settings) -> tuple[AtlasPlan, ...]:
    if not job.has_anatomy:
        return ()
    return plan_tables(job, settings, _names(job, run, settings), links(settings))


def _surroundings(
    lesions: Mapping[str, str], job: SubjectJob, run: SodiumRun, settings: Settings
) -> LesionPlan | None:
    if not job.has_anatomy:
        return None
    names = _names(job, run, settings)
    anatomy = replace(names, session=job.session).anat_preproc()
    told = {
        **_provenance(job, [anatomy, *map(Path, lesions.values())], settings, ()),
        "SpatialReference": bids_uri(anatomy, links(settings)),
    }
    return plan_lesion_tables(tuple(lesions), settings, names, told, links(settings))


def _names(job: SubjectJob, run: SodiumRun, settings: Settings) -> DerivativeNames:
    method = _linear(settings)
    return DerivativeNames(
        settings.out_dir,
        job.subject,
        run.session,
        run=run.run,
        acquisition=run.acquisition,
        rec=method if run.is_kspace and method != DEFAULT_RECON else None,
        anat_suffix=job.anatomy.suffix,
    )


def _linear(settings: Settings) -> str:
    """Return the method whose image is quantified: always a linear one."""
    return DEFAULT_RECON if settings.recon in NONLINEAR else settings.recon


def _map_outputs(names: DerivativeNames, settings: Settings) -> dict[str, str]:
    """Return the paths of the maps of all partial-volume corrections that make one."""
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


def _outputs(names: DerivativeNames) -> dict[str, str]:
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
