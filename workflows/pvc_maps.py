"""Maps without partial-volume effect, where methods were asked for that make them."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.map_outputs import SaveCorrected
from sodiumprep.interfaces.pvc_maps import MapCorrected
from sodiumprep.workflows.plans import SodiumPlan
from sodiumprep.workflows.pvc import transmit_port

MAPPED = ["image_file", "noise_file", "regions_file", "signals_file", "map_files", "anatomy_file",
          "calibration_file", "reference_file", "xfm_file", "model_file"]  # fmt: skip
MADE = ["map_files", "uncertainty_terms"]
DESCRIPTION = (
    "Corrected maps were made on the sodium grid, and anew at the resolution of the anatomy from "
    "its tissue fractions, where only what the image adds to them was interpolated."
)


def init_pvc_maps_wf(plan: SodiumPlan, name: str = "pvc_maps_wf") -> Workflow:
    """Build the graph of the maps of all methods that make one.

    Parameters
    ----------
    plan
        What is known of the run; ``plan.map_outputs`` holds the paths.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: the receive-corrected image [signal], regions, signals, ``map_files`` and
        ``anatomy_file`` of the partial-volume correction, ``calibration_file``,
        ``reference_file`` (grid of the anatomy), ``xfm_file``, ``model_file`` (fitted receive
        field), ``properties``. ``outputnode``: ``map_files`` by method and kind,
        ``uncertainty_terms``. It saves what it makes.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = DESCRIPTION
    mapped = [*MAPPED, *transmit_port(plan)]
    source = Node(IdentityInterface([*mapped, "properties"]), name="inputnode")
    result = Node(IdentityInterface(MADE), name="outputnode")
    maps = Node(
        MapCorrected(tissues=dict(plan.tissues), protocol=dict(plan.protocol)),
        name="maps",
    )
    save = Node(
        SaveCorrected(
            outputs=dict(plan.map_outputs),
            provenance=dict(plan.provenance),
            tissues=dict(plan.tissues),
        ),
        name="save",
    )
    workflow.connect([
        (source, maps, [(port, port) for port in (*mapped, "properties")]),
        (maps, save, [(port, port) for port in MADE]),
        (maps, result, [(port, port) for port in MADE]),
        (source, save, [(port, port) for port in ("calibration_file", "properties")]),
    ])  # fmt: skip
    return workflow
