"""Check what one bad vial does: ``python bench/vials.py [--draws N] [--seed SEED]``.

First, vials are drawn with the errors of good ones, and with one stated 40 % too high or too low
in turn: how often is a good vial called an outlier, the bad one, a wrong one? Then a simulated
head of ``bench/intervals.py`` is processed with each vial stated wrongly in turn: is it named,
and what becomes of grey matter?
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from intervals import VIALS, processed, rows_of, simulate, write_scan

from sodiumprep.bids_app.phantom import load_template
from sodiumprep.sodium.calibrate import VialSignal, judge_vials

SETS = {
    "3 vials": (30.0, 60.0, 100.0),
    "3 vials, far apart": (20.0, 70.0, 120.0),
    "4 vials": (20.0, 50.0, 80.0, 120.0),
    "4 vials, two levels": (50.0, 100.0, 50.0, 100.0),
    "5 vials": (20.0, 40.0, 60.0, 90.0, 120.0),
    "6 vials": (20.0, 40.0, 60.0, 80.0, 100.0, 120.0),
}
WRONG = (1.4, 0.6)  # stated over true concentration
NOISE_SD, CORE = 2.0, 100  # mmol/L, voxels
FILLING = 0.01  # relative error of the true concentration


def drawn(rng: np.random.Generator, levels: Any, stated: Any, error: float) -> list[VialSignal]:
    """Draw the signals of vials that err by a relative ``error`` beyond noise and filling."""
    scatter = np.hypot(error, FILLING) * rng.standard_normal(len(levels))
    noise = NOISE_SD / np.sqrt(CORE) * rng.standard_normal(len(levels))
    signals = levels * (1 + scatter) + noise
    return [
        VialSignal(s, NOISE_SD / CORE**0.5, CORE, 1.0, f"{k}", c, FILLING * c, 37.0)
        for k, (s, c) in enumerate(zip(signals, stated, strict=True))
    ]


def rates(draws: int) -> None:
    """Print how often vials are called outliers."""
    rng = np.random.default_rng(0)
    print("vials, error of good ones: good set with an outlier [%]; of the bad vials, 40 % off: "
          "named [%] (worst vial and sign), another one named [%]")  # fmt: skip
    for name, levels in SETS.items():
        true = np.array(levels)
        for error in (0.01, 0.03, 0.05):
            false = np.mean([judge_vials(drawn(rng, true, true, error)).outlier is not None
                             for _ in range(draws)])  # fmt: skip
            named, other = [], []
            for k, factor in ((k, f) for k in range(len(true)) for f in WRONG):
                stated = true * np.where(np.arange(len(true)) == k, factor, 1.0)
                found = [judge_vials(drawn(rng, true, stated, error)).outlier
                         for _ in range(draws // 10)]  # fmt: skip
                named.append(np.mean([f == k for f in found]))
                other.append(np.mean([f is not None and f != k for f in found]))
            print(f"{name}, {100 * error:.0f} %: {100 * false:.2f}; {100 * np.mean(named):.1f} "
                  f"({100 * min(named):.0f}), {100 * np.mean(other):.1f}", flush=True)  # fmt: skip


def head(seed: int) -> None:
    """Print what one badly stated vial does to the regions of a simulated head."""
    truth = simulate(seed, load_template(), 1.0, unlabelled=False)
    folder = Path(tempfile.mkdtemp(prefix="vials-"))
    try:
        paths = write_scan(seed, truth, folder, 1.0)
        good = rows_of(processed(paths, folder / "good"), "")["mean"]
        print(f"seed {seed}, vials as they are: GM {good['GM']:.2f} mmol/L", flush=True)
        for k, factor in ((k, f) for k in range(len(VIALS)) for f in WRONG):
            levels = tuple(c * (factor if n == k else 1) for n, (c, _) in enumerate(VIALS))
            place = folder / f"vial{k + 1}_{factor}"
            found = rows_of(processed(paths, place, levels=levels), "")["mean"]
            held = json.loads((place / "calibrate" / "calibration.json").read_text())
            change = ", ".join(f"{n} {100 * (found[n] / good[n] - 1):+.2f} %" for n in good.index)
            print(f"vial{k + 1} ({VIALS[k][0]:g}) stated as {levels[k]:g}: left out "
                  f"{held['outlier']}; {change}", flush=True)  # fmt: skip
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000, help="for each rate (default: 2000)")
    parser.add_argument("--seed", type=int, default=200, help="of the head; -1 for none")
    options = parser.parse_args()
    if options.draws:
        rates(options.draws)
    if options.seed >= 0:
        head(options.seed)


if __name__ == "__main__":
    main()
