"""Registration of sodium to anatomy on simulated heads: errors, their estimate, flags, time.

``python bench/registration.py`` measures 20 random poses (up to 15 degrees about and 20 mm along
each axis) at two SNRs and three resolutions, with and without a glioma, under a receive bias of a
factor of 4, and mutual information on the same images. ``--few`` takes a part of them.
``--calibrate`` uses other seeds and prints what the constants of ``sodium/pose.py`` come from.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("ANTS_RANDOM_SEED", "23")

import numpy as np
from scipy.ndimage import affine_transform

from sodiumprep.bids_app.phantom import HEAD_MIDDLE, T1W_ORIGIN, load_template
from sodiumprep.interfaces.image import save_image
from sodiumprep.interfaces.registration import Matching, RegisterSodium, Target
from sodiumprep.sodium.acquisition import LPS_TO_RAS, Complexes, Floats, Geometry
from sodiumprep.sodium.alignment import displacement, rotation_about
from sodiumprep.sodium.phantom_anatomy import (
    CLASSES,
    Anatomy,
    Head,
    build_head,
    divide_brain,
    draw_anatomy,
)
from sodiumprep.sodium.phantom_content import CONCENTRATIONS, draw_concentrations, sodium_content
from sodiumprep.sodium.phantom_glioma import Glioma, draw_lesion_centre
from sodiumprep.sodium.phantom_placement import VIALS, draw_rigid, place_vials, vial_level
from sodiumprep.sodium.phantom_signal import (
    Timing,
    complex_noise,
    magnetization,
    relaxation_of,
    transverse_decay,
)
from sodiumprep.sodium.phantom_t1w import (
    bias_field,
    draw_contrast,
    noisy_magnitude,
    shifted_levels,
    t1_weighted,
)
from sodiumprep.sodium.phantom_template import OUTSIDE, Template, border
from sodiumprep.sodium.pose import (
    LARGEST_ERROR,
    LEAST_SCORE,
    choose,
    improve,
    rated,
    registration_fails,
    registration_uncertainty,
)
from sodiumprep.sodium.trajectory import density_adapted_radial

FOV = 240.0  # mm
VOXEL = 1.5  # mm, of the anatomy and of the object that is scanned
SHAPE = (118, 144, 131)  # of the anatomy
FIELD_STRENGTH = 3
TIMING = Timing(0.3e-3, 0.12, np.pi / 2, 0.02)
SAMPLES = 256  # of a readout
BIAS = 4.0  # brightest over darkest place of the receive profile
SEGMENTATION_ERROR = 0.3  # mm, SD of the borders, as in the phantom's simulated anatomy
LARGEST_TURN, LARGEST_SHIFT = 15.0, 20.0  # degrees, mm, along each axis
RESOLUTIONS, SNRS = (3.0, 4.0, 5.0), (10.0, 20.0)
WIDTH = 1.79  # FWHM of grey matter over the nominal voxel, of this readout
TEST_SEED, CALIBRATION_SEED = 1000, 5000
FAILURE = 3.0  # mm
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
DECAYS = {  # what decays alike, by the tissue whose constants it takes
    "GM": ("GM",), "WM": ("WM", "other"), "CSF": ("CSF", "fluid"), "core": ("core", "edema"),
    "soft": ("soft", "skull"),
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A simulated head in the scanner, and the anatomy that a segmenter makes of it.

    Parameters
    ----------
    images
        Anatomy by port of the interface.
    affine
        Of these, shape (4, 4) [mm, RAS].
    spectra
        k-space of what decays alike, centre in the middle.
    grey
        Fraction of grey matter on the object's grid.
    geometry
        Of the object's grid.
    truth
        Points of the anatomy to points of the sodium image, shape (4, 4) [mm, LPS].
    """

    images: dict[str, Floats]
    affine: Floats
    spectra: dict[str, Complexes]
    grey: Floats
    geometry: Geometry
    truth: Floats


def draw_subject(template: Template, seed: int, glioma: bool) -> Subject:
    """Draw a head, its pose in the sodium scan, and its segmentation."""
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(rng)
    place, radii = draw_lesion_centre(rng, template), (rng.uniform(9, 13), rng.uniform(18, 23))
    if glioma:
        anatomy = replace(anatomy, lesion=Glioma(place, radii))
    affine = np.diag([VOXEL, VOXEL, VOXEL, 1.0])
    affine[:3, 3] = T1W_ORIGIN
    head = build_head(template, anatomy, SHAPE, affine)
    content = sodium_content(rng, head, draw_concentrations(rng, CONCENTRATIONS))
    motion = draw_rigid(rng, LARGEST_TURN, LARGEST_SHIFT, HEAD_MIDDLE)
    turn = draw_rigid(rng, 8.0, 0.0, np.zeros(3))[:3, :3]
    n = round(FOV / VOXEL)
    position = LPS_TO_RAS @ (HEAD_MIDDLE + rng.uniform(-5, 5, 3))
    geometry = Geometry(position, turn, (FOV * 1e-3,) * 3, (n, n, n))
    mapping = np.linalg.inv(motion @ affine) @ geometry.affine

    def moved(volume: Floats) -> Floats:
        return affine_transform(
            volume, mapping, output_shape=(n, n, n), order=1, output=np.float32
        )

    sodium = {
        name: moved(sum(content[CLASSES.index(each)] for each in alike))
        for name, alike in DECAYS.items()
    }
    sodium["CSF"] += _vials(head, motion, affine, geometry)
    spectra = {
        name: np.fft.fftshift(np.fft.fftn(image)).astype(np.complex64)
        for name, image in sodium.items()
    }
    images = _segmentation(rng, head, anatomy)
    grey = moved(head.fractions["GM"])
    return Subject(images, affine, spectra, grey, geometry, FLIP @ motion @ FLIP)


def _vials(head: Head, motion: Floats, affine: Floats, geometry: Geometry) -> Floats:
    """Return the sodium of the vials beside the head; they decay like fluid."""
    middle = (motion @ [*HEAD_MIDDLE, 1])[:3]
    places = place_vials(head.depth > 0, motion @ affine, middle, VIALS)
    index = np.stack(np.meshgrid(*map(np.arange, geometry.matrix), indexing="ij"))
    position = np.tensordot(geometry.affine[:3, :3], index.astype(np.float32), 1)
    position += geometry.affine[:3, 3, None, None, None]
    return sum(
        border(vial_level(vial, place, position), VOXEL) * vial.concentration
        for vial, place in zip(VIALS, places, strict=True)
    )


def _segmentation(rng: np.random.Generator, head: Head, anatomy: Anatomy) -> dict[str, Floats]:
    """Return a T1w image and fractions with borders off by some tenths of a millimetre."""
    levels = shifted_levels(rng, head, SEGMENTATION_ERROR)
    inside = border(levels[2])
    parts = divide_brain(levels, anatomy.cortex_scale, np.float32(OUTSIDE), inside)
    clean = t1_weighted(head, draw_contrast(rng)) * bias_field(rng, SHAPE, 1.7)
    return {
        "gm_file": parts["GM"], "wm_file": parts["WM"], "csf_file": parts["CSF"],
        "head_mask": head.depth > 0, "anat_file": noisy_magnitude(rng, 850 * clean, 850 / 30),
    }  # fmt: skip


def scan(subject: Subject, resolution: float, snr: float, seed: int) -> tuple[Floats, Floats]:
    """Return the magnitude of a sodium image, and its affine.

    k-space inside the sphere of the resolution, each tissue weighted with its decay at the time
    when a density-adapted readout passes; receive bias; noise inside the same sphere.
    """
    rng = np.random.default_rng(seed)
    n, m = subject.geometry.matrix[0], 2 * round(FOV / resolution / 2)
    axis = (np.arange(m) - m // 2) / FOV
    grid = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    radius, k_max = np.sqrt(sum(k**2 for k in grid)), 1 / (2 * resolution)
    passed = np.linalg.norm(density_adapted_radial(2, SAMPLES, k_max)[0], axis=-1)
    times = TIMING.echo_time + TIMING.readout * np.arange(SAMPLES) / SAMPLES
    part = (slice(n // 2 - m // 2, n // 2 + m // 2),) * 3
    kspace = np.zeros((m, m, m), np.complex64)
    for name, spectrum in subject.spectra.items():
        relaxation = relaxation_of(name, FIELD_STRENGTH)
        decay = np.interp(radius, passed, transverse_decay(relaxation, times))
        kspace += spectrum[part] * (decay * magnetization(relaxation, TIMING))
    sphere = radius <= k_max
    image = np.fft.ifftn(np.fft.ifftshift(kspace * sphere)) * (m / n) ** 3
    white = np.fft.fftn(complex_noise(rng, (m, m, m), 1.0))
    noise = np.fft.ifftn(np.fft.ifftshift(sphere) * white)
    geometry = replace(subject.geometry, matrix=(m, m, m))
    mapping = np.linalg.inv(subject.geometry.affine) @ geometry.affine
    grey = affine_transform(subject.grey, mapping, output_shape=(m, m, m), order=1)
    level = np.sum(image.real * grey) / np.sum(grey) / snr / noise.real.std()
    shaded = image * bias_field(rng, (m, m, m), BIAS)
    return np.abs(shaded + level * noise).astype(np.float32), geometry.affine


@dataclass(frozen=True)
class Outcome:
    """What came of one case: errors [mm] and CPU time [s]."""

    resolution: float
    snr: float
    glioma: bool
    chosen: str
    error: float
    score: float
    distance: float
    seconds: float
    mi_error: float
    mi_score: float
    wrong: tuple[float, ...] = ()

    @property
    def bound(self) -> float:
        """What the error should stay under."""
        return registration_uncertainty(self.distance)[1]

    @property
    def flagged(self) -> bool:
        """Whether the table would say registration_failed."""
        return registration_fails(self.score, self.bound)


def measure(subject: Subject, files: dict[str, str], case: tuple[float, float, bool], seed: int,
            options: argparse.Namespace) -> Outcome:  # fmt: skip
    """Register one image as the pipeline does by default, and tell how far it is off."""
    resolution, snr, _ = case
    image, affine = scan(subject, resolution, snr, seed)
    sodium = save_image(Path(files["gm_file"]).with_name("na.nii.gz"), image, affine)
    properties = {"PointSpreadFWHM": {"GM": [WIDTH * resolution] * 3}}
    method = "synthetic" if options.without_mi else "auto"
    interface = RegisterSodium(sodium_file=sodium, properties=properties, method=method, **files)
    began = time.process_time()
    target = Target.build(interface.inputs)
    matching = Matching(interface.inputs, target)
    fits = matching.candidates()
    best = choose({name: fit.score for name, fit in fits.items()}, "synthetic")
    distance = matching.restart_distance(fits[best])
    seconds = time.process_time() - began
    off = {n: displacement(f.transform, subject.truth, target.centre) for n, f in fits.items()}
    by_mi = [name for name in fits if name.startswith("mi")]
    mi = max(by_mi, key=lambda name: fits[name].score, default=None)
    wrong = _wrong_scores(matching, target, subject, seed) if options.calibrate else ()
    return Outcome(
        *case, best, off[best], fits[best].score, distance, seconds,
        off.get(mi, np.nan), fits[mi].score if mi else np.nan, wrong,
    )  # fmt: skip


def _wrong_scores(
    matching: Matching, target: Target, subject: Subject, seed: int
) -> tuple[float, ...]:
    """Return scores of poses that are more than 3 mm off, as they are and where they lead."""
    rng, scores = np.random.default_rng(seed), []
    scene, volume = target.scenes[0], matching.volumes[0]
    for _ in range(3):
        turn = rotation_about(target.centre, int(rng.integers(3)), rng.uniform(-1.0, 1.0))
        turn[:3, 3] += rng.uniform(-20, 20, 3)
        start = rated(scene, volume, subject.truth @ turn)
        scores += [
            fit.score
            for fit in (start, improve(scene, volume, start))
            if displacement(fit.transform, subject.truth, target.centre) > FAILURE
        ]
    return tuple(scores)


def row(title: str, outcomes: list[Outcome]) -> str:
    """Return one line of the table."""
    errors, mi = (np.array([getattr(o, k) for o in outcomes]) for k in ("error", "mi_error"))
    silent = sum(o.error > FAILURE and not o.flagged for o in outcomes)
    covered = np.mean([o.error <= o.bound for o in outcomes])
    return (
        f"{title:26s} {len(outcomes):4d} "
        f"{np.median(errors):7.2f} {np.percentile(errors, 95):6.2f} "
        f"{errors.max():6.2f} {silent:7d} {sum(o.flagged for o in outcomes):7d} "
        f"{100 * covered:8.0f} | {np.median(mi):7.2f} {np.percentile(mi, 95):6.2f} "
        f"{np.sum(mi > FAILURE):6d} | {np.median([o.seconds for o in outcomes]):6.1f}"
    )


HEADER = (
    "                                   this method: error [mm]     > 3 mm          bound    | "
    "mutual information     | CPU time\n"
    "case                          n  median    p95    max  silent flagged  holds [%] |  "
    "median    p95  >3 mm |    [s]"
)


def calibration(outcomes: list[Outcome]) -> None:
    """Print the factors of the error, and the scores of right and wrong poses."""
    right = [o for o in outcomes if o.error <= FAILURE]
    ratio = np.array([o.error / o.distance for o in right])
    print(f"error over distance of restarts: rms {np.sqrt(np.mean(ratio**2)):.2f}, "
          f"90 % {np.percentile(ratio, 90):.2f}, 95 % {np.percentile(ratio, 95):.2f}, "
          f"largest {ratio.max():.2f} ({len(ratio)} cases)")  # fmt: skip
    good, bad = [o.score for o in right], [s for o in outcomes for s in o.wrong]
    print(f"score of right poses: lowest {min(good):.3f}, median {np.median(good):.3f}")
    if bad:
        print(f"score of wrong poses: highest {max(bad):.3f}, 99 % {np.percentile(bad, 99):.3f}, "
              f"median {np.median(bad):.3f} ({len(bad)} poses)")  # fmt: skip


def summary(outcomes: list[Outcome]) -> None:
    """Print the table by what was varied, then all in one."""
    print(HEADER)
    for name, values in (("resolution", RESOLUTIONS), ("snr", SNRS), ("glioma", (False, True))):
        for value in values:
            chosen = [o for o in outcomes if getattr(o, name) == value]
            if chosen:
                print(row(f"{name} {value}", chosen))
    print(row("all", outcomes))
    print("asked                              < 0.50 < 1.00               0             >= 90")
    print(f"flagged: score below {LEAST_SCORE:g}, or bound above {LARGEST_ERROR:g} mm")
    calibration(outcomes)


def run(options: argparse.Namespace) -> Iterator[Outcome]:
    """Yield the outcome of each case, told as it comes."""
    template = load_template()
    first = CALIBRATION_SEED if options.calibrate else TEST_SEED
    cases = list(product(RESOLUTIONS, SNRS))
    for number in range(options.poses or (3 if options.few else 20)):
        for glioma in (number % 2 == 1,) if options.few else (False, True):
            subject = draw_subject(template, first + number, glioma)
            drawn = [cases[(number + k) % 6] for k in (0, 3)] if options.few else cases
            with tempfile.TemporaryDirectory() as folder:
                files = {
                    port: save_image(Path(folder) / f"{port}.nii.gz", image, subject.affine)
                    for port, image in subject.images.items()
                }
                for i, case in enumerate(drawn):
                    seed = 100 * (first + number) + i
                    found = measure(subject, files, (*case, glioma), seed, options)
                    print(f"{first + number}: {found}, bound {found.bound:.2f}", flush=True)
                    yield found


def main() -> None:
    """Measure what the options ask for; an interrupted run tells what it has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", action="store_true", help="two scans of each pose, not twelve")
    parser.add_argument("--poses", type=int, help="random poses (default: 20; with --few 3)")
    parser.add_argument("--without-mi", action="store_true", help="no mutual information")
    parser.add_argument("--calibrate", action="store_true", help="on seeds of its own")
    options, outcomes = parser.parse_args(), []
    try:
        for found in run(options):
            outcomes.append(found)  # noqa: PERF402 (what came before an interrupt is kept)
    except KeyboardInterrupt:
        print("interrupted")
    if outcomes:
        summary(outcomes)


if __name__ == "__main__":
    main()
