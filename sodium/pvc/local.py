"""Local concentrations: least squares on the blurred fractions around each voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import correlate1d

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.kernel import FWHM_TO_SIGMA
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.propagation import Weights, replica_sd
from sodiumprep.sodium.pvc.shown import Regions, check_finite

PRIOR = 0.01  # weight of the regional value, where a neighbourhood full of one tissue weighs 1
MOST_LOCAL = 12  # regions with a map of their own; memory grows with the square
REACH = 3.0  # SD, to which a Gaussian neighbourhood extends


@dataclass(frozen=True)
class LocalMaps:
    """Concentrations that differ from place to place.

    Parameters
    ----------
    names
        Of the regions with a map of their own.
    signals
        Of each of them in every voxel, shape (local, nx, ny, nz).
    image
        All regions put together by their fractions, shape (nx, ny, nz).
    """

    names: tuple[str, ...]
    signals: Floats
    image: Floats


def gaussian_neighbourhood(fwhm: Sequence[float]) -> list[Floats]:
    """Return the weights of neighbours in a Gaussian neighbourhood.

    Parameters
    ----------
    fwhm
        Full width at half maximum along the three axes [voxels].

    Returns
    -------
    profiles
        Three arrays of odd length, each of sum 1, to 3 SD.

    Raises
    ------
    ValueError
        If a width is not positive.

    Examples
    --------
    >>> [len(profile) for profile in gaussian_neighbourhood([3, 3, 1.5])]
    [9, 9, 5]
    """
    if not min(fwhm) > 0:
        raise ValueError(f"a neighbourhood of {min(fwhm):g} voxels; accepted: above 0")
    profiles = []
    for width in fwhm:
        sd = width * FWHM_TO_SIGMA
        offset = np.arange(-np.ceil(REACH * sd), np.ceil(REACH * sd) + 1)
        profile = np.exp(-0.5 * (offset / sd) ** 2)
        profiles.append(profile / profile.sum())
    return profiles


class LocalRegression:
    """Regression of an image on the blurred fractions in the neighbourhood of each voxel.

    The signals C of a voxel minimize ``sum w (P - sum_j C_j b_j)^2 + prior sum_j (C_j - c_j)^2``
    over its neighbours of weight w. The prior holds a tissue that the neighbourhood hardly shows
    at its regional value c. Where one tissue fills the neighbourhood, it draws the local value
    to the regional one by ``prior / (1 + prior)`` of their distance.

    Parameters
    ----------
    regions
        What the image is made of.
    local
        Names of the regions whose signal may differ from place to place. All others keep their
        regional signal, and what they show is subtracted.
    profiles
        Weights of neighbours along the three axes, of odd length and sum 1, as from
        :func:`gaussian_neighbourhood`; a box has equal ones. Voxels outside the image have none.
    prior
        Weight of the regional values, above 0.

    Raises
    ------
    ValueError
        If a local region is unknown or named twice, there are none or more than 12, the prior is
        not positive, or a profile has an even length.

    References
    ----------
    Asllani, Borogovac & Brown 2008, doi:10.1002/mrm.21670; Kim et al. 2021,
    doi:10.1002/nbm.4448
    """

    def __init__(
        self,
        regions: Regions,
        local: Sequence[str],
        profiles: Sequence[Floats],
        prior: float = PRIOR,
    ) -> None:
        _check_choice(regions, local, profiles, prior)
        self.regions, self.profiles = regions, profiles
        self.names = tuple(local)
        self._index = [list(regions.names).index(name) for name in local]
        pairs = dict(enumerate(regions.each()))
        self._fractions = [pairs[j][0] for j in self._index]
        self._blurred = [pairs[j][1] for j in self._index]
        self._inverse = self._inverted(prior)

    def _inverted(self, prior: float) -> Floats:
        n = len(self.names)
        matrix = np.empty((*self._blurred[0].shape, n, n), np.float64)
        for i, j in zip(*np.triu_indices(n), strict=True):
            matrix[..., i, j] = matrix[..., j, i] = self._neighbours(
                self._blurred[i] * self._blurred[j]
            )
        matrix += prior * np.eye(n)
        return np.asarray(np.linalg.inv(matrix), self._blurred[0].dtype)

    def _neighbours(self, image: Floats) -> Floats:
        for axis, profile in enumerate(self.profiles):
            image = correlate1d(image, profile, axis, mode="constant")
        return image

    def __call__(self, image: Floats, values: Floats) -> LocalMaps:
        """Return local signals, and the map that they make.

        Parameters
        ----------
        image
            Signal, shape (nx, ny, nz).
        values
            Regional signals, shape (regions,).

        Returns
        -------
        maps
            Linear in image and values together.

        Raises
        ------
        ValueError
            If the image is not finite.
        """
        check_finite("image", image)
        residual = image - self.regions.shown(values)
        seen = np.stack([self._neighbours(b * residual) for b in self._blurred], axis=-1)
        beyond = np.einsum("...ij,...j->i...", self._inverse, seen)
        combined = self.regions.composed(values)
        for fraction, difference in zip(self._fractions, beyond, strict=True):
            combined = combined + fraction * difference
        own = np.asarray(values, image.dtype)[self._index]
        return LocalMaps(self.names, own[:, None, None, None] + beyond, combined)


def local_sd(
    regression: LocalRegression,
    weights: Weights,
    noise: ImageNoise,
    draws: int,
    rng: np.random.Generator,
) -> LocalMaps:
    """Return the standard deviation of local maps from the noise of the image.

    The maps are linear, so draws of the noise alone run through them, and through the regional
    signals that they rest on: how those go with the noise of each voxel is in the result.

    Parameters
    ----------
    regression
        That made the maps.
    weights
        Behind the regional signals.
    noise
        Of the image.
    draws
        How many; the result has a relative error of ``1 / sqrt(2 draws)`` in each voxel.
    rng
        Source of randomness.

    Returns
    -------
    sd
        Of the local signals and of the map that they make.
    """
    rows = np.stack([weights(one) for one in np.eye(len(regression.regions.names))])

    def maps_of(image: Floats) -> Floats:
        maps = regression(image, np.tensordot(rows, image, 3))
        return np.concatenate([maps.signals, maps.image[None]])

    nothing = np.zeros(noise.noise_sd.shape, np.float32)
    sd = replica_sd(maps_of, nothing, noise, draws, rng)
    return LocalMaps(regression.names, sd[:-1], sd[-1])


def _check_choice(
    regions: Regions, local: Sequence[str], profiles: Sequence[Floats], prior: float
) -> None:
    unknown = [name for name in local if name not in regions.names]
    if unknown:
        raise ValueError(
            f"there is no region '{unknown[0]}'; accepted: {', '.join(regions.names)}"
        )
    if not 0 < len(local) <= MOST_LOCAL or len(set(local)) < len(local):
        raise ValueError(
            f"{len(local)} local regions ({len(set(local))} different ones); accepted: 1 to "
            f"{MOST_LOCAL} different ones, the others keep their regional signal"
        )
    if not prior > 0:
        raise ValueError(f"a prior of {prior:g}; accepted: above 0")
    lengths = [len(profile) for profile in profiles]
    if len(lengths) != 3 or any(n % 2 == 0 for n in lengths):
        raise ValueError(f"profiles of lengths {lengths}; accepted: three odd lengths")
