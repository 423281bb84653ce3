"""Tissue fractions from what a segmenter left: labels, posteriors, or fractions to be checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sodiumprep.sodium.acquisition import Floats

Labels = NDArray[np.integer]
Mask = NDArray[np.bool_]

TISSUES = ("GM", "WM", "CSF")
NOTHING = ""  # a label that is known and belongs to no tissue of the brain
SMALL_EXCESS = 1e-3  # beyond [0, 1]: rounding of a scaled integer, clipped
SUM_ROUNDING = 0.01  # of a sum, where each of three fractions is stored as a byte
LARGEST_SUM = 1.1  # of a voxel's fractions; more is no rounding, less is scaled down to one
SAME_TISSUE = (
    0.9  # share of the voxels in which a channel is the largest that must be of one tissue
)
LOST_SHARE = 1e-3  # of all posteriors, in channels that are nowhere the largest

# Numbers of FreeSurfer's colour table (aseg, aparc, wmparc). What a lump of both is counted as:
# brain stem WM, ventral diencephalon GM; choroid plexus and perivascular spaces CSF.
_BY_TISSUE: dict[str, tuple[int | range, ...]] = {
    "GM": (
        3, 42, 8, 47, range(9, 14), range(48, 53), 17, 53, 18, 54, 19, 55, 20, 56, 26, 58, 27, 59,
        28, 60, 80, 81, 82, range(1000, 1036), range(2000, 2036), range(11100, 11176),
        range(12100, 12176),
    ),
    "WM": (
        2, 41, 7, 46, 16, 77, 78, 79, 85, 192, 250, range(251, 256), range(3000, 3036),
        range(4000, 4036), range(13100, 13176), range(14100, 14176), 5001, 5002,
    ),
    "CSF": (4, 43, 5, 44, 14, 15, 24, 72, 30, 62, 31, 63, 257),
    NOTHING: (0, 29, 61, 165, 258, 259),
}  # fmt: skip
FREESURFER: dict[int, str] = {
    number: tissue
    for tissue, entries in _BY_TISSUE.items()
    for entry in entries
    for number in (entry if isinstance(entry, range) else (entry,))
}
WHITE_MATTER = {2, 41}  # in every such image, and cortex: whole or in parcels
CORTEX = {3, 42, *range(1000, 1036), *range(2000, 2036)}

# FreeSurfer's names, sides left out; right of a structure is its number on the other side
_STRUCTURES = {
    "Cerebral-White-Matter": (2, 41), "Cerebral-Cortex": (3, 42), "Lateral-Ventricle": (4, 43),
    "Inf-Lat-Vent": (5, 44), "Cerebellum-White-Matter": (7, 46), "Cerebellum-Cortex": (8, 47),
    "Thalamus": (10, 49), "Caudate": (11, 50), "Putamen": (12, 51), "Pallidum": (13, 52),
    "Hippocampus": (17, 53), "Amygdala": (18, 54), "Accumbens-area": (26, 58),
    "VentralDC": (28, 60), "vessel": (30, 62), "choroid-plexus": (31, 63),
}  # fmt: skip
_UNPAIRED = {
    14: "3rd-Ventricle", 15: "4th-Ventricle", 16: "Brain-Stem", 24: "CSF", 72: "5th-Ventricle",
    77: "WM-hypointensities", 80: "non-WM-hypointensities", 85: "Optic-Chiasm",
    251: "CC_Posterior", 252: "CC_Mid_Posterior", 253: "CC_Central", 254: "CC_Mid_Anterior",
    255: "CC_Anterior",
}  # fmt: skip
# of the Desikan-Killiany atlas, from 1 (Desikan 2006, doi:10.1016/j.neuroimage.2006.01.021)
_GYRI = (
    "bankssts caudalanteriorcingulate caudalmiddlefrontal corpuscallosum cuneus entorhinal "
    "fusiform inferiorparietal inferiortemporal isthmuscingulate lateraloccipital "
    "lateralorbitofrontal lingual medialorbitofrontal middletemporal parahippocampal paracentral "
    "parsopercularis parsorbitalis parstriangularis pericalcarine postcentral posteriorcingulate "
    "precentral precuneus rostralanteriorcingulate rostralmiddlefrontal superiorfrontal "
    "superiorparietal superiortemporal supramarginal frontalpole temporalpole transversetemporal "
    "insula"
)
GYRI = tuple(_GYRI.split())

# Names as BIDS derivatives and FreeSurfer spell them, without side, case and separators
_NAMES: dict[str, tuple[str, ...]] = {
    "GM": (
        "gm", "greymatter", "graymatter", "corticalgreymatter", "corticalgraymatter", "cgm",
        "subcorticalgreymatter", "subcorticalgraymatter", "sgm", "deepgreymatter",
        "deepgraymatter", "cerebralcortex", "cerebellumcortex", "cerebellarcortex", "cortex",
        "thalamus", "thalamusproper", "caudate", "putamen", "pallidum", "hippocampus", "amygdala",
        "accumbens", "accumbensarea", "ventraldc", "substantianigra", "insula", "operculum",
    ),
    "WM": (
        "wm", "whitematter", "cerebralwhitematter", "cerebellumwhitematter", "brainstem",
        "cerebellarwhitematter", "whitematterhypointensities", "wmhypointensities", "opticchiasm",
        "corpuscallosum", "ccposterior", "ccmidposterior", "cccentral", "ccmidanterior",
        "ccanterior", "fornix", "bs", "whitematterhyperintensities",
    ),
    "CSF": (
        "csf", "cerebrospinalfluid", "ventricle", "ventricles", "lateralventricle", "inflatvent",
        "inferiorlateralventricle", "3rdventricle", "4thventricle", "5thventricle",
        "thirdventricle", "fourthventricle", "fifthventricle", "choroidplexus", "vessel",
        "extracerebralcsf", "csfextracerebral",
    ),
    NOTHING: (
        "background", "bg", "bone", "skull", "softtissue", "st", "nonbrain", "nb", "head", "air",
        "unknown", "undetermined", "eye", "eyes", "scalp",
    ),
}  # fmt: skip
NAMES: dict[str, str] = {name: tissue for tissue, names in _NAMES.items() for name in names}


def tissue_of_name(name: str) -> str | None:
    """Return the tissue that a region's name says, by the table of this module.

    Parameters
    ----------
    name
        Such as ``GM``, ``white matter``, ``Left-Cerebral-Cortex``, ``ctx-lh-insula``.

    Returns
    -------
    tissue
        ``GM``, ``WM`` or ``CSF``; empty for what is no brain; None for an unknown name.

    Examples
    --------
    >>> tissue_of_name("Right-Lateral-Ventricle"), tissue_of_name("ctx-lh-cuneus")
    ('CSF', 'GM')
    >>> tissue_of_name("Background"), tissue_of_name("tumour")
    ('', None)
    """
    words = name.lower().replace("_", "-").replace(" ", "-").strip("-")
    if words.startswith(("ctx-", "wm-lh-", "wm-rh-")):
        return "GM" if words.startswith("ctx-") else "WM"
    for side in ("left-", "right-", "l-", "r-"):
        words = words.removeprefix(side)
    return NAMES.get(words.replace("-", ""))


def freesurfer_name(number: int) -> str:
    """Return the name of a label of FreeSurfer's colour table.

    Parameters
    ----------
    number
        Of aseg or aparc (Desikan-Killiany), as white matter of a gyrus too.

    Returns
    -------
    name
        The number itself where it is none of these.

    Examples
    --------
    >>> [freesurfer_name(n) for n in (49, 16, 1035, 4028, 999)]
    ['Right-Thalamus', 'Brain-Stem', 'ctx-lh-insula', 'wm-rh-superiorfrontal', '999']
    """
    for name, (left, right) in _STRUCTURES.items():
        if number in (left, right):
            return f"{'Left' if number == left else 'Right'}-{name}"
    thousand, gyrus = divmod(number, 1000)
    kinds = {1: "ctx-lh-", 2: "ctx-rh-", 3: "wm-lh-", 4: "wm-rh-"}
    if thousand in kinds and 1 <= gyrus <= len(GYRI):
        return kinds[thousand] + GYRI[gyrus - 1]
    return _UNPAIRED.get(number, str(number))


def is_freesurfer(labels: Sequence[int]) -> bool:
    """Tell whether labels can only be FreeSurfer's: its white matter and cortex, and no other.

    Parameters
    ----------
    labels
        Those that an image holds.

    Examples
    --------
    >>> is_freesurfer([0, 2, 3, 4, 41, 42, 43]), is_freesurfer([0, 1, 2, 3])
    (True, False)
    """
    found = set(labels)
    return found <= set(FREESURFER) and found >= WHITE_MATTER and bool(found & CORTEX)


def label_fractions(labels: Labels, tissues: Mapping[int, str]) -> Floats:
    """Return hard fractions: one where a voxel's label belongs to the tissue, else zero.

    A label says nothing about what else its voxel holds, so the edges stay hard: each boundary
    voxel is off by up to half its volume, on both sides alike.

    Parameters
    ----------
    labels
        Shape (x, y, z).
    tissues
        Tissue of each label; 0 may be left out.

    Returns
    -------
    fractions
        GM, WM, CSF, shape (x, y, z, 3), float32.

    Raises
    ------
    ValueError
        If a label has no tissue, or a tissue no voxel.

    Examples
    --------
    >>> label_fractions(np.array([[[2, 3, 4, 0]]]), FREESURFER)[0, 0].tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    found = np.unique(labels).tolist()
    unknown = [label for label in found if label and label not in tissues]
    if unknown:
        raise ValueError(f"label {unknown[0]} has no tissue; {len(unknown)} labels are unknown")
    fractions = [
        np.isin(labels, [k for k in found if k and tissues[k] == tissue]) for tissue in TISSUES
    ]
    missing = [tissue for tissue, part in zip(TISSUES, fractions, strict=True) if not part.any()]
    if missing:
        raise ValueError(f"no voxel is {missing[0]}; labels of GM, WM and CSF are needed")
    return np.stack(fractions, axis=-1).astype(np.float32)


def posterior_fractions(posteriors: Floats, labels: Labels, tissues: Mapping[int, str]) -> Floats:
    """Sum a segmenter's posteriors over the labels of each tissue.

    Which channel belongs to which tissue is read from the labels: it is the tissue of the voxels
    in which that channel is the largest.

    Parameters
    ----------
    posteriors
        Shape (x, y, z, channels), in [0, 1].
    labels
        Shape (x, y, z).
    tissues
        Tissue of each label; 0 may be left out.

    Returns
    -------
    fractions
        GM, WM, CSF, shape (x, y, z, 3), float32.

    Raises
    ------
    ValueError
        If a channel belongs to no one tissue, a label has no tissue, or a tissue no voxel.

    Examples
    --------
    >>> labels = np.array([2, 3, 4]).reshape(3, 1, 1)
    >>> channels = np.array([[0.1, 0.9, 0], [0.8, 0.2, 0], [0, 0.3, 0.7]]).reshape(3, 1, 1, 3)
    >>> (10 * posterior_fractions(channels, labels, FREESURFER)[:, 0, 0]).round().tolist()
    [[1.0, 9.0, 0.0], [8.0, 2.0, 0.0], [0.0, 3.0, 7.0]]
    """
    hard = label_fractions(labels, tissues)
    own = np.where(hard.any(axis=-1), hard.argmax(axis=-1), len(TISSUES))
    largest = posteriors.argmax(axis=-1)
    fractions = np.zeros_like(hard)
    lost = 0.0
    for channel in range(posteriors.shape[-1]):
        counts = np.bincount(own[largest == channel], minlength=len(TISSUES) + 1)
        place = int(counts.argmax())
        if not counts.any():
            lost += float(posteriors[..., channel].sum(dtype=np.float64))
        elif counts[place] < SAME_TISSUE * counts.sum():
            raise ValueError(
                f"channel {channel} belongs to no one tissue of the labels: of the "
                f"{counts.sum()} voxels in which it is the largest, at most {counts[place]} agree"
            )
        elif place < len(TISSUES):
            fractions[..., place] += posteriors[..., channel]
    if lost > LOST_SHARE * float(posteriors.sum(dtype=np.float64)):
        raise ValueError("channels that are nowhere the largest hold more than 0.1 % of the whole")
    return fractions


def clipped_fractions(fractions: Floats) -> tuple[Floats, int]:
    """Check that values are fractions; what exceeds [0, 1] by rounding is clipped.

    Parameters
    ----------
    fractions
        Any shape.

    Returns
    -------
    clipped
        In [0, 1].
    count
        Number of values that were clipped.

    Raises
    ------
    ValueError
        If values are not finite, or leave [0, 1] by more than 0.001.

    Examples
    --------
    >>> values, count = clipped_fractions(np.array([-0.0005, 0.5, 1.0]))
    >>> values.tolist(), count
    ([0.0, 0.5, 1.0], 1)
    """
    bad = int(fractions.size - np.isfinite(fractions).sum())
    if bad:
        raise ValueError(f"{bad} voxels are NaN or infinite; accepted: fractions from 0 to 1")
    low, high = float(fractions.min()), float(fractions.max())
    if low < -SMALL_EXCESS or high > 1 + SMALL_EXCESS:
        raise ValueError(f"values run from {low:g} to {high:g}; accepted: fractions from 0 to 1")
    outside = int(np.sum((fractions < 0) | (fractions > 1 + np.finfo(np.float32).eps)))
    return np.clip(fractions, 0, 1), outside


def shared_fractions(fractions: Floats) -> tuple[Floats, int]:
    """Scale fractions down where their sum exceeds one by little.

    Parameters
    ----------
    fractions
        In [0, 1], shape (..., tissues).

    Returns
    -------
    shared
        Sums at most one.
    count
        Number of voxels whose sum exceeded one by more than 0.01.

    Raises
    ------
    ValueError
        If a sum exceeds 1.1.

    Examples
    --------
    >>> shared, count = shared_fractions(np.array([[0.8, 0.25], [0.5, 0.5]]))
    >>> round(float(shared[0].sum()), 6), count
    (1.0, 1)
    """
    total = fractions.sum(axis=-1)
    if total.max() > LARGEST_SUM:
        many = int(np.sum(total > LARGEST_SUM))
        raise ValueError(
            f"GM, WM and CSF sum up to {total.max():.3g} ({many} voxels above {LARGEST_SUM}); "
            "accepted: at most 1, so that they are shares of a voxel"
        )
    count = int(np.sum(total > 1 + SUM_ROUNDING))
    return fractions / np.maximum(total, 1)[..., None], count


def brain_of_fractions(fractions: Floats) -> Mask:
    """Return the brain that fractions fill: more than half a voxel, without holes.

    Parameters
    ----------
    fractions
        Shape (x, y, z, tissues).

    Returns
    -------
    brain
        Shape (x, y, z).

    Examples
    --------
    >>> shell = np.ones((5, 5, 5, 1))
    >>> shell[2, 2, 2] = 0
    >>> int(brain_of_fractions(shell).sum())
    125
    """
    return np.asarray(ndimage.binary_fill_holes(fractions.sum(axis=-1) > 0.5), bool)
