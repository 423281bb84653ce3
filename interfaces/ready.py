"""Ready-made anatomy: checked, brought to one grid, and otherwise taken as it is."""

from __future__ import annotations

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
from numpy.typing import NDArray

from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.brain import brain_volume_ml, volume_warning
from sodiumprep.sodium.labels import (
    TISSUES,
    brain_of_fractions,
    clipped_fractions,
    label_fractions,
    posterior_fractions,
    shared_fractions,
)

Mask = NDArray[np.bool_]

LEAST_SHARE = 0.5  # of a ready-made brain that must lie in what it belongs to
SKULL_STRIPPED = (
    "the 1H image holds nothing around the brain (skull-stripped?): sodium of the head outside "
    "the brain cannot be told from air"
)
BARE = 0.2  # voxels with signal outside the brain over those of the brain; whole heads have > 1


class _Grid:
    """The grid of the anatomy, on which everything ready-made is brought once."""

    def __init__(self, path: str) -> None:
        self.values, self.affine = load_finite_image(path)
        self.path, self.shape = path, self.values.shape

    def sample(self, values: Floats, affine: Floats, order: int) -> Floats:
        if values.shape == self.shape and np.allclose(affine, self.affine, atol=1e-5):
            return values
        return resample(values, index_map(self.affine, affine, np.eye(4)), self.shape, order)

    def require_overlap(self, path: str, inside: Mask, affine: Floats) -> None:
        """Refuse what lies beside the image: half of it must lie in its field of view.

        Raises
        ------
        ValueError
            With the distance between the centres.
        """
        index = np.argwhere(inside)
        places = index @ affine[:3, :3].T + affine[:3, 3]
        here = (places - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T
        share = np.mean(np.all((here > -0.5) & (here < np.array(self.shape) - 0.5), axis=1))
        if share < LEAST_SHARE:
            centre = self.affine[:3, :3] @ (np.array(self.shape) - 1) / 2 + self.affine[:3, 3]
            apart = float(np.linalg.norm(places.mean(axis=0) - centre))
            raise ValueError(
                f"{path}: {share:.0%} of it lies inside {self.path}, their centres are "
                f"{apart:.0f} mm apart; accepted: files of one space"
            )


class _TakeImageInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="1H image of any format, any unit")


class _TakeImageOutput(TraitedSpec):
    out_file = File(exists=True, desc="the same values on the same grid, NIfTI")


class TakeImage(SimpleInterface):
    """Take a ready-made 1H image."""

    input_spec = _TakeImageInput
    output_spec = _TakeImageOutput

    def _run_interface(self, runtime: Any) -> Any:
        path = self.inputs.in_file
        values, affine = load_finite_image(path)
        if not path.endswith((".nii", ".nii.gz")):
            path = save_image(Path(runtime.cwd) / "image.nii.gz", values, affine)
        self._results["out_file"] = path
        return runtime


class _TakeFractionsInput(BaseInterfaceInputSpec):
    reference_file = File(exists=True, mandatory=True, desc="image whose grid is taken")
    gm_file = File(exists=True, desc="grey-matter fraction, any grid")
    wm_file = File(exists=True, desc="white-matter fraction, any grid")
    csf_file = File(exists=True, desc="CSF fraction, any grid")
    labels_file = File(exists=True, desc="label image to use instead of fractions, any grid")
    label_tissues = traits.Dict(usedefault=True, desc="tissue by label; empty for no tissue")
    posteriors_file = File(exists=True, desc="posteriors of the labels, on the grid of the labels")


class _TakeFractionsOutput(TraitedSpec):
    gm_file = File(exists=True, desc="volume fraction of grey matter, in [0, 1]")
    wm_file = File(exists=True, desc="volume fraction of white matter, in [0, 1]")
    csf_file = File(exists=True, desc="volume fraction of cerebrospinal fluid, in [0, 1]")
    dseg_file = File(exists=True, desc="largest fraction: GM 1, WM 2, CSF 3, outside 0")
    brain_file = File(exists=True, desc="what the fractions fill, without holes, 0 or 1")
    warning = traits.Str(desc="what was changed; empty for nothing")


class TakeFractions(SimpleInterface):
    """Take ready-made fractions, or make them from labels, on the grid of the anatomy."""

    input_spec = _TakeFractionsInput
    output_spec = _TakeFractionsOutput

    def _run_interface(self, runtime: Any) -> Any:
        grid = _Grid(self.inputs.reference_file)
        known = isdefined(self.inputs.labels_file)
        fractions, said = (_from_labels if known else _from_fractions)(self.inputs, grid)
        folder = Path(runtime.cwd)
        for number, tissue in enumerate(TISSUES):
            path = folder / f"{tissue}.nii.gz"
            saved = save_image(path, fractions[..., number], grid.affine)
            self._results[f"{tissue.lower()}_file"] = saved
        brain = brain_of_fractions(fractions)
        some = fractions.max(axis=-1) > 1e-3
        labels = np.where(some, fractions.argmax(axis=-1) + 1, 0).astype(np.uint8)
        self._results["dseg_file"] = save_image(folder / "dseg.nii.gz", labels, grid.affine)
        self._results["brain_file"] = save_image(folder / "brain.nii.gz", brain, grid.affine)
        self._results["warning"] = "; ".join(said)
        return runtime


def _from_fractions(inputs: Any, grid: _Grid) -> tuple[Floats, list[str]]:
    fractions, said = [], []
    for path in (inputs.gm_file, inputs.wm_file, inputs.csf_file):
        values, affine = load_image(path)
        try:
            clipped, count = clipped_fractions(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if not clipped.any():
            raise ValueError(f"{path}: every voxel is 0; accepted: a fraction of the tissue")
        grid.require_overlap(path, clipped > clipped.max() / 2, affine)
        said += [f"{Path(path).name}: {count} voxels clipped to [0, 1]"] if count else []
        fractions.append(grid.sample(clipped, affine, 1))
    return _shared(np.stack(fractions, axis=-1), inputs.gm_file, said)


def _from_labels(inputs: Any, grid: _Grid) -> tuple[Floats, list[str]]:
    path = inputs.labels_file
    values, affine = load_finite_image(path)
    labels = np.rint(values).astype(np.int32)
    tissues = {int(label): tissue for label, tissue in inputs.label_tissues.items()}
    try:
        if isdefined(inputs.posteriors_file):
            path = inputs.posteriors_file
            soft = _posteriors(path, labels.shape)
            fractions, _ = clipped_fractions(posterior_fractions(soft, labels, tissues))
        else:
            fractions = label_fractions(labels, tissues)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    grid.require_overlap(path, fractions.sum(axis=-1) > 0.5, affine)
    moved = [grid.sample(part, affine, 1) for part in np.moveaxis(fractions, -1, 0)]
    return _shared(np.stack(moved, axis=-1), path, [])


def _posteriors(path: str, shape: tuple[int, ...]) -> Floats:
    values, _ = load_image(path)
    if values.shape[:3] != shape or values.ndim != 4:
        raise ValueError(f"has shape {values.shape}; accepted: {shape} and one volume per label")
    return values


def _shared(fractions: Floats, path: str, said: list[str]) -> tuple[Floats, list[str]]:
    try:
        shared, count = shared_fractions(fractions)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    more = [f"GM, WM and CSF summed to more than 1 in {count} voxels, scaled down"]
    return shared, [*said, *(more if count else [])]


class _TakeMaskInput(BaseInterfaceInputSpec):
    reference_file = File(exists=True, mandatory=True, desc="image whose grid is taken")
    in_file = File(exists=True, desc="brain mask, any grid; without it what the fractions fill")
    brain_file = File(exists=True, desc="what the fractions fill, 0 or 1")
    notes = traits.Str(usedefault=True, desc="what else must be said")
    age = traits.Float(desc="of the subject [years]; an adult's volume is expected without it")


class _TakeMaskOutput(TraitedSpec):
    mask_file = File(exists=True, desc="brain mask on the grid of the reference, 0 or 1")
    brain_volume_ml = traits.Float(desc="volume of the mask [ml]")
    warning = traits.Str(desc="why the mask may be wrong; empty if nothing speaks against it")
    remarks = traits.Str(desc="what else must be said; empty for nothing")


class TakeMask(SimpleInterface):
    """Take a ready-made brain mask, on the grid of the anatomy."""

    input_spec = _TakeMaskInput
    output_spec = _TakeMaskOutput

    def _run_interface(self, runtime: Any) -> Any:
        grid = _Grid(self.inputs.reference_file)
        given = isdefined(self.inputs.in_file)
        path = self.inputs.in_file if given else self.inputs.brain_file
        values, affine = load_finite_image(path)
        inside = values > _threshold(values)
        if not inside.any():
            raise ValueError(f"{path}: no voxel lies above {_threshold(values):g}")
        grid.require_overlap(path, inside, affine)
        mask = grid.sample(inside.astype(np.float32), affine, 1) > 0.5
        if given and isdefined(self.inputs.brain_file):
            _require_same_brain(path, mask, load_image(self.inputs.brain_file)[0] > 0)
        volume = brain_volume_ml(mask, np.linalg.norm(grid.affine[:3, :3], axis=0))
        bare = np.count_nonzero(grid.values[~mask]) < BARE * np.count_nonzero(mask)
        age = self.inputs.age if isdefined(self.inputs.age) else None
        said = [self.inputs.notes, SKULL_STRIPPED if bare else ""]
        self._results["mask_file"] = save_image(
            Path(runtime.cwd) / "mask.nii.gz", mask, grid.affine
        )
        self._results["brain_volume_ml"] = volume
        self._results["warning"] = volume_warning(volume, age)
        self._results["remarks"] = "; ".join(filter(None, said))
        return runtime


def _threshold(values: Floats) -> float:
    """Return what a mask must exceed: half of a fraction, or FreeSurfer's mark of the erased."""
    return 0.5 if values.max() <= 1 else 1.0


def _require_same_brain(path: str, mask: Mask, brain: Mask) -> None:
    share = float((mask & brain).sum() / max(brain.sum(), 1))
    if share < LEAST_SHARE:
        raise ValueError(
            f"{path}: only {share:.0%} of the ready-made tissue lies inside the mask; accepted: "
            "mask and fractions of one space"
        )
