"""Eyes are found where heads have them, whatever the pose, and nothing else is taken for them."""

from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from sodiumprep.bids_app.phantom import load_template
from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.eyes import (
    Eye,
    EyeImages,
    EyeSearch,
    Placed,
    RadialTransfer,
    eye_regions,
    find_eyes,
    head_frame,
    implausible,
    mixed,
    radial_transfer,
)
from sodiumprep.sodium.kernel import frequency_axes, gaussian_transfer
from sodiumprep.sodium.phantom_anatomy import build_head, draw_anatomy
from sodiumprep.sodium.phantom_content import CONCENTRATIONS, sodium_content
from sodiumprep.sodium.phantom_placement import draw_rigid
from sodiumprep.sodium.phantom_t1w import draw_contrast, t1_weighted
from sodiumprep.sodium.regions import blur_to_grid, fine_affine

VOXEL, N, FINE = 5.0, 44, 3
EYES = np.array([[-32.0, 84.0, -40.0], [32.0, 84.0, -40.0]])  # before the brain's centre [mm]
RADIUS = 11.5
SPHERE = Geometry(np.zeros(3), np.eye(3), (N * VOXEL * 1e-3,) * 3, (N, N, N))


def transfer_of_sphere():
    """Return the kernel of uniformly sampled k-space: it has side lobes."""
    axes = np.meshgrid(*frequency_axes(SPHERE), indexing="ij", sparse=True)
    return (np.sqrt(sum(a**2 for a in axes)) <= 0.5 / (VOXEL * 1e-3)).astype(np.complex64)


def turned(angles, shift=(0.0, 0.0, 0.0)):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    pose[:3, 3] = shift
    return pose


class Cartoon:
    """A head of ellipsoids, painted on a fine grid and blurred with side lobes.

    The brain is no ellipsoid of revolution; there are fat orbits, lenses, muscle behind the eyes,
    and whatever a test adds, in millimetres before the brain's centre.
    """

    def __init__(self, pose=None, eyes=EYES, extra=()):
        self.pose = np.eye(4) if pose is None else pose
        affine = VOXEL * np.eye(4)
        affine[:3, 3], affine[3, 3] = -VOXEL * N / 2 + np.array([0.0, 25.0, -15.0]), 1
        fine = fine_affine(affine, FINE)
        index = np.indices((N * FINE,) * 3).reshape(3, -1).T
        back = np.linalg.inv(self.pose) @ fine
        self.places = (index @ back[:3, :3].T + back[:3, 3]).astype(np.float32)
        brain = self.ball((0, 0, 0), (66, 84, 60)) | self.ball((0, -45, -45), (45, 35, 30))
        head = self.ball((0, 0, 5), (78, 97, 78)) | self.ball((0, 55, -55), (58, 47, 60))
        sodium = 28.0 * head
        sodium[brain] = 55.0
        sodium[self.ball((0, 0, 10), (22, 35, 14))] = 140.0
        for centre in eyes:
            sodium[self.ball(np.add(centre, [0, -4, 0]), (19, 20, 19)) & ~brain] = 12.0
            sodium[self.ball(np.add(centre, [0, -18, 0]), (5, 9, 5))] = 35.0
            sodium[self.ball(centre, (RADIUS,) * 3)] = 138.0
            sodium[self.ball(np.add(centre, [0, 6.3, 0]), (4.4, 2.1, 4.4))] = 20.0
        for centre, radii, value in extra:
            sodium[self.ball(centre, radii)] = value
        proton = 0.6 * head + 0.4 * brain
        for centre in eyes:
            proton[self.ball(np.add(centre, [0, -4, 0]), (19, 20, 19)) & ~brain] = 1.2
            proton[self.ball(centre, (RADIUS + 1,) * 3)] = 0.15
        shape = (N * FINE,) * 3
        rng = np.random.default_rng(5)
        kernel = transfer_of_sphere()
        image = blur_to_grid(sodium.reshape(shape).astype(np.float32), FINE, kernel)
        image = image + rng.normal(0, 3.0, image.shape)
        grainy = proton.reshape(shape) + rng.normal(0, 0.05, shape)
        self.images = EyeImages(
            Placed(image.astype(np.float32), affine),
            Placed(grainy.astype(np.float32), fine),
            Placed(brain.reshape(shape).astype(np.float32), fine),
            Placed(head.reshape(shape).astype(np.float32), fine),
            radial_transfer(kernel, np.full(3, VOXEL)),
            1.59 * VOXEL,
        )

    def ball(self, centre, radii):
        inside = np.zeros(len(self.places), bool)
        along = (self.places[:, 1] - centre[1]) / radii[1]
        near = np.flatnonzero(np.abs(along) <= 1)
        away = (self.places[near] - np.asarray(centre, np.float32)) / np.asarray(radii, np.float32)
        inside[near] = (away**2).sum(axis=1) <= 1
        return inside

    def where(self, places):
        return np.asarray(places) @ self.pose[:3, :3].T + self.pose[:3, 3]


@cache
def plain_head():
    return Cartoon()


POSES = [
    turned([0, 0, 0]),
    turned([15, 8, -12], (6, -8, 5)),
    turned([-14, -12, 15], (-9, 4, 8)),
]


@pytest.mark.parametrize("pose", POSES)
def test_eyes_of_a_painted_head_are_found_in_any_pose(pose):
    head = Cartoon(pose)
    found = find_eyes(head.images)
    assert found.reason == ""
    for eye, place in zip(found.eyes, head.where(EYES), strict=True):
        assert np.linalg.norm(eye.centre - place) < 1.0
        assert eye.radius == pytest.approx(RADIUS, abs=0.4)
        assert eye.level == pytest.approx(138.0, rel=0.06)
        assert eye.contrast < 0.35
    assert found.forward @ head.pose[:3, 1] > np.cos(np.deg2rad(30))


def test_a_receive_profile_that_is_left_does_not_hide_the_eyes():
    head = Cartoon(POSES[1])
    y = head.images.sodium.affine[1, 3] + VOXEL * np.arange(N)
    head.images.sodium.values[...] *= np.exp(y / 150.0)[None, :, None]
    found = find_eyes(head.images)
    for eye, place in zip(found.eyes, head.where(EYES), strict=True):
        assert np.linalg.norm(eye.centre - place) < 1.2


TUBES = [((x, 104.0, 12.0), (9, 9, 30), 150.0) for x in (-28.0, 28.0)]
BALLS = [((x, 110.0, 2.0), (11, 11, 11), 200.0) for x in (-32.0, 32.0)]


def test_what_stands_before_the_forehead_is_not_taken_for_eyes():
    beside = [*TUBES, *BALLS]
    head = Cartoon(POSES[1], extra=beside)
    found = find_eyes(head.images)
    for eye, place in zip(found.eyes, head.where(EYES), strict=True):
        assert np.linalg.norm(eye.centre - place) < 1.2
    assert len(found.eyes) == 2
    without = Cartoon(POSES[1], eyes=EYES[:0], extra=beside)
    assert find_eyes(without.images).eyes == ()


@pytest.mark.parametrize(("kept", "missing"), [(EYES[:0], "left and right"), (EYES[:1], "right")])
def test_without_both_eyes_there_are_none_and_the_missing_side_is_named(kept, missing):
    found = find_eyes(Cartoon(eyes=kept).images)
    assert found.eyes == ()
    assert f"no eye was found on the {missing}:" in found.reason
    assert "at least 0.6" in found.reason


def test_eyes_that_lie_unlike_those_of_a_head_are_no_pair():
    crooked = EYES + np.array([[0.0, 0.0, 12.0], [0.0, 0.0, -12.0]])
    found = find_eyes(Cartoon(eyes=crooked).images)
    assert found.eyes == ()
    assert "symmetric within 12 mm" in found.reason


def test_a_field_of_view_without_the_eyes_gives_none():
    images = plain_head().images
    cut = images.sodium.values[:, : N // 2 + 8]
    found = find_eyes(
        EyeImages(Placed(cut, images.sodium.affine), images.proton, images.brain, images.head,
                  images.transfer, images.fwhm)
    )  # fmt: skip
    assert found.eyes == ()
    assert "left none, right none" in found.reason


def test_balls_that_are_mixed_in_the_1h_image_are_no_eyes():
    images = plain_head().images
    noise = np.random.default_rng(1).normal(1, 0.5, images.proton.values.shape)
    grainy = ndimage.gaussian_filter(noise, 1.0).astype(np.float32)
    found = find_eyes(
        EyeImages(images.sodium, Placed(grainy, images.proton.affine), images.brain, images.head,
                  images.transfer, images.fwhm)
    )  # fmt: skip
    assert found.eyes == ()
    assert "the 1H image is as mixed inside the left eye" in found.reason


PAIR = [Eye(place, 11.0, 0.95, 100.0, 0.2) for place in EYES]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"score": float("nan")}, "not a ball: correlation nan"),
     ({"radius": 15.0}, "radius of the right eye is 15.0 mm"),
     ({"contrast": 0.8}, "surroundings of the right eye have 0.80"),
     ({"level": 200.0}, "2.00 times as bright"),
     ({"centre": np.array([60.0, 84.0, -40.0])}, "92 mm apart")],
)  # fmt: skip
def test_an_implausible_eye_is_refused_with_its_number(change, words):
    assert implausible(PAIR) == ""
    assert words in implausible([PAIR[0], Eye(**{**vars(PAIR[1]), **change})])


@pytest.mark.parametrize("angles", [(0, 15, 20), (18, -14, -18)])
def test_the_frame_of_a_head_turns_with_it(angles):
    pose = turned(angles, (7.0, -3.0, 4.0))
    frame = head_frame(Cartoon(pose).images.brain)
    np.testing.assert_allclose(frame[:3, :3] @ frame[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(frame[:3, :3]) == pytest.approx(1.0)
    assert np.rad2deg(np.arccos(frame[:3, 0] @ pose[:3, 0])) < 2.0
    off_plane = (frame[:3, 3] - pose[:3, 3]) @ pose[:3, 0]
    assert abs(off_plane) < 1.0


@pytest.mark.parametrize("radius", [9.0, 12.0])
@pytest.mark.parametrize(
    ("kernel", "tolerance"),
    [(transfer_of_sphere(), 0.03), (gaussian_transfer(SPHERE, np.full(3, 0.014)), 0.004)],
    ids=["sphere", "gaussian"],
)
def test_a_blurred_ball_is_that_of_a_blur_on_a_fine_grid(radius, kernel, tolerance):
    fine = fine_affine(np.diag([VOXEL] * 3 + [1.0]), FINE)
    index = np.indices((N * FINE,) * 3)
    distance = np.sqrt(
        sum((fine[a, a] * index[a] + fine[a, 3] - VOXEL * N / 2) ** 2 for a in range(3))
    )
    sharp = np.clip((radius - distance) / fine[0, 0] + 0.5, 0, 1).astype(np.float32)
    shown = blur_to_grid(sharp, FINE, kernel)[N // 2, N // 2]
    away = VOXEL * np.abs(np.arange(N) - N // 2)
    expected = radial_transfer(kernel, np.full(3, VOXEL)).blurred_ball(away, radius)
    np.testing.assert_allclose(shown, expected, atol=tolerance)


def test_a_radial_transfer_is_that_of_its_function():
    fwhm = 7.0
    radial = radial_transfer(gaussian_transfer(SPHERE, np.full(3, fwhm * 1e-3)), np.full(3, VOXEL))
    sigma = fwhm / np.sqrt(8 * np.log(2))
    expected = np.exp(-2 * (np.pi * sigma * radial.frequencies) ** 2)
    np.testing.assert_allclose(radial.values, expected, atol=0.01)


def test_without_blur_a_ball_is_one_inside_and_nothing_outside():
    sharp = RadialTransfer(np.linspace(0, 2.0, 2000), np.ones(2000))
    shown = sharp.blurred_ball(np.array([2.0, 6.0, 14.0, 20.0]), 10.0)
    np.testing.assert_allclose(shown, [1, 1, 0, 0], atol=0.03)


def two_eyes():
    eyes = tuple(Eye(place, 11.0, 0.9, 1.0, 0.2) for place in EYES)
    return EyeSearch(eyes, np.array([0.0, 1.0, 0.0]))


def test_the_vitreous_is_two_balls_without_their_lenses():
    affine = np.diag([1.2] * 3 + [1.0])
    affine[:3, 3] = [-60.0, 40.0, -70.0]
    vitreous, orbit = eye_regions(two_eyes(), affine, (100, 60, 50))
    scale = 11.0 / 12.0
    lens = 4 / 3 * np.pi * 2.2 * 4.6**2 * scale**3
    expected = 2 * (4 / 3 * np.pi * 11.0**3 - lens)
    assert vitreous.sum() * 1.2**3 == pytest.approx(expected, rel=0.01)
    whole = 2 * 4 / 3 * np.pi * (11.0 + 7.0) ** 3
    assert (vitreous + orbit).sum() * 1.2**3 == pytest.approx(whole, rel=0.01)
    assert (vitreous + orbit).max() <= 1 + 1e-6
    in_lens = np.linalg.inv(affine) @ [*(EYES[0] + [0, 6.5 * scale, 0]), 1]
    assert vitreous[tuple(np.rint(in_lens[:3]).astype(int))] < 0.1


def test_regions_of_eyes_end_with_the_grid():
    affine = np.diag([1.2] * 3 + [1.0])
    affine[:3, 3] = [-60.0, 40.0, -70.0]
    whole, _ = eye_regions(two_eyes(), affine, (100, 60, 50))
    part, _ = eye_regions(two_eyes(), affine, (100, 36, 50))  # through the middle of both
    np.testing.assert_array_equal(part, whole[:, :36])
    far = affine.copy()
    far[0, 3] = 400.0
    assert not any(region.any() for region in eye_regions(two_eyes(), far, (20, 20, 20)))


def test_a_homogeneous_ball_is_hardly_mixed_and_noise_is_mixed_everywhere():
    head = plain_head()
    eye = Eye(EYES[0], RADIUS, 0.9, 1.0, 0.2)
    assert mixed(head.images.proton, eye) < 0.3
    noise = np.random.default_rng(0).normal(size=head.images.proton.values.shape)
    assert mixed(Placed(noise, head.images.proton.affine), eye) == pytest.approx(1, abs=0.1)
    blank = Placed(np.zeros((40, 40, 40)), np.eye(4))
    assert np.isnan(mixed(blank, Eye(np.full(3, 20.0), RADIUS, 0.9, 1.0, 0.2)))


@cache
def template():
    return load_template()


def subject(seed, angle):
    """Return images of a simulated subject turned by up to an angle, and its eyes' centroids."""
    rng = np.random.default_rng(seed)
    shape, affine = (96, 116, 110), np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-96, -126, -118]
    pose = draw_rigid(rng, angle, 6.0, np.array([0.0, -18, 6]))
    own = np.linalg.inv(pose) @ affine
    head = build_head(template(), draw_anatomy(rng), shape, own)
    content = sodium_content(rng, head, CONCENTRATIONS).sum(axis=0)
    turn = turned(rng.uniform(-8, 8, 3))
    sodium = turn @ np.diag([VOXEL] * 3 + [1.0])
    sodium[:3, 3] = [0, -10, -8] - sodium[:3, :3] @ np.full(3, N / 2)
    fine = Placed(content, affine).on(fine_affine(sodium, FINE), (N * FINE,) * 3)
    kernel = transfer_of_sphere()
    image = blur_to_grid(fine, FINE, kernel) + rng.normal(0, 2.0, (N, N, N))
    proton = t1_weighted(head, draw_contrast(rng)) + 0.03 * rng.standard_normal(shape)
    masks = (head.brain > 0.5, head.shares.sum(axis=0) > 0.5)
    images = EyeImages(
        Placed(image.astype(np.float32), sodium), Placed(proton, affine),
        *(Placed(mask.astype(np.float32), affine) for mask in masks),
        radial_transfer(kernel, np.full(3, VOXEL)), 1.59 * VOXEL,
    )  # fmt: skip
    index = np.argwhere(head.fractions["fluid"] > 0.05)
    weights = head.fractions["fluid"][tuple(index.T)]
    there, here = (index @ a[:3, :3].T + a[:3, 3] for a in (own, affine))
    sides = [(there[:, 0] * side > 5) & (there[:, 1] > 20) for side in (-1, 1)]
    return images, [np.average(here[s], axis=0, weights=weights[s]) for s in sides]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_eyes_of_simulated_subjects_are_found_in_random_poses(seed):
    images, centroids = subject(seed, angle=20.0)
    found = find_eyes(images)
    assert found.reason == ""
    for eye, place in zip(found.eyes, centroids, strict=True):
        print(f"seed {seed}: {np.linalg.norm(eye.centre - place):.2f} mm off, {eye}")
        assert np.linalg.norm(eye.centre - place) < 1.0
        assert eye.level == pytest.approx(CONCENTRATIONS["fluid"], rel=0.06)
