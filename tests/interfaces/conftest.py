"""A small head in files: ellipsoidal shells about a ventricle, two vials in the corners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sodiumprep.interfaces.image import save_image
from sodiumprep.interfaces.reconstruct import load_response, save_response
from sodiumprep.interfaces.registration import write_transform
from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.kernel import Response, gaussian_transfer
from sodiumprep.sodium.noise import normalized_spectrum
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import Relaxation, relaxation_factor

TURN = Rotation.from_euler("xyz", [12, -8, 20], degrees=True).as_matrix()
SODIUM = Geometry(np.array([6.0, -11.0, 20.0]), TURN, (0.096,) * 3, (24, 24, 24))
FWHM = 7e-3
TRUTH = {"GM": 42.0, "WM": 37.0, "CSF": 145.0, "1 low": 40.0, "2 high": 120.0}
PROTOCOL = {"echo_time": 0.3e-3, "repetition_time": 0.12, "flip_angle": np.pi / 2}
GEL = Relaxation(t1=0.04, t2_short=0.004, t2_long=0.03, short_fraction=0.6)
TISSUES = {name: relaxation_of(name, 3.0) for name in ("GM", "WM", "CSF", "muscle")} | {
    "1 low": GEL,
    "2 high": GEL,
}


def run(interface: Any, folder: Path) -> Any:
    """Run an interface in a folder of its own; every declared output must exist."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs = interface.run(cwd=str(folder)).outputs
    assert set(outputs.get_traitsfree()) == set(outputs.copyable_trait_names())
    return outputs


def _anatomy(folder: Path) -> dict[str, str]:
    """Write fractions and masks on a 2 mm grid that is not aligned with the sodium grid."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-48.0, -46.0, -40.0]
    index = np.stack(np.meshgrid(*[np.arange(48.0)] * 3, indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    radius = np.linalg.norm((places - [2.0, 1.0, 7.0]) / [1.15, 1.0, 0.87], axis=-1)
    inside = [1 / (1 + np.exp(2 * (radius - r))) for r in (10, 18, 26)]
    head = radius < 40
    images = {
        "csf_file": inside[0], "wm_file": inside[1] - inside[0], "gm_file": inside[2] - inside[1],
        "brain_mask": radius < 26, "head_mask": head,
        "preproc_file": (1 + inside[1]) * head,
        "lesion": np.linalg.norm(places - [16.0, 1.0, 7.0], axis=-1) < 6,
    }  # fmt: skip
    return {k: save_image(folder / f"{k}.nii.gz", v, affine) for k, v in images.items()}


def _pose() -> np.ndarray:
    """Return points of the anatomy to points of sodium [mm, LPS]; the heads' centres meet."""
    turn = Rotation.from_euler("xyz", [3, 5, -4], degrees=True).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = SODIUM.position - turn @ [-2.0, -1.0, 7.0]
    return matrix


@pytest.fixture(autouse=True)
def coarse_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimate delays on a coarse grid: how well it is done is tested with the kernel."""
    monkeypatch.setattr("sodiumprep.sodium.delays.COARSE_MATRIX", 8)
    monkeypatch.setattr("sodiumprep.sodium.delays.CENTRE", 3.0)


@pytest.fixture(scope="session")
def run_in() -> Callable[[Any, Path], Any]:
    return run


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Write the anatomy, vials, transform and response; tell constants and truth."""
    folder = tmp_path_factory.mktemp("head")
    labels = np.zeros(SODIUM.matrix, np.uint8)
    labels[1:5, 1:5, 1:5], labels[-5:-1, -5:-1, -5:-1] = 1, 2
    kernel = gaussian_transfer(SODIUM, np.full(3, FWHM)).astype(np.complex64)
    spectrum = normalized_spectrum(np.abs(kernel) ** 2, (48, 48, 48))
    response = Response(dict.fromkeys(TISSUES, kernel), spectrum)
    return {
        **_anatomy(folder),
        "vial_labels": save_image(folder / "labels.nii.gz", labels, SODIUM.affine),
        "grid_file": save_image(folder / "grid.nii.gz", np.ones(SODIUM.matrix), SODIUM.affine),
        "xfm_file": write_transform(folder / "xfm.txt", _pose()),
        "response_file": save_response(folder / "response.npz", response),
        "tissues": {name: asdict(constants) for name, constants in TISSUES.items()},
        "properties": {
            "PointSpreadFWHM": dict.fromkeys(TISSUES, [FWHM * 1e3] * 3),
            "PointSpreadUncertainty": 0.05,
            "RegistrationSpread": 0.6,
            "ReceiveUncorrected": False,
            "ReceiveCorrection": "none",
            "Coils": 1,
        },
    }


@pytest.fixture(scope="session")
def stripes_file(head: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the response with noise of its own in every other plane."""
    odd = np.indices(SODIUM.matrix)[0] % 2
    path = tmp_path_factory.mktemp("stripes") / "response.npz"
    response = load_response(head["response_file"])
    return save_response(path, replace(response, noise_modes=np.stack([odd, 1 - odd])))


@pytest.fixture(scope="session")
def regions_file(head: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    from sodiumprep.interfaces.regions import SampleRegions

    inputs = {k: head[k] for k in ("gm_file", "wm_file", "csf_file", "brain_mask", "head_mask",
                                   "xfm_file", "response_file", "vial_labels")}  # fmt: skip
    sample = SampleRegions(
        sodium_file=head["grid_file"], vial_names=["1 low", "2 high"], border_shift=0.5, **inputs
    )
    return run(sample, tmp_path_factory.mktemp("regions")).regions_file


@pytest.fixture(scope="session")
def measured(
    head: dict[str, Any], regions_file: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Write the image of the head with its noise, and correct its regional signals."""
    from sodiumprep.interfaces.pvc import CorrectPartialVolume

    folder = tmp_path_factory.mktemp("measured")
    with np.load(regions_file) as stored:
        names, blurred = stored["names"].tolist(), stored["blurred"]
    signals = [TRUTH.get(n, 20.0 if n.startswith("scalp") else 5.0) *
               relaxation_factor(TISSUES.get(n, TISSUES["muscle"]), *PROTOCOL.values())
               for n in names]  # fmt: skip
    signals[-1] = 0.0  # air
    noise = np.random.default_rng(0).normal(0, 0.3, SODIUM.matrix)
    image = np.tensordot(signals, blurred, 1) + noise
    files = {
        "image_file": save_image(folder / "image.nii.gz", image, SODIUM.affine),
        "noise_file": save_image(
            folder / "noise.nii.gz", np.full(image.shape, 0.3), SODIUM.affine
        ),
        "regions_file": regions_file,
    }
    corrected = run(
        CorrectPartialVolume(
            **files, response_file=head["response_file"], properties=head["properties"]
        ),
        folder / "pvc",
    )
    return {**files, "signals_file": corrected.signals_file, "properties": corrected.properties,
            "names": names, "signals": np.array(signals)}  # fmt: skip


@pytest.fixture(scope="session")
def all_signals_file(
    head: dict[str, Any], measured: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Write the signals by every method, with what errors would change."""
    from sodiumprep.interfaces.pvc import CorrectPartialVolume

    files = {k: measured[k] for k in ("image_file", "noise_file", "regions_file")}
    known = {"response_file": head["response_file"], "properties": head["properties"]}
    correct = CorrectPartialVolume(methods=["labbe"], sensitivity=True, **files, **known)
    return run(correct, tmp_path_factory.mktemp("all")).signals_file


@pytest.fixture(scope="session")
def vials() -> list[dict[str, Any]]:
    return [
        {"name": name, "concentration": TRUTH[name], "concentration_uncertainty": 0.5,
         "temperature": 37.0}
        for name in ("1 low", "2 high")
    ]  # fmt: skip


@pytest.fixture(scope="session")
def calibration_files(
    head: dict[str, Any], measured: dict[str, Any], vials: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:  # fmt: skip
    """Calibrate by vials and by CSF."""
    from sodiumprep.interfaces.calibrate import Calibrate

    inputs = {k: measured[k] for k in ("regions_file", "signals_file")}
    inputs |= {"static_file": measured["image_file"], "static_noise_file": measured["noise_file"]}
    inputs |= {"tissues": head["tissues"], "protocol": PROTOCOL, "properties": head["properties"]}
    folder = tmp_path_factory.mktemp("lines")
    return {
        reference: run(
            Calibrate(reference=reference, vials=vials, **inputs), folder / reference
        ).calibration_file
        for reference in ("vials", "csf")
    }


@pytest.fixture(scope="session")
def truth() -> dict[str, float]:
    return TRUTH


@pytest.fixture(scope="session")
def protocol() -> dict[str, float]:
    return PROTOCOL


@pytest.fixture(scope="session")
def sodium_geometry() -> Geometry:
    return SODIUM


@pytest.fixture(scope="session")
def true_pose() -> np.ndarray:
    return _pose()
