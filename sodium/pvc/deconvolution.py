"""Deconvolution without regions: sharper maps, paid for by noise.

The kernel is one transfer function for the whole image, on twice the field of view as in
:mod:`sodiumprep.sodium.kernel`; outside the field of view there is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from sodiumprep.sodium.acquisition import Complexes, Floats, Numbers
from sodiumprep.sodium.kernel import blur, to_psf, to_transfer
from sodiumprep.sodium.noise import ImageNoise, normalized_spectrum
from sodiumprep.sodium.pvc.shown import check_finite

NOTHING = 1e-6  # of the largest; rounding of a blur in single precision
WRONG_WAY = 0.01  # of the largest; how far a frequency may be driven away from the data


@dataclass(frozen=True)
class Deconvolved:
    """A sharper image.

    Parameters
    ----------
    image
        Shape (nx, ny, nz).
    iterations
        That were made.
    change
        Norm of the last step over that of the image.
    n_negative
        Voxels of the given image below 0 that were taken as 0.
    """

    image: Floats
    iterations: int
    change: float
    n_negative: int = 0


def richardson_lucy(
    image: Floats,
    transfer: Numbers,
    iterations: int = 30,
    tolerance: float = 1e-3,
    *,
    negative_as_zero: bool = False,
) -> Deconvolved:
    """Return an image deconvolved by the iteration of Richardson and Lucy, from a uniform start.

    The result is nowhere negative. With a kernel that is nowhere negative every iteration keeps
    the amount: the sum of the estimate, as far as it is seen, is that of the image. Negative side
    lobes of a kernel stand on the side of the data, with the estimate so far: ``x <- x H+'((P +
    H- x) / (H+ x)) / H+' 1`` rests where ``P = (H+ - H-) x``; the amount is then kept there, not
    on the way. The stronger the lobes, the more iterations it takes: a spherical coverage without
    filter needs about ten times as many as one with a Hamming filter. Few iterations give a smooth
    image, many a noisy one.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz), not negative.
    transfer
        Of the kernel, shape (2 nx, 2 ny, nz + 1).
    iterations
        At most.
    tolerance
        Norm of a step over that of the image below which no further step is made.
    negative_as_zero
        Whether voxels below 0 are taken as 0, which biases what is dark; else they are refused.

    Returns
    -------
    deconvolved
        With the number of voxels taken as 0.

    Raises
    ------
    ValueError
        If the image is not finite, negative somewhere, or 0 everywhere, there is no iteration, or
        the lobes of the kernel are such that the iteration would go away from the data.

    References
    ----------
    Richardson 1972, doi:10.1364/JOSA.62.000055; Lucy 1974, doi:10.1086/111605
    """
    check_finite("image", image)
    _check_iterations(iterations)
    n_negative = int(np.sum(image < 0))
    if n_negative and not negative_as_zero:
        raise ValueError(
            f"{n_negative} voxels of the image are negative (down to {image.min():.3g}), which "
            "Richardson-Lucy cannot take; use Van Cittert, or ask for them to be taken as zero"
        )
    seen = np.maximum(image, 0)
    if not seen.any():
        raise ValueError("the image is 0 everywhere: there is nothing to deconvolve")
    positive, negative = _signed_parts(transfer)
    sensitivity = blur(np.ones_like(seen), positive.conj())
    estimate = np.full_like(seen, seen.mean())
    count, change = 0, np.inf
    while count < iterations and change > tolerance:
        count += 1
        data = seen if negative is None else seen + blur(estimate, negative)
        ratio = _ratio(data, blur(estimate, positive))
        updated = estimate * np.maximum(blur(ratio, positive.conj()) / sensitivity, 0)
        estimate, change = updated, _change(updated, estimate)
    return Deconvolved(estimate, count, change, n_negative)


def _ratio(data: Floats, shown: Floats) -> Floats:
    """Return data over what is shown, 1 where nothing is shown."""
    divided = shown > NOTHING * shown.max()
    return np.asarray(np.where(divided, data, 1) / np.where(divided, shown, 1))


def _signed_parts(transfer: Numbers) -> tuple[Complexes, Complexes | None]:
    """Return the transfer functions of what is positive in a kernel, and of what is negative."""
    psf = to_psf(np.asarray(transfer, np.complex64))
    if psf.min() >= -NOTHING * psf.max():
        return np.asarray(transfer), None
    positive, negative = to_transfer(np.maximum(psf, 0)), to_transfer(np.maximum(-psf, 0))
    followed = np.real(positive.conj() * transfer) / np.abs(positive).max()
    if followed.min() < -WRONG_WAY * np.abs(transfer).max():
        share = float(np.abs(psf[psf < 0]).sum() / np.abs(psf).sum())
        raise ValueError(
            f"{100 * share:.0f} % of the kernel is negative, in such a way that Richardson-Lucy "
            "would go away from the data; use Van Cittert"
        )
    return positive, negative


def reblurred_van_cittert(
    image: Floats,
    transfer: Numbers,
    alpha: float = 1.5,
    iterations: int = 30,
    tolerance: float = 1e-3,
) -> Deconvolved:
    """Return an image deconvolved by Van Cittert's iteration with a second blur.

    ``x <- x + alpha H'(P - H x)`` from ``x = P``: after a given number of iterations linear in
    the image, for any kernel, and free to be negative. With transfer 1 at k = 0 the amount is
    kept, as far as it is not blurred out of the field of view.

    Parameters
    ----------
    image
        Signal P, shape (nx, ny, nz).
    transfer
        Of the kernel, shape (2 nx, 2 ny, nz + 1).
    alpha
        Size of a step, above 0 and below 2 over the largest squared transfer.
    iterations
        At most.
    tolerance
        Norm of a step over that of the image below which no further step is made.

    Returns
    -------
    deconvolved
        The image, and how many iterations were made.

    Raises
    ------
    ValueError
        If the image is not finite, the step is so large that the iteration would grow without
        bound, or there is no iteration.

    References
    ----------
    Tohka & Reilhac 2008, doi:10.1016/j.neuroimage.2007.10.038
    """
    check_finite("image", image)
    _check_iterations(iterations)
    largest = 2 / float(np.max(np.abs(transfer) ** 2))
    if not 0 < alpha < largest:
        raise ValueError(
            f"a step of {alpha:g} makes Van Cittert's iteration grow without bound or rest; "
            f"accepted for this kernel: above 0 and below {largest:.3g}"
        )
    step_size = np.asarray(alpha, image.dtype)
    estimate, count, change = image, 0, np.inf
    while count < iterations and change > tolerance:
        count += 1
        residual = image - blur(estimate, transfer)
        updated = estimate + step_size * blur(residual, np.conj(transfer))
        estimate, change = updated, _change(updated, estimate)
    return Deconvolved(estimate, count, change)


def van_cittert_transfer(transfer: Numbers, alpha: float, iterations: int) -> Numbers:
    """Return what a number of iterations of Van Cittert makes of each spatial frequency.

    Parameters
    ----------
    transfer
        Of the kernel, shape (2 nx, 2 ny, nz + 1).
    alpha
        Size of a step.
    iterations
        That are made.

    Returns
    -------
    passed
        From image to deconvolved image, same shape; exact but for what happens at the borders of
        the field of view.
    """
    power = np.abs(transfer) ** 2
    left = (1 - alpha * power) ** iterations
    seen = power > np.finfo(np.float32).eps
    taken = np.where(seen, (1 - left) / np.where(seen, power, 1), alpha * iterations)
    return np.asarray(left + np.conj(transfer) * taken)


def van_cittert_noise(
    noise: ImageNoise, transfer: Numbers, alpha: float, iterations: int
) -> ImageNoise:
    """Return the noise of an image after a number of iterations of Van Cittert.

    Parameters
    ----------
    noise
        Before.
    transfer
        Of the kernel, on the grid of the noise spectrum.
    alpha
        Size of a step.
    iterations
        That were made.

    Returns
    -------
    noise
        After: its level and its modes as if those of the surroundings were the voxel's own, its
        spectrum times the squared transfer of the iterations.
    """
    x, y, z = noise.spectrum.shape
    doubled = (x, y, 2 * (z - 1))
    power = noise.spectrum * np.abs(van_cittert_transfer(transfer, alpha, iterations)) ** 2
    gain = np.sqrt(scipy.fft.irfftn(power, doubled)[0, 0, 0])
    return replace(
        noise,
        noise_sd=np.asarray(gain * noise.noise_sd, noise.noise_sd.dtype),
        spectrum=normalized_spectrum(power, doubled),
    )


def _check_iterations(iterations: int) -> None:
    if iterations < 1:
        raise ValueError(f"{iterations} iterations of a deconvolution; at least 1 is needed")


def _change(after: Floats, before: Floats) -> float:
    return float(np.linalg.norm(after - before)) / max(float(np.linalg.norm(after)), 1e-30)
