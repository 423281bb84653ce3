"""Whole simulated datasets: valid, reproducible, and what they claim to be."""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
from pathlib import Path

import finufft
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from sodiumprep.bids_app.phantom import main
from sodiumprep.interfaces.kspace import read_kspace
from sodiumprep.sodium.delays import estimate_delays

pytestmark = pytest.mark.slow
ANAT = "sub-01/anat/sub-01"


PATIENT = ["--subjects", "1", "--groups", "patients", "--lesion", "glioma"]
PLAQUES = ["--subjects", "1", "--groups", "patients", "--lesion", "ms", "--format", "image",
           "--coils", "1", "--voxel-size", "6", "--sessions", "2", "--sites", "2"]  # fmt: skip
SMALL = ["--subjects", "1", "--groups", "one", "--format", "image", "--coils", "2"]


@pytest.fixture(scope="module")
def kspace_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kspace") / "data"
    assert main([str(folder), *PATIENT]) == 0
    return folder


@pytest.fixture(scope="module")
def image_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image") / "data"
    extra = ["--sessions", "2", "--session-change", "GM=0.2", "--transmit-spread", "0.3"]
    assert main([str(folder), *SMALL, *extra, "--voxel-size", "5", "--field-strength", "7"]) == 0
    return folder


@pytest.fixture(scope="module")
def imperfect_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imperfect") / "data"
    extra = ["--trajectory", "cones", "--spokes", "900", "--off-resonance", "60"]
    extra += ["--gradient-delay", "3", "-2", "5", "--repetitions", "2", "--motion", "4"]
    assert main([str(folder), "--subjects", "1", "--groups", "one", "--coils", "1", *extra]) == 0
    return folder


@pytest.fixture(scope="module")
def plaques_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plaques") / "data"
    assert main([str(folder), *PLAQUES]) == 0
    return folder


def errors_of_the_validator(folder: Path) -> list[str]:
    command = str(Path(sys.executable).with_name("bids-validator-deno"))
    if not Path(command).exists():
        pytest.skip("bids-validator-deno is not installed")
    told = subprocess.run(
        [command, str(folder), "--json"], capture_output=True, text=True, check=False
    )
    issues = json.loads(told.stdout)["issues"]["issues"]
    return [f"{i['code']} {i['location']}" for i in issues if i["severity"] == "error"]


def test_a_dataset_of_kspace_is_valid(kspace_dataset):
    assert errors_of_the_validator(kspace_dataset) == []


def test_a_dataset_of_images_is_valid(image_dataset):
    assert errors_of_the_validator(image_dataset) == []


def test_a_dataset_of_an_imperfect_scan_is_valid(imperfect_dataset):
    assert errors_of_the_validator(imperfect_dataset) == []


def test_a_dataset_of_plaques_sites_and_sessions_is_valid(plaques_dataset):
    assert errors_of_the_validator(plaques_dataset) == []


def rows_of(path: Path) -> list[dict[str, str]]:
    head, *rows = (line.split("\t") for line in path.read_text().splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def session_image(folder: Path, part: str, session: int, name: str) -> np.ndarray:
    stem = f"derivatives/{part}/sub-01/ses-{session}/anat/sub-01_ses-{session}"
    return nib.load(folder / f"{stem}_{name}.nii.gz").get_fdata(dtype=np.float32)


def test_masks_of_plaques_are_their_class_apart_and_hold_its_sodium(plaques_dataset):
    truth = plaques_dataset / "derivatives/truth/sub-01/ses-1/anat"
    means = {r["name"]: float(r["concentration"]) for r in rows_of(next(truth.glob("*_TSC.tsv")))}
    sodium = session_image(plaques_dataset, "truth", 1, "acq-23Na_space-T1w_desc-truth_TSCmap")
    total = 0
    for name in ("enhancing", "blackhole", "expanding"):
        mask = session_image(plaques_dataset, "manual", 1, f"label-{name}_mask")
        share = session_image(plaques_dataset, "truth", 1, f"label-{name}_desc-truth_probseg")
        assert np.array_equal(mask > 0, share > 0.5)
        assert sodium[share > 0.99].mean() == pytest.approx(means[name], rel=0.11)
        total = total + mask
    assert total.max() == 1


def test_the_table_of_plaques_counts_what_the_label_image_shows(plaques_dataset):
    name = "label-lesion_desc-truth_dseg"
    labels = session_image(plaques_dataset, "truth", 1, name)
    rows = rows_of(next((plaques_dataset / "derivatives/truth").rglob(f"*ses-1_{name}.tsv")))
    assert 5 <= len(rows) <= 9
    for row in rows:
        share = session_image(
            plaques_dataset, "truth", 1, f"label-{row['name']}_desc-truth_probseg"
        )
        inside = labels == int(row["index"])
        assert share[inside].sum() / 1e3 == pytest.approx(float(row["volume_ml"]), rel=1e-3)


def test_expanding_plaques_are_larger_a_year_later(plaques_dataset):
    volumes = {
        name: [
            session_image(plaques_dataset, "truth", s, f"label-{name}_desc-truth_probseg").sum()
            for s in (1, 2)
        ]
        for name in ("expanding", "blackhole")
    }
    assert volumes["expanding"][1] / volumes["expanding"][0] == pytest.approx(1.12, abs=0.03)
    assert volumes["blackhole"][1] / volumes["blackhole"][0] == pytest.approx(1, abs=0.01)


def test_the_same_seed_writes_the_same_plaques(tmp_path, plaques_dataset):
    again = tmp_path / "again"
    assert main([str(again), *PLAQUES]) == 0
    files = [str(p.relative_to(again)) for p in again.rglob("*") if p.is_file()]
    _, differ, missing = filecmp.cmpfiles(again, plaques_dataset, files, shallow=False)
    assert len(files) > 40
    assert (differ, missing) == ([], [])


def test_repetitions_and_delays_are_in_the_raw_data(imperfect_dataset):
    taken = read_kspace(imperfect_dataset / "sourcedata" / f"{ANAT}_acq-23Na_PDw.h5")
    assert np.bincount(taken.repetition).tolist() == [900, 900]
    found = estimate_delays(taken)
    np.testing.assert_allclose(found.delays, [3e-6, -2e-6, 5e-6], atol=0.4e-6)


def test_the_true_displacement_of_each_repetition_is_told(imperfect_dataset):
    table = next((imperfect_dataset / "derivatives/truth").rglob("*_motion.tsv")).read_text()
    still, moved = (float(line.split("\t")[-1]) for line in table.splitlines()[1:])
    assert still == 0
    assert 2 <= moved <= 4


def test_the_field_map_is_in_hertz_of_sodium(imperfect_dataset):
    stem = imperfect_dataset / "sub-01/fmap/sub-01_acq-23Na_fieldmap"
    told = json.loads(stem.with_name(stem.name + ".json").read_text())
    assert (told["Units"], told["ResonantNucleus"]) == ("Hz", "23Na")
    hertz = nib.load(stem.with_name(stem.name + ".nii.gz")).get_fdata()
    assert hertz.max() == pytest.approx(60, rel=0.05)


def adjoint(samples, acquisition, matrix=60):
    """Sum of the samples over k-space, each with its share of a shell found numerically."""
    radius = np.linalg.norm(acquisition.trajectory[0].astype(float), axis=-1)
    shares = 4 * np.pi * radius**2 * np.gradient(radius) / len(acquisition.trajectory)
    voxel = acquisition.geometry.fov[0] / matrix
    scaled = acquisition.trajectory.astype(float) * 2 * np.pi * voxel
    points = [np.ascontiguousarray(scaled[..., i].ravel()) for i in range(3)]
    weighted = [(s * shares).ravel().astype(complex) for s in samples]
    size = (matrix,) * 3
    return np.stack([finufft.nufft3d1(*points, w, size, isign=1, eps=1e-5) for w in weighted])


def truth_transform(folder: Path) -> np.ndarray:
    """Point of T1w space to point of sodium space [mm, RAS]."""
    found = next((folder / "derivatives/truth/sub-01").rglob("*from-sodium_to-T1w*xfm.txt"))
    line = next(t for t in found.read_text().splitlines() if t.startswith("Parameters:"))
    numbers = np.array(line.split()[1:], float)
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = numbers[:9].reshape(3, 3), numbers[9:]
    flip = np.diag([-1.0, -1, 1, 1])
    return flip @ transform @ flip


def on_sodium_grid(folder: Path, label: str, geometry) -> np.ndarray:
    """Resample the true fraction of a tissue to the nominal voxels."""
    image = nib.load(
        folder / "derivatives/truth" / f"{ANAT}_label-{label}_desc-truth_probseg.nii.gz"
    )
    smooth = ndimage.gaussian_filter(image.get_fdata(dtype=np.float32), 1.2)
    matrix = np.linalg.inv(truth_transform(folder) @ image.affine) @ geometry.affine
    return ndimage.affine_transform(smooth, matrix, output_shape=geometry.matrix, order=1)


@pytest.fixture(scope="module")
def acquisition(kspace_dataset):
    return read_kspace(kspace_dataset / "sourcedata" / f"{ANAT}_acq-23Na_PDw.h5")


@pytest.fixture(scope="module")
def combined(acquisition):
    return np.sqrt((np.abs(adjoint(acquisition.samples, acquisition)) ** 2).sum(axis=0))


def test_the_snr_is_what_was_asked(kspace_dataset, acquisition, combined):
    grey = on_sodium_grid(kspace_dataset, "GM", acquisition.geometry)
    mean = (combined * grey).sum() / grey.sum()
    ratio = acquisition.noise_dwell_time / acquisition.dwell_time
    sd = np.sqrt(ratio) * acquisition.noise.real.std()
    parts = np.random.default_rng(0).normal(0, sd, (2, 1, *acquisition.samples.shape[1:]))
    snr = mean / adjoint(parts[0] + 1j * parts[1], acquisition).real.std()
    print(f"SNR of grey matter: {snr:.1f} (asked: 20)")
    assert snr == pytest.approx(20, rel=0.1)


def test_the_sodium_image_shows_fluid_where_the_truth_has_it(
    kspace_dataset, acquisition, combined
):
    fluid, white = (on_sodium_grid(kspace_dataset, t, acquisition.geometry) for t in ("CSF", "WM"))
    assert combined[fluid > 0.9].mean() > 2 * combined[white > 0.9].mean()
    shifted = ndimage.shift(fluid, (1, 0, 0))
    aligned = np.corrcoef(combined.ravel(), fluid.ravel())[0, 1]
    assert aligned > np.corrcoef(combined.ravel(), shifted.ravel())[0, 1] + 0.05


def test_vial_labels_lie_on_the_vials_of_the_image(kspace_dataset, combined):
    labels = nib.load(
        kspace_dataset / "derivatives/manual" / f"{ANAT}_acq-23Na_desc-vials_dseg.nii.gz"
    ).get_fdata()
    means = [combined[labels == n].mean() for n in (1, 2, 4)]
    assert 1.5 * means[0] < means[1] < means[2]


def test_headers_alone_do_not_align_sodium_with_the_anatomy(kspace_dataset):
    moved = truth_transform(kspace_dataset)[:3, 3]
    assert np.linalg.norm(moved) > 1


def test_the_lesion_is_in_masks_table_and_fractions(kspace_dataset):
    table = next((kspace_dataset / "derivatives/truth").rglob("*_TSC.tsv")).read_text()
    assert [line.split("\t")[1] for line in table.splitlines()[1:]] == [
        "GM", "WM", "CSF", "core", "edema"
    ]  # fmt: skip
    for name in ("core", "edema"):
        mask = nib.load(kspace_dataset / "derivatives/manual" / f"{ANAT}_label-{name}_mask.nii.gz")
        assert mask.get_fdata().sum() > 1000


def test_segmented_anatomy_is_near_the_truth_but_not_the_truth(kspace_dataset):
    found = nib.load(kspace_dataset / "derivatives/anat" / f"{ANAT}_label-GM_probseg.nii.gz")
    true = nib.load(
        kspace_dataset / "derivatives/truth" / f"{ANAT}_label-GM_desc-truth_probseg.nii.gz"
    )
    first, second = found.get_fdata() > 0.5, true.get_fdata() > 0.5
    dice = 2 * (first & second).sum() / (first.sum() + second.sum())
    print(f"Dice of simulated segmentation in grey matter: {dice:.3f}")
    assert 0.8 < dice < 0.98


def test_a_second_session_has_the_change_that_was_asked(image_dataset):
    means = []
    for session in ("1", "2"):
        table = next(
            (image_dataset / f"derivatives/truth/sub-01/ses-{session}").rglob("*_TSC.tsv")
        )
        means.append(float(table.read_text().splitlines()[1].split("\t")[2]))
    assert means[1] / means[0] == pytest.approx(1.2, rel=1e-3)


def test_an_image_carries_what_its_point_spread_needs(image_dataset):
    stem = image_dataset / "sub-01/ses-1/anat/sub-01_ses-1_acq-23Na_PDw"
    told = json.loads(stem.with_name(stem.name + ".json").read_text())
    assert told["AcquisitionVoxelSize"] == [5, 5, 5]
    assert told["KspaceFilter"] == "none"
    assert told["MagneticFieldStrength"] == 7
    assert nib.load(stem.with_name(stem.name + ".nii.gz")).shape == (48, 48, 48)


def test_a_transmit_map_is_written_where_the_flip_angle_varies(image_dataset, kspace_dataset):
    path = image_dataset / "sub-01/ses-1/fmap/sub-01_ses-1_acq-23Na_TB1map.nii.gz"
    assert nib.load(path).get_fdata().max() > 110
    assert not list(kspace_dataset.rglob("*TB1map*"))


def test_the_receive_pair_differs_by_a_smooth_profile(kspace_dataset):
    array, volume = (
        nib.load(kspace_dataset / f"sub-01/fmap/sub-01_acq-23Na{c}_RB1COR.nii.gz").get_fdata()
        for c in ("Head", "Body")
    )
    inside = volume > 0.3 * np.percentile(volume, 99)
    ratio = (array / np.where(inside, volume, 1))[inside]
    assert np.percentile(ratio, 95) / np.percentile(ratio, 5) > 1.3


def test_the_same_seed_writes_the_same_numbers(tmp_path, kspace_dataset, acquisition):
    again = tmp_path / "again"
    assert main([str(again), *PATIENT]) == 0
    names = [str(p.relative_to(again)) for p in again.rglob("*") if p.suffix != ".h5"]
    files = [name for name in names if (again / name).is_file()]
    _, differ, missing = filecmp.cmpfiles(again, kspace_dataset, files, shallow=False)
    assert len(files) > 20
    assert (differ, missing) == ([], [])
    repeated = read_kspace(again / "sourcedata" / f"{ANAT}_acq-23Na_PDw.h5")
    assert np.array_equal(repeated.samples, acquisition.samples)
