"""What a run was asked can be read back, tells no home folder, and stands in the report."""

import json
import shlex
import tomllib
from pathlib import Path

import pytest

from sodiumprep.bids_app.cli import parse_settings
from sodiumprep.bids_app.history import find_crashes, history_section, known_errors
from sodiumprep.bids_app.record import (
    add_failures,
    last_record,
    read_record,
    without_home,
    write_record,
)
from sodiumprep.bids_app.run import run_participant

HOSTILE = 'a "b" \\ \x7f \n<script> ä'


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Make a study folder in a home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "study"
    (folder / "raw" / "derivatives" / "manual").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    description = {"Name": "a", "BIDSVersion": "1.10.0"}
    (folder / "raw" / "dataset_description.json").write_text(json.dumps(description))
    monkeypatch.chdir(folder)
    return folder


def asked(*options):
    return parse_settings(["raw", "out", "participant", *options])


OPTIONS = ("--participant_label", "01", "02", "-d", "manual=raw/derivatives/manual",
           "own=../elsewhere", "--pvc", "rbv", "gtm", "--mem", "8GB", "--sloppy",
           "--psf-fwhm", "6", "--gradient-delay", "1", "-2", "0.5", "-v")  # fmt: skip


def test_a_record_read_as_configuration_gives_the_same_settings(study):
    settings = asked(*OPTIONS)
    path = write_record(settings, ["01", "02"])
    assert asked("--config-file", str(path), "-v") == settings
    assert settings.options["mem"] == "8GB"


def test_options_of_a_configuration_file_are_recorded_and_the_command_line_goes_before(study):
    Path("mine.toml").write_text('pvc = ["rbv"]\nrandom_seed = 5\nnprocs = 2\n')
    settings = asked("--config-file", "mine.toml", "--random-seed", "7")
    assert settings.options == {"pvc": ["rbv"], "random-seed": "7", "nprocs": "2"}


def test_the_command_of_a_record_gives_the_same_settings(study):
    settings = asked(*OPTIONS)
    told = read_record(write_record(settings, ["01"])).told
    assert parse_settings([*shlex.split(told["command"])[1:], "-v"]) == settings
    assert told["command"].startswith("sodiumprep raw out participant --")
    assert "manual=raw/derivatives/manual" in told["command"]
    assert told["seed"] == settings.random_seed == 23
    assert set(told["software"]) >= {"python", "numpy", "nipype", "antspyx"}


def test_a_record_tells_no_home_folder(study):
    path = add_failures(write_record(asked(*OPTIONS), ["01"]), [("01", f"{study}/raw/a is bad")])
    text = path.read_text()
    assert str(study.parent) not in text
    assert "own=~/elsewhere" in text
    assert read_record(path).failures == {"01": ["~/study/raw/a is bad"]}


def test_any_text_survives_a_record(study):
    path = add_failures(write_record(asked(), ["01"]), [("01 ses-2", HOSTILE), ("01", "b")])
    assert read_record(path).failures == {"01": [HOSTILE, "b"]}
    assert tomllib.loads(path.read_text())["record"]["subjects"] == ["01"]


def test_the_last_record_of_a_subject_counts_and_a_broken_one_does_not(study):
    settings = asked()
    first = write_record(settings, ["01"])
    logs = first.parents[1]
    for name, content in (("run-20990101-000000-a", "?"), ("run-2098", "a = 1")):
        (logs / name).mkdir()
        (logs / name / "config.toml").write_text(content)
    later = logs / "run-20970101-000000-b" / "config.toml"
    later.parent.mkdir()
    later.write_text(write_record(settings, ["02"], [("03", "lost")]).read_text())
    assert last_record(settings.out_dir, "01").path == first
    assert last_record(settings.out_dir, "03").path == later
    assert last_record(settings.out_dir, "04") is None


def crash(out_dir, stamp, owner, text="KeyError: 'a'"):
    folder = out_dir / "logs" / f"crash-{stamp}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"crash-{owner}.txt"
    path.write_text(f"Node: sodiumprep_wf.{owner}.sodium_wf.source\n\n{text}\n")
    return path


def test_crashes_are_those_of_the_subject_in_its_last_run(study):
    out = asked().out_dir
    crash(out, "20200101-000000", "sub_01_wf", "ValueError: of an earlier run")
    write_record(asked(), ["01"])
    crash(out, "20990101-000000", "sub_01_ses_2_wf")
    crash(out, "20990101-000000", "sub_012_wf")
    (told,) = history_section(out, "01", [])["crashes"]
    assert told == {"node": "sodium_wf.source", "message": "KeyError: 'a'",
                    "folder": "logs/crash-20990101-000000"}  # fmt: skip
    assert [c.owner for c in find_crashes(out, "01")] == ["sub_01_wf", "sub_01_ses_2_wf"]


def test_where_nothing_is_known_of_a_run_the_report_says_why(study):
    told = history_section(asked().out_dir, "01", [])
    assert "No record of a run" in told["problem"]
    assert "No crash file" in told["no_crash"]


def test_what_failed_is_told_once_and_survives_reports_only(study):
    settings = asked()
    write_record(settings, ["01"], [("01", "no EchoTime")])
    assert known_errors(settings.out_dir, "01", ["no EchoTime"]) == ["no EchoTime"]
    assert known_errors(settings.out_dir, "02") == []
    (settings.out_dir / "sub-01" / "anat").mkdir(parents=True)
    told = history_section(settings.out_dir, "01", ["no EchoTime"])
    assert "No node crashed in the last run" in told["no_crash"]


def test_a_dry_run_leaves_no_record(study):
    (study / "raw" / "sub-01" / "anat").mkdir(parents=True)
    settings = asked("--dry-run", "--skip-bids-validation", "--participant-label", "01")
    run_participant(settings)
    assert not (settings.out_dir / "logs").exists()


def test_a_text_without_a_home_folder_is_left_as_it_is(study):
    assert without_home("/data/a: ~ 3") == "/data/a: ~ 3"
