"""What a file must be before it is opened: a plain one, of a size that can be meant."""

from __future__ import annotations

import stat
from pathlib import Path

MIB = 2**20


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
