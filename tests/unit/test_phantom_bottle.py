"""A bottle that is scanned by itself in the coil of a simulated head."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.bids_app import phantom as command
from sodiumprep.sodium import phantom_bottle
from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.phantom import (
    Protocol,
    SodiumObject,
    acquire_echoes,
    scanner_image,
    transmit_field,
)
from sodiumprep.sodium.phantom_bottle import (
    BOTTLE,
    OFF_CENTRE,
    PROFILE_CHANGE,
    bottle_protocol,
    bottle_sidecar,
    build_bottle,
    draw_loading,
)
from sodiumprep.sodium.phantom_signal import ScannerImage, Timing, magnetization
from sodiumprep.sodium.trajectory import density_adapted_radial

N, VOXEL = 50, 5e-3
TIMING = Timing(3e-4, 0.12, np.pi / 2, 0.01)
PROTOCOL = Protocol(TIMING, 3, 1, 20.0, density_adapted_radial(100, 32, 50.0))
AXIS = (np.arange(N) - N // 2) * VOXEL
PLACES = np.stack(np.meshgrid(AXIS, AXIS, AXIS, indexing="ij"))
HEAD = SodiumObject(
    np.ones((1, N, N, N), np.float32), np.ones((1, 32)), np.ones((N, N, N), np.float32),
    np.ones((1, N, N, N), np.complex64), VOXEL,
)  # fmt: skip


def bottle(protocol=PROTOCOL, concentration=50.0):
    return build_bottle(HEAD, protocol, PLACES, concentration)


def test_the_bottle_has_its_volume_place_and_signal():
    made = bottle()
    volume = made.grey.sum() * (VOXEL * 1e3) ** 3
    assert volume == pytest.approx(np.pi * BOTTLE.radius**2 * BOTTLE.length, rel=0.01)
    centre = (PLACES * made.grey).reshape(3, -1).sum(axis=1) / made.grey.sum() * 1e3
    np.testing.assert_allclose(centre, OFF_CENTRE, atol=0.5)
    expected = 50.0 * 310.15 / 294.15 * float(magnetization(BOTTLE.relaxation, TIMING))
    assert made.images.max() == pytest.approx(expected, rel=1e-4)


def test_its_coil_is_that_of_the_head_but_for_a_change_of_the_profile():
    profile = np.abs(bottle().sensitivities[0])
    np.testing.assert_allclose(profile, 1 + PROFILE_CHANGE * PLACES[0] / 0.1, rtol=1e-5)


def test_it_has_a_protocol_of_its_own():
    own = bottle_protocol(replace(PROTOCOL, off_resonance=30.0))
    assert own.timing.echo_time > TIMING.echo_time
    assert own.timing.flip_angle < TIMING.flip_angle
    assert own.off_resonance == 0


def test_the_flip_angle_of_the_coil_is_that_of_the_head():
    spread = bottle(replace(PROTOCOL, transmit_spread=0.3))
    inside = spread.grey == 1
    angle = transmit_field(PLACES, 0.3)[inside]
    expected = magnetization(BOTTLE.relaxation, TIMING, angle) * 50 * 310.15 / 294.15
    np.testing.assert_allclose(spread.images[0][inside], expected, rtol=1e-4)


def test_what_is_stated_of_the_bottle_is_off_by_its_uncertainty():
    drawn = [draw_loading(np.random.default_rng(seed)) for seed in range(300)]
    ratio = np.array([one.measured / one.true for one in drawn])
    assert ratio.std() == pytest.approx(phantom_bottle.LOADING_ERROR, rel=0.15)
    assert ratio.mean() == pytest.approx(1, abs=2e-3)
    stated = bottle_sidecar("bids::a", drawn[0])
    assert stated["LoadingFactor"] == pytest.approx(drawn[0].measured, abs=1e-4)
    assert stated["SodiumConcentration"] == 50.0 != drawn[0].concentration


@pytest.mark.parametrize("kind", ["image", "kspace"])
def test_a_known_receiver_scales_the_data_and_changes_nothing_else(kind):
    place = Geometry(np.zeros(3), np.eye(3), (0.24,) * 3, (24,) * 3)
    grid = ScannerImage(24, 0.24, TIMING)

    def scan(receiver):
        rng = np.random.default_rng(3)
        if kind == "image":
            return scanner_image(rng, bottle(), grid, PROTOCOL, 20.0, receiver)
        return acquire_echoes(rng, [[bottle()]], [PROTOCOL], place, receiver)[0].samples

    one, two = scan(1.0), scan(0.8)
    np.testing.assert_allclose(two, 0.8 * one, rtol=1e-4, atol=1e-4 * np.abs(one).max())


def test_a_transceive_coil_receives_as_it_transmits():
    from sodiumprep.sodium.phantom import _scaled_sensitivities

    both = replace(PROTOCOL, transceive=True, transmit_spread=0.3)
    made = np.abs(_scaled_sensitivities(PLACES, both, HEAD.grey)[0])
    flip = transmit_field(PLACES, 0.3)
    ratio = (made / flip)[np.linalg.norm(PLACES, axis=0) < 0.1]
    assert flip[np.linalg.norm(PLACES, axis=0) < 0.1].min() < 0.9
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-5)


@pytest.mark.parametrize("options", [["--coils", "1"], ["--coils", "4", "--transmit-spread", "1"]])
def test_a_transceive_coil_is_one_and_has_a_flip_angle(options, capsys, tmp_path):
    assert command.main([str(tmp_path / "out"), "--transceive", *options]) == 2
    assert "--transceive needs --coils 1 and --transmit-spread" in capsys.readouterr().err
