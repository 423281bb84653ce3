"""A model at every voxel, tested by permutation: maps, clusters and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sodiumprep.bids_app import host
from sodiumprep.bids_app.group import brains
from sodiumprep.bids_app.group.maps import SpaceMaps
from sodiumprep.bids_app.group.questions import Question
from sodiumprep.bids_app.group.seeds import seeded
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DatasetNames
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.cohort_maps import Mask, write_map
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.voxelwise import Plan, VoxelTest, permutation_test

Row = dict[str, Any]
Tables = dict[str, list[Row]]
BYTES_OF_MAP = 18  # of a voxel, at the peak: 4.5 copies (measured)
BYTES_OF_THREAD = 120  # of a voxel: statistics of some permutations (measured)
PERMUTATIONS, COVERAGE = 1000, 0.9
LEVEL = 0.05  # familywise, of what a figure outlines
# stat -> (suffix, unit, description)
TESTED = {
    "effect": ("TSCmap", "mmol/L", "Effect, of one unit of what is tested"),
    "t": ("statmap", "1", "Test statistic"),
    "pfwe": ("statmap", "1", "p of the voxel, familywise, two-sided; 1 where it is not tested"),
    "tfce": ("statmap", "1", "Threshold-free cluster enhancement of t"),
    "ptfce": ("statmap", "1", "p of it, familywise, two-sided; 1 where it is not tested"),
    "cluster": ("statmap", "1", "Label of the cluster in voxelwise.tsv, 0 for none"),
}


@dataclass(frozen=True)
class Brain:
    """Where voxels are tested.

    Parameters
    ----------
    mask
        Of the brain.
    mean, sd
        Of the cohort [mmol/L], nan where too few cover a voxel.
    note
        What must be said of the mask.
    """

    mask: Mask
    mean: Floats
    sd: Floats
    note: str = ""


def answer(
    maps: SpaceMaps,
    question: Question,
    brain: Brain,
    wanted: Mapping[str, Any],
    settings: Settings,
) -> Tables:
    """Test a question at every voxel of the brain, and write what comes out.

    Parameters
    ----------
    maps
        Of the space.
    question
        What is tested.
    brain
        Where.
    wanted
        Section ``Voxelwise`` of the model.
    settings
        The user's choices: processes, memory and seed.

    Returns
    -------
    tables
        ``voxelwise`` (clusters), ``voxelwise_model``, ``voxelwise_figures``.

    Raises
    ------
    UserError
        If there is not enough memory.
    """
    refuse_too_large(len(question.participants), int(brain.mask.sum()), settings)
    fwhm = float(wanted.get("Smoothing", 0.0))
    values = np.empty((len(question.participants), int(brain.mask.sum())), np.float32)
    for row, who in enumerate(question.participants):
        values[row] = question.value(maps, who, fwhm)[brain.mask]
    keys: Row = {"space": str(maps.space), "pvc": maps.pvc or "none",
                 "contrast": question.contrast}  # fmt: skip
    plan = Plan(wanted.get("Permutations", PERMUTATIONS), wanted.get("Coverage", COVERAGE),
                threads=settings.nprocs)  # fmt: skip
    head = {**keys, "n": len(values), "smoothing": fwhm, "permutations": plan.permutations}
    rng = seeded(settings.random_seed, "voxelwise", *keys.values())
    try:
        found = permutation_test(
            values, brain.mask, question.tested, question.covariates, rng, plan
        )
    except ValueError as error:
        return {"voxelwise_model": [{**head, "notes": str(error)}]}
    _write(maps, found, brain.mask, question.contrast, DatasetNames(settings.out_dir))
    notes = "; ".join([*question.notes, *([brain.note] if brain.note else []), *found.notes])
    told = {"voxels": int(found.used.sum()), "df": found.dof, "p_voxel": np.nanmin(found.p),
            "p_enhanced": np.nanmin(found.p_enhanced), "notes": notes}  # fmt: skip
    figure = brains.keep(settings.out_dir, f"test_{maps.label}", _figure(found, brain, maps),
                         _caption(question, found, maps))  # fmt: skip
    return {"voxelwise": [{**keys, **row} for row in clusters(found, brain.mask, maps)],
            "voxelwise_model": [{**head, **told}], **figure}  # fmt: skip


def refuse_too_large(people: int, voxels: int, settings: Settings) -> None:
    """Refuse a test that needs more memory than there is.

    Parameters
    ----------
    people, voxels
        Size of the test.
    settings
        With ``memory_gb``; None for what the machine has.

    Raises
    ------
    UserError
        If it does.
    """
    needed = voxels * (people * BYTES_OF_MAP + settings.nprocs * BYTES_OF_THREAD) / 1e9
    there = host.memory().value if settings.memory_gb is None else settings.memory_gb
    if needed > there:
        raise UserError(
            f"Voxelwise: {people} maps of {voxels} voxels need {needed:.3g} GB, there are "
            f"{there:.3g} (--mem); maps on a coarser grid need less (participant level: "
            "--output-spaces <template>:res-2), or leave the section out"
        )


def clusters(found: VoxelTest, mask: Mask, maps: SpaceMaps) -> list[Row]:
    """Return a row for each cluster, the largest mass first.

    Parameters
    ----------
    found
        The test.
    mask
        Where its voxels lie.
    maps
        With the grid.
    """
    voxels = np.argwhere(mask)
    rows = []
    for row in found.clusters.to_dict("records"):
        place = maps.grid.position(voxels[int(row["peak_voxel"])])
        effect = found.effect[int(row["peak_voxel"])]
        rows.append({
            "label": int(row["label"]), "size_ml": row["voxels"] * maps.grid.voxel_ml,
            "mass": row["mass"], "peak_t": row["peak_t"], "peak_effect": effect,
            **dict(zip(("peak_x", "peak_y", "peak_z"), place.round(3).tolist(), strict=True)),
            "p_size": row["p_size"], "p_mass": row["p_mass"],
        })  # fmt: skip
    return rows


def _write(
    maps: SpaceMaps, found: VoxelTest, mask: Mask, contrast: str, names: DatasetNames
) -> None:
    held = {
        "effect": found.effect, "t": found.t, "pfwe": found.p, "tfce": found.enhanced,
        "ptfce": found.p_enhanced, "cluster": found.labels.astype(np.int16),
    }  # fmt: skip
    space, cohort, res, pvc = maps.place.values()
    for stat, (ending, units, told) in TESTED.items():
        values = _volume(held[stat], mask, 1.0 if stat.startswith("p") else 0.0)
        path = names.group_map(
            stat, ending, space=space, cohort=cohort, res=res, contrast=contrast, pvc=pvc
        )
        head = maps.sidecar(units, f"{contrast}: {told[0].lower()}{told[1:]}")
        write_map(path, values, maps.grid, head)


def _volume(values: Any, mask: Mask, outside: float) -> Floats:
    whole = np.full(mask.shape, outside, np.asarray(values).dtype)
    whole[mask] = np.nan_to_num(values, nan=outside)
    return whole


def _figure(found: VoxelTest, brain: Brain, maps: SpaceMaps) -> Any:
    effect = _volume(found.effect, brain.mask, 0.0)
    sure = _volume(found.p_enhanced, brain.mask, 1.0) <= LEVEL
    return brains.effect_figure(effect, sure, brain, maps.grid)


def _caption(question: Question, found: VoxelTest, maps: SpaceMaps) -> str:
    sure = int((found.p_enhanced <= LEVEL).sum())
    return (
        f"{question.contrast}, {len(question.participants)} participants in {maps.space}: effect "
        f"at each voxel over the mean of the cohort. Outlined: {sure} voxels with a familywise p "
        f"of at most {LEVEL:g} (threshold-free cluster enhancement)"
    )
