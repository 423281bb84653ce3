"""No factory leaks a port, whatever the options."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from nipype.interfaces.base import isdefined
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Workflow

from sodiumprep.interfaces.map_outputs import SPACE_FILES
from sodiumprep.sodium.pvc import MAPS
from sodiumprep.workflows.anatomy import INPUTS as OPTIONAL_ANATOMY
from sodiumprep.workflows.base import init_subject_wf
from sodiumprep.workflows.concentration import init_concentration_wf
from sodiumprep.workflows.outputs import init_anatomy_outputs_wf, init_sodium_outputs_wf
from sodiumprep.workflows.plans import AnatomyPlan, LesionPlan, SodiumPlan, SpacePlan, TemplatePlan
from sodiumprep.workflows.pvc import init_pvc_wf
from sodiumprep.workflows.reconstruct import init_reconstruct_wf
from sodiumprep.workflows.register import init_register_wf
from sodiumprep.workflows.sodium_only import init_sodium_only_wf
from sodiumprep.workflows.templates import init_space_wf, init_templates_wf
from sodiumprep.workflows.vials import init_vials_wf

EMBEDDED = "MNI152NLin2009aSym"
VIALS = ({"name": "1 low", "concentration": 50.0}, {"name": "2 high", "concentration": 100.0})
SALINE = {"t1": 0.053, "t2_short": 0.053, "t2_long": 0.053, "short_fraction": 0.0}
READY = ("preproc", "mask", "GM", "WM", "CSF")
OPTIONS = [  # what changes no edge goes along with something else
    {"kspace": kspace, "receive": receive, "vials": vials, "lesions": lesions, "ready": ready,
     "given": lesions, "sloppy": vials, "spaces": lesions, "transmit": lesions != vials,
     "phantom": kspace == lesions,
     "nonlinear": ("tv" if vials else "agr") if kspace and lesions else ""}
    for kspace, receive, vials, lesions, ready in product(
        (True, False), ("pair", "map", "none"), (True, False), (True, False),
        ("all", "mask", "none"),
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Make placeholder files; nothing is read when a graph is built."""
    folder = tmp_path_factory.mktemp("files")

    def make(name):
        path = Path(folder) / name
        path.touch()
        return str(path)

    return make


def lesion_plan(*tables):
    tables = tables or ("contralateral", "lesions", "shells")
    outputs = {f"{t}{part}": "a" for t in tables for part in ("", "_labels", "_table")}
    return LesionPlan(("core",), tables, (5.0, 10.0), 0.4, outputs)


def sodium_plan(
    file,
    kspace=True,
    receive="none",
    vials=True,
    lesions=False,
    given=False,
    nonlinear="",
    spaces=False,
    pvc=("gtm",),
    transmit=False,
    searched=None,
    reference="",
    phantom=False,
    force=False,
    **_,
):
    pair = {"array_files": [file("array.nii.gz")], "volume_files": [file("volume.nii.gz")]}
    labels = {"vial_labels": file("labels.nii.gz"), "vial_space": "T1w", "vial_names": ["1 low"]}
    source = (
        {"kspace_file": file("raw.h5")}
        if kspace
        else {"image_file": file("na.nii.gz"), "echo_time": 3e-4}
    )
    return SodiumPlan(
        name="sodium_wf", source=source, is_kspace=kspace,
        receive={"pair": pair, "map": {"map_file": file("map.nii.gz")}, "none": {}}[receive],
        regions={"lesion_files": {"core": file("core.nii.gz")} if lesions else {},
                 **(labels if vials and not searched else {})},
        given_xfm=file("xfm.txt") if given else "", tissues={}, protocol={"echo_time": 0.0003},
        reference=reference or ("vials" if vials else "csf"), vials=VIALS if vials else (),
        outputs={},
        provenance={},
        force=force,
        nonlinear={"method": nonlinear, "source": {"kspace_file": file("raw.h5")}, "outputs": {}}
        if nonlinear else {},
        spaces=space_plans(file, [f"{m}:corrected_file" for m in pvc if m in MAPS]) if spaces
        else (),
        pvc={"methods": list(pvc)},
        transmit={"map_file": file("flip.nii.gz")} if transmit else {},
        vial_search=searched or (None if vials else {"direction": "", "required": False}),
        phantom={"source": source, "needed": False, "own_protocol": {"echo_time": 0.0005},
                 "known": {"loading": 1.08}, "constants": SALINE} if phantom else {},
        map_outputs={f"{m}:corrected_file": "map.nii.gz" for m in pvc if m in MAPS},
        surroundings=lesion_plan() if lesions else None,
    )  # fmt: skip


def space_plans(file, corrected=()):
    """Return two grids of one template, one of a cohort and one of the embedded template."""
    grid, maps = file("grid.nii.gz"), {"corrected": dict.fromkeys(corrected, "map.nii.gz")}
    return (
        SpacePlan("NKI", "NKI", grid, **maps),
        SpacePlan("NKI_res_2", "NKI", grid, **maps),
        SpacePlan("MNIInfant_cohort_2", "MNIInfant+2", grid, **maps),
        SpacePlan(f"{EMBEDDED}_res_2", EMBEDDED, resolution=2, **maps),
    )


def template_plans(file):
    files = {"image": file("template.nii.gz"), "mask": file("template_mask.nii.gz")}
    return (
        TemplatePlan("NKI", **files), TemplatePlan("MNIInfant+2", **files), TemplatePlan(EMBEDDED),
    )  # fmt: skip


def subject(file, **options):
    wanted = {"all": READY, "mask": ("mask",), "none": ()}[options["ready"]]
    anatomy = AnatomyPlan(
        image=file("T1w.nii.gz"),
        ready={name: file(f"{name}.nii.gz") for name in wanted},
        lesions={"core": file("core.nii.gz")} if options["lesions"] else {},
        templates=template_plans(file) if options["spaces"] else (),
        transforms={name: file(f"{name}.h5") for name in options.get("transforms", ())},
    )
    return init_subject_wf("sub_01_wf", anatomy, [sodium_plan(file, **options)], options["sloppy"])


def edges_of(graph):
    return [
        (source, output if isinstance(output, str) else output[0], target, field)
        for source, target, link in graph.edges(data=True)
        for output, field in link["connect"]
    ]


def fed_ports(graph):
    return {(target.fullname, field) for _, _, target, field in edges_of(graph)}


def is_fed(node, field, fed):
    return (node.fullname, field) in fed or isdefined(getattr(node.inputs, field))


@pytest.fixture(scope="module", params=OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def graph(request, file):
    return request.param, subject(file, **request.param)._create_flat_graph()


def test_no_port_leaks(graph):
    options, flat = graph
    fed = fed_ports(flat)
    for source, output, target, field in edges_of(flat):
        assert output in source.outputs.copyable_trait_names(), (source.fullname, output)
        assert field in target.inputs.copyable_trait_names(), (target.fullname, field)
    for node in flat.nodes():
        for field in node.inputs.traits(mandatory=True):
            assert is_fed(node, field, fed), f"{node.fullname}.{field} is open"
    open_ports = {f"{node.fullname.split('.')[-2]}.{field}" for node in flat.nodes()
                  if node.name in ("inputnode", "outputnode")
                  for field in node.inputs.copyable_trait_names()
                  if not is_fed(node, field, fed)}  # fmt: skip
    assert open_ports == expected_open_ports(options)


def expected_open_ports(options):
    """Return the ports that may stay open: what a ready-made anatomy does not have."""
    optional = set(OPTIONAL_ANATOMY) - {"anat_file"}
    if options["ready"] == "all":
        missing = optional | {"to_template_xfm", "from_template_xfm", "normalization_warning"}
        return {f"anatomy_wf.{port}" for port in missing}
    optional -= {"lesion_file"} if options["lesions"] else set()
    optional |= {"ready_warning"} if options["ready"] == "none" else set()
    return {f"anatomy_wf.{port}" for port in optional}


def by_name(workflow):
    return {node.fullname.split(".", 1)[1]: node for node in workflow._create_flat_graph().nodes()}


DEFAULT = {"kspace": True, "receive": "none", "vials": True, "lesions": False, "ready": "none",
           "given": False, "sloppy": False, "spaces": False}  # fmt: skip


def nodes_with(file, **options):
    return by_name(subject(file, **{**DEFAULT, **options}))


@pytest.mark.parametrize("kspace", [True, False])
def test_the_source_decides_how_the_image_comes_about(file, kspace):
    source = nodes_with(file, kspace=kspace)["sodium_wf.reconstruct_wf.source"]
    assert isdefined(getattr(source.inputs, "kspace_file" if kspace else "image_file"))


def test_a_ready_anatomy_is_not_computed(file):
    nodes = nodes_with(file, ready="all")
    assert "anatomy_wf.normalize" not in nodes
    assert nodes["anatomy_wf.take_mask"].inputs.in_file.endswith("mask.nii.gz")


def test_a_ready_mask_alone_is_used_and_the_rest_computed(file):
    nodes = nodes_with(file, ready="mask")
    assert "anatomy_wf.fractions" in nodes
    assert nodes["anatomy_wf.take_mask"].inputs.in_file.endswith("mask.nii.gz")


def test_lesions_reach_anatomy_and_regions(file):
    nodes = nodes_with(file, lesions=True)
    assert list(nodes["anatomy_wf.unite"].inputs.lesion_files) == ["core"]
    flat = subject(file, **{**DEFAULT, "lesions": True})._create_flat_graph()
    taken = {
        target.name
        for source, _, target, port in edges_of(flat)
        if source.fullname.endswith("anatomy_wf.inputnode") and port == "lesion_file"
    }
    assert taken == {"extract", "normalize", "fractions"}
    assert list(nodes["sodium_wf.pvc_wf.regions"].inputs.lesion_files) == ["core"]


def test_vials_reach_regions_and_calibration(file):
    nodes = nodes_with(file)
    assert nodes["sodium_wf.pvc_wf.regions"].inputs.vial_space == "T1w"
    assert len(nodes["sodium_wf.concentration_wf.calibrate"].inputs.vials) == 2
    assert nodes["sodium_wf.concentration_wf.calibrate"].inputs.reference == "vials"


@pytest.mark.parametrize("reference", ["csf", "vitreous"])
def test_eyes_are_looked_for_always_and_needed_where_they_calibrate(file, reference):
    plan = replace(sodium_plan(file), reference=reference, assumed={"vitreous": (113.0, 14.0)})
    workflow = init_subject_wf("sub_01_wf", AnatomyPlan(file("T1w.nii.gz")), [plan], True)
    nodes = by_name(workflow)
    assert nodes["sodium_wf.pvc_wf.eyes"].inputs.needed is (reference == "vitreous")
    calibrate = nodes["sodium_wf.concentration_wf.calibrate"].inputs
    assert (calibrate.reference, calibrate.assumed["vitreous"]) == (reference, (113.0, 14.0))
    takers = {target.name for _, _, target, field in edges_of(workflow._create_flat_graph())
              if field == "eyes"}  # fmt: skip
    assert takers == {"regions"}


@pytest.mark.parametrize("receive", ["pair", "none"])
def test_a_phantom_is_made_and_corrected_as_the_head_and_calibrates(file, receive):
    nodes = nodes_with(file, phantom=True, receive=receive, reference="phantom")
    source = nodes["sodium_wf.phantom_wf.source"].inputs
    assert source.tissues == {"phantom": SALINE}
    corrected = [
        isdefined(nodes[f"sodium_wf.{room}.receive"].inputs.array_files)
        for room in ("phantom_wf", "reconstruct_wf")
    ]
    assert corrected == [receive == "pair"] * 2
    measure = nodes["sodium_wf.phantom_wf.measure"].inputs
    assert (measure.own_protocol, measure.protocol) == (
        {"echo_time": 0.0005}, {"echo_time": 0.0003}
    )  # fmt: skip
    assert nodes["sodium_wf.concentration_wf.calibrate"].inputs.reference == "phantom"


@pytest.mark.parametrize("given", [True, False])
def test_a_given_transform_reaches_the_registration(file, given):
    register = nodes_with(file, given=given)["sodium_wf.register_wf.register"]
    assert isdefined(register.inputs.given_xfm) is given


def test_the_way_to_register_reaches_the_registration(file):
    options = {"method": "coil", "dof": 12, "random_seed": 7, "coil_file": file("gre.nii.gz")}
    node = init_register_wf("", False, options).get_node("register")
    assert {key: getattr(node.inputs, key) for key in options} == options


@pytest.mark.parametrize(
    ("given", "method", "words"),
    [(True, "auto", "was given"), (False, "auto", "competed"), (True, "mi", "mutual information"),
     (False, "header", "header's position"), (False, "coil", "same coil"),
     (False, "synthetic", "should show")],
)  # fmt: skip
def test_the_methods_text_tells_how_it_was_registered(file, given, method, words):
    path = file("xfm.txt") if given else ""
    text = init_register_wf(path, False, {"method": method, "dof": 12}).__desc__
    assert words in text
    assert ("affine" in text) is (words != "was given")


@pytest.mark.parametrize("sloppy", [True, False])
def test_sloppy_reaches_every_registration(file, sloppy):
    nodes = nodes_with(file, sloppy=sloppy)
    assert nodes["sodium_wf.register_wf.register"].inputs.sloppy is sloppy
    assert nodes["anatomy_wf.normalize"].inputs.sloppy is sloppy


@pytest.mark.parametrize("receive", ["pair", "map", "none"])
def test_receive_data_reach_the_correction(file, receive):
    inputs = nodes_with(file, receive=receive)["sodium_wf.reconstruct_wf.receive"].inputs
    found = [isdefined(p) and bool(p) for p in (inputs.array_files, inputs.map_file)]
    assert found == [receive == "pair", receive == "map"]


def drawn_plan(file):
    """Plan a run without anatomy."""
    regions = {"region_files": {"roi": (file("roi.nii.gz"), 1)}, "vial_names": ["1 low"],
               "vial_labels": file("labels.nii.gz")}  # fmt: skip
    return replace(sodium_plan(file), regions=regions, sodium_only=True)


def test_without_an_anatomy_sodium_stays_alone(file):
    workflow = init_subject_wf("sub_01_wf", None, [drawn_plan(file)], False)
    nodes = by_name(workflow)
    assert not any("register" in name or "anatomy" in name for name in nodes)
    assert list(nodes["sodium_wf.regions"].inputs.region_files) == ["roi"]
    fed = fed_ports(workflow._create_flat_graph())
    for node in nodes.values():
        for field in node.inputs.traits(mandatory=True):
            assert is_fed(node, field, fed), f"{node.fullname}.{field} is open"


@pytest.mark.parametrize("plan_of", [sodium_plan, drawn_plan])
def test_draws_and_their_seed_reach_the_table(file, plan_of):
    asked = {"monte_carlo": 200, "random_seed": 5}
    plan = replace(plan_of(file), uncertainty=asked)
    anatomy = None if plan.sodium_only else AnatomyPlan("", dict.fromkeys(READY, file("a.nii.gz")))
    nodes = by_name(init_subject_wf("sub_01_wf", anatomy, [plan], False))
    (table,) = (node for name, node in nodes.items() if name.endswith(".table"))
    assert {key: getattr(table.inputs, key) for key in asked} == asked


@pytest.mark.parametrize(("draws", "said"), [(0, False), (200, True)])
def test_the_methods_text_tells_of_draws_where_there_are_any(file, draws, said):
    plan = replace(sodium_plan(file), uncertainty={"monte_carlo": draws})
    assert ("200 seeded Monte Carlo draws" in init_concentration_wf(plan).__desc__) is said


@pytest.mark.parametrize("backward", [True, False])
def test_a_transform_that_points_the_other_way_is_turned_round(file, backward):
    plan = replace(sodium_plan(file, given=True), given_backward=backward)
    workflow = init_subject_wf("sub_01_wf", AnatomyPlan(file("T1w.nii.gz")), [plan], True)
    nodes = by_name(workflow)
    register = nodes["sodium_wf.register_wf.register"]
    assert ("sodium_wf.turn" in nodes) is backward
    fed = (register.fullname, "given_xfm") in fed_ports(workflow._create_flat_graph())
    assert fed is backward


SPACE = "sodium_wf.space_{}_wf.corrected_file"
PVC_SPACE = "sodium_wf.pvc_space_{}_wf.resample"


@pytest.mark.parametrize("ready", ["none", "all"])
def test_one_registration_serves_all_grids_of_a_template(file, ready):
    nodes = nodes_with(file, spaces=True, ready=ready)
    found = {name for name in nodes if name.startswith("templates_wf.normalize_")}
    own = {f"templates_wf.normalize_to_{EMBEDDED}"} if ready == "all" else set()
    assert found - own == {f"templates_wf.normalize_to_{name}"
                           for name in ("NKI", "MNIInfant_cohort_2")}  # fmt: skip
    assert own <= found
    assert len([name for name in nodes if name.startswith("sodium_wf.space_")]) == 4 * 5


def test_a_template_is_registered_with_its_own_files_and_the_embedded_one_without(file):
    nodes = nodes_with(file, spaces=True, ready="all")
    inputs = nodes["templates_wf.normalize_to_NKI"].inputs
    assert inputs.template_file.endswith("template.nii.gz")
    assert inputs.template_mask.endswith("template_mask.nii.gz")
    embedded = nodes[f"templates_wf.normalize_to_{EMBEDDED}"].inputs
    assert not isdefined(embedded.template_file)


@pytest.mark.parametrize("ready", ["none", "all"])
def test_nothing_is_registered_to_a_template_whose_transform_is_there(file, ready):
    names = ("NKI", "MNIInfant+2", EMBEDDED)
    nodes = nodes_with(file, spaces=True, ready=ready, transforms=names, lesions=True)
    assert not [name for name in nodes if "templates_wf.normalize" in name]
    assert nodes["templates_wf.outputnode"].inputs.to_NKI.endswith("NKI.h5")
    assert f"to_{EMBEDDED}" in nodes["templates_wf.outputnode"].inputs.get()


@pytest.mark.parametrize("lesions", [True, False])
def test_lesions_are_left_out_of_every_registration_to_a_template(file, lesions):
    flat = subject(file, **{**DEFAULT, "spaces": True, "lesions": lesions})._create_flat_graph()
    fed = [source.name for source, _, target, field in edges_of(flat)
           if target.name.startswith("normalize") and field == "lesion_file"]  # fmt: skip
    assert fed.count("unite") == (2 if lesions else 0)  # the embedded one is the anatomy's own


def test_sloppy_reaches_the_registration_to_templates(file):
    for sloppy in (True, False):
        nodes = nodes_with(file, spaces=True, sloppy=sloppy)
        assert nodes["templates_wf.normalize_to_NKI"].inputs.sloppy is sloppy


def test_a_space_takes_the_grid_of_its_file_or_of_the_embedded_template(file):
    nodes = nodes_with(file, spaces=True)
    assert nodes[SPACE.format("NKI_res_2")].inputs.grid_file.endswith("grid.nii.gz")
    embedded = nodes[SPACE.format(f"{EMBEDDED}_res_2")].inputs
    assert embedded.resolution == 2
    assert not isdefined(embedded.grid_file)


def interpolations(edges, node, port, passed=0):
    """Return how often the values of a map were interpolated on each way to where it is saved."""
    if node.name == "save":
        return [(node.fullname, passed)]
    passed += type(node.interface).__name__.startswith("Resample")
    passes_on = isinstance(node.interface, IdentityInterface)
    ways = [(target, field) for source, output, target, field in edges
            if source is node and (not passes_on or output == port)
            and field.removeprefix("anat_") in (*SPACE_FILES, "in_file", "map_files")]  # fmt: skip
    return [way for target, field in ways for way in interpolations(edges, target, field, passed)]


def test_every_map_off_the_sodium_grid_is_interpolated_once(file):
    flat = subject(file, **{**DEFAULT, "spaces": True})._create_flat_graph()
    maps = next(node for node in flat.nodes() if node.fullname.endswith("concentration_wf.maps"))
    ways = interpolations(edges_of(flat), maps, "")
    in_spaces = [count for name, count in ways if ".space_" in name]
    assert in_spaces
    assert set(in_spaces) == {1}
    assert {count for name, count in ways if "sodium_outputs_wf" in name} == {0, 1}


def test_maps_without_partial_volume_effect_are_interpolated_once_to_each_template(file):
    flat = subject(file, **{**DEFAULT, "spaces": True, "pvc": ("gtm", "rbv")})._create_flat_graph()
    maps = next(node for node in flat.nodes() if node.fullname.endswith("pvc_maps_wf.maps"))
    ways = dict(interpolations(edges_of(flat), maps, ""))
    in_spaces = [count for name, count in ways.items() if ".pvc_space_" in name]
    assert in_spaces == [1, 1, 1, 1]
    nodes = nodes_with(file, spaces=True, pvc=("gtm", "rbv"))
    assert nodes[PVC_SPACE.format("NKI")].inputs.wanted == ["rbv:corrected_file"]


def test_without_such_a_map_nothing_more_is_resampled(file):
    names = nodes_with(file, spaces=True, pvc=("gtm",))
    assert not [name for name in names if "pvc_space_" in name]


def factories(file):
    plan, anatomy = sodium_plan(file), AnatomyPlan(image=file("T1w.nii.gz"))
    return {
        "reconstruct": init_reconstruct_wf(plan),
        "register": init_register_wf("", True, {}),
        "pvc": init_pvc_wf(plan),
        "vials": init_vials_wf(plan),
        "concentration": init_concentration_wf(plan),
        "anatomy outputs": init_anatomy_outputs_wf(anatomy),
        "sodium outputs": init_sodium_outputs_wf(plan),
        "sodium only": init_sodium_only_wf(drawn_plan(file)),
        "templates": init_templates_wf(
            AnatomyPlan(image="", templates=template_plans(file)), EMBEDDED, True
        ),
        "space": init_space_wf(plan, space_plans(file)[0]),
    }


NAMES = ["reconstruct", "register", "pvc", "concentration", "sodium only", "anatomy outputs",
         "sodium outputs", "templates", "space"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_port_of_a_factory_is_used(file, name):
    workflow: Workflow = factories(file)[name]
    joined = edges_of(workflow._graph)
    taken = {output for source, output, _, _ in joined if source.name == "inputnode"}
    given = [field for _, _, target, field in joined if target.name == "outputnode"]
    for node in workflow._graph.nodes():
        ports = sorted(node.inputs.copyable_trait_names())
        if node.name == "inputnode":
            assert sorted(taken) == ports
        elif node.name == "outputnode":
            assert sorted(given) == ports


@pytest.mark.parametrize("name", NAMES[:5])
def test_a_factory_that_states_methods_describes_itself_in_a_sentence(file, name):
    text = factories(file)[name].__desc__
    assert text[0].isupper()
    assert text.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_a_factory_stays_small(file, name):
    assert len(factories(file)[name].list_node_names()) <= 10


def built_with(file, *pvc, **changes):
    options = {**DEFAULT, "kspace": True, **changes}
    return subject(file, **options, pvc=pvc)._create_flat_graph()


@pytest.mark.parametrize("pvc", [("gtm", "labbe"), ("gtm", "rbv"), ("gtm", "kspace", "mtc")])
def test_every_correction_is_fed_and_makes_what_it_can(file, pvc):
    flat = built_with(file, *pvc, lesions=True)
    fed = fed_ports(flat)
    open_ports = [(node.fullname, field) for node in flat.nodes()
                  for field in node.inputs.traits(mandatory=True)
                  if not is_fed(node, field, fed)]  # fmt: skip
    assert open_ports == []
    made = {node.fullname.split("sodium_wf.")[-1] for node in flat.nodes()}
    assert ("pvc_maps_wf.save" in made) == bool({"rbv", "mtc"} & set(pvc))
    assert ("pvc_wf.kspace" in made) == ("kspace" in pvc)


def test_raw_data_are_corrected_for_regression_as_they_are_for_the_image(file):
    flat = built_with(file, "gtm", "kspace")
    kspace = next(node for node in flat.nodes() if node.fullname.endswith("pvc_wf.kspace"))
    assert kspace.inputs.kspace_file == file("raw.h5")
    fed = {field for _, _, target, field in edges_of(flat) if target is kspace}
    assert {"field_file", "xfm_file", "properties", "gm_file", "brain_mask", "eyes"} <= fed


def test_the_flip_angle_reaches_all_that_turns_signal_into_concentration(file):
    flat = built_with(file, "gtm", "rbv", transmit=True, nonlinear="tv")
    takers = {
        target.fullname.split("sodium_wf.")[-1]
        for _, _, target, field in edges_of(flat)
        if field == "transmit_file" and not isinstance(target.interface, IdentityInterface)
    }
    assert takers == {
        "concentration_wf.calibrate",
        "concentration_wf.maps",
        "concentration_wf.table",
        "pvc_maps_wf.maps",
        "nonlinear_wf.maps",
    }
    without = {node.name for node in built_with(file, "gtm").nodes()}
    assert "transmit" not in without


def test_the_receive_field_and_its_error_reach_every_map(file):
    flat = built_with(file, "gtm", "rbv", receive="pair", nonlinear="tv")
    takers = {
        target.fullname.split("sodium_wf.")[-1]
        for _, _, target, field in edges_of(flat)
        if field == "model_file" and not isinstance(target.interface, IdentityInterface)
    }
    rooms = ("concentration_wf", "pvc_maps_wf", "nonlinear_wf")
    assert {f"{room}.maps" for room in rooms} <= takers
    told = {
        (source.fullname.split("sodium_wf.")[-1], target.name)
        for source, _, target, field in edges_of(flat)
        if field == "uncertainty_terms"
    }
    assert {(f"{room}.maps", "save") for room in rooms[1:]} <= told


SEARCH = {"direction": "-x", "required": True}


def test_vials_that_are_found_become_regions_and_decide_what_calibrates(file):
    flat = subject(file, **DEFAULT, searched=SEARCH, pvc=("gtm", "kspace"))._create_flat_graph()
    taken = {(output, target.name, field) for source, output, target, field in edges_of(flat)
             if source.fullname.endswith("vials_wf.outputnode")}  # fmt: skip
    for taker in ("regions", "kspace"):
        assert {("label_file", taker, "vial_labels"), ("names", taker, "vial_names")} <= taken
    assert ("reference", "calibrate", "reference") in taken
    assert [target for output, target, _ in taken if output == "properties"] == ["inputnode"]


def test_the_search_knows_the_list_and_how_it_is_to_be_read(file):
    find = nodes_with(file, searched=SEARCH)["sodium_wf.vials_wf.find"].inputs
    assert [vial["name"] for vial in find.vials] == ["1 low", "2 high"]
    assert (find.direction, find.required) == ("-x", True)


def test_vials_are_searched_in_the_image_in_which_they_lie_still(file):
    flat = subject(file, **DEFAULT, searched=SEARCH)._create_flat_graph()
    fed = {field: output for _, output, target, field in edges_of(flat)
           if target.fullname.endswith("vials_wf.inputnode")}  # fmt: skip
    assert set(fed) == {"static_file", "static_noise_file", "static_response_file", "head_mask",
                        "xfm_file", "properties"}  # fmt: skip
    assert fed["static_file"] == "static_file"


@pytest.mark.parametrize("reference", ["csf", "vitreous"])
def test_a_search_that_only_reports_does_not_decide_what_calibrates(file, reference):
    graph = subject(file, **{**DEFAULT, "vials": False}, reference=reference)
    flat = graph._create_flat_graph()
    made = {node.fullname.split("sodium_wf.")[-1]: node for node in flat.nodes()}
    assert "vials_wf.find" in made
    calibrate = made["concentration_wf.calibrate"]
    fed = {field for _, _, target, field in edges_of(flat) if target is calibrate}
    assert "reference" not in fed
    assert calibrate.inputs.reference == reference


def test_nothing_is_searched_where_labels_are_given(file):
    assert not [name for name in nodes_with(file) if "vials_wf" in name]


@pytest.mark.parametrize("force", [True, False])
def test_force_reaches_whatever_may_refuse_vials(file, force):
    plan = sodium_plan(file, searched={"direction": ""}, force=force)
    nodes = [
        init_vials_wf(plan).get_node("find"),
        init_concentration_wf(plan).get_node("calibrate"),
        init_sodium_only_wf(replace(plan, regions={})).get_node("calibrate"),
    ]
    assert [node.interface.inputs.force for node in nodes] == [force] * 3


def test_lesions_have_tables_of_their_own_and_shells_where_asked(file):
    nodes = nodes_with(file, lesions=True)
    begin = "sodium_wf.surroundings_wf."
    shells, mirrors, whole = (
        nodes[f"{begin}tabulate_{name}"].inputs for name in ("shells", "contralateral", "lesions")
    )
    assert shells.names == {1: "shell 0-5 mm", 2: "shell 5-10 mm"}
    assert (mirrors.kind, mirrors.names) == ("mirrors", {1: "core"})
    assert (whole.kind, whole.least_coverage) == ("included", 0.4)
    assert not isdefined(whole.labels_file)
    assert nodes[f"{begin}keep_contralateral"].inputs.names == {1: "core mirror"}
    assert nodes["sodium_wf.pvc_wf.regions"].inputs.keep_fine
    without = replace(sodium_plan(file, lesions=True), surroundings=lesion_plan("lesions"))
    names = by_name(init_subject_wf("a", AnatomyPlan(image=file("T1w.nii.gz")), [without], False))
    kept = {name.removeprefix(begin) for name in names if begin in name}
    assert kept - {"inputnode"} == {"tabulate_lesions", "save_lesions"}
    assert not any(begin in name for name in nodes_with(file))
