"""What a run survives: killed workers, spoiled caches, full disks, being told to stop."""

import errno
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.bids_app import engine, pool
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.progress import Course, Lines, told_to
from sodiumprep.bids_app.run import _reports, build
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.stopping import Stopped, stoppable


def good(x):
    from pathlib import Path

    Path("made.txt").write_text(str(x))
    return x + 1


def writes(x):
    from pathlib import Path

    Path("made.txt").write_text(str(x))
    return str(Path("made.txt").resolve())


def killed(x):
    import os
    import time

    time.sleep(0.5)
    os.kill(os.getpid(), 9)


def kills_the_others(x):
    import os
    import time
    from pathlib import Path

    parent = os.getppid()
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if int(pid) != os.getpid():
            os.kill(int(pid), 9)
    time.sleep(0.5)
    return x + 1


def slow(x):
    import time

    time.sleep(2)
    return x + 1


def endless(x):
    import os
    import time
    from pathlib import Path

    Path("pid.txt").write_text(str(os.getpid()))
    time.sleep(100)
    return x


def full(x):
    import errno
    import os

    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/image.nii.gz")


def graph(value, functions):
    """Return a graph of subjects of three steps, of which the second one is given."""
    whole = Workflow(name="sodiumprep_wf")
    for label, function in functions.items():
        subject = Workflow(name=f"sub_{label}_wf")
        first, second, third = (
            Node(Function(["x"], ["y"], step), name=name)
            for name, step in (("first", good), ("second", function), ("third", good))
        )
        first.inputs.x = value
        subject.connect([(first, second, [("y", "x")]), (second, third, [("y", "x")])])
        whole.add_nodes([subject])
    return whole


def work(root, value, functions, answer):
    """Run subjects; send what failed and which steps were started."""
    said = os.open(root / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    ran, settings = [], Settings(root / "raw", root / "out", root / "work", nprocs=2)

    def counted(node, status):
        if status == "start":
            ran.append(node.fullname.removeprefix("sodiumprep_wf."))

    whole = graph(value, functions)
    listener = told_to(counted, Lines(Course(list(whole.list_node_names()), 2)))
    try:
        with stoppable():
            found = engine.execute(whole, settings, listener)
    except Stopped as stopped:
        os._exit(stopped.code)
    answer.send((found, sorted(ran)))


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a run in a process of its own."""
    context = multiprocessing.get_context("fork")

    def begin(value=1, **functions):
        answer, own = context.Pipe(duplex=False)
        run = context.Process(target=work, args=(tmp_path, value, functions, own))
        run.start()
        own.close()
        return run, answer

    return begin


@pytest.fixture
def finish(start, tmp_path):
    """Return a function that runs subjects to the end: failures, steps run, what was said."""

    def go(**asked):
        run, answer = start(**asked)
        assert answer.poll(60), "it hangs"
        result = answer.recv()
        run.join(20)
        return *result, (tmp_path / "said.txt").read_text()

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
    failures, ran, said = finish(a=killed, b=slow, c=good)
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


def test_one_subject_is_finished_after_the_other():
    whole = graph(1, dict.fromkeys("cab", good))
    flat = whole._create_flat_graph()
    local = pool.Pool({"n_procs": 1})
    local._generate_dependency_list(flat)
    names = [node.fullname.split(".", 1)[1] for node in local.procs]
    assert names == [f"sub_{s}_wf.{step}" for s in "abc" for step in ("first", "second", "third")]
    edges = {
        (local.procs[a], local.procs[b]) for a, b in zip(*local.depidx.nonzero(), strict=True)
    }
    assert edges == set(flat.edges())
    assert (local.refidx.toarray() == local.depidx.toarray()).all()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_that_is_killed_while_it_waits_costs_nothing(finish):
    assert finish(a=kills_the_others)[0] == {}


def test_a_worker_that_cannot_be_started_is_waited_for(finish, tmp_path, monkeypatch):
    begin, calls = pool.Worker.start, []

    def crowded():
        calls.append(None)
        (tmp_path / "calls.txt").write_text(str(len(calls)))
        if len(calls) in (3, 4):  # after those of the start
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return begin()

    monkeypatch.setattr(pool.Worker, "start", crowded)
    failures, ran, _ = finish(a=slow, b=killed, c=slow)
    assert list(failures) == ["sub_b_wf"]
    assert {"sub_a_wf.third", "sub_c_wf.third"} <= set(ran)
    assert (tmp_path / "calls.txt").read_text() == "5"


def test_a_second_run_runs_nothing_again_and_a_changed_input_what_follows_it(finish):
    assert len(finish(a=good, b=good)[1]) == 6
    assert finish(a=good, b=good)[1] == []
    assert finish(a=slow, b=good)[1] == ["sub_a_wf.second"]  # what it gives is the same
    assert len(finish(a=slow, b=good, value=2)[1]) == 6


def test_a_failure_is_tried_again_and_nothing_else(finish):
    finish(a=killed, b=good)
    assert finish(a=good, b=good)[1] == ["sub_a_wf.second", "sub_a_wf.third"]


@pytest.mark.parametrize("spoil", ["cut", "empty", "zeros", "hash", "absent"])
def test_a_spoiled_cache_is_made_again(finish, tmp_path, spoil):
    finish(a=good, b=good)
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
    failures, ran, _ = finish(a=good, b=good)
    assert failures == {}
    assert "sub_a_wf.second" in ran
    assert set(ran) <= {"sub_a_wf.second", "sub_a_wf.third"}
    assert finish(a=good, b=good)[1] == []


def test_a_full_disk_is_named_as_the_reason(finish):
    failures, ran, _ = finish(a=full, b=good)
    assert "No space left on device: '/scratch/image.nii.gz'" in failures["sub_a_wf"]
    assert "sub_b_wf.third" in ran


def test_a_failure_is_told_where_its_crash_file_cannot_be_written(finish, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "logs").write_text("in the way")
    failures, ran, _ = finish(a=full, b=good)
    assert "No space left" in failures["sub_a_wf"]
    assert "no room for a crash file" in failures["sub_a_wf"]
    assert "sub_b_wf.third" in ran


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_ends_all_at_once_and_the_next_run_goes_on(
    start, finish, tmp_path, number
):
    run, _ = start(a=endless, b=good)
    pids = wait_for(tmp_path, "pid.txt")
    began = time.monotonic()
    os.kill(run.pid, number)
    run.join(20)
    assert time.monotonic() - began < 5
    assert run.exitcode == 128 + number
    assert gone(pids)
    assert "Traceback" not in (tmp_path / "said.txt").read_text()
    failures, ran, _ = finish(a=good, b=good)
    assert failures == {}
    assert "sub_a_wf.first" not in ran


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of this")
def test_no_worker_outlives_a_run_that_was_killed(start, tmp_path):
    run, _ = start(a=endless)
    pids = wait_for(tmp_path, "pid.txt")
    run.kill()
    run.join()
    assert gone(pids)


def _make_report(out_dir, subject, *_):
    if subject == "broken":
        raise LookupError("no such template")
    if subject == "killed":
        os._exit(9)
    return out_dir / f"sub-{subject}.html"


def test_whatever_goes_wrong_with_a_report_is_the_failure_of_its_subject(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sodiumprep.bids_app.run.write_report", _make_report)
    settings = Settings(tmp_path / "raw", tmp_path, tmp_path / "work", nprocs=2)
    failures = dict(_reports(settings, ["broken", "fine", "good", "killed", "well"]))
    assert list(failures) == ["broken", "killed"]
    assert "the report cannot be written (LookupError('no such template'))" in failures["broken"]
    assert "its process was killed" in failures["killed"]
    assert capsys.readouterr().out.count("report: ") == 3


def _plan(job, _):
    if job.subject == "02":
        raise KeyError("EchoTime")
    return [], []


def test_a_mistake_of_ours_in_planning_one_subject_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("sodiumprep.bids_app.run._plan_runs", _plan)
    jobs = [
        SubjectJob(label, None, SimpleNamespace(exists=False), ()) for label in ("01", "02", "03")
    ]
    _, by_name, failures = build(jobs, Settings(tmp_path, tmp_path, tmp_path))
    assert [job.subject for job in by_name.values()] == ["01", "03"]
    assert failures == [("02", "cannot be planned: KeyError('EchoTime') (-v tells more)")]


def test_a_step_whose_file_is_gone_or_empty_is_made_again(tmp_path):
    node = Node(Function(["x"], ["path"], writes), name="first", base_dir=str(tmp_path))
    node.inputs.x = 1
    made = Path(node.run().outputs.path)
    assert engine.drop_broken(tmp_path) == []
    made.write_bytes(b"")
    assert engine.drop_broken(tmp_path) == [made.parent]
    assert not made.parent.exists()
    made = Path(node.run().outputs.path)
    made.unlink()
    assert engine.drop_broken(tmp_path) == [made.parent]


def test_a_second_signal_does_not_wait(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_stop_twice)
    process.start()
    process.join(20)
    assert process.exitcode == 128 + signal.SIGTERM


def _stop_twice():
    with stoppable():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except Stopped:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
