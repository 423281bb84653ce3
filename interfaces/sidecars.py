"""Saving a file under its final name, with a sidecar that says what it rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, traits

from sodiumprep.interfaces.calibrate import load_lines
from sodiumprep.interfaces.files import copy_file, write_text, written
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.sodium.concentration_map import TERMS

TSC = "mmol/L"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, complete or not at all; nan becomes null, folders are made.

    Parameters
    ----------
    path
        File to write.
    content
        What to write.
    """
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def save_as(source: str, target: str) -> None:
    """Copy a result to its final name, complete or not at all; images get one header.

    Parameters
    ----------
    source, target
        Files; an existing target is replaced.
    """
    if not target.endswith(".nii.gz"):
        copy_file(source, target)
        return
    values, affine = load_image(source)
    with written(target) as partial:
        save_image(partial, _as_stored(values, Path(target).name), affine)


def _as_stored(values: Any, name: str) -> Any:
    return values.astype(np.int16) if name.endswith(("_mask.nii.gz", "dseg.nii.gz")) else values


def sidecar_head(target: str, units: str, description: str) -> dict[str, Any]:
    """Return the first entries of a sidecar; no image of ours is skull-stripped."""
    head: dict[str, Any] = {"Description": description, "Units": units}
    return {**head, "SkullStripped": False} if target.endswith(".nii.gz") else head


def sidecar_path(target: str) -> Path:
    """Return the path of a file's sidecar."""
    name = Path(target).name
    for extension in (".nii.gz", ".tsv", ".txt", ".h5"):
        name = name.removesuffix(extension)
    return Path(target).with_name(f"{name}.json")


class WrittenFiles(TraitedSpec):
    out_files = traits.List(File(exists=True), desc="what was written")


class Saving(SimpleInterface):
    """Writes results under their final names, in every run.

    A cache cannot know whether what it once wrote outside of itself is still there.
    """

    _always_run = True


def numbers_used(inputs: Any) -> dict[str, Any]:
    """Return what the sidecar of a concentration says: calibration, constants, kernel.

    Parameters
    ----------
    inputs
        Of the interface that saves it: ``calibration_file``, ``provenance``, ``tissues`` and
        ``properties`` are read.
    """
    lines, references = load_lines(inputs.calibration_file)
    return {
        **inputs.provenance,
        "Calibration": {
            **references,
            "Lines": {name: vars(line) for name, line in lines.items()},
        },
        "RelaxationConstants": dict(inputs.tissues),
        "PointSpreadFWHM": inputs.properties["PointSpreadFWHM"],
        "ReceiveCorrection": inputs.properties["ReceiveCorrection"],
        "TransmitCorrection": inputs.properties.get("TransmitCorrection", "none"),
        "PartialVolumeCorrection": "gtm (regional values)",
        **noise_bias(inputs.properties),
    }


def noise_bias(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the sidecar says of the bias of magnitudes by noise; nothing if none is known.

    Parameters
    ----------
    properties
        Of the image.
    """
    return {key: properties[key] for key in ("NoiseBias",) if key in properties}


def uncertainty_of(port: str, terms: Mapping[str, str]) -> dict[str, Any]:
    """Return what the sidecar of a map of the uncertainty says of its terms; else nothing.

    Parameters
    ----------
    port
        That gives the file.
    terms
        What each term that the uncertainty has is of.
    """
    if port.removeprefix("anat_") != "uncertainty_file":
        return {}
    return {
        "UncertaintyTerms": dict(terms),
        "UncertaintyWithout": [name for name in TERMS if name not in terms],
    }
