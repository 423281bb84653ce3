"""Texts of the command line that become numbers."""

from __future__ import annotations

import argparse
import re

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
