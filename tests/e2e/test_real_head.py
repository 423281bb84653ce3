"""A real head at 7 T: no T1w, strong receive bias, eyes and tubes brighter than the brain."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow
TUBES = ((67, 79, 32), (-62, 81, 25))  # mm; in front of the forehead, the 1H image shows them too
BEHIND = ((-64, -42, -94), (65, -43, -97))  # two more, behind the neck
EYES = ((-28, 82, -17), (38, 82, -20))
FOLDER = Path("shared") / "data" / "real7t"


def find_real_head() -> Path | None:
    """Return the folder beside the checkout, or None."""
    places = [parent / FOLDER for parent in Path(__file__).resolve().parents]
    return next((place for place in places if place.is_dir()), None)


def test_csf_is_at_least_twice_grey_and_white_matter(tmp_path: Path) -> None:
    data = find_real_head()
    if data is None:
        pytest.skip(f"{FOLDER} is not there: the real head is not part of the project")
    program = Path(sys.executable).with_name("sodiumprep")
    arguments = ["participant", "--reference", "csf", "--sloppy", "--nprocs", "1"]
    subprocess.run(
        [program, data, tmp_path / "out", *arguments, "-w", tmp_path / "work"], check=True
    )
    table = pd.read_csv(next((tmp_path / "out" / "sub-01").rglob("*_TSC.tsv")), sep="\t")
    corrected = table[(table.pvc == "gtm") & (table.desc == "corrected")].set_index("name")["mean"]
    print(corrected.to_string())
    assert corrected["CSF"] >= 2 * corrected["GM"]
    assert corrected["CSF"] >= 2 * corrected["WM"]
    quality = json.loads(next((tmp_path / "out" / "sub-01").rglob("*_metrics.json")).read_text())
    print({key: quality[key] for key in quality if key.startswith("Registration")})
    assert quality["RegistrationFromHeader"] < 3  # mm: same session
    # as seen in the 1H image; the tubes lie 30 to 45 mm higher and 30 mm further to the sides
    np.testing.assert_allclose(quality["Eyes"]["Centres"], [[-29, 83, -16], [38, 83, -18]], atol=3)
    print(quality["Eyes"], quality["Calibration"]["References"])
    assert set(quality["Calibration"]["References"]) == {"csf", "vitreous"}
    assert (tmp_path / "out" / "sub-01.html").stat().st_size > 10_000
    centres = [vial["Centre"] for vial in quality["VialsFound"]]
    print(quality["VialsFound"])
    assert all(min(math.dist(tube, centre) for centre in centres) < 10 for tube in TUBES)
    assert all(math.dist(eye, centre) > 30 for eye in EYES for centre in centres)
    assert all(min(math.dist(c, tube) for tube in TUBES + BEHIND) < 10 for c in centres)
    assert "vials found, no concentrations known: not used" in " ".join(quality["Warnings"])
