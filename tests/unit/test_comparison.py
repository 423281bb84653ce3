"""References of one image against each other: what they share cancels, what they do not counts."""

import numpy as np
import pytest

from sodiumprep.sodium.comparison import References

NAMES = ["vials", "csf", "vitreous"]
NONE = np.zeros((3, 3))


def references(**changes):
    known = {
        "names": NAMES, "slopes": np.array([100.0, 100.0, 100.0]), "independent": np.zeros(3),
        "noise": NONE, "changes": np.zeros((0, 3)), "fields": NONE,
    }  # fmt: skip
    return References(**{**known, **changes})


def test_what_changes_both_references_alike_cancels_in_their_ratio():
    shared = references(changes=np.array([[0.0, 0.05, 0.05]]))
    assert shared.ratio(1, 2) == (1.0, 0.0)
    assert shared.ratio(0, 1)[1] == pytest.approx(0.05)
    np.testing.assert_allclose(shared.uncertainties(), [0, 5, 5])


def test_fields_of_the_coils_act_between_references_only():
    apart = references(fields=0.03**2 * np.eye(3))
    assert not apart.uncertainties().any()
    assert apart.ratio(0, 2)[1] == pytest.approx(0.03 * np.sqrt(2))
    together = references(fields=np.full((3, 3), 0.03**2))
    assert together.ratio(0, 2)[1] == pytest.approx(0, abs=1e-9)


def test_the_uncertainty_of_a_ratio_is_that_of_draws():
    rng = np.random.default_rng(0)
    noise = np.array([[0, 0, 0], [0, 4e-4, -2e-4], [0, -2e-4, 3e-4]])
    changes = np.array([[0, 0.02, 0.05], [0, -0.03, 0.01]])
    slopes, own = np.array([100.0, 104.0, 90.0]), np.array([0.01, 0.03, 0.06])
    known = references(slopes=slopes, independent=own, noise=noise, changes=changes)
    n = 200_000
    error = own * rng.normal(size=(n, 3)) + rng.normal(size=(n, 2)) @ changes
    error += rng.multivariate_normal(np.zeros(3), noise, n)
    drawn = slopes * (1 + error)
    np.testing.assert_allclose(known.uncertainties(), drawn.std(axis=0), rtol=0.01)
    for one, other in ((1, 2), (2, 0)):
        found = np.exp(error[:, one] - error[:, other]) * slopes[one] / slopes[other]
        ratio, u = known.ratio(one, other)
        assert ratio == pytest.approx(slopes[one] / slopes[other])
        assert u == pytest.approx(found.std(), rel=0.02)


@pytest.mark.parametrize(
    ("factor", "disagree"), [(1.14, 0), (1 / 1.14, 0), (1.18, 2), (1 / 1.18, 2)]
)
def test_references_that_differ_by_more_than_three_uncertainties_are_told(factor, disagree):
    known = references(
        slopes=np.array([100.0, 100.0 * factor, 100.0]), independent=np.array([0.03, 0.04, 0.03])
    )
    told = known.disagreements()
    assert len(told) == disagree
    assert all("csf" in text for text in told)


def test_a_disagreement_names_both_with_ratio_and_uncertainty():
    known = references(slopes=np.array([100.0, 100.0, 130.0]), independent=np.full(3, 0.03))
    assert known.disagreements()[0] == (
        "the references disagree: vitreous gives 1.30 ± 0.06 times the slope of vials"
    )
