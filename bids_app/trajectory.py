"""The command ``sodiumprep-trajectory``: an analytic trajectory for a raw file that lacks one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.metadata import TRAJECTORY_TYPES, Key, UserError, read_sidecar
from sodiumprep.interfaces.trajectory import Readouts, add_trajectory, list_readouts
from sodiumprep.sodium.trajectory import (
    SIDECAR_KEYS,
    TrajectoryProtocol,
    analytic_trajectory,
    centre_step,
)

EXIT_REFUSED = 2
READOUTS = Key(SIDECAR_KEYS["readouts"], "readouts", 2, 10_000_000)
SAMPLES = Key(SIDECAR_KEYS["samples"], "samples", 2, 65535)
MAXIMUM = Key(SIDECAR_KEYS["k_max"], "1/m", 10.0, 5000.0, "the unit is 1/m, not 1/mm")
VOXEL_SIZE = "AcquisitionVoxelSize"
OPTIONAL = {
    "k0_fraction": Key(SIDECAR_KEYS["k0_fraction"], "", 0.01, 1.0),
    "twist": Key(SIDECAR_KEYS["twist"], "", 0.0, 1000.0),
    "hubs": Key(SIDECAR_KEYS["hubs"], "", 1, 3),
}
WHOLE = ("hubs",)


def read_trajectory_protocol(
    sidecar: Mapping[str, Any], where: str, readouts: Readouts
) -> TrajectoryProtocol:
    """Return the trajectory that a sidecar describes, checked against the raw file.

    Parameters
    ----------
    sidecar
        Keys of the JSON file.
    where
        Its name, for messages.
    readouts
        What the raw file holds.

    Returns
    -------
    protocol
        Kind and numbers.

    Raises
    ------
    UserError
        If a key is missing, outside its range, or contradicts the raw file.

    Examples
    --------
    >>> import numpy as np
    >>> keys = {"TrajectoryType": "radial", "AcquisitionVoxelSize": [4, 4, 4]}
    >>> two = Readouts(np.arange(2), np.arange(2), 2, slice(0, 9), 9, 0, False, 0)
    >>> read_trajectory_protocol(keys, "a.json", two)
    TrajectoryProtocol(kind='radial', readouts=2, samples=9, k_max=125.0, ...)
    """
    kind = str(sidecar.get(SIDECAR_KEYS["kind"], "missing")).strip().lower().replace("_", " ")
    kinds = [name for name in TRAJECTORY_TYPES if name != "cartesian"]
    if kind not in kinds:
        raise UserError(f"{where}: {SIDECAR_KEYS['kind']} is {kind}; accepted: {', '.join(kinds)}")
    kept = readouts.kept.stop - readouts.kept.start
    count = READOUTS.read_optional(sidecar, where) or readouts.count
    _must_agree(where, READOUTS, count, readouts.count)
    _must_agree(where, SAMPLES, SAMPLES.read_optional(sidecar, where) or kept, kept)
    given = {name: key.read_optional(sidecar, where) for name, key in OPTIONAL.items()}
    return TrajectoryProtocol(
        kind, readouts.count, kept, _largest_frequency(sidecar, where),
        **{name: int(value) if name in WHOLE else value
           for name, value in given.items() if value is not None},
    )  # fmt: skip


def _must_agree(where: str, key: Key, stated: float, found: int) -> None:
    if stated != found:
        raise UserError(
            f"{where}: {key.name} is {stated:g}; the raw file has {found} (kept) {key.unit}; "
            "accepted: the same number"
        )


def _largest_frequency(sidecar: Mapping[str, Any], where: str) -> float:
    if sidecar.get(MAXIMUM.name) is not None or sidecar.get(VOXEL_SIZE) is None:
        return MAXIMUM.read(sidecar, f"{where} (or {VOXEL_SIZE} instead)")
    edges = sidecar[VOXEL_SIZE]
    if not isinstance(edges, list) or len(edges) != 3 or len(set(edges)) != 1:
        raise UserError(
            f"{where}: {VOXEL_SIZE} is {edges}; accepted: three equal numbers [mm], or "
            f"{MAXIMUM.name} [1/m]"
        )
    edge = Key(VOXEL_SIZE, "mm", 0.1, 50.0).read({VOXEL_SIZE: edges[0]}, where)
    return TrajectoryProtocol.largest_frequency(edge * 1e-3)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="sodiumprep-trajectory",
        description="Add an analytic trajectory to an ISMRMRD file that lacks one. The sidecar "
        "names it: " + ", ".join([*SIDECAR_KEYS.values(), VOXEL_SIZE]) + ".",
    )
    parser.add_argument("source", type=Path, metavar="IN.h5", help="raw file, left as it is")
    parser.add_argument("target", type=Path, metavar="OUT.h5", help="copy with the trajectory")
    parser.add_argument(
        "--sidecar", type=Path, metavar="FILE", help="JSON file (default: IN.json beside IN.h5)"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a trajectory or an OUT.h5 that is there"
    )
    return parser


def _check_paths(options: argparse.Namespace) -> None:
    source, target = options.source, options.target
    if not source.is_file():
        raise UserError(f"{source}: does not exist; accepted: an ISMRMRD file")
    if target.exists() and target.samefile(source):
        raise UserError(f"{target}: is the input itself; accepted: another file")
    if target.exists() and not options.force:
        raise UserError(f"{target}: exists; accepted: a new file, or --force")
    if not target.resolve().parent.is_dir():
        raise UserError(f"{target}: its folder does not exist")


def run(options: argparse.Namespace) -> str:
    """Write the copy with its trajectory.

    Parameters
    ----------
    options
        Of the command line.

    Returns
    -------
    summary
        What was written, one line.

    Raises
    ------
    UserError
        If paths or sidecar make no sense, or a trajectory is there already.
    ValueError
        If the raw file cannot be used.
    """
    _check_paths(options)
    sidecar = options.sidecar or options.source.with_suffix(".json")
    readouts = list_readouts(options.source)
    if readouts.present and not options.force:
        raise UserError(
            f"{options.source}: {readouts.present} of {len(readouts.rows)} readouts have a "
            "trajectory already; accepted: none, or --force"
        )
    protocol = read_trajectory_protocol(read_sidecar(sidecar), str(sidecar), readouts)
    try:
        trajectory = analytic_trajectory(protocol)
    except ValueError as error:
        raise UserError(f"{sidecar}: {error}") from error
    add_trajectory(options.source, options.target, readouts, trajectory)
    order = "their counters" if readouts.counted else "time"
    return (
        f"{options.target}: {protocol.kind}, {protocol.readouts} readouts of {protocol.samples} "
        f"samples up to {protocol.k_max:g}/m (first steps {centre_step(trajectory):.3g}/m), in "
        f"the order of {order}. Order and orientation of the readouts are the generator's: "
        "compare the image with one from the scanner"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv
        Arguments; those of the process if None.

    Returns
    -------
    code
        0, or 2 if nothing was written.
    """
    options = build_parser().parse_args(argv)
    try:
        print(run(options))
    except (UserError, ValueError, OSError) as error:
        print(f"sodiumprep-trajectory: error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return 0
