"""The age of a subject from the tables of the dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sodiumprep.bids_app.ages import read_age


def write(folder: Path, age: str, units: str | None = None) -> Path:
    (folder / "participants.tsv").write_text(f"participant_id\tage\nsub-01\t{age}\n02\t7\n")
    if units:
        (folder / "participants.json").write_text(json.dumps({"age": {"Units": units}}))
    return folder


@pytest.mark.parametrize(
    ("age", "units", "years"),
    [("31.5", None, 31.5), ("6", "months", 0.5), ("n/a", None, None), ("89+", None, None),
     ("-3", None, None), ("700", None, None), ("3", "moons", None)],
)  # fmt: skip
def test_the_age_is_read_in_years(tmp_path: Path, age: str, units: str, years: float) -> None:
    assert read_age(write(tmp_path, age, units), "01", None) == years


def test_the_age_of_the_session_comes_first(tmp_path: Path) -> None:
    folder = write(tmp_path, "31") / "sub-01"
    folder.mkdir()
    (folder / "sub-01_sessions.tsv").write_text("session_id\tage\nses-2\t33\nses-3\tn/a\n")
    assert [read_age(tmp_path, "01", session) for session in (None, "2", "3")] == [31, 33, 31]


def test_a_label_without_its_key_is_known(tmp_path: Path) -> None:
    assert read_age(write(tmp_path, "31"), "02", None) == 7


def test_without_tables_the_age_is_unknown(tmp_path: Path) -> None:
    assert read_age(tmp_path, "01", None) is None
