"""Point-spread functions: how a reconstruction blurs each tissue, as transfer functions.

A transfer function lives on the grid of spatial frequencies of twice the field of view, so that
blurring does not wrap around; only the non-redundant half is kept (``scipy.fft.rfftn`` order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry, Numbers
from sodiumprep.sodium.density import doubled_geometry
from sodiumprep.sodium.encoding import adjoint
from sodiumprep.sodium.signal import Relaxation, biexponential_decay
from sodiumprep.sodium.trajectory import density_adapted_radius

# relative standard uncertainty of a kernel's width: computed from the trajectory (imperfect
# gradients are not known: assumed; uncertain decay counts by itself, as a relaxation constant), or
# assumed from a sidecar
COMPUTED_WIDTH_UNCERTAINTY = 0.017
ASSUMED_WIDTH_UNCERTAINTY = 0.05
FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))
RADIAL_SHARE = {"radial": 1.0}  # share of the radius sampled at constant gradient
DENSITY_ADAPTED_SHARE = 0.3  # Nagel 2009, doi:10.1002/mrm.22157: usual choice; also for TPI


@dataclass(frozen=True)
class Response:
    """How an image answers to a point of each tissue, and how its noise is correlated.

    Parameters
    ----------
    transfers
        Transfer function by tissue, each of shape (2 nx, 2 ny, nz + 1), 1 where the tissue's
        density at the echo time passes unchanged.
    noise_spectrum
        Power spectrum of the noise, same shape, scaled so that the correlation at lag 0 is 1.
    local_at
        Voxel for which the transfer functions were found; None where they hold everywhere.
    noise_modes
        As in :class:`~sodiumprep.sodium.noise.ImageNoise`, shape (modes, nx, ny, nz); None where
        the noise is taken for stationary up to its level.
    """

    transfers: Mapping[str, Complexes]
    noise_spectrum: Floats
    local_at: tuple[int, int, int] | None = None
    noise_modes: Floats | None = None


@dataclass(frozen=True)
class LocalResponse:
    """How a reconstruction answers to a small point in one voxel; elsewhere it may differ.

    Parameters
    ----------
    transfer
        Transfer function of the kernel, shape (2 nx, 2 ny, nz + 1), 1 at k = 0.
    gain
        Sum of the image of a point over its density: what the reconstruction does to the mean.
    voxel
        Where the point lies.
    """

    transfer: Complexes
    gain: float
    voxel: tuple[int, int, int]

    @property
    def passed(self) -> Complexes:
        """Transfer function with the gain in it, as in :class:`Response`."""
        return np.asarray(self.transfer * np.float32(self.gain), self.transfer.dtype)


def point_spread(weights: Floats, decay: Floats, trajectory: Floats, geometry: Geometry) -> Floats:
    """Return the image of a unit point in the centre, on twice the field of view.

    Parameters
    ----------
    weights
        Density compensation times filter, shape (readouts, n) [1/m^3].
    decay
        Signal of the tissue along the readout, 1 at its start, shape (n,).
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid of the image.

    Returns
    -------
    psf
        Shape (2 nx, 2 ny, 2 nz), centre at index (nx, ny, nz); sums to the gain at k = 0.
    """
    image = adjoint(weights * decay, trajectory, doubled_geometry(geometry)).real
    return np.asarray(image * np.prod(geometry.voxel_size), np.float32)


def to_transfer(psf: Floats) -> Complexes:
    """Return the transfer function of a kernel whose centre is at index ``n // 2``.

    Parameters
    ----------
    psf
        Shape (2 nx, 2 ny, 2 nz).

    Returns
    -------
    transfer
        Shape (2 nx, 2 ny, nz + 1).
    """
    return np.asarray(scipy.fft.rfftn(scipy.fft.ifftshift(psf)))


def to_psf(transfer: Complexes) -> Floats:
    """Return the kernel of a transfer function, the inverse of :func:`to_transfer`.

    Parameters
    ----------
    transfer
        Shape (2 nx, 2 ny, nz + 1).

    Returns
    -------
    psf
        Shape (2 nx, 2 ny, 2 nz).
    """
    shape = (*transfer.shape[:2], 2 * (transfer.shape[2] - 1))
    return np.asarray(scipy.fft.fftshift(scipy.fft.irfftn(transfer, shape)))


def tissue_transfers(
    tissues: Mapping[str, Relaxation],
    weights: Floats,
    sample_times: Floats,
    trajectory: Floats,
    geometry: Geometry,
    echo_time: float,
) -> dict[str, Complexes]:
    """Return the transfer function of each tissue for a gridding reconstruction.

    Parameters
    ----------
    tissues
        Constants by name.
    weights
        Density compensation times filter, shape (readouts, n) [1/m^3].
    sample_times
        After the first sample, shape (n,) [s].
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid of the image.
    echo_time
        From the excitation to the first sample [s].

    Returns
    -------
    transfers
        By name, each of shape (2 nx, 2 ny, nz + 1). The loss at the echo time belongs to the
        relaxation correction: the decay starts from 1 at the first sample.
    """
    transfers = {}
    for name, relaxation in tissues.items():
        decay = decay_from_first_sample(relaxation, sample_times, echo_time)
        psf = point_spread(weights, decay, trajectory, geometry)
        transfers[name] = to_transfer(psf).astype(np.complex64)
    return transfers


def point_samples(
    voxel: tuple[int, int, int],
    change: Numbers,
    sensitivity: Complexes,
    trajectory: Floats,
    geometry: Geometry,
) -> Complexes:
    """Return the k-space of one voxel that is filled with density 1.

    Parameters
    ----------
    voxel
        Index of the voxel; the density stands in its middle.
    change
        Signal of the tissue along the readout, of magnitude 1 at its start, shape (n,).
    sensitivity
        Of each coil in that voxel, shape (coils,).
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid of the image.

    Returns
    -------
    samples
        Shape (coils, readouts, n), complex64 [density times m^3].
    """
    offset = (np.asarray(voxel) - np.asarray(geometry.matrix) // 2) * geometry.voxel_size
    phase = np.exp(-2j * np.pi * (np.asarray(trajectory, np.float64) @ offset))
    one_coil = (float(np.prod(geometry.voxel_size)) * phase * change).astype(np.complex64)
    return np.asarray(sensitivity, np.complex64)[:, None, None] * one_coil


def local_response(
    reconstruct: Callable[[Complexes], Numbers],
    samples: Complexes,
    point: Complexes,
    voxel: tuple[int, int, int],
    amplitude: float,
    baseline: Numbers | None = None,
) -> LocalResponse:
    """Return the response of any reconstruction to a small point on top of the data.

    For a linear method it does not depend on the data, nor on the amplitude. For another it holds
    for this object, this place and a contrast of about this amplitude.

    Parameters
    ----------
    reconstruct
        From samples, shape (coils, readouts, n), to an image, shape (nx, ny, nz).
    samples
        The data, shape (coils, readouts, n).
    point
        K-space of the voxel filled with density 1 of the tissue (:func:`point_samples`).
    voxel
        Index of that voxel.
    amplitude
        Density of the point, in units of the image; a tenth of the tissue's is small enough, and
        large against the rounding of single precision.
    baseline
        Image of the data without the point, where it is known already.

    Returns
    -------
    response
        Of the real part of the image, marked by its voxel.

    Raises
    ------
    ValueError
        If the amplitude is not positive, or the point leaves nothing in the image.

    References
    ----------
    Fessler & Rogers 1996, doi:10.1109/83.535846
    """
    if not amplitude > 0:
        raise ValueError(f"the amplitude of the point is {amplitude}; it must be positive")
    before = reconstruct(samples) if baseline is None else baseline
    after = reconstruct((samples + np.float32(amplitude) * point).astype(samples.dtype))
    return response_at(np.real(after - before) / amplitude, voxel)


def response_at(image: Floats, voxel: tuple[int, int, int]) -> LocalResponse:
    """Return the response that the image of one voxel of density 1 shows.

    Parameters
    ----------
    image
        Shape (nx, ny, nz). Of a linear method it may come from its normal operator:
        ``(A^H W A + R)^-1 A^H W A_t`` on the voxel, where ``A_t`` has the tissue's decay in it.
    voxel
        Where the density stands.

    Returns
    -------
    response
        Kernel with transfer 1 at k = 0, and gain.

    Raises
    ------
    ValueError
        If the image sums to nothing.

    Examples
    --------
    >>> image = np.zeros((4, 4, 4))
    >>> image[1, 2, 3] = 0.9
    >>> response_at(image, (1, 2, 3)).gain
    0.9
    """
    gain = float(image.sum(dtype=np.float64))
    if not gain > 0:
        raise ValueError(f"the image of a point sums to {gain:.3g}; it must be positive")
    transfer = to_transfer(on_doubled_grid(image, voxel) / gain).astype(np.complex64)
    return LocalResponse(transfer, gain, voxel)


def on_doubled_grid(image: Floats, voxel: tuple[int, int, int]) -> Floats:
    """Put an image on twice its field of view, with one of its voxels in the centre.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    voxel
        Index of the voxel that goes to (nx, ny, nz).

    Returns
    -------
    doubled
        Shape (2 nx, 2 ny, 2 nz), 0 where the image does not reach.
    """
    doubled = np.zeros([2 * n for n in image.shape], image.dtype)
    starts = [n - v for n, v in zip(image.shape, voxel, strict=True)]
    place = tuple(slice(s, s + n) for s, n in zip(starts, image.shape, strict=True))
    doubled[place] = image
    return doubled


def decay_from_first_sample(
    relaxation: Relaxation, sample_times: Floats, echo_time: float
) -> Floats:
    """Return the decay along a readout, relative to its first sample.

    Parameters
    ----------
    relaxation
        Constants of the tissue.
    sample_times
        After the first sample, any shape [s].
    echo_time
        From the excitation to the first sample [s]: the fast component has lost more by then.

    Returns
    -------
    decay
        Same shape, 1 at time 0, float32. The loss at the echo time belongs to the relaxation
        correction.

    Examples
    --------
    >>> tissue = Relaxation(t1=0.037, t2_short=0.003, t2_long=0.025, short_fraction=0.6)
    >>> round(float(decay_from_first_sample(tissue, np.array([0.005]), 0.0005)[0]), 3)
    0.463
    """
    left = biexponential_decay(echo_time, relaxation)
    later = biexponential_decay(np.asarray(sample_times) + echo_time, relaxation)
    return np.asarray(later / left, np.float32)


def frequency_axes(geometry: Geometry) -> list[Floats]:
    """Return the spatial frequencies of the doubled grid along each axis.

    Parameters
    ----------
    geometry
        Voxel grid of the image.

    Returns
    -------
    axes
        Three arrays [1/m], broadcastable to (2 nx, 2 ny, nz + 1).
    """
    doubled = doubled_geometry(geometry)
    size = doubled.voxel_size
    return [
        scipy.fft.fftfreq(doubled.matrix[0], size[0])[:, None, None],
        scipy.fft.fftfreq(doubled.matrix[1], size[1])[None, :, None],
        scipy.fft.rfftfreq(doubled.matrix[2], size[2])[None, None, :],
    ]


def spherical_transfer(
    relative_radius: Floats,
    decay_times: Floats,
    relaxation: Relaxation,
    hamming: bool,
    echo_time: float,
) -> Floats:
    """Return the transfer function of a spherical coverage of k-space with decay on its way out.

    Parameters
    ----------
    relative_radius
        Spatial frequency over the sampled radius, any shape.
    decay_times
        Time at which each of equally spaced radii from 0 to 1 is sampled, shape (m,) [s].
    relaxation
        Constants of the tissue.
    hamming
        Whether the data were Hamming filtered.
    echo_time
        From the excitation to the first sample [s].

    Returns
    -------
    transfer
        Same shape as ``relative_radius``; 0 outside the sphere.
    """
    radii = np.linspace(0, 1, len(decay_times))
    profile = decay_from_first_sample(relaxation, decay_times, echo_time)
    if hamming:
        profile = profile * (0.54 + 0.46 * np.cos(np.pi * radii))
    return np.interp(relative_radius, radii, profile, right=0.0)


def readout_times(trajectory_type: str, readout_duration: float, n_radii: int = 512) -> Floats:
    """Return when a centre-out readout passes equally spaced radii of k-space.

    Parameters
    ----------
    trajectory_type
        "radial", "density-adapted radial", "tpi", "cones", "floret" or "cartesian".
    readout_duration
        [s].
    n_radii
        Radii from 0 to the largest.

    Returns
    -------
    times
        Shape (n_radii,) [s]; all zero for a Cartesian readout, whose decay does not follow the
        radius.
    """
    if trajectory_type == "cartesian":
        return np.zeros(n_radii)
    share = RADIAL_SHARE.get(trajectory_type, DENSITY_ADAPTED_SHARE)
    time = np.linspace(0, readout_duration, 4096)
    radius = density_adapted_radius(len(time), 1.0, share)
    return np.interp(np.linspace(0, 1, n_radii), radius, time)


def gaussian_transfer(geometry: Geometry, fwhm: Floats) -> Floats:
    """Return the transfer function of a Gaussian.

    Parameters
    ----------
    geometry
        Voxel grid of the image.
    fwhm
        Full width at half maximum along the three axes, shape (3,) [m].

    Returns
    -------
    transfer
        Shape (2 nx, 2 ny, nz + 1).
    """
    sigma = np.asarray(fwhm) * FWHM_TO_SIGMA
    exponent: Floats = np.zeros(())
    for axis, s in zip(frequency_axes(geometry), sigma, strict=True):
        exponent = exponent + (axis * s) ** 2
    return np.asarray(np.exp(-2 * np.pi**2 * exponent))


def with_gaussian_kernel(response: Response, geometry: Geometry, fwhm: Floats) -> Response:
    """Return a response whose kernels are replaced by one Gaussian.

    Parameters
    ----------
    response
        Whose tissues, noise spectrum and noise modes are kept.
    geometry
        Voxel grid of the image.
    fwhm
        Width along the three axes, shape (3,) [m].

    Returns
    -------
    response
        With the same kernel for every tissue.
    """
    gaussian = gaussian_transfer(geometry, fwhm).astype(np.complex64)
    return replace(response, transfers=dict.fromkeys(response.transfers, gaussian), local_at=None)


def relative_radius(geometry: Geometry, nominal_voxel: Floats) -> Floats:
    """Return the spatial frequency in units of the sampled radius ``1 / (2 nominal voxel)``.

    Parameters
    ----------
    geometry
        Voxel grid of the image.
    nominal_voxel
        Voxel size that the acquisition resolves, shape (3,) [m]; the image may be interpolated.

    Returns
    -------
    radius
        Shape (2 nx, 2 ny, nz + 1).
    """
    squares = [
        (2 * axis * voxel) ** 2
        for axis, voxel in zip(frequency_axes(geometry), nominal_voxel, strict=True)
    ]
    return np.asarray(np.sqrt(squares[0] + squares[1] + squares[2]))


def full_width_half_maximum(psf: Floats, voxel_size: Floats, oversampling: int = 16) -> Floats:
    """Return the width of a kernel along each axis, between the half-maximum points.

    Parameters
    ----------
    psf
        Shape (2 nx, 2 ny, 2 nz), centre at ``n // 2``.
    voxel_size
        Shape (3,) [m].
    oversampling
        Points per voxel of the band-limited interpolation.

    Returns
    -------
    fwhm
        Shape (3,) [m].
    """
    centre = tuple(n // 2 for n in psf.shape)
    widths = []
    for axis in range(3):
        line = np.take(psf, centre[(axis + 1) % 3], axis=(axis + 1) % 3)
        line = np.take(line, centre[(axis + 2) % 3], axis=_left_axis(axis))
        widths.append(_line_width(line, oversampling) * voxel_size[axis])
    return np.asarray(widths)


def _left_axis(axis: int) -> int:
    """Return where axis ``axis + 2`` stands after axis ``axis + 1`` has been taken away."""
    remaining = [a for a in range(3) if a != (axis + 1) % 3]
    return remaining.index((axis + 2) % 3)


def _line_width(line: Floats, oversampling: int) -> float:
    spectrum = scipy.fft.rfft(scipy.fft.ifftshift(line.astype(np.float64)))
    fine = scipy.fft.irfft(spectrum, line.size * oversampling)[: line.size * oversampling // 2]
    below = int(np.argmax(fine < fine[0] / 2))
    above, under = fine[below - 1], fine[below]
    crossing = below - 1 + (above - fine[0] / 2) / (above - under)
    return float(2 * crossing / oversampling)


def near_part(transfer: Complexes, radius: float) -> Complexes:
    """Return the transfer function of what a kernel holds near its centre.

    Too few readouts leave streaks far from the centre, whose transfer function varies from
    frequency to frequency; no deconvolution undoes them.

    Parameters
    ----------
    transfer
        Shape (2 nx, 2 ny, nz + 1).
    radius
        Where nothing is left [voxels]; within half of it all is kept.

    Returns
    -------
    transfer
        With the gain at k = 0 as it was, same shape.

    Examples
    --------
    >>> grid = Geometry(np.zeros(3), np.eye(3), (12.0,) * 3, (12,) * 3)
    >>> narrow = gaussian_transfer(grid, np.full(3, 3.0)).astype(np.complex64)
    >>> bool(np.allclose(near_part(narrow, 12.0), narrow, atol=1e-3))
    True
    """
    kernel = to_psf(transfer)
    squares = [(np.arange(n) - n // 2) ** 2 for n in kernel.shape]
    distance = np.sqrt(np.add.outer(np.add.outer(*squares[:2]), squares[2]))
    fading = np.cos(np.pi / 2 * np.clip(2 * distance / radius - 1, 0, 1)) ** 2
    near = to_transfer((kernel * fading).astype(kernel.dtype))
    return np.asarray(near * (transfer[0, 0, 0] / near[0, 0, 0]), np.complex64)


def blur(image: Floats, transfer: Numbers) -> Floats:
    """Return an image blurred by a kernel, without wrap-around.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    transfer
        Shape (2 nx, 2 ny, nz + 1).

    Returns
    -------
    blurred
        Shape (nx, ny, nz), dtype of ``image``.

    Examples
    --------
    >>> image = np.zeros((4, 4, 4), np.float32)
    >>> image[1, 2, 3] = 1
    >>> bool(np.allclose(blur(image, np.ones((8, 8, 5))), image, atol=1e-6))
    True
    """
    shape = tuple(2 * n for n in image.shape)
    padded = scipy.fft.irfftn(scipy.fft.rfftn(image, shape) * transfer, shape)
    cropped = padded[: image.shape[0], : image.shape[1], : image.shape[2]]
    return np.asarray(cropped, image.dtype)
