"""The pose of a sodium image: a model of what it shows is fitted, receive field and all.

At points x of the anatomy the image is expected to be ``b(x) * sum_t c_t M_t(x)``: fractions
``M_t`` blurred by the point-spread function, signals ``c_t`` of the tissues, and a smooth field
``b``, a polynomial, for all that is bright near a coil. The pose, the field and the signals are
found together by Gauss-Newton steps with weights that let go of what the model does not know
(lesions, eyes, vials). Points outside of the image do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, map_coordinates, spline_filter
from scipy.spatial.transform import Rotation

from sodiumprep.sodium.acquisition import Floats, Integers
from sodiumprep.sodium.alignment import EXPECTED, EXPECTED_HEAD, displacement, rigid_matrix
from sodiumprep.sodium.kernel import FWHM_TO_SIGMA

PARTS = ("CSF", "GM", "WM", "head")
SIGNALS = np.array([EXPECTED["CSF"], EXPECTED["GM"], EXPECTED["WM"], EXPECTED_HEAD])
FIELD_ORDER = 4  # of the polynomial in space; a factor of 4 over the head is fitted to 5 %
BLOCK = 24.0  # mm, edge of the blocks that are drawn anew together
LEAST_CONTRAST = 1.4  # fluid over tissue, whatever the fit says
TUKEY = 4.685  # robust SD beyond which a point has no weight
LARGEST_STEP = 12.0  # mm, of one iteration
STEADY = 0.005  # mm, a step that ends the iterations
LEAST_INSIDE = 0.25  # share of the points that the image must hold
LEVELS = ((0.0, 2, 5.0), (2.5, 2, 7.0), (5.0, 3, 11.0))  # blur [mm], stride, rim of brain [mm]
STEPS = (10, 8, 16)  # of the levels
KEPT = 3  # starts that are followed to the finest level
REPLICATES = 16  # perturbed restarts on resampled blocks
RESTART_TURN, RESTART_SHIFT = np.radians(2.0), 2.0  # SD of the restarts [rad, mm]
U_CONTRAST = 0.2  # relative SD of the signal of tissue over that of fluid
U_TISSUES = 0.1  # of grey over white matter
LEAST_SCORE = 0.55  # simulated heads score above 0.8, a real one 0.62, one with another brain 0.51
TIE = 0.01  # scores that near say nothing about which of two positions is right
LARGEST_ERROR = 5.0  # mm, a narrow point-spread function: a wider bound ruins every tissue value
# Of the distance of restarts. Twelve simulated cases of seeds that serve nothing else: the error
# over it is 0.86 rms and 1.06 in 95 %; rounded up, since they are few (bench/registration.py).
STANDARD_FACTOR, BOUND_FACTOR = 1.0, 1.5
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Scene:
    """What a sodium image should show at points of the anatomy.

    Parameters
    ----------
    points
        Shape (n, 3) [mm, LPS].
    parts
        Blurred share of CSF, GM, WM and the rest of the head, shape (4, n).
    slopes
        Their gradients, shape (4, n, 3) [1/mm, LPS].
    fields
        Smooth functions of space, shape (n, k); the first is one.
    blocks
        Number of the block that a point lies in, shape (n,).
    centre
        Of the brain, shape (3,) [mm, LPS].
    blur
        Standard deviation of what blurs it beyond the point-spread function [mm].
    """

    points: Floats
    parts: Floats
    slopes: Floats
    fields: Floats
    blocks: Integers
    centre: Floats
    blur: float


@dataclass(frozen=True)
class Volume:
    """A sodium image that is ready to be sampled.

    Parameters
    ----------
    coefficients
        Of its cubic spline, shape (nx, ny, nz).
    to_index
        Position to voxel index, shape (4, 4) [mm, LPS].
    """

    coefficients: Floats
    to_index: Floats

    @classmethod
    def prepare(cls, image: Floats, affine: Floats, blur: float = 0.0) -> Volume:
        """Blur an image and find its spline.

        Parameters
        ----------
        image
            Shape (nx, ny, nz).
        affine
            Voxel index to position, shape (4, 4) [mm, RAS].
        blur
            Standard deviation [mm].
        """
        sigma = blur / np.linalg.norm(affine[:3, :3], axis=0)
        smooth = gaussian_filter(image.astype(np.float32), sigma) if blur else image
        coefficients = spline_filter(smooth / np.abs(smooth).max(), 3, np.float32, mode="mirror")
        return cls(coefficients, np.linalg.inv(affine) @ FLIP)

    def sample(self, points: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return values at positions, and which of them lie inside.

        Parameters
        ----------
        points
            Shape (n, 3) [mm, LPS].

        Returns
        -------
        values, inside
            Shape (n,), float32 and bool.
        """
        index = self.to_index[:3, :3] @ points.T + self.to_index[:3, 3:]
        last = np.array(self.coefficients.shape)[:, None] - 1
        inside = ((index >= 0) & (index <= last)).all(axis=0)
        values = map_coordinates(
            self.coefficients, index, np.float32, order=3, mode="mirror", prefilter=False
        )
        return values, np.asarray(inside)


def build_scene(
    tissues: dict[str, Floats], head: Floats, affine: Floats, fwhm: float, level: int = 0
) -> Scene:
    """Lay points over brain and rim, and tell what they should show.

    Parameters
    ----------
    tissues
        Fractions of GM, WM and CSF, one shape, voxels of about 2 mm.
    head
        Mask of the head, same shape.
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].
    fwhm
        Width of the point-spread function [mm].
    level
        0 for every point and no further blur; from 1 on coarser.

    Returns
    -------
    scene
        Points within the rim of the brain.

    Raises
    ------
    ValueError
        If there is no brain.
    """
    blur, every, rim = LEVELS[level]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    brain = sum(tissues.values())
    inside = np.asarray(brain > 0.5)
    if not inside.any():
        raise ValueError("the fractions of GM, WM and CSF nowhere exceed one half: no brain")
    sharp = [*(tissues[name] for name in PARTS[:3]), np.clip(head - brain, 0, 1)]
    sigma = np.hypot(fwhm * FWHM_TO_SIGMA, blur) / spacing
    blurred = [gaussian_filter(part.astype(np.float32), sigma) for part in sharp]
    used = binary_dilation(inside, iterations=max(1, round(rim / spacing.mean())))
    index = np.argwhere(used)
    rest = index % every
    # The finest level keeps a body-centred lattice of a quarter of the voxels, 3.2 mm apart.
    index = index[(rest == rest[:, :1]).all(axis=1) if level == 0 else ~rest.any(axis=1)]
    turn = (FLIP @ affine)[:3, :3]
    slopes = np.stack([_slopes(part, index, turn) for part in blurred])
    points = index @ turn.T + (FLIP @ affine)[:3, 3]
    centre = np.argwhere(inside).mean(axis=0) @ turn.T + (FLIP @ affine)[:3, 3]
    return Scene(
        points.astype(np.float32), np.stack([part[tuple(index.T)] for part in blurred]), slopes,
        smooth_functions(points - centre), _blocks(points - centre), centre, blur,
    )  # fmt: skip


def _slopes(part: Floats, index: Integers, turn: Floats) -> Floats:
    """Return gradients at voxels [1/mm]."""
    per_voxel = np.stack([
        np.gradient(part, axis=axis)[tuple(index.T)] for axis in range(3)
    ], axis=1)  # fmt: skip
    return np.asarray(per_voxel @ np.linalg.inv(turn), np.float32)


def _blocks(points: Floats) -> Integers:
    cell = np.floor(points / BLOCK).astype(int)
    return np.asarray(np.unique(cell, axis=0, return_inverse=True)[1].ravel())


def smooth_functions(points: Floats, order: int = FIELD_ORDER) -> Floats:
    """Return products of Legendre polynomials.

    Parameters
    ----------
    points
        Shape (n, 3) [mm].
    order
        Highest total degree.

    Returns
    -------
    functions
        Shape (n, k), float32; the first is one.

    Examples
    --------
    >>> smooth_functions(np.random.default_rng(0).normal(size=(9, 3)), 2).shape
    (9, 10)
    """
    scaled = points / np.abs(points).max(axis=0)
    legendre = [np.polynomial.legendre.legvander(scaled[:, axis], order) for axis in range(3)]
    degrees = sorted((d for d in product(range(order + 1), repeat=3) if sum(d) <= order), key=sum)
    return np.stack(
        [legendre[0][:, i] * legendre[1][:, j] * legendre[2][:, k] for i, j, k in degrees], axis=1
    ).astype(np.float32)


@dataclass(frozen=True)
class Fit:
    """A pose and how well the model fits there.

    Parameters
    ----------
    transform
        Points of the anatomy to points of the sodium image, shape (4, 4) [mm, LPS].
    signals
        Of ``PARTS``, shape (4,), fluid one.
    score
        Correlation of image and model once a smooth field is taken out, in [0, 1].
    """

    transform: Floats
    signals: Floats
    score: float = 0.0


def _solve(design: Floats, values: Floats, weights: Floats) -> Floats:
    weighted = design * weights[:, None]
    normal = (weighted.T @ design).astype(np.float64)
    normal[np.diag_indices_from(normal)] *= 1 + 1e-6
    return np.linalg.solve(normal, (weighted.T @ values).astype(np.float64))


def _robust_weights(residual: Floats) -> Floats:
    scale = 1.4826 * np.median(np.abs(residual))
    return np.clip(1 - (residual / (TUKEY * scale)) ** 2, 0, None) ** 2 if scale > 0 else (
        np.ones_like(residual)
    )  # fmt: skip


def _bounded_signals(raw: Floats) -> Floats:
    """Return signals over that of fluid; never a contrast that no head has."""
    if raw[0] <= 0:
        return SIGNALS
    tissue = np.clip(raw[1:3] / raw[0], 0.15, 1 / LEAST_CONTRAST)
    middle = tissue.mean()  # the two differ by less than the image tells: their ratio is kept
    pair = middle * SIGNALS[1:3] / SIGNALS[1:3].mean()
    return np.array([1.0, *pair, np.clip(raw[3] / raw[0], 0.0, middle)])


class _State:
    """Image and model at one pose: everything that a step needs.

    Empty, and without field and weights, where too few points lie inside the image.
    """

    def __init__(self, scene: Scene, volume: Volume, fit: Fit, weights: Floats | None) -> None:
        turned = scene.points @ fit.transform[:3, :3].T + fit.transform[:3, 3]
        values, self.inside = volume.sample(turned)
        self.values = values[self.inside]
        self.is_empty = bool(self.inside.mean() < LEAST_INSIDE)
        if self.is_empty:
            return
        self.fields = scene.fields[self.inside]
        self.parts = scene.parts[:, self.inside]
        drawn = np.ones(len(self.values)) if weights is None else weights[self.inside]
        self.drawn: Floats = np.asarray(drawn, np.float32)
        self.weights: Floats = self.drawn
        self.model = np.asarray(fit.signals @ self.parts, np.float32)
        for _ in range(2):
            self.field = self.fields @ _solve(
                self.fields * self.model[:, None], self.values, self.weights
            ).astype(np.float32)
            self.residual = self.values - self.field * self.model
            self.weights = self.drawn * _robust_weights(self.residual)


def _step_matrix(parameters: Floats, centre: Floats) -> Floats:
    """Return the small motion of a rigid (6) or affine (12) step."""
    if len(parameters) == 6:
        turn = Rotation.from_rotvec(parameters[3:]).as_matrix()
    else:
        turn = np.eye(3) + parameters[3:].reshape(3, 3)
    return rigid_matrix(turn, parameters[:3], centre)


def _jacobian(scene: Scene, state: _State, signals: Floats, dof: int) -> Floats:
    """Return the change of the model with the step's parameters, shape (n, dof)."""
    slope = np.einsum("t,tnd->nd", signals.astype(np.float32), scene.slopes[:, state.inside])
    slope *= state.field[:, None]
    arm = (scene.points[state.inside] - scene.centre).astype(np.float32)
    if dof == 6:
        return np.concatenate([slope, np.cross(arm, slope)], axis=1)
    return np.concatenate([slope, (slope[:, :, None] * arm[:, None]).reshape(-1, 9)], axis=1)


def improve(
    scene: Scene, volume: Volume, start: Fit, dof: int = 6, steps: int = 12,
    weights: Floats | None = None,
) -> Fit:  # fmt: skip
    """Improve a pose by Gauss-Newton steps.

    Parameters
    ----------
    scene
        What the image should show.
    volume
        The image, blurred as the scene is.
    start
        Pose and signals to start from.
    dof
        6 for a rigid, 12 for an affine step.
    steps
        At most.
    weights
        Of the points, shape (n,); with them the signals stay as they are.

    Returns
    -------
    fit
        With its score at this scene.
    """
    fit = start
    for _ in range(steps):
        state = _State(scene, volume, fit, weights)
        if state.is_empty:
            break
        slopes = _jacobian(scene, state, fit.signals, dof)
        design = np.concatenate([slopes, state.fields * state.model[:, None]], axis=1)
        found = _solve(design, state.residual, state.weights)[:dof]
        move = _step_matrix(-found, scene.centre)
        size = displacement(move, np.eye(4), scene.centre)
        if size > LARGEST_STEP:
            move = _step_matrix(-found * LARGEST_STEP / size, scene.centre)
        signals = fit.signals
        if weights is None:
            signals = _bounded_signals(
                _solve((state.field * state.parts).T, state.values, state.weights)
            )
        fit = Fit(fit.transform @ move, signals)
        if size < STEADY:
            break
    return fit if weights is not None else replace(fit, score=score(scene, volume, fit))


def score(scene: Scene, volume: Volume, fit: Fit) -> float:
    """Return how much of the image the model explains that a smooth field does not.

    Parameters
    ----------
    scene, volume
        What the image should show, and the image.
    fit
        Pose and signals.

    Returns
    -------
    score
        ``sqrt(1 - S_model / S_field)``, S the sum of squares that field times model, and the field
        alone, leave over; in [0, 1], 0 where the image holds less than a quarter of the points.
    """
    state = _State(scene, volume, fit, None)
    if state.is_empty:
        return 0.0
    alone = state.fields @ _solve(state.fields, state.values, state.drawn).astype(np.float32)
    with_model = state.fields * state.model[:, None]
    fitted = with_model @ _solve(with_model, state.values, state.drawn).astype(np.float32)
    left, total = np.sum((state.values - fitted) ** 2), np.sum((state.values - alone) ** 2)
    return float(np.sqrt(max(0.0, 1 - left / total))) if total > 0 else 0.0


def find_poses(
    scenes: Sequence[Scene], volumes: Sequence[Volume], starts: Mapping[str, Floats], dof: int = 6
) -> dict[str, Fit]:
    """Fit the pose from several starts, from the coarsest to the finest level.

    Parameters
    ----------
    scenes, volumes
        From the finest to the coarsest.
    starts
        Poses by name, each of shape (4, 4) [mm, LPS].
    dof
        6 for a rigid pose; 12 for an affine one, which starts from the rigid one.

    Returns
    -------
    fits
        The best few by the name of their start, best first, their scores of the finest level.

    Raises
    ------
    ValueError
        If ``dof`` is neither 6 nor 12.
    """
    if dof not in (6, 12):
        raise ValueError(f"{dof} degrees of freedom; accepted: 6 (rigid), 12 (affine)")
    fits = {name: Fit(pose, SIGNALS) for name, pose in starts.items()}
    for level in reversed(range(len(scenes))):
        scene, volume = scenes[level], volumes[level]
        improved = {n: improve(scene, volume, f, steps=STEPS[level]) for n, f in fits.items()}
        fits = dict(sorted(improved.items(), key=lambda item: -item[1].score)[:KEPT])
    if dof == 12:
        fits = {n: improve(scenes[0], volumes[0], f, 12, STEPS[0]) for n, f in fits.items()}
    return dict(sorted(fits.items(), key=lambda item: -item[1].score))


def rated(scene: Scene, volume: Volume, transform: Floats) -> Fit:
    """Return a pose that was found elsewhere, with the signals and the score it has here.

    Parameters
    ----------
    scene, volume
        What the image should show, and the image.
    transform
        Points of the anatomy to points of the sodium image, shape (4, 4) [mm, LPS].
    """
    fit = Fit(transform, SIGNALS)
    for _ in range(3):
        state = _State(scene, volume, fit, None)
        if state.is_empty:
            break
        design = (state.field * state.parts).T
        fit = Fit(transform, _bounded_signals(_solve(design, state.values, state.weights)))
    return replace(fit, score=score(scene, volume, fit))


def choose(scores: Mapping[str, float], preferred: str) -> str:
    """Return the candidate to take: the best one, or a preferred one that scores nearly as well.

    Parameters
    ----------
    scores
        By name.
    preferred
        What the names of preferred candidates begin with: on simulated heads the fit is off by
        half as much as mutual information where their scores differ by 0.003.

    Returns
    -------
    name
        Of the best preferred candidate if it is within 0.01 of the best of all, else of that one.

    Examples
    --------
    >>> choose({"mi": 0.803, "fit": 0.8}, "fit"), choose({"mi": 0.9, "fit": 0.8}, "fit")
    ('fit', 'mi')
    """
    best = max(scores, key=lambda name: scores[name])
    good = [n for n in scores if n.startswith(preferred) and scores[n] >= scores[best] - TIE]
    return max(good, key=lambda name: scores[name], default=best)


def share_inside(scene: Scene, volume: Volume, transform: Floats) -> float:
    """Return the share of the scene that lies inside the image.

    Parameters
    ----------
    scene, volume
        What the image should show, and the image.
    transform
        Points of the anatomy to points of the sodium image, shape (4, 4) [mm, LPS].
    """
    moved = scene.points @ transform[:3, :3].T + transform[:3, 3]
    return float(volume.sample(moved)[1].mean())


def restart_distance(
    scene: Scene, volume: Volume, fit: Fit, rng: np.random.Generator, dof: int = 6
) -> float:
    """Return how far restarts on resampled data end from a pose.

    Every restart draws blocks of the brain anew (Bayesian bootstrap: exponential weights), the
    contrast of the tissues from its range, and where it starts. So it sees noise, errors of the
    segmentation, lesions, and what is assumed of the signals.

    Parameters
    ----------
    scene, volume
        What the image should show, and the image.
    fit
        The pose.
    rng
        Source of the draws.
    dof
        6 or 12.

    Returns
    -------
    distance
        Root mean square at the brain's surface [mm].

    References
    ----------
    Rubin 1981, doi:10.1214/aos/1176345338
    """
    squares = []
    for _ in range(REPLICATES):
        weights = rng.exponential(size=scene.blocks.max() + 1)[scene.blocks]
        move = np.concatenate([
            rng.normal(0, RESTART_SHIFT, 3), rng.normal(0, RESTART_TURN, 3)
        ])  # fmt: skip
        start = Fit(fit.transform @ _step_matrix(move, scene.centre), _draw_signals(rng, fit))
        found = improve(scene, volume, start, dof, 4, weights)
        squares.append(displacement(found.transform, fit.transform, scene.centre) ** 2)
    return float(np.sqrt(np.mean(squares)))


def _draw_signals(rng: np.random.Generator, fit: Fit) -> Floats:
    both, one, rest = np.exp(rng.normal(0, U_CONTRAST)), rng.normal(0, U_TISSUES), rng.uniform()
    fluid, grey, white, _ = fit.signals
    tissue = np.clip(both * np.array([grey * np.exp(one), white]), 0, 1 / LEAST_CONTRAST)
    return np.array([fluid, *tissue, rest * tissue.min()])


def registration_uncertainty(distance: float) -> tuple[float, float]:
    """Return the error of a pose that the distance of restarts stands for.

    Parameters
    ----------
    distance
        Of :func:`restart_distance` [mm].

    Returns
    -------
    standard, bound
        Root mean square at the brain's surface, and what the error stays under in 95 % of
        simulated cases [mm].

    Examples
    --------
    >>> standard, bound = registration_uncertainty(0.1)
    >>> standard < bound
    True
    """
    return STANDARD_FACTOR * distance, BOUND_FACTOR * distance


def registration_fails(score: float, bound: float) -> bool:
    """Tell whether a pose must not be trusted.

    Parameters
    ----------
    score
        Of the pose.
    bound
        Of its error [mm].

    Examples
    --------
    >>> registration_fails(0.9, 0.3), registration_fails(0.2, 0.3), registration_fails(0.9, 9.0)
    (False, True, True)
    """
    return not (score >= LEAST_SCORE and bound <= LARGEST_ERROR)
