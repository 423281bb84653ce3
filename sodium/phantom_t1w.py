"""The 1H image of the phantom: contrast, shading, noise; and the borders a segmenter finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.phantom_anatomy import SLAB, Head
from sodiumprep.sodium.phantom_content import smooth_field
from sodiumprep.sodium.phantom_lesions import KINDS
from sodiumprep.sodium.phantom_signal import complex_noise
from sodiumprep.sodium.phantom_template import border


@dataclass(frozen=True)
class Contrast:
    """T1w brightness of tissues, white matter being one."""

    grey: float = 0.68
    fluid: float = 0.2
    core: float = KINDS["glioma"][0].brightness
    oedema: float = KINDS["glioma"][1].brightness
    other: float = 0.5
    muscle: float = 0.52
    fat: float = 1.2
    bone: float = 0.07
    marrow: float = 0.4


def draw_contrast(rng: np.random.Generator) -> Contrast:
    """Draw the T1w contrast of a scan.

    Parameters
    ----------
    rng
        Source of randomness.

    Returns
    -------
    contrast
        Grey matter 0.62 to 0.74 and fluid 0.15 to 0.27 of white matter.
    """
    return Contrast(grey=float(rng.uniform(0.62, 0.74)), fluid=float(rng.uniform(0.15, 0.27)))


def t1_weighted(head: Head, contrast: Contrast) -> Floats:
    """Return the T1w image without bias field and noise.

    Parameters
    ----------
    head
        Fractions and depth below the skin.
    contrast
        Brightness of the tissues.

    Returns
    -------
    image
        Shape (x, y, z), white matter 1.
    """
    image = np.empty_like(head.depth)
    for first in range(0, len(image), SLAB):
        rows = slice(first, first + SLAB)
        brightness = _brightness(head.depth[rows], head.levels[:, rows], head.kind, contrast)
        image[rows] = sum(head.shares[i, rows] * b for i, b in enumerate(brightness))
    return image


def _brightness(
    depth: Floats, levels: Floats, kind: str, contrast: Contrast
) -> list[float | Floats]:
    """Brightness of each class; fat lies under the skin, marrow in the middle of the skull."""
    fat, marrow = border(5 - depth, 2.0), border(1.2 - np.abs(levels[2] + 3.2), 1.0)
    soft = contrast.muscle + (contrast.fat - contrast.muscle) * fat
    skull = contrast.bone + (contrast.marrow - contrast.bone) * marrow
    return [
        contrast.grey, 1.0, contrast.fluid, *_lesion_brightness(levels, kind, contrast),
        contrast.other, soft, skull, contrast.fluid,
    ]  # fmt: skip


def _lesion_brightness(levels: Floats, kind: str, contrast: Contrast) -> list[float | Floats]:
    if kind == "glioma":
        return [contrast.core, contrast.oedema]
    tissue = contrast.grey + (1 - contrast.grey) * border(levels[1])
    return [e.brightness * (tissue if e.keeps_contrast else 1) for e in KINDS[kind]]


def bias_field(rng: np.random.Generator, shape: Sequence[int], factor: float) -> Floats:
    """Draw the smooth shading of a T1w image.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Of the image.
    factor
        Brightest over darkest place in the field of view.

    Returns
    -------
    bias
        Of that shape, geometric mean near 1.
    """
    field = smooth_field(rng, shape, 4)
    field = (field - field.min()) / np.ptp(field) - np.float32(0.5)
    return np.exp(np.float32(np.log(factor)) * field)


def noisy_magnitude(rng: np.random.Generator, image: Floats, sd: float) -> Floats:
    """Return the magnitude of an image with complex noise.

    Parameters
    ----------
    rng
        Source of the noise.
    image
        Any shape.
    sd
        Of the real and of the imaginary part.

    Returns
    -------
    magnitude
        Same shape, float32.
    """
    return np.abs(image.astype(np.float32) + complex_noise(rng, image.shape, sd))


def shifted_levels(rng: np.random.Generator, head: Head, error: float) -> Floats:
    """Return the borders as a segmenter would find them.

    Parameters
    ----------
    rng
        Source of the error.
    head
        With the true borders.
    error
        Standard deviation of the displacement of a border [mm].

    Returns
    -------
    levels
        As ``head.levels``, shape (3, x, y, z) [mm].
    """
    shape = head.depth.shape
    return np.stack([level + error * smooth_field(rng, shape, 16) for level in head.levels])
