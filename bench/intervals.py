"""Check that intervals hold the truth: ``python bench/intervals.py [SEEDS] [--off CORRECTION]``.

Each seed is a simulated head with its own shape, pose, concentrations and receive and transmit
field, scanned at 5 mm with vials beside it. What the pipeline takes for known is drawn from the
uncertainty that it states: relaxation constants of tissues, vial concentrations and
temperatures, scale of the transmit map, width of the point-spread function, place of every border
of the ready-made anatomy, position of the image. The interfaces of the pipeline then run on
files, one after the other. The first table holds bias, error and coverage over the seeds; the
second what the bias would be with one correction left out.

The simulation has its own signal equation, decay and transfer functions, on a grid of 2 mm.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from sodiumprep.bids_app.phantom import load_template
from sodiumprep.interfaces.calibrate import Calibrate
from sodiumprep.interfaces.coil_fields import AssessTransmit, CorrectReceive, CorrectTransmit
from sodiumprep.interfaces.concentration import TabulateRegions
from sodiumprep.interfaces.image import save_image
from sodiumprep.interfaces.pvc import CorrectPartialVolume
from sodiumprep.interfaces.reconstruct import DescribeImage
from sodiumprep.interfaces.regions import SampleRegions
from sodiumprep.interfaces.registration import write_transform
from sodiumprep.sodium.kernel import COMPUTED_WIDTH_UNCERTAINTY as WIDTH_UNCERTAINTY
from sodiumprep.sodium.phantom_anatomy import (
    CLASSES,
    Anatomy,
    Head,
    build_head,
    divide_brain,
    draw_anatomy,
)
from sodiumprep.sodium.phantom_content import (
    CONCENTRATIONS,
    draw_concentrations,
    sodium_content,
    true_means,
)
from sodiumprep.sodium.phantom_signal import (
    AGAR_3_PERCENT,
    AGAR_6_PERCENT,
    SALINE,
    Relaxation,
    Timing,
    magnetization,
    transverse_decay,
)
from sodiumprep.sodium.phantom_template import OUTSIDE, border
from sodiumprep.sodium.pvc.assessment import BORDER_OF_TISSUE
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.transmit import SCALE_UNCERTAINTY

TISSUES = ("GM", "WM", "CSF")
FOV, FINE, COARSE, PAIR = 240.0, 120, 48, 30  # mm, and voxels along an edge
TIMING = Timing(echo_time=0.5e-3, repetition_time=0.1, flip_angle=np.pi / 2, readout=10e-3)
ADAPTED = 0.3  # share of the radius up to which the gradient is constant
SNR = {"image": 15.0, "array": 25.0, "volume": 10.0}
RECEIVE_RANGE, TRANSMIT_RANGE = 3.0, 0.15
POSITION_SD = 0.3  # mm, of each axis; the registration is taken to know it
TEMPERATURE = 21.0
VIALS = ((20.0, AGAR_3_PERCENT), (50.0, AGAR_3_PERCENT), (80.0, AGAR_6_PERCENT), (120.0, SALINE))
VIAL_RADIUS, VIAL_LENGTH, VIAL_ERROR = 14.0, 70.0, 0.01
HEAD_SHAPE = (96, 116, 106)  # voxels of 2 mm
OFF = ("receive", "transmit", "relaxation", "pvc", "vial relaxation", "temperature")


@dataclass(frozen=True)
class Truth:
    """A head in the scanner, and what nobody knows of it."""

    images: Mapping[str, Any]  # signal of each tissue and vial on the fine grid
    relaxations: Mapping[str, Relaxation]
    receive: Any
    transmit: Any
    width: float
    means: Mapping[str, float]
    pose: Any  # points of the anatomy to points of sodium [mm, RAS]
    fractions: Mapping[str, Any]  # as a segmenter finds them
    masks: Mapping[str, Any]
    head_affine: Any
    labels: Any


def grid_affine(n: int) -> Any:
    """Return the affine of n voxels that fill the field of view around the origin."""
    affine = np.diag([FOV / n, FOV / n, FOV / n, 1.0])
    affine[:3, 3] = -(n // 2) * FOV / n
    return affine


def places(n: int) -> Any:
    """Return positions of the voxels, shape (3, n, n, n) [mm]."""
    axis = (np.arange(n) - n // 2) * FOV / n
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))


def drawn_relaxation(rng: np.random.Generator, tissue: str, share: float) -> Relaxation:
    """Draw constants from what the pipeline states of them."""
    stated = relaxation_of(tissue, 3.0)
    drawn = {
        name: getattr(stated, name) + share * rng.standard_normal() * getattr(stated, f"u_{name}")
        for name in ("t1", "t2_short", "t2_long", "short_fraction")
    }
    return Relaxation(drawn["t1"], drawn["t2_short"], drawn["t2_long"], drawn["short_fraction"])


def smooth_profile(rng: np.random.Generator, position: Any, spread: float) -> Any:
    """Draw the profile of four elements around the head with a given range inside it."""
    angles = rng.uniform(0, 2 * np.pi) + np.arange(4) * np.pi / 2
    total = np.zeros(position.shape[1:])
    for angle, strength in zip(angles, rng.uniform(0.4, 1.0, 4), strict=True):
        element = np.array([140 * np.cos(angle), 140 * np.sin(angle), rng.uniform(-40, 60)])
        square = sum((p - e) ** 2 for p, e in zip(position, element, strict=True))
        total += strength / (square + 60.0**2)
    inside = np.linalg.norm(position, axis=0) < 85
    log = np.log(total)
    log *= np.log(spread) / np.ptp(log[inside])
    return np.exp(log - log[inside].mean())


def without_unlabelled(head: Head, anatomy: Anatomy) -> Head:
    """Return a head that is made of what a segmenter tells apart, and of nothing else."""
    brain = border(head.levels[2])
    parts = divide_brain(head.levels, anatomy.cortex_scale, np.float32(OUTSIDE), brain)
    shares = head.shares.copy()
    for name in (*TISSUES, "other"):
        shares[CLASSES.index(name)] = parts[name]
    return replace(head, shares=shares)


def simulate(seed: int, template: Any, share: float, unlabelled: bool) -> Truth:
    """Draw a head, put it into the scanner, and draw a share of the error that is not known."""
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(rng)
    head_affine = np.diag([2.0, 2.0, 2.0, 1.0])
    head_affine[:3, 3] = [-95.0, -130.0, -95.0]
    head = build_head(template, anatomy, HEAD_SHAPE, head_affine)
    if not unlabelled:
        head = without_unlabelled(head, anatomy)
    content = sodium_content(rng, head, draw_concentrations(rng, CONCENTRATIONS))
    turn = Rotation.from_euler("xyz", rng.uniform(-10, 10, 3), degrees=True).as_matrix()
    pose = np.eye(4)
    pose[:3, :3] = turn
    pose[:3, 3] = rng.uniform(-6, 6, 3) - turn @ [0.0, -18.0, 8.0]
    fine = places(FINE)
    index = np.linalg.inv(pose @ head_affine) @ grid_affine(FINE)
    grid = np.indices((FINE,) * 3).reshape(3, -1)
    where = (index[:3, :3] @ grid + index[:3, 3:]).reshape(3, FINE, FINE, FINE)
    kinds = {
        "GM": ["GM"],
        "WM": ["WM"],
        "CSF": ["CSF", "fluid"],
        "muscle": ["soft", "skull", "other"],
    }
    images = {
        kind: map_coordinates(sum(content[CLASSES.index(n)] for n in names), where, order=1)
        for kind, names in kinds.items()
    }
    relaxations = {kind: drawn_relaxation(rng, kind, share) for kind in kinds}
    labels = np.zeros((FINE,) * 3, np.uint8)
    for number, ((level, relaxation), angle) in enumerate(
        zip(VIALS, np.radians([-32, 30, 150, 212]), strict=True), 1
    ):
        x, y, z = (
            fine - np.array([103 * np.cos(angle), 103 * np.sin(angle), 0])[:, None, None, None]
        )
        depth = np.minimum(VIAL_RADIUS - np.hypot(x, y), VIAL_LENGTH / 2 - np.abs(z))
        true_level = level * (1 + share * VIAL_ERROR * rng.standard_normal())
        images[f"vial{number}"] = (
            true_level * 310.15 / (TEMPERATURE + 273.15) * np.clip(depth / 2 + 0.5, 0, 1)
        )
        relaxations[f"vial{number}"] = relaxation
        labels[depth > 0] = number
    for kind in kinds:
        images[kind] = images[kind] * (labels == 0)
    shape = np.sum(fine**2, axis=0) / 100.0**2
    lean = np.tensordot(rng.uniform(-0.3, 0.3, 3), fine / 100.0, 1)
    levels = head.levels + share * BORDER_OF_TISSUE * rng.standard_normal(3)[:, None, None, None]
    inside = border(levels[2])
    return Truth(
        images, relaxations,
        smooth_profile(rng, fine, RECEIVE_RANGE),
        1 + TRANSMIT_RANGE * (0.5 - shape + lean),
        1 + share * WIDTH_UNCERTAINTY * rng.standard_normal(),
        true_means(head, content), pose,
        divide_brain(levels, anatomy.cortex_scale, np.float32(OUTSIDE), inside),
        {"brain": inside > 0.5, "head": head.depth > 0}, head_affine, labels,
    )  # fmt: skip


def radius_over_largest(n: int) -> Any:
    """Return spatial frequency on the fine grid over the radius that n voxels resolve."""
    axis = np.fft.fftfreq(FINE, 1 / FINE) / (n / 2)
    return np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)))


def sampled_at(radius: Any, duration: float) -> Any:
    """Return when a density-adapted readout passes a radius [s]: first linear, then cubic."""
    k0 = ADAPTED
    slope = 1.0  # of the linear part, in radii per unit of time
    bend = k0 / slope
    end = bend + (1 - k0**3) / (3 * k0**2 * slope)
    later = bend + (np.clip(radius, k0, None) ** 3 - k0**3) / (3 * k0**2 * slope)
    return np.where(radius < k0, radius / slope, later) / end * duration


def scanned(truth: Truth, n: int, duration: float, with_receive: bool) -> Any:
    """Return the image of n voxels along an edge without noise."""
    radius = radius_over_largest(n) * truth.width
    time = TIMING.echo_time + sampled_at(np.minimum(radius, 1), duration)
    spectrum = np.zeros((FINE,) * 3, complex)
    for name, content in truth.images.items():
        own = truth.relaxations[name]
        signal = content * magnetization(own, TIMING, truth.transmit)
        if with_receive:
            signal = signal * truth.receive
        spectrum += np.fft.fftn(signal) * transverse_decay(own, time)
    spectrum *= radius <= 1
    kept = np.fft.fftshift(spectrum)
    low = FINE // 2 - n // 2
    return (
        np.fft.ifftn(np.fft.ifftshift(kept[low : low + n, low : low + n, low : low + n]))
        * (n / FINE) ** 3
    )


def magnitude(rng: np.random.Generator, image: Any, snr: float, grey: float) -> Any:
    """Add noise and take the magnitude."""
    noise = rng.standard_normal((2, *image.shape)) * grey / snr
    return np.abs(image + noise[0] + 1j * noise[1]).astype(np.float32)


def write_scan(seed: int, truth: Truth, folder: Path, share: float) -> dict[str, Any]:
    """Write everything that the pipeline reads."""
    rng = np.random.default_rng(seed + 1_000_000)
    grey = truth.means["GM"] * 0.8
    names = {"image": (COARSE, True, TIMING.readout), "array": (PAIR, True, 5e-3),
             "volume": (PAIR, False, 5e-3)}  # fmt: skip
    paths = {
        name: save_image(
            folder / f"{name}.nii.gz",
            magnitude(rng, scanned(truth, n, duration, receive), SNR[name], grey),
            grid_affine(n),
        )
        for name, (n, receive, duration) in names.items()
    }
    step = FINE // PAIR
    ratio = truth.transmit[::step, ::step, ::step] * (
        1 + SCALE_UNCERTAINTY * rng.standard_normal()
    )
    noisy = 100 * ratio + rng.normal(0, 2.0, ratio.shape)
    paths["flip"] = save_image(folder / "flip.nii.gz", noisy.astype(np.float32), grid_affine(PAIR))
    paths["labels"] = save_image(folder / "labels.nii.gz", truth.labels, grid_affine(FINE))
    for tissue in TISSUES:
        own = np.asarray(truth.fractions[tissue], np.float32)
        paths[tissue] = save_image(folder / f"{tissue}.nii.gz", own, truth.head_affine)
    for name, mask in truth.masks.items():
        paths[name] = save_image(folder / f"{name}.nii.gz", mask, truth.head_affine)
    found = truth.pose.copy()
    found[:3, 3] += share * POSITION_SD * rng.standard_normal(3)
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    paths["xfm"] = write_transform(folder / "xfm.txt", flip @ found @ flip)
    return paths


def constants(off: str) -> dict[str, dict[str, Any]]:
    """Return what the pipeline takes tissues and vials for."""
    known = {name: asdict(relaxation_of(name, 3.0)) for name in (*TISSUES, "muscle")}
    plain = replace(
        relaxation_of("GM", 3.0), u_t1=0, u_t2_short=0, u_t2_long=0, u_short_fraction=0
    )
    for number, (_, own) in enumerate(VIALS, 1):
        given = {} if off == "vial relaxation" else vars(own)
        known[f"vial{number}"] = asdict(replace(plain, **given))
    return known


def processed(
    paths: dict[str, Any], folder: Path, off: str = "", levels: tuple[float, ...] = ()
) -> pd.DataFrame:
    """Run the interfaces of the pipeline, perhaps without one correction; return the table.

    The regions depend on no correction: they are made once. ``levels`` are what is stated of the
    vials [mmol/L], if not the truth.
    """
    tissues = constants(off)
    protocol = {name: getattr(TIMING, name)
                for name in ("echo_time", "repetition_time", "flip_angle")}  # fmt: skip

    def run(step: str, interface: Any) -> Any:
        place = folder / step
        place.mkdir(parents=True, exist_ok=True)
        return interface.run(cwd=str(place)).outputs

    source = run("source", DescribeImage(
        image_file=paths["image"], tissues=tissues, trajectory_type="density-adapted radial",
        readout_duration=TIMING.readout, nominal_voxel=[FOV / COARSE] * 3,
        echo_time=TIMING.echo_time, coils=4,
    ))  # fmt: skip
    pair = {} if off == "receive" else {
        "array_files": [paths["array"]], "volume_files": [paths["volume"]]}  # fmt: skip
    image = run("receive", CorrectReceive(
        image_file=source.image_file, noise_file=source.noise_file, properties=source.properties,
        **pair,
    ))  # fmt: skip
    model = {"model_file": image.model_file}
    with_transmit = off != "transmit"
    if with_transmit:
        image = run("transmit", CorrectTransmit(
            image_file=image.out_file, noise_file=image.noise_file, field_file=image.field_file,
            properties=image.properties, protocol=protocol, map_file=paths["flip"],
            units="percent",
        ))  # fmt: skip
    vials = [
        {"name": f"vial{n}", "concentration": level,
         "concentration_uncertainty": VIAL_ERROR * level,
         "temperature": 37.0 if off == "temperature" else TEMPERATURE}
        for n, level in enumerate(levels or [level for level, _ in VIALS], 1)
    ]  # fmt: skip
    if "regions" not in paths:
        paths["regions"] = run("regions", SampleRegions(
            sodium_file=image.out_file, response_file=source.response_file,
            xfm_file=paths["xfm"], gm_file=paths["GM"], wm_file=paths["WM"],
            csf_file=paths["CSF"], brain_mask=paths["brain"], head_mask=paths["head"],
            vial_labels=paths["labels"], vial_names=[v["name"] for v in vials], border_shift=0.5,
        )).regions_file  # fmt: skip
    known = {"regions_file": paths["regions"]}
    transmit = {}
    if with_transmit:
        transmit = {"transmit_file": run("assess", AssessTransmit(
            model_file=image.model_file, image_file=image.out_file, tissues=tissues,
            protocol=protocol, **known,
        )).transmit_file}  # fmt: skip
    properties = {
        **image.properties,
        "RegistrationSpread": POSITION_SD * np.sqrt(3),
        "PointSpreadUncertainty": WIDTH_UNCERTAINTY,
    }
    signals = run("pvc", CorrectPartialVolume(
        image_file=image.out_file, noise_file=image.noise_file,
        response_file=source.response_file, properties=properties, **known,
    ))  # fmt: skip
    known |= {"signals_file": signals.signals_file, "tissues": tissues, "protocol": protocol}
    known |= transmit
    calibration = run("calibrate", Calibrate(
        static_file=image.out_file, static_noise_file=image.noise_file, reference="vials",
        vials=vials, properties=signals.properties, **known,
    ))  # fmt: skip
    table = run("table", TabulateRegions(
        image_file=image.out_file, noise_file=image.noise_file, properties=signals.properties,
        calibration_file=calibration.calibration_file, **model, **known,
    )).table_file  # fmt: skip
    return pd.read_csv(table, sep="\t", na_values="n/a")


def rows_of(table: pd.DataFrame, off: str) -> pd.DataFrame:
    """Return the rows that tell the result, or the result without a correction."""
    pvc = "none" if off == "pvc" else "gtm"
    desc = "apparent" if off == "relaxation" else "corrected"
    return table[(table.pvc == pvc) & (table.desc == desc)].set_index("name").loc[list(TISSUES)]


def evaluate(
    seed: int, template: Any, offs: tuple[str, ...], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Simulate one head and process it with all corrections, and without each of some."""
    truth = simulate(seed, template, options.share, options.unlabelled)
    folder = Path(tempfile.mkdtemp(prefix="intervals-"))
    try:
        paths = write_scan(seed, truth, folder, options.share)
        found = []
        for off in ("", *offs):
            try:
                rows = rows_of(processed(paths, folder / (off or "all"), off), off)
            except ValueError as error:
                if not off:
                    raise
                print(f"seed {seed} without {off}: refused, {error}", flush=True)
                continue
            for name, row in rows.iterrows():
                found.append({"seed": seed, "off": off, "name": name, "true": truth.means[name],
                              **row.to_dict()})  # fmt: skip
        return found
    finally:
        shutil.rmtree(folder)


def coverage_band(n: int) -> tuple[float, float]:
    """Return the shares that 99 of 100 repeats of n intervals of 95 % stay within."""
    return tuple(stats.binom(n, 0.95).ppf([0.005, 0.995]) / n)


def summary(found: pd.DataFrame) -> bool:
    """Print bias, errors and coverage of the tissues."""
    n = found.seed.nunique()
    low, high = coverage_band(n)
    print(f"{n} seeds; 95 % intervals should hold between {100 * low:.1f} and {100 * high:.1f} %")
    print("tissue   bias [%] (< 2)   SD [%]   uncertainty [%] (< 5)   largest |error|/u (< 3)   "
          "held [%]")  # fmt: skip
    good = True
    for name in TISSUES:
        own = found[found.name == name]
        error = own["mean"] / own.true - 1
        u = own.uncertainty / own["mean"]
        z = (own["mean"] - own.true) / own.uncertainty
        held = float(((own.ci_low <= own.true) & (own.true <= own.ci_high)).mean())
        fine = (abs(error.mean()) < 0.02 and u.median() < 0.05 and z.abs().max() < 3
                and low <= held <= high)  # fmt: skip
        good &= fine
        print(f"{name:6} {100 * error.mean():10.2f} {100 * error.std():16.2f} "
              f"{100 * u.median():18.2f} {z.abs().max():24.2f} {100 * held:19.1f}"
              f"   {'yes' if fine else 'NO'}")  # fmt: skip
    terms = [c for c in found.columns if c.startswith("u_")]
    print("terms of the uncertainty, median [%]")
    for name in TISSUES:
        own = found[found.name == name]
        shown = "  ".join(f"{t[2:]} {100 * (own[t] / own['mean']).median():.2f}" for t in terms)
        print(f"{name:6} {shown}")
    return good


def worth(found: pd.DataFrame) -> None:
    """Print the bias without each correction."""
    print("without            bias of GM, WM, CSF [%]   root mean square error [%]")
    for off, rows in found.groupby("off", sort=False):
        error = rows.assign(error=100 * (rows["mean"] / rows.true - 1)).groupby("name").error
        bias, rms = error.mean(), error.apply(lambda e: np.sqrt(np.mean(e**2)))
        print(f"{off or '(nothing left out)':18} "
              + " ".join(f"{bias[name]:+7.1f}" for name in TISSUES) + "    "
              + " ".join(f"{rms[name]:7.1f}" for name in TISSUES))  # fmt: skip


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=200, help="how many (default: 200)")
    parser.add_argument("--off", type=int, default=20, metavar="N",
                        help="seeds that are also processed without each correction")  # fmt: skip
    parser.add_argument("--share", type=float, default=1.0,
                        help="of the errors; 0 shows what the method alone leaves")  # fmt: skip
    parser.add_argument("--unlabelled", action="store_true",
                        help="with tissue that no segmentation knows")  # fmt: skip
    parser.add_argument("--first", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--table", type=Path, help="where to write all rows (TSV)")
    parser.add_argument("--tables", type=Path, nargs="+", default=[],
                        help="summarize these, which --table wrote; simulate nothing")  # fmt: skip
    options = parser.parse_args()
    if options.tables:
        parts = [pd.read_csv(path, sep="\t", na_values="n/a") for path in options.tables]
        joined = pd.concat(parts).fillna({"off": ""})
        raise SystemExit(not summary(joined[joined.off == ""]))
    template = load_template()
    found: list[dict[str, Any]] = []
    for seed in range(options.first, options.first + options.seeds):
        offs = OFF if seed < options.first + options.off else ()
        found += evaluate(seed, template, offs, options)
        if options.table:
            pd.DataFrame(found).to_csv(options.table, sep="\t", index=False)
    everything = pd.DataFrame(found)
    good = summary(everything[everything.off == ""])
    if options.off:
        worth(everything[everything.seed < options.first + options.off])
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
