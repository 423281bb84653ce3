"""Draws of all that is uncertain: they agree with propagation where that holds, and not beyond."""

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium.calibrate import VialSignal, fluid_lines, vial_lines
from sodiumprep.sodium.concentration import (
    CONSTANT_NAMES,
    Protocol,
    RegionalSignals,
    calibrated_by,
    concentration_table,
    relative_changes,
    relative_u_relaxation,
)
from sodiumprep.sodium.monte_carlo import (
    DrawnTable,
    FluidReference,
    LineReference,
    LogField,
    UncertainTable,
    VialReference,
    correlation,
    drawn_constants,
)
from sodiumprep.sodium.pvc.assessment import AssessedSignals
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.smooth_field import SmoothField
from sodiumprep.sodium.transmit import transmit_effect

PROTOCOL = Protocol(0.5e-3, 0.1, np.pi / 2)
ROWS = ("GM", "WM", "CSF")
NAMES = (*ROWS, "head")
STATED = {name: relaxation_of(name, 3.0) for name in ROWS}
EXACT = {
    name: Relaxation(s.t1, s.t2_short, s.t2_long, s.short_fraction) for name, s in STATED.items()
}
FACTORS = np.array([PROTOCOL.factor(s) for s in STATED.values()])
TRUTH = np.array([42.0, 37.0, 145.0])
VALUES = np.append(2.0 * TRUTH * FACTORS, 20.0)
LEVELS = (20.0, 50.0, 80.0, 120.0)
GEL = Relaxation(0.033, 4.7e-3, 28.6e-3, 0.6)
VIALS = tuple(f"vial{n}" for n in range(1, 5))
CORRECTED = ("gtm", "corrected")
DRAWS = 4000
CLOSE = 4 / np.sqrt(2 * DRAWS)  # four standard errors of an SD


def measured(u_level=0.0, u_signal=0.0, temperature=37.0):
    factor = PROTOCOL.factor(GEL)
    warm = 310 / (temperature + 273.15) if temperature is not None else 1
    return [
        VialSignal(2.0 * level * factor * warm, u_signal, 50, factor, name, level,
                   u_level * level, temperature)
        for name, level in zip(VIALS, LEVELS, strict=True)
    ]  # fmt: skip


def signals(**changes):
    n = len(NAMES)
    nothing = {
        "values": VALUES, "rests_on": VALUES, "covariance": np.zeros((n, n)),
        "kernel_change": np.zeros(n), "registration_changes": np.zeros((6, n)),
        "border_changes": np.zeros((2, n)), "residual_sd": np.zeros(n),
        "decay_changes": np.zeros((n, 3, n)),
        "entangled": np.zeros(n, bool), "sensitivity": np.zeros((0, n)),
    }  # fmt: skip
    return AssessedSignals(**{**nothing, **changes})


def table(reference="vials", constants=EXACT, vials=None, fields=None, **changes):
    own = signals(**changes)
    if reference == "vials":
        vials = vials or measured(1e-9, 1e-9)
        known, lines = VialReference(vials), vial_lines(vials)
    else:
        assumed = (145.0, 5.0 if vials is None else vials)
        noise = float(np.sqrt(own.covariance[2, 2]))
        known = FluidReference("CSF", assumed, "gtm")
        lines = fluid_lines(float(VALUES[2]), noise, float(FACTORS[2]), assumed)
    factors = {("gtm", "apparent"): np.ones(3), CORRECTED: FACTORS}
    every = {**constants, **dict.fromkeys(VIALS, GEL)}
    return UncertainTable(
        NAMES, ROWS, {"gtm": own}, factors, every, PROTOCOL, lines, known, **(fields or {})
    )


def propagated(given, kind="corrected", **coils):
    """Return what the analytic path makes of the same inputs."""
    own, nothing = given.signals["gtm"], np.zeros(3)
    rows = RegionalSignals(
        own.values[:3], np.diag(own.covariance)[:3], own.kernel_change[:3],
        own.registration_changes[:, :3], own.border_changes[:, :3],
        coils.get("u_receive", nothing), coils.get("u_transmit", nothing),
        decay_changes=own.decay_changes[:3, :, :3],
    )  # fmt: skip
    if isinstance(given.reference, FluidReference):
        rows = calibrated_by({"gtm": rows}, "gtm", relative_changes(rows, 2))["gtm"]
    tissues = [given.constants[name] for name in ROWS] if kind == "corrected" else None
    return concentration_table(
        rows, given.factors["gtm", kind], tissues, given.protocol, given.lines[kind]
    )


def agree(given, kind="corrected", *, atol=1e-4, **coils):
    drawn = given.drawn(DRAWS, np.random.default_rng(1))
    found = drawn.summary(("gtm", kind))
    stated = propagated(given, kind, **coils)["uncertainty"]
    np.testing.assert_allclose(found["uncertainty"], stated, rtol=CLOSE, atol=atol)
    linear = np.sqrt(np.diag(given.covariance(("gtm", kind))))
    np.testing.assert_allclose(linear, stated, rtol=0.01, atol=atol)
    return found["uncertainty"]


def scaled(*relative):
    return VALUES * np.array(relative)


CHANGES = {
    "noise": {"covariance": np.diag(scaled(0.01, 0.02, 0.0, 0.1) ** 2)},
    "kernel": {"kernel_change": scaled(-0.01, 0.005, 0.02, 0.0)},
    "position": {"registration_changes": np.stack(
        [scaled(0.01 * s, 0.005, -0.02, 0.0) for s in (1, -1, 2, 0, 0.5, 0)])},
    "borders": {"border_changes": np.stack(
        [scaled(0.01, -0.01, 0.0, 0.0), scaled(-0.02, 0.0, 0.01, 0.0)])},
    "relaxation": {"constants": {
        name: replace(s, **{f"u_{n}": 0.2 * getattr(s, f"u_{n}") for n in CONSTANT_NAMES})
        for name, s in STATED.items()}},
}  # fmt: skip
DECAYS = np.zeros((len(NAMES), 3, len(NAMES)))
DECAYS[:3, :2] = scaled(0.01, -0.005, 0.02, 0.0) * np.array([1, -0.5, 2])[:, None, None]
CHANGES["decay"] = {**CHANGES["relaxation"], "decay_changes": DECAYS}
FLAT = np.full(7, 1.0)


def waves(sd):
    """Return an uncertain field that is one wave across the head; vials lie at its node."""
    shape = np.array([1.0, -0.5, 0.3, 0, 0, 0, 0])
    return LogField((*ROWS, *VIALS), sd**2 * np.outer(shape, shape), FLAT), sd * np.abs(shape[:3])


def test_two_terms_of_one_field_add_up_to_their_plain_sum():
    field, own = waves(0.02)
    u_transmit = np.full(7, 0.01)
    raised = np.sqrt(np.diag(field.correlated_with(u_transmit).covariance))
    expected = np.where(np.sqrt(np.diag(field.covariance)) > 0, np.append(own, np.zeros(4)), 0)
    together = np.hypot(raised, u_transmit)
    np.testing.assert_allclose(together[:3], expected[:3] + 0.01)
    assert not raised[3:].any()  # the vials' own error cancels


@pytest.mark.parametrize("term", CHANGES)
@pytest.mark.parametrize("reference", ["vials", "csf"])
@pytest.mark.parametrize("kind", ["apparent", "corrected"])
def test_each_term_alone_is_that_of_propagation(term, reference, kind):
    found = agree(table(reference, **CHANGES[term]), kind)
    assert found[0] > 0.001 * TRUTH[0] or (term, kind) == ("relaxation", "apparent")


@pytest.mark.parametrize("kind", ["apparent", "corrected"])
@pytest.mark.parametrize(
    "vials",
    [
        {"u_level": 0.01},
        {"u_level": 1e-9, "u_signal": 0.4},
        {"u_level": 0.01, "temperature": None},
    ],
)
def test_the_line_refitted_to_drawn_vials_errs_as_its_covariance_says(vials, kind):
    found = agree(table(vials=measured(**{"u_signal": 1e-9, **vials})), kind)
    assert (found > 0.001 * TRUTH).all()


@pytest.mark.parametrize("reference", ["vials", "csf"])
def test_all_terms_together_are_those_of_propagation(reference):
    every = {k: v for change in CHANGES.values() for k, v in change.items()}
    field, u_receive = waves(0.02)
    vials = measured(0.01, 0.4, None) if reference == "vials" else 4.0
    if reference == "csf":
        field, u_receive = waves_against_fluid(0.02)
    agree(table(reference, vials=vials, fields={"receive": field}, **every), u_receive=u_receive)


def waves_against_fluid(sd):
    shape = np.array([0.7, -0.8, 0.0, 0, 0, 0, 0])
    return LogField((*ROWS, *VIALS), sd**2 * np.outer(shape, shape), FLAT), sd * np.abs(shape[:3])


@pytest.mark.parametrize("kind", ["apparent", "corrected"])
def test_a_field_of_the_coil_acts_on_regions_and_reference_by_the_same_draw(kind):
    field, u_receive = waves(0.02)
    agree(table(fields={"receive": field}), kind, u_receive=u_receive)
    common = LogField(field.names, np.full((7, 7), 0.02**2), FLAT)
    for reference in ("vials", "csf"):
        given = table(reference, vials=None if reference == "vials" else 1e-9,
                      fields={"receive": common})  # fmt: skip
        found = given.drawn(200, np.random.default_rng(0)).summary(("gtm", kind))
        np.testing.assert_allclose(found["uncertainty"], 0, atol=1e-3)


def test_the_flip_angle_acts_by_the_steady_state_of_each_tissue():
    """At 60 degrees the signal rises with the angle, in fluid of long T1 by less."""
    steep = replace(table(), protocol=Protocol(0.5e-3, 0.1, np.pi / 3))
    shape = np.array([1.0, 1.0, 1.0, 0, 0, 0, 0])
    field = LogField((*ROWS, *VIALS), 0.01**2 * np.outer(shape, shape), FLAT)
    found = replace(steep, transmit=field).drawn(DRAWS, np.random.default_rng(2))
    step = 1e-4
    slopes = [
        (replace(steep.protocol, flip_angle=np.pi / 3 * (1 + step)).factor(t)
         / steep.protocol.factor(t) - 1) / step for t in STATED.values()
    ]  # fmt: skip
    relative = found.summary(CORRECTED)["uncertainty"] / TRUTH
    np.testing.assert_allclose(relative, 0.01 * np.abs(slopes), rtol=CLOSE)
    assert relative[2] < relative[0]


def test_the_fluid_that_calibrates_keeps_what_was_assumed_whatever_is_drawn():
    every = {k: v for change in CHANGES.values() for k, v in change.items()}
    noisy = {**every, "covariance": np.diag(scaled(0.01, 0.02, 0.05, 0.1) ** 2)}
    given = table("csf", vials=2.0, fields={"receive": waves_against_fluid(0.05)[0]}, **noisy)
    found = given.drawn(DRAWS, np.random.default_rng(3))
    assert found.summary(CORRECTED)["uncertainty"][2] == pytest.approx(2.0, rel=CLOSE)
    together = correlation(found.covariance(CORRECTED))
    assert together[0, 1] > 0.3  # by the fluid that both rest on
    np.testing.assert_allclose(
        together, correlation(given.covariance(CORRECTED)), atol=4 / np.sqrt(DRAWS)
    )


def test_noise_that_regions_share_goes_into_their_correlation():
    shared = np.diag(scaled(0.02, 0.02, 0.02, 0.1) ** 2)
    shared[0, 1] = shared[1, 0] = -0.6 * np.sqrt(shared[0, 0] * shared[1, 1])
    given = table(covariance=shared)
    found = given.drawn(DRAWS, np.random.default_rng(4)).covariance(CORRECTED)
    assert correlation(found)[0, 1] == pytest.approx(-0.6, abs=0.04)
    assert correlation(given.covariance(CORRECTED))[0, 1] == pytest.approx(-0.6, abs=0.01)


def test_where_propagation_fails_draws_hold_the_truth_more_evenly():
    """A fluid whose T2* is known to 50 %, seen at a late echo: checked by simulated scans."""
    late = Protocol(10e-3, 0.1, np.pi / 2)
    poor = Relaxation(58e-3, 20e-3, 20e-3, 0.0, u_t2_long=10e-3)
    factor = late.factor(poor)
    own = {**EXACT, "CSF": poor}
    values = np.append(2.0 * TRUTH * [1, 1, factor], 20.0)
    given = replace(
        table(constants=own, values=values),
        protocol=late,
        factors={CORRECTED: np.array([1, 1, factor])},
    )
    found = given.drawn(DRAWS, np.random.default_rng(5)).summary(CORRECTED)
    stated = propagated(given)
    rng = np.random.default_rng(6)
    spread = np.sqrt(np.log(1.25))
    t2 = 20e-3 * np.exp(spread * rng.standard_normal(20_000) - spread**2 / 2)
    truth = 145.0 * np.exp(10e-3 / t2 - 10e-3 / 20e-3)  # that gives the signal which was seen
    missed = {
        name: (np.mean(truth < low[2]), np.mean(truth > high[2]))
        for name, low, high in (
            ("drawn", found["ci_low"], found["ci_high"]),
            ("propagated", stated["ci_low"], stated["ci_high"]),
        )
    }
    np.testing.assert_allclose(missed["drawn"], 0.025, atol=0.008)
    assert missed["propagated"][0] < 0.001  # next to nothing lies so low
    assert missed["propagated"][1] > 0.05
    assert found["ci_high"][2] - 145 > 2 * (145 - found["ci_low"][2])
    drawn = given.drawn(200, np.random.default_rng(0))
    assert drawn.differences(CORRECTED, stated["uncertainty"])[2] > drawn.tolerance


def test_each_draw_chooses_its_own_noise_floor():
    """Vials with a floor that is just significant: some draws go through the origin."""
    raised = [replace(v, signal=v.signal + 5.0) for v in measured(1e-4, 1.0)]
    given = table(vials=raised)
    assert given.lines["corrected"].intercept > 0
    values = given.drawn(2000, np.random.default_rng(7)).rows[CORRECTED]
    through_origin = (values[:, 0] / values[:, 2]).round(3) == (VALUES[0] / VALUES[2] * FACTORS[2]
                                                                / FACTORS[0]).round(3)  # fmt: skip
    assert 0.02 < through_origin.mean() < 0.9


def test_the_same_seed_gives_the_same_draws():
    given = table(**CHANGES["noise"])
    one, other, third = (
        given.drawn(100, np.random.default_rng(s)).rows[CORRECTED] for s in (1, 1, 2)
    )
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_what_is_not_known_adds_nothing():
    unknown = np.full(4, np.nan)
    given = table(kernel_change=unknown, registration_changes=np.full((6, 4), np.nan),
                  covariance=np.full((4, 4), np.nan))  # fmt: skip
    found = given.drawn(100, np.random.default_rng(0)).summary(CORRECTED)
    np.testing.assert_allclose(found["uncertainty"], 0, atol=1e-3)


def test_drawn_constants_have_the_stated_mean_and_spread_and_stay_possible():
    wild = Relaxation(40e-3, 3e-3, 20e-3, 0.6, 8e-3, 1.5e-3, 10e-3, 0.2)
    drawn = drawn_constants(wild, np.random.default_rng(0).standard_normal((40_000, 4)))
    for name, values in drawn.items():
        assert values.min() > 0
        assert values.mean() == pytest.approx(getattr(wild, name), rel=0.02)
        assert values.std() == pytest.approx(getattr(wild, f"u_{name}"), rel=0.04)
    assert drawn["short_fraction"].max() < 1
    fluid = replace(wild, short_fraction=0.0)
    share = drawn_constants(fluid, np.array([[0, 0, 0, -1.0], [0, 0, 0, 1.0]]))["short_fraction"]
    assert share.tolist() == [0.0, 0.2]


def test_an_interval_of_few_draws_holds_95_percent_of_further_ones():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        found = DrawnTable({CORRECTED: rng.standard_normal((100, 1))}, 0).summary(CORRECTED)
        fresh = rng.standard_normal(200)
        held.append(np.mean((fresh > found["ci_low"]) & (fresh < found["ci_high"])))
    assert np.mean(held) == pytest.approx(0.95, abs=0.005)


def test_too_few_draws_and_references_without_a_line_are_refused():
    with pytest.raises(ValueError, match="99 draws; at least 100 are needed"):
        table().drawn(99, np.random.default_rng(0))
    falling = [replace(v, signal=-v.signal) for v in measured(1e-6, 1e-6)]
    with pytest.raises(ValueError, match="100 of 100 draws .* the references are too uncertain"):
        replace(table(), reference=VialReference(falling)).drawn(100, np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["apparent", "corrected"])
def test_a_line_of_which_only_the_covariance_is_known_is_drawn_from_it(kind):
    given = table(vials=measured(0.01, 0.4))
    known = {
        k: replace(line, covariance=np.diag([(0.02 * line.slope) ** 2, 0.0]))
        for k, line in given.lines.items()
    }
    agree(replace(given, lines=known, reference=LineReference()), kind)


def test_vials_of_one_material_err_together_in_their_relaxation():
    """Constants that are alike for all vials scale the slope; each by itself would average out."""
    uncertain = replace(GEL, u_t2_short=0.2e-3, u_t2_long=1e-3)
    alike = table(vials=measured(0.001, 1e-9))
    alike = replace(alike, constants={**EXACT, **dict.fromkeys(VIALS, uncertain)})
    relative = relative_u_relaxation(uncertain, PROTOCOL)
    sd = np.sqrt(np.diag(alike.covariance(CORRECTED))) / TRUTH
    np.testing.assert_allclose(sd, np.hypot(relative, 0.001 / 2), rtol=0.05)
    tilted = [replace(uncertain, t1=0.033 + 1e-9 * k) for k in range(4)]
    apart = replace(alike, constants={**EXACT, **dict(zip(VIALS, tilted, strict=True))})
    found = np.sqrt(np.diag(apart.covariance(CORRECTED))) / TRUTH
    assert (found < 0.8 * sd).all()


def test_a_fitted_transmit_field_acts_like_its_propagated_effect():
    """Fields over places: a uniform one, and a wave along x; regions are stretches of a line."""
    places = np.stack([np.linspace(0, 100, 140), np.zeros(140), np.zeros(140)], axis=1)
    names = (*ROWS, *VIALS)
    weights = np.repeat(np.eye(7), 20, axis=1)
    model = SmoothField(
        np.zeros(3), np.full(3, 100.0), np.array([[0, 0, 0], [1, 0, 0]]), np.array([-0.05, 0.03]),
        np.array([[4e-4, 1e-4], [1e-4, 9e-4]]),
    )  # fmt: skip
    steep = Protocol(0.5e-3, 0.1, np.pi / 3)
    times = [*(s.t1 for s in STATED.values()), *[GEL.t1] * 4]
    effect = transmit_effect(model, places, weights, (np.pi / 3, 0.1), times)
    field = LogField.of_transmit(model, names, effect.basis)
    np.testing.assert_allclose(field.level, weights @ model(places) / 20, rtol=1e-3)
    given = replace(table("csf", vials=1e-9, fields={"transmit": field}), protocol=steep)
    stated = effect.uncertainty(model, np.eye(7)[2])
    for kind in ("apparent", "corrected"):
        found = given.drawn(DRAWS, np.random.default_rng(8)).summary(("gtm", kind))
        level = TRUTH if kind == "corrected" else VALUES[:3] / given.lines[kind].slope
        np.testing.assert_allclose(
            found["uncertainty"], stated[:3] * level, rtol=1.5 * CLOSE, atol=1e-4
        )
