"""Measure the 1H preparation: ``python bench/anatomy.py [ch2] [phantom] [contrasts]``.

``ch2`` is a real whole head (Debian's mricron-data) in random poses whose brain is known from
its stripped twin; ``phantom`` and ``contrasts`` are simulated heads whose tissue volumes are
known. Each line tells what is asked and what was measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from sodiumprep.bids_app.phantom import T1W_ORIGIN, load_template
from sodiumprep.bids_app.phantom_files import T1W_SHAPE
from sodiumprep.interfaces import anatomy
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.sodium.brain import brain_volume_ml
from sodiumprep.sodium.fractions import TISSUES
from sodiumprep.sodium.phantom_anatomy import Head, build_head, draw_anatomy
from sodiumprep.sodium.phantom_glioma import Glioma, draw_lesion_centre
from sodiumprep.sodium.phantom_placement import draw_rigid
from sodiumprep.sodium.phantom_signal import complex_noise
from sodiumprep.sodium.phantom_t1w import (
    Contrast,
    bias_field,
    draw_contrast,
    noisy_magnitude,
    t1_weighted,
)

CH2 = Path("/usr/share/mricron/templates")
POSES, TURN, SHIFT, SCALES, SHADING = 10, 20.0, 30.0, (0.88, 1.1), 2.0  # degree, mm
ASKED = {"GM": 0.85, "WM": 0.90, "CSF": 0.75, "brain": 0.95}  # Dice
SODIUM = {"GM": 42.0, "WM": 37.0, "CSF": 145.0}  # mmol/L
SODIUM_FWHM = 7.0  # mm, of the image that the regional concentrations are taken from
CONTRASTS = {
    "T2w": Contrast(1.3, 3.4, 2.2, 1.8, 1.0, muscle=0.6, fat=1.1, bone=0.1, marrow=0.8),
    "PDw": Contrast(1.15, 1.2, 1.2, 1.15, 1.0, muscle=0.9, fat=1.2, bone=0.1, marrow=0.8),
    "PDw, dark fluid": Contrast(1.12, 0.75, 1.1, 1.1, 1.0, muscle=0.8, fat=1.2),
}  # white matter is 1
LESION_CLASSES, LESION_RADII = ("core", "edema"), (11.0, 21.0)  # mm


@dataclass(frozen=True)
class Case:
    """A head whose brain is known.

    Parameters
    ----------
    name
        In the table.
    image
        1H image, shape (x, y, z).
    affine
        Shape (4, 4) [mm, RAS].
    brain
        True brain, shape (x, y, z).
    fractions
        True volume fraction by tissue, same shape; empty where it is not known.
    lesion
        Same shape, or None.
    """

    name: str
    image: Any
    affine: Any
    brain: Any
    fractions: Mapping[str, Any]
    lesion: Any = None


def dice(first: Any, second: Any) -> float:
    """Return the overlap of two masks."""
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def tell(figure: str, asked: str, measured: str, reached: bool) -> bool:
    """Print a line of the table."""
    print(f"{figure:<52} {asked:>14} {measured:>16}   {'yes' if reached else 'NO'}", flush=True)
    return reached


def posed_ch2(number: int) -> Case:
    """Turn, shift, scale and shade the real head; its brain is turned with it."""
    rng = np.random.default_rng(number)
    (head, affine), (stripped, _) = (load_image(CH2 / f"{n}.nii.gz") for n in ("ch2", "ch2bet"))
    axis = rng.normal(size=3)
    turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * rng.uniform(0, TURN), degrees=True)
    matrix = turn.as_matrix() @ np.diag(rng.uniform(*SCALES, 3))
    shift = rng.uniform(-SHIFT, SHIFT, 3)
    ends = np.array([0, 0, 0]), np.array(head.shape) - 1
    corners = np.array([[ends[i][0], ends[j][1], ends[k][2]]
                        for i in (0, 1) for j in (0, 1) for k in (0, 1)])  # fmt: skip
    places = (corners @ affine[:3, :3].T + affine[:3, 3]) @ matrix.T + shift
    grid = np.eye(4)
    grid[:3, 3] = places.min(axis=0) - 5
    shape = tuple(np.ceil(np.ptp(places, axis=0) + 10).astype(int))
    back = np.linalg.inv(affine) @ np.block(
        [[np.linalg.inv(matrix), -np.linalg.inv(matrix) @ shift[:, None]], [0, 0, 0, 1]]
    )
    index = back @ grid

    def moved(values: Any) -> Any:
        return ndimage.affine_transform(values, index[:3, :3], index[:3, 3], shape, order=1)

    shaded = moved(head) * bias_field(rng, shape, SHADING)
    return Case(f"ch2, pose {number}", shaded, grid, moved((stripped > 0) * 1.0) > 0.5, {})


def simulated(seed: int, kind: str, glioma: bool) -> Case:
    """Simulate a head of a contrast, with bias field and noise."""
    rng = np.random.default_rng([seed, glioma])
    template = load_template()
    subject = draw_anatomy(rng)
    if glioma:
        centre = draw_lesion_centre(rng, template)
        subject = replace(subject, lesion=Glioma(centre, LESION_RADII))
    affine = np.eye(4)
    affine[:3, 3] = np.array(T1W_ORIGIN) + rng.uniform(-3, 3, 3)
    pose = draw_rigid(rng, 10.0, 4.0, np.array([0.0, -18.0, 6.0]))
    head = build_head(template, subject, T1W_SHAPE, np.linalg.inv(pose) @ affine)
    lesion = sum(head.fractions[name] for name in LESION_CLASSES) > 0.5
    return Case(
        f"{kind}, seed {seed}{', glioma' if glioma else ''}",
        measured_image(head, kind, rng), affine, head.brain > 0.5,
        {name: head.fractions[name] for name in TISSUES}, lesion if glioma else None,
    )  # fmt: skip


def measured_image(head: Head, kind: str, rng: np.random.Generator) -> Any:
    """Return what the scanner makes of a head."""
    if kind == "UNIT1":
        return uniform_image(head, rng)
    contrast = draw_contrast(rng) if kind == "T1w" else CONTRASTS[kind]
    bias = bias_field(rng, T1W_SHAPE, float(rng.uniform(1.5, 2.0)))
    noise = 1000 / float(rng.uniform(25, 40))
    return noisy_magnitude(rng, 1000 * t1_weighted(head, contrast) * bias, noise)


def inversion_contrast(time_: float) -> Contrast:
    """Return what is left of the magnetization at a time after inversion [s], TR 5 s."""
    t1 = {"grey": 1.35, "fluid": 4.0, "core": 2.2, "oedema": 1.5, "other": 1.6, "muscle": 1.4,
          "fat": 0.35, "bone": 0.5, "marrow": 0.4}  # fmt: skip
    density = {"grey": 0.82, "fluid": 1.0, "core": 0.9, "oedema": 0.85, "other": 0.85,
               "muscle": 0.8, "fat": 0.9, "bone": 0.01, "marrow": 0.5}  # fmt: skip
    white = 0.7 * _recovered(time_, 0.85)
    return Contrast(**{n: density[n] * _recovered(time_, t1[n]) / white for n in t1})


def _recovered(time_: float, t1: float, repetition: float = 5.0) -> float:
    start = np.tanh(repetition / (2 * t1))  # steady state of perfect inversions
    return float(1 - (1 + start) * np.exp(-time_ / t1))


def uniform_image(head: Head, rng: np.random.Generator) -> Any:
    """Combine two inversion images with complex noise (MP2RAGE), in 0 to 4095."""
    bias = bias_field(rng, T1W_SHAPE, 2.0)
    images = []
    for time_ in (0.7, 2.5):
        white = 0.7 * _recovered(time_, 0.85)
        clean = white * t1_weighted(head, inversion_contrast(time_)) * bias
        images.append(clean + complex_noise(rng, T1W_SHAPE, 0.015))
    first, second = images
    uniform = np.real(np.conj(first) * second) / (np.abs(first) ** 2 + np.abs(second) ** 2)
    return np.rint((uniform + 0.5) * 4095).astype(np.float32)


@dataclass
class Stopwatch:
    """Runs interfaces in a folder and keeps their times [s]."""

    folder: Path
    times: dict[str, float]

    def run(self, name: str, label: str, **inputs: Any) -> Any:
        """Run an interface of the anatomy and return its outputs."""
        place = self.folder / label
        place.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        outputs = getattr(anatomy, name)(**inputs).run(cwd=str(place)).outputs
        self.times[label] = time.perf_counter() - start
        return outputs


@dataclass(frozen=True)
class Found:
    """Files on the way to the brain: source without its background, levelled, masks."""

    clean: str
    level: str
    brain: str
    inner: str


def find_brain(case: Case, watch: Stopwatch) -> Found:
    """Prepare an image as far as its brain mask."""
    source = save_image(watch.folder / "image.nii.gz", case.image, case.affine)
    clean = watch.run("RemoveBackground", "clean", in_file=source).out_file
    level = watch.run("BiasCorrect", "level", in_file=clean, sloppy=True).out_file
    given = {} if case.lesion is None else {"lesion_file": lesion_of(case, watch.folder)}
    masks = watch.run("BrainExtract", "extract", in_file=level, **given)
    return Found(clean, level, masks.mask_file, masks.inner_mask)


def lesion_of(case: Case, folder: Path) -> str:
    """Write the lesion's mask."""
    return save_image(folder / "lesion.nii.gz", case.lesion, case.affine)


def check_brain(case: Case, mask_file: str, asked: float) -> bool:
    """Compare the brain found with the true one."""
    found = load_image(mask_file)[0] > 0.5
    ratio = found.sum() / case.brain.sum()
    overlap = dice(found, case.brain)
    good = tell(f"{case.name}: brain, Dice", f"{asked}", f"{overlap:.3f}", overlap >= asked)
    volume = brain_volume_ml(found, np.linalg.norm(case.affine[:3, :3], axis=0))
    return good & tell(f"{case.name}: brain, volume ratio ({volume:.0f} ml)", "0.9 to 1.1",
                       f"{ratio:.3f}", abs(ratio - 1) <= 0.1)  # fmt: skip


def check_fractions(case: Case, files: Mapping[str, str]) -> bool:
    """Compare fractions with the truth, by overlap, volume, and the sodium that they give."""
    found = {name: load_image(files[name])[0] for name in TISSUES}
    seen = np.ones(case.image.shape, bool) if case.lesion is None else ~case.lesion
    good = True
    for name in TISSUES:
        overlap = dice((found[name] > 0.5) & seen, (case.fractions[name] > 0.5) & seen)
        good &= tell(f"{case.name}: {name}, Dice", f"{ASKED[name]}", f"{overlap:.3f}",
                     overlap >= ASKED[name])  # fmt: skip
    truth = case.fractions
    pure = seen & (truth["GM"] + truth["WM"] > 0.99)
    leak = found["CSF"][pure].sum() / truth["GM"][seen].sum()
    volumes = [100 * (found[n][seen].sum() / truth[n][seen].sum() - 1) for n in TISSUES]
    print(f"    volume error GM {volumes[0]:+.1f} WM {volumes[1]:+.1f} CSF {volumes[2]:+.1f} %; "
          f"CSF in pure tissue {100 * leak:.2f} % of GM")  # fmt: skip
    values = regional_sodium(case, found)
    errors = (f"{n} {100 * (v / SODIUM[n] - 1):+.1f} %" for n, v in values.items())
    print("    sodium error", " ".join(errors))
    return bool(good)


def regional_sodium(case: Case, found: Mapping[str, Any]) -> dict[str, float]:
    """Return concentrations by the geometric transfer matrix of the fractions found."""
    sigma = SODIUM_FWHM / 2.355
    tissue = sum(case.fractions.values())
    rest = (ndimage.binary_dilation(case.brain, iterations=3) - tissue).clip(0)
    content = sum(SODIUM[n] * case.fractions[n] for n in TISSUES) + 60.0 * rest
    image = ndimage.gaussian_filter(content.astype(np.float32), sigma)
    regions = [found[n] for n in TISSUES]
    regions.append((ndimage.binary_dilation(case.brain, iterations=3) - sum(regions)).clip(0))
    if case.lesion is not None:
        regions = [part * ~case.lesion for part in regions] + [case.lesion * 1.0]
    blurred = [ndimage.gaussian_filter(part.astype(np.float32), sigma) for part in regions]
    matrix = np.array([[np.sum(b * m) / np.sum(m) for b in blurred] for m in regions])
    seen = np.array([np.sum(image * m) / np.sum(m) for m in regions])
    return dict(zip(TISSUES, np.linalg.solve(matrix, seen), strict=False))


def check_head(case: Case, folder: Path, sloppy: bool) -> bool:
    """Prepare a simulated head and compare it with its truth."""
    watch = Stopwatch(folder, {})
    found = find_brain(case, watch)
    good = check_brain(case, found.brain, ASKED["brain"])
    inner = dice(load_image(found.inner)[0] > 0.5, case.brain)
    print(f"    inside of the skull: Dice {inner:.3f}")
    image = watch.run("BiasCorrect", "correct", in_file=found.clean, mask_file=found.inner,
                      sloppy=sloppy)  # fmt: skip
    watch.run("HeadMask", "head", in_file=found.level, mask_file=found.inner)
    files = {"in_file": image.out_file, "mask_file": found.inner}
    if case.lesion is not None:
        files["lesion_file"] = lesion_of(case, folder)
    spatial = watch.run("Normalize", "normalize", **files, sloppy=sloppy)
    parts = watch.run("TissueFractions", "fractions", **files,
                      from_template_xfm=spatial.from_template_xfm)  # fmt: skip
    good &= check_fractions(case, {n: getattr(parts, f"{n.lower()}_file") for n in TISSUES})
    print_times(watch)
    return good


def print_times(watch: Stopwatch) -> None:
    """Print the seconds of each node."""
    each = ", ".join(f"{name} {seconds:.0f}" for name, seconds in watch.times.items())
    threads = os.environ.get("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "all")
    print(f"    {sum(watch.times.values()):.0f} s ({each}); threads: {threads}", flush=True)


def check_ch2(folder: Path, poses: int) -> bool:
    """Find the brain of the real head in random poses."""
    if not (CH2 / "ch2bet.nii.gz").exists():
        print(f"ch2: skipped, {CH2} has no ch2.nii.gz and ch2bet.nii.gz (Debian: mricron-data)")
        return True
    good = True
    for number in range(poses):
        case = posed_ch2(number)
        watch = Stopwatch(folder / f"ch2_{number}", {})
        watch.folder.mkdir(parents=True)
        good &= check_brain(case, find_brain(case, watch).brain, 0.92)
        print_times(watch)
    return good


def main() -> int:
    """Print the table; return 1 if a figure is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("ch2", "phantom", "contrasts")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=list(parts))
    parser.add_argument("--poses", type=int, default=POSES, help="of ch2")
    parser.add_argument("--heads", type=int, default=3, help="simulated ones, T1w")
    parser.add_argument("--sloppy", action="store_true", help="as the option of the pipeline")
    parser.add_argument("--keep", type=Path, help="folder for the files, which then stay")
    options = parser.parse_args()
    cases = [(seed, "T1w", glioma) for seed in range(options.heads) for glioma in (False, True)]
    chosen = cases if "phantom" in options.parts else []
    if "contrasts" in options.parts:
        chosen += [(0, kind, False) for kind in ("UNIT1", *CONTRASTS)]
    print(f"{'figure':<52} {'asked':>14} {'measured':>16}   reached")
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary)
        if "ch2" in options.parts:
            good &= check_ch2(root, options.poses)
        for seed, kind, glioma in chosen:
            case = simulated(seed, kind, glioma)
            folder = root / case.name.replace(", ", "_").replace(" ", "")
            folder.mkdir(parents=True, exist_ok=True)
            good &= check_head(case, folder, options.sloppy)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
