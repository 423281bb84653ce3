"""The pose of a sodium image on a head of ellipsoids: field, lesion and field of view vary."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from sodiumprep.sodium.alignment import displacement, rotation_about
from sodiumprep.sodium.kernel import FWHM_TO_SIGMA
from sodiumprep.sodium.pose import (
    LEAST_CONTRAST,
    SIGNALS,
    Fit,
    Volume,
    build_scene,
    choose,
    find_poses,
    improve,
    rated,
    registration_fails,
    registration_uncertainty,
    restart_distance,
    score,
    share_inside,
    smooth_functions,
)

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE, FWHM = (54, 62, 52), 7.0
AFFINE = np.array([[2.0, 0, 0, -54], [0, 2.0, 0, -62], [0, 0, 2.0, -50], [0, 0, 0, 1]])
GRID = np.array([[4.0, 0, 0, -62], [0, 4.0, 0, -66], [0, 0, 4.0, -62], [0, 0, 0, 1]])
MATRIX = (32, 34, 32)
START = Fit(np.eye(4), SIGNALS)


def places(shape, affine):
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    return np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3, None, None, None]


def inside(centre, radii):
    away = (places(SHAPE, AFFINE) - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(
        radii, (3, 1, 1, 1)
    )
    return 1 / (1 + np.exp(10 * (np.linalg.norm(away, axis=0) - 1)))


def make_tissues():
    brain = inside((0, 2, 0), (36, 44, 34))
    folds = gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), 2.0)
    ventricles = inside((-8, 4, 3), (5, 17, 7)) + inside((9, -2, 4), (5, 14, 6))
    fluid = np.clip(
        ventricles + 0.8 * (folds > 0.02) * (1 - inside((0, 2, 0), (26, 34, 24))), 0, 1
    )
    white = inside((0, 2, 0), (22, 30, 20)) * (1 - fluid)
    return {"CSF": fluid * brain, "WM": white * brain, "GM": (1 - fluid - white) * brain}


TISSUES = make_tissues()
HEAD = inside((0, 2, 0), (45, 53, 43))
CONTENT = sum(
    signal * part
    for signal, part in zip(
        SIGNALS, (*(TISSUES[n] for n in ("CSF", "GM", "WM")), HEAD - sum(TISSUES.values())),
        strict=True,
    )
)  # fmt: skip
BLURRED = gaussian_filter(CONTENT, FWHM * FWHM_TO_SIGMA / 2.0)


def pose(degrees=6.0, shift=(4.0, -5.0, 3.0)):
    turned = rotation_about(np.zeros(3), 2, np.radians(degrees))
    turned[:3, 3] += shift
    return turned


TRUTH = pose()


def measure(truth=TRUTH, noise=0.02, content=BLURRED, grid=GRID, matrix=MATRIX):
    """Return the image of the head in a pose."""
    to_index = np.linalg.inv(AFFINE) @ FLIP @ np.linalg.inv(truth) @ FLIP
    moved = np.tensordot(to_index[:3, :3], places(matrix, grid), 1)
    image = map_coordinates(content, moved + to_index[:3, 3, None, None, None], order=3)
    return (image + np.random.default_rng(0).normal(0, noise, matrix)).astype(np.float32)


@pytest.fixture(scope="module")
def scenes():
    return [build_scene(TISSUES, HEAD, AFFINE, FWHM, level) for level in range(3)]


@pytest.fixture(scope="module")
def scene(scenes):
    return scenes[0]


def off(fit, truth=TRUTH):
    return displacement(fit.transform, truth, np.zeros(3))


def near(by=1.5):
    """Return a start not far from the truth: the last level alone does the rest."""
    moved = pose(1.0, (by, 0, 0))
    return Fit(TRUTH @ moved, SIGNALS)


def test_a_pose_is_found_from_where_nobody_would_start(scenes):
    volumes = [Volume.prepare(measure(), GRID, scene.blur) for scene in scenes]
    found = find_poses(scenes, volumes, {"far": np.eye(4), "near": near().transform})
    assert off(START) > 9
    assert all(off(fit) < 0.3 for fit in found.values())
    assert next(iter(found.values())).score == max(fit.score for fit in found.values()) > 0.8


def shading(factor):
    x, y, _ = places(MATRIX, GRID) / 60
    return np.exp(np.log(factor) * (0.5 * x + 0.4 * y**2 - 0.2 * x * y))


def test_a_receive_field_of_a_factor_of_four_moves_nothing(scene):
    image = measure(noise=0.01)
    plain, shaded = (
        improve(scene, Volume.prepare(i, GRID), near()) for i in (image, image * shading(4.0))
    )
    assert off(shaded, plain.transform) < 0.15
    assert shaded.score == pytest.approx(plain.score, abs=0.02)


def test_what_lies_outside_of_the_image_does_not_count(scene):
    image = measure()[:, :, 12:]
    grid = GRID.copy()
    grid[:3, 3] += 12 * GRID[:3, 2]
    found = improve(scene, Volume.prepare(image, grid), near())
    assert off(found) < 0.5
    whole = improve(scene, Volume.prepare(measure(), GRID), near())
    assert found.score == pytest.approx(whole.score, abs=0.06)


def test_bright_vials_eyes_and_lesions_do_not_pull(scene):
    extra = inside((20, 18, 8), (9, 9, 9)) * 0.6 + 1.5 * inside((30, 48, -26), (9, 9, 9))
    blurred = gaussian_filter(CONTENT + extra, FWHM * FWHM_TO_SIGMA / 2.0)
    found = improve(scene, Volume.prepare(measure(content=blurred), GRID), near())
    assert off(found) < 0.4


def test_an_image_elsewhere_explains_nothing(scene):
    volume = Volume.prepare(measure(), GRID)
    assert share_inside(scene, volume, TRUTH) == 1
    assert share_inside(scene, volume, pose(0.0, (300, 0, 0))) == 0
    assert rated(scene, volume, pose(0.0, (300, 0, 0))).score == 0
    assert improve(scene, volume, Fit(pose(0.0, (300, 0, 0)), SIGNALS)).score == 0


def test_the_farther_off_the_lower_the_score(scene):
    volume = Volume.prepare(measure(), GRID)
    scores = [rated(scene, volume, TRUTH @ pose(0.0, (s, 0, 0))).score for s in (0, 3, 6, 12)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.8 > 0.6 > scores[2]


def test_a_smooth_image_without_anatomy_has_no_score(scene):
    volume = Volume.prepare(shading(4.0).astype(np.float32), GRID)
    assert score(scene, volume, Fit(TRUTH, SIGNALS)) < 0.2


def test_a_rigid_step_keeps_lengths_and_an_affine_one_finds_a_scale(scene):
    scale = np.diag([1.04, 0.97, 1.0, 1.0])
    volume = Volume.prepare(measure(TRUTH @ scale, noise=0.01), GRID)
    rigid, affine = (improve(scene, volume, near(), dof) for dof in (6, 12))
    turn = rigid.transform[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    assert off(affine, TRUTH @ scale) < 0.6 < off(rigid, TRUTH @ scale)


def test_no_other_number_of_freedoms_is_accepted():
    with pytest.raises(ValueError, match="9 degrees of freedom; accepted: 6"):
        find_poses([], [], {}, 9)


def test_fractions_without_a_brain_are_refused():
    nothing = {name: np.zeros((5, 5, 5)) for name in TISSUES}
    with pytest.raises(ValueError, match="no brain"):
        build_scene(nothing, np.ones((5, 5, 5)), np.eye(4), FWHM)


def test_a_contrast_that_no_head_has_is_not_taken(scene):
    upside_down = Volume.prepare(1.3 - measure(), GRID)
    fluid, grey, white, rest = rated(scene, upside_down, TRUTH).signals
    assert fluid == 1
    assert 0 <= rest <= max(grey, white)
    assert (grey + white) / 2 <= 1 / LEAST_CONTRAST + 1e-9


@pytest.fixture
def few_restarts(monkeypatch):
    monkeypatch.setattr("sodiumprep.sodium.pose.REPLICATES", 4)


def distance(scene, image, transform, seed=0):
    volume = Volume.prepare(image, GRID)
    return restart_distance(
        scene, volume, rated(scene, volume, transform), np.random.default_rng(seed)
    )


@pytest.mark.usefixtures("few_restarts")
def test_restarts_repeat_with_their_seed_and_end_farther_apart_in_noise(scene):
    quiet, noisy = measure(noise=0.01), measure(noise=0.3)
    first = distance(scene, quiet, TRUTH)
    assert first == distance(scene, quiet, TRUTH)
    assert first != distance(scene, quiet, TRUTH, seed=1)
    assert 2 * first < distance(scene, noisy, TRUTH)


@pytest.mark.usefixtures("few_restarts")
def test_restarts_see_that_a_pose_is_off(scene):
    assert distance(scene, measure(), TRUTH @ pose(0.0, (3, 0, 0))) > 2.5


def test_the_bound_is_wider_than_the_standard_error():
    standard, bound = registration_uncertainty(0.4)
    assert 0 < standard < bound


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [({"fit a": 0.80, "fit b": 0.81, "mi": 0.815}, "fit b"), ({"fit": 0.80, "mi": 0.83}, "mi"),
     ({"mi": 0.2, "header": 0.3}, "header")],
)  # fmt: skip
def test_the_fit_wins_a_tie_and_nothing_more(scores, chosen):
    assert choose(scores, "fit") == chosen


@pytest.mark.parametrize(
    ("value", "bound", "fails"),
    [(0.9, 0.3, False), (0.1, 0.3, True), (0.9, 9.0, True), (np.nan, 0.3, True),
     (0.9, np.nan, True)],
)  # fmt: skip
def test_a_low_score_or_a_wide_bound_fails(value, bound, fails):
    assert registration_fails(value, bound) is fails


def test_smooth_functions_begin_with_the_constant_and_count_as_they_should():
    points = np.random.default_rng(0).normal(size=(50, 3))
    functions = smooth_functions(points)
    assert functions.shape == (50, 35)
    np.testing.assert_allclose(functions[:, 0], 1)
    assert np.linalg.matrix_rank(functions) == 35


def test_the_slopes_of_a_scene_are_those_of_its_parts(scene):
    step = 1.0
    grid = np.linalg.inv(FLIP @ AFFINE)
    blurred = gaussian_filter(TISSUES["CSF"].astype(np.float32), FWHM * FWHM_TO_SIGMA / 2.0)
    for axis in range(3):
        moved = [scene.points + s * np.eye(3)[axis] for s in (step, -step)]
        ends = [
            map_coordinates(blurred, (p @ grid[:3, :3].T + grid[:3, 3]).T, order=3) for p in moved
        ]
        np.testing.assert_allclose(scene.slopes[0, :, axis], (ends[0] - ends[1]) / 2, atol=0.01)
