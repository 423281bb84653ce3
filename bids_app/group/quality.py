"""Quality figures of all runs: one flat row for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sodiumprep.bids_app.group.tables import KEYS, OPTIONAL_KEYS, UNKNOWN
from sodiumprep.bids_app.names import with_json
from sodiumprep.bids_app.reconstruction import (
    course_of,
    largest_delay,
    largest_displacement,
    rejected_repetitions,
)
from sodiumprep.bids_app.results import (
    RunResults,
    find_sessions,
    find_subjects,
)
from sodiumprep.interfaces.files import written
from sodiumprep.interfaces.sidecars import write_json

# column -> (key of the quality file, unit, description)
QUALITY: dict[str, tuple[str, str, str]] = {
    "reconstruction": ("Reconstruction", "1", "Method of reconstruction"),
    "coils": ("Coils", "1", "Number of receive coils, 0 where not known"),
    "readouts": ("Readouts", "1", "Number of readouts"),
    "voxels_per_sample": ("VoxelsPerSample", "1", "Voxels of the image over samples of k-space"),
    "repetitions": ("Repetitions", "1", "Number of repetitions"),
    "kspace_filter": ("KspaceFilter", "1", "Filter applied to k-space"),
    "noise_source": ("NoiseSource", "1", "What the noise was determined from"),
    "condition_number": ("ConditionNumber", "1", "Of the geometric transfer matrix"),
    "spike_share": ("SpikeShare", "1", "Readouts with a spike, or of unlike signal, over all"),
    "ghosting_score": ("GhostingScore", "1", "Signal outside of the head over noise, 1 for noise"),
    "ghost_share": ("GhostShare", "1", "What of it is not noise, over the mean of the brain"),
    "brain_dice": ("BrainDice", "1", "Overlap of the brain of the sodium image with the anatomy"),
    "negative_share": ("NegativeShare", "1", "Negative voxels of the brain over all of them"),
    "receive_correction": ("ReceiveCorrection", "1", "What the receive profile came from"),
    "receive_uncorrected": ("ReceiveUncorrected", "1", "Several coils without a correction"),
    "anatomical_reference": ("AnatomicalReference", "1", "What sessions of a subject lie on"),
    "registration_chosen": ("RegistrationChosen", "1", "What found the pose taken"),
    "registration_score": (
        "RegistrationScore",
        "1",
        "Correlation with the synthetic image, no smooth field",
    ),
    "registration_spread": ("RegistrationSpread", "mm", "Standard error, by restarts"),
    "registration_error_95": ("RegistrationError95", "mm", "What the error stays under, 95 %"),
    "registration_failed": ("RegistrationFailed", "1", "Whether the pose must not be trusted"),
    "calibration_outlier": ("CalibrationOutlier", "1", "Vial that is left out of the line"),
    "calibration_forced": ("CalibrationForced", "1", "A poor line calibrates, by --force"),
    "calibration_r_squared": ("CalibrationRSquared", "1", "Of the corrected calibration line"),
    "calibration_residual_sd": (
        "CalibrationResidualSD",
        "mmol/L",
        "Root mean square distance of the vials from the line",
    ),
    "centre_step": ("CentreStepTimesTwiceFOV", "1", "Step at the k-space centre x 2 FOV"),
    "echo_time": ("EchoTime", "s", "Echo time"),
    "repetition_time": ("RepetitionTime", "s", "Repetition time"),
    "flip_angle": ("FlipAngle", "degree", "Flip angle"),
    "field_strength": ("MagneticFieldStrength", "T", "Field strength"),
    "random_seed": ("RandomSeed", "1", "Seed of everything random"),
    "sloppy": ("Sloppy", "1", "Whether registration was coarse"),
    "software_version": ("SoftwareVersion", "1", "Version of the software"),
}
# begin of the column of each region -> (key of the quality file, unit, description); vials,
# lists and other nested entries have no column
REGIONAL: dict[str, tuple[str, str, str]] = {
    "snr": ("SNR", "1", "Signal over noise SD of one voxel"),
    "noise_sd": ("NoiseSD", "mmol/L", "Noise SD of one voxel"),
    "fraction": ("TissueFractions", "1", "Share of the brain"),
    "residual": ("ResidualOverNoise", "1", "What uniform regions leave unexplained, over noise"),
    "psf_fwhm": ("PointSpreadFWHM", "mm", "Geometric mean width of the PSF"),
}
DERIVED = {
    "largest_displacement": (
        "mm",
        "Largest displacement (rms over the head) of a used repetition from the reference",
    ),
    "rejected_repetitions": ("1", "Number of repetitions that were left out"),
    "largest_gradient_delay": ("us", "Largest estimated gradient delay of an axis, without sign"),
    "iterations": ("1", "Iterations of the reconstruction, n/a for a direct one"),
    "converged": ("1", "Whether they met the tolerance"),
    "session_score": ("1", "Correlation of the session's 1H image with the shared reference"),
    "brain_volume_ml": ("ml", "Volume of the brain mask"),
    "calibration_reference": ("1", "vials or phantom; csf or vitreous: relative to an assumption"),
    "calibration_slope": ("1/(mmol/L)", "Slope of the corrected calibration line"),
    "calibration_u_slope": ("1/(mmol/L)", "Its standard uncertainty"),
    "calibration_intercept": ("1", "Intercept of that line, in units of signal"),
    "n_flags": ("1", "Number of flags"),
    "flags": ("1", "Names of the flags (docs/quality.md), separated by |"),
    "n_warnings": ("1", "Number of warnings"),
    "warnings": ("1", "The warnings, separated by |"),
}


def gather_quality(out_dir: Path) -> pd.DataFrame:
    """Return one row of quality figures per run.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    """
    rows = [
        _quality_row(run, session.metadata)
        for subject in find_subjects(out_dir)
        for session in find_sessions(out_dir, subject)
        for run in session.runs
        if run.metrics
    ]
    table = pd.DataFrame(rows, dtype=object)  # counts stay whole where some are not known
    fixed = ["participant_id", "session", "run", *QUALITY, *DERIVED]
    regional = sorted(set(table.columns) - {*fixed, *OPTIONAL_KEYS}, key=_region_order)
    extra = [key for key in OPTIONAL_KEYS if key in table and table[key].nunique() > 1]
    return table.reindex(columns=[*fixed[:3], *extra, *QUALITY, *regional, *DERIVED])


def quality_dictionary(table: pd.DataFrame) -> dict[str, Any]:
    """Return the data dictionary of the table of quality figures.

    Parameters
    ----------
    table
        What :func:`gather_quality` returns.
    """
    known = {name: ("1", text) for name, text in (KEYS | OPTIONAL_KEYS).items()}
    known |= {name: (unit, text) for name, (_, unit, text) in QUALITY.items()} | DERIVED
    for column in table.columns:
        for begin, (_, unit, text) in REGIONAL.items():
            if column not in known and column.startswith(f"{begin}_"):
                known[column] = (unit, f"{text}: {column.removeprefix(f'{begin}_')}")
    return {
        column: {"Description": known[column][1], "Units": known[column][0]}
        for column in table.columns
    }


def write_table(
    path: Path, table: pd.DataFrame, dictionary: Mapping[str, Any], digits: str | None = None
) -> None:
    """Write a table and its data dictionary.

    Parameters
    ----------
    path
        The TSV file.
    table
        What is not known becomes ``n/a``.
    dictionary
        Goes beside it.
    digits
        Format of numbers; None for all digits.
    """
    with written(path) as partial:
        table.to_csv(partial, sep="\t", index=False, na_rep=UNKNOWN, float_format=digits)
    write_json(with_json(path), dictionary)


def _quality_row(run: RunResults, anatomy: Mapping[str, Any]) -> dict[str, Any]:
    held, names = run.metrics, run.names
    calibration = held.get("Calibration") or {}
    line = (calibration.get("Lines") or {}).get("corrected") or {}
    return {
        "participant_id": f"sub-{names.subject}",
        "session": names.session or UNKNOWN,
        "run": names.run or UNKNOWN,
        "acq": names.acquisition,
        "rec": names.rec or UNKNOWN,
        **{column: _scalar(held.get(key)) for column, (key, _, _) in QUALITY.items()},
        **dict(_regional(held)),
        **_course(held),
        "session_score": (held.get("SessionToReference") or {}).get("Score"),
        "brain_volume_ml": anatomy.get("BrainVolume"),
        "calibration_reference": calibration.get("reference"),
        "calibration_slope": line.get("slope"),
        "calibration_u_slope": _u_slope(line),
        "calibration_intercept": line.get("intercept"),
        "n_flags": len(run.flags) if "Flags" in held else None,
        "flags": " | ".join(dict.fromkeys(name for name, _ in run.flags)) or None,
        "n_warnings": len(run.warnings),
        "warnings": " | ".join(" ".join(text.split()) for text in run.warnings) or None,
    }


def _course(held: Mapping[str, Any]) -> dict[str, Any]:
    course = course_of(held)
    return {
        "largest_displacement": largest_displacement(held),
        "rejected_repetitions": rejected_repetitions(held),
        "largest_gradient_delay": largest_delay(held),
        "iterations": _scalar(course.get("Iterations")),
        "converged": _scalar(course.get("Converged")),
    }


def _scalar(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return " ".join(value.split())
    return value if isinstance(value, (int, float)) else None


def _regional(held: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    regions = held.get("SNR") or {}
    for begin, (key, _, _) in REGIONAL.items():
        for name, value in (held.get(key) or {}).items():
            if name in regions:  # not those of vials
                yield f"{begin}_{name}", _mean_width(value)


def _mean_width(value: Any) -> Any:
    """Return the geometric mean of the widths along three axes; a single number as it is."""
    return round(float(np.prod(value) ** (1 / len(value))), 3) if np.ndim(value) else value


def _region_order(column: str) -> tuple[int, int, str]:
    kind = next(k for k, begin in enumerate(REGIONAL) if column.startswith(f"{begin}_"))
    name = column.removeprefix(f"{list(REGIONAL)[kind]}_")
    tissues = ("GM", "WM", "CSF")
    return (kind, tissues.index(name) if name in tissues else len(tissues), name)


def _u_slope(line: Mapping[str, Any]) -> float | None:
    covariance = line.get("covariance")
    return float(np.sqrt(covariance[0][0])) if covariance else None
