"""The receive profile of a coil that transmits too, from its transmit field (reciprocity)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.smooth_field import SmoothField

UNCERTAINTY = 0.02  # relative, up to 3 T: assumed; it grows with the frequency
LOW_FIELD = 3.0  # T


def reciprocity_uncertainty(field_strength: float | None) -> float:
    """Return how far the receive profile is taken to depart from the transmit field.

    Parameters
    ----------
    field_strength
        [T]; None where it is not known.

    Returns
    -------
    uncertainty
        Relative standard uncertainty from place to place.

    Examples
    --------
    >>> reciprocity_uncertainty(1.5), round(reciprocity_uncertainty(7.0), 3)
    (0.02, 0.047)
    """
    return UNCERTAINTY * max(1.0, (field_strength or 0.0) / LOW_FIELD)


def receive_factor(transmit: SmoothField, uncertainty: float) -> SmoothField:
    """Return what undoes the receive profile of the coil that made a transmit field.

    The field that a coil makes for a current is the signal that it receives. Of a birdcage driven
    in quadrature and received in the opposite sense, both are mirror images of each other; in a
    head at frequencies of sodium they are taken to be the same but for ``uncertainty``.

    Parameters
    ----------
    transmit
        Flip angle over nominal.
    uncertainty
        Relative, from place to place; it goes to all waves of the field alike.

    Returns
    -------
    factor
        Multiplies an image; 1 where the flip angle is nominal, so that images with other fields
        of view get the same factor.

    References
    ----------
    Hoult & Richards 1976, doi:10.1016/0022-2364(76)90233-X

    Examples
    --------
    >>> field = SmoothField(np.zeros(3), np.ones(3), np.zeros((1, 3)), np.log([1.25]), np.eye(1))
    >>> round(float(receive_factor(field, 0.02)(np.zeros((1, 3)))[0]), 3)
    0.8
    """
    waves = np.any(transmit.orders > 0, axis=1)
    # over the box a wave has a mean square of 1/2 for each axis that it runs along
    shares = waves * 2.0 ** np.sum(transmit.orders > 0, axis=1) / max(waves.sum(), 1)
    return replace(
        transmit,
        coefficients=-transmit.coefficients,
        covariance=transmit.covariance + uncertainty**2 * np.diag(shares),
    )


def with_correlation(u_receive: Floats, u_transmit: Floats) -> Floats:
    """Return the receive term where one field gives both terms.

    The same error acts on what is received and on what the flip angle makes of the signal.
    Whatever their signs, both together are at most their plain sum; the receive term is raised
    until the root of the sum of squares is that.

    Parameters
    ----------
    u_receive, u_transmit
        Relative standard uncertainties, shape (n,).

    Returns
    -------
    u_receive
        Shape (n,).

    Examples
    --------
    >>> float(np.hypot(with_correlation(np.array([3.0]), np.array([4.0])), 4.0)[0])
    7.0
    """
    return np.sqrt(u_receive**2 + 2 * u_receive * np.nan_to_num(u_transmit))
