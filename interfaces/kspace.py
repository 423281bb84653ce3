"""Raw k-space in the ISMRMRD format: read with every check of the contract, and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import ismrmrd.xsd
import numpy as np
from ismrmrd.hdf5 import acquisition_dtype

from sodiumprep.interfaces.kspace_file import (
    BLOCK,
    NOISE,
    Encoding,
    KspaceFile,
    KspaceHeader,
    check_equal,
    protocol_numbers,
    read_encoding,
    read_kspace_header,
    sort_readouts,
)
from sodiumprep.sodium.acquisition import (
    PROTON_GAMMA_BAR,
    Acquisition,
    Complexes,
    Floats,
    Geometry,
    Integers,
    average_averages,
    join_noise,
)

__all__ = ["KspaceHeader", "read_echoes", "read_kspace", "read_kspace_header", "write_kspace"]

PLAUSIBLE_MAXIMUM = (0.25, 0.55)  # largest |component|, cycles per voxel of the encoded matrix
SAME_IN_ALL = ("sample_time_us", "discard_pre", "discard_post",
               "position", "read_dir", "phase_dir", "slice_dir")  # fmt: skip
TAKEN_TOGETHER = ("set", "phase", "slice")  # counters that make no image of their own here
COUNTER = 65536  # values of a counter of the format
REACHED = 0.05  # least largest component along each axis: below it k-space is flat
MAGNITUDES = (1e-12, 1e12)  # of the largest sample: images and their squares stay finite
SPIKE = 10.0  # peak of a readout over the median of its repetition; of that over the others
LARGEST_GAP = 3.0  # cycles per field of view around the centre without a sample
ZERO_SHARE = 0.01  # of the readouts of a repetition that may hold only zeros


def read_kspace(
    path: Path | str, echo: int = 1, stated: Mapping[str, float | None] | None = None
) -> Acquisition:
    """Read one echo of a raw file.

    Averages are averaged inside their repetition, the repetitions stay apart (see
    :func:`~sodiumprep.sodium.acquisition.average_repetitions`). Navigators, dummy scans and the
    like are passed over, with a warning that counts them.

    Parameters
    ----------
    path
        ISMRMRD file, trajectory with every readout.
    echo
        Number of the echo, from 1.
    stated
        Numbers of the sidecar that stand in where the header is silent: ``echo_time`` [s],
        ``repetition_time`` [s], ``flip_angle`` [rad], ``field_strength`` [T].

    Returns
    -------
    acquisition
        Samples, trajectory [1/m], timing and geometry.

    Raises
    ------
    ValueError
        If the file is truncated, has NaN, spikes or zeros for samples, readouts of unequal
        length, no trajectory, a trajectory outside the plausible range, or lacks a number; the
        message names file and readout.
    """
    with KspaceFile(path) as file:
        root, heads = file.header(), file.heads()
        rows, noise_rows, skipped = sort_readouts(file.path, heads)
        rows, contrast = _rows_of_echo(file.path, heads, rows, echo)
        rows, number, left_out = _rows_of_encoding(file.path, heads, rows)
        encoding, warning = read_encoding(file.path, root, number)
        header = protocol_numbers(file.path, root)
        geometry = _check_heads(file.path, heads, rows, encoding)
        samples, trajectory = _read_readouts(file, heads, rows)
        rows, samples, trajectory, silent = _usable_repetitions(
            file.path, heads, rows, samples, trajectory
        )
        noise, noise_dwell = _read_noise(file, heads, noise_rows, rows[0])
    trajectory = to_per_metre(file.path, trajectory, encoding)
    passing, gap = _passes_the_centre(file.path, trajectory, geometry)
    odd = _check_samples(file.path, samples, rows, heads["idx"]["repetition"][rows], passing)
    _check_noise(file.path, samples, noise)
    acquisition = Acquisition(
        samples=samples,
        trajectory=trajectory,
        dwell_time=float(heads["sample_time_us"][rows[0]]) * 1e-6,
        **_protocol(file.path, header, contrast, stated or {}),
        geometry=geometry,
        noise=noise,
        noise_dwell_time=noise_dwell,
        warnings=_warnings(
            [*skipped, *left_out],
            warning,
            *silent,
            *odd,
            gap,
            *_other_counters(heads["idx"][rows]),
        ),
    )
    return _with_averages(acquisition, heads["idx"][rows])


def read_echoes(
    path: Path | str, stated: Mapping[str, float | None] | None = None
) -> tuple[Acquisition, ...]:
    """Read all echoes of a raw file.

    Parameters
    ----------
    path
        ISMRMRD file; the counter ``contrast`` tells the echoes apart.
    stated
        As in :func:`read_kspace`; the echo time is that of the first echo and of no other.

    Returns
    -------
    echoes
        In the order of their times.

    Raises
    ------
    ValueError
        As :func:`read_kspace`; if an echo has no 'TE', these do not rise with the counter, or
        the echoes differ in field of view, coils or repetitions.
    """
    path, stated = Path(path), stated or {}
    with KspaceFile(path) as file:
        heads, times = file.heads(), protocol_numbers(path, file.header()).echo_times
        imaging, _, _ = sort_readouts(path, heads)
    count = len(np.unique(heads["idx"]["contrast"][imaging]))
    if count > 1 and len(times) < count:
        raise ValueError(
            f"{path}: the ISMRMRD header has {len(times)} 'TE' for {count} echoes; accepted: one "
            "for each [ms]"
        )
    later = {key: value for key, value in stated.items() if key != "echo_time"}
    echoes = [read_kspace(path, n, later if n > 1 else stated) for n in range(1, count + 1)]
    _check_train(path, echoes)
    return tuple(echoes)


def _check_train(path: Path, echoes: Sequence[Acquisition]) -> None:
    """Refuse echoes that are not of one object, or not in the order of their times."""
    times = [echo.echo_time for echo in echoes]
    if np.any(np.diff(times) <= 0):
        shown = ", ".join(f"{time * 1e3:g}" for time in times)
        raise ValueError(
            f"{path}: 'TE' of the echoes is {shown} ms in the order of the counter 'contrast'; "
            "accepted: each later than the one before"
        )
    try:
        _check_echoes(echoes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; accepted: the same in all echoes") from None
    labels = [np.unique(echo.repetition_labels).tolist() for echo in echoes]
    if any(each != labels[0] for each in labels):
        counts = ", ".join(str(len(each)) for each in labels)
        raise ValueError(
            f"{path}: its echoes hold {counts} usable repetitions; accepted: the same in all"
        )


def _warnings(skipped: Sequence[str], *others: str) -> tuple[str, ...]:
    text = f"readouts that are no image data were passed over: {', '.join(skipped)}"
    return tuple(filter(None, (text if skipped else "", *others)))


def _other_counters(counters: Any) -> list[str]:
    """Warn where readouts are told apart by what this reader takes together."""
    counts = {name: len(np.unique(counters[name])) for name in TAKEN_TOGETHER}
    return [
        f"the readouts have {count} values of the counter '{name}': they are taken as one image"
        for name, count in counts.items()
        if count > 1
    ]


def _rows_of_echo(
    path: Path, heads: Any, rows: Integers, echo: int
) -> tuple[Integers, tuple[int, int, int]]:
    """Return the readouts of one echo, and its counter, its rank and the number of echoes."""
    contrasts = heads["idx"]["contrast"][rows]
    present = np.unique(contrasts)
    if not 1 <= echo <= len(present):
        raise ValueError(f"{path}: echo {echo} was asked for; accepted: 1 to {len(present)}")
    contrast = int(present[echo - 1])
    return rows[contrasts == contrast], (contrast, echo - 1, len(present))


def _rows_of_encoding(path: Path, heads: Any, rows: Integers) -> tuple[Integers, int, list[str]]:
    """Return the readouts of the encoding that has a trajectory in three dimensions."""
    references = heads["encoding_space_ref"][rows]
    present = np.unique(references)
    if len(present) == 1:
        return rows, int(present[0]), []
    spatial = heads["trajectory_dimensions"][rows] == 3
    candidates = [number for number in present if spatial[references == number].all()]
    if len(candidates) != 1:
        raise ValueError(
            f"{path}: its imaging readouts belong to {len(present)} encodings, {len(candidates)} "
            "of them with a 3D trajectory; accepted: one. Convert the sodium data alone"
        )
    mine = references == candidates[0]
    return rows[mine], int(candidates[0]), [f"{int((~mine).sum())} of other encodings"]


def _check_heads(path: Path, heads: Any, rows: Integers, encoding: Encoding) -> Geometry:
    first = rows[0]
    sizes = [heads[key][rows] for key in ("number_of_samples", "active_channels")]
    differs = (sizes[0] != sizes[0][0]) | (sizes[1] != sizes[1][0])
    if differs.any():
        i = int(np.argmax(differs))
        raise ValueError(
            f"{path}: readout {rows[i]} has {sizes[0][i]} samples of {sizes[1][i]} coils; "
            f"readout {first} has {sizes[0][0]} of {sizes[1][0]}; accepted: the same in all"
        )
    if not sizes[1][0]:
        raise ValueError(f"{path}: readout {first} has no coil (active_channels is 0)")
    flat = heads["trajectory_dimensions"][rows] != 3
    if flat.any():
        _refuse_trajectory(path, heads, rows, int(np.argmax(flat)))
    check_equal(path, heads, rows, SAME_IN_ALL)
    dwell = float(heads["sample_time_us"][first])
    if not 0 < dwell < 1e4:
        raise ValueError(
            f"{path}: sample_time_us is {dwell:g}; it must be positive, and below 10000"
        )
    return _geometry(path, heads[first], encoding)


def _refuse_trajectory(path: Path, heads: Any, rows: Integers, i: int) -> None:
    dimensions = int(heads["trajectory_dimensions"][rows[i]])
    many = int((heads["trajectory_dimensions"][rows] != 3).sum())
    raise ValueError(
        f"{path}: readout {rows[i]} has no 3D trajectory (trajectory_dimensions is {dimensions}; "
        f"{many} of {len(rows)} readouts lack one); accepted: (samples, 3) with every readout. "
        "sodiumprep-trajectory adds one from the protocol"
    )


def _geometry(path: Path, head: Any, encoding: Encoding) -> Geometry:
    directions = np.stack([head[key] for key in ("read_dir", "phase_dir", "slice_dir")])
    directions = directions.astype(np.float64)
    if not np.abs(directions @ directions.T - np.eye(3)).max() <= 1e-3:
        raise ValueError(
            f"{path}: read_dir, phase_dir and slice_dir are not orthogonal unit vectors: "
            f"{directions.round(4).tolist()}; the converter must write the orientation"
        )
    position = head["position"].astype(np.float64)
    if not np.abs(position).max() <= 1000:
        raise ValueError(
            f"{path}: position is {position.tolist()}; accepted: -1000 to 1000 mm along each axis"
        )
    return Geometry(position, directions, encoding.fov, encoding.matrix)


def kept_samples(path: Path, head: Any) -> slice:
    """Return the samples of a readout that are not discarded.

    Parameters
    ----------
    path
        For messages.
    head
        Of the readout.

    Returns
    -------
    kept
        From the first to behind the last one.

    Raises
    ------
    ValueError
        If fewer than two are kept.
    """
    pre, post, n = (int(head[key]) for key in ("discard_pre", "discard_post", "number_of_samples"))
    if pre + post > n - 2:
        raise ValueError(
            f"{path}: discard_pre {pre} and discard_post {post} leave fewer than 2 of {n} samples"
        )
    return slice(pre, n - post)


def _read_readouts(file: KspaceFile, heads: Any, rows: Integers) -> tuple[Complexes, Floats]:
    """Read samples (coils, readouts, n) and trajectory (readouts, n, 3) of equal readouts."""
    kept = kept_samples(file.path, heads[rows[0]])
    n, shape = int(heads["number_of_samples"][rows[0]]), (len(rows), kept.stop - kept.start)
    samples = np.empty((int(heads["active_channels"][rows[0]]), *shape), np.complex64)
    trajectory = np.empty((*shape, 3), np.float32)
    for i, entry in file.blocks(rows):
        readout = _samples_of(file.path, heads, int(rows[i]), entry)[:, kept]
        if not np.isfinite(readout).all():
            raise ValueError(_not_finite(file.path, f"readout {rows[i]}"))
        samples[:, i] = readout
        if entry["traj"].size != 3 * n:
            raise ValueError(
                f"{file.path}: readout {rows[i]} has no 3D trajectory ({entry['traj'].size} "
                f"numbers, {3 * n} expected); every acquisition must carry its own"
            )
        trajectory[i] = entry["traj"].reshape(n, 3)[kept]
        if not np.isfinite(trajectory[i]).all():
            raise ValueError(_not_finite(file.path, f"the trajectory of readout {rows[i]}"))
    return samples, trajectory


def _not_finite(path: Path, what: str) -> str:
    return f"{path}: {what} holds NaN or infinity; accepted: finite numbers"


def _samples_of(path: Path, heads: Any, row: int, entry: Any) -> Complexes:
    coils, n = (int(heads[key][row]) for key in ("active_channels", "number_of_samples"))
    if entry["data"].size != 2 * n * coils:
        raise ValueError(
            f"{path}: readout {row} has {n} samples of {coils} coils in its head and "
            f"{entry['data'].size} numbers; accepted: {2 * n * coils}"
        )
    return entry["data"].view(np.complex64).reshape(coils, n)


def _read_noise(
    file: KspaceFile, heads: Any, noise_rows: Integers, first: int
) -> tuple[Complexes | None, float | None]:
    """Read the noise readouts, of any length and dwell time; None where there are none."""
    if not len(noise_rows):
        return None, None
    coils = int(heads["active_channels"][first])
    differs = heads["active_channels"][noise_rows] != coils
    if differs.any():
        row = noise_rows[int(np.argmax(differs))]
        raise ValueError(
            f"{file.path}: readout {row} (noise) has {heads['active_channels'][row]} coils; the "
            f"imaging readouts have {coils}; accepted: the same"
        )
    own = heads["sample_time_us"].astype(np.float64) * 1e-6
    if not np.isfinite(own[noise_rows]).all():
        row = noise_rows[int(np.argmax(~np.isfinite(own[noise_rows])))]
        raise ValueError(
            f"{file.path}: sample_time_us of readout {row} (noise) is "
            f"{heads['sample_time_us'][row]:g}; accepted: a number, 0 where it is not known"
        )
    parts, dwell_times = [], []
    for i, entry in file.blocks(noise_rows):
        row = int(noise_rows[i])
        parts.append(_samples_of(file.path, heads, row, entry))
        dwell_times.append(float(own[row] if own[row] > 0 else own[first]))
        if not np.isfinite(parts[-1]).all():
            raise ValueError(_not_finite(file.path, f"readout {row} (noise)"))
    return join_noise(parts, dwell_times)


def _passes_the_centre(path: Path, trajectory: Floats, geometry: Geometry) -> tuple[bool, str]:
    """Tell whether all readouts come within 1 / FOV of the centre; warn if none does."""
    squares = np.einsum("ijk,ijk->ij", trajectory, trajectory).min(axis=1)
    nearest = np.sqrt(squares.astype(np.float64)) * max(geometry.fov)
    gap = float(nearest.min())
    if gap <= 1:
        return bool(nearest.max() <= 1), ""
    text = f"no sample lies nearer to the centre of k-space than {gap:.3g} cycles per FOV"
    if gap > LARGEST_GAP:
        raise ValueError(
            f"{path}: {text}; accepted: up to {LARGEST_GAP:g}, as the signal is there"
        )
    return False, f"{text}: the image is not quantitative"


def _usable_repetitions(
    path: Path, heads: Any, rows: Integers, samples: Complexes, trajectory: Floats
) -> tuple[Integers, Complexes, Floats, list[str]]:
    """Leave out repetitions without signal; refuse those of another scale. Return warnings too."""
    labels = heads["idx"]["repetition"][rows]
    present = np.unique(labels)
    if len(present) == 1:
        return rows, samples, trajectory, []
    peaks = np.max([np.abs(coil).max(axis=-1) for coil in samples], axis=0)
    level = np.array([np.median(peaks[labels == n]) for n in present])
    sounding = level > 0
    usual = float(np.median(level[sounding])) if sounding.any() else 0.0
    if np.count_nonzero(sounding) == 2:
        usual = float(level[sounding].min())  # which of two is wrong cannot be told
    if (level > SPIKE * usual).any():
        worst = int(np.argmax(level))
        raise ValueError(
            f"{path}: the signal of repetition {present[worst] + 1} is "
            f"{level[worst] / usual:.3g} times that of the others; accepted: up to {SPIKE:g} times"
        )
    sounding &= level >= usual / SPIKE
    kept = np.isin(labels, present[sounding])
    if kept.all() or not kept.any():
        return rows, samples, trajectory, []
    names = ", ".join(str(n + 1) for n in present[~sounding])
    text = f"repetition {names} holds no signal and is left out"
    return rows[kept], samples[:, kept], trajectory[kept], [text]


def _check_samples(
    path: Path, samples: Complexes, rows: Integers, repetition: Integers, passing: bool
) -> list[str]:
    """Refuse samples that no scanner makes; return warnings.

    A repetition that is wrong as a whole is left to what compares repetitions.
    """
    peaks = np.stack([np.abs(coil).max(axis=-1) for coil in samples])
    (low, high), largest = MAGNITUDES, float(peaks.max())
    if not low <= largest <= high:
        raise ValueError(
            f"{path}: the largest sample is {largest:.3g}; accepted: {low:g} to {high:g}"
        )
    warnings = []
    for label in np.unique(repetition):
        part = np.flatnonzero(repetition == label)
        if passing:
            _check_spikes(path, peaks[:, part], rows[part])
        warnings += _check_zeros(path, peaks[:, part], rows[part])
    return warnings


def _check_zeros(path: Path, peaks: Floats, rows: Integers) -> list[str]:
    lost = rows[~peaks.any(axis=0)]
    if not len(lost):
        return []
    text = f"{len(lost)} of {len(rows)} readouts hold only zeros, the first is readout {lost[0]}"
    if len(lost) > ZERO_SHARE * len(rows):
        raise ValueError(f"{path}: {text}; accepted: at most {ZERO_SHARE:.0%} of them")
    return [text]


def _check_spikes(path: Path, peaks: Floats, rows: Integers) -> None:
    """All readouts see the centre of k-space, where the signal is largest, and much the same."""
    usual = np.median(peaks, axis=1, keepdims=True)
    ratio = np.divide(peaks, usual, out=np.zeros_like(peaks), where=usual > 0)
    coil, worst = np.unravel_index(np.argmax(ratio), ratio.shape)
    if ratio[coil, worst] > SPIKE:
        many = int((ratio > SPIKE).any(axis=0).sum())
        raise ValueError(
            f"{path}: the largest sample of readout {rows[worst]} in coil {coil + 1} is "
            f"{ratio[coil, worst]:.3g} times that of the median readout ({many} readouts have "
            f"such a spike); accepted: up to {SPIKE:g} times. Convert the data without them"
        )


def _check_noise(path: Path, samples: Complexes, noise: Complexes | None) -> None:
    if noise is None:
        return
    coils, m = noise.shape
    if m < 2 * coils:
        raise ValueError(
            f"{path}: the noise readouts hold {m} samples for {coils} coils; accepted: at least "
            f"{2 * coils}, or no noise readouts"
        )
    silent = ~noise.any(axis=1)
    wrong = np.flatnonzero(silent & samples.any(axis=(1, 2)))
    if silent.all() or len(wrong):
        which = "all coils" if silent.all() else f"coil {wrong[0] + 1}"
        raise ValueError(
            f"{path}: the noise readouts hold only zeros in {which}; accepted: samples of noise, "
            "or no noise readouts"
        )


def to_per_metre(path: Path, raw: Floats, encoding: Encoding) -> Floats:
    """Scale a trajectory to 1/m, with the unit that its label and its plausible range tell.

    Parameters
    ----------
    path
        For messages.
    raw
        Shape (readouts, n, 3), float32; changed in place.
    encoding
        Its units, and the encoded matrix that normalized units refer to.

    Returns
    -------
    trajectory
        Same shape [1/m].

    Raises
    ------
    ValueError
        If the label is unknown, the largest component lies outside the plausible range, or the
        trajectory is flat.
    """
    voxel = encoding.encoded_voxel.astype(np.float32)
    components = np.maximum(raw.max(axis=(0, 1)), -raw.min(axis=(0, 1)))
    largest = {
        "normalized": float(components.max()),
        "1/m": float((components * voxel).max()),
    }
    units = encoding.trajectory_units
    if units not in (None, *largest):
        raise ValueError(f"{path}: trajectory units '{units}'; accepted: {', '.join(largest)}")
    low, high = PLAUSIBLE_MAXIMUM
    candidates = [units] if units else list(largest)
    plausible = [u for u in candidates if low < largest[u] <= high]
    if len(plausible) != 1:
        found = ", ".join(f"{largest[u]:.4g} read as {u}" for u in candidates)
        raise ValueError(
            f"{path}: the largest trajectory component is {found} (cycles per voxel of the "
            f"encoded matrix); it must lie in ({low}, {high}]. {_hint(largest, encoding)}"
        )
    reached = np.abs(components) * (1 if plausible[0] == "normalized" else voxel)
    if reached.min() < REACHED:
        axis = ("read", "phase", "slice")[int(np.argmin(reached))]
        raise ValueError(
            f"{path}: the trajectory reaches {reached.min():.3g} cycles per voxel of the encoded "
            f"matrix along the {axis} axis; accepted: at least {REACHED} along each axis, it must "
            "be three-dimensional"
        )
    if plausible[0] == "normalized":
        raw /= voxel
    return raw


def _hint(largest: Mapping[str, float], encoding: Encoding) -> str:
    """Tell which other unit would make a trajectory plausible."""
    normalized, per_metre = largest["normalized"], largest["1/m"]
    readings = {
        "as 'normalized'": normalized,
        "as '1/m'": per_metre,
        "in radians per voxel: divide it by 2 pi": normalized / (2 * np.pi),
        "in radians per metre: divide it by 2 pi": per_metre / (2 * np.pi),
        "in cycles per field of view: divide it by the encoded matrix": normalized
        / max(encoding.encoded_matrix),
        "in 1/mm: multiply it by 1000": per_metre * 1e3,
        "in 1/cm: multiply it by 100": per_metre * 1e2,
    }
    if abs(normalized - 1) <= 0.1:
        readings["in units of its own maximum: divide it by 2"] = normalized / 2
    low, high = PLAUSIBLE_MAXIMUM
    fitting = [name for name, value in readings.items() if low < value <= high]
    likely = f" (it would be plausible {' or '.join(fitting)})" if fitting else ""
    return f"Check the trajectory's units and encodedSpace{likely}"


def _protocol(
    path: Path,
    header: KspaceHeader,
    contrast: tuple[int, int, int],
    stated: Mapping[str, float | None],
) -> dict[str, float]:
    """Return the numbers that an acquisition needs, from the header or what stands in."""
    found: dict[str, float | None] = {
        "echo_time": _echo_time(path, header, *contrast),
        "repetition_time": header.repetition_time,
        "flip_angle": header.flip_angle,
        "field_strength": header.field_strength,
    }
    numbers = {key: stated.get(key) if value is None else value for key, value in found.items()}
    for key, value in numbers.items():
        if value is None or not np.isfinite(value) or value < 0:
            element, sidecar, unit = IN_HEADER[key]
            what = "is missing from" if value is None else f"is {value:g} in"
            raise ValueError(
                f"{path}: '{element}' {what} the ISMRMRD header; accepted: a number [{unit}], or "
                f"{sidecar} in the sidecar"
            )
    return {key: value for key, value in numbers.items() if value is not None}


IN_HEADER = {
    "echo_time": ("TE", "EchoTime", "ms"),
    "repetition_time": ("TR", "RepetitionTime", "ms"),
    "flip_angle": ("flipAngle_deg", "FlipAngle", "degrees"),
    "field_strength": ("systemFieldStrength_T", "MagneticFieldStrength", "T"),
}


def _echo_time(
    path: Path, header: KspaceHeader, contrast: int, rank: int, echoes: int
) -> float | None:
    """Return the echo time that belongs to a contrast counter."""
    times = header.echo_times
    place = rank if len(times) == echoes else contrast
    if place < len(times):
        return times[place]
    if times:
        raise ValueError(
            f"{path}: the ISMRMRD header has {len(times)} 'TE' for {echoes} echoes (counter "
            f"{contrast}); accepted: one for each"
        )
    return None


def _with_averages(acquisition: Acquisition, counters: Any) -> Acquisition:
    labels = counters["repetition"].astype(np.int64)
    if len(np.unique(labels)) > 1:
        acquisition = replace(acquisition, repetition=labels)
    return average_averages(acquisition, counters["average"].astype(np.int64))


def write_kspace(path: Path | str, echoes: Acquisition | Sequence[Acquisition]) -> None:
    """Write an acquisition, or several echoes of one, as ISMRMRD.

    The trajectory goes with every readout, in 1/m; the repetitions keep their numbers.

    Parameters
    ----------
    path
        File to write; an existing one is replaced.
    echoes
        What to write; the noise of the first one goes in front.

    Raises
    ------
    ValueError
        If there is no echo, or the echoes differ in field of view or coils.
    """
    echoes = [echoes] if isinstance(echoes, Acquisition) else list(echoes)
    _check_echoes(echoes)
    noise = _noise_readouts(echoes[0].noise)
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        xml = group.create_dataset("xml", (1,), dtype=h5py.special_dtype(vlen=bytes))
        xml[0] = _header_xml(echoes).encode()
        length = len(noise) + sum(echo.samples.shape[1] for echo in echoes)
        table = group.create_dataset(
            "data", (length,), acquisition_dtype, maxshape=(None,), chunks=(min(BLOCK, length),)
        )
        start = 0
        for block in _tables(echoes, noise):
            block["head"]["scan_counter"] = start + np.arange(len(block))
            table[start : start + len(block)] = block
            start += len(block)


def _check_echoes(echoes: Sequence[Acquisition]) -> None:
    if not echoes:
        raise ValueError("no echo to write; at least one is needed")
    first = echoes[0]
    for number, echo in enumerate(echoes, start=1):
        same_place = np.allclose(echo.geometry.affine, first.geometry.affine)
        if not same_place or echo.geometry.matrix != first.geometry.matrix:
            raise ValueError(f"echo {number} has another field of view than echo 1")
        if len(echo.samples) != len(first.samples):
            raise ValueError(
                f"echo {number} has {len(echo.samples)} coils, echo 1 has {len(first.samples)}"
            )


def _noise_readouts(noise: Complexes | None) -> list[Complexes]:
    if noise is None:
        return []
    longest = COUNTER - 1  # samples of one readout
    return [noise[:, i : i + longest] for i in range(0, noise.shape[1], longest)]


def _tables(echoes: Sequence[Acquisition], noise: Sequence[Complexes]) -> Iterator[Any]:
    """Yield blocks of the table of acquisitions: noise first, then echo after echo."""
    for part in noise:
        yield _noise_table(echoes[0], part)
    for contrast, echo in enumerate(echoes):
        order = _order_in_repetition(echo.repetition_labels)
        for start in range(0, echo.samples.shape[1], BLOCK):
            rows = np.arange(start, min(start + BLOCK, echo.samples.shape[1]))
            yield _readout_table(echo, rows, order[rows], contrast)


def _order_in_repetition(labels: Integers) -> Integers:
    order = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        mine = labels == label
        order[mine] = np.arange(np.count_nonzero(mine))
    return order


def _empty_table(acquisition: Acquisition, length: int) -> Any:
    table, geometry = np.zeros(length, acquisition_dtype), acquisition.geometry
    head = table["head"]
    head["version"] = 1
    head["available_channels"] = head["active_channels"] = len(acquisition.samples)
    head["position"] = geometry.position
    for key, direction in zip(
        ("read_dir", "phase_dir", "slice_dir"), geometry.directions, strict=True
    ):
        head[key] = direction
    return table


def _noise_table(acquisition: Acquisition, noise: Complexes) -> Any:
    table = _empty_table(acquisition, 1)
    table["head"]["flags"] = NOISE
    table["head"]["number_of_samples"] = noise.shape[1]
    table["head"]["sample_time_us"] = (acquisition.noise_dwell_time or 0) * 1e6
    table["data"][0], table["traj"][0] = _as_floats(noise), np.zeros(0, np.float32)
    return table


def _readout_table(
    acquisition: Acquisition, rows: Integers, order: Integers, contrast: int
) -> Any:
    table = _empty_table(acquisition, len(rows))
    head = table["head"]
    head["number_of_samples"], head["trajectory_dimensions"] = acquisition.samples.shape[2], 3
    head["sample_time_us"] = acquisition.dwell_time * 1e6
    head["idx"]["kspace_encode_step_1"] = order % COUNTER
    head["idx"]["kspace_encode_step_2"] = order // COUNTER
    head["idx"]["repetition"] = acquisition.repetition_labels[rows]
    head["idx"]["contrast"] = contrast
    for i, row in enumerate(rows):
        table["data"][i] = _as_floats(acquisition.samples[:, row])
        table["traj"][i] = acquisition.trajectory[row].astype(np.float32).ravel()
    return table


def _as_floats(samples: Complexes) -> Floats:
    return np.ascontiguousarray(samples, np.complex64).view(np.float32).ravel()


def _header_xml(echoes: Sequence[Acquisition]) -> str:
    xsd, first = ismrmrd.xsd, echoes[0]
    header = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(
            H1resonanceFrequency_Hz=int(first.field_strength * PROTON_GAMMA_BAR)
        ),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            systemFieldStrength_T=float(first.field_strength),
            receiverChannels=int(first.samples.shape[0]),
        ),
        encoding=[_encoding(echoes)],
        sequenceParameters=xsd.sequenceParametersType(
            TR=[first.repetition_time * 1e3],
            TE=[echo.echo_time * 1e3 for echo in echoes],
            flipAngle_deg=[float(np.degrees(first.flip_angle))],
        ),
    )
    return str(xsd.ToXML(header))


def _encoding(echoes: Sequence[Acquisition]) -> Any:
    xsd, space = ismrmrd.xsd, _space(echoes[0].geometry)
    labels = echoes[0].repetition_labels
    readouts = min(int(_order_in_repetition(labels).max()), COUNTER - 1)
    return xsd.encodingType(
        encodedSpace=space,
        reconSpace=space,
        encodingLimits=xsd.encodingLimitsType(
            kspace_encoding_step_1=xsd.limitType(maximum=readouts),
            repetition=xsd.limitType(maximum=int(labels.max())),
            contrast=xsd.limitType(maximum=len(echoes) - 1),
        ),
        trajectory=xsd.trajectoryType("other"),
        trajectoryDescription=xsd.trajectoryDescriptionType(
            identifier="sampled",
            userParameterString=[xsd.userParameterStringType(name="units", value="1/m")],
        ),
    )


def _space(geometry: Geometry) -> Any:
    xsd = ismrmrd.xsd
    return xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(
            **{axis: int(n) for axis, n in zip("xyz", geometry.matrix, strict=True)}
        ),
        fieldOfView_mm=xsd.fieldOfViewMm(
            **{axis: float(f) * 1e3 for axis, f in zip("xyz", geometry.fov, strict=True)}
        ),
    )
