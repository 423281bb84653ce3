"""Receive profile: what the correction leaves of it, on simulated pairs and on a real head at 7 T.

Simulated heads are ellipsoids with contrast, seen by loops around them; k-space is cut to a
sphere, coils are combined by root sum of squares, the head moves between the images, the coils do
not. The real head is the one that lies beside the checkout, if it does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from sodiumprep.sodium.receive import (
    ReceiveFit,
    SquaredImage,
    fit_receive_correction,
    repeat_agreement,
)
from sodiumprep.sodium.smooth_field import grid_positions, relative_uncertainty

REAL_HEAD = Path("shared") / "data" / "real7t" / "sub-01" / "fmap"
FOV, FINE, COARSE = 240.0, 80, 40  # mm; voxels of the object and of the pair
AXES = np.array([72.0, 90.0, 78.0])  # mm, of the head
TURNED = 50.0  # mm from a turn's axis, root mean square over the head
CASES = [  # coils, signal-to-noise ratio of the volume-coil image, motion [mm]
    (4, 5, 1.0), (4, 10, 2.0), (4, 20, 0.0), (8, 5, 2.0), (8, 10, 0.0), (8, 20, 1.0),
    (16, 5, 0.0), (16, 10, 1.0), (16, 20, 2.0), (32, 5, 1.0), (32, 10, 2.0), (32, 20, 0.0),
]  # fmt: skip


def affine_of(matrix: int) -> Any:
    """Return voxel index to position [mm] of a cube of 240 mm."""
    affine = np.diag([FOV / matrix] * 3 + [1.0])
    affine[:3, 3] = -FOV / 2
    return affine


def head(places: Any, seed: int) -> Any:
    """Return the signal at positions of the head, shape (n, 3) [mm] to (n,)."""
    rng = np.random.default_rng(seed)
    depth = np.linalg.norm(places / AXES, axis=1)
    signal = 0.4 * (depth < 1)  # scalp
    signal[depth < 0.93] = 0.05  # bone
    signal[depth < 0.87] = 1.0  # fluid
    folds = np.sin(places[:, 0] / 5) * np.sin(places[:, 1] / 6) * np.sin(places[:, 2] / 5.5)
    signal[(depth < 0.85) & (folds < 0.5)] = 0.45  # cortex with sulci
    signal[depth < 0.68] = 0.35
    for side in (-1, 1):
        inside = np.linalg.norm((places - [side * 12, -5, 8]) / [7, 28, 10], axis=1) < 1
        signal[inside] = 1.0  # ventricle
        signal[np.linalg.norm(places - [side * 30, 72, -25], axis=1) < 12] = 0.95  # eye
    for centre in rng.uniform(-0.45, 0.45, (4, 3)) * AXES:
        signal[np.linalg.norm(places - centre, axis=1) < rng.uniform(5, 14)] = rng.uniform(0.3, 1)
    return signal


def sensitivities(places: Any, n_coils: int, rng: np.random.Generator) -> Any:
    """Return what loops on a helmet see, shape (coils, n), complex."""
    k = np.arange(n_coils) + 0.5
    height = 1 - 1.5 * k / n_coils  # the neck is open
    turn = np.pi * (1 + 5**0.5) * k + rng.uniform(0, 2 * np.pi)
    ring = np.sqrt(1 - height**2)
    around = np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)
    centres = around * (AXES + 30)
    radius = 110 / n_coils**0.3
    gains = rng.uniform(0.6, 1.4, n_coils)
    away = np.linalg.norm(places[None] - centres[:, None], axis=2)
    phase = np.exp(1j * (rng.uniform(0, 6.3, n_coils)[:, None] + away / 90))
    return gains[:, None] * (1 + (away / radius) ** 2) ** -1.5 * phase


def scanned(images: Any, noise_sd: float, rng: np.random.Generator) -> Any:
    """Cut k-space to a sphere, add noise per channel, combine; shape (coils, 80^3) to (40^3)."""
    axis = np.fft.fftfreq(COARSE, 1 / COARSE)
    sphere = np.sum(np.stack(np.meshgrid(axis, axis, axis)) ** 2, axis=0) < (COARSE / 2) ** 2
    middle = slice((FINE - COARSE) // 2, (FINE + COARSE) // 2)
    square = np.zeros((COARSE,) * 3)
    for image in images:
        whole = np.fft.fftshift(np.fft.fftn(image.reshape((FINE,) * 3)))[middle, middle, middle]
        low = np.fft.ifftn(np.fft.ifftshift(whole) * sphere) * (COARSE / FINE) ** 3
        drawn = rng.standard_normal((2, *low.shape))
        noise = np.fft.ifftn(np.fft.fftn(drawn[0] + 1j * drawn[1]) * sphere)
        square += np.abs(low + noise_sd * noise / np.sqrt(sphere.mean())) ** 2
    return np.sqrt(square)


@dataclass(frozen=True)
class Simulated:
    """A pair and its truth.

    Parameters
    ----------
    arrays, volumes
        Magnitudes, shape (40, 40, 40).
    profile
        Of the array at the fine grid, shape (n,).
    places, signal
        There, of the head as the volume coil saw it.
    """

    arrays: Sequence[Any]
    volumes: Sequence[Any]
    profile: Any
    places: Any
    signal: Any


def simulate(n_coils: int, snr: float, motion: float, seed: int, repeats: int = 2) -> Simulated:
    """Draw a head, a coil, motion and noise; the array is measured before and after."""
    rng = np.random.default_rng(seed)
    places = grid_positions((FINE,) * 3, affine_of(FINE))
    coils = sensitivities(places, n_coils, rng)
    profile = np.sqrt(np.sum(np.abs(coils) ** 2, axis=0))

    def moved() -> Any:
        """Return the head, half of its mean square displacement by a shift, half by a turn."""
        shift, axis = rng.normal(size=(2, 3)) * motion / 6**0.5
        turn = Rotation.from_rotvec(axis / TURNED).as_matrix()
        return head((places - shift) @ turn, seed)

    signal = head(places, seed)
    inside = signal > 0
    noise = signal[inside].mean() / snr
    own = (signal * profile)[inside].mean() / (3 * snr)
    volumes = [scanned([signal], noise, rng)]
    arrays = [scanned(coils * moved(), own, rng) for _ in range(repeats)]
    return Simulated(arrays, volumes, profile, places, signal)


def fitted(scene: Simulated) -> ReceiveFit:
    """Fit the correction as the pipeline does."""
    arrays, volumes = (
        [SquaredImage.of(m) for m in side] for side in (scene.arrays, scene.volumes)
    )
    return fit_receive_correction(arrays, volumes, affine_of(COARSE))


@dataclass(frozen=True)
class Errors:
    """What a correction leaves: relative SD in the head, rim over centre, errors in stated SDs."""

    spread: float
    rim: float
    in_sds: Any
    in_voxels: float


def errors(scene: Simulated, fit: ReceiveFit) -> Errors:
    """Compare a fit with the truth; regions are told relative to the ventricles."""
    inside = scene.signal > 0
    places = scene.places[inside]
    left = np.log(scene.profile[inside] * fit.field(places))
    depth = np.linalg.norm(places / AXES, axis=1)
    ventricles = np.linalg.norm((np.abs(places) * [1, 0, 0] + places * [0, 1, 1] - [12, -5, 8])
                                / [7, 28, 10], axis=1) < 1  # fmt: skip
    side = [places[:, axis] * sign > 20 for axis in range(3) for sign in (1, -1)]
    whole = [depth < 0.9, ventricles]
    regions = np.stack([*side, depth > 0.85, depth < 0.5, *whole]).astype(float)
    means = regions @ left / regions.sum(axis=1)
    basis = fit.field.region_means(places, regions)
    in_sds = [
        (means[:-2] - means[k]) / relative_uncertainty(fit.field, basis[:-2], basis[k])
        for k in (-2, -1)
    ]
    level = np.average(left, weights=(scene.signal * scene.profile)[inside])
    few = slice(None, None, 17)
    voxels = (left[few] - level) / fit.field.relative_sd(places[few], fit.reference)
    rim, centre = left[depth > 0.85].mean(), left[depth < 0.4].mean()
    return Errors(
        float(left.std()),
        float(rim - centre),
        np.array(in_sds),
        float(np.sqrt(np.mean(voxels**2))),
    )


def tell(figure: str, asked: str, measured: str, good: bool | None) -> bool:
    """Print one line of the table."""
    reached = {True: "yes", False: "NO", None: "-"}[good]
    print(f"{figure:<74} {asked:>14} {measured:>16}   {reached}", flush=True)
    return good is not False


def check_simulated(seeds: Sequence[int]) -> bool:
    """Simulate pairs, correct them, and compare with the truth."""
    good, every = True, []
    for number, (n_coils, snr, motion) in enumerate(CASES):
        for seed in seeds:
            scene = simulate(n_coils, snr, motion, 100 * seed + number)
            start = time.perf_counter()
            fit = fitted(scene)
            taken = time.perf_counter() - start
            inside = scene.profile[scene.signal > 0]
            found = errors(scene, fit)
            every.append((found, taken))
            rms = np.sqrt(np.mean(found.in_sds**2, axis=1))
            print(
                f"    {n_coils:2} coils, SNR {snr:2}, moved {motion:.0f} mm: profile 1 to "
                f"{inside.max() / inside.min():.1f}, left {100 * found.spread:.1f} %, rim over "
                f"centre {100 * found.rim:+.1f} %; error over stated {rms[0]:.2f} "
                f"(head), {rms[1]:.2f} (ventricles), "
                f"{found.in_voxels:.2f} (voxels); wave "
                f"{fit.smoothness.shortest_wave:.0f} mm, score {fit.score:.3f}, misfit "
                f"{100 * fit.misfit:.1f} %, moved {fit.displacement:.1f} mm; {taken:.1f} s",
                flush=True,
            )
    spread = np.array([e.spread for e, _ in every])
    rim = np.array([e.rim for e, _ in every])
    ratios = np.sqrt(np.mean([e.in_sds**2 for e, _ in every], axis=(0, 2)))
    tell("simulated: relative SD of what is left in the head, mean (largest)", "",
         f"{100 * spread.mean():.1f} ({100 * spread.max():.1f}) %", None)  # fmt: skip
    tell("simulated: rim over centre, mean (root mean square)", "",
         f"{100 * rim.mean():+.1f} ({100 * np.sqrt(np.mean(rim**2)):.1f}) %", None)  # fmt: skip
    for name, ratio in zip(("head", "ventricles"), ratios, strict=True):
        good &= tell(f"simulated: RMS error of regions over {name}, in stated SDs", "0.8 to 1.3",
                     f"{ratio:.2f}", 0.8 <= ratio <= 1.3)  # fmt: skip
    ratio = float(np.sqrt(np.mean([e.in_voxels**2 for e, _ in every])))
    good &= tell("simulated: RMS error of voxels over the head, in stated SDs", "0.8 to 1.3",
                 f"{ratio:.2f}", 0.8 <= ratio <= 1.3)  # fmt: skip
    longest = max(taken for _, taken in every)
    return good & tell(
        "simulated: time of a fit, longest", "10 s", f"{longest:.1f} s", longest < 10
    )


def find_real_pair(start: Path) -> Path | None:
    """Return the folder above or beside a path, or None."""
    places = [parent / REAL_HEAD for parent in start.resolve().parents]
    return next((place for place in places if place.is_dir()), None)


def spread_of_ratio(array: Any, volume: Any, inside: Any) -> float:
    """Return the 95th over the 5th percentile of the ratio of two images."""
    low, high = np.percentile((array / volume)[inside], [5, 95])
    return float(high / low)


def load_real_pair(folder: Path) -> tuple[list[Any], Any]:
    """Return both array images and the volume-coil image, and their affine."""
    names = ("Head_run-1", "Head_run-2", "Body_run-1")
    loaded = [nib.load(folder / f"sub-01_acq-23Na{name}_RB1COR.nii.gz") for name in names]
    return [image.get_fdata() for image in loaded], loaded[0].affine


def check_real(folder: Path) -> bool:
    """Print the figures of the real head: the field of one array scan on the other."""
    magnitudes, affine = load_real_pair(folder)
    squares = [SquaredImage.of(magnitude) for magnitude in magnitudes]
    smoothing = 6 / np.linalg.norm(affine[:3, :3], axis=0)  # mm to voxels
    inside = magnitudes[2] > np.percentile(magnitudes[2], 99) / 4
    places = grid_positions(magnitudes[2].shape, affine)
    agreed = repeat_agreement(*squares[:2], affine)
    off = 100 * (agreed.mean_ratio - 1)
    good = tell("7 T: second array scan over the first, mean", "within 2 %", f"{off:+.2f} %",
                abs(off) < 2)  # fmt: skip
    print(f"    (robust SD of their ratio {100 * agreed.spread:.1f} %, moved "
          f"{agreed.displacement:.2f} mm)")  # fmt: skip

    def smooth(values: Any) -> Any:
        return gaussian_filter(values, smoothing)

    tell("7 T: array over volume, 95th over 5th percentile, before", "",
         f"{spread_of_ratio(smooth(magnitudes[0]), smooth(magnitudes[2]), inside):.2f}",
         None)  # fmt: skip
    for chosen, seen in (((0, 1), 0), ((0, 1), 1), ((0,), 1), ((1,), 0)):
        fit = fit_receive_correction([squares[k] for k in chosen], squares[2:], affine)
        field = fit.field(places).reshape(magnitudes[2].shape)
        figure = f"7 T: field of run {' and '.join(str(k + 1) for k in chosen)} on run {seen + 1}"
        power = smooth(squares[seen].values * field**2), smooth(squares[2].values)
        value = spread_of_ratio(*(np.sqrt(np.maximum(p, 1e-9)) for p in power), inside)
        raw = spread_of_ratio(smooth(magnitudes[seen] * field), smooth(magnitudes[2]), inside)
        good &= tell(f"{figure}, roots of squares without noise", "under 1.5", f"{value:.3f}",
                     value < 1.5)  # fmt: skip
        good &= tell(f"{figure}, magnitudes as they are", "under 1.5", f"{raw:.3f}", raw < 1.5)
        print(f"    (wave {fit.smoothness.shortest_wave:.0f} mm, held-out error "
              f"{100 * fit.score:.1f} %, misfit {100 * fit.misfit:.1f} %)")  # fmt: skip
    return good


def main() -> int:
    """Print the table; return 1 if a figure is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="heads of each case")
    parser.add_argument("--beside", type=Path, default=Path(__file__), help="where shared/ lies")
    arguments = parser.parse_args()
    print(f"{'figure':<74} {'asked':>14} {'measured':>16}   reached")
    folder = find_real_pair(arguments.beside)
    if folder is None:
        print(f"7 T: skipped, {REAL_HEAD} is not beside {arguments.beside}")
    good = folder is None or check_real(folder)
    return 0 if check_simulated(arguments.seeds) & good else 1


if __name__ == "__main__":
    sys.exit(main())
