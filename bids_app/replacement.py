"""Phantoms that were scanned by themselves: the key ``CalibrationPhantom`` of a sidecar."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sodiumprep.bids_app.constants import relaxation_fields
from sodiumprep.bids_app.index import RawFile, check_image
from sodiumprep.bids_app.metadata import (
    ASSUMED_CONCENTRATION_UNCERTAINTY,
    CONCENTRATION,
    CONCENTRATION_UNCERTAINTY,
    FIELD_TOLERANCE,
    RELAXATION_KEYS,
    SODIUM,
    TEMPERATURE,
    Key,
    Protocol,
    UserError,
    read_relaxation_times,
    read_sidecar,
    refuse_misspelt,
    shortened,
)
from sodiumprep.bids_app.names import entities, extension, stem, suffix, with_json
from sodiumprep.bids_app.protocols import read_source_protocol
from sodiumprep.bids_app.relaxation import read_relaxation_uncertainties
from sodiumprep.bids_app.settings import PHANTOM, Settings
from sodiumprep.interfaces.files import check_file
from sodiumprep.interfaces.image import open_image

KEY = "CalibrationPhantom"
LOADING = Key("LoadingFactor", "", 0.2, 5.0)
LOADING_UNCERTAINTY = Key("LoadingFactorUncertainty", "", 0.0, 1.0)
UNKNOWN_LOADING = 0.05  # standard uncertainty where no loading factor is given: 1 is taken
ASSUMED_LOADING_UNCERTAINTY = 0.02  # relative, where a loading factor states none
KEYS = (
    "Image", CONCENTRATION.name, CONCENTRATION_UNCERTAINTY.name, *RELAXATION_KEYS,
    TEMPERATURE.name, LOADING.name, LOADING_UNCERTAINTY.name,
)  # fmt: skip
SAME_SCALE = {  # of the protocol: images that differ in it may be scaled differently
    "trajectory_type": "TrajectoryType",
    "kspace_filter": "KspaceFilter",
    "acquisition_voxel_size": "AcquisitionVoxelSize",
}
_NEEDED = "Image, SodiumConcentration, T1, T2starLong, ShortFraction, LoadingFactor"
_URI = re.compile(r"^bids:([^:/]*):([^:]+)$")
_ACCEPTED = 'accepted: a BIDS URI, as "bids::sub-phantom/anat/sub-phantom_acq-23Na_PDw.nii.gz"'


@dataclass(frozen=True)
class CalibrationPhantom:
    """A phantom of known concentration in an image of its own.

    Parameters
    ----------
    image
        Image, or raw data where the sodium of the head is raw data.
    protocol
        How it was measured.
    concentration, concentration_uncertainty
        [mmol/L].
    loading, loading_uncertainty
        Transmitter amplitude for a given flip angle in the head over that in the phantom.
    temperature
        [degrees Celsius], None if unknown.
    relaxation
        By the keys of a relaxation file [s].
    notes
        What the report must say of it.
    loading_assumed
        Whether there is no loading factor.
    """

    image: Path
    protocol: Protocol
    concentration: float
    concentration_uncertainty: float
    loading: float
    loading_uncertainty: float
    temperature: float | None
    relaxation: Mapping[str, float]
    notes: tuple[str, ...] = ()
    loading_assumed: bool = False

    def known(self) -> dict[str, Any]:
        """Return timing, relaxation and what is known, as the graph passes them on."""
        timing = ("echo_time", "repetition_time", "flip_angle")
        times = relaxation_fields(self.relaxation)
        return {
            "own_protocol": {name: getattr(self.protocol, name) for name in timing},
            "constants": {"t2_short": times["t2_long"], **times, "source": KEY},
            "known": {
                "concentration": self.concentration,
                "u_concentration": self.concentration_uncertainty,
                "temperature": self.temperature,
                "loading": self.loading,
                "u_loading": self.loading_uncertainty,
            },
        }


def find_phantom(
    settings: Settings, source: RawFile, protocol: Protocol
) -> CalibrationPhantom | None:
    """Return the phantom that the sidecar of a sodium file names.

    Parameters
    ----------
    settings
        The user's choices.
    source
        Sodium file of the head.
    protocol
        Of that file.

    Returns
    -------
    phantom
        None without the key, or where the file is the phantom itself.

    Raises
    ------
    UserError
        If ``--reference phantom`` has none, or the key holds what cannot be used.
    """
    entry, where = source.metadata.get(KEY), f"{source.path}: {KEY}"
    if entry is None:
        if settings.reference == PHANTOM:
            raise UserError(
                f"{where} is missing in its sidecar, but --reference is {PHANTOM}; accepted: an "
                f"object with {_NEEDED}"
            )
        return None
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {json.dumps(entry)[:60]}; accepted: an object with {_NEEDED}")
    refuse_misspelt(entry, KEYS, where)
    file = _file_of(entry.get("Image"), source, settings, where)
    if file is None:
        return None
    own = read_source_protocol(settings, file)
    _refuse_other_coil(source, file, (protocol, own), where)
    concentration = CONCENTRATION.read(entry, where)
    stated = CONCENTRATION_UNCERTAINTY.read_optional(entry, where)
    loading, u_loading, notes = _read_loading(entry, where)
    return CalibrationPhantom(
        file.path,
        own,
        concentration,
        ASSUMED_CONCENTRATION_UNCERTAINTY * concentration if stated is None else stated,
        loading,
        u_loading,
        TEMPERATURE.read_optional(entry, where),
        read_relaxation_times(entry, where) | read_relaxation_uncertainties(entry, where),
        (*notes, *_scale_notes(source, file, protocol, own)),
        loading_assumed=entry.get(LOADING.name) is None,
    )


def phantom_subjects(subject: str, files: Iterable[RawFile]) -> set[str]:
    """Return the labels of the subjects whose images a subject's sidecars name as phantoms.

    Parameters
    ----------
    subject
        Label of the subject, which is none of them: keys of a whole dataset are those of the
        phantom's image too.
    files
        Of that subject.

    Returns
    -------
    labels
        Of subjects of the raw dataset.
    """
    entries = (file.metadata.get(KEY) for file in files if file.is_sodium)
    images = (entry.get("Image") for entry in entries if isinstance(entry, dict))
    named = (_URI.match(image) for image in images if isinstance(image, str))
    labels = (entities(uri[2]).get("sub") for uri in named if uri and uri[1] in ("", "raw"))
    return {label for label in labels if label and label != subject}


def _place_of(image: object, settings: Settings, where: str) -> tuple[Path, Path]:
    """Return the path that a URI names, and the root of its dataset, which holds it."""
    uri = _URI.match(image) if isinstance(image, str) else None
    if uri is None:
        raise UserError(f"{where}: Image is {shortened(image)}; {_ACCEPTED}")
    roots = {"": settings.bids_dir, "raw": settings.bids_dir, **settings.derivatives}
    if uri[1] not in roots:
        raise UserError(
            f"{where}: Image names the dataset {uri[1]}; accepted: 'bids::' for this one, or one "
            f"given with -d {uri[1]}=PATH"
        )
    root = roots[uri[1]]
    path = Path(os.path.normpath(root / uri[2]))
    if not path.is_relative_to(root):
        raise UserError(f"{where}: Image {image} lies outside of {root}; accepted: inside of it")
    return path, root


def _file_of(image: object, source: RawFile, settings: Settings, where: str) -> RawFile | None:
    """Return the file that a URI names, raw data for raw data; None if it is the source."""
    path, root = _place_of(image, settings, where)
    if source.is_kspace and extension(path) != ".h5":
        path = _raw_data_of(path, root)
    try:
        check_file(path)
    except ValueError as error:
        raise UserError(f"{where}: Image {shortened(image)}: {error}") from error
    if path == source.path:
        if settings.reference == PHANTOM:
            raise UserError(f"{where}: Image names this very file; accepted: another scan")
        return None
    if source.is_kspace != (extension(path) == ".h5"):
        kinds = ("an image", "raw data")
        raise UserError(
            f"{where}: {path} is {kinds[not source.is_kspace]}, the sodium of the head is "
            f"{kinds[source.is_kspace]}: their scales differ; accepted: the same kind of both"
        )
    file = _raw_data(path, root) if source.is_kspace else _image(path, root)
    if not file.is_sodium:
        raise UserError(f'{path}: accepted as Image of {KEY}: "ResonantNucleus": "{SODIUM}"')
    return file


def _raw_data_of(path: Path, root: Path) -> Path:
    """Return the raw data of the same name, which win over an image; the image without."""
    raw = root / "sourcedata" / path.relative_to(root).with_name(stem(path) + ".h5")
    return raw if raw.is_file() else path


def _image(path: Path, root: Path) -> RawFile:
    check_image(path)
    metadata = inherited(path, root)
    return RawFile(path, metadata, metadata)


def _raw_data(path: Path, root: Path) -> RawFile:
    """Return raw data; the keys of the image of the same name serve where they are silent."""
    below = path.relative_to(root)
    image = root.joinpath(*(part for part in below.parts if part != "sourcedata"))
    beside = with_json(path)
    own = read_sidecar(beside) if beside.is_file() else {}
    return RawFile(path, inherited(image, root) | inherited(path, root), own)


def inherited(path: Path, root: Path) -> dict[str, Any]:
    """Return the metadata of a file by the inheritance principle of BIDS.

    Parameters
    ----------
    path
        File below ``root``.
    root
        Of its dataset.

    Returns
    -------
    metadata
        Of all sidecars with its suffix and no other entities, from the top down.
    """
    own = set(entities(path).items())
    folders = [root]
    for part in path.parent.relative_to(root).parts:
        folders.append(folders[-1] / part)
    metadata: dict[str, Any] = {}
    for folder in folders:
        fitting = [
            sidecar
            for sidecar in folder.glob(f"*{suffix(path)}.json")
            if suffix(sidecar) == suffix(path) and set(entities(sidecar).items()) <= own
        ]
        for sidecar in sorted(fitting, key=lambda s: (len(entities(s)), s.name)):
            metadata |= read_sidecar(sidecar)
    return metadata


def _refuse_other_coil(
    source: RawFile, file: RawFile, protocols: tuple[Protocol, Protocol], where: str
) -> None:
    names = [f.metadata.get("ReceiveCoilName") for f in (source, file)]
    if all(names) and names[0] != names[1]:
        raise UserError(
            f"{where}: ReceiveCoilName of {file.path.name} is {names[1]!r}, that of the head is "
            f"{names[0]!r}; accepted: the same coil"
        )
    fields = [protocol.field_strength for protocol in protocols]
    if all(fields) and abs(fields[1] / fields[0] - 1) > FIELD_TOLERANCE:  # type: ignore[operator]
        raise UserError(
            f"{where}: MagneticFieldStrength of {file.path.name} is {fields[1]} T, that of the "
            f"head is {fields[0]} T; accepted: the same scanner"
        )


def _read_loading(entry: Mapping[str, Any], where: str) -> tuple[float, float, list[str]]:
    loading = LOADING.read_optional(entry, where)
    stated = LOADING_UNCERTAINTY.read_optional(entry, where)
    if loading is None:
        u = UNKNOWN_LOADING if stated is None else stated
        return 1.0, u, [f"{KEY} has no LoadingFactor: 1 ± {u:g} is taken"]
    if stated is not None:
        return loading, stated, []
    u = ASSUMED_LOADING_UNCERTAINTY * loading
    return loading, u, [f"{KEY} has no LoadingFactorUncertainty: {u:.2g} is taken"]


def _scale_notes(source: RawFile, file: RawFile, protocol: Protocol, own: Protocol) -> list[str]:
    """Return what must be said of images whose scales may differ."""
    if source.is_kspace:
        return []
    different = [
        key
        for name, key in SAME_SCALE.items()
        if None not in (pair := (getattr(protocol, name), getattr(own, name)))
        and pair[0] != pair[1]
    ]
    voxels = [open_image(f.path).header.get_zooms()[:3] for f in (source, file)]
    if not np.allclose(*voxels, rtol=1e-3):
        different.append("the voxel size")
    if not different:
        return []
    return [
        f"{file.path.name} and {source.path.name} differ in {', '.join(different)}: the phantom "
        "calibrates only if the scanner scales both alike"
    ]
