"""A clean phantom raises no flag; each fault raises its own and no other."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sodiumprep.bids_app.group.quality import QUALITY
from sodiumprep.interfaces.quality import calibration_figures, judged
from sodiumprep.sodium.artifacts import (
    LEAST_READOUTS,
    brain_dice,
    find_spikes,
    ghosting,
    negative_share,
)
from sodiumprep.sodium.calibrate import Calibration
from sodiumprep.sodium.quality import THRESHOLDS, Threshold, figures_of, raise_flags, untold
from sodiumprep.sodium.trajectory import cones, radial

PAGE = Path(__file__).parents[2] / "docs/quality.md"
FWHM = np.full(3, 1.7)
RADIUS = np.linalg.norm(np.indices((56, 56, 56)) - 27.5, axis=0)
BRAIN, HEAD = RADIUS < 12, RADIUS < 19
FOV = 0.22


def blurred(mask):
    return gaussian_filter(mask.astype(float), FWHM / 2.355)


def clean():
    """Return what a faultless image is made of: brain, skull with little sodium, scalp."""
    scalp = HEAD & (RADIUS > 16)
    image = 40 * blurred(BRAIN) + 20 * blurred(scalp) + 10 * blurred(HEAD & ~BRAIN & ~scalp)
    noise = np.random.default_rng(4).normal(0, 3.0, image.shape)
    return {"image": image + noise, "noise": np.full(image.shape, 3.0), "brain": blurred(BRAIN),
            "bodies": HEAD.astype(float)}  # fmt: skip


def readouts():
    """Return the samples of an ellipsoid-like head with noise, of two coils."""
    places = radial(400, 40, 100.0)
    squares = np.einsum("ijk,k->ij", places**2, [0.08**2, 0.1**2, 0.07**2])
    signal = 100 * np.exp(-squares) * np.exp(2j * np.pi * places @ [0.01, 0.02, 0.0])
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(2, 2, *signal.shape))
    return np.stack([signal, 0.5j * signal]) + noise[0] + 1j * noise[1], places


def line(residuals):
    return Calibration(2.0, 0.0, np.zeros((2, 2)), 0.99, np.array(residuals), 0.5)


VIALS = [{"name": name, "concentration": c, "used": True} for name, c in (("a", 50.0), ("b", 100))]


def metrics(parts=None, samples=None, residuals=(1.0, -2.0), **others):
    """Return the entries of a QC file."""
    parts, (given, places) = parts or clean(), readouts()
    spikes = find_spikes(given if samples is None else samples, places, FOV)
    ghosts = ghosting(parts["image"], parts["noise"], parts["bodies"], parts["brain"], FWHM)
    return {
        "SNR": {"GM": 14.0, "WM": 13.0, "CSF": 50.0}, "SpikeShare": spikes.share,
        "GhostShare": ghosts.share, "BrainDice": brain_dice(parts["image"], parts["brain"], FWHM),
        "NegativeShare": negative_share(parts["image"], parts["brain"]),
        "Motion": [{"displacement_mm": 0.0}, {"displacement_mm": 1.0}],
        "RegistrationScore": 0.9, "RegistrationError95": 0.3, "BrainImplausible": False,
        "TissueFractions": {"GM": 0.5, "WM": 0.3, "CSF": 0.2},
        "Concentrations": {"GM": 40.0, "WM": 36.0, "CSF": 145.0},
        **calibration_figures(VIALS, line(residuals)), "CalibrationOutlier": None,
        "CalibrationForced": False, "ReceiveUncorrected": False, "ConditionNumber": 8.0,
        "ResidualOverNoise": {"GM": 1.8, "CSF": 2.2}, **others,
    }  # fmt: skip


def names(entries):
    return list(dict.fromkeys(flag["Name"] for flag in raise_flags(entries)))


def test_a_clean_phantom_raises_no_flag():
    assert names(metrics()) == []


@pytest.mark.parametrize("height", [15.0, 40.0, 1000.0])
def test_a_spike_raises_its_flag_alone_and_its_readout_is_named(height):
    samples, places = readouts()
    samples[1, 123, 37] += height
    assert names(metrics(samples=samples)) == ["spikes"]
    assert find_spikes(samples, places, FOV).readouts == [123]
    assert find_spikes(samples, places, FOV).share == 1 / 400


@pytest.mark.parametrize("gain", [0.3, 0.0, 3.0])
def test_a_readout_of_another_gain_stands_out(gain):
    samples, places = readouts()
    samples[:, 7] *= gain
    assert find_spikes(samples, places, FOV).readouts == [7]


def test_a_straight_readout_among_wound_ones_does_not_stand_out():
    places = cones(400, 60, 100.0)
    squares = np.einsum("ijk,k->ij", places**2, [0.08**2, 0.1**2, 0.07**2])
    noise = np.random.default_rng(3).normal(size=(2, *squares.shape))
    samples = (100 * np.exp(-squares) + noise[0] + 1j * noise[1])[None]
    assert find_spikes(samples, places, FOV).readouts == []


def test_readouts_that_begin_outside_of_the_centre_are_not_compared_by_their_signal():
    samples, places = readouts()
    samples[:, 7] *= 0.3
    assert find_spikes(samples[:, :, 3:], places[:, 3:], FOV).readouts == []


def test_scale_of_the_samples_and_order_of_the_readouts_change_nothing():
    samples, places = readouts()
    samples[0, 5, 30] = 60
    order = np.random.default_rng(0).permutation(samples.shape[1])
    found = find_spikes(samples, places, FOV)
    moved = find_spikes(1e-7 * samples[:, order], places[order], FOV)
    assert (moved.share, order[moved.readouts].tolist()) == (found.share, found.readouts)


def test_few_readouts_tell_nothing():
    samples, places = readouts()
    few = slice(LEAST_READOUTS - 1)
    assert find_spikes(samples[:, few], places[few], FOV) is None


def test_a_ghost_raises_its_flag_alone():
    parts = clean()
    ghost = np.roll(40 * blurred(BRAIN), 28, axis=1)
    assert names(metrics({**parts, "image": parts["image"] + 0.3 * ghost})) == ["ghosting"]


def test_the_score_of_noise_alone_is_about_one_and_the_share_follows_the_ghost():
    brain, noise = blurred(BRAIN), np.random.default_rng(1).normal(size=HEAD.shape)
    arguments = (np.ones(HEAD.shape), HEAD.astype(float), brain, FWHM)
    alone = ghosting(40 * brain + noise, *arguments)
    assert (alone.score, alone.share) == (pytest.approx(1.1, abs=0.1), 0)
    ghost = np.roll(40 * brain, 28, axis=0)
    weak, strong = (
        ghosting(40 * brain + share * ghost + noise, *arguments).share for share in (0.3, 0.6)
    )
    assert strong / weak == pytest.approx(2, rel=0.05)
    assert 0.1 < weak < 0.3


def test_the_background_of_a_magnitude_image_is_compared_with_itself():
    parts = clean()
    bias_removed = np.where(HEAD, parts["image"], 2.5 * (parts["image"]))
    arguments = (parts["noise"], parts["bodies"], parts["brain"], FWHM)
    assert ghosting(bias_removed, *arguments).share > 0.08
    assert ghosting(bias_removed, *arguments, magnitude=True).share == 0
    ghost = np.roll(40 * blurred(BRAIN), 28, axis=1)
    assert ghosting(bias_removed + ghost, *arguments, magnitude=True).share > 0.08
    assert ghosting(np.where(HEAD, 1.0, 1e-30), *arguments, magnitude=True) is None


def test_without_background_or_noise_there_is_no_ghosting_score():
    parts = clean()
    arguments = {"bodies": parts["bodies"], "brain": parts["brain"], "fwhm": FWHM}
    assert ghosting(parts["image"], parts["noise"] * np.nan, **arguments) is None
    everywhere = {**arguments, "bodies": np.ones(HEAD.shape)}
    assert ghosting(parts["image"], parts["noise"], **everywhere) is None


def test_negative_voxels_raise_their_flag_alone():
    parts = clean()
    inside = np.argwhere(BRAIN & (RADIUS < 10))[::15]
    parts["image"][tuple(inside.T)] *= -1
    assert names(metrics(parts)) == ["negative_voxels"]
    assert negative_share(parts["image"], np.zeros(HEAD.shape)) is None


@pytest.mark.parametrize(
    "wrong", [RADIUS < 9, RADIUS < 16, np.roll(BRAIN, 4, axis=0)], ids=["cut", "grown", "moved"]
)
def test_a_wrong_brain_mask_raises_its_flag_alone(wrong):
    assert names(metrics({**clean(), "brain": blurred(wrong)})) == ["brain_dice"]


def test_a_dice_coefficient_needs_a_brain():
    assert brain_dice(clean()["image"], np.zeros(HEAD.shape), FWHM) is None


def test_a_bad_vial_raises_its_flag_alone():
    assert names(metrics(residuals=(16.0, -2.0))) == ["calibration_scatter"]


def test_residuals_are_over_the_concentration_and_leave_out_what_the_line_does():
    told = calibration_figures(VIALS, line((10.0, -4.0)))
    assert told["CalibrationResiduals"] == {"a": 0.1, "b": -0.02}
    assert told["CalibrationResidualSD"] == pytest.approx(np.sqrt((25 + 4) / 2), abs=1e-3)
    without = [VIALS[0], {**VIALS[1], "used": False}]
    assert calibration_figures(without, line((10.0, -4.0)))["CalibrationResiduals"] == {"a": 0.1}
    assert calibration_figures(without, line((10.0,)))["CalibrationResiduals"] == {"a": 0.1}
    assert calibration_figures([], line((10.0,))) == {}


@pytest.mark.parametrize(
    ("flag", "entries"),
    [
        ("snr_low", {"SNR": {"GM": 14.0, "WM": 4.0}}),
        ("motion", {"Motion": [{"displacement_mm": 7.0}]}),
        ("repetitions_lost", {"Motion": [{"displacement_mm": 1.0}, {"rejected": "no pose"}]}),
        ("registration_failed", {"RegistrationScore": 0.4}),
        ("registration_failed", {"RegistrationError95": 6.0}),
        ("brain_implausible", {"BrainImplausible": True}),
        ("tissue_fractions", {"TissueFractions": {"GM": 0.2, "WM": 0.5, "CSF": 0.3}}),
        ("csf_implausible", {"Concentrations": {"GM": 40.0, "CSF": 80.0}}),
        ("gm_implausible", {"Concentrations": {"GM": 90.0}}),
        ("wm_implausible", {"Concentrations": {"WM": 10.0}}),
        ("calibration_forced", {"CalibrationForced": True}),
        ("calibration_outlier", {"CalibrationOutlier": "1 low"}),
        ("receive_uncorrected", {"ReceiveUncorrected": True}),
        ("ill_conditioned", {"ConditionNumber": 60.0}),
        ("residual_large", {"ResidualOverNoise": {"GM": 1.0, "CSF": 12.0}}),
    ],
)
def test_every_other_figure_raises_its_flag_alone(flag, entries):
    assert names(metrics(**entries)) == [flag]


def test_every_threshold_has_a_case_here_and_keeps_its_bounds():
    text = Path(__file__).read_text()
    assert all(f'"{limit.flag}"' in text for limit in THRESHOLDS)
    for limit in THRESHOLDS:
        for bound in (limit.low, limit.high):
            assert bound is None or limit.broken(bound) is None
        assert limit.broken(np.nan) is not None


def test_what_is_not_known_raises_nothing():
    assert raise_flags({}) == []
    assert figures_of({"SNR": None, "Motion": [], "SpikeShare": None, "Flags": []}) == {}


def test_a_flag_tells_value_bound_and_reason_and_becomes_a_warning_once():
    told = judged({"Warnings": ["wide steps"], "SNR": {"GM": 3.0}, "CalibrationForced": True})
    low, forced = told["Flags"]
    assert (low["Value"], low["Threshold"], low["Unit"]) == (3.0, 5.0, "1")
    assert forced["Name"] == "calibration_forced"
    assert told["Warnings"] == ["wide steps", low["Reason"]]
    assert untold([forced]) == []


def rows(text):
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip("`") for cell in row) for row in cells]


def test_the_page_on_quality_shows_the_thresholds_as_they_are():
    assert len(fields(Threshold)) == 8
    shown = [row for row in rows(PAGE.read_text()) if len(row) == 5]
    known = [(t.flag, t.figure, t.unit, bounds(t), t.why) for t in THRESHOLDS]
    assert shown == known


def bounds(limit):
    if limit.unit == "yes or no":
        return "no"
    if limit.low is None:
        return f"at most {limit.high:g}"
    return f"at least {limit.low:g}" if limit.high is None else f"{limit.low:g} to {limit.high:g}"


def test_the_page_on_quality_explains_every_figure_of_the_cohort():
    text = PAGE.read_text()
    assert [key for key, _, _ in QUALITY.values() if f"`{key}`" not in text] == []
