"""What the anatomy and the position cost: ``python bench/true_anatomy.py [FOLDER]``.

One simulated subject is processed from k-space with the true tissue fractions and position, with
the true fractions and the position that is found, and with a simulated segmentation that errs.
Errors are those of the concentrations corrected for partial volume, against the truth.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from sodiumprep.bids_app.demo import compare, registration_error

REGIONS = ("GM", "WM", "CSF")
SEED = "11"


def run(command: str, *arguments: object) -> None:
    """Run one of the project's commands in the environment of this script."""
    program = Path(sys.executable).with_name(command)
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stderr}")


def true_derivatives(raw: Path, target: Path, with_position: bool) -> Path:
    """Give the truth of a simulated dataset the names of ready-made anatomy."""
    for path in sorted((raw / "derivatives" / "truth").rglob("*desc-truth*")):
        if path.name.endswith("_xfm.txt") and not with_position:
            continue
        if path.name.endswith(("_probseg.nii.gz", "_xfm.txt")):
            place = target / path.relative_to(raw / "derivatives" / "truth")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place.with_name(path.name.replace("_desc-truth", "")))
        elif path.name.endswith("_label-brain_desc-truth_mask.nii.gz"):
            place = target / path.relative_to(raw / "derivatives" / "truth")
            place.parent.mkdir(parents=True, exist_ok=True)
            name = path.name.replace("_label-brain_desc-truth_mask", "_desc-brain_mask")
            shutil.copyfile(path, place.with_name(name))
    return target


def measure(folder: Path, raw: Path, name: str, anatomy: Path) -> pd.DataFrame:
    """Process the subject with an anatomy; return its errors and print them."""
    out = folder / name
    run(
        "sodiumprep", raw, out, "participant", "-w", folder / f"work-{name}",
        "--omp-nthreads", 1, "--skip-bids-validation",
        "-d", f"anatomy={anatomy}", f"manual={raw / 'derivatives' / 'manual'}",
    )  # fmt: skip
    table = compare(raw, out)
    errors = table[table.name.isin(REGIONS)].set_index("name").error_gtm
    position = registration_error(raw, next(out.rglob("*_seg-tissue_TSC.tsv")))
    shown = "  ".join(f"{region} {errors[region]:+5.1f} %" for region in REGIONS)
    print(f"{name:24} {shown}   position {position:4.2f} mm", flush=True)
    return table


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where to work (default: temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        raw = folder / "bids"
        if not raw.exists():
            run("sodiumprep-phantom", raw, "--subjects", 1, "--seed", SEED)
        both = true_derivatives(raw, folder / "true", with_position=True)
        fractions = true_derivatives(raw, folder / "fractions", with_position=False)
        measure(folder, raw, "true-anatomy-and-position", both)
        measure(folder, raw, "true-anatomy", fractions)
        measure(folder, raw, "simulated-segmentation", raw / "derivatives" / "anat")


if __name__ == "__main__":
    main()
