"""Tables of cohorts whose truth is known, as the group level writes them, without any image.

A subject's region has a true concentration: mean, slope by age, shift of its group and subtype,
spread between subjects, spread between sessions, response of those who respond. A site adds a
shift of its own. A method of partial-volume correction leaves a share of the surroundings in the
value. The errors of measurement are drawn from exactly the uncertainties that the table states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.cohort.values import UNKNOWN

CHUNK = (
    250  # subjects that are drawn at once: the memory of a large cohort stays that of one chunk
)
REFERENCE_AGE = 50.0  # years, where a region has its mean
TERMS = (
    "u_noise",
    "u_calibration",
    "u_relaxation",
    "u_receive",
    "u_b1",
    "u_pvc",
    "u_segmentation",
    "u_registration",
)
NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Region:
    """A region and what is true of it.

    Parameters
    ----------
    index, name
        As in the tables.
    mean
        Concentration at 50 years [mmol/L].
    between, within
        SD between subjects, and between sessions of a stable subject [mmol/L].
    age_slope
        [mmol/L per year].
    shifts
        By group or subtype [mmol/L].
    only
        Groups or subtypes that have the region; empty: all.
    response
        Change of a responder from first to last session [mmol/L].
    surroundings
        Concentration of what lies around it [mmol/L].
    """

    index: int
    name: str
    mean: float
    between: float = 3.0
    within: float = 1.0
    age_slope: float = 0.0
    shifts: Mapping[str, float] = field(default_factory=dict)
    only: Sequence[str] = ()
    response: float = 0.0
    surroundings: float = 60.0


@dataclass(frozen=True)
class Method:
    """A method of partial-volume correction.

    Parameters
    ----------
    name
        As in column ``pvc``.
    leak
        Share of the surroundings in a value.
    noise
        Its noise over that without correction.
    """

    name: str
    leak: float = 0.0
    noise: float = 1.0


METHODS = (
    Method("none", leak=0.25),
    Method("gtm", noise=1.6),
    Method("labbe", noise=1.4),
    Method("rbv", leak=0.02, noise=1.5),
)
TISSUES = (
    Region(1, "GM", 40.1, age_slope=0.03),  # Eisele 2016, as the lesion types
    Region(2, "WM", 35.2, age_slope=0.02),
    Region(3, "CSF", 145.0, between=4.0, surroundings=45.0),
)
LESIONS = (
    Region(
        index=4,
        name="tumour",
        mean=55.0,
        between=8.0,
        within=2.0,
        shifts={"grade3": 8.0, "grade4": 20.0},
        only=("glioma",),
        response=-12.0,
    ),
    Region(5, "core", 70.0, between=8.0, within=2.0, only=("stroke",)),
    Region(6, "penumbra", 43.0, between=5.0, within=2.0, only=("stroke",), response=-6.0),
    Region(7, "enhancing", 49.1, between=5.0, only=("ms",), response=-6.0),
    Region(8, "t1_hypointense", 45.1, between=5.0, only=("ms",)),
    Region(9, "t1_isointense", 39.9, between=4.0, only=("ms",)),
)
SUBTYPES = {
    "glioma": ("grade2", "grade3", "grade4"),
    "ms": ("relapsing", "progressive"),
}


def parcels(n: int, shifts: Mapping[str, float] | None = None) -> tuple[Region, ...]:
    """Return n cortical parcels.

    Parameters
    ----------
    n
        Number of parcels.
    shifts
        By group, of every second parcel: the others are null [mmol/L].
    """
    return tuple(
        Region(
            100 + k, f"parcel{k:03d}", 38.0 + 6.0 * k / n, shifts=(shifts or {}) if k % 2 else {}
        )
        for k in range(n)
    )


@dataclass(frozen=True)
class Errors:
    """What is wrong with a measurement.

    Parameters
    ----------
    noise
        SD of image noise in a regional value without correction, lowest and highest [mmol/L];
        log-uniform.
    calibration
        Relative SD, one draw for each scan session.
    relaxation
        Relative SD, one draw for the cohort: all assume the same constants.
    segmentation
        SD, one draw for each session and region [mmol/L].
    missing
        Share of sessions that never took place.
    lost
        Share of values that could not be determined.
    failed
        Share of runs whose registration failed: flagged, and far off.
    """

    noise: tuple[float, float] = (0.3, 2.0)
    calibration: float = 0.02
    relaxation: float = 0.02
    segmentation: float = 0.5
    missing: float = 0.05
    lost: float = 0.01
    failed: float = 0.02


@dataclass(frozen=True)
class Cohort:
    """Who is scanned, how often, and what is looked at.

    Parameters
    ----------
    groups
        Subjects by group.
    regions, methods
        Rows of a run.
    sessions, runs
        Of each subject and session.
    sites, site_sd
        Number of sites, and SD of the shift of a region at one [mmol/L].
    ages
        Lowest and highest [years].
    years
        Between two sessions.
    responders
        Share of the subjects of each group but the first who respond.
    errors
        Of measurement.
    """

    groups: Mapping[str, int]
    regions: Sequence[Region] = TISSUES
    methods: Sequence[Method] = METHODS
    sessions: int = 1
    runs: int = 1
    sites: int = 1
    site_sd: float = 0.0
    ages: tuple[float, float] = (20.0, 80.0)
    years: float = 0.5
    responders: float = 0.0
    errors: Errors = Errors()


def draw_participants(cohort: Cohort, rng: np.random.Generator) -> pd.DataFrame:
    """Return who is scanned.

    Parameters
    ----------
    cohort
        Groups and sites.
    rng
        Source of randomness.

    Returns
    -------
    participants
        ``participant_id group subtype age sex site`` and ``responds``, which no table tells.

    Examples
    --------
    >>> who = draw_participants(Cohort({"control": 2, "ms": 1}), np.random.default_rng(1))
    >>> who["group"].tolist(), who["participant_id"].iloc[2]
    (['control', 'control', 'ms'], 'sub-00003')
    """
    group = np.repeat(list(cohort.groups), list(cohort.groups.values()))
    n = len(group)
    subtype = [rng.choice(SUBTYPES.get(name, (UNKNOWN,))) for name in group]
    patient = group != next(iter(cohort.groups))
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{k:05d}" for k in range(1, n + 1)],
            "group": group.astype(object),
            "subtype": np.array(subtype, object),
            "age": rng.uniform(*cohort.ages, n).round(1),
            "sex": rng.choice(np.array(["F", "M"], object), n),
            "site": np.array([f"site{k}" for k in rng.integers(1, cohort.sites + 1, n)], object),
            "responds": patient & (rng.random(n) < cohort.responders),
        }
    )


def draw_chunks(
    cohort: Cohort, rng: np.random.Generator
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield the tables of a cohort, a few hundred subjects at a time.

    Parameters
    ----------
    cohort
        Who, how often, what.
    rng
        Source of randomness.

    Yields
    ------
    table
        Columns as in ``group_TSC.tsv``: ``participant_id session run seg index name pvc desc mean
        uncertainty u_* ci_low ci_high coverage flag``, then those of the participants.
    truth
        ``participant_id session index name true`` [mmol/L] and ``responds``.
    """
    participants = draw_participants(cohort, rng)
    sites = cohort.site_sd * rng.standard_normal((cohort.sites, len(cohort.regions)))
    assumed = cohort.errors.relaxation * rng.standard_normal()
    for start in range(0, len(participants), CHUNK):
        who = participants.iloc[start : start + CHUNK]
        true = _true_values(cohort, who, rng)
        at_site = sites[who["site"].str.removeprefix("site").astype(int) - 1]
        rows = _measured(cohort, true + at_site[:, None], assumed, rng)
        yield _tabulated(cohort, who, rows), _truth(cohort, who, true)


def draw_cohort(cohort: Cohort, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the whole table and its truth, as :func:`draw_chunks` yields them."""
    tables, truths = zip(*draw_chunks(cohort, rng), strict=True)
    return pd.concat(tables, ignore_index=True), pd.concat(truths, ignore_index=True)


def _true_values(cohort: Cohort, who: pd.DataFrame, rng: np.random.Generator) -> Floats:
    """Return concentrations, shape (subjects, sessions, regions); nan where there is no region."""
    age = who["age"].to_numpy()[:, None]
    course = np.linspace(0.0, 1.0, cohort.sessions) if cohort.sessions > 1 else np.zeros(1)
    regions = cohort.regions
    mean, between, within, slope, response = (
        np.array([getattr(region, name) for region in regions])
        for name in ("mean", "between", "within", "age_slope", "response")
    )
    of_class = np.stack([_shift(region, who) for region in regions], axis=1)
    subject = mean + slope * (age - REFERENCE_AGE) + of_class
    subject += between * rng.standard_normal(subject.shape)
    change = who["responds"].to_numpy()[:, None, None] * course[:, None] * response
    session = within * rng.standard_normal((len(who), cohort.sessions, len(regions)))
    return np.asarray(subject[:, None] + change + session)


def _shift(region: Region, who: pd.DataFrame) -> Floats:
    classes = who[["group", "subtype"]]
    shift = classes.apply(lambda column: column.map(region.shifts)).fillna(0.0).sum(axis=1)
    if region.only:
        shift = shift.where(classes.isin(list(region.only)).any(axis=1))
    return np.asarray(shift, float)


@dataclass(frozen=True)
class _Rows:
    """Values of shape (subjects, sessions, runs, regions, methods)."""

    mean: Floats
    terms: Mapping[str, Floats]
    coverage: Floats
    failed: NDArray[np.bool_]
    kept: NDArray[np.bool_]


def _measured(cohort: Cohort, true: Floats, assumed: float, rng: np.random.Generator) -> _Rows:
    errors = cohort.errors
    n, sessions, regions = true.shape
    shape = (n, sessions, cohort.runs, regions, len(cohort.methods))
    leak, gain = (
        np.array([getattr(m, name) for m in cohort.methods]) for name in ("leak", "noise")
    )
    around = np.array([region.surroundings for region in cohort.regions])[:, None]
    exact = np.broadcast_to(  # but for the leak
        (true[..., None] * (1 - leak) + around * leak)[:, :, None], shape
    )
    scanned = errors.calibration * rng.standard_normal((n, sessions, 1, 1, 1))
    low, high = (float(np.log(sd)) for sd in errors.noise)
    noise = np.exp(rng.uniform(low, high, (n, 1, 1, regions, 1))) * gain
    borders = errors.segmentation * rng.standard_normal((n, sessions, 1, regions, 1))
    mean = exact * (1 + scanned + assumed) + borders + noise * rng.standard_normal(shape)
    failed = np.broadcast_to(rng.random((n, sessions, cohort.runs, 1, 1)) < errors.failed, shape)
    off = rng.uniform(0.3, 2.0, (n, sessions, cohort.runs, 1, 1))
    mean = np.where(failed, mean * off, mean)
    mean[np.broadcast_to(rng.random(shape[:4])[..., None] < errors.lost, shape)] = np.nan
    known = np.isfinite(mean)
    terms = {
        "u_noise": np.where(known, noise, np.nan),
        "u_calibration": np.abs(mean) * errors.calibration,
        "u_relaxation": np.abs(mean) * errors.relaxation,
        "u_segmentation": np.where(known, errors.segmentation, np.nan),
    }
    took_place = rng.random((n, sessions)) >= errors.missing
    took_place[:, 0] = True
    kept = took_place[:, :, None, None, None] & np.isfinite(true)[:, :, None, :, None]
    coverage = 1.0 - 0.3 * rng.beta(0.5, 8.0, shape[:4])[..., None]
    return _Rows(mean, terms, coverage, failed, np.broadcast_to(kept, shape))


def _tabulated(cohort: Cohort, who: pd.DataFrame, rows: _Rows) -> pd.DataFrame:
    subject, session, run, region, method = np.nonzero(rows.kept)
    index, names = (
        np.array([getattr(each, key) for each in cohort.regions], object)
        for key in ("index", "name")
    )
    terms = {
        name: np.broadcast_to(rows.terms[name], rows.kept.shape)[rows.kept]
        if name in rows.terms
        else np.zeros(len(subject))
        for name in TERMS
    }
    mean = rows.mean[rows.kept]
    uncertainty = np.sqrt(sum(term**2 for term in terms.values()))
    lesion = np.array([bool(each.only) for each in cohort.regions])[region]
    flag = np.where(lesion, "smaller_than_psf", UNKNOWN).astype(object)
    flag[rows.failed[rows.kept]] = "registration_failed"
    head = {
        "participant_id": who["participant_id"].to_numpy()[subject],
        "session": _labels(cohort.sessions)[session],
        "run": _labels(cohort.runs)[run],
        "seg": np.where(index.astype(int) < 100, "tissue", "parcels").astype(object)[region],
        "index": index.astype(int)[region],
        "name": names[region],
        "pvc": np.array([each.name for each in cohort.methods], object)[method],
        "desc": "corrected",
        "mean": mean,
        "uncertainty": uncertainty,
        **terms,
        "ci_low": mean - NORMAL_95 * uncertainty,
        "ci_high": mean + NORMAL_95 * uncertainty,
        "coverage": np.broadcast_to(rows.coverage, rows.kept.shape)[rows.kept],
        "flag": flag,
    }
    columns = ["group", "subtype", "age", "sex", "site"]
    behind = {name: who[name].to_numpy()[subject] for name in columns}
    return pd.DataFrame({**head, **behind, "time": session * cohort.years})


def _labels(n: int) -> NDArray[np.object_]:
    return np.array([UNKNOWN] if n == 1 else [str(k) for k in range(1, n + 1)], object)


def _truth(cohort: Cohort, who: pd.DataFrame, true: Floats) -> pd.DataFrame:
    subject, session, region = np.nonzero(np.isfinite(true))
    return pd.DataFrame(
        {
            "participant_id": who["participant_id"].to_numpy()[subject],
            "session": _labels(cohort.sessions)[session],
            "index": np.array([each.index for each in cohort.regions])[region],
            "name": np.array([each.name for each in cohort.regions], object)[region],
            "true": true[subject, session, region],
            "responds": who["responds"].to_numpy()[subject],
        }
    )
