"""Two subjects on a Slurm of one node: an array of jobs, a job for each node, the whole graph."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from sodiumprep.bids_app.settings import Settings

pytestmark = pytest.mark.slow
SUBJECTS = ("01", "02")
EDGE = 24  # voxels of 9 mm
VIALS = [
    {"Name": name, "SodiumConcentration": mmol, "T1": 0.05, "T2starLong": 0.05, "ShortFraction": 0}
    for name, mmol in (("low", 50), ("high", 100))
]
SIDECAR = {
    "ResonantNucleus": "23Na", "EchoTime": 0.0003, "RepetitionTime": 0.12, "FlipAngle": 90,
    "MagneticFieldStrength": 3, "ReadoutDuration": 0.01, "KspaceFilter": "none",
    "TrajectoryType": "density-adapted radial", "AcquisitionVoxelSize": [9, 9, 9],
    "NumberReceiveCoilActiveElements": 1, "CalibrationVials": VIALS,
}  # fmt: skip


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([9.0, 9, 9, 1])
    affine[:3, 3] = -9 * EDGE / 2
    nib.save(nib.Nifti1Image(values, affine), path)


def make_dataset(raw: Path) -> Path:
    """Write two sodium images with vials and a drawn region, and no anatomy: few nodes."""
    x, y, z = np.indices((EDGE,) * 3) - EDGE // 2
    labels = sum(
        n * ((x - s) ** 2 + (y + 8) ** 2 < 7) * (abs(z) < 7) for n, s in ((1, -5), (2, 5))
    )
    middle = (x**2 + y**2 + z**2 < 16).astype(np.uint8)
    for number, subject in enumerate(SUBJECTS, 1):
        noise = np.random.default_rng(number).normal(0, 0.2, labels.shape)
        image = 5.0 * labels + 4.0 * (x**2 + y**2 + z**2 < 25) + noise
        name = f"sub-{subject}/anat/sub-{subject}_acq-23Na"
        write(raw / f"{name}_PDw.nii.gz", np.abs(image).astype(np.float32))
        (raw / f"{name}_PDw.json").write_text(json.dumps(SIDECAR))
        drawn = raw / "derivatives/manual"
        write(drawn / f"{name}_desc-vials_dseg.nii.gz", labels.astype(np.uint8))
        write(drawn / f"{name}_desc-middle_mask.nii.gz", middle)
    about = {"Name": "tiny", "BIDSVersion": "1.10.0"}
    (raw / "dataset_description.json").write_text(json.dumps(about))
    return raw


HPC = Path(__file__).parents[2] / "docs/hpc"
COMMAND = str(Path(sys.executable).with_name("sodiumprep"))
PATIENCE = 400  # s
FAILING = """
import json, os, sys
from pathlib import Path
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow
from sodiumprep.bids_app.engine import execute
from sodiumprep.bids_app.settings import Settings

def first(folder):
    import json, os, pathlib
    pathlib.Path(folder, "environment.json").write_text(json.dumps(dict(os.environ)))
    return folder

def good(folder):
    return folder

def wrong(folder):
    raise ValueError("/raw/a.h5: readout 7 holds NaN")

def killed(folder):
    import os, time
    os.system("scancel $SLURM_JOB_ID")
    time.sleep(300)

def graph(**functions):
    whole = Workflow(name="sodiumprep_wf")
    begin = Node(Function(["folder"], ["folder"], first), name="begin", mem_gb=0.3, n_procs=1)
    begin.inputs.folder = sys.argv[1]
    for label, function in functions.items():
        subject = Workflow(name=f"sub_{label}_wf")
        step = Node(Function(["folder"], ["folder"], function), name="step", mem_gb=0.3, n_procs=1)
        after = Node(Function(["folder"], ["folder"], good), name="after", mem_gb=0.3, n_procs=1)
        subject.connect(step, "folder", after, "folder")
        whole.connect(begin, "folder", subject, "step.folder")
    return whole

if __name__ == "__main__":
    root, plugin = Path(sys.argv[1]), sys.argv[2]
    arguments = {"poll_seconds": 0.3, "sbatch_args": "--export=PYTHONPATH", "late_seconds": 3}
    settings = Settings(root / "raw", root / "out", root / "work", omp_nthreads=1,
                        random_seed=77, verbose=int(os.environ.get("VERBOSE", 0)),
                        nipype_plugin={"plugin": plugin, "plugin_args": arguments})
    found = execute(graph(a=good, b=wrong, c=killed), settings)
    (root / "found.json").write_text(json.dumps(found))
"""


def run(*arguments: object, **environment: str) -> str:
    """Run a command of the app to its end; return what it printed."""
    done = subprocess.run(
        [*map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def participant(raw: Path, name: str, *options: object) -> Path:
    out = raw.with_name(name)
    work = raw.with_name(f"work-{name}")
    ready = f"manual={raw / 'derivatives/manual'}"
    run(COMMAND, raw, out, "participant", "-w", work, "--skip-bids-validation", "-d", ready,
        *options)  # fmt: skip
    return out


def results(out: Path) -> dict[str, bytes]:
    """Return maps and tables, of subjects and of the group."""
    found = sorted([*out.rglob("sub-*/**/*.nii.gz"), *out.rglob("*_TSC.tsv")])
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("cluster") / "raw")


@pytest.fixture(scope="module")
def local(raw: Path) -> dict[str, bytes]:
    out = participant(raw, "local")
    run(COMMAND, raw, out, "group")
    held = results(out)
    assert "group_TSC.tsv" in held
    assert len([name for name in held if name.endswith("_seg-drawn_TSC.tsv")]) == len(SUBJECTS)
    return held


def wait_for_queue() -> None:
    end = time.monotonic() + PATIENCE
    while run("squeue", "-h").strip():
        assert time.monotonic() < end, run("squeue")
        time.sleep(0.5)


def test_an_array_of_jobs_and_a_group_job_after_it_give_what_a_local_run_gives(
    slurm: Path, raw: Path, local: dict[str, bytes]
) -> None:
    out, work = raw.with_name("array"), raw.with_name("work array")
    ready = f"manual={raw / 'derivatives/manual'}"
    told = run("bash", HPC / "submit_slurm.sh", raw, out, work, "-d", ready,
               SODIUMPREP=COMMAND, CPUS="1", MEM="2G", TIME="10")  # fmt: skip
    wait_for_queue()
    (said,) = work.glob("slurm-*/subject-*_2.out")
    assert told.startswith("2 subject(s): job ")
    assert "1 process at a time (SLURM_CPUS_PER_TASK), 2.1 GB of memory (SLURM_MEM" in (
        said.read_text()
    )
    assert results(out) == local


def test_more_subjects_than_an_array_may_have_are_several_arrays(
    slurm: Path, tmp_path: Path
) -> None:
    told = run("bash", HPC / "submit_slurm.sh", tmp_path, tmp_path / "out", tmp_path / "work",
               SODIUMPREP="echo", SUBJECTS="a b c", MOST="2", CPUS="1", MEM="100M")  # fmt: skip
    wait_for_queue()
    said = [path.read_text().split()[4] for path in (tmp_path / "work").glob("*/subject-*.out")]
    assert sorted(said) == ["a", "b", "c"]
    assert re.match(r"3 subject\(s\): job \d+ \d+; group level: job \d+;", told)
    (group,) = (tmp_path / "work").glob("*/group-*.out")
    assert group.read_text().endswith(" group\n")


@pytest.mark.parametrize("name", ["slurm", "slurmgraph"])
def test_a_job_for_each_node_gives_what_a_local_run_gives(
    slurm: Path, raw: Path, local: dict[str, bytes], name: str
) -> None:
    ready_made = yaml.safe_load((HPC / f"{name}.yml").read_text())
    ready_made["plugin_args"]["poll_seconds"] = 0.3
    plugin = raw.with_name(f"{name}.yml")
    plugin.write_text(yaml.safe_dump(ready_made))
    out = participant(raw, name, "--nipype-plugin-file", plugin)
    run(COMMAND, raw, out, "group")
    assert results(out) == local


@pytest.fixture(scope="module", params=["SLURM", "SLURMGraph"])
def failed(
    slurm: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Run a graph of three subjects, one of which fails and one is killed."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "script.py").write_text(FAILING)
    run(sys.executable, folder / "script.py", folder, request.param)
    return folder


def test_a_failing_and_a_killed_job_are_told_and_nothing_hangs(failed: Path) -> None:
    found = json.loads((failed / "found.json").read_text())
    assert set(found) == {"sub_b_wf", "sub_c_wf"}
    assert found["sub_b_wf"] == "/raw/a.h5: readout 7 holds NaN"
    assert "ended without a result" in found["sub_c_wf"]
    assert list(failed.rglob("sub_a_wf/after/result_after.pklz"))


def test_a_job_has_the_threads_and_the_seed_of_the_run(failed: Path) -> None:
    held = json.loads((failed / "environment.json").read_text())
    settings = Settings(failed, failed, failed, random_seed=77)
    assert settings.environment().items() <= held.items()


def test_a_job_asks_for_what_its_node_declares(failed: Path) -> None:
    held = json.loads((failed / "environment.json").read_text())
    assert held["SLURM_MEM_PER_NODE"] == "400"  # MB, of 0.3 GB
    assert held["SLURM_CPUS_PER_TASK"] == "1"
