"""Write docs/licences.md: all that requirements.lock names, under which licence, and what for.

Run in an environment of that file: ``make licences``. What a package states is read from its own
metadata; nothing is asked of a network.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/licences.md"
PERMISSIVE = {
    "0BSD", "AFL-2.1", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause",
    "BSD-3-Clause", "LicenseRef-IsmrmrdSoftwareLicense", "MIT", "MIT-CMU", "PSF-2.0",
    "Unlicense", "matplotlib",
}  # fmt: skip
# Weak copyleft on their own files: used as they are, as libraries of a library of ours. The
# sources of sodiumprep are not touched by it; who changes these packages shares the changes.
WEAK = {
    "certifi": "MPL-2.0, of requests (nipype)",
    "frozendict": "LGPL-3.0-only, of bidsschematools (pybids)",
    "num2words": "LGPL-2.1, of pybids",
    "tqdm": "MPL-2.0 AND MIT, of sigpy",
}
STATED = {  # where metadata hold the text of a licence, or say less than its file
    "ismrmrd": "LicenseRef-IsmrmrdSoftwareLicense",  # MIT with a clause against endorsement
    "matplotlib": "matplotlib",  # of its own, like PSF-2.0
    "num2words": "LGPL-2.1",
}
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "GNU Library or Lesser General Public License (LGPL)": "LGPL",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
HEAD = """\
# Licences of the dependencies

Written by `make licences` from the metadata of what `requirements.lock` names. sodiumprep itself
is Apache-2.0. *run* comes with `pip install sodiumprep` and lies in the container image,
*validate* lies in the image too, *test* and *lint* are tools of developers that run beside the
code and are not passed on.

What runs is permissive but for weak copyleft on the files of four packages, which come with
other packages and are used unchanged as libraries. Wheels also carry the runtime libraries of
GCC (libgomp, libgfortran: GPL with the runtime exception, which asks nothing of what uses them):
"""


def normal(name: str) -> str:
    """Return a name as package indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Return the versions of requirements.lock by name."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {normal(name): version for name, version in pairs}


def named() -> list[str]:
    """Return the names of what pyproject.toml asks for to run."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [Requirement(need).name for need in needs]


def licence_of(package: Distribution) -> str:
    """Return the licence that a package states."""
    metadata = package.metadata
    name = normal(metadata["Name"])
    if name in STATED:
        return STATED[name]
    if metadata.get("License-Expression"):
        return str(metadata["License-Expression"])
    text = (metadata.get("License") or "").strip()
    if re.fullmatch(r"(Apache|BSD|MIT|MPL|LGPL)[\w.+-]*( (AND|OR) [\w.-]+)*", text):
        return text
    kinds = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    return " AND ".join(CLASSIFIERS.get(kind, kind) for kind in kinds) or text or "not stated"


def needed_by(name: str, extra: str = "") -> set[str]:
    """Return all that a package needs here, directly or not."""
    needed: set[str] = set()
    waiting = [(name, extra)]
    while waiting:
        owner, wanted = waiting.pop()
        for text in distribution(owner).requires or []:
            need = Requirement(text)
            asked = need.marker is None or need.marker.evaluate({"extra": wanted})
            if asked and normal(need.name) not in needed:
                needed.add(normal(need.name))
                waiting.append((need.name, ""))
    return needed


def uses() -> dict[str, str]:
    """Return what each locked package is there for."""
    running, tested = needed_by("sodiumprep"), needed_by("sodiumprep", "tests")
    validating = {"bids-validator-deno"} | needed_by("bids-validator-deno")
    kinds = {"run": running, "validate": validating, "test": tested}
    return {
        name: next((kind for kind, names in kinds.items() if name in names), "lint")
        for name in locked()
    }


def page() -> str:
    """Return the page."""
    weak = "".join(f"- {name}: {text}\n" for name, text in WEAK.items())
    rows = ["| package | version | licence | for |", "|---|---|---|---|"]
    for name, use in uses().items():
        rows.append(f"| {name} | {locked()[name]} | {licence_of(distribution(name))} | {use} |")
    return f"{HEAD}\n{weak}\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT), file=sys.stderr)
