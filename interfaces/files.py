"""Files at the border: what one must be before it is opened, and how one is written."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 2**20
PARTIAL = "partial"
FORGOTTEN = 86_400  # s: no file grows for a day
REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "files of this size are not allowed (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
}


class WriteError(OSError):
    """A file that cannot be written; the message is made for users."""


def check_file(path: Path | str, most: int | None = None) -> int:
    """Check that a file can be opened without waiting, and read without filling the memory.

    Links are followed.

    Parameters
    ----------
    path
        The file.
    most
        Largest size that is accepted [bytes]; None for any.

    Returns
    -------
    size
        Its size [bytes].

    Raises
    ------
    ValueError
        If it is not there, is no plain file (a pipe, a device, a folder), or is too large.
    """
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: cannot be read: {reason}") from None
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: is no plain file; accepted: a file, or a link to one")
    if most is not None and found.st_size > most:
        raise ValueError(
            f"{path}: has {found.st_size / MIB:.4g} MiB; accepted: up to {most / MIB:.4g} MiB"
        )
    return found.st_size


@contextmanager
def written(path: Path | str) -> Iterator[Path]:
    """Let a file be written beside its place, and put it there when it is complete.

    Whoever looks sees the old file or the new one, never a part; nothing is left of a file whose
    writing failed. Its folder is made.

    Parameters
    ----------
    path
        Where the file shall be; one that is there is replaced.

    Yields
    ------
    partial
        Where to write it, with the same extension.

    Raises
    ------
    WriteError
        If the disk is full or does not let it be written.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> with written(folder / "a.txt") as partial:
    ...     _ = partial.write_text("all")
    ...     (folder / "a.txt").exists()
    False
    >>> (folder / "a.txt").read_text()
    'all'
    """
    final = Path(path)
    partial = partial_path(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _keep(partial)
        partial.replace(final)
    except OSError as error:
        blamed = Path(error.filename or partial)  # reading may fail inside as well
        if error.errno not in REASONS or blamed not in (partial, final, *final.parents):
            raise
        raise WriteError(f"{final}: cannot be written: {REASONS[error.errno]}") from error
    finally:
        partial.unlink(missing_ok=True)


def _keep(path: Path) -> None:
    """Wait until a file is on its disk: after a power cut a name must not stand for nothing."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def partial_path(final: Path) -> Path:
    """Return where a file grows; no pattern that finds results finds it.

    Parameters
    ----------
    final
        Where it shall be.
    """
    stem, dot, extension = final.name.partition(".")
    return final.with_name(f".{stem}.{PARTIAL}-{_host()}-{os.getpid()}{dot}{extension}")


def _host() -> str:
    """Return eight letters for where process numbers count: the host and the container."""
    spaces = Path("/proc/self/ns/pid")
    place = str(spaces.readlink()) if spaces.is_symlink() else ""
    return hashlib.sha256(f"{socket.gethostname()} {place}".encode()).hexdigest()[:8]


def remove_partials(folder: Path | str, deep: bool = True) -> list[Path]:
    """Remove what processes that were killed left of files; what may still grow stays.

    Parameters
    ----------
    folder
        Looked through.
    deep
        With all below it.

    Returns
    -------
    removed
        Those of dead processes of this host, and of any host after a day.
    """
    removed = []
    for root, folders, names in os.walk(folder):
        if not deep:
            folders.clear()
        for path in (Path(root) / name for name in names if f".{PARTIAL}-" in name):
            if _is_left_over(path):
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


def _is_left_over(path: Path) -> bool:
    host, _, rest = path.name.rpartition(f".{PARTIAL}-")[2].partition("-")
    number = rest.partition(".")[0]
    if not path.name.startswith(".") or not number.isdigit():
        return False
    try:
        age = time.time() - path.lstat().st_mtime
    except OSError:  # its process has just put it in its place
        return False
    return age > FORGOTTEN or (host == _host() and not _lives(int(number)))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_text(path: Path | str, text: str) -> None:
    """Write a text, complete or not at all.

    Parameters
    ----------
    path
        File to write, UTF-8.
    text
        What it shall hold.
    """
    with written(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write bytes, complete or not at all.

    Parameters
    ----------
    path
        File to write.
    content
        What it shall hold.
    """
    with written(path) as partial:
        partial.write_bytes(content)


def copy_file(source: Path | str, path: Path | str) -> None:
    """Copy a file, complete or not at all; its date is that of the copy.

    Parameters
    ----------
    source
        File to read.
    path
        File to write.
    """
    with written(path) as partial:
        shutil.copyfile(source, partial)
