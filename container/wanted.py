"""Print what the image needs of Python's packages, a line for each: wanted.py pyproject.toml."""

import sys
import tomllib
from pathlib import Path

VALIDATOR = "bids-validator-deno"  # optional elsewhere: datasets are validated where it is

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
extra = [need for need in project["optional-dependencies"]["tests"] if need.startswith(VALIDATOR)]
print(*project["dependencies"], *extra, sep="\n")
