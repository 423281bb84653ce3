"""Composite transforms of ITK (HDF5), which by themselves carry the second they were written."""

from __future__ import annotations

from pathlib import Path

import h5py

from sodiumprep.interfaces.files import written

OF_THE_MACHINE = ("OSName", "OSVersion")


def settle_composite(path: Path | str) -> str:
    """Write a composite transform anew, so that the same transform gives the same bytes.

    The dates of the datasets and what names the operating system are left out; ITK, ANTs and
    nitransforms read neither.

    Parameters
    ----------
    path
        ITK composite as ANTs writes it [mm, LPS]; it is replaced.

    Returns
    -------
    path
        As given.
    """
    with written(path) as partial, h5py.File(path, "r") as old, h5py.File(partial, "w") as new:
        names: list[str] = []
        old.visit(names.append)
        for name in sorted(set(names) - set(OF_THE_MACHINE)):
            _copy_entry(old, new, name)
    return str(path)


def _copy_entry(old: h5py.File, new: h5py.File, name: str) -> None:
    entry = old[name]
    if isinstance(entry, h5py.Group):
        new.create_group(name)
        return
    new.create_dataset(
        name, data=entry[()], dtype=entry.dtype, chunks=entry.chunks, track_times=False,
        compression=entry.compression, compression_opts=entry.compression_opts,
    )  # fmt: skip
