"""Sessions of one subject in one space: a template, rigid poses, headers moved along."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
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
from scipy.ndimage import binary_dilation

from sodiumprep.interfaces.anatomy import bias_field, to_ants
from sodiumprep.interfaces.anatomy_outputs import save_lesion_mask
from sodiumprep.interfaces.files import written
from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.interfaces.registration import read_transform, write_transform
from sodiumprep.interfaces.sidecars import Saving, write_json
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import (
    displacement,
    index_map,
    resample,
)
from sodiumprep.sodium.brain import head_mask, top_of_head_centre
from sodiumprep.sodium.sessions import (
    common_grid,
    halfway_poses,
    mean_of_seen,
    nearest_rigid,
    turn_and_shift,
)

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
GRID = 2.0  # mm, of the registration; rigid poses are found to a tenth of it
COARSE = 4.0  # mm, of what only finds the head
BRIGHTEST = 5.0  # times bright tissue; what shines more is an artefact
BALL = 90.0  # mm about the middle of the upper head: the brain, neither neck nor jaw
BRAIN_MARGIN = 6.0  # mm around a brain mask that the metric sees
ROUNDS = {True: 1, False: 3}  # of averaging and registering anew, sloppy or not
SETTLED = 0.05  # mm at the brain's surface, below which another round changes nothing
DOUBTFUL = 0.6  # correlation of two images of one head below which their pose is in doubt


@dataclass(frozen=True)
class _Image:
    """A 1H image of one session, without bias field, in units of its bright tissue."""

    values: Floats
    affine: Floats
    centre: Floats  # of the upper head [mm, LPS]

    @classmethod
    def load(cls, path: str, level: bool = True) -> _Image:
        values, affine = load_finite_image(path)
        if level:
            values = values / bias_field(values, affine, None, True)
        shape, grid = _isotropic(values.shape, affine, COARSE)
        coarse = resample(values, index_map(grid, affine, np.eye(4)), shape, 1)
        head = head_mask(coarse, np.full(3, COARSE))
        scale = float(np.percentile(coarse[head], 98))
        centre = np.array([-1, -1, 1]) * top_of_head_centre(head, grid)
        return cls(np.clip(values / scale, 0, BRIGHTEST), affine, centre)

    @property
    def bounded(self) -> Floats:
        """Values in [0, 1], so that fat does not rule a metric."""
        return np.minimum(self.values, 1)

    def on(self, affine: Floats, shape: tuple[int, ...], pose: Floats, order: int) -> Floats:
        values = self.values if order > 1 else self.bounded
        return resample(values, index_map(affine, self.affine, pose), shape, order)

    def seen(self, affine: Floats, shape: tuple[int, ...], pose: Floats) -> Any:
        everywhere = np.ones(self.values.shape, np.float32)
        return resample(everywhere, index_map(affine, self.affine, pose), shape, 0) > 0.5


@dataclass(frozen=True)
class _Target:
    """What sessions are registered to: an image on a coarse grid, and where it counts."""

    values: Floats
    affine: Floats
    mask: Any
    centre: Floats  # [mm, LPS]

    def score(self, image: _Image, pose: Floats) -> float:
        """Correlation inside the mask; its sign tells nothing where contrasts differ."""
        inside = np.asarray(self.mask) > 0
        moved = image.on(self.affine, self.values.shape, pose, 1)[inside]
        if not np.ptp(moved) > 0:
            return 0.0  # nothing of the image lies there
        return abs(float(np.corrcoef(self.values[inside], moved)[0, 1]))

    def register(self, image: _Image, starts: Sequence[Floats]) -> Floats:
        fixed, mask = (to_ants(part, self.affine) for part in (self.values, self.mask))
        moving = to_ants(image.bounded, image.affine)
        if len(starts) > 1:  # coarsely from each, and from the best of them again
            found = [_rigid(fixed, moving, mask, start, coarse=True) for start in starts]
            starts = [max(found, key=lambda pose: self.score(image, pose))]
        return _rigid(fixed, moving, mask, starts[0], coarse=False)

    def starts(self, image: _Image) -> list[Floats]:
        """Return the header's pose and the one that brings the heads' centres together."""
        shifted = np.eye(4)
        shifted[:3, 3] = image.centre - self.centre
        return [np.eye(4), shifted]


def _ants() -> Any:
    # Takes 2 s and fixes ITK's number of threads: only when a node runs, not with the graph.
    return importlib.import_module("ants")


def _rigid(fixed: Any, moving: Any, mask: Any, start: Floats, *, coarse: bool) -> Floats:
    """Register by mutual information, as contrasts may differ; points of fixed to moving."""
    ants = _ants()
    initial = ants.create_ants_transform(
        transform_type="AffineTransform", matrix=start[:3, :3], offset=start[:3, 3], dimension=3
    )
    path = str(Path.cwd() / "start.mat")
    ants.write_transform(initial, path)
    result = ants.registration(
        fixed=fixed,
        moving=moving,
        type_of_transform="Rigid",
        initial_transform=path,
        mask=mask,
        aff_metric="mattes",
        aff_random_sampling_rate=0.5,
        aff_iterations=(80,) if coarse else (40, 20),
        aff_shrink_factors=(4,) if coarse else (2, 1),
        aff_smoothing_sigmas=(2,) if coarse else (1, 0),
        outprefix=str(Path.cwd() / "session_"),
    )
    matrix = np.eye(4)
    for part in result["fwdtransforms"]:
        matrix = matrix @ read_transform(part)
    return nearest_rigid(matrix)


def _isotropic(
    shape: tuple[int, ...], affine: Floats, spacing: float
) -> tuple[tuple[int, ...], Floats]:
    return common_grid([shape], [affine], [np.eye(4)], spacing)


def _ball(affine: Floats, shape: tuple[int, ...], centre: Floats) -> Any:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    ras = np.array([-1, -1, 1]) * centre
    return np.linalg.norm(places - ras, axis=-1) < BALL


def _average(
    images: Sequence[_Image], poses: Sequence[Floats], spacing: float, order: int
) -> tuple[Floats, Floats]:
    """Return the mean of sessions on a grid that holds them all, each resampled once."""
    shape, affine = common_grid(
        [image.values.shape for image in images],
        [image.affine for image in images],
        [LPS @ pose @ LPS for pose in poses],
        spacing,
    )
    pairs = list(zip(images, poses, strict=True))
    placed = [image.on(affine, shape, pose, order) for image, pose in pairs]
    seen = [image.seen(affine, shape, pose) for image, pose in pairs]
    return mean_of_seen(placed, seen), affine


def _centre_in(images: Sequence[_Image], poses: Sequence[Floats]) -> Floats:
    """Return the mean over sessions of the upper head's centre [mm, LPS]."""
    back = [np.linalg.inv(p) @ [*i.centre, 1] for i, p in zip(images, poses, strict=True)]
    return np.asarray(np.mean(back, axis=0)[:3])


def _target_of(images: Sequence[_Image], poses: Sequence[Floats]) -> _Target:
    values, affine = _average(images, poses, GRID, 1)
    centre = _centre_in(images, poses)
    return _Target(values, affine, _ball(affine, values.shape, centre), centre)


class _BuildTemplateInput(BaseInterfaceInputSpec):
    in_files = traits.List(
        File(exists=True), mandatory=True, desc="1H image of each session, any grid and unit"
    )
    sloppy = traits.Bool(False, usedefault=True, desc="one round (no unit)")


class _PosesOutput(TraitedSpec):
    reference_file = File(exists=True, desc="1H image of the reference")
    xfm_files = traits.List(
        File(exists=True), desc="ITK text: points of the reference to points of each session, LPS"
    )
    scores = traits.List(traits.Float, desc="correlation of each session with the reference")


class BuildTemplate(SimpleInterface):
    """Average the sessions of a subject in the space halfway between them."""

    input_spec = _BuildTemplateInput
    output_spec = _PosesOutput

    def _run_interface(self, runtime: Any) -> Any:
        images = [_Image.load(path) for path in self.inputs.in_files]
        first = _target_of(images[:1], [np.eye(4)])
        poses = [np.eye(4)]
        poses += [first.register(image, first.starts(image)) for image in images[1:]]
        poses = halfway_poses(poses)
        for _ in range(ROUNDS[self.inputs.sloppy]):
            target = _target_of(images, poses)
            pairs = zip(images, poses, strict=True)
            found = halfway_poses([target.register(image, [pose]) for image, pose in pairs])
            moved = max(map(displacement, found, poses, [target.centre] * len(poses)))
            poses = found
            if moved < SETTLED:
                break
        target = _target_of(images, poses)
        values, affine = _average(images, poses, _finest(images), 3)
        folder = Path(runtime.cwd)
        self._results["reference_file"] = save_image(
            folder / "template.nii.gz", np.maximum(values, 0) * 1000, affine
        )
        self._results["xfm_files"] = _write_poses(folder, poses)
        self._results["scores"] = [
            round(target.score(image, pose), 4) for image, pose in zip(images, poses, strict=True)
        ]
        return runtime


def _finest(images: Sequence[_Image]) -> float:
    """Return the edge of a cube as large as the smallest voxel [mm]."""
    return float(min(np.cbrt(abs(np.linalg.det(image.affine[:3, :3]))) for image in images))


def _write_poses(folder: Path, poses: Sequence[Floats]) -> list[str]:
    return [write_transform(folder / f"pose{n}.txt", pose) for n, pose in enumerate(poses)]


class _AlignSessionsInput(BaseInterfaceInputSpec):
    in_files = traits.List(
        File(exists=True), mandatory=True, desc="1H image of each session, any grid and unit"
    )
    reference_file = File(exists=True, mandatory=True, desc="1H image, bias field removed")
    mask_file = File(exists=True, mandatory=True, desc="brain mask of the reference")
    reference_index = traits.Int(
        -1, usedefault=True, desc="session that is the reference itself: not moved; -1 for none"
    )


class AlignSessions(SimpleInterface):
    """Register the 1H image of each session rigidly to that of the reference."""

    input_spec = _AlignSessionsInput
    output_spec = _PosesOutput

    def _run_interface(self, runtime: Any) -> Any:
        target = _reference(self.inputs.reference_file, self.inputs.mask_file)
        poses, scores = [], []
        for number, path in enumerate(self.inputs.in_files):
            if number == self.inputs.reference_index:
                poses.append(np.eye(4))
                scores.append(1.0)
                continue
            image = _Image.load(path)
            poses.append(target.register(image, target.starts(image)))
            scores.append(round(target.score(image, poses[-1]), 4))
        self._results["reference_file"] = self.inputs.reference_file
        self._results["xfm_files"] = _write_poses(Path(runtime.cwd), poses)
        self._results["scores"] = scores
        return runtime


def _reference(path: str, mask_file: str) -> _Target:
    image = _Image.load(path, level=False)
    shape, affine = _isotropic(image.values.shape, image.affine, GRID)
    brain, own = load_finite_image(mask_file)
    inside = resample(brain, index_map(affine, own, np.eye(4)), shape, 1) > 0.5
    wide = binary_dilation(inside, iterations=round(BRAIN_MARGIN / GRID))
    values = image.on(affine, shape, np.eye(4), 1)
    return _Target(values, affine, wide, image.centre)


def move_header(affine: Floats, pose: Floats) -> Floats:
    """Return the affine that puts an image of a session into the space of the reference.

    Parameters
    ----------
    affine
        Of the image, shape (4, 4) [mm, RAS].
    pose
        Points of the reference to points of the session, shape (4, 4) [mm, LPS].

    Returns
    -------
    affine
        Shape (4, 4) [mm, RAS]; no voxel is resampled.

    Examples
    --------
    >>> pose = np.eye(4)
    >>> pose[0, 3] = 5.0  # LPS: the session lies 5 mm further left
    >>> move_header(np.eye(4), pose)[0, 3].item()
    5.0
    """
    return np.asarray(LPS @ np.linalg.inv(pose) @ LPS @ affine)


class _PlaceSodiumInput(BaseInterfaceInputSpec):
    sodium_file = File(exists=True, mandatory=True, desc="sodium image in its session's space")
    xfm_files = traits.List(File(exists=True), mandatory=True, desc="reference to sessions [mm]")
    index = traits.Int(mandatory=True, desc="of the session in xfm_files")
    given_xfm = File(exists=True, desc="points of the session's T1w to points of sodium [mm]")


class _PlaceSodiumOutput(TraitedSpec):
    sodium_file = File(exists=True, desc="the same voxels, header in the reference's space")
    given_xfm = File(desc="the given transform between reference and moved image [mm]")


class PlaceSodium(SimpleInterface):
    """Move the header of a sodium image along with its session; nothing is resampled."""

    input_spec = _PlaceSodiumInput
    output_spec = _PlaceSodiumOutput

    def _run_interface(self, runtime: Any) -> Any:
        pose = read_transform(self.inputs.xfm_files[self.inputs.index])
        values, affine = load_image(self.inputs.sodium_file)
        folder = Path(runtime.cwd)
        self._results["sodium_file"] = save_image(
            folder / "placed.nii.gz", values, move_header(affine, pose)
        )
        self._results["given_xfm"] = ""
        if isdefined(self.inputs.given_xfm):
            given = np.linalg.inv(pose) @ read_transform(self.inputs.given_xfm) @ pose
            self._results["given_xfm"] = write_transform(folder / "given.txt", given)
        return runtime


class _ReturnToSessionInput(BaseInterfaceInputSpec):
    xfm_file = File(exists=True, mandatory=True, desc="points of the reference to placed sodium")
    xfm_files = traits.List(File(exists=True), mandatory=True, desc="reference to sessions [mm]")
    scores = traits.List(traits.Float, mandatory=True, desc="of the sessions, correlation")
    index = traits.Int(mandatory=True, desc="of the session in xfm_files")
    placed_file = File(exists=True, mandatory=True, desc="sodium image in the reference's space")
    properties = traits.Dict(mandatory=True, desc="of the image, for the QC file")


class _ReturnToSessionOutput(TraitedSpec):
    xfm_file = File(exists=True, desc="points of the reference to points of sodium [mm, LPS]")
    properties = traits.Dict(desc="with the pose of the session")


class ReturnToSession(SimpleInterface):
    """Concatenate: from the reference to the session, and from there to its sodium image."""

    input_spec = _ReturnToSessionInput
    output_spec = _ReturnToSessionOutput

    def _run_interface(self, runtime: Any) -> Any:
        pose = read_transform(self.inputs.xfm_files[self.inputs.index])
        found = pose @ read_transform(self.inputs.xfm_file)
        self._results["xfm_file"] = write_transform(Path(runtime.cwd) / "xfm.txt", found)
        score = self.inputs.scores[self.inputs.index]
        values, affine = load_image(self.inputs.placed_file)
        middle = LPS @ affine @ [*((np.array(values.shape) - 1) / 2), 1]
        turn, shift = turn_and_shift(pose, middle[:3])
        known = {
            "Score": score, "Rotation": round(turn, 3), "Displacement": round(shift, 3),
        }  # fmt: skip
        warnings = list(self.inputs.properties.get("Warnings", []))
        if score < DOUBTFUL:
            warnings.append(
                f"1H image of the session correlates by {score:.2f} with the anatomical "
                f"reference (expected: above {DOUBTFUL:g}): its pose is in doubt"
            )
        self._results["properties"] = {
            **self.inputs.properties, "SessionToReference": known, "Warnings": warnings,
        }  # fmt: skip
        return runtime


class _MoveMasksInput(BaseInterfaceInputSpec):
    in_files = traits.Dict(mandatory=True, desc="masks or labels by name, any grid")
    spaces = traits.Dict(mandatory=True, desc="index in xfm_files by name; -1 is not moved")
    xfm_files = traits.List(File(exists=True), mandatory=True, desc="reference to sessions [mm]")


class _MoveMasksOutput(TraitedSpec):
    out_files = traits.Dict(desc="by name; the same voxels, headers in the reference's space")


class MoveMasks(SimpleInterface):
    """Move the headers of masks along with their sessions; nothing is resampled."""

    input_spec = _MoveMasksInput
    output_spec = _MoveMasksOutput

    def _run_interface(self, runtime: Any) -> Any:
        poses = [read_transform(path) for path in self.inputs.xfm_files]
        moved = {}
        for number, (name, path) in enumerate(self.inputs.in_files.items()):
            index = self.inputs.spaces[name]
            values, affine = load_image(path)
            placed = affine if index < 0 else move_header(affine, poses[index])
            target = Path(runtime.cwd) / f"{number}_{Path(path).name}"
            moved[name] = save_image(target.with_name(target.name.split(".")[0] + ".nii.gz"),
                                     values, placed)  # fmt: skip
        self._results["out_files"] = moved
        return runtime


class _MoveLabelsInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="label image, any grid")
    xfm_files = traits.List(File(exists=True), mandatory=True, desc="reference to sessions [mm]")
    index = traits.Int(mandatory=True, desc="of the session in xfm_files")


class _MoveLabelsOutput(TraitedSpec):
    out_file = File(exists=True, desc="the same voxels, header in the reference's space")


class MoveLabels(SimpleInterface):
    """Move the header of a label image along with its session; nothing is resampled."""

    input_spec = _MoveLabelsInput
    output_spec = _MoveLabelsOutput

    def _run_interface(self, runtime: Any) -> Any:
        pose = read_transform(self.inputs.xfm_files[self.inputs.index])
        values, affine = load_image(self.inputs.in_file)
        target = Path(runtime.cwd) / "labels.nii.gz"
        self._results["out_file"] = save_image(target, values, move_header(affine, pose))
        return runtime


class _SaveSessionInput(BaseInterfaceInputSpec):
    outputs = traits.Dict(mandatory=True, desc="output path of 'xfm' and of each lesion class")
    provenance = traits.Dict(mandatory=True, desc="entries of every sidecar")
    xfm_files = traits.List(File(exists=True), mandatory=True, desc="reference to sessions [mm]")
    scores = traits.List(traits.Float, mandatory=True, desc="of the sessions, correlation")
    index = traits.Int(mandatory=True, desc="of the session in xfm_files")
    lesion_files = traits.Dict(usedefault=True, desc="masks by class, in the reference's space")
    reference_file = File(exists=True, mandatory=True, desc="image whose grid masks take")


class _SaveSessionOutput(TraitedSpec):
    out_files = traits.List(File(exists=True), desc="what was written")


class SaveSession(Saving):
    """Save the pose of a session and its lesion masks on the grid of the reference."""

    input_spec = _SaveSessionInput
    output_spec = _SaveSessionOutput

    def _run_interface(self, runtime: Any) -> Any:
        pose = read_transform(self.inputs.xfm_files[self.inputs.index])
        target = Path(self.inputs.outputs["xfm"])
        with written(target) as partial:
            write_transform(partial, pose)
        text = "Maps points of the anatomical reference to points of the session's 1H image"
        head = {
            "Description": f"{text} (ITK, LPS)", "Units": "mm",
            "Score": self.inputs.scores[self.inputs.index],
        }  # fmt: skip
        write_json(target.with_suffix(".json"), {**head, **self.inputs.provenance})
        saved = [str(target)]
        for name, path in self.inputs.lesion_files.items():
            place = self.inputs.outputs[f"lesion_{name}"]
            said = {"Description": f"Lesion mask: {name}", **self.inputs.provenance}
            save_lesion_mask(path, self.inputs.reference_file, place, said)
            saved.append(place)
        self._results["out_files"] = saved
        return runtime
