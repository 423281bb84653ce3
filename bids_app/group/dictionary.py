"""What the columns of the tables of results mean, and how the tables are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sodiumprep.bids_app.group.quality import write_table
from sodiumprep.bids_app.names import DatasetNames, with_json

TSC = "mmol/L"
TABLES: Mapping[str, str] = {
    "missing": "Participants and runs without values, and why",
    "covariates": "What is known of people and sessions, as the analyses took it",
    "effects": "Differences between groups and slopes, by region and method (mixed model)",
    "repeatability": "How well values repeat, by region and method",
    "pairs": "Pairs of repeats, for the plot of Bland and Altman",
    "changes": "Change of each participant from one session to another",
    "responders": "How many participants changed, by region and method",
    "slopes": "Mean change by time, by region and method",
    "planning": "Participants that a trial needs",
    "roc": "How well a concentration tells classes apart",
    "roc_curves": "Points of the receiver-operating curves",
    "survival": "Time to an event by the value of a region",
    "survival_curves": "Kaplan-Meier curves of the halves of the participants",
    "norms": "Where values stand on the reference curve",
    "norm_curves": "Centiles of the reference curve",
    "modality": "What sodium shares with another modality, and what it adds, by region and method",
    "modality_points": "Values of both modalities in the tissues",
    "voxelwise": "Clusters of the voxelwise model and their peaks, the largest mass first",
    "voxelwise_model": "What was tested at every voxel",
    "voxelwise_figures": "Figures of the maps, in group/figures",
}
_KEYS = {
    "participant_id": "Participant",
    "session": "Label of the session",
    "run": "Label of the run",
    "seg": "Segmentation that the region comes from",
    "name": "Region",
    "pvc": "Partial-volume correction",
    "notes": "What was left out, decided or could not be answered, in words",
    "state": "failed (a folder, but no table), not processed (no folder), or left out",
    "reason": "Why",
    "method": "How it was computed, or what was done instead",
    "n": "Participants",
    "n_subjects": "Participants",
    "n_rows": "Values",
    "n_values": "Values",
}
# column -> (unit, description)
_COLUMNS: dict[str, tuple[str, str]] = {
    "contrast": ("1", "What is compared; of a slope the covariate"),
    "estimate": (TSC, "Difference, of a slope by unit of the covariate"),
    "se": (TSC, "Standard error"),
    "df": ("1", "Degrees of freedom (Satterthwaite)"),
    "t": ("1", "Test statistic"),
    "p": ("1", "Two-sided, of no effect"),
    "q": ("1", "p corrected for the regions of the segmentation and method (Benjamini-Hochberg)"),
    "ci_low": (TSC, "Lower end of the 95 % interval"),
    "ci_high": (TSC, "Upper end of the 95 % interval"),
    "standardized": ("1", "Hedges' g; of a slope for one SD of the covariate"),
    "checks": ("1", "Checks of the residuals that failed, in words"),
    "over": ("1", "What was repeated"),
    "within_sd": (TSC, "Within-subject standard deviation"),
    "coefficient": (TSC, "Repeatability coefficient, 2.77 within-subject SDs"),
    "cov": ("1", "Within-subject SD over the mean"),
    "cov_log": ("1", "The same by logarithms"),
    "icc": ("1", "Intraclass correlation ICC(1) of one measurement"),
    "icc_agreement": ("1", "ICC(A,1), where all have the same occasions"),
    "icc_consistency": ("1", "ICC(C,1), where all have the same occasions"),
    "between_sd": (TSC, "SD between subjects, without the error of measurement"),
    "excess_sd": (TSC, "Within-subject SD beyond the uncertainties of the values"),
    "bias": (TSC, "Mean difference of the second repeat from the first"),
    "loa_low": (TSC, "Lower limit of agreement"),
    "loa_high": (TSC, "Upper limit of agreement"),
    "p_proportional": ("1", "Of differences that do not depend on the mean"),
    "subject": ("1", "Participant, and session where runs repeat"),
    "mean": (TSC, "Mean of both values; of a plan, of the reference group"),
    "difference": (TSC, "Second value less first; of a plan, what the trial is to see"),
    "from": ("1", "Session before"),
    "to": ("1", "Session after"),
    "before": (TSC, "Value before, mean of its runs"),
    "after": (TSC, "Value after, mean of its runs"),
    "change": (TSC, "After less before"),
    "u_change": (TSC, "Its standard uncertainty, without what both values share"),
    "limit": (TSC, "Change that error alone exceeds in 5 % of stable subjects"),
    "verdict": ("1", "improved, worse or within error"),
    "improved": ("1", "Participants whose change is an improvement beyond error"),
    "worse": ("1", "Participants who changed the other way beyond error"),
    "within_error": ("1", "Participants whose change error alone can make"),
    "share_improved": ("1", "Improved over all, Wilson's interval"),
    "share_by_chance": ("1", "Share that error alone would call improved"),
    "mean_change": (TSC, "Mean of the changes"),
    "sd_change": (TSC, "Standard deviation of the changes"),
    "error_from": ("1", "What tells how much stable subjects change"),
    "design": ("1", "groups: two independent ones, n in each; paired: changes of the same n"),
    "sd": (TSC, "Standard deviation of one measurement, or of a change"),
    "power": ("1", "Chance that the trial sees the difference"),
    "alpha": ("1", "Type-I error, two-sided"),
    "comparison": ("1", "What is told apart"),
    "positive": ("1", "Region of the positive side"),
    "negative": ("1", "Region of the negative side"),
    "auc": ("1", "Area under the receiver-operating curve, bootstrap over participants"),
    "n_positive": ("1", "Participants on the positive side"),
    "n_negative": ("1", "Participants on the negative side"),
    "cutoff": (TSC, "Positive from there on (Youden), chosen anew in each resampled cohort"),
    "sensitivity": ("1", "In new subjects: the optimism of the choice is taken off"),
    "specificity": ("1", "In new subjects: the optimism of the choice is taken off"),
    "calibration_slope": ("1", "Of held-out log odds; below 1 probabilities are too extreme"),
    "calibration_intercept": ("1", "Of held-out log odds; above 0 probabilities are too low"),
    "brier": ("1", "Mean squared error of held-out probabilities"),
    "brier_reference": ("1", "The same when everyone is given the share of the positive side"),
    "auc_gain": ("1", "Area less that without partial-volume correction, same measurements"),
    "p_gain": ("1", "Two-sided, of no gain"),
    "hazard_per_sd": ("1", "Hazard ratio for one standard deviation more"),
    "hazard_per_10": ("1", "Hazard ratio for 10 mmol/L more"),
    "proportional_p": ("1", "Of proportional hazards (Schoenfeld residuals)"),
    "concordance": ("1", "Harrell's"),
    "events": ("1", "Participants with an event"),
    "cut": (TSC, "What divides the participants; those above it are the upper half"),
    "logrank_p": ("1", "Two-sided, of equal survival of the halves"),
    "median_below": ("1", "Median time of the lower half, in units of the duration"),
    "median_above": ("1", "Median time of the upper half, in units of the duration"),
    "covariates": ("1", "What else the hazard was explained by"),
    "half": ("1", "below or above the cut"),
    "time": ("1", "In units of the duration"),
    "survival": ("1", "Share without an event"),
    "at_risk": ("1", "Participants left"),
    "z": ("1", "Standard deviations from the mean of the reference at this age"),
    "centile": ("1", "Share of the reference below; of a curve, which one it is"),
    "member": ("1", "Whether the participant is of the reference; then without it"),
    "age": ("year", "Age, or what the curve goes by"),
    "value": (TSC, "Concentration"),
    "slope_sd": (TSC, "Standard deviation of slopes between subjects, by unit of time"),
    "r": ("1", "Correlation of sodium with the other modality, over participants"),
    "line_slope": ("1", "Slope of the other modality over sodium, errors in both (York)"),
    "intercept": ("1", "Intercept of that line, in units of the other modality"),
    "chi2": ("1", "Weighted squares about the line over their degrees of freedom"),
    "r_true": ("1", "Correlation without what the uncertainties of both take from it"),
    "r_partial": ("1", "Correlation given the covariates of the model"),
    "p_partial": ("1", "Two-sided, of no partial correlation"),
    "given": ("1", "Covariates of the partial correlation"),
    "r_within": ("1", "Correlation of repeated measurements within participants"),
    "p_within": ("1", "Two-sided, of no correlation within participants"),
    "outcome": ("1", "What both are asked to explain"),
    "measure": ("1", "R2 (adjusted) of a number, AUC (less its optimism) of a class"),
    "other_alone": ("1", "Measure of the model with the other modality alone"),
    "with_sodium": ("1", "Measure of the model with both"),
    "gain": ("1", "What sodium adds to it"),
    "p_added": ("1", "Likelihood ratio, of sodium adding nothing"),
    "y": ("1", "Value of the other modality, in its units"),
    "x": (TSC, "Concentration of sodium"),
    "u_x": (TSC, "Its standard uncertainty, without what all participants share"),
    "u_y": ("1", "Standard uncertainty of the other value, in its units"),
    "space": ("1", "Template, its cohort and resolution"),
    "label": ("1", "Of the cluster in the map stat-cluster"),
    "size_ml": ("ml", "Volume of the cluster"),
    "mass": ("1", "Sum of what t exceeds its threshold by (two-sided p of 0.001)"),
    "peak_t": ("1", "Test statistic of its strongest voxel"),
    "peak_effect": (TSC, "Effect at its strongest voxel, of one unit of what is tested"),
    "peak_x": ("mm", "Position of the strongest voxel, from left to right"),
    "peak_y": ("mm", "Position of the strongest voxel, from back to front"),
    "peak_z": ("mm", "Position of the strongest voxel, from below to above"),
    "p_size": ("1", "Familywise p of the size of the cluster"),
    "p_mass": ("1", "Familywise p of the mass of the cluster"),
    "smoothing": ("mm", "Full width at half maximum of the Gaussian that smoothed the maps"),
    "permutations": ("1", "Relabellings"),
    "voxels": ("1", "Voxels that were tested"),
    "p_voxel": ("1", "Smallest familywise p of a voxel"),
    "p_enhanced": ("1", "Smallest familywise p of the threshold-free cluster enhancement"),
    "figure": ("1", "File in group/figures"),
    "caption": ("1", "What it shows"),
    "residual_sd": (TSC, "Standard deviation about the line of each subject"),
}
_ENDS = {"_low": "lower end of its 95 % interval", "_high": "upper end of its 95 % interval"}
DIGITS = "%.6g"


def write_results(names: DatasetNames, results: Mapping[str, pd.DataFrame]) -> None:
    """Write tables of results, each with its data dictionary.

    Parameters
    ----------
    names
        Of the output.
    results
        By name.
    """
    for name in set(TABLES) - set(results):  # of an earlier model
        for path in (names.group_result(name), with_json(names.group_result(name))):
            path.unlink(missing_ok=True)
    for name, table in results.items():
        head = {"Description": TABLES[name]} if name in TABLES else {}
        described = {column: describe(str(column)) for column in table.columns}
        write_table(names.group_result(name), table, {"Table": head, **described}, DIGITS)


def describe(column: str) -> dict[str, Any]:
    """Return the entry of a data dictionary for a column.

    Parameters
    ----------
    column
        Of a table of results; those of the participants are not known here.

    Examples
    --------
    >>> describe("auc_low")
    {'Description': 'Area under the receiver-operating curve, bootstrap over participants: lower \
end of its 95 % interval', 'Units': '1'}
    """
    for end, text in _ENDS.items():
        base = column.removesuffix(end)
        if base != column and base in _COLUMNS:
            unit, told = _COLUMNS[base]
            return {"Description": f"{told}: {text}", "Units": unit}
    if column in _COLUMNS:
        unit, told = _COLUMNS[column]
        return {"Description": told, "Units": unit}
    if column.startswith("sd_"):
        return {"Description": f"Standard deviation: {column[3:]}", "Units": TSC}
    return {"Description": _KEYS.get(column, "As in the tables of the participants")}
