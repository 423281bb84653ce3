"""What the graph of many subjects costs the process that schedules it: time and memory.

``python tests/stress/scheduling.py FOLDER [--subjects 100] [--steps 20]`` runs chains of steps
that do nothing, as many as real subjects have, through the local pool. Processor time counts, so
that other work on the machine does not matter much.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow
from processes import resident

from sodiumprep.bids_app.engine import execute
from sodiumprep.bids_app.settings import Settings

PARTS = 10  # of the run, at whose ends memory is told


class Meter:
    """Listens to nodes; keeps time and memory of this process at each end.

    Parameters
    ----------
    total
        Nodes that will end.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.ends: list[tuple[float, float]] = []

    def __call__(self, node: Any, status: str) -> None:
        """Take word of a node."""
        if status != "start":
            self.ends.append((time.process_time(), resident("self")))

    def tell(self, started: float) -> None:
        """Print the figures."""
        first, last = self.ends[0][0], self.ends[-1][0]
        each = 1000 * (last - first) / (len(self.ends) - 1)
        print(f"{len(self.ends)} of {self.total} steps; processor time: {first - started:.1f} s "
              f"before the first, {each:.1f} ms for each")  # fmt: skip
        places = [len(self.ends) * part // PARTS - 1 for part in range(1, PARTS + 1)]
        held = ", ".join(f"{self.ends[place][1]:.0f}" for place in places)
        print(f"memory of the process after each tenth [MB]: {held}")


def same(x: int) -> int:
    """Return what is given."""
    return x


def chains(subjects: int, steps: int) -> Workflow:
    """Return a graph of chains of steps that do nothing."""
    whole = Workflow(name="sodiumprep_wf")
    for number in range(subjects):
        subject = Workflow(name=f"sub_{number:03d}_wf")
        nodes = [Node(Function(["x"], ["y"], same), name=f"step{n}") for n in range(steps)]
        nodes[0].inputs.x = number
        subject.add_nodes(nodes[:1])
        for before, after in pairwise(nodes):
            subject.connect(before, "y", after, "x")
        whole.add_nodes([subject])
    return whole


def main() -> int:
    """Run the chains and print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="new folder for the work folder")
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    root: Path = options.folder.resolve()
    graph = chains(options.subjects, options.steps)
    meter = Meter(options.subjects * options.steps)
    started = time.process_time()
    failures = execute(graph, Settings(root, root / "out", root / "work", nprocs=2), meter)
    meter.tell(started)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
