"""What of its uncertainty a value has to itself."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sodiumprep.sodium.acquisition import Floats


def own_uncertainty(table: pd.DataFrame) -> Floats:
    """Return the standard uncertainty without what all values of the cohort share.

    An assumed constant moves all values together: it neither scatters them about a line nor
    moves a subject against its reference.

    Parameters
    ----------
    table
        Columns ``u`` and, if known, ``u_shared`` [mmol/L].

    Returns
    -------
    u
        Shape (rows,) [mmol/L]; nan where ``u`` is not known or there is no such column.

    Examples
    --------
    >>> own_uncertainty(pd.DataFrame({"u": [5.0, 3.0], "u_shared": [4.0, np.nan]})).tolist()
    [3.0, 3.0]
    """
    if "u" not in table:
        return np.full(len(table), np.nan)
    shared = table["u_shared"].fillna(0.0).to_numpy(float) if "u_shared" in table else 0.0
    return np.sqrt(np.maximum(table["u"].to_numpy(float) ** 2 - shared**2, 0.0))
