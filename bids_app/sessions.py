"""Sessions that share one anatomy: which one is the reference, whose masks lie where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import entities, suffix, with_json
from sodiumprep.bids_app.results import SHARED, read_json
from sodiumprep.bids_app.settings import SESSIONWISE

NOT_MOVED = -1  # index of what lies in the space of the reference already


@dataclass(frozen=True)
class SessionImage:
    """The 1H image of one session, which tells where the session lies.

    Parameters
    ----------
    session
        Label without its key; None for an image of the subject as a whole.
    image
        Raw or ready-made 1H image.
    lesions
        Masks by class in the space of this image.
    """

    session: str | None
    image: Path
    lesions: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """The anatomical reference that the sessions of a subject share.

    Parameters
    ----------
    method
        ``first-lex`` or ``unbiased``.
    images
        One for each session that has a 1H image and a part in this run.
    builds_template
        Whether the reference is the mean of all images.
    reference_index
        Of the image that is the reference itself, -1 for none.
    chosen
        Sessions that the user asked for; empty for all.
    """

    method: str
    images: tuple[SessionImage, ...]
    builds_template: bool = False
    reference_index: int = NOT_MOVED
    chosen: tuple[str, ...] = ()

    def index(self, session: str | None) -> int:
        """Return the place of a session among the images, -1 if it has none."""
        labels = [image.session for image in self.images]
        return labels.index(session) if session in labels else NOT_MOVED

    def moved(self, session: str | None) -> int:
        """Return the place of a session that must be moved, -1 for one that lies there."""
        index = self.index(session)
        return NOT_MOVED if index == self.reference_index else index

    def has_lesions(self, session: str | None) -> bool:
        """Tell whether a session has lesion masks of its own."""
        index = self.index(session)
        return index != NOT_MOVED and bool(self.images[index].lesions)

    def lesions_of(self, session: str | None) -> tuple[SessionImage | None, str]:
        """Return where the lesion masks of a session come from, and what must be said of it.

        A session without masks takes those of the reference, or of the first session that has
        some: the tissue under a lesion is not what the anatomy says it is.
        """
        if self.has_lesions(session):
            return self.images[self.index(session)], ""
        order = [self.reference_index] if self.reference_index != NOT_MOVED else []
        candidates = [self.images[n] for n in [*order, *range(len(self.images))]]
        other = next((image for image in candidates if image.lesions), None)
        if other is None:
            return None, ""
        place = f"ses-{other.session}" if other.session else "the subject"
        return other, f"no lesion mask of ses-{session}: that of {place} is used"


def first_session(suffixes: Mapping[str | None, str], subject: str) -> str | None:
    """Return the session whose anatomy serves all: the first with a T1w image, else with any.

    Parameters
    ----------
    suffixes
        Suffix of the best 1H image by session.
    subject
        Label, for the message.

    Returns
    -------
    session
        In the order of the labels; an image without session comes before all others.

    Raises
    ------
    UserError
        If no session has a 1H image.

    Examples
    --------
    >>> first_session({"b": "T1w", "a": "T2w", "c": "T1w"}, "01")
    'b'
    """
    if not suffixes:
        raise UserError(f"sub-{subject}: no session has a 1H image; accepted: one in anat/")
    return min(suffixes, key=lambda label: (suffixes[label] != "T1w", label or ""))


def lies_in_reference(path: Path) -> bool:
    """Tell whether a derivative says of itself that it lies in a reference of all sessions.

    Parameters
    ----------
    path
        Image or transform; its sidecar is read.
    """
    return read_json(with_json(path)).get("AnatomicalReference") in SHARED


def in_known_space(paths: Iterable[Path], method: str) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Leave out what belongs to a session but lies in another kind of reference.

    Parameters
    ----------
    paths
        Derivatives of one session.
    method
        Anatomical reference of this run.

    Returns
    -------
    kept, notes
        Masks, labels and transforms in the session's own space or in this reference, and
        whatever has no session in its name; a line for each of the others.
    """
    kept, notes = [], []
    for path in paths:
        known = None
        if "ses" in entities(path) and suffix(path) in ("xfm", "mask", "dseg"):
            known = read_json(with_json(path)).get("AnatomicalReference")
        if known in (None, SESSIONWISE, method):
            kept.append(path)
        elif path.suffix != ".json":
            notes.append(f"{path.name}: not used, it lies in a reference made by {known}")
    return tuple(kept), tuple(notes)


def without_session(paths: Iterable[Path]) -> list[Path]:
    """Return the paths whose name has no session.

    Parameters
    ----------
    paths
        Any.
    """
    return [path for path in paths if "ses" not in entities(path)]


def order_of(labels: Sequence[str | None]) -> list[str | None]:
    """Return labels in their order, none first.

    Parameters
    ----------
    labels
        Of sessions.

    Examples
    --------
    >>> order_of(["2", None, "1", "2"])
    [None, '1', '2']
    """
    return sorted(set(labels), key=lambda label: label or "")
