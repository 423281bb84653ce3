"""The lesions of the phantom: gliomas, plaques of multiple sclerosis and strokes.

A kind of lesion has classes, each with its sodium, relaxation and T1w brightness. They displace
nothing: each takes its share from the tissues that it covers.

Concentrations. Plaques: 49.1 mM where contrast agent enhances, 45.1 mM where T1 is hypointense,
39.9 mM elsewhere (Eisele 2016, Mult Scler 22:1040). Slowly expanding ones are darker in T1 than
other plaques (Elliott 2019, doi:10.1177/1352458518814117), hence assumed near the hypointense.
Stroke: below 45 mmol/L while tissue lives, about 70 when it is dead (Thulborn 2005,
doi:10.1016/j.nic.2005.08.003); in rats sodium rises in the core and lies below normal in the
penumbra (Wetterling 2015, doi:10.1038/jcbfm.2014.174), by how much is assumed. Glioma:
103 mmol/kg (Ouwerkerk 2003) in the core, its oedema assumed.

Relaxation. Plaques gain 75 % in a relaxation-weighted and 35 % in a density-weighted image (Stobbe
2021, doi:10.3389/fneur.2021.693447): sodium relaxes slower there. How much slower is assumed, as
it is in infarcts; penumbra lies between white and grey matter, glioma is as white matter.

Brightness in the T1w image, without contrast agent: assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.phantom_signal import Relaxation, relaxation_of
from sodiumprep.sodium.phantom_template import border

Parts = dict[str, Floats]  # share of the voxel by class, each of shape (n,)
Owners = NDArray[np.uint8]

SIDES = {-1: "left", 1: "right"}


@dataclass(frozen=True)
class LesionClass:
    """One class of a kind of lesion.

    Parameters
    ----------
    name
        As in ``label-<name>_mask``.
    concentration
        Mean over patients [mmol/L].
    slowing
        Its T1 and T2* over those of white matter.
    brightness
        In the T1w image, white matter being one.
    keeps_contrast
        Whether grey and white matter can still be told apart in the T1w image; ``brightness`` is
        then over that of the tissue it covers.
    """

    name: str
    concentration: float
    slowing: float
    brightness: float
    keeps_contrast: bool = False


KINDS: Mapping[str, tuple[LesionClass, ...]] = {  # sources: above
    "glioma": (
        LesionClass("core", 100.0, 1.0, 0.38),
        LesionClass("edema", 65.0, 1.0, 0.62),
    ),
    "ms": (
        LesionClass("enhancing", 49.07, 1.1, 0.85),
        LesionClass("blackhole", 45.06, 1.2, 0.5),
        LesionClass("expanding", 43.0, 1.15, 0.65),
    ),
    "stroke": (
        LesionClass("core", 70.0, 1.1, 0.8, keeps_contrast=True),
        LesionClass("penumbra", 37.0, 1.05, 1.0, keeps_contrast=True),
    ),
}
DEFAULT_KIND = "glioma"  # whose classes also a healthy head has, empty


def class_names(kind: str) -> tuple[str, ...]:
    """Return the classes of a kind of lesion.

    Parameters
    ----------
    kind
        One of ``KINDS``.

    Examples
    --------
    >>> class_names("stroke")
    ('core', 'penumbra')
    """
    return tuple(each.name for each in KINDS[kind])


def relaxation_in(kind: str, name: str, field_strength: float) -> Relaxation:
    """Return the constants of a class of a head with a kind of lesion.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    name
        Tissue, or class of that kind.
    field_strength
        3 or 7 [T].

    Returns
    -------
    relaxation
        Constants [s].

    Raises
    ------
    ValueError
        If the field strength is neither 3 nor 7 T.

    Examples
    --------
    >>> relaxation_in("ms", "blackhole", 3).t2_long / relaxation_in("ms", "WM", 3).t2_long
    1.2
    """
    slowing = next((each.slowing for each in KINDS[kind] if each.name == name), None)
    if slowing is None:
        return relaxation_of(name, field_strength)
    base = relaxation_of("WM", field_strength)
    return replace(
        base,
        t1=base.t1 * slowing,
        t2_short=base.t2_short * slowing,
        t2_long=base.t2_long * slowing,
    )


class Lesion(Protocol):
    """What a patient has, in the space of the averaged brain."""

    kind: ClassVar[str]

    @property
    def places(self) -> Sequence[str]:
        """Where each lesion lies, in words."""

    def take(self, parts: Parts, before: Floats, after: Floats) -> Parts:
        """Return the shares of all classes, the lesion's among them.

        Parameters
        ----------
        parts
            Shares without the lesion, each of shape (n,).
        before, after
            Positions before and after the ventricles have pushed the tissue, shape (3, n) [mm].
        """

    def owners(self, after: Floats) -> Owners:
        """Return to which lesion each place belongs, from 1, shape (n,)."""

    def later(self, years: float) -> Lesion:
        """Return what has become of it."""


def side_of(x: float) -> str:
    """Return "left" or "right" of a position from the left to the right [mm]."""
    return SIDES[1 if x > 0 else -1]


def cover_tissue(parts: Parts, name: str, level: Floats) -> Parts:
    """Give a class of lesion its share of grey and white matter.

    Parameters
    ----------
    parts
        Shares by class, each of shape (n,).
    name
        Class that takes; what it has it keeps.
    level
        Signed distance to its border, positive inside, shape (n,) [mm].

    Returns
    -------
    parts
        Of the same sum.

    Examples
    --------
    >>> parts = {"GM": np.array([0.2]), "WM": np.array([0.7]), "CSF": np.array([0.1])}
    >>> {n: round(float(v[0]), 3) for n, v in cover_tissue(parts, "core", np.array([9.0])).items()}
    {'GM': 0.0, 'WM': 0.0, 'CSF': 0.1, 'core': 0.9}
    """
    share = border(level)
    tissue = parts["GM"] + parts["WM"]
    left = {n: p * (1 - share) if n in ("GM", "WM") else p for n, p in parts.items()}
    return left | {name: parts.get(name, np.float32(0)) + tissue * share}
