"""Raw files: what was written is read, and every bad file is named with its readout."""

import re
from dataclasses import replace
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest

from sodiumprep.interfaces.kspace import (
    read_echoes,
    read_kspace,
    read_kspace_header,
    write_kspace,
)
from sodiumprep.sodium.acquisition import average_repetitions
from sodiumprep.sodium.encoding import adjoint

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


def without_element(path, name):
    """Take an element of the header, and all that is in it, away."""
    with h5py.File(path, "r+") as file:
        text = file["dataset"]["xml"][0].decode()
        start, end = text.index(f"<{name}>"), text.index(f"</{name}>") + len(name) + 3
        file["dataset"]["xml"][0] = (text[:start] + text[end:]).encode()
    return path


def repeated(path, times, **counters):
    """Append the imaging readouts again, each time multiplied, with a counter that goes up."""

    def change(table):
        parts = [table]
        for number in range(1, times):
            again = table[1:].copy()
            for counter in counters:
                again["head"]["idx"][counter] = number
            again["data"] = [(1 + 2 * number) * readout for readout in again["data"]]
            parts.append(again)
        return np.concatenate(parts)

    return edit(path, change)


def refused(path, *words, **options):
    with pytest.raises(ValueError, match=".*".join(words)) as caught:
        read_kspace(path, **options)
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
    assert header.repetition_time == pytest.approx(0.12)


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
    weights = np.gradient(np.linalg.norm(read.trajectory, axis=-1) ** 3, axis=-1)
    image = np.abs(adjoint(read.samples[0] * weights, read.trajectory, read.geometry))
    image = np.clip(image, 0.1 * image.max(), None) - 0.1 * image.max()
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
    refused(written, "3.02", "must lie in", "in radians per metre: divide it by 2 pi")


@pytest.mark.parametrize(
    ("factor", "words"),
    [(0.16, "in cycles per field of view"), (1e-3, "in 1/mm: multiply it by 1000"),
     (0.01 * 2 * np.pi, "in radians per voxel"), (0.003, "encodedSpace$"), (0.0, "encodedSpace$")],
)  # fmt: skip
def test_an_unlabelled_trajectory_outside_the_nyquist_box_is_refused(written, factor, words):
    edit(written, lambda t: t["traj"].__setitem__(slice(None), t["traj"] * np.float32(factor)))
    edit_header(written, (">units<", ">other<"))
    refused(written, "read as normalized", "read as 1/m", "must lie in .0.25, 0.55", words)


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


def test_a_file_without_readouts_is_refused(written):
    refused(edit(written, lambda table: table[:0]), "no imaging readout among 0")


def test_compressed_readouts_are_refused(written):
    def change(table):
        table["head"]["flags"][2] = 1 << (ismrmrd.ACQ_COMPRESSION2 - 1)

    refused(edit(written, change), "readout 2 is compressed")


def test_a_table_that_is_none_is_named(written):
    with h5py.File(written, "r+") as file:
        del file["dataset"]["data"]
        file["dataset"]["data"] = np.zeros(3)
    refused(written, "'dataset/data' has no head, traj, data")


def test_a_missing_trajectory_is_named_with_the_command_that_adds_one(written):
    def change(table):
        table["traj"] = [np.zeros(0, np.float32)] * len(table)
        table["head"]["trajectory_dimensions"] = 0

    refused(edit(written, change), "readout 1", "12 of 12", "sodiumprep-trajectory adds one")


def test_a_missing_trajectory_is_named_with_its_readout(written):
    def change(table):
        table["traj"][7] = np.zeros(0, np.float32)
        table["head"]["trajectory_dimensions"][7] = 0

    refused(edit(written, change), "readout 7 has no 3D trajectory")


def test_a_flat_trajectory_is_refused(written):
    def change(table):
        table["head"]["trajectory_dimensions"] = 2

    refused(edit(written, change), "readout 1 has no 3D trajectory", "dimensions is 2")


def test_a_trajectory_of_too_few_samples_is_named_with_its_readout(written):
    def change(table):
        table["traj"][5] = table["traj"][5][:-3]

    refused(edit(written, change), "readout 5 has no 3D trajectory .213 numbers, 216 expected")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_that_is_no_number_is_named_with_its_readout(written, value):
    def change(table):
        table["data"][4][11] = value

    refused(edit(written, change), "readout 4 holds NaN or infinity")


def test_a_noise_sample_that_is_no_number_is_named(written):
    def change(table):
        table["data"][0][3] = np.nan

    refused(edit(written, change), "readout 0 .noise. holds NaN")


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

    refused(edit(written, change), "readout 3 has 72 samples of 2 coils", "280 numbers")


def test_a_readout_of_fewer_coils_is_named(written):
    def change(table):
        table["data"][3] = table["data"][3][:144]
        table["head"]["active_channels"][3] = 1

    refused(edit(written, change), "readout 3 has 72 samples of 1 coils")


def test_several_noise_readouts_of_other_lengths_are_joined(small, written):
    def change(table):
        more = table[[0, 0]].copy()
        more["head"]["number_of_samples"][1] = 20
        more["data"][1] = np.ones(80, np.float32)
        more["head"]["sample_time_us"][1] = 4 * more["head"]["sample_time_us"][0]
        return np.concatenate([table[:5], more, table[5:]])

    read = read_kspace(edit(written, change))
    assert read.noise.shape == (2, 64 + 64 + 20)
    np.testing.assert_allclose(read.noise[:, -20:], 2 + 2j)  # four times the dwell time
    np.testing.assert_array_equal(read.samples, small.samples)


def test_noise_of_more_samples_than_a_readout_may_have_is_written_in_parts(small, tmp_path):
    noise = noise_samples(n=70000)
    write_kspace(tmp_path / "a.h5", replace(small, noise=noise))
    np.testing.assert_array_equal(read_kspace(tmp_path / "a.h5").noise, noise)


@pytest.mark.parametrize(("coils", "words"), [(2, "all coils"), (1, "coil 1")])
def test_noise_readouts_of_zeros_are_refused(written, coils, words):
    def change(table):
        table["data"][0][: coils * 128] = 0

    refused(edit(written, change), "only zeros in " + words)


def test_a_coil_that_is_silent_everywhere_is_read(small, tmp_path):
    silent = np.array([1, 0])[:, None]
    write_kspace(tmp_path / "a.h5", replace(
        small, samples=small.samples * silent[..., None], noise=small.noise * silent,
    ))  # fmt: skip
    assert not read_kspace(tmp_path / "a.h5").samples[1].any()


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


def test_averages_of_one_trajectory_are_averaged(small, written):
    read = read_kspace(repeated(written, 2, average=0))
    np.testing.assert_allclose(read.samples, 2 * small.samples, rtol=1e-5)
    assert read.trajectory.shape == small.trajectory.shape
    assert read.repetition is None


def test_the_noise_is_scaled_with_the_averaging(small, written):
    read = read_kspace(repeated(written, 2, average=0))
    np.testing.assert_allclose(read.noise, small.noise / np.sqrt(2), rtol=1e-5)


def test_repetitions_are_kept_apart(small, written):
    read = read_kspace(repeated(written, 3, repetition=0))
    np.testing.assert_array_equal(read.repetition, np.repeat([0, 1, 2], 12))
    np.testing.assert_allclose(read.samples[:, 24:], 5 * small.samples, rtol=1e-5)
    np.testing.assert_array_equal(read.noise, small.noise)
    averaged = average_repetitions(read)
    np.testing.assert_allclose(averaged.samples, 3 * small.samples, rtol=1e-5)


def test_interleaved_averages_are_averaged_inside_their_repetitions(small, written):
    def change(table):
        many = np.repeat(table[1:], 4)
        many["head"]["idx"]["average"] = np.arange(48) % 2
        many["head"]["idx"]["repetition"] = np.arange(48) // 24
        return np.concatenate([table[:1], many])

    read = read_kspace(edit(written, change))
    np.testing.assert_allclose(read.samples[:, ::2], small.samples, rtol=1e-5)
    np.testing.assert_array_equal(read.repetition, np.repeat([0, 1], 12))


def test_a_broken_off_average_stands_beside_the_others_with_a_warning(written):
    read = read_kspace(edit(repeated(written, 2, average=0), lambda table: table[:-5]))
    assert read.samples.shape == (2, 19, 72)
    assert "the averages have 7 to 12 readouts" in read.warnings[-1]


def test_repetitions_with_trajectories_of_their_own_stand_side_by_side(small, written):
    def change(table):
        table["traj"][13:] = [-readout for readout in table["traj"][13:]]

    read = average_repetitions(read_kspace(edit(repeated(written, 2, repetition=0), change)))
    assert read.samples.shape == (2, 24, 72)
    np.testing.assert_allclose(read.trajectory[12:], -small.trajectory, rtol=1e-5)


def test_what_was_written_in_repetitions_is_read(small, tmp_path):
    order = np.array([5] * 6 + [7] * 6)
    write_kspace(tmp_path / "a.h5", replace(small, repetition=order))
    read = read_kspace(tmp_path / "a.h5")
    np.testing.assert_array_equal(read.repetition, order)
    np.testing.assert_array_equal(read.samples, small.samples)


@pytest.fixture
def two_echoes(small, tmp_path):
    late = replace(small, samples=100 * small.samples, echo_time=4e-3, dwell_time=2e-4)
    write_kspace(tmp_path / "echoes.h5", [small, late])
    return tmp_path / "echoes.h5"


def test_each_echo_is_read_with_its_time(small, two_echoes):
    first, second = read_kspace(two_echoes), read_kspace(two_echoes, echo=2)
    np.testing.assert_array_equal(first.samples, small.samples)
    np.testing.assert_allclose(second.samples, 100 * small.samples)
    assert (first.echo_time, second.echo_time) == pytest.approx((0.3e-3, 4e-3))
    assert (first.dwell_time, second.dwell_time) == pytest.approx((1e-4, 2e-4))
    assert read_kspace_header(two_echoes).echo_times == pytest.approx((0.3e-3, 4e-3))


@pytest.mark.parametrize("echo", [0, 3])
def test_an_echo_that_is_not_there_is_refused(two_echoes, echo):
    refused(two_echoes, f"echo {echo} was asked for; accepted: 1 to 2", echo=echo)


def test_an_echo_without_a_time_of_its_own_is_refused(two_echoes):
    edit_header(two_echoes, ("<TE>4.0</TE>", ""))
    assert read_kspace(two_echoes).echo_time == pytest.approx(0.3e-3)
    refused(two_echoes, "1 'TE' for 2 echoes", echo=2)


def test_a_file_of_the_second_echo_alone_has_its_time(two_echoes):
    edit(two_echoes, lambda table: table[table["head"]["idx"]["contrast"] == 1])
    assert read_kspace(two_echoes).echo_time == pytest.approx(4e-3)


def test_all_echoes_are_read_in_their_order(small, written, two_echoes):
    assert [e.echo_time for e in read_echoes(two_echoes)] == pytest.approx([0.3e-3, 4e-3])
    (alone,) = read_echoes(without_element(written, "TE"), {"echo_time": 5e-4})
    assert alone.echo_time == 5e-4
    np.testing.assert_array_equal(alone.samples, small.samples)


@pytest.mark.parametrize("found", ["0.3", ""])
def test_the_sidecars_echo_time_is_not_that_of_a_second_echo(two_echoes, found):
    edit_header(two_echoes, ("<TE>4.0</TE>", ""))
    edit_header(two_echoes, *([] if found else [("<TE>0.3</TE>", "")]))
    message = f"{two_echoes}: the ISMRMRD header has {len(found) // 3} 'TE' for 2 echoes"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_echoes(two_echoes, {"echo_time": 3e-4})


@pytest.mark.parametrize("late", ["0.3", "0.2"])
def test_echoes_out_of_order_are_refused_with_file_and_key(two_echoes, late):
    edit_header(two_echoes, ("<TE>4.0</TE>", f"<TE>{late}</TE>"))
    message = f"{two_echoes}: 'TE' of the echoes is 0.3, {late} ms"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_echoes(two_echoes)


def test_echoes_of_different_places_or_repetitions_are_refused_with_the_file(two_echoes, small):
    def move(table):
        table["head"]["position"][table["head"]["idx"]["contrast"] == 1] += 5

    def repeat(table):
        table["head"]["idx"]["repetition"][-6:] = 1

    for change, message in (
        (repeat, "hold 1, 2 usable repetitions"),
        (move, "echo 2 has another"),
    ):
        edit(two_echoes, change)
        with pytest.raises(ValueError, match=f"{re.escape(str(two_echoes))}: .*{message}"):
            read_echoes(two_echoes)


def test_no_echo_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="no echo to write"):
        write_kspace(tmp_path / "a.h5", [])


def test_echoes_of_different_places_or_coils_are_not_written_together(small, oblique, tmp_path):
    moved = replace(small, geometry=oblique(16, -1))
    with pytest.raises(ValueError, match="echo 2 has another field of view"):
        write_kspace(tmp_path / "a.h5", [small, moved])
    with pytest.raises(ValueError, match="echo 2 has 1 coils, echo 1 has 2"):
        write_kspace(tmp_path / "a.h5", [small, replace(small, samples=small.samples[:1])])


@pytest.mark.parametrize("flag", [
    "NAVIGATION_DATA", "PHASECORR_DATA", "DUMMYSCAN_DATA", "PHASE_STABILIZATION",
    "PHASE_STABILIZATION_REFERENCE", "RTFEEDBACK_DATA", "HPFEEDBACK_DATA", "PARALLEL_CALIBRATION",
    "SURFACECOILCORRECTIONSCAN_DATA",
])  # fmt: skip
def test_readouts_of_another_purpose_are_counted_and_left_out(small, written, flag):
    def change(table):
        extra = table[1:4].copy()
        extra["head"]["flags"] = 1 << (getattr(ismrmrd, f"ACQ_IS_{flag}") - 1)
        extra["head"]["number_of_samples"] = 3  # of no concern
        return np.concatenate([extra, table])

    read = read_kspace(edit(written, change))
    np.testing.assert_array_equal(read.samples, small.samples)
    assert len(read.warnings) == 1
    assert "passed over: 3 " in read.warnings[0]


@pytest.mark.parametrize("counter", ["set", "phase", "slice"])
def test_counters_that_make_no_image_of_their_own_are_named(small, written, counter):
    def change(table):
        table["head"]["idx"][counter][7:] = 1

    read = read_kspace(edit(written, change))
    np.testing.assert_array_equal(read.samples, small.samples)
    assert f"2 values of the counter '{counter}'" in read.warnings[0]


def test_calibration_that_is_imaging_too_is_kept(small, written):
    def change(table):
        flag = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING
        table["head"]["flags"][1:] |= np.uint64(1 << (flag - 1))

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


@pytest.mark.parametrize(
    ("key", "value"), [("sample_time_us", 50), ("discard_pre", 4), ("read_dir", 0.0)]
)
def test_a_readout_that_differs_is_named(written, key, value):
    def change(table):
        table["head"][key][6] = value

    refused(edit(written, change), f"'{key}' differs", "readout 6 has", "readout 1 has")


@pytest.mark.parametrize("value", [np.nan, 4e4])
def test_a_position_that_is_none_is_refused(written, value):
    def change(table):
        table["head"]["position"][:, 2] = value

    refused(edit(written, change), "position")


def test_directions_that_the_converter_left_empty_are_refused(written):
    def change(table):
        for key in ("read_dir", "phase_dir", "slice_dir"):
            table["head"][key] = 0

    refused(edit(written, change), "not orthogonal unit vectors", "must write the orientation")


def test_directions_that_are_no_orthogonal_set_are_refused(written):
    def change(table):
        table["head"]["read_dir"] = table["head"]["phase_dir"]

    refused(edit(written, change), "not orthogonal unit vectors")


@pytest.mark.parametrize(
    ("element", "sidecar"),
    [("TE", "EchoTime"), ("TR", "RepetitionTime"), ("flipAngle_deg", "FlipAngle")],
)
def test_a_missing_number_of_the_protocol_is_named(written, element, sidecar):
    refused(without_element(written, element), f"'{element}' is missing", sidecar)


def test_a_number_that_the_header_lacks_may_stand_in_the_sidecar(written):
    without_element(written, "TE")
    assert read_kspace(written, stated={"echo_time": 5e-4}).echo_time == 5e-4
    refused(written, "'TE' is missing", stated={"echo_time": None})


def test_what_the_header_states_is_not_replaced(written):
    read = read_kspace(written, stated={"echo_time": 5e-4})
    assert read.echo_time == pytest.approx(0.3e-3)


def test_a_header_without_sequence_parameters_is_named(written):
    refused(without_element(written, "sequenceParameters"), "'TE' is missing")


@pytest.mark.parametrize("text", ["fast", "nan", ""])
def test_a_number_of_the_protocol_that_is_none_is_named(written, text):
    edit_header(written, ("<TR>120.0</TR>", f"<TR>{text}</TR>"))
    refused(written, f"sequenceParameters/TR is '{text}'", "accepted: a number")


def test_a_negative_time_is_refused(written):
    edit_header(written, ("<TR>120.0</TR>", "<TR>-120.0</TR>"))
    refused(written, "'TR' is -0.12")


@pytest.mark.parametrize("gamma_bar", [42.577e6, 11.262e6])
def test_without_a_nominal_field_strength_the_frequency_tells_it(written, gamma_bar):
    without_element(written, "systemFieldStrength_T")
    mine = f"<H1resonanceFrequency_Hz>{int(3.0 * gamma_bar)}<"
    edit_header(written, ("<H1resonanceFrequency_Hz>127731000<", mine))
    assert read_kspace(written).field_strength == pytest.approx(3.0, rel=1e-4)


def test_without_field_strength_and_frequency_it_is_named(written):
    without_element(written, "systemFieldStrength_T")
    without_element(written, "H1resonanceFrequency_Hz")
    refused(written, "'systemFieldStrength_T' is missing", "MagneticFieldStrength")


def test_without_a_recon_space_the_encoded_space_is_the_grid(small, written):
    read = read_kspace(without_element(written, "reconSpace"))
    assert read.geometry.matrix == small.geometry.matrix
    assert "no reconSpace" in read.warnings[0]


@pytest.mark.parametrize("element", ["encoding", "encodedSpace", "matrixSize"])
def test_a_header_without_encoding_or_grid_is_refused(written, element):
    refused(without_element(written, element), "encod", "header")


def test_a_flat_grid_is_refused(written):
    with h5py.File(written, "r+") as file:
        text = file["dataset"]["xml"][0].decode()
        file["dataset"]["xml"][0] = text.replace("<z>16</z>", "<z>1</z>").encode()
    refused(written, "matrixSize of .*Space is 16 x 16 x 1; accepted: 2 to 4096")


def test_a_field_of_view_in_metres_is_refused(written):
    with h5py.File(written, "r+") as file:
        text = file["dataset"]["xml"][0].decode()
        file["dataset"]["xml"][0] = text.replace("160.0<", "0.16<").encode()
    refused(written, "fieldOfView_mm of .*Space is 0.16 x 0.16 x 0.16; accepted: 10 to 2000 mm")


def second_encoding(path, dimensions):
    """Add an encoding to which six more readouts refer, with trajectories of so many axes."""

    def change(table):
        extra = table[1:7].copy()
        extra["head"]["encoding_space_ref"] = 1
        extra["head"]["trajectory_dimensions"] = dimensions
        return np.concatenate([extra, table])

    with h5py.File(path, "r+") as file:
        text = file["dataset"]["xml"][0].decode()
        first = text[text.index("<encoding>") : text.index("</encoding>") + len("</encoding>")]
        file["dataset"]["xml"][0] = text.replace(first, 2 * first).encode()
    return edit(path, change)


def test_of_several_encodings_the_one_with_a_trajectory_is_read(small, written):
    read = read_kspace(second_encoding(written, dimensions=0))
    np.testing.assert_array_equal(read.samples, small.samples)
    assert "6 of other encodings" in read.warnings[0]


def test_several_encodings_with_trajectories_are_refused(written):
    refused(second_encoding(written, dimensions=3), "2 encodings, 2 of them with a 3D trajectory")


def test_readouts_of_an_encoding_that_is_not_there_are_refused(written):
    def change(table):
        table["head"]["encoding_space_ref"] = 4

    refused(edit(written, change), "no encoding 4")


def test_an_existing_file_is_replaced(small, written):
    write_kspace(written, replace(small, noise=None))
    assert read_kspace(written).noise is None


def test_the_header_of_a_truncated_file_is_refused(tmp_path):
    path = Path(tmp_path / "cut.h5")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(ValueError, match=r"cut.h5: not a complete HDF5 file"):
        read_kspace_header(path)


def multiply(path, rows, factor):
    def change(table):
        for row in rows:
            table["data"][row] = table["data"][row] * np.float32(factor)

    return edit(path, change)


@pytest.mark.parametrize("factor", [0.0, 1e-20, 1e20])
def test_samples_of_no_usable_magnitude_are_refused_with_the_range(written, factor):
    refused(multiply(written, range(1, 13), factor), "largest sample is", "accepted: 1e-12 to")


def test_a_spike_is_named_with_readout_and_coil(written):
    def change(table):
        table["data"][5] = table["data"][5].copy()
        table["data"][5][2 * 72 + 60] = 1.0

    refused(edit(written, change), "readout 5 in coil 2 is", "1 readouts", "up to 10 times")


def test_readouts_of_zeros_are_refused_with_their_number(written):
    refused(multiply(written, [3, 4], 0), "2 of 12 readouts hold only zeros", "readout 3", "1%")


def test_a_single_readout_of_zeros_among_many_is_told(oblique, make_blob, tmp_path):
    blob = make_blob(oblique(), PLACE, n_spokes=120)
    blob.samples[:, 7] = 0
    write_kspace(tmp_path / "a.h5", blob)
    (warning,) = read_kspace(tmp_path / "a.h5").warnings
    assert warning == "1 of 120 readouts hold only zeros, the first is readout 7"


def test_a_repetition_of_zeros_is_left_out_and_named(small, written):
    read = read_kspace(multiply(repeated(written, 3, repetition=1), range(13, 25), 0))
    assert read.warnings == ("repetition 2 holds no signal and is left out",)
    np.testing.assert_array_equal(np.unique(read.repetition), [0, 2])
    assert read.samples.shape[1] == read.trajectory.shape[0] == 2 * small.samples.shape[1]


def test_a_trajectory_in_a_plane_is_refused(written):
    def change(table):
        for row in range(1, 13):
            flat = table["traj"][row].reshape(-1, 3) * np.float32([1, 1, 0])
            table["traj"][row] = flat.ravel()

    refused(edit(written, change), "reaches 0 cycles per voxel", "slice axis", "at least 0.05")


def test_a_trajectory_in_units_of_its_maximum_is_named_so(written):
    edit_header(written, ("<value>1/m<", "<value>normalized<"))
    edit(written, lambda t: t["traj"].__setitem__(slice(None), t["traj"] * np.float32(0.02)))
    refused(written, "0.96.* read as normalized", "its own maximum: divide it by 2")


def test_too_few_noise_samples_are_refused_with_their_number(written):
    def change(table):
        table["head"]["number_of_samples"][0] = 3
        table["data"][0] = table["data"][0][:12].copy()

    refused(edit(written, change), "hold 3 samples for 2 coils; accepted: at least 4")


def test_a_dwell_time_of_the_noise_that_is_no_number_is_refused(written):
    def change(table):
        table["head"]["sample_time_us"][0] = np.inf

    refused(edit(written, change), "sample_time_us of readout 0 .noise. is inf")


@pytest.mark.parametrize("key", ["sample_time_us", "position"])
def test_a_number_of_a_head_that_is_none_is_named_as_such(written, key):
    def change(table):
        table["head"][key][6] = np.nan

    refused(edit(written, change), f"'{key}' of readout 6 is .*nan", "accepted: finite numbers")


def test_a_matrix_that_no_memory_holds_is_refused(written):
    edit_header(written, *((f"<{axis}>16<", f"<{axis}>4000<") for axis in "xyz"))
    refused(written, "Space has 6.4e.10 voxels; accepted: up to 1.34e.08")


def test_k_space_without_a_centre_is_refused(written):
    def change(table):
        table["head"]["discard_pre"][1:] = 40

    refused(edit(written, change), "nearer to the centre of k-space than", "accepted: up to 3")


def test_a_gap_around_the_centre_of_k_space_is_told(written):
    def change(table):
        table["head"]["discard_pre"][1:] = 5

    (warning,) = read_kspace(edit(written, change)).warnings
    assert "than 2.2 cycles per FOV: the image is not quantitative" in warning


@pytest.mark.parametrize(("times", "row", "factor"), [(2, 13, 1e4), (3, 25, 1e4), (2, 1, 1e-3)])
def test_a_repetition_of_another_scale_is_refused(written, times, row, factor):
    path = multiply(repeated(written, times, repetition=1), range(row, row + 12), factor)
    refused(path, "the signal of repetition", "times that of the others; accepted: up to 10")
