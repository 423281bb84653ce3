"""One source of randomness for each result, whatever process makes it and in whatever order."""

from __future__ import annotations

import zlib

import numpy as np


def seeded(seed: int, *words: str) -> np.random.Generator:
    """Return the source of randomness of one result.

    Parameters
    ----------
    seed
        Of the run.
    words
        Which result: comparison, regions, method.

    Examples
    --------
    >>> float(seeded(23, "core", "gtm").random()) == float(seeded(23, "core", "gtm").random())
    True
    >>> float(seeded(23, "core", "gtm").random()) == float(seeded(23, "core", "none").random())
    False
    """
    return np.random.default_rng([seed, zlib.crc32("\0".join(words).encode())])
