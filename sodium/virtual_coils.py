"""Fewer coils that see nearly the same: mixtures of an array's coils, strongest first."""

from __future__ import annotations

import numpy as np

from sodiumprep.sodium.acquisition import Complexes

LOST_SHARE = 0.01  # of the sensitivities' power: costs at most half a per cent of the SNR overall


def virtual_coils(maps: Complexes, lost_share: float = LOST_SHARE) -> Complexes:
    """Return the mixtures of coils that carry nearly all of what an array sees.

    To be applied with :func:`~sodiumprep.sodium.coils.mix_coils` to samples and sensitivities
    alike. Then nothing is biased: mixtures left out are data left out, not a model bent. Their
    noise stays independent, of the same variance.

    Parameters
    ----------
    maps
        Sensitivities of coils whose noise is independent and of equal variance, shape
        (coils, nx, ny, nz); 0 outside the object where that is known.
    lost_share
        Share of the power of all sensitivities that may be left out, in [0, 1).

    Returns
    -------
    matrix
        Orthonormal rows, shape (mixtures, coils), complex128, strongest mixture first.

    Raises
    ------
    ValueError
        If the share lies outside [0, 1), or the sensitivities are zero or not finite.

    References
    ----------
    Buehrer et al. 2007, doi:10.1002/mrm.21237

    Examples
    --------
    >>> same_twice = np.ones((2, 4, 4, 4), np.complex64)
    >>> virtual_coils(same_twice).shape
    (1, 2)
    """
    if not 0 <= lost_share < 1:
        raise ValueError(f"the share that may be lost is {lost_share}; it must lie in [0, 1)")
    flat = maps.reshape(len(maps), -1)
    gram = (flat @ flat.conj().T).astype(np.complex128)
    if not (np.all(np.isfinite(gram)) and np.trace(gram).real > 0):
        raise ValueError(f"the sensitivities have the power {np.trace(gram).real:g}")
    power, mixtures = np.linalg.eigh(gram)
    carried = np.cumsum(power[::-1]) / power.sum()
    enough = min(1 + int(np.sum(carried < 1 - lost_share)), len(maps))
    return np.asarray(mixtures[:, ::-1][:, :enough].conj().T)
