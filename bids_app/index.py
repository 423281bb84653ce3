"""What lies in a raw dataset: the images of each subject, with the metadata that they inherit."""

from __future__ import annotations

import re
import sqlite3
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bids import BIDSLayout, BIDSLayoutIndexer
from bids.exceptions import BIDSConflictingValuesError

from sodiumprep.bids_app.metadata import (
    MOST_TEXT,
    SODIUM,
    UserError,
    is_sodium,
    read_json,
    read_sidecar,
)
from sodiumprep.bids_app.names import entities, stem, suffix, with_json
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.files import check_file
from sodiumprep.interfaces.image import UNREADABLE, open_image

ANATOMY_ORDER = (
    "T1w",
    "UNIT1",
    "T2w",
    "PDw",
    "FLAIR",
    "PDT2",
    "T2starw",
    "MEGRE",
    "inplaneT1",
    "inplaneT2",
)
DATABASE = "layout_index.sqlite"  # the name that pybids gives its index
OTHER_DATATYPES = "beh|dwi|eeg|emg|func|ieeg|meg|micr|motion|mrs|nirs|perf|pet"
LONG_KEYS = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "nucleus": "nuc",
    "ceagent": "ce",
    "reconstruction": "rec",
    "direction": "dir",
}
FILTER_KEYS = {*LONG_KEYS, *LONG_KEYS.values(), "run", "echo", "flip", "inv", "part", "suffix"}
INDEX_ERRORS = (
    OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError,
    BIDSConflictingValuesError,
)  # fmt: skip


@dataclass(frozen=True)
class RawFile:
    """One file of the dataset with its sidecar, inheritance applied.

    Parameters
    ----------
    path
        The image, or the k-space file.
    metadata
        Keys of its sidecars.
    own
        Keys that stand beside a k-space file itself; of an image, all of them.
    """

    path: Path
    metadata: Mapping[str, Any]
    own: Mapping[str, Any]

    @property
    def parts(self) -> dict[str, str]:
        """Entities of the name under their short keys."""
        return entities(self.path)

    @property
    def datatype(self) -> str:
        """Folder that it lies in: ``anat`` or ``fmap``."""
        return self.path.parent.name

    @property
    def suffix(self) -> str:
        """Last part of the name."""
        return suffix(self.path)

    @property
    def is_kspace(self) -> bool:
        """Whether this is k-space."""
        return self.path.suffix == ".h5"

    @property
    def is_sodium(self) -> bool:
        """Whether sidecar or ``nuc-`` entity say sodium."""
        return is_sodium(self.metadata, self.path.name)

    @property
    def is_hydrogen(self) -> bool:
        """Whether nothing says that this is another nucleus than 1H."""
        nucleus = self.metadata.get("ResonantNucleus")
        named = self.parts.get("nuc", "1H") == "1H" and SODIUM not in self.parts.get("acq", "")
        return nucleus == "1H" or (nucleus is None and named)

    @property
    def looks_sodium(self) -> bool:
        """Whether the name alone hints at sodium, which is not enough."""
        return not self.is_sodium and SODIUM in self.parts.get("acq", "")


def find_participants(settings: Settings) -> tuple[str, ...]:
    """Return the labels to process, all of the dataset's where none was asked for.

    Raises
    ------
    UserError
        If a label is unknown, or the dataset has no subject at all.
    """
    roots = (settings.bids_dir, settings.bids_dir / "sourcedata")
    asked = [f"sub-{label}" for label in settings.participants]
    if asked and all(any((root / name).is_dir() for root in roots) for name in asked):
        return settings.participants  # of thousands of others nothing need be known
    folders = [folder for root in roots for folder in root.glob("sub-*") if folder.is_dir()]
    known = sorted({folder.name.removeprefix("sub-") for folder in folders})
    if not known:
        raise UserError(f"{settings.bids_dir}: holds no subject; accepted: folders sub-<label>")
    unknown = [label for label in settings.participants if label not in known]
    if unknown:
        raise UserError(
            f"--participant-label {' '.join(unknown)}: not in {settings.bids_dir}; "
            f"known: {_shortened(known)}"
        )
    return settings.participants or tuple(known)


def index_files(
    settings: Settings, participants: Sequence[str]
) -> Iterable[tuple[str, list[RawFile] | UserError]]:
    """Yield the images of each subject with their metadata, or what is wrong with them.

    Only these subjects are indexed. One broken sidecar makes the index of all fail; they are
    then indexed one by one, and only the subject it belongs to is lost.

    Raises
    ------
    UserError
        If a stored index belongs to another dataset.
    """
    try:
        for path in _small_files(settings.bids_dir, participants):
            check_file(path, MOST_TEXT)  # before pybids reads it whole, or waits for a pipe
        # of thousands of labels no pattern is made where all are wanted
        layout = _layout(settings, participants if settings.participants else None)
    except INDEX_ERRORS:
        for subject in participants:
            yield subject, _index_alone(settings, subject)
        return
    for subject in participants:
        yield subject, _layout_files(layout, subject)


def kspace_files(bids_dir: Path, subject: str, images: Sequence[RawFile]) -> list[RawFile]:
    """Return the k-space files of a subject under ``sourcedata/``.

    The keys of the image of the same name serve where the file's own sidecar is silent.

    Raises
    ------
    UserError
        If a sidecar beside a k-space file cannot be read.
    """
    same_name = {without_part(image.path): image.metadata for image in images}
    root = bids_dir / "sourcedata" / f"sub-{subject}"
    files = []
    for path in sorted([*root.glob("anat/*.h5"), *root.glob("ses-*/anat/*.h5")]):
        own = read_sidecar(with_json(path)) if with_json(path).exists() else {}
        inherited = same_name.get(without_part(path), {})
        files.append(RawFile(path, {**inherited, **own}, own))
    return files


def check_image(path: Path, finite: bool = True) -> None:
    """Read an image to its end, so that a broken one is found before anything runs.

    Parameters
    ----------
    path
        A NIfTI file.
    finite
        Whether to look at the values too.

    Raises
    ------
    UserError
        If it cannot be read, is truncated, not 3D, constant, or holds NaN or infinity.
    """
    values = _values_of(path)
    if values.squeeze().ndim != 3:
        raise UserError(f"{path}: has shape {values.shape}; accepted: one 3D image per file")
    if finite and not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise UserError(f"{path}: {bad} of {values.size} voxels are NaN or infinite")
    if finite and values.min() == values.max():
        raise UserError(f"{path}: every voxel is {values.min():g}; accepted: an image")


def without_part(path: Path) -> str:
    """Return the name without extension and ``part-`` entity."""
    return re.sub(r"_part-(mag|phase|real|imag)(?=_)", "", stem(path))


def passes(file: RawFile, filters: Mapping[str, Any]) -> bool:
    """Tell whether a file has the entities that the user asks for.

    A list means any of its values, null that the name has no such entity.

    Raises
    ------
    UserError
        If a filter names an unknown entity.
    """
    held = {**file.parts, "suffix": file.suffix}
    return all(_allows(wanted, held.get(_short(key))) for key, wanted in filters.items())


def same_label(first: str, second: str) -> bool:
    """Tell whether two labels are the same; leading zeros of a number do not count."""
    return first == second or (
        first.isdecimal() and second.isdecimal() and int(first) == int(second)
    )


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def _values_of(path: Path) -> Any:
    try:
        image = open_image(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            return np.asanyarray(image.dataobj)
    except UNREADABLE as error:
        raise UserError(
            f"{path}: cannot be read, truncated or no image ({one_line(error)})"
        ) from error


def _shortened(labels: Sequence[str]) -> str:
    more = [f"and {len(labels) - 20} more"] if len(labels) > 20 else []
    return ", ".join([*labels[:20], *more])


def _ignored(participants: Sequence[str] | None) -> list[re.Pattern[str]]:
    # Patterns meet the path below the root, "/sub-01/anat/..."; a folder comes without a
    # slash at its end. Of the root only sidecars to inherit from are wanted.
    labels = "|".join(map(re.escape, participants)) if participants else "[^/]+"
    return [
        re.compile(rf"^/(?!sub-(?:{labels})(?:/|$)|[^/]+\.json$)"),
        re.compile(rf"^/sub-[^/]+/(?:ses-[^/]+/)?(?:{OTHER_DATATYPES})(?:/|$)"),
        # what lies deeper is no image of ours, and a link may lead round or far away
        re.compile(r"^/sub-[^/]+/(?:ses-[^/]+/[^/]+|(?!ses-)[^/]+)/[^/]+/."),
    ]


def _small_files(root: Path, participants: Iterable[str]) -> list[Path]:
    """Return the sidecars that the index reads."""
    found = list(root.glob("*.json"))
    for label in participants:
        for folder in ("", "anat", "fmap", "ses-*", "ses-*/anat", "ses-*/fmap"):
            found += (root / f"sub-{label}").glob(f"{folder}/*.json" if folder else "*.json")
    return sorted(found)


def _layout(settings: Settings, participants: Sequence[str] | None) -> BIDSLayout:
    stored = settings.bids_database_dir
    if stored is not None and (stored / DATABASE).exists():
        return _stored_layout(settings, stored)
    # An index that is kept must hold every subject, or the next run misses some.
    wanted = None if stored else participants
    indexer = BIDSLayoutIndexer(validate=False, ignore=_ignored(wanted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on IntendedFor, which is read here, not there
        layout = BIDSLayout(settings.bids_dir, validate=False, indexer=indexer)
    if stored is not None:
        layout.save(stored)
    return layout


def _stored_layout(settings: Settings, stored: Path) -> BIDSLayout:
    root = _stored_root(stored / DATABASE)
    if root.resolve() != settings.bids_dir:
        raise UserError(
            f"--bids-database-dir {stored}: is the index of {root}; "
            f"accepted: one of {settings.bids_dir}"
        )
    return BIDSLayout(settings.bids_dir, validate=False, database_path=stored)


def _stored_root(database: Path) -> Path:
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return Path(connection.execute("SELECT root FROM layout_info").fetchone()[0])
    except (sqlite3.Error, TypeError) as error:
        raise UserError(f"{database}: is no index of a dataset ({one_line(error)})") from error


def _layout_files(layout: BIDSLayout, subject: str) -> list[RawFile]:
    found = layout.get(subject=subject, datatype=["anat", "fmap"], extension=[".nii", ".nii.gz"])
    files = [(Path(image.path), image.get_metadata()) for image in found]
    return sorted((RawFile(path, keys, keys) for path, keys in files), key=lambda file: file.path)


def _index_alone(settings: Settings, subject: str) -> list[RawFile] | UserError:
    try:
        for path in _small_files(settings.bids_dir, [subject]):
            read_json(path)
        indexer = BIDSLayoutIndexer(validate=False, ignore=_ignored([subject]))
        layout = BIDSLayout(settings.bids_dir, validate=False, indexer=indexer)
        return _layout_files(layout, subject)
    except UserError as error:
        return error
    except INDEX_ERRORS as error:
        return UserError(f"sub-{subject}: cannot be indexed: {one_line(error)}")


def _short(key: str) -> str:
    if key not in FILTER_KEYS:
        raise UserError(f"--bids-filter-file: {key} is not known; accepted: {sorted(FILTER_KEYS)}")
    return LONG_KEYS.get(key, key)


def _allows(wanted: object, held: str | None) -> bool:
    options = wanted if isinstance(wanted, list) else [wanted]
    return any(
        held is None if option is None else held is not None and same_label(str(option), held)
        for option in options
    )
