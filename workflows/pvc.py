"""Regions on the sodium grid, and their signals corrected for partial volume."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.coil_fields import AssessTransmit
from sodiumprep.interfaces.eyes import FindEyes
from sodiumprep.interfaces.pvc import FROM_KSPACE, CorrectPartialVolume
from sodiumprep.interfaces.pvc_kspace import RegressKspace
from sodiumprep.interfaces.regions import SampleRegions
from sodiumprep.sodium.pvc.assessment import SEGMENTATION_ERROR
from sodiumprep.workflows.plans import SodiumPlan

OF_MEASUREMENT = {"kspace_file", "stated", "sensitivities", "gradient_delay", "estimate_delay",
                  "fieldmap_file", "fieldmap_scale", "low_mem"}  # fmt: skip
FRACTIONS = ["gm_file", "wm_file", "csf_file"]
ANATOMY = [*FRACTIONS, "inner_mask", "head_mask", "brain_warning"]
INPUTS = ["image_file", "noise_file", "response_file", "static_response_file", "xfm_file",
          "anat_file", *ANATOMY, "properties"]  # fmt: skip
OUTPUTS = ["regions_file", "anatomy_file", "fine_file", "signals_file", "map_files", "properties"]
CITED = {
    "gtm": "the geometric transfer matrix (Rousset 1998)",
    "labbe": "weighted least squares on the blurred fractions (Labbé 1999)",
    "rbv": "region-based voxelwise correction (Thomas 2011)",
    "iy": "the iterative Yang method (Erlandsson 2012)",
    "mtc": "multi-target correction (Erlandsson 2006)",
    "mg": "the method of Müller-Gärtner 1992 with terms for CSF and background",
    "regression": "regression in the neighbourhood of each voxel (Asllani 2008)",
    "rl": "Richardson-Lucy deconvolution (Richardson 1972)",
    "vc": "reblurred Van Cittert deconvolution (Tohka 2008)",
    "kspace": "regression of raw k-space on the regions (Hu 1988)",
}
DESCRIPTION = (
    "Partial-volume effects were corrected by {methods}, with "
    "grey matter, white matter, CSF, lesions, vials, the vitreous humour of both eyes (where they "
    "were found in the sodium image) and sectors of the head around the brain as regions, each "
    "blurred by its own point-spread function."
)


def init_pvc_wf(plan: SodiumPlan, name: str = "pvc_wf") -> Workflow:
    """Build the graph of the partial-volume correction.

    Parameters
    ----------
    plan
        What is known of the run.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``image_file`` and ``noise_file`` [signal], ``field_file`` (what they were
        multiplied by to correct for the coils; where k-space is used), ``transmit_model_file``
        (with a transmit field), ``response_file``,
        ``static_response_file`` (of the image that vials are read from), ``xfm_file``,
        ``anat_file``, the fractions and masks of the anatomy, ``properties``. ``outputnode``:
        ``regions_file``, ``signals_file`` (corrected regional signals with covariance),
        ``map_files`` (corrected images by method), ``anatomy_file`` (where there are any:
        fractions on the grid of the anatomy), ``fine_file`` (with atlases or lesions: tissues
        before they were blurred), ``transmit_file`` (with a transmit field), ``properties``.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = DESCRIPTION.format(
        methods="; by ".join(CITED[method] for method in plan.pvc["methods"])
    )
    ports = [
        *INPUTS,
        *(["field_file"] if from_kspace(plan) else []),
        *(["transmit_model_file"] if plan.transmit else []),
    ]
    source = Node(IdentityInterface(ports), name="inputnode")
    eyes = Node(FindEyes(needed=plan.reference == "vitreous"), name="eyes")
    regions = Node(
        SampleRegions(
            **plan.regions,
            border_shift=SEGMENTATION_ERROR,
            keep_anatomy=bool(plan.map_outputs),
            keep_fine=bool(plan.atlases) or plan.surroundings is not None,
        ),
        name="regions",
    )
    correct = Node(
        CorrectPartialVolume(**plan.pvc),
        name="correct",
    )
    result = Node(IdentityInterface([*OUTPUTS, *transmit_port(plan)]), name="outputnode")
    workflow.connect([
        (source, eyes, [
            ("image_file", "sodium_file"),
            ("inner_mask", "brain_mask"),
            *((p, p) for p in ("response_file", "xfm_file", "anat_file", "head_mask",
                               "properties")),
        ]),
        (eyes, regions, [("eyes", "eyes")]),
        (eyes, correct, [("properties", "properties")]),
        (source, regions, [
            ("image_file", "sodium_file"),
            ("inner_mask", "brain_mask"),  # where the fractions sum to one
            *((p, p) for p in (
                "xfm_file", "response_file", "static_response_file", *FRACTIONS, "head_mask")),
        ]),
        (source, correct, [
            (port, port) for port in (
                "image_file", "noise_file", "response_file", "brain_warning",
            )
        ]),
        (regions, correct, [("regions_file", "regions_file")]),
        (regions, result, [(p, p) for p in ("regions_file", "anatomy_file", "fine_file")]),
        (correct, result, [(port, port) for port in ("signals_file", "map_files", "properties")]),
    ])  # fmt: skip
    if plan.transmit:
        _add_transmit(workflow, plan)
    if from_kspace(plan):
        _add_kspace(workflow, plan)
    return workflow


def transmit_port(plan: SodiumPlan) -> list[str]:
    """Return the port that tells what the flip angle does to regions, where it is known.

    Parameters
    ----------
    plan
        What is known of the run.
    """
    return ["transmit_file"] if plan.transmit else []


def _add_transmit(workflow: Workflow, plan: SodiumPlan) -> None:
    """Let it be told what the flip angle does to the regions."""
    source, regions, result = (
        workflow.get_node(name) for name in ("inputnode", "regions", "outputnode")
    )
    assess = Node(
        AssessTransmit(tissues=dict(plan.tissues), protocol=dict(plan.protocol)),
        name="transmit",
    )
    workflow.connect(
        [
            (
                source,
                assess,
                [("image_file", "image_file"), ("transmit_model_file", "model_file")],
            ),
            (regions, assess, [("regions_file", "regions_file")]),
            (assess, result, [("transmit_file", "transmit_file")]),
        ]
    )


def from_kspace(plan: SodiumPlan) -> bool:
    """Tell whether regional signals are to be estimated from raw k-space as well.

    Parameters
    ----------
    plan
        What is known of the run.
    """
    return FROM_KSPACE in plan.pvc["methods"]


def _add_kspace(workflow: Workflow, plan: SodiumPlan) -> None:
    """Let regional signals be estimated from raw k-space as well."""
    source, correct = workflow.get_node("inputnode"), workflow.get_node("correct")
    known = {name: value for name, value in plan.source.items() if name in OF_MEASUREMENT}
    # moved borders cost more than the regression itself: those of gtm stand in for them
    shift = SEGMENTATION_ERROR if plan.pvc.get("sensitivity") else 0.0
    kspace = Node(
        RegressKspace(tissues=dict(plan.tissues), border_shift=shift, **known, **plan.regions),
        name="kspace",
    )
    workflow.connect([
        (source, kspace, [
            ("image_file", "sodium_file"),
            ("inner_mask", "brain_mask"),
            *((p, p) for p in ("field_file", "xfm_file", *FRACTIONS, "head_mask", "properties")),
        ]),
        (workflow.get_node("eyes"), kspace, [("eyes", "eyes")]),
        (kspace, correct, [("signals_file", "kspace_signals_file"), ("told", "kspace_told")]),
    ])  # fmt: skip
