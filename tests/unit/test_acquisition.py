"""Where a voxel lies, and when a sample was taken."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import (
    Geometry,
    average_averages,
    average_repetitions,
    dead_coils,
    field_strength_of,
    join_noise,
    split_repetitions,
    undersampling,
    without_coils,
)

FLIP = np.array([-1.0, -1.0, 1.0])


@pytest.mark.parametrize("handedness", [1, -1])
@pytest.mark.parametrize("n", [15, 16])
def test_the_voxel_at_half_the_matrix_lies_at_the_position(oblique, n, handedness):
    geometry = oblique(n, handedness)
    middle = geometry.affine @ [n // 2, n // 2, n // 2, 1]
    np.testing.assert_allclose(middle, [*(FLIP * geometry.position), 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_step_along_an_axis_follows_its_direction(oblique, axis):
    geometry = oblique()
    np.testing.assert_allclose(
        geometry.affine[:3, axis], FLIP * geometry.directions[axis] * 10.0, atol=1e-12
    )


@pytest.mark.parametrize("handedness", [1, -1])
def test_the_handedness_survives_the_change_of_convention(oblique, handedness):
    assert np.sign(np.linalg.det(oblique(16, handedness).affine[:3, :3])) == handedness


def test_edges_of_a_voxel_follow_field_of_view_and_matrix():
    geometry = Geometry(np.zeros(3), np.eye(3), (0.2, 0.24, 0.3), (50, 40, 30))
    np.testing.assert_allclose(geometry.voxel_size, [4e-3, 6e-3, 10e-3])
    np.testing.assert_allclose(np.linalg.norm(geometry.affine[:3, :3], axis=0), [4, 6, 10])


def test_sample_times_start_at_the_first_sample(oblique, make_blob):
    times = make_blob(oblique(), [0, 0, 0], n_spokes=2).sample_times
    assert len(times) == 72
    np.testing.assert_allclose(times[[0, 10]], [0.0, 1e-3])


@pytest.fixture
def noisy(oblique, make_blob):
    """Three repetitions of forty readouts and three coils, of which the last sees noise alone."""
    rng = np.random.default_rng(0)
    blob = make_blob(oblique(), [0, 0, 0], n_spokes=40)
    seen = np.array([1.0, 0.5j, 0.0])[:, None, None] * blob.samples / np.abs(blob.samples).max()
    shape = (3, 120, 72)
    noise = 0.01 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    return replace(
        blob,
        samples=(np.tile(seen, (1, 3, 1)) + noise).astype(np.complex64),
        trajectory=np.tile(blob.trajectory, (3, 1, 1)),
        repetition=np.repeat([0, 1, 2], 40),
    )


def with_noise(acquisition, dwell_ratio):
    rng = np.random.default_rng(1)
    noise = 0.01 / np.sqrt(dwell_ratio) * (rng.normal(size=(3, 4000, 2)) @ [1, 1j])
    return replace(
        acquisition,
        noise=noise.astype(np.complex64),
        noise_dwell_time=dwell_ratio * acquisition.dwell_time,
    )


def test_the_mean_of_the_split_repetitions_is_the_average(noisy):
    parts = [part.samples for part in split_repetitions(noisy)]
    averaged = average_repetitions(noisy)
    assert averaged.samples.dtype == np.complex64
    assert averaged.repetition is None
    np.testing.assert_allclose(averaged.samples, np.mean(parts, axis=0), atol=1e-7)


def test_the_averages_noise_is_that_of_the_noise_samples(noisy):
    averaged = average_repetitions(with_noise(noisy, 1.0))
    assert np.std(averaged.samples[2]) == pytest.approx(np.std(averaged.noise), rel=0.03)


def test_averaging_leaves_the_raw_data_as_they_were(noisy):
    before = noisy.samples.copy()
    average_repetitions(noisy)
    np.testing.assert_array_equal(noisy.samples, before)


def test_one_repetition_is_its_own_average(noisy):
    single = split_repetitions(noisy)[1]
    np.testing.assert_array_equal(average_repetitions(single).samples, single.samples)
    assert len(split_repetitions(single)) == 1


def test_the_order_of_averages_in_time_has_no_effect(noisy):
    single = replace(noisy, repetition=None)
    average, order = np.repeat([0, 1, 2], 40), np.arange(120).reshape(3, 40).T.ravel()
    interleaved = replace(
        single, samples=single.samples[:, order], trajectory=single.trajectory[order]
    )
    np.testing.assert_allclose(
        average_averages(interleaved, average[order]).samples,
        average_averages(single, average).samples,
        atol=1e-7,
    )


def test_averages_inside_repetitions_then_those_average_everything(noisy):
    numbers = np.arange(120) // 40
    inside = average_averages(replace(noisy, repetition=None), numbers)
    np.testing.assert_allclose(
        inside.samples, average_repetitions(noisy).samples, rtol=1e-5, atol=1e-7
    )


def test_repetitions_with_other_trajectories_stand_side_by_side(noisy):
    turned = replace(noisy, trajectory=noisy.trajectory * np.sign(1.5 - noisy.repetition)[
        :, None, None])  # fmt: skip
    assert average_repetitions(turned).samples.shape == (3, 120, 72)
    assert average_repetitions(turned).repetition is None


def test_a_broken_off_repetition_stands_side_by_side_with_a_warning(noisy):
    broken = replace(noisy, samples=noisy.samples[:, :-3], trajectory=noisy.trajectory[:-3],
                     repetition=noisy.repetition[:-3])  # fmt: skip
    averaged = average_repetitions(broken)
    assert averaged.samples.shape == (3, 117, 72)
    assert "the repetitions have 37 to 40 readouts" in averaged.warnings[0]


def test_repetitions_with_different_numbers_of_averages_stand_side_by_side(noisy):
    average = np.where(noisy.repetition == 0, np.arange(120) % 2, 0)
    same = average_averages(noisy, average)
    assert same.samples.shape == noisy.samples.shape
    assert "the averages differ in number" in same.warnings[0]


def test_joined_noise_has_the_variance_of_the_first_dwell_time():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(1, 5000)) / np.sqrt(dwell) for dwell in (1.0, 4.0)]
    noise, dwell = join_noise(parts, [1.0, 4.0])
    assert dwell == 1.0
    assert np.std(noise[:, 5000:]) == pytest.approx(np.std(parts[0]), rel=0.05)


@pytest.mark.parametrize("dwell_ratio", [None, 1.0, 0.25, 4.0])
def test_a_coil_of_pure_noise_is_found(noisy, dwell_ratio):
    given = noisy if dwell_ratio is None else with_noise(noisy, dwell_ratio)
    np.testing.assert_array_equal(dead_coils(given), [2])


def test_without_noise_no_working_coil_is_called_dead(oblique, make_blob):
    assert len(dead_coils(make_blob(oblique(), [0, 0, 0], n_spokes=40))) == 0


def test_a_coil_of_zeros_is_found(noisy):
    silent = replace(noisy, samples=noisy.samples * np.array([0, 1, 1])[:, None, None])
    np.testing.assert_array_equal(dead_coils(with_noise(silent, 1.0)), [0, 2])


def test_coils_are_left_out_with_their_noise(noisy):
    given = with_noise(noisy, 1.0)
    rest = without_coils(given, dead_coils(given))
    np.testing.assert_array_equal(rest.samples, given.samples[:2])
    np.testing.assert_array_equal(rest.noise, given.noise[:2])


def test_leaving_out_every_coil_is_refused(noisy):
    with pytest.raises(ValueError, match="none of the 3 coils has signal"):
        without_coils(noisy, np.arange(3))


def test_repetitions_of_one_trajectory_do_not_lessen_the_undersampling(noisy):
    once = undersampling(split_repetitions(noisy)[0])
    assert once == pytest.approx(16**3 / (40 * 72))
    assert undersampling(noisy) == pytest.approx(once)


def test_repetitions_with_trajectories_of_their_own_lessen_the_undersampling(noisy):
    turned = replace(noisy, trajectory=noisy.trajectory * (1 - 0.1 * noisy.repetition)[
        :, None, None])  # fmt: skip
    assert undersampling(turned) == pytest.approx(16**3 / (120 * 72))


@pytest.mark.parametrize("field_strength", [1.5, 2.89, 3.0, 4.7, 7.0, 9.4, 10.5, 11.7])
@pytest.mark.parametrize("gamma_bar", [42.577e6, 11.262e6])
def test_a_frequency_of_either_nucleus_tells_the_field_strength(field_strength, gamma_bar):
    assert field_strength_of(gamma_bar * field_strength) == pytest.approx(field_strength)


def test_a_frequency_of_no_known_scanner_is_taken_for_that_of_the_proton():
    assert field_strength_of(2.0 * 42.577e6) == pytest.approx(2.0)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_no_coil_is_dead_for_the_unit_of_its_samples(oblique, make_blob, scale):
    blob = make_blob(oblique(), oblique().position)
    scaled = replace(blob, samples=(blob.samples / np.abs(blob.samples).max() * scale))
    assert not len(dead_coils(scaled))


def test_a_coil_of_noise_is_dead_where_the_noise_samples_are_fainter(oblique, make_blob):
    blob = make_blob(oblique(), oblique().position)
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(2, 2, *blob.samples.shape[1:])) * 1e-3
    samples = (parts[0] + 1j * parts[1]).astype(np.complex64)
    samples[1] += blob.samples[0] / np.abs(blob.samples).max()
    faint = replace(blob, samples=samples, noise=0.1 * samples[:, 0, :50])
    np.testing.assert_array_equal(dead_coils(faint), [0])
