"""Calibration lines against other implementations, and what they refuse."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import odr

from sodiumprep.bids_app.settings import FLUID_REFERENCES
from sodiumprep.sodium.calibrate import (
    FLUIDS,
    MINIMUM_R2,
    REFERENCE_CSF,
    REFERENCE_VITREOUS,
    Calibration,
    Verdict,
    VialSignal,
    core_signal,
    fit_vials,
    fluid_lines,
    judge_vials,
    line_through_origin,
    magnetization_factor,
    require_distinct,
    single_reference,
    verdict_text,
    vial_lines,
    york_line,
)

# Pearson's points with York's weights
PEARSON_X = np.array([0.0, 0.9, 1.8, 2.6, 3.3, 4.4, 5.2, 6.1, 6.5, 7.4])
PEARSON_Y = np.array([5.9, 5.4, 4.4, 4.6, 3.5, 3.7, 2.8, 2.8, 2.4, 1.5])
U_X = np.array([1000, 1000, 500, 800, 200, 80, 60, 20, 1.8, 1]) ** -0.5
U_Y = np.array([1, 1.8, 4, 8, 20, 20, 70, 70, 100, 500]) ** -0.5
LEVELS = np.array([20.0, 40, 80, 120])


def test_the_line_through_pearsons_points_is_the_published_one():
    line, covariance = york_line(PEARSON_X, PEARSON_Y, U_X, U_Y)
    np.testing.assert_allclose(line, [-0.480533407, 5.47991022], rtol=1e-7)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [0.0580, 0.295], rtol=5e-3)


def test_the_line_agrees_with_orthogonal_distance_regression():
    rng = np.random.default_rng(0)
    x = np.linspace(10, 150, 8) + rng.normal(0, 2, 8)
    y = 3 * np.linspace(10, 150, 8) + 7 + rng.normal(0, 5, 8)
    weights = odr.RealData(x, y, sx=np.full(8, 2.0), sy=np.full(8, 5.0))
    other = odr.ODR(weights, odr.unilinear, beta0=[3.0, 0.0]).run()
    line, covariance = york_line(x, y, np.full(8, 2.0), np.full(8, 5.0))
    np.testing.assert_allclose(line, other.beta, rtol=1e-4)
    np.testing.assert_allclose(np.diag(covariance), np.diag(other.cov_beta), rtol=0.02)


def test_exact_concentrations_give_weighted_least_squares():
    u = np.array([1.0, 2, 1, 3, 1])
    x, y = np.arange(5.0), np.array([1.0, 3.2, 4.9, 7.5, 8.8])
    line, covariance = york_line(x, y, np.zeros(5), u)
    expected, other = np.polyfit(x, y, 1, w=1 / u, cov="unscaled")
    np.testing.assert_allclose(line, expected)
    np.testing.assert_allclose(covariance, other)


def test_exact_signals_give_the_inverse_regression():
    x, y = np.array([0.1, 0.9, 2.2, 2.9]), np.arange(4.0)
    line, _ = york_line(x, y, np.ones(4), np.zeros(4) + 1e-9)
    assert line[0] == pytest.approx(1 / np.polyfit(y, x, 1)[0], rel=1e-6)


def test_the_line_through_the_origin_agrees_with_orthogonal_distance_regression():
    x, y = np.array([9.0, 21, 33, 38]), np.array([22.0, 38, 61, 83])
    points = odr.RealData(x, y, sx=np.full(4, 1.0), sy=np.full(4, 3.0))
    other = odr.ODR(points, odr.Model(lambda b, x: b[0] * x), beta0=[2.0]).run()
    slope, variance = line_through_origin(x, y, np.full(4, 1.0), np.full(4, 3.0))
    # the weights follow the slope, the points do not move: close, not equal
    assert slope == pytest.approx(other.beta[0], rel=5e-3)
    assert variance == pytest.approx(other.cov_beta[0, 0], rel=0.05)


def fit(signals, u=0.5, levels=LEVELS):
    return fit_vials(levels, np.asarray(signals), 0.01 * levels, np.full(len(levels), u))


def test_an_intercept_that_is_not_significant_becomes_zero():
    line = fit(2 * LEVELS + np.array([0.3, -0.4, 0.2, -0.1]))
    assert line.intercept == 0
    assert line.intercept_test > 0.05
    assert line.covariance[1, 1] == 0


def test_a_significant_intercept_stays():
    line = fit(2 * LEVELS + 30)
    assert line.intercept == pytest.approx(30, rel=1e-6)
    assert line.intercept_test < 0.05


def test_a_negative_intercept_is_no_noise_floor():
    line = fit(2 * LEVELS - 8)
    assert line.intercept == 0
    assert line.intercept_test < 0.05


def test_the_covariance_covers_repeated_measurements():
    rng = np.random.default_rng(1)
    lines = [fit(2 * LEVELS + 30 + rng.normal(0, 1.0, 4), u=1.0) for _ in range(150)]
    spread = np.std([line.slope for line in lines])
    stated = np.sqrt(np.mean([line.covariance[0, 0] for line in lines]))
    assert spread < stated < 4 * spread  # the concentrations' own share did not vary


def test_scatter_beyond_the_stated_uncertainty_widens_the_line():
    bent = 2 * LEVELS + 30 + np.array([8.0, -8, -8, 8])
    assert fit(bent).covariance[0, 0] > 10 * fit(2 * LEVELS + 30).covariance[0, 0]


def test_a_line_turns_its_own_signals_into_concentrations():
    line = fit(2 * LEVELS + 30)
    np.testing.assert_allclose(line.concentration(2 * LEVELS + 30), LEVELS)
    assert line.r_squared == pytest.approx(1.0)
    np.testing.assert_allclose(line.residuals, 0, atol=1e-9)


def test_two_vials_are_enough():
    line = fit([40.0, 160.0], levels=np.array([20.0, 80.0]))
    assert line.slope == pytest.approx(2.0)


def test_one_level_is_refused():
    with pytest.raises(ValueError, match=r"1 distinct .*\[50.0\] mmol/L.* at least 2"):
        require_distinct(np.array([50.0, 50.0, 50.0]))


def test_a_falling_line_is_refused():
    with pytest.raises(ValueError, match="slope .* must be positive"):
        fit(300 - 2 * LEVELS)


def test_a_poor_line_is_refused_with_its_r_squared():
    with pytest.raises(ValueError, match=r"R squared .* is -?0\.\d+; at least 0.95"):
        fit([40, 160, 100, 240])


def test_a_poor_line_is_taken_by_force_and_is_as_uncertain_as_it_is_poor():
    poor = np.array([40.0, 160, 100, 240])
    forced = fit_vials(LEVELS, poor, 0.01 * LEVELS, np.full(4, 0.5), force=True)
    assert forced.r_squared < MINIMUM_R2
    assert np.sqrt(forced.covariance[0, 0]) > 0.1 * forced.slope


def test_a_falling_line_is_refused_even_by_force():
    with pytest.raises(ValueError, match="slope .* must be positive"):
        fit_vials(LEVELS, 300 - 2 * LEVELS, 0.01 * LEVELS, np.full(4, 0.5), force=True)


def test_a_single_reference_gives_back_its_concentration_and_uncertainty():
    line = single_reference(290.0, 2.9, (145.0, 5.0))
    assert line.concentration(np.array(290.0)) == pytest.approx(145.0)
    relative = np.sqrt(line.covariance[0, 0]) / line.slope
    assert relative == pytest.approx(np.hypot(0.01, 5 / 145))


@pytest.mark.parametrize("signal", [0.0, -3.0, float("nan")])
def test_a_reference_without_signal_is_refused(signal):
    with pytest.raises(ValueError, match="reference signal"):
        single_reference(signal, 1.0, (145.0, 5.0))


def test_cerebrospinal_fluid_keeps_its_assumed_value_in_both_lines():
    lines = fluid_lines(200.0, 1.0, 0.8, REFERENCE_CSF)
    assert lines["apparent"].concentration(np.array(200.0)) == pytest.approx(REFERENCE_CSF[0])
    corrected = lines["corrected"].concentration(np.array(200.0)) / 0.8
    assert corrected == pytest.approx(REFERENCE_CSF[0])


def test_an_assumed_concentration_is_as_uncertain_as_it_is_said_to_be():
    line = fluid_lines(200.0, 0.0, 0.8, REFERENCE_VITREOUS)["corrected"]
    assert line.slope == pytest.approx(200.0 / (140.0 * 0.8))
    assert np.sqrt(line.covariance[0, 0]) / line.slope == pytest.approx(10 / 140)
    assert set(FLUIDS) == set(FLUID_REFERENCES)  # those that the command line knows


def test_a_vial_at_room_temperature_has_more_magnetization():
    assert magnetization_factor(37.0)[0] == pytest.approx(1.0, abs=1e-3)
    assert magnetization_factor(21.0) == (pytest.approx(1.054, abs=1e-3), 0.0)


def test_an_unknown_temperature_is_uncertain_by_three_per_cent():
    assert magnetization_factor(None) == (1.0, 0.03)


@pytest.mark.parametrize("temperature", [-40.0, 310.0, float("nan")])
def test_a_temperature_of_no_liquid_is_refused(temperature):
    with pytest.raises(ValueError, match="degrees Celsius"):
        magnetization_factor(temperature)


def vials(gain=2.0, temperature=37.0, factors=(0.9, 0.85, 0.8, 0.8)):
    warm = magnetization_factor(temperature)[0]
    return [
        VialSignal(gain * c * f * warm, 0.2, 30, f, f"{n}", c, 0.01 * c, temperature)
        for n, (c, f) in enumerate(zip(LEVELS, factors, strict=True))
    ]


@pytest.mark.parametrize("temperature", [21.0, 37.0])
def test_vials_are_corrected_for_relaxation_and_temperature_once_each(temperature):
    lines = vial_lines(vials(temperature=temperature, factors=(0.9, 0.88, 0.86, 0.87)))
    assert lines["corrected"].slope == pytest.approx(2.0, rel=1e-6)
    assert 2 * 0.84 < lines["apparent"].slope < 2 * 0.9


def test_an_unknown_temperature_widens_the_slope():
    known = [VialSignal(**{**vars(v), "temperature": 37.0}) for v in vials()]
    unknown = [VialSignal(**{**vars(v), "temperature": None}) for v in vials()]
    added = vial_lines(unknown)["corrected"].covariance - vial_lines(known)["corrected"].covariance
    assert np.sqrt(added[0, 0]) == pytest.approx(0.03 * 2.0, rel=0.01)


def uncertain_vials(materials, floor=0.0):
    return [replace(v, u_factor=0.02, material=m, signal=v.signal + floor)
            for v, m in zip(vials(), materials, strict=True)]  # fmt: skip


def test_constants_that_all_vials_share_scale_the_slope_and_leave_apparent_values():
    lines, before = vial_lines(uncertain_vials([0] * 4)), vial_lines(vials())
    added = lines["corrected"].covariance - before["corrected"].covariance
    np.testing.assert_allclose(added, [[(0.02 * 2.0) ** 2, 0], [0, 0]], atol=1e-9)
    np.testing.assert_array_equal(lines["apparent"].covariance, before["apparent"].covariance)


@pytest.mark.parametrize("floor", [0.0, 60.0])
def test_constants_of_several_materials_act_on_the_line_as_shifts_of_each_do(floor):
    known = uncertain_vials([0, 0, 1, 2], floor)
    exact = vial_lines([replace(v, u_factor=0.0) for v in known])["corrected"].covariance

    def line(material, change):
        moved = [replace(v, factor=v.factor * (1 + change * (v.material == material)))
                 for v in known]  # fmt: skip
        found = vial_lines(moved)["corrected"]
        return np.array([found.slope, found.intercept])

    shifts = [(line(m, 2e-3) - line(m, -2e-3)) * 5 for m in range(3)]  # to 0.02
    expected = sum(np.outer(s, s) for s in shifts)
    added = vial_lines(known)["corrected"].covariance - exact
    np.testing.assert_allclose(added, expected, rtol=0.05, atol=1e-4)
    assert (line(0, 0.0)[1] > 0) == (floor > 0)


def test_vials_of_one_level_are_refused():
    with pytest.raises(ValueError, match="distinct"):
        vial_lines([vials()[0]] * 3)


def test_vials_of_one_level_are_refused_even_by_force():
    with pytest.raises(ValueError, match="distinct"):
        vial_lines([vials()[0]] * 3, force=True)


def test_vials_without_signal_are_refused():
    dark = [VialSignal(**{**vars(v), "signal": 0.0, "u_signal": 0.0}) for v in vials()]
    with pytest.raises(ValueError, match="brightest vial has a signal of 0; it must be positive"):
        vial_lines(dark)


def good_vials(rng, levels, error=0.01, noise=2.0, core=100):
    """Draw vials whose gain and filling err by 1 % each, and whose voxels are noisy."""
    gain = 3.0 * (1 + error * rng.standard_normal(len(levels)))
    filling = levels * (1 + 0.01 * rng.standard_normal(len(levels)))
    u = 3.0 * noise / np.sqrt(core)
    signals = gain * 0.9 * filling + u * rng.standard_normal(len(levels))
    return [
        VialSignal(s, u, core, 0.9, f"{k} gel", c, 0.01 * c, 37.0)
        for k, (s, c) in enumerate(zip(signals, levels, strict=True))
    ]


def misstated(some, k, factor):
    """State the concentration of one vial wrongly."""
    wrong = {n: factor * getattr(some[k], n) for n in ("concentration", "u_concentration")}
    return [*some[:k], replace(some[k], **wrong), *some[k + 1 :]]


GREY = np.array(3.0 * 0.85 * 40)  # signal
VIAL_SETS = [(30.0, 60, 100), (20.0, 50, 80, 120), (20.0, 40, 60, 90, 120),
             (20.0, 40, 60, 80, 100, 120)]  # fmt: skip


@pytest.mark.parametrize("factor", [0.6, 1.4])
@pytest.mark.parametrize("levels", VIAL_SETS[1:], ids=len)
def test_one_vial_off_by_two_fifths_is_named_and_changes_grey_matter_by_less_than_two_percent(
    levels, factor
):
    good = good_vials(np.random.default_rng(4), np.array(levels))
    before = vial_lines(good)["corrected"].concentration(GREY)
    changes = []
    for k in range(len(levels)):
        bad = misstated(good, k, factor)
        assert judge_vials(bad).outlier == k
        changes.append(vial_lines(bad)["corrected"].concentration(GREY) / before - 1)
    print(f"{len(levels)} vials, x {factor}: grey matter changes by {100 * max(changes):.2f} %, "
          f"{100 * min(changes):.2f} % at most")  # fmt: skip
    assert np.abs(changes).max() < 0.02


@pytest.mark.parametrize("levels", VIAL_SETS, ids=len)
def test_good_vials_are_hardly_ever_called_outliers_and_bad_ones_mostly(levels):
    rng, n = np.random.default_rng(5), len(levels)
    false = sum(judge_vials(good_vials(rng, np.array(levels), 0.03)).outlier is not None
                for _ in range(60))  # fmt: skip
    bad = [
        judge_vials(misstated(good_vials(rng, np.array(levels)), k, factor)).outlier == k
        for k in range(n) for factor in (0.6, 1.4) for _ in range(2)
        if (n, k, factor) != (3, 0, 0.6)  # that could be a noise floor under all
    ]  # fmt: skip
    print(f"{n} vials: {false} of 60 good sets, {100 * np.mean(bad):.0f} % of bad vials named")
    assert false <= 1
    assert np.mean(bad) > 0.9


def test_both_lines_leave_out_the_same_vial():
    bad = misstated(vials(), 2, 1.4)
    for name, line in vial_lines(bad).items():
        expected = vial_lines([*bad[:2], bad[3]])[name]
        np.testing.assert_allclose(line.slope, expected.slope)
        np.testing.assert_allclose(line.covariance, expected.covariance)
        assert np.argmax(np.abs(line.residuals)) == 2
        assert len(line.residuals) == 4


def test_what_is_left_out_does_not_count_in_r_squared():
    bad = misstated(vials(factors=(0.9,) * 4), 3, 0.3)
    assert vial_lines(bad)["corrected"].r_squared > 0.999
    with pytest.raises(ValueError, match="R squared"):
        fit([2 * c for c in LEVELS], levels=LEVELS * [1, 1, 1, 0.3])


def test_an_outlier_is_told_with_its_departure():
    text = verdict_text(judge_vials(misstated(vials(), 1, 1.4)), misstated(vials(), 1, 1.4))
    assert "vial '1' (56 mmol/L) is an outlier and left out" in text
    assert re.search(r"departs by -2[6-9] % .* SodiumConcentration right", text)


@pytest.mark.parametrize("wrong", [(0.6, 1.0), (1.0, 1.4), (1.5, 0.7)])
def test_two_vials_cannot_tell_which_one_is_wrong(wrong):
    pair = [vials()[0], vials()[3]]
    bad = [misstated([v], 0, f)[0] for v, f in zip(pair, wrong, strict=True)]
    verdict = judge_vials(bad)
    assert verdict.outlier is None
    assert verdict.disagree
    assert "which of 2 is wrong cannot be told" in verdict_text(verdict, bad)
    assert verdict_text(judge_vials(pair), pair) == ""


def test_of_three_vials_one_that_looks_like_a_noise_floor_is_told_and_not_left_out():
    three = good_vials(np.random.default_rng(2), np.array([20.0, 70, 120]))
    raised = [replace(v, signal=v.signal + 40) for v in three]
    for some in (misstated(three, 0, 0.5), raised):
        assert judge_vials(some) == Verdict(disagree=True)
    assert judge_vials(misstated(three, 0, 2.0)).outlier == 0


def test_where_two_of_four_are_wrong_none_is_named():
    bad = misstated(misstated(vials(), 0, 1.4), 2, 0.7)
    assert judge_vials(bad) == Verdict(disagree=True)


def test_no_vial_is_left_out_that_is_the_only_one_of_its_level():
    level = good_vials(np.random.default_rng(1), np.array([50.0, 50, 100]))
    verdict = judge_vials(misstated(level, 2, 1.6))
    assert (verdict.outlier, verdict.disagree) == (None, True)


@pytest.mark.parametrize("floor", [0.0, 3.0, 10.0, 40.0, 100.0])
def test_a_floor_under_all_vials_makes_none_an_outlier(floor):
    raised = [replace(v, signal=v.signal + floor, u_signal=0.4) for v in vials()]
    assert judge_vials(raised).outlier is None


def tube(radius=5.0, n=24):
    x, y, _ = np.meshgrid(*[np.arange(n) - n / 2] * 3, indexing="ij")
    fraction = (np.hypot(x, y) < radius).astype(float)
    return fraction, np.clip((radius + 1 - np.hypot(x, y)) / 2, 0.02, 1)


def test_the_core_of_a_vial_gives_its_signal():
    fraction, blurred = tube()
    noise = np.random.default_rng(0).normal(0, 1, fraction.shape)
    core = core_signal(50 * blurred + noise, blurred, fraction, np.ones_like(noise), 2.0)
    signal, u, n = core.signal, core.u_signal, core.n_voxels
    assert abs(signal - 50) < 4 * u
    assert u == pytest.approx(1 / np.sqrt(n), rel=0.2)
    assert 50 < n < fraction.sum()


def test_what_lies_beside_a_vial_does_not_reach_its_core():
    fraction, blurred = tube()
    image = 50 * blurred + np.where(fraction > 0, 0, 500)
    core = core_signal(image, blurred, fraction, np.ones_like(image), 2.0)
    assert core.signal == pytest.approx(50)


def test_a_thin_vial_gives_its_deepest_voxels_less_what_blurring_took():
    fraction, blurred = tube(radius=1.6)
    core = core_signal(50 * 0.6 * blurred, 0.6 * blurred, fraction, np.ones_like(fraction), 4.0)
    assert core.signal == pytest.approx(50)
    assert core.n_voxels >= 4


def test_a_core_never_claims_less_than_the_noise_of_its_mean():
    fraction, blurred = tube()
    core = core_signal(50 * blurred, blurred, fraction, np.full(fraction.shape, 3.0), 2.0)
    assert core.u_signal >= 3.0 / np.sqrt(core.n_voxels)


def test_a_vial_outside_the_field_of_view_is_refused():
    nothing = np.zeros((4, 4, 4))
    with pytest.raises(ValueError, match="inside the sodium field of view"):
        core_signal(nothing, nothing, nothing, nothing, 1.0)


def test_a_vial_that_the_field_of_view_cuts_is_read_from_deep_inside_and_told():
    fraction, blurred = tube()
    signal = 50 * blurred
    # the object goes on beyond the border, the labels do not
    shown = blurred * np.clip((np.arange(24) + 2) / 4, 0, 1)
    core = core_signal(signal, shown, fraction, np.ones_like(signal), 2.5)
    assert core.signal == pytest.approx(50, rel=0.01)
    assert core.cut
    inside = fraction * (np.abs(np.arange(24) - 11) < 8)
    assert not core_signal(signal, blurred, inside, np.ones_like(signal), 2.5).cut


def test_a_calibration_can_be_rebuilt_from_its_fields():
    line = fit(2 * LEVELS)
    assert Calibration(**vars(line)).slope == line.slope
