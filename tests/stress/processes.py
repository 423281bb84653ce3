"""A command under watch: how long it takes and how much memory it and what it starts hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MEGABYTE = 1024.0  # in kB, which /proc counts
APP = (
    sys.executable,
    "-c",
    "import sys; from sodiumprep.bids_app.cli import main; sys.exit(main())",
)


@dataclass
class Watched:
    """What was seen of a command.

    Parameters
    ----------
    code
        That it ended with; None where it was ended for taking too long.
    seconds
        From start to end.
    said
        What it printed.
    samples
        Time [s], resident memory of the first process and of all together [MB].
    own_cpu, all_cpu
        Processor time of the first process alone, and of all that it waited for too [s].
    """

    code: int | None
    seconds: float
    said: str
    samples: list[tuple[float, float, float]] = field(default_factory=list)
    own_cpu: float = 0.0
    all_cpu: float = 0.0

    @property
    def peak(self) -> float:
        """Largest memory of all processes together [MB]; shared pages count for each."""
        return max((total for _, _, total in self.samples), default=0.0)

    @property
    def parent_peak(self) -> float:
        """Largest memory of the first process [MB]."""
        return max((parent for _, parent, _ in self.samples), default=0.0)


def watch(command: Sequence[str], log: Path, limit: float, every: float = 0.1) -> Watched:
    """Run a command and look at its memory until it ends.

    Parameters
    ----------
    command
        Program and arguments.
    log
        Where what it prints goes.
    limit
        After which it is ended [s].
    every
        Time between two looks [s].
    """
    started, samples, own = time.monotonic(), [], 0.0
    with log.open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        while True:
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            now = time.monotonic() - started
            if ended:
                break
            if now > limit:
                end(process.pid)
            held = [resident(pid) for pid in family(process.pid)]
            samples.append((now, held[0], sum(held)))
            own = max(own, processor_time(process.pid))
            time.sleep(every)
    process.returncode = os.waitstatus_to_exitcode(status)
    code = None if now > limit else process.returncode
    return Watched(code, now, log.read_text(), samples, own, used.ru_utime + used.ru_stime)


def end(pid: int) -> None:
    """End a process and all that it has started, these first."""
    for member in reversed(list(family(pid))):
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def processor_time(pid: int) -> float:
    """Return the processor time of a process without its children [s]; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """Yield a process and all that it has started."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            born = children.read_text().split()
        except OSError:
            continue  # it has ended
        for child in born:
            yield from family(int(child))


def resident(pid: int | str) -> float:
    """Return the memory that a process holds [MB]; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    held = next((line for line in lines if line.startswith("VmRSS:")), "VmRSS: 0 kB")
    return int(held.split()[1]) / MEGABYTE
