"""A calibration phantom that was scanned by itself, treated like the sodium image of a head."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.calibrate import PHANTOM
from sodiumprep.interfaces.coil_fields import CorrectReceive
from sodiumprep.interfaces.replacement import MeasurePhantom
from sodiumprep.workflows.plans import SodiumPlan
from sodiumprep.workflows.reconstruct import SOURCES

DESCRIPTION = (
    "A phantom of known concentration was scanned by itself in the same coil, its image was "
    "treated like that of the head, and its signal was scaled by the loading of the coil "
    "(reciprocity, Hoult 1976)."
)


def phantom_port(plan: SodiumPlan) -> list[str]:
    """Return the port that carries the calibration by a phantom, where there is one.

    Parameters
    ----------
    plan
        What is known of the run.
    """
    return ["phantom_file"] if plan.phantom else []


def init_phantom_wf(plan: SodiumPlan, name: str = "phantom_wf") -> Workflow:
    """Build the graph of a phantom that was scanned by itself.

    Parameters
    ----------
    plan
        What is known of the run, and in ``plan.phantom`` of the phantom.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``, with a transmit field only: ``transmit_model_file``, that of the head: the
        coil is the same. ``outputnode``: ``phantom_file`` (the lines through the phantom, JSON).
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = DESCRIPTION
    known = plan.phantom
    source = Node(
        SOURCES[plan.is_kspace](tissues={PHANTOM: dict(known["constants"])}, **known["source"]),
        name="source",
    )
    receive = Node(CorrectReceive(**plan.receive), name="receive")
    measure = Node(
        MeasurePhantom(
            protocol=dict(plan.protocol),
            **{k: known[k] for k in ("known", "constants", "own_protocol", "needed")},
        ),
        name="measure",
    )
    result = Node(IdentityInterface(["phantom_file"]), name="outputnode")
    workflow.connect([
        (source, receive, [(p, p) for p in ("image_file", "noise_file", "properties")]),
        (source, measure, [(p, p) for p in ("response_file", "properties")]),
        (receive, measure, [
            ("out_file", "image_file"),
            *((p, p) for p in ("noise_file", "field_file", "model_file")),
        ]),
        (measure, result, [("phantom_file", "phantom_file")]),
    ])  # fmt: skip
    if plan.transmit:
        field = Node(IdentityInterface(["transmit_model_file"]), name="inputnode")
        workflow.connect(field, "transmit_model_file", measure, "transmit_model_file")
    return workflow
