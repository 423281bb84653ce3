"""The report of one subject: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sodiumprep.bids_app import charts, figures
from sodiumprep.bids_app.boilerplate import name_density
from sodiumprep.bids_app.budget import MAIN_PVC, TERMS, budget_section, term_rows
from sodiumprep.bids_app.history import history_section, known_errors
from sodiumprep.bids_app.names import DatasetNames, DerivativeNames
from sodiumprep.bids_app.parcellations import parcellation_sections
from sodiumprep.bids_app.reconstruction import (
    course_of,
    is_for_looking,
    is_from_kspace,
    reconstruction_section,
)
from sodiumprep.bids_app.results import RunResults, SessionResults, find_sessions
from sodiumprep.bids_app.settings import SESSIONS_PER_REPORT
from sodiumprep.bids_app.summary import FLUID_NAMES, PHANTOM, Cell, value_cards, what_was_chosen
from sodiumprep.bids_app.viewer import ROOM, session_view
from sodiumprep.bids_app.wording import doi_links, number, plain_value
from sodiumprep.interfaces.files import write_text
from sodiumprep.sodium.pvc import METHODS as PVC_METHODS
from sodiumprep.sodium.quality import PLAUSIBLE

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    out_dir: Path,
    subject: str,
    errors: Sequence[str] = (),
    sessions_at_most: int = SESSIONS_PER_REPORT,
    interactive: bool = True,
) -> Path:
    """Write the report of one subject from the files of the output alone.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    subject
        Label without its key.
    errors
        What failed, beside what the record of the subject's last run tells.
    sessions_at_most
        With more sessions each has a page of its own, and that of the subject leads to them.
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
    names = DerivativeNames(out_dir, subject)
    told = known_errors(out_dir, subject, errors)
    sessions = find_sessions(out_dir, subject)
    groups = [sessions] if len(sessions) <= sessions_at_most else [[s] for s in sessions]
    own_pages = len(groups) > 1
    pages = {
        _page_path(group, names, own_pages): _subject_page(
            names, group, told, own_pages, interactive
        )
        for group in groups
    }
    if own_pages:
        pages[names.report()] = _index_page(names, sessions, told)
    for stale in set(out_dir.glob(f"sub-{subject}_ses-*.html")) - set(pages):
        stale.unlink()
    for path, page in pages.items():
        write_text(path, page)
    return names.report()


def _page_path(group: list[SessionResults], names: DerivativeNames, own_page: bool) -> Path:
    """Return where the page of some sessions lies; that of the subject leads to its own ones."""
    if not own_page:
        return names.report()
    (session,) = group
    label = session.names.session or "none"  # results beside those of sessions
    return replace(names, session=label).report()


def _subject_page(
    names: DerivativeNames,
    sessions: list[SessionResults],
    errors: list[str],
    own_page: bool,
    interactive: bool,
) -> str:
    with figures.drawing_style():
        sections = [_session_section(session, errors) for session in sessions]
    if interactive:
        _add_views(sections, sessions)
    runs = [run for session in sessions for run in session.runs]
    return environment().get_template("subject.html").render(
        **_common(names, sessions, errors),
        title=" ".join([f"sub-{names.subject}", *(s.title for s in sessions if own_page)]),
        index=names.report().name if own_page else "",
        sessions=sections,
        methods=methods_blocks(DatasetNames(names.out_dir).citation_md, _weightings(runs)),
        terms=TERMS,
        pvc_names=PVC_METHODS,
        has_viewer=any(_has_view(section) for section in sections),
    )  # fmt: skip


def _index_page(names: DerivativeNames, sessions: list[SessionResults], errors: list[str]) -> str:
    """Return the page that leads to those of the sessions, with the values of each."""
    listed = [
        {
            "title": session.title or "without session",
            "page": _page_path([session], names, True).name,
            "warnings": len(_all_warnings([session])),
            "runs": [
                {"title": run.title, "cards": value_cards(run),
                 "table_problem": _table_problem(run), "for_looking": is_for_looking(run.metrics)}
                for run in session.runs
            ],
            "why_no_run": _reason("No sodium run has results in", session.names.folder, errors),
        }
        for session in sessions
    ]  # fmt: skip
    return environment().get_template("sessions.html").render(
        **_common(names, sessions, errors), title=f"sub-{names.subject}", sessions=listed
    )  # fmt: skip


def _common(
    names: DerivativeNames, sessions: list[SessionResults], errors: list[str]
) -> dict[str, Any]:
    """Return what the page of a subject and those of its sessions have in common."""
    runs = [run for session in sessions for run in session.runs]
    return {
        "errors": errors,
        "warnings": _all_warnings(sessions),
        "sloppy": any(_sloppy(session) for session in sessions),
        "receive_uncorrected": [r.title for r in runs if r.metrics.get("ReceiveUncorrected")],
        "history": history_section(names.out_dir, names.subject, errors),
        "version": version("sodiumprep"),
    }


def _add_views(sections: list[dict[str, Any]], sessions: list[SessionResults]) -> None:
    room = ROOM / max(1, len(sessions))
    for section, session in zip(sections, sessions, strict=True):
        view = session_view(session, room)
        section["viewer"] = view["anatomy"]
        for held, run in zip(section["runs"], session.runs, strict=True):
            held["viewer"] = view["runs"][run.title]


def _has_view(section: dict[str, Any]) -> bool:
    return any(run["viewer"] and not run["viewer"]["problem"] for run in section["runs"])


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
        "cards": value_cards(run),
        "chosen": what_was_chosen(run, session),
        "calibration": calibration,
        "lines": _lines(calibration),
        "phantom": calibration.get("reference") == "phantom" and calibration.get("phantom"),
        "fluid": FLUID_NAMES.get(str(calibration.get("reference")), ""),
        "references": _references(calibration),
        "methods": _present(run, "pvc"),
        "parcellations": parcellation_sections(run),
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
        drawn |= _corrected_maps(run, contours)
    if calibration.get("reference") == "vials":
        path = names.sodium_figure("calibration")
        drawn["calibration"] = _saved(lambda: charts.calibration_figure(calibration), path)
    if len(run.table):
        path = names.sodium_figure("regions")
        drawn["regions"] = _saved(lambda: charts.regions_figure(run, PLAUSIBLE), path)
    if run.scan_time:
        path = names.sodium_figure("scantime")
        drawn["scan_time"] = _saved(lambda: charts.scan_time_figure(run.scan_time), path)
    return drawn


def _convergence(run: RunResults) -> dict[str, Cell]:
    course = course_of(run.metrics)
    if not course:
        return {}
    path = run.names.sodium_figure("convergence")
    return {"convergence": _saved(lambda: charts.convergence_figure(course), path)}


def _corrected_maps(run: RunResults, contours: figures.Contours) -> dict[str, Cell]:
    files = run.corrected_maps()
    if not files:
        return {}
    path = run.names.sodium_figure("pvc", ".png")
    return {"pvc": _saved(lambda: figures.pvc_figure(run, files, contours), path)}


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
    rows += _artifact_quality(run)
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


def _artifact_quality(run: RunResults) -> list[tuple[str, str, str]]:
    """Return artefacts, overlap and the flags that thresholds raise (docs/quality.md)."""
    held = run.metrics
    raised = ", ".join(dict.fromkeys(name for name, _ in run.flags)) or "none"
    return [
        *(
            (label, number(held.get(key), digits), meaning)
            for key, label, digits, meaning in (
                ("SpikeShare", "Readouts with spikes", 4, "share of all"),
                ("GhostShare", "Ghosts outside the head", 3, "over the mean of the brain"),
                ("BrainDice", "Overlap of the brains", 3, "Dice, sodium image and anatomy"),
                ("NegativeShare", "Negative voxels", 4, "share of the brain"),
                ("CalibrationResidualSD", "Distance of vials from the line", 2, "mmol/L"),
            )
        ),
        ("Flags", raised if "Flags" in held else "n/a", "figures beyond their thresholds"),
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
