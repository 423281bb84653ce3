"""Sessions of a subject on one anatomy: their poses, and what moves along with them."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.regions import UniteLesions
from sodiumprep.interfaces.sessions import (
    AlignSessions,
    BuildTemplate,
    MoveLabels,
    MoveMasks,
    PlaceSodium,
    ReturnToSession,
    SaveSession,
)
from sodiumprep.workflows import register as register_room
from sodiumprep.workflows.plans import ReferencePlan, SodiumPlan
from sodiumprep.workflows.register import init_register_wf

POSES = ["xfm_files", "scores"]


def init_template_wf(reference: ReferencePlan, sloppy: bool, name: str = "poses_wf") -> Workflow:
    """Build the graph of the mean of all sessions, in the space halfway between them.

    Parameters
    ----------
    reference
        Images of the sessions.
    sloppy
        One round.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``outputnode``: ``reference_file``, ``lesion_file`` (masks of all sessions, united; open
        where there are none), ``xfm_files`` (ITK text, points of the reference to points of each
        session), ``scores``.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = TEMPLATE_DESCRIPTION
    build = Node(BuildTemplate(in_files=list(reference.images), sloppy=sloppy), name="build")
    result = Node(IdentityInterface([*POSES, "reference_file", "lesion_file"]), name="outputnode")
    ports = [*POSES, "reference_file"]
    workflow.connect([(build, result, [(port, port) for port in ports])])
    if reference.excluded:
        masks = {"in_files": dict(reference.excluded), "spaces": dict(reference.excluded_spaces)}
        move, unite = Node(MoveMasks(**masks), name="move"), Node(UniteLesions(), name="unite")
        workflow.connect([
            (build, move, [("xfm_files", "xfm_files")]),
            (move, unite, [("out_files", "lesion_files")]),
            (build, unite, [("reference_file", "reference_file")]),
            (unite, result, [("out_file", "lesion_file")]),
        ])  # fmt: skip
    return workflow


def init_alignment_wf(reference: ReferencePlan, name: str = "poses_wf") -> Workflow:
    """Build the graph that registers sessions to the anatomy of one of them.

    Parameters
    ----------
    reference
        Images of the sessions.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``preproc_file`` and ``brain_mask`` of the anatomy. ``outputnode``:
        ``xfm_files`` (ITK text, points of the anatomy to points of each session), ``scores``.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = ALIGNMENT_DESCRIPTION
    source = Node(IdentityInterface(["preproc_file", "brain_mask"]), name="inputnode")
    align = Node(
        AlignSessions(
            in_files=list(reference.images), reference_index=reference.reference_index
        ),
        name="align",
    )  # fmt: skip
    result = Node(IdentityInterface(POSES), name="outputnode")
    workflow.connect([
        (source, align, [("preproc_file", "reference_file"), ("brain_mask", "mask_file")]),
        (align, result, [(port, port) for port in POSES]),
    ])  # fmt: skip
    return workflow


def init_session_outputs_wf(reference: ReferencePlan, name: str = "sessions_wf") -> Workflow:
    """Build the graph that saves pose and lesion masks of each session.

    Parameters
    ----------
    reference
        What is saved of each session.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``xfm_files``, ``scores``, and ``preproc_file`` whose grid masks take.
    """
    workflow = Workflow(name=name)
    source = Node(IdentityInterface([*POSES, "preproc_file"]), name="inputnode")
    for plan in reference.sessions:
        save = Node(
            SaveSession(
                index=plan.index, outputs=dict(plan.outputs), provenance=dict(plan.provenance)
            ),
            name=f"save_{plan.name}",
        )
        ports = [*((port, port) for port in POSES), ("preproc_file", "reference_file")]
        workflow.connect([(source, save, ports)])
        if plan.lesions:
            masks = {"in_files": dict(plan.lesions), "spaces": dict(plan.spaces)}
            move = Node(MoveMasks(**masks), name=f"move_{plan.name}")
            workflow.connect([
                (source, move, [("xfm_files", "xfm_files")]),
                (move, save, [("out_files", "lesion_files")]),
            ])  # fmt: skip
    return workflow


def init_moved_register_wf(
    plan: SodiumPlan, sloppy: bool, name: str = "moved_register_wf"
) -> Workflow:
    """Build the graph of the registration of a sodium image to the anatomy of another session.

    The header of the image moves along with the 1H image of its session, so that the registration
    starts as if the head had not moved in between; the transforms are concatenated.

    Parameters
    ----------
    plan
        Of the run.
    sloppy
        Fewer restarts.
    name
        Of the workflow.

    Returns
    -------
    workflow
        Ports of :func:`~sodiumprep.workflows.register.init_register_wf`, and ``xfm_files`` and
        ``scores`` of the sessions.
    """
    workflow = Workflow(name=name)
    index = plan.moved["sodium"]
    source = Node(IdentityInterface([*register_room.INPUTS, *POSES]), name="inputnode")
    given = {"given_xfm": plan.given_xfm} if plan.given_xfm else {}
    place = Node(PlaceSodium(index=index, **given), name="place")
    register = init_register_wf(plan.given_xfm, sloppy, plan.registration)
    back = Node(ReturnToSession(index=index), name="back")
    result = Node(IdentityInterface(register_room.OUTPUTS), name="outputnode")
    untouched = [port for port in register_room.INPUTS if port != "sodium_file"]
    workflow.connect([
        (source, place, [(port, port) for port in ("sodium_file", "xfm_files")]),
        (source, register, [(port, f"inputnode.{port}") for port in untouched]),
        (place, register, [("sodium_file", "inputnode.sodium_file")]),
        (place, back, [("sodium_file", "placed_file")]),
        (source, back, [(port, port) for port in POSES]),
        (register, back, [(f"outputnode.{p}", p) for p in ("xfm_file", "properties")]),
        (back, result, [(port, port) for port in register_room.OUTPUTS]),
    ])  # fmt: skip
    if plan.given_xfm:
        workflow.connect(place, "given_xfm", register, "register.given_xfm")
    return workflow


def move_regions(workflow: Workflow, source: Node, pvc: Workflow, plan: SodiumPlan) -> None:
    """Move lesion masks and vial labels of a run to the anatomy that sessions share.

    Parameters
    ----------
    workflow
        Of the run; it is changed.
    source
        Gives ``xfm_files``.
    pvc
        Its nodes ``regions`` and ``kspace``, if there is one, take masks and labels.
    plan
        Of the run.
    """
    takers = [name for name in ("regions", "kspace") if pvc.get_node(name) is not None]
    if any(index >= 0 for index in plan.lesion_spaces.values()):
        masks = {"in_files": plan.regions["lesion_files"], "spaces": dict(plan.lesion_spaces)}
        move = Node(MoveMasks(**masks), name="move_lesions")
        workflow.connect(source, "xfm_files", move, "xfm_files")
        for taker in takers:
            workflow.connect(move, "out_files", pvc, f"{taker}.lesion_files")
    if "vials" in plan.moved and "vial_labels" in plan.regions:
        labels = {"in_file": plan.regions["vial_labels"], "index": plan.moved["vials"]}
        shift = Node(MoveLabels(**labels), name="move_vials")
        workflow.connect(source, "xfm_files", shift, "xfm_files")
        for taker in takers:
            workflow.connect(shift, "out_file", pvc, f"{taker}.vial_labels")


TEMPLATE_DESCRIPTION = (
    "The 1H images of all sessions were registered rigidly (ANTs) and averaged in the space "
    "halfway between them, the exponential barycentre of their poses (Pennec 2013), so that no "
    "session is favoured; their mean served as anatomy of all sessions."
)
ALIGNMENT_DESCRIPTION = (
    "One anatomy served all sessions of a subject; the 1H images of the sessions were registered "
    "to it rigidly (ANTs), and these transforms concatenated with those of the sodium images."
)
