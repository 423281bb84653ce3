"""The same seed and one thread give the same maps, bit by bit."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def call(command: str, *arguments: object) -> None:
    """Run one of the project's commands; it must succeed."""
    program = Path(sys.executable).with_name(command)
    subprocess.run([program, *map(str, arguments)], check=True)


def digests(out: Path) -> dict[str, str]:
    """Return the checksum of every map and transform."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("*_TSCmap.nii.gz", "*_xfm.txt", "*_TSC.tsv")
        for path in sorted((out / "sub-01").rglob(pattern))
    }


def test_two_runs_are_bit_identical(tmp_path: Path) -> None:
    raw = tmp_path / "bids"
    call("sodiumprep-phantom", raw, "--subjects", 1, "--seed", 11, "--spokes", 2000)
    found = []
    for name in ("first", "second"):
        out = tmp_path / name
        call(
            "sodiumprep", raw, out, "participant", "--sloppy", "--nprocs", 1,
            "--omp-nthreads", 1, "--random-seed", 7, "-w", tmp_path / f"work-{name}",
            "-d", f"manual={raw / 'derivatives' / 'manual'}",
        )  # fmt: skip
        found.append(digests(out))
    assert len(found[0]) >= 8
    assert found[0] == found[1]
