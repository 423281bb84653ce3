"""From raw k-space, or from a ready image, to a sodium image with its noise and its response."""

from __future__ import annotations

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

from sodiumprep.interfaces.image import load_finite_image, save_image
from sodiumprep.interfaces.kspace import read_kspace
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.kernel import (
    ASSUMED_WIDTH_UNCERTAINTY,
    COMPUTED_WIDTH_UNCERTAINTY,
    Response,
    full_width_half_maximum,
    to_psf,
    with_gaussian_kernel,
)
from sodiumprep.sodium.reconstruct import (
    ImageProperties,
    gridding,
    magnitude_image,
    phase_corrected_image,
)
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.trajectory import centre_step


def tissue_constants(tissues: Mapping[str, Mapping[str, Any]]) -> dict[str, Relaxation]:
    """Return relaxation constants from the plain dictionaries that travel between nodes.

    Parameters
    ----------
    tissues
        Fields of :class:`~sodiumprep.sodium.signal.Relaxation` by tissue.

    Returns
    -------
    constants
        By tissue.
    """
    return {name: Relaxation(**fields) for name, fields in tissues.items()}


def save_response(path: Path, response: Response) -> str:
    """Write transfer functions and noise spectrum.

    Parameters
    ----------
    path
        ``.npz`` file.
    response
        What to write.

    Returns
    -------
    path
        As given.
    """
    named: dict[str, Any] = {f"transfer:{name}": t for name, t in response.transfers.items()}
    np.savez(path, noise_spectrum=response.noise_spectrum, **named)
    return str(path)


def load_response(path: Path | str) -> Response:
    """Read what :func:`save_response` wrote.

    Parameters
    ----------
    path
        ``.npz`` file.

    Returns
    -------
    response
        Transfer functions and noise spectrum.
    """
    with np.load(path) as stored:
        transfers = {
            name.removeprefix("transfer:"): stored[name]
            for name in stored.files
            if name.startswith("transfer:")
        }
        return Response(transfers, stored["noise_spectrum"])


def describe_response(response: Response, voxel_size: Floats) -> dict[str, Any]:
    """Return widths and gains of the kernels for the QC file.

    Parameters
    ----------
    response
        Transfer functions by tissue.
    voxel_size
        Shape (3,) [m].

    Returns
    -------
    description
        ``PointSpreadFWHM`` [mm] and ``PointSpreadGain`` by tissue.
    """
    widths, gains = {}, {}
    for name, transfer in response.transfers.items():
        fwhm = full_width_half_maximum(to_psf(transfer), voxel_size) * 1e3
        widths[name] = [round(float(w), 3) for w in fwhm]
        gains[name] = round(float(transfer[0, 0, 0].real), 4)
    return {"PointSpreadFWHM": widths, "PointSpreadGain": gains}


class _ReconstructOutput(TraitedSpec):
    image_file = File(exists=True, desc="sodium image [signal, arbitrary unit]")
    noise_file = File(exists=True, desc="its noise SD [same unit]")
    response_file = File(exists=True, desc="transfer functions and noise spectrum (npz)")
    properties = traits.Dict(desc="what is known of the image, for the QC file")


class _ReconstructKspaceInput(BaseInterfaceInputSpec):
    kspace_file = File(exists=True, mandatory=True, desc="raw data (ISMRMRD)")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue [s]")
    kspace_filter = traits.Enum("none", "hamming", usedefault=True, desc="window over k-space")
    psf_fwhm = traits.List(traits.Float, desc="Gaussian kernel instead of the computed one [mm]")


class ReconstructKspace(SimpleInterface):
    """Reconstruct raw k-space by the weighted adjoint (see ``sodium.reconstruct.gridding``)."""

    input_spec = _ReconstructKspaceInput
    output_spec = _ReconstructOutput

    def _run_interface(self, runtime: Any) -> Any:
        acquisition = read_kspace(self.inputs.kspace_file)
        done = gridding(
            acquisition,
            tissue_constants(self.inputs.tissues),
            self.inputs.kspace_filter == "hamming",
        )
        response, width_uncertainty = done.response, COMPUTED_WIDTH_UNCERTAINTY
        if isdefined(self.inputs.psf_fwhm) and self.inputs.psf_fwhm:
            width = np.asarray(self.inputs.psf_fwhm) * 1e-3
            response = with_gaussian_kernel(response, acquisition.geometry, width)
            width_uncertainty = ASSUMED_WIDTH_UNCERTAINTY
        out, affine = Path(runtime.cwd), acquisition.geometry.affine
        self._results["image_file"] = save_image(out / "image.nii.gz", done.image, affine)
        self._results["noise_file"] = save_image(out / "noise.nii.gz", done.noise_sd, affine)
        self._results["response_file"] = save_response(out / "response.npz", response)
        step = centre_step(acquisition.trajectory) * 2 * max(acquisition.geometry.fov)
        self._results["properties"] = {
            "Reconstruction": "gridding",
            "Coils": int(acquisition.samples.shape[0]),
            "Readouts": int(acquisition.samples.shape[1]),
            "DensityCompensation": done.weighting,
            "KspaceFilter": self.inputs.kspace_filter,
            "NoiseSource": done.noise_source,
            "PointSpreadUncertainty": width_uncertainty,
            "CentreStepTimesTwiceFOV": round(step, 3),
            "Warnings": _step_warnings(step),
            **describe_response(response, acquisition.geometry.voxel_size),
        }
        return runtime


def _step_warnings(step: float) -> list[str]:
    if step <= 1:
        return []
    return [
        f"the readout's steps near the centre of k-space are {step:.2f}/(2 FOV); above 1/(2 FOV) "
        "they inflate the image"
    ]


class _DescribeImageInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="magnitude image")
    phase_file = File(exists=True, desc="phase image [rad or scanner units]")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue [s]")
    trajectory_type = traits.Str(desc="BIDS TrajectoryType")
    readout_duration = traits.Float(desc="[s]")
    kspace_filter = traits.Enum("none", "hamming", usedefault=True, desc="of the image")
    nominal_voxel = traits.List(traits.Float, desc="AcquisitionVoxelSize [mm], three numbers")
    psf_fwhm = traits.List(traits.Float, desc="width of a Gaussian kernel [mm], three numbers")
    coils = traits.Int(0, usedefault=True, desc="receive coils, 0 where not known")


class DescribeImage(SimpleInterface):
    """Take a ready sodium image and find its noise and its response.

    The kernel follows from the sidecar's keys or ``psf_fwhm``; the noise from the corners.
    """

    input_spec = _DescribeImageInput
    output_spec = _ReconstructOutput

    def _run_interface(self, runtime: Any) -> Any:
        magnitude, affine = load_finite_image(self.inputs.image_file)
        known = _image_properties(self.inputs, affine, magnitude.shape)
        constants = tissue_constants(self.inputs.tissues)
        if isdefined(self.inputs.phase_file):
            phase, _ = load_finite_image(self.inputs.phase_file)
            done = phase_corrected_image(magnitude, phase, known, constants)
        else:
            done = magnitude_image(magnitude, known, constants)
        out = Path(runtime.cwd)
        self._results["image_file"] = save_image(out / "image.nii.gz", done.image, affine)
        self._results["noise_file"] = save_image(out / "noise.nii.gz", done.noise_sd, affine)
        self._results["response_file"] = save_response(out / "response.npz", done.response)
        self._results["properties"] = {
            "Reconstruction": "by the scanner",
            "PointSpreadUncertainty": ASSUMED_WIDTH_UNCERTAINTY,
            "Coils": self.inputs.coils,
            "KspaceFilter": self.inputs.kspace_filter,
            "NoiseSource": done.noise_source,
            "Warnings": list(known.warnings) + list(done.warnings),
            **describe_response(done.response, known.voxel_size),
        }
        return runtime


def _image_properties(inputs: Any, affine: Floats, shape: tuple[int, ...]) -> ImageProperties:
    def given(name: str) -> Any:
        value = getattr(inputs, name)
        return value if isdefined(value) and value != [] else None

    voxel, fwhm = given("nominal_voxel"), given("psf_fwhm")
    return ImageProperties(
        shape=shape,
        voxel_size=np.linalg.norm(affine[:3, :3], axis=0) * 1e-3,
        nominal_voxel=None if voxel is None else np.asarray(voxel) * 1e-3,
        trajectory_type=given("trajectory_type"),
        readout_duration=given("readout_duration"),
        hamming=inputs.kspace_filter == "hamming",
        psf_fwhm=None if fwhm is None else np.asarray(fwhm) * 1e-3,
    )
