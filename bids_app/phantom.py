"""The command ``sodiumprep-phantom``: writes a simulated BIDS dataset with its truth."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np

from sodiumprep.bids_app.phantom_cohort import (
    Subject,
    at_session,
    check_cohort,
    draw_subject,
    site_vials,
)
from sodiumprep.bids_app.phantom_files import (
    DEFAULT_TRAJECTORY,
    FOV,
    T1W_SHAPE,
    Place,
    Scan,
    Writer,
    write_anatomy,
    write_field,
    write_manual,
    write_motion,
    write_receive_pair,
    write_sodium,
    write_transmit,
    write_truth,
)
from sodiumprep.bids_app.phantom_tables import write_dataset_files
from sodiumprep.sodium.acquisition import Floats, Geometry
from sodiumprep.sodium.phantom import Protocol, SodiumObject, build_object, draw_motion
from sodiumprep.sodium.phantom_anatomy import Head, build_head, lesion_labels
from sodiumprep.sodium.phantom_bottle import draw_loading
from sodiumprep.sodium.phantom_content import sodium_content, true_lesions
from sodiumprep.sodium.phantom_lesions import KINDS
from sodiumprep.sodium.phantom_placement import (
    VIALS,
    Placement,
    draw_geometry,
    draw_rigid,
    fov_to_scanner,
    place_vials,
    rigid,
)
from sodiumprep.sodium.phantom_signal import Timing
from sodiumprep.sodium.phantom_template import Template, prepare_template
from sodiumprep.sodium.trajectory import TrajectoryProtocol, analytic_trajectory, centre_step

T1W_ORIGIN = (-88.0, -124.0, -102.0)  # mm, of the first voxel, before the head's pose
HEAD_MIDDLE = np.array([0.0, -18.0, 6.0])  # mm, of the brain
K0_FRACTION = 0.3  # share of the k-space radius at constant gradient
OF_LOADING = 100  # branch of a session's seed, beyond those of its motion
FEWEST_SAMPLES = 256  # of a readout
FINEST_STEP = 0.95  # of a readout near the centre of k-space, over 1 / (2 FOV)
TRAJECTORIES = {  # by option
    "density-adapted-radial": DEFAULT_TRAJECTORY, "radial": "radial", "tpi": "tpi",
    "cones": "cones", "floret": "floret",
}  # fmt: skip


def load_template() -> Template:
    """Return the borders of the MNI152 brain that comes with nilearn."""
    folder = files("nilearn") / "datasets" / "data"  # its loaders take 2 s to import
    maps = {}
    for kind in ("t1", "gm", "wm"):
        with as_file(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz") as path:
            image = nib.load(path)
            maps[kind] = np.asarray(image.dataobj, np.float32)
    grey, white = (maps[kind] / maps[kind].max() for kind in ("gm", "wm"))
    return prepare_template(grey, white, maps["t1"] > 0, image.affine)


def samples_needed(k_max: float) -> int:
    """Return how many samples keep the step near the centre of k-space below 1 / (2 FOV).

    Parameters
    ----------
    k_max
        Radius of the last sample [1/m].

    Returns
    -------
    samples
        Of a readout, at least 256.

    Examples
    --------
    >>> samples_needed(125.0), samples_needed(250.0)
    (256, 495)
    """
    path = K0_FRACTION + (1 - K0_FRACTION**3) / (3 * K0_FRACTION**2)  # over k_max, first speed
    return max(FEWEST_SAMPLES, int(np.ceil(path * k_max * 2 * FOV / FINEST_STEP)) + 1)


def trajectory_protocol(options: argparse.Namespace) -> TrajectoryProtocol:
    """Return the numbers from which the trajectory follows.

    Parameters
    ----------
    options
        With ``trajectory``, ``spokes`` and ``voxel_size``.

    Returns
    -------
    protocol
        With as many samples as keep the step near the centre below 1 / (2 FOV).
    """
    k_max, kind = 0.5e3 / options.voxel_size, TRAJECTORIES[options.trajectory]
    if kind in (DEFAULT_TRAJECTORY, "tpi"):
        return TrajectoryProtocol(kind, options.spokes, samples_needed(k_max), k_max, K0_FRACTION)
    few = TrajectoryProtocol(kind, min(options.spokes, 300), FEWEST_SAMPLES, k_max)
    step = centre_step(analytic_trajectory(few)) * 2 * FOV / FINEST_STEP
    samples = max(FEWEST_SAMPLES, int(np.ceil((FEWEST_SAMPLES - 1) * step)) + 1)
    return TrajectoryProtocol(kind, options.spokes, samples, k_max)


def make_protocol(options: argparse.Namespace) -> Protocol:
    """Return the sodium protocol that the options ask for."""
    x, y, z = (1e-6 * delay for delay in options.gradient_delay)
    return Protocol(
        timing=Timing(
            options.echo_time * 1e-3,
            options.repetition_time * 1e-3,
            float(np.radians(options.flip_angle)),
            options.readout * 1e-3,
        ),
        field_strength=options.field_strength,
        n_coils=options.coils,
        snr=options.snr,
        trajectory=analytic_trajectory(trajectory_protocol(options)),
        transmit_spread=options.transmit_spread,
        gradient_delay=(x, y, z),
        off_resonance=options.off_resonance,
        transceive=options.transceive,
    )


def _t1w_pose(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Affine of the T1w image, and pose of the head in it, as (4, 4) matrices [mm, RAS]."""
    pose = draw_rigid(rng, 10.0, 4.0, HEAD_MIDDLE)
    affine = np.eye(4)
    affine[:3, 3] = np.array(T1W_ORIGIN) + rng.uniform(-3, 3, 3)
    return affine, pose


def _inside_field_of_view(places: Floats, geometry: Geometry) -> bool:
    reach = VIALS[0].radius + 1.0
    index = np.linalg.inv(fov_to_scanner(geometry))
    middle = places @ index[:3, :3].T + index[:3, 3]
    return bool((np.abs(middle[:, :2]) + reach < geometry.fov[0] * 500).all())


def _place(
    rng: np.random.Generator, head: Head, affine: Floats, pose: Floats, matrix: int
) -> tuple[Placement, Floats]:
    """Move the head to the sodium scan and put vials and field of view around it."""
    middle = (pose @ [*HEAD_MIDDLE, 1])[:3]
    motion = draw_rigid(rng, 6.0, 8.0, middle)
    centre = (motion @ [*middle, 1])[:3]
    places = place_vials(head.depth > 0, motion @ affine, centre, VIALS)
    for _ in range(1000):
        geometry = draw_geometry(rng, centre, FOV, matrix)
        if _inside_field_of_view(places, geometry):
            return Placement(affine, motion, geometry, centre), places
    raise ValueError("no field of view holds head and vials")


def simulate_session(
    options: argparse.Namespace, template: Template, subject: Subject, number: int
) -> tuple[Scan, np.random.Generator]:
    """Simulate head, poses and concentrations of one session.

    Parameters
    ----------
    options
        Of the command line.
    template
        Averaged brain.
    subject
        Who is scanned.
    number
        Of the session, from 0.

    Returns
    -------
    scan
        Ready to be written.
    rng
        Source of what remains to be drawn in this session.
    """
    rng = np.random.default_rng(subject.seeds[number])
    affine, pose = _t1w_pose(rng)
    to_head = np.linalg.inv(pose) @ affine
    anatomy, values = at_session(options, subject, number)
    head = build_head(template, anatomy, T1W_SHAPE, to_head)
    content = sodium_content(rng, head, values)
    placement, places = _place(rng, head, affine, pose, round(FOV * 1e3 / options.voxel_size))
    session = str(number + 1) if options.sessions > 1 else None
    place = Place(options.out_dir, subject.label, session)
    loading = None
    if options.calibration_phantom:
        seed = subject.seeds[number]
        own = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, OF_LOADING))
        loading = draw_loading(np.random.default_rng(own))
    scan = Scan(
        place, anatomy, head, content, placement, places,
        make_protocol(options), trajectory_protocol(options), loading,
        site_vials(subject),
    )  # fmt: skip
    return _with_lesions(scan, template, to_head), rng


def _with_lesions(scan: Scan, template: Template, to_head: Floats) -> Scan:
    """Find each lesion in the head, where there is one."""
    if scan.anatomy.lesion is None:
        return scan
    labels = lesion_labels(template, scan.anatomy, scan.head, to_head)
    places, affine = scan.anatomy.lesion.places, scan.placement.t1w_affine
    return replace(
        scan, lesion_labels=labels, lesions=true_lesions(scan.head, labels, places, affine)
    )


def write_session(
    options: argparse.Namespace, template: Template, subject: Subject, number: int
) -> None:
    """Simulate one session of one person and write all of it.

    Parameters
    ----------
    options
        Of the command line.
    template
        Averaged brain.
    subject
        Who is scanned.
    number
        Of the session, from 0.
    """
    scan, rng = simulate_session(options, template, subject, number)
    writer = Writer()
    write_truth(scan, writer)
    write_manual(scan, writer)
    write_anatomy(scan, writer, rng)
    motion = draw_motion(
        np.random.default_rng(subject.seeds[number].spawn(1)[0]),
        options.repetitions, options.motion, scan.placement.centre,
    )  # fmt: skip
    scanned = _moved_objects(scan, motion)
    later = [
        (protocol, _moved_objects(replace(scan, protocol=protocol), motion))
        for protocol in later_echoes(scan.protocol, options.later_echoes)
    ]
    intended = write_sodium(scan, [(scan.protocol, scanned), *later], rng, options)
    if options.coils > 1:
        write_receive_pair(scan, scanned[0], rng, intended)
    if options.transmit_spread:
        write_transmit(scan, intended)
    if options.off_resonance:
        write_field(scan, scanned[0], rng, intended)
    if options.repetitions > 1:
        write_motion(scan, motion)
    writer.finish()


def later_echoes(protocol: Protocol, milliseconds: Sequence[float]) -> list[Protocol]:
    """Return the protocols of further echoes.

    Parameters
    ----------
    protocol
        Of the first echo.
    milliseconds
        Echo times of the others [ms].
    """
    return [
        replace(protocol, timing=replace(protocol.timing, echo_time=1e-3 * time))
        for time in milliseconds
    ]


def _moved_objects(scan: Scan, motion: Sequence[tuple[Floats, Floats]]) -> list[SodiumObject]:
    """Object in the pose of each repetition: the head moves, vials and coils stay."""
    vials = list(zip(scan.vials, scan.places, strict=True))
    grey, made = scan.head.fractions["GM"], []
    for angles, shift in motion:
        moved = rigid(angles, shift, scan.placement.centre) @ scan.placement.t1w_to_sodium
        where = replace(scan.placement, t1w_to_sodium=moved) if made else scan.placement
        built = build_object(scan.content, grey, where, scan.protocol, vials, scan.head.kind)
        made.append(replace(built, sensitivities=made[0].sensitivities) if made else built)
    return made


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="sodiumprep-phantom",
        description="Write a simulated BIDS dataset of sodium MRI of the brain with its truth.",
        epilog="With --tables N: results of N participants without images, for the group level; "
        "its options: sodiumprep-phantom OUT_DIR --tables N --help",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("out_dir", type=Path, help="new or empty folder")
    add("--subjects", type=int, default=4, help="number of subjects")
    add("--sessions", type=int, default=1, help="sessions of each subject")
    add("--seed", type=int, default=0, help="of all that is random")
    add("--groups", nargs="+", default=["controls", "patients"], help="names, in equal blocks")
    add("--tissue", nargs="+", default=[], metavar="[GROUP:]GM=42,WM=37",
        help="mean concentrations [mmol/L] of all or of one group, or a JSON file")  # fmt: skip
    add("--session-change", default="", metavar="GM=0.05", help="relative change at each session")
    add("--session-interval", type=float, default=1.0, help="years from session to session")
    add("--ages", type=int, nargs=2, default=[22, 74], metavar=("MIN", "MAX"), help="[years]")
    add("--age-change", default="", metavar="GM=0.02,ventricles=0.1",
        help="relative change in ten years of concentrations, volume of the ventricles, or "
        "thickness of the cortex; none at 48 years")  # fmt: skip
    add("--sex-change", default="", metavar="GM=0.03", help="relative difference, men over women")
    add("--sites", type=int, default=1, help="where subjects are scanned, in turn")
    add("--site-spread", type=float, default=0.03,
        help="SD of the concentration of a site's vials around their label, relative")  # fmt: skip
    add("--lesion", choices=["none", *KINDS], default="none", help="what the lesion groups have")
    add("--lesion-groups", nargs="+", default=None, help="instead of the last group")
    add("--format", choices=["kspace", "image"], default="kspace", help="of the sodium data")
    add("--field-strength", type=int, choices=[3, 7], default=3, help="[T]")
    add("--coils", type=int, default=4, help="receive coils; 1 is a volume coil")
    add("--snr", type=float, default=20.0, help="of grey matter at the nominal voxel")
    add("--voxel-size", type=float, default=4.0, help="nominal [mm]")
    add("--spokes", type=int, default=5000, help="readouts")
    add("--readout", type=float, default=10.0, help="duration of a readout [ms]")
    add("--echo-time", type=float, default=0.3, help="[ms]")
    add("--later-echoes", type=float, nargs="+", default=[], metavar="MS",
        help="echo times of further echoes of every readout")  # fmt: skip
    add("--repetition-time", type=float, default=120.0, help="[ms]")
    add("--flip-angle", type=float, default=90.0, help="[degree]")
    add("--transmit-spread", type=float, default=0.0, help="range of the flip angle, relative")
    add(
        "--transceive",
        action="store_true",
        help="one coil transmits and receives: its profile is the flip angle (--coils 1)",
    )
    add(
        "--calibration-phantom",
        action="store_true",
        help="also scan a bottle by itself in the coil of each subject, which loads it less",
    )
    add("--trajectory", choices=list(TRAJECTORIES), default="density-adapted-radial",
        help="of the readouts")  # fmt: skip
    add("--gradient-delay", type=float, nargs=3, default=[0.0] * 3, metavar=("X", "Y", "Z"),
        help="of the read, phase and slice gradients, unknown to the file [us]")  # fmt: skip
    add("--off-resonance", type=float, default=0.0, metavar="HZ",
        help="peak of a smooth map, of 23Na")  # fmt: skip
    add("--repetitions", type=int, default=1, help="of all readouts, kept apart in the file")
    add("--motion", type=float, default=0.0, metavar="MM",
        help="largest shift of the head between repetitions")  # fmt: skip
    return parser


def _check(options: argparse.Namespace) -> None:
    """Complete the options and refuse what cannot be simulated."""
    positive = ("subjects", "sessions", "coils", "snr", "voxel_size", "spokes", "readout",
                "echo_time", "repetition_time", "flip_angle", "repetitions", "sites",
                "session_interval")  # fmt: skip
    for name in positive:
        if not getattr(options, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive")
    if options.motion < 0 or (options.motion and options.repetitions == 1):
        raise ValueError("--motion must not be negative, and needs --repetitions of at least 2")
    if options.transceive and (options.coils > 1 or not options.transmit_spread):
        raise ValueError("--transceive needs --coils 1 and --transmit-spread")
    if options.format == "image" and (options.repetitions > 1 or any(options.gradient_delay)):
        raise ValueError("--repetitions and --gradient-delay need --format kspace")
    starts = [options.echo_time, *options.later_echoes]
    if any(b < a + options.readout for a, b in pairwise(starts)):
        raise ValueError(
            f"--later-echoes {options.later_echoes} ms; accepted: in ascending order, each after "
            f"the readout of {options.readout:g} ms that is before it"
        )
    if options.later_echoes and (options.format == "image" or starts[-1] + options.readout
                                 > options.repetition_time):  # fmt: skip
        raise ValueError("--later-echoes need --format kspace and room before --repetition-time")
    if options.site_spread < 0:
        raise ValueError("--site-spread must not be negative")
    check_cohort(options)
    if options.out_dir.exists() and (
        not options.out_dir.is_dir() or any(options.out_dir.iterdir())
    ):
        raise ValueError(f"{options.out_dir} exists and is not an empty folder")


def run(options: argparse.Namespace) -> None:
    """Simulate and write everybody.

    Parameters
    ----------
    options
        Checked.
    """
    template = load_template()
    seeds = np.random.SeedSequence(options.seed).spawn(options.subjects)
    subjects = [draw_subject(options, template, i, seed) for i, seed in enumerate(seeds)]
    write_dataset_files(options, subjects)
    for subject in subjects:
        for number in range(options.sessions):
            start = time.monotonic()
            write_session(options, template, subject, number)
            session = f" ses-{number + 1}" if options.sessions > 1 else ""
            seconds = time.monotonic() - start
            print(f"sub-{subject.label}{session} ({subject.group}): {seconds:.1f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv
        Arguments; those of the process if None.

    Returns
    -------
    code
        0, or 2 if the arguments make no sense.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if any(argument.split("=")[0] == "--tables" for argument in arguments):
        from sodiumprep.bids_app.phantom_results import main as write_results  # has no images

        return write_results(arguments)
    options = build_parser().parse_args(arguments)
    try:
        _check(options)
    except (ValueError, OSError) as error:
        print(f"sodiumprep-phantom: {error}", file=sys.stderr)
        return 2
    run(options)
    print(f"Dataset: {options.out_dir}", flush=True)
    return 0
