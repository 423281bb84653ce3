"""Regions on the grid of the sodium image: sampled once, blurred by each tissue's kernel."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from sodiumprep.interfaces.eyes import OF_FLUID, eyes_from, sodium_to_anatomy
from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.interfaces.lesions import load_lesion
from sodiumprep.interfaces.reconstruct import load_response
from sodiumprep.interfaces.registration import read_transform
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.eyes import ORBIT, eye_regions
from sodiumprep.sodium.lesions import lesion_remarks
from sodiumprep.sodium.pvc.parcels import Layer
from sodiumprep.sodium.pvc.sensitivity import moved_borders
from sodiumprep.sodium.regions import (
    TISSUES,
    background_regions,
    blur_by_each,
    blur_to_grid,
    carve_lesions,
    coverage,
    fine_affine,
    subdivision,
    taken_by_lesions,
    vial_fractions,
    voxel_means,
)
from sodiumprep.sodium.relaxation import DECAYING, VITREOUS, moved_name

BORDERED = ("tissue", "reference")  # kinds of regions, the first, whose borders may err
TOUCHING_ML = 0.1  # of vials inside the brain, what resampling may make of them


class SampleRegionsInput(BaseInterfaceInputSpec):
    """What regions are sampled from."""

    sodium_file = File(exists=True, mandatory=True, desc="sodium image; its grid is taken")
    xfm_file = File(exists=True, mandatory=True, desc="points of the anatomy to points of sodium")
    gm_file = File(exists=True, mandatory=True, desc="grey-matter fraction")
    wm_file = File(exists=True, mandatory=True, desc="white-matter fraction")
    csf_file = File(exists=True, mandatory=True, desc="CSF fraction")
    brain_mask = File(exists=True, mandatory=True, desc="mask of the brain")
    head_mask = File(exists=True, mandatory=True, desc="mask of the head")
    lesion_files = traits.Dict(usedefault=True, desc="lesion masks by class, in anatomical space")
    vial_labels = traits.Either(
        None, File(exists=True), desc="label image of the vials; None for no vials"
    )
    vial_space = traits.Enum("sodium", "T1w", usedefault=True, desc="space of the vial labels")
    vial_names = traits.List(traits.Str, usedefault=True, desc="vial n carries label n")
    eyes = traits.Dict(usedefault=True, desc="centres, radii [mm], forward; empty: none")


class _BlurRegionsInput(SampleRegionsInput):
    response_file = File(exists=True, mandatory=True, desc="transfer functions (npz)")
    static_response_file = File(
        exists=True, desc="those of the image that vials are read from (npz); the same without"
    )
    keep_fine = traits.Bool(
        False, usedefault=True, desc="also write what atlases divide: tissues before blurring"
    )
    keep_anatomy = traits.Bool(
        False, usedefault=True, desc="also write the fractions on the grid of the anatomy"
    )
    border_shift = traits.Float(
        0.0, usedefault=True, desc="also tell what borders moved by this would hand over [mm]"
    )


class _RegionsOutput(TraitedSpec):
    regions_file = File(
        exists=True,
        desc="names, kinds, fractions, blurred fractions, vials blurred in the static image (npz)",
    )


class _SampleRegionsOutput(_RegionsOutput):
    anatomy_file = traits.Either(
        None, File(exists=True), desc="fractions of tissues and lesions, anatomical grid (npz)"
    )
    fine_file = traits.Either(
        None, File(exists=True), desc="tissues and moved borders on the fine sodium grid (npz)"
    )


class SampleRegions(SimpleInterface):
    """Bring tissues, lesions, vials and background to the sodium grid, and blur them."""

    input_spec = _BlurRegionsInput
    output_spec = _SampleRegionsOutput

    def _run_interface(self, runtime: Any) -> Any:
        sampled = sample_all(self.inputs)
        factor, grid, everything = sampled.factor, sampled.grid, sampled.regions
        response = load_response(self.inputs.response_file)
        self._results["anatomy_file"] = self._kept(sampled.carved, Path(runtime.cwd))
        vials = {n: f for n, f in everything.items() if sampled.kinds[n] == "vial"}
        n_bordered = count_bordered(sampled.kinds.values())
        transfers = [response.transfers[k] for k in kernel_names(everything, response.transfers)]
        shift = self.inputs.border_shift / float(np.mean(grid.spacing))
        layers: list[Layer] | None = [] if self.inputs.keep_fine else None
        fine = list(everything.values())
        np.savez(
            Path(runtime.cwd) / "regions.npz",
            **_shown_borders(fine, n_bordered, shift, factor, transfers, layers),
            static_blurred=_static_blurred(self.inputs, vials, factor),
            names=list(everything),
            kinds=list(sampled.kinds.values()),
            volumes_ml=sampled.volumes_ml,
            coverage=sampled.coverage,
            remarks=sampled.remarks,
            **_shown_decays(everything, factor, response.transfers),
            fractions=np.stack([voxel_means(f, factor) for f in everything.values()]),
            blurred=np.stack([
                blur_to_grid(fine, factor, transfer)
                for fine, transfer in zip(everything.values(), transfers, strict=True)
            ]),
        )  # fmt: skip
        self._results["regions_file"] = str(Path(runtime.cwd) / "regions.npz")
        self._results["fine_file"] = None
        if layers is not None:
            path = Path(runtime.cwd) / "fine.npz"
            self._results["fine_file"] = save_fine(path, sampled, layers)
        return runtime

    def _kept(self, carved: dict[str, Floats], folder: Path) -> str | None:
        if not self.inputs.keep_anatomy:
            return None
        path = folder / "anatomy.npz"
        np.savez(path, names=list(carved), fractions=np.stack(list(carved.values())))
        return str(path)


def count_bordered(kinds: Iterable[str]) -> int:
    """Return how many regions, which come first, have borders of their own that may err.

    Parameters
    ----------
    kinds
        Of all regions.
    """
    return sum(kind in BORDERED for kind in kinds)


def kernel_names(regions: Iterable[str], known: Container[str]) -> list[str]:
    """Return whose kernel each region has.

    Parameters
    ----------
    regions
        Names of all, air last.
    known
        What has a kernel of its own.
    """
    own = [OF_FLUID if name == VITREOUS else name for name in regions]
    kernels = [name if name in known else "muscle" for name in own]
    kernels[-1] = "CSF"  # air holds no signal: any kernel will do
    return kernels


@dataclass(frozen=True)
class FineRegions:
    """What atlases divide: tissues before they are blurred.

    Parameters
    ----------
    tissues
        Fraction of GM, WM and CSF by name on the fine sodium grid.
    carved
        The same on the grid of the anatomy.
    anatomy
        Affine of that grid.
    grid
        The fine grid.
    factor
        Fine voxels along the edge of a sodium voxel.
    transform
        Maps points of the anatomy to points of sodium, shape (4, 4) [mm, LPS].
    layers
        What regions take from their neighbours where borders are moved.
    taken
        How much of each tissue each lesion took, by lesion and tissue [voxels of the anatomy].
    """

    tissues: dict[str, Floats]
    carved: dict[str, Floats]
    anatomy: Floats
    grid: FineGrid
    factor: int
    transform: Floats
    layers: list[Layer]
    taken: dict[str, dict[str, float]]


def save_fine(path: Path, sampled: SampledAnatomy, borders: Sequence[Layer]) -> str:
    """Write what :func:`load_fine` reads.

    Parameters
    ----------
    path
        ``.npz`` file.
    sampled
        All regions on the fine grid.
    borders
        Moved ones.
    """
    ends = np.cumsum([len(layer.where) for layer in borders], dtype=np.int64)
    places = [layer.where for layer in borders] or [np.zeros(0, np.int32)]
    shares = [layer.share for layer in borders] or [np.zeros(0, np.float32)]
    lesions = {name: f.ravel() for name, f in sampled.carved.items() if name not in TISSUES}
    inside = {name: np.flatnonzero(fraction) for name, fraction in lesions.items()}
    np.savez(
        path,
        tissues=np.stack([sampled.regions[name] for name in TISSUES]),
        lesions=list(lesions),
        taken=[[sampled.taken[name][t] for t in TISSUES] for name in lesions],
        **{f"where_{k}": where for k, where in enumerate(inside.values())},
        **{f"share_{k}": lesions[name][where] for k, (name, where) in enumerate(inside.items())},
        carved=np.stack([sampled.carved[name] for name in TISSUES]),
        anatomy=sampled.anatomy,
        affine=sampled.grid.affine,
        factor=sampled.factor,
        transform=sampled.transform,
        grown=[layer.grown for layer in borders],
        shrunk=[layer.shrunk for layer in borders],
        ends=ends,
        where=np.concatenate(places),
        share=np.concatenate(shares),
    )
    return str(path)


def load_fine(path: Path | str) -> FineRegions:
    """Read the tissues and moved borders that atlases divide.

    Parameters
    ----------
    path
        What :class:`SampleRegions` wrote with ``keep_fine``.
    """
    with np.load(path) as stored:
        tissues, carved = stored["tissues"], stored["carved"]
        parts = (np.split(stored[name], stored["ends"][:-1]) for name in ("where", "share"))
        ends = zip(stored["grown"].tolist(), stored["shrunk"].tolist(), strict=True)
        layers = [
            Layer(grown, shrunk, where, share)
            for (grown, shrunk), where, share in zip(ends, *parts, strict=False)
        ]
        return FineRegions(
            dict(zip(TISSUES, tissues, strict=True)),
            dict(zip(TISSUES, carved, strict=True)),
            stored["anatomy"],
            FineGrid(stored["affine"], tissues.shape[1:]),
            int(stored["factor"]),
            stored["transform"],
            layers,
            {
                name: dict(zip(TISSUES, row, strict=True))
                for name, row in zip(
                    stored["lesions"].tolist(), stored["taken"].tolist(), strict=True
                )
            },
        )


@dataclass(frozen=True)
class CarvedAnatomy:
    """Lesions and brain on the grid of the anatomy.

    Parameters
    ----------
    lesions
        Fraction by class, shape (nx, ny, nz).
    brain
        Sum of tissues and lesions, same shape.
    affine
        Of the grid.
    """

    lesions: dict[str, Floats]
    brain: Floats
    affine: Floats

    @property
    def spacing(self) -> Floats:
        """Voxel edges, shape (3,) [mm]."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def lesion(self) -> Floats:
        """Fraction of all lesions."""
        return np.asarray(sum(self.lesions.values(), np.zeros_like(self.brain)))


def load_carved(path: Path | str) -> CarvedAnatomy:
    """Read lesions and brain on the grid of the anatomy.

    Parameters
    ----------
    path
        What :class:`SampleRegions` wrote with ``keep_fine``.
    """
    with np.load(path) as stored:
        brain = stored["carved"].sum(axis=0)
        lesions = {}
        for k, name in enumerate(stored["lesions"].tolist()):
            lesions[name] = np.zeros_like(brain)
            lesions[name].ravel()[stored[f"where_{k}"]] = stored[f"share_{k}"]
        brain += sum(lesions.values(), np.zeros_like(brain))
        return CarvedAnatomy(lesions, brain, stored["anatomy"])


def _shown_borders(
    fine: list[Floats],
    n_bordered: int,
    shift: float,
    factor: int,
    transfers: list[Floats],
    layers: list[Layer] | None,
) -> dict[str, Any]:
    """Return what bordered regions would take from their neighbours, as arrays to store.

    The layers themselves are added to ``layers``, unless it is None.
    """
    moved = []
    for border in moved_borders(fine, n_bordered, shift):
        kernels = [transfers[k] for k in (border.grown, border.shrunk)]
        coarse, shown = (
            voxel_means(border.taken, factor),
            blur_by_each(border.taken, factor, kernels),
        )
        moved.append((border.grown, border.shrunk, coarse, *shown))
        if layers is not None:
            layers.append(Layer.of(border))
    fields = ("grown", "shrunk", "taken", "shown_grown", "shown_shrunk")
    columns = zip(*moved, strict=True) if moved else [[] for _ in fields]
    return {f"border_{name}": list(column) for name, column in zip(fields, columns, strict=True)}


def _shown_decays(
    fine: Mapping[str, Floats], factor: int, transfers: Mapping[str, Floats]
) -> dict[str, Any]:
    """Return regions as kernels of moved constants show them, as arrays to store."""
    of: list[tuple[int, int]] = []
    blurred: list[Floats] = []
    for k, (name, fraction) in enumerate(fine.items()):
        names = {c: moved_name(name, constant) for c, constant in enumerate(DECAYING)}
        known = {c: transfers[moved] for c, moved in names.items() if moved in transfers}
        of += [(k, c) for c in known]
        blurred += blur_by_each(fraction, factor, list(known.values())) if known else []
    return {"decay_of": of, "decay_blurred": blurred}


class FineGrid:
    """The sodium grid with its voxels cut, on which images are sampled once.

    Parameters
    ----------
    affine
        Voxel index to position, shape (4, 4) [mm].
    shape
        Of the fine grid.
    """

    def __init__(self, affine: Floats, shape: tuple[int, ...]) -> None:
        self.affine, self.shape = affine, shape
        self.spacing = np.linalg.norm(affine[:3, :3], axis=0)

    def sample(
        self, values: Floats, own_affine: Floats, transform: Floats, order: int = 1
    ) -> Floats:
        """Resample an image whose points ``transform`` maps to sodium space."""
        back = index_map(self.affine, own_affine, np.linalg.inv(transform))
        return resample(values, back, self.shape, order)


@dataclass(frozen=True)
class SampledAnatomy:
    """All regions on the fine sodium grid.

    Parameters
    ----------
    regions
        Fraction by name: tissues, lesions, eyes, vials, background; air comes last.
    kinds
        ``tissue``, ``reference``, ``vial`` or ``background``, by name.
    volumes_ml, coverage
        Of tissues and lesions.
    remarks
        What a reader must know of the lesions.
    carved
        Tissues and lesions on the grid of the anatomy.
    anatomy
        Affine of that grid.
    factor
        Fine voxels along the edge of a sodium voxel.
    grid
        The fine grid.
    transform
        Maps points of the anatomy to points of sodium, shape (4, 4) [mm, LPS].
    taken
        How much of each tissue each lesion took [voxels of the anatomy].
    """

    regions: dict[str, Floats]
    kinds: dict[str, str]
    volumes_ml: list[float]
    coverage: list[float]
    remarks: list[str]
    carved: dict[str, Floats]
    anatomy: Floats
    factor: int
    grid: FineGrid
    transform: Floats
    taken: dict[str, dict[str, float]]


def sample_all(inputs: Any) -> SampledAnatomy:
    """Bring tissues, lesions, vials and background to the fine sodium grid.

    Parameters
    ----------
    inputs
        Of :class:`SampleRegions`.

    Returns
    -------
    sampled
        Not blurred.
    """
    sodium, affine = load_finite_image(inputs.sodium_file)
    factor = subdivision(np.linalg.norm(affine[:3, :3], axis=0))
    grid = FineGrid(fine_affine(affine, factor), tuple(n * factor for n in sodium.shape))
    transform = read_transform(inputs.xfm_file)
    carved, own_affine, remarks, taken = _carved(inputs)
    brain, volumes, covered = _brain_regions(carved, own_affine, grid, transform)
    vials = _vials(inputs, grid, transform)
    brain = _beside(vials, brain, inputs, grid)
    eyes, around = _eyes(inputs, grid, transform, {**brain, **vials})
    background = around | _background(
        inputs, grid, transform, {**brain, **eyes, **vials, **around}
    )
    parts = {"tissue": brain, "reference": eyes, "vial": vials, "background": background}
    kinds = {name: kind for kind, some in parts.items() for name in some}
    everything = {name: values for some in parts.values() for name, values in some.items()}
    return SampledAnatomy(
        everything, kinds, volumes, covered, remarks, carved, own_affine, factor, grid, transform,
        taken,
    )  # fmt: skip


def _carved(
    inputs: Any,
) -> tuple[dict[str, Floats], Floats, list[str], dict[str, dict[str, float]]]:
    """Return fractions on the grid of the anatomy, its affine, remarks, what lesions took."""
    paths = dict(zip(TISSUES, (inputs.gm_file, inputs.wm_file, inputs.csf_file), strict=True))
    loaded = {name: load_finite_image(path) for name, path in paths.items()}
    affine = loaded["GM"][1]
    own = {name: values for name, (values, _) in loaded.items()}
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1e3
    lesions, remarks = _lesions(inputs, affine, own["GM"].shape, voxel_ml)
    carved = carve_lesions(own, lesions)
    return carved, affine, remarks, taken_by_lesions(own, carved)


def _brain_regions(
    carved: dict[str, Floats], affine: Floats, grid: FineGrid, transform: Floats
) -> tuple[dict[str, Floats], list[float], list[float]]:
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1e3
    sampled = {name: grid.sample(values, affine, transform) for name, values in carved.items()}
    volumes = [float(values.sum(dtype=np.float64)) * voxel_ml for values in carved.values()]
    fine_ml = abs(np.linalg.det(grid.affine[:3, :3])) / 1e3
    inside = [float(values.sum(dtype=np.float64)) * fine_ml for values in sampled.values()]
    covered = [coverage(i, v) for i, v in zip(inside, volumes, strict=True)]
    return sampled, volumes, covered


def _lesions(
    inputs: Any, affine: Floats, shape: tuple[int, ...], voxel_ml: float
) -> tuple[dict[str, Floats], list[str]]:
    """Return the lesion fractions on the grid of the anatomy, and what is to be said of them."""
    lesions = {}
    for name, path in inputs.lesion_files.items():
        fraction, own = load_lesion(path)
        lesions[name] = resample(fraction, index_map(affine, own, np.eye(4)), shape, 1)
    if not lesions:
        return {}, []
    brain, own = load_finite_image(inputs.brain_mask)
    inside = resample(brain, index_map(affine, own, np.eye(4)), shape, 1)
    try:
        return lesions, lesion_remarks(lesions, inside, voxel_ml)
    except ValueError as error:
        raise ValueError(f"{', '.join(map(str, inputs.lesion_files.values()))}: {error}") from None


def _vials(inputs: Any, grid: FineGrid, transform: Floats) -> dict[str, Floats]:
    if not isdefined(inputs.vial_labels) or inputs.vial_labels is None:
        return {}
    labels, affine = load_finite_image(inputs.vial_labels)
    pose = np.eye(4) if inputs.vial_space == "sodium" else transform
    sampled = grid.sample(labels, affine, pose, order=0)
    return vial_fractions(sampled, inputs.vial_names, str(inputs.vial_labels))


def _beside(
    vials: dict[str, Floats], regions: dict[str, Floats], inputs: Any, grid: FineGrid
) -> dict[str, Floats]:
    """Return brain regions without what vials take of them, which is next to nothing.

    Vials inside the brain tell of a position that is far off, or of labels of another image.

    Raises
    ------
    ValueError
        With the volume that belongs to both.
    """
    if not vials:
        return regions
    brain = sum(regions.values())
    shared = sum(float((brain * vial).sum(dtype=np.float64)) for vial in vials.values())
    shared_ml = shared * abs(np.linalg.det(grid.affine[:3, :3])) / 1e3
    if shared_ml > TOUCHING_ML:
        raise ValueError(
            f"{inputs.vial_labels}: {shared_ml:.1f} ml of the vials lie inside the brain; "
            f"accepted: at most {TOUCHING_ML:g} ml: is the position of the sodium image right "
            "(--na2anat-init), and are these its labels?"
        )
    left = 1 - np.clip(sum(vials.values()), 0, 1)
    return {name: values * left for name, values in regions.items()}


def _eyes(
    inputs: Any, grid: FineGrid, transform: Floats, others: dict[str, Floats]
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return the vitreous humour of both eyes and what lies close around them in the head.

    A sector of the scalp is too large for the fat around an eye, which holds hardly any sodium.
    """
    if not inputs.eyes:
        return {}, {}
    taken = sorted({VITREOUS, ORBIT} & set(others))
    if taken:
        raise ValueError(f"a region has the name '{taken[0]}'; that of the eyes is taken")
    place = sodium_to_anatomy(grid.affine, transform)
    vitreous, orbit = eye_regions(eyes_from(inputs.eyes), place, grid.shape)
    free = 1 - np.clip(sum(others.values()), 0, 1)
    vitreous = (vitreous * free).astype(np.float32)
    head = grid.sample(*load_finite_image(inputs.head_mask), transform)
    orbit = np.clip(np.minimum(orbit, free - vitreous), 0, 1) * (head > 0.5)
    around = {ORBIT: orbit.astype(np.float32)} if orbit.sum() > vitreous.sum() else {}
    return {VITREOUS: vitreous}, around


def _static_blurred(inputs: Any, vials: dict[str, Floats], factor: int) -> list[Floats]:
    """Return the vials as the image shows them in which they lie still."""
    given = inputs.static_response_file
    transfers = load_response(given if isdefined(given) else inputs.response_file).transfers
    kernels = [transfers[name if name in transfers else "muscle"] for name in vials]
    return [
        blur_to_grid(fine, factor, kernel)
        for fine, kernel in zip(vials.values(), kernels, strict=True)
    ]


def _background(
    inputs: Any, grid: FineGrid, transform: Floats, others: dict[str, Floats]
) -> dict[str, Floats]:
    brain, brain_affine = load_finite_image(inputs.brain_mask)
    head, head_affine = load_finite_image(inputs.head_mask)
    occupied = sum(others.values())
    sectors = background_regions(
        grid.sample(brain, brain_affine, transform),
        grid.sample(head, head_affine, transform),
        occupied,
        grid.spacing,
    )
    air = np.clip(1 - occupied - sum(sectors.values()), 0, 1)
    return {**sectors, "air": air.astype(np.float32)}


class _SampleDrawnInput(BaseInterfaceInputSpec):
    sodium_file = File(exists=True, mandatory=True, desc="sodium image; its grid is taken")
    response_file = File(exists=True, mandatory=True, desc="transfer functions (npz)")
    region_files = traits.Dict(usedefault=True, desc="file and label by region, in sodium space")
    vial_labels = File(exists=True, mandatory=True, desc="label image of the vials, sodium space")
    vial_names = traits.List(traits.Str, mandatory=True, desc="vial n carries label n")
    static_response_file = File(
        exists=True, desc="those of the image that vials are read from (npz); the same without"
    )


class SampleDrawnRegions(SimpleInterface):
    """Bring regions that were drawn in sodium space, and vials, to the grid of the image."""

    input_spec = _SampleDrawnInput
    output_spec = _RegionsOutput

    def _run_interface(self, runtime: Any) -> Any:
        sodium, affine = load_finite_image(self.inputs.sodium_file)
        factor = subdivision(np.linalg.norm(affine[:3, :3], axis=0))
        grid = FineGrid(fine_affine(affine, factor), tuple(n * factor for n in sodium.shape))
        transfers = load_response(self.inputs.response_file).transfers
        drawn, volumes, covered = _drawn(self.inputs.region_files, grid)
        labels, own = load_finite_image(self.inputs.vial_labels)
        sampled = grid.sample(labels, own, np.eye(4), order=0)
        vials = vial_fractions(sampled, self.inputs.vial_names, str(self.inputs.vial_labels))
        everything = {**drawn, **vials}
        kernels = ["muscle"] * len(drawn) + list(vials)
        np.savez(
            Path(runtime.cwd) / "regions.npz",
            static_blurred=_static_blurred(self.inputs, vials, factor),
            names=list(everything),
            kinds=["drawn"] * len(drawn) + ["vial"] * len(vials),
            volumes_ml=volumes,
            coverage=covered,
            fractions=np.stack([voxel_means(f, factor) for f in everything.values()]),
            blurred=np.stack([
                blur_to_grid(fine, factor, transfers[kernel])
                for fine, kernel in zip(everything.values(), kernels, strict=True)
            ]),
        )  # fmt: skip
        self._results["regions_file"] = str(Path(runtime.cwd) / "regions.npz")
        return runtime


def _drawn(
    files: dict[str, Any], grid: FineGrid
) -> tuple[dict[str, Floats], list[float], list[float]]:
    fine_ml = abs(np.linalg.det(grid.affine[:3, :3])) / 1e3
    drawn, volumes, covered = {}, [], []
    for name, (path, label) in files.items():
        values, own = load_finite_image(path)
        inside = (np.rint(values) == label).astype(np.float32)
        drawn[name] = grid.sample(inside, own, np.eye(4), order=0)  # what was drawn is hard
        if not drawn[name].any():
            raise ValueError(f"{path}: region '{name}' has no voxel inside the sodium image")
        volumes.append(float(inside.sum(dtype=np.float64) * abs(np.linalg.det(own[:3, :3])) / 1e3))
        covered.append(coverage(float(drawn[name].sum(dtype=np.float64)) * fine_ml, volumes[-1]))
    return drawn, volumes, covered


class _UniteLesionsInput(BaseInterfaceInputSpec):
    lesion_files = traits.Dict(mandatory=True, desc="lesion masks by class, any grid")
    reference_file = File(exists=True, mandatory=True, desc="image whose grid is taken")


class _UniteLesionsOutput(TraitedSpec):
    out_file = File(exists=True, desc="mask of all lesions on the grid of the reference")


class UniteLesions(SimpleInterface):
    """Bring the masks of all lesion classes to one grid and unite them."""

    input_spec = _UniteLesionsInput
    output_spec = _UniteLesionsOutput

    def _run_interface(self, runtime: Any) -> Any:
        reference, affine = load_image(self.inputs.reference_file)
        united = np.zeros(reference.shape, bool)
        for path in self.inputs.lesion_files.values():
            mask, own = load_lesion(path)
            united |= resample(mask, index_map(affine, own, np.eye(4)), united.shape, 1) > 0.5
        self._results["out_file"] = save_image(
            Path(runtime.cwd) / "lesions.nii.gz", united, affine
        )
        return runtime
