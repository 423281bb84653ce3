"""Regions that come on a finer grid than the image: the image itself is never resampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sodiumprep.sodium.acquisition import Complexes, Floats
from sodiumprep.sodium.pvc.kernels import Kernel
from sodiumprep.sodium.pvc.parts import Part
from sodiumprep.sodium.pvc.reduced import BACKGROUND, check_kernels, kernels_of_all
from sodiumprep.sodium.pvc.shown import SMALLEST_REGION, SampledRegions
from sodiumprep.sodium.regions import blur_to_grid, fine_affine, subdivision, voxel_means


@dataclass(frozen=True)
class FineGrid:
    """The grid of an image with its voxels cut into parts, and with room around.

    Parameters
    ----------
    affine
        Voxel index to position, shape (4, 4).
    shape
        Of the fine grid.
    factor
        Parts of each voxel edge.
    room
        Voxels of the image by which the grid reaches beyond it at every side.
    """

    affine: Floats
    shape: tuple[int, int, int]
    factor: int
    room: tuple[int, int, int]

    @classmethod
    def around(cls, affine: Floats, shape: Sequence[int], kernels: Sequence[Kernel]) -> FineGrid:
        """Return the grid for an image, with room for what kernels bring in from outside.

        Parameters
        ----------
        affine
            Of the image, shape (4, 4) [mm].
        shape
            Of the image.
        kernels
            All that are in use.
        """
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        factor = subdivision(spacing)
        far = np.ceil(np.max([k.reach for k in kernels], axis=0) / spacing).astype(int)
        far = np.minimum(far, shape)
        wide = affine.copy()
        wide[:3, 3] -= affine[:3, :3] @ far
        x, y, z = (int(factor * (n + 2 * f)) for n, f in zip(shape, far, strict=True))
        room = (int(far[0]), int(far[1]), int(far[2]))
        return cls(fine_affine(wide, factor), (x, y, z), factor, room)

    def cropped(self, coarse: Floats) -> Floats:
        """Return the part of a coarse volume that the image covers."""
        place = tuple(slice(f, n - f) for f, n in zip(self.room, coarse.shape, strict=True))
        return coarse[place]


def sampled_regions(
    parts: Sequence[Part],
    grid: FineGrid,
    spacing: Floats,
    kernels: Sequence[Kernel],
    names: Sequence[str],
) -> SampledRegions:
    """Return regions on the grid of an image from their voxels on a finer one.

    Parameters
    ----------
    parts
        Voxels of each region but the background, on the fine grid.
    grid
        The fine grid.
    spacing
        Voxel edges of the image, shape (3,) [mm].
    kernels
        One for each region, then that of the background; or one for all.
    names
        Of the regions but the background.

    Returns
    -------
    regions
        The background last, unless it is empty. Beyond the fine grid it goes on.

    Raises
    ------
    ValueError
        If a region has no voxel in the image, or a kernel is wider than the field of view.
    """
    kernels = kernels_of_all(kernels, len(parts))
    coarse = [n // grid.factor for n in grid.shape]
    inside = [n - 2 * f for n, f in zip(coarse, grid.room, strict=True)]
    check_kernels(kernels, spacing * inside)
    transfers = {id(k): doubled_transfer(k, coarse, spacing) for k in kernels}
    fractions, blurred = [], []
    together = np.zeros(grid.shape, np.float32)
    for part, kernel in zip(parts, kernels, strict=False):
        fine = part.dense(grid.shape)
        together += fine
        fractions.append(grid.cropped(voxel_means(fine, grid.factor)))
        blurred.append(grid.cropped(blur_to_grid(fine, grid.factor, transfers[id(kernel)])))
    fractions.append(1 - np.sum(fractions, axis=0))
    shown = blur_to_grid(together, grid.factor, transfers[id(kernels[-1])])
    blurred.append(np.float32(kernels[-1].gain) - grid.cropped(shown))
    n = len(parts) + int(fractions[-1].sum(dtype=np.float64) >= SMALLEST_REGION)
    return SampledRegions(np.stack(fractions[:n]), np.stack(blurred[:n]), [*names, BACKGROUND][:n])


def doubled_transfer(kernel: Kernel, shape: Sequence[int], spacing: Floats) -> Complexes:
    """Return the transfer of a kernel on twice a field of view.

    Parameters
    ----------
    kernel
        Of any form.
    shape
        Of the image.
    spacing
        Its voxel edges, shape (3,) [mm].

    Returns
    -------
    transfer
        Shape (2 nx, 2 ny, nz + 1), complex64.
    """
    frequencies = [np.fft.fftfreq(2 * n, s) for n, s in zip(shape, spacing, strict=True)]
    frequencies[2] = np.abs(frequencies[2][: shape[2] + 1])
    return kernel.transfer(frequencies).astype(np.complex64)
