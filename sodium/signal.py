"""The signal of a spin-3/2 nucleus: saturation, biexponential decay, and both at the echo time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sodiumprep.sodium.acquisition import Floats


@dataclass(frozen=True)
class Relaxation:
    """Relaxation constants of one tissue with their standard uncertainties.

    Parameters
    ----------
    t1, t2_short, t2_long
        [s]; ``t2_short`` has no effect where ``short_fraction`` is 0.
    short_fraction
        Share of the signal that decays with ``t2_short``: 0.6 in tissue and gel, 0 in fluid.
    u_t1, u_t2_short, u_t2_long, u_short_fraction
        Standard uncertainties, same units.
    source
        Where the figures come from.

    Raises
    ------
    ValueError
        If a time is not positive or the fraction lies outside [0, 1].
    """

    t1: float
    t2_short: float
    t2_long: float
    short_fraction: float
    u_t1: float = 0.0
    u_t2_short: float = 0.0
    u_t2_long: float = 0.0
    u_short_fraction: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse constants that no tissue has."""
        for name in ("t1", "t2_short", "t2_long"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)} s; it must be positive")
        if not 0 <= self.short_fraction <= 1:
            raise ValueError(f"short_fraction is {self.short_fraction}; it must lie in [0, 1]")


def spoiled_saturation(
    flip_angle: Floats | float, repetition_time: float, t1: Floats | float
) -> Floats:
    """Return the steady-state signal fraction of a spoiled gradient echo.

    Parameters
    ----------
    flip_angle
        Flip angle that the spins see [rad], any shape.
    repetition_time
        Time between excitations [s].
    t1
        Longitudinal relaxation time [s], broadcastable to ``flip_angle``.

    Returns
    -------
    fraction
        Transverse magnetization over equilibrium magnetization, in [0, 1].

    Raises
    ------
    ValueError
        If a time is not positive.

    References
    ----------
    Ernst & Anderson 1966, doi:10.1063/1.1719961

    Examples
    --------
    >>> round(float(spoiled_saturation(np.pi / 2, 0.1, 0.05)), 3)
    0.865
    """
    if not (repetition_time > 0 and np.all(np.asarray(t1) > 0)):
        raise ValueError(f"TR {repetition_time} s and T1 {t1} s must be positive")
    angle = np.asarray(flip_angle, np.float64)
    e1 = np.exp(-repetition_time / t1)
    return np.asarray(np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle)))


def biexponential_decay(time: Floats | float, relaxation: Relaxation) -> Floats:
    """Return the transverse signal that is left after a time.

    Parameters
    ----------
    time
        After the excitation [s], any shape.
    relaxation
        Constants of the tissue.

    Returns
    -------
    decay
        Same shape as ``time``, 1 at time 0.

    References
    ----------
    Riemer et al. 2018, doi:10.1002/nbm.3899

    Examples
    --------
    >>> fluid = Relaxation(t1=0.058, t2_short=0.05, t2_long=0.05, short_fraction=0.0)
    >>> round(float(biexponential_decay(0.05, fluid)), 4)
    0.3679
    """
    t = np.asarray(time, np.float64)
    short = relaxation.short_fraction * np.exp(-t / relaxation.t2_short)
    return np.asarray(short + (1 - relaxation.short_fraction) * np.exp(-t / relaxation.t2_long))


def relaxation_factor(
    relaxation: Relaxation, echo_time: float, repetition_time: float, flip_angle: float
) -> float:
    """Return the signal at the first sample per equilibrium magnetization.

    Parameters
    ----------
    relaxation
        Constants of the tissue.
    echo_time, repetition_time
        [s].
    flip_angle
        [rad].

    Returns
    -------
    factor
        In (0, 1]; dividing a signal by it gives one that is proportional to concentration.

    Raises
    ------
    ValueError
        If a time is not positive, the echo time negative, or the factor vanishes.
    """
    if echo_time < 0:
        raise ValueError(f"the echo time is {echo_time} s; it must not be negative")
    saturation = spoiled_saturation(flip_angle, repetition_time, relaxation.t1)
    factor = float(saturation * biexponential_decay(echo_time, relaxation))
    if not factor > 0:
        raise ValueError(f"a flip angle of {np.degrees(flip_angle):g} degrees leaves no signal")
    return factor
