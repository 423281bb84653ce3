"""Relaxation constants by tissue and field strength, with sources and uncertainties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace

from sodiumprep.sodium.signal import Relaxation

RIEMER = "Riemer 2018, doi:10.1002/nbm.3899"
NIESPOREK = "Niesporek 2017, doi:10.1007/s10334-017-0623-2"
FLEYSHER = "Fleysher 2009, doi:10.1002/mrm.22133"
BARTHA = "Bartha & Menon, at 4 T"
MUSCLE = "doi:10.1186/s12891-022-05879-5"
ASSUMED = "assumed, to be verified"
FLUID_LESIONS = ("cavity", "resection", "cyst")  # part of a lesion's name: it is filled with fluid
VITREOUS = "vitreous"  # the humour of both eyes
DECAYING = ("t2_short", "t2_long", "short_fraction")  # constants that shape a kernel, too
MOVED = "|"  # between a tissue and the constant of it that is larger by its uncertainty
FIELD_TOLERANCE = 0.10  # relative; a row further away in field strength is not used


def _tissue(
    t2_short: tuple[float, float], t2_long: tuple[float, float], source: str
) -> Relaxation:
    """Return brain tissue: T1 37 +- 2 ms (assumed), short fraction 0.60 +- 0.03 (spin 3/2)."""
    return Relaxation(
        t1=37e-3, t2_short=t2_short[0], t2_long=t2_long[0], short_fraction=0.60,
        u_t1=2e-3, u_t2_short=t2_short[1], u_t2_long=t2_long[1], u_short_fraction=0.03,
        source=f"T2*: {source}; T1: {ASSUMED}",
    )  # fmt: skip


def _fluid(t2: float, u_t2: float, source: str) -> Relaxation:
    """Return cerebrospinal fluid: T1 58 +- 3 ms (assumed), one exponential."""
    return Relaxation(
        t1=58e-3, t2_short=t2, t2_long=t2, short_fraction=0.0, u_t1=3e-3, u_t2_long=u_t2,
        source=f"T2*: {source}; T1: {ASSUMED}",
    )  # fmt: skip


def _muscle(factor: float) -> Relaxation:
    """Return muscle and scalp of 7 T; elsewhere the uncertainty is larger by ``factor``."""
    return Relaxation(
        t1=27e-3, t2_short=3.3e-3, t2_long=12.8e-3, short_fraction=0.60, u_t1=2e-3 * factor,
        u_t2_short=0.3e-3 * factor, u_t2_long=1.3e-3 * factor, u_short_fraction=0.03,
        source=MUSCLE,
    )  # fmt: skip


# field strength [T] -> tissue -> constants [s]
CONSTANTS: dict[float, dict[str, Relaxation]] = {
    3.0: {
        "GM": _tissue((3.9e-3, 0.5e-3), (26.3e-3, 2.6e-3), RIEMER),
        "WM": _tissue((3.4e-3, 0.2e-3), (23.5e-3, 1.8e-3), RIEMER),
        "CSF": _fluid(56e-3, 5e-3, ASSUMED),
        "muscle": _muscle(2.0),
    },
    4.0: {"CSF": _fluid(63.7e-3, 4.7e-3, BARTHA)},
    7.0: {
        "GM": _tissue((5.4e-3, 0.2e-3), (36.4e-3, 3.1e-3), NIESPOREK),
        "WM": _tissue((3.5e-3, 0.1e-3), (23.3e-3, 2.6e-3), NIESPOREK),
        "CSF": _fluid(54e-3, 4e-3, FLEYSHER),
        "muscle": _muscle(1.0),
    },
}


def relaxation_of(
    tissue: str, field_strength: float, overrides: Mapping[str, Relaxation] | None = None
) -> Relaxation:
    """Return the constants of a tissue at a field strength.

    Parameters
    ----------
    tissue
        "GM", "WM", "CSF", "muscle", "vitreous", or the name of a lesion class. The vitreous humour
        takes the constants of CSF and a lesion class those of :func:`lesion_tissue`, both with
        twice the uncertainty, until ``overrides`` names them.
    field_strength
        [T]; the nominal and the true one (3 and 2.89) find the same row.
    overrides
        Constants by tissue that replace the table's.

    Returns
    -------
    relaxation
        Constants with uncertainties and source.

    Raises
    ------
    ValueError
        If no row lies within 10 % of the field strength.

    Examples
    --------
    >>> relaxation_of("WM", 2.89).t2_long
    0.0235
    """
    if overrides and tissue in overrides:
        return overrides[tissue]
    if tissue not in ("GM", "WM", "CSF", "muscle"):
        named = "CSF" if tissue == VITREOUS else lesion_tissue(tissue)
        return _doubled(relaxation_of(named, field_strength, overrides), named)
    for field, rows in CONSTANTS.items():
        if abs(field_strength - field) <= FIELD_TOLERANCE * field and tissue in rows:
            return rows[tissue]
    known = sorted({field for field, rows in CONSTANTS.items() if tissue in rows})
    raise ValueError(
        f"no relaxation constants of {tissue} at {field_strength:g} T (known: "
        f"{', '.join(f'{f:g}' for f in known)} T); give them with --relaxation FILE"
    )


def lesion_tissue(name: str) -> str:
    """Return the tissue whose constants a class of lesion takes.

    Parameters
    ----------
    name
        Of the class. One that names a cavity, a resection or a cyst is fluid; one that ends with
        GM, WM or CSF is that tissue; all others (core, enhancing, edema, necrosis, ...) are
        white matter.

    Returns
    -------
    tissue
        "GM", "WM" or "CSF".

    Examples
    --------
    >>> [lesion_tissue(name) for name in ("resectionCavity", "edema", "lesionGM")]
    ['CSF', 'WM', 'GM']
    """
    if any(part in name.lower() for part in FLUID_LESIONS):
        return "CSF"
    return next((tissue for tissue in ("GM", "CSF") if name.endswith(tissue)), "WM")


def _doubled(relaxation: Relaxation, tissue: str) -> Relaxation:
    uncertain = {f.name: 2 * getattr(relaxation, f.name) for f in fields(relaxation)
                 if f.name.startswith("u_")}  # fmt: skip
    return replace(relaxation, source=f"of {tissue}: {relaxation.source}", **uncertain)


def perturbed(relaxation: Relaxation, name: str, steps: float = 1.0) -> Relaxation:
    """Return the constants with one of them larger by its standard uncertainty.

    Parameters
    ----------
    relaxation
        Constants.
    name
        "t1", "t2_short", "t2_long" or "short_fraction".
    steps
        Of the uncertainty; negative ones make it smaller.

    Returns
    -------
    perturbed
        A copy; the short fraction stays within [0, 1], a time above a tenth of what it was.

    Examples
    --------
    >>> round(perturbed(relaxation_of("GM", 3.0), "t1").t1, 4)
    0.039
    """
    stated = getattr(relaxation, name)
    value = stated + steps * getattr(relaxation, f"u_{name}")
    if name == "short_fraction":
        return replace(relaxation, short_fraction=min(max(value, 0.0), 1.0))
    return replace(relaxation, **{name: max(value, stated / 10)})


def with_moved(constants: Mapping[str, Relaxation]) -> dict[str, Relaxation]:
    """Return constants, and beside them each tissue with one of them moved.

    A signal that decays faster while it is read out has a wider kernel, so that uncertain
    constants of decay are uncertain kernels.

    Parameters
    ----------
    constants
        By tissue.

    Returns
    -------
    constants
        Also by :func:`moved_name`, for each constant of decay that is uncertain; but for muscle,
        of which no value is told.
    """
    moved = {
        moved_name(tissue, name): perturbed(known, name)
        for tissue, known in constants.items()
        for name in DECAYING
        if tissue != "muscle" and getattr(known, f"u_{name}") > 0
    }
    return {**constants, **moved}


def moved_name(tissue: str, constant: str) -> str:
    """Return what a tissue is called of which one constant is moved.

    Examples
    --------
    >>> moved_name("GM", "t2_long")
    'GM|t2_long'
    """
    return f"{tissue}{MOVED}{constant}"


def relative_change(
    factor: Callable[[Relaxation], float], relaxation: Relaxation, name: str
) -> float:
    """Return what the uncertainty of one constant changes in a factor, over that factor.

    Parameters
    ----------
    factor
        What constants make of a signal.
    relaxation
        Constants with their uncertainties.
    name
        Of the constant.

    Returns
    -------
    change
        Half the difference between both sides.

    References
    ----------
    Guide to the expression of uncertainty in measurement, JCGM 100:2008, 5.1.3

    Examples
    --------
    >>> water = Relaxation(0.05, 0.05, 0.05, 0.0, u_t1=0.01)
    >>> round(relative_change(lambda known: known.t1, water, "t1"), 3)
    0.2
    """
    more, less = (factor(perturbed(relaxation, name, steps)) for steps in (1.0, -1.0))
    return (more - less) / 2 / factor(relaxation)
