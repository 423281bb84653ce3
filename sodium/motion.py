"""Motion between the repetitions of one acquisition: found in images, undone in k-space.

A rigid motion of the object turns its k-space and multiplies it by a linear phase, exactly. So
the images of the repetitions only serve to find the motion; the correction turns the trajectory
and changes the phase of the samples, and one reconstruction of all repetitions together is their
average, without interpolation and with the noise propagation of any other reconstruction.

What this cannot do: the receive sensitivities and anything that lies beside the head (calibration
vials) do not move with it, so a correction moves them. For motion of a few millimetres the effect
on the smooth sensitivities is of second order; vials must be measured where they lie, in an
average of the same repetitions without the correction (:func:`where_they_lay`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.fft
from scipy.ndimage import (
    binary_dilation,
    binary_fill_holes,
    distance_transform_edt,
    gaussian_filter,
    map_coordinates,
    spline_filter,
)
from scipy.spatial.transform import Rotation

from sodiumprep.sodium.acquisition import (
    Acquisition,
    Complexes,
    Floats,
    Numbers,
    split_repetitions,
)
from sodiumprep.sodium.brain import Mask, largest_component
from sodiumprep.sodium.coils import smooth_coil_images, unit_vectors
from sodiumprep.sodium.density import density_weights, hamming_filter
from sodiumprep.sodium.encoding import adjoint

LEVELS = ((4.0, 3), (2.0, 2), (1.4, 1))  # smoothing SD and stride [largest voxel edge], [voxels]
ITERATIONS = 20  # per level; four to eight are usual
CONVERGED = 2e-3  # mm, rms displacement of a step
HEAD_SHARE = 0.15  # of the 98th percentile: below CSF and grey matter, above air
HEAD_RADIUS = 22.0  # mm; thicker than vials, thinner than any head
MARGIN = 2  # voxels around the head: its edge tells most of the motion
ARRAY_PROFILE = 2  # order of the polynomial that takes up what an array's profile changes
LAGS = 4  # voxels, range of the correlation of the noise
COMPLETE = 0.9  # share of the readouts that a repetition needs to be an image by itself
MISFIT_LIMIT = 3.5  # robust z, Iglewicz & Hoaglin 1993
MISFIT_SPREAD = 0.1  # smallest spread that counts, over the median misfit
SIGNAL_SPREAD = 0.01  # smallest spread that counts, over the signal
PHASE_STEPS = 4  # Newton steps of a smooth phase
DISPLACEMENT_LIMIT = 20.0  # mm; a head coil leaves hardly more room
SIMILARITY_LIMIT = 0.8  # correlation that a larger displacement must reach


@dataclass(frozen=True)
class RigidMotion:
    """A rotation about the centre of the field of view, then a translation: ``y = R x + t``.

    Takes points of the object in the reference's pose to where they lie in a moved block, in
    axes (read, phase, slice).

    Parameters
    ----------
    rotation
        Axis times angle, shape (3,) [rad].
    translation
        Shape (3,) [mm].

    Examples
    --------
    >>> turn = RigidMotion(np.array([0, 0, np.pi / 2]), np.array([1.0, 0, 0]))
    >>> turn.apply(np.array([[10.0, 0, 0]])).round(6) + 0.0
    array([[ 1., 10.,  0.]])
    >>> (turn @ turn.inverse()).displacement(np.eye(3)) < 1e-9
    True
    """

    rotation: Floats = field(default_factory=lambda: np.zeros(3))
    translation: Floats = field(default_factory=lambda: np.zeros(3))

    @property
    def matrix(self) -> Floats:
        """Rotation matrix R, shape (3, 3)."""
        return np.asarray(Rotation.from_rotvec(self.rotation).as_matrix())

    def apply(self, points: Floats) -> Floats:
        """Move points, shape (..., 3) [mm]."""
        return np.asarray(points @ self.matrix.T + self.translation)

    def inverse(self) -> RigidMotion:
        """Return the motion back."""
        return RigidMotion(-np.asarray(self.rotation), -self.matrix.T @ self.translation)

    def __matmul__(self, first: RigidMotion) -> RigidMotion:
        """Return the motion ``first``, followed by this one."""
        turn = Rotation.from_rotvec(self.rotation) * Rotation.from_rotvec(first.rotation)
        return RigidMotion(turn.as_rotvec(), self.apply(first.translation))

    def displacement(self, points: Floats) -> float:
        """Return the root mean square displacement of points of shape (m, 3) [mm]."""
        return float(np.sqrt(np.mean(np.sum((self.apply(points) - points) ** 2, axis=-1))))


@dataclass(frozen=True)
class BlockMotion:
    """Where the head lay in one block, and whether the block is used.

    Parameters
    ----------
    block
        Label of the repetition.
    motion
        From the reference's pose to this block's.
    displacement
        Root mean square over the head [mm]; nan where it could not be measured.
    displacement_sd
        Its standard uncertainty from noise, root mean square over the head [mm].
    similarity
        Correlation with the reference over the head, after alignment.
    misfit
        Root mean square difference from the other blocks over the head, over the signal.
    phase
        Phase of the block over that of the reference [rad].
    reference
        Whether the others are aligned to this one.
    reason
        Why it is rejected; empty for a block that is used.
    """

    block: int
    motion: RigidMotion
    displacement: float = 0.0
    displacement_sd: float = 0.0
    similarity: float = 1.0
    misfit: float = float("nan")
    phase: float = 0.0
    reference: bool = False
    reason: str = ""

    @property
    def rejected(self) -> bool:
        """Whether the block is left out."""
        return bool(self.reason)

    def describe(self) -> dict[str, Any]:
        """Return plain numbers for a QC file: degrees and mm."""
        return {
            "block": self.block,
            "rotation_deg": [round(float(a), 3) for a in np.degrees(self.motion.rotation)],
            "translation_mm": [round(float(t), 3) for t in self.motion.translation],
            "displacement_mm": _finite_or_none(self.displacement, 3),
            "displacement_sd_mm": _finite_or_none(self.displacement_sd, 3),
            "misfit": _finite_or_none(self.misfit, 4),
            "reference": self.reference,
            "rejected": self.reason or False,
        }


def _finite_or_none(value: float, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def apply_to_kspace(
    samples: Complexes, trajectory: Floats, motion: RigidMotion
) -> tuple[Complexes, Floats]:
    """Return the k-space of the moved object: the given one, turned and with a linear phase.

    With the inverse of a block's motion this is the correction of that block.

    Parameters
    ----------
    samples
        Shape (..., readouts, n).
    trajectory
        Shape (readouts, n, 3) [1/m].
    motion
        What moves the object.

    Returns
    -------
    samples
        Same shape: ``s exp(-i 2 pi k'.t)``.
    trajectory
        ``k' = R k``, same shape.

    References
    ----------
    Shaw et al. 2003 on rigid motion in k-space; Batchelor et al. 2005, doi:10.1002/mrm.20656

    Examples
    --------
    >>> k = np.array([[[0, 0, 0], [0, 0, 2.5]]])
    >>> moved, _ = apply_to_kspace(
    ...     np.ones((1, 2), complex), k, RigidMotion(translation=np.array([0, 0, 100.0]))
    ... )
    >>> moved.round(6) + 0.0
    array([[1.+0.j, 0.-1.j]])
    """
    turned = np.asarray(trajectory, np.float64) @ motion.matrix.T
    phase = np.exp(-2j * np.pi * (turned @ (np.asarray(motion.translation) * 1e-3)))
    return (samples * phase).astype(samples.dtype), turned.astype(trajectory.dtype)


def in_phase(images: Numbers) -> Floats:
    """Return the real part of images in phase with their own low-resolution images.

    Parameters
    ----------
    images
        Coil images of one block, shape (coils, nx, ny, nz); real ones are summed.

    Returns
    -------
    image
        Shape (nx, ny, nz), real; noise has mean zero where there is signal.
    """
    if not np.iscomplexobj(images):
        return np.asarray(np.sum(images, axis=0), np.float32)
    profile = unit_vectors(smooth_coil_images(np.asarray(images)))
    return np.asarray(np.sum((profile.conj() * images).real, axis=0), np.float32)


def head_mask(image: Floats, voxel_size: Floats) -> Floats:
    """Return the head with a margin; vials and whatever else is thinner stay out.

    Vials do not move with the head, and are the brightest of all: blurred into the mask they
    would halve the motion that is found. What a ball of 22 mm does not fit into is no head.

    Parameters
    ----------
    image
        Shape (nx, ny, nz), real.
    voxel_size
        Shape (3,) [m].

    Returns
    -------
    mask
        Boolean, same shape.

    Raises
    ------
    ValueError
        If nothing is bright.
    """
    head, apart = _head_and_others(image, np.asarray(voxel_size) * 1e3)
    return np.asarray(binary_dilation(head, iterations=MARGIN) & ~apart)


def _head_and_others(image: Floats, voxel: Floats) -> tuple[Mask, Mask]:
    """Return the head, and the bright things beside it with a margin."""
    smooth = gaussian_filter(np.asarray(image, np.float32), 0.7)
    level = float(np.percentile(smooth, 98))
    if not level > 0:
        raise ValueError(f"no head in an image whose 98th percentile is {level:.4g}")
    bright = binary_fill_holes(smooth > HEAD_SHARE * level)
    core = largest_component(distance_transform_edt(bright, sampling=voxel) > HEAD_RADIUS)
    if not core.any():  # a small object, or a coarse grid: take what is largest
        core = largest_component(bright)
    near = distance_transform_edt(~core, sampling=voxel) <= HEAD_RADIUS + voxel.max()
    head, others = bright & near, bright & ~near
    return head, np.asarray(binary_dilation(others, iterations=MARGIN))


def choose_reference(images: Floats) -> int:
    """Return the block that is most like the others.

    Parameters
    ----------
    images
        Real, shape (blocks, nx, ny, nz).

    Returns
    -------
    reference
        Index of the block with the largest mean correlation with the others.
    """
    smooth = np.stack([gaussian_filter(image, LEVELS[-1][0]).ravel() for image in images])
    centred = smooth.astype(np.float64) - smooth.mean(axis=1, keepdims=True)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-30)
    likeness = centred @ centred.T
    return int(np.argmax(np.round(likeness.sum(axis=1), 6)))  # equal ones: the first


def _grid_points(mask: Floats, voxel: Floats) -> Floats:
    return np.asarray((np.argwhere(mask) - np.asarray(mask.shape) // 2) * voxel, np.float64)


def _motion_about(centre: Floats, step: Floats) -> RigidMotion:
    turn = RigidMotion(rotation=np.asarray(step[:3]))
    return RigidMotion(turn.rotation, step[3:] + centre - turn.matrix @ centre)


def _polynomials(points: Floats, order: int, frame: Floats | None = None) -> Floats:
    """Return products of powers up to an order, one row each, the constant first."""
    frame = points if frame is None else frame
    scaled = (points - frame.mean(axis=0)) / max(float(frame.std()), 1e-9)
    powers = sorted((p for p in np.ndindex(*[order + 1] * 3) if sum(p) <= order), key=sum)
    return np.stack([np.prod(scaled ** np.array(p), axis=1) for p in powers])


@dataclass(frozen=True)
class _Template:
    """What a small motion does to the reference image at one resolution.

    An image is fitted by ``reference * polynomial + derivatives * step``: the derivatives belong
    to the reference, so they and the solution's matrix are made once.
    """

    sigma: Floats
    voxel: Floats
    mask: Floats
    points: Floats
    design: Floats
    solve: Floats

    @classmethod
    def build(
        cls,
        reference: Floats,
        mask: Floats,
        voxel: Floats,
        level: tuple[float, int],
        profile_order: int,
    ) -> _Template:
        sigma, stride = level[0] * voxel.max() / voxel, level[1]
        sparse = np.zeros_like(mask)
        sparse[::stride, ::stride, ::stride] = mask[::stride, ::stride, ::stride]
        smooth = gaussian_filter(np.asarray(reference, np.float64), sigma)
        slopes = [g[sparse] for g in np.gradient(smooth, *voxel)]
        points = _grid_points(sparse, voxel)
        turning = np.cross(points - points.mean(axis=0), np.stack(slopes, axis=1)).T
        profile = _polynomials(points, profile_order) * smooth[sparse]
        design = np.concatenate([profile, turning, np.stack(slopes)])
        return cls(sigma, voxel, sparse, points, design, _solution_matrix(design))

    def sample(self, image: Floats) -> Floats:
        """Return the spline coefficients of an image at this resolution."""
        return np.asarray(spline_filter(gaussian_filter(image.astype(np.float64), self.sigma)))

    def values(self, splines: Floats, motion: RigidMotion) -> Floats:
        """Return a block's values where the motion takes the points of the head."""
        index = motion.apply(self.points) / self.voxel + np.asarray(self.mask.shape) // 2
        return np.asarray(map_coordinates(splines, index.T, order=3, prefilter=False))

    def fit(self, splines: Floats, motion: RigidMotion) -> RigidMotion:
        """Refine a motion by Gauss-Newton steps."""
        centre = self.points.mean(axis=0)
        for _ in range(ITERATIONS):
            found = self.solve @ self.values(splines, motion)
            if not found[0] > 0:
                break
            step = _motion_about(centre, found[-6:] / found[0])
            motion = motion @ step.inverse()
            if step.displacement(self.points[::50]) < CONVERGED:
                break
        return motion

    def uncertainty(self, splines: Floats, motion: RigidMotion) -> float:
        """Return the SD of the displacement from the residual and its correlation [mm]."""
        values = self.values(splines, motion)
        found = self.solve @ values
        covariance = _propagate(self.solve[-6:], values - found @ self.design, self.mask)
        arms = self.points - self.points.mean(axis=0)
        inertia = np.mean(np.sum(arms**2, axis=1)) * np.eye(3) - arms.T @ arms / len(arms)
        square = np.trace(covariance[3:, 3:]) + np.sum(covariance[:3, :3] * inertia)
        return float(np.sqrt(max(square, 0.0)) / max(abs(found[0]), 1e-12))


def _solution_matrix(design: Floats) -> Floats:
    """Return the least-squares solution as a matrix; directions without effect stay zero."""
    size = np.maximum(np.sqrt(np.mean(design**2, axis=1)), 1e-12)
    scaled = design / size[:, None]
    inverse = np.linalg.pinv(scaled @ scaled.T, rcond=1e-8, hermitian=True)
    return np.asarray((inverse @ scaled) / size[:, None])


def _propagate(rows: Floats, residual: Floats, mask: Floats) -> Floats:
    """Return ``P S P'`` with the residual's own autocovariance S, up to a few voxels' lag."""

    def embed(values: Floats) -> Floats:
        grid = np.zeros(mask.shape)
        grid[mask] = values
        return np.asarray(scipy.fft.rfftn(grid))

    shape = mask.shape
    near = [np.minimum(np.arange(n), n - np.arange(n)) <= LAGS for n in shape]
    pairs = scipy.fft.irfftn(np.abs(embed(np.ones(len(residual)))) ** 2, shape)
    lagged = scipy.fft.irfftn(np.abs(embed(residual)) ** 2, shape) / np.maximum(pairs, 1.0)
    spectrum = scipy.fft.rfftn(lagged * np.einsum("i,j,k->ijk", *near)).real
    spread = [scipy.fft.irfftn(embed(row) * np.maximum(spectrum, 0), shape)[mask] for row in rows]
    return np.asarray(np.stack(spread) @ rows.T)


def estimate_motion(
    images: Numbers,
    voxel_size: Floats,
    reference: int | None = None,
    profile_order: int = 0,
    levels: Sequence[tuple[float, int]] = LEVELS,
) -> tuple[BlockMotion, ...]:
    """Find the rigid motion of the head in each block by Gauss-Newton steps on its intensities.

    Coarse to fine, cubic splines, over the head of the reference. A polynomial factor takes up
    the gain (order 0) and what the receive profile changes where the head moves within it (order
    2): the profile of an array, ignored, pulls the motion by more than 1 mm at 8 mm and 8
    degrees; the factor brings that under 0.5 mm, and costs a volume coil 1.6 times the noise.

    Parameters
    ----------
    images
        Shape (blocks, nx, ny, nz); complex ones are taken in phase with their low-resolution
        images, so that no phase between blocks matters and noise has mean zero.
    voxel_size
        Shape (3,) [m].
    reference
        Index of the block whose pose is kept; by default :func:`choose_reference`.
    profile_order
        Of the polynomial: 0 for a volume coil, 2 for an array.
    levels
        Smoothing SD [largest voxel edge] and stride [voxels] of each resolution.

    Returns
    -------
    motions
        One per block; the reference's is the identity.

    Raises
    ------
    ValueError
        If the images are not finite, or show no head.

    References
    ----------
    Friston et al. 1995, doi:10.1002/hbm.460030303;
    Baker & Matthews 2004, doi:10.1023/B:VISI.0000011205.11775.fd
    """
    if not np.all(np.isfinite(images)):
        raise ValueError(f"block {int(np.argmin(_finite(images)))} holds NaN or infinity")
    real = np.stack([in_phase(image[None]) for image in images])
    chosen = choose_reference(real) if reference is None else reference
    voxel, mask = np.asarray(voxel_size) * 1e3, head_mask(real[chosen], voxel_size)
    _, apart = _head_and_others(real[chosen], voxel)
    real = np.where(apart, np.float32(0), real)  # before smoothing, which would blur vials in
    templates = [
        _Template.build(real[chosen], mask, voxel, level, profile_order) for level in levels
    ]
    return tuple(
        BlockMotion(number, RigidMotion(), reference=True)
        if number == chosen
        else _block_motion(number, image, real[chosen], templates)
        for number, image in enumerate(real)
    )


def _finite(images: Numbers) -> Floats:
    return np.asarray(np.isfinite(images).all(axis=(1, 2, 3)))


def _block_motion(
    number: int, image: Floats, reference: Floats, templates: Sequence[_Template]
) -> BlockMotion:
    motion = RigidMotion()
    for template in templates:
        splines = template.sample(image)
        motion = template.fit(splines, motion)
    values = template.values(splines, motion)
    return BlockMotion(
        number,
        motion,
        motion.displacement(template.points),
        template.uncertainty(splines, motion),
        _correlation(values, template.design[0]),
    )


def _correlation(first: Floats, second: Floats) -> float:
    if min(float(np.std(first)), float(np.std(second))) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def misfits(images: Complexes, mask: Floats, profile_order: int = 0) -> Floats:
    """Return how far each block lies from the others, all in one pose.

    Parameters
    ----------
    images
        Shape (blocks, nx, ny, nz), at least two blocks.
    mask
        Boolean, shape (nx, ny, nz).
    profile_order
        Order of the complex polynomial by which a block may differ: 0 is its phase and gain.

    Returns
    -------
    misfits
        Shape (blocks,): root mean square over the mask of the block minus the median of the
        others times that polynomial, over that product's; infinite for a block without signal.
    """
    inside = images[:, mask]
    turns = inside @ inside[0].conj()
    inside = inside * np.exp(-1j * np.angle(turns))[:, None]  # the median needs one phase
    basis = _polynomials(np.argwhere(mask) * 1.0, profile_order)
    found = []
    for number, values in enumerate(inside):
        others = np.delete(inside, number, axis=0)
        middle = np.median(others.real, axis=0) + 1j * np.median(others.imag, axis=0)
        design = basis * middle
        fitted = (design.conj() @ values) @ np.linalg.pinv(design @ design.conj().T) @ design
        power = float(np.vdot(fitted, fitted).real)
        left = float(np.sum(np.abs(values - fitted) ** 2))
        found.append(np.sqrt(left / power) if power > 0 else np.inf)
    return np.asarray(found)


def outliers(misfit: Floats, similarity: Floats, displacement: Floats) -> list[str]:
    """Tell which blocks are left out, and why.

    A block is rejected if the robust z of its misfit (0.6745 times the distance from the median,
    over the median absolute deviation) exceeds 3.5; the spread counts as at least 10 % of the
    median misfit and 1 % of the signal, so that blocks which are alike are all kept. A block is
    rejected, too, if it would have moved by more than 20 mm while its correlation with the
    reference stays under 0.8: no pose was found. Two blocks cannot tell which of them is bad.

    Parameters
    ----------
    misfit
        As :func:`misfits` gives it, shape (blocks,).
    similarity
        Correlation with the reference, shape (blocks,).
    displacement
        Shape (blocks,) [mm].

    Returns
    -------
    reasons
        One per block; empty for a block that is used.

    References
    ----------
    Iglewicz & Hoaglin 1993, How to Detect and Handle Outliers, ASQC

    Examples
    --------
    >>> outliers(np.array([0.1, 0.11, 0.1, 0.4]), np.full(4, 0.98), np.zeros(4))[3]
    'its misfit 0.400 lies 28.1 robust SDs above the median 0.105 (limit 3.5)'
    """
    middle = float(np.median(misfit))
    spread = float(np.median(np.abs(misfit - middle))) / 0.6745  # SD of a normal distribution
    spread = max(spread, MISFIT_SPREAD * middle, SIGNAL_SPREAD)
    reasons = []
    for m, s, d in zip(misfit, similarity, displacement, strict=True):
        score, reason = (m - middle) / spread, ""
        if score > MISFIT_LIMIT:
            reason = (
                f"its misfit {m:.3f} lies {score:.1f} robust SDs above the median {middle:.3f} "
                f"(limit {MISFIT_LIMIT:g})"
            )
        elif d > DISPLACEMENT_LIMIT and s < SIMILARITY_LIMIT:
            reason = (
                f"no pose was found: displacement {d:.1f} mm (limit {DISPLACEMENT_LIMIT:g}) at "
                f"correlation {s:.2f} (limit {SIMILARITY_LIMIT:g})"
            )
        reasons.append(reason)
    return reasons


def block_phase(image: Complexes, reference: Complexes, mask: Floats, order: int = 0) -> Floats:
    """Return the smooth phase of a block over that of the reference.

    Parameters
    ----------
    image, reference
        Shape (nx, ny, nz), in one pose.
    mask
        Boolean, same shape.
    order
        Of the polynomial: 0 a constant, 1 linear, 2 quadratic. Beside the constant it must stay
        within half a turn over the head.

    Returns
    -------
    phase
        Same shape [rad].
    """
    product = (image * reference.conj())[mask]
    total = float(np.angle(product.sum()))
    phase = np.full(image.shape, total)
    if order == 0:
        return phase
    inside, everywhere = np.argwhere(mask) * 1.0, np.argwhere(np.ones(mask.shape, bool)) * 1.0
    basis, rows = _polynomials(inside, order), _polynomials(everywhere, order, inside)
    for _ in range(PHASE_STEPS):
        left = product * np.exp(-1j * phase[mask])
        step = np.linalg.solve((basis * np.abs(left)) @ basis.T, basis @ left.imag)
        phase = phase + (step @ rows).reshape(mask.shape)
    return phase


def average_blocks(
    images: Complexes, mask: Floats, reference: int = 0, variances: Floats | None = None
) -> Complexes:
    """Return the complex average of blocks in one pose, each in phase with the reference.

    A linear phase over the head is taken out; what is smoother than the image stays in phase.

    Parameters
    ----------
    images
        Shape (blocks, nx, ny, nz).
    mask
        Head, boolean, shape (nx, ny, nz).
    reference
        Index of the block whose phase is kept.
    variances
        Noise variance of each block, shape (blocks,); by default equal.

    Returns
    -------
    average
        Shape (nx, ny, nz), weighted by the inverse variances.

    Raises
    ------
    ValueError
        If a variance is not positive.
    """
    variances = np.ones(len(images)) if variances is None else np.asarray(variances, float)
    if not np.all(variances > 0):
        raise ValueError(f"noise variances are {variances.tolist()}; they must be positive")
    weights = 1 / variances / np.sum(1 / variances)
    average = np.zeros_like(images[0])
    for weight, image in zip(weights, images, strict=True):
        phase = block_phase(image, images[reference], mask, order=1)
        average += (weight * image * np.exp(-1j * phase)).astype(average.dtype)
    return average


def align_repetitions(
    acquisition: Acquisition, reference: int | None = None
) -> tuple[Acquisition, tuple[BlockMotion, ...]]:
    """Correct the motion between repetitions in k-space and leave out those that are no use.

    Each repetition is reconstructed by itself (Hamming window), its motion found, undone in
    k-space, and found again in the corrected reconstruction, so that no interpolated image is in
    the result. Then each repetition takes the constant phase of the reference.

    The trajectories of the result are those of the accepted repetitions, turned, side by side.
    Weights that are normalized by the number of readouts (radial) or found by iteration
    (Pipe-Menon) are right for it as it stands; others are those of one repetition over the number
    of accepted ones. Noise samples stay as they are.

    Parameters
    ----------
    acquisition
        Raw data; each repetition samples the whole of k-space, or it is left out.
    reference
        Index of the repetition whose pose is kept; by default the one most like the others.

    Returns
    -------
    acquisition
        Accepted repetitions in the reference's pose, with the labels of the repetitions.
    motions
        One for each repetition, in ascending order of the labels; none where there is only one.

    Raises
    ------
    ValueError
        If a repetition holds NaN, or shows no head, or if the reference was broken off.
    """
    labels = [int(name) for name in np.unique(acquisition.repetition_labels)]
    if len(labels) == 1:
        return acquisition, ()
    blocks = dict(zip(labels, split_repetitions(acquisition), strict=True))
    cut = _broken_off(blocks)
    whole = [name for name in labels if name not in cut]
    if reference is not None and labels[reference] in cut:
        raise ValueError(
            f"repetition {labels[reference]} is no reference: {cut[labels[reference]]}"
        )
    chosen = None if reference is None else whole.index(labels[reference])
    moved, found = _in_one_pose([blocks[name] for name in whole], chosen)
    named = [replace(f, block=name) for f, name in zip(found, whole, strict=True)]
    unknown = [
        BlockMotion(name, RigidMotion(), np.nan, np.nan, np.nan, reason=reason)
        for name, reason in cut.items()
    ]
    motions = sorted([*named, *unknown], key=lambda motion: motion.block)
    return _joined(acquisition, moved, named), tuple(motions)


def follow_motions(acquisition: Acquisition, motions: Sequence[BlockMotion]) -> Acquisition:
    """Undo motions that are known from another echo of the same repetitions.

    The phase of each repetition is found anew: a drift of the frequency turns a later echo
    further than the first.

    Parameters
    ----------
    acquisition
        Raw data of the other echo.
    motions
        Of its repetitions, from :func:`align_repetitions` of the first echo.

    Returns
    -------
    acquisition
        Accepted repetitions in the reference's pose and phase, with their labels.
    """
    labels = [int(name) for name in np.unique(acquisition.repetition_labels)]
    blocks = dict(zip(labels, split_repetitions(acquisition), strict=True))
    kept = [motion for motion in motions if not motion.rejected]
    moved = [_undo(blocks[each.block], each.motion) for each in kept]
    chosen = next((i for i, each in enumerate(kept) if each.reference), 0)
    images = _images_in_one_pose(moved, _block_weights(moved), chosen)
    mask = head_mask(in_phase(images[chosen][None]), acquisition.geometry.voxel_size)
    phases = [float(block_phase(each, images[chosen], mask)[0, 0, 0]) for each in images]
    turned = [replace(each, phase=phase) for each, phase in zip(kept, phases, strict=True)]
    return _joined(acquisition, moved, turned)


def where_they_lay(acquisition: Acquisition, motions: Sequence[BlockMotion]) -> Acquisition:
    """Return the accepted repetitions in one phase, but each in the pose that it had.

    For what does not move with the head.

    Parameters
    ----------
    acquisition
        Raw data.
    motions
        Of its repetitions, from :func:`align_repetitions`.

    Returns
    -------
    acquisition
        With the labels of the repetitions.
    """
    labels = [int(name) for name in np.unique(acquisition.repetition_labels)]
    blocks = dict(zip(labels, split_repetitions(acquisition), strict=True))
    kept = [motion for motion in motions if not motion.rejected]
    return _joined(acquisition, [blocks[each.block] for each in kept], kept)


def _broken_off(blocks: Mapping[int, Acquisition]) -> dict[int, str]:
    """Return why a repetition is no image by itself, for those that are not."""
    readouts = {name: len(block.trajectory) for name, block in blocks.items()}
    most = max(readouts.values())
    return {
        name: f"it was broken off after {number} of {most} readouts (limit {COMPLETE:.0%})"
        for name, number in readouts.items()
        if number < COMPLETE * most
    }


def _in_one_pose(
    blocks: Sequence[Acquisition], reference: int | None
) -> tuple[list[Acquisition], tuple[BlockMotion, ...]]:
    """Return the blocks in the pose of the reference, and how they lay."""
    if len(blocks) == 1:
        return list(blocks), (BlockMotion(0, RigidMotion(), reference=True),)
    weights, voxel = _block_weights(blocks), blocks[0].geometry.voxel_size
    real = np.stack([in_phase(_grid(b, w)) for b, w in zip(blocks, weights, strict=True)])
    order = ARRAY_PROFILE if len(blocks[0].samples) > 1 else 0
    found = estimate_motion(real, voxel, reference, order)
    chosen = next(f.block for f in found if f.reference)
    moved = [_undo(b, f.motion) for b, f in zip(blocks, found, strict=True)]
    images = _images_in_one_pose(moved, weights, chosen)
    found = _refined(found, estimate_motion(images, voxel, chosen, order, LEVELS[-1:]))
    moved = [_undo(b, f.motion) for b, f in zip(blocks, found, strict=True)]
    return moved, _judged(found, images, voxel, order)


def _block_weights(blocks: Sequence[Acquisition]) -> list[Floats]:
    """Return windowed density weights of each block, once where the trajectory is the same."""
    weights: list[Floats] = []
    for number, block in enumerate(blocks):
        first = blocks[0].trajectory
        if number and np.array_equal(block.trajectory, first):
            weights.append(weights[0])
            continue
        density, _ = density_weights(block.trajectory, block.geometry)
        weights.append(np.asarray(density * hamming_filter(block.trajectory), np.float32))
    return weights


def _grid(block: Acquisition, weights: Floats) -> Complexes:
    return adjoint(block.samples * weights, block.trajectory, block.geometry)


def _undo(block: Acquisition, motion: RigidMotion) -> Acquisition:
    samples, trajectory = apply_to_kspace(block.samples, block.trajectory, motion.inverse())
    return replace(block, samples=samples, trajectory=trajectory)


def _images_in_one_pose(
    blocks: Sequence[Acquisition], weights: Sequence[Floats], reference: int
) -> Complexes:
    """Return complex images of all blocks, coils combined by the reference's own profiles."""
    profile = unit_vectors(smooth_coil_images(_grid(blocks[reference], weights[reference])))
    return np.stack(
        [
            np.sum(profile.conj() * _grid(block, own), axis=0)
            for block, own in zip(blocks, weights, strict=True)
        ]
    )


def _refined(first: Sequence[BlockMotion], rest: Sequence[BlockMotion]) -> tuple[BlockMotion, ...]:
    """Return the motions followed after by those that were left over; the judgement is theirs."""
    return tuple(replace(r, motion=f.motion @ r.motion) for f, r in zip(first, rest, strict=True))


def _judged(
    found: Sequence[BlockMotion], images: Complexes, voxel_size: Floats, profile_order: int
) -> tuple[BlockMotion, ...]:
    """Fill in displacement, misfit, phase, and why a block is rejected."""
    reference = images[next(f.block for f in found if f.reference)]
    mask = head_mask(in_phase(reference[None]), voxel_size)
    points = _grid_points(mask, voxel_size * 1e3)
    moved = np.array([f.motion.displacement(points) for f in found])
    misfit = misfits(images, mask, profile_order)
    reasons = outliers(misfit, np.array([f.similarity for f in found]), moved)
    phases = [block_phase(image, reference, mask)[0, 0, 0] for image in images]
    return tuple(
        replace(f, displacement=float(d), misfit=float(m), phase=float(p), reason=r)
        for f, d, m, p, r in zip(found, moved, misfit, phases, reasons, strict=True)
    )


def _joined(
    acquisition: Acquisition, moved: Sequence[Acquisition], motions: Sequence[BlockMotion]
) -> Acquisition:
    kept = [(b, m) for b, m in zip(moved, motions, strict=True) if not m.rejected]
    samples = [(b.samples * np.exp(-1j * m.phase)).astype(b.samples.dtype) for b, m in kept]
    labels = [np.full(b.trajectory.shape[0], m.block) for b, m in kept]
    return replace(
        acquisition,
        samples=np.concatenate(samples, axis=1),
        trajectory=np.concatenate([b.trajectory for b, _ in kept]),
        repetition=np.concatenate(labels),
    )
