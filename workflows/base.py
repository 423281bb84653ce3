"""The whole graph of a subject: its anatomy, what its sessions share, and its sodium runs."""

from __future__ import annotations

from collections.abc import Sequence

from nipype.pipeline.engine import Workflow

from sodiumprep.interfaces.anatomy_outputs import ANATOMY_FILES
from sodiumprep.workflows.anatomy import TRANSFORMS
from sodiumprep.workflows.atlases import atlas_port, init_labels_wf
from sodiumprep.workflows.outputs import init_anatomy_outputs_wf
from sodiumprep.workflows.plans import AnatomyPlan, ReferencePlan, SodiumPlan
from sodiumprep.workflows.ports import same
from sodiumprep.workflows.ready import fractions_are_ready, init_prepared_anatomy_wf
from sodiumprep.workflows.sessions import (
    POSES,
    init_alignment_wf,
    init_session_outputs_wf,
    init_template_wf,
)
from sodiumprep.workflows.sodium import (
    USED_BY_SODIUM,
    init_sodium_wf,
    needs_poses,
    template_ports,
)
from sodiumprep.workflows.sodium_only import init_sodium_only_wf
from sodiumprep.workflows.templates import backward_port, init_templates_wf


def init_subject_wf(
    name: str, anatomy: AnatomyPlan | None, runs: Sequence[SodiumPlan], sloppy: bool
) -> Workflow:
    """Build the graph of one subject and session, or of sessions that share one anatomy.

    Parameters
    ----------
    name
        Of the workflow.
    anatomy
        Plan of the anatomy; with ``reference`` one anatomy serves all runs. None where there is
        none, and sodium stays in its own space.
    runs
        Plans of the sodium runs.
    sloppy
        Faster and less exact registration.

    Returns
    -------
    workflow
        Complete: no input is left open.
    """
    workflow = Workflow(name=name)
    if anatomy is None:
        workflow.add_nodes([init_sodium_only_wf(plan) for plan in runs])
        return workflow
    shared = anatomy.reference
    prepared = init_prepared_anatomy_wf(anatomy, sloppy)
    save = init_anatomy_outputs_wf(anatomy)
    workflow.connect([(prepared, save, same(ANATOMY_FILES))])
    sodium = [(plan, init_sodium_wf(plan, sloppy)) for plan in runs]
    used = (*USED_BY_SODIUM, "preproc_file")
    workflow.connect([(prepared, graph, same(used)) for _, graph in sodium])
    templates = None
    if anatomy.templates:
        templates = _add_templates(workflow, anatomy, prepared, sloppy, sodium)
    if anatomy.atlases:
        _add_labels(workflow, anatomy, prepared, templates, [graph for _, graph in sodium])
    if shared is not None:
        poses = _share(workflow, prepared, shared, sloppy)
        moving = [graph for plan, graph in sodium if needs_poses(plan)]
        workflow.connect([(poses, graph, same(POSES)) for graph in moving])
    return workflow


def _share(
    workflow: Workflow, prepared: Workflow, shared: ReferencePlan, sloppy: bool
) -> Workflow:
    """Add the poses of the sessions and what is saved of them; return what gives the poses."""
    save = init_session_outputs_wf(shared)
    if shared.builds_template:
        poses = init_template_wf(shared, sloppy)
        workflow.connect(poses, "outputnode.reference_file", prepared, "inputnode.anat_file")
        if shared.excluded:
            workflow.connect(poses, "outputnode.lesion_file", prepared, "inputnode.lesion_file")
    else:
        poses = init_alignment_wf(shared)
        workflow.connect([(prepared, poses, same(("preproc_file", "brain_mask")))])
    workflow.connect([(poses, save, same(POSES)), (prepared, save, same(["preproc_file"]))])
    return poses


def _add_templates(
    workflow: Workflow,
    anatomy: AnatomyPlan,
    prepared: Workflow,
    sloppy: bool,
    sodium: Sequence[tuple[SodiumPlan, Workflow]],
) -> Workflow:
    """Normalize to the templates, but to the embedded one where the anatomy did it already."""
    own = [template.name for template in anatomy.templates if not template.image]
    normalized = not fractions_are_ready(anatomy) or "to_template" in anatomy.ready
    embedded = next(iter(own), "") if normalized else ""
    templates = init_templates_wf(anatomy, embedded, sloppy)
    ports = ["preproc_file", "brain_mask", *(TRANSFORMS if embedded else [])]
    workflow.connect([
        (prepared, templates, same(ports)),
        *((templates, room, same([port]))
          for plan, room in sodium
          for port in template_ports(plan)),
    ])  # fmt: skip
    return templates


def _add_labels(
    workflow: Workflow,
    anatomy: AnatomyPlan,
    prepared: Workflow,
    templates: Workflow | None,
    sodium: Sequence[Workflow],
) -> None:
    """Bring the labels of atlases to the anatomy, for all runs."""
    labels = init_labels_wf(anatomy)
    workflow.connect(prepared, "outputnode.preproc_file", labels, "inputnode.preproc_file")
    if templates is not None:
        backward = sorted({backward_port(a.template) for a in anatomy.atlases if a.template})
        workflow.connect([(templates, labels, same(backward))])
    ports = [atlas_port(atlas.name) for atlas in anatomy.atlases]
    workflow.connect([(labels, room, same(ports)) for room in sodium])
