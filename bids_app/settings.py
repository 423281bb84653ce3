"""All choices of one run in one frozen place, with what must be set before heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sodiumprep.bids_app.templates import Space

DEFAULT_SEED = 23
SESSIONWISE = "sessionwise"  # each session has an anatomy of its own
DEFAULT_PVC = ("gtm",)
FLUID_REFERENCES = ("csf", "vitreous")  # of the body: their concentrations are assumed
PHANTOM = "phantom"  # the reference that was scanned by itself
RECIPROCITY = "reciprocity"  # the receive profile is that of the flip angle
LESION_TABLES = ("contralateral", "shells", "lesions")  # as the graph names them
DEFAULT_SHELLS = (5.0, 10.0, 20.0)  # mm around lesions
DEFAULT_COVERAGE = 0.5  # share of an atlas region that must lie in the field of view
DEFAULT_RECON = "gridding"  # results of another method carry its name
SESSIONS_PER_REPORT = 4  # as in fMRIPrep
FEWEST_DRAWS = 100  # of --monte-carlo; the science has the same bound
THREAD_VARIABLES = (
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass(frozen=True)
class Settings:
    """What the user asked for; every field has an option of the same name.

    Parameters
    ----------
    bids_dir, out_dir, work_dir
        Absolute folders.
    level
        ``participant`` or ``group``.
    participants, sessions
        Labels without their keys; empty means all.
    bids_filters
        Entities that narrow the query, under ``sodium``, ``anat`` and ``fmap``.
    bids_database_dir
        Folder of a stored index, None to index anew.
    skip_bids_validation
        Leave the validator out.
    derivatives
        Folders of ready-made results under their names, in order of preference.
    nprocs
        Processes at a time.
    omp_nthreads
        Threads of one process; one makes results bit-reproducible.
    memory_gb
        Upper bound of the memory [GB], None for what the machine has.
    clean_workdir
        Empty this program's part of the work folder first.
    random_seed
        Seed of everything random.
    anat_only, reports_only, boilerplate_only, dry_run, write_graph
        Do this part, or this as well.
    no_viewer
        Leave the interactive view, and with it the maps, out of the reports.
    stop_on_first_crash
        Start nothing more after a failure.
    sloppy
        Coarse registration, for tests.
    resource_monitor
        Whether a table tells memory and time of every step.
    verbose
        0 or more: how much is said; from 1 on with tracebacks.
    subject_anatomical_reference
        ``sessionwise``, or ``first-lex`` or ``unbiased``: one anatomy for all sessions.
    kspace_filter
        ``none`` or ``hamming``; what is applied to k-space in the reconstruction.
    recon
        ``gridding`` or ``cg``; ``tv`` and ``agr`` stand beside the maps of ``gridding``.
    receive
        ``auto``, or ``reciprocity``: the coil that transmits receives too.
    coil_sensitivities
        ``centre`` or ``espirit``: how iterative reconstruction finds coil sensitivities.
    gradient_delay
        Of the read, phase and slice axes [s]; empty for none.
    estimate_delay
        Whether the delay that the data suggest is corrected.
    low_mem
        Slower with less memory.
    pvc
        Partial-volume corrections with rows in the table, beside ``none``; ``gtm`` among them.
    pvc_feed
        ``gtm`` or ``labbe``: whose regional values the corrected maps rest on.
    sensitivity
        Whether the table tells what 1 mm of misregistration, a tenth of the kernel's width and
        0.5 mm of segmentation would change.
    monte_carlo
        Draws from which the uncertainty of regional values is taken; 0 to propagate it.
    psf_fwhm
        Full width at half maximum along the three axes [mm], None to compute it.
    reference
        ``vials``, ``csf``, ``vitreous`` or ``phantom``; None takes vials where there are any, then
        a phantom that was scanned by itself, else CSF.
    reference_concentration
        Of the fluid that is the reference [mmol/L], and its standard uncertainty; empty for the
        usual ones.
    vials_file
        List of calibration vials that replaces the sidecars' one.
    force
        Calibrate even by a poor line through vials.
    relaxation_file
        Relaxation constants that replace the built-in table.
    output_spaces
        Templates that maps are resampled to, beside the sodium grid and the anatomy.
    atlases
        Whose regions have tables of their own: names or files.
    min_coverage
        Share of an atlas region that must lie in the field of view, else it has no value.
    lesion_tables
        Tables that lesions give beside their rows: ``contralateral``, ``shells``, ``lesions``.
    lesion_shells
        Outer distance of each shell around lesions, rising [mm]; empty for no shells.
    model_file
        What is compared at the level group; None to choose from the columns that are found.
    allow_mixed
        Whether results of several versions, or in several units, are compared.
    na2anat_init
        What finds the pose of the sodium image: ``auto``, ``header``, ``synthetic``, ``mi`` or
        ``coil``.
    na2anat_dof
        6 (rigid) or 12 (affine).
    nipype_plugin
        Keys ``plugin`` and ``plugin_args`` for Nipype, None for its local pool; ``poll_seconds``
        between two questions to a batch system.
    aggregate_session_reports
        Sessions that one report of a subject holds at most.
    options
        What was given, as text under the names of the options: told in the record of the run.
    resolved
        All options with their values, defaults included, as a configuration file has them.
    """

    bids_dir: Path
    out_dir: Path
    work_dir: Path
    level: str = "participant"
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    bids_filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bids_database_dir: Path | None = None
    skip_bids_validation: bool = False
    derivatives: Mapping[str, Path] = field(default_factory=dict)
    nprocs: int = 1
    omp_nthreads: int = 1
    memory_gb: float | None = None
    clean_workdir: bool = False
    random_seed: int = DEFAULT_SEED
    anat_only: bool = False
    reports_only: bool = False
    boilerplate_only: bool = False
    dry_run: bool = False
    write_graph: bool = False
    no_viewer: bool = False
    stop_on_first_crash: bool = False
    sloppy: bool = False
    resource_monitor: bool = False
    verbose: int = 0
    subject_anatomical_reference: str = SESSIONWISE
    kspace_filter: str = "none"
    recon: str = DEFAULT_RECON
    receive: str = "auto"
    coil_sensitivities: str = "centre"
    gradient_delay: tuple[float, ...] = ()
    estimate_delay: bool = False
    low_mem: bool = False
    pvc: tuple[str, ...] = DEFAULT_PVC
    pvc_feed: str = "gtm"
    sensitivity: bool = False
    monte_carlo: int = 0
    psf_fwhm: tuple[float, float, float] | None = None
    reference: str | None = None
    reference_concentration: tuple[float, ...] = ()
    vials_file: Path | None = None
    force: bool = False
    relaxation_file: Path | None = None
    output_spaces: tuple[Space, ...] = ()
    atlases: tuple[str, ...] = ()
    min_coverage: float = DEFAULT_COVERAGE
    lesion_tables: tuple[str, ...] = ()
    lesion_shells: tuple[float, ...] = DEFAULT_SHELLS
    model_file: Path | None = None
    allow_mixed: bool = False
    na2anat_init: str = "auto"
    na2anat_dof: int = 6
    nipype_plugin: Mapping[str, Any] | None = None
    aggregate_session_reports: int = SESSIONS_PER_REPORT
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    resolved: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def environment(self) -> dict[str, str]:
        """Return the environment variables that must be set before numpy, ITK or Nipype load.

        Examples
        --------
        >>> settings = Settings(Path("raw"), Path("out"), Path("work"), omp_nthreads=2)
        >>> settings.environment()["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"]
        '2'
        """
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.omp_nthreads))
        return {
            **threads,
            "ANTS_RANDOM_SEED": str(self.random_seed),
            "NIPYPE_NO_ET": "1",
            "NO_ET": "1",
        }
