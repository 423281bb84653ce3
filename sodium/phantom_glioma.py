"""The glioma of the phantom: a necrotic core in oedema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.phantom_lesions import Owners, Parts, side_of
from sodiumprep.sodium.phantom_template import Template, border, positions


@dataclass(frozen=True)
class Glioma:
    """A necrotic core within oedema.

    Parameters
    ----------
    centre
        Shape (3,) [mm, RAS, template].
    radii
        Of the core and of its oedema [mm].
    """

    centre: Floats
    radii: tuple[float, float]
    kind: ClassVar[str] = "glioma"

    @property
    def places(self) -> Sequence[str]:
        """Where it lies, in words."""
        return [f"deep white matter, {side_of(self.centre[0])}"]

    def levels(self, p: Floats) -> tuple[Floats, Floats]:
        """Signed distance to the borders of core and oedema, lobulated, each of shape (n,)."""
        away = [p[i] - np.float32(self.centre[i]) for i in range(3)]
        radius = np.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2)
        lobes = np.sin(away[0] / 6) * np.cos(away[1] / 7) + np.sin(away[2] / 8)
        core, oedema = self.radii
        return core + np.float32(1.2) * lobes - radius, oedema + np.float32(2.5) * lobes - radius

    def take(self, parts: Parts, before: Floats, after: Floats) -> Parts:
        """Let the core replace everything and oedema replace white and part of grey matter."""
        core, oedema = self.levels(before)
        core_share, oedema_share = border(core), border(oedema)
        inside: Parts = {name: part * (1 - core_share) for name, part in parts.items()}
        taken = {"WM": oedema_share, "GM": 0.6 * border(oedema - 4)}
        left = {n: p * (1 - taken[n]) if n in taken else p for n, p in inside.items()}
        left["core"] = np.sum(list(parts.values()), axis=0) * core_share
        left["edema"] = np.sum([inside[n] * t for n, t in taken.items()], axis=0)
        return left

    def owners(self, after: Floats) -> Owners:
        """Return 1 everywhere: there is one."""
        return np.ones(after.shape[1], np.uint8)

    def later(self, years: float) -> Glioma:
        """Return the same: it does not grow."""
        return self


def draw_lesion_centre(rng: np.random.Generator, template: Template) -> Floats:
    """Draw the centre of a glioma in deep white matter of one hemisphere.

    Parameters
    ----------
    rng
        Source of randomness.
    template
        Where white matter lies.

    Returns
    -------
    centre
        Shape (3,) [mm, RAS, template].
    """
    x, y, z = positions(template.white.shape, template.affine)
    lateral = (abs(x) > 24) & (z > 8) & (z < 45) & (y > -60) & (y < 40)
    candidates = np.argwhere((template.white > 2.5) & lateral & (template.ventricle < -12))
    return (
        candidates[rng.integers(len(candidates))] @ template.affine[:3, :3]
        + template.affine[:3, 3]
    )


def draw_glioma(rng: np.random.Generator, template: Template) -> Glioma:
    """Draw a glioma.

    Parameters
    ----------
    rng
        Source of randomness.
    template
        Where white matter lies.

    Returns
    -------
    glioma
        Core of 9 to 13 mm radius in oedema of 18 to 23 mm.
    """
    centre = draw_lesion_centre(rng, template)
    return Glioma(centre, (float(rng.uniform(9, 13)), float(rng.uniform(18, 23))))
