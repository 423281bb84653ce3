"""Two sessions of one patient on the anatomy of the first, ready-made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app.cli import main as process
from sodiumprep.bids_app.demo import compare
from sodiumprep.bids_app.phantom import main as simulate
from sodiumprep.interfaces.registration import read_transform
from sodiumprep.sodium.alignment import displacement

pytestmark = pytest.mark.slow
CHANGE = 10.0  # percent, of grey matter from the first to the second session


class Results(NamedTuple):
    raw: Path
    out: Path
    alone: Path  # of a run over the second session


def run(raw: Path, out: Path, *options: str) -> None:
    ready = [f"{name}={raw / 'derivatives' / name}" for name in ("manual", "anat")]
    arguments = [str(raw), str(out), "participant", "-w", str(out.with_name("work"))]
    arguments += ["--subject-anatomical-reference", "first-lex", "--nprocs", "1", "--sloppy"]
    assert process([*arguments, "--skip-bids-validation", "-d", *ready, *options]) == 0


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, coarsen: Callable[..., None]) -> Results:
    folder = tmp_path_factory.mktemp("sessions")
    raw, out, alone = (folder / name for name in ("bids", "out", "alone"))
    options = ["--subjects", "1", "--sessions", "2", "--groups", "patients", "--lesion", "glioma"]
    options += ["--session-change", f"GM={CHANGE / 100}", "--coils", "1", "--seed", "5"]
    assert simulate([str(raw), *options, "--format", "image"]) == 0
    coarsen(raw)
    run(raw, out)
    run(raw, alone, "--session-label", "2")
    return Results(raw, out, alone)


def maps(out: Path) -> list[Path]:
    return sorted(out.rglob("*_space-T1w_desc-corrected_TSCmap.nii.gz"))


def test_maps_of_both_sessions_lie_on_one_grid(results: Results) -> None:
    first, second = (nib.load(path) for path in maps(results.out))
    assert first.shape == second.shape
    np.testing.assert_array_equal(first.affine, second.affine)
    np.testing.assert_allclose(
        first.affine, nib.load(results.out / "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz").affine
    )


def test_there_is_one_anatomy_at_the_level_of_the_subject(results: Results) -> None:
    found = [path.parent.parent.name for path in results.out.rglob("*_label-GM_probseg.nii.gz")]
    assert found == ["sub-01"]


def test_tissues_and_their_change_agree_with_the_truth(results: Results) -> None:
    table = compare(results.raw, results.out)
    print(table.to_string(index=False, float_format="%.2f"))
    brain = table[table.name.isin(["GM", "WM", "CSF"])]
    assert len(brain) == 6
    assert brain.error_gtm.abs().max() < 10
    first, second = table[table.name == "GM"].gtm
    assert 100 * (second / first - 1) == pytest.approx(CHANGE, abs=3)


def test_the_way_to_the_sodium_image_leads_over_the_session(results: Results) -> None:
    name = "sub-01/ses-2/anat/sub-01_ses-2"
    truth = results.raw / "derivatives" / "truth" / name
    ending = "from-sodium_to-T1w_mode-image"
    whole = read_transform(f"{results.out / name}_acq-23Na_{ending}_xfm.txt")
    pose = read_transform(f"{results.out / name}_from-orig_to-T1w_mode-image_xfm.txt")
    true = read_transform(f"{truth}_acq-23Na_{ending}_desc-truth_xfm.txt") @ pose
    assert displacement(whole, true, np.zeros(3)) < 1.5


def test_one_session_alone_lies_on_the_same_reference(results: Results) -> None:
    (alone,) = maps(results.alone)
    together = maps(results.out)[1]
    assert alone.name == together.name
    np.testing.assert_array_equal(nib.load(alone).get_fdata(), nib.load(together).get_fdata())


def test_the_cohort_level_finds_both_sessions(results: Results) -> None:
    assert process([str(results.raw), str(results.out), "group"]) == 0
    lines = (results.out / "group_qc.tsv").read_text().splitlines()
    held = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    assert [row["session"] for row in held] == ["1", "2"]
    assert {row["anatomical_reference"] for row in held} == {"first-lex"}
