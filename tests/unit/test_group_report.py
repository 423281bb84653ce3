"""The cohort's report says what its tables hold, leads to them, and stays small."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest

from sodiumprep.bids_app.group import findings, methods, page
from sodiumprep.bids_app.group.covariates import gather_covariates, read_participants
from sodiumprep.bids_app.group.drawing import robust_score, thinned
from sodiumprep.bids_app.group.model import Model
from sodiumprep.bids_app.group.overview import means_table, summary
from sodiumprep.bids_app.group.page import NOTHING
from sodiumprep.bids_app.group.quality import gather_quality
from sodiumprep.bids_app.group.report import write_group_report
from sodiumprep.bids_app.group.roster import MOST_ROWS, Roster, roster
from sodiumprep.bids_app.group.sections import outliers
from sodiumprep.bids_app.group.shown import (
    Places,
    Shown,
    side_by_side,
    taken,
    tissue_values,
    unanswered,
    where_all_are,
    with_best_others,
)
from sodiumprep.bids_app.group.tables import gather_tables
from sodiumprep.bids_app.group.values import Cohort
from sodiumprep.bids_app.names import DatasetNames, DerivativeNames
from sodiumprep.interfaces.concentration import COLUMNS
from sodiumprep.interfaces.sidecars import write_json

HOSTILE = "<b>odd</b>"
PEOPLE = [f"sub-{k:02d}" for k in range(12)]
MODEL = {
    "Model": {"X": [1, "group"], "Random": [], "Reference": {"group": "controls"},
              "Weights": "uncertainty"},
    "Repeatability": {"Over": "session"}, "Change": {"From": "1", "To": "2", "Better": "lower"},
    "Diagnostic": [{"Name": HOSTILE, "Positive": {}, "Negative": {}}],
    "Normative": {"By": "age", "Reference": {"group": "controls"}},
    "Outcome": {"Duration": "weeks", "Event": "died"},
    "Planning": {"Difference": 0.1, "Power": 0.8, "Alpha": 0.05},
}  # fmt: skip


def write_subject(out_dir, label, gm, flag="n/a", **metrics):
    names = DerivativeNames(out_dir, label.removeprefix("sub-"))
    names.folder.mkdir(parents=True, exist_ok=True)
    rows = [
        dict.fromkeys(COLUMNS, "n/a")
        | {"index": index, "name": name, "pvc": pvc, "desc": "corrected", "mean": mean}
        | {"ci_low": mean - 2, "ci_high": mean + 2, "uncertainty": 1.0, "flag": flag}
        for pvc in ("none", "gtm")
        for index, name, mean in ((1, "GM", gm), (2, "WM", 37.0), (4, HOSTILE, 70.0))
    ]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(names.tsc_table(), sep="\t", index=False)
    write_json(names.qc(), {"SNR": {"GM": 15.0}, "SoftwareVersion": "0.1.0"} | metrics)
    names.report().write_text("a report")


def write_cohort(out_dir):
    lines = ["participant_id\tage\tgroup"]
    for number, label in enumerate(PEOPLE):
        score = 0.2 if number == 7 else 0.9 + number / 1000
        write_subject(out_dir, label, 40.0 + number, RegistrationScore=score)
        lines.append(f"{label}\t{20 + 4 * number}\t{('controls', HOSTILE)[number % 2]}")
    DatasetNames(out_dir).participants.write_text("\n".join(lines) + "\n")


def gathered_cohort(out_dir, content, left_out=None):
    names = DatasetNames(out_dir)
    people = read_participants(names.participants)
    gathered = gather_tables(out_dir, people, names.group_table, names.group_parquet)
    measured = gathered.scan().select("participant_id", "session").unique().collect()
    covariates = gather_covariates(out_dir, measured)
    gone = pl.DataFrame() if left_out is None else left_out
    return Cohort(gathered, covariates, Model(content), gone, tuple(PEOPLE))


def keys_of(**more):
    rows = [
        {"seg": "tissue", "name": name, "pvc": pvc}
        for name in ("GM", HOSTILE)
        for pvc in ("none", "gtm")
    ]
    return pd.DataFrame(rows).assign(**more)


def ends(name, value, reach=1.0):
    return {name: value, f"{name}_low": value - reach, f"{name}_high": value + reach}


def for_all(**more):
    """Return a row for each region, method and participant."""
    table = keys_of()
    table = table.loc[table.index.repeat(len(PEOPLE))].reset_index(drop=True)
    return table.assign(participant_id=PEOPLE * 4, **more)


def fake_evidence():
    rng = np.random.default_rng(1)
    steps = rng.normal(size=48)
    norm = pd.concat(keys_of(age=age, centile="0.5", value=40.0) for age in (20, 60))
    roc = keys_of(comparison=HOSTILE, positive="GM", negative="GM", n_positive=6, n_negative=6,
                  brier=0.1, brier_reference=0.25, p_gain=0.5, notes=None)  # fmt: skip
    for name in ("auc", "cutoff", "sensitivity", "specificity", "calibration_slope",
                 "calibration_intercept", "auc_gain"):  # fmt: skip
        roc = roc.assign(**ends(name, 0.8, 0.1))
    repeat = keys_of(over="session", n_subjects=12, notes="", loa_low=-2.0, loa_high=2.0)
    for name in ("within_sd", "coefficient", "cov", "icc", "bias"):
        repeat = repeat.assign(**ends(name, 0.5, 0.1))
    curve = [keys_of(half=half, time=t, survival=1 - t / 9, low=0.1, high=1.0, at_risk=6 - t)
             for half in ("below", "above") for t in (0, 2, 5)]  # fmt: skip
    corner = [{"cutoff": 50 - 5 * k, "sensitivity": k / 2, "specificity": 1 - k / 2}
              for k in range(3)]  # fmt: skip
    return {
        "effects": keys_of(contrast=HOSTILE, estimate=2.0, ci_low=1.0, ci_high=3.0, p=0.01, q=0.02,
                           **ends("standardized", 0.7), n_subjects=12, checks="outliers: 2",
                           notes="", method="mixed model"),
        "repeatability": repeat,
        "pairs": for_all(mean=40 + steps, difference=steps).rename(
            columns={"participant_id": "subject"}),
        "changes": for_all(**{"from": "1", "to": "2"}, before=40.0, after=40 + steps, change=steps,
                           limit=1.0, verdict=np.where(steps < -1, "improved", "within error")),
        "responders": keys_of(**{"from": "1", "to": "2"}, n=12, improved=2, worse=0,
                              within_error=10, **ends("share_improved", 0.2, 0.1), sd_change=1.0,
                              share_by_chance=0.025, mean_change=0.1, error_from="stable ones"),
        "roc": roc,
        "roc_curves": pd.concat(
            roc[["seg", "comparison", "positive", "negative", "pvc"]].assign(**point)
            for point in corner),
        "survival": keys_of(**ends("hazard_per_sd", 1.5), **ends("hazard_per_10", 2.0, 0.5),
                            p=0.03, proportional_p=0.5, concordance=0.6, n=12, events=8, cut=45.0,
                            logrank_p=0.2, median_below=np.inf, median_above=3.0, covariates="",
                            notes=""),
        "survival_curves": pd.concat(curve),
        "norms": for_all(session="n/a", run="n/a", member=[True, False] * 24, z=2.5, z_low=2.0,
                         z_high=3.0, centile=0.99, notes=None),
        "norm_curves": norm,
        "planning": keys_of(design="groups", n=12, mean=40.0, sd=3.0, difference=4.0, power=0.8,
                            alpha=0.05, n_subjects=6),
        "modality": keys_of(map="ADC", r=0.5, r_low=0.2, r_high=0.7, notes="few"),
        "modality_points": for_all(x=40 + steps, y=steps, u_x=1.0, u_y=0.1),
        "voxelwise": pd.DataFrame([{
            "space": "MNI", "pvc": "none", "contrast": HOSTILE, "label": 1, "size_ml": 1.2,
            "mass": 30.0, "peak_t": 5.1, "peak_effect": 3.0, "peak_x": -12.0, "peak_y": 4.0,
            "peak_z": 50.0, "p_size": 0.02, "p_mass": 0.01}]),
        "voxelwise_model": pd.DataFrame([{
            "contrast": HOSTILE, "n": 12, "p_voxel": 0.03, "p_enhanced": 0.004, "notes": "few"}]),
        "voxelwise_figures": pd.DataFrame([
            {"figure": "voxelwise_mean.png", "caption": f"Mean {HOSTILE}"},
            {"figure": "voxelwise_gone.png", "caption": "Gone"}]),
    }  # fmt: skip


SECTIONS = ("quality", "regions", "differences", "repeatability", "change", "diagnosis",
            "survival", "norms", "planning", "modality", "voxelwise")  # fmt: skip


class Read(HTMLParser):
    """Images, links and headings of a page."""

    def __init__(self, text):
        super().__init__()
        self.images, self.links, self.sections, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        self.tags.append(tag)
        if tag == "img":
            self.images.append(held)
        if tag == "a":
            self.links.append(held["href"])
        if tag == "section":
            self.sections.append(held["id"])


@pytest.fixture(scope="module")
def out_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder)
    maps = DatasetNames(folder).group_dir / "figures"
    maps.mkdir(parents=True)
    (maps / "voxelwise_mean.png").write_bytes(b"\x89PNG")
    return folder


def written(out_dir, shown):
    """Return the page; figures are drawn, but not laid out and saved, which takes the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(page, "save_figure", lambda *_: "data:image/svg+xml;base64,")
        text = write_group_report(out_dir, shown).read_text()
    return SimpleNamespace(text=text, **vars(Read(text)))


@pytest.fixture(scope="module")
def shown(out_dir):
    missing = pd.DataFrame({"participant_id": ["sub-99"], "session": ["n/a"], "state": ["failed"],
                            "reason": [HOSTILE]})  # fmt: skip
    cohort = gathered_cohort(out_dir, MODEL)
    return Shown(cohort, gather_quality(out_dir), missing, fake_evidence(), [HOSTILE], 23)


@pytest.fixture(scope="module")
def full(out_dir, shown):
    return written(out_dir, shown)


def test_every_table_has_its_section_and_every_section_its_place_in_the_navigation(full):
    assert [s for s in full.sections if s in SECTIONS] == list(SECTIONS)
    assert {f"#{section}" for section in full.sections} <= set(full.links)
    assert full.text.count("is missing") == 1  # the figure that is not there


def test_without_evidence_there_are_the_cohort_and_the_methods_alone(out_dir, shown):
    bare = Shown(shown.cohort, shown.quality, shown.missing, {}, [])
    assert written(out_dir, bare).sections == [
        "summary", "subjects", "quality", "regions", "methods", "reproduce",
    ]  # fmt: skip


def test_names_from_tables_are_text_whatever_they_hold(full):
    assert full.text.count("&lt;b&gt;odd&lt;/b&gt;") > 20
    assert HOSTILE not in full.text


def test_every_figure_says_its_result_and_leads_to_its_numbers(full):
    assert len(full.images) >= 13
    assert all(len(image["alt"]) > 20 or "odd" in image["alt"] for image in full.images)
    captions = re.findall(r"<figcaption>.*?</figcaption>", full.text, re.DOTALL)
    led = [re.findall(r'href="([^"]+)"', text) for text in captions]
    assert all(led)
    assert len(led) == len(full.images)
    assert all(re.fullmatch(r"group(_TSC|_qc|/\w+)\.tsv", link) for links in led for link in links)


def test_nothing_is_asked_of_a_network(full):
    assert not [link for link in full.links if link.startswith("http") and "doi.org" not in link]
    assert all(image["src"].startswith("data:image/") for image in full.images)
    assert "connect-src data:" in full.text
    assert "link" not in full.tags


def test_the_first_screen_says_who_is_missing_and_what_is_asked(full):
    summary_text = full.text[full.text.index('id="summary"') : full.text.index('id="subjects"')]
    told = ("sub-99: failed", "12 participants, 12 runs", "sodiumprep 0.1.0", "weeks",
            "from session 1 to 2", "controls 6")  # fmt: skip
    assert [words for words in told if words not in summary_text] == []


def test_an_outlier_is_named_with_the_way_to_its_report(full):
    quality = full.text[full.text.index('id="quality"') : full.text.index('id="regions"')]
    assert '<a href="sub-07.html">sub-07</a>' in quality
    assert "sub-03" not in quality


def test_the_limit_of_a_change_says_what_it_rests_on(full):
    assert "The limit rests on: stable ones." in full.text


def test_a_figure_of_an_earlier_run_does_not_stay(out_dir, shown):
    stale = Places(out_dir).figure("roc")
    stale.write_text("of another model")
    written(out_dir, Shown(shown.cohort, shown.quality, shown.missing, {}, []))
    assert not stale.exists()
    assert (stale.parent / "voxelwise_mean.png").exists()


def test_a_map_that_lies_there_is_shown_with_its_caption_and_a_missing_one_is_named(full):
    assert "Mean &lt;b&gt;odd" in full.text
    assert "not there: voxelwise_gone.png" in full.text
    assert '<td class="left">-12, 4, 50</td>' in full.text
    assert any(image["src"] == "data:image/png;base64,iVBORw==" for image in full.images)


def test_failed_checks_stand_in_words_beside_the_effects(full):
    assert "Failed checks, of all: outliers: 2." in full.text


def test_mixed_versions_are_said(out_dir, shown):
    mixed = shown.quality.assign(software_version=["0.1.0", *["0.2.0"] * 11])
    told = written(out_dir, Shown(shown.cohort, mixed, shown.missing, {}, [])).text
    assert "<strong>Mixed versions</strong>" in told
    assert "0.1.0 (1 run)" in told


def test_what_the_model_leaves_out_is_in_no_mean_but_in_the_list(out_dir):
    gone = pl.DataFrame({"participant_id": ["sub-11"], "session": ["n/a"], "run": ["n/a"],
                         "reason": ["named"]})  # fmt: skip
    cohort = gathered_cohort(out_dir, MODEL, gone)
    values = tissue_values(cohort)
    means = summary(taken(values)).groupby("name")["n"].sum()
    assert means["GM"] == 11
    told = roster(Shown(cohort, gather_quality(out_dir), pd.DataFrame(), {}, []), values,
                  Places(out_dir))  # fmt: skip
    marked = [row[0] for row in told.rows if any("left out by the model" in text for text in row)]
    assert marked == ["sub-11"]
    assert len(told.rows) == 12


def test_means_stand_by_group_with_their_numbers(out_dir, shown):
    table = means_table(tissue_values(shown.cohort))
    assert [column.title for column in table.columns] == ["Region", HOSTILE, "controls"]
    told = dict(zip((row[0] for row in table.rows), table.rows, strict=True))["GM"][2]
    assert told == ("45.0 ± 3.7", "n 6; uncorrected 45.0 ± 3.7")


def test_a_run_with_a_quality_file_alone_is_in_the_list(out_dir, shown):
    quality = shown.quality.iloc[[0, 1]].assign(participant_id=["sub-00", "sub-50"])
    only = Shown(shown.cohort, quality, shown.missing, {}, [])
    told = roster(only, tissue_values(shown.cohort), Places(out_dir))
    assert (len(told.rows), told.rows[-1][0]) == (13, "sub-50")
    assert set(told.rows[-1][2:-1]) == {NOTHING}


def test_a_long_list_is_kept_as_text():
    many = MOST_ROWS + 1
    rows = tuple((f"sub-{k}", HOSTILE) for k in range(many))
    told = Roster(("Subject", "Flags"), (True, True), rows, ("sub-0.html", *[""] * (many - 1)))
    assert told.compact
    assert told.content["rows"][:2] == [["sub-0", HOSTILE, 1], ["sub-1", HOSTILE, 0]]


def test_a_long_list_in_the_page_is_harmless_and_small(out_dir, shown, monkeypatch):
    monkeypatch.setattr("sodiumprep.bids_app.group.roster.MOST_ROWS", 3)
    told = written(out_dir, Shown(shown.cohort, shown.quality, shown.missing, {}, [])).text
    held = re.search(r'<script type="application/json" id="roster">(.*?)</script>', told)
    assert len(json.loads(held[1])["rows"]) == 12
    assert "<b>odd" not in told
    assert "sub-03</a>" not in told


def test_many_runs_far_away_are_listed_by_how_far():
    quality = pd.DataFrame({"participant_id": list("abcdef"), "session": "n/a", "run": "n/a",
                            "snr_GM": [1, 2, 3, 2, 40, 90], "ghost_share": range(6)})  # fmt: skip
    far = outliers(quality, [("snr_GM", "SNR"), ("ghost_share", "ghosts")])
    assert far["participant_id"].tolist() == ["f", "e"]


def test_where_most_values_are_the_same_nothing_stands_out():
    assert robust_score(pd.Series([1.0, 1.0, 1.0, 7.0])).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("most", [2, 10, 99])
def test_thinning_keeps_both_ends_and_no_more_than_it_may(most):
    values = np.random.default_rng(0).normal(size=100)
    kept = values[thinned(values, most)]
    assert len(kept) == most
    assert (kept.min(), kept.max()) == (values.min(), values.max())


def test_of_many_regions_those_with_the_smallest_q_are_shown():
    rows = [{"seg": seg, "name": f"R{k}", "pvc": pvc, "contrast": "age", "q": k / 100}
            for seg, regions in (("tissue", 2), ("lobes", 50))
            for k in range(regions) for pvc in ("none", "gtm", "rbv")]  # fmt: skip
    kept = with_best_others(pd.DataFrame(rows), most=3)
    assert set(kept["pvc"]) == {"none", "gtm"}
    assert list(dict.fromkeys(zip(kept["seg"], kept["name"], strict=True))) == [
        ("tissue", "R0"), ("tissue", "R1"), ("lobes", "R0"), ("lobes", "R1"), ("lobes", "R2"),
    ]  # fmt: skip


def test_methods_of_a_region_follow_each_other_without_correction_first():
    table = pd.DataFrame({"name": ["WM", "GM", "WM", "GM"], "pvc": ["gtm", "gtm", "none", "none"]})
    rows = side_by_side(table)
    assert rows.to_numpy().tolist() == [
        ["WM", "none"], ["WM", "gtm"], ["GM", "none"], ["GM", "gtm"],
    ]  # fmt: skip


def test_what_is_not_shown_is_said_with_its_place():
    table = pd.DataFrame({"a": range(5)})
    assert where_all_are(table, table.head(2), "group/x.tsv").startswith("2 of 5 rows are shown")


def test_a_region_that_cannot_answer_says_why_once():
    table = pd.DataFrame({"name": ["GM", "GM", "WM", "CSF"], "z": [np.nan, np.nan, np.nan, 1.0],
                          "notes": ["too few", "too few", "too few", ""]})  # fmt: skip
    assert unanswered(table, "z") == ["GM, WM: too few"]


def test_the_methods_text_cites_what_it_lists_and_lists_what_it_cites(shown):
    told = methods.methods_text(shown)
    cited = set(re.findall(r"[A-Z][A-Za-z-]+ (?:19|20)\d\d", " ".join(told)))
    assert cited == {key for key in methods.REFERENCES if key in " ".join(told)}
    assert len(methods.references_of(told)) == len(cited) >= 18
    assert all("doi:10." in text for text in methods.REFERENCES.values())


def test_every_reference_is_cited_by_some_analysis():
    told = " ".join(tell(Model(MODEL)) for tell in methods.SENTENCES.values())
    assert [key for key in methods.REFERENCES if key not in told] == []


def test_the_command_asks_for_the_same_again(full):
    assert "group --model OUT_DIR/group/model.json --random-seed 23" in full.text
    assert Path("group/model.json").as_posix() in full.links


def test_a_lesion_whose_index_differs_between_participants_has_one_mean():
    rows = [(4, "core", "a", "pre", 60.0), (5, "core", "b", "pre", 80.0),
            (4, "core", "a", "post", 50.0)]  # fmt: skip
    keys = ["index", "name", "participant_id", "session", "mean"]
    values = pd.DataFrame(rows, columns=keys).assign(pvc="gtm", group="all")
    found = summary(values)
    assert found[["session", "n", "mean"]].to_numpy().tolist() == [
        ["pre", 2, 70.0],
        ["post", 1, 50.0],
    ]


@pytest.mark.parametrize(
    ("source", "said"), [("sessions", "2.5"), ("a: the body varies besides", "at least 2.5")]
)
def test_a_limit_that_lacks_what_the_body_varies_promises_no_share_of_false_alarms(source, said):
    row = {"name": "GM", "pvc": "gtm", "improved": 1, "worse": 0, "within_error": 9}
    rows = pd.DataFrame([{**row, "share_by_chance": 0.025, "error_from": source}])
    assert f"error alone would call {said}" in findings._change_words(rows)
