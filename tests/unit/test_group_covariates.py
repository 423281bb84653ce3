"""What tables of people tell reaches every value, and odd cells are said, not guessed."""

import polars as pl
import pytest

from sodiumprep.bids_app.group.covariates import gather_covariates
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.people import copy_people

MEASURED = pl.DataFrame(
    {"participant_id": ["sub-01", "sub-01", "sub-02"], "session": ["a", "b", "n/a"]}
)


def write(folder, **tables):
    for name, text in tables.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".tsv").write_text(text)


def rows(covariates, *columns):
    return covariates.table.select("participant_id", "session", *columns).rows()


def test_without_any_table_there_are_no_covariates(tmp_path):
    found = gather_covariates(tmp_path, MEASURED)
    assert found.table.columns == ["participant_id", "session"]
    assert (found.numbers, found.notes) == ((), ())


def test_numbers_and_categories_are_told_apart(tmp_path):
    write(
        tmp_path, participants="participant_id\tage\tsex\tdose\n01\t34\t1\t2.5\nsub-02\tn/a\t2\t\n"
    )
    found = gather_covariates(tmp_path, MEASURED)
    assert found.numbers == ("age", "dose")
    assert rows(found, "age", "sex", "dose") == [
        ("sub-01", "a", 34.0, "1", 2.5),
        ("sub-01", "b", 34.0, "1", 2.5),
        ("sub-02", "n/a", None, "2", None),
    ]


def test_levels_of_the_dictionary_make_a_category(tmp_path):
    write(tmp_path, participants="participant_id\tarm\n01\t1\n02\t2\n")
    (tmp_path / "participants.json").write_text('{"arm": {"Levels": {"1": "a", "2": "b"}}}')
    found = gather_covariates(tmp_path, MEASURED)
    assert (found.numbers, found.categories) == ((), ("arm",))


@pytest.mark.parametrize("cell", ["89+", ">89", "89 +", ">= 89"])
def test_an_age_without_upper_bound_counts_as_its_bound_and_is_said(tmp_path, cell):
    write(tmp_path, participants=f"participant_id\tage\n01\t34\n02\t{cell}\n")
    found = gather_covariates(tmp_path, MEASURED)
    assert found.table["age"].to_list() == [34.0, 34.0, 89.0]
    assert found.notes == (f"age {cell!r} is taken as 89",)


@pytest.mark.parametrize(("unit", "age"), [("months", 34.5), ("years", 414.0), ("stone", 414.0)])
def test_ages_count_in_years_whatever_their_unit_and_it_is_said(tmp_path, unit, age):
    write(tmp_path, participants="participant_id\tage\n01\t414\n02\t414\n")
    (tmp_path / "participants.json").write_text(f'{{"age": {{"Units": "{unit}"}}}}')
    found = gather_covariates(tmp_path, MEASURED)
    assert found.table["age"].to_list() == [age] * 3
    assert any(unit in note for note in found.notes) == (unit != "years")


def test_a_column_that_is_called_like_one_of_the_values_does_not_take_its_place(tmp_path):
    write(tmp_path, participants="participant_id\tvalue\tname\n01\t7\tAnna\n02\t8\tBo\n")
    found = gather_covariates(tmp_path, MEASURED)
    assert found.table.columns[2:] == ["participants_value", "participants_name"]


def test_an_age_in_words_is_not_known_and_said(tmp_path):
    write(tmp_path, participants="participant_id\tage\n01\t34\n02\told\n")
    found = gather_covariates(tmp_path, MEASURED)
    assert found.table["age"].to_list() == [34.0, 34.0, None]
    assert found.notes == ("age 'old' is no number and counts as not known",)


def test_a_column_of_words_stays_one_though_some_are_numbers(tmp_path):
    write(tmp_path, participants="participant_id\tnote\n01\t3\n02\tlate\n")
    assert gather_covariates(tmp_path, MEASURED).categories == ("note",)


def test_a_session_goes_before_the_participant(tmp_path):
    write(
        tmp_path,
        participants="participant_id\tage\n01\t30\n02\t50\n",
        **{"sub-01__sub-01_sessions": "session_id\tage\tscanner\nses-a\t31\tX\nses-b\tn/a\tY\n"},
    )
    found = gather_covariates(tmp_path, MEASURED)
    assert rows(found, "age", "scanner") == [
        ("sub-01", "a", 31.0, "X"),
        ("sub-01", "b", 30.0, "Y"),
        ("sub-02", "n/a", 50.0, None),
    ]


def test_phenotypes_are_joined_by_participant_and_by_session(tmp_path):
    write(
        tmp_path,
        phenotype__survival="participant_id\tos_months\tdied\nsub-01\t3.5\t1\n",
        phenotype__edss="participant_id\tsession_id\tedss\n01\tses-b\t2\n",
    )
    found = gather_covariates(tmp_path, MEASURED)
    assert rows(found, "os_months", "edss") == [
        ("sub-01", "a", 3.5, None),
        ("sub-01", "b", 3.5, 2.0),
        ("sub-02", "n/a", None, None),
    ]


def test_a_phenotype_never_hides_a_column_of_the_participants(tmp_path):
    write(
        tmp_path,
        participants="participant_id\tscore\n01\t1\n02\t2\n",
        phenotype__test="participant_id\tscore\n01\t7\n02\t8\n",
    )
    found = gather_covariates(tmp_path, MEASURED)
    assert found.table["score"].to_list() == [1.0, 1.0, 2.0]
    assert found.table["test_score"].to_list() == [7.0, 7.0, 8.0]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("phenotype__a", "id\n01\n", "a.tsv: column participant_id is missing"),
        ("phenotype__a", "participant_id\tx\n01\t1\nsub-01\t2\n", "sub-01 stands there twice"),
        ("sub-01__sub-01_sessions", "ses\na\n", "session_id is missing"),
        ("sub-01__sub-01_sessions", "session_id\na\nses-a\n", "a session stands there twice"),
    ],
)
def test_an_unusable_table_of_people_is_named(tmp_path, name, text, said):
    write(tmp_path, **{name: text})
    with pytest.raises(UserError, match=said):
        gather_covariates(tmp_path, MEASURED)


def test_tables_of_people_go_along_to_the_output(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    out.mkdir()
    sessions = {f"sub-{k}__sub-{k}_sessions": "session_id\tage\nses-a\t3\n" for k in ("01", "02")}
    write(
        raw, participants="participant_id\n01\n", phenotype__os="participant_id\n01\n", **sessions
    )
    (raw / "phenotype" / "os.json").write_text("{}")
    copy_people(raw, out, ["01"])
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {"participants.tsv", "participants.json", "phenotype/os.tsv",
                     "phenotype/os.json", "sub-01/sub-01_sessions.tsv"}  # fmt: skip
