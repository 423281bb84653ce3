"""What a process may use: of the machine, of its cgroup, of a job, whichever is least."""

import os

import pytest

from sodiumprep.bids_app.host import describe, memory, processors

GIB = 2**30


def group(root, line, **files):
    """Write a cgroup of this process; a name's double underscore stands for a dot."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    with (root / "proc/self/cgroup").open("a") as held:
        held.write(f"{line}\n")
    _, names, path = line.split(":", 2)
    folder = root / "sys/fs/cgroup" / names / path.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")
    return folder


def test_without_a_bound_nine_tenths_of_the_machine_are_taken(tmp_path):
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    found = memory({}, tmp_path)
    assert found.value == pytest.approx(0.9 * whole)
    assert "machine" in found.source


@pytest.mark.parametrize(
    ("line", "files"),
    [("0::/job", {"memory__max": GIB}),
     ("4:memory:/job", {"memory__limit_in_bytes": GIB}),
     ("4:memory:/job", {"memory__limit_in_bytes": GIB, "memory__max": 5})],
)  # fmt: skip
def test_a_cgroup_of_either_version_bounds_the_memory(tmp_path, line, files):
    group(tmp_path, line, **files)
    found = memory({}, tmp_path)
    assert (found.value, found.source) == (min(files.values()) / 1e9, "cgroup")


def test_a_bound_of_an_outer_cgroup_counts_as_well(tmp_path):
    group(tmp_path, "0::/pod", memory__max=GIB)
    group(tmp_path, "0::/pod/step", memory__max="max")
    assert memory({}, tmp_path).value == GIB / 1e9


def test_a_cgroup_whose_path_is_that_of_the_machine_is_found_at_the_top(tmp_path):
    top = group(tmp_path, "0::/", memory__max=GIB)
    (tmp_path / "proc/self/cgroup").write_text("0::/docker/0123\n")
    assert (top / "memory.max").is_file()
    assert memory({}, tmp_path).value == GIB / 1e9


def test_a_number_of_a_cgroup_that_means_no_bound_is_none(tmp_path):
    group(tmp_path, "4:memory:/", memory__limit_in_bytes=9223372036854771712)
    assert "machine" in memory({}, tmp_path).source


@pytest.mark.parametrize(
    ("environ", "gigabytes"),
    [({"SLURM_MEM_PER_NODE": "1000"}, 1000 * 2**20 / 1e9),
     ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "3"}, 1500 * 2**20 / 1e9)],
)  # fmt: skip
def test_the_memory_of_a_slurm_job_is_taken(tmp_path, environ, gigabytes):
    found = memory(environ, tmp_path)
    assert found.value == pytest.approx(gigabytes)
    assert found.source == next(iter(environ))


@pytest.mark.parametrize("name", ["SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"])
@pytest.mark.parametrize("text", ["0", "", "all"])
def test_a_slurm_job_that_has_the_whole_node_has_no_bound(tmp_path, name, text):
    assert "machine" in memory({name: text}, tmp_path).source


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [("0::/", {"cpu__max": "100000 100000"}, 1),
     ("0::/", {"cpu__max": "50000 100000"}, 1),
     ("1:cpu,cpuacct:/", {"cpu__cfs_quota_us": 100000, "cpu__cfs_period_us": 100000}, 1)],
)  # fmt: skip
def test_a_quota_of_processors_is_rounded_down_but_not_to_nothing(
    tmp_path, monkeypatch, line, files, expected
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    group(tmp_path, line, **files)
    assert processors({}, tmp_path) == type(processors({}, tmp_path))(expected, "cgroup")


@pytest.mark.parametrize("text", ["max 100000", "-1 100000", ""])
def test_no_quota_leaves_all_processors(tmp_path, monkeypatch, text):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    group(tmp_path, "0::/", cpu__max=text)
    assert processors({}, tmp_path).value == 64


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "12"}, 3), ({"NSLOTS": "5"}, 5),
     ({"PBS_NUM_PPN": "7"}, 7), ({"SLURM_CPUS_ON_NODE": "100"}, 64)],
)  # fmt: skip
def test_the_processors_of_a_job_are_taken_as_far_as_there_are_any(
    tmp_path, monkeypatch, environ, expected
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    assert processors(environ, tmp_path).value == expected


def test_what_is_taken_is_said_with_its_source(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    told = describe(1, 6.0, ["mem"])
    assert told == (
        "resources: 1 process at a time (SLURM_CPUS_PER_TASK), 6.0 GB of memory (--mem)"
    )


def test_who_says_what_is_taken_is_not_the_machine_where_it_is_not(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert "7 processes at a time (--config-file)" in describe(7, 6.0, ["mem"])
    told = describe(7, 6.0, ["nprocs"], {"n_procs": 7, "memory_gb": 6.0})
    assert told.count("(--nipype-plugin-file)") == 2
