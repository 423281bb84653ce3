"""What the first screen of a report tells: values, what came in, what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sodiumprep.bids_app.budget import MAIN_PVC
from sodiumprep.bids_app.reconstruction import is_for_looking
from sodiumprep.bids_app.results import RunResults, SessionResults
from sodiumprep.bids_app.wording import number, plain_value
from sodiumprep.sodium.vials import place as place_text

RECEIVE = {
    "RB1COR": "array and volume-coil images (RB1COR)",
    "RB1map": "receive map (RB1map)",
    "reciprocity": "flip angle of the coil, which transmits and receives (reciprocity)",
    "none": "none",
}
TRANSMIT = {
    "TB1map": "corrected by a map (TB1map)",
    "TB1DAM": "corrected by two flip angles (TB1DAM)",
    "none": "taken for the nominal one; what that errs is in no interval (u_b1 is n/a)",
}
REFERENCES = {
    "first-lex": "that of the first session, for all sessions (first-lex)",
    "unbiased": "the mean of all sessions, halfway between them (unbiased)",
}
PHANTOM = "phantom scanned by itself"
FLUID_NAMES = {"csf": "CSF", "vitreous": "vitreous humour"}
Cell = dict[str, Any]


def value_cards(run: RunResults) -> list[Cell]:
    """Return the corrected values of the summary, one entry per region.

    Parameters
    ----------
    run
        With or without a table.
    """
    plain = {row["name"]: row for row in run.rows("none", "corrected").to_dict("records")}
    by_csf = (run.metrics.get("Calibration") or {}).get("reference") == "csf"
    return [
        {
            **row,
            "uncorrected": plain.get(row["name"], {}).get("mean"),
            "assumed": by_csf and row["name"] == "CSF",
        }
        for row in run.rows(MAIN_PVC, "corrected").to_dict("records")
    ]


def what_was_chosen(run: RunResults, session: SessionResults) -> list[tuple[str, str]]:
    """Return what came in and what was chosen, as pairs of label and text.

    Parameters
    ----------
    run
        With or without a quality file.
    session
        Of the run.
    """
    held = run.metrics
    sources = [str(source) for source in held.get("Sources") or []]
    coils = held.get("Coils")
    known = f", {coils} coil{'s' if coils != 1 else ''}" if coils else ""
    spread = held.get("RegistrationSpread")
    source = ("Sodium input", ", ".join(map(_short, sources)) or "n/a")
    method = ("Reconstruction", plain_value(held.get("Reconstruction")) + known)
    if is_for_looking(held):
        return [source, method]
    return [
        source,
        ("Anatomy", _anatomy_text(session)),
        *_reference_rows(held),
        method,
        ("Receive correction", _receive_text(held)),
        ("Flip angle", TRANSMIT[str(held.get("TransmitCorrection", "none"))]),
        ("Registration", f"“{plain_value(held.get('RegistrationChosen'))}”, standard error "
                         f"{number(spread, 2)} mm"),
        ("Partial volume", plain_value(held.get("PartialVolumeCorrection"))),
        ("Calibration", _calibration_text(held.get("Calibration") or {}, held)),
        *_found_vials(held),
        ("Protocol", _protocol_text(held)),
    ]  # fmt: skip


def _short(uri: str) -> str:
    return uri.rsplit("/", 1)[-1]


def _anatomy_text(session: SessionResults) -> str:
    if not session.has_anatomy:
        return "none written"
    held = session.metadata.get("AnatomyFrom") or []
    if held:
        return f"{session.names.anat_suffix}, {'; '.join(map(str, held))}{_lesion_text(session)}"
    sources = [str(source) for source in session.metadata.get("Sources") or []]
    named = ", ".join(map(_short, sources)) or "n/a"
    return f"{session.names.anat_suffix} ({named}){_lesion_text(session)}"


def _lesion_text(session: SessionResults) -> str:
    lesions = ", ".join(session.lesion_files())
    return f"; lesions: {lesions}" if lesions else ""


def _reference_rows(held: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the sessions of the subject share, and where this one lies from it."""
    shared = REFERENCES.get(str(held.get("AnatomicalReference")))
    if shared is None:
        return []
    pose = held.get("SessionToReference") or {}
    moved = (
        f"; this session is turned by {number(pose.get('Rotation'), 1)}° and shifted by "
        f"{number(pose.get('Displacement'), 1)} mm, correlation {number(pose.get('Score'), 2)}"
    )
    return [("Anatomical reference", shared + (moved if pose else ""))]


def _receive_text(held: Mapping[str, Any]) -> str:
    source = str(held.get("ReceiveCorrection", "n/a"))
    flagged = " (values are flagged receive_uncorrected)" if held.get("ReceiveUncorrected") else ""
    return RECEIVE.get(source, source) + flagged


def _calibration_text(calibration: Mapping[str, Any], held: Mapping[str, Any]) -> str:
    if calibration.get("reference") == "phantom":
        return _phantom_text(calibration.get("phantom") or {})
    if calibration.get("reference") in FLUID_NAMES:
        fluid = FLUID_NAMES[calibration["reference"]]
        return f"{fluid}, an assumed concentration: all values are relative to it"
    vials = calibration.get("vials") or []
    basis = held.get("VialsIdentifiedBy")
    found = f", found in the image and told apart by {basis}" if basis else ""
    used = [vial for vial in vials if vial.get("used", True)]
    left = f", of {len(vials)}: {calibration.get('outlier')} is left out" if used != vials else ""
    forced = "; a poor line, by --force" if calibration.get("forced") else ""
    many = "vial" if len(used) == 1 else "vials"
    text = f"{len(used)} {many} of known concentration{left}{found}{forced}"
    return text if vials else "n/a"


def _phantom_text(phantom: Mapping[str, Any]) -> str:
    terms = phantom.get("RelativeUncertainty") or {}
    total = 100 * float(np.linalg.norm(list(terms.values())))
    largest = f", most of it {max(terms, key=terms.get).lower()}" if terms else ""
    return (
        f"{PHANTOM}, {number(phantom.get('Concentration'))} mmol/L, loading factor "
        f"{number(phantom.get('LoadingFactor'), 3)}: the slope is known to {number(total)} %"
        f"{largest}"
    )


def _found_vials(held: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was found outside the head, where vials were searched."""
    if "VialsFound" not in held:
        return []
    told = [
        f"{vial.get('Name') or 'unknown'} at {place_text(vial['Centre'])}, "
        f"{number(vial['Diameter'], 0)} x {number(vial['Length'], 0)} mm"
        for vial in held["VialsFound"]
    ]
    return [("Vials found", "; ".join(told) or "none")]


def _protocol_text(held: Mapping[str, Any]) -> str:
    def scaled(key: str, factor: float, digits: int) -> str:
        value = held.get(key)
        return number(value * factor if isinstance(value, (int, float)) else None, digits)

    return (
        f"TE {scaled('EchoTime', 1e3, 2)} ms, TR {scaled('RepetitionTime', 1e3, 1)} ms, flip "
        f"angle {scaled('FlipAngle', 1, 1)}°, {scaled('MagneticFieldStrength', 1, 1)} T"
    )
