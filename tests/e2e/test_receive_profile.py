"""The figures of the receive profile, with looser limits: simulated loops, and a real head."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from sodiumprep.sodium.receive import SquaredImage, fit_receive_correction
from sodiumprep.sodium.smooth_field import grid_positions

pytestmark = pytest.mark.slow
BENCH = Path(__file__).resolve().parents[2] / "bench" / "receive.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_receive", BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(("coils", "snr", "motion"), [(4, 20, 1.0), (16, 10, 2.0), (32, 10, 0.0)])
def test_profiles_of_loops_are_undone_and_the_error_is_what_is_stated(bench, coils, snr, motion):
    scene = bench.simulate(coils, snr, motion, seed=5)
    inside = scene.profile[scene.signal > 0]
    assert inside.max() / inside.min() > 3
    found = bench.errors(scene, bench.fitted(scene))
    assert found.spread < 0.05
    assert abs(found.rim) < 0.04
    assert 0.4 < found.in_voxels < 1.6
    assert np.sqrt(np.mean(found.in_sds**2)) < 2


def test_a_fit_to_one_array_scan_holds_for_the_other_of_a_real_head(bench):
    folder = bench.find_real_pair(BENCH)
    if folder is None:
        pytest.skip(f"{bench.REAL_HEAD} is not there: the real head is not part of the project")
    magnitudes, affine = bench.load_real_pair(folder)
    first, second, volume = (SquaredImage.of(magnitude) for magnitude in magnitudes)
    fit = fit_receive_correction([first], [volume], affine)
    field = fit.field(grid_positions(volume.values.shape, affine)).reshape(volume.values.shape)
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    smooth = [bench.gaussian_filter(image, 6 / voxel)
              for image in (second.values * field**2, volume.values)]  # fmt: skip
    inside = magnitudes[2] > np.percentile(magnitudes[2], 99) / 4
    ratio = bench.spread_of_ratio(*(np.sqrt(np.maximum(image, 1e-9)) for image in smooth), inside)
    assert ratio < 1.35
    assert fit.displacement < 1
