"""Raw files: what was written is read, and every bad file is named with its readout."""

from dataclasses import replace
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest

from sodiumprep.interfaces.kspace import read_kspace, read_kspace_header, write_kspace
from sodiumprep.sodium.reconstruct import gridding

PLACE = np.array([-9.0, 13.0, 41.0])  # mm, LPS
NOISE_FLAG = 1 << (ismrmrd.ACQ_IS_NOISE_MEASUREMENT - 1)


def noise_samples(coils=2, n=64):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(coils, n)) + 1j * rng.normal(size=(coils, n))).astype(np.complex64)


@pytest.fixture
def small(oblique, make_blob):
    """Twelve readouts of two coils with noise samples of another dwell time."""
    blob = make_blob(oblique(), PLACE, n_spokes=12, noise_dwell_time=2.5e-5)
    samples = np.concatenate([blob.samples, 1j * blob.samples])
    return replace(blob, samples=samples, noise=noise_samples())


@pytest.fixture
def written(small, tmp_path):
    path = tmp_path / "sub-01_acq-23Na_PDw.h5"
    write_kspace(path, small)
    return path


def edit(path, change):
    """Let ``change`` alter the table of acquisitions (row 0 is noise, readout n is row n)."""
    with h5py.File(path, "r+") as file:
        table = file["dataset"]["data"][:]
        changed = change(table)
        table = table if changed is None else changed
        del file["dataset"]["data"]
        file["dataset"].create_dataset("data", data=table, maxshape=(None,), chunks=(8,))
    return path


def edit_header(path, *replacements):
    with h5py.File(path, "r+") as file:
        text = file["dataset"]["xml"][0].decode()
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        file["dataset"]["xml"][0] = text.encode()
    return path


def refused(path, *words):
    with pytest.raises(ValueError, match=".*".join(words)) as caught:
        read_kspace(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_was_written_is_read(small, written):
    read = read_kspace(written)
    np.testing.assert_array_equal(read.samples, small.samples)
    np.testing.assert_allclose(read.trajectory, small.trajectory)
    np.testing.assert_array_equal(read.noise, small.noise)
    for name in ("dwell_time", "echo_time", "repetition_time", "flip_angle", "noise_dwell_time"):
        assert getattr(read, name) == pytest.approx(getattr(small, name), rel=1e-6)
    assert read.field_strength == pytest.approx(3.0)


@pytest.mark.parametrize("handedness", [1, -1])
def test_the_place_of_the_field_of_view_is_read(oblique, make_blob, tmp_path, handedness):
    geometry = oblique(16, handedness)
    write_kspace(tmp_path / "a.h5", make_blob(geometry, PLACE, n_spokes=3))
    read = read_kspace(tmp_path / "a.h5").geometry
    np.testing.assert_allclose(read.affine, geometry.affine, atol=1e-4)
    assert read.matrix == geometry.matrix


def test_the_header_alone_tells_the_protocol(written):
    header = read_kspace_header(written)
    assert header.echo_time == pytest.approx(0.3e-3)
    assert header.flip_angle == pytest.approx(np.pi / 2)
    assert header.trajectory_units == "1/m"


def test_the_formats_own_library_reads_what_we_write(small, written):
    dataset = ismrmrd.Dataset(str(written), "dataset", create_if_needed=False)
    header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
    assert header.sequenceParameters.TR[0] == pytest.approx(120)
    assert dataset.number_of_acquisitions() == 13
    noise, readout = dataset.read_acquisition(0), dataset.read_acquisition(5)
    assert noise.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    np.testing.assert_array_equal(readout.data, small.samples[:, 4])
    np.testing.assert_allclose(readout.traj, small.trajectory[4])
    dataset.close()


def test_we_read_what_the_formats_own_library_writes(written, tmp_path):
    source = ismrmrd.Dataset(str(written), "dataset", create_if_needed=False)
    copy = ismrmrd.Dataset(str(tmp_path / "copy.h5"), "dataset", create_if_needed=True)
    copy.write_xml_header(source.read_xml_header())
    for number in range(source.number_of_acquisitions()):
        copy.append_acquisition(source.read_acquisition(number))
    source.close()
    copy.close()
    first, second = read_kspace(written), read_kspace(tmp_path / "copy.h5")
    np.testing.assert_array_equal(first.samples, second.samples)
    np.testing.assert_array_equal(first.trajectory, second.trajectory)


@pytest.mark.parametrize("units", ["normalized", "1/m", None])
@pytest.mark.parametrize("handedness", [1, -1])
def test_a_blob_lands_where_it_was_put_in_every_unit(
    oblique, make_blob, tmp_path, units, handedness
):
    path = tmp_path / "blob.h5"
    write_kspace(path, make_blob(oblique(16, handedness), PLACE))
    if units == "normalized":
        edit(path, lambda t: t["traj"].__setitem__(slice(None), t["traj"] * np.float32(0.01)))
        edit_header(path, ("<value>1/m</value>", "<value>normalized</value>"))
    elif units is None:
        edit_header(path, ("<value>1/m</value>", "<value></value>"), (">units<", ">other<"))
    read = read_kspace(path)
    image = np.clip(gridding(read, {}).image, 0.1, None) - 0.1
    index = [np.average(np.arange(16), weights=image.sum(axis=tuple({0, 1, 2} - {a})))
             for a in range(3)]  # fmt: skip
    found = (read.geometry.affine @ [*index, 1])[:3]
    np.testing.assert_allclose(found, PLACE * [-1, -1, 1], atol=1.0)  # a tenth of a voxel


def test_normalized_units_are_scaled_by_the_encoded_space_alone(small, written):
    edit(written, lambda t: t["traj"].__setitem__(slice(None), t["traj"] * np.float32(0.01)))
    edit_header(written, ("<value>1/m</value>", "<value>normalized</value>"))
    with h5py.File(written, "r+") as file:
        head, rest = file["dataset"]["xml"][0].decode().split("<reconSpace>")
        rest = rest.replace("<x>16</x>", "<x>32</x>", 1)
        file["dataset"]["xml"][0] = f"{head}<reconSpace>{rest}".encode()
    read = read_kspace(written)
    assert read.geometry.matrix == (32, 16, 16)
    np.testing.assert_allclose(read.trajectory, small.trajectory, rtol=1e-5)


def test_a_wrong_label_of_the_units_is_refused_with_the_number_found(written):
    edit(written, lambda t: t["traj"].__setitem__(slice(None), t["traj"] * np.float32(0.01)))
    refused(written, "largest trajectory component", "0.00", "read as 1/m", "Check the traj")


def test_a_trajectory_in_radians_per_metre_is_refused(written):
    edit(written, lambda t: t["traj"].__setitem__(slice(None), t["traj"] * np.float32(2 * np.pi)))
    refused(written, "3.02", "must lie in")


def test_unknown_units_are_refused(written):
    edit_header(written, ("<value>1/m</value>", "<value>furlongs</value>"))
    refused(written, "units 'furlongs'", "accepted: normalized, 1/m")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_named(written, share):
    whole = written.read_bytes()
    written.write_bytes(whole[: int(share * len(whole))])
    refused(written, "not a complete HDF5 file|truncated")


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "empty.h5").touch()
    refused(tmp_path / "empty.h5", "not a complete HDF5 file")


def test_another_hdf5_file_is_named(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_group("measurements")
    refused(tmp_path / "other.h5", "no ISMRMRD group 'dataset'")


def test_a_header_that_is_no_header_is_named(written):
    with h5py.File(written, "r+") as file:
        file["dataset"]["xml"][0] = b"<ismrmrdHeader><encoding>"
    refused(written, "header cannot be read")


def test_a_missing_trajectory_is_named_with_its_readout(written):
    def change(table):
        table["traj"][7] = np.zeros(0, np.float32)
        table["head"]["trajectory_dimensions"][7] = 0

    refused(edit(written, change), "readout 7 has no 3D trajectory")


def test_a_flat_trajectory_is_refused(written):
    def change(table):
        table["head"]["trajectory_dimensions"] = 2

    refused(edit(written, change), "readout 1 has no 3D trajectory")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_that_is_no_number_is_named_with_its_readout(written, value):
    def change(table):
        table["data"][4][11] = value

    refused(edit(written, change), "readout 4 holds NaN or infinity")


def test_a_noise_sample_that_is_no_number_is_named(written):
    def change(table):
        table["data"][0][3] = np.nan

    refused(edit(written, change), "readout 0 holds NaN")


def test_a_trajectory_that_is_no_number_is_named_with_its_readout(written):
    def change(table):
        table["traj"][9][2] = np.nan

    refused(edit(written, change), "trajectory of readout 9 holds NaN")


def test_a_readout_of_another_length_is_named(written):
    def change(table):
        table["data"][3] = table["data"][3][:-8]
        table["head"]["number_of_samples"][3] -= 2

    refused(edit(written, change), "readout 3 has 70 samples of 2 coils", "readout 1 has 72")


def test_a_readout_that_lost_samples_without_saying_so_is_named(written):
    def change(table):
        table["data"][3] = table["data"][3][:-8]

    refused(edit(written, change), "readout 3 has 72 samples of 2 coils .280 numbers")


def test_a_readout_of_fewer_coils_is_named(written):
    def change(table):
        table["data"][3] = table["data"][3][:144]
        table["head"]["active_channels"][3] = 1

    refused(edit(written, change), "readout 3 has 72 samples of 1 coils")


def test_noise_of_fewer_coils_is_named(written):
    def change(table):
        table["data"][0] = table["data"][0][:128]
        table["head"]["active_channels"][0] = 1

    refused(edit(written, change), "readout 0", "1 coils")


def test_noise_that_lost_samples_is_named(written):
    def change(table):
        table["data"][0] = table["data"][0][:-6]

    refused(edit(written, change), "readout 0")


def test_a_file_of_noise_alone_is_refused(written):
    def change(table):
        table["head"]["flags"] = NOISE_FLAG

    refused(edit(written, change), "no imaging readout")


def test_no_noise_readouts_are_no_error(written):
    read = read_kspace(edit(written, lambda table: table[1:]))
    assert read.noise is None
    assert read.noise_dwell_time is None
    assert read.samples.shape == (2, 12, 72)


@pytest.mark.parametrize("counter", ["repetition", "average"])
def test_repeats_of_one_trajectory_are_averaged(small, written, counter):
    def change(table):
        again = table[1:].copy()
        again["head"]["idx"][counter] = 1
        again["data"] = [3 * readout for readout in again["data"]]
        return np.concatenate([table, again])

    read = read_kspace(edit(written, change))
    np.testing.assert_allclose(read.samples, 2 * small.samples, rtol=1e-5)
    assert read.trajectory.shape == small.trajectory.shape


def test_interleaved_averages_are_averaged_too(small, written):
    def change(table):
        both = np.repeat(table[1:], 2)
        both["head"]["idx"]["average"] = np.arange(24) % 2
        return np.concatenate([table[:1], both])

    read = read_kspace(edit(written, change))
    np.testing.assert_allclose(read.samples, small.samples, rtol=1e-5)


def test_repeats_with_trajectories_of_their_own_stand_side_by_side(small, written):
    def change(table):
        again = table[1:].copy()
        again["head"]["idx"]["repetition"] = 1
        again["traj"] = [-readout for readout in again["traj"]]
        return np.concatenate([table, again])

    read = read_kspace(edit(written, change))
    assert read.samples.shape == (2, 24, 72)
    np.testing.assert_allclose(read.trajectory[12:], -small.trajectory, rtol=1e-5)


def test_the_second_echo_is_left_out(small, written):
    def change(table):
        second = table[1:].copy()
        second["head"]["idx"]["contrast"] = 1
        second["data"] = [100 * readout for readout in second["data"]]
        return np.concatenate([table, second])

    read = read_kspace(edit(written, change))
    np.testing.assert_array_equal(read.samples, small.samples)


def test_navigators_and_dummies_are_left_out(small, written):
    def change(table):
        extra = table[1:3].copy()
        flags = (ismrmrd.ACQ_IS_NAVIGATION_DATA, ismrmrd.ACQ_IS_DUMMYSCAN_DATA)
        extra["head"]["flags"] = [1 << (flag - 1) for flag in flags]
        return np.concatenate([extra, table])

    np.testing.assert_array_equal(read_kspace(edit(written, change)).samples, small.samples)


def test_discarded_samples_are_cut_off_at_both_ends(small, written):
    def change(table):
        table["head"]["discard_pre"], table["head"]["discard_post"] = 5, 3

    read = read_kspace(edit(written, change))
    np.testing.assert_array_equal(read.samples, small.samples[:, :, 5:-3])
    np.testing.assert_allclose(read.trajectory, small.trajectory[:, 5:-3])


def test_discarding_every_sample_is_refused(written):
    def change(table):
        table["head"]["discard_pre"] = 80

    refused(edit(written, change), "discard_pre")


def test_noise_without_dwell_time_takes_that_of_the_readouts(written):
    def change(table):
        table["head"]["sample_time_us"][0] = 0

    assert read_kspace(edit(written, change)).noise_dwell_time == pytest.approx(1e-4)


def test_readouts_without_dwell_time_are_refused(written):
    def change(table):
        table["head"]["sample_time_us"] = 0

    refused(edit(written, change), "sample_time_us is 0; it must be positive")


def test_a_position_that_changes_between_readouts_is_refused(written):
    def change(table):
        table["head"]["position"][6] += 2

    refused(edit(written, change), "'position' differs")


def test_directions_that_are_no_orthogonal_set_are_refused(written):
    def change(table):
        table["head"]["read_dir"] = table["head"]["phase_dir"]

    refused(edit(written, change), "not orthogonal unit vectors")


@pytest.mark.parametrize(
    ("key", "name"), [("TE", "TE"), ("TR", "TR"), ("flipAngle_deg", "flipAngle_deg")]
)
def test_a_missing_number_of_the_protocol_is_named(written, key, name):
    with h5py.File(written, "r+") as file:
        text = file["dataset"]["xml"][0].decode()
        start, end = text.index(f"<{key}>"), text.index(f"</{key}>") + len(key) + 3
        file["dataset"]["xml"][0] = (text[:start] + text[end:]).encode()
    refused(written, f"'{name}' is missing")


def test_without_a_nominal_field_strength_the_proton_frequency_tells_it(written):
    with h5py.File(written, "r+") as file:
        text = file["dataset"]["xml"][0].decode()
        start = text.index("<systemFieldStrength_T>")
        end = text.index("</systemFieldStrength_T>") + len("</systemFieldStrength_T>")
        file["dataset"]["xml"][0] = (text[:start] + text[end:]).encode()
    assert read_kspace(written).field_strength == pytest.approx(3.0, rel=1e-4)


def test_an_existing_file_is_replaced(small, written):
    write_kspace(written, replace(small, noise=None))
    assert read_kspace(written).noise is None


def test_the_header_of_a_truncated_file_is_refused(tmp_path):
    path = Path(tmp_path / "cut.h5")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(ValueError, match=r"cut.h5: not a complete HDF5 file"):
        read_kspace_header(path)
