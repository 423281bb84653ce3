"""Sessions that share one anatomy: it is computed once, and everything else moves to it."""

from collections import Counter
from pathlib import Path

import pytest
from nipype.interfaces.base import isdefined

from sodiumprep.workflows.base import init_subject_wf
from sodiumprep.workflows.plans import AnatomyPlan, ReferencePlan, SessionPlan, SodiumPlan

ONCE = ("normalize", "extract", "fractions", "level", "head")


@pytest.fixture
def file(tmp_path):
    def make(name):
        path = Path(tmp_path) / name
        path.touch()
        return str(path)

    return make


def sodium(file, number, index, given=False):
    labels = {"vial_labels": file("labels.nii.gz"), "vial_space": "T1w", "vial_names": ["1 low"]}
    masks = {"core": file(f"core{number}.nii.gz")}
    return SodiumPlan(
        name=f"sodium_ses_{number}_wf", source={"kspace_file": file("raw.h5")}, is_kspace=True,
        receive={}, regions={"lesion_files": masks, **labels},
        given_xfm=file("xfm.txt") if given else "", tissues={}, protocol={"echo_time": 3e-4},
        reference="csf", vials=(), outputs={}, provenance={},
        moved={"sodium": index, "vials": index} if index >= 0 else {},
        lesion_spaces={"core": index},
    )  # fmt: skip


def session(file, number, index):
    masks = {"core": file(f"core{number}.nii.gz")}
    return SessionPlan(f"ses_{number}", number - 1, masks, {"core": index}, {}, {})


def subject(file, builds=False, given=False):
    """Build the graph of three sessions; the first is the reference unless one is built."""
    indices = [0 if builds else -1, 1, 2]
    images = tuple(file(f"T1w{n}.nii.gz") for n in (1, 2, 3))
    masks = {f"{n}_core": file(f"core{n}.nii.gz") for n in (1, 2)}
    reference = ReferencePlan(
        images, builds, -1 if builds else 0, masks, {"1_core": 0, "2_core": 1},
        tuple(session(file, n, index) for n, index in enumerate(indices, 1)),
    )  # fmt: skip
    anatomy = AnatomyPlan("" if builds else images[0], reference=reference)
    runs = [sodium(file, n, index, given) for n, index in enumerate(indices, 1)]
    return init_subject_wf("sub_01_wf", anatomy, runs, True)


def nodes_of(workflow):
    flat = workflow._create_flat_graph()
    return flat, {node.fullname.split(".", 1)[1]: node for node in flat.nodes()}


@pytest.mark.parametrize("builds", [False, True])
def test_the_anatomy_of_three_sessions_is_computed_once(file, builds):
    _, nodes = nodes_of(subject(file, builds))
    count = Counter(name.rpartition(".")[2] for name in nodes)
    assert {name: count[name] for name in ONCE} == dict.fromkeys(ONCE, 1)
    assert count["source"] == count["regions"] == 3
    assert (count["build"], count["align"]) == ((1, 0) if builds else (0, 1))


@pytest.mark.parametrize(("builds", "moved"), [(False, 2), (True, 3)])
def test_every_session_but_the_reference_moves(file, builds, moved):
    _, nodes = nodes_of(subject(file, builds))
    count = Counter(name.rpartition(".")[2] for name in nodes)
    assert [count[n] for n in ("place", "back", "move_lesions", "move_vials")] == [moved] * 4


@pytest.mark.parametrize("builds", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_no_port_leaks(file, builds, given):
    flat, _ = nodes_of(subject(file, builds, given))
    fed = {(t.fullname, f) for _, t, link in flat.edges(data=True) for _, f in link["connect"]}
    for _, target, link in flat.edges(data=True):
        for _, field in link["connect"]:
            assert field in target.inputs.copyable_trait_names(), (target.fullname, field)
    for node in flat.nodes():
        for field in node.inputs.traits(mandatory=True):
            known = isdefined(getattr(node.inputs, field))
            assert known or (node.fullname, field) in fed, f"{node.fullname}.{field} is open"


def sources(flat, target, field):
    return [
        source.fullname.rpartition(".")[2]
        for source, node, link in flat.edges(data=True)
        for _, port in link["connect"]
        if node is target and port == field
    ]


def test_maps_of_all_sessions_take_the_grid_of_the_one_anatomy(file):
    flat, nodes = nodes_of(subject(file))
    for number in (1, 2, 3):
        resample = nodes[f"sodium_ses_{number}_wf.concentration_wf.anat_corrected_file"]
        assert sources(flat, resample, "reference_file") == ["inputnode"]
    anatomy = nodes["anatomy_wf.outputnode"]
    taken = [t.fullname.split(".")[1] for _, t, _ in flat.out_edges(anatomy, data=True)]
    assert {f"sodium_ses_{n}_wf" for n in (1, 2, 3)} <= set(taken)


def test_masks_and_labels_of_a_session_come_moved(file):
    flat, nodes = nodes_of(subject(file))
    regions = nodes["sodium_ses_2_wf.pvc_wf.regions"]
    assert sources(flat, regions, "lesion_files") == ["move_lesions"]
    assert sources(flat, regions, "vial_labels") == ["move_vials"]
    assert sources(flat, nodes["sodium_ses_1_wf.pvc_wf.regions"], "lesion_files") == []


def test_a_template_is_the_image_of_the_anatomy_without_the_lesions_of_all_sessions(file):
    flat, nodes = nodes_of(subject(file, builds=True))
    port = nodes["anatomy_wf.inputnode"]
    assert sources(flat, port, "anat_file") == ["outputnode"]
    assert sources(flat, port, "lesion_file") == ["outputnode"]
    assert list(nodes["poses_wf.move"].inputs.in_files) == ["1_core", "2_core"]


def test_a_given_transform_is_carried_over(file):
    flat, nodes = nodes_of(subject(file, given=True))
    register = nodes["sodium_ses_2_wf.moved_register_wf.register_wf.register"]
    assert sources(flat, register, "given_xfm") == ["place"]
