"""The user's relaxation constants: both formats, what is taken over, and every refusal."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from sodiumprep.bids_app.constants import relaxation_constants, unused_rows, vial_constants
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.relaxation import load_relaxation
from sodiumprep.sodium.relaxation import relaxation_of

ROWS = {
    "GM": {"T1": 0.04, "T1Uncertainty": 0.004, "Source": "own, 2026"},
    "CSF": {"T1": 0.058, "T2starLong": 0.05, "ShortFraction": 0.0},
    "core": {"T2starShort": 0.002, "T2starShortUncertainty": 0.0, "ShortFraction": 1.0},
}
WHOLE = {
    "T1": 0.04, "T1Uncertainty": 0.002, "T2starShort": 0.003, "T2starShortUncertainty": 0.0005,
    "T2starLong": 0.02, "T2starLongUncertainty": 0.002, "ShortFraction": 0.5,
    "ShortFractionUncertainty": 0.05,
}  # fmt: skip
FLUID = {"T1": 0.06, "T1Uncertainty": 0.0, "T2starLong": 0.06, "T2starLongUncertainty": 0.004,
         "ShortFraction": 0}  # fmt: skip
VIALS = [
    {"name": "1 gel", "t1": 0.033, "t2_short": 0.0047, "t2_long": 0.0286, "short_fraction": 0.6},
    {"name": "2 gel", "t1": 0.033, "t2_short": 0.0047, "t2_long": 0.0286, "short_fraction": 0.6},
    {"name": "3 saline", "t1": 0.053, "t2_short": None, "t2_long": 0.053, "short_fraction": 0.0},
]


@pytest.fixture
def written(tmp_path):
    def write(content, name="own.json"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def as_table(rows):
    columns = list(dict.fromkeys(["Name", *(key for row in rows.values() for key in row)]))
    lines = [[name, *(str(row.get(key, "n/a")) for key in columns[1:])]
             for name, row in rows.items()]  # fmt: skip
    return "\n".join("\t".join(cells) for cells in [columns, *lines]) + "\n"


def refused(call, *arguments):
    with pytest.raises(UserError) as raised:
        call(*arguments)
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("rows", [ROWS, {"WM": WHOLE}, {"GM": WHOLE, "CSF": FLUID}])
def test_both_formats_say_the_same(written, rows):
    table, objects = written(as_table(rows), "own.tsv"), written(rows)
    assert load_relaxation(table) == load_relaxation(objects) == rows


def test_line_ends_and_byte_order_marks_of_other_systems_are_read(written):
    table = "\ufeff" + as_table(ROWS).replace("\n", "\r\n")
    assert load_relaxation(written(table.encode(), "own.tsv")) == ROWS


def test_what_a_row_leaves_out_keeps_the_built_in_value(written):
    found = relaxation_constants([], 3.0, written(ROWS))["GM"]
    built_in = relaxation_of("GM", 3.0)
    assert asdict(found) == {
        **asdict(built_in), "t1": 0.04, "u_t1": 0.004,
        "source": f"own, 2026 (given by the user); else {built_in.source}",
    }  # fmt: skip


@pytest.mark.parametrize("key", ["T1", "T2starShort", "T2starLong", "ShortFraction"])
def test_every_uncertainty_can_be_replaced_alone(written, key):
    path = written({"WM": {f"{key}Uncertainty": 0.011}})
    found = relaxation_constants([], 3.0, path)["WM"]
    field = {"T1": "t1", "T2starShort": "t2_short", "T2starLong": "t2_long"}.get(key)
    changed = {f"u_{field or 'short_fraction'}": 0.011, "source": found.source}
    assert asdict(found) == {**asdict(relaxation_of("WM", 3.0)), **changed}


def test_a_fluid_has_no_short_component_whatever_stands_there(written):
    path = written({"GM": {"ShortFraction": 0, "T2starShort": "no", "T2starLong": 0.05}})
    found = relaxation_constants([], 3.0, path)["GM"]
    assert (found.t2_short, found.short_fraction) == (0.05, 0.0)
    assert (found.u_t2_short, found.u_short_fraction) == (0.0, 0.0)


def test_lesions_and_humour_follow_the_users_tissues_until_they_have_rows(written):
    path = written({"WM": {"T1": 0.03}, "CSF": {"T1": 0.06}, "core": {"T2starLong": 0.03}})
    found = relaxation_constants(["core", "edema"], 3.0, path)
    assert found["edema"].t1 == found["core"].t1 == 0.03
    assert found["core"].t2_long == 0.03
    assert found["core"].u_t1 == 2 * found["WM"].u_t1
    assert found["vitreous"].t1 == 0.06


def test_a_field_strength_without_a_table_needs_whole_rows(written):
    rows = {"GM": WHOLE, "WM": WHOLE, "CSF": FLUID, "muscle": WHOLE}
    found = relaxation_constants(["core"], 1.5, written(rows))
    assert found["CSF"].t2_short == found["CSF"].t2_long == 0.06
    assert found["core"].u_t1 == 0.004
    for key in WHOLE:
        short = {k: v for k, v in WHOLE.items() if k != key}
        text = refused(relaxation_constants, [], 1.5, written({**rows, "WM": short}))
        assert text.startswith(f"{written({**rows, 'WM': short})}: WM: {key} is missing")
        assert "at 1.5 T" in text


def test_a_field_strength_that_is_not_stated_is_said(written):
    with pytest.raises(ValueError, match="not stated, so WM is to be given"):
        relaxation_constants([], None, written({"GM": WHOLE}))


def test_a_short_time_is_not_taken_from_a_fluid(written):
    text = refused(relaxation_constants, [], 3.0, written({"CSF": {"ShortFraction": 0.2}}))
    assert "CSF: T2starShort is missing" in text


def test_a_row_that_contradicts_what_it_leaves_out_is_refused(written):
    text = refused(relaxation_constants, [], 3.0, written({"GM": {"T2starShort": 0.03}}))
    assert "GM: T2starShort is 0.03 s; accepted: at most T2starLong (0.0263 s)" in text


def test_a_row_names_a_vial_with_or_without_its_number(written):
    rows = {"gel": {"T1": 0.03, "T1Uncertainty": 0.001}, "2 gel": {"T1": 0.031}}
    found = vial_constants(VIALS, written(rows))
    assert [found[v["name"]].t1 for v in VIALS] == [0.03, 0.031, 0.053]
    assert found["1 gel"].u_t1 == 0.001
    assert found["1 gel"].t2_long == 0.0286
    assert found["3 saline"].source == "CalibrationVials"


def test_rows_that_name_nothing_are_told(written):
    rows = {name: {"T1": 0.03} for name in ("GM", "core", "gel", "tumour")}
    assert unused_rows(written(rows), ["core", "1 gel"]) == ["tumour"]
    assert unused_rows(None, ["core"]) == []


WRONG = [
    ({"T1": 37}, "T1 is 37", "milliseconds"),
    ({"T2starLong": 26.3}, "T2starLong is 26.3", "milliseconds"),
    ({"T1": -0.037}, "T1 is -0.037", "1e-05 to 0.2 s"),
    ({"T1": 0}, "T1 is 0", "1e-05 to 0.2 s"),
    ({"T1": float("nan")}, "T1 is NaN", "1e-05 to 0.2 s"),
    ({"T1": float("inf")}, "T1 is Infinity", "1e-05 to 0.2 s"),
    ({"T1": "0,037"}, 'T1 is "0,037"', "1e-05 to 0.2 s"),
    ({"T1": "0_1"}, 'T1 is "0_1"', "1e-05 to 0.2 s"),
    ({"T1Uncertainty": 2}, "T1Uncertainty is 2", "milliseconds"),
    ({"T1Uncertainty": -0.002}, "T1Uncertainty is -0.002", "0 to 0.2 s"),
    ({"ShortFraction": 60}, "ShortFraction is 60", "0 to 1"),
    ({"ShortFraction": -0.1}, "ShortFraction is -0.1", "0 to 1"),
    ({"ShortFractionUncertainty": 1.5}, "ShortFractionUncertainty is 1.5", "0 to 1"),
    ({"T2": 0.03}, "T2 is not known", "T2starLong"),
    ({"T2starlong": 0.03}, "T2starlong is not known", "accepted: T2starLong"),
]


@pytest.mark.parametrize("ending", ["json", "tsv"])
@pytest.mark.parametrize(("row", "said", "hint"), WRONG)
def test_a_wrong_value_is_refused_with_file_row_and_key(written, ending, row, said, hint):
    rows = {"GM": {"T2starShort": 0.003}, "WM": row}
    path = written(as_table(rows) if ending == "tsv" else rows, f"own.{ending}")
    text = refused(load_relaxation, path)
    place = "line 1" if ending == "tsv" and "not known" in said else "WM"
    said = said.replace(" is 37;", " is 37.0;")
    assert text.startswith(f"{path}: {place}: {said}")
    assert hint in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"GM": {"T1": 0.03}, "GM": {"T1": 0.04}}', "GM: stands there twice"),
        ('{"GM": {"T1": 0.03, "T1": 0.04}}', "GM: T1 stands there twice"),
        ('{"gm": {"T1": 0.03}}', "gm: is not known; accepted: GM"),
        ('{"": {"T1": 0.03}}', 'a name is ""'),
        ('{"a\\nb": {"T1": 0.03}}', 'a name is "a\\nb"'),
        ('{"GM": {}}', "GM: states no constant"),
        ('{"GM": {"Source": "x"}}', "GM: states no constant"),
        ('{"GM": {"T1": 0.03, "Source": 3}}', "GM: Source is no text"),
        ('{"GM": {"T1": true}}', "GM: T1 is true"),
        ('{"GM": {"T1": 0.03, "ShortFraction": false}}', "GM: ShortFraction is false"),
        ('{"GM": 3}', "GM: is no object"),
        ("[]", "holds no object"),
        ("{}", "names no tissue"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("", "is empty"),
        (" \n\n", "is empty"),
    ],
)
def test_a_broken_object_is_refused(written, content, said):
    path = written(content)
    assert refused(load_relaxation, path).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Name\tT1\nGM\t0.03\nGM\t0.04\n", "GM: stands there twice"),
        ("Name\tT1\tT1\nGM\t0.03\t0.03\n", "line 1: column T1 stands there twice"),
        ("Name,T1\nGM,0.03\n", "line 1: column Name is missing (columns are separated by tabs)"),
        ("T1\tT2starLong\n0.03\t0.02\n", "line 1: column Name is missing;"),
        ("Name\tT1\nGM\t0.03\t0.02\n", "line 2: 3 columns; accepted: 2"),
        ("Name\tT1\n\t0.03\n", "line 2: Name is empty"),
        ("Name\tT1\nGM\tn/a\n", "GM: states no constant"),
        ("Name\tT1\nGM\tNaN\n", "GM: T1 is NaN"),
        ("Name\tT1\ncsf\t0.06\n", "csf: is not known; accepted: CSF"),
        ("Name\tT1\n", "names no tissue"),
        ("", "is empty"),
    ],
)
def test_a_broken_table_is_refused(written, content, said):
    path = written(content, "own.tsv")
    assert refused(load_relaxation, path).startswith(f"{path}: {said.removesuffix(';')}")


@pytest.mark.parametrize("ending", ["json", "tsv"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"GM": {}}'.encode("utf-16"), "byte 0 is no text"),
        (b'{"GM": {"Source": "M\xfcller"}}', "byte 20 is no text"),
        (b"\x1f\x8b\x08\x00", "byte 1 is no text"),
        (b"Name\tT1\0\n", "holds zero bytes"),
    ],
)
def test_bytes_that_are_no_text_are_refused(written, ending, content, said):
    path = written(content, f"own.{ending}")
    assert refused(load_relaxation, path).startswith(f"{path}: {said}")


def test_a_file_of_another_kind_or_none_is_refused(written, tmp_path):
    assert "is neither .json nor .tsv" in refused(load_relaxation, written("{}", "own.csv"))
    assert "gone.tsv: cannot be read" in refused(load_relaxation, tmp_path / "gone.tsv")


def test_the_examples_of_the_docs_are_read_and_say_the_same(written):
    page = (Path(__file__).parents[2] / "docs" / "usage.md").read_text()
    blocks = page.split("## Relaxation constants")[1].split("```")
    rows = load_relaxation(written(blocks[1]))
    assert load_relaxation(written(blocks[3].strip("\n"), "own.tsv")) == rows
    assert set(rows) == {"GM", "core", "gel"}
