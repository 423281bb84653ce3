"""A bottle of known concentration that is scanned by itself in the simulated coil of a head."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.phantom import Protocol, SodiumObject, transmit_field
from sodiumprep.sodium.phantom_placement import Vial, vial_level
from sodiumprep.sodium.phantom_signal import SALINE, magnetization, transverse_decay
from sodiumprep.sodium.phantom_template import border

BOTTLE = Vial("bottle", 50.0, SALINE, temperature=21.0, radius=72.0, length=165.0)
OFF_CENTRE = np.array([6.0, -9.0, 8.0])  # mm, of the bottle from the centre of the head
PROFILE_CHANGE = 0.03  # relative change of the coil's profile in 0.1 m, by another load
LOADINGS = (1.04, 1.25)  # head over bottle
LOADING_ERROR = 0.01  # relative standard uncertainty with which the loading is measured
CONCENTRATION_ERROR = 0.005  # the same of the concentration
SCALES = (1.6, 1.5, 0.85)  # echo time, repetition time, flip angle over those of the head


@dataclass(frozen=True)
class Loading:
    """How much more a head loads the coil than the bottle, and what is known of the bottle.

    Parameters
    ----------
    true, measured
        Transmitter amplitude for a flip angle, head over bottle.
    concentration
        True [mmol/L]; the nominal one is that of :data:`BOTTLE`.
    receiver
        Gain of the receiver, the same in both scans.
    """

    true: float
    measured: float
    concentration: float
    receiver: float


def draw_loading(rng: np.random.Generator) -> Loading:
    """Draw the loading of a coil, and how well it and the bottle are known.

    Parameters
    ----------
    rng
        Source of randomness.

    Returns
    -------
    loading
        With the receiver that head and bottle share.
    """
    true = float(rng.uniform(*LOADINGS))
    known = 1 + LOADING_ERROR * rng.standard_normal()
    made = 1 + CONCENTRATION_ERROR * rng.standard_normal()
    return Loading(
        true, true * float(known), BOTTLE.concentration * float(made), float(rng.uniform(0.5, 2))
    )


def bottle_protocol(protocol: Protocol) -> Protocol:
    """Return the protocol of a bottle, which is not that of the head.

    Parameters
    ----------
    protocol
        Of the head.
    """
    old, (echo, repetition, angle) = protocol.timing, SCALES
    timing = replace(
        old,
        echo_time=echo * old.echo_time,
        repetition_time=repetition * old.repetition_time,
        flip_angle=angle * old.flip_angle,
    )
    return replace(protocol, timing=timing, off_resonance=0.0)


def build_bottle(
    scanned: SodiumObject, protocol: Protocol, positions: Floats, concentration: float
) -> SodiumObject:
    """Put a bottle where a head was.

    Parameters
    ----------
    scanned
        The head, whose coils and grid are taken.
    protocol
        Of the bottle.
    positions
        Of the voxels of that grid from the centre of the head, shape (3, n, n, n) [m, RAS].
    concentration
        Of the bottle [mmol/L].

    Returns
    -------
    sodium_object
        Its ``grey`` is the bottle: the signal-to-noise ratio is that of the bottle.
    """
    level = vial_level(BOTTLE, OFF_CENTRE, positions * 1e3)
    inside = border(level, scanned.voxel * 1e3).astype(np.float32)
    angle = transmit_field(positions, protocol.transmit_spread)
    strength = replace(BOTTLE, concentration=concentration).strength
    signal = strength * magnetization(BOTTLE.relaxation, protocol.timing, angle) * inside
    change = 1 + PROFILE_CHANGE * positions[0] / 0.1
    return SodiumObject(
        signal[None].astype(np.float32),
        transverse_decay(BOTTLE.relaxation, protocol.sample_times)[None],
        inside,
        (scanned.sensitivities * change).astype(np.complex64),
        scanned.voxel,
    )


def bottle_sidecar(image: str, loading: Loading) -> dict[str, object]:
    """Return the key ``CalibrationPhantom`` of the sodium of the head.

    Parameters
    ----------
    image
        BIDS URI of the scan of the bottle.
    loading
        What is known of it.
    """
    relaxation = BOTTLE.relaxation
    return {
        "Image": image,
        "SodiumConcentration": BOTTLE.concentration,
        "SodiumConcentrationUncertainty": round(CONCENTRATION_ERROR * BOTTLE.concentration, 4),
        "T1": relaxation.t1,
        "T2starLong": relaxation.t2_long,
        "ShortFraction": relaxation.short_fraction,
        "Temperature": BOTTLE.temperature,
        "LoadingFactor": round(loading.measured, 4),
        "LoadingFactorUncertainty": round(LOADING_ERROR * loading.measured, 4),
    }
