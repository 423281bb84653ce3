"""What the figures of a cohort have in common: panels, colours, clouds of values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from sodiumprep.bids_app.figures import CORRECTED, INK, MUTED, OUTLIER, UNCORRECTED
from sodiumprep.bids_app.group.shown import method_label
from sodiumprep.sodium.acquisition import Floats, Integers

WIDTH = 9.4  # inches: that of the page
MOST_POINTS = 2000  # of a figure; more of them tell no more
CLOUD_FROM = 8  # different values, else a density pretends to know too much
BOX_FROM = 5  # points in a group before a box says more than they do
# Okabe & Ito 2008: told apart under every common colour blindness; places tell groups as well
GROUP_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GOLDEN = 0.6180339887498949  # places of points that never line up
MARKS = {"none": ("s", UNCORRECTED, "none"), "main": ("o", CORRECTED, CORRECTED)}


def panels(
    count: int, columns: int = 2, height: float = 2.4, share: str = "none"
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels beside and below each other.

    Parameters
    ----------
    count
        Panels.
    columns
        Panels in a row.
    height
        Of a panel [inches].
    share
        Whether the ordinates of a row are the same: ``row`` or ``none``.
    """
    across = max(1, min(columns, count))
    rows = max(1, -(-count // across))
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    grid = figure.subplots(rows, across, squeeze=False, sharey=share).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, list(grid[:count])


def name_panel(axes: Axes, title: str) -> None:
    """Write the title of a panel.

    Parameters
    ----------
    axes
        The panel.
    title
        Long ones are cut.
    """
    shown = title if len(title) <= 46 else f"{title[:45]}…"
    axes.set_title(shown, loc="left", fontsize=9.5, fontweight="bold")


def group_color(place: int) -> str:
    """Return the colour of a group.

    Parameters
    ----------
    place
        Of the group among all.
    """
    return GROUP_COLORS[place % len(GROUP_COLORS)]


def groups_in(names: Sequence[str]) -> list[str]:
    """Return groups in alphabetical order, those without one last.

    Parameters
    ----------
    names
        Of each value.
    """
    return sorted(set(map(str, names)), key=lambda name: (name == "n/a", name))


def thinned(values: Floats, most: int = MOST_POINTS) -> Integers:
    """Return the places of values to draw: all, or some evenly over their ranks and both ends.

    Parameters
    ----------
    values
        Shape (n,).
    most
        Points.

    Examples
    --------
    >>> thinned(np.array([3.0, 1.0, 2.0]), 2)
    array([1, 0])
    """
    if len(values) <= most:
        return np.arange(len(values))
    order = np.argsort(values, kind="stable")
    return order[np.linspace(0, len(values) - 1, most).round().astype(int)]


def jitter(count: int, width: float) -> Floats:
    """Return places beside each other that are the same in every run.

    Parameters
    ----------
    count
        Points.
    width
        Of the room for them.
    """
    return (np.arange(1, count + 1) * GOLDEN % 1.0) * width


def draw_cloud(
    axes: Axes, values: Floats, place: float, look: tuple[str, bool], most: int
) -> None:
    """Draw a raincloud along a line: density above, box on it, the values below.

    Parameters
    ----------
    axes
        Its ordinate runs downward.
    values
        Shape (n,).
    place
        Of the line.
    look
        Colour, and whether points are filled.
    most
        Points that are drawn.
    """
    color, filled = look
    if len(np.unique(values)) >= CLOUD_FROM:
        _draw_density(axes, values, place - 0.1, color)
    if len(values) >= BOX_FROM:
        _draw_box(axes, values, place, color)
    elif len(values):
        axes.plot([values.mean()] * 2, [place - 0.12, place + 0.12], color=color, lw=2)
    kept = values[thinned(values, most)]
    small = len(kept) > 100
    axes.plot(
        kept, place + 0.14 + jitter(len(kept), 0.22), "o", color=color, ms=2 if small else 3.6,
        alpha=0.5 if small else 0.85, mfc=color if filled or small else "white",
        mew=0.3 if small else 0.9,
    )  # fmt: skip


def draw_method(axes: Axes, x: Floats, y: Floats, ends: Floats, method: str) -> None:
    """Draw estimates with their intervals in the look of a method.

    Parameters
    ----------
    axes
        The panel.
    x, y
        Estimates and places, shape (n,).
    ends
        Ends of the intervals, shape (2, n).
    method
        ``none`` or another.
    """
    marker, color, face = MARKS["none" if method == "none" else "main"]
    reach = np.nan_to_num(np.maximum(np.array([x - ends[0], ends[1] - x]), 0))
    axes.errorbar(
        x, y, xerr=reach, fmt=marker, color=color, mfc=face, ms=4.6, lw=1.2, capsize=2,
        zorder=3, label=method_label(method),
    )  # fmt: skip


def name_looks(figure: Figure, axes: Axes) -> None:
    """Write what the looks mean above all panels.

    Parameters
    ----------
    figure
        The figure.
    axes
        A panel that has all of them.
    """
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=8.5
    )


def rows_downward(axes: Axes, labels: Sequence[str], show: bool = True, longest: int = 24) -> None:
    """Name the rows of a panel, the first one on top.

    Parameters
    ----------
    axes
        The panel.
    labels
        Of the rows.
    show
        Whether the names are written.
    longest
        Signs of a name; longer ones are cut.
    """
    shown = [label if len(label) <= longest else f"{label[: longest - 1]}…" for label in labels]
    axes.set_yticks(range(len(labels)), shown if show else [""] * len(labels), fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def regions_figure(values: pd.DataFrame) -> Figure:
    """Draw every value by region and group, uncorrected above corrected.

    Parameters
    ----------
    values
        ``name pvc group mean`` [mmol/L].
    """
    regions = list(dict.fromkeys(values["name"]))
    groups, methods = groups_in(values["group"]), list(dict.fromkeys(values["pvc"]))
    methods.sort(key=lambda pvc: pvc != "none")
    rows = [(group, pvc) for group in groups for pvc in methods]
    labels = [_row_label(group, pvc, len(groups)) for group, pvc in rows]
    drawn, grid = panels(len(regions), 2, 0.75 + 0.48 * len(rows))
    most = max(20, MOST_POINTS // max(1, len(rows) * len(regions)))
    for number, (axes, region) in enumerate(zip(grid, regions, strict=True)):
        own = values[values["name"] == region]
        for place, (group, pvc) in enumerate(rows):
            held = own[(own["group"] == group) & (own["pvc"] == pvc)]["mean"].dropna()
            color = UNCORRECTED if pvc == "none" else group_color(groups.index(group))
            draw_cloud(axes, held.to_numpy(float), place, (color, pvc != "none"), most)
        name_panel(axes, region)
        rows_downward(axes, labels, show=number % 2 == 0, longest=30)
    for axes in grid[-2:]:
        axes.set_xlabel("tissue sodium concentration [mmol/L]")
    return drawn


def quality_figure(quality: pd.DataFrame, shown: Sequence[tuple[str, str]]) -> Figure:
    """Draw the distribution of quality figures over runs; outliers are red.

    Parameters
    ----------
    quality
        One row per run, with a column ``group``.
    shown
        Columns and their titles.
    """
    groups = groups_in(quality["group"])
    drawn, grid = panels(len(shown), 3, 0.7 + 0.42 * len(groups))
    most = max(20, MOST_POINTS // max(1, len(shown) * len(groups)))
    for number, (axes, (column, title)) in enumerate(zip(grid, shown, strict=True)):
        numbers = pd.to_numeric(quality[column], errors="coerce")
        for place, group in enumerate(groups):
            held = numbers[(quality["group"] == group) & numbers.notna()].to_numpy(float)
            draw_cloud(axes, held, place, (group_color(place), True), most)
        away = numbers[robust_score(numbers).abs() > 3]
        places = [groups.index(g) + 0.25 for g in quality.loc[away.index, "group"]]
        axes.plot(away, places, "X", color=OUTLIER, ms=6, mec="white", mew=0.5, zorder=4)
        name_panel(axes, title)
        rows_downward(axes, groups if groups != ["all"] else [""], show=number % 3 == 0)
    return drawn


def robust_score(numbers: pd.Series) -> pd.Series:
    """Return how many robust standard deviations values lie from their median.

    Parameters
    ----------
    numbers
        Any; where most of them are the same, nothing stands out.

    Examples
    --------
    >>> robust_score(pd.Series([1.0, 2.0, 3.0, 9.0, 2.0])).round(1).tolist()
    [-0.7, 0.0, 0.7, 4.7, 0.0]
    """
    away = numbers - numbers.median()
    usual = 1.4826 * away.abs().median()
    return away / usual if usual > 0 else away * 0.0


def zero_line(axes: Axes, upright: bool = False) -> None:
    """Draw where nothing differs.

    Parameters
    ----------
    axes
        The panel.
    upright
        Whether zero is on the abscissa.
    """
    line = axes.axvline if upright else axes.axhline
    line(0, color=MUTED, lw=0.9, zorder=1)


def _row_label(group: str, pvc: str, groups: int) -> str:
    short = group if len(group) <= 14 else f"{group[:13]}…"
    return f"{short}, {method_label(pvc)}" if groups > 1 else method_label(pvc)


def _draw_density(axes: Axes, values: Floats, base: float, color: str) -> None:
    grid = np.linspace(values.min(), values.max(), 60)
    density = gaussian_kde(values[thinned(values)])(grid)
    axes.fill_between(grid, base, base - 0.36 * density / density.max(), color=color, alpha=0.3,
                      lw=0)  # fmt: skip


def _draw_box(axes: Axes, values: Floats, place: float, color: str) -> None:
    """Draw median, quartiles, and the last values within 1.5 box lengths."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    inside = values[(values >= low - 1.5 * (high - low)) & (values <= high + 1.5 * (high - low))]
    axes.plot([inside.min(), inside.max()], [place] * 2, color=color, lw=1)
    axes.fill_between([low, high], place - 0.07, place + 0.07, color="white", ec=color, lw=1,
                      zorder=2.5)  # fmt: skip
    axes.plot([middle] * 2, [place - 0.07, place + 0.07], color=INK, lw=1.8, zorder=3)
