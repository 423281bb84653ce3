"""Maps of an anatomically guided reconstruction, beside those of the linear one."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.concentration import MapConcentration
from sodiumprep.interfaces.guided import ReconstructGuided
from sodiumprep.interfaces.outputs import SaveGuided
from sodiumprep.workflows.plans import SodiumPlan

ANATOMY = ["gm_file", "wm_file", "csf_file"]
REGIONS = ["regions_file", "signals_file", "calibration_file"]
INPUTS = [*ANATOMY, "guide_file", "xfm_file", "field_file", *REGIONS]
DESCRIPTION = (
    "A second reconstruction was guided by the 1H image (directional total variation, "
    "Ehrhardt 2016) with each voxel's decay in the forward model; its maps are for looking at "
    "and fed no partial-volume correction."
)


def init_guided_wf(plan: SodiumPlan, name: str = "guided_wf") -> Workflow:
    """Build the graph of the guided reconstruction.

    Parameters
    ----------
    plan
        What is known of the run; ``plan.guided`` holds inputs and outputs of its own.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: fractions and ``guide_file`` of the anatomy, ``xfm_file``, ``field_file``
        (receive correction), and from the linear reconstruction ``regions_file``,
        ``signals_file`` and ``calibration_file``. It saves what it makes.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = DESCRIPTION
    constants = {"tissues": dict(plan.tissues)}
    source = Node(IdentityInterface(INPUTS), name="inputnode")
    image = Node(ReconstructGuided(**constants, **plan.guided["source"]), name="image", mem_gb=2.5)
    maps = Node(MapConcentration(**constants, protocol=dict(plan.protocol)), name="maps")
    save = Node(
        SaveGuided(outputs=dict(plan.guided["outputs"]), provenance=dict(plan.provenance)),
        name="save",
    )
    drawn = ["image_file", "noise_file"]
    results = ["apparent_file", "corrected_file", "uncertainty_file"]
    workflow.connect([
        (source, image, [(p, p) for p in (*ANATOMY, "guide_file", "xfm_file", "field_file")]),
        (source, maps, [(port, port) for port in REGIONS]),
        (image, maps, [(port, port) for port in drawn]),
        (image, save, [(port, port) for port in (*drawn, "properties")]),
        (maps, save, [(port, port) for port in results]),
    ])  # fmt: skip
    return workflow
