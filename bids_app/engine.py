"""Running a Nipype graph: its configuration, its pool, its failures in one line each."""

from __future__ import annotations

import errno
import gc
import hashlib
import logging
import math
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.pipeline.engine import Workflow
from nipype.pipeline.engine.utils import load_resultfile

from sodiumprep.bids_app.clusters import batch_plugin, is_batch
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.monitor import measure, what_is_too_large, write_measured
from sodiumprep.bids_app.pool import POLL_SECONDS, Pool
from sodiumprep.bids_app.progress import Course, Lines, Listener, say, told_to
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.files import WriteError
from sodiumprep.workflows.resources import steps

_NODE = re.compile(r"^Node: (\S+)", re.MULTILINE)
_ERROR = re.compile(r"^\s*(?:\w+\.)*(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)
PLAIN_ERRORS = ("ValueError", "UserError", "WriteError")  # ours: the message is made for users
# what a full disk makes fail first is the cause of what fails then
NO_ROOM = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


def work_folder(settings: Settings) -> Path:
    """Return this program's part of the work folder; it carries the version of the code.

    Results of another version are never reused: a kernel that changed does not show in the
    hash of a node.

    Parameters
    ----------
    settings
        The user's choices.
    """
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for floor in ("interfaces", "sodium", "workflows"):
        for path in sorted((root / floor).rglob("*.py")):
            digest.update(path.read_bytes())
    return settings.work_dir / f"sodiumprep-{version('sodiumprep')}-{digest.hexdigest()[:8]}"


def execute(
    workflow: Workflow, settings: Settings, listener: Listener | None = None, identifier: str = ""
) -> dict[str, str]:
    """Run a graph to its end.

    Parameters
    ----------
    workflow
        Complete graph.
    settings
        The user's choices.
    listener
        Is told of every node that starts, ends or fails; lines are printed if None.
    identifier
        Of the run, by which what it leaves in ``logs/`` is called; one of its own if empty.

    Returns
    -------
    failures
        First message of each subject that failed or was not reached, by the name of its
        workflow.

    Raises
    ------
    UserError
        If the graph stopped and no node is to blame, as where its work folder cannot be written.
    """
    # runs over other subjects may start in the same second
    run = identifier or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    crashes = settings.out_dir / "logs" / f"crash-{run}"
    _configure(settings, crashes)
    if settings.clean_workdir:
        _clean(work_folder(settings))
    workflow.base_dir = str(work_folder(settings))
    for owner in {name.split(".")[0] for name in workflow.list_node_names()}:
        drop_broken(work_folder(settings) / workflow.name / owner)
    workflow.config["execution"] = dict(nipype_config._sections["execution"])
    plugin = batch_plugin(workflow, settings) if is_batch(settings) else _plugin(settings)
    measure(workflow)
    warning = what_is_too_large(workflow, settings.memory_gb or math.inf)
    if warning and plugin["plugin"] is Pool:
        say(warning)
    heard = listener or Lines(Course(list(workflow.list_node_names()), settings.nprocs))
    ended = _Ended()
    plugin["plugin_args"]["status_callback"] = told_to(ended, heard)
    if isinstance(plugin["plugin"], type):
        plugin["plugin"] = plugin["plugin"](plugin_args=plugin["plugin_args"])
    stopped = ""
    gc.freeze()  # Nipype collects at every poll, which took most of a processor
    try:
        workflow.run(**plugin)
    except Exception as error:  # Nipype re-raises whatever a node raised; the files tell all
        stopped = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
        if settings.verbose:
            print(error, file=sys.stderr)
    finally:
        gc.unfreeze()
    if settings.resource_monitor:
        _write_measured(workflow, settings.out_dir / "logs" / f"resources-{run}.tsv")
    failures = _with_unwritten(read_crashes(crashes), plugin["plugin"])
    if stopped and not failures:
        raise UserError(f"the run broke off: {stopped} (work folder: {work_folder(settings)})")
    why = "--stop-on-first-crash" if settings.stop_on_first_crash else stopped
    told = f"not finished, since the run ended before ({why})"
    left = dict.fromkeys(ended.left(workflow), told)
    return left | failures


class _Ended:
    """Hears which nodes have ended."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __call__(self, node: Any, status: str) -> None:
        if status == "end":
            self._names.add(node.fullname)

    def left(self, workflow: Workflow) -> list[str]:
        """Return the names of the workflows of subjects that have steps left."""
        names = (name for name in steps(workflow) if f"{workflow.name}.{name}" not in self._names)
        return list(dict.fromkeys(name.split(".")[0] for name in names))


def _clean(folder: Path) -> None:
    """Empty a work folder; what stays would be taken for a result."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(
            f"--clean-workdir: {error.filename} cannot be removed: {error.strerror}"
        ) from error


def _write_measured(workflow: Workflow, path: Path) -> None:
    try:
        write_measured(workflow, path)
    except WriteError as error:  # what failed before is told all the same
        say(f"sodiumprep: {error}")


def _with_unwritten(failures: dict[str, str], plugin: Any) -> dict[str, str]:
    """Add the failures that no crash file tells, since it could not be written."""
    if isinstance(plugin, Pool):
        for node, trace in plugin.unwritten.items():
            failures.setdefault(node.split(".")[1], _told(read_trace(node, trace)))
    return failures


def drop_broken(folder: Path) -> list[Path]:
    """Remove what a disk that was full or a power cut has spoiled, so that it is made again.

    Nipype takes the result of a step for granted where its file exists, and fails at the steps
    that read it.

    Parameters
    ----------
    folder
        Of the steps of a subject.

    Returns
    -------
    dropped
        Folders of steps whose result cannot be read, or names files that are gone or empty.
    """
    broken = [path.parent for path in folder.rglob("result_*.pklz") if not _is_whole(path)]
    for step in broken:
        shutil.rmtree(step, ignore_errors=True)
    return broken


def _is_whole(path: Path) -> bool:
    try:
        outputs = load_resultfile(path).outputs
    except Exception:  # a spoiled pickle may raise anything
        return False
    if outputs is None:  # of a step that failed
        return True
    held = [getattr(outputs, name) for name in outputs.copyable_trait_names()]
    return all(file.is_file() and file.stat().st_size for file in _files_below(held, path.parent))


def _files_below(value: Any, folder: Path) -> Iterator[Path]:
    """Yield the files inside a folder that the outputs of a step name."""
    if isinstance(value, str) and value.startswith(f"{folder}/"):
        yield Path(value)
    elif isinstance(value, Mapping):
        yield from _files_below(list(value.values()), folder)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _files_below(part, folder)


@dataclass(frozen=True)
class Crash:
    """A node that failed.

    Parameters
    ----------
    path
        Nipype's file; an empty path where it could not be written.
    owner
        Name of the workflow of the subject.
    node
        Where it lies in there.
    message
        In one line.
    unforeseen
        Whether the message is not one of ours.
    """

    path: Path
    owner: str
    node: str
    message: str
    unforeseen: bool = True


def read_crashes(folder: Path) -> dict[str, str]:
    """Return the first message of each failed subject.

    Parameters
    ----------
    folder
        Of Nipype's crash files.

    Returns
    -------
    failures
        Message by the name of the subject's workflow.
    """
    failures: dict[str, str] = {}
    for path in sorted(folder.glob("crash-*.txt"), key=lambda p: p.stat().st_mtime):
        crash = read_crash(path)
        failures.setdefault(crash.owner, _told(crash))
    return failures


def read_crash(path: Path) -> Crash:
    """Read a crash file of Nipype.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    text = path.read_text(errors="replace")
    node = _NODE.search(text)
    return replace(read_trace(node.group(1) if node else ".unknown", text), path=path)


def read_trace(node: str, text: str) -> Crash:
    """Read what came of a node that failed.

    Parameters
    ----------
    node
        Its full name.
    text
        Its trace.
    """
    parts = node.split(".")
    found = _ERROR.findall(text)
    named = [pair for pair in found if pair[0] == WriteError.__name__]  # with the file
    full = [pair for pair in found if any(text in pair[1] for text in NO_ROOM)]
    name, said = (*named, *full, *found[-1:], ("", "stopped without a message"))[0]
    ours = name in PLAIN_ERRORS
    message = said if ours or not name else f"{name}: {said}"
    owner = parts[1] if len(parts) > 1 else parts[0]
    return Crash(Path(), owner, ".".join(parts[2:]), message, not ours)


def _told(crash: Crash) -> str:
    """Return the message of a crash; with its node and file where it is not made for users."""
    if not crash.unforeseen:
        return crash.message
    details = f"details: {crash.path}" if crash.path.name else "no room for a crash file"
    return f"{crash.node}: {crash.message} ({details})"


def _configure(settings: Settings, crashes: Path) -> None:
    nipype_config.update_config({
        "execution": {
            "crashfile_format": "txt",
            "crashdump_dir": str(crashes),
            "stop_on_first_crash": settings.stop_on_first_crash,
            "poll_sleep_duration": POLL_SECONDS,
            "check_version": False,
        },
        "logging": {"log_to_file": False},
    })  # fmt: skip
    nipype_logging.update_logging(nipype_config)
    level = logging.INFO if settings.verbose else logging.WARNING
    for name in ("nipype", "nipype.workflow", "nipype.interface", "nipype.utils"):
        logging.getLogger(name).setLevel(level)  # warnings go to the logs of the subjects
    for handler in logging.getLogger("nipype").handlers:
        if type(handler) is logging.StreamHandler:  # Nipype's own, to the terminal
            handler.setLevel(level if settings.verbose else logging.CRITICAL)


def _plugin(settings: Settings) -> dict[str, Any]:
    given: Mapping[str, Any] = settings.nipype_plugin or {}
    if given and given["plugin"] != "MultiProc":
        return {"plugin": given["plugin"], "plugin_args": dict(given.get("plugin_args") or {})}
    arguments: dict[str, Any] = {"n_procs": settings.nprocs, "raise_insufficient": False}
    if settings.memory_gb:
        arguments["memory_gb"] = settings.memory_gb
    return {"plugin": Pool, "plugin_args": {**arguments, **(given.get("plugin_args") or {})}}
