"""Eyes from files: found through the transform, told in the QC file, and turned into regions."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from sodiumprep.interfaces.calibrate import Calibrate, load_lines
from sodiumprep.interfaces.concentration import TabulateRegions
from sodiumprep.interfaces.eyes import FindEyes, eyes_from, sodium_to_anatomy
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.pvc import CorrectPartialVolume, load_signals, save_signals
from sodiumprep.interfaces.reconstruct import save_response
from sodiumprep.interfaces.regions import SampleRegions
from sodiumprep.interfaces.registration import write_transform
from sodiumprep.sodium.acquisition import LPS_TO_RAS, Geometry
from sodiumprep.sodium.kernel import Response, gaussian_transfer
from sodiumprep.sodium.noise import normalized_spectrum
from sodiumprep.sodium.regions import blur_to_grid, fine_affine
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.signal import relaxation_factor

# fine enough for the eyes of a head whose axes are those of the anatomy, not of the sodium image
FWHM, VOXEL, N = 7e-3, 4.0, 52
TURN = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
SODIUM = Geometry(np.array([3.0, -14.0, 18.0]), TURN, (VOXEL * 1e-3 * N,) * 3, (N, N, N))
EYES = np.array([[-31.0, 72.0, -34.0], [33.0, 74.0, -36.0]])  # anatomy, RAS [mm]
RADIUS = 11.5
CONTENT = {"GM": 42.0, "WM": 37.0, "CSF": 140.0, "vitreous": 132.0, "orbit": 12.0, "scalp": 25.0}
PROTOCOL = {"echo_time": 0.3e-3, "repetition_time": 0.12, "flip_angle": np.pi / 2}
TISSUES = {name: relaxation_of(name, 3.0) for name in ("GM", "WM", "CSF", "muscle", "vitreous")}
LEVELS = {  # signal for a slope of 1
    name: value * relaxation_factor(TISSUES.get(name, TISSUES["muscle"]), *PROTOCOL.values())
    for name, value in CONTENT.items()
}


@pytest.fixture(scope="module")
def pose():
    """Return points of the anatomy to points of sodium [mm, LPS]."""
    matrix = np.eye(4)
    matrix[:3, :3] = TURN.T
    matrix[:3, 3] = [5.0, -7.0, 12.0]
    return matrix


def positions(shape, affine):
    """Return where voxels lie, shape (3, *shape) [mm, RAS]."""
    x, y, z = np.ogrid[tuple(slice(n) for n in shape)]
    rows = affine[:3].astype(np.float32)
    return np.stack([a * x + b * y + (c * z + d) for a, b, c, d in rows])


def inside(places, centre, radii):
    away = (((p - c) / r) ** 2 for p, c, r in zip(places, np.float32(centre), radii, strict=True))
    return sum(away) <= 1


@pytest.fixture(scope="module")
def scene(tmp_path_factory, pose):
    """Write a head of ellipsoids with eyes in fat; the image is blurred from a fine grid."""
    folder = tmp_path_factory.mktemp("eyes")
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = [-95.0, -125.0, -120.0]
    anatomy, parts = paint(positions((77, 96, 90), affine))
    files = {f"{name}_file": save_image(folder / f"{name}.nii.gz", values, affine)
             for name, values in anatomy.items()}  # fmt: skip
    kernel = gaussian_transfer(SODIUM, np.full(3, FWHM)).astype(np.complex64)
    spectrum = normalized_spectrum(np.abs(kernel) ** 2, (*kernel.shape[:2], 2 * N))
    response = Response(dict.fromkeys(("GM", "WM", "CSF", "muscle"), kernel), spectrum)
    fine = fine_affine(SODIUM.affine, 3)
    there = sodium_to_anatomy(fine, pose)
    _, parts = paint(positions((3 * N,) * 3, there))
    sharp = sum(LEVELS[name] * part for name, part in parts.items()).astype(np.float32)
    noise = np.random.default_rng(3).normal(0, 0.5, (N, N, N))
    image = blur_to_grid(sharp, 3, kernel) + noise
    return {
        **files,
        "sodium_file": save_image(folder / "sodium.nii.gz", image, SODIUM.affine),
        "noise_file": save_image(
            folder / "sd.nii.gz", np.full(image.shape, 0.5, np.float32), SODIUM.affine
        ),
        "xfm_file": write_transform(folder / "xfm.txt", pose),
        "response_file": save_response(folder / "response.npz", response),
        "tissues": {name: asdict(constants) for name, constants in TISSUES.items()},
        "properties": {"PointSpreadFWHM": dict.fromkeys(response.transfers, [7.0] * 3),
                       "PointSpreadUncertainty": 0.02, "RegistrationSpread": 0.3,
                       "ReceiveUncorrected": False},
    }  # fmt: skip


def paint(places):
    """Return the files of an anatomy, and what each voxel is made of."""
    brain = inside(places, (0, -15, 5), (66, 82, 62)) | inside(places, (0, -60, -40), (45, 35, 30))
    head = inside(places, (0, -15, 8), (77, 94, 74)) | inside(places, (0, 40, -52), (58, 49, 62))
    csf = inside(places, (0, -15, 12), (20, 32, 14)) & brain
    white = inside(places, (0, -15, 8), (52, 66, 46)) & brain & ~csf
    eyes, lenses, fat = (np.zeros(head.shape, bool) for _ in range(3))
    for centre in EYES:
        eyes |= inside(places, centre, (RADIUS,) * 3)
        lenses |= inside(places, np.add(centre, [0, 6.2, 0]), (4.4, 2.1, 4.4))
        fat |= inside(places, centre, (RADIUS + 8,) * 3) & head & ~brain
    parts = {
        "CSF": csf, "WM": white, "GM": brain & ~csf & ~white, "vitreous": eyes & ~lenses,
        "orbit": (fat & ~eyes) | lenses, "scalp": head & ~brain & ~fat & ~eyes,
    }  # fmt: skip
    proton = 0.9 * brain + 0.6 * parts["scalp"] + 1.2 * (fat & ~eyes) + 0.15 * eyes
    soft = {name: part.astype(np.float32) for name, part in parts.items()}
    anatomy = {
        "gm": soft["GM"], "wm": soft["WM"], "csf": soft["CSF"], "anat": proton,
        "brain": brain.astype(np.uint8), "head": (head | eyes).astype(np.uint8),
    }  # fmt: skip
    return anatomy, soft


def find(scene, **changes):
    inputs = {k: scene[k] for k in ("sodium_file", "response_file", "xfm_file", "anat_file")}
    inputs |= {"brain_mask": scene["brain_file"], "head_mask": scene["head_file"]}
    return FindEyes(**{**inputs, "properties": scene["properties"], **changes})


@pytest.fixture(scope="module")
def found(scene, run_in, tmp_path_factory):
    return run_in(find(scene), tmp_path_factory.mktemp("found"))


def test_a_voxel_lies_in_the_anatomy_where_the_transform_says(pose):
    place = np.array([12.0, -30.0, 21.0])  # anatomy, RAS
    in_sodium = LPS_TO_RAS @ (pose @ [*(LPS_TO_RAS @ place), 1])[:3]
    index = np.linalg.inv(SODIUM.affine) @ [*in_sodium, 1]
    np.testing.assert_allclose((sodium_to_anatomy(SODIUM.affine, pose) @ index)[:3], place)


def test_eyes_are_found_through_the_transform_and_told(found):
    np.testing.assert_allclose(found.eyes["centres"], EYES, atol=0.8)
    np.testing.assert_allclose(found.eyes["radii"], RADIUS, atol=0.4)
    told = found.properties["Eyes"]
    assert told["Found"] is True
    np.testing.assert_allclose(told["Centres"], found.eyes["centres"], atol=0.01)
    assert found.properties["RegistrationSpread"] == 0.3
    np.testing.assert_array_equal(eyes_from(found.eyes).eyes[1].centre, found.eyes["centres"][1])


@pytest.fixture(scope="module")
def eyeless(scene, tmp_path_factory):
    values, affine = load_image(scene["sodium_file"])
    folder = tmp_path_factory.mktemp("eyeless")
    return save_image(folder / "eyeless.nii.gz", np.minimum(values, 20.0), affine)


def test_without_eyes_the_reason_is_told(scene, eyeless, run_in, tmp_path):
    none = run_in(find(scene, sodium_file=eyeless), tmp_path)
    assert none.eyes == {}
    assert none.properties["Eyes"]["Found"] is False
    assert none.properties["Eyes"]["Reason"]


def test_eyes_that_are_needed_and_not_found_are_an_error_with_the_file(scene, eyeless, tmp_path):
    with pytest.raises(ValueError, match=r"eyeless.nii.gz: --reference vitreous: .*; accepted"):
        find(scene, sodium_file=eyeless, needed=True).run(cwd=str(tmp_path))


@pytest.fixture(scope="module")
def regions(scene, found, run_in, tmp_path_factory):
    def sampled(**changes):
        inputs = {k: scene[k] for k in ("sodium_file", "xfm_file", "gm_file", "wm_file",
                                        "csf_file", "response_file")}  # fmt: skip
        inputs |= {"brain_mask": scene["brain_file"], "head_mask": scene["head_file"]}
        made = SampleRegions(**inputs, **changes)
        return run_in(made, tmp_path_factory.mktemp("regions")).regions_file

    return sampled


@pytest.fixture(scope="module")
def with_eyes(regions, found):
    return regions(eyes=found.eyes, border_shift=0.5)


def test_the_vitreous_is_a_region_after_the_tissues_and_the_sum_stays_one(with_eyes, regions):
    with np.load(with_eyes) as stored, np.load(regions()) as plain:
        names, kinds = stored["names"].tolist(), stored["kinds"].tolist()
        assert names[3:5] == ["vitreous", "orbit"]
        assert kinds[3:5] == ["reference", "background"]
        np.testing.assert_allclose(stored["fractions"].sum(axis=0), 1.0, atol=1e-4)
        np.testing.assert_array_equal(stored["fractions"][:3], plain["fractions"][:3])
        assert "vitreous" not in plain["names"]
        volume = stored["fractions"][3].sum() * VOXEL**3
        lens = 4 / 3 * np.pi * 2.2 * 4.6**2 * (RADIUS / 12) ** 3
        ball = 4 / 3 * np.pi * RADIUS**3
        assert volume == pytest.approx(2 * (ball - lens), rel=0.1)
        assert stored["blurred"][3].sum() == pytest.approx(stored["fractions"][3].sum(), rel=0.01)
        assert len(stored["volumes_ml"]) == len(stored["coverage"]) == 3  # of the tissues


def test_the_border_of_the_vitreous_may_err_as_those_of_tissues(with_eyes):
    with np.load(with_eyes) as stored:
        names = stored["names"].tolist()
        grown, shrunk = ([names[k] for k in stored[f"border_{n}"]] for n in ("grown", "shrunk"))
        pairs = list(zip(grown, shrunk, strict=True))
    assert ("vitreous", "orbit") in pairs
    assert ("GM", "WM") in pairs
    assert "orbit" not in grown


def test_a_lesion_that_takes_the_name_of_the_eyes_is_refused(regions, found, scene):
    with pytest.raises(ValueError, match="a region has the name 'vitreous'"):
        regions(eyes=found.eyes, lesion_files={"vitreous": scene["wm_file"]})


@pytest.fixture(scope="module")
def signals_file(scene, with_eyes, run_in, tmp_path_factory):
    correct = CorrectPartialVolume(
        image_file=scene["sodium_file"], noise_file=scene["noise_file"], regions_file=with_eyes,
        response_file=scene["response_file"], properties=scene["properties"], sensitivity=True,
    )  # fmt: skip
    return run_in(correct, tmp_path_factory.mktemp("pvc")).signals_file


def test_the_transfer_matrix_gives_the_signal_of_the_vitreous(signals_file, with_eyes):
    with np.load(with_eyes) as stored:
        names = stored["names"].tolist()
    signals = load_signals(signals_file)["gtm"]
    k = names.index("vitreous")
    known = {name: float(signals.values[names.index(name)]) for name in TISSUES if name in names}
    print(known)
    assert known["vitreous"] == pytest.approx(LEVELS["vitreous"], rel=0.05)
    for name in ("GM", "WM", "CSF"):
        assert known[name] == pytest.approx(LEVELS[name], rel=0.05)
    spread = np.linalg.norm(signals.border_changes[:, k]) / signals.values[k]
    assert abs(known["vitreous"] / LEVELS["vitreous"] - 1) < 3 * spread
    assert 0.01 < spread < 0.15


@pytest.fixture
def calibrate(scene, with_eyes, signals_file, run_in, tmp_path):
    def calibrated(**changes):
        inputs = {
            "static_file": scene["sodium_file"], "static_noise_file": scene["noise_file"],
            "regions_file": with_eyes, "signals_file": signals_file, "protocol": PROTOCOL,
            "tissues": scene["tissues"], "properties": scene["properties"],
        }  # fmt: skip
        made = Calibrate(**{**inputs, **changes})
        return run_in(made, tmp_path / "calibrate").calibration_file

    return calibrated


@pytest.mark.parametrize("reference", ["csf", "vitreous"])
def test_each_fluid_calibrates_by_what_it_is_assumed_to_hold(calibrate, reference):
    true = {"csf": (CONTENT["CSF"], 5.0), "vitreous": (CONTENT["vitreous"], 10.0)}
    lines, extra = load_lines(calibrate(reference=reference, assumed=true))
    assert lines["corrected"].slope == pytest.approx(1.0, rel=0.05)
    assert extra["reference"] == reference
    assert extra["assumed"] == list(true[reference])
    other = "csf" if reference == "vitreous" else "vitreous"
    compared = extra["References"][other]
    assert compared["RatioToChosen"] == pytest.approx(1.0, abs=2 * compared["RatioUncertainty"])
    assert extra["References"][reference]["RatioUncertainty"] == 0
    assert extra["ReferenceWarnings"] == []


def test_the_slope_of_a_fluid_is_as_uncertain_as_its_parts(calibrate, signals_file):
    sure = {"csf": (140.0, 0.0), "vitreous": (132.0, 0.0)}
    less = {"csf": (140.0, 0.0), "vitreous": (132.0, 13.2)}
    u = [load_lines(calibrate(reference="vitreous", assumed=a))[1]["References"]["vitreous"]
         for a in (sure, less)]  # fmt: skip
    relative = [known["SlopeUncertainty"] / known["Slope"] for known in u]
    assert relative[1] == pytest.approx(np.hypot(relative[0], 0.1), rel=1e-6)
    assert relative[0] > 0.02  # relaxation constants and the border alone


def test_fluids_that_contradict_each_other_are_told(calibrate):
    wrong = {"csf": (140.0, 2.0), "vitreous": (60.0, 2.0)}
    _, extra = load_lines(calibrate(reference="csf", assumed=wrong))
    (told,) = extra["ReferenceWarnings"]
    assert told.startswith("the references disagree: vitreous gives 2.")
    assert extra["References"]["vitreous"]["RatioToChosen"] == pytest.approx(132 / 60, rel=0.05)


def test_another_reference_that_cannot_be_read_does_not_stop_the_one_that_calibrates(
    calibrate, signals_file, with_eyes, tmp_path
):
    with np.load(with_eyes) as stored:
        k = stored["names"].tolist().index("vitreous")
    signals = load_signals(signals_file)
    signals["gtm"].values[k] = -3.0
    path = save_signals(tmp_path / "negative.npz", signals)
    lines, extra = load_lines(calibrate(reference="csf", signals_file=path))
    assert lines["corrected"].slope > 0
    assert "must be positive" in extra["References"]["vitreous"]["Problem"]
    with pytest.raises(ValueError, match="must be positive"):
        calibrate(reference="vitreous", signals_file=path)


@pytest.fixture
def table(scene, with_eyes, signals_file, calibrate, run_in, tmp_path):
    made = TabulateRegions(
        image_file=scene["sodium_file"], noise_file=scene["noise_file"], regions_file=with_eyes,
        signals_file=signals_file, tissues=scene["tissues"], protocol=PROTOCOL,
        properties=scene["properties"],
        calibration_file=calibrate(reference="vitreous", assumed={"csf": (145.0, 5.0),
                                                                 "vitreous": (132.0, 10.0)}),
    )  # fmt: skip
    path = run_in(made, tmp_path / "table").table_file
    return pd.read_csv(path, sep="\t", na_values="n/a")


def test_the_vitreous_calibrates_the_table_and_has_no_row(table, signals_file, with_eyes):
    found = table[(table.pvc == "gtm") & (table.desc == "corrected")].set_index("name")
    assert list(found.index) == ["GM", "WM", "CSF"]
    for name in found.index:
        assert found["mean"][name] == pytest.approx(CONTENT[name], rel=0.06)
        assert found["ci_low"][name] < CONTENT[name] < found["ci_high"][name]
    np.testing.assert_allclose(found["u_calibration"] / found["mean"], 10 / 132, rtol=0.01)
    with np.load(with_eyes) as stored:
        k = stored["names"].tolist().index("vitreous")
    signals = load_signals(signals_file)["gtm"]
    border = np.linalg.norm(signals.border_changes[:, k]) / signals.values[k]
    assert found["u_segmentation"]["WM"] > 0.9 * border * found["mean"]["WM"]
    # fluids have constants of one origin, but are taken to err apart
    assert found["u_relaxation"]["CSF"] > 0
    assert (found["change_segmentation_0.5mm"] > 0).all()
