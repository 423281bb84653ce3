"""Progress: lines where they are read later, a bar where somebody looks, and what it says."""

import os
import pty
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from nipype.interfaces.utility import Function, IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.bids_app.progress import Bar, Course, Lines, draws_bars, progress, say, told_to

NAMES = [f"sodiumprep_wf.sub_{label}_wf.{step}" for label in ("01", "02") for step in ("a", "b")]
SCRIPT = """
import sys, time
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow
from pathlib import Path
from sodiumprep.bids_app.engine import execute
from sodiumprep.bids_app.progress import progress
from sodiumprep.bids_app.settings import Settings

def slow(x):
    import time
    time.sleep(0.5)
    return x

def wrong(x):
    raise ValueError("wrong")

whole = Workflow(name="sodiumprep_wf")
for label, function in {"01": slow, "02": wrong}.items():
    subject = Workflow(name=f"sub_{label}_wf")
    first = Node(Function(["x"], ["y"], slow), name="first")
    first.inputs.x = 1
    second = Node(Function(["x"], ["y"], function), name="brain_mask")
    subject.connect(first, "y", second, "x")
    whole.add_nodes([subject])
root = Path(sys.argv[1])
with progress(whole, 2) as shown:
    execute(whole, Settings(root / "raw", root / "out", root / "work", nprocs=2), shown)
"""


def course(workers=1):
    return Course(NAMES, workers)


def node(name):
    return SimpleNamespace(fullname=name)


def fit_line():
    """Return a graph of one port and one step."""
    inner = Workflow(name="sub_01_ses_a_wf")
    port = Node(IdentityInterface(["x"]), name="inputnode")
    step = Node(Function(["x"], ["y"], "def f(x): return x"), name="fit_line")
    inner.connect(port, "x", step, "x")
    whole = Workflow(name="sodiumprep_wf")
    whole.add_nodes([inner])
    return whole


def all_of(terminal):
    """Return what was written to a terminal, of which the other end is closed."""
    told = b""
    with suppress(OSError):  # how Linux says so
        while part := os.read(terminal, 4096):
            told += part
    return told.decode()


def seen_on_a_terminal(folder):
    """Run the script on a terminal of 120 columns; return what it wrote there."""
    (folder / "script.py").write_text(SCRIPT)
    parent, child = pty.openpty()
    given = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "NIPYPE_NO_ET": "1"}
    running = subprocess.Popen(
        [sys.executable, "script.py", str(folder)], cwd=folder, stdout=child, env=given,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(child)
    told = all_of(parent)
    os.close(parent)
    assert running.wait(60) == 0, running.stderr.read().decode()
    running.stderr.close()
    return told


def test_a_terminal_shows_a_bar_with_subjects_steps_and_the_time_left(tmp_path):
    told = seen_on_a_terminal(tmp_path)
    drawn = told.split("\r")
    assert any("0 of 2 subjects done" in line and "sub-01: first" in line for line in drawn)
    assert any(" s left" in line for line in drawn)
    assert "1 of 2 subjects done, 1 failed 100%" in drawn[-2]
    assert "sub-02: brain mask  FAILED\r\n" in told
    assert "\x1b[32m" in told
    assert "[" not in told.replace("\x1b[", "")  # no lines of steps beside the bar


@pytest.fixture
def terminal():
    """Open a terminal: where to write, and where to read what was written."""
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as stream:
        yield stream, parent
    os.close(parent)


@pytest.mark.parametrize(
    ("variable", "drawn", "coloured"),
    [(("TERM", "xterm"), True, True), (("NO_COLOR", "1"), True, False),
     (("TERM", "dumb"), False, False)],
)  # fmt: skip
def test_no_colour_where_none_is_wanted_and_no_bar_on_a_dumb_terminal(
    terminal, monkeypatch, variable, drawn, coloured
):
    stream, seen = terminal
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(*variable)
    with progress(fit_line(), 1) as shown:
        shown(node("sodiumprep_wf.sub_01_ses_a_wf.fit_line"), "end")
    stream.close()
    told = all_of(seen)
    assert ("100%" in told) == drawn
    assert ("\x1b[3" in told) == coloured
    assert ("1/1] sub-01 ses-a: fit line\r\n" in told) == (not drawn)


def test_a_warning_stands_above_the_bar(terminal, monkeypatch):
    stream, seen = terminal
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with progress(fit_line(), 1):
        say("careful")
    stream.close()
    (line,) = (line for line in all_of(seen).split("\n") if "careful" in line)
    assert line.split("\r")[-2] == "careful"  # on a line that was made empty
    assert not line.split("\r")[-3].strip(" \x1b[A")


def test_what_is_no_terminal_has_no_bar(capsys):
    assert not draws_bars(sys.stdout, {"TERM": "xterm"})
    assert not draws_bars(SimpleNamespace(isatty=lambda: True), {})
    with progress(Workflow(name="sodiumprep_wf"), 1) as shown:
        assert isinstance(shown, Lines)


def test_a_line_tells_each_step_and_each_subject_that_ends(capsys):
    shown = Lines(course())
    for name in NAMES[:2]:
        shown(node(name), "start")
        shown(node(name), "end")
    lines = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["sub-01: a", "sub-01: b"]
    assert lines[2].startswith("1 of 2 subjects done, about 0 s left")


def test_ports_are_not_counted_as_progress(capsys):
    whole = fit_line()
    with progress(whole, 1) as shown:
        for flat in whole._create_flat_graph().nodes():
            shown(flat, "start")
            shown(flat, "end")
    assert "1/1] sub-01 ses-a: fit line\n" in capsys.readouterr().out


def test_a_failed_subject_is_neither_done_nor_waited_for():
    run = course()
    assert run.take(NAMES[0], "exception")
    assert run.failed == {"sub-01"}
    assert run.subjects_line() == "0 of 2 subjects done, 1 failed"
    for name in NAMES[2:]:
        run.take(name, "start")
        run.take(name, "end")
    assert run.finished == {"sub-02"}
    assert run.remaining() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_the_time_left_is_that_of_the_same_steps_before(monkeypatch, workers):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    run = course(workers)
    assert run.remaining() is None
    for name, seconds in zip(NAMES[:2], (30, 10), strict=True):
        run.take(name, "start")
        clock[0] += seconds
        run.take(name, "end")
    assert run.remaining() == pytest.approx(40 / workers)
    run.take(NAMES[2], "start")
    clock[0] += 20
    assert run.remaining() == pytest.approx(20 / workers)
    clock[0] += 100  # longer than ever
    assert run.remaining() == pytest.approx(10 / workers)


def test_what_is_reused_tells_no_duration():
    run = course()
    run.take(NAMES[0], "end")
    assert run.done == 1
    assert run.remaining() is None


def test_everybody_hears_of_a_node_and_a_bar_takes_its_line_away(tmp_path):
    heard = []
    with (tmp_path / "terminal").open("w+") as terminal:
        bar = Bar(course(), terminal, colour=False)
        listener = told_to(bar, lambda *word: heard.append(word[1]))
        for status in ("start", "end"):
            listener(node(NAMES[0]), status)
        bar.close()
        terminal.seek(0)
        assert "0 of 2 subjects done  25%" in terminal.read().splitlines()[-1]
    assert heard == ["start", "end"]
