"""Maps of a reconstruction that is not linear, beside those of the linear one."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.coil_fields import CorrectReceive
from sodiumprep.interfaces.concentration import MapConcentration
from sodiumprep.interfaces.guided import ReconstructGuided
from sodiumprep.interfaces.map_outputs import SaveNonlinear
from sodiumprep.interfaces.reconstruct import ReconstructKspace
from sodiumprep.workflows.plans import SodiumPlan
from sodiumprep.workflows.pvc import transmit_port
from sodiumprep.workflows.reconstruct import METHODS, add_transmit

ANATOMY = ["gm_file", "wm_file", "csf_file", "guide_file", "xfm_file"]
REGIONS = ["regions_file", "signals_file", "calibration_file"]
# method -> interface, and what of the anatomy it takes
SOURCES = {"tv": (ReconstructKspace, []), "agr": (ReconstructGuided, ANATOMY)}
AIMS = {
    "tv": f"A second reconstruction was made {METHODS['tv']}.",
    "agr": "A second reconstruction, of all echoes of the raw data, was guided by the 1H image "
    "(directional total variation, Ehrhardt 2016) with each voxel's decay in the forward model.",
}
USE = "Its maps are for looking at and fed no partial-volume correction."


def init_nonlinear_wf(plan: SodiumPlan, name: str = "nonlinear_wf") -> Workflow:
    """Build the graph of a reconstruction that is not linear.

    Its answer to a small point is not its answer to an edge, so no kernel describes it, and a
    partial-volume correction with one would be wrong by tens of per cent.

    Parameters
    ----------
    plan
        What is known of the run; ``plan.nonlinear`` holds method, inputs and outputs.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: fractions and ``guide_file`` of the anatomy, ``xfm_file``, and from the
        linear reconstruction ``regions_file``, ``signals_file``, ``calibration_file`` and, with
        a transmit field, ``transmit_file``. It saves what it makes.
    """
    method = plan.nonlinear["method"]
    interface, taken = SOURCES[method]
    workflow = Workflow(name=name)
    workflow.__desc__ = f"{AIMS[method]} {USE}"
    constants = {"tissues": dict(plan.tissues)}
    regions = [*REGIONS, *transmit_port(plan)]
    source = Node(IdentityInterface([*ANATOMY, *regions]), name="inputnode")
    image = Node(
        interface(tissues=plan.kernel_tissues, **plan.nonlinear["source"]),
        name="image",
    )
    receive = Node(CorrectReceive(**plan.receive), name="receive")
    last = add_transmit(workflow, plan, receive)
    maps = Node(MapConcentration(**constants, protocol=dict(plan.protocol)), name="maps")
    save = Node(
        SaveNonlinear(
            outputs=dict(plan.nonlinear["outputs"]),
            provenance=dict(plan.provenance),
            **constants,
        ),
        name="save",
    )
    drawn = [("out_file", "image_file"), ("noise_file", "noise_file")]
    results = ["apparent_file", "corrected_file", "uncertainty_file", "uncertainty_terms"]
    workflow.connect([
        (source, image, [(port, port) for port in taken]),
        (source, maps, [(port, port) for port in regions]),
        (source, save, [("calibration_file", "calibration_file")]),
        (receive, maps, [("model_file", "model_file")]),
        (image, receive, [(p, p) for p in ("image_file", "noise_file", "properties")]),
        (last, maps, [*drawn, ("properties", "properties")]),
        (last, save, [*drawn, ("properties", "properties")]),
        (maps, save, [(port, port) for port in results]),
    ])  # fmt: skip
    return workflow
