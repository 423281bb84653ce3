"""The simulated object, and what each option of the command changes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sodiumprep.bids_app import phantom as command
from sodiumprep.bids_app import phantom_cohort, phantom_files
from sodiumprep.sodium import phantom, phantom_content, phantom_placement, phantom_t1w
from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.phantom_anatomy import CLASSES, Head
from sodiumprep.sodium.phantom_placement import fov_to_scanner, rigid
from sodiumprep.sodium.phantom_signal import (
    Timing,
    coil_sensitivities,
    magnetization,
    relaxation_of,
)
from sodiumprep.sodium.signal import biexponential_decay
from sodiumprep.sodium.trajectory import (
    SIDECAR_KEYS,
    TrajectoryProtocol,
    analytic_trajectory,
    centre_step,
    density_adapted_radial,
)

N = 40
TIMING = Timing(0.3e-3, 0.12, np.pi / 2, 0.01)


@pytest.fixture(autouse=True)
def _coarse_object(monkeypatch):
    monkeypatch.setattr(phantom, "FINEST_VOXEL", 5e-3)


def geometry(matrix=24):
    turn = rigid(np.array([0.1, -0.05, 0.15]), np.zeros(3), np.zeros(3))[:3, :3]
    return Geometry(np.array([4.0, -6.0, 9.0]), turn, (0.24,) * 3, (matrix,) * 3)


def ball(centre=(0, 0, 0), radius=40.0):
    """Head of grey matter alone on a 5 mm grid around the origin."""
    axis = (np.arange(N) - N // 2) * 5.0
    away = np.meshgrid(*[axis - c for c in centre], indexing="ij")
    depth = (radius - np.sqrt(sum(a**2 for a in away))).astype(np.float32)
    shares = np.zeros((len(CLASSES), N, N, N), np.float32)
    shares[0] = depth > 0
    return Head(shares, depth, np.zeros((3, N, N, N), np.float32))


def placement(motion=None):
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = -5.0 * (N // 2)
    motion = np.eye(4) if motion is None else motion
    return phantom_placement.Placement(affine, motion, geometry(), motion[:3, 3])


def protocol(**changes):
    basic = phantom.Protocol(TIMING, 3, 2, 20.0, density_adapted_radial(300, 64, 50.0))
    return replace(basic, **changes)


def content(head, value=42.0):
    return head.shares * np.float32(value)


def scanned(head, where=None, how=None, vials=()):
    return phantom.build_object(
        content(head), head.shares[0], where or placement(), how or protocol(), list(vials)
    )


def test_a_moved_ball_lands_where_geometry_and_motion_say():
    head = ball(centre=(15, -10, 20), radius=18)
    motion = rigid(np.array([0.05, 0.1, -0.08]), np.array([3, 5, -4.0]), np.zeros(3))
    where = placement(motion)
    grey = phantom.resample_head(head.shares[0], where, 125, 2e-3)
    found = (np.indices(grey.shape) * grey).reshape(3, -1).sum(axis=1) / grey.sum()
    scanner = fov_to_scanner(where.geometry) @ [*((found - 62) * 2), 1]
    assert np.allclose(scanner, motion @ [15, -10, 20, 1], atol=0.1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_wave_at_the_edge_of_kspace_has_its_mean_over_each_voxel(axis):
    finer = np.diag([0.25, 0.25, 0.25, 1.0])
    finer[:3, 3] = -12.5
    where = replace(placement(), t1w_affine=fov_to_scanner(geometry()) @ finer)
    along = np.moveaxis(np.arange(101)[:, None, None] * 0.25 - 12.5, 0, axis)
    wave = np.broadcast_to(np.cos(2 * np.pi * along / 8), (101,) * 3).astype(np.float32)
    shown = phantom.resample_head(wave, where, 12, 2e-3)[2:-2, 2:-2, 2:-2]
    assert shown.max() == pytest.approx(np.sinc(2 / 8), rel=7e-3)


def test_the_field_of_view_agrees_with_the_affine_of_the_image():
    place = geometry()
    corner = (np.zeros(3) - 12) * 10.0
    assert np.allclose(
        fov_to_scanner(place) @ [*corner, 1],
        place.affine @ [0, 0, 0, 1],
        atol=1e-9,
    )


def test_the_object_holds_the_signal_of_its_tissue():
    made = scanned(ball())
    middle = made.images[:, 25, 25, 25] @ made.curves
    expected = 42 * 0.961 * (0.6 * np.exp(-0.3 / 3.9) + 0.4 * np.exp(-0.3 / 26.3))
    assert middle[0] == pytest.approx(expected, rel=2e-3)


def test_a_vial_has_its_volume_and_is_stronger_when_cold():
    vial = phantom_placement.VIALS[3]
    warm = replace(vial, temperature=37.0)
    first, second = (
        scanned(ball(), vials=[(v, np.array([88.0, 10.0, 0.0]))]).images.sum()
        for v in (vial, warm)
    )
    nothing = scanned(ball()).images.sum()
    assert abs(first - nothing) / abs(second - nothing) == pytest.approx(1.058, rel=0.1)
    assert vial.strength / warm.strength == pytest.approx(310.15 / 293.15)


def test_vials_stand_beside_the_head_without_touching_it():
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = -75
    away = np.indices((101, 101, 101)) * 1.5 - 75
    outline = (away**2).sum(axis=0) < 70**2
    places = phantom_placement.place_vials(outline, affine, np.zeros(3), phantom_placement.VIALS)
    gap = np.linalg.norm(places, axis=1) - 70 - phantom_placement.VIALS[0].radius
    assert ((gap > 0) & (gap < 12)).all()


def test_too_many_vials_are_refused():
    with pytest.raises(ValueError, match="5 vials; there is place for 4"):
        phantom_placement.place_vials(
            np.ones((4, 4, 4), bool), np.eye(4), np.zeros(3), phantom_placement.VIALS[:1] * 5
        )


def test_vial_labels_follow_the_order_of_the_list():
    places = np.array([[80.0, 0, 0], [-80.0, 0, 0]])
    labels = phantom_placement.vial_labels(phantom_placement.VIALS[:2], places, geometry(60))
    for n, place in enumerate(places, start=1):
        middle = np.argwhere(labels == n).mean(axis=0)
        assert np.allclose(geometry(60).affine @ [*middle, 1], [*place, 1], atol=1)


def test_concentrations_vary_smoothly_and_keep_their_mean():
    head = ball()
    values = dict.fromkeys(CLASSES, 42.0)
    made = phantom_content.sodium_content(np.random.default_rng(0), head, values)
    inside = made[0][head.shares[0] > 0]
    assert phantom_content.true_means(head, made) == {"GM": pytest.approx(42, rel=1e-4)}
    assert 0.03 < inside.std() / 42 < 0.1
    assert np.abs(inside / 42 - 1).max() < 0.2


def test_a_higher_snr_means_less_noise():
    made, place = scanned(ball()), geometry()
    noise = [phantom.kspace_noise(made, protocol(snr=snr), place) for snr in (10, 40)]
    assert noise[0] == pytest.approx(4 * noise[1])


def test_noise_readouts_at_half_the_dwell_time_have_twice_the_variance():
    how = protocol(snr=1e-3)
    taken = phantom.acquire(np.random.default_rng(0), scanned(ball(), how=how), how, geometry())
    assert taken.noise_dwell_time == taken.dwell_time / 2
    assert taken.noise.real.std() / taken.samples.real.std() == pytest.approx(np.sqrt(2), rel=0.03)


def noise_free(how, made=None, later=()):
    made = made or scanned(ball((30, 0, 10), 25.0), how=how)
    return phantom.acquire(np.random.default_rng(0), made, how, geometry(), later).samples


def test_a_gradient_delay_moves_the_samples_but_not_the_trajectory_of_the_file():
    late = protocol(snr=1e6, gradient_delay=(4e-5, 0.0, 0.0))
    moved = replace(late, trajectory=late.sampled_trajectory, gradient_delay=(0.0,) * 3)
    np.testing.assert_allclose(noise_free(late), noise_free(moved), atol=1e-4)
    assert not np.allclose(late.sampled_trajectory, late.trajectory, atol=0.05)
    made = scanned(ball(), how=late)
    taken = phantom.acquire(np.random.default_rng(0), made, late, geometry())
    assert np.array_equal(taken.trajectory, late.trajectory)


def test_a_uniform_field_turns_the_signal_with_time():
    how = protocol(snr=1e6)
    made = scanned(ball((30, 0, 10), 25.0), how=how)
    still = noise_free(how, made)
    turned = noise_free(how, replace(made, field=np.full_like(made.grey, 40.0)))
    expected = still * np.exp(-2j * np.pi * 40.0 * how.sample_times)
    np.testing.assert_allclose(turned, expected, atol=2e-3 * np.abs(still).max())


def test_a_field_gradient_acts_like_a_shift_of_kspace():
    how = protocol(snr=1e6, n_coils=1)
    made = scanned(ball((30, 0, 10), 25.0), how=how)
    slope = 200.0  # Hz/m along the first axis
    axis = (np.arange(len(made.grey)) - len(made.grey) // 2) * made.voxel * slope
    field = np.broadcast_to(axis[:, None, None], made.grey.shape)
    shifted = how.trajectory.copy()
    shifted[..., 0] += slope * how.sample_times
    expected = noise_free(replace(how, trajectory=shifted), made)
    found = noise_free(how, replace(made, field=field))
    np.testing.assert_allclose(found, expected, atol=3e-3 * np.abs(found).max())


def test_off_resonance_has_its_peak_above_the_sinuses():
    made = scanned(ball(), how=protocol(off_resonance=60.0))
    assert made.field.max() == pytest.approx(60, rel=0.03)
    assert made.field.min() > -60
    assert scanned(ball()).field is None


def test_repetitions_have_their_own_pose_and_share_the_snr():
    how = protocol(snr=30.0)
    first = scanned(ball((30, 0, 10), 25.0), how=how)
    moved = rigid(np.zeros(3), np.array([6.0, 0, 0]), np.zeros(3))
    where = replace(placement(), t1w_to_sodium=moved)
    second = scanned(ball((30, 0, 10), 25.0), where, how)
    once, twice = (
        phantom.acquire(np.random.default_rng(0), first, how, geometry(), later)
        for later in ((), (second,))
    )
    assert twice.repetition.tolist() == [0] * 300 + [1] * 300
    assert twice.noise.std() == pytest.approx(np.sqrt(2) * once.noise.std(), rel=0.03)
    blocks = np.split(twice.samples, 2, axis=1)
    assert np.abs(blocks[0] - blocks[1]).max() > 0.1 * np.abs(blocks[0]).max()
    assert once.repetition is None


def test_the_head_moves_by_less_than_was_asked_and_not_in_the_first_repetition():
    motion = phantom.draw_motion(np.random.default_rng(0), 20, 4.0, np.zeros(3))
    lengths = [np.linalg.norm(shift) for _, shift in motion]
    assert lengths[0] == 0
    assert min(lengths[1:]) >= 2
    assert max(lengths) <= 4
    assert max(np.abs(angles).max() for angles, _ in motion) <= np.radians(2)


def test_noise_of_spirals_follows_their_own_radii():
    spirals = analytic_trajectory(TrajectoryProtocol("cones", 200, 64, 50.0))
    made = scanned(ball())
    noise = phantom.kspace_noise(made, protocol(trajectory=spirals), geometry())
    weights = 4 * np.pi * np.gradient((np.linalg.norm(spirals, axis=-1) ** 3) / 3, axis=1) / 200
    mean = phantom.grey_matter_mean(made, protocol(trajectory=spirals), geometry())
    assert noise == pytest.approx(mean / 20 / np.sqrt(np.sum(weights**2)), rel=0.05)


def test_transmit_changes_the_signal_as_another_flip_angle_would():
    uniform, shaded = (scanned(ball(), how=protocol(transmit_spread=s)) for s in (0.0, 0.8))
    middle = [made.images[:, 25, 25, 25] @ made.curves[:, 0] for made in (shaded, uniform)]
    grey = relaxation_of("GM", 3)
    high, nominal = (magnetization(grey, TIMING, b1) for b1 in (1.39, 1.0))
    assert middle[0] / middle[1] == pytest.approx(float(high / nominal), rel=0.02)
    assert phantom.transmit_field(np.zeros((3, 1)), 0.8)[0] == pytest.approx(1.4)


def test_bias_field_has_the_asked_range():
    bias = phantom_t1w.bias_field(np.random.default_rng(0), (30, 30, 30), 1.8)
    assert bias.max() / bias.min() == pytest.approx(1.8, rel=1e-4)


def test_segmented_borders_are_off_by_the_asked_distance():
    moved = phantom_t1w.shifted_levels(np.random.default_rng(0), ball(), 0.3)
    assert moved.std(axis=(1, 2, 3)) == pytest.approx([0.3] * 3, rel=1e-3)


def test_draws_stay_within_their_bounds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        turn = phantom_placement.draw_rigid(rng, 6.0, 8.0, np.zeros(3))
        assert np.allclose(turn[:3, :3] @ turn[:3, :3].T, np.eye(3))
        assert np.abs(turn[:3, 3]).max() <= 8


# The command.


def options(*arguments):
    parsed = command.build_parser().parse_args(["nowhere", *arguments])
    command._check(parsed)
    return parsed


TEMPLATE = SimpleNamespace(
    white=np.full((90, 90, 90), 3.0), ventricle=np.full((90, 90, 90), -20.0),
    affine=np.array([[1, 0, 0, -45], [0, 1, 0, -45], [0, 0, 1, -45], [0, 0, 0, 1.0]]),
)  # fmt: skip


def cohort(*arguments):
    chosen = options(*arguments)
    seeds = np.random.SeedSequence(chosen.seed).spawn(chosen.subjects)
    return [command.draw_subject(chosen, TEMPLATE, i, s) for i, s in enumerate(seeds)]


def test_groups_follow_each_other_in_blocks():
    people = cohort("--subjects", "5", "--groups", "young", "old")
    assert [p.group for p in people] == ["young", "young", "young", "old", "old"]


def test_a_seed_repeats_and_another_differs():
    first, again, other = (cohort("--seed", s)[1] for s in ("1", "1", "2"))
    assert first.concentrations == again.concentrations
    assert first.concentrations != other.concentrations


def test_a_subject_does_not_depend_on_how_many_follow():
    assert cohort("--subjects", "2", "--groups", "a")[1].anatomy.cortex_scale == (
        cohort("--subjects", "6", "--groups", "a")[1].anatomy.cortex_scale
    )


def test_patients_have_more_sodium_unless_told_otherwise():
    chosen = options()
    assert phantom_cohort.group_values(chosen, "patients")["GM"] == pytest.approx(46.2)
    chosen = options("--tissue", "patients:GM=50", "WM=30")
    assert phantom_cohort.group_values(chosen, "patients")["GM"] == 50
    assert phantom_cohort.group_values(chosen, "controls") == {
        **phantom_content.CONCENTRATIONS, "WM": 30.0
    }  # fmt: skip


def test_tissue_values_come_from_a_file_too(tmp_path):
    path = tmp_path / "values.json"
    path.write_text('{"patients": {"GM": 51}}')
    chosen = options("--tissue", str(path))
    assert phantom_cohort.group_values(chosen, "patients")["GM"] == 51


def test_the_last_group_has_the_lesion_unless_told_otherwise():
    ill = [p.anatomy.lesion is not None for p in cohort("--lesion", "glioma")]
    assert ill == [False, False, True, True]
    chosen = cohort("--lesion", "glioma", "--lesion-groups", "controls")
    assert [p.anatomy.lesion is not None for p in chosen] == [True, True, False, False]
    assert not any(p.anatomy.lesion is not None for p in cohort())


def test_protocol_options_reach_the_protocol():
    made = command.make_protocol(
        options("--field-strength", "7", "--snr", "33", "--coils", "8", "--voxel-size", "3",
                "--spokes", "700", "--readout", "15", "--echo-time", "0.5",
                "--repetition-time", "100", "--flip-angle", "60", "--transmit-spread", "0.2")
    )  # fmt: skip
    assert made.timing == Timing(0.5e-3, 0.1, pytest.approx(np.pi / 3), 0.015)
    assert (made.field_strength, made.snr, made.n_coils, made.transmit_spread) == (7, 33, 8, 0.2)
    assert made.trajectory.shape[0] == 700
    assert made.radius.max() == pytest.approx(1000 / 6, rel=1e-5)


@pytest.mark.parametrize("voxel_size", ["5", "4", "3", "2"])
def test_steps_near_the_centre_are_fine_enough(voxel_size):
    made = command.make_protocol(options("--voxel-size", voxel_size, "--spokes", "10"))
    assert np.diff(made.radius).max() < 1 / (2 * 0.24)


@pytest.mark.parametrize("kind", command.TRAJECTORIES)
def test_a_trajectory_is_the_one_asked_for_with_fine_steps(kind):
    chosen = options("--trajectory", kind, "--spokes", "300")
    made = command.make_protocol(chosen).trajectory
    assert centre_step(made) < 1 / (2 * 0.24)
    told = command.trajectory_protocol(chosen)
    assert told.kind == command.TRAJECTORIES[kind]
    assert np.array_equal(made, analytic_trajectory(told))


def test_later_echoes_decay_on_and_share_receiver_and_noise():
    first, head = protocol(snr=1e6), ball()
    (later,) = command.later_echoes(first, [12.0])
    made = [[scanned(head, how=how)] for how in (first, later)]
    rng = np.random.default_rng(0)
    one, two = phantom.acquire_echoes(rng, made, [first, later], geometry())
    decays = [biexponential_decay(np.array([t]), relaxation_of("GM", 3))[0] for t in (3e-4, 12e-3)]
    ratio = np.abs(two.samples[0, :, 0]) / np.abs(one.samples[0, :, 0])
    np.testing.assert_allclose(ratio, decays[1] / decays[0], rtol=1e-3)
    assert two.echo_time == pytest.approx(0.012)
    assert two.noise is one.noise


def test_the_default_trajectory_is_density_adapted_radial():
    made = command.make_protocol(options("--spokes", "50")).trajectory
    assert np.array_equal(made, density_adapted_radial(50, 256, 125.0, 0.3))


def test_delays_and_off_resonance_reach_the_protocol():
    chosen = options("--gradient-delay", "3", "-2", "5", "--off-resonance", "60")
    made = command.make_protocol(chosen)
    assert made.gradient_delay == pytest.approx((3e-6, -2e-6, 5e-6))
    assert made.off_resonance == 60


def test_the_sidecar_holds_what_the_trajectory_follows_from():
    told = command.trajectory_protocol(options("--trajectory", "tpi", "--spokes", "70"))
    sidecar = phantom_files.trajectory_sidecar(told)
    assert sidecar["TrajectoryType"] == "tpi"
    assert sidecar["NumberOfReadouts"] == 70
    named = {field: sidecar[key] for field, key in SIDECAR_KEYS.items() if key in sidecar}
    assert TrajectoryProtocol(**named) == told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repetitions", "0"], "--repetitions must be positive"),
        (["--motion", "3"], "needs --repetitions of at least 2"),
        (["--motion", "-3", "--repetitions", "2"], "--motion must not be negative"),
        (["--gradient-delay", "1", "2", "3", "--format", "image"], "need --format kspace"),
        (["--later-echoes", "9"], "each after the readout of 10 ms"),
        (["--later-echoes", "30", "15"], "in ascending order"),
        (["--later-echoes", "115"], "room before --repetition-time"),
        (["--later-echoes", "15", "--format", "image"], "need --format kspace"),
        (["--snr", "0"], "--snr must be positive"),
        (["--tissue", "GM42"], "'GM42' is not of the form"),
        (["--tissue", "bone=3"], "unknown class bone"),
        (["--tissue", "strangers:GM=3"], "unknown group strangers"),
        (["--session-change", "bone=0.1"], "unknown class bone"),
        (["--lesion-groups", "nobody"], "unknown group nobody"),
    ],
)
def test_senseless_options_are_a_usage_error(tmp_path, capsys, arguments, message):
    assert command.main([str(tmp_path / "new"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert command.main([str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_stored_images_return_their_values(tmp_path):
    nib = pytest.importorskip("nibabel")
    values = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2)
    phantom_files._write_image(tmp_path / "a.nii.gz", values, np.eye(4), 1e-4)
    assert np.allclose(nib.load(tmp_path / "a.nii.gz").get_fdata(), values, atol=1e-4)


def test_the_written_transform_maps_points_from_t1w_to_sodium_in_lps(tmp_path):
    motion = rigid(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]), np.zeros(3))
    phantom_files._write_itk(tmp_path / "xfm.txt", motion)
    text = (tmp_path / "xfm.txt").read_text().split("Parameters: ")[1].split("\n")[0]
    numbers = np.array(text.split(), float)
    lps = numbers[:9].reshape(3, 3) @ [-10, -20, 30] + numbers[9:]
    assert np.allclose(lps * [-1, -1, 1], (motion @ [10, 20, 30, 1])[:3])


def test_more_coils_are_another_array():
    position = np.zeros((3, 2, 2, 2), np.float32)
    assert coil_sensitivities(position, 8).shape[0] == 8
