"""Texts of the command line that become numbers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.settings import FEWEST_DRAWS

MEMORY_UNITS = {"K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}  # in GB


def positive(text: str) -> int:
    """Return a whole number from 1 on, or raise what argparse tells the user."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def draws(text: str) -> int:
    """Return a number of Monte Carlo draws, or raise what argparse tells the user."""
    if not text.isdecimal() or 0 < int(text) < FEWEST_DRAWS:
        raise argparse.ArgumentTypeError(
            f"{text!r} draws; accepted: 0, or a whole number from {FEWEST_DRAWS} on (fewer do "
            "not tell a 95 % interval)"
        )
    return int(text)


def seed(text: str) -> int:
    """Return a seed, or raise what argparse tells the user."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2147483647")
    return int(text)


def memory(text: str) -> float:
    """Return an amount of memory [GB], or raise what argparse tells the user."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([KMGT]?)B?", text.strip(), flags=re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; accepted: as in 8GB or 8000 (MB)")
    return float(match[1]) * MEMORY_UNITS[match[2].upper() or "M"]


def distance(text: str) -> float:
    """Return a distance above 0 in mm, or raise what argparse tells the user."""
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no distance; accepted: mm above 0")
    return float(text)


def share(text: str) -> float:
    """Return a share from 0 to 1, or raise what argparse tells the user."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; accepted: 0 to 1")
    return number


def read_shells(distances: Sequence[float]) -> tuple[float, ...]:
    """Return the outer distances of shells around lesions.

    Parameters
    ----------
    distances
        As given [mm].

    Raises
    ------
    UserError
        If they do not rise from above 0.

    Examples
    --------
    >>> read_shells([5, 10])
    (5.0, 10.0)
    """
    inner = [0.0, *distances[:-1]]
    if any(not low < high for low, high in zip(inner, distances, strict=False)):
        told = " ".join(f"{distance:g}" for distance in distances)
        raise UserError(
            f"--lesion-shells {told}: accepted: rising outer distances in mm, such as 5 10 20"
        )
    return tuple(map(float, distances))
