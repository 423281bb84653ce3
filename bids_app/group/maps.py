"""The maps of a cohort in template space: which there are, and one for each participant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sodiumprep.bids_app.group.tables import UNKNOWN
from sodiumprep.bids_app.group.values import Cohort
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import acquisition_label, entities
from sodiumprep.bids_app.templates import ANATOMY, Space
from sodiumprep.interfaces.cohort_maps import Grid, common_grid, read_map
from sodiumprep.sodium.acquisition import Floats

PATTERNS = ("sub-*/anat/*_desc-corrected_TSCmap.nii.gz",
            "sub-*/ses-*/anat/*_desc-corrected_TSCmap.nii.gz")  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """A map of one run.

    Parameters
    ----------
    participant_id, session, run
        As in the tables, ``n/a`` where there is none.
    path
        NIfTI file.
    """

    participant_id: str
    session: str
    run: str
    path: Path


@dataclass(frozen=True)
class SpaceMaps:
    """All maps of a cohort in one space.

    Parameters
    ----------
    space
        Template, its cohort and resolution.
    pvc
        Method of partial-volume correction; empty for none.
    scans
        In the order of participants and sessions.
    grid
        Of all of them.
    """

    space: Space
    pvc: str
    scans: tuple[Scan, ...]
    grid: Grid

    @cached_property
    def files(self) -> dict[str, dict[str, list[Path]]]:
        """Maps by participant and session."""
        found: dict[str, dict[str, list[Path]]] = {}
        for scan in self.scans:
            own = found.setdefault(scan.participant_id, {})
            own.setdefault(scan.session, []).append(scan.path)
        return found

    @property
    def place(self) -> dict[str, str]:
        """Entities that names of its results begin with."""
        held = {"space": self.space.template, "cohort": self.space.cohort}
        return {**held, "res": self.space.resolution, "pvc": self.pvc}

    @property
    def label(self) -> str:
        """Its place in names of figures."""
        return "_".join(text for text in self.place.values() if text)

    def sidecar(self, units: str, told: str) -> dict[str, Any]:
        """Return the sidecar of a map of the cohort.

        Parameters
        ----------
        units, told
            What it holds.
        """
        return {
            "Description": told, "Units": units, "SkullStripped": False, "Space": str(self.space),
            "PartialVolumeCorrection": self.pvc or "none",
            "SoftwareVersion": version("sodiumprep"),
        }  # fmt: skip

    def session_map(self, participant: str, session: str, fwhm: float = 0.0) -> Floats:
        """Return the mean over the runs of a session.

        Parameters
        ----------
        participant, session
            Which.
        fwhm
            Of the Gaussian that smooths each map [mm].
        """
        return mean_of(_read(path, fwhm) for path in self.files[participant][session])

    def person_map(self, participant: str, fwhm: float = 0.0) -> Floats:
        """Return the mean over the sessions of a participant.

        Parameters
        ----------
        participant
            Who.
        fwhm
            Of the Gaussian that smooths each map [mm].
        """
        labels = self.files[participant]
        return mean_of(self.session_map(participant, label, fwhm) for label in labels)


def _read(path: Path, fwhm: float) -> Floats:
    try:
        return read_map(path, fwhm)
    except ValueError as error:
        raise UserError(str(error)) from None


def mean_of(maps: Iterable[Floats]) -> Floats:
    """Return the mean of maps over those that cover a voxel; nan where none does.

    Parameters
    ----------
    maps
        Of one shape, at least one.
    """
    held = iter(maps)
    first = next(held)
    count = np.isfinite(first).astype(np.float32)
    total = np.nan_to_num(first)
    for values in held:
        count += np.isfinite(values)
        total += np.nan_to_num(values)
    return np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan))


def find_maps(
    out_dir: Path, cohort: Cohort, quality: pd.DataFrame, pvc: str = ""
) -> list[SpaceMaps]:
    """Return the relaxation-corrected maps in each template space.

    Parameters
    ----------
    out_dir
        Root of the derivatives.
    cohort
        Whose excluded runs are left out.
    quality
        One row per run: where registration failed, it is left out, too.
    pvc
        Method of partial-volume correction that is asked for; empty for none.

    Raises
    ------
    UserError
        If the grids of a space differ.
    """
    spaces: dict[Space, list[Scan]] = {}
    out = _unusable(cohort, quality)
    for path in sorted(p for pattern in PATTERNS for p in out_dir.glob(pattern)):
        parts = entities(path)
        scan = Scan(f"sub-{parts['sub']}", parts.get("ses", UNKNOWN), parts.get("run", UNKNOWN),
                    path)  # fmt: skip
        kept = (scan.participant_id, scan.session, scan.run) not in out
        if kept and _asked(parts, cohort.model.content.get("Input", {}), pvc):
            space = Space(parts["space"], parts.get("cohort", ""), parts.get("res", ""))
            spaces.setdefault(space, []).append(scan)
    return [SpaceMaps(space, pvc, tuple(scans), _grid(scans)) for space, scans in spaces.items()]


def _asked(parts: Mapping[str, str], wanted: Mapping[str, Sequence[str]], pvc: str) -> bool:
    if "stat" in parts or parts.get("pvc", "") != pvc:
        return False
    if parts.get("space", ANATOMY[0]) in ANATOMY:
        return False
    if "acq" in wanted and acquisition_label(parts) != wanted["acq"]:
        return False
    if parts.get("rec", UNKNOWN) != wanted.get("rec", UNKNOWN):
        return False
    return parts.get("ses", UNKNOWN) in wanted.get("session", [parts.get("ses", UNKNOWN)])


def _unusable(cohort: Cohort, quality: pd.DataFrame) -> set[tuple[str, ...]]:
    """Return the runs that are left out: participant, session, run."""
    failed = quality[quality["registration_failed"].astype(str) == "true"]
    keys = ["participant_id", "session", "run"]
    rows = [*failed[keys].itertuples(index=False), *cohort.left_out.select(keys).iter_rows()]
    return {tuple(map(str, row)) for row in rows}


def _grid(scans: Sequence[Scan]) -> Grid:
    try:
        return common_grid([scan.path for scan in scans])
    except ValueError as error:
        raise UserError(
            f"{error}; process that participant again, or leave it out (Exclude.participant_id)"
        ) from None
