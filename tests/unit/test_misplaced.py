"""A pose that must not be trusted makes the subject fail, and says why."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sodiumprep.bids_app.anatomies import Anatomy
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.metadata import Protocol, UserError
from sodiumprep.bids_app.plan.sodium import plan_run
from sodiumprep.bids_app.run import _end, _misplaced
from sodiumprep.bids_app.runs import SodiumRun
from sodiumprep.bids_app.sessions import Reference
from sodiumprep.bids_app.settings import Settings

PROTOCOL = Protocol(echo_time=3e-4, repetition_time=0.12, flip_angle=1.57, field_strength=3.0)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a quality file and returns the failures that follow."""
    settings = Settings(tmp_path / "raw", tmp_path / "out", tmp_path / "work")
    run = SodiumRun(
        "01", None, None, {"sub": "01", "acq": "23Na"},
        Path("/raw/sub-01/anat/sub-01_acq-23Na_PDw.nii.gz"), False, None, PROTOCOL,
    )  # fmt: skip
    job = SubjectJob(
        "01", None, Anatomy(Path("/raw/sub-01/anat/sub-01_T1w.nii.gz"), "T1w"), (run,)
    )

    def failures(held, crashed=(), job=job):
        path = Path(plan_run(job, run, settings).outputs["qc"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(held))
        return _misplaced({"sub_01_wf": job}, set(crashed), settings)

    failures.job = job
    return failures


BAD = {"RegistrationFailed": True, "RegistrationScore": 0.21, "RegistrationError95": 8.4}


def test_a_failed_registration_fails_the_subject(written, capsys):
    failures = written(BAD)
    assert _end(failures) == 1
    said = capsys.readouterr().err
    assert "sub-01 failed: " in said
    assert "qc_metrics.json: RegistrationFailed: score 0.21, error up to 8.4 mm" in said


def test_a_good_registration_does_not(written):
    assert written({**BAD, "RegistrationFailed": False}) == []
    assert _end(written({})) == 0


def test_a_subject_whose_input_has_gone_meanwhile_fails_alone(written, monkeypatch):
    def refuse(job, settings):
        raise UserError("/raw/a.h5: cannot be read")

    monkeypatch.setattr("sodiumprep.bids_app.run._plan_runs", refuse)
    assert written({}) == [("01", "/raw/a.h5: cannot be read")]


def test_a_subject_that_crashed_is_told_once(written):
    assert written(BAD, crashed=["sub_01_wf"]) == []


def test_a_session_that_could_not_be_planned_keeps_no_other_from_being_checked(written):
    job = written.job
    unknown = replace(job.runs[0], session="2", protocol=replace(PROTOCOL, field_strength=None))
    shared = replace(job, runs=(job.runs[0], unknown), reference=Reference("first-lex", ()))
    assert len(written(BAD, job=shared)) == 1
