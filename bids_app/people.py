"""What is known of the people beside their images: tables that go along to the output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sodiumprep.bids_app.description import participants_dictionary
from sodiumprep.bids_app.names import DatasetNames, with_json
from sodiumprep.interfaces.files import copy_file
from sodiumprep.interfaces.sidecars import write_json

PHENOTYPE = "phenotype"  # folder of a BIDS dataset: tables of measurements of people


def copy_people(bids_dir: Path, out_dir: Path, subjects: Iterable[str]) -> None:
    """Copy the tables of participants, sessions and phenotypes, as raw data may be gone later.

    Parameters
    ----------
    bids_dir
        Raw dataset; tables that it has not are left out.
    out_dir
        Root of the derivatives.
    subjects
        Labels without their key, of those whose sessions are wanted.

    Raises
    ------
    OSError
        If a table cannot be copied.
    """
    names = DatasetNames(out_dir)
    source = bids_dir / names.participants.name
    if source.is_file():
        copy_file(source, names.participants)
        write_json(with_json(names.participants), participants_dictionary(source))
    for path in _beside(bids_dir, subjects):
        copy_file(path, out_dir / path.relative_to(bids_dir))


def _beside(bids_dir: Path, subjects: Iterable[str]) -> Iterator[Path]:
    """Yield the tables of phenotypes and sessions, with their dictionaries."""
    found = [*(bids_dir / PHENOTYPE).glob("*.tsv"), bids_dir / "sessions.json"]
    found += [bids_dir / f"sub-{label}" / f"sub-{label}_sessions.tsv" for label in subjects]
    for path in found:
        yield from (p for p in {path, with_json(path)} if p.is_file())
