"""The methods text says what the graph does."""

from pathlib import Path

import pytest
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.bids_app.boilerplate import REFERENCES, descriptions, write_boilerplate
from sodiumprep.bids_app.settings import Settings


def part(name, sentence=None):
    workflow = Workflow(name=name)
    workflow.add_nodes([Node(IdentityInterface(["x"]), name="port")])
    if sentence:
        workflow.__desc__ = sentence
    return workflow


@pytest.fixture
def graph():
    """Two subjects with the same two steps, the first of which comes later in the alphabet."""
    whole = Workflow(name="whole")
    for label in ("01", "02"):
        subject = Workflow(name=f"sub_{label}_wf")
        first, second = part("z_wf", "First this."), part("a_wf", "Then that.")
        subject.connect(first, "port.x", second, "port.x")
        subject.add_nodes([part("silent_wf")])
        whole.add_nodes([subject])
    return whole


def write(out_dir, graph, **changes):
    write_boilerplate(out_dir, graph, Settings(Path("r"), out_dir, Path("w"), **changes))
    return (out_dir / "logs" / "CITATION.md").read_text()


def test_each_sentence_stands_once_in_the_order_of_the_graph(graph):
    assert descriptions(graph) == ["First this.", "Then that."]


def test_the_text_holds_the_sentences_the_versions_and_the_seed(graph, tmp_path):
    text = write(tmp_path, graph, random_seed=41)
    assert "First this. Then that." in text
    assert "random seed 41" in text
    assert "sodiumprep 0." in text
    assert "not for publication" not in text


def test_a_sloppy_run_is_not_for_publication(graph, tmp_path):
    assert "not for publication" in write(tmp_path, graph, sloppy=True)


def test_every_reference_stands_in_both_files(graph, tmp_path):
    text = write(tmp_path, graph)
    entries = (tmp_path / "logs" / "CITATION.bib").read_text()
    for key, reference in REFERENCES.items():
        assert reference in text
        assert f"@misc{{{key}," in entries
