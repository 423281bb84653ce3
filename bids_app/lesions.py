"""Which lesion masks belong to a session, and in whose space they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sodiumprep.bids_app.index import RawFile
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import entities
from sodiumprep.bids_app.ready import Ready
from sodiumprep.interfaces.lesions import load_lesion


@dataclass(frozen=True)
class Lesions:
    """The lesion masks of one session.

    Parameters
    ----------
    masks
        By class, in alphabetical order.
    notes
        What was left out, and why.
    """

    masks: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_lesions(
    session: str | None, files: Sequence[RawFile], ready: Ready, nameless_fits: bool
) -> Lesions:
    """Return the lesion masks of a session, of derivatives and of the raw dataset.

    Derivatives win over raw ones, folder by folder. A class that a patient lacks may have an
    empty mask: it is left out, and this is said.

    Parameters
    ----------
    session
        Label without its key, or None.
    files
        Of the subject.
    ready
        The ``-d`` files of this session.
    nameless_fits
        Whether a mask whose name has no session lies in this session's space; of several
        sessions it may lie in any.

    Raises
    ------
    UserError
        If one of them cannot be read or is no mask.
    """
    found: dict[str, Path] = {}
    notes = []
    for name, path in [*_derived(ready), *_raw(session, files)]:
        named = entities(path).get("ses")
        if named is not None and named != session:
            notes.append(f"{path.name}: lesion mask in the space of another session, not used")
        elif named is None and session is not None and not nameless_fits:
            notes.append(
                f"{path.name}: lesion mask not used, its name has no session and there are "
                f"several, so that its space is not known (accepted: ses-{session} in the name)"
            )
        else:
            found.setdefault(name, path)
    empty = [name for name, path in found.items() if _is_empty(path)]
    notes += [f"{found[name].name}: empty, there is no lesion of class {name}" for name in empty]
    masks = {name: found[name] for name in sorted(found) if name not in empty}
    return Lesions(masks, tuple(notes))


def _derived(ready: Ready) -> list[tuple[str, Path]]:
    return [(_class(path), path) for path in ready.find("lesions")]


def _class(path: Path) -> str:
    parts = entities(path)
    return parts.get("label") or parts["desc"]


def _raw(session: str | None, files: Sequence[RawFile]) -> list[tuple[str, Path]]:
    return [
        ("lesion", file.path)
        for file in files
        if file.datatype == "anat"
        and file.parts.get("ses") in (session, None)
        and file.suffix == "roi"
        and file.parts.get("label") == "lesion"
    ]


def _is_empty(path: Path) -> bool:
    try:
        return not load_lesion(path)[0].any()
    except ValueError as error:
        raise UserError(str(error)) from None
