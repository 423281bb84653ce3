"""``sodiumprep --self-test``: what of this installation works, in a line for each part.

Nothing is read but the installation, nothing is written but a temporary folder, and no network is
asked. A head is simulated and processed from its k-space to its report, as a user would do it.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sodiumprep.bids_app import host
from sodiumprep.bids_app.caches import cache_environment, home_of
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.settings import Settings

SECONDS = 600  # that a command may take; on two quiet processors all of them take less than 60
LEAST_MEMORY = 4.0  # GB that a subject may need
LEAST_DISK = 1.0  # GB for temporary files
NUFFT_ERROR = 1e-4  # relative, of single precision
SHIFT = (3.0, -2.0, 1.0)  # voxels, that a registration has to find
SHIFT_ERROR = 0.2  # voxels
REGION_ERROR = {"GM": 0.2, "WM": 0.2, "CSF": 0.2}  # relative: the head is coarse and small
PHANTOM = ("--subjects", "1", "--groups", "one", "--coils", "1", "--spokes", "1000",
           "--voxel-size", "6", "--seed", "3")  # fmt: skip
OPTIONS = ("--sloppy", "--nprocs", "1", "--na2anat-init", "header", "--no-viewer")
OPTIONAL = {  # module: what is missing without it, and how it is had
    "templateflow": "templates other than the embedded one are not fetched; to have them: "
    "pip install 'sodiumprep[templates]'",
    "bids_validator_deno": "datasets are not validated; to have that: pip install "
    "bids-validator-deno",
}
RUN = "import sys; from sodiumprep.bids_app.{} import main; sys.exit(main())"
REINSTALL = "install sodiumprep again, in an environment of its own"


class BrokenError(Exception):
    """Something does not work.

    Parameters
    ----------
    found
        What was seen.
    advice
        What to do.
    """

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found}; to do: {advice}")


class MissingError(Exception):
    """Something that one can do without is not there."""


def main() -> int:
    """Run all checks and print a line for each.

    Returns
    -------
    code
        0 if all that is needed works, else 1.
    """
    started = time.monotonic()
    try:
        os.environ.update(cache_environment(os.environ, Path.cwd()))
    except UserError as error:
        print(_line("FAILED", "temporary files", str(error)))
        return 1
    os.environ.update(Settings(Path(), Path(), Path()).environment())
    with tempfile.TemporaryDirectory(prefix="sodiumprep-self-test-") as name:
        codes = _check_all(Path(name))
    said = ", ".join(f"{codes.count(code)} {code}" for code in ("ok", "absent", "FAILED"))
    print(f"self-test: {said}; {time.monotonic() - started:.0f} s")
    return int("FAILED" in codes)


def _check_all(folder: Path) -> list[str]:
    """Run each check; the head is simulated meanwhile."""
    simulation = _start("phantom", folder, str(folder / "bids"), *PHANTOM)
    checks: dict[str, Callable[[], str]] = {
        "machine": machine,
        "temporary files": lambda: temporary_files(folder),
        "software": software,
        "embedded templates": templates,
        "NUFFT": nufft,
        "registration": registration,
        **{module: partial(optional, module) for module in OPTIONAL},
        "simulated head": lambda: simulated_head(simulation, folder),
        "participant level": lambda: participant_level(folder),
        "report": lambda: report(folder / "out" / "sub-01.html"),
    }
    try:
        return [check(name, function) for name, function in checks.items()]
    finally:
        simulation.kill()
        simulation.wait()


def check(name: str, function: Callable[[], str]) -> str:
    """Run one check and print how it went.

    Parameters
    ----------
    name
        Of what is checked.
    function
        Returns what was seen, or raises BrokenError or MissingError.

    Returns
    -------
    code
        ``ok``, ``absent`` or ``FAILED``.

    Examples
    --------
    >>> check("sums", lambda: "1 + 1 is 2")
    ok      sums: 1 + 1 is 2
    'ok'
    """
    try:
        code, said = "ok", function()
    except MissingError as error:
        code, said = "absent", str(error)
    except BrokenError as error:
        code, said = "FAILED", str(error)
    except Exception as error:  # whatever a damaged library raises, the other checks go on
        code, said = "FAILED", f"{type(error).__name__}: {error}; to do: {REINSTALL}"
    print(_line(code, name, said), flush=True)
    return code


def _line(code: str, name: str, said: str) -> str:
    return f"{code:7} {name}: {' '.join(said.split())}"


def machine() -> str:
    """Return processors and memory, and whether they do."""
    usable, room = host.processors(), host.memory()
    said = (
        f"{usable.value:g} processor(s), {room.value:.1f} GB of memory ({room.source}), "
        f"{os.uname().machine}"
    )
    if room.value < LEAST_MEMORY:
        raise BrokenError(
            f"{said}; a subject may need {LEAST_MEMORY:g} GB",
            "give the container or job more memory",
        )
    return said


def temporary_files(folder: Path) -> str:
    """Return where temporary files lie and how much room there is."""
    room = shutil.disk_usage(folder).free / 1e9
    if room < LEAST_DISK:
        raise BrokenError(f"{folder}: {room:.1f} GB free", f"{LEAST_DISK:g} GB, or set TMPDIR")
    home = home_of(os.environ)  # that of the table of users where the environment tells none
    return f"{folder.parent}, {room:.0f} GB free; user {os.getuid()}, home {str(home)!r}"


def software() -> str:
    """Return the versions of Python and of all that is needed, after loading them."""
    from packaging.requirements import Requirement  # with numpy and the like

    modules: dict[str, str] = {}
    for module, names in packages_distributions().items():
        modules |= {_plain(name): module for name in names if not module.startswith("_")}
    told = [f"sodiumprep {version('sodiumprep')}", f"Python {platform.python_version()}"]
    needs = [need for need in map(Requirement, requires("sodiumprep") or []) if not need.marker]
    told += [f"{need.name} {_load(need, modules)}" for need in needs]
    return ", ".join(told)


def _plain(name: str) -> str:
    """Return a name as indices compare it: tomli-w and tomli_w are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _load(need: Any, modules: Mapping[str, str]) -> str:
    try:
        found = version(need.name)
        importlib.import_module(modules[_plain(need.name)])
    except (PackageNotFoundError, KeyError):
        raise BrokenError(f"{need.name} is not installed", REINSTALL) from None
    if not need.specifier.contains(found, prereleases=True):
        raise BrokenError(f"{need.name} is {found}", f"install {need}")
    return found


def templates() -> str:
    """Return the volume of the embedded brain, after looking for the pages of the report."""
    import nibabel as nib
    import numpy as np

    from sodiumprep.bids_app.report import environment

    names = ("t1", "gm", "wm")
    folder = files("nilearn") / "datasets" / "data"
    volumes = {}
    for name in names:
        with as_file(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") as path:
            image: Any = nib.load(path)  # a NIfTI image
            inside = np.asarray(image.dataobj) > 0
        volumes[name] = inside.sum() * abs(np.linalg.det(image.affine[:3, :3])) * 1e-6
    environment().get_template("subject.html")
    if not 1.5 < volumes["t1"] < 2.2:
        raise BrokenError(f"a brain of {volumes['t1']:.2f} l", "install nilearn again")
    return f"MNI152 with a brain of {volumes['t1']:.2f} l, grey and white matter; report pages"


def nufft() -> str:
    """Return the error of the non-uniform Fourier transform against the sum that it stands for."""
    import numpy as np

    from sodiumprep.sodium.acquisition import Geometry
    from sodiumprep.sodium.encoding import forward
    from sodiumprep.sodium.trajectory import density_adapted_radial

    rng = np.random.default_rng(0)
    geometry = Geometry(np.zeros(3), np.eye(3), (0.06, 0.06, 0.06), (12, 12, 12))
    image = rng.standard_normal((2, *geometry.matrix))
    image = image[0] + 1j * image[1]
    places = (np.indices(geometry.matrix).reshape(3, -1).T - 6) * geometry.voxel_size
    trajectory = density_adapted_radial(20, 16, 100.0)
    phases = np.exp(-2j * np.pi * trajectory.reshape(-1, 3).astype(float) @ places.T)
    exact = (phases @ image.ravel()).reshape(20, 16)
    found = forward(image.astype(np.complex64), trajectory, geometry)
    error = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    if not error < NUFFT_ERROR:
        raise BrokenError(f"off by {error:.1e} from the direct sum", "install finufft again")
    return f"{error:.1e} from the direct sum"


def registration() -> str:
    """Return how well ANTs finds a shift, after doing it twice."""
    import ants
    import numpy as np

    x, y, z = np.indices((32, 32, 32)) - 15.5
    blob = np.exp(-(x**2 / 60 + y**2 / 40 + z**2 / 90)).astype(np.float32)
    moved = np.roll(blob, [int(shift) for shift in SHIFT], axis=(0, 1, 2))
    found = []
    for _ in range(2):
        fitted = ants.registration(
            ants.from_numpy(blob), ants.from_numpy(moved), "Translation",
            aff_metric="meansquares", aff_random_sampling_rate=1.0,
        )["fwdtransforms"][0]  # fmt: skip
        found.append(np.asarray(ants.read_transform(fitted).parameters)[-3:])
        Path(fitted).unlink()
    error = float(np.abs(found[0] - SHIFT).max())
    if not np.array_equal(found[0], found[1]):
        raise BrokenError("ANTs finds another transform each time", "install antspyx again")
    if not error < SHIFT_ERROR:
        raise BrokenError(f"ANTs misses a shift by {error:.2f} voxels", "install antspyx again")
    return f"ANTs finds a shift within {error:.3f} voxels, twice the same"


def optional(module: str) -> str:
    """Return the version of a library that one can do without.

    Raises
    ------
    MissingError
        If it is not installed.
    """
    if find_spec(module) is None:
        raise MissingError(f"not installed: {OPTIONAL[module]}")
    return version(module.replace("_", "-"))


def _start(command: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start one of our commands in a folder, with its temporary files there."""
    own = folder / "tmp"
    own.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", RUN.format(command), *arguments],
        cwd=folder, env={**os.environ, "TMPDIR": str(own)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _finish(command: str, process: subprocess.Popen[str]) -> str:
    """Return what a command printed, once it has ended well."""
    try:
        said = process.communicate(timeout=SECONDS)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise BrokenError(
            f"{command} took over {SECONDS} s", "try again on a quiet machine"
        ) from None
    if process.returncode:
        last = " | ".join(said.strip().splitlines()[-3:])
        raise BrokenError(f"{command} ended with {process.returncode}: {last}", REINSTALL)
    return said


def simulated_head(simulation: subprocess.Popen[str], folder: Path) -> str:
    """Return that a head has been simulated, and make its anatomy coarse."""
    _finish("sodiumprep-phantom", simulation)
    images = [
        path
        for part in ("sub-01", "derivatives/anat/sub-01")
        for path in sorted((folder / "bids" / part).rglob("*.nii.gz"))
    ]
    for path in images:
        coarsen(path)
    return f"k-space of one coil, anatomy of {len(images)} images"


def coarsen(path: Path) -> None:
    """Write an image anew with voxels of twice the edge: a mask stays one.

    Parameters
    ----------
    path
        NIfTI image of three axes.
    """
    import nibabel as nib
    import numpy as np

    image: Any = nib.load(path)  # a NIfTI image
    values = image.get_fdata(dtype=np.float32)
    values = values[tuple(slice(n - n % 2) for n in values.shape)]
    x, y, z = (n // 2 for n in values.shape)
    values = values.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
    if path.name.endswith("_mask.nii.gz"):
        values = (values > 0.5).astype(np.uint8)
    affine = image.affine @ np.diag([2, 2, 2, 1.0])
    affine[:3, 3] = (image.affine @ [0.5, 0.5, 0.5, 1])[:3]
    nib.save(nib.Nifti1Image(values, affine), path)


def participant_level(folder: Path) -> str:
    """Return how far concentrations of the simulated head are from the truth."""
    import pandas as pd

    raw, out = folder / "bids", folder / "out"
    ready = [f"{name}={raw / 'derivatives' / name}" for name in ("anat", "manual")]
    places = [str(raw), str(out), "participant", "-w", str(folder / "work"), "-d", *ready]
    _finish("sodiumprep", _start("cli", folder, *places, *OPTIONS))
    table = pd.read_csv(next(out.rglob("*_seg-tissue_TSC.tsv")), sep="\t")
    truth = pd.read_csv(next(raw.rglob("*_desc-truth_TSC.tsv")), sep="\t").set_index("name")
    chosen = table[(table.pvc == "gtm") & (table.desc == "corrected")].set_index("name")["mean"]
    errors = {name: float(chosen[name] / truth.concentration[name] - 1) for name in REGION_ERROR}
    said = ", ".join(f"{name} {error:+.1%}" for name, error in errors.items())
    if not all(abs(error) < REGION_ERROR[name] for name, error in errors.items()):
        raise BrokenError(f"from the truth: {said}", REINSTALL)
    return f"from k-space to the table; from the truth {said}"


def report(path: Path) -> str:
    """Return the size of a report that opens without a network."""
    page = path.read_text()
    images, asked = (
        page.count("<svg") + page.count("<img"),
        re.findall(r"""(?:src|@import|<link[^>]*href)\s*=?\s*["'](https?:[^"']+)""", page),
    )
    if not images or asked:
        raise BrokenError(f"{images} pictures, {len(asked)} parts from the network", REINSTALL)
    return f"{len(page) / 1e6:.1f} MB, {images} pictures, nothing from the network"
