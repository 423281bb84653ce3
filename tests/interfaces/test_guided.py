"""Guided reconstruction takes its edges from the anatomy, at the place that the transform says."""

from dataclasses import asdict, replace

import ants
import numpy as np
import pytest

from sodiumprep.interfaces.guided import ReconstructGuided
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.kspace import read_kspace, write_kspace
from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.ellipsoids import ellipsoid_head, ellipsoid_image, ellipsoid_kspace
from sodiumprep.sodium.guided import TISSUES as TISSUES_OF_MODEL
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import Relaxation, biexponential_decay

FOV = np.full(3, 0.24)
TISSUES = {name: asdict(relaxation_of(name, 3.0)) for name in TISSUES_OF_MODEL}
GRID = Geometry(np.array([5.0, -8.0, 12.0]), np.eye(3), tuple(FOV), (24, 24, 24))


def _two_echoes(path, empty):
    """Return the head with the decay of white matter, and again 9 ms later."""
    first, white = read_kspace(path), Relaxation(**TISSUES["WM"])
    clean = ellipsoid_kspace(ellipsoid_head(FOV), empty.trajectory)
    decays = [biexponential_decay(empty.sample_times + t, white) for t in (0, 9e-3)]
    noise = first.samples - clean  # the same in both will do
    return [
        replace(first, samples=(clean * decay + noise).astype("c8"), echo_time=time)
        for decay, time in zip(decays, (0.3e-3, 9.3e-3), strict=True)
    ]


@pytest.fixture(scope="module")
def inputs(make_blob, tmp_path_factory):
    """Return raw data of a head of ellipsoids, and as anatomy the very same head."""
    folder = tmp_path_factory.mktemp("guided")
    rng = np.random.default_rng(0)
    empty = make_blob(GRID, np.zeros(3), n_spokes=900)
    seen = ellipsoid_kspace(ellipsoid_head(FOV), empty.trajectory)[None]
    level = 0.01 * np.abs(seen).max() / 24
    noise = [level * (rng.normal(size=(2, *s)).T @ [1, 1j]).T for s in (seen.shape, (1, 3000))]
    write_kspace(
        folder / "raw.h5",
        replace(empty, samples=(seen + noise[0]).astype("c8"), noise=noise[1].astype("c8")),
    )
    head = ellipsoid_image(ellipsoid_head(FOV), GRID).real
    parts = {
        "guide_file": head,
        "gm_file": (head > 0.35) & (head < 0.6),
        "wm_file": (head > 0.2) & (head <= 0.35),
        "csf_file": head >= 0.6,
    }
    files = {
        name: save_image(folder / f"{name}.nii.gz", np.asarray(values, np.float32), GRID.affine)
        for name, values in parts.items()
    }
    still = ants.create_ants_transform("Euler3DTransform", dimension=3)
    ants.write_transform(still, str(folder / "xfm.txt"))
    write_kspace(folder / "both.h5", _two_echoes(folder / "raw.h5", empty))
    return {**files, "kspace_file": str(folder / "raw.h5"), "xfm_file": str(folder / "xfm.txt")}


@pytest.mark.slow
def test_a_guided_image_has_the_scale_and_the_edges_of_the_head(inputs, run_in, tmp_path):
    outputs = run_in(ReconstructGuided(tissues=TISSUES, **inputs), tmp_path / "run")
    image, affine = load_image(outputs.image_file)
    truth = load_image(inputs["guide_file"])[0]
    np.testing.assert_allclose(affine, GRID.affine, atol=1e-4)
    assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.97
    assert outputs.properties["Reconstruction"] == "agr"
    assert outputs.properties["DecayInModel"]["Error"] < 0.01
    assert load_image(outputs.noise_file)[0].max() > 0
    assert outputs.properties["EchoesUsed"] == 1


@pytest.mark.slow
def test_two_echoes_are_used_as_one(inputs, run_in, tmp_path):
    """All tissues are called white matter, so that the decay of the head is in closed form."""
    white = dict.fromkeys(TISSUES_OF_MODEL, TISSUES["WM"])
    both = {**inputs, "kspace_file": inputs["kspace_file"].replace("raw.h5", "both.h5")}
    outputs = run_in(ReconstructGuided(tissues=white, **both), tmp_path / "run")
    image, truth = (load_image(path)[0] for path in (outputs.image_file, inputs["guide_file"]))
    told, head = outputs.properties, truth > 0.2
    assert (told["EchoesUsed"], told["EchoTimesUsed"]) == (2, [0.0003, 0.0093])
    assert told["EchoPhaseSpread_rad"][0] < 0.1
    assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.97
    assert np.median(image[head] / truth[head]) == pytest.approx(1, abs=0.05)
