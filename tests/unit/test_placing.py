"""What killed runs left is removed where this run writes, and nowhere else."""

from pathlib import Path

import pytest

from sodiumprep.bids_app.placing import remove_left_overs
from sodiumprep.interfaces.files import partial_path


def leave(path: Path, monkeypatch) -> Path:
    """Write what a process that is dead by now has left of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr("os.getpid", lambda: 2**22 + 1)  # beyond all numbers of processes
    left = partial_path(path)
    monkeypatch.undo()
    left.write_text("half")
    return left


@pytest.mark.parametrize(
    ("subjects", "stays"), [([], []), (["01"], ["sub-02/anat"]), (["01", "02"], [])]
)
def test_left_overs_go_but_those_of_other_subjects(tmp_path, monkeypatch, subjects, stays):
    places = ("", "logs/run-x", "sub-01/anat", "sub-02/anat", "group")
    left = {place: leave(tmp_path / place / "a.tsv", monkeypatch) for place in places}
    (tmp_path / "sub-02.html").write_text("whole")
    removed = remove_left_overs(tmp_path, subjects)
    assert sorted(removed) == sorted(left[place] for place in places if place not in stays)
    assert [place for place, path in left.items() if path.exists()] == stays


def test_where_nothing_was_written_yet_nothing_is_left(tmp_path):
    assert remove_left_overs(tmp_path / "out") == []
