"""The cohort level needs the output alone and keeps every number as it stands."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from sodiumprep.bids_app.group import page as group_page
from sodiumprep.bids_app.group.covariates import gather_covariates, read_participants
from sodiumprep.bids_app.group.model import Model
from sodiumprep.bids_app.group.overview import summary
from sodiumprep.bids_app.group.quality import gather_quality
from sodiumprep.bids_app.group.run import run_group
from sodiumprep.bids_app.group.shown import tissue_values
from sodiumprep.bids_app.group.tables import gather_tables
from sodiumprep.bids_app.group.values import Cohort
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DatasetNames, DerivativeNames
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.concentration import COLUMNS
from sodiumprep.interfaces.sidecars import write_json

GM = {"controls": 41.25, "patients": 47.5}


SAVE = group_page.save_figure


@pytest.fixture(autouse=True)
def empty_pictures(monkeypatch):
    """Where tables and words are tested, laying figures out would only take time."""
    monkeypatch.setattr(group_page, "save_figure", lambda *_: "data:image/svg+xml;base64,")


@pytest.fixture
def drawn(monkeypatch, empty_pictures):
    monkeypatch.setattr(group_page, "save_figure", SAVE)


def write_results(out_dir, label, gm, session=None, run=None, rec=None, **metrics):
    names = DerivativeNames(out_dir, label, session=session, run=run, rec=rec)
    names.folder.mkdir(parents=True, exist_ok=True)
    rows = [
        dict.fromkeys(COLUMNS, "n/a")
        | {"index": index, "name": name, "pvc": pvc, "desc": "corrected", "mean": mean}
        | {"ci_low": mean - 2, "ci_high": mean + 2, "uncertainty": 1.0, "snr": 15}
        for pvc in ("none", "gtm")
        for index, name, mean in ((1, "GM", gm), (2, "WM", 37.125), (3, "CSF", 147.0))
    ]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(names.tsc_table(), sep="\t", index=False)
    line = {"slope": 2.0, "intercept": 0.0, "covariance": [[0.04, 0], [0, 0]]}
    held = {
        "SNR": {"GM": 15.0, "WM": 13.0, "core": None},
        "PointSpreadFWHM": {"GM": [4.0, 4.0, 8.0], "1 agar": [5.0, 5.0, 5.0]},
        "RegistrationScore": 0.9,
        "ReceiveUncorrected": False,
        "Warnings": [],
        "Calibration": {"reference": "vials", "Lines": {"corrected": line}},
    }
    write_json(names.qc(), held | metrics)
    (out_dir / f"sub-{label}.html").write_text("report")


def write_cohort(out_dir):
    lines = ["participant_id\tage\tgroup"]
    for number, group in enumerate(("controls", "controls", "patients", "patients"), 1):
        write_results(out_dir, f"0{number}", GM[group] + number)
        lines.append(f"sub-0{number}\t{20 + number}\t{group}")
    DatasetNames(out_dir).participants.write_text("\n".join([*lines, "sub-09\tn/a\tcontrols\n"]))
    described = {"age": {"Description": "Age", "Units": "year"}}
    (out_dir / "participants.json").write_text(json.dumps(described))


def gather(out_dir):
    gone = out_dir / "no_raw_data"
    assert run_group(Settings(gone, out_dir, gone, level="group")) == 0
    names = DatasetNames(out_dir)
    read = {"sep": "\t", "dtype": str, "keep_default_na": False}
    return pd.read_csv(names.group_table, **read), pd.read_csv(names.group_qc, **read)


def shown_values(out_dir):
    """Return what the report's figures are drawn from."""
    tables = DatasetNames(out_dir).group_table, DatasetNames(out_dir).group_parquet
    gathered = gather_tables(out_dir, read_participants(out_dir / "participants.tsv"), *tables)
    measured = gathered.scan().select("participant_id", "session").unique().collect()
    covariates = gather_covariates(out_dir, measured)
    return tissue_values(Cohort(gathered, covariates, Model({}), pl.DataFrame()))


def page_of(out_dir):
    return DatasetNames(out_dir).group_report.read_text()


def test_the_table_has_the_columns_of_the_contract(tmp_path):
    write_cohort(tmp_path)
    table, _ = gather(tmp_path)
    front = ["participant_id", "session", "run", "seg"]
    assert list(table.columns) == [*front, *COLUMNS, "age", "group"]


def test_the_table_is_tidy(tmp_path):
    write_cohort(tmp_path)
    table, _ = gather(tmp_path)
    key = ["participant_id", "session", "run", "seg", "name", "pvc", "desc"]
    assert len(table) == 4 * 6
    assert not table.duplicated(key).any()
    assert set(table["seg"]) == {"tissue"}
    assert not (table == "").any().any()


def test_numbers_and_unknown_values_are_kept_as_they_stand(tmp_path):
    write_cohort(tmp_path)
    table, _ = gather(tmp_path)
    row = table[(table["participant_id"] == "sub-01") & (table["pvc"] == "gtm")].iloc[0]
    assert (row["mean"], row["sd"], row["u_b1"]) == ("42.25", "n/a", "n/a")
    assert (row["session"], row["run"], row["age"]) == ("n/a", "n/a", "21")


def test_sessions_runs_and_segmentations_come_from_the_names(tmp_path):
    write_results(tmp_path, "01", 40.0, session="a", run="2")
    names = DerivativeNames(tmp_path, "01", session="a", run="2")
    names.tsc_table("lobes").write_bytes(names.tsc_table().read_bytes())
    table, quality = gather(tmp_path)
    assert set(map(tuple, table[["session", "run", "seg"]].to_numpy())) == {
        ("a", "2", "tissue"),
        ("a", "2", "lobes"),
    }
    assert quality.loc[0, ["session", "run"]].tolist() == ["a", "2"]
    assert "lobes" in page_of(tmp_path)


def test_reconstructions_of_one_run_stay_apart(tmp_path):
    write_results(tmp_path, "01", 40.0)
    write_results(tmp_path, "01", 41.0, rec="tv")
    table, quality = gather(tmp_path)
    assert set(table["rec"]) == {"n/a", "tv"}
    assert set(quality["rec"]) == {"n/a", "tv"}


def test_a_subject_that_no_participants_table_knows_is_kept(tmp_path):
    write_cohort(tmp_path)
    write_results(tmp_path, "05", 40.0)
    table, _ = gather(tmp_path)
    assert set(table[table["participant_id"] == "sub-05"]["group"]) == {"n/a"}


def test_a_participants_column_never_hides_a_result(tmp_path):
    write_results(tmp_path, "01", 40.0)
    DatasetNames(tmp_path).participants.write_text("participant_id\tmean\n01\t7\n")
    table, _ = gather(tmp_path)
    assert set(table["participants_mean"]) == {"7"}
    assert "40.0" in set(table["mean"])


def test_quality_has_one_flat_row_per_run(tmp_path):
    write_cohort(tmp_path)
    write_results(tmp_path, "04", 40.0, Warnings=["a\tb", "c"], ReceiveUncorrected=True)
    _, quality = gather(tmp_path)
    assert len(quality) == 4
    row = quality.set_index("participant_id").loc["sub-04"]
    assert row[["n_warnings", "warnings", "receive_uncorrected"]].tolist() == [
        "2",
        "a b | c",
        "true",
    ]
    assert row[["snr_GM", "snr_core", "psf_fwhm_GM"]].tolist() == ["15.0", "n/a", "5.04"]
    assert row[["calibration_slope", "calibration_u_slope"]].tolist() == ["2.0", "0.2"]
    assert not any("agar" in column for column in quality.columns)


def test_quality_of_a_reconstruction_has_columns_of_its_own(tmp_path):
    moved = [
        {"displacement_mm": 0.0, "rejected": False},
        {"displacement_mm": 1.25, "rejected": False},
        {"displacement_mm": 30.0, "rejected": "no pose was found"},
    ]
    told = {"Readouts": 5000, "VoxelsPerSample": 0.2048, "Motion": moved, "Repetitions": 3,
            "GradientDelay": {"Estimated_us": [0.4, -2.5, 0.0]},
            "Course": {"Iterations": 12, "Converged": True}}  # fmt: skip
    write_results(tmp_path, "01", 40.0, **told)
    write_results(tmp_path, "02", 40.0)
    _, quality = gather(tmp_path)
    expected = {
        "readouts": "5000", "voxels_per_sample": "0.2048", "repetitions": "3", "iterations": "12",
        "largest_displacement": "1.25", "rejected_repetitions": "1", "converged": "true",
        "largest_gradient_delay": "2.5",
    }  # fmt: skip
    first, second = quality[list(expected)].to_dict("records")
    assert first == expected
    assert set(second.values()) == {"n/a"}


def test_every_column_is_described(tmp_path):
    write_cohort(tmp_path)
    names = DerivativeNames(tmp_path, "01")
    lobes = pd.read_csv(names.tsc_table(), sep="\t").assign(tissue="GM")
    lobes.to_csv(names.tsc_table("lobes"), sep="\t", index=False)
    for table, name in zip(gather(tmp_path), ("group_TSC.json", "group_qc.json"), strict=True):
        described = json.loads((tmp_path / name).read_text())
        assert list(described) == list(table.columns)
        assert all(entry["Description"] for entry in described.values())
    described = json.loads((tmp_path / "group_TSC.json").read_text())
    assert described["age"]["Units"] == "year"
    assert "GM, WM, CSF, or all" in described["tissue"]["Description"]


def test_a_folder_without_results_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        run_group(Settings(tmp_path, tmp_path, tmp_path, level="group"))


@pytest.mark.parametrize(
    ("text", "said"),
    [("id\n01\n", "participant_id is missing"), ("participant_id\nsub-1\n1\n", "sub-1 .* twice")],
)
def test_an_unusable_participants_table_is_named(tmp_path, text, said):
    path = Path(tmp_path / "participants.tsv")
    path.write_text(text)
    with pytest.raises(UserError, match=f"participants.tsv: .*{said}"):
        read_participants(path)


def test_the_summary_averages_runs_of_a_subject_first(tmp_path):
    for run, gm in (("1", 30.0), ("2", 50.0)):
        write_results(tmp_path, "01", gm, run=run)
    write_results(tmp_path, "02", 46.0)
    gather(tmp_path)
    row = summary(shown_values(tmp_path)).iloc[0]
    assert (row["name"], row["n"], row["mean"]) == ("GM", 2, 43.0)
    assert row["sd"] == pytest.approx(np.std([40, 46], ddof=1))


@pytest.mark.usefixtures("drawn")
def test_the_report_opens_offline_and_shows_groups(tmp_path):
    write_cohort(tmp_path)
    gather(tmp_path)
    page = page_of(tmp_path)
    targets = re.findall(r'(?:src|href)="([^"]*)"', page)
    inside = ("data:image/", "#", "sub-", "group", "https://doi.org/")
    assert all(target.startswith(inside) for target in targets)
    assert page.count("<img ") >= 2
    assert '<a href="sub-01.html">' in page
    assert all(text in page for text in ("controls", "patients", "42.8 ± 0.7"))


def test_the_report_lists_failures_and_warnings(tmp_path):
    write_cohort(tmp_path)
    (tmp_path / "sub-07" / "figures").mkdir(parents=True)
    (tmp_path / "sub-08.html").write_text("the report of a subject without results")
    write_results(tmp_path, "04", 40.0, Warnings=["<i>odd</i>"])
    gather(tmp_path)
    page = page_of(tmp_path)
    assert all(f"sub-{label}: failed" in page for label in ("07", "08"))
    assert "sub-09: not processed" in page
    assert "&lt;i&gt;odd&lt;/i&gt;" in page


@pytest.mark.usefixtures("drawn")
def test_tables_without_quality_files_are_enough(tmp_path):
    write_results(tmp_path, "01", 40.0)
    DerivativeNames(tmp_path, "01").qc().unlink()
    table, quality = gather(tmp_path)
    assert (len(table), len(quality)) == (6, 0)


@pytest.mark.usefixtures("drawn")
def test_a_cohort_without_anatomy_has_its_table_and_no_tissues(tmp_path):
    for label in ("01", "02"):
        write_results(tmp_path, label, 40.0)
        names = DerivativeNames(tmp_path, label)
        table = pd.read_csv(names.tsc_table(), sep="\t").assign(desc="apparent")
        table = table[table["pvc"] == "none"]
        table.to_csv(names.tsc_table("drawn"), sep="\t", index=False, na_rep="n/a")
        names.tsc_table().unlink()
    DerivativeNames(tmp_path, "02").tsc_table("drawn").unlink()
    table, quality = gather(tmp_path)
    assert (set(table["seg"]), len(quality)) == ({"drawn"}, 2)
    assert "failed" not in page_of(tmp_path)


@pytest.mark.usefixtures("drawn")
def test_many_subjects_are_drawn_as_a_box(tmp_path):
    for number in range(6):
        write_results(tmp_path, f"1{number}", 40.0 + number, RegistrationScore=0.9 - number**3)
    gather(tmp_path)
    drawn = (DatasetNames(tmp_path).group_dir / "figures" / "group_regions.svg").read_text()
    assert drawn.startswith("<?xml")
    assert "sub-15" in page_of(tmp_path)


def test_the_shared_reference_of_sessions_stands_in_the_quality_table(tmp_path):
    pose = {"Score": 0.95, "Rotation": 3.0, "Displacement": 2.0}
    write_results(tmp_path, "01", 40.0, session="2", AnatomicalReference="first-lex",
                  SessionToReference=pose)  # fmt: skip
    anatomy = DerivativeNames(tmp_path, "01")
    anatomy.folder.mkdir(parents=True, exist_ok=True)
    image = anatomy.anat_preproc()
    image.touch()
    write_json(image.with_name("sub-01_desc-preproc_T1w.json"), {"BrainVolume": 1400.0})
    quality = gather_quality(tmp_path)
    row = quality.loc[0, ["session", "anatomical_reference", "session_score", "brain_volume_ml"]]
    assert row.tolist() == ["2", "first-lex", 0.95, 1400.0]


def test_figures_of_quality_have_columns_and_what_is_nested_deeper_has_none(tmp_path):
    flags = [{"Name": "ghosting", "Reason": "a"}, {"Name": "tissue_fractions", "Reason": "b"},
             {"Name": "tissue_fractions", "Reason": "c"}]  # fmt: skip
    write_results(
        tmp_path, "01", 40.0, SpikeShare=0.002, BrainDice=0.91, Flags=flags,
        SpikeReadouts=[3, 4], CalibrationResiduals={"1 agar": 0.01}, NoiseSD={"GM": 2.5},
        TissueFractions={"GM": 0.5, "WM": 0.3}, ResidualOverNoise={"GM": 1.9},
    )  # fmt: skip
    _, quality = gather(tmp_path)
    row = quality.iloc[0]
    known = {"spike_share": "0.002", "brain_dice": "0.91", "noise_sd_GM": "2.5", "n_flags": "3",
             "fraction_GM": "0.5", "residual_GM": "1.9", "flags": "ghosting | tissue_fractions",
             "ghost_share": "n/a", "psf_fwhm_GM": "5.04"}  # fmt: skip
    assert {name: row[name] for name in known} == known
    assert not [name for name in quality if "agar" in name or "readouts_" in name]
    dictionary = json.loads((tmp_path / "group_qc.json").read_text())
    assert set(dictionary) == set(quality.columns)
    assert dictionary["noise_sd_GM"] == {
        "Description": "Noise SD of one voxel: GM",
        "Units": "mmol/L",
    }


def test_a_quality_file_without_flags_has_an_unknown_number_of_them(tmp_path):
    write_results(tmp_path, "01", 40.0)
    _, quality = gather(tmp_path)
    assert quality.n_flags.tolist() == ["n/a"]
