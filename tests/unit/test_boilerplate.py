"""The methods text says what the graph does."""

from dataclasses import replace
from pathlib import Path

import pytest
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.bids_app.boilerplate import (
    CITED,
    COMMON,
    cited_keys,
    descriptions,
    name_density,
    references,
    write_boilerplate,
)
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.reconstruct import METHODS
from sodiumprep.sodium.pvc import METHODS as PVC_METHODS
from sodiumprep.workflows import nonlinear, pvc, reconstruct
from sodiumprep.workflows.plans import SodiumPlan
from sodiumprep.workflows.reconstruct import DENSITY, describe_reconstruction


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


def test_reciprocity_is_cited_where_it_gives_the_receive_profile():
    plan = replace(reconstruction(), receive={"reciprocity_uncertainty": 0.02})
    text = describe_reconstruction(plan)
    assert "that of the flip angle (reciprocity, Hoult 1976)" in text
    assert "hoult1976" in cited_keys(text)


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


def test_references_stand_in_both_files(graph, tmp_path):
    text = write(tmp_path, graph)
    entries = (tmp_path / "logs" / "CITATION.bib").read_text()
    for key, reference in COMMON.items():
        assert reference in text
        assert f"@misc{{{key}," in entries


def reconstruction(kspace=True, receive=False, **source):
    return SodiumPlan(
        name="wf", source=source, is_kspace=kspace, receive={"map_file": "m"} if receive else {},
        regions={}, given_xfm="", tissues={}, protocol={}, reference="csf", vials=(), outputs={},
        provenance={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "cited"),
    [
        ({}, ["barnett2019"]),
        ({"recon": "cg"}, ["pruessmann2001", "barnett2019", "mckenzie2002", "tang2012"]),
        ({"recon": "cg", "sensitivities": "espirit"}, ["uecker2014"]),
        ({"recon": "tv"}, ["rudin1992", "boyd2011", "robson2008"]),
        ({"fieldmap_file": "f"}, ["noll1991"]),
    ],
)
def test_the_method_that_was_used_is_named_with_its_references(tmp_path, source, cited):
    text = write(tmp_path, part("x_wf", describe_reconstruction(reconstruction(**source))))
    entries = (tmp_path / "logs" / "CITATION.bib").read_text()
    for key in [*cited, "nagel2009", "pipe1999"]:
        assert f"@misc{{{key}," in entries
        assert CITED[key] in text
    assert ("pruessmann2001" in entries) == (source.get("recon") == "cg")
    assert ("Rudin" in text) == (source.get("recon") == "tv")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"kspace_filter": "hamming"}, "Hamming"),
        ({"gradient_delay": [1e-6, 0, 0]}, "Known gradient delays"),
        ({"estimate_delay": True}, "delays were estimated"),
        ({"receive": True}, "receive profile"),
    ],
)
def test_what_was_corrected_is_said_and_nothing_else(source, said):
    assert said in describe_reconstruction(reconstruction(**source))
    assert said not in describe_reconstruction(reconstruction())


def test_vials_are_said_to_be_read_without_alignment_where_there_are_any():
    said, plan = "read from an average of the repetitions without alignment", reconstruction()
    assert said in describe_reconstruction(replace(plan, reference="vials"))
    assert said not in describe_reconstruction(plan)


def test_an_image_of_the_scanner_is_not_said_to_be_reconstructed():
    text = describe_reconstruction(reconstruction(kspace=False, receive=True))
    assert text.startswith("Sodium images were taken as the scanner reconstructed them. ")
    assert not cited_keys(text)


@pytest.mark.parametrize("method", sorted(reconstruct.METHODS))
def test_every_citation_of_the_graph_has_its_reference(method):
    text = describe_reconstruction(reconstruction(recon=method)) + " ".join(
        nonlinear.AIMS.values()
    )
    text += pvc.DESCRIPTION + describe_reconstruction(reconstruction(fieldmap_file="f"))
    assert set(cited_keys(text)) <= {*COMMON, *CITED}


def test_the_methods_are_those_that_the_interface_has():
    assert set(reconstruct.METHODS) == set(reconstruct.NOISE) == set(METHODS)


def test_the_weights_are_named_where_all_runs_agree():
    assert "readouts on cones (Nagel 2009)." in name_density(DENSITY, ["analytic on cones"])
    assert name_density(DENSITY, ["radial", "Pipe-Menon"]) == DENSITY
    assert name_density(DENSITY, ["another"]) == name_density(DENSITY, []) == DENSITY


def test_every_partial_volume_correction_is_named_with_its_reference():
    assert set(pvc.CITED) == set(PVC_METHODS)
    for text in pvc.CITED.values():
        assert cited_keys(text)
        assert set(cited_keys(text)) <= set(references(text)), text
