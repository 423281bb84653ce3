"""The page of licences is current, and what runs may be used by everybody."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = runpy.run_path(str(ROOT / "tests/dependencies/licences.py"))
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/licences.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| package")
]


def test_the_page_lists_what_is_locked():
    assert {row[0]: row[1] for row in ROWS} == RULES["locked"](), "make licences"


@pytest.mark.parametrize("row", [row for row in ROWS if row[3] in ("run", "validate")], ids=str)
def test_what_runs_is_permissive_or_an_exception_that_the_page_explains(row):
    parts = {part.strip("() ") for part in re.split(" AND ", row[2])}
    allowed = all({*part.split(" OR ")} & RULES["PERMISSIVE"] for part in parts)
    assert allowed or row[0] in RULES["WEAK"]


def test_no_exception_is_explained_that_is_none():
    running = {row[0] for row in ROWS if row[3] == "run" and row[2] not in RULES["PERMISSIVE"]}
    assert {*RULES["WEAK"]} <= running


def test_direct_dependencies_need_no_exception():
    direct = {RULES["normal"](name) for name in RULES["named"]()}
    assert len(direct) > 10
    unchanged = {"tqdm"}  # which is all that MPL asks
    assert direct & {*RULES["WEAK"]} <= unchanged


@pytest.mark.parametrize("name", ["numpy", "num2words", "hopeful_name"])
def test_names_are_compared_as_indices_do(name):
    assert RULES["normal"](name.upper().replace("_", ".")) == name.replace("_", "-")
