"""A Slurm of one node, with its own configuration, key and ports, that ends with the tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo")
PATIENCE = 30.0  # s, until the node is idle
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={port}
SlurmdPort={next_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1,sched_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MessageTimeout=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _two_ports() -> int:
    """Return a free port that a free one follows."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def _configure(folder: Path) -> None:
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    port = _two_ports()
    known = {
        "host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "folder": folder,
        "port": port, "next_port": port + 1, "cpus": os.cpu_count(),
        "memory": page * pages // 2**20 * 9 // 10,
    }  # fmt: skip
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**known))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()


def _commands(folder: Path) -> list[list[str]]:
    munge = [f"--{what}={folder}/munge.{what.partition('-')[0]}"
             for what in ("socket", "key-file", "log-file", "pid-file", "seed-file")]  # fmt: skip
    return [
        [str(_program("munged")), "--foreground", "--force", *munge],
        [str(_program("slurmctld")), "-D", "-c"],
        [str(_program("slurmd")), "-D"],
    ]


def _wait_for(ready: Callable[[], bool], processes: list[subprocess.Popen[bytes]]) -> str:
    """Return why it is not ready, nothing if it is."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        ended = [str(p.args[0]) for p in processes if p.poll() is not None]
        if ended:
            return f"{ended[0]} ended"
        if ready():
            return ""
        time.sleep(0.2)
    return f"not ready within {PATIENCE:g} s"


def _is_idle() -> bool:
    told = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, check=False)
    return told.stdout.strip() == "idle"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    """Start a Slurm; give its folder. What it needs stands in the environment meanwhile."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        pytest.skip(f"no Slurm: {', '.join(missing)} not found (apt-get install slurm-wlm munge)")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path is limited
    processes: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.delenv("LOGNAME", raising=False)  # as in a container
        _configure(folder)
        try:
            for command, ready in zip(
                _commands(folder),
                ((folder / "munge.socket").exists, lambda: True, _is_idle),
                strict=True,
            ):
                with (folder / f"{Path(command[0]).name}.out").open("wb") as out:
                    processes.append(subprocess.Popen(command, stdout=out, stderr=out))
                problem = _wait_for(ready, processes)
                if problem:
                    pytest.skip(f"no Slurm: {command[0]} {problem}: {_last_words(folder)}")
            yield folder
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(timeout=20)
            shutil.rmtree(folder, ignore_errors=True)


def _last_words(folder: Path) -> str:
    logs = sorted(folder.glob("*.out"), key=lambda path: path.stat().st_mtime)
    lines = [line for path in logs for line in path.read_text(errors="replace").splitlines()]
    return " | ".join(lines[-3:]) or "it said nothing"
