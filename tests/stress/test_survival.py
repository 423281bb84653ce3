"""Whole runs of a small subject that are killed, cut off, crowded or short of room."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kill_resume import PATIENCE, Count, Place, chain, end_of, kill, make_dataset, start

pytestmark = pytest.mark.slow
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")


class Truth(NamedTuple):
    raw: Path
    place: Place
    seconds: float
    digests: dict[str, str]


def run(place: Place, raw: Path, *options: str) -> tuple[int | None, str]:
    """Run to the end; return the exit code and what was said."""
    log = place.root / "log.txt"
    log.unlink(missing_ok=True)
    code = end_of(start([*place.command(raw), *options], log), PATIENCE)
    return code, log.read_text()


def results(place: Place) -> dict[str, int]:
    """Return when each step of the work folder was done, by its name."""
    found = place.root.rglob("work/*/sodiumprep_wf/**/result_*.pklz")
    return {".".join(path.parts[-4:-1]): path.stat().st_mtime_ns for path in found}


def run_again(place: Place, raw: Path, *options: str) -> set[str]:
    """Run once more; return the names of the steps that ran."""
    before = results(place)
    code, said = run(place, raw, *options)
    assert code == 0, said
    return {name for name, when in results(place).items() if before.get(name) != when}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    folder = tmp_path_factory.mktemp("survival")
    raw, place = make_dataset(folder / "bids"), Place(folder / "run")
    place.root.mkdir()
    began = time.monotonic()
    code, said = run(place, raw)
    assert code == 0, said
    return Truth(raw, place, time.monotonic() - began, place.digests())


@pytest.fixture
def fresh(truth: Truth) -> Iterator[Place]:
    """Return the place of the undisturbed run, empty; what lay there comes back."""
    kept = truth.place.root.with_name("kept")
    truth.place.root.rename(kept)
    yield truth.place
    shutil.rmtree(truth.place.root)
    kept.rename(truth.place.root)


@pytest.fixture
def mount() -> Iterator[Callable[[Path, str], None]]:
    """Return a function that mounts a file system in memory, of a size."""
    mounted = []

    def at(folder: Path, size: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("this place does not let root mount a file system")
        mounted.append(folder)

    yield at
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def test_a_second_run_saves_again_and_computes_nothing(truth: Truth) -> None:
    began = time.monotonic()
    ran = run_again(truth.place, truth.raw)
    print(f"{time.monotonic() - began:.1f} s after {truth.seconds:.1f} s")
    assert time.monotonic() - began < 60
    assert ran
    assert all(name.endswith(".save") for name in ran)
    assert truth.place.digests() == truth.digests


def test_deleted_outputs_come_back_without_computing(truth: Truth) -> None:
    shutil.rmtree(truth.place.root / "out" / "sub-01")
    ran = run_again(truth.place, truth.raw)
    assert all(name.endswith(".save") for name in ran)
    assert truth.place.digests() == truth.digests


def test_a_changed_option_runs_what_depends_on_it(truth: Truth) -> None:
    ran = run_again(
        truth.place, truth.raw, "--reference-concentration", "140", "--reference", "csf"
    )
    computed = {name for name in ran if not name.endswith(".save")}
    assert "concentration_wf.calibrate" in {name.partition(".")[2] for name in computed}
    assert not [name for name in computed if "anatomy_wf" in name or "register" in name]
    assert run_again(truth.place, truth.raw)  # as it was
    assert truth.place.digests() == truth.digests


def test_a_changed_input_runs_what_depends_on_it(truth: Truth) -> None:
    (path,) = (truth.raw / "sub-01").rglob("*_PDw.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content)  # the same, but who knows
    ran = run_again(truth.place, truth.raw)
    assert [name for name in ran if not name.endswith(".save")]
    assert not [name for name in ran if "anatomy_wf" in name]
    assert truth.place.digests() == truth.digests


@ROOT_ONLY
def test_a_run_with_its_work_on_another_device_gives_the_same_bytes(
    truth: Truth, fresh: Place, mount: Callable[[Path, str], None]
) -> None:
    mount(fresh.root / "work", "2g")
    code, said = run(fresh, truth.raw)
    assert code == 0, said
    assert fresh.digests() == truth.digests


@pytest.mark.parametrize("share", [0.1, 0.35])
def test_a_killed_run_goes_on_to_the_same_bytes(truth: Truth, fresh: Place, share: float) -> None:
    count = Count()
    line = chain(fresh, truth.raw, [share * truth.seconds], truth.digests, count)
    print(line)
    assert count == Count(killed=1), line


@ROOT_ONLY
def test_a_full_disk_leaves_no_half_file_and_a_clear_line(
    truth: Truth, mount: Callable[[Path, str], None]
) -> None:
    out = truth.place.root / "out"
    out.rename(out.with_name("whole"))
    try:
        mount(out, "600k")
        code, said = run(truth.place, truth.raw)
        assert code == 1, said
        assert "sub-01 failed: " in said
        assert "the disk is full" in said or "No space left on device" in said
        assert "Traceback" not in said
        held = truth.place.digests()
        assert held
        assert not [name for name in held if held[name] != truth.digests.get(name)]
    finally:
        subprocess.run(["umount", "-l", str(out)], check=False)
        shutil.rmtree(out, ignore_errors=True)
        out.with_name("whole").rename(out)


@ROOT_ONLY
def test_a_read_only_output_folder_is_refused_in_one_line(truth: Truth, tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "out").mkdir()
    code = "import sys; from sodiumprep.bids_app.cli import main; sys.exit(main())"
    script = f'mount -o bind,ro "{tmp_path}/out" "{tmp_path}/out" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code,
         *place.command(truth.raw)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no read-only mount here: {done.stderr.strip()}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"OUT_DIR {tmp_path}/out cannot be written" in done.stderr


def add_subject(raw: Path, label: str) -> None:
    """Add a subject that is the first one under another name."""
    for path in [p for p in raw.rglob("*") if p.is_file() and "sub-01" in str(p)]:
        if "truth" not in path.parts:
            other = Path(str(path).replace("sub-01", f"sub-{label}"))
            other.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, other)
    with (raw / "participants.tsv").open("a") as table:
        columns = (raw / "participants.tsv").read_text().splitlines()[1].split("\t")
        print("\t".join([f"sub-{label}", *columns[1:]]), file=table)


@pytest.fixture(scope="module")
def pair(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("pair") / "bids"
    shutil.copytree(truth.raw, raw, ignore=shutil.ignore_patterns("truth"))
    add_subject(raw, "02")
    return raw


def test_two_runs_over_different_subjects_share_an_output_folder(
    pair: Path, tmp_path: Path
) -> None:
    place, alone = Place(tmp_path / "both"), Place(tmp_path / "alone")
    for folder in (place.root, alone.root):
        folder.mkdir()
    pids = [
        start([*place.command(pair), "--anat-only", "--participant-label", label],
              place.root / f"log{label}.txt")
        for label in ("01", "02")
    ]  # fmt: skip
    assert [end_of(pid, PATIENCE) for pid in pids] == [0, 0]
    assert run(alone, pair, "--anat-only")[0] == 0
    both, one = place.digests(), alone.digests()
    pages = {"sub-01.html", "sub-02.html"}  # the command stands in them
    assert {n: d for n, d in both.items() if n not in pages} == {
        n: d for n, d in one.items() if n not in pages
    }
    assert pages <= set(both)


def test_a_subject_that_fails_does_not_stop_the_other(pair: Path, tmp_path: Path) -> None:
    (path,) = (pair / "derivatives" / "anat" / "sub-02").rglob("*_desc-preproc_T1w.nii.gz")
    image = nib.load(path)
    values = image.get_fdata()
    values[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(values.astype(np.float32), image.affine), path)
    code, said = run(Place(tmp_path), pair, "--anat-only")
    assert code == 1, said
    (line,) = [line for line in said.splitlines() if line.startswith("sodiumprep: sub-")]
    assert line.startswith("sodiumprep: sub-02 failed: ")
    assert f"{path.name}: 1 voxels hold NaN" in line
    assert (tmp_path / "out/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz").is_file()
    crashes = [crash.read_text() for crash in (tmp_path / "out/logs").rglob("crash-*.txt")]
    assert crashes
    for text in crashes:
        assert all(part in text for part in ("Node: ", str(path), "Traceback", "ValueError"))
    assert json.loads((tmp_path / "out/dataset_description.json").read_text())


def test_being_told_to_stop_leaves_one_line_and_no_half_file(truth: Truth, fresh: Place) -> None:
    fresh.root.mkdir()
    log = fresh.root / "log.txt"
    pid = start(fresh.command(truth.raw), log)
    assert end_of(pid, truth.seconds / 3) is None
    began = time.monotonic()
    os.kill(pid, 15)
    code = end_of(pid, 20)
    if code is None:
        kill(pid)
    assert (code, time.monotonic() - began < 10) == (143, True)
    assert log.read_text().splitlines()[-1].startswith("sodiumprep: stopped by SIGTERM; the same")
    assert "Traceback" not in log.read_text()
    held = fresh.digests()
    assert not [name for name in held if held[name] != truth.digests.get(name)]
