"""Templates: the anatomy is normalized to them, and the maps are resampled to their grids."""

from __future__ import annotations

from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.anatomy import Normalize
from sodiumprep.interfaces.anatomy_outputs import SaveTransforms
from sodiumprep.interfaces.concentration import ResampleCorrected, ResampleToTemplate
from sodiumprep.interfaces.map_outputs import SPACE_FILES, SaveCorrected, SaveSpace
from sodiumprep.interfaces.regions import UniteLesions
from sodiumprep.workflows.plans import AnatomyPlan, SodiumPlan, SpacePlan, TemplatePlan

MAPS = tuple(SPACE_FILES)
TRANSFORMS = ["to_template_xfm", "from_template_xfm"]
SAVED = ["calibration_file", "properties", "uncertainty_terms"]
TO_TEMPLATE = ["xfm_file", "template_xfm"]
LINEAR = {"Interpolation": "linear, once, from the sodium grid"}
SPACE_INPUTS = [*MAPS, *TO_TEMPLATE, *SAVED]
NORMALIZED = (
    "For maps in standard spaces the brain was normalized to {} (SyN, ANTs; lesions left out of "
    "the metric)."
)
RESAMPLED = (
    "Maps were resampled once, by cubic splines, from the sodium grid to the grids of templates, "
    "through the concatenated transforms."
)
RESAMPLED_CORRECTED = (
    "Maps of partial-volume corrections, which have edges of one voxel, were resampled so by "
    "linear interpolation."
)


def template_port(name: str) -> str:
    """Return the port that carries the transform to a template.

    Parameters
    ----------
    name
        Of template and cohort.

    Examples
    --------
    >>> template_port("MNIInfant+2")
    'to_MNIInfant_cohort_2'
    """
    return f"to_{name.replace('+', '_cohort_')}"


def backward_port(name: str) -> str:
    """Return the port that carries the transform from a template.

    Parameters
    ----------
    name
        Of template and cohort.

    Examples
    --------
    >>> backward_port("MNIInfant+2")
    'from_MNIInfant_cohort_2'
    """
    return f"from_{name.replace('+', '_cohort_')}"


def init_templates_wf(
    plan: AnatomyPlan, embedded: str, sloppy: bool, name: str = "templates_wf"
) -> Workflow:
    """Build the graph of the normalization to templates.

    Parameters
    ----------
    plan
        Of one subject; templates of which it has a transform are not registered to.
    embedded
        Name of the template whose transform is there already, in ``to_template_xfm``; empty if
        there is none.
    sloppy
        On a grid of 2 mm.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``preproc_file`` and ``brain_mask`` of the anatomy, ``to_template_xfm`` and
        ``from_template_xfm`` if they are there already. ``outputnode``: for each template the
        transform that resamples the anatomy to it, as :func:`template_port` names it, and the
        one back, as :func:`backward_port` does. New transforms are saved.
    """
    workflow = Workflow(name=name)
    ports = ["preproc_file", "brain_mask", *(TRANSFORMS if embedded else [])]
    source = Node(IdentityInterface(ports, mandatory_inputs=False), name="inputnode")
    names = [template.name for template in plan.templates]
    wanted = [port(name) for name in names for port in (template_port, backward_port)]
    result = Node(IdentityInterface(wanted, mandatory_inputs=False), name="outputnode")
    workflow.add_nodes([source, result])
    registered = []
    for template in plan.templates:
        forth, back = template_port(template.name), backward_port(template.name)
        if template.name in plan.transforms:
            setattr(result.inputs, forth, plan.transforms[template.name])
            if template.name in plan.backward:
                setattr(result.inputs, back, plan.backward[template.name])
            continue
        if template.name == embedded:
            node = source
        else:
            node = _normalize(workflow, source, template, sloppy)
            registered.append((template.name, node))
        workflow.connect([
            (node, result, [("to_template_xfm", forth), ("from_template_xfm", back)]),
        ])  # fmt: skip
    if registered:
        workflow.__desc__ = NORMALIZED.format(" and ".join(label for label, _ in registered))
        _leave_out_lesions(workflow, source, plan, [node for _, node in registered])
    return workflow


def _normalize(workflow: Workflow, source: Node, template: TemplatePlan, sloppy: bool) -> Node:
    """Register to one template and save the transforms."""
    port = template_port(template.name)
    files = {"template_file": template.image, "template_mask": template.mask}
    given = files if template.image else {}
    node = Node(Normalize(sloppy=sloppy, **given), name=f"normalize_{port}")
    save = Node(
        SaveTransforms(outputs=dict(template.outputs), provenance=dict(template.provenance)),
        name=f"save_{port}",
    )
    workflow.connect([
        (source, node, [("preproc_file", "in_file"), ("brain_mask", "mask_file")]),
        (node, save, [(p, p) for p in (*TRANSFORMS, "overlap", "warning")]),
    ])  # fmt: skip
    return node


def _leave_out_lesions(
    workflow: Workflow, source: Node, plan: AnatomyPlan, nodes: list[Node]
) -> None:
    if not plan.lesions:
        return
    unite = Node(UniteLesions(lesion_files=dict(plan.lesions)), name="unite")
    workflow.connect(source, "preproc_file", unite, "reference_file")
    for node in nodes:
        workflow.connect(unite, "out_file", node, "lesion_file")


def init_space_wf(plan: SodiumPlan, space: SpacePlan) -> Workflow:
    """Build the graph that resamples the maps of a run to the grid of a template, and saves them.

    Parameters
    ----------
    plan
        Of the run.
    space
        Grid and output paths.

    Returns
    -------
    workflow
        ``inputnode``: the maps on the sodium grid [mmol/L], ``xfm_file`` (points of the anatomy to
        points of sodium), ``template_xfm`` (points of the template to points of the anatomy),
        ``calibration_file``, ``properties``, ``uncertainty_terms``.
    """
    workflow = Workflow(name=f"space_{space.name}_wf")
    workflow.__desc__ = RESAMPLED
    source = Node(IdentityInterface(SPACE_INPUTS), name="inputnode")
    resample = {port: Node(ResampleToTemplate(**_grid(space)), name=port) for port in MAPS}
    save = Node(
        SaveSpace(
            outputs=dict(space.outputs),
            provenance={**plan.provenance, **space.provenance},
            tissues=dict(plan.tissues),
        ),
        name="save",
    )
    workflow.connect([
        *((source, node, [(port, "in_file"), ("xfm_file", "xfm_file"),
                          ("template_xfm", "template_xfm")]) for port, node in resample.items()),
        *((node, save, [("out_file", port)]) for port, node in resample.items()),
        (source, save, [(port, port) for port in SAVED]),
    ])  # fmt: skip
    return workflow


def init_corrected_space_wf(plan: SodiumPlan, space: SpacePlan) -> Workflow:
    """Build the graph that resamples the maps of partial-volume corrections, and saves them.

    Parameters
    ----------
    plan
        Of the run.
    space
        Grid, and ``corrected`` output paths.

    Returns
    -------
    workflow
        ``inputnode``: ``map_files`` on the sodium grid [mmol/L] and the other inputs of
        :func:`init_space_wf`.
    """
    workflow = Workflow(name=f"pvc_space_{space.name}_wf")
    workflow.__desc__ = RESAMPLED_CORRECTED
    source = Node(IdentityInterface(["map_files", *TO_TEMPLATE, *SAVED]), name="inputnode")
    resample = Node(
        ResampleCorrected(wanted=sorted(space.corrected), **_grid(space)), name="resample"
    )
    save = Node(
        SaveCorrected(
            outputs=dict(space.corrected),
            provenance={**plan.provenance, **space.provenance, **LINEAR},
            tissues=dict(plan.tissues),
        ),
        name="save",
    )
    workflow.connect([
        (source, resample, [(port, port) for port in ("map_files", *TO_TEMPLATE)]),
        (resample, save, [("map_files", "map_files")]),
        (source, save, [(port, port) for port in SAVED]),
    ])  # fmt: skip
    return workflow


def _grid(space: SpacePlan) -> dict[str, Any]:
    return {"grid_file": space.grid} if space.grid else {"resolution": space.resolution}
