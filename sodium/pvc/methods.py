"""Every method by its name: regional values with their noise, and a map where it makes one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sodiumprep.sodium.acquisition import Complexes, Floats
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.deconvolution import (
    Deconvolved,
    reblurred_van_cittert,
    richardson_lucy,
    van_cittert_noise,
)
from sodiumprep.sodium.pvc.local import LocalMaps, LocalRegression, gaussian_neighbourhood
from sodiumprep.sodium.pvc.propagation import (
    Weights,
    drawn_noise,
    gtm_weights,
    labbe_weights,
    map_sd,
    purest_weights,
    spread_of,
    target_weights,
    unmixed_weights,
    yang_weights,
)
from sodiumprep.sodium.pvc.reduced import ReducedRegions
from sodiumprep.sodium.pvc.regional import (
    Method,
    RegionalEstimate,
    gtm,
    labbe,
    level_around,
    uncorrected,
    unmixed_values,
)
from sodiumprep.sodium.pvc.shown import Regions
from sodiumprep.sodium.pvc.voxelwise import (
    CorrectedMap,
    iterative_yang,
    mtc,
    mueller_gaertner,
    rbv,
    target_mean,
)

REGIONAL: dict[str, Method] = {"none": uncorrected, "gtm": gtm, "labbe": labbe}
FEEDS = ("gtm", "labbe")  # whose values may feed a map
LEAST_DRAWS, SLOWER = 8, 3  # Richardson-Lucy takes long: a third of the draws, but no fewer
STEP = 1.5  # of Van Cittert, times the residual


@dataclass(frozen=True)
class Setup:
    """What the methods need beside image, regions and noise.

    Parameters
    ----------
    target, fluid
        Names of the tissue that Müller-Gärtner maps, and of the fluid beside it.
    local
        Regions whose signal may differ from place to place, for the local regression.
    neighbourhood
        Its full width at half maximum along the three axes [voxels].
    transfer
        Of the one kernel that a deconvolution undoes, shape (2 nx, 2 ny, nz + 1).
    fixed
        Regions whose signals iterative Yang does not change, as a background that is not uniform.
    focus
        Regions around which least squares weighs voxels by their noise; elsewhere they hardly
        count. Empty: all voxels count by their noise.
    negative_as_zero
        Whether Richardson-Lucy takes negative voxels as 0; else it refuses them.
    feed
        Method whose regional values a map rests on, one of ``FEEDS``.
    draws
        Of the noise, for methods whose uncertainty has no closed form.
    seed
        Of these draws.
    """

    target: str = "GM"
    fluid: str = "CSF"
    local: Sequence[str] = ("GM", "WM", "CSF")
    neighbourhood: tuple[float, float, float] = (3.0, 3.0, 3.0)
    transfer: Complexes | None = None
    fixed: Sequence[str] = ()
    focus: Sequence[str] = ()
    negative_as_zero: bool = True
    feed: str = "gtm"
    draws: int = 30
    seed: int = 0


@dataclass(frozen=True)
class Correction:
    """What a method makes of an image.

    Parameters
    ----------
    values
        Regional, shape (regions,).
    image
        Corrected map, shape (nx, ny, nz); None where the method makes none.
    rests_on
        Regional signals that the map was made from, shape (regions,); None where it is not.
    local
        Maps of single regions, of the local regression.
    made
        What the method returned.
    remarks
        What a reader must know.
    """

    values: Floats
    image: Floats | None = None
    rests_on: Floats | None = None
    local: LocalMaps | None = None
    made: Any = None
    remarks: tuple[str, ...] = ()


def correct(
    method: str, image: Floats, regions: Regions, noise: ImageNoise | None, setup: Setup
) -> Correction:
    """Correct an image by a method.

    Parameters
    ----------
    method
        A key of ``sodiumprep.sodium.pvc.METHODS``, or "none".
    image
        Signal, shape (nx, ny, nz).
    regions
        What the image is made of.
    noise
        Of the image, for weights; None where it is not known.
    setup
        The rest.

    Returns
    -------
    correction
        Without its noise: see :func:`noise_of`.

    Raises
    ------
    ValueError
        If the method is not known, or refuses the image or the regions.
    """
    if method in REGIONAL:
        estimate = _regional(method, image, regions, noise, setup, with_covariance=False)
        return Correction(estimate.values, made=estimate)
    if method in DECONVOLUTIONS:
        return _deconvolved(method, image, regions, setup)
    if method == "mg":
        made = mueller_gaertner(image, regions, setup.target, setup.fluid)
        values = made.values.copy()
        values[list(regions.names).index(setup.target)] = target_mean(made, regions, setup.target)
        return Correction(values, made.image, made.values, made=made)
    if method not in FED:
        raise ValueError(f"there is no method '{method}'")
    fed = _regional(setup.feed, image, regions, noise, setup, with_covariance=False).values
    return FED[method](image, regions, fed, setup)


def _regional(
    method: str,
    image: Floats,
    regions: Regions,
    noise: ImageNoise | None,
    setup: Setup,
    *,
    with_covariance: bool = True,
) -> RegionalEstimate:
    if method != "labbe" or not setup.focus:
        return REGIONAL[method](image, regions, noise, with_covariance=with_covariance)
    noise_sd = np.ones(image.shape, np.float32) if noise is None else noise.noise_sd
    level = level_around(regions, setup.focus, noise_sd)
    return labbe(image, regions, noise, with_covariance=with_covariance, level=level)


def _simple(make: Callable[[Floats, Regions, Floats], CorrectedMap]) -> Callable[..., Correction]:
    def corrected(image: Floats, regions: Regions, fed: Floats, setup: Setup) -> Correction:
        made = make(image, regions, fed)
        return Correction(unmixed_values(made.image, regions), made.image, fed, made=made)

    return corrected


def _yang(image: Floats, regions: Regions, fed: Floats, setup: Setup) -> Correction:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        made = iterative_yang(image, regions, fed, fixed=setup.fixed)
    remarks = tuple(str(w.message) for w in told)
    return Correction(made.values, made.image, made.values, made=made, remarks=remarks)


def _local(image: Floats, regions: Regions, fed: Floats, setup: Setup) -> Correction:
    if isinstance(regions, ReducedRegions):
        return _local_reduced(image, regions, fed, setup)
    maps = _regression(regions, setup)(image, fed)
    return Correction(unmixed_values(maps.image, regions), maps.image, fed, maps)


def _local_reduced(
    image: Floats, regions: ReducedRegions, fed: Floats, setup: Setup
) -> Correction:
    """Regress on the work grid, and interpolate only how signals differ from the regional ones."""
    low_regions, low_image = regions.sampled(image)
    maps = _low_regression(regions, low_regions, setup)(low_image, fed)
    return _interpolated(regions, maps, fed)


def _low_regression(
    regions: ReducedRegions, low_regions: Regions, setup: Setup
) -> LocalRegression:
    x, y, z = setup.neighbourhood * regions.spacing / regions.grid.spacing
    return _regression(low_regions, replace(setup, neighbourhood=(x, y, z)))


def _interpolated(regions: ReducedRegions, maps: LocalMaps, fed: Floats) -> Correction:
    differences = np.zeros((len(regions.parts), *maps.image.shape), np.float32)
    for name, signals in zip(maps.names, maps.signals, strict=True):
        k = list(regions.names).index(name)
        differences[k] = signals - fed[k]
    combined = regions.composed(fed) + regions.composed_of(differences)
    return Correction(unmixed_values(combined, regions), combined, fed)


def _regression(regions: Regions, setup: Setup) -> LocalRegression:
    return LocalRegression(regions, setup.local, gaussian_neighbourhood(setup.neighbourhood))


def _deconvolved(method: str, image: Floats, regions: Regions, setup: Setup) -> Correction:
    made = DECONVOLUTIONS[method](image, one_kernel(setup), setup)
    remarks: tuple[str, ...] = ()
    if made.n_negative:
        remarks = (f"{method}: {made.n_negative} voxels of the image below 0 were taken as 0",)
    return Correction(unmixed_values(made.image, regions), made.image, made=made, remarks=remarks)


def one_kernel(setup: Setup) -> Complexes:
    """Return the kernel that a deconvolution undoes.

    Parameters
    ----------
    setup
        Of the methods.

    Raises
    ------
    ValueError
        If there is none.
    """
    if setup.transfer is None:
        raise ValueError("a deconvolution needs one kernel for the whole image")
    return setup.transfer


FED: dict[str, Callable[..., Correction]] = {
    "rbv": _simple(rbv),
    "iy": _yang,
    "mtc": _simple(mtc),
    "regression": _local,
}
DECONVOLUTIONS: dict[str, Callable[[Floats, Complexes, Setup], Deconvolved]] = {
    "rl": lambda image, transfer, setup: richardson_lucy(
        image, transfer, negative_as_zero=setup.negative_as_zero
    ),
    "vc": lambda image, transfer, _: reblurred_van_cittert(image, transfer, STEP),
}
BY_DRAWS = ("regression", "rl")  # methods whose noise has no closed form


@dataclass(frozen=True)
class CorrectionNoise:
    """What the noise of an image becomes in a correction.

    Parameters
    ----------
    covariance
        Of the regional values, shape (regions, regions).
    of_map
        Returns the SD of each voxel of the map, shape (nx, ny, nz), which takes as long again;
        None where the method makes no map.
    """

    covariance: Floats
    of_map: Callable[[], Floats] | None = None


def noise_of(
    method: str,
    correction: Correction,
    image: Floats,
    regions: Regions,
    noise: ImageNoise,
    setup: Setup,
) -> CorrectionNoise:
    """Return what the noise of an image becomes in a correction.

    Parameters
    ----------
    method
        As for :func:`correct`.
    correction
        What that returned.
    image, regions, noise, setup
        As they were given to it.

    Returns
    -------
    noise
        To first order and exact in the noise correlation. That of ``BY_DRAWS`` is from
        ``setup.draws`` draws (of "rl" a third), with a relative error of ``1 / sqrt(2 draws)``;
        correlations of its regional values are not told: 0.
    """
    if method in REGIONAL:
        return CorrectionNoise(_regional(method, image, regions, noise, setup).covariance)
    if method in BY_DRAWS:
        sd = _drawn(method, image, regions, noise, setup)
        voxels, values = sd[: image.size].reshape(image.shape), sd[image.size :]
        return CorrectionNoise(np.diag(values**2), lambda: voxels)
    each = np.eye(len(correction.values))
    if method == "vc":
        after = van_cittert_noise(noise, one_kernel(setup), STEP, correction.made.iterations)
        unmixing = np.linalg.inv(regions.overlap())
        covariance = regions.covariance((regions.composed(u @ unmixing) for u in each), after)
        return CorrectionNoise(covariance, lambda: after.noise_sd)
    made: CorrectedMap = correction.made
    weights, regional = _weights(method, made, regions, noise, setup)
    return CorrectionNoise(
        regions.covariance((regional(u) for u in each), noise),
        lambda: map_sd(made, regions, weights, noise),
    )


def feed_weights(regions: Regions, noise: ImageNoise, setup: Setup) -> Weights:
    """Return the voxel weights behind the regional values that feed a map.

    Parameters
    ----------
    regions, noise, setup
        As for :func:`correct`.

    Returns
    -------
    weights
        Of any combination of the values.
    """
    if setup.feed == "gtm":
        return gtm_weights(regions)
    if setup.focus:
        level = level_around(regions, setup.focus, noise.noise_sd)
        return labbe_weights(regions, replace(noise, noise_sd=level))
    return labbe_weights(regions, noise)


def _weights(
    method: str, made: CorrectedMap, regions: Regions, noise: ImageNoise, setup: Setup
) -> tuple[Weights, Weights]:
    """Return the weights behind the values that a map rests on, and behind its regional values."""
    if method == "iy":
        fed = feed_weights(regions, noise, setup) if setup.fixed else None
        weights = yang_weights(made, regions, setup.fixed, fed)
        return weights, weights
    if method == "mg":
        weights = purest_weights(regions, setup.target)
        return weights, _of_target(made, regions, weights, setup.target)
    weights = feed_weights(regions, noise, setup)
    return weights, unmixed_weights(made, regions, weights)


def _of_target(made: CorrectedMap, regions: Regions, weights: Weights, target: str) -> Weights:
    """Return the weights of the mean of the target, and of the pure voxels of all others."""
    index = list(regions.names).index(target)
    mean = target_weights(made, regions, weights, target)

    def combined(coefficients: Floats) -> Floats:
        others = np.array(coefficients, float)
        others[index] = 0
        return mean(np.atleast_1d(coefficients[index])) + weights(others)

    return combined


def _drawn(
    method: str, image: Floats, regions: Regions, noise: ImageNoise, setup: Setup
) -> Floats:
    """Return the SD of a map and then of its regional values, from seeded draws."""
    again = _repeatable(method, image, regions, noise, setup)
    rng = np.random.default_rng(setup.seed)

    def all_of(drawn: Floats) -> Floats:
        found = again(drawn)
        shown = np.zeros(0) if found.image is None else np.ravel(found.image)
        return np.concatenate([shown, found.values])

    def draw() -> Floats:
        if isinstance(regions, ReducedRegions):
            return regions.drawn_noise(noise, rng)
        return drawn_noise(noise, rng)

    return spread_of(all_of, image, draw, draws_of(method, setup))


def draws_of(method: str, setup: Setup) -> int:
    """Return how many draws of the noise an uncertainty rests on.

    Parameters
    ----------
    method
        One of ``BY_DRAWS``.
    setup
        Of the methods.
    """
    return setup.draws if method == "regression" else max(LEAST_DRAWS, setup.draws // SLOWER)


def _repeatable(
    method: str, image: Floats, regions: Regions, noise: ImageNoise, setup: Setup
) -> Callable[[Floats], Correction]:
    """Return a correction for many images, that makes what does not depend on them once."""
    if method != "regression":
        setup = replace(setup, negative_as_zero=True)  # noise makes dark voxels negative
        return lambda drawn: correct(method, drawn, regions, noise, setup)

    def fed(drawn: Floats) -> Floats:
        return _regional(setup.feed, drawn, regions, noise, setup, with_covariance=False).values

    if isinstance(regions, ReducedRegions):
        low = _low_regression(regions, regions.sampled(image)[0], setup)
        return lambda drawn: _interpolated(
            regions, low(regions.sampled_image(drawn), values := fed(drawn)), values
        )
    regression = _regression(regions, setup)

    def regressed(drawn: Floats) -> Correction:
        maps = regression(drawn, fed(drawn))
        return Correction(unmixed_values(maps.image, regions), maps.image)

    return regressed
