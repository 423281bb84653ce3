"""Tables and descriptions of a simulated dataset: who took part, and what was drawn for them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.phantom_cohort import Subject, age_at, lesion_kind
from sodiumprep.sodium.phantom_content import mean_concentrations
from sodiumprep.sodium.phantom_lesions import class_names, relaxation_in

BIDS_VERSION = "1.10.0"
TISSUES = ("GM", "WM", "CSF")
AGE = {"Description": "Age", "Units": "year"}


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table of tab-separated columns, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(str(c) for c in row) for row in (columns, *rows)]
    path.write_text("\n".join(lines) + "\n")


def _description(name: str, kind: str) -> dict[str, Any]:
    description: dict[str, Any] = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": kind,
        "License": "CC0",
        "GeneratedBy": [{"Name": "sodiumprep-phantom"}],
    }
    if kind == "raw":
        description["Authors"] = ["sodiumprep-phantom"]
    return description


README = """# Simulated sodium MRI of the brain

Written by sodiumprep-phantom. Nobody was scanned: heads are deformed from the MNI152 average.

- `sourcedata/`: raw 23Na k-space (ISMRMRD), unless images were asked for
- `derivatives/manual/`: lesion masks and vial labels
- `derivatives/anat/`: anatomy as a segmenter would find it, with its error
- `derivatives/truth/`: what was simulated; compare with it, never feed it to the pipeline

Options of this dataset:

"""


def write_dataset_files(options: argparse.Namespace, subjects: Sequence[Subject]) -> None:
    """Write what describes the dataset as a whole.

    Parameters
    ----------
    options
        Of the command line.
    subjects
        Everybody in it.
    """
    root = options.out_dir
    write_json(root / "dataset_description.json", _description("Simulated sodium MRI", "raw"))
    for name in ("manual", "anat", "truth"):
        description = _description(f"Simulated sodium MRI: {name}", "derivative")
        write_json(root / "derivatives" / name / "dataset_description.json", description)
    write_table(
        root / "derivatives/anat/dseg.tsv", ("index", "name"), list(enumerate(TISSUES, start=1))
    )
    write_participants(options, subjects)
    write_drawn(options, subjects)
    if options.sessions > 1:
        for subject in subjects:
            write_sessions(options, subject)
    if options.lesion != "none":
        write_lesion_relaxation(options)
    told = {k: v for k, v in vars(options).items() if k != "out_dir"}
    lines = [f"- {key}: {json.dumps(value)}" for key, value in sorted(told.items())]
    (root / "README.md").write_text(README + "\n".join(lines) + "\n")


def write_participants(options: argparse.Namespace, subjects: Sequence[Subject]) -> None:
    """Write ``participants.tsv`` and its dictionary; a site only where there are several.

    Parameters
    ----------
    options
        Of the command line.
    subjects
        Everybody.
    """
    rows = [(f"sub-{s.label}", s.age, s.sex, s.group, s.site) for s in subjects]
    if options.calibration_phantom:
        rows += [(f"sub-phantom{s.label}", "n/a", "n/a", "n/a", s.site) for s in subjects]
    columns = {
        "age": {"Description": "Age at the first session", "Units": "year"},
        "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
        "group": {"Description": "Group", "Levels": {g: g for g in options.groups}},
        "site": {"Description": "Site, each with its own set of vials"},
    }
    if options.sites == 1:
        rows, columns = [row[:-1] for row in rows], {k: columns[k] for k in list(columns)[:-1]}
    write_table(options.out_dir / "participants.tsv", ("participant_id", *columns), rows)
    write_json(options.out_dir / "participants.json", columns)


def write_sessions(options: argparse.Namespace, subject: Subject) -> None:
    """Write the sessions of a person with the age at each.

    Parameters
    ----------
    options
        Of the command line.
    subject
        Who is scanned.
    """
    stem = options.out_dir / f"sub-{subject.label}" / f"sub-{subject.label}_sessions"
    rows = [
        (f"ses-{number + 1}", f"{age_at(options, subject, number):.2f}")
        for number in range(options.sessions)
    ]
    write_table(stem.with_suffix(".tsv"), ("session_id", "age"), rows)
    write_json(stem.with_suffix(".json"), {"age": AGE})


def write_drawn(options: argparse.Namespace, subjects: Sequence[Subject]) -> None:
    """Write what was drawn for everybody, and is not told to the pipeline.

    Parameters
    ----------
    options
        Of the command line.
    subjects
        Everybody.
    """
    kind = lesion_kind(options)
    names, ill = list(mean_concentrations(kind)), class_names(kind)
    told = {
        "age": AGE,
        "ventricle_scale": {"Description": "Volume of the ventricles over the average"},
        "cortex_scale": {"Description": "Thickness of the cortex over the average"},
        "vial_error": {"Description": "True concentration of the site's vials over that stated"},
    } | {
        name: {"Description": "Mean meant for the first session", "Units": "mmol/L"}
        for name in names
    }
    rows = [
        (
            f"sub-{s.label}", s.age, s.sex, s.group, s.site or "n/a",
            f"{s.anatomy.ventricle_scale:.4f}", f"{s.anatomy.cortex_scale:.4f}",
            f"{s.vial_error:.4f}",
            *("n/a" if n in ill and s.anatomy.lesion is None else f"{s.concentrations[n]:.4f}"
              for n in names),
        )
        for s in subjects
    ]  # fmt: skip
    columns = ("participant_id", "age", "sex", "group", "site", *list(told)[1:])
    stem = options.out_dir / "derivatives/truth/participants"
    write_table(stem.with_suffix(".tsv"), columns, rows)
    write_json(stem.with_suffix(".json"), told)


def write_lesion_relaxation(options: argparse.Namespace) -> None:
    """Write the true constants of the lesions in the form that ``--relaxation`` reads.

    Parameters
    ----------
    options
        Of the command line.
    """
    rows = {}
    for name in class_names(options.lesion):
        found = relaxation_in(options.lesion, name, options.field_strength)
        rows[name] = {
            "T1": found.t1,
            "T2starShort": found.t2_short,
            "T2starLong": found.t2_long,
            "ShortFraction": found.short_fraction,
            "Source": "simulated",
        }
    write_json(options.out_dir / "derivatives/truth/lesion_relaxation.json", rows)
