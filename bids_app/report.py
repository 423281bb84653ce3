"""The report of one subject: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sodiumprep.bids_app import figures
from sodiumprep.bids_app.boilerplate import name_density
from sodiumprep.bids_app.budget import MAIN_PVC, TERMS, budget_section, term_rows
from sodiumprep.bids_app.names import DatasetNames, DerivativeNames
from sodiumprep.bids_app.reconstruction import (
    course_of,
    is_for_looking,
    is_from_kspace,
    reconstruction_section,
)
from sodiumprep.bids_app.results import RunResults, SessionResults, find_sessions
from sodiumprep.bids_app.viewer import ROOM, session_view
from sodiumprep.bids_app.wording import doi_links, number, plain_value
from sodiumprep.interfaces.outputs import PLAUSIBLE
from sodiumprep.sodium.pvc import METHODS as PVC_METHODS
from sodiumprep.sodium.vials import place as place_text

TEMPLATES = Path(__file__).parent / "templates"
RECEIVE = {
    "RB1COR": "array and volume-coil images (RB1COR)",
    "RB1map": "receive map (RB1map)",
    "reciprocity": "flip angle of the coil, which transmits and receives (reciprocity)",
    "none": "none",
}
TRANSMIT = {
    "TB1map": "corrected by a map (TB1map)",
    "TB1DAM": "corrected by two flip angles (TB1DAM)",
    "none": "taken for the nominal one: u_b1 is n/a",
}
REFERENCES = {
    "first-lex": "that of the first session, for all sessions (first-lex)",
    "unbiased": "the mean of all sessions, halfway between them (unbiased)",
}
PHANTOM = "phantom scanned by itself"
FLUID_NAMES = {"csf": "CSF", "vitreous": "vitreous humour"}
Cell = dict[str, Any]


def write_report(out_dir: Path, subject: str, errors: list[str], interactive: bool = True) -> Path:
    """Write the report of one subject from the files of the output alone.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    subject
        Label without its key.
    errors
        What failed in the run that just ended.
    interactive
        Whether the maps are put into the page as well, to be looked at voxel by voxel.

    Returns
    -------
    path
        ``sub-<label>.html``.

    Raises
    ------
    OSError
        If the report cannot be written.
    """
    path = DerivativeNames(out_dir, subject).report()
    sessions = find_sessions(out_dir, subject)
    with figures.drawing_style():
        sections = [_session_section(session, errors) for session in sessions]
    if interactive:
        _add_views(sections, sessions)
    template = environment().get_template("subject.html")
    runs = [run for session in sessions for run in session.runs]
    page = template.render(
        subject=subject,
        errors=errors,
        warnings=_all_warnings(sessions),
        sessions=sections,
        methods=methods_blocks(DatasetNames(out_dir).citation_md, _weightings(runs)),
        terms=TERMS,
        pvc_names=PVC_METHODS,
        version=version("sodiumprep"),
        has_viewer=any(run["viewer"] for section in sections for run in section["runs"]),
        sloppy=any(_sloppy(session) for session in sessions),
        receive_uncorrected=[r.title for r in runs if r.metrics.get("ReceiveUncorrected")],
    )
    path.write_text(page)
    return path


def _add_views(sections: list[dict[str, Any]], sessions: list[SessionResults]) -> None:
    room = ROOM / max(1, len(sessions))
    for section, session in zip(sections, sessions, strict=True):
        view = session_view(session, room)
        section["viewer"] = view["anatomy"]
        for held, run in zip(section["runs"], session.runs, strict=True):
            held["viewer"] = view["runs"][run.title]


def environment() -> Environment:
    """Return the templates; every text that is put into them is escaped."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=number, value=plain_value, doi=doi_links)
    return made


def methods_blocks(path: Path, weightings: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return headings, paragraphs and lists of the methods text.

    Parameters
    ----------
    path
        Markdown file; a missing one gives nothing.
    weightings
        Density compensation of the runs, as far as it is known.
    """
    if not path.is_file():
        return []
    text = name_density(path.read_text(), weightings)
    blocks = [block.strip() for block in text.split("\n\n")]
    return [_methods_block(block) for block in blocks if block]


def _weightings(runs: list[RunResults]) -> set[str]:
    return {str(run.metrics.get("DensityCompensation")) for run in runs if run.metrics}


def _methods_block(block: str) -> dict[str, Any]:
    if block.startswith("#"):
        return {"kind": "heading", "text": block.lstrip("# ")}
    if block.startswith("- "):
        return {"kind": "list", "items": [line.removeprefix("- ") for line in block.splitlines()]}
    return {"kind": "paragraph", "text": block}


def _sloppy(session: SessionResults) -> bool:
    held = [session.metadata, *(run.metrics for run in session.runs)]
    return any(entries.get("Sloppy") for entries in held)


def _all_warnings(sessions: list[SessionResults]) -> list[str]:
    """Return the warnings of all parts, each once, with the run that they belong to."""
    many = sum(len(session.runs) for session in sessions) > 1
    found = []
    for session in sessions:
        found += [_placed(text, session.title) for text in session.warnings]
        for run in session.runs:
            place = f"{session.title} {run.title}".strip() if many else ""
            own = [text for text in run.warnings if text not in session.warnings]
            found += [_placed(text, place) for text in own]
    return list(dict.fromkeys(found))


def _placed(text: str, place: str) -> str:
    return f"{place}: {text}" if place else text


def _session_section(session: SessionResults, errors: list[str]) -> dict[str, Any]:
    contours, problem = _attempt(lambda: figures.load_contours(session))
    return {
        "id": session.title or "session",
        "title": session.title,
        "suffix": session.names.anat_suffix,
        "metadata": session.metadata,
        "lesions": list(session.lesion_files()),
        "anatomy": _anatomy_figure(session, contours, problem),
        "viewer": None,
        "runs": [_run_section(run, session, contours) for run in session.runs],
        "why_no_run": _reason("No sodium run has results in", session.names.folder, errors),
    }


def _reason(text: str, folder: Path, errors: list[str]) -> str:
    said = f" The run said: {' | '.join(errors)}" if errors else ""
    return (
        f"{text} {folder.parent.name}/{folder.name}: this stage failed, or was not asked for "
        f"(crash files lie in logs/).{said}"
    )


def _attempt(draw: Callable[[], Any]) -> tuple[Any, str]:
    """Return what a function makes, or why it cannot."""
    try:
        return draw(), ""
    except FileNotFoundError as error:
        return None, f"not there: {Path(str(error.filename)).name}"
    except (ValueError, OSError, KeyError, TypeError, IndexError) as error:
        return None, f"cannot be shown ({error})"


def _saved(draw: Callable[[], figures.Figure], path: Path) -> Cell:
    uri, problem = _attempt(lambda: figures.save_figure(draw(), path))
    return {"uri": uri, "problem": problem}


def _anatomy_figure(
    session: SessionResults, contours: figures.Contours | None, problem: str
) -> Cell:
    if not session.has_anatomy:
        return {"uri": None, "problem": "no 1H image was written"}
    if contours is None:
        return {"uri": None, "problem": f"brain mask or tissues: {problem}"}
    path = session.names.anat_figure("tissues", ".png")
    return _saved(lambda: figures.anatomy_figure(session, contours), path)


def _run_section(
    run: RunResults, session: SessionResults, contours: figures.Contours | None
) -> dict[str, Any]:
    calibration = run.metrics.get("Calibration") or {}
    return {
        "id": "-".join(filter(None, [session.title, run.title.replace(" ", "-")])),
        "title": run.title,
        "metrics": run.metrics,
        "warnings": run.warnings,
        "cards": _cards(run),
        "chosen": _chosen(run, session),
        "calibration": calibration,
        "lines": _lines(calibration),
        "phantom": calibration.get("reference") == "phantom" and calibration.get("phantom"),
        "fluid": FLUID_NAMES.get(str(calibration.get("reference")), ""),
        "references": _references(calibration),
        "methods": _present(run, "pvc"),
        "values": _values(run),
        "terms": term_rows(run),
        "budget": budget_section(run),
        "reconstruction": reconstruction_section(run) if is_from_kspace(run.metrics) else {},
        "for_looking": is_for_looking(run.metrics),
        "quality": _quality(run),
        "tissue_quality": _tissue_quality(run),
        "provenance": _provenance(run),
        "figures": _run_figures(run, session, contours),
        "table_problem": _table_problem(run),
        "viewer": None,
    }


def _run_figures(
    run: RunResults, session: SessionResults, contours: figures.Contours | None
) -> dict[str, Cell]:
    names, calibration = run.names, run.metrics.get("Calibration") or {}
    drawn = _convergence(run)
    if is_for_looking(run.metrics):
        return drawn
    path = names.sodium_figure("receive", ".png")
    lesions, _ = _attempt(lambda: figures.sodium_lesions(run, session))
    drawn["receive"] = _saved(lambda: figures.receive_figure(run, lesions), path)
    if contours is None:
        missing = {"uri": None, "problem": "needs brain mask and tissues of the anatomy"}
        drawn |= dict.fromkeys(("overlay", "underlay", "concentration"), missing)
    else:
        drawn |= _registration(run, session, contours)
        path = names.sodium_figure("concentration", ".png")
        drawn["concentration"] = _saved(lambda: figures.concentration_figure(run, contours), path)
    if calibration.get("reference") == "vials":
        path = names.sodium_figure("calibration")
        drawn["calibration"] = _saved(lambda: figures.calibration_figure(calibration), path)
    if len(run.table):
        path = names.sodium_figure("regions")
        drawn["regions"] = _saved(lambda: figures.regions_figure(run, PLAUSIBLE), path)
    if run.scan_time:
        path = names.sodium_figure("scantime")
        drawn["scan_time"] = _saved(lambda: figures.scan_time_figure(run.scan_time), path)
    return drawn


def _convergence(run: RunResults) -> dict[str, Cell]:
    course = course_of(run.metrics)
    if not course:
        return {}
    path = run.names.sodium_figure("convergence")
    return {"convergence": _saved(lambda: figures.convergence_figure(course), path)}


def _registration(
    run: RunResults, session: SessionResults, contours: figures.Contours
) -> dict[str, Cell]:
    pair, problem = _attempt(lambda: figures.registration_figures(run, session, contours))
    drawn = {}
    for place, desc in enumerate(("overlay", "underlay")):
        path = run.names.sodium_figure(f"registration{desc}", ".png")
        made = pair is not None
        drawn[desc] = (
            _saved(lambda place=place: pair[place], path)  # type: ignore[misc]
            if made
            else {"uri": None, "problem": problem}
        )
    return drawn


def _table_problem(run: RunResults) -> str:
    name = run.names.tsc_table().name
    return "" if len(run.table) else f"not there or empty: {name} (this stage failed; see logs/)"


def _present(run: RunResults, column: str) -> list[str]:
    return list(dict.fromkeys(run.table[column])) if len(run.table) else []


def _cards(run: RunResults) -> list[Cell]:
    """Return the corrected values of the summary, one entry per region."""
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


def _chosen(run: RunResults, session: SessionResults) -> list[tuple[str, str]]:
    """Return what came in and what was chosen, as pairs of label and text."""
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


def _lines(calibration: Mapping[str, Any]) -> list[Cell]:
    """Return the numbers of the calibration lines."""
    return [_line(name, line) for name, line in (calibration.get("Lines") or {}).items()]


def _references(calibration: Mapping[str, Any]) -> list[Cell]:
    """Return a row for every reference of the image, the one that calibrates first."""
    chosen, names = calibration.get("reference"), {**FLUID_NAMES, "phantom": PHANTOM}
    rows = [
        {"problem": "", "values": None, **held, "name": names.get(name, name),
         "chosen": name == chosen}
        | ({"problem": held["Problem"]} if "Problem" in held else {"values": held})
        for name, held in (calibration.get("References") or {}).items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: not row["chosen"])


def _line(name: str, line: Mapping[str, Any]) -> Cell:
    covariance = np.asarray(line.get("covariance"), float)
    u = np.sqrt(np.diag(covariance)) if covariance.shape == (2, 2) else np.full(2, np.nan)
    residuals = np.atleast_1d(np.asarray(line.get("residuals", []), float)) / line["slope"]
    return {
        "name": name,
        "slope": line["slope"],
        "u_slope": float(f"{u[0]:.2g}"),
        "intercept": line["intercept"],
        "u_intercept": float(f"{u[1]:.2g}"),
        "fixed": line["intercept"] == 0,
        "r_squared": line.get("r_squared"),
        "intercept_test": line.get("intercept_test"),
        "residuals": residuals.tolist(),
    }


def _values(run: RunResults) -> list[Cell]:
    """Return one entry per region with the cells of every method and kind."""
    if not len(run.table):
        return []
    methods = _present(run, "pvc")
    by_key = {(r["name"], r["pvc"], r["desc"]): r for r in run.table.to_dict("records")}
    regions = run.table.drop_duplicates("name").sort_values("index").to_dict("records")
    return [
        {
            **region,
            "cells": [
                by_key.get((region["name"], pvc, desc))
                for desc in ("apparent", "corrected")
                for pvc in methods
            ],
            "spread": by_key.get((region["name"], "none", "corrected"), {}),
            "snr": by_key.get((region["name"], MAIN_PVC, "corrected"), region).get("snr"),
        }
        for region in regions
    ]


def _tissue_quality(run: RunResults) -> list[Cell]:
    """Return SNR and kernel of every region; vials stand in a table of their own."""
    held = run.metrics
    widths = held.get("PointSpreadFWHM") or {}
    noise, gains = held.get("SNR") or {}, held.get("PointSpreadGain") or {}
    vials = {vial.get("name") for vial in (held.get("Calibration") or {}).get("vials") or []}
    return [
        {
            "name": name,
            "snr": noise.get(name),
            "fwhm": ", ".join(number(w, 2) for w in np.atleast_1d(widths.get(name)).tolist()),
            "gain": gains.get(name),
        }
        for name in dict.fromkeys([*noise, *widths])
        if name not in vials
    ]


def _quality(run: RunResults) -> list[tuple[str, str, str]]:
    """Return rows of the quality table: name, value, what it means."""
    rows = _measured_quality(run.metrics) + _vial_quality(run.metrics) + _fit_quality(run.metrics)
    if not is_from_kspace(run.metrics):  # else the section on the reconstruction has them
        rows += _settings_quality(run.metrics)
    return [row for row in rows if not row[1].startswith("n/a")]


def _fit_quality(held: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return how well uniform regions explain the image, and the raw data."""
    left = held.get("ResidualOverNoise") or {}
    shown = ", ".join(f"{name} {number(value)}" for name, value in left.items()) or "n/a"
    fit = held.get("KspaceRegression") or {}
    return [
        ("Eyes", _eyes_text(held.get("Eyes") or {}), "in the sodium image; radius of each"),
        ("Residual over noise", shown, "of the image; 1 where uniform regions explain it"),
        ("The same in k-space", number(fit.get("ReducedChiSquare"), 2), "reduced chi square"),
    ]


def _eyes_text(held: Mapping[str, Any]) -> str:
    if not held:
        return "n/a"
    if not held.get("Found"):
        return f"not found: {held.get('Reason')}"
    radii = ", ".join(number(radius) for radius in held.get("Radii") or [])
    scores = ", ".join(number(score, 2) for score in held.get("Scores") or [])
    return f"{radii} mm, correlation with a ball {scores}"


def _measured_quality(held: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (label, number(held.get(key), digits) + unit, meaning)
        for key, label, digits, unit, meaning in (
            ("ConditionNumber", "Condition number", 1, "", "of the mixing; 3 to 7 is usual"),
            (
                "RegistrationScore",
                "Registration score",
                3,
                "",
                "right poses of simulations: > 0.8",
            ),
            ("RegistrationSpread", "Registration error", 2, " mm", "standard, of restarts"),
            ("RegistrationError95", "Its 95 % bound", 2, " mm", "at the brain's surface"),
            ("RegistrationFromHeader", "Distance from the header's pose", 2, " mm", ""),
            ("CalibrationRSquared", "Calibration R²", 4, "", "of the corrected line"),
        )
    ]


def _vial_quality(held: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = [("CalibrationOutlier", "Vial left out", "it lies off the line of the others")]
    if held.get("CalibrationForced"):
        rows.append(("CalibrationForced", "Calibration forced", "R² under 0.95, --force"))
    return [(label, plain_value(held.get(key)), meaning) for key, label, meaning in rows]


def _settings_quality(held: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (label, plain_value(held.get(key)), "")
        for key, label in (
            ("Coils", "Coils"),
            ("Readouts", "Readouts"),
            ("DensityCompensation", "Density compensation"),
            ("KspaceFilter", "k-space filter"),
            ("NoiseSource", "Noise from"),
        )
    ]


def _provenance(run: RunResults) -> list[tuple[str, str]]:
    held = run.metrics
    rows = [
        ("Software", " ".join(plain_value(held.get(f"Software{k}")) for k in ("Name", "Version"))),
        ("Random seed", plain_value(held.get("RandomSeed"))),
        ("Coarse registration (--sloppy)", plain_value(held.get("Sloppy"))),
    ]
    rows += [("Source", str(source)) for source in held.get("Sources") or []]
    for name, constants in (held.get("RelaxationConstants") or {}).items():
        rows.append((f"Relaxation {name}", _relaxation_text(constants)))
    return rows


def _relaxation_text(constants: Mapping[str, Any]) -> str:
    def one(key: str, unit: str, factor: float) -> str:
        value, u = constants.get(key), constants.get(f"u_{key}")
        if not isinstance(value, (int, float)):
            return "n/a"
        known = f" ± {u * factor:.3g}" if isinstance(u, (int, float)) and u else ""
        return f"{value * factor:.3g}{known}{unit}"

    return (
        f"T1 {one('t1', ' ms', 1e3)}, T2* {one('t2_short', ' ms', 1e3)} (fraction "
        f"{one('short_fraction', '', 1)}) and {one('t2_long', ' ms', 1e3)}; "
        f"{constants.get('source', '')}"
    )
