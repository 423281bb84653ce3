"""The log of a subject: what was found, its steps, warnings from any process, what failed."""

import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.bids_app.engine import execute
from sodiumprep.bids_app.record import write_record
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.subject_logs import SubjectLogs, append, warnings_logged

TIME = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def doubtful(x):
    import logging
    import warnings

    warnings.warn("the head\nis small", stacklevel=1)
    logging.getLogger("nipype.interface").warning("odd header")
    return x


@pytest.fixture
def logs(tmp_path):
    settings = Settings(tmp_path / "raw", tmp_path / "out", tmp_path / "work", nprocs=1)
    return SubjectLogs(write_record(settings, ["01"])), settings


def lines(logs, subject="sub-01"):
    told = logs.record.with_name(f"{subject}.log").read_text().splitlines()
    assert all(TIME.match(line) for line in told)
    return [TIME.sub("", line) for line in told]


@pytest.mark.filterwarnings("default")
def test_warnings_of_a_worker_lie_in_the_log_of_its_subject(logs, capfd):
    logs, settings = logs
    whole = Workflow(name="sodiumprep_wf")
    for label in ("01", "02"):
        subject = Workflow(name=f"sub_{label}_wf")
        subject.add_nodes([Node(Function(["x"], ["y"], doubtful), name="brain_mask")])
        subject.get_node("brain_mask").inputs.x = label
        whole.add_nodes([subject])
    with warnings_logged(logs):
        assert execute(whole, settings, logs) == {}
    for subject in ("sub-01", "sub-02"):
        told = lines(logs, subject)
        assert "start  brain mask" in told
        assert any(re.fullmatch(r"end    brain mask \(\d+\.\d s\)", line) for line in told)
        assert any(line.startswith("warning brain mask: ") and "the head is small" in line
                   for line in told)  # fmt: skip
        assert "warning brain mask: odd header" in told
    seen = capfd.readouterr()
    assert "small" not in seen.out + seen.err
    assert "odd" not in seen.out + seen.err


def test_a_warning_outside_of_nodes_is_in_no_log(logs):
    with warnings_logged(logs[0]), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("of nobody", stacklevel=1)
    assert list(logs[0].record.parent.glob("*.log")) == []


def test_a_log_tells_its_run_and_what_failed(logs):
    logs, _ = logs
    logs.write_failures([("01 ses-2", "no EchoTime"), ("02", f"{Path.home()}/a is bad")])
    identifier = logs.record.parent.name.removeprefix("run-")
    told = lines(logs)
    assert told[0].startswith(f"run {identifier}, sodiumprep ")
    assert told[1].startswith("sodiumprep ")
    assert told[2] == "failed: ses-2: no EchoTime"
    assert lines(logs, "sub-02")[2] == "failed: ~/a is bad"


def test_a_step_that_failed_or_was_reused_says_so(logs):
    logs, _ = logs
    step = SimpleNamespace(fullname="sodiumprep_wf.sub_01_wf.anatomy_wf.brain_mask")
    for status in ("start", "exception", "end"):
        logs(step, status)
    logs(SimpleNamespace(fullname="sodiumprep_wf.sub_01_wf.inputnode"), "end")
    assert re.fullmatch(r"FAILED anatomy brain mask \(\d\.\d s\)", lines(logs)[3])
    assert lines(logs)[4:] == ["end    anatomy brain mask (reused)"]


def test_lines_are_appended(tmp_path):
    append(tmp_path / "a.log", ["one"])
    append(tmp_path / "a.log", ["two \udc80"])
    assert [line[20:] for line in (tmp_path / "a.log").read_text().splitlines()] == [
        "one", "two ?"]  # fmt: skip


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / "a.log").mkdir()
    append(tmp_path / "a.log", ["one"])
    assert list((tmp_path / "a.log").iterdir()) == []
