"""Corrected maps at the resolution of the anatomy, which an image does not have.

What a tissue holds is known from the anatomy at its own resolution; only what the image adds to
it, which is smooth, is interpolated. A map is then as sharp as the fractions are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.pvc.shown import SampledRegions
from sodiumprep.sodium.pvc.voxelwise import SMALLEST_TARGET, mtc, rbv

Move = Callable[[Floats], Floats]  # from the grid of the image to the fine one, interpolated
BY_FRACTIONS = {"rbv": rbv, "iy": rbv, "mtc": mtc}  # iterative Yang ends as RBV with its signals


@dataclass(frozen=True)
class FineRegions:
    """The regions of interest on a finer grid, and all regions on that of the image.

    Parameters
    ----------
    blurred
        Of all regions, shape (regions, nx, ny, nz).
    chosen
        Whether a region is of interest, shape (regions,).
    fractions
        Of those of interest on the fine grid, shape (chosen, fx, fy, fz).
    move
        Brings an image to the fine grid.
    """

    blurred: Floats
    chosen: Floats
    fractions: Floats
    move: Move

    def by_fractions(self, method: str, image: Floats, rests_on: Floats) -> tuple[Floats, Floats]:
        """Return a map made from fine fractions, and how it changes with the image.

        All other regions are taken off the image first: what is left is made of the regions of
        interest, beside nothing.

        Parameters
        ----------
        method
            A key of ``BY_FRACTIONS``.
        image
            Signal, shape (nx, ny, nz).
        rests_on
            Signals that the map on the grid of the image was made from, shape (regions,).

        Returns
        -------
        corrected, gain
            Shape (fx, fy, fz).
        """
        others = np.where(self.chosen, 0, rests_on)
        alone = image - np.tensordot(others, self.blurred, 1).astype(np.float32)
        shown = [self.move(b) for b in self.blurred[self.chosen]]
        parts = np.stack([*self.fractions, 1 - self.fractions.sum(axis=0)])
        regions = SampledRegions(parts, np.stack([*shown, 1 - np.sum(shown, axis=0)]))
        values = np.append(rests_on[self.chosen], 0.0)
        made = BY_FRACTIONS[method](self.move(alone), regions, values)
        return made.image, made.by_image

    def of_target(self, image: Floats, rests_on: Floats, target: int) -> Floats:
        """Return the map of one region by the method of Müller-Gärtner.

        Parameters
        ----------
        image
            Signal, shape (nx, ny, nz).
        rests_on
            Signals from the purest voxels, shape (regions,).
        target
            Index of the region.

        Returns
        -------
        corrected
            Shape (fx, fy, fz); 0 where the image hardly shows the target.
        """
        others = np.array(rests_on)
        others[target] = 0
        rest = image - np.tensordot(others, self.blurred, 1).astype(np.float32)
        blurred = self.move(self.blurred[target])
        divisor = np.maximum(blurred, SMALLEST_TARGET)
        return np.where(blurred >= SMALLEST_TARGET, self.move(rest) / divisor, 0)

    def of_local(self, signals: Mapping[int, Floats], rests_on: Floats) -> Floats:
        """Return signals that differ from place to place, put together by fine fractions.

        Parameters
        ----------
        signals
            On the grid of the image, by index among the regions of interest.
        rests_on
            Signals of all regions, for those without a map of their own, shape (regions,).

        Returns
        -------
        corrected
            Shape (fx, fy, fz).
        """
        total = np.zeros(self.fractions.shape[1:], np.float32)
        for k, (share, value) in enumerate(
            zip(self.fractions, rests_on[self.chosen], strict=True)
        ):
            total += share * (self.move(signals[k]) if k in signals else np.float32(value))
        return total
