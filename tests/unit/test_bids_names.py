"""Output names, as the contract fixes them."""

from pathlib import Path

import pytest

from sodiumprep.bids_app.names import (
    BIDSIGNORE,
    DatasetNames,
    DerivativeNames,
    acquisition_label,
    bids_uri,
    entities,
    with_json,
)

OUT = Path("out")


@pytest.fixture
def names():
    return DerivativeNames(OUT, "01")


def test_anatomical_names_are_those_of_the_contract(names):
    written = [names.anat_preproc(), names.brain_mask(), names.dseg(), names.probseg("GM")]
    assert [path.name for path in written] == [
        "sub-01_desc-preproc_T1w.nii.gz",
        "sub-01_desc-brain_mask.nii.gz",
        "sub-01_dseg.nii.gz",
        "sub-01_label-GM_probseg.nii.gz",
    ]
    assert {path.parent for path in written} == {OUT / "sub-01" / "anat"}


def test_sodium_names_are_those_of_the_contract(names):
    written = [
        names.sodium_preproc(),
        names.sodium_preproc(stat="noise"),
        names.receive_field(),
        names.receive_field(stat="uncertainty"),
        names.sodium_transform(),
        names.tsc_table(),
        names.tsc_dictionary(),
        names.qc(),
    ]
    assert [path.name for path in written] == [
        "sub-01_acq-23Na_desc-preproc_PDw.nii.gz",
        "sub-01_acq-23Na_stat-noise_desc-preproc_PDw.nii.gz",
        "sub-01_acq-23Na_desc-receive_RB1map.nii.gz",
        "sub-01_acq-23Na_stat-uncertainty_desc-receive_RB1map.nii.gz",
        "sub-01_acq-23Na_from-sodium_to-T1w_mode-image_xfm.txt",
        "sub-01_acq-23Na_seg-tissue_TSC.tsv",
        "sub-01_acq-23Na_seg-tissue_TSC.json",
        "sub-01_acq-23Na_desc-qc_metrics.json",
    ]


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({}, "_desc-corrected_TSCmap"),
        ({"space": "T1w"}, "_space-T1w_desc-corrected_TSCmap"),
        ({"pvc": "rbv"}, "_pvc-rbv_desc-corrected_TSCmap"),
        (
            {"space": "T1w", "pvc": "rbv", "stat": "uncertainty"},
            "_space-T1w_pvc-rbv_stat-uncertainty_desc-corrected_TSCmap",
        ),
    ],
)
def test_map_names_carry_space_method_and_statistic_in_this_order(names, options, ending):
    assert names.tsc_map("corrected", **options).name == f"sub-01_acq-23Na{ending}.nii.gz"


def test_session_run_and_method_stand_in_every_sodium_name():
    names = DerivativeNames(OUT, "01", session="2", run="03", rec="cg")
    assert names.qc() == (
        OUT / "sub-01/ses-2/anat/sub-01_ses-2_acq-23Na_rec-cg_run-03_desc-qc_metrics.json"
    )
    assert names.anat_preproc().name == "sub-01_ses-2_desc-preproc_T1w.nii.gz"


def test_report_and_figures_lie_where_the_contract_says(names):
    assert names.report() == OUT / "sub-01.html"
    assert names.figures_dir() == OUT / "sub-01" / "figures"
    assert names.sodium_figure("calibration").name == "sub-01_acq-23Na_desc-calibration_PDw.svg"


def test_group_names_are_those_of_the_contract():
    names = DatasetNames(OUT)
    assert names.group_table.name == "group_TSC.tsv"
    assert names.group_qc.name == "group_qc.tsv"
    assert names.group_report.name == "group.html"
    assert names.citation_md == OUT / "logs" / "CITATION.md"


def test_no_two_outputs_share_a_name():
    names = DerivativeNames(OUT, "01")
    maps = [
        names.tsc_map(desc, space, stat, pvc)
        for desc in ("apparent", "corrected")
        for space in (None, "T1w")
        for stat in (None, "uncertainty")
        for pvc in (None, "gtm")
    ]
    assert len(set(maps)) == 16


def test_an_acquisition_label_always_begins_with_the_nucleus():
    assert acquisition_label({}) == "23Na"
    assert acquisition_label({"acq": "23Na"}) == "23Na"
    assert acquisition_label({"acq": "tpi"}) == "23Natpi"


def test_entities_are_read_as_text():
    assert entities("sub-01_ses-2_acq-23Na_run-02_part-mag_PDw.nii.gz") == {
        "sub": "01",
        "ses": "2",
        "acq": "23Na",
        "run": "02",
        "part": "mag",
    }


def test_a_sidecar_has_the_name_of_its_file():
    assert with_json(Path("a/b_PDw.nii.gz")) == Path("a/b_PDw.json")


def test_a_uri_names_the_innermost_dataset():
    links = {"raw": Path("/raw"), "": Path("/raw/derivatives/out")}
    assert bids_uri(Path("/raw/sub-01/a.nii"), links) == "bids:raw:sub-01/a.nii"
    assert bids_uri(Path("/raw/derivatives/out/sub-01/b.nii"), links) == "bids::sub-01/b.nii"
    assert bids_uri(Path("/elsewhere/c.nii"), links) == "/elsewhere/c.nii"


def test_the_bidsignore_covers_what_the_standard_does_not_know():
    assert {"*.html", "*_TSCmap.*", "*_TSC.*"} <= set(BIDSIGNORE.split())
