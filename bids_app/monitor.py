"""What each step of a graph took: the peak of its memory and its time."""

from __future__ import annotations

import contextlib
import ctypes
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.files import write_text
from sodiumprep.workflows.resources import steps

MEASURED = "resources.json"  # in the folder of a node; nipype empties it when the node runs
PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # man 5 proc, clear_refs
COLUMNS = ("subject", "node", "declared_gb", "peak_gb", "before_gb", "threads", "seconds")
KB = 1.024e-6  # GB; the kernel counts 1024 bytes


class MeasuredNode(Node):
    """A node that leaves the peak of its process's memory and its time in its folder.

    It does so in whichever process runs it, so that batch systems are measured too. What it has
    freed goes back to the system: a worker of a pool would keep it while others need it.
    """

    def run(self, updatehash: bool = False) -> Any:
        """Run the node as Nipype does; what is cached is not measured anew."""
        started = time.time()
        _reset_peak()
        before = _memory("VmRSS")
        try:
            return super().run(updatehash)
        finally:
            folder = Path(self.output_dir())
            if any(path.stat().st_mtime >= started for path in folder.glob("result_*.pklz")):
                told = {"peak_gb": _memory("VmHWM"), "before_gb": before,
                        "seconds": time.time() - started}  # fmt: skip
                write_text(folder / MEASURED, json.dumps(told))
            _give_back()


def measure(workflow: Workflow) -> None:
    """Let all nodes of a graph be measured.

    Parameters
    ----------
    workflow
        The graph; it is changed.
    """
    for node in steps(workflow).values():
        node.__class__ = MeasuredNode  # what a node holds stays as it is


def what_is_too_large(workflow: Workflow, memory_gb: float) -> str:
    """Return a warning of the steps that declare more memory than there is, or nothing.

    Parameters
    ----------
    workflow
        The graph.
    memory_gb
        What all processes may take [GB].
    """
    large = {n: node.mem_gb for n, node in steps(workflow).items() if node.mem_gb > memory_gb}
    if not large:
        return ""
    most = max(large, key=large.__getitem__)
    return (
        f"sodiumprep: warning: {len(large)} step(s) need more memory than the {memory_gb:.1f} GB "
        f"that there are, {most.replace('_wf', '')} most of all ({large[most]:.1f} GB): each of "
        "them runs alone and may be killed; accepted: --mem of at least that much, if there is"
    )


def write_measured(workflow: Workflow, path: Path) -> int:
    """Write a table of what the steps took, as far as they were measured.

    Parameters
    ----------
    workflow
        That has run.
    path
        TSV to write.

    Returns
    -------
    rows
        Steps in the table.
    """
    rows = [row for node in workflow._create_flat_graph().nodes() for row in _row(workflow, node)]
    lines = ["\t".join(COLUMNS), *("\t".join(row) for row in sorted(rows))]
    write_text(path, "\n".join(lines) + "\n")
    return len(rows)


def _row(workflow: Workflow, node: Node) -> Iterator[tuple[str, ...]]:
    node.base_dir = workflow.base_dir
    path = Path(node.output_dir()) / MEASURED
    if path.is_file():
        told = json.loads(path.read_text())
        subject, _, name = node.fullname.partition(".")[2].partition(".")
        numbers = (node.mem_gb, told["peak_gb"], told["before_gb"])
        yield (
            subject.removesuffix("_wf"),
            name,
            *(f"{number:.2f}" for number in numbers),
            str(node.n_procs),
            f"{told['seconds']:.1f}",
        )


def _give_back() -> None:
    """Return freed memory to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reset_peak() -> None:
    # some containers forbid it: the peak is then that of all that the process did
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text(RESET_PEAK)


def _memory(key: str) -> float:
    """Return what the kernel says of this process [GB]."""
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * KB
    return float("nan")
