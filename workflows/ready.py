"""The anatomy. Here, and only here, is decided what is ready-made and needs no computing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.anatomy import BiasCorrect, BrainExtract, Normalize, TissueFractions
from sodiumprep.interfaces.ready import TakeFractions, TakeImage, TakeMask
from sodiumprep.interfaces.regions import UniteLesions
from sodiumprep.workflows.anatomy import DESCRIPTION, FRACTIONS, TRANSFORMS, init_anatomy_wf
from sodiumprep.workflows.plans import AnatomyPlan

# step -> what it computes, as the methods text says it
COMPUTED: dict[type, str] = {
    BiasCorrect: "the 1H image was corrected for its bias field (N4)",
    BrainExtract: "the brain was extracted by registering a synthetic head around the MNI152 "
    "template brain",
    TissueFractions: "volume fractions of grey matter, white matter and cerebrospinal fluid were "
    "estimated with a partial-volume mixture model",
    Normalize: "the brain was normalized to the MNI152 template (SyN)",
}
# step that is not taken -> what stands in for it: its output, that of the ready-made node
FROM_FRACTIONS = {port: port for port in FRACTIONS}
FROM_MASK = {"mask_file": "mask_file", "inner_mask": "mask_file",
             "brain_volume_ml": "brain_volume_ml", "warning": "warning"}  # fmt: skip
FROM_TRANSFORMS = {port: port for port in TRANSFORMS}


def fractions_are_ready(plan: AnatomyPlan) -> bool:
    """Tell whether ready-made files give the tissue fractions, and so all that sodium needs.

    Parameters
    ----------
    plan
        Of one subject.

    Returns
    -------
    ready
        GM, WM and CSF, or a label image whose labels have a tissue.
    """
    return set(plan.ready) >= {"GM", "WM", "CSF"} or bool(plan.label_tissues)


def init_prepared_anatomy_wf(
    plan: AnatomyPlan, sloppy: bool, name: str = "anatomy_wf"
) -> Workflow:
    """Build the graph of an anatomy: what is ready-made is taken, the rest computed.

    The graph that computes everything is built, ready-made files take the place of the steps
    that would make them, and what then feeds nothing is dropped.

    Parameters
    ----------
    plan
        Of one subject. Fractions give a mask as well, and make bias correction and normalization
        needless.
    sloppy
        Faster and less exact.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``outputnode`` as that of :func:`~sodiumprep.workflows.anatomy.init_anatomy_wf`; transforms
        are missing where fractions are ready-made and transforms are not.
    """
    workflow = init_anatomy_wf(sloppy, name=name)
    source = workflow.get_node("inputnode")
    if plan.age is not None:
        source.inputs.age = plan.age
    if plan.reference is not None and plan.reference.builds_template:
        return workflow  # its image comes from the graph
    if plan.inversions:
        source.inputs.inversion_files = list(plan.inversions)
    source.inputs.anat_file = plan.ready.get("preproc") or plan.image
    for step, (node, ports) in _stand_ins(plan, workflow).items():
        _replace(workflow, step, node, ports)
    if fractions_are_ready(plan):
        _remove(workflow, Normalize)
        judged = (workflow.get_node("take_mask"), workflow.get_node("outputnode"))
        workflow.connect([(*judged, [("warning", "brain_warning")])])
    _drop_unused(workflow)
    if plan.lesions and "lesion_file" in [output for _, output, _ in _uses(workflow, source)]:
        unite = Node(
            UniteLesions(lesion_files=dict(plan.lesions), reference_file=source.inputs.anat_file),
            name="unite",
        )
        workflow.connect(unite, "out_file", source, "lesion_file")
    workflow.__desc__ = _describe(workflow)
    return workflow


def computed_steps(workflow: Workflow) -> list[str]:
    """Return what a graph of the anatomy computes, in words.

    Parameters
    ----------
    workflow
        As :func:`init_prepared_anatomy_wf` builds it.
    """
    taken = [type(getattr(node, "interface", None)) for node in workflow._graph.nodes()]
    return [text for step, text in COMPUTED.items() if step in taken]


def _describe(workflow: Workflow) -> str:
    computed = computed_steps(workflow)
    if len(computed) == len(COMPUTED):
        return DESCRIPTION
    rest = "; ".join(computed)
    taken = "Anatomy was taken from ready-made derivatives as far as they went"
    return f"{taken}; {rest}, with ANTs." if rest else f"{taken}."


def _stand_ins(plan: AnatomyPlan, workflow: Workflow) -> dict[type, tuple[Node, dict[str, str]]]:
    """Return the nodes that take ready-made files, by the step that they stand in for."""
    complete = fractions_are_ready(plan)
    nodes: dict[type, tuple[Node, dict[str, str]]] = {}
    image = plan.ready.get("preproc") or (plan.image if complete else "")
    reference = {"reference_file": image or plan.image}
    if image:
        nodes[BiasCorrect] = (
            Node(TakeImage(in_file=image), name="take_image"),
            {"out_file": "out_file"},
        )
    if "mask" in plan.ready or complete:
        given = {"in_file": plan.ready["mask"]} if "mask" in plan.ready else {}
        age = {} if plan.age is None else {"age": plan.age}
        mask = Node(TakeMask(**given, **age, **reference), name="take_mask")
        workflow.connect(mask, "remarks", workflow.get_node("outputnode"), "ready_warning")
        nodes[BrainExtract] = mask, FROM_MASK
    if complete:
        take = Node(TakeFractions(**_fraction_files(plan), **reference), name="take_fractions")
        nodes[TissueFractions] = take, FROM_FRACTIONS
        workflow.connect(take, "brain_file", mask, "brain_file")
        workflow.connect(take, "warning", mask, "notes")
    if set(plan.ready) >= {"to_template", "from_template"}:
        known = {f"{way}_xfm": plan.ready[way] for way in ("to_template", "from_template")}
        ready = Node(IdentityInterface(list(known)), name="take_transforms")
        ready.inputs.trait_set(**known)
        nodes[Normalize] = ready, FROM_TRANSFORMS
    return nodes


def _fraction_files(plan: AnatomyPlan) -> dict[str, Any]:
    if not plan.label_tissues:
        return {f"{tissue.lower()}_file": plan.ready[tissue] for tissue in ("GM", "WM", "CSF")}
    posteriors = plan.ready.get("posteriors")
    return {
        "labels_file": plan.ready["dseg"],
        "label_tissues": dict(plan.label_tissues),
        **({"posteriors_file": posteriors} if posteriors else {}),
    }


def _nodes_of(workflow: Workflow, step: type) -> list[Node]:
    nodes = list(workflow._graph.nodes())
    return [node for node in nodes if isinstance(getattr(node, "interface", None), step)]


def _uses(workflow: Workflow, node: Node) -> list[tuple[Node, Any, str]]:
    """Return what takes a node's outputs: the taker, the output, and the taker's field."""
    return [
        (target, output, field)
        for _, target, link in workflow._graph.out_edges(node, data=True)
        for output, field in link["connect"]
    ]


def _replace(workflow: Workflow, step: type, ready: Node, ports: Mapping[str, str]) -> None:
    """Let a node give what the nodes of a step would compute."""
    for node in _nodes_of(workflow, step):
        for target, output, field in _uses(workflow, node):
            workflow.disconnect(node, output, target, field)
            if output in ports:
                workflow.connect(ready, ports[output], target, field)


def _remove(workflow: Workflow, step: type) -> None:
    workflow.remove_nodes(_nodes_of(workflow, step))


def _drop_unused(workflow: Workflow) -> None:
    """Drop the nodes that feed nothing, until all do."""
    ports = ("inputnode", "outputnode")
    nodes = list(workflow._graph.nodes())
    idle = [n for n in nodes if n.name not in ports and not _uses(workflow, n)]
    if idle:
        workflow.remove_nodes(idle)
        _drop_unused(workflow)
