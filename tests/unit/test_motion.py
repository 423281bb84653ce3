"""Motion of a head of ellipsoids, whose k-space in every pose is known in closed form."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Acquisition, Geometry, split_repetitions
from sodiumprep.sodium.density import radial_weights
from sodiumprep.sodium.ellipsoids import ellipsoid_head, ellipsoid_kspace
from sodiumprep.sodium.encoding import adjoint
from sodiumprep.sodium.motion import (
    RigidMotion,
    align_repetitions,
    apply_to_kspace,
    average_blocks,
    block_phase,
    choose_reference,
    estimate_motion,
    head_mask,
    in_phase,
    misfits,
    outliers,
)
from sodiumprep.sodium.trajectory import density_adapted_radial

FOV, N = 0.216, 27  # m, voxels of 8 mm
GEOMETRY = Geometry(np.array([5.0, -7.0, 30.0]), np.eye(3), (FOV,) * 3, (N,) * 3)
SPOKES = density_adapted_radial(800, 48, 0.5 * N / FOV, k0_fraction=0.5)
WEIGHTS = radial_weights(SPOKES)
STILL = ellipsoid_kspace(ellipsoid_head(np.full(3, FOV)), SPOKES)[None]
GREY = 0.42  # density of the brain of the phantom
MOTIONS = [
    RigidMotion(),
    RigidMotion(np.radians([6.0, -4.0, 5.0]), np.array([4.0, -7.0, 3.0])),
    RigidMotion(np.radians([-3.0, 7.0, -6.0]), np.array([-6.0, 2.0, 8.0])),
    RigidMotion(np.radians([1.0, 0.5, -2.0]), np.array([0.5, 1.0, -2.0])),
]
POINTS = 70.0 * np.concatenate([np.eye(3), -np.eye(3)])  # mm


def moved_samples(motion):
    """Return the head's samples in another pose, on the same trajectory."""
    head, k = ellipsoid_head(np.full(3, FOV)), SPOKES.astype(float)
    shift = np.exp(-2j * np.pi * (k @ (motion.translation * 1e-3)))
    return (ellipsoid_kspace(head, k @ motion.matrix) * shift)[None].astype(np.complex64)


POSES = np.stack([moved_samples(motion) for motion in MOTIONS])


def noise(seed, snr, shape):
    """Return noise that gives grey matter an SNR in the image of one block."""
    rng = np.random.default_rng(seed)
    sd = GREY / snr / np.sqrt(np.sum(WEIGHTS.astype(float) ** 2))
    return sd * (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def repeated(blocks, labels=None):
    """Return the acquisition of several blocks of the same trajectory."""
    labels = range(len(blocks)) if labels is None else labels
    return Acquisition(
        np.concatenate(blocks, axis=1), np.concatenate([SPOKES] * len(blocks)), 1e-4, 3e-4, 0.12,
        np.pi / 2, 3.0, GEOMETRY, repetition=np.repeat(list(labels), len(SPOKES)),
    )  # fmt: skip


def grid(samples, trajectory=SPOKES):
    return adjoint(samples * radial_weights(trajectory), trajectory, GEOMETRY)


def apart(first, second):
    return (first.inverse() @ second).displacement(POINTS)


@pytest.fixture(scope="module")
def noisy():
    """Four blocks in four poses and phases, at an SNR of 10."""
    turned = np.exp(1j * np.array([0.3, 2.0, -2.5, 1.0]))[:, None, None, None]
    return repeated(list((POSES + noise(1, 10, POSES.shape)) * turned))


@pytest.fixture(scope="module")
def aligned(noisy):
    return align_repetitions(noisy, reference=0)


@pytest.mark.parametrize("motion", MOTIONS[1:])
def test_a_motion_and_its_inverse_are_the_identity(motion):
    np.testing.assert_allclose((motion @ motion.inverse()).apply(POINTS), POINTS, atol=1e-9)
    np.testing.assert_allclose((motion.inverse() @ motion).apply(POINTS), POINTS, atol=1e-9)


def test_composed_motions_act_one_after_the_other():
    first, second = MOTIONS[1:3]
    np.testing.assert_allclose(
        (second @ first).apply(POINTS), second.apply(first.apply(POINTS)), atol=1e-9
    )


def test_the_displacement_of_a_shift_is_its_length():
    assert RigidMotion(translation=np.array([3.0, 4, 0])).displacement(POINTS) == pytest.approx(5)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_motion_in_kspace_is_motion_of_the_object(number):
    motion = MOTIONS[number]
    samples, trajectory = apply_to_kspace(STILL, SPOKES, motion)
    turned = ellipsoid_kspace(
        ellipsoid_head(np.full(3, FOV)), trajectory.astype(float) @ motion.matrix
    )
    shift = np.exp(-2j * np.pi * (trajectory.astype(float) @ (motion.translation * 1e-3)))
    assert np.abs(samples[0] - turned * shift).max() < 1e-5 * np.abs(STILL).max()


def test_motion_in_kspace_keeps_types_and_is_undone_by_its_inverse():
    samples, trajectory = apply_to_kspace(STILL, SPOKES, MOTIONS[1])
    back, spokes = apply_to_kspace(samples, trajectory, MOTIONS[1].inverse())
    assert (back.dtype, spokes.dtype) == (np.complex64, np.float32)
    np.testing.assert_allclose(spokes, SPOKES, atol=1e-4)
    assert np.abs(back - STILL).max() < 1e-5 * np.abs(STILL).max()


def test_equal_images_did_not_move():
    image = grid(STILL)[0]
    found = estimate_motion(np.stack([image, 1j * image]), GEOMETRY.voxel_size)
    assert found[1].displacement < 1e-3
    assert found[1].similarity > 0.9999
    assert [f.reference for f in found] == [True, False]


def test_a_motion_without_noise_is_found_in_full():
    images = np.stack([grid(samples)[0] for samples in POSES])
    for found, motion in zip(
        estimate_motion(images, GEOMETRY.voxel_size, 0), MOTIONS, strict=True
    ):
        assert apart(motion, found.motion) < 0.15  # mm, a fiftieth of a voxel


def test_a_motion_between_noisy_repetitions_is_found(aligned):
    _, found = aligned
    error = [apart(motion, f.motion) for motion, f in zip(MOTIONS, found, strict=True)]
    assert np.sqrt(np.mean(np.square(error))) < 0.9  # mm, a ninth of a voxel
    assert found[1].displacement == pytest.approx(MOTIONS[1].displacement(POINTS), abs=2.0)


def test_the_uncertainty_of_a_displacement_is_that_of_repeated_noise():
    image = np.stack([in_phase(grid(samples)) for samples in POSES[:2]])
    ratios = []
    for seed in range(4):
        extra = np.stack([grid(n).real[0] for n in noise(seed, 10, (2, 1, *SPOKES.shape[:2]))])
        found = estimate_motion(image + extra, GEOMETRY.voxel_size, 0)[1]
        ratios.append(apart(MOTIONS[1], found.motion) / found.displacement_sd)
    assert 0.5 < np.sqrt(np.mean(np.square(ratios))) < 2


def test_the_corrected_average_is_the_still_head_within_noise(aligned):
    corrected, _ = aligned
    image = grid(corrected.samples, corrected.trajectory)[0]
    truth = grid(STILL)[0]
    mask = head_mask(truth.real, GEOMETRY.voxel_size)
    turn = np.exp(-1j * np.angle(np.vdot(truth, image)))
    error = np.abs((image * turn - truth)[mask])
    assert np.sqrt(np.mean(error**2)) < 1.5 * np.sqrt(2) * GREY / 10 / 2  # half of one block's


def test_the_radial_weights_of_turned_spokes_side_by_side_are_right(aligned):
    corrected, _ = aligned
    joint = radial_weights(corrected.trajectory)
    np.testing.assert_allclose(joint, np.concatenate([WEIGHTS / 4] * 4), rtol=1e-3, atol=1e-3)


def test_the_phase_of_every_repetition_becomes_that_of_the_reference(aligned):
    _, found = aligned
    phases = [f.phase for f in found]
    np.testing.assert_allclose(phases, np.array([0, 1.7, -2.8, 0.7]), atol=0.02)


def test_the_order_of_repetitions_does_not_matter(noisy, aligned):
    blocks = [b.samples for b in split_repetitions(noisy)]
    order = [2, 0, 3, 1]
    _, found = align_repetitions(repeated([blocks[i] for i in order]), reference=1)
    for place, number in enumerate(order):
        assert apart(found[place].motion, aligned[1][number].motion) < 1e-3
        assert found[place].misfit == pytest.approx(aligned[1][number].misfit, rel=0.02)


def test_a_single_repetition_is_left_alone(noisy):
    single = split_repetitions(noisy)[0]
    corrected, found = align_repetitions(single)
    assert corrected is single
    assert found == ()


def corrupted_within(block):
    """Let the head move in the middle of a block."""
    half = len(SPOKES) // 2
    mixed = block.copy()
    mixed[:, ::2] = POSES[2][:, ::2] * np.exp(2j)
    mixed[:, :half] = block[:, :half]
    return mixed


def corrupted_by_a_spike(block):
    spiked = block.copy()
    spiked[0, 300, 30] += 4000 * np.abs(STILL[0, :, 30]).max()
    return spiked


@pytest.mark.parametrize("corrupt", [corrupted_within, corrupted_by_a_spike])
def test_a_bad_repetition_is_named_and_left_out(corrupt):
    blocks = list(POSES[[0, 3, 0]] + noise(2, 10, POSES[:3].shape))
    blocks[1] = corrupt(blocks[1])
    corrected, found = align_repetitions(repeated(blocks, labels=[3, 4, 7]))
    assert [f.block for f in found if f.rejected] == [4]
    assert "robust SDs above" in found[1].reason
    assert found[1].describe()["rejected"] == found[1].reason
    assert np.unique(corrected.repetition).tolist() == [3, 7]


def test_a_block_without_signal_is_an_outlier():
    images = np.stack([grid(POSES[0])[0]] * 4)
    images[2] = 0
    found = misfits(images, head_mask(images[0].real, GEOMETRY.voxel_size))
    assert found[2] == np.inf
    reasons = outliers(found, np.ones(4), np.zeros(4))
    assert [bool(reason) for reason in reasons] == [False, False, True, False]


def test_good_repetitions_are_all_kept(aligned):
    corrected, found = aligned
    assert not any(f.rejected for f in found)
    assert corrected.samples.shape[1] == 4 * len(SPOKES)


@pytest.fixture
def broken_off():
    """Two repetitions, the second without its last quarter."""
    both = repeated(list(POSES[:2]))
    kept = slice(0, -200)
    return replace(
        both, samples=both.samples[:, kept], trajectory=both.trajectory[kept],
        repetition=both.repetition[kept],
    )  # fmt: skip


def test_a_repetition_that_was_broken_off_is_left_out(broken_off):
    corrected, found = align_repetitions(broken_off)
    assert found[1].reason == "it was broken off after 600 of 800 readouts (limit 90%)"
    assert found[1].describe()["displacement_mm"] is None
    np.testing.assert_array_equal(corrected.samples, STILL)


def test_a_repetition_that_was_broken_off_is_no_reference(broken_off):
    with pytest.raises(ValueError, match="repetition 1 is no reference: it was broken off"):
        align_repetitions(broken_off, reference=1)


def test_images_that_are_no_numbers_are_named():
    images = np.ones((3, 8, 8, 8))
    images[1, 2, 2, 2] = np.nan
    with pytest.raises(ValueError, match="block 1 holds NaN"):
        estimate_motion(images, GEOMETRY.voxel_size)


def test_an_empty_image_shows_no_head():
    with pytest.raises(ValueError, match="no head in an image whose 98th percentile is 0"):
        head_mask(np.zeros((8, 8, 8)), GEOMETRY.voxel_size)


def test_what_lies_beside_the_head_is_not_in_its_mask():
    image = grid(STILL)[0].real.copy()
    image[1:4, 1:4, 1:4] = 1.0
    mask = head_mask(image, GEOMETRY.voxel_size)
    assert not mask[1:4, 1:4, 1:4].any()
    assert mask[N // 2, N // 2, N // 2]


def test_a_bright_vial_that_stays_does_not_pull_the_motion():
    images = np.stack([grid(POSES[0])[0].real, grid(POSES[2])[0].real])
    free = estimate_motion(images, GEOMETRY.voxel_size, 0)[1]
    images[:, :2, :2, 8:20] += 3 * images.max()
    beside = estimate_motion(images, GEOMETRY.voxel_size, 0)[1]
    assert apart(beside.motion, free.motion) < 0.2  # mm


def test_the_reference_is_like_the_others():
    images = np.stack([in_phase(grid(POSES[i])) for i in (2, 0, 3, 0)])
    assert choose_reference(images) in (1, 3)


def test_a_hopeless_pose_is_rejected():
    reasons = outliers(np.full(3, 0.1), np.array([1.0, 0.5, 0.9]), np.array([0.0, 35.0, 35.0]))
    assert [bool(reason) for reason in reasons] == [False, True, False]
    assert "displacement 35.0 mm" in reasons[1]


def test_two_blocks_cannot_tell_which_is_bad():
    images = np.stack([grid(POSES[0])[0], grid(corrupted_by_a_spike(POSES[0]))[0]])
    found = misfits(images, head_mask(images[0].real, GEOMETRY.voxel_size))
    assert outliers(found, np.ones(2), np.zeros(2)) == ["", ""]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_smooth_phase_between_blocks_is_found(order):
    image = grid(STILL)[0]
    axis = np.linspace(-1, 1, N)
    phase = 0.8 + (order > 0) * 0.5 * axis[:, None, None] + (order > 1) * 0.4 * axis**2
    turned = image * np.exp(1j * np.broadcast_to(phase, image.shape))
    mask = head_mask(image.real, GEOMETRY.voxel_size)
    found = block_phase(turned, image, mask, order)
    np.testing.assert_allclose(found[mask], np.broadcast_to(phase, image.shape)[mask], atol=1e-3)


def test_the_average_of_blocks_is_in_phase_and_weighted():
    image = grid(STILL)[0]
    blocks = np.stack([image, 2 * image * np.exp(2j)])
    mask = head_mask(image.real, GEOMETRY.voxel_size)
    np.testing.assert_allclose(average_blocks(blocks, mask), 1.5 * image, atol=1e-4)
    weighted = average_blocks(blocks, mask, variances=np.array([1.0, 3.0]))
    np.testing.assert_allclose(weighted, 1.25 * image, atol=1e-4)


def test_a_variance_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"variances are \[1.0, 0.0\]; they must be positive"):
        average_blocks(np.ones((2, 8, 8, 8), complex), np.ones((8,) * 3), 0, np.array([1, 0]))


def test_an_array_profile_is_taken_up_by_a_polynomial():
    axis = np.linspace(-1, 1, N)
    profile = 1 + 0.4 * axis[:, None, None] ** 2 + 0.3 * axis
    images = np.stack([grid(samples)[0] for samples in POSES[[0, 3]]]) * profile
    error = [
        apart(MOTIONS[3], estimate_motion(images, GEOMETRY.voxel_size, 0, order)[1].motion)
        for order in (0, 2)
    ]
    assert error[1] < 0.5 * error[0]
