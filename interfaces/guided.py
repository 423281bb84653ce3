"""Anatomically guided reconstruction: raw k-space once more, with what the anatomy tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from sodiumprep.interfaces.image import load_finite_image
from sodiumprep.interfaces.kspace import read_echoes
from sodiumprep.interfaces.reconstruct import (
    SEGMENT_ERROR,
    gradient_delays,
    load_field_map,
    save_reconstruction,
    tissue_constants,
)
from sodiumprep.interfaces.registration import read_transform
from sodiumprep.sodium.acquisition import Acquisition, Floats
from sodiumprep.sodium.alignment import index_map, resample
from sodiumprep.sodium.guided import (
    TISSUES,
    DirectionalGradient,
    edge_directions,
    signal_shares,
)
from sodiumprep.sodium.measurement import Measurement, measurements_of
from sodiumprep.sodium.model_based import (
    SENSITIVITIES,
    EchoTrain,
    MeasurementModel,
    penalized,
)
from sodiumprep.sodium.regions import fine_affine, subdivision, voxel_means
from sodiumprep.sodium.segments import Evolution, Segments, adequate_segments
from sodiumprep.sodium.signal import Relaxation

REASON = (
    "chosen by --recon: edges that the 1H image has as well cost little; not linear, and apt to "
    "show edges that are not there: for looking at, not for regional values"
)


class _ReconstructGuidedInput(BaseInterfaceInputSpec):
    kspace_file = File(exists=True, mandatory=True, desc="raw data (ISMRMRD)")
    stated = traits.Dict(usedefault=True, desc="what the sidecar states [s, rad, T]")
    tissues = traits.Dict(mandatory=True, desc="relaxation constants by tissue [s]")
    guide_file = File(exists=True, mandatory=True, desc="1H image, bias field removed")
    gm_file = File(exists=True, mandatory=True, desc="grey-matter fraction, grid of the guide")
    wm_file = File(exists=True, mandatory=True, desc="white-matter fraction, grid of the guide")
    csf_file = File(exists=True, mandatory=True, desc="CSF fraction, grid of the guide")
    xfm_file = File(exists=True, mandatory=True, desc="points of the guide to points of sodium")
    sensitivities = traits.Enum(*SENSITIVITIES, usedefault=True, desc="how they are found")
    gradient_delay = traits.List(traits.Float, usedefault=True, desc="of the three axes [s]")
    estimate_delay = traits.Bool(False, usedefault=True, desc="correct the estimated delay")
    fieldmap_file = traits.Either(None, File(exists=True), usedefault=True, desc="[Hz] or None")
    fieldmap_scale = traits.Float(1.0, usedefault=True, desc="Hz of 23Na per Hz of the map")
    low_mem = traits.Bool(False, usedefault=True, desc="slower with less memory")
    random_seed = traits.Int(0, usedefault=True, desc="of the replicas of the noise")


class _ReconstructGuidedOutput(TraitedSpec):
    image_file = File(exists=True, desc="sodium image [signal, arbitrary unit]")
    noise_file = File(exists=True, desc="its noise SD [same unit]")
    properties = traits.Dict(desc="what is known of the image, for the QC file")


class ReconstructGuided(SimpleInterface):
    """Reconstruct with directional total variation and each voxel's decay in the model.

    All echoes of the file are used. They share coils, gradient delays and motion; decay and
    off-resonance go on from echo to echo, and a smooth phase that they leave over is found from
    the data. The image is that at the first echo.
    """

    input_spec = _ReconstructGuidedInput
    output_spec = _ReconstructGuidedOutput

    def _run_interface(self, runtime: Any) -> Any:
        echoes = read_echoes(self.inputs.kspace_file, self.inputs.stated)
        try:
            self._results.update(self._reconstruct(echoes, Path(runtime.cwd)))
        except ValueError as error:
            raise ValueError(f"{self.inputs.kspace_file}: {error}") from error
        return runtime

    def _reconstruct(self, echoes: Sequence[Acquisition], folder: Path) -> dict[str, Any]:
        acquisition = echoes[0]
        delays, told = gradient_delays(
            acquisition, self.inputs.gradient_delay or None, self.inputs.estimate_delay
        )
        measurements = measurements_of(echoes, delays)
        segments = self._segments(echoes)
        model = self._model(measurements, segments)
        rng = np.random.default_rng(self.inputs.random_seed)
        done = penalized(model, self._constants(), rng, self._directional(acquisition))
        properties = {
            "Reconstruction": "agr",
            "ReconstructionReason": REASON,
            "KspaceFilter": "none",
            "DecayInModel": {
                "Segments": sum(len(each.supports) for each in segments),
                "Error": max(each.error for each in segments),
            },
            **measurements[0].describe(),
            **told,
            **self._describe(model),
        }
        found = save_reconstruction(folder, done, acquisition, properties)
        return {port: found[port] for port in ("image_file", "noise_file", "properties")}

    def _constants(self) -> dict[str, Relaxation]:
        constants = tissue_constants(self.inputs.tissues)
        return {name: constants[name] for name in TISSUES}

    def _segments(self, echoes: Sequence[Acquisition]) -> list[Segments]:
        """Return the change of the voxels' signals during each echo, from the first one on."""
        first, hertz = echoes[0], None
        if self.inputs.fieldmap_file is not None:
            hertz = load_field_map(
                first.geometry, self.inputs.fieldmap_file, self.inputs.fieldmap_scale
            )
        shares = self._signal_shares(first)
        evolutions = [
            Evolution(
                echo.sample_times + (echo.echo_time - first.echo_time),
                tuple(self._constants().values()),
                shares,
                off_resonance=hertz,
                echo_time=first.echo_time,
            )
            for echo in echoes
        ]
        return [adequate_segments(each, SEGMENT_ERROR) for each in evolutions]

    def _model(
        self, measurements: Sequence[Measurement], segments: Sequence[Segments]
    ) -> EchoTrain:
        options = (self.inputs.sensitivities, self.inputs.low_mem)
        first = MeasurementModel(measurements[0], segments[0], *options)
        later = [
            MeasurementModel(measurement, own, *options, first=first)
            for measurement, own in zip(measurements[1:], segments[1:], strict=True)
        ]
        return EchoTrain((first, *later))

    def _describe(self, model: EchoTrain) -> dict[str, Any]:
        times = [each.measurement.acquisition.echo_time for each in model.echoes]
        return {
            "EchoesUsed": len(times),
            "EchoTimesUsed": [round(time, 9) for time in times],
            "EchoPhaseSpread_rad": [round(e.phase_spread, 3) for e in model.echoes[1:]],
        }

    def _sampled(self, path: str, acquisition: Acquisition) -> Floats:
        """Return an image of the anatomy as means over the sodium voxels."""
        values, own = load_finite_image(path)
        geometry = acquisition.geometry
        factor = subdivision(geometry.voxel_size * 1e3)
        shape = tuple(n * factor for n in geometry.matrix)
        to_sodium = read_transform(self.inputs.xfm_file)
        back = index_map(fine_affine(geometry.affine, factor), own, np.linalg.inv(to_sodium))
        return voxel_means(resample(values, back, shape, 1), factor)

    def _signal_shares(self, acquisition: Acquisition) -> Floats:
        """Return which share of a voxel's signal each tissue is expected to give."""
        paths = (self.inputs.gm_file, self.inputs.wm_file, self.inputs.csf_file)
        return signal_shares(np.stack([self._sampled(path, acquisition) for path in paths]))

    def _directional(self, acquisition: Acquisition) -> DirectionalGradient:
        guide = self._sampled(self.inputs.guide_file, acquisition)
        voxel_size = acquisition.geometry.voxel_size
        return DirectionalGradient(
            edge_directions(guide, voxel_size=voxel_size), voxel_size=voxel_size
        )
