"""What steps declare and what they take: ``python bench/memory.py [FOLDER] [OPTIONS]``.

One subject is simulated (T1w at 1 mm, sodium at 64 voxels along each axis, 8 coils) and processed
with ``--resource-monitor`` and the options given, as ``--recon cg --low-mem``; ``-d`` is taken
relative to the folder's ``bids``. Told are the heavy steps, and the peak of the memory of all
processes together (shared pages counted once: proportional set size, asked five times a second).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

HEAVY = 1.0  # GB
PAUSE = 0.2  # s
SUBJECT = ("--subjects", "1", "--coils", "8", "--voxel-size", "3.75", "--spokes", "10000")
KB = 1.024e-6  # GB


def program(name: str) -> str:
    """Return one of the project's commands, of the environment of this script."""
    return str(Path(sys.executable).with_name(name))


def family(root: int) -> set[int]:
    """Return a process and all that came from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    found = {root}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found


def shared_out(process: int) -> float:
    """Return the memory of a process, shared pages divided among those that share them [GB]."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * KB for line in lines if line.startswith("Pss:"))


def watched(command: list[str]) -> float:
    """Run a command; return the peak of the memory of all its processes together [GB]."""
    peak, running = 0.0, subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while running.poll() is None:
        peak = max(peak, sum(shared_out(process) for process in family(running.pid)))
        time.sleep(PAUSE)
    if running.returncode:
        raise SystemExit(f"{command[0]} ended with {running.returncode}")
    return peak


def main(argv: list[str] | None = None) -> None:
    """Simulate, process and tell."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, nargs="?", help="kept; a temporary one if not given")
    parser.add_argument("--ready", action="store_true", help="with the anatomy of the simulation")
    options, rest = parser.parse_known_args(argv)
    folder = (options.folder or Path(tempfile.mkdtemp())).resolve()
    raw, out = folder / "bids", folder / "out"
    if not raw.exists():
        subprocess.run([program("sodiumprep-phantom"), str(raw), *SUBJECT], check=True)
    shutil.rmtree(out, ignore_errors=True)
    names = ["manual", *(["anat"] if options.ready else [])]
    started = time.monotonic()
    peak = watched([
        program("sodiumprep"), str(raw), str(out), "participant", "-w", str(folder / "work"),
        "--clean-workdir", "--skip-bids-validation", "--resource-monitor", *rest,
        "-d", *(f"{name}={raw / 'derivatives' / name}" for name in names),
    ])  # fmt: skip
    (path,) = out.glob("logs/resources-*.tsv")
    table = pd.read_csv(path, sep="\t")
    table["share"] = table.peak_gb / table.declared_gb
    heavy = table[(table.declared_gb >= HEAVY) | (table.peak_gb >= HEAVY)]
    print(heavy.drop(columns="subject").to_string(index=False, float_format="%.2f"))
    print(f"heavy steps: {heavy.share.min():.2f} to {heavy.share.max():.2f} of what they declare")
    print(f"all processes: {peak:.2f} GB; {time.monotonic() - started:.0f} s")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
