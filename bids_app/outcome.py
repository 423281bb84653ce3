"""How a run ended: how many subjects are done, which have failed, how to run these again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sodiumprep.bids_app.record import FAILURES, command_for
from sodiumprep.bids_app.settings import Settings

MOST_LABELS = 50  # in a printed command; the table lists all


def outcome_lines(
    settings: Settings,
    subjects: Iterable[str],
    failures: Sequence[tuple[str, str]],
    record: Path | None = None,
) -> list[str]:
    """Return what is said at the end of a run.

    Parameters
    ----------
    settings
        The user's choices.
    subjects
        Labels without their key of those that were tried.
    failures
        Label and line of each failure.
    record
        Of the run, if there is one.

    Returns
    -------
    lines
        Numbers; after failures also where their list lies and the command that runs them again.
    """
    failed = sorted({label.split()[0] for label, _ in failures})
    tried = {*subjects, *failed}
    if not tried:
        return []
    told = f"{len(tried) - len(failed)} of {_subjects(len(tried))} done, {len(failed)} failed"
    lines = [told + (f" (logs: {record.parent})" if record else "")]
    if not failed:
        return lines
    if record is not None:
        lines.append(f"what failed and why: {record.with_name(FAILURES)}")
    if len(failed) > MOST_LABELS:
        return [*lines, f"to run these again: --participant-label and the {len(failed)} labels"]
    return [*lines, f"to run these again: {command_for(settings, failed)}"]


def _subjects(number: int) -> str:
    return f"{number} subject" + ("s" if number != 1 else "")
