"""Running a graph: one line for each failure, and no failure that hangs."""

import errno
import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import networkx as nx
import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow
from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from sodiumprep.bids_app import engine
from sodiumprep.bids_app.engine import Pool, execute, read_crashes, work_folder
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.settings import Settings

LINEAR = {"plugin": "Linear", "plugin_args": {}}
CRASH = """Node: sodiumprep_wf.sub_01_wf.sodium_wf.reconstruct_wf.source
Working directory: /scratch/somewhere

Node inputs:

kspace_file = /raw/sub-01_PDw.h5

Traceback (most recent call last):
  File "/lib/nipype/pipeline/plugins/multiproc.py", line 66, in run_node
    result["result"] = node.run(updatehash=updatehash)
nipype.pipeline.engine.nodes.NodeExecutionError: Exception raised while executing Node source.

Traceback:
\tTraceback (most recent call last):
\t  File "/lib/nipype/interfaces/base/core.py", line 401, in run
\t    runtime = self._run_interface(runtime)
\t{error}

"""
SCRIPT = """
import json, sys, time
from pathlib import Path
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow
from sodiumprep.bids_app import pool
from sodiumprep.bids_app.engine import execute
from sodiumprep.bids_app.settings import Settings

def good(x):
    return x + 1

def wrong(x):
    raise ValueError("/raw/a.h5: readout 7 holds NaN")

def strange(x):
    return {}["absent"]

def killed(x):
    import os, time
    time.sleep(0.2)
    os._exit(9)

def graph(**functions):
    whole = Workflow(name="sodiumprep_wf")
    for label, function in functions.items():
        subject = Workflow(name=f"sub_{label}_wf")
        first = Node(Function(["x"], ["y"], good), name="first")
        first.inputs.x = 1
        second = Node(Function(["x"], ["y"], function), name="second")
        subject.connect(first, "y", second, "x")
        whole.add_nodes([subject])
    return whole

if __name__ == "__main__":
    pool.POLL_SECONDS = 20
    started = time.monotonic()
    root = Path(sys.argv[1])
    settings = Settings(root / "raw", root / "out", root / "work", nprocs=2)
    found = {"plain": execute(graph(a=good, b=wrong, c=strange), settings)}
    found["killed"] = execute(
        graph(d=killed), Settings(root / "raw", root / "out2", root / "work2", nprocs=1)
    )
    found["seconds"] = time.monotonic() - started
    (root / "found.json").write_text(json.dumps(found))
"""


def number(x):
    return int(x)


def numbers(texts):
    """Return a graph of subjects of one step, which fails where its text is no number."""
    whole = Workflow(name="sodiumprep_wf")
    for label, text in texts.items():
        node = Node(Function(["x"], ["y"], number), name="first")
        subject = Workflow(name=f"sub_{label}_wf")
        node.inputs.x = text
        subject.add_nodes([node])
        whole.add_nodes([subject])
    return whole


def crash(folder, name, error, node="sub_01_wf", age=0.0):
    path = folder / f"crash-20260101-120000-user-{name}.txt"
    path.write_text(CRASH.replace("{error}", error).replace("sub_01_wf", node))
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


@pytest.mark.parametrize(
    "error",
    [
        "ValueError: /raw/a.h5: readout 7 holds NaN or infinity",
        "sodiumprep.bids_app.metadata.UserError: /raw/a.h5: readout 7 holds NaN or infinity",
    ],
)
def test_our_own_errors_are_given_as_they_are(tmp_path, error):
    crash(tmp_path, "source", error)
    expected = {"sub_01_wf": "/raw/a.h5: readout 7 holds NaN or infinity"}
    assert read_crashes(tmp_path) == expected


def test_other_errors_name_the_node_and_the_file_with_the_details(tmp_path):
    path = crash(tmp_path, "source", "numpy.linalg.LinAlgError: Singular matrix")
    (message,) = read_crashes(tmp_path).values()
    assert message.startswith("sodium_wf.reconstruct_wf.source: LinAlgError: Singular matrix")
    assert str(path) in message


def test_the_first_failure_of_each_subject_counts(tmp_path):
    crash(tmp_path, "later", "ValueError: second", age=1)
    crash(tmp_path, "earlier", "ValueError: first", age=9)
    crash(tmp_path, "other", "ValueError: own", node="sub_02_wf")
    assert read_crashes(tmp_path) == {"sub_01_wf": "first", "sub_02_wf": "own"}


def test_a_full_disk_is_told_with_the_file_that_did_not_fit(tmp_path):
    said = "/out/a.nii.gz: cannot be written: the disk is full"
    error = f"OSError: [Errno 28] No space left on device\n\tWriteError: {said}"
    crash(tmp_path, "save", f"{error}\n\tOSError: [Errno 5] what follows from it")
    assert read_crashes(tmp_path) == {"sub_01_wf": said}


def test_a_crash_without_message_is_told_all_the_same(tmp_path):
    (tmp_path / "crash-x.txt").write_text("Node: sodiumprep_wf.sub_01_wf.source\n")
    assert "stopped without a message" in read_crashes(tmp_path)["sub_01_wf"]


def test_no_crash_is_no_failure(tmp_path):
    assert read_crashes(tmp_path / "absent") == {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run graphs that fail in three ways, in a process of their own with a time limit."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(folder)]
    done = subprocess.run(
        command, cwd=folder, timeout=100, capture_output=True, text=True, check=False,
        env={**os.environ, "NIPYPE_NO_ET": "1", "NO_ET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "found.json").read_text()), done, folder


def test_a_failing_subject_gives_one_line_and_the_others_finish(finished):
    found, done, _ = finished
    assert set(found["plain"]) == {"sub_b_wf", "sub_c_wf"}
    assert found["plain"]["sub_b_wf"] == "/raw/a.h5: readout 7 holds NaN"
    assert "sub-a: second\n" in done.stdout


def test_an_unforeseen_error_names_its_node(finished):
    message = finished[0]["plain"]["sub_c_wf"]
    assert message.startswith("second: KeyError: 'absent' (details: ")
    assert "\n" not in message


def test_a_killed_worker_is_a_failure_and_does_not_hang(finished):
    (message,) = finished[0]["killed"].values()
    assert "second: WorkerError: its process was killed, most often because the mem" in message


def test_a_node_follows_when_the_one_before_has_ended(finished):
    assert finished[0]["seconds"] < 20  # of which a look at the graph at times would take 40


def test_no_traceback_is_printed(finished):
    assert "Traceback" not in finished[1].stdout + finished[1].stderr


def test_every_node_that_ends_is_counted(finished):
    lines = [line for line in finished[1].stdout.splitlines() if line.startswith("[")]
    assert len([line for line in lines if "/6] sub-" in line]) == 6
    assert len([line for line in lines if line.endswith("FAILED")]) >= 2


def test_results_lie_in_a_folder_that_carries_the_version(finished):
    (folder,) = (finished[2] / "work").iterdir()
    assert folder.name.startswith(f"sodiumprep-{version('sodiumprep')}-")
    assert (folder / "sodiumprep_wf" / "sub_a_wf").is_dir()


def settings(root):
    return Settings(root / "raw", root / "out", root / "work")


def test_waiting_for_nodes_does_not_cost_a_processor(tmp_path, monkeypatch):
    """Nipype collects garbage at every poll: what is loaded is kept out of it."""
    frozen = []
    monkeypatch.setattr(Workflow, "run", lambda *_, **__: frozen.append(gc.get_freeze_count()))
    execute(Workflow(name="empty"), settings(tmp_path))
    assert frozen[0] > 10_000
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("place", ["sodium/kernel.py", "sodium/pvc/regional.py"])
def test_the_work_folder_changes_with_the_code(tmp_path, monkeypatch, place):
    for floor in ("interfaces", "sodium/pvc", "workflows", "bids_app"):
        (tmp_path / floor).mkdir(parents=True)
    kernel = tmp_path / place
    kernel.write_text("A = 1\n")
    monkeypatch.setattr(engine, "__file__", str(tmp_path / "bids_app" / "engine.py"))
    before = work_folder(settings(tmp_path))
    assert work_folder(settings(tmp_path)) == before
    kernel.write_text("A = 2\n")
    assert work_folder(settings(tmp_path)) != before


def test_the_work_folder_of_this_code_stays_the_same(tmp_path):
    assert work_folder(settings(tmp_path)) == work_folder(settings(tmp_path))
    assert work_folder(settings(tmp_path)).parent == tmp_path / "work"


def test_a_work_folder_that_cannot_be_emptied_is_not_used(tmp_path, monkeypatch):
    def busy(folder):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), f"{folder}/in_use")

    given = replace(settings(tmp_path), clean_workdir=True, nipype_plugin=LINEAR)
    execute(Workflow(name="empty"), given)  # where there is none yet, there is nothing to do
    monkeypatch.setattr(engine.shutil, "rmtree", busy)
    with pytest.raises(UserError, match=r"--clean-workdir: .*in_use cannot be removed: Device"):
        execute(Workflow(name="empty"), given)


@pytest.mark.parametrize("stop", [True, False])
def test_a_subject_that_a_stop_has_left_unfinished_is_none_that_is_done(tmp_path, stop):
    given = replace(settings(tmp_path), stop_on_first_crash=stop, nprocs=1)
    failures = execute(numbers({"01": "many", "02": "2"}), given)
    assert "invalid literal" in failures.pop("sub_01_wf")
    told = "not finished, since the run ended before (--stop-on-first-crash)"
    assert failures == ({"sub_02_wf": told} if stop else {})


def test_what_a_run_leaves_in_the_logs_carries_its_identifier(tmp_path):
    given = replace(settings(tmp_path), resource_monitor=True, nipype_plugin=LINEAR)
    whole = numbers({"01": "many"})
    assert list(execute(whole, given, identifier="20260101-120000-aaaaaa")) == ["sub_01_wf"]
    left = sorted(path.name for path in (tmp_path / "out/logs").iterdir())
    assert left == ["crash-20260101-120000-aaaaaa", "resources-20260101-120000-aaaaaa.tsv"]


def test_the_local_pool_is_used_unless_a_plugin_is_given(tmp_path):
    assert engine._plugin(settings(tmp_path))["plugin"] is Pool
    own = {"plugin": "Linear", "plugin_args": {}}
    given = Settings(Path("raw"), Path("out"), Path("work"), nipype_plugin=own)
    assert engine._plugin(given) == own


def test_a_local_pool_of_a_plugin_file_is_ours_with_its_arguments():
    own = {"plugin": "MultiProc", "plugin_args": {"n_procs": 7}}
    given = Settings(Path("raw"), Path("out"), Path("work"), nipype_plugin=own, memory_gb=5.0)
    held = engine._plugin(given)
    assert held["plugin"] is Pool
    assert (held["plugin_args"]["n_procs"], held["plugin_args"]["memory_gb"]) == (7, 5.0)


def test_processes_and_memory_reach_the_pool():
    given = Settings(Path("raw"), Path("out"), Path("work"), nprocs=3, memory_gb=5.0)
    arguments = engine._plugin(given)["plugin_args"]
    assert (arguments["n_procs"], arguments["memory_gb"]) == (3, 5.0)


def test_looks_at_a_large_graph_stay_cheap(tmp_path, monkeypatch):
    """Its nodes are kept out of the collections, and a node that ends is looked up by column."""
    graph = nx.DiGraph()
    graph.add_edge(*(Node(Function(["x"], ["y"], f"def f(x): return {n}"), f"n{n}") for n in "12"))
    pool = Pool({"n_procs": 1})
    frozen = gc.get_freeze_count()
    monkeypatch.setattr(MultiProcPlugin, "run", lambda *_: pool._generate_dependency_list(graph))
    try:
        pool.run(graph, {"execution": {}})
        assert gc.get_freeze_count() > frozen + 10_000
    finally:
        gc.unfreeze()
    assert pool.refidx.format == "csc"
    assert pool.refidx.sum() == 1
    pool.mapnodesubids = {}
    for number in range(2):
        pool._task_finished_cb(number)
    assert pool.refidx.sum() == 0
