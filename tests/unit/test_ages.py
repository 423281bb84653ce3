"""The age of a subject: session before participant, years unless stated otherwise."""

import json

import pytest

from sodiumprep.bids_app.ages import age_of, read_age
from sodiumprep.bids_app.metadata import UserError


@pytest.fixture
def raw(tmp_path):
    def written(participants=None, sessions=None, units=None):
        if participants is not None:
            (tmp_path / "participants.tsv").write_text(participants)
        if units is not None:
            (tmp_path / "participants.json").write_text(json.dumps({"age": {"Units": units}}))
        if sessions is not None:
            (tmp_path / "sub-01").mkdir()
            (tmp_path / "sub-01/sub-01_sessions.tsv").write_text(sessions)
        return tmp_path

    return written


PARTICIPANTS = "participant_id\tage\nsub-02\t70\nsub-01\t9.5\n"


def test_the_age_stands_in_the_table_of_participants(raw):
    age, table = age_of(raw(PARTICIPANTS), "01", None)
    assert (age, table.name) == (9.5, "participants.tsv")


def test_the_age_of_a_session_goes_before(raw):
    folder = raw(PARTICIPANTS, "session_id\tage\nses-1\t9.1\nses-2\t10.2\n")
    assert age_of(folder, "01", "2")[0] == 10.2
    assert age_of(folder, "01", "1")[1].name == "sub-01_sessions.tsv"


@pytest.mark.parametrize("sessions", ["session_id\nses-1\n", "session_id\tage\nses-2\t8\n"])
def test_a_session_without_an_age_takes_that_of_the_participant(raw, sessions):
    assert age_of(raw(PARTICIPANTS, sessions), "01", "1")[0] == 9.5


@pytest.mark.parametrize(
    ("units", "years"), [("years", 9.5), ("month", 9.5 / 12), ("Days", 9.5 / 365.25)]
)
def test_the_unit_of_the_dictionary_counts(raw, units, years):
    assert age_of(raw(PARTICIPANTS, units=units), "01", None)[0] == pytest.approx(years)


def test_an_unknown_unit_is_refused(raw):
    with pytest.raises(UserError, match="participants.json: age: Units is 'mm'; accepted: years"):
        age_of(raw(PARTICIPANTS, units="mm"), "01", None)


@pytest.mark.parametrize("text", ["89+", "n/a", "", "-3", "nan", "9,5"])
def test_an_age_that_is_no_number_is_refused_by_file_and_subject(raw, text):
    folder = raw(f"participant_id\tage\nsub-01\t{text}\n")
    with pytest.raises(UserError, match="participants.tsv: age of sub-01 is '.*'; accepted: a nu"):
        age_of(folder, "01", None)


def test_an_unusable_age_of_the_session_is_not_replaced_by_another_one(raw):
    folder = raw(PARTICIPANTS, "session_id\tage\nses-1\tn/a\n")
    with pytest.raises(UserError, match="sub-01_sessions.tsv: age of sub-01 is 'n/a'"):
        age_of(folder, "01", "1")


@pytest.mark.parametrize("text", [None, "participant_id\tsex\nsub-01\tF\n", PARTICIPANTS[:-9]])
def test_a_missing_age_is_refused_with_the_tables_that_were_read(raw, text):
    with pytest.raises(UserError, match=r"participants.tsv: no column age with a row for sub-01"):
        age_of(raw(text), "01", None)


def test_a_table_that_is_no_text_is_refused_by_name(tmp_path):
    (tmp_path / "participants.tsv").write_bytes(
        "participant_id\tage\nsub-Jürgen".encode("latin-1")
    )
    with pytest.raises(UserError, match=r"participants.tsv: byte 24 is no text"):
        age_of(tmp_path, "01", None)


@pytest.mark.parametrize(
    ("age", "units", "years"),
    [("31.5", None, 31.5), ("6", "months", 0.5), ("n/a", None, None), ("89+", None, None),
     ("-3", None, None), ("700", None, None), ("3", "moons", None)],
)  # fmt: skip
def test_an_age_that_nothing_depends_on_may_be_unknown(raw, age, units, years):
    assert read_age(raw(f"participant_id\tage\nsub-01\t{age}\n", units=units), "01", None) == years


def test_without_tables_the_age_is_unknown(tmp_path):
    assert read_age(tmp_path, "01", None) is None
