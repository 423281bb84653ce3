"""Figures of maps in template space."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sodiumprep.bids_app import figures
from sodiumprep.bids_app.figures import Cut, Volume, bounding_box, spread_cuts
from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.interfaces.cohort_maps import Grid, Mask
from sodiumprep.sodium.acquisition import Floats

Tables = dict[str, list[dict[str, Any]]]  # rows by table
SLICES = 7
MARGIN_MM = 4.0
WIDTH = 9.4  # inches
HIGHEST = 98  # percentile of a brain that a scale ends at


class Measured(Protocol):
    """Where an effect is drawn."""

    @property
    def mask(self) -> Mask:
        """Of the brain."""

    @property
    def mean(self) -> Floats:
        """Of the cohort."""


def mean_figure(mean: Floats, sd: Floats, mask: Mask, grid: Grid) -> Figure:
    """Draw mean and standard deviation in axial slices.

    Parameters
    ----------
    mean, sd
        Shape of the grid [mmol/L].
    mask
        Of the brain.
    grid
        Where they lie.
    """
    inside = _turned(mask, grid)
    figure, rows, cuts, box = _panels(inside, 2)
    for axes, values, title in zip(rows, (mean, sd), ("mean", "SD"), strict=True):
        known = values[mask & np.isfinite(values)]
        high = float(np.percentile(known, HIGHEST)) if known.size else 1.0
        volume = _turned(np.nan_to_num(values), grid).cut(box)
        shown = [_show(ax, volume, cut, "viridis", (0.0, high))
                 for ax, cut in zip(axes, cuts, strict=True)]  # fmt: skip
        figure.colorbar(shown[-1], ax=axes, label=f"{title} [mmol/L]", shrink=0.85, pad=0.01)
    return figure


def effect_figure(effect: Floats, sure: Mask, brain: Measured, grid: Grid) -> Figure:
    """Draw an effect over the mean, and outline where it is sure.

    Parameters
    ----------
    effect
        Shape of the grid, 0 where it is not tested.
    sure
        What is outlined.
    brain
        Mask and mean of the cohort.
    grid
        Where they lie.
    """
    inside = _turned(brain.mask, grid)
    figure, rows, cuts, box = _panels(inside, 1)
    tested = np.abs(effect[brain.mask])
    high = float(np.percentile(tested, HIGHEST)) or 1.0
    under = _turned(np.nan_to_num(brain.mean), grid).cut(box)
    over, edge = _turned(effect, grid).cut(box), _turned(sure, grid).cut(box)
    top = float(np.percentile(under.values, HIGHEST)) or 1.0
    for ax, cut in zip(rows[0], cuts, strict=True):
        _show(ax, under, cut, "gray", (0.0, top))
        shown = _show(ax, over, cut, "RdBu_r", (-high, high), np.where(
            over.plane(cut.axis, cut.index) != 0, 0.75, 0.0))  # fmt: skip
        outline = edge.plane(cut.axis, cut.index)
        if outline.any() and not outline.all():
            ax.contour(outline, [0.5], colors="black", linewidths=1.1, extent=edge.extent(2))
    figure.colorbar(shown, ax=rows[0], label="effect [mmol/L]", shrink=0.85, pad=0.01)
    return figure


def keep(out_dir: Path, name: str, figure: Figure, caption: str) -> Tables:
    """Save a figure and return its row of the table of figures.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    name
        Behind ``voxelwise_``.
    figure
        What is drawn.
    caption
        What it shows.
    """
    path = DatasetNames(out_dir).group_dir / "figures" / f"voxelwise_{name}.png"
    figures.save_figure(figure, path)
    return {"voxelwise_figures": [{"figure": path.name, "caption": caption}]}


def _turned(values: Any, grid: Grid) -> Volume:
    image = nib.Nifti1Image(np.asarray(values, np.float32), grid.affine)
    turned = nib.as_closest_canonical(image)
    x, y, z = (float(edge) for edge in turned.header.get_zooms()[:3])
    return Volume(np.asarray(turned.dataobj, np.float32), (x, y, z))


def _panels(
    inside: Volume, rows: int
) -> tuple[Figure, list[list[Axes]], list[Cut], tuple[slice, ...]]:
    """Return empty rows of axial slices, and which part of the image they show."""
    box = bounding_box(inside, MARGIN_MM)
    mask = inside.cut(box)
    cuts = spread_cuts(mask, 2, SLICES)
    _, across, _, up = mask.extent(2)
    figure = Figure(figsize=(WIDTH, rows * (WIDTH - 0.9) / SLICES * up / across + 0.15),
                    layout="constrained")  # fmt: skip
    panels = figure.subplots(rows, SLICES, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.02)  # type: ignore[union-attr, call-arg]
    for ax in panels.ravel():
        ax.set_axis_off()
    for place, side in ((0.03, "L"), (0.9, "R")):
        panels[0, 0].text(place, 0.03, side, transform=panels[0, 0].transAxes, color="white",
                          fontsize=7)  # fmt: skip
    return figure, [list(row) for row in panels], cuts, box


def _show(
    axes: Axes, volume: Volume, cut: Cut, colors: str, window: tuple[float, float],
    alpha: Any = None,
) -> Any:  # fmt: skip
    return axes.imshow(
        volume.plane(cut.axis, cut.index), cmap=colors, vmin=window[0], vmax=window[1],
        origin="lower", extent=volume.extent(cut.axis), interpolation="nearest", alpha=alpha,
    )  # fmt: skip
