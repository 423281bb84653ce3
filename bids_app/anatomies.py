"""The 1H anatomy of a subject and session: the best raw image, ready-made files, lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.index import (
    ANATOMY_ORDER,
    RawFile,
    check_image,
    passes,
)
from sodiumprep.bids_app.lesions import Lesions, find_lesions
from sodiumprep.bids_app.names import entities
from sodiumprep.bids_app.ready import (
    Ready,
    anatomy_suffix,
    ready_anatomy,
    ready_files,
    ready_sources,
)
from sodiumprep.bids_app.sessions import (
    in_known_space,
    order_of,
)
from sodiumprep.bids_app.settings import Settings


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


def ready_of(
    settings: Settings, subject: str, session: str | None
) -> tuple[Ready, tuple[str, ...]]:
    """Return the ``-d`` files of a session, and what of them lies in a space of no use here."""
    paths = ready_files(settings.derivatives, subject, session)
    kept, notes = in_known_space(paths, settings.subject_anatomical_reference)
    return Ready(kept), notes


def find_anatomy(
    settings: Settings, session: str | None, files: Sequence[RawFile], ready: Ready
) -> Anatomy:
    """Return the anatomy of a session: ready-made files, and the best raw image beside them."""
    filters = settings.bids_filters.get("anat", {})
    candidates = [file for file in files if is_anatomy(file) and passes(file, filters)]
    best = min(candidates, key=lambda file: anatomy_rank(file, session), default=None)
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
    alone = len(session_labels(files)) < 2
    shared = best is not None and "ses" not in best.parts
    given = preproc is not None and "ses" not in entities(preproc)
    return find_lesions(session, files, ready, alone or shared or given)


def session_labels(files: Sequence[RawFile]) -> list[str | None]:
    """Return the sessions of a subject in the whole dataset, whatever the user asked for."""
    return order_of([file.parts.get("ses") for file in files if file.datatype == "anat"])


def is_anatomy(file: RawFile) -> bool:
    """Tell whether a file is a 1H image that can serve as anatomy."""
    return (
        file.datatype == "anat"
        and not file.is_kspace
        and file.is_hydrogen
        and file.suffix in ANATOMY_ORDER
        and file.parts.get("part", "mag") == "mag"
    )


def anatomy_rank(file: RawFile, session: str | None) -> tuple[Any, ...]:
    """Return how well an image serves as anatomy of a session; the smallest is the best."""
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
