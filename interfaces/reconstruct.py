"""From raw k-space, or from a ready image, to a sodium image with its noise and its response."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from sodiumprep.interfaces.quality import spike_figures
from sodiumprep.sodium.acquisition import Acquisition, Floats, Geometry
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.delays import GradientDelays, estimate_delays
from sodiumprep.sodium.kernel import (
    ASSUMED_WIDTH_UNCERTAINTY,
    COMPUTED_WIDTH_UNCERTAINTY,
    Response,
    full_width_half_maximum,
    to_psf,
    with_gaussian_kernel,
)
from sodiumprep.sodium.measurement import Measurement, measurement_of
from sodiumprep.sodium.model_based import SENSITIVITIES, MeasurementModel, cg_sense, penalized
from sodiumprep.sodium.reconstruct import (
    ImageProperties,
    Reconstruction,
    gridding,
    magnitude_image,
    phase_corrected_image,
)
from sodiumprep.sodium.relaxation import MOVED, with_moved
from sodiumprep.sodium.segments import Evolution, Segments, adequate_segments
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.trajectory import centre_step

Constants = Mapping[str, Relaxation]
SMALL_DELAY = 2e-6  # s; moves a sample by 0.05 / FOV; sodium at the edge of the field of view was
# seen to pull the estimate by 1.5 us
USELESS_GAIN, NOTABLE_GAIN = 0.2, 0.1  # of the mean of a tissue
SEGMENT_ERROR = 0.01  # of a voxel's signal, at the worst sample


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
    """Write transfer functions, noise spectrum and, where there are any, noise modes.

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
    if response.noise_modes is not None:
        named["noise_modes"] = response.noise_modes
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
        Transfer functions, noise spectrum and noise modes.
    """
    with np.load(path) as stored:
        transfers = {
            name.removeprefix("transfer:"): stored[name]
            for name in stored.files
            if name.startswith("transfer:")
        }
        modes = stored["noise_modes"] if "noise_modes" in stored.files else None
        return Response(transfers, stored["noise_spectrum"], noise_modes=modes)


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
        if MOVED in name:
            continue
        fwhm = full_width_half_maximum(to_psf(transfer), voxel_size) * 1e3
        widths[name] = [round(float(w), 3) for w in fwhm]
        gains[name] = round(float(transfer[0, 0, 0].real), 4)
    return {"PointSpreadFWHM": widths, "PointSpreadGain": gains}


def _gridding(
    measurement: Measurement, tissues: Constants, segments: Segments | None, inputs: Any
) -> Reconstruction:
    return gridding(measurement, tissues, inputs.kspace_filter == "hamming", segments)


def _model(measurement: Measurement, segments: Segments | None, inputs: Any) -> MeasurementModel:
    return MeasurementModel(measurement, segments, inputs.sensitivities, inputs.low_mem)


def _cg(
    measurement: Measurement, tissues: Constants, segments: Segments | None, inputs: Any
) -> Reconstruction:
    rng = np.random.default_rng(inputs.random_seed)
    return cg_sense(_model(measurement, segments, inputs), tissues, rng)


def _tv(
    measurement: Measurement, tissues: Constants, segments: Segments | None, inputs: Any
) -> Reconstruction:
    rng = np.random.default_rng(inputs.random_seed)
    return penalized(_model(measurement, segments, inputs), tissues, rng)


METHODS: dict[str, Callable[..., Reconstruction]] = {
    "gridding": _gridding,
    "cg": _cg,
    "tv": _tv,
}
LINEAR = ("gridding", "cg")  # what is calibrated
UNALIGNED = "the average of the same repetitions without alignment"
REASONS = {
    "gridding": "linear and the same everywhere: its noise and its kernels are exact, which "
    "partial-volume correction rests on",
    "cg": "chosen by --recon: linear; noise by probing its covariance, kernels of the middle of "
    "the head",
    "tv": "chosen by --recon: not linear; noise by pseudo-replicas, kernels local to the middle "
    "of the head",
}


class _ReconstructOutput(TraitedSpec):
    image_file = File(exists=True, desc="sodium image [signal, arbitrary unit]")
    noise_file = File(exists=True, desc="its noise SD [same unit]")
    response_file = File(exists=True, desc="transfer functions, noise spectrum and modes (npz)")
    static_image_file = File(
        exists=True, desc="image for what does not move with the head; image_file if it lay still"
    )
    static_noise_file = File(exists=True, desc="its noise SD [same unit]")
    static_response_file = File(exists=True, desc="its transfer functions and spectrum (npz)")
    properties = traits.Dict(desc="what is known of the image, for the QC file")


class MeasurementInput(BaseInterfaceInputSpec):
    """Raw data, and what is to be corrected in them."""

    kspace_file = File(exists=True, mandatory=True, desc="raw data (ISMRMRD)")
    stated = traits.Dict(desc="what the sidecar states where the file is silent [s, rad, T]")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue [s]")
    sensitivities = traits.Enum(
        *SENSITIVITIES, usedefault=True, desc="how coil sensitivities are found, if they are used"
    )
    gradient_delay = traits.List(traits.Float, desc="of the three axes [s]; absent: none")
    estimate_delay = traits.Bool(False, usedefault=True, desc="correct the estimated delay")
    fieldmap_file = File(exists=True, desc="field map [Hz], any grid in scanner space")
    fieldmap_scale = traits.Float(1.0, usedefault=True, desc="Hz of 23Na per Hz of the map")
    low_mem = traits.Bool(False, usedefault=True, desc="slower with less memory")


class _ReconstructKspaceInput(MeasurementInput):
    recon = traits.Enum(*METHODS, usedefault=True, desc="method")
    kspace_filter = traits.Enum("none", "hamming", usedefault=True, desc="window, gridding only")
    random_seed = traits.Int(0, usedefault=True, desc="of the probes and replicas of the noise")
    psf_fwhm = traits.List(traits.Float, desc="Gaussian kernel instead of the computed one [mm]")


class ReconstructKspace(SimpleInterface):
    """Reconstruct raw k-space (see ``sodium.reconstruct`` and ``sodium.model_based``).

    Where the head moved between repetitions, the image shows it in one pose, and all else
    blurred. Vials are to be read from ``static_image_file``, the average of the same repetitions
    where they lay, with noise and response of its own. A method that is not linear calibrates
    nothing and gives its image for both.
    """

    input_spec = _ReconstructKspaceInput
    output_spec = _ReconstructOutput

    def _run_interface(self, runtime: Any) -> Any:
        acquisition = read_kspace(self.inputs.kspace_file, stated=_given(self.inputs.stated) or {})
        try:
            self._results.update(self._reconstruct(acquisition, Path(runtime.cwd)))
        except ValueError as error:
            raise ValueError(f"{self.inputs.kspace_file}: {error}") from error
        return runtime

    def _reconstruct(self, acquisition: Acquisition, folder: Path) -> dict[str, Any]:
        measurement, segments, told = measured(acquisition, self.inputs)
        constants = tissue_constants(self.inputs.tissues)
        wanted = with_moved(constants) if self.inputs.recon in LINEAR else constants
        done = METHODS[self.inputs.recon](measurement, wanted, segments, self.inputs)
        properties = {
            "Reconstruction": self.inputs.recon,
            "ReconstructionReason": REASONS[self.inputs.recon],
            "KspaceFilter": self.inputs.kspace_filter,
            **measurement.describe(),
            **told,
            **spike_figures(acquisition),
        }
        saved = (acquisition, properties, _given(self.inputs.psf_fwhm))
        results = save_reconstruction(folder, done, *saved)
        static = measurement.static if self.inputs.recon in LINEAR else None
        if static is None:
            return {**results, **_as_static(results)}
        results["properties"]["VialsFrom"] = UNALIGNED
        unaligned = METHODS[self.inputs.recon](static, constants, segments, self.inputs)
        (folder / "static").mkdir(exist_ok=True)
        return {**results, **_as_static(save_reconstruction(folder / "static", unaligned, *saved))}


def measured(
    acquisition: Acquisition, inputs: Any
) -> tuple[Measurement, Segments | None, dict[str, Any]]:
    """Return raw data made ready, the segments of their field map, and what the QC file says.

    Parameters
    ----------
    acquisition
        As read.
    inputs
        :class:`MeasurementInput`.

    Returns
    -------
    measurement
        With gradient delays and motion corrected.
    segments
        Of off-resonance, or None without a field map.
    told
        Entries ``GradientDelay``, ``OffResonance``, ``Warnings``.
    """
    delays, told = gradient_delays(
        acquisition, _given(inputs.gradient_delay), inputs.estimate_delay
    )
    segments, field = off_resonance_segments(
        acquisition, _given(inputs.fieldmap_file), inputs.fieldmap_scale
    )
    return measurement_of(acquisition, delays), segments, {**told, **field}


def _as_static(results: Mapping[str, Any]) -> dict[str, Any]:
    names = ("image_file", "noise_file", "response_file")
    return {f"static_{name}": results[name] for name in names}


def _given(value: Any) -> Any:
    return value if isdefined(value) and value else None


def save_reconstruction(
    folder: Path,
    done: Reconstruction,
    acquisition: Acquisition,
    properties: Mapping[str, Any],
    psf_fwhm: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Write an image, its noise and its response.

    Parameters
    ----------
    folder
        Where to write.
    done
        What to write.
    acquisition
        As read; its trajectory and place.
    properties
        What is known of the reconstruction, for the QC file.
    psf_fwhm
        Gaussian kernel that replaces the computed one [mm], or None.

    Returns
    -------
    results
        ``image_file``, ``noise_file``, ``response_file`` and the completed ``properties``.

    Raises
    ------
    ValueError
        If the reconstruction loses the mean of a tissue.
    """
    geometry, response = acquisition.geometry, done.response
    width_uncertainty = COMPUTED_WIDTH_UNCERTAINTY
    if psf_fwhm is not None:
        response = with_gaussian_kernel(response, geometry, np.asarray(psf_fwhm) * 1e-3)
        width_uncertainty = ASSUMED_WIDTH_UNCERTAINTY
    step = centre_step(acquisition.trajectory) * 2 * max(geometry.fov)
    described = describe_response(response, geometry.voxel_size)
    sampling = [*_sampling_warnings(step, properties), *_gain_warnings(described)]
    return {
        "image_file": save_image(folder / "image.nii.gz", done.image, geometry.affine),
        "noise_file": save_image(folder / "noise.nii.gz", done.noise_sd, geometry.affine),
        "response_file": save_response(folder / "response.npz", response),
        "properties": {
            **properties,
            "NoiseSource": done.noise_source,
            "PointSpreadUncertainty": width_uncertainty,
            "PointSpreadLocalAt": response.local_at and list(response.local_at),
            "CentreStepTimesTwiceFOV": round(step, 3),
            "Course": dict(done.course),
            "Warnings": [*done.warnings, *properties.get("Warnings", ()), *sampling],
            **described,
        },
    }


def _gain_warnings(described: Mapping[str, Any]) -> list[str]:
    """Refuse kernels that lose the mean of a tissue; name those that change it much."""
    gains = described["PointSpreadGain"]
    least = min(gains, key=gains.get, default=None)
    if least is None:
        return []
    if gains[least] <= USELESS_GAIN:
        raise ValueError(
            f"the reconstruction keeps {gains[least]:.2f} of the mean of {least}; at least "
            f"{USELESS_GAIN} is accepted: is the centre of k-space sampled?"
        )
    extreme = max(gains, key=lambda name: abs(gains[name] - 1))
    if abs(gains[extreme] - 1) <= NOTABLE_GAIN:
        return []
    return [
        f"the reconstruction changes the mean of {extreme} by a factor of {gains[extreme]:.2f}; "
        "vials and partial-volume correction allow for it, voxelwise maps only as far as it is "
        "that of the vials"
    ]


def gradient_delays(
    acquisition: Acquisition, given: Sequence[float] | None, estimate: bool
) -> tuple[Floats | None, dict[str, Any]]:
    """Return the gradient delays to correct, and what the QC file says of them.

    Parameters
    ----------
    acquisition
        As read.
    given
        Delays of the three axes [s], or None.
    estimate
        Whether the estimated ones are corrected where none are given.

    Returns
    -------
    delays
        Shape (3,) [s], or None.
    told
        ``GradientDelay``: corrected, estimated (of what the trajectory still lacks) and their
        uncertainty [us]; ``Warnings`` where a delay stands out and is not corrected.
    """
    try:
        found = estimate_delays(acquisition)
    except ValueError as error:
        known = None if given is None else np.asarray(given, float)
        return known, {"GradientDelay": {"Corrected": given and list(given), "Why": str(error)}}
    applied = given if given is not None else found.delays if estimate else None
    delays = None if applied is None else np.asarray(applied, float)
    told = {
        "Corrected_us": None if delays is None else _microseconds(delays),
        "Estimated_us": _microseconds(found.delays),
        "EstimatedUncertainty_us": _microseconds(found.uncertainty),
    }
    return delays, {"GradientDelay": told, "Warnings": _delay_warnings(found, delays)}


def _microseconds(times: Floats) -> list[float]:
    return [round(float(time) * 1e6, 3) for time in times]


def _delay_warnings(found: GradientDelays, applied: Floats | None) -> list[str]:
    left = found.delays - (0 if applied is None else applied)
    if not np.any(np.abs(left) > np.maximum(SMALL_DELAY, 4 * found.uncertainty)):
        return []
    shown = ", ".join(f"{delay * 1e6:+.1f}" for delay in found.delays)
    return [
        f"the data suggest gradient delays of {shown} us along read, phase and slice; "
        + ("another delay was given" if applied is not None else "see --gradient-delay")
    ]


def load_field_map(geometry: Geometry, path: str, scale: float) -> Floats:
    """Return a field map on the sodium grid.

    Parameters
    ----------
    geometry
        Sodium grid.
    path
        Field map [Hz], any grid in scanner space.
    scale
        Hz of 23Na per Hz of the map.

    Returns
    -------
    hertz
        Shape (nx, ny, nz) [Hz of 23Na], 0 outside the map.
    """
    values, own = load_finite_image(path)
    mapping = index_map(geometry.affine, own, np.eye(4))
    return resample(values * np.float32(scale), mapping, geometry.matrix, 1, outside=0.0)


def off_resonance_segments(
    acquisition: Acquisition, fieldmap_file: str | None, scale: float
) -> tuple[Segments | None, dict[str, Any]]:
    """Return the time segments of a field map, brought to the sodium grid.

    Parameters
    ----------
    acquisition
        As read.
    fieldmap_file
        [Hz] of the map's nucleus, or None.
    scale
        Hz of 23Na per Hz of the map.

    Returns
    -------
    segments
        Accurate to ``SEGMENT_ERROR`` of a voxel's signal, or None without a map.
    told
        ``OffResonance``: range [Hz], segments and their error.
    """
    if fieldmap_file is None:
        return None, {}
    hertz = load_field_map(acquisition.geometry, fieldmap_file, scale)
    evolution = Evolution(
        acquisition.sample_times, off_resonance=hertz, echo_time=acquisition.echo_time
    )
    segments = adequate_segments(evolution, SEGMENT_ERROR)
    return segments, {
        "OffResonance": {
            "Minimum_Hz": round(float(hertz.min()), 2),
            "Maximum_Hz": round(float(hertz.max()), 2),
            "Segments": len(segments.supports),
            "SegmentError": float(f"{segments.error:.2g}"),
        }
    }


def _sampling_warnings(step: float, properties: Mapping[str, Any]) -> list[str]:
    warnings = []
    if step > 1:
        warnings.append(
            f"the readout's steps near the centre of k-space are {step:.2f}/(2 FOV); above "
            "1/(2 FOV) they inflate the image"
        )
    ratio = properties.get("VoxelsPerSample", 0.0)
    if ratio > 1 and properties["Reconstruction"] == "gridding":
        warnings.append(
            f"{ratio:.2f} voxels per sample of k-space; above 1, gridding shows aliasing: "
            "consider --recon cg"
        )
    return warnings


class _DescribeImageInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="magnitude image")
    phase_file = File(exists=True, desc="phase image [rad or scanner units]")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue [s]")
    trajectory_type = traits.Str(desc="BIDS TrajectoryType")
    readout_duration = traits.Float(desc="[s]")
    kspace_filter = traits.Enum("none", "hamming", usedefault=True, desc="of the image")
    nominal_voxel = traits.List(traits.Float, desc="AcquisitionVoxelSize [mm], three numbers")
    psf_fwhm = traits.List(traits.Float, desc="width of a Gaussian kernel [mm], three numbers")
    echo_time = traits.Float(mandatory=True, desc="excitation to first sample [s]")
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
        constants = with_moved(tissue_constants(self.inputs.tissues))
        if isdefined(self.inputs.phase_file):
            phase, _ = load_finite_image(self.inputs.phase_file)
            done = phase_corrected_image(magnitude, phase, known, constants)
        else:
            done = magnitude_image(magnitude, known, constants)
        out = Path(runtime.cwd)
        self._results["image_file"] = save_image(out / "image.nii.gz", done.image, affine)
        self._results["noise_file"] = save_image(out / "noise.nii.gz", done.noise_sd, affine)
        self._results["response_file"] = save_response(out / "response.npz", done.response)
        self._results.update(_as_static(self._results))
        self._results["properties"] = {
            "Reconstruction": "by the scanner",
            "PointSpreadUncertainty": ASSUMED_WIDTH_UNCERTAINTY,
            "Coils": self.inputs.coils,
            "KspaceFilter": self.inputs.kspace_filter,
            "NoiseSource": done.noise_source,
            "NoiseBias": dict(done.noise_bias),
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
        echo_time=inputs.echo_time,
    )
