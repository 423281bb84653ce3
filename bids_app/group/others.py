"""Values of another modality in the same regions: from a table, or sampled from its maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from sodiumprep.bids_app.group.facts import check_known
from sodiumprep.bids_app.group.tables import UNKNOWN, read_text_table
from sodiumprep.bids_app.group.values import Cohort
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import entities
from sodiumprep.bids_app.people import PHENOTYPE
from sodiumprep.bids_app.results import TISSUES, SessionResults, find_sessions
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.cohort_maps import grid_of
from sodiumprep.interfaces.other_maps import (
    fractions_on,
    labels_on,
    load_other,
    means_in,
    parts_of,
)
from sodiumprep.sodium.acquisition import Floats

TISSUE_TABLE = "tissue"
OF_ROW = {"all": ("GM", "WM"), **{tissue: (tissue,) for tissue in TISSUES}}  # column tissue
SAME_GRID = 1e-2  # mm


@dataclass(frozen=True)
class Other:
    """Values of another modality.

    Parameters
    ----------
    name
        Of the comparison.
    values
        ``participant_id session run name value u`` and, of sampled maps, ``seg``; ``n/a`` where
        values have no session or run.
    outcome
        Column of the covariates that both are asked to explain; empty for none.
    notes
        What was left out, in words.
    """

    name: str
    values: pd.DataFrame
    outcome: str = ""
    notes: tuple[str, ...] = ()

    def of(self, seg: str, names: Sequence[str]) -> Other:
        """Return the values of some regions alone.

        Parameters
        ----------
        seg
            Segmentation; values of a table that names none are of all.
        names
            Regions.
        """
        own = self.values["name"].isin(names)
        if "seg" in self.values:
            own &= self.values["seg"] == seg
        return Other(self.name, self.values[own], self.outcome, self.notes)


def gather_others(settings: Settings, cohort: Cohort) -> list[Other]:
    """Return the values of all comparisons of the model.

    Parameters
    ----------
    settings
        With the folders that are given.
    cohort
        What was gathered and asked.

    Raises
    ------
    UserError
        If a table or folder is not there or holds nothing usable.
    """
    return [_gather(dict(asked), settings, cohort)
            for asked in cohort.model.section("Comparison") or ()]  # fmt: skip


def _gather(asked: dict[str, Any], settings: Settings, cohort: Cohort) -> Other:
    where = f"Comparison {asked['Name']}"
    if ("Table" in asked) == ("Maps" in asked) or ("Maps" in asked) != ("Suffix" in asked):
        raise UserError(f"{where}: accepted: Table, or Maps with Suffix")
    notes: list[str] = []
    if "Table" in asked:
        values = _table(asked["Table"], settings.out_dir)
    else:
        values = _sampled(where, asked, settings, cohort, notes)
    if "Uncertainty" in asked:
        values["u"] = values["u"].fillna(asked["Uncertainty"] * values["value"].abs())
    return Other(asked["Name"], values, asked.get("Outcome", ""), tuple(notes))


def _table(name: str, out_dir: Path) -> pd.DataFrame:
    places = [out_dir / name, out_dir / PHENOTYPE / name]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(f"Comparison.Table: {' and '.join(map(str, places))} are not there")
    table = read_text_table(path).rename({"session_id": "session"}, strict=False)
    for column in ("participant_id", "name", "mean"):
        if column not in table.columns:
            raise UserError(f"{path}: column {column} is missing")
    plain = {"participant_id": "sub-", "session": "ses-", "run": "run-"}
    keys = {key: table[key].str.strip_prefix(word).fill_null(UNKNOWN).to_list()
            if key in table.columns else UNKNOWN for key, word in plain.items()}  # fmt: skip
    keys["participant_id"] = [f"sub-{label}" for label in keys["participant_id"]]
    held = {"name": table["name"].to_list(), "value": _numbers(table, "mean", path),
            "u": _numbers(table, "uncertainty", path)}  # fmt: skip
    if "seg" in table.columns:
        held["seg"] = table["seg"].to_list()
    values = pd.DataFrame({**keys, **held}, index=range(table.height))
    twice = values[values.duplicated([*plain, "name", *(["seg"] if "seg" in held else [])])]
    if len(twice):
        shown = " ".join(map(str, twice.iloc[0][[*plain, "name"]]))
        raise UserError(f"{path}: {shown} stands there twice; accepted: one row for each")
    if values["value"].isna().all():
        raise UserError(f"{path}: mean holds no number")
    return values


def _numbers(table: pl.DataFrame, column: str, path: Path) -> Floats:
    if column not in table.columns:
        return np.full(table.height, np.nan)
    held = table[column].replace([UNKNOWN, ""], None)
    parsed = held.cast(pl.Float64, strict=False)
    odd = held.filter(parsed.is_null() & held.is_not_null())
    if len(odd):
        raise UserError(f"{path}: {column} is {odd[0]!r}; accepted: numbers, {UNKNOWN}")
    return np.asarray(parsed.fill_null(np.nan).to_numpy(), float)


def _sampled(
    where: str, asked: Mapping[str, Any], settings: Settings, cohort: Cohort, notes: list[str]
) -> pd.DataFrame:
    check_known(asked["Maps"], list(settings.derivatives), f"{where}: Maps, of the folders of -d")
    root, ending = settings.derivatives[asked["Maps"]], asked["Suffix"]
    rows, without = [], []
    for session in _sessions(settings.out_dir, cohort):
        path = _find(root, session, ending)
        label = f"sub-{session.names.subject}"
        if path is None:
            without.append(f"{label} {session.title}".strip())
            continue
        keys = {"participant_id": label, "session": session.names.session or UNKNOWN}
        rows += [{**keys, "run": UNKNOWN, **row} for row in _regions(path, session, cohort)]
    if not rows:
        raise UserError(
            f"{where}: no map found; looked for {root}/sub-<label>/**/"
            f"sub-<label>[_ses-<label>]*_space-T1w*_{ending}.nii.gz, or without space- on the "
            f"grid of the anatomy, of {', '.join(without[:5]) or 'no participant with anatomy'}"
        )
    if without:
        notes.append(f"{len(without)} sessions without a map, the first {without[0]}")
    return pd.DataFrame(rows).assign(u=np.nan)


def _sessions(out_dir: Path, cohort: Cohort) -> Iterator[SessionResults]:
    """Yield the sessions with an anatomy of everybody who is analysed."""
    for label in cohort.participants:
        found = find_sessions(out_dir, label.removeprefix("sub-"))
        yield from (session for session in found if session.has_anatomy)


def _find(root: Path, session: SessionResults, ending: str) -> Path | None:
    """Return the map of a session that lies on its anatomy."""
    names = session.names
    paths = sorted((root / f"sub-{names.subject}").rglob(f"{names.prefix}*_{ending}.nii.gz"))
    own = [path for path in paths if entities(path).get("ses") == names.session
           and ("stat" not in entities(path) or "stat-" in ending)]  # fmt: skip
    placed = [path for path in own if entities(path).get("space") == "T1w"]
    found = placed or [p for p in own if "space" not in entities(p) and _on_anatomy(p, session)]
    if len(found) > 1:
        raise UserError(
            f"{found[0]} and {found[1].name}: two maps of one session; Suffix may hold more of "
            f"the name, such as desc-<label>_{ending}"
        )
    return found[0] if found else None


def _on_anatomy(path: Path, session: SessionResults) -> bool:
    try:
        own, anatomy = grid_of(path), grid_of(session.names.anat_preproc())
    except ValueError:
        return False
    same = np.allclose(own.affine, anatomy.affine, atol=SAME_GRID)
    return own.shape == anatomy.shape and bool(same)


def _regions(path: Path, session: SessionResults, cohort: Cohort) -> Iterator[dict[str, Any]]:
    """Yield the mean of a map in each region of the tables of a session."""
    names = session.names
    try:
        values, affine = load_other(path)
        parts = parts_of(values.shape, affine)
        tissues = {name: names.probseg(name) for name in TISSUES}
        fractions = fractions_on(parts, tissues, session.lesion_files())
        for name, fraction in fractions.items():
            mean = means_in(values, parts, None, fraction)[1]
            yield {"seg": TISSUE_TABLE, "name": name, "value": float(mean)}
        for seg, rows in _atlases(cohort).items():
            if not names.atlas_labels(seg).is_file():
                continue
            labels = labels_on(parts, names.atlas_labels(seg))
            means = {tissue: means_in(values, parts, labels, sum(fractions[t] for t in held))
                     for tissue, held in OF_ROW.items()}  # fmt: skip
            for index, name, tissue in rows:
                if index < len(means[tissue]):
                    value = float(means[tissue][index])
                    yield {"seg": seg, "name": name, "value": value}
    except (ValueError, FileNotFoundError) as error:
        raise UserError(f"{error}") from None


def _atlases(cohort: Cohort) -> dict[str, list[tuple[int, str, str]]]:
    """Return label, name and tissue of the regions of each atlas."""
    rows = cohort.gathered.scan().filter(pl.col("seg") != TISSUE_TABLE)
    if "tissue" not in cohort.gathered.columns:
        return {}
    held = rows.filter(pl.col("tissue").is_in(list(OF_ROW))).select("seg", "index", "name",
                                                                    "tissue")  # fmt: skip
    found: dict[str, list[tuple[int, str, str]]] = {}
    for seg, index, name, tissue in held.unique(maintain_order=True).collect().iter_rows():
        found.setdefault(seg, []).append((index, name, tissue))
    return found
