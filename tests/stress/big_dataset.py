"""Start-up in a dataset of thousands of subjects: time, memory, and what must not matter.

``python tests/stress/big_dataset.py FOLDER [--subjects 5000] [--sessions 4]`` makes the dataset
(all images but those of the first subject are empty), with derivatives of the same size, and asks
for one subject with ``--dry-run`` in several ways.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from processes import APP, watch

SIDECAR = {"ResonantNucleus": "23Na", "EchoTime": 4e-4, "RepetitionTime": 0.12, "FlipAngle": 90,
           "MagneticFieldStrength": 3}  # fmt: skip
READY = ("desc-preproc_T1w", "desc-brain_mask", "label-GM_probseg", "label-WM_probseg",
         "label-CSF_probseg")  # fmt: skip
DANGLING = "../../../.git/annex/objects/nothing"
AS_A_USER = (
    "setpriv",
    "--inh-caps=-dac_override,-dac_read_search",
    "--bounding-set=-dac_override,-dac_read_search",
)  # root reads every folder, users do not
LIMIT = 900.0  # s, of one command


def main() -> int:
    """Make the dataset, and print what it costs to start in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for everything; a dataset in it is taken")
    parser.add_argument("--subjects", type=int, default=5000)
    parser.add_argument("--sessions", type=int, default=4)
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    raw, ready = folder / "raw", folder / "ready"
    if not raw.exists():
        make_dataset(raw, options.subjects, options.sessions)
        make_derivatives(ready, options.subjects, options.sessions)
    one = ["--participant-label", "00001", "--skip-bids-validation"]
    stored = ["--bids-database-dir", str(folder / "index")]
    shutil.rmtree(folder / "index", ignore_errors=True)
    ways = {
        "one subject": one,
        "the same, with the validator": one[:2],
        "with derivatives of the same size": [*one, "-d", f"ready={ready}"],
        "an index of all is built": [*one, *stored],
        "the index is taken": [*one, *stored],
    }
    failed = [name for name, asked in ways.items() if not ask(folder, name, asked)]
    return 1 if failed else 0


def ask(folder: Path, name: str, asked: list[str]) -> bool:
    """Ask for one subject, print what it costs, and tell whether it is found."""
    as_user = AS_A_USER if os.geteuid() == 0 and shutil.which(AS_A_USER[0]) else ()
    places = [str(folder / "raw"), str(folder / "out"), "participant", "-w", str(folder / "work")]
    command = [*as_user, *APP, *places, "--dry-run", *asked]
    seen = watch(command, folder / "told.log", LIMIT, every=0.02)
    found = seen.said.count("sub-00001 ses-") >= 1 and seen.code == 0
    print(f"{name}: ended with {seen.code} after {seen.seconds:.1f} s "
          f"({seen.all_cpu:.1f} s of processor time), {seen.peak:.0f} MB"
          f"{'' if found else ': NOT FOUND ' + seen.said[-300:]}", flush=True)  # fmt: skip
    return found


def make_dataset(raw: Path, subjects: int, sessions: int) -> None:
    """Make a raw dataset in which all images but those of the first subject are empty.

    Every fiftieth subject has links that lead nowhere, every hundredth a folder that cannot be
    read, as other people's subjects have.

    Parameters
    ----------
    raw
        New folder.
    subjects, sessions
        How many.
    """
    raw.mkdir(parents=True)
    described = {"Name": "big", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    (raw / "dataset_description.json").write_text(json.dumps(described))
    (raw / "README").write_text("A dataset of empty images.\n")
    rows = [f"sub-{n:05d}\t{20 + n % 60}" for n in range(1, subjects + 1)]
    (raw / "participants.tsv").write_text("\n".join(["participant_id\tage", *rows]) + "\n")
    sources = _sources(raw.parent)
    for number, session, anat in _folders(raw, subjects, sessions):
        for name, source in sources.items():
            path = anat / f"sub-{number:05d}_ses-{session}_{name}"
            if number == 1 or path.suffix == ".json":
                os.link(source, path)
            elif number % 50 == 0:
                path.symlink_to(DANGLING)
            else:
                path.touch()
        if number % 100 == 0:
            anat.chmod(0)


def make_derivatives(root: Path, subjects: int, sessions: int) -> None:
    """Make derivatives of the same size, all but those of the first subject empty.

    Parameters
    ----------
    root
        New folder.
    subjects, sessions
        How many.
    """
    for number, session, anat in _folders(root, subjects, sessions):
        for name in READY:
            path = anat / f"sub-{number:05d}_ses-{session}_{name}.nii.gz"
            if number == 1:
                os.link(root.parent / "image.nii.gz", path)
            else:
                path.touch()


def _folders(root: Path, subjects: int, sessions: int) -> Iterator[tuple[int, int, Path]]:
    for number in range(1, subjects + 1):
        for session in range(1, sessions + 1):
            anat = root / f"sub-{number:05d}" / f"ses-{session}" / "anat"
            anat.mkdir(parents=True)
            yield number, session, anat


def _sources(folder: Path) -> dict[str, Path]:
    """Make the files that all others are links of."""
    grid = np.indices((8, 8, 8)).sum(axis=0).astype(np.float32) + 1
    nib.save(nib.Nifti1Image(grid, np.diag([4.0, 4, 4, 1])), folder / "image.nii.gz")
    (folder / "sodium.json").write_text(json.dumps(SIDECAR))
    (folder / "hydrogen.json").write_text("{}")
    return {
        "T1w.nii.gz": folder / "image.nii.gz",
        "T1w.json": folder / "hydrogen.json",
        "acq-23Na_PDw.nii.gz": folder / "image.nii.gz",
        "acq-23Na_PDw.json": folder / "sodium.json",
    }


if __name__ == "__main__":
    sys.exit(main())
