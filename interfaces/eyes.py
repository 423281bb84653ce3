"""The eyes of a head, found in its sodium image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from sodiumprep.interfaces.image import load_finite_image
from sodiumprep.interfaces.reconstruct import load_response
from sodiumprep.interfaces.registration import read_transform
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map
from sodiumprep.sodium.eyes import (
    Eye,
    EyeImages,
    EyeSearch,
    Placed,
    find_eyes,
    radial_transfer,
)

OF_FLUID = "CSF"  # whose kernel the vitreous humour has


class _FindEyesInput(BaseInterfaceInputSpec):
    sodium_file = File(
        exists=True, mandatory=True, desc="sodium image, receive-corrected [signal]"
    )
    response_file = File(exists=True, mandatory=True, desc="transfer functions (npz)")
    xfm_file = File(exists=True, mandatory=True, desc="points of the anatomy to points of sodium")
    anat_file = File(exists=True, mandatory=True, desc="1H image")
    brain_mask = File(exists=True, mandatory=True, desc="mask of the brain")
    head_mask = File(exists=True, mandatory=True, desc="mask of the head")
    properties = traits.Dict(mandatory=True, desc="of the image; kernel widths [mm] are read")
    needed = traits.Bool(False, usedefault=True, desc="whether the calibration rests on them")


class _FindEyesOutput(TraitedSpec):
    eyes = traits.Dict(desc="centres, radii [mm], forward, in the anatomy (RAS); empty if none")
    properties = traits.Dict(desc="input properties and what was found, for the QC file")


class FindEyes(SimpleInterface):
    """Find the vitreous bodies of both eyes (see ``sodium.eyes``)."""

    input_spec = _FindEyesInput
    output_spec = _FindEyesOutput

    def _run_interface(self, runtime: Any) -> Any:
        search = find_eyes(self._images())
        if search.reason and self.inputs.needed:
            raise ValueError(
                f"{self.inputs.sodium_file}: --reference vitreous: {search.reason}; accepted: "
                "an image that shows both eyes, or another --reference"
            )
        self._results["eyes"] = _plain(search)
        self._results["properties"] = {**self.inputs.properties, "Eyes": _told(search)}
        return runtime

    def _images(self) -> EyeImages:
        given = self.inputs
        sodium, affine = load_finite_image(given.sodium_file)
        place = sodium_to_anatomy(affine, read_transform(given.xfm_file))
        others = (given.anat_file, given.brain_mask, given.head_mask)
        proton, brain, head = (Placed(*load_finite_image(path)) for path in others)
        transfer = load_response(given.response_file).transfers[OF_FLUID]
        voxel = np.linalg.norm(affine[:3, :3], axis=0)
        width = float(np.mean(given.properties["PointSpreadFWHM"][OF_FLUID]))
        return EyeImages(
            Placed(sodium, place), proton, brain, head, radial_transfer(transfer, voxel), width
        )


def sodium_to_anatomy(affine: Floats, transform: Floats) -> Floats:
    """Return where the voxels of a sodium image lie in the anatomy.

    Parameters
    ----------
    affine
        Of the sodium image, shape (4, 4) [mm, RAS].
    transform
        Points of the anatomy to points of sodium, shape (4, 4) [mm, LPS].

    Returns
    -------
    affine
        Voxel index to position in the anatomy, shape (4, 4) [mm, RAS].
    """
    return np.asarray(np.linalg.inv(index_map(np.eye(4), affine, transform)))


def _plain(search: EyeSearch) -> dict[str, Any]:
    """Return what travels between nodes."""
    if not search.eyes:
        return {}
    return {
        "centres": [eye.centre.tolist() for eye in search.eyes],
        "radii": [eye.radius for eye in search.eyes],
        "forward": search.forward.tolist(),
    }


def eyes_from(plain: Mapping[str, Any]) -> EyeSearch:
    """Return the place of the eyes from the plain dictionary that travels between nodes.

    Parameters
    ----------
    plain
        ``centres``, ``radii`` [mm] and ``forward``.

    Returns
    -------
    search
        Of which place and size alone are known.
    """
    eyes = tuple(
        Eye(np.array(centre), radius, np.nan, np.nan, np.nan)
        for centre, radius in zip(plain["centres"], plain["radii"], strict=True)
    )
    return EyeSearch(eyes, np.array(plain["forward"]))


def _told(search: EyeSearch) -> dict[str, Any]:
    """Return what the QC file says: positions are those of the anatomy [mm, RAS]."""
    if not search.eyes:
        return {"Found": False, "Reason": search.reason}
    return {
        "Found": True,
        "Centres": [np.round(eye.centre, 2).tolist() for eye in search.eyes],
        "Radii": [round(eye.radius, 2) for eye in search.eyes],
        "Scores": [round(eye.score, 3) for eye in search.eyes],
        "Surroundings": [round(eye.contrast, 3) for eye in search.eyes],
    }
