"""What a method gives, with its noise and with all that would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.methods import (
    DECONVOLUTIONS,
    Correction,
    CorrectionNoise,
    Setup,
    correct,
    noise_of,
    one_kernel,
)
from sodiumprep.sodium.pvc.regional import entangled, region_means, residual_sd, unmixed_values
from sodiumprep.sodium.pvc.sensitivity import (
    MovedBorder,
    MovedDecay,
    Values,
    decay_changes,
    kernel_change,
    segmentation_changes,
    shift_changes,
    widening,
)
from sodiumprep.sodium.pvc.shown import SampledRegions
from sodiumprep.sodium.relaxation import DECAYING

UNCORRECTED = "none"
REGIONAL = ("gtm", "labbe")  # methods that are asked what other constants of decay change
POSITION_ERROR = 1.0  # mm
PSF_ERROR = 0.1  # of the width of every kernel
SEGMENTATION_ERROR = 0.5  # mm
# Standard uncertainty of where a border lies, everywhere by the same [mm]. Between tissues: the
# thickness of the cortex, which has two of them, differs by 0.15 to 0.17 mm between scanners (Han
# 2006, doi:10.1016/j.neuroimage.2006.02.051). Of lesions, which are outlined by hand: assumed.
BORDER_OF_TISSUE, BORDER_OF_LESION = 0.12, 0.5


@dataclass(frozen=True)
class AssessedSignals:
    """Signals of all regions by one method, with what they rest on and what changes them.

    Parameters
    ----------
    values
        Shape (regions,).
    rests_on
        Signals that the method's map was made from, shape (regions,); ``values`` where it makes
        none.
    covariance
        From image noise, shape (regions, regions).
    kernel_change
        Change of ``values`` for kernels wider by their uncertainty, shape (regions,); nan where
        the method uses no kernel.
    registration_changes
        Change for a shift by the registration's uncertainty along each axis, shape (6, regions):
        linear with its sign, then what both ways have in common.
    border_changes
        Change for each row of borders further in by its uncertainty, shape (rows, regions); of
        shape (0, regions) where it is not known.
    decay_changes
        Change where a constant of decay of one region is larger by its uncertainty, which changes
        its kernel, shape (regions, constants, regions), constants as in ``relaxation.DECAYING``;
        of shape (0, constants, regions) where it is not known.
    residual_sd
        Of the image less what the regions explain, by region, shape (regions,).
    entangled
        Whether noise shifts signal between a region and another one, shape (regions,).
    sensitivity
        On request, change of ``values`` for an image ``POSITION_ERROR`` further along each axis,
        as in ``registration_changes``, for kernels wider by ``PSF_ERROR``, and for each row of
        borders ``SEGMENTATION_ERROR`` further in, shape (7 + rows, regions); else of shape
        (0, regions).
    """

    values: Floats
    rests_on: Floats
    covariance: Floats
    kernel_change: Floats
    registration_changes: Floats
    border_changes: Floats
    decay_changes: Floats
    residual_sd: Floats
    entangled: Floats
    sensitivity: Floats


@dataclass(frozen=True)
class Assessment:
    """An image with all that the methods, their noise and their changes need.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz).
    regions
        What it is made of.
    noise
        Of the image; None where it is not known.
    setup
        Of the methods.
    fwhm
        Width of the kernels along each axis, shape (3,) [voxels].
    width_uncertainty
        Relative standard uncertainty of that width.
    shift
        Standard uncertainty of the position along each axis, shape (3,) [voxels]; nan where it is
        not known.
    voxel_size
        Shape (3,) [mm].
    borders
        Rows of borders that move together by ``SEGMENTATION_ERROR``.
    border_uncertainty
        Standard uncertainty of where the borders of each row lie, shape (rows,) [mm].
    decays
        Kernels of regions whose constants of decay are moved.
    sensitivity
        Whether it is asked for what given errors would change.
    """

    image: Floats
    regions: SampledRegions
    noise: ImageNoise | None
    setup: Setup
    fwhm: Floats
    width_uncertainty: float
    shift: Floats
    voxel_size: Floats
    borders: Sequence[Sequence[MovedBorder]]
    border_uncertainty: Floats
    decays: Sequence[MovedDecay] = ()
    sensitivity: bool = False

    def signals(self, method: str) -> tuple[AssessedSignals, Correction, Floats | None]:
        """Return the signals by a method, what it made, and the noise SD of its map.

        Parameters
        ----------
        method
            As for :func:`sodiumprep.sodium.pvc.methods.correct`.

        Returns
        -------
        signals, correction, map_noise
            The last of shape (nx, ny, nz), nan where the noise of the image is not known; None
            where the method makes no map.
        """
        made = correct(method, self.image, self.regions, self.noise, self.setup)
        n = len(self.regions.names)
        told = CorrectionNoise(np.full((n, n), np.nan), self._unknown)
        if self.noise is not None:
            told = noise_of(method, made, *self._known, self.noise, self.setup)
        map_noise = None if made.image is None or told.of_map is None else told.of_map()
        shifted = partial(self._shifted, method, made)
        wider = partial(self._wider, method, made)
        moved = segmentation_changes(*self._values(method, made), self.regions, self.borders)
        assessed = AssessedSignals(
            values=made.values,
            rests_on=made.values if made.rests_on is None else made.rests_on,
            covariance=told.covariance,
            kernel_change=wider(self.width_uncertainty),
            registration_changes=shifted(self.shift),
            border_changes=moved * (self.border_uncertainty / SEGMENTATION_ERROR)[:, None],
            decay_changes=self._decayed(method, made),
            residual_sd=residual_sd(*self._known, made.values),
            entangled=entangled(told.covariance),
            sensitivity=np.zeros((0, n)),
        )
        if not self.sensitivity:
            return assessed, made, map_noise
        errors = [
            shifted(POSITION_ERROR / self.voxel_size),
            np.nan_to_num(wider(PSF_ERROR))[None],  # without a kernel nothing changes
            moved,
        ]
        return replace(assessed, sensitivity=np.concatenate(errors)), made, map_noise

    def residual_over_noise(self, signals: AssessedSignals) -> Floats:
        """Return the residual over the noise of each region, 1 where the model holds.

        Parameters
        ----------
        signals
            Of any method.

        Returns
        -------
        ratio
            Shape (regions,); nan where the noise is not known.
        """
        if self.noise is None:
            return np.full(len(self.regions.names), np.nan)
        level = np.sqrt(region_means(self.noise.noise_sd**2, self.regions))
        return np.asarray(signals.residual_sd / level)

    def _unknown(self) -> Floats:
        return np.full(self.image.shape, np.nan, np.float32)

    @property
    def _known(self) -> tuple[Floats, SampledRegions]:
        return self.image, self.regions

    def _values(self, method: str, made: Correction) -> tuple[Values, Floats]:
        """Return how regional values come, and from what image.

        A deconvolution does not know the regions, and moves with its image: only what is read
        from the map that it made depends on them.
        """
        if method in DECONVOLUTIONS:
            return unmixed_values, made.made.image

        def values(image: Floats, regions: SampledRegions) -> Floats:
            return correct(method, image, regions, self.noise, self.setup).values

        return values, self.image

    def _wider(self, method: str, made: Correction, relative: float) -> Floats:
        if method == UNCORRECTED:
            return np.full(len(self.regions.names), np.nan)
        if method not in DECONVOLUTIONS:
            values, image = self._values(method, made)
            return kernel_change(values, image, self.regions, self.fwhm, relative)
        x, y, z = self.image.shape
        wide = one_kernel(self.setup) * widening((x, y, z), self.fwhm, relative)
        setup = replace(self.setup, transfer=wide.astype(np.complex64))
        return correct(method, *self._known, None, setup).values - made.values

    def _decayed(self, method: str, made: Correction) -> Floats:
        """Return what moved constants of decay change; methods without are not asked."""
        n = len(self.regions.names)
        if method in REGIONAL:
            known = self._values(method, made)
            return decay_changes(*known, self.regions, self.decays, len(DECAYING))
        without = method == UNCORRECTED or method in DECONVOLUTIONS  # no kernel of a tissue
        return np.zeros((n if without else 0, len(DECAYING), n))

    def _shifted(self, method: str, made: Correction, shift: Floats) -> Floats:
        values, image = self._values(method, made)
        return shift_changes(lambda moved: values(moved, self.regions), image, shift)
