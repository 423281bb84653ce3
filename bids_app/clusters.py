"""Batch systems: Nipype's plugins for them, and what the jobs of nodes must be told."""

from __future__ import annotations

import getpass
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype.pipeline.engine import Node, Workflow
from nipype.pipeline.plugins.pbs import PBSPlugin
from nipype.pipeline.plugins.sge import SGEPlugin
from nipype.pipeline.plugins.slurm import SLURMPlugin
from nipype.pipeline.plugins.slurmgraph import SLURMGraphPlugin
from nipype.pipeline.plugins.tools import report_crash

from sodiumprep.bids_app.progress import say
from sodiumprep.bids_app.settings import Settings
from sodiumprep.workflows.resources import steps

POLL_SECONDS = 10.0  # between two questions to the batch system
LATE = 65.0  # s; what another machine wrote shows up to a minute later on a network disk
TRIES, PAUSE = 3, 2.0  # of a submission, and s between them
ROOM = 1.25  # times what a node declares: what was measured lies within a quarter of that
STEP = 100  # MB; requests are rounded up to it
MB_PER_GB = 1000
NAMED = re.compile(r"^Node: (\S+)", re.MULTILINE)
CODE = ".code"  # ending of the file in which a job leaves how its node ended
NEVER = -1  # instead of a code: the job was not started
LOCAL = [Path(folder) for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")]


def _lost(job: object) -> str:
    return (
        f"job {job} ended without a result, as one does that takes more memory or time than it "
        "asked for"
    )


class _LostJobs:
    """What Nipype's plugins do with a job that left no result, which otherwise ends the run."""

    def _get_result(self, taskid: Any) -> dict[str, Any] | None:
        result: dict[str, Any] | None = super()._get_result(taskid)
        if result is not None and isinstance(result["traceback"], str):
            result["traceback"] = [f"OSError: {_lost(taskid)}\n"]
        return result


class Pbs(_LostJobs, PBSPlugin):
    """Nipype's plugin, in which a lost job is the failure of its node.

    Nipype's own way to ask for a job leaves two files in the user's folder.
    """

    def _is_pending(self, taskid: str) -> bool:
        command = ["qstat", "-f", taskid]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        gone = re.search("Unknown Job|has finished", told.stderr, re.IGNORECASE)
        return not (gone or re.search(r"job_state = [CF]\b", told.stdout))


class Sge(_LostJobs, SGEPlugin):
    """Nipype's plugin, in which a lost job is the failure of its node."""


class SlurmQueue:
    """Jobs of this user that have not ended, asked for at most once in a while.

    Parameters
    ----------
    seconds
        Between two questions.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._held: set[int] = set()
        self._asked = -math.inf

    def add(self, job: int) -> None:
        """Take note of a job that was just submitted."""
        self._held.add(job)

    def holds(self, job: int) -> bool:
        """Tell whether a job waits or runs; where Slurm does not answer, nothing has changed."""
        if time.monotonic() - self._asked >= self.seconds:
            command = ["squeue", "-h", "-u", str(os.getuid()), "-o", "%A"]
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            self._asked = time.monotonic()
            if told.returncode == 0:
                self._held = {int(line) for line in told.stdout.split() if line.isdecimal()}
        return job in self._held

    def cancel(self, jobs: Iterable[int]) -> None:
        """Cancel those jobs that have not ended."""
        left = [str(job) for job in jobs if job in self._held]
        if left:
            subprocess.run(["scancel", *left], capture_output=True, check=False)


class Slurm(_LostJobs, SLURMPlugin):
    """Nipype's plugin, with one question to Slurm for all jobs, and none left after a stop."""

    def __init__(self, plugin_args: Mapping[str, Any]) -> None:
        super().__init__(plugin_args=dict(plugin_args))
        self.queue = SlurmQueue(plugin_args["poll_seconds"])

    def run(self, graph: Any, config: Mapping[str, Any], updatehash: bool = False) -> None:
        """Run a graph; jobs that wait or run are cancelled where that is interrupted."""
        try:
            super().run(graph, config, updatehash)
        except BaseException:
            self.queue.cancel(self._pending)
            raise

    def _is_pending(self, taskid: int) -> bool:
        return self.queue.holds(taskid)

    def _submit_batchtask(self, scriptfile: str, node: Node) -> int:
        job = super()._submit_batchtask(scriptfile, node)
        self.queue.add(job)
        return job


class SlurmGraph(SLURMGraphPlugin):
    """Nipype's plugin that submits the whole graph at once; this one waits for its jobs.

    A job starts when those that it needs have ended well. Where one of them has not, Slurm
    removes it from the queue.
    """

    def __init__(self, plugin_args: Mapping[str, Any]) -> None:
        super().__init__(plugin_args=dict(plugin_args))
        self.queue = SlurmQueue(plugin_args["poll_seconds"])
        self._told = plugin_args.get("status_callback") or (lambda node, status: None)

    def _submit_graph(
        self, pyfiles: Sequence[str], dependencies: Mapping[int, list[int]], nodes: Sequence[Node]
    ) -> None:
        jobs: list[int] = []
        try:
            for number, node in enumerate(nodes):
                needed = [jobs[before] for before in dependencies[number]]
                jobs.append(self._submit(Path(pyfiles[number]), node, needed))
                self.queue.add(jobs[number])
            codes = self._wait(jobs, pyfiles, dependencies, nodes)
        except BaseException:
            self.queue.cancel(jobs)
            raise
        lost = [number for number in range(len(jobs)) if codes.get(number) != 0]
        for number in lost:
            if codes.get(number) != NEVER:
                _tell_crash(nodes[number], jobs[number], Path(pyfiles[number]))
        if lost:
            raise RuntimeError(f"{len(lost)} of {len(jobs)} Slurm jobs did not end well")

    def _submit(self, script: Path, node: Node, needed: Sequence[int]) -> int:
        template, arguments = self._get_args(node, ["template", "sbatch_args"])
        work, code = (shlex.join([sys.executable, str(script)]), script.with_suffix(CODE))
        job = script.with_suffix(".sh")
        job.write_text(f"{template}\n{work}\necho $? > {shlex.quote(str(code))}\n")
        waits = [f"--dependency=afterok:{':'.join(map(str, needed))}"] if needed else []
        command = ["sbatch", "--parsable", "--kill-on-invalid-dep=yes", "-J", node.fullname, "-o",
                   str(script.with_suffix(".out")), *shlex.split(arguments), *waits,
                   str(job)]  # fmt: skip
        for left in reversed(range(TRIES)):
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            if told.returncode == 0:
                return int(told.stdout.strip().splitlines()[-1].partition(";")[0])
            time.sleep(PAUSE if left else 0)
        raise RuntimeError(f"sbatch: {' '.join(told.stderr.split())}")

    def _wait(
        self,
        jobs: Sequence[int],
        pyfiles: Sequence[str],
        dependencies: Mapping[int, list[int]],
        nodes: Sequence[Node],
    ) -> dict[int, int]:
        """Wait until no job is left; return the exit codes of those that told one."""
        codes: dict[int, int] = {}
        patience, last = float(self._config["execution"]["job_finished_timeout"]), math.inf
        while len(codes) < len(jobs) and time.monotonic() < last:
            time.sleep(self.queue.seconds)
            left = [number for number in range(len(jobs)) if number not in codes]
            held = [number for number in left if self.queue.holds(jobs[number])]
            # what a job that is gone has written may show later
            last = math.inf if held else min(last, time.monotonic() + patience)
            for number in left:
                code = _read_code(Path(pyfiles[number]).with_suffix(CODE))
                if code is not None:
                    codes[number] = code
                    self._told(nodes[number], "exception" if code else "end")
                elif any(codes.get(needed) for needed in dependencies[number]):
                    codes[number] = NEVER
        return codes


def _read_code(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text else None


def _tell_crash(node: Node, job: int, script: Path) -> None:
    """Write a crash file for a job that was killed; a node that failed has written its own."""
    folder = Path(node.config["execution"]["crashdump_dir"])
    texts = [path.read_text(errors="replace") for path in folder.glob("crash-*.txt")]
    if node.fullname not in {name for text in texts for name in NAMED.findall(text)}:
        said = f"OSError: {_lost(job)}; see {script.with_suffix('.out')}\n"
        report_crash(node, traceback=[said])


# what Nipype calls them: how they are made, the option of their submission, and what stands at
# the top of a job's script unless the user's template does
PLUGINS: dict[str, tuple[Any, str, str]] = {
    "SLURM": (Slurm, "sbatch_args", "#!/bin/bash"),
    "SLURMGraph": (SlurmGraph, "sbatch_args", "#!/bin/bash"),
    "PBS": (Pbs, "qsub_args", "#!/bin/bash\n#PBS -V"),
    "SGE": (Sge, "qsub_args", "#!/bin/bash\n#$ -V\n#$ -S /bin/bash"),
}


def is_batch(settings: Settings) -> bool:
    """Tell whether a batch system runs the nodes.

    Parameters
    ----------
    settings
        The user's choices.
    """
    return settings.nipype_plugin is not None and settings.nipype_plugin["plugin"] in PLUGINS


def batch_plugin(workflow: Workflow, settings: Settings) -> dict[str, Any]:
    """Return what Nipype needs to run a graph on a batch system; nodes are told their requests.

    Parameters
    ----------
    workflow
        The graph, with its configuration; it is changed.
    settings
        The user's choices, a batch system among them.

    Returns
    -------
    plugin
        ``plugin``, to be called with ``plugin_args``, and those.
    """
    given: Mapping[str, Any] = settings.nipype_plugin or {}
    make, option, head = PLUGINS[given["plugin"]]
    arguments = {"poll_seconds": POLL_SECONDS, **given.get("plugin_args", {})}
    arguments["template"] = _template(str(arguments.get("template", head)), settings)
    if "LOGNAME" not in os.environ:  # of which nipype makes the names of jobs
        os.environ["LOGNAME"] = _user()
    for node in steps(workflow).values():
        asked = _request(given["plugin"], node, str(arguments.get(option, "")))
        node.plugin_args = {option: f" {asked}"} if asked else {}
    workflow.config["execution"] |= {
        "poll_sleep_duration": arguments["poll_seconds"],
        "job_finished_timeout": arguments.get("late_seconds", LATE),
    }
    local = next((f for f in LOCAL if settings.work_dir.is_relative_to(f)), None)
    if local is not None:
        say(f"sodiumprep: warning: the work folder {settings.work_dir} lies in {local}, which "
            "the nodes of a cluster rarely share; jobs elsewhere would not find it")  # fmt: skip
    return {"plugin": make, "plugin_args": arguments}


def _template(given: str, settings: Settings) -> str:
    """Return the top of a job's script, which sets what this process's environment holds."""
    path = Path(given)
    text = path.read_text() if "\n" not in given and path.is_file() else given
    known = (f"export {name}={shlex.quote(v)}" for name, v in settings.environment().items())
    return "\n".join([text.rstrip(), *known]) + "\n"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _request(plugin: str, node: Node, given: str) -> str:
    """Return what to ask for the job of a node, as far as the user has not asked for all."""
    words = shlex.split(given)
    megabytes = STEP * math.ceil(ROOM * node.mem_gb * MB_PER_GB / STEP)
    if plugin.startswith("SLURM"):
        memory = not any(word.startswith("--mem") for word in words)
        threads = not any(re.match("-c|--cpus-per-task", word) for word in words)
        return " ".join(
            [f"--mem={megabytes}M"] * memory + [f"--cpus-per-task={node.n_procs}"] * threads
        )
    if plugin == "PBS" and not re.search("mem=|select=|nodes=", given):
        return f"-l mem={megabytes}mb,ncpus={node.n_procs}"
    return ""  # what memory is called differs from one SGE to the next
