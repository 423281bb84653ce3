"""The participant level: find, plan, run, report."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Set
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from nipype.pipeline.engine import Workflow

from sodiumprep.bids_app.atlases import check_atlases
from sodiumprep.bids_app.boilerplate import write_boilerplate
from sodiumprep.bids_app.dataset import SubjectJob, collect, describe
from sodiumprep.bids_app.description import dataset_description
from sodiumprep.bids_app.engine import execute
from sodiumprep.bids_app.host import describe as describe_host
from sodiumprep.bids_app.index import one_line
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import BIDSIGNORE, DatasetNames
from sodiumprep.bids_app.outcome import outcome_lines
from sodiumprep.bids_app.people import copy_people
from sodiumprep.bids_app.placing import refuse_links, remove_left_overs
from sodiumprep.bids_app.plan.anatomy import plan_anatomy
from sodiumprep.bids_app.plan.sodium import plan_run
from sodiumprep.bids_app.plan.subject import links, workflow_name
from sodiumprep.bids_app.pool import KILLED, in_processes
from sodiumprep.bids_app.progress import progress, told_to
from sodiumprep.bids_app.record import add_failures, end_record, identifier_of, write_record
from sodiumprep.bids_app.report import write_report
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.stopping import Stopped
from sodiumprep.bids_app.subject_logs import SubjectLogs, warnings_logged
from sodiumprep.bids_app.templates import check_spaces
from sodiumprep.bids_app.wording import registration_problem
from sodiumprep.interfaces.files import WriteError, write_text
from sodiumprep.interfaces.sidecars import write_json
from sodiumprep.workflows.base import init_subject_wf
from sodiumprep.workflows.plans import AtlasPlan, SodiumPlan
from sodiumprep.workflows.ready import computed_steps, init_prepared_anatomy_wf
from sodiumprep.workflows.resources import declare

Failure = tuple[str, str]  # subject label, message


def run_participant(settings: Settings) -> int:
    """Process the requested subjects.

    Parameters
    ----------
    settings
        The user's choices.

    Returns
    -------
    code
        0, or 1 if a subject failed.

    Raises
    ------
    UserError
        If nothing can be started.
    """
    if not settings.reports_only:
        check_spaces(settings.output_spaces)  # before anything takes time
        check_atlases(settings)
    jobs, failures = collect(settings)
    for line in (line for job in jobs for line in describe(job)):
        print(line)
    if settings.dry_run:
        return _end([*failures, *_foresee(jobs, settings)])
    subjects = {job.subject for job in jobs}
    refuse_links(settings.out_dir, subjects)
    remove_left_overs(settings.out_dir, subjects)
    write_dataset_files(settings, subjects)
    if settings.reports_only:
        failures += _reports(settings, [job.subject for job in jobs])
        return _end(failures)
    workflow, by_name, refused = build(jobs, settings)
    failures += refused
    write_boilerplate(settings.out_dir, workflow, settings)
    if settings.write_graph:
        _write_graph(workflow, settings)
    if settings.boilerplate_only:
        return _end(failures)
    tried = [job.subject for job in by_name.values()]
    record = write_record(settings, tried, failures) if tried or failures else None
    if record is not None:
        with _end_told(record):
            if by_name:
                _run_graph(workflow, by_name, settings, record, failures)
            _add_to_record(record, failures)
            SubjectLogs(record).write_failures(failures)
    code = _end(failures)
    print("\n".join(outcome_lines(settings, tried, failures, record)), flush=True)
    return code


def _run_graph(
    workflow: Workflow,
    by_name: Mapping[str, SubjectJob],
    settings: Settings,
    record: Path,
    failures: list[Failure],
) -> None:
    """Run the graph and write the reports; add what fails."""
    plugin = settings.nipype_plugin or {"plugin": "MultiProc", "plugin_args": {}}
    if plugin["plugin"] == "MultiProc":  # a cluster is asked for each step by itself
        told = settings.nprocs, settings.memory_gb, settings.options, plugin["plugin_args"]
        print(describe_host(*told))
    crashed = _process(workflow, by_name, settings, record)
    failures += [(_label(by_name[name]), text) for name, text in crashed.items()]
    failures += _misplaced(by_name, set(crashed), settings)
    _add_to_record(record, failures)
    failures += _reports(settings, [job.subject for job in by_name.values()])


def _process(
    workflow: Workflow, by_name: Mapping[str, SubjectJob], settings: Settings, record: Path
) -> dict[str, str]:
    """Run the graph; show how far it is, and write to the logs of the subjects."""
    logs = SubjectLogs(record)
    for job in by_name.values():
        logs.write(f"sub-{job.subject}", describe(job))
    try:
        with (
            progress(workflow, settings.nprocs, plain=bool(settings.verbose)) as shown,
            warnings_logged(logs, shown=bool(settings.verbose)),
        ):
            return execute(workflow, settings, told_to(logs, shown), identifier_of(record))
    except Stopped as stopped:
        for subject in sorted({job.subject for job in by_name.values()}):
            logs.write(f"sub-{subject}", [f"the run was stopped by {stopped.name}"])
        raise


def build(
    jobs: list[SubjectJob], settings: Settings
) -> tuple[Workflow, dict[str, SubjectJob], list[Failure]]:
    """Build the graph of all subjects.

    Parameters
    ----------
    jobs
        What was found.
    settings
        The user's choices.

    Returns
    -------
    workflow
        One Nipype graph.
    by_name
        Subject and session by the name of its workflow.
    failures
        Subjects that cannot be planned.
    """
    workflow, by_name, failures = Workflow(name="sodiumprep_wf"), {}, []
    for job in jobs:
        try:
            plans, lost = ([], []) if settings.anat_only else _plan_runs(job, settings)
            anatomy = plan_anatomy(job, settings) if job.has_anatomy else None
            graph = init_subject_wf(workflow_name(job), anatomy, plans, settings.sloppy)
            declare(graph, anatomy, plans, settings.omp_nthreads)
        except UserError as error:
            failures.append((_label(job), str(error)))
            continue
        except Exception as error:  # a mistake of ours over one subject must not stop the others
            if settings.verbose:
                traceback.print_exc()
            reason = " ".join(repr(error).split())
            failures.append((_label(job), f"cannot be planned: {reason} (-v tells more)"))
            continue
        failures += lost
        workflow.add_nodes([graph])
        by_name[graph.name] = job
    return workflow, by_name, failures


def _plan_runs(job: SubjectJob, settings: Settings) -> tuple[list[SodiumPlan], list[Failure]]:
    """Plan the runs of a job; of sessions that share an anatomy each may fail alone."""
    plans, lost = [], []
    for run in job.runs:
        try:
            plans.append(plan_run(job, run, settings))
        except UserError as error:
            if job.reference is None:
                raise
            lost.append((f"{job.subject} ses-{run.session}", str(error)))
    if lost and not plans:
        raise UserError(" | ".join(text for _, text in lost))
    return plans, lost


def write_dataset_files(settings: Settings, subjects: Iterable[str]) -> None:
    """Write what belongs to the whole output: description, ignore list, tables of people.

    Parameters
    ----------
    settings
        The user's choices.
    subjects
        Labels of those that are processed.
    """
    names = DatasetNames(settings.out_dir)
    settings.out_dir.mkdir(parents=True, exist_ok=True)
    write_json(names.description, dataset_description(settings.out_dir, links(settings)))
    write_text(names.bidsignore, BIDSIGNORE)
    copy_people(settings.bids_dir, settings.out_dir, subjects)


def to_compute(job: SubjectJob, settings: Settings) -> list[str]:
    """Return lines that say what would be computed for a subject.

    Parameters
    ----------
    job
        What was found.
    settings
        The user's choices.

    Raises
    ------
    UserError
        If the subject cannot be planned.
    """
    lines = []
    if job.has_anatomy:
        plan = plan_anatomy(job, settings)
        steps = computed_steps(init_prepared_anatomy_wf(plan, settings.sloppy))
        lines.append(f"  anatomy: {'; '.join(steps) or 'all of it is ready-made'}")
        lines += [_atlas_line(atlas) for atlas in plan.atlases]
    for run in () if settings.anat_only else job.runs:
        planned = plan_run(job, run, settings)
        searched = planned.reference == "vials" and planned.vial_search is not None
        condition = " if they are found" if searched else ""
        parts = [f"calibrated by {planned.reference}{condition}"]
        if planned.sodium_only:
            parts.append("in sodium space only")
        else:
            parts.append(
                "transform as given" if planned.given_xfm else "registered to the anatomy"
            )
        made = planned.source.get("recon", "gridding") if planned.is_kspace else "image as it is"
        lines.append(f"  {run.source.name}: {', '.join([made, *parts])}")
    return lines


def _atlas_line(atlas: AtlasPlan) -> str:
    image = Path(atlas.image).name if atlas.image else "built in"
    space = atlas.template or "the space of the anatomy"
    return f"  atlas {atlas.name}: {len(atlas.names)} labels ({image}), in {space}"


def _foresee(jobs: list[SubjectJob], settings: Settings) -> list[Failure]:
    """Print what would be computed; return the subjects that cannot be planned."""
    failures = []
    for job in jobs:
        print(f"sub-{_label(job)} would be computed:")
        try:
            print("\n".join(to_compute(job, settings)))
        except UserError as error:
            failures.append((_label(job), str(error)))
    return failures


def _misplaced(
    by_name: Mapping[str, SubjectJob], crashed: Set[str], settings: Settings
) -> list[Failure]:
    """Return the runs whose registration must not be trusted: their numbers are flagged."""
    failures = []
    for name, job in by_name.items():
        if name in crashed or settings.anat_only:
            continue
        try:
            plans = _plan_runs(job, settings)[0]
        except UserError as error:  # what it was planned from has gone meanwhile
            failures.append((_label(job), str(error)))
            continue
        for path in (Path(plan.outputs["qc"]) for plan in plans):
            held = json.loads(path.read_text()) if path.is_file() else {}
            if held.get("RegistrationFailed"):
                failures.append((_label(job), registration_problem(path, held)))
    return failures


def _add_to_record(record: Path, failures: list[Failure]) -> None:
    with _told_where_it_cannot_be_written():
        add_failures(record, failures)


@contextmanager
def _end_told(record: Path) -> Iterator[None]:
    """Let the record of a run tell when and how it ends, whatever ends it but a kill."""
    how = "broke off"
    try:
        yield
        how = "completed"
    except Stopped as stopped:
        how = f"stopped by {stopped.name}"
        raise
    except Exception as error:
        how = f"broke off: {one_line(error)}"
        raise
    finally:
        with _told_where_it_cannot_be_written():
            end_record(record, how)


@contextmanager
def _told_where_it_cannot_be_written() -> Iterator[None]:
    try:
        yield
    except WriteError as error:  # the summary that follows tells the same
        print(f"sodiumprep: {error}", file=sys.stderr)


def _label(job: SubjectJob) -> str:
    return job.subject + (f" ses-{job.session}" if job.session else "")


def _write_graph(workflow: Workflow, settings: Settings) -> None:
    logs = DatasetNames(settings.out_dir).logs
    logs.mkdir(parents=True, exist_ok=True)
    workflow.write_hierarchical_dotfile(dotfilename=str(logs / "graph.dot"))
    print(f"graph: {logs / 'graph.dot'}")


def _report(out_dir: Path, subject: str, sessions_at_most: int, interactive: bool) -> str:
    """Write the report of a subject; return where it is."""
    return str(write_report(out_dir, subject, (), sessions_at_most, interactive))


def _reports(settings: Settings, subjects: list[str]) -> list[Failure]:
    """Write the reports; whatever goes wrong with one is the failure of its subject alone."""
    chosen = settings.aggregate_session_reports, not settings.no_viewer
    calls = {s: partial(_report, settings.out_dir, s, *chosen) for s in sorted(set(subjects))}
    failures = []
    for subject, made in in_processes(calls, settings.nprocs).items():
        if isinstance(made, str):
            print(f"report: {made}", flush=True)
        else:
            failures.append((subject, _why_no_report(settings.out_dir, made)))
    return failures


def _why_no_report(out_dir: Path, error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        reason = KILLED
    elif isinstance(error, (WriteError, UserError)):
        reason = str(error)
    else:
        reason = " ".join(repr(error).split())
    return f"{out_dir}: the report cannot be written ({reason})"


def _end(failures: list[Failure]) -> int:
    for label, text in failures:
        print(f"sodiumprep: sub-{label} failed: {text}", file=sys.stderr)
    return 1 if failures else 0
