"""What lies ready-made in derivatives folders: anatomy, lesions, vial labels, transforms."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from sodiumprep.bids_app import io_spec
from sodiumprep.bids_app.index import (
    ANATOMY_ORDER,
    RawFile,
    check_image,
    one_line,
    same_label,
)
from sodiumprep.bids_app.metadata import SODIUM, UserError, read_table
from sodiumprep.bids_app.names import acquisition_label, entities, stem, suffix
from sodiumprep.interfaces.image import open_image
from sodiumprep.interfaces.transforms import transform_kinds
from sodiumprep.sodium.labels import FREESURFER, TISSUES, is_freesurfer, tissue_of_name

BELOW_SUBJECT = ("", "anat/", "ses-*/anat/")
HARD = "their edges are hard: no voxel holds two tissues"


@dataclass(frozen=True)
class Ready:
    """The ``-d`` files of one subject and session.

    Parameters
    ----------
    paths
        In order of preference.
    """

    paths: tuple[Path, ...]

    def find(self, item: str) -> list[Path]:
        """Return the files that serve as an item of ``io_spec.json``, best first."""
        return [path for path, _ in io_spec.matches(item, self.paths)]


@dataclass(frozen=True)
class ReadyAnatomy:
    """The ready-made anatomy of one subject and session.

    Parameters
    ----------
    files
        What is there of ``preproc mask GM WM CSF dseg dseg_tsv posteriors``, and transforms as
        ``to_<space>`` and ``from_<space>``.
    label_tissues
        Tissue of each label of ``dseg``, where fractions come from it; else empty.
    notes
        What must be said of it.
    """

    files: dict[str, Path]
    label_tissues: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def check_derivatives(derivatives: Mapping[str, Path], participants: Iterable[str]) -> None:
    """Refuse folders that hold the truth of a simulation, or no subject.

    Parameters
    ----------
    derivatives
        Folders by name.
    participants
        Labels of the subjects whose files may be read; into the folders of others nobody looks.

    Raises
    ------
    UserError
        If a folder is such a one.
    """
    labels = list(participants)
    for name, root in derivatives.items():
        depths = ("", *(f"sub-{label}/{below}" for label in labels for below in BELOW_SUBJECT))
        truth = next(
            (path for depth in depths for path in root.glob(f"{depth}*desc-truth*")), None
        )
        if truth is not None:
            raise UserError(
                f"--derivatives {name}={root}: holds the truth of a simulation ({truth.name}), "
                "which no processing may see"
            )
        if next(root.glob("sub-*"), None) is None:
            raise UserError(f"--derivatives {name}={root}: has no sub-<label> in it")


def ready_files(
    derivatives: Mapping[str, Path], subject: str, session: str | None
) -> Iterable[Path]:
    """Yield the files of a subject: folder by folder, of each the session before the subject."""
    for root in derivatives.values():
        for folder in io_spec.folders(subject, session):
            files = _listed(root).get(subject, ()) if folder == "." else (root / folder).glob("*")
            for path in sorted(files):
                parts = entities(path)
                own = parts.get("sub", subject) == subject and parts.get("ses") in (session, None)
                if own and path.is_file():
                    yield path


def _listed(root: Path) -> Mapping[str, list[Path]]:
    """Return what lies in a derivatives folder itself, by subject, the folders of these aside."""
    return _listing(root, root.stat().st_mtime_ns) if root.is_dir() else {}


@lru_cache(maxsize=8)
def _listing(root: Path, _changed: int) -> Mapping[str, list[Path]]:
    """List a folder once for all its subjects, as long as nothing in it changes."""
    found: dict[str, list[Path]] = {}
    with os.scandir(root) as entries:
        for entry in entries:
            subject = entities(entry.name).get("sub") if "_" in entry.name else None
            if subject is not None:
                found.setdefault(subject, []).append(root / entry.name)
    return found


def anatomy_suffix(path: Path) -> str:
    """Return what kind of 1H image a ready-made one is; FreeSurfer's is a T1w image."""
    return suffix(path) if suffix(path) in ANATOMY_ORDER else "T1w"


def ready_anatomy(ready: Ready) -> ReadyAnatomy:
    """Return the ready-made anatomy.

    GM, WM and CSF come from one folder or not at all; where they are missing, a label image that
    is understood gives them.

    Raises
    ------
    UserError
        If a label image should give the fractions and names a region that is not known.
    """
    found = {item: ready.find(item) for item in ("preproc", "mask")}
    files = {item: paths[0] for item, paths in found.items() if paths}
    fractions = _ready_fractions(ready)
    notes: tuple[str, ...] = ()
    tissues: dict[int, str] = {}
    if not fractions:
        segmented, tissues, notes = _segmentation(ready)
        files |= segmented
    table = label_table(files["dseg"]) if "dseg" in files else None
    tables = {"dseg_tsv": table} if table else {}
    return ReadyAnatomy({**files, **fractions, **tables, **_transforms(ready)}, tissues, notes)


def ready_sources(files: Mapping[str, Path], derivatives: Mapping[str, Path]) -> tuple[str, ...]:
    """Return a line for each derivatives folder that says what of the anatomy it gives.

    Parameters
    ----------
    files
        As :class:`ReadyAnatomy` holds them.
    derivatives
        Folders by name.

    Examples
    --------
    >>> ready_sources({"mask": Path("/d/sub-01/anat/m.nii.gz")}, {"fmriprep": Path("/d")})
    ('from fmriprep: mask',)
    """
    given: dict[str, list[str]] = {}
    for item, path in files.items():
        holding = [name for name, root in derivatives.items() if path.is_relative_to(root)]
        name = max(
            holding, key=lambda name: len(derivatives[name].parts), default=str(path.parent)
        )
        given.setdefault(name, []).append(item)
    return tuple(f"from {name}: {', '.join(items)}" for name, items in given.items())


def find_vial_labels(source: RawFile, ready: Ready) -> tuple[Path | None, str | None]:
    """Return the label image of the vials beside a sodium image, and the space it lies in.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    found = [path for path in ready.find("vials") if _belongs(entities(path), source)]
    if not found:
        return None, None
    best = min(found, key=lambda path: (_strangeness(path, source), "space" in entities(path)))
    check_image(best)
    return best, "T1w" if "space" in entities(best) else "sodium"


def find_transform(source: RawFile, ready: Ready) -> tuple[Path | None, bool]:
    """Return the user's transform of a sodium image, and whether it is from T1w to sodium.

    Raises
    ------
    UserError
        If it is not linear, or no transform.
    """
    for item, backward in (("sodium_xfm", False), ("sodium_xfm_inverse", True)):
        found = [path for path in ready.find(item) if _belongs(entities(path), source)]
        if found:
            best = min(found, key=lambda path: _strangeness(path, source))
            _check_linear(best)
            return best, backward
    return None, False


def find_sodium_regions(source: RawFile, ready: Ready) -> dict[str, tuple[Path, int]]:
    """Return regions that a user has drawn in sodium space: a file and a label for each name.

    Raises
    ------
    UserError
        If a file cannot be read, or a label image has no TSV that names its labels.
    """
    regions: dict[str, tuple[Path, int]] = {}
    for path in ready.find("sodium_regions"):
        if not _belongs(entities(path), source):
            continue
        check_image(path)
        if suffix(path) == "mask":
            name = entities(path).get("label") or entities(path)["desc"]
            regions.setdefault(name, (path, 1))
            continue
        table = label_table(path)
        if table is None:
            raise UserError(
                f"{path}: no TSV with columns index and name tells what its labels are"
            )
        names = read_label_names(table)
        for label in labels_of(path):
            if label not in names:
                raise UserError(f"{path}: label {label} does not stand in {table}")
            regions.setdefault(names[label], (path, label))
    return regions


def labels_of(path: Path) -> list[int]:
    """Return the labels of an image, 0 left out.

    Raises
    ------
    UserError
        If it cannot be read, or holds values that are no whole numbers.
    """
    check_image(path)
    values = np.unique(np.asanyarray(open_image(path).dataobj))
    if not np.array_equal(values, np.rint(values)):
        raise UserError(
            f"{path}: holds {values[values != np.rint(values)][0]:g}; labels are whole"
        )
    return [int(value) for value in values if value]


def read_label_names(path: Path) -> dict[int, str]:
    """Return the names of labels from a TSV with columns ``index`` and ``name``.

    Raises
    ------
    UserError
        If the file cannot be read so.
    """
    try:
        return {int(float(row["index"])): str(row["name"]) for row in read_table(path)}
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path}: cannot be read ({one_line(error)}); accepted: tab-separated columns index "
            "and name"
        ) from error


def _ready_fractions(ready: Ready) -> dict[str, Path]:
    # The three must come from one folder: fractions of two spaces do not add up to one.
    by_tissue = {tissue: ready.find(tissue) for tissue in TISSUES}
    for first in by_tissue["GM"]:
        here = {
            tissue: next((path for path in paths if path.parent == first.parent), None)
            for tissue, paths in by_tissue.items()
        }
        if all(here.values()):
            return {tissue: path for tissue, path in here.items() if path is not None}
    return {}


def _segmentation(ready: Ready) -> tuple[dict[str, Path], dict[int, str], tuple[str, ...]]:
    """Return the first label image that is understood, its tissues, and what must be said."""
    notes = []
    for path, rule in io_spec.matches("dseg", ready.paths):
        tissues = _label_tissues(path, rule.labels)
        if tissues is None:
            notes.append(f"{path.name}: not used, no TSV tells what its labels are")
            continue
        said = [f"{path.name} {rule.note}"] if rule.note else []
        posteriors = next((p for p in ready.find("posteriors") if p.parent == path.parent), None)
        if posteriors is None:
            said.append(f"tissue fractions from the labels of {path.name}: {HARD}")
            return {"dseg": path}, tissues, tuple(said)
        return {"dseg": path, "posteriors": posteriors}, tissues, tuple(said)
    return {}, {}, tuple(notes)


def _label_tissues(path: Path, meaning: str) -> dict[int, str] | None:
    """Return the tissue of each label of an image, None where nothing tells it."""
    labels = labels_of(path)
    table = label_table(path) if meaning == "table" else None
    if table is None:
        if meaning == "table" and not is_freesurfer(labels):
            return None
        unknown = [label for label in labels if label not in FREESURFER]
        if unknown:
            raise UserError(f"{path}: label {unknown[0]} is none of FreeSurfer's tissues")
        return _all_three(path, {label: FREESURFER[label] for label in labels})
    names = read_label_names(table)
    tissues = {}
    for label in labels:
        tissue = tissue_of_name(names.get(label, "n/a"))
        if tissue is None:
            said = f"is called {names[label]!r}" if label in names else "has no row"
            raise UserError(
                f"{table}: label {label} of {path.name} {said}; accepted: names such as GM, WM, "
                "CSF, Left-Cerebral-Cortex, Bone, Background (docs/usage.md)"
            )
        tissues[label] = tissue
    return _all_three(path, tissues)


def _all_three(path: Path, tissues: dict[int, str]) -> dict[int, str]:
    missing = [tissue for tissue in TISSUES if tissue not in tissues.values()]
    if missing:
        raise UserError(f"{path}: no label is {missing[0]}; accepted: labels of GM, WM and CSF")
    return tissues


def _transforms(ready: Ready) -> dict[str, Path]:
    found = {}
    for item, key, word in (("to_template", "to", "to"), ("from_template", "from", "from")):
        for path in ready.find(item):
            found.setdefault(f"{word}_{entities(path)[key]}", path)
    return found


def label_table(dseg: Path) -> Path | None:
    """Return the TSV of a label image: beside it, or the one that a whole dataset shares.

    Parameters
    ----------
    dseg
        Of one subject.
    """
    desc = entities(dseg).get("desc")
    name = f"desc-{desc}_dseg.tsv" if desc else "dseg.tsv"
    inside = ("anat", "mri", "ses-", "sub-")
    root = next(folder for folder in dseg.parents if not folder.name.startswith(inside))
    tables = (dseg.with_name(stem(dseg) + ".tsv"), root / name)
    return next((table for table in tables if table.exists()), None)


def _check_linear(path: Path) -> None:
    try:
        field = path.name.endswith((".nii", ".nii.gz"))
        kinds = ["DisplacementField"] if field else transform_kinds(path)
    except ValueError as error:
        raise UserError(str(error)) from None
    bent = [kind for kind in kinds if "Displacement" in kind or "BSpline" in kind]
    if bent:
        raise UserError(
            f"{path}: is not linear ({bent[0]}); accepted between sodium and T1w: rigid or affine "
            "(ITK .txt, .mat or .h5)"
        )


def _belongs(parts: Mapping[str, str], source: RawFile) -> bool:
    own = source.parts
    same = all(
        key not in parts or same_label(parts[key], own.get(key, "")) for key in ("ses", "run")
    )
    return same and parts.get("acq", SODIUM) in (SODIUM, own.get("acq"), acquisition_label(own))


def _strangeness(path: Path, source: RawFile) -> int:
    parts = entities(path)
    return sum(parts.get(key) != source.parts.get(key) for key in ("ses", "acq", "run"))
