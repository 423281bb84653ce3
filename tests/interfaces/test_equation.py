"""What a correction of the flip angle changed can be taken back."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from sodiumprep.interfaces.coil_fields import RegionTransmit
from sodiumprep.interfaces.equation import (
    KEYS,
    explained_equation,
    save_equation,
    without_transmit,
)
from sodiumprep.sodium.concentration import Protocol

NAMES = ["GM", "CSF", "low", "high"]
FACTORS = {"GM": 0.9, "CSF": 0.87, "low": 0.93, "high": 0.93}
CONTENT = {"GM": 40.0, "CSF": 145.0, "low": 30.0, "high": 90.0}
GAIN = 7.0


def transmit(changes):
    """Return a field that leaves ``changes`` of each signal, and 1 % after the correction."""
    effect = SimpleNamespace(factors=np.full(4, 0.99), changes=np.asarray(changes))
    return RegionTransmit(NAMES, effect, None)


def seen(name, left):
    return GAIN * CONTENT[name] * FACTORS[name] * left


def vials():
    known = {"u_signal": 0.01, "n_voxels": 9, "factor": 0.92, "u_concentration": 0.1,
             "temperature": 36.85}  # fmt: skip
    return [{"name": name, "signal": seen(name, 0.99), "concentration": CONTENT[name], **known}
            for name in ("low", "high")]  # fmt: skip


def concentrations(changes, calibration):
    signals = {name: seen(name, 0.99) for name in ("GM", "CSF")}
    told = without_transmit(transmit(changes), signals, FACTORS, calibration)["WithoutTransmit"]
    return {
        name: (signal - told["Intercept"]) / (told["Slope"] * FACTORS[name])
        for name, signal in told["Signal"].items()
    }


def test_a_flip_angle_that_weakens_vials_alone_makes_regions_too_bright():
    found = concentrations([1.0, 1.0, 0.8, 0.8], {"forced": False, "vials": vials()})
    assert found["GM"] == pytest.approx(40 / 0.8, rel=1e-6)
    same = concentrations([0.7, 0.7, 0.7, 0.7], {"forced": False, "vials": vials()})
    assert same == pytest.approx({"GM": 40, "CSF": 145}, rel=1e-6)


def test_a_fluid_keeps_its_assumed_concentration():
    fluid = {"name": "CSF", "signal": seen("CSF", 0.99), "u_signal": 0.1, "factor": 0.86}
    found = concentrations([0.9, 0.8, 1, 1], {"fluid": fluid, "assumed": [145.0, 5.0]})
    assert found == pytest.approx({"GM": 40 * 0.9 / 0.8, "CSF": 145}, rel=1e-9)


def test_a_line_that_would_be_refused_is_told():
    told = without_transmit(
        transmit([1, 1, 1, -1]), {}, FACTORS, {"forced": False, "vials": vials()}
    )
    assert "must be positive" in told["WithoutTransmit"]["Problem"]
    assert without_transmit(None, {}, FACTORS, {"forced": False, "vials": vials()}) == {}


def test_every_number_is_explained(tmp_path):
    line = {"apparent": SimpleNamespace(slope=7.0, intercept=0.0)}
    path = save_equation(
        tmp_path / "equation.json", Protocol(3e-4, 0.12, np.pi / 2), line, Signal={"none": {}}
    )
    told = explained_equation(path)["Equation"]
    assert told["Protocol"] == {"EchoTime": 3e-4, "RepetitionTime": 0.12, "FlipAngle": 90.0}
    assert (
        set(told["Keys"]) == set(json.loads((tmp_path / "equation.json").read_text())) <= set(KEYS)
    )
    assert all(entry["Description"] and entry["Units"] for entry in told["Keys"].values())
