"""The lesions of multiple sclerosis of the phantom: plaques beside ventricles and cortex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.phantom_lesions import Owners, Parts, cover_tissue
from sodiumprep.sodium.phantom_template import OUTSIDE, Template, border, positions

GAP = 3.0  # mm, at least, between two plaques of one patient
NUMBERS = (5, 9)  # plaques of a patient
DIAMETERS = (6.0, 15.0)  # mm, longest of a plaque in the averaged brain, which is a large one
THINNEST = 5.5  # mm, shortest diameter of a plaque
OFTEN = {"enhancing": 0.2, "blackhole": 0.5, "expanding": 0.3}  # beyond one of each
EXPANSION = 0.12  # relative growth of the volume of an expanding plaque in a year
PERIVENTRICULAR, JUXTACORTICAL = "periventricular", "juxtacortical"


@dataclass(frozen=True)
class Plaque:
    """One lesion of multiple sclerosis: an ellipsoid with an uneven surface.

    Parameters
    ----------
    name
        Its class.
    place
        In words.
    centre
        Shape (3,) [mm, RAS, template].
    along
        Unit vector of its axis, shape (3,).
    radii
        Along and across that axis [mm].
    """

    name: str
    place: str
    centre: Floats
    along: Floats
    radii: tuple[float, float]

    @property
    def reach(self) -> float:
        """Distance from the centre beyond which there is nothing of it [mm]."""
        return 1.1 * max(self.radii) + 1.0

    def level(self, p: Floats) -> Floats:
        """Return the signed distance, nearly, to its border, positive inside.

        Parameters
        ----------
        p
            Positions, shape (3, n) [mm].
        """
        away = p - np.asarray(self.centre, np.float32)[:, None]
        axial = np.asarray(self.along, np.float32) @ away
        square = np.maximum((away * away).sum(axis=0) - axial * axial, 0)
        a, b = (np.float32(radius) for radius in self.radii)
        inside = np.sqrt((axial / a) ** 2 + square / b**2)
        steep = np.sqrt((axial / a**2) ** 2 + square / b**4)  # gradient, times ``inside``
        lobes = np.sin(away[0] / 2.5) * np.cos(away[1] / 3) + np.sin(away[2] / 3.5)
        middle = steep < 1e-4
        level = inside * (1 - inside) / np.where(middle, np.float32(1), steep)
        return np.where(middle, b, level) + np.float32(0.05) * b * lobes


@dataclass(frozen=True)
class Plaques:
    """The lesions of a patient with multiple sclerosis.

    Parameters
    ----------
    plaques
        In no order.
    """

    plaques: tuple[Plaque, ...]
    kind: ClassVar[str] = "ms"

    @property
    def places(self) -> Sequence[str]:
        """Where each lies, in words."""
        return [each.place for each in self.plaques]

    def take(self, parts: Parts, before: Floats, after: Floats) -> Parts:
        """Let each replace the grey and white matter it covers; fluid keeps its place."""
        left = dict(parts)
        for plaque in self.plaques:
            near = self._near(plaque, after)
            if near.any():
                level = np.full(after.shape[1], OUTSIDE, np.float32)
                level[near] = plaque.level(after[:, near])
                left = cover_tissue(left, plaque.name, level)
        return left

    def owners(self, after: Floats) -> Owners:
        """Return the plaque whose border is nearest, or in which a place lies deepest."""
        return np.argmax([each.level(after) for each in self.plaques], axis=0).astype(np.uint8) + 1

    def later(self, years: float) -> Plaques:
        """Return them with the expanding ones grown."""
        growth = (1 + EXPANSION * years) ** (1 / 3)
        return Plaques(tuple(
            replace(each, radii=(each.radii[0] * growth, each.radii[1] * growth))
            if each.name == "expanding" else each for each in self.plaques
        ))  # fmt: skip

    @staticmethod
    def _near(plaque: Plaque, after: Floats) -> NDArray[np.bool_]:
        reach, near = plaque.reach, np.ones(after.shape[1], bool)
        for axis, middle in zip(after, plaque.centre, strict=True):
            near &= np.abs(axis - np.float32(middle)) < reach
        return near


def draw_plaques(rng: np.random.Generator, template: Template) -> Plaques:
    """Draw the lesions of multiple sclerosis, at least one of each class and of each place.

    Parameters
    ----------
    rng
        Source of randomness.
    template
        Where white matter and ventricles lie.

    Returns
    -------
    plaques
        5 to 9; periventricular ones touch the wall and point away from it, juxtacortical ones
        touch the cortex.

    Raises
    ------
    ValueError
        If white matter has no place left.
    """
    number = int(rng.integers(NUMBERS[0], NUMBERS[1] + 1))
    more = rng.choice(list(OFTEN), number - len(OFTEN), p=list(OFTEN.values()))
    names = rng.permutation([*OFTEN, *more])
    both = [PERIVENTRICULAR, JUXTACORTICAL]
    places = rng.permutation([*both, *rng.choice(both, number - 2, p=[0.6, 0.4])])
    white = ndimage.gaussian_filter(border(template.white), 3.0)
    longest = np.sort(rng.uniform(*DIAMETERS, number))[::-1] / 2  # the largest find a place first
    placed: list[Plaque] = []
    for name, place, radius in zip(names, places, longest, strict=True):
        across = max(THINNEST / 2, radius * float(rng.uniform(0.7, 1)))
        found = _candidates(template, white, str(place), float(radius))
        centre = _draw_apart(rng, found, float(radius), placed)
        along = _away_from_wall(rng, template, centre, str(place))
        placed.append(
            Plaque(str(name), str(place), centre, along, (float(max(radius, across)), across))
        )
    return Plaques(tuple(placed))


def _candidates(template: Template, white: Floats, place: str, radius: float) -> Floats:
    """Where the centre of a plaque may lie, shape (n, 3) [mm]."""
    x, _, z = positions(template.white.shape, template.affine)
    wall = -template.ventricle  # distance to the ventricles
    if place == PERIVENTRICULAR:
        fits = (np.abs(wall - radius) < 0.75) & (template.white > 2) & (np.abs(x) > 7) & (z > 0)
    else:
        blade = (template.white > 1) & (template.white < 2.5) & (white > 0.6)
        fits = blade & (wall > radius + 8) & (np.abs(x) > 7) & (z > 8)
    index = np.argwhere(fits)
    return np.asarray(index @ template.affine[:3, :3].T + template.affine[:3, 3])


def _draw_apart(
    rng: np.random.Generator, candidates: Floats, radius: float, others: Sequence[Plaque]
) -> Floats:
    """Draw one of the candidates that keeps the gap from all others."""
    free = np.ones(len(candidates), bool)
    for other in others:
        gap = np.linalg.norm(candidates - other.centre, axis=1)
        free &= gap > other.reach + 1.1 * radius + GAP
    if not free.any():
        raise ValueError(f"white matter has no place left for a plaque of {2 * radius:.1f} mm")
    return np.asarray(candidates[rng.choice(np.flatnonzero(free))])


def _away_from_wall(
    rng: np.random.Generator, template: Template, centre: Floats, place: str
) -> Floats:
    """Draw a unit vector, away from the ventricle where a plaque is beside it."""
    along = rng.standard_normal(3)
    if place == PERIVENTRICULAR:
        at = np.rint((centre - template.affine[:3, 3]) / np.diag(template.affine)[:3]).astype(int)
        along = 0.2 * along - template.slope[:, *at] * 2
    return np.asarray(along / np.linalg.norm(along))
