"""Figures of quality from files, and their agreement with the flags of the table."""

import numpy as np
import pytest

from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.kspace import read_kspace, write_kspace
from sodiumprep.interfaces.quality import AssessQuality, spike_figures
from sodiumprep.sodium.concentration import region_flags
from sodiumprep.sodium.pose import LARGEST_ERROR, LEAST_SCORE, registration_fails
from sodiumprep.sodium.quality import raise_flags


@pytest.fixture
def assess(head, measured, run_in, tmp_path):
    def assessed(**changes):
        inputs = {name: measured[name] for name in ("image_file", "noise_file", "regions_file")}
        inputs |= {"corrected_file": measured["image_file"], "properties": head["properties"]}
        return run_in(AssessQuality(**{**inputs, **changes}), tmp_path / "run").properties

    return assessed


def test_the_figures_join_the_properties(assess, head):
    told = assess()
    assert head["properties"].items() <= told.items()
    assert told["BrainDice"] > 0.9
    assert sum(told["TissueFractions"].values()) == pytest.approx(1, abs=1e-3)
    assert told["TissueFractions"]["GM"] > told["TissueFractions"]["CSF"]
    assert told["NegativeShare"] == 0
    assert raise_flags({**told, "TissueFractions": {}}) == []


def padded(path, target, fill):
    """Write an image on a grid that reaches 60 mm further at the end of each axis."""
    values, affine = load_image(path)
    wide = np.pad(values, [(0, 15)] * 3, constant_values=fill)
    return save_image(target, wide, affine)


def test_a_found_vial_that_is_no_region_is_no_ghost(assess, measured, head, tmp_path):
    with np.load(measured["regions_file"]) as stored:
        regions = dict(stored)
    wide = [(0, 0), (0, 15), (0, 15), (0, 15)]
    for name in ("fractions", "blurred"):
        regions[name] = np.pad(regions[name], wide)
    np.savez(tmp_path / "regions.npz", **regions)
    files = {"regions_file": str(tmp_path / "regions.npz"),
             "noise_file": padded(measured["noise_file"], tmp_path / "n.nii.gz", 0.3)}  # fmt: skip
    image, affine = load_image(padded(measured["image_file"], tmp_path / "i.nii.gz", 0.1))
    files["corrected_file"] = files["image_file"] = save_image(
        tmp_path / "a.nii.gz", image, affine
    )
    assert assess(**files)["GhostShare"] == 0
    image[24:, 24:, 24:] = 100
    files["image_file"] = save_image(tmp_path / "b.nii.gz", image, affine)
    assert assess(**files)["GhostShare"] > 0.5
    centre = (affine @ [31.5, 31.5, 31.5, 1])[:3].tolist()
    found = [{"Name": None, "Centre": centre, "Diameter": 70.0, "Length": 80.0}]
    assert (
        assess(**files, properties={**head["properties"], "VialsFound": found})["GhostShare"] == 0
    )


def test_a_spike_in_the_raw_file_is_told_with_its_readout(oblique, make_blob, tmp_path):
    blob = make_blob(oblique(), [10.0, -30.0, 50.0])
    noise = np.random.default_rng(0).normal(0, 1e-7, (2, *blob.samples.shape))
    blob.samples[:] += noise[0] + 1j * noise[1]
    write_kspace(tmp_path / "a.h5", blob)
    assert spike_figures(read_kspace(tmp_path / "a.h5"))["SpikeShare"] == 0
    blob.samples[0, 41, 60] += 5e-6
    write_kspace(tmp_path / "b.h5", blob)
    told = spike_figures(read_kspace(tmp_path / "b.h5"))
    assert told["SpikeReadouts"] == [41]
    assert told["SpikeShare"] == pytest.approx(1 / 900, abs=1e-6)


@pytest.mark.parametrize("score", [LEAST_SCORE - 0.01, LEAST_SCORE, 0.9, np.nan])
@pytest.mark.parametrize("bound", [0.3, LARGEST_ERROR, LARGEST_ERROR + 0.01, np.nan])
@pytest.mark.parametrize("doubtful", [False, True])
def test_flags_of_a_run_are_those_of_every_row_of_its_table(score, bound, doubtful):
    known = {"RegistrationScore": score, "RegistrationError95": bound,
             "RegistrationFailed": registration_fails(score, bound),
             "ReceiveUncorrected": doubtful, "BrainImplausible": doubtful,
             "PointSpreadFWHM": {"GM": [1.0, 1.0, 1.0]}}  # fmt: skip
    row = region_flags(np.full(1, 729.0), np.ones(1), known, ["GM"])[0]
    raised = {flag["Name"] for flag in raise_flags(known)}
    assert raised == set(row.split(",")) - {"n/a"}
