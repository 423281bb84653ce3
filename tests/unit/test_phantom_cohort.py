"""Simulated cohorts: age, sex, site and session, and what the tables tell of them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sodiumprep.bids_app import phantom as command
from sodiumprep.bids_app import phantom_cohort
from sodiumprep.bids_app.ages import age_of
from sodiumprep.bids_app.phantom_tables import write_dataset_files
from sodiumprep.bids_app.relaxation import load_relaxation
from sodiumprep.sodium.phantom_content import draw_concentrations, mean_concentrations
from sodiumprep.sodium.phantom_lesions import relaxation_in
from sodiumprep.sodium.phantom_placement import VIALS
from sodiumprep.sodium.phantom_plaques import Plaque, Plaques

STROKES = ("--lesion", "stroke", "--groups", "patients")


def options(*arguments, folder="nowhere"):
    parsed = command.build_parser().parse_args([str(folder), *arguments])
    command._check(parsed)
    return parsed


def cohort(*arguments):
    chosen = options(*arguments)
    seeds = np.random.SeedSequence(chosen.seed).spawn(chosen.subjects)
    return [phantom_cohort.draw_subject(chosen, None, i, s) for i, s in enumerate(seeds)]


def written(folder, *arguments):
    """Write the tables of a cohort and return its people."""
    chosen = options(*arguments, folder=folder)
    seeds = np.random.SeedSequence(chosen.seed).spawn(chosen.subjects)
    people = [phantom_cohort.draw_subject(chosen, None, i, s) for i, s in enumerate(seeds)]
    write_dataset_files(chosen, people)
    return people


def table(path):
    head, *rows = (line.split("\t") for line in path.read_text().splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_sites_take_turns_within_each_group():
    people = cohort("--subjects", "8", "--sites", "2")
    assert [p.site for p in people] == ["site1", "site2"] * 4


def test_a_site_has_one_set_of_vials_and_others_have_another():
    first, second, again = (p.vial_error for p in cohort("--subjects", "3", "--sites", "2"))
    assert first == again != second
    assert 0.85 < first < 1.15


def test_a_further_site_changes_nothing_at_the_others():
    few, many = (phantom_cohort.site_errors(options("--sites", n)) for n in ("2", "5"))
    assert few == many[:2]


def test_the_spread_of_the_sites_is_the_one_asked_for():
    errors = phantom_cohort.site_errors(options("--sites", "4000", "--site-spread", "0.05"))
    assert np.std(np.log(errors)) == pytest.approx(0.05, rel=0.05)


def test_where_there_is_one_site_the_vials_are_what_they_say():
    person = cohort()[0]
    assert person.site == ""
    assert phantom_cohort.site_vials(person) == list(VIALS)


def test_the_vials_of_a_site_are_stronger_than_their_label():
    strong = replace(cohort()[0], vial_error=1.04)
    ratios = [
        v.concentration / n.concentration
        for v, n in zip(phantom_cohort.site_vials(strong), VIALS, strict=True)
    ]
    assert np.allclose(ratios, 1.04)


def test_ages_lie_in_the_range_that_is_asked_for():
    ages = [p.age for p in cohort("--subjects", "20", "--ages", "6", "9")]
    assert set(ages) == {6, 7, 8, 9}


def test_sodium_and_shape_change_with_age_and_not_the_draw():
    arguments = ("--subjects", "12", "--age-change", "GM=0.1,ventricles=0.2,cortex=-0.05")
    for plain, old in zip(cohort("--subjects", "12"), cohort(*arguments), strict=True):
        decades = (old.age - 48) / 10
        assert (plain.age, plain.sex) == (old.age, old.sex)
        assert old.concentrations["GM"] / plain.concentrations["GM"] == pytest.approx(
            1 + 0.1 * decades
        )
        assert old.concentrations["WM"] == plain.concentrations["WM"]
        assert old.anatomy.ventricle_scale / plain.anatomy.ventricle_scale == pytest.approx(
            1 + 0.2 * decades
        )
        assert old.anatomy.cortex_scale < plain.anatomy.cortex_scale or decades <= 0


def test_men_and_women_differ_by_what_is_asked():
    pairs = zip(
        cohort("--subjects", "12"),
        cohort("--subjects", "12", "--sex-change", "WM=0.2"),
        strict=True,
    )
    ratios = {new.sex: new.concentrations["WM"] / old.concentrations["WM"] for old, new in pairs}
    assert ratios == {"M": pytest.approx(1.1), "F": pytest.approx(0.9)}


def test_people_of_a_group_differ_by_four_percent_and_their_fluid_by_less():
    rng, means = np.random.default_rng(0), mean_concentrations("ms")
    people = [draw_concentrations(rng, means) for _ in range(1000)]
    for name, spread in (("GM", 0.04), ("blackhole", 0.04), ("CSF", 0.04 / 3)):
        values = [person[name] / means[name] for person in people]
        assert np.std(values) == pytest.approx(spread, rel=0.1)


def test_only_the_lesion_groups_have_a_stroke_and_all_have_its_classes():
    people = cohort("--lesion", "stroke")
    assert [p.anatomy.lesion is not None for p in people] == [False, False, True, True]
    assert all("penumbra" in p.concentrations for p in people)
    assert {p.anatomy.kind for p in people} == {"stroke"}


def test_a_seed_repeats_a_cohort():
    arguments = (*STROKES, "--sites", "3", "--age-change", "GM=0.1")
    first, again = (cohort(*arguments) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.concentrations == other.concentrations
        assert str(one.anatomy.lesion) == str(other.anatomy.lesion)
        assert (one.age, one.site, one.vial_error) == (other.age, other.site, other.vial_error)


def test_a_later_session_is_older_and_changed():
    chosen = options("--sessions", "3", "--session-interval", "2", "--session-change", "WM=0.05",
                     "--age-change", "GM=0.1,ventricles=0.3")  # fmt: skip
    person = replace(cohort()[0], age=48)
    anatomy, values = phantom_cohort.at_session(chosen, person, 2)
    assert values["WM"] == pytest.approx(1.1 * person.concentrations["WM"])
    assert values["GM"] == pytest.approx(1.04 * person.concentrations["GM"])
    assert anatomy.ventricle_scale == pytest.approx(1.12 * person.anatomy.ventricle_scale)


def test_the_first_session_is_what_was_drawn():
    chosen, person = options("--age-change", "GM=0.1"), cohort("--age-change", "GM=0.1")[1]
    anatomy, values = phantom_cohort.at_session(chosen, person, 0)
    assert values == person.concentrations
    assert anatomy.ventricle_scale == person.anatomy.ventricle_scale


def test_plaques_grow_by_the_years_between_sessions():
    person, chosen = cohort()[0], options("--sessions", "2", "--session-interval", "0.5")
    plaque = Plaque("expanding", "somewhere", np.zeros(3), np.array([1.0, 0, 0]), (5.0, 4.0))
    ill = replace(person, anatomy=person.anatomy.with_lesion(Plaques((plaque,))))
    later = phantom_cohort.at_session(chosen, ill, 1)[0].lesion.plaques[0]
    assert (later.radii[0] / 5) ** 3 == pytest.approx(1.06)


def test_the_table_of_participants_tells_the_site_and_not_its_error(tmp_path):
    people = written(tmp_path, *STROKES, "--sites", "2", "--calibration-phantom")
    rows = table(tmp_path / "participants.tsv")
    assert set(rows[0]) == {"participant_id", "age", "sex", "group", "site"}
    assert [r["site"] for r in rows] == ["site1", "site2", "site1", "site2"] * 2
    assert [int(r["age"]) for r in rows[:4]] == [p.age for p in people]
    assert "site" in json.loads((tmp_path / "participants.json").read_text())


def test_a_dataset_of_one_site_has_no_such_column(tmp_path):
    written(tmp_path)
    assert "site" not in table(tmp_path / "participants.tsv")[0]
    assert "site" not in json.loads((tmp_path / "participants.json").read_text())


def test_what_was_drawn_stands_in_the_truth(tmp_path):
    people = written(tmp_path, "--lesion", "stroke", "--sites", "2")
    rows = table(tmp_path / "derivatives/truth/participants.tsv")
    for row, person in zip(rows, people, strict=True):
        assert float(row["GM"]) == pytest.approx(person.concentrations["GM"], abs=1e-4)
        assert float(row["vial_error"]) == pytest.approx(person.vial_error, abs=1e-4)
    assert [row["penumbra"] == "n/a" for row in rows] == [True, True, False, False]


def test_sessions_have_their_ages_where_the_app_looks_for_them(tmp_path):
    people = written(tmp_path, "--sessions", "2", "--session-interval", "0.5")
    age, found = age_of(tmp_path, "01", "2")
    assert (age, found.name) == (people[0].age + 0.5, "sub-01_sessions.tsv")


def test_one_session_needs_no_table(tmp_path):
    written(tmp_path)
    assert not list(tmp_path.rglob("*_sessions.tsv"))


def test_the_true_constants_of_the_lesions_are_a_relaxation_file(tmp_path):
    written(tmp_path, *STROKES, "--field-strength", "7")
    found = load_relaxation(tmp_path / "derivatives/truth/lesion_relaxation.json")
    assert set(found) == {"core", "penumbra"}
    assert found["core"]["T2starLong"] == relaxation_in("stroke", "core", 7).t2_long


def test_the_scanned_vials_are_those_of_the_site(monkeypatch):
    taken = []
    monkeypatch.setattr(command, "build_object", lambda *a: taken.append(a) or SimpleNamespace())
    vials = phantom_cohort.site_vials(replace(cohort()[0], vial_error=1.1))
    scan = SimpleNamespace(
        vials=vials, places=np.zeros((4, 3)), protocol=None, content=None,
        head=SimpleNamespace(fractions={"GM": None}, kind="ms"),
        placement=SimpleNamespace(centre=np.zeros(3), t1w_to_sodium=np.eye(4)),
    )  # fmt: skip
    command._moved_objects(scan, [(np.zeros(3), np.zeros(3))])
    assert [v.concentration for v, _ in taken[0][4]] == pytest.approx([22, 55, 88, 132])
    assert taken[0][5] == "ms"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sites", "0"], "--sites must be positive"),
        (["--site-spread", "-0.1"], "--site-spread must not be negative"),
        (["--session-interval", "0"], "--session-interval must be positive"),
        (["--ages", "40", "30"], "--ages 40 30; accepted: ascending"),
        (["--ages", "80", "85", "--sessions", "6"], "up to 89 at the last session"),
        (["--age-change", "bone=0.1"], "unknown class bone; accepted: GM, WM, CSF"),
        (["--sex-change", "cortex=0.1"], "unknown class cortex"),
        (["--age-change", "GM"], "'GM' is not of the form"),
        (["--age-change", "cortex=-0.4"], "--age-change leaves less than 10% of a value"),
        (["--sex-change", "GM=2"], "--sex-change leaves less than"),
        (["--session-change", "GM=-0.5", "--sessions", "3"], "--session-change leaves less than"),
        (["--tissue", "penumbra=40", "--lesion", "ms"], "unknown class penumbra"),
    ],
)
def test_cohorts_that_cannot_be_are_a_usage_error(tmp_path, capsys, arguments, message):
    assert command.main([str(tmp_path / "new"), *arguments]) == 2
    assert message in capsys.readouterr().err
