"""The command line: options in, checked settings out, an exit code back."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from sodiumprep.bids_app.arguments import (
    distance,
    draws,
    memory,
    positive,
    read_shells,
    seed,
    share,
)
from sodiumprep.bids_app.caches import cache_environment
from sodiumprep.bids_app.host import memory as available_memory
from sodiumprep.bids_app.host import processors as available_processors
from sodiumprep.bids_app.metadata import UserError, load_vials, read_json, read_text
from sodiumprep.bids_app.placing import remove_left_overs
from sodiumprep.bids_app.record import TABLE as RECORD
from sodiumprep.bids_app.record import all_options, end_record, given_options, write_record
from sodiumprep.bids_app.relaxation import load_relaxation
from sodiumprep.bids_app.settings import (
    DEFAULT_COVERAGE,
    DEFAULT_PVC,
    DEFAULT_RECON,
    DEFAULT_SEED,
    DEFAULT_SHELLS,
    FEWEST_DRAWS,
    FLUID_REFERENCES,
    LESION_TABLES,
    PHANTOM,
    RECIPROCITY,
    SESSIONS_PER_REPORT,
    SESSIONWISE,
    Settings,
)
from sodiumprep.bids_app.stopping import Stopped, stoppable
from sodiumprep.bids_app.templates import read_spaces
from sodiumprep.bids_app.validation import validate_dataset
from sodiumprep.interfaces.files import REASONS, WriteError
from sodiumprep.sodium.pvc import METHODS as PVC_METHODS

EXIT_USAGE = 2
FLUID_RANGE = (50.0, 250.0)  # mmol/L; a fluid of the body beyond it is a mistake
LARGEST_DELAY = 50e-6  # s; a longer one is a mistake of unit
FILTER_GROUPS = ("sodium", "anat", "fmap")
# those of Nipype that end when their jobs have ended
NIPYPE_PLUGINS = ("MultiProc", "Linear", "SLURM", "SLURMGraph", "PBS", "SGE")
AS_GIVEN = (  # options that are settings of the same name and value
    "level",
    "skip_bids_validation",
    "omp_nthreads",
    "clean_workdir",
    "random_seed",
    "anat_only",
    "reports_only",
    "no_viewer",
    "boilerplate_only",
    "dry_run",
    "write_graph",
    "stop_on_first_crash",
    "sloppy",
    "resource_monitor",
    "verbose",
    "subject_anatomical_reference",
    "recon",
    "receive",
    "coil_sensitivities",
    "low_mem",
    "pvc_feed",
    "sensitivity",
    "monte_carlo",
    "reference",
    "force",
    "min_coverage",
    "allow_mixed",
    "na2anat_init",
    "na2anat_dof",
    "aggregate_session_reports",
)
POOL_BOUNDS = {"n_procs": int, "memory_gb": (int, float)}  # arguments of MultiProc


class _SelfTest(argparse.Action):
    """Tests the installation and ends, like ``--version``."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from sodiumprep.bids_app.self_test import main as self_test

        parser.exit(self_test())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv
        Arguments; those of the process if None.

    Returns
    -------
    code
        0 all done, 1 at least one subject failed, 2 usage or nothing could be started, 130 and
        143 stopped by SIGINT (Ctrl-C) and SIGTERM.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    os.umask(os.umask(0) | 0o002)  # nothing that is written can be changed by everybody
    try:
        settings = parse_settings(arguments)
        os.environ.update(cache_environment(os.environ, settings.work_dir))
        os.environ.update(settings.environment())
        with stoppable():
            if settings.level == "participant" and not settings.skip_bids_validation:
                validate_dataset(settings.bids_dir, settings.participants)
            return _run(settings)
    except Stopped as stopped:
        remove_left_overs(settings.out_dir, settings.participants)
        print(
            f"sodiumprep: stopped by {stopped.name}; the same command goes on from here",
            file=sys.stderr,
        )
        return stopped.code
    except (UserError, OSError) as error:
        known = isinstance(error, (UserError, WriteError))
        if not known and error.errno not in REASONS:
            raise
        if any(re.fullmatch("-v+|--verbose", argument) for argument in arguments):
            sys.excepthook(type(error), error, error.__traceback__)
        # a folder that cannot be made or looked into, which every room may meet
        told = error if known else f"{error.filename}: {error.strerror}"
        print(f"sodiumprep: error: {told}", file=sys.stderr)
        return EXIT_USAGE


def parse_settings(argv: Sequence[str]) -> Settings:
    """Return the checked settings of one command line.

    Raises
    ------
    UserError
        If an option, a path or a file that an option names is not acceptable.
    """
    tokens = [_dashed(argument) for argument in argv]
    configured = _config_tokens(tokens)
    parser = build_parser()
    defaults = _config_defaults(parser, configured.tokens, configured.path) if configured else None
    options = parser.parse_args(tokens, defaults)
    first = configured.tokens if configured else ()
    held = given_options(build_parser(), tokens, first)
    options.resolved = all_options(build_parser(), held)
    defaulted = configured.defaulted if configured else ()
    typed = given_options(build_parser(), tokens)
    options.given = {n: v for n, v in held.items() if n not in defaulted or n in typed}
    return _to_settings(options)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every option that has an effect."""
    parser = _Parser(
        prog="sodiumprep",
        description="Tissue sodium concentration from 23Na MRI: a BIDS App.",
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help="raw BIDS dataset")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder of the results")
    parser.add_argument(
        "level",
        choices=("participant", "group"),
        help="process subjects, or gather their results (needs OUT_DIR only)",
    )
    parser.add_argument("--version", action="version", version=f"sodiumprep {_version()}")
    parser.add_argument(
        "--self-test",
        action=_SelfTest,
        nargs=0,
        help="say what of this installation works, without a dataset or network, and exit (1 if "
        "something does not; takes up to a minute)",
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="say more, with tracebacks"
    )
    parser.add_argument(
        "--config-file", type=Path, metavar="FILE", help="TOML file with defaults for any option"
    )

    _add_choices(parser.add_argument_group("what to process"))
    sodium = parser.add_argument_group("sodium")
    _add_image(sodium)
    _add_regional(sodium)
    _add_atlases(sodium)
    _add_calibration(sodium)
    _add_spaces(sodium)
    _add_cohort(parser.add_argument_group("cohort (level group)"))
    _add_engine(parser.add_argument_group("how to process"))
    return parser


def _add_choices(query: argparse._ArgumentGroup) -> None:
    """Add the options that choose what is processed."""
    query.add_argument(
        "--participant-label", nargs="+", default=[], metavar="LABEL", help="only these subjects"
    )
    query.add_argument(
        "--session-label", nargs="+", default=[], metavar="LABEL", help="only these sessions"
    )
    query.add_argument(
        "--bids-filter-file",
        type=Path,
        metavar="FILE",
        help="JSON: entities that narrow the query, under sodium, anat, fmap",
    )
    query.add_argument(
        "--bids-database-dir",
        type=Path,
        metavar="DIR",
        help="stored index of the dataset; written (for all subjects) where there is none",
    )
    query.add_argument(
        "--skip-bids-validation", action="store_true", help="do not run the BIDS validator"
    )
    query.add_argument(
        "-d",
        "--derivatives",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=PATH",
        help="folders with ready-made anatomy (fMRIPrep, FreeSurfer, SynthSeg, a mask), lesions, "
        "vial labels or transforms; first one first; at level group: maps of other modalities",
    )
    query.add_argument(
        "--subject-anatomical-reference",
        choices=("first-lex", SESSIONWISE, "unbiased"),
        default=SESSIONWISE,
        help="the anatomy that a subject's sessions lie on: each its own (sessionwise), that of "
        "the dataset's first session for all (first-lex), or the rigid average of all in the "
        f"space between them (unbiased), whichever sessions are chosen (default: {SESSIONWISE})",
    )
    query.add_argument("--anat-only", action="store_true", help="1H anatomy only")
    query.add_argument(
        "--reports-only", action="store_true", help="write the reports of existing results anew"
    )
    query.add_argument(
        "--no-viewer",
        action="store_true",
        help="leave the interactive view of the maps out of the reports: smaller pages",
    )
    query.add_argument(
        "--aggregate-session-reports",
        type=positive,
        default=SESSIONS_PER_REPORT,
        metavar="N",
        help="a subject with more sessions has a report for each, and one that leads to them "
        f"(default: {SESSIONS_PER_REPORT})",
    )
    query.add_argument(
        "--boilerplate-only", action="store_true", help="write the methods text only"
    )
    query.add_argument(
        "--dry-run", action="store_true", help="say what would be processed, then stop"
    )


def _add_image(science: argparse._ArgumentGroup) -> None:
    """Add the options of the sodium image."""
    science.add_argument(
        "--recon",
        choices=("gridding", "cg", "tv", "agr"),
        default=DEFAULT_RECON,
        help="reconstruction of raw k-space: density-weighted adjoint, or CG-SENSE with an L2 "
        "term; tv (total variation) and agr (guided by the 1H image) add maps for looking at to "
        f"those of gridding (default: {DEFAULT_RECON})",
    )
    science.add_argument(
        "--coil-sensitivities",
        choices=("centre", "espirit"),
        default="centre",
        help="of cg, tv, agr and --pvc kspace: from the centre of k-space, or by ESPIRiT "
        "(default: centre)",
    )
    science.add_argument(
        "--gradient-delay",
        nargs="+",
        metavar="US",
        help="delay of the read, phase and slice gradients [us] to correct: three numbers, or "
        "'estimate' for what the data suggest (default: none; the estimate is always reported)",
    )
    science.add_argument(
        "--kspace-filter",
        choices=("none", "hamming"),
        default="none",
        help="window over k-space, with --recon gridding (default: none)",
    )
    science.add_argument(
        "--receive",
        choices=("auto", RECIPROCITY),
        default="auto",
        help="receive profile: of RB1COR, else RB1map (auto, the default; then of TB1map or "
        "TB1DAM where the sidecar says that one coil transmits and receives), or, without the "
        "first two, of the transmit field (reciprocity)",
    )
    science.add_argument(
        "--psf-fwhm",
        nargs="+",
        type=float,
        metavar="MM",
        help="width of the point-spread function, one or three numbers [mm]; else computed",
    )


def _add_regional(science: argparse._ArgumentGroup) -> None:
    """Add the options of regional values and their uncertainty."""
    science.add_argument(
        "--pvc",
        nargs="+",
        choices=("none", *PVC_METHODS),
        default=list(DEFAULT_PVC),
        metavar="METHOD",
        help="partial-volume corrections beside none and gtm, which are always there: "
        + ", ".join(f"{name} ({text})" for name, text in PVC_METHODS.items()),
    )
    science.add_argument(
        "--pvc-feed",
        choices=("gtm", "labbe"),
        default="gtm",
        help="regional values that the maps rbv, iy, mtc and regression rest on (default: gtm)",
    )
    science.add_argument(
        "--sensitivity",
        action="store_true",
        help="also tell, as columns of the table, what 1 mm of misregistration, a kernel wider by "
        "10 %% and 0.5 mm of segmentation error would change in each region",
    )
    science.add_argument(
        "--monte-carlo",
        type=draws,
        default=0,
        metavar="N",
        help="take uncertainty and 95 %% interval of regional values from N seeded draws of all "
        f"that is uncertain, at least {FEWEST_DRAWS}; 10000 take less than a second (default: 0, "
        "propagated)",
    )


def _add_atlases(science: argparse._ArgumentGroup) -> None:
    """Add the options of regions beside the tissues."""
    science.add_argument(
        "--atlases",
        nargs="+",
        default=[],
        metavar="ATLAS",
        help="more regions, each divided by tissue and corrected for partial volume: lobes "
        "(built in), a label image in a template's space with a TSV of index and name, an atlas "
        "of TemplateFlow (Schaefer2018:desc-400Parcels7Networks), or a segmentation in a folder "
        "given with -d (aparcaseg)",
    )
    science.add_argument(
        "--min-coverage",
        type=share,
        default=DEFAULT_COVERAGE,
        metavar="SHARE",
        help="share of an atlas region that must lie in the field of view, else n/a (default: "
        f"{DEFAULT_COVERAGE})",
    )
    science.add_argument(
        "--lesion-tables",
        nargs="+",
        choices=LESION_TABLES,
        default=[],
        metavar="TABLE",
        help="where lesions are given: contralateral (each class against the region opposite, as "
        "a ratio), shells (the brain around them by distance), lesions (tissues with what lesions "
        "took of them)",
    )
    science.add_argument(
        "--lesion-shells",
        nargs="+",
        type=distance,
        default=list(DEFAULT_SHELLS),
        metavar="MM",
        help="outer distances of the shells of --lesion-tables, rising (default: 5 10 20)",
    )


def _add_calibration(science: argparse._ArgumentGroup) -> None:
    """Add the options of what turns signal into concentration."""
    science.add_argument(
        "--reference",
        choices=("vials", *FLUID_REFERENCES, PHANTOM),
        help="what calibrates: vials, CSF, the vitreous humour of the eyes, or a phantom that was "
        "scanned by itself, CalibrationPhantom of the sidecar (default: vials where there are "
        "any, then such a phantom, else csf); the others are compared with it",
    )
    science.add_argument(
        "--reference-concentration",
        nargs="+",
        type=float,
        metavar="MMOL",
        help="sodium of the fluid that --reference names [mmol/L], and its standard uncertainty "
        "(default: 145 5 for csf, 140 10 for vitreous)",
    )
    science.add_argument(
        "--vials",
        type=Path,
        metavar="FILE",
        help="JSON list of calibration vials instead of the sidecars' CalibrationVials",
    )
    science.add_argument(
        "--force",
        action="store_true",
        help="calibrate even by vials whose line has an R squared under 0.95: all values are then "
        "flagged calibration_forced",
    )
    science.add_argument(
        "--relaxation",
        type=Path,
        metavar="FILE",
        help="JSON or TSV: relaxation constants [s] of tissues, vials or lesions instead of the "
        "built-in ones",
    )


def _add_spaces(science: argparse._ArgumentGroup) -> None:
    """Add the options of where the sodium image lies and where its maps go."""
    science.add_argument(
        "--na2anat-init",
        choices=("auto", "header", "synthetic", "mi", "coil"),
        default="auto",
        help="how the sodium image is registered: fitted to what it should look like (synthetic), "
        "by mutual information with the 1H image (mi), through a same-session 1H image of the "
        "same coil (coil), the header's position and a fit that starts there only (header), or "
        "all that are possible, the best score wins (auto, the default; takes a transform given "
        "with -d as it is)",
    )
    science.add_argument(
        "--na2anat-dof",
        type=int,
        choices=(6, 12),
        default=6,
        help="degrees of freedom of that registration: 6 rigid (default), 12 affine",
    )
    science.add_argument(
        "--output-spaces",
        nargs="+",
        default=[],
        metavar="SPACE",
        help="templates for the maps, with modifiers: MNI152NLin2009cAsym:res-2, "
        "MNIPediatricAsym:cohort-4, or cohort-auto for the one that fits the age; the sodium grid "
        "and T1w are always there",
    )


def _add_cohort(cohort: argparse._ArgumentGroup) -> None:
    """Add the options of the group level."""
    cohort.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help="JSON: what is compared and how (docs/group.md); what it leaves open is chosen from "
        "the columns that are found",
    )
    cohort.add_argument(
        "--allow-mixed",
        action="store_true",
        help="compare results of several versions of the software, or in several units",
    )


def _add_engine(engine: argparse._ArgumentGroup) -> None:
    """Add the options that change how things run, not what comes out."""
    engine.add_argument(
        "--nprocs",
        type=positive,
        default=int(available_processors().value),
        metavar="N",
        help="processes at a time (default: all processors, or those of the Slurm, PBS or SGE job "
        "or of the cgroup)",
    )
    engine.add_argument(
        "--omp-nthreads",
        type=positive,
        default=1,
        metavar="N",
        help="threads of one process (default: 1, which makes results bit-reproducible)",
    )
    engine.add_argument(
        "--mem",
        type=memory,
        metavar="SIZE",
        help="upper bound of the memory, as 8GB; a plain number counts MB (default: that of the "
        "Slurm job or of the cgroup, else 90 %% of the machine's)",
    )
    engine.add_argument(
        "--low-mem", action="store_true", help="iterative reconstruction with less memory, slower"
    )
    engine.add_argument(
        "--resource-monitor",
        action="store_true",
        help="write memory and time of every step to OUT_DIR/logs",
    )
    engine.add_argument(
        "--nipype-plugin-file",
        type=Path,
        metavar="FILE",
        help="YAML or JSON: what runs the steps, and its arguments; ready-made ones for clusters "
        "are in docs/hpc (default: processes of this machine)",
    )
    engine.add_argument(
        "-w", "--work-dir", type=Path, default=Path("work"), help="work folder (default: ./work)"
    )
    engine.add_argument("--clean-workdir", action="store_true", help="empty the work folder first")
    engine.add_argument(
        "--random-seed",
        type=seed,
        default=DEFAULT_SEED,
        metavar="N",
        help=f"seed of everything random (default: {DEFAULT_SEED})",
    )
    engine.add_argument(
        "--write-graph", action="store_true", help="write the graph to OUT_DIR/logs"
    )
    engine.add_argument(
        "--stop-on-first-crash", action="store_true", help="start nothing after a failure"
    )
    engine.add_argument(
        "--sloppy", action="store_true", help="coarse registration: for tests only"
    )


def _run(settings: Settings) -> int:
    # Imported here: ITK reads its number of threads once, and --help shall be quick.
    if settings.level == "group":
        from sodiumprep.bids_app.group.run import run_group

        started = time.localtime()
        code = run_group(settings)
        # of what could not be started there is none
        end_record(write_record(settings, (), started=started))
        return code
    from sodiumprep.bids_app.run import run_participant

    return run_participant(settings)


def _version() -> str:
    return version("sodiumprep")


def _dashed(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


class _Configured(NamedTuple):
    """A configuration file: what it asks, as arguments, and which of it were defaults."""

    path: Path
    tokens: list[str]
    defaulted: frozenset[str]


def _config_tokens(tokens: Sequence[str]) -> _Configured | None:
    """Return what a configuration file asks."""
    finder = _Parser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config-file", type=Path)
    path = finder.parse_known_args(tokens)[0].config_file
    if path is None:
        return None
    try:
        options = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as TOML: {error}") from error
    told = options.pop(RECORD, None)
    given = told.get("given") if isinstance(told, dict) else None
    defaulted = frozenset(options).difference(given) if isinstance(given, list) else frozenset()
    parts = [part for name, value in options.items() for part in _as_tokens(path, name, value)]
    return _Configured(path, parts, defaulted)


def _config_defaults(
    parser: argparse.ArgumentParser, given: Sequence[str], path: Path
) -> argparse.Namespace:
    # A namespace that already holds a value keeps it: the command line alone overrides it.
    try:
        return parser.parse_args(["BIDS_DIR", "OUT_DIR", "participant", *given])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _as_tokens(path: Path, name: str, value: object) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if option in ("--config-file", "--help", "--self-test", "--version"):
        raise UserError(f"{path}: {name} has no place in a configuration file")
    if isinstance(value, bool):
        return [option] if value else []
    if isinstance(value, dict):
        return [option, *(f"{key}={part}" for key, part in value.items())]
    if value == []:
        return []  # as in a record: nothing was asked
    return [option, *map(str, value)] if isinstance(value, list) else [f"{option}={value}"]


def _to_settings(options: argparse.Namespace) -> Settings:
    bids_dir, out_dir, work_dir = (
        path.expanduser().resolve()
        for path in (options.bids_dir, options.out_dir, options.work_dir)
    )
    _check_folders(bids_dir, out_dir, work_dir, options.level)
    computes = not (options.dry_run or options.reports_only or options.boilerplate_only)
    if options.level == "participant" and computes and not _writable(work_dir):
        raise UserError(
            f"work folder {work_dir} cannot be written; accepted: -w with a folder of your own"
        )
    plugin = _read_plugin(_absolute(options.nipype_plugin_file))
    if options.vials is not None:
        load_vials(options.vials.expanduser())
    if options.relaxation is not None:
        load_relaxation(options.relaxation.expanduser())
    return Settings(
        **{name: getattr(options, name) for name in AS_GIVEN},
        bids_dir=bids_dir,
        out_dir=out_dir,
        work_dir=work_dir,
        participants=_labels(options.participant_label, "sub-"),
        sessions=_labels(options.session_label, "ses-"),
        bids_filters=_read_filters(_absolute(options.bids_filter_file)),
        bids_database_dir=_absolute(options.bids_database_dir),
        derivatives=_read_derivatives(options.derivatives),
        **_bounds(options, plugin),
        **_read_delay(options.gradient_delay),
        kspace_filter=_read_filter(options.kspace_filter, options.recon),
        pvc=tuple(dict.fromkeys([*DEFAULT_PVC, *(m for m in options.pvc if m != "none")])),
        psf_fwhm=_read_psf(options.psf_fwhm),
        reference_concentration=_read_concentration(
            options.reference_concentration, options.reference
        ),
        vials_file=_absolute(options.vials),
        relaxation_file=_absolute(options.relaxation),
        output_spaces=read_spaces(options.output_spaces),
        atlases=tuple(options.atlases),
        lesion_tables=tuple(dict.fromkeys(options.lesion_tables)),
        lesion_shells=read_shells(options.lesion_shells),
        model_file=_model(options.model, options.level),
        nipype_plugin=plugin,
        options=options.given,
        resolved=options.resolved,
    )


def _read_filter(window: str, recon: str) -> str:
    if window != "none" and recon != "gridding":
        raise UserError(f"--kspace-filter {window} goes with --recon gridding, not {recon}")
    return window


def _read_delay(given: Sequence[str] | None) -> dict[str, Any]:
    if given is None:
        return {}
    if list(given) == ["estimate"]:
        return {"estimate_delay": True}
    try:
        delays = tuple(float(text) * 1e-6 for text in given)
    except ValueError:
        delays = ()
    if len(delays) != 3 or not all(abs(delay) <= LARGEST_DELAY for delay in delays):
        raise UserError(
            f"--gradient-delay {' '.join(given)}: accepted: three numbers [us] between "
            f"{-LARGEST_DELAY * 1e6:g} and {LARGEST_DELAY * 1e6:g}, or 'estimate'"
        )
    return {"gradient_delay": delays}


def _read_concentration(given: Sequence[float] | None, reference: str | None) -> tuple[float, ...]:
    if given is None:
        return ()
    shown = f"--reference-concentration {' '.join(f'{number:g}' for number in given)}"
    if reference not in FLUID_REFERENCES:
        raise UserError(f"{shown} goes with --reference csf or vitreous, not {reference}")
    low, high = FLUID_RANGE
    value, *uncertainty = given
    fits = low <= value <= high and all(0 <= u <= value / 2 for u in uncertainty)
    if len(given) > 2 or not fits:
        raise UserError(
            f"{shown}: accepted: a concentration between {low:g} and {high:g} mmol/L, and its "
            "standard uncertainty from 0 to half of it"
        )
    return tuple(given)


def _model(path: Path | None, level: str) -> Path | None:
    if path is not None and level != "group":
        raise UserError(f"--model {path} goes with the level group, not {level}")
    return _absolute(path)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()


def _check_folders(bids_dir: Path, out_dir: Path, work_dir: Path, level: str) -> None:
    if level == "participant":
        _check_dataset(bids_dir)
    elif not out_dir.is_dir():
        raise UserError(f"OUT_DIR {out_dir} does not exist; accepted: results of 'participant'")
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"OUT_DIR {out_dir} is a file; accepted: a folder")
    if out_dir == bids_dir:
        raise UserError(f"OUT_DIR {out_dir} is BIDS_DIR; accepted: a folder of its own")
    if out_dir.is_relative_to(bids_dir) and bids_dir / "derivatives" not in out_dir.parents:
        raise UserError(
            f"OUT_DIR {out_dir} lies inside BIDS_DIR; accepted: outside, or "
            f"{bids_dir / 'derivatives' / 'sodiumprep'}"
        )
    if not _writable(out_dir):
        raise UserError(f"OUT_DIR {out_dir} cannot be written; accepted: a folder of your own")
    if work_dir.is_relative_to(bids_dir):
        raise UserError(f"work folder {work_dir} lies inside BIDS_DIR; accepted: -w outside of it")


def _writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK)


def _check_dataset(bids_dir: Path) -> None:
    if not bids_dir.is_dir():
        raise UserError(f"BIDS_DIR {bids_dir} does not exist; accepted: a raw BIDS dataset")
    if not (bids_dir / "dataset_description.json").is_file():
        raise UserError(f"BIDS_DIR {bids_dir} has no dataset_description.json")
    if not isinstance(read_json(bids_dir / "dataset_description.json"), dict):
        raise UserError(f"{bids_dir / 'dataset_description.json'}: holds no object")


def _labels(given: Sequence[str], key: str) -> tuple[str, ...]:
    labels = [label.removeprefix(key) for label in given]
    for label in labels:
        if not label.isalnum():
            raise UserError(f"label {label!r} is not alphanumeric; accepted: as in {key}01")
    return tuple(dict.fromkeys(labels))


def _read_filters(path: Path | None) -> Mapping[str, Mapping[str, Any]]:
    if path is None:
        return {}
    filters = read_json(path)
    accepted = f"accepted: an object of entities under {', '.join(FILTER_GROUPS)}"
    if not isinstance(filters, dict):
        raise UserError(f"{path}: holds no object; {accepted}")
    for group, content in filters.items():
        if group not in FILTER_GROUPS or not isinstance(content, dict):
            raise UserError(f"{path}: {group} is not a group of entities; {accepted}")
    return filters


def _read_derivatives(given: Sequence[str]) -> Mapping[str, Path]:
    folders: dict[str, Path] = {}
    for text in given:
        name, equals, value = text.partition("=")
        path = Path(value if equals else text).expanduser().resolve()
        if not path.is_dir():
            raise UserError(f"--derivatives {text}: {path} is not a folder")
        name = name if equals else path.name
        if folders.get(name, path) != path:
            raise UserError(
                f"--derivatives {text}: {name} already stands for {folders[name]}; "
                "accepted: NAME=PATH with a name of its own"
            )
        folders[name] = path
    return folders


def _read_psf(given: Sequence[float] | None) -> tuple[float, float, float] | None:
    if given is None:
        return None
    if len(given) not in (1, 3) or not all(0.1 <= width <= 50 for width in given):
        shown = " ".join(f"{width:g}" for width in given)
        raise UserError(
            f"--psf-fwhm is {shown}; accepted: one or three numbers between 0.1 and 50 mm"
        )
    first, second, third = given if len(given) == 3 else [given[0]] * 3
    return first, second, third


def _read_plugin(path: Path | None) -> Mapping[str, Any] | None:
    if path is None:
        return None
    import yaml  # only here: most runs have no plugin file

    try:
        content = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as YAML: {reason}") from error
    if not isinstance(content, dict) or not isinstance(content.get("plugin"), str):
        raise UserError(f"{path}: plugin is missing; accepted: the name of a Nipype plugin")
    if content["plugin"] not in NIPYPE_PLUGINS:
        raise UserError(
            f"{path}: plugin is {content['plugin']}; accepted: {', '.join(NIPYPE_PLUGINS)}"
        )
    if not isinstance(content.setdefault("plugin_args", {}), dict):
        raise UserError(f"{path}: plugin_args is not an object")
    for name, kind in POOL_BOUNDS.items() if content["plugin"] == "MultiProc" else ():
        value = content["plugin_args"].get(name, 1)
        if isinstance(value, bool) or not isinstance(value, kind) or not value > 0:
            raise UserError(f"{path}: {name} is {value!r}; accepted: a number above 0")
    return content


def _bounds(options: argparse.Namespace, plugin: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return processes at a time and their memory [GB]; those of a plugin file go before."""
    pool = plugin["plugin_args"] if plugin and plugin["plugin"] == "MultiProc" else {}
    return {
        "nprocs": pool.get("n_procs", options.nprocs),
        "memory_gb": pool.get("memory_gb", options.mem or available_memory().value),
    }
