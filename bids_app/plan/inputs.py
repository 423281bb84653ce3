"""The plan of what a sodium run reads: its source, and maps of the receive and transmit field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sodiumprep.bids_app.metadata import SODIUM
from sodiumprep.bids_app.runs import SodiumRun
from sodiumprep.bids_app.settings import DEFAULT_RECON, Settings
from sodiumprep.sodium.acquisition import PROTON_GAMMA_BAR, SODIUM_GAMMA_BAR
from sodiumprep.sodium.reciprocity import reciprocity_uncertainty

NONLINEAR = ("tv", "agr")  # maps beside those of the default one, never quantified
SODIUM_OVER_PROTON = SODIUM_GAMMA_BAR / PROTON_GAMMA_BAR  # frequencies in the same field


def files_read(run: SodiumRun, anatomical: bool, with_coil: bool) -> list[Path]:
    """Return the files that a run is made of.

    Parameters
    ----------
    run
        What was found of it.
    anatomical
        Whether there is an anatomy: without one, regions that were drawn are read.
    with_coil
        Whether the 1H image of the same coil is read.
    """
    files = [run.source, run.phase, run.vial_labels, run.receive_map, run.sodium_to_anat]
    files += [*run.receive_array, *run.receive_volume, run.fieldmap]
    files += run.transmit.paths if run.transmit else []
    files += [run.phantom.image] if run.phantom else []
    files += [run.coil_image] if with_coil else []
    files += [] if anatomical else list(dict.fromkeys(path for path, _ in run.regions.values()))
    return [path for path in files if path]


def plan_source(run: SodiumRun, settings: Settings) -> dict[str, Any]:
    """Return the inputs that make the image of a run.

    Parameters
    ----------
    run
        What was found of it.
    settings
        The user's choices.
    """
    width = {"psf_fwhm": list(settings.psf_fwhm)} if settings.psf_fwhm else {}
    if run.is_kspace:
        return {**kspace_options(run, settings), **width}
    known = {
        "image_file": str(run.source),
        "phase_file": str(run.phase) if run.phase else None,
        "trajectory_type": run.protocol.trajectory_type,
        "echo_time": run.protocol.echo_time,
        "readout_duration": run.protocol.readout_duration,
        "kspace_filter": run.protocol.kspace_filter or "none",
        "nominal_voxel": list(run.protocol.acquisition_voxel_size or ()) or None,
        "coils": run.protocol.receive_coils,
    }
    return {**{key: value for key, value in known.items() if value is not None}, **width}


def kspace_options(run: SodiumRun, settings: Settings) -> dict[str, Any]:
    """Return the inputs that make an image of raw data.

    Parameters
    ----------
    run
        What was found of it.
    settings
        The user's choices.
    """
    stated = ("echo_time", "repetition_time", "flip_angle", "field_strength")
    known = {name: getattr(run.protocol, name) for name in stated}
    options: dict[str, Any] = {
        "kspace_file": str(run.source),
        "stated": {name: value for name, value in known.items() if value is not None},
        "recon": linear_method(settings),
        "kspace_filter": settings.kspace_filter,
        "sensitivities": settings.coil_sensitivities,
        "estimate_delay": settings.estimate_delay,
        "low_mem": settings.low_mem,
        "random_seed": settings.random_seed,
    }
    if settings.gradient_delay:
        options["gradient_delay"] = list(settings.gradient_delay)
    if run.fieldmap is not None:
        options["fieldmap_file"] = str(run.fieldmap)
        options["fieldmap_scale"] = 1.0 if run.fieldmap_nucleus == SODIUM else SODIUM_OVER_PROTON
    return options


def linear_method(settings: Settings) -> str:
    """Return the method whose image is quantified: always a linear one.

    Parameters
    ----------
    settings
        The user's choices.
    """
    return DEFAULT_RECON if settings.recon in NONLINEAR else settings.recon


def plan_receive(run: SodiumRun) -> dict[str, Any]:
    """Return the inputs that tell the receive profile; none where nothing does.

    Parameters
    ----------
    run
        What was found of it.
    """
    if run.receive_array and run.receive_volume:
        return {
            "array_files": [str(p) for p in run.receive_array],
            "volume_files": [str(p) for p in run.receive_volume],
        }
    if run.receive_map:
        return {"map_file": str(run.receive_map)}
    return _reciprocal(run) if run.reciprocity else {}


def _reciprocal(run: SodiumRun) -> dict[str, Any]:
    """Return the transmit field as the one that tells the receive profile."""
    names = {"map_file": "transmit_map_file", "units": "transmit_units"}
    return {
        **{names.get(name, name): value for name, value in plan_transmit(run).items()},
        "reciprocity_uncertainty": reciprocity_uncertainty(run.protocol.field_strength),
        "reciprocity_needed": run.reciprocity == "asked",
    }


def plan_transmit(run: SodiumRun) -> dict[str, Any]:
    """Return the inputs that tell the transmit field; none where nothing does.

    Parameters
    ----------
    run
        What was found of it.
    """
    found = run.transmit
    if found is None:
        return {}
    if found.kind == "TB1map":
        return {"map_file": str(found.paths[0]), "units": found.units}
    return {
        "angle_files": [str(path) for path in found.paths],
        "flip_angle": found.flip_angle,
        "repetition_time": found.repetition_time,
    }
