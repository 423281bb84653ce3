"""Partial-volume correction written plainly: slow, in double precision, straight from the papers.

What the fast code is held against. It imports nothing from it. Every function takes any sequence
of volumes as ``fractions`` (unblurred, summing to one) and ``blurred`` (what the image shows of
each), so that both may be made one after the other. ``blur`` is a linear convolution with zeros
outside the field of view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Volumes = Sequence[NDArray[np.floating]]
Blur = Callable[[Array], Array]


def gaussian_psf(fwhm: Sequence[float], reach: float = 4.0) -> Array:
    """Return a Gaussian of sum 1 on an odd grid; FWHM in voxels, cut at ``reach`` SD."""
    lines = []
    for width in fwhm:
        sd = max(width / np.sqrt(8 * np.log(2)), 1e-6)
        radius = int(np.ceil(reach * sd))
        line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sd) ** 2)
        lines.append(line / line.sum())
    return np.einsum("i,j,k->ijk", *lines)


def blur(volume: NDArray[np.floating], psf: Array) -> Array:
    """Convolve with a kernel whose centre is in the middle of its odd grid."""
    full = [n + k - 1 for n, k in zip(volume.shape, psf.shape, strict=True)]
    axes = (0, 1, 2)
    spectrum = np.fft.rfftn(np.asarray(volume, np.float64), full, axes)
    whole = np.fft.irfftn(spectrum * np.fft.rfftn(psf, full, axes), full, axes)
    start = [k // 2 for k in psf.shape]
    place = tuple(slice(s, s + n) for s, n in zip(start, volume.shape, strict=True))
    return whole[place]


def adjoint_blur(volume: NDArray[np.floating], psf: Array) -> Array:
    """Correlate with the kernel: the adjoint of :func:`blur`."""
    return blur(volume, psf[::-1, ::-1, ::-1])


def combined(values: Sequence[float], volumes: Volumes) -> Array:
    """Return the sum of volumes times values."""
    total = np.zeros(np.shape(volumes[0]))
    for value, volume in zip(values, volumes, strict=True):
        total += value * volume
    return total


def dot(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return the sum over voxels of a product."""
    return float(np.sum(np.asarray(one, np.float64) * np.asarray(other, np.float64)))


def gram(ones: Volumes, others: Volumes) -> Array:
    """Return the sum over voxels of each product, pair by pair."""
    return np.array([[dot(one, other) for other in others] for one in ones])


def gtm(image: Array, fractions: Volumes, blurred: Volumes) -> Array:
    """Geometric transfer matrix: Rousset, Ma & Evans 1998."""
    sizes = np.array([dot(m, np.ones_like(m)) for m in fractions])
    matrix = gram(fractions, blurred) / sizes[:, None]
    means = np.array([dot(m, image) for m in fractions]) / sizes
    return np.linalg.solve(matrix, means)


def labbe(image: Array, blurred: Volumes, weights: Array | None = None) -> Array:
    """Weighted least squares on the blurred fractions: Labbe et al. 1999."""
    weights = np.ones(image.shape) if weights is None else weights
    weighted = [weights * b for b in blurred]
    return np.linalg.solve(gram(weighted, blurred), [dot(b, image) for b in weighted])


def unmixed(image: Array, fractions: Volumes) -> Array:
    """Regional values of a map by least squares on the unblurred fractions."""
    return np.linalg.solve(gram(fractions, fractions), [dot(m, image) for m in fractions])


def weighted_means(image: Array, fractions: Volumes) -> Array:
    """Regional values of a map as fraction-weighted means: what most programs do."""
    return np.array([dot(m, image) / dot(m, np.ones_like(m)) for m in fractions])


def rbv(
    image: Array,
    fractions: Volumes,
    blurred: Volumes,
    values: Sequence[float],
    smallest: float = 0.02,
) -> Array:
    """Region-based voxelwise correction: Thomas et al. 2011.

    That is what the regions hold, and the residual scaled by what they hold over what they show.
    Where they show less than ``smallest`` of what they show at most, both are raised by what is
    missing to that: nothing is divided by less.
    """
    composed, shown = combined(values, fractions), combined(values, blurred)
    missing = np.maximum(smallest * np.abs(shown).max() - shown, 0)
    return composed + (image - shown) * (composed + missing) / (shown + missing)


def iterative_yang(
    image: Array,
    fractions: Volumes,
    blurred: Volumes,
    start: Sequence[float],
    iterations: int,
    values_of: Callable[[Array, Volumes], Array] = unmixed,
) -> tuple[Array, Array]:
    """Yang's correction with values from the corrected image: Erlandsson et al. 2012.

    ``values_of`` is :func:`unmixed`, or :func:`weighted_means` for the version whose fixed point
    is biased where fractions are soft. Returns the map and the values.
    """
    values = np.asarray(start, np.float64)
    corrected = image
    for _ in range(iterations):
        corrected = rbv(image, fractions, blurred, values)
        values = values_of(corrected, fractions)
    return corrected, values


def mtc(
    image: Array,
    fractions: Volumes,
    blurred: Volumes,
    values: Sequence[float],
    smallest: float = 0.1,
) -> Array:
    """Multi-target correction: Erlandsson et al. 2006.

    A blurred fraction below ``smallest`` counts as that much where the residual is divided by it.
    """
    corrected = np.zeros(image.shape)
    for j, fraction in enumerate(fractions):
        rest = np.array(image, np.float64)
        for i, other in enumerate(blurred):
            if i != j:
                rest -= values[i] * other
        own = np.asarray(blurred[j], np.float64)
        in_region = values[j] + (rest - values[j] * own) / np.maximum(own, smallest)
        corrected += fraction * in_region
    return corrected


def purest_values(image: Array, blurred: Volumes, purest: float = 0.9) -> Array:
    """Return regional values that explain the mean over the purest voxels of each region.

    Those are the voxels that show at least ``purest`` of what any voxel shows of the region.
    """
    cores = [np.asarray(b) >= purest * np.max(b) for b in blurred]
    matrix = [[np.mean(np.asarray(b, np.float64)[core]) for b in blurred] for core in cores]
    return np.linalg.solve(matrix, [np.mean(image[core]) for core in cores])


def mueller_gaertner(
    image: Array,
    blurred: Volumes,
    target: int,
    values: Sequence[float],
    smallest: float = 0.2,
) -> Array:
    """Map of one tissue: Mueller-Gaertner et al. 1992, with every other region as a term.

    0 where the image shows less than ``smallest`` of the tissue.
    """
    rest = np.array(image, np.float64)
    for i, other in enumerate(blurred):
        if i != target:
            rest -= values[i] * other
    own = np.asarray(blurred[target], np.float64)
    return np.where(own >= smallest, rest / np.maximum(own, smallest), 0.0)


def local_regression(
    image: Array,
    blurred: Volumes,
    values: Sequence[float],
    local: Sequence[int],
    profiles: Sequence[Array],
    prior: float,
    voxels: Sequence[tuple[int, int, int]] | None = None,
) -> Array:
    """Least squares in the neighbourhood of each voxel: Asllani et al. 2008.

    ``profiles`` are the weights of neighbours along the three axes, of odd length; voxels outside
    the image have none. Regions that are not ``local`` keep their value. ``prior`` is the weight
    of the distance of each local value to the regional one. Returns shape (local, voxels).
    """
    known = np.array(image, np.float64)
    for j, other in enumerate(blurred):
        if j not in local:
            known -= values[j] * other
    prior_values = np.asarray(values, np.float64)[list(local)]
    found = []
    for voxel in voxels if voxels is not None else list(np.ndindex(*image.shape)):
        box, weights = _window(voxel, image.shape, profiles)
        root = np.sqrt(weights).ravel()
        rows = np.stack([root * np.asarray(blurred[j])[box].ravel() for j in local], axis=1)
        rows = np.concatenate([rows, np.sqrt(prior) * np.eye(len(local))])
        right = np.concatenate([root * known[box].ravel(), np.sqrt(prior) * prior_values])
        found.append(np.linalg.lstsq(rows, right, rcond=None)[0])
    return np.array(found).T


def _window(
    voxel: tuple[int, ...], shape: tuple[int, ...], profiles: Sequence[Array]
) -> tuple[tuple[slice, ...], Array]:
    """Return the box of voxels around a voxel, and their weights."""
    box, lines = [], []
    for index, n, profile in zip(voxel, shape, profiles, strict=True):
        radius = len(profile) // 2
        low, high = max(index - radius, 0), min(index + radius + 1, n)
        box.append(slice(low, high))
        lines.append(profile[low - index + radius : high - index + radius])
    return tuple(box), np.einsum("i,j,k->ijk", *lines)


def richardson_lucy(image: Array, psf: Array, iterations: int) -> Array:
    """Richardson 1972, Lucy 1974, from a uniform start.

    Negative parts of the kernel stand on the side of the data, with the estimate so far.
    """
    positive, negative = np.maximum(psf, 0), np.maximum(-psf, 0)
    sensitivity = adjoint_blur(np.ones(image.shape), positive)
    estimate = np.full(image.shape, image.mean())
    for _ in range(iterations):
        seen = image + blur(estimate, negative)
        ratio = seen / blur(estimate, positive)
        estimate = estimate * adjoint_blur(ratio, positive) / sensitivity
    return estimate


def reblurred_van_cittert(image: Array, psf: Array, alpha: float, iterations: int) -> Array:
    """Van Cittert's iteration with a second blur, from the image: Tohka & Reilhac 2008."""
    estimate = np.array(image, np.float64)
    for _ in range(iterations):
        estimate = estimate + alpha * adjoint_blur(image - blur(estimate, psf), psf)
    return estimate


def nested_head(shape: tuple[int, int, int], factor: int) -> dict[str, Array]:
    """Return a ventricle in white matter in cortex in fluid, each 0 or 1 on a finer grid.

    ``shape`` is that of the image, of whose 16 voxels the radii are 2.3, 4.4, 5.8 and 6.8; each
    of its voxels has ``factor`` cubed fine ones.
    """
    scale = min(shape) / 16
    middles = [(n * factor - 1) / 2 + 0.4 * factor for n in shape]
    axes = np.ogrid[tuple(slice(n * factor) for n in shape)]
    squares = [(axis - middle) ** 2 for axis, middle in zip(axes, middles, strict=True)]
    radius = np.sqrt(squares[0] + squares[1] + squares[2]) / factor / scale
    ventricle, inner, brain, skull = (1.0 * (radius < r) for r in (2.3, 4.4, 5.8, 6.8))
    return {
        "GM": brain - inner,
        "WM": inner - ventricle,
        "CSF": ventricle + skull - brain,
        "background": 1 - skull,
    }


def block_means(fine: NDArray[np.floating], factor: int) -> Array:
    """Return the mean over the fine voxels of each voxel."""
    x, y, z = (n // factor for n in fine.shape)
    return np.asarray(fine).reshape(x, factor, y, factor, z, factor).mean(axis=(1, 3, 5))
