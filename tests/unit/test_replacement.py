"""A phantom that was scanned by itself calibrates the head."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.concentration import Protocol
from sodiumprep.sodium.kernel import blur, gaussian_transfer
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.replacement import (
    Phantom,
    PhantomSignal,
    phantom_body,
    phantom_lines,
    phantom_signal,
)
from sodiumprep.sodium.signal import Relaxation, relaxation_factor

N, SIGNAL = 32, 200.0
SALINE = Relaxation(0.053, 0.053, 0.053, 0.0)
HEAD, OWN = Protocol(0.3e-3, 0.12, np.pi / 2), Protocol(0.5e-3, 0.08, np.radians(70))
KNOWN = Phantom(50.0, 0.5, SALINE, OWN, 21.0, 1.08, 0.02)
MEASURED = PhantomSignal(SIGNAL, 0.001, 0.01, np.ones((2, 2, 2), bool))
GEOMETRY = Geometry(np.zeros(3), np.eye(3), (0.004 * N,) * 3, (N,) * 3)
TRANSFER = gaussian_transfer(GEOMETRY, np.full(3, 6e-3))
WHITE = np.ones((2 * N, 2 * N, N + 1))
PLACES = np.stack(np.meshgrid(*[np.arange(N) - 15.3] * 3, indexing="ij"))
EVERYWHERE = np.ones((N,) * 3, bool)


def ball(radius, profile=1.0, noise=0.0):
    """Return a blurred ball with a smooth edge, and its noise."""
    level = np.clip(radius - np.linalg.norm(PLACES, axis=0) + 0.5, 0, 1)
    image = blur(SIGNAL * level * profile, TRANSFER)
    sd = max(noise, 1e-3)
    drawn = np.random.default_rng(2).normal(0, sd, image.shape)
    return image + drawn, ImageNoise(np.full(image.shape, sd), WHITE)


def test_the_signal_of_a_ball_is_that_of_its_fluid():
    image, noise = ball(11.0, noise=10.0)
    found = phantom_signal(image, noise, TRANSFER, 2.0, EVERYWHERE)
    assert found.signal == pytest.approx(SIGNAL, rel=3e-3)
    assert found.u_noise == pytest.approx(10 / SIGNAL / np.sqrt(found.core.sum()), rel=0.05)
    assert found.u_uniformity < 0.01


def test_a_profile_that_is_left_over_makes_the_signal_uncertain():
    image, noise = ball(11.0, profile=1 + 0.01 * PLACES[0], noise=4.0)
    found = phantom_signal(image, noise, TRANSFER, 2.0, EVERYWHERE)
    assert found.u_uniformity == pytest.approx(0.01 * PLACES[0][found.core].std(), rel=0.1)


def test_only_voxels_with_a_known_correction_count():
    image, noise = ball(11.0, profile=np.where(PLACES[0] > 0, 0.8, 1.0))
    found = phantom_signal(image, noise, TRANSFER, 2.0, PLACES[0] < -3)
    assert found.signal == pytest.approx(SIGNAL, rel=3e-3)


def test_the_largest_body_is_taken_and_its_holes_are_filled():
    image, noise = ball(9.0)
    image[15:17, 15:17, 15:17] = 0
    image[:3, :3, :3] = SIGNAL
    body = phantom_body(image, noise.noise_sd)
    assert body[15, 15, 15]
    assert not body[1, 1, 1]
    assert body.sum() == pytest.approx(4 / 3 * np.pi * 9.0**3, rel=0.05)


def test_a_small_body_and_an_image_of_noise_are_refused():
    image, noise = ball(3.0)
    with pytest.raises(ValueError, match=r"\d+ voxels of the phantom lie 2.0 voxels under its"):
        phantom_signal(image, noise, TRANSFER, 2.0, EVERYWHERE)
    drawn = np.random.default_rng(0).normal(0, 1.0, image.shape)
    with pytest.raises(ValueError, match="no phantom stands out"):
        phantom_body(drawn, np.ones_like(drawn))


def test_zeros_are_refused():
    with pytest.raises(ValueError, match="no phantom stands out"):
        phantom_body(np.zeros((8, 8, 8)), np.zeros((8, 8, 8)))


def test_each_scan_is_corrected_by_its_own_protocol():
    """A head of the phantom's own fluid has its concentration, whatever the protocols."""
    magnetization = 310.0 / 294.15
    factors = [relaxation_factor(SALINE, *vars(p).values()) for p in (OWN, HEAD)]
    phantom = 3.7 * 50.0 * magnetization * factors[0]
    head = 3.7 / 1.08 * 50.0 * factors[1]
    lines, _ = phantom_lines(replace(MEASURED, signal=phantom), KNOWN, HEAD)
    assert lines["corrected"].concentration(head / factors[1]) == pytest.approx(50.0)
    assert lines["apparent"].concentration(head) == pytest.approx(50.0)
    assert lines["apparent"].slope * factors[0] != pytest.approx(lines["corrected"].slope)


def test_a_head_that_loads_more_has_a_smaller_slope():
    slopes = [
        phantom_lines(MEASURED, replace(KNOWN, loading=loading), HEAD)[0]["corrected"].slope
        for loading in (1.0, 1.25)
    ]
    assert slopes[0] / slopes[1] == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("change", "term", "expected"),
    [
        ({"u_concentration": 2.0}, "Concentration", 0.04),
        ({"u_loading": 0.108}, "Loading", 0.1),
        ({"temperature": None}, "Temperature", 0.03),
    ],
)
def test_the_slope_is_as_uncertain_as_what_is_known_of_the_phantom(change, term, expected):
    lines, terms = phantom_lines(MEASURED, replace(KNOWN, **change), HEAD)
    assert terms[term] == pytest.approx(expected)
    line = lines["corrected"]
    total = np.linalg.norm(list(terms.values()))
    assert np.sqrt(line.covariance[0, 0]) / line.slope == pytest.approx(total)
    assert total > expected


def test_uncertain_relaxation_cancels_in_the_apparent_line_of_one_protocol():
    unsure = replace(KNOWN, relaxation=replace(SALINE, u_t1=0.005), protocol=HEAD)
    lines, terms = phantom_lines(MEASURED, unsure, HEAD)
    known, _ = phantom_lines(MEASURED, replace(KNOWN, protocol=HEAD), HEAD)
    assert terms["Relaxation"] > 0.02
    spread = {name: np.sqrt(line.covariance[0, 0]) / line.slope for name, line in lines.items()}
    before = np.sqrt(known["apparent"].covariance[0, 0]) / known["apparent"].slope
    assert spread["apparent"] == pytest.approx(before)
    assert spread["corrected"] > spread["apparent"]


def test_a_phantom_that_is_hot_or_without_signal_is_refused():
    with pytest.raises(ValueError, match="90.0 degrees"):
        phantom_lines(MEASURED, replace(KNOWN, temperature=90.0), HEAD)
    with pytest.raises(ValueError, match="must be positive"):
        phantom_lines(replace(MEASURED, signal=0.0), KNOWN, HEAD)
