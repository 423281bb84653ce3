"""Time, accuracy and memory of the operators: ``python bench/operators.py [a b c d]``.

CPU times are those of all threads together, the best of several runs; so are wall times. The
reference of every accuracy is the direct sum in double precision over all samples, at voxels
drawn at random. Operators are those of one coil, unless said otherwise: coils are transformed one
by one.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import finufft
import numpy as np
import scipy.fft
import sigpy
from phantom import CASES, FOV, Case, simulate

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry
from sodiumprep.sodium.encoding import Transform, adjoint, available_threads, voxel_phases
from sodiumprep.sodium.operators import SegmentedFourier, encoding, weighting
from sodiumprep.sodium.segments import Evolution, time_segments
from sodiumprep.sodium.toeplitz import Normal

N_VOXELS = 40  # at which the direct sum is taken
N_SEGMENTS = 8
FIELD = 20.0  # Hz, largest off-resonance of the map
READOUT = 0.02  # s
SIZES = (32, 48, 72, 104)  # voxels along an axis, samples in proportion to voxels


@dataclass(frozen=True)
class Timed:
    """What a call returned, and what it took.

    Parameters
    ----------
    value
        Returned.
    cpu, wall
        Best of several [s].
    """

    value: Any
    cpu: float
    wall: float


def timed(call: Callable[[], Any], patience: float = 3.0) -> Timed:
    """Call once to warm up, then again until the patience [s] has gone."""
    best = Timed(call(), np.inf, np.inf)
    start = time.perf_counter()
    while time.perf_counter() - start < patience or np.isinf(best.cpu):
        wall, cpu = time.perf_counter(), time.process_time()
        value = call()
        spent = time.process_time() - cpu, time.perf_counter() - wall
        best = Timed(value, min(best.cpu, spent[0]), min(best.wall, spent[1]))
    return best


class Reference:
    """The direct sum at some voxels."""

    def __init__(self, samples: Complexes, trajectory: Floats, geometry: Geometry) -> None:
        rng = np.random.default_rng(5)
        self.index = tuple(rng.integers(n, size=N_VOXELS) for n in geometry.matrix)
        places = [
            (i - n // 2) * size
            for i, n, size in zip(self.index, geometry.matrix, geometry.voxel_size, strict=True)
        ]
        flat, values = trajectory.reshape(-1, 3).astype(np.float64), samples.ravel()
        self.sums = np.array(
            [
                np.dot(np.exp(2j * np.pi * (flat @ place)), values)
                for place in zip(*places, strict=True)
            ]
        )

    def error(self, image: Complexes) -> float:
        """Return the relative error of an image."""
        return float(np.linalg.norm(image[self.index] - self.sums) / np.linalg.norm(self.sums))

    def scaled_error(self, image: Complexes) -> float:
        """Return the relative error after the factor that fits best."""
        found = image[self.index]
        return self.error(image * (np.vdot(found, self.sums) / np.vdot(found, found)))


def line(what: str, run: Timed, error: float | None = None, more: str = "") -> None:
    """Print a line of a table."""
    accuracy = "" if error is None else f"{error:.1e}"
    print(f"  {what:34} {run.cpu:9.4f} s {run.wall:9.4f} s {accuracy:>9}  {more}", flush=True)


def adjoint_table(case: Case, samples: Complexes, trajectory: Floats) -> None:
    """Compare the adjoint transform with other packages."""
    geometry = case.geometry
    reference = Reference(samples, trajectory, geometry)
    transform = Transform(trajectory, geometry)
    own = timed(lambda: transform.adjoint(samples))
    cold = timed(lambda: adjoint(samples, trajectory, geometry))
    bare = bare_finufft(samples, trajectory, geometry)
    other = timed(
        lambda: sigpy.nufft_adjoint(samples, trajectory * np.float32(FOV), geometry.matrix), 0.0
    )
    line("adjoint", own, reference.error(own.value))
    line("adjoint once, with its plan", cold, reference.error(cold.value))
    line("finufft", bare, reference.error(bare.value), "its plan included")
    line("sigpy", other, reference.scaled_error(other.value))
    if shutil.which("bart"):
        bart = bart_adjoint(samples, trajectory, geometry)
        line("bart -P, and reading files", bart, reference.scaled_error(bart.value))
    print(f"  CPU of sigpy over ours           {other.cpu / own.cpu:6.1f}   asked >= 20")
    print(f"  CPU of ours over finufft         {own.cpu / bare.cpu:6.2f}   asked <= 1.1")
    print(f"  ours once, with its plan         {cold.cpu / bare.cpu:6.2f}")


def bare_finufft(samples: Complexes, trajectory: Floats, geometry: Geometry) -> Timed:
    """Call the library with all that it needs prepared."""
    phases = voxel_phases(trajectory, geometry.voxel_size, np.float32)
    values = samples.ravel()
    return timed(
        lambda: finufft.nufft3d1(
            *phases, values, geometry.matrix, eps=1e-5, isign=1, upsampfac=2.0,
            nthreads=available_threads(),
        )
    )  # fmt: skip


def bart_adjoint(samples: Complexes, trajectory: Floats, geometry: Geometry) -> Timed:
    """Run ``bart nufft -a -P`` on files."""
    readouts, n = samples.shape
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cfl(folder / "traj", trajectory * np.float32(FOV), (3, n, readouts))
        write_cfl(folder / "kspace", samples, (1, n, readouts))
        size = ":".join(map(str, geometry.matrix))
        command = ["bart", "nufft", "-a", "-P", "-d", size, "traj", "kspace", "image"]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        image = np.fromfile(folder / "image.cfl", np.complex64).reshape(geometry.matrix[::-1]).T
    return Timed(image, cpu, wall)


def write_cfl(path: Path, values: Any, dims: tuple[int, ...]) -> None:
    """Write an array in the format of bart, its first dimension running fastest."""
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + "\n")
    values.astype(np.complex64).tofile(path.with_suffix(".cfl"))


def relative_error(found: Complexes, expected: Complexes) -> float:
    """Return the norm of the difference over the norm."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def full_transforms(case: Case) -> Timed:
    """Transform the whole doubled grid and back."""
    doubled = np.zeros([2 * n for n in case.geometry.matrix], np.complex64)
    threads = available_threads()
    return timed(
        lambda: scipy.fft.ifftn(scipy.fft.fftn(doubled, workers=threads), workers=threads)
    )


def normal_table(case: Case, weights: Floats, trajectory: Floats, image: Complexes) -> Timed:
    """Compare the normal operator with transforms and with full FFTs; return its run."""
    operator = encoding(trajectory, case.geometry)
    pair = timed(lambda: (operator.H * weighting(weights) * operator)(image))
    setup = timed(lambda: Normal(weights, trajectory, case.geometry), 2.0)
    run = timed(lambda: setup.value(image))
    full = full_transforms(case)
    line("set-up of the normal operator", setup)
    line("normal operator", run, relative_error(run.value, pair.value))
    line("forward and adjoint", pair)
    line("two FFTs of the doubled grid", full)
    print(
        f"  normal over two FFTs             {run.cpu / full.cpu:6.2f}   asked <= 0.8"
        f" (wall {run.wall / full.wall:.2f})"
    )
    return run


def segment_table(
    case: Case, weights: Floats, trajectory: Floats, image: Complexes, plain: Timed
) -> None:
    """Time the normal operator in segments against the one without."""
    for what, evolution in evolutions(case).items():
        segments = time_segments(evolution, N_SEGMENTS)
        operator = SegmentedFourier(trajectory, case.geometry, segments)
        expected = (operator.H * weighting(weights) * operator)(image)
        normal = Normal(weights, trajectory, case.geometry, None, segments)
        run = timed(lambda normal=normal: normal(image))
        line(f"{N_SEGMENTS} segments, {what}", run, relative_error(run.value, expected),
             f"{run.cpu / plain.cpu:.1f} times one without (wall {run.wall / plain.wall:.1f}), "
             f"asked <= {N_SEGMENTS}; segments are off by {segments.error:.1e}")  # fmt: skip


def evolutions(case: Case) -> dict[str, Evolution]:
    """Return a smooth field map, and a map of decay rates."""
    n = case.matrix
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32)] * 3, indexing="ij")
    field = FIELD * np.sin(2 * x + y) * np.cos(z)
    rate = 20 + 180 * np.exp(-2 * (x**2 + y**2 + z**2))
    times = np.linspace(0, READOUT, case.samples)
    return {
        f"field +-{FIELD:g} Hz": Evolution(times, off_resonance=field, echo_time=3e-4),
        "T2* 5 to 50 ms": Evolution(times, decay_rate=rate),
    }


def coil_table(case: Case, weights: Floats, trajectory: Floats, image: Complexes) -> None:
    """Time the normal operator of many coils."""
    shape = (case.coils, *case.geometry.matrix)
    maps = (
        np.random.default_rng(0)
        .standard_normal((*shape, 2), np.float32)
        .view(np.complex64)[..., 0]
    )
    full = full_transforms(case)
    for low_mem in (False, True):
        before = forget_peak()
        normal = Normal(weights, trajectory, case.geometry, maps, None, low_mem)
        run = timed(lambda normal=normal: normal(image))
        line(f"normal of {case.coils} coils{', low memory' * low_mem}", run, None,
             f"{run.cpu / (case.coils * full.cpu):.2f} of two FFTs of each coil, "
             f"{peak() - before:.0f} MB above {before:.0f}")  # fmt: skip


def forget_peak() -> float:
    """Start to look for the largest memory anew; return what is held now [MB]."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """Return the largest memory that this process has held since [MB]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(each.split()[1]) / 1024 for each in lines if each.startswith("VmHWM"))


def bench_case(name: str) -> None:
    """Print the tables of one case."""
    case = CASES[name]
    print(f"({name}) {case}")
    scan = simulate(replace(case, coils=1))
    weighted = (scan.samples[0] * scan.weights).astype(np.complex64)
    adjoint_table(case, weighted, scan.trajectory)
    image = scan.truth.astype(np.complex64)
    if case.coils == 1:
        plain = normal_table(case, scan.weights, scan.trajectory, image)
        if name == "a":
            segment_table(case, scan.weights, scan.trajectory, image, plain)
    else:
        coil_table(case, scan.weights, scan.trajectory, image)


def measure_size(n: int) -> None:
    """Print what one size takes: samples, CPU of adjoint, set-up and application, memory."""
    case = Case(int(2.44 * n**2), 6 * n, n)
    trajectory = case.trajectory
    weights = np.ones(trajectory.shape[:2], np.float32)
    samples = weights.astype(np.complex64)
    before = forget_peak()
    transform = Transform(trajectory, case.geometry)
    back = timed(lambda: transform.adjoint(samples), 1.0)
    setup = timed(lambda: Normal(weights, trajectory, case.geometry), 1.0)
    run = timed(lambda: setup.value(back.value), 1.0)
    print(weights.size, back.cpu, setup.cpu, run.cpu, peak() - before)


def scaling_table() -> None:
    """Print time and memory of four sizes, each from a process of its own, and the exponents."""
    print("(scaling) radial, samples in proportion to voxels")
    print("    N    samples  adjoint [s]  set-up [s]  normal [s]  memory [MB], data not counted")
    rows = []
    for n in SIZES:
        command = [sys.executable, __file__, "--size", str(n)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append([float(word) for word in done.stdout.split()])
        print(f"  {n:3} {rows[-1][0]:10.0f}" + "".join(f"{v:12.3f}" for v in rows[-1][1:]))
    logs = np.log(np.asarray(rows))
    exponents = [np.polyfit(logs[:, 0], logs[:, i], 1)[0] for i in range(1, 5)]
    print("  exponent      " + "".join(f"{value:12.2f}" for value in exponents))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help="of a, b, c, d")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.size:
        measure_size(options.size)
        return
    print(f"{available_threads()} threads, float32; CPU, wall time, error against the direct sum")
    for name in options.cases:
        bench_case(name)
    scaling_table()


if __name__ == "__main__":
    main()
