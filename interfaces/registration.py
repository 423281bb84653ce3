"""Registration of the sodium image to the anatomy: several methods, one score."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
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
from scipy.ndimage import binary_dilation, gaussian_filter

from sodiumprep.interfaces.anatomy import to_ants
from sodiumprep.interfaces.image import load_finite_image, save_image
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import (
    candidate_starts,
    displacement,
    index_map,
    resample,
    synthetic_sodium,
)
from sodiumprep.sodium.pose import (
    LARGEST_ERROR,
    LEAST_INSIDE,
    LEAST_SCORE,
    Fit,
    Volume,
    build_scene,
    choose,
    find_poses,
    rated,
    registration_fails,
    registration_uncertainty,
    restart_distance,
    share_inside,
)

GRID = 2.0  # mm, about: grid of the synthetic image, finer than any sodium image
MARGIN = 40.0  # mm around the brain that is kept of the anatomy
METHODS = ("header", "synthetic", "mi", "coil")
TOLERANCE = 0.02  # by which an interpolated fraction may leave [0, 1]
RIM = 12.0  # mm of the head around the brain that mutual information sees
LARGEST_SCALE = 1.5  # of a transform between two images of one head


def _ants() -> Any:
    # Takes 2 s and fixes ITK's number of threads: only when a node runs, not with the graph.
    return importlib.import_module("ants")


def read_transform(path: Path | str) -> Floats:
    """Read a linear ITK transform.

    Parameters
    ----------
    path
        ITK text, ``.mat`` or ``.h5``.

    Returns
    -------
    matrix
        Maps points of the fixed to points of the moving space, shape (4, 4) [mm, LPS].

    Raises
    ------
    ValueError
        If the file is not a linear transform.
    """
    try:
        transform = _ants().read_transform(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: not an ITK transform ({error})") from None
    origin = np.asarray(transform.apply_to_point([0.0, 0.0, 0.0]))
    columns = [np.asarray(transform.apply_to_point(axis)) - origin for axis in np.eye(3).tolist()]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.stack(columns, axis=1), origin
    for probe in np.array([[37.0, -21.0, 53.0, 1.0], [-40, 30, 10, 1], [5, -60, -30, 1]]):
        found = transform.apply_to_point(probe[:3].tolist())
        if not np.allclose((matrix @ probe)[:3], found, atol=1e-2):
            raise ValueError(f"{path}: not a linear transform; accepted: rigid or affine")
    return matrix


def _check_pose(path: str, matrix: Floats) -> Floats:
    """Refuse what cannot lead from one image of a head to another one of the same head."""
    scales = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if np.linalg.det(matrix[:3, :3]) <= 0:
        raise ValueError(f"{path}: mirrors the head; accepted: a rigid or affine transform [LPS]")
    if scales.max() > LARGEST_SCALE or scales.min() < 1 / LARGEST_SCALE:
        raise ValueError(
            f"{path}: scales by {scales.min():.2f} to {scales.max():.2f}; accepted: "
            f"{1 / LARGEST_SCALE:.2f} to {LARGEST_SCALE:g}, between positions in mm"
        )
    return matrix


def write_transform(path: Path | str, matrix: Floats) -> str:
    """Write a linear transform as ITK text.

    Parameters
    ----------
    path
        File to write.
    matrix
        Maps points of the fixed to points of the moving space, shape (4, 4) [mm, LPS].

    Returns
    -------
    path
        As given.
    """
    numbers = [*matrix[:3, :3].ravel(), *matrix[:3, 3]]
    Path(path).write_text(
        "#Insight Transform File V1.0\n#Transform 0\n"
        "Transform: AffineTransform_double_3_3\n"
        f"Parameters: {' '.join(repr(float(x)) for x in numbers)}\n"
        "FixedParameters: 0 0 0\n"
    )
    return str(path)


class _RegisterSodiumInput(BaseInterfaceInputSpec):
    sodium_file = File(
        exists=True, mandatory=True, desc="sodium image, receive-corrected [signal]"
    )
    gm_file = File(exists=True, mandatory=True, desc="grey-matter fraction")
    wm_file = File(exists=True, mandatory=True, desc="white-matter fraction")
    csf_file = File(exists=True, mandatory=True, desc="CSF fraction")
    head_mask = File(exists=True, mandatory=True, desc="mask of the head")
    anat_file = File(exists=True, mandatory=True, desc="1H image in the space of the fractions")
    properties = traits.Dict(mandatory=True, desc="of the image; the kernel's width is read")
    given_xfm = File(exists=True, desc="a transform to take instead of registering")
    coil_file = File(exists=True, desc="1H image that shares the sodium image's frame")
    method = traits.Enum("auto", *METHODS, usedefault=True, desc="what finds the pose")
    dof = traits.Enum(6, 12, usedefault=True, desc="6 rigid, 12 affine")
    random_seed = traits.Int(23, usedefault=True, desc="seed of the restarts")
    sloppy = traits.Bool(False, usedefault=True, desc="fewer starts")


class _RegisterSodiumOutput(TraitedSpec):
    xfm_file = File(exists=True, desc="ITK text: points of the anatomy to points of sodium, LPS")
    synthetic_file = File(exists=True, desc="what the sodium image should look like")
    properties = traits.Dict(desc="candidates, scores, error [mm], for the QC file")


class RegisterSodium(SimpleInterface):
    """Find the pose by several methods; the one that explains the image best is taken."""

    input_spec = _RegisterSodiumInput
    output_spec = _RegisterSodiumOutput

    def _run_interface(self, runtime: Any) -> Any:
        target = Target.build(self.inputs)
        matching = Matching(self.inputs, target)
        fits = matching.candidates()
        best = choose({name: fit.score for name, fit in fits.items()}, "synthetic")
        if not any(matching.overlaps(fit) for fit in fits.values()):
            raise ValueError(
                f"{self.inputs.sodium_file}: image and anatomy do not overlap: no pose "
                f"({', '.join(fits)}) brings {LEAST_INSIDE:.0%} of the brain into the image"
            )
        known, out = self.inputs.properties, Path(runtime.cwd)
        summary = _summary(fits, best, matching.restart_distance(fits[best]), target.centre)
        self._results["xfm_file"] = write_transform(out / "xfm.txt", fits[best].transform)
        self._results["synthetic_file"] = save_image(
            out / "synthetic.nii.gz", target.image, target.affine
        )
        self._results["properties"] = {
            **known,
            **summary,
            "Warnings": [*known.get("Warnings", []), *_doubts(summary)],
        }
        return runtime


def _summary(fits: dict[str, Fit], best: str, distance: float, centre: Floats) -> dict[str, Any]:
    chosen = fits[best]
    standard, bound = registration_uncertainty(distance)
    apart = {n: displacement(f.transform, chosen.transform, centre) for n, f in fits.items()}
    failed = registration_fails(chosen.score, bound)
    return {
        "RegistrationCandidates": {n: round(f.score, 4) for n, f in fits.items()},
        "RegistrationCandidateDistances": {n: round(mm, 3) for n, mm in apart.items()},
        "RegistrationChosen": best,
        "RegistrationScore": round(chosen.score, 4),
        "RegistrationSpread": round(standard, 3),
        "RegistrationError95": round(bound, 3),
        "RegistrationFromHeader": round(displacement(chosen.transform, np.eye(4), centre), 3),
        "RegistrationFailed": failed,
        "RegistrationLeastScore": LEAST_SCORE,
    }


def _doubts(summary: Mapping[str, Any]) -> list[str]:
    if not summary["RegistrationFailed"]:
        return []
    return [
        f"registration_failed: score {summary['RegistrationScore']:.2f} (accepted: at least "
        f"{LEAST_SCORE:g}), error up to {summary['RegistrationError95']:.1f} mm (accepted: "
        f"{LARGEST_ERROR:g} mm): no value of this image can be trusted"
    ]


class _Grid:
    """A grid of about 2 mm around the brain."""

    def __init__(self, affine: Floats, shape: tuple[int, ...]) -> None:
        self.affine, self.shape = affine, shape

    @classmethod
    def around(cls, brain: Floats, affine: Floats) -> _Grid:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        inside = np.argwhere(brain)
        if not len(inside):
            raise ValueError("the fractions of GM, WM and CSF nowhere exceed one half: no brain")
        first = inside.min(axis=0) - MARGIN / spacing
        last = inside.max(axis=0) + MARGIN / spacing
        coarse = affine.copy()
        coarse[:3, :3] = affine[:3, :3] / spacing * GRID
        coarse[:3, 3] += affine[:3, :3] @ np.round(first)
        return cls(coarse, tuple(int(n) for n in np.ceil((last - first) * spacing / GRID)))

    def take(self, values: Floats, affine: Floats) -> Floats:
        """Bring an image to the grid; finer voxels are averaged, not skipped."""
        voxel = np.linalg.norm(affine[:3, :3], axis=0)
        sigma = np.sqrt(np.clip(GRID**2 - voxel**2, 0, None) / 12) / voxel  # variance of a box
        smooth = gaussian_filter(values.astype(np.float32), sigma, truncate=3.0)
        return resample(smooth, index_map(self.affine, affine, np.eye(4)), self.shape, 1)


class Target:
    """Fractions and head on a coarse grid, and what sodium should look like there."""

    def __init__(
        self, tissues: dict[str, Floats], head: Floats, affine: Floats, fwhm: float
    ) -> None:
        self.tissues, self.head, self.affine, self.fwhm = tissues, head, affine, fwhm
        self.brain = sum(tissues.values()) > 0.5
        self.image = synthetic_sodium(tissues, head, fwhm, np.full(3, GRID))
        self.scenes = [build_scene(tissues, head, affine, fwhm, level) for level in range(3)]
        self.centre = self.scenes[0].centre

    @classmethod
    def build(cls, inputs: Any) -> Target:
        paths = {"GM": inputs.gm_file, "WM": inputs.wm_file, "CSF": inputs.csf_file}
        loaded = {name: _load_fraction(path) for name, path in paths.items()}
        own = loaded["GM"][1]
        shapes = {values.shape for values, _ in loaded.values()}
        if len(shapes) > 1:
            raise ValueError(f"{inputs.gm_file}: fractions of different shapes {sorted(shapes)}")
        grid = _Grid.around(sum(values for values, _ in loaded.values()) > 0.5, own)
        tissues = {name: grid.take(values, affine) for name, (values, affine) in loaded.items()}
        head = grid.take(*load_finite_image(inputs.head_mask))
        fwhm = float(np.mean(inputs.properties["PointSpreadFWHM"]["GM"]))
        return cls(tissues, head, grid.affine, fwhm)


def _load_fraction(path: str) -> tuple[Floats, Floats]:
    values, affine = load_finite_image(path)
    low, high = float(values.min()), float(values.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(f"{path}: holds fractions from {low:g} to {high:g}; accepted: 0 to 1")
    return values, affine


class Matching:
    """All ways to find the pose of one image, and the score that compares them."""

    def __init__(self, inputs: Any, target: Target) -> None:
        self.inputs, self.target = inputs, target
        self.sodium, self.affine = load_finite_image(inputs.sodium_file)
        self.volumes = [Volume.prepare(self.sodium, self.affine, s.blur) for s in target.scenes]

    def candidates(self) -> dict[str, Fit]:
        """Return the poses that the wanted method finds, by the name of what found them."""
        if isdefined(self.inputs.given_xfm) and self.inputs.method == "auto":
            path = self.inputs.given_xfm
            return {"given": self._rate(_check_pose(path, read_transform(path)))}
        ways = {
            "header": lambda: {"header": self._rate(np.eye(4))},
            "synthetic": lambda: self._synthetic(self._starts()),
            "mi": lambda: self._by_information("mi", self.sodium, self.affine),
            "coil": self._through_coil,
        }
        if self.inputs.method == "header":
            return {**ways["header"](), **self._synthetic({"header": np.eye(4)})}
        if self.inputs.method != "auto":
            return ways[self.inputs.method]()
        found: dict[str, Fit] = {}
        for name in METHODS if isdefined(self.inputs.coil_file) else METHODS[:-1]:
            found |= ways[name]()
        return found

    def overlaps(self, fit: Fit) -> bool:
        scene, volume = self.target.scenes[0], self.volumes[0]
        return share_inside(scene, volume, fit.transform) >= LEAST_INSIDE

    def restart_distance(self, fit: Fit) -> float:
        rng = np.random.default_rng(self.inputs.random_seed)
        scene, volume = self.target.scenes[0], self.volumes[0]
        return restart_distance(scene, volume, fit, rng, self.inputs.dof)

    def _rate(self, transform: Floats) -> Fit:
        return rated(self.target.scenes[0], self.volumes[0], transform)

    def _starts(self) -> dict[str, Floats]:
        t = self.target
        n_perturbed = 2 if self.inputs.sloppy else 6
        return candidate_starts(t.image, t.affine, self.sodium, self.affine, t.centre, n_perturbed)

    def _synthetic(self, starts: dict[str, Floats]) -> dict[str, Fit]:
        fits = find_poses(self.target.scenes, self.volumes, starts, self.inputs.dof)
        return {f"synthetic, from {name}": fit for name, fit in fits.items()}

    def _through_coil(self) -> dict[str, Fit]:
        if not isdefined(self.inputs.coil_file):
            raise ValueError("coil_file is missing: a 1H image in the sodium image's frame")
        return self._by_information("coil", *load_finite_image(self.inputs.coil_file))

    def _by_information(self, name: str, moving: Floats, affine: Floats) -> dict[str, Fit]:
        """Register to the 1H image by mutual information, from header and centre of mass."""
        anat, own = load_finite_image(self.inputs.anat_file)
        t = self.target
        fixed = resample(anat, index_map(t.affine, own, np.eye(4)), t.image.shape, 1)
        starts = candidate_starts(fixed, t.affine, moving, affine, t.centre, 0)
        if self.inputs.sloppy:
            del starts["centre of mass"]
        inside = binary_dilation(t.brain, iterations=round(RIM / GRID)).astype(np.float32)
        pair = [to_ants(v, a) for v, a in ((fixed, t.affine), (moving, affine))]
        mask = to_ants(inside, t.affine)
        return {
            f"{name}, from {start}": self._rate(_mutual_information(*pair, mask, pose, self))
            for start, pose in starts.items()
        }

    @property
    def kind(self) -> str:
        """ANTs' name of the transform."""
        return "Rigid" if self.inputs.dof == 6 else "Affine"


def _mutual_information(
    fixed: Any, moving: Any, mask: Any, start: Floats, matching: Matching
) -> Floats:
    with tempfile.TemporaryDirectory() as folder:
        result = _ants().registration(
            fixed=fixed,
            moving=moving,
            type_of_transform=matching.kind,
            initial_transform=write_transform(Path(folder) / "start.txt", start),
            mask=mask,
            aff_metric="mattes",
            aff_random_sampling_rate=0.2,
            aff_iterations=(100, 50, 10),
            aff_shrink_factors=(4, 2, 1),
            aff_smoothing_sigmas=(2, 1, 0),
        )
    return _compose(result["fwdtransforms"])


def _compose(paths: list[str]) -> Floats:
    """Return the product of transforms in ITK's order: the last one is applied first."""
    matrix = np.eye(4)
    for path in paths:
        matrix = matrix @ read_transform(path)
    return matrix
