"""Guided reconstruction takes its edges from the anatomy, at the place that the transform says."""

from dataclasses import asdict, replace

import ants
import numpy as np
import pytest

from sodiumprep.interfaces.guided import ReconstructGuided
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.kspace import write_kspace
from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.ellipsoids import ellipsoid_head, ellipsoid_image, ellipsoid_kspace
from sodiumprep.sodium.guided import TISSUES as TISSUES_OF_MODEL
from sodiumprep.sodium.relaxation import relaxation_of

FOV = np.full(3, 0.24)
TISSUES = {name: asdict(relaxation_of(name, 3.0)) for name in TISSUES_OF_MODEL}
GRID = Geometry(np.array([5.0, -8.0, 12.0]), np.eye(3), tuple(FOV), (24, 24, 24))


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
