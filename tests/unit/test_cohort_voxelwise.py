"""Voxelwise models: against nilearn, on effects that are known, on noise, and what is refused."""

import nibabel as nib
import numpy as np
import pytest
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols
from scipy.ndimage import gaussian_filter

from sodiumprep.sodium.cohort.voxelwise import (
    Plan,
    cohort_maps,
    permutation_test,
    subject_slopes,
)

SHAPE = (9, 10, 8)
MASK = np.zeros(SHAPE, dtype=bool)
MASK[1:-1, 1:-1, 1:-1] = True
GROUP = np.repeat([0.0, 1.0], 10)
NOTHING = np.empty((20, 0))
QUICK = Plan(permutations=99, cluster_p=0.01)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def noise(rng, n=20, width=1.0):
    found = [gaussian_filter(rng.normal(size=SHAPE), width)[MASK] for _ in range(n)]
    return np.stack(found) / np.std(found)


def block():
    where = np.zeros(SHAPE, dtype=bool)
    where[2:5, 2:5, 2:5] = True
    return where[MASK]


@pytest.mark.filterwarnings("ignore:Data array used to create a new image:UserWarning")  # nilearn
def test_statistics_are_nilearns(rng):
    covariates = rng.normal(size=(20, 2))
    maps = 40 + noise(rng) + covariates[:, :1]
    masker = NiftiMasker(nib.Nifti1Image(MASK.astype(np.uint8), np.eye(4))).fit()
    peer = permuted_ols(
        GROUP[:, None], maps, covariates, n_perm=499, masker=masker, threshold=0.01, random_state=1
    )
    ours = permutation_test(maps, MASK, GROUP, covariates, rng, Plan(499, cluster_p=0.01))
    np.testing.assert_allclose(ours.t, peer["t"][0], atol=1e-10)
    np.testing.assert_allclose(ours.p, 10 ** -peer["logp_max_t"][0], atol=0.1)
    assert ours.clusters["mass"].max() == pytest.approx(peer["mass"].max())
    assert ours.clusters["voxels"].max() == peer["size"].max()


def test_the_mean_against_zero_is_nilearns(rng):
    maps, covariates = noise(rng) + 0.3, rng.normal(size=(20, 1))
    peer = permuted_ols(np.ones((20, 1)), maps, covariates - covariates.mean(), n_perm=499)
    plan = Plan(499, cluster_p=None, tfce=False)
    ours = permutation_test(maps, MASK, np.ones(20), covariates, rng, plan)
    np.testing.assert_allclose(ours.t, peer["t"][0], atol=1e-10)
    np.testing.assert_allclose(ours.p, 10 ** -peer["logp_max_t"][0], atol=0.1)


def test_an_effect_is_found_where_it_is_and_as_large(rng):
    maps = 40 + noise(rng) + 4 * GROUP[:, None] * block()
    found = permutation_test(maps, MASK, GROUP, NOTHING, rng, QUICK)
    inside = block()
    assert found.effect[inside].mean() == pytest.approx(4, abs=0.5)
    assert abs(found.effect[~inside].mean()) < 0.5
    for p in (found.p, found.p_enhanced):
        assert np.mean(p[inside] <= 0.05) > 0.8
        assert np.mean(p[~inside] <= 0.05) < 0.2  # the enhancement reaches to the neighbours
    first = found.clusters.iloc[0]
    assert (first["p_mass"], first["p_size"]) == (0.01, 0.01)
    assert inside[int(first["peak_voxel"])]
    assert (found.labels == first["label"]).sum() == first["voxels"]


def test_a_covariate_takes_its_part(rng):
    age = rng.normal(size=20) + 2 * GROUP
    maps = 40 + 0.2 * noise(rng) + age[:, None]
    alone = permutation_test(maps, MASK, GROUP, NOTHING, rng, QUICK)
    given = permutation_test(maps, MASK, GROUP, age[:, None], rng, QUICK)
    assert np.mean(alone.p <= 0.05) > 0.9
    assert np.mean(given.p <= 0.05) < 0.1


@pytest.mark.parametrize("covariate", [False, True])
def test_noise_is_found_as_rarely_as_stated(rng, covariate):
    found = []
    for _ in range(120):
        z = GROUP[:, None] + rng.normal(size=(20, 1)) if covariate else NOTHING
        maps = noise(rng) + (z.sum(axis=1, keepdims=True) if covariate else 0)
        test = permutation_test(maps, MASK, GROUP, z, rng, Plan(39, cluster_p=None, tfce=False))
        found.append(test.p.min() <= 0.05)
    assert np.mean(found) < 0.12  # 5 % of 120, 99.9 % band


def test_the_same_seed_gives_the_same_result_in_any_number_of_threads(rng):
    maps = noise(rng)
    one, two = (
        permutation_test(maps, MASK, GROUP, NOTHING, np.random.default_rng(3), Plan(39, threads=n))
        for n in (1, 2)
    )
    np.testing.assert_array_equal(one.p_enhanced, two.p_enhanced)
    assert one.null.equals(two.null)


def test_single_precision_changes_no_p(rng):
    maps = 40 + noise(rng) + 2 * GROUP[:, None] * block()
    one, other = (
        permutation_test(m, MASK, GROUP, NOTHING, np.random.default_rng(3), Plan(39))
        for m in (maps, maps.astype(np.float32))
    )
    np.testing.assert_allclose(other.t, one.t, atol=1e-3)
    np.testing.assert_allclose(other.p, one.p, atol=1 / 40)


def test_voxels_that_few_cover_are_left_out(rng):
    maps = noise(rng)
    maps[:5, :7] = np.nan
    found = permutation_test(maps, MASK, GROUP, NOTHING, rng, QUICK)
    assert not found.used[:7].any()
    assert np.isnan(found.t[:7]).all()
    assert np.isfinite(found.p[7:]).all()


def test_a_subject_that_does_not_cover_a_voxel_adds_nothing_there(rng):
    maps = 40 + noise(rng)
    maps[3, :7] = np.nan
    found = permutation_test(maps, MASK, GROUP, NOTHING, rng, QUICK)
    others = np.delete(np.arange(20), 3)
    direct = permutation_test(maps[others], MASK, GROUP[others], NOTHING[others], rng, QUICK)
    np.testing.assert_allclose(found.t[:7], direct.t[:7], rtol=0.15, atol=0.1)
    np.testing.assert_allclose(found.effect[:7], direct.effect[:7], rtol=0.15, atol=0.05)


def test_constant_voxels_are_left_out(rng):
    maps = noise(rng)
    maps[:, 4] = 40.0
    assert not permutation_test(maps, MASK, GROUP, NOTHING, rng, QUICK).used[4]


def test_few_relabellings_are_told(rng):
    found = permutation_test(
        noise(rng, 6), MASK, np.repeat([0.0, 1.0], 3), np.empty((6, 0)), rng, QUICK
    )
    assert "only 20 relabellings differ: no p below about 0.05" in found.notes[0]


def test_means_count_only_who_covers_a_voxel():
    found = cohort_maps(np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]]))
    np.testing.assert_array_equal(found.n, [2, 1, 0])
    np.testing.assert_allclose(found.mean, [2, 5, np.nan])
    np.testing.assert_allclose(found.sd, [np.sqrt(2), np.nan, np.nan])


def test_two_sessions_are_their_difference_and_one_says_nothing():
    maps = np.array([[1.0, 2.0], [4.0, 8.0], [9.0, 9.0]])
    names, slopes = subject_slopes(maps, np.array(["a", "a", "b"]), np.array([0.0, 3.0, 0.0]))
    assert names.tolist() == ["a"]
    np.testing.assert_allclose(slopes, [[1.0, 2.0]])


def test_sessions_at_one_time_have_no_slope():
    with pytest.raises(ValueError, match="two different times"):
        subject_slopes(np.ones((2, 3)), np.array(["a", "a"]), np.zeros(2))


def test_no_maps_have_no_mean():
    with pytest.raises(ValueError, match="shape"):
        cohort_maps(np.empty((0, 3)))


ONE = np.arange(20) == 3


@pytest.mark.parametrize(
    ("tested", "covariates", "said"),
    [
        (ONE.astype(float), NOTHING, "a group of the voxelwise model has one subject"),
        (np.full(20, 2.0), NOTHING, "is 2 in every subject"),
        (GROUP, np.ones((20, 1)), "covariate is the same"),
        (GROUP, np.tile(np.arange(20.0)[:, None], 2), "depend on each other"),
        (GROUP, 3 - GROUP[:, None], "explain what is tested"),
        (GROUP, np.full((20, 1), np.nan), "number of the design is missing"),
        (GROUP, np.random.default_rng(1).normal(size=(20, 17)), "leave 1 degrees"),
        (GROUP[:-1], NOTHING, "do not fit 19 subjects"),
    ],
)
def test_designs_that_test_nothing_are_refused(rng, tested, covariates, said):
    with pytest.raises(ValueError, match=said):
        permutation_test(noise(rng), MASK, tested, covariates, rng, QUICK)


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        (np.ones((20, 3)), "3 voxels, the mask has"),
        (np.full((20, MASK.sum()), np.nan), "no voxel is covered by 90% of the 20"),
        (np.ones((20, MASK.sum())), "constant over the subjects"),
    ],
)
def test_maps_that_show_nothing_are_refused(rng, maps, said):
    with pytest.raises(ValueError, match=said):
        permutation_test(maps, MASK, GROUP, NOTHING, rng, QUICK)


@pytest.mark.parametrize(
    "wrong",
    [{"permutations": 10}, {"coverage": 0.0}, {"cluster_p": 1.0}, {"threads": 0}],
)
def test_a_plan_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="at least|share|lies in"):
        Plan(**wrong)
