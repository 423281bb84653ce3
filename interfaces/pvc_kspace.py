"""Regional signals straight from raw k-space, beside those from the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, traits

from sodiumprep.interfaces.image import load_finite_image
from sodiumprep.interfaces.kspace import read_kspace
from sodiumprep.interfaces.pvc import FROM_KSPACE, border_uncertainty, save_signals
from sodiumprep.interfaces.reconstruct import MeasurementInput, measured, tissue_constants
from sodiumprep.interfaces.regions import (
    SampledAnatomy,
    SampleRegionsInput,
    count_bordered,
    sample_all,
)
from sodiumprep.sodium.acquisition import Acquisition, Floats
from sodiumprep.sodium.kernel import decay_from_first_sample
from sodiumprep.sodium.model_based import MeasurementModel
from sodiumprep.sodium.pvc.assessment import (
    POSITION_ERROR,
    SEGMENTATION_ERROR,
    AssessedSignals,
)
from sodiumprep.sodium.pvc.kspace import (
    KspaceEstimate,
    kspace_regression,
    scan_time_curve,
    white_samples,
)
from sodiumprep.sodium.pvc.regional import entangled
from sodiumprep.sodium.pvc.sensitivity import moved_borders, moving_together
from sodiumprep.sodium.relaxation import DECAYING

OUTSIDE = "muscle"  # whose decay the head around the brain has


class _RegressKspaceInput(MeasurementInput, SampleRegionsInput):
    field_file = File(exists=True, mandatory=True, desc="what the image is multiplied by")
    properties = traits.Dict(mandatory=True, desc="RegistrationSpread [mm]")
    border_shift = traits.Float(
        0.0, usedefault=True, desc="also tell what borders moved by this would change [mm]"
    )


class _RegressKspaceOutput(TraitedSpec):
    signals_file = File(exists=True, desc="regional signals, as from the image (npz)")
    told = traits.Dict(desc="fit and scan-time curve, for the QC file")


class RegressKspace(SimpleInterface):
    """Estimate regional signals from raw k-space (see ``sodium.pvc.kspace``)."""

    input_spec = _RegressKspaceInput
    output_spec = _RegressKspaceOutput

    def _run_interface(self, runtime: Any) -> Any:
        acquisition = read_kspace(self.inputs.kspace_file, stated=dict(self.inputs.stated or {}))
        sampled = sample_all(self.inputs)
        try:
            estimate = self._estimate(acquisition, sampled)
        except ValueError as error:
            raise ValueError(f"{self.inputs.kspace_file}: --pvc kspace: {error}") from error
        spread = self.inputs.properties.get("RegistrationSpread")
        shift = np.nan if spread is None else spread / np.sqrt(3) * 1e-3
        n = len(estimate.names)
        moved, uncertain = estimate.border_changes, self._border_uncertainty
        signals = AssessedSignals(
            values=estimate.values,
            rests_on=estimate.values,
            covariance=estimate.covariance,
            kernel_change=np.full(n, np.nan),  # there is none
            registration_changes=estimate.shift_changes(np.full(3, shift)),
            border_changes=moved * (uncertain / SEGMENTATION_ERROR)[:, None],
            decay_changes=np.zeros((0, len(DECAYING), n)),
            residual_sd=np.full(n, np.nan),
            entangled=entangled(estimate.covariance),
            sensitivity=self._sensitivity(estimate),
        )
        path = Path(runtime.cwd) / "signals.npz"
        self._results["signals_file"] = save_signals(path, {FROM_KSPACE: signals})
        self._results["told"] = {"KspaceRegression": _told(estimate)}
        return runtime

    def _sensitivity(self, estimate: KspaceEstimate) -> Floats:
        n = len(estimate.names)
        if not self.inputs.border_shift:
            return np.zeros((0, n))
        moved = estimate.shift_changes(np.full(3, POSITION_ERROR * 1e-3))
        # no kernel
        return np.concatenate([moved, np.zeros((1, n)), estimate.border_changes])

    def _estimate(self, acquisition: Acquisition, sampled: SampledAnatomy) -> KspaceEstimate:
        measurement, segments, _ = measured(acquisition, self.inputs)
        options = (self.inputs.sensitivities, self.inputs.low_mem)
        model = MeasurementModel(measurement, segments, *options)
        multiplier, _ = load_finite_image(self.inputs.field_file)
        white = white_samples(model, 1 / multiplier)
        known = measurement.acquisition
        fractions = list(sampled.regions.values())
        kinds = list(sampled.kinds.values())
        n_inside = count_bordered(kinds)
        shift = self.inputs.border_shift / float(np.mean(sampled.grid.spacing))
        borders = moving_together(list(moved_borders(fractions, n_inside, shift)), n_inside)
        self._border_uncertainty = border_uncertainty(borders, list(sampled.regions), kinds)
        return kspace_regression(
            white,
            fractions,
            sampled.factor,
            self._decays(list(sampled.regions), known),
            list(sampled.regions),
            borders,
        )

    def _decays(self, names: list[str], acquisition: Acquisition) -> Floats:
        constants = tissue_constants(self.inputs.tissues)
        return np.stack([
            decay_from_first_sample(
                constants.get(name, constants[OUTSIDE]),
                acquisition.sample_times,
                acquisition.echo_time,
            )
            for name in names
        ])  # fmt: skip


def _told(estimate: KspaceEstimate) -> dict[str, Any]:
    """Return fit and scan-time curve as plain values."""
    worst = np.argsort(-estimate.residual)[:5]
    return {
        "ReducedChiSquare": round(estimate.reduced_chi_square, 4),
        "ConditionNumber": round(estimate.condition_number, 2),
        "DegreesOfFreedom": estimate.degrees_of_freedom,
        "ResidualPerReadout": {
            "Median": round(float(np.median(estimate.residual)), 4),
            "Percentile95": round(float(np.quantile(estimate.residual, 0.95)), 4),
            "WorstReadouts": [int(r) for r in worst],
            "WorstResiduals": [round(float(estimate.residual[r]), 4) for r in worst],
        },
        "ScanTime": scan_time_curve(estimate),
    }
