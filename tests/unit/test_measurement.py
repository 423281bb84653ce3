"""Raw data made ready: what is left out, corrected and said."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.ellipsoids import ellipsoid_head, ellipsoid_kspace
from sodiumprep.sodium.measurement import measurement_of, sample_covariance
from sodiumprep.sodium.motion import BlockMotion, RigidMotion, apply_to_kspace, where_they_lay
from sodiumprep.sodium.trajectory import delayed

PLACE = np.array([-9.0, 13.0, 41.0])  # mm, LPS


def complex_noise(seed, shape, level):
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(2, *shape))
    return (level * (parts[0] + 1j * parts[1])).astype(np.complex64)


def noisy(blob, level=1e-6, seed=0, coils=1):
    samples = np.repeat(blob.samples, coils, axis=0)
    added = complex_noise(seed, samples.shape, level)
    noise = complex_noise(seed + 1, (coils, 4000), level)
    return replace(blob, samples=samples + added, noise=noise)


def test_a_coil_of_noise_alone_is_left_out_and_named(oblique, make_blob):
    given = noisy(make_blob(oblique(), PLACE), coils=3)
    given.samples[1] = complex_noise(5, given.samples[1].shape, 1e-7)
    ready = measurement_of(given)
    assert ready.acquisition.samples.shape[0] == ready.covariance.shape[0] == 2
    (warning,) = ready.warnings
    assert warning.startswith("coil 2 of the file holds noise alone and is left out")


def test_a_delay_moves_the_trajectory(oblique, make_blob):
    blob, late = make_blob(oblique(), PLACE), np.array([3e-6, 0, -2e-6])
    ready = measurement_of(blob, late)
    expected = delayed(blob.trajectory, late, blob.dwell_time)
    np.testing.assert_array_equal(ready.acquisition.trajectory, expected)


@pytest.fixture(scope="module")
def head(make_blob):
    """Return the acquisition of a head of ellipsoids: a blob has no pose to find."""
    fov = (0.24, 0.24, 0.24)
    grid = Geometry(np.zeros(3), np.eye(3), fov, (32, 32, 32))
    empty = make_blob(grid, np.zeros(3), n_spokes=1200)
    seen = ellipsoid_kspace(ellipsoid_head(np.array(fov)), empty.trajectory)
    return replace(empty, samples=(seen[None] / np.abs(seen).max()).astype(np.complex64))


def repeated(blob, seeds, phases):
    parts = [noisy(blob, seed=seed) for seed in seeds]
    samples = [p.samples * np.exp(1j * a) for p, a in zip(parts, phases, strict=True)]
    return replace(
        parts[0],
        samples=np.concatenate(samples, axis=1).astype(np.complex64),
        trajectory=np.concatenate([p.trajectory for p in parts]),
        repetition=np.repeat(np.arange(len(parts)), len(blob.trajectory)),
    )


def test_repetitions_that_lie_still_are_averaged_with_less_noise(head):
    one, four = (measurement_of(repeated(head, range(n), [0.0] * n)) for n in (1, 4))
    assert four.acquisition.samples.shape == head.samples.shape
    assert len(four.motions) == 4
    ratio = one.covariance[0, 0].real / four.covariance[0, 0].real
    assert ratio == pytest.approx(4, rel=0.1)


def test_repetitions_of_another_phase_do_not_cancel(head):
    ready = measurement_of(repeated(head, (0, 1), (0.0, 2.0)))
    largest = np.abs(ready.acquisition.samples).max()
    assert largest == pytest.approx(np.abs(head.samples).max(), rel=0.02)
    assert ready.acquisition.samples.shape[1] == 2 * head.samples.shape[1]


def test_without_noise_readouts_the_corners_tell_the_covariance(oblique, make_blob):
    given = noisy(make_blob(oblique(), oblique().position), 1e-6)
    weights = measurement_of(given).weights
    known, source = sample_covariance(given, weights)
    guessed, corners = sample_covariance(replace(given, noise=None), weights)
    assert source == "noise readouts"
    assert corners.startswith("corners")
    assert guessed[0, 0].real == pytest.approx(known[0, 0].real, rel=0.3)


def test_the_quality_figures_are_plain_values(head):
    told = measurement_of(repeated(head, (0, 1), (0.0, 0.0))).describe()
    assert told["Repetitions"] == 2
    assert told["DensityCompensation"] == "radial"
    assert [entry["rejected"] for entry in told["Motion"]] == [False, False]


def test_a_copied_coil_is_named_with_its_twin(oblique, make_blob):
    given = noisy(make_blob(oblique(), PLACE), coils=4)
    given.samples[0] = complex_noise(5, given.samples[0].shape, 1e-7)  # dead
    given.samples[3], given.noise[3] = 2 * given.samples[1], 2 * given.noise[1]
    (_, told) = measurement_of(given).warnings
    assert told.startswith("coils 2 and 4 of the file share their noise (correlation 1.0000)")


def moved_twice(head, phase=0.0):
    """Return a head in two repetitions: the second 6 mm further along x, and of another phase."""
    both = repeated(head, (0, 1), (0.0, phase))
    second = both.repetition == 1
    shifted, _ = apply_to_kspace(
        both.samples[:, second],
        both.trajectory[second],
        RigidMotion(translation=np.array([6.0, 0, 0])),
    )
    samples = both.samples.copy()
    samples[:, second] = shifted
    return replace(both, samples=samples)


def test_what_does_not_move_is_averaged_where_it_lies_in_one_phase(head):
    given = moved_twice(head, phase=1.0)
    ready = measurement_of(given)
    first, second = np.split(given.samples, 2, axis=1)
    turned = 0.5 * (first + second * np.exp(-1j * ready.motions[1].phase))
    reference = [motion.reference for motion in ready.motions]
    assert reference == [True, False]
    np.testing.assert_allclose(ready.static.acquisition.samples, turned, atol=1e-6)
    assert abs(ready.motions[1].phase - 1) < 0.1
    assert ready.static.covariance[0, 0].real == pytest.approx(
        ready.covariance[0, 0].real / 2, rel=1e-3
    )


def test_a_head_that_lies_still_needs_no_second_measurement(head):
    assert measurement_of(repeated(head, (0, 1), (0.0, 1.0))).static is None
    assert measurement_of(noisy(head)).static is None


def test_a_rejected_repetition_is_in_neither_average(head):
    given = moved_twice(head)
    motions = tuple(
        BlockMotion(n, RigidMotion(), reference=n == 0, reason="odd" if n == 1 else "")
        for n in (0, 1)
    )
    alone = where_they_lay(given, motions)
    np.testing.assert_array_equal(alone.samples, given.samples[:, given.repetition == 0])
