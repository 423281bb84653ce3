"""What is installed is what lies in the tree; what each floor imports lies below it."""

import ast
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("bids_app", "workflows", "interfaces", "sodium")


def _tree():
    files = [path for floor in FLOORS for path in (ROOT / floor).rglob("*") if path.is_file()]
    wanted = [path for path in files if "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in wanted}


def _installed():
    packed = [file for found in distributions(name="sodiumprep") for file in found.files or ()]
    files = [file for file in packed if "__pycache__" not in file.parts]
    inside = [file for file in files if file.parts[0] == "sodiumprep"]
    return {"/".join(file.parts[1:]): file.locate().read_bytes() for file in inside}


def test_the_installed_package_holds_every_file_of_the_tree_unchanged():
    installed, tree = _installed(), _tree()
    if not installed:
        pytest.skip("editable install: nothing is packed")
    assert set(installed) == set(tree)
    assert [name for name in tree if installed[name] != tree[name]] == []


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_run_downward_only(floor):
    above = FLOORS[: FLOORS.index(floor)]
    found = [
        (path.name, name)
        for path in (ROOT / floor).glob("**/*.py")
        for name in _imported(path)
        if name.startswith(tuple(f"sodiumprep.{upper}" for upper in above))
    ]
    assert found == []


def _imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
