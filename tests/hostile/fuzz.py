"""Sound files with a few bytes changed: whatever comes of them, it is a number or a refusal."""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from corpus import KEYS, VIAL, acquisition, image_bytes, put
from readers import MOST_MEMORY, Outcome, try_case

from sodiumprep.interfaces.kspace import write_kspace

WORDS = (
    b"null", b"true", b"[]", b"{}", b"1e999", b"NaN", b"-1", b"1" * 400, b'"', b"\\ud800", b"\t",
    b"\n", b"\xff", b"\xef\xbb\xbf", b"nan", b"inf", b"<", b">", b"&a;", b"]]>", b"\0", b",", b"}",
)  # fmt: skip
RELAXATION = {"GM": {"T1": 0.037, "T2starLong": 0.02, "T2starShort": 0.003, "ShortFraction": 0.6}}
TABLE = "Name\tT1\tT2starLong\tSource\nGM\t0.037\t0.02\ta paper\nWM\t0.036\tn/a\t\n"
LABELS = "index\tname\ttissue\n1\tleft\tGM\n2\tright\tWM\n"
AGES = "participant_id\tage\tsex\nsub-01\t31.5\tF\nsub-02\tn/a\tM\n"
ITK = (
    "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
    "Parameters: 1 0 0 0 1 0 0 0 1 1 2 3\nFixedParameters: 0 0 0\n"
)
FILTERS = {"sodium": {"acquisition": "23Na", "run": [1, None]}, "anat": {"suffix": "T1w"}}


@cache
def seeds() -> dict[str, tuple[str, str, bytes]]:
    """Return reader, file name and sound content by name."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "a.h5"
        write_kspace(path, acquisition())
        raw = path.read_bytes()
    packed = gzip.compress(image_bytes(), mtime=0)
    return {
        "sidecar": ("protocol", "a.json", json.dumps(KEYS).encode()),
        "vials": ("vials", "a.json", json.dumps([VIAL, {**VIAL, "Position": [1, 2, 3]}]).encode()),
        "relaxation": ("relaxation", "a.json", json.dumps(RELAXATION).encode()),
        "relaxation table": ("relaxation", "a.tsv", TABLE.encode()),
        "filters": ("filters", "a.json", json.dumps(FILTERS).encode()),
        "labels": ("labels", "a.tsv", LABELS.encode()),
        "tissues": ("tissues", "a.tsv", LABELS.encode()),
        "ages": ("ages", "participants.tsv", AGES.encode()),
        "config": ("config", "a.toml", b'nprocs = 2\nrecon = "gridding"\npvc = ["gtm"]\n'),
        "transform": ("transform", "a.txt", ITK.encode()),
        "image": ("image", "a.nii", image_bytes()),
        "packed image": ("image", "a.nii.gz", packed),
        "raw data": ("kspace", "a.h5", raw),
    }


def mutate(content: bytes, rng: np.random.Generator, in_place: bool = False) -> bytes:
    """Return a content with one to four places changed."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(changed) + 1))
        kind = 5 * rng.integers(0, 2) if in_place else rng.integers(0, 6)
        end = at + int(rng.integers(1, 9))
        if kind == 0:
            changed[at:end] = rng.bytes(len(changed[at:end]))
        elif kind == 1:
            changed[at:at] = WORDS[rng.integers(0, len(WORDS))]
        elif kind == 2:
            changed[at:end] = WORDS[rng.integers(0, len(WORDS))]
        elif kind == 3:
            changed[at:end] = b""
        elif kind == 4:
            changed[at:at] = changed[max(0, at - 40) : at]
        elif at < len(changed):
            changed[at] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def fuzz(name: str, number: int, folder: Path) -> Outcome:
    """Try one mutation of a seed; its number alone decides which."""
    reader, file_name, content = seeds()[name]
    rng = np.random.default_rng([number, *name.encode()])
    in_place = reader == "kspace"  # where places are numbers, what is put in breaks all of them
    changed = mutate(content, rng, in_place)
    make: Callable[[Path], Path] = partial(put, name=file_name, content=changed)
    return try_case(reader, make, folder)


def is_bad(came: Outcome) -> bool:
    """Tell whether an outcome is no quick, small and traceless refusal or reading."""
    usual = came.kind in ("refused", "sound") and not came.strays
    return not usual or came.seconds > 1 or came.megabytes > MOST_MEMORY


def try_seed(name: str, folder: Path) -> Outcome:
    """Try a seed as it is."""
    reader, file_name, content = seeds()[name]
    return try_case(reader, partial(put, name=file_name, content=content), folder)


def main() -> int:
    """Fuzz each reader for as many seconds as the first argument says (20)."""
    budget, problems = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0, 0
    for name in seeds():
        counts: Counter[str] = Counter()
        end, number = time.monotonic() + budget, 0
        while time.monotonic() < end:
            with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
                warnings.simplefilter("error")
                came = fuzz(name, number, Path(place) / "0")
            counts[came.kind] += 1
            if is_bad(came):
                problems += 1
                print(f"{name} {number}: {came}"[:500])
            number += 1
        print(f"{name}: {dict(counts)}", flush=True)
    return min(problems, 1)


if __name__ == "__main__":
    sys.exit(main())
