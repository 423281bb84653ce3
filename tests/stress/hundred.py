"""A hundred small subjects through the local pool: throughput, memory over time, overhead.

``python tests/stress/hundred.py FOLDER [--subjects 100] [--nprocs 2] [--limit 1500]`` simulates
a few heads (sodium at 8 mm, ready-made anatomy at 4 mm with its transform), gives them to so many
subjects under labels of their own, and runs them all from sodium image to report.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from processes import APP, Watched, watch

HEADS = 2  # that are simulated; the others are copies
EDGE = 4  # voxels of 1 mm in one of the anatomy
DURATION = re.compile(r"^\* duration : ([\d.]+)$", re.MULTILINE)
STEP = re.compile(r"^\[ *(\d+) s +\d+/\d+\]", re.MULTILINE)  # a line of progress
PHANTOM = (sys.executable, "-c", "from sodiumprep.bids_app.phantom import main; main()")
WANTED = ("_T1w.nii.gz", "_mask.nii.gz", "_probseg.nii.gz")


def main() -> int:
    """Make the subjects, run them, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for everything; subjects in it are taken")
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--nprocs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=1500.0, help="of the run [s]")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    raw = options.folder / "raw"
    if not raw.exists():
        make_subjects(raw, options.subjects)
    found = sorted(path.name.removeprefix("sub-") for path in raw.glob("sub-*"))
    labels = found[: options.subjects]
    anatomy = f"anat={raw / 'derivatives/anat'}"
    places = [
        "-d",
        anatomy,
        f"manual={raw / 'derivatives/manual'}",
        "-w",
        str(options.folder / "work"),
    ]
    command = [*APP, str(raw), str(options.folder / "out"), "participant", *places, "--sloppy",
               "--nprocs", str(options.nprocs), "--omp-nthreads", "1", "--no-viewer",
               "--skip-bids-validation",
        "--participant-label",
        *labels,]  # fmt: skip
    seen = watch(command, options.folder / "run.log", options.limit, every=1.0)
    tell(seen, options.folder, options.subjects, options.nprocs)
    return 0 if seen.code == 0 else 1


def make_subjects(raw: Path, number: int) -> None:
    """Simulate some heads and give them to so many subjects.

    Parameters
    ----------
    raw
        New folder of the dataset.
    number
        Of subjects.
    """
    heads = min(HEADS, number)
    given = ["--subjects", str(heads), "--format", "image", "--coils", "1",
             "--voxel-size", "8"]  # fmt: skip
    made = watch([*PHANTOM, str(raw), *given], raw.parent / "phantom.log", 900.0)
    if made.code != 0:
        raise RuntimeError(f"the phantom ended with {made.code}: {made.said}")
    for folder in (raw, raw / "derivatives/anat"):
        for path in sorted(folder.glob("sub-*/anat/*.nii.gz")):
            if path.name.endswith(WANTED):
                coarsen(path)
    for path in (raw / "derivatives/anat").glob("sub-*/anat/*_dseg.nii.gz"):
        path.unlink()
    for path in (raw / "derivatives/truth").glob("sub-*/anat/*_from-sodium_to-T1w*_xfm.txt"):
        place = raw / "derivatives/anat" / path.relative_to(raw / "derivatives/truth").parent
        os.link(path, place / path.name.replace("_desc-truth", ""))
    for place in (raw, raw / "derivatives/anat", raw / "derivatives/manual"):
        for copy in range(heads + 1, number + 1):
            give(place, f"{(copy - 1) % heads + 1:02d}", f"{copy:03d}")
    table = (raw / "participants.tsv").read_text().splitlines()
    rows = [re.sub(r"^sub-\d+", f"sub-{n:03d}", table[1 + n % heads])
            for n in range(heads + 1, number + 1)]  # fmt: skip
    (raw / "participants.tsv").write_text("\n".join([*table, *rows]) + "\n")


def coarsen(path: Path) -> None:
    """Write an image on a grid of larger voxels: means of blocks, masks stay masks."""
    image = nib.load(path)
    values = image.get_fdata(dtype=np.float32)
    shape = [n // EDGE for n in values.shape]
    values = values[tuple(slice(n * EDGE) for n in shape)]
    x, y, z = shape
    values = values.reshape(x, EDGE, y, EDGE, z, EDGE).mean(axis=(1, 3, 5))
    if path.name.endswith("_mask.nii.gz"):
        values = (values > 0.5).astype(np.uint8)
    affine = image.affine @ np.diag([EDGE, EDGE, EDGE, 1.0])
    affine[:3, 3] = (image.affine @ [*[(EDGE - 1) / 2] * 3, 1])[:3]
    nib.save(nib.Nifti1Image(values, affine), path)


def give(place: Path, label: str, other: str) -> None:
    """Give the files of a subject to another one; files without its name in them are linked."""
    source = place / f"sub-{label}"
    for path in sorted(source.rglob("*")):
        target = place / f"sub-{other}" / path.relative_to(source).parent
        target /= path.name.replace(f"sub-{label}", f"sub-{other}")
        if path.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            target.write_text(path.read_text().replace(f"sub-{label}", f"sub-{other}"))
        else:
            os.link(path, target)


def node_seconds(work: Path) -> tuple[int, float]:
    """Return how many nodes have run, and how long all together."""
    reports = [path.read_text() for path in work.rglob("_report/report.rst")]
    found = [DURATION.findall(text) for text in reports]
    return len(found), sum(float(times[0]) for times in found if times)


def tell(seen: Watched, folder: Path, subjects: int, nprocs: int) -> None:
    """Print the figures of a run."""
    tables = list((folder / "out").glob("sub-*/anat/*_seg-tissue_TSC.tsv"))
    pages = list((folder / "out").glob("sub-*.html"))
    nodes, inside = node_seconds(folder / "work")
    steps = max(float(time) for time in STEP.findall((folder / "run.log").read_text()))
    print(f"ended with {seen.code} after {seen.seconds:.0f} s; {subjects} subjects asked, "
          f"{len(tables)} tables, {len(pages)} reports")  # fmt: skip
    print(f"throughput: {3600 * len(tables) / seen.seconds:.0f} subjects/hour, {nprocs} processes")
    print(f"{nodes} nodes in {steps:.0f} s, {inside:.0f} s in them: "
          f"{1 - inside / (nprocs * steps):.1%} of {nprocs} x that time lies elsewhere; start and "
          f"reports {seen.seconds - steps:.0f} s")  # fmt: skip
    print(f"processor time: {seen.all_cpu:.0f} s, of which the first process {seen.own_cpu:.0f} s "
          f"({seen.own_cpu / seen.all_cpu:.1%})")  # fmt: skip
    print(f"peak of all processes {seen.peak:.0f} MB, of the first {seen.parent_peak:.0f} MB")
    for part in range(10):
        end = seen.seconds * (part + 1) / 10
        held = [sample for sample in seen.samples if end - seen.seconds / 10 <= sample[0] < end]
        if held:
            print(f"  {end:6.0f} s: first process {max(s[1] for s in held):5.0f} MB, "
                  f"all {max(s[2] for s in held):5.0f} MB")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
