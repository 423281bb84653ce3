"""Where libraries keep their caches if there is no home, or none that can be written.

In a container with a read-only root, or as a user without an entry in the table of users,
matplotlib would warn, numba would stop at the first function it compiles, and the home of such a
user is not even known.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sodiumprep.bids_app.metadata import UserError

FOLDERS = {  # by the variable that each library asks
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "NIPYPE_CONFIG_DIR": "nipype",
    "DENO_DIR": "deno",
}


def cache_environment(environment: Mapping[str, str], spare: Path) -> dict[str, str]:
    """Return the variables that lead caches to where they can be written.

    Parameters
    ----------
    environment
        Environment variables.
    spare
        Folder that holds temporary files if no usual place for them can be written.

    Returns
    -------
    variables
        To set; empty where the home can be written. What is set already stays. The folder that
        they name is removed when the process ends.

    Raises
    ------
    UserError
        If nothing at all can be written.
    """
    variables = temporary_environment(spare)
    home = home_of(environment)
    if home is not None and _writable(home):
        return variables
    missing = {name: part for name, part in FOLDERS.items() if not environment.get(name)}
    if home is not None and not missing:
        return variables
    folder = Path(tempfile.mkdtemp(prefix="sodiumprep-caches-", dir=variables.get("TMPDIR")))
    _remove_at_the_end(folder)
    variables |= {name: str(folder / part) for name, part in missing.items()}
    # a home that can only be read still holds settings and templates
    return variables if home is not None else {**variables, "HOME": str(folder)}


def temporary_environment(spare: Path) -> dict[str, str]:
    """Return the variable that leads temporary files to a spare folder, if it is needed.

    Parameters
    ----------
    spare
        Folder, made if it is needed.

    Raises
    ------
    UserError
        If it cannot be written either.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        pass
    else:
        return {}
    folder = spare / "tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"no folder for temporary files can be written ({folder}: {error.strerror}); "
            "accepted: a writable /tmp, TMPDIR or -w"
        ) from error
    tempfile.tempdir = str(folder)
    return {"TMPDIR": str(folder)}


def home_of(environment: Mapping[str, str]) -> Path | None:
    """Return the home of the user, None if there is none.

    Parameters
    ----------
    environment
        Environment variables; without ``HOME`` the table of users tells.

    Examples
    --------
    >>> home_of({"HOME": "/home/me"}).as_posix()
    '/home/me'
    >>> home_of({"HOME": "/nowhere/at/all"}) is None
    False
    """
    stated = environment.get("HOME")
    if stated:
        return Path(stated)
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() else None


def _writable(folder: Path) -> bool:
    # "/" is what engines give a user that has no home: as root it can be written, but is none
    return folder != Path("/") and folder.is_dir() and os.access(folder, os.W_OK)


def _remove_at_the_end(folder: Path) -> None:
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not when a forked worker ends
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
