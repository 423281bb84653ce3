"""From files to a sodium image with its noise, its response and its properties."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.kspace import write_kspace
from sodiumprep.interfaces.reconstruct import (
    DescribeImage,
    ReconstructKspace,
    describe_response,
    load_response,
    save_response,
    tissue_constants,
)
from sodiumprep.sodium.acquisition import Geometry
from sodiumprep.sodium.calibrate import core_signal
from sodiumprep.sodium.ellipsoids import (
    Ellipsoid,
    ellipsoid_head,
    ellipsoid_image,
    ellipsoid_kspace,
)
from sodiumprep.sodium.kernel import Response, blur
from sodiumprep.sodium.motion import RigidMotion, apply_to_kspace
from sodiumprep.sodium.noise import noise_samples
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.trajectory import density_adapted_radial

TISSUES = {name: asdict(relaxation_of(name, 3.0)) for name in ("GM", "CSF")}
PLACE = np.array([-9.0, 13.0, 41.0])  # mm, LPS


@pytest.fixture(scope="module")
def kspace_file(oblique, make_blob, tmp_path_factory):
    rng = np.random.default_rng(0)
    noise = 1e-7 * (rng.normal(size=(2, 4000)) + 1j * rng.normal(size=(2, 4000)))
    blob = make_blob(oblique(), PLACE, noise=noise.astype(np.complex64), noise_dwell_time=1e-4)
    path = tmp_path_factory.mktemp("raw") / "raw.h5"
    write_kspace(path, replace(blob, samples=np.concatenate([blob.samples, 1j * blob.samples])))
    return str(path)


@pytest.fixture
def reconstruct(kspace_file, run_in, tmp_path):
    def reconstructed(**changes):
        interface = ReconstructKspace(kspace_file=kspace_file, tissues=TISSUES, **changes)
        return run_in(interface, tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return reconstructed


def head_image(seed=0, masked=False):
    axes = np.meshgrid(*[np.arange(24.0) - 12] * 3, indexing="ij")
    ball = 80.0 * (np.sqrt(sum(a**2 for a in axes)) < 7)
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 2, (24,) * 3) + 1j * rng.normal(0, 2, (24,) * 3)
    return np.abs(ball + noise) * ((ball > 0) if masked else 1), np.angle(ball + noise)


@pytest.fixture
def describe(run_in, tmp_path):
    def described(image=None, **changes):
        affine = np.diag([4.0, 4, 4, 1])
        path = save_image(
            tmp_path / "image.nii.gz", head_image()[0] if image is None else image, affine
        )
        return run_in(
            DescribeImage(image_file=path, tissues=TISSUES, **{"echo_time": 3e-4, **changes}),
            tmp_path / "run",
        )

    return described


def test_raw_data_become_an_image_at_its_place(reconstruct, oblique):
    image, affine = load_image(reconstruct().image_file)
    np.testing.assert_allclose(affine, oblique().affine, atol=1e-4)
    peak = (affine @ [*np.unravel_index(image.argmax(), image.shape), 1])[:3]
    assert np.linalg.norm(peak - PLACE * [-1, -1, 1]) < 10  # within a voxel


def test_data_that_lie_still_have_one_image_for_all(reconstruct):
    outputs = reconstruct()
    assert outputs.static_image_file == outputs.image_file
    assert outputs.static_noise_file == outputs.noise_file
    assert outputs.static_response_file == outputs.response_file
    assert "VialsFrom" not in outputs.properties


FILES = ("image", "noise", "response")
SMALL_HEAD = ellipsoid_head(np.full(3, 0.19))
VIALS = [
    Ellipsoid(np.array([x, 0.085, 0.0]), np.array([0.0125, 0.0125, 0.05]), value=value)
    for x, value in ((0.09, 0.4), (-0.09, 0.8))
]


def moving(make_blob, motions):
    """Return repetitions between which a head moves, and vials do not."""
    grid = Geometry(np.zeros(3), np.eye(3), (0.24,) * 3, (32, 32, 32))
    trajectory = density_adapted_radial(1200, 144, 0.5 / grid.voxel_size[0])
    one = make_blob(grid, np.zeros(3), trajectory=trajectory, dwell_time=5e-5)
    samples = []
    for motion in motions:
        head = ellipsoid_kspace(SMALL_HEAD, one.trajectory.astype(np.float64) @ motion.matrix)
        moved, _ = apply_to_kspace(head, one.trajectory @ motion.matrix, motion)
        samples.append(moved + ellipsoid_kspace(VIALS, one.trajectory))
    rng, joined = np.random.default_rng(0), np.concatenate(samples)[None]
    level = 2e-4 * np.abs(joined).max()
    noise = noise_samples(np.eye(1) * level**2, (1, 4000), rng)[:, 0]
    joined = joined + level * noise_samples(np.eye(1), joined.shape[1:], rng)
    return replace(
        one, samples=joined.astype("c8"), trajectory=np.tile(one.trajectory, (len(motions), 1, 1)),
        noise=noise.astype("c8"), repetition=np.repeat(np.arange(len(motions)), 1200),
    )  # fmt: skip


def slope_of(image_file, noise_file, response_file):
    """Return the signal of the vials over their density."""
    image, noise = (load_image(path)[0] for path in (image_file, noise_file))
    grid = Geometry(np.zeros(3), np.eye(3), (0.24,) * 3, image.shape)
    transfer, signals = load_response(response_file).transfers["CSF"], []
    for vial in VIALS:
        fraction = ellipsoid_image([replace(vial, value=1.0)], grid).real
        blurred = blur(fraction, transfer)
        signals.append(core_signal(image, blurred, fraction, noise, 1.3).signal / vial.value)
    return np.mean(signals)


@pytest.mark.slow
@pytest.mark.parametrize("recon", ["gridding", "cg"])
def test_motion_of_the_head_leaves_the_slope_of_the_vials_as_it_is(
    make_blob, run_in, tmp_path, recon
):
    shifts = (RigidMotion(translation=np.array(t)) for t in ((4.0, 0.0, -1.0), (0.0, -4.0, 1.0)))
    poses = {"still": [RigidMotion()] * 3, "moved": [RigidMotion(), *shifts]}
    slopes, told = {}, {}
    for name, motions in poses.items():
        write_kspace(tmp_path / f"{name}.h5", moving(make_blob, motions))
        interface = ReconstructKspace(
            kspace_file=str(tmp_path / f"{name}.h5"), tissues=TISSUES, recon=recon
        )
        outputs = run_in(interface, tmp_path / name)
        told[name] = outputs.properties
        slopes[name] = [
            slope_of(*(getattr(outputs, f"{kind}{name}_file") for name in FILES))
            for kind in ("", "static_")
        ]
    before, after = np.array(slopes["moved"]) / slopes["still"][0] - 1
    print(f"{recon}: slope {before:+.2%} before, {after:+.2%} after")
    assert slopes["still"][0] == slopes["still"][1]
    assert before < -0.02
    assert abs(after) < 0.003
    assert told["moved"]["VialsFrom"].endswith("without alignment")
    assert "are read from an average that was not" in " ".join(told["moved"]["Warnings"])


def test_the_properties_say_what_was_done(reconstruct):
    known = reconstruct().properties
    assert known["Coils"] == 2
    assert known["Readouts"] == 900
    assert known["DensityCompensation"] == "radial"
    assert known["NoiseSource"] == "noise readouts"
    assert set(known["PointSpreadFWHM"]) == {"GM", "CSF"}
    assert known["PointSpreadGain"]["CSF"] == pytest.approx(1.0, abs=0.03)


def test_a_hamming_window_is_said_and_widens_the_kernel(reconstruct):
    plain, filtered = (reconstruct(kspace_filter=f).properties for f in ("none", "hamming"))
    assert (plain["KspaceFilter"], filtered["KspaceFilter"]) == ("none", "hamming")
    ratio = filtered["PointSpreadFWHM"]["CSF"][0] / plain["PointSpreadFWHM"]["CSF"][0]
    assert ratio == pytest.approx(1.25, abs=0.05)


def test_a_given_width_replaces_the_computed_kernel(reconstruct):
    known = reconstruct(psf_fwhm=[25.0, 30.0, 35.0]).properties["PointSpreadFWHM"]
    np.testing.assert_allclose([known["GM"], known["CSF"]], [[25, 30, 35]] * 2, rtol=0.02)


def test_the_noise_has_the_grid_of_the_image_and_a_correlation(reconstruct):
    outputs = reconstruct()
    noise, _ = load_image(outputs.noise_file)
    assert noise.shape == load_image(outputs.image_file)[0].shape
    assert noise.min() > 0
    response = load_response(outputs.response_file)
    assert response.noise_spectrum.shape == (32, 32, 17)
    np.testing.assert_allclose(np.sum(response.noise_modes**2, axis=0), np.ones(noise.shape), 1e-5)


def test_large_steps_in_the_centre_of_k_space_are_reported(oblique, make_blob, run_in, tmp_path):
    blob = make_blob(oblique(), PLACE, n_spokes=50)
    sparse = replace(blob, samples=blob.samples[:, :, ::3], trajectory=blob.trajectory[:, ::3])
    write_kspace(tmp_path / "sparse.h5", sparse)
    interface = ReconstructKspace(kspace_file=str(tmp_path / "sparse.h5"), tissues=TISSUES)
    warnings = run_in(interface, tmp_path / "run").properties["Warnings"]
    assert any("inflate the image" in warning for warning in warnings)


def test_dead_coils_are_refused_with_the_name_of_the_file(oblique, make_blob, run_in, tmp_path):
    rng = np.random.default_rng(0)
    blob = make_blob(oblique(), PLACE)
    noise = [
        rng.normal(size=(1, *s)).astype(np.complex64) for s in (blob.samples.shape[1:], (500,))
    ]
    write_kspace(tmp_path / "dead.h5", replace(blob, samples=noise[0], noise=noise[1]))
    interface = ReconstructKspace(kspace_file=str(tmp_path / "dead.h5"), tissues=TISSUES)
    with pytest.raises(ValueError, match=r"dead.h5: none of the 1 coils"):
        run_in(interface, tmp_path / "run")


@pytest.mark.parametrize("method", ["cg", pytest.param("tv", marks=pytest.mark.slow)])
def test_another_method_gives_an_image_of_the_same_scale(reconstruct, method):
    plain, other = reconstruct(), reconstruct(recon=method)
    peaks = [load_image(outputs.image_file)[0].max() for outputs in (plain, other)]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)
    assert other.properties["Reconstruction"] == method
    assert other.properties["Course"]["Iterations"] > 1
    assert len(other.properties["PointSpreadLocalAt"]) == 3
    assert load_response(other.response_file).noise_modes is None


def test_a_delay_that_is_corrected_changes_the_image_and_is_said(reconstruct):
    plain, moved = reconstruct(), reconstruct(gradient_delay=[2e-5, 0.0, 0.0])
    images = [load_image(outputs.image_file)[0] for outputs in (plain, moved)]
    assert np.abs(images[1] - images[0]).max() > 0.02 * images[0].max()
    assert moved.properties["GradientDelay"]["Corrected_us"] == [20.0, 0.0, 0.0]
    assert any("another delay was given" in w for w in moved.properties["Warnings"])
    assert plain.properties["GradientDelay"]["Corrected_us"] is None


def test_a_field_map_takes_the_turning_out_of_the_data(oblique, make_blob, run_in, tmp_path):
    blob = make_blob(oblique(), PLACE)
    turn = np.exp(-2j * np.pi * 200.0 * (blob.sample_times + blob.echo_time))
    field = save_image(tmp_path / "f.nii.gz", np.full((16,) * 3, 800.0), oblique().affine)
    mapped = {"fieldmap_file": field, "fieldmap_scale": 0.25}
    found = []
    for number, (factor, options) in enumerate([(1, {}), (turn, {}), (turn, mapped)]):
        path = tmp_path / f"{number}.h5"
        write_kspace(path, replace(blob, samples=blob.samples * factor))
        interface = ReconstructKspace(kspace_file=str(path), tissues=TISSUES, **options)
        found.append(run_in(interface, tmp_path / f"run-{number}"))
    still, turned, corrected = (load_image(outputs.image_file)[0] for outputs in found)
    assert np.abs(turned - still).max() > 0.1 * still.max()
    assert np.abs(corrected - still).max() < 0.02 * still.max()
    assert found[2].properties["OffResonance"]["Maximum_Hz"] == 200.0


def test_a_magnitude_image_keeps_its_grid_and_loses_its_bias(describe):
    outputs = describe()
    image, affine = load_image(outputs.image_file)
    np.testing.assert_allclose(affine, np.diag([4.0, 4, 4, 1]))
    assert abs(image[:6, :6, :6].mean()) < 1
    np.testing.assert_allclose(load_image(outputs.noise_file)[0], 2.0, rtol=0.1)
    told = outputs.properties["NoiseBias"]
    assert told["Removed"]
    assert told["EffectiveChannels"] == pytest.approx(1.0, abs=0.1)
    assert told["BackgroundRootMeanSquare"] == pytest.approx(2.0 * np.sqrt(2), rel=0.05)


def test_what_the_sidecar_does_not_tell_is_a_warning(describe):
    (warning,) = describe().properties["Warnings"]
    assert "TrajectoryType, ReadoutDuration, AcquisitionVoxelSize" in warning


def test_a_sidecar_that_tells_all_gives_each_tissue_its_kernel(describe):
    known = describe(
        trajectory_type="density-adapted radial", readout_duration=0.02, nominal_voxel=[4.0] * 3
    ).properties
    assert known["Warnings"] == []
    assert known["PointSpreadFWHM"]["GM"][0] == pytest.approx(4 * 1.79, rel=0.02)
    assert known["PointSpreadFWHM"]["CSF"][0] == pytest.approx(4 * 1.63, rel=0.02)


def test_the_filter_of_the_sidecar_widens_the_kernel(describe):
    widths = describe(kspace_filter="hamming").properties["PointSpreadFWHM"]
    assert widths["GM"][0] == pytest.approx(4 * 1.99, rel=0.02)


def test_a_given_width_wins_over_the_sidecar(describe):
    known = describe(psf_fwhm=[9.0, 10.0, 11.0], readout_duration=0.02).properties
    np.testing.assert_allclose(known["PointSpreadFWHM"]["GM"], [9, 10, 11], rtol=0.02)
    assert known["Warnings"] == []


def test_magnitude_and_phase_give_noise_without_a_mean(describe, tmp_path):
    magnitude, phase = head_image()
    path = save_image(tmp_path / "phase.nii.gz", phase, np.diag([4.0, 4, 4, 1]))
    outputs = describe(magnitude, phase_file=path)
    corner = load_image(outputs.image_file)[0][:6, :6, :6]
    assert abs(corner.mean()) < 0.5 * corner.std()
    assert "complex" in outputs.properties["NoiseSource"]
    assert not outputs.properties["NoiseBias"]["Removed"]


def test_a_masked_image_has_unknown_noise_and_says_so(describe):
    outputs = describe(head_image(masked=True)[0])
    assert np.isnan(load_image(outputs.noise_file)[0]).all()
    assert any("noise cannot be measured" in w for w in outputs.properties["Warnings"])
    assert not outputs.properties["NoiseBias"]["Removed"]


def test_an_image_of_zeros_is_refused_with_its_file(describe):
    with pytest.raises(ValueError, match=r"image.nii.gz: every voxel is 0"):
        describe(np.zeros((8, 8, 8)))


def test_a_truncated_raw_file_is_refused_with_its_name(kspace_file, tmp_path, run_in):
    cut = tmp_path / "cut.h5"
    cut.write_bytes(Path(kspace_file).read_bytes()[:200_000])
    with pytest.raises(ValueError, match=r"cut.h5: not a complete HDF5 file"):
        run_in(ReconstructKspace(kspace_file=str(cut), tissues=TISSUES), tmp_path / "run")


@pytest.mark.parametrize("modes", [None, np.full((4, 2, 2, 2), 0.5, np.float32)])
def test_a_response_survives_its_file(tmp_path, modes):
    rng = np.random.default_rng(0)
    response = Response({"GM": rng.normal(size=(4, 4, 3)), "1 vial": np.ones((4, 4, 3))},
                        rng.normal(size=(4, 4, 3)), noise_modes=modes)  # fmt: skip
    loaded = load_response(save_response(tmp_path / "r.npz", response))
    np.testing.assert_array_equal(loaded.transfers["GM"], response.transfers["GM"])
    np.testing.assert_array_equal(loaded.noise_spectrum, response.noise_spectrum)
    assert list(loaded.transfers) == ["GM", "1 vial"]  # the modes are no tissue
    np.testing.assert_array_equal(loaded.noise_modes, modes)


def test_gain_is_told_apart_from_width():
    flat = np.full((16, 16, 9), 0.9)
    told = describe_response(Response({"GM": flat}, flat), np.full(3, 4e-3))
    assert told["PointSpreadGain"] == {"GM": 0.9}


def test_plain_dictionaries_become_constants():
    assert tissue_constants(TISSUES)["CSF"] == relaxation_of("CSF", 3.0)
