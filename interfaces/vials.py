"""Calibration vials without a label image: found in the sodium image, told apart, labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from sodiumprep.interfaces.calibrate import known_of_vial, protocol_of
from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.interfaces.reconstruct import load_response, tissue_constants
from sodiumprep.interfaces.registration import read_transform
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.alignment import index_map
from sodiumprep.sodium.calibrate import (
    FLUIDS,
    VialSignal,
    magnetization_factor,
    vial_lines,
)
from sodiumprep.sodium.regions import fine_affine, subdivision
from sodiumprep.sodium.vials import (
    DIRECTIONS,
    FoundVial,
    VialSearch,
    head_on_grid,
    identify_vials,
    label_vials,
    search_vials,
)

KERNEL = "CSF"  # a vial that is not yet known takes the kernel of a fluid


class _FindVialsInput(BaseInterfaceInputSpec):
    static_file = File(
        exists=True, mandatory=True, desc="receive-corrected image, vials lie still [signal]"
    )
    static_noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    static_response_file = File(exists=True, mandatory=True, desc="its transfer functions (npz)")
    head_mask = File(exists=True, mandatory=True, desc="mask of the head, space of the anatomy")
    xfm_file = File(exists=True, mandatory=True, desc="points of the anatomy to points of sodium")
    properties = traits.Dict(mandatory=True, desc="of the image; 'ReceiveUncorrected' is read")
    vials = traits.List(
        traits.Dict, usedefault=True, desc="name, concentration [mmol/L], position [mm, RAS], ..."
    )
    direction = traits.Enum("", *DIRECTIONS, usedefault=True, desc="in which they are listed")
    required = traits.Bool(
        False, usedefault=True, desc="fail where CSF would have to calibrate instead"
    )
    force = traits.Bool(False, usedefault=True, desc="calibrate by a poor line through vials too")
    assumed = traits.Dict(FLUIDS, usedefault=True, desc="of fluids, with uncertainty [mmol/L]")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue and vial [s]")
    protocol = traits.Dict(mandatory=True, desc="echo and repetition time [s], flip angle [rad]")


class _FindVialsOutput(TraitedSpec):
    label_file = traits.Either(
        None, File(exists=True), desc="label n is entry n of the list; None where none calibrate"
    )
    names = traits.List(traits.Str, desc="of the vials in the label image")
    reference = traits.Str(desc="what calibrates where vials are wanted: vials, or csf without")
    properties = traits.Dict(desc="input properties and what was found")


class FindVials(SimpleInterface):
    """Find vials outside the head and tell which of the listed ones each is.

    Where that fails, CSF calibrates and a warning says why; where vials are required, the reason
    is an error. Vials that are not listed are reported.
    """

    input_spec = _FindVialsInput
    output_spec = _FindVialsOutput

    def _run_interface(self, runtime: Any) -> Any:
        image, affine = load_finite_image(self.inputs.static_file)
        search = self._search(image, affine)
        listed, basis, why = [*self.inputs.vials], "", ""
        order: tuple[int, ...] = ()
        if listed:
            try:
                order, basis = self._identify(search.vials, affine)
            except ValueError as error:
                why = f"vials not used: {error}{_others(search)}"
        if why and self.inputs.required:
            raise ValueError(f"{self.inputs.static_file}: --reference is vials, but {why}")
        self._results["label_file"] = None
        self._results["names"] = [vial["name"] for vial in listed] if order else []
        if order:
            factor = subdivision(np.linalg.norm(affine[:3, :3], axis=0))
            fine = fine_affine(affine, factor)
            shape = tuple(n * factor for n in image.shape)
            labels = label_vials([search.vials[k] for k in order], fine, shape)
            self._results["label_file"] = save_image(
                Path(runtime.cwd) / "vials.nii.gz", labels, fine
            )
        self._results["reference"] = "vials" if order else "csf"
        self._results["properties"] = self._told(search, order, basis, why)
        return runtime

    def _search(self, image: Floats, affine: Floats) -> VialSearch:
        noise, _ = load_image(self.inputs.static_noise_file)
        head, own = load_finite_image(self.inputs.head_mask)
        back = np.linalg.inv(read_transform(self.inputs.xfm_file))
        return search_vials(
            image,
            noise,
            affine,
            head_on_grid(head, index_map(affine, own, back), image.shape),
            load_response(self.inputs.static_response_file).transfers[KERNEL],
        )

    def _identify(
        self, found: tuple[FoundVial, ...], affine: Floats
    ) -> tuple[tuple[int, ...], str]:
        listed = self.inputs.vials
        constants, protocol = (
            tissue_constants(self.inputs.tissues),
            protocol_of(self.inputs.protocol),
        )
        factors = [protocol.factor(constants[vial["name"]]) for vial in listed]
        expected = [
            vial["concentration"] * factor * magnetization_factor(vial.get("temperature"))[0]
            for vial, factor in zip(listed, factors, strict=True)
        ]
        uncorrected = self.inputs.properties.get("ReceiveUncorrected")
        bias = "the receive profile is not corrected" if uncorrected else ""
        identity = identify_vials(
            found,
            [vial.get("position") for vial in listed],
            np.array(expected),
            self.inputs.direction,
            bias,
        )
        chosen = [found[k] for k in identity.order]
        voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1e3
        refuse_poor_line(chosen, listed, factors, voxel_ml, self.inputs.force)
        return identity.order, identity.basis

    def _told(
        self, search: VialSearch, order: tuple[int, ...], basis: str, why: str
    ) -> dict[str, Any]:
        names = {k: vial["name"] for k, vial in zip(order, self.inputs.vials, strict=False)}
        warnings = list(self.inputs.properties.get("Warnings", []))
        if why:
            value = self.inputs.assumed["csf"][0]
            warnings.append(
                f"{why}; calibrated by CSF at an assumed {value:g} mmol/L: all values are "
                "relative to it"
            )
        if search.vials and not self.inputs.vials:
            warnings.append(
                f"{_counted(len(search.vials))} found, no concentrations known: not used"
            )
        if basis == "brightness":
            warnings.append(
                "which vial is which rests on their brightness alone: give Position, "
                "CalibrationVialsAxis or a label image"
            )
        return {
            **self.inputs.properties,
            "VialsFound": [_described(v, names.get(k)) for k, v in enumerate(search.vials)],
            **({"VialsIdentifiedBy": basis} if basis else {}),
            "Warnings": warnings,
        }


def refuse_poor_line(
    found: Sequence[FoundVial],
    listed: Sequence[Mapping[str, Any]],
    factors: Sequence[float],
    voxel_ml: float,
    force: bool,
) -> None:
    """Refuse what would refuse to calibrate, while there still is a way out.

    Parameters
    ----------
    found, listed
        The same vials, as they were found and as entries of the list.
    factors
        Their relaxation factors.
    voxel_ml
        Volume of a voxel [ml].
    force
        Whether a poor line calibrates.

    Raises
    ------
    ValueError
        As :func:`vial_lines`.
    """
    counts = [max(1, round(vial.volume_ml / voxel_ml)) for vial in found]
    trial = [
        VialSignal(vial.signal, vial.u_signal, n, factor=factor, **known_of_vial(entry))
        for vial, n, entry, factor in zip(found, counts, listed, factors, strict=True)
    ]
    vial_lines(trial, force)


def _counted(n: int) -> str:
    return f"{n} vial" if n == 1 else f"{n} vials"


def _others(search: VialSearch) -> str:
    """Return what else was seen, for messages."""
    return f" (not taken: {'; '.join(search.rejected)})" if search.rejected else ""


def _described(vial: FoundVial, name: str | None) -> dict[str, Any]:
    return {
        **({"Name": name} if name else {}),
        "Centre": [round(float(c), 1) for c in vial.centre],
        "Axis": [round(float(c), 3) for c in vial.axis],
        "Diameter": round(2 * vial.radius, 1),
        "Length": round(vial.length, 1),
        "Volume": round(vial.volume_ml, 1),
        "Signal": vial.signal,
        "Uniform": vial.is_uniform,
    }
