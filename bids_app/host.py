"""What the machine of a run has, and what of it the run may use; never its name or its user's."""

from __future__ import annotations

import os
from pathlib import Path

from sodiumprep.bids_app.settings import available_processors

CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # versions 2 and 1
CGROUPS = Path("/sys/fs/cgroup")
SLURM = {
    "slurm_processors": "SLURM_CPUS_PER_TASK",
    "slurm_memory_mb": "SLURM_MEM_PER_NODE",
    "slurm_memory_per_processor_mb": "SLURM_MEM_PER_CPU",
}


def resources(root: Path = CGROUPS) -> dict[str, int | float]:
    """Return the resources of the machine and the part of them that is allocated.

    Parameters
    ----------
    root
        Where control groups are mounted.

    Returns
    -------
    resources
        ``processors``, ``usable_processors``, ``memory_gb``; where there is a limit
        ``memory_limit_gb``; in a job of Slurm what it was given.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    held: dict[str, int | float] = {
        "processors": os.cpu_count() or 1,
        "usable_processors": available_processors(),
        "memory_gb": round(memory, 2),
    }
    limit = _limit(root)
    if limit is not None and limit < memory:
        held["memory_limit_gb"] = round(limit, 2)
    given = {name: os.environ.get(variable, "") for name, variable in SLURM.items()}
    return held | {name: int(text) for name, text in given.items() if text.isdecimal()}


def _limit(root: Path) -> float | None:
    """Return the limit of the control group [GB]; None where there is none."""
    for name in CGROUP_LIMITS:
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            return int(text) / 1e9
    return None
