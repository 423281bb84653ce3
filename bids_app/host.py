"""What this process may use of the machine, and who says so: batch system, cgroup or nobody."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

GB = 1e9
MIB = 2**20
PAGES = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
OF_MACHINE = 0.9  # share of a machine's memory; of what was given to a job all is taken
NO_LIMIT = 2**60  # bytes; cgroups of version 1 say a number beyond it where there is none
# of Slurm, PBS and SGE: what tells the processors of a job on this node; the first one counts
PROCESSORS = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "NCPUS", "PBS_NUM_PPN", "NSLOTS")


@dataclass(frozen=True)
class Limit:
    """How much there is, and who says so.

    Parameters
    ----------
    value
        Processors, or memory [GB].
    source
        In words.
    """

    value: float
    source: str


def processors(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> Limit:
    """Return how many processors this process may use.

    Parameters
    ----------
    environ
        Variables of a batch system; those of the process if None.
    root
        Of the file system.

    Examples
    --------
    >>> processors({"SLURM_CPUS_PER_TASK": "1"}).source
    'SLURM_CPUS_PER_TASK'
    """
    known = os.environ if environ is None else environ
    limits = [Limit(len(os.sched_getaffinity(0)), "all that this process may use")]
    limits += [Limit(max(1, math.floor(quota)), "cgroup") for quota in _quotas(root)]
    given = next((name for name in PROCESSORS if _number(known, name)), None)
    limits += [Limit(_number(known, given), given)] if given else []
    return min(limits, key=lambda limit: limit.value)


def memory(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> Limit:
    """Return how much memory this process may use [GB].

    Parameters
    ----------
    environ
        Variables of a batch system; those of the process if None.
    root
        Of the file system.

    Examples
    --------
    >>> memory({"SLURM_MEM_PER_NODE": "1000"}).source
    'SLURM_MEM_PER_NODE'
    """
    known = os.environ if environ is None else environ
    page, pages = (os.sysconf(name) for name in PAGES)
    limits = [Limit(OF_MACHINE * page * pages / GB, f"{OF_MACHINE:.0%} of the machine's")]
    limits += [Limit(number / GB, "cgroup") for number in _bounds(root)]
    if (given := _number(known, "SLURM_MEM_PER_NODE")) > 0:
        limits.append(Limit(given * MIB / GB, "SLURM_MEM_PER_NODE"))
    elif (given := _number(known, "SLURM_MEM_PER_CPU")) > 0:
        cpus = _number(known, "SLURM_CPUS_ON_NODE") or 1
        limits.append(Limit(given * cpus * MIB / GB, "SLURM_MEM_PER_CPU"))
    return min(limits, key=lambda limit: limit.value)


def resources() -> dict[str, int | float | str]:
    """Return what the machine has and what of it this process may use; never its name.

    Returns
    -------
    resources
        ``processors``, ``memory_gb`` of the machine; ``usable_processors``, ``usable_memory_gb``
        and who bounds them.
    """
    page, pages = (os.sysconf(name) for name in PAGES)
    usable, room = processors(), memory()
    return {
        "processors": os.cpu_count() or 1,
        "usable_processors": int(usable.value),
        "processors_bounded_by": usable.source,
        "memory_gb": round(page * pages / GB, 2),
        "usable_memory_gb": round(room.value, 2),
        "memory_bounded_by": room.source,
    }


def describe(
    nprocs: int, memory_gb: float | None, given: Collection[str], plugin: Collection[str] = ()
) -> str:
    """Return a line that says what is used, and why it is that much.

    Parameters
    ----------
    nprocs
        Processes at a time.
    memory_gb
        Memory of all of them [GB]; None for what there is.
    given
        Names of the options that were given.
    plugin
        Names of the arguments of a plugin file, which go before.

    Examples
    --------
    >>> describe(2, 8.0, ["nprocs", "mem"])
    'resources: 2 processes at a time (--nprocs), 8.0 GB of memory (--mem)'
    """
    by_plugin, available = "--nipype-plugin-file", memory()
    memory_gb = available.value if memory_gb is None else memory_gb
    processes = by_plugin if "n_procs" in plugin else _why("nprocs", nprocs, given, processors())
    room = by_plugin if "memory_gb" in plugin else _why("mem", memory_gb, given, available)
    return (
        f"resources: {nprocs} process{'es' if nprocs > 1 else ''} at a time ({processes}), "
        f"{memory_gb:.1f} GB of memory ({room})"
    )


def _why(option: str, value: float, given: Collection[str], found: Limit) -> str:
    """Return who says a value; a record that is read again tells what another machine had."""
    if option in given:
        return f"--{option}"
    return found.source if math.isclose(value, found.value) else "--config-file"


def _number(environ: Mapping[str, str], name: str) -> int:
    """Return a whole number of the environment, 0 where it tells none."""
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders that bound this process: those of its cgroup, from the inside out.

    Inside of a container its path is often that of the machine, while the container's own group
    lies at the top.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    top = root / "sys/fs/cgroup"
    for line in lines:
        number, names, path = line.split(":", 2)
        if number == "0" and not names:
            base = top
        elif controller in names.split(","):
            base = top / (names if (top / names).is_dir() else controller)
        else:
            continue
        inner = base / path.strip("/")
        yield from (f for f in (inner, *inner.parents) if f.is_relative_to(base) and f.is_dir())


def _read(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _bounds(root: Path) -> Iterator[int]:
    """Yield the bounds of the memory [bytes], of cgroups of both versions."""
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            for text in _read(group / name)[:1]:
                if text.isdecimal() and 0 < int(text) < NO_LIMIT:
                    yield int(text)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the shares of processors that cgroups of both versions allow."""
    for group in _groups(root, "cpu"):
        old = [*_read(group / "cpu.cfs_quota_us"), *_read(group / "cpu.cfs_period_us")]
        for given in (_read(group / "cpu.max"), old):
            if len(given) == 2 and given[0].isdecimal() and int(given[1]) > 0:
                yield int(given[0]) / int(given[1])
