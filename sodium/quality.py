"""What is wrong with an image: every threshold in one table, and the flags that it raises.

``docs/quality.md`` shows the same table; a test keeps the two alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sodiumprep.sodium.pose import LARGEST_ERROR, LEAST_SCORE

TISSUES = ("GM", "WM", "CSF")
# Reference values spread widely between groups: a warning, never an error [mmol/L]
PLAUSIBLE = {"GM": (25, 70), "WM": (20, 70), "CSF": (100, 170)}
YES_OR_NO = "yes or no"


@dataclass(frozen=True)
class Threshold:
    """What a figure must keep to.

    Parameters
    ----------
    flag
        Name of what is wrong if it does not; several thresholds may share one.
    figure
        Name of the figure, as :func:`figures_of` gives it.
    unit
        Of the figure; ``yes or no`` for what must not be.
    low, high
        Bounds, inclusive; None for none.
    reason
        In words, for people who read a report; ``{value}`` and ``{bound}`` are filled in.
    why
        Where the bound comes from.
    told
        Whether something else (a warning of its own, the report) says it already.
    """

    flag: str
    figure: str
    unit: str
    low: float | None
    high: float | None
    reason: str
    why: str
    told: bool = False

    def broken(self, value: float) -> float | None:
        """Return the bound that a value does not keep to, or None."""
        if self.low is not None and not value >= self.low:
            return self.low
        if self.high is not None and not value <= self.high:
            return self.high
        return None


def _plausible(tissue: str) -> Threshold:
    low, high = PLAUSIBLE[tissue]
    return Threshold(
        f"{tissue.lower()}_implausible", f"{tissue}Concentration", "mmol/L", low, high,
        f"{tissue} {{value:.0f}} mmol/L lies outside {low} to {high}",
        "wide bounds around published values of healthy and ill brains (SCIENCE)",
    )  # fmt: skip


def _fraction(tissue: str, low: float, high: float) -> Threshold:
    return Threshold(
        "tissue_fractions", f"{tissue}Fraction", "1", low, high,
        f"{tissue} makes up {{value:.0%}} of the brain (accepted: {low:.0%} to {high:.0%}): "
        "segmentation or brain mask may be wrong",
        "assumed: wide enough for atrophy, large lesions and masks without the outer CSF",
    )  # fmt: skip


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(
        "spikes", "SpikeShare", "1", None, 0.0,
        "{value:.2%} of the readouts hold a spike, or have a signal unlike that of the others",
        "none is expected: noise reaches 2.2, simulated heads 2.4 of the 5 that count as a spike",
    ),
    Threshold(
        "ghosting", "GhostShare", "1", None, 0.08,
        "structured signal outside of the head reaches {value:.0%} of the brain's mean (accepted: "
        "{bound:.0%}): a ghost, aliasing, or an object that is not listed",
        "simulated heads with 5000 readouts stay under 0.045, those with a ghost of 10 % exceed "
        "0.083",
    ),
    Threshold(
        "snr_low", "LeastSNR", "1", 5.0, None,
        "SNR of grey or white matter is {value:.1f} in one voxel (accepted: at least {bound:g})",
        "Rose criterion: 5 is needed to tell a structure from noise",
    ),
    Threshold(
        "motion", "LargestMotion", "mm", None, 5.0,
        "the head moved by {value:.1f} mm between repetitions (accepted: {bound:g}): what moved "
        "within one is not corrected",
        "up to 2 mm errors are of second order, at 8 mm poses are off by 1 mm (docs/limits.md)",
    ),
    Threshold(
        "repetitions_lost", "RejectedShare", "1", None, 0.25,
        "{value:.0%} of the repetitions were left out (accepted: {bound:.0%})",
        "assumed: a quarter costs 15 % of the SNR",
    ),
    Threshold(
        "registration_failed", "RegistrationScore", "1", LEAST_SCORE, None,
        "registration score {value:.2f} (accepted: at least {bound:g})",
        "simulated heads score above 0.8, a real one 0.67, one with another brain 0.51",
        told=True,
    ),
    Threshold(
        "registration_failed", "RegistrationError95", "mm", None, LARGEST_ERROR,
        "registration error up to {value:.1f} mm (accepted: {bound:g} mm)",
        "the width of a narrow point-spread function",
        told=True,
    ),
    Threshold(
        "brain_dice", "BrainDice", "1", 0.9, None,
        "the brain of the sodium image and that of the anatomy overlap by a Dice coefficient of "
        "{value:.2f} (accepted: at least {bound:g}): brain mask or position may be wrong",
        "simulated heads 0.93 to 0.95, a real one 0.92; masks that are moved by 16 mm or cut by "
        "4 mm stay under 0.89",
    ),
    Threshold(
        "brain_implausible", "BrainImplausible", YES_OR_NO, None, 0.0,
        "the brain mask has an implausible volume or shape",
        "bounds by age, see the warning", told=True,
    ),
    _fraction("GM", 0.3, 0.7),
    _fraction("WM", 0.15, 0.6),
    _fraction("CSF", 0.02, 0.5),
    *(_plausible(tissue) for tissue in TISSUES),
    Threshold(
        "calibration_forced", "CalibrationForced", YES_OR_NO, None, 0.0,
        "a poor line through the vials calibrates (--force)",
        "R² under 0.95 of a line through vials", told=True,
    ),
    Threshold(
        "calibration_outlier", "CalibrationOutlier", YES_OR_NO, None, 0.0,
        "a vial lies off the line of the others and is left out",
        "jackknife against the stated uncertainties and 3 %", told=True,
    ),
    Threshold(
        "calibration_scatter", "LargestCalibrationResidual", "1", None, 0.1,
        "a vial lies {value:.0%} off the calibration line (accepted: {bound:.0%})",
        "three times the 3 % that good vials are taken to err by",
    ),
    Threshold(
        "receive_uncorrected", "ReceiveUncorrected", YES_OR_NO, None, 0.0,
        "several coils without a correction of the receive profile",
        "values follow the sensitivity of the coils", told=True,
    ),
    Threshold(
        "ill_conditioned", "ConditionNumber", "1", None, 30.0,
        "condition number {value:.0f} of the transfer matrix (accepted: {bound:g}): regions can "
        "hardly be told apart",
        "demo heads 8 to 9; at 30 an error of 1 % of the kernel may change a region by 30 %",
    ),
    Threshold(
        "residual_large", "LargestResidual", "1", None, 8.0,
        "uniform regions leave {value:.1f} times the noise unexplained (accepted: {bound:g})",
        "demo heads 2.3, undersampled ones 5, a real one 5.8; grows with SNR",
    ),
    Threshold(
        "negative_voxels", "NegativeShare", "1", None, 0.02,
        "{value:.1%} of the voxels of the brain are negative (accepted: {bound:.0%})",
        "at an SNR of 5 noise alone makes none (3e-7); a real head at 7 T 0.014",
    ),
)  # fmt: skip


def figures_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a QC file that thresholds look at, as far as they are known.

    Parameters
    ----------
    metrics
        Entries of the QC file.

    Returns
    -------
    figures
        By name; yes is 1, no is 0.

    Examples
    --------
    >>> figures_of({"SNR": {"GM": 12.0, "WM": 9.0}, "ReceiveUncorrected": True})
    {'LeastSNR': 9.0, 'ReceiveUncorrected': 1.0}
    """
    noise = metrics.get("SNR") or {}
    found = {
        "LeastSNR": _extreme([noise.get(name) for name in ("GM", "WM")], min),
        "LargestResidual": _extreme((metrics.get("ResidualOverNoise") or {}).values(), max),
        "LargestCalibrationResidual": _extreme(
            [abs(r) for r in (metrics.get("CalibrationResiduals") or {}).values()], max
        ),
        **_motion(metrics),
        **{f"{t}Fraction": v for t, v in (metrics.get("TissueFractions") or {}).items()},
        **{f"{t}Concentration": v for t, v in (metrics.get("Concentrations") or {}).items()},
        "CalibrationOutlier": None if metrics.get("CalibrationOutlier") is None else 1.0,
    }
    wanted = dict.fromkeys(t.figure for t in THRESHOLDS if t.figure not in found)
    found |= {name: metrics.get(name) for name in wanted}
    return {name: float(value) for name, value in found.items() if value is not None}


def _extreme(values: Any, choose: Any) -> float | None:
    known = [float(v) for v in values if v is not None and np.isfinite(v)]
    return choose(known, default=None)


def _motion(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    blocks = [b for b in metrics.get("Motion") or [] if isinstance(b, Mapping)]
    used = [b.get("displacement_mm") for b in blocks if not b.get("rejected")]
    lost = sum(bool(b.get("rejected")) for b in blocks)
    share = lost / len(blocks) if blocks else None
    return {"LargestMotion": _extreme(used, max), "RejectedShare": share}


def raise_flags(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is wrong with an image, and why.

    Parameters
    ----------
    metrics
        Entries of the QC file; what is missing raises nothing.

    Returns
    -------
    flags
        ``Name``, ``Reason`` in words, ``Figure`` with ``Value``, ``Threshold`` and ``Unit``; in
        the order of the table of thresholds.

    Examples
    --------
    >>> raise_flags({"SNR": {"GM": 12.0, "WM": 9.0}, "NegativeShare": 0.001})
    []
    >>> flag, = raise_flags({"NegativeShare": 0.3})
    >>> flag["Name"], flag["Threshold"], flag["Reason"]
    ('negative_voxels', 0.02, '30.0% of the voxels of the brain are negative (accepted: 2%)')
    """
    figures = figures_of(metrics)
    return [
        {
            "Name": limit.flag,
            "Reason": limit.reason.format(value=value, bound=bound),
            "Figure": limit.figure,
            "Value": value,
            "Threshold": bound,
            "Unit": limit.unit,
        }
        for limit in THRESHOLDS
        if (value := figures.get(limit.figure)) is not None
        and (bound := limit.broken(value)) is not None
    ]


def untold(flags: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the reasons of flags that no warning tells yet.

    Parameters
    ----------
    flags
        As :func:`raise_flags` returns them.
    """
    told = {limit.flag for limit in THRESHOLDS if limit.told}
    return [str(flag["Reason"]) for flag in flags if flag["Name"] not in told]
