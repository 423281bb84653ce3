"""A model is completed from what is found, in words; what it names must be there."""

import json
from dataclasses import replace

import polars as pl
import pytest

from sodiumprep.bids_app.group.covariates import Covariates
from sodiumprep.bids_app.group.facts import Facts
from sodiumprep.bids_app.group.model import complete, read_model, reference_level, schema
from sodiumprep.bids_app.metadata import UserError

REGIONS = {"tissue": ["GM", "WM", "CSF", "core"], "lobes": ["Frontal lobe L"]}


def facts(people=12, sessions=("n/a",), runs=("n/a",), **columns):
    """Return a cohort of which every second participant is a patient."""
    keys = [(f"sub-{k:02d}", s) for k in range(people) for s in sessions]
    table = pl.DataFrame(keys, schema=["participant_id", "session"], orient="row")
    number = table["participant_id"].str.slice(4).cast(pl.Int64)
    held = {
        "group": [("controls", "patients")[k % 2] for k in number],
        "age": [20.0 + k for k in number],
        "sex": [("F", "M")[k // 2 % 2] for k in number],
        **{name: [make(k) for k in number] for name, make in columns.items()},
    }
    covariates = Covariates(
        table.with_columns(**{name: pl.Series(cells) for name, cells in held.items()}),
        tuple(name for name, cells in held.items() if isinstance(cells[0], float)),
    )
    measured = table.join(pl.DataFrame({"run": runs}), how="cross")
    return Facts(covariates, measured, REGIONS, ["gtm", "none"], ["snr_GM"])


def read(tmp_path, content, held=None):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content))
    return read_model(path, held or facts())


def _contrast(conditions, weights):
    return {"Contrasts": [{"Name": "a", "ConditionList": conditions, "Weights": weights}]}


def test_the_default_takes_group_age_and_sex():
    model = complete({}, facts())
    assert model.fixed == ("group", "age", "sex")
    assert model.reference == {"group": "controls", "sex": "F"}
    assert (model.random, model.weighted) == ((), True)
    assert model.words[0] == "each region is explained by group, age, sex"


def test_too_few_participants_leave_terms_out_and_say_so():
    model = complete({}, facts(people=6))
    assert model.fixed == ("group",)
    assert "age is not in the model: 6 participants are too few for it" in model.words


def test_a_group_of_one_is_not_compared_and_said():
    held = facts(group=lambda k: "patient" if k == 3 else "control")
    model = complete({}, held)
    assert "group" not in model.fixed
    assert "group is not in the model: patient has one participant" in model.words


def test_sessions_bring_a_random_intercept_changes_and_repeatability():
    model = complete({}, facts(sessions=("1", "2")))
    assert model.random == ("participant_id",)
    assert "session" in model.fixed
    change = {"From": "1", "To": "2", "Better": "lower", "Stable": {"group": "controls"}}
    assert model.section("Change") == change
    assert model.section("Repeatability") == {"Over": "session"}


def test_a_change_goes_from_what_is_called_pre_to_what_is_called_post():
    content = complete({}, facts(sessions=("post", "pre"))).content
    assert (content["Change"]["From"], content["Change"]["To"]) == ("pre", "post")
    assert content["Model"]["Reference"]["session"] == "pre"


def test_runs_of_a_session_tell_the_repeatability():
    assert complete({}, facts(runs=("1", "2"))).section("Repeatability") == {"Over": "run"}


def test_lesions_and_groups_are_told_apart_by_default():
    names = [pair["Name"] for pair in complete({}, facts()).section("Diagnostic")]
    assert names == ["core against WM", "patients against controls"]


def test_norms_rest_on_the_controls():
    assert complete({}, facts()).section("Normative") == {
        "By": "age",
        "Reference": {"group": "controls"},
    }


def test_a_time_to_an_event_is_found_by_its_columns():
    held = facts(duration=float, event=lambda k: float(k % 2))
    assert complete({}, held).section("Outcome") == {"Duration": "duration", "Event": "event"}
    assert complete({}, facts()).section("Outcome") is None


def test_what_is_asked_goes_before_what_is_found(tmp_path):
    given = {"Name": "age alone", "Model": {"X": [1, "age"], "Weights": "none"}}
    model = read(tmp_path, given)
    assert (model.fixed, model.weighted) == (("age",), False)
    assert model.content["Name"] == "age alone"


def test_the_complete_model_asks_for_the_same_again(tmp_path):
    model = complete({}, facts(sessions=("1", "2")))
    again = read(tmp_path, dict(model.content), facts(sessions=("1", "2")))
    assert again.content == model.content


def test_who_is_listed_without_results_may_be_excluded(tmp_path):
    held = replace(facts(), listed=("sub-lost",))
    content = {"Exclude": {"participant_id": ["lost", "sub-lost"]}}
    assert read(tmp_path, content, held).content["Exclude"] == content["Exclude"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"Model": {"X": ["grp"]}}, "Model.X: 'grp' is not there; did you mean group"),
        ({"Model": {"Reference": {"group": "control"}}}, "did you mean controls"),
        ({"Mdel": {}}, r"the file holds 'Mdel', which is no key \(did you mean Model\?\)"),
        ({"Model": {"X": "group"}}, "Model.X: 'group' is not of type 'array'"),
        ({"Input": {"name": ["gm"]}}, "Input.name: 'gm' is not there; .*GM"),
        ({"Input": {"pvc": ["rbv"]}}, "There are: gtm, none"),
        ({"Exclude": {"quality": {"snr": [1, None]}}}, "did you mean snr_GM"),
        ({"Exclude": {"flag": ["entangle"]}}, "Exclude.flag: 'entangle' .*did you mean entangled"),
        ({"Exclude": {"participant_id": ["sub-02", "sub-2"]}}, "participant_id: .2. is not"),
        ({"Change": {"From": "1"}}, "Change: '1' is not there"),
        ({"Outcome": {"Duration": "age"}}, "Outcome: Event is missing"),
        ({"Outcome": {"Duration": "sex", "Event": "age"}}, "'sex' is not there; .*age"),
        (
            {"Diagnostic": [{"Name": "a", "Positive": {"name": "cor"}, "Negative": {}}]},
            "mean core",
        ),
        ({"Change": {"Better": "higher"}}, "Change: From is missing, and no two participants"),
        ({"Repeatability": {}}, "Repeatability: Over is missing"),
        ({"Normative": {"Reference": {"group": "control"}}}, "Reference.group: .*mean controls"),
        ({"Change": {"Stable": {"grp": "controls"}}}, "Stable: 'grp' is not there; .*group"),
        ({"Model": {"Random": ["sex", "group"]}}, "Model.Random: sex and group; accepted: one"),
        (_contrast(["group.patient"], [1]), "ConditionList: group: 'patient' .*mean patients"),
        (_contrast(["grp.patients"], [1]), "ConditionList: 'grp' is not there; .*group"),
        (_contrast(["age", "group.patients"], [1]), "a has 2 conditions and 1 weights"),
        ({"Voxelwise": {"Permutations": 3}}, "Voxelwise.Permutations: 3 is less than"),
    ],
)
def test_what_is_not_there_is_named_with_what_is_near(tmp_path, content, said):
    with pytest.raises(UserError, match=f"model.json: .*{said}"):
        read(tmp_path, content)


def test_a_section_that_is_left_open_is_completed(tmp_path):
    held = facts(sessions=("1", "2"))
    given = {"Repeatability": {}, "Normative": {}, "Change": {"Better": "higher"}}
    model = read(tmp_path, given, held)
    assert model.section("Repeatability") == {"Over": "session"}
    assert model.section("Normative") == {"By": "age", "Reference": {"group": "controls"}}
    assert model.section("Change")["To"] == "2"


def test_of_several_acquisitions_and_reconstructions_one_is_taken_and_it_is_said(tmp_path):
    labels = {"acq": {"23Na": 10, "23NaFast": 12}, "rec": {"n/a": 2, "tv": 12}}
    held = replace(facts(), labels=labels)
    model = complete({}, held)
    assert model.section("Input") == {"acq": "23NaFast", "rec": "n/a"}
    assert "values of rec n/a are taken, not of tv; Input.rec chooses" in model.words
    with pytest.raises(UserError, match=r"Input.acq: '23NaFst' is not there; .*23NaFast"):
        read(tmp_path, {"Input": {"acq": "23NaFst"}}, held)


def test_who_is_excluded_without_having_results_is_told():
    words = complete({"Exclude": {"participant_id": ["sub-99", "03"]}}, facts()).words
    assert [w for w in words if "excludes" in w] == [
        "sub-99, whom the model excludes, has no results"
    ]


@pytest.mark.parametrize("text", ["[1, 2]", "{", ""])
def test_a_file_that_is_no_model_is_refused(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(UserError, match=r"model\.json"):
        read_model(tmp_path / "model.json", facts())


def test_every_key_of_the_schema_is_described_or_named_after_a_column():
    for name, section in schema()["properties"].items():
        assert section.get("description") or section["type"] in ("object", "string"), name


def test_controls_are_the_reference_whatever_their_spelling():
    assert reference_level(["MS", "hc"]) == "hc"
    assert reference_level(["b", "a"]) == "a"
