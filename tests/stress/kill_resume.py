"""Kill a run at a random moment and let it go on; ``python tests/stress/kill_resume.py`` counts.

A run of one small simulated subject is started in a session of its own, killed with all its
processes by SIGKILL after a random time, and started again with the same command: one cycle. A
few cycles follow each other in the same folders before a run may end. After each kill the files
that are there, and in the end all of them, are compared byte by byte with what an undisturbed run
left; ``logs/`` is left out, which tells of the runs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ[_name] = "1"
os.environ |= {"NIPYPE_NO_ET": "1", "NO_ET": "1", "MPLBACKEND": "Agg"}

import ants  # noqa: E402, F401 - takes seconds: the runs inherit it
import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402

from sodiumprep.bids_app import run as _loaded  # noqa: E402, F401 - the same
from sodiumprep.bids_app.cli import main as process  # noqa: E402
from sodiumprep.bids_app.phantom import main as simulate  # noqa: E402

SMALL = ["--subjects", "1", "--groups", "one", "--coils", "1", "--seed", "5", "--format", "image",
         "--voxel-size", "7"]  # fmt: skip
COARSER = 4  # voxels of the anatomy in one
SEEN = np.s_[4:30, 4:30, 6:28]  # sodium voxels that are kept: the time goes there
PATIENCE = 1200.0  # s, for a run; one that takes longer hangs


def make_dataset(raw: Path) -> Path:
    """Simulate a subject with an anatomy of 4 mm, part of a sodium image and its known pose."""
    if simulate([str(raw), *SMALL]):
        raise RuntimeError(f"{raw}: cannot be simulated")
    (pose,) = (raw / "derivatives" / "truth").rglob("*_from-sodium_to-T1w_*_xfm.txt")
    name = pose.name.replace("_desc-truth", "")
    shutil.copyfile(pose, raw / "derivatives" / "anat" / "sub-01" / "anat" / name)
    for path in (raw / "derivatives" / "anat").rglob("*_dseg.nii.gz"):
        path.unlink()
    (sodium,) = (raw / "sub-01").rglob("*_PDw.nii.gz")
    image = nib.load(sodium)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine).slicer[SEEN], sodium)
    for folder in (raw / "sub-01", raw / "derivatives" / "anat"):
        for ending in ("T1w", "probseg", "mask"):
            for path in folder.rglob(f"*_{ending}.nii.gz"):
                _coarsen(path)
    return raw


def _coarsen(path: Path) -> None:
    image = nib.load(path)
    values = image.get_fdata(dtype=np.float32)
    x, y, z = (n // COARSER for n in values.shape)
    blocks = values[: x * COARSER, : y * COARSER, : z * COARSER]
    means = blocks.reshape(x, COARSER, y, COARSER, z, COARSER).mean(axis=(1, 3, 5))
    if path.name.endswith("_mask.nii.gz"):
        means = (means > 0.5).astype(np.uint8)
    affine = image.affine @ np.diag([COARSER] * 3 + [1.0])
    centre = np.array([(COARSER - 1) / 2] * 3 + [1.0])
    affine[:3, 3] = (image.affine @ centre)[:3]
    nib.save(nib.Nifti1Image(means, affine), path)


@dataclass(frozen=True)
class Place:
    """Where a run works; the names are the same in every one.

    Parameters
    ----------
    root
        Folder of it.
    """

    root: Path

    def command(self, raw: Path) -> list[str]:
        """Return the arguments of the program."""
        return [str(raw), str(self.root / "out"), "participant", "-w", str(self.root / "work"),
                "--nprocs", "2", "--omp-nthreads", "1", "--sloppy", "--skip-bids-validation",
                "-d", f"anat={raw / 'derivatives' / 'anat'}", "--reference", "csf"]  # fmt: skip

    def digests(self) -> dict[str, str]:
        """Return a digest of each output file but the logs, by its name."""
        out = self.root / "out"
        files = (path for path in sorted(out.rglob("*")) if path.is_file())
        named = ((path.relative_to(out), path) for path in files)
        return {
            str(name): hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in named
            if name.parts[0] != "logs"
        }


def start(arguments: list[str], log: Path) -> int:
    """Start a run in a session of its own; return the number of its process."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    # those that pytest has put there write to places of its own
    sys.stdout, sys.stderr = (os.fdopen(os.dup(handle), "w", buffering=1) for _ in range(2))
    code = 70
    try:
        code = process(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


def end_of(pid: int, within: float) -> int | None:
    """Wait for a process; return its exit code, or nothing if it takes longer."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def kill(pid: int) -> None:
    """Kill a run with all its processes."""
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@dataclass
class Count:
    """What came of the cycles."""

    killed: int = 0
    corrupt: int = 0
    clean_ups: int = 0
    partials: int = 0


def broken(held: dict[str, str], truth: dict[str, str]) -> list[str]:
    """Return the files that are there and are not what they should be."""
    return [name for name, digest in held.items() if truth.get(name) != digest]


def is_growing(name: str) -> bool:
    """Return whether a file has no final name yet; the next start removes it."""
    return Path(name).name.startswith(".") and ".partial-" in name


def chain(
    place: Place, raw: Path, moments: list[float], truth: dict[str, str], count: Count
) -> str:
    """Kill a run after each of some times and start it again, the last time to its end."""
    log = place.root / "log.txt"
    place.root.mkdir(parents=True)
    lines = []
    for after in moments:
        pid = start(place.command(raw), log)
        if end_of(pid, after) is not None:
            break
        kill(pid)
        count.killed += 1
        held = {n: d for n, d in place.digests().items() if not is_growing(n)}
        bad = broken(held, truth)
        lines.append(" ".join([f"{after:.1f} s ({len(held)} files)", *bad]))
        count.corrupt += len(bad)
    pid = start(place.command(raw), log)
    code = end_of(pid, PATIENCE)
    if code is None:
        kill(pid)
    final = place.digests()
    wrong = {*broken(final, truth), *(set(truth) - set(final))}
    count.corrupt += len(wrong)
    count.clean_ups += code != 0
    count.partials += sum(is_growing(name) for name in final)
    end = f"differs: {', '.join(sorted(wrong))}" if wrong else "all the same"
    return f"killed after {', '.join(lines) or 'nothing'}: then exit {code}, {end}"


def main() -> int:
    """Print how many cycles left a corrupt output or needed a hand; 1 if any did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--in-a-row", type=int, default=3, help="cycles before a run may end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600, help="no run starts over later")
    parser.add_argument("--folder", type=Path, help="kept; a temporary one without")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return stress(options, (options.folder or Path(temporary)).resolve())


def stress(options: argparse.Namespace, folder: Path) -> int:
    """Run the cycles; return the exit code."""
    raw = folder / "bids"
    if not raw.is_dir():
        make_dataset(raw)
    place, rng, count = Place(folder / "run"), random.Random(options.seed), Count()
    shutil.rmtree(place.root, ignore_errors=True)
    place.root.mkdir()
    began = time.monotonic()
    if end_of(start(place.command(raw), place.root / "log.txt"), PATIENCE) != 0:
        print((place.root / "log.txt").read_text())
        return 1
    took, truth = time.monotonic() - began, place.digests()
    print(f"undisturbed: {took:.1f} s, {len(truth)} files", flush=True)
    while count.killed < options.cycles and time.monotonic() - began < options.seconds:
        shutil.rmtree(place.root)
        row = min(options.in_a_row, options.cycles - count.killed)
        moments = [rng.uniform(0, took) / (1 + n / 2) for n in range(row)]
        print(chain(place, raw, moments, truth, count), flush=True)
    print(f"{count}, {time.monotonic() - began:.0f} s")
    return 1 if count.corrupt or count.clean_ups or count.partials else 0


if __name__ == "__main__":
    sys.exit(main())
