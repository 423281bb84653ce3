"""Raw k-space in the ISMRMRD format: read with every check of the contract, and written.

The acquisitions are read and written as one table, since the format's own library appends them
one by one (3 ms each).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import ismrmrd.xsd
import numpy as np
from ismrmrd.hdf5 import acquisition_dtype

from sodiumprep.sodium.acquisition import Acquisition, Complexes, Floats, Geometry

NOISE = 1 << (ismrmrd.ACQ_IS_NOISE_MEASUREMENT - 1)
NOT_IMAGING = sum(
    1 << (flag - 1)
    for flag in (
        ismrmrd.ACQ_IS_NAVIGATION_DATA,
        ismrmrd.ACQ_IS_PHASECORR_DATA,
        ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
        ismrmrd.ACQ_IS_PHASE_STABILIZATION,
    )
)
PLAUSIBLE_MAXIMUM = (0.25, 0.55)  # largest |component|, cycles per voxel of the encoded matrix
PROTON_GAMMA_BAR = 42.577e6  # Hz/T


@dataclass(frozen=True)
class KspaceHeader:
    """Protocol numbers of a raw file; None where the file does not tell.

    Parameters
    ----------
    echo_time, repetition_time
        [s].
    flip_angle
        [rad].
    field_strength
        [T].
    geometry_matrix
        Matrix of the reconstructed image.
    fov
        Field of view of the reconstructed image [m].
    encoded_voxel
        Voxel edge of the encoded matrix [m].
    trajectory_units
        "normalized", "1/m" or None.
    """

    echo_time: float | None
    repetition_time: float | None
    flip_angle: float | None
    field_strength: float | None
    geometry_matrix: tuple[int, int, int]
    fov: tuple[float, float, float]
    encoded_voxel: tuple[float, float, float]
    trajectory_units: str | None


def _first(values: Any, scale: float = 1.0) -> float | None:
    return float(values[0]) * scale if values else None


def _xyz(item: Any, scale: float = 1.0) -> tuple[Any, Any, Any]:
    return tuple(value * scale if scale != 1.0 else value for value in (item.x, item.y, item.z))


def _trajectory_units(encoding: Any) -> str | None:
    description = encoding.trajectoryDescription
    if description is None:
        return None
    named = {p.name: p.value.strip() for p in description.userParameterString}
    return named.get("units")


def _open(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not a complete HDF5 file ({error})") from None
    if "dataset" not in file or "data" not in file["dataset"] or "xml" not in file["dataset"]:
        file.close()
        raise ValueError(f"{path}: no ISMRMRD group 'dataset' with 'xml' and 'data' in it")
    return file


def _parse_header(path: Path, xml: Any) -> KspaceHeader:
    try:
        header = ismrmrd.xsd.CreateFromDocument(xml)
    except Exception as error:  # the XML binding raises types of its own, all mean the same
        raise ValueError(f"{path}: the ISMRMRD header cannot be read ({error})") from None
    if not header.encoding:
        raise ValueError(f"{path}: the ISMRMRD header has no 'encoding'")
    encoding, sequence = header.encoding[0], header.sequenceParameters
    system = header.acquisitionSystemInformation
    field = getattr(system, "systemFieldStrength_T", None)
    if field is None and header.experimentalConditions is not None:
        field = header.experimentalConditions.H1resonanceFrequency_Hz / PROTON_GAMMA_BAR
    encoded = encoding.encodedSpace
    fov, matrix = _xyz(encoded.fieldOfView_mm, 1e-3), _xyz(encoded.matrixSize)
    return KspaceHeader(
        echo_time=_first(getattr(sequence, "TE", None), 1e-3),
        repetition_time=_first(getattr(sequence, "TR", None), 1e-3),
        flip_angle=_first(getattr(sequence, "flipAngle_deg", None), np.pi / 180),
        field_strength=None if field is None else float(field),
        geometry_matrix=_xyz(encoding.reconSpace.matrixSize),
        fov=_xyz(encoding.reconSpace.fieldOfView_mm, 1e-3),
        encoded_voxel=tuple(f / n for f, n in zip(fov, matrix, strict=True)),
        trajectory_units=_trajectory_units(encoding),
    )


def read_kspace_header(path: Path | str) -> KspaceHeader:
    """Read the protocol numbers of a raw file.

    Parameters
    ----------
    path
        ISMRMRD file.

    Returns
    -------
    header
        Numbers in SI units.

    Raises
    ------
    ValueError
        If the file is truncated or is not ISMRMRD; the message names it.
    """
    path = Path(path)
    with _open(path) as file:
        return _parse_header(path, file["dataset"]["xml"][0])


def _scale_to_per_metre(path: Path, raw: Floats, header: KspaceHeader) -> Floats:
    voxel = np.asarray(header.encoded_voxel)
    largest = {
        "normalized": float(np.abs(raw).max()),
        "1/m": float(np.abs(raw * voxel).max()),
    }
    low, high = PLAUSIBLE_MAXIMUM
    units = header.trajectory_units
    if units not in (None, *largest):
        raise ValueError(f"{path}: trajectory units '{units}'; accepted: {', '.join(largest)}")
    candidates = [units] if units else list(largest)
    plausible = [u for u in candidates if low < largest[u] <= high]
    if len(plausible) != 1:
        found = ", ".join(f"{largest[u]:.4g} read as {u}" for u in candidates)
        raise ValueError(
            f"{path}: the largest trajectory component is {found} (cycles per voxel of the "
            f"encoded matrix); it must lie in ({low}, {high}]. Check the trajectory's units and "
            "encodedSpace"
        )
    scale = 1 / voxel if plausible[0] == "normalized" else np.ones(3)
    return (raw * scale).astype(np.float32)


def _check_lengths(path: Path, table: Any, indices: Any) -> None:
    head = table["head"]
    first = head[indices[0]]
    for i in indices:
        one = head[i]
        n, coils = int(one["number_of_samples"]), int(one["active_channels"])
        expected = int(first["number_of_samples"]), int(first["active_channels"])
        if (n, coils) != expected or table["data"][i].size != 2 * n * coils:
            raise ValueError(
                f"{path}: readout {i} has {n} samples of {coils} coils ({table['data'][i].size} "
                f"numbers); readout {indices[0]} has {expected[0]} of {expected[1]}"
            )
        if one["trajectory_dimensions"] != 3 or table["traj"][i].size != 3 * n:
            raise ValueError(
                f"{path}: readout {i} has no 3D trajectory ({table['traj'][i].size} numbers, "
                f"{3 * n} expected); every acquisition must carry its own"
            )


def _stack_samples(path: Path, table: Any, indices: Any) -> Complexes:
    head = table["head"][indices[0]]
    shape = (len(indices), int(head["active_channels"]), int(head["number_of_samples"]))
    samples = np.stack([table["data"][i] for i in indices]).view(np.complex64).reshape(shape)
    bad = ~np.isfinite(samples).all(axis=(1, 2))
    if bad.any():
        raise ValueError(f"{path}: readout {indices[int(np.argmax(bad))]} holds NaN or infinity")
    return samples


def _stack_trajectory(path: Path, table: Any, indices: Any) -> Floats:
    stacked = np.stack([table["traj"][i] for i in indices]).reshape(len(indices), -1, 3)
    bad = ~np.isfinite(stacked).all(axis=(1, 2))
    if bad.any():
        raise ValueError(
            f"{path}: the trajectory of readout {indices[int(np.argmax(bad))]} holds NaN"
        )
    return np.asarray(stacked, np.float32)


def _average_repeats(
    samples: Complexes, trajectory: Floats, repeat: Any
) -> tuple[Complexes, Floats]:
    """Average the repeats that share a trajectory; repeats with their own stand side by side."""
    members = [np.flatnonzero(repeat == r) for r in np.unique(repeat)]
    same_length = len({len(m) for m in members}) == 1
    tolerance = 1e-5 * float(np.abs(trajectory).max())
    if not same_length or any(
        np.abs(trajectory[m] - trajectory[members[0]]).max() > tolerance for m in members
    ):
        return samples, trajectory
    return np.mean([samples[m] for m in members], axis=0), trajectory[members[0]]


def _geometry(path: Path, heads: Any, header: KspaceHeader) -> Geometry:
    for key in ("position", "read_dir", "phase_dir", "slice_dir"):
        if np.ptp(heads[key], axis=0).max() > 1e-3:
            raise ValueError(f"{path}: '{key}' differs between the readouts of one image")
    directions = np.stack([heads[0][k] for k in ("read_dir", "phase_dir", "slice_dir")])
    directions = directions.astype(np.float64)
    if np.abs(directions @ directions.T - np.eye(3)).max() > 1e-3:
        raise ValueError(
            f"{path}: read_dir, phase_dir and slice_dir are not orthogonal unit vectors: "
            f"{directions.round(4).tolist()}"
        )
    position = heads[0]["position"].astype(np.float64)
    return Geometry(position, directions, header.fov, header.geometry_matrix)


def _required(path: Path, name: str, value: float | None) -> float:
    if value is None:
        raise ValueError(f"{path}: '{name}' is missing from the ISMRMRD header")
    return value


def _read_noise(
    path: Path, table: Any, coils: int, dwell: float
) -> tuple[Complexes | None, float | None]:
    rows = np.flatnonzero(table["head"]["flags"] & NOISE)
    if not len(rows):
        return None, None
    for i in rows:
        one, size = table["head"][i], table["data"][i].size
        if one["active_channels"] != coils or size != 2 * coils * int(one["number_of_samples"]):
            raise ValueError(
                f"{path}: readout {i} (noise) has {one['number_of_samples']} samples of "
                f"{one['active_channels']} coils ({size} numbers); the imaging readouts have "
                f"{coils} coils"
            )
    parts = [_stack_samples(path, table, rows[i : i + 1])[0] for i in range(len(rows))]
    own_dwell = float(table["head"]["sample_time_us"][rows[0]]) * 1e-6
    return np.concatenate(parts, axis=-1), own_dwell or dwell


def _kept_samples(path: Path, head: Any) -> slice:
    pre, post = int(head["discard_pre"]), int(head["discard_post"])
    n = int(head["number_of_samples"])
    if pre + post > n - 2:
        raise ValueError(
            f"{path}: discard_pre {pre} and discard_post {post} leave fewer than 2 of {n} samples"
        )
    return slice(pre, n - post)


def _imaging_rows(path: Path, heads: Any) -> Any:
    imaging = np.flatnonzero((heads["flags"] & (NOISE | NOT_IMAGING)) == 0)
    if not len(imaging):
        raise ValueError(f"{path}: no imaging readout in the file")
    contrast = heads["idx"]["contrast"][imaging]
    return imaging[contrast == contrast.min()]


def read_kspace(path: Path | str) -> Acquisition:
    """Read the first echo of a raw file; repetitions and averages of one trajectory are averaged.

    Parameters
    ----------
    path
        ISMRMRD file with the trajectory inside.

    Returns
    -------
    acquisition
        Samples, trajectory [1/m], timing and geometry.

    Raises
    ------
    ValueError
        If the file is truncated, has NaN, readouts of unequal length, no trajectory, or a
        trajectory outside the plausible range; the message names file and readout.
    """
    path = Path(path)
    with _open(path) as file:
        header = _parse_header(path, file["dataset"]["xml"][0])
        try:
            table = file["dataset"]["data"][:]
        except OSError as error:
            raise ValueError(f"{path}: truncated, the readouts cannot be read ({error})") from None
    rows = _imaging_rows(path, table["head"])
    _check_lengths(path, table, rows)
    heads = table["head"][rows]
    kept = _kept_samples(path, heads[0])
    repeat = heads["idx"]["repetition"].astype(int) * 65536 + heads["idx"]["average"]
    samples, trajectory = _average_repeats(
        _stack_samples(path, table, rows)[:, :, kept],
        _scale_to_per_metre(path, _stack_trajectory(path, table, rows)[:, kept], header),
        repeat,
    )
    dwell = float(heads["sample_time_us"][0]) * 1e-6
    if not dwell > 0:
        raise ValueError(f"{path}: sample_time_us is {dwell * 1e6:g}; it must be positive")
    noise, noise_dwell = _read_noise(path, table, samples.shape[1], dwell)
    return Acquisition(
        samples=np.ascontiguousarray(samples.transpose(1, 0, 2)),
        trajectory=trajectory,
        dwell_time=dwell,
        echo_time=_required(path, "TE", header.echo_time),
        repetition_time=_required(path, "TR", header.repetition_time),
        flip_angle=_required(path, "flipAngle_deg", header.flip_angle),
        field_strength=_required(path, "systemFieldStrength_T", header.field_strength),
        geometry=_geometry(path, heads, header),
        noise=noise,
        noise_dwell_time=noise_dwell,
    )


def _space(geometry: Geometry) -> ismrmrd.xsd.encodingSpaceType:
    return ismrmrd.xsd.encodingSpaceType(
        matrixSize=ismrmrd.xsd.matrixSizeType(
            **{axis: int(n) for axis, n in zip("xyz", geometry.matrix, strict=True)}
        ),
        fieldOfView_mm=ismrmrd.xsd.fieldOfViewMm(
            **{axis: float(f) * 1e3 for axis, f in zip("xyz", geometry.fov, strict=True)}
        ),
    )


def _header_xml(acquisition: Acquisition) -> str:
    xsd = ismrmrd.xsd
    space = _space(acquisition.geometry)
    description = xsd.trajectoryDescriptionType(
        identifier="sampled",
        userParameterString=[xsd.userParameterStringType(name="units", value="1/m")],
    )
    limit = xsd.limitType(maximum=int(acquisition.trajectory.shape[0] - 1))
    encoding = xsd.encodingType(
        encodedSpace=space,
        reconSpace=space,
        encodingLimits=xsd.encodingLimitsType(kspace_encoding_step_1=limit),
        trajectory=xsd.trajectoryType("other"),
        trajectoryDescription=description,
    )
    header = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(
            H1resonanceFrequency_Hz=int(acquisition.field_strength * PROTON_GAMMA_BAR)
        ),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            systemFieldStrength_T=float(acquisition.field_strength),
            receiverChannels=int(acquisition.samples.shape[0]),
        ),
        encoding=[encoding],
        sequenceParameters=xsd.sequenceParametersType(
            TR=[acquisition.repetition_time * 1e3],
            TE=[acquisition.echo_time * 1e3],
            flipAngle_deg=[float(np.degrees(acquisition.flip_angle))],
        ),
    )
    return str(xsd.ToXML(header))


def _fill_heads(table: Any, acquisition: Acquisition, n_noise: int) -> None:
    head, geometry = table["head"], acquisition.geometry
    coils, _, n = acquisition.samples.shape
    head["version"], head["available_channels"], head["active_channels"] = 1, coils, coils
    head["scan_counter"] = np.arange(len(head))
    head["number_of_samples"], head["trajectory_dimensions"] = n, 3
    head["sample_time_us"] = acquisition.dwell_time * 1e6
    head["position"] = geometry.position
    for key, direction in zip(
        ("read_dir", "phase_dir", "slice_dir"), geometry.directions, strict=True
    ):
        head[key] = direction
    head["idx"]["kspace_encode_step_1"][n_noise:] = np.arange(len(head) - n_noise)
    if n_noise and acquisition.noise is not None:
        head["flags"][:n_noise] = NOISE
        head["number_of_samples"][:n_noise] = acquisition.noise.shape[-1]
        head["trajectory_dimensions"][:n_noise] = 0
        head["sample_time_us"][:n_noise] = (acquisition.noise_dwell_time or 0) * 1e6


def write_kspace(path: Path | str, acquisition: Acquisition) -> None:
    """Write an acquisition as ISMRMRD, trajectory in 1/m with every readout.

    Parameters
    ----------
    path
        File to write; an existing one is replaced.
    acquisition
        What to write; its noise becomes one noise readout in front.
    """
    n_noise = 0 if acquisition.noise is None else 1
    n_readouts = acquisition.trajectory.shape[0]
    table = np.zeros(n_readouts + n_noise, acquisition_dtype)
    _fill_heads(table, acquisition, n_noise)
    if acquisition.noise is not None:
        table["data"][0] = _as_floats(acquisition.noise)
        table["traj"][0] = np.zeros(0, np.float32)
    for i in range(n_readouts):
        table["data"][i + n_noise] = _as_floats(acquisition.samples[:, i])
        table["traj"][i + n_noise] = acquisition.trajectory[i].astype(np.float32).ravel()
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        xml = group.create_dataset("xml", (1,), dtype=h5py.special_dtype(vlen=bytes))
        xml[0] = _header_xml(acquisition).encode()
        chunk = min(256, len(table))
        group.create_dataset("data", data=table, maxshape=(None,), chunks=(chunk,))


def _as_floats(samples: Complexes) -> Floats:
    return np.ascontiguousarray(samples, np.complex64).view(np.float32).ravel()
