"""Reconstruction of raw k-space: the weighted adjoint with its noise and its response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sodiumprep.sodium.acquisition import Floats, Geometry
from sodiumprep.sodium.coils import combine_coils, smooth_coil_images
from sodiumprep.sodium.density import hamming_filter
from sodiumprep.sodium.kernel import (
    Response,
    gaussian_transfer,
    readout_times,
    relative_radius,
    spherical_transfer,
    tissue_transfers,
)
from sodiumprep.sodium.measurement import Measurement
from sodiumprep.sodium.noise import (
    adjoint_noise_gain,
    adjoint_noise_spectrum,
    background_moments,
    coil_noise_modes,
    corner_mask,
    noise_covariance,
    normalized_spectrum,
    unbiased_magnitude,
)
from sodiumprep.sodium.operators import encoding
from sodiumprep.sodium.segments import Segments
from sodiumprep.sodium.signal import Relaxation


@dataclass(frozen=True)
class Reconstruction:
    """A sodium image with what is known of it.

    Parameters
    ----------
    image
        Real, shape (nx, ny, nz) [signal per volume, arbitrary].
    noise_sd
        Standard deviation of its noise, same shape and unit.
    response
        Transfer function by tissue, noise spectrum and, for gridding, noise modes.
    noise_source
        Where the noise level comes from.
    warnings
        What a reader of the image must know.
    course
        Of the iterations, as plain values for the quality figures; empty without iterations.
    noise_bias
        What was done about the noise bias of a ready image, as plain values; empty for raw data.
    """

    image: Floats
    noise_sd: Floats
    response: Response
    noise_source: str
    warnings: tuple[str, ...] = ()
    course: Mapping[str, Any] = field(default_factory=dict)
    noise_bias: Mapping[str, Any] = field(default_factory=dict)


def gridding(
    measurement: Measurement,
    tissues: Mapping[str, Relaxation],
    hamming: bool = False,
    segments: Segments | None = None,
) -> Reconstruction:
    """Reconstruct by the density-weighted adjoint of the encoding.

    Parameters
    ----------
    measurement
        Raw data, made ready.
    tissues
        Relaxation constants by name: one transfer function is computed for each.
    hamming
        Whether a Hamming window is laid over k-space.
    segments
        Change along the readout whose conjugate is applied (off-resonance), or None.

    Returns
    -------
    reconstruction
        Image, noise, response; all exact, since the method is linear and the same everywhere.

    References
    ----------
    Nagel et al. 2009, doi:10.1002/mrm.22157
    """
    acquisition, weights = measurement.acquisition, measurement.weights
    geometry, trajectory = acquisition.geometry, acquisition.trajectory
    if hamming:
        weights = (weights * hamming_filter(trajectory)).astype(np.float32)
    back = encoding(trajectory, geometry, segments=segments).H
    coil_images = np.stack([back(c * weights) for c in acquisition.samples])
    covariance = measurement.covariance * adjoint_noise_gain(weights) ** 2
    low_resolution = smooth_coil_images(coil_images)
    image, noise_sd = combine_coils(coil_images, covariance, low_resolution)
    modes = coil_noise_modes(low_resolution, covariance)
    transfers = tissue_transfers(
        tissues,
        weights,
        acquisition.sample_times,
        trajectory,
        geometry,
        acquisition.echo_time,
    )
    spectrum = adjoint_noise_spectrum(weights, trajectory, geometry)
    return Reconstruction(
        image, noise_sd, Response(transfers, spectrum, noise_modes=modes),
        measurement.noise_source, measurement.warnings,
    )  # fmt: skip


@dataclass(frozen=True)
class ImageProperties:
    """What is known of an image that somebody else reconstructed; None where it is not.

    Parameters
    ----------
    shape
        Of the image.
    voxel_size
        Shape (3,) [m].
    echo_time
        From the excitation to the first sample [s].
    nominal_voxel
        Voxel size that the acquisition resolves, shape (3,) [m].
    trajectory_type
        As BIDS TrajectoryType in lower case.
    readout_duration
        [s].
    hamming
        Whether a Hamming window was laid over k-space.
    psf_fwhm
        Width of the kernel along the axes, shape (3,) [m]; wins over the other keys.
    """

    shape: tuple[int, ...]
    voxel_size: Floats
    echo_time: float
    nominal_voxel: Floats | None = None
    trajectory_type: str | None = None
    readout_duration: float | None = None
    hamming: bool = False
    psf_fwhm: Floats | None = None

    @property
    def geometry(self) -> Geometry:
        """Grid of the image, placed at the origin."""
        x, y, z = (int(n) for n in self.shape)
        fov = self.voxel_size * np.asarray(self.shape)
        return Geometry(np.zeros(3), np.eye(3), (fov[0], fov[1], fov[2]), (x, y, z))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What had to be assumed of the kernel."""
        if self.psf_fwhm is not None:
            return ()
        missing = [
            key
            for key, value in (
                ("TrajectoryType", self.trajectory_type),
                ("ReadoutDuration", self.readout_duration),
                ("AcquisitionVoxelSize", self.nominal_voxel),
            )
            if value is None
        ]
        if not missing:
            return ()
        return (
            f"{', '.join(missing)} not in the sidecar: a spherical kernel of the image's own "
            "voxel size without decay is assumed; give the keys or --psf-fwhm",
        )


def assumed_response(known: ImageProperties, tissues: Mapping[str, Relaxation]) -> Response:
    """Return the response of an image from what its sidecar tells.

    Parameters
    ----------
    known
        Properties of the image.
    tissues
        Relaxation constants by name.

    Returns
    -------
    response
        A Gaussian for all tissues where its width is given; else a spherical coverage with each
        tissue's decay, or without decay where the readout is not known.
    """
    geometry = known.geometry
    x, y, z = geometry.matrix
    doubled = (2 * x, 2 * y, 2 * z)
    if known.psf_fwhm is not None:
        gaussian = gaussian_transfer(geometry, known.psf_fwhm)
        spectrum = normalized_spectrum(gaussian**2, doubled)
        return Response({name: gaussian.astype(np.complex64) for name in tissues}, spectrum)
    nominal = known.voxel_size if known.nominal_voxel is None else known.nominal_voxel
    radius = relative_radius(geometry, nominal)
    told = known.trajectory_type is not None and known.readout_duration is not None
    times = (
        readout_times(known.trajectory_type or "", known.readout_duration or 0.0)
        if told
        else np.zeros(2)
    )
    if known.hamming and not told:
        times = np.zeros(64)
    transfers = {
        name: spherical_transfer(radius, times, relaxation, known.hamming, known.echo_time).astype(
            np.complex64
        )
        for name, relaxation in tissues.items()
    }
    flat = Relaxation(t1=1.0, t2_short=1e9, t2_long=1e9, short_fraction=0.0)
    coverage = spherical_transfer(radius, np.zeros(64), flat, known.hamming, known.echo_time)
    return Response(transfers, normalized_spectrum(coverage**2, doubled))


def magnitude_image(
    magnitude: Floats, known: ImageProperties, tissues: Mapping[str, Relaxation]
) -> Reconstruction:
    """Take a magnitude image: its noise from the corners, its noise bias removed.

    Parameters
    ----------
    magnitude
        Shape (nx, ny, nz).
    known
        Properties of the image.
    tissues
        Relaxation constants by name.

    Returns
    -------
    reconstruction
        The noise SD is nan where the corners hold no noise (masked by the scanner).

    References
    ----------
    Koay & Basser 2006, doi:10.1016/j.jmr.2006.01.016
    """
    response = assumed_response(known, tissues)
    try:
        noise_sd, mean_square, channels = background_moments(magnitude)
    except ValueError as error:
        unknown = np.full(magnitude.shape, np.nan, np.float32)
        told = (f"the noise cannot be measured: {error}",)
        bias = {"Removed": False, "Reason": "the background holds no noise that tells it"}
        return Reconstruction(magnitude, unknown, response, "none", told, noise_bias=bias)
    image = unbiased_magnitude(magnitude, mean_square)
    level = np.full(magnitude.shape, noise_sd, np.float32)
    source = f"corners of the magnitude image ({channels:.1f} effective channels)"
    bias = {
        "Removed": True,
        "EffectiveChannels": round(channels, 3),
        "BackgroundRootMeanSquare": float(np.sqrt(mean_square)),
    }
    return Reconstruction(image, level, response, source, noise_bias=bias)


def phase_corrected_image(
    magnitude: Floats,
    phase: Floats,
    known: ImageProperties,
    tissues: Mapping[str, Relaxation],
) -> Reconstruction:
    """Take magnitude and phase: the real part in phase with the low-resolution image.

    Parameters
    ----------
    magnitude
        Shape (nx, ny, nz).
    phase
        Same shape [rad, or any unit whose range is a full turn].
    known
        Properties of the image.
    tissues
        Relaxation constants by name.

    Returns
    -------
    reconstruction
        Without noise bias.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if magnitude.shape != phase.shape:
        raise ValueError(f"magnitude {magnitude.shape} and phase {phase.shape} differ in shape")
    span = float(np.ptp(phase))
    radians = phase if span <= 2 * np.pi * 1.01 else phase * (2 * np.pi / span)
    complex_image = (magnitude * np.exp(1j * radians)).astype(np.complex64)[None]
    corners = complex_image[:, corner_mask(magnitude.shape)]
    image, noise_sd = combine_coils(complex_image, noise_covariance(corners, 1.0))
    response = assumed_response(known, tissues)
    bias = {"Removed": False, "Reason": "the phase-corrected real part has none"}
    source = "corners of the complex image"
    return Reconstruction(image, noise_sd, response, source, noise_bias=bias)
