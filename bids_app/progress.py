"""How far a run is: a bar on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from nipype.pipeline.engine import Workflow
from tqdm import tqdm

TICK = 1.0  # s, between two drawings of the bar while nothing happens
BAR = "{desc} {percentage:3.0f}%|{bar:12}| {elapsed}{postfix}"
UNKNOWN_SIZE = (100, 24)  # columns and lines of a terminal that does not tell
SHOWN = 3  # steps that are named beside the bar
_DRAWING = threading.Lock()
# A process that is born while the bar is drawn would wait forever to print.
os.register_at_fork(
    before=_DRAWING.acquire, after_in_parent=_DRAWING.release, after_in_child=_DRAWING.release
)


class Listener(Protocol):
    """Whoever is told of nodes, as Nipype tells: ``start``, ``end`` or ``exception``."""

    def __call__(self, node: Any, status: str) -> None:
        """Take word of a node."""


class Course:
    """Which steps are done, which run, and how long the others will take.

    Parameters
    ----------
    names
        Full names of all nodes.
    workers
        Processes that run them.
    """

    def __init__(self, names: list[str], workers: int = 1) -> None:
        steps = [name for name in names if not is_port(name)]
        self.workers, self.total, self.done = workers, len(steps), 0
        self.left = Counter((subject_of(name), step_of(name)) for name in steps)
        self.subjects = {subject for subject, _ in self.left}
        self.failed: set[str] = set()
        self.running: dict[str, float] = {}
        self.started = time.monotonic()
        self._seconds: dict[str, tuple[int, float]] = {}

    @property
    def finished(self) -> set[str]:
        """Subjects of which no step is left, and that have not failed."""
        return self.subjects - {subject for subject, _ in +self.left} - self.failed

    @property
    def elapsed(self) -> float:
        """Time since the start [s]."""
        return time.monotonic() - self.started

    def take(self, name: str, status: str) -> bool:
        """Take word of a node; tell whether it ended the work on its subject."""
        if status == "start":
            self.running[name] = time.monotonic()
            return False
        before = len(self.finished) + len(self.failed)
        begun = self.running.pop(name, None)
        subject, step = subject_of(name), step_of(name)
        self.done += 1
        self.left[subject, step] -= 1
        if status == "exception":
            self.failed.add(subject)
        elif begun is not None:  # what is reused takes no time, and tells none
            count, seconds = self._seconds.get(step, (0, 0.0))
            self._seconds[step] = count + 1, seconds + time.monotonic() - begun
        return len(self.finished) + len(self.failed) > before

    def remaining(self) -> float | None:
        """Return the time that is left [s]: what each step took so far; None if none is known."""
        if not self._seconds:
            return None
        known = {step: seconds / count for step, (count, seconds) in self._seconds.items()}
        usual = sum(known.values()) / len(known)
        waiting = {key: n for key, n in self.left.items() if key[0] not in self.failed}
        work = sum(n * known.get(step, usual) for (_, step), n in waiting.items())
        now = time.monotonic()
        work -= sum(min(now - begun, known.get(step_of(name), usual))
                    for name, begun in self.running.items())  # fmt: skip
        return max(0.0, work) / self.workers

    def subjects_line(self) -> str:
        """Return how many subjects are done, and how many have failed."""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{len(self.finished)} of {len(self.subjects)} subjects done{failed}"


class Lines:
    """Prints a line for each step that ends, and one for each subject.

    Parameters
    ----------
    course
        That is kept up to date by this.
    stream
        What is printed to.
    """

    def __init__(self, course: Course, stream: TextIO | None = None) -> None:
        self.course, self.stream = course, stream

    def __call__(self, node: Any, status: str) -> None:
        """Take Nipype's word that a node has started, ended or failed."""
        name = node.fullname
        if is_port(name):
            return
        ended = self.course.take(name, status)
        if status == "start":
            return
        word = "" if status == "end" else "  FAILED"
        clock = f"[{self.course.elapsed:5.0f} s {self.course.done:3d}/{self.course.total}]"
        self._print(f"{clock} {title_of(name)}{word}")
        if ended:
            self._print(f"{clock} {self.course.subjects_line()}{_left(self.course, ', ')}")

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class Bar:
    """Draws how far a run is, in the last line of a terminal.

    Parameters
    ----------
    course
        That is kept up to date by this.
    stream
        The terminal.
    colour
        Whether colours may be used.
    """

    def __init__(self, course: Course, stream: TextIO, colour: bool = True) -> None:
        self.course, self.colour = course, colour
        tqdm.monitor_interval = 0  # the bar has a clock of its own
        with _DRAWING:
            # the size is told: of a terminal that does not know its own, tqdm makes nothing
            self.bar = tqdm(total=course.total, file=stream, bar_format=BAR, mininterval=0,
                            ncols=_width(), nrows=UNKNOWN_SIZE[1],
                            colour="green" if colour else None)  # fmt: skip
        self._over = threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)
        self._clock.start()

    def __call__(self, node: Any, status: str) -> None:
        """Take Nipype's word that a node has started, ended or failed."""
        name = node.fullname
        if is_port(name):
            return
        with _DRAWING:
            self.course.take(name, status)
            if status == "exception":
                self.bar.write(f"{title_of(name)}  FAILED", file=self.bar.fp)
                self.bar.colour = "red" if self.colour else None
            self._draw()

    def close(self) -> None:
        """Draw a last time and leave the line."""
        self._over.set()
        self._clock.join()
        with _DRAWING:
            self._draw()
            self.bar.close()

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            with _DRAWING:
                self._draw()

    def _draw(self) -> None:
        self.bar.ncols = _width()
        self.bar.n = self.course.done
        self.bar.set_description_str(self.course.subjects_line(), refresh=False)
        steps = sorted(title_of(name) for name in self.course.running)
        more = [f"and {len(steps) - SHOWN} more"] if len(steps) > SHOWN else []
        told = [_left(self.course), *steps[:SHOWN], *more]
        self.bar.set_postfix_str("; ".join(filter(None, told)), refresh=False)
        self.bar.refresh()


@contextmanager
def progress(workflow: Workflow, workers: int, plain: bool = False) -> Iterator[Listener]:
    """Show how far a graph is, as long as it runs.

    Parameters
    ----------
    workflow
        Whose nodes are counted.
    workers
        Processes that run them.
    plain
        Whether lines are wanted on a terminal too.

    Yields
    ------
    listener
        To be told of nodes.
    """
    course = Course(list(workflow.list_node_names()), workers)
    if plain or not draws_bars(sys.stdout):
        yield Lines(course)
        return
    bar = Bar(course, sys.stdout, colours())
    try:
        yield bar
    finally:
        bar.close()


def say(line: str) -> None:
    """Print a line to stderr, above a bar that is drawn.

    Parameters
    ----------
    line
        A warning.
    """
    with _DRAWING:
        tqdm.write(line, file=sys.stderr)


def told_to(*listeners: Listener) -> Listener:
    """Return a listener that passes on what it hears.

    Parameters
    ----------
    listeners
        Who is told, in this order.
    """

    def tell(node: Any, status: str) -> None:
        for listener in listeners:
            listener(node, status)

    return tell


def draws_bars(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a stream is a terminal that can draw a line anew.

    Parameters
    ----------
    stream
        What is printed to.
    environment
        Its ``TERM`` counts.
    """
    return stream.isatty() and environment.get("TERM", "dumb") != "dumb"


def colours(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether colours are wanted: not where ``NO_COLOR`` is set (no-color.org).

    Examples
    --------
    >>> colours({"NO_COLOR": "1"}), colours({"NO_COLOR": ""}), colours({})
    (False, True, True)
    """
    return not environment.get("NO_COLOR")


def duration(seconds: float) -> str:
    """Return a time in words.

    Parameters
    ----------
    seconds
        The time [s].

    Examples
    --------
    >>> duration(42), duration(200), duration(9000)
    ('42 s', '3 min', '2 h 30 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def is_port(name: str) -> bool:
    """Tell whether a node only passes on what it gets."""
    return name.rpartition(".")[2] in ("inputnode", "outputnode")


def subject_of(name: str) -> str:
    """Return the subject that a node belongs to, with its key.

    Examples
    --------
    >>> subject_of("sodiumprep_wf.sub_01_ses_a_wf.anatomy_wf.mask")
    'sub-01'
    >>> subject_of("sub_02_wf.first")
    'sub-02'
    """
    return branch_of(name).partition(" ")[0]


def branch_of(name: str) -> str:
    """Return the subject and session that a node belongs to, with their keys.

    Examples
    --------
    >>> branch_of("sodiumprep_wf.sub_01_ses_a_wf.anatomy_wf.mask")
    'sub-01 ses-a'
    """
    text = name.split(".")[_depth(name)].removesuffix("_wf")
    return text.replace("sub_", "sub-").replace("_ses_", " ses-").replace("_only_", " only ")


def step_of(name: str) -> str:
    """Return what a node does, in words.

    Examples
    --------
    >>> step_of("sodiumprep_wf.sub_01_ses_a_wf.anatomy_wf.brain_mask")
    'anatomy brain mask'
    """
    parts = name.split(".")[_depth(name) + 1 :]
    return " ".join(part.removesuffix("_wf").replace("_", " ") for part in parts)


def title_of(name: str) -> str:
    """Return what a node does for whom.

    Examples
    --------
    >>> title_of("sodiumprep_wf.sub_01_ses_a_wf.anatomy_wf.brain_mask")
    'sub-01 ses-a: anatomy brain mask'
    """
    return f"{branch_of(name)}: {step_of(name)}"


def _depth(name: str) -> int:
    """Return where in a name the subject stands: at the front, or behind the whole graph's."""
    parts = name.split(".")
    return 1 if len(parts) > 1 and not parts[0].startswith("sub_") else 0


def _width() -> int:
    return shutil.get_terminal_size(UNKNOWN_SIZE).columns - 1


def _left(course: Course, before: str = "") -> str:
    seconds = course.remaining() if course.done < course.total else None
    return "" if seconds is None else f"{before}about {duration(seconds)} left"
