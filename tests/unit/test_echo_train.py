"""Several echoes of one object: one image, that at the first echo, with less noise."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.ellipsoids import ellipsoid_head, ellipsoid_kspace
from sodiumprep.sodium.iterative import conjugate_gradient
from sodiumprep.sodium.kernel import full_width_half_maximum, response_at, to_psf
from sodiumprep.sodium.measurement import measurements_of
from sodiumprep.sodium.model_based import EchoTrain, MeasurementModel
from sodiumprep.sodium.motion import RigidMotion, apply_to_kspace
from sodiumprep.sodium.noise import noise_samples
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.segments import Evolution, adequate_segments
from sodiumprep.sodium.signal import biexponential_decay

FOV = (0.24, 0.24, 0.24)
WM = relaxation_of("WM", 3.0)
LATER = 0.009  # s, from the first sample of echo 1 to that of echo 2
SLOPE = np.array([150.0, -100.0, 0.0])  # Hz/m: up to 13 Hz at the edge of the head
NOISE = 1e-14  # variance of a sample: the noise is known, the samples are free of it
GAINS = np.array([1.0, 0.7j])  # of two uniform coils


@pytest.fixture(scope="module")
def empty(make_blob):
    grid = Geometry(np.zeros(3), np.eye(3), FOV, (20, 20, 20))
    return make_blob(grid, np.zeros(3), n_spokes=700)


def echo_of(empty, since_first, slope=0.0):
    """Return an echo of a head of white matter in a field that rises along a line."""
    head, times = ellipsoid_head(np.array(FOV)), empty.sample_times + since_first
    turned = empty.trajectory + np.multiply.outer(times + empty.echo_time, slope * np.ones(3))
    seen = ellipsoid_kspace(head, turned) * biexponential_decay(times, WM)
    samples, rng = GAINS[:, None, None] * seen, np.random.default_rng(0)
    noise = noise_samples(NOISE * np.eye(2), (1, 4000), rng)[:, 0]
    return replace(
        empty, samples=samples.astype("c8"), noise=noise.astype("c8"),
        echo_time=empty.echo_time + since_first,
    )  # fmt: skip


def train_of(echoes, slope=None, field=None):
    """Return the model of echoes, with the field that the model knows of."""
    grid = echoes[0].geometry
    places = (np.indices(grid.matrix).T - np.asarray(grid.matrix) // 2) * grid.voxel_size
    hertz = field if slope is None else (places @ slope).T.astype(np.float32)
    models = []
    for echo, measurement in zip(echoes, measurements_of(echoes), strict=True):
        times = echo.sample_times + echo.echo_time - echoes[0].echo_time
        evolution = Evolution(times, (WM,), None, None, hertz, echoes[0].echo_time)
        first = models[0] if models else None
        segments = adequate_segments(evolution, 0.01)
        models.append(MeasurementModel(measurement, segments, first=first))
    return EchoTrain(tuple(models))


def image_of(model, samples=None):
    found = conjugate_gradient(model.problem(model.samples if samples is None else samples), 0.1)
    return model.image_of(found)


def difference(one, other):
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.fixture(scope="module")
def at_first_echo(empty):
    return image_of(train_of([echo_of(empty, 0.0)]))


def test_two_echoes_give_the_image_at_the_first(empty, at_first_echo):
    train = train_of([echo_of(empty, 0.0), echo_of(empty, LATER)])
    assert difference(image_of(train), at_first_echo) < 0.02
    assert train.echoes[1].phase_spread < 0.01


def test_an_echo_without_its_decay_in_the_model_is_seen(empty, at_first_echo):
    first, second = echo_of(empty, 0.0), echo_of(empty, LATER)
    wrong = [first, replace(second, echo_time=first.echo_time + 1e-4)]
    assert difference(image_of(train_of(wrong)), at_first_echo) > 0.1


def test_the_phase_between_the_echoes_is_found_without_a_field_map(empty):
    echoes = [echo_of(empty, since, SLOPE) for since in (0.0, LATER)]
    train = train_of(echoes)
    assert difference(image_of(train), image_of(train_of(echoes[:1]))) < 0.03
    assert train.echoes[1].phase_spread > 0.25


def test_with_the_field_in_the_model_no_phase_is_left(empty, at_first_echo):
    train = train_of([echo_of(empty, since, SLOPE) for since in (0.0, LATER)], SLOPE)
    assert train.echoes[1].phase_spread < 0.03
    assert difference(image_of(train), at_first_echo) < 0.03


def test_the_wrong_sign_of_the_field_leaves_twice_the_phase(empty):
    echoes = [echo_of(empty, since, SLOPE) for since in (0.0, LATER)]
    left = [train_of(echoes, slope).echoes[1].phase_spread for slope in (None, -SLOPE)]
    assert left[1] == pytest.approx(2 * left[0], rel=0.1)


def test_two_echoes_have_less_noise_than_one(empty):
    rng, echoes = np.random.default_rng(5), [echo_of(empty, t) for t in (0.0, LATER)]
    found = []
    for count in (1, 2):
        model = train_of(echoes[:count])
        unit = model.noise_variance * np.eye(len(model.samples))
        noise = noise_samples(unit, model.samples.shape[1:], rng)
        found.append(image_of(model, noise).std())
    decay = biexponential_decay(np.array([LATER]), WM)[0]
    assert found[1] / found[0] == pytest.approx((1 + decay**2) ** -0.5, rel=0.08)


def test_a_noisier_echo_counts_less(empty):
    quiet, loud = echo_of(empty, 0.0), echo_of(empty, LATER)
    loud = replace(loud, noise=3 * quiet.noise)
    first, second = train_of([quiet, loud]).echoes
    assert second.noise_variance == first.noise_variance
    ratio = np.abs(second.maps[:, 10, 10, 10]) / np.abs(first.maps[:, 10, 10, 10])
    np.testing.assert_allclose(ratio, 1 / 3, rtol=1e-3)


def test_the_point_of_a_train_decays_on_from_echo_to_echo(empty):
    train = train_of([echo_of(empty, 0.0), echo_of(empty, LATER)])
    point, n = train.point(train.centre, WM), train.echoes[0].samples[0].size
    ratio = np.abs(point[0, 0, n]) / np.abs(point[0, 0, 0])
    first = empty.echo_time
    left = biexponential_decay(np.array([first, first + LATER]), WM)
    assert ratio == pytest.approx(left[1] / left[0], rel=1e-3)


@pytest.mark.parametrize("hertz", [50.0, -100.0])
def test_off_resonance_in_the_model_changes_neither_scale_nor_kernel(empty, at_first_echo, hertz):
    """The sensitivities are found in data that turn: what they hold of it must not count twice."""
    turning = np.exp(-2j * np.pi * hertz * (empty.sample_times + empty.echo_time))
    echo = echo_of(empty, 0.0)
    echo = replace(echo, samples=(echo.samples * turning).astype("c8"))
    model = train_of([echo], field=np.full(echo.geometry.matrix, hertz)).echoes[0]
    assert difference(image_of(model), at_first_echo) < 0.012
    widths = []
    for each in (model, train_of([echo_of(empty, 0.0)]).echoes[0]):
        change = image_of(each, each.point(each.centre, WM))
        psf = to_psf(response_at(change, each.centre).passed)
        widths.append(full_width_half_maximum(psf, echo.geometry.voxel_size))
    np.testing.assert_allclose(widths[0], widths[1], rtol=0.01)


def test_warnings_of_a_later_echo_name_it(empty):
    echoes = [replace(echo_of(empty, t), warnings=("both",)) for t in (0.0, LATER)]
    echoes[1] = replace(echoes[1], warnings=("both", "odd"))
    assert train_of(echoes).measurement.warnings == ("both", "echo 2: odd")


def test_echoes_that_share_no_coils_are_refused(empty):
    (lonely,) = train_of([echo_of(empty, 0.0)]).echoes
    with pytest.raises(ValueError, match=r"echoes \[2\] of 2 do not share"):
        EchoTrain((lonely, lonely))
    with pytest.raises(ValueError, match="one echo or more"):
        EchoTrain(())


def repeated(echo, motion, phase):
    """Return two repetitions: the second moved, and of another phase."""
    samples, trajectory = echo.samples, echo.trajectory
    turned, _ = apply_to_kspace(samples, trajectory, motion)
    back = trajectory @ motion.matrix  # where the moved object has these samples
    assert np.allclose(back, trajectory)  # a shift alone
    return replace(
        echo,
        samples=np.concatenate([samples, turned * np.exp(1j * phase)], axis=1).astype("c8"),
        trajectory=np.concatenate([trajectory, trajectory]),
        repetition=np.repeat([0, 1], len(trajectory)),
    )


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_a_later_echo_follows_the_motion_and_has_a_phase_of_its_own(empty, shift):
    motion = RigidMotion(translation=np.array([shift, 0, 0]))
    alone = [echo_of(empty, t) for t in (0.0, LATER)]
    pairs = zip(alone, (0.01, 1.5), strict=True)
    both = measurements_of([repeated(echo, motion, phase) for echo, phase in pairs])
    assert both[1].motions == both[0].motions
    assert (both[1].acquisition.repetition is None) == (shift == 0)
    count = len(alone[1].trajectory)
    for part in np.split(
        both[1].acquisition.samples, both[1].acquisition.samples.shape[1] // count, 1
    ):
        assert difference(part, alone[1].samples) < 0.06
