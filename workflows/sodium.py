"""One sodium run: from its source to its tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.transforms import InvertTransform
from sodiumprep.workflows.atlases import atlas_port, init_atlas_wf
from sodiumprep.workflows.concentration import init_concentration_wf
from sodiumprep.workflows.nonlinear import init_nonlinear_wf
from sodiumprep.workflows.outputs import init_sodium_outputs_wf
from sodiumprep.workflows.plans import SodiumPlan
from sodiumprep.workflows.ports import same
from sodiumprep.workflows.pvc import from_kspace, init_pvc_wf, transmit_port
from sodiumprep.workflows.pvc_maps import MADE, init_pvc_maps_wf
from sodiumprep.workflows.reconstruct import init_reconstruct_wf
from sodiumprep.workflows.register import init_register_wf
from sodiumprep.workflows.replacement import init_phantom_wf, phantom_port
from sodiumprep.workflows.sessions import POSES, init_moved_register_wf, move_regions
from sodiumprep.workflows.surroundings import init_surroundings_wf
from sodiumprep.workflows.templates import (
    MAPS,
    init_corrected_space_wf,
    init_space_wf,
    template_port,
)
from sodiumprep.workflows.vials import init_vials_wf

FRACTIONS = ["gm_file", "wm_file", "csf_file"]
USED_BY_SODIUM = [*FRACTIONS, "inner_mask", "head_mask", "brain_warning"]


def init_sodium_wf(plan: SodiumPlan, sloppy: bool) -> Workflow:
    """Build the graph of one sodium run, from its source to its table.

    Parameters
    ----------
    plan
        Of the run.
    sloppy
        Fewer restarts of the registration.

    Returns
    -------
    workflow
        ``inputnode``: fractions and masks of the anatomy, and ``preproc_file`` whose grid the
        maps in anatomical space take; the transform to each template; the labels of each atlas.
    """
    workflow = Workflow(name=plan.name)
    source = Node(IdentityInterface(_inputs(plan)), name="inputnode")
    rooms = {
        "image": init_reconstruct_wf(plan),
        "register": _registration(plan, sloppy),
        "pvc": init_pvc_wf(plan),
        "concentration": init_concentration_wf(plan),
        "save": init_sodium_outputs_wf(plan),
    }
    _connect(workflow, plan, source, rooms)
    if plan.phantom:
        _add_phantom(workflow, plan, rooms)
    if plan.given_backward:
        _turn_transform(workflow, plan, rooms["register"])
    searched = plan.vial_search is not None
    placed = _add_vials(workflow, plan, source, rooms) if searched else rooms["register"]
    workflow.connect([(placed, rooms["pvc"], same(["properties"]))])
    if "sodium" in plan.moved:
        workflow.connect([(source, rooms["register"], _taken(POSES))])
    move_regions(workflow, source, rooms["pvc"], plan)
    _add_corrected_maps(workflow, plan, source, rooms)
    _add_nonlinear(workflow, plan, source, rooms)
    _add_spaces(workflow, plan, source, rooms)
    _add_atlases(workflow, plan, source, rooms)
    return workflow


def needs_poses(plan: SodiumPlan) -> bool:
    """Tell whether a run needs to know where its session lies from the anatomy.

    Parameters
    ----------
    plan
        Of the run.
    """
    return bool(plan.moved) or any(index >= 0 for index in plan.lesion_spaces.values())


def template_ports(plan: SodiumPlan) -> list[str]:
    """Return the ports that give a run the transforms to its templates.

    Parameters
    ----------
    plan
        Of the run.
    """
    return sorted({template_port(space.template) for space in plan.spaces})


def _inputs(plan: SodiumPlan) -> list[str]:
    poses = POSES if needs_poses(plan) else []
    atlases = [atlas_port(atlas.name) for atlas in plan.atlases]
    return [*USED_BY_SODIUM, "preproc_file", *template_ports(plan), *atlases, *poses]


def _taken(ports: Iterable[str]) -> list[tuple[str, str]]:
    """Return the connections from the inputs of a run to inputs of the same name of a room."""
    return [(port, f"inputnode.{port}") for port in ports]


def _connect(
    workflow: Workflow, plan: SodiumPlan, source: Node, rooms: Mapping[str, Workflow]
) -> None:
    """Connect the rooms that every run has."""
    image, register, pvc, concentration, save = (
        rooms[name] for name in ("image", "register", "pvc", "concentration", "save")
    )
    anatomy = [("preproc_file", "inputnode.anat_file")]
    transmit = ["transmit_model_file"] if plan.transmit else []
    workflow.connect([
        (source, register, _taken([*FRACTIONS, "head_mask"]) + anatomy),
        (source, pvc, _taken(USED_BY_SODIUM) + anatomy),
        (source, concentration, [("preproc_file", "inputnode.reference_file")]),
        (image, register,
         [("outputnode.image_file", "inputnode.sodium_file"), *same(["properties"])]),
        (image, pvc, same([
            "image_file", "noise_file", "response_file", "static_response_file",
            *(["field_file"] if from_kspace(plan) else []), *transmit,
        ])),
        (image, concentration, same([
            "image_file", "noise_file", "static_file", "static_noise_file", "model_file",
        ])),
        (image, save, [
            ("outputnode.raw_image_file", "inputnode.image_file"),
            ("outputnode.raw_noise_file", "inputnode.noise_file"),
            *same(["receive_file", "receive_uncertainty_file"]),
            *same(["flip_file"] if plan.transmit else []),
        ]),
        *((register, room, same(["xfm_file"])) for room in (pvc, concentration, save)),
        (pvc, concentration, same([
            "properties", "regions_file", "signals_file", *transmit_port(plan),
        ])),
        (pvc, save, same(["properties", "regions_file"])),
        (concentration, save, same([
            "apparent_file", "corrected_file", "uncertainty_file", "anat_apparent_file",
            "anat_corrected_file", "anat_uncertainty_file", "uncertainty_terms",
            "residual_file", "calibration_file", "table_file", "equation_file", "table_told",
        ])),
    ])  # fmt: skip


def _registration(plan: SodiumPlan, sloppy: bool) -> Workflow:
    if "sodium" in plan.moved:
        return init_moved_register_wf(plan, sloppy)
    return init_register_wf(plan.given_xfm, sloppy, plan.registration)


def _from(
    rooms: Mapping[str, Workflow], taker: Workflow, taken: Mapping[str, Iterable[str]]
) -> list[tuple[Workflow, Workflow, list[tuple[str, str]]]]:
    """Return the connections from the rooms of a run to what follows them."""
    return [(rooms[name], taker, same(ports)) for name, ports in taken.items()]


def _add_vials(
    workflow: Workflow, plan: SodiumPlan, source: Node, rooms: Mapping[str, Workflow]
) -> Workflow:
    """Let vials be searched; if they are to calibrate, what is found decides whether they do."""
    vials, pvc = init_vials_wf(plan), rooms["pvc"]
    takers = [name for name in ("regions", "kspace") if pvc.get_node(name) is not None]
    of_image = ("static_file", "static_noise_file", "static_response_file")
    workflow.connect([
        (source, vials, [("head_mask", "inputnode.head_mask")]),
        (rooms["image"], vials, same(of_image)),
        (rooms["register"], vials, same(("xfm_file", "properties"))),
        (vials, pvc, [
            (f"outputnode.{port}", f"{taker}.{field}")
            for taker in takers
            for port, field in (("label_file", "vial_labels"), ("names", "vial_names"))
        ]),
    ])  # fmt: skip
    if plan.reference == "vials":
        decided = [("outputnode.reference", "calibrate.reference")]
        workflow.connect([(vials, rooms["concentration"], decided)])
    return vials


def _add_phantom(workflow: Workflow, plan: SodiumPlan, rooms: Mapping[str, Workflow]) -> None:
    """Let a phantom that was scanned by itself follow the coil's fields, and tell its lines."""
    phantom = init_phantom_wf(plan)
    workflow.connect([(phantom, rooms["concentration"], same(phantom_port(plan)))])
    if plan.transmit:
        workflow.connect([(rooms["image"], phantom, same(["transmit_model_file"]))])


def _turn_transform(workflow: Workflow, plan: SodiumPlan, register: Workflow) -> None:
    """Let the user's transform, which is from T1w to sodium, serve from sodium to T1w."""
    turn = Node(InvertTransform(in_file=plan.given_xfm), name="turn")
    taker = "place" if "sodium" in plan.moved else "register"
    workflow.connect(turn, "out_file", register, f"{taker}.given_xfm")


def _add_corrected_maps(
    workflow: Workflow, plan: SodiumPlan, source: Node, rooms: Mapping[str, Workflow]
) -> None:
    """Let partial-volume corrections that make maps, if there are any, have them saved."""
    if not plan.map_outputs:
        return
    maps = init_pvc_maps_wf(plan)
    taken = {
        "image": ("image_file", "noise_file", "model_file"),
        "register": ("xfm_file",),
        "pvc": (
            "regions_file",
            "signals_file",
            "map_files",
            "anatomy_file",
            "properties",
            *transmit_port(plan),
        ),
        "concentration": ("calibration_file",),
    }
    workflow.connect([
        (source, maps, [("preproc_file", "inputnode.reference_file")]),
        *_from(rooms, maps, taken),
    ])  # fmt: skip
    of_space = {
        "register": ("xfm_file",), "pvc": ("properties",), "concentration": ("calibration_file",),
    }  # fmt: skip
    for space in plan.spaces:
        room = init_corrected_space_wf(plan, space)
        workflow.connect([
            (source, room, [(template_port(space.template), "inputnode.template_xfm")]),
            (maps, room, same(MADE)),
            *_from(rooms, room, of_space),
        ])  # fmt: skip


def _add_nonlinear(
    workflow: Workflow, plan: SodiumPlan, source: Node, rooms: Mapping[str, Workflow]
) -> None:
    """Let a reconstruction that is not linear, if there is one, follow what it needs."""
    if not plan.nonlinear:
        return
    beside = init_nonlinear_wf(plan)
    taken = {
        "register": ("xfm_file",),
        "pvc": ("regions_file", "signals_file", *transmit_port(plan)),
        "concentration": ("calibration_file",),
    }
    workflow.connect([
        (source, beside, [*_taken(FRACTIONS), ("preproc_file", "inputnode.guide_file")]),
        *_from(rooms, beside, taken),
    ])  # fmt: skip


def _add_spaces(
    workflow: Workflow, plan: SodiumPlan, source: Node, rooms: Mapping[str, Workflow]
) -> None:
    """Let the maps be resampled to templates, each once from the sodium grid."""
    taken = {
        "register": ("xfm_file",),
        "pvc": ("properties",),
        "concentration": (*MAPS, "calibration_file", "uncertainty_terms"),
    }
    for space in plan.spaces:
        room = init_space_wf(plan, space)
        workflow.connect([
            (source, room, [(template_port(space.template), "inputnode.template_xfm")]),
            *_from(rooms, room, taken),
        ])  # fmt: skip


def _add_atlases(
    workflow: Workflow, plan: SodiumPlan, source: Node, rooms: Mapping[str, Workflow]
) -> None:
    """Let the regions of each atlas, and those that lesions give, have a table."""
    taken = {
        "image": ("image_file", "noise_file", "response_file", "model_file"),
        "pvc": ("regions_file", "signals_file", "fine_file", "properties", *transmit_port(plan)),
        "concentration": ("calibration_file",),
    }
    tables = [
        (init_atlas_wf(plan, atlas), atlas_port(atlas.name), "labels_file")
        for atlas in plan.atlases
    ]
    if plan.surroundings is not None:
        lesions = init_surroundings_wf(plan, plan.surroundings)
        tables.append((lesions, "preproc_file", "preproc_file"))
    for room, port, taker in tables:
        workflow.connect([
            (source, room, [(port, f"inputnode.{taker}")]),
            *_from(rooms, room, taken),
        ])  # fmt: skip
