"""A file without a trajectory gets the one of its protocol, and nothing else changes."""

import json
from dataclasses import replace

import h5py
import ismrmrd
import numpy as np
import pytest

from sodiumprep.bids_app.trajectory import main
from sodiumprep.interfaces.kspace import read_kspace, write_kspace
from sodiumprep.interfaces.trajectory import add_trajectory, list_readouts
from sodiumprep.sodium.trajectory import TrajectoryProtocol, analytic_trajectory

KEYS = {"TrajectoryType": "density-adapted radial", "MaximumSpatialFrequency": 50.0,
        "NumberOfReadouts": 12, "NumberOfReadoutSamples": 72,
        "DensityAdaptedFraction": 0.3}  # fmt: skip


@pytest.fixture
def small(oblique, make_blob):
    blob = make_blob(oblique(), [-9.0, 13.0, 41.0], n_spokes=12)
    return replace(blob, noise=blob.samples[0, :1, :40], noise_dwell_time=2e-5)


def strip(table):
    table["traj"] = [np.zeros(0, np.float32)] * len(table)
    table["head"]["trajectory_dimensions"] = 0


def edit(path, change):
    with h5py.File(path, "r+") as file:
        table = file["dataset"]["data"][:]
        changed = change(table)
        table = table if changed is None else changed
        del file["dataset"]["data"]
        file["dataset"].create_dataset("data", data=table, maxshape=(None,), chunks=(8,))


@pytest.fixture
def bare(small, tmp_path):
    """Write a raw file without trajectory and its sidecar."""
    write_kspace(tmp_path / "in.h5", small)
    edit(tmp_path / "in.h5", strip)
    with h5py.File(tmp_path / "in.h5", "r+") as file:
        file["dataset"]["waveforms"] = np.arange(5)
        file["dataset"].attrs["converter"] = "of a vendor"
    (tmp_path / "in.json").write_text(json.dumps(KEYS))
    return tmp_path / "in.h5"


def run(bare, *options, keys=None):
    if keys is not None:
        bare.with_suffix(".json").write_text(json.dumps(keys))
    return main([str(bare), str(bare.with_name("out.h5")), *options])


def refused(capsys, bare, *words, keys=None):
    assert run(bare, keys=keys) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert [word for word in words if word not in error] == []
    assert not bare.with_name("out.h5").exists()


def test_the_trajectory_of_the_protocol_is_added(bare, small):
    assert run(bare) == 0
    read = read_kspace(bare.with_name("out.h5"))
    np.testing.assert_allclose(read.trajectory, small.trajectory, atol=1e-4)
    np.testing.assert_array_equal(read.samples, small.samples)
    np.testing.assert_array_equal(read.noise, small.noise)
    np.testing.assert_allclose(read.geometry.affine, small.geometry.affine, atol=1e-4)


def test_everything_else_is_copied_unchanged(bare):
    before = bare.read_bytes()
    assert run(bare) == 0
    assert bare.read_bytes() == before
    with h5py.File(bare) as old, h5py.File(bare.with_name("out.h5")) as new:
        np.testing.assert_array_equal(new["dataset"]["waveforms"], np.arange(5))
        assert new["dataset"].attrs["converter"] == "of a vendor"
        heads = old["dataset"]["data"][:]["head"], new["dataset"]["data"][:]["head"]
    for name in heads[0].dtype.names:
        if name != "trajectory_dimensions":
            np.testing.assert_array_equal(heads[0][name], heads[1][name])


def test_the_formats_own_library_reads_the_header_with_its_units(bare):
    assert run(bare) == 0
    dataset = ismrmrd.Dataset(str(bare.with_name("out.h5")), create_if_needed=False)
    header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
    parameters = header.encoding[0].trajectoryDescription.userParameterString
    assert [(p.name, p.value) for p in parameters] == [("units", "1/m")]
    dataset.close()


def test_a_header_without_description_of_the_trajectory_gets_one(bare):
    with h5py.File(bare, "r+") as file:
        text = file["dataset"]["xml"][0].decode()
        start, end = (text.index(f"<{slash}trajectoryDescription>") for slash in ("", "/"))
        end += len("</trajectoryDescription>")
        file["dataset"]["xml"][0] = (text[:start] + text[end:]).encode()
    assert run(bare) == 0
    with h5py.File(bare.with_name("out.h5")) as file:
        header = ismrmrd.xsd.CreateFromDocument(file["dataset"]["xml"][0])
    assert header.encoding[0].trajectoryDescription.identifier == "analytic"


@pytest.mark.parametrize(
    "keys",
    [{"TrajectoryType": "radial"}, {"TrajectoryType": "tpi", "TrajectoryTwist": 0.5},
     {"TrajectoryType": "cones"}, {"TrajectoryType": "floret", "NumberOfHubs": 2}],
)  # fmt: skip
def test_every_kind_can_be_added(bare, keys):
    assert run(bare, keys={**keys, "AcquisitionVoxelSize": [10, 10, 10]}) == 0
    twist, hubs = keys.get("TrajectoryTwist"), keys.get("NumberOfHubs", 3)
    asked = TrajectoryProtocol(keys["TrajectoryType"], 12, 72, 50.0, twist=twist, hubs=hubs)
    read = read_kspace(bare.with_name("out.h5"))
    np.testing.assert_allclose(read.trajectory, analytic_trajectory(asked), atol=1e-4)


def test_every_repetition_gets_the_trajectory_also_if_one_was_broken_off(bare, small):
    def change(table):
        again = table[1:8].copy()
        again["head"]["idx"]["repetition"] = 1
        return np.concatenate([table, again])

    edit(bare, change)
    assert run(bare) == 0
    read = read_kspace(bare.with_name("out.h5"))
    np.testing.assert_allclose(read.trajectory[12:], small.trajectory[:7], atol=1e-4)


def test_counters_tell_the_order_where_there_are_any(bare, small):
    edit(bare, lambda table: table[::-1])
    assert run(bare) == 0
    read = read_kspace(bare.with_name("out.h5"))
    np.testing.assert_allclose(read.trajectory, small.trajectory[::-1], atol=1e-4)
    np.testing.assert_array_equal(read.samples, small.samples[:, ::-1])


def test_without_counters_time_is_the_order(bare, small, capsys):
    def change(table):
        table["head"]["idx"]["kspace_encode_step_1"] = 0

    edit(bare, change)
    assert run(bare) == 0
    assert "in the order of time" in capsys.readouterr().out
    read = read_kspace(bare.with_name("out.h5"))
    np.testing.assert_allclose(read.trajectory, small.trajectory, atol=1e-4)


def test_only_kept_samples_lie_on_the_trajectory(bare):
    def change(table):
        table["head"]["discard_pre"], table["head"]["discard_post"] = 5, 3

    edit(bare, change)
    assert run(bare, keys={**KEYS, "NumberOfReadoutSamples": 64}) == 0
    trajectory = read_kspace(bare.with_name("out.h5")).trajectory
    assert np.abs(trajectory[:, 0]).max() == 0
    np.testing.assert_allclose(np.linalg.norm(trajectory[:, -1], axis=-1), 50, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"TrajectoryType": None}, ["TrajectoryType", "accepted: radial"]),
        ({"TrajectoryType": "cartesian"}, ["TrajectoryType is cartesian"]),
        ({"NumberOfReadouts": 13}, ["NumberOfReadouts is 13", "has 12"]),
        ({"NumberOfReadoutSamples": 70}, ["NumberOfReadoutSamples is 70", "has 72"]),
        ({"MaximumSpatialFrequency": None}, ["MaximumSpatialFrequency", "AcquisitionVoxelSize"]),
        ({"MaximumSpatialFrequency": 0.05}, ["not 1/mm"]),
        ({"MaximumSpatialFrequency": 125}, ["read as 1/m", "in.h5"]),
        ({"MaximumSpatialFrequency": None, "AcquisitionVoxelSize": [4, 4, 5]}, ["three equal"]),
        ({"DensityAdaptedFraction": 2}, ["DensityAdaptedFraction is 2"]),
        ({"TrajectoryType": "floret", "NumberOfHubs": 4}, ["NumberOfHubs is 4"]),
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused(bare, capsys, changes, words):
    refused(capsys, bare, *words, keys={**KEYS, **changes})


def test_a_missing_sidecar_is_refused(bare, capsys):
    bare.with_suffix(".json").unlink()
    refused(capsys, bare, "in.json", "cannot be read")


def test_another_sidecar_may_be_named(bare):
    bare.with_suffix(".json").rename(bare.with_name("other.json"))
    assert run(bare, "--sidecar", str(bare.with_name("other.json"))) == 0


def test_an_existing_trajectory_is_replaced_by_force_only(bare, small, capsys):
    write_kspace(bare, small)
    refused(capsys, bare, "12 of 12 readouts have a trajectory already", "--force")
    assert run(bare, "--force", keys={**KEYS, "MaximumSpatialFrequency": 40.0}) == 0
    assert np.abs(read_kspace(bare.with_name("out.h5")).trajectory).max() < 41


def test_an_existing_output_is_replaced_by_force_only(bare, capsys):
    bare.with_name("out.h5").write_text("mine")
    assert run(bare) == 2
    assert "exists; accepted: a new file, or --force" in capsys.readouterr().err
    assert bare.with_name("out.h5").read_text() == "mine"
    assert run(bare, "--force") == 0


def test_the_input_is_never_the_output(bare, capsys):
    before = bare.read_bytes()
    assert main([str(bare), str(bare), "--force"]) == 2
    assert "is the input itself" in capsys.readouterr().err
    assert bare.read_bytes() == before


@pytest.mark.parametrize(("source", "target"), [("no.h5", "out.h5"), ("in.h5", "no/out.h5")])
def test_paths_that_do_not_exist_are_refused(bare, capsys, source, target):
    assert main([str(bare.with_name(source)), str(bare.parent / target)]) == 2
    assert "not exist" in capsys.readouterr().err


def test_readouts_of_different_lengths_are_refused(bare, capsys):
    def change(table):
        table["head"]["number_of_samples"][4] = 60

    edit(bare, change)
    refused(capsys, bare, "'number_of_samples' differs", "readout 4 has 60")


def test_a_trajectory_of_another_shape_is_refused(bare):
    with pytest.raises(ValueError, match="in.h5: the trajectory has shape"):
        add_trajectory(bare, bare.with_name("o.h5"), list_readouts(bare), np.zeros((12, 71, 3)))
