"""The sodium runs of a session, each with all that belongs to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sodiumprep.bids_app.anatomies import Anatomy, anatomy_rank, is_anatomy
from sodiumprep.bids_app.index import (
    ANATOMY_ORDER,
    RawFile,
    check_image,
    passes,
    without_part,
)
from sodiumprep.bids_app.metadata import (
    FLIP_ANGLE,
    HYDROGEN,
    RECEIVE_COILS,
    REPETITION_TIME,
    SODIUM,
    Protocol,
    UserError,
    Vial,
    load_vials,
    load_vials_direction,
    read_vials,
    read_vials_direction,
)
from sodiumprep.bids_app.names import acquisition_label
from sodiumprep.bids_app.protocols import read_source_protocol
from sodiumprep.bids_app.ready import (
    Ready,
    find_sodium_regions,
    find_transform,
    find_vial_labels,
)
from sodiumprep.bids_app.replacement import CalibrationPhantom, find_phantom
from sodiumprep.bids_app.settings import FLUID_REFERENCES, PHANTOM, RECIPROCITY, Settings

QUANTIFIED = ("PDw", "MEGRE")
TWICE = 0.01  # relative, by which the larger of two flip angles may differ from twice the smaller


@dataclass(frozen=True)
class Transmit:
    """What tells the flip angle that the spins saw.

    Parameters
    ----------
    paths
        A map (one file), or magnitudes with one flip angle and with twice that.
    units
        Of the map, as its sidecar states them.
    flip_angle, repetition_time
        Of the image with the smaller flip angle [rad, s].
    """

    paths: tuple[Path, ...]
    units: str = ""
    flip_angle: float = 0.0
    repetition_time: float = 0.0

    @property
    def kind(self) -> str:
        """Suffix of the files."""
        return "TB1DAM" if len(self.paths) == 2 else "TB1map"


@dataclass(frozen=True)
class SodiumRun:
    """One sodium image to quantify, with all that belongs to it.

    Parameters
    ----------
    subject, session, run
        Labels without their keys, None where the name has none.
    entities
        All entities of the source's name under their short keys.
    source
        The image, or the k-space file that wins over it.
    is_kspace
        Whether the source is k-space.
    phase
        Phase image that goes with a magnitude image.
    protocol
        How it was measured.
    vials
        Known concentrations; label n of the label image is entry n, counted from 1.
    vials_direction
        In which the vials are listed, as "-x" (from right to left); empty if not stated.
    vial_labels, vial_space
        Label image and the space it lies in, ``sodium`` or ``T1w``.
    receive_array, receive_volume, receive_map
        Images of the array and of the volume coil, and a receive map.
    transmit
        Map of the flip angle, or two images with two of them.
    fieldmap, fieldmap_nucleus
        Field map [Hz] and the nucleus whose frequency it tells.
    sodium_to_anat
        The user's transform.
    transform_backward
        Whether that transform is from T1w to sodium.
    warnings
        What the report must say about the input.
    regions
        Regions drawn in sodium space, file and label by name, where there is no anatomy.
    coil_image
        Another 1H image of the same session and coil, which shares the sodium image's frame.
    phantom
        A phantom that was scanned by itself in the same coil.
    reciprocity
        Why the transmit field may stand for the receive profile: ``asked`` by the user,
        ``stated`` by the sidecar, or empty.
    """

    subject: str
    session: str | None
    run: str | None
    entities: Mapping[str, str]
    source: Path
    is_kspace: bool
    phase: Path | None
    protocol: Protocol
    vials: tuple[Vial, ...] = ()
    vial_labels: Path | None = None
    vial_space: str | None = None
    receive_array: tuple[Path, ...] = ()
    receive_volume: tuple[Path, ...] = ()
    receive_map: Path | None = None
    transmit: Transmit | None = None
    fieldmap: Path | None = None
    fieldmap_nucleus: str = SODIUM
    sodium_to_anat: Path | None = None
    transform_backward: bool = False
    warnings: tuple[str, ...] = ()
    regions: Mapping[str, tuple[Path, int]] = field(default_factory=dict)
    coil_image: Path | None = None
    vials_direction: str = ""
    phantom: CalibrationPhantom | None = None
    reciprocity: str = ""

    @property
    def acquisition(self) -> str:
        """Label of the acquisition in every output name."""
        return acquisition_label(self.entities)


def in_sodium_space(
    settings: Settings,
    subject: str,
    anatomy: Anatomy,
    runs: Sequence[SodiumRun],
    ready: Ready,
) -> tuple[SodiumRun, ...]:
    """Return the runs of a subject without anatomy, with the regions drawn on them.

    Raises
    ------
    UserError
        If nothing calibrates a run in sodium space.
    """
    accepted = f"no 1H image; accepted in anat/: {', '.join(ANATOMY_ORDER)}, or a desc-preproc "
    accepted += "image in a -d folder (FreeSurfer: mri/T1.mgz)"
    if not runs or anatomy.ready:
        found = f" (ready-made {', '.join(anatomy.ready)} alone is not enough)"
        raise UserError(f"sub-{subject}: {accepted}{found if anatomy.ready else ''}")
    for run in runs:
        refused = settings.reference in (*FLUID_REFERENCES, PHANTOM)
        if not run.vials or run.vial_space != "sodium" or refused:
            raise UserError(
                f"sub-{subject}: {accepted}; or, for apparent concentrations in sodium space, "
                f"CalibrationVials of {run.source.name} with *_acq-23Na_desc-vials_dseg in a -d "
                "folder"
            )
    return tuple(
        replace(run, regions=find_sodium_regions(RawFile(run.source, {}, {}), ready))
        for run in runs
    )


def with_coil_image(run: SodiumRun, own: Sequence[RawFile], anatomy: Anatomy) -> SodiumRun:
    """Add the 1H image that was measured with the coil of a sodium image, in its session.

    Same session and same coil means that nobody got up in between: the frame is shared, up to
    motion, which the score sees. Without names of the coils only a PDw counts, which is what
    dual-tuned coils are localized with; the anatomy itself adds nothing to the header.
    """
    sodium = next((file for file in own if file.path == run.source), None)
    coil = sodium.metadata.get("ReceiveCoilName") if sodium else None
    others = [file for file in own if is_anatomy(file) and file.path != anatomy.image]
    same = [f for f in others if coil and f.metadata.get("ReceiveCoilName") == coil]
    unnamed = [f for f in others if f.suffix == "PDw" and "ReceiveCoilName" not in f.metadata]
    found = min(same or unnamed, key=lambda f: anatomy_rank(f, run.session), default=None)
    if found is None:
        return run
    check_image(found.path)
    assumed = f"{found.path.name}: taken for an image of the sodium coil, its sidecar has no "
    notes = () if same else (assumed + "ReceiveCoilName",)
    return replace(run, coil_image=found.path, warnings=(*run.warnings, *notes))


def is_candidate(settings: Settings, file: RawFile) -> bool:
    """Tell whether a file is sodium data that the user did not filter out."""
    return file.is_sodium and passes(file, settings.bids_filters.get("sodium", {}))


def find_runs(
    settings: Settings, subject: str, files: Sequence[RawFile], ready: Ready
) -> tuple[SodiumRun, ...]:
    """Return the sodium runs of a session; raises a UserError for what cannot be quantified."""
    candidates = [
        file for file in files if file.datatype == "anat" and is_candidate(settings, file)
    ]
    usable = [file for file in candidates if file.suffix in QUANTIFIED]
    refused = sorted(file.path.name for file in candidates if file not in usable)
    if not usable:
        raise UserError(
            f"{candidates[0].path}: sodium with suffix {candidates[0].suffix} is not quantified; "
            f"accepted: {', '.join(QUANTIFIED)}"
        )
    notes = [f"{name}: not quantified, its suffix is not known for sodium" for name in refused]
    groups: dict[tuple[str, ...], list[RawFile]] = {}
    for file in usable:
        groups.setdefault(_identity(file), []).append(file)
    fmaps = [file for file in files if file.datatype == "fmap"]
    runs = [_build_run(settings, subject, group, fmaps, ready) for group in groups.values()]
    _refuse_same_names(runs)
    return tuple(_with_notes(run, notes) for run in runs)


def _identity(file: RawFile) -> tuple[str, ...]:
    parts = [f"{key}-{value}" for key, value in file.parts.items() if key not in ("part", "echo")]
    return (*sorted(parts), file.suffix)


def _refuse_same_names(runs: Sequence[SodiumRun]) -> None:
    seen: dict[tuple[str, str | None], SodiumRun] = {}
    for run in runs:
        other = seen.setdefault((run.acquisition, run.run), run)
        if other is not run:
            raise UserError(
                f"{other.source} and {run.source}: their results would have the same names; "
                "choose one with --bids-filter-file, or tell them apart by acq- or run-"
            )


def _with_notes(run: SodiumRun, notes: Sequence[str]) -> SodiumRun:
    return replace(run, warnings=(*run.warnings, *notes))


def _build_run(
    settings: Settings,
    subject: str,
    group: Sequence[RawFile],
    fmaps: Sequence[RawFile],
    ready: Ready,
) -> SodiumRun:
    source, phase, notes = _choose_source(group)
    protocol = read_source_protocol(settings, source)
    vials = _read_source_vials(settings, source)
    labels, space = find_vial_labels(source, ready)
    phantom = find_phantom(settings, source, protocol)
    receive = _find_receive(settings, source, fmaps)
    transmit, said = _find_transmit(settings, source, fmaps)
    reciprocity, why = _reciprocity(settings, source, receive, transmit)
    fieldmap, nucleus, told = _find_fieldmap(settings, source, fmaps)
    return SodiumRun(
        subject,
        source.parts.get("ses"),
        source.parts.get("run"),
        source.parts,
        source.path,
        source.is_kspace,
        phase,
        protocol,
        vials,
        labels,
        space,
        receive["array"],
        receive["volume"],
        next(iter(receive["map"]), None),
        transmit,
        fieldmap,
        nucleus,
        *find_transform(source, ready),
        (*notes, *said, *told, *_fmap_notes(fmaps), *_half_pair(receive), *why),
        vials_direction=_read_vials_direction(settings, source),
        phantom=phantom,
        reciprocity=reciprocity,
    )


def _choose_source(group: Sequence[RawFile]) -> tuple[RawFile, Path | None, list[str]]:
    echo = min(int(file.parts.get("echo", 1)) for file in group)
    first = [file for file in group if int(file.parts.get("echo", 1)) == echo]
    notes = [
        f"{file.path.name}: echo not used, the first one is quantified"
        for file in group
        if file not in first and file.parts.get("part", "mag") == "mag"
    ]
    kspace = [file for file in first if file.is_kspace]
    if kspace:
        return kspace[0], None, notes
    by_part = {file.parts.get("part", "mag"): file for file in first}
    if "mag" not in by_part:
        raise UserError(
            f"{first[0].path}: has no magnitude image beside it; accepted: part-mag, or part-mag "
            "and part-phase"
        )
    phase = by_part["phase"].path if "phase" in by_part else None
    for path in filter(None, (by_part["mag"].path, phase)):
        check_image(path)
    return by_part["mag"], phase, notes


def _read_source_vials(settings: Settings, source: RawFile) -> tuple[Vial, ...]:
    if settings.vials_file is not None:
        return load_vials(settings.vials_file)
    entries = source.metadata.get("CalibrationVials")
    vials = () if entries is None else read_vials(entries, str(source.path))
    if settings.reference == "vials" and not vials:
        raise UserError(
            f"{source.path}: CalibrationVials is missing in its sidecar; accepted: a list of "
            "vials, --vials FILE, or --reference csf, vitreous or phantom"
        )
    return vials


def _read_vials_direction(settings: Settings, source: RawFile) -> str:
    if settings.vials_file is not None:
        return load_vials_direction(settings.vials_file)
    return read_vials_direction(source.metadata, str(source.path))


def _find_receive(
    settings: Settings, source: RawFile, fmaps: Sequence[RawFile]
) -> dict[str, tuple[Path, ...]]:
    filters = settings.bids_filters.get("fmap", {})
    found: dict[str, list[Path]] = {"array": [], "volume": [], "map": []}
    for file in fmaps:
        kind = _receive_kind(file)
        if kind and file.is_sodium and passes(file, filters) and _intended(file, source):
            check_image(file.path)
            found[kind].append(file.path)
    return {kind: tuple(paths) for kind, paths in found.items()}


def _half_pair(receive: Mapping[str, tuple[Path, ...]]) -> list[str]:
    """Return what must be said of receive images whose counterpart is missing."""
    names = {"array": "Body (volume coil)", "volume": "Head (array)"}
    alone = [kind for kind in names if receive[kind]]
    if len(alone) != 1:
        return []
    return [
        f"{path.name}: not used, there is no RB1COR image whose acq- names {names[alone[0]]}"
        for path in receive[alone[0]]
    ]


def _reciprocity(
    settings: Settings,
    source: RawFile,
    receive: Mapping[str, tuple[Path, ...]],
    transmit: Transmit | None,
) -> tuple[str, list[str]]:
    """Return why the transmit field may stand for the receive profile, and what must be said."""
    asked = settings.receive == RECIPROCITY
    own = "RB1COR" if receive["array"] and receive["volume"] else "RB1map"
    if (receive["array"] and receive["volume"]) or receive["map"]:
        return "", [f"--receive {RECIPROCITY}: not used, {own} is"] if asked else []
    names = [source.metadata.get(f"{way}CoilName") for way in ("Transmit", "Receive")]
    elements = RECEIVE_COILS.read_optional(source.metadata, str(source.path))
    if asked and (transmit is None or (elements or 1) > 1):
        lacking = "TB1map and TB1DAM are missing"
        found = lacking if transmit is None else f"{RECEIVE_COILS.name} is {elements:g}"
        raise UserError(
            f"{source.path}: {found}, but --receive is {RECIPROCITY}; accepted: a transmit map of "
            "the one coil that transmits and receives"
        )
    if asked or transmit is None or not names[0] or names[0] != names[1]:
        return ("asked" if asked else ""), []
    if source.is_kspace or elements == 1:
        return "stated", []
    return "", [
        f"{source.path.name}: one coil transmits and receives by its name, but "
        f"{RECEIVE_COILS.name} is not 1: the flip angle is not taken for its receive profile (see "
        f"--receive {RECIPROCITY})"
    ]


def _find_transmit(
    settings: Settings, source: RawFile, fmaps: Sequence[RawFile]
) -> tuple[Transmit | None, list[str]]:
    """Return what tells the flip angle, and what must be said of it: a map before a pair."""
    filters = settings.bids_filters.get("fmap", {})
    found = [
        f for f in fmaps
        if f.suffix in ("TB1map", "TB1DAM") and f.is_sodium and f.parts.get("part", "mag") == "mag"
        and passes(f, filters) and _intended(f, source)
    ]  # fmt: skip
    maps = [f for f in found if f.suffix == "TB1map"]
    if maps:
        check_image(maps[0].path)
        notes = [f"{f.path.name}: not used, {maps[0].path.name} is" for f in found if f != maps[0]]
        return Transmit((maps[0].path,), str(maps[0].metadata.get("Units") or "")), notes
    if not found:
        return None, []
    angles = {f.path: FLIP_ANGLE.read(f.metadata, str(f.path)) for f in found}
    pair = sorted(found, key=lambda f: angles[f.path])
    if len(pair) != 2 or abs(angles[pair[1].path] / angles[pair[0].path] / 2 - 1) > TWICE:
        told = ", ".join(f"{f.path.name} ({angles[f.path]:g} degrees)" for f in pair)
        raise UserError(
            f"{told}: no double-angle pair; accepted: two files flip-1 and flip-2 _TB1DAM, with "
            "a FlipAngle and twice that"
        )
    times = [REPETITION_TIME.read(f.metadata, str(f.path)) for f in pair]
    if times[0] != times[1]:
        raise UserError(
            f"{pair[1].path}: RepetitionTime is {times[1]:g} s, that of {pair[0].path.name} is "
            f"{times[0]:g} s; accepted: the same"
        )
    for file in pair:
        check_image(file.path)
    paths = tuple(file.path for file in pair)
    return Transmit(paths, "", math.radians(angles[paths[0]]), times[0]), []


def _find_fieldmap(
    settings: Settings, source: RawFile, fmaps: Sequence[RawFile]
) -> tuple[Path | None, str, list[str]]:
    """Return the field map of raw k-space, its nucleus, and what must be said of it."""
    filters = settings.bids_filters.get("fmap", {})
    found = [f for f in fmaps if f.suffix == "fieldmap" and passes(f, filters)]
    meant = [f for f in found if _intended(f, source)]
    usable = [f for f in meant if _nucleus(f)]
    unknown = [
        f'{f.path.name}: not used, its sidecar lacks "ResonantNucleus": "1H" or "{SODIUM}"'
        for f in meant
        if f not in usable
    ]
    if not usable:
        return None, SODIUM, unknown
    file = usable[0]
    if not source.is_kspace:
        return None, SODIUM, [f"{file.path.name}: not used, the image is already reconstructed"]
    if file.metadata.get("Units") != "Hz":
        raise UserError(f"{file.path}: Units is {file.metadata.get('Units')!r}; accepted: 'Hz'")
    check_image(file.path)
    ignored = [f"{other.path.name}: not used, {file.path.name} is" for other in usable[1:]]
    return file.path, _nucleus(file), [*ignored, *unknown]


def _nucleus(file: RawFile) -> str:
    """Return what a sidecar or a name states; a guess would scale a field map by a quarter."""
    if file.is_sodium:
        return SODIUM
    stated = file.metadata.get("ResonantNucleus") or file.parts.get("nuc")
    return HYDROGEN if stated == HYDROGEN else ""


def _receive_kind(file: RawFile) -> str | None:
    if file.parts.get("part", "mag") != "mag":
        return None
    if file.suffix == "RB1map":
        return "map"
    label = file.parts.get("acq", "").lower() if file.suffix == "RB1COR" else ""
    return "array" if "head" in label else "volume" if "body" in label else None


def _intended(file: RawFile, source: RawFile) -> bool:
    given = file.metadata.get("IntendedFor")
    if not given:
        return True
    targets = given if isinstance(given, list) else [given]
    return any(without_part(Path(str(target))) == without_part(source.path) for target in targets)


def _fmap_notes(fmaps: Sequence[RawFile]) -> list[str]:
    notes = [
        f'{file.path.name}: not used, its sidecar lacks "ResonantNucleus": "{SODIUM}"'
        for file in fmaps
        if file.looks_sodium
    ]
    notes += [
        f"{file.path.name}: not used, acq- names neither Head (array) nor Body (volume coil)"
        for file in fmaps
        if file.is_sodium and file.suffix == "RB1COR" and _receive_kind(file) is None
    ]
    return notes
