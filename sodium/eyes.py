"""The eyes: where both vitreous bodies lie, by what a sodium image shows of them.

The vitreous humour holds much sodium, the fat of the orbit around it hardly any: whatever the
contrast of the 1H image, sodium shows each eye as a bright ball in the dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize, signal

from sodiumprep.sodium.acquisition import Complexes, Floats
from sodiumprep.sodium.alignment import resample
from sodiumprep.sodium.kernel import FWHM_TO_SIGMA

ORBIT = "orbit"  # name of the region around both eyes
STEP = 2.5  # mm; voxel edge of the search
RADII = (10.0, 11.0, 12.0)  # mm; of the balls that are looked for
SURROUNDINGS = 6.0  # mm; how far around a ball the image is looked at
# where eyes may lie, in the frame of the head [mm]: right, forward and up from the brain's centre
BOX = ((-56.0, 56.0), (25.0, 130.0), (-105.0, 35.0))
LATERAL = (17.0, 48.0)  # mm from the mid-sagittal plane
DISTANCE = (55.0, 120.0)  # mm from the brain's centre to the point between the eyes
ELEVATION = (-70.0, 5.0)  # degrees of that point over the frame's horizon, pitched heads included
FROM_BRAIN = (9.0, 48.0)  # mm from the centre of an eye to the brain mask
UNDER_SKIN = (-4.0, 34.0)  # mm from the centre of an eye to the surface of the head mask
APART = (42.0, 80.0)  # mm between the centres of both
ASYMMETRY = 12.0  # mm by which one may lie further forward or up, or their middle to the side
CANDIDATES = 6  # on either side
NEAREST = 10.0  # mm between candidates of one side
LEAST_MATCH = 0.6  # correlation of a candidate with a ball
LEAST_SCORE = 0.8  # correlation of an eye with the ball that fits it best
MOST_AROUND = 0.65  # signal around a ball over that in it
MOST_UNEQUAL = 1.6  # signal of one eye over that of the other
FITTED_RADIUS = (8.0, 15.0)  # mm
MOST_MIXED = 0.75  # spread of the 1H image inside a ball over that in and around it
USUAL_ELEVATION = -12.0  # degrees of the eyes over the brain's centre where one looks forward
# lens of an adult eye of 12 mm [mm]: its centre before that of the eye, and its half axes
LENS_FORWARD, LENS_THICK, LENS_WIDE, LENS_EYE = 6.5, 2.2, 4.6, 12.0
LENS_RADIUS = 3.6  # mm; of the ball of its volume
ORBIT_DEPTH = 7.0  # mm around the eye that have a mean of their own


@dataclass(frozen=True)
class Placed:
    """An image and where it lies.

    Parameters
    ----------
    values
        Shape (nx, ny, nz).
    affine
        Voxel index to position in the anatomy, shape (4, 4) [mm, RAS].
    """

    values: Floats
    affine: Floats

    def on(self, affine: Floats, shape: tuple[int, ...]) -> Floats:
        """Return the image on another grid, 0 beyond its edge, float32."""
        return resample(self.values, np.linalg.inv(self.affine) @ affine, shape, 1)

    def at(self, points: Floats) -> Floats:
        """Return the image at positions of shape (n, 3) [mm, RAS], 0 beyond its edge."""
        index = (points - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T
        return np.asarray(ndimage.map_coordinates(self.values, index.T, np.float32, order=1))


@dataclass(frozen=True)
class RadialTransfer:
    """A transfer function that is the same in all directions.

    Parameters
    ----------
    frequencies
        Evenly spaced from 0, shape (m,) [1/mm].
    values
        Shape (m,).
    """

    frequencies: Floats
    values: Floats

    def blurred_ball(self, distances: Floats, radius: float) -> Floats:
        """Return a ball of signal 1 as the image shows it.

        Parameters
        ----------
        distances
            From its centre, any shape [mm].
        radius
            Of the ball [mm].

        Returns
        -------
        shown
            Same shape.
        """
        table = np.arange(0.0, float(np.max(distances, initial=0.0)) + 0.5, 0.25)
        k = self.frequencies[1:]
        q = 2 * np.pi * k * radius
        ball = 4 * np.pi * radius**3 * (np.sin(q) - q * np.cos(q)) / q**3
        shells = 4 * np.pi * k**2 * np.diff(self.frequencies) * self.values[1:] * ball
        profile = np.sinc(2 * table[:, None] * k) @ shells
        return np.interp(distances, table, profile)


def radial_transfer(transfer: Complexes, voxel_size: Floats) -> RadialTransfer:
    """Return a transfer function as the mean over all directions.

    Parameters
    ----------
    transfer
        Shape (2 nx, 2 ny, nz + 1).
    voxel_size
        Shape (3,) [mm].

    Returns
    -------
    radial
        Up to the highest frequency that all axes reach.
    """
    x, y, half = transfer.shape
    axes = [np.fft.fftfreq(x, voxel_size[0]), np.fft.fftfreq(y, voxel_size[1]),
            np.fft.rfftfreq(2 * (half - 1), voxel_size[2])]  # fmt: skip
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij", sparse=True)))
    step = float(max(axis[1] for axis in axes))
    last = int(min(0.5 / voxel_size) / step)
    which = np.rint(radius / step).astype(int).ravel()
    sums, counts = (
        np.bincount(which, weights, last + 1)[: last + 1]
        for weights in (transfer.real.ravel(), None)
    )
    means = sums / counts
    fine = np.linspace(0, last * step, 8 * last + 1)  # a ball's transform varies faster
    return RadialTransfer(fine, np.interp(fine, step * np.arange(last + 1), means))


@dataclass(frozen=True)
class EyeImages:
    """What eyes are looked for in.

    Parameters
    ----------
    sodium
        Receive-corrected.
    proton
        1H image of any contrast.
    brain, head
        Masks.
    transfer
        Of the fluid in ``sodium``.
    fwhm
        Width of the same kernel [mm].
    """

    sodium: Placed
    proton: Placed
    brain: Placed
    head: Placed
    transfer: RadialTransfer
    fwhm: float


@dataclass(frozen=True)
class Eye:
    """One eye.

    Parameters
    ----------
    centre
        Shape (3,) [mm, RAS].
    radius
        Of what is bright [mm].
    score
        Correlation of the image with a blurred ball in the head.
    level
        Signal of the ball.
    contrast
        Signal around the ball over that in it.
    """

    centre: Floats
    radius: float
    score: float
    level: float
    contrast: float


@dataclass(frozen=True)
class EyeSearch:
    """What was found.

    Parameters
    ----------
    eyes
        The left one and the right one, or none.
    forward
        Where they look, unit vector, shape (3,) [RAS].
    reason
        Why none was taken; empty if both were.
    """

    eyes: tuple[Eye, ...]
    forward: Floats
    reason: str = ""


def head_frame(brain: Placed) -> Floats:
    """Return the frame of a head by the symmetry of its brain mask.

    Parameters
    ----------
    brain
        Brain mask of a head that is turned by less than 30 degrees or so.

    Returns
    -------
    frame
        Position right, forward and up from the middle of the brain to position in the anatomy,
        shape (4, 4) [mm, RAS]. Symmetry does not tell how far the head is pitched.
    """
    index = np.argwhere(brain.values > 0.5)
    points = index @ brain.affine[:3, :3].T + brain.affine[:3, 3]
    centre = points.mean(axis=0)
    points = points[:: max(1, len(points) // 4000)]
    voxel = np.linalg.norm(brain.affine[:3, :3], axis=0)
    soft = Placed(ndimage.gaussian_filter((brain.values > 0.5).astype(np.float32), 5.0 / voxel),
                  brain.affine)  # fmt: skip

    def unlike(pose: Floats) -> float:
        normal = _normal(pose)
        away = (points - centre) @ normal - pose[2]
        return -float(soft.at(points - 2 * away[:, None] * normal).mean())

    found = []
    for start in ((0.0, 0.0), (15.0, 0.0), (-15.0, 0.0), (0.0, 15.0), (0.0, -15.0)):
        corners = np.array([*start, 0.0]) + np.vstack([np.zeros(3), np.diag([8.0, 8.0, 4.0])])
        found.append(
            optimize.minimize(
                unlike, corners[0], method="Nelder-Mead",
                options={"initial_simplex": corners, "xatol": 0.1, "fatol": 1e-5, "maxiter": 80},
            )
        )  # fmt: skip
    pose = min(found, key=lambda fit: fit.fun).x
    right = _normal(pose)
    forward = np.array([0.0, 1.0, 0.0]) - right[1] * right
    forward /= np.linalg.norm(forward)
    frame = np.eye(4)
    frame[:3, :3] = np.stack([right, forward, np.cross(right, forward)], axis=1)
    frame[:3, 3] = centre + pose[2] * right
    return frame


def _normal(pose: Floats) -> Floats:
    """Return the normal of the mid-sagittal plane, turned by yaw and roll [degrees]."""
    yaw, roll = np.deg2rad(pose[:2])
    return np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])


class _Search:
    """The box in front of the head, in the frame of the head, with all images on its grid."""

    def __init__(self, images: EyeImages) -> None:
        self.images, self.frame = images, head_frame(images.brain)
        low = np.array([side[0] for side in BOX])
        self.shape = tuple(round((high - start) / STEP) + 1 for start, high in BOX)
        grid = np.eye(4)
        grid[:3, :3], grid[:3, 3] = STEP * np.eye(3), low
        self.affine = self.frame @ grid
        axes = (start + STEP * np.arange(n) for (start, _), n in zip(BOX, self.shape, strict=True))
        self.x, self.y, self.z = np.meshgrid(*axes, indexing="ij", sparse=True)
        self.sodium = images.sodium.on(self.affine, self.shape).astype(np.float64)
        seen = np.ones(images.sodium.values.shape, np.float32)
        seen = Placed(seen, images.sodium.affine).on(self.affine, self.shape)
        # the box may cut the brain: distances to it are those in the box
        brain = images.brain.on(self.affine, self.shape) > 0.5
        self.from_brain = ndimage.distance_transform_edt(~brain) * STEP
        head = images.head.on(self.affine, self.shape) > 0.5
        outwards = ndimage.distance_transform_edt(~head)
        self.depth = (ndimage.distance_transform_edt(head) - outwards) * STEP
        self.valid = 1.0 * ((seen > 0.99) & (self.from_brain > 2.0))
        sigma = images.fwhm * FWHM_TO_SIGMA / STEP
        self.head = Placed(ndimage.gaussian_filter(head.astype(np.float32), sigma), self.affine)
        self.trusted = Placed(self.valid.astype(np.float32), self.affine)

    def brain_level(self) -> float:
        """Return the mean signal inside the brain mask, also outside of the box."""
        sodium = self.images.sodium
        brain = self.images.brain.on(sodium.affine, sodium.values.shape) > 0.5
        return float(sodium.values[brain].mean()) if brain.any() else float("nan")

    def allowed(self) -> NDArray[np.bool_]:
        """Return where the centre of an eye may lie, by the anatomy alone."""
        distance = np.hypot(self.y, self.z)
        elevation = np.rad2deg(np.arctan2(self.z, self.y))
        return np.asarray(
            _within(np.abs(self.x), LATERAL) & _within(distance, DISTANCE)
            & _within(elevation, ELEVATION) & _within(self.from_brain, FROM_BRAIN)
            & _within(self.depth, UNDER_SKIN)
        )  # fmt: skip

    def matches(self) -> Floats:
        """Return the correlation of the surroundings of each voxel with a ball; -1: excluded."""
        best = np.full(self.shape, -1.0)
        level = self.brain_level()
        for radius in RADII:
            match, ball, around = self._match(radius)
            plain = (ball >= level) & (around <= MOST_AROUND * ball)
            best = np.maximum(best, np.where(plain, match, -1.0))
        return np.where(self.allowed(), best, -1.0)

    def _match(self, radius: float) -> tuple[Floats, Floats, Floats]:
        """Return correlation, signal of the ball and signal around it where voxels are valid."""
        reach = radius + SURROUNDINGS
        steps = STEP * np.arange(-int(reach / STEP) - 1, int(reach / STEP) + 2)
        away = np.sqrt(sum(a**2 for a in np.meshgrid(steps, steps, steps, sparse=True)))
        window = 1.0 * (away <= reach)
        ball = window * self.images.transfer.blurred_ball(away, radius)

        def around(values: Floats, kernel: Floats) -> Floats:
            return np.asarray(signal.fftconvolve(values, kernel, mode="same"))

        n = np.maximum(around(self.valid, window), 1.0)
        first = self.valid * self.sodium
        mean, mean_ball = around(first, window) / n, around(self.valid, ball) / n
        spread = around(first * self.sodium, window) / n - mean**2
        spread_ball = around(self.valid, ball**2) / n - mean_ball**2
        shared = around(first, ball) / n - mean * mean_ball
        tiny = 1e-9 * float(np.mean(self.sodium**2)) + 1e-30
        match = shared / np.sqrt(np.maximum(spread, tiny) * np.maximum(spread_ball, 1e-9))
        gain = shared / np.maximum(spread_ball, 1e-9)
        rest = mean - gain * mean_ball
        enough = n >= 0.6 * window.sum()
        return np.where(enough, match, -1.0), rest + gain, rest

    def candidates(self, matches: Floats) -> list[list[tuple[float, Floats]]]:
        """Return the best places left and right: correlation and place in the frame [mm]."""
        size = 2 * round(NEAREST / STEP) // 2 + 1
        peaks = (matches == ndimage.maximum_filter(matches, size)) & (matches >= LEAST_MATCH)
        sides = []
        for side in (-1, 1):
            index = np.argwhere(peaks & (self.x * side > 0))
            values = matches[tuple(index.T)]
            order = np.argsort(-values)[:CANDIDATES]
            places = index * STEP + np.array([start for start, _ in BOX])
            sides.append([(float(values[k]), places[k]) for k in order])
        return sides

    def fitted(self, place: Floats, forward: Floats) -> Eye:
        """Fit a ball with a dark lens in a head to the voxels around a place in the frame."""
        start = self.frame[:3, :3] @ place + self.frame[:3, 3]
        points, values = _voxels_near(self.images.sodium, start, max(RADII) + SURROUNDINGS)
        used = self.trusted.at(points) > 0.5
        points, values = points[used], values[used].astype(np.float64)
        head = self.head.at(points)

        def columns(pose: Floats) -> Floats:
            radius = float(pose[3])
            away = points - start - pose[:3]
            before = away - LENS_FORWARD * radius / LENS_EYE * forward
            ball, lens = (
                self.images.transfer.blurred_ball(np.linalg.norm(from_centre, axis=1), r)
                for from_centre, r in (
                    (away, radius), (before, LENS_RADIUS * radius / LENS_EYE),
                )
            )  # fmt: skip
            return np.stack([ball - lens, head - ball + lens], axis=1)

        def misfit(pose: Floats) -> Floats:
            design = columns(pose)
            return np.asarray(design @ np.linalg.lstsq(design, values, rcond=None)[0] - values)

        bounds = ([-8.0] * 3 + [FITTED_RADIUS[0]], [8.0] * 3 + [FITTED_RADIUS[1]])
        fit = optimize.least_squares(
            misfit, [0.0, 0.0, 0.0, RADII[1]], bounds=bounds, x_scale=[1.0] * 4, max_nfev=40,
            diff_step=1e-3,
        )  # fmt: skip
        design = columns(fit.x)
        level, around = np.linalg.lstsq(design, values, rcond=None)[0]
        score = np.corrcoef(design @ [level, around], values)[0, 1]
        return Eye(
            start + fit.x[:3], float(fit.x[3]), float(score), float(level), float(around / level)
        )

    def gaze(self, places: Sequence[Floats]) -> Floats:
        """Return where eyes at places in the frame look, from how far the head is pitched."""
        _, y, z = np.mean(places, axis=0)
        pitch = np.arctan2(z, y) - np.deg2rad(USUAL_ELEVATION)
        return np.asarray(self.frame[:3, :3] @ [0.0, np.cos(pitch), np.sin(pitch)])


def _within(values: Floats, limits: tuple[float, float]) -> NDArray[np.bool_]:
    return np.asarray((values >= limits[0]) & (values <= limits[1]))


def _voxels_near(image: Placed, centre: Floats, reach: float) -> tuple[Floats, Floats]:
    """Return positions and values of the voxels within a distance of a point."""
    box, points = _box_around(image.affine, image.values.shape, centre, reach)
    near = np.linalg.norm(points - centre, axis=-1) <= reach
    return points[near], image.values[box][near]


def _box_around(
    affine: Floats, shape: tuple[int, ...], centre: Floats, reach: float
) -> tuple[tuple[slice, ...], Floats]:
    """Return the part of a grid around a point, and the positions of its voxels."""
    turn = np.linalg.inv(affine[:3, :3])
    middle = turn @ (centre - affine[:3, 3])
    half = reach * np.linalg.norm(turn, axis=1)
    ends = [(max(0, int(np.ceil(m - h))), max(0, min(n, int(m + h) + 1)))
            for m, h, n in zip(middle, half, shape, strict=True)]  # fmt: skip
    box = tuple(slice(*end) for end in ends)
    index = np.stack(np.meshgrid(*(np.arange(*end) for end in ends), indexing="ij"), axis=-1)
    return box, index @ affine[:3, :3].T + affine[:3, 3]


def _pairs(
    sides: Sequence[Sequence[tuple[float, Floats]]],
) -> Iterator[tuple[float, tuple[Floats, Floats]]]:
    """Yield pairs of a left and a right place that may be those of eyes, with their match."""
    for (one, left), (other, right) in product(*sides):
        apart, middle = right - left, (right + left) / 2
        off = np.abs([apart[1], apart[2], middle[0]])
        if _within(np.asarray(apart[0]), APART) and off.max() <= ASYMMETRY:
            # of two pairs that match alike the more symmetric one is the eyes
            yield (one + other) / 2 - 0.003 * float(off.sum()), (left, right)


def find_eyes(images: EyeImages) -> EyeSearch:
    """Find both eyes by the ball of bright sodium that each of them is.

    Blurred balls of 10 to 12 mm are looked for outside of the brain mask, where heads have their
    eyes: under its front, at the skin, on both sides of the mid-sagittal plane. Of all pairs that
    are symmetric enough the best match is taken, and to each of its eyes a ball is fitted.

    Parameters
    ----------
    images
        Sodium and anatomy.

    Returns
    -------
    search
        Both eyes; none, with the reason, where one of them is not plausible.
    """
    search = _Search(images)
    forward = search.frame[:3, 1]
    matches = search.matches()
    sides = search.candidates(matches)
    missing = [name for name, found in zip(("left", "right"), sides, strict=True) if not found]
    if missing:
        return EyeSearch((), forward, _nothing_there(missing, matches, search))
    pairs = sorted(_pairs(sides), key=lambda pair: -pair[0])
    if not pairs:
        return EyeSearch(
            (), forward,
            "bright balls lie in front of and below the brain on both sides, but no two of them "
            f"like eyes: {APART[0]:g} to {APART[1]:g} mm apart and symmetric within "
            f"{ASYMMETRY:g} mm",
        )  # fmt: skip
    places = pairs[0][1]
    forward = search.gaze(places)
    eyes = tuple(search.fitted(place, forward) for place in places)
    reason = implausible(eyes) or _unlike_eyes(eyes, images.proton)
    return EyeSearch(() if reason else eyes, forward, reason)


def _nothing_there(missing: Sequence[str], matches: Floats, search: _Search) -> str:
    best = [float(np.max(matches, where=search.x * side > 0, initial=-1.0)) for side in (-1, 1)]
    told = ", ".join(
        f"{name} {value:.2f}" if value > -1 else f"{name} none"
        for name, value in zip(("left", "right"), best, strict=True)
    )
    return (
        f"no eye was found on the {' and '.join(missing)}: correlation of the sodium image with a "
        f"ball where eyes lie {told}; at least {LEAST_MATCH:g} on both sides"
    )


def implausible(eyes: Sequence[Eye]) -> str:
    """Return why two fitted balls are not the eyes of a head; empty if they may be.

    Parameters
    ----------
    eyes
        The left one and the right one.

    Returns
    -------
    reason
        With the number found and what is accepted.

    Examples
    --------
    >>> pair = [Eye(np.array([x, 60.0, -30.0]), 11.0, 0.95, 100.0, 0.2) for x in (-31.0, 31.0)]
    >>> implausible(pair)
    ''
    >>> implausible([pair[0], Eye(pair[1].centre, 11.0, 0.4, 100.0, 0.2)])
    'the right eye is not a ball: correlation 0.40; at least 0.8'
    """
    for side, eye in zip(("left", "right"), eyes, strict=True):
        if not eye.score >= LEAST_SCORE:
            return (
                f"the {side} eye is not a ball: correlation {eye.score:.2f}; at least "
                f"{LEAST_SCORE:g}"
            )
        if not FITTED_RADIUS[0] + 0.1 < eye.radius < FITTED_RADIUS[1] - 0.1:
            return (
                f"the radius of the {side} eye is {eye.radius:.1f} mm; accepted: "
                f"{FITTED_RADIUS[0] + 0.1:g} to {FITTED_RADIUS[1] - 0.1:g} mm"
            )
        if not eye.contrast <= MOST_AROUND:
            return (
                f"the surroundings of the {side} eye have {eye.contrast:.2f} of its signal; "
                f"at most {MOST_AROUND:g}"
            )
    low, high = sorted(eye.level for eye in eyes)
    if not high <= MOST_UNEQUAL * low:
        return (
            f"one eye is {high / low:.2f} times as bright as the other; at most {MOST_UNEQUAL:g}"
        )
    apart = float(np.linalg.norm(eyes[1].centre - eyes[0].centre))
    if not APART[0] <= apart <= APART[1]:
        return f"the eyes are {apart:.0f} mm apart; accepted: {APART[0]:g} to {APART[1]:g} mm"
    return ""


def mixed(proton: Placed, eye: Eye) -> float:
    """Return how mixed a 1H image is inside an eye, over how mixed it is in and around it.

    Parameters
    ----------
    proton
        1H image of any contrast.
    eye
        Where to look.

    Returns
    -------
    ratio
        Of robust standard deviations: near 0 for a homogeneous ball in fat, 1 for tissue that is
        mixed everywhere; nan where the image does not reach or is blank.
    """
    points, values = _voxels_near(proton, eye.centre, eye.radius + SURROUNDINGS)
    inner = np.linalg.norm(points - eye.centre, axis=1) < eye.radius - 2.5
    if inner.sum() < 8 or not np.ptp(values) > 0:
        return float("nan")
    return _spread(values[inner]) / max(_spread(values), 1e-12)


def _spread(values: Floats) -> float:
    low, high = np.percentile(values, [16, 84])
    return float(high - low) / 2


def _unlike_eyes(eyes: Sequence[Eye], proton: Placed) -> str:
    for side, eye in zip(("left", "right"), eyes, strict=True):
        ratio = mixed(proton, eye)
        if ratio > MOST_MIXED:
            return (
                f"the 1H image is as mixed inside the {side} eye as around it: {ratio:.2f} of its "
                f"spread; at most {MOST_MIXED:g}"
            )
    return ""


def eye_regions(
    search: EyeSearch, affine: Floats, shape: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """Return the share of each voxel that is vitreous humour, and that lies close around it.

    The lens, which holds little sodium, belongs to what lies around.

    Parameters
    ----------
    search
        With both eyes.
    affine
        Voxel index to position in the anatomy, shape (4, 4) [mm, RAS].
    shape
        Of the grid.

    Returns
    -------
    vitreous, orbit
        Shape ``shape``, in [0, 1], float32; the orbit reaches 7 mm beyond the eye, whatever lies
        there.
    """
    vitreous, orbit = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    edge = float(np.mean(np.linalg.norm(affine[:3, :3], axis=0)))
    for eye in search.eyes:
        reach = eye.radius + ORBIT_DEPTH
        box, points = _box_around(affine, shape, eye.centre, reach + edge)
        away = points - eye.centre
        distance = np.linalg.norm(away, axis=-1)
        humour = _share(eye.radius - distance, edge) * (1 - _lens(away, eye, search.forward, edge))
        vitreous[box] = np.maximum(vitreous[box], humour)
        orbit[box] = np.maximum(orbit[box], _share(reach - distance, edge))
    return vitreous, np.clip(orbit - vitreous, 0, 1)


def _share(level: Floats, edge: float) -> Floats:
    """Return the share of a voxel that lies inside a border, by its signed distance."""
    return np.clip(level / edge + 0.5, 0, 1)


def _lens(away: Floats, eye: Eye, forward: Floats, edge: float) -> Floats:
    """Return the share of each voxel that the lens of an eye fills."""
    scale = eye.radius / LENS_EYE
    along = away @ forward - LENS_FORWARD * scale
    across2 = np.maximum((away**2).sum(axis=-1) - (away @ forward) ** 2, 0)
    relative = np.sqrt((along / LENS_THICK) ** 2 + across2 / LENS_WIDE**2) / scale
    return _share((1 - relative) * LENS_THICK * scale, edge)
