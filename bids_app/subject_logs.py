"""What happened to each subject in a run: plain text, a line at a time, from any process."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.progress import is_port, step_of, subject_of
from sodiumprep.bids_app.record import read_record, without_home

WHOLE = "sodiumprep_wf"  # of the graph; the folder of a node lies below one of this name
PYTHON = "py.warnings"
SOURCES = ("nipype", PYTHON)
WORDS = {"start": "start ", "end": "end   ", "exception": "FAILED"}


class SubjectLogs:
    """Listens to nodes and writes what it hears to the log of their subject.

    Parameters
    ----------
    record
        Path of the record of the run; the logs lie beside it.
    """

    def __init__(self, record: Path) -> None:
        self.record = record
        self._started: dict[str, float] = {}

    def __call__(self, node: Any, status: str) -> None:
        """Take Nipype's word that a node has started, ended or failed."""
        name = node.fullname
        if is_port(name):
            return
        if status == "start":
            self._started[name] = time.monotonic()
        line = f"{WORDS.get(status, status)} {step_of(name)}"
        if status != "start":
            begun = self._started.pop(name, None)
            line += " (reused)" if begun is None else f" ({time.monotonic() - begun:.1f} s)"
        self.write(subject_of(name), [line])

    def write(self, subject: str, lines: Iterable[str]) -> None:
        """Write lines to the log of a subject.

        Parameters
        ----------
        subject
            Label with its key.
        lines
            Without their time.
        """
        path = self.record.with_name(f"{subject}.log")
        if not path.exists():
            lines = [*_head(self.record, subject), *lines]
        append(path, lines)

    def write_failures(self, failures: Sequence[tuple[str, str]]) -> None:
        """Write what failed to the logs of the subjects.

        Parameters
        ----------
        failures
            Label without its key, and line.
        """
        for label, text in failures:
            subject, _, session = label.partition(" ")
            where = f"{session}: " if session else ""
            self.write(f"sub-{subject}", [f"failed: {where}{text}"])


class Warnings(logging.Handler):
    """Writes what a node warns of to the log of its subject, from the process that runs it.

    Nipype runs a node in its folder, which tells the subject and the step.

    Parameters
    ----------
    logs
        Of the subjects.
    """

    def __init__(self, logs: SubjectLogs) -> None:
        super().__init__(logging.WARNING)
        self.logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        """Write a warning, if a node gave it."""
        try:
            parts = Path.cwd().parts
        except OSError:  # the folder is gone
            return
        if WHOLE not in parts[:-1]:
            return
        name = ".".join(parts[parts.index(WHOLE) :])
        text = " ".join(record.getMessage().split())
        self.logs.write(subject_of(name), [f"warning {step_of(name)}: {text}"])


@contextmanager
def warnings_logged(logs: SubjectLogs, shown: bool = False) -> Iterator[None]:
    """Write the warnings of nodes to the logs of their subjects, for as long as a graph runs.

    Parameters
    ----------
    logs
        Of the subjects.
    shown
        Whether those of Python also go to the terminal.
    """
    handler = Warnings(logs)
    loggers = [logging.getLogger(name) for name in SOURCES]
    logging.captureWarnings(True)
    logging.getLogger(PYTHON).propagate = shown
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger(PYTHON).propagate = True
        for logger in loggers:
            logger.removeHandler(handler)


def append(path: Path, lines: Iterable[str]) -> None:
    """Append lines to a file, each with the time, at once: lines of two processes never mix.

    Parameters
    ----------
    path
        The file.
    lines
        Without their time and end.
    """
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    text = "".join(f"{now} {without_home(line)}\n" for line in lines)
    with suppress(OSError):  # a disk that is full must not end the run that fills it
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o664)
        try:
            os.write(opened, text.encode(errors="replace"))
        finally:
            os.close(opened)


def _head(path: Path, subject: str) -> list[str]:
    record = read_record(path)
    told = record.told if record else {}
    named = f"run {told.get('id')}, sodiumprep {told.get('version')}, {subject}"
    return [named, str(told.get("command", ""))]
