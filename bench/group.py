"""Measure the group level: ``python bench/group.py [PARTICIPANTS …] [--regions R] [--nprocs N]``.

Each cohort is written by ``sodiumprep-phantom --tables`` (4 methods, two groups) and analysed by
the default model with its report. Rows of wall time, CPU time of the process and all its children,
and the largest memory of all of them at one time (sampled); then how they grow. 10 000 of them
take about 4 GB of disk: ``python bench/group.py 10000``. ``--profile`` prints where one process
spends its CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sodiumprep.bids_app.group.run import run_group
from sodiumprep.bids_app.phantom import main as write_cohort
from sodiumprep.bids_app.settings import Settings

STEP = 0.1  # s, between two looks at the memory


@dataclass(frozen=True)
class Measured:
    """What one run took."""

    participants: int
    wall: float
    cpu: float
    memory_gb: float

    def told(self) -> str:
        """Return it in words."""
        return (
            f"{self.participants} participants: {self.wall:.0f} s, {self.cpu:.0f} s of CPU, "
            f"{self.memory_gb:.2f} GB"
        )


class Watch(threading.Thread):
    """Watches a process and its children; memory that they share counts once."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most, self.done = pid, 0, threading.Event()
        self.cpu: dict[int, float] = {}

    def run(self) -> None:
        """Look until it is over."""
        while not self.done.wait(STEP):
            processes = list(family(self.pid))
            self.most = max(self.most, sum(map(own_memory, processes)))
            self.cpu |= {process: own_cpu(process) or self.cpu.get(process, 0.0)
                         for process in processes}  # fmt: skip


def family(pid: int) -> Iterator[int]:
    """Yield a process and all its children."""
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has just ended
            for child in path.read_text().split():
                yield from family(int(child))


def own_memory(pid: int) -> int:
    """Return the memory of a process, of shared pages its share [bytes]."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def own_cpu(pid: int) -> float:
    """Return the CPU time that a process has taken [s]."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def measure(folder: Path, participants: int, nprocs: int) -> Measured:
    """Analyse a cohort in a process of its own."""
    code = "import sys; from sodiumprep.bids_app.cli import main; sys.exit(main(sys.argv[1:]))"
    start = time.perf_counter()
    command = [
        sys.executable,
        "-c",
        code,
        folder.parent / "raw",
        folder,
        "group",
        "--nprocs",
        str(nprocs),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        watch = Watch(process.pid)
        watch.start()
        if process.wait():
            raise SystemExit(f"the group level ended with {process.returncode}")
        watch.done.set()
    wall = time.perf_counter() - start
    return Measured(participants, wall, sum(watch.cpu.values()), watch.most / 1e9)


def profile(folder: Path) -> None:
    """Print where one process spends its CPU time."""
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(run_group, Settings(folder, folder, folder, level="group"))
    pstats.Stats(profiler).sort_stats("cumulative").print_stats("sodiumprep|pandas|polars", 70)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("participants", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--regions", type=int, default=200)
    parser.add_argument("--nprocs", type=int, default=2)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    rows: list[Measured] = []
    for n in options.participants:
        with tempfile.TemporaryDirectory(prefix="sodiumprep-") as name:
            folder, start = Path(name) / "results", time.perf_counter()
            write_cohort([str(folder), "--tables", str(n), "--regions", str(options.regions),
                          "--sessions", str(options.sessions), "--seed", "1"])  # fmt: skip
            print(f"{n} participants written in {time.perf_counter() - start:.0f} s", flush=True)
            if options.profile:
                profile(folder)
                continue
            rows.append(measure(folder, n, options.nprocs))
            print(rows[-1].told(), flush=True)
    for less, more in pairwise(rows):
        grown = more.participants / less.participants
        print(
            f"{less.participants} to {more.participants} (x {grown:g}): time x "
            f"{more.wall / less.wall:.1f}, CPU x {more.cpu / less.cpu:.1f}, memory x "
            f"{more.memory_gb / less.memory_gb:.1f}"
        )


if __name__ == "__main__":
    main()
