"""What an ISMRMRD file may claim: looked at before anything of that size is made room for."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

import h5py
import numpy as np

from sodiumprep.interfaces.files import MIB

MOST_READOUTS = 2**21  # 30 000 readouts, 70 times
MOST_HEADER = 16 * MIB  # of XML
MOST_CHUNK = 256 * MIB  # that is unpacked at once
MOST_SHRUNK = 200  # bytes of the table that one byte of the file stands for
DEEPEST = 64  # elements of the header inside each other
LISTS = ("traj", "data")  # fields of a readout that are as long as it says
ROWS = 4096  # that are looked at at a time


def check_xml(data: bytes) -> None:
    """Refuse what no header needs: definitions, which may multiply a text, and deep nesting.

    Parameters
    ----------
    data
        The header.

    Raises
    ------
    ValueError
        If it holds such; if it is no XML, an error of the parser.
    """
    depth = 0

    def refuse(*_: object) -> None:
        raise ValueError("it has a DOCTYPE; accepted: elements and texts alone")

    def begin(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it nests elements more than {DEEPEST} deep")

    def end(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.Parse(data, True)


def what_is_too_large(header: h5py.Dataset, table: h5py.Dataset) -> str:
    """Return what the file declares that cannot be meant, before anything of it is read.

    Parameters
    ----------
    header, table
        Of the file.
    """
    for part in (header, table):
        if part.external or part.is_virtual:
            return f"'{part.name}' lies in other files; accepted: a file that holds its data"
    size = _header_size(header)
    if not 0 < size <= MOST_HEADER:
        return f"its header has {size:.3g} bytes; accepted: up to {MOST_HEADER / MIB:g} MiB"
    if table.ndim != 1 or table.size > MOST_READOUTS:
        return f"'dataset/data' has shape {table.shape}; accepted: up to {MOST_READOUTS} readouts"
    if table.chunks and table.chunks[0] * table.dtype.itemsize > MOST_CHUNK:
        return (
            f"its readouts are stored {table.chunks[0]} at a time; accepted: up to "
            f"{MOST_CHUNK / MIB:g} MiB of them"
        )
    needed, stored = table.size * table.dtype.itemsize, table.id.get_storage_size()
    if needed > stored * MOST_SHRUNK:
        return (
            f"declares {table.size} readouts, for which {stored} bytes are stored: they were "
            "never written, or packed more than any scan can be; convert the raw data again"
        )
    return _what_is_too_long(table)


def _what_is_too_long(table: h5py.Dataset) -> str:
    """Return what is wrong with the lengths that the readouts state.

    The library makes room for a length before it looks whether there are so many numbers. What
    they refer to is not packed, so that all together cannot be longer than the file.
    """
    names = table.dtype.names or ()
    if not set(LISTS) <= set(names):
        return ""  # the caller says what is missing
    fields = [table.dtype[name] for name in names if name not in LISTS]
    if any(field.hasobject for field in fields) or table.file.userblock_size:
        return "'dataset/data' is no ISMRMRD table: other fields than traj and data are lists"
    kind = table.id.get_type()
    size, claimed = kind.get_size(), 0
    places = [
        kind.get_member_offset(i)
        for i in range(kind.get_nmembers())
        if kind.get_member_type(i).get_class() == h5py.h5t.VLEN
    ]
    for block in _stored_rows(table, size):
        rows = np.frombuffer(block[: len(block) // size * size], np.uint8).reshape(-1, size)
        for place in places:
            lengths = np.ascontiguousarray(rows[:, place : place + 4]).view("<u4")
            claimed += 4 * int(lengths.sum(dtype=np.uint64))
    held = Path(table.file.filename).stat().st_size
    if claimed > held:
        return (
            f"damaged: its readouts state {claimed:.3g} bytes of numbers, the file has {held}; "
            "convert the raw data again"
        )
    return ""


def _stored_rows(table: h5py.Dataset, size: int) -> Iterator[bytes]:
    """Yield the rows as they are stored, without the lists that they refer to."""
    with Path(table.file.filename).open("rb") as plain:
        if table.chunks is None:
            place = table.id.get_offset()
            if place is None and table.size:
                raise ValueError("its readouts are stored inside of a header")
            plain.seek(place or 0)
            for start in range(0, table.size, ROWS):
                yield plain.read(size * min(ROWS, table.size - start))
            return
        plist = table.id.get_create_plist()
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if not set(filters) <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE,
                                h5py.h5z.FILTER_FLETCHER32}:  # fmt: skip
            raise ValueError("its readouts are packed by another method than gzip")
        found: list[Any] = []
        table.id.chunk_iter(found.append)
        for chunk in found:
            plain.seek(chunk.byte_offset)
            yield _unpacked(plain.read(chunk.size), filters, size * table.chunks[0], size)


def _unpacked(block: bytes, filters: Sequence[int], most: int, size: int) -> bytes:
    for kind in reversed(filters):
        if kind == h5py.h5z.FILTER_FLETCHER32:
            block = block[:-4]
        elif kind == h5py.h5z.FILTER_DEFLATE:
            block = zlib.decompressobj().decompress(block, most)
        else:
            block = np.frombuffer(block, np.uint8).reshape(size, -1).T.tobytes()
    return block


def _header_size(header: h5py.Dataset) -> int:
    """Return the bytes of the header; where they cannot be told those of the whole file."""
    if header.size != 1:
        return header.size * header.dtype.itemsize if header.size else 0
    if h5py.check_string_dtype(header.dtype) is None or header.dtype.kind == "S":
        return int(header.dtype.itemsize)
    place = header.id.get_offset()
    if place is None and header.chunks and header.compression is None:
        place = header.id.get_chunk_info(0).byte_offset
    if place is None:
        return Path(header.file.filename).stat().st_size
    with Path(header.file.filename).open(
        "rb"
    ) as plain:  # a text is stored as its length and place
        plain.seek(place)
        return int.from_bytes(plain.read(4), "little")
