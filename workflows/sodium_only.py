"""Sodium without an anatomy: the image, its calibration, apparent maps, and drawn regions."""

from __future__ import annotations

from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.calibrate import Calibrate
from sodiumprep.interfaces.outputs import SaveSodiumOnly
from sodiumprep.interfaces.regions import SampleDrawnRegions
from sodiumprep.interfaces.sodium_only import MapApparent, TabulateDrawn
from sodiumprep.workflows.plans import SodiumPlan
from sodiumprep.workflows.reconstruct import init_reconstruct_wf

DESCRIPTION = (
    "There was no image of the anatomy: sodium images stayed in their own space and were "
    "calibrated against vials; concentrations are apparent, neither corrected for relaxation nor "
    "for partial volume."
)


def init_sodium_only_wf(plan: SodiumPlan) -> Workflow:
    """Build the graph of one sodium run of a subject without anatomy.

    Parameters
    ----------
    plan
        Of the run; calibrated by vials.

    Returns
    -------
    workflow
        Complete: no input is left open, and it saves what it makes.
    """
    workflow = Workflow(name=plan.name)
    workflow.__desc__ = DESCRIPTION
    constants = {"tissues": dict(plan.tissues), "protocol": dict(plan.protocol)}
    image = init_reconstruct_wf(plan)
    regions = Node(SampleDrawnRegions(**plan.regions), name="regions")
    calibrate = Node(
        Calibrate(
            reference=plan.reference,
            vials=[dict(v) for v in plan.vials],
            force=plan.force,
            **constants,
        ),
        name="calibrate",
    )
    maps = Node(MapApparent(), name="maps")
    table = Node(
        TabulateDrawn(protocol=dict(plan.protocol), **plan.uncertainty),
        name="table",
    )
    save = Node(
        SaveSodiumOnly(outputs=dict(plan.outputs), provenance=dict(plan.provenance)), name="save"
    )
    corrected = [(f"outputnode.{p}", p) for p in ("image_file", "noise_file")]
    properties = [("outputnode.properties", "properties")]
    response = [("outputnode.response_file", "response_file")]
    workflow.connect([
        (image, regions, [
            ("outputnode.image_file", "sodium_file"),
            ("outputnode.static_response_file", "static_response_file"),
            *response,
        ]),
        (image, calibrate, properties + [
            (f"outputnode.{port}", port) for port in ("static_file", "static_noise_file")
        ]),
        (image, maps, list(corrected)),
        (image, table, corrected + properties + response
         + [("outputnode.model_file", "model_file")]),
        (image, save, [
            ("outputnode.raw_image_file", "image_file"),
            ("outputnode.raw_noise_file", "noise_file"),
            *((f"outputnode.{p}", p)
              for p in ("receive_file", "receive_uncertainty_file",
                        *(["flip_file"] if plan.transmit else []))),
            *properties,
        ]),
        *((regions, node, [("regions_file", "regions_file")]) for node in (calibrate, table)),
        *((calibrate, node, [("calibration_file", "calibration_file")])
          for node in (maps, table, save)),
        (maps, save, [(p, p) for p in ("apparent_file", "uncertainty_file")]),
        (table, save, [(port, port) for port in ("table_file", "equation_file", "told")]),
    ])  # fmt: skip
    return workflow
