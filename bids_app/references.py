"""The anatomical reference that the sessions of a subject share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sodiumprep.bids_app.anatomies import (
    Anatomy,
    anatomy_rank,
    find_anatomy,
    is_anatomy,
    ready_of,
    session_labels,
)
from sodiumprep.bids_app.index import (
    RawFile,
    check_image,
    passes,
)
from sodiumprep.bids_app.lesions import find_lesions
from sodiumprep.bids_app.names import entities, suffix
from sodiumprep.bids_app.ready import (
    Ready,
    ready_anatomy,
)
from sodiumprep.bids_app.runs import SodiumRun
from sodiumprep.bids_app.sessions import (
    NOT_MOVED,
    Reference,
    SessionImage,
    first_session,
    lies_in_reference,
    without_session,
)
from sodiumprep.bids_app.settings import Settings

COMPLETE = {"preproc", "mask", "GM", "WM", "CSF"}  # a ready-made anatomy that lacks nothing


def find_reference(
    settings: Settings, subject: str, sessions: Sequence[str | None], files: Sequence[RawFile]
) -> tuple[Anatomy, Reference]:
    """Return the anatomy that serves all sessions, and where each of them lies from it."""
    method = settings.subject_anatomical_reference
    whole, _ = ready_of(settings, subject, None)
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


def in_reference(run: SodiumRun, reference: Reference) -> SodiumRun:
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


def _serving_anatomy(
    settings: Settings, subject: str, first: str | None, files: Sequence[RawFile], given: bool
) -> Anatomy:
    """Return the ready-made anatomy of the subject, or that of the first session."""
    ready, _ = ready_of(settings, subject, None if given else first)
    mine = [file for file in files if not given or "ses" not in file.parts]
    return find_anatomy(settings, first, mine, ready)


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
    for label in session_labels(files):
        ready, said = ready_of(settings, subject, label)
        notes += said
        own = [f for f in files if f.parts.get("ses") == label and is_anatomy(f)]
        fitting = [file for file in own if passes(file, filters)]
        best = min(fitting, key=lambda file, s=label: anatomy_rank(file, s), default=None)
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


def _of_one_contrast(
    images: Mapping[str | None, SessionImage], first: str | None
) -> list[str | None]:
    """Return the sessions whose images can be averaged with that of the first."""
    kind = suffix(images[first].image)
    return [label for label, image in images.items() if suffix(image.image) == kind]
