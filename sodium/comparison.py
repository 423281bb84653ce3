"""Several references of one image compared: what each would make of the calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sodiumprep.sodium.acquisition import Floats

DISAGREE = 3.0  # combined standard uncertainties between two references


@dataclass(frozen=True)
class References:
    """Slopes that several references give, with what makes them err.

    Parameters
    ----------
    names
        Of the references.
    slopes
        Signal per mmol/L that each gives, shape (n,).
    independent
        Relative standard uncertainty of each by what it shares with no other one: concentration,
        relaxation, noise of vials; shape (n,).
    noise
        Relative covariance of the signals from image noise, shape (n, n).
    changes
        Relative change of each signal for one standard uncertainty of what they share (width of
        the kernel, position, borders), a row for each, shape (rows, n).
    fields
        Covariance of the logarithm of the coils' fields over the references, shape (n, n): it acts
        between references, not on one alone.
    """

    names: Sequence[str]
    slopes: Floats
    independent: Floats
    noise: Floats
    changes: Floats
    fields: Floats

    def uncertainties(self) -> Floats:
        """Return the standard uncertainty of each slope, shape (n,)."""
        return np.asarray(self.slopes * np.sqrt(np.diag(self._covariance)))

    def ratio(self, one: int, other: int) -> tuple[float, float]:
        """Return the slope of one reference over that of another.

        What changes both alike cancels.

        Parameters
        ----------
        one, other
            Index of the references.

        Returns
        -------
        ratio, uncertainty
            The latter a standard uncertainty.
        """
        total = self._covariance + self.fields
        variance = total[one, one] + total[other, other] - 2 * total[one, other]
        ratio = float(self.slopes[one] / self.slopes[other])
        return ratio, ratio * float(np.sqrt(max(variance, 0.0)))

    @property
    def _covariance(self) -> Floats:
        return np.asarray(
            np.diag(self.independent**2) + self.noise + self.changes.T @ self.changes
        )

    def disagreements(self) -> list[str]:
        """Return what must be said of references that do not fit each other.

        Returns
        -------
        told
            One sentence for each pair further apart than 3 combined standard uncertainties.

        Examples
        --------
        >>> none, slopes = np.zeros((2, 2)), np.array([1.0, 1.2])
        >>> pair = References(["csf", "vials"], slopes, np.full(2, 0.03), none, none, none)
        >>> pair.disagreements()
        ['the references disagree: vials give 1.20 ± 0.05 times the slope of csf']
        """
        found = []
        for other in range(len(self.names)):
            for one in range(other + 1, len(self.names)):
                ratio, u = self.ratio(one, other)
                if abs(np.log(ratio)) > DISAGREE * u / ratio:  # the same the other way round
                    verb = "give" if self.names[one] == "vials" else "gives"
                    found.append(
                        f"the references disagree: {self.names[one]} {verb} {ratio:.2f} ± {u:.2f} "
                        f"times the slope of {self.names[other]}"
                    )
        return found
