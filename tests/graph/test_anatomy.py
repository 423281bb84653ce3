"""The graph of the 1H anatomy leaks no port."""

from __future__ import annotations

import subprocess
import sys

import pytest
from nipype.pipeline.engine import Workflow

from sodiumprep.workflows.anatomy import INPUTS, OUTPUTS, init_anatomy_wf


@pytest.fixture(params=[True, False])
def workflow(request: pytest.FixtureRequest) -> Workflow:
    return init_anatomy_wf(sloppy=request.param)


def edges(workflow: Workflow) -> list[tuple[str, str, str, str]]:
    return [
        (source.name, output if isinstance(output, str) else output[0], target.name, field)
        for source, target, link in workflow._graph.edges(data=True)
        for output, field in link["connect"]
    ]


def test_every_output_port_is_fed_once(workflow: Workflow) -> None:
    fed = [field for _, _, target, field in edges(workflow) if target == "outputnode"]
    assert sorted([*fed, "ready_warning"]) == sorted(OUTPUTS)  # that one is of ready-made files


def test_every_input_port_is_used(workflow: Workflow) -> None:
    used = {output for source, output, _, _ in edges(workflow) if source == "inputnode"}
    assert used == set(INPUTS)


def test_every_edge_joins_declared_fields(workflow: Workflow) -> None:
    for source, output, target, field in edges(workflow):
        assert output in workflow.get_node(source).outputs.copyable_trait_names()
        assert field in workflow.get_node(target).inputs.copyable_trait_names()


def test_every_mandatory_input_is_connected(workflow: Workflow) -> None:
    fed = {(target, field) for _, _, target, field in edges(workflow)}
    for node in workflow._get_all_nodes():
        for field in node.inputs.traits(mandatory=True):
            assert (node.name, field) in fed


def test_sloppy_reaches_the_nodes_that_know_it(workflow: Workflow) -> None:
    sloppy = {workflow.get_node(name).inputs.sloppy for name in ("correct", "normalize")}
    assert len(sloppy) == 1
    assert init_anatomy_wf(sloppy=True).get_node("normalize").inputs.sloppy
    assert not init_anatomy_wf(sloppy=False).get_node("normalize").inputs.sloppy


def test_the_graph_describes_itself(workflow: Workflow) -> None:
    assert "N4" in workflow.__desc__
    assert workflow.__desc__.endswith(".")


def test_building_the_graph_does_not_load_the_registration_library() -> None:
    code = "import sys, sodiumprep.workflows.anatomy; sys.exit('ants' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
