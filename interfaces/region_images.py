"""Regions from a file: a label image, or soft fractions that are read volume by volume."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.arrayproxy import ArrayProxy

from sodiumprep.interfaces.image import UNREADABLE, load_image, open_image
from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.pvc.kernels import ImageKernel
from sodiumprep.sodium.pvc.reduced import label_numbers

SAME_PLACE = 0.01  # voxels by which the corners of one grid may lie off those of another
ALONG = 0.999  # cosine of the angle between an axis of a kernel and one of the image
WANTED = "accepted: a 4D image (one region per volume) or a 3D image of two labels or more"


class RegionImage:
    """A file of regions, of which no more than one volume is held.

    Parameters
    ----------
    path
        NIfTI file: 4D with one fraction per volume, or a 3D label image.

    Raises
    ------
    ValueError
        If it cannot be read, or is a mask in three dimensions; the message names the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._image: Any = open_image(path, by_volume=True)
        self.affine = np.asarray(self._image.affine, np.float64)
        dimensions = len(self._image.shape)
        if dimensions not in {3, 4}:
            raise ValueError(f"{path}: {dimensions} dimensions; {WANTED}")
        self.shape: tuple[int, ...] = self._image.shape[:3]
        self.labels = self._read_labels() if dimensions == 3 else None
        self.numbers = (
            list(range(1, self._image.shape[3] + 1))
            if self.labels is None
            else label_numbers(self.labels)
        )
        if self.labels is not None and len(self.numbers) < 2:
            raise ValueError(
                f"{path}: a 3D image that holds {len(self.numbers)} label, so a mask; {WANTED}"
            )

    def _unreadable(self, error: Exception) -> ValueError:
        return ValueError(f"{self.path}: cannot be read, truncated or no image ({error})")

    def _read_labels(self) -> Integers:
        try:
            values = np.asarray(self._image.dataobj)
        except UNREADABLE as error:
            raise self._unreadable(error) from None
        if values.dtype.kind == "f":
            if not np.isfinite(values).all():
                raise ValueError(f"{self.path}: holds NaN or infinity")
            if (values != np.rint(values)).any():
                raise ValueError(
                    f"{self.path}: a 3D image whose values are not whole numbers, so a soft mask; "
                    f"{WANTED}"
                )
        if values.min() < 0 or values.max() >= 2**31:
            raise ValueError(
                f"{self.path}: labels from {values.min()} to {values.max()}; accepted: 0 "
                "(background) and above"
            )
        small = values if values.dtype.kind in "ui" else values.astype(np.int32)
        return np.ascontiguousarray(small)

    def volumes(self) -> Iterator[Floats]:
        """Yield the fractions one after the other, each of shape (nx, ny, nz), float32.

        They lie in memory as in the file.

        Raises
        ------
        ValueError
            If the file is truncated.
        """
        stored = self._image.dataobj
        try:
            slope, intercept = np.float32(stored.slope), np.float32(stored.inter)
            # scaled here in single precision: the library would make doubles of a whole volume
            raw = ArrayProxy(
                self._image.file_map["image"].filename,
                (stored.shape, stored.dtype, stored.offset),
                keep_file_open=True,
            )
            for i in range(stored.shape[3]):
                values = np.array(raw[..., i], np.float32)
                if (slope, intercept) != (1, 0):
                    values *= slope
                    values += intercept
                yield values
        except UNREADABLE as error:
            raise self._unreadable(error) from None

    def on_grid(self, affine: Floats, shape: tuple[int, ...]) -> bool:
        """Tell whether the file has the grid of an image."""
        if self.shape != shape:
            return False
        own = np.linalg.inv(self.affine) @ affine
        corners = np.array([[*c, 1] for c in product(*((0, n - 1) for n in shape))])
        return bool(np.abs(corners @ (own - np.eye(4)).T).max() < SAME_PLACE)

    def check_overlap(self, affine: Floats, shape: tuple[int, ...]) -> None:
        """Refuse a file that lies beside an image.

        Raises
        ------
        ValueError
            With the distance of both centres.
        """
        own = np.linalg.inv(affine) @ self.affine
        corners = np.array([[*c, 1] for c in product(*((-0.5, n - 0.5) for n in self.shape))])
        found = (corners @ own.T)[:, :3]
        if (found.max(axis=0) <= -0.5).any() or (found.min(axis=0) >= np.array(shape) - 0.5).any():
            centres = [a @ [*(np.array(n) - 1) / 2, 1] for a, n in
                       ((affine, shape), (self.affine, self.shape))]  # fmt: skip
            distance = float(np.linalg.norm((centres[0] - centres[1])[:3]))
            raise ValueError(
                f"{self.path}: does not overlap with the image, their centres lie {distance:.0f} "
                "mm apart; accepted: regions in the space of the image, on any grid"
            )

    def sampled(self, affine: Floats, shape: tuple[int, ...]) -> Iterator[Floats]:
        """Yield the fractions on another grid, between voxels by straight lines."""
        there = index_map(affine, self.affine, np.eye(4))
        for volume in self.volumes():
            yield resample(volume, there, shape, 1)

    def sampled_labels(self, affine: Floats, shape: tuple[int, ...]) -> Integers:
        """Return the labels on another grid, each voxel that of the nearest."""
        there = index_map(affine, self.affine, np.eye(4))
        labels = np.zeros(0) if self.labels is None else self.labels
        compact = np.searchsorted(self.numbers, labels).astype(np.float32) + (labels > 0)
        nearest = np.rint(resample(compact, there, shape, 0)).astype(np.intp)
        return np.asarray([0, *self.numbers])[nearest]


def load_kernels(path: Path, affine: Floats) -> list[ImageKernel]:
    """Load kernels whose centre is the voxel ``n // 2`` of their grid.

    Parameters
    ----------
    path
        NIfTI file, 3D, or 4D with one kernel for each region (and one more for the background).
    affine
        Of the image that they blur, shape (4, 4); the axes of the kernel must lie along its axes.

    Returns
    -------
    kernels
        Each scaled to a sum of 1.

    Raises
    ------
    ValueError
        If the file cannot be read, its axes lie across those of the image, or a kernel has no
        positive sum.
    """
    values, own = load_image(path)
    if values.ndim not in {3, 4}:
        raise ValueError(f"{path}: {values.ndim} dimensions; accepted: 3D, or 4D, one per region")
    turned, spacing = _along_image(path, values.reshape(*values.shape[:3], -1), own, affine)
    sums = turned.sum(axis=(0, 1, 2), dtype=np.float64)
    if not (np.isfinite(sums).all() and sums.min() > 0):
        raise ValueError(
            f"{path}: kernels sum to {sums.min():.3g} to {sums.max():.3g}; accepted: finite, "
            "above 0"
        )
    return [ImageKernel(turned[..., i] / total, spacing) for i, total in enumerate(sums)]


def _along_image(path: Path, values: Floats, own: Floats, affine: Floats) -> tuple[Floats, Floats]:
    """Turn a kernel so that its axes are those of the image, centre on centre."""
    spacing = np.linalg.norm(own[:3, :3], axis=0)
    cosines = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T @ (own[:3, :3] / spacing)
    order = np.abs(cosines).argmax(axis=1)
    if (np.abs(cosines).max(axis=1) < ALONG).any() or len(set(order.tolist())) < 3:
        raise ValueError(
            f"{path}: the axes of the kernel lie across those of the image; accepted: along them"
        )
    turned = np.transpose(values, (*order, 3))
    for axis in range(3):
        if cosines[axis, order[axis]] < 0:
            # an even axis has its centre off the middle: the centre stays at n // 2
            turned = np.roll(np.flip(turned, axis), 1 - turned.shape[axis] % 2, axis)
    return np.ascontiguousarray(turned), spacing[order]
