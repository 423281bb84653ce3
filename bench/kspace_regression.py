"""Check regional signals from k-space: ``python bench/kspace_regression.py [SEED ...]``.

Each line tells what is asked and what was measured. Simulated subjects are evaluated with their
true tissue fractions and position, but with coil sensitivities that are estimated from the data;
scalp, eyes and vials are in the field of view, the background is divided into sectors as in the
pipeline. GTM and Labbé stand beside the regression. Then 500 draws of noise, and the time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sodiumprep.bids_app import phantom as simulated
from sodiumprep.bids_app.phantom_cohort import check_cohort
from sodiumprep.sodium import phantom_signal
from sodiumprep.sodium.acquisition import Acquisition, Geometry
from sodiumprep.sodium.alignment import resample
from sodiumprep.sodium.coils import combine_coils
from sodiumprep.sodium.density import hamming_filter, radial_weights
from sodiumprep.sodium.encoding import Transform, forward
from sodiumprep.sodium.kernel import decay_from_first_sample
from sodiumprep.sodium.measurement import Measurement, measurement_of
from sodiumprep.sodium.model_based import MeasurementModel
from sodiumprep.sodium.noise import (
    ImageNoise,
    noise_samples,
)
from sodiumprep.sodium.phantom import acquire, build_object, root_sum_of_squares, scanner_image
from sodiumprep.sodium.phantom_content import true_means
from sodiumprep.sodium.phantom_placement import VIALS, vial_level
from sodiumprep.sodium.phantom_signal import ScannerImage
from sodiumprep.sodium.pvc.kspace import (
    KspaceEstimate,
    WhiteSamples,
    kspace_regression,
    scan_time_curve,
    white_samples,
)
from sodiumprep.sodium.pvc.regional import gtm, labbe
from sodiumprep.sodium.pvc.shown import SampledRegions
from sodiumprep.sodium.receive import SquaredImage, fit_receive_correction
from sodiumprep.sodium.reconstruct import gridding
from sodiumprep.sodium.regions import (
    background_regions,
    blur_to_grid,
    fine_affine,
    subdivision,
    voxel_means,
)
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.smooth_field import grid_positions
from sodiumprep.sodium.trajectory import density_adapted_radial

TISSUES = ("GM", "WM", "CSF")
SEEDS = (11, 12, 13)
NOISE_SEED = 5
PAIR_MATRIX = 32  # of the images that show the receive profile
TENTH = slice(0, None, 10)
DRAWS = 500


def tell(figure: str, asked: str, measured: str, good: bool) -> bool:
    """Print one line of the table."""
    print(f"{figure:<64} {asked:>18} {measured:>12}   {'yes' if good else 'NO'}", flush=True)
    return good


def constants(name: str) -> Relaxation:
    """Return what the pipeline takes a region for."""
    vials = {vial.name: vial.relaxation for vial in VIALS}
    if name in vials:
        own = vials[name]
        return Relaxation(own.t1, own.t2_short, own.t2_long, own.short_fraction)
    return relaxation_of(name if name in TISSUES else "muscle", 3.0)


@dataclass(frozen=True)
class Subject:
    """A simulated scan with its truth."""

    acquisition: Acquisition
    regions: dict[str, Any]  # finely sampled fractions
    factor: int
    truth: dict[str, float]  # signal in the units of the samples
    profile: Any  # of the receive coils, exact, (nx, ny, nz)
    found_profile: Any  # the same from the simulated pair of array and volume coil


def subject_of(seed: int) -> Subject:
    """Simulate one subject with the defaults of the phantom."""
    options = simulated.build_parser().parse_args(
        [str(Path("not-written")), "--subjects", "1", "--seed", str(seed)]
    )
    check_cohort(options)
    template = simulated.load_template()
    person = simulated.draw_subject(
        options, template, 0, np.random.SeedSequence(options.seed).spawn(1)[0]
    )
    scan, _ = simulated.simulate_session(options, template, person, 0)
    vials = list(zip(VIALS, scan.places, strict=True))
    scanned = build_object(
        scan.content, scan.head.fractions["GM"], scan.placement, scan.protocol, vials
    )
    rng = np.random.default_rng(NOISE_SEED)
    acquisition = acquire(rng, scanned, scan.protocol, scan.placement.geometry)
    gain = np.random.default_rng(NOISE_SEED).uniform(0.5, 2.0) * 1e4  # acquire draws it first
    regions, factor = sampled_regions(scan)
    true = {name: gain * value for name, value in true_signals(scan).items()}
    step = acquisition.geometry.voxel_size[0] / scanned.voxel
    index = (
        np.arange(acquisition.geometry.matrix[0]) - acquisition.geometry.matrix[0] // 2
    ) * step
    index = np.rint(index).astype(int) + scanned.grey.shape[0] // 2
    profile = root_sum_of_squares(scanned.sensitivities)[np.ix_(index, index, index)]
    found = profile_from_pair(scan, scanned, acquisition.geometry)
    return Subject(acquisition, regions, factor, true, profile, found)


def true_signals(scan: Any) -> dict[str, float]:
    """Return the mean signal of tissues and vials at the first sample, per unit of gain."""
    protocol = scan.protocol
    means = true_means(scan.head, scan.content)
    sources = {n: (means[n], phantom_signal.relaxation_of(n, 3)) for n in TISSUES}
    sources |= {vial.name: (vial.strength, vial.relaxation) for vial in VIALS}
    at_echo = np.array([protocol.timing.echo_time])
    return {
        name: value
        * float(phantom_signal.magnetization(relaxation, protocol.timing))
        * float(phantom_signal.transverse_decay(relaxation, at_echo)[0])
        for name, (value, relaxation) in sources.items()
    }


def sampled_regions(scan: Any) -> tuple[dict[str, Any], int]:
    """Return the true tissues, the vials and the sectors of the background on a fine grid."""
    geometry, placement = scan.placement.geometry, scan.placement
    factor = subdivision(geometry.voxel_size * 1e3)
    affine = fine_affine(geometry.affine, factor)
    shape = tuple(n * factor for n in geometry.matrix)
    back = np.linalg.inv(placement.t1w_to_sodium @ placement.t1w_affine) @ affine

    def sample(values: Any) -> Any:
        return resample(np.asarray(values, np.float32), back, shape, 1)

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    position = grid_positions(shape, affine).T.astype(np.float32).reshape(3, *shape)
    regions = {name: sample(scan.head.fractions[name]) for name in TISSUES}
    for vial, place in zip(VIALS, scan.places, strict=True):
        level = vial_level(vial, place.astype(np.float32), position)
        regions[vial.name] = np.clip(level / spacing[0] + 0.5, 0, 1).astype(np.float32)
    occupied = np.sum(list(regions.values()), axis=0)
    brain, head = sample(scan.head.brain > 0.5), sample(scan.head.depth > 0)
    regions |= background_regions(brain, head, occupied, spacing)
    regions["air"] = np.clip(1 - np.sum(list(regions.values()), axis=0), 0, 1)
    return regions, factor


def profile_from_pair(scan: Any, scanned: Any, geometry: Geometry) -> Any:
    """Return the receive profile as the pipeline finds it, on the grid of the image."""
    rng = np.random.default_rng(NOISE_SEED + 1)
    timing = replace(scan.protocol.timing, readout=0.5 * scan.protocol.timing.readout)
    target = ScannerImage(PAIR_MATRIX, geometry.fov[0], timing)
    pair = [scanner_image(rng, scanned, target, scan.protocol, snr) for snr in (50.0, None)]
    affine = replace(geometry, matrix=(PAIR_MATRIX,) * 3).affine
    array, volume = ([SquaredImage.of(image)] for image in pair)
    field = fit_receive_correction(array, volume, affine).field
    values = field(grid_positions(geometry.matrix, geometry.affine))
    return 1 / values.reshape(geometry.matrix)


def estimates(subject: Subject, acquisition: Acquisition, profile: Any) -> KspaceEstimate:
    """Return the regression with sensitivities that are estimated from the acquisition."""
    white = white_samples(MeasurementModel(measurement_of(acquisition)), profile)
    decays = np.stack([
        decay_from_first_sample(constants(n), acquisition.sample_times, acquisition.echo_time)
        for n in subject.regions
    ])  # fmt: skip
    names = list(subject.regions)
    return kspace_regression(white, subject.regions.values(), subject.factor, decays, names)


@dataclass(frozen=True)
class ImageMethod:
    """A regional method as rows of weights over the voxels, and what its noise is stated to be."""

    rows: Any  # of GM, WM and CSF, shape (3, nx, ny, nz)
    stated: Any  # covariance, shape (3, 3)

    def values(self, image: Any) -> Any:
        """Return the signals of GM, WM and CSF."""
        return np.einsum("rxyz,xyz->r", self.rows, image)


def image_methods(
    measurement: Measurement, fine: dict[str, Any], profile: Any, hamming: bool = False
) -> tuple[Any, dict[str, ImageMethod]]:
    """Return the gridded image, and GTM and Labbé on it."""
    names = list(fine)
    brain = [names.index(n) for n in TISSUES]
    factor = len(fine["GM"]) // measurement.acquisition.geometry.matrix[0]
    made = gridding(measurement, {n: constants(n) for n in names}, hamming)
    shares = np.stack([voxel_means(f, factor) for f in fine.values()])
    blurred = np.stack([
        blur_to_grid(f, factor, made.response.transfers[n]) for n, f in fine.items()
    ])  # fmt: skip
    regions = SampledRegions(shares / shares.sum(axis=0), blurred, names)
    response = made.response
    noise = ImageNoise(made.noise_sd / profile, response.noise_spectrum, response.noise_modes)
    image = made.image / profile
    weights = (noise.noise_sd / noise.noise_sd.mean()) ** -2.0
    rows = {
        "gtm": _unmixed(regions.crossing(), regions.fractions, brain),
        "labbe": _unmixed(regions.shown_overlap(weights), regions.blurred * weights, brain),
    }
    return image, {
        name: ImageMethod(
            rows[name],
            method(image, regions, noise).covariance[np.ix_(brain, brain)],
        )
        for name, method in (("gtm", gtm), ("labbe", labbe))
    }


def _unmixed(matrix: Any, weights: Any, brain: list[int]) -> Any:
    return np.tensordot(np.linalg.inv(matrix)[brain], weights, 1)


def shown(values: Any) -> str:
    """Return percentages of GM, WM and CSF."""
    return "  ".join(f"{n} {100 * v:+5.2f}" for n, v in zip(TISSUES, values, strict=True))


def errors(values: Any, subject: Subject, scale: float = 1.0) -> Any:
    """Return relative errors of GM, WM and CSF."""
    truth = np.array([subject.truth[name] for name in TISSUES])
    return np.asarray(values[:3]) / (scale * truth) - 1


def relative_sd(covariance: Any, subject: Subject) -> Any:
    """Return SDs of GM, WM and CSF over the truth."""
    truth = np.array([subject.truth[name] for name in TISSUES])
    return np.sqrt(np.diag(covariance)[:3]) / truth


def check_subject(seed: int) -> bool:
    """Print the figures of one simulated subject."""
    subject = subject_of(seed)
    whole = estimates(subject, subject.acquisition, subject.profile)
    print(f"seed {seed}: condition {whole.condition_number:.1f}, residual over noise "
          f"{whole.reduced_chi_square:.3f}, of readouts {whole.residual.min():.2f} to "
          f"{whole.residual.max():.2f}")  # fmt: skip
    off, sd = errors(whole.values, subject), relative_sd(whole.covariance, subject)
    print(f"    kspace: error [%] {shown(off)}   SD [%] {shown(sd)}")
    good = tell(f"seed {seed}: bias of GM, WM, CSF, the worst", "< 1 %",
                f"{100 * np.abs(off).max():.2f} %", bool(np.abs(off).max() < 0.01))  # fmt: skip
    best = np.full(3, np.inf)
    measurement = measurement_of(subject.acquisition)
    image, methods = image_methods(measurement, subject.regions, subject.profile)
    for name, method in methods.items():
        own = relative_sd(method.stated, subject)
        print(f"    {name}: error [%] {shown(errors(method.values(image), subject))}   "
              f"SD [%] {shown(own)}")  # fmt: skip
        best = np.minimum(best, own)
    ratio = float((sd / best).max())
    good &= tell("    SD over that of the better image method, worst tissue", "<= 1",
                 f"{ratio:.3f}", ratio <= 1)  # fmt: skip
    good &= check_tenth(subject, whole)
    return good & check_found_profile(subject)


def check_tenth(subject: Subject, whole: KspaceEstimate) -> bool:
    """Evaluate a tenth of the readouts alone, with sensitivities from that tenth."""
    part = replace(
        subject.acquisition,
        samples=subject.acquisition.samples[:, TENTH],
        trajectory=subject.acquisition.trajectory[TENTH],
    )
    tenth = estimates(subject, part, subject.profile)
    off = errors(tenth.values, subject)
    growth = relative_sd(tenth.covariance, subject) / relative_sd(whole.covariance, subject)
    print(f"    a tenth: error [%] {shown(off)}   SD [%] "
          f"{shown(relative_sd(tenth.covariance, subject))}")  # fmt: skip
    good = tell("    with a tenth of the readouts, the worst", "< 2 %",
                f"{100 * np.abs(off).max():.2f} %", bool(np.abs(off).max() < 0.02))  # fmt: skip
    far = float(np.abs(growth / np.sqrt(10) - 1).max())
    good &= tell("    growth of the SD, off the root of 10", "< 10 %", f"{100 * far:.1f} %",
                 far < 0.1)  # fmt: skip
    curve = scan_time_curve(whole)
    for share, ratio, chance in zip(
        curve["Share"], curve["ScatterOverUncertainty"], curve["ChanceOfRatio"], strict=True
    ):
        if ratio is not None:
            print(f"    parts of {share:.2f}: scatter over theory {ratio:.2f} "
                  f"(chance {chance:.2f}; misfit differs between parts)")  # fmt: skip
    return good


def check_found_profile(subject: Subject) -> bool:
    """Use the profile that the pipeline finds, up to a factor that the vials tell."""
    found = estimates(subject, subject.acquisition, subject.found_profile)
    names = list(subject.regions)
    scale = np.mean([found.values[names.index(v.name)] / subject.truth[v.name] for v in VIALS])
    off = errors(found.values, subject, float(scale))
    print(f"    profile from the simulated pair, scaled by the vials: error [%] {shown(off)}")
    return True


SMALL = Geometry(np.zeros(3), np.eye(3), (0.2,) * 3, (24,) * 3)
CUT = 3  # fine voxels along the edge of one of the small head
LEVELS = {"CSF": 140.0, "WM": 37.0, "GM": 42.0, "skull": 6.0, "scalp": 30.0, "air": 0.0}


def fine_places() -> Any:
    """Return where the fine voxels of the small head lie, shape (3, n, n, n) [m]."""
    n, voxel = SMALL.matrix[0], SMALL.voxel_size[0]
    axis = ((np.arange(n * CUT) - (CUT - 1) / 2) / CUT - n // 2) * voxel
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).astype(np.float32)


def shells() -> dict[str, Any]:
    """Return a small head of soft shells, finely sampled."""
    x, y, z = fine_places()
    radius = np.sqrt((x / 0.9) ** 2 + y**2 + (z / 0.95) ** 2)
    edges = (0.015, 0.048, 0.060, 0.066, 0.074, 0.082)  # m
    inside = [1 / (1 + np.exp(np.clip((radius - edge) / 5e-4, -50, 50))) for edge in edges]
    layers = [inside[0], *(outer - inner for inner, outer in pairwise(inside))]
    parts = dict(zip(("CSF", "WM", "GM", "rim", "skull", "scalp"), layers, strict=True))
    parts["CSF"] = parts["CSF"] + parts.pop("rim")
    return {**parts, "air": 1 - inside[-1]}


def small_scan() -> tuple[Measurement, dict[str, Any], Any]:
    """Return noise-free samples of the small head, with decays, and a coupled covariance."""
    trajectory, times = density_adapted_radial(400, 40, 60.0), np.linspace(0, 0.01, 40)
    parts, place = shells(), fine_places()
    fine = replace(SMALL, matrix=(SMALL.matrix[0] * CUT,) * 3)
    coils = phantom_signal.coil_sensitivities(place, 4)
    middle = fine.matrix[0] // 2
    shift = np.exp(-2j * np.pi * trajectory @ place[:, middle, middle, middle])
    shift *= np.prod(fine.voxel_size)
    decays = np.stack([decay_from_first_sample(constants(n), times, 3e-4) for n in parts])
    samples = np.zeros((4, *trajectory.shape[:2]), np.complex64)
    for (name, part), decay in zip(parts.items(), decays, strict=True):
        for coil, seen in enumerate(coils):
            made = forward(LEVELS[name] * part * seen, trajectory, fine)
            samples[coil] += (shift * decay * made).astype(np.complex64)
    weights = radial_weights(trajectory)
    profile = np.linalg.norm(coils[:, middle, middle, middle])
    sd = LEVELS["GM"] * profile / (20 * np.linalg.norm(weights))
    near = np.abs(np.subtract.outer(np.arange(4), np.arange(4))) == 1
    scale = np.diag([2.0, 1.0, 1.0, 1.0])
    covariance = 2 * sd**2 * scale @ (np.eye(4) + 0.3 * near) @ scale
    acquisition = Acquisition(samples, trajectory, times[1], 3e-4, 0.12, np.pi / 2, 3.0, SMALL)
    return Measurement(acquisition, weights, "", covariance, "given"), parts, decays


def gridded_draws(measurement: Measurement, weights: Any, draws: Any) -> Iterator[Any]:
    """Yield images of the head with each draw of noise, gridded and combined anew."""
    acquisition = measurement.acquisition
    transform = Transform(acquisition.trajectory, acquisition.geometry)
    gain = float(np.sum(weights.astype(float) ** 2))
    for noise in draws:
        noisy = (acquisition.samples + noise) * weights
        images = np.stack([transform.adjoint(one) for one in noisy])
        yield combine_coils(images, measurement.covariance * gain)[0]


def all_draws(measurement: Measurement) -> Iterator[Any]:
    """Yield the same draws of noise each time."""
    rng = np.random.default_rng(3)
    for _ in range(DRAWS):
        yield noise_samples(measurement.covariance, measurement.weights.shape, rng)


def compare_draws(name: str, stated: Any, drawn: Any) -> bool:
    """Compare SDs of the tissues with those of the draws."""
    ratio = np.sqrt(np.diag(stated)) / np.std(drawn, axis=0, ddof=1)
    good = tell(f"{name}: SD over that of {DRAWS} draws, GM, WM, CSF", "0.90 to 1.10",
                " ".join(f"{r:.2f}" for r in ratio),
                bool(np.all(np.abs(ratio - 1) < 0.1)))  # fmt: skip
    return tell("    their mean", "0.97 to 1.03", f"{ratio.mean():.3f}",
                bool(abs(ratio.mean() - 1) < 0.03)) and good  # fmt: skip


def check_draws() -> bool:
    """Compare stated SDs with noise drawn in k-space, for images and for the regression."""
    measurement, parts, decays = small_scan()
    trajectory, good = measurement.acquisition.trajectory, True
    for hamming in (False, True):
        _, methods = image_methods(measurement, parts, np.float32(1), hamming)
        weights = measurement.weights * (hamming_filter(trajectory) if hamming else 1)
        images = list(gridded_draws(measurement, weights, all_draws(measurement)))
        for name, method in methods.items():
            drawn = np.array([method.values(image) for image in images])
            label = f"{name}, {'Hamming' if hamming else 'no filter'}"
            good &= compare_draws(label, method.stated, drawn)
    return check_kspace_draws(measurement, parts, decays) and good


def check_kspace_draws(measurement: Measurement, parts: dict[str, Any], decays: Any) -> bool:
    """Compare the covariance of the regression with draws, of the whole scan and of a tenth.

    Coil sensitivities are estimated anew from each draw.
    """
    acquisition = measurement.acquisition

    def fitted(samples: Any) -> KspaceEstimate:
        noisy = replace(measurement, acquisition=replace(acquisition, samples=samples))
        white = white_samples(MeasurementModel(noisy))
        return kspace_regression(white, parts.values(), CUT, decays, list(parts))

    brain = [list(parts).index(n) for n in TISSUES]
    found = fitted(acquisition.samples)
    drawn = [fitted(acquisition.samples + noise) for noise in all_draws(measurement)]
    whole = np.array([each.values for each in drawn])[:, brain]
    tenth = np.array([each.of_readouts(10)[0][0] for each in drawn])[:, brain]
    own = found.covariance[np.ix_(brain, brain)]
    part = found.of_readouts(10)[1][0][np.ix_(brain, brain)]
    good = compare_draws("kspace", own, whole)
    good &= compare_draws("kspace, a tenth", part, tenth)
    growth, stated = tenth.std(axis=0) / whole.std(axis=0), np.sqrt(np.diag(part) / np.diag(own))
    off = np.abs(growth / stated - 1).max()
    return tell("    growth of the SD to a tenth, drawn over stated, the worst", "< 10 %",
                f"{100 * off:.1f} %", bool(off < 0.1)) and good  # fmt: skip


def check_time() -> bool:
    """Time 20 regions, 4 coils, 64 voxels along each axis, 10 000 readouts of 384 samples."""
    rng = np.random.default_rng(0)
    geometry = Geometry(np.zeros(3), np.eye(3), (0.24,) * 3, (64,) * 3)
    trajectory = density_adapted_radial(10_000, 384, 0.5 * 64 / 0.24)
    shape = (4, *trajectory.shape[:2])
    samples = rng.standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0]
    parts = np.array_split(rng.permutation(64**3), 20)
    maps = phantom_signal.coil_sensitivities(
        np.indices(geometry.matrix, dtype=np.float32) * np.float32(0.00375) - np.float32(0.12), 4
    )
    weights = np.ones(shape[1:], np.float32)
    white = WhiteSamples(samples, maps, 1.0, trajectory, geometry, None, weights)
    times = np.linspace(0, 0.01, 384)
    kinds = [constants(n) for n in ("GM", "WM", "CSF", "muscle", "agar20", "saline120")]
    decays = np.stack([decay_from_first_sample(kinds[i % 6], times, 3e-4) for i in range(20)])

    def fractions() -> Iterator[Any]:
        for part in parts:
            coarse = np.zeros(64**3, np.float32)
            coarse[part] = 1
            yield np.kron(coarse.reshape(64, 64, 64), np.ones((3, 3, 3), np.float32))

    start, cpu = time.perf_counter(), time.process_time()
    kspace_regression(white, fractions(), 3, decays, [str(i) for i in range(20)])
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return tell(f"20 regions, 4 coils, 64^3, 10000 x 384 samples ({cpu:.0f} s of CPU)",
                "<= 60 s, 2 cores", f"{wall:.0f} s", wall <= 60)  # fmt: skip


def main() -> int:
    """Print the table; return 1 if a figure is not reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="*", default=SEEDS, help="simulated subjects")
    parser.add_argument(
        "--only", choices=["subjects", "draws", "time"], help="one part of the figures"
    )
    options = parser.parse_args()
    print(f"{'figure':<64} {'asked':>18} {'measured':>12}   reached")
    good, only = True, options.only
    if only in (None, "time"):
        good &= check_time()
    if only in (None, "draws"):
        good &= check_draws()
    if only in (None, "subjects"):
        for seed in options.seeds:
            good &= check_subject(seed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
