"""Running a Nipype graph: its configuration, its pool, its failures in one line each."""

from __future__ import annotations

import gc
import hashlib
import logging
import re
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.pipeline.engine import Workflow
from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from sodiumprep.bids_app.progress import Course, Lines, Listener
from sodiumprep.bids_app.settings import Settings

_NODE = re.compile(r"^Node: (\S+)", re.MULTILINE)
_ERROR = re.compile(
    r"^\s*(?:\w+\.)*(\w*(?:Error|Exception|BrokenProcessPool)): (.+)$", re.MULTILINE
)
PLAIN_ERRORS = ("ValueError", "UserError")  # ours: the message is made for users
POLL_SECONDS = 0.5  # Nipype's own 2 s would add half a minute to a subject
SOON = 0.01  # s, between looks at a graph of which no node runs


class Pool(MultiProcPlugin):
    """Nipype's local pool, which otherwise waits forever for a task whose result is lost.

    A worker that was killed, or a result that cannot be sent back, becomes the failure of its
    node. What follows a node starts when that ends, not at the next look at the graph.
    """

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)
        self._ended = threading.Event()

    def run(self, graph: Any, config: Mapping[str, Any], updatehash: bool = False) -> None:
        """Run a graph as Nipype does, without its sleep at the end of each look."""
        execution = {**config["execution"], "poll_sleep_duration": 0}
        gc.freeze()  # of the graph too: of 100 subjects, a look at it took 40 ms to collect
        super().run(graph, {**config, "execution": execution}, updatehash)

    def _generate_dependency_list(self, graph: Any) -> None:
        super()._generate_dependency_list(graph)
        # of which one column is read when a node ends; by rows that takes 10 ms of 100 subjects
        self.refidx = self.refidx.tocsc()

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        self._ended.wait(POLL_SECONDS if self.pending_tasks else SOON)
        self._ended.clear()

    def _clear_task(self, taskid: int) -> None:
        super()._clear_task(taskid)
        self._taskresult.pop(taskid, None)  # kept, they grow with the number of subjects

    def _async_callback(self, args: Any) -> None:
        try:
            super()._async_callback(args)
        except Exception:  # whatever the worker's end raised, the node has failed
            lost = next(number for number, task in self._task_obj.items() if task is args)
            trace = traceback.format_exc().splitlines(keepends=True)
            self._taskresult[lost] = {"result": None, "traceback": trace, "taskid": lost}
        self._ended.set()


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
    workflow: Workflow, settings: Settings, listener: Listener | None = None
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

    Returns
    -------
    failures
        First message of each failed subject, by the name of its workflow.
    """
    crashes = settings.out_dir / "logs" / time.strftime("crash-%Y%m%d-%H%M%S")
    _configure(settings, crashes)
    if settings.clean_workdir:
        shutil.rmtree(work_folder(settings), ignore_errors=True)
    workflow.base_dir = str(work_folder(settings))
    workflow.config["execution"] = dict(nipype_config._sections["execution"])
    plugin = _plugin(settings)
    heard = listener or Lines(Course(list(workflow.list_node_names()), settings.nprocs))
    plugin["plugin_args"]["status_callback"] = heard
    if plugin["plugin"] is Pool:
        plugin["plugin"] = Pool(plugin["plugin_args"])
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
    failures = read_crashes(crashes)
    if stopped and not failures:
        raise RuntimeError(stopped)
    return failures


@dataclass(frozen=True)
class Crash:
    """A node that failed.

    Parameters
    ----------
    path
        Nipype's file.
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
    parts = node.group(1).split(".") if node else ["", "unknown"]
    found = _ERROR.findall(text)
    name, said = found[-1] if found else ("", "stopped without a message")
    ours = name in PLAIN_ERRORS
    message = said if ours or not name else f"{name}: {said}"
    owner = parts[1] if len(parts) > 1 else parts[0]
    return Crash(path, owner, ".".join(parts[2:]), message, not ours)


def _told(crash: Crash) -> str:
    """Return the message of a crash; with its node and file where it is not made for users."""
    if not crash.unforeseen:
        return crash.message
    return f"{crash.node}: {crash.message} (details: {crash.path})"


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
    if settings.nipype_plugin is not None:
        given: Mapping[str, Any] = settings.nipype_plugin
        return {"plugin": given["plugin"], "plugin_args": dict(given.get("plugin_args") or {})}
    arguments: dict[str, Any] = {"n_procs": settings.nprocs, "raise_insufficient": False}
    if settings.memory_gb:
        arguments["memory_gb"] = settings.memory_gb
    return {"plugin": Pool, "plugin_args": arguments}
