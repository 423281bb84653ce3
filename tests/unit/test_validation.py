"""The official validator sees what is asked for, and stops nothing that need not stop."""

import json
from types import SimpleNamespace

import pytest

from sodiumprep.bids_app import validation
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.validation import show_only, validate_dataset

DESCRIPTION = {"Name": "a", "BIDSVersion": "1.10.0", "DatasetType": "raw"}


@pytest.fixture
def raw(tmp_path):
    """Make a dataset of two subjects, of which the second has a file of a wrong name."""
    folder = tmp_path / "raw"
    for label, name in (("01", "sub-01_T1w.nii.gz"), ("02", "sub-02_nonsense.txt")):
        (folder / f"sub-{label}" / "anat").mkdir(parents=True)
        (folder / f"sub-{label}" / "anat" / name).touch()
    (folder / "dataset_description.json").write_text(json.dumps(DESCRIPTION))
    (folder / "README").write_text("Two subjects.")
    return folder


def test_a_dataset_with_errors_is_refused_with_the_way_round(raw):
    (raw / "nonsense.txt").write_text("a")
    with pytest.raises(UserError, match=r"nonsense\.txt .*--skip-bids-validation"):
        validate_dataset(raw)


def test_an_error_within_a_subject_is_left_to_the_checks_of_that_subject(raw, capsys):
    validate_dataset(raw)
    assert "BIDS error in /sub-02/anat/sub-02_nonsense.txt" in capsys.readouterr().out


def test_a_missing_validator_is_said_and_passed_over(raw, capsys, monkeypatch):
    monkeypatch.setattr(validation, "VALIDATOR", "no-such-validator")
    validate_dataset(raw)
    assert "not validated" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["killed", "{}", "[]"])
def test_an_answer_that_is_none_is_said_and_passed_over(raw, capsys, monkeypatch, answer):
    told = SimpleNamespace(stdout=answer)
    monkeypatch.setattr(validation.subprocess, "run", lambda *_, **__: told)
    validate_dataset(raw)
    assert "not validated" in capsys.readouterr().err


def test_only_the_subjects_that_are_asked_for_are_looked_at(raw, capsys):
    validate_dataset(raw, ["01"])
    assert "sub-02" not in capsys.readouterr().out
    validate_dataset(raw, ["02", "01"])
    assert "BIDS error in /sub-02/anat/sub-02_nonsense.txt" in capsys.readouterr().out


def test_errors_of_the_whole_dataset_count_whatever_is_asked_for(raw):
    (raw / "nonsense.txt").write_text("a")
    with pytest.raises(UserError, match=r"nonsense\.txt"):
        validate_dataset(raw, ["01"])


def test_a_view_holds_the_asked_subjects_and_what_belongs_to_all(raw, tmp_path):
    view = tmp_path / "view"
    view.mkdir()
    for name in ("derivatives", "sourcedata", "stimuli"):
        (raw / name).mkdir()
    show_only(raw, ["01", "03"], view)
    assert {path.name for path in view.iterdir()} == {
        "dataset_description.json", "README", "stimuli", "sub-01"}  # fmt: skip
