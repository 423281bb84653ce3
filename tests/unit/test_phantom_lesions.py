"""Lesions of the phantom: where they lie, what they take and how their sodium behaves."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from sodiumprep.bids_app.phantom import load_template
from sodiumprep.sodium import phantom
from sodiumprep.sodium.phantom_anatomy import build_head, draw_anatomy, lesion_labels
from sodiumprep.sodium.phantom_content import (
    draw_concentrations,
    mean_concentrations,
    sodium_content,
    true_lesions,
    true_means,
)
from sodiumprep.sodium.phantom_lesions import KINDS, class_names, cover_tissue, relaxation_in
from sodiumprep.sodium.phantom_placement import Placement
from sodiumprep.sodium.phantom_plaques import (
    GAP,
    JUXTACORTICAL,
    PERIVENTRICULAR,
    Plaque,
    Plaques,
    draw_plaques,
)
from sodiumprep.sodium.phantom_stroke import draw_stroke
from sodiumprep.sodium.phantom_t1w import Contrast, t1_weighted
from sodiumprep.sodium.phantom_template import border

SHAPE = (80, 96, 88)  # voxels of 2.25 mm
AFFINE = np.diag([2.25, 2.25, 2.25, 1.0])
AFFINE[:3, 3] = -90, -124, -102
TISSUES = ("GM", "WM", "CSF")


@pytest.fixture(scope="module")
def template():
    return load_template()


@pytest.fixture(scope="module")
def healthy():
    """Return a head like that of the template."""
    drawn = draw_anatomy(np.random.default_rng(3))
    still = np.zeros_like(drawn.displacement)
    return replace(
        drawn, ventricle_scale=1.0, cortex_scale=1.0, size=np.ones(3), displacement=still
    )


@pytest.fixture(scope="module")
def plaques(template):
    return draw_plaques(np.random.default_rng(5), template)


@pytest.fixture(scope="module")
def with_plaques(template, healthy, plaques):
    return build_head(template, healthy.with_lesion(plaques), SHAPE, AFFINE)


@pytest.fixture(scope="module")
def with_stroke(template, healthy):
    stroke = draw_stroke(np.random.default_rng(5))
    return stroke, build_head(template, healthy.with_lesion(stroke), SHAPE, AFFINE)


@pytest.fixture(scope="module")
def without(template, healthy):
    return build_head(template, healthy, SHAPE, AFFINE)


def cube(half=14.0, spacing=0.5):
    axis = np.arange(-half, half + spacing / 2, spacing, np.float32)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)


def plaque(radii=(6.0, 4.0), name="blackhole", centre=(0, 0, 0)):
    along = np.array([0.6, 0.8, 0.0])
    return Plaque(name, PERIVENTRICULAR, np.array(centre, float), along, radii)


def test_a_plaque_has_the_volume_of_its_ellipsoid():
    volume = border(plaque().level(cube())).sum() * 0.5**3
    assert volume == pytest.approx(4 / 3 * np.pi * 6 * 4 * 4, rel=0.04)


def test_a_plaque_is_deepest_in_its_middle_and_ends_within_its_reach():
    made, places = plaque(), cube()
    level = made.level(places)
    assert made.level(np.zeros((3, 1), np.float32))[0] == pytest.approx(4.0, abs=0.1)
    assert np.linalg.norm(places[:, border(level) > 0], axis=0).max() < made.reach


def test_what_a_lesion_takes_others_lose():
    rng = np.random.default_rng(0)
    parts = dict(zip((*TISSUES, "other"), rng.dirichlet(np.ones(4), 50).T, strict=True))
    left = cover_tissue(cover_tissue(parts, "core", rng.normal(0, 1, 50)), "rim", np.ones(50))
    assert np.allclose(sum(left.values()), 1)
    assert np.array_equal(left["CSF"], parts["CSF"])
    assert np.allclose(left["GM"] + left["WM"], 0)


def test_plaques_that_have_grown_into_each_other_share_their_tissue():
    both = Plaques((plaque(), plaque(name="expanding", centre=(5, 0, 0))))
    places = cube()
    parts = {
        n: np.full(places.shape[1], f, np.float32)
        for n, f in zip(TISSUES, (0.2, 0.7, 0.1), strict=True)
    }
    left = both.take(parts, places, places)
    assert np.allclose(sum(left.values()), 1, atol=1e-6)
    assert (left["blackhole"] + left["expanding"]).max() <= 0.9 + 1e-6
    assert ((left["blackhole"] > 0.5) & (left["expanding"] > 0.5)).sum() == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_patients_have_several_plaques_of_each_class_and_place_apart(template, seed):
    drawn = draw_plaques(np.random.default_rng(seed), template).plaques
    assert 5 <= len(drawn) <= 9
    assert {p.name for p in drawn} == set(class_names("ms"))
    assert {p.place for p in drawn} == {PERIVENTRICULAR, JUXTACORTICAL}
    for one, other in combinations(drawn, 2):
        touch = max(one.radii) + max(other.radii)
        assert np.linalg.norm(one.centre - other.centre) > touch + GAP
    assert all(2.7 < min(p.radii) <= max(p.radii) <= 7.5 for p in drawn)


def test_periventricular_plaques_touch_the_wall_and_others_keep_away(template, plaques):
    for each in plaques.plaques:
        index = np.rint(each.centre - template.affine[:3, 3]).astype(int)
        wall = -template.ventricle[tuple(index)]
        if each.place == PERIVENTRICULAR:
            assert abs(wall - max(each.radii)) < 1
        else:
            assert wall > max(each.radii) + 8


def test_a_seed_repeats_its_plaques(template, plaques):
    again = draw_plaques(np.random.default_rng(5), template)
    assert [p.centre.tolist() for p in again.plaques] == [
        p.centre.tolist() for p in plaques.plaques
    ]
    assert [p.name for p in again.plaques] == [p.name for p in plaques.plaques]


def test_white_matter_that_is_too_small_is_refused(template):
    with pytest.raises(ValueError, match="no place left for a plaque of"):
        draw_plaques(
            np.random.default_rng(0), replace(template, white=np.full_like(template.white, -3))
        )


def test_only_expanding_plaques_grow_by_twelve_percent_in_a_year(plaques):
    for before, after in zip(plaques.plaques, plaques.later(2.0).plaques, strict=True):
        growth = np.prod(np.array(after.radii)[[0, 1, 1]] / np.array(before.radii)[[0, 1, 1]])
        assert growth == pytest.approx(1.24 if before.name == "expanding" else 1)


def test_lesions_take_tissue_and_leave_fluid(with_plaques, with_stroke, without):
    for head in (with_plaques, with_stroke[1]):
        lesion = sum(head.fractions[name].sum() for name in head.lesions)
        lost = sum((without.fractions[n] - head.fractions[n]).sum() for n in ("GM", "WM"))
        assert lesion == pytest.approx(lost, rel=1e-3)
        assert np.array_equal(head.fractions["CSF"], without.fractions["CSF"])
        assert np.allclose(head.shares.sum(axis=0), without.shares.sum(axis=0), atol=1e-5)


def test_every_plaque_is_found_in_the_head_where_it_was_put(
    template, healthy, plaques, with_plaques
):
    anatomy = healthy.with_lesion(plaques)
    labels = lesion_labels(template, anatomy, with_plaques, AFFINE)
    found = true_lesions(with_plaques, labels, plaques.places, AFFINE)
    assert [f.number for f in found] == list(range(1, len(plaques.plaques) + 1))
    for true, put in zip(found, plaques.plaques, strict=True):
        assert (true.name, true.place) == (put.name, put.place)
        assert np.linalg.norm(true.centre - put.centre) < 3
        assert 0.3 < true.volume / (4e-3 / 3 * np.pi * put.radii[0] * put.radii[1] ** 2) < 1.2


def test_volumes_of_the_lesions_add_up_to_their_class(template, healthy, with_stroke):
    stroke, head = with_stroke
    labels = lesion_labels(template, healthy.with_lesion(stroke), head, AFFINE)
    found = {f.name: f.volume for f in true_lesions(head, labels, stroke.places, AFFINE)}
    for name in ("core", "penumbra"):
        assert found[name] == pytest.approx(
            head.fractions[name].sum() * 2.25e-3**3 * 1e6, rel=1e-4
        )


def test_a_head_without_a_lesion_has_no_labels(template, healthy, without):
    assert not lesion_labels(template, healthy, without, AFFINE).any()


def test_a_stroke_lies_in_one_hemisphere_and_reaches_the_cortex(with_stroke, without):
    stroke, head = with_stroke
    territory = head.fractions["core"] + head.fractions["penumbra"]
    x = (np.indices(SHAPE)[0] * 2.25 - 90) * np.sign(stroke.apex[0])
    assert territory[x < 5].sum() == 0
    assert 15 < territory.sum() * 2.25**3 / 1e3 < 150
    assert territory[without.fractions["GM"] > 0.9].sum() > 0.2 * territory.sum()


@pytest.mark.parametrize("seed", range(6))
def test_the_core_of_a_stroke_is_smaller_than_its_territory(seed):
    stroke = draw_stroke(np.random.default_rng(seed))
    places = cube(90, 6.0)
    core, territory = stroke.levels(places)
    assert 0 < (core > 0).sum() < 0.6 * (territory > 0).sum()
    assert (territory[core > 1] > 0).mean() > 0.99


def test_both_sides_have_strokes():
    sides = [draw_stroke(np.random.default_rng(s)).places[0] for s in range(8)]
    assert {side.split(", ")[1] for side in sides} == {"left", "right"}


def test_lesions_hold_more_sodium_than_white_matter_but_for_the_penumbra():
    for kind, classes in KINDS.items():
        means = mean_concentrations(kind)
        for each in classes:
            assert (means[each.name] > means["WM"]) == (each.name != "penumbra")


def test_sodium_of_lesions_relaxes_slower_and_each_kind_has_its_own():
    white = relaxation_in("ms", "WM", 3)
    assert all(relaxation_in("ms", n, 3).t2_long > white.t2_long for n in class_names("ms"))
    assert relaxation_in("stroke", "core", 3) != relaxation_in("glioma", "core", 3) == white
    with pytest.raises(ValueError, match="phantom knows 3 and 7 T"):
        relaxation_in("ms", "blackhole", 1.5)


def test_the_truth_of_a_lesion_is_the_mean_of_what_it_holds(with_plaques):
    rng = np.random.default_rng(0)
    drawn = draw_concentrations(rng, mean_concentrations("ms"))
    made = true_means(with_plaques, sodium_content(rng, with_plaques, drawn))
    for name in (*TISSUES, *class_names("ms")):
        assert made[name] == pytest.approx(drawn[name], rel=1e-3)


def test_the_signal_of_a_lesion_is_that_of_its_class(monkeypatch):
    monkeypatch.setattr(phantom, "FINEST_VOXEL", 5e-3)
    names = (*TISSUES, *class_names("ms"), "other", "soft", "skull", "fluid")
    content = np.zeros((len(names), 24, 24, 24), np.float32)
    content[names.index("blackhole")] = 45.0
    grid = np.diag([10.0, 10, 10, 1])
    grid[:3, 3] = -120
    timing = phantom.Timing(0.3e-3, 0.12, np.pi / 2, 0.01)
    how = phantom.Protocol(timing, 3, 1, 20.0, np.ones((4, 16, 3)))
    place = phantom.Geometry(np.zeros(3), np.eye(3), (0.24,) * 3, (24,) * 3)
    where = Placement(grid, np.eye(4), place, np.zeros(3))
    made = phantom.build_object(content, np.ones((24,) * 3, np.float32), where, how, [], "ms")
    first = (made.images[:, 25, 25, 25] @ made.curves)[0]
    decay = 0.6 * np.exp(-0.3 / (1.2 * 3.4)) + 0.4 * np.exp(-0.3 / (1.2 * 23.5))
    assert first == pytest.approx(45 * (1 - np.exp(-120 / (1.2 * 37))) * decay, rel=2e-3)


def test_black_holes_are_dark_and_an_infarct_keeps_its_cortex(with_plaques, with_stroke, without):
    image = t1_weighted(with_plaques, Contrast())
    hole = with_plaques.fractions["blackhole"] > 0.99
    assert np.allclose(image[hole], 0.5, atol=0.01)
    _, head = with_stroke
    image, core = t1_weighted(head, Contrast()), head.fractions["core"] > 0.99
    grey, white = (core & (without.fractions[n] > 0.99) for n in ("GM", "WM"))
    assert image[white].mean() == pytest.approx(0.8, abs=0.01)
    assert image[grey].mean() == pytest.approx(0.8 * 0.68, abs=0.03)
