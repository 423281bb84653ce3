"""The official validator, over what is asked for and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sodiumprep.bids_app.metadata import UserError

VALIDATOR = "bids-validator-deno"
UNSEEN = ("derivatives", "sourcedata", "code", ".git", ".datalad")  # what it passes over as well


def validate_dataset(bids_dir: Path, participants: Sequence[str] = ()) -> None:
    """Run the BIDS validator, or say that it is not installed.

    What it finds in the folder of a subject is said and left to the checks of that subject, so
    that one broken file does not keep the others from being processed. Where subjects are asked
    for, it sees these and what belongs to the whole dataset: it reads every header, which in
    thousands of others takes minutes and fails on files that are not there yet.

    Parameters
    ----------
    bids_dir
        Raw dataset.
    participants
        Labels of the subjects that are looked at; all if empty.

    Raises
    ------
    UserError
        If the dataset has errors outside of its subjects' folders.
    """
    beside = Path(sys.executable).with_name(VALIDATOR)
    program = str(beside) if beside.exists() else shutil.which(VALIDATOR)
    if program is None:
        print(f"sodiumprep: {VALIDATOR} is not installed: dataset not validated", file=sys.stderr)
        return
    try:
        errors = _errors(program, bids_dir, participants)
    except (OSError, ValueError) as error:  # no room for links, no answer
        said = f"{VALIDATOR} did not answer ({error}): dataset not validated"
        print(f"sodiumprep: {said}", file=sys.stderr)
        return
    for found in errors:
        if found.startswith("/sub-"):
            print(f"sodiumprep: BIDS error in {found}")
    fatal = [found for found in errors if not found.startswith("/sub-")]
    if fatal:
        raise UserError(
            f"{bids_dir}: {len(fatal)} BIDS error(s), first: {fatal[0]} "
            "(--skip-bids-validation goes on all the same)"
        )


def _errors(program: str, bids_dir: Path, participants: Sequence[str]) -> list[str]:
    """Return what the validator calls errors."""
    if not participants:
        return _answer(program, bids_dir)
    with tempfile.TemporaryDirectory(prefix="sodiumprep-") as view:
        show_only(bids_dir, participants, Path(view))
        return _answer(program, Path(view))


def show_only(bids_dir: Path, participants: Sequence[str], view: Path) -> None:
    """Fill a folder with links to a dataset, as if it had some of its subjects only.

    Parameters
    ----------
    bids_dir
        Raw dataset.
    participants
        Labels of these subjects.
    view
        Empty folder.
    """
    wanted = {f"sub-{label}" for label in participants}
    for path in bids_dir.iterdir():
        other = path.name.startswith("sub-") and path.name not in wanted
        if not other and path.name not in UNSEEN:
            (view / path.name).symlink_to(path)


def _answer(program: str, folder: Path) -> list[str]:
    command = [program, str(folder), "--ignoreWarnings", "--format", "json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    try:
        issues = json.loads(answer)["issues"]["issues"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no list of issues: {error!r}") from error
    errors = [issue for issue in issues if issue.get("severity") == "error"]
    return [
        " ".join(filter(None, (issue.get("location"), issue["code"], issue.get("subCode"))))
        for issue in errors
    ]
