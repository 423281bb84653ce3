"""The whole graph. Here, and only here, is decided what exists and needs no computing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.anatomy import BrainExtract, HeadMask
from sodiumprep.interfaces.outputs import ANATOMY_FILES
from sodiumprep.interfaces.regions import UniteLesions
from sodiumprep.workflows import anatomy as anatomy_room
from sodiumprep.workflows.anatomy import init_anatomy_wf
from sodiumprep.workflows.concentration import init_concentration_wf
from sodiumprep.workflows.nonlinear import init_nonlinear_wf
from sodiumprep.workflows.outputs import init_anatomy_outputs_wf, init_sodium_outputs_wf
from sodiumprep.workflows.plans import AnatomyPlan, SodiumPlan
from sodiumprep.workflows.pvc import init_gtm_wf
from sodiumprep.workflows.reconstruct import init_reconstruct_wf
from sodiumprep.workflows.register import init_register_wf

COMPLETE = {"mask", "GM", "WM", "CSF"}  # ready-made files that leave nothing to compute
FRACTIONS = ["gm_file", "wm_file", "csf_file"]
USED_BY_SODIUM = [*FRACTIONS, "inner_mask", "head_mask", "brain_warning"]


def is_ready(plan: AnatomyPlan) -> bool:
    """Tell whether ready-made files make the anatomy complete.

    Parameters
    ----------
    plan
        Of one subject.

    Returns
    -------
    ready
        Mask, three fractions, and an image to show them on.
    """
    return set(plan.ready) >= COMPLETE and bool(plan.ready.get("preproc") or plan.image)


def init_ready_anatomy_wf(plan: AnatomyPlan, name: str = "anatomy_wf") -> Workflow:
    """Build the graph of an anatomy that is ready-made but for the mask of the head.

    Parameters
    ----------
    plan
        Of one subject.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``outputnode`` as that of :func:`~sodiumprep.workflows.anatomy.init_anatomy_wf`, without
        transforms.
    """
    workflow = Workflow(name=name)
    image = plan.ready.get("preproc") or plan.image
    head = Node(HeadMask(in_file=image, mask_file=plan.ready["mask"]), name="head")
    volume = Node(BrainExtract(in_file=image, mask_file=plan.ready["mask"]), name="volume")
    if plan.age is not None:
        volume.inputs.age = plan.age
    known = {"preproc_file": image}
    known |= dict.fromkeys(("brain_mask", "inner_mask"), plan.ready["mask"])
    known |= {f"{t.lower()}_file": plan.ready[t] for t in ("GM", "WM", "CSF")}
    known |= {"dseg_file": plan.ready["dseg"]} if "dseg" in plan.ready else {}
    result = Node(IdentityInterface(anatomy_room.OUTPUTS), name="outputnode")
    result.inputs.trait_set(**known)
    workflow.connect([
        (head, result, [("head_mask_file", "head_mask")]),
        (volume, result, [("brain_volume_ml", "brain_volume_ml"), ("warning", "brain_warning")]),
    ])  # fmt: skip
    return workflow


def init_computed_anatomy_wf(
    plan: AnatomyPlan, sloppy: bool, name: str = "anatomy_wf"
) -> Workflow:
    """Build the graph of an anatomy that is computed from the 1H image.

    Parameters
    ----------
    plan
        Of one subject; a ready-made mask is used.
    sloppy
        Faster and less exact.
    name
        Of the workflow.

    Returns
    -------
    workflow
        As :func:`~sodiumprep.workflows.anatomy.init_anatomy_wf`, inputs set.
    """
    workflow = init_anatomy_wf(sloppy, name=name)
    source = workflow.get_node("inputnode")
    source.inputs.anat_file = plan.image
    if plan.age is not None:
        source.inputs.age = plan.age
    if plan.inversions:
        source.inputs.inversion_files = list(plan.inversions)
    if "mask" in plan.ready:
        source.inputs.mask_file = plan.ready["mask"]
    if plan.lesions:
        unite = Node(
            UniteLesions(lesion_files=dict(plan.lesions), reference_file=plan.image), name="unite"
        )
        workflow.connect(unite, "out_file", source, "lesion_file")
    return workflow


def init_sodium_wf(plan: SodiumPlan, sloppy: bool) -> Workflow:
    """Build the graph of one sodium run, from its source to its table.

    Parameters
    ----------
    plan
        Of the run.
    sloppy
        Fewer restarts of the registration.

    Returns
    -------
    workflow
        ``inputnode``: fractions and masks of the anatomy, and ``preproc_file`` whose grid the
        maps in anatomical space take.
    """
    workflow = Workflow(name=plan.name)
    source = Node(IdentityInterface([*USED_BY_SODIUM, "preproc_file"]), name="inputnode")
    image = init_reconstruct_wf(plan)
    register = init_register_wf(plan.given_xfm, sloppy)
    pvc = init_gtm_wf(plan)
    concentration = init_concentration_wf(plan)
    save = init_sodium_outputs_wf(plan)
    corrected = [(f"outputnode.{p}", f"inputnode.{p}") for p in ("image_file", "noise_file")]
    response = [("outputnode.response_file", "inputnode.response_file")]
    transform = [("outputnode.xfm_file", "inputnode.xfm_file")]
    properties = [("outputnode.properties", "inputnode.properties")]
    workflow.connect([
        (source, register, [(p, f"inputnode.{p}") for p in (*FRACTIONS, "head_mask")]),
        (source, pvc, [(p, f"inputnode.{p}") for p in USED_BY_SODIUM]),
        (source, concentration, [("preproc_file", "inputnode.reference_file")]),
        (image, register, [("outputnode.image_file", "inputnode.sodium_file"), *properties]),
        (image, pvc, corrected + response),
        (image, concentration,
         corrected + response + [("outputnode.model_file", "inputnode.model_file")]),
        (image, save, [
            ("outputnode.raw_image_file", "inputnode.image_file"),
            ("outputnode.raw_noise_file", "inputnode.noise_file"),
            ("outputnode.field_file", "inputnode.field_file"),
        ]),
        (register, pvc, transform + properties),
        (register, concentration, list(transform)),
        (register, save, list(transform)),  # Nipype keeps and changes the list it is given
        (pvc, concentration, properties + [
            (f"outputnode.{p}", f"inputnode.{p}") for p in ("regions_file", "signals_file")
        ]),
        (pvc, save, properties),
        (concentration, save, [
            (f"outputnode.{p}", f"inputnode.{p}") for p in (
                "apparent_file", "corrected_file", "uncertainty_file", "anat_apparent_file",
                "anat_corrected_file", "anat_uncertainty_file", "calibration_file", "table_file",
            )
        ]),
    ])  # fmt: skip
    if plan.nonlinear:
        rooms = {"register": register, "pvc": pvc, "concentration": concentration}
        _add_nonlinear(workflow, plan, source, rooms)
    return workflow


def _add_nonlinear(
    workflow: Workflow, plan: SodiumPlan, source: Node, rooms: Mapping[str, Workflow]
) -> None:
    """Let a reconstruction that is not linear follow what it needs of the linear one."""
    beside = init_nonlinear_wf(plan)
    taken = {
        "register": ("xfm_file",),
        "pvc": ("regions_file", "signals_file"),
        "concentration": ("calibration_file",),
    }
    workflow.connect([
        (source, beside, [(p, f"inputnode.{p}") for p in FRACTIONS]
         + [("preproc_file", "inputnode.guide_file")]),
        *((rooms[room], beside, [(f"outputnode.{p}", f"inputnode.{p}") for p in ports])
          for room, ports in taken.items()),
    ])  # fmt: skip


def init_subject_wf(
    name: str, anatomy: AnatomyPlan, runs: Sequence[SodiumPlan], sloppy: bool
) -> Workflow:
    """Build the graph of one subject and session.

    Parameters
    ----------
    name
        Of the workflow.
    anatomy
        Plan of the anatomy.
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
    prepared = (
        init_ready_anatomy_wf(anatomy)
        if is_ready(anatomy)
        else init_computed_anatomy_wf(anatomy, sloppy)
    )
    save = init_anatomy_outputs_wf(anatomy)
    saved = [(f"outputnode.{p}", f"inputnode.{p}") for p in ANATOMY_FILES]
    workflow.connect([(prepared, save, saved)])
    used = [(f"outputnode.{p}", f"inputnode.{p}") for p in (*USED_BY_SODIUM, "preproc_file")]
    for plan in runs:
        workflow.connect([(prepared, init_sodium_wf(plan, sloppy), list(used))])
    return workflow
