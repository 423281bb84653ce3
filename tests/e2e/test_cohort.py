"""A simulated cohort from k-space to the group report; one subject is broken."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from sodiumprep.bids_app.demo import compare, registration_error
from sodiumprep.bids_app.templates import EMBEDDED
from sodiumprep.interfaces.templates import embedded_template, template_brain

pytestmark = pytest.mark.slow
derivatives = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "derivatives.py")))


def call(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands as a user would."""
    program = Path(sys.executable).with_name(command)
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def participant_level(raw: Path, out: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """Run the participant level with the same seed every time, in a work folder of its own."""
    return call(
        "sodiumprep", raw, out, "participant", "-w", out.with_name(f"work-{out.name}"),
        "--sloppy", "--random-seed", 7, "--omp-nthreads", 1,
        "-d", f"manual={raw / 'derivatives' / 'manual'}",
        "--output-spaces", f"{EMBEDDED}:res-4", "--atlases", "lobes", "--pvc", "gtm", "rbv",
        "--lesion-tables", "contralateral", "shells", "lesions", *options,
    )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    """Return the checksum of every map, table and text transform."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("*_TSCmap.nii.gz", "*_xfm.txt", "*_TSC.tsv")
        for path in sorted(folder.rglob(pattern))
    }


PARTICIPANT = "30\tF\tcontrols"  # age, sex, group of the broken one


class Cohort(NamedTuple):
    raw: Path
    out: Path
    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, coarsen: Callable[..., None]) -> Cohort:
    """Process a control (T1w of 2 mm), a patient (1 mm), and one whose raw file is cut in half."""
    folder = tmp_path_factory.mktemp("cohort")
    raw, out = folder / "bids", folder / "out"
    simulated = call(
        "sodiumprep-phantom", raw, "--subjects", 2, "--groups", "controls", "patients",
        "--lesion", "glioma", "--seed", 5,
    )  # fmt: skip
    assert simulated.returncode == 0, simulated.stderr
    coarsen(raw, "01")
    _add_broken_subject(raw)
    done = participant_level(raw, out, "--nprocs", 2)
    print(done.stdout, done.stderr, sep="\n")
    return Cohort(raw, out, done.returncode, done.stdout, done.stderr)


def _add_broken_subject(raw: Path) -> None:
    for folder in (raw, raw / "sourcedata"):
        for path in sorted((folder / "sub-01").rglob("*")):
            target = Path(str(path).replace("sub-01", "sub-03"))
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    with (raw / "participants.tsv").open("a") as table:
        table.write(f"sub-03\t{PARTICIPANT}\n")
    broken = next((raw / "sourcedata" / "sub-03").rglob("*.h5"))
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])


def test_broken_subject_is_named_and_the_others_finish(cohort: Cohort) -> None:
    assert cohort.code == 1
    lines = [line for line in cohort.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert "sub-03" in lines[0]
    assert "PDw.h5" in lines[0]
    assert "Traceback" not in cohort.stdout + cohort.stderr


def test_corrected_values_lie_within_ten_per_cent_of_the_truth(cohort: Cohort) -> None:
    table = compare(cohort.raw, cohort.out)
    print(table.to_string(index=False, float_format="%.2f"))
    brain = table[table.name.isin(["GM", "WM", "CSF"])]
    assert len(brain) == 6
    assert brain.error_gtm.abs().max() < 10


def test_correction_divides_the_error_of_grey_matter_by_three(cohort: Cohort) -> None:
    table = compare(cohort.raw, cohort.out)
    grey = table[table.name == "GM"]
    ratio = grey.error_none.abs().mean() / grey.error_gtm.abs().mean()
    print(f"error of uncorrected over corrected GM: {ratio:.2f}")
    assert ratio > 3


def test_sodium_image_is_registered_within_one_and_a_half_millimetres(cohort: Cohort) -> None:
    tables = sorted(cohort.out.rglob("sub-*_seg-tissue_TSC.tsv"))
    errors = [registration_error(cohort.raw, path) for path in tables]
    print("registration errors [mm]:", np.round(errors, 2))
    assert len(errors) == 2
    assert max(errors) < 1.5


def test_lobes_hold_what_is_true_in_their_tissues(cohort: Cohort) -> None:
    anat, truth = cohort.out / "sub-02/anat", cohort.raw / "derivatives/truth/sub-02/anat"
    table = pd.read_csv(next(anat.glob("*_seg-lobes_TSC.tsv")), sep="\t")
    labels = nib.load(anat / "sub-02_seg-lobes_dseg.nii.gz")
    true = nib.load(truth / "sub-02_acq-23Na_space-T1w_desc-truth_TSCmap.nii.gz")
    np.testing.assert_allclose(labels.affine, true.affine, atol=1e-4)
    where, values = np.asarray(labels.dataobj), np.asarray(true.dataobj)
    final = table[(table.desc == "corrected") & (table.tissue != "all")]
    pure = {
        t: np.asarray(nib.load(truth / f"sub-02_label-{t}_desc-truth_probseg.nii.gz").dataobj)
        > 0.9
        for t in ("GM", "WM")
    }
    large = final[(final.pvc == "gtm") & (final.volume_ml > 3)].set_index("name")
    found = pd.DataFrame({
        "truth": {n: values[(where == r["index"]) & pure[r.tissue]].mean()
                  for n, r in large.iterrows()},
        "gtm": large["mean"], "u": large.uncertainty,
        "none": final[final.pvc == "none"].set_index("name")["mean"],
    }).loc[large.index]  # fmt: skip
    print(found.round(2).to_string())
    assert len(found) > 20
    off = found[["gtm", "none"]].div(found.truth, axis=0) - 1
    grey = large.tissue == "GM"
    assert off.gtm.abs().median() < 0.05
    assert off.gtm[grey].abs().median() < 0.5 * off.none[grey].abs().median()
    assert ((found.gtm - found.truth).abs() / found.u < 3).mean() > 0.9


def test_lesions_over_what_lies_opposite_have_their_true_contrast(cohort: Cohort) -> None:
    anat, truth = cohort.out / "sub-02/anat", cohort.raw / "derivatives/truth/sub-02/anat"
    assert not list((cohort.out / "sub-01/anat").glob("*_seg-contralateral_*"))
    table = pd.read_csv(next(anat.glob("*_seg-contralateral_TSC.tsv")), sep="\t")
    final = table[(table.desc == "corrected") & (table.pvc == "gtm")].set_index("name")
    values = np.asarray(
        nib.load(truth / "sub-02_acq-23Na_space-T1w_desc-truth_TSCmap.nii.gz").dataobj
    )
    where = np.asarray(nib.load(next(anat.glob("*seg-contralateral_dseg.nii.gz"))).dataobj)
    white = np.asarray(nib.load(truth / "sub-02_label-WM_desc-truth_probseg.nii.gz").dataobj) > 0.9
    for label, name in enumerate(("core", "edema"), 1):
        mask = np.asarray(nib.load(anat / f"sub-02_label-{name}_mask.nii.gz").dataobj) > 0.9
        row = final.loc[f"{name} mirror WM"]
        contrast = values[mask].mean() / values[(where == label) & white].mean()
        print(f"{name}: {row.ratio:.3f} ± {row.u_ratio:.3f}, truth {contrast:.3f}")
        assert abs(row.ratio - contrast) < max(3 * row.u_ratio, 0.1)
    whole = pd.read_csv(next(anat.glob("*_seg-lesions_TSC.tsv")), sep="\t")
    whole = whole[(whole.desc == "corrected") & (whole.pvc == "gtm")].set_index("name")
    lesions = final.loc[["core", "edema"], "volume_ml"].sum()
    grown = sum(
        whole.loc[f"{t} with lesions", "volume_ml"] - whole.loc[t, "volume_ml"]
        for t in ("GM", "WM", "CSF")
    )
    assert grown == pytest.approx(lesions, rel=0.02)


@pytest.mark.parametrize("subject", ["01", "02"])
def test_vials_csf_and_eyes_agree_on_the_calibration(cohort: Cohort, subject: str) -> None:
    path = next((cohort.out / f"sub-{subject}").rglob("*_desc-qc_metrics.json"))
    quality = json.loads(path.read_text())
    assert quality["Eyes"]["Found"]
    compared = quality["Calibration"]["References"]
    print({name: (known["RatioToChosen"], known["RatioUncertainty"])
           for name, known in compared.items()})  # fmt: skip
    assert set(compared) == {"vials", "csf", "vitreous"}
    for known in compared.values():
        assert abs(known["RatioToChosen"] - 1) < max(2.5 * known["RatioUncertainty"], 1e-9)
    assert quality["Calibration"]["ReferenceWarnings"] == []


def test_lesions_are_regions_of_their_own(cohort: Cohort) -> None:
    table = pd.read_csv(next((cohort.out / "sub-02").rglob("*_seg-tissue_TSC.tsv")), sep="\t")
    lesions = table[table["index"] > 3].name.unique().tolist()
    assert lesions == ["core", "edema"]
    values = compare(cohort.raw, cohort.out).set_index("name").loc[lesions]
    assert values.error_gtm.abs().max() < 15


def test_maps_in_both_spaces_have_the_grid_they_claim(cohort: Cohort) -> None:
    anat = cohort.out / "sub-01" / "anat"
    sodium = nib.load(anat / "sub-01_acq-23Na_desc-preproc_PDw.nii.gz")
    t1w = nib.load(anat / "sub-01_desc-preproc_T1w.nii.gz")
    for desc in ("apparent", "corrected"):
        own = nib.load(anat / f"sub-01_acq-23Na_desc-{desc}_TSCmap.nii.gz")
        moved = nib.load(anat / f"sub-01_acq-23Na_space-T1w_desc-{desc}_TSCmap.nii.gz")
        assert np.allclose(own.affine, sodium.affine, atol=1e-4)
        assert moved.shape == t1w.shape


def in_template(cohort: Cohort, pvc: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return a map of the first subject in the template, and its affine."""
    anat = cohort.out / "sub-01" / "anat"
    place = f"sub-01_acq-23Na_space-{EMBEDDED}_res-4{pvc}_desc-corrected_TSCmap.nii.gz"
    image = nib.load(anat / place)
    return image.get_fdata(dtype=np.float32), image.affine


def test_maps_in_the_template_show_its_fluid_brighter_than_its_tissue(cohort: Cohort) -> None:
    brain, affine = template_brain("", "", 4)
    white = embedded_template("wm_template", 4)[0]
    grey = embedded_template("gm_template", 4)[0]
    spread = {}
    for pvc in ("", "_pvc-rbv"):
        values, own = in_template(cohort, pvc)
        np.testing.assert_allclose(own, affine, atol=1e-4)
        inside = (brain > 0) & np.isfinite(values)
        assert inside.sum() > 0.95 * (brain > 0).sum()
        fluid, tissue = inside & (grey + white < 0.2), inside & (white > 0.95)
        assert np.median(values[fluid]) > 1.5 * np.median(values[tissue])
        spread[pvc] = np.std(values[tissue])
    assert spread["_pvc-rbv"] < 0.9 * spread[""]  # less of the neighbours shows in it


def test_group_level_needs_the_output_only(cohort: Cohort) -> None:
    done = call("sodiumprep", cohort.raw.parent / "gone", cohort.out, "group")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(cohort.out / "group_TSC.tsv", sep="\t")
    assert set(table.participant_id) == {"sub-01", "sub-02"}
    assert set(table.group) == {"controls", "patients"}
    assert (cohort.out / "group.html").stat().st_size > 10_000
    assert (cohort.out / "group_qc.tsv").is_file()


def test_every_file_has_a_purpose_and_every_purpose_a_file(cohort: Cohort) -> None:
    names = derivatives.written(cohort.out)
    conditions = ["the raw dataset has one", "group level", "lesions are given"]
    assert derivatives.unexplained(names) == []
    assert derivatives.missing(names, *conditions, "normalized, or ready-made", "with it") == []


def test_the_derivatives_are_valid_and_no_sidecar_lacks_anything(cohort: Cohort) -> None:
    assert derivatives.sidecar_faults(cohort.out) == []
    assert derivatives.without_sidecar(cohort.out) == []
    assert derivatives.undescribed_columns(cohort.out) == []
    images = sorted(cohort.out.rglob("*.nii.gz"))
    assert [fault for path in images for fault in derivatives.header_faults(path)] == []
    assert derivatives.validator_errors(cohort.out) == []


def test_no_flag_is_raised_by_faultless_data(cohort: Cohort) -> None:
    for path in sorted(cohort.out.rglob("*_desc-qc_metrics.json")):
        held = json.loads(path.read_text())
        print(path.name, {key: held[key] for key in ("SpikeShare", "LargestSpike", "GhostShare",
              "GhostingScore", "BrainDice", "NegativeShare", "TissueFractions")})  # fmt: skip
        assert held["Flags"] == []


def test_reports_open_offline(cohort: Cohort) -> None:
    for path in cohort.out.glob("sub-*.html"):
        text = path.read_text()
        assert 'src="http' not in text
        assert "data:image" in text


@pytest.mark.parametrize("subject", ["01", "02"])
def test_the_equations_of_a_report_give_the_values_of_its_table(
    cohort: Cohort, subject: str
) -> None:
    page = (cohort.out / f"sub-{subject}.html").read_text()
    table = pd.read_csv(next(cohort.out.rglob(f"sub-{subject}_*seg-tissue_TSC.tsv")), sep="\t")
    rows = table[(table.pvc == "gtm") & (table.desc == "corrected")].set_index("name")
    entry = r"<summary><b>(\w+)</b>.*?C = [^=]*= \((\S+) − (\S+)\) / \((\S+) · (\S+)\)"
    found = re.findall(entry, page, re.S)
    assert [name for name, *_ in found] == rows.index.tolist()
    for name, *numbers in found:
        signal, intercept, slope, factor = map(float, numbers)
        assert (signal - intercept) / (slope * factor) == pytest.approx(
            rows["mean"][name], rel=3e-5
        )
    assert "The numbers do not fit" not in page


def test_results_survive_a_failing_rerun(cohort: Cohort) -> None:
    before = (cohort.out / "sub-01.html").read_bytes()
    done = participant_level(cohort.raw, cohort.out, "--participant-label", "03")
    assert done.returncode == 1
    assert (cohort.out / "sub-01.html").read_bytes() == before
    assert (cohort.out / "sub-01" / "anat" / "sub-01_acq-23Na_seg-tissue_TSC.tsv").is_file()


def test_a_second_run_with_the_same_seed_is_bit_identical(cohort: Cohort) -> None:
    again = cohort.out.with_name("again")
    done = participant_level(cohort.raw, again, "--participant-label", "01", "--nprocs", 1)
    assert done.returncode == 0, done.stderr
    found = digests(again / "sub-01")
    assert len(found) >= 8
    assert found == digests(cohort.out / "sub-01")
