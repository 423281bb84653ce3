"""Receive correction from a pair, a map, or nothing; flip angle from a map or a pair."""

import numpy as np
import pytest

from sodiumprep.interfaces.coil_fields import (
    AssessTransmit,
    CorrectReceive,
    CorrectTransmit,
    load_field,
    load_transmit,
)
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.sodium.smooth_field import grid_positions

AFFINE = np.diag([9.0, 9, 9, 1])
AFFINE[:3, 3] = -108
SHAPE = (24, 24, 24)
OTHER = np.diag([-8.0, 8, 8, 1])  # another grid over the same head, turned over
OTHER[:3, 3] = [100, -100, -100]


def profile(affine, shape):
    places = grid_positions(shape, affine)
    return np.exp(0.6 * np.clip(places @ [0.5, 0.7, 0.5] / 85, -1.3, 1.3)).reshape(shape)


def head(affine, shape):
    places = grid_positions(shape, affine)
    return (np.linalg.norm(places, axis=1) < 80).reshape(shape).astype(float)


def rician(seed, image):
    rng = np.random.default_rng(seed)
    return np.hypot(image + rng.normal(0, 1, image.shape), rng.normal(0, 1, image.shape))


@pytest.fixture
def files(tmp_path):
    there = profile(AFFINE, SHAPE) * head(AFFINE, SHAPE)
    here = 50 * profile(OTHER, (26, 26, 26)) * head(OTHER, (26, 26, 26))
    images = {
        "array1": (rician(1, 25 * there), AFFINE), "array2": (rician(2, 25 * there), AFFINE),
        "volume": (rician(3, 8 * head(AFFINE, SHAPE)), AFFINE),
        "image": (here, OTHER), "noise": (np.ones_like(here), OTHER),
        "map": (profile(AFFINE, SHAPE), AFFINE), "own_map": (profile(OTHER, here.shape), OTHER),
    }  # fmt: skip
    return {name: save_image(tmp_path / f"{name}.nii.gz", *both) for name, both in images.items()}


@pytest.fixture
def correct(files, run_in, tmp_path):
    def corrected(coils=4, **changes):
        interface = CorrectReceive(
            image_file=files["image"], noise_file=files["noise"], properties={"Coils": coils},
            **changes,
        )  # fmt: skip
        return run_in(interface, tmp_path / "run")

    return corrected


def uniformity(path):
    values = load_image(path)[0][head(OTHER, (26, 26, 26)) > 0]
    return values.std() / values.mean()


def test_a_pair_makes_the_head_uniform_on_another_grid(correct, files):
    outputs = correct(array_files=[files["array1"]], volume_files=[files["volume"]])
    assert uniformity(files["image"]) > 0.2
    assert uniformity(outputs.out_file) < 0.03
    assert outputs.properties["ReceiveCorrection"] == "RB1COR"
    assert not outputs.properties["ReceiveUncorrected"]


def test_repeats_of_a_pair_are_averaged(correct, files):
    outputs = correct(
        array_files=[files["array1"], files["array2"]], volume_files=[files["volume"]]
    )
    assert uniformity(outputs.out_file) < 0.03


def test_image_and_noise_are_multiplied_by_the_field_that_is_kept(correct, files):
    outputs = correct(array_files=[files["array1"]], volume_files=[files["volume"]])
    field, _ = load_image(outputs.field_file)
    np.testing.assert_allclose(load_image(outputs.noise_file)[0], field, rtol=1e-5)
    raw, done = load_image(files["image"])[0], load_image(outputs.out_file)[0]
    np.testing.assert_allclose(done, raw * field, rtol=1e-5)


def test_an_image_of_what_does_not_move_has_the_same_field(correct, files):
    outputs = correct(
        map_file=files["map"], static_image_file=files["own_map"], static_noise_file=files["noise"]
    )
    field, _ = load_image(outputs.field_file)
    expected = load_image(files["own_map"])[0] * field
    np.testing.assert_allclose(load_image(outputs.static_file)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(load_image(outputs.static_noise_file)[0], field, rtol=1e-5)


@pytest.mark.parametrize("given", [True, False])
def test_where_nothing_moved_there_is_no_second_image(correct, files, given):
    same = {"static_image_file": files["image"], "static_noise_file": files["noise"]}
    outputs = correct(map_file=files["map"], **(same if given else {}))
    assert outputs.static_file == outputs.out_file
    assert outputs.static_noise_file == outputs.noise_file


def test_the_fitted_field_survives_its_file(correct, files):
    outputs = correct(array_files=[files["array1"]], volume_files=[files["volume"]])
    model = load_field(outputs.model_file)
    field, affine = load_image(outputs.field_file)
    again = model(grid_positions(field.shape, affine)).reshape(field.shape)
    np.testing.assert_allclose(again, field, rtol=1e-4)


@pytest.mark.parametrize("name", ["map", "own_map"])
def test_a_map_makes_the_head_uniform_on_any_grid(correct, files, name):
    outputs = correct(map_file=files[name])
    assert uniformity(outputs.out_file) < 0.02
    assert outputs.properties["ReceiveCorrection"] == "RB1map"
    assert outputs.model_file is None


def test_a_map_on_the_grid_of_the_image_corrects_up_to_the_edge(correct, files):
    field, _ = load_image(correct(map_file=files["own_map"]).field_file)
    expected = 1 / profile(OTHER, (26, 26, 26))
    np.testing.assert_allclose(
        field / field[13, 13, 13], expected / expected[13, 13, 13], rtol=1e-4
    )


@pytest.mark.parametrize(("coils", "flagged"), [(4, True), (1, False), (0, True)])
def test_several_or_unknown_coils_without_data_are_flagged_not_corrected(
    correct, files, coils, flagged
):
    outputs = correct(coils=coils)
    assert outputs.properties["ReceiveUncorrected"] is flagged
    np.testing.assert_array_equal(load_image(outputs.out_file)[0], load_image(files["image"])[0])


def test_repeats_on_two_grids_are_refused_with_the_file(correct, files):
    with pytest.raises(ValueError, match=r"image.nii.gz: another grid than .*array1"):
        correct(array_files=[files["array1"], files["image"]], volume_files=[files["volume"]])


def test_the_uncertainty_of_the_field_is_a_map_on_the_grid_of_the_image(correct, files):
    outputs = correct(array_files=[files["array1"]], volume_files=[files["volume"]])
    stated, affine = load_image(outputs.uncertainty_file)
    np.testing.assert_allclose(affine, OTHER)
    inside = head(OTHER, (26, 26, 26)) > 0
    left = np.log(load_image(outputs.out_file)[0][inside])
    left -= left.mean()
    assert 0.5 < np.sqrt(np.mean((left / stated[inside]) ** 2)) < 1.5
    assert stated[0, 0, 0] > 2 * np.median(stated[inside])
    assert outputs.properties["ReceiveSmoothness"]["ShortestWave_mm"] in (90.0, 120.0, 170.0)
    assert outputs.properties["ReceiveSmoothness"]["HeldOutError"] < 0.1


def test_without_a_fit_there_is_no_uncertainty(correct, files):
    assert correct(map_file=files["map"]).uncertainty_file is None
    assert correct().uncertainty_file is None


@pytest.mark.parametrize(("scale", "warned"), [(1.0, 0), (1.05, 1)])
def test_repeats_that_disagree_are_told(correct, files, tmp_path, scale, warned):
    there = 25 * scale * profile(AFFINE, SHAPE) * head(AFFINE, SHAPE)
    other = save_image(tmp_path / "other.nii.gz", rician(9, there), AFFINE)
    outputs = correct(array_files=[files["array1"], other], volume_files=[files["volume"]])
    found = outputs.properties["ReceiveRepeatAgreement"]
    assert found["MeanRatio"] == pytest.approx(scale, abs=0.005)
    assert found["Displacement_mm"] < 0.5
    told = outputs.properties["Warnings"]
    assert sum("other.nii.gz" in t and "in the mean" in t for t in told) == len(told) == warned


def test_motion_between_repeats_is_told(correct, files, tmp_path):
    away = AFFINE.copy()
    away[0, 3] -= 3
    there = 25 * profile(AFFINE, SHAPE) * head(away, SHAPE)
    other = save_image(tmp_path / "other.nii.gz", rician(9, there), AFFINE)
    outputs = correct(array_files=[files["array1"], other], volume_files=[files["volume"]])
    assert outputs.properties["ReceiveRepeatAgreement"]["Displacement_mm"] > 1
    assert any("between repeats of the array image" in t for t in outputs.properties["Warnings"])


def test_a_volume_image_on_another_grid_serves_where_it_reaches(correct, files, tmp_path):
    smaller, shape = np.diag([-8.0, 8, 8, 1]), (26, 26, 20)
    smaller[:3, 3] = [100, -100, -60]  # it ends inside the head
    volume = rician(4, 8 * head(smaller, shape))
    volume[:6, :6], volume[-6:, -6:] = rician(5, np.zeros((2, 6, 6, 20)))
    path = save_image(tmp_path / "volume.nii.gz", volume, smaller)
    outputs = correct(array_files=[files["array1"]], volume_files=[path])
    assert uniformity(outputs.out_file) < 0.08


@pytest.mark.parametrize("name", ["array", "volume"])
def test_an_image_of_zeros_or_without_background_is_refused_by_name(
    correct, files, tmp_path, name
):
    given = {"array": files["array1"], "volume": files["volume"]}
    for values, message in ((0 * head(AFFINE, SHAPE), "every voxel is 0"),
                            (head(AFFINE, SHAPE), "background voxels")):  # fmt: skip
        bad = given | {name: save_image(tmp_path / "bad.nii.gz", values, AFFINE)}
        with pytest.raises(ValueError, match=f"bad.nii.gz: .*{message}"):
            correct(array_files=[bad["array"]], volume_files=[bad["volume"]])


def test_a_pair_without_signal_is_refused(correct, files, tmp_path):
    noise = save_image(tmp_path / "empty.nii.gz", rician(5, np.zeros(SHAPE)), AFFINE)
    with pytest.raises(ValueError, match="empty.nii.gz: only .* exceed 3 noise SDs"):
        correct(array_files=[noise], volume_files=[files["volume"]])


FLIP, REPETITION = np.pi / 2, 0.06
PROTOCOL = {"echo_time": 3e-4, "repetition_time": REPETITION, "flip_angle": FLIP}
FLUID_T1 = 0.058


def flip_angle(affine, shape):
    """Return a dome that is 15 % too low at the rim of the head, and leans to a side."""
    places = grid_positions(shape, affine)
    dome = 1.05 * np.exp(-0.21 * np.sum(places**2, axis=1) / 80**2)
    return (dome * (1 + 0.03 * places[:, 0] / 80)).reshape(shape)


def steady_state(angle, repetition_time, t1):
    """Return the signal of a spoiled sequence, from its magnetization before each pulse."""
    along = 1.0
    for _ in range(200):
        along = 1 - (1 - along * np.cos(angle)) * np.exp(-repetition_time / t1)
    return along * np.sin(angle)


@pytest.fixture
def flips(tmp_path):
    small = 0.7
    first, second = (
        200 * head(AFFINE, SHAPE) * steady_state(n * small * flip_angle(AFFINE, SHAPE), 0.3, 0.037)
        for n in (1, 2)
    )
    here = flip_angle(OTHER, (26, 26, 26))
    images = {
        "percent": (100 * flip_angle(AFFINE, SHAPE), AFFINE),
        "first": (rician(6, first), AFFINE), "second": (rician(7, second), AFFINE),
        "grey": (50 * steady_state(FLIP * here, REPETITION, 0.037), OTHER),
        "one": (np.ones_like(here), OTHER),
    }  # fmt: skip
    saved = {name: save_image(tmp_path / f"{name}.nii.gz", *both) for name, both in images.items()}
    ways = {
        "map": {"map_file": saved["percent"], "units": "percent"},
        "pair": {"angle_files": [saved["first"], saved["second"]], "flip_angle": small,
                 "repetition_time": 0.3},
    }  # fmt: skip
    return saved | ways


@pytest.fixture
def unflip(flips, run_in, tmp_path):
    def corrected(way="map", **changes):
        return run_in(
            CorrectTransmit(
                image_file=flips["grey"], noise_file=flips["one"], field_file=flips["one"],
                properties={}, protocol=PROTOCOL, **{**flips[way], **changes},
            ),
            tmp_path / "transmit",
        )  # fmt: skip

    return corrected


@pytest.mark.parametrize("way", ["map", "pair"])
def test_tissue_of_uneven_flip_angle_becomes_uniform(unflip, flips, way):
    inside = head(OTHER, (26, 26, 26)) > 0
    assert uniformity(flips["grey"]) > 0.008
    outputs = unflip(way)
    values = load_image(outputs.out_file)[0][inside]
    expected = 50 * steady_state(FLIP, REPETITION, 0.037)
    np.testing.assert_allclose(values, expected, rtol=0.01)
    assert values.std() / values.mean() < 0.002
    percent = load_image(outputs.flip_file)[0][inside]
    np.testing.assert_allclose(percent, 100 * flip_angle(OTHER, (26, 26, 26))[inside], rtol=0.03)
    assert outputs.properties["TransmitCorrection"] == {"map": "TB1map", "pair": "TB1DAM"}[way]


def test_noise_and_the_factor_of_all_corrections_follow_the_image(unflip, flips):
    outputs = unflip()
    gain = load_image(outputs.out_file)[0] / load_image(flips["grey"])[0]
    for name in ("noise_file", "field_file"):
        np.testing.assert_allclose(load_image(getattr(outputs, name))[0], gain, rtol=1e-5)
    assert outputs.static_file == outputs.out_file


def test_an_image_of_what_lies_still_is_corrected_too(unflip, flips):
    outputs = unflip(static_file=flips["one"], static_noise_file=flips["one"])
    gain = load_image(outputs.field_file)[0]
    np.testing.assert_allclose(load_image(outputs.static_file)[0], gain, rtol=1e-5)


def test_what_is_left_for_another_t1_joins_its_region(unflip, flips, run_in, tmp_path):
    shape = (26, 26, 26)
    rim = (np.linalg.norm(grid_positions(shape, OTHER), axis=1) > 65).reshape(shape)
    inside = head(OTHER, shape)
    path = tmp_path / "regions.npz"
    np.savez(path, names=["GM", "CSF", "air"], kinds=["tissue", "tissue", "background"],
             fractions=np.stack([inside * ~rim, inside * rim, 1 - inside]))  # fmt: skip
    corrected = unflip()
    assess = AssessTransmit(
        model_file=corrected.model_file, image_file=flips["grey"], regions_file=str(path),
        tissues={"GM": {"t1": 0.037}, "CSF": {"t1": FLUID_T1}}, protocol=PROTOCOL,
    )  # fmt: skip
    found = load_transmit(run_in(assess, tmp_path / "assess").transmit_file)
    assert found.factor("GM") == pytest.approx(1, abs=1e-6)
    fluid = steady_state(FLIP * flip_angle(OTHER, shape), REPETITION, FLUID_T1)
    seen = fluid * load_image(corrected.field_file)[0]
    expected = np.average(seen, weights=inside * rim) / steady_state(FLIP, REPETITION, FLUID_T1)
    assert abs(expected - 1) > 0.01
    assert found.factor("CSF") == pytest.approx(expected, rel=0.003)
    before = np.average(fluid, weights=inside * rim)
    assert found.undone("CSF") == pytest.approx(before / np.average(seen, weights=inside * rim),
                                                rel=0.003)  # fmt: skip
    assert found.uncertainty(["GM", "CSF"], ["CSF"])[1] == pytest.approx(0, abs=1e-9)
    assert 0 < found.uncertainty(["GM", "CSF"], ["CSF"])[0] < 0.02


@pytest.mark.parametrize(
    ("scale", "units", "message"),
    [
        (
            1.0,
            "percent",
            r"flip.nii.gz: the median .* 20 to 300 .percent.; .* set \"Units\": \"1\"",
        ),
        (100.0, "1", r"the median .* is \d+.*; accepted: 0.2 to 3 .ratio."),
        (100.0, "degree", "Units of the transmit map is 'degree'; accepted: percent"),
        (0.0, "percent", "only 0 voxels of the transmit map are above 0"),
        (28.0, "percent", "the flip angle over nominal runs from .* accepted: 0.3 to 2"),
    ],
)
def test_a_map_in_another_unit_is_refused(unflip, tmp_path, scale, units, message):
    values = scale * flip_angle(AFFINE, SHAPE)
    path = save_image(tmp_path / "flip.nii.gz", values, AFFINE)
    with pytest.raises(ValueError, match=message):
        unflip(map_file=path, units=units)


def test_holes_of_a_map_are_filled(unflip, flips, tmp_path):
    values = 100 * flip_angle(AFFINE, SHAPE)
    values[9:13, 6:16, 8:14] = 0
    values[3, :, :] = np.nan
    path = save_image(tmp_path / "holes.nii.gz", values, AFFINE)
    filled, whole = load_image(unflip(map_file=path).flip_file)[0], load_image(unflip().flip_file)
    np.testing.assert_allclose(filled, whole[0], atol=1.0)


def test_a_pair_without_signal_or_on_two_grids_is_refused(unflip, flips, tmp_path):
    dark = save_image(tmp_path / "dark.nii.gz", rician(8, np.zeros(SHAPE)), AFFINE)
    with pytest.raises(ValueError, match="dark.nii.gz: only .* exceed 5 noise SDs"):
        unflip("pair", angle_files=[dark, flips["second"]])
    with pytest.raises(ValueError, match=r"grey.nii.gz: another grid than .*first"):
        unflip("pair", angle_files=[flips["first"], flips["grey"]])


@pytest.fixture
def reciprocal(flips, run_in, tmp_path):
    """Correct an image that the coil of the flip angle receives, by that flip angle."""
    shape = (26, 26, 26)
    received = 50 * head(OTHER, shape) * flip_angle(OTHER, shape)
    image = save_image(tmp_path / "received.nii.gz", received, OTHER)

    def corrected(coils=1, way="map", **changes):
        names = {"map_file": "transmit_map_file", "units": "transmit_units"}
        given = {names.get(name, name): value for name, value in flips[way].items()}
        return image, run_in(
            CorrectReceive(
                image_file=image, noise_file=flips["one"], properties={"Coils": coils},
                reciprocity_uncertainty=0.02, **given, **changes,
            ),
            tmp_path / "reciprocal",
        )  # fmt: skip

    return corrected


@pytest.mark.parametrize(("way", "rest"), [("map", 0.003), ("pair", 0.01)])
def test_the_coil_that_transmits_receives_alike(reciprocal, way, rest):
    image, outputs = reciprocal(way=way)
    assert uniformity(image) > 0.05
    assert uniformity(outputs.out_file) < rest
    assert outputs.properties["ReceiveCorrection"] == "reciprocity"
    assert not outputs.properties["ReceiveUncorrected"]


def test_reciprocity_is_as_uncertain_as_is_stated(reciprocal):
    _, outputs = reciprocal()
    inside = head(OTHER, (26, 26, 26)) > 0
    spread = load_image(outputs.uncertainty_file)[0][inside]
    assert 0.008 < np.sqrt(np.mean(spread**2)) < 0.04
    factor = load_image(outputs.field_file)[0]
    field = load_field(outputs.model_file)(grid_positions(factor.shape, OTHER))
    np.testing.assert_allclose(field.reshape(factor.shape), factor, rtol=1e-5)


def test_reciprocity_is_never_applied_to_an_array(reciprocal):
    image, outputs = reciprocal(coils=4)
    assert outputs.properties["ReceiveCorrection"] == "none"
    assert outputs.properties["ReceiveUncorrected"]
    assert "4 coils receive" in outputs.properties["Warnings"][0]
    np.testing.assert_array_equal(load_image(outputs.out_file)[0], load_image(image)[0])
    with pytest.raises(ValueError, match="--receive reciprocity: 4 coils receive"):
        reciprocal(coils=4, reciprocity_needed=True)
