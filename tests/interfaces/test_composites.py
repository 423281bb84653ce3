"""Composite transforms whose bytes tell nothing of when and where they were written."""

import time
from pathlib import Path

import ants
import h5py
import numpy as np
import pytest

from sodiumprep.interfaces.composites import settle_composite


@pytest.fixture(scope="module")
def image():
    return ants.from_numpy(np.random.default_rng(0).random((16, 16, 16)).astype("float32"))


def registered(image, folder):
    """Return the composite that leads from an image to a shifted one."""
    moved = ants.from_numpy(np.roll(image.numpy(), 1, axis=0))
    found = ants.registration(
        image, moved, "SyN", reg_iterations=(3,), aff_iterations=(3,), aff_shrink_factors=(1,),
        aff_smoothing_sigmas=(0,), write_composite_transform=True, outprefix=f"{folder}/",
        random_seed=1,
    )  # fmt: skip
    return Path(found["fwdtransforms"])


@pytest.fixture(scope="module")
def pair(image, tmp_path_factory):
    """Return one transform, written twice in different seconds."""
    first = registered(image, tmp_path_factory.mktemp("first"))
    second = first.with_name("second.h5")
    transform = ants.read_transform(str(first))
    time.sleep(1.1)
    ants.write_transform(transform, str(second))
    before = first.read_bytes() != second.read_bytes()
    points = np.random.default_rng(1).uniform(2, 13, (20, 3)).tolist()
    places = [transform.apply_to_point(point) for point in points]
    return settle_composite(first), settle_composite(second), before, points, places


def test_the_same_transform_gives_the_same_bytes(pair):
    first, second, differed, *_ = pair
    assert differed
    with h5py.File(first) as one, h5py.File(second) as other:
        assert set(one) == set(other) == {"HDFVersion", "ITKVersion", "TransformGroup"}
    assert len({tuple(h5py.File(path)["TransformGroup"]) for path in (first, second)}) == 1


def test_writing_it_anew_twice_changes_nothing(pair):
    before = Path(pair[0]).read_bytes()
    time.sleep(1.1)
    settle_composite(pair[0])
    assert Path(pair[0]).read_bytes() == before


def test_ants_reads_the_same_transform(pair):
    read = ants.read_transform(pair[0])
    found = [read.apply_to_point(point) for point in pair[3]]
    np.testing.assert_allclose(found, pair[4], atol=1e-6)
    assert np.abs(np.array(pair[4]) - pair[3]).max() > 0.1


def test_no_partial_file_is_left(pair):
    assert not list(Path(pair[0]).parent.glob(".*"))
