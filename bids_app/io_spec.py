"""The rules by which ready-made files are found; the file ``io_spec.json`` holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.metadata import SODIUM
from sodiumprep.bids_app.names import entities, extension, suffix

SPEC = Path(__file__).with_name("io_spec.json")
NO_ENTITY = ("name", "labels", "note")
ANY = "any"  # a default that a rule takes back
PRESENT = "*"


@dataclass(frozen=True)
class Rule:
    """One way to name a file.

    Parameters
    ----------
    wanted
        Accepted values of each entity, of ``suffix`` and of ``extension``, best first; None means
        that the name has no such entity, ``*`` any value.
    name
        Whole file name that needs nothing else; empty for none.
    refused
        Values that ``*`` does not take.
    sodium
        Whether ``acq-`` names sodium; None if that does not matter.
    labels
        What gives label numbers their meaning: ``table``, ``freesurfer`` or nothing.
    note
        What must be said where the file gives the tissue fractions.
    """

    wanted: Mapping[str, tuple[str | None, ...]]
    name: str = ""
    refused: tuple[str, ...] = ()
    sodium: bool | None = None
    labels: str = ""
    note: str = ""

    def rank(self, path: Path) -> tuple[int, ...] | None:
        """Return how far down the lists of values a name stands, None if it does not fit.

        Examples
        --------
        >>> rule = Rule({"suffix": ("T1w", "T2w"), "desc": ("preproc",)})
        >>> rule.rank(Path("sub-01_desc-preproc_T2w.nii.gz")), rule.rank(Path("sub-01_T1w.nii"))
        ((1, 0), None)
        """
        if self.name:
            return () if path.name == self.name else None
        parts = entities(path)
        if self.sodium is not None and self.sodium != (SODIUM in parts.get("acq", "")):
            return None
        held: dict[str, str | None] = {
            **parts, "suffix": suffix(path), "extension": extension(path)
        }  # fmt: skip
        places = [self._place(held.get(key), values) for key, values in self.wanted.items()]
        return None if None in places else tuple(place for place in places if place is not None)

    def _place(self, value: str | None, accepted: tuple[str | None, ...]) -> int | None:
        if PRESENT in accepted:
            return None if value is None or value in self.refused else 0
        return accepted.index(value) if value in accepted else None


@cache
def rules(item: str) -> tuple[Rule, ...]:
    """Return the rules of an item, best first.

    Parameters
    ----------
    item
        A key of ``items`` in the file.
    """
    spec = _spec()
    held = spec["items"][item]
    return tuple(
        Rule(
            wanted=_wanted({} if "name" in rule else spec["defaults"], rule),
            name=rule.get("name", ""),
            refused=tuple(held.get("except", ())),
            sodium=held["sodium"],
            labels=rule.get("labels", ""),
            note=rule.get("note", ""),
        )
        for rule in held["rules"]
    )


def folders(subject: str, session: str | None) -> list[str]:
    """Return the folders below a derivatives folder that may hold a subject's files, best first.

    Parameters
    ----------
    subject, session
        Labels; without a session only the subject's own folders.

    Examples
    --------
    >>> folders("01", None)
    ['sub-01/anat', 'sub-01/mri', 'sub-01', '.']
    """
    known = {"subject": subject, **({"session": session} if session else {})}
    return [
        pattern.format(**known)
        for pattern in _spec()["folders"]
        if session or "{session}" not in pattern
    ]


def matches(item: str, paths: Iterable[Path]) -> list[tuple[Path, Rule]]:
    """Return the files that serve as an item, best first, each with the rule that it fits.

    Folders keep their order: the best file of the first folder comes before those of the next.

    Parameters
    ----------
    item
        A key of ``items`` in the file.
    paths
        Folder by folder, in order of preference.
    """
    ordered = list(paths)
    places = {folder: n for n, folder in enumerate(dict.fromkeys(p.parent for p in ordered))}
    found = []
    for number, path in enumerate(ordered):
        fits = [(k, rule.rank(path), rule) for k, rule in enumerate(rules(item))]
        best = next(((k, rank, rule) for k, rank, rule in fits if rank is not None), None)
        if best is not None:
            k, rank, rule = best
            found.append(((places[path.parent], k, rank, number), path, rule))
    return [(path, rule) for _, path, rule in sorted(found, key=lambda entry: entry[0])]


@cache
def _spec() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(SPEC.read_text(encoding="utf-8"))
    return content


def _wanted(
    defaults: Mapping[str, Sequence[str | None]], rule: Mapping[str, Any]
) -> dict[str, tuple[str | None, ...]]:
    merged = {**defaults, **{key: value for key, value in rule.items() if key not in NO_ENTITY}}
    return {
        key: tuple(value) if isinstance(value, list) else (value,)
        for key, value in merged.items()
        if value != ANY
    }
