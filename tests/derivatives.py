"""What an output folder must keep to: the page on outputs, the validator, sidecars, headers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

PAGE = Path(__file__).parents[1] / "docs/outputs.md"
FOLDER = "sub-<label>/[ses-<label>/]anat/sub-<label>[_ses-<label>]"
SODIUM = "acq-23Na<label>[_rec-<method>][_run-<n>]"
WITH_SIDECAR = (".nii.gz", ".tsv", ".txt", ".<ext>")


class Line(NamedTuple):
    pattern: str
    when: str
    regex: re.Pattern[str]


def read_page() -> list[Line]:
    """Return the lines of the page; names below a subject stand for their sidecars too."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE)
    return [Line(name, when, _regex(name)) for name, when in rows]


def _regex(name: str) -> re.Pattern[str]:
    full = name.replace("…", FOLDER).replace("<na>", SODIUM)
    if name.startswith("…"):
        ending = next((e for e in WITH_SIDECAR if full.endswith(e)), "")
        stem = full.removesuffix(ending)
        full = f"{stem}{{{ending},.json}}" if ending else full
    return re.compile(_escaped(full))


def _escaped(text: str) -> str:
    """Return a regular expression for a pattern of the page."""
    parts = re.split(r"(<\w+>|\[|\]|\{[^}]*\})", text)
    return "".join(_part(part) for part in parts)


def _part(part: str) -> str:
    if part in "[]":
        return {"[": "(?:", "]": ")?", "": ""}[part]
    if part == "<label>":
        return "[a-zA-Z0-9]*"
    if part == "<x>":
        return ".*"
    if part == "<ext>":
        return r"[a-z0-9.]+"
    if part.startswith("<"):
        return r"[a-zA-Z0-9+-]+?"
    if part.startswith("{"):
        choices = part[1:-1].split(",")
        return f"(?:{'|'.join(_escaped(choice) for choice in choices)})"
    return re.escape(part)


def unexplained(names: list[str]) -> list[str]:
    """Return the names, relative to OUT_DIR, that no line of the page explains."""
    lines = read_page()
    return [name for name in names if not any(line.regex.fullmatch(name) for line in lines)]


def missing(names: list[str], *conditions: str) -> list[str]:
    """Return the lines that hold always, or under a condition, and match no name."""
    wanted = [line for line in read_page() if line.when in ("always", *conditions)]
    return [
        line.pattern for line in wanted if not any(line.regex.fullmatch(name) for name in names)
    ]


def written(out_dir: Path) -> list[str]:
    """Return the names of all files of a folder, relative to it."""
    files = (path for path in out_dir.rglob("*") if path.is_file())
    return sorted(path.relative_to(out_dir).as_posix() for path in files)


def validator_errors(folder: Path) -> list[str] | None:
    """Return the errors of the official validator; None where it is not installed."""
    command = Path(sys.executable).with_name("bids-validator-deno")
    if not command.exists():
        return None
    told = subprocess.run(
        [command, str(folder), "--format", "json"], capture_output=True, text=True, check=False
    )
    issues = json.loads(told.stdout)["issues"]["issues"]
    return [f"{i['code']} {i['location']}" for i in issues if i["severity"] == "error"]


def sidecar_faults(out_dir: Path) -> list[str]:
    """Return what sidecars lack, and sources that do not lead to a file."""
    description = json.loads((out_dir / "dataset_description.json").read_text())
    roots = {name: out_dir / target for name, target in description["DatasetLinks"].items()}
    faults = []
    for path in sorted(out_dir.glob("sub-*/**/anat/*.json")):
        held = json.loads(path.read_text())
        wanted = ["Description", "Units", "Sources", "SoftwareVersion", "RandomSeed"]
        if path.name.endswith("_metrics.json"):
            wanted.remove("Units")
        faults += [f"{path.name}: no {key}" for key in wanted if key not in held]
        faults += [f"{path.name}: {uri}" for uri in held.get("Sources", []) if not _leads(uri, {
            "": out_dir, **roots})]  # fmt: skip
    return faults


def _leads(uri: str, roots: dict[str, Path]) -> bool:
    kind, _, rest = uri.partition(":")
    name, _, place = rest.partition(":")
    return kind == "bids" and name in roots and (roots[name] / place).is_file()


def without_sidecar(out_dir: Path) -> list[str]:
    """Return the images, tables and transforms without a sidecar or data dictionary."""
    files = [
        path for path in written(out_dir) if path.endswith((".nii.gz", ".tsv", ".h5", ".txt"))
    ]
    alone = (path for path in files if not path.startswith("logs/"))
    return [p for p in alone if not (out_dir / (p.split(".", 1)[0] + ".json")).is_file()]


def undescribed_columns(out_dir: Path) -> list[str]:
    """Return the columns of all tables that their dictionary does not describe."""
    found = []
    for path in sorted(set(out_dir.rglob("*.tsv")) - set(out_dir.glob("logs/**/*"))):
        columns = path.read_text().split("\n", 1)[0].split("\t")
        known = json.loads(path.with_suffix(".json").read_text())
        found += [f"{path.name}: {c}" for c in columns if not known.get(c, {}).get("Description")]
    return found


def header_faults(path: Path) -> list[str]:
    """Return what is wrong with the header of an image."""
    image: Any = nib.load(path)
    wanted = "ui" if path.name.endswith(("_mask.nii.gz", "dseg.nii.gz")) else "f"
    kind, head = image.get_data_dtype(), image.header
    checks = {
        "type": kind.kind in wanted and (kind.kind != "f" or kind.itemsize == 4),
        "codes": (int(head["sform_code"]), int(head["qform_code"])) == (1, 1),
        "affines": np.allclose(image.get_sform(), image.get_qform(), atol=1e-4),
        "unit": head.get_xyzt_units()[0] == "mm",
        "gzip header": path.read_bytes()[3:8] == bytes(5),  # no name, no time
    }
    return [f"{path.name}: {name}" for name, right in checks.items() if not right]
