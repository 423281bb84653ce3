"""Who reads a hostile file, and what came of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sodiumprep.bids_app import atlases, cli
from sodiumprep.bids_app.ages import age_of
from sodiumprep.bids_app.metadata import UserError, load_vials, read_protocol, read_sidecar
from sodiumprep.bids_app.ready import read_label_names
from sodiumprep.bids_app.relaxation import load_relaxation
from sodiumprep.interfaces.image import load_finite_image
from sodiumprep.interfaces.kspace import read_kspace
from sodiumprep.interfaces.transforms import transform_kinds

LONGEST = 20  # s, after which a reader hangs
MOST_MEMORY = 500  # MB that the peak may grow by


class HangError(Exception):
    """A reader took longer than is allowed."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case: ``refused``, ``sound``, ``traceback`` or ``hang``, and how."""

    kind: str
    text: str
    seconds: float
    megabytes: float
    strays: tuple[str, ...] = ()


def _config(path: Path) -> None:
    configured = cli._config_tokens(["--config-file", str(path)])
    cli._config_defaults(cli.build_parser(), configured.tokens, configured.path)


def _dry_run(path: Path) -> None:
    said = io.StringIO()
    places = [str(path), str(path.parent / "out"), "participant", "-w", str(path.parent / "work")]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main([*places, "--skip-bids-validation", "--dry-run", "--nprocs", "1"])
    lines = said.getvalue().strip()
    said.getvalue().encode()  # what cannot be printed would end in a traceback
    if "Traceback" in lines or code not in (0, 1, 2) or (code and not lines):
        raise RuntimeError(f"exit code {code}: {lines}")
    if code:
        raise ValueError(lines.splitlines()[0])


READERS: dict[str, Callable[[Path], Any]] = {
    "image": load_finite_image,
    "kspace": read_kspace,
    "protocol": lambda path: read_protocol(read_sidecar(path), str(path)),
    "vials": load_vials,
    "relaxation": load_relaxation,
    "filters": lambda path: cli._read_filters(path),
    "labels": read_label_names,
    "tissues": lambda path: (read_label_names(path), atlases._stated_tissues(path)),
    "ages": lambda path: age_of(path.parent, "01", None),
    "config": _config,
    "transform": transform_kinds,
    "dry run": _dry_run,
}


def try_case(reader: str, make: Callable[[Path], Path], folder: Path) -> Outcome:
    """Make a file and let its reader read it, under guard of time, memory and disk."""
    given = folder / "in"
    given.mkdir(parents=True)
    path = make(given)
    before = state(folder)
    _peak()
    held, start = _peak(), time.monotonic()
    signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        READERS[reader](path)
        kind, text = "sound", ""
    except (ValueError, UserError) as error:
        text = str(error)
        # a UnicodeError, say, is one of Python's own: no message to a user
        kind = "refused" if type(error) in (ValueError, UserError) else "traceback"
        kind, text = (kind, text) if "\n" not in text else ("traceback", f"two lines: {text!r}")
    except HangError:
        kind, text = "hang", _last_line()
    except BaseException as error:  # whatever else comes is what is looked for
        kind, text = "traceback", f"{error!r} {_last_line()}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    taken, grown = time.monotonic() - start, _peak() - held
    after = state(folder)
    strays = tuple(sorted(name for name, _ in before.items() ^ after.items()))
    return Outcome(kind, text, taken, grown, strays)


def state(folder: Path) -> dict[str, str]:
    """Return what lies in a folder but in ``out`` and ``work``, each with its content."""
    found = {}
    for root, folders, files in os.walk(folder):
        if Path(root) == folder:
            folders[:] = [name for name in folders if name not in ("out", "work")]
        for name in (*folders, *files):
            path = Path(root) / name
            found[os.fsencode(path).decode("latin-1")] = _content(path)
    return found


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    held = path.lstat()
    if path.is_file() and held.st_size < 2**25:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{held.st_mode} {held.st_size} {held.st_mtime_ns if path.is_file() else ''}"


def _peak() -> float:
    """Return the largest memory since the last call [MB]; where that is not told, ever."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        most = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1024


def _hang(*_: object) -> None:
    raise HangError


def _last_line() -> str:
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [frame for frame in frames if "sodiumprep" in frame.filename] or frames
    return f"at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
