"""What the interactive view tells is what the files hold, wherever their grids lie."""

import base64
import gzip
import re
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app import figures, viewer
from sodiumprep.bids_app.names import DerivativeNames
from sodiumprep.bids_app.report import environment, write_report
from sodiumprep.bids_app.results import find_sessions
from sodiumprep.bids_app.run import _reports
from sodiumprep.bids_app.settings import Settings
from sodiumprep.bids_app.viewer import MISSING, STEP, load_anatomy, quantized, session_view
from sodiumprep.interfaces.image import save_image

pytestmark = pytest.mark.usefixtures("coarse_pictures")
ANAT, SODIUM = (30, 34, 26), (14, 15, 13)
LESION = np.array([-9.0, 8.0, 5.0])  # mm: left, anterior, superior
TURN = np.linalg.qr(np.array([[2.0, 0.3, -0.4], [0.2, 1.5, 0.5], [0.3, -0.6, 1.0]]))[0]
AXES = {
    "straight": np.eye(3),
    "left-handed": np.diag([-1.0, 1, 1]),
    "oblique": TURN * np.sign(np.linalg.det(TURN)),
    "oblique and left-handed": -TURN * np.sign(np.linalg.det(TURN)),
    "permuted": np.eye(3)[[2, 0, 1]] * np.array([1.0, -1, 1]),
}


@pytest.fixture
def coarse_pictures(monkeypatch):
    """Draw the figures beside the view coarsely: they would only take time."""
    monkeypatch.setattr(figures, "PNG_DPI", 10)


def centred(directions, zooms, shape, centre=(1.5, -2.0, 3.0)):
    affine = np.eye(4)
    affine[:3, :3] = directions * zooms
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def places(shape, affine):
    return np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]


def ball(shape, affine, centre, radius):
    distance = np.linalg.norm(places(shape, affine) - centre, axis=1)
    return (distance < radius).astype(np.float32).reshape(shape)


def itk_text(turn, shift):
    numbers = " ".join(f"{v:.17g}" for v in [*np.asarray(turn).ravel(), *shift])
    return (
        f"Transform: AffineTransform_double_3_3\nParameters: {numbers}\nFixedParameters: 3 4 5\n"
    )


def at(values, to_index, points):
    """Return the voxels at points, nan outside the image."""
    index = np.round(np.asarray(points) @ to_index[:3, :3].T + to_index[:3, 3]).astype(int)
    inside = np.all((index >= 0) & (index < values.shape), axis=1)
    index[~inside] = 0
    return np.where(inside, values[tuple(index.T)], np.nan)


@dataclass
class Case:
    names: DerivativeNames
    turn: np.ndarray
    shift: np.ndarray

    def truth(self, path, points):
        """Return the values of voxels at points of the anatomy, by the definition of ITK."""
        image = nib.load(path)
        centre = np.array([3.0, 4, 5])
        lps = np.array(points) * [-1, -1, 1] - centre
        moved = (lps @ self.turn.T + centre + self.shift) * [-1, -1, 1]
        return at(np.asarray(image.dataobj), np.linalg.inv(image.affine), moved)


def write_case(folder, anat_axes="straight", sodium_axes="straight"):
    """Write an asymmetrical head of 1.5 mm voxels, and a sodium image of another pose."""
    names = DerivativeNames(Path(folder), "01")
    names.folder.mkdir(parents=True)
    affine = centred(AXES[anat_axes], [1.5, 1.4, 1.6], ANAT)
    brain = ball(ANAT, affine, [0, 0, 0], 15)
    lesion = ball(ANAT, affine, LESION, 5)
    images = {
        names.anat_preproc(): 100 * brain + 300 * lesion - 90 * ball(ANAT, affine, [0, 0, -8], 4),
        names.brain_mask(): brain,
        names.probseg("GM"): brain * (1 - lesion),
        names.probseg("WM"): 0 * brain,
        names.probseg("CSF"): 0 * brain,
        names.lesion_mask("core"): lesion,
    }
    for path, values in images.items():
        save_image(path, values, affine)
    angle = 0.1
    turn = np.array(
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    case = Case(names, turn, np.array([2.0, -1.0, 3.0]))
    names.sodium_transform().write_text(itk_text(case.turn, case.shift))
    write_maps(names, centred(AXES[sodium_axes], [4.1, 3.9, 4.0], SODIUM))
    return case


def write_maps(names, affine):
    rng = np.random.default_rng(3)
    for seed, path in enumerate(
        (
            names.tsc_map("corrected"),
            names.tsc_map("apparent"),
            names.tsc_map("corrected", stat="uncertainty"),
            names.tsc_map("corrected", pvc="rbv"),
            names.tsc_map("residual", pvc="gtm"),
            names.tsc_map("corrected", pvc="rbv", space="T1w"),
        )
    ):
        values = rng.normal(50 + 10 * seed, 40, SODIUM).astype(np.float32)
        values[3, 4, 5] = np.nan
        save_image(path, values, affine)


def view_of(names, room=1e6):
    (session,) = find_sessions(names.out_dir, "01")
    return session_view(session, room)


def maps_of(names, room=1e6):
    (held,) = view_of(names, room)["runs"].values()
    return {held_map["name"]: held_map for held_map in held["maps"]}


def unpacked(text, shape, dtype=np.uint8):
    raw = np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8)
    if dtype != np.uint8:
        raw = raw.reshape(2, -1).T.copy().view("<i2")[:, 0]
    return raw.reshape(shape, order="F")


def shown(packed, points, what="data"):
    """Return what a page makes of a packed image at points."""
    signed = "step" in packed
    values = unpacked(packed[what], packed["shape"], np.int16 if signed else np.uint8)
    found = at(values.astype(float), np.reshape(packed["matrix"], (3, 4)), points)
    return np.where(found == MISSING, np.nan, found * packed["step"]) if signed else found


@pytest.mark.parametrize("sodium_axes", AXES)
@pytest.mark.parametrize("anat_axes", ["straight", "oblique and left-handed"])
def test_the_value_at_a_place_is_that_of_the_file(tmp_path, anat_axes, sodium_axes):
    case = write_case(tmp_path, anat_axes, sodium_axes)
    (run,) = view_of(case.names)["runs"].values()
    points = np.random.default_rng(5).uniform(run["low"], run["high"], (300, 3))
    for name, held in maps_of(case.names).items():
        truth, told = case.truth(case.names.folder / held["file"], points), shown(held, points)
        np.testing.assert_allclose(told, truth, rtol=0, atol=0.51 * STEP, err_msg=name)
        assert 30 < np.isfinite(told).sum() < 300


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("edge", [0.9, 3.0])
def test_picture_and_regions_of_the_anatomy_lie_where_the_files_have_them(
    tmp_path, monkeypatch, axes, edge
):
    monkeypatch.setattr(viewer, "EDGES", (edge,))
    case = write_case(tmp_path, axes)
    anatomy = view_of(case.names)["anatomy"]
    assert anatomy["names"] == ["core", "WM", "CSF", "GM"]
    points = [LESION, LESION * [-1, 1, 1], [0, 0, 18]]
    lesion, mirrored, outside = shown(anatomy, points)
    assert lesion > 2 * mirrored > outside == 0
    assert shown(anatomy, points, "labels").tolist() == [1, 4, 0]
    assert (max(anatomy["edges"]) > 2) == (edge == 3.0)


def test_the_cross_starts_in_the_lesion_and_the_brain_is_in_view(tmp_path):
    case = write_case(tmp_path, "oblique and left-handed")
    (run,) = view_of(case.names)["runs"].values()
    assert np.linalg.norm(np.array(run["start"]) - LESION) < 2
    assert all(
        low <= -15 and high >= 15 for low, high in zip(run["low"], run["high"], strict=True)
    )


def test_what_is_offered_is_what_the_run_has(tmp_path):
    case = write_case(tmp_path)
    names = ["corrected", "apparent", "uncertainty of corrected", "corrected, rbv"]
    assert list(maps_of(case.names)) == names
    case.names.tsc_map("corrected").unlink()
    case.names.tsc_map("corrected", pvc="rbv").unlink()
    assert list(maps_of(case.names)) == ["apparent"]


def test_an_unknown_value_is_not_zero_and_a_large_one_widens_the_step():
    integers, step = quantized(np.array([np.nan, np.inf, 0.0, -0.024, 37.71]))
    assert integers.tolist() == [MISSING, MISSING, 0, 0, 754]
    assert step == STEP
    values = np.random.default_rng(0).normal(0, 2000, 5000)
    integers, step = quantized(values)
    assert step > STEP
    assert np.abs(integers * step - values).max() <= step / 2 + 1e-9
    assert quantized(np.full(3, np.nan))[0].tolist() == [MISSING] * 3


def test_what_does_not_fit_is_named_and_the_anatomy_gets_coarser(tmp_path):
    case = write_case(tmp_path)
    whole = view_of(case.names)
    first = len(maps_of(case.names)["corrected"]["data"])
    tight = view_of(case.names, 2.0 * first)
    (run,) = tight["runs"].values()
    assert [held["name"] for held in run["maps"]] == ["corrected"]
    assert run["left_out"] == ["apparent", "uncertainty of corrected", "corrected, rbv"]
    assert whole["anatomy"]["edges"] == [1.5, 1.4, 1.6]
    used = len(whole["anatomy"]["data"]) + len(whole["anatomy"]["labels"])
    coarse = load_anatomy(find_sessions(tmp_path, "01")[0]).pack(0.5 * used)
    assert max(coarse["edges"]) > 1.6
    assert len(coarse["data"]) + len(coarse["labels"]) <= 0.5 * used
    assert view_of(case.names, 10)["anatomy"] is None


def test_a_subject_without_anatomy_is_shown_in_sodium_space(tmp_path):
    names = DerivativeNames(tmp_path, "01")
    names.folder.mkdir(parents=True)
    affine = centred(AXES["oblique and left-handed"], [4.1, 3.9, 4.0], SODIUM)
    write_maps(names, affine)
    view = view_of(names)
    held = maps_of(names)["corrected"]
    index = np.array([2, 9, 11])
    point = affine[:3, :3] @ index + affine[:3, 3]
    truth = np.asarray(nib.load(names.tsc_map("corrected")).dataobj)[tuple(index)]
    assert view["anatomy"] is None
    assert shown(held, [point])[0] == pytest.approx(truth, abs=0.51 * STEP)
    assert np.prod(held["shape"]) == np.prod(SODIUM)


def test_a_map_of_another_method_lies_where_that_of_the_linear_image_does(tmp_path):
    case = write_case(tmp_path)
    names = replace(case.names, rec="tv")
    save_image(names.tsc_map("apparent"), np.ones(SODIUM, np.float32), np.diag([4.0, 4, 4, 1]))
    runs = view_of(case.names)["runs"]
    assert runs["acq-23Na rec-tv"]["problem"] == ""
    assert [held["name"] for held in runs["acq-23Na rec-tv"]["maps"]] == ["apparent"]


def broken_map(names):
    names.tsc_map("apparent").write_bytes(b"no image")


def no_maps(names):
    for path in names.folder.glob("*_TSCmap.nii.gz"):
        path.unlink()


def another_grid(names):
    save_image(names.probseg("GM"), np.ones((3, 3, 3), np.float32), np.eye(4))


def hollow(names):
    save_image(names.anat_preproc(), np.full(ANAT, np.nan, np.float32), np.eye(4))


def far_away(names):
    save_image(names.tsc_map("corrected"), np.ones(SODIUM, np.float32), np.diag([1, 1, 1, 1.0])
               + np.array([[0, 0, 0, 900.0]] + [[0] * 4] * 3))  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (broken_map, "desc-apparent_TSCmap.nii.gz: cannot be read"),
        (no_maps, "no concentration map of this run is there"),
        (lambda names: names.sodium_transform().unlink(), "_xfm.txt"),
        (another_grid, "label-GM_probseg.nii.gz: shape (3, 3, 3)"),
        (hollow, "voxels hold NaN or infinity"),
        (far_away, "the sodium image lies outside the anatomy"),
    ],
)
def test_what_cannot_be_shown_is_explained(tmp_path, spoil, told):
    case = write_case(tmp_path)
    spoil(case.names)
    (run,) = view_of(case.names)["runs"].values()
    assert told in run["problem"]


def test_a_report_has_the_view_unless_no_viewer_is_asked_for(tmp_path):
    case = write_case(tmp_path)
    pages = []
    for unwanted in (False, True):
        settings = Settings(tmp_path, tmp_path, tmp_path / "work", no_viewer=unwanted)
        assert _reports(settings, ["01"]) == []
        pages.append(case.names.report().read_text())
    assert 'id="view-acq-23Na"' in pages[0]
    assert maps_of(case.names)["corrected"]["data"] in pages[0]
    assert not any(text in pages[1] for text in ("viewer", "view-", "DecompressionStream"))
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', pages[0], re.S):
        assert not set("<>&") & set(data)  # nothing in it can end the element


def test_a_view_that_is_missing_is_told_in_the_report(tmp_path):
    case = write_case(tmp_path)
    no_maps(case.names)
    page = write_report(tmp_path, "01").read_text()
    assert "The interactive view is missing" in page
    assert not any(text in page for text in ("view-anatomy-", "DecompressionStream"))


def test_the_script_is_no_template():
    template = environment().get_template("viewer.js")
    assert template.render() == Path(template.filename).read_text().rstrip("\n")
