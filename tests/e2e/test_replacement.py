"""A phantom scanned by itself, or the flip angle of a transceive coil, in the whole pipeline."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sodiumprep.bids_app.cli import main as process
from sodiumprep.bids_app.phantom import main as simulate

pytestmark = pytest.mark.slow
REGIONS = ["GM", "WM", "CSF"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulate a head and a bottle in a coil that transmits and receives."""
    folder = tmp_path_factory.mktemp("bottle") / "bids"
    options = ["--subjects", "1", "--groups", "one", "--coils", "1", "--seed", "12",
               "--spokes", "3000", "--transceive", "--transmit-spread", "0.3",
               "--calibration-phantom"]  # fmt: skip
    assert simulate([str(folder), *options]) == 0
    truth = folder / "derivatives" / "truth"
    for path in truth.rglob("*_desc-truth*"):
        if path.name.endswith(("_probseg.nii.gz", "_xfm.txt")):
            target = folder.with_name("anatomy") / path.relative_to(truth)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target.with_name(path.name.replace("_desc-truth", "")))
    return folder


def run(raw: Path, name: str) -> tuple[pd.Series, dict[str, Any]]:
    """Return relative errors of corrected regional values, and the quality file."""
    out, ready = raw.with_name(name), raw.with_name("anatomy")
    arguments = [raw, out, "participant", "-w", raw.with_name("work"), "--nprocs", "1", "--sloppy",
                 "--skip-bids-validation", "--reference", "phantom", "-d", f"anatomy={ready}",
                 f"manual={raw / 'derivatives' / 'manual'}"]  # fmt: skip
    assert process([str(argument) for argument in arguments]) == 0
    assert [path.name for path in out.glob("sub-*.html")] == ["sub-01.html"]
    table = pd.read_csv(next(out.rglob("*_seg-tissue_TSC.tsv")), sep="\t")
    chosen = table[(table.pvc == "gtm") & (table.desc == "corrected")].set_index("name")["mean"]
    truth = pd.read_csv(next(raw.rglob("*_desc-truth_TSC.tsv")), sep="\t").set_index("name")
    quality = json.loads(next(out.rglob("*desc-qc_metrics.json")).read_text())
    return (chosen / truth.concentration - 1)[REGIONS], quality


def slope_in_use(quality: dict[str, Any]) -> float:
    """Return the slope in use."""
    return float(quality["Calibration"]["Lines"]["corrected"]["slope"])


def test_a_phantom_calibrates_the_head_through_loading_and_reciprocity(raw: Path) -> None:
    errors, quality = run(raw, "out")
    print(errors.to_string())
    assert errors.abs().max() < 0.025  # 2 % is asked; docs/figures.md has what is reached
    assert quality["Calibration"]["reference"] == "phantom"
    assert quality["ReceiveCorrection"] == "reciprocity"
    markup = (raw.with_name("out") / "sub-01.html").read_text()
    page = " ".join(re.sub("<[^>]+>", " ", markup).split())
    shown = re.search(r"a = S / \(L · c · m · F\) = ([\d.]+) / \(([\d. ·]+)\) = ([\d.]+)", page)
    assert shown is not None
    below = math.prod(float(number) for number in shown[2].split(" · "))
    assert float(shown[1]) / below == pytest.approx(float(shown[3]), rel=2e-5)
    assert float(shown[3]) == pytest.approx(slope_in_use(quality), rel=2e-5)
    ratio = quality["Calibration"]["References"]["vials"]
    assert abs(ratio["RatioToChosen"] - 1) < 2 * ratio["RatioUncertainty"]


def test_without_its_loading_factor_all_values_are_off_by_it(raw: Path) -> None:
    sidecar = next(raw.glob("sourcedata/sub-01/anat/*_PDw.json"))
    keys = json.loads(sidecar.read_text())
    loading = keys["CalibrationPhantom"].pop("LoadingFactor")
    sidecar.write_text(json.dumps(keys))
    errors, quality = run(raw, "unloaded")
    print(errors.to_string())
    assert (errors + 1).to_numpy() == pytest.approx([1 / loading] * 3, rel=0.03)
    assert "values are relative to it" in " ".join(quality["Warnings"])
