"""Partial-volume correction: regional signals that explain a blurred image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import fourier_shift

from sodiumprep.sodium.acquisition import Floats, Geometry
from sodiumprep.sodium.kernel import blur, gaussian_transfer
from sodiumprep.sodium.noise import weighted_covariance

SMALLEST_REGION = 0.5  # voxels; a smaller one has no mean of its own


@dataclass(frozen=True)
class RegionalEstimate:
    """Signals of regions with what they rest on.

    Parameters
    ----------
    values
        Shape (regions,).
    covariance
        From image noise, shape (regions, regions).
    mixing
        Share of region j in the mean over region i, shape (regions, regions).
    condition_number
        Of ``mixing``.
    """

    values: Floats
    covariance: Floats
    mixing: Floats
    condition_number: float


def check_regions(fractions: Floats, blurred: Floats, image: Floats) -> None:
    """Refuse regions and images that would give numbers without meaning.

    Parameters
    ----------
    fractions, blurred
        Shape (regions, nx, ny, nz).
    image
        Shape (nx, ny, nz).

    Raises
    ------
    ValueError
        If shapes differ, something is not finite, a fraction lies outside [0, 1], fractions do
        not sum to one, or a region is empty.
    """
    if fractions.shape != blurred.shape or fractions.shape[1:] != image.shape:
        raise ValueError(
            f"shapes differ: image {image.shape}, fractions {fractions.shape}, "
            f"blurred {blurred.shape}"
        )
    for name, array in (("image", image), ("fractions", fractions), ("blurred", blurred)):
        if not np.isfinite(array).all():
            raise ValueError(f"the {name} holds {np.sum(~np.isfinite(array))} values not finite")
    if fractions.min() < -1e-3 or fractions.max() > 1 + 1e-3:
        raise ValueError(
            f"fractions from {fractions.min():.3f} to {fractions.max():.3f}; accepted: 0 to 1"
        )
    total = fractions.sum(axis=0)
    if np.abs(total - 1).max() > 1e-3:
        raise ValueError(
            f"fractions sum to {total.min():.3f} to {total.max():.3f}; with the background they "
            "must sum to 1"
        )
    sizes = fractions.sum(axis=(1, 2, 3))
    if sizes.min() < SMALLEST_REGION:
        raise ValueError(f"region {int(sizes.argmin())} holds {sizes.min():.2f} voxels")


def region_means(image: Floats, fractions: Floats) -> Floats:
    """Return the fraction-weighted mean of an image over each region.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    fractions
        Shape (regions, nx, ny, nz).

    Returns
    -------
    means
        Shape (regions,).
    """
    flat = fractions.reshape(len(fractions), -1)
    return np.asarray(flat @ image.ravel().astype(np.float64) / flat.sum(axis=1, dtype=np.float64))


def mixing_matrix(fractions: Floats, blurred: Floats) -> Floats:
    """Return the share of each region in the mean over each other one.

    Parameters
    ----------
    fractions, blurred
        Unblurred and blurred fractions, shape (regions, nx, ny, nz); each region may have been
        blurred by its own kernel.

    Returns
    -------
    mixing
        Row i: the mean over region i of what every region shows with signal 1.

    References
    ----------
    Rousset, Ma & Evans 1998, J Nucl Med 39:904
    """
    flat = fractions.reshape(len(fractions), -1).astype(np.float64)
    spread = blurred.reshape(len(blurred), -1).astype(np.float64)
    return np.asarray(flat @ spread.T / flat.sum(axis=1, keepdims=True))


def geometric_transfer_matrix(
    image: Floats, fractions: Floats, blurred: Floats, noise_sd: Floats, noise_spectrum: Floats
) -> RegionalEstimate:
    """Return regional signals corrected for partial volume by the geometric transfer matrix.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz).
    fractions, blurred
        Unblurred and blurred region fractions, shape (regions, nx, ny, nz); they sum to one.
    noise_sd
        Of ``image``, same shape.
    noise_spectrum
        Power spectrum of the noise, shape (2 nx, 2 ny, nz + 1).

    Returns
    -------
    estimate
        Regional signals with the covariance that image noise gives them.

    Raises
    ------
    ValueError
        If the regions are not valid or cannot be told apart.

    References
    ----------
    Rousset, Ma & Evans 1998, J Nucl Med 39:904
    """
    check_regions(fractions, blurred, image)
    mixing = mixing_matrix(fractions, blurred)
    condition = float(np.linalg.cond(mixing))
    if not condition < 1e6:
        raise ValueError(f"the regions cannot be told apart: condition number {condition:.3g}")
    inverse = np.linalg.inv(mixing)
    weights = fractions / fractions.sum(axis=(1, 2, 3), keepdims=True)
    covariance = inverse @ weighted_covariance(weights, noise_sd, noise_spectrum) @ inverse.T
    return RegionalEstimate(
        inverse @ region_means(image, fractions), covariance, mixing, condition
    )


def solve_mixing(means: Floats, mixing: Floats) -> Floats:
    """Return regional signals from regional means.

    Parameters
    ----------
    means
        Shape (regions,).
    mixing
        Shape (regions, regions).

    Returns
    -------
    values
        Shape (regions,).

    Examples
    --------
    >>> mixing = np.array([[0.8, 0.2], [0.1, 0.9]])
    >>> solve_mixing(mixing @ np.array([40.0, 140.0]), mixing).round(6).tolist()
    [40.0, 140.0]
    """
    return np.asarray(np.linalg.solve(mixing, means))


def kernel_change(
    image: Floats, fractions: Floats, blurred: Floats, fwhm: Floats, uncertainty: float
) -> Floats:
    """Return how regional signals change where every kernel is wider by its uncertainty.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    fractions, blurred
        Shape (regions, nx, ny, nz).
    fwhm
        Width of the kernel along each axis, shape (3,) [voxels].
    uncertainty
        Relative standard uncertainty of that width.

    Returns
    -------
    change
        Shape (regions,).
    """
    # in the frequency domain: a third of a voxel is too narrow for a kernel sampled at voxels
    widening = np.sqrt((1 + uncertainty) ** 2 - 1) * np.asarray(fwhm)
    x, y, z = image.shape
    in_voxels = Geometry(np.zeros(3), np.eye(3), (x, y, z), (x, y, z))
    transfer = gaussian_transfer(in_voxels, widening)
    wider = np.stack([blur(b, transfer) for b in blurred])
    means = region_means(image, fractions)
    return solve_mixing(means, mixing_matrix(fractions, wider)) - solve_mixing(
        means, mixing_matrix(fractions, blurred)
    )


def registration_changes(
    image: Floats, fractions: Floats, mixing: Floats, shift: Floats
) -> Floats:
    """Return how corrected signals change where the image lies elsewhere.

    The mixing matrix does not depend on where the image lies, so only the means change.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    fractions
        Shape (regions, nx, ny, nz).
    mixing
        Shape (regions, regions).
    shift
        Along each axis, shape (3,) [voxels].

    Returns
    -------
    changes
        One row per axis, shape (3, regions); nan where ``shift`` is not known.
    """
    changes = np.full((3, len(fractions)), np.nan)
    if not np.isfinite(shift).all():
        return changes
    spectrum = np.fft.fftn(image)
    middle = solve_mixing(region_means(image, fractions), mixing)
    for axis in range(3):
        step = np.eye(3)[axis] * shift
        forth, back = (
            solve_mixing(
                region_means(np.fft.ifftn(fourier_shift(spectrum, s)).real, fractions), mixing
            )
            for s in (step, -step)
        )
        changes[axis] = np.hypot((forth - back) / 2, (forth + back) / 2 - middle)
    return changes
