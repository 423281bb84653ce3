"""Files of a simulated dataset: images, tables and sidecars, each at its BIDS name."""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from sodiumprep.bids_app.phantom_tables import TISSUES, write_json, write_table
from sodiumprep.interfaces.kspace import write_kspace
from sodiumprep.sodium.acquisition import (
    LPS_TO_RAS,
    PROTON_GAMMA_BAR,
    SODIUM_GAMMA_BAR,
    Floats,
    Geometry,
)
from sodiumprep.sodium.phantom import (
    ARRAY_SNR,
    Protocol,
    SodiumObject,
    acquire_echoes,
    field_map,
    from_head_centre,
    scanner_image,
    transmit_field,
)
from sodiumprep.sodium.phantom_anatomy import Anatomy, Head, divide_brain
from sodiumprep.sodium.phantom_bottle import (
    Loading,
    bottle_protocol,
    bottle_sidecar,
    build_bottle,
)
from sodiumprep.sodium.phantom_content import TrueLesion, true_means
from sodiumprep.sodium.phantom_lesions import Owners
from sodiumprep.sodium.phantom_placement import VIALS, Placement, Vial, vial_labels
from sodiumprep.sodium.phantom_signal import ScannerImage, Timing
from sodiumprep.sodium.phantom_t1w import (
    bias_field,
    draw_contrast,
    noisy_magnitude,
    shifted_levels,
    t1_weighted,
)
from sodiumprep.sodium.phantom_template import OUTSIDE, border
from sodiumprep.sodium.trajectory import SIDECAR_KEYS, TrajectoryProtocol

T1W_SHAPE = (176, 216, 196)
FOV = 0.24  # m
KEY = "CalibrationPhantom"
PAIR_MATRIX = 36  # voxels of the receive pair: 6.7 mm
SLOPE_BYTES = slice(112, 120)  # scl_slope and scl_inter of a NIfTI-1 header
DEFAULT_TRAJECTORY = "density-adapted radial"
T1W_WHITE = 850.0  # brightness of white matter in the T1w image


@dataclass(frozen=True)
class Place:
    """Where the files of one scan session lie.

    Parameters
    ----------
    root
        Top of the dataset.
    subject
        Label without "sub-".
    session
        Label without "ses-", or None.
    """

    root: Path
    subject: str
    session: str | None

    @property
    def stem(self) -> str:
        """Entities that start every name."""
        return f"sub-{self.subject}" + (f"_ses-{self.session}" if self.session else "")

    @property
    def below(self) -> str:
        """Folder of the session below a dataset."""
        return f"sub-{self.subject}" + (f"/ses-{self.session}" if self.session else "")

    def path(self, name: str, part: str = "", folder: str = "anat") -> Path:
        """Return the path of a file, its folder made.

        Parameters
        ----------
        name
            What follows the subject and session.
        part
            Dataset within the dataset, such as "derivatives/truth".
        folder
            Data type.
        """
        target = self.root / part / self.below / folder
        target.mkdir(parents=True, exist_ok=True)
        return target / f"{self.stem}_{name}"


class Writer:
    """Writes files in the background, since compression takes as long as simulation."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(2)
        self.pending: list[Future[None]] = []

    def image(self, path: Path, values: Any, affine: Floats, scale: float | None = None) -> None:
        """Write a NIfTI image.

        Parameters
        ----------
        path
            Ends in ``.nii.gz``.
        values
            Shape (x, y, z).
        affine
            Voxel index to position [mm, RAS].
        scale
            Value of one unit of a 16-bit integer; None keeps the type of ``values``.
        """
        self.pending.append(self.pool.submit(_write_image, path, values, affine, scale))

    def finish(self) -> None:
        """Wait for the files and raise what went wrong."""
        for future in self.pending:
            future.result()
        self.pending.clear()


def _write_image(path: Path, values: Any, affine: Floats, scale: float | None) -> None:
    stored = values if scale is None else np.rint(values / np.float32(scale)).astype(np.int16)
    if stored.dtype == bool:
        stored = stored.astype(np.uint8)
    image = nib.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    plain = bytearray(image.to_bytes())
    if scale is not None:  # the library would scale again what is scaled already
        plain[SLOPE_BYTES] = np.array([scale, 0], "<f4").tobytes()
    path.write_bytes(gzip.compress(plain, compresslevel=1, mtime=0))  # no date: reproducible


def _write_itk(path: Path, transform: Floats) -> None:
    """Write a rigid transform of RAS points as ITK text, which speaks LPS."""
    flip = np.diag([*np.diag(LPS_TO_RAS), 1.0])
    lps = flip @ transform @ flip
    numbers = " ".join(repr(float(v)) for v in (*lps[:3, :3].ravel(), *lps[:3, 3]))
    path.write_text(
        "#Insight Transform File V1.0\n#Transform 0\n"
        "Transform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    )


def vial_sidecar(places: Floats) -> list[dict[str, Any]]:
    """Return the vials as the sodium sidecar lists them.

    Parameters
    ----------
    places
        Centre of each vial, shape (vials, 3) [mm, RAS].
    """
    return [
        {
            "Name": vial.name,
            "SodiumConcentration": vial.concentration,
            "T1": vial.relaxation.t1,
            "T2starShort": vial.relaxation.t2_short,
            "T2starLong": vial.relaxation.t2_long,
            "ShortFraction": vial.relaxation.short_fraction,
            "Temperature": vial.temperature,
            "Position": [round(float(v), 2) for v in place],
        }
        for vial, place in zip(VIALS, places, strict=True)
    ]


def sodium_sidecar(
    protocol: Protocol, timing: Timing, trajectory: TrajectoryProtocol
) -> dict[str, Any]:
    """Return the keys that every sodium image carries.

    Parameters
    ----------
    protocol
        Field strength and coils.
    timing
        Of this image.
    trajectory
        Whose kind is told.
    """
    return {
        "ResonantNucleus": "23Na",
        "MagneticFieldStrength": protocol.field_strength,
        "ImagingFrequency": round(protocol.field_strength * SODIUM_GAMMA_BAR * 1e-6, 3),
        "PulseSequenceType": f"3D {trajectory.kind} UTE",
        "EchoTime": round(timing.echo_time, 9),
        "RepetitionTime": round(timing.repetition_time, 9),
        "FlipAngle": round(float(np.degrees(timing.flip_angle)), 6),
        "ReadoutDuration": round(timing.readout, 9),
        "TrajectoryType": trajectory.kind,
        **coil_sidecar(protocol),
    }


def coil_sidecar(protocol: Protocol) -> dict[str, Any]:
    """Return the keys that name the coils of a sodium image.

    Parameters
    ----------
    protocol
        How it is scanned.
    """
    if not protocol.transceive:
        return {"ReceiveCoilName": f"simulated {protocol.n_coils}-channel 23Na array"}
    coil = "simulated 23Na birdcage"
    return {
        "ReceiveCoilName": coil,
        "TransmitCoilName": coil,
        "NumberReceiveCoilActiveElements": 1,
    }


def trajectory_sidecar(trajectory: TrajectoryProtocol) -> dict[str, Any]:
    """Return the keys from which the trajectory of raw data can be computed again.

    Parameters
    ----------
    trajectory
        Numbers of the protocol.
    """
    return {key: value for field, key in SIDECAR_KEYS.items()
            if (value := getattr(trajectory, field)) is not None}  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """One session of one person, simulated but not yet written.

    Parameters
    ----------
    place
        Where it is written.
    anatomy
        Of the person.
    head, content
        Fractions, and sodium of each class [mmol/L], on the T1w grid.
    placement
        Poses and fields of view.
    places
        Of the vials, shape (vials, 3) [mm, RAS].
    protocol
        Of the sodium scan.
    trajectory
        Numbers from which the trajectory of the protocol follows.
    loading
        Of the coil against a bottle that is scanned as well, or None.
    vials
        As they truly are, in the order of the sidecar.
    lesions
        As they truly are.
    lesion_labels
        To which of them a voxel of the T1w grid belongs, or None.
    """

    place: Place
    anatomy: Anatomy
    head: Head
    content: Floats
    placement: Placement
    places: Floats
    protocol: Protocol
    trajectory: TrajectoryProtocol
    loading: Loading | None = None
    vials: Sequence[Vial] = VIALS
    lesions: Sequence[TrueLesion] = ()
    lesion_labels: Owners | None = None


def write_anatomy(scan: Scan, writer: Writer, rng: np.random.Generator) -> None:
    """Write the T1w image, and the anatomy that a segmenter would make of it.

    Parameters
    ----------
    scan
        What is written.
    writer
        Takes the images.
    rng
        Source of contrast, bias field, noise and segmentation error.
    """
    affine, head, place = scan.placement.t1w_affine, scan.head, scan.place
    clean = t1_weighted(head, draw_contrast(rng))
    bias = bias_field(rng, T1W_SHAPE, float(rng.uniform(1.5, 2.0)))
    image = noisy_magnitude(rng, T1W_WHITE * clean * bias, T1W_WHITE / float(rng.uniform(25, 40)))
    writer.image(place.path("T1w.nii.gz"), np.rint(image).astype(np.int16), affine)
    field = scan.protocol.field_strength
    write_json(
        place.path("T1w.json"),
        {
            "MagneticFieldStrength": field,
            "ImagingFrequency": round(field * PROTON_GAMMA_BAR * 1e-6, 3),
            "RepetitionTime": 2.3,
            "EchoTime": 0.003,
            "InversionTime": 0.9,
            "FlipAngle": 9,
        },
    )
    corrected = np.rint(image / bias ** np.float32(0.9)).astype(np.int16)
    _write_segmentation(scan, writer, rng, corrected)


def _write_segmentation(
    scan: Scan, writer: Writer, rng: np.random.Generator, corrected: Any
) -> None:
    affine, place, part = scan.placement.t1w_affine, scan.place, "derivatives/anat"
    levels = shifted_levels(rng, scan.head, 0.3)
    inside = border(levels[2])
    nothing = np.float32(OUTSIDE)
    probability = divide_brain(levels, scan.anatomy.cortex_scale, nothing, inside)
    writer.image(place.path("desc-preproc_T1w.nii.gz", part), corrected, affine)
    writer.image(place.path("desc-brain_mask.nii.gz", part), inside > 0.5, affine)
    labels, best = np.zeros(inside.shape, np.uint8), 1 - inside
    for i, tissue in enumerate(TISSUES, start=1):
        labels[probability[tissue] > best] = i
        best = np.maximum(best, probability[tissue])
        name = f"label-{tissue}_probseg.nii.gz"
        writer.image(place.path(name, part), probability[tissue], affine, 1e-3)
    writer.image(place.path("dseg.nii.gz", part), labels, affine)


def write_truth(scan: Scan, writer: Writer) -> None:
    """Write concentrations, fractions and transform as they are.

    Parameters
    ----------
    scan
        What is written.
    writer
        Takes the images.
    """
    affine, head, place = scan.placement.t1w_affine, scan.head, scan.place
    part = "derivatives/truth"
    target = place.path("acq-23Na_space-T1w_desc-truth_TSCmap.nii.gz", part)
    writer.image(target, scan.content.sum(axis=0), affine, 0.01)
    writer.image(place.path("label-brain_desc-truth_mask.nii.gz", part), head.brain > 0.5, affine)
    means = true_means(head, scan.content)
    present = [name for name in (*TISSUES, *head.lesions) if name in means]
    for name in present:
        target = place.path(f"label-{name}_desc-truth_probseg.nii.gz", part)
        writer.image(target, head.fractions[name], affine, 1e-4)
    rows = [(i + 1, name, f"{means[name]:.4f}") for i, name in enumerate(present)]
    table = place.path("acq-23Na_seg-tissue_desc-truth_TSC.tsv", part)
    write_table(table, ("index", "name", "concentration"), rows)
    name = "acq-23Na_from-sodium_to-T1w_mode-image_desc-truth_xfm.txt"
    _write_itk(place.path(name, part), scan.placement.t1w_to_sodium)
    if scan.lesion_labels is not None:
        target = place.path("label-lesion_desc-truth_dseg.nii.gz", part)
        writer.image(target, scan.lesion_labels, affine)
        _write_lesions(scan)


def _write_lesions(scan: Scan) -> None:
    rows = [
        (each.number, each.name, each.place, *(f"{v:.2f}" for v in each.centre),
         f"{each.volume:.4f}")
        for each in scan.lesions
    ]  # fmt: skip
    columns = ("index", "name", "place", "x", "y", "z", "volume_ml")
    part, name = "derivatives/truth", "label-lesion_desc-truth_dseg"
    write_table(scan.place.path(f"{name}.tsv", part), columns, rows)
    told = (
        "Classes of each lesion, index as in the label image; x, y, z: mean position in T1w space"
    )
    write_json(
        scan.place.path(f"{name}.json", part),
        {"Description": f"{told} [mm, RAS]; volume of the true fraction [ml]"},
    )


def write_manual(scan: Scan, writer: Writer) -> None:
    """Write lesion masks in T1w space and vial labels in sodium space.

    Parameters
    ----------
    scan
        What is written.
    writer
        Takes the images.
    """
    place, part = scan.place, "derivatives/manual"
    labels = vial_labels(VIALS, scan.places, scan.placement.geometry)
    target = place.path("acq-23Na_desc-vials_dseg.nii.gz", part)
    writer.image(target, labels, scan.placement.geometry.affine)
    for name in scan.head.lesions:
        mask = scan.head.fractions[name] > 0.5
        if mask.any():
            target = place.path(f"label-{name}_mask.nii.gz", part)
            writer.image(target, mask, scan.placement.t1w_affine)


def _geometry_of(scan: Scan, matrix: int) -> Geometry:
    return replace(scan.placement.geometry, matrix=(matrix,) * 3)


def write_sodium(
    scan: Scan,
    echoes: Sequence[tuple[Protocol, Sequence[SodiumObject]]],
    rng: np.random.Generator,
    options: argparse.Namespace,
) -> str:
    """Write raw k-space, or the image a scanner would deliver, with its sidecar.

    Parameters
    ----------
    scan
        What is written.
    echoes
        Protocol of each echo, and the object on its own grid in the pose of each repetition.
    rng
        Source of the noise.
    options
        With ``format`` and ``voxel_size``.

    Returns
    -------
    name
        BIDS URI of the sodium file.
    """
    sidecar = sodium_sidecar(scan.protocol, scan.protocol.timing, scan.trajectory)
    sidecar["CalibrationVials"] = vial_sidecar(scan.places)
    receiver = None
    if scan.loading is not None:
        sidecar[KEY] = bottle_sidecar(
            write_bottle(scan, echoes[0][1][0], rng, options), scan.loading
        )
        receiver = scan.loading.receiver / scan.loading.true
    return _write_scan(scan, echoes, (rng, receiver), sidecar, options)


def write_bottle(
    scan: Scan, scanned: SodiumObject, rng: np.random.Generator, options: argparse.Namespace
) -> str:
    """Write the scan of a bottle in the coil of a head, as of a subject of its own.

    Parameters
    ----------
    scan
        Of the head; its loading is known.
    scanned
        The head on its own grid.
    rng
        Source of the noise.
    options
        With ``format``.

    Returns
    -------
    name
        BIDS URI of the sodium file.
    """
    loading, protocol = scan.loading, bottle_protocol(scan.protocol)
    if loading is None:
        raise ValueError("nothing is known of the bottle that is to be scanned")
    positions = from_head_centre(scan.placement, scanned.grey.shape[0], scanned.voxel)
    made = build_bottle(scanned, protocol, positions, loading.concentration)
    label = f"phantom{scan.place.subject}"
    there = replace(scan, place=replace(scan.place, subject=label), protocol=protocol)
    sidecar = sodium_sidecar(protocol, protocol.timing, scan.trajectory)
    return _write_scan(there, [(protocol, [made])], (rng, loading.receiver), sidecar, options)


def _write_scan(
    scan: Scan,
    echoes: Sequence[tuple[Protocol, Sequence[SodiumObject]]],
    source: tuple[np.random.Generator, float | None],
    sidecar: dict[str, Any],
    options: argparse.Namespace,
) -> str:
    """Write raw data or an image; ``source`` is that of the noise, and the receiver's gain."""
    place, geometry, (rng, receiver) = scan.place, scan.placement.geometry, source
    if options.format == "kspace":
        target = place.path("acq-23Na_PDw.h5", "sourcedata")
        protocols, objects = zip(*echoes, strict=True)
        write_kspace(target, acquire_echoes(rng, objects, protocols, geometry, receiver))
        if scan.trajectory.kind != DEFAULT_TRAJECTORY:
            sidecar |= trajectory_sidecar(scan.trajectory)
    else:
        target = place.path("acq-23Na_PDw.nii.gz")
        protocol, objects = echoes[0]
        grid = ScannerImage(geometry.matrix[0], FOV, protocol.timing)
        image = scanner_image(rng, objects[0], grid, protocol, protocol.snr, receiver)
        _write_image(target, image, geometry.affine, None)
        voxel = [round(float(v) * 1e3, 4) for v in geometry.voxel_size]
        sidecar |= {"KspaceFilter": "none", "AcquisitionVoxelSize": voxel}
    write_json(target.with_name(target.name.split(".")[0] + ".json"), sidecar)
    return f"bids::{target.relative_to(place.root).as_posix()}"


def write_receive_pair(
    scan: Scan, scanned: SodiumObject, rng: np.random.Generator, intended: str
) -> None:
    """Write the low-resolution pair that shows the receive profile.

    Parameters
    ----------
    scan
        What is written.
    scanned
        Object on its own grid.
    rng
        Source of the noise.
    intended
        BIDS URI of the image it corrects.
    """
    timing = replace(scan.protocol.timing, readout=0.5 * scan.protocol.timing.readout)
    grid, geometry = ScannerImage(PAIR_MATRIX, FOV, timing), _geometry_of(scan, PAIR_MATRIX)
    for coil, snr in (("Head", ARRAY_SNR), ("Body", None)):
        image = scanner_image(rng, scanned, grid, scan.protocol, snr)
        name = f"acq-23Na{coil}_RB1COR"
        target = scan.place.path(f"{name}.nii.gz", folder="fmap")
        _write_image(target, image, geometry.affine, None)
        sidecar = sodium_sidecar(scan.protocol, timing, scan.trajectory)
        sidecar |= {"IntendedFor": [intended]}
        if snr is None:
            sidecar["ReceiveCoilName"] = "simulated 23Na volume coil"
        write_json(scan.place.path(f"{name}.json", folder="fmap"), sidecar)


def _from_head(scan: Scan, geometry: Geometry) -> Floats:
    """Places of the voxels from the centre of the head, shape (3, x, y, z) [m, RAS]."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.matrix], indexing="ij"))
    offset = geometry.affine[:3, 3] - scan.placement.centre
    away = np.tensordot(geometry.affine[:3, :3], index, 1) + offset[:, None, None, None]
    return np.asarray(away * 1e-3)


def write_field(
    scan: Scan, scanned: SodiumObject, rng: np.random.Generator, intended: str
) -> None:
    """Write the map of off-resonance [Hz of 23Na] and the magnitude that belongs to it.

    Parameters
    ----------
    scan
        What is written.
    scanned
        Object on its own grid.
    rng
        Source of the noise of the magnitude.
    intended
        BIDS URI of the image it corrects.
    """
    geometry, protocol = _geometry_of(scan, PAIR_MATRIX), scan.protocol
    hertz = field_map(_from_head(scan, geometry), protocol.off_resonance)
    timing = replace(protocol.timing, readout=0.5 * protocol.timing.readout)
    magnitude = scanner_image(rng, scanned, ScannerImage(PAIR_MATRIX, FOV, timing), protocol, None)
    sidecar = {"ResonantNucleus": "23Na", "Units": "Hz", "IntendedFor": [intended]}
    for name, values in (("fieldmap", hertz.astype(np.float32)), ("magnitude", magnitude)):
        target = scan.place.path(f"acq-23Na_{name}.nii.gz", folder="fmap")
        _write_image(target, values, geometry.affine, None)
        write_json(scan.place.path(f"acq-23Na_{name}.json", folder="fmap"), sidecar)
        sidecar = sodium_sidecar(protocol, timing, scan.trajectory)


def write_motion(scan: Scan, motion: Sequence[tuple[Floats, Floats]]) -> None:
    """Write where the head truly lay in each repetition.

    Parameters
    ----------
    scan
        What is written.
    motion
        Angles [rad] and shift [mm] of each repetition from the first.
    """
    columns = ("repetition", "trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z",
               "displacement")  # fmt: skip
    rows = [
        (i, *(f"{v:.6f}" for v in (*shift, *angles, np.linalg.norm(shift))))
        for i, (angles, shift) in enumerate(motion)
    ]
    part, name = "derivatives/truth", "acq-23Na_desc-truth_motion"
    write_table(scan.place.path(f"{name}.tsv", part), columns, rows)
    middle = ", ".join(f"{v:.4f}" for v in scan.placement.centre)
    told = (
        "Motion of the head from repetition 0: rotation about x, then y, then z [rad] around "
        f"({middle}), then shift [mm], RAS of sodium space; displacement of that point [mm]"
    )
    write_json(scan.place.path(f"{name}.json", part), {"Description": told})


def write_transmit(scan: Scan, intended: str) -> None:
    """Write the flip angle over nominal [percent].

    Parameters
    ----------
    scan
        What is written.
    intended
        BIDS URI of the image it corrects.
    """
    geometry = _geometry_of(scan, PAIR_MATRIX)
    percent = 100 * transmit_field(_from_head(scan, geometry), scan.protocol.transmit_spread)
    target = scan.place.path("acq-23Na_TB1map.nii.gz", folder="fmap")
    _write_image(target, percent.astype(np.float32), geometry.affine, None)
    sidecar = {"ResonantNucleus": "23Na", "Units": "percent", "IntendedFor": [intended]}
    write_json(scan.place.path("acq-23Na_TB1map.json", folder="fmap"), sidecar)
