"""Phantom replacement: a body of known concentration, scanned by itself in the coil of the head.

By the principle of reciprocity the signal that a coil receives goes with the field that it makes
for a given voltage. A head that loads the coil by a factor more than the phantom, so that it needs
a transmitter voltage larger by that factor for the same flip angle, gives a signal that is smaller
by that factor for the same magnetization.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sodiumprep.sodium.acquisition import Floats, Numbers
from sodiumprep.sodium.calibrate import Calibration, magnetization_factor, single_reference
from sodiumprep.sodium.concentration import CONSTANT_NAMES, Protocol
from sodiumprep.sodium.kernel import blur
from sodiumprep.sodium.noise import ImageNoise, weighted_covariance
from sodiumprep.sodium.relaxation import relative_change
from sodiumprep.sodium.signal import Relaxation
from sodiumprep.sodium.transmit import SCALE_UNCERTAINTY

DEPTH = 1.5  # widths of the kernel between a voxel that counts and the wall
FEWEST_VOXELS = 30  # of the core
SIGNAL_TO_NOISE = 5.0  # of a voxel of the body, at least
BRIGHTEST = 99.5  # percentile that lies within the body

Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class PhantomSignal:
    """The signal of a phantom.

    Parameters
    ----------
    signal
        Mean over the core.
    u_noise, u_uniformity
        Relative standard uncertainty of it from noise, and the relative SD over the core that
        noise does not explain.
    core
        Voxels that count, shape (nx, ny, nz).
    """

    signal: float
    u_noise: float
    u_uniformity: float
    core: Booleans


def phantom_body(image: Floats, noise_sd: Floats) -> Booleans:
    """Return the largest body of an image that is about uniform.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz).
    noise_sd
        Of a voxel, same shape.

    Returns
    -------
    body
        What is brighter than half of the body's median, holes filled, same shape.

    Raises
    ------
    ValueError
        If nothing stands out of the noise.

    Examples
    --------
    >>> image = np.zeros((12, 12, 12))
    >>> image[2:10, 2:10, 2:10] = 3.0
    >>> int(phantom_body(image, np.full(image.shape, 0.1)).sum())
    512
    """
    level = float(np.percentile(image, BRIGHTEST))
    for _ in range(2):
        level = float(np.median(image[image >= level / 2])) if level > 0 else 0.0
    noise = float(np.median(noise_sd))
    if not level > SIGNAL_TO_NOISE * noise:
        raise ValueError(
            f"no phantom stands out: the brightest body has {level:.3g}, the noise SD is "
            f"{noise:.3g}; accepted: at least {SIGNAL_TO_NOISE:g} times as much"
        )
    bodies, _ = ndimage.label(image > level / 2)
    sizes = np.bincount(bodies.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(bodies == sizes.argmax()), bool)


def phantom_signal(
    image: Floats, noise: ImageNoise, transfer: Numbers, depth: float, usable: Booleans
) -> PhantomSignal:
    """Return the signal of the body of a phantom, away from its wall.

    Each voxel is divided by what blurring leaves of the body there.

    Parameters
    ----------
    image
        Signal, shape (nx, ny, nz).
    noise
        Of the voxels.
    transfer
        Of the kernel, shape (2 nx, 2 ny, nz + 1).
    depth
        Between the wall and the voxels that count [voxels].
    usable
        Voxels in which the coil correction is known, same shape as ``image``.

    Returns
    -------
    signal
        With what makes it uncertain.

    Raises
    ------
    ValueError
        If there is no body, or fewer than 30 voxels lie so deep in it.
    """
    body = phantom_body(np.where(usable, image, 0), noise.noise_sd)
    distance = ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1, 1:-1]
    core = (distance >= depth) & usable
    n = int(core.sum())
    if n < FEWEST_VOXELS:
        raise ValueError(
            f"{n} voxels of the phantom lie {depth:.1f} voxels under its wall, where the coil "
            f"correction is known; accepted: at least {FEWEST_VOXELS}"
        )
    shown = blur(body.astype(np.float32), transfer)
    values = image[core].astype(np.float64) / shown[core]
    signal = float(values.mean())
    weights = np.zeros((1, *image.shape), np.float32)
    weights[0][core] = 1 / (n * shown[core])
    variance = float(weighted_covariance(weights, noise)[0, 0])
    of_noise = float(np.mean((noise.noise_sd[core] / shown[core]) ** 2))
    left = max(float(values.var()) - of_noise, 0.0)
    return PhantomSignal(signal, np.sqrt(variance) / signal, np.sqrt(left) / signal, core)


@dataclass(frozen=True)
class Phantom:
    """What is known of a phantom and its scan.

    Parameters
    ----------
    concentration, u_concentration
        [mmol/L].
    relaxation
        Constants with their uncertainties.
    protocol
        Of its own scan.
    temperature
        [degrees Celsius], or None.
    loading, u_loading
        Transmitter amplitude for a given flip angle in the head over that in the phantom: the
        signal of the head is smaller by it.
    """

    concentration: float
    u_concentration: float
    relaxation: Relaxation
    protocol: Protocol
    temperature: float | None = None
    loading: float = 1.0
    u_loading: float = 0.0

    def relative_uncertainties(
        self, measured: PhantomSignal, factor: Callable[[Phantom], float]
    ) -> dict[str, float]:
        """Return the relative standard uncertainty of a slope, term by term.

        Parameters
        ----------
        measured
            Signal.
        factor
            What relaxation makes of the slope.
        """
        nominal = factor(self)

        def of_constants(relaxation: Relaxation) -> float:
            return factor(replace(self, relaxation=relaxation))

        relaxation = [
            relative_change(of_constants, self.relaxation, name) for name in CONSTANT_NAMES
        ]
        angle = self.protocol.flip_angle * (1 + SCALE_UNCERTAINTY)
        turned = replace(self, protocol=replace(self.protocol, flip_angle=angle))
        return {
            "Noise": measured.u_noise,
            "Uniformity": measured.u_uniformity,
            "Concentration": self.u_concentration / self.concentration,
            "Loading": self.u_loading / self.loading,
            "Temperature": magnetization_factor(self.temperature)[1],
            "Relaxation": float(np.linalg.norm(relaxation)),
            "FlipAngle": abs(factor(turned) / nominal - 1),
        }


def relaxation_factors(protocol: Protocol) -> dict[str, Callable[[Phantom], float]]:
    """Return what relaxation makes of the signal of a phantom, for both lines.

    Parameters
    ----------
    protocol
        Of the scan of the head.

    Returns
    -------
    factors
        "apparent": over what it would be with the protocol of the head; "corrected": over the
        signal without relaxation.
    """
    return {
        "apparent": lambda p: p.protocol.factor(p.relaxation) / protocol.factor(p.relaxation),
        "corrected": lambda p: p.protocol.factor(p.relaxation),
    }


def phantom_lines(
    measured: PhantomSignal, phantom: Phantom, protocol: Protocol
) -> tuple[dict[str, Calibration], dict[str, float]]:
    """Return the apparent and the relaxation-corrected line of the head through a phantom.

    Parameters
    ----------
    measured
        Signal of the phantom in its own scan.
    phantom
        What is known of it.
    protocol
        Of the scan of the head.

    Returns
    -------
    lines
        "apparent": by the signal that the phantom would have with the protocol of the head.
        "corrected": by its signal without relaxation.
    terms
        Relative standard uncertainties of the corrected slope.

    Raises
    ------
    ValueError
        If the signal is not positive, or the temperature is not one of a liquid.

    References
    ----------
    Hoult & Richards 1976, doi:10.1016/0022-2364(76)90233-X

    Examples
    --------
    >>> protocol = Protocol(3e-4, 0.12, 1.5)
    >>> water = Phantom(50.0, 0.5, Relaxation(0.05, 0.05, 0.05, 0.0), protocol, 37.0, loading=1.25)
    >>> lines, _ = phantom_lines(PhantomSignal(100.0, 0, 0, np.ones(1, bool)), water, protocol)
    >>> round(lines["apparent"].slope, 2)
    1.6
    """
    curie, _ = magnetization_factor(phantom.temperature)
    signal = measured.signal / phantom.loading
    lines, terms = {}, {}  # by kind
    for name, factor in relaxation_factors(protocol).items():
        terms[name] = phantom.relative_uncertainties(measured, factor)
        held = phantom.concentration * curie * factor(phantom)
        rest = {k: u for k, u in terms[name].items() if k != "Noise"}
        u_held = held * float(np.linalg.norm(list(rest.values())))
        lines[name] = single_reference(signal, measured.u_noise * signal, (held, u_held))
    return lines, terms["corrected"]
