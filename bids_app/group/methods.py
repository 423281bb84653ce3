"""The methods text of a cohort: what was done, by which model, with which libraries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from sodiumprep.bids_app.group.model import Model
from sodiumprep.bids_app.group.page import listed, percent
from sodiumprep.bids_app.group.shown import Shown, method_label, shown_methods

LIBRARIES = ("numpy", "scipy", "pandas", "polars", "statsmodels", "lifelines", "matplotlib")
REFERENCES = {
    "Benjamini 1995": "Benjamini & Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x",
    "Patterson 1971": "Patterson & Thompson 1971, doi:10.1093/biomet/58.3.545",
    "Satterthwaite 1946": "Satterthwaite 1946, doi:10.2307/3002019",
    "Kuznetsova 2017": "Kuznetsova et al. 2017, doi:10.18637/jss.v082.i13",
    "Hedges 1981": "Hedges 1981, doi:10.3102/10769986006002107",
    "Bland 1986": "Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8",
    "Bland 1996": "Bland & Altman 1996, doi:10.1136/bmj.313.7050.170",
    "Shrout 1979": "Shrout & Fleiss 1979, doi:10.1037/0033-2909.86.2.420",
    "McGraw 1996": "McGraw & Wong 1996, doi:10.1037/1082-989X.1.1.30",
    "Wilson 1927": "Wilson 1927, doi:10.1080/01621459.1927.10502953",
    "Laird 1982": "Laird & Ware 1982, doi:10.2307/2529876",
    "Efron 1987": "Efron 1987, doi:10.1080/01621459.1987.10478410",
    "Firth 1993": "Firth 1993, doi:10.1093/biomet/80.1.27",
    "Calster 2019": "Van Calster et al. 2019, doi:10.1186/s12916-019-1466-7",
    "Cox 1972": "Cox 1972, doi:10.1111/j.2517-6161.1972.tb00899.x",
    "Kaplan 1958": "Kaplan & Meier 1958, doi:10.1080/01621459.1958.10501452",
    "Davidson-Pilon 2019": "Davidson-Pilon 2019, lifelines, doi:10.21105/joss.01317",
    "Cole 1992": "Cole & Green 1992, doi:10.1002/sim.4780111005",
    "York 2004": "York et al. 2004, doi:10.1119/1.1632486",
    "Freedman 1983": "Freedman & Lane 1983, doi:10.1080/07350015.1983.10509354",
    "Winkler 2014": "Winkler et al. 2014, doi:10.1016/j.neuroimage.2014.01.060",
    "Smith 2009": "Smith & Nichols 2009, doi:10.1016/j.neuroimage.2008.03.061",
}
_CITED = re.compile(r"([A-Z][A-Za-z-]+) (\d{4})")


def methods_text(shown: Shown) -> list[str]:
    """Return the paragraphs of the methods text.

    Parameters
    ----------
    shown
        What is told.
    """
    model = shown.cohort.model
    paragraphs = [_first(shown), *_of_model(model, shown.evidence), _last(shown)]
    return [told for told in paragraphs if told]


def references_of(paragraphs: list[str]) -> list[str]:
    """Return the references that a text cites, each once, in its order.

    Parameters
    ----------
    paragraphs
        They cite by surname and year.

    Examples
    --------
    >>> references_of(["by Wilson 1927 and Cox 1972", "Wilson 1927"])[0][:11]
    'Wilson 1927'
    """
    found = (f"{name} {year}" for text in paragraphs for name, year in _CITED.findall(text))
    return [REFERENCES[key] for key in dict.fromkeys(found) if key in REFERENCES]


def _first(shown: Shown) -> str:
    held = shown.cohort.gathered.scan().select("pvc").unique().collect()
    methods = shown_methods(held["pvc"].to_list())
    told = " and ".join(
        "without" if m == "none" else f"with correction for partial volume ({method_label(m)})"
        for m in methods
    )
    return (
        f"Regional tissue sodium concentrations of {len(shown.cohort.participants)} participants "
        f"were analysed {told}, each region by itself."
    )


def _of_model(model: Model, evidence: Mapping[str, Any]) -> Iterator[str]:
    yield from (tell(model) for table, tell in SENTENCES.items() if table in evidence)


def _effects(model: Model) -> str:
    fixed = ", ".join(model.fixed) or "the mean"
    random = f", with random intercepts of {' and '.join(model.random)}" if model.random else ""
    weights = "; the uncertainty of each value was part of the variance" if model.weighted else ""
    return (
        f"Concentrations were explained by {fixed}{random}{weights}: linear mixed models by "
        "restricted maximum likelihood (Patterson 1971) with degrees of freedom by Satterthwaite "
        "1946 (Kuznetsova 2017), effect sizes by Hedges 1981, and a false-discovery rate over the "
        "regions of each segmentation (Benjamini 1995)."
    )


def _repeatability(model: Model) -> str:
    over = (model.section("Repeatability") or {}).get("Over", "session")
    return (
        f"Repeatability was estimated over {over}s of a participant: within-subject standard "
        "deviation, coefficient of variation and repeatability coefficient (Bland 1996), "
        "intraclass correlation (Shrout 1979, McGraw 1996) and limits of agreement (Bland 1986)."
    )


def _change(model: Model) -> str:
    held = model.section("Change") or {}
    stable = " ".join(f"{column} {level}" for column, level in held.get("Stable", {}).items())
    rests = f" of {stable}" if stable else ""
    return (
        f"Changes from session {held.get('From')} to {held.get('To')} were called real where they "
        f"exceeded what error alone makes in 5 % of stable participants{rests}; shares have "
        "intervals by Wilson 1927."
    )


def _slopes(_: Model) -> str:
    return "Change by time was taken from random slopes of each participant (Laird 1982)."


def _diagnosis(_: Model) -> str:
    return (
        "Diagnostic value is the area under the receiver-operating curve with bootstrap intervals "
        "over participants (Efron 1987), compared between methods in the same resampled cohorts, "
        "a cut-off by Youden's index whose optimism is taken off, and the calibration (Calster "
        "2019) of held-out probabilities of a penalized logistic model (Firth 1993)."
    )


def _survival(model: Model) -> str:
    held = model.section("Outcome") or {}
    more = f" adjusted for {listed(held['Covariates'], 9)}" if held.get("Covariates") else ""
    return (
        f"Time to {held.get('Event', 'the event')} was explained by proportional hazards (Cox "
        f"1972){more} and shown by survival curves (Kaplan 1958) with lifelines "
        "(Davidson-Pilon 2019)."
    )


def _norms(model: Model) -> str:
    by = (model.section("Normative") or {}).get("By", "age")
    return f"Reference curves by {by} are smooth in mean and spread (Cole 1992)."


def _planning(model: Model) -> str:
    held = model.section("Planning") or {}
    return (
        f"Sample sizes are those of two-sided t tests at {percent(held.get('Alpha', 0.05))} with "
        f"power {percent(held.get('Power', 0.8))} for {percent(held.get('Difference', 0.1))} of "
        "the mean."
    )


def _modality(_: Model) -> str:
    return "Agreement with other maps took the errors of both variables into account (York 2004)."


def _voxelwise(_: Model) -> str:
    return (
        "Maps in template space were tested by permutation of residuals (Freedman 1983, Winkler "
        "2014): clusters by size and mass, and threshold-free cluster enhancement (Smith 2009), "
        "all with familywise p."
    )


SENTENCES: Mapping[str, Callable[[Model], str]] = {  # by the table that they tell of
    "effects": _effects,
    "repeatability": _repeatability,
    "responders": _change,
    "slopes": _slopes,
    "roc": _diagnosis,
    "survival": _survival,
    "norm_curves": _norms,
    "planning": _planning,
    "modality": _modality,
    "voxelwise_model": _voxelwise,
}


def _last(shown: Shown) -> str:
    used = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"Intervals are 95 % ones. Computed with sodiumprep {version('sodiumprep')} ({used}), "
        f"random seed {shown.seed}."
    )
