"""Figures of estimates and pairs: effects, repeats, sample sizes, two maps of the same people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sodiumprep.bids_app.figures import CORRECTED, MUTED, OUTLIER, UNCORRECTED
from sodiumprep.bids_app.group.drawing import (
    MOST_POINTS,
    draw_method,
    name_looks,
    name_panel,
    panels,
    rows_downward,
    thinned,
    zero_line,
)
from sodiumprep.bids_app.group.page import in_digits
from sodiumprep.bids_app.group.shown import TISSUE, method_label

MOST_CONTRASTS = 6
BESIDE = {"none": -0.16}  # where a method lies beside the line of its region; others below it


def forest_figure(effects: pd.DataFrame) -> Figure:
    """Draw effects of each region with their 95 % intervals, a panel for each contrast.

    Parameters
    ----------
    effects
        ``seg name pvc contrast estimate ci_low ci_high q`` [mmol/L].
    """
    contrasts = shown_contrasts(effects)
    most = max(effects[effects["contrast"] == c][["seg", "name"]].drop_duplicates().shape[0]
               for c in contrasts)  # fmt: skip
    figure, grid = panels(len(contrasts), 2, 0.85 + 0.3 * most)
    for axes, contrast in zip(grid, contrasts, strict=True):
        own = effects[effects["contrast"] == contrast]
        labels = region_labels(own)
        rows = own.assign(place=[labels.index(_region(r)) for r in own.to_dict("records")])
        _draw_effects(axes, rows)
        name_panel(axes, contrast)
        rows_downward(axes, labels)
        axes.set_xlabel("mmol/L, of a slope by unit of the covariate", fontsize=8)
    name_looks(figure, grid[0])
    return figure


def shown_contrasts(effects: pd.DataFrame) -> list[str]:
    """Return the contrasts that have a panel, of many those with the smallest q.

    Parameters
    ----------
    effects
        ``contrast q``.
    """
    known = list(dict.fromkeys(effects["contrast"]))
    if len(known) <= MOST_CONTRASTS or "q" not in effects:
        return known[:MOST_CONTRASTS]
    smallest = effects.groupby("contrast", sort=False)["q"].min().sort_values(kind="stable")
    chosen = set(smallest.index[:MOST_CONTRASTS])
    return [contrast for contrast in known if contrast in chosen]


def region_labels(rows: pd.DataFrame) -> list[str]:
    """Return the regions of a table, each once, tissues by their names alone.

    Parameters
    ----------
    rows
        ``seg name``.
    """
    return list(dict.fromkeys(map(_region, rows.to_dict("records"))))


def bland_altman_figure(pairs: pd.DataFrame, limits: pd.DataFrame) -> Figure:
    """Draw the difference of repeats against their mean, uncorrected beside corrected.

    Parameters
    ----------
    pairs
        ``name pvc mean difference`` [mmol/L].
    limits
        ``name pvc bias loa_low loa_high``.
    """
    regions, methods = list(dict.fromkeys(pairs["name"])), _methods(pairs)
    figure, grid = panels(len(regions) * len(methods), 2 * len(methods), 2.2, share="row")
    most = max(50, MOST_POINTS // len(grid))
    lines = {(row["name"], row["pvc"]): row for row in limits.to_dict("records")}
    keys = [(region, pvc) for region in regions for pvc in methods]
    for axes, key in zip(grid, keys, strict=True):
        own = pairs[(pairs["name"] == key[0]) & (pairs["pvc"] == key[1])]
        own = own.iloc[thinned(own["difference"].to_numpy(float), most)]
        color = UNCORRECTED if key[1] == "none" else CORRECTED
        axes.plot(own["mean"], own["difference"], "o", ms=3, color=color, alpha=0.7)
        zero_line(axes)
        axes.margins(y=0.15)
        if key in lines:
            _draw_limits(axes, lines[key], color)
        name_panel(axes, f"{key[0]}, {method_label(key[1])}")
        axes.set_xlabel("mean of both [mmol/L]", fontsize=8)
    for axes in grid[:: 2 * len(methods)]:
        axes.set_ylabel("second − first [mmol/L]", fontsize=8)
    return figure


def planning_figure(plan: pd.DataFrame) -> Figure:
    """Draw how many subjects a trial needs, with and without correction.

    Parameters
    ----------
    plan
        ``name pvc design n``.
    """
    designs = list(dict.fromkeys(plan["design"]))
    regions = list(dict.fromkeys(plan["name"]))
    figure, grid = panels(len(designs), 2, 1.0 + 0.34 * len(regions))
    for axes, design in zip(grid, designs, strict=True):
        for pvc in _methods(plan):
            own = plan[(plan["design"] == design) & (plan["pvc"] == pvc)]
            shift = BESIDE.get(pvc, 0.16)
            places = [regions.index(name) + shift for name in own["name"]]
            color = UNCORRECTED if pvc == "none" else CORRECTED
            axes.barh(places, own["n"], height=0.28, color=color, label=method_label(pvc))
            for place, n in zip(places, own["n"], strict=True):
                axes.annotate(f"{n:.0f}", (n, place), (3, 0), textcoords="offset points",
                              va="center", fontsize=7.5)  # fmt: skip
        name_panel(axes, "two groups, in each" if design == "groups" else "paired changes")
        rows_downward(axes, regions)
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("subjects")
    name_looks(figure, grid[0])
    return figure


def modality_figure(points: pd.DataFrame, split: str) -> Figure:
    """Draw the values of another map against sodium, with the uncertainty of both.

    Parameters
    ----------
    points
        ``name x y u_x u_y`` and the column that splits them.
    split
        A panel for each of its values.
    """
    kinds = list(dict.fromkeys(points[split]))
    figure, grid = panels(len(kinds), 3, 2.6)
    most = max(50, MOST_POINTS // max(1, len(kinds)))
    for axes, kind in zip(grid, kinds, strict=True):
        own = points[points[split] == kind]
        own = own.iloc[thinned(own["x"].to_numpy(float), most)]
        bars = {f"{k}err": own[f"u_{k}"] for k in "xy" if f"u_{k}" in own and len(own) <= 200}
        axes.errorbar(own["x"], own["y"], **bars, fmt="o", ms=3, lw=0.6, color=CORRECTED,
                      ecolor=MUTED, alpha=0.8)  # fmt: skip
        name_panel(axes, str(kind))
        axes.set_xlabel("sodium [mmol/L]", fontsize=8)
        axes.set_ylabel("other map", fontsize=8)
    return figure


def gain_figure(roc: pd.DataFrame) -> Figure:
    """Draw the area under each curve with its 95 % interval, uncorrected beside corrected.

    Parameters
    ----------
    roc
        ``told pvc auc auc_low auc_high``.
    """
    labels = list(dict.fromkeys(roc["told"]))
    figure, (axes,) = panels(1, 1, 0.9 + 0.34 * len(labels))
    for pvc in _methods(roc):
        own = roc[roc["pvc"] == pvc]
        places = np.array([labels.index(t) for t in own["told"]]) + BESIDE.get(pvc, 0.16)
        ends = own[["auc_low", "auc_high"]].to_numpy(float).T
        draw_method(axes, own["auc"].to_numpy(float), places, ends, pvc)
    axes.axvline(0.5, color=MUTED, lw=0.9, zorder=1)
    rows_downward(axes, labels, longest=44)
    axes.set_xlabel("area under the curve, 95 % interval; 0.5: no better than chance")
    name_looks(figure, axes)
    return figure


def _draw_effects(axes: Axes, rows: pd.DataFrame) -> None:
    for pvc in _methods(rows):
        own = rows[rows["pvc"] == pvc]
        ends = own[["ci_low", "ci_high"]].to_numpy(float).T
        places = own["place"].to_numpy(float) + BESIDE.get(pvc, 0.16)
        draw_method(axes, own["estimate"].to_numpy(float), places, ends, pvc)
    zero_line(axes, upright=True)
    for row in rows[rows["pvc"] == _methods(rows)[-1]].to_dict("records"):
        q = row.get("q", np.nan)
        if np.isfinite(q):
            axes.text(
                1.01, row["place"], f"q {in_digits(q)}", transform=axes.get_yaxis_transform(),
                fontsize=7.5, va="center", color=OUTLIER if q < 0.05 else MUTED,
                fontweight="bold" if q < 0.05 else "normal",
            )  # fmt: skip


def _draw_limits(axes: Axes, row: Mapping[str, Any], color: str) -> None:
    if not np.isfinite(row["bias"]):
        return
    axes.axhline(row["bias"], color=color, lw=1.3)
    for end in ("loa_low", "loa_high"):
        axes.axhline(row[end], color=color, lw=1, ls=(0, (4, 2)))
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(f"{row[end]:+.1f}", (1, row[end]), (-2, 2), ha="right",
                      fontsize=7, **place)  # fmt: skip


def _methods(table: pd.DataFrame) -> list[str]:
    return sorted(set(table["pvc"]), key=lambda pvc: (pvc != "none", pvc))


def _region(row: dict[str, object]) -> str:
    return str(row["name"]) if row["seg"] == TISSUE else f"{row['name']} ({row['seg']})"
