"""From image to k-space and back: the non-uniform Fourier transform in physical units.

``upsampfac`` is 2, or 1.75 on large grids: the library's automatic choice of 1.25 is off by up to
2e-3 in the adjoint of a phantom in single precision, these by 1e-5. Double precision is used
where both the values and the trajectory come in it.
"""

from __future__ import annotations

import os
from typing import Any

import finufft
import numpy as np

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry, Numbers
from sodiumprep.sodium.interpolation import Interpolator, readout_interpolator

TOLERANCE = 1e-5
DOUBLE_TOLERANCE = 1e-11
LARGE_GRID = 400_000  # voxels; above, a fine grid of 1.75 times costs less and is as accurate
MANY_SAMPLES = 200_000  # below, transforming all of them costs less than choosing among them


def available_threads() -> int:
    """Return how many threads may be used: the cores, or less where ``OMP_NUM_THREADS`` says so.

    Returns
    -------
    threads
        At least 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    allowed = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, min(cores or 1, int(allowed) if allowed.isdigit() else cores or 1))


def voxel_phases(trajectory: Floats, voxel_size: Floats, dtype: type[np.floating]) -> list[Floats]:
    """Return the phase that a signal turns by from one voxel to the next.

    Parameters
    ----------
    trajectory
        Shape (..., 3) [1/m].
    voxel_size
        Shape (3,) [m].
    dtype
        Precision of the phases.

    Returns
    -------
    phases
        Three contiguous arrays [rad], one per axis, each of the size of the trajectory.
    """
    scale = 2 * np.pi * np.asarray(voxel_size)
    wide = np.result_type(trajectory, dtype)
    return [
        np.multiply(trajectory[..., axis], scale[axis], dtype=wide)
        .astype(dtype, copy=False)
        .ravel()
        for axis in range(3)
    ]


class Transform:
    """The transform between the voxels of a geometry and the samples of a trajectory.

    Plans are made once and serve both directions. Where readouts are sampled more densely than
    the field of view asks for, only some of their samples are transformed, and the others
    follow by interpolation along the readout; both directions stay adjoint to each other.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m]; samples that form no readouts: (1, n, 3), all transformed.
    geometry
        Voxel grid; places are measured from its centre voxel along its axes.
    reused
        Whether more than one transform will come; for one, choosing among samples is not worth it.

    References
    ----------
    Barnett, Magland & af Klinteberg 2019, doi:10.1137/18M120885X
    """

    def __init__(self, trajectory: Floats, geometry: Geometry, reused: bool = True) -> None:
        self.trajectory = trajectory
        many = len(trajectory) > 1 and trajectory[..., 0].size >= MANY_SAMPLES
        self.choosing = reused and many
        self.geometry = geometry
        self._plans: dict[str, tuple[Any, Interpolator | None]] = {}

    def forward(self, image: Numbers) -> Complexes:
        """Return ``sum_r image(r) exp(-i 2 pi k_j.r)``.

        Parameters
        ----------
        image
            Shape (nx, ny, nz).

        Returns
        -------
        samples
            Shape (readouts, n).
        """
        dtype = self._precision(image)
        plan, interpolator = self._plan(dtype)
        values = np.ascontiguousarray(image, dtype)
        samples = plan.execute_adjoint(values).reshape(len(self.trajectory), -1)
        return np.asarray(samples if interpolator is None else interpolator.spread(samples))

    def adjoint(self, samples: Numbers) -> Complexes:
        """Return ``sum_j samples_j exp(+i 2 pi k_j.r)``.

        Parameters
        ----------
        samples
            Shape (readouts, n).

        Returns
        -------
        image
            Shape (nx, ny, nz).
        """
        dtype = self._precision(samples)
        plan, interpolator = self._plan(dtype)
        values = np.asarray(samples)
        if interpolator is not None:
            values = interpolator.gather(values.astype(_narrow(values), copy=False))
        return np.asarray(plan.execute(np.ascontiguousarray(values, dtype).ravel()))

    def _precision(self, values: Numbers) -> str:
        double = values.dtype == np.complex128 and self.trajectory.dtype == np.float64
        return "complex128" if double else "complex64"

    def _plan(self, dtype: str) -> tuple[Any, Interpolator | None]:
        if dtype not in self._plans:
            choosing = self.choosing and dtype == "complex64"
            interpolator = (
                readout_interpolator(self.trajectory, self.geometry) if choosing else None
            )
            nodes = slice(None) if interpolator is None else interpolator.nodes
            plan = make_plan(self.trajectory[:, nodes], self.geometry, dtype)
            self._plans[dtype] = plan, interpolator
        return self._plans[dtype]


def _narrow(values: Numbers) -> type[np.inexact]:
    return np.complex64 if np.iscomplexobj(values) else np.float32


def make_plan(
    trajectory: Floats, geometry: Geometry, dtype: str, upsampling: float | None = None
) -> finufft.Plan:
    """Return a plan from samples to voxels; executed as an adjoint, it leads back.

    Parameters
    ----------
    trajectory
        Shape (..., 3) [1/m].
    geometry
        Voxel grid.
    dtype
        "complex64" or "complex128".
    upsampling
        Of the fine grid, else by the size of the grid; 2 in double precision.

    Returns
    -------
    plan
        With its points set.
    """
    single = dtype == "complex64"
    usual = 1.75 if np.prod(geometry.matrix) > LARGE_GRID else 2.0
    plan = finufft.Plan(
        1,
        geometry.matrix,
        eps=TOLERANCE if single else DOUBLE_TOLERANCE,
        isign=1,
        dtype=dtype,
        upsampfac=(upsampling or usual) if single else 2.0,
        nthreads=available_threads(),
    )
    real_type = np.float32 if single else np.float64
    plan.setpts(*voxel_phases(trajectory, geometry.voxel_size, real_type))
    return plan


def adjoint(samples: Numbers, trajectory: Floats, geometry: Geometry) -> Complexes:
    """Return ``sum_j samples_j exp(+i 2 pi k_j.r)`` on the voxels of a geometry.

    Parameters
    ----------
    samples
        Density-weighted samples, shape (..., readouts, n).
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid; ``r`` is measured from its centre voxel along its axes.

    Returns
    -------
    image
        Shape (..., nx, ny, nz), complex64 (complex128 if samples and trajectory are double).

    References
    ----------
    Barnett, Magland & af Klinteberg 2019, doi:10.1137/18M120885X
    """
    flat = samples.reshape(-1, *samples.shape[-2:])
    transform = Transform(trajectory, geometry, reused=len(flat) > 1)
    images = [transform.adjoint(one) for one in flat]
    return np.stack(images).reshape(*samples.shape[:-2], *geometry.matrix)


def forward(image: Numbers, trajectory: Floats, geometry: Geometry) -> Complexes:
    """Return ``sum_r image(r) exp(-i 2 pi k_j.r)``, the adjoint's adjoint.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid.

    Returns
    -------
    samples
        Shape (readouts, n), complex64 (complex128 if image and trajectory are double).
    """
    return Transform(trajectory, geometry, reused=False).forward(image)
