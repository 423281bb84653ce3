"""What steps took and declare, in a table and in a warning."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.bids_app import engine
from sodiumprep.bids_app.engine import execute
from sodiumprep.bids_app.monitor import MEASURED, MeasuredNode, what_is_too_large
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.files import WriteError

MEGABYTES = 300
LINEAR = {"plugin": "Linear", "plugin_args": {}}


def take(megabytes):
    held = bytearray(megabytes * 1_000_000)
    return len(held)


def step(name="take", declared=0.7):
    node = Node(Function(["megabytes"], ["size"], take), name=name, mem_gb=declared, n_procs=1)
    node.inputs.megabytes = MEGABYTES
    return node


def graph(*nodes):
    whole, subject = Workflow(name="sodiumprep_wf"), Workflow(name="sub_01_wf")
    subject.add_nodes([*nodes])
    whole.add_nodes([subject])
    return whole


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    node = step()
    node.__class__, node.base_dir = MeasuredNode, str(folder)
    node.run()
    return node, Path(node.output_dir()) / MEASURED


def test_a_step_leaves_the_peak_of_its_memory_and_its_time(measured):
    told = json.loads(measured[1].read_text())
    assert told["peak_gb"] - told["before_gb"] == pytest.approx(MEGABYTES / 1000, abs=0.05)
    assert 0 < told["seconds"] < 60


def test_a_peak_is_that_of_the_step_and_not_of_the_one_before(measured, tmp_path):
    small = step()
    small.__class__, small.base_dir, small.inputs.megabytes = MeasuredNode, str(tmp_path), 1
    small.run()
    told = json.loads((tmp_path / "take" / MEASURED).read_text())
    assert told["peak_gb"] - told["before_gb"] < 0.1


def test_what_is_cached_keeps_what_was_measured(measured):
    node, path = measured
    before = path.read_text()
    node.run()
    assert path.read_text() == before


@pytest.mark.parametrize("asked", [True, False])
def test_a_table_tells_what_steps_declared_and_took_where_it_is_asked_for(tmp_path, asked):
    settings = Settings(tmp_path / "raw", tmp_path / "out", tmp_path / "work",
                        nipype_plugin=LINEAR, resource_monitor=asked)  # fmt: skip
    assert execute(graph(step()), settings) == {}
    tables = list((tmp_path / "out/logs").glob("resources-*.tsv"))
    assert len(tables) == asked
    for path in tables:
        with path.open() as file:
            (row,) = csv.DictReader(file, delimiter="\t")
        assert (row["subject"], row["node"], row["declared_gb"]) == ("sub_01", "take", "0.70")
        assert float(row["peak_gb"]) > MEGABYTES / 1000


def test_a_table_that_cannot_be_written_hides_no_failure(tmp_path, monkeypatch, capfd):
    def full(workflow, path):
        raise WriteError(f"{path}: cannot be written: the disk is full")

    monkeypatch.setattr(engine, "write_measured", full)
    settings = Settings(tmp_path / "raw", tmp_path / "out", tmp_path / "work",
                        nipype_plugin=LINEAR, resource_monitor=True)  # fmt: skip
    wrong = step()
    wrong.inputs.megabytes = "many"
    assert list(engine.execute(graph(wrong), settings)) == ["sub_01_wf"]
    assert capfd.readouterr().err.count("cannot be written: the disk is full") == 1


def test_steps_that_need_more_than_there_is_are_told_in_one_line():
    told = what_is_too_large(graph(step(), step("most", 2.5)), 0.5)
    assert "\n" not in told
    assert "2 step(s) need more memory than the 0.5 GB that there are, sub_01.most" in told
    assert what_is_too_large(graph(step()), 0.7) == ""


def test_a_step_that_needs_more_than_there_is_runs_all_the_same(tmp_path, capfd):
    settings = Settings(tmp_path / "raw", tmp_path / "out", tmp_path / "work", memory_gb=0.5)
    assert execute(graph(step(), step("other")), replace(settings, nprocs=2)) == {}
    assert capfd.readouterr().err.count("need more memory than") == 1
    assert len(list(tmp_path.rglob("result_*.pklz"))) == 2
