"""Apparent concentrations where no anatomy tells what a voxel is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from sodiumprep.interfaces.calibrate import load_lines, protocol_of, used_vials
from sodiumprep.interfaces.coil_fields import load_field
from sodiumprep.interfaces.concentration import COLUMNS, FORCED
from sodiumprep.interfaces.equation import save_equation
from sodiumprep.interfaces.image import load_finite_image, load_image, save_image
from sodiumprep.interfaces.monte_carlo import finished, known_reference, receive_field
from sodiumprep.interfaces.reconstruct import load_response
from sodiumprep.sodium.acquisition import Floats
from sodiumprep.sodium.concentration import (
    RegionalSignals,
    concentration_table,
    region_flags,
    region_statistics,
    uncorrected_signals,
    with_flag,
)
from sodiumprep.sodium.concentration_map import map_apparent
from sodiumprep.sodium.monte_carlo import UncertainTable
from sodiumprep.sodium.noise import ImageNoise
from sodiumprep.sodium.pvc.assessment import UNCORRECTED, AssessedSignals
from sodiumprep.sodium.relaxation import DECAYING
from sodiumprep.sodium.smooth_field import grid_positions, relative_uncertainty

APPARENT = (UNCORRECTED, "apparent")


class _ApparentInput(BaseInterfaceInputSpec):
    image_file = File(exists=True, mandatory=True, desc="sodium image, receive-corrected [signal]")
    noise_file = File(exists=True, mandatory=True, desc="its noise SD [signal]")
    calibration_file = File(exists=True, mandatory=True, desc="apparent line (JSON)")


class _ApparentOutput(TraitedSpec):
    apparent_file = File(exists=True, desc="apparent concentration [mmol/L]")
    uncertainty_file = File(exists=True, desc="its standard uncertainty [mmol/L]")


class MapApparent(SimpleInterface):
    """Turn the sodium image into a map of apparent concentration on its own grid."""

    input_spec = _ApparentInput
    output_spec = _ApparentOutput

    def _run_interface(self, runtime: Any) -> Any:
        image, affine = load_finite_image(self.inputs.image_file)
        noise, _ = load_image(self.inputs.noise_file)
        lines, _ = load_lines(self.inputs.calibration_file)
        maps = map_apparent(image, noise, lines["apparent"])
        for name, values in zip(("apparent", "uncertainty"), maps, strict=True):
            path = Path(runtime.cwd) / f"{name}.nii.gz"
            self._results[f"{name}_file"] = save_image(path, values, affine)
        return runtime


class _TabulateDrawnInput(_ApparentInput):
    regions_file = File(exists=True, mandatory=True, desc="drawn regions and vials (npz)")
    response_file = File(exists=True, mandatory=True, desc="noise spectrum and modes (npz)")
    model_file = traits.Either(None, File(exists=True), desc="fitted receive field (npz), or None")
    properties = traits.Dict(mandatory=True, desc="of the image; flags are read")
    protocol = traits.Dict(mandatory=True, desc="echo and repetition time [s], flip angle [rad]")
    monte_carlo = traits.Int(0, usedefault=True, desc="draws of all that is uncertain; 0: none")
    random_seed = traits.Int(0, usedefault=True, desc="of these draws")


class _TabulateDrawnOutput(TraitedSpec):
    table_file = File(exists=True, desc="regional table (TSV) [mmol/L]; only a head if no region")
    equation_file = File(exists=True, desc="the numbers that its values are made of (JSON)")
    told = traits.Dict(desc="correlation of rows, what draws say, Warnings")


class TabulateDrawn(SimpleInterface):
    """Write one row of apparent concentration per drawn region, with its uncertainty."""

    input_spec = _TabulateDrawnInput
    output_spec = _TabulateDrawnOutput

    def _run_interface(self, runtime: Any) -> Any:
        with np.load(self.inputs.regions_file) as stored:
            regions = {key: stored[key] for key in stored.files if key != "blurred"}
        drawn = regions["kinds"] == "drawn"
        self._results["told"] = {}
        table, signals = pd.DataFrame(columns=COLUMNS), {}
        if drawn.any():
            table, signals = self._table(regions, drawn)
        path = Path(runtime.cwd) / "table.tsv"
        table[COLUMNS].to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        self._results["table_file"] = str(path)
        lines, _ = load_lines(self.inputs.calibration_file)
        self._results["equation_file"] = save_equation(
            Path(runtime.cwd) / "equation.json", protocol_of(self.inputs.protocol),
            {"apparent": lines["apparent"]}, Signal={"none": signals},
        )  # fmt: skip
        return runtime

    def _table(self, regions: dict[str, Any], drawn: Any) -> tuple[pd.DataFrame, dict[str, float]]:
        """Return the rows, and the signal of each."""
        image, affine = load_finite_image(self.inputs.image_file)
        noise, _ = load_image(self.inputs.noise_file)
        lines, extra = load_lines(self.inputs.calibration_file)
        line, used = lines["apparent"], np.isin(regions["names"], used_vials(extra))
        response = load_response(self.inputs.response_file)
        known = ImageNoise(noise, response.noise_spectrum, response.noise_modes)
        names, fractions = regions["names"][drawn].tolist(), regions["fractions"][drawn]
        signals = replace(
            # drawn on the image itself: it cannot be out of place
            uncorrected_signals(image, fractions, known, np.full(3, np.nan)),
            u_receive=self._receive(regions["fractions"], drawn, used, affine),
            u_transmit=np.full(len(names), np.nan),
        )
        protocol = protocol_of(self.inputs.protocol)
        flags = self._flags(
            names, fractions, regions["coverage"], abs(np.linalg.det(affine[:3, :3])) / 1e3
        )
        rows = concentration_table(signals, np.ones(len(names)), None, protocol, line)
        uncertain = self._uncertain(regions, signals, affine)
        draws, seed = self.inputs.monte_carlo, self.inputs.random_seed
        ((*_, rows),), self._results["told"] = finished(
            [(*APPARENT, rows)], uncertain, draws, seed
        )
        values = region_statistics(line.concentration(image), fractions)
        table = pd.DataFrame({
            "index": np.arange(1, len(names) + 1),
            "name": names,
            "pvc": "none",
            "desc": "apparent",
            "n_voxels": fractions.sum(axis=(1, 2, 3), dtype=np.float64),
            "volume_ml": regions["volumes_ml"],
            **{key: values[key] for key in ("sd", "median", "q25", "q75")},
            **rows,
            "snr": signals.values / region_statistics(noise, fractions)["mean"],
            "coverage": regions["coverage"],
            "flag": with_flag(flags, FORCED, np.full(len(names), extra["forced"])),
        })  # fmt: skip
        return table, dict(zip(names, signals.values.tolist(), strict=True))

    def _uncertain(
        self, regions: dict[str, Any], signals: RegionalSignals, affine: Floats
    ) -> UncertainTable:
        """Return all that the table rests on, with its uncertainty."""
        lines, extra = load_lines(self.inputs.calibration_file)
        names = regions["names"][regions["kinds"] == "drawn"].tolist()
        reference, receive = known_reference(extra), None
        if isdefined(self.inputs.model_file) and self.inputs.model_file is not None:
            weights = dict(zip(regions["names"].tolist(), regions["fractions"], strict=True))
            receive = receive_field(self.inputs.model_file, weights, affine, reference.names)
        return UncertainTable(
            names=names,
            rows=names,
            signals={UNCORRECTED: _assessed(signals)},
            factors={APPARENT: np.ones(len(names))},
            constants={},
            protocol=protocol_of(self.inputs.protocol),
            lines={"apparent": lines["apparent"]},
            reference=reference,
            receive=receive,
        )

    def _flags(self, names: list[str], fractions: Floats, covered: Floats, ml: float) -> list[str]:
        known = self.inputs.properties
        widths = dict.fromkeys(names, known["PointSpreadFWHM"]["muscle"])
        volumes = ml * fractions.sum(axis=(1, 2, 3), dtype=np.float64)
        return region_flags(volumes, covered, {**known, "PointSpreadFWHM": widths}, names)

    def _receive(self, fractions: Floats, drawn: Any, used: Any, affine: Floats) -> Floats:
        if not isdefined(self.inputs.model_file) or self.inputs.model_file is None:
            return np.full(int(drawn.sum()), np.nan)
        model = load_field(self.inputs.model_file)
        weights = fractions.reshape(len(fractions), -1)
        basis = model.region_means(grid_positions(fractions.shape[1:], affine), weights)
        return relative_uncertainty(model, basis[drawn], basis[used].mean(axis=0))


def _assessed(signals: RegionalSignals) -> AssessedSignals:
    """Return signals that no method has touched; what their noise shares is not known."""
    n = len(signals.values)
    nothing = np.zeros((0, n))
    return AssessedSignals(
        values=signals.values,
        rests_on=signals.values,
        covariance=np.diag(signals.noise_variance),
        kernel_change=signals.kernel_change,
        registration_changes=signals.registration_changes,
        border_changes=nothing,
        decay_changes=np.zeros((n, len(DECAYING), n)),
        residual_sd=np.full(n, np.nan),
        entangled=np.zeros(n, bool),
        sensitivity=nothing,
    )
