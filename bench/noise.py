"""Check noise and kernels of the reconstruction against brute force: ``python bench/noise.py``.

Each line tells what is asked and what was measured. The truth behind each figure is made here in
another way than the tool makes its own: images from repeated noise, sums over all samples written
out, a point that is reconstructed and measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter

from sodiumprep.sodium.acquisition import Acquisition, Geometry
from sodiumprep.sodium.coils import combine_coils, smooth_coil_images, unit_vectors
from sodiumprep.sodium.density import hamming_filter, radial_weights
from sodiumprep.sodium.encoding import adjoint, forward
from sodiumprep.sodium.kernel import (
    decay_from_first_sample,
    full_width_half_maximum,
    tissue_transfers,
    to_psf,
)
from sodiumprep.sodium.measurement import Measurement, sample_covariance
from sodiumprep.sodium.noise import ImageNoise, noise_samples, weighted_covariance
from sodiumprep.sodium.phantom_signal import coil_sensitivities
from sodiumprep.sodium.reconstruct import gridding
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.trajectory import density_adapted_radial

FOV, MATRIX, COILS = 0.24, 40, 4
SPOKES, SAMPLES, REPLICAS = 1400, 64, 200
SNR = 20.0
HEAD = np.array([0.07, 0.09, 0.075])  # half axes [m]
COUPLING = 0.3  # correlation of the noise of neighbouring coils
LASTING = Relaxation(t1=1.0, t2_short=1e9, t2_long=1e9, short_fraction=0.0)
PUBLISHED = [  # tissue, Hamming, FWHM in nominal voxels at a readout of 5 and of 20 ms
    ("none", False, (1.59, 1.59)), ("none", True, (1.99, 1.99)),
    ("CSF", False, (1.60, 1.63)), ("CSF", True, (2.01, 2.05)),
    ("WM", False, (1.68, 1.81)), ("WM", True, (2.12, 2.33)),
    ("GM", False, (1.67, 1.79)), ("GM", True, (2.11, 2.31)),
]  # fmt: skip


def grid(n: int) -> Geometry:
    """Return a centred grid of the field of view."""
    return Geometry(np.zeros(3), np.eye(3), (FOV,) * 3, (n, n, n))


def places(geometry: Geometry) -> Any:
    """Return the position of each voxel [m]."""
    axes = [(np.arange(n) - n // 2) * v
            for n, v in zip(geometry.matrix, geometry.voxel_size, strict=True)]  # fmt: skip
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def head(position: Any) -> Any:
    """Return an ellipsoid with a brighter one inside, both with soft edges."""
    outer = np.linalg.norm(position / HEAD[:, None, None, None], axis=0)
    inner = np.linalg.norm((position - 0.015) / 0.025, axis=0)
    step = (1 / (1 + np.exp(np.minimum(30 * (r - 1), 50))) for r in (outer, inner))
    return next(step) + 2 * next(step)


def coupled(sd: float) -> Any:
    """Return a noise covariance with one coil twice as noisy and neighbours that share noise."""
    near = np.abs(np.subtract.outer(np.arange(COILS), np.arange(COILS))) == 1
    scale = np.diag([2.0] + [1.0] * (COILS - 1))
    return 2 * sd**2 * scale @ (np.eye(COILS) + COUPLING * near) @ scale


def measured_head(rng: np.random.Generator) -> tuple[Acquisition, Any]:
    """Return noise-free samples of the head, with noise readouts, and the noise covariance."""
    geometry, fine = grid(MATRIX), grid(2 * MATRIX)
    trajectory = density_adapted_radial(SPOKES, SAMPLES, 0.5 * MATRIX / FOV)
    coils = coil_sensitivities(places(fine), COILS)
    seen = head(places(fine)) * coils
    samples = np.stack([forward(c, trajectory, fine) for c in seen])
    samples *= np.float32(np.prod(fine.voxel_size))
    profile = np.sqrt(np.sum(np.abs(coils) ** 2, axis=0))[MATRIX, MATRIX, MATRIX]
    gain = np.sqrt(np.sum(radial_weights(trajectory).astype(float) ** 2))
    covariance = coupled(float(profile) / (SNR * gain))
    noise = noise_samples(covariance, (1, 200_000), rng)[:, 0]
    acquisition = Acquisition(
        samples, trajectory, 1e-4, 0.3e-3, 0.12, np.pi / 2, 3.0, geometry, noise, 1e-4
    )
    return acquisition, covariance


def prepared(acquisition: Acquisition) -> Measurement:
    """Return the samples with analytic weights and the covariance that the noise readouts tell."""
    weights = radial_weights(acquisition.trajectory)
    covariance, source = sample_covariance(acquisition, weights)
    return Measurement(acquisition, weights, "radial", covariance, source)


def regions(geometry: Geometry) -> dict[str, Any]:
    """Return weights of sum 1 over a sphere, and over a shell like cortex."""
    position = places(geometry)
    radius = np.linalg.norm(position / HEAD[:, None, None, None], axis=0)
    sphere = np.linalg.norm(position + 0.02, axis=0) < 0.02
    inside = {"sphere": sphere, "shell": (radius > 0.8) & (radius < 0.97)}
    return {name: part / part.sum() for name, part in inside.items()}


def exact_standard_error(
    weights: Any, unit: Any, density: Any, acquisition: Acquisition, covariance: Any
) -> float:
    """Return the error of a regional mean from a sum over all samples, with no image of noise."""
    parts = [forward(weights * u, acquisition.trajectory, acquisition.geometry) for u in unit]
    flat = (np.stack(parts) * density).reshape(len(unit), -1).astype(np.complex128)
    return float(np.sqrt(np.einsum("cs,cd,ds->", flat.conj(), covariance, flat).real / 2))


def replicas(
    acquisition: Acquisition, covariance: Any, density: Any, rng: np.random.Generator
) -> Iterator[Any]:
    """Yield images of the head with new noise each time, gridded and combined anew."""
    for _ in range(REPLICAS):
        noise = noise_samples(covariance, density.shape, rng)
        samples = (acquisition.samples + noise) * density
        images = adjoint(samples, acquisition.trajectory, acquisition.geometry)
        yield combine_coils(images, covariance)[0]


def tell(figure: str, asked: str, measured: str, good: bool) -> bool:
    """Print one line of the table."""
    print(f"{figure:<58} {asked:>16} {measured:>16}   {'yes' if good else 'NO'}", flush=True)
    return good


def check_noise(acquisition: Acquisition, covariance: Any, hamming: bool, seed: int) -> bool:
    """Compare level and correlation of the noise with replicas."""
    name = "Hamming" if hamming else "no filter"
    geometry, trajectory = acquisition.geometry, acquisition.trajectory
    known = gridding(prepared(acquisition), {}, hamming)
    density = radial_weights(trajectory) * (hamming_filter(trajectory) if hamming else 1)
    rng = np.random.default_rng(seed)
    drawn = np.stack(list(replicas(acquisition, covariance, density, rng)))
    inside = head(places(geometry)) > 0.5
    variance = drawn.var(axis=0, ddof=1)
    good = _tell_levels(name, variance, known.noise_sd, inside)
    images = adjoint(acquisition.samples * density, trajectory, geometry)
    unit = unit_vectors(smooth_coil_images(images))
    noise = ImageNoise(known.noise_sd, known.response.noise_spectrum, known.response.noise_modes)
    for region, weights in regions(geometry).items():
        predicted = np.sqrt(weighted_covariance(weights[None], noise)[0, 0])
        white = np.sqrt(np.sum((weights * known.noise_sd) ** 2))
        exact = exact_standard_error(weights, unit, density, acquisition, covariance)
        spread = np.einsum("xyz,dxyz->d", weights, drawn).std(ddof=1)
        figure = f"{name}: error of the mean of a {region}, predicted over"
        good &= tell(f"{figure} exact", "0.95 to 1.05", f"{predicted / exact:.3f}",
                     abs(predicted / exact - 1) < 0.05)  # fmt: skip
        tell(f"{figure} drawn", "(+- 0.05, 1 SD)", f"{predicted / spread:.3f}",
             abs(predicted / spread - 1) < 0.15)  # fmt: skip
        print(f"    (treated as white noise it would be {white / exact:.2f} of the exact one)")
    return good


def _tell_levels(name: str, variance: Any, noise_sd: Any, inside: Any) -> bool:
    """Compare noise SDs voxel by voxel, raw and with the chance of the draws averaged out."""
    raw = (noise_sd / np.sqrt(variance))[inside]
    near = np.sqrt(uniform_filter(noise_sd**2, 3) / uniform_filter(variance, 3))[inside]
    good = tell(f"{name}: noise SD over that of {REPLICAS} replicas, median", "0.97 to 1.03",
                f"{np.median(raw):.4f}", abs(np.median(raw) - 1) < 0.03)  # fmt: skip
    share, smooth = (100 * np.mean(np.abs(r - 1) < 0.1) for r in (raw, near))
    chance = 100 / np.sqrt(2 * (REPLICAS - 1))
    print(f"    (the replicas' own SD is uncertain by {chance:.1f} % in each voxel: "
          "95.4 % is all that a perfect map could reach)")  # fmt: skip
    tell(f"{name}: voxels of the head within 10 %", "95 %", f"{share:.1f} %", share > 94.0)
    figure = f"{name}: the same, variances averaged over 3 x 3 x 3 voxels"
    return good & tell(figure, "95 %", f"{smooth:.1f} %", smooth >= 95.0)


def widths_of_point(weights: Any, decay: Any, trajectory: Any, voxel: float) -> Any:
    """Return the FWHM along each axis of a point in the centre, from sums over all samples."""
    fine = np.arange(0, 2, 1 / 64) * voxel
    widths = []
    for axis in range(3):
        angle = 2 * np.pi * trajectory[..., axis].ravel().astype(np.float64)
        line = np.array([np.sum((weights * decay).ravel() * np.cos(angle * x)) for x in fine])
        half = int(np.argmax(line < line[0] / 2))
        step = (line[half - 1] - line[0] / 2) / (line[half - 1] - line[half])
        widths.append(2 * (half - 1 + step) / 64)
    return np.array(widths)


def check_widths() -> bool:
    """Compare kernels with simulated points and with the published widths."""
    geometry = grid(32)
    trajectory = density_adapted_radial(3000, 96, 0.5 * 32 / FOV)
    good = True
    for tissue, hamming, published in PUBLISHED:
        constants = LASTING if tissue == "none" else relaxation_of(tissue, 3.0)
        weights = radial_weights(trajectory) * (hamming_filter(trajectory) if hamming else 1)
        for readout, asked in zip((0.005, 0.02), published, strict=True):
            times = np.linspace(0, readout, trajectory.shape[1])
            transfers = tissue_transfers(
                {tissue: constants}, weights, times, trajectory, geometry, 0.0
            )
            found = full_width_half_maximum(to_psf(transfers[tissue]), np.ones(3))
            decay = decay_from_first_sample(constants, times, 0.0)
            point = widths_of_point(weights, decay, trajectory, float(geometry.voxel_size[0]))
            figure = f"{tissue}, {1e3 * readout:.0f} ms{', Hamming' if hamming else ''}"
            good &= tell(f"FWHM, {figure} [voxels]", f"{asked:.2f} +- 2 %", f"{found.mean():.3f}",
                         bool(np.all(np.abs(found / asked - 1) < 0.02)))  # fmt: skip
            worst = 100 * np.abs(found / point - 1).max()
            good &= tell("    off that of a simulated point, worst axis", "1 %",
                         f"{worst:.2f} %", worst < 1)  # fmt: skip
    return good


def main() -> int:
    """Print the table; return 1 if a figure is not reached."""
    start = time.perf_counter()
    print(f"{'figure':<58} {'asked':>16} {'measured':>16}   reached")
    good = check_widths()
    acquisition, covariance = measured_head(np.random.default_rng(1))
    for hamming in (False, True):
        good &= check_noise(acquisition, covariance, hamming, seed=2 + hamming)
    print(f"{time.perf_counter() - start:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
