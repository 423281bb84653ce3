"""Receive correction from a pair, from a map, or from nothing."""

import numpy as np
import pytest

from sodiumprep.interfaces.coil_fields import CorrectReceive, load_field
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.sodium.coil_fields import grid_positions

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


def test_a_pair_without_signal_is_refused(correct, files, tmp_path):
    noise = save_image(tmp_path / "empty.nii.gz", rician(5, np.zeros(SHAPE)), AFFINE)
    with pytest.raises(ValueError, match="exceed 3 noise SDs"):
        correct(array_files=[noise], volume_files=[files["volume"]])
