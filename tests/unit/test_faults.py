"""What a run survives: killed workers, spoiled caches, full disks, being told to stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys, time
from pathlib import Path
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow
from sodiumprep.bids_app import engine
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.stopping import Stopped, stoppable

def good(x):
    from pathlib import Path
    Path("made.txt").write_text(str(x))
    return x + 1

def killed(x):
    import os, time
    time.sleep(0.5)
    os.kill(os.getpid(), 9)

def slow(x):
    import os, time
    from pathlib import Path
    Path("pid.txt").write_text(str(os.getpid()))
    time.sleep(2)
    return x + 1

def endless(x):
    import os, time
    from pathlib import Path
    Path("pid.txt").write_text(str(os.getpid()))
    time.sleep(100)
    return x + 1

def full(x):
    import errno, os
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/work/image.nii.gz")

def graph(start, **functions):
    whole = Workflow(name="sodiumprep_wf")
    for label, function in functions.items():
        subject = Workflow(name=f"sub_{label}_wf")
        before = None
        for name, step in (("first", good), ("second", function), ("third", good)):
            node = Node(Function(["x"], ["y"], step), name=name)
            if before is None:
                node.inputs.x = start
                subject.add_nodes([node])
            else:
                subject.connect(before, "y", node, "x")
            before = node
        whole.add_nodes([subject])
    return whole

if __name__ == "__main__":
    root, start, *asked = sys.argv[1:]
    root = Path(root)
    functions = {label: globals()[name] for label, _, name in (a.partition("=") for a in asked)}
    settings = Settings(root / "raw", root / "out", root / "work", nprocs=2)
    ran = []
    def counted(self, node, status, told=engine.Progress.__call__):
        if status == "start":
            ran.append(node.fullname.removeprefix("sodiumprep_wf."))
        told(self, node, status)
    engine.Progress.__call__ = counted
    try:
        with stoppable():
            found = engine.execute(graph(int(start), **functions), settings)
    except Stopped as stopped:
        sys.exit(stopped.code)
    (root / "found.json").write_text(json.dumps([found, sorted(ran)]))
"""


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a run of subjects whose second step is given."""
    (tmp_path / "script.py").write_text(SCRIPT)

    def begin(*asked, value=1):
        command = [sys.executable, "script.py", str(tmp_path), str(value), *asked]
        return subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "NIPYPE_NO_ET": "1", "NO_ET": "1"},
        )  # fmt: skip

    return begin


@pytest.fixture
def finish(start, tmp_path):
    """Return a function that runs subjects to the end: failures, steps run, what was said."""

    def go(*asked, value=1):
        (tmp_path / "found.json").unlink(missing_ok=True)
        said, _ = start(*asked, value=value).communicate(timeout=60)
        assert (tmp_path / "found.json").is_file(), said
        return *json.loads((tmp_path / "found.json").read_text()), said

    return go


def steps(root, name):
    return sorted((root / "work").rglob(name))


def wait_for(root, name):
    until = time.monotonic() + 60
    while not steps(root, name):
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.1)  # it is written
    return [int(path.read_text()) for path in steps(root, name)]


def gone(pids):
    """Return whether processes end within two seconds."""
    until = time.monotonic() + 2
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_a_killed_worker_costs_its_own_step_and_the_steps_beside_it_run_once(finish, tmp_path):
    failures, ran, said = finish("a=killed", "b=slow", "c=good")
    assert list(failures) == ["sub_a_wf"]
    assert failures["sub_a_wf"].startswith("second: WorkerError: its process was killed")
    assert [step for step in ran if not step.startswith("sub_a")] == [
        f"sub_{s}_wf.{n}" for s in "bc" for n in ("first", "second", "third")
    ]
    assert "Traceback" not in said
    (crash,) = (tmp_path / "out" / "logs").rglob("crash-*.txt")
    text = crash.read_text()
    assert "Node: sodiumprep_wf.sub_a_wf.second" in text
    assert "x = 2" in text


def test_a_second_run_runs_nothing_again_and_a_changed_input_what_follows_it(finish):
    assert len(finish("a=good", "b=good")[1]) == 6
    assert finish("a=good", "b=good")[1] == []
    assert finish("a=slow", "b=good")[1] == ["sub_a_wf.second"]  # what it gives is the same
    assert len(finish("a=slow", "b=good", value=2)[1]) == 6


def test_a_failure_is_tried_again_and_nothing_else(finish):
    finish("a=killed", "b=good")
    assert finish("a=good", "b=good")[1] == ["sub_a_wf.second", "sub_a_wf.third"]


@pytest.mark.parametrize("spoil", ["cut", "empty", "zeros", "hash", "absent"])
def test_a_spoiled_cache_is_made_again(finish, tmp_path, spoil):
    finish("a=good", "b=good")
    (result,) = steps(tmp_path, "result_second.pklz")[:1]
    content = result.read_bytes()
    if spoil in ("cut", "empty", "zeros"):
        part = {"cut": content[:-20], "empty": b"", "zeros": bytes(len(content))}[spoil]
        result.write_bytes(part)
    elif spoil == "hash":  # killed between its result and the word that it is done
        (path,) = result.parent.glob("_0x*.json")
        path.rename(path.with_name(path.name.replace(".json", "_unfinished.json")))
    else:
        result.unlink()
    failures, ran, _ = finish("a=good", "b=good")
    assert failures == {}
    assert "sub_a_wf.second" in ran
    assert set(ran) <= {"sub_a_wf.second", "sub_a_wf.third"}
    assert finish("a=good", "b=good")[1] == []


def test_a_full_disk_is_named_as_the_reason(finish):
    failures, ran, _ = finish("a=full", "b=good")
    assert "No space left on device: '/work/image.nii.gz'" in failures["sub_a_wf"]
    assert "sub_b_wf.third" in ran


def test_a_failure_is_told_where_its_crash_file_cannot_be_written(finish, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "logs").write_text("in the way")
    failures, ran, _ = finish("a=full", "b=good")
    assert "No space left" in failures["sub_a_wf"]
    assert "no room for a crash file" in failures["sub_a_wf"]
    assert "sub_b_wf.third" in ran


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_ends_all_at_once_and_the_next_run_goes_on(
    start, finish, tmp_path, number
):
    run = start("a=endless", "b=good")
    pids = wait_for(tmp_path, "pid.txt")
    began = time.monotonic()
    run.send_signal(number)
    said, _ = run.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert run.returncode == 128 + number
    assert gone(pids)
    assert "Traceback" not in said
    failures, ran, _ = finish("a=good", "b=good")
    assert failures == {}
    assert "sub_a_wf.first" not in ran


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of this")
def test_no_worker_outlives_a_run_that_was_killed(start, tmp_path):
    run = start("a=endless")
    pids = wait_for(tmp_path, "pid.txt")
    run.kill()
    run.communicate()
    assert gone(pids)
