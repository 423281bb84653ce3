"""Measure voxelwise inference: ``python bench/voxelwise.py [--images N] [--permutations N]``.

First the time of one model on 40 smooth maps of 2 mm over the brain of nilearn's template, with
voxels, clusters and enhancement of one and the same permutations, and what nilearn's own
enhancement would take. Then how often smooth noise on small images is called an effect, for each
statistic, with and without a covariate that goes with the group.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from nilearn.datasets import load_mni152_brain_mask
from nilearn.mass_univariate._utils import calculate_tfce
from scipy.ndimage import gaussian_filter, generate_binary_structure

from sodiumprep.sodium.cohort.diagnostic import wilson
from sodiumprep.sodium.cohort.voxelwise import Plan, VoxelTest, permutation_test

SUBJECTS, WIDTH = 40, 2.0  # maps; SD of the smoothing [voxels]: FWHM 9.4 mm
SMALL = (16, 18, 16)
NAMES = {"t": "voxels", "enhanced": "enhancement", "size": "cluster size", "mass": "cluster mass"}


def smooth_maps(mask: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return maps of 40 mmol/L with smooth noise of 5, shape (n, voxels)."""
    found = [
        gaussian_filter(rng.standard_normal(mask.shape, dtype=np.float32), WIDTH)[mask]
        for _ in range(n)
    ]
    maps = np.stack(found)
    return 40 + 5 * maps / maps.std()


def measure_time(permutations: int, rng: np.random.Generator) -> None:
    """Print the time of one model at full size."""
    mask = load_mni152_brain_mask(resolution=2, threshold=0.2).get_fdata() > 0
    maps, group = smooth_maps(mask, SUBJECTS, rng), np.repeat([0.0, 1.0], SUBJECTS // 2)
    age = rng.normal(50, 10, size=(SUBJECTS, 1))
    small = np.ones((6, 6, 6), dtype=bool)
    permutation_test(
        smooth_maps(small, SUBJECTS, rng), small, group, age, rng, Plan(19)
    )  # compiles
    wall, used = time.perf_counter(), time.process_time()
    test = permutation_test(maps, mask, group, age, rng, Plan(permutations, threads=2))
    wall, used = time.perf_counter() - wall, time.process_time() - used
    print(
        f"{mask.sum()} voxels, {permutations} permutations, 2 threads: {wall:.0f} s, "
        f"{used:.0f} s of CPU (voxels, clusters and enhancement)",
        flush=True,
    )
    picture = np.zeros((*mask.shape, 1))
    picture[mask, 0] = np.nan_to_num(test.t)
    used = time.process_time()
    calculate_tfce(picture, generate_binary_structure(3, 1))
    used = time.process_time() - used
    print(f"nilearn's enhancement of one map: {used:.1f} s of CPU")


def measure_errors(images: int, rng: np.random.Generator) -> None:
    """Print how often noise is called an effect."""
    mask = np.ones(SMALL, dtype=bool)
    for n, covariate in ((20, False), (20, True), (12, False)):
        group, false = np.repeat([0.0, 1.0], n // 2), dict.fromkeys(NAMES, 0)
        for _ in range(images):
            age = group + rng.normal(size=n)
            maps = smooth_maps(mask, n, rng) + (3 * age[:, None] if covariate else 0)
            known = age[:, None] if covariate else np.empty((n, 0))
            test = permutation_test(maps, mask, group, known, rng, Plan(99, cluster_p=0.01))
            for name, p in _smallest(test).items():
                false[name] += p <= 0.05
        told = f"{n} maps{', covariate' if covariate else ''}"
        for name, count in false.items():
            low, high = wilson(count / images, images, 0.95)
            print(
                f"{told}, {NAMES[name]}: {count / images:.1%} of {images} images at 5 % "
                f"({low:.1%} to {high:.1%})",
                flush=True,
            )


def _smallest(test: VoxelTest) -> dict[str, float]:
    clusters = test.clusters
    return {
        "t": np.nanmin(test.p),
        "enhanced": np.nanmin(test.p_enhanced),
        "size": clusters["p_size"].min() if len(clusters) else 1.0,
        "mass": clusters["p_mass"].min() if len(clusters) else 1.0,
    }


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--permutations", type=int, default=1000)
    given = parser.parse_args()
    rng = np.random.default_rng(2026)
    if given.permutations:
        measure_time(given.permutations, rng)
    if given.images:
        measure_errors(given.images, rng)


if __name__ == "__main__":
    main()
