"""Sidecar keys become checked numbers in SI units; whatever is wrong is said in one line."""

from __future__ import annotations

import csv
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

from sodiumprep.interfaces.files import MIB, check_file

SODIUM, HYDROGEN = "23Na", "1H"
TRAJECTORY_TYPES = ("radial", "density-adapted radial", "tpi", "cones", "floret", "cartesian")
KSPACE_FILTERS = ("none", "hamming")
DIRECTIONS = ("x", "-x", "y", "-y", "z", "-z")  # as of sodium.vials, which takes long to import
ASSUMED_CONCENTRATION_UNCERTAINTY = 0.01  # relative, where a vial states none
MOST_TEXT = 16 * MIB  # of a sidecar or a table
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
HEADER_TOLERANCE = 1e-3  # relative, between k-space header and sidecar
FIELD_TOLERANCE = 0.1  # relative: 2.89 T and 3 T are the same nominal field


class UserError(Exception):
    """What a user can mend: one line that names the file and the key."""


@dataclass(frozen=True)
class Key:
    """What one numeric key may hold.

    Parameters
    ----------
    name
        As it stands in the JSON file.
    unit
        Unit of the number, for messages; empty for a pure number.
    low, high
        Accepted range in ``unit``, ends included.
    hint
        What is probably wrong with a number outside.
    """

    name: str
    unit: str
    low: float
    high: float
    hint: str = ""

    def read(self, source: Mapping[str, Any], where: str) -> float:
        """Return the number that ``source`` holds under this key, in ``unit``.

        Raises
        ------
        UserError
            If the key is missing, holds no finite number, or one outside the range.

        Examples
        --------
        >>> ECHO_TIME.read({"EchoTime": 0.0004}, "a.json")
        0.0004
        >>> ECHO_TIME.accepted
        '1e-06 to 0.05 s'
        """
        if source.get(self.name) is None:
            raise UserError(f"{where}: {self.name} is missing; accepted: {self.accepted}")
        number = source[self.name]
        if not _is_number(number) or not self.low <= number <= self.high:
            hint = f" ({self.hint})" if self.hint and _is_number(number) else ""
            shown = shortened(number)
            raise UserError(f"{where}: {self.name} is {shown}; accepted: {self.accepted}{hint}")
        return float(number)

    def read_optional(self, source: Mapping[str, Any], where: str) -> float | None:
        """Return the number under this key, or None where the key is missing.

        Raises
        ------
        UserError
            As :meth:`read`, but for a missing key.
        """
        return None if source.get(self.name) is None else self.read(source, where)

    @property
    def accepted(self) -> str:
        """The accepted range with its unit, for messages."""
        return f"{self.low:g} to {self.high:g} {self.unit}".rstrip()


_MILLISECONDS = "it looks like milliseconds"
ECHO_TIME = Key("EchoTime", "s", 1e-6, 0.05, _MILLISECONDS)
REPETITION_TIME = Key("RepetitionTime", "s", 1e-3, 10.0, _MILLISECONDS)
FLIP_ANGLE = Key("FlipAngle", "degrees", 0.1, 180.0)
FIELD_STRENGTH = Key("MagneticFieldStrength", "T", 0.1, 25.0)
READOUT_DURATION = Key("ReadoutDuration", "s", 1e-5, 0.2, _MILLISECONDS)
RECEIVE_COILS = Key("NumberReceiveCoilActiveElements", "elements", 1, 1024)
RELAXATION_TIMES = {
    name: Key(name, "s", 1e-5, 0.2, _MILLISECONDS) for name in ("T1", "T2starLong", "T2starShort")
}
SHORT_FRACTION = Key("ShortFraction", "", 0.0, 1.0)
CONCENTRATION = Key("SodiumConcentration", "mmol/L", 1e-3, 6200.0)
CONCENTRATION_UNCERTAINTY = Key("SodiumConcentrationUncertainty", "mmol/L", 0.0, 1000.0)
TEMPERATURE = Key("Temperature", "degrees Celsius", 0.0, 60.0, "it looks like kelvin")
VIALS_AXIS = "CalibrationVialsAxis"
VIAL_KEYS = (
    "Name",
    "SodiumConcentration",
    "SodiumConcentrationUncertainty",
    "T1",
    "T2starShort",
    "T2starLong",
    "ShortFraction",
    "Temperature",
    "Position",
)
RELAXATION_KEYS = tuple(
    name + ending
    for name in (*RELAXATION_TIMES, "ShortFraction")
    for ending in ("", "Uncertainty")
)


@dataclass(frozen=True)
class Protocol:
    """How a sodium image was measured.

    Parameters
    ----------
    echo_time
        From the centre of the pulse to the first kept sample [s].
    repetition_time
        Between excitations [s].
    flip_angle
        Nominal [rad].
    field_strength
        Nominal [T]; None only where a relaxation file stands in for the built-in table.
    readout_duration
        Length of one readout [s], None if unknown.
    trajectory_type
        One of ``TRAJECTORY_TYPES``, None if unknown.
    kspace_filter
        One of ``KSPACE_FILTERS``, None if unknown.
    acquisition_voxel_size
        Nominal voxel edges [mm], None if unknown.
    receive_coils
        Active elements of the receive coil, None if unknown.
    """

    echo_time: float
    repetition_time: float
    flip_angle: float
    field_strength: float | None
    readout_duration: float | None = None
    trajectory_type: str | None = None
    kspace_filter: str | None = None
    acquisition_voxel_size: tuple[float, float, float] | None = None
    receive_coils: int | None = None


@dataclass(frozen=True)
class Vial:
    """One calibration vial of known concentration.

    Parameters
    ----------
    name
        As the user calls it.
    concentration, concentration_uncertainty
        Sodium concentration and its standard uncertainty [mmol/L].
    t1, t2_short, t2_long
        Relaxation times [s]; the short one is None where its share is zero.
    short_fraction
        Share of the short component, in [0, 1].
    temperature
        [degrees Celsius], None if unknown.
    position
        Centre [mm, RAS], None if unknown.
    uncertainty_assumed
        True where the uncertainty is the default of 1 %, not the user's.
    """

    name: str
    concentration: float
    concentration_uncertainty: float
    t1: float
    t2_short: float | None
    t2_long: float
    short_fraction: float
    temperature: float | None = None
    position: tuple[float, float, float] | None = None
    uncertainty_assumed: bool = False


class KspaceHeader(Interface):
    """What a k-space header may state; None where it does not."""

    @property
    def echo_time(self) -> float | None:
        """From the excitation to the first kept sample [s]."""

    @property
    def repetition_time(self) -> float | None:
        """Between excitations [s]."""

    @property
    def flip_angle(self) -> float | None:
        """Nominal [rad]."""

    @property
    def field_strength(self) -> float | None:
        """Nominal [T]."""


def shortened(value: object) -> str:
    """Return a value as JSON has it, for messages, in at most 80 characters.

    Examples
    --------
    >>> shortened({"a": 1}), len(shortened("a" * 1000))
    ('{"a": 1}', 80)
    """
    if isinstance(value, int) and abs(value) > 10**75:
        return "a whole number of more than 75 digits"
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"


def read_text(path: Path) -> str:
    """Return the text of a small file; a mark of the byte order is left out.

    Raises
    ------
    UserError
        If it cannot be read, is no plain file, is too large, or no text.
    """
    try:
        check_file(path, MOST_TEXT)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} is no text; accepted: text in UTF-8"
        ) from error
    except ValueError as error:
        raise UserError(str(error)) from error
    if "\0" in text:
        raise UserError(f"{path}: holds zero bytes; accepted: text in UTF-8")
    return text


def read_json(path: Path) -> object:
    """Return the content of a JSON file.

    Raises
    ------
    UserError
        If the file cannot be read, is too large, nested too deeply, or is no JSON.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: holds half a character (\\ud…); accepted: whole ones") from error
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: is nested too deeply; accepted: keys and values") from error
    return content


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a tab-separated table, by column; cells that are missing are left out.

    Raises
    ------
    UserError
        If the file cannot be read, is too large, or holds a cell that is.
    """
    lines = read_text(path).splitlines()
    try:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as a table: {error}") from error
    return [
        {name: cell for name, cell in row.items() if name is not None and cell is not None}
        for row in rows
    ]


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the keys of a sidecar.

    Raises
    ------
    UserError
        If the file cannot be read, is no JSON, or holds something else than keys.
    """
    keys = read_json(path)
    if not isinstance(keys, dict):
        raise UserError(f"{path}: holds {_kind(keys)}; accepted: an object of keys and values")
    return keys


def read_protocol(
    sidecar: Mapping[str, Any],
    where: str,
    header: KspaceHeader | None = None,
    field_needed: bool = True,
) -> Protocol:
    """Return how a sodium image was measured, from its sidecar and its k-space header.

    Parameters
    ----------
    sidecar
        Keys of the JSON file, inheritance applied, in BIDS units (s, degrees, T, mm).
    where
        Name of the data file, for messages.
    header
        What the k-space file itself states, in SI units.
    field_needed
        Whether a missing field strength is an error.

    Raises
    ------
    UserError
        If TE, TR, flip angle or a needed field strength is missing, a value is outside its
        range, or header and sidecar contradict each other.

    Examples
    --------
    >>> keys = {"EchoTime": 4e-4, "RepetitionTime": 0.12, "FlipAngle": 90,
    ...         "MagneticFieldStrength": 7}
    >>> round(read_protocol(keys, "a.nii.gz").flip_angle, 4)
    1.5708
    """
    keys = _with_header(sidecar, where, header)
    echo_time = ECHO_TIME.read(keys, where)
    repetition_time = REPETITION_TIME.read(keys, where)
    if repetition_time <= echo_time:
        raise UserError(
            f"{where}: RepetitionTime is {repetition_time:g} s; accepted: longer than EchoTime "
            f"({echo_time:g} s)"
        )
    coils = RECEIVE_COILS.read_optional(keys, where)
    field = FIELD_STRENGTH.read if field_needed else FIELD_STRENGTH.read_optional
    return Protocol(
        echo_time,
        repetition_time,
        math.radians(FLIP_ANGLE.read(keys, where)),
        field(keys, where),
        READOUT_DURATION.read_optional(keys, where),
        _read_choice(keys, "TrajectoryType", TRAJECTORY_TYPES, where),
        _read_choice(keys, "KspaceFilter", KSPACE_FILTERS, where),
        _read_voxel_size(keys, where),
        None if coils is None else int(coils),
    )


def read_vials(entries: object, where: str) -> tuple[Vial, ...]:
    """Return the vials of a ``CalibrationVials`` list; label n of a label image is entry n.

    Raises
    ------
    UserError
        If the list is none, or an entry lacks a key or holds an implausible value.
    """
    if not isinstance(entries, list):
        kind = _kind(entries)
        raise UserError(f"{where}: CalibrationVials is {kind}; accepted: a list of vials")
    return tuple(
        _read_vial(entry, f"{where}: CalibrationVials entry {number}")
        for number, entry in enumerate(entries, start=1)
    )


def read_vials_direction(keys: Mapping[str, Any], where: str) -> str:
    """Return the direction in which ``CalibrationVials`` are listed; empty if not stated.

    Raises
    ------
    UserError
        If ``CalibrationVialsAxis`` is none of the scanner's axes.
    """
    return _read_choice(keys, VIALS_AXIS, DIRECTIONS, where) or ""


def load_vials_direction(path: Path) -> str:
    """Return the direction in which the vials of a JSON file are listed; empty if not stated.

    Raises
    ------
    UserError
        As :func:`read_vials_direction`.
    """
    content = read_json(path)
    return read_vials_direction(content, str(path)) if isinstance(content, dict) else ""


def load_vials(path: Path) -> tuple[Vial, ...]:
    """Return the vials of a JSON file that holds the list itself.

    Raises
    ------
    UserError
        If the file cannot be read, is empty, or an entry is wrong.
    """
    content = read_json(path)
    if isinstance(content, dict) and "CalibrationVials" in content:
        content = content["CalibrationVials"]
    vials = read_vials(content, str(path))
    if not vials:
        raise UserError(f"{path}: CalibrationVials is empty; accepted: at least one vial")
    return vials


def is_sodium(sidecar: Mapping[str, Any], file_name: str) -> bool:
    """Tell whether a file is sodium, by its sidecar or its ``nuc-`` entity alone.

    Examples
    --------
    >>> is_sodium({"ResonantNucleus": "23Na"}, "sub-01_PDw.nii.gz")
    True
    >>> is_sodium({}, "sub-01_acq-23Na_PDw.nii.gz")
    False
    """
    nucleus = sidecar.get("ResonantNucleus")
    return SODIUM in (nucleus if isinstance(nucleus, list) else [nucleus]) or (
        nucleus is None and f"_nuc-{SODIUM}_" in file_name
    )


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def _with_header(
    sidecar: Mapping[str, Any], where: str, header: KspaceHeader | None
) -> dict[str, Any]:
    keys = dict(sidecar)
    for name, stated in _header_keys(header).items():
        if keys.get(name) is None:
            keys[name] = stated
        if not _is_number(keys[name]):
            continue  # said where the key is read
        tolerance = FIELD_TOLERANCE if name == FIELD_STRENGTH.name else HEADER_TOLERANCE
        if abs(keys[name] - stated) > tolerance * abs(stated):
            raise UserError(
                f"{where}: {name} is {keys[name]:g} in the sidecar and {stated:g} in the k-space "
                f"header; accepted: a difference of at most {tolerance:.1%}"
            )
    return keys


def _header_keys(header: KspaceHeader | None) -> dict[str, float]:
    if header is None:
        return {}
    degrees = None if header.flip_angle is None else math.degrees(header.flip_angle)
    stated = {
        ECHO_TIME.name: header.echo_time,
        REPETITION_TIME.name: header.repetition_time,
        FLIP_ANGLE.name: None if degrees is None else round(degrees, 9),
        FIELD_STRENGTH.name: header.field_strength,
    }
    return {name: number for name, number in stated.items() if number is not None}


def _read_choice(
    keys: Mapping[str, Any], name: str, choices: Iterable[str], where: str
) -> str | None:
    value = keys.get(name)
    if value is None:
        return None
    text = str(value).strip().lower().replace("_", " ")
    if text not in choices:
        accepted = ", ".join(choices)
        raise UserError(f"{where}: {name} is {shortened(value)}; accepted: {accepted}")
    return text


def _read_voxel_size(keys: Mapping[str, Any], where: str) -> tuple[float, float, float] | None:
    name = "AcquisitionVoxelSize"
    if keys.get(name) is None:
        return None
    size = _read_three(keys, name, where, "mm")
    if not all(0.1 <= edge <= 50 for edge in size):
        raise UserError(f"{where}: {name} is {list(size)}; accepted: three numbers, 0.1 to 50 mm")
    return size


def _read_three(
    keys: Mapping[str, Any], name: str, where: str, unit: str
) -> tuple[float, float, float]:
    value = keys[name]
    if not isinstance(value, list) or len(value) != 3 or not all(map(_is_number, value)):
        raise UserError(f"{where}: {name} is {shortened(value)}; accepted: three numbers [{unit}]")
    return float(value[0]), float(value[1]), float(value[2])


def _read_vial(entry: object, where: str) -> Vial:
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {_kind(entry)}; accepted: an object with {_VIAL_NEEDED}")
    refuse_misspelt(entry, VIAL_KEYS, where)
    name = entry.get("Name")
    if not isinstance(name, str) or not name.strip() or not name.strip().isprintable():
        raise UserError(f"{where}: Name is {shortened(name)}; accepted: text in one line")
    concentration = CONCENTRATION.read(entry, where)
    stated = CONCENTRATION_UNCERTAINTY.read_optional(entry, where)
    assumed = ASSUMED_CONCENTRATION_UNCERTAINTY * concentration
    times = read_relaxation_times(entry, where)
    placed = entry.get("Position") is not None
    return Vial(
        name.strip(),
        concentration,
        assumed if stated is None else stated,
        times["T1"],
        times.get("T2starShort"),
        times["T2starLong"],
        times["ShortFraction"],
        TEMPERATURE.read_optional(entry, where),
        _read_three(entry, "Position", where, "mm, RAS") if placed else None,
        uncertainty_assumed=stated is None,
    )


_VIAL_NEEDED = "Name, SodiumConcentration, T1, T2starShort, T2starLong, ShortFraction"


def read_relaxation_times(keys: Mapping[str, Any], where: str) -> dict[str, float]:
    """Return ``T1``, ``T2starLong``, ``ShortFraction`` and, unless that is 0, ``T2starShort``.

    Raises
    ------
    UserError
        If one is missing or implausible.
    """
    times = {name: RELAXATION_TIMES[name].read(keys, where) for name in ("T1", "T2starLong")}
    times["ShortFraction"] = SHORT_FRACTION.read(keys, where)
    if times["ShortFraction"] == 0:
        return times  # the short time has no effect: whatever stands there is passed over
    times["T2starShort"] = RELAXATION_TIMES["T2starShort"].read(keys, where)
    if times["T2starShort"] > times["T2starLong"]:
        raise UserError(
            f"{where}: T2starShort is {times['T2starShort']:g} s; accepted: at most T2starLong "
            f"({times['T2starLong']:g} s)"
        )
    return times


def refuse_misspelt(entry: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse keys that are nearly, but not quite, known ones.

    Raises
    ------
    UserError
        For the first of them.
    """
    for name in (name for name in entry if name not in known):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if close:
            raise UserError(f"{where}: {name} is not known; accepted: {close[0]}")
