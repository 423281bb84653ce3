"""The image, built without an engine, works for any user, read-only and without a network.

Not collected by ``make test``: ``make test-container`` names this file, ``.ci/run`` all
``check_*.py``. It takes root, buildah and debootstrap, and says so where they are missing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sodiumprep.bids_app.self_test import coarsen

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BUILT = "SODIUMPREP_IMAGE"  # environment variable: an image of the store that is built already
TAG = os.environ.get(BUILT, "sodiumprep:checked")
STRANGER = 54321  # no such user anywhere


def call(*command: object, environment: dict[str, str] | None = None):
    texts = [str(part) for part in command]
    return subprocess.run(
        texts, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **(environment or {})}
    )


@pytest.fixture(scope="module")
def image():
    if call("unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "true").returncode:
        pytest.skip("namespaces, in which the image runs, are not permitted here")
    if BUILT in os.environ:
        return TAG
    built = call(ROOT / "container/build.sh", TAG)
    if built.returncode == 3:
        pytest.skip(built.stderr.strip())
    assert built.returncode == 0, built.stderr
    print(built.stdout)
    return TAG


@pytest.fixture(scope="module")
def inside(image):
    def run(*command: object, options: tuple[object, ...] = ()):
        return call(ROOT / "container/run.sh", image, *options, "--", *command)

    return run


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Simulate a head with a coarse anatomy, for a stranger to read and not to write."""
    folder = tmp_path_factory.mktemp("raw") / "bids"
    code = "import sys; from sodiumprep.bids_app.phantom import main; sys.exit(main())"
    options = ["--subjects", 1, "--coils", 1, "--spokes", 1000, "--voxel-size", 6, "--seed", 4]
    assert call(sys.executable, "-c", code, folder, *options).returncode == 0
    for part in ("sub-01", "derivatives/anat/sub-01"):
        for path in (folder / part).rglob("*.nii.gz"):
            coarsen(path)
    for path in (*folder.parents[:2], folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def test_the_self_test_passes_for_a_stranger_without_network_or_writable_root(inside):
    done = inside("sodiumprep", "--self-test")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert f"user {STRANGER}" in done.stdout


def test_a_stranger_processes_a_head_without_a_writable_tmp_and_a_group(inside, raw, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    options = ("-v", f"{raw}:/data:ro", "-v", f"{out}:/out")
    ready = ["-d", "anat=/data/derivatives/anat", "manual=/data/derivatives/manual"]
    engine = ["--sloppy", "--nprocs", 2, "--na2anat-init", "header", "-w", "/out/work"]
    level = [*ready, *engine, "--participant-label", "01"]
    participant = ("env", "-u", "HOME", "sodiumprep", "/data", "/out/done", "participant", *level)
    done = inside(*participant, options=("--no-tmp", *options))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not validated" not in done.stderr
    told = json.loads((out / "done/dataset_description.json").read_text())["GeneratedBy"][0]
    assert told["Container"]["Tag"] == TAG
    assert (out / "done/sub-01.html").stat().st_uid == STRANGER
    done = inside("sodiumprep", "/data", "/out/done", "group", options=options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "done/group.html").is_file()


def test_the_other_commands_start_for_a_stranger(inside):
    for command in ("sodiumprep-phantom", "sodiumprep-pvc", "sodiumprep-trajectory"):
        done = inside(command, "--help")
        assert (done.returncode, done.stderr) == (0, "")


def test_no_network_is_there_to_be_asked(inside):
    code = "import socket; print(socket.if_nameindex()); socket.create_connection(('1.1.1.1', 80))"
    done = inside("python", "-c", code)
    assert "Network is unreachable" in done.stderr


def test_the_root_cannot_be_written(inside):
    assert "Read-only file system" in inside("touch", "/opt/here", options=("--user", 0)).stderr


def test_the_image_holds_what_is_locked_and_nothing_else(inside):
    code = (
        "from importlib.metadata import distributions as d;"
        "print(*(f'{x.name}=={x.version}' for x in d()), sep='\\n')"
    )
    held = {line.lower().replace("_", "-") for line in inside("python", "-c", code).stdout.split()}
    lines = (ROOT / "requirements.lock").read_text().lower().replace("_", "-").splitlines()
    assert {line for line in held if not line.startswith("sodiumprep==")} <= set(lines)
    names = {line.partition("==")[0] for line in held}
    assert {"sodiumprep", "antspyx", "bids-validator-deno"} <= names
    assert not {"pip", "setuptools", "pytest", "mypy", "ruff"} & names


def test_the_image_holds_no_compiler_lists_or_caches(inside):
    script = "for program in gcc cc g++ make pip curl git; do command -v $program; done"
    assert inside("bash", "-c", script).stdout == ""
    script = "cd /var/lib/apt/lists && ls -A; ls -A /home/sodiumprep /var/cache"
    assert not re.search(r"Packages|\.cache|\bapt\b", inside("bash", "-c", script).stdout)


def test_what_the_build_was_told_of_mirrors_stays_outside(inside):
    paths = "/etc/pip.conf /etc/apt/*.d/*build* /etc/ssl/certs/ca-certificates.crt"
    done = inside("bash", "-c", f"cat {paths} /etc/apt/sources.list", options=("--user", 0))
    assert done.stdout == "deb http://deb.debian.org/debian bookworm main\n"


def test_the_image_is_labelled_and_runs_as_nobody_special(image):
    store = Path(os.environ.get("STORE", ROOT / "build/container")).resolve()
    place = ["--root", store / "images", "--runroot", store / "run", "--storage-driver", "vfs"]
    answer = call("buildah", *place, "inspect", "--type", "image", image)
    config = json.loads(answer.stdout)["OCIv1"]["config"]
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"] == ["sodiumprep"]
    labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items()}
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["revision"])
