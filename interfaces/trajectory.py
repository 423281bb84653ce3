"""Giving a raw file the trajectory that its converter left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np

from sodiumprep.interfaces.kspace import kept_samples, to_per_metre
from sodiumprep.interfaces.kspace_file import (
    BLOCK,
    KspaceFile,
    check_equal,
    read_encoding,
    sort_readouts,
)
from sodiumprep.sodium.acquisition import Floats, Integers

SCHEMA = "http://www.ismrm.org/ISMRMRD"
AFTER_DESCRIPTION = ("parallelImaging", "echoTrainLength", "multiband")  # order of the schema
COUNTERS = ("contrast", "repetition", "average")
SAME_IN_ALL = ("number_of_samples", "discard_pre", "discard_post", "encoding_space_ref")


@dataclass(frozen=True)
class Readouts:
    """The imaging readouts of a raw file.

    Parameters
    ----------
    rows
        Their numbers in the file.
    order
        Place of each in the sequence of readouts of its repetition, from 0.
    count
        Readouts of the longest repetition.
    kept
        Samples of each that are kept.
    samples
        Samples of each, discarded ones included.
    encoding
        Number of the encoding that they refer to.
    counted
        Whether the order follows the counters of the file, not the order in time.
    present
        How many of them have a trajectory already.
    """

    rows: Integers
    order: Integers
    count: int
    kept: slice
    samples: int
    encoding: int
    counted: bool
    present: int


def list_readouts(path: Path | str) -> Readouts:
    """Tell how many readouts and samples a trajectory must have.

    Parameters
    ----------
    path
        ISMRMRD file.

    Returns
    -------
    readouts
        Where each one stands.

    Raises
    ------
    ValueError
        If the file is damaged, has no imaging readout, or they differ in length.
    """
    with KspaceFile(path) as file:
        heads = file.heads()
    rows, _, _ = sort_readouts(file.path, heads)
    check_equal(file.path, heads, rows, SAME_IN_ALL)
    order, counted = _order(heads["idx"][rows])
    first = heads[rows[0]]
    return Readouts(
        rows=rows,
        order=order,
        count=int(order.max()) + 1,
        kept=kept_samples(file.path, first),
        samples=int(first["number_of_samples"]),
        encoding=int(first["encoding_space_ref"]),
        counted=counted,
        present=int((heads["trajectory_dimensions"][rows] > 0).sum()),
    )


def _order(counters: Any) -> tuple[Integers, bool]:
    """Return the place of each readout: by its counters where these tell, else by time."""
    groups = np.unique(
        np.stack([counters[name] for name in COUNTERS]), axis=1, return_inverse=True
    )
    group = groups[1].ravel()
    sizes = np.bincount(group)
    by_time = np.empty(len(group), np.int64)
    for number in range(len(sizes)):
        by_time[group == number] = np.arange(sizes[number])
    code = counters["kspace_encode_step_2"].astype(np.int64) * 65536
    code += counters["kspace_encode_step_1"]
    values, rank = np.unique(code, return_inverse=True)
    unique = len(np.unique(np.stack([group, rank.ravel()]), axis=1).T) == len(group)
    if unique and len(values) == sizes.max():
        return rank.ravel(), True
    return by_time, False


def add_trajectory(
    source: Path | str, target: Path | str, readouts: Readouts, trajectory: Floats
) -> None:
    """Copy a raw file, with a trajectory in 1/m for every imaging readout.

    Nothing else is changed. An existing trajectory is replaced.

    Parameters
    ----------
    source
        ISMRMRD file.
    target
        File to write; an existing one is replaced once the new one is complete.
    readouts
        Of the source.
    trajectory
        Shape (readouts.count, kept samples, 3) [1/m]. Discarded samples before take the first
        value of their readout, those after the last one.

    Raises
    ------
    ValueError
        If the trajectory has another shape, or lies outside the plausible range.
    """
    source, target = Path(source), Path(target)
    n = readouts.kept.stop - readouts.kept.start
    if trajectory.shape != (readouts.count, n, 3):
        raise ValueError(
            f"{source}: the trajectory has shape {trajectory.shape}; its readouts need "
            f"{(readouts.count, n, 3)}"
        )
    with KspaceFile(source) as file:
        root = file.header()
    encoding, _ = read_encoding(source, root, readouts.encoding)
    to_per_metre(source, trajectory.astype(np.float32), encoding.labelled("1/m"))
    _label_units(root, readouts.encoding)
    padding = (readouts.kept.start, readouts.samples - readouts.kept.stop)
    padded = np.pad(trajectory, ((0, 0), padding, (0, 0)), mode="edge").astype(np.float32)
    unfinished = target.with_name(f".{target.name}.part")
    try:
        _copy(source, unfinished, ElementTree.tostring(root, encoding="utf-8"),
              dict(zip(readouts.rows.tolist(), padded[readouts.order], strict=True)))  # fmt: skip
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _copy(source: Path, target: Path, xml: bytes, trajectories: Mapping[int, Floats]) -> None:
    with h5py.File(source, "r") as old, h5py.File(target, "w") as new:
        _copy_others(old, new, "dataset")
        _copy_others(old["dataset"], new.create_group("dataset"), "data", "xml")
        header = new["dataset"].create_dataset("xml", (1,), h5py.special_dtype(vlen=bytes))
        header[0] = xml
        table = old["dataset"]["data"]
        copy = new["dataset"].create_dataset(
            "data", table.shape, table.dtype, chunks=table.chunks, maxshape=table.maxshape,
            compression=table.compression, compression_opts=table.compression_opts,
        )  # fmt: skip
        copy.attrs.update(table.attrs)
        for start in range(0, len(table), BLOCK):
            block = table[start : start + BLOCK]
            for i in range(len(block)):
                if start + i in trajectories:
                    block["traj"][i] = trajectories[start + i].ravel()
                    block["head"]["trajectory_dimensions"][i] = 3
            copy[start : start + len(block)] = block


def _copy_others(old: h5py.Group, new: h5py.Group, *left_out: str) -> None:
    new.attrs.update(old.attrs)
    for name in old:
        if name not in left_out:
            old.copy(name, new)


def _label_units(root: ElementTree.Element, number: int) -> None:
    """Write into the header that the trajectory of an encoding is in 1/m."""
    ElementTree.register_namespace("", SCHEMA)
    encoding = root.findall("{*}encoding")[number]
    space = encoding.tag[: encoding.tag.rindex("}") + 1] if "}" in encoding.tag else ""
    description = encoding.find("{*}trajectoryDescription")
    if description is None:
        description = ElementTree.Element(f"{space}trajectoryDescription")
        ElementTree.SubElement(description, f"{space}identifier").text = "analytic"
        later = [f"{space}{name}" for name in AFTER_DESCRIPTION]
        before = [i for i, child in enumerate(encoding) if child.tag not in later]
        encoding.insert(before[-1] + 1, description)
    for old in description.findall("{*}userParameterString"):
        if old.findtext("{*}name", "").strip() == "units":
            description.remove(old)
    parameter = ElementTree.Element(f"{space}userParameterString")
    ElementTree.SubElement(parameter, f"{space}name").text = "units"
    ElementTree.SubElement(parameter, f"{space}value").text = "1/m"
    comments = [i for i, child in enumerate(description) if child.tag == f"{space}comment"]
    description.insert(comments[0] if comments else len(description), parameter)
