"""The plan of what calibrates a sodium run: vials, a fluid or a phantom; and its constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from sodiumprep.bids_app.constants import relaxation_constants, unused_rows, vial_constants
from sodiumprep.bids_app.metadata import UserError, Vial
from sodiumprep.bids_app.plan.inputs import plan_source
from sodiumprep.bids_app.runs import SodiumRun
from sodiumprep.bids_app.settings import PHANTOM, Settings
from sodiumprep.sodium.calibrate import FLUIDS, require_distinct

FLUID_NAMES = {"csf": "CSF", "vitreous": "the vitreous humour"}  # as warnings say it


def choose_reference(run: SodiumRun, settings: Settings) -> tuple[str, str]:
    """Return what is to calibrate, and what must be said of it.

    Vials without a label image are searched: whether they can calibrate is known when they are
    found.

    Parameters
    ----------
    run
        What was found of it.
    settings
        The user's choices.

    Returns
    -------
    reference
        Name of what calibrates.
    said
        What must be said of it, or nothing.

    Raises
    ------
    UserError
        If vials are asked for that the sidecar does not list, or all have one concentration.
    """
    if settings.reference == "vials" and not run.vials:
        raise UserError(f"{run.source}: CalibrationVials is missing, but --reference is vials")
    if run.vials and settings.reference not in (*FLUIDS, PHANTOM):
        if settings.reference == "vials" or run.vial_labels is not None:
            _refuse_one_level(run, settings)
        return "vials", ""
    if run.phantom and settings.reference in (None, PHANTOM):
        said = "the load of the coil by the head is not known: all values are relative to it"
        return PHANTOM, said if run.phantom.loading_assumed else ""
    chosen = settings.reference or "csf"
    value, _ = assumed_fluids(chosen, settings)[chosen]
    said = (
        f"calibrated by {FLUID_NAMES[chosen]} at an assumed {value:g} mmol/L: all values are "
        "relative to it"
    )
    return chosen, said


def _refuse_one_level(run: SodiumRun, settings: Settings) -> None:
    try:
        require_distinct(np.array([vial.concentration for vial in run.vials]))
    except ValueError as error:
        where = settings.vials_file or run.source
        raise UserError(f"{where}: CalibrationVials: SodiumConcentration: {error}") from None


def assumed_fluids(chosen: str, settings: Settings) -> dict[str, tuple[float, float]]:
    """Return concentration and uncertainty of the fluids; the user's are those of the chosen.

    Parameters
    ----------
    chosen
        Name of what calibrates.
    settings
        The user's choices.

    Returns
    -------
    fluids
        Concentration and its standard uncertainty [mmol/L] by fluid.
    """
    if chosen not in FLUIDS or not settings.reference_concentration:
        return dict(FLUIDS)
    value, *u = settings.reference_concentration
    return {**FLUIDS, chosen: (value, u[0] if u else FLUIDS[chosen][1])}


def plan_phantom(run: SodiumRun, settings: Settings, reference: str) -> dict[str, Any]:
    """Return the inputs of a phantom scanned by itself: its image is made as the head's.

    Parameters
    ----------
    run
        What was found of it.
    settings
        The user's choices.
    reference
        Name of what calibrates.
    """
    phantom = run.phantom
    if phantom is None:
        return {}
    alone = replace(
        run, source=phantom.image, phase=None, protocol=phantom.protocol, fieldmap=None
    )
    return {
        "source": plan_source(alone, settings),
        "needed": reference == PHANTOM,
        **phantom.known(),
    }


def named_vials(run: SodiumRun, reference: str) -> tuple[dict[str, Any], ...]:
    """Return the vials of a run that have labels or are to be found.

    Parameters
    ----------
    run
        What was found of it.
    reference
        Name of what calibrates.
    """
    usable = bool(run.vials) and run.vial_labels is not None
    return _plain_vials(run.vials) if usable or reference == "vials" else ()


def _plain_vials(vials: tuple[Vial, ...]) -> tuple[dict[str, Any], ...]:
    # the number makes names unique; vial n carries label n
    return tuple({**asdict(v), "name": f"{n} {v.name}"} for n, v in enumerate(vials, 1))


def plan_vial_search(run: SodiumRun, settings: Settings) -> dict[str, Any] | None:
    """Return how vials are searched: without labels of theirs, and not where a fluid is wanted.

    Where none are listed, what is found is reported.

    Parameters
    ----------
    run
        What was found of it.
    settings
        The user's choices.
    """
    if run.vial_labels is not None and run.vials:
        return None
    if run.vials and settings.reference in (*FLUIDS, PHANTOM):
        return None
    return {"direction": run.vials_direction, "required": settings.reference == "vials"}


def plan_tissues(
    lesions: tuple[str, ...],
    run: SodiumRun,
    settings: Settings,
    vials: tuple[Mapping[str, Any], ...],
) -> dict[str, dict[str, Any]]:
    """Return the relaxation constants of tissues, lesions and vials, by name.

    Parameters
    ----------
    lesions
        Classes of lesions.
    run
        What was found of it.
    settings
        The user's choices.
    vials
        As :func:`named_vials` gives them.

    Raises
    ------
    UserError
        If there are none at the field strength of the run.
    """
    path = settings.relaxation_file
    try:
        constants = relaxation_constants(lesions, run.protocol.field_strength, path)
    except ValueError as error:
        raise UserError(f"{run.source}: MagneticFieldStrength: {error}") from None
    constants |= vial_constants(vials, path)
    return {name: asdict(relaxation) for name, relaxation in constants.items()}


def unused_constants(settings: Settings, lesions: Iterable[str], run: SodiumRun) -> str:
    """Return what must be said of constants that the user gives and nothing of the run takes.

    Parameters
    ----------
    settings
        The user's choices.
    lesions
        Classes of lesions.
    run
        What was found of it.
    """
    vials = [vial["name"] for vial in _plain_vials(run.vials)]
    unused = unused_rows(settings.relaxation_file, [*lesions, *vials])
    if not unused or settings.relaxation_file is None:
        return ""
    return (
        f"{settings.relaxation_file.name}: {', '.join(unused)}: no tissue, vial or lesion of this "
        "run: not used"
    )
