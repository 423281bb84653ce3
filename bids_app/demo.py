"""The demonstration: simulate a cohort, process it, compare the results with the truth."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from sodiumprep.interfaces.registration import read_transform
from sodiumprep.sodium.alignment import displacement

REGIONS = ("GM", "WM", "CSF")
COHORT = ("--subjects", "4", "--groups", "controls", "patients", "--lesion", "glioma")


def main(argv: list[str] | None = None) -> int:
    """Run the demonstration.

    Parameters
    ----------
    argv
        Arguments; those of the process if None.

    Returns
    -------
    code
        That of the first command that failed, else 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sodiumprep.bids_app.demo", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="where everything is written")
    parser.add_argument("--nprocs", default="2", help="processes (default: 2)")
    options = parser.parse_args(argv)
    folder = options.folder.resolve()
    started = time.monotonic()
    for command in commands(folder, options.nprocs):
        print(f"\n$ {' '.join(command)}", flush=True)
        program = Path(sys.executable).with_name(command[0])  # of the same environment
        code = subprocess.run([program, *command[1:]], check=False).returncode
        if code:
            return code
    tell(folder, time.monotonic() - started)
    return 0


def commands(folder: Path, nprocs: str) -> list[list[str]]:
    """Return the commands of the demonstration, as a user would type them.

    Parameters
    ----------
    folder
        Where everything is written.
    nprocs
        Processes.

    Returns
    -------
    commands
        Phantom, participant level, group level.
    """
    raw, out = str(folder / "bids"), str(folder / "derivatives")
    manual = f"manual={folder / 'bids' / 'derivatives' / 'manual'}"
    places = ["-w", str(folder / "work"), "-d", manual]
    engine = ["--nprocs", nprocs, "--omp-nthreads", "1", "--sloppy"]
    return [
        ["sodiumprep-phantom", raw, *COHORT],
        ["sodiumprep", raw, out, "participant", *places, *engine],
        ["sodiumprep", raw, out, "group"],
    ]


def compare(bids_dir: Path, out_dir: Path) -> pd.DataFrame:
    """Compare regional values with the truth of a simulated dataset.

    Parameters
    ----------
    bids_dir
        Simulated dataset with its truth.
    out_dir
        Results.

    Returns
    -------
    comparison
        One row per subject and region: ``participant_id name truth none gtm uncertainty``
        [mmol/L], and ``error_none``, ``error_gtm`` [%].
    """
    tables = sorted(out_dir.rglob("*_seg-tissue_TSC.tsv"))
    frames = [_compare_one(path, bids_dir) for path in tables if path.parent.name == "anat"]
    return pd.concat(frames, ignore_index=True)


def _compare_one(path: Path, bids_dir: Path) -> pd.DataFrame:
    subject = path.name.split("_")[0]
    folder = _truth_folder(path, bids_dir)
    truth = pd.read_csv(next(folder.glob("*_desc-truth_TSC.tsv")), sep="\t")
    table = pd.read_csv(path, sep="\t")
    corrected = table[table.desc == "corrected"].pivot_table(
        index="name", columns="pvc", values="mean"
    )
    spread = (
        table[(table.desc == "corrected") & (table.pvc == "gtm")].set_index("name").uncertainty
    )
    merged = truth.rename(columns={"concentration": "truth"}).set_index("name").join(corrected)
    merged["uncertainty"] = spread
    for pvc in ("none", "gtm"):
        merged[f"error_{pvc}"] = 100 * (merged[pvc] / merged.truth - 1)
    merged.insert(0, "participant_id", subject)
    return merged.reset_index().drop(columns="index")


def _truth_folder(path: Path, bids_dir: Path) -> Path:
    parts = [p for p in path.parts if p.startswith(("sub-", "ses-")) and not p.endswith(".tsv")]
    return bids_dir.joinpath("derivatives", "truth", *parts, "anat")


def registration_error(bids_dir: Path, table: Path) -> float:
    """Return how far the found position of the sodium image lies from the true one.

    Parameters
    ----------
    bids_dir
        Simulated dataset with its truth.
    table
        Regional table of a run; the transform lies beside it.

    Returns
    -------
    error
        Root mean square at the surface of the brain [mm].
    """
    folder = _truth_folder(table, bids_dir)
    mask = nib.load(next(folder.glob("*brain*mask.nii.gz")))
    centre = np.argwhere(np.asarray(mask.dataobj) > 0).mean(axis=0)
    lps = np.array([-1, -1, 1]) * (mask.affine @ [*centre, 1])[:3]
    found = table.with_name(
        table.name.replace("seg-tissue_TSC.tsv", "from-sodium_to-T1w_mode-image_xfm.txt")
    )
    true = next(folder.glob("*_from-sodium_to-T1w*_xfm.txt"))
    return displacement(read_transform(found), read_transform(true), lps)


def tell(folder: Path, seconds: float) -> None:
    """Print what the numbers were against the truth, and where the reports are.

    Parameters
    ----------
    folder
        Of the demonstration.
    seconds
        That it took.
    """
    raw, out = folder / "bids", folder / "derivatives"
    table = compare(raw, out)
    shown = table.rename(columns={"error_none": "error_none_%", "error_gtm": "error_gtm_%"})
    print("\nAgainst the truth [mmol/L]; none: uncorrected, gtm: corrected for partial volume")
    print(shown.to_string(index=False, float_format="%.2f"))
    for path in sorted(out.rglob("*_seg-tissue_TSC.tsv")):
        if path.parent.name == "anat":
            error = registration_error(raw, path)
            print(f"{path.name.split('_')[0]}: sodium-to-T1w registration error {error:.2f} mm")
    brain = table[table.name.isin(REGIONS)]
    worst = brain.error_gtm.abs().max()
    grey = table[table.name == "GM"]
    ratio = grey.error_none.abs().mean() / max(grey.error_gtm.abs().mean(), 1e-9)
    print(f"worst error of corrected GM, WM, CSF: {worst:.1f} %")
    print(f"mean error of GM, uncorrected over corrected: {ratio:.1f}")
    print(f"took {seconds / 60:.1f} min")
    for report in sorted(out.glob("*.html")):
        print(f"report: {report}")


if __name__ == "__main__":
    sys.exit(main())
