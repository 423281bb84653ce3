"""Tables that lesions give: shells around them, what lies opposite, tissues with them."""

from __future__ import annotations

from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.atlases import SaveLabels
from sodiumprep.interfaces.parcels import MIRRORS, WHOLE, TabulateParcels
from sodiumprep.interfaces.surroundings import LabelMirrors, LabelShells
from sodiumprep.interfaces.table_outputs import SaveParcels
from sodiumprep.sodium.surroundings import shell_names
from sodiumprep.workflows.atlases import TABULATED
from sodiumprep.workflows.plans import (
    CONTRALATERAL,
    LESIONS,
    SHELLS,
    LesionPlan,
    SodiumPlan,
)
from sodiumprep.workflows.pvc import transmit_port

DESCRIPTION = (
    "Each lesion class was compared with the region opposite, by reflection about the plane for "
    "which the brain is most like its mirror image, lesions left out; shells around all lesions "
    "were told by Euclidean distance; both divided the tissues as atlases do."
)
EXPLAINED = {
    SHELLS: "Shells around all lesions by distance, inside the brain",
    CONTRALATERAL: "Regions opposite of lesions, without lesions",
    LESIONS: "Tissues without lesions and with what lesions took of them",
}


def init_surroundings_wf(
    plan: SodiumPlan, lesions: LesionPlan, name: str = "surroundings_wf"
) -> Workflow:
    """Build the graph of the tables that lesions give.

    Parameters
    ----------
    plan
        Of the run.
    lesions
        Which tables.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``preproc_file``, and what
        :func:`~sodiumprep.workflows.atlases.init_atlas_wf` takes beside labels.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = DESCRIPTION
    ports = [*TABULATED, *transmit_port(plan)]
    source = Node(IdentityInterface(["preproc_file", *ports]), name="inputnode")
    for table in lesions.tables:
        tabulate, save = _tabulate(plan, lesions, table), _save(plan, lesions, table)
        workflow.connect([
            (source, tabulate, [(port, port) for port in ports]),
            (source, save, [(port, port) for port in ("calibration_file", "properties")]),
            (tabulate, save, [("table_file", "table_file")]),
        ])  # fmt: skip
        if table != LESIONS:
            label, keep = _label(lesions, table), _keep(lesions, table)
            workflow.connect([
                (source, label, [("fine_file", "fine_file")]),
                (label, tabulate, [("out_file", "labels_file"), ("without", "without")]),
                (label, keep, [("out_file", "in_file"), ("told", "told")]),
                (label, save, [("told", "told")]),
            ])  # fmt: skip
        if table == CONTRALATERAL:
            workflow.connect(source, "preproc_file", label, "anat_file")
    return workflow


def _names(lesions: LesionPlan, table: str) -> dict[int, str]:
    """Return the names that rows are made of, by label."""
    if table == SHELLS:
        return shell_names(lesions.edges)
    return dict(enumerate(lesions.classes, 1)) if table == CONTRALATERAL else {}


def _tabulate(plan: SodiumPlan, lesions: LesionPlan, table: str) -> Node:
    kind = {CONTRALATERAL: MIRRORS, LESIONS: WHOLE}.get(table, "atlas")
    return Node(
        TabulateParcels(
            kind=kind,
            unasked=True,
            names=_names(lesions, table),
            least_coverage=lesions.least_coverage,
            tissues=dict(plan.tissues),
            protocol=dict(plan.protocol),
        ),
        name=f"tabulate_{table}",
    )


def _label(lesions: LesionPlan, table: str) -> Node:
    if table == SHELLS:
        return Node(LabelShells(edges=list(lesions.edges)), name="label_shells")
    return Node(LabelMirrors(classes=list(lesions.classes)), name="label_contralateral")


def _keep(lesions: LesionPlan, table: str) -> Node:
    names = _names(lesions, table)
    if table == CONTRALATERAL:
        names = {label: f"{name} mirror" for label, name in names.items()}
    outputs = {key: lesions.outputs[f"{table}_{key}"] for key in ("labels", "table")}
    return Node(
        SaveLabels(
            names=names, missing=[], outputs=outputs,
            provenance={**lesions.provenance, **_told(lesions, table)},
        ),
        name=f"keep_{table}",
    )  # fmt: skip


def _save(plan: SodiumPlan, lesions: LesionPlan, table: str) -> Node:
    return Node(
        SaveParcels(
            output=lesions.outputs[table],
            provenance={
                **plan.provenance,
                **_told(lesions, table),
                **({"Labels": lesions.labels[table]} if table in lesions.labels else {}),
                "LeastCoverage": lesions.least_coverage,
            },
            tissues=dict(plan.tissues),
        ),
        name=f"save_{table}",
    )


def _told(lesions: LesionPlan, table: str) -> dict[str, Any]:
    edges = {"ShellEdges": list(lesions.edges)} if table == SHELLS else {}
    return {"Description": EXPLAINED[table], **edges}
