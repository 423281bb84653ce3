"""Sampling patterns of k-space."""

from __future__ import annotations

import numpy as np

from sodiumprep.sodium.acquisition import Floats

SODIUM_GAMMA_BAR = 11.262e6  # Hz/T, 23Na gyromagnetic ratio over 2 pi


def spoke_directions(n_spokes: int) -> Floats:
    """Return unit vectors spread evenly over the whole sphere along a golden-angle spiral.

    Parameters
    ----------
    n_spokes
        Number of directions.

    Returns
    -------
    directions
        Shape (n_spokes, 3).

    Examples
    --------
    >>> bool(np.allclose(np.linalg.norm(spoke_directions(100), axis=1), 1))
    True
    """
    index = np.arange(n_spokes)
    height = 1 - (2 * index + 1) / n_spokes
    angle = index * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=-1)


def density_adapted_radius(n_samples: int, k_max: float, k0_fraction: float = 0.3) -> Floats:
    """Return the radius of each sample of a density-adapted radial readout.

    The gradient is constant until ``k0 = k0_fraction * k_max``; from there the radius grows as
    ``(k0^3 + 3 k0^2 v (t - t0))^(1/3)``, where ``v`` is the speed until then, so that each shell
    of k-space is sampled with the same density.

    Parameters
    ----------
    n_samples
        Samples of the readout, at constant dwell time.
    k_max
        Radius of the last sample [1/m].
    k0_fraction
        Share of the radius that is sampled at constant gradient, in (0, 1]; 1 is plain radial.

    Returns
    -------
    radius
        Shape (n_samples,) [1/m], from 0 to ``k_max``.

    Raises
    ------
    ValueError
        If there are fewer than two samples or the fraction lies outside (0, 1].

    References
    ----------
    Nagel et al. 2009, doi:10.1002/mrm.22157

    Examples
    --------
    >>> density_adapted_radius(5, 100.0, k0_fraction=1.0)
    array([  0.,  25.,  50.,  75., 100.])
    """
    if n_samples < 2:
        raise ValueError(f"a readout needs at least 2 samples, got {n_samples}")
    if not 0 < k0_fraction <= 1:
        raise ValueError(f"k0_fraction is {k0_fraction}; it must lie in (0, 1]")
    p = k0_fraction
    travelled = np.linspace(0, p + (1 - p**3) / (3 * p**2), n_samples)  # speed times time / k_max
    adapted = np.cbrt(np.maximum(3 * p**2 * travelled - 2 * p**3, 0.0))
    return k_max * np.where(travelled < p, travelled, adapted)


def density_adapted_radial(
    n_spokes: int, n_samples: int, k_max: float, k0_fraction: float = 0.3
) -> Floats:
    """Return a 3D centre-out density-adapted radial trajectory.

    Parameters
    ----------
    n_spokes, n_samples
        Readouts, and samples of each.
    k_max
        Radius of the last sample [1/m].
    k0_fraction
        As in :func:`density_adapted_radius`.

    Returns
    -------
    trajectory
        Shape (n_spokes, n_samples, 3) [1/m], float32.

    References
    ----------
    Nagel et al. 2009, doi:10.1002/mrm.22157

    Examples
    --------
    >>> density_adapted_radial(10, 16, 100.0).shape
    (10, 16, 3)
    """
    radius = density_adapted_radius(n_samples, k_max, k0_fraction)
    return (spoke_directions(n_spokes)[:, None] * radius[:, None]).astype(np.float32)


def centre_step(trajectory: Floats) -> float:
    """Return the largest step of a readout within the first tenth of its way out.

    Parameters
    ----------
    trajectory
        Shape (readouts, n, 3) [1/m].

    Returns
    -------
    step
        [1/m]. Above ``1 / (2 FOV)`` the centre of k-space is undersampled and the image inflated.

    Examples
    --------
    >>> spoke = np.linspace(0, 100, 51)[None, :, None] * np.array([1.0, 0, 0])
    >>> round(centre_step(spoke), 6)
    2.0
    """
    radius = np.linalg.norm(trajectory, axis=-1)
    near = radius[:, :-1] <= 0.1 * radius.max()
    steps = np.linalg.norm(np.diff(trajectory, axis=1), axis=-1)
    return float(steps[near].max()) if near.any() else float(steps.max())
