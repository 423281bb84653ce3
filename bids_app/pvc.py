"""The command ``sodiumprep-pvc``: partial-volume correction alone, NIfTI in and out."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from sodiumprep.bids_app.metadata import UserError
from sodiumprep.interfaces.image import load_finite_image, save_image
from sodiumprep.interfaces.region_images import RegionImage, load_kernels
from sodiumprep.sodium.acquisition import Complexes, Floats
from sodiumprep.sodium.kernel import blur
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc import MAPS
from sodiumprep.sodium.pvc.assessment import POSITION_ERROR, PSF_ERROR, SEGMENTATION_ERROR
from sodiumprep.sodium.pvc.kernels import GaussianKernel, ImageKernel, Kernel
from sodiumprep.sodium.pvc.methods import (
    BY_DRAWS,
    DECONVOLUTIONS,
    Correction,
    Setup,
    correct,
    draws_of,
    noise_of,
)
from sodiumprep.sodium.pvc.parts import Normalization, parts_of_fractions, parts_of_labels
from sodiumprep.sodium.pvc.propagation import LEAST_DRAWS
from sodiumprep.sodium.pvc.reduced import (
    BACKGROUND,
    LONGEST_LAG,
    ReducedRegions,
    kernels_of_all,
    residual_correlation,
)
from sodiumprep.sodium.pvc.regional import (
    Method,
    RegionalEstimate,
    entangled_pairs,
    gtm,
    labbe,
    merge_entangled,
    mixing_matrix,
    region_means,
)
from sodiumprep.sodium.pvc.sampling import FineGrid, doubled_transfer, sampled_regions
from sodiumprep.sodium.pvc.sensitivity import (
    MovedBorder,
    kernel_change,
    layer_at_border,
    segmentation_changes,
    shift_changes,
)
from sodiumprep.sodium.pvc.shown import SampledRegions

EXIT_REFUSED = 2
REGIONAL = {"gtm": gtm, "labbe": labbe}
METHODS = ("none", *REGIONAL, *MAPS)
ROOM = 2  # boxes of the noise spectrum that hold what a deconvolution makes of a correlation
TOUCHING = 1.0  # voxels that two regions share, from which on they have a border
NEIGHBOURHOOD = 2.0  # FWHM of the neighbourhood of local regression over that of the kernel
COLUMNS = ("index", "name", "pvc", "mean", "uncertainty", "residual_sd", "n_voxels", "volume_ml")
SENSITIVITY = {
    "change_position_1mm": f"largest change by {POSITION_ERROR:g} mm of misregistration",
    "change_psf_10percent": f"change by a kernel {100 * PSF_ERROR:g} % wider",
    "change_segmentation_0.5mm": f"change by {SEGMENTATION_ERROR:g} mm of every border, joined",
}


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_REFUSED, f"{self.prog}: error: {message} (--help tells more)\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="sodiumprep-pvc",
        description="Correct an image (sodium, PET or alike) for partial-volume effects. Writes "
        "OUT_PREFIX_regions.tsv, the same name with .json, and for methods that give maps "
        "OUT_PREFIX_pvc-METHOD.nii.gz.",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="3D NIfTI, never resampled")
    parser.add_argument(
        "fractions", type=Path, metavar="FRACTIONS",
        help="4D NIfTI, one region per volume, in [0, 1], on any grid in the space of IMAGE; what "
        "is missing to one is background. Or a 3D label image, 0 being background",
    )  # fmt: skip
    parser.add_argument("prefix", type=Path, metavar="OUT_PREFIX", help="start of output names")
    parser.add_argument(
        "--psf", nargs="+", required=True, metavar="MM|FILE",
        help="FWHM of a Gaussian [mm], one number or three along the voxel axes of IMAGE; or a "
        "NIfTI file with the kernel (4D: one for each region), its centre at voxel n//2",
    )  # fmt: skip
    parser.add_argument(
        "--method", nargs="+", default=["gtm"], choices=METHODS, metavar="METHOD",
        help=f"of {', '.join(METHODS)} (default: gtm); none is always in the table",
    )  # fmt: skip
    parser.add_argument(
        "--values-from", choices=REGIONAL, default="gtm",
        help="regional values from which maps are made (default: gtm)",
    )  # fmt: skip
    parser.add_argument("--names", type=Path, metavar="TSV", help="columns index and name")
    parser.add_argument(
        "--noise-sd", metavar="SD|FILE",
        help="noise SD of IMAGE, a number or a NIfTI file on its grid (default: SD of what the "
        "regions do not explain). The correlation is always read from the latter",
    )  # fmt: skip
    parser.add_argument(
        "--merge-entangled", action="store_true",
        help="merge regions between whose estimates noise shifts signal (correlation above 0.95)",
    )  # fmt: skip
    parser.add_argument(
        "--sensitivity", action="store_true",
        help="add columns for gtm and labbe: "
        + "; ".join(SENSITIVITY.values()).replace("%", "%%"),
    )  # fmt: skip
    parser.add_argument(
        "--residual-map", action="store_true",
        help="write OUT_PREFIX_residual.nii.gz: the image less what the regions explain",
    )  # fmt: skip
    parser.add_argument(
        "--mg-target", nargs=2, default=("GM", "CSF"), metavar=("TARGET", "FLUID"),
        help="names of two regions, for mg (default: GM CSF)",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, default=Setup.draws, metavar="N",
        help="of the noise, behind the uncertainties of regression (N) and rl (a third of N, at "
        "least 8), whose relative error is 1 / sqrt(2 draws); each takes as long as the method. "
        "0: n/a. All other uncertainties are propagated to first order (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--negative-as-zero", action="store_true", help="let rl take negative voxels as 0"
    )
    return parser


@dataclass
class _Result:
    """Of one method: what goes to the table, and the map."""

    values: Floats
    uncertainty: Floats
    estimate: RegionalEstimate | None = None
    image: Floats | None = None
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Problem:
    """What is corrected: an image, its regions, and where they lie."""

    image: Floats
    affine: Floats
    regions: ReducedRegions | SampledRegions
    kernels: Sequence[Kernel]
    numbers: Sequence[int]
    names: Sequence[str]  # of the regions that were asked for
    normalization: Normalization

    @property
    def spacing(self) -> Floats:
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def fwhm(self) -> Floats:
        return np.asarray(np.mean([k.fwhm for k in self.kernels], axis=0))

    def index_of(self) -> dict[int, int]:
        """Return the number of each region that is left; a merged one has that of its first."""
        left, found = [n for n in self.regions.names if n != BACKGROUND], {}
        for number, name in zip(self.numbers, self.names, strict=True):
            k = len(found)
            if k < len(left) and (left[k] == name or left[k].startswith(f"{name}+")):
                found[k] = number
        return found


def read_psf(words: Sequence[str], affine: Floats) -> list[Kernel]:
    """Return the kernels that ``--psf`` names.

    Parameters
    ----------
    words
        One or three numbers [mm], or a file.
    affine
        Of the image, shape (4, 4).

    Returns
    -------
    kernels
        One for all, or one for each region.

    Raises
    ------
    UserError
        If it is neither.

    Examples
    --------
    >>> read_psf(["6", "6", "5"], np.eye(4))[0].fwhm.tolist()
    [6.0, 6.0, 5.0]
    """
    try:
        widths = [float(word) for word in words]
    except ValueError:
        path = Path(words[0])
        if len(words) > 1 or not path.is_file():
            raise UserError(
                f"--psf {' '.join(words)}: neither numbers nor a file; accepted: one or three "
                "numbers [mm], or a NIfTI file"
            ) from None
        return list(load_kernels(path, affine))
    if len(widths) not in {1, 3}:
        raise UserError(f"--psf: {len(widths)} numbers; accepted: one or three [mm]")
    return [GaussianKernel(widths)]


def read_names(path: Path | None, numbers: Sequence[int]) -> list[str]:
    """Return the names of regions.

    Parameters
    ----------
    path
        TSV with columns index and name; None for the numbers themselves.
    numbers
        Of the regions.

    Returns
    -------
    names
        In the order of the numbers.

    Raises
    ------
    UserError
        If the file lacks a column or a number, or two names are the same.
    """
    if path is None:
        return [str(n) for n in numbers]
    if not path.is_file():
        raise UserError(f"{path}: does not exist; accepted: a TSV with columns index and name")
    with path.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened, delimiter="\t"))
    if not rows or not {"index", "name"} <= set(rows[0]):
        raise UserError(f"{path}: no columns index and name; accepted: a TSV that has both")
    table = {row["index"].strip(): row["name"].strip() for row in rows}
    missing = [n for n in numbers if str(n) not in table]
    if missing:
        raise UserError(f"{path}: no name for region {missing[0]}; accepted: one for each region")
    names = [table[str(n)] for n in numbers]
    twice = [name for name in names if names.count(name) > 1 or name == BACKGROUND]
    if twice:
        raise UserError(
            f"{path}: the name '{twice[0]}' is taken twice or stands for what is missing to one; "
            "accepted: different names"
        )
    return names


def load_problem(options: argparse.Namespace) -> _Problem:
    """Read image, regions and kernels.

    Parameters
    ----------
    options
        Of the command line.

    Returns
    -------
    problem
        Regions on the grid of the image.

    Raises
    ------
    UserError
        If a file does not exist, or options make no sense.
    ValueError
        If a file cannot be used.
    """
    for path in (options.image, options.fractions):
        if not path.is_file():
            raise UserError(f"{path}: does not exist; accepted: a NIfTI file")
    image, affine = load_finite_image(options.image)
    image = np.ascontiguousarray(image)
    kernels = read_psf(options.psf, affine)
    found = RegionImage(options.fractions)
    found.check_overlap(affine, image.shape)
    names = read_names(options.names, found.numbers)
    try:
        regions, normalization = _regions(found, image.shape, affine, kernels, names)
    except ValueError as error:
        raise UserError(f"{options.fractions}: {error}") from error
    every = kernels_of_all(kernels, len(names))
    return _Problem(image, affine, regions, every, found.numbers, names, normalization)


def _regions(
    found: RegionImage,
    shape: tuple[int, ...],
    affine: Floats,
    kernels: Sequence[Kernel],
    names: Sequence[str],
) -> tuple[ReducedRegions | SampledRegions, Normalization]:
    """Return regions on the grid of the image, sampled finely where its voxels are large."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    grid = FineGrid.around(affine, shape, kernels)
    own, there = found.on_grid(affine, shape), (affine, shape)
    cut = grid.factor > 1 and not own
    if cut:
        there = (grid.affine, grid.shape)
    unchanged = Normalization(1.0, 0, 0)
    if found.labels is not None:
        labels = found.labels if own else found.sampled_labels(*there)
        parts, change = parts_of_labels(labels, found.numbers, names), unchanged
    else:
        volumes = found.volumes() if own else found.sampled(*there)
        parts, change = parts_of_fractions(volumes, names)
    if cut:
        return sampled_regions(parts, grid, spacing, kernels, names), change
    return ReducedRegions(parts, shape, spacing, kernels, names), change


def estimate_noise(problem: _Problem, values: Floats, given: Floats | None) -> ImageNoise | None:
    """Return the noise of the image, from what regions do not explain.

    Parameters
    ----------
    problem
        Image and regions.
    values
        Of the regions.
    given
        Noise SD where it is known, shape (nx, ny, nz).

    Returns
    -------
    noise
        None where the regions explain all.
    """
    regions, image = problem.regions, problem.image
    try:
        if isinstance(regions, ReducedRegions):
            return regions.residual_noise(image, values, given)
        ours = np.array([float(n != BACKGROUND) for n in regions.names])
        residual = image - regions.shown(values)
        lag = LONGEST_LAG * problem.fwhm / problem.spacing
        level, spectrum = residual_correlation(residual, regions.composed(ours), lag, image.shape)
    except ValueError:
        return None
    return ImageNoise(np.full_like(image, level) if given is None else given, spectrum)


def read_noise(word: str | None, problem: _Problem) -> Floats | None:
    """Return the noise SD that ``--noise-sd`` names.

    Parameters
    ----------
    word
        A number, a file, or None.
    problem
        The image, whose grid the file must have.

    Returns
    -------
    noise_sd
        Shape (nx, ny, nz), or None.

    Raises
    ------
    UserError
        If it is no positive number and no file on the grid of the image.
    """
    if word is None:
        return None
    try:
        noise_sd = np.full(problem.image.shape, float(word), np.float32)
    except ValueError:
        noise_sd, affine = load_finite_image(word)
        there = noise_sd.shape == problem.image.shape
        if not (there and np.allclose(affine, problem.affine, atol=1e-2)):
            raise UserError(
                f"{word}: another grid than the image's; accepted: the same grid"
            ) from None
    if not (np.isfinite(noise_sd).all() and noise_sd.min() > 0):
        raise UserError(
            f"--noise-sd {word}: from {noise_sd.min():.3g} to {noise_sd.max():.3g}; accepted: "
            "above 0 everywhere"
        )
    return np.ascontiguousarray(noise_sd)


class _Correction:
    """All that is computed for one problem."""

    def __init__(self, problem: _Problem, options: argparse.Namespace) -> None:
        self.options = options
        image, regions = problem.image, problem.regions
        first = gtm(image, regions, None)
        given = read_noise(options.noise_sd, problem)
        self.noise = estimate_noise(problem, first.values, given)
        self.estimates: dict[str, RegionalEstimate] = {}
        self.remarks: list[str] = []
        if options.merge_entangled and self.noise is not None:
            method = REGIONAL[options.values_from]
            regions, estimate = merge_entangled(image, regions, self.noise, method)
            problem = replace(problem, regions=regions)
            self.estimates[options.values_from] = estimate
        self.problem = problem
        asked = dict.fromkeys(["none", *options.method])
        self.results = {method: self._corrected(method) for method in asked}

    @property
    def regions(self) -> ReducedRegions | SampledRegions:
        return self.problem.regions

    def estimate(self, method: str) -> RegionalEstimate:
        if method not in self.estimates:
            correct = REGIONAL[method]
            self.estimates[method] = correct(self.problem.image, self.regions, self.noise)
        return self.estimates[method]

    def _nothing(self) -> Floats:
        return np.full(len(self.regions.names), np.nan)

    def _corrected(self, method: str) -> _Result:
        image, regions = self.problem.image, self.regions
        if method == "none":
            return self._uncorrected()
        if method in REGIONAL:
            found = self.estimate(method)
            return _Result(found.values, _sd(found.covariance), found)
        setup = self._setup(method)
        made = correct(method, image, regions, self.noise, setup)
        self.remarks += made.remarks
        return _Result(made.values, self._uncertainty(method, made, setup), None, made.image,
                       self._told(method, made, setup))  # fmt: skip

    def _uncertainty(self, method: str, made: Correction, setup: Setup) -> Floats:
        """Return the SD of a map's regional values."""
        noise, regions = self.noise, self.regions
        if noise is None or (method in BY_DRAWS and not setup.draws):
            return self._nothing()
        if method == "vc" and isinstance(regions, ReducedRegions):
            noise = _with_room(noise, regions.grid.spacing)
            x, y, z = noise.spectrum.shape
            box = (x // 2, y // 2, z - 1)
            transfer = doubled_transfer(self.problem.kernels[0], box, regions.grid.spacing)
            setup = replace(setup, transfer=transfer)
        return _sd(noise_of(method, made, self.problem.image, regions, noise, setup).covariance)

    def _setup(self, method: str) -> Setup:
        problem, (target, fluid) = self.problem, self.options.mg_target
        x, y, z = NEIGHBOURHOOD * problem.fwhm / problem.spacing
        return Setup(
            target=target,
            fluid=fluid,
            local=[name for name in self.regions.names if name != BACKGROUND],
            neighbourhood=(x, y, z),
            transfer=self._one_kernel(method) if method in DECONVOLUTIONS else None,
            negative_as_zero=self.options.negative_as_zero,
            feed=self.options.values_from,
            draws=self.options.draws,
        )

    def _one_kernel(self, method: str) -> Complexes:
        kernels = self.problem.kernels
        if any(k is not kernels[0] for k in kernels):
            raise UserError(f"--method {method}: one kernel for the whole image is needed")
        return doubled_transfer(kernels[0], self.problem.image.shape, self.problem.spacing)

    def _told(self, method: str, made: Correction, setup: Setup) -> dict[str, Any]:
        """Return what the JSON file says of a map."""
        told: dict[str, Any] = {}
        if method == "mg":
            told |= {"Target": setup.target, "Fluid": setup.fluid}
        elif method not in DECONVOLUTIONS:
            told["ValuesFrom"] = setup.feed
        if method == "regression":
            told["NeighbourhoodFWHM"] = (NEIGHBOURHOOD * self.problem.fwhm).tolist()
        names = {"n_excepted": "ExceptedVoxels", "iterations": "Iterations",
                 "converged": "Converged", "n_negative": "NegativeVoxelsTakenAsZero"}  # fmt: skip
        held = {key: getattr(made.made, name) for name, key in names.items()
                if hasattr(made.made, name)}  # fmt: skip
        if self.noise is not None:
            told["Uncertainty"] = _origin(method, setup)
        return told | held

    def _uncorrected(self) -> _Result:
        sd = self._nothing()
        if self.noise is not None:
            mixing = mixing_matrix(self.regions)
            sd = _sd(mixing @ self.estimate("gtm").covariance @ mixing.T)
        return _Result(region_means(self.problem.image, self.regions), sd)

    def sensitivity(self) -> dict[str, dict[str, Floats]]:
        """Return by method and column how values change, shape (regions,)."""
        regions, image, spacing = self.regions, self.problem.image, self.problem.spacing
        if isinstance(regions, ReducedRegions):
            spacing = regions.grid.spacing
            regions, image = regions.sampled(image)
        return {
            name: _changes(REGIONAL[name], image, regions, spacing, self.problem)
            for name in self.results if name in REGIONAL
        }  # fmt: skip


def _with_room(noise: ImageNoise, spacing: Floats) -> ImageNoise:
    """Return the same noise with its spectrum on a larger box."""
    x, y, z = noise.spectrum.shape
    correlation = ImageKernel.of_transfer(noise.spectrum, spacing)
    box = (ROOM * x // 2, ROOM * y // 2, ROOM * (z - 1))
    return replace(noise, spectrum=doubled_transfer(correlation, box, spacing).real)


def _origin(method: str, setup: Setup) -> str | None:
    """Return in words where an uncertainty comes from; None where there is none."""
    if method not in BY_DRAWS:
        return "noise propagated to first order"
    return f"{draws_of(method, setup)} draws of the noise" if setup.draws else None


def _sd(covariance: Floats) -> Floats:
    return np.sqrt(np.maximum(np.diag(covariance), 0))  # rounding may go below; nan stays


def _changes(
    method: Method, image: Floats, regions: SampledRegions, spacing: Floats, problem: _Problem
) -> dict[str, Floats]:
    """Return what misregistration, kernel and borders do to the values of a method."""

    def values(seen: Floats, there: SampledRegions) -> Floats:
        return method(seen, there, None).values

    shift = POSITION_ERROR / spacing
    width = kernel_change(values, image, regions, problem.fwhm / spacing, PSF_ERROR)
    pairs = np.argwhere(np.triu(regions.overlap(), 1) > TOUCHING)
    made = {id(k): doubled_transfer(k, regions.shape, spacing) for k in problem.kernels}
    n = len(regions.names)
    transfers = [made[id(k)] for k in [*problem.kernels[: n - 1], problem.kernels[-1]]]
    step = SEGMENTATION_ERROR / float(np.mean(spacing))
    borders = []
    for i, j in pairs:
        taken = layer_at_border(regions.fractions[i], regions.fractions[j], step)
        shown = [blur(taken, transfers[k]) for k in (i, j)]
        borders.append([MovedBorder(int(i), int(j), taken, *shown)])
    moved = segmentation_changes(values, image, regions, borders)
    placed = shift_changes(partial(values, there=regions), image, shift)
    effects = (np.linalg.norm(placed, axis=0), width, np.linalg.norm(moved, axis=0))
    return dict(zip(SENSITIVITY, effects, strict=True))


def table_rows(correction: _Correction) -> list[dict[str, Any]]:
    """Return the rows of the table, one for each method and region.

    Parameters
    ----------
    correction
        What was computed.

    Returns
    -------
    rows
        By column name.
    """
    regions, problem = correction.regions, correction.problem
    more = correction.sensitivity() if correction.options.sensitivity else {}
    voxel = float(np.prod(problem.spacing)) * 1e-3
    flags = _flags(correction)
    rows = []
    for method, found in correction.results.items():
        for k, number in problem.index_of().items():
            row: dict[str, Any] = {
                "index": number,
                "name": regions.names[k],
                "pvc": method,
                "mean": found.values[k],
                "uncertainty": found.uncertainty[k],
                "residual_sd": found.estimate.residual_sd[k] if found.estimate else np.nan,
                "n_voxels": regions.sizes[k],
                "volume_ml": regions.sizes[k] * voxel,
            }
            if more:
                changes = more.get(method, {})
                row |= {name: changes[name][k] if changes else np.nan for name in SENSITIVITY}
            rows.append(row | {"flag": flags.get(k, "n/a")})
    return rows


def _flags(correction: _Correction) -> dict[int, str]:
    """Name regions that are smaller than the kernel, or entangled with another one."""
    regions, problem = correction.regions, correction.problem
    smallest = float(np.prod(problem.fwhm / problem.spacing))
    found = {k: ["smaller_than_psf"] for k, size in enumerate(regions.sizes) if size < smallest}
    for estimate in correction.estimates.values():
        for i, j in entangled_pairs(estimate.covariance):
            for own, other in ((i, j), (j, i)):
                word = f"entangled with {regions.names[other]}"
                found.setdefault(own, [])
                found[own] += [word] * (word not in found[own])
    return {k: ", ".join(words) for k, words in found.items()}


def describe(correction: _Correction, remarks: Sequence[str]) -> dict[str, Any]:
    """Return what was used, for the JSON file.

    Parameters
    ----------
    correction
        What was computed.
    remarks
        Warnings on the way.

    Returns
    -------
    described
        In the words of the file.
    """
    problem, regions, options = correction.problem, correction.regions, correction.options
    change = problem.normalization
    described: dict[str, Any] = {
        "Image": str(options.image),
        "Fractions": str(options.fractions),
        "PSF": {
            "Given": " ".join(options.psf),
            "FWHM": [k.fwhm.round(4).tolist() for k in dict.fromkeys(problem.kernels)],
            "Units": "mm",
        },
        "WorkVoxelSize": (
            regions.grid.spacing if isinstance(regions, ReducedRegions) else problem.spacing
        ).round(4).tolist(),
        "BeyondFieldOfView": "the nearest voxel continues"
        if isinstance(regions, ReducedRegions)
        else "regions as far as FRACTIONS reaches, then background",
        "Normalization": {
            "LargestSum": change.largest_sum,
            "ScaledVoxels": change.scaled_voxels,
            "ClippedValues": change.clipped_values,
        },
        "Background": {
            name: float(found.values[-1])
            for name, found in correction.results.items()
            if BACKGROUND in regions.names and np.isfinite(found.values[-1])
        },
        "ConditionNumber": {
            name: found.condition_number for name, found in correction.estimates.items()
        },
        "Noise": _noise_told(correction),
        "Methods": {name: found.told for name, found in correction.results.items()},
        "Warnings": [*_warnings(problem), *remarks],
    }  # fmt: skip
    if options.sensitivity:
        described["Columns"] = SENSITIVITY
    return described


def _noise_told(correction: _Correction) -> dict[str, Any]:
    if correction.noise is None:
        return {"SD": None, "Source": "the regions explain the image: no noise can be read"}
    given = correction.options.noise_sd
    return {
        "SD": float(np.mean(correction.noise.noise_sd)),
        "Source": "residual of gtm" if given is None else str(given),
        "Correlation": "residual of gtm",
    }


def _warnings(problem: _Problem) -> list[str]:
    change, found = problem.normalization, []
    if change.scaled_voxels:
        found.append(
            f"fractions summed to up to {change.largest_sum:.4f}: scaled down to 1 in "
            f"{change.scaled_voxels} voxels"
        )
    if change.clipped_values:
        found.append(f"{change.clipped_values} fractions lay less than 1e-3 outside [0, 1]")
    if BACKGROUND not in problem.regions.names:
        found.append("the fractions sum to one everywhere: there is no background region")
    return found


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return f"{value:.7g}" if np.isfinite(value) else "n/a"


def _outputs(options: argparse.Namespace) -> dict[str, Path]:
    """Return the names of what is written, and refuse those that cannot be."""
    prefix = options.prefix
    if not prefix.name or not prefix.resolve().parent.is_dir():
        raise UserError(f"{prefix}: its folder does not exist; accepted: FOLDER/NAME")
    maps = [m for m in dict.fromkeys(options.method) if m in MAPS]
    names = {m: prefix.with_name(f"{prefix.name}_pvc-{m}.nii.gz") for m in maps}
    if options.residual_map:
        names["residual"] = prefix.with_name(f"{prefix.name}_residual.nii.gz")
    names["json"] = prefix.with_name(f"{prefix.name}_regions.json")
    names["tsv"] = prefix.with_name(f"{prefix.name}_regions.tsv")
    for path in names.values():
        for given in (options.image, options.fractions):
            if path.exists() and given.exists() and path.samefile(given):
                raise UserError(f"{path}: is an input; accepted: another OUT_PREFIX")
    return names


def _write(names: Mapping[str, Path], correction: _Correction, remarks: Sequence[str]) -> None:
    """Write all files under other names, then move them: all or nothing."""
    rows, described = table_rows(correction), describe(correction, remarks)
    drafts = {key: path.with_name(f".draft_{path.name}") for key, path in names.items()}
    try:
        for method, found in correction.results.items():
            if method in drafts and found.image is not None:
                save_image(drafts[method], found.image, correction.problem.affine)
        if "residual" in drafts:
            save_image(drafts["residual"], _residual(correction), correction.problem.affine)
        drafts["json"].write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        lines = [list(rows[0]), *([_cell(v) for v in row.values()] for row in rows)]
        text = "".join("\t".join(line) + "\n" for line in lines)
        drafts["tsv"].write_text(text, encoding="utf-8")
        for key, path in names.items():
            drafts[key].replace(path)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def _residual(correction: _Correction) -> Floats:
    values = correction.estimate(correction.options.values_from).values
    return correction.problem.image - correction.regions.shown(values)


def run(options: argparse.Namespace) -> str:
    """Correct an image and write table and maps.

    Parameters
    ----------
    options
        Of the command line.

    Returns
    -------
    summary
        What was written, one line.

    Raises
    ------
    UserError
        If paths or options make no sense.
    ValueError
        If a file cannot be used, or the regions cannot be told apart.
    """
    if options.draws and options.draws < LEAST_DRAWS:
        raise UserError(f"--draws {options.draws}; accepted: {LEAST_DRAWS} or more, or 0 for none")
    names = _outputs(options)
    problem = load_problem(options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        correction = _Correction(problem, options)
        remarks = [*correction.remarks, *(str(w.message) for w in caught)]
        _write(names, correction, remarks)
    for remark in [*_warnings(correction.problem), *remarks]:
        print(f"sodiumprep-pvc: warning: {remark}", file=sys.stderr)
    conditions = [f"{n} {e.condition_number:.3g}" for n, e in correction.estimates.items()]
    return (
        f"{names['tsv']}: {len(problem.names)} regions; condition number {', '.join(conditions)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv
        Arguments; those of the process if None.

    Returns
    -------
    code
        0, or 2 if nothing was written.
    """
    options = build_parser().parse_args(argv)
    try:
        print(run(options))
    except (UserError, ValueError, OSError) as error:
        print(f"sodiumprep-pvc: error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return 0
