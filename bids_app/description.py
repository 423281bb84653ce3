"""What the output says of itself: ``dataset_description.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.results import read_json

BIDS_VERSION = "1.10.0"
IMAGE = "SODIUMPREP_CONTAINER"  # environment variable that the Dockerfile sets: name and tag
APPTAINER = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")  # path of the image file
MARKS = {"docker": "/.dockerenv", "podman": "/run/.containerenv"}  # files that engines leave


def dataset_description(out_dir: Path, links: Mapping[str, Path]) -> dict[str, Any]:
    """Return the content of ``dataset_description.json``.

    Parameters
    ----------
    out_dir
        Root of the derivatives; the links are written relative to it.
    links
        Root folder of each input dataset under its name; the raw one is ``raw``.
    """
    targets = {name: os.path.relpath(root, out_dir) for name, root in links.items() if name}
    made = {"Name": "sodiumprep", "Version": version("sodiumprep")}
    container = container_of(os.environ)
    return {
        "Name": "sodiumprep: tissue sodium concentration",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{**made, **({"Container": container} if container else {})}],
        "DatasetLinks": targets,
        "SourceDatasets": [
            {"URL": targets[name], **_stated(root)} for name, root in links.items() if name
        ],
    }


def container_of(environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """Return what is known of the container that this runs in.

    Parameters
    ----------
    environment
        Environment variables.
    root
        Root of the file system, where container engines leave a mark.

    Returns
    -------
    container
        ``Type``, and as far as they are known ``Tag`` and ``URI``; empty outside of a container.

    Examples
    --------
    >>> container_of({"APPTAINER_CONTAINER": "/images/sodiumprep.sif"})
    {'Type': 'apptainer', 'URI': 'file:///images/sodiumprep.sif'}
    >>> container_of({"SODIUMPREP_CONTAINER": "sodiumprep:0.1.0"}, Path("/nowhere"))
    {'Type': 'docker', 'Tag': 'sodiumprep:0.1.0'}
    >>> container_of({}, Path("/nowhere"))
    {}
    """
    file = next((environment[name] for name in APPTAINER if environment.get(name)), "")
    marked = [kind for kind, mark in MARKS.items() if (root / mark.lstrip("/")).exists()]
    tag = environment.get(IMAGE, "")
    if not (file or marked or tag):
        return {}
    kind = "apptainer" if file else next(iter(marked), "docker")
    uri = Path(file).as_uri() if file.startswith("/") else file
    return {"Type": kind, **({"Tag": tag} if tag else {}), **({"URI": uri} if uri else {})}


def _stated(root: Path) -> dict[str, str]:
    """Return version and DOI of a dataset, where it states them."""
    held = read_json(root / "dataset_description.json")
    made = held.get("GeneratedBy")
    first = made[0] if isinstance(made, list) and made and isinstance(made[0], dict) else {}
    found = {
        "DOI": held.get("DatasetDOI"),
        "Version": held.get("DatasetVersion") or held.get("Version") or first.get("Version"),
    }
    return {key: str(value) for key, value in found.items() if value}


def participants_dictionary(table: Path) -> dict[str, Any]:
    """Return the data dictionary of the participants, complete where the raw one is not.

    Parameters
    ----------
    table
        ``participants.tsv`` of the raw dataset; its dictionary lies beside it, or nowhere.
    """
    with table.open(encoding="utf-8-sig", errors="replace") as lines:
        columns = lines.readline().rstrip("\r\n").split("\t")
    held = read_json(table.with_suffix(".json"))
    stated = {key: value for key, value in held.items() if isinstance(value, dict)}
    silent = {"Description": "Not described in the raw dataset"}
    known = {name: silent for name in columns if name}
    known |= {"participant_id": {"Description": "Label of the participant"}}
    return {**stated, **{name: {**text, **stated.get(name, {})} for name, text in known.items()}}
