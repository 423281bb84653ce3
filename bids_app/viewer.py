"""What the interactive view of the report holds: images, packed so that a page can carry them."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from sodiumprep.bids_app.figures import COLORS, LESION_LOOKS, TSC_RANGE, read_linear_text
from sodiumprep.bids_app.names import DerivativeNames, entities
from sodiumprep.bids_app.results import TISSUES, RunResults, SessionResults
from sodiumprep.interfaces.image import load_finite_image, load_image
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map

ROOM = 5_000_000  # bytes of the page that all views of a report share
STEP = 0.05  # mmol/L between two values that are told apart
MISSING = -32768  # stands for NaN
LARGEST = 32767
MARGIN_MM = 15.0  # around the brain
# edges to which the anatomy is averaged until it fits [mm]; below 0.9 mm nothing more is seen
EDGES = (0.9, 1.4, 2.0, 3.0, 4.0)
GREY_LEVELS = 64
OUTLINED = ("WM", "CSF", "GM")  # the outline between two regions has the colour of the first
View = dict[str, Any]


@dataclass(frozen=True)
class Box:
    """What is shown, along right, anterior and superior [mm].

    Parameters
    ----------
    low, high
        Corners, shape (3,).
    """

    low: Floats
    high: Floats

    def corners(self) -> Floats:
        """Return the corners as columns of homogeneous points, shape (4, 8)."""
        edges = zip(self.low, self.high, strict=True)
        grid = np.stack(np.meshgrid(*edges, indexing="ij")).reshape(3, -1)
        return np.vstack([grid, np.ones((1, grid.shape[1]))])

    def within(self, to_index: Floats, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the voxels of an image that the box holds, and one more on every side.

        Parameters
        ----------
        to_index
            From positions [mm, RAS] to voxel indices, shape (4, 4).
        shape
            Of the image.

        Raises
        ------
        ValueError
            If the image lies outside the box.
        """
        found = (to_index @ self.corners())[:3]
        low = np.clip(np.floor(found.min(axis=1)).astype(int) - 1, 0, shape)
        high = np.clip(np.ceil(found.max(axis=1)).astype(int) + 2, 0, shape)
        if np.any(low >= high):
            raise ValueError("the sodium image lies outside the anatomy")
        return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def session_view(session: SessionResults, room: float) -> View:
    """Return the packed images of a session.

    Maps come first, for they carry the numbers: what does not fit is named. The anatomy is
    averaged to larger voxels until it fits what they leave.

    Parameters
    ----------
    session
        Of the results.
    room
        Bytes that may be used.

    Returns
    -------
    view
        ``anatomy`` (None without one) and ``runs``: by the title of each run what is shown of it,
        or its ``problem`` in words.
    """
    anatomy, problem = _attempt_anatomy(session)
    runs, share = {}, room / max(1, len(session.runs))
    for run in session.runs:
        if problem:
            runs[run.title] = {"problem": problem}
            continue
        try:
            runs[run.title] = _run_view(run, session, anatomy, 0.6 * share)
        except (ValueError, OSError) as error:
            runs[run.title] = {"problem": f"cannot be shown ({error})"}
    used = sum(len(held["data"]) for run in runs.values() for held in run.get("maps", ()))
    shown = anatomy is not None and used
    return {"anatomy": anatomy.pack(room - used) if anatomy and shown else None, "runs": runs}


@dataclass(frozen=True)
class Anatomy:
    """The 1H image with its regions, cut to the brain and a margin.

    Parameters
    ----------
    image
        Shape (nx, ny, nz), window 0 to 1.
    regions
        Fractions by name, same shape: lesions, then tissues.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].
    box
        What is shown.
    start
        Where the cross stands at first, shape (3,) [mm, RAS].
    """

    image: Floats
    regions: dict[str, Floats]
    affine: Floats
    box: Box
    start: Floats

    def pack(self, room: float) -> View | None:
        """Return image and regions in at most so many bytes, None if even coarse ones do not."""
        for edge in EDGES:
            factors = np.maximum(1, np.round(edge / _zooms(self.affine))).astype(int)
            grey = np.clip(averaged(self.image, factors), 0, 1) * (GREY_LEVELS - 1)
            image = pack_bytes(np.round(grey).astype(np.uint8))
            labels = pack_bytes(self._labels(factors))
            if len(image) + len(labels) <= room:
                affine = self.affine @ _coarser(factors)
                return {
                    "shape": list(grey.shape),
                    "matrix": _matrix(np.linalg.inv(affine)),
                    "levels": GREY_LEVELS,
                    "edges": [round(float(edge), 2) for edge in _zooms(affine)],
                    "data": image,
                    "labels": labels,
                    "names": list(self.regions),
                    "colors": [_color(name, k) for k, name in enumerate(self.regions)],
                }
        return None

    def _labels(self, factors: Floats) -> Floats:
        """Return which region fills more than half of a voxel, from 1; 0 where none does."""
        shape = averaged(self.image, factors).shape
        labels = np.zeros(shape, np.uint8)
        for index, fraction in reversed(list(enumerate(self.regions.values(), 1))):
            labels[averaged(fraction, factors) >= 0.5] = index
        return labels


def averaged(values: Floats, factors: Floats) -> Floats:
    """Return the means of blocks of voxels; what fills no block at the far end is cut.

    Parameters
    ----------
    values
        Shape (nx, ny, nz).
    factors
        Voxels of a block along each axis, shape (3,).

    Examples
    --------
    >>> averaged(np.arange(8.0).reshape(1, 2, 4), np.array([1, 2, 2])).tolist()
    [[[2.5, 4.5]]]
    """
    if all(f == 1 for f in factors):
        return values
    counts = [n // int(f) for n, f in zip(values.shape, factors, strict=True)]
    cut = values[tuple(slice(n * int(f)) for n, f in zip(counts, factors, strict=True))]
    blocks = [size for n, f in zip(counts, factors, strict=True) for size in (n, int(f))]
    return np.asarray(cut.reshape(blocks).mean(axis=(1, 3, 5)))


def quantized(values: Floats) -> tuple[Floats, float]:
    """Return concentrations as 16-bit integers and the step between two of them.

    Parameters
    ----------
    values
        Any shape [mmol/L].

    Returns
    -------
    integers
        int16; :data:`MISSING` where a value is not finite.
    step
        :data:`STEP` unless the largest value needs a larger one [mmol/L]. An integer times the
        step differs from the value by half a step at most.

    Examples
    --------
    >>> integers, step = quantized(np.array([37.71, np.nan]))
    >>> (integers * step).round(2).tolist(), step
    ([37.7, -1638.4], 0.05)
    """
    known = np.isfinite(values)
    largest = float(np.abs(values[known]).max()) if known.any() else 0.0
    step = max(STEP, largest / LARGEST)
    filled = np.where(known, np.round(np.where(known, values, 0.0) / step), MISSING)
    return filled.astype(np.int16), step


def pack_bytes(values: Floats) -> str:
    """Return integers as text: first index fastest, gzip, base64.

    Parameters
    ----------
    values
        uint8, or int16, whose low bytes come before its high bytes: they compress better so.
    """
    flat = values.ravel(order="F")
    if flat.dtype == np.int16:
        flat = flat.astype("<i2").view(np.uint8).reshape(-1, 2).T.ravel()
    return base64.b64encode(gzip.compress(flat.tobytes(), 6, mtime=0)).decode()


def _attempt_anatomy(session: SessionResults) -> tuple[Anatomy | None, str]:
    if not session.has_anatomy:
        return None, ""
    try:
        return load_anatomy(session), ""
    except (ValueError, OSError) as error:
        return None, f"the anatomy cannot be shown ({error})"


def load_anatomy(session: SessionResults) -> Anatomy:
    """Load the 1H image of a session with its tissues and lesions.

    Parameters
    ----------
    session
        With an anatomy.

    Raises
    ------
    ValueError
        If a file cannot be read, is on another grid, or the image is not finite or 3D.
    """
    values, affine = load_finite_image(session.names.anat_preproc())
    paths = {**session.lesion_files(), **{name: session.names.probseg(name) for name in OUTLINED}}
    regions = {name: _like(path, values) for name, path in paths.items() if path.is_file()}
    mask_file = session.names.brain_mask()
    mask = _like(mask_file, values) > 0.5 if mask_file.is_file() else np.zeros(values.shape, bool)
    box = _brain_box(mask if mask.any() else np.ones(values.shape, bool), affine)
    where = box.within(np.linalg.inv(affine), values.shape)
    shifted = affine @ _translation([s.start for s in where])
    inside = values[mask] if mask.any() else values
    low, high = np.percentile(inside, [0.5, 99.7])
    window = 0.85 * (values[where] - low) / max(high - low, 1e-9)
    lesions = [regions[name] > 0.5 for name in regions if name not in TISSUES]
    start = _middle(next((lesion for lesion in lesions if lesion.any()), mask), affine, box)
    return Anatomy(window, {n: r[where] for n, r in regions.items()}, shifted, box, start)


def _like(path: Path, values: Floats) -> Floats:
    found, _ = load_image(path)
    if found.shape != values.shape:
        raise ValueError(f"{path.name}: shape {found.shape}, the anatomy has {values.shape}")
    return found


def _brain_box(mask: Floats, affine: Floats) -> Box:
    """Return the box around a mask and a margin, in whole millimetres."""
    surface = [np.argwhere(mask.any(axis=axis)) for axis in range(3)]
    # two opposite voxels of every column along each axis span the mask in any direction
    points = []
    for axis, columns in enumerate(surface):
        first = mask.argmax(axis=axis)[tuple(columns.T)]
        last = mask.shape[axis] - 1 - np.flip(mask, axis).argmax(axis=axis)[tuple(columns.T)]
        points += [np.insert(columns, axis, end, axis=1) for end in (first, last)]
    places = np.concatenate(points) @ affine[:3, :3].T + affine[:3, 3]
    low, high = places.min(axis=0) - MARGIN_MM, places.max(axis=0) + MARGIN_MM
    return Box(np.floor(low), np.ceil(high))


def _middle(mask: Floats, affine: Floats, box: Box) -> Floats:
    """Return the centre of a mask in whole millimetres, that of the box if the mask is empty."""
    if not mask.any():
        return np.round((box.low + box.high) / 2)
    centre = np.mean(np.argwhere(mask), axis=0)
    return np.round(affine[:3, :3] @ centre + affine[:3, 3])


def _run_view(
    run: RunResults, session: SessionResults, anatomy: Anatomy | None, room: float
) -> View:
    """Return the maps of a run as far as they fit, or why there is none."""
    found = [(name, path) for name, path in _maps(run.names) if path.is_file()]
    if not found:
        return {"problem": "no concentration map of this run is there (see logs/)"}
    transform = _to_sodium(run.names) if session.has_anatomy else np.eye(4)
    _, affine = load_image(found[0][1])
    box = anatomy.box if anatomy else _whole_box(found[0][1])
    maps: list[View] = []
    left_out = []
    for name, path in found:
        packed = _packed_map(name, path, transform, box)
        used = sum(len(held["data"]) for held in maps)
        if maps and used + len(packed["data"]) > room:
            left_out.append(name)
        else:
            maps.append(packed)
    start = anatomy.start if anatomy else _whole_middle(found[0][1], affine, box)
    return {
        "problem": "",
        "maps": maps,
        "left_out": left_out,
        "step": max(held["step"] for held in maps),
        "low": box.low.tolist(),
        "high": box.high.tolist(),
        "start": start.tolist(),
        "scales": {held["scale"]: color_table(held["scale"]) for held in maps},
        "space": session.names.anat_suffix if anatomy else "",
    }


def _maps(names: DerivativeNames) -> Iterator[tuple[str, Path]]:
    """Yield the maps that a run may have on the sodium grid, the most wanted first."""
    corrected = names.tsc_map("corrected")
    yield "corrected", corrected
    yield "apparent", names.tsc_map("apparent")
    kind = "corrected" if corrected.is_file() else "apparent"
    yield f"uncertainty of {kind}", names.tsc_map(kind, stat="uncertainty")
    beside = names.folder.glob(f"{names.sodium_prefix}_pvc-*_desc-corrected_TSCmap.nii.gz")
    for path in sorted(beside):
        if not {"stat", "space"} & set(entities(path)):
            yield f"corrected, {entities(path)['pvc']}", path


def _to_sodium(names: DerivativeNames) -> Floats:
    """Return the map of points of the anatomy to those of the sodium image [mm, LPS]."""
    own = names.sodium_transform()
    # an image that is not linear is made on the grid of the linear one and has its transform
    return read_linear_text(own if own.is_file() else replace(names, rec=None).sodium_transform())


def _packed_map(name: str, path: Path, transform: Floats, box: Box) -> View:
    values, affine = load_image(path)
    if values.ndim != 3:
        raise ValueError(f"{path.name}: {values.ndim} dimensions; a 3D image is needed")
    to_index = index_map(np.eye(4), affine, transform)
    where = box.within(to_index, values.shape)
    cut = values[where]
    integers, step = quantized(cut)
    spread = name.startswith("uncertainty")
    known = cut[np.isfinite(cut)]
    top = float(np.percentile(known, 99)) if spread and known.size else TSC_RANGE[1]
    return {
        "name": name,
        "file": path.name,
        "shape": list(cut.shape),
        "matrix": _matrix(_translation([-s.start for s in where]) @ to_index),
        "step": step,
        "range": [0.0, float(f"{max(top, STEP):.2g}")],
        "scale": "cividis" if spread else "inferno",
        "data": pack_bytes(integers),
    }


@lru_cache
def color_table(name: str) -> str:
    """Return red, green and blue of 256 colours in base64.

    Parameters
    ----------
    name
        Of a scale that matplotlib knows.
    """
    colors = mpl.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return base64.b64encode(np.ascontiguousarray(colors).tobytes()).decode()


def _whole_box(path: Path) -> Box:
    """Return the box around the field of view of an image."""
    values, affine = load_image(path)
    ends = Box(np.full(3, -0.5), np.array(values.shape[:3]) - 0.5).corners()
    places = (affine @ ends)[:3]
    return Box(np.floor(places.min(axis=1)), np.ceil(places.max(axis=1)))


def _whole_middle(path: Path, affine: Floats, box: Box) -> Floats:
    values, _ = load_image(path)
    return _middle(np.nan_to_num(values) > 0.2 * TSC_RANGE[1], affine, box)


def _zooms(affine: Floats) -> Floats:
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def _translation(shift: Any) -> Floats:
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return matrix


def _coarser(factors: Floats) -> Floats:
    """Return the map from indices of blocks to those of the voxels in their middle."""
    matrix = np.diag([*np.asarray(factors, float), 1.0])
    matrix[:3, 3] = (np.asarray(factors) - 1) / 2
    return matrix


def _matrix(to_index: Floats) -> list[float]:
    return [float(f"{value:.9g}") for value in to_index[:3].ravel()]


def _color(name: str, index: int) -> str:
    """Return the colour of a region; lesions stand before the tissues."""
    looks = cycle(LESION_LOOKS)
    return COLORS.get(name) or [next(looks) for _ in range(index + 1)][index]
