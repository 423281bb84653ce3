"""Figures of what runs along an axis: changes, curves of tests, of survival, of norms."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sodiumprep.bids_app.figures import CORRECTED, MUTED, UNCORRECTED
from sodiumprep.bids_app.group.drawing import (
    MOST_POINTS,
    group_color,
    groups_in,
    name_looks,
    name_panel,
    panels,
    thinned,
    zero_line,
)
from sodiumprep.bids_app.group.shown import method_label

VERDICTS = {"improved": "#009E73", "worse": "#D55E00", "within error": "#8a94a0"}
HALVES = {"below": ("#0072B2", "-"), "above": ("#D55E00", "--")}
OTHERS = "#D55E00"  # who is not of the reference
TIMES = 5  # at which numbers at risk are written


def waterfall_figure(changes: pd.DataFrame) -> Figure:
    """Draw the change of every participant in order, with the limit that error alone reaches.

    Parameters
    ----------
    changes
        ``name change limit verdict`` [mmol/L].
    """
    regions = list(dict.fromkeys(changes["name"]))
    figure, grid = panels(len(regions), 2, 2.1)
    most = max(50, MOST_POINTS // len(regions))
    for axes, region in zip(grid, regions, strict=True):
        own = changes[changes["name"] == region].sort_values("change")
        own = own.iloc[np.sort(thinned(np.arange(len(own), dtype=float), most))]
        places = np.arange(len(own))
        colors = [VERDICTS.get(word, MUTED) for word in own["verdict"]]
        axes.bar(places, own["change"], width=0.85, color=colors, lw=0)
        axes.plot(places, own["limit"], color=MUTED, lw=1, ls=(0, (4, 2)))
        axes.plot(places, -own["limit"], color=MUTED, lw=1, ls=(0, (4, 2)))
        zero_line(axes)
        name_panel(axes, region)
        axes.set_xticks([])
    for axes in grid[::2]:
        axes.set_ylabel("change [mmol/L]", fontsize=8)
    for word, color in VERDICTS.items():
        grid[0].bar([0], [0], color=color, lw=0, label=word)
    name_looks(figure, grid[0])
    return figure


def spaghetti_figure(changes: pd.DataFrame, labels: tuple[str, str]) -> Figure:
    """Draw a line from before to after for every participant, by group.

    Parameters
    ----------
    changes
        ``name group before after`` [mmol/L].
    labels
        Sessions before and after.
    """
    regions, groups = list(dict.fromkeys(changes["name"])), groups_in(changes["group"])
    across = 4 if len(groups) <= 3 else 2 if len(groups) <= 6 else 1
    figure, grid = panels(len(regions), across, 2.4)
    most = max(30, MOST_POINTS // (2 * len(regions) * len(groups)))
    for axes, region in zip(grid, regions, strict=True):
        for place, group in enumerate(groups):
            own = changes[(changes["name"] == region) & (changes["group"] == group)]
            kept = own.iloc[thinned(own["change"].to_numpy(float), most)]
            _draw_lines(axes, kept, group_color(place), 2.2 * place)
            if len(own):
                ends = [2.2 * place, 2.2 * place + 1]
                axes.plot(ends, [own["before"].mean(), own["after"].mean()], "o-",
                          color=group_color(place), lw=2.4, ms=4, mec="white")  # fmt: skip
        places = [2.2 * p + end for p in range(len(groups)) for end in (0, 1)]
        axes.set_xticks(places, [label[:6] for label in labels] * len(groups), fontsize=8)
        axes.set_xlim(-0.4, 2.2 * len(groups) - 0.8)
        _name_groups(axes, groups)
        name_panel(axes, region[:18])
    for axes in grid[::across]:
        axes.set_ylabel("mmol/L", fontsize=8)
    return figure


def roc_figure(curves: pd.DataFrame, areas: pd.DataFrame) -> Figure:
    """Draw receiver-operating curves, uncorrected and corrected in one panel.

    Parameters
    ----------
    curves
        ``told pvc sensitivity specificity``.
    areas
        ``told pvc auc``.
    """
    kinds = list(dict.fromkeys(curves["told"]))
    figure, grid = panels(len(kinds), 4 if len(kinds) in (4, 7, 8) else 3, 2.9)
    known = dict(zip(zip(areas["told"], areas["pvc"], strict=True), areas["auc"], strict=True))
    for axes, kind in zip(grid, kinds, strict=True):
        own = curves[curves["told"] == kind]
        for pvc in sorted(set(own["pvc"]), key=lambda pvc: pvc != "none"):
            line = own[own["pvc"] == pvc]
            look = (UNCORRECTED, "--") if pvc == "none" else (CORRECTED, "-")
            label = f"{method_label(pvc)}: {known.get((kind, pvc), np.nan):.2f}"
            axes.plot(1 - line["specificity"], line["sensitivity"], color=look[0], ls=look[1],
                      lw=1.6, label=label, drawstyle="steps-post")  # fmt: skip
        axes.plot([0, 1], [0, 1], color=MUTED, lw=0.7, ls=":")
        axes.set_aspect("equal")
        axes.legend(frameon=False, fontsize=8, loc="lower right", title="area", title_fontsize=8)
        axes.set_title("\n".join(wrap(kind, 28)[:2]), loc="left", fontsize=8.5, fontweight="bold")
        axes.set_xlabel("1 − specificity", fontsize=8)
    grid[0].set_ylabel("sensitivity", fontsize=8)
    return figure


def survival_figure(curves: pd.DataFrame, cuts: dict[str, float], unit: str) -> Figure:
    """Draw Kaplan-Meier curves of both halves, with the numbers at risk below.

    Parameters
    ----------
    curves
        ``name half time survival low high at_risk``.
    cuts
        What divides the participants, by region [mmol/L].
    unit
        How the time is called.
    """
    regions = list(dict.fromkeys(curves["name"]))
    figure, grid = panels(len(regions), 2, 2.9)
    for axes, region in zip(grid, regions, strict=True):
        own = curves[curves["name"] == region]
        times = MaxNLocator(TIMES).tick_values(0, float(own["time"].max()))
        times = times[(times >= 0) & (times <= own["time"].max())]
        for row, (half, (color, dashes)) in enumerate(HALVES.items()):
            line = own[own["half"] == half].sort_values("time")
            sign = "≤" if half == "below" else ">"
            axes.step(line["time"], line["survival"], where="post", color=color, ls=dashes,
                      lw=1.6, label=f"{sign} {cuts.get(region, np.nan):.1f} mmol/L")  # fmt: skip
            axes.fill_between(line["time"], line["low"], line["high"], step="post", color=color,
                              alpha=0.15, lw=0)  # fmt: skip
            _write_at_risk(axes, line, times, (row, color))
        axes.set_ylim(0, 1.02)
        axes.set_xticks(times, [f"{t:g}" for t in times])
        axes.set_xlabel(f"{unit}; below: participants at risk", fontsize=8, labelpad=26)
        axes.legend(frameon=False, fontsize=8, loc="upper right")
        name_panel(axes, region)
    for axes in grid[::2]:
        axes.set_ylabel("share without event", fontsize=8)
    return figure


def norms_figure(curves: pd.DataFrame, points: pd.DataFrame, by: str) -> Figure:
    """Draw centiles by age, with the values of all participants.

    Parameters
    ----------
    curves
        ``name age centile value`` [mmol/L].
    points
        ``name age value member``.
    by
        What the curve goes by.
    """
    regions = list(dict.fromkeys(curves["name"]))
    figure, grid = panels(len(regions), 2, 2.7)
    most = max(50, MOST_POINTS // (2 * len(regions)))
    for axes, region in zip(grid, regions, strict=True):
        own = points[points["name"] == region]
        for member, color, marker in ((True, UNCORRECTED, "o"), (False, OTHERS, "^")):
            rows = own[own["member"].astype(bool) == member]
            rows = rows.iloc[thinned(rows["value"].to_numpy(float), most)]
            label = "reference" if member else "others"
            axes.plot(rows["age"], rows["value"], marker, color=color, ms=2.6, alpha=0.6,
                      label=label)  # fmt: skip
        _draw_centiles(axes, curves[curves["name"] == region])
        name_panel(axes, region)
        axes.set_xlabel(by, fontsize=8)
    name_looks(figure, grid[0])
    for axes in grid[::2]:
        axes.set_ylabel("mmol/L", fontsize=8)
    return figure


def _name_groups(axes: Axes, groups: list[str]) -> None:
    """Write the groups below their sessions."""
    for place, group in enumerate(groups if len(groups) > 1 else ()):
        axes.annotate(
            group[:12], (2.2 * place + 0.5, 0), (0, -24), xycoords=axes.get_xaxis_transform(),
            textcoords="offset points", ha="center", fontsize=8, color=group_color(place),
        )  # fmt: skip


def _draw_lines(axes: Axes, rows: pd.DataFrame, color: str, place: float) -> None:
    ends = rows[["before", "after"]].to_numpy(float)
    lines = [[(place, a), (place + 1, b)] for a, b in ends]
    axes.add_collection(LineCollection(lines, colors=color, lw=0.6, alpha=0.4))


def _write_at_risk(
    axes: Axes, line: pd.DataFrame, times: np.ndarray, look: tuple[int, str]
) -> None:
    """Write how many are left at the ticks; ``look`` is the row below the axis and the colour."""
    row, color = look
    known, left = line["time"].to_numpy(float), line["at_risk"].to_numpy(float)
    for time in times:
        later = np.flatnonzero(known >= time)
        shown = f"{left[later[0]]:.0f}" if later.size else "0"
        axes.annotate(
            shown, (time, 0), (0, -26 - 11 * row), xycoords=axes.get_xaxis_transform(),
            textcoords="offset points", ha="center", fontsize=7.5, color=color,
            annotation_clip=False,
        )  # fmt: skip


def _draw_centiles(axes: Axes, curves: pd.DataFrame) -> None:
    for centile, line in curves.groupby("centile", sort=True):
        share = float(str(centile))
        middle = abs(share - 0.5) < 1e-9
        axes.plot(line["age"], line["value"], color=CORRECTED, lw=1.8 if middle else 0.9)
        last = line.iloc[-1]
        axes.annotate(f"{100 * share:.0f} %", (last["age"], last["value"]), (2, 0), fontsize=7,
                      textcoords="offset points", va="center", color=CORRECTED)  # fmt: skip
