"""Atlases: their labels on the anatomy, and tables of their regions."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.atlases import BringLabels, SaveLabels
from sodiumprep.interfaces.parcels import TabulateParcels
from sodiumprep.interfaces.table_outputs import SaveParcels
from sodiumprep.workflows.plans import AnatomyPlan, AtlasPlan, SodiumPlan
from sodiumprep.workflows.pvc import transmit_port
from sodiumprep.workflows.templates import backward_port

TABULATED = [
    "image_file", "noise_file", "response_file", "model_file", "regions_file", "signals_file",
    "fine_file", "calibration_file", "properties",
]  # fmt: skip
DESCRIPTION = (
    "Labels of atlases were brought to the anatomy (nearest neighbour); they divided each tissue, "
    "and concentrations of all parts were corrected for partial volume together by the "
    "geometric transfer matrix (Rousset 1998)."
)


def atlas_port(name: str) -> str:
    """Return the port that carries the labels of an atlas on the anatomy.

    Parameters
    ----------
    name
        Of the atlas.

    Examples
    --------
    >>> atlas_port("lobes")
    'labels_lobes'
    """
    return f"labels_{name}"


def init_labels_wf(plan: AnatomyPlan, name: str = "labels_wf") -> Workflow:
    """Build the graph that brings the labels of atlases to the anatomy, and saves them.

    Parameters
    ----------
    plan
        Of one subject.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``inputnode``: ``preproc_file``, and the transform from each template of an atlas, as
        :func:`~sodiumprep.workflows.templates.backward_port` names it. ``outputnode``: the
        labels, as :func:`atlas_port` names them.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = DESCRIPTION
    templates = sorted({backward_port(a.template) for a in plan.atlases if a.template})
    source = Node(IdentityInterface(["preproc_file", *templates]), name="inputnode")
    result = Node(IdentityInterface([atlas_port(a.name) for a in plan.atlases]), name="outputnode")
    for atlas in plan.atlases:
        bring = Node(
            BringLabels(
                names=dict(atlas.names), in_template=bool(atlas.template), **_image(atlas)
            ),
            name=f"bring_{atlas.name}",
        )
        save = Node(
            SaveLabels(
                names=dict(atlas.names),
                outputs=dict(atlas.outputs),
                provenance=dict(atlas.provenance),
            ),
            name=f"save_{atlas.name}",
        )
        workflow.connect([
            (source, bring, [("preproc_file", "reference_file")]),
            (bring, save, [("out_file", "in_file"), ("missing", "missing")]),
            (bring, result, [("out_file", atlas_port(atlas.name))]),
        ])  # fmt: skip
        if atlas.template:
            workflow.connect(source, backward_port(atlas.template), bring, "template_xfm")
    return workflow


def _image(atlas: AtlasPlan) -> dict[str, str]:
    return {"in_file": atlas.image} if atlas.image else {"built_in": atlas.name}


def init_atlas_wf(plan: SodiumPlan, atlas: AtlasPlan) -> Workflow:
    """Build the graph of the table of one atlas.

    Parameters
    ----------
    plan
        Of the run.
    atlas
        Its labels.

    Returns
    -------
    workflow
        ``inputnode``: ``labels_file``, and what :data:`TABULATED` names: receive-corrected image
        and noise [signal], kernels, fitted receive field, regions before and after they were
        blurred, their signals, the calibration, ``properties``; ``transmit_file`` with a transmit
        field.
    """
    workflow = Workflow(name=f"atlas_{atlas.name}_wf")
    ports = [*TABULATED, *transmit_port(plan)]
    source = Node(IdentityInterface(["labels_file", *ports]), name="inputnode")
    table = Node(
        TabulateParcels(
            names=dict(atlas.names),
            label_tissues=dict(atlas.tissues),
            least_coverage=atlas.least_coverage,
            tissues=dict(plan.tissues),
            protocol=dict(plan.protocol),
        ),
        name="table",
    )
    save = Node(
        SaveParcels(
            output=atlas.outputs["table_file"],
            provenance={**plan.provenance, **atlas.provenance},
            tissues=dict(plan.tissues),
        ),
        name="save",
    )
    workflow.connect([
        (source, table, [(port, port) for port in ("labels_file", *ports)]),
        (source, save, [(port, port) for port in ("calibration_file", "properties")]),
        (table, save, [("table_file", "table_file")]),
    ])  # fmt: skip
    return workflow
