"""No factory leaks a port, whatever the options."""

from itertools import product
from pathlib import Path

import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import Workflow

from sodiumprep.workflows.anatomy import INPUTS as OPTIONAL_ANATOMY
from sodiumprep.workflows.base import init_subject_wf
from sodiumprep.workflows.concentration import init_concentration_wf
from sodiumprep.workflows.outputs import init_anatomy_outputs_wf, init_sodium_outputs_wf
from sodiumprep.workflows.plans import AnatomyPlan, SodiumPlan
from sodiumprep.workflows.pvc import init_gtm_wf
from sodiumprep.workflows.reconstruct import init_reconstruct_wf
from sodiumprep.workflows.register import init_register_wf

VIALS = ({"name": "1 low", "concentration": 50.0}, {"name": "2 high", "concentration": 100.0})
READY = ("preproc", "mask", "GM", "WM", "CSF")
OPTIONS = [  # what changes no edge goes along with something else
    {"kspace": kspace, "receive": receive, "vials": vials, "lesions": lesions, "ready": ready,
     "given": lesions, "sloppy": vials,
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


def sodium_plan(
    file, kspace=True, receive="none", vials=True, lesions=False, given=False, nonlinear="", **_
):
    pair = {"array_files": [file("array.nii.gz")], "volume_files": [file("volume.nii.gz")]}
    labels = {"vial_labels": file("labels.nii.gz"), "vial_space": "T1w", "vial_names": ["1 low"]}
    source = {"kspace_file": file("raw.h5")} if kspace else {"image_file": file("na.nii.gz")}
    return SodiumPlan(
        name="sodium_wf", source=source, is_kspace=kspace,
        receive={"pair": pair, "map": {"map_file": file("map.nii.gz")}, "none": {}}[receive],
        regions={"lesion_files": {"core": file("core.nii.gz")} if lesions else {},
                 **(labels if vials else {})},
        given_xfm=file("xfm.txt") if given else "", tissues={}, protocol={"echo_time": 0.0003},
        reference="vials" if vials else "csf", vials=VIALS if vials else (), outputs={},
        provenance={},
        nonlinear={"method": nonlinear, "source": {"kspace_file": file("raw.h5")}, "outputs": {}}
        if nonlinear else {},
    )  # fmt: skip


def subject(file, **options):
    wanted = {"all": READY, "mask": ("mask",), "none": ()}[options["ready"]]
    anatomy = AnatomyPlan(
        image=file("T1w.nii.gz"),
        ready={name: file(f"{name}.nii.gz") for name in wanted},
        lesions={"core": file("core.nii.gz")} if options["lesions"] else {},
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
    if options["ready"] == "all":
        missing = ("dseg_file", "to_template_xfm", "from_template_xfm")
        return {f"anatomy_wf.{port}" for port in missing}
    optional = set(OPTIONAL_ANATOMY) - {"anat_file"}
    optional -= {"mask_file"} if options["ready"] == "mask" else set()
    return {f"anatomy_wf.{port}" for port in optional - (
        {"lesion_file"} if options["lesions"] else set())}  # fmt: skip


def by_name(workflow):
    return {node.fullname.split(".", 1)[1]: node for node in workflow._create_flat_graph().nodes()}


DEFAULT = {"kspace": True, "receive": "none", "vials": True, "lesions": False, "ready": "none",
           "given": False, "sloppy": False}  # fmt: skip


def nodes_with(file, **options):
    return by_name(subject(file, **{**DEFAULT, **options}))


@pytest.mark.parametrize("kspace", [True, False])
def test_the_source_decides_how_the_image_comes_about(file, kspace):
    source = nodes_with(file, kspace=kspace)["sodium_wf.reconstruct_wf.source"]
    assert isdefined(getattr(source.inputs, "kspace_file" if kspace else "image_file"))


def test_a_ready_anatomy_is_not_computed(file):
    nodes = nodes_with(file, ready="all")
    assert "anatomy_wf.normalize" not in nodes
    assert nodes["anatomy_wf.head"].inputs.mask_file.endswith("mask.nii.gz")


def test_a_ready_mask_alone_is_used_and_the_rest_computed(file):
    nodes = nodes_with(file, ready="mask")
    assert "anatomy_wf.fractions" in nodes
    assert nodes["anatomy_wf.inputnode"].inputs.mask_file.endswith("mask.nii.gz")


def test_lesions_reach_anatomy_and_regions(file):
    nodes = nodes_with(file, lesions=True)
    assert list(nodes["anatomy_wf.unite"].inputs.lesion_files) == ["core"]
    assert list(nodes["sodium_wf.pvc_wf.regions"].inputs.lesion_files) == ["core"]


def test_vials_reach_regions_and_calibration(file):
    nodes = nodes_with(file)
    assert nodes["sodium_wf.pvc_wf.regions"].inputs.vial_space == "T1w"
    assert len(nodes["sodium_wf.concentration_wf.calibrate"].inputs.vials) == 2
    assert nodes["sodium_wf.concentration_wf.calibrate"].inputs.reference == "vials"


@pytest.mark.parametrize("given", [True, False])
def test_a_given_transform_reaches_the_registration(file, given):
    register = nodes_with(file, given=given)["sodium_wf.register_wf.register"]
    assert isdefined(register.inputs.given_xfm) is given


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


def factories(file):
    plan, anatomy = sodium_plan(file), AnatomyPlan(image=file("T1w.nii.gz"))
    return {
        "reconstruct": init_reconstruct_wf(plan),
        "register": init_register_wf("", True),
        "pvc": init_gtm_wf(plan),
        "concentration": init_concentration_wf(plan),
        "anatomy outputs": init_anatomy_outputs_wf(anatomy),
        "sodium outputs": init_sodium_outputs_wf(plan),
    }


NAMES = ["reconstruct", "register", "pvc", "concentration", "anatomy outputs", "sodium outputs"]


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


@pytest.mark.parametrize("name", NAMES[:4])
def test_a_factory_that_states_methods_describes_itself_in_a_sentence(file, name):
    text = factories(file)[name].__desc__
    assert text[0].isupper()
    assert text.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_a_factory_stays_small(file, name):
    assert len(factories(file)[name].list_node_names()) <= 10
