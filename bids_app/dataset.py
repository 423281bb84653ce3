"""What is to be done: the sodium runs and the 1H anatomy of each subject and session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sodiumprep.bids_app.anatomies import Anatomy, find_anatomy, ready_of, session_labels
from sodiumprep.bids_app.index import (
    RawFile,
    find_participants,
    index_files,
    kspace_files,
)
from sodiumprep.bids_app.metadata import (
    SODIUM,
    UserError,
)
from sodiumprep.bids_app.names import entities
from sodiumprep.bids_app.ready import (
    check_derivatives,
)
from sodiumprep.bids_app.references import find_reference, in_reference
from sodiumprep.bids_app.replacement import phantom_subjects
from sodiumprep.bids_app.runs import (
    SodiumRun,
    find_runs,
    in_sodium_space,
    is_candidate,
    with_coil_image,
)
from sodiumprep.bids_app.sessions import (
    Reference,
)
from sodiumprep.bids_app.settings import SESSIONWISE, Settings


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
        Subject label and message of each subject or session that cannot be processed. Subjects
        that are calibration phantoms of others are left out, unless they are asked for.

    Raises
    ------
    UserError
        If nothing can be started: an unknown participant, a forbidden derivatives folder.
    """
    participants = find_participants(settings)
    check_derivatives(settings.derivatives, participants)
    jobs: list[SubjectJob] = []
    failures: list[tuple[str, str]] = []
    phantoms: set[str] = set()
    for subject, files in index_files(settings, participants):
        if isinstance(files, UserError):
            failures.append((subject, str(files)))
            continue
        phantoms |= phantom_subjects(subject, files)
        collected, failed = _collect_subject(settings, subject, files)
        phantoms |= {label for job in collected for label in _phantoms_of(job)}
        jobs += collected
        failures += [(subject, message) for message in failed]
    if not settings.participants:
        jobs = [job for job in jobs if job.subject not in phantoms]
        failures = [failure for failure in failures if failure[0] not in phantoms]
    return jobs, failures


def _phantoms_of(job: SubjectJob) -> list[str]:
    images = [run.phantom.image for run in job.runs if run.phantom]
    return [label for image in images if (label := entities(image).get("sub")) != job.subject]


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
            "calibration phantom": run.phantom.image if run.phantom else None,
        }  # fmt: skip
        lines += [f"    {key}: {path}" for key, path in found.items() if path]
        if not job.has_anatomy:
            lines += [f"    region {name}: {path}" for name, (path, _) in run.regions.items()]
        pair = len(run.receive_array), len(run.receive_volume)
        lines.append("    receive: {} array, {} volume image(s)".format(*pair))
        lines += ["    receive: by the flip angle (reciprocity)"] if run.reciprocity else []
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
        if settings.subject_anatomical_reference != SESSIONWISE and len(session_labels(files)) > 1:
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
        if file.datatype == "anat" and (settings.anat_only or is_candidate(settings, file))
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
    ready, said = ready_of(settings, subject, session)
    anatomy = find_anatomy(settings, session, files, ready)
    anatomy = replace(anatomy, warnings=(*anatomy.warnings, *said))
    own = [file for file in files if file.parts.get("ses") == session]
    runs = () if settings.anat_only else find_runs(settings, subject, own, ready)
    runs = tuple(with_coil_image(run, own, anatomy) for run in runs)
    if not anatomy.exists:
        runs = in_sodium_space(settings, subject, anatomy, runs, ready)
    return SubjectJob(subject, session, anatomy, runs)


def _collect_shared(
    settings: Settings, subject: str, sessions: Sequence[str | None], files: Sequence[RawFile]
) -> tuple[list[SubjectJob], list[str]]:
    """Collect the sessions of a subject that share one anatomy.

    The reference rests on all sessions of the dataset, so that runs over some of them agree.
    """
    anatomy, reference = find_reference(settings, subject, sessions, files)
    runs: list[SodiumRun] = []
    failures = []
    for session in () if settings.anat_only else sessions:
        ready, _ = ready_of(settings, subject, session)
        own = [file for file in files if file.parts.get("ses") == session]
        try:
            found = find_runs(settings, subject, own, ready)
            runs += [in_reference(run, reference) for run in found]
        except UserError as error:
            failures.append(str(error))
    if failures and not runs:
        return [], failures
    return [SubjectJob(subject, None, anatomy, tuple(runs), reference)], failures
