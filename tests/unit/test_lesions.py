"""What a lesion mask says, and what it cannot mean."""

import numpy as np
import pytest

from sodiumprep.sodium.lesions import lesion_fraction, lesion_remarks, share_inside
from sodiumprep.sodium.regions import carve_lesions
from sodiumprep.sodium.relaxation import lesion_tissue, relaxation_of

RNG = np.random.default_rng(2)
MASK = np.array([0.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize("value", [1.0, 255.0, 4.0, 0.3])
def test_a_mask_means_the_same_whatever_its_value(value):
    np.testing.assert_array_equal(lesion_fraction(value * MASK), MASK)


def test_fractions_stay_as_they_are():
    fractions = np.array([0.0, 0.25, 0.5, 1.0004])
    np.testing.assert_allclose(lesion_fraction(fractions), [0, 0.25, 0.5, 1.0])


def test_an_empty_mask_is_an_absent_class():
    assert not lesion_fraction(np.zeros(3)).any()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0, 1, 2, 4], r"holds 4 values \(0, 1, 2, 4, ...\) up to 4; accepted: 0 and one other"),
        ([0, -1], "smallest value is -1"),
        ([1, 1], "every voxel is lesion"),
        ([0, np.nan], "1 voxels hold NaN"),
    ],
)
def test_what_is_no_mask_is_refused_with_what_it_holds(values, text):
    with pytest.raises(ValueError, match=text):
        lesion_fraction(np.array(values, float))


def test_the_share_inside_an_absent_lesion_is_not_known():
    assert np.isnan(share_inside(np.zeros(2), np.ones(2)))


def test_a_lesion_that_does_not_touch_the_brain_is_refused():
    with pytest.raises(ValueError, match="'core' does not touch the brain mask; accepted"):
        lesion_remarks({"core": MASK}, 1 - MASK, 1.0)


@pytest.mark.parametrize(("inside", "remarks"), [(0.4, 1), (0.6, 0)])
def test_a_lesion_mostly_outside_the_brain_is_remarked_on(inside, remarks):
    assert len(lesion_remarks({"core": MASK}, np.full(4, inside), 1.0)) == remarks


def test_neighbours_that_fill_a_voxel_together_do_not_overlap():
    halves = {"a": np.array([1.0, 0.4, 0.0]), "b": np.array([0.0, 0.6, 1.0])}
    assert lesion_remarks(halves, np.ones(3), 1.0) == []


def test_classes_that_lie_apart_are_not_remarked_on():
    assert lesion_remarks({"a": MASK, "b": MASK[::-1] * 0 + [1, 0, 0, 1]}, np.ones(4), 1.0) == []


def test_the_inner_class_keeps_its_share_whatever_the_names():
    whole, inner = np.ones(10), np.zeros(10)
    inner[:3] = 1
    for names in (("a", "z"), ("z", "a")):
        carved = carve_lesions({"WM": np.ones(10)}, dict(zip(names, (whole, inner), strict=True)))
        np.testing.assert_allclose(carved[names[1]], inner)
        np.testing.assert_allclose(carved[names[0]], whole - inner)
        assert list(carved) == ["WM", "a", "z"]


def test_a_third_class_keeps_the_others_and_the_sum_below_one():
    parts = {name: RNG.uniform(0, 1, 300) for name in ("core", "edema", "cavity")}
    carved = carve_lesions({"WM": RNG.uniform(0, 1, 300)}, parts)
    assert np.sum(list(carved.values()), axis=0).max() <= 1 + 1e-6
    smallest = min(parts, key=lambda name: parts[name].sum())
    np.testing.assert_allclose(carved[smallest], parts[smallest])


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("core", "WM"), ("enhancing", "WM"), ("edema", "WM"), ("oedema", "WM"),
        ("necrosis", "WM"), ("lesion", "WM"), ("cavity", "CSF"), ("resection", "CSF"),
        ("Cyst", "CSF"), ("resectionCavity", "CSF"), ("dysplasiaGM", "GM"), ("fluidCSF", "CSF"),
    ],
)  # fmt: skip
def test_a_class_takes_the_constants_of_the_tissue_named_for_it(name, tissue):
    found, base = relaxation_of(name, 3.0), relaxation_of(tissue, 3.0)
    assert (found.t1, found.t2_long, found.short_fraction) == (
        base.t1, base.t2_long, base.short_fraction,
    )  # fmt: skip
    assert (found.u_t1, found.u_t2_long) == (2 * base.u_t1, 2 * base.u_t2_long)
    assert lesion_tissue(name) == tissue
    assert found.source.startswith(f"of {tissue}:")
