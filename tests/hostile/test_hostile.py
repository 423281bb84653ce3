"""Hostile inputs are refused in one line or give a sound result: quickly, and without a trace."""

import os
import stat
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from sodiumprep.bids_app.cli import main
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.placing import refuse_links
from sodiumprep.interfaces.kspace import read_kspace, write_kspace

sys.path.insert(0, str(Path(__file__).parent))

import corpus
import fuzz
import run

CASES = corpus.corpus()
READERS = sorted({case.reader for case in CASES} - {"dry run"})
DATASETS = [case for case in CASES if case.reader == "dry run"][::8]


def test_there_are_200_and_each_has_a_name():
    names = [case.name for case in CASES]
    assert len(names) >= 200
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("reader", READERS)
def test_every_hostile_file_is_refused_or_read_soundly(reader, tmp_path):
    outcomes, problems = run.run([case for case in CASES if case.reader == reader], tmp_path)
    assert problems == []
    assert any(came.kind == "refused" for came in outcomes)


def test_a_sample_of_hostile_datasets_ends_in_lines_not_in_a_traceback(tmp_path):
    assert run.run(DATASETS, tmp_path)[1] == []


@pytest.mark.parametrize("name", fuzz.seeds())
def test_a_sound_file_with_changed_bytes_is_refused_or_read(name, tmp_path):
    sound = fuzz.try_seed(name, tmp_path / "sound")
    assert sound.kind == "sound", sound
    outcomes = [fuzz.fuzz(name, number, tmp_path / str(number)) for number in range(40)]
    bad = [came for came in outcomes if fuzz.is_bad(came)]
    assert bad == []
    assert any(came.kind == "refused" for came in outcomes)


@pytest.mark.parametrize("number", [15, 114, 157, 255, 486])
def test_a_length_that_is_not_there_is_refused_before_memory_is_taken(tmp_path, number):
    came = fuzz.fuzz("raw data", number, tmp_path / "a")  # each took 5 to 8 GB and 5 to 16 s
    assert came.kind == "refused"
    assert came.seconds < run.QUICK
    assert came.megabytes < run.MOST_MEMORY
    assert "its readouts state" in came.text


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("check", [False, True])
def test_packed_raw_data_are_read_as_before(tmp_path, shuffle, check):
    path = tmp_path / "a.h5"
    write_kspace(path, corpus.acquisition())
    expected = read_kspace(path)
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        del file["dataset/data"]
        how = {"compression": "gzip", "shuffle": shuffle, "fletcher32": check, "chunks": (5,)}
        file.create_dataset("dataset/data", data=table, **how)
    np.testing.assert_array_equal(read_kspace(path).samples, expected.samples)


@pytest.mark.parametrize(
    "name",
    ["sub-01", "sub-01/anat", "sub-01/anat/a.nii.gz", "sub-01.html", "logs", "participants.tsv"],
)
def test_output_is_not_written_through_a_link(tmp_path, name):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match=f"out/{name}: is a link"):
        refuse_links(out, ["01"])


def test_links_of_other_subjects_and_a_linked_output_folder_are_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    (tmp_path / "out/sub-02").symlink_to("nowhere")
    (tmp_path / "out/mine").symlink_to("nowhere")
    refuse_links(tmp_path / "out", ["01"])


def test_a_run_refuses_a_linked_subject_and_writes_nothing_there(tmp_path, capsys):
    raw, out, elsewhere = (tmp_path / name for name in ("raw", "out", "elsewhere"))
    corpus.dataset(raw)
    for folder in (out, elsewhere):
        folder.mkdir()
    (out / "sub-01").symlink_to(elsewhere)
    places = [str(raw), str(out), "participant", "-w", str(tmp_path / "work")]
    assert main([*places, "--skip-bids-validation"]) == 2
    assert "is a link" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_what_is_written_is_never_writable_by_everybody(tmp_path):
    before = os.umask(0)
    try:
        main([str(tmp_path), str(tmp_path / "out"), "participant"])
        (tmp_path / "a").touch()
        assert (tmp_path / "a").stat().st_mode & stat.S_IWOTH == 0
    finally:
        os.umask(before)
