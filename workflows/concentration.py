"""From signal to mmol/L: calibration, maps in both spaces, the regional table."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.calibrate import Calibrate
from sodiumprep.interfaces.concentration import (
    MapConcentration,
    MapResidual,
    ResampleToAnatomy,
    TabulateRegions,
)
from sodiumprep.workflows.plans import SodiumPlan
from sodiumprep.workflows.pvc import transmit_port
from sodiumprep.workflows.replacement import phantom_port

REGIONS = ["regions_file", "signals_file"]
IMAGE, STATIC = ["image_file", "noise_file"], ["static_file", "static_noise_file"]
INPUTS = [
    *IMAGE,
    *STATIC,
    *REGIONS,
    "model_file",
    "xfm_file",
    "reference_file",
    "properties",
]
MAPS = ["apparent_file", "corrected_file", "uncertainty_file"]
TABLE = ["table_file", "equation_file"]
OUTPUTS = [*MAPS, *(f"anat_{name}" for name in MAPS), "uncertainty_terms", "residual_file",
           "calibration_file", *TABLE, "table_told"]  # fmt: skip
DESCRIPTION = (
    "Signals were calibrated against references of known concentration and corrected for "
    "relaxation, region by region after the partial-volume correction; uncertainties were "
    "propagated as in the Guide to the Expression of Uncertainty in Measurement."
)

DRAWN = (
    " The uncertainties and intervals of regional values are those of {draws} seeded Monte Carlo "
    "draws of all of them at once (Supplement 1 to the Guide)."
)


def init_concentration_wf(plan: SodiumPlan, name: str = "concentration_wf") -> Workflow:
    """Build the graph of the concentrations.

    Parameters
    ----------
    plan
        What is known of the run.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``image_file`` and ``noise_file`` [signal], ``static_file`` and
        ``static_noise_file`` from which vials are read, ``regions_file``,
        ``signals_file``, ``model_file``, ``xfm_file``, ``reference_file`` (grid
        of the anatomy), ``transmit_file`` (with a transmit field), ``phantom_file`` (with a
        phantom that was scanned by itself), ``properties``.
        ``outputnode``: the maps [mmol/L] on the sodium grid and, as ``anat_*``, on that of the
        anatomy; ``uncertainty_terms`` (what their uncertainty is of), ``residual_file`` (what no
        region explains), ``calibration_file``, ``table_file``, ``equation_file``, ``table_told``
        (of the table's uncertainty).
    """
    workflow = Workflow(name=name)
    draws = plan.uncertainty.get("monte_carlo")
    workflow.__desc__ = DESCRIPTION + (DRAWN.format(draws=draws) if draws else "")
    constants = {"tissues": dict(plan.tissues), "protocol": dict(plan.protocol)}
    given = [*REGIONS, *transmit_port(plan)]
    ports = [*INPUTS, *transmit_port(plan), *phantom_port(plan)]
    source = Node(IdentityInterface(ports), name="inputnode")
    calibrate = Node(
        Calibrate(
            reference=plan.reference,
            vials=[dict(v) for v in plan.vials],
            force=plan.force,
            **({"assumed": dict(plan.assumed)} if plan.assumed else {}),
            **constants,
        ),
        name="calibrate",
    )
    maps = Node(MapConcentration(**constants), name="maps")
    residual = Node(MapResidual(), name="residual")
    table = Node(
        TabulateRegions(methods=plan.pvc["methods"], **plan.uncertainty, **constants), name="table"
    )
    resample = {name: Node(ResampleToAnatomy(), name=f"anat_{name}") for name in MAPS}
    result = Node(IdentityInterface(OUTPUTS), name="outputnode")
    workflow.connect([
        *((source, node, [(port, port) for port in [*own, *given]])
          for node, own in ((calibrate, STATIC), (maps, IMAGE), (table, IMAGE))),
        *((source, node, [(p, p) for p in ("model_file", "properties")])
          for node in (calibrate, maps, table)),
        (source, calibrate, [(p, p) for p in phantom_port(plan)]),
        (source, residual, [(port, port) for port in ("image_file", *REGIONS)]),
        (calibrate, residual, [("calibration_file", "calibration_file")]),
        (residual, result, [("residual_file", "residual_file")]),
        (calibrate, maps, [("calibration_file", "calibration_file")]),
        (calibrate, table, [("calibration_file", "calibration_file")]),
        *((maps, node, [(port, "in_file")]) for port, node in resample.items()),
        *((source, node, [("reference_file", "reference_file"), ("xfm_file", "xfm_file")])
          for node in resample.values()),
        *((node, result, [("out_file", f"anat_{port}")]) for port, node in resample.items()),
        (maps, result, [(port, port) for port in (*MAPS, "uncertainty_terms")]),
        (calibrate, result, [("calibration_file", "calibration_file")]),
        (table, result, [*((port, port) for port in TABLE), ("told", "table_told")]),
    ])  # fmt: skip
    return workflow
