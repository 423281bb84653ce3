"""Sampling patterns of k-space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sodiumprep.sodium.acquisition import Floats

NARROWEST_TWIST = 0.2  # sine of the polar angle below which a cone is twisted no faster
GOLDEN_TURN = np.pi * (3 - np.sqrt(5))  # rad, between neighbours that shall not line up
HUB_ELEVATION = np.pi / 4  # rad, three orthogonal hubs of this half-width cover the sphere
STEPS_PER_TURN = 512  # of the table from which a path of constant speed is read
CENTRED = 1e-3  # 1/m, distance from the centre of k-space that does not count
SIDECAR_KEYS: Mapping[str, str] = {  # of TrajectoryProtocol's fields
    "kind": "TrajectoryType",
    "readouts": "NumberOfReadouts",
    "samples": "NumberOfReadoutSamples",
    "k_max": "MaximumSpatialFrequency",
    "k0_fraction": "DensityAdaptedFraction",
    "twist": "TrajectoryTwist",
    "hubs": "NumberOfHubs",
}


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


def radial(n_spokes: int, n_samples: int, k_max: float) -> Floats:
    """Return a 3D centre-out radial trajectory of constant gradient.

    Parameters
    ----------
    n_spokes, n_samples
        Readouts, and samples of each.
    k_max
        Radius of the last sample [1/m].

    Returns
    -------
    trajectory
        Shape (n_spokes, n_samples, 3) [1/m], float32.

    Examples
    --------
    >>> np.linalg.norm(radial(3, 5, 100.0)[0], axis=-1)
    array([  0.,  25.,  50.,  75., 100.], dtype=float32)
    """
    return density_adapted_radial(n_spokes, n_samples, k_max, 1.0)


@dataclass(frozen=True)
class _Cones:
    """Readouts on cones, each standing for the same solid angle.

    ``height`` is the cosine of the polar angle, ``start`` the azimuth of the first sample [rad];
    both of shape (readouts,). The bands of the cones share out the sphere in proportion to their
    readouts, so that weights need no correction for rounding.
    """

    height: Floats
    start: Floats

    @property
    def sine(self) -> Floats:
        return np.asarray(np.sqrt(1 - self.height**2))

    def place(self, radius: Floats, azimuth: Floats) -> Floats:
        """Put samples at radii [1/m] and azimuths [rad], both (readouts, n) or broadcast to it."""
        angle = self.start[:, None] + azimuth
        across = radius * self.sine[:, None]
        along = np.broadcast_to(radius * self.height[:, None], angle.shape)
        corners = (across * np.cos(angle), across * np.sin(angle), along)
        return np.stack(corners, axis=-1).astype(np.float32)


def _spread_over_cones(n_readouts: int, arms_per_cone: float) -> _Cones:
    """Share readouts out to cones at equal steps of polar angle.

    ``arms_per_cone`` is the number of readouts on the equator over the number of cones. Spokes
    need 2; arms that wind around the cone need fewer, since neighbours come closer.
    """
    if n_readouts < 2:
        raise ValueError(f"cones need at least 2 readouts, got {n_readouts}")
    n_cones = max(1, round(float(np.sqrt(np.pi * n_readouts / (2 * arms_per_cone)))))
    share = np.sin((np.arange(n_cones) + 0.5) * np.pi / n_cones)
    ends = np.rint(n_readouts * np.cumsum(share) / share.sum()).astype(int)
    starts = np.concatenate([[0], ends[:-1]])
    height, start = np.empty(n_readouts), np.empty(n_readouts)
    for i, (first, last) in enumerate(zip(starts, ends, strict=True)):
        height[first:last] = 1 - (first + last) / n_readouts  # middle of the band
        turn = 2 * np.pi * np.arange(last - first) / max(last - first, 1)
        start[first:last] = turn + i * GOLDEN_TURN
    return _Cones(height, start)


def twisted_projection(
    n_readouts: int, n_samples: int, k_max: float, k0_fraction: float = 0.3, twist: float = 1.0
) -> Floats:
    """Return a twisted-projection trajectory: the density-adapted radial law, wound on cones.

    Beyond ``k0`` the radius grows as ``(k0^3 + 3 k0^2 v (t - t0))^(1/3)`` and the gradient that
    this leaves over turns the readout around its cone, so that the speed ``v`` stays constant:
    with ``u = (k / k0)^2`` the azimuth is
    ``(sqrt(u^2 - 1) - arctan(sqrt(u^2 - 1))) / (2 sin(theta))``. Close to the poles, where that
    would need a boundless slew rate, the twist is that of ``sin(theta) = 0.2``.

    Parameters
    ----------
    n_readouts, n_samples
        Readouts, and samples of each.
    k_max
        Radius of the last sample [1/m].
    k0_fraction
        Share of the radius that is sampled on a straight line, in (0, 1].
    twist
        Share of the azimuth above that is used; 0 leaves density-adapted spokes.

    Returns
    -------
    trajectory
        Shape (n_readouts, n_samples, 3) [1/m], float32, cone by cone from +z to -z.

    Raises
    ------
    ValueError
        If there are fewer than two readouts or samples, the fraction lies outside (0, 1], or the
        twist is negative.

    References
    ----------
    Boada et al. 1997, doi:10.1002/mrm.1910370512

    Examples
    --------
    >>> twisted_projection(40, 64, 100.0).shape
    (40, 64, 3)
    """
    if not twist >= 0:
        raise ValueError(f"twist is {twist}; it must not be negative")
    radius = density_adapted_radius(n_samples, k_max, k0_fraction)
    placed = _spread_over_cones(n_readouts, 2 * k0_fraction if twist else 2.0)
    rise = np.sqrt(np.maximum(radius / (k0_fraction * k_max), 1.0) ** 4 - 1)
    turn = twist * (rise - np.arctan(rise)) / 2
    return placed.place(radius, turn / np.maximum(placed.sine, NARROWEST_TWIST)[:, None])


def _constant_speed(
    sines: Floats, azimuth: Callable[[Floats], Floats], n_samples: int, turns: float
) -> Floats:
    """Return where equal steps along spirals lie: radius over the largest, (readouts, n).

    ``azimuth`` gives the angle [rad] over the relative radius; ``sines`` are those of the polar
    angles of the cones.
    """
    if n_samples < 2:
        raise ValueError(f"a readout needs at least 2 samples, got {n_samples}")
    if not turns >= 0:
        raise ValueError(f"turns is {turns}; it must not be negative")
    radius = np.linspace(0, 1, int(STEPS_PER_TURN * (1 + turns)))
    middle, turned = (radius[1:] + radius[:-1]) / 2, np.diff(azimuth(radius))
    asked, paths = np.linspace(0, 1, n_samples), {}
    for sine in np.unique(sines):
        steps = np.hypot(np.diff(radius), sine * middle * turned)
        length = np.concatenate([[0.0], np.cumsum(steps)])
        paths[float(sine)] = np.interp(asked, length / length[-1], radius)
    return np.stack([paths[float(sine)] for sine in sines])


def cones(n_readouts: int, n_samples: int, k_max: float, turns: float = 2.0) -> Floats:
    """Return a 3D cones trajectory: Archimedean spirals on cones, at constant speed.

    Parameters
    ----------
    n_readouts, n_samples
        Readouts, and samples of each.
    k_max
        Radius of the last sample [1/m].
    turns
        Revolutions of each readout around its cone; fewer near the poles, as for
        :func:`twisted_projection`, are not needed since the turns do not grow there.

    Returns
    -------
    trajectory
        Shape (n_readouts, n_samples, 3) [1/m], float32, cone by cone from +z to -z.

    Raises
    ------
    ValueError
        If there are fewer than two readouts or samples, or the turns are negative.

    References
    ----------
    Irarrazabal & Nishimura 1995, doi:10.1002/mrm.1910330510;
    Gurney, Hargreaves & Nishimura 2006, doi:10.1002/mrm.20796

    Examples
    --------
    >>> cones(40, 64, 100.0).shape
    (40, 64, 3)
    """
    placed = _spread_over_cones(n_readouts, 2 / np.hypot(1, 2 * np.pi * turns))
    wound = 2 * np.pi * turns
    radius = _constant_speed(placed.sine, lambda share: wound * share, n_samples, turns)
    return placed.place(k_max * radius, wound * radius)


def floret(
    n_readouts: int, n_samples: int, k_max: float, turns: float = 2.0, hubs: int = 3
) -> Floats:
    """Return a FLORET trajectory: Fermat spirals on cones around up to three orthogonal hubs.

    A readout leaves the centre straight, since its azimuth grows with the square of the radius.
    The cones of a hub reach 45 degrees to either side of its equator.

    Parameters
    ----------
    n_readouts, n_samples
        Readouts of all hubs, and samples of each.
    k_max
        Radius of the last sample [1/m].
    turns
        Revolutions of each readout around its hub.
    hubs
        1 to 3; only three cover the sphere.

    Returns
    -------
    trajectory
        Shape (n_readouts, n_samples, 3) [1/m], float32, hub by hub (z, x, y).

    Raises
    ------
    ValueError
        If there are fewer than two samples or one readout per hub, the turns are negative, or
        the number of hubs is not 1 to 3.

    References
    ----------
    Pipe et al. 2011, doi:10.1002/mrm.22918

    Examples
    --------
    >>> floret(40, 64, 100.0).shape
    (40, 64, 3)
    """
    if hubs not in (1, 2, 3) or n_readouts < hubs:
        raise ValueError(
            f"{n_readouts} readouts on {hubs} hubs; accepted: 1 to 3 hubs, a readout on each"
        )
    wound, parts = 2 * np.pi * turns, []
    for hub, share in enumerate(np.array_split(np.arange(n_readouts), hubs)):
        index = np.arange(len(share))
        height = np.sin(HUB_ELEVATION) * (1 - (2 * index + 1) / len(share))
        placed = _Cones(height, index * GOLDEN_TURN)
        radius = _constant_speed(placed.sine, lambda r: wound * r**2, n_samples, turns)
        parts.append(np.roll(placed.place(k_max * radius, wound * radius**2), hub, axis=-1))
    return np.concatenate(parts)


@dataclass(frozen=True)
class TrajectoryProtocol:
    """Numbers of a protocol from which a trajectory follows.

    In a sidecar the fields go by the keys of ``SIDECAR_KEYS``: ``TrajectoryType``,
    ``NumberOfReadouts``, ``NumberOfReadoutSamples``, ``MaximumSpatialFrequency`` [1/m] (or
    ``AcquisitionVoxelSize`` [mm], three equal numbers: see :meth:`largest_frequency`),
    ``DensityAdaptedFraction``, ``TrajectoryTwist`` and ``NumberOfHubs``.

    Parameters
    ----------
    kind
        "radial", "density-adapted radial", "tpi", "cones" or "floret".
    readouts, samples
        Readouts, and samples of each.
    k_max
        Radius of the last sample [1/m].
    k0_fraction
        Share of the radius at constant gradient: density-adapted radial and TPI.
    twist
        TPI: share of the azimuth that the gradient allows; cones and FLORET: revolutions of a
        readout. None is 1 for TPI and 2 for the others.
    hubs
        FLORET: 1 to 3.
    """

    kind: str
    readouts: int
    samples: int
    k_max: float
    k0_fraction: float = 0.3
    twist: float | None = None
    hubs: int = 3

    @staticmethod
    def largest_frequency(voxel_size: float) -> float:
        """Return the radius of k-space that resolves a nominal voxel size [m], in 1/m.

        Examples
        --------
        >>> TrajectoryProtocol.largest_frequency(0.004)
        125.0
        """
        return 0.5 / voxel_size


def analytic_trajectory(protocol: TrajectoryProtocol) -> Floats:
    """Return the trajectory that a protocol describes.

    Readouts come in the order of the generator named: a file whose readouts were taken in
    another order must be sorted first.

    Parameters
    ----------
    protocol
        Kind and numbers.

    Returns
    -------
    trajectory
        Shape (readouts, samples, 3) [1/m], float32, from the centre outwards.

    Raises
    ------
    ValueError
        If the kind is unknown, the largest frequency is not positive, or the generator refuses
        its numbers.

    Examples
    --------
    >>> analytic_trajectory(TrajectoryProtocol("tpi", 40, 64, 125.0)).shape
    (40, 64, 3)
    """
    p = protocol
    if not p.k_max > 0:
        raise ValueError(f"k_max is {p.k_max}/m; it must be positive")
    turns = 2.0 if p.twist is None else p.twist
    twist = 1.0 if p.twist is None else p.twist
    size = (p.readouts, p.samples, p.k_max)
    generators: Mapping[str, Callable[[], Floats]] = {
        "radial": lambda: radial(*size),
        "density-adapted radial": lambda: density_adapted_radial(*size, p.k0_fraction),
        "tpi": lambda: twisted_projection(*size, p.k0_fraction, twist),
        "cones": lambda: cones(*size, turns),
        "floret": lambda: floret(*size, turns, p.hubs),
    }
    if p.kind not in generators:
        raise ValueError(f"trajectory type '{p.kind}'; accepted: {', '.join(generators)}")
    return generators[p.kind]()


def delayed(trajectory: Floats, delays: Floats, dwell_time: float) -> Floats:
    """Return where samples were really taken if the gradients came late.

    Each component is read ``delay`` earlier on its nominal course, by cubic interpolation. What
    lies before the first sample: the centre, if the readout starts there, else the course is
    extended straight on, as it is beyond the last sample.

    Parameters
    ----------
    trajectory
        Nominal, shape (readouts, n, 3) [1/m], at least 3 samples.
    delays
        Of the gradient along each axis of the trajectory, shape (3,) [s]; negative is early.
    dwell_time
        Between two samples [s].

    Returns
    -------
    trajectory
        Same shape and dtype.

    Raises
    ------
    ValueError
        If there are not three delays, the dwell time is not positive, a delay is longer than the
        readout, or a readout has fewer than 3 samples.

    References
    ----------
    Peters, Derbyshire & McVeigh 2003, doi:10.1002/mrm.10452

    Examples
    --------
    >>> spoke = np.arange(5.0)[None, :, None] * np.array([10.0, 0.0, 0.0])
    >>> delayed(spoke, np.array([2e-6, 0, 0]), 10e-6)[0, :, 0].round(6)
    array([ 0.,  8., 18., 28., 38.])
    """
    late = np.asarray(delays, np.float64)
    n = trajectory.shape[1]
    if late.shape != (3,) or not dwell_time > 0 or n < 3:
        raise ValueError(
            f"{late.size} delays, dwell time {dwell_time} s, {n} samples; needed: 3 delays, a "
            "positive dwell time and at least 3 samples"
        )
    longest, span = float(np.abs(late).max()), (n - 1) * dwell_time
    if longest > span:
        raise ValueError(f"a delay of {longest:.4g} s is longer than the readout of {span:.4g} s")
    moved = np.empty_like(trajectory)
    for axis in range(3):
        moved[..., axis] = _shifted(trajectory[..., axis], float(late[axis]) / dwell_time)
    return moved


def _shifted(course: Floats, shift: float) -> Floats:
    """Return a course (readouts, n) at sample number ``i - shift``."""
    n = course.shape[1]
    asked = np.arange(n) - shift
    first = np.clip(np.floor(asked).astype(int), 0, n - 2)
    x = (asked - first).astype(course.dtype)
    before = 3 * (course[:, :1] - course[:, 1:2]) + course[:, 2:3]
    behind = 3 * (course[:, -1:] - course[:, -2:-1]) + course[:, -3:-2]
    padded = np.concatenate([before, course, behind], axis=1)
    taps = (-x * (x - 1) * (x - 2) / 6, (x + 1) * (x - 1) * (x - 2) / 2,
            -(x + 1) * x * (x - 2) / 2, (x + 1) * x * (x - 1) / 6)  # fmt: skip
    moved = sum(tap * padded[:, first + i] for i, tap in enumerate(taps))
    outside = (asked < 0) | (asked > n - 1)
    straight = course[:, first] + x * (course[:, first + 1] - course[:, first])
    moved = np.where(outside, straight, moved)
    starts = np.abs(course[:, :1]) <= 0.5 * np.abs(course[:, 1:2] - course[:, :1]) + CENTRED
    return np.where((asked < 0) & starts, course[:, :1], moved)


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
