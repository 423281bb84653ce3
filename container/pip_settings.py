"""Print what this machine's pip knows of indices and proxies, as a configuration file for a build.

Paths of this machine mean nothing inside: files and certificates are left out.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping

NAMES = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")


def settings(listed: str) -> dict[str, list[str]]:
    """Return the values of the settings that matter, from the answer of ``pip config list``."""
    found: dict[str, list[str]] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        parts = [part for part in ast.literal_eval(value).split() if not part.startswith("file:")]
        if name in NAMES and parts:
            found[name] = parts
    return found


def configuration(found: Mapping[str, list[str]]) -> str:
    """Return the text of a configuration file."""
    lines = [f"{name} = " + "\n    ".join(parts) for name, parts in found.items()]
    return "\n".join(["[global]", *lines])


if __name__ == "__main__":
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
    )
    print(configuration(settings(answer.stdout)))
