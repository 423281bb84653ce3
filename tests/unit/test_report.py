"""The subject's report is complete, safe and self-contained, whatever lies in the output."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sodiumprep.bids_app import figures
from sodiumprep.bids_app.names import DatasetNames, DerivativeNames, with_json
from sodiumprep.bids_app.report import (
    TERMS,
    dominating_term,
    methods_blocks,
    plain_value,
    write_report,
)
from sodiumprep.bids_app.results import find_sessions
from sodiumprep.interfaces.image import save_image
from sodiumprep.interfaces.outputs import write_json

HOSTILE = "<script>alert(1)</script> $\\frac{1"
SIZE = 20
MEANS = {"GM": 41.4, "WM": 37.7, "CSF": 147.7, "core": 90.0}  # mmol/L
LINE = {
    "slope": 7000.0,
    "intercept": 0.0,
    "covariance": [[2e4, 0.0], [0.0, 0.0]],
    "r_squared": 0.999,
    "residuals": [-900.0, 500.0],
    "intercept_test": 0.4,
}


def fake_table():
    rows = [
        {
            "index": index, "name": name, "pvc": pvc, "desc": desc, "n_voxels": 100.0,
            "volume_ml": 80.0, "mean": mean, "uncertainty": 1.5, "u_noise": 0.3,
            "u_calibration": 1.2, "u_relaxation": 0.8, "ci_low": mean - 3, "ci_high": mean + 3,
            "snr": 15.0, "coverage": 1.0, "flag": "smaller_than_psf" if index == 4 else "n/a",
        }
        for pvc in ("none", "gtm")
        for desc in ("apparent", "corrected")
        for index, (name, mean) in enumerate(MEANS.items(), 1)
    ]  # fmt: skip
    unknown = ["sd", "median", "q25", "q75", *(t for t in TERMS if t not in rows[0])]
    return pd.DataFrame(rows).assign(**dict.fromkeys(unknown, np.nan))


def fake_metrics(**more):
    vial = {"signal": 1.4e5, "u_signal": 900.0, "n_voxels": 200, "factor": 0.93}
    vials = [
        {**vial, "name": "1 agar", "concentration": 20.0, "u_concentration": 0.2},
        {**vial, "name": "2 agar", "concentration": 80.0, "u_concentration": 0.8,
         "signal": 5.6e5, "temperature": 20.0},
    ]  # fmt: skip
    held = {
        "Reconstruction": "gridding", "Coils": 4, "ReceiveCorrection": "RB1COR",
        "ReceiveUncorrected": False, "RegistrationChosen": "header", "RegistrationScore": 0.94,
        "RegistrationCandidates": {"header": 0.94, "centre of mass": 0.9},
        "RegistrationSpread": 0.02, "ConditionNumber": 3.4, "CalibrationRSquared": 0.999,
        "PointSpreadFWHM": {"GM": [6.9, 6.9, 6.9]}, "SNR": {"GM": 15.0}, "Warnings": [],
        "Calibration": {"reference": "vials", "vials": vials,
                        "Lines": {"apparent": LINE, "corrected": LINE}},
        "RelaxationConstants": {"GM": {"t1": 0.037, "source": "doi:10.1002/nbm.3899; assumed"}},
        "Sources": ["bids:raw:sourcedata/sub-01/anat/sub-01_acq-23Na_PDw.h5"],
        "SoftwareName": "sodiumprep", "SoftwareVersion": "0.1.0", "RandomSeed": 23,
        "Sloppy": False, "EchoTime": 3e-4, "RepetitionTime": 0.12, "FlipAngle": 90.0,
        "MagneticFieldStrength": 3.0,
    }  # fmt: skip
    return {**held, **more}


def ball(radius):
    axes = np.indices((SIZE,) * 3) - (SIZE - 1) / 2
    return (np.sqrt((axes**2).sum(axis=0)) < radius).astype(np.float32)


def write_anatomy(names, lesion="core"):
    names.folder.mkdir(parents=True, exist_ok=True)
    rng, affine = np.random.default_rng(1), np.diag([2.0, 2, 2, 1])
    images = {
        names.anat_preproc(): rng.random((SIZE,) * 3),
        names.brain_mask(): ball(8).astype(np.uint8),
        names.probseg("GM"): ball(8) - ball(6),
        names.probseg("WM"): ball(6) - ball(3),
        names.probseg("CSF"): ball(3),
        names.folder / f"{names.anat_prefix}_label-{lesion}_mask.nii.gz": ball(2),
    }
    for path, values in images.items():
        save_image(path, values, affine)
    write_json(with_json(names.anat_preproc()), {"BrainVolume": 17.0, "InputWarnings": []})


def write_sodium(names, **metrics):
    names.folder.mkdir(parents=True, exist_ok=True)
    values, affine = ball(8) * 40, np.diag([2.0, 2, 2, 1])
    for path in (
        names.sodium_preproc(),
        names.sodium_preproc(stat="noise"),
        names.receive_field(),
        names.tsc_map("apparent", space="T1w"),
        names.tsc_map("corrected", space="T1w"),
        names.tsc_map("corrected", space="T1w", stat="uncertainty"),
    ):
        save_image(path, values, affine)
    fake_table().to_csv(names.tsc_table(), sep="\t", index=False, na_rep="n/a")
    write_json(names.qc(), fake_metrics(**metrics))


def page_of(out_dir, errors=()):
    return write_report(out_dir, "01", list(errors)).read_text()


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    monkeypatch.setattr(figures, "PNG_DPI", 20)


@pytest.fixture
def empty_pictures(monkeypatch):
    """Where words are tested, drawing would only take time."""
    drawn = ("anatomy", "receive", "concentration", "calibration", "regions")
    for name in drawn:
        monkeypatch.setattr(figures, f"{name}_figure", lambda *_: Figure(figsize=(1, 1)))
    pair = Figure(figsize=(1, 1)), Figure(figsize=(1, 1))
    monkeypatch.setattr(figures, "registration_figures", lambda *_: pair)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    names = DerivativeNames(tmp_path_factory.mktemp("whole"), "01")
    write_anatomy(names)
    write_sodium(names)
    return names, page_of(names.out_dir)


@pytest.fixture
def names(tmp_path):
    made = DerivativeNames(tmp_path, "01")
    write_anatomy(made)
    return made


def test_a_whole_report_holds_every_figure_and_nothing_is_missing(whole):
    names, page = whole
    assert page.count("<img ") == 7
    assert "is missing" not in page.replace("The methods text is missing", "")
    assert all(tag in page for tag in ("41.4", "147.7", "smaller_than_psf", "calibration"))
    assert len(list(names.figures_dir().iterdir())) == 7


def test_a_report_opens_offline(whole):
    _, page = whole
    sources = re.findall(r'<(?!a )[^>]*\b(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    links = [link for link in re.findall(r'<a href="([^"]*)"', page) if not link.startswith("#")]
    assert all(link.startswith("https://doi.org/10.") for link in links)
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_every_picture_has_an_alternative_text(whole):
    alternatives = re.findall(r'<img[^>]*alt="([^"]*)"', whole[1])
    assert len(alternatives) == 7
    assert all(len(text) > 20 for text in alternatives)


def test_hostile_text_of_a_sidecar_is_escaped(names):
    metrics = fake_metrics()
    metrics["Calibration"]["vials"][0]["name"] = HOSTILE
    write_sodium(names, **{**metrics, "Warnings": [HOSTILE], "Reconstruction": HOSTILE,
                           "RegistrationChosen": HOSTILE, "Sources": [HOSTILE],
                           "RelaxationConstants": {HOSTILE: {"source": HOSTILE}}})  # fmt: skip
    table = fake_table().replace({"name": {"core": HOSTILE}})
    table.to_csv(names.tsc_table(), sep="\t", index=False, na_rep="n/a")
    page = page_of(names.out_dir, [HOSTILE])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 7
    assert page.count("<img ") == 7


@pytest.mark.usefixtures("empty_pictures")
def test_warnings_stand_before_the_values(names):
    write_sodium(names, Warnings=["mind the step"], ReceiveUncorrected=True, Sloppy=True)
    page = page_of(names.out_dir, ["node x: it broke"])
    first_value = page.index('class="cards"')
    for text in ("mind the step", "receive_uncorrected", "--sloppy", "it broke"):
        assert page.index(text) < first_value


def test_warnings_of_the_anatomy_are_shown(names):
    write_json(with_json(names.anat_preproc()), {"BrainWarning": "brain of 3 l"})
    assert "brain of 3 l" in page_of(names.out_dir)


def test_a_missing_sodium_stage_is_explained(names):
    page = page_of(names.out_dir, ["reconstruct: truncated file"])
    assert "No sodium run has results" in page
    assert "truncated file" in page
    assert page.count("<img ") == 1


def test_a_subject_without_anything_still_has_a_report(tmp_path):
    page = page_of(tmp_path, ["sidecar: EchoTime is missing"])
    assert "no results for this subject" in page
    assert "EchoTime is missing" in page


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (lambda n: n.tsc_table(), "seg-tissue_TSC.tsv"),
        (lambda n: n.qc(), "The quality file is missing"),
        (lambda n: n.receive_field(), "The receive correction is missing"),
        (lambda n: n.tsc_map("apparent", space="T1w"), "The overlay is missing"),
        (lambda n: n.brain_mask(), "The anatomy is missing"),
    ],
)
def test_whatever_file_is_missing_the_rest_is_shown(names, path, said):
    write_sodium(names)
    path(names).unlink()
    page = page_of(names.out_dir)
    assert said in page
    assert page.count("<img ") >= 3


@pytest.mark.parametrize("broken", ["image", "json"])
def test_a_broken_file_is_named_and_the_rest_is_shown(names, broken):
    write_sodium(names)
    path = names.sodium_preproc() if broken == "image" else names.qc()
    path.write_bytes(path.read_bytes()[:50])
    page = page_of(names.out_dir)
    assert "cannot be" in page
    assert path.name in page
    assert page.count("<img ") >= 5


@pytest.mark.usefixtures("empty_pictures")
def test_calibration_by_csf_says_that_it_rests_on_an_assumption(names):
    single = {**LINE, "r_squared": None, "intercept_test": None, "residuals": [0.0]}
    csf = {"reference": "csf", "assumed": [145.0, 5.0], "Lines": {"corrected": single}}
    write_sodium(names, Calibration=csf)
    page = page_of(names.out_dir)
    assert "145 ± 5 mmol/L" in page
    assert "relative to" in page
    assert "assumed, not measured" in page


def test_an_anatomy_that_is_not_t1w_is_found_and_named(tmp_path):
    names = DerivativeNames(tmp_path, "01", anat_suffix="PDw")
    write_anatomy(names)
    write_sodium(names)
    page = page_of(tmp_path)
    assert "PDw after bias-field correction" in page
    assert page.count("<img ") == 7


@pytest.mark.usefixtures("empty_pictures")
def test_sessions_and_runs_have_a_section_each(tmp_path):
    for session, runs in (("1", "1"), ("2", "12")):
        names = DerivativeNames(tmp_path, "01", session=session)
        write_anatomy(names)
        for run in runs:
            write_sodium(replace(names, run=run), Warnings=[f"only {session}{run}"])
    page = page_of(tmp_path)
    assert page.count("<h2>Concentration maps</h2>") == 3
    assert "ses-2 acq-23Na run-1: only 21" in page
    assert len(set(re.findall(r'id="([^"]*)"', page))) == len(re.findall(r'id="([^"]*)"', page))


@pytest.mark.slow
def test_a_report_is_the_same_every_time(names):
    write_sodium(names)
    first = page_of(names.out_dir)
    assert page_of(names.out_dir) == first


def test_lesions_lie_beside_the_tissues(names):
    session, = find_sessions(names.out_dir, "01")  # fmt: skip
    assert list(session.lesion_files()) == ["core"]


def test_unknown_values_are_shown_as_such(whole):
    _, page = whole
    assert "<td>n/a</td>" in page
    assert ">nan<" not in page
    assert "None" not in re.sub(r'"data:[^"]*"', "", page)


def test_the_methods_text_keeps_headings_lists_and_links(names):
    path = DatasetNames(names.out_dir).citation_md
    path.parent.mkdir()
    path.write_text("# Methods\n\nText <b>.\n\n# References\n\n- A, doi:10.1/a\n- B\n")
    assert [b["kind"] for b in methods_blocks(path)] == ["heading", "paragraph", "heading", "list"]
    page = page_of(names.out_dir)
    assert 'href="https://doi.org/10.1/a"' in page
    assert "Text &lt;b&gt;." in page


def test_no_term_dominates_where_none_is_known():
    assert dominating_term({"u_noise": float("nan")}) == {"dominating": "n/a", "share": None}


def test_every_kind_of_value_becomes_text():
    held = json.loads('{"a": [1, null, 2.5], "b": false}')
    assert plain_value(held) == "a 1, n/a, 2.5, b no"
