"""Sections on what was found: differences, repeats, change, diagnostic value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from sodiumprep.bids_app.group import courses, intervals
from sodiumprep.bids_app.group.answers import Answers
from sodiumprep.bids_app.group.page import (
    Column,
    Picture,
    Row,
    Section,
    Table,
    count,
    figure,
    in_digits,
    interval,
    listed,
    percent,
    picture,
    probability,
    tabulate,
    text,
    with_interval,
)
from sodiumprep.bids_app.group.shown import (
    Places,
    Shown,
    answered,
    method_label,
    of_tissues,
    shown_methods,
    with_best_others,
)
from sodiumprep.bids_app.wording import UNKNOWN, number

MOST_AREAS = 16  # intervals of areas in a figure
ALPHA = 0.05  # of the false-discovery rate that is spoken of
REGION = (
    text("name", "Region", "key"),
    Column("Method", lambda r: method_label(r["pvc"]), "left"),
)


def differences_section(shown: Shown, places: Places) -> Section | None:
    """Return effects of groups and covariates.

    Parameters
    ----------
    shown
        What is told.
    places
        Where files lie.
    """
    answers = Answers.of(shown, places, "effects", "estimate")
    effects = answers.known
    if not len(effects):
        return answers.nothing("differences", "Differences", "No difference could be estimated.")
    kept = with_best_others(effects)
    first = intervals.shown_contrasts(effects)
    named = dict.fromkeys([*first, *effects["contrast"]])  # those with a panel before the others
    findings = tuple(_effect_words(effects, contrast) for contrast in named)
    says = _effects_words(effects)
    drawn = picture(
        lambda: intervals.forest_figure(kept), places.figure("effects"),
        f"Forest plot. {says} {' '.join(findings[:6])}",
        "Effects with 95 % intervals: squares without, circles with correction for partial "
        "volume; q is that of the circles, below 0.05 in red.", answers.source,
    )  # fmt: skip
    columns = (
        *REGION, text("seg", "Segmentation"), text("contrast", "Contrast"),
        interval("estimate", "Estimate (95 %)", low="ci_low", high="ci_high"),
        probability("p", "p"), probability("q", "q"),
        interval("standardized", "Effect size (95 %)"), figure("n_subjects", "n", 0),
        text("checks", "Failed checks", "left wrap"), text("notes", "Notes", "left wrap"),
        text("method", "Fit", "left wrap"),
    )  # fmt: skip
    note = (
        "Estimates in mmol/L, of a slope by unit of the covariate; effect size: Hedges' g, of a "
        "slope for one SD of the covariate. " + answers.where_all_are(kept)
    )
    reasons = answers.reasons
    failed = int((effects.get("checks", pd.Series(dtype=str)).fillna("") != "").sum())
    if failed:
        words = f"Checks of the residuals failed in {failed} of {len(effects)} fits."
        reasons = (words, *reasons)
    rests = (
        f"Rests on at most {count(int(effects['n_subjects'].max()), 'participant')}; q corrects p "
        "for the regions of a segmentation and method (Benjamini-Hochberg)."
    )
    listed_effects = (tabulate("Effects", columns, kept, note),)
    return Section("differences", "Differences", says, rests, (drawn,), listed_effects,
                   reasons, findings)  # fmt: skip


def repeatability_section(shown: Shown, places: Places) -> Section | None:
    """Return how well values repeat.

    Parameters
    ----------
    shown
        What is told.
    places
        Where files lie.
    """
    answers = Answers.of(shown, places, "repeatability", "within_sd")
    known = answers.known
    if not len(known):
        words = "How well values repeat is not known."
        return answers.nothing("repeatability", "Repeatability", words)
    kept = of_tissues(known)
    says, over = _repeat_words(kept), str(known["over"].iloc[0])
    columns = (
        *REGION, interval("within_sd", "wSD [mmol/L] (95 %)"),
        interval("coefficient", "RC [mmol/L] (95 %)"),
        Column("CoV [%] (95 %)", _percent_of("cov")), interval("icc", "ICC (95 %)"),
        interval("bias", "Bias [mmol/L] (95 %)"),
        Column("Limits of agreement", _agreement),
        figure("n_subjects", "n", 0), text("notes", "Notes", "left wrap"),
    )  # fmt: skip
    note = (
        "wSD: within-subject SD; RC: repeatability coefficient, what two measurements differ by "
        "in 5 % of cases; CoV: wSD over the mean; ICC(1). " + answers.where_all_are(kept)
    )
    rests = (
        f"Rests on repeated {over}s of at most "
        f"{count(int(known['n_subjects'].max()), 'participant')}"
        + ("; true changes between sessions are in it." if over == "session" else ".")
    )
    drawn = _pairs_picture(shown, kept, places, says)
    tables = (tabulate("Repeatability", columns, kept, note),)
    return Section("repeatability", "Repeatability", says, rests, drawn, tables, answers.reasons)


def change_section(shown: Shown, places: Places) -> Section | None:
    """Return who changed, against what error alone makes.

    Parameters
    ----------
    shown
        What is told.
    places
        Where files lie.
    """
    answers = Answers.of(shown, places, "responders", "n")
    if not len(answers.known):
        return answers.nothing("change", "Change", "No change could be told.")
    kept = of_tissues(answers.known)
    says = _change_words(kept)
    columns = (
        *REGION, figure("n", "n", 0), figure("improved", "Improved", 0),
        figure("worse", "Worse", 0), figure("within_error", "Within error", 0),
        Column("Share improved [%] (95 %)", _percent_of("share_improved")),
        Column("By chance [%]", lambda r: number(100 * r["share_by_chance"])),
        figure("mean_change", "Mean change [mmol/L]"), figure("sd_change", "SD"),
        text("error_from", "What the limit rests on", "left wrap"),
    )  # fmt: skip
    tables = [tabulate("Who changed", columns, kept, answers.where_all_are(kept))]
    tables += _slopes_table(shown, places)
    first = kept.iloc[0]
    origins = listed(kept["error_from"].dropna().unique(), 3)
    rests = (
        f"From session {first['from']} to {first['to']} of "
        f"{count(int(kept['n'].max()), 'participant')}. The limit rests on: {origins}."
    )
    return Section("change", "Change", says, rests, _change_pictures(shown, places, says),
                   tuple(tables), answers.reasons)  # fmt: skip


def diagnostic_section(shown: Shown, places: Places) -> Section | None:
    """Return how well concentrations tell classes apart, with and without correction.

    Parameters
    ----------
    shown
        What is told.
    places
        Where files lie.
    """
    answers = Answers.of(shown, places, "roc", "auc")
    if not len(answers.known):
        return answers.nothing("diagnosis", "Diagnostic value", "Nothing could be told apart.")
    kept = _told(of_tissues(answers.known))
    says = _gain_words(kept)
    columns = (
        text("told", "Told apart", "key"), REGION[1],
        Column("n", lambda r: f"{number(r['n_positive'], 0)} + {number(r['n_negative'], 0)}"),
        interval("auc", "Area (95 %)"), interval("cutoff", "Cut-off [mmol/L] (95 %)", 1),
        interval("sensitivity", "Sensitivity (95 %)"),
        interval("specificity", "Specificity (95 %)"),
        interval("calibration_slope", "Calibration slope (95 %)"),
        interval("calibration_intercept", "Calibration intercept (95 %)"),
        Column("Brier (reference)", _brier),
        *([interval("auc_gain", "Gain of area (95 %)"), probability("p_gain", "p of gain")]
          if "auc_gain" in kept else []),
    )  # fmt: skip
    note = (
        "Cut-off by Youden; sensitivity and specificity in new subjects (the optimism of the "
        "choice is taken off). Calibration of held-out probabilities: slope 1 and intercept 0 are "
        "perfect. Gain: area less that without correction, same measurements. "
        + answers.where_all_are(kept)
    )
    rests = "Rests on resampling participants; each is on both sides where regions are told apart."
    drawn = _roc_pictures(shown, kept, places, says)
    tables = (tabulate("Diagnostic value", columns, kept, note),)
    return Section("diagnosis", "Diagnostic value", says, rests, drawn, tables, answers.reasons)


def _agreement(row: Row) -> str:
    return f"{number(row.get('loa_low'))} to {number(row.get('loa_high'))}"


def _brier(row: Row) -> str:
    return f"{number(row['brier'], 3)} ({number(row['brier_reference'], 3)})"


def _percent_of(name: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        scaled = [100 * row.get(name + end, np.nan) for end in ("", "_low", "_high")]
        return with_interval(*scaled, 1)

    return cell


def _main(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the usual correction."""
    return table[table["pvc"] == shown_methods(list(table["pvc"].unique()))[-1]]


def _effects_words(effects: pd.DataFrame) -> str:
    own = answered(_main(effects), "q")
    found = int((own["q"] < ALPHA).sum())
    return (
        f"{found} of {count(len(own), 'effect')} ({method_label(str(own['pvc'].iloc[0]))}) have q "
        f"under {ALPHA:g}." if len(own) else "No effect was tested."
    )  # fmt: skip


def _effect_words(effects: pd.DataFrame, contrast: str) -> str:
    own = _main(effects[effects["contrast"] == contrast])
    tested = answered(own, "q")
    if not len(tested):
        return f"{contrast}: no region was tested."
    found = tested[tested["q"] < ALPHA]
    best = tested.loc[tested["q"].idxmin()]
    told = with_interval(best["estimate"], best["ci_low"], best["ci_high"])
    return (
        f"{contrast}: {len(found)} of {count(len(tested), 'region')} with q under {ALPHA:g} "
        f"({method_label(best['pvc'])}); clearest in {best['name']}, {told}, q "
        f"{in_digits(best['q'])}."
    )


def _repeat_words(rows: pd.DataFrame) -> str:
    wide = rows.pivot_table("coefficient", "name", "pvc", sort=False)
    methods = shown_methods(list(wide.columns))
    told = ", ".join(
        f"{name} {' and '.join(number(row[m]) + ' (' + method_label(m) + ')' for m in methods)}"
        for name, row in wide.head(4).iterrows()
    )
    over = rows["over"].iloc[0]
    return (
        f"Two {over}s of the same participant differ by less than this in 95 % of cases "
        f"[mmol/L]: {told}."
    )


def _pairs_picture(
    shown: Shown, known: pd.DataFrame, places: Places, says: str
) -> tuple[Picture, ...]:
    pairs = of_tissues(shown.table("pairs"))
    if not len(pairs) or "bias" not in known:
        return ()
    names = list(dict.fromkeys(pairs["name"]))[:8]
    own = pairs[pairs["name"].isin(names)]
    return (picture(
        lambda: intervals.bland_altman_figure(own, known), places.figure("repeatability"),
        f"Bland-Altman plots. {says}",
        "Second less first value against their mean; solid: bias, dashed: limits of agreement.",
        places.source("pairs"), places.source("repeatability"),
    ),)  # fmt: skip


def _change_words(rows: pd.DataFrame) -> str:
    told = (
        f"{r['name']}: {r['improved']:.0f} improved, {r['worse']:.0f} worse, "
        f"{r['within_error']:.0f} within error"
        for r in _main(rows).head(4).to_dict("records")
    )
    chance = percent(rows["share_by_chance"].max(), 1)
    least = "at least " if any("varies besides" in str(f) for f in rows["error_from"]) else ""
    return f"{'; '.join(told)}; error alone would call {least}{chance} improved."


def _change_pictures(shown: Shown, places: Places, says: str) -> tuple[Picture, ...]:
    changes = shown.table("changes")
    if not len(changes) or "change" not in changes:
        return ()
    own = _main(of_tissues(changes)).dropna(subset=["change"])
    own = own[own["name"].isin(list(dict.fromkeys(own["name"]))[:8])]
    labels = (str(own["from"].iloc[0]), str(own["to"].iloc[0]))
    named = own.assign(group=own["participant_id"].map(_groups(shown)).fillna(UNKNOWN))
    source, method = places.source("changes"), method_label(str(own["pvc"].iloc[0]))
    return (
        picture(lambda: courses.waterfall_figure(own), places.figure("waterfall"),
                f"Waterfall plot. {says}",
                f"Change of each participant in order ({method}); dashed: what error alone "
                "exceeds in 5 % of stable participants.", source),
        picture(lambda: courses.spaghetti_figure(named, labels), places.figure("spaghetti"),
                "Values before and after of each participant, with the means of each group.",
                f"A line per participant ({method}); thick: mean of the group.", source),
    )  # fmt: skip


def _groups(shown: Shown) -> dict[str, str]:
    table = shown.cohort.covariates.table
    if shown.group_column is None:
        return dict.fromkeys(table["participant_id"], "all")
    held = table.select("participant_id", shown.group_column).unique("participant_id")
    return {who: str(group) for who, group in held.iter_rows() if group is not None}


def _slopes_table(shown: Shown, places: Places) -> list[Table]:
    answers = Answers.of(shown, places, "slopes", "estimate")
    if not len(answers.known):
        return []
    kept = of_tissues(answers.known)
    columns = (
        *REGION, *([text("contrast", "Slope")] if "contrast" in kept else []),
        interval("estimate", "Mean slope [mmol/L by unit of time] (95 %)", 3, "ci_low", "ci_high"),
        probability("p", "p"), figure("slope_sd", "SD between participants", 3),
        text("method", "Fit", "left wrap"), text("notes", "Notes", "left wrap"),
    )  # fmt: skip
    return [tabulate("Mean change by time", columns, kept, answers.where_all_are(kept))]


def _told(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with ``told``: what is told apart by which region."""
    same = rows["positive"] == rows["negative"]
    words = rows["comparison"].where(~same, rows["positive"] + ": " + rows["comparison"])
    return rows.assign(told=words)


def _gain_words(rows: pd.DataFrame) -> str:
    wide = rows.pivot_table("auc", "told", "pvc", sort=False)
    methods = shown_methods(list(wide.columns))
    told = "; ".join(
        f"{name} {', '.join(number(row[m], 2) + ' ' + method_label(m) for m in methods)}"
        for name, row in wide.head(4).iterrows()
    )
    return f"Area under the curve: {told}."


def _roc_pictures(
    shown: Shown, kept: pd.DataFrame, places: Places, says: str
) -> tuple[Picture, ...]:
    curves = of_tissues(shown.table("roc_curves"))
    first_rows = kept[kept["told"].isin(list(dict.fromkeys(kept["told"]))[:MOST_AREAS])]
    drawn = [picture(
        lambda: intervals.gain_figure(first_rows), places.figure("auc"), says,
        "Area under each curve: squares without, circles with correction for partial volume.",
        places.source("roc"),
    )]  # fmt: skip
    if len(curves):
        told = _told(curves)
        first = list(dict.fromkeys(told["told"]))[:6]
        drawn.insert(0, picture(
            lambda: courses.roc_figure(told[told["told"].isin(first)], kept), places.figure("roc"),
            f"Receiver-operating curves. {says}",
            "Solid: corrected for partial volume; dashed: not corrected; with the areas.",
            places.source("roc_curves"), places.source("roc"),
        ))  # fmt: skip
    return tuple(drawn)
