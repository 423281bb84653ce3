"""Images of the subject's report, drawn from files of the output alone."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from sodiumprep.bids_app.results import RunResults, SessionResults
from sodiumprep.interfaces.files import write_bytes
from sodiumprep.interfaces.image import load_image
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map, resample

# Okabe & Ito 2008: told apart under every common colour blindness
COLORS = {"GM": "#E69F00", "WM": "#56B4E9", "CSF": "#009E73", "brain": "#D55E00"}
# a class of lesion is told by its dashes as well as by its colour
LESION_LOOKS: dict[str, Any] = {
    "#F0E442": "solid",
    "#FF5FA2": (0, (4, 1.2)),
    "#C7B8EA": (0, (1.2, 1.2)),
    "#0072B2": (0, (4, 1, 1, 1)),
}
LESION_WIDTH = 1.4  # of its outline, relative to that of a tissue
INK, MUTED, GRID = "#1f2933", "#6b7785", "#d9dee4"
UNCORRECTED, CORRECTED = "#8a94a0", "#0b5394"
OUTLIER = "#b3261e"
TSC_RANGE = (0.0, 150.0)  # mmol/L
STYLE = {
    "text.parse_math": False,  # a name from a sidecar is text, whatever signs it holds
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "sodiumprep",
    "path.simplify_threshold": 0.6,
}
MARGIN_MM = 10.0
PNG_DPI = 110


@dataclass(frozen=True)
class Volume:
    """An image in the order right, anterior, superior, cut to what is shown.

    Parameters
    ----------
    values
        Shape (nx, ny, nz).
    zooms
        Edge lengths of a voxel [mm].
    """

    values: Floats
    zooms: tuple[float, float, float]

    def plane(self, axis: int, index: int) -> Floats:
        """Return one slice with its first axis upward and its second to the right."""
        where = tuple(index if k == axis else slice(None) for k in range(3))
        return np.asarray(self.values[where].T)

    def extent(self, axis: int) -> tuple[float, float, float, float]:
        """Return the edges of a slice [mm]: left, right, bottom, top."""
        across, up = (k for k in range(3) if k != axis)
        size = self.values.shape
        return (0.0, size[across] * self.zooms[across], 0.0, size[up] * self.zooms[up])

    def cut(self, box: tuple[slice, ...]) -> Volume:
        """Return the part inside a box of indices."""
        return Volume(self.values[box], self.zooms)


@dataclass(frozen=True)
class Cut:
    """Where a slice lies.

    Parameters
    ----------
    axis
        0 sagittal, 1 coronal, 2 axial.
    index
        Of the voxel along it.
    """

    axis: int
    index: int


def load_volume(path: Path) -> Volume:
    """Load an image in the order right, anterior, superior.

    Parameters
    ----------
    path
        NIfTI file.

    Returns
    -------
    volume
        Axes turned, not resampled.

    Raises
    ------
    ValueError
        If the file cannot be read or is not 3D.
    """
    values, affine = load_image(path)
    if values.ndim != 3:
        raise ValueError(f"{path.name}: {values.ndim} dimensions; a 3D image is needed")
    return _turned(values, affine)


def _turned(values: Floats, affine: Floats) -> Volume:
    turned = nib.as_closest_canonical(nib.Nifti1Image(values, affine))
    x, y, z = (float(edge) for edge in turned.header.get_zooms()[:3])
    return Volume(np.asarray(turned.dataobj, np.float32), (x, y, z))


def bounding_box(mask: Volume, margin_mm: float = MARGIN_MM) -> tuple[slice, ...]:
    """Return the box around a mask.

    Parameters
    ----------
    mask
        Above 0.5 inside.
    margin_mm
        Added on every side [mm].

    Returns
    -------
    box
        One slice per axis; the whole image if the mask is empty.
    """
    inside = mask.values > 0.5
    box = []
    for axis, zoom in enumerate(mask.zooms):
        others = tuple(k for k in range(3) if k != axis)
        filled = np.flatnonzero(inside.any(axis=others))
        if not filled.size:
            return (slice(None),) * 3
        pad = round(margin_mm / zoom)
        box.append(slice(max(0, filled[0] - pad), filled[-1] + 1 + pad))
    return tuple(box)


def spread_cuts(mask: Volume, axis: int, count: int) -> list[Cut]:
    """Return slices spread evenly over a mask, its ends left out.

    Parameters
    ----------
    mask
        Above 0.5 inside.
    axis
        Across which to cut.
    count
        How many.
    """
    others = tuple(k for k in range(3) if k != axis)
    filled = np.flatnonzero((mask.values > 0.5).any(axis=others))
    low, high = (filled[0], filled[-1]) if filled.size else (0, mask.values.shape[axis] - 1)
    places = np.linspace(low, high, count + 4)[2:-2]
    return [Cut(axis, round(place)) for place in places]


@dataclass(frozen=True)
class Contours:
    """Outlines to be drawn over every image of a session.

    Parameters
    ----------
    mask
        Brain mask.
    layers
        Volume and colour of each outline by its name, at 0.5.
    box
        What was cut from the files.
    """

    mask: Volume
    layers: Mapping[str, tuple[Volume, str]]
    box: tuple[slice, ...]

    def draw(self, axes: Axes, cut: Cut, width: float = 0.7) -> None:
        """Draw all outlines on one slice."""
        for volume, color in self.layers.values():
            plane = volume.plane(cut.axis, cut.index)
            if plane.min() < 0.5 < plane.max():
                extent = volume.extent(cut.axis)
                lesion = color in LESION_LOOKS
                thick = width * LESION_WIDTH if lesion else width
                drawn = axes.contour(
                    plane, [0.5], colors=color, linewidths=thick, extent=extent,
                    linestyles=[LESION_LOOKS.get(color, "solid")],
                )  # fmt: skip
                if lesion:  # a dark rim keeps it apart from bright sodium
                    drawn.set(path_effects=[withStroke(linewidth=2 * thick, foreground=INK)])

    def only(self, *names: str) -> Contours:
        """Return these outlines and those of lesions."""
        tissues = set(COLORS) - set(names)
        kept = {name: layer for name, layer in self.layers.items() if name not in tissues}
        return Contours(self.mask, kept, self.box)

    def lesions(self) -> Contours:
        """Return the outlines of lesions alone."""
        return self.only()


def load_contours(session: SessionResults) -> Contours:
    """Load brain mask, tissues and lesions of a session.

    Parameters
    ----------
    session
        With an anatomy.

    Returns
    -------
    contours
        Cut to the brain and a margin.

    Raises
    ------
    ValueError
        If a file cannot be read.
    OSError
        If the brain mask is missing.
    """
    mask = load_volume(session.names.brain_mask())
    box = bounding_box(mask)
    paths = {name: session.names.probseg(name) for name in ("GM", "WM", "CSF")}
    layers = {
        name: (load_volume(path).cut(box), COLORS[name])
        for name, path in paths.items()
        if path.is_file()
    }
    for (name, path), color in zip(
        session.lesion_files().items(), cycle(LESION_LOOKS), strict=False
    ):
        layers[name] = (load_volume(path).cut(box), color)
    cut_mask = mask.cut(box)
    return Contours(cut_mask, {"brain": (cut_mask, COLORS["brain"]), **layers}, box)


def anatomy_figure(session: SessionResults, contours: Contours) -> Figure:
    """Draw the 1H image with outlines of the tissues, in three directions.

    Parameters
    ----------
    session
        With an anatomy.
    contours
        Of the session.
    """
    image = load_volume(session.names.anat_preproc()).cut(contours.box)
    window = _window(image.values[contours.mask.values > 0.5], 1, 99.5)
    rows = [spread_cuts(contours.mask, axis, 5) for axis in (2, 1, 0)]
    figure, grid = _mosaic(image, rows)
    for panels, cuts in zip(grid, rows, strict=True):
        for axes, cut in zip(panels, cuts, strict=True):
            _show(axes, image, cut, "gray", window)
            contours.draw(axes, cut, 0.8)
    _mark_sides(grid[0][0])
    _legend(figure, contours)
    return figure


def registration_figures(
    run: RunResults, session: SessionResults, contours: Contours
) -> tuple[Figure, Figure]:
    """Draw the sodium map over the anatomy, and the anatomy alone, in the same frame.

    Parameters
    ----------
    run
        With a map in anatomical space.
    session
        Of the run.
    contours
        Of the session.

    Returns
    -------
    sodium, anatomy
        Two figures of the same size, to be compared by blinking.
    """
    sodium = load_volume(run.names.tsc_map("apparent", space="T1w")).cut(contours.box)
    image = load_volume(session.names.anat_preproc()).cut(contours.box)
    window = _window(image.values[contours.mask.values > 0.5], 1, 99.5)
    outlines = contours.only("WM", "CSF")
    rows = [spread_cuts(contours.mask, 2, 4), _orthogonal(contours.mask)]
    drawn = []
    for overlay in (True, False):
        figure, grid = _mosaic(image, rows)
        for panels, cuts in zip(grid, rows, strict=True):
            for axes, cut in zip(panels, cuts, strict=True):
                _show(axes, image, cut, "gray", window)
                if overlay:
                    _show(axes, sodium, cut, _see_through("inferno"), TSC_RANGE)
                outlines.draw(axes, cut)
        _mark_sides(grid[0][0])
        _legend(figure, outlines)
        drawn.append(figure)
    return drawn[0], drawn[1]


def concentration_figure(run: RunResults, contours: Contours) -> Figure:
    """Draw the apparent and the corrected map with outlines, and the uncertainty.

    Parameters
    ----------
    run
        With maps in anatomical space.
    contours
        Of the session.
    """
    names = run.names
    maps = [
        ("apparent", names.tsc_map("apparent", space="T1w"), "inferno", TSC_RANGE),
        ("corrected", names.tsc_map("corrected", space="T1w"), "inferno", TSC_RANGE),
        ("uncertainty", names.tsc_map("corrected", "T1w", "uncertainty"), "cividis", None),
    ]
    loaded = [(t, load_volume(p).cut(contours.box), c, w) for t, p, c, w in maps if p.is_file()]
    cuts = [*spread_cuts(contours.mask, 2, 4), *_orthogonal(contours.mask)[:2]]
    outlines = contours.only("WM", "CSF")
    figure, grid = _mosaic(loaded[0][1], [cuts] * len(loaded), bars=True)
    for (title, volume, colors, window), panels in zip(loaded, grid, strict=True):
        limits = window or (0.0, _window(volume.values[contours.mask.values > 0.5], 0, 99)[1])
        for axes, cut in zip(panels, cuts, strict=False):
            shown = _show(axes, volume, cut, colors, limits)
            (outlines if window else outlines.lesions()).draw(axes, cut, 0.5)
        _label_row(panels[0], title)
        _bar(figure, panels[-1], shown, "mmol/L")
    _mark_sides(grid[0][0])
    _legend(figure, outlines)
    return figure


def pvc_figure(run: RunResults, files: Mapping[str, Path], contours: Contours) -> Figure:
    """Draw the map before and after partial-volume correction, one row per method.

    Parameters
    ----------
    run
        With the map in anatomical space.
    files
        Corrected maps by method.
    contours
        Of the session.
    """
    before = {"uncorrected": run.names.tsc_map("corrected", space="T1w")}
    loaded = {name: load_volume(path).cut(contours.box) for name, path in (before | files).items()}
    cuts = [*spread_cuts(contours.mask, 2, 4), *_orthogonal(contours.mask)[:2]]
    outlines = contours.only("WM", "CSF")
    figure, grid = _mosaic(loaded["uncorrected"], [cuts] * len(loaded), bars=True)
    for (title, volume), panels in zip(loaded.items(), grid, strict=True):
        for axes, cut in zip(panels, cuts, strict=False):
            shown = _show(axes, volume, cut, "inferno", TSC_RANGE)
            outlines.draw(axes, cut, 0.5)
        _label_row(panels[0], title)
        _bar(figure, panels[-1], shown, "mmol/L")
    _mark_sides(grid[0][0])
    _legend(figure, outlines)
    return figure


def sodium_lesions(run: RunResults, session: SessionResults) -> Contours | None:
    """Load the lesions of a session on the grid of a sodium image.

    Parameters
    ----------
    run
        With a reconstructed image and a transform.
    session
        Of the run.

    Returns
    -------
    contours
        None where there is no lesion, or no transform yet.

    Raises
    ------
    ValueError
        If a file cannot be read.
    """
    files, xfm = session.lesion_files(), run.names.sodium_transform()
    if not files or not xfm.is_file():
        return None
    sodium, affine = load_image(run.names.sodium_preproc())
    back = np.linalg.inv(read_linear_text(xfm))
    layers = {}
    for (name, path), color in zip(files.items(), cycle(LESION_LOOKS), strict=False):
        mask, own = load_image(path)
        moved = resample(mask, index_map(affine, own, back), sodium.shape, 1)
        layers[name] = (_turned(moved, affine), color)
    first = next(iter(layers.values()))[0]
    return Contours(first, layers, (slice(None),) * 3)


def read_linear_text(path: Path) -> Floats:
    """Read a linear transform from ITK text; the library that writes all kinds is slow to load.

    Parameters
    ----------
    path
        ITK text.

    Returns
    -------
    matrix
        Shape (4, 4) [mm, LPS].

    Raises
    ------
    ValueError
        If the file holds no linear transform.
    """
    lines = [line.partition(":") for line in path.read_text().splitlines()]
    numbers = {key: np.array(values.split(), float) for key, _, values in lines
               if key in ("Parameters", "FixedParameters")}  # fmt: skip
    if [len(numbers.get(key, ())) for key in ("Parameters", "FixedParameters")] != [12, 3]:
        raise ValueError(f"{path.name}: not a linear transform of 12 parameters and a centre")
    linear, shift = numbers["Parameters"][:9].reshape(3, 3), numbers["Parameters"][9:]
    matrix, centre = np.eye(4), numbers["FixedParameters"]
    matrix[:3, :3], matrix[:3, 3] = linear, shift + centre - linear @ centre
    return matrix


def receive_figure(run: RunResults, lesions: Contours | None = None) -> Figure:
    """Draw the sodium image before and after the receive correction, the field and the noise.

    Parameters
    ----------
    run
        With a reconstructed image and a receive field.
    lesions
        On the grid of the sodium image.
    """
    before = load_volume(run.names.sodium_preproc())
    field = load_volume(run.names.receive_field())
    noise = load_volume(run.names.sodium_preproc(stat="noise"))
    after = Volume(before.values * field.values, before.zooms)
    scale = np.median(field.values[field.values > 0]) if (field.values > 0).any() else 1.0
    relative = Volume(field.values / scale, field.zooms)
    everywhere = Volume(np.ones(before.values.shape, np.float32), before.zooms)
    cuts = [spread_cuts(everywhere, axis, 1)[0] for axis in (2, 1, 0)]
    columns: list[tuple[str, Volume, str, tuple[float, float]]] = [
        ("before", before, "gray", _window(before.values, 1, 99.7)),
        ("factor / its median", relative, "cividis", _window(relative.values, 1, 99)),
        ("after", after, "gray", _window(after.values, 1, 99.7)),
        ("noise SD, before", noise, "cividis", (0.0, 1.2 * _window(noise.values, 0, 99.5)[1])),
    ]
    room = 0.75 if lesions else 0.5
    figure, grid = _mosaic(before, [[cut] * 4 for cut in cuts], below=room)
    for column, (title, volume, colors, window) in enumerate(columns):
        for row, cut in enumerate(cuts):
            shown = _show(grid[row][column], volume, cut, colors, window)
            if lesions:
                lesions.draw(grid[row][column], cut)
        grid[0][column].set_title(title, color=INK, fontsize=9, pad=4)
        _bar_below(figure, grid[-1][column], shown)
    if lesions:
        _legend(figure, lesions)
    return figure


def save_figure(figure: Figure, path: Path) -> str:
    """Save a figure and return it as a data URI.

    Parameters
    ----------
    figure
        The figure.
    path
        Ends with ``.png`` or ``.svg``.

    Returns
    -------
    uri
        What an ``img`` element takes as its source.
    """
    buffer = io.BytesIO()
    kind = path.suffix.removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name may hold signs the font lacks
        fast = {"pil_kwargs": {"compress_level": 1}} if kind == "png" else {}
        figure.savefig(buffer, format=kind, dpi=PNG_DPI, metadata=metadata, **fast)
    content = _fewer_colors(buffer) if kind == "png" else buffer.getvalue()
    write_bytes(path, content)
    mime = "image/png" if kind == "png" else "image/svg+xml"
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def drawing_style() -> Any:
    """Return the context in which figures are drawn and saved."""
    return mpl.rc_context(STYLE)


def _fewer_colors(buffer: io.BytesIO) -> bytes:
    """Return a PNG as one with a palette: a third of the size, no visible loss."""
    from PIL import Image  # comes with matplotlib

    out = io.BytesIO()
    image = Image.open(buffer).convert("RGB")
    # this method keeps rare colours, which are those of the outlines
    method = Image.Quantize.MAXCOVERAGE
    reduced = image.quantize(256, method=method, dither=Image.Dither.NONE)
    reduced.save(out, "PNG")
    return out.getvalue()


def _window(values: Floats, low: float, high: float) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return (0.0, 1.0)
    bottom, top = np.percentile(finite, [low, high])
    return (float(bottom), float(top)) if top > bottom else (float(bottom), float(bottom) + 1)


def _orthogonal(mask: Volume) -> list[Cut]:
    """Return a coronal and three sagittal slices."""
    return [*spread_cuts(mask, 1, 3)[1:2], *spread_cuts(mask, 0, 3)]


def _mosaic(
    volume: Volume, rows: Sequence[Sequence[Cut]], bars: bool = False, below: float = 0.0
) -> tuple[Figure, list[list[Axes]]]:
    """Return a black figure with one panel per slice, each in its true proportions.

    With ``bars`` a row ends with a panel for a colour bar; ``below`` is the room [inch] that
    follows the last row for some.
    """
    sizes = [[_size(volume, cut) for cut in row] for row in rows]
    width, left, top, gap = 9.6, (0.32 if bars else 0.0), (0.24 if below else 0.0), 0.03
    right = 0.75 if bars else 0.0
    heights = [
        (width - left - right - gap * len(row)) / sum(w / h for w, h in row) for row in sizes
    ]
    bottom = below or 0.3
    total = sum(heights) + gap * len(rows) + bottom + top
    figure = Figure(figsize=(width, total), facecolor="white")
    grid, y = [], total - top
    for row, height in zip(sizes, heights, strict=True):
        y -= height + gap
        x, panels = left, []
        for across, up in row:
            share = height * across / up
            panels.append(_panel(figure, (x, y, share, height)))
            x += share + gap
        if bars:
            panels.append(_panel(figure, (x + 0.06, y + 0.1 * height, 0.12, 0.8 * height)))
        grid.append(panels)
    return figure, grid


def _panel(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Return empty axes at a place given in inches."""
    width, height = figure.get_size_inches()
    x, y, w, h = box
    axes = figure.add_axes((x / width, y / height, w / width, h / height), facecolor="black")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _size(volume: Volume, cut: Cut) -> tuple[float, float]:
    _, across, _, up = volume.extent(cut.axis)
    return across, up


def _show(
    axes: Axes, volume: Volume, cut: Cut, colors: str | Colormap, window: tuple[float, float]
) -> Any:
    return axes.imshow(
        volume.plane(cut.axis, cut.index),
        cmap=colors,
        vmin=window[0],
        vmax=window[1],
        origin="lower",
        extent=volume.extent(cut.axis),
        interpolation="bilinear" if min(volume.zooms) > 1.5 else "antialiased",
        aspect="auto",
    )


def _see_through(name: str) -> Colormap:
    """Return a colour scale that fades out toward 0."""
    colors = mpl.colormaps[name](np.linspace(0, 1, 256))
    colors[:, 3] = np.clip(np.linspace(0, 3, 256), 0.15, 0.78)
    return mpl.colors.ListedColormap(colors)


def _mark_sides(axes: Axes) -> None:
    for x, align, side in ((0.02, "left", "L"), (0.98, "right", "R")):
        axes.text(
            x, 0.02, side, transform=axes.transAxes, color="white", fontsize=8, ha=align,
            va="bottom", fontweight="bold",
        )  # fmt: skip


def _label_row(axes: Axes, text: str) -> None:
    axes.text(
        -0.03, 0.5, text, transform=axes.transAxes, rotation=90, ha="right", va="center",
        fontsize=9, color=INK,
    )  # fmt: skip


def _legend(figure: Figure, contours: Contours) -> None:
    x, step = 0.012, 0.3 / figure.get_figheight()
    for name, (_, color) in contours.layers.items():
        line = mpl.lines.Line2D([x, x + 0.02], [step * 0.4] * 2, color=color, lw=3)
        line.set_linestyle(_thick(LESION_LOOKS.get(color, "solid")))
        figure.add_artist(line)
        text = "brain mask" if name == "brain" else name
        figure.text(x + 0.026, step * 0.4, text, fontsize=8.5, va="center", color=INK)
        x += 0.045 + 0.0068 * len(text)


def _thick(style: Any) -> Any:
    """Return dashes for a thick line, whose lengths count in widths of the line."""
    return (0, tuple(length / 2 for length in style[1])) if isinstance(style, tuple) else style


def _bar(figure: Figure, axes: Axes, shown: Any, label: str) -> None:
    bar = figure.colorbar(shown, cax=axes)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.outline.set_visible(False)


def _bar_below(figure: Figure, axes: Axes, shown: Any) -> None:
    box = axes.get_position()
    inch = 1 / figure.get_figheight()
    place = (box.x0 + 0.1 * box.width, box.y0 - 0.16 * inch, 0.8 * box.width, 0.09 * inch)
    bar = figure.colorbar(shown, cax=figure.add_axes(place), orientation="horizontal")
    bar.ax.tick_params(labelsize=7, length=2)
    bar.ax.locator_params(nbins=4)
    bar.outline.set_visible(False)
