"""Time to an event: known hazards, an independent implementation, and what is refused."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from sodiumprep.sodium.cohort.survival import cox, kaplan_meier


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def draw(rng, n=150, per_10=2.0):
    value = rng.normal(45, 6, size=n)
    event_at = rng.exponential(24 * np.exp(-np.log(per_10) * (value - 45) / 10))
    leaves_at = rng.exponential(60, size=n)
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{k:03d}" for k in range(n)],
            "value": value,
            "duration": np.minimum(event_at, leaves_at).round(1),
            "event": event_at <= leaves_at,
            "age": rng.normal(50, 10, size=n),
            "sex": rng.choice(["F", "M"], size=n),
        }
    )


def test_the_known_hazard_is_found(rng):
    found = cox(draw(rng, n=1500), ("age", "sex"))
    assert found.per_10.holds(2.0)
    assert found.per_10.value == pytest.approx(2.0, abs=0.3)
    assert found.p < 1e-6
    assert found.proportional_p > 0.001
    assert 0.55 < found.concordance < 0.75
    assert found.notes == ()


def test_the_two_units_tell_the_same_hazard(rng):
    table = draw(rng)
    found = cox(table)
    assert np.log(found.per_10.value) / 10 == pytest.approx(
        np.log(found.per_sd.value) / table["value"].std()
    )


def test_the_unit_of_time_does_not_matter(rng):
    table = draw(rng)
    one, other = cox(table), cox(table.assign(duration=table["duration"] * 30.4))
    assert other.per_10.value == pytest.approx(one.per_10.value, rel=1e-5)


def test_a_hazard_that_turns_over_is_not_proportional(rng):
    table = draw(rng, n=600, per_10=1.0)
    early, half = table["value"] > 45, table["duration"].median()
    sooner = np.where(early, table["duration"] * 0.3, table["duration"] + 0.5 * half)
    assert cox(table.assign(duration=sooner)).proportional_p < 0.01


def test_curves_start_at_one_and_part_where_the_hazard_does(rng):
    found = kaplan_meier(draw(rng, n=400, per_10=4.0))
    starts = found.curves.groupby("half")["survival"].first()
    assert (starts == 1).all()
    assert found.median["below"] > found.median["above"]
    assert found.p < 1e-4


def test_a_given_cut_divides_the_subjects(rng):
    table = draw(rng)
    found = kaplan_meier(table, cut=50.0)
    first = found.curves.groupby("half")["at_risk"].first()
    assert first["above"] == (table["value"] > 50).sum()


def test_few_events_are_told(rng):
    table = draw(rng, n=14)
    assert "few events" in cox(table, ("age", "sex")).notes[0]
    assert (
        "for 1 explaining column,"
        in kaplan_meier(table.assign(event=[1, 1, 1] + 11 * [0])).notes[0]
    )


def test_a_value_that_orders_the_events_perfectly_is_held_by_a_ridge():
    table = pd.DataFrame(
        {"participant_id": range(20), "value": np.arange(20.0),
         "duration": 20.0 - np.arange(20), "event": 1}
    )  # fmt: skip
    found = cox(table)
    assert "a ridge holds it" in " ".join(found.notes)
    assert found.per_sd.value > 2
    assert found.concordance == 1.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"duration": -1.0}, "sub-000 has the duration -1; it is a number from 0"),
        ({"duration": np.inf}, "sub-000 has the duration inf"),
        ({"event": 0}, "0 events in 150 subjects"),
        ({"event": 2}, "events are 0 or 1"),
        ({"value": 40.0}, "same value, 40, in every subject"),
        ({"participant_id": "sub-1"}, "sub-1 stands twice"),
        ({"sex": "F"}, "covariate sex is the same, F"),
        ({"age": lambda t: 2 * t["value"]}, "depend on each other"),
    ],
)
def test_what_has_no_hazard_is_refused(rng, change, said):
    with pytest.raises(ValueError, match=said):
        cox(draw(rng).assign(**change), ("age", "sex"))


def test_a_missing_column_is_named(rng):
    with pytest.raises(ValueError, match="needs the column grade"):
        cox(draw(rng), ("grade",))


def test_subjects_without_a_value_are_left_out(rng):
    table = draw(rng)
    table.loc[3, "value"] = np.nan
    assert cox(table).n == 149


def test_a_cut_beyond_all_values_is_refused(rng):
    with pytest.raises(ValueError, match="0 subjects lie above the cut 500"):
        kaplan_meier(draw(rng), cut=500.0)


SURVIVAL = """
suppressMessages(library(survival))
t <- read.csv(file("stdin"))
t$z <- as.numeric(scale(t$value))
fit <- coxph(Surv(duration, event) ~ z + age + sex, t, ties = "efron")
two <- survdiff(Surv(duration, event) ~ (value > median(value)), t)
ends <- exp(confint(fit))[1, ]
cat(sprintf("[%.10f, %.10f, %.10f, %.10f, %.10f]", exp(coef(fit)[1]), ends[1], ends[2],
            summary(fit)$concordance[1], pchisq(two$chisq, 1, lower.tail = FALSE)))
"""


def test_hazard_concordance_and_log_rank_are_those_of_r(rng):
    if not shutil.which("Rscript"):
        pytest.skip("R is not installed")
    table = draw(rng).assign(event=lambda t: t["event"].astype(int))
    run = subprocess.run(
        ["Rscript", "-e", SURVIVAL],
        input=table.to_csv(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if run.returncode:
        pytest.skip("R has no package survival")
    found = cox(table, ("age", "sex"))
    ours = [found.per_sd.value, found.per_sd.low, found.per_sd.high, found.concordance,
            kaplan_meier(table).p]  # fmt: skip
    assert ours == pytest.approx(json.loads(run.stdout), abs=1e-3)
