"""Interfaces of the 1H anatomy on a head built around the embedded template."""

from __future__ import annotations

from pathlib import Path

import ants
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sodiumprep.interfaces import anatomy
from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.sodium.brain import head_model

CH2 = Path("/usr/share/mricron/templates")
POSE = Rotation.from_euler("xyz", [14, -6, 9], degrees=True).as_matrix()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write a head at 3 mm in a pose of its own, biased and noisy, with its brain mask."""
    folder = tmp_path_factory.mktemp("head")
    model = head_model(*anatomy._template("template", 3))
    affine = np.eye(4)
    affine[:3, :3] = POSE
    affine[:3, 3] = [20, -15, 40]
    affine = affine @ model.affine
    rng = np.random.default_rng(0)
    ramp = np.linspace(0.75, 1.35, model.intensity.shape[0])[:, None, None]
    image = 800 * model.intensity * ramp + rng.normal(0, 8, model.intensity.shape)
    lesion = np.zeros(model.brain.shape, np.uint8)
    lesion[30:34, 40:44, 40:44] = 1
    written = {"image": np.abs(image), "mask": model.brain, "lesion": lesion}
    return {
        name: save_image(folder / f"{name}.nii.gz", part, affine) for name, part in written.items()
    }


def in_folder(folder: Path, name: str, **inputs: object) -> object:
    """Run an interface in a folder and return its outputs, all of which must be set."""
    folder.mkdir(exist_ok=True)
    outputs = getattr(anatomy, name)(**inputs).run(cwd=str(folder)).outputs
    assert all(value is not None for value in outputs.get().values())
    assert set(outputs.get_traitsfree()) == set(outputs.copyable_trait_names())
    return outputs


def same_grid(first: str, second: str) -> bool:
    (one, affine), (two, other) = load_image(first), load_image(second)
    return one.shape == two.shape and np.allclose(affine, other, atol=1e-4)


def dice(first: str, second: str) -> float:
    one, two = load_image(first)[0] > 0.5, load_image(second)[0] > 0.5
    return 2 * (one & two).sum() / (one.sum() + two.sum())


@pytest.fixture(scope="module")
def levelled(head: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("level")
    return in_folder(folder, "BiasCorrect", in_file=head["image"], sloppy=True).out_file


@pytest.fixture(scope="module")
def normalized(head: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("normalize")
    files = {"in_file": head["image"], "mask_file": head["mask"], "lesion_file": head["lesion"]}
    return in_folder(folder, "Normalize", **files, sloppy=True)


def test_bias_correction_flattens_the_ramp(head: dict[str, str], levelled: str) -> None:
    assert same_grid(levelled, head["image"])
    mask = load_image(head["mask"])[0] > 0.5
    sides = np.indices(mask.shape)[0] > mask.shape[0] // 2
    ratios = [
        np.median(image[mask & sides]) / np.median(image[mask & ~sides])
        for image in (load_image(head["image"])[0], load_image(levelled)[0])
    ]
    assert abs(ratios[1] - 1) < 0.3 * abs(ratios[0] - 1)


@pytest.mark.slow
def test_the_brain_of_a_tilted_whole_head_is_found(
    levelled: str, head: dict[str, str], tmp_path: Path
) -> None:
    outputs = in_folder(tmp_path, "BrainExtract", in_file=levelled)
    assert dice(outputs.mask_file, head["mask"]) > 0.93
    assert outputs.warning == ""
    assert same_grid(outputs.mask_file, head["image"])


def test_a_given_brain_mask_is_used_as_it_is(head: dict[str, str], tmp_path: Path) -> None:
    files = {"in_file": head["image"], "mask_file": head["mask"]}
    outputs = in_folder(tmp_path, "BrainExtract", **files)
    assert dice(outputs.mask_file, head["mask"]) == 1
    assert dice(outputs.inner_mask, head["mask"]) == 1
    assert outputs.brain_volume_ml == pytest.approx(1900, rel=0.1)


def test_an_implausible_brain_volume_is_a_warning(head: dict[str, str], tmp_path: Path) -> None:
    files = {"in_file": head["image"], "mask_file": head["lesion"]}
    assert "ml" in in_folder(tmp_path, "BrainExtract", **files).warning


def test_the_age_decides_which_volume_is_plausible(head: dict[str, str], tmp_path: Path) -> None:
    files = {"in_file": head["image"], "mask_file": head["mask"], "age": 0.1}
    assert "at 0.1 years" in in_folder(tmp_path, "BrainExtract", **files).warning


def test_an_ordinary_image_keeps_its_background(head: dict[str, str], tmp_path: Path) -> None:
    outputs = in_folder(tmp_path, "RemoveBackground", in_file=head["image"])
    assert not outputs.noisy
    assert outputs.out_file == head["image"]


@pytest.mark.parametrize("with_inversions", [False, True])
def test_a_uniform_image_gets_a_dark_background(
    head: dict[str, str], tmp_path: Path, with_inversions: bool
) -> None:
    clean, affine = load_image(head["image"])
    rng = np.random.default_rng(0)
    pair = [
        clean * scale + rng.normal(0, 8, clean.shape) + 1j * rng.normal(0, 8, clean.shape)
        for scale in (0.4, 1.0)
    ]
    power = sum(np.abs(part) ** 2 for part in pair)
    ratio = np.real(np.conj(pair[0]) * pair[1]) / power
    inputs = {"in_file": save_image(tmp_path / "unit1.nii.gz", 4095 * (ratio + 0.5), affine)}
    if with_inversions:
        inputs["inversion_files"] = [
            save_image(tmp_path / f"inv{n}.nii.gz", np.abs(part), affine)
            for n, part in enumerate(pair)
        ]
    outputs = in_folder(tmp_path, "RemoveBackground", **inputs)
    cleaned = load_image(outputs.out_file)[0]
    brain = load_image(head["mask"])[0] > 0.5
    assert outputs.noisy
    assert np.mean(cleaned[:6, :6, -6:]) < 0.1 * np.median(cleaned[brain])


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_the_brain_of_a_real_head_is_found_in_any_pose(number: int, tmp_path: Path) -> None:
    head, brain = (CH2 / f"{name}.nii.gz" for name in ("ch2", "ch2bet"))
    if not brain.exists():
        pytest.skip(f"{CH2} holds no ch2bet.nii.gz: Debian's mricron-data is not installed")
    rng = np.random.default_rng(number)
    values, affine = load_image(head)
    turn = Rotation.from_rotvec(rng.uniform(-11, 11, 3), degrees=True).as_matrix()
    pose = np.eye(4)
    pose[:3, :3] = turn  # through the header: at 1 mm nothing is interpolated
    pose[:3, 3] = rng.uniform(-30, 30, 3)
    ramp = np.linspace(0.7, 1.4, values.shape[1])[:, None]
    path = save_image(tmp_path / "ch2.nii.gz", values * ramp, pose @ affine)
    levelled = in_folder(tmp_path / "level", "BiasCorrect", in_file=path, sloppy=True).out_file
    outputs = in_folder(tmp_path / "brain", "BrainExtract", in_file=levelled)
    found, true = load_image(outputs.mask_file)[0] > 0.5, load_image(brain)[0] > 0
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.92
    assert found.sum() / true.sum() == pytest.approx(1, abs=0.1)


def test_the_head_holds_the_brain_and_the_scalp(
    levelled: str, head: dict[str, str], tmp_path: Path
) -> None:
    outputs = in_folder(tmp_path, "HeadMask", in_file=levelled, mask_file=head["mask"])
    mask, brain = (load_image(path)[0] > 0.5 for path in (outputs.head_mask_file, head["mask"]))
    assert mask[brain].all()
    assert 1.5 < mask.sum() / brain.sum() < 3


@pytest.mark.slow
def test_both_transforms_undo_each_other(head: dict[str, str], normalized: object) -> None:
    image = ants.image_read(head["image"])
    brain = image * ants.image_read(head["mask"])
    template = ants.image_read(normalized.warped_file)
    there = ants.apply_transforms(template, brain, normalized.to_template_xfm)
    back = ants.apply_transforms(image, there, normalized.from_template_xfm)
    inner = ants.image_read(head["mask"]).numpy() > 0.5
    assert np.corrcoef(back.numpy()[inner], brain.numpy()[inner])[0, 1] > 0.95


@pytest.mark.slow
def test_fractions_sum_to_one_inside_the_brain(
    head: dict[str, str], normalized: object, tmp_path: Path
) -> None:
    files = {"in_file": head["image"], "mask_file": head["mask"], "lesion_file": head["lesion"]}
    outputs = in_folder(
        tmp_path, "TissueFractions", **files, from_template_xfm=normalized.from_template_xfm
    )
    total = sum(load_image(getattr(outputs, f"{name}_file"))[0] for name in ("gm", "wm", "csf"))
    brain = load_image(head["mask"])[0] > 0.5
    np.testing.assert_allclose(total[brain], 1, atol=1e-5)
    assert not total[~brain].any()
    assert set(np.unique(load_image(outputs.dseg_file)[0])) == {0, 1, 2, 3}


@pytest.mark.slow
def test_normalization_puts_tissue_where_the_template_has_it(
    head: dict[str, str], normalized: object
) -> None:
    priors = anatomy.tissue_priors(ants.image_read(head["image"]), normalized.from_template_xfm)
    image, brain = (load_image(head[name])[0] for name in ("image", "mask"))
    medians = [np.median(image[(brain > 0.5) & (priors[..., k] > 0.8)]) for k in range(3)]
    assert medians[2] < medians[0] < medians[1]


@pytest.mark.parametrize("name", ["BiasCorrect", "BrainExtract"])
@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_an_image_without_numbers_is_refused_by_name(
    tmp_path: Path, name: str, value: float
) -> None:
    path = save_image(tmp_path / "broken.nii.gz", np.full((8, 8, 8), value), np.eye(4))
    with pytest.raises(ValueError, match=r"broken\.nii\.gz"):
        in_folder(tmp_path, name, in_file=path)


@pytest.mark.parametrize("name", ["BrainExtract", "HeadMask", "Normalize"])
def test_an_empty_mask_is_refused_by_name(head: dict[str, str], tmp_path: Path, name: str) -> None:
    mask, affine = load_image(head["mask"])
    path = save_image(tmp_path / "empty.nii.gz", np.zeros_like(mask, bool), affine)
    with pytest.raises(ValueError, match=r"empty\.nii\.gz"):
        in_folder(tmp_path, name, in_file=head["image"], mask_file=path)


def test_every_port_has_a_description() -> None:
    names = ("RemoveBackground", "BiasCorrect", "BrainExtract", "HeadMask", "Normalize",
             "TissueFractions")  # fmt: skip
    for spec in (
        getattr(anatomy, f"{name}{side}Spec") for name in names for side in ("Input", "Output")
    ):
        assert all(trait.desc for trait in spec().traits(transient=None).values())
