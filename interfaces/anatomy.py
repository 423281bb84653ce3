"""1H anatomy: bias field, brain and head, normalization to a template, fractions."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

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
from scipy import ndimage

from sodiumprep.interfaces.composites import settle_composite
from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.interfaces.templates import FAINT, template_brain
from sodiumprep.interfaces.templates import embedded_template as _template
from sodiumprep.sodium.background import (
    has_noisy_background,
    remove_background,
    robust_uniform,
)
from sodiumprep.sodium.brain import (
    HeadModel,
    brain_volume_ml,
    bright_range,
    choose_start,
    cortical_envelope,
    head_mask,
    head_model,
    largest_component,
    otsu_threshold,
    refine_brain,
    top_of_head_centre,
    volume_warning,
)
from sodiumprep.sodium.fractions import TISSUES, fit_fractions, fluid_warning, tissue_model
from sodiumprep.sodium.normalization import brain_overlap, overlap_warning

Array = NDArray[Any]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEAD_MM, FLUID_MM = 2.0, 2  # mm, grids of the head mask and of the expected ventricles
COARSE_MM = 4  # mm, grid of the brain extraction and of the bias field
START_TILTS_DEG = (0.0, -25.0, 25.0)  # degrees about the left-right axis: chin down, chin up
BIAS_MM = 100  # mm between knots of the bias field; at 70 it takes up white matter
SYN_STEPS = {True: (40, 25, 6), False: (60, 40, 30, 10)}  # iterations per level, sloppy or not
NOWHERE = -1e30  # outside of an image: ANTs takes no nan
GRID_MM = {True: 2, False: 1}  # mm, grid of the normalization, sloppy or not


def _ants() -> Any:
    # Takes 2 s and fixes ITK's number of threads: only when a node runs, not with the graph.
    return importlib.import_module("ants")


def to_ants(array: Array, affine: Array) -> Any:
    """Make an ANTs image.

    Parameters
    ----------
    array
        Shape (x, y, z).
    affine
        Voxel index to position, shape (4, 4) [mm, RAS].

    Returns
    -------
    image
        In ITK's LPS frame.
    """
    lps = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return _ants().from_numpy(
        np.asarray(array, np.float32),
        origin=lps[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=lps[:3, :3] / spacing,
    )


def resample_once(
    values: Array,
    affine: Array,
    shape: tuple[int, ...],
    target: Array,
    transforms: list[str],
    linear: bool = False,
) -> Array:
    """Resample an image once, by cubic splines or linearly, through a chain of transforms.

    Parameters
    ----------
    values
        Shape (x, y, z).
    affine
        Shape (4, 4) [mm, RAS].
    shape, target
        Grid that is wanted and its affine [mm, RAS].
    transforms
        ITK files; points of the target go through the first one first.
    linear
        For images with edges of one voxel, beside which splines swing.

    Returns
    -------
    resampled
        Shape ``shape``, float32; nan where the grid leaves the image.
    """
    grid, image = to_ants(np.zeros(shape, np.float32), target), to_ants(values, affine)
    moved = _ants().apply_transforms(
        grid, image, transforms, interpolator="linear" if linear else "bSpline",
        defaultvalue=NOWHERE,
    )  # fmt: skip
    resampled = moved.numpy()
    return np.where(resampled > NOWHERE / 2, resampled, np.float32(np.nan))


def labels_through(
    values: Array,
    affine: Array,
    shape: tuple[int, ...],
    target: Array,
    transforms: list[str],
) -> Array:
    """Resample a label image through a chain of transforms; each voxel takes the nearest label.

    Parameters
    ----------
    values
        Labels, shape (x, y, z).
    affine, shape, target, transforms
        As for :func:`resample_once`.

    Returns
    -------
    labels
        Shape ``shape``, float32; 0 where the grid leaves the image.
    """
    grid, image = to_ants(np.zeros(shape, np.float32), target), to_ants(values, affine)
    moved = _ants().apply_transforms(grid, image, transforms, interpolator="nearestNeighbor")
    return np.asarray(moved.numpy())


def _affine_of(image: Any) -> Array:
    """Voxel index to position of an ANTs image, shape (4, 4) [mm, RAS]."""
    lps = np.eye(4)
    lps[:3, :3] = image.direction * np.asarray(image.spacing)
    lps[:3, 3] = image.origin
    return RAS_TO_LPS @ lps


def _voxel_size(affine: Array) -> Array:
    return np.linalg.norm(affine[:3, :3], axis=0)


def _read_mask(path: str, like: Any, *, required: bool = True) -> NDArray[np.bool_]:
    """Read a mask of any grid onto the grid of an ANTs image."""
    ants = _ants()
    mask = to_ants(*load_image(path))
    mask = ants.resample_image_to_target(mask, like, interp_type="nearestNeighbor").numpy() > 0.5
    if required and not mask.any():
        raise ValueError(f"{path}: the mask is empty where the 1H image lies")
    return mask


def _optional_mask(path: Any, like: Any) -> NDArray[np.bool_] | None:
    return _read_mask(path, like, required=False) if isdefined(path) else None


def _optional_brain(path: Any, like: Any) -> NDArray[np.bool_] | None:
    return _read_mask(path, like) if isdefined(path) else None


def _coarse(image: Any, spacing: float) -> Any:
    """Resample to isotropic voxels [mm], smoothed first so that no edge is missed."""
    smooth = _ants().smooth_image(image, spacing / 2.355, FWHM=False)
    return _ants().resample_image(smooth, (spacing,) * 3, use_voxels=False, interp_type=0)


def bias_field(array: Array, affine: Array, mask: NDArray[np.bool_] | None, sloppy: bool) -> Array:
    """Estimate the bias field on a coarse grid by N4 and evaluate it on the image's own.

    Parameters
    ----------
    array
        1H image, shape (x, y, z).
    affine
        Shape (4, 4) [mm, RAS].
    mask
        Where the estimate counts; without it the bright voxels.
    sloppy
        Fewer iterations on fewer voxels.

    Returns
    -------
    field
        Factor on the image, shape (x, y, z), held to its range inside the mask.

    References
    ----------
    Tustison et al. 2010, doi:10.1109/TMI.2010.2046908
    """
    image = to_ants(array, affine)
    coarse = _coarse(image, COARSE_MM)
    inside = _inside(coarse, image, mask)
    field = (
        _ants()
        .n4_bias_field_correction(
            coarse,
            mask=coarse.new_image_like(inside.astype(np.float32)),
            shrink_factor=2 if sloppy or mask is None else 1,
            convergence={"iters": [30, 30, 20], "tol": 1e-4},
            spline_param=BIAS_MM,
            return_bias_field=True,
        )
        .numpy()
    )
    held = np.clip(field, *np.quantile(field[inside], [0.001, 0.999]))
    ratio = np.asarray(image.spacing) / COARSE_MM
    return ndimage.affine_transform(
        held, np.diag(ratio), output_shape=array.shape, order=1, mode="nearest"
    )


def _inside(coarse: Any, image: Any, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Voxels of the coarse grid that have signal and lie in the mask."""
    values = coarse.numpy()
    if mask is None:
        clipped = np.clip(values, 0, np.percentile(values, 99))
        return values > 0.5 * otsu_threshold(clipped)
    target = _ants().resample_image_to_target(to_ants(mask, _affine_of(image)), coarse)
    return (target.numpy() > 0.5) & (values > 0)


class RemoveBackgroundInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="1H image, any unit")
    inversion_files = traits.List(
        File(exists=True), desc="magnitudes of the two inversion images of a UNIT1, one unit"
    )


class RemoveBackgroundOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="1H image with a dark background; the input if it had one")
    noisy = traits.Bool(desc="whether the background was noise as bright as tissue")


class RemoveBackground(SimpleInterface):
    """Make the background of a uniform image (MP2RAGE) dark; leave other images as they are."""

    input_spec = RemoveBackgroundInputSpec
    output_spec = RemoveBackgroundOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        array, affine = load_finite_image(self.inputs.in_file)
        size = _voxel_size(affine)
        self._results["noisy"] = has_noisy_background(array, size)
        self._results["out_file"] = self.inputs.in_file
        if self._results["noisy"]:
            pair = self.inputs.inversion_files if isdefined(self.inputs.inversion_files) else []
            cleaned = (
                robust_uniform(array, *(load_finite_image(path)[0] for path in pair), size)
                if len(pair) == 2
                else remove_background(array, size)
            )
            out_file = Path(runtime.cwd) / "dark_background.nii.gz"
            self._results["out_file"] = save_image(out_file, cleaned, affine)
        return runtime


class BiasCorrectInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="1H image, any unit")
    mask_file = File(exists=True, desc="where the field is estimated: brain mask, any grid")
    sloppy = traits.Bool(False, usedefault=True, desc="faster and less exact (no unit)")


class BiasCorrectOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="1H image without bias field, unit of the input")


class BiasCorrect(SimpleInterface):
    """Divide a 1H image by its smooth bias field."""

    input_spec = BiasCorrectInputSpec
    output_spec = BiasCorrectOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        array, affine = load_finite_image(self.inputs.in_file)
        mask = _optional_mask(self.inputs.mask_file, to_ants(array, affine))
        field = bias_field(array, affine, mask, self.inputs.sloppy)
        out_file = Path(runtime.cwd) / "bias_corrected.nii.gz"
        self._results["out_file"] = save_image(out_file, array / field, affine)
        return runtime


def extract_brain(
    array: Array, affine: Array, folder: Path, lesion: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the brain in a whole head by registering a synthetic head around the template brain.

    Parameters
    ----------
    array
        Bias-corrected 1H image, shape (x, y, z).
    affine
        Shape (4, 4) [mm, RAS].
    folder
        For transforms.
    lesion
        What belongs to the brain however bright it is, shape (x, y, z).

    Returns
    -------
    brain
        Brain with closed sulci, shape (x, y, z).
    inner
        Inside of the skull: the brain and all fluid around it, same shape.
    """
    image = to_ants(array, affine)
    coarse = _coarse(image, COARSE_MM)
    head = head_mask(coarse.numpy(), np.full(3, COARSE_MM))
    moving = coarse.new_image_like(bright_range(coarse.numpy(), head))
    model = head_model(*_template("template", COARSE_MM))
    transform = _register_head(model, moving, head, folder)
    brain = _warp_mask(image, to_ants(model.brain, model.affine), transform)
    grey, white = (_template(f"{name}_template", FLUID_MM)[0] for name in ("gm", "wm"))
    fluid = to_ants(grey + white < 0.1, _template("gm_template", FLUID_MM)[1])
    core = _warp_mask(image, fluid, transform)
    size = _voxel_size(affine)
    inner = refine_brain(array, largest_component(brain), core, size)
    return cortical_envelope(array, inner, core, size, lesion), inner


def _warp_mask(image: Any, mask: Any, transform: str) -> NDArray[np.bool_]:
    return _ants().apply_transforms(image, mask, transform).numpy() > 0.5


class _Linear(NamedTuple):
    """A linear registration: its file, dissimilarity and scales."""

    file: str
    dissimilarity: float
    scales: Array


def _register_head(model: HeadModel, moving: Any, head: Array, folder: Path) -> str:
    """Register a head to the model from several starts; return the model-to-head transform."""
    fixed, region = (to_ants(part, model.affine) for part in (model.intensity, model.region))
    pair = (fixed, region, moving)
    starts = _head_starts(model, moving, head, folder)
    best = _most_similar([_linear(*pair, start, "Similarity", (50,)) for start in starts])
    best = _most_similar([best, _linear(*pair, best.file, "Affine", (50, 30))])
    return _ants().registration(
        fixed,
        moving,
        "SyNOnly",
        initial_transform=best.file,
        mask=region,
        mask_all_stages=True,
        syn_metric="mattes",
        reg_iterations=(40, 4),
        flow_sigma=3,
        grad_step=0.25,
        write_composite_transform=True,
        outprefix=str(folder / "head_"),
    )["invtransforms"]


def _head_starts(model: HeadModel, moving: Any, head: Array, folder: Path) -> list[str]:
    """Write starting transforms: centre on the upper head, tilted about the left-right axis."""
    ants = _ants()
    points = np.argwhere(model.brain).mean(axis=0) @ model.affine[:3, :3].T + model.affine[:3, 3]
    centre = RAS_TO_LPS[:3, :3] @ points
    target = RAS_TO_LPS[:3, :3] @ top_of_head_centre(head, _affine_of(moving))
    files = []
    for number, tilt in enumerate(np.deg2rad(START_TILTS_DEG)):
        cos, sin = np.cos(tilt), np.sin(tilt)
        start = ants.create_ants_transform(
            "AffineTransform",
            dimension=3,
            center=centre,
            matrix=np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]),
            translation=target - centre,
        )
        files.append(str(folder / f"start{number}.mat"))
        ants.write_transform(start, files[-1])
    return files


def _linear(
    fixed: Any, region: Any, moving: Any, start: str, kind: str, steps: tuple[int, ...]
) -> _Linear:
    """Register linearly inside the region of the model; ``steps`` on half, then full grid."""
    ants = _ants()
    result = ants.registration(
        fixed,
        moving,
        kind,
        initial_transform=start,
        mask=region,
        aff_metric="mattes",
        aff_random_sampling_rate=1.0,
        aff_iterations=steps,
        aff_shrink_factors=(2, 1)[: len(steps)],
        aff_smoothing_sigmas=(1, 0)[: len(steps)],
    )
    dissimilarity = ants.image_similarity(
        fixed, result["warpedmovout"], "MattesMutualInformation", fixed_mask=region
    )
    file = result["fwdtransforms"][0]
    matrix = np.reshape(ants.read_transform(file).parameters[:9], (3, 3))
    return _Linear(file, dissimilarity, np.linalg.svd(matrix, compute_uv=False))


def _most_similar(results: list[_Linear]) -> _Linear:
    dissimilarity = np.array([result.dissimilarity for result in results])
    return results[choose_start(dissimilarity, np.array([result.scales for result in results]))]


class BrainExtractInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="bias-corrected whole head, any unit")
    mask_file = File(exists=True, desc="brain mask to use instead of finding one, any grid")
    lesion_file = File(exists=True, desc="lesion mask, part of the brain that is found, any grid")
    age = traits.Float(desc="of the subject [years]; unknown: the volume is that of an adult")


class BrainExtractOutputSpec(TraitedSpec):
    mask_file = File(exists=True, desc="brain with closed sulci on the grid of the input, 0 or 1")
    inner_mask = File(exists=True, desc="inside of the skull, or the given mask, 0 or 1")
    brain_volume_ml = traits.Float(desc="volume of the brain mask [ml]")
    warning = traits.Str(desc="why the mask may be wrong; empty if nothing speaks against it")


class BrainExtract(SimpleInterface):
    """Mask the brain, by a synthetic head around the template or as given."""

    input_spec = BrainExtractInputSpec
    output_spec = BrainExtractOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        array, affine = load_finite_image(self.inputs.in_file)
        image, folder = to_ants(array, affine), Path(runtime.cwd)
        given = _optional_brain(self.inputs.mask_file, image)
        if given is None:
            lesion = _optional_mask(self.inputs.lesion_file, image)
            brain, inner = extract_brain(array, affine, folder, lesion)
        else:
            brain = inner = given
        if not brain.any():
            raise ValueError(f"{self.inputs.in_file}: no brain was found")
        volume = brain_volume_ml(brain, _voxel_size(affine))
        age = self.inputs.age if isdefined(self.inputs.age) else None
        self._results["brain_volume_ml"] = volume
        self._results["warning"] = volume_warning(volume, age)
        self._results["mask_file"] = save_image(folder / "brain_mask.nii.gz", brain, affine)
        self._results["inner_mask"] = save_image(folder / "inner_mask.nii.gz", inner, affine)
        return runtime


class HeadMaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="bias-corrected whole head, any unit")
    mask_file = File(exists=True, mandatory=True, desc="brain mask, any grid")


class HeadMaskOutputSpec(TraitedSpec):
    head_mask_file = File(exists=True, desc="head inside the scalp, cavities filled, 0 or 1")


class HeadMask(SimpleInterface):
    """Mask the head: what of the background can carry sodium."""

    input_spec = HeadMaskInputSpec
    output_spec = HeadMaskOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        array, affine = load_finite_image(self.inputs.in_file)
        image = to_ants(array, affine)
        brain = _read_mask(self.inputs.mask_file, image)
        coarse = _coarse(image, HEAD_MM)
        inside = _ants().resample_image_to_target(to_ants(brain, affine), coarse).numpy() > 0.5
        head = head_mask(coarse.numpy(), np.full(3, HEAD_MM), inside).astype(np.float32)
        fine = _ants().resample_image_to_target(coarse.new_image_like(head), image).numpy() > 0.5
        out_file = Path(runtime.cwd) / "head_mask.nii.gz"
        self._results["head_mask_file"] = save_image(out_file, fine | brain, affine)
        return runtime


def normalize(
    template: tuple[Array, Array],
    array: Array,
    affine: Array,
    mask: Array,
    lesion: Array | None,
    sloppy: bool,
    prefix: str,
) -> dict[str, Any]:
    """Register a template's brain to a brain, affine and then deformable (SyN).

    Parameters
    ----------
    template
        Brain of the template, in [0, 1], and its affine [mm, RAS].
    array
        Bias-corrected 1H image, shape (x, y, z).
    affine
        Shape (4, 4) [mm, RAS].
    mask
        Brain, shape (x, y, z).
    lesion
        Left out of the metric, shape (x, y, z), or None.
    sloppy
        On a grid of 2 mm instead of 1 mm.
    prefix
        Folder and start of the names of the transforms.

    Returns
    -------
    result
        ``fwdtransforms`` resamples the template to the subject, ``invtransforms`` the other way.

    References
    ----------
    Avants et al. 2008, doi:10.1016/j.media.2007.06.004
    """
    ants = _ants()
    brain = to_ants(bright_range(array, mask) * mask, affine)
    brain = ants.crop_image(brain, to_ants(ndimage.binary_dilation(mask, iterations=8), affine))
    fixed = ants.resample_image(brain, (GRID_MM[sloppy],) * 3, use_voxels=False, interp_type=0)
    seen = ndimage.binary_dilation(mask, iterations=3)
    metric_mask = to_ants(seen if lesion is None else seen & ~lesion, affine)
    metric_mask = ants.resample_image_to_target(metric_mask, fixed, interp_type="nearestNeighbor")
    return ants.registration(
        fixed,
        to_ants(*template),
        "SyN",
        mask=metric_mask,
        mask_all_stages=True,
        aff_random_sampling_rate=1.0 if sloppy else 0.2,
        aff_iterations=(100, 50, 20),
        aff_shrink_factors=(4, 3, 2),
        aff_smoothing_sigmas=(2, 1, 1),
        syn_metric="mattes",
        reg_iterations=SYN_STEPS[sloppy],
        write_composite_transform=True,
        outprefix=prefix,
    )


class NormalizeInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="bias-corrected 1H image, any unit")
    mask_file = File(exists=True, mandatory=True, desc="brain mask, any grid")
    lesion_file = File(exists=True, desc="lesion mask left out of the metric, any grid")
    template_file = File(exists=True, desc="T1w template; the embedded one without it")
    template_mask = File(exists=True, desc="its brain mask")
    sloppy = traits.Bool(False, usedefault=True, desc="2 mm instead of 1 mm grid (no unit)")


class NormalizeOutputSpec(TraitedSpec):
    to_template_xfm = File(exists=True, desc="resamples the subject to the template [mm, LPS]")
    from_template_xfm = File(exists=True, desc="resamples the template to the subject [mm, LPS]")
    warped_file = File(exists=True, desc="1H image on the template grid, scaled to [0, 1]")
    overlap = traits.Float(desc="Dice coefficient of the brains after normalization")
    warning = traits.Str(desc="why it may be wrong; empty if nothing speaks against it")


class Normalize(SimpleInterface):
    """Normalize a brain to a template; both ways are ITK composites (HDF5)."""

    input_spec = NormalizeInputSpec
    output_spec = NormalizeOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        array, affine = load_finite_image(self.inputs.in_file)
        image = to_ants(array, affine)
        mask = _read_mask(self.inputs.mask_file, image)
        lesion = _optional_mask(self.inputs.lesion_file, image)
        prefix = str(Path(runtime.cwd) / "template_")
        template = template_brain(*self._template_files(), GRID_MM[self.inputs.sloppy])
        result = normalize(template, array, affine, mask, lesion, self.inputs.sloppy, prefix)
        self._results["from_template_xfm"] = settle_composite(result["fwdtransforms"])
        self._results["to_template_xfm"] = settle_composite(result["invtransforms"])
        scaled = to_ants(bright_range(array, mask), affine)
        warped = _ants().apply_transforms(to_ants(*template), scaled, result["invtransforms"])
        out_file = Path(runtime.cwd) / "warped.nii.gz"
        self._results["warped_file"] = save_image(out_file, warped.numpy(), template[1])
        there = _warp_mask(to_ants(*template), to_ants(mask, affine), result["invtransforms"])
        self._results["overlap"] = brain_overlap(there, template[0] > FAINT)
        self._results["warning"] = overlap_warning(self._results["overlap"])
        return runtime

    def _template_files(self) -> tuple[str, str]:
        given = self.inputs.template_file, self.inputs.template_mask
        return given if isdefined(given[0]) else ("", "")


def tissue_priors(image: Any, from_template_xfm: str) -> Array:
    """Resample the template's tissue maps to a subject.

    Parameters
    ----------
    image
        ANTs image whose grid is wanted, shape (x, y, z).
    from_template_xfm
        Composite transform.

    Returns
    -------
    priors
        GM, WM and CSF (the rest), shape (x, y, z, 3), in [0, 1], sum one.
    """
    maps = (to_ants(*_template(f"{name}_template", 1)) for name in ("gm", "wm"))
    grey, white = (
        np.clip(_ants().apply_transforms(image, part, from_template_xfm).numpy(), 0, 1)
        for part in maps
    )
    return np.stack([grey, white, np.clip(1 - grey - white, 0, 1)], axis=-1)


class TissueFractionsInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="bias-corrected 1H image, any unit")
    mask_file = File(exists=True, mandatory=True, desc="brain mask, any grid")
    from_template_xfm = File(exists=True, mandatory=True, desc="template to subject [mm, LPS]")
    lesion_file = File(exists=True, desc="lesion mask, intensities not learnt from, any grid")
    brain_warning = traits.Str("", usedefault=True, desc="what the brain mask warns of, or empty")


class TissueFractionsOutputSpec(TraitedSpec):
    gm_file = File(exists=True, desc="volume fraction of grey matter, in [0, 1]")
    wm_file = File(exists=True, desc="volume fraction of white matter, in [0, 1]")
    csf_file = File(exists=True, desc="volume fraction of cerebrospinal fluid, in [0, 1]")
    dseg_file = File(exists=True, desc="largest fraction: GM 1, WM 2, CSF 3, outside 0")
    warning = traits.Str(desc="why mask or fractions may be wrong; empty if nothing speaks for it")


class TissueFractions(SimpleInterface):
    """Estimate volume fractions of GM, WM and CSF that sum to one inside the brain mask."""

    input_spec = TissueFractionsInputSpec
    output_spec = TissueFractionsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        array, affine = load_finite_image(self.inputs.in_file)
        image = to_ants(array, affine)
        mask = _read_mask(self.inputs.mask_file, image)
        lesion = _optional_mask(self.inputs.lesion_file, image)
        priors = tissue_priors(image, self.inputs.from_template_xfm)
        fractions = fit_fractions(array, priors, mask, _voxel_size(affine), lesion)
        learn = mask if lesion is None else mask & ~lesion
        # Where the atlas expects fluid: the fractions found may have settled on something else.
        model = tissue_model(array[mask], priors[mask], learn[mask])
        said = [text for text in (self.inputs.brain_warning, fluid_warning(model)) if text]
        self._results["warning"] = "; ".join(said)
        labels = np.where(mask, fractions.argmax(axis=-1) + 1, 0).astype(np.uint8)
        folder = Path(runtime.cwd)
        for number, name in enumerate(TISSUES):
            path = folder / f"{name}.nii.gz"
            self._results[f"{name.lower()}_file"] = save_image(
                path, fractions[..., number], affine
            )
        self._results["dseg_file"] = save_image(folder / "dseg.nii.gz", labels, affine)
        return runtime
