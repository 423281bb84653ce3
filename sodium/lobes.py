"""A coarse division of the MNI152 brain into lobes and deep grey nuclei.

It needs no file. Borders of lobes are planes through their sulci, nuclei are ellipsoids, in
millimetres of the MNI152 space: good for means over lobes, not for anatomy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Floats, Integers

Mask = NDArray[np.bool_]

_PARTS = (
    "frontal lobe", "parietal lobe", "temporal lobe", "occipital lobe", "cerebellum", "thalamus",
    "caudate", "putamen", "pallidum",
)  # fmt: skip
BRAINSTEM = 2 * len(_PARTS) + 1
LOBES: dict[int, str] = {
    **{2 * k + 1 + right: f"{side} {part}"
       for k, part in enumerate(_PARTS)
       for right, side in enumerate(("left", "right"))},
    BRAINSTEM: "brainstem",
}  # fmt: skip
GREY = ("thalamus", "caudate", "putamen", "pallidum")  # nuclei: their rows are of GM

# centre (|x|, y, z), semi-axes [mm] and turns [degree] about x (front up) and z (front inward)
_NUCLEI: dict[str, list[tuple[tuple[float, ...], tuple[float, ...], float, float]]] = {
    "thalamus": [((12.0, -18.0, 8.0), (10.0, 15.0, 11.5), 0.0, 23.0)],
    "caudate": [((12.0, 15.0, 5.0), (7.0, 10.0, 13.0), 25.0, 10.0),
                ((17.0, -2.0, 20.0), (5.0, 17.0, 6.0), -20.0, 15.0)],
    "putamen": [((27.0, 5.0, 2.5), (7.0, 20.0, 12.5), -13.0, 18.0)],
    "pallidum": [((20.0, 0.0, 0.0), (5.0, 13.0, 7.5), 0.0, 36.0)],
}  # fmt: skip


def lobe_labels(shape: tuple[int, ...], affine: Floats) -> Integers:
    """Return the label of each voxel of a grid in MNI152 space, by :data:`LOBES`.

    Parameters
    ----------
    shape
        Of the grid.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].

    Returns
    -------
    labels
        Shape ``shape``, never 0: what is outside the brain belongs to the nearest lobe, since
        the brain's own tissue fractions decide what is brain.
    """
    index = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    x, y, z = (sum(affine[k, a] * index[a] for a in range(3)) + affine[k, 3] for k in range(3))
    part = _cerebrum(np.abs(x), y, z)
    part[_is_cerebellum(np.abs(x), y, z)] = _PARTS.index("cerebellum")
    for name in ("thalamus", "caudate", "putamen", "pallidum"):
        inside = np.zeros(shape, bool)
        for centre, axes, tilt, yaw in _NUCLEI[name]:
            inside |= _ellipsoid((np.abs(x), y, z), centre, axes, tilt, yaw)
        part[inside] = _PARTS.index(name)
    labels = 2 * part + 1 + (x > 0)
    labels[_is_brainstem(np.abs(x), y, z) & (part < _PARTS.index("thalamus"))] = BRAINSTEM
    return labels.astype(np.int32)


def _cerebrum(x: Floats, y: Floats, z: Floats) -> Integers:
    """Return the lobe of each place, by its distance from the midline, y and z [mm]."""
    frontal, parietal, temporal, occipital = range(4)
    lobe = np.full(x.shape, frontal)
    # central sulcus: it leans back towards the vertex, and towards the midline
    behind_central = y < -12 - 0.55 * (z - 50) - 0.35 * (55 - np.maximum(x, 28))
    lobe[behind_central & (y < 6) & (z > 0)] = parietal
    lobe[(x < 20) & (y > -42) & (z < 50)] = frontal
    # Sylvian fissure: it rises towards the back
    rise = np.clip(4 - 0.55 * (y - 4), -20, 24)
    sylvian = np.where(x > 40, rise, np.where(y > -24, -9, np.minimum(rise, 12)))
    lobe[(z < sylvian) & (x > 20) & (y < 26)] = temporal
    lobe[(x > 12) & (z < -6) & (y < 4) & (y > -50)] = temporal
    # parieto-occipital sulcus at the midline, and the preoccipital notch at the side
    sulcus = np.where(x < 26, -48 - 0.7 * np.clip(z, 0, 60), -68.0)
    lobe[y < sulcus] = occipital
    lobe[(x < 26) & (y < -50) & (z < 6)] = occipital
    return lobe


def _is_cerebellum(x: Floats, y: Floats, z: Floats) -> Mask:
    tentorium = -10 - 0.36 * np.maximum(x - 12, 0) - 0.5 * np.maximum(-80 - y, 0)
    return (z < tentorium) & (y < -34)


def _is_brainstem(x: Floats, y: Floats, z: Floats) -> Mask:
    back = np.where(z > -20, -34.0, -40.0)
    return (x < 18) & (z < -7) & (y > back) & (y < -10 + 0.25 * (z + 7))


def _ellipsoid(
    place: tuple[Floats, Floats, Floats],
    centre: tuple[float, ...],
    axes: tuple[float, ...],
    tilt: float,
    yaw: float,
) -> Mask:
    x, y, z = (p - c for p, c in zip(place, centre, strict=True))
    a, b = np.radians(yaw), np.radians(tilt)
    x, y = x * np.cos(a) + y * np.sin(a), y * np.cos(a) - x * np.sin(a)
    y, z = y * np.cos(b) + z * np.sin(b), z * np.cos(b) - y * np.sin(b)
    return (x / axes[0]) ** 2 + (y / axes[1]) ** 2 + (z / axes[2]) ** 2 < 1
