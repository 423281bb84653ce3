"""Where output may be written: in its own folder, and through no link to another place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DatasetNames, with_json
from sodiumprep.interfaces.files import remove_partials


def refuse_links(out_dir: Path, subjects: Iterable[str] = ()) -> None:
    """Refuse an output folder in which links would lead what is written to other places.

    The folder itself may be a link. Of its subjects only those are looked at that are written.

    Parameters
    ----------
    out_dir
        Root of the derivatives; it need not exist.
    subjects
        Labels without their key.

    Raises
    ------
    UserError
        For the first link.
    """
    names = DatasetNames(out_dir)
    tables = (names.participants, names.group_table, names.group_qc)
    own = [names.description, names.bidsignore, names.group_report, names.group_parquet, *tables]
    own += [with_json(table) for table in tables]
    for folder in (names.logs, names.group_dir):
        own += _all_below(folder)
    for label in subjects:
        own += _all_below(out_dir / f"sub-{label}")
        own += [out_dir / f"sub-{label}.html", *out_dir.glob(f"sub-{label}_*.html")]
    for path in own:
        if path.is_symlink():
            raise UserError(
                f"{path}: is a link, and output is never written through one; remove it, or put "
                "the file itself there ('datalad unlock')"
            )


def remove_left_overs(out_dir: Path, subjects: Iterable[str] = ()) -> list[Path]:
    """Remove what processes that were killed left of files.

    Parameters
    ----------
    out_dir
        Root of the derivatives; it need not exist.
    subjects
        Labels without their key, of those that are written: into the folders of others, which
        may be thousands, nobody looks. All if empty.

    Returns
    -------
    removed
        Files.
    """
    wanted = {f"sub-{label}" for label in subjects}

    def is_other(name: str) -> bool:
        return bool(wanted) and name.startswith("sub-") and name not in wanted

    try:
        found = list(os.scandir(out_dir))
    except FileNotFoundError:
        return []
    folders = [e.path for e in found if e.is_dir(follow_symlinks=False) and not is_other(e.name)]
    removed = remove_partials(out_dir, deep=False)
    return removed + [path for folder in folders for path in remove_partials(folder)]


def _all_below(folder: Path) -> Iterator[Path]:
    yield folder
    for root, folders, files in os.walk(folder):  # which does not follow links
        yield from (Path(root) / name for name in (*folders, *files))
