"""Atlases: which label image, in whose space, and what its labels are called."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.metadata import SODIUM, UserError, read_table
from sodiumprep.bids_app.names import DerivativeNames, bids_uri, entities, stem, suffix
from sodiumprep.bids_app.ready import (
    check_image,
    label_table,
    labels_of,
    read_label_names,
    ready_files,
)
from sodiumprep.bids_app.results import OWN_TABLES
from sodiumprep.bids_app.settings import LESION_TABLES, Settings
from sodiumprep.bids_app.templates import (
    ANATOMY,
    EMBEDDED,
    Space,
    find_template,
    known_cohorts,
    known_templates,
    template_home,
)
from sodiumprep.interfaces.atlases import BUILT_IN
from sodiumprep.sodium.labels import FREESURFER, TISSUES, freesurfer_name, tissue_of_name
from sodiumprep.sodium.pvc.parcel_rows import atlas_rows
from sodiumprep.workflows.plans import AtlasPlan

OF_VOLUME = (".nii.gz", ".nii", ".mgz")
PREFERRED = ("MNI152NLin2009cAsym", "MNI152NLin6Asym")  # of the templates that have an atlas
OF_SPACE = ("tpl", "space", "cohort", "res", "den")  # entities that say where, not which atlas
ACCEPTED = (
    "accepted: a built-in one ({built_in}), a label image whose name says its space "
    "(…space-MNI152NLin2009cAsym…_dseg.nii.gz, with a TSV of index and name beside it), an atlas "
    "of TemplateFlow (Schaefer2018:desc-400Parcels7Networks), or a segmentation of the subjects "
    "in a folder given with -d (aparcaseg, aparc+aseg)"
)


@dataclass(frozen=True)
class Atlas:
    """Regions that a table is wanted of.

    Parameters
    ----------
    name
        As ``seg-`` says it in names of the output.
    names
        Of its labels; empty where each subject has its own.
    tissues
        GM, WM or CSF of those labels that say it.
    path
        Label image; None for a built-in one, or where each subject has its own.
    space
        In which it lies; None for that of each subject.
    segmentation
        How the subjects' own label images are called; empty where there is one for all.
    """

    name: str
    names: Mapping[int, str]
    tissues: Mapping[int, str]
    path: Path | None = None
    space: Space | None = None
    segmentation: str = ""


def read_atlases(settings: Settings) -> tuple[Atlas, ...]:
    """Return the atlases of ``--atlases``.

    Parameters
    ----------
    settings
        The user's choices.

    Raises
    ------
    UserError
        If a name is not known, or labels and their table disagree.
    """
    roots = tuple(settings.derivatives.values())
    found = [_read(text, roots) for text in dict.fromkeys(settings.atlases)]
    names = [atlas.name for atlas in found]
    taken = (*OWN_TABLES, *LESION_TABLES)
    twice = sorted({name for name in names if names.count(name) > 1 or name in taken})
    if twice:
        raise UserError(f"--atlases: more than one would be called seg-{twice[0]} in the output")
    return tuple(found)


@cache  # each subject asks for them
def _read(text: str, roots: tuple[Path, ...]) -> Atlas:
    where = f"--atlases {text}"
    if text in BUILT_IN:
        names = BUILT_IN[text]
        return Atlas(text, names, _tissues(names, {}), space=Space(EMBEDDED))
    path = Path(text).expanduser()
    if path.is_dir():
        path = _only_image(where, path)
    if path.is_file():
        return _of_file(where, path)
    if "/" in text or text.endswith(OF_VOLUME):
        raise UserError(f"{where}: there is no such file")
    stored = _of_templateflow(where, text)
    if stored is not None:
        return stored
    if any(_segmentations(text, root.rglob("*")) for root in roots):
        return Atlas(_plain(text), {}, {}, segmentation=text)
    raise UserError(f"{where}: is not known; {ACCEPTED.format(built_in=', '.join(BUILT_IN))}")


def _plain(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]", "", text)


def _only_image(where: str, folder: Path) -> Path:
    images = sorted(path for path in folder.rglob("*_dseg.nii*") if "sub" not in entities(path))
    if len(images) != 1:
        listed = ", ".join(path.name for path in images[:6]) or "none"
        raise UserError(f"{where}: {len(images)} label images in it ({listed}); name one of them")
    return images[0]


def _of_file(where: str, path: Path) -> Atlas:
    """Return an atlas that a file holds; its name says the space."""
    parts = entities(path)
    template = parts.get("tpl") or parts.get("space")
    if template is None or template in ANATOMY:
        raise UserError(
            f"{where}: its name does not say in which template's space it lies; accepted: "
            "…_space-<template>_…dseg.nii.gz or tpl-<template>_…; a segmentation of one subject "
            "belongs into a folder given with -d"
        )
    if template not in known_templates():
        raise UserError(
            f"{where}: the template {template} is not known; accepted: "
            f"{', '.join(known_templates())}, and every tpl-<name> in {template_home()}"
        )
    cohort = parts.get("cohort", "")
    if cohort not in (known_cohorts(template) or ("",)):
        raise UserError(f"{where}: {template} has no cohort '{cohort}'")
    table = _table_of(path)
    if table is None:
        raise UserError(
            f"{where}: no TSV with columns index and name tells what its labels are; accepted: "
            f"{stem(path)}.tsv beside it"
        )
    names, said = read_label_names(table), _stated_tissues(table)
    _check_agreement(path, table, names)
    names = {label: name for label, name in names.items() if label}
    which = "".join(parts[key] for key in ("atlas", "seg", "desc") if key in parts)
    name = _plain(which or stem(path).rsplit("_", 1)[0])
    tissues = _tissues(names, said)
    return Atlas(name, told_apart(names, tissues), tissues, path, Space(template, cohort))


def _check_agreement(path: Path, table: Path, names: Mapping[int, str]) -> None:
    """Refuse labels that do not stand in their table, and the other way round."""
    found, listed = set(labels_of(path)), set(names) - {0}
    for missing, text in (
        (found - listed, f"{path.name} holds label {{}}, which does not stand in {table}"),
        (listed - found, f"{table} lists label {{}}, which {path.name} does not hold"),
    ):
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UserError(f"--atlases: {text.format(min(missing))}{more}")


def told_apart(names: Mapping[int, str], tissues: Mapping[int, str]) -> dict[int, str]:
    """Return names whose rows are all called differently: others get their number behind them.

    Parameters
    ----------
    names, tissues
        Of all labels of a table, so that a number does not depend on what a subject holds.

    Examples
    --------
    >>> told_apart({1: "Thalamus", 2: "Putamen", 3: "Thalamus", 7: "Thalamus 1"}, {})
    {1: 'Thalamus 1', 2: 'Putamen', 3: 'Thalamus 3', 7: 'Thalamus 1 7'}
    """
    shown = dict(names)
    while True:
        rows = Counter(row.name for row in atlas_rows(shown, tissues))
        alike = [
            label for label, name in shown.items() if name == names[label]
            and any(rows[row.name] > 1 for row in atlas_rows({label: name}, tissues))
        ]  # fmt: skip
        if not alike:
            return shown
        shown |= {label: f"{names[label]} {label}" for label in alike}


def _table_of(path: Path) -> Path | None:
    """Return the table of a label image: beside it, or one that images of all spaces share."""
    own = path.with_name(stem(path) + ".tsv")
    if own.is_file():
        return own
    wanted = {key: value for key, value in entities(path).items() if key not in OF_SPACE}
    for folder in (path.parent, *list(path.parents)[1:3]):
        for table in sorted(folder.glob(f"*{suffix(path)}.tsv")):
            parts = entities(table)
            here = {key: value for key, value in parts.items() if key not in OF_SPACE}
            there = {key: value for key, value in parts.items() if key in OF_SPACE}
            if here == wanted and there.items() <= entities(path).items():
                return table
    return None


def _stated_tissues(table: Path) -> dict[int, str]:
    """Return the tissues that a column of a table says.

    Raises
    ------
    UserError
        If one is none of GM, WM and CSF.
    """
    found = {}
    for row in read_table(table):
        tissue = (row.get("tissue") or "n/a").strip()
        if tissue in TISSUES:
            found[int(float(row["index"]))] = tissue
        elif tissue not in ("n/a", "all"):
            raise UserError(
                f"{table}: tissue '{tissue}' of label {row['index']}; accepted: "
                f"{', '.join(TISSUES)}, all, n/a"
            )
    return found


def _tissues(names: Mapping[int, str], said: Mapping[int, str]) -> dict[int, str]:
    """Return the tissue of each label that says one, in its column or by its name."""
    by_name = {label: tissue_of_name(name) for label, name in names.items()}
    return {label: t for label, t in {**by_name, **said}.items() if t and label in names}


def _of_templateflow(where: str, text: str) -> Atlas | None:
    """Return an atlas of TemplateFlow, fetched where it is not there; None if there is none.

    Raises
    ------
    UserError
        If more than one is meant.
    """
    name, *modifiers = text.split(":")
    wanted = dict(modifier.partition("-")[::2] for modifier in modifiers)
    bad = [key for key in wanted if key not in ("desc", "tpl", "res")]
    if bad:
        raise UserError(f"{where}: {bad[0]}- is no modifier; accepted: desc-, tpl-, res-")
    images = _stored(name, wanted) or (_fetched(name, wanted) and _stored(name, wanted)) or []
    if not images:
        return None
    by_desc = {entities(path).get("desc", "") for path in images}
    if len(by_desc) > 1:
        listed = ", ".join(f"{name}:desc-{desc}" for desc in sorted(by_desc) if desc)
        raise UserError(f"{where}: there are several; accepted: {listed}")
    return _of_file(where, images[0])


def _stored(name: str, wanted: Mapping[str, str]) -> list[Path]:
    """Return the label images of an atlas in TemplateFlow's folder, best template first."""
    found = []
    for path in sorted(template_home().glob(f"tpl-*/**/*atlas-{name}_*dseg.nii*")):
        parts = entities(path)
        same = all(
            parts.get(key, "").lstrip("0") == value.lstrip("0") for key, value in wanted.items()
        )
        if parts.get("atlas") == name and same and path.stat().st_size > 0:
            found.append(path)

    def rank(path: Path) -> tuple[int, str, str]:
        template = entities(path)["tpl"]
        place = PREFERRED.index(template) if template in PREFERRED else len(PREFERRED)
        return place, template, entities(path).get("res", "")

    return sorted(found, key=rank)


def _fetched(name: str, wanted: Mapping[str, str]) -> bool:
    """Let templateflow fetch an atlas and its table; tell whether it did."""
    query: dict[str, Any] = {"atlas": name, "suffix": "dseg", "extension": ["nii.gz", "tsv"]}
    query |= {"desc": wanted["desc"]} if "desc" in wanted else {}
    query |= {"resolution": int(wanted.get("res", 1))}
    try:
        api = importlib.import_module("templateflow.api")
        for template in (wanted["tpl"],) if "tpl" in wanted else PREFERRED:
            if api.get(template, **query):
                api.get(template, **{**query, "resolution": None})
                return True
    except (ImportError, OSError, RuntimeError, ValueError):
        return False
    return False


def _segmentations(text: str, paths: Iterable[Path]) -> list[Path]:
    """Return the label images of subjects that a name means."""
    return [
        path
        for path in paths
        if path.name == f"{text}.mgz" or (path.name.endswith(OF_VOLUME) and _is_meant(path, text))
    ]


def _is_meant(path: Path, text: str) -> bool:
    parts = entities(path)
    return (
        suffix(path) == "dseg"
        and text in (parts.get("desc"), parts.get("atlas"), parts.get("seg"))
        and parts.get("space", "T1w") in ("T1w", "orig")
        and not parts.get("acq", "").startswith(SODIUM)
    )


def subject_atlases(job: SubjectJob, settings: Settings) -> list[Atlas]:
    """Return the atlases of a subject; those that are segmentations with their own labels.

    Parameters
    ----------
    job
        Subject and session.
    settings
        The user's choices.

    Raises
    ------
    UserError
        If a subject has no such segmentation, or nothing tells what its labels are.
    """
    return [
        _of_subject(atlas, job, settings) if atlas.segmentation else atlas
        for atlas in read_atlases(settings)
    ]


def _of_subject(atlas: Atlas, job: SubjectJob, settings: Settings) -> Atlas:
    paths = ready_files(settings.derivatives, job.subject, job.session)
    found = _segmentations(atlas.segmentation, paths)
    if not found:
        folders = ", ".join(map(str, settings.derivatives.values()))
        raise UserError(
            f"--atlases {atlas.segmentation}: sub-{job.subject} has no such segmentation in "
            f"{folders}"
        )
    path = found[0]
    check_image(path)
    labels, table = labels_of(path), label_table(path)
    if table is not None:
        known, said = read_label_names(table), _stated_tissues(table)
    elif set(labels) <= set(FREESURFER):
        known = {label: freesurfer_name(label) for label in labels}
        said = {label: FREESURFER[label] for label in labels}
    else:
        raise UserError(
            f"{path}: no TSV with columns index and name tells what its labels are; accepted: "
            f"{stem(path)}.tsv beside it"
        )
    missing = [label for label in labels if label not in known]
    if missing:
        raise UserError(f"{path}: label {missing[0]} does not stand in {table}")
    # a table that subjects share lists what one of them may lack
    names = {label: known[label] for label in labels if tissue_of_name(known[label]) != ""}
    of_table = {label: name for label, name in known.items() if label}
    shown = told_apart(of_table, _tissues(of_table, said))
    tissues = _tissues(names, said)
    return replace(atlas, names={n: shown[n] for n in names}, tissues=tissues, path=path)


def plan_labels(
    job: SubjectJob, settings: Settings, provenance: Mapping[str, Any], links: Mapping[str, Path]
) -> tuple[AtlasPlan, ...]:
    """Plan how the labels of atlases come to the anatomy.

    Parameters
    ----------
    job
        Subject and session.
    settings
        The user's choices.
    provenance
        Of the anatomy.
    links
        Datasets that sidecars refer to.

    Raises
    ------
    UserError
        If labels of a subject are missing, or a transform to them.
    """
    names = DerivativeNames(
        settings.out_dir, job.subject, job.session, anat_suffix=job.anatomy.suffix
    )
    plans = []
    for atlas in subject_atlases(job, settings):
        _check_transforms(atlas, job)
        outputs = {
            "labels": str(names.atlas_labels(atlas.name)),
            "table": str(names.atlas_labels(atlas.name, ".tsv")),
        }
        source = [bids_uri(atlas.path, links)] if atlas.path else []
        told = {**provenance, "Atlas": atlas.name, **_described(atlas)}
        told["Sources"] = [*source, *provenance["Sources"]]
        plans.append(_plan(atlas, outputs, told))
    return tuple(plans)


def plan_tables(
    job: SubjectJob, settings: Settings, names: DerivativeNames, links: Mapping[str, Path]
) -> tuple[AtlasPlan, ...]:
    """Plan the tables of the atlases of one run.

    Parameters
    ----------
    job
        Subject and session.
    settings
        The user's choices.
    names
        Of the run.
    links
        Datasets that sidecars refer to.
    """
    anatomy = replace(names, session=job.session)
    plans = []
    for atlas in subject_atlases(job, settings):
        labels = bids_uri(anatomy.atlas_labels(atlas.name), links)
        told = {"Atlas": atlas.name, "Labels": labels, "LeastCoverage": settings.min_coverage}
        outputs = {"table_file": str(names.tsc_table(atlas.name))}
        plan = _plan(atlas, outputs, {**told, **_described(atlas)})
        plans.append(replace(plan, least_coverage=settings.min_coverage))
    return tuple(plans)


def _plan(atlas: Atlas, outputs: Mapping[str, str], told: Mapping[str, Any]) -> AtlasPlan:
    return AtlasPlan(
        name=atlas.name,
        names=dict(atlas.names),
        tissues=dict(atlas.tissues),
        image=str(atlas.path or ""),
        template=atlas.space.label if atlas.space else "",
        outputs=outputs,
        provenance=told,
    )


def _described(atlas: Atlas) -> dict[str, str]:
    return {"Template": atlas.space.template} if atlas.space else {}


def _check_transforms(atlas: Atlas, job: SubjectJob) -> None:
    """Refuse ready-made transforms of which the one that brings labels is missing."""
    if atlas.space is None:
        return
    ready, label = job.anatomy.ready, atlas.space.label
    if f"to_{label}" in ready and f"from_{label}" not in ready:
        raise UserError(
            f"{ready[f'to_{label}']}: the transform back is missing; to bring the atlas "
            f"{atlas.name} to the anatomy, from-{label}_to-T1w_mode-image_xfm.h5 is needed "
            "beside it"
        )


def atlas_spaces(settings: Settings) -> list[Space]:
    """Return the templates in whose spaces atlases lie, each once.

    Parameters
    ----------
    settings
        The user's choices.
    """
    found = (atlas.space for atlas in read_atlases(settings))
    return list(dict.fromkeys(space for space in found if space is not None))


def check_atlases(settings: Settings) -> None:
    """Find all atlases and their templates, before anything is computed.

    Parameters
    ----------
    settings
        The user's choices.

    Raises
    ------
    UserError
        If an atlas is not known, its labels and their table disagree, or a template is missing
        and cannot be fetched.
    """
    for space in atlas_spaces(settings):
        find_template(space)
