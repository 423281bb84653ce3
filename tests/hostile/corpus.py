"""Files from a stranger: what each of them is, and how it is made. Nothing here is random."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np

from sodiumprep.interfaces.kspace import write_kspace
from sodiumprep.sodium.acquisition import Acquisition, Geometry
from sodiumprep.sodium.trajectory import density_adapted_radial

REFUSED, SOUND, EITHER = "refused", "sound", "refused or sound"
NA = "sub-01/anat/sub-01_acq-23Na_PDw"
GIB = 2**30
KEYS = {
    "ResonantNucleus": "23Na",
    "EchoTime": 4e-4,
    "RepetitionTime": 0.12,
    "FlipAngle": 90,
    "MagneticFieldStrength": 3,
}
VIAL = {
    "Name": "saline",
    "SodiumConcentration": 50,
    "T1": 0.053,
    "T2starLong": 0.053,
    "ShortFraction": 0,
}
ODD_TEXTS = {
    "html": "<script>alert(1)</script>",
    "quotes": "\"'><img src=x onerror=alert(1)>",
    "tex": r"$\frac{1}{$ \input{/etc/passwd} %}",
    "jinja": "{{ 7*7 }}{% raw %}",
    "template": "%s %n {0} {name.__class__}",
    "formula": "=cmd|' /C calc'!A0",
    "path": "../../../../etc/passwd",
    "shell": "; rm -rf ~ $(id) `id`",
    "right to left": "\u202ecod.exe",
    "emoji": "\U0001f9e0",
    "combining": "a" + "\u0301" * 500,
    "long": "a" * 100_000,
}
CONTROL = {"newline": "a\nb", "tab": "a\tb", "null": "a\0b", "escape": "\x1b[2J", "nel": "a\x85b"}
NUMBERS = {
    "text": '"1"',
    "true": "true",
    "list": "[1]",
    "object": "{}",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "minus infinity": "-Infinity",
    "1e999": "1e999",
    "400 digits": "1" * 400,
    "5000 digits": "1" * 5000,
    "negative": "-1",
    "denormal": "5e-324",
    "huge": "1e308",
}


@dataclass(frozen=True)
class Case:
    """One hostile input: its name, who reads it, how it is made, and what must come of it."""

    name: str
    reader: str
    make: Callable[[Path], Path]
    expected: str = REFUSED


def image_bytes(version: int = 1, **fields: Any) -> bytes:
    """Return a NIfTI file of 4 x 4 x 4 voxels with fields of its header replaced."""
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    made = kind(np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4))
    plain = bytearray(made.to_bytes())
    kind_of_header = made.header.template_dtype
    raw = np.frombuffer(bytes(plain[: kind_of_header.itemsize]), kind_of_header).copy()
    for name, value in fields.items():
        raw[name] = value
    plain[: kind_of_header.itemsize] = raw.tobytes()
    return bytes(plain)


def put(folder: Path, name: str, content: bytes | str) -> Path:
    """Write a file and its folders."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _image(folder: Path, packed: bool, version: int = 1, **fields: Any) -> Path:
    content = image_bytes(version, **fields)
    if packed:
        return put(folder, "a.nii.gz", gzip.compress(content))
    return put(folder, "a.nii", content)


def _bomb(folder: Path, size: int, **fields: Any) -> Path:
    member = gzip.compress(bytes(2**24), 9)
    head = gzip.compress(image_bytes(**fields))
    return put(folder, "a.nii.gz", head + member * (size // 2**24))


def _sparse(folder: Path, name: str, size: int, begin: bytes = b"") -> Path:
    path = put(folder, name, begin)
    os.truncate(path, size)
    return path


def _pipe(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return folder / name


def _link(folder: Path, name: str, target: str) -> Path:
    (folder / name).symlink_to(target)
    return folder / name


def _folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _strange(name: str) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """Yield what is no plain file of this name."""
    yield "pipe", partial(_pipe, name=name)
    yield "dangling link", partial(_link, name=name, target="nowhere")
    yield "link to itself", partial(_link, name=name, target=name)
    yield "link to /dev/zero", partial(_link, name=name, target="/dev/zero")
    yield "folder", partial(_folder, name=name)
    yield "empty", partial(put, name=name, content=b"")
    yield "zeros", partial(put, name=name, content=bytes(5000))
    noise = np.random.default_rng(1).bytes(5000)
    yield "noise", partial(put, name=name, content=noise)


def images() -> Iterator[Case]:
    """Yield images whose header or data lie."""
    fields: dict[str, tuple[dict[str, Any], str]] = {
        "10^12 voxels": ({"dim": [3, 10000, 10000, 10000, 1, 1, 1, 1]}, REFUSED),
        "10^18 voxels": ({"dim": [4, 32767, 32767, 32767, 32767, 1, 1, 1]}, REFUSED),
        "1000^3 voxels": ({"dim": [3, 1000, 1000, 1000, 1, 1, 1, 1]}, REFUSED),
        "more than there are": ({"dim": [3, 5, 4, 4, 1, 1, 1, 1]}, REFUSED),
        "negative axis": ({"dim": [3, -4, -4, 4, 1, 1, 1, 1]}, REFUSED),
        "axis of zero": ({"dim": [3, 0, 4, 4, 1, 1, 1, 1]}, REFUSED),
        "no axis": ({"dim": [0, 4, 4, 4, 1, 1, 1, 1]}, REFUSED),
        "eight axes": ({"dim": [8, 4, 4, 4, 1, 1, 1, 1]}, EITHER),
        "minus one axes": ({"dim": [-1, 4, 4, 4, 1, 1, 1, 1]}, REFUSED),
        "one axis": ({"dim": [1, 64, 1, 1, 1, 1, 1, 1]}, REFUSED),
        "four axes": ({"dim": [4, 4, 4, 2, 2, 1, 1, 1]}, REFUSED),
        "offset infinite": ({"vox_offset": np.inf}, REFUSED),
        "offset nan": ({"vox_offset": np.nan}, REFUSED),
        "offset negative": ({"vox_offset": -1}, REFUSED),
        "offset 10^11": ({"vox_offset": 1e11}, REFUSED),
        "offset in the header": ({"vox_offset": 16}, REFUSED),
        "offset 0": ({"vox_offset": 0}, REFUSED),
        "slope nan": ({"scl_slope": np.nan}, EITHER),
        "slope infinite": ({"scl_slope": np.inf}, EITHER),
        "slope zero": ({"scl_slope": 0}, EITHER),
        "slope 1e38": ({"scl_slope": 1e38}, REFUSED),
        "intercept nan": ({"scl_slope": 1, "scl_inter": np.nan}, EITHER),
        "sform nan": ({"srow_x": np.nan}, REFUSED),
        "sform infinite": ({"srow_x": np.inf}, REFUSED),
        "sform zero": ({"srow_x": 0, "srow_y": 0, "srow_z": 0}, REFUSED),
        "sform singular": ({"srow_x": [0, 1, 0, 0]}, REFUSED),
        "pixdim nan": ({"pixdim": np.nan, "sform_code": 0, "qform_code": 1}, REFUSED),
        "pixdim zero": ({"pixdim": 0, "sform_code": 0, "qform_code": 1}, EITHER),
        "quaternion nan": ({"quatern_b": np.nan, "sform_code": 0, "qform_code": 1}, REFUSED),
        "quaternion of length 5": ({"quatern_b": 5, "sform_code": 0, "qform_code": 1}, REFUSED),
        "magic wrong": ({"magic": b"xxx"}, EITHER),
        "magic of a pair": ({"magic": b"ni1"}, EITHER),
        "size of the header 0": ({"sizeof_hdr": 0}, EITHER),
        "size of the header 540": ({"sizeof_hdr": 540}, REFUSED),
    }
    fields |= {
        f"type {code}": ({"datatype": code}, REFUSED) for code in (0, 1, 32, 128, 2304, 9999, -1)
    }
    fields |= {f"type {code}": ({"datatype": code}, REFUSED) for code in (1536, 1792, 1024)}
    for name, (changed, expected) in fields.items():
        for packed in (False, True):
            make = partial(_image, packed=packed, **changed)
            yield Case(f"image, {'packed, ' * packed}{name}", "image", make, expected)
    for shape in ([3, 10**4, 10**4, 10**4], [3, 2**62, 2, 2], [3, -(2**62), 4, 4]):
        dims = [*shape, 1, 1, 1, 1]
        yield Case(
            f"image, NIfTI-2 of {shape}",
            "image",
            partial(_image, packed=True, version=2, dim=dims),
        )
    yield from _packed_images()
    yield from _other_images()


def _packed_images() -> Iterator[Case]:
    wide = [3, 640, 640, 640, 1, 1, 1, 1]
    yield Case(
        "image, bomb before the voxels", "image", partial(_bomb, size=8 * GIB, vox_offset=7e9)
    )
    yield Case("image, bomb after the voxels", "image", partial(_bomb, size=8 * GIB), SOUND)
    yield Case("image, 640^3 in 400 bytes", "image", partial(_image, packed=True, dim=wide))
    whole = gzip.compress(image_bytes())
    for cut in (0, 5, 12, 40, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        yield Case(
            f"image, packed, cut at {cut}",
            "image",
            partial(put, name="a.nii.gz", content=whole[:cut]),
            EITHER,
        )
    for at in (12, 40, len(whole) // 2, len(whole) - 6):
        flipped = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        yield Case(
            f"image, packed, byte {at} flipped",
            "image",
            partial(put, name="a.nii.gz", content=flipped),
            EITHER,
        )
    twice = gzip.compress(whole)
    yield Case("image, packed twice", "image", partial(put, name="a.nii.gz", content=twice))
    yield Case(
        "image, not packed", "image", partial(put, name="a.nii.gz", content=image_bytes()), EITHER
    )


def _other_images() -> Iterator[Case]:
    plain = image_bytes()
    for cut in (3, 100, 347, 348, 351, 352, 400, len(plain) - 1):
        yield Case(
            f"image, cut at {cut}", "image", partial(put, name="a.nii", content=plain[:cut])
        )
    for size in (2**31 - 1, 2**31 - 16, 0, -16, 7):
        extension = b"\1\0\0\0" + struct.pack("<ii", size, 6) + plain[352:]
        yield Case(
            f"image, extension of {size}",
            "image",
            partial(put, name="a.nii", content=plain[:348] + extension),
            EITHER,
        )
    fills = {"NaN": np.nan, "infinite": np.inf, "zero": 0.0}
    for name, value in fills.items():
        content = plain[:352] + np.full(64, value, "<f4").tobytes()
        yield Case(
            f"image, all voxels {name}", "image", partial(put, name="a.nii", content=content)
        )
    for name in ("a.hdr", "a.txt", "a.h5", "a.PAR", "a.mnc", "a.gii"):
        yield Case(f"image called {name}", "image", partial(put, name=name, content=plain))
    mgh = struct.pack(">iiii", 1, 10**4, 10**4, 10**4) + bytes(268)
    yield Case("image, MGH of 10^12", "image", partial(put, name="a.mgh", content=mgh))
    yield Case(
        "image, MGZ of 10^12", "image", partial(put, name="a.mgz", content=gzip.compress(mgh))
    )
    for ending in ("nii", "nii.gz", "mgz"):
        for name, make in _strange(f"a.{ending}"):
            yield Case(f"image .{ending}, {name}", "image", make)


def acquisition() -> Acquisition:
    """Return a scan of few readouts of a blob."""
    geometry = Geometry(np.zeros(3), np.eye(3), (0.2, 0.2, 0.2), (4, 4, 4))
    trajectory = density_adapted_radial(24, 12, 10.0)
    radius = np.linalg.norm(trajectory, axis=-1)
    samples = np.exp(-((0.2 * radius) ** 2))[None].repeat(2, axis=0).astype(np.complex64)
    return Acquisition(samples, trajectory, 1e-5, 4e-4, 0.12, np.pi / 2, 3.0, geometry)


def _kspace(folder: Path, change: Callable[[h5py.File], None]) -> Path:
    path = folder / "a.h5"
    write_kspace(path, acquisition())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def _new_header(file: h5py.File, text: bytes | str | None = None, **how: Any) -> None:
    del file["dataset/xml"]
    if text is None:
        file.create_dataset("dataset/xml", **how)
        return
    content = text if isinstance(text, bytes) else text.encode()
    if b"\0" in content:
        file.create_dataset("dataset/xml", data=np.array([content], f"S{len(content)}"))
        return
    xml = file.create_dataset("dataset/xml", (1,), h5py.special_dtype(vlen=bytes))
    xml[0] = content


def _replaced(file: h5py.File, old: str, new: str) -> None:
    text = file["dataset/xml"][0].decode()
    assert old in text
    file["dataset/xml"][0] = text.replace(old, new, 1).encode()


def _new_table(file: h5py.File, **how: Any) -> None:
    kind = file["dataset/data"].dtype
    del file["dataset/data"]
    file.create_dataset("dataset/data", **{"dtype": kind, **how})


def _packed_table(file: h5py.File, rows: int) -> None:
    row = file["dataset/data"][:1]
    row["data"][0] = row["traj"][0] = np.zeros(0, np.float32)
    _new_table(file, shape=(rows,), chunks=(2**14,), compression="gzip", compression_opts=9)
    file["dataset/data"][: 2**14] = row.repeat(2**14)


def _head(file: h5py.File, **values: Any) -> None:
    table = file["dataset/data"][:]
    for name, value in values.items():
        table["head"][name] = value
    file["dataset/data"][:] = table


def _data(file: h5py.File, name: str, value: Any) -> None:
    table = file["dataset/data"][:]
    for row in range(len(table)):
        table[name][row] = np.asarray(value, np.float32)
    file["dataset/data"][:] = table


def _external(file: h5py.File, name: str) -> None:
    other = Path(file.filename).with_name("other.h5")
    write_kspace(other, acquisition())
    del file[name]
    file[name] = h5py.ExternalLink("other.h5", name)


def _soft(file: h5py.File, name: str, target: str) -> None:
    del file[name]
    file[name] = h5py.SoftLink(target)


def _virtual(file: h5py.File) -> None:
    kind = file["dataset/data"].dtype
    del file["dataset/data"]
    layout = h5py.VirtualLayout((3,), kind)
    layout[:] = h5py.VirtualSource("other.h5", "dataset/data", (3,), kind)
    file["dataset"].create_virtual_dataset("data", layout)


def kspace() -> Iterator[Case]:
    """Yield raw files whose header, table or links lie."""
    laughs = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
    laugh = f'<!DOCTYPE h [<!ENTITY a0 "ha">{laughs}]><h>&a9;</h>'
    outside = '<!DOCTYPE h [<!ENTITY x SYSTEM "file:///etc/passwd">]><h>&x;</h>'
    headers: dict[str, bytes | str] = {
        "entities": laugh,
        "entities in UTF-16": laugh.encode("utf-16"),
        "entity of a file": outside,
        "entity from the net": outside.replace("file:///etc/passwd", "http://127.0.0.1:9/x"),
        "deep": "<a>" * 100_000 + "</a>" * 100_000,
        "empty": "",
        "text": "hello",
        "null": b"\0" * 100,
        "no encoding": "<ismrmrdHeader/>",
        "cut": "<ismrmrdHeader><encoding>",
        "latin-1": "<h>\xe9</h>".encode("latin-1"),
        "17 MiB": "<h>" + " " * (17 * 2**20) + "</h>",
        "a million attributes": "<h " + " ".join(f'a{i}=""' for i in range(50_000)) + "/>",
        "unknown coding": '<?xml version="1.0" encoding="x-unknown"?><h/>',
    }
    changes: dict[str, Callable[[h5py.File], None]] = {
        f"header, {name}": partial(_new_header, text=text) for name, text in headers.items()
    }
    changes |= {
        "header of 10^9 texts": partial(
            _new_header, shape=(10**9,), dtype=h5py.special_dtype(vlen=bytes)
        ),
        "header of one text of 2 GB": partial(_new_header, shape=(1,), dtype="S2000000000"),
        "header of numbers": partial(_new_header, data=np.ones(3)),
        "header of nothing": partial(_new_header, data=h5py.Empty("f8")),
        "header of no text": partial(
            _new_header, shape=(0,), dtype=h5py.special_dtype(vlen=bytes)
        ),
        "10^12 readouts": partial(_new_table, shape=(10**12,), chunks=(256,)),
        "10^12 readouts that grow": partial(
            _new_table, shape=(10**12,), chunks=(1,), maxshape=(None,)
        ),
        "2 million readouts never written": partial(_new_table, shape=(2_000_000,), chunks=(256,)),
        "a chunk of 3 GB": partial(
            _new_table, shape=(10**7,), chunks=(8_000_000,), compression="gzip"
        ),
        "readouts packed 1000 times": partial(_packed_table, rows=2_000_000),
        "readouts in two axes": partial(_new_table, shape=(10**6, 10**6), chunks=(16, 16)),
        "one readout without axis": partial(_new_table, shape=()),
        "a table of numbers": partial(_new_table, shape=(3,), dtype="f4"),
        "a table of nothing": partial(_new_table, data=h5py.Empty("f4"), dtype=None),
        "no readout": partial(_new_table, shape=(0,), chunks=(8,), maxshape=(None,)),
        "readouts in another file": partial(_external, name="dataset/data"),
        "header in another file": partial(_external, name="dataset/xml"),
        "all in another file": partial(_external, name="dataset"),
        "link of the table to itself": partial(_soft, name="dataset/data", target="/dataset/data"),
        "link in circles": partial(_soft, name="dataset", target="/dataset/x"),
        "table elsewhere virtually": _virtual,
    }
    heads = {
        "number_of_samples": 65535,
        "active_channels": 65535,
        "trajectory_dimensions": 65535,
        "discard_pre": 65535,
        "discard_post": 65535,
        "center_sample": 65535,
        "encoding_space_ref": 65535,
        "sample_time_us": np.nan,
        "flags": 2**64 - 1,
        "position": np.inf,
        "read_dir": 0.0,
        "version": 65535,
        "available_channels": 0,
    }
    changes |= {f"head, {n} is {v}": partial(_head, **{n: v}) for n, v in heads.items()}
    for name in ("data", "traj"):
        for said, value in (
            ("none", []),
            ("one", [1.0]),
            ("nan", [np.nan] * 20),
            ("1e38", [1e38] * 20),
        ):
            changes[f"{name} of {said}"] = partial(_data, name=name, value=value)
    sizes = {
        "10^9": "1000000000",
        "negative": "-4",
        "text": "four",
        "infinite": "inf",
        "1e400": "1e400",
        "zero": "0",
        "empty": "",
    }
    for name, text in sizes.items():
        changes[f"matrix of {name}"] = partial(_replaced, old="<x>4</x>", new=f"<x>{text}</x>")
    loose = ("version", "available_channels", "center_sample", "latin-1", "link", "trajectory_dim")
    for name, change in changes.items():
        expected = EITHER if any(word in name for word in loose) else REFUSED
        yield Case(f"raw data, {name}", "kspace", partial(_kspace, change=change), expected)
    for name, make in _strange("a.h5"):
        yield Case(f"raw data, {name}", "kspace", make)
    signature = b"\x89HDF\r\n\x1a\n"
    yield Case("raw data, signature alone", "kspace", partial(put, name="a.h5", content=signature))
    yield Case(
        "raw data, 1 TB of nothing",
        "kspace",
        partial(_sparse, name="a.h5", size=10**12, begin=signature),
    )


def _texts(name: str, reader: str) -> Iterator[Case]:
    """Yield what is wrong with any text, whatever should stand in it."""
    for said, make in _strange(name):
        yield Case(f"{reader}, {said}", reader, make, EITHER if said == "empty" else REFUSED)
    yield Case(f"{reader}, 10 GB of nothing", reader, partial(_sparse, name=name, size=10 * GIB))
    yield Case(f"{reader}, UTF-16", reader, partial(put, name=name, content="{}".encode("utf-16")))


def _json(reader: str, texts: dict[str, str], expected: str = REFUSED) -> Iterator[Case]:
    for name, text in texts.items():
        yield Case(
            f"{reader}, {name}", reader, partial(put, name="a.json", content=text), expected
        )


def sidecars() -> Iterator[Case]:
    """Yield sidecars, lists of vials, relaxation files and filters that lie."""
    deep = {
        "lists in lists": "[" * 200_000,
        "lists in lists, closed": "[" * 200_000 + "]" * 200_000,
        "objects in objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "text alone": '"a"',
        "null alone": "null",
        "number alone": "1",
        "cut": '{"EchoTime": ',
        "half a character": json.dumps({"EchoTime": "\ud800"}),
        "control": '{"a": "\n"}',
    }
    for reader in ("protocol", "vials", "relaxation", "filters"):
        yield from _texts("a.json", reader)
        yield from _json(reader, deep)
    for key in ("EchoTime", "RepetitionTime", "FlipAngle"):
        for said, number in NUMBERS.items():
            text = json.dumps({**KEYS, key: "#"}).replace('"#"', number)
            yield from _json("protocol", {f"{key} is {said}": text})
    for said, number in NUMBERS.items():
        vial = json.dumps([{**VIAL, "SodiumConcentration": "#"}]).replace('"#"', number)
        row = json.dumps({"GM": {"T1": "#"}}).replace('"#"', number)
        yield from _json("vials", {f"concentration is {said}": vial})
        yield from _json("relaxation", {f"T1 is {said}": row})
    odd = {name: json.dumps([{**VIAL, "Name": text}]) for name, text in ODD_TEXTS.items()}
    yield from _json("vials", {f"name with {name}": text for name, text in odd.items()}, EITHER)
    bad = {f"name with {name}": json.dumps([{**VIAL, "Name": t}]) for name, t in CONTROL.items()}
    yield from _json("vials", bad)
    positions = ([1, 2], [1, 2, "x"], [1, 2, None], "abc", [[1], 2, 3], {"x": 1})
    yield from _json(
        "vials", {f"at {p}": json.dumps([{**VIAL, "Position": p}]) for p in positions}
    )
    many = json.dumps([VIAL] * 20_000)
    yield from _json("vials", {"20 000 of them": many}, EITHER)
    yield from _json("filters", {"an unknown group": '{"../..": {}}', "a list": '{"sodium": [1]}'})
    yield from _json("relaxation", {"odd name": json.dumps({"a\nb": {"T1": 0.03}})})


def tables() -> Iterator[Case]:
    """Yield tables of labels, of participants and of relaxation that lie."""
    wide = "a" * 200_000
    labels = {
        "no columns": "a\tb\n1\t2\n",
        "text for a number": "index\tname\nx\ta\n",
        "infinite": "index\tname\ninf\ta\n",
        "nan": "index\tname\nnan\ta\n",
        "short row": "index\tname\n\n1\n",
        "wide cell": f'index\tname\n1\t"{wide}"\n',
        "quote that never ends": 'index\tname\n1\t"' + "a\n" * 200_000,
        "1e400": "index\tname\n1e400\ta\n",
    }
    for reader in ("labels", "tissues"):
        yield from _texts("a.tsv", reader)
        for name, text in labels.items():
            yield Case(
                f"{reader}, {name}", reader, partial(put, name="a.tsv", content=text), EITHER
            )
    for name, text in ODD_TEXTS.items():
        content = f"index\tname\n1\t{text}\n"
        yield Case(
            f"labels, {name}", "labels", partial(put, name="a.tsv", content=content), EITHER
        )
    yield from _texts("participants.tsv", "ages")
    for age in (
        "nan",
        "inf",
        "1e400",
        "-1",
        "\uff11\uff12",
        "1" * 5000,
        "",
        "0x10",
        "1_000",
        wide,
        '"' + wide,
    ):
        content = f"participant_id\tage\nsub-01\t{age}\n"
        yield Case(
            f"ages, {age[:12]!a} of {len(age)}",
            "ages",
            partial(put, name="participants.tsv", content=content),
            EITHER,
        )
    for name, text in {
        "wide": wide,
        "twice": "Name\tT1\tT1\nGM\t1\t2\n",
        "no name": "T1\n1\n",
        "nan": "Name\tT1\nGM\tnan\n",
    }.items():
        yield Case(
            f"relaxation table, {name}", "relaxation", partial(put, name="a.tsv", content=text)
        )


def configurations() -> Iterator[Case]:
    """Yield configuration files that lie."""
    yield from _texts("a.toml", "config")
    texts = {
        "deep": "a = " + "[" * 100_000 + "]" * 100_000,
        "unknown option": 'shell = "rm"',
        "help": "help = true",
        "itself": 'config-file = "a.toml"',
        "a table": "[nprocs]\na = 1\n",
        "date": "nprocs = 1979-05-27",
        "negative": "nprocs = -1",
        "infinite": "nprocs = inf",
        "huge": "nprocs = 1" + "0" * 30,
        "option in a name": '"nprocs=1 --force" = "x"',
        "newline in a value": 'recon = "a\\nb"',
    }
    for name, text in texts.items():
        yield Case(
            f"config, {name}",
            "config",
            partial(put, name="a.toml", content=text),
            EITHER if name == "huge" else REFUSED,
        )


def _transform_h5(folder: Path, change: Callable[[h5py.File], None]) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        change(file)
    return folder / "a.h5"


def transforms() -> Iterator[Case]:
    """Yield transforms that lie."""
    for ending in ("txt", "mat", "h5"):
        for name, make in _strange(f"a.{ending}"):
            yield Case(f"transform .{ending}, {name}", "transform", make)
    matrix = struct.pack("<iiiii", 0, 2**31 - 1, 2**31 - 1, 0, 2) + b"a\0"
    yield Case("transform .mat of 10^18", "transform", partial(put, name="a.mat", content=matrix))
    yield Case(
        "transform .txt of 10 GB", "transform", partial(_sparse, name="a.txt", size=10 * GIB)
    )
    changes: dict[str, Callable[[h5py.File], None]] = {
        "no group": lambda file: None,
        "a data set": lambda file: file.create_dataset("TransformGroup", data=np.ones(3)),
        "numbers for a type": lambda file: file.create_dataset(
            "TransformGroup/0/TransformType", data=[1]
        ),
        "10^9 types": lambda file: file.create_dataset(
            "TransformGroup/0/TransformType", (10**9,), "S20"
        ),
        "a group for a type": lambda file: file.create_group("TransformGroup/0/TransformType"),
    }
    for name, change in changes.items():
        yield Case(f"transform .h5, {name}", "transform", partial(_transform_h5, change=change))


def dataset(folder: Path) -> Path:
    """Write a small sound dataset: one subject, sodium image and T1w image."""
    put(folder, "dataset_description.json", '{"Name": "a", "BIDSVersion": "1.10.0"}')
    put(folder, f"{NA}.nii.gz", gzip.compress(image_bytes()))
    put(folder, f"{NA}.json", json.dumps(KEYS))
    put(folder, "sub-01/anat/sub-01_T1w.nii.gz", gzip.compress(image_bytes()))
    put(folder, "sub-01/anat/sub-01_T1w.json", '{"ResonantNucleus": "1H"}')
    return folder


def _with_file(folder: Path, name: str, content: bytes | str) -> Path:
    put(dataset(folder), name, content)
    return folder


def _with_keys(folder: Path, **keys: Any) -> Path:
    return _with_file(folder, f"{NA}.json", json.dumps({**KEYS, **keys}))


def _with_link(folder: Path, name: str, target: str) -> Path:
    path = dataset(folder) / name
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    return folder


def _with_pipe(folder: Path, name: str) -> Path:
    path = dataset(folder) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return folder


def _with_circles(folder: Path) -> Path:
    for name in ("one", "two", "three"):
        (dataset(folder) / "sub-01/anat" / name).symlink_to("..")
        (folder / f"sub-01/{name}").symlink_to("..")
    return folder


def datasets() -> Iterator[Case]:
    """Yield whole datasets that lie."""
    yield Case("dataset, sound", "dry run", dataset, SOUND)
    phantom = {"SodiumConcentration": 50, "T1": 0.05, "T2starLong": 0.05, "ShortFraction": 0}
    for uri in (
        "bids::../../etc/passwd",
        "bids::/etc/passwd",
        "bids:other:x",
        "/etc/passwd",
        "bids::.",
        "file:///etc/passwd",
        "bids::a\0b",
        "bids::" + "a/" * 3000,
        5,
    ):
        make = partial(_with_keys, CalibrationPhantom={**phantom, "Image": uri})
        yield Case(f"dataset, phantom in {str(uri)[:20]!r}", "dry run", make)
    for name, text in {**ODD_TEXTS, **CONTROL}.items():
        make = partial(_with_keys, Manufacturer=text, CalibrationVials=[{**VIAL, "Name": text}])
        yield Case(f"dataset, texts with {name}", "dry run", make, EITHER)
    for target in ("../../../../etc/passwd", ["bids::../x"], 5, {"a": 1}, "a\0b"):
        make = partial(_with_keys, IntendedFor=target)
        yield Case(f"dataset, IntendedFor {target!r}", "dry run", make, EITHER)
    for name in (f"{NA}.json", f"{NA}.nii.gz", "T1w.json", "participants.json"):
        for target in ("nowhere", Path(name).name, "/dev/zero", "/etc", "/proc/self/mem"):
            make = partial(_with_link, name=name, target=target)
            yield Case(f"dataset, {name} is a link to {target}", "dry run", make, EITHER)
        yield Case(f"dataset, {name} is a pipe", "dry run", partial(_with_pipe, name=name), EITHER)
    yield Case("dataset, folders in circles", "dry run", _with_circles, EITHER)
    files: dict[str, tuple[str, bytes | str]] = {
        "deep sidecar": (f"{NA}.json", "[" * 200_000),
        "deep description": ("dataset_description.json", "[" * 200_000),
        "list for a sidecar": (f"{NA}.json", "[]"),
        "half a character": (f"{NA}.json", json.dumps({**KEYS, "a": "\ud800"})),
        "10^12 voxels": (
            f"{NA}.nii.gz",
            gzip.compress(image_bytes(dim=[3, 10**4, 10**4, 10**4, 1, 1, 1, 1])),
        ),
        "bomb": (f"{NA}.nii.gz", gzip.compress(image_bytes(vox_offset=1e10))),
        "name of HTML": (
            "sub-01/anat/sub-01_acq-23Na<img src=x>_PDw.nii.gz",
            gzip.compress(image_bytes()),
        ),
        "name with a newline": (
            "sub-01/anat/sub-01_acq-23Na\n_PDw.nii.gz",
            gzip.compress(image_bytes()),
        ),
        "name that is no UTF-8": (
            os.fsdecode(b"sub-01/anat/sub-01_acq-\xff_T1w.nii.gz"),
            gzip.compress(image_bytes()),
        ),
        "subject of odd letters": ("sub-\u202e/anat/sub-\u202e_T1w.nii.gz", b""),
        "raw data of noise": ("sourcedata/" + NA + ".h5", np.random.default_rng(2).bytes(3000)),
    }
    for name, (path, content) in files.items():
        yield Case(
            f"dataset, {name}", "dry run", partial(_with_file, name=path, content=content), EITHER
        )


def corpus() -> list[Case]:
    """Return all cases; their names differ."""
    makers = (images, kspace, sidecars, tables, configurations, transforms, datasets)
    return [case for make in makers for case in make()]
