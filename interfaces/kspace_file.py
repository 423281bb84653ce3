"""The parts of an ISMRMRD file: its header, the heads of its readouts, and their numbers.

The readouts are read in blocks of the one table that holds them, since the format's own library
reads them one by one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import h5py
import ismrmrd
import numpy as np
from numpy.typing import NDArray

from sodiumprep.interfaces.files import check_file
from sodiumprep.interfaces.kspace_limits import check_xml, what_is_too_large
from sodiumprep.sodium.acquisition import Floats, Integers, field_strength_of

BLOCK = 256  # readouts that are read at a time
MOST_VOXELS = 512**3  # of an image: 1 GB, and eight times that on the doubled grid
BROKEN = (  # what h5py raises on damage
    OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError,
    MemoryError, zlib.error,
)  # fmt: skip


def _bits(*flags: int) -> int:
    return sum(1 << (flag - 1) for flag in flags)


NOISE = _bits(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
NOT_IMAGING = {
    "navigator": _bits(ismrmrd.ACQ_IS_NAVIGATION_DATA),
    "phase correction": _bits(ismrmrd.ACQ_IS_PHASECORR_DATA),
    "dummy scan": _bits(ismrmrd.ACQ_IS_DUMMYSCAN_DATA),
    "phase stabilization": _bits(
        ismrmrd.ACQ_IS_PHASE_STABILIZATION, ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE
    ),
    "feedback": _bits(ismrmrd.ACQ_IS_HPFEEDBACK_DATA, ismrmrd.ACQ_IS_RTFEEDBACK_DATA),
    "surface coil correction": _bits(ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA),
    "parallel calibration": _bits(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION),
}
COMPRESSED = _bits(
    ismrmrd.ACQ_COMPRESSION1,
    ismrmrd.ACQ_COMPRESSION2,
    ismrmrd.ACQ_COMPRESSION3,
    ismrmrd.ACQ_COMPRESSION4,
)


@dataclass(frozen=True)
class Encoding:
    """One encoding of a raw file.

    Parameters
    ----------
    matrix
        Voxels of the reconstructed image.
    fov
        Field of view of the reconstructed image [m].
    encoded_matrix
        Voxels of the encoded matrix.
    encoded_fov
        Field of view of the encoded matrix [m].
    trajectory_units
        As the file labels them, or None.
    """

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float]
    encoded_matrix: tuple[int, int, int]
    encoded_fov: tuple[float, float, float]
    trajectory_units: str | None

    @property
    def encoded_voxel(self) -> Floats:
        """Voxel edge of the encoded matrix, shape (3,) [m]."""
        return np.asarray(self.encoded_fov) / np.asarray(self.encoded_matrix)

    def labelled(self, units: str) -> Encoding:
        """Return the same encoding with another label of the trajectory's units."""
        return replace(self, trajectory_units=units)


@dataclass(frozen=True)
class KspaceHeader:
    """Protocol numbers of a raw file; None or empty where the file does not tell.

    Parameters
    ----------
    echo_times
        One for each echo [s].
    repetition_time
        [s].
    flip_angle
        [rad].
    field_strength
        [T].
    """

    echo_times: tuple[float, ...]
    repetition_time: float | None
    flip_angle: float | None
    field_strength: float | None

    @property
    def echo_time(self) -> float | None:
        """That of the first echo [s]."""
        return self.echo_times[0] if self.echo_times else None


class KspaceFile:
    """An open ISMRMRD file; use it in a ``with`` statement.

    Parameters
    ----------
    path
        File to read.

    Raises
    ------
    ValueError
        If it is truncated or is not ISMRMRD; the message names it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        self._table = self._file["dataset"]["data"]

    def __enter__(self) -> KspaceFile:
        """Return the open file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def header(self) -> ElementTree.Element:
        """Return the root of the XML header.

        Raises
        ------
        ValueError
            If it cannot be parsed.
        """
        try:
            text = np.ravel(self._file["dataset"]["xml"][()])[0]
            data = (text.encode() if isinstance(text, str) else bytes(text)).rstrip(b"\0")
            check_xml(data)
            return ElementTree.fromstring(data)
        except (*BROKEN, LookupError, expat.ExpatError, ElementTree.ParseError) as error:
            raise ValueError(
                f"{self.path}: the ISMRMRD header cannot be read ({one_line(error)})"
            ) from None

    def heads(self) -> Any:
        """Return the heads of all readouts, a structured array.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        # Block by block with the samples: reading one field alone costs as much, and leaks them.
        length = len(self._table)
        parts = [self._read(start)["head"].copy() for start in range(0, length, BLOCK)]
        return np.concatenate(parts) if parts else np.zeros(0, self._table.dtype["head"])

    def coils(self) -> int:
        """Return the receive coils of the first readout, 1 where there is no readout.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        first = self._read(0, 1)
        return max(1, int(first["head"]["active_channels"][0])) if len(first) else 1

    def blocks(self, rows: Integers) -> Iterator[tuple[int, Any]]:
        """Yield position among ``rows`` and table entry of each of them, in ascending order.

        Raises
        ------
        ValueError
            If the file is damaged; the message names the readout from which on.
        """
        for start in range(0, len(self._table), BLOCK):
            inside = np.flatnonzero((rows >= start) & (rows < start + BLOCK))
            if len(inside):
                block = self._read(start)
                yield from ((int(i), block[rows[i] - start]) for i in inside)

    def _read(self, start: int, length: int = BLOCK) -> Any:
        try:
            return self._table[start : start + length]
        except BROKEN as error:
            raise ValueError(
                f"{self.path}: truncated or damaged, the readouts from {start} on cannot be read "
                f"({one_line(error)}); convert the raw data again"
            ) from None


def one_line(error: BaseException) -> str:
    """Return the text of an error without its line breaks."""
    return " ".join(str(error).split())


def _open(path: Path) -> h5py.File:
    check_file(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path}: not a complete HDF5 file ({one_line(error)}); copy or convert it again"
        ) from None
    problem = _what_is_missing(file)
    if problem:
        file.close()
        raise ValueError(f"{path}: {problem}")
    return file


def _what_is_missing(file: h5py.File) -> str:
    try:
        parts = _held(file, "dataset")
        header, table = (_held(parts, name) for name in ("xml", "data"))
        if not isinstance(header, h5py.Dataset) or not isinstance(table, h5py.Dataset):
            found = ", ".join(f"'{name}'" for name in list(file)[:20]) or "nothing"
            return f"no ISMRMRD group 'dataset' with 'xml' and 'data' in it; found: {found}"
        names = table.dtype.names or ()
        problem = what_is_too_large(header, table)
        if problem:
            return problem
    except BROKEN as error:
        return f"truncated or damaged ({one_line(error)})"
    missing = [name for name in ("head", "traj", "data") if name not in names]
    return f"'dataset/data' has no {', '.join(missing)}: it is no ISMRMRD table" if missing else ""


def _held(group: Any, name: str) -> Any:
    """Return what a group itself holds under a name; links, which may leave the file, are none."""
    if not isinstance(group, h5py.Group):
        return None
    try:
        return group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
    except KeyError:
        return None


def read_kspace_header(path: Path | str) -> KspaceHeader:
    """Read the protocol numbers of a raw file.

    Parameters
    ----------
    path
        ISMRMRD file.

    Returns
    -------
    header
        Numbers in SI units.

    Raises
    ------
    ValueError
        If the file is truncated or is not ISMRMRD, or a number is none; the message names it.
    """
    with KspaceFile(path) as file:
        return protocol_numbers(file.path, file.header())


def protocol_numbers(path: Path, root: ElementTree.Element) -> KspaceHeader:
    """Return the protocol numbers of a header.

    Raises
    ------
    ValueError
        If one of them is no number; the message names file and element.
    """

    def first(name: str, scale: float) -> float | None:
        values = _numbers(path, root, name)
        return values[0] * scale if values else None

    field = first("acquisitionSystemInformation/systemFieldStrength_T", 1.0)
    frequency = first("experimentalConditions/H1resonanceFrequency_Hz", 1.0)
    if not field and frequency:
        field = field_strength_of(frequency)
    return KspaceHeader(
        echo_times=tuple(t * 1e-3 for t in _numbers(path, root, "sequenceParameters/TE")),
        repetition_time=first("sequenceParameters/TR", 1e-3),
        flip_angle=first("sequenceParameters/flipAngle_deg", np.pi / 180),
        field_strength=field or None,
    )


def _find_all(node: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return node.findall("/".join(f"{{*}}{part}" for part in name.split("/")))


def _numbers(path: Path, node: ElementTree.Element, name: str) -> list[float]:
    texts = [(found.text or "").strip() for found in _find_all(node, name)]
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = [np.nan]
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"{path}: {name} is '{', '.join(texts)}' in the ISMRMRD header; accepted: a number"
        )
    return numbers


def read_encoding(path: Path, root: ElementTree.Element, number: int) -> tuple[Encoding, str]:
    """Return one encoding of a header, and a warning or nothing.

    Parameters
    ----------
    path
        For messages.
    root
        Of the header.
    number
        Of the encoding, from 0.

    Raises
    ------
    ValueError
        If it is missing, or its matrix or field of view is not three-dimensional or too large.
    """
    encodings = _find_all(root, "encoding")
    if number >= len(encodings):
        raise ValueError(
            f"{path}: the ISMRMRD header has no encoding {number}, to which readouts refer "
            f"('encoding_space_ref'); it has {len(encodings)}"
        )
    encoding, warning = encodings[number], ""
    encoded = _space(path, encoding, "encodedSpace")
    if _find_all(encoding, "reconSpace"):
        reconstructed = _space(path, encoding, "reconSpace")
    else:
        reconstructed = encoded
        warning = (
            "the raw file has no reconSpace: matrix and field of view are those of encodedSpace"
        )
    return Encoding(*reconstructed, *encoded, _trajectory_units(encoding)), warning


def _space(path: Path, encoding: ElementTree.Element, name: str) -> tuple[Any, Any]:
    matrix = _three(path, encoding, f"{name}/matrixSize")
    if not all(n == int(n) and 2 <= n <= 4096 for n in matrix):
        shown = " x ".join(f"{n:g}" for n in matrix)
        raise ValueError(
            f"{path}: matrixSize of {name} is {shown}; accepted: 2 to 4096 voxels along each axis"
        )
    voxels = int(np.prod(matrix))
    if voxels > MOST_VOXELS:
        raise ValueError(
            f"{path}: matrixSize of {name} has {voxels:.3g} voxels; accepted: up to "
            f"{MOST_VOXELS:.3g}"
        )
    fov = _three(path, encoding, f"{name}/fieldOfView_mm")
    if not all(10 <= edge <= 2000 for edge in fov):
        shown = " x ".join(f"{edge:g}" for edge in fov)
        raise ValueError(
            f"{path}: fieldOfView_mm of {name} is {shown}; accepted: 10 to 2000 mm along each axis"
        )
    return tuple(int(n) for n in matrix), tuple(edge * 1e-3 for edge in fov)


def _three(path: Path, encoding: ElementTree.Element, name: str) -> list[float]:
    values = [_numbers(path, encoding, f"{name}/{axis}") for axis in "xyz"]
    if any(len(value) != 1 for value in values):
        raise ValueError(f"{path}: {name} is missing from the ISMRMRD header; accepted: x, y, z")
    return [value[0] for value in values]


def _trajectory_units(encoding: ElementTree.Element) -> str | None:
    for parameter in _find_all(encoding, "trajectoryDescription/userParameterString"):
        name, value = (parameter.findtext(f"{{*}}{part}", "") for part in ("name", "value"))
        if name.strip() == "units":
            return value.strip() or None
    return None


def sort_readouts(path: Path, heads: Any) -> tuple[Integers, Integers, list[str]]:
    """Tell imaging readouts, noise readouts and the others apart.

    Parameters
    ----------
    path
        For messages.
    heads
        Of all readouts.

    Returns
    -------
    imaging, noise
        Their numbers in the file.
    notes
        How many readouts of what else were passed over.

    Raises
    ------
    ValueError
        If there is no imaging readout, or the samples are compressed.
    """
    flags = heads["flags"]
    other = np.zeros(len(heads), bool)
    counts = {}
    for name, bits in NOT_IMAGING.items():
        found = ((flags & bits) != 0) & ~other
        other |= found
        counts[name] = int(found.sum())
    noise = ((flags & NOISE) != 0) & ~other
    notes = [f"{count} {name}" for name, count in counts.items() if count]
    if noise.all() or (noise | other).all():
        found_text = ", ".join([f"{int(noise.sum())} noise", *notes])
        raise ValueError(
            f"{path}: no imaging readout among {len(heads)} ({found_text}); at least one is needed"
        )
    packed = np.flatnonzero(flags & COMPRESSED)
    if len(packed):
        raise ValueError(
            f"{path}: readout {packed[0]} is compressed (its flags say so); convert the raw data "
            "without compression"
        )
    return np.flatnonzero(~noise & ~other), np.flatnonzero(noise), notes


def check_equal(path: Path, heads: Any, rows: Integers, keys: Sequence[str]) -> None:
    """Check that numbers of the heads are the same in all readouts of one image.

    Parameters
    ----------
    path
        For messages.
    heads
        Of all readouts.
    rows
        The readouts of the image.
    keys
        Names of the numbers.

    Raises
    ------
    ValueError
        If one differs or is not finite; the message names the readout.
    """
    for key in keys:
        values = heads[key][rows].astype(np.float64).reshape(len(rows), -1)
        unusable = ~np.isfinite(values).all(axis=1)
        if unusable.any():
            i = int(np.argmax(unusable))
            raise ValueError(
                f"{path}: '{key}' of readout {rows[i]} is {_shown(values[i])}; accepted: finite "
                "numbers"
            )
        differs = ~(np.abs(values - values[0]).max(axis=1) <= 1e-3)
        if differs.any():
            i = int(np.argmax(differs))
            raise ValueError(
                f"{path}: '{key}' differs between the readouts of one image: readout {rows[i]} "
                f"has {_shown(values[i])}, readout {rows[0]} has {_shown(values[0])}; accepted: "
                "the same in all"
            )


def _shown(values: NDArray[np.float64]) -> str:
    texts = [f"{value:g}" for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
