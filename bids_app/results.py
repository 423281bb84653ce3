"""What lies in a folder of results: sessions and runs of a subject, tables, quality figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from sodiumprep.bids_app import metadata
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import SODIUM_LABEL, DerivativeNames, entities, suffix

TISSUES = ("GM", "WM", "CSF")
PREPROC = "_desc-preproc_"
OWN_TABLES = ("tissue", "drawn")  # what every run has in its own section
SHARED = ("first-lex", "unbiased")  # anatomical references that a subject's sessions share


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; of a missing one nothing, of a broken one a warning.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    content
        Its entries; ``Warnings`` alone if the file cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        content = metadata.read_json(path)
    except UserError as error:
        return {"Warnings": [str(error).replace(str(path), path.name)]}
    if isinstance(content, dict):
        return content
    return {"Warnings": [f"{path.name}: holds no object"]}


def read_table(path: Path) -> pd.DataFrame:
    """Return a regional table; ``n/a`` becomes nan, names and flags stay text.

    Parameters
    ----------
    path
        The TSV file.

    Returns
    -------
    table
        Empty if the file is missing or empty.
    """
    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame()
    table = pd.read_csv(
        path, sep="\t", na_values=["n/a"], keep_default_na=False, dtype={"name": str, "flag": str}
    )
    return table.assign(flag=table["flag"].fillna("")) if "flag" in table else table


@dataclass(frozen=True)
class RunResults:
    """The results of one sodium run.

    Parameters
    ----------
    names
        Paths of everything that the run may have left.
    """

    names: DerivativeNames

    @property
    def title(self) -> str:
        """How a reader knows the run from its neighbours."""
        parts = {"acq": self.names.acquisition, "rec": self.names.rec, "run": self.names.run}
        return " ".join(f"{key}-{value}" for key, value in parts.items() if value)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Entries of the QC file, empty where there is none."""
        return read_json(self.names.qc())

    @cached_property
    def table(self) -> pd.DataFrame:
        """The table of tissues and lesions, else of drawn regions; empty where there is none."""
        table = read_table(self.names.tsc_table())
        return read_table(self.names.tsc_table("drawn")) if table.empty else table

    @cached_property
    def parcellations(self) -> dict[str, pd.DataFrame]:
        """The tables of all other segmentations by name; those that cannot be read are empty."""
        pattern = f"{self.names.sodium_prefix}_seg-*_TSC.tsv"
        paths = {entities(path)["seg"]: path for path in sorted(self.names.folder.glob(pattern))}
        return {name: read_table(path) for name, path in paths.items() if name not in OWN_TABLES}

    @cached_property
    def dictionary(self) -> dict[str, Any]:
        """Entries of the sidecar of :attr:`table`, empty where there is none."""
        held = read_json(self.names.tsc_dictionary())
        return held or read_json(self.names.tsc_dictionary("drawn"))

    @property
    def scan_time(self) -> dict[str, Any]:
        """What shorter scans would cost, empty where raw data were not evaluated by themselves."""
        return dict(self.dictionary.get("ScanTime") or {})

    @property
    def warnings(self) -> list[str]:
        """What the run wants to be known."""
        return [str(text) for text in self.metrics.get("Warnings") or []]

    @property
    def flags(self) -> list[tuple[str, str]]:
        """What is wrong with the run by the thresholds: names and reasons in words."""
        held = self.metrics.get("Flags")
        flags = [f for f in held if isinstance(f, dict)] if isinstance(held, list) else []
        return [(str(flag.get("Name")), str(flag.get("Reason"))) for flag in flags]

    def corrected_maps(self) -> dict[str, Path]:
        """Return the maps that are corrected for partial volume, by method; on the anatomy."""
        pattern = f"{self.names.sodium_prefix}_space-T1w_pvc-*_desc-corrected_TSCmap.nii.gz"
        found = [(entities(path), path) for path in sorted(self.names.folder.glob(pattern))]
        return {parts["pvc"]: path for parts, path in found if "stat" not in parts}

    def rows(self, pvc: str, desc: str) -> pd.DataFrame:
        """Return the rows of one method and kind, ordered by region.

        Parameters
        ----------
        pvc
            Partial-volume method, such as ``gtm``.
        desc
            ``apparent`` or ``corrected``.
        """
        if self.table.empty:
            return self.table
        chosen = (self.table["pvc"] == pvc) & (self.table["desc"] == desc)
        return self.table[chosen].sort_values("index")


@dataclass(frozen=True)
class SessionResults:
    """The results of one session: anatomy and sodium runs.

    Parameters
    ----------
    names
        Paths of the anatomy; its suffix is the one that was found.
    has_anatomy
        Whether there is a 1H image.
    runs
        The sodium runs.
    """

    names: DerivativeNames
    has_anatomy: bool
    runs: list[RunResults] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Name of the session, empty for the only one."""
        return f"ses-{self.names.session}" if self.names.session else ""

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Entries of the sidecar of the anatomy."""
        path = self.names.anat_preproc()
        return read_json(path.with_name(path.name.replace(".nii.gz", ".json")))

    @property
    def warnings(self) -> list[str]:
        """What the anatomy wants to be known."""
        own = self.metadata
        found = [*(own.get("Warnings") or []), *(own.get("InputWarnings") or [])]
        found += [own.get(f"{what}Warning") for what in ("Brain", "Normalization", "ReadyMade")]
        return [str(text) for text in [*found, *self._template_warnings()] if text]

    def _template_warnings(self) -> list[str]:
        """Return what is doubtful about normalizations to templates of the output spaces."""
        pattern = f"{self.names.anat_prefix}_from-{self.names.anat_suffix}_to-*_xfm.json"
        own = self.metadata.get("NormalizationWarning")  # stands in every sidecar of the anatomy
        said = {p: read_json(p) for p in sorted(self.names.folder.glob(pattern))}
        return [
            f"{entities(path)['to']}: {text}"
            for path, held in said.items()
            if (text := held.get("NormalizationWarning")) and text != own
        ]

    def lesion_files(self) -> dict[str, Path]:
        """Return masks or fractions of lesions that lie beside the anatomy, by name."""
        if self.names.shared_anatomy:
            pattern = f"{self.names.prefix}_space-T1w_label-*_mask.nii.gz"
            own = {entities(p)["label"]: p for p in sorted(self.names.folder.glob(pattern))}
            if own:
                return own
        pattern = f"{self.names.anat_prefix}_label-*.nii.gz"
        beside = sorted(self.names.anat_folder.glob(pattern))
        wanted = [path for path in beside if "space" not in entities(path)]
        files = {entities(path)["label"]: path for path in wanted}
        return {name: path for name, path in files.items() if name not in TISSUES}


def find_sessions(out_dir: Path, subject: str) -> list[SessionResults]:
    """Return what a subject has in a folder of results.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    subject
        Label without its key.

    Returns
    -------
    sessions
        In the order of their names; empty if the subject has no results.
    """
    root = out_dir / f"sub-{subject}"
    folders = [root / "anat", *sorted(root.glob("ses-*/anat"))]
    found = [_session(out_dir, subject, folder) for folder in folders if folder.is_dir()]
    # an anatomy that sessions share is shown with each of them, not as a session without sodium
    shared = any(session.names.shared_anatomy for session in found)
    return [s for s in found if not shared or s.names.session or s.runs]


def find_subjects(out_dir: Path) -> list[str]:
    """Return the labels of the subjects that have a folder of results, or at least a report.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    """
    found = [p for p in out_dir.glob("sub-*") if p.is_dir() or p.suffix == ".html"]
    return sorted({entities(p)["sub"] for p in found if "sub" in entities(p)})


def find_tables(out_dir: Path) -> Iterator[Path]:
    """Yield the regional tables of all subjects.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    """
    for pattern in ("sub-*/anat/*_TSC.tsv", "sub-*/ses-*/anat/*_TSC.tsv"):
        yield from sorted(out_dir.glob(pattern))


def _session(out_dir: Path, subject: str, folder: Path) -> SessionResults:
    above = folder.parent.name
    label = above.removeprefix("ses-") if above.startswith("ses-") else None
    names = DerivativeNames(out_dir, subject, label)
    names = replace(names, shared_anatomy=label is not None and _shares_anatomy(names))
    found = [suffix(path) for path in _anatomies(names.anat_folder)]
    names = replace(names, anat_suffix=found[0] if found else "T1w")
    return SessionResults(names, bool(found), list(_runs(names)))


def _shares_anatomy(names: DerivativeNames) -> bool:
    """Tell what the sodium results of a session lie on; without any, where an anatomy is."""
    used = {run.metrics.get("AnatomicalReference") for run in _runs(names) if run.metrics}
    if used - {None}:
        return bool(used & set(SHARED))
    whole = replace(names, session=None).folder
    return not _anatomies(names.folder) and bool(_anatomies(whole))


def _anatomies(folder: Path) -> list[Path]:
    images = sorted(folder.glob(f"sub-*{PREPROC}*.nii.gz"))
    return [path for path in images if not {"acq", "space", "stat"} & set(entities(path))]


def _runs(names: DerivativeNames) -> Iterator[RunResults]:
    files = names.folder.glob(f"{names.prefix}_acq-{SODIUM_LABEL}*")
    found = [entities(path) for path in files]
    keys = {(parts["acq"], parts.get("rec"), parts.get("run")) for parts in found}
    for acquisition, rec, run in sorted(keys, key=lambda key: [part or "" for part in key]):
        yield RunResults(replace(names, acquisition=acquisition, rec=rec, run=run))
