"""Virtual coils: nothing lost where nothing is redundant, little lost where much is."""

import numpy as np
import pytest

from sodiumprep.sodium.coils import mix_coils
from sodiumprep.sodium.phantom_signal import coil_sensitivities
from sodiumprep.sodium.virtual_coils import virtual_coils

LINE = np.linspace(-0.09, 0.09, 10, dtype=np.float32)
MAPS = coil_sensitivities(np.stack(np.meshgrid(LINE, LINE, LINE, indexing="ij")), 24)


def power(maps):
    return np.sum(np.abs(maps) ** 2, axis=0)


def test_mixtures_are_orthonormal_so_that_noise_stays_independent():
    matrix = virtual_coils(MAPS)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(len(matrix)), atol=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.01, 0.001])
def test_no_more_is_lost_than_allowed(share):
    mixed = mix_coils(virtual_coils(MAPS, share), MAPS)
    lost = 1 - power(mixed).sum() / power(MAPS).sum()
    assert -1e-6 <= lost <= share


def test_one_mixture_less_would_lose_too_much():
    mixed = mix_coils(virtual_coils(MAPS, 0.01)[:-1], MAPS)
    assert power(mixed).sum() < 0.99 * power(MAPS).sum()


def test_far_fewer_coils_suffice():
    assert len(virtual_coils(MAPS)) < 0.7 * len(MAPS)


def test_without_loss_the_power_in_every_voxel_is_kept():
    mixed = mix_coils(virtual_coils(MAPS, 0.0), MAPS)
    np.testing.assert_allclose(power(mixed), power(MAPS), rtol=1e-4)


def test_coils_that_are_mixtures_of_few_become_these_few():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((16, 3)) + 1j * rng.standard_normal((16, 3))
    assert len(virtual_coils(mix_coils(mixing, MAPS[:3].astype(np.complex128)), 1e-9)) == 3


def test_samples_and_sensitivities_stay_a_model_of_each_other():
    image = np.random.default_rng(1).standard_normal(MAPS.shape[1:])
    matrix = virtual_coils(MAPS, 0.05)
    np.testing.assert_allclose(
        mix_coils(matrix, MAPS * image), mix_coils(matrix, MAPS) * image, atol=1e-5
    )


@pytest.mark.parametrize("share", [-0.1, 1.0, np.nan])
def test_a_share_that_cannot_be_is_refused(share):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        virtual_coils(MAPS, share)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_useless_sensitivities_are_refused(value):
    with pytest.raises(ValueError, match="have the power"):
        virtual_coils(np.full_like(MAPS, value))
