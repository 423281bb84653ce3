"""The receive profile of a coil array, from array images and volume-coil images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.held_out import HeldOut, blocks_of, held_out, pooled
from sodiumprep.sodium.noise import background_moments
from sodiumprep.sodium.smooth_field import (
    MODEL_ERROR,
    Booleans,
    FieldFit,
    Pair,
    SmoothField,
    Smoothness,
    fit_pair,
    grid_positions,
)

CANDIDATES = tuple(Smoothness(wave) for wave in (170.0, 120.0, 90.0, 70.0))  # smoothest first
TIE = 1.05  # times the best score, about its standard error: the smoothest such field is taken
LONGEST_VOXEL = 7.0  # mm; smaller voxels are averaged up to it, the field is smooth
FEWEST_VOXELS = 200
SMOOTHING = 6.0  # mm, SD of the Gaussian before repeats are compared
HEAD_SHARE = 0.25  # of the 99th percentile: what counts as head there
SIGNAL_TO_NOISE = 3.0  # array voxels below it tell nothing
MOTION_SD = 2.0  # mm, and degrees: between the images of a pair


@dataclass(frozen=True)
class SquaredImage:
    """Mean of squared magnitudes, less the mean square of their background.

    Its mean is the squared signal at any signal-to-noise ratio, for any number of channels behind
    the magnitude; a magnitude itself has no such form.

    Parameters
    ----------
    values
        Shape (nx, ny, nz).
    measured
        False where a voxel holds nothing (masked by the scanner, or outside), same shape.
    noise_sd
        Of one real channel.
    n_channels
        Effective number of channels of the non-central chi distribution (1: Rician).
    repeats
        Images in the mean.

    References
    ----------
    Koay & Basser 2006, doi:10.1016/j.jmr.2006.01.016
    """

    values: Floats
    measured: Booleans
    noise_sd: float
    n_channels: float
    repeats: int = 1

    @classmethod
    def of(cls, magnitude: Floats) -> SquaredImage:
        """Square a magnitude image, shape (nx, ny, nz), whose corners hold no signal."""
        noise_sd, mean_square, n_channels = background_moments(magnitude)
        squared = magnitude.astype(np.float64) ** 2 - mean_square
        return cls(squared, magnitude > 0, noise_sd, n_channels)

    def sd(self, smooth: Floats) -> Floats:
        """Return the noise SD of ``values`` where the true squared signal is ``smooth``."""
        variance = self.noise_sd**2
        each = 4 * variance * (np.maximum(smooth, 0) + self.n_channels * variance)
        return np.sqrt(each / self.repeats)

    def amplitude(self) -> Floats:
        """Return the signal, its sign that of ``values``."""
        return np.asarray(np.sign(self.values) * np.sqrt(np.abs(self.values)))


def mean_of(images: Sequence[SquaredImage]) -> SquaredImage:
    """Average repeats on one grid.

    Parameters
    ----------
    images
        At least one; a voxel counts where all have measured it.

    Returns
    -------
    mean
        As noisy as it is.
    """
    return SquaredImage(
        np.mean([image.values for image in images], axis=0),
        np.all([image.measured for image in images], axis=0),
        float(np.sqrt(np.mean([image.noise_sd**2 for image in images]))),
        float(np.mean([image.n_channels for image in images])),
        sum(image.repeats for image in images),
    )


def coarse(image: SquaredImage, affine: Floats) -> SquaredImage:
    """Average voxels until they are about as large as the field allows: it is smooth.

    Parameters
    ----------
    image
        On any grid.
    affine
        Of the grid, shape (4, 4) [mm].

    Returns
    -------
    coarse
        Of which a voxel counts where all of its parts have been measured; its noise is that of
        independent parts.
    """
    factors = _factors(affine)
    return replace(
        image,
        values=_block_mean(image.values, factors),
        measured=_block_mean(image.measured.astype(np.float64), factors) > 1 - 1e-9,
        repeats=image.repeats * int(np.prod(factors)),
    )


def coarse_affine(affine: Floats) -> Floats:
    """Return the affine of :func:`coarse` images for that of the fine ones, shape (4, 4) [mm]."""
    factors = _factors(affine)
    return affine @ np.block([
        [np.diag(factors), (factors[:, None] - 1) / 2], [np.zeros((1, 3)), np.ones((1, 1))],
    ])  # fmt: skip


def _factors(affine: Floats) -> Floats:
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    return np.maximum(np.floor(LONGEST_VOXEL / voxel), 1)


def _block_mean(values: Floats, factors: Floats) -> Floats:
    for axis, factor in enumerate(factors.astype(int)):
        whole = values.shape[axis] // factor
        kept = np.moveaxis(values, axis, 0)[: whole * factor]
        parts = kept.reshape(whole, factor, *kept.shape[1:])
        values = np.moveaxis(parts.mean(axis=1), 0, axis)
    return values


@dataclass(frozen=True)
class ReceiveFit:
    """The receive correction of an array.

    Parameters
    ----------
    field
        Multiplies an image of the array; 1 in the mean over what the array sees.
    reference
        Mean of the basis over what the array sees, weighted by its signal, shape (m,): the
        uncertainty of the field is told relative to it.
    smoothness
        That was chosen.
    score
        Root mean square of the relative error in blocks of 25 mm that the fit did not see.
    misfit
        SD of the log field from place to place that noise does not explain in the errors of the
        candidate that may vary fastest; the covariance holds it.
    displacement
        Between array and volume-coil images, root mean square over the head [mm].
    """

    field: SmoothField
    reference: Floats
    smoothness: Smoothness
    score: float
    misfit: float
    displacement: float


def _pairs(
    arrays: Sequence[SquaredImage], volumes: Sequence[SquaredImage]
) -> list[tuple[SquaredImage, SquaredImage]]:
    """Let every repeat of the array have a volume-coil image, its own where there is one each."""
    if len(arrays) == len(volumes):
        return list(zip(arrays, volumes, strict=True))
    return [(array, mean_of(volumes)) for array in arrays]


def _stands_out(array: SquaredImage, volume: SquaredImage) -> Booleans:
    """Return the voxels that tell something, from a smoothed image: noise must not choose."""
    level = (SIGNAL_TO_NOISE * array.noise_sd) ** 2
    used = (gaussian_filter(array.values, 1.0) > level) & array.measured & volume.measured
    if used.sum() < FEWEST_VOXELS:
        raise ValueError(
            f"only {int(used.sum())} voxels of the array image exceed {SIGNAL_TO_NOISE:g} noise "
            f"SDs where both images hold a value; accepted: at least {FEWEST_VOXELS}"
        )
    return used


def squared(field: Floats) -> tuple[Floats, Floats]:
    """Return what a receive field makes of a squared signal, and its derivative by the log.

    Parameters
    ----------
    field
        Any shape.

    Returns
    -------
    ratio, slope
        Same shape.
    """
    return field**2, 2 * field**2


@dataclass(frozen=True)
class _Scene:
    """What all fits to one head share.

    Parameters
    ----------
    affine
        Of the images.
    used
        Voxels, shape (nx, ny, nz).
    motion
        What motions of 2 mm and 2 degrees change of the squared volume-coil image, shape (6, nx,
        ny, nz), or (0, nx, ny, nz).
    """

    affine: Floats
    used: Booleans
    motion: Floats

    def fit(
        self, array: SquaredImage, volume: SquaredImage, smoothness: Smoothness, start: float
    ) -> FieldFit:
        """Fit the field that turns one image into the other."""
        sides = [image.sd(gaussian_filter(image.values, 1.0)) for image in (array, volume)]
        pair = Pair(
            array.values, volume.values, self.affine, (sides[0], sides[1]), self.used,
            2 * MODEL_ERROR, self.motion,
        )  # fmt: skip
        return fit_pair(pair, smoothness, start, squared)

    def judge(
        self, pairs: Sequence[tuple[SquaredImage, SquaredImage]], smoothness: Smoothness,
        start: float,
    ) -> HeldOut:  # fmt: skip
        """Fit each pair, and tell the errors in blocks left out, of the next pair if there is."""
        blocks, folds = blocks_of(self.places)
        fits = [self.fit(*pair, smoothness, start) for pair in pairs]
        others = [*fits[1:], fits[0]]
        return pooled([
            held_out(fit, other, blocks, folds) for fit, other in zip(fits, others, strict=True)
        ])  # fmt: skip

    def mean_basis(self, field: SmoothField, array: SquaredImage) -> Floats:
        """Return the mean of the basis over what the array sees, weighted by its signal."""
        seen = np.maximum(array.amplitude()[self.used], 0)
        return np.asarray(seen @ field.basis(self.places) / seen.sum())

    @property
    def places(self) -> Floats:
        """Positions of the used voxels, shape (n, 3) [mm]."""
        return grid_positions(self.used.shape, self.affine)[self.used.ravel()]


def _motion_images(field: SmoothField, array: SquaredImage, affine: Floats) -> Floats:
    """Return what shifts along and turns about the axes change of a squared volume-coil image."""
    shape = array.values.shape
    volume = array.values * field(grid_positions(shape, affine)).reshape(shape) ** 2
    return MOTION_SD * rigid_change(volume, affine)


def rigid_change(image: Floats, affine: Floats) -> Floats:
    """Return what rigid motions change of an image, to first order.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    affine
        Shape (4, 4) [mm].

    Returns
    -------
    changes
        By 1 mm along and by 1 degree about each axis through the middle of the grid, shape
        (6, nx, ny, nz).
    """
    places = grid_positions(image.shape, affine)
    along_axes = np.stack(np.gradient(image)).reshape(3, -1)
    gradient = (np.linalg.inv(affine[:3, :3]).T @ along_axes).T
    turned = np.cross(places - places.mean(axis=0), gradient)  # w . (x cross g) is (w cross x) . g
    both = np.concatenate([gradient, np.radians(turned)], axis=1)
    return np.asarray(both.T.reshape(6, *image.shape))


def _displacement(motion: Floats, used: Booleans, affine: Floats) -> float:
    """Return how far used voxels go, root mean square [mm], by shifts [mm] and turns [degrees]."""
    places = grid_positions(used.shape, affine)
    turns = np.cross(np.radians(motion[3:]), (places - places.mean(axis=0))[used.ravel()])
    return float(np.sqrt(np.mean(np.sum((motion[:3] + turns) ** 2, axis=1))))


def fit_receive_correction(
    arrays: Sequence[SquaredImage], volumes: Sequence[SquaredImage], affine: Floats
) -> ReceiveFit:
    """Fit the smooth field that turns an array image into a volume-coil image.

    The squared volume-coil image is modelled as the squared array image times the squared field,
    plus what a rigid motion of up to some millimetres between them would change. Both have the
    noise of squared magnitudes. How fast the field may vary is chosen by cross-validation over
    blocks of 25 mm; where there are repeats of the array image, the blocks that are left out are
    those of the other repeat. The covariance is that of the candidate that may vary fastest, and
    what its errors hold besides noise (what it cannot follow, correlated noise) is added.

    Parameters
    ----------
    arrays, volumes
        Repeats of both images, all on one grid.
    affine
        Voxel index to position, shape (4, 4) [mm].

    Returns
    -------
    fit
        The field and how it was found.

    Raises
    ------
    ValueError
        If fewer than 200 voxels of the array image stand out of its noise.

    References
    ----------
    Stone 1974, doi:10.1111/j.2517-6161.1974.tb00994.x
    """
    grid = coarse_affine(affine)
    arrays, volumes = ([coarse(image, affine) for image in side] for side in (arrays, volumes))
    array, volume = mean_of(arrays), mean_of(volumes)
    used = _stands_out(array, volume)
    total = np.maximum([volume.values[used].sum(), array.values[used].sum()], 1e-12)
    start = float(np.sqrt(total[0] / total[1]))
    still = _Scene(grid, used, np.zeros((0, *used.shape)))
    first = still.fit(array, volume, CANDIDATES[0], start).field
    scene = replace(still, motion=_motion_images(first, array, grid))
    pairs = _pairs(arrays, volumes)
    judged = {candidate: scene.judge(pairs, candidate, start) for candidate in CANDIDATES}
    best = min(found.score for found in judged.values())
    chosen = next(c for c, found in judged.items() if found.score <= TIE * best)
    fit = scene.fit(array, volume, chosen, start)
    rough = scene.fit(array, volume, CANDIDATES[-1], start).field
    misfit = judged[CANDIDATES[-1]].misfit
    field = on_basis_of(fit.field, with_misfit(rough, misfit))
    reference = scene.mean_basis(field, array)
    coefficients = field.coefficients.copy()
    coefficients[0] -= reference @ coefficients
    moved = MOTION_SD * fit.parameters[len(fit.field.orders) :]
    return ReceiveFit(
        replace(field, coefficients=coefficients),
        reference,
        chosen,
        judged[chosen].score,
        misfit,
        _displacement(moved, used, grid),
    )


def on_basis_of(smooth: SmoothField, rough: SmoothField) -> SmoothField:
    """Return a smooth field with the basis and the covariance of one that may vary faster.

    Parameters
    ----------
    smooth
        Its waves are among those of ``rough``.
    rough
        Over the same box.

    Returns
    -------
    field
        The values of ``smooth``.
    """
    index = {tuple(order): k for k, order in enumerate(rough.orders.tolist())}
    coefficients = np.zeros(len(rough.orders))
    coefficients[[index[tuple(order)] for order in smooth.orders.tolist()]] = smooth.coefficients
    return replace(rough, coefficients=coefficients)


def with_misfit(field: SmoothField, misfit: float) -> SmoothField:
    """Add an error of some SD everywhere to the covariance of a field.

    Parameters
    ----------
    field
        Of any smoothness.
    misfit
        SD of the log field; most of it goes into the shortest waves, since that is what a field
        cannot follow.

    Returns
    -------
    field
        The same values.
    """
    number = np.sum((field.orders / field.size) ** 2, axis=1)
    power = number**2 / np.sum(number**2)
    shares = power * 2.0 ** np.sum(field.orders > 0, axis=1)  # over the box waves are 1/2 squared
    return replace(field, covariance=field.covariance + misfit**2 * np.diag(shares))


@dataclass(frozen=True)
class Agreement:
    """How well two repeats of an array image agree.

    Parameters
    ----------
    mean_ratio
        Of the second over the first, in the mean over the head.
    spread
        Robust SD of their ratio over the head, both smoothed with 6 mm.
    displacement
        Rigid, root mean square over the head [mm].
    """

    mean_ratio: float
    spread: float
    displacement: float


def repeat_agreement(first: SquaredImage, second: SquaredImage, affine: Floats) -> Agreement:
    """Compare two repeats of an array image within the head.

    Parameters
    ----------
    first, second
        On one grid.
    affine
        Of the grid, shape (4, 4) [mm].

    Returns
    -------
    agreement
        The motion is that which explains the difference best, to first order.
    """
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    one, two = (
        np.sqrt(np.maximum(gaussian_filter(image.values, SMOOTHING / voxel), 0))
        for image in (first, second)
    )
    middle = (one + two) / 2
    head = middle > HEAD_SHARE * np.percentile(middle, 99)
    head &= first.measured & second.measured
    ratio = two[head] / np.maximum(one[head], 1e-12)
    spread = 1.4826 * float(np.median(np.abs(ratio - np.median(ratio))))
    columns = rigid_change(middle, affine)[:, head]
    shares = np.linalg.lstsq(
        np.concatenate([columns, middle[None, head]]).T, two[head] - one[head], rcond=None
    )[0]
    moved = _displacement(shares[:6], head, affine)
    return Agreement(float(two[head].sum() / one[head].sum()), spread, moved)


def inverse_map(profile: Floats, level: float | None = None) -> Floats:
    """Return the correction factor for a measured receive map.

    Parameters
    ----------
    profile
        Relative receive sensitivity, any shape.
    level
        Where the factor is 1; None for the median of the positive part of ``profile``.

    Returns
    -------
    factor
        1 over the profile, normalized to ``level``; where the profile is
        below a twentieth of that (outside the map) it counts as that, so that air is not
        blown up.

    Raises
    ------
    ValueError
        If the profile is nowhere positive.

    Examples
    --------
    >>> inverse_map(np.array([0.5, 1.0, 2.0]))
    array([2. , 1. , 0.5], dtype=float32)
    """
    positive = profile[profile > 0]
    if not positive.size:
        raise ValueError("the receive map is nowhere positive")
    relative = profile / (np.median(positive) if level is None else level)
    return np.asarray(1 / np.maximum(relative, 0.05), np.float32)
