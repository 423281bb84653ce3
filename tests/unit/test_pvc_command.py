"""``sodiumprep-pvc`` corrects files, and leaves nothing behind when it refuses."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sodiumprep.bids_app.pvc import main

SHAPE = (44, 48, 44)
NAMES = ("GM", "WM", "CSF")
TRUTH = np.array([42.0, 36.0, 140.0, 6.0])
FWHM = 6.0  # mm; voxels of 1 mm
SIGMA = FWHM / np.sqrt(8 * np.log(2))


def radius(shape=SHAPE, spacing=1.0):
    centre = [(n - 1) / 2 * spacing for n in shape]
    axes = [np.arange(n) * spacing - c for n, c in zip(shape, centre, strict=True)]
    return np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))


def labels():
    """Return cortex as a shell of 3 mm, white matter, and fluid inside."""
    r = radius()
    return np.select([r < 7, r < 13, r < 16], [3, 2, 1], 0).astype(np.uint8)


def fractions():
    return np.stack([(labels() == n).astype(np.float32) for n in (1, 2, 3)], axis=-1)


def blurred_image(parts=None):
    """Return the image at full resolution, blurred by another program."""
    inside = np.moveaxis(fractions() if parts is None else parts, -1, 0)
    parts = [*inside, 1 - inside.sum(axis=0)]
    return sum(
        value * gaussian_filter(part.astype(float), SIGMA, mode="nearest", truncate=6)
        for value, part in zip(TRUTH, parts, strict=True)
    ).astype(np.float32)


def save(path, values, affine=None):
    affine = np.eye(4) if affine is None else affine
    nib.save(nib.Nifti1Image(np.asarray(values), affine), path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Write image and fractions; return a function that runs the command on them."""
    given = {
        "image": save(tmp_path / "image.nii.gz", blurred_image()),
        "fractions": save(tmp_path / "fractions.nii.gz", fractions()),
    }

    def command(*words, **changed):
        paths = {**given, **changed}
        more = [] if "--psf" in words else ["--psf", "6"]
        out = str(tmp_path / "out" / "run")
        return main([paths["image"], paths["fractions"], out, *more, *words])

    (tmp_path / "out").mkdir()
    command.folder = tmp_path
    return command


def table(files):
    text = (files.folder / "out" / "run_regions.tsv").read_text().splitlines()
    return list(csv.DictReader(text, delimiter="\t"))


def means(files, method):
    return np.array([float(r["mean"]) for r in table(files) if r["pvc"] == method])


def told(files):
    return json.loads((files.folder / "out" / "run_regions.json").read_text())


@pytest.mark.parametrize("method", ["gtm", "labbe", "rbv", "iy"])
def test_an_exact_phantom_is_recovered(files, method):
    assert files("--method", method) == 0
    tolerance = 1e-3 if method == "iy" else 1e-4
    np.testing.assert_allclose(means(files, method), TRUTH[:3], rtol=tolerance)
    assert abs(means(files, "none")[0] / TRUTH[0] - 1) > 0.1


def test_the_table_begins_with_the_columns_that_others_rely_on(files):
    assert files("--method", "gtm", "labbe") == 0
    rows = table(files)
    assert list(rows[0])[:5] == ["index", "name", "pvc", "mean", "uncertainty"]
    assert [(r["index"], r["pvc"]) for r in rows] == [
        (str(i), m) for m in ("none", "gtm", "labbe") for i in (1, 2, 3)
    ]


def test_a_label_image_gives_what_fractions_give(files):
    assert files() == 0
    soft = means(files, "gtm")
    assert files(fractions=save(files.folder / "labels.nii.gz", labels())) == 0
    np.testing.assert_allclose(means(files, "gtm"), soft, rtol=1e-6)


def test_every_method_writes_what_it_promises(files):
    wanted = ["rbv", "iy", "mtc", "mg", "regression", "rl", "vc"]
    (files.folder / "names.tsv").write_text(
        "index\tname\n" + "".join(f"{i}\t{n}\n" for i, n in enumerate(NAMES, 1))
    )
    names = str(files.folder / "names.tsv")
    words = ("--names", names, "--residual-map", "--draws", "0")
    assert files("--method", *wanted, *words) == 0
    written = {p.name for p in (files.folder / "out").iterdir()}
    maps = {f"run_pvc-{m}.nii.gz" for m in wanted} | {"run_residual.nii.gz"}
    assert written == maps | {"run_regions.tsv", "run_regions.json"}
    assert [r["name"] for r in table(files)[:3]] == list(NAMES)
    best = nib.load(files.folder / "out" / "run_pvc-rbv.nii.gz").get_fdata()
    np.testing.assert_allclose(best[labels() == 1], TRUTH[0], rtol=5e-3)
    for method in ("mtc", "regression"):
        np.testing.assert_allclose(means(files, method), TRUTH[:3], rtol=0.01)
    uncorrected = abs(means(files, "none")[2] - TRUTH[2])
    for method in ("rl", "vc"):
        assert abs(means(files, method)[2] - TRUTH[2]) < uncorrected


def test_fractions_on_another_grid_leave_the_image_as_it_is(files):
    fine, cut = (88, 96, 88), 4
    r = radius(fine)
    inside = np.stack([(r >= a) & (r < b) for a, b in ((26, 32), (14, 26), (0, 14))], -1)
    parts = [*np.moveaxis(inside, -1, 0), ~inside.any(-1)]
    sharp = sum(v * p.astype(float) for v, p in zip(TRUTH, parts, strict=True))
    seen = gaussian_filter(sharp, 12 / np.sqrt(8 * np.log(2)), mode="nearest", truncate=6)
    blocks = seen.reshape(22, cut, 24, cut, 22, cut)[:, 1:3, :, 1:3, :, 1:3]
    coarse = np.diag([4.0, 4, 4, 1])
    coarse[:3, 3] = 1.5
    image = save(files.folder / "coarse.nii.gz", blocks.mean(axis=(1, 3, 5)), coarse)
    parts = save(files.folder / "fine.nii.gz", inside.astype(np.float32))
    assert files("--psf", "12", "--method", "gtm", image=image, fractions=parts) == 0
    np.testing.assert_allclose(means(files, "gtm"), TRUTH[:3], rtol=0.02)
    assert np.abs(means(files, "none") / TRUTH[:3] - 1).max() > 0.2


def test_fractions_turned_in_memory_are_the_same_regions(files):
    turned = np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = SHAPE[0] - 1
    parts = save(files.folder / "turned.nii.gz", fractions()[::-1], turned)
    assert files(fractions=parts) == 0
    np.testing.assert_allclose(means(files, "gtm"), TRUTH[:3], rtol=1e-4)


def test_a_kernel_file_gives_what_its_width_gives(files):
    line = np.exp(-0.5 * (np.arange(-15, 16) / SIGMA) ** 2)
    kernel = save(files.folder / "psf.nii.gz", np.einsum("i,j,k->ijk", line, line, line))
    assert files("--psf", kernel) == 0
    np.testing.assert_allclose(means(files, "gtm"), TRUTH[:3], rtol=1e-4)


def test_a_kernel_for_each_region_is_used(files):
    grid = np.arange(-15, 16)
    lines = [np.exp(-0.5 * (grid / (s * SIGMA)) ** 2) for s in (1, 1.1, 0.9, 1)]
    kernels = np.stack([np.einsum("i,j,k->ijk", x, x, x) for x in lines], axis=-1)
    assert files("--psf", save(files.folder / "psf.nii.gz", kernels)) == 0
    assert np.abs(means(files, "gtm") / TRUTH[:3] - 1).max() > 0.01


def test_a_small_excess_is_scaled_down_and_reported(files, capsys):
    parts = fractions()
    parts[22, 24, 29] = (0.0, 0.54, 0.5)
    assert files(fractions=save(files.folder / "more.nii.gz", parts)) == 0
    assert told(files)["Normalization"] == {
        "LargestSum": pytest.approx(1.04),
        "ScaledVoxels": 1,
        "ClippedValues": 0,
    }
    assert "scaled down to 1 in 1 voxels" in capsys.readouterr().err


def test_fractions_without_background_are_said_to_have_none(files):
    whole = np.concatenate([fractions(), 1 - fractions().sum(-1, keepdims=True)], axis=-1)
    assert files(fractions=save(files.folder / "whole.nii.gz", whole)) == 0
    np.testing.assert_allclose(means(files, "gtm"), TRUTH, rtol=1e-4)
    assert any("no background region" in w for w in told(files)["Warnings"])


def noisy(files, sd=3.0):
    noise = np.random.default_rng(0).normal(size=SHAPE)
    noise = gaussian_filter(noise, 1.5, mode="wrap")
    return save(files.folder / "noisy.nii.gz", blurred_image() + sd * noise / noise.std())


def test_the_uncertainty_follows_the_noise(files):
    image = noisy(files)
    assert files("--noise-sd", "3", image=image) == 0
    once = [float(r["uncertainty"]) for r in table(files)]
    assert files("--noise-sd", "6", image=image) == 0
    twice = [float(r["uncertainty"]) for r in table(files)]
    np.testing.assert_allclose(twice, 2 * np.array(once), rtol=1e-4)
    assert files(image=image) == 0
    estimated = [float(r["uncertainty"]) for r in table(files)]
    np.testing.assert_allclose(estimated, once, rtol=0.1)
    assert told(files)["Noise"]["SD"] == pytest.approx(3.0, rel=0.1)


def test_the_residual_shows_what_the_regions_do_not_explain(files):
    assert files() == 0
    clean = [float(r["residual_sd"]) for r in table(files) if r["pvc"] == "gtm"]
    lesion = fractions()
    lesion[30:34, 22:26, 20:24] *= 0
    image = save(files.folder / "lesion.nii.gz", blurred_image(lesion))
    assert files(image=image) == 0
    shown = [float(r["residual_sd"]) for r in table(files) if r["pvc"] == "gtm"]
    assert shown[1] > 10 * clean[1]


def test_sensitivity_columns_tell_what_errors_do(files):
    assert files("--sensitivity", image=noisy(files, 0.1)) == 0
    rows = {r["pvc"]: r for r in table(files) if r["index"] == "3"}
    assert rows["none"]["change_psf_10percent"] == "n/a"
    assert 1 < float(rows["gtm"]["change_psf_10percent"]) < 30
    assert 0.1 < float(rows["gtm"]["change_position_1mm"]) < 30
    assert 1 < float(rows["gtm"]["change_segmentation_0.5mm"]) < 40


def entangled(files):
    """Return regions of which two lie in the same voxels, almost in the same shares."""
    parts = fractions()
    share = np.random.default_rng(1).uniform(0.45, 0.55, SHAPE).astype(np.float32)
    inside = parts[..., 1]
    split = np.stack([parts[..., 0], inside * share, inside * (1 - share), parts[..., 2]], -1)
    return save(files.folder / "entangled.nii.gz", split)


def test_entangled_regions_are_flagged_and_merged_on_request(files):
    given = {"image": noisy(files), "fractions": entangled(files)}
    assert files(**given) == 0
    flags = [r["flag"] for r in table(files) if r["pvc"] == "gtm"]
    assert flags == ["n/a", "entangled with 3", "entangled with 2", "n/a"]
    assert files("--merge-entangled", **given) == 0
    rows = [r for r in table(files) if r["pvc"] == "gtm"]
    assert [(r["index"], r["name"]) for r in rows] == [("1", "1"), ("2", "2+3"), ("4", "4")]
    assert float(rows[1]["mean"]) == pytest.approx(TRUTH[1], rel=0.05)


def test_labbe_can_feed_a_map(files):
    image = noisy(files)
    assert files("--method", "rbv", image=image) == 0
    by_gtm = means(files, "rbv")
    assert files("--method", "rbv", "--values-from", "labbe", image=image) == 0
    assert told(files)["Methods"]["rbv"]["ValuesFrom"] == "labbe"
    assert np.abs(means(files, "rbv") - by_gtm).max() > 1e-4


def with_negative(parts):
    parts[20, 20, 20, 0] = -0.2
    return parts


def with_above(parts):
    parts[20, 20, 20, 0] = 1.2
    return parts


def with_sum(parts):
    parts[20, 20, 20] = 0.6
    return parts


def with_empty(parts):
    return np.concatenate([parts, np.zeros((*SHAPE, 1), np.float32)], axis=-1)


def with_nan(parts):
    parts[1, 2, 3, 0] = np.nan
    return parts


def with_equal(parts):
    return np.concatenate([parts[..., :1] / 2, parts[..., :1] / 2, parts[..., 1:]], axis=-1)


def one_mask(parts):
    return (parts[..., 0] > 0).astype(np.uint8)


def soft_mask(parts):
    return gaussian_filter(parts[..., 0], 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_negative, "goes from -0.2 to 1; accepted: 0 to 1"),
        (with_above, "goes from 0 to 1.2; accepted: 0 to 1"),
        (with_sum, "fractions sum to 1.800 in 1 voxels"),
        (with_empty, "region '4' holds 0.00 voxels"),
        (with_nan, "1 values of the fraction of region '1' are not finite"),
        (with_equal, "cannot be told apart"),
        (one_mask, "holds 1 label, so a mask; accepted: a 4D image"),
        (soft_mask, "not whole numbers, so a soft mask; accepted: a 4D image"),
    ],
)
def test_regions_without_meaning_are_refused(files, capsys, spoil, message):
    spoiled = save(files.folder / "spoiled.nii.gz", spoil(fractions()))
    refused(files, capsys, message, fractions=spoiled)


def refused(files, capsys, message, *words, **changed):
    assert files(*words, **changed) == 2
    error = capsys.readouterr().err
    assert error.startswith("sodiumprep-pvc: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list((files.folder / "out").iterdir()) == []


def test_regions_beside_the_image_are_refused(files, capsys):
    away = np.eye(4)
    away[:3, 3] = 300.0
    far = save(files.folder / "far.nii.gz", fractions(), away)
    refused(files, capsys, "does not overlap with the image", fractions=far)


def test_a_kernel_wider_than_the_field_of_view_is_refused(files, capsys):
    refused(files, capsys, "the kernel is 60.0 mm wide", "--psf", "60")


def test_an_image_with_nan_is_refused(files, capsys):
    image = blurred_image()
    image[3, 4, 5] = np.nan
    spoiled = save(files.folder / "nan.nii.gz", image)
    refused(files, capsys, "1 voxels hold NaN or infinity", image=spoiled)


@pytest.mark.parametrize("which", ["image", "fractions"])
def test_a_missing_file_is_named(files, capsys, which):
    refused(files, capsys, "none.nii.gz: does not exist", **{which: "none.nii.gz"})


@pytest.mark.parametrize("which", ["image", "fractions"])
def test_a_truncated_file_is_named(files, capsys, which):
    whole = files.folder / f"{which}.nii.gz"
    cut = files.folder / "cut.nii.gz"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused(files, capsys, "cut.nii.gz: cannot be read", **{which: str(cut)})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--psf", "6", "5"), "2 numbers; accepted: one or three"),
        (("--psf", "-6"), "FWHM [-6.0, -6.0, -6.0] mm"),
        (("--psf", "nothing.nii"), "neither numbers nor a file"),
        (("--noise-sd", "0"), "accepted: above 0 everywhere"),
        (("--draws", "3"), "--draws 3; accepted: 4 or more, or 0 for none"),
        (("--names", "nothing.tsv"), "nothing.tsv: does not exist"),
        (("--method", "mg"), "Müller-Gärtner needs a region 'GM'"),
    ],
)
def test_options_without_meaning_are_refused(files, capsys, words, message):
    refused(files, capsys, message, *words)


def test_an_unknown_method_is_refused_in_one_line(files, capsys):
    with pytest.raises(SystemExit) as stopped:
        files("--method", "magic")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def small_head():
    """Return fractions, and the image in a box in which many draws take little time."""
    r = radius((26, 26, 26))
    inside = np.stack([(r >= a) & (r < b) for a, b in ((7, 10), (4, 7), (0, 4))], -1)
    parts = inside.astype(np.float32)
    return parts, blurred_image(parts)


@pytest.mark.parametrize(
    ("method", "draws", "images"), [("vc", 0, 10), ("regression", 60, 24), ("rl", 24, 10)]
)
def test_the_uncertainty_of_a_map_that_has_no_derivative_is_that_of_draws(
    files, method, draws, images
):
    parts, clean = small_head()
    given = {"fractions": save(files.folder / "small.nii.gz", parts)}
    words = ["--method", method, "--noise-sd", "2", "--negative-as-zero"]
    rng, seen = np.random.default_rng(1), []
    for _ in range(images):
        noise = gaussian_filter(rng.normal(size=clean.shape), 1.5, mode="wrap")
        image = save(files.folder / "drawn.nii.gz", clean + 2 * noise / noise.std())
        assert files(*words, "--draws", "0", image=image, **given) == 0
        seen.append(means(files, method))
    assert files(*words, "--draws", str(draws), image=image, **given) == 0
    stated = [float(r["uncertainty"]) for r in table(files) if r["pvc"] == method]
    ratio = np.array(stated) / np.std(seen, axis=0, ddof=1)
    assert 0.65 < ratio.mean() < 1.3  # the correlation is read from a residual
    assert 0.5 < ratio.min() < ratio.max() < 1.8


def test_draws_are_told_and_may_be_left_out(files):
    image = noisy(files, 1.0)
    assert files("--method", "regression", "--draws", "4", image=image) == 0
    assert told(files)["Methods"]["regression"]["Uncertainty"] == "4 draws of the noise"
    assert np.isfinite([float(r["uncertainty"]) for r in table(files)[3:]]).all()
    assert files("--method", "regression", "--draws", "0", image=image) == 0
    assert told(files)["Methods"]["regression"]["Uncertainty"] is None
    assert [r["uncertainty"] for r in table(files)[3:]] == ["n/a"] * 3
