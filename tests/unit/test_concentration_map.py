"""The uncertainty of a map: each term is that of the table where a voxel is a region."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.sodium.calibrate import Calibration
from sodiumprep.sodium.concentration import (
    Protocol,
    Reference,
    RegionalSignals,
    concentration_table,
    relative_u_relaxation,
)
from sodiumprep.sodium.concentration_map import (
    TERMS,
    BrainRegions,
    FieldErrors,
    MapErrors,
    MapUncertainty,
    Mixture,
    map_concentration,
)
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.smooth_field import SmoothField, grid_positions, relative_uncertainty
from sodiumprep.sodium.transmit import transmit_effect

PROTOCOL = Protocol(0.5e-3, 0.1, np.pi / 2)
TISSUES = [relaxation_of(name, 3.0) for name in ("GM", "WM", "CSF")]
HUMOUR = relaxation_of("vitreous", 3.0)
FACTORS = np.array([PROTOCOL.factor(t) for t in TISSUES])
TRUTH, SLOPE, FLOOR = np.array([42.0, 37.0, 145.0]), 2.0, 3.0
SIGNALS = SLOPE * TRUTH * FACTORS
LINE = Calibration(
    SLOPE, FLOOR, np.array([[0.02**2, -0.01], [-0.01, 1.0]]), 0.999, np.zeros(4), 0.01
)
EXACT = replace(LINE, covariance=np.zeros((2, 2)))
SHAPE = (3, 2, 2)  # one plane of each tissue
AFFINE = np.diag([30.0, 25.0, 40.0, 1.0])
PURE = np.zeros((3, *SHAPE), np.float32)
for k in range(3):
    PURE[k, k] = 1
IMAGE = (np.tensordot(SIGNALS, PURE, 1) + FLOOR).astype(np.float32)
NOISE = np.full(SHAPE, 5.0, np.float32)
VIAL = np.zeros(SHAPE)
VIAL[2, 1, 1] = 1.0


def field():
    """Return a field whose error differs from place to place."""
    orders = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 1], [2, 1, 0], [0, 0, 3]])
    spread = np.random.default_rng(5).normal(size=(5, 5)) * 0.02
    return SmoothField(
        np.full(3, -20.0), np.full(3, 130.0), orders, np.full(5, 0.02), spread.T @ spread
    )


def of_reference(index):
    if index is None:
        return None
    relaxation = HUMOUR if index == "vitreous" else None
    row = None if relaxation else index
    return Reference(row, 0.01, np.array([0.01, 0.02, 0.0]), np.array([0.005, 0.01]), relaxation)


def one_by_one(regions, errors, line=LINE, image=IMAGE):
    factors = regions.factors(PROTOCOL)
    mixture = Mixture.of(regions.signals, regions.blurred, factors, factors[:2].mean())
    corrected = (image - line.intercept) / (line.slope * mixture.factor)
    uncertain = MapUncertainty(regions.tissues, PROTOCOL, line, mixture, errors)
    found = {name: np.sqrt(square) for name, _, square in uncertain.terms(corrected, NOISE)}
    return corrected, found


def brain(blurred=PURE, tissues=TISSUES, transmit=None):
    left = np.ones(3) if transmit is None else transmit.factors
    return BrainRegions(blurred, SIGNALS, tissues, left)


def rows_of_table(voxel, k, errors, relative, regions, line):
    """Return the row of a region that is one pure voxel, as the table has it."""
    n = len(TRUTH)
    known = errors.reference
    value = IMAGE[voxel] - FLOOR + line.intercept
    signals = RegionalSignals(
        np.full(n, value), np.full(n, NOISE[voxel] ** 2), np.zeros(n), np.zeros((3, n)),
        np.zeros((2, n)), np.full(n, relative[0]), np.full(n, relative[1]),
        known,
    )  # fmt: skip
    table = concentration_table(signals, regions.factors(PROTOCOL), TISSUES, PROTOCOL, line)
    return {name: values[k] for name, values in table.items()}


@pytest.mark.parametrize("index", [None, 0, 2, "vitreous"])
def test_in_a_pure_voxel_every_term_is_that_of_the_tables_row(index):
    model, places = field(), grid_positions(SHAPE, AFFINE)
    voxels = np.eye(len(places))
    t1s = [t.t1 for t in TISSUES]
    basis, against = model.basis(places), model.region_means(places, VIAL.reshape(1, -1))[0]
    turns = (PROTOCOL.flip_angle, PROTOCOL.repetition_time)
    line = LINE if index is None else replace(LINE, intercept=0.0)  # as that of a fluid
    image = IMAGE - np.float32(FLOOR - line.intercept)
    for voxel in [(0, 0, 1), (1, 1, 0), (2, 0, 0)]:
        n, k = np.ravel_multi_index(voxel, SHAPE), voxel[0]
        # regions of one voxel each, and the reference: one more region of CSF
        weights = np.stack([voxels[n]] * 3 + [VIAL.ravel()])
        effect = transmit_effect(model, places, weights, turns, [*t1s, 0.053])
        chosen = np.array([0.0, 0, 0, 1])
        errors = MapErrors(
            of_reference(index),
            FieldErrors.of_receive(model, (SHAPE, AFFINE), against),
            FieldErrors.of_transmit(effect, model, (SHAPE, AFFINE), range(3), chosen),
        )
        regions = brain(transmit=replace(effect, factors=effect.factors[:3]))
        relative = (
            relative_uncertainty(model, basis[[n]], against)[0],
            effect.uncertainty(model, chosen)[k],
        )
        row = rows_of_table(voxel, k, errors, relative, regions, line)
        corrected, found = one_by_one(regions, errors, line, image)
        assert corrected[voxel] == pytest.approx(row["mean"], rel=1e-5)
        for name, values in found.items():
            assert np.broadcast_to(values, SHAPE)[voxel] == pytest.approx(row[name], rel=2e-3)
        lines = {"apparent": line, "corrected": line}
        done = map_concentration(image, NOISE, regions, PROTOCOL, lines, errors)
        assert done.uncertainty[voxel] == pytest.approx(row["uncertainty"], rel=2e-3)
        assert set(found) == set(done.terms) == set(TERMS[: 8 if index is not None else 5])


def test_two_terms_of_one_field_add_up_as_in_the_table():
    model, weights = field(), VIAL.reshape(1, -1)
    against = model.region_means(grid_positions(SHAPE, AFFINE), weights)[0]
    turns, t1s = (PROTOCOL.flip_angle, PROTOCOL.repetition_time), [t.t1 for t in TISSUES]
    effect = transmit_effect(model, grid_positions(SHAPE, AFFINE), PURE.reshape(3, -1), turns, t1s)
    apart = MapErrors(
        None,
        FieldErrors.of_receive(model, (SHAPE, AFFINE), against),
        FieldErrors.of_transmit(effect, model, (SHAPE, AFFINE), range(3), np.eye(3)[2]),
    )
    _, two = one_by_one(brain(), apart)
    _, one = one_by_one(brain(), replace(apart, one_field=True))
    np.testing.assert_allclose(one["u_b1"], two["u_b1"])
    both = np.hypot(one["u_receive"], one["u_b1"])
    np.testing.assert_allclose(both, two["u_receive"] + two["u_b1"], rtol=1e-5)
    _, alone = one_by_one(brain(), replace(apart, transmit=None, one_field=True))
    np.testing.assert_allclose(alone["u_receive"], two["u_receive"])


def test_the_relaxation_of_the_fluid_that_calibrates_cancels_where_there_is_only_fluid():
    _, found = one_by_one(brain(), MapErrors(of_reference(2)))
    assert not found["u_relaxation"][2].any()
    lines = {"apparent": EXACT, "corrected": EXACT}
    told = [map_concentration(IMAGE, NOISE, brain(), PROTOCOL, lines, MapErrors(of_reference(k)))
            for k in (None, 2)]  # fmt: skip
    assert ["the reference" in done.terms["u_relaxation"] for done in told] == [False, True]
    alone = [relative_u_relaxation(t, PROTOCOL) for t in TISSUES]
    expected = TRUTH[:2] * np.hypot(alone[:2], alone[2])
    np.testing.assert_allclose(found["u_relaxation"][:2, 0, 0], expected, rtol=1e-5)


def test_without_any_other_uncertainty_noise_is_left():
    sure = [replace(t, u_t1=0.0, u_t2_short=0.0, u_t2_long=0.0, u_short_fraction=0.0)
            for t in TISSUES]  # fmt: skip
    lines = {"apparent": EXACT, "corrected": EXACT}
    nothing = np.zeros(SHAPE, np.float32)
    still = FieldErrors(nothing, nothing, 0.0)
    errors = MapErrors(None, still, still, np.zeros(3), np.zeros(3))
    done = map_concentration(IMAGE, NOISE, brain(tissues=sure), PROTOCOL, lines, errors)
    np.testing.assert_allclose(done.uncertainty, NOISE / (SLOPE * done.factor), rtol=1e-6)


MIXED = np.array([[0.5, 0.2, 0.9], [0.3, 0.8, 0.1], [0.2, 0.0, 0.0]])[:, :, None, None]


@pytest.mark.parametrize("index", [None, 2, "vitreous"])
def test_the_relaxation_term_of_a_mixed_voxel_is_that_of_draws(index):
    rng = np.random.default_rng(8)
    small = [replace(t, **{f"u_{n}": 0.2 * getattr(t, f"u_{n}") for n in
                           ("t1", "t2_short", "t2_long", "short_fraction")})
             for t in [*TISSUES, HUMOUR]]  # fmt: skip
    image = np.tensordot(SIGNALS, MIXED, 1)
    reference = of_reference(index)
    if index == "vitreous":
        reference = replace(reference, relaxation=small[3])
    _, found = one_by_one(
        brain(MIXED, small[:3]), MapErrors(reference), EXACT, image + EXACT.intercept
    )
    drawn = []
    for _ in range(1500):
        moved = [replace(t, **{n: getattr(t, n) + rng.normal() * getattr(t, f"u_{n}") for n in
                               ("t1", "t2_short", "t2_long")}) for t in small]  # fmt: skip
        moved = [replace(t, short_fraction=max(0.0, t.short_fraction + rng.normal()
                                               * t.u_short_fraction)) for t in moved]  # fmt: skip
        factors = np.array([PROTOCOL.factor(t) for t in moved])
        mixture = Mixture.of(SIGNALS, MIXED, factors[:3], 1.0)
        gain = 1.0
        if index is not None:  # the slope holds the factor of the reference
            k = 3 if index == "vitreous" else index
            gain = factors[k] / PROTOCOL.factor(small[k])
        drawn.append(image * gain / (SLOPE * mixture.factor))
    np.testing.assert_allclose(found["u_relaxation"], np.std(drawn, axis=0), rtol=0.08)


def test_one_tissue_errs_as_a_whole_and_a_mixture_of_two_less_than_each():
    relative = np.array([0.02, 0.02, 0.02])
    halves = np.full((3, 1, 1, 1), 0.0)
    halves[:2] = 0.5
    even = Mixture.of(np.ones(3), halves, np.ones(3), 1.0)
    assert even.relative_variance(relative, None)[0, 0, 0] == pytest.approx(0.02**2 / 2)
    same = Mixture.of(np.ones(3), PURE, np.ones(3), 1.0)
    np.testing.assert_allclose(same.relative_variance(relative, None), 0.02**2, rtol=1e-5)


def test_shares_of_every_voxel_sum_to_one_also_outside_the_brain():
    blurred = np.concatenate([MIXED, np.zeros((3, 1, 1, 1))], axis=1)
    mixture = Mixture.of(SIGNALS, blurred, FACTORS, FACTORS[:2].mean())
    np.testing.assert_allclose(sum(mixture.shares()), 1, rtol=1e-6)
    assert mixture.concentration[3] == 0


def test_the_line_errs_as_a_whole():
    covariance = np.array([[0.03**2, -0.02], [-0.02, 1.0]])
    line = replace(LINE, covariance=covariance)
    _, found = one_by_one(brain(), MapErrors(), line)
    drawn = np.random.default_rng(1).multivariate_normal([SLOPE, FLOOR], covariance, 20_000)
    values = (IMAGE[:, 0, 0] - drawn[:, 1:]) / (drawn[:, :1] * FACTORS)
    np.testing.assert_allclose(found["u_calibration"][:, 0, 0], values.std(0), rtol=0.03)


def test_position_matters_where_the_mix_of_tissues_changes_and_nowhere_else():
    ramp = np.linspace(0, 1, 8)[:, None, None] * np.ones((8, 8, 8))
    blurred = np.stack([1 - ramp, 0 * ramp, ramp])
    blurred[:, :, :4] = np.array([1.0, 0, 0])[:, None, None, None]
    image = np.tensordot(SIGNALS, blurred, 1)
    shift = np.array([0.1, 0.1, 0.1])
    regions, errors = brain(blurred), MapErrors(shift=shift)
    factors = regions.factors(PROTOCOL)
    mixture = Mixture.of(SIGNALS, blurred, factors, 1.0)
    uncertain = MapUncertainty(TISSUES, PROTOCOL, EXACT, mixture, errors)
    values = image / SLOPE / mixture.factor
    found = {name: np.sqrt(v) for name, _, v in uncertain.terms(values, np.zeros_like(image))}
    assert not found["u_registration"][:, :3].any()
    forth, back = (
        Mixture.of(SIGNALS, np.roll(blurred, n, axis=1), factors, 1.0).factor for n in (1, -1)
    )
    expected = 0.05 * np.abs(forth - back) / mixture.factor * image / SLOPE / mixture.factor
    middle = (slice(3, 6), slice(6, 8), slice(2, 6))
    np.testing.assert_allclose(found["u_registration"][middle], expected[middle], rtol=0.01)
    assert "u_segmentation" not in found


def test_a_voxel_without_a_known_noise_has_no_uncertainty():
    lines = {"apparent": LINE, "corrected": LINE}
    done = map_concentration(IMAGE, NOISE * np.nan, brain(), PROTOCOL, lines)
    assert np.isnan(done.uncertainty).all()


def test_the_map_of_a_whole_head_takes_little_memory():
    rng = np.random.default_rng(0)
    shape = (64, 64, 64)
    blurred = rng.random((5, *shape), np.float32)
    regions = BrainRegions(blurred, np.append(SIGNALS, [60, 70]), [*TISSUES, *TISSUES[:2]],
                           np.ones(5))  # fmt: skip
    image, noise = (rng.random(shape, np.float32) for _ in range(2))
    coil = FieldErrors(image, image, 0.1, np.ones(5), 1.0, 0.02)
    errors = MapErrors(of_reference(2), coil, coil, np.ones(3), np.ones(3))
    tracemalloc.start()
    done = map_concentration(
        image, noise, regions, PROTOCOL, {"apparent": LINE, "corrected": LINE}, errors
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done.uncertainty.dtype == np.float32
    assert peak < 16 * 4 * image.size  # 16 maps of float32: no stack of regions
