"""Time and accuracy of the iterative reconstructions: ``python bench/iterative.py [a b c d]``.

The same data, precision, penalty and number of iterations for every tool; all of them get all
processors. A time begins with the samples in memory (``bart``: in its files) and ends with the
image, set-up included; each run is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from phantom import CASES, Scan, simulate, tissue_decay

from sodiumprep.sodium.coils import mix_coils
from sodiumprep.sodium.guided import DirectionalGradient, edge_directions, guided
from sodiumprep.sodium.iterative import LeastSquares, Solution, conjugate_gradient, least_squares
from sodiumprep.sodium.operators import Fourier, SegmentedFourier
from sodiumprep.sodium.segments import Evolution, Segments, time_segments
from sodiumprep.sodium.toeplitz import Normal
from sodiumprep.sodium.total_variation import total_variation
from sodiumprep.sodium.virtual_coils import virtual_coils

DAMPING = 0.01  # of the gain of the normal operator, for every tool
STRENGTH = 0.04  # of total variation: about the SD of the noise over the amplitude
LONG = 1000  # iterations after which an objective counts as the smallest
NEAR = 1e-3  # of it
SEGMENTS = 8
TURNS = 3  # of which the fastest counts
SHORT = 30.0  # s: a longer run has one turn
PATIENCE = 180.0  # s: a longer run of another package is not waited for
FEW = 1_000_000  # samples by which the time of sigpy is foretold
PACKAGE = "sodiumprep"


def problem_of(scan: Scan, case: str, segments: Segments | None = None) -> LeastSquares:
    """Return the data term of a scan."""
    geometry = CASES[case].geometry
    normal = Normal(scan.weights, scan.trajectory, geometry, scan.maps, segments)
    if segments is None:
        transform = Fourier(scan.trajectory, geometry)
    else:
        transform = SegmentedFourier(scan.trajectory, geometry, segments)
    return least_squares(scan.samples, scan.weights, normal, transform, scan.maps)


def run_cg(scan: Scan, case: str, iterations: int) -> Solution:
    """Reconstruct with this package, of many coils the virtual ones."""
    if scan.maps is not None:
        matrix = virtual_coils(scan.maps)
        mixed = mix_coils(matrix, scan.samples)
        scan = replace(scan, samples=mixed, maps=mix_coils(matrix, scan.maps))
    return conjugate_gradient(problem_of(scan, case), DAMPING, 0.0, iterations)


def run_all_coils(scan: Scan, case: str, iterations: int) -> Solution:
    """Reconstruct with this package, from every coil by itself."""
    return conjugate_gradient(problem_of(scan, case), DAMPING, 0.0, iterations)


def run_tv(scan: Scan, case: str, iterations: int) -> Solution:
    """Reconstruct with total variation."""
    return total_variation(problem_of(scan, case), STRENGTH, None, 0.0, iterations)


def run_agr(scan: Scan, case: str, iterations: int) -> Solution:
    """Reconstruct with directional total variation and the decay of two tissues."""
    times, relaxations, fractions = tissue_decay(CASES[case])
    segments = time_segments(Evolution(times, relaxations, fractions), SEGMENTS)
    edges = DirectionalGradient(edge_directions(anatomy(scan.truth)))
    return guided(problem_of(scan, case, segments), edges, STRENGTH, 1e-4, iterations)


def anatomy(truth: np.ndarray) -> np.ndarray:
    """Return an image with the edges of the truth in another contrast."""
    return np.sqrt(np.abs(np.asarray(truth, np.float32)))


def unit_weights(scan: Scan, case: str) -> np.ndarray:
    """Return weights for which another package's normal operator has the gain 1."""
    geometry = CASES[case].geometry
    volume = np.prod(geometry.voxel_size) * np.prod(geometry.matrix)
    seen = 1.0
    if scan.maps is not None:
        power = np.sum(np.abs(scan.maps) ** 2, axis=0)
        seen = float(np.sum(power**2) / np.sum(power))
    return (scan.weights * (volume / seen)).astype(np.float32)


def run_sigpy(scan: Scan, case: str, iterations: int) -> np.ndarray:
    """Reconstruct with ``sigpy.mri.app.SenseRecon``."""
    from sigpy.mri.app import SenseRecon  # not to be loaded into every run

    geometry = CASES[case].geometry
    maps = scan.maps if scan.maps is not None else np.ones((1, *geometry.matrix), np.complex64)
    return SenseRecon(
        scan.samples,
        maps,
        lamda=DAMPING,  # codespell:ignore
        weights=unit_weights(scan, case),
        coord=scan.trajectory * np.float32(geometry.fov[0]),
        max_iter=iterations,
        show_pbar=False,
    ).run()


def first_readouts(scan: Scan, n: int) -> Scan:
    """Return the first readouts of a scan."""
    return replace(
        scan,
        samples=scan.samples[:, :n],
        trajectory=scan.trajectory[:n],
        weights=scan.weights[:n],
    )


def run_few(scan: Scan, case: str, n_readouts: int) -> np.ndarray:
    """Do one iteration of sigpy on the first readouts."""
    return run_sigpy(first_readouts(scan, n_readouts), case, 1)


TOOLS: dict[str, Callable[[Scan, str, int], Any]] = {
    "cg": run_cg,
    "all": run_all_coils,
    "tv": run_tv,
    "agr": run_agr,
    "sigpy": run_sigpy,
    "few": run_few,
}


def peak_memory() -> float:
    """Return the largest memory that this process has held [MB]."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # what getrusage tells on Linux is not reset where a process begins another program
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_alone(folder: Path, tool: str, case: str, iterations: int) -> None:
    """Do one run in this process and print what was measured as JSON."""
    if tool in ("simulate", "decaying"):
        save(simulate(CASES[case], tool == "decaying"), folder)
        return
    if tool == "files":
        prepare_bart(load(folder), case, folder)
        return
    scan = load(folder)
    if tool in ("sigpy", "few"):
        run_few(scan, case, 8)  # its loops are compiled at the first call
    start, busy = time.perf_counter(), time.process_time()
    found = TOOLS[tool](scan, case, iterations)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = peak_memory()
    image = found.image if isinstance(found, Solution) else found
    error = nrmse(image, scan.truth)
    told: dict[str, Any] = {"seconds": seconds, "busy": busy, "peak": peak, "nrmse": error}
    if isinstance(found, Solution):
        told |= {"iterations": found.iterations, "objective": found.objective.tolist()}
    print(json.dumps(told))


def nrmse(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the error relative to the truth, after the factor that fits best."""
    factor = np.vdot(image, truth) / np.vdot(image, image)
    return float(np.linalg.norm(factor * image - truth) / np.linalg.norm(truth))


def save(scan: Scan, folder: Path) -> None:
    """Write a scan for the runs."""
    for name, values in vars(scan).items():
        if values is not None:
            np.save(folder / f"{name}.npy", values)


def load(folder: Path) -> Scan:
    """Read what :func:`save` wrote."""
    return Scan(**{path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))})


def measure(folder: Path, tool: str, case: str, iterations: int) -> dict[str, Any]:
    """Do a run in a process of its own, the fastest of three if it is short."""
    return race(folder, case, [(tool, iterations)])[tool, iterations]


Entry = tuple[str, int]  # tool and iterations


def race(folder: Path, case: str, entries: list[Entry]) -> dict[Entry, dict[str, Any]]:
    """Do runs in turns, so that a machine that is busy for a while slows all of them down."""
    best: dict[Entry, dict[str, Any]] = {}
    for turn in range(TURNS):
        for entry in entries:
            if turn and best[entry]["seconds"] > SHORT:
                continue
            run = one_run(folder, case, entry)
            if not turn or run["seconds"] < best[entry]["seconds"]:
                best[entry] = run
    return best


def one_run(folder: Path, case: str, entry: Entry) -> dict[str, Any]:
    """Do a run and return what was measured."""
    if entry[0] == "bart":
        return run_bart(folder, case, entry[1])
    return json.loads(in_process(folder, entry[0], case, entry[1]).splitlines()[-1])


def in_process(folder: Path, tool: str, case: str, iterations: int = 0) -> str:
    """Call :func:`run_alone` in a new process and return what it prints."""
    command = [sys.executable, __file__, case, "--run", tool, str(folder), str(iterations)]
    output = subprocess.run(
        command, env=environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    return output.stdout


def environment() -> dict[str, str]:
    """Return the environment in which every tool may use every processor."""
    threads = str(len(os.sched_getaffinity(0)))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return os.environ | dict.fromkeys(names, threads)


def write_cfl(path: Path, values: np.ndarray, dims: tuple[int, ...]) -> None:
    """Write an array in ``bart``'s format, its first dimension running fastest."""
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + "\n")
    values.astype(np.complex64).tofile(path.with_suffix(".cfl"))


def prepare_bart(scan: Scan, case: str, folder: Path) -> None:
    """Write the scan in ``bart``'s files."""
    geometry = CASES[case].geometry
    coils, readouts, n = scan.samples.shape
    maps = scan.maps if scan.maps is not None else np.ones((1, *geometry.matrix), np.complex64)
    write_cfl(folder / "kspace", scan.samples, (1, n, readouts, coils))
    write_cfl(folder / "traj", scan.trajectory * geometry.fov[0], (3, n, readouts))
    write_cfl(folder / "pattern", np.sqrt(unit_weights(scan, case)), (1, n, readouts))
    write_cfl(folder / "maps", maps.transpose(0, 3, 2, 1), (*geometry.matrix, coils))


def run_bart(folder: Path, case: str, iterations: int) -> dict[str, Any]:
    """Reconstruct with ``bart pics``."""
    options = f"pics -l2 -r {DAMPING} -i {iterations} -w 1 -t traj -p pattern kspace maps image"
    start = time.perf_counter()
    process = subprocess.Popen(
        ["bart", *options.split()], cwd=folder, env=environment(), stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"bart {options} ended with status {status}")
    shape = CASES[case].geometry.matrix[::-1]
    image = np.fromfile(folder / "image.cfl", np.complex64).reshape(shape).T
    error = nrmse(image, np.load(folder / "truth.npy"))
    busy = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "busy": busy, "peak": usage.ru_maxrss / 1024, "nrmse": error}


def line(case: str, what: str, tool: str, run: dict[str, Any], more: str = "") -> None:
    """Print a line of the table."""
    print(
        f"{case:4} {what:22} {tool:10} {run['seconds']:8.2f} s {run['busy']:8.2f} s"
        f" {run['nrmse']:7.4f} {run['peak']:6.0f} MB  {more}",
        flush=True,
    )


class Figures:
    """What was asked, and what was measured."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, what: str, asked: str, measured: str, reached: bool) -> None:
        """Keep a figure for the end of the table."""
        word = "reached" if reached else "NOT REACHED"
        self.lines.append(f"{what:58} asked {asked:>9}  measured {measured:>9}  {word}")

    def at_least(self, what: str, asked: float, measured: float) -> None:
        """Keep a figure that must not be smaller."""
        self.add(what, f">= {asked:g}", f"{measured:.3g}", measured >= asked)

    def at_most(self, what: str, asked: float, measured: float) -> None:
        """Keep a figure that must not be larger."""
        self.add(what, f"<= {asked:g}", f"{measured:.3g}", measured <= asked)


FASTER = {"a": 15.0, "c": 10.0}  # asked ratios of the 30 iterations


def bench_cg(folder: Path, case: str, others: list[str], figures: Figures) -> dict[str, Any]:
    """Compare 30 and 60 iterations of conjugate gradients; return the run of 30."""
    tools = ["cg", *(["bart"] if "bart" in others else [])]
    runs = race(folder, case, [(tool, n) for tool in tools for n in (30, 60)])
    own, step = runs["cg", 30], step_of(runs, "cg")
    line(case, "CG 30 iterations", PACKAGE, own, f"{step * 1e3:.0f} ms per iteration")
    if CASES[case].coils > 1:
        line(case, "CG 30, every coil", PACKAGE, measure(folder, "all", case, 30))
    if case == "c":
        figures.at_most("(c) peak memory of CG [MB]", 2000, own["peak"])
    if "bart" in others:
        its_step = step_of(runs, "bart")
        compare(case, "bart", own, runs["bart", 30], figures)
        print(
            f"{'':27} bart {its_step * 1e3:.0f} ms per iteration, ours {step / its_step:.2f} of it"
        )
        if case == "a":
            figures.at_most("(a) one more iteration over bart's", 0.9, step / its_step)
    if "sigpy" in others:
        expected = expected_sigpy(folder, case)
        if expected > PATIENCE:
            estimate(folder, case, expected / own["seconds"], figures)
        else:
            compare(case, "sigpy", own, measure(folder, "sigpy", case, 30), figures)
    return own


def step_of(runs: dict[Entry, dict[str, Any]], tool: str) -> float:
    """Return the time of one more iteration [s]."""
    return (runs[tool, 60]["seconds"] - runs[tool, 30]["seconds"]) / 30


def compare(
    case: str, tool: str, own: dict[str, Any], other: dict[str, Any], figures: Figures
) -> None:
    """Print the ratio of two runs of 30 iterations."""
    ratio = other["seconds"] / own["seconds"]
    line(case, "CG 30 iterations", tool, other, f"{ratio:.1f} times ours")
    if case in FASTER:
        what = f"({case}) CG, 30 iterations: times faster than {tool}"
        figures.at_least(what, FASTER[case], ratio)
    figures.at_most(f"({case}) NRMSE over that of {tool}", 1.01, own["nrmse"] / other["nrmse"])


def estimate(folder: Path, case: str, ratio: float, figures: Figures) -> None:
    """Print what sigpy would take, and in case (a) its error after two iterations."""
    told = f"not waited for: {ratio:.0f} times ours at least, from one iteration on few readouts"
    print(f"{case:4} {'CG 30 iterations':22} {'sigpy':10} {told}", flush=True)
    if case in FASTER:
        what = f"({case}) CG, 30 iterations: times faster than sigpy, at least"
        figures.at_least(what, FASTER[case], ratio)
    if case == "a":
        other, own = (measure(folder, tool, case, 2) for tool in ("sigpy", "cg"))
        line(case, "CG 2 iterations", "sigpy", other)
        line(case, "CG 2 iterations", PACKAGE, own)
        what = "(a) NRMSE over that of sigpy, 2 iterations"
        figures.at_most(what, 1.01, own["nrmse"] / other["nrmse"])


def expected_sigpy(folder: Path, case: str) -> float:
    """Return what 30 iterations cost at least, from one on few readouts and on twice them.

    The difference of the two is the cost of the samples alone; transforms of grids come on top.
    One iteration takes 5 transforms of all samples, 30 take 63.
    """
    size = CASES[case]
    few = min(size.readouts // 2, 1 + FEW // (size.coils * size.samples))
    times = [
        json.loads(in_process(folder, "few", case, n).splitlines()[-1])["seconds"]
        for n in (few, 2 * few)
    ]
    return (times[1] - times[0]) / few * size.readouts * 63 / 5


def bench_tv(folder: Path, case: str, gradients: dict[str, Any], figures: Figures) -> None:
    """Time total variation until its objective is near that of a very long run."""
    objective = np.asarray(measure(folder, "tv", case, LONG)["objective"])
    enough = 1 + int(np.argmax(np.abs(objective / objective[-1] - 1) <= NEAR))
    run = measure(folder, "tv", case, enough)
    excess = run["objective"][-1] / objective[-1] - 1
    share = run["seconds"] / gradients["seconds"]
    more = f"objective {excess:+.1e} after {enough} iterations, {share:.2f} times the 30 CG"
    line(case, "TV", PACKAGE, run, more)
    figures.at_most(f"({case}) TV to 1e-3 over 30 CG iterations", 5, share)


def bench_agr(folder: Path, case: str, figures: Figures) -> None:
    """Time the guided reconstruction with decay until its own stop."""
    decayed = folder / "decayed"
    decayed.mkdir()
    in_process(decayed, "decaying", case)
    plain = measure(decayed, "cg", case, 30)
    run = measure(decayed, "agr", case, 60)
    line(case, "CG, data decay", PACKAGE, plain, "decay not in the model")
    line(case, f"AGR, {SEGMENTS} segments", PACKAGE, run, f"{run['iterations']} iterations")
    figures.at_most(f"({case}) AGR with decay [s]", 180, run["seconds"])


def bench(cases: list[str]) -> None:
    """Print the table and the figures."""
    others = ["sigpy", *(["bart"] if shutil.which("bart") else [])]
    figures = Figures()
    busy = os.getloadavg()[0]
    print(f"load {busy:.1f} before the start: times compare well only on an idle machine")
    print(f"processors {len(os.sched_getaffinity(0))}, float32, lambda {DAMPING} of the gain")
    print(f"{'case':4} {'what':22} {'tool':10} {'time':>10} {'CPU':>10} {'NRMSE':>7} {'peak':>9}")
    for case in cases:
        print(f"({case}) {CASES[case]}")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            in_process(folder, "simulate", case)
            if "bart" in others:
                in_process(folder, "files", case)
            gradients = bench_cg(folder, case, others, figures)
            if case == "a":
                bench_tv(folder, case, gradients, figures)
                bench_agr(folder, case, figures)
    print("\n".join(figures.lines))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help="of a, b, c, d")
    parser.add_argument("--run", nargs=3, metavar=("TOOL", "FOLDER", "ITERATIONS"))
    options = parser.parse_args()
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; accepted: {', '.join(CASES)}")
    if options.run:
        tool, folder, iterations = options.run
        run_alone(Path(folder), tool, options.cases[0], int(iterations))
    else:
        bench(options.cases)


if __name__ == "__main__":
    main()
