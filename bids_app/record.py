"""What a run was asked and how it ended: a file in ``logs/`` that can be read back."""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import shlex
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.files import write_text

TABLE = "record"  # of a configuration file: what is told, not asked
PACKAGES = ("antspyx", "finufft", "nibabel", "nipype", "numpy", "pandas", "scipy", "sigpy")
PLACES = ("bids_dir", "out_dir", "level")
WITHOUT_EFFECT = ("verbose", "help", "version", "config-file")
HEAD = """\
# What sodiumprep was asked. To ask the same again: sodiumprep BIDS_DIR OUT_DIR participant
# --config-file FILE, in the folder that relative paths start from (it holds BIDS_DIR and OUT_DIR).
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
        ``command``, ``version``, ``started``, ``seed``, ``subjects``, ``software``.
    failures
        Lines by subject.
    """

    path: Path
    options: Mapping[str, Any]
    told: Mapping[str, Any]
    failures: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """Time of the start as it stands in names of files."""
        return self.path.stem.removeprefix("run-")[:15]


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


def _complete(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _complete_pair(text: str) -> str:
    name, equals, path = text.partition("=")
    return f"{name}={_complete(path)}" if equals else _complete(text)


def write_record(
    settings: Settings, subjects: Sequence[str], failures: Sequence[tuple[str, str]] = ()
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

    Returns
    -------
    path
        ``logs/run-<time>-<random>.toml``.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    logs = DatasetNames(settings.out_dir).logs
    started = time.localtime()
    # runs over other subjects may start in the same second
    name = f"run-{time.strftime('%Y%m%d-%H%M%S', started)}-{secrets.token_hex(3)}.toml"
    base = _base(settings)
    options = {key: _shown(value, base) for key, value in settings.options.items()}
    told = {
        "command": _command(settings, base),
        "version": version("sodiumprep"),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", started),
        "seed": settings.random_seed,
        "subjects": sorted({*subjects, *(label.split()[0] for label, _ in failures)}),
        "software": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }
    record = Record(logs / name, options, told)
    write_text(record.path, as_toml(record))
    return add_failures(record.path, failures)


def add_failures(path: Path, failures: Sequence[tuple[str, str]]) -> Path:
    """Add to the record of a run what has failed.

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
        write_text(path, as_toml(told))
    return path


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
    named = json.dumps(subject).encode()
    for path in sorted(DatasetNames(out_dir).logs.glob("run-*.toml"), reverse=True):
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
    parts = ["sodiumprep", *places, settings.level]
    for name, value in settings.options.items():
        held = _shown(value, base)
        parts.append(f"--{name}")
        parts += [] if held is True else held if isinstance(held, list) else [held]
    return shlex.join(parts)


def as_toml(record: Record) -> str:
    """Return a record as it is written.

    Parameters
    ----------
    record
        Of a run.
    """
    lines = [f"{name} = {_literal(value)}" for name, value in record.options.items()]
    plain = {name: value for name, value in record.told.items() if name != "software"}
    lines += ["", f"[{TABLE}]", *(f"{name} = {_literal(v)}" for name, v in plain.items())]
    tables = {"software": record.told.get("software", {}), "failures": record.failures}
    for name, held in tables.items():
        if held:
            lines += ["", f"[{TABLE}.{name}]"]
            lines += [f"{_literal(str(key))} = {_literal(value)}" for key, value in held.items()]
    return HEAD + "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """Return a value as TOML, whose texts, numbers and lists are those of JSON."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value).replace("\x7f", "\\u007f")
