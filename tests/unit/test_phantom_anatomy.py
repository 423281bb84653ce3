"""What the simulated heads keep, whoever is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sodiumprep.bids_app.phantom import load_template
from sodiumprep.sodium.phantom_anatomy import CLASSES, build_head, draw_anatomy, ventricle_shift
from sodiumprep.sodium.phantom_glioma import Glioma, draw_lesion_centre
from sodiumprep.sodium.phantom_t1w import Contrast, t1_weighted
from sodiumprep.sodium.phantom_template import border, prepare_template

SHAPE = (60, 72, 66)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
AFFINE[:3, 3] = -90, -124, -102


@pytest.fixture(scope="module")
def template():
    return load_template()


@pytest.fixture(scope="module")
def anatomy():
    drawn = draw_anatomy(np.random.default_rng(3))
    return replace(drawn, ventricle_scale=1.0, cortex_scale=1.0)


@pytest.fixture(scope="module")
def head(template, anatomy):
    return build_head(template, anatomy, SHAPE, AFFINE)


def litres(head, name):
    return float(head.fractions[name].sum()) * 27e-6


def ventricles(head):
    index = np.indices(SHAPE).reshape(3, -1)
    x, y, z = (AFFINE[:3, :3] @ index + AFFINE[:3, 3:]).reshape(3, *SHAPE)
    return head.fractions["CSF"][(abs(x) < 30) & (abs(y) < 45) & (z > 0) & (z < 28)].sum()


def test_fractions_and_air_sum_to_one(head):
    total = head.shares.sum(axis=0)
    assert head.shares.min() > -1e-5
    assert total.max() < 1 + 1e-5
    assert np.allclose(total[head.depth > 8], 1, atol=0.01) or total[head.depth > 8].min() >= 0


def test_inside_the_skull_there_is_nothing_but_brain(head):
    deep = head.levels[2] > 2
    assert np.allclose(head.brain[deep], 1, atol=1e-4)
    assert np.allclose(head.shares[6:, deep], 0, atol=1e-4)


def test_volumes_are_those_of_an_adult(head):
    assert 0.5 < litres(head, "GM") < 1.0
    assert 0.35 < litres(head, "WM") < 0.75
    assert 0.15 < litres(head, "CSF") < 0.55


def test_most_of_the_brain_is_unmixed(head):
    inside = head.brain > 0.99
    purest = head.shares[:, inside].max(axis=0)
    assert (purest > 0.9).mean() > 0.5


def test_larger_ventricles_hold_more_fluid(template, anatomy, head):
    large = build_head(template, replace(anatomy, ventricle_scale=2.5), SHAPE, AFFINE)
    small = build_head(template, replace(anatomy, ventricle_scale=0.6), SHAPE, AFFINE)
    assert ventricles(large) > ventricles(head) + 200
    assert ventricles(small) < ventricles(head) - 40


def test_the_wall_moves_until_the_volume_fits(template):
    level, shift = template.ventricle, ventricle_shift(template, 2.0)
    assert (level > -shift).sum() == pytest.approx(2 * (level > 0).sum(), rel=1e-3)


def test_ventricles_of_no_volume_are_refused(template):
    with pytest.raises(ValueError, match="scale is 0; it must be positive"):
        ventricle_shift(template, 0)


def test_a_thicker_cortex_has_more_grey_and_less_white_matter(template, anatomy, head):
    thick = build_head(template, replace(anatomy, cortex_scale=1.3), SHAPE, AFFINE)
    assert litres(thick, "GM") > 1.1 * litres(head, "GM")
    assert litres(thick, "WM") < litres(head, "WM")


def test_a_lesion_takes_its_place_from_tissue(template, anatomy, head):
    centre = draw_lesion_centre(np.random.default_rng(0), template)
    ill = build_head(
        template, replace(anatomy, lesion=Glioma(centre, (11.0, 21.0))), SHAPE, AFFINE
    )
    assert 2e-3 < litres(ill, "core") < 12e-3
    assert litres(ill, "edema") > litres(ill, "core")
    assert litres(head, "core") == litres(head, "edema") == 0
    assert ill.shares.sum() == pytest.approx(head.shares.sum(), rel=1e-4)


def test_subjects_differ_and_a_seed_repeats(template):
    first, second, again = (
        build_head(template, draw_anatomy(np.random.default_rng(s)), SHAPE, AFFINE).shares
        for s in (1, 2, 1)
    )
    assert np.array_equal(first, again)
    assert np.abs(first - second).mean() > 0.01


def test_the_t1w_image_has_the_contrast_that_is_asked(head):
    image = t1_weighted(head, Contrast(grey=0.7, fluid=0.2))
    for name, brightness in (("WM", 1.0), ("GM", 0.7), ("CSF", 0.2)):
        pure = head.fractions[name] > 0.999
        assert np.allclose(image[pure], brightness, atol=2e-3), name


def test_the_skull_is_darker_than_scalp_and_brain(head):
    image = t1_weighted(head, Contrast())
    skull, soft = head.fractions["skull"] > 0.99, head.fractions["soft"] > 0.99
    assert image[skull].mean() < 0.5 * image[soft].mean()


def test_borders_are_narrow():
    assert border(np.array([-0.7, 0.7])).tolist() == [0, 1]


def test_another_voxel_size_is_refused():
    with pytest.raises(ValueError, match="1 mm voxels along RAS axes"):
        prepare_template(np.ones((4, 4, 4)), np.ones((4, 4, 4)), np.ones((4, 4, 4), bool), AFFINE)


def test_every_class_has_a_share(head):
    assert head.shares.shape == (len(CLASSES), *SHAPE)
