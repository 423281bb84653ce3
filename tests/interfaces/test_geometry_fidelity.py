"""Landmarks, in closed form, in an oblique and off-centre field of view: they land where they lie.

The way is the user's: a raw file, the reconstruction, a NIfTI file, its affine.
"""

from dataclasses import asdict

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sodiumprep.interfaces.image import load_image
from sodiumprep.interfaces.kspace import write_kspace
from sodiumprep.interfaces.reconstruct import ReconstructKspace
from sodiumprep.sodium.acquisition import LPS_TO_RAS, Acquisition, Geometry
from sodiumprep.sodium.ellipsoids import Ellipsoid, ellipsoid_kspace
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.sodium.trajectory import density_adapted_radial

TISSUES = {"GM": asdict(relaxation_of("GM", 3.0))}
TURN = Rotation.from_euler("xyz", [17, -23, 38], degrees=True).as_matrix()
CENTRE = np.array([14.3, -27.9, 41.7])  # mm, LPS
FOV, MATRIX = (0.240, 0.224, 0.216), (32, 28, 30)  # unequal: axes that are mixed up would show
TOP = 32 / 0.240 / 2  # 1/m
LANDMARKS = {  # place [mm, LPS, from the centre of the field of view], density
    "left ear": ((58.0, 4.0, -9.0), 1.0),
    "right ear": ((-55.0, -2.0, 6.0), 0.6),
    "nose": ((6.0, -61.0, -13.0), 0.8),
    "crown": ((-9.0, 8.0, 57.0), 0.7),
}
RADIUS = 13e-3  # m


def geometry(handedness):
    return Geometry(CENTRE, TURN * np.array([[1.0], [1.0], [handedness]]), FOV, MATRIX)


def acquisition(place):
    """Return the landmarks' samples: balls whose places are told in the scanner alone."""
    trajectory = density_adapted_radial(1500, 64, TOP, k0_fraction=0.5)
    balls = [
        Ellipsoid(place.directions @ np.array(where) * 1e-3, np.full(3, RADIUS), value=density)
        for where, density in LANDMARKS.values()
    ]
    samples = ellipsoid_kspace(balls, trajectory)[None].astype(np.complex64)
    return Acquisition(samples, trajectory, 1e-5, 3e-4, 0.12, np.pi / 2, 3.0, place)


def to_normalized_units(path):
    """Rewrite a file's trajectory in cycles per voxel, as other converters do."""
    voxel = np.array(FOV) / MATRIX
    with h5py.File(path, "r+") as file:
        table = file["dataset"]["data"][:]
        for readout in table:
            scaled = readout["traj"].reshape(-1, 3) * voxel
            readout["traj"] = scaled.astype(np.float32).ravel()
        file["dataset"]["data"][:] = table
        xml = file["dataset"]["xml"][0].decode()
        assert "<value>1/m</value>" in xml
        file["dataset"]["xml"][0] = xml.replace("1/m</value>", "normalized</value>").encode()


def find(image, affine, expected):
    """Return the centre of mass [mm, RAS] of what is bright near a place."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape], indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    near = np.linalg.norm(places - expected, axis=-1) < 30
    peak = places[near][np.argmax(image[near])]
    window = np.linalg.norm(places - peak, axis=-1) < 26
    bright = np.clip(image[window] - 0.2 * image[near].max(), 0, None)
    return np.average(places[window], axis=0, weights=bright), image[near].max()


@pytest.mark.parametrize("units", ["1/m", "normalized"])
@pytest.mark.parametrize("handedness", [1, -1])
def test_landmarks_land_within_a_tenth_of_a_voxel(run_in, tmp_path, units, handedness):
    path = tmp_path / "raw.h5"
    write_kspace(path, acquisition(geometry(handedness)))
    if units == "normalized":
        to_normalized_units(path)
    done = run_in(ReconstructKspace(kspace_file=str(path), tissues=TISSUES), tmp_path / "run")
    image, affine = load_image(done.image_file)
    shifts, peaks = {}, {}
    for name, (where, density) in LANDMARKS.items():
        expected = LPS_TO_RAS @ (CENTRE + np.array(where))
        found, peak = find(image, affine, expected)
        shifts[name] = np.linalg.inv(affine[:3, :3]) @ (found - expected)
        peaks[name] = peak / density
    assert max(np.abs(shift).max() for shift in shifts.values()) < 0.1, shifts
    assert max(peaks.values()) < 1.2 * min(peaks.values())  # each is the one it is taken for


def test_left_is_left_in_world_coordinates(run_in, tmp_path):
    path = tmp_path / "raw.h5"
    write_kspace(path, acquisition(geometry(-1)))
    done = run_in(ReconstructKspace(kspace_file=str(path), tissues=TISSUES), tmp_path / "run")
    image, affine = load_image(done.image_file)
    brightest = affine[:3] @ [*np.unravel_index(np.argmax(image), image.shape), 1]
    centre = LPS_TO_RAS @ CENTRE
    assert brightest[0] - centre[0] == pytest.approx(-58, abs=8)  # the left ear: x of RAS falls
    assert np.linalg.det(affine[:3, :3]) < 0
