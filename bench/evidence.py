"""Check the statistics of cohorts on known truth: ``python bench/evidence.py [COHORTS] [NAME …]``.

Each row simulates that many cohorts (500 unless said otherwise) and prints what was asked, what
was measured, and whether it was reached. The normal distributions and hazards here are written
anew; nothing of the simulation is shared with what is tested.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit

from sodiumprep.sodium.cohort.diagnostic import Scores, auc_interval, compare_auc, cutoff
from sodiumprep.sodium.cohort.logistic import calibration, held_out_probability
from sodiumprep.sodium.cohort.modality import (
    added_value,
    disattenuated,
    partial_correlation,
    within_subjects,
    york,
)
from sodiumprep.sodium.cohort.normative import fit_curve, z_scores
from sodiumprep.sodium.cohort.survival import cox, kaplan_meier

DRAWS = 500  # resampled cohorts of each interval; more in real use


@dataclass(frozen=True)
class Row:
    """One figure: what it is, its range, what was measured."""

    name: str
    low: float
    high: float
    measured: float

    def __str__(self) -> str:
        """Return the row as it is printed."""
        reached = "reached" if self.low <= self.measured <= self.high else "NOT REACHED"
        asked = f"{self.low:g} to {self.high:g}"
        return f"{self.name:<78} | {asked:>15} | {self.measured:8.4f} | {reached}"


def coverage(name: str, held: list[bool]) -> Row:
    """Return how often intervals of 95 % held the truth."""
    return Row(f"{name}: 95 % interval holds the truth", 0.93, 0.97, float(np.mean(held)))


def false_alarms(name: str, p: list[float]) -> Row:
    """Return how often nothing was called something at 5 %."""
    return Row(f"{name}: type-I error at 5 %", 0.03, 0.07, float(np.mean(np.array(p) < 0.05)))


def groups(n: int, effect: float, rng: np.random.Generator, n_low: int | None = None) -> Scores:
    """Return one value of each subject of two groups."""
    m = n_low or n
    value = np.append(rng.normal(effect, size=n), rng.normal(size=m))
    return Scores(value, np.arange(n + m) < n, np.arange(n + m))


def lesions(n: int, repeats: int, effect: float, rng: np.random.Generator) -> Scores:
    """Return values of lesions and of the tissue opposite, several of each subject."""
    subject = np.tile(np.repeat(np.arange(n), repeats), 2)
    positive = np.arange(len(subject)) < n * repeats
    own = rng.normal(size=n)[subject] + effect * positive
    return Scores(own + rng.normal(size=len(subject)), positive, subject)


def areas(cohorts: int, rng: np.random.Generator) -> Iterator[Row]:
    """Return bias and coverage of areas."""
    for told, draw, truth in (
        ("20 and 20 subjects", lambda: groups(20, 1.0, rng), stats.norm.cdf(1 / np.sqrt(2))),
        ("40 and 40 subjects", lambda: groups(40, 1.0, rng), stats.norm.cdf(1 / np.sqrt(2))),
        ("15 and 45, far apart", lambda: groups(15, 2, rng, 45), stats.norm.cdf(2 / np.sqrt(2))),
        ("25 subjects, 2 lesions each", lambda: lesions(25, 2, 1.0, rng), stats.norm.cdf(0.5)),
    ):
        found = [auc_interval(draw(), rng, draws=DRAWS) for _ in range(cohorts)]
        bias = np.mean([one.value for one in found]) - truth
        yield Row(f"area, {told}: bias", -0.01, 0.01, float(bias))
        yield coverage(f"area, {told}", [one.holds(truth) for one in found])


def comparisons(cohorts: int, rng: np.random.Generator) -> Iterator[Row]:
    """Compare two measures of the same subjects, equally good and not."""
    truth = stats.norm.cdf(1.5 / np.sqrt(2)) - stats.norm.cdf(1.5 / np.sqrt(2 * 2.0))
    for noise, name in ((1.0, "equally good"), (0.0, "with and without noise")):
        p, held = [], []
        for _ in range(cohorts):
            true = groups(40, 1.5, rng)
            measures = [
                Scores(true.value + spread * rng.normal(size=80), true.positive, true.subject)
                for spread in (1.0, noise)
            ]
            found = compare_auc(measures[0], measures[1], rng, draws=DRAWS)
            p.append(found.p)
            held.append(found.difference.holds(0.0 if noise else truth))
        if noise:
            yield false_alarms(f"two areas, {name}", p)
        yield coverage(f"two areas, {name}", held)


def cutoffs(cohorts: int, rng: np.random.Generator) -> Iterator[Row]:
    """Return what cut-offs are worth in new subjects."""
    for n, rule in ((25, "youden"), (50, "youden"), (50, ("specificity", 0.9))):
        told, true, apparent, held = [], [], [], []
        for _ in range(cohorts):
            found = cutoff(groups(n, 1.0, rng), rule, rng, draws=200)
            rates = stats.norm.sf(found.value.value, 1), stats.norm.cdf(found.value.value)
            told.append(found.sensitivity.value + found.specificity.value)
            apparent.append(sum(found.apparent))
            true.append(sum(rates))
            held.append([found.sensitivity.holds(rates[0]), found.specificity.holds(rates[1])])
        name = f"cut-off by {rule if rule == 'youden' else ' '.join(map(str, rule))}, {n} and {n}"
        yield Row(
            f"{name}: optimism, sum of both rates", -0.03, 0.03, np.mean(told) - np.mean(true)
        )
        left = np.mean(apparent) - np.mean(true)
        yield Row(f"{name}: the same before correction (not asked)", -1, 1, float(left))
        for k, rate in enumerate(("sensitivity", "specificity")):
            yield coverage(f"{name}: {rate}", [one[k] for one in held])


def calibrations(cohorts: int, rng: np.random.Generator) -> Iterator[Row]:
    """Return slopes of true probabilities, and of a model on subjects that it has not seen."""
    slopes, intercepts, out = [], [], []
    for _ in range(cohorts):
        x = rng.normal(size=150)
        positive = rng.random(150) < expit(1.2 * x - 0.5)
        found = calibration(expit(1.2 * x - 0.5), positive)
        slopes.append(found.slope.holds(1.0))
        intercepts.append(found.intercept.holds(0.0))
        scores = Scores(x, positive, np.arange(150))
        out.append(
            calibration(held_out_probability(x[:, None], scores, rng), positive).slope.value
        )
    yield coverage("calibration of true probabilities, slope", slopes)
    yield coverage("calibration of true probabilities, intercept", intercepts)
    yield Row(
        "calibration of held-out probabilities: median slope", 0.9, 1.1, float(np.median(out))
    )


def modalities(cohorts: int, rng: np.random.Generator) -> Iterator[Row]:
    """Compare two maps of the same subjects."""
    slopes, held, plain, true_r, r_held, partial, within = [], [], [], [], [], [], []
    for _ in range(cohorts):
        x = rng.normal(45, 4, size=40)
        y = 100 + 1.5 * (x - 45)
        u_x, u_y = rng.uniform(1, 3, size=(2, 40))
        seen, other = x + u_x * rng.normal(size=40), y + u_y * rng.normal(size=40)
        line = york(seen, other, u_x, u_y)
        slopes.append(line.slope.value)
        held.append(line.slope.holds(1.5))
        plain.append(np.polyfit(seen, other, 1)[0])
        scatter = 100 + 0.8 * 5 * (x - 45) / 4 + 0.6 * 5 * rng.normal(size=40)
        pairs = pd.DataFrame({"participant_id": np.arange(40), "x": seen, "u_x": u_x, "u_y": u_y})
        found = disattenuated(
            pairs.assign(y=scatter + u_y * rng.normal(size=40)), rng, draws=DRAWS
        )
        true_r.append(found.value)
        r_held.append(found.holds(0.8))
        age = rng.normal(size=(40, 2))
        one = age @ [1.0, 0.5] + rng.normal(size=40)
        two = age @ [0.5, 1.0] + rng.normal(size=40) + (one - age @ [1.0, 0.5])
        partial.append(partial_correlation(one, two, age).r.holds(np.sqrt(0.5)))
        within.append(_within(rng))
    yield Row("York's slope of 1.5: bias", -0.03, 0.03, np.mean(slopes) - 1.5)
    yield Row("York's slope: that of least squares (not asked)", -2, 2, np.mean(plain) - 1.5)
    yield coverage("York's slope, 40 subjects", held)
    yield Row("disattenuated correlation of 0.8: bias", -0.03, 0.03, np.mean(true_r) - 0.8)
    yield coverage("disattenuated correlation, 40 subjects", r_held)
    yield coverage("partial correlation, 40 subjects, 2 covariates", partial)
    yield coverage("correlation within subjects, 12 with 4 each", within)


def _within(rng: np.random.Generator) -> bool:
    subject = np.repeat(np.arange(12), 4)
    x = 5 * rng.normal(size=12)[subject] + rng.normal(size=48)
    y = 20 * rng.normal(size=12)[subject] - x + rng.normal(size=48)
    found = within_subjects(pd.DataFrame({"participant_id": subject, "x": x, "y": y}))
    return found.r.holds(-np.sqrt(0.5))


def additions(cohorts: int, rng: np.random.Generator) -> Iterator[Row]:
    """Add a map that says nothing, to a class and to a number."""
    p, gains, p_number = [], [], []
    for _ in range(cohorts):
        base, noise = rng.normal(size=(2, 100, 1))
        positive = rng.random(100) < expit(1.5 * base[:, 0])
        found = added_value(positive, base, noise, rng, draws=20)
        p.append(found.p)
        gains.append(found.gain.value)
        number = base[:, 0] + rng.normal(size=100)
        p_number.append(added_value(number, base, noise, rng, draws=20).p)
    yield false_alarms("noise added to a class, likelihood ratio, 100 subjects", p)
    yield false_alarms("noise added to a number, likelihood ratio, 100 subjects", p_number)
    yield Row("noise added to a class: gain of the area", -0.01, 0.01, float(np.mean(gains)))


def survivals(cohorts: int, rng: np.random.Generator) -> Iterator[Row]:
    """Simulate times with and without an effect."""
    held, alarms, proportional, log_rank = [], [], [], []
    for _ in range(cohorts):
        for per_10 in (2.0, 1.0):
            value = rng.normal(45, 6, size=80)
            event_at = rng.exponential(24 * np.exp(-np.log(per_10) * (value - 45) / 10))
            leaves_at = rng.exponential(60, size=80)
            table = pd.DataFrame(
                {
                    "participant_id": np.arange(80),
                    "value": value,
                    "duration": np.minimum(event_at, leaves_at),
                    "event": event_at <= leaves_at,
                    "age": rng.normal(50, 10, size=80),
                }
            )
            found = cox(table, ("age",))
            if per_10 == 1:
                alarms.append(found.p)
                log_rank.append(kaplan_meier(table).p)
            else:
                held.append(found.per_10.holds(per_10))
                proportional.append(found.proportional_p)
    yield coverage("hazard ratio per 10 mmol/L, 80 subjects, 57 events", held)
    yield false_alarms("hazard without an effect", alarms)
    yield false_alarms("log-rank without an effect, halves by the median", log_rank)
    yield false_alarms("check of proportional hazards", proportional)


def references(cohorts: int, rng: np.random.Generator) -> Iterator[Row]:
    """Score members and strangers on reference curves."""
    for n in (120, 400):
        beyond, strange, held, width = [], [], [], []
        for _ in range(cohorts):
            table, z, u = _people(n, rng)
            curve = fit_curve(table, ("sex",))
            own = z_scores(curve, table)
            beyond.append(np.mean(np.abs(own["z"]) > 1.96))
            others, z, u = _people(50, rng, 25, 75)
            clean = z_scores(curve, others.assign(participant_id="x"))
            strange.append(np.mean(np.abs(clean["z"]) > 1.96))
            noisy = others.assign(value=others["value"] + u * rng.normal(size=50), u=u)
            found = z_scores(curve, noisy.assign(participant_id="x"))
            held.append(np.mean((found["z_low"] <= z) & (z <= found["z_high"])))
            width.append(np.mean(found["z_high"] - found["z_low"]))
        yield Row(f"reference of {n}: members beyond 1.96", 0.04, 0.06, float(np.mean(beyond)))
        yield Row(f"reference of {n}: strangers beyond 1.96", 0.04, 0.06, float(np.mean(strange)))
        yield Row(
            f"reference of {n}: interval holds the true score", 0.93, 0.97, float(np.mean(held))
        )


def _people(
    n: int, rng: np.random.Generator, young: float = 18, old: float = 82
) -> tuple[pd.DataFrame, np.ndarray, float]:
    age, male, z = rng.uniform(young, old, size=n), rng.random(n) < 0.5, rng.normal(size=n)
    middle = 40 + 0.05 * (age - 50) + 0.002 * (age - 50) ** 2 + 1.5 * male
    value = middle + 2 * np.exp(0.01 * (age - 50)) * z
    table = {"participant_id": [f"s{k}" for k in range(n)], "age": age, "value": value}
    return pd.DataFrame({**table, "sex": np.where(male, "M", "F")}), z, 1.5


STUDIES: dict[str, Callable[[int, np.random.Generator], Iterator[Row]]] = {
    "areas": areas,
    "comparisons": comparisons,
    "cutoffs": cutoffs,
    "calibrations": calibrations,
    "modalities": modalities,
    "additions": additions,
    "survivals": survivals,
    "references": references,
}


def main() -> None:
    """Print the rows of the studies that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohorts", nargs="?", type=int, default=500)
    parser.add_argument("names", nargs="*", default=list(STUDIES), metavar="NAME")
    given = parser.parse_args()
    warnings.simplefilter("error")
    for name in given.names:
        for row in STUDIES[name](given.cohorts, np.random.default_rng(2026)):
            print(row, flush=True)


if __name__ == "__main__":
    main()
