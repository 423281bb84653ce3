"""The table of relaxation constants and its rules."""

import pytest

from sodiumprep.sodium.relaxation import CONSTANTS, perturbed, relative_change, relaxation_of
from sodiumprep.sodium.signal import Relaxation

OWN = Relaxation(0.04, 0.004, 0.02, 0.5, 0.001, 0.0002, 0.003, 0.02, "ours")
UNCERTAIN = ("u_t1", "u_t2_short", "u_t2_long", "u_short_fraction")


@pytest.mark.parametrize("tissue", ["GM", "WM", "CSF", "muscle"])
def test_the_true_field_strength_finds_the_nominal_row(tissue):
    assert relaxation_of(tissue, 2.89) == relaxation_of(tissue, 3.0)


@pytest.mark.parametrize(("tissue", "field"), [("GM", 1.5), ("WM", 9.4), ("GM", 4.0), ("CSF", 0)])
def test_a_field_strength_without_a_row_names_the_way_round(tissue, field):
    with pytest.raises(ValueError, match=rf"{tissue} at {field:g} T .*--relaxation"):
        relaxation_of(tissue, field)


def test_cerebrospinal_fluid_has_a_row_of_its_own_at_four_tesla():
    assert relaxation_of("CSF", 4.0).t2_long == pytest.approx(63.7e-3)


def test_a_lesion_takes_white_matter_with_twice_the_uncertainty():
    lesion, wm = relaxation_of("oedema", 7.0), relaxation_of("WM", 7.0)
    assert lesion.t2_short == wm.t2_short
    assert [getattr(lesion, u) for u in UNCERTAIN] == [2 * getattr(wm, u) for u in UNCERTAIN]


def test_a_lesion_follows_the_users_white_matter():
    assert relaxation_of("core", 3.0, {"WM": OWN}).t2_long == OWN.t2_long


def test_the_users_constants_win_at_any_field():
    assert relaxation_of("GM", 1.5, {"GM": OWN}) is OWN


def test_muscle_is_twice_as_uncertain_away_from_the_field_it_was_measured_at():
    assert relaxation_of("muscle", 3.0).u_t2_long == 2 * relaxation_of("muscle", 7.0).u_t2_long


@pytest.mark.parametrize("field", list(CONSTANTS))
def test_every_row_has_a_source_and_uncertain_times(field):
    for row in CONSTANTS[field].values():
        assert row.source
        assert row.u_t1 > 0
        assert row.u_t2_long > 0
        assert (row.u_t2_short > 0) == (row.short_fraction > 0)


@pytest.mark.parametrize("name", ["t1", "t2_short", "t2_long", "short_fraction"])
def test_one_constant_moves_by_its_uncertainty_and_the_others_stay(name):
    moved = perturbed(OWN, name)
    assert getattr(moved, name) == pytest.approx(getattr(OWN, name) + getattr(OWN, f"u_{name}"))
    others = {"t1", "t2_short", "t2_long", "short_fraction"} - {name}
    assert all(getattr(moved, other) == getattr(OWN, other) for other in others)


def test_a_step_down_is_as_long_and_ends_above_zero():
    assert perturbed(OWN, "t1", -1).t1 == pytest.approx(2 * OWN.t1 - perturbed(OWN, "t1").t1)
    vague = Relaxation(1, 1, 1, 0.01, u_t2_long=2.0, u_short_fraction=0.1)
    assert perturbed(vague, "t2_long", -1).t2_long > 0
    assert perturbed(vague, "short_fraction", -1).short_fraction == 0


def test_the_change_of_a_curved_factor_is_that_of_its_slope():
    curved = Relaxation(1, 1, 1, 0.0, u_t1=0.2)
    assert relative_change(lambda known: known.t1**2, curved, "t1") == pytest.approx(0.4)


def test_a_short_fraction_never_moves_above_one():
    nearly = Relaxation(1, 1, 1, 0.99, u_short_fraction=0.1)
    assert perturbed(nearly, "short_fraction").short_fraction == 1.0
