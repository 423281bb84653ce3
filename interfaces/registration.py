"""Rigid registration of the sodium image to the anatomy, with several starts."""

from __future__ import annotations

import importlib
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

from sodiumprep.interfaces.anatomy import to_ants
from sodiumprep.interfaces.image import load_finite_image, save_image
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import (
    candidate_starts,
    index_map,
    resample,
    spread,
    synthetic_sodium,
    weighted_correlation,
)

GRID = (
    2.0  # mm, grid of the synthetic image; finer than any sodium image, 7 times cheaper than 1 mm
)
MASK_MARGIN = 8.0  # mm around the brain: keeps eyes and vials out of the score


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
    probe = np.array([37.0, -21.0, 53.0, 1.0])
    if not np.allclose(
        (matrix @ probe)[:3], transform.apply_to_point(probe[:3].tolist()), atol=1e-2
    ):
        raise ValueError(f"{path}: not a linear transform")
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
    properties = traits.Dict(mandatory=True, desc="of the image; the kernel's width is read")
    given_xfm = File(exists=True, desc="a transform to take instead of registering")
    sloppy = traits.Bool(False, usedefault=True, desc="fewer restarts")


class _RegisterSodiumOutput(TraitedSpec):
    xfm_file = File(exists=True, desc="ITK text: points of the anatomy to points of sodium, LPS")
    synthetic_file = File(exists=True, desc="what the sodium image should look like")
    properties = traits.Dict(desc="candidates, score, spread [mm], for the QC file")


class RegisterSodium(SimpleInterface):
    """Register to a synthetic sodium image from several starts; the best score wins."""

    input_spec = _RegisterSodiumInput
    output_spec = _RegisterSodiumOutput

    def _run_interface(self, runtime: Any) -> Any:
        target = _Target.build(self.inputs)
        sodium, affine = load_finite_image(self.inputs.sodium_file)
        out = Path(runtime.cwd)
        if isdefined(self.inputs.given_xfm):
            found = {"given": read_transform(self.inputs.given_xfm)}
        else:
            found = _candidates(target, sodium, affine, self.inputs.sloppy)
        names = list(found)
        scores = np.array([target.score(sodium, affine, found[name]) for name in names])
        best = int(np.argmax(scores))
        apart = spread([found[name] for name in names], best, scores, target.centre)
        self._results["xfm_file"] = write_transform(out / "xfm.txt", found[names[best]])
        self._results["synthetic_file"] = save_image(
            out / "synthetic.nii.gz", target.image, target.affine
        )
        self._results["properties"] = {
            **self.inputs.properties,
            "RegistrationCandidates": {
                name: round(float(s), 4) for name, s in zip(names, scores, strict=True)
            },
            "RegistrationChosen": names[best],
            "RegistrationScore": round(float(scores[best]), 4),
            "RegistrationSpread": None if np.isnan(apart) else round(apart, 3),
        }
        return runtime


class _Target:
    """The synthetic sodium image on a coarse grid of the anatomy, and the mask of the score."""

    def __init__(self, image: Floats, mask: Floats, affine: Floats) -> None:
        self.image, self.mask, self.affine = image, mask, affine
        inside = np.argwhere(mask).mean(axis=0)
        self.centre = np.array([-1, -1, 1]) * (affine @ [*inside, 1.0])[:3]

    @classmethod
    def build(cls, inputs: Any) -> _Target:
        fractions, (shape, affine) = {}, (None, None)
        for name, path in (
            ("GM", inputs.gm_file),
            ("WM", inputs.wm_file),
            ("CSF", inputs.csf_file),
        ):
            values, own = load_finite_image(path)
            shape, affine = _coarse_grid(values.shape, own)
            fractions[name] = resample(values, index_map(affine, own, np.eye(4)), shape, 1)
        head, own = load_finite_image(inputs.head_mask)
        head = resample(head, index_map(affine, own, np.eye(4)), shape, 1)
        fwhm = float(np.mean(inputs.properties["PointSpreadFWHM"]["GM"]))
        image = synthetic_sodium(fractions, head, fwhm, np.full(3, GRID))
        brain = sum(fractions.values()) > 0.5
        return cls(image, binary_dilation(brain, iterations=round(MASK_MARGIN / GRID)), affine)

    def score(self, sodium: Floats, affine: Floats, transform: Floats) -> float:
        moved = resample(sodium, index_map(self.affine, affine, transform), self.image.shape, 1)
        return weighted_correlation(self.image, moved, self.mask.astype(np.float32))


def _coarse_grid(shape: tuple[int, ...], affine: Floats) -> tuple[tuple[int, ...], Floats]:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    coarse = affine.copy()
    coarse[:3, :3] = affine[:3, :3] / spacing * GRID
    coarse[:3, 3] += (coarse[:3, :3] - affine[:3, :3]) @ np.full(3, 0.5)
    return tuple(int(np.ceil(n * s / GRID)) for n, s in zip(shape, spacing, strict=True)), coarse


def _candidates(
    target: _Target, sodium: Floats, affine: Floats, sloppy: bool
) -> dict[str, Floats]:
    starts = candidate_starts(
        target.image, target.affine, sodium, affine, target.centre, n_perturbed=2 if sloppy else 6
    )
    return {name: _register(target, sodium, affine, start) for name, start in starts.items()}


def _register(target: _Target, sodium: Floats, affine: Floats, start: Floats) -> Floats:
    ants = _ants()
    initial = ants.create_ants_transform(
        transform_type="AffineTransform",
        matrix=start[:3, :3],
        offset=start[:3, 3],
        dimension=3,
    )
    path = str(Path.cwd() / "start.mat")
    ants.write_transform(initial, path)
    result = ants.registration(
        fixed=to_ants(target.image, target.affine),
        moving=to_ants(sodium, affine),
        type_of_transform="Rigid",
        initial_transform=path,
        mask=to_ants(target.mask.astype(np.float32), target.affine),
        aff_metric="GC",
        aff_random_sampling_rate=0.5,
        aff_iterations=(80, 30),
        aff_shrink_factors=(4, 2),
        aff_smoothing_sigmas=(1, 0),
    )
    return _compose(result["fwdtransforms"])


def _compose(paths: list[str]) -> Floats:
    """Return the product of transforms in ITK's order: the last one is applied first."""
    matrix = np.eye(4)
    for path in paths:
        matrix = matrix @ read_transform(path)
    return matrix
