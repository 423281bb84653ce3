"""Let the readers read every hostile input; ``python tests/hostile/run.py`` prints the counts."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corpus import EITHER, Case, corpus
from readers import LONGEST, MOST_MEMORY, Outcome, try_case

QUICK = 1.0  # s, for what reads one file


def problem_of(case: Case, came: Outcome) -> str:
    """Return what is wrong with an outcome, or nothing."""
    longest = LONGEST if case.reader == "dry run" else QUICK
    wrong = came.kind not in ("refused", "sound") or case.expected not in (EITHER, came.kind)
    if wrong or came.strays or came.megabytes > MOST_MEMORY or came.seconds > longest:
        return f"{case.name}: expected {case.expected}: {came}"[:600]
    return ""


def run(cases: Iterable[Case], folder: Path) -> tuple[list[Outcome], list[str]]:
    """Return what came of cases, and what is wrong with it."""
    outcomes, problems = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, case in enumerate(cases):
            came = try_case(case.reader, case.make, folder / str(number))
            outcomes.append(came)
            problems.append(problem_of(case, came))
    return outcomes, [problem for problem in problems if problem]


def main() -> int:
    """Print how many inputs were refused and what should not have been; 1 if anything was."""
    cases = corpus()
    with tempfile.TemporaryDirectory() as place:
        outcomes, problems = run(cases, Path(place))
    if "-v" in sys.argv:
        for case, came in zip(cases, outcomes, strict=True):
            print(f"{came.kind} {came.seconds:.2f} s {case.name}: {came.text[:150]!r}")
    print("\n".join(problems))
    print(
        f"{len(cases)} inputs: {dict(Counter(came.kind for came in outcomes))}; "
        f"{sum(bool(came.strays) for came in outcomes)} changed or left files; slowest "
        f"{max(came.seconds for came in outcomes):.2f} s; memory at most "
        f"+{max(came.megabytes for came in outcomes):.0f} MB; {len(problems)} problems"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
