"""Vials in files: found, told apart, labelled; else CSF calibrates, and why is said."""

import numpy as np
import pytest
from scipy import ndimage

from sodiumprep.interfaces.image import load_image, save_image
from sodiumprep.interfaces.regions import SampleRegions
from sodiumprep.interfaces.vials import FindVials, refuse_poor_line
from sodiumprep.sodium.vials import FoundVial

FINE, FWHM = 4, 7.0  # fine voxels along the edge of one; mm
RADIUS, LENGTH = 7.0, 36.0  # mm
SIGNALS = {"1 low": 40.0, "2 high": 120.0}
CORNERS = {"1 low": (-35.0, -35.0, 0.0), "2 high": (35.0, 35.0, 0.0)}  # mm along the grid's axes
PORTS = ("gm_file", "wm_file", "csf_file", "brain_mask", "head_mask", "xfm_file", "response_file")


def scanner(geometry, corner):
    """Return the scanner position of a place along the axes of the grid [mm, RAS]."""
    directions = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    middle = geometry.affine @ [*(np.array(geometry.matrix) // 2), 1.0]
    return middle[:3] + directions @ corner


@pytest.fixture(scope="module")
def scan(sodium_geometry, tmp_path_factory):
    """Write the image of a ball of tissue and two vials along the third axis of the grid."""
    voxel = sodium_geometry.affine[:3, :3]
    edge = float(np.linalg.norm(voxel[:, 0]))
    axes = [edge * ((np.arange(n * FINE) - (FINE - 1) / 2) / FINE - n // 2)
            for n in sodium_geometry.matrix]  # fmt: skip
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    content = 35.0 * (np.linalg.norm(places - [0, 0, 0], axis=-1) < 38)
    for name, corner in CORNERS.items():
        away = places - corner
        inside = (np.hypot(*away[..., :2].T).T < RADIUS) & (np.abs(away[..., 2]) < LENGTH / 2)
        content[inside] = SIGNALS[name]
    soft = ndimage.gaussian_filter(content, FWHM / 2.355 / edge * FINE)
    image = soft.reshape(*(m for n in sodium_geometry.matrix for m in (n, FINE)))
    image = image.mean(axis=(1, 3, 5)) + np.random.default_rng(3).normal(0, 1, image.shape[::2])
    folder = tmp_path_factory.mktemp("scan")
    noise = np.ones(image.shape)
    return {
        "static_file": save_image(folder / "image.nii.gz", image, sodium_geometry.affine),
        "static_noise_file": save_image(folder / "noise.nii.gz", noise, sodium_geometry.affine),
    }


@pytest.fixture
def find(scan, head, protocol, run_in, tmp_path):
    """Return a function that runs the search."""

    def found(vials, properties=head["properties"], **options):
        known = {
            "static_response_file": head["response_file"], "protocol": protocol,
            **{k: head[k] for k in ("head_mask", "xfm_file", "tissues")},
        }  # fmt: skip
        interface = FindVials(vials=vials, properties=properties, **scan, **known, **options)
        return run_in(interface, tmp_path / "find")

    return found


@pytest.fixture
def placed(vials, sodium_geometry):
    """Return the listed vials with their positions."""
    return [
        {**vial, "position": tuple(scanner(sodium_geometry, CORNERS[vial["name"]]))}
        for vial in vials
    ]


def warnings_of(outputs):
    return " ".join(outputs.properties["Warnings"])


def test_vials_at_their_positions_are_labelled_and_calibrate(find, placed):
    outputs = find(placed)
    assert outputs.reference == "vials"
    assert outputs.names == ["1 low", "2 high"]
    labels, affine = load_image(outputs.label_file)
    for n, vial in enumerate(placed, 1):
        index = np.argwhere(labels == n)
        assert len(index) * abs(np.linalg.det(affine[:3, :3])) / 1e3 == pytest.approx(5.5, rel=0.1)
        centre = (affine @ [*index.mean(axis=0), 1])[:3]
        np.testing.assert_allclose(centre, vial["position"], atol=1.0)
    assert outputs.properties["VialsIdentifiedBy"] == "Position"
    assert [v["Name"] for v in outputs.properties["VialsFound"]] == ["2 high", "1 low"]
    assert warnings_of(outputs) == ""


def test_positions_the_other_way_round_are_followed_and_then_cannot_calibrate(find, placed):
    swapped = [{**vial, "position": other["position"]}
               for vial, other in zip(placed, placed[::-1], strict=True)]  # fmt: skip
    outputs = find(swapped)
    assert outputs.reference == "csf"
    assert "slope" in warnings_of(outputs)


def test_labels_that_were_found_become_regions(find, placed, scan, head, run_in, tmp_path):
    outputs = find(placed)
    inputs = {k: head[k] for k in PORTS}
    sample = SampleRegions(
        sodium_file=scan["static_file"], vial_labels=outputs.label_file,
        vial_names=outputs.names, **inputs,
    )  # fmt: skip
    with np.load(run_in(sample, tmp_path / "regions").regions_file) as stored:
        assert stored["names"][stored["kinds"] == "vial"].tolist() == ["1 low", "2 high"]
        np.testing.assert_allclose(stored["fractions"].sum(axis=0), 1.0, atol=1e-4)
        voxel_ml = stored["fractions"][3].sum() * 0.064
    assert voxel_ml == pytest.approx(np.pi * RADIUS**2 * LENGTH / 1e3, rel=0.1)


def test_no_labels_are_no_vials(find, scan, head, run_in, tmp_path):
    outputs = find([])
    sample = SampleRegions(
        sodium_file=scan["static_file"], vial_labels=outputs.label_file,
        vial_names=outputs.names, **{k: head[k] for k in PORTS},
    )  # fmt: skip
    with np.load(run_in(sample, tmp_path / "regions").regions_file) as stored:
        assert "vial" not in stored["kinds"].tolist()


def test_vials_that_are_not_listed_are_reported_and_not_used(find, sodium_geometry):
    outputs = find([])
    assert outputs.label_file is None
    assert outputs.reference == "csf"
    assert "2 vials found, no concentrations known: not used" in warnings_of(outputs)
    centres = [vial["Centre"] for vial in outputs.properties["VialsFound"]]
    expected = [scanner(sodium_geometry, CORNERS[name]) for name in ("2 high", "1 low")]
    np.testing.assert_allclose(centres, expected, atol=1.0)


def test_brightness_tells_them_apart_with_a_warning(find, vials):
    outputs = find(vials)
    assert outputs.properties["VialsIdentifiedBy"] == "brightness"
    assert [v["Name"] for v in outputs.properties["VialsFound"]] == ["2 high", "1 low"]
    assert "rests on their brightness alone" in warnings_of(outputs)


def test_the_stated_direction_tells_them_apart(find, vials, sodium_geometry):
    low, high = (scanner(sodium_geometry, corner) for corner in CORNERS.values())
    direction = "x" if low[0] < high[0] else "-x"
    outputs = find(vials, direction=direction)
    assert outputs.properties["VialsIdentifiedBy"] == f"order along {direction}"
    assert warnings_of(outputs) == ""


def uncorrected(properties):
    return {**properties, "ReceiveUncorrected": True}


REASONS = {
    "fewer": (lambda v, p: (v * 2, p), "2 found, 4 listed"),
    "far": (lambda v, p: ([{**e, "position": (0, 0, 200)} for e in v], p), "accepted: 10 mm"),
    "one level": (lambda v, p: ([{**v[0], "position": (0, 0, 0)}], p), "accepted: 10 mm"),
    "receive": (lambda v, p: (v, uncorrected(p)), "the receive profile is not corrected"),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_cannot_be_told_apart_gives_way_to_fluid_and_says_why(find, vials, head, case):
    change, why = REASONS[case]
    listed, properties = change(vials, head["properties"])
    outputs = find(listed, properties)
    assert (outputs.reference, outputs.label_file, outputs.names) == ("csf", None, [])
    assert "vials not used: " in warnings_of(outputs)
    assert why in warnings_of(outputs)
    assert "calibrated by CSF at an assumed 145 mmol/L" in warnings_of(outputs)


def test_vials_of_one_level_give_way_to_fluid(find, placed):
    outputs = find([{**vial, "concentration": 50.0} for vial in placed])
    assert outputs.reference == "csf"
    assert "1 distinct vial concentration" in warnings_of(outputs)


def test_the_message_tells_what_is_assumed_of_fluid(find, vials):
    outputs = find(vials * 2, assumed={"csf": (138.0, 4.0), "vitreous": (140.0, 10.0)})
    assert "calibrated by CSF at an assumed 138 mmol/L" in warnings_of(outputs)


def test_a_poor_line_of_found_vials_needs_force():
    found = [FoundVial(np.zeros(3), np.eye(3)[2], 8.0, 50.0, s, 1.0) for s in (20, 90, 30, 120)]
    listed = [{"name": f"{c}", "concentration": c, "concentration_uncertainty": 0.01 * c}
              for c in (20.0, 40.0, 80.0, 120.0)]  # fmt: skip
    with pytest.raises(ValueError, match=r"R squared .*--force"):
        refuse_poor_line(found, listed, [1.0] * 4, 0.064, force=False)
    refuse_poor_line(found, listed, [1.0] * 4, 0.064, force=True)


def test_required_vials_that_are_not_found_are_an_error(find, vials):
    with pytest.raises(ValueError, match="--reference is vials, but vials not used: 2 found, 4 l"):
        find(vials * 2, required=True)
