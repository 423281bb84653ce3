"""Regions of partial-volume correction: what each voxel of the sodium image is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from sodiumprep.sodium.acquisition import Complexes, Floats

# Outer depth of each background layer [mm outside the brain mask]: a rim that takes up the fluid
# that the mask has missed, then bone, then scalp, muscle and eyes
LAYERS = {"rim": 3.0, "skull": 8.0, "scalp": np.inf}
FINEST = 1.4  # mm; edge of the voxels on which fractions are sampled before they are blurred
TISSUES = ("GM", "WM", "CSF")


def subdivision(voxel_size: Floats) -> int:
    """Return into how many parts each voxel edge is cut, so that fractions are sampled finely.

    Parameters
    ----------
    voxel_size
        Of the sodium image, shape (3,) [mm].

    Returns
    -------
    factor
        Odd, so that a fine voxel lies in the centre of each coarse one.

    Examples
    --------
    >>> subdivision(np.array([4.0, 4.0, 4.2]))
    3
    """
    factor = int(np.ceil(float(np.max(voxel_size)) / FINEST - 1e-6))  # 4.2 mm are three parts
    return factor if factor % 2 else factor + 1


def fine_affine(affine: Floats, factor: int) -> Floats:
    """Return the affine of a grid whose voxels are cut into ``factor`` parts along each edge.

    Parameters
    ----------
    affine
        Of the coarse grid, shape (4, 4).
    factor
        Odd.

    Returns
    -------
    affine
        Of the fine grid; both fill the same box.
    """
    cut = np.diag([1 / factor] * 3 + [1.0])
    cut[:3, 3] = -(factor - 1) / (2 * factor)
    return np.asarray(affine @ cut)


def voxel_means(fine: Floats, factor: int) -> Floats:
    """Return the mean of each block of ``factor`` voxels along every axis.

    Parameters
    ----------
    fine
        Shape (factor nx, factor ny, factor nz).
    factor
        Edge of the block.

    Returns
    -------
    coarse
        Shape (nx, ny, nz).
    """
    x, y, z = (n // factor for n in fine.shape)
    blocks = fine.reshape(x, factor, y, factor, z, factor)
    held = _span(fine != 0, 0)  # empty planes have empty means
    some = slice(held.start // factor, -(-held.stop // factor))
    means = np.zeros((x, y, z), fine.dtype)
    means[some] = blocks[some].mean(axis=(1, 3, 5))
    return means


def blur_to_grid(fine: Floats, factor: int, transfer: Complexes) -> Floats:
    """Return a finely sampled fraction as the reconstruction shows it.

    The fraction is reduced to the frequencies of the coarse grid (no aliasing), then blurred
    without wrap-around.

    Parameters
    ----------
    fine
        Shape (factor nx, factor ny, factor nz).
    factor
        Odd.
    transfer
        Of the tissue, shape (2 nx, 2 ny, nz + 1).

    Returns
    -------
    blurred
        Shape (nx, ny, nz), float32.
    """
    return blur_by_each(fine, factor, [transfer])[0]


def blur_by_each(fine: Floats, factor: int, transfers: Sequence[Complexes]) -> list[Floats]:
    """Return a finely sampled fraction as :func:`blur_to_grid` shows it by each of some kernels.

    Parameters
    ----------
    fine
        Shape (factor nx, factor ny, factor nz).
    factor
        Odd.
    transfers
        Each of shape (2 nx, 2 ny, nz + 1).

    Returns
    -------
    blurred
        Each of shape (nx, ny, nz), float32.
    """
    band_limited = _band_limited(fine, factor)
    doubled = tuple(2 * n for n in band_limited.shape)
    spectrum = scipy.fft.rfftn(band_limited, doubled)
    within = tuple(slice(n) for n in band_limited.shape)
    shown = (scipy.fft.irfftn(spectrum * transfer, doubled) for transfer in transfers)
    return [np.array(blurred[within], np.float32) for blurred in shown]


def _band_limited(fine: Floats, factor: int) -> Floats:
    """Sample on the coarse grid what its frequencies hold; the others are dropped axis by axis."""
    coarse = tuple(n // factor for n in fine.shape)
    x, y = (_span(fine != 0, axis) for axis in (0, 1))  # rows that are empty have no spectrum
    rows = scipy.fft.rfft(fine[x, y].astype(np.float32), axis=2)[..., : coarse[2] // 2 + 1]
    indices = [np.rint(scipy.fft.fftfreq(n, 1 / n)).astype(int) for n in coarse[:2]]
    indices.append(np.arange(coarse[2] // 2 + 1))
    spectrum = _widened(rows, 1, y, fine.shape[1])
    spectrum = scipy.fft.fft(spectrum, axis=1).take(indices[1], axis=1)
    spectrum = _widened(spectrum, 0, x, fine.shape[0])
    spectrum = scipy.fft.fft(spectrum, axis=0).take(indices[0], axis=0)
    for axis, (n, index) in enumerate(zip(coarse, indices, strict=True)):
        # the coarse voxel's centre lies (factor - 1) / 2 fine voxels from its corner voxel's
        phase = np.exp(2j * np.pi * index * (factor - 1) / 2 / (n * factor)).astype(np.complex64)
        phase[2 * np.abs(index) == n] = 0  # its sign is not known on the coarse grid
        spectrum *= np.expand_dims(phase, [a for a in range(3) if a != axis])
    return np.asarray(scipy.fft.irfftn(spectrum, coarse) / factor**3, np.float32)


def _span(held: NDArray[np.bool_], axis: int) -> slice:
    """Return where along an axis something is held."""
    where = np.flatnonzero(held.any(axis=tuple({0, 1, 2} - {axis})))
    return slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 1)


def _widened(part: Complexes, axis: int, place: slice, size: int) -> Complexes:
    """Return an array of a size along an axis that holds ``part`` at its place, else 0."""
    whole = np.zeros((*part.shape[:axis], size, *part.shape[axis + 1 :]), part.dtype)
    whole[(slice(None),) * axis + (place,)] = part
    return whole


def carve_lesions(
    tissues: Mapping[str, Floats], lesions: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Return tissue and lesion fractions that share each voxel, lesions first.

    Parameters
    ----------
    tissues
        Fractions of GM, WM and CSF, each of one shape.
    lesions
        Fractions by class; where classes overlap, the class of the smaller volume keeps its
        share (of equal ones the earlier name), since an inner class is often drawn on top of an
        outer one: core on whole tumour. A segmenter calls a lesion white matter, so what a
        lesion covers is taken from the tissues.

    Returns
    -------
    fractions
        GM, WM, CSF, then the lesions in alphabetical order; never more than 1 in sum.

    Examples
    --------
    >>> parts = carve_lesions({"WM": np.array([1.0])}, {"core": np.array([0.75])})
    >>> {name: float(value[0]) for name, value in parts.items()}
    {'WM': 0.25, 'core': 0.75}
    """
    free = np.ones_like(next(iter(tissues.values())))
    held = {name: np.clip(lesions[name], 0, 1) for name in sorted(lesions)}
    carved = {}
    for name in sorted(held, key=lambda key: float(held[key].sum(dtype=np.float64))):
        carved[name] = np.minimum(held[name], free)
        free = free - carved[name]
    total = sum(np.clip(f, 0, 1) for f in tissues.values())
    share = np.minimum(free, total) / np.maximum(total, 1e-6)
    left = {name: np.clip(f, 0, 1) * np.where(total > free, share, 1.0)
            for name, f in tissues.items()}  # fmt: skip
    return left | {name: carved[name] for name in held}


def taken_by_lesions(
    tissues: Mapping[str, Floats], carved: Mapping[str, Floats]
) -> dict[str, dict[str, float]]:
    """Return how much of each tissue each lesion took.

    Parameters
    ----------
    tissues
        Fractions of GM, WM and CSF before lesions were carved from them.
    carved
        What :func:`carve_lesions` made of them.

    Returns
    -------
    taken
        By lesion and tissue [voxels]. Where classes share a voxel they took their shares of it.

    Examples
    --------
    >>> tissues = {"GM": np.array([0.5]), "WM": np.array([0.5])}
    >>> taken_by_lesions(tissues, carve_lesions(tissues, {"core": np.array([0.5])}))
    {'core': {'GM': 0.25, 'WM': 0.25}}
    """
    lesions = {name: values for name, values in carved.items() if name not in tissues}
    if not lesions:
        return {}
    where = np.nonzero(np.sum(list(lesions.values()), axis=0))
    held = {name: values[where].astype(np.float64) for name, values in lesions.items()}
    whole = sum(held.values())
    gone = {t: np.clip(f[where], 0, 1) - carved[t][where] for t, f in tissues.items()}
    return {
        name: {t: float(np.sum(lost * own / whole)) for t, lost in gone.items()}
        for name, own in held.items()
    }


def background_regions(
    brain: Floats, head: Floats, occupied: Floats, spacing: Floats
) -> dict[str, Floats]:
    """Divide the head outside the brain into sectors of rim, skull and scalp.

    One uniform background would put the signal of scalp, muscle and eyes into the cortex; each
    octant of three layers has its own mean. Without the rim, fluid that the brain mask has missed
    would make the corrected CSF too bright.

    Parameters
    ----------
    brain, head
        Masks, shape (nx, ny, nz).
    occupied
        Share of each voxel that other regions hold, same shape.
    spacing
        Voxel edges [mm], shape (3,).

    Returns
    -------
    regions
        Fraction by name: rim-0 .. rim-7, skull-0 .., scalp-0 .., those that hold anything.
    """
    distance = distance_transform_edt(brain < 0.5, sampling=spacing)
    rest = np.clip(1 - occupied, 0, 1).astype(np.float32)
    inside = (head > 0.5) | (brain > 0.5)
    index = np.argwhere(brain > 0.5)
    centre = index.mean(axis=0) if len(index) else np.asarray(brain.shape) / 2
    axes = np.ogrid[tuple(slice(n) for n in brain.shape)]
    octant = sum(
        (axis >= c).astype(int) << k for k, (axis, c) in enumerate(zip(axes, centre, strict=True))
    )
    regions = {}
    inner = -np.inf
    for layer, outer in LAYERS.items():
        where = inside & (distance > inner) & (distance <= outer)
        for k in range(8):
            fraction = rest * (where & (octant == k))
            if fraction.any():
                regions[f"{layer}-{k}"] = fraction
        inner = outer
    return regions


def coverage(inside: float, volume: float) -> float:
    """Return the share of a region's volume that lies inside the field of view.

    Parameters
    ----------
    inside, volume
        [ml].

    Returns
    -------
    share
        In [0, 1]; nan for an empty region.

    Examples
    --------
    >>> coverage(30.0, 40.0)
    0.75
    """
    return min(inside / volume, 1.0) if volume > 0 else float("nan")


def vial_fractions(labels: Floats, names: list[str], where: str) -> dict[str, Floats]:
    """Return one fraction for each vial from a label image.

    Parameters
    ----------
    labels
        Label n is vial n, counted from 1; shape (nx, ny, nz).
    names
        One for each vial.
    where
        The file, for messages.

    Returns
    -------
    fractions
        By name, float32.

    Raises
    ------
    ValueError
        If a label has no vial, or a vial no voxel in the field of view.
    """
    found = set(np.unique(np.rint(labels).astype(int)).tolist()) - {0}
    unknown = sorted(found - set(range(1, len(names) + 1)))
    if unknown:
        raise ValueError(
            f"{where}: label {unknown[0]} has no entry in CalibrationVials ({len(names)} vials)"
        )
    missing = [name for n, name in enumerate(names, 1) if n not in found]
    if missing:
        raise ValueError(f"{where}: vial '{missing[0]}' has no voxel inside the sodium image")
    return {name: (np.rint(labels) == n).astype(np.float32) for n, name in enumerate(names, 1)}
