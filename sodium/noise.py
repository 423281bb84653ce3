"""Noise of an image: its level, its correlation, and what both mean for a regional mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter

from sodiumprep.sodium.acquisition import Complexes, Floats, Geometry, Numbers
from sodiumprep.sodium.coils import mix_coils, sum_of_squares, unit_vectors
from sodiumprep.sodium.kernel import blur, on_doubled_grid, point_spread, to_transfer

REPLICA_SMOOTHING = 1.0  # voxels, SD of the Gaussian over the variance map of pseudo-replicas
TETRAHEDRON = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
LONGEST_LAG = 0.5  # of the field of view; correlations from replicas fade out up to there
MODE_SHARE = 0.999  # of the coil directions, weighted by signal power, that noise modes keep
AIR_MARGIN = 10.0  # over the median power of the corners, where a quarter of the power counts
SLAB_BYTES = 2**25  # of single-precision frequencies that are summed over at a time
CORNER_SHARE = 0.15  # edge of each corner cube over the edge of the image


def noise_covariance(noise: Complexes, dwell_ratio: float) -> Complexes:
    """Return the coil covariance of the imaging samples, from noise-only samples.

    Parameters
    ----------
    noise
        Shape (coils, m).
    dwell_ratio
        Dwell time of the noise samples over that of the imaging samples; the variance of a
        sample is inverse to its dwell time.

    Returns
    -------
    covariance
        Shape (coils, coils), of the complex samples (twice that of the real part).

    Raises
    ------
    ValueError
        If the noise samples are fewer than twice the coils, or all zero.

    References
    ----------
    Pruessmann et al. 2001, doi:10.1002/mrm.1241
    """
    coils, m = noise.shape
    if m < 2 * coils:
        raise ValueError(f"{m} noise samples for {coils} coils; at least {2 * coils} are needed")
    covariance = np.asarray(noise @ noise.conj().T / m, np.complex128)
    if not np.trace(covariance).real > 0:
        raise ValueError("the noise samples are all zero")
    return covariance * dwell_ratio


def adjoint_noise_gain(weights: Floats) -> float:
    """Return the standard deviation of an adjoint image per standard deviation of a sample.

    Parameters
    ----------
    weights
        Density compensation times filter, any shape [1/m^3].

    Returns
    -------
    gain
        [1/m^3], the same in every voxel.

    Examples
    --------
    >>> adjoint_noise_gain(np.array([3.0, 4.0]))
    5.0
    """
    return float(np.sqrt(np.sum(np.asarray(weights, np.float64) ** 2)))


def adjoint_noise_spectrum(weights: Floats, trajectory: Floats, geometry: Geometry) -> Floats:
    """Return the power spectrum of the noise of an adjoint image.

    Parameters
    ----------
    weights
        Density compensation times filter, shape (readouts, n) [1/m^3].
    trajectory
        Shape (readouts, n, 3) [1/m].
    geometry
        Voxel grid.

    Returns
    -------
    spectrum
        Shape (2 nx, 2 ny, nz + 1), correlation 1 at lag 0.
    """
    ones = np.ones(weights.shape[-1], np.float32)
    correlation = point_spread(weights**2, ones, trajectory, geometry)
    centre = tuple(n // 2 for n in correlation.shape)
    return np.asarray(to_transfer(correlation / correlation[centre]).real, np.float32)


def normalized_spectrum(power: Floats, shape: tuple[int, int, int]) -> Floats:
    """Scale a power spectrum so that the correlation at lag 0 is 1.

    Parameters
    ----------
    power
        Shape (2 nx, 2 ny, nz + 1).
    shape
        Shape of the doubled grid, (2 nx, 2 ny, 2 nz).

    Returns
    -------
    spectrum
        Same shape as ``power``.
    """
    at_lag_zero = scipy.fft.irfftn(power, shape)[0, 0, 0]
    return np.asarray(power / at_lag_zero, np.float32)


@dataclass(frozen=True)
class ImageNoise:
    """Level and correlation of the noise of an image.

    Two voxels share the noise ``sd(x) sd(y) rho(x - y) sum_k m_k(x) m_k(y)``: that of each coil is
    stationary, but a combined image takes other coils with other phases in other places.

    Parameters
    ----------
    noise_sd
        Standard deviation of the real part, shape (nx, ny, nz).
    spectrum
        Power spectrum, shape (2 nx, 2 ny, nz + 1), correlation ``rho`` of 1 at lag 0.
    modes
        From which independent noises each voxel takes its own, shape (modes, nx, ny, nz), sum of
        squares 1 in each voxel; None where all take the same.
    """

    noise_sd: Floats
    spectrum: Floats
    modes: Floats | None = None

    def each_level(self) -> Iterator[Floats]:
        """Yield how much of each independent noise a voxel holds, shape (nx, ny, nz)."""
        if self.modes is None:
            yield self.noise_sd
        else:
            for mode in self.modes:
                yield self.noise_sd * mode


def coil_noise_modes(low_resolution: Complexes, covariance: Complexes) -> Floats:
    """Return the modes of the noise of coil images that are combined in phase.

    A voxel projects the coil images on the unit vector ``u`` of the low-resolution ones. In terms
    of independent noises of equal variance that is a projection on ``d = L^H u``, where ``L L^H``
    is the covariance of the coils; the noise that two voxels share goes with ``Re(d(x)^H d(y))``.
    Real and imaginary parts of ``d`` are rotated to principal components over the voxels.

    Parameters
    ----------
    low_resolution
        Coil images whose direction is projected on, shape (coils, nx, ny, nz).
    covariance
        Of the noise of the coils in any scale, shape (coils, coils).

    Returns
    -------
    modes
        Shape (modes, nx, ny, nz), sum of squares 1 in each voxel. As few as hold 99.9 % of the
        squared directions, weighted by the power of the signal; what is not well above the
        corners of the image hardly counts, since directions are chance in air. What is left
        out is made up for by scaling each voxel.

    References
    ----------
    Roemer et al. 1990, doi:10.1002/mrm.1910160203
    """
    variances, sources = np.linalg.eigh(np.asarray(covariance, np.complex128))
    scaled = sources * np.sqrt(np.maximum(variances, 0) / max(variances[-1], 1e-300))
    directions = unit_vectors(mix_coils(scaled.conj().T, low_resolution))
    power = sum_of_squares(low_resolution).astype(np.float64) ** 2
    air = AIR_MARGIN * np.median(power[corner_mask(power.shape)])
    power *= np.divide(power, power + air, out=np.zeros_like(power), where=power > 0) ** 2
    moment = np.zeros((2 * len(directions),) * 2)
    for x, weight in enumerate(power):
        parts = np.concatenate([directions[:, x].real, directions[:, x].imag])
        flat = parts.reshape(len(parts), -1).astype(np.float64)
        moment += (flat * weight.ravel()) @ flat.T
    levels, axes = np.linalg.eigh(moment)
    held = np.cumsum(levels[::-1])
    count = int(np.argmax(held >= MODE_SHARE * held[-1])) + 1
    rotation = (axes[: len(directions)] - 1j * axes[len(directions) :]).T[::-1][:count]
    modes = np.asarray(mix_coils(rotation, directions).real, np.float32)
    length = np.sqrt(np.sum(modes**2, axis=0))
    modes[0][length == 0] = 1  # no signal in any coil, or none that was kept
    return modes / np.where(length == 0, 1, length)


def weighted_covariance(weights: Floats, noise: ImageNoise) -> Floats:
    """Return ``w S w'`` for weights over voxels and correlated noise of covariance ``S``.

    Parameters
    ----------
    weights
        One row of weights per estimate, shape (m, nx, ny, nz).
    noise
        Of the voxels.

    Returns
    -------
    covariance
        Shape (m, m), in units of ``noise_sd`` squared. Transforms are of single precision, sums
        of double.

    Examples
    --------
    >>> white = ImageNoise(np.full((4, 4, 4), 8.0), np.ones((8, 8, 5)))
    >>> mean = np.full((1, 4, 4, 4), 1 / 64)
    >>> round(float(weighted_covariance(mean, white)[0, 0]), 6)
    1.0
    """
    m, (nx, ny, nz) = len(weights), noise.noise_sd.shape
    power = noise.spectrum.real.astype(np.float64) / (4 * nx * ny * nz)  # 2 of 8, as both halves
    power[..., [0, nz]] /= 2  # these planes hold both
    covariance = np.zeros((m, m))
    planes = max(1, SLAB_BYTES // (m * 4 * nx * ny * 8))
    for level in noise.each_level():
        lines = scipy.fft.rfft(np.asarray(weights * level, np.float32), 2 * nz)
        for start in range(0, nz + 1, planes):
            slab = scipy.fft.fft(lines[..., start : start + planes], 2 * ny, axis=2)
            slab = scipy.fft.fft(slab, 2 * nx, axis=1).astype(np.complex128)
            weighted = slab * power[..., start : start + planes]
            covariance += _real_rows(weighted) @ _real_rows(slab).T
    return np.asarray((covariance + covariance.T) / 2)


def _real_rows(spectra: Complexes) -> Floats:
    """View complex rows as real ones of twice the length."""
    return np.ascontiguousarray(spectra).reshape(len(spectra), -1).view(np.float64)


def covariance_with_voxels(weights: Floats, noise: ImageNoise) -> Floats:
    """Return ``S w``: what the noise of a weighted sum shares with that of each voxel.

    Parameters
    ----------
    weights
        Of the sum, shape (nx, ny, nz).
    noise
        Of the voxels.

    Returns
    -------
    covariance
        Shape (nx, ny, nz), in units of ``noise_sd`` squared.
    """
    shared = np.zeros_like(weights)
    for level in noise.each_level():
        shared += level * blur(np.asarray(level * weights, weights.dtype), noise.spectrum)
    return shared


def noise_samples(
    covariance: Complexes, shape: tuple[int, int], rng: np.random.Generator
) -> Complexes:
    """Draw noise of all coils.

    Parameters
    ----------
    covariance
        Of the complex samples, shape (coils, coils).
    shape
        Readouts, and samples of each.
    rng
        Source of randomness.

    Returns
    -------
    noise
        Shape (coils, readouts, n), complex64.
    """
    coils = len(covariance)
    parts = rng.standard_normal((2, coils, shape[0] * shape[1]), np.float32)
    mixing = np.linalg.cholesky(covariance).astype(np.complex64) / np.float32(np.sqrt(2))
    return np.asarray(mixing @ (parts[0] + 1j * parts[1])).reshape(coils, *shape)


def pseudo_replicas(
    reconstruct: Callable[[Complexes], Numbers],
    covariance: Complexes,
    shape: tuple[int, int],
    draws: int,
    rng: np.random.Generator,
) -> ImageNoise:
    """Return the noise of any reconstruction, from repeated draws of the noise of the samples.

    The variance of ``n`` draws has a relative error of ``sqrt(2 / (n - 1))`` in each voxel; it is
    smoothed by a Gaussian of 1 voxel, which removes most of that error but also softens steps of
    the noise level over about 2 voxels. The correlation is that over the whole image, each voxel
    scaled by its own standard deviation; beyond half the field of view it is taken as 0.

    Parameters
    ----------
    reconstruct
        From noise, shape (coils, readouts, n), to an image, shape (nx, ny, nz). For a linear
        method the image of the noise alone; for another that of the data plus the noise.
    covariance
        Of the complex samples, shape (coils, coils).
    shape
        Readouts, and samples of each.
    draws
        Number of replicas.
    rng
        Source of randomness.

    Returns
    -------
    noise
        Of the real part of the image.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws, or the noise leaves the image unchanged.

    References
    ----------
    Robson et al. 2008, doi:10.1002/mrm.21728
    """
    if draws < 4:
        raise ValueError(f"{draws} pseudo-replicas; at least 4 are needed")
    mean = squares = power = np.zeros(())
    for count in range(1, draws + 1):
        image = np.real(reconstruct(noise_samples(covariance, shape, rng))).astype(np.float64)
        step = image - mean  # of an image to the mean of those before it
        squares = squares + step**2 * (count - 1) / count
        power = power + _padded_power(step) * (count - 1) / count
        mean = mean + step / count
    variance = gaussian_filter(squares / (draws - 1), REPLICA_SMOOTHING, mode="nearest")
    if not variance.max() > 0:
        raise ValueError("noise in the samples leaves the image unchanged")
    noise_sd = np.sqrt(variance)
    return ImageNoise(
        noise_sd.astype(np.float32), _replica_spectrum(power / (draws - 1), noise_sd)
    )


def _padded_power(image: Floats) -> Floats:
    """Return the power of an image on twice its field of view."""
    doubled = [2 * n for n in image.shape]
    return np.asarray(np.abs(scipy.fft.rfftn(image, doubled)) ** 2)


def _replica_spectrum(power: Floats, noise_sd: Floats) -> Floats:
    """Turn the mean power of the noise into the spectrum of its correlation."""
    doubled = tuple(2 * n for n in noise_sd.shape)
    products = scipy.fft.irfftn(power, doubled)
    pairs = scipy.fft.irfftn(_padded_power(noise_sd), doubled)
    fading = [_lag_window(n) for n in noise_sd.shape]
    window = np.einsum("i,j,k->ijk", *fading)
    seen = (window > 0) & (pairs > 1e-6 * pairs[0, 0, 0])
    correlation = np.divide(products * window, pairs, out=np.zeros(doubled), where=seen)
    return normalized_spectrum(np.maximum(scipy.fft.rfftn(correlation).real, 0), doubled)


def _lag_window(n: int) -> Floats:
    """Return 1 at short lags, 0 beyond the longest that counts, in the order of an FFT."""
    lag = np.abs(np.arange(2 * n) - 2 * n * (np.arange(2 * n) > n)) / (LONGEST_LAG * n)
    return np.where(lag < 1, np.cos(np.pi / 2 * np.clip(2 * lag - 1, 0, 1)) ** 2, 0.0)


def linear_noise(
    covariance: Callable[[Complexes], Complexes],
    shape: tuple[int, int, int],
    spacing: int,
    rng: np.random.Generator,
) -> ImageNoise:
    """Return the noise of a linear reconstruction from its covariance operator.

    For ``x = S A^H W y`` with ``S = (A^H W A + R)^-1`` and whitened samples that operator is
    ``S (A^H W^2 A) S``. It is applied to eight interleaved lattices of points of random phase,
    the points of each far enough apart for their responses to be told apart. Between all points,
    half as far apart, the variance is interpolated. The spectrum is the mean of those of four
    voxels around the centre: the correlation is taken for that of one stationary noise, without
    modes, though coils are combined differently in different places.

    Parameters
    ----------
    covariance
        From a complex image to the noise covariance times that image, shape (nx, ny, nz).
    shape
        Of the image.
    spacing
        Distance of the points of a lattice [voxels], even; 8 leaves an error of about 2 %.
    rng
        Source of the random phases.

    Returns
    -------
    noise
        Of the real part of the image; the operator was applied twelve times.

    Raises
    ------
    ValueError
        If the spacing is odd, below 4 voxels, or above half the image along an axis.

    References
    ----------
    Tang & Saad 2012, doi:10.1002/nla.779
    """
    if spacing % 2 or not 4 <= spacing <= min(shape) // 2:
        raise ValueError(
            f"points {spacing} voxels apart do not suit an image of shape {shape}: an even number "
            f"from 4 to {min(shape) // 2} does"
        )
    half = spacing // 2
    points = [np.arange(half // 2, n, half) for n in shape]
    variance = np.zeros([len(p) for p in points])
    for start in np.ndindex(2, 2, 2):
        every = tuple(slice(s, None, 2) for s in start)
        lattice = np.ix_(*(p[e] for p, e in zip(points, every, strict=True)))
        variance[every] = _probed_variance(covariance, shape, lattice, rng)
    between = RegularGridInterpolator(points, variance)
    asked = [np.clip(np.arange(n), p[0], p[-1]) for n, p in zip(shape, points, strict=True)]
    everywhere = between(tuple(np.meshgrid(*asked, indexing="ij")))
    columns = [_column_spectrum(covariance, shape, signs) for signs in TETRAHEDRON]
    spectrum = np.asarray(np.mean(columns, axis=0), np.float32)
    return ImageNoise(np.sqrt(everywhere / 2).astype(np.float32), spectrum)


def _probed_variance(
    covariance: Callable[[Complexes], Complexes],
    shape: tuple[int, int, int],
    lattice: tuple[NDArray[np.integer], ...],
    rng: np.random.Generator,
) -> Floats:
    """Estimate the diagonal of a covariance on a lattice of points."""
    probe = np.zeros(shape, np.complex64)
    phases = np.exp(2j * np.pi * rng.random(probe[lattice].shape))
    probe[lattice] = phases
    return np.asarray((phases.conj() * covariance(probe)[lattice]).real)


def _column_spectrum(
    covariance: Callable[[Complexes], Complexes],
    shape: tuple[int, int, int],
    signs: tuple[int, int, int],
) -> Floats:
    """Return the spectrum of the correlation with a voxel, an eighth of the image off centre."""
    x, y, z = (n // 2 + sign * (n // 8) for n, sign in zip(shape, signs, strict=True))
    point = np.zeros(shape, np.complex64)
    point[x, y, z] = 1
    column = on_doubled_grid(covariance(point).real.astype(np.float64), (x, y, z))
    return normalized_spectrum(to_transfer(column).real, column.shape)


def corner_mask(shape: tuple[int, ...]) -> Floats:
    """Return the eight corner cubes of an image, where a head never reaches.

    Parameters
    ----------
    shape
        Of the image.

    Returns
    -------
    mask
        Boolean, same shape.
    """
    sides = []
    for n in shape:
        edge = max(2, round(CORNER_SHARE * n))
        side = np.zeros(n, bool)
        side[:edge] = side[-edge:] = True
        sides.append(side)
    return np.asarray(np.einsum("i,j,k->ijk", *sides).astype(bool))


def background_moments(magnitude: Floats) -> tuple[float, float, float]:
    """Return noise SD, mean square and mean of the signal-free corners of a magnitude image.

    Parameters
    ----------
    magnitude
        Shape (nx, ny, nz). Voxels that are exactly 0 (masked by the scanner) are left out.

    Returns
    -------
    noise_sd
        Standard deviation of one of the real channels behind the magnitude.
    mean_square
        Mean of the squared background, the bias of a squared magnitude.
    n_channels
        Effective number of channels of the non-central chi distribution (1: Rician).

    Raises
    ------
    ValueError
        If fewer than 100 corner voxels hold a value.

    References
    ----------
    Koay & Basser 2006, doi:10.1016/j.jmr.2006.01.016
    """
    values = magnitude[corner_mask(magnitude.shape)].astype(np.float64)
    values = values[values > 0]
    if values.size < 100:
        raise ValueError(f"only {values.size} background voxels hold a value; 100 are needed")
    mean_square = float(np.mean(values**2))
    n_channels = _chi_channels(float(values.mean()) / float(values.std()))
    return float(np.sqrt(mean_square / (2 * n_channels))), mean_square, n_channels


def _chi_channels(mean_over_sd: float) -> float:
    """Return the channels of a chi background: its mean over SD is 1.91 for one, 3.2 for 2.7."""
    return max(1.0, (mean_over_sd**2 + 0.5) / 4)  # chi of 2n degrees: mean^2 = 2n s^2 - var


def unbiased_magnitude(magnitude: Floats, mean_square: float) -> Floats:
    """Return a magnitude whose mean square is that of the signal without noise.

    Only the second moment is freed of its bias: the mean of voxels at twice the noise SD stays
    about a quarter too low, at five times 2 %.

    Parameters
    ----------
    magnitude
        Any shape.
    mean_square
        Mean square of the signal-free background.

    Returns
    -------
    signal
        ``sqrt(M^2 - mean_square)``, with its sign kept where the square is negative: clipping
        would bias regional means further.

    References
    ----------
    Koay & Basser 2006, doi:10.1016/j.jmr.2006.01.016
    """
    square = np.asarray(magnitude, np.float64) ** 2 - mean_square
    return (np.sign(square) * np.sqrt(np.abs(square))).astype(np.float32)
