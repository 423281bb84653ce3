"""Vials without labels: found by the whole pipeline, with the result that labels give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sodiumprep.bids_app.cli import main as process
from sodiumprep.bids_app.phantom import main as simulate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, coarsen: Callable[..., None]) -> Path:
    folder = tmp_path_factory.mktemp("vials") / "bids"
    options = ["--subjects", "1", "--coils", "1", "--seed", "11", "--spokes", "3000"]
    assert simulate([str(folder), *options]) == 0
    coarsen(folder)
    return folder


def run(raw: Path, name: str, *options: object) -> tuple[pd.Series, dict[str, Any]]:
    """Return corrected regional values and the quality file of a run with ready anatomy."""
    out = raw.with_name(name)
    arguments = [raw, out, "participant", "-w", raw.with_name("work"), "--nprocs", "1", "--sloppy"]
    arguments += ["--skip-bids-validation", *options]
    assert process([str(argument) for argument in arguments]) == 0
    table = pd.read_csv(next(out.rglob("*_seg-tissue_TSC.tsv")), sep="\t")
    chosen = table[(table.pvc == "gtm") & (table.desc == "corrected")]
    quality = json.loads(next(out.rglob("*_metrics.json")).read_text())
    return chosen.set_index("name")["mean"], quality


@pytest.fixture(scope="module")
def labelled(raw: Path) -> pd.Series:
    ready = [f"{name}={raw / 'derivatives' / name}" for name in ("anat", "manual")]
    return run(raw, "labelled", "-d", *ready)[0]


def anatomy(raw: Path) -> tuple[str, str]:
    return "-d", f"anat={raw / 'derivatives' / 'anat'}"


def test_vials_that_are_found_by_position_calibrate_as_labels_do(
    raw: Path, labelled: pd.Series
) -> None:
    values, quality = run(raw, "found", *anatomy(raw), "--reference", "vials")
    print(pd.DataFrame({"labelled": labelled, "found": values}).to_string())
    assert quality["VialsIdentifiedBy"] == "Position"
    assert quality["Calibration"]["reference"] == "vials"
    assert len(quality["VialsFound"]) == 4
    assert values["GM"] == pytest.approx(labelled["GM"], rel=0.01)


def test_a_vial_that_is_stated_wrongly_is_named_and_changes_grey_matter_by_less_than_two_percent(
    raw: Path, labelled: pd.Series
) -> None:
    sidecar = json.loads(next(raw.rglob("*23Na_PDw.json")).read_text())
    listed = sidecar["CalibrationVials"]
    listed[1]["SodiumConcentration"] *= 1.4
    path = raw.with_name("wrong.json")
    path.write_text(json.dumps(listed))
    ready = [f"{name}={raw / 'derivatives' / name}" for name in ("anat", "manual")]
    values, quality = run(raw, "wrong", "-d", *ready, "--vials", path)
    assert quality["CalibrationOutlier"] == "2 agar50"
    assert "vial '2 agar50' (70 mmol/L) is an outlier" in " ".join(quality["Warnings"])
    print(f"grey matter {values['GM']:.2f} mmol/L, with good vials {labelled['GM']:.2f}")
    assert values["GM"] == pytest.approx(labelled["GM"], rel=0.02)
