"""The same fixed table by others: R's lme4, lmerTest, metafor and psych, and pingouin."""

import shutil
import subprocess
from functools import cache

import numpy as np
import pandas as pd
import pytest

from sodiumprep.sodium.cohort.change import MIXED, mixed_slopes
from sodiumprep.sodium.cohort.designs import Model
from sodiumprep.sodium.cohort.differences import differences
from sodiumprep.sodium.cohort.repeatability import agreement, consistency, intraclass
from sodiumprep.sodium.cohort.simulate import METHODS, TISSUES, Cohort, draw_cohort
from sodiumprep.sodium.cohort.values import values_of

CONTRAST = "group: ms - control"
MODEL = Model("group + age", slopes=["age"])


@cache
def _has(package):
    if shutil.which("Rscript") is None:
        return False
    asked = f"quit(status = !requireNamespace('{package}', quietly = TRUE))"
    return subprocess.run(["Rscript", "-e", asked], check=False).returncode == 0


def _by_r(package, tmp_path, table, script):
    if not _has(package):
        pytest.skip(f"R with {package} is not installed")
    table.to_csv(tmp_path / "table.csv", index=False)
    script = f"suppressMessages(library({package})); d <- read.csv('table.csv'); {script}"
    script += "; cat(format(unlist(found), digits = 12), sep = '\\n')"
    told = subprocess.run(
        ["Rscript", "-e", script], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    return np.array([float(line) for line in told.stdout.split()])


@pytest.fixture(scope="module")
def table():
    cohort = Cohort(
        {"control": 15, "ms": 15}, TISSUES[:1], METHODS[1:2], sessions=3, sites=4, site_sd=2.0
    )
    drawn, _ = draw_cohort(cohort, np.random.default_rng(12))
    return values_of(drawn).dropna(subset="value").drop(columns=["u_shared", "u_session"])


def test_mixed_models_are_those_of_lme4(tmp_path, table):
    found = differences(table.drop(columns="u"), Model(**{**vars(MODEL), "site": "site"}))
    script = (
        "m <- lmer(value ~ group + age + (1 | site / participant_id), d);"
        "v <- as.data.frame(VarCorr(m))$sdcor;"
        "found <- list(fixef(m)[2:3], sqrt(diag(as.matrix(vcov(m))))[2:3], v)"
    )
    effects = [found.effects[name] for name in (CONTRAST, "age")]
    ours = [*(e.estimate for e in effects), *(e.se for e in effects)]
    ours += [found.spreads[level] for level in ("subject", "site", "residual")]
    np.testing.assert_allclose(ours, _by_r("lme4", tmp_path, table, script), rtol=1e-3)


def test_degrees_of_freedom_are_those_of_lmertest(tmp_path, table):
    found = differences(table.drop(columns="u"), MODEL)
    script = (
        "m <- lmer(value ~ group + age + (1 | participant_id), d);"
        "found <- summary(m)$coefficients[2:3, c('df', 't value', 'Pr(>|t|)')]"
    )
    effects = [found.effects[name] for name in (CONTRAST, "age")]
    ours = np.array([[e.df, e.t, e.p] for e in effects]).T.ravel()
    np.testing.assert_allclose(ours, _by_r("lmerTest", tmp_path, table, script), rtol=1e-3)


def test_known_errors_are_carried_in_as_by_metafor(tmp_path, table):
    found = differences(table, MODEL)
    script = (
        "d$row <- seq_len(nrow(d));"
        "m <- rma.mv(value, u^2, mods = ~ group + age, data = d, method = 'REML',"
        " random = list(~ 1 | participant_id, ~ 1 | row));"
        "found <- list(m$b[2:3], m$se[2:3], sqrt(m$sigma2))"
    )
    effects = [found.effects[name] for name in (CONTRAST, "age")]
    ours = [*(e.estimate for e in effects), *(e.se for e in effects)]
    ours += [found.spreads[level] for level in ("subject", "residual")]
    theirs = _by_r("metafor", tmp_path, table, script)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_slopes_are_those_of_lme4(tmp_path):
    rng = np.random.default_rng(8)
    subject = np.repeat(np.arange(40), 5)
    time = np.tile(np.arange(5.0), 40)
    own = rng.normal(size=(40, 2)) * [4.0, 1.0] + [40.0, 1.5]
    value = own[subject, 0] + own[subject, 1] * time + rng.normal(0, 1.5, 200)
    drawn = pd.DataFrame({"participant_id": subject.astype(str), "value": value, "years": time})
    drawn["session"] = drawn["years"].astype(int).astype(str)
    found = mixed_slopes(drawn, "years")
    script = (
        "m <- lmer(value ~ years + (years | participant_id), d);"
        "found <- list(fixef(m)[2], sqrt(vcov(m)[2, 2]), as.data.frame(VarCorr(m))$sdcor[c(2, 4)])"
    )
    effect = found.effects.iloc[0]
    ours = effect.estimate, effect.se, found.slope_sd, found.residual_sd
    assert found.method == MIXED
    np.testing.assert_allclose(ours, _by_r("lme4", tmp_path, drawn, script), rtol=1e-3)


def _crossed(table):
    crossed = table.pivot(index="participant_id", columns="session", values="value").dropna()
    long = crossed.stack().rename("value").reset_index()
    return crossed.to_numpy(), long.rename(columns={"participant_id": "unit"})


def test_intraclass_correlations_and_their_intervals_are_those_of_psych(tmp_path, table):
    values, long = _crossed(table)
    script = (
        "r <- ICC(d, lmer = FALSE)$results;found <- r[1:3, c('ICC', 'lower bound', 'upper bound')]"
    )
    ours = intraclass(long), agreement(values), consistency(values)
    ours = np.array([[i.estimate, i.low, i.high] for i in ours]).T.ravel()
    theirs = _by_r("psych", tmp_path, pd.DataFrame(values), script)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_intraclass_correlations_are_those_of_pingouin(table):
    pingouin = pytest.importorskip("pingouin", reason="pingouin is not installed")
    values, long = _crossed(table)
    theirs = pingouin.intraclass_corr(long, "unit", "session", "value")["ICC"][:3]
    ours = intraclass(long), agreement(values), consistency(values)
    np.testing.assert_allclose([i.estimate for i in ours], theirs, rtol=1e-3)
