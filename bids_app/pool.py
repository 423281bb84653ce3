"""The local pool of workers: one that is killed costs its own step, and none outlives the run."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer, run_node

from sodiumprep.bids_app.progress import branch_of

POLL_SECONDS = 0.5  # Nipype's own 2 s would add half a minute to a subject
SOON = 0.01  # s, between looks at a graph of which no node runs
PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
KILLED = (
    "its process was killed, most often because the memory was used up; accepted: fewer "
    "--nprocs, or --mem with what there is"
)


def _start(folder: str, parent: int) -> None:
    """Let a process end with its parent, however that ends, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has gone already
            os._exit(1)
    process_initializer(folder)


@dataclass
class Worker:
    """A process for one step at a time: it breaks alone.

    Parameters
    ----------
    executor
        Of one process.
    pid
        Its number.
    """

    executor: ProcessPoolExecutor
    pid: int

    @classmethod
    def start(cls) -> Worker:
        """Start one, in the current folder."""
        executor = ProcessPoolExecutor(
            1, initializer=_start, initargs=(str(Path.cwd()), os.getpid())
        )
        return cls(executor, executor.submit(os.getpid).result())

    def kill(self) -> None:
        """End it at once, whatever it does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.executor.shutdown(cancel_futures=True)


def in_processes(
    calls: Mapping[str, Callable[[], str]], processes: int
) -> dict[str, str | BaseException]:
    """Make calls in processes, some at a time.

    Parameters
    ----------
    calls
        What is to be called, by a name.
    processes
        How many at a time.

    Returns
    -------
    results
        By the same names in the same order: what came back or was raised.
    """
    waiting = list(calls.items())
    idle: list[Worker] = []
    running: dict[Future[str], tuple[str, Worker]] = {}
    results: dict[str, str | BaseException] = {}
    try:
        while waiting or running:
            while waiting and len(running) < max(1, processes):
                name, call = waiting.pop(0)
                worker, task = _give(idle, call)
                running[task] = name, worker
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                name, worker = running.pop(task)
                results[name] = task.exception() or task.result()
                if isinstance(results[name], BrokenProcessPool):
                    worker.executor.shutdown()
                else:
                    idle.append(worker)
    finally:
        _end(idle, [worker for _, worker in running.values()])
    return {name: results[name] for name in calls}


def _give(idle: list[Worker], call: Callable[..., Any], *given: Any) -> tuple[Worker, Future[Any]]:
    """Let an idle worker make a call, or a new one where none is left that lives."""
    while idle:
        worker = idle.pop()
        try:
            return worker, worker.executor.submit(call, *given)
        except BrokenProcessPool:  # it was killed while it waited
            worker.executor.shutdown()
    worker = Worker.start()
    return worker, worker.executor.submit(call, *given)


def _end(idle: Iterable[Worker], busy: Iterable[Worker]) -> None:
    for worker in busy:
        worker.kill()
    for worker in idle:
        worker.executor.shutdown()


class Pool(MultiProcPlugin):
    """Nipype's local pool, with a process of its own for each step that runs.

    In one pool of processes a single one that is killed ends the work of all others, and Nipype
    then waits forever. Here a worker that was killed, or a result that cannot be sent back, is
    the failure of its own step; another worker takes its place. What follows a step starts when
    that ends, not at the next look at the graph. One subject is finished after the other, as far
    as memory and workers allow, not each step for all subjects: what is done is there early.

    Parameters
    ----------
    plugin_args
        Nipype's ``n_procs``, ``memory_gb``, ``status_callback``, …
    """

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)
        self.pool.shutdown()  # Nipype's own, which has not started a process
        self.unwritten: dict[str, str] = {}  # traces by node, of which no crash file tells
        self._ended = threading.Event()
        self._idle: list[Worker] = []
        self._busy: dict[int, Worker] = {}

    def run(self, graph: Any, config: Mapping[str, Any], updatehash: bool = False) -> None:
        """Run a graph as Nipype does, without its sleep at the end of each look.

        Parameters
        ----------
        graph, config, updatehash
            As Nipype gives them.
        """
        execution = {**config["execution"], "poll_sleep_duration": 0}
        gc.freeze()  # of the graph too: of 100 subjects, a look at it took 40 ms to collect
        try:
            self._idle = [Worker.start() for _ in range(self.processors)]
            super().run(graph, {**config, "execution": execution}, updatehash)
        finally:
            _end(self._idle, self._busy.values())

    def _generate_dependency_list(self, graph: Any) -> None:
        super()._generate_dependency_list(graph)
        order = sorted(range(len(self.procs)), key=lambda n: branch_of(self.procs[n].fullname))
        self.procs = [self.procs[n] for n in order]
        self.depidx = self.depidx[order][:, order]
        self.refidx = self.refidx[order][:, order]
        # of which one column is read when a node ends; by rows that takes 10 ms of 100 subjects
        self.refidx = self.refidx.tocsc()

    def _postrun_check(self) -> None:
        """Leave the workers to the end of the run, where they are ended in any case."""

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        self._ended.wait(POLL_SECONDS if self.pending_tasks else SOON)
        self._ended.clear()

    def _submit_job(self, node: Any, updatehash: bool = False) -> int | None:
        self._taskid += 1
        try:
            worker, task = _give(self._idle, run_node, node, updatehash, self._taskid)
        except (OSError, BrokenProcessPool):  # no room for another process
            if not self._busy:
                raise
            return None  # for Nipype to ask again when a step has ended
        self._busy[self._taskid], self._task_obj[self._taskid] = worker, task
        task.add_done_callback(partial(self._take, self._taskid))
        return self._taskid

    def _take(self, number: int, task: Future[Any]) -> None:
        """Keep what came of a step; this runs in a thread of the worker's executor."""
        try:
            result = task.result()
        except BrokenProcessPool:
            result = {"result": None, "traceback": [f"WorkerError: {KILLED}\n"], "taskid": number}
        except Exception:  # whatever the worker's end raised, the step has failed
            trace = traceback.format_exc().splitlines(keepends=True)
            result = {"result": None, "traceback": trace, "taskid": number}
        self._taskresult[number] = result
        self._ended.set()

    def _clear_task(self, taskid: int) -> None:
        task, worker = self._task_obj.pop(taskid), self._busy.pop(taskid)
        if isinstance(task.exception(), BrokenProcessPool):
            worker.executor.shutdown()
        else:
            self._idle.append(worker)
        del self._taskresult[taskid]

    def _report_crash(self, node: Any, result: Mapping[str, Any] | None = None) -> str:
        """Write a crash file; where that cannot be, keep what it would say."""
        with suppress(Exception):  # inputs that cannot be read may be what has failed
            node._get_inputs()  # else the file tells only those that no other step gives
        try:
            return str(super()._report_crash(node, result=result))
        except OSError:
            trace = (result or {}).get("traceback") or [traceback.format_exc()]
            self.unwritten[str(node.fullname)] = "".join(trace)
            return ""
