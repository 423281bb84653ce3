"""Charts of the subject's report: lines, points and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogLocator, NullFormatter

from sodiumprep.bids_app.figures import CORRECTED, INK, OUTLIER, UNCORRECTED
from sodiumprep.bids_app.results import RunResults
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.calibrate import magnetization_factor


def calibration_figure(calibration: Mapping[str, Any]) -> Figure:
    """Draw the calibration lines with their vials, and the residuals below.

    Parameters
    ----------
    calibration
        ``Calibration`` of the QC file: ``vials`` and ``Lines``.
    """
    lines = calibration["Lines"]
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    grid = figure.subplots(2, len(lines), height_ratios=(3, 1), squeeze=False, sharex="col")
    for column, (name, line) in enumerate(lines.items()):
        vials = calibration["vials"]
        x, u_x, y, u_y = _vial_points(vials, corrected=name == "corrected")
        u = np.hypot(u_y, line["slope"] * u_x) / line["slope"]
        _draw_line(grid[0, column], line, float(x.max()))
        left = np.asarray(line["residuals"], float) / line["slope"]
        grid[1, column].axhline(0, color=CORRECTED, lw=1.2)
        for k, vial in enumerate(vials):
            used = vial.get("used", True)
            _draw_point(grid[0, column], (x[k], y[k]), (u_x[k], u_y[k]), used)
            _draw_point(grid[1, column], (x[k], left[k]), (0.0, u[k]), used)
            if not used:
                _name_outlier(grid[0, column], str(vial["name"]), (x[k], y[k]))
        kind = "relaxation-corrected" if name == "corrected" else name
        grid[0, column].set_title(kind, loc="left", fontsize=10, fontweight="bold")
        grid[0, column].set_ylabel("signal" if not column else "")
        grid[1, column].set_ylabel("residual\n[mmol/L]" if not column else "")
        weight = ", relaxation" if name == "corrected" else ""
        grid[1, column].set_xlabel(f"concentration, weighted by magnetization{weight} [mmol/L]")
    return figure


def regions_figure(run: RunResults, plausible: Mapping[str, tuple[float, float]]) -> Figure:
    """Draw the regional concentrations with and without partial-volume correction.

    Parameters
    ----------
    run
        With a table.
    plausible
        Range of published values by region [mmol/L].
    """
    rows = {pvc: run.rows(pvc, "corrected") for pvc in ("none", "gtm")}
    names = list(rows["gtm"]["name"] if len(rows["gtm"]) else rows["none"]["name"])
    figure = Figure(figsize=(8.6, 0.8 + 0.48 * len(names)), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        if name in plausible:
            low, high = plausible[name]
            axes.barh(place, high - low, left=low, height=0.78, color="#e8edf2", zorder=1)
    looks = (("none", UNCORRECTED, "none", 0.17, "s"), ("gtm", CORRECTED, CORRECTED, -0.17, "o"))
    for pvc, color, face, shift, marker in looks:
        _draw_intervals(axes, rows[pvc], names, shift, color, face, marker)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("tissue sodium concentration [mmol/L], 95 % interval")
    return figure


def scan_time_figure(curve: Mapping[str, Any]) -> Figure:
    """Draw how uncertain each region would be, had the scan been shorter.

    Parameters
    ----------
    curve
        ``ScanTime`` of the table's sidecar.
    """
    share = 100 * np.asarray(curve["Share"], float)
    figure = Figure(figsize=(8.6, 3.0), layout="constrained")
    axes = figure.subplots()
    for k, name in enumerate(curve["Names"]):
        theory = np.asarray(curve["Uncertainty"], float)[:, k]
        seen = [np.nan if s is None else s[k] for s in curve["Scatter"]]
        (line,) = axes.plot(share, theory, "-", lw=1.4, label=name)
        axes.plot(share, seen, "o", color=line.get_color(), ms=4, mfc="none")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(share, [f"{s:g} %" for s in share])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("share of the readouts")
    axes.set_ylabel("uncertainty from noise [mmol/L]")
    axes.legend(frameon=False, fontsize=8)
    return figure


def convergence_figure(course: Mapping[str, Any]) -> Figure:
    """Draw what an iterative reconstruction minimized, and what was left, step by step.

    Parameters
    ----------
    course
        ``Course`` of the QC file: ``Objective``, ``Residual`` and ``DataMisfit``, one value per
        iteration.
    """
    figure = Figure(figsize=(8.6, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    objective = _series(course, "Objective")
    last = abs(objective[-1]) if objective.size and objective[-1] else 1.0
    _draw_course(left, objective / last, CORRECTED, "objective")
    left.set_ylabel("objective / its last value")
    _draw_course(right, _series(course, "Residual"), CORRECTED, "residual")
    _draw_course(right, _series(course, "DataMisfit"), UNCORRECTED, "data misfit")
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")  # the usual one writes math, which is turned off
    right.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    right.set_ylabel("relative")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("iteration")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _series(course: Mapping[str, Any], key: str) -> Floats:
    return np.array([np.nan if v is None else v for v in course.get(key) or []], float)


def _draw_course(axes: Axes, values: Floats, color: str, label: str) -> None:
    steps = np.arange(1, len(values) + 1)
    axes.plot(steps, values, "o-", color=color, ms=3, lw=1.2, label=label)


def _vial_points(
    vials: Sequence[Mapping[str, Any]], corrected: bool
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return what a line was fitted to: abscissa, its uncertainty, signal, its uncertainty."""
    scale = np.array(
        [
            magnetization_factor(vial.get("temperature"))[0]
            * (vial["factor"] if corrected else 1.0)
            for vial in vials
        ]
    )
    columns = {
        key: np.array([float(vial[key]) for vial in vials])
        for key in ("concentration", "u_concentration", "signal", "u_signal")
    }
    return (
        columns["concentration"] * scale,
        columns["u_concentration"] * scale,
        columns["signal"],
        columns["u_signal"],
    )


def _draw_line(axes: Axes, line: Mapping[str, Any], highest: float) -> None:
    x = np.linspace(0, 1.08 * highest, 60)
    y = line["slope"] * x + line["intercept"]
    (a, b), (_, c) = line["covariance"]
    half = 1.96 * np.sqrt(np.maximum(a * x**2 + 2 * b * x + c, 0))
    axes.fill_between(x, y - half, y + half, color=CORRECTED, alpha=0.15, lw=0)
    axes.plot(x, y, color=CORRECTED, lw=1.4)
    axes.set_xlim(0, x[-1])
    axes.set_ylim(bottom=min(0.0, float(y.min())))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=False)


def _name_outlier(axes: Axes, name: str, place: tuple[float, float]) -> None:
    to_the_left = place[0] > np.mean(axes.get_xlim())
    axes.annotate(
        f"{name}: outlier, left out", place, (-7 if to_the_left else 7, -3), fontsize=8,
        textcoords="offset points", color=OUTLIER, ha="right" if to_the_left else "left",
    )  # fmt: skip


def _draw_point(
    axes: Axes, place: tuple[float, float], u: tuple[float, float], used: bool
) -> None:
    """Draw a vial with its 95 % error bars, hollow and red where it is left out."""
    look = {"fmt": "o", "color": INK} if used else {"fmt": "X", "color": OUTLIER, "mfc": "none"}
    bars = {"xerr": 1.96 * u[0], "yerr": 1.96 * u[1]}
    axes.errorbar(*place, **bars, **look, ms=4.5 if used else 7, lw=1, capsize=2.5, zorder=3)


def _draw_intervals(
    axes: Axes, rows: pd.DataFrame, names: Sequence[str], shift: float, color: str, face: str,
    marker: str,
) -> None:  # fmt: skip
    known = rows.dropna(subset=["mean"]) if len(rows) else rows
    for _, row in known.iterrows():
        ends = [row["mean"] - row["ci_low"], row["ci_high"] - row["mean"]]
        drawn = np.nan_to_num(np.maximum(ends, 0))[:, None]
        place = names.index(row["name"]) + shift
        axes.errorbar(
            row["mean"], place, xerr=drawn, fmt=marker, color=color, mfc=face, ms=5.5, lw=1.4,
            capsize=3, zorder=3,
        )  # fmt: skip
        axes.annotate(
            f"{row['mean']:.1f}", (row["mean"] + drawn[1, 0], place), (6, 0), fontsize=8,
            textcoords="offset points", va="center", color=color,
        )  # fmt: skip
