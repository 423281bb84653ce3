"""What one region tells rests on the first value of each participant."""

import numpy as np
import pandas as pd
import pytest

from sodiumprep.bids_app.group.model import Model
from sodiumprep.bids_app.group.regional import Asked, change, norms, planning, survival
from sodiumprep.bids_app.group.values import Series

REFERENCE = {"Model": {"Reference": {"group": "controls"}}}


def scans(people=24, sessions=("pre", "post"), shift=0.0):
    """Return values that vary by 3 mmol/L from scan to scan; of odd numbers later by a shift."""
    rng = np.random.default_rng(7)
    rows = [
        {"participant_id": f"sub-{k:03d}", "session": session, "run": "n/a",
         "value": 40 + rng.normal(0, 3) + shift * (session == "post"), "u": 1.0,
         "age": 20.0 + k % 50, "group": ("controls", "patients")[k % 2],
         "months": float(1 + k), "died": float(k % 3 > 0)}
        for session in reversed(sessions) for k in range(people)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def asked(**sections):
    plan = {"Difference": 0.1, "Power": 0.8, "Alpha": 0.05}
    return Asked(Model({**REFERENCE, "Planning": plan, **sections}), ("age",))


def told(function, table, **sections):
    return function(Series("tissue", "GM", "none", table), asked(**sections))


def test_sample_sizes_rest_on_single_values_of_the_reference_group_without_ages_too():
    table = scans()
    first = table[(table["session"] == "pre") & (table["group"] == "controls")]
    row = told(planning, table)["planning"][0]
    assert row["n_subjects"] == 12
    assert row["sd"] == pytest.approx(first["value"].std())


def test_survival_is_asked_of_the_session_before_treatment():
    outcome = {"Duration": "months", "Event": "died"}
    table = scans()
    before = table[table["session"] == "pre"]
    row = told(survival, table, Outcome=outcome)["survival"][0]
    assert row["cut"] == pytest.approx(before["value"].median())


def test_every_session_of_the_reference_stands_by_chance_alone_off_its_curve():
    table = scans(people=300)
    rows = told(norms, table, Normative={"By": "age", "Reference": {}})["norms"]
    z = rows["z"].to_numpy()
    assert len(z) == 600
    assert z.std() == pytest.approx(1.0, abs=0.07)  # 1.4 about a curve of means


def test_another_column_than_age_can_carry_the_curve():
    table = scans(people=120, sessions=("n/a",)).assign(weight=np.arange(120.0))
    curve = told(norms, table, Normative={"By": "weight", "Reference": {}})["norm_curves"]
    assert max(row["age"] for row in curve) == 119


def test_runs_of_a_session_do_not_tell_what_the_body_varies_and_it_is_said():
    table = pd.concat([scans().assign(run=run, u_shared=0.0) for run in ("1", "2")])
    table["value"] += np.random.default_rng(3).normal(size=len(table))
    wanted = {"Change": {"From": "pre", "To": "post", "Better": "lower"}}
    row = told(change, table, Repeatability={"Over": "run"}, **wanted)["responders"][0]
    assert row["error_from"] == "repeatability, runs of a session: the body varies besides"
