"""What is to be done: the sodium runs and the 1H anatomy of each subject and session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.index import (
    ANATOMY_ORDER,
    RawFile,
    check_image,
    find_participants,
    index_files,
    kspace_files,
    one_line,
    passes,
    without_part,
)
from sodiumprep.bids_app.lesions import Lesions, find_lesions
from sodiumprep.bids_app.metadata import (
    HYDROGEN,
    SODIUM,
    Protocol,
    UserError,
    Vial,
    load_vials,
    read_protocol,
    read_vials,
)
from sodiumprep.bids_app.names import acquisition_label, entities, suffix
from sodiumprep.bids_app.ready import (
    Ready,
    anatomy_suffix,
    check_derivatives,
    find_sodium_regions,
    find_transform,
    find_vial_labels,
    ready_anatomy,
    ready_files,
    ready_sources,
)
from sodiumprep.bids_app.sessions import (
    NOT_MOVED,
    Reference,
    SessionImage,
    first_session,
    in_known_space,
    lies_in_reference,
    order_of,
    without_session,
)
from sodiumprep.bids_app.settings import SESSIONWISE, Settings
from sodiumprep.interfaces.kspace import read_kspace_header

QUANTIFIED = ("PDw", "MEGRE")
COMPLETE = {"preproc", "mask", "GM", "WM", "CSF"}  # a ready-made anatomy that lacks nothing
UNUSED_TRANSMIT = ("TB1map", "TB1DAM")


@dataclass(frozen=True)
class SodiumRun:
    """One sodium image to quantify, with all that belongs to it.

    Parameters
    ----------
    subject, session, run
        Labels without their keys, None where the name has none.
    entities
        All entities of the source's name under their short keys.
    source
        The image, or the k-space file that wins over it.
    is_kspace
        Whether the source is k-space.
    phase
        Phase image that goes with a magnitude image.
    protocol
        How it was measured.
    vials
        Known concentrations; label n of the label image is entry n, counted from 1.
    vial_labels, vial_space
        Label image and the space it lies in, ``sodium`` or ``T1w``.
    receive_array, receive_volume, receive_map
        Images of the array and of the volume coil, and a receive map.
    fieldmap, fieldmap_nucleus
        Field map [Hz] and the nucleus whose frequency it tells.
    sodium_to_anat
        The user's transform.
    transform_backward
        Whether that transform is from T1w to sodium.
    warnings
        What the report must say about the input.
    regions
        Regions drawn in sodium space, file and label by name, where there is no anatomy.
    coil_image
        Another 1H image of the same session and coil, which shares the sodium image's frame.
    """

    subject: str
    session: str | None
    run: str | None
    entities: Mapping[str, str]
    source: Path
    is_kspace: bool
    phase: Path | None
    protocol: Protocol
    vials: tuple[Vial, ...] = ()
    vial_labels: Path | None = None
    vial_space: str | None = None
    receive_array: tuple[Path, ...] = ()
    receive_volume: tuple[Path, ...] = ()
    receive_map: Path | None = None
    fieldmap: Path | None = None
    fieldmap_nucleus: str = SODIUM
    sodium_to_anat: Path | None = None
    transform_backward: bool = False
    warnings: tuple[str, ...] = ()
    regions: Mapping[str, tuple[Path, int]] = field(default_factory=dict)
    coil_image: Path | None = None

    @property
    def acquisition(self) -> str:
        """Label of the acquisition in every output name."""
        return acquisition_label(self.entities)


@dataclass(frozen=True)
class Anatomy:
    """The 1H anatomy of one subject and session.

    Parameters
    ----------
    image
        Best raw image, None where there is none.
    suffix
        Suffix of that image, or of the ready-made one.
    ready
        Ready-made results, as :class:`~sodiumprep.bids_app.ready.ReadyAnatomy` names them.
    lesions
        Lesion masks by name.
    warnings
        What the report must say about the input.
    label_tissues
        Tissue of each label of the ready-made label image, where fractions come from it.
    sources
        What came from where, for readers.
    """

    image: Path | None
    suffix: str
    ready: Mapping[str, Path] = field(default_factory=dict)
    lesions: Mapping[str, Path] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    label_tissues: Mapping[int, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether there is an image of the anatomy; without one sodium stays in its space."""
        return self.image is not None or "preproc" in self.ready


@dataclass(frozen=True)
class SubjectJob:
    """What is to be done for one subject and session, or for all sessions that share an anatomy.

    Parameters
    ----------
    subject, session
        Labels without their keys; session None where the input has none, or several share one
        anatomy.
    anatomy
        The 1H anatomy.
    runs
        The sodium runs; empty with ``--anat-only``.
    reference
        What the sessions share; None for a session with an anatomy of its own.
    """

    subject: str
    session: str | None
    anatomy: Anatomy
    runs: tuple[SodiumRun, ...]
    reference: Reference | None = None

    @property
    def has_anatomy(self) -> bool:
        """Whether there is, or will be, an image of the anatomy."""
        built = self.reference is not None and self.reference.builds_template
        return built or self.anatomy.exists


def collect(settings: Settings) -> tuple[list[SubjectJob], list[tuple[str, str]]]:
    """Find what is to be done for every requested subject and session.

    Parameters
    ----------
    settings
        The user's choices.

    Returns
    -------
    jobs
        One per subject and session.
    failures
        Subject label and message of each subject or session that cannot be processed.

    Raises
    ------
    UserError
        If nothing can be started: an unknown participant, a forbidden derivatives folder.
    """
    participants = find_participants(settings)
    check_derivatives(settings.derivatives)
    jobs: list[SubjectJob] = []
    failures: list[tuple[str, str]] = []
    for subject, files in index_files(settings, participants):
        if isinstance(files, UserError):
            failures.append((subject, str(files)))
            continue
        collected, failed = _collect_subject(settings, subject, files)
        jobs += collected
        failures += [(subject, message) for message in failed]
    return jobs, failures


def describe(job: SubjectJob) -> list[str]:
    """Return lines that say what was found where, for the terminal."""
    title = f"sub-{job.subject}" + (f" ses-{job.session}" if job.session else "")
    made = job.reference is not None and job.reference.builds_template
    image = job.anatomy.ready.get("preproc", job.anatomy.image)
    nothing = "mean of all sessions" if made else "none, sodium stays in its own space"
    lines = [f"{title}: 1H anatomy {image or nothing}"]
    lines += [f"  anatomy {text}" for text in job.anatomy.sources]
    lines += [f"  ready-made {key}: {path}" for key, path in job.anatomy.ready.items()]
    lines += [f"  lesion {name}: {path}" for name, path in job.anatomy.lesions.items()]
    lines += [f"  note: {text}" for text in job.anatomy.warnings]
    lines += _describe_reference(job.reference) if job.reference else []
    for run in job.runs:
        kind = "k-space" if run.is_kspace else "image"
        lines.append(f"  sodium {kind} {run.source}: {len(run.vials)} vial(s)")
        found = {
            "vial labels": run.vial_labels, "transform": run.sodium_to_anat,
            "1H image of the coil": run.coil_image,
        }  # fmt: skip
        lines += [f"    {key}: {path}" for key, path in found.items() if path]
        if not job.has_anatomy:
            lines += [f"    region {name}: {path}" for name, (path, _) in run.regions.items()]
        pair = len(run.receive_array), len(run.receive_volume)
        lines.append("    receive: {} array, {} volume image(s)".format(*pair))
        lines += [f"    note: {text}" for text in run.warnings]
    return lines


def _describe_reference(reference: Reference) -> list[str]:
    lines = [f"  anatomical reference of all sessions: {reference.method}"]
    for number, image in enumerate(reference.images):
        word = "is it" if number == reference.reference_index else "is registered to it"
        word = "is part of it" if reference.builds_template else word
        lines.append(f"    {image.image} {word}")
        lines += [f"      lesion {name}: {path}" for name, path in image.lesions.items()]
    return lines


def _collect_subject(
    settings: Settings, subject: str, images: Sequence[RawFile]
) -> tuple[list[SubjectJob], list[str]]:
    jobs, failures = [], []
    try:
        files = [*images, *kspace_files(settings.bids_dir, subject, images)]
        sessions = _sessions(settings, subject, files)
        if settings.subject_anatomical_reference != SESSIONWISE and len(_labels(files)) > 1:
            return _collect_shared(settings, subject, sessions, files)
    except UserError as error:
        return [], [str(error)]
    for session in sessions:
        try:
            jobs.append(_collect_session(settings, subject, session, files))
        except UserError as error:
            failures.append(str(error))
    return jobs, failures


def _sessions(settings: Settings, subject: str, files: Sequence[RawFile]) -> list[str | None]:
    candidates = [
        file
        for file in files
        if file.datatype == "anat" and (settings.anat_only or _is_candidate(settings, file))
    ]
    found = sorted({file.parts.get("ses") for file in candidates}, key=lambda label: label or "")
    if not found:
        raise UserError(_nothing_found(settings, subject, files))
    missing = [label for label in settings.sessions if label not in found]
    if missing:
        what = "image" if settings.anat_only else "sodium image"
        raise UserError(
            f"sub-{subject}: no {what} in session {' '.join(missing)}; "
            f"found in: {', '.join(label or 'no session' for label in found)}"
        )
    return [label for label in found if not settings.sessions or label in settings.sessions]


def _is_candidate(settings: Settings, file: RawFile) -> bool:
    return file.is_sodium and passes(file, settings.bids_filters.get("sodium", {}))


def _nothing_found(settings: Settings, subject: str, files: Sequence[RawFile]) -> str:
    if settings.anat_only:
        return f"sub-{subject}: no image under {settings.bids_dir / f'sub-{subject}'} in anat/"
    hints = [file for file in files if file.datatype == "anat" and file.looks_sodium]
    if hints:
        return (
            f"{hints[0].path}: ResonantNucleus is missing or not {SODIUM} in its sidecar; "
            f'accepted: "ResonantNucleus": "{SODIUM}"'
        )
    stored = settings.bids_database_dir
    return (
        f"sub-{subject}: no sodium image under {settings.bids_dir}; accepted: anat/*_PDw.nii.gz "
        f'or _MEGRE with "ResonantNucleus": "{SODIUM}", or .h5 under sourcedata/'
        + (f" (index: {stored})" if stored else "")
    )


def _collect_session(
    settings: Settings, subject: str, session: str | None, files: Sequence[RawFile]
) -> SubjectJob:
    ready, said = _ready(settings, subject, session)
    anatomy = _find_anatomy(settings, session, files, ready)
    anatomy = replace(anatomy, warnings=(*anatomy.warnings, *said))
    own = [file for file in files if file.parts.get("ses") == session]
    runs = () if settings.anat_only else _find_runs(settings, subject, own, ready)
    runs = tuple(_with_coil_image(run, own, anatomy) for run in runs)
    if not anatomy.exists:
        runs = _in_sodium_space(settings, subject, anatomy, runs, ready)
    return SubjectJob(subject, session, anatomy, runs)


def _in_sodium_space(
    settings: Settings,
    subject: str,
    anatomy: Anatomy,
    runs: Sequence[SodiumRun],
    ready: Ready,
) -> tuple[SodiumRun, ...]:
    """Return the runs of a subject without anatomy, with the regions drawn on them.

    Raises
    ------
    UserError
        If nothing calibrates a run in sodium space.
    """
    accepted = f"no 1H image; accepted in anat/: {', '.join(ANATOMY_ORDER)}, or a desc-preproc "
    accepted += "image in a -d folder (FreeSurfer: mri/T1.mgz)"
    if not runs or anatomy.ready:
        found = f" (ready-made {', '.join(anatomy.ready)} alone is not enough)"
        raise UserError(f"sub-{subject}: {accepted}{found if anatomy.ready else ''}")
    for run in runs:
        if not run.vials or run.vial_space != "sodium" or settings.reference == "csf":
            raise UserError(
                f"sub-{subject}: {accepted}; or, for apparent concentrations in sodium space, "
                f"CalibrationVials of {run.source.name} with *_acq-23Na_desc-vials_dseg in a -d "
                "folder"
            )
    return tuple(
        replace(run, regions=find_sodium_regions(RawFile(run.source, {}, {}), ready))
        for run in runs
    )


def _ready(settings: Settings, subject: str, session: str | None) -> tuple[Ready, tuple[str, ...]]:
    """Return the ``-d`` files of a session, and what of them lies in a space of no use here."""
    paths = ready_files(settings.derivatives, subject, session)
    kept, notes = in_known_space(paths, settings.subject_anatomical_reference)
    return Ready(kept), notes


def _find_anatomy(
    settings: Settings, session: str | None, files: Sequence[RawFile], ready: Ready
) -> Anatomy:
    filters = settings.bids_filters.get("anat", {})
    candidates = [file for file in files if _is_anatomy(file) and passes(file, filters)]
    best = min(candidates, key=lambda file: _anatomy_rank(file, session), default=None)
    found = ready_anatomy(ready)
    preproc = found.files.get("preproc")
    notes = _anatomy_notes(None if preproc else best, session, found.files)
    lesions = _find_lesions(session, files, preproc, ready, best)
    if best is not None and preproc is None:
        check_image(best.path)
    kind = anatomy_suffix(preproc) if preproc else best.suffix if best else "T1w"
    image = None if best is None else best.path
    return Anatomy(
        image,
        kind,
        found.files,
        lesions.masks,
        (*notes, *found.notes, *lesions.notes),
        found.label_tissues,
        ready_sources(found.files, settings.derivatives),
    )


def _find_lesions(
    session: str | None,
    files: Sequence[RawFile],
    preproc: Path | None,
    ready: Ready,
    best: RawFile | None,
) -> Lesions:
    """Return the masks of a session; nameless ones only where their space is sure."""
    alone = len(_labels(files)) < 2
    shared = best is not None and "ses" not in best.parts
    given = preproc is not None and "ses" not in entities(preproc)
    return find_lesions(session, files, ready, alone or shared or given)


def _labels(files: Sequence[RawFile]) -> list[str | None]:
    """Return the sessions of a subject in the whole dataset, whatever the user asked for."""
    return order_of([file.parts.get("ses") for file in files if file.datatype == "anat"])


def _collect_shared(
    settings: Settings, subject: str, sessions: Sequence[str | None], files: Sequence[RawFile]
) -> tuple[list[SubjectJob], list[str]]:
    """Collect the sessions of a subject that share one anatomy.

    The reference rests on all sessions of the dataset, so that runs over some of them agree.
    """
    anatomy, reference = _find_reference(settings, subject, sessions, files)
    runs: list[SodiumRun] = []
    failures = []
    for session in () if settings.anat_only else sessions:
        ready, _ = _ready(settings, subject, session)
        own = [file for file in files if file.parts.get("ses") == session]
        try:
            found = _find_runs(settings, subject, own, ready)
            runs += [_in_reference(run, reference) for run in found]
        except UserError as error:
            failures.append(str(error))
    if failures and not runs:
        return [], failures
    return [SubjectJob(subject, None, anatomy, tuple(runs), reference)], failures


def _in_reference(run: SodiumRun, reference: Reference) -> SodiumRun:
    """Drop vial labels in T1w space whose way to the reference is not known."""
    labels = run.vial_labels
    if labels is None or run.vial_space != "T1w" or lies_in_reference(labels):
        return run
    named = entities(labels).get("ses")
    ready = not reference.builds_template and reference.reference_index == NOT_MOVED
    if reference.index(named) != NOT_MOVED or (named is None and ready):
        return run
    note = f"{labels.name}: vial labels not used, their session has no 1H image or is not named"
    return replace(run, vial_labels=None, vial_space=None, warnings=(*run.warnings, note))


def _find_reference(
    settings: Settings, subject: str, sessions: Sequence[str | None], files: Sequence[RawFile]
) -> tuple[Anatomy, Reference]:
    method = settings.subject_anatomical_reference
    whole, _ = _ready(settings, subject, None)
    given = ready_anatomy(Ready(tuple(without_session(whole.paths)))).files
    given = given if set(given) >= COMPLETE else {}
    images, notes = _session_images(settings, subject, files, bool(given))
    first = None
    if not given:
        first = first_session({label: suffix(i.image) for label, i in images.items()}, subject)
    alike = [] if given else _of_one_contrast(images, first)
    builds = method == "unbiased" and len(alike) > 1
    if builds:
        kind = suffix(images[first].image)
        notes += [
            f"{images[label].image.name}: no part of the template, which is made of {kind} images"
            for label in images
            if label not in alike
        ]
        anatomy, index, used = Anatomy(None, kind, warnings=tuple(notes)), -1, alike
    else:
        anatomy = _serving_anatomy(settings, subject, first, files, bool(given))
        said = [] if method == "first-lex" else [_not_built(first, given)]
        anatomy = replace(
            anatomy, warnings=tuple(dict.fromkeys((*anatomy.warnings, *notes, *said)))
        )
        used = [label for label in images if label in sessions or label == first]
        own = "preproc" not in anatomy.ready or "ses" in entities(anatomy.ready["preproc"])
        index = used.index(first) if first in used and own and not given else -1
    shown = tuple(images[label] for label in used)
    return anatomy, Reference(method, shown, builds, index, settings.sessions)


def _of_one_contrast(
    images: Mapping[str | None, SessionImage], first: str | None
) -> list[str | None]:
    """Return the sessions whose images can be averaged with that of the first."""
    kind = suffix(images[first].image)
    return [label for label, image in images.items() if suffix(image.image) == kind]


def _serving_anatomy(
    settings: Settings, subject: str, first: str | None, files: Sequence[RawFile], given: bool
) -> Anatomy:
    """Return the ready-made anatomy of the subject, or that of the first session."""
    ready, _ = _ready(settings, subject, None if given else first)
    mine = [file for file in files if not given or "ses" not in file.parts]
    return _find_anatomy(settings, first, mine, ready)


def _not_built(first: str | None, given: Mapping[str, Path]) -> str:
    if given:
        return "the reference is the ready-made anatomy of the subject: no template was built"
    return f"one session alone has such a 1H image (ses-{first}): no template was built"


def _session_images(
    settings: Settings, subject: str, files: Sequence[RawFile], given: bool
) -> tuple[dict[str | None, SessionImage], list[str]]:
    """Return the 1H image of each session in the dataset, raw or ready-made, with its lesions."""
    filters = settings.bids_filters.get("anat", {})
    images: dict[str | None, SessionImage] = {}
    notes: list[str] = []
    for label in _labels(files):
        ready, said = _ready(settings, subject, label)
        notes += said
        own = [f for f in files if f.parts.get("ses") == label and _is_anatomy(f)]
        fitting = [file for file in own if passes(file, filters)]
        best = min(fitting, key=lambda file, s=label: _anatomy_rank(file, s), default=None)
        preproc = ready_anatomy(ready).files.get("preproc")
        usable = preproc is not None and entities(preproc).get("ses") == label
        image = best.path if best else preproc if usable else None
        if image is None:
            continue
        check_image(image)
        if label is not None and (given or None in images):
            # what has no session in its name lies in the space of the subject's image
            ready = Ready(tuple(p for p in ready.paths if "ses" in entities(p)))
        lesions = find_lesions(label, files, ready, label is None)
        images[label] = SessionImage(label, image, lesions.masks)
        notes += lesions.notes
    return images, notes


def _with_coil_image(run: SodiumRun, own: Sequence[RawFile], anatomy: Anatomy) -> SodiumRun:
    """Add the 1H image that was measured with the coil of a sodium image, in its session.

    Same session and same coil means that nobody got up in between: the frame is shared, up to
    motion, which the score sees. Without names of the coils only a PDw counts, which is what
    dual-tuned coils are localized with; the anatomy itself adds nothing to the header.
    """
    sodium = next((file for file in own if file.path == run.source), None)
    coil = sodium.metadata.get("ReceiveCoilName") if sodium else None
    others = [file for file in own if _is_anatomy(file) and file.path != anatomy.image]
    same = [f for f in others if coil and f.metadata.get("ReceiveCoilName") == coil]
    unnamed = [f for f in others if f.suffix == "PDw" and "ReceiveCoilName" not in f.metadata]
    found = min(same or unnamed, key=lambda f: _anatomy_rank(f, run.session), default=None)
    if found is None:
        return run
    check_image(found.path)
    assumed = f"{found.path.name}: taken for an image of the sodium coil, its sidecar has no "
    notes = () if same else (assumed + "ReceiveCoilName",)
    return replace(run, coil_image=found.path, warnings=(*run.warnings, *notes))


def _is_anatomy(file: RawFile) -> bool:
    return (
        file.datatype == "anat"
        and not file.is_kspace
        and file.is_hydrogen
        and file.suffix in ANATOMY_ORDER
        and file.parts.get("part", "mag") == "mag"
    )


def _anatomy_rank(file: RawFile, session: str | None) -> tuple[Any, ...]:
    parts = file.parts
    place = [session, None].index(parts.get("ses")) if parts.get("ses") in (session, None) else 2
    return (
        place == 2 and file.suffix != "T1w",
        ANATOMY_ORDER.index(file.suffix),
        place,
        "ce" in parts,
        int(parts.get("echo", 1)),
        int(parts.get("run", 1)),
        file.path.name,
    )


def _anatomy_notes(
    best: RawFile | None, session: str | None, found: Mapping[str, Path]
) -> tuple[str, ...]:
    notes = []
    if best is not None and best.suffix != "T1w":
        notes.append(f"no T1w image: {best.path.name} serves as anatomy")
    if best is not None and best.parts.get("ses") not in (session, None):
        notes.append(f"anatomy from another session: {best.path.name}")
    folders = {path.parent for key, path in found.items() if key in ("preproc", "mask", "GM")}
    if len(folders) > 1:
        notes.append(
            "ready-made anatomy comes from several folders: "
            + ", ".join(sorted(map(str, folders)))
        )
    return tuple(notes)


def _find_runs(
    settings: Settings, subject: str, files: Sequence[RawFile], ready: Ready
) -> tuple[SodiumRun, ...]:
    candidates = [
        file for file in files if file.datatype == "anat" and _is_candidate(settings, file)
    ]
    usable = [file for file in candidates if file.suffix in QUANTIFIED]
    refused = sorted(file.path.name for file in candidates if file not in usable)
    if not usable:
        raise UserError(
            f"{candidates[0].path}: sodium with suffix {candidates[0].suffix} is not quantified; "
            f"accepted: {', '.join(QUANTIFIED)}"
        )
    notes = [f"{name}: not quantified, its suffix is not known for sodium" for name in refused]
    groups: dict[tuple[str, ...], list[RawFile]] = {}
    for file in usable:
        groups.setdefault(_identity(file), []).append(file)
    fmaps = [file for file in files if file.datatype == "fmap"]
    runs = [_build_run(settings, subject, group, fmaps, ready) for group in groups.values()]
    _refuse_same_names(runs)
    return tuple(_with_notes(run, notes) for run in runs)


def _identity(file: RawFile) -> tuple[str, ...]:
    parts = [f"{key}-{value}" for key, value in file.parts.items() if key not in ("part", "echo")]
    return (*sorted(parts), file.suffix)


def _refuse_same_names(runs: Sequence[SodiumRun]) -> None:
    seen: dict[tuple[str, str | None], SodiumRun] = {}
    for run in runs:
        other = seen.setdefault((run.acquisition, run.run), run)
        if other is not run:
            raise UserError(
                f"{other.source} and {run.source}: their results would have the same names; "
                "choose one with --bids-filter-file, or tell them apart by acq- or run-"
            )


def _with_notes(run: SodiumRun, notes: Sequence[str]) -> SodiumRun:
    return replace(run, warnings=(*run.warnings, *notes))


def _build_run(
    settings: Settings,
    subject: str,
    group: Sequence[RawFile],
    fmaps: Sequence[RawFile],
    ready: Ready,
) -> SodiumRun:
    source, phase, notes = _choose_source(group)
    protocol = _read_source_protocol(settings, source)
    vials = _read_source_vials(settings, source)
    labels, space = find_vial_labels(source, ready)
    receive = _find_receive(settings, source, fmaps)
    fieldmap, nucleus, told = _find_fieldmap(settings, source, fmaps)
    return SodiumRun(
        subject,
        source.parts.get("ses"),
        source.parts.get("run"),
        source.parts,
        source.path,
        source.is_kspace,
        phase,
        protocol,
        vials,
        labels,
        space,
        receive["array"],
        receive["volume"],
        next(iter(receive["map"]), None),
        fieldmap,
        nucleus,
        *find_transform(source, ready),
        (*notes, *told, *_fmap_notes(fmaps)),
    )


def _choose_source(group: Sequence[RawFile]) -> tuple[RawFile, Path | None, list[str]]:
    echo = min(int(file.parts.get("echo", 1)) for file in group)
    first = [file for file in group if int(file.parts.get("echo", 1)) == echo]
    notes = [
        f"{file.path.name}: echo not used, the first one is quantified"
        for file in group
        if file not in first and file.parts.get("part", "mag") == "mag"
    ]
    kspace = [file for file in first if file.is_kspace]
    if kspace:
        return kspace[0], None, notes
    by_part = {file.parts.get("part", "mag"): file for file in first}
    if "mag" not in by_part:
        raise UserError(
            f"{first[0].path}: has no magnitude image beside it; accepted: part-mag, or part-mag "
            "and part-phase"
        )
    phase = by_part["phase"].path if "phase" in by_part else None
    for path in filter(None, (by_part["mag"].path, phase)):
        check_image(path)
    return by_part["mag"], phase, notes


def _read_source_protocol(settings: Settings, source: RawFile) -> Protocol:
    needed = settings.relaxation_file is None
    if not source.is_kspace:
        return read_protocol(source.metadata, str(source.path), None, needed)
    try:
        header = read_kspace_header(source.path)
    except (ValueError, OSError) as error:
        text = one_line(error)
        named = text if str(source.path) in text else f"{source.path}: {text}"
        raise UserError(named) from error
    # What stands beside the k-space file must agree with it; what only the image of the same
    # name says stands in where both are silent.
    stated = {
        "EchoTime": header.echo_time,
        "RepetitionTime": header.repetition_time,
        "FlipAngle": header.flip_angle,
        "MagneticFieldStrength": header.field_strength,
    }
    silent = {
        key: value
        for key, value in source.metadata.items()
        if stated.get(key) is None or key in source.own
    }
    return read_protocol(silent, str(source.path), header, needed)


def _read_source_vials(settings: Settings, source: RawFile) -> tuple[Vial, ...]:
    if settings.vials_file is not None:
        return load_vials(settings.vials_file)
    entries = source.metadata.get("CalibrationVials")
    vials = () if entries is None else read_vials(entries, str(source.path))
    if settings.reference == "vials" and not vials:
        raise UserError(
            f"{source.path}: CalibrationVials is missing in its sidecar; accepted: a list of "
            "vials, --vials FILE, or --reference csf"
        )
    return vials


def _find_receive(
    settings: Settings, source: RawFile, fmaps: Sequence[RawFile]
) -> dict[str, tuple[Path, ...]]:
    filters = settings.bids_filters.get("fmap", {})
    found: dict[str, list[Path]] = {"array": [], "volume": [], "map": []}
    for file in fmaps:
        kind = _receive_kind(file)
        if kind and file.is_sodium and passes(file, filters) and _intended(file, source):
            check_image(file.path)
            found[kind].append(file.path)
    return {kind: tuple(paths) for kind, paths in found.items()}


def _find_fieldmap(
    settings: Settings, source: RawFile, fmaps: Sequence[RawFile]
) -> tuple[Path | None, str, list[str]]:
    """Return the field map of raw k-space, its nucleus, and what must be said of it."""
    filters = settings.bids_filters.get("fmap", {})
    found = [f for f in fmaps if f.suffix == "fieldmap" and passes(f, filters)]
    meant = [f for f in found if _intended(f, source)]
    usable = [f for f in meant if _nucleus(f)]
    unknown = [
        f'{f.path.name}: not used, its sidecar lacks "ResonantNucleus": "1H" or "{SODIUM}"'
        for f in meant
        if f not in usable
    ]
    if not usable:
        return None, SODIUM, unknown
    file = usable[0]
    if not source.is_kspace:
        return None, SODIUM, [f"{file.path.name}: not used, the image is already reconstructed"]
    if file.metadata.get("Units") != "Hz":
        raise UserError(f"{file.path}: Units is {file.metadata.get('Units')!r}; accepted: 'Hz'")
    check_image(file.path)
    ignored = [f"{other.path.name}: not used, {file.path.name} is" for other in usable[1:]]
    return file.path, _nucleus(file), [*ignored, *unknown]


def _nucleus(file: RawFile) -> str:
    """Return what a sidecar or a name states; a guess would scale a field map by a quarter."""
    if file.is_sodium:
        return SODIUM
    stated = file.metadata.get("ResonantNucleus") or file.parts.get("nuc")
    return HYDROGEN if stated == HYDROGEN else ""


def _receive_kind(file: RawFile) -> str | None:
    if file.parts.get("part", "mag") != "mag":
        return None
    if file.suffix == "RB1map":
        return "map"
    label = file.parts.get("acq", "").lower() if file.suffix == "RB1COR" else ""
    return "array" if "head" in label else "volume" if "body" in label else None


def _intended(file: RawFile, source: RawFile) -> bool:
    given = file.metadata.get("IntendedFor")
    if not given:
        return True
    targets = given if isinstance(given, list) else [given]
    return any(without_part(Path(str(target))) == without_part(source.path) for target in targets)


def _fmap_notes(fmaps: Sequence[RawFile]) -> list[str]:
    notes = [
        f"{file.path.name}: transmit maps are not used yet"
        for file in fmaps
        if file.is_sodium and file.suffix in UNUSED_TRANSMIT
    ]
    notes += [
        f'{file.path.name}: not used, its sidecar lacks "ResonantNucleus": "{SODIUM}"'
        for file in fmaps
        if file.looks_sodium
    ]
    notes += [
        f"{file.path.name}: not used, acq- names neither Head (array) nor Body (volume coil)"
        for file in fmaps
        if file.is_sodium and file.suffix == "RB1COR" and _receive_kind(file) is None
    ]
    return notes
