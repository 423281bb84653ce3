"""How each number came about: its equation, its uncertainty, what corrections are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sodiumprep.bids_app.results import RunResults
from sodiumprep.bids_app.wording import number, significant
from sodiumprep.sodium.calibrate import magnetization_factor
from sodiumprep.sodium.pvc import METHODS as PVC_METHODS
from sodiumprep.sodium.uncertainty import COVERAGE_FACTOR

TERMS = (
    "u_noise", "u_calibration", "u_relaxation", "u_receive", "u_b1", "u_pvc", "u_segmentation",
    "u_registration",
)  # fmt: skip
MAIN_PVC, UNCORRECTED = "gtm", "none"
MOST_REGIONS = 12  # with an equation each; what is beyond stands in one table
AGREEMENT = 1e-4  # between the table and what its sidecar gives: relative, from 1 mmol/L on
PER_MMOL = "signal per mmol/L"
SATURATION = "(1 − {E}) · sin({angle}) / (1 − {E} · cos({angle}))"
DECAY = "[{f} · exp(−{te} / {short}) + {rest} · exp(−{te} / {long})]"
HOW = {
    "u_noise": "noise of the image with its correlation, carried to the region",
    "u_relaxation": "T1, T2*s, T2*l and f each moved by its standard uncertainty, in F and, where "
    "decay shapes them, in the kernels",
    "u_receive": "fitted receive profile here against that at the reference",
    "u_b1": "fitted flip angle here against that at the reference",
    "u_pvc": "a point-spread function wider by its uncertainty",
    "u_segmentation": "borders of the regions elsewhere by their uncertainty",
    "u_registration": "the image shifted along each axis by its error",
}
HOW_CALIBRATED = {
    "vials": "scatter of the vials about the line and their stated uncertainties",
    "fluid": "assumed concentration of the fluid, and the noise of its signal",
    "phantom": "concentration, temperature, relaxation, noise and uniformity of the phantom, and "
    "the loading factor",
}
SHARED = ("u_relaxation", "u_pvc", "u_segmentation", "u_registration")  # with a fluid's signal
Numbers = Mapping[str, Any]
Entry = dict[str, Any]


def dominating_term(row: Numbers) -> dict[str, Any]:
    """Return the largest term of an uncertainty and its share of the variance.

    Parameters
    ----------
    row
        Columns ``u_*`` [mmol/L] of the regional table.

    Examples
    --------
    >>> dominating_term({"u_noise": 1.0, "u_relaxation": 2.0, "u_b1": float("nan")})
    {'dominating': 'relaxation', 'share': 0.8}
    """
    squares = {t.removeprefix("u_"): row[t] ** 2 for t in TERMS if not pd.isna(row.get(t))}
    total = sum(squares.values())
    if not total > 0:
        return {"dominating": "n/a", "share": None}
    largest = max(squares, key=lambda term: squares[term])
    return {"dominating": largest, "share": squares[largest] / total}


def term_rows(run: RunResults) -> list[Entry]:
    """Return the terms of the uncertainty of every relaxation-corrected row.

    Parameters
    ----------
    run
        With its table.
    """
    if not len(run.table):
        return []
    rows = run.table[run.table["desc"] == "corrected"].sort_values(["index", "pvc"], kind="stable")
    return [
        {**row, "terms": [row.get(term) for term in TERMS], **dominating_term(row)}
        for row in rows.to_dict("records")
    ]


def budget_section(run: RunResults) -> Entry:
    """Return what the section on the origin of the numbers shows.

    Parameters
    ----------
    run
        Its table, the sidecar of the table and the QC file are read.

    Returns
    -------
    section
        ``problem`` where the numbers are not there; else ``symbols``, ``calibration``,
        ``regions`` and ``further`` (regions beyond the first twelve).
    """
    held = run.dictionary.get("Equation")
    shown = [(MAIN_PVC, "corrected"), (UNCORRECTED, "apparent")]
    found = [(kind, _known(run.rows(*kind))) for kind in shown]
    kind, rows = next(((k, rows) for k, rows in found if len(rows)), (shown[0], None))
    if rows is None:
        return {"problem": "the table holds no regional value"}
    if not isinstance(held, Mapping):
        return {"problem": "the sidecar of the table holds no entry “Equation”: it is not there, "
                           "or an older version wrote it"}  # fmt: skip
    return _section(_Budget(run, held, *kind), rows.to_dict("records"))


def _known(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["mean"].notna()] if len(rows) else rows


def _section(budget: _Budget, rows: list[Entry]) -> Entry:
    try:
        return {
            "problem": "",
            "pvc": budget.pvc,
            "pvc_name": PVC_METHODS.get(budget.pvc, ""),
            "corrected": budget.corrected,
            "transmit": budget.transmit,
            "symbols": budget.symbols,
            "factor_symbols": _factor_symbols(),
            "calibration": budget.calibration_entry(),
            "regions": [budget.region(row) for row in rows[:MOST_REGIONS]],
            "further": [budget.brief(row) for row in rows[MOST_REGIONS:]],
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return {"problem": f"the sidecar of the table cannot be read ({error!r})"}


class _Budget:
    """The numbers of one run, and the texts that are made of them.

    Parameters
    ----------
    run
        Its files.
    held
        Entry ``Equation`` of the table's sidecar.
    pvc, desc
        The rows that are told.
    """

    def __init__(self, run: RunResults, held: Numbers, pvc: str, desc: str) -> None:
        self.run, self.held, self.pvc, self.desc = run, held, pvc, desc
        self.corrected = desc == "corrected"
        self.constants = run.dictionary.get("RelaxationConstants") or {}
        self.calibration = run.dictionary.get("Calibration") or {}
        by_fluid = "fluid" if "fluid" in self.calibration else "vials"
        by_phantom = self.calibration.get("reference") == "phantom"
        self.kind = "phantom" if by_phantom else by_fluid
        self.transmit = "TransmitFactor" in held and self.corrected
        factors = " · F · B" if self.transmit else " · F"
        self.symbols = "C = (S − b) / " + (f"(a{factors})" if self.corrected else "a")
        self.rows = {
            (row["name"], row["pvc"], row["desc"]): row for row in run.table.to_dict("records")
        }

    def factors(self, name: str) -> list[float]:
        """Return what divides the signal of a region, fluid or vial besides the slope."""
        if not self.corrected:
            return []
        kinds = ("RelaxationFactor", *(["TransmitFactor"] if self.transmit else []))
        return [float(self.held[kind][name]) for kind in kinds]

    def line(self, desc: str) -> tuple[float, float]:
        """Return slope and intercept."""
        return float(self.held["Slope"][desc]), float(self.held["Intercept"][desc])

    def region(self, row: Entry) -> Entry:
        """Return all that is told of a region."""
        name, known = row["name"], [t for t in TERMS if not pd.isna(row.get(t))]
        steps = [self._value(row)]
        if self.corrected:
            steps = [*self.relaxation_steps(name), *steps]
        return {
            **self.brief(row),
            "propagated": number(float(np.linalg.norm([row[term] for term in known])), 2),
            "draws": (self.run.dictionary.get("MonteCarlo") or {}).get("Draws"),
            "interval": (number(row["ci_low"]), number(row["ci_high"])),
            "coverage_factor": f"{COVERAGE_FACTOR:g}",
            "steps": steps,
            "agrees": self._agrees(row),
            "source": self.constants.get(name, {}).get("source", "") if self.corrected else "",
            "terms": [
                {"name": t, "value": number(row[t], 3), "how": self._how(t),
                 "main": t.removeprefix("u_") == dominating_term(row)["dominating"]}
                for t in known
            ],
            "unknown": [term for term in TERMS if term not in known],
            "worth": self._worth(row) if self.corrected else [],
        }  # fmt: skip

    def brief(self, row: Entry) -> Entry:
        """Return one line on a region."""
        name, told = row["name"], dominating_term(row)
        return {
            "name": name,
            "mean": number(row["mean"], 2),
            "uncertainty": number(row["uncertainty"], 2),
            "dominating": told["dominating"],
            "share": None if told["share"] is None else number(100 * told["share"], 0),
            "assumed": self.calibration.get("fluid", {}).get("name") == name,
            "signal": significant(self.held["Signal"][self.pvc][name]),
            "factors": [significant(factor) for factor in self.factors(name)],
        }

    def relaxation_steps(self, name: str) -> list[Entry]:
        """Return the equations of a relaxation factor with the numbers in them."""
        timing, known = self.held["Protocol"], self.constants[name]
        ms = {key: significant(1e3 * known[key]) for key in ("t1", "t2_short", "t2_long")}
        tr, te = (significant(1e3 * timing[f"{k}Time"]) for k in ("Repetition", "Echo"))
        left = significant(np.exp(-timing["RepetitionTime"] / known["t1"]))
        fraction = known["short_fraction"]
        saturation = SATURATION.format(E=left, angle=f"{significant(timing['FlipAngle'])}°")
        decay = DECAY.format(
            te=te, short=ms["t2_short"], long=ms["t2_long"], f=significant(fraction),
            rest=significant(1 - fraction),
        )  # fmt: skip
        return [
            _step("E = exp(−TR / T1)", f"exp(−{tr} / {ms['t1']})", left),
            _step("F", f"{saturation} · {decay}", self.held["RelaxationFactor"][name]),
        ]

    def calibration_entry(self) -> Entry:
        """Return the line, and the references that it rests on."""
        slope, intercept = self.line(self.desc)
        line = {"slope": significant(slope), "intercept": significant(intercept),
                "fluid": "", "phantom": False, "steps": [], "vials": []}  # fmt: skip
        if self.kind == "phantom":
            return {**line, "phantom": True, "steps": [self._phantom()]}
        if self.kind == "fluid":
            return {**line, **self._fluid()}
        vials = [self._vial(vial, slope, intercept) for vial in self.calibration["vials"]]
        symbols = "c · m" + (" · F" if self.corrected else "") + (" · B" if self.transmit else "")
        return {**line, "vials": vials, "symbols": symbols}

    def _phantom(self) -> Entry:
        known = self.calibration["phantom"]
        below = [known["LoadingFactor"], known["Concentration"], known["MagnetizationFactor"],
                 known["RelaxationFactor"][self.desc]]  # fmt: skip
        numbers = f"{significant(known['Signal'])} / ({' · '.join(map(significant, below))})"
        return _step("a = S / (L · c · m · F)", numbers, self.line(self.desc)[0], PER_MMOL)

    def _fluid(self) -> Entry:
        known = self.calibration["fluid"]
        name, signal = known["name"], significant(known["signal"])
        factors = [significant(factor) for factor in self.factors(name)]
        numbers = " · ".join([significant(self.calibration["assumed"][0]), *factors])
        symbols = "a = S / (c · F · B)" if self.transmit else "a = S / (c · F)"
        step = _step(symbols, f"{signal} / ({numbers})", self.line(self.desc)[0], PER_MMOL)
        return {"fluid": name, "steps": [*self.relaxation_steps(name), step]}

    def _vial(self, vial: Entry, slope: float, intercept: float) -> Entry:
        factors = self.factors(vial["name"])
        warm, _ = magnetization_factor(vial.get("temperature"))
        expected = float(np.prod([vial["concentration"], warm, *factors]))
        return {
            "name": vial["name"] + ("" if vial.get("used", True) else " (outlier, left out)"),
            "concentration": significant(vial["concentration"]),
            "u_concentration": significant(vial["u_concentration"], 2),
            "temperature": significant(vial.get("temperature")),
            "magnetization": significant(warm),
            "factors": [significant(factor) for factor in factors],
            "expected": significant(expected),
            "signal": significant(vial["signal"]),
            "u_signal": significant(vial["u_signal"], 2),
            "n_voxels": vial["n_voxels"],
            "residual": number((vial["signal"] - intercept) / slope - expected, 2),
        }

    def _value(self, row: Entry) -> Entry:
        name, (slope, intercept) = row["name"], self.line(self.desc)
        signal = significant(self.held["Signal"][self.pvc][name])
        below = " · ".join([significant(slope), *map(significant, self.factors(name))])
        numbers = f"({signal} − {significant(intercept)}) / "
        numbers += f"({below})" if self.corrected else below
        return _step(self.symbols, numbers, number(row["mean"], 2), "mmol/L")

    def _agrees(self, row: Entry) -> bool:
        """Tell whether the numbers of the sidecar give the value of the table."""
        slope, intercept = self.line(self.desc)
        signal = float(self.held["Signal"][self.pvc][row["name"]])
        found = (signal - intercept) / (slope * np.prod(self.factors(row["name"])))
        return bool(abs(found - row["mean"]) <= AGREEMENT * max(abs(row["mean"]), 1.0))

    def _how(self, term: str) -> str:
        if term == "u_calibration":
            return HOW_CALIBRATED[self.kind]
        shared = self.kind == "fluid" and term in SHARED
        return HOW[term] + (", of the reference too" if shared else "")

    def _worth(self, row: Entry) -> list[Entry]:
        """Return the value as it stands, and what it would be without each correction."""
        name = row["name"]
        return [
            _worth_row("as reported", row, row["mean"], self._parts(name)),
            *(
                _worth_row(label, row, other["mean"], parts)
                for label, other, parts in (
                    ("without relaxation correction", self._row(name, self.pvc, "apparent"),
                     self._parts(name, "apparent", [1.0])),
                    ("without partial-volume correction",
                     self._row(name, UNCORRECTED, self.desc), self._mixed(name)),
                )
                if other is not None and parts is not None
            ),
            *self._without_transmit(row),
        ]  # fmt: skip

    def _row(self, name: str, pvc: str, desc: str) -> Entry | None:
        return self.rows.get((name, pvc, desc))

    def _parts(
        self, name: str, desc: str = "corrected", factors: Iterable[float] | None = None
    ) -> tuple[float, ...]:
        """Return signal, slope, intercept and the product of the factors."""
        used = self.factors(name) if factors is None else list(factors)
        signal = float(self.held["Signal"][self.pvc][name])
        return (signal, *self.line(desc), float(np.prod(used)))

    def _mixed(self, name: str) -> tuple[float, ...] | None:
        signals = self.held["Signal"].get(UNCORRECTED)
        if signals is None or "MixedFactor" not in self.held:
            return None
        return (_real(signals[name]), *self.line(self.desc), _real(self.held["MixedFactor"][name]))

    def _without_transmit(self, row: Entry) -> list[Entry]:
        other = self.held.get("WithoutTransmit")
        if other is None:
            return []
        label = "without flip-angle correction"
        if "Problem" in other:
            return [{"label": label, "problem": str(other["Problem"])}]
        factor = float(self.held["RelaxationFactor"][row["name"]])
        signal, slope, intercept = (
            other["Signal"][row["name"]], other["Slope"], other["Intercept"],
        )  # fmt: skip
        value = (signal - intercept) / (slope * factor)
        return [_worth_row(label, row, value, (signal, slope, intercept, factor))]


def _step(symbols: str, numbers: str, result: float | str, unit: str = "") -> Entry:
    shown = result if isinstance(result, str) else significant(result)
    return {"symbols": symbols, "numbers": numbers, "result": shown, "unit": unit}


def _real(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _factor_symbols() -> str:
    saturation = SATURATION.format(E="E", angle="α")
    decay = DECAY.format(te="TE", short="T2*s", long="T2*l", f="f", rest="(1 − f)")
    return f"F = {saturation} · {decay}"


def _worth_row(label: str, row: Entry, value: float, parts: tuple[float, ...]) -> Entry:
    change = 100 * (value - row["mean"]) / row["mean"] if row["mean"] else np.nan
    return {
        "label": label,
        "problem": "",
        "parts": [significant(part) for part in parts],
        "value": number(value, 2),
        "change": "" if label == "as reported" or np.isnan(change) else f"{change:+.1f} %",
    }
