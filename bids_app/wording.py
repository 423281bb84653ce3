"""Values as a reader of a report wants them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup, escape

UNKNOWN = "n/a"
# signs that end a DOI do so before a space only: those of 1999 hold "<179::" and ";2-V"
_DOI = re.compile(r"doi:\s*(10\.(?:[^\s,;<>\"']|[;<>](?=\S))+)")


def number(value: Any, digits: int = 1) -> str:
    """Return a number with fixed digits, or ``n/a``.

    Examples
    --------
    >>> number(39.588), number(None), number(float("nan")), number(True), number("n/a")
    ('39.6', 'n/a', 'n/a', 'n/a', 'n/a')
    """
    real = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return f"{value:.{digits}f}" if real and np.isfinite(value) else UNKNOWN


def significant(value: Any, digits: int = 6) -> str:
    """Return a number with as many digits as a reader needs who computes with it, or ``n/a``.

    Examples
    --------
    >>> significant(1234567.8), significant(0.03902559), significant(145.0), significant(None)
    ('1234570', '0.0390256', '145', 'n/a')
    >>> significant(-0.0), significant(2.5e-9)
    ('0', '2.5e-09')
    """
    real = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not real or not np.isfinite(value):
        return UNKNOWN
    if value != 0 and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{digits}g}"
    return np.format_float_positional(value + 0.0, digits, fractional=False, trim="-")


def triple(values: Any, digits: int = 1) -> str:
    """Return the numbers of several axes with fixed digits, or ``n/a``.

    Examples
    --------
    >>> triple([1.0, -0.04, None]), triple(None), triple("?")
    ('1.0, -0.0, n/a', 'n/a', 'n/a')
    """
    if not isinstance(values, (list, tuple)) or not values:
        return UNKNOWN
    return ", ".join(number(value, digits) for value in values)


def plain_value(value: Any) -> str:
    """Return any value of a sidecar as text for a reader.

    Examples
    --------
    >>> plain_value([3.25, 3.5]), plain_value(True), plain_value(None), plain_value(1e-5)
    ('3.25, 3.5', 'yes', 'n/a', '1e-05')
    """
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain_value(held)}" for key, held in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain_value(held) for held in value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def registration_problem(path: Any, held: Mapping[str, Any]) -> str:
    """Return the line that says why the position of a sodium image must not be trusted.

    Examples
    --------
    >>> registration_problem("qc.json", {"RegistrationScore": 0.2, "RegistrationError95": 9.0})
    'qc.json: RegistrationFailed: score 0.20, error up to 9.0 mm; all values are flagged'
    """
    score, error = (held.get(f"Registration{key}") for key in ("Score", "Error95"))
    return (
        f"{path}: RegistrationFailed: score {number(score, 2)}, error up to {number(error, 1)} "
        "mm; all values are flagged"
    )


def doi_links(text: str) -> Markup:
    """Return escaped text in which every DOI is a link.

    Examples
    --------
    >>> print(doi_links("<b> doi:10.1000/1."))
    &lt;b&gt; <a href="https://doi.org/10.1000/1">doi:10.1000/1</a>.
    """
    parts, last = [], 0
    for found in _DOI.finditer(text):
        name = found[1].rstrip(".)")
        link = Markup('<a href="https://doi.org/{0}">doi:{0}</a>').format(name)
        parts += [escape(text[last : found.start()]), link]
        last = found.start(1) + len(name)
    return Markup("").join([*parts, escape(text[last:])])
