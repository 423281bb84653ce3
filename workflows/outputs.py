"""Results into their places, with their sidecars."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.anatomy_outputs import ANATOMY_FILES, SaveAnatomy
from sodiumprep.interfaces.outputs import SODIUM_FILES, SaveSodium
from sodiumprep.interfaces.quality import AssessQuality
from sodiumprep.workflows.plans import AnatomyPlan, SodiumPlan


def init_anatomy_outputs_wf(plan: AnatomyPlan, name: str = "anatomy_outputs_wf") -> Workflow:
    """Build the graph that saves the anatomy.

    Parameters
    ----------
    plan
        Output paths and provenance.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: the files named in ``ANATOMY_FILES``, on the grid of the anatomy; transforms
        may be missing.
    """
    workflow = Workflow(name=name)
    source = Node(IdentityInterface(ANATOMY_FILES, mandatory_inputs=False), name="inputnode")
    save = Node(
        SaveAnatomy(
            outputs=dict(plan.outputs),
            provenance=dict(plan.provenance),
            lesion_files=dict(plan.lesions),
        ),
        name="save",
    )
    workflow.connect([(source, save, [(port, port) for port in ANATOMY_FILES])])
    return workflow


def init_sodium_outputs_wf(plan: SodiumPlan, name: str = "sodium_outputs_wf") -> Workflow:
    """Build the graph that saves maps, table and quality figures.

    Parameters
    ----------
    plan
        Output paths and provenance.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: the files named in ``SODIUM_FILES``, ``properties``, ``regions_file``,
        ``uncertainty_terms`` (of maps) and ``table_told`` (of the table's uncertainty).
    """
    workflow = Workflow(name=name)
    files = [p for p in SODIUM_FILES if p != "flip_file" or plan.transmit]
    saved = [*files, "uncertainty_terms", "table_told"]
    source = Node(IdentityInterface([*saved, "properties", "regions_file"]), name="inputnode")
    quality = Node(AssessQuality(), name="quality")
    save = Node(
        SaveSodium(
            outputs=dict(plan.outputs),
            provenance=dict(plan.provenance),
            tissues=dict(plan.tissues),
        ),
        name="save",
    )
    named = {"table_told": "told"}
    judged = ("image_file", "noise_file", "corrected_file", "regions_file", "properties")
    workflow.connect([
        (source, quality, [(port, port) for port in judged]),
        (source, save, [(port, named.get(port, port)) for port in saved]),
        (quality, save, [("properties", "properties")]),
    ])  # fmt: skip
    return workflow
