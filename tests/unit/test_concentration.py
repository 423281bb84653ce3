"""From signals to concentrations: exactness where it is due, and every term of the uncertainty."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sodiumprep.sodium.calibrate import (
    REFERENCE_CSF,
    Calibration,
    fluid_lines,
    single_reference,
)
from sodiumprep.sodium.concentration import (
    Protocol,
    Reference,
    RegionalSignals,
    calibrated_by,
    concentration_table,
    effects_of_errors,
    region_flags,
    region_statistics,
    relative_changes,
    relative_u_relaxation,
    relaxation_changes,
    u_calibration,
    uncorrected_signals,
)
from sodiumprep.sodium.concentration_map import (
    BrainRegions,
    expected_factor,
    map_concentration,
)
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.relaxation import DECAYING, relative_change, relaxation_of
from sodiumprep.sodium.signal import Relaxation

PROTOCOL = Protocol(0.3e-3, 0.12, np.pi / 2)
TISSUES = [relaxation_of(name, 3.0) for name in ("GM", "WM", "CSF")]
FACTORS = np.array([PROTOCOL.factor(t) for t in TISSUES])
TRUTH = np.array([42.0, 37.0, 145.0])
SLOPE = 2.0
SIGNALS = SLOPE * TRUTH * FACTORS
LINE = Calibration(SLOPE, 0.0, np.diag([0.02**2, 0.0]), 0.999, np.zeros(4), 0.4)
MIXED = np.array([[0.5, 0.2, 0.0], [0.3, 0.8, 0.0], [0.2, 0.0, 1.0]])[:, :, None, None]


def u_relaxation(*known: Any) -> Any:
    return np.linalg.norm(relaxation_changes(*known), axis=0)


def signals(**changes):
    nothing = {
        "values": SIGNALS,
        "noise_variance": np.zeros(3),
        "kernel_change": np.zeros(3),
        "registration_changes": np.zeros((3, 3)),
        "border_changes": np.zeros((0, 3)),
        "u_receive": np.zeros(3),
        "u_transmit": np.zeros(3),
    }
    return RegionalSignals(**{**nothing, **changes})


def table(lines=LINE, tissues=TISSUES, factors=FACTORS, **changes):
    return concentration_table(signals(**changes), factors, tissues, PROTOCOL, lines)


def test_the_factor_of_a_mixed_voxel_gives_its_mixed_concentration_exactly():
    image = np.tensordot(SIGNALS, MIXED, 1)
    factor = expected_factor(SIGNALS, MIXED, FACTORS, 0.5)
    np.testing.assert_allclose(image / (SLOPE * factor), np.tensordot(TRUTH, MIXED, 1), rtol=1e-6)


def test_a_pure_voxel_has_the_factor_of_its_tissue():
    pure = np.eye(3)[:, :, None, None]
    np.testing.assert_allclose(expected_factor(SIGNALS, pure, FACTORS, 0.5).ravel(), FACTORS)


def test_outside_the_brain_the_factor_is_the_one_given():
    assert expected_factor(SIGNALS, np.zeros((3, 2, 2, 2)), FACTORS, 0.77)[0, 0, 0] == (
        pytest.approx(0.77)
    )


def test_a_region_of_negative_signal_weighs_nothing():
    noisy = np.array([SIGNALS[0], -5.0, SIGNALS[2]])
    halves = np.array([0.5, 0.5, 0.0])[:, None, None, None]
    assert expected_factor(noisy, halves, FACTORS, 0.5).item() == pytest.approx(FACTORS[0])


def maps_of(image, line):
    regions = BrainRegions(MIXED, SIGNALS, TISSUES, np.ones(3))
    lines = {"apparent": line, "corrected": line}
    return map_concentration(image, np.ones_like(image), regions, PROTOCOL, lines)


def test_maps_hold_the_true_concentration_of_pure_and_mixed_voxels():
    image = np.tensordot(SIGNALS, MIXED, 1).astype(np.float32)
    done = maps_of(image, LINE)
    np.testing.assert_allclose(done.corrected, np.tensordot(TRUTH, MIXED, 1), rtol=1e-5)
    np.testing.assert_allclose(done.apparent, image / SLOPE, rtol=1e-6)
    assert np.all(done.uncertainty > 1 / (SLOPE * FACTORS.max()))


def test_an_intercept_is_taken_from_every_voxel():
    image = (np.tensordot(SIGNALS, MIXED, 1) + 30).astype(np.float32)
    line = replace(LINE, intercept=30.0)
    done = maps_of(image, line)
    np.testing.assert_allclose(done.corrected, np.tensordot(TRUTH, MIXED, 1), rtol=1e-5)


def test_the_mean_factor_turns_a_mean_signal_into_the_mean_of_the_map():
    image = np.tensordot(SIGNALS, MIXED, 1).astype(np.float32)
    done = maps_of(image, LINE)
    weights = MIXED / MIXED.sum(axis=(1, 2, 3), keepdims=True)
    mean_signal, mean_map = ((weights * v).sum(axis=(1, 2, 3)) for v in (image, done.corrected))
    np.testing.assert_allclose(
        mean_signal / (SLOPE * done.mean_factors(MIXED)), mean_map, rtol=1e-5
    )


def test_a_table_holds_the_true_concentrations():
    np.testing.assert_allclose(table()["mean"], TRUTH)
    apparent = table(tissues=None, factors=np.ones(3))
    np.testing.assert_allclose(apparent["mean"], TRUTH * FACTORS)
    assert np.isnan(apparent["u_relaxation"]).all()


def test_terms_that_are_not_determined_are_nan():
    nothing = np.full(3, np.nan)
    found = table(kernel_change=nothing, u_receive=nothing, u_transmit=nothing)
    for name in ("u_b1", "u_segmentation", "u_pvc", "u_receive"):
        assert np.isnan(found[name]).all()
    assert np.isfinite(found["uncertainty"]).all()


def test_the_terms_combine_to_the_uncertainty_and_its_interval():
    changes = np.array([[1.0, 2, 3], [2.0, 2, 2], [0.0, 1, 2]])
    found = table(
        noise_variance=np.array([4.0, 9, 1]), kernel_change=np.array([1.0, -2, 4]),
        registration_changes=changes, u_receive=np.array([0.01, 0.02, 0.0]),
    )  # fmt: skip
    squares = [v**2 for k, v in found.items() if k.startswith("u_") and not np.isnan(v).any()]
    assert len(squares) == 7
    np.testing.assert_allclose(found["uncertainty"], np.sqrt(np.sum(squares, axis=0)))
    np.testing.assert_allclose(found["ci_high"] - found["ci_low"], 3.92 * found["uncertainty"])


def test_noise_is_scaled_like_the_signal():
    found = table(noise_variance=np.full(3, 4.0))
    np.testing.assert_allclose(found["u_noise"], 2.0 / (SLOPE * FACTORS))


def test_displacements_along_the_axes_add_in_squares():
    changes = np.array([[3.0, 0, 0], [4.0, 0, 0], [0.0, 0, 0]])
    found = table(registration_changes=changes)["u_registration"]
    np.testing.assert_allclose(found, [5 / (SLOPE * FACTORS[0]), 0, 0])


def test_the_slope_uncertainty_is_common_to_all_regions():
    found = u_calibration(SIGNALS, FACTORS, LINE)
    np.testing.assert_allclose(found / TRUTH, 0.01, rtol=1e-3)


def test_the_uncertainty_of_a_correlated_line_is_that_of_draws():
    covariance = np.array([[0.02**2, -0.6 * 0.02 * 1.5], [-0.6 * 0.02 * 1.5, 1.5**2]])
    line = Calibration(SLOPE, 10.0, covariance, 0.99, np.zeros(4), 0.01)
    drawn = np.random.default_rng(0).multivariate_normal([SLOPE, 10.0], covariance, 20_000)
    values = (SIGNALS - drawn[:, 1:]) / (drawn[:, :1] * FACTORS)
    np.testing.assert_allclose(u_calibration(SIGNALS, FACTORS, line), values.std(0), rtol=0.03)


def drawn_factors(tissue, rng):
    names = ("t1", "t2_short", "t2_long", "short_fraction")
    moved = {n: getattr(tissue, n) + rng.normal() * getattr(tissue, f"u_{n}") for n in names}
    return PROTOCOL.factor(replace(tissue, **moved))


def test_the_relaxation_uncertainty_is_that_of_draws():
    rng = np.random.default_rng(3)
    stated = u_relaxation(TRUTH, TISSUES, PROTOCOL, None) / TRUTH
    drawn = [np.std([drawn_factors(t, rng) for _ in range(2000)]) / f
             for t, f in zip(TISSUES, FACTORS, strict=True)]  # fmt: skip
    np.testing.assert_allclose(stated, drawn, rtol=0.08)


def test_the_relaxation_of_the_reference_cancels_in_itself_and_enters_all_others():
    alone = u_relaxation(TRUTH, TISSUES, PROTOCOL, None)
    found = u_relaxation(TRUTH, TISSUES, PROTOCOL, 2)
    assert found[2] == 0
    shared = alone[2] / TRUTH[2]
    np.testing.assert_allclose(found[:2], TRUTH[:2] * np.hypot(alone[:2] / TRUTH[:2], shared))


def test_a_change_that_scales_all_signals_cancels_against_the_reference():
    scaled = 0.05 * SIGNALS
    own = Reference(2, 0.05, np.full(3, 0.05), np.full(2, 0.05))
    found = table(
        kernel_change=scaled, registration_changes=np.stack([scaled] * 3),
        border_changes=np.stack([scaled] * 2), reference=own,
    )  # fmt: skip
    for name in ("u_pvc", "u_registration", "u_segmentation"):
        np.testing.assert_allclose(found[name], 0, atol=1e-9)


def test_a_shift_that_moves_signal_and_reference_apart_does_not_cancel():
    changes = np.zeros((6, 3))
    changes[0] = SIGNALS * [0.01, 0.0, -0.03]
    own = Reference(2, 0.0, np.array([-0.03, 0, 0, 0, 0, 0]), np.zeros(0))
    found = table(registration_changes=changes, reference=own)["u_registration"]
    np.testing.assert_allclose(found, TRUTH * [0.04, 0.03, 0], atol=1e-9)


def test_borders_err_independently_and_the_flip_angle_in_proportion():
    borders = np.array([[3.0, 0, 0], [4.0, 0, 0]])
    found = table(border_changes=borders, u_transmit=np.array([0.01, 0.0, 0.02]))
    np.testing.assert_allclose(found["u_segmentation"], [5 / (SLOPE * FACTORS[0]), 0, 0])
    np.testing.assert_allclose(found["u_b1"], TRUTH * [0.01, 0, 0.02])


def test_what_the_flip_angle_leaves_joins_the_relaxation_factor():
    left = np.array([0.97, 1.0, 1.02])
    regions = BrainRegions(MIXED, SIGNALS * left, TISSUES, left)
    np.testing.assert_allclose(regions.factors(PROTOCOL), FACTORS * left)
    image = np.tensordot(SIGNALS * left, MIXED, 1).astype(np.float32)
    lines = {"apparent": LINE, "corrected": LINE}
    done = map_concentration(image, np.ones_like(image), regions, PROTOCOL, lines)
    np.testing.assert_allclose(done.corrected, np.tensordot(TRUTH, MIXED, 1), rtol=1e-5)


def test_the_reference_has_no_noise_of_its_own_and_hands_its_change_to_the_others():
    lines = fluid_lines(float(SIGNALS[2]), 0.1, float(FACTORS[2]), REFERENCE_CSF)
    change = np.array([0.0, 0.0, 0.04 * SIGNALS[2]])
    raw = signals(noise_variance=np.ones(3), kernel_change=change)
    without = replace(raw, kernel_change=np.full(3, np.nan))
    every = {"none": without, "gtm": raw, "labbe": raw, "kspace": without}
    own = calibrated_by(every, "gtm", relative_changes(raw, 2))
    assert own["labbe"].noise_variance[2] == 1  # its fluid is not that of the calibration
    for name in ("none", "kspace"):  # use no kernel, their reference does
        told = concentration_table(own[name], FACTORS, TISSUES, PROTOCOL, lines["corrected"])
        np.testing.assert_allclose(told["u_pvc"], 0.04 * TRUTH)
    own = own["gtm"]
    found = concentration_table(own, FACTORS, TISSUES, PROTOCOL, lines["corrected"])
    assert found["u_noise"][2] == 0 < found["u_noise"][0]
    np.testing.assert_allclose(found["u_pvc"], [0.04 * TRUTH[0], 0.04 * TRUTH[1], 0], atol=1e-9)


HUMOUR = relaxation_of("vitreous", 3.0)


def test_a_reference_outside_the_rows_hands_its_changes_to_all_of_them():
    every = signals(
        values=np.append(SIGNALS, 250.0), noise_variance=np.ones(4),
        kernel_change=np.array([0.0, 0, 0, 0.04 * 250]),
        registration_changes=np.array([[0.0, 0, 0, 5.0], [0.0] * 4, [0.0] * 4]),
        border_changes=np.array([[0.0, 0, 0, 10.0]]),
    )  # fmt: skip
    rows = signals(noise_variance=np.ones(3), border_changes=np.zeros((1, 3)))
    own = calibrated_by({"gtm": rows}, "gtm", relative_changes(every, 3, HUMOUR))["gtm"]
    found = concentration_table(own, FACTORS, TISSUES, PROTOCOL, LINE)
    np.testing.assert_allclose(found["u_pvc"], 0.04 * TRUTH)
    np.testing.assert_allclose(found["u_registration"], 0.02 * TRUTH)
    np.testing.assert_allclose(found["u_segmentation"], 0.04 * TRUTH)
    np.testing.assert_allclose(found["u_noise"], 1 / (SLOPE * FACTORS))  # all rows keep theirs


def test_the_relaxation_of_a_reference_outside_the_rows_enters_every_row():
    alone = u_relaxation(TRUTH, TISSUES, PROTOCOL, None) / TRUTH
    shared = relative_u_relaxation(HUMOUR, PROTOCOL)
    found = u_relaxation(TRUTH, TISSUES, PROTOCOL, HUMOUR) / TRUTH
    np.testing.assert_allclose(found, np.hypot(alone, shared))
    assert shared == pytest.approx(2 * relative_u_relaxation(TISSUES[2], PROTOCOL), rel=0.1)


def test_constants_without_uncertainty_add_none():
    exact = [Relaxation(0.04, 0.004, 0.02, 0.6)] * 3
    assert not u_relaxation(TRUTH, exact, PROTOCOL, None).any()


def test_an_image_without_known_noise_still_gives_a_table():
    lines = fluid_lines(float(SIGNALS[2]), float("nan"), float(FACTORS[2]), REFERENCE_CSF)
    found = table(
        lines=lines["corrected"],
        noise_variance=np.full(3, np.nan),
        reference=Reference(2, 0.0, np.zeros(3), np.zeros(0)),
    )
    np.testing.assert_allclose(found["mean"], TRUTH)
    assert np.isfinite(found["uncertainty"]).all()


def test_uncorrected_signals_are_weighted_means_with_their_noise():
    image = np.random.default_rng(0).normal(10, 1, (6, 6, 6))
    fractions = np.stack([np.full((6, 6, 6), 0.25), np.full((6, 6, 6), 0.75)])
    noise = ImageNoise(np.full((6, 6, 6), 2.0), np.ones((12, 12, 7)))
    found = uncorrected_signals(image, fractions, noise, np.full(3, 0.1))
    np.testing.assert_allclose(found.values, image.mean())
    np.testing.assert_allclose(found.noise_variance, 4.0 / 216, rtol=1e-6)
    assert np.isnan(found.kernel_change).all()
    assert found.registration_changes.shape == (6, 2)


def test_statistics_of_a_region_are_weighted():
    values = np.array([1.0, 2, 3, 100]).reshape(4, 1, 1)
    weights = np.array([1.0, 1, 1, 0]).reshape(1, 4, 1, 1)
    found = region_statistics(values, weights)
    assert found["mean"][0] == pytest.approx(2)
    assert found["sd"][0] == pytest.approx(np.sqrt(2 / 3))
    assert found["median"][0] == pytest.approx(2)
    assert found["q25"][0] < 2 < found["q75"][0]


KNOWN = {"ReceiveUncorrected": False, "PointSpreadFWHM": {"GM": [6.0, 6.0, 6.0]}}


@pytest.mark.parametrize(
    ("voxels", "covered", "uncorrected", "flag"),
    [
        (100, 1.0, False, "n/a"),
        (1, 1.0, False, "smaller_than_psf"),
        (100, 0.9, False, "partly_outside"),
        (100, 1.0, True, "receive_uncorrected"),
        (1, 0.9, True, "receive_uncorrected,smaller_than_psf,partly_outside"),
    ],
)
def test_a_row_is_flagged_for_what_a_reader_must_know(voxels, covered, uncorrected, flag):
    known = {**KNOWN, "ReceiveUncorrected": uncorrected}
    volume = np.array([voxels * 0.064])
    assert region_flags(volume, np.array([covered]), known, ["GM"]) == [flag]


def test_every_row_of_a_misplaced_image_is_flagged():
    known = {**KNOWN, "RegistrationFailed": True, "ReceiveUncorrected": True}
    flags = region_flags(np.full(1, 6.4), np.ones(1), known, ["GM"])
    assert flags == ["registration_failed,receive_uncorrected"]


def test_an_implausible_brain_is_flagged_in_every_row():
    known = {"BrainImplausible": True, "PointSpreadFWHM": dict.fromkeys(("GM", "WM"), [6.0] * 3)}
    flags = region_flags(np.full(2, 6.4), np.ones(2), known, ["GM", "WM"])
    assert flags == ["brain_implausible"] * 2


def test_the_noise_of_the_reference_reaches_the_others_through_the_line():
    line = single_reference(100.0, 1.0, (145.0, 0.0))
    found = table(lines=line)["u_calibration"] / table(lines=line)["mean"]
    np.testing.assert_allclose(found, 0.01, rtol=1e-3)


def test_a_given_shift_cancels_against_the_reference_with_its_sign():
    shift = np.zeros((7, 3))
    shift[0] = SIGNALS * [0.02, -0.02, 0.02]  # the last one calibrates
    line = replace(LINE, intercept=0.0)
    effects = effects_of_errors(shift, SIGNALS, FACTORS, line, shift[:, 2] / SIGNALS[2])
    expected = TRUTH * [0.0, 0.04, 0.0]
    np.testing.assert_allclose(effects["change_position_1mm"], expected, atol=1e-12)
    alone = effects_of_errors(shift, SIGNALS, FACTORS, line, None)
    np.testing.assert_allclose(alone["change_position_1mm"], 0.02 * TRUTH)


def test_a_constant_errs_in_factor_and_kernel_at_once():
    plain = u_relaxation(TRUTH, TISSUES, PROTOCOL, None)
    changes = np.zeros((3, 3, 3))
    long = DECAYING.index("t2_long")
    of_factor = relative_change(PROTOCOL.factor, TISSUES[0], "t2_long")
    changes[0, long, 0] = -of_factor * TRUTH[0]  # its kernel makes as much of it again
    changes[0, long, 1] = 0.01 * TRUTH[1]  # and changes a neighbour
    found = u_relaxation(TRUTH, TISSUES, PROTOCOL, None, changes)
    added = 3 * (of_factor * TRUTH[0]) ** 2
    np.testing.assert_allclose(found[0] ** 2 - plain[0] ** 2, added)
    np.testing.assert_allclose(found[1] ** 2 - plain[1] ** 2, (0.01 * TRUTH[1]) ** 2)
    assert found[2] == pytest.approx(plain[2])
    apparent = u_relaxation(TRUTH, None, PROTOCOL, None, changes)
    np.testing.assert_allclose(apparent, [abs(of_factor) * TRUTH[0], 0.01 * TRUTH[1], 0])
    assert np.isnan(u_relaxation(TRUTH, None, PROTOCOL, None, 0 * changes)).all()


def test_the_reference_cancels_with_its_kernel():
    changes = np.zeros((3, 3, 3))
    changes[2] = 0.02 * TRUTH  # other constants of fluid change all alike
    found = u_relaxation(TRUTH, TISSUES, PROTOCOL, 2, changes, changes[:, :, 2] / TRUTH[2])
    np.testing.assert_allclose(found, u_relaxation(TRUTH, TISSUES, PROTOCOL, 2), atol=1e-9)
