"""What exists and needs no computing is decided in one place."""

import pytest

from sodiumprep.workflows.base import init_subject_wf, is_ready
from sodiumprep.workflows.plans import AnatomyPlan

COMPLETE = {name: f"/{name}.nii.gz" for name in ("mask", "GM", "WM", "CSF")}


@pytest.mark.parametrize(
    ("image", "ready", "expected"),
    [
        ("T1w.nii.gz", COMPLETE, True),
        ("", {**COMPLETE, "preproc": "p.nii.gz"}, True),
        ("", COMPLETE, False),
        ("T1w.nii.gz", {k: v for k, v in COMPLETE.items() if k != "CSF"}, False),
        ("T1w.nii.gz", {}, False),
    ],
)
def test_an_anatomy_is_ready_with_mask_fractions_and_an_image(image, ready, expected):
    assert is_ready(AnatomyPlan(image=image, ready=ready)) is expected


@pytest.fixture
def files(tmp_path):
    names = ("T1w", "preproc", "mask", "GM", "WM", "CSF", "dseg")
    for name in names:
        (tmp_path / name).touch()
    return {name: str(tmp_path / name) for name in names}


def saved_by(workflow):
    """Return what the node that saves the anatomy is fed by value."""
    nodes = {node.fullname: node for node in workflow._create_flat_graph().nodes()}
    return nodes["sub_01_wf.anatomy_wf.outputnode"].inputs


def test_ready_files_become_the_anatomy_as_they_are(files):
    ready = {name: files[name] for name in ("preproc", "mask", "GM", "WM", "CSF", "dseg")}
    ports = saved_by(init_subject_wf("sub_01_wf", AnatomyPlan(files["T1w"], ready), [], False))
    assert ports.preproc_file == files["preproc"]
    assert ports.brain_mask == files["mask"]
    assert (ports.gm_file, ports.wm_file, ports.csf_file) == (
        files["GM"], files["WM"], files["CSF"],
    )  # fmt: skip
    assert ports.dseg_file == files["dseg"]


def test_the_raw_image_stands_in_for_a_missing_ready_one(files):
    ready = {name: files[name] for name in ("mask", "GM", "WM", "CSF")}
    ports = saved_by(init_subject_wf("sub_01_wf", AnatomyPlan(files["T1w"], ready), [], False))
    assert ports.preproc_file == files["T1w"]


def test_an_anatomy_without_runs_is_a_whole_graph(files):
    workflow = init_subject_wf("sub_01_wf", AnatomyPlan(files["T1w"]), [], True)
    assert "anatomy_wf.normalize" in workflow.list_node_names()
    assert "anatomy_outputs_wf.save" in workflow.list_node_names()


def node_of(workflow, name):
    return {node.fullname: node for node in workflow._create_flat_graph().nodes()}[name]


@pytest.mark.parametrize("ready", [(), ("mask", "GM", "WM", "CSF")])
def test_the_age_reaches_the_judgement_of_the_volume(files, ready):
    plan = AnatomyPlan(files["T1w"], {name: files[name] for name in ready}, age=7.0)
    workflow = init_subject_wf("sub_01_wf", plan, [], False)
    name = "volume" if ready else "inputnode"
    assert node_of(workflow, f"sub_01_wf.anatomy_wf.{name}").inputs.age == 7.0


def test_the_inversion_images_reach_the_anatomy(files):
    plan = AnatomyPlan(files["T1w"], inversions=(files["GM"], files["WM"]))
    source = node_of(
        init_subject_wf("sub_01_wf", plan, [], False), "sub_01_wf.anatomy_wf.inputnode"
    )
    assert source.inputs.inversion_files == [files["GM"], files["WM"]]
