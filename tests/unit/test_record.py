"""What a run was asked can be read back, tells no home folder, and stands in the report."""

import json
import platform
import re
import shlex
import signal
import tomllib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from sodiumprep.bids_app import cli, run
from sodiumprep.bids_app.anatomies import Anatomy
from sodiumprep.bids_app.cli import build_parser, parse_settings
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.history import find_crashes, history_section, known_errors
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.outcome import outcome_lines
from sodiumprep.bids_app.record import (
    add_failures,
    command_for,
    end_record,
    last_record,
    read_record,
    without_home,
    write_record,
)
from sodiumprep.bids_app.run import run_participant
from sodiumprep.bids_app.stopping import Stopped

JOB = SubjectJob("01", None, Anatomy(Path("T1w.nii.gz"), "T1w"), ())
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


LABELS = st.text("abcXYZ0189", min_size=1, max_size=4)
SIZES = st.builds("{}{}".format, st.integers(1, 9999), st.sampled_from(["", "M", "GB", "g"]))
VALUES = {
    "participant-label": st.lists(LABELS, min_size=1, max_size=3),
    "session-label": st.lists(LABELS, min_size=1, max_size=2),
    "nprocs": st.integers(1, 64).map(str),
    "random-seed": st.integers(0, 2**31 - 1).map(str),
    "mem": SIZES,
    "recon": st.sampled_from(["gridding", "cg", "tv"]),
    "pvc": st.lists(st.sampled_from(["none", "rbv", "gtm", "mtc"]), min_size=1),
    "psf-fwhm": st.floats(0.1, 50, allow_subnormal=False).map(lambda width: [repr(width)]),
    "monte-carlo": st.integers(100, 9999).map(str),
    "lesion-shells": st.sampled_from([["5", "10"], ["0.5", "1", "20.25"]]),
    "min-coverage": st.floats(0, 1).map(repr),
    "gradient-delay": st.just(["estimate"]) | st.just(["-1.5", "0", "2"]),
    "atlases": st.just(["lobes"]),
    "output-spaces": st.just(["MNI152NLin6Asym:res-2"]),
    "na2anat-dof": st.sampled_from(["6", "12"]),
    **dict.fromkeys(["sloppy", "low-mem", "force", "clean-workdir", "no-viewer"], st.just(True)),
}
GIVEN = st.fixed_dictionaries({}, optional=VALUES)


def as_tokens(given):
    parts = []
    for name, value in given.items():
        parts.append(f"--{name}")
        parts += [] if value is True else value if isinstance(value, list) else [value]
    return parts


@given(asked_for=GIVEN)
@hypothesis.settings(
    max_examples=25, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_whatever_was_asked_is_asked_again_by_its_file(study, asked_for):
    settings = asked(*as_tokens(asked_for))
    first = write_record(settings, ["01"])
    again = asked("--config-file", str(first))
    assert again == settings
    second = read_record(write_record(again, ["01"]))
    assert second.options == read_record(first).options
    assert set(again.options) == set(settings.options)  # defaults are told as such again


def test_a_record_holds_every_option_with_its_default(study):
    record = read_record(write_record(asked("--sloppy"), ["01"]))
    names = {action.dest.replace("_", "-") for action in build_parser()._actions}
    left_out = {"help", "version", "verbose", "self-test", "config-file"}
    left_out |= {"bids-dir", "out-dir", "level"}
    assert {*record.options, *record.told["unset"]} == names - left_out
    assert record.options["recon"] == "gridding"
    assert record.options["random-seed"] == 23
    assert record.options["participant-label"] == []
    assert record.options["low-mem"] is False
    assert "psf-fwhm" in record.told["unset"]
    assert record.given == {"sloppy": True}


def test_the_command_line_goes_before_a_record(study):
    first = write_record(asked("--recon", "cg", "--nprocs", "3"), ["01"])
    settings = asked("--config-file", str(first), "--recon", "tv")
    assert (settings.recon, settings.nprocs) == ("tv", 3)
    assert settings.options == {"recon": "tv", "nprocs": "3"}


def test_a_record_tells_what_the_run_had_and_that_it_was_this_run(study, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    path = write_record(asked(), ["01"])
    told = read_record(path).told
    assert path.parent.name == f"run-{told['id']}"
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", told["id"])
    had = told["resources"]
    assert had["processors"] >= had["usable_processors"] >= 1
    assert 0.1 < had["memory_gb"] < 1e5
    assert had["usable_processors"] == 1
    assert had["processors_bounded_by"] == "SLURM_CPUS_PER_TASK"
    assert had["usable_memory_gb"] <= had["memory_gb"]
    assert platform.node() not in path.read_text() or len(platform.node()) < 4


def test_what_failed_is_listed_beside_the_record(study):
    path = write_record(asked(), ["01"])
    assert not path.with_name("failures.tsv").exists()
    add_failures(path, [("01 ses-2", "a\tb\nc"), ("02", f"{study}/raw is bad")])
    assert path.with_name("failures.tsv").read_text().splitlines() == [
        "participant_id\tsession\tmessage", "sub-01\tses-2\ta b c",
        "sub-02\tn/a\t~/study/raw is bad"]  # fmt: skip


def test_the_command_to_run_the_failed_again_asks_the_same_of_these(study):
    settings = asked(*OPTIONS, "--clean-workdir")
    command = shlex.split(command_for(settings, ["02", "07"]))
    again = parse_settings([*command[1:], "-v"])
    assert again.participants == ("02", "07")
    assert replace(again, participants=("01", "02"), clean_workdir=True) == settings


def test_the_end_of_a_run_tells_numbers_the_list_and_the_way_on(study):
    settings = asked("--sloppy")
    record = write_record(settings, ["01", "02"])
    lines = outcome_lines(settings, ["01", "02", "02"], [("02 ses-1", "a"), ("02", "b")], record)
    assert lines[0].startswith("1 of 2 subjects done, 1 failed")
    assert str(record.with_name("failures.tsv")) in lines[1]
    assert lines[2].endswith("participant --sloppy --participant-label 02")
    assert outcome_lines(settings, ["01"], [], record)[0].startswith("1 of 1 subject done, 0 fa")
    many = [(f"{number}", "a") for number in range(60)]
    assert "the 60 labels" in outcome_lines(settings, [], many)[-1]
    assert outcome_lines(settings, [], []) == []


def test_a_record_tells_when_and_how_the_run_ended_and_a_killed_run_leaves_none(study):
    path = add_failures(write_record(asked(), ["01"]), [("01", "raw is bad")])
    assert not {"ended", "end"} & set(read_record(path).told)
    told = read_record(end_record(path)).told
    assert told["end"] == "completed"
    assert told["ended"] >= told["started"]
    assert read_record(end_record(path, "stopped by SIGTERM")).told["end"] == "stopped by SIGTERM"
    assert read_record(path).failures == {"01": ["raw is bad"]}
    end_record(path, f"broke off: {study}/raw is gone")
    assert read_record(path).told["end"] == "broke off: ~/study/raw is gone"


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (None, "completed"),
        (UserError("the disk is full"), "broke off: the disk is full"),
        (Stopped(signal.SIGTERM), "stopped by SIGTERM"),
        (KeyboardInterrupt(), "broke off"),
    ],
)
def test_however_a_run_ends_its_record_tells(study, monkeypatch, raised, told):
    settings = asked()
    path = write_record(settings, ["01"])
    monkeypatch.setattr(run, "collect", lambda _: ([], []))
    monkeypatch.setattr(run, "build", lambda *_: (None, {"sub_01_wf": JOB}, []))
    monkeypatch.setattr(run, "write_record", lambda *_: path)
    monkeypatch.setattr(run, "write_boilerplate", lambda *_: None)
    monkeypatch.setattr(run, "write_dataset_files", lambda *_: None)

    def graph(*_):
        if raised is not None:
            raise raised

    monkeypatch.setattr(run, "_run_graph", graph)
    with suppress(UserError, KeyboardInterrupt):
        run_participant(settings)
    assert read_record(path).told["end"] == told


def test_the_cohort_level_tells_its_end(study, monkeypatch):
    monkeypatch.setattr("sodiumprep.bids_app.group.run.run_group", lambda _: 0)
    (study / "out").mkdir()
    settings = parse_settings(["raw", "out", "group"])
    assert cli._run(settings) == 0
    (path,) = settings.out_dir.glob("logs/run-*/config.toml")
    assert read_record(path).told["end"] == "completed"


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
    assert told == {"node": "sodium_wf.source", "message": "KeyError: 'a'"}
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


def test_the_report_tells_neither_when_a_run_was_nor_its_name(study):
    failure = (
        "01",
        "second: KeyError: 'a' (details: /out/logs/crash-20260101-120000/crash-me.txt)",
    )
    stamps = []
    for _ in range(2):
        stamps.append(write_record(asked(), ["01"], [failure]).parent.name)
        errors = known_errors(asked().out_dir, "01")
        told = (errors, history_section(asked().out_dir, "01", errors))
        assert errors == ["second: KeyError: 'a'"]
        assert not re.search(r"20\d\d-?\d\d-?\d\d|run-|crash-", str(told).replace("run-*", ""))
    assert len(set(stamps)) == 2


def test_the_group_level_is_recorded_once_it_is_done(study, monkeypatch):
    monkeypatch.setattr("sodiumprep.bids_app.group.run.run_group", lambda settings: 0)
    (study / "out").mkdir()
    assert cli._run(parse_settings(["raw", "out", "group"])) == 0
    (path,) = (study / "out" / "logs").glob("run-*/config.toml")
    told = read_record(path).told
    assert told["command"] == "sodiumprep raw out group"
    assert (told["level"], told["subjects"]) == ("group", [])
    assert "\n# group --config-file FILE" in path.read_text()
    assert last_record(study / "out", "01") is None


def test_a_dry_run_leaves_no_record(study):
    (study / "raw" / "sub-01" / "anat").mkdir(parents=True)
    settings = asked("--dry-run", "--skip-bids-validation", "--participant-label", "01")
    run_participant(settings)
    assert not (settings.out_dir / "logs").exists()


def test_a_text_without_a_home_folder_is_left_as_it_is(study):
    assert without_home("/data/a: ~ 3") == "/data/a: ~ 3"
