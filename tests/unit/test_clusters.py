"""What a batch system is told for each node, and what its jobs find in their environment."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow

from sodiumprep.bids_app import clusters
from sodiumprep.bids_app.cli import main
from sodiumprep.bids_app.clusters import SlurmQueue, batch_plugin, is_batch
from sodiumprep.bids_app.engine import execute
from sodiumprep.bids_app.settings import Settings

HPC = Path(__file__).parents[2] / "docs/hpc"
SETTINGS = Settings(Path("/raw"), Path("/out"), Path("/shared/work"), omp_nthreads=2)
# a batch system that runs a job at once: qsub tells a number, qstat knows no job any more
QSUB = (
    '#!/bin/sh\nfor job; do :; done\necho "$@" >> "$LOGGED"\n/bin/bash "$job" >&2\necho 7.host\n'
)
QSTAT = '#!/bin/sh\necho "Unknown Job Id" >&2\nexit 1\n'


def double(x):
    import os

    if x == 3:
        raise ValueError("3 is not accepted")
    return [2 * x, os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"]]


def graph(x=1):
    whole, subject = Workflow(name="sodiumprep_wf"), Workflow(name="sub_01_wf")
    step = Node(Function(["x"], ["y"], double), name="step", mem_gb=1.1, n_procs=2)
    step.inputs.x = x
    subject.add_nodes([step])
    whole.add_nodes([subject])
    whole.config["execution"] = {}
    return whole


def plugin(name, settings=SETTINGS, whole=None, **arguments):
    chosen = replace(settings, nipype_plugin={"plugin": name, "plugin_args": arguments})
    return batch_plugin(whole or graph(), chosen)


def asked(name, **arguments):
    whole = graph()
    plugin(name, whole=whole, **arguments)
    held = whole.get_node("sub_01_wf.step").plugin_args
    return " ".join(held.values()).split()


@pytest.mark.parametrize("name", ["SLURM", "SLURMGraph", "PBS", "SGE"])
def test_jobs_set_what_the_environment_of_the_run_holds(name):
    template = plugin(name)["plugin_args"]["template"]
    assert template.startswith("#!/bin/bash\n")
    for variable, value in SETTINGS.environment().items():
        assert f"\nexport {variable}={value}\n" in template


def test_the_environment_follows_what_the_users_template_sets(tmp_path):
    given = "#!/bin/bash\nmodule load python"
    (tmp_path / "head.sh").write_text(given)
    for template in (given, str(tmp_path / "head.sh")):
        held = plugin("SLURM", template=template)["plugin_args"]["template"]
        assert held.startswith(given + "\nexport ")


@pytest.mark.parametrize("name", ["SLURM", "SLURMGraph"])
def test_slurm_is_asked_for_a_quarter_more_than_a_node_declares(name):
    assert asked(name) == ["--mem=1400M", "--cpus-per-task=2"]


@pytest.mark.parametrize(
    ("given", "left"),
    [("--mem=9G", ["--cpus-per-task=2"]), ("--mem-per-cpu 2G -t 9", ["--cpus-per-task=2"]),
     ("-c 4", ["--mem=1400M"]), ("-c4 --mem 8G", []), ("--cpus-per-task=3", ["--mem=1400M"])],
)  # fmt: skip
def test_what_the_user_asks_of_slurm_for_all_is_not_asked_again(given, left):
    assert asked("SLURM", sbatch_args=given) == left


def test_pbs_is_asked_for_memory_and_processors_unless_the_user_does():
    assert asked("PBS", qsub_args="-q workq") == ["-l", "mem=1400mb,ncpus=2"]
    assert asked("PBS", qsub_args="-l select=1:ncpus=2:mem=4gb") == []
    assert asked("SGE") == []


def test_a_user_without_a_name_has_one_for_the_names_of_jobs(monkeypatch):
    monkeypatch.delenv("LOGNAME", raising=False)
    monkeypatch.setattr(clusters.getpass, "getuser", lambda: {}["no such user"])
    plugin("SLURM")
    assert os.environ["LOGNAME"] == str(os.getuid())


def test_a_work_folder_that_nodes_do_not_share_is_told(tmp_path, capsys):
    plugin("SLURM")
    assert not capsys.readouterr().out
    plugin("SLURM", replace(SETTINGS, work_dir=tmp_path))
    assert f"the work folder {tmp_path} lies in /tmp" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(HPC.glob("*.yml")), ids=lambda path: path.name)
def test_ready_made_files_name_plugins_that_wait_for_their_jobs(path):
    held = yaml.safe_load(path.read_text())
    assert is_batch(replace(SETTINGS, nipype_plugin=held)) == (held["plugin"] != "MultiProc")


@pytest.mark.parametrize("name", ["PBSGraph", "SGEGraph", "Slurm"])
def test_a_plugin_that_does_not_wait_or_is_unknown_is_refused(tmp_path, capsys, name):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}')
    (tmp_path / "plugin.yml").write_text(f"plugin: {name}\n")
    options = ["--nipype-plugin-file", str(tmp_path / "plugin.yml")]
    assert main([str(raw), str(tmp_path / "out"), "participant", *options]) == 2
    assert f"plugin is {name}; accepted: MultiProc, " in capsys.readouterr().err


def test_slurm_is_asked_once_in_a_while_and_a_silent_one_changes_nothing(tmp_path, monkeypatch):
    asked = tmp_path / "asked"
    program(tmp_path, "squeue", f"#!/bin/sh\necho x >> {asked}\necho 5\n[ ! -e {asked}.no ]\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    queue = SlurmQueue(1000)
    queue.add(4)
    assert (queue.holds(5), queue.holds(4), asked.read_text()) == (True, False, "x\n")
    queue.add(6)
    assert queue.holds(6)
    queue.seconds = 0
    (tmp_path / "asked.no").touch()
    assert queue.holds(6)


def program(folder, name, text):
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(("x", "failures"), [(1, {}), (3, {"sub_01_wf": "3 is not accepted"})])
def test_a_node_runs_as_a_job_of_pbs_and_its_failure_is_told(tmp_path, monkeypatch, x, failures):
    program(tmp_path, "qsub", QSUB)
    program(tmp_path, "qstat", QSTAT)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("LOGGED", str(tmp_path / "asked"))
    monkeypatch.chdir(tmp_path)
    arguments = {"poll_seconds": 0.05, "qsub_args": "-q short"}
    chosen = replace(
        SETTINGS, out_dir=tmp_path / "out", work_dir=tmp_path / "work",
        nipype_plugin={"plugin": "PBS", "plugin_args": arguments},
    )  # fmt: skip
    assert execute(graph(x), chosen) == failures
    assert not list(tmp_path.glob("*.nipype"))  # nothing in the user's folder
    assert "-q short -l mem=1400mb,ncpus=2" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize(
    ("system", "submit", "index", "bound"),
    [("slurm", "sbatch", "SLURM_ARRAY_TASK_ID", ""),
     ("pbs", "qsub", "PBS_ARRAY_INDEX", "--nprocs 2 --mem 8GB "),
     ("sge", "qsub", "SGE_TASK_ID", "--nprocs 2 --mem 8GB ")],
)  # fmt: skip
def test_a_script_submits_a_task_for_each_subject_and_the_group_after_them(
    tmp_path, system, submit, index, bound
):
    for folder in ("sub-01", "sourcedata/sub-01", "sourcedata/sub-02"):  # raw data, no image
        (tmp_path / "my raw" / folder).mkdir(parents=True)
    program(tmp_path, submit, '#!/bin/sh\necho "$@" >> asked\necho 41\n')
    places = [str(tmp_path / name) for name in ("my raw", "out", "work")]
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SODIUMPREP": "echo"}
    script = HPC / f"submit_{system}.sh"
    run = {"cwd": tmp_path, "env": environ, "capture_output": True, "text": True, "check": True}
    subprocess.run(["bash", script, *places, "--pvc", "gtm rbv"], **run)
    array, group = (tmp_path / "asked").read_text().splitlines()
    assert "1-2" in array
    assert "41" in group
    (jobs,) = (tmp_path / "work").iterdir()
    run["env"] = {**environ, index: "2"}
    said = subprocess.run(["bash", jobs / "subject.sh"], **run).stdout
    assert said == (
        f"{places[0]} {places[1]} participant --participant-label sub-02 -w {places[2]} "
        f"--skip-bids-validation {bound}--pvc gtm rbv\n"
    )
    assert subprocess.run(["bash", jobs / "group.sh"], **run).stdout.endswith("out group\n")
