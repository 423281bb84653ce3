"""Another map: lines and correlations with errors in both, within subjects, and what it adds."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import odr, stats
from scipy.special import expit

from sodiumprep.sodium.cohort.modality import (
    added_value,
    correlation_interval,
    disattenuated,
    match,
    partial_correlation,
    within_subjects,
    york,
)

NOTHING = np.empty((40, 0))


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def values(value, u=1.0, session="n/a"):
    names = [f"sub-{k:02d}" for k in range(len(value))]
    return pd.DataFrame(
        {"participant_id": names, "session": session, "run": "n/a", "value": value, "u": u}
    )


def noisy_pairs(rng, n=60, u=(2.0, 3.0), truth=0.8):
    x = rng.normal(45, 4, size=n)
    y = 100 + truth * 5 * (x - 45) / 4 + np.sqrt(1 - truth**2) * 5 * rng.normal(size=n)
    frame = pd.DataFrame({"participant_id": np.arange(n), "u_x": u[0], "u_y": u[1]})
    return frame.assign(x=x + u[0] * rng.normal(size=n), y=y + u[1] * rng.normal(size=n))


def repeated(rng, n=12, times=4, slope=-1.0):
    subject = np.repeat(np.arange(n), times)
    x = 5 * rng.normal(size=n)[subject] + rng.normal(size=n * times)
    y = 20 * rng.normal(size=n)[subject] + slope * x + rng.normal(size=n * times)
    return pd.DataFrame({"participant_id": subject, "x": x, "y": y})


def test_measurements_are_matched_by_participant_session_and_run():
    first = pd.concat([values([1.0, 2.0], session="1"), values([3.0, 4.0], session="2")])
    found = match(first, values([7.0, np.nan], session="2"))
    assert found[["participant_id", "session", "x", "y"]].to_numpy().tolist() == [
        ["sub-00", "2", 3.0, 7.0]
    ]


def test_what_all_values_of_a_map_share_makes_no_scatter():
    first = values([1.0, 2.0], u=5.0).assign(u_shared=4.0)
    found = match(first, values([3.0, 4.0], u=2.0))
    assert found[["u_x", "u_y"]].to_numpy().tolist() == [[3.0, 2.0], [3.0, 2.0]]


def test_a_measurement_that_stands_twice_is_named():
    with pytest.raises(ValueError, match="sub-01 n/a n/a stands twice"):
        match(values([1.0, 2.0]), pd.concat([values([1.0, 2.0]), values([1.0, 2.0]).iloc[1:]]))


def test_maps_without_a_common_measurement_are_refused():
    with pytest.raises(ValueError, match="no measurement has a value in both"):
        match(values([1.0], session="1"), values([1.0], session="2"))


def test_the_line_is_that_of_yorks_own_example():
    x = np.array([0.0, 0.9, 1.8, 2.6, 3.3, 4.4, 5.2, 6.1, 6.5, 7.4])  # Pearson's, York's weights
    y = np.array([5.9, 5.4, 4.4, 4.6, 3.5, 3.7, 2.8, 2.8, 2.4, 1.5])
    w_x = np.array([1000, 1000, 500, 800, 200, 80, 60, 20, 1.8, 1.0])
    w_y = np.array([1, 1.8, 4, 8, 20, 20, 70, 70, 100, 500])
    found = york(x, y, w_x**-0.5, w_y**-0.5)
    assert found.slope.value == pytest.approx(-0.480533407, abs=1e-8)
    assert found.intercept.value == pytest.approx(5.479910224, abs=1e-8)
    assert found.chi2 * 8 == pytest.approx(11.866353, abs=1e-5)


def test_the_line_is_that_of_orthogonal_distance_regression(rng):
    pairs = noisy_pairs(rng)
    u = pairs["u_x"].to_numpy(), pairs["u_y"].to_numpy()
    ours = york(pairs["x"].to_numpy(), pairs["y"].to_numpy(), *u)
    peer = odr.ODR(
        odr.RealData(pairs["x"], pairs["y"], *u), odr.unilinear, beta0=[1.0, 50.0]
    ).run()
    assert [ours.slope.value, ours.intercept.value] == pytest.approx(peer.beta, rel=1e-3)


def test_exchanging_the_maps_turns_the_line_over(rng):
    pairs = noisy_pairs(rng).to_numpy().T
    _, u_x, u_y, x, y = pairs
    one, other = york(x, y, u_x, u_y), york(y, x, u_y, u_x)
    assert one.slope.value * other.slope.value == pytest.approx(1)


def test_the_slope_is_not_thinned_by_noise(rng):
    x = rng.normal(45, 4, size=4000)
    seen, y = x + 3 * rng.normal(size=4000), 2 * x + 3 * rng.normal(size=4000)
    u = np.full(4000, 3.0)
    assert np.polyfit(seen, y, 1)[0] < 1.4
    assert york(seen, y, u, u).slope.value == pytest.approx(2, abs=0.08)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": np.ones(5)}, "all values of the first map are the same: 1"),
        ({"u_y": np.array([1.0, 1, 1, 1, 0])}, "second map has no standard uncertainty"),
        ({"u_x": np.full(5, np.nan)}, "first map has no standard uncertainty"),
        ({"y": np.array([1.0, 2, 3, 4, np.nan])}, "second map is missing"),
        ({"x": np.arange(2.0)}, "at least 3 pairs"),
    ],
)
def test_what_makes_no_line_is_refused(change, said):
    parts = {"x": np.arange(5.0), "y": np.arange(5.0) ** 2, "u_x": np.ones(5), "u_y": np.ones(5)}
    with pytest.raises(ValueError, match=said):
        york(**{**parts, **change})


def test_the_correlation_is_what_it_would_be_without_errors(rng):
    pairs = noisy_pairs(rng, n=3000)
    found = disattenuated(pairs, rng, draws=200)
    assert np.corrcoef(pairs["x"], pairs["y"])[0, 1] < 0.65
    assert found.value == pytest.approx(0.8, abs=0.04)
    assert found.holds(0.8)


def test_without_errors_nothing_is_corrected(rng):
    pairs = noisy_pairs(rng).assign(u_x=0.0, u_y=0.0)
    found = disattenuated(pairs, rng, draws=50)
    assert found.value == pytest.approx(np.corrcoef(pairs["x"], pairs["y"])[0, 1])


def test_values_that_spread_no_more_than_their_errors_have_no_correlation(rng):
    with pytest.raises(ValueError, match="first map spread by .* no more than"):
        disattenuated(noisy_pairs(rng).assign(u_x=20.0), rng)


def test_fishers_interval_of_a_correlation_is_scipys(rng):
    x, y = rng.normal(size=(2, 30))
    peer = stats.pearsonr(x, y)
    ours = correlation_interval(peer.statistic, 28)
    assert [ours.low, ours.high] == pytest.approx(list(peer.confidence_interval()))


def test_a_partial_correlation_has_the_p_of_a_regression(rng):
    z = rng.normal(size=(40, 2))
    x, y = z[:, 0] + rng.normal(size=40), z @ [1.0, 2.0] + rng.normal(size=40)
    peer = sm.OLS(y, sm.add_constant(np.column_stack([x, z]))).fit()
    found = partial_correlation(x, y, z)
    assert found.p == pytest.approx(peer.pvalues[1])
    assert found.dof == 36


def test_what_two_maps_share_with_age_alone_is_no_partial_correlation(rng):
    age = rng.normal(size=2000)
    x, y = (age + rng.normal(size=2000) for _ in range(2))
    assert partial_correlation(x, y, np.empty((2000, 0))).r.value > 0.4
    assert abs(partial_correlation(x, y, age[:, None]).r.value) < 0.07


@pytest.mark.parametrize(
    ("covariates", "said"),
    [
        (np.full((5, 1), np.nan), "covariate of the partial correlation is missing"),
        (np.arange(5.0)[:, None], "explain a map entirely"),
        (np.array([[1.0, 0], [0, 1], [1, 1], [0, 0], [2, 5]]), "1 degrees of freedom are left"),
    ],
)
def test_a_partial_correlation_that_cannot_be_is_refused(covariates, said):
    with pytest.raises(ValueError, match=said):
        partial_correlation(np.arange(5.0), np.array([1.0, 3, 2, 5, 9]), covariates)


def test_subjects_apart_do_not_hide_what_goes_on_within(rng):
    pairs = repeated(rng, n=200)
    found = within_subjects(pairs)
    assert abs(np.corrcoef(pairs["x"], pairs["y"])[0, 1]) < 0.2
    assert found.r.value == pytest.approx(-np.sqrt(0.5), abs=0.05)
    assert found.dof == 599


def test_a_constant_added_to_a_subject_changes_nothing_within(rng):
    pairs = repeated(rng)
    moved = pairs.assign(y=pairs["y"] + 100 * pairs["participant_id"])
    assert within_subjects(moved).r.value == pytest.approx(within_subjects(pairs).r.value)


def test_subjects_with_one_measurement_say_nothing_within(rng):
    pairs = repeated(rng)
    alone = pd.DataFrame({"participant_id": [99], "x": [1e3], "y": [1e3]})
    assert within_subjects(pd.concat([pairs, alone])) == within_subjects(pairs)


def test_one_measurement_of_each_is_too_little_within(rng):
    with pytest.raises(ValueError, match="too few to correlate within"):
        within_subjects(repeated(rng, times=1))


def test_a_map_that_never_changes_within_is_refused(rng):
    with pytest.raises(ValueError, match="does not change within any"):
        within_subjects(repeated(rng).assign(x=1.0))


@pytest.mark.filterwarnings("ignore")  # of the peer
def test_correlations_are_those_of_pingouin(rng):
    pg = pytest.importorskip("pingouin", reason="a peer, not a dependency")
    pairs = repeated(rng)
    ours, peer = within_subjects(pairs), pg.rm_corr(pairs, "x", "y", "participant_id")
    assert ours.r.value == pytest.approx(peer["r"].iloc[0], abs=1e-6)
    assert ours.p == pytest.approx(peer.iloc[0].filter(like="p").iloc[0], abs=1e-6)
    first = pairs.groupby("participant_id").nth(0).assign(z=rng.normal(size=12))
    part = pg.partial_corr(first, "x", "y", "z")
    found = partial_correlation(*first[["x", "y"]].to_numpy().T, first[["z"]].to_numpy())
    assert found.r.value == pytest.approx(part["r"].iloc[0], abs=1e-6)


def test_what_a_map_adds_to_a_number_has_the_ratio_of_statsmodels(rng):
    base, added = rng.normal(size=(2, 40, 1))
    outcome = base[:, 0] + added[:, 0] + rng.normal(size=40)
    small = sm.OLS(outcome, sm.add_constant(base)).fit()
    large = sm.OLS(outcome, sm.add_constant(np.hstack([base, added]))).fit()
    found = added_value(outcome, base, added, rng, draws=100)
    ratio, p, _ = large.compare_lr_test(small)
    assert (found.ratio, found.p) == pytest.approx((ratio, p))
    assert found.full == pytest.approx(large.rsquared_adj)
    assert found.gain.low > 0


def test_noise_adds_nothing_to_a_class(rng):
    x = rng.normal(size=(60, 1))
    positive = rng.random(60) < expit(2 * x[:, 0])
    gains = [
        added_value(positive, x, rng.normal(size=(60, 3)), rng, draws=30).gain.value
        for _ in range(10)
    ]
    assert np.mean(gains) < 0.01


def test_what_a_map_adds_to_a_class_is_found(rng):
    x, added = rng.normal(size=(2, 150, 1))
    positive = rng.random(150) < expit(x[:, 0] + 2 * added[:, 0])
    found = added_value(positive, x, added, rng, draws=50)
    assert found.measure == "AUC"
    assert found.gain.low > 0.05
    assert found.p < 1e-6


def test_a_map_that_separates_the_classes_is_told(rng):
    x = np.arange(40.0)[:, None]
    found = added_value(np.arange(40) > 19, rng.normal(size=(40, 1)), x, rng, draws=20)
    assert "separate perfectly" in found.note
    assert found.full == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("outcome", "added", "said"),
    [
        (np.ones(40), np.arange(40.0), "same in every row"),
        (np.ones(40, bool), np.arange(40.0), "same in every row"),
        (np.arange(40.0), np.ones(40), "constant or depend"),
        (np.arange(40.0), np.full(40, np.nan), "value is missing"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(rng, outcome, added, said):
    with pytest.raises(ValueError, match=said):
        added_value(outcome, NOTHING, added[:, None], rng)


def test_too_few_rows_for_a_model_are_refused(rng):
    with pytest.raises(ValueError, match="4 rows are too few"):
        added_value(np.arange(4.0), np.empty((4, 0)), rng.normal(size=(4, 1)), rng)
