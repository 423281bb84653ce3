"""The subject's report is complete, safe and self-contained, whatever lies in the output."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sodiumprep.bids_app import charts, figures, report
from sodiumprep.bids_app.budget import TERMS, dominating_term
from sodiumprep.bids_app.names import DatasetNames, DerivativeNames, with_json
from sodiumprep.bids_app.reconstruction import (
    course_of,
    largest_delay,
    largest_displacement,
    noise_level,
)
from sodiumprep.bids_app.record import Record, as_toml
from sodiumprep.bids_app.report import (
    methods_blocks,
    plain_value,
    write_report,
)
from sodiumprep.bids_app.results import find_sessions, find_subjects
from sodiumprep.interfaces.image import save_image
from sodiumprep.interfaces.sidecars import write_json
from sodiumprep.workflows.reconstruct import DENSITY

HOSTILE = "<script>alert(1)</script> $\\frac{1"
OWN_SCRIPT = (report.TEMPLATES / "report.js").read_text().strip()
IDENTITY = "Parameters: 1 0 0 0 1 0 0 0 1 0 0 0\nFixedParameters: 0 0 0\n"
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
        "RegistrationCandidates": {"header": 0.94, "mi, from header": 0.9},
        "RegistrationCandidateDistances": {"header": 0.0, "mi, from header": 1.47},
        "RegistrationFromHeader": 0.0, "RegistrationError95": 0.04, "RegistrationFailed": False,
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


def fake_dictionary(table, metrics):
    """Return the sidecar of a table whose regions have a relaxation factor of 0.9."""
    names = list(table["name"].unique())
    means = table[table["desc"] == "corrected"].groupby("name")["mean"].first()
    signals = {name: float(means[name]) * LINE["slope"] * 0.9 for name in names}
    vials = [vial["name"] for vial in metrics["Calibration"].get("vials", [])]
    constants = {"t1": 0.037, "t2_short": 0.004, "t2_long": 0.026, "short_fraction": 0.6,
                 "source": "doi:10.1002/nbm.3899; assumed"}  # fmt: skip
    equation = {
        "Protocol": {"EchoTime": 3e-4, "RepetitionTime": 0.12, "FlipAngle": 90.0},
        "Slope": dict.fromkeys(("apparent", "corrected"), LINE["slope"]),
        "Intercept": dict.fromkeys(("apparent", "corrected"), LINE["intercept"]),
        "Signal": {"none": signals, "gtm": signals},
        "RelaxationFactor": dict.fromkeys([*names, *vials], 0.9),
        "MixedFactor": dict.fromkeys(names, 0.9),
    }
    held = dict.fromkeys([*names, *vials], constants)
    told = {"Calibration": metrics["Calibration"], "RelaxationConstants": held}
    return {**told, "Equation": equation}


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
    write_table(names, fake_table(), fake_metrics(**metrics))
    write_json(names.qc(), fake_metrics(**metrics))


def write_table(names, table, metrics):
    table.to_csv(names.tsc_table(), sep="\t", index=False, na_rep="n/a")
    write_json(names.tsc_dictionary(), fake_dictionary(table, metrics))


def write_history(out_dir, text, stamp="20260101-120000", subject="01"):
    """Write the record of a run that failed, and a crash file of it."""
    logs = DatasetNames(out_dir).logs
    (logs / f"crash-{stamp}").mkdir(parents=True)
    crash = f"Node: sodiumprep_wf.sub_{subject}_wf.sodium_wf.source\n\nKeyError: {text}\n"
    (logs / f"crash-{stamp}" / "crash-a-source.txt").write_text(crash)
    held = {"command": f"sodiumprep a b {text}", "version": "0.1.0", "started": text, "seed": 23,
            "subjects": [subject], "given": ["pvc"], "software": {"numpy": text}}  # fmt: skip
    path = logs / f"run-{stamp}-aaaaaa" / "config.toml"
    path.parent.mkdir()
    record = Record(path, {"pvc": [text], "recon": "cg"}, held, {subject: [text]})
    record.path.write_text(as_toml(record))


def scripts_of(page):
    return [text.strip() for text in re.findall(r"<script[^>]*>(.*?)</script>", page, re.S)]


def page_of(out_dir, errors=()):
    return write_report(out_dir, "01", list(errors), interactive=False).read_text()


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    monkeypatch.setattr(figures, "PNG_DPI", 20)


@pytest.fixture
def empty_pictures(monkeypatch):
    """Where words are tested, drawing would only take time."""
    drawn = {figures: ("anatomy", "receive", "concentration"), charts: ("calibration", "regions")}
    for module, name in ((module, name) for module, names in drawn.items() for name in names):
        monkeypatch.setattr(module, f"{name}_figure", lambda *_: Figure(figsize=(1, 1)))
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
    assert scripts_of(page) == [OWN_SCRIPT]
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
    write_table(names, table, metrics)
    write_history(names.out_dir, HOSTILE)
    page = page_of(names.out_dir, [HOSTILE])
    assert scripts_of(page) == [OWN_SCRIPT]
    assert page.count("&lt;script&gt;") >= 14
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


def test_a_doubtful_normalization_is_shown_with_its_template(names):
    write_json(with_json(names.anat_preproc()), {"NormalizationWarning": "overlap of 0.3"})
    held = {"NKI": "overlap of 0.4", "MNI152NLin2009aSym": "overlap of 0.3"}
    for template, text in held.items():
        path = with_json(names.template_transform(template))
        write_json(path, {"NormalizationWarning": text})
    page = page_of(names.out_dir)
    assert "NKI: overlap of 0.4" in page
    assert page.count("overlap of 0.3") == 1


def test_a_missing_sodium_stage_is_explained(names):
    page = page_of(names.out_dir, ["reconstruct: truncated file"])
    assert "No sodium run has results" in page
    assert "truncated file" in page
    assert page.count("<img ") == 1


def test_a_subject_without_anything_still_has_a_report(tmp_path):
    page = page_of(tmp_path, ["sidecar: EchoTime is missing"])
    assert "no results for this subject" in page
    assert "EchoTime is missing" in page


@pytest.mark.usefixtures("empty_pictures")
def test_a_missing_table_is_explained_on_every_page(names):
    write_sodium(names)
    names.tsc_table().unlink()
    other = replace(names, session="2")
    other.folder.mkdir(parents=True)
    write_json(other.qc(), fake_metrics())
    for at_most, files in ((1, ["sub-01.html", "sub-01_ses-2.html"]), (2, ["sub-01.html"])):
        write_report(names.out_dir, "01", sessions_at_most=at_most)
        for file in files:
            page = (names.out_dir / file).read_text()
            assert "seg-tissue_TSC.tsv (this stage failed; see logs/)" in page


@pytest.mark.usefixtures("empty_pictures")
def test_each_segmentation_has_a_sortable_table_and_rows_without_a_value_are_counted(names):
    write_sodium(names)
    table = fake_table().assign(tissue="GM")
    table.loc[table.name == "WM", ["mean", "uncertainty"]] = np.nan
    table.loc[table.name == "GM", "name"] = "<b>left lobe"
    table.to_csv(names.tsc_table("lobes"), sep="\t", index=False, na_rep="n/a")
    names.tsc_table("empty").write_text("")
    page = page_of(names.out_dir)
    assert "Regions of lobes" in page
    assert "&lt;b&gt;left lobe" in page
    assert "1 of 4 rows have no value" in page
    part = page[page.index("Regions of lobes") : page.index("Regions of lobes") + 3000]
    assert "data-sortable" in part
    assert "it holds no corrected rows" in page
    assert "Regions of tissue" not in page


@pytest.mark.slow
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


@pytest.mark.slow
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
    csf = {"reference": "csf", "assumed": [145.0, 5.0], "Lines": {"corrected": single},
           "fluid": {"name": "CSF", "signal": 9e5, "u_signal": 1e3, "factor": 0.9}}  # fmt: skip
    write_sodium(names, Calibration=csf)
    page = page_of(names.out_dir)
    assert "145 ± 5 mmol/L" in page
    assert "relative to" in page
    assert "assumed, not measured" in page


@pytest.mark.usefixtures("empty_pictures")
def test_an_outlier_and_a_forced_line_are_told_in_the_calibration(names):
    held = fake_metrics()["Calibration"]
    told = ["vial '2 agar' (80 mmol/L) is an outlier", "poor line because of --force"]
    vials = [{**vial, "used": vial["name"] != "2 agar"} for vial in held["vials"]]
    calibration = {**held, "vials": vials, "outlier": "2 agar", "forced": True,
                   "CalibrationWarnings": told}  # fmt: skip
    write_sodium(names, Calibration=calibration, CalibrationOutlier="2 agar",
                 CalibrationForced=True)  # fmt: skip
    text = " ".join(re.sub("<[^>]+>", " ", page_of(names.out_dir)).split())
    assert "1 vial of known concentration, of 2: 2 agar is left out; a poor line" in text
    assert "2 agar (outlier, left out)" in text
    assert "calibration_forced poor line because of --force." in text
    assert "Vial left out 2 agar" in text


def test_the_calibration_figure_marks_an_outlier_by_name():
    held = fake_metrics()["Calibration"]
    vials = [{**vial, "used": vial["name"] != "2 agar"} for vial in held["vials"]]
    drawn = charts.calibration_figure({**held, "vials": vials})
    notes = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert notes == ["2 agar: outlier, left out"] * 2
    plain = charts.calibration_figure(held)
    assert not [text for axes in plain.axes for text in axes.texts]


def slope(value, ratio, u):
    return {"Slope": value, "SlopeUncertainty": 0.05 * value, "RatioToChosen": ratio,
            "RatioUncertainty": u}  # fmt: skip


@pytest.mark.usefixtures("empty_pictures")
def test_calibration_by_the_vitreous_humour_says_so_and_stands_beside_the_others(names):
    told = "the references disagree: csf gives 1.30 ± 0.06 times the slope of vitreous"
    references = {
        "csf": slope(9100.0, 1.3, 0.06), "vitreous": slope(7000.0, 1.0, 0.0),
        "vials": {"Problem": "the slope of signal on concentration is -3"},
    }  # fmt: skip
    calibration = {
        "reference": "vitreous", "assumed": [140.0, 10.0], "Lines": {"corrected": LINE},
        "fluid": {"name": "CSF", "signal": 9e5, "u_signal": 1e3, "factor": 0.9},
        "References": references, "ReferenceWarnings": [told],
    }  # fmt: skip
    eyes = {"Found": True, "Radii": [11.52, 11.71], "Scores": [0.95, 0.94]}
    write_sodium(names, Calibration=calibration, Eyes=eyes)
    page = page_of(names.out_dir)
    text = " ".join(re.sub("<[^>]+>", " ", page).split())
    assert "The vitreous humour is taken to hold 140 ± 10 mmol/L" in text
    assert "relative to that" in text
    assert "CSF itself is no result" not in text
    assert "assumed, not measured" not in text  # CSF was measured
    assert "vitreous humour 7000 ± 350 1 calibrates CSF 9100 ± 455 1.300 ± 0.060 compared" in text
    assert "vials n/a n/a the slope of signal on concentration is -3" in text
    assert f"{told} (more than 3 combined" in text
    assert "11.5, 11.7 mm, correlation with a ball 0.95, 0.94" in text


@pytest.mark.usefixtures("empty_pictures")
def test_one_reference_alone_is_compared_with_nothing(names):
    write_sodium(names, Eyes={"Found": False, "Reason": "no eye was found on the left"})
    page = page_of(names.out_dir)
    assert "not found: no eye was found on the left" in page
    assert "of the line above" not in page


@pytest.mark.usefixtures("empty_pictures")
def test_vials_that_were_found_are_told_with_their_place(names):
    found = {"Centre": [67.1, 79.4, 32.0], "Diameter": 17.7, "Length": 49.1}
    write_sodium(
        names, VialsFound=[{**found, "Name": "1 agar"}, found], VialsIdentifiedBy="brightness"
    )
    page = page_of(names.out_dir)
    assert "found in the image and told apart by brightness" in page
    assert "1 agar at (67, 79, 32) mm, 18 x 49 mm; unknown at (67, 79, 32) mm" in page


@pytest.mark.usefixtures("empty_pictures")
def test_where_nothing_was_searched_no_vials_are_told(names):
    write_sodium(names)
    page = page_of(names.out_dir)
    assert "Vials found" not in page
    assert "told apart by" not in page


@pytest.mark.slow
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


@pytest.fixture
def patient(tmp_path):
    """Write five sessions of a subject, one of them without sodium."""
    for session in "12345":
        names = DerivativeNames(tmp_path, "01", session=session)
        write_anatomy(names)
        if session != "5":
            write_sodium(names, Warnings=[f"only {session}"])
    return tmp_path


@pytest.mark.usefixtures("empty_pictures")
def test_above_a_number_of_sessions_each_has_a_page_of_its_own(patient):
    write_report(patient, "01", sessions_at_most=4)
    pages = {path.name: path.read_text() for path in patient.glob("*.html")}
    assert set(pages) == {"sub-01.html", *(f"sub-01_ses-{n}.html" for n in "12345")}
    index = pages["sub-01.html"]
    for n in "12345":
        assert f'<a href="sub-01_ses-{n}.html">' in index
        assert f'<section id="ses-{n}">' in index
    assert index.count('<div class="big">41.4') == 4
    assert "ses-2 acq-23Na: only 2" in index
    assert "Sodium of ses-5 is missing" in index
    assert 'href="sub-01.html"' in pages["sub-01_ses-2.html"]
    assert "only 2" in pages["sub-01_ses-2.html"]
    assert "only 3" not in pages["sub-01_ses-2.html"]


@pytest.mark.usefixtures("empty_pictures")
def test_pages_of_sessions_that_are_on_one_page_now_are_gone(patient):
    (patient / "sub-01_ses-9.html").write_text("of an earlier run")
    (patient / "sub-012_ses-9.html").write_text("of another subject")
    write_report(patient, "01", sessions_at_most=5)
    assert {p.name for p in patient.glob("*.html")} == {"sub-01.html", "sub-012_ses-9.html"}
    assert find_subjects(patient) == ["01", "012"]


@pytest.mark.usefixtures("empty_pictures")
def test_more_than_three_warnings_leave_room_for_the_values(names):
    write_sodium(names, Warnings=[f"warning {n}" for n in range(9)])
    page = page_of(names.out_dir)
    assert "<strong>9 warnings</strong>" in page
    folded = page[page.index("<details>") : page.index("</details>")]
    assert "and 6 more" in folded
    assert re.findall(r"warning (\d)", folded) == list("345678")


@pytest.mark.usefixtures("empty_pictures")
def test_headings_are_in_order_and_every_head_of_a_table_has_a_scope(whole):
    levels = [int(level) for level in re.findall(r"<h(\d)", whole[1])]
    assert levels[0] == 1
    assert all(later - level <= 1 for level, later in pairwise(levels))
    assert re.findall(r"<th(?![^>]*scope=)[\s>]", whole[1]) == []


@pytest.mark.usefixtures("empty_pictures")
def test_maps_before_and_after_partial_volume_correction_stand_side_by_side(names):
    write_sodium(names)
    assert "No map corrected for partial volume was made" in page_of(names.out_dir)
    for kind in ({}, {"stat": "uncertainty"}):
        path = names.tsc_map("corrected", "T1w", pvc="rbv", **kind)
        save_image(path, ball(8) * 50, np.diag([2.0, 2, 2, 1]))
    (session,) = find_sessions(names.out_dir, "01")
    (run,) = session.runs
    assert list(run.corrected_maps()) == ["rbv"]
    figure = figures.pvc_figure(run, run.corrected_maps(), figures.load_contours(session))
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"uncorrected", "rbv"} <= words
    assert "No map corrected" not in page_of(names.out_dir)


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


KSPACE = {
    "ReconstructionReason": "linear and the same everywhere", "KspaceFilter": "hamming",
    "Readouts": 5000, "SamplesPerReadout": 256, "VoxelsPerSample": 0.2048,
    "DensityCompensation": "analytic on cones", "NoiseSource": "noise readouts",
    "Repetitions": 1, "Motion": [], "PointSpreadLocalAt": None, "PointSpreadUncertainty": 0.02,
    "PointSpreadFWHM": {"GM": [6.91, 6.92, 7.93], "1 agar": [5.55, 5.55, 5.55]},
    "PointSpreadGain": {"GM": 0.9971}, "Course": {},
    "GradientDelay": {"Corrected_us": None, "Estimated_us": [0.41, -2.5, 0.0],
                      "EstimatedUncertainty_us": [0.1, 0.2, 0.15]},
    "OffResonance": {"Minimum_Hz": -31.5, "Maximum_Hz": 44.25, "Segments": 6,
                     "SegmentError": 0.008},
}  # fmt: skip
COURSE = {
    "Method": "tv", "Iterations": 3, "Converged": False, "Residual": [1.0, 0.1, 0.02],
    "Objective": [9.0, 4.0, 3.5], "DataMisfit": [0.9, 0.5, None], "CoilSensitivities": "espirit",
}  # fmt: skip
BLOCK = {"rotation_deg": [0.1, 0, 2.31], "translation_mm": [1.5, 0, 0], "displacement_mm": 3.25,
         "displacement_sd_mm": 0.06, "misfit": 0.102, "reference": False}  # fmt: skip
BLOCKS = [
    {**BLOCK, "block": 0, "reference": True, "rejected": False},
    {**BLOCK, "block": 1, "rejected": False},
    {**BLOCK, "block": 2, "displacement_mm": None, "rejected": "it was broken off"},
]


def section_of(page, title="Reconstruction"):
    """Return the text of a section without its tags."""
    found = re.search(rf"<section>\s*<h2>{title}</h2>(.*?)</section>", page, re.S)
    return found and " ".join(re.sub(r"<[^>]*>", " ", found[1]).split())


def written(names, **metrics):
    write_sodium(names, **metrics)
    return section_of(page_of(names.out_dir))


@pytest.mark.usefixtures("empty_pictures")
def test_the_reconstruction_is_told_in_numbers(names):
    text = written(names, **KSPACE)
    for said in (
        "linear and the same everywhere", "hamming", "4 coils, 5000 readouts, 256 samples",
        "0.205", "analytic on cones",
        "noise readouts", "6.91 6.92 7.93 0.9971 15.0", "everywhere", "2 %",
        "0.41 ± 0.10, -2.50 ± 0.20, 0.00 ± 0.15 μs", "-31.5 to 44.2 Hz in 6 time segments",
    ):  # fmt: skip
        assert said in text
    assert not any(word in text for word in ("agar", "Iterations", "n/a", "Motion"))


@pytest.mark.usefixtures("empty_pictures")
def test_an_iterative_reconstruction_shows_its_course(names):
    write_sodium(names, **{**KSPACE, "Reconstruction": "tv", "Course": COURSE,
                           "PointSpreadLocalAt": [8, 9, 10]})  # fmt: skip
    page = page_of(names.out_dir)
    text = section_of(page)
    for said in ("total variation", "Iterations 3", "Converged no", "ESPIRiT", "voxel 8, 9, 10",
                 "pseudo-replicas", "hold there only"):  # fmt: skip
        assert said in text
    assert "k-space filter" not in text
    assert 'alt="Objective, residual' in page


@pytest.mark.usefixtures("empty_pictures")
def test_several_repetitions_have_a_table_of_their_motion(names):
    text = written(names, **{**KSPACE, "Motion": BLOCKS, "Repetitions": 3})
    assert "0.10, 0.00, 2.31 1.50, 0.00, 0.00 3.25 ± 0.06 0.102 used" in text
    assert "rejected it was broken off" in text
    assert "1 0.10, 0.00, 2.31 1.50, 0.00, 0.00 3.25 ± 0.06 0.102 reference" in text


@pytest.mark.usefixtures("empty_pictures")
def test_a_delay_that_cannot_be_estimated_says_why(names):
    delay = {"Corrected": [2e-6, 0.0, 1e-6], "Why": "one coil saw <nothing>"}
    text = written(names, **{**KSPACE, "GradientDelay": delay})
    assert "corrected 2.00, 0.00, 1.00 μs" in text
    assert "not possible: one coil saw &lt;nothing&gt;" in text


@pytest.mark.usefixtures("empty_pictures")
def test_a_quality_file_of_an_older_version_is_shown_as_far_as_it_goes(names):
    text = written(names, DensityCompensation="radial", NoiseSource="noise readouts")
    assert "analytic for radial readouts" in text
    assert not any(word in text for word in ("None", "delay", "Repetitions", "Off-resonance"))


@pytest.mark.usefixtures("empty_pictures")
def test_an_image_of_the_scanner_has_no_section_on_its_reconstruction(names):
    write_sodium(names, Reconstruction="by the scanner", KspaceFilter="hamming")
    page = page_of(names.out_dir)
    assert section_of(page) is None
    assert "k-space filter hamming" in section_of(page, "Quality")
    assert "GM 15.0 6.90, 6.90, 6.90" in section_of(page, "Quality")


@pytest.mark.usefixtures("empty_pictures")
def test_a_guided_reconstruction_misses_no_table(names):
    write_sodium(names, **KSPACE)
    guided = replace(names, rec="agr")
    write_json(guided.qc(), {**KSPACE, "Reconstruction": "agr", "Course": COURSE})
    page = page_of(names.out_dir)
    assert "along the edges of the 1H image" in page
    assert page.count("<h2>Reconstruction</h2>") == 2
    assert "is missing" not in page.replace("The methods text is missing", "")


@pytest.mark.usefixtures("empty_pictures")
def test_the_echoes_of_a_guided_image_are_told(names):
    told = {**KSPACE, "EchoesUsed": 2, "EchoTimesUsed": [0.0003, 0.0125]}
    assert "Echoes 2 used, from 0.300, 12.500 ms on" in written(names, **told)
    assert "Echoes" not in written(names, **KSPACE)


@pytest.mark.usefixtures("empty_pictures")
def test_the_methods_of_a_report_name_the_weights_that_were_used(names):
    write_sodium(names, **KSPACE)
    path = DatasetNames(names.out_dir).citation_md
    path.parent.mkdir()
    path.write_text(f"# Methods\n\nFirst this. {DENSITY}\n")
    page = page_of(names.out_dir)
    assert "First this. Density compensation was analytic for readouts on cones" in page


def test_the_course_of_iterations_is_drawn_with_gaps_where_it_is_not_known():
    left, right = charts.convergence_figure(COURSE).axes
    assert left.lines[0].get_ydata()[-1] == 1.0
    assert right.get_yscale() == "log"
    assert np.isnan(right.lines[1].get_ydata()[-1])
    assert charts.convergence_figure({}).axes


def test_the_noise_level_is_relative_to_the_image(names):
    write_sodium(names)
    run = find_sessions(names.out_dir, "01")[0].runs[0]
    assert noise_level(run).startswith("SD 0 (median of the map, signal units, 0 %")
    save_image(names.sodium_preproc(stat="noise"), np.full((SIZE,) * 3, 2.0), np.eye(4))
    assert "SD 2 (median of the map, signal units, 5 %" in noise_level(run)
    names.sodium_preproc().unlink()
    assert noise_level(run) == ""


@pytest.mark.parametrize("value", [None, [], "?", 3])
def test_a_damaged_entry_breaks_no_report(value):
    held = dict.fromkeys(("Motion", "GradientDelay", "Course", "OffResonance"), value)
    assert (largest_delay(held), largest_displacement(held), course_of(held)) == (None, None, {})


def test_the_report_shows_every_candidate_of_the_registration(tmp_path):
    names = DerivativeNames(tmp_path, "01")
    write_sodium(names)
    page = page_of(tmp_path)
    row = re.search(r"<tr[^>]*><th[^>]*>mi, from header</th>.*?</tr>", page)
    assert row is not None
    assert ">0.9000<" in row[0]
    assert ">1.47<" in row[0]
    assert "0.04 mm in 95 % of simulated cases" in page


@pytest.fixture
def shared(tmp_path):
    """Write one anatomy of two sessions, each with its mask, and what an earlier run left."""
    whole = DerivativeNames(tmp_path, "01")
    write_anatomy(whole)
    for session in "12":
        names = replace(whole, session=session)
        write_sodium(names, AnatomicalReference="first-lex")
        save_image(names.session_lesion_mask("edema"), ball(2), np.diag([2.0, 2, 2, 1]))
    write_anatomy(replace(whole, session="2"), lesion="stale")
    return tmp_path


def test_sessions_that_share_an_anatomy_are_shown_on_it_with_their_own_lesions(shared):
    sessions = find_sessions(shared, "01")
    assert [session.title for session in sessions] == ["ses-1", "ses-2"]
    for session in sessions:
        assert session.has_anatomy
        assert (
            session.names.anat_preproc() == shared / "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"
        )
        assert list(session.lesion_files()) == ["edema"]
        assert session.metadata["BrainVolume"] == 17.0


def test_a_session_says_how_far_it_lies_from_the_reference(shared, empty_pictures):
    names = DerivativeNames(shared, "01", session="2")
    pose = {"Score": 0.97, "Rotation": 12.3, "Displacement": 4.5}
    write_sodium(names, AnatomicalReference="unbiased", SessionToReference=pose)
    page = page_of(shared)
    assert "the mean of all sessions" in page
    assert "turned by 12.3° and shifted by 4.5 mm, correlation 0.97" in page
    assert "No sodium run has results" not in page


def test_sessions_with_anatomies_of_their_own_keep_them_beside_one_of_the_subject(shared):
    names = DerivativeNames(shared, "01", session="2")
    write_sodium(names, AnatomicalReference="sessionwise")
    session = find_sessions(shared, "01")[-1]
    assert not session.names.shared_anatomy
    assert list(session.lesion_files()) == ["stale"]


def drawn_lesions(figure):
    """Return how many panels hold the outline of a lesion."""
    wanted = {mpl.colors.to_hex(color).upper() for color in figures.LESION_LOOKS}
    return sum(
        any(mpl.colors.to_hex(c).upper() in wanted for c in lines.get_edgecolor())
        for axes in figure.axes
        for lines in axes.collections
        if len(lines.get_edgecolor())
    )


def test_every_figure_of_anatomy_or_maps_has_the_lesions_and_names_them(names, monkeypatch):
    few = figures.spread_cuts
    monkeypatch.setattr(figures, "spread_cuts", lambda mask, axis, _: few(mask, axis, 2))
    write_sodium(names)
    names.sodium_transform().write_text(IDENTITY)
    (session,) = find_sessions(names.out_dir, "01")
    run, contours = session.runs[0], figures.load_contours(session)
    lesions = figures.sodium_lesions(run, session)
    drawn = [
        figures.anatomy_figure(session, contours),
        *figures.registration_figures(run, session, contours),
        figures.concentration_figure(run, contours),
        figures.receive_figure(run, lesions),
    ]
    for figure in drawn:
        assert drawn_lesions(figure) > 1
        assert "core" in [text.get_text() for text in figure.texts]


def test_apparent_and_corrected_maps_share_slices_scale_and_unit(names, monkeypatch):
    few = figures.spread_cuts
    monkeypatch.setattr(figures, "spread_cuts", lambda mask, axis, _: few(mask, axis, 2))
    write_sodium(names)
    (session,) = find_sessions(names.out_dir, "01")
    figure = figures.concentration_figure(session.runs[0], figures.load_contours(session))
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"apparent", "corrected", "uncertainty"} <= words
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    per_map = len(shown) // 3
    apparent, corrected = shown[:per_map], shown[per_map : 2 * per_map]
    for one, other in zip(apparent, corrected, strict=True):
        assert one.get_clim() == other.get_clim() == (0.0, 150.0)
        assert one.get_cmap().name == other.get_cmap().name
        assert one.get_extent() == other.get_extent()
    bars = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert bars == ["mmol/L"] * 3


def test_lesions_on_the_sodium_grid_follow_the_transform(names):
    write_sodium(names)
    moved = IDENTITY.replace("0 0 0\nFixed", "-4 0 6\nFixed")  # LPS: 2 voxels right, 3 up
    names.sodium_transform().write_text(moved)
    (session,) = find_sessions(names.out_dir, "01")
    lesions = figures.sodium_lesions(session.runs[0], session)
    found = np.argwhere(lesions.layers["core"][0].values > 0.5).mean(axis=0)
    np.testing.assert_allclose(found, (SIZE - 1) / 2 + np.array([2, 0, 3]), atol=1e-6)


def test_a_sodium_image_without_transform_is_shown_without_lesions(names):
    write_sodium(names)
    (session,) = find_sessions(names.out_dir, "01")
    assert figures.sodium_lesions(session.runs[0], session) is None


def test_a_transform_that_is_not_linear_is_refused_with_its_file(tmp_path):
    path = tmp_path / "a_xfm.txt"
    path.write_text("Parameters: 1 2 3\nFixedParameters: 0 0 0\n")
    with pytest.raises(ValueError, match=r"a_xfm.txt: not a linear transform"):
        figures.read_linear_text(path)


def test_the_centre_of_a_transform_counts(tmp_path):
    path = tmp_path / "a_xfm.txt"
    path.write_text("Parameters: 0 -1 0 1 0 0 0 0 1 5 0 0\nFixedParameters: 1 0 0\n")
    matrix = figures.read_linear_text(path)
    np.testing.assert_allclose(matrix @ [1, 0, 0, 1], [6, 0, 0, 1])  # the centre only shifts


def test_classes_of_lesions_are_told_apart_without_colour():
    styles = [str(style) for style in figures.LESION_LOOKS.values()]
    assert len(set(styles)) == len(styles)


def test_the_fit_of_the_regions_is_told_where_it_is_known():
    held = {
        "ResidualOverNoise": {"GM": 1.5, "WM": 1.0},
        "KspaceRegression": {"ReducedChiSquare": 1.1},
    }
    shown = {name: value for name, value, _ in report._fit_quality(held)}
    assert shown["Residual over noise"] == "GM 1.5, WM 1.0"
    assert shown["The same in k-space"] == "1.10"
    assert all(value == "n/a" for _, value, _ in report._fit_quality({}))


SCAN_TIME = {
    "Names": ["GM", "WM"], "Share": [0.1, 0.5, 1.0],
    "Uncertainty": [[3.2, 6.4], [1.4, 2.8], [1.0, 2.0]],
    "Scatter": [[3.0, 6.0], [1.5, 2.5], None],
}  # fmt: skip


def test_each_region_has_a_line_of_theory_and_circles_of_what_was_seen():
    axes = charts.scan_time_figure(SCAN_TIME).axes[0]
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    circles = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_label() for line in lines] == ["GM", "WM"]
    np.testing.assert_allclose(lines[1].get_ydata(), [6.4, 2.8, 2.0])
    assert np.isnan(circles[0].get_ydata()[-1])  # the whole scan does not scatter
    assert [t.get_text() for t in axes.get_xticklabels()] == ["10 %", "50 %", "100 %"]


@pytest.mark.usefixtures("empty_pictures")
def test_calibration_by_a_phantom_tells_its_terms(names):
    phantom = {
        "Concentration": 50.0, "LoadingFactor": 1.08, "Volume_ml": 812.3,
        "RelativeUncertainty": {"Noise": 0.001, "Loading": 0.02, "Concentration": 0.01},
    }  # fmt: skip
    references = {"phantom": slope(7000.0, 1.0, 0.0), "csf": slope(7100.0, 1.014, 0.06)}
    calibration = {
        "reference": "phantom", "phantom": phantom, "Lines": {"corrected": LINE},
        "References": references,
    }  # fmt: skip
    write_sodium(names, Calibration=calibration)
    text = " ".join(re.sub("<[^>]+>", " ", page_of(names.out_dir)).split())
    assert "phantom scanned by itself, 50.0 mmol/L, loading factor 1.080: the slope is" in text
    assert "known to 2.2 %, most of it loading" in text
    assert "its signal in 812 ml away from the wall" in text
    assert "Loading 2.00 Concentration 1.00" in text
    assert "relative to an assumption" not in text.lower()
    assert "phantom scanned by itself 7000 ± 350 1 calibrates CSF 7100 ± 355 1.014" in text


def test_flags_stand_in_the_quality_table_and_their_reasons_among_the_warnings(
    names, empty_pictures
):
    flags = [{"Name": "ghosting", "Reason": "signal <b>outside</b>"}]
    write_sodium(names, Flags=flags, Warnings=["signal <b>outside</b>"], BrainDice=0.912)
    page = page_of(names.out_dir)
    assert page.count("signal &lt;b&gt;outside") >= 1
    assert "<b>outside" not in page
    assert "0.912" in page
    assert re.search(r"Flags</t[hd]>\s*<td[^>]*>ghosting<", page)
