"""Hostile inputs are refused in one line or give a sound result: quickly, and without a trace."""

import sys
from pathlib import Path

import pytest

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
    bad = [came for came in outcomes if came.kind not in ("refused", "sound") or came.strays]
    assert bad == []
    assert any(came.kind == "refused" for came in outcomes)
