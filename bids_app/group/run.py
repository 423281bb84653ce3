"""The cohort level, in order: gather, ask, analyse, show."""

from __future__ import annotations

import pandas as pd
import polars as pl

from sodiumprep.bids_app.group.analyses import analyse
from sodiumprep.bids_app.group.covariates import Covariates, gather_covariates, read_participants
from sodiumprep.bids_app.group.dictionary import write_results
from sodiumprep.bids_app.group.facts import Facts
from sodiumprep.bids_app.group.model import read_model
from sodiumprep.bids_app.group.others import gather_others
from sodiumprep.bids_app.group.people import find_missing, refuse_mixed
from sodiumprep.bids_app.group.quality import gather_quality, quality_dictionary, write_table
from sodiumprep.bids_app.group.report import write_group_report
from sodiumprep.bids_app.group.shown import Shown
from sodiumprep.bids_app.group.tables import (
    OPTIONAL_KEYS,
    Gathered,
    as_pandas,
    gather_tables,
    table_dictionary,
)
from sodiumprep.bids_app.group.values import RUN, Cohort, left_out, without_values
from sodiumprep.bids_app.group.voxelwise import picture, plan_maps
from sodiumprep.bids_app.names import DatasetNames, with_json
from sodiumprep.bids_app.placing import refuse_links, remove_left_overs
from sodiumprep.bids_app.results import read_json
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.sidecars import write_json


def run_group(settings: Settings) -> int:
    """Analyse all results of the output folder; nothing else is read.

    Parameters
    ----------
    settings
        The user's choices; of the folders ``out_dir`` alone counts.

    Returns
    -------
    code
        0.

    Raises
    ------
    UserError
        If the folder holds no regional table, its tables of people or the model are unusable, or
        results of several kinds are mixed.
    """
    names = DatasetNames(settings.out_dir)
    refuse_links(settings.out_dir)
    remove_left_overs(settings.out_dir)
    participants = read_participants(names.participants)
    quality = gather_quality(settings.out_dir)
    notes = refuse_mixed(settings.out_dir, quality, settings.allow_mixed)
    gathered = gather_tables(
        settings.out_dir, participants, names.group_table, names.group_parquet
    )
    described = read_json(with_json(names.participants))
    write_json(with_json(names.group_table), table_dictionary(gathered.columns, described))
    write_table(names.group_qc, quality, quality_dictionary(quality))
    print(f"group: {gathered.rows} rows in {names.group_table}", flush=True)
    cohort = _ask(settings, gathered, quality, participants)
    done = {*cohort.participants, *quality["participant_id"]}  # without anatomy: no regions
    missing = as_pandas(find_missing(settings.out_dir, participants, done, cohort.left_out))
    images = plan_maps(settings, cohort, quality)
    others = gather_others(settings, cohort)
    evidence = analyse(cohort, settings, others) | picture(images, cohort, settings)
    known = as_pandas(cohort.covariates.table)
    write_results(names, {"missing": missing, "covariates": known, **evidence})
    told = [*notes, *cohort.notes]
    shown = Shown(cohort, quality, missing, evidence, told, settings.random_seed)
    write_group_report(settings.out_dir, shown)
    for path in (names.group_table, names.group_qc, names.group_report):
        print(f"group: {path}", flush=True)
    return 0


def _ask(
    settings: Settings, gathered: Gathered, quality: pd.DataFrame, participants: pl.DataFrame
) -> Cohort:
    """Complete the model by what there is, write it down, and choose the rows that it takes."""
    measured = gathered.scan().select(*RUN).unique().sort(*RUN).collect()
    covariates = gather_covariates(settings.out_dir, measured.select("participant_id", "session"))
    listed = [*participants["participant_id"], *quality["participant_id"]]
    facts = _facts(gathered, covariates, measured, quality, listed)
    model = read_model(settings.model_file, facts)
    write_json(DatasetNames(settings.out_dir).group_model, model.content)
    exclude = model.content.get("Exclude", {})
    excluded = left_out(measured, quality, exclude)
    bare = without_values(gathered, exclude).join(excluded, on=list(RUN), how="anti")
    excluded = pl.concat([excluded, bare])
    everybody = measured["participant_id"].unique(maintain_order=True)
    return Cohort(gathered, covariates, model, excluded, tuple(everybody))


def _facts(
    gathered: Gathered, covariates: Covariates, measured: pl.DataFrame, quality: pd.DataFrame,
    listed: list[str],
) -> Facts:  # fmt: skip
    corrected = gathered.scan().filter(pl.col("desc") == "corrected")
    found = corrected.select("seg", "name", "index").unique().sort("seg", "index").collect()
    regions = {
        str(seg): list(dict.fromkeys(own["name"]))
        for (seg,), own in found.group_by("seg", maintain_order=True)
    }
    methods = corrected.select("pvc").unique().sort("pvc").collect()["pvc"].to_list()
    figures = [c for c in quality if pd.to_numeric(quality[c], errors="coerce").notna().any()]
    labels = {
        key: dict(corrected.group_by(key).agg(pl.col("participant_id").n_unique())
                  .collect().sort(key).iter_rows())
        for key in OPTIONAL_KEYS if key in gathered.columns
    }  # fmt: skip
    return Facts(covariates, measured, regions, methods, figures, labels, listed)
