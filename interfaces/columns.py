"""Data dictionaries of the tables: what each column holds, and in which unit."""

from __future__ import annotations

import pandas as pd

from sodiumprep.interfaces.sidecars import TSC
from sodiumprep.sodium.pvc import METHODS as PVC_METHODS

FLAGS = (
    "registration_failed",
    "receive_uncorrected",
    "smaller_than_psf",
    "partly_outside",
    "brain_implausible",
    "entangled",
    "calibration_forced",
    "coverage_too_low",
    "too_small",
    "negative",
    "on_midline",
    "mirror_not_free",
    "indistinct",
)
TABLE_COLUMNS: dict[str, dict[str, str]] = {
    name: {"Description": text, "Units": units}
    for name, units, text in (
        ("index", "1", "GM 1, WM 2, CSF 3, lesions from 4; labels of other segmentations"),
        ("name", "1", "Region"),
        (
            "pvc",
            "1",
            "Partial-volume correction: "
            + "; ".join(f"{method}: {text}" for method, text in PVC_METHODS.items()),
        ),
        ("desc", "1", "apparent, or corrected for relaxation"),
        ("n_voxels", "1", "Sum of the region's fractions over the sodium voxels"),
        ("volume_ml", "ml", "Volume of the region in the anatomy"),
        ("mean", TSC, "Concentration; for pvc none the fraction-weighted mean"),
        ("sd", TSC, "Fraction-weighted standard deviation over voxels"),
        ("median", TSC, "Fraction-weighted median"),
        ("q25", TSC, "Fraction-weighted lower quartile"),
        ("q75", TSC, "Fraction-weighted upper quartile"),
        ("uncertainty", TSC, "Combined standard uncertainty of the mean"),
        ("u_noise", TSC, "Term of it: image noise, with its correlation"),
        ("u_calibration", TSC, "Term of it: calibration line"),
        ("u_relaxation", TSC, "Term of it: relaxation constants"),
        ("u_receive", TSC, "Term of it: receive profile against the reference"),
        ("u_b1", TSC, "Term of it: transmit field against the reference"),
        ("u_pvc", TSC, "Term of it: width of the point-spread function"),
        ("u_segmentation", TSC, "Term of it: where the borders of tissues and lesions lie"),
        ("u_registration", TSC, "Term of it: position of the sodium image"),
        ("ci_low", TSC, "Lower end of the 95 % interval"),
        ("ci_high", TSC, "Upper end of the 95 % interval"),
        ("snr", "1", "Mean over the noise SD of one voxel"),
        ("coverage", "1", "Share of the region's volume inside the sodium field of view"),
        ("flag", "1", f"What to mind: {', '.join(FLAGS)}"),
    )
}
EFFECT_COLUMNS: dict[str, dict[str, str]] = {
    name: {"Description": text, "Units": TSC}
    for name, text in (
        ("change_position_1mm", "Largest change that 1 mm of misregistration makes"),
        ("change_psf_10percent", "Change where every kernel is wider by 10 %"),
        ("change_segmentation_0.5mm", "Change where borders lie 0.5 mm elsewhere, independently"),
    )
}
PARCEL_COLUMNS: dict[str, dict[str, str]] = {
    **TABLE_COLUMNS,
    "index": {"Description": "Label of the atlas", "Units": "1"},
    "tissue": {
        "Description": "What of the region the row is of: GM, WM, CSF, or all (GM and WM); or a "
        "lesion",
        "Units": "1",
    },
    **{
        f"q{percent:02d}": {
            "Description": f"Fraction-weighted {percent}th percentile",
            "Units": TSC,
        }
        for percent in (5, 10, 90, 95)
    },
    "ratio": {
        "Description": "Mean of the lesion class over the mean of this row, which lies opposite",
        "Units": "1",
    },
    "u_ratio": {
        "Description": "Standard uncertainty of the ratio; what both share cancels",
        "Units": "1",
    },
}


def explained(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return the description of each column that a table has.

    Parameters
    ----------
    table
        Of regions.
    """
    every = {**TABLE_COLUMNS, **EFFECT_COLUMNS}
    return {name: every[name] for name in table.columns}
