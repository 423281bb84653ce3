"""Check the statistics of cohorts: ``python bench/cohort.py [PART …] [--cohorts N] [--seed S]``.

Cohorts with known truth are drawn, analysed, and what the analysis claims is counted: how often
it finds an effect that is none, finds one that is there, and how often its intervals hold the
truth. Rows ``asked | measured | reached``. Parts: errors, power, repeatability, change, slopes,
discovery, planning, time, large (10 000 subjects; not run by default).
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from sodiumprep.sodium.cohort.change import (
    WITHIN,
    Error,
    changes,
    judge_changes,
    mixed_slopes,
    responders,
)
from sodiumprep.sodium.cohort.designs import Model
from sodiumprep.sodium.cohort.differences import compare, differences
from sodiumprep.sodium.cohort.planning import Correlation, Study
from sodiumprep.sodium.cohort.repeatability import Interval, bland_altman, repeatability
from sodiumprep.sodium.cohort.simulate import (
    TISSUES,
    Cohort,
    Errors,
    Method,
    Region,
    draw_chunks,
    draw_cohort,
    parcels,
)
from sodiumprep.sodium.cohort.values import values_of

CONTRAST = "group: ms - control"
PLAIN = Errors(missing=0.0, lost=0.0, failed=0.0, calibration=0.0, relaxation=0.0)
LOSSY = Errors(calibration=0.0, relaxation=0.0)  # what regions share would tie their errors
EFFECT = 4.0  # mmol/L
REGIONS = 20
GTM = (Method("gtm"),)
Row = tuple[str, str, bool]


def region(effect: float = 0.0, between: float = 3.0, within: float = 1.0) -> Region:
    """Return one region with an effect of multiple sclerosis."""
    return Region(2, "WM", 40.0, between, within, shifts={"ms": effect})


def drawn(cohort: Cohort, rng: np.random.Generator) -> pd.DataFrame:
    """Return the values of one cohort."""
    return values_of(draw_cohort(cohort, rng)[0])


def share(name: str, hits: float, n: int, low: float, high: float) -> Row:
    """Return a row of a share in percent."""
    measured = 100 * hits / n
    error = 100 * np.sqrt(max(hits / n * (1 - hits / n), 1e-9) / n)
    told = f"{measured:.1f} % (± {error:.1f}) of {n}"
    return f"{name}: {low:g} to {high:g} %", told, bool(low <= measured <= high)


DESIGNS: dict[str, tuple[Cohort, Model]] = {
    "10 a group, one session": (
        Cohort({"control": 10, "ms": 10}, errors=PLAIN),
        Model(),
    ),
    "10 a group, age and sex": (
        Cohort({"control": 10, "ms": 10}, errors=LOSSY),
        Model("group + age + sex", slopes=["age"]),
    ),
    "10 a group, 2 sessions, missing ones": (
        Cohort({"control": 10, "ms": 10}, sessions=2, errors=replace(LOSSY, missing=0.2)),
        Model(),
    ),
    "10 a group, 2 sessions of 2 runs": (
        Cohort({"control": 10, "ms": 10}, sessions=2, runs=2, errors=LOSSY),
        Model(),
    ),
    "10 and 20, 4 random sites": (
        Cohort({"control": 10, "ms": 20}, sessions=2, sites=4, site_sd=2.0, errors=LOSSY),
        Model(site="site"),
    ),
    "10 a group, errors as large as the subjects' spread": (
        Cohort({"control": 10, "ms": 10}, errors=replace(PLAIN, noise=(1.0, 8.0))),
        Model(),
    ),
    "10 a group, 2 sessions, least squares by subject": (
        Cohort({"control": 10, "ms": 10}, sessions=2, errors=LOSSY),
        Model(robust=True),
    ),
    "50 a group, 2 sessions": (
        Cohort({"control": 50, "ms": 50}, sessions=2, errors=LOSSY),
        Model("group + age", slopes=["age"]),
    ),
}


def part_errors(n: int, rng: np.random.Generator) -> Iterator[Row]:
    """Count false findings, and how often intervals hold the truth.

    A cohort has 20 regions that err independently of each other: as many cohorts of one region.
    """
    for name, (base, model) in DESIGNS.items():
        null, shifted = (
            pd.concat(
                [
                    analysed(replace(base, methods=GTM), effect, model, rng)
                    for _ in range(n // REGIONS)
                ]
            )
            for effect in (0.0, EFFECT)
        )
        false = (null["p"] < 0.05).sum()
        held = shifted["estimate"].between(EFFECT - half(shifted), EFFECT + half(shifted)).sum()
        g = EFFECT / spread_of(base)
        standard = ((shifted["standardized_low"] < g) & (g < shifted["standardized_high"])).sum()
        mixed = sum(each["method"].str.startswith("mixed").sum() for each in (null, shifted))
        yield share(f"type-I error, {name}", false, n, 3, 7)
        yield share(f"95 % interval of the difference, {name}", held, n, 93, 97)
        if base.sites == 1 and base.runs == 1:
            yield share(f"95 % interval of Hedges' g, {name}", standard, n, 93, 97)
        if not model.robust:
            yield f"fits that converge, {name}", f"{mixed} of {2 * n}", mixed == 2 * n


def analysed(base: Cohort, effect: float, model: Model, rng: np.random.Generator) -> pd.DataFrame:
    """Return what is found in the regions of one cohort."""
    regions = tuple(replace(region(effect), index=k, name=f"r{k}") for k in range(REGIONS))
    cohort = replace(base, regions=regions)
    effects = compare(drawn(cohort, rng), model, ["name", "pvc", "desc"])
    return effects[effects["contrast"] == CONTRAST]


def half(effects: pd.DataFrame) -> pd.Series:
    """Return half the length of the intervals."""
    return (effects["ci_high"] - effects["ci_low"]) / 2


def spread_of(cohort: Cohort) -> float:
    """Return the SD of one measurement without what all share [mmol/L]."""
    low, high = cohort.errors.noise
    noise = (high**2 - low**2) / (2 * np.log(high / low))  # mean square of a log-uniform one
    scale = (40.0 * cohort.errors.calibration) ** 2 + cohort.errors.segmentation**2
    return float(np.sqrt(9.0 + 1.0 + noise + scale))


def part_power(n: int, rng: np.random.Generator) -> Iterator[Row]:
    """Compare power with theory, without correction and with."""
    for method in (Method("none", leak=0.25), Method("gtm", noise=1.6)):
        for size in (15, 30):
            base = Cohort({"control": size, "ms": size}, methods=(method,), errors=PLAIN)
            cohorts = [analysed(base, 3.0, Model(), rng) for _ in range(n // REGIONS)]
            power = float((pd.concat(cohorts)["p"] < 0.05).mean())
            kept = 1 - method.leak
            noise = method.noise**2 * (spread_of(base) ** 2 - 10.25)
            sd = np.sqrt(10.0 * kept**2 + 0.25 + noise)
            theory = Study(3.0 * kept, float(sd)).power(size)
            told = f"{100 * power:.1f} % of {n}, theory {100 * theory:.1f} %"
            asked = f"power, pvc {method.name}, {size} a group: within 5 points of theory"
            yield asked, told, bool(abs(power - theory) <= 0.05)


def holds(interval: Interval | None, truth: float) -> bool:
    """Return whether an interval holds the truth."""
    return interval is not None and interval.low < truth < interval.high


def part_repeatability(n: int, rng: np.random.Generator) -> Iterator[Row]:
    """Count how often intervals of repeats hold the truth: 40 ± 4 between, ± 2 within."""
    icc = 16.0 / 20.0
    for size, k, kept, shift in ((10, 2, 1.0, 0.0), (20, 2, 1.0, 0.0), (20, 4, 0.7, 0.0),
                                 (20, 2, 1.0, 1.0), (20, 4, 1.0, 1.0)):  # fmt: skip
        counts = dict.fromkeys(("wSD", "RC", "CoV", "CoV (log)", "ICC(1)", "ICC(C,1)", "ICC(A,1)",
                                "bias", "limit"), 0)  # fmt: skip
        for _ in range(n):
            subject = 40 + 4 * rng.standard_normal((size, 1))
            occasion = shift * rng.standard_normal((1, k))
            table = repeats(subject + occasion + 2 * rng.standard_normal((size, k)))
            found = repeatability(table[rng.random(len(table)) < kept])
            counts["wSD"] += holds(found.within_sd, 2.0)
            counts["RC"] += holds(found.coefficient, 1.96 * np.sqrt(8.0))
            counts["CoV"] += holds(found.cov, 0.05)
            if size == 10:
                logged = repeatability(table.assign(value=np.exp(0.1 * table["value"] / 2)))
                counts["CoV (log)"] += holds(logged.cov_log, float(np.sqrt(np.expm1(0.01))))
            counts["ICC(1)"] += holds(found.icc, icc)
            counts["ICC(C,1)"] += holds(found.icc_consistency, icc)
            counts["ICC(A,1)"] += holds(found.icc_agreement, 16.0 / (20.0 + shift**2))
            if k == 2 and not shift:
                agreed = bland_altman(table)
                counts["bias"] += holds(agreed.bias, 0.0)
                counts["limit"] += holds(agreed.upper, 1.96 * np.sqrt(8.0))
        crossed = ("ICC(C,1)", "ICC(A,1)")
        lacking = [*crossed, "CoV (log)", "bias", "limit"] if kept < 1 else []
        lacking += ["CoV (log)"] if size > 10 else []
        told = crossed if shift else [name for name in counts if name not in lacking]
        for name in told:
            shape = f"{size} subjects, {k} sessions"
            shape += f", {100 * (1 - kept):.0f} % missing" if kept < 1 else ""
            shape += ", sessions differ" if shift else ""
            yield share(f"95 % interval of {name}, {shape}", counts[name], n, 93, 97)


def repeats(values: np.ndarray) -> pd.DataFrame:
    """Return a table of subjects by sessions."""
    n, k = values.shape
    subject, session = np.divmod(np.arange(n * k), k)
    labels = {"participant_id": subject.astype(str), "session": session.astype(str)}
    return pd.DataFrame({**labels, "value": values.ravel()})


def part_change(n: int, rng: np.random.Generator) -> Iterator[Row]:
    """Count stable subjects that are called changed, and intervals that hold the change."""
    stable = Cohort({"control": 20}, (region(),), GTM, sessions=2, errors=PLAIN)
    followed = replace(stable, groups={"control": 1, "ms": 20})
    sick = replace(region(), response=-8.0)
    for name, noise in (
        ("same errors for all", (1.0, 1.0001)),
        ("errors of 0.3 to 6 mmol/L", (0.3, 6.0)),
    ):
        errors = replace(PLAIN, noise=noise)
        false, total, found, real, held = 0, 0, 0, 0, 0
        for _ in range(n // 2):
            test = drawn(replace(stable, errors=errors), rng)
            error = Error.of(repeatability(test))
            again = drawn(replace(stable, errors=errors), rng)
            judged = judge_changes(changes(again), error, "lower")
            false += int((judged["verdict"] != WITHIN).sum())
            total += len(judged)
            cohort = replace(followed, regions=(sick,), responders=1.0, errors=errors)
            judged = judge_changes(
                changes(drawn(cohort, rng)[lambda t: t["group"] == "ms"]), error, "lower"
            )
            held += int(((judged["ci_low"] < -8) & (judged["ci_high"] > -8)).sum())
            real += len(judged)
            found += int((judged["verdict"] == "improved").sum())
        yield share(f"stable subjects called changed (5 % stated), {name}", false, total, 4, 6)
        yield share(f"95 % interval of a subject's change, {name}", held, real, 93, 97)
        yield (
            f"responders of −8 mmol/L found (no figure asked), {name}",
            f"{100 * found / real:.0f} %",
            True,
        )
    held = 0
    for _ in range(n):
        improved = rng.random(30) < 0.3
        verdict = np.where(improved, "improved", WITHIN)
        counted = responders(pd.DataFrame({"participant_id": range(30), "verdict": verdict}))
        held += holds(counted.share, 0.3)
    yield share("95 % interval of the share of responders (Wilson, 30 subjects)", held, n, 93, 97)


def part_slopes(n: int, rng: np.random.Generator) -> Iterator[Row]:
    """Count false differences of slopes, and intervals that hold the slope."""
    for size, k in ((10, 4), (15, 2)):
        false = held = fallback = 0
        for _ in range(n):
            time_ = np.arange(k, dtype=float)
            slope = 1.0 + rng.standard_normal((2 * size, 1))
            subject = 40 + 4 * rng.standard_normal((2 * size, 1))
            values = subject + slope * time_ + 1.5 * rng.standard_normal((2 * size, k))
            table = repeats(values).assign(years=np.tile(time_, 2 * size))
            table["group"] = np.repeat(["a", "b"], size * k)
            found = mixed_slopes(table, "years", "group")
            effects = found.effects
            false += effects["p"].iloc[1] < 0.05
            held += effects["ci_low"].iloc[0] < 1.0 < effects["ci_high"].iloc[0]
            fallback += not found.method.startswith("mixed")
        shape = f"{size} a group, {k} sessions ({fallback} by a line per subject)"
        yield share(f"type-I error of a difference of slopes, {shape}", false, n, 3, 7)
        yield share(f"95 % interval of the slope, {shape}", held, n, 93, 97)


def part_discovery(n: int, rng: np.random.Generator) -> Iterator[Row]:
    """Return the false-discovery rate over 40 regions, half of them null."""
    cohort = Cohort({"control": 20, "ms": 20}, parcels(40, {"ms": 4.0}), GTM)
    rates, found = [], []
    for _ in range(max(n // 10, 1)):
        effects = compare(drawn(cohort, rng), Model(), ["name", "pvc", "desc"])
        true = effects["name"].str[-3:].astype(int) % 2 == 1
        called = effects["q"] < 0.05
        rates.append((called & ~true).sum() / max(called.sum(), 1))
        found.append(called[true].mean())
    told = f"{100 * np.mean(rates):.1f} % in {len(rates)} cohorts"
    told += f" ({100 * np.mean(found):.0f} % of the effects found)"
    yield "false discoveries at q < 0.05: at most 5 %", told, bool(np.mean(rates) <= 0.05)


def part_planning(n: int, rng: np.random.Generator) -> Iterator[Row]:
    """Compare the power of plans with simulated studies analysed by the app's own models."""
    for kind, size in (("groups", 12), ("groups", 40), ("paired", 15)):
        study = Study(3.0, 4.0, kind)  # type: ignore[arg-type]
        hits = 0
        for _ in range(n):
            shift = np.repeat([0.0, 3.0], size)
            values = shift + 4.0 * rng.standard_normal(2 * size)
            if kind == "paired":
                hits += (
                    mixed_slopes(paired(3.0, 4.0, size, rng), "years").effects["p"].iloc[0] < 0.05
                )
                continue
            table = repeats(values[:, None]).assign(group=np.repeat(["control", "ms"], size))
            hits += differences(table, Model()).effects[CONTRAST].p < 0.05
        yield planned(f"{kind}, {size}", study.power(size), hits / n, n)
    for r, size in ((0.5, 20), (0.3, 80)):
        x = rng.standard_normal((n, size))
        y = r * x + np.sqrt(1 - r**2) * rng.standard_normal((n, size))
        observed = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])
        t = observed * np.sqrt((size - 2) / (1 - observed**2))
        limit = {20: 2.1009, 80: 1.9908}[size]
        hits = float(np.mean(np.abs(t) > limit))
        yield planned(f"correlation {r}, {size}", Correlation(r).power(size), hits, n)


def paired(effect: float, sd: float, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return n subjects before and after."""
    first = 40 + 4 * rng.standard_normal((n, 1))
    change = effect + sd * rng.standard_normal((n, 1))
    table = repeats(np.hstack([first, first + change]))
    return table.assign(years=table["session"].astype(float))


def planned(name: str, theory: float, found: float, n: int) -> Row:
    """Return the row of a plan."""
    told = f"{100 * theory:.1f} % planned, {100 * found:.1f} % of {n}"
    return f"planned power, {name}: within 5 points", told, bool(abs(theory - found) <= 0.05)


def part_time(n: int, rng: np.random.Generator) -> Iterator[Row]:
    """Time 1000 subjects, 200 regions and 4 methods in one process."""
    model = Model("group + age + sex", slopes=["age"], site="site")
    for size in (100, 300, 1000):
        cohort = Cohort(
            {"control": size // 2, "ms": size // 2}, (*TISSUES, *parcels(197)), sites=4
        )
        start, cpu = time.perf_counter(), time.process_time()
        table = drawn(cohort, rng)
        middle, cpu_middle = time.perf_counter(), time.process_time()
        effects = compare(table, model, ["seg", "index", "name", "pvc", "desc"])
        wall, used = time.perf_counter() - middle, time.process_time() - cpu_middle
        told = (
            f"{wall:.0f} s ({used:.0f} s of CPU; drawn in {middle - start:.0f} s, "
            f"{cpu_middle - cpu:.0f} s of CPU), peak {peak():.2f} GB, {len(effects)} contrasts"
        )
        yield f"{size} subjects by 200 regions by 4 methods: under 60 s", told, wall < 60


def part_large(n: int, rng: np.random.Generator) -> Iterator[Row]:
    """Draw 10 000 subjects chunk by chunk."""
    cohort = Cohort({"control": 5000, "ms": 5000}, (*TISSUES, *parcels(197)))
    start, rows = time.perf_counter(), 0
    for table, _ in draw_chunks(cohort, rng):
        rows += len(table)
    told = f"{rows} rows in {time.perf_counter() - start:.0f} s, peak {peak():.2f} GB"
    yield "10 000 subjects drawn in chunks: under 4 GB", told, peak() < 4


def peak() -> float:
    """Return the peak memory of this process [GB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


PARTS: dict[str, Callable[[int, np.random.Generator], Iterator[Row]]] = {
    "time": part_time,
    "errors": part_errors,
    "power": part_power,
    "repeatability": part_repeatability,
    "change": part_change,
    "slopes": part_slopes,
    "discovery": part_discovery,
    "planning": part_planning,
    "large": part_large,
}


def main() -> None:
    """Print all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS)[:-1], choices=list(PARTS))
    parser.add_argument("--cohorts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print("| asked | measured | reached |\n|---|---|---|")
    for part in asked.parts:
        for row in PARTS[part](asked.cohorts, np.random.default_rng(asked.seed)):
            print(f"| {row[0]} | {row[1]} | {'yes' if row[2] else 'NO'} |", flush=True)


if __name__ == "__main__":
    main()
