"""The whole graph. Here, and only here, is decided what exists and needs no computing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.interfaces.anatomy import BiasCorrect, BrainExtract, Normalize, TissueFractions
from sodiumprep.interfaces.outputs import ANATOMY_FILES
from sodiumprep.interfaces.ready import TakeFractions, TakeImage, TakeMask
from sodiumprep.interfaces.regions import UniteLesions
from sodiumprep.interfaces.transforms import InvertTransform
from sodiumprep.workflows import anatomy as anatomy_room
from sodiumprep.workflows.anatomy import init_anatomy_wf
from sodiumprep.workflows.atlases import atlas_port, init_atlas_wf, init_labels_wf
from sodiumprep.workflows.concentration import init_concentration_wf
from sodiumprep.workflows.nonlinear import init_nonlinear_wf
from sodiumprep.workflows.outputs import init_anatomy_outputs_wf, init_sodium_outputs_wf
from sodiumprep.workflows.plans import AnatomyPlan, ReferencePlan, SodiumPlan
from sodiumprep.workflows.pvc import from_kspace, init_pvc_wf, transmit_port
from sodiumprep.workflows.pvc_maps import MADE, init_pvc_maps_wf
from sodiumprep.workflows.reconstruct import init_reconstruct_wf
from sodiumprep.workflows.register import init_register_wf
from sodiumprep.workflows.replacement import init_phantom_wf, phantom_port
from sodiumprep.workflows.sessions import (
    POSES,
    init_alignment_wf,
    init_moved_register_wf,
    init_session_outputs_wf,
    init_template_wf,
    move_regions,
)
from sodiumprep.workflows.sodium_only import init_sodium_only_wf
from sodiumprep.workflows.surroundings import init_surroundings_wf
from sodiumprep.workflows.templates import (
    MAPS,
    backward_port,
    init_corrected_space_wf,
    init_space_wf,
    init_templates_wf,
    template_port,
)
from sodiumprep.workflows.vials import init_vials_wf

FRACTIONS = ["gm_file", "wm_file", "csf_file"]
USED_BY_SODIUM = [*FRACTIONS, "inner_mask", "head_mask", "brain_warning"]
# step -> what it computes, as the methods text says it
COMPUTED: dict[type, str] = {
    BiasCorrect: "the 1H image was corrected for its bias field (N4)",
    BrainExtract: "the brain was extracted by registering a synthetic head around the MNI152 "
    "template brain",
    TissueFractions: "volume fractions of grey matter, white matter and cerebrospinal fluid were "
    "estimated with a partial-volume mixture model",
    Normalize: "the brain was normalized to the MNI152 template (SyN)",
}
# step that is not taken -> what stands in for it: its output, that of the ready-made node
FROM_FRACTIONS = {port: port for port in (*FRACTIONS, "dseg_file")}
FROM_MASK = {"mask_file": "mask_file", "inner_mask": "mask_file",
             "brain_volume_ml": "brain_volume_ml", "warning": "warning"}  # fmt: skip
FROM_TRANSFORMS = {port: port for port in anatomy_room.TRANSFORMS}


def fractions_are_ready(plan: AnatomyPlan) -> bool:
    """Tell whether ready-made files give the tissue fractions, and so all that sodium needs.

    Parameters
    ----------
    plan
        Of one subject.

    Returns
    -------
    ready
        GM, WM and CSF, or a label image whose labels have a tissue.
    """
    return set(plan.ready) >= {"GM", "WM", "CSF"} or bool(plan.label_tissues)


def init_prepared_anatomy_wf(
    plan: AnatomyPlan, sloppy: bool, name: str = "anatomy_wf"
) -> Workflow:
    """Build the graph of an anatomy: what is ready-made is taken, the rest computed.

    The graph that computes everything is built, ready-made files take the place of the steps
    that would make them, and what then feeds nothing is dropped.

    Parameters
    ----------
    plan
        Of one subject. Fractions give a mask as well, and make bias correction and normalization
        needless.
    sloppy
        Faster and less exact.
    name
        Of the workflow.

    Returns
    -------
    workflow
        ``outputnode`` as that of :func:`~sodiumprep.workflows.anatomy.init_anatomy_wf`; transforms
        are missing where fractions are ready-made and transforms are not.
    """
    workflow = init_anatomy_wf(sloppy, name=name)
    source = workflow.get_node("inputnode")
    if plan.age is not None:
        source.inputs.age = plan.age
    if plan.reference is not None and plan.reference.builds_template:
        return workflow  # its image comes from the graph
    if plan.inversions:
        source.inputs.inversion_files = list(plan.inversions)
    source.inputs.anat_file = plan.ready.get("preproc") or plan.image
    for step, (node, ports) in _stand_ins(plan, workflow).items():
        _replace(workflow, step, node, ports)
    if fractions_are_ready(plan):
        _remove(workflow, Normalize)
        judged = (workflow.get_node("take_mask"), workflow.get_node("outputnode"))
        workflow.connect([(*judged, [("warning", "brain_warning")])])
    _drop_unused(workflow)
    if plan.lesions and "lesion_file" in [output for _, output, _ in _uses(workflow, source)]:
        unite = Node(
            UniteLesions(lesion_files=dict(plan.lesions), reference_file=source.inputs.anat_file),
            name="unite",
        )
        workflow.connect(unite, "out_file", source, "lesion_file")
    workflow.__desc__ = _describe(workflow)
    return workflow


def computed_steps(workflow: Workflow) -> list[str]:
    """Return what a graph of the anatomy computes, in words.

    Parameters
    ----------
    workflow
        As :func:`init_prepared_anatomy_wf` builds it.
    """
    taken = [type(getattr(node, "interface", None)) for node in workflow._graph.nodes()]
    return [text for step, text in COMPUTED.items() if step in taken]


def _describe(workflow: Workflow) -> str:
    computed = computed_steps(workflow)
    if len(computed) == len(COMPUTED):
        return anatomy_room.DESCRIPTION
    rest = "; ".join(computed)
    taken = "Anatomy was taken from ready-made derivatives as far as they went"
    return f"{taken}; {rest}, with ANTs." if rest else f"{taken}."


def _stand_ins(plan: AnatomyPlan, workflow: Workflow) -> dict[type, tuple[Node, dict[str, str]]]:
    """Return the nodes that take ready-made files, by the step that they stand in for."""
    complete = fractions_are_ready(plan)
    nodes: dict[type, tuple[Node, dict[str, str]]] = {}
    image = plan.ready.get("preproc") or (plan.image if complete else "")
    reference = {"reference_file": image or plan.image}
    if image:
        nodes[BiasCorrect] = (
            Node(TakeImage(in_file=image), name="take_image"),
            {"out_file": "out_file"},
        )
    if "mask" in plan.ready or complete:
        given = {"in_file": plan.ready["mask"]} if "mask" in plan.ready else {}
        age = {} if plan.age is None else {"age": plan.age}
        mask = Node(TakeMask(**given, **age, **reference), name="take_mask")
        workflow.connect(mask, "remarks", workflow.get_node("outputnode"), "ready_warning")
        nodes[BrainExtract] = mask, FROM_MASK
    if complete:
        take = Node(TakeFractions(**_fraction_files(plan), **reference), name="take_fractions")
        nodes[TissueFractions] = take, FROM_FRACTIONS
        workflow.connect(take, "brain_file", mask, "brain_file")
        workflow.connect(take, "warning", mask, "notes")
    if set(plan.ready) >= {"to_template", "from_template"}:
        known = {f"{way}_xfm": plan.ready[way] for way in ("to_template", "from_template")}
        ready = Node(IdentityInterface(list(known)), name="take_transforms")
        ready.inputs.trait_set(**known)
        nodes[Normalize] = ready, FROM_TRANSFORMS
    return nodes


def _fraction_files(plan: AnatomyPlan) -> dict[str, Any]:
    if not plan.label_tissues:
        return {f"{tissue.lower()}_file": plan.ready[tissue] for tissue in ("GM", "WM", "CSF")}
    posteriors = plan.ready.get("posteriors")
    return {
        "labels_file": plan.ready["dseg"],
        "label_tissues": dict(plan.label_tissues),
        **({"posteriors_file": posteriors} if posteriors else {}),
    }


def _nodes_of(workflow: Workflow, step: type) -> list[Node]:
    nodes = list(workflow._graph.nodes())
    return [node for node in nodes if isinstance(getattr(node, "interface", None), step)]


def _uses(workflow: Workflow, node: Node) -> list[tuple[Node, Any, str]]:
    """Return what takes a node's outputs: the taker, the output, and the taker's field."""
    return [
        (target, output, field)
        for _, target, link in workflow._graph.out_edges(node, data=True)
        for output, field in link["connect"]
    ]


def _replace(workflow: Workflow, step: type, ready: Node, ports: Mapping[str, str]) -> None:
    """Let a node give what the nodes of a step would compute."""
    for node in _nodes_of(workflow, step):
        for target, output, field in _uses(workflow, node):
            workflow.disconnect(node, output, target, field)
            if output in ports:
                workflow.connect(ready, ports[output], target, field)


def _remove(workflow: Workflow, step: type) -> None:
    workflow.remove_nodes(_nodes_of(workflow, step))


def _drop_unused(workflow: Workflow) -> None:
    """Drop the nodes that feed nothing, until all do."""
    ports = ("inputnode", "outputnode")
    nodes = list(workflow._graph.nodes())
    idle = [n for n in nodes if n.name not in ports and not _uses(workflow, n)]
    if idle:
        workflow.remove_nodes(idle)
        _drop_unused(workflow)


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
    poses = POSES if needs_poses(plan) else []
    atlases = [atlas_port(atlas.name) for atlas in plan.atlases]
    ports = [*USED_BY_SODIUM, "preproc_file", *_template_ports(plan), *atlases, *poses]
    source = Node(IdentityInterface(ports), name="inputnode")
    image = init_reconstruct_wf(plan)
    register = _registration(plan, sloppy)
    pvc = init_pvc_wf(plan)
    concentration = init_concentration_wf(plan)
    save = init_sodium_outputs_wf(plan)
    corrected = [(f"outputnode.{p}", f"inputnode.{p}") for p in ("image_file", "noise_file")]
    response = [("outputnode.response_file", "inputnode.response_file")]
    transform = [("outputnode.xfm_file", "inputnode.xfm_file")]
    properties = [("outputnode.properties", "inputnode.properties")]
    workflow.connect([
        (source, register, [(p, f"inputnode.{p}") for p in (*FRACTIONS, "head_mask")]
         + [("preproc_file", "inputnode.anat_file")]),
        (source, pvc, [(p, f"inputnode.{p}") for p in USED_BY_SODIUM]
         + [("preproc_file", "inputnode.anat_file")]),
        (source, concentration, [("preproc_file", "inputnode.reference_file")]),
        (image, register, [("outputnode.image_file", "inputnode.sodium_file"), *properties]),
        (image, pvc, corrected + response
         + [(f"outputnode.{p}", f"inputnode.{p}") for p in (
             "static_response_file", *(["field_file"] if from_kspace(plan) else []),
             *(["transmit_model_file"] if plan.transmit else []))]),
        (image, concentration,
         list(corrected)
         + [(f"outputnode.{p}", f"inputnode.{p}")
            for p in ("static_file", "static_noise_file", "model_file")]),
        (image, save, [
            ("outputnode.raw_image_file", "inputnode.image_file"),
            ("outputnode.raw_noise_file", "inputnode.noise_file"),
            *((f"outputnode.{p}", f"inputnode.{p}")
              for p in ("receive_file", "receive_uncertainty_file",
                        *(["flip_file"] if plan.transmit else []))),
        ]),
        (register, pvc, list(transform)),
        (register, concentration, list(transform)),
        (register, save, list(transform)),  # Nipype keeps and changes the list it is given
        (pvc, concentration, properties + [
            (f"outputnode.{p}", f"inputnode.{p}")
            for p in ("regions_file", "signals_file", *transmit_port(plan))
        ]),
        (pvc, save, [*properties, ("outputnode.regions_file", "inputnode.regions_file")]),
        (concentration, save, [
            (f"outputnode.{p}", f"inputnode.{p}") for p in (
                "apparent_file", "corrected_file", "uncertainty_file", "anat_apparent_file",
                "anat_corrected_file", "anat_uncertainty_file", "uncertainty_terms",
                "residual_file", "calibration_file", "table_file", "equation_file", "table_told",
            )
        ]),
    ])  # fmt: skip
    if plan.phantom:
        _add_phantom(workflow, plan, image, concentration)
    if plan.given_backward:
        _turn_transform(workflow, plan, register)
    rooms = {"image": image, "register": register, "pvc": pvc, "concentration": concentration}
    placed = register if plan.vial_search is None else _add_vials(workflow, plan, source, rooms)
    workflow.connect([(placed, pvc, properties)])
    if "sodium" in plan.moved:
        workflow.connect([(source, register, [(p, f"inputnode.{p}") for p in POSES])])
    move_regions(workflow, source, pvc, plan)
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


def _registration(plan: SodiumPlan, sloppy: bool) -> Workflow:
    if "sodium" in plan.moved:
        return init_moved_register_wf(plan, sloppy)
    return init_register_wf(plan.given_xfm, sloppy, plan.registration)


def _add_vials(
    workflow: Workflow, plan: SodiumPlan, source: Node, rooms: Mapping[str, Workflow]
) -> Workflow:
    """Let vials be searched; if they are to calibrate, what is found decides whether they do."""
    vials, pvc = init_vials_wf(plan), rooms["pvc"]
    takers = [name for name in ("regions", "kspace") if pvc.get_node(name) is not None]
    of_image = ("static_file", "static_noise_file", "static_response_file")
    workflow.connect([
        (source, vials, [("head_mask", "inputnode.head_mask")]),
        (rooms["image"], vials, [(f"outputnode.{p}", f"inputnode.{p}") for p in of_image]),
        (rooms["register"], vials,
         [(f"outputnode.{p}", f"inputnode.{p}") for p in ("xfm_file", "properties")]),
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


def _add_phantom(
    workflow: Workflow, plan: SodiumPlan, image: Workflow, concentration: Workflow
) -> None:
    """Let a phantom that was scanned by itself follow the coil's fields, and tell its lines."""
    phantom = init_phantom_wf(plan)
    ports = [(f"outputnode.{p}", f"inputnode.{p}") for p in phantom_port(plan)]
    workflow.connect([(phantom, concentration, ports)])
    if plan.transmit:
        name = "transmit_model_file"
        workflow.connect(image, f"outputnode.{name}", phantom, f"inputnode.{name}")


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
        *((rooms[room], maps, [(f"outputnode.{p}", f"inputnode.{p}") for p in ports])
          for room, ports in taken.items()),
    ])  # fmt: skip
    for space in plan.spaces:
        room = init_corrected_space_wf(plan, space)
        workflow.connect([
            (source, room, [(template_port(space.template), "inputnode.template_xfm")]),
            (rooms["register"], room, [("outputnode.xfm_file", "inputnode.xfm_file")]),
            (rooms["pvc"], room, [("outputnode.properties", "inputnode.properties")]),
            (rooms["concentration"], room,
             [("outputnode.calibration_file", "inputnode.calibration_file")]),
            (maps, room, [(f"outputnode.{p}", f"inputnode.{p}") for p in MADE]),
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
        (source, beside, [(p, f"inputnode.{p}") for p in FRACTIONS]
         + [("preproc_file", "inputnode.guide_file")]),
        *((rooms[room], beside, [(f"outputnode.{p}", f"inputnode.{p}") for p in ports])
          for room, ports in taken.items()),
    ])  # fmt: skip


def _template_ports(plan: SodiumPlan) -> list[str]:
    return sorted({template_port(space.template) for space in plan.spaces})


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
            *((rooms[name], room, [(f"outputnode.{p}", f"inputnode.{p}") for p in ports])
              for name, ports in taken.items()),
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
            *((rooms[name], room, [(f"outputnode.{p}", f"inputnode.{p}") for p in ports])
              for name, ports in taken.items()),
        ])  # fmt: skip


def init_subject_wf(
    name: str, anatomy: AnatomyPlan | None, runs: Sequence[SodiumPlan], sloppy: bool
) -> Workflow:
    """Build the graph of one subject and session, or of sessions that share one anatomy.

    Parameters
    ----------
    name
        Of the workflow.
    anatomy
        Plan of the anatomy; with ``reference`` one anatomy serves all runs. None where there is
        none, and sodium stays in its own space.
    runs
        Plans of the sodium runs.
    sloppy
        Faster and less exact registration.

    Returns
    -------
    workflow
        Complete: no input is left open.
    """
    workflow = Workflow(name=name)
    if anatomy is None:
        workflow.add_nodes([init_sodium_only_wf(plan) for plan in runs])
        return workflow
    shared = anatomy.reference
    prepared = init_prepared_anatomy_wf(anatomy, sloppy)
    save = init_anatomy_outputs_wf(anatomy)
    saved = [(f"outputnode.{p}", f"inputnode.{p}") for p in ANATOMY_FILES]
    workflow.connect([(prepared, save, saved)])
    used = [(f"outputnode.{p}", f"inputnode.{p}") for p in (*USED_BY_SODIUM, "preproc_file")]
    sodium = [(plan, init_sodium_wf(plan, sloppy)) for plan in runs]
    workflow.connect([(prepared, graph, list(used)) for _, graph in sodium])
    templates = None
    if anatomy.templates:
        templates = _add_templates(workflow, anatomy, prepared, sloppy, sodium)
    if anatomy.atlases:
        _add_labels(workflow, anatomy, prepared, templates, [graph for _, graph in sodium])
    if shared is not None:
        poses = _share(workflow, prepared, shared, sloppy)
        moving = [graph for plan, graph in sodium if needs_poses(plan)]
        ports = [(f"outputnode.{p}", f"inputnode.{p}") for p in POSES]
        workflow.connect([(poses, graph, list(ports)) for graph in moving])
    return workflow


def _share(
    workflow: Workflow, prepared: Workflow, shared: ReferencePlan, sloppy: bool
) -> Workflow:
    """Add the poses of the sessions and what is saved of them; return what gives the poses."""
    save = init_session_outputs_wf(shared)
    if shared.builds_template:
        poses = init_template_wf(shared, sloppy)
        workflow.connect(poses, "outputnode.reference_file", prepared, "inputnode.anat_file")
        if shared.excluded:
            workflow.connect(poses, "outputnode.lesion_file", prepared, "inputnode.lesion_file")
    else:
        poses = init_alignment_wf(shared)
        needed = [(f"outputnode.{p}", f"inputnode.{p}") for p in ("preproc_file", "brain_mask")]
        workflow.connect([(prepared, poses, needed)])
    ports = [(f"outputnode.{p}", f"inputnode.{p}") for p in POSES]
    workflow.connect([
        (poses, save, ports),
        (prepared, save, [("outputnode.preproc_file", "inputnode.preproc_file")]),
    ])  # fmt: skip
    return poses


def _add_templates(
    workflow: Workflow,
    anatomy: AnatomyPlan,
    prepared: Workflow,
    sloppy: bool,
    sodium: Sequence[tuple[SodiumPlan, Workflow]],
) -> Workflow:
    """Normalize to the templates, but to the embedded one where the anatomy did it already."""
    own = [template.name for template in anatomy.templates if not template.image]
    normalized = not fractions_are_ready(anatomy) or "to_template" in anatomy.ready
    embedded = next(iter(own), "") if normalized else ""
    templates = init_templates_wf(anatomy, embedded, sloppy)
    ports = ["preproc_file", "brain_mask", *(anatomy_room.TRANSFORMS if embedded else [])]
    workflow.connect([
        (prepared, templates, [(f"outputnode.{p}", f"inputnode.{p}") for p in ports]),
        *((templates, room, [(f"outputnode.{port}", f"inputnode.{port}")])
          for plan, room in sodium
          for port in _template_ports(plan)),
    ])  # fmt: skip
    return templates


def _add_labels(
    workflow: Workflow,
    anatomy: AnatomyPlan,
    prepared: Workflow,
    templates: Workflow | None,
    sodium: Sequence[Workflow],
) -> None:
    """Bring the labels of atlases to the anatomy, for all runs."""
    labels = init_labels_wf(anatomy)
    workflow.connect(prepared, "outputnode.preproc_file", labels, "inputnode.preproc_file")
    if templates is not None:
        backward = sorted({backward_port(a.template) for a in anatomy.atlases if a.template})
        workflow.connect([
            (templates, labels, [(f"outputnode.{p}", f"inputnode.{p}") for p in backward])
        ])  # fmt: skip
    ports = [atlas_port(atlas.name) for atlas in anatomy.atlases]
    workflow.connect([
        (labels, room, [(f"outputnode.{p}", f"inputnode.{p}") for p in ports]) for room in sodium
    ])  # fmt: skip
