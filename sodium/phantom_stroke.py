"""The stroke of the phantom: a wedge of the territory of a middle cerebral artery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.phantom_lesions import Owners, Parts, cover_tissue, side_of


@dataclass(frozen=True)
class Stroke:
    """A wedge of the territory of one middle cerebral artery, its base at the cortex.

    Parameters
    ----------
    apex
        Where the artery divides, shape (3,) [mm, RAS, template].
    along
        Unit vector of the wedge's axis, shape (3,).
    half_angle
        Of the territory [rad].
    core_share
        Half angle of the core over that.
    reach
        From the apex to where the territory ends, beyond the cortex [mm].
    """

    apex: Floats
    along: Floats
    half_angle: float
    core_share: float
    reach: float
    kind: ClassVar[str] = "stroke"
    midline: ClassVar[float] = 10.0  # mm, medial end: the anterior artery's territory follows

    @property
    def places(self) -> Sequence[str]:
        """Where it lies, in words."""
        return [f"middle cerebral artery, {side_of(self.apex[0])}"]

    def levels(self, p: Floats) -> tuple[Floats, Floats]:
        """Return the signed distance to the borders of core and territory, positive inside.

        Parameters
        ----------
        p
            Positions, shape (3, n) [mm].
        """
        away = p - np.asarray(self.apex, np.float32)[:, None]
        axial = np.asarray(self.along, np.float32) @ away
        distance = np.sqrt((away * away).sum(axis=0))
        radial = np.sqrt(np.maximum(distance**2 - axial**2, 0))
        side = np.float32(1 if self.apex[0] > 0 else -1)
        end = np.minimum(np.float32(self.reach) - distance, side * p[0] - np.float32(self.midline))
        lobes = np.sin(away[0] / 8) * np.cos(away[1] / 7) + np.sin(away[2] / 9)
        core, territory = (
            np.minimum(axial * np.float32(np.sin(t)) - radial * np.float32(np.cos(t)), end)
            for t in (self.core_share * self.half_angle, self.half_angle)
        )
        return core + np.float32(1.5) * lobes, territory + np.float32(2.0) * lobes

    def take(self, parts: Parts, before: Floats, after: Floats) -> Parts:
        """Let the core, then the rest of the territory, replace grey and white matter."""
        core, territory = self.levels(after)
        return cover_tissue(cover_tissue(parts, "core", core), "penumbra", territory)

    def owners(self, after: Floats) -> Owners:
        """Return 1 everywhere: there is one."""
        return np.ones(after.shape[1], np.uint8)

    def later(self, years: float) -> Stroke:
        """Return the same: it keeps its extent."""
        return self


def draw_stroke(rng: np.random.Generator) -> Stroke:
    """Draw a stroke of one middle cerebral artery.

    Parameters
    ----------
    rng
        Source of randomness.

    Returns
    -------
    stroke
        Towards the lateral frontal, parietal or upper temporal cortex of one side.
    """
    side = float(rng.choice([-1, 1]))
    apex = np.array([side * 24, rng.uniform(-4, 6), rng.uniform(-4, 4)])
    cortex = np.array([side * 60, rng.uniform(-45, 15), rng.uniform(0, 35)])
    along = (cortex - apex) / np.linalg.norm(cortex - apex)
    return Stroke(
        apex, along, float(np.radians(rng.uniform(28, 42))), float(rng.uniform(0.45, 0.65)),
        float(np.linalg.norm(cortex - apex) + rng.uniform(8, 14)),
    )  # fmt: skip
