"""Reference curves: known centiles, members held out, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from patsy import dmatrix
from scipy import stats

from sodiumprep.sodium.cohort.normative import check_curve, fit_curve, natural_spline, z_scores


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def mean_at(age):
    return 40 + 0.05 * (age - 50) + 0.002 * (age - 50) ** 2


def spread_at(age):
    return 2 * np.exp(0.01 * (age - 50))


def draw(rng, n=400):
    age, sex = rng.uniform(20, 80, size=n), rng.choice(["F", "M"], size=n, p=[0.6, 0.4])
    value = mean_at(age) + 1.5 * (sex == "M") + spread_at(age) * rng.normal(size=n)
    names = [f"sub-{k:04d}" for k in range(n)]
    return pd.DataFrame(
        {"participant_id": names, "age": age, "sex": sex, "value": value, "u": 1.0}
    )


def person(age, value=40.0, **more):
    row = {"participant_id": "new", "age": age, "value": value, "sex": "F", **more}
    return pd.DataFrame([row])


def test_the_spline_spans_that_of_patsy_between_the_outer_knots():
    age, knots = np.linspace(20, 80, 50), np.array([20.0, 40.0, 55.0, 80.0])
    ours = natural_spline(age, knots)
    peer = np.asarray(dmatrix("cr(x, knots=[40, 55], lower_bound=20, upper_bound=80)", {"x": age}))
    rest = peer - ours @ np.linalg.lstsq(ours, peer, rcond=None)[0]
    np.testing.assert_allclose(rest, 0, atol=1e-10)


def test_the_known_centiles_are_found(rng):
    curve = fit_curve(draw(rng, n=5000), ("sex",))
    people = pd.DataFrame({"age": [25.0, 50.0, 75.0], "sex": "M"})
    shares = np.array([0.05, 0.5, 0.95])
    age = people["age"].to_numpy()
    truth = 1.5 + mean_at(age)[:, None] + spread_at(age)[:, None] * stats.norm.ppf(shares)
    np.testing.assert_allclose(curve.centiles(people, shares), truth, atol=0.45)


def test_a_member_is_compared_with_the_curve_without_itself(rng):
    table = draw(rng, n=150)
    scores = z_scores(fit_curve(table, ("sex",)), table)
    for k in (0, int(scores["z"].abs().argmax())):
        refitted = fit_curve(table.drop(index=k), ("sex",))
        direct = z_scores(refitted, table.iloc[[k]])
        assert scores["z"][k] == pytest.approx(direct["z"][0], rel=0.02)
        assert scores["member"][k]
        assert not direct["member"][0]


def test_scores_of_members_and_of_strangers_are_normal(rng):
    table, others = draw(rng, n=800), draw(rng, n=800)
    curve = fit_curve(table, ("sex",))
    for z in (
        z_scores(curve, table)["z"],
        z_scores(curve, others.assign(participant_id="x"))["z"],
    ):
        assert z.mean() == pytest.approx(0, abs=0.15)
        assert z.std() == pytest.approx(1, abs=0.1)
        assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.05, abs=0.03)


def test_the_unit_of_the_values_does_not_matter(rng):
    table = draw(rng)
    one, other = (
        z_scores(fit_curve(t, ("sex",)), t)[["z", "z_low", "z_high"]]
        for t in (table, table.assign(value=table["value"] / 1000, u=table["u"] / 1000))
    )
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_measurement_that_errs_more_has_the_wider_interval(rng):
    curve = fit_curve(draw(rng), ("sex",))
    sharp, blunt = (z_scores(curve, person(50.0, u=u)) for u in (0.0, 4.0))
    assert sharp["z"][0] == blunt["z"][0]
    width = blunt["z_high"][0] - blunt["z_low"][0]
    assert width > 2 * 1.96 * 4.0 / 2.4
    assert sharp["z_high"][0] - sharp["z_low"][0] < 0.7


def test_what_all_values_share_does_not_widen_the_interval(rng):
    curve = fit_curve(draw(rng), ("sex",))
    whole, own = (
        z_scores(curve, person(50.0, u=5.0, u_shared=4.0)),
        z_scores(curve, person(50.0, u=3.0)),
    )
    assert whole["z_low"][0] == pytest.approx(own["z_low"][0])


def test_the_interval_holds_the_score_of_the_true_value_on_the_true_curve(rng):
    held = []
    for _ in range(60):
        curve = fit_curve(draw(rng, n=150), ("sex",))
        age = rng.uniform(25, 75, size=20)
        true = rng.normal(size=20)
        value = mean_at(age) + spread_at(age) * true + 1.5 * rng.normal(size=20)
        people = pd.DataFrame({"participant_id": "x", "age": age, "value": value, "sex": "F"})
        found = z_scores(curve, people.assign(u=1.5))
        held.append(((found["z_low"] <= true) & (true <= found["z_high"])).mean())
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_skewed_values_need_the_power_that_is_found(rng):
    table = draw(rng, n=1500)
    skewed = table.assign(value=np.exp(table["value"] / 10))
    plain, moved = fit_curve(skewed, ("sex",)), fit_curve(skewed, ("sex",), power=None)
    assert moved.power == pytest.approx(0, abs=0.15)
    assert check_curve(plain, skewed, 1)["shapiro_p"][0] < 1e-6
    assert check_curve(moved, skewed, 1)["shapiro_p"][0] > 1e-3


def test_the_check_shows_spreads_over_bands_of_age(rng):
    table = draw(rng, n=1000)
    found = check_curve(fit_curve(table, ("sex",)), table)
    assert found["n"].sum() == 1000
    assert (found["age_low"].diff().dropna() > 0).all()
    np.testing.assert_allclose(found["sd"], 1, atol=0.15)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (person(12.0), "age outside of"),
        (person(90.0), "age outside of"),
        (person(50.0, sex="X"), "sex is none of F, M"),
        (person(50.0, value=np.nan), "no value"),
        (person(np.nan), "no age"),
    ],
)
def test_whom_the_reference_does_not_hold_has_no_score(rng, row, reason):
    found = z_scores(fit_curve(draw(rng), ("sex",)), row).iloc[0]
    assert np.isnan(found["z"])
    assert reason in found["reason"]


def test_an_unknown_uncertainty_is_told(rng):
    found = z_scores(fit_curve(draw(rng), ("sex",)), person(50.0)).iloc[0]
    assert np.isfinite(found["z"])
    assert found["reason"] == "uncertainty of the measurement unknown"


def test_the_curve_itself_refuses_other_ages_and_levels(rng):
    curve = fit_curve(draw(rng), ("sex",))
    with pytest.raises(ValueError, match="years, not 5"):
        curve.centiles(person(5.0), np.array([0.5]))
    with pytest.raises(ValueError, match="no sex X"):
        curve.design(person(50.0, sex="X"))
    with pytest.raises(ValueError, match="shares of a reference"):
        curve.centiles(person(50.0), np.array([1.0]))


@pytest.mark.parametrize(
    ("change", "power", "said"),
    [
        (lambda t: t.head(60), 1.0, "needs 100 members with a value, not 60"),
        (lambda t: pd.concat([t, t.head(1)]), 1.0, "sub-0000 stands twice"),
        (lambda t: t.assign(value=40.0), 1.0, "the same value, 40"),
        (lambda t: t.assign(age=40.0), 1.0, "ages of the reference take 1 values"),
        (lambda t: t.assign(value=t["value"] - 60), None, "a power needs values above 0"),
        (lambda t: t.assign(site=t["sex"]), 1.0, "depend on each other"),
        (lambda t: t.assign(site=np.arange(400) % 40), 1.0, "too few for this curve"),
        (lambda t: t.assign(site=["b"] + 399 * ["a"]), 1.0, "site b has 1 members; at least 5"),
    ],
)
def test_what_is_no_reference_is_refused(rng, change, power, said):
    table = change(draw(rng).assign(site="a"))
    covariates = ("sex", "site") if table["site"].nunique() > 1 else ("sex",)
    with pytest.raises(ValueError, match=said):
        fit_curve(table, covariates, power)


def test_scores_need_their_columns(rng):
    curve = fit_curve(draw(rng), ("sex",))
    with pytest.raises(ValueError, match="need the column sex"):
        z_scores(curve, person(50.0).drop(columns="sex"))


def test_a_check_without_scores_is_refused(rng):
    with pytest.raises(ValueError, match="no row of the table has a score"):
        check_curve(fit_curve(draw(rng), ("sex",)), person(5.0))
