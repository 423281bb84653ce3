"""Caches and temporary files find a place that can be written, whoever runs this."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sodiumprep.bids_app import caches
from sodiumprep.bids_app.caches import FOLDERS, cache_environment, home_of, temporary_environment
from sodiumprep.bids_app.metadata import UserError

NOBODY = "raise KeyError, as for a user that no table knows"


@pytest.fixture
def unknown(monkeypatch):
    """Be a user without a home."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError(NOBODY)))


@pytest.fixture
def full(monkeypatch):
    """Be on a machine without a folder for temporary files."""

    def refuse():
        raise FileNotFoundError

    monkeypatch.setattr(caches.tempfile, "gettempdir", refuse)
    monkeypatch.setattr(caches.tempfile, "tempdir", None)


def test_a_home_that_can_be_written_is_used(tmp_path):
    assert cache_environment({"HOME": str(tmp_path)}, tmp_path) == {}


def test_without_a_home_all_caches_and_the_home_lie_in_one_private_folder(unknown, tmp_path):
    variables = cache_environment({}, tmp_path)
    folder = Path(variables["HOME"])
    assert {*variables} == {*FOLDERS, "HOME"}
    assert {Path(variables[name]).parent for name in FOLDERS} == {folder}
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()


@pytest.mark.parametrize("home", ["/", "/not/there"])
def test_a_home_that_cannot_be_written_stays_the_home(home, tmp_path):
    variables = cache_environment({"HOME": home}, tmp_path)
    assert {*variables} == {*FOLDERS}
    Path(variables["MPLCONFIGDIR"]).parent.rmdir()


def test_what_is_set_stays(tmp_path):
    variables = cache_environment({"HOME": "/", "MPLCONFIGDIR": "/mine"}, tmp_path)
    assert {*variables} == {*FOLDERS} - {"MPLCONFIGDIR"}
    Path(variables["NUMBA_CACHE_DIR"]).parent.rmdir()
    assert cache_environment({"HOME": "/", **dict.fromkeys(FOLDERS, "/mine")}, tmp_path) == {}


def test_without_a_temporary_folder_the_spare_one_serves(full, tmp_path):
    assert temporary_environment(tmp_path / "work") == {"TMPDIR": str(tmp_path / "work" / "tmp")}
    assert (tmp_path / "work" / "tmp").is_dir()
    assert caches.tempfile.tempdir == str(tmp_path / "work" / "tmp")


def test_without_any_place_to_write_it_says_so(full, tmp_path):
    (tmp_path / "work").write_text("a file")
    with pytest.raises(UserError, match=r"no folder for temporary files .* TMPDIR or -w"):
        temporary_environment(tmp_path / "work")


def test_the_home_is_that_of_the_variable_or_of_the_table(unknown, monkeypatch):
    assert home_of({"HOME": "/there"}) == Path("/there")
    assert home_of({}) is None
    monkeypatch.setattr(Path, "home", lambda: Path("/of/table"))
    assert home_of({}) == Path("/of/table")


def test_the_folder_of_caches_is_gone_when_the_process_ends():
    code = (
        "import os; from pathlib import Path; from sodiumprep.bids_app.caches import *;"
        "found = cache_environment({'HOME': '/'}, Path('/'));"
        "folder = Path(found['MPLCONFIGDIR']);"
        "folder.mkdir(); child = os.fork(); child or exit(); os.wait();"
        "print(folder.parent, folder.is_dir())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    folder, was_there = done.stdout.split()
    assert was_there == "True"
    assert Path(folder).parent == Path(tempfile.gettempdir())
    assert not Path(folder).exists()
