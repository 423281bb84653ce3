"""Calibration vials without a label image, found in the sodium image."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.vials import FindVials
from sodiumprep.workflows.plans import SodiumPlan

INPUTS = ["static_file", "static_noise_file", "static_response_file", "head_mask", "xfm_file",
          "properties"]  # fmt: skip
OUTPUTS = ["label_file", "names", "reference", "properties"]
DESCRIPTION = (
    "Vials were searched outside the head, as bright bodies that are round across their longest "
    "axis, and fitted with cylinders blurred by the point-spread function."
)


def init_vials_wf(plan: SodiumPlan, name: str = "vials_wf") -> Workflow:
    """Build the graph of the search for vials.

    Parameters
    ----------
    plan
        What is known of the run.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``static_file`` and ``static_noise_file`` [signal] in which vials lie
        still, ``static_response_file``, ``head_mask`` in the space of the anatomy, ``xfm_file``,
        ``properties``. ``outputnode``: ``label_file`` and ``names`` of the vials that calibrate
        (None and empty where none do), ``reference`` ("vials", or "csf" where they cannot),
        ``properties``.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = DESCRIPTION
    source = Node(IdentityInterface(INPUTS), name="inputnode")
    find = Node(
        FindVials(
            vials=[dict(v) for v in plan.vials],
            tissues=dict(plan.tissues),
            protocol=dict(plan.protocol),
            force=plan.force,
            **({"assumed": dict(plan.assumed)} if plan.assumed else {}),
            **(plan.vial_search or {}),
        ),
        name="find",
    )
    result = Node(IdentityInterface(OUTPUTS), name="outputnode")
    workflow.connect([
        (source, find, [(port, port) for port in INPUTS]),
        (find, result, [(port, port) for port in OUTPUTS]),
    ])  # fmt: skip
    return workflow
