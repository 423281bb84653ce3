"""What a run was asked and how it ended: a file in ``logs/`` that can be read back."""

from __future__ import annotations

import argparse
import csv
import io
import os
import platform
import secrets
import shlex
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from sodiumprep.bids_app.arguments import memory
from sodiumprep.bids_app.host import resources
from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.files import write_text

TABLE = "record"  # of a configuration file: what is told, not asked
CONFIG = "config.toml"
FAILURES = "failures.tsv"
TIME = "%Y-%m-%dT%H:%M:%S%z"
FOLDER = "run-"  # and the identifier of the run
PACKAGES = ("antspyx", "finufft", "nibabel", "nipype", "numpy", "pandas", "scipy", "sigpy")
PLACES = ("bids_dir", "out_dir", "level")
WITHOUT_EFFECT = ("verbose", "help", "version", "self-test", "config-file")
ONCE = ("clean-workdir", "participant-label")  # not asked again where only some are run anew
HEAD = """\
# What sodiumprep was asked, defaults included. To ask the same again: sodiumprep BIDS_DIR OUT_DIR
# {level} --config-file FILE, in the folder that relative paths start from (it holds BIDS_DIR
# and OUT_DIR). The table [record] tells of the run and asks nothing.
"""


@dataclass(frozen=True)
class Record:
    """What is known of a run.

    Parameters
    ----------
    path
        The file.
    options
        What was asked, as a configuration file has it.
    told
        ``id``, ``command``, ``given`` (names of the options that stood in it), ``unset`` (of those
        without a value), ``version``, ``started``, ``level``, ``seed``, ``subjects``,
        ``software``, ``resources``; ``ended`` and ``end`` once it has.
    failures
        Lines by subject.
    """

    path: Path
    options: Mapping[str, Any]
    told: Mapping[str, Any]
    failures: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """Time of the start as it stands in names of folders."""
        return identifier_of(self.path)[:15]

    @property
    def given(self) -> dict[str, Any]:
        """What was asked beside the defaults."""
        names = self.told.get("given", ())
        return {name: value for name, value in self.options.items() if name in names}


def identifier_of(record: Path) -> str:
    """Return the identifier of a run.

    Parameters
    ----------
    record
        Path of its record.

    Examples
    --------
    >>> identifier_of(Path("out/logs/run-20261127-011749-0d9a8e/config.toml"))
    '20261127-011749-0d9a8e'
    """
    return record.parent.name.removeprefix(FOLDER)


def given_options(
    parser: argparse.ArgumentParser, tokens: Sequence[str], configured: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the options that were given, as text under their names.

    Parameters
    ----------
    parser
        Its types and defaults are lost: a parser of one's own.
    tokens
        Arguments of the command line.
    configured
        Options of a configuration file; those of the command line go before.

    Returns
    -------
    options
        True for a switch, else text or a list of texts; paths are complete.
    """
    paths = set()
    for action in parser._actions:
        if action.type is Path:
            paths.add(action.dest)
        action.type, action.choices, action.default = None, None, argparse.SUPPRESS
    first = parser.parse_args([*PLACES, *configured]) if configured else None
    held = vars(parser.parse_args(list(tokens), first))
    held |= {name: _complete(held[name]) for name in paths & set(held)}
    if "derivatives" in held:
        held["derivatives"] = [_complete_pair(text) for text in held["derivatives"]]
    named = {name.replace("_", "-"): value for name, value in held.items() if name not in PLACES}
    return {name: value for name, value in named.items() if name not in WITHOUT_EFFECT}


def all_options(parser: argparse.ArgumentParser, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option as a configuration file has it: what was given, else the default.

    Parameters
    ----------
    parser
        Its types and defaults.
    given
        Text by option, as :func:`given_options` returns it.

    Returns
    -------
    options
        Numbers, texts, switches, or lists; None where an option has no value.
    """
    actions = {action.dest.replace("_", "-"): action for action in parser._actions}
    left_out = (*WITHOUT_EFFECT, *(place.replace("_", "-") for place in PLACES))
    return {
        name: _plain(given.get(name, _default(action)), action.type)
        for name, action in actions.items()
        if name not in left_out
    }


def _default(action: argparse.Action) -> Any:
    default = action.default
    if isinstance(default, Path):
        return _complete(str(default))
    if action.type is memory and default is not None:
        return f"{default:g}GB"  # a plain number would count MB
    return default


def _plain(value: Any, kind: Callable[[str], Any] | str | None) -> Any:
    """Return a value as a file has it: a number where the option takes one."""
    if isinstance(value, (list, tuple)):
        return [_plain(part, kind) for part in value]
    if not isinstance(value, str) or kind in (None, Path, memory):
        return value
    try:
        return int(value) if value.isdecimal() else float(value)
    except ValueError:
        return value


def _complete(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _complete_pair(text: str) -> str:
    name, equals, path = text.partition("=")
    return f"{name}={_complete(path)}" if equals else _complete(text)


def write_record(
    settings: Settings,
    subjects: Sequence[str],
    failures: Sequence[tuple[str, str]] = (),
    started: time.struct_time | None = None,
) -> Path:
    """Write what a run was asked.

    Parameters
    ----------
    settings
        The user's choices.
    subjects
        Labels of those that are processed; those that have failed already are told as well.
    failures
        Label and line of what has failed already.
    started
        Local time; now if None.

    Returns
    -------
    path
        ``logs/run-<time>-<random>/config.toml``.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    started = started or time.localtime()
    folder = _new_folder(DatasetNames(settings.out_dir).logs, started)
    base = _base(settings)
    options = {key: _shown(value, base) for key, value in settings.resolved.items()}
    told = {
        "id": identifier_of(folder / CONFIG),
        "command": _command(settings, base),
        "given": list(settings.options),
        "unset": [name for name, value in options.items() if value is None],
        "version": version("sodiumprep"),
        "started": time.strftime(TIME, started),
        "level": settings.level,
        "seed": settings.random_seed,
        "subjects": sorted({*subjects, *(label.split()[0] for label, _ in failures)}),
        "software": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "resources": resources(),
    }
    asked = {name: value for name, value in options.items() if value is not None}
    record = Record(folder / CONFIG, asked, told)
    _replace(record.path, as_toml(record))
    return add_failures(record.path, failures)


def _new_folder(logs: Path, started: time.struct_time) -> Path:
    """Make the folder of a run; sorted by name they are sorted by time."""
    # runs over other subjects may start in the same second
    name = f"{FOLDER}{time.strftime('%Y%m%d-%H%M%S', started)}-{secrets.token_hex(3)}"
    (logs / name).mkdir(parents=True)
    return logs / name


def _replace(path: Path, text: str) -> None:
    """Write a text; what UTF-8 cannot hold becomes a question mark."""
    write_text(path, text.encode("utf-8", "replace").decode())


def add_failures(path: Path, failures: Sequence[tuple[str, str]]) -> Path:
    """Add to the record of a run what has failed, and list it in a table beside it.

    Parameters
    ----------
    path
        Of the record.
    failures
        Label and line of each.

    Returns
    -------
    path
        The same.
    """
    lines: dict[str, list[str]] = {}
    for label, text in failures:
        lines.setdefault(label.split()[0], []).append(without_home(text))
    record = read_record(path)
    if record is not None and lines:
        told = Record(path, record.options, record.told, lines)
        _replace(path, as_toml(told))
        _replace(path.with_name(FAILURES), _failure_table(failures))
    return path


def end_record(path: Path, how: str = "completed") -> Path:
    """Add to the record of a run when and how it ended; one that was killed has neither.

    Parameters
    ----------
    path
        Of the record.
    how
        ``completed``, also with failures, or what stopped or broke it off.

    Returns
    -------
    path
        The same.
    """
    record = read_record(path)
    if record is not None:
        ended = {"ended": time.strftime(TIME), "end": without_home(how)}
        _replace(path, as_toml(replace(record, told={**record.told, **ended})))
    return path


def _failure_table(failures: Sequence[tuple[str, str]]) -> str:
    table = io.StringIO()
    rows = csv.writer(table, delimiter="\t", lineterminator="\n")
    rows.writerow(("participant_id", "session", "message"))
    for label, text in failures:
        subject, _, session = label.partition(" ")
        message = " ".join(without_home(text).split())  # one line of no further columns
        rows.writerow((f"sub-{subject}", session or "n/a", message))
    return table.getvalue()


def read_record(path: Path) -> Record | None:
    """Return the record of a run; of a broken one nothing.

    Parameters
    ----------
    path
        Of the record.
    """
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    told = held.pop(TABLE, None)
    if not isinstance(told, dict):
        return None
    return Record(path, held, told, told.pop("failures", {}))


def last_record(out_dir: Path, subject: str) -> Record | None:
    """Return the record of the last run that processed a subject, None where there is none.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    subject
        Label without its key.
    """
    named = f'"{subject}"'.encode()
    for path in sorted(DatasetNames(out_dir).logs.glob(f"{FOLDER}*/{CONFIG}"), reverse=True):
        if named not in path.read_bytes():
            continue  # of an array of jobs each has one: most are of other subjects
        record = read_record(path)
        if record is not None and subject in record.told.get("subjects", ()):
            return record
    return None


def without_home(text: str) -> str:
    """Return a text that does not tell whose home folder a path lies in.

    Parameters
    ----------
    text
        Any.
    """
    home = str(Path.home())
    return text.replace(home + os.sep, "~" + os.sep) if len(home) > 1 else text


def _base(settings: Settings) -> Path:
    """Return the folder that holds both datasets."""
    return Path(os.path.commonpath([settings.bids_dir.parent, settings.out_dir.parent]))


def _shown(value: Any, base: Path) -> Any:
    """Return a value whose complete paths start from a folder, if they lie in it."""
    if isinstance(value, list):
        return [_shown(part, base) for part in value]
    if not isinstance(value, str):
        return value
    name, equals, path = value.partition("=") if not value.startswith(os.sep) else ("", "", value)
    if not Path(path).is_absolute():
        return value
    inside = base != Path(base.anchor) and Path(path).is_relative_to(base)
    return name + equals + (str(Path(path).relative_to(base)) if inside else without_home(path))


def _command(settings: Settings, base: Path) -> str:
    places = [_shown(str(path), base) for path in (settings.bids_dir, settings.out_dir)]
    options = {name: _shown(value, base) for name, value in settings.options.items()}
    return shlex.join(["sodiumprep", *places, settings.level, *_as_arguments(options)])


def command_for(settings: Settings, subjects: Sequence[str]) -> str:
    """Return the command that asks the same of some subjects only, in the same folder.

    Parameters
    ----------
    settings
        The user's choices.
    subjects
        Labels without their key.
    """
    kept = {name: value for name, value in settings.options.items() if name not in ONCE}
    places = [str(settings.bids_dir), str(settings.out_dir), settings.level]
    label = ["--participant-label", *subjects]
    return shlex.join(["sodiumprep", *places, *_as_arguments(kept), *label])


def _as_arguments(options: Mapping[str, Any]) -> list[str]:
    parts = []
    for name, held in options.items():
        parts.append(f"--{name}")
        parts += [] if held is True else held if isinstance(held, list) else [held]
    return parts


def as_toml(record: Record) -> str:
    """Return a record as it is written.

    Parameters
    ----------
    record
        Of a run.
    """
    failures = {"failures": record.failures} if record.failures else {}
    told = {**record.told, **failures}
    return HEAD.format(level=record.told.get("level", "participant")) + tomli_w.dumps(
        {**record.options, TABLE: told}
    )
