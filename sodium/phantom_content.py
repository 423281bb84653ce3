"""How much sodium the simulated tissues hold: of a person, within a tissue, and in truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.phantom_anatomy import Head
from sodiumprep.sodium.phantom_lesions import DEFAULT_KIND, KINDS, Owners

SPREAD = 0.1  # largest departure of a concentration from its mean within a tissue
FLUID_SPREAD = 0.03  # the same in fluid, which mixes
TISSUES: Mapping[str, float] = {"GM": 42.0, "WM": 37.0, "CSF": 145.0}  # mmol/L
AROUND: Mapping[str, float] = {"other": 75.0, "soft": 30.0, "skull": 6.0, "fluid": 140.0}  # mmol/L


def mean_concentrations(kind: str) -> dict[str, float]:
    """Return the mean concentrations of healthy people, and of the lesions of a kind.

    Parameters
    ----------
    kind
        Of lesion.

    Returns
    -------
    concentrations
        By class [mmol/L].

    Examples
    --------
    >>> list(mean_concentrations("stroke"))
    ['GM', 'WM', 'CSF', 'core', 'penumbra', 'other', 'soft', 'skull', 'fluid']
    """
    return {**TISSUES, **{each.name: each.concentration for each in KINDS[kind]}, **AROUND}


CONCENTRATIONS = mean_concentrations(DEFAULT_KIND)


def smooth_field(rng: np.random.Generator, shape: Sequence[int], nodes: int) -> Floats:
    """Draw a smooth random field of zero mean and unit variance.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Of the field.
    nodes
        Bumps along each axis.

    Returns
    -------
    field
        Of that shape, float32.
    """
    field = rng.standard_normal([nodes] * len(shape), dtype=np.float32)
    for n in shape:
        gap = np.linspace(0, nodes - 1, n)[:, None] - np.arange(nodes)
        weight = np.exp(-0.5 * (gap / 0.8) ** 2)
        weight /= weight.sum(axis=1, keepdims=True)
        field = np.tensordot(field, weight.astype(np.float32), axes=(0, 1))
    return (field - field.mean()) / field.std()


def draw_concentrations(
    rng: np.random.Generator, means: Mapping[str, float], spread: float = 0.04
) -> dict[str, float]:
    """Draw one subject's mean concentrations.

    Parameters
    ----------
    rng
        Source of randomness.
    means
        By class, of the subject's group [mmol/L].
    spread
        Standard deviation between subjects, relative; fluid has a third of it.

    Returns
    -------
    concentrations
        By class [mmol/L].
    """
    common, own = rng.standard_normal(), rng.standard_normal(len(means))
    relative = dict(zip(means, 0.7 * common + 0.7 * own, strict=True))
    fluid = {"CSF": 1 / 3, "fluid": 1 / 3}
    return {n: m * (1 + spread * fluid.get(n, 1.0) * relative[n]) for n, m in means.items()}


def sodium_content(
    rng: np.random.Generator, head: Head, concentrations: Mapping[str, float]
) -> Floats:
    """Return the sodium of each class in each voxel.

    Parameters
    ----------
    rng
        Source of randomness of the variation within a tissue.
    head
        Fractions by class.
    concentrations
        Mean by class [mmol/L].

    Returns
    -------
    content
        Fraction times concentration of each class of the head, shape (classes, x, y, z) [mmol/L].
    """
    fields = [np.tanh(0.8 * smooth_field(rng, head.depth.shape, 9)) for _ in range(2)]
    content = np.empty_like(head.shares)
    for i, (name, fraction) in enumerate(head.fractions.items()):
        spread = FLUID_SPREAD if name in ("CSF", "fluid") else SPREAD
        volume = float(fraction.sum(dtype=np.float64))
        mean = float(np.vdot(fraction, fields[i % 2])) / volume if volume else 0.0
        np.multiply(fields[i % 2], np.float32(spread), out=content[i])
        content[i] += np.float32(1 - spread * mean)
        content[i] *= fraction
        content[i] *= np.float32(concentrations[name])
    return content


def true_means(head: Head, content: Floats) -> dict[str, float]:
    """Return the mean concentration of each class.

    Parameters
    ----------
    head
        Fractions by class.
    content
        As :func:`sodium_content` returns it [mmol/L].

    Returns
    -------
    means
        Weighted by the fractions [mmol/L]; classes that are absent are left out.
    """
    volumes = head.shares.sum(axis=(1, 2, 3), dtype=np.float64)
    totals = content.sum(axis=(1, 2, 3), dtype=np.float64)
    both = zip(head.classes, totals, volumes, strict=True)
    return {name: float(total / volume) for name, total, volume in both if volume > 0}


@dataclass(frozen=True)
class TrueLesion:
    """A class of one lesion as it was simulated.

    Parameters
    ----------
    number
        Of the lesion, from 1.
    name
        Class.
    place
        In words.
    centre
        Mean position, shape (3,) [mm, RAS, T1w space].
    volume
        [ml].
    """

    number: int
    name: str
    place: str
    centre: Floats
    volume: float


def true_lesions(
    head: Head, labels: Owners, places: Sequence[str], affine: Floats
) -> list[TrueLesion]:
    """Return every class of every lesion that has a volume.

    Parameters
    ----------
    head
        Fractions by class.
    labels
        Which lesion a voxel belongs to, shape (x, y, z).
    places
        Of the lesions, in words.
    affine
        Voxel index to T1w space, shape (4, 4) [mm, RAS].

    Returns
    -------
    lesions
        By number, then class.
    """
    found = []
    voxel = abs(float(np.linalg.det(affine[:3, :3]))) * 1e-3
    for number, place in enumerate(places, start=1):
        index = np.argwhere(labels == number)
        points = index @ affine[:3, :3].T + affine[:3, 3]
        for name in head.lesions:
            share = head.fractions[name][tuple(index.T)].astype(np.float64)
            if share.sum() > 0:
                centre = share @ points / share.sum()
                found.append(TrueLesion(number, name, place, centre, float(share.sum()) * voxel))
    return found
