"""What exists and needs no computing is decided in one place."""

import pytest
from nipype.interfaces.base import isdefined

from sodiumprep.interfaces.anatomy import BiasCorrect, BrainExtract, Normalize, TissueFractions
from sodiumprep.workflows.base import init_subject_wf
from sodiumprep.workflows.plans import AnatomyPlan, TemplatePlan
from sodiumprep.workflows.ready import (
    computed_steps,
    fractions_are_ready,
    init_prepared_anatomy_wf,
)

FRACTIONS = ("GM", "WM", "CSF")
TRANSFORMS = ("to_template", "from_template")
LABELS = {1: "GM", 2: "WM", 3: "CSF"}


@pytest.fixture
def files(tmp_path):
    names = ("T1w", "preproc", "mask", *FRACTIONS, "dseg", "posteriors", *TRANSFORMS, "core")
    for name in names:
        (tmp_path / name).touch()
    return {name: str(tmp_path / name) for name in names}


@pytest.fixture
def prepared(files):
    """Build the anatomy from these ready-made files."""

    def build(*ready, raw=True, labels=None, lesions=()):
        plan = AnatomyPlan(
            files["T1w"] if raw else "",
            {name: files[name] for name in ready},
            {name: files[name] for name in lesions},
            label_tissues=labels or {},
        )
        return init_prepared_anatomy_wf(plan, sloppy=True)

    return build


def steps(workflow):
    """Count the nodes of each computing step."""
    kinds = [type(node.interface) for node in workflow._graph.nodes()]
    counted = (BiasCorrect, BrainExtract, TissueFractions, Normalize)
    return tuple(kinds.count(step) for step in counted)


@pytest.mark.parametrize(
    ("ready", "counts"),
    [
        ((), (2, 1, 1, 1)),
        (("mask",), (2, 0, 1, 1)),
        (("preproc",), (0, 1, 1, 1)),
        (("preproc", "mask"), (0, 0, 1, 1)),
        (("mask", *TRANSFORMS), (2, 0, 1, 0)),
        (("preproc", "mask", *TRANSFORMS), (0, 0, 1, 0)),
        (FRACTIONS, (0, 0, 0, 0)),
        (("mask", *FRACTIONS), (0, 0, 0, 0)),
        (("preproc", "mask", *FRACTIONS), (0, 0, 0, 0)),
        (("preproc", "mask", *FRACTIONS, *TRANSFORMS), (0, 0, 0, 0)),
        (("GM", "WM"), (2, 1, 1, 1)),
    ],
)
def test_nothing_is_computed_that_is_ready(prepared, ready, counts):
    assert steps(prepared(*ready)) == counts


def test_a_labelled_image_leaves_nothing_to_compute(prepared):
    workflow = prepared("dseg", labels=LABELS)
    assert steps(workflow) == (0, 0, 0, 0)
    assert not isdefined(workflow.get_node("take_fractions").inputs.posteriors_file)


def test_posteriors_stand_beside_their_labels(prepared, files):
    inputs = prepared("dseg", "posteriors", labels=LABELS).get_node("take_fractions").inputs
    assert (inputs.labels_file, inputs.posteriors_file) == (files["dseg"], files["posteriors"])
    assert inputs.label_tissues == LABELS


def test_labels_without_a_meaning_are_no_fractions(prepared):
    assert steps(prepared("dseg")) == (2, 1, 1, 1)
    assert not fractions_are_ready(AnatomyPlan("T1w", {"dseg": "dseg"}))


def test_a_ready_image_needs_no_raw_one(prepared, files):
    workflow = prepared("preproc", "mask", raw=False)
    assert workflow.get_node("inputnode").inputs.anat_file == files["preproc"]
    assert workflow.get_node("take_mask").inputs.reference_file == files["preproc"]


def test_the_raw_image_stands_in_for_a_missing_ready_one(prepared, files):
    workflow = prepared("mask", *FRACTIONS)
    assert workflow.get_node("take_image").inputs.in_file == files["T1w"]


def test_given_transforms_reach_what_needs_them(prepared, files):
    taken = prepared("mask", *TRANSFORMS).get_node("take_transforms")
    assert taken.inputs.from_template_xfm == files["from_template"]


def test_lesions_are_united_only_where_something_is_computed_without_them(prepared):
    assert prepared("mask", lesions=("core",)).get_node("unite") is not None
    assert prepared("mask", *FRACTIONS, lesions=("core",)).get_node("unite") is None


@pytest.mark.parametrize(
    ("ready", "said"),
    [((), 4), (("mask",), 3), (("preproc", "mask"), 2), (("mask", *FRACTIONS), 0)],
)
def test_the_methods_text_tells_what_was_computed_and_no_more(prepared, ready, said):
    workflow = prepared(*ready)
    assert len(computed_steps(workflow)) == said
    text = workflow.__desc__
    assert text.endswith(".")
    assert ("N4" in text) is ("preproc" not in ready and "GM" not in ready)
    assert ("ready-made" in text) is bool(ready)


def test_an_anatomy_without_runs_is_a_whole_graph(files):
    workflow = init_subject_wf("sub_01_wf", AnatomyPlan(files["T1w"]), [], True)
    assert "anatomy_wf.normalize" in workflow.list_node_names()
    assert "anatomy_outputs_wf.save" in workflow.list_node_names()


def test_an_anatomy_without_runs_is_normalized_to_templates_all_the_same(files):
    templates = (TemplatePlan("NKI", files["T1w"], files["mask"]),)
    plan = AnatomyPlan(files["T1w"], templates=templates)
    workflow = init_subject_wf("sub_01_wf", plan, [], True)
    assert "templates_wf.normalize_to_NKI" in workflow.list_node_names()
    assert "templates_wf.save_to_NKI" in workflow.list_node_names()


def node_of(workflow, name):
    return {node.fullname: node for node in workflow._create_flat_graph().nodes()}[name]


@pytest.mark.parametrize("ready", [(), ("mask", "GM", "WM", "CSF")])
def test_the_age_reaches_the_judgement_of_the_volume(files, ready):
    plan = AnatomyPlan(files["T1w"], {name: files[name] for name in ready}, age=7.0)
    workflow = init_subject_wf("sub_01_wf", plan, [], False)
    name = "take_mask" if ready else "inputnode"
    assert node_of(workflow, f"sub_01_wf.anatomy_wf.{name}").inputs.age == 7.0


def test_the_inversion_images_reach_the_anatomy(files):
    plan = AnatomyPlan(files["T1w"], inversions=(files["GM"], files["WM"]))
    source = node_of(
        init_subject_wf("sub_01_wf", plan, [], False), "sub_01_wf.anatomy_wf.inputnode"
    )
    assert source.inputs.inversion_files == [files["GM"], files["WM"]]
