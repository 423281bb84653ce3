"""Calibration vials: found outside the head, and told apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage, optimize, special

from sodiumprep.sodium.acquisition import Complexes, Floats
from sodiumprep.sodium.kernel import (
    FWHM_TO_SIGMA,
    blur,
    full_width_half_maximum,
    near_part,
    to_psf,
)

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]
DETECTED = 6.0  # noise SDs of the smoothed image
FAINTEST = 0.1  # of the head's median signal: below it lie streaks and ringing
NEIGHBOUR = 0.1  # of a brighter vial's signal: what its ringing may leave beside it
NEAR = 3.0  # kernel widths, how far that reaches
KERNEL_REACH = 8.0  # voxels; what lies farther from the centre of the kernel is left out
RADII = (4.0, 25.0)  # mm
VOLUMES = (1.0, 120.0)  # ml
LONGEST = 200.0  # mm
UNROUND = 1.35  # of the two small diameters at half height; an ear has 1.9
FLATTEST = 0.75  # length over diameter; a disc is no vial
FILLED = 0.5  # of the cylinder that its moments tell
UNIFORM = 0.15  # of a vial's variance, beyond noise, that a cylinder may leave unexplained
SLENDER = 1.5  # length over diameter of a vial that the head mask holds; a nose has 1.4
SUNK = 0.2  # of a cylinder in the head without its thin parts: an ear had 0.3, tubes 0.08
NO_CYLINDER = 0.35  # of that variance: more is no tube at all
MOST = 40  # candidates, so that a strange image costs seconds only
REFINEMENTS = 1  # of every fit, once all neighbours are known
# largest change by a fit: centre [mm], tilt of the axis [rad], log of radius and length
STEPS = np.array([10.0, 10.0, 10.0, 0.5, 0.5, 0.7, 0.7])
THICK = 22.0  # mm, radius; thinner parts that stand out of a head mask may be vials
POSITION_LIMIT = 10.0  # mm between a stated position and the axis of its vial
APART_ALONG_AXIS = 10.0  # mm between the centres of neighbours whose order counts
APART_IN_SIGNAL = 5.0  # standard deviations between the signals of neighbours in brightness
APART_EXPECTED = 0.05  # relative difference of neighbours in what is expected
PROPORTIONAL = 0.25  # departure of signal over expected signal from the median of all vials
COMPACT = 1.5  # variance along the longest axis over that of the next one
EDGE = 0.25  # voxels by which a fit may err there
STEP = 1e-3  # of these, for derivatives
CERTAIN = 3.0  # standard uncertainties of the signal of what counts as a vial
KNOWN = 0.1  # relative standard uncertainty of the signal of a vial that calibrates
DIRECTIONS = ("x", "-x", "y", "-y", "z", "-z")  # x to the right, y to the front, z to the top


@dataclass(frozen=True)
class FoundVial:
    """A cylinder that holds sodium.

    Parameters
    ----------
    centre
        Shape (3,) [mm, RAS].
    axis
        Unit vector, shape (3,).
    radius, length
        [mm].
    signal, u_signal
        Of the filling, and its standard uncertainty.
    misfit
        Share of the vial's variance that a uniform cylinder does not explain, beyond noise.
    """

    centre: Floats
    axis: Floats
    radius: float
    length: float
    signal: float
    u_signal: float = 0.0
    misfit: float = 0.0

    @property
    def volume_ml(self) -> float:
        """Volume [ml]."""
        return float(np.pi * self.radius**2 * self.length / 1e3)

    @property
    def is_uniform(self) -> bool:
        """Whether a uniform cylinder explains it, so that its signal is one number."""
        return self.misfit <= UNIFORM

    def depth(self, positions: Floats) -> Floats:
        """Return the distance to the wall [mm], positive inside, for positions (..., 3) [mm]."""
        along, across = self._split(positions)
        return np.asarray(np.minimum(self.radius - across, self.length / 2 - np.abs(along)))

    def distance_to_axis(self, position: Floats) -> float:
        """Return the distance of a position [mm, RAS] to the axis between both ends [mm]."""
        along, across = self._split(np.asarray(position, float))
        beyond = np.maximum(np.abs(along) - self.length / 2, 0)
        return float(np.hypot(across, beyond))

    def _split(self, positions: Floats) -> tuple[Floats, Floats]:
        away = positions - self.centre
        along = away @ self.axis
        return along, np.linalg.norm(away - along[..., None] * self.axis, axis=-1)


@dataclass(frozen=True)
class VialSearch:
    """What a search found.

    Parameters
    ----------
    vials
        Brightest first.
    rejected
        What else is bright outside the head, and why it is no vial.
    """

    vials: tuple[FoundVial, ...]
    rejected: tuple[str, ...] = ()


def head_on_grid(head: Floats, mapping: Floats, shape: tuple[int, ...]) -> Floats:
    """Resample a head mask; the head goes on where the 1H image ends.

    What a field of view cuts off (neck, ears) would otherwise count as outside the head.

    Parameters
    ----------
    head
        Mask, shape (nx, ny, nz).
    mapping
        From voxel index of the new grid to voxel index of ``head``, shape (4, 4).
    shape
        Of the new grid.

    Returns
    -------
    head
        Fraction, shape ``shape``, float32.

    Examples
    --------
    >>> cut = np.zeros((4, 4, 4))
    >>> cut[1:3, 1:3, :2] = 1
    >>> down = np.eye(4)
    >>> down[2, 3] = -10
    >>> float(head_on_grid(cut, down, (4, 4, 8)).sum())
    32.0
    """
    return np.asarray(
        ndimage.affine_transform(
            head, mapping[:3, :3], mapping[:3, 3], shape, np.float32, order=1, mode="nearest"
        )
    )


def search_vials(
    image: Floats, noise_sd: Floats, affine: Floats, head: Floats, transfer: Complexes
) -> VialSearch:
    """Find vials outside the head.

    A vial is what is bright, connected at half height, round across its longest axis, not flat,
    and of the size of a vial. Its cylinder is fitted as the kernel shows it, beside the head and
    the other vials.

    Parameters
    ----------
    image
        Sodium image in which vials lie still, corrected for the receive profile, shape
        (nx, ny, nz).
    noise_sd
        Of ``image``, same shape; where it is not known (NaN) the noise counts as uniform.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].
    head
        Fraction of the head, same shape. Vials that touch the head are bright in a 1H image too
        and then belong to its mask: what stands out of it and is thinner than 44 mm is searched
        as well.
    transfer
        Of the image's kernel, shape (2 nx, 2 ny, nz + 1).

    Returns
    -------
    search
        Vials and what was rejected.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    thick = without_thin_parts(head, spacing)
    scene = _Scene.prepare(image, noise_sd, affine, thick, transfer)
    vials, rejected = _collected(scene)
    for _ in range(REFINEMENTS):
        for k, vial in enumerate(vials):
            others = [*vials[:k], *vials[k + 1 :]]
            if any(scene.reaches(other, vial) for other in others):
                vials[k] = scene.refined(vial, others)
    judged = [(vial, scene.objection(vial) or scene.belongs(vial, head, thick)) for vial in vials]
    rejected += [f"{place(vial.centre)}: {why}" for vial, why in judged if why]
    kept = sorted((vial for vial, why in judged if not why), key=lambda v: -v.signal)
    return VialSearch(tuple(kept), tuple(rejected))


def place(centre: Iterable[float]) -> str:
    """Return a position as messages tell it.

    Parameters
    ----------
    centre
        Three numbers [mm, RAS].

    Examples
    --------
    >>> place(np.array([1.2, -3.7, 0.0]))
    '(1, -4, 0) mm'
    """
    x, y, z = (round(float(c)) for c in centre)
    return f"({x}, {y}, {z}) mm"


def robust_scatter(values: Floats) -> float:
    """Return the standard deviation that the median departure from the median tells.

    Parameters
    ----------
    values
        Any shape, mostly of a normal distribution.

    Examples
    --------
    >>> round(robust_scatter(np.array([-1.0, 0.0, 0.0, 1.0, 90.0, -1.0, 1.0])), 2)
    1.48
    """
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def without_thin_parts(head: Floats, spacing: Floats) -> Floats:
    """Return a head without what stands out of it and is thinner than 44 mm.

    Parameters
    ----------
    head
        Fraction, shape (nx, ny, nz).
    spacing
        Voxel edges [mm], shape (3,).

    Returns
    -------
    head
        0 or 1, float32.

    Examples
    --------
    >>> head = np.linalg.norm(np.indices((30, 30, 30)) - 15, axis=0) < 10
    >>> head[14:17, 14:17, :20] = True
    >>> left = without_thin_parts(head, np.full(3, 4.0))
    >>> left[15, 15, [0, 2, 8, 15, 23]].tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0]
    """
    padded = np.pad(head > 0.5, 1, "edge")
    core = ndimage.distance_transform_edt(padded, sampling=spacing) > THICK
    if not core.any():
        return np.asarray(head, np.float32)
    opened = ndimage.distance_transform_edt(~core, sampling=spacing) <= THICK
    return np.asarray((opened & padded)[1:-1, 1:-1, 1:-1], np.float32)


def _collected(scene: _Scene) -> tuple[list[FoundVial], list[str]]:
    """Return the vials, brightest first, and what is none, before any knows its neighbours."""
    vials: list[FoundVial] = []
    rejected: list[str] = []
    taken = np.zeros(scene.image.shape, bool)
    for _ in range(MOST):
        blob = scene.brightest(vials, taken)
        if blob is None:
            break
        shape = scene.measured(blob)
        why = shape.objection() if shape.volume_ml >= VOLUMES[0] / 2 else "small"
        if not why:
            vials.append(scene.cylinder(shape, vials))
            blob |= scene.depth(vials[-1]) > -scene.width
        elif why != "small":
            rejected.append(f"{place(shape.centre)}: {why}")
        taken |= ndimage.distance_transform_edt(~blob, sampling=scene.spacing) < scene.width
    return vials, rejected


@dataclass(frozen=True)
class _Shape:
    """A blob at half height.

    Parameters
    ----------
    centre
        Shape (3,) [mm, RAS].
    axes
        Principal axes in columns, the longest last, shape (3, 3).
    spread
        Variance along them [mm^2], shape (3,).
    volume_ml
        [ml].
    """

    centre: Floats
    axes: Floats
    spread: Floats
    volume_ml: float

    def objection(self) -> str:
        """Return why it has not the shape of a vial, or an empty text."""
        narrow, wide = 4 * np.sqrt(self.spread[:2])
        length = np.sqrt(12 * self.spread[2])
        filled = self.volume_ml * 4e3 / (np.pi * narrow * wide * length)
        size = f"{narrow:.0f} x {wide:.0f} x {length:.0f} mm"
        if self.volume_ml > VOLUMES[1]:
            return f"{self.volume_ml:.0f} ml; accepted: up to {VOLUMES[1]:g}"
        if wide > UNROUND * narrow:
            return f"not round ({size})"
        if length < FLATTEST * wide:
            return f"flat ({size})"
        if filled < FILLED:
            return f"ragged ({100 * filled:.0f} % of {size} filled)"
        return ""

    def start(self, axis: int) -> FoundVial:
        """Return a cylinder along one of the principal axes."""
        across = 2 * np.sqrt(np.delete(self.spread, axis).mean())
        along = np.sqrt(12 * self.spread[axis])
        return FoundVial(
            self.centre,
            self.axes[:, axis],
            float(np.clip(across, *RADII)),
            float(np.clip(along, RADII[0], LONGEST)),
            0.0,
        )


@dataclass(frozen=True)
class _Scene:
    """An image in which vials are looked for.

    Parameters
    ----------
    image, noise, affine
        As in :func:`search_vials`; no NaN, and noise not less than what is seen in the air.
    allowed
        Where the brightest voxel of a vial may lie.
    outside
        Where a vial may be seen.
    air
        Where most voxels hold noise only.
    nuisance
        What else the image may hold: the blurred head, and a constant; shape (2, nx, ny, nz).
    kernel
        Around its centre, of odd shape.
    width
        Of the kernel at half maximum [mm].
    floor
        Signal below which nothing counts.
    """

    image: Floats
    noise: Floats
    affine: Floats
    allowed: Mask
    outside: Mask
    air: Mask
    nuisance: Floats
    kernel: Floats
    width: float
    floor: float

    @classmethod
    def prepare(
        cls, image: Floats, noise_sd: Floats, affine: Floats, head: Floats, transfer: Complexes
    ) -> _Scene:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        width = float(np.mean(full_width_half_maximum(to_psf(transfer), spacing)))
        inside = head > 0.5
        away = ndimage.distance_transform_edt(~inside, sampling=spacing)
        known = np.isfinite(noise_sd) & (noise_sd > 0)
        typical = float(np.median(noise_sd[known])) if known.any() else 1.0
        noise = np.where(known, noise_sd, typical)
        air = away > 2 * width
        seen = robust_scatter((image / noise)[air]) if air.any() else 1.0
        return cls(
            image=np.asarray(image, np.float64),
            noise=noise * (seen if seen > 1 or not known.any() else 1.0),  # streaks add to it
            affine=affine,
            allowed=away > width,
            outside=away > width / 2,
            air=air,
            nuisance=np.stack([blur(head.astype(np.float32), transfer), np.ones(image.shape)]),
            kernel=_cropped(transfer),
            width=width,
            floor=FAINTEST * float(np.median(image[inside])) if inside.any() else 0.0,
        )

    @property
    def spacing(self) -> Floats:
        """Voxel edges [mm], shape (3,)."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    def depth(self, vial: FoundVial) -> Floats:
        """Return how deep every voxel lies in a vial [mm]."""
        index = np.stack(np.meshgrid(*map(np.arange, self.image.shape), indexing="ij"), axis=-1)
        return vial.depth(index @ self.affine[:3, :3].T + self.affine[:3, 3])

    def without(self, vials: Sequence[FoundVial]) -> Floats:
        """Return the image without what vials show in it."""
        left = self.image.copy()
        for vial in vials:
            box = self.box(vial)
            left[box.where] -= vial.signal * box.shown(vial)
        return left

    def brightest(self, vials: Sequence[FoundVial], taken: Mask) -> Mask | None:
        """Return what is connected, at half height, to the brightest voxel left outside."""
        left = self.without(vials)
        sigma = self.width * FWHM_TO_SIGMA / self.spacing
        signal = ndimage.gaussian_filter(left, sigma)
        relative = ndimage.gaussian_filter(left / self.noise, sigma)
        air = relative[self.air] if self.air.any() else relative
        relative = (relative - np.median(air)) / max(robust_scatter(air), 1e-12)
        wanted = self.allowed & ~taken & (relative > DETECTED) & (signal > self.least(vials))
        if not wanted.any():
            return None
        peak = np.unravel_index(np.argmax(np.where(wanted, relative, -np.inf)), wanted.shape)
        labels, _ = ndimage.label((relative > relative[peak] / 2) & self.outside & ~taken)
        return np.asarray(labels == labels[peak])

    def least(self, vials: Sequence[FoundVial]) -> Floats:
        """Return the signal that counts: more where a bright vial may ring."""
        floor = np.full(self.image.shape, self.floor)
        for vial in vials:
            beside = self.depth(vial) > -NEAR * self.width
            floor[beside] = np.maximum(floor[beside], NEIGHBOUR * vial.signal)
        return floor

    def box(self, vial: FoundVial) -> _Box:
        """Return the part of the image that shows a vial."""
        reach = np.abs(vial.axis) * vial.length / 2 + vial.radius + 1.5 * self.width
        turned = np.linalg.inv(self.affine[:3, :3])
        middle = turned @ (vial.centre - self.affine[:3, 3])
        half = np.abs(turned) @ reach
        low = np.maximum(np.floor(middle - half), 0).astype(int)
        high = np.minimum(np.ceil(middle + half), np.array(self.image.shape) - 1).astype(int)
        return _Box.cut(self.affine, self.kernel, low, np.maximum(high, low))

    def measured(self, blob: Mask) -> _Shape:
        """Return place, axes and size of a blob."""
        points = np.argwhere(blob) @ self.affine[:3, :3].T + self.affine[:3, 3]
        middle = points.mean(axis=0)
        covariance = (points - middle).T @ (points - middle) / len(points)
        spread, axes = np.linalg.eigh(covariance + np.diag(self.spacing**2 / 12))
        volume = len(points) * abs(np.linalg.det(self.affine[:3, :3])) / 1e3
        return _Shape(middle, axes, spread, volume)

    def cylinder(self, shape: _Shape, others: Sequence[FoundVial]) -> FoundVial:
        """Fit a cylinder to a blob, where it is compact from each of its principal axes."""
        longest = 2 if shape.spread[2] > COMPACT * shape.spread[1] else 0
        fits = [self.refined(shape.start(axis), others) for axis in range(longest, 3)]
        return min(fits, key=lambda vial: vial.misfit)

    def refined(self, vial: FoundVial, others: Sequence[FoundVial]) -> FoundVial:
        """Fit a cylinder anew, without what other vials show."""
        box = self.box(vial)
        used = self.outside[box.where] & (self.depth(vial)[box.where] > -1.5 * self.width)
        for other in others:
            used &= self.depth(other)[box.where] < 0
        fit = _Fit(
            vial, box, used,
            self.without(others)[box.where][used], self.noise[box.where][used],
            self.nuisance[(slice(None), *box.where)][:, used],
        )  # fmt: skip
        return fit.best(self.width)

    def reaches(self, vial: FoundVial, other: FoundVial) -> bool:
        """Tell whether a vial may be seen in the voxels to which another one is fitted."""
        size = other.length / 2 + other.radius
        return bool(vial.depth(other.centre) > -(size + NEAR * self.width))

    def objection(self, vial: FoundVial) -> str:
        """Return why a fitted cylinder is no vial, or an empty text."""
        if vial.misfit > NO_CYLINDER:
            return f"no cylinder ({100 * vial.misfit:.0f} % of it unexplained)"
        if not RADII[0] < vial.radius < RADII[1]:
            return "a radius of {:.0f} mm; accepted: {:g} to {:g}".format(vial.radius, *RADII)
        if not VOLUMES[0] <= vial.volume_ml <= VOLUMES[1]:
            text = "a volume of {:.1f} ml; accepted: {:g} to {:g}"
            return text.format(vial.volume_ml, *VOLUMES)
        if vial.length < FLATTEST * 2 * vial.radius:
            return f"flat ({2 * vial.radius:.0f} mm wide, {vial.length:.0f} mm long)"
        if vial.signal < CERTAIN * vial.u_signal or vial.signal < self.floor:
            return "too faint"
        if self.leaves(vial):
            return "reaches out of the field of view"
        return ""

    def belongs(self, vial: FoundVial, head: Floats, thick: Floats) -> str:
        """Return why a cylinder is a part of the head, or an empty text."""
        inside = self.depth(vial) > 0
        if not inside.any():
            return ""
        sunk = float(np.mean(thick[inside] > 0.5))
        if sunk > SUNK:
            return f"a part of the head ({100 * sunk:.0f} % of it inside)"
        diameter = 2 * vial.radius
        if np.mean(head[inside] > 0.5) > 0.5 and vial.length < SLENDER * diameter:
            return f"a part of the head ({diameter:.0f} mm wide, {vial.length:.0f} mm long)"
        return ""

    def leaves(self, vial: FoundVial) -> bool:
        """Tell whether a vial reaches out of the field of view."""
        turned = np.linalg.inv(self.affine[:3, :3])
        middle = turned @ (vial.centre - self.affine[:3, 3])
        along = turned @ vial.axis
        across = np.sqrt(np.maximum(np.sum(turned**2, axis=1) - along**2, 0))
        half = np.abs(along) * vial.length / 2 + across * vial.radius
        low, high = middle - half, middle + half
        last = np.array(self.image.shape) - 0.5
        return bool((low < -0.5 - EDGE).any() or (high > last + EDGE).any())


@dataclass(frozen=True)
class _Box:
    """A part of the image, with what is needed to show a cylinder there.

    Parameters
    ----------
    where
        Slices of the image.
    origin
        Position of its first voxel [mm].
    frequencies
        Of a grid that is larger by the kernel's reach, shape (m, n, o, 3) [1/mm].
    transfer
        Of the kernel there, over the volume of a voxel [1/mm^3], shape (m, n, o).
    size
        Of that grid.
    to_index
        Of the image's axes, position to voxel index, shape (3, 3) [1/mm].
    """

    where: tuple[slice, ...]
    origin: Floats
    frequencies: Floats
    transfer: Complexes
    size: tuple[int, ...]
    to_index: Floats

    @classmethod
    def cut(cls, affine: Floats, kernel: Floats, low: Floats, high: Floats) -> _Box:
        shape = high - low + 1
        size = tuple(int(n) | 1 for n in shape + np.array(kernel.shape) // 2)  # odd: no Nyquist
        placed = np.zeros(size, kernel.dtype)
        around = [np.arange(n) - n // 2 for n in kernel.shape]
        np.add.at(placed, np.ix_(*(a % n for a, n in zip(around, size, strict=True))), kernel)
        axes = [scipy.fft.fftfreq(n) for n in size[:2]] + [scipy.fft.rfftfreq(size[2])]
        to_index = np.linalg.inv(affine[:3, :3])
        waves = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        return cls(
            tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True)),
            affine[:3, :3] @ low + affine[:3, 3],
            waves @ to_index,
            scipy.fft.rfftn(placed) * abs(np.linalg.det(to_index)),
            size,
            to_index,
        )

    def shown(self, vial: FoundVial) -> Floats:
        """Return what the image shows of a vial of signal 1."""
        along = self.frequencies @ vial.axis
        square = np.sum(self.frequencies**2, axis=-1) - along**2
        turn = 2 * np.pi * vial.radius * np.sqrt(np.maximum(square, 0))
        disc = np.where(turn > 1e-6, 2 * special.j1(turn) / np.maximum(turn, 1e-6), 1.0)
        shift = np.exp(-2j * np.pi * (self.frequencies @ (vial.centre - self.origin)))
        volume = np.pi * vial.radius**2 * vial.length
        spectrum = volume * disc * np.sinc(along * vial.length) * shift * self.transfer
        image = scipy.fft.irfftn(spectrum, self.size)
        return np.asarray(image[tuple(slice(s.stop - s.start) for s in self.where)])


@dataclass(frozen=True)
class _Fit:
    """Least squares of an image on a cylinder and on what else may be there.

    Parameters
    ----------
    start
        The cylinder that is varied.
    box, used
        Part of the image, and the voxels of it that count.
    values, noise
        Image and noise SD of these voxels.
    nuisance
        Shape (2, n).
    """

    start: FoundVial
    box: _Box
    used: Mask
    values: Floats
    noise: Floats
    nuisance: Floats

    def varied(self, steps: Floats) -> FoundVial:
        first = np.cross(self.start.axis, np.eye(3)[np.argmin(np.abs(self.start.axis))])
        first /= np.linalg.norm(first)
        second = np.cross(self.start.axis, first)
        axis = self.start.axis + steps[3] * first + steps[4] * second
        return replace(
            self.start,
            centre=self.start.centre + steps[:3],
            axis=axis / np.linalg.norm(axis),
            radius=float(self.start.radius * np.exp(steps[5])),
            length=float(self.start.length * np.exp(steps[6])),
        )

    def solved(self, vial: FoundVial) -> tuple[Floats, Floats]:
        """Return the amplitudes and what is left, over the noise."""
        columns = np.vstack([self.box.shown(vial)[self.used], self.nuisance]) / self.noise
        target = self.values / self.noise
        amplitudes = np.linalg.lstsq(columns.T, target, rcond=1e-6)[0]
        return amplitudes, target - amplitudes @ columns

    def best(self, width: float) -> FoundVial:
        steps = optimize.least_squares(
            lambda steps: self.solved(self.varied(steps))[1], np.zeros(7),
            x_scale=np.array([1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1]), bounds=(-STEPS, STEPS),
            diff_step=1e-3, ftol=1e-5, xtol=1e-5, max_nfev=25,
        ).x  # fmt: skip
        vial = self.varied(steps)
        amplitudes, left = self.solved(vial)
        return self.described(vial, float(amplitudes[0]), left, width)

    def described(self, vial: FoundVial, signal: float, left: Floats, width: float) -> FoundVial:
        """Return a fitted cylinder with its signal and how well it explains the image."""
        columns = self.nuisance / self.noise
        target = self.values / self.noise
        alone = target - np.linalg.lstsq(columns.T, target, rcond=1e-6)[0] @ columns
        squares = float(left @ left)
        volume = 1 / abs(np.linalg.det(self.box.to_index))
        scale = max(squares / max(len(left), 1), 1.0) * max(width**3 / volume, 1.0)
        return replace(
            vial,
            axis=vial.axis * np.sign(vial.axis[np.argmax(np.abs(vial.axis))]),
            signal=signal,
            u_signal=float(np.sqrt(scale * self.variance(vial, signal))),
            misfit=max(squares - len(left), 0.0) / max(float(alone @ alone), 1e-12),
        )

    def variance(self, vial: FoundVial, signal: float) -> float:
        """Return the variance of the signal, were the noise white; the cylinder errs as well."""
        fit = replace(self, start=vial)
        shown = self.box.shown(vial)[self.used]
        moved = [
            signal * (self.box.shown(fit.varied(step))[self.used] - shown) / STEP
            for step in STEP * np.eye(7)
        ]
        columns = np.vstack([shown, self.nuisance, *moved]) / self.noise
        size = np.maximum(np.linalg.norm(columns, axis=1), 1e-12)
        normal = (columns / size[:, None]) @ (columns / size[:, None]).T
        inverse = np.linalg.pinv(normal, rcond=1e-9, hermitian=True)
        return float(inverse[0, 0] / size[0] ** 2)


def _cropped(transfer: Complexes) -> Floats:
    """Return a kernel around its centre; its sum is the gain at k = 0."""
    kernel = to_psf(near_part(transfer, KERNEL_REACH))
    reach = int(KERNEL_REACH) - 1
    where = tuple(slice(n // 2 - reach, n // 2 + reach + 1) for n in kernel.shape)
    return np.asarray(kernel[where], np.float64)


@dataclass(frozen=True)
class Identity:
    """Which found vial is which of the listed ones.

    Parameters
    ----------
    order
        Index of the found vial of each listed one.
    basis
        What tells them apart, in words.
    """

    order: tuple[int, ...]
    basis: str


def identify_vials(
    found: Sequence[FoundVial],
    positions: Sequence[Sequence[float] | None],
    expected: Floats,
    direction: str,
    bias: str = "",
) -> Identity:
    """Tell which found vial is which of the listed ones.

    By their stated positions; else by the stated direction in which they are listed; else by
    their brightness, where that is not ambiguous.

    Parameters
    ----------
    found
        Vials of the image.
    positions
        Stated centre of each listed vial [mm, RAS], or None.
    expected
        Signal of each listed vial in any unit, shape (n,).
    direction
        One of ``DIRECTIONS``; empty if it is not stated.
    bias
        Why the image's brightness is not to be trusted; empty if it is.

    Returns
    -------
    identity
        One found vial for each listed one.

    Raises
    ------
    ValueError
        If it remains open which is which, or if a vial is not uniform.

    Examples
    --------
    >>> two = [FoundVial(np.array([x, 0.0, 0.0]), np.eye(3)[2], 10, 60, x + 90, 1.0)
    ...        for x in (60.0, -60.0)]
    >>> identify_vials(two, [None, None], np.array([30.0, 150.0]), "").order
    (1, 0)
    """
    stated = [p for p in positions if p is not None]
    if stated and len(stated) < len(positions):
        raise ValueError(
            f"{len(stated)} of {len(positions)} vials have a Position; accepted: all or none"
        )
    if stated:
        identity = _by_position(found, np.asarray(stated, float))
    elif len(found) != len(positions):
        raise ValueError(f"{len(found)} found, {len(positions)} listed")
    elif direction:
        identity = _by_direction(found, direction)
    else:
        identity = _by_brightness(found, np.asarray(expected, float), bias)
    for k in identity.order:
        if not found[k].is_uniform:
            raise ValueError(
                f"that at {place(found[k].centre)} is no uniform cylinder "
                f"({100 * found[k].misfit:.0f} % of it unexplained; accepted: {100 * UNIFORM:g})"
            )
        if found[k].u_signal > KNOWN * found[k].signal:
            raise ValueError(
                f"the signal of that at {place(found[k].centre)} is known to "
                f"{100 * found[k].u_signal / found[k].signal:.0f} % only; accepted: "
                f"{100 * KNOWN:g} %"
            )
    return identity


def _by_position(found: Sequence[FoundVial], positions: Floats) -> Identity:
    if not found:
        raise ValueError(f"none found, {len(positions)} listed")
    distance = np.array([[v.distance_to_axis(p) for v in found] for p in positions])
    order = np.argmin(distance, axis=1)
    for row, position in zip(distance, positions, strict=True):
        near = np.flatnonzero(row <= POSITION_LIMIT)
        if not near.size:
            raise ValueError(
                f"the nearest to the Position {place(position)} lies {row.min():.0f} mm away; "
                f"accepted: {POSITION_LIMIT:g} mm"
            )
        if near.size > 1:
            raise ValueError(
                f"{near.size} lie within {POSITION_LIMIT:g} mm of the Position {place(position)}"
            )
    taken, times = np.unique(order, return_counts=True)
    if times.max() > 1:
        twice = place(found[taken[np.argmax(times)]].centre)
        raise ValueError(f"that at {twice} is the nearest to {times.max()} listed ones")
    return Identity(tuple(order.tolist()), "Position")


def _by_direction(found: Sequence[FoundVial], direction: str) -> Identity:
    sign = -1.0 if direction.startswith("-") else 1.0
    along = sign * np.array([v.centre["xyz".index(direction[-1])] for v in found])
    order = np.argsort(along)
    gaps = np.diff(along[order])
    if gaps.size and gaps.min() < APART_ALONG_AXIS:
        raise ValueError(
            f"two lie {gaps.min():.0f} mm apart along {direction}; accepted: from "
            f"{APART_ALONG_AXIS:g} mm on"
        )
    return Identity(tuple(order.tolist()), f"order along {direction}")


def _by_brightness(found: Sequence[FoundVial], expected: Floats, bias: str) -> Identity:
    if bias:
        raise ValueError(f"their brightness does not tell which is which: {bias}")
    ranked, listed = np.argsort([v.signal for v in found]), np.argsort(expected)
    levels = expected[listed]
    if (np.diff(levels) < APART_EXPECTED * levels[1:]).any():
        raise ValueError(
            "two listed ones should be equally bright within "
            f"{100 * APART_EXPECTED:g} %: brightness does not tell which is which"
        )
    signals = np.array([found[k].signal for k in ranked])
    scatter = np.array([found[k].u_signal for k in ranked])
    apart = np.diff(signals) / np.hypot(scatter[1:], scatter[:-1])
    if apart.size and apart.min() < APART_IN_SIGNAL:
        raise ValueError(
            f"two differ in brightness by {apart.min():.1f} standard deviations; accepted: from "
            f"{APART_IN_SIGNAL:g} on"
        )
    ratio = signals / levels
    departure = float(np.max(np.abs(ratio / np.median(ratio) - 1)))
    if departure > PROPORTIONAL:
        raise ValueError(
            f"their brightness departs by {100 * departure:.0f} % from what is expected; "
            f"accepted: {100 * PROPORTIONAL:g} %"
        )
    order = np.empty(len(found), int)
    order[listed] = ranked
    return Identity(tuple(order.tolist()), "brightness")


def label_vials(vials: Sequence[FoundVial], affine: Floats, shape: tuple[int, ...]) -> Labels:
    """Return a label image of cylinders.

    Parameters
    ----------
    vials
        The nth, from 1, carries label n.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].
    shape
        Of the image.

    Returns
    -------
    labels
        0 outside.

    Examples
    --------
    >>> vial = FoundVial(np.array([4.0, 4.0, 4.0]), np.eye(3)[0], 2.0, 5.0, 1.0)
    >>> label_vials([vial], np.eye(4), (9, 9, 9))[4, 4].tolist()
    [0, 0, 0, 1, 1, 1, 0, 0, 0]
    """
    labels, deepest = np.zeros(shape, np.uint8), np.zeros(shape)
    for n, vial in enumerate(vials, 1):
        start, box = _box_around(vial, affine, shape)
        index = np.indices([s.stop - s.start for s in box]).reshape(3, -1).T + start
        depth = vial.depth(index @ affine[:3, :3].T + affine[:3, 3]).reshape(deepest[box].shape)
        labels[box][depth > deepest[box]] = n
        deepest[box] = np.maximum(deepest[box], depth)
    return labels


def _box_around(
    vial: FoundVial, affine: Floats, shape: tuple[int, ...]
) -> tuple[Labels, tuple[slice, ...]]:
    """Return the first voxel of the part of a grid that can hold a vial, and that part."""
    back = np.linalg.inv(affine[:3, :3])
    middle = back @ (vial.centre - affine[:3, 3])
    reach = np.hypot(vial.radius, vial.length / 2) * np.linalg.norm(back, axis=1)
    first = np.clip(np.floor(middle - reach).astype(int), 0, shape)
    last = np.clip(np.ceil(middle + reach).astype(int) + 1, first, shape)
    return first, tuple(map(slice, first.tolist(), last.tolist()))
